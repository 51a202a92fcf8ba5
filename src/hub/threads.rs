//! Who hears a thread and who is typing in it.
//!
//! Membership is two tables of integers that point at each other: a thread lists its hearers, a
//! connection lists its joins, and each entry knows its place in the other list. So joining,
//! leaving and a connection's end cost the same in a thread of two and in one of ten thousand.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use slab::Slab;

use super::deadlines::{DeadlineKey, Deadlines};
use super::interface::ConnId;
use crate::protocol::{Id, IdKey};

/// A thread's place in the tables, valid while someone hears it or types in it.
pub type ThreadIx = u32;

/// A connection that hears a thread.
#[derive(Clone, Copy, Debug)]
pub struct Hearer {
    /// Which connection.
    pub conn: ConnId,
    /// Where this thread stands in the connection's joins.
    join: u32,
}

#[derive(Clone, Copy, Debug)]
struct Join {
    thread: ThreadIx,
    /// Where this connection stands in the thread's hearers.
    hearer: u32,
}

/// Someone who types in a thread, until told otherwise.
#[derive(Debug)]
pub struct Typist {
    /// Who, in the form in which their connection wrote it; `None` for a connection that has not
    /// said who it is.
    pub user: Option<Id>,
    /// The thread, in the form in which they wrote it.
    pub thread: Id,
    /// The connection they typed on last.
    pub conn: ConnId,
    until: Instant,
    deadline: DeadlineKey,
    /// Names it among the deadlines.
    serial: u64,
}

impl Typist {
    /// A user is one typist on all their devices, a nobody is one on each connection.
    fn is(&self, user: Option<&Id>, conn: ConnId) -> bool {
        match (&self.user, user) {
            (Some(this), Some(that)) => this.key == that.key,
            (None, None) => self.conn == conn,
            _ => false,
        }
    }
}

#[derive(Debug)]
struct Thread {
    key: IdKey,
    hearers: Vec<Hearer>,
    typists: Vec<Typist>,
}

/// What one connection has to do with threads.
#[derive(Debug, Default)]
struct Side {
    joins: Vec<Join>,
    /// Where its typists are, oldest first.
    types_in: Vec<ThreadIx>,
}

/// Whether a connection hears a thread now.
#[derive(Debug, PartialEq, Eq)]
pub enum Joined {
    /// From now on.
    New,
    /// It did before.
    Already,
    /// It has joined as many as it may.
    TooMany,
    /// All connections together hear as many as they may.
    TooManyInAll,
}

/// All threads that somebody hears or types in.
#[derive(Debug, Default)]
pub struct Threads {
    index: HashMap<IdKey, ThreadIx>,
    threads: Slab<Thread>,
    sides: Vec<Side>,
    typing_ends: Deadlines<(ThreadIx, u64)>,
    typists: u64,
}

/// A connection types in this many threads at once; beyond it, the oldest has stopped. People
/// type in one.
const TYPES_IN_MAX: usize = 8;

impl Threads {
    /// Makes room for a connection.
    pub fn open(&mut self, conn: ConnId) {
        let slot = conn.slot as usize;
        if self.sides.len() <= slot {
            self.sides.resize_with(slot + 1, Side::default);
        }
        debug_assert!(self.sides[slot].joins.is_empty(), "a slot is given on empty");
    }

    /// Lets a connection hear a thread, if it has joined fewer than `max`, and there are fewer than
    /// `in_all`.
    pub fn join(&mut self, conn: ConnId, key: &IdKey, max: usize, in_all: usize) -> Joined {
        if self.hears(conn, key) {
            return Joined::Already;
        }
        let side = &self.sides[conn.slot as usize];
        if side.joins.len() >= max {
            return Joined::TooMany;
        }
        if self.threads.len() >= in_all && self.find(key).is_none() {
            return Joined::TooManyInAll;
        }
        let join = side.joins.len() as u32;
        let thread = self.thread(key);
        let hearers = &mut self.threads[thread as usize].hearers;
        let hearer = hearers.len() as u32;
        hearers.push(Hearer { conn, join });
        self.sides[conn.slot as usize].joins.push(Join { thread, hearer });
        Joined::New
    }

    /// Ends a connection's hearing of a thread; false if it did not hear it.
    pub fn leave(&mut self, conn: ConnId, key: &IdKey) -> bool {
        let Some(thread) = self.find(key) else {
            return false;
        };
        let joins = &self.sides[conn.slot as usize].joins;
        let Some(at) = joins.iter().position(|join| join.thread == thread) else {
            return false;
        };
        self.unlink(conn, at);
        self.forget_if_empty(thread);
        true
    }

    /// Ends a connection's hearing of one thread, until there are no more.
    pub fn leave_one(&mut self, conn: ConnId) -> Option<IdKey> {
        let join = *self.sides[conn.slot as usize].joins.last()?;
        let key = self.threads[join.thread as usize].key.clone();
        self.leave(conn, &key);
        Some(key)
    }

    /// Takes a connection out of everything. What it was typing is to be ended before.
    pub fn close(&mut self, conn: ConnId) {
        while let Some(join) = self.sides[conn.slot as usize].joins.last() {
            let thread = join.thread;
            self.unlink(conn, self.sides[conn.slot as usize].joins.len() - 1);
            self.forget_if_empty(thread);
        }
        debug_assert!(self.sides[conn.slot as usize].types_in.is_empty());
        self.sides[conn.slot as usize] = Side::default();
    }

    /// The thread's place, if somebody hears it or types in it.
    pub fn find(&self, key: &IdKey) -> Option<ThreadIx> {
        self.index.get(key).copied()
    }

    /// Whether a connection hears a thread.
    pub fn hears(&self, conn: ConnId, key: &IdKey) -> bool {
        let joins = &self.sides[conn.slot as usize].joins;
        match self.find(key) {
            Some(thread) => joins.iter().any(|join| join.thread == thread),
            None => false,
        }
    }

    /// Who hears a thread.
    pub fn hearers(&self, key: &IdKey) -> &[Hearer] {
        match self.find(key) {
            Some(thread) => &self.threads[thread as usize].hearers,
            None => &[],
        }
    }

    /// Notes that someone types, until `now + lasting` unless they go on. Returns who thereby
    /// stopped elsewhere, at the limit of threads that one connection types in.
    pub fn typing_starts(
        &mut self,
        conn: ConnId,
        user: Option<&Id>,
        thread: &Id,
        now: Instant,
        lasting: Duration,
    ) -> Option<Typist> {
        let ix = self.thread(&thread.key);
        let until = now + lasting;
        let typists = &mut self.threads[ix as usize].typists;
        if let Some(typist) = typists.iter_mut().find(|typist| typist.is(user, conn)) {
            // The deadline is looked at when it comes: a repeat costs no change in the table.
            typist.until = until;
            if typist.conn != conn {
                let before = std::mem::replace(&mut typist.conn, conn);
                self.sides[before.slot as usize].types_in.retain(|t| *t != ix);
                self.sides[conn.slot as usize].types_in.push(ix);
            }
        } else {
            self.typists += 1;
            let serial = self.typists;
            let deadline = self.typing_ends.set(until, (ix, serial));
            let (user, thread) = (user.cloned(), thread.clone());
            typists.push(Typist { user, thread, conn, until, deadline, serial });
            self.sides[conn.slot as usize].types_in.push(ix);
        }
        let types_in = &self.sides[conn.slot as usize].types_in;
        if types_in.len() <= TYPES_IN_MAX {
            return None;
        }
        let oldest = types_in[0];
        self.stop(oldest, |typist| typist.conn == conn)
    }

    /// Notes that a user, or the nobody on this connection, has stopped typing in a thread; `None`
    /// if they were not.
    pub fn typing_stops(
        &mut self,
        conn: ConnId,
        user: Option<&Id>,
        thread: &IdKey,
    ) -> Option<Typist> {
        let ix = self.find(thread)?;
        self.stop(ix, |typist| typist.is(user, conn))
    }

    /// Notes that this connection no longer types in a thread; `None` if it was another device of
    /// the same user, or nobody.
    pub fn typing_stops_here(&mut self, conn: ConnId, thread: &IdKey) -> Option<Typist> {
        let ix = self.find(thread)?;
        self.stop(ix, |typist| typist.conn == conn)
    }

    /// Takes one thread in which this connection types, until there are no more.
    pub fn typing_stops_on(&mut self, conn: ConnId) -> Option<Typist> {
        let ix = *self.sides[conn.slot as usize].types_in.last()?;
        self.stop(ix, |typist| typist.conn == conn)
    }

    /// Takes one typist whose time is over at `now`, until there are no more.
    pub fn typing_times_out(&mut self, now: Instant) -> Option<Typist> {
        while let Some((ix, serial)) = self.typing_ends.pop_due(now) {
            let typists = &mut self.threads[ix as usize].typists;
            // A typist is taken out together with its deadline, so it is there.
            let typist = typists.iter_mut().find(|typist| typist.serial == serial)?;
            let until = typist.until;
            typist.deadline = self.typing_ends.set(until, (ix, serial));
            if until <= now {
                return self.stop(ix, |typist| typist.serial == serial);
            }
        }
        None
    }

    /// When the next typist may be over.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.typing_ends.next()
    }

    /// How many threads somebody hears or types in.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    fn thread(&mut self, key: &IdKey) -> ThreadIx {
        if let Some(ix) = self.find(key) {
            return ix;
        }
        let thread = Thread { key: key.clone(), hearers: Vec::new(), typists: Vec::new() };
        let ix = self.threads.insert(thread) as ThreadIx;
        self.index.insert(key.clone(), ix);
        ix
    }

    fn stop(&mut self, ix: ThreadIx, which: impl Fn(&Typist) -> bool) -> Option<Typist> {
        let typists = &mut self.threads[ix as usize].typists;
        let at = typists.iter().position(which)?;
        let typist = typists.swap_remove(at);
        self.typing_ends.cancel(typist.deadline);
        self.sides[typist.conn.slot as usize].types_in.retain(|t| *t != ix);
        self.forget_if_empty(ix);
        Some(typist)
    }

    /// Takes join number `at` of a connection out of both tables, and mends the two entries that
    /// move into the gaps.
    fn unlink(&mut self, conn: ConnId, at: usize) {
        let joins = &mut self.sides[conn.slot as usize].joins;
        let Join { thread, hearer } = joins.swap_remove(at);
        if let Some(moved) = joins.get(at).copied() {
            self.threads[moved.thread as usize].hearers[moved.hearer as usize].join = at as u32;
        }
        let hearers = &mut self.threads[thread as usize].hearers;
        hearers.swap_remove(hearer as usize);
        if let Some(moved) = hearers.get(hearer as usize).copied() {
            let joins = &mut self.sides[moved.conn.slot as usize].joins;
            joins[moved.join as usize].hearer = hearer;
        }
    }

    fn forget_if_empty(&mut self, ix: ThreadIx) {
        let thread = &self.threads[ix as usize];
        if thread.hearers.is_empty() && thread.typists.is_empty() {
            let thread = self.threads.remove(ix as usize);
            self.index.remove(&thread.key);
        }
    }

    /// Asserts that the tables agree with each other.
    pub fn check_invariants(&self) {
        assert_eq!(self.index.len(), self.threads.len());
        let mut typists = 0;
        for (ix, thread) in &self.threads {
            assert_eq!(self.index.get(&thread.key), Some(&(ix as ThreadIx)));
            assert!(!thread.hearers.is_empty() || !thread.typists.is_empty());
            for (at, hearer) in thread.hearers.iter().enumerate() {
                let join = self.sides[hearer.conn.slot as usize].joins[hearer.join as usize];
                assert_eq!((join.thread, join.hearer), (ix as ThreadIx, at as u32));
            }
            for typist in &thread.typists {
                let side = &self.sides[typist.conn.slot as usize];
                assert!(side.types_in.contains(&(ix as ThreadIx)));
            }
            typists += thread.typists.len();
        }
        let hearers: usize = self.threads.iter().map(|(_, t)| t.hearers.len()).sum();
        assert_eq!(hearers, self.sides.iter().map(|side| side.joins.len()).sum::<usize>());
        assert_eq!(typists, self.sides.iter().map(|side| side.types_in.len()).sum::<usize>());
        assert_eq!(typists, self.typing_ends.count());
    }
}

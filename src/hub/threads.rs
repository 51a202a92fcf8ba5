//! Who hears a thread and who is typing in it.
//!
//! Membership is two tables of integers: a thread lists its hearers, and a connection its joins,
//! each of which knows its place among the hearers. So joining, leaving and a connection's end cost
//! the same in a thread of two and in one of ten thousand.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use slab::Slab;
use smallvec::SmallVec;

use super::capacity::{self, Few};
use super::deadlines::{DeadlineKey, Deadlines};
use super::index::Index;
use super::interface::ConnId;
use crate::protocol::server::EncodedFrame;
use crate::protocol::{Id, IdKey};

/// A thread's place in the tables, valid while someone hears it or types in it.
pub type ThreadIx = u32;

/// A connection that hears a thread.
#[derive(Clone, Copy, Debug)]
pub struct Hearer {
    /// Which connection.
    pub conn: ConnId,
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
    /// That they type, encoded: who goes on mostly says the very same.
    frame: Option<EncodedFrame>,
    deadline: DeadlineKey,
    /// Names it, among the deadlines and among those of its connection.
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

/// Who types in one thread; mostly one does.
type Typists = SmallVec<[Typist; 1]>;

#[derive(Debug)]
struct Thread {
    key: IdKey,
    hearers: Few<Hearer>,
    /// There while someone types.
    typists: Option<Box<Typists>>,
}

impl Thread {
    fn typists(&mut self) -> &mut [Typist] {
        self.typists.as_mut().map_or(&mut [], |typists| typists.as_mut_slice())
    }
}

/// What is known of someone who types.
#[derive(Debug)]
pub struct Types {
    /// The thread's.
    pub place: ThreadIx,
    /// What tells of it, if that has been kept.
    pub frame: Option<EncodedFrame>,
    /// Who thereby stopped elsewhere, at the limit of threads that one connection types in.
    pub elsewhere: Option<Typist>,
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
    index: Index,
    threads: Slab<Thread>,
    /// What each connection has joined.
    joins: Vec<Few<Join>>,
    typing_ends: Deadlines<(ThreadIx, u64)>,
    /// In which threads those type who do, by the slot of their connection, oldest first.
    types_in: BTreeMap<(u32, u64), ThreadIx>,
    /// Typists so far.
    typists: u64,
}

/// A connection types in this many threads at once; beyond it, the oldest has stopped. People
/// type in one.
const TYPES_IN_MAX: usize = 8;

impl Threads {
    /// Makes room for a connection.
    pub fn open(&mut self, conn: ConnId) {
        capacity::reach(&mut self.joins, conn.slot);
        debug_assert!(self.joins_of(conn).is_empty(), "a slot is given on empty");
    }

    /// Lets a connection hear a thread, if it has joined fewer than `max`, and there are fewer than
    /// `in_all`.
    pub fn join(&mut self, conn: ConnId, key: &IdKey, max: usize, in_all: usize) -> Joined {
        let found = self.find(key);
        if found.is_some_and(|thread| self.hears_at(conn, thread)) {
            return Joined::Already;
        }
        if self.joins_of(conn).len() >= max {
            return Joined::TooMany;
        }
        if found.is_none() && self.threads.len() >= in_all {
            return Joined::TooManyInAll;
        }
        let thread = found.unwrap_or_else(|| self.insert(key));
        let hearers = &mut self.threads[thread as usize].hearers;
        let hearer = hearers.len() as u32;
        hearers.push(Hearer { conn });
        self.joins[conn.slot as usize].push(Join { thread, hearer });
        Joined::New
    }

    /// Ends a connection's hearing of a thread; false if it did not hear it.
    pub fn leave(&mut self, conn: ConnId, key: &IdKey) -> bool {
        let Some(thread) = self.find(key) else {
            return false;
        };
        let Some(at) = self.joins_of(conn).iter().position(|join| join.thread == thread) else {
            return false;
        };
        self.unlink(conn, at);
        self.forget_if_empty(thread);
        true
    }

    /// Ends a connection's hearing of one thread, until there are no more.
    pub fn leave_one(&mut self, conn: ConnId) -> Option<IdKey> {
        let thread = self.joins_of(conn).last()?.thread;
        let key = self.threads[thread as usize].key.clone();
        self.leave(conn, &key);
        Some(key)
    }

    /// Takes a connection out of everything. What it was typing is to be ended before.
    pub fn close(&mut self, conn: ConnId) {
        debug_assert!(self.typing_on(conn).next().is_none());
        while let Some(join) = self.joins_of(conn).last() {
            let thread = join.thread;
            self.unlink(conn, self.joins_of(conn).len() - 1);
            self.forget_if_empty(thread);
        }
    }

    /// The thread's place, if somebody hears it or types in it.
    pub fn find(&self, key: &IdKey) -> Option<ThreadIx> {
        self.index.find(key, |ix| &self.threads[ix as usize].key)
    }

    /// The same where it is mostly the one thread that this connection hears.
    fn find_near(&self, conn: ConnId, key: &IdKey) -> Option<ThreadIx> {
        let only = match self.joins_of(conn) {
            [only] => Some(only.thread),
            _ => None,
        };
        let is_it = |ix: &ThreadIx| self.threads[*ix as usize].key == *key;
        only.filter(is_it).or_else(|| self.find(key))
    }

    /// Whether a connection hears a thread.
    pub fn hears(&self, conn: ConnId, key: &IdKey) -> bool {
        self.find(key).is_some_and(|thread| self.hears_at(conn, thread))
    }

    /// Who hears a thread.
    pub fn hearers(&self, key: &IdKey) -> &[Hearer] {
        self.find(key).map_or(&[], |thread| self.hearers_at(thread))
    }

    /// Who hears the thread at this place, which must be a thread's.
    pub fn hearers_at(&self, thread: ThreadIx) -> &[Hearer] {
        &self.threads[thread as usize].hearers
    }

    /// Notes that someone types, until `now + lasting` unless they go on.
    pub fn typing_starts(
        &mut self,
        conn: ConnId,
        user: Option<&Id>,
        thread: &Id,
        now: Instant,
        lasting: Duration,
    ) -> Types {
        let ix = self.find_near(conn, &thread.key);
        let ix = ix.unwrap_or_else(|| self.insert(&thread.key));
        let until = now + lasting;
        let typists = self.threads[ix as usize].typists();
        let Some(typist) = typists.iter_mut().find(|typist| typist.is(user, conn)) else {
            let (serial, deadline) = self.types(conn, ix, until);
            let (user, thread) = (user.cloned(), thread.clone());
            let typist = Typist { user, thread, conn, until, frame: None, deadline, serial };
            self.threads[ix as usize].typists.get_or_insert_default().push(typist);
            return Types { place: ix, frame: None, elsewhere: self.stops_elsewhere(conn) };
        };
        let same = typist.thread == *thread && typist.user.as_ref() == user;
        let frame = typist.frame.clone().filter(|_| same);
        // The deadline is looked at when it comes: a repeat costs no change in the table.
        typist.until = until;
        if typist.conn == conn {
            return Types { place: ix, frame, elsewhere: None };
        }
        let before = (typist.conn.slot, typist.serial);
        self.typing_ends.cancel(typist.deadline);
        self.types_in.remove(&before);
        let (serial, deadline) = self.types(conn, ix, until);
        let typists = self.threads[ix as usize].typists();
        if let Some(typist) = typists.iter_mut().find(|typist| typist.serial == before.1) {
            (typist.conn, typist.serial, typist.deadline) = (conn, serial, deadline);
        }
        Types { place: ix, frame, elsewhere: self.stops_elsewhere(conn) }
    }

    /// Keeps the frame in which it is told that someone types, for when they go on.
    pub fn keep_frame(
        &mut self,
        place: ThreadIx,
        conn: ConnId,
        user: Option<&Id>,
        thread: &Id,
        frame: &EncodedFrame,
    ) {
        let mut typists = self.threads[place as usize].typists().iter_mut();
        let same = |typist: &&mut Typist| {
            typist.conn == conn && typist.user.as_ref() == user && typist.thread == *thread
        };
        if let Some(typist) = typists.find(same) {
            typist.frame = Some(EncodedFrame::clone(frame));
        }
    }

    /// Names a typist, and notes it with its connection and among the deadlines.
    fn types(&mut self, conn: ConnId, ix: ThreadIx, until: Instant) -> (u64, DeadlineKey) {
        self.typists += 1;
        let serial = self.typists;
        self.types_in.insert((conn.slot, serial), ix);
        (serial, self.typing_ends.set(until, (ix, serial)))
    }

    /// Ends the oldest typing of a connection that types in too many threads.
    fn stops_elsewhere(&mut self, conn: ConnId) -> Option<Typist> {
        let oldest = {
            let mut typing = self.typing_on(conn);
            let oldest = typing.next()?;
            typing.nth(TYPES_IN_MAX - 1).map(|_| oldest)?
        };
        self.stop(oldest, |typist| typist.conn == conn)
    }

    /// Where a connection types, oldest first.
    fn typing_on(&self, conn: ConnId) -> impl DoubleEndedIterator<Item = ThreadIx> {
        let typing = self.types_in.range((conn.slot, 0)..=(conn.slot, u64::MAX));
        typing.map(|(_, ix)| *ix)
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
        let ix = self.typing_on(conn).next_back()?;
        self.stop(ix, |typist| typist.conn == conn)
    }

    /// Takes one typist whose time is over at `now`, until there are no more.
    pub fn typing_times_out(&mut self, now: Instant) -> Option<Typist> {
        while let Some((ix, serial)) = self.typing_ends.pop_due(now) {
            let typists = self.threads[ix as usize].typists();
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

    fn joins_of(&self, conn: ConnId) -> &[Join] {
        &self.joins[conn.slot as usize]
    }

    fn hears_at(&self, conn: ConnId, thread: ThreadIx) -> bool {
        self.joins_of(conn).iter().any(|join| join.thread == thread)
    }

    fn insert(&mut self, key: &IdKey) -> ThreadIx {
        let thread = Thread { key: key.clone(), hearers: Few::new(), typists: None };
        let ix = capacity::insert(&mut self.threads, thread);
        self.index.insert(ix, |ix| &self.threads[ix as usize].key);
        ix
    }

    fn stop(&mut self, ix: ThreadIx, which: impl Fn(&Typist) -> bool) -> Option<Typist> {
        let thread = &mut self.threads[ix as usize];
        let typists = thread.typists.as_mut()?;
        let at = typists.iter().position(which)?;
        let typist = typists.swap_remove(at);
        if typists.is_empty() {
            thread.typists = None;
        }
        self.typing_ends.cancel(typist.deadline);
        self.types_in.remove(&(typist.conn.slot, typist.serial));
        self.forget_if_empty(ix);
        Some(typist)
    }

    /// Takes join number `at` of a connection out of both tables, and mends the join of the hearer
    /// that moves into the gap.
    fn unlink(&mut self, conn: ConnId, at: usize) {
        let joins = &mut self.joins[conn.slot as usize];
        let Join { thread, hearer } = joins.swap_remove(at);
        capacity::shed(joins);
        let hearers = &mut self.threads[thread as usize].hearers;
        hearers.swap_remove(hearer as usize);
        let moved = hearers.get(hearer as usize).copied();
        capacity::shed(hearers);
        let joins = moved.map(|moved| &mut self.joins[moved.conn.slot as usize]);
        if let Some(join) = joins.into_iter().flatten().find(|join| join.thread == thread) {
            join.hearer = hearer;
        }
    }

    fn forget_if_empty(&mut self, ix: ThreadIx) {
        let thread = &self.threads[ix as usize];
        if thread.hearers.is_empty() && thread.typists.is_none() {
            let thread = self.threads.remove(ix as usize);
            self.index.remove(ix, &thread.key);
        }
    }

    /// Asserts that the tables agree with each other.
    pub fn check_invariants(&self) {
        assert_eq!(self.index.count(), self.threads.len());
        let mut typists = 0;
        for (ix, thread) in &self.threads {
            let ix = ix as ThreadIx;
            assert_eq!(self.find(&thread.key), Some(ix));
            assert!(!thread.hearers.is_empty() || thread.typists.is_some());
            for (at, hearer) in thread.hearers.iter().enumerate() {
                let mut joins = self.joins_of(hearer.conn).iter();
                assert!(joins.any(|join| (join.thread, join.hearer) == (ix, at as u32)));
            }
            for typist in thread.typists.iter().flat_map(|typists| typists.iter()) {
                let key = (typist.conn.slot, typist.serial);
                assert_eq!(self.types_in.get(&key), Some(&ix));
            }
            let here = thread.typists.as_ref().map(|typists| typists.len());
            assert_ne!(here, Some(0), "nothing remains of who typed");
            typists += here.unwrap_or_default();
        }
        let hearers: usize = self.threads.iter().map(|(_, t)| t.hearers.len()).sum();
        assert_eq!(hearers, self.joins.iter().map(|joins| joins.len()).sum::<usize>());
        assert_eq!(typists, self.types_in.len());
        assert_eq!(typists, self.typing_ends.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_and_a_join_are_as_small_as_they_are_said_to_be() {
        assert_eq!(size_of::<Thread>(), 48);
        assert_eq!(size_of::<Few<Join>>(), 24);
        assert_eq!(size_of::<Hearer>(), 8);
    }
}

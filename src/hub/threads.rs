//! Who hears a thread and who is typing in it.
//!
//! Membership is two tables of integers: a thread lists its hearers, and a connection its joins,
//! each of which knows its place among the hearers. So joining, leaving and a connection's end cost
//! the same in a thread of two and in one of ten thousand.

use std::collections::BTreeMap;
use std::time::Instant;

use slab::Slab;

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

/// A typist's place in the tables, valid while they type.
type TypistIx = u32;

/// Someone who types in a thread, until told otherwise.
///
/// They say so again and again, and of thousands it is mostly another one who does: what that needs
/// stands together at the beginning, in one line of the processor's cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Typist {
    /// The connection they typed on last.
    pub conn: ConnId,
    key: IdKey,
    place: ThreadIx,
    /// They wrote the thread's id as a string.
    quoted: bool,
    until: Instant,
    /// That they type, encoded: who goes on mostly says the very same.
    frame: Option<EncodedFrame>,
    /// Who, in the form in which their connection wrote it; `None` for a connection that has not
    /// said who it is.
    pub user: Option<Id>,
    deadline: DeadlineKey,
    /// Tells which of those on one connection began first.
    serial: u64,
}

impl Typist {
    /// The thread, in the form in which they wrote it.
    pub fn thread(&self) -> Id {
        Id { key: self.key.clone(), quoted: self.quoted }
    }

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
    hearers: Few<Hearer>,
    /// Who types, while someone does.
    typists: Option<Box<Few<TypistIx>>>,
}

/// What comes of it that someone types.
#[derive(Debug)]
pub struct Types {
    /// The thread's.
    pub place: ThreadIx,
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
    typists: Slab<Typist>,
    /// Who typed last on each connection, if they still do: where to look first.
    typed_last: Vec<TypistIx>,
    typing_ends: Deadlines<TypistIx>,
    /// Who types, by the slot of their connection, oldest first.
    types_on: BTreeMap<(u32, u64), TypistIx>,
    /// Typists so far.
    serial: u64,
}

/// A connection types in this many threads at once; beyond it, the oldest has stopped. People
/// type in one.
const TYPES_IN_MAX: usize = 8;

impl Threads {
    /// Makes room for a connection.
    pub fn open(&mut self, conn: ConnId) {
        capacity::reach(&mut self.joins, conn.slot);
        capacity::reach(&mut self.typed_last, conn.slot);
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

    /// Notes that whoever types in a thread on this connection goes on until then, and says where
    /// that is and what tells of it; `None` if it has not been told yet, on this connection and
    /// with the thread written like this.
    ///
    /// Who types says so every few seconds: this looks at nothing but them.
    pub fn goes_on(
        &mut self,
        conn: ConnId,
        thread: &Id,
        until: Instant,
    ) -> Option<(ThreadIx, EncodedFrame)> {
        let last = self.typed_last[conn.slot as usize];
        let typist = self.typists.get_mut(last as usize)?;
        if typist.conn != conn || typist.key != thread.key || typist.quoted != thread.quoted {
            return None;
        }
        // The deadline is looked at when it comes: a repeat costs no change in the table.
        typist.until = until;
        Some((typist.place, EncodedFrame::clone(typist.frame.as_ref()?)))
    }

    /// Notes that someone types, until then unless they go on.
    pub fn typing_starts(
        &mut self,
        conn: ConnId,
        user: Option<&Id>,
        thread: &Id,
        until: Instant,
    ) -> Types {
        let place = self.find(&thread.key).unwrap_or_else(|| self.insert(&thread.key));
        let known = self.typist_at(place, |typist| typist.is(user, conn));
        let Some(ix) = known else {
            let Id { key, quoted } = thread.clone();
            let (user, frame, deadline, serial) = (user.cloned(), None, (until, 0), 0);
            let typist = Typist { conn, key, place, quoted, until, frame, user, deadline, serial };
            let ix = capacity::insert(&mut self.typists, typist);
            self.threads[place as usize].typists.get_or_insert_default().push(ix);
            self.types(ix, conn);
            return Types { place, elsewhere: self.stops_elsewhere(conn) };
        };
        let typist = &mut self.typists[ix as usize];
        typist.until = until;
        if typist.conn == conn {
            self.typed_last[conn.slot as usize] = ix;
            return Types { place, elsewhere: None };
        }
        self.typing_ends.cancel(typist.deadline);
        self.types_on.remove(&(typist.conn.slot, typist.serial));
        self.types(ix, conn);
        Types { place, elsewhere: self.stops_elsewhere(conn) }
    }

    /// Keeps the frame that tells who types on this connection, for when they go on. It says who
    /// they are and which thread it is in the forms in which they wrote it.
    pub fn keep_frame(
        &mut self,
        conn: ConnId,
        user: Option<&Id>,
        thread: &Id,
        frame: &EncodedFrame,
    ) {
        let last = self.typed_last[conn.slot as usize];
        let typist = self.typists.get_mut(last as usize).filter(|typist| typist.conn == conn);
        if let Some(typist) = typist.filter(|typist| typist.key == thread.key) {
            (typist.user, typist.quoted) = (user.cloned(), thread.quoted);
            typist.frame = Some(EncodedFrame::clone(frame));
        }
    }

    /// Forgets the frames that tell who types on a connection: its user's id is written otherwise
    /// from now on.
    pub fn forget_frames(&mut self, conn: ConnId) {
        let typing: Vec<TypistIx> = self.typing_on(conn).collect();
        for ix in typing {
            self.typists[ix as usize].frame = None;
        }
    }

    /// Who types at a place, by what they are.
    fn typist_at(&self, place: ThreadIx, which: impl Fn(&Typist) -> bool) -> Option<TypistIx> {
        let mut typists =
            self.threads[place as usize].typists.iter().flat_map(|here| here.iter()).copied();
        typists.find(|ix| which(&self.typists[*ix as usize]))
    }

    /// Notes a typist with the connection they type on, and among the deadlines.
    fn types(&mut self, ix: TypistIx, conn: ConnId) {
        self.serial += 1;
        let typist = &mut self.typists[ix as usize];
        (typist.conn, typist.serial) = (conn, self.serial);
        typist.deadline = self.typing_ends.set(typist.until, ix);
        self.types_on.insert((conn.slot, self.serial), ix);
        self.typed_last[conn.slot as usize] = ix;
    }

    /// Ends the oldest typing of a connection that types in too many threads.
    fn stops_elsewhere(&mut self, conn: ConnId) -> Option<Typist> {
        let oldest = {
            let mut typing = self.typing_on(conn);
            let oldest = typing.next()?;
            typing.nth(TYPES_IN_MAX - 1).map(|_| oldest)?
        };
        Some(self.stop(oldest))
    }

    /// Who types on a connection, oldest first.
    fn typing_on(&self, conn: ConnId) -> impl DoubleEndedIterator<Item = TypistIx> {
        let typing = self.types_on.range((conn.slot, 0)..=(conn.slot, u64::MAX));
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
        let place = self.find(thread)?;
        let ix = self.typist_at(place, |typist| typist.is(user, conn))?;
        Some(self.stop(ix))
    }

    /// Notes that this connection no longer types in a thread; `None` if it was another device of
    /// the same user, or nobody.
    pub fn typing_stops_here(&mut self, conn: ConnId, thread: &IdKey) -> Option<Typist> {
        let place = self.find(thread)?;
        let ix = self.typist_at(place, |typist| typist.conn == conn)?;
        Some(self.stop(ix))
    }

    /// Takes one thread in which this connection types, until there are no more.
    pub fn typing_stops_on(&mut self, conn: ConnId) -> Option<Typist> {
        let ix = self.typing_on(conn).next_back()?;
        Some(self.stop(ix))
    }

    /// Takes one typist whose time is over at `now`, until there are no more.
    pub fn typing_times_out(&mut self, now: Instant) -> Option<Typist> {
        while let Some(ix) = self.typing_ends.pop_due(now) {
            // A typist is taken out together with its deadline, so it is there.
            let typist = &mut self.typists[ix as usize];
            typist.deadline = self.typing_ends.set(typist.until, ix);
            if typist.until <= now {
                return Some(self.stop(ix));
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

    /// Takes a typist out of all tables but one: who looks where they typed last finds nobody, or
    /// looks whether whoever is there now is the one.
    fn stop(&mut self, ix: TypistIx) -> Typist {
        let typist = self.typists.remove(ix as usize);
        if self.typists.is_empty() {
            // Nobody types: what thousands needed at once is given back.
            self.typists = Slab::new();
        }
        let thread = &mut self.threads[typist.place as usize];
        if let Some(typists) = &mut thread.typists {
            typists.retain(|here| *here != ix);
            capacity::shed(typists);
            if typists.is_empty() {
                thread.typists = None;
            }
        }
        self.typing_ends.cancel(typist.deadline);
        self.types_on.remove(&(typist.conn.slot, typist.serial));
        self.forget_if_empty(typist.place);
        typist
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
            assert!(thread.typists.as_ref().is_none_or(|here| !here.is_empty()), "nothing remains");
            for typist_ix in thread.typists.iter().flat_map(|typists| typists.iter()) {
                let typist = &self.typists[*typist_ix as usize];
                assert_eq!((typist.place, &typist.key), (ix, &thread.key));
                let key = (typist.conn.slot, typist.serial);
                assert_eq!(self.types_on.get(&key), Some(typist_ix));
                typists += 1;
            }
        }
        let hearers: usize = self.threads.iter().map(|(_, t)| t.hearers.len()).sum();
        assert_eq!(hearers, self.joins.iter().map(|joins| joins.len()).sum::<usize>());
        assert_eq!(typists, self.typists.len());
        assert_eq!(typists, self.types_on.len());
        assert_eq!(typists, self.typing_ends.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn a_thread_and_a_join_are_as_small_as_they_are_said_to_be() {
        assert_eq!(size_of::<Thread>(), 48);
        assert_eq!(size_of::<Few<Join>>(), 24);
        assert_eq!(size_of::<Hearer>(), 8);
        assert_eq!(size_of::<Typist>(), 128);
        assert_eq!(offset_of!(Typist, frame) + size_of::<Option<EncodedFrame>>(), 64);
    }
}

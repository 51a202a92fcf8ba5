//! Who hears a thread and who is typing in it.
//!
//! Membership is two tables of integers: a thread lists its hearers, and a connection its joins,
//! each of which knows its place among the hearers. So joining, leaving and a connection's end cost
//! the same in a thread of two and in one of ten thousand.

use std::collections::BTreeMap;
use std::time::Instant;

use slab::Slab;

use super::capacity::{self, SmallList};
use super::deadlines::{DeadlineKey, Deadlines};
use super::index::Index;
use super::interface::ConnId;
use crate::protocol::server::EncodedFrame;
use crate::protocol::{Id, IdKey};

/// A thread's place in the tables, valid while someone hears it or types in it.
pub type ThreadIx = u32;

/// A connection that hears a thread.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber {
    /// Which connection.
    pub conn: ConnId,
}

#[derive(Clone, Copy, Debug)]
struct Join {
    thread: ThreadIx,
    /// Where this connection stands in the thread's hearers.
    subscriber: u32,
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
    thread_ix: ThreadIx,
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
    fn matches(&self, user: Option<&Id>, conn: ConnId) -> bool {
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
    subscribers: SmallList<Subscriber>,
    /// Who types, while someone does.
    typists: Option<Box<SmallList<TypistIx>>>,
}

/// What comes of it that someone types.
#[derive(Debug)]
pub struct TypingStart {
    /// The thread's.
    pub thread_ix: ThreadIx,
    /// Who thereby stopped elsewhere, at the limit of threads that one connection types in.
    pub evicted: Option<Typist>,
}

/// Whether a connection hears a thread now.
#[derive(Debug, PartialEq, Eq)]
pub enum JoinResult {
    /// From now on.
    New,
    /// It did before.
    Already,
    /// It has joined as many as it may.
    TooMany,
    /// All connections together hear as many as they may.
    ServerFull,
}

/// All threads that somebody hears or types in.
#[derive(Debug, Default)]
pub struct Threads {
    index: Index,
    threads: Slab<Thread>,
    /// What each connection has joined.
    joins: Vec<SmallList<Join>>,
    typists: Slab<Typist>,
    /// Who typed last on each connection, if they still do: where to look first.
    last_typist: Vec<TypistIx>,
    typing_deadlines: Deadlines<TypistIx>,
    /// Who types, by the slot of their connection, oldest first.
    typists_by_connection: BTreeMap<(u32, u64), TypistIx>,
    /// Typists so far.
    serial: u64,
}

/// A connection types in this many threads at once; beyond it, the oldest has stopped. People
/// type in one.
const TYPING_THREADS_MAX: usize = 8;

impl Threads {
    /// Makes room for a connection.
    pub fn open(&mut self, conn: ConnId) {
        capacity::ensure_slot(&mut self.joins, conn.slot);
        capacity::ensure_slot(&mut self.last_typist, conn.slot);
        debug_assert!(self.joins_of(conn).is_empty(), "a slot is given on empty");
    }

    /// Lets a connection hear a thread, if it has joined fewer than `max`, and there are fewer than
    /// `in_all`.
    pub fn join(&mut self, conn: ConnId, key: &IdKey, max: usize, in_all: usize) -> JoinResult {
        let found = self.find(key);
        if found.is_some_and(|thread| self.is_subscribed_at(conn, thread)) {
            return JoinResult::Already;
        }
        if self.joins_of(conn).len() >= max {
            return JoinResult::TooMany;
        }
        if found.is_none() && self.threads.len() >= in_all {
            return JoinResult::ServerFull;
        }
        let thread = found.unwrap_or_else(|| self.insert(key));
        let subscribers = &mut self.threads[thread as usize].subscribers;
        let subscriber = subscribers.len() as u32;
        subscribers.push(Subscriber { conn });
        self.joins[conn.slot as usize].push(Join { thread, subscriber });
        JoinResult::New
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
    pub fn leave_last(&mut self, conn: ConnId) -> Option<IdKey> {
        let thread = self.joins_of(conn).last()?.thread;
        let key = self.threads[thread as usize].key.clone();
        self.leave(conn, &key);
        Some(key)
    }

    /// Takes a connection out of everything. What it was typing is to be ended before.
    pub fn close(&mut self, conn: ConnId) {
        debug_assert!(self.typists_on(conn).next().is_none());
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
    pub fn is_subscribed(&self, conn: ConnId, key: &IdKey) -> bool {
        self.find(key).is_some_and(|thread| self.is_subscribed_at(conn, thread))
    }

    /// Who hears a thread.
    pub fn subscribers(&self, key: &IdKey) -> &[Subscriber] {
        self.find(key).map_or(&[], |thread| self.subscribers_at(thread))
    }

    /// Who hears the thread at this place, which must be a thread's.
    pub fn subscribers_at(&self, thread: ThreadIx) -> &[Subscriber] {
        &self.threads[thread as usize].subscribers
    }

    /// Notes that whoever types in a thread on this connection goes on until then, and says where
    /// that is and what tells of it; `None` if it has not been told yet, on this connection and
    /// with the thread written like this.
    ///
    /// Who types says so every few seconds: this looks at nothing but them.
    pub fn renew_typing(
        &mut self,
        conn: ConnId,
        thread: &Id,
        until: Instant,
    ) -> Option<(ThreadIx, EncodedFrame)> {
        let last = self.last_typist[conn.slot as usize];
        let typist = self.typists.get_mut(last as usize)?;
        if typist.conn != conn || typist.key != thread.key || typist.quoted != thread.quoted {
            return None;
        }
        // The deadline is looked at when it comes: a repeat costs no change in the table.
        typist.until = until;
        Some((typist.thread_ix, EncodedFrame::clone(typist.frame.as_ref()?)))
    }

    /// Notes that someone types, until then unless they go on.
    pub fn start_typing(
        &mut self,
        conn: ConnId,
        user: Option<&Id>,
        thread: &Id,
        until: Instant,
    ) -> TypingStart {
        let thread_ix = self.find(&thread.key).unwrap_or_else(|| self.insert(&thread.key));
        let known = self.find_typist(thread_ix, |typist| typist.matches(user, conn));
        let Some(ix) = known else {
            let Id { key, quoted } = thread.clone();
            let (user, frame, deadline, serial) = (user.cloned(), None, (until, 0), 0);
            let typist =
                Typist { conn, key, thread_ix, quoted, until, frame, user, deadline, serial };
            let ix = capacity::insert(&mut self.typists, typist);
            self.threads[thread_ix as usize].typists.get_or_insert_default().push(ix);
            self.register_typist(ix, conn);
            return TypingStart { thread_ix, evicted: self.evict_oldest_typing(conn) };
        };
        let typist = &mut self.typists[ix as usize];
        typist.until = until;
        if typist.conn == conn {
            self.last_typist[conn.slot as usize] = ix;
            return TypingStart { thread_ix, evicted: None };
        }
        self.typing_deadlines.cancel(typist.deadline);
        self.typists_by_connection.remove(&(typist.conn.slot, typist.serial));
        self.register_typist(ix, conn);
        TypingStart { thread_ix, evicted: self.evict_oldest_typing(conn) }
    }

    /// Keeps the frame that tells who types on this connection, for when they go on. It says who
    /// they are and which thread it is in the forms in which they wrote it.
    pub fn cache_typing_frame(
        &mut self,
        conn: ConnId,
        user: Option<&Id>,
        thread: &Id,
        frame: &EncodedFrame,
    ) {
        let last = self.last_typist[conn.slot as usize];
        let typist = self.typists.get_mut(last as usize).filter(|typist| typist.conn == conn);
        if let Some(typist) = typist.filter(|typist| typist.key == thread.key) {
            (typist.user, typist.quoted) = (user.cloned(), thread.quoted);
            typist.frame = Some(EncodedFrame::clone(frame));
        }
    }

    /// Forgets the frames that tell who types on a connection: its user's id is written otherwise
    /// from now on.
    pub fn clear_typing_frames(&mut self, conn: ConnId) {
        let typing: Vec<TypistIx> = self.typists_on(conn).collect();
        for ix in typing {
            self.typists[ix as usize].frame = None;
        }
    }

    /// Who types at a place, by what they are.
    fn find_typist(
        &self,
        thread_ix: ThreadIx,
        which: impl Fn(&Typist) -> bool,
    ) -> Option<TypistIx> {
        let mut typists =
            self.threads[thread_ix as usize].typists.iter().flat_map(|here| here.iter()).copied();
        typists.find(|ix| which(&self.typists[*ix as usize]))
    }

    /// Notes a typist with the connection they type on, and among the deadlines.
    fn register_typist(&mut self, ix: TypistIx, conn: ConnId) {
        self.serial += 1;
        let typist = &mut self.typists[ix as usize];
        (typist.conn, typist.serial) = (conn, self.serial);
        typist.deadline = self.typing_deadlines.set(typist.until, ix);
        self.typists_by_connection.insert((conn.slot, self.serial), ix);
        self.last_typist[conn.slot as usize] = ix;
    }

    /// Ends the oldest typing of a connection that types in too many threads.
    fn evict_oldest_typing(&mut self, conn: ConnId) -> Option<Typist> {
        let oldest = {
            let mut typing = self.typists_on(conn);
            let oldest = typing.next()?;
            typing.nth(TYPING_THREADS_MAX - 1).map(|_| oldest)?
        };
        Some(self.stop(oldest))
    }

    /// Who types on a connection, oldest first.
    fn typists_on(&self, conn: ConnId) -> impl DoubleEndedIterator<Item = TypistIx> {
        let typing = self.typists_by_connection.range((conn.slot, 0)..=(conn.slot, u64::MAX));
        typing.map(|(_, ix)| *ix)
    }

    /// Notes that a user, or the nobody on this connection, has stopped typing in a thread; `None`
    /// if they were not.
    pub fn stop_typing(
        &mut self,
        conn: ConnId,
        user: Option<&Id>,
        thread: &IdKey,
    ) -> Option<Typist> {
        let thread_ix = self.find(thread)?;
        let ix = self.find_typist(thread_ix, |typist| typist.matches(user, conn))?;
        Some(self.stop(ix))
    }

    /// Notes that this connection no longer types in a thread; `None` if it was another device of
    /// the same user, or nobody.
    pub fn stop_typing_here(&mut self, conn: ConnId, thread: &IdKey) -> Option<Typist> {
        let thread_ix = self.find(thread)?;
        let ix = self.find_typist(thread_ix, |typist| typist.conn == conn)?;
        Some(self.stop(ix))
    }

    /// Takes one thread in which this connection types, until there are no more.
    pub fn stop_one_typing(&mut self, conn: ConnId) -> Option<Typist> {
        let ix = self.typists_on(conn).next_back()?;
        Some(self.stop(ix))
    }

    /// Takes one typist whose time is over at `now`, until there are no more.
    pub fn pop_typing_timeout(&mut self, now: Instant) -> Option<Typist> {
        while let Some(ix) = self.typing_deadlines.pop_due(now) {
            // A typist is taken out together with its deadline, so it is there.
            let typist = &mut self.typists[ix as usize];
            typist.deadline = self.typing_deadlines.set(typist.until, ix);
            if typist.until <= now {
                return Some(self.stop(ix));
            }
        }
        None
    }

    /// When the next typist may be over.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.typing_deadlines.next()
    }

    /// How many threads somebody hears or types in.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    fn joins_of(&self, conn: ConnId) -> &[Join] {
        &self.joins[conn.slot as usize]
    }

    fn is_subscribed_at(&self, conn: ConnId, thread: ThreadIx) -> bool {
        self.joins_of(conn).iter().any(|join| join.thread == thread)
    }

    fn insert(&mut self, key: &IdKey) -> ThreadIx {
        let thread = Thread { key: key.clone(), subscribers: SmallList::new(), typists: None };
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
        let thread = &mut self.threads[typist.thread_ix as usize];
        if let Some(typists) = &mut thread.typists {
            typists.retain(|here| *here != ix);
            capacity::shrink(typists);
            if typists.is_empty() {
                thread.typists = None;
            }
        }
        self.typing_deadlines.cancel(typist.deadline);
        self.typists_by_connection.remove(&(typist.conn.slot, typist.serial));
        self.forget_if_empty(typist.thread_ix);
        typist
    }

    /// Takes join number `at` of a connection out of both tables, and mends the join of the hearer
    /// that moves into the gap.
    fn unlink(&mut self, conn: ConnId, at: usize) {
        let joins = &mut self.joins[conn.slot as usize];
        let Join { thread, subscriber } = joins.swap_remove(at);
        capacity::shrink(joins);
        let subscribers = &mut self.threads[thread as usize].subscribers;
        subscribers.swap_remove(subscriber as usize);
        let moved = subscribers.get(subscriber as usize).copied();
        capacity::shrink(subscribers);
        let joins = moved.map(|moved| &mut self.joins[moved.conn.slot as usize]);
        if let Some(join) = joins.into_iter().flatten().find(|join| join.thread == thread) {
            join.subscriber = subscriber;
        }
    }

    fn forget_if_empty(&mut self, ix: ThreadIx) {
        let thread = &self.threads[ix as usize];
        if thread.subscribers.is_empty() && thread.typists.is_none() {
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
            assert!(!thread.subscribers.is_empty() || thread.typists.is_some());
            for (at, subscriber) in thread.subscribers.iter().enumerate() {
                let mut joins = self.joins_of(subscriber.conn).iter();
                assert!(joins.any(|join| (join.thread, join.subscriber) == (ix, at as u32)));
            }
            assert!(thread.typists.as_ref().is_none_or(|here| !here.is_empty()), "nothing remains");
            for typist_ix in thread.typists.iter().flat_map(|typists| typists.iter()) {
                let typist = &self.typists[*typist_ix as usize];
                assert_eq!((typist.thread_ix, &typist.key), (ix, &thread.key));
                let key = (typist.conn.slot, typist.serial);
                assert_eq!(self.typists_by_connection.get(&key), Some(typist_ix));
                typists += 1;
            }
        }
        let subscribers: usize = self.threads.iter().map(|(_, t)| t.subscribers.len()).sum();
        assert_eq!(subscribers, self.joins.iter().map(|joins| joins.len()).sum::<usize>());
        assert_eq!(typists, self.typists.len());
        assert_eq!(typists, self.typists_by_connection.len());
        assert_eq!(typists, self.typing_deadlines.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn thread_and_join_sizes_match_documentation() {
        assert_eq!(size_of::<Thread>(), 48);
        assert_eq!(size_of::<SmallList<Join>>(), 24);
        assert_eq!(size_of::<Subscriber>(), 8);
        assert_eq!(size_of::<Typist>(), 128);
        assert_eq!(offset_of!(Typist, frame) + size_of::<Option<EncodedFrame>>(), 64);
    }
}

//! Threads: which connections have joined each one (its subscribers), and who is typing in it.
//!
//! Subscriptions are kept in two tables of integers: each thread lists its subscribers, and each
//! connection lists its joins with their position among the subscribers. So joining, leaving and
//! closing a connection cost the same in a thread of two and in one of ten thousand.

use std::collections::BTreeMap;
use std::time::Instant;

use slab::Slab;

use super::capacity::{self, SmallList};
use super::deadlines::{DeadlineKey, Deadlines};
use super::index::Index;
use super::interface::ConnId;
use crate::protocol::server::EncodedFrame;
use crate::protocol::{Id, IdKey};

/// Index of a thread in the table, valid while the thread has a subscriber or a typist.
pub(super) type ThreadIx = u32;

/// A connection that has joined a thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscriber {
    /// The connection.
    pub conn: ConnId,
}

#[derive(Clone, Copy, Debug)]
struct Join {
    thread: ThreadIx,
    /// Position of the connection among the thread's subscribers.
    subscriber: u32,
}

/// Index of a typist in the table, valid while the user types.
type TypistIx = u32;

/// A user, or an anonymous connection, that is typing in a thread.
///
/// Clients repeat `typing` every few seconds, and with thousands of typists each repeat is for
/// another one. So the fields that a repeat needs come first and share one cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Typist {
    /// The connection that sent `typing` last.
    pub conn: ConnId,
    key: IdKey,
    thread_ix: ThreadIx,
    /// Whether the client wrote the thread's id as a string.
    quoted: bool,
    until: Instant,
    /// The encoded `typing` frame, cached because repeats are mostly identical.
    frame: Option<EncodedFrame>,
    /// The user, in the form in which the connection wrote the id; `None` if the connection is
    /// anonymous.
    pub user: Option<Id>,
    deadline: DeadlineKey,
    /// Orders the typists of one connection by when they began.
    serial: u64,
}

impl Typist {
    /// Returns the thread, in the form in which the client wrote its id.
    pub(super) fn thread(&self) -> Id {
        Id { key: self.key.clone(), quoted: self.quoted }
    }

    /// A user is one typist on all devices; each anonymous connection is a typist of its own.
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
    /// `None` while nobody types.
    typists: Option<Box<SmallList<TypistIx>>>,
}

/// Result of [`Threads::start_typing`].
#[derive(Debug)]
pub(super) struct TypingStart {
    /// The thread.
    pub thread_ix: ThreadIx,
    /// A typist of the same connection in another thread who stopped, because a connection may type
    /// in a limited number of threads.
    pub evicted: Option<Typist>,
}

/// Result of [`Threads::join`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum JoinResult {
    /// The connection has joined now.
    New,
    /// The connection had joined before.
    Already,
    /// The connection has joined as many threads as it may.
    TooMany,
    /// The server has as many threads as it may.
    ServerFull,
}

/// All threads that have a subscriber or a typist.
#[derive(Debug, Default)]
pub(super) struct Threads {
    index: Index,
    threads: Slab<Thread>,
    /// The threads that each connection has joined.
    joins: Vec<SmallList<Join>>,
    typists: Slab<Typist>,
    /// The typist seen last on each connection, which may be stale: the first place to look.
    last_typist: Vec<TypistIx>,
    typing_deadlines: Deadlines<TypistIx>,
    /// Typists by the slot of their connection and their serial, oldest first.
    typists_by_connection: BTreeMap<(u32, u64), TypistIx>,
    /// The last serial given to a typist.
    serial: u64,
}

/// Threads in which one connection may type at once; beyond it, the oldest typing ends. People type
/// in one.
const TYPING_THREADS_MAX: usize = 8;

impl Threads {
    /// Reserves the slot of a new connection.
    pub(super) fn open(&mut self, conn: ConnId) {
        capacity::ensure_slot(&mut self.joins, conn.slot);
        capacity::ensure_slot(&mut self.last_typist, conn.slot);
        debug_assert!(self.joins_of(conn).is_empty(), "a new slot is empty");
    }

    /// Subscribes a connection to a thread, if it has joined fewer than `max` threads and the
    /// server has fewer than `threads_max`.
    pub(super) fn join(
        &mut self,
        conn: ConnId,
        key: &IdKey,
        max: usize,
        threads_max: usize,
    ) -> JoinResult {
        let found = self.find(key);
        if found.is_some_and(|thread| self.is_subscribed_at(conn, thread)) {
            return JoinResult::Already;
        }
        if self.joins_of(conn).len() >= max {
            return JoinResult::TooMany;
        }
        if found.is_none() && self.threads.len() >= threads_max {
            return JoinResult::ServerFull;
        }
        let thread = found.unwrap_or_else(|| self.insert(key));
        let subscribers = &mut self.threads[thread as usize].subscribers;
        let subscriber = subscribers.len() as u32;
        subscribers.push(Subscriber { conn });
        self.joins[conn.slot as usize].push(Join { thread, subscriber });
        JoinResult::New
    }

    /// Unsubscribes a connection from a thread; false if it had not joined.
    pub(super) fn leave(&mut self, conn: ConnId, key: &IdKey) -> bool {
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

    /// Unsubscribes a connection from the thread that is last in its list and returns it; `None`
    /// when there are no more.
    pub(super) fn leave_last(&mut self, conn: ConnId) -> Option<IdKey> {
        let thread = self.joins_of(conn).last()?.thread;
        let key = self.threads[thread as usize].key.clone();
        self.leave(conn, &key);
        Some(key)
    }

    /// Unsubscribes a connection from all threads. Its typing must have been stopped before.
    pub(super) fn close(&mut self, conn: ConnId) {
        debug_assert!(self.typists_on(conn).next().is_none());
        while let Some(join) = self.joins_of(conn).last() {
            let thread = join.thread;
            self.unlink(conn, self.joins_of(conn).len() - 1);
            self.forget_if_empty(thread);
        }
    }

    /// Finds a thread that has a subscriber or a typist.
    pub(super) fn find(&self, key: &IdKey) -> Option<ThreadIx> {
        self.index.find(key, |ix| &self.threads[ix as usize].key)
    }

    /// Whether a connection has joined a thread.
    pub(super) fn is_subscribed(&self, conn: ConnId, key: &IdKey) -> bool {
        self.find(key).is_some_and(|thread| self.is_subscribed_at(conn, thread))
    }

    /// Returns the subscribers of a thread.
    pub(super) fn subscribers(&self, key: &IdKey) -> &[Subscriber] {
        self.find(key).map_or(&[], |thread| self.subscribers_at(thread))
    }

    /// Returns the subscribers of the thread at this index, which must be valid.
    pub(super) fn subscribers_at(&self, thread: ThreadIx) -> &[Subscriber] {
        &self.threads[thread as usize].subscribers
    }

    /// Extends the typing of the last typist on this connection until `until`. Returns the thread
    /// and the cached frame; `None` if the connection does not type in this thread, if it writes
    /// the thread's id in another form, or if no frame is cached.
    ///
    /// This is the hot path of `typing`: it reads only the typist's first cache line.
    pub(super) fn renew_typing(
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
        // The deadline is checked when it fires, so that a repeat does not change that table.
        typist.until = until;
        Some((typist.thread_ix, EncodedFrame::clone(typist.frame.as_ref()?)))
    }

    /// Starts or extends typing, which ends at `until` unless it is repeated.
    pub(super) fn start_typing(
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

    /// Caches the `typing` frame of a connection for repeats. It holds the ids of user and thread
    /// in the forms in which the connection wrote them.
    pub(super) fn cache_typing_frame(
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

    /// Drops the cached `typing` frames of a connection, because it now writes its user's id in
    /// another form.
    pub(super) fn clear_typing_frames(&mut self, conn: ConnId) {
        let typing: Vec<TypistIx> = self.typists_on(conn).collect();
        for ix in typing {
            self.typists[ix as usize].frame = None;
        }
    }

    /// Finds a typist in a thread.
    fn find_typist(
        &self,
        thread_ix: ThreadIx,
        which: impl Fn(&Typist) -> bool,
    ) -> Option<TypistIx> {
        let mut typists =
            self.threads[thread_ix as usize].typists.iter().flat_map(|here| here.iter()).copied();
        typists.find(|ix| which(&self.typists[*ix as usize]))
    }

    /// Links a typist to the connection that types and sets the deadline.
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

    /// Lists the typists of a connection, oldest first.
    fn typists_on(&self, conn: ConnId) -> impl DoubleEndedIterator<Item = TypistIx> {
        let typing = self.typists_by_connection.range((conn.slot, 0)..=(conn.slot, u64::MAX));
        typing.map(|(_, ix)| *ix)
    }

    /// Ends the typing of a user, or of this anonymous connection, in a thread; `None` if there was
    /// none.
    pub(super) fn stop_typing(
        &mut self,
        conn: ConnId,
        user: Option<&Id>,
        thread: &IdKey,
    ) -> Option<Typist> {
        let thread_ix = self.find(thread)?;
        let ix = self.find_typist(thread_ix, |typist| typist.matches(user, conn))?;
        Some(self.stop(ix))
    }

    /// Ends the typing of this connection in a thread; `None` if it does not type there, even if
    /// another device of the same user does.
    pub(super) fn stop_typing_here(&mut self, conn: ConnId, thread: &IdKey) -> Option<Typist> {
        let thread_ix = self.find(thread)?;
        let ix = self.find_typist(thread_ix, |typist| typist.conn == conn)?;
        Some(self.stop(ix))
    }

    /// Ends the latest typing of this connection; `None` when there are no more.
    pub(super) fn stop_one_typing(&mut self, conn: ConnId) -> Option<Typist> {
        let ix = self.typists_on(conn).next_back()?;
        Some(self.stop(ix))
    }

    /// Ends one typing whose time is over at `now`; `None` when there are no more.
    pub(super) fn pop_typing_timeout(&mut self, now: Instant) -> Option<Typist> {
        while let Some(ix) = self.typing_deadlines.pop_due(now) {
            // A typist and its deadline are removed together, so the typist exists.
            let typist = &mut self.typists[ix as usize];
            typist.deadline = self.typing_deadlines.set(typist.until, ix);
            if typist.until <= now {
                return Some(self.stop(ix));
            }
        }
        None
    }

    /// Returns when the next typing timeout has to be checked.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.typing_deadlines.next()
    }

    /// Returns how many threads have a subscriber or a typist.
    pub(super) fn count(&self) -> usize {
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

    /// Removes a typist from all tables except `last_typist`. A stale entry there is harmless,
    /// because its readers compare the connection and the thread.
    fn stop(&mut self, ix: TypistIx) -> Typist {
        let typist = self.typists.remove(ix as usize);
        if self.typists.is_empty() {
            // Free the table, which may have grown to thousands of typists.
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

    /// Removes join number `at` of a connection from both tables, and corrects the join of the
    /// subscriber that `swap_remove` moves into the gap.
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
    pub(super) fn check_invariants(&self) {
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
            let no_typists = thread.typists.as_ref().is_some_and(|here| here.is_empty());
            assert!(!no_typists, "an empty list of typists is dropped");
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

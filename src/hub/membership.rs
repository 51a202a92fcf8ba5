//! Thread membership as the site reports it, and frames held until the site has answered.
//!
//! A participant list belongs to the thread, so one answer serves every participant. It is valid
//! for a limited time, counted from when the site was asked, and each answer to a POST that
//! contains the complete list renews it (`PROTOCOL.md` 4). A thread's number can be reused for
//! another thread (CONTRACT 5), so older lists are not used.

mod participants;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::auth::held_frames::HeldText;
use super::auth::proofs::RETRY_AFTER;
use super::failure::Failure;
use super::interface::{ConnId, Stored};
use super::messages::delivery::{PendingMessage, RequestTime};
use crate::protocol::credential::Credential;
pub(super) use participants::Held;
use participants::{CHANGES_MAX, ParticipantList, ParticipantQuery, TOO_LARGE_TTL, ThreadRecord};

/// Maximum age of a list that is used while the site does not answer.
const OUTAGE_MAX_AGE: Duration = Duration::from_secs(600);
/// Minimum age of a list before the site is asked whether another user has joined since.
const RECHECK_MIN_AGE: Duration = Duration::from_secs(10);
/// How long to wait before retrying after the upstream queue was full.
const OVERLOAD_BACKOFF: Duration = Duration::from_secs(1);
/// How many of the oldest records are examined to find one that can be evicted.
const EVICTION_SCAN_MAX: usize = 64;
/// Threads with a record, and participants of all lists; the oldest record is evicted.
const THREADS_MAX: usize = 50_000;
const PARTICIPANTS_MAX: usize = 2_000_000;

/// Whether a user is a member of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The user is a member.
    Member,
    /// The user is a member, and the list should be renewed soon.
    StaleMember,
    /// The user is not a member.
    NonMember,
    /// Not known: the site has to be asked.
    Unknown,
    /// Not known: the site was asked a moment ago and has not answered.
    Failed(Failure),
}

/// Participant lists of all threads, queries for them, and what waits for the answers.
#[derive(Debug)]
pub(super) struct Membership {
    list_ttl: Duration,
    records: HashMap<u64, ThreadRecord>,
    by_age: BTreeMap<u64, u64>,
    last_age: u64,
    participants: usize,
    /// The threads for whose lists frames of a connection wait, one entry per frame.
    held_by_connection: HashMap<ConnId, Vec<u64>>,
    /// The user whose query the site left unanswered last; reset by any answer of the site.
    last_unanswered: Option<u64>,
    /// The site has left the queries of two users unanswered in a row.
    outage: bool,
    /// The threads of each user, if the index is enabled.
    threads_of: Option<HashMap<u64, Vec<u64>>>,
}

impl Membership {
    /// Changes how long lists are valid, including those already in the table.
    pub(super) fn set_list_ttl(&mut self, list_ttl: Duration) {
        self.list_ttl = list_ttl;
    }

    /// Creates an empty table whose lists are valid for `list_ttl`. `index_users` enables
    /// [`Membership::threads_of`].
    pub(super) fn new(list_ttl: Duration, index_users: bool) -> Membership {
        Membership {
            list_ttl,
            records: HashMap::new(),
            by_age: BTreeMap::new(),
            last_age: 0,
            participants: 0,
            held_by_connection: HashMap::new(),
            last_unanswered: None,
            outage: false,
            threads_of: index_users.then(HashMap::new),
        }
    }

    /// Returns whether a user is a member of a thread, now and for `ahead` from now.
    pub(super) fn access(&self, thread: u64, user: u64, now: Instant, ahead: Duration) -> Access {
        let Some(record) = self.records.get(&thread) else {
            return Access::Unknown;
        };
        let failed = record.failure_of(user, now);
        if let Some(list) =
            record.list.as_ref().filter(|list| list.age(now + ahead) <= self.list_ttl)
        {
            if list.has(user) {
                let is_fresh = list.age(now + ahead) <= self.list_ttl * 3 / 4;
                let is_settled = is_fresh || record.query.is_some() || failed.is_some();
                return if is_settled { Access::Member } else { Access::StaleMember };
            }
        } else if self.outage && failed.is_some() {
            let last = record.list.as_ref().filter(|list| list.age(now) <= OUTAGE_MAX_AGE);
            if last.is_some_and(|list| list.has(user)) {
                return Access::Member;
            }
        }
        if record.refused.iter().any(|(who, until)| *who == user && *until > now) {
            return Access::NonMember;
        }
        // A user who joined after the list was made may cause a new query.
        failed.map_or(Access::Unknown, Access::Failed)
    }

    /// Whether the list is recent enough to deliver a message to the thread's subscribers.
    pub(super) fn is_current(&self, thread: u64, now: Instant) -> bool {
        let list_ttl = if self.outage { OUTAGE_MAX_AGE } else { self.list_ttl };
        self.list(thread).is_some_and(|list| list.age(now) <= list_ttl)
    }

    /// Records that the site has answered any request, which ends an outage.
    pub(super) fn note_site_answer(&mut self) {
        (self.last_unanswered, self.outage) = (None, false);
    }

    /// Records that the site has not answered this user's query. An outage begins when that happens
    /// to two users in a row: a failure for one user may have other reasons.
    pub(super) fn note_site_failure(&mut self, user: u64) {
        self.outage |= self.last_unanswered.is_some_and(|other| other != user);
        self.last_unanswered = Some(user);
    }

    /// Whether a frame of this connection waits for the list of a thread.
    pub(super) fn has_held_frame(&self, thread: u64, conn: ConnId) -> bool {
        let held = self.records.get(&thread).map(|record| &record.held);
        held.into_iter()
            .flatten()
            .any(|held| matches!(held, Held::Frame { conn: other, .. } if *other == conn))
    }

    /// Returns the thread for which the latest held frame of a connection waits.
    pub(super) fn last_held_thread(&self, conn: ConnId) -> Option<u64> {
        self.held_by_connection.get(&conn)?.last().copied()
    }

    /// Whether a user may have joined a thread since its list was made.
    pub(super) fn can_have_joined(&self, thread: u64, user: u64, now: Instant) -> bool {
        self.list(thread).is_some_and(|list| !list.has(user) && list.age(now) > RECHECK_MIN_AGE)
    }

    /// Whether there is no list of a thread, not even an old one.
    pub(super) fn is_unlisted(&self, thread: u64) -> bool {
        self.list(thread).is_none()
    }

    /// Whether the last list has this user, whatever its age.
    pub(super) fn is_member(&self, thread: u64, user: u64) -> bool {
        self.list(thread).is_some_and(|list| list.has(user))
    }

    /// Whether the last list has both users and is recent enough to be used in an outage.
    pub(super) fn has_recent_members(&self, thread: u64, users: [u64; 2], now: Instant) -> bool {
        let last = self.list(thread).filter(|list| list.age(now) <= OUTAGE_MAX_AGE);
        last.is_some_and(|list| users.iter().all(|user| list.has(*user)))
    }

    /// Returns why the site has not answered, if this user's query for the list failed a moment
    /// ago.
    pub(super) fn failure(&self, thread: u64, user: u64, now: Instant) -> Option<Failure> {
        self.records.get(&thread)?.failure_of(user, now)
    }

    // ---- queries

    /// Requests the list with a participant's credential; false if a query is pending already.
    pub(super) fn request_list(&mut self, thread: u64, user: u64, credential: &Credential) -> bool {
        let record = self.record(thread);
        let new = record.query.is_none();
        if new {
            let credential = credential.clone();
            record.query = Some(ParticipantQuery { credential, user, asked_at: None });
        }
        new
    }

    /// Marks the pending query as sent and returns its credential; `None` if it was already sent or
    /// has been cancelled.
    pub(super) fn begin_query(&mut self, thread: u64, now: RequestTime) -> Option<Credential> {
        let query = self.records.get_mut(&thread)?.query.as_mut()?;
        if query.asked_at.is_some() {
            return None;
        }
        query.asked_at = Some(now);
        Some(query.credential.clone())
    }

    /// Records the site's answer and returns the user and credential of the query.
    pub(super) fn record_answer(
        &mut self,
        thread: u64,
        result: Result<Box<[u64]>, Failure>,
        now: Instant,
    ) -> Option<(u64, Credential)> {
        let list_ttl = self.list_ttl;
        let record = self.records.get_mut(&thread)?;
        let ParticipantQuery { credential, user, asked_at } = record.query.take()?;
        match (result, asked_at) {
            (Ok(users), Some(asked_at))
                if now.saturating_duration_since(asked_at.at) <= list_ttl =>
            {
                if users.binary_search(&user).is_err() {
                    record.note_refusal(user, now);
                }
                self.set_list(thread, users, asked_at);
            }
            // The list was valid when the site was asked, and has expired by now.
            (Ok(_), _) => {
                let failure = Failure::SiteUnavailable { retry_after_s: None };
                record.note_failure(user, failure, now + RETRY_AFTER, now);
            }
            (Err(Failure::NotParticipant), asked_at) => {
                // A list that was requested later is more recent than this answer.
                let newer = record.list.as_ref().is_some_and(|list| {
                    list.has(user)
                        && asked_at
                            .is_some_and(|asked_at| asked_at.request_id < list.asked_at.request_id)
                });
                if !newer {
                    record.note_refusal(user, now);
                    self.remove_member(thread, user);
                }
            }
            (Err(Failure::ThreadTooLarge), _) => record.too_large = Some(now + TOO_LARGE_TTL),
            // The credential is at fault, not the thread.
            (Err(failure), _) if failure.is_credential_rejection() => {}
            (Err(Failure::Overloaded), _) => {
                record.note_failure(user, Failure::Overloaded, now + OVERLOAD_BACKOFF, now);
            }
            (Err(failure), _) => {
                record.note_failure(user, failure, now + RETRY_AFTER, now);
                self.note_site_failure(user);
            }
        }
        Some((user, credential))
    }

    /// Removes one user from a list.
    fn remove_member(&mut self, thread: u64, user: u64) {
        let list = self.records.get_mut(&thread).and_then(|record| record.list.as_mut());
        if let Some(list) = list.filter(|list| list.has(user)) {
            list.users = list.users.iter().copied().filter(|other| *other != user).collect();
            self.participants -= 1;
            if let Some(threads_of) = &mut self.threads_of {
                unindex(threads_of, user, thread);
            }
        }
    }

    /// Records that the site has added users to a thread or removed them. Lists that the site may
    /// have made before are corrected when they arrive.
    pub(super) fn change(&mut self, thread: u64, users: &[u64], is_added: bool, at: RequestTime) {
        let record = self.record(thread);
        for user in users {
            record.changes.retain(|(other, ..)| other != user);
            record.changes.push_back((*user, is_added, at));
            if is_added {
                record.refused.retain(|(other, _)| other != user);
            }
        }
        let overflows = record.changes.len() > CHANGES_MAX;
        if overflows {
            record.changes.clear();
        }
        match (record.list.take(), overflows) {
            (Some(list), false) => {
                let (before, asked_at) = (list.users.clone(), list.asked_at);
                record.list = Some(list);
                let mut changed: Vec<u64> =
                    before.iter().copied().filter(|user| !users.contains(user)).collect();
                if is_added {
                    changed.extend(users);
                }
                changed.sort_unstable();
                changed.dedup();
                self.replace_list(thread, changed.into(), asked_at);
            }
            (Some(list), true) => {
                record.list = Some(list);
                self.drop_list(thread);
            }
            (None, _) => {}
        }
    }

    /// Forgets the list of a thread: it no longer exists, and its number may be used again.
    pub(super) fn forget_thread(&mut self, thread: u64) {
        if let Some(record) = self.records.get_mut(&thread) {
            record.changes.clear();
            record.too_large = None;
            record.refused.clear();
        }
        self.drop_list(thread);
    }

    /// Forgets all lists: the site may have changed them unnoticed.
    pub(super) fn forget_lists(&mut self) {
        let mut threads: Vec<u64> = self.records.keys().copied().collect();
        // The order of a hash map differs between runs.
        threads.sort_unstable();
        for thread in threads {
            self.drop_list(thread);
        }
    }

    fn drop_list(&mut self, thread: u64) {
        let Some(list) = self.records.get_mut(&thread).and_then(|record| record.list.take()) else {
            return;
        };
        self.participants -= list.users.len();
        if let Some(threads_of) = &mut self.threads_of {
            for user in &list.users {
                unindex(threads_of, *user, thread);
            }
        }
    }

    /// Stores the list in an event about a message.
    pub(super) fn set_event_list(&mut self, thread: u64, users: Box<[u64]>, at: RequestTime) {
        let record = self.record(thread);
        record.too_large = None;
        let users = record.correct_event(users, at.at);
        self.replace_list(thread, users, at);
    }

    /// Stores a list that was valid at `asked_at` or later. It is ignored if the current list was
    /// requested later.
    pub(super) fn set_list(&mut self, thread: u64, users: Box<[u64]>, asked_at: RequestTime) {
        let record = self.record(thread);
        record.too_large = None;
        if record.list.as_ref().is_some_and(|list| list.asked_at.request_id > asked_at.request_id) {
            return;
        }
        let users = record.correct(users, asked_at);
        self.replace_list(thread, users, asked_at);
    }

    fn replace_list(&mut self, thread: u64, users: Box<[u64]>, asked_at: RequestTime) {
        let record = self.record(thread);
        record.refused.retain(|(user, _)| users.binary_search(user).is_err());
        record.failed.retain(|(user, ..)| users.binary_search(user).is_err());
        let before = record.list.take();
        let gone = before.as_ref().map_or(&[][..], |list| &list.users);
        self.participants += users.len();
        self.participants -= gone.len();
        if let Some(threads_of) = &mut self.threads_of {
            for user in gone.iter().filter(|user| users.binary_search(user).is_err()) {
                unindex(threads_of, *user, thread);
            }
            for user in users.iter().filter(|user| gone.binary_search(user).is_err()) {
                threads_of.entry(*user).or_default().push(thread);
            }
        }
        self.record(thread).list = Some(ParticipantList { users, asked_at });
        self.touch(thread);
        self.evict();
    }

    /// Holds a frame or message until the list arrives.
    pub(super) fn hold(&mut self, thread: u64, held: Held) {
        if let Held::Frame { conn, .. } = &held {
            self.held_by_connection.entry(*conn).or_default().push(thread);
        }
        self.record(thread).held.push_back(held);
    }

    /// Takes everything that waits for the list, in order.
    pub(super) fn release_held(&mut self, thread: u64) -> VecDeque<Held> {
        let held = self.records.get_mut(&thread).map(|record| std::mem::take(&mut record.held));
        let held = held.unwrap_or_default();
        for held in &held {
            if let Held::Frame { conn, .. } = held {
                self.unlink_held(*conn, thread);
            }
        }
        held
    }

    /// Removes the held frames of a connection, and queued queries that nothing else waits for.
    /// Returns the frames.
    pub(super) fn close(&mut self, conn: ConnId) -> Vec<(u64, HeldText)> {
        let mut frames = Vec::new();
        let mut threads = self.held_by_connection.remove(&conn).unwrap_or_default();
        threads.sort_unstable();
        threads.dedup();
        for thread in threads {
            let Some(record) = self.records.get_mut(&thread) else { continue };
            for held in std::mem::take(&mut record.held) {
                match held {
                    Held::Frame { conn: other, user, text } if other == conn => {
                        frames.push((user, text));
                    }
                    other => record.held.push_back(other),
                }
            }
            if record.held.is_empty() && record.is_queued() {
                record.query = None;
            }
        }
        frames
    }

    /// Whether a query for a thread is queued and has not been sent.
    pub(super) fn is_queued(&self, thread: u64) -> bool {
        self.records.get(&thread).is_some_and(ThreadRecord::is_queued)
    }

    /// Whether a query for a thread is queued or in flight.
    pub(super) fn has_query(&self, thread: u64) -> bool {
        self.records.get(&thread).is_some_and(|record| record.query.is_some())
    }

    /// Whether there is a list for a thread, whatever its age.
    pub(super) fn has_list(&self, thread: u64) -> bool {
        self.list(thread).is_some()
    }

    fn unlink_held(&mut self, conn: ConnId, thread: u64) {
        if let Some(threads) = self.held_by_connection.get_mut(&conn) {
            if let Some(at) = threads.iter().position(|other| *other == thread) {
                threads.swap_remove(at);
            }
            if threads.is_empty() {
                self.held_by_connection.remove(&conn);
            }
        }
    }

    /// Takes the stored messages for which this answer is the final one.
    pub(super) fn release_own_messages(&mut self, thread: u64) -> Vec<(PendingMessage, Stored)> {
        let mut own = Vec::new();
        for held in self.release_held(thread) {
            match held {
                Held::Message { stored, is_final: true } => own.push(*stored),
                other => self.hold(thread, other),
            }
        }
        own
    }

    /// Takes all held messages, ordered by thread.
    pub(super) fn take_messages(&mut self) -> Vec<(PendingMessage, Stored)> {
        let mut threads: Vec<u64> = self.records.keys().copied().collect();
        // The order of a hash map differs between runs.
        threads.sort_unstable();
        let mut messages = Vec::new();
        for thread in threads {
            let Some(record) = self.records.get_mut(&thread) else { continue };
            for held in std::mem::take(&mut record.held) {
                match held {
                    Held::Message { stored, .. } => messages.push(*stored),
                    frame => record.held.push_back(frame),
                }
            }
        }
        messages
    }

    /// Returns the threads whose last list has this user; empty without the index.
    pub(super) fn threads_of(&self, user: u64) -> &[u64] {
        let threads = self.threads_of.as_ref().and_then(|index| index.get(&user));
        threads.map_or(&[], Vec::as_slice)
    }

    /// Returns the participants on the last list of a thread.
    pub(super) fn participants(&self, thread: u64) -> &[u64] {
        self.list(thread).map_or(&[], |list| &list.users)
    }

    // ---- records

    fn list(&self, thread: u64) -> Option<&ParticipantList> {
        self.records.get(&thread)?.list.as_ref()
    }

    fn record(&mut self, thread: u64) -> &mut ThreadRecord {
        if let Entry::Vacant(vacant) = self.records.entry(thread) {
            vacant.insert(ThreadRecord::default());
            self.touch(thread);
            self.evict();
        }
        self.records.entry(thread).or_default()
    }

    fn touch(&mut self, thread: u64) {
        self.last_age += 1;
        if let Some(record) = self.records.get_mut(&thread) {
            self.by_age.remove(&record.age);
            record.age = self.last_age;
            self.by_age.insert(self.last_age, thread);
        }
    }

    /// Evicts the oldest idle records while there are too many. Records with held frames or a query
    /// are never evicted; other limits bound how many frames are held.
    fn evict(&mut self) {
        while self.by_age.len() > THREADS_MAX || self.participants > PARTICIPANTS_MAX {
            let busy = |record: &ThreadRecord| record.query.is_some() || !record.held.is_empty();
            // The youngest record is being created or updated.
            let idle = self.by_age.iter().take(EVICTION_SCAN_MAX).find(|(age, thread)| {
                **age != self.last_age && !self.records.get(*thread).is_some_and(busy)
            });
            let Some((age, thread)) = idle.map(|(age, thread)| (*age, *thread)) else {
                // All examined records are busy. They are bounded and become idle soon.
                return;
            };
            self.by_age.remove(&age);
            if let Some(list) = self.records.remove(&thread).and_then(|record| record.list) {
                self.participants -= list.users.len();
                if let Some(threads_of) = &mut self.threads_of {
                    for user in &list.users {
                        unindex(threads_of, *user, thread);
                    }
                }
            }
        }
    }

    /// Returns how many threads have a record.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.records.len()
    }

    /// Asserts that the tables agree with each other.
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.records.len(), self.by_age.len());
        let lists = || self.records.values().filter_map(|record| record.list.as_ref());
        assert_eq!(self.participants, lists().map(|list| list.users.len()).sum::<usize>());
        for (thread, record) in &self.records {
            assert_eq!(self.by_age.get(&record.age), Some(thread));
            assert!(record.held.is_empty() || record.query.is_some(), "held without a query");
        }
        if let Some(index) = &self.threads_of {
            assert_eq!(index.values().map(Vec::len).sum::<usize>(), self.participants);
        }
    }
}

fn unindex(threads_of: &mut HashMap<u64, Vec<u64>>, user: u64, thread: u64) {
    if let Some(threads) = threads_of.get_mut(&user) {
        threads.retain(|other| *other != thread);
        if threads.is_empty() {
            threads_of.remove(&user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::interface::RequestId;

    #[test]
    fn load_shedding_is_cheap_when_oldest_are_busy() {
        let now = Instant::now();
        let credential = Credential::parse("t").expect("a token");
        let mut costs = Vec::new();
        for busy in [1000_u64, 2000, 4000, 8000] {
            let mut membership = Membership::new(Duration::from_secs(60), false);
            for thread in 1..=50_000 {
                let asked = RequestTime { at: now, request_id: RequestId(thread) };
                membership.set_list(thread, Box::new([7]), asked);
            }
            for thread in 1..=busy {
                membership.request_list(thread, 7, &credential);
            }
            let begun = Instant::now();
            for n in 1..busy {
                membership.request_list(100_000 + n, 7, &credential);
            }
            let all = begun.elapsed();
            let begun = Instant::now();
            membership.request_list(200_000, 7, &credential);
            costs.push((busy, begun.elapsed(), all, membership.count()));
        }
        // It was forty milliseconds.
        assert!(costs.iter().all(|(_, one, ..)| *one < Duration::from_millis(5)), "{costs:?}");
    }
}

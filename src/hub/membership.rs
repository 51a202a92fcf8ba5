//! Who takes part in a thread, as the site has said, and what waits for its word.
//!
//! The list is the thread's: one answer serves every participant. It holds for a time, counted from
//! when the site was asked, and each answer to a POST that holds all of it renews it (`PROTOCOL.md`
//! 4). A thread's number can come to mean another thread (CONTRACT 5), so nothing older counts.

mod participants;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::authentication::proofs::RETRY_AFTER;
use super::delivery::{PendingMessage, RequestTime};
use super::failure::Failure;
use super::held_frames::HeldText;
use super::interface::{ConnId, Stored};
use crate::protocol::credential::Credential;
pub use participants::Held;
use participants::{ParticipantList, ParticipantQuery, TOO_LARGE_TTL, ThreadRecord};

/// How long a list may be used while the site does not answer.
const OUTAGE_MAX_AGE: Duration = Duration::from_secs(600);
/// How old a list is at least before the site is asked again who else may have come.
const RECHECK_MIN_AGE: Duration = Duration::from_secs(10);
/// How long a full queue is not tried again.
const OVERLOAD_BACKOFF: Duration = Duration::from_secs(1);
/// How many of the oldest are looked at for one that may go.
const EVICTION_SCAN_MAX: usize = 64;
/// Threads whose lists are kept, and people on them all; the oldest list goes.
const THREADS_MAX: usize = 50_000;
const PARTICIPANTS_MAX: usize = 2_000_000;

/// Whether a user takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Yes.
    Member,
    /// Yes, and the list should be renewed soon.
    StaleMember,
    /// No.
    NonMember,
    /// The site has to be asked.
    Unknown,
    /// The site was asked a moment ago, and did not say.
    Failed(Failure),
}

/// All threads of which the site has said who takes part, or is being asked.
#[derive(Debug)]
pub struct Membership {
    list_ttl: Duration,
    records: HashMap<u64, ThreadRecord>,
    by_age: BTreeMap<u64, u64>,
    last_age: u64,
    participants: usize,
    /// In which threads frames of a connection wait.
    held_by_connection: HashMap<ConnId, Vec<u64>>,
    /// The user of the last question that the site did not answer, since it has answered one.
    last_unanswered: Option<u64>,
    /// It has not answered two users in a row.
    outage: bool,
    /// The threads of each user, if anyone wants to know.
    threads_of: Option<HashMap<u64, Vec<u64>>>,
}

impl Membership {
    /// Lists hold for so long from now on, also those that are there.
    pub fn set_list_ttl(&mut self, list_ttl: Duration) {
        self.list_ttl = list_ttl;
    }

    /// An empty table, whose lists hold for `list_ttl`. It can tell a user's threads if it is to
    /// `index_users`.
    pub fn new(list_ttl: Duration, index_users: bool) -> Membership {
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

    /// Whether a user takes part in a thread now and for `ahead` from now.
    pub fn access(&self, thread: u64, user: u64, now: Instant, ahead: Duration) -> Access {
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
        // Who has come since the list was made may ask themselves.
        failed.map_or(Access::Unknown, Access::Failed)
    }

    /// Whether what is sent to a thread now reaches its participants and nobody else.
    pub fn is_current(&self, thread: u64, now: Instant) -> bool {
        let list_ttl = if self.outage { OUTAGE_MAX_AGE } else { self.list_ttl };
        self.list(thread).is_some_and(|list| list.age(now) <= list_ttl)
    }

    /// Notes that the site has answered something, whatever.
    pub fn note_site_answer(&mut self) {
        (self.last_unanswered, self.outage) = (None, false);
    }

    /// Notes that the site has not answered this user's question. It is out of order once it has
    /// failed two in a row: there may be reasons to fail one.
    pub fn note_site_failure(&mut self, user: u64) {
        self.outage |= self.last_unanswered.is_some_and(|other| other != user);
        self.last_unanswered = Some(user);
    }

    /// Whether a frame of this connection waits for the site's word on a thread.
    pub fn has_held_frame(&self, thread: u64, conn: ConnId) -> bool {
        let held = self.records.get(&thread).map(|record| &record.held);
        held.into_iter()
            .flatten()
            .any(|held| matches!(held, Held::Frame { conn: other, .. } if *other == conn))
    }

    /// The thread for which what a connection has said last waits, of what waits.
    pub fn last_held_thread(&self, conn: ConnId) -> Option<u64> {
        self.held_by_connection.get(&conn)?.last().copied()
    }

    /// Whether a user may have come into a thread since its list was made.
    pub fn can_have_joined(&self, thread: u64, user: u64, now: Instant) -> bool {
        self.list(thread).is_some_and(|list| !list.has(user) && list.age(now) > RECHECK_MIN_AGE)
    }

    /// Whether the last list has this user, however old it is.
    pub fn is_member(&self, thread: u64, user: u64) -> bool {
        self.list(thread).is_some_and(|list| list.has(user))
    }

    /// Whether both took part when the site last said so, for as long as that counts while it is
    /// silent.
    pub fn has_recent_members(&self, thread: u64, users: [u64; 2], now: Instant) -> bool {
        let last = self.list(thread).filter(|list| list.age(now) <= OUTAGE_MAX_AGE);
        last.is_some_and(|list| users.iter().all(|user| list.has(*user)))
    }

    /// Why the site has not said who takes part, if this user has asked a moment ago.
    pub fn failure(&self, thread: u64, user: u64, now: Instant) -> Option<Failure> {
        self.records.get(&thread)?.failure_of(user, now)
    }

    // ---- questions

    /// Wants the site to be asked with a participant's credential. True if it was not already.
    pub fn request_list(&mut self, thread: u64, user: u64, credential: &Credential) -> bool {
        let record = self.record(thread);
        let new = record.query.is_none();
        if new {
            let credential = credential.clone();
            record.query = Some(ParticipantQuery { credential, user, asked_at: None });
        }
        new
    }

    /// The credential to ask with, now.
    pub fn begin_query(&mut self, thread: u64, now: RequestTime) -> Option<Credential> {
        // It may have been asked already, or not be wanted any more.
        let query = self.records.get_mut(&thread)?.query.as_mut()?;
        if query.asked_at.is_some() {
            return None;
        }
        query.asked_at = Some(now);
        Some(query.credential.clone())
    }

    /// Takes the site's word. Returns whose credential it was asked with.
    pub fn record_answer(
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
            // What the site has said is too old to be of use.
            (Ok(_), _) => {
                let failure = Failure::SiteUnavailable { retry_after_s: None };
                record.note_failure(user, failure, now + RETRY_AFTER, now);
            }
            (Err(Failure::NotParticipant), asked_at) => {
                // A list that was asked for later knows better.
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
            // The credential's fault, not the thread's.
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

    /// Takes one user off a list.
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

    /// Takes a list that was true when it was `asked_at` for, or later. One that was asked for before
    /// the list that there is says nothing new.
    pub fn set_list(&mut self, thread: u64, users: Box<[u64]>, asked_at: RequestTime) {
        let record = self.record(thread);
        record.too_large = None;
        if record.list.as_ref().is_some_and(|list| list.asked_at.request_id > asked_at.request_id) {
            return;
        }
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

    /// Lets something wait for the site's word.
    pub fn hold(&mut self, thread: u64, held: Held) {
        if let Held::Frame { conn, .. } = &held {
            self.held_by_connection.entry(*conn).or_default().push(thread);
        }
        self.record(thread).held.push_back(held);
    }

    /// Takes all that waits for the site's word, in order.
    pub fn release_held(&mut self, thread: u64) -> VecDeque<Held> {
        let held = self.records.get_mut(&thread).map(|record| std::mem::take(&mut record.held));
        let held = held.unwrap_or_default();
        for held in &held {
            if let Held::Frame { conn, .. } = held {
                self.unlink_held(*conn, thread);
            }
        }
        held
    }

    /// Takes back what a connection has said, and the questions that only that has caused. Returns
    /// the frames.
    pub fn close(&mut self, conn: ConnId) -> Vec<(u64, HeldText)> {
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

    /// Whether a question about a thread stands in line.
    pub fn is_queued(&self, thread: u64) -> bool {
        self.records.get(&thread).is_some_and(ThreadRecord::is_queued)
    }

    /// Whether the site is being asked about a thread, or is about to be.
    pub fn has_query(&self, thread: u64) -> bool {
        self.records.get(&thread).is_some_and(|record| record.query.is_some())
    }

    /// Whether the site has ever said who takes part, as far as is remembered.
    pub fn has_list(&self, thread: u64) -> bool {
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

    /// Takes the stored messages that wait for this one answer.
    pub fn release_own_messages(&mut self, thread: u64) -> Vec<Box<(PendingMessage, Stored)>> {
        let mut own = Vec::new();
        for held in self.release_held(thread) {
            match held {
                Held::Message { stored, is_final: true } => own.push(stored),
                other => self.hold(thread, other),
            }
        }
        own
    }

    /// Takes all stored messages that wait, in the order of their threads.
    pub fn take_messages(&mut self) -> Vec<Box<(PendingMessage, Stored)>> {
        let mut threads: Vec<u64> = self.records.keys().copied().collect();
        // A map's order differs from run to run.
        threads.sort_unstable();
        let mut messages = Vec::new();
        for thread in threads {
            let Some(record) = self.records.get_mut(&thread) else { continue };
            for held in std::mem::take(&mut record.held) {
                match held {
                    Held::Message { stored, .. } => messages.push(stored),
                    frame => record.held.push_back(frame),
                }
            }
        }
        messages
    }

    /// The threads in which the last lists have this user; none unless users are indexed.
    pub fn threads_of(&self, user: u64) -> &[u64] {
        let threads = self.threads_of.as_ref().and_then(|index| index.get(&user));
        threads.map_or(&[], Vec::as_slice)
    }

    /// The people on the last list of a thread.
    pub fn participants(&self, thread: u64) -> &[u64] {
        self.list(thread).map_or(&[], |list| &list.users)
    }

    // ---- the table

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

    /// Drops the oldest lists while there are too many. What waits is never dropped: it is bounded
    /// by those who may let something wait.
    fn evict(&mut self) {
        while self.by_age.len() > THREADS_MAX || self.participants > PARTICIPANTS_MAX {
            let busy = |record: &ThreadRecord| record.query.is_some() || !record.held.is_empty();
            // The youngest is the one that is being made.
            let idle = self.by_age.iter().take(EVICTION_SCAN_MAX).find(|(age, thread)| {
                **age != self.last_age && !self.records.get(*thread).is_some_and(busy)
            });
            let Some((age, thread)) = idle.map(|(age, thread)| (*age, *thread)) else {
                // So many wait: they are bounded, and leave soon.
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

    /// How many threads there are.
    pub fn count(&self) -> usize {
        self.records.len()
    }

    /// Asserts that the tables agree with each other.
    pub fn check_invariants(&self) {
        assert_eq!(self.records.len(), self.by_age.len());
        let lists = || self.records.values().filter_map(|record| record.list.as_ref());
        assert_eq!(self.participants, lists().map(|list| list.users.len()).sum::<usize>());
        for (thread, record) in &self.records {
            assert_eq!(self.by_age.get(&record.age), Some(thread));
            assert!(record.held.is_empty() || record.query.is_some(), "what waits is asked about");
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

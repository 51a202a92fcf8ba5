//! Who takes part in a thread, as the site has said, and what waits for its word.
//!
//! The list is the thread's: one answer serves every participant. It holds for a time, counted from
//! when the site was asked, and each answer to a POST that holds all of it renews it (`PROTOCOL.md`
//! 4). A thread's number can come to mean another thread (CONTRACT 5), so nothing older counts.

mod roll;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::delivery::{Asked, Job};
use super::failure::Failure;
use super::identity::proofs::RETRY_AFTER;
use super::interface::{ConnId, Stored};
use super::waiting::HeldText;
use crate::protocol::credential::Credential;
pub use roll::Held;
use roll::{List, Question, Roll, TOO_LARGE_LASTS};

/// How long a list may be used while the site does not answer.
const OUTAGE_LASTS: Duration = Duration::from_secs(600);
/// How old a list is at least before the site is asked again who else may have come.
const COMPANY_LASTS: Duration = Duration::from_secs(10);
/// How long a full queue is not tried again.
const OVERLOAD_LASTS: Duration = Duration::from_secs(1);
/// How many of the oldest are looked at for one that may go.
const SHED_LOOKS_AT: usize = 64;
/// Threads whose lists are kept, and people on them all; the oldest list goes.
const ROLLS_MAX: usize = 50_000;
const PEOPLE_MAX: usize = 2_000_000;

/// Whether a user takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Yes.
    Member,
    /// Yes, and the list should be renewed soon.
    MemberForNow,
    /// No.
    Stranger,
    /// The site has to be asked.
    Ask,
    /// The site was asked a moment ago, and did not say.
    Failed(Failure),
}

/// All threads of which the site has said who takes part, or is being asked.
#[derive(Debug)]
pub struct Membership {
    lasts: Duration,
    rolls: HashMap<u64, Roll>,
    by_age: BTreeMap<u64, u64>,
    ages: u64,
    people: usize,
    /// In which threads frames of a connection wait.
    waits: HashMap<ConnId, Vec<u64>>,
    /// The user of the last question that the site did not answer, since it has answered one.
    silent: Option<u64>,
    /// It has not answered two users in a row.
    outage: bool,
    /// The threads of each user, if anyone wants to know.
    threads_of: Option<HashMap<u64, Vec<u64>>>,
}

impl Membership {
    /// Lists hold for so long from now on, also those that are there.
    pub fn set_lasts(&mut self, lasts: Duration) {
        self.lasts = lasts;
    }

    /// An empty table, whose lists hold for `lasts`. It can tell a user's threads if it is to
    /// `index_users`.
    pub fn new(lasts: Duration, index_users: bool) -> Membership {
        Membership {
            lasts,
            rolls: HashMap::new(),
            by_age: BTreeMap::new(),
            ages: 0,
            people: 0,
            waits: HashMap::new(),
            silent: None,
            outage: false,
            threads_of: index_users.then(HashMap::new),
        }
    }

    /// Whether a user takes part in a thread now and for `ahead` from now.
    pub fn word(&self, thread: u64, user: u64, now: Instant, ahead: Duration) -> Word {
        let Some(roll) = self.rolls.get(&thread) else {
            return Word::Ask;
        };
        let failed = roll.failure_of(user, now);
        if let Some(list) = roll.list.as_ref().filter(|list| list.age(now + ahead) <= self.lasts) {
            if list.has(user) {
                let young = list.age(now + ahead) <= self.lasts * 3 / 4;
                let rests = young || roll.question.is_some() || failed.is_some();
                return if rests { Word::Member } else { Word::MemberForNow };
            }
        } else if self.outage && failed.is_some() {
            let last = roll.list.as_ref().filter(|list| list.age(now) <= OUTAGE_LASTS);
            if last.is_some_and(|list| list.has(user)) {
                return Word::Member;
            }
        }
        if roll.refused.iter().any(|(who, until)| *who == user && *until > now) {
            return Word::Stranger;
        }
        // Who has come since the list was made may ask themselves.
        failed.map_or(Word::Ask, Word::Failed)
    }

    /// Whether what is sent to a thread now reaches its participants and nobody else.
    pub fn is_current(&self, thread: u64, now: Instant) -> bool {
        let lasts = if self.outage { OUTAGE_LASTS } else { self.lasts };
        self.list(thread).is_some_and(|list| list.age(now) <= lasts)
    }

    /// Notes that the site has answered something, whatever.
    pub fn site_answers(&mut self) {
        (self.silent, self.outage) = (None, false);
    }

    /// Notes that the site has not answered this user's question. It is out of order once it has
    /// failed two in a row: there may be reasons to fail one.
    pub fn site_is_silent(&mut self, user: u64) {
        self.outage |= self.silent.is_some_and(|other| other != user);
        self.silent = Some(user);
    }

    /// Whether a frame of this connection waits for the site's word on a thread.
    pub fn holds_frame_of(&self, thread: u64, conn: ConnId) -> bool {
        let held = self.rolls.get(&thread).map(|roll| &roll.held);
        held.into_iter()
            .flatten()
            .any(|held| matches!(held, Held::Frame { conn: other, .. } if *other == conn))
    }

    /// The thread for which what a connection has said last waits, of what waits.
    pub fn last_wait_of(&self, conn: ConnId) -> Option<u64> {
        self.waits.get(&conn)?.last().copied()
    }

    /// Whether a user may have come into a thread since its list was made.
    pub fn may_have_come(&self, thread: u64, user: u64, now: Instant) -> bool {
        self.list(thread).is_some_and(|list| !list.has(user) && list.age(now) > COMPANY_LASTS)
    }

    /// Whether the last list has this user, however old it is.
    pub fn lists(&self, thread: u64, user: u64) -> bool {
        self.list(thread).is_some_and(|list| list.has(user))
    }

    /// Whether both took part when the site last said so, for as long as that counts while it is
    /// silent.
    pub fn has_listed(&self, thread: u64, users: [u64; 2], now: Instant) -> bool {
        let last = self.list(thread).filter(|list| list.age(now) <= OUTAGE_LASTS);
        last.is_some_and(|list| users.iter().all(|user| list.has(*user)))
    }

    /// Why the site has not said who takes part, if this user has asked a moment ago.
    pub fn failure(&self, thread: u64, user: u64, now: Instant) -> Option<Failure> {
        self.rolls.get(&thread)?.failure_of(user, now)
    }

    // ---- questions

    /// Wants the site to be asked with a participant's credential. True if it was not already.
    pub fn want(&mut self, thread: u64, user: u64, credential: &Credential) -> bool {
        let roll = self.roll(thread);
        let new = roll.question.is_none();
        if new {
            let credential = credential.clone();
            roll.question = Some(Question { credential, user, asked: None });
        }
        new
    }

    /// The credential to ask with, now.
    pub fn ask(&mut self, thread: u64, now: Asked) -> Option<Credential> {
        // It may have been asked already, or not be wanted any more.
        let question = self.rolls.get_mut(&thread)?.question.as_mut()?;
        if question.asked.is_some() {
            return None;
        }
        question.asked = Some(now);
        Some(question.credential.clone())
    }

    /// Takes the site's word. Returns whose credential it was asked with.
    pub fn answered(
        &mut self,
        thread: u64,
        result: Result<Box<[u64]>, Failure>,
        now: Instant,
    ) -> Option<(u64, Credential)> {
        let lasts = self.lasts;
        let roll = self.rolls.get_mut(&thread)?;
        let Question { credential, user, asked } = roll.question.take()?;
        match (result, asked) {
            (Ok(users), Some(asked)) if now.saturating_duration_since(asked.at) <= lasts => {
                if users.binary_search(&user).is_err() {
                    roll.refuse(user, now);
                }
                self.set(thread, users, asked);
            }
            // What the site has said is too old to be of use.
            (Ok(_), _) => {
                let failure = Failure::SiteUnavailable { retry_after_s: None };
                roll.fail(user, failure, now + RETRY_AFTER, now);
            }
            (Err(Failure::NotParticipant), asked) => {
                // A list that was asked for later knows better.
                let newer = roll.list.as_ref().is_some_and(|list| {
                    list.has(user) && asked.is_some_and(|asked| asked.after < list.asked.after)
                });
                if !newer {
                    roll.refuse(user, now);
                    self.strike(thread, user);
                }
            }
            (Err(Failure::ThreadTooLarge), _) => roll.too_large = Some(now + TOO_LARGE_LASTS),
            // The credential's fault, not the thread's.
            (Err(failure), _) if failure.condemns() => {}
            (Err(Failure::Overloaded), _) => {
                roll.fail(user, Failure::Overloaded, now + OVERLOAD_LASTS, now);
            }
            (Err(failure), _) => {
                roll.fail(user, failure, now + RETRY_AFTER, now);
                self.site_is_silent(user);
            }
        }
        Some((user, credential))
    }

    /// Takes one user off a list.
    fn strike(&mut self, thread: u64, user: u64) {
        let list = self.rolls.get_mut(&thread).and_then(|roll| roll.list.as_mut());
        if let Some(list) = list.filter(|list| list.has(user)) {
            list.users = list.users.iter().copied().filter(|other| *other != user).collect();
            self.people -= 1;
            if let Some(threads_of) = &mut self.threads_of {
                unlist(threads_of, user, thread);
            }
        }
    }

    /// Takes a list that was true when it was `asked` for, or later. One that was asked for before
    /// the list that there is says nothing new.
    pub fn set(&mut self, thread: u64, users: Box<[u64]>, asked: Asked) {
        let roll = self.roll(thread);
        roll.too_large = None;
        if roll.list.as_ref().is_some_and(|list| list.asked.after > asked.after) {
            return;
        }
        roll.refused.retain(|(user, _)| users.binary_search(user).is_err());
        roll.failed.retain(|(user, ..)| users.binary_search(user).is_err());
        let before = roll.list.take();
        let gone = before.as_ref().map_or(&[][..], |list| &list.users);
        self.people += users.len();
        self.people -= gone.len();
        if let Some(threads_of) = &mut self.threads_of {
            for user in gone.iter().filter(|user| users.binary_search(user).is_err()) {
                unlist(threads_of, *user, thread);
            }
            for user in users.iter().filter(|user| gone.binary_search(user).is_err()) {
                threads_of.entry(*user).or_default().push(thread);
            }
        }
        self.roll(thread).list = Some(List { users, asked });
        self.renew_age(thread);
        self.shed();
    }

    /// Lets something wait for the site's word.
    pub fn hold(&mut self, thread: u64, held: Held) {
        if let Held::Frame { conn, .. } = &held {
            self.waits.entry(*conn).or_default().push(thread);
        }
        self.roll(thread).held.push_back(held);
    }

    /// Takes all that waits for the site's word, in order.
    pub fn release(&mut self, thread: u64) -> VecDeque<Held> {
        let held = self.rolls.get_mut(&thread).map(|roll| std::mem::take(&mut roll.held));
        let held = held.unwrap_or_default();
        for held in &held {
            if let Held::Frame { conn, .. } = held {
                self.waits_no_more(*conn, thread);
            }
        }
        held
    }

    /// Takes back what a connection has said, and the questions that only that has caused. Returns
    /// the frames.
    pub fn close(&mut self, conn: ConnId) -> Vec<(u64, HeldText)> {
        let mut frames = Vec::new();
        let mut threads = self.waits.remove(&conn).unwrap_or_default();
        threads.sort_unstable();
        threads.dedup();
        for thread in threads {
            let Some(roll) = self.rolls.get_mut(&thread) else { continue };
            for held in std::mem::take(&mut roll.held) {
                match held {
                    Held::Frame { conn: other, user, text } if other == conn => {
                        frames.push((user, text));
                    }
                    other => roll.held.push_back(other),
                }
            }
            if roll.held.is_empty() && roll.is_in_line() {
                roll.question = None;
            }
        }
        frames
    }

    /// Whether a question about a thread stands in line.
    pub fn is_in_line(&self, thread: u64) -> bool {
        self.rolls.get(&thread).is_some_and(Roll::is_in_line)
    }

    /// Whether the site is being asked about a thread, or is about to be.
    pub fn is_asked(&self, thread: u64) -> bool {
        self.rolls.get(&thread).is_some_and(|roll| roll.question.is_some())
    }

    /// Whether the site has ever said who takes part, as far as is remembered.
    pub fn has_list(&self, thread: u64) -> bool {
        self.list(thread).is_some()
    }

    fn waits_no_more(&mut self, conn: ConnId, thread: u64) {
        if let Some(threads) = self.waits.get_mut(&conn) {
            if let Some(at) = threads.iter().position(|other| *other == thread) {
                threads.swap_remove(at);
            }
            if threads.is_empty() {
                self.waits.remove(&conn);
            }
        }
    }

    /// Takes the stored messages that wait for this one answer.
    pub fn release_own(&mut self, thread: u64) -> Vec<Box<(Job, Stored)>> {
        let mut own = Vec::new();
        for held in self.release(thread) {
            match held {
                Held::Message { stored, asked: true } => own.push(stored),
                other => self.hold(thread, other),
            }
        }
        own
    }

    /// Takes all stored messages that wait, in the order of their threads.
    pub fn take_messages(&mut self) -> Vec<Box<(Job, Stored)>> {
        let mut threads: Vec<u64> = self.rolls.keys().copied().collect();
        // A map's order differs from run to run.
        threads.sort_unstable();
        let mut messages = Vec::new();
        for thread in threads {
            let Some(roll) = self.rolls.get_mut(&thread) else { continue };
            for held in std::mem::take(&mut roll.held) {
                match held {
                    Held::Message { stored, .. } => messages.push(stored),
                    frame => roll.held.push_back(frame),
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
    pub fn people(&self, thread: u64) -> &[u64] {
        self.list(thread).map_or(&[], |list| &list.users)
    }

    // ---- the table

    fn list(&self, thread: u64) -> Option<&List> {
        self.rolls.get(&thread)?.list.as_ref()
    }

    fn roll(&mut self, thread: u64) -> &mut Roll {
        if let Entry::Vacant(vacant) = self.rolls.entry(thread) {
            vacant.insert(Roll::default());
            self.renew_age(thread);
            self.shed();
        }
        self.rolls.entry(thread).or_default()
    }

    fn renew_age(&mut self, thread: u64) {
        self.ages += 1;
        if let Some(roll) = self.rolls.get_mut(&thread) {
            self.by_age.remove(&roll.age);
            roll.age = self.ages;
            self.by_age.insert(self.ages, thread);
        }
    }

    /// Drops the oldest lists while there are too many. What waits is never dropped: it is bounded
    /// by those who may let something wait.
    fn shed(&mut self) {
        while self.by_age.len() > ROLLS_MAX || self.people > PEOPLE_MAX {
            let busy = |roll: &Roll| roll.question.is_some() || !roll.held.is_empty();
            // The youngest is the one that is being made.
            let idle = self.by_age.iter().take(SHED_LOOKS_AT).find(|(age, thread)| {
                **age != self.ages && !self.rolls.get(*thread).is_some_and(busy)
            });
            let Some((age, thread)) = idle.map(|(age, thread)| (*age, *thread)) else {
                // So many wait: they are bounded, and leave soon.
                return;
            };
            self.by_age.remove(&age);
            if let Some(list) = self.rolls.remove(&thread).and_then(|roll| roll.list) {
                self.people -= list.users.len();
                if let Some(threads_of) = &mut self.threads_of {
                    for user in &list.users {
                        unlist(threads_of, *user, thread);
                    }
                }
            }
        }
    }

    /// How many threads there are.
    pub fn count(&self) -> usize {
        self.rolls.len()
    }

    /// Asserts that the tables agree with each other.
    pub fn check_invariants(&self) {
        assert_eq!(self.rolls.len(), self.by_age.len());
        let lists = || self.rolls.values().filter_map(|roll| roll.list.as_ref());
        assert_eq!(self.people, lists().map(|list| list.users.len()).sum::<usize>());
        for (thread, roll) in &self.rolls {
            assert_eq!(self.by_age.get(&roll.age), Some(thread));
            assert!(roll.held.is_empty() || roll.question.is_some(), "what waits is asked about");
        }
        if let Some(index) = &self.threads_of {
            assert_eq!(index.values().map(Vec::len).sum::<usize>(), self.people);
        }
    }
}

fn unlist(threads_of: &mut HashMap<u64, Vec<u64>>, user: u64, thread: u64) {
    if let Some(threads) = threads_of.get_mut(&user) {
        threads.retain(|other| *other != thread);
        if threads.is_empty() {
            threads_of.remove(&user);
        }
    }
}

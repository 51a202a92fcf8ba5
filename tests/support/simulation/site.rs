//! A simulated BuddyBoss site in virtual time: threads whose participants change, a store of messages,
//! and answers that are prompt, late, lost, wrong or errors.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use buddyline::hub::interface::{
    Answer, Ask, Failure, Lookup, LookupResult, Post, Proven, RequestId, Stored, StoredMessage,
    Target,
};
use buddyline::protocol::Id;
use buddyline::protocol::credential::Credential;

use crate::plan::SiteBehavior;
use crate::rng::Rng;

/// The users are 1 to this.
pub const USERS: u64 = 5;
/// The threads at the start are 1 to this.
pub const THREADS: u64 = 4;
/// Part of every token, and of nothing else.
pub const SECRET: &str = "sekret";
/// The server's timeout for a query.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A message in the site's store.
pub struct StoredPost {
    pub id: u64,
    pub thread: u64,
    pub sender: u64,
    pub text: String,
    at: Instant,
}

/// The thread and the sender of a message, as the site has reported them.
#[derive(Clone, Copy)]
pub struct ReportedMessage {
    pub thread: u64,
    pub sender: u64,
}

struct Token {
    user: u64,
    /// In seconds since 1970 on the site's clock.
    expires_s: Option<u64>,
    revoked: bool,
}

/// How the site answers a query.
#[derive(Clone, Debug)]
enum AnswerPlan {
    Succeeds,
    /// The site answers with this failure, and changes nothing.
    Fails(Failure),
    /// The site carries out the query, and the server sees this failure.
    Lost(Failure),
    AnswersFalsely,
}

struct PendingAsk {
    request: RequestId,
    ask: Ask,
    plan: AnswerPlan,
    processed_at: Instant,
    answered_at: Instant,
    /// The site's answer, once it has processed the query.
    answer: Option<Answer>,
    is_answered: bool,
}

pub struct Site {
    pub behavior: SiteBehavior,
    start: Instant,
    threads: BTreeMap<u64, Vec<(Instant, BTreeSet<u64>)>>,
    pub store: Vec<StoredPost>,
    /// Reports about messages, by text.
    pub reported: BTreeMap<String, ReportedMessage>,
    /// Wrong participants that the site has listed: thread, user, time.
    false_lists: Vec<(u64, u64, Instant)>,
    /// When the list of a thread last failed.
    failed_lists: BTreeMap<u64, Instant>,
    tokens: BTreeMap<String, Token>,
    /// Proven tokens with their users.
    pub proven: BTreeSet<(String, u64)>,
    /// The texts of all posts.
    pub posted: BTreeSet<String>,
    pending: Vec<PendingAsk>,
}

const START_S: u64 = 1_800_000_000;

impl Site {
    pub fn new(behavior: SiteBehavior, start: Instant, rng: &mut Rng) -> Site {
        let mut site = Site {
            behavior,
            start,
            threads: BTreeMap::new(),
            store: Vec::new(),
            reported: BTreeMap::new(),
            false_lists: Vec::new(),
            failed_lists: BTreeMap::new(),
            tokens: BTreeMap::new(),
            proven: BTreeSet::new(),
            posted: BTreeSet::new(),
            pending: Vec::new(),
        };
        for thread in 1..=THREADS {
            let participants = (1..=USERS).filter(|_| rng.chance(70)).collect();
            site.threads.insert(thread, vec![(start, participants)]);
        }
        site
    }

    /// The site's own clock, which does not jump.
    pub fn unix_s(&self, now: Instant) -> u64 {
        START_S + (now - self.start).as_secs()
    }

    // ---- tokens

    /// Issues a fresh token for this user.
    pub fn issue(&mut self, user: u64, now: Instant, rng: &mut Rng) -> String {
        let text = format!("{SECRET}-{user}-{:016x}", rng.next_u64());
        let lasts = self.behavior.tokens_expire && rng.chance(50);
        let expires_s = lasts.then(|| self.unix_s(now) + rng.range(20, 900));
        self.tokens.insert(text.clone(), Token { user, expires_s, revoked: rng.chance(2) });
        text
    }

    pub fn revoke(&mut self, token: &str) {
        if let Some(token) = self.tokens.get_mut(token) {
            token.revoked = true;
        }
    }

    fn caller(&self, credential: &Credential, now: Instant) -> Result<&Token, Failure> {
        let token = self.tokens.get(credential.secret()).ok_or(Failure::TokenRefused)?;
        match token {
            Token { revoked: true, .. } => Err(Failure::TokenRefused),
            Token { expires_s: Some(s), .. } if *s <= self.unix_s(now) => {
                Err(Failure::TokenExpired)
            }
            good => Ok(good),
        }
    }

    // ---- threads

    pub fn participants(&self, thread: u64) -> BTreeSet<u64> {
        let history = self.threads.get(&thread);
        history
            .and_then(|h| h.last())
            .map(|(_, participants)| participants.clone())
            .unwrap_or_default()
    }

    pub fn threads(&self) -> Vec<u64> {
        self.threads.keys().copied().collect()
    }

    /// Sets the participants of a thread from now on.
    pub fn change(&mut self, thread: u64, participants: BTreeSet<u64>, now: Instant) {
        self.threads.entry(thread).or_default().push((now, participants));
    }

    /// Whether a user was a participant of a thread at any time from `since` on, or was listed as one.
    pub fn took_part(&self, thread: u64, user: u64, since: Instant) -> bool {
        let history = self.threads.get(&thread).map_or(&[][..], Vec::as_slice);
        let was_participant = history.iter().enumerate().any(|(n, (_, participants))| {
            let until = history.get(n + 1).map(|(at, _)| *at);
            participants.contains(&user) && until.is_none_or(|until| until >= since)
        });
        was_participant
            || self.false_lists.iter().any(|(t, u, at)| (*t, *u) == (thread, user) && *at >= since)
    }

    /// Whether the server may have no valid list of a thread, so that it shows a message there to its
    /// author alone.
    pub fn may_lack_list(&self, thread: u64, now: Instant) -> bool {
        let recent = |at: &Instant| now - *at < Duration::from_secs(700);
        self.failed_lists.get(&thread).is_some_and(recent)
            || self.false_lists.iter().any(|(t, _, at)| *t == thread && recent(at))
    }

    // ---- queries

    pub fn ask(&mut self, request: RequestId, ask: Ask, now: Instant, rng: &mut Rng) -> String {
        let plan = self.plan(&ask, rng);
        let takes = |rng: &mut Rng, ms| Duration::from_millis(rng.below(ms + 1));
        let max_ms = if rng.chance(50) { 0 } else { self.behavior.latency_max_ms };
        let processed_at = now + takes(rng, max_ms);
        let answered_at = (processed_at + takes(rng, max_ms)).min(now + TIMEOUT).max(processed_at);
        let (processed_at, answered_at) = match &plan {
            // The site processes the query after the server's timeout.
            AnswerPlan::Lost(Failure::Unknown) if rng.chance(40) => {
                (now + TIMEOUT + takes(rng, 20_000), now + TIMEOUT)
            }
            _ => (processed_at, answered_at),
        };
        let summary = format!("{} {plan:?}", summary_of(&ask));
        if let Ask::Post(post) = &ask {
            // Only a message that was certainly not stored may be posted again.
            let stored = self.store.iter().any(|stored| *stored.text == *post.text);
            let pending = self
                .pending
                .iter()
                .filter(|q| !q.is_answered || q.answer.is_none())
                .any(|q| matches!(&q.ask, Ask::Post(other) if other.text == post.text));
            assert!(!stored && !pending, "posted twice: {}", post.text);
            self.posted.insert(post.text.to_string());
        }
        self.pending.push(PendingAsk {
            request,
            ask,
            plan,
            processed_at,
            answered_at,
            answer: None,
            is_answered: false,
        });
        summary
    }

    fn plan(&mut self, ask: &Ask, rng: &mut Rng) -> AnswerPlan {
        let wait = Some(rng.below(30) as u32);
        let unavailable = [
            Failure::SiteUnavailable { retry_after_s: None },
            Failure::SiteUnavailable { retry_after_s: wait },
            Failure::SiteBusy { retry_after_s: wait },
            Failure::SiteMisconfigured,
            Failure::Overloaded,
        ];
        match ask {
            Ask::Post(_) if rng.chance(self.behavior.post_failures_percent) => {
                let refused = [
                    Failure::NotStored,
                    Failure::RefusedBySite,
                    Failure::TooLarge,
                    Failure::CannotWrite,
                ];
                let uncertain = [Failure::Unknown, Failure::Unusable];
                match rng.below(4) {
                    0 => AnswerPlan::Fails(rng.pick(&unavailable)),
                    1 => AnswerPlan::Fails(rng.pick(&refused)),
                    2 => AnswerPlan::Fails(rng.pick(&uncertain)),
                    _ => AnswerPlan::Lost(rng.pick(&uncertain)),
                }
            }
            Ask::Prove(_)
            | Ask::Recheck(_)
            | Ask::CallPermission { .. }
            | Ask::Participants { .. }
                if rng.chance(self.behavior.query_failures_percent) =>
            {
                AnswerPlan::Fails(rng.pick(&unavailable))
            }
            Ask::Lookup(_) if rng.chance(self.behavior.post_failures_percent) => {
                AnswerPlan::Fails(rng.pick(&unavailable))
            }
            _ if rng.chance(self.behavior.false_answers_percent) => AnswerPlan::AnswersFalsely,
            _ => AnswerPlan::Succeeds,
        }
    }

    /// When the site next processes or answers a query.
    pub fn next_event(&self) -> Option<Instant> {
        let processed = self.pending.iter().filter(|q| q.answer.is_none()).map(|q| q.processed_at);
        let answered = self.pending.iter().filter(|q| !q.is_answered).map(|q| q.answered_at);
        processed.chain(answered).min()
    }

    /// How many queries are unanswered.
    pub fn waiting(&self) -> usize {
        self.pending.iter().filter(|q| !q.is_answered).count()
    }

    /// Processes the queries that are due, in order.
    pub fn work(&mut self, now: Instant, rng: &mut Rng) {
        loop {
            // Queries due at the same time are processed in the order in which they were sent.
            let due =
                |(_, q): &(usize, &mut PendingAsk)| q.answer.is_none() && q.processed_at <= now;
            let next = self.pending.iter_mut().enumerate().filter(due);
            let Some((n, query)) = next.min_by_key(|(n, q)| (q.processed_at, *n)) else { break };
            let (at, plan) = (query.processed_at, query.plan.clone());
            // A placeholder stands in for the query while it is processed.
            let placeholder = Ask::Participants { thread: 0, credential: placeholder_credential() };
            let ask = std::mem::replace(&mut query.ask, placeholder);
            let answer = match plan {
                AnswerPlan::Fails(failure) => Answer::Failed(failure),
                AnswerPlan::Succeeds => self.truth(&ask, at, rng),
                AnswerPlan::AnswersFalsely => {
                    let truth = self.truth(&ask, at, rng);
                    self.falsify(&ask, truth, at, rng)
                }
                AnswerPlan::Lost(failure) => {
                    self.truth(&ask, at, rng);
                    Answer::Failed(failure)
                }
            };
            (self.pending[n].answer, self.pending[n].ask) = (Some(answer), ask);
        }
        self.pending.retain(|query| query.answer.is_none() || !query.is_answered);
    }

    /// Takes the next answer that is due.
    pub fn answer(&mut self, now: Instant) -> Option<(RequestId, Answer)> {
        let due = |q: &&mut PendingAsk| !q.is_answered && q.answered_at <= now;
        let next = self.pending.iter_mut().filter(due).min_by_key(|q| (q.answered_at, q.request));
        let query = next?;
        query.is_answered = true;
        let answer = query.answer.clone().unwrap_or(Answer::Failed(Failure::Unknown));
        let request = query.request;
        let found = match &answer {
            Answer::LookupResult(LookupResult::Match { stored, .. }) => Some(stored),
            _ => None,
        };
        match (&query.ask, &answer) {
            (Ask::Lookup(lookup), _) => {
                if let Some(stored) = found {
                    let sender = stored.sender.site_number().expect("the site has numbers");
                    let report = ReportedMessage { thread: stored.thread, sender };
                    self.reported.insert(lookup.text.to_string(), report);
                    self.proven.insert((lookup.credential.secret().to_owned(), sender));
                }
            }
            (Ask::Post(post), Answer::Stored(stored)) => {
                let sender = stored.sender.site_number().expect("the site has numbers");
                let report = ReportedMessage { thread: stored.thread, sender };
                self.reported.insert(post.text.to_string(), report);
                let secret = post.credential.as_ref().map(|c| c.secret().to_owned());
                self.proven.extend(secret.map(|secret| (secret, sender)));
            }
            (Ask::Participants { thread, .. }, Answer::Failed(_)) => {
                self.failed_lists.insert(*thread, now);
            }
            (
                Ask::Prove(credential) | Ask::Recheck(credential),
                Answer::Proven(proven) | Answer::Verified(proven),
            ) => {
                self.proven.insert((credential.secret().to_owned(), proven.user));
            }
            _ => {}
        }
        Some((request, answer))
    }

    /// Forgets a stopped server: its queries are still processed, but not answered.
    pub fn forget_server(&mut self) {
        self.pending.iter_mut().for_each(|query| query.is_answered = true);
    }

    // ---- answers

    fn truth(&mut self, ask: &Ask, at: Instant, rng: &mut Rng) -> Answer {
        match ask {
            Ask::Prove(credential) | Ask::Recheck(credential) => {
                let is_local = matches!(ask, Ask::Prove(_)) && rng.chance(30);
                match self.caller(credential, at) {
                    Ok(Token { user, expires_s, .. }) => {
                        let proven = Proven { user: *user, expires_s: *expires_s };
                        if is_local { Answer::Verified(proven) } else { Answer::Proven(proven) }
                    }
                    Err(failure) => Answer::Failed(failure),
                }
            }
            Ask::CallPermission { thread, credential } => {
                match self.caller(credential, at).map(|token| token.user) {
                    Ok(user) if self.participants(*thread).contains(&user) => {
                        Answer::CallPermission(rng.chance(80))
                    }
                    Ok(_) => Answer::Failed(Failure::NotParticipant),
                    Err(failure) => Answer::Failed(failure),
                }
            }
            Ask::Participants { thread, credential } => {
                let participants = self.participants(*thread);
                match self.caller(credential, at).map(|token| token.user) {
                    // The last user is a moderator, who may see threads without being a participant.
                    Ok(user) if participants.contains(&user) || user == USERS => {
                        Answer::Participants(participants.into_iter().collect())
                    }
                    Ok(_) => Answer::Failed(Failure::NotParticipant),
                    Err(failure) => Answer::Failed(failure),
                }
            }
            Ask::Post(post) => self.post(post, at, rng).map_or_else(Answer::Failed, Answer::Stored),
            Ask::Lookup(lookup) => {
                self.look_up(lookup, at).map_or_else(Answer::Failed, Answer::LookupResult)
            }
        }
    }

    /// Compares the sender's messages in the thread, as `upstream/message_lookup.rs` does.
    fn look_up(&self, lookup: &Lookup, at: Instant) -> Result<LookupResult, Failure> {
        let token = self.caller(&lookup.credential, at)?;
        let (user, expires_s) = (token.user, token.expires_s);
        if lookup.sender.as_ref().and_then(Id::site_number).is_some_and(|sender| sender != user) {
            return Err(Failure::SiteUnavailable { retry_after_s: None });
        }
        let thread = match lookup.target {
            Target::Thread(thread) if self.participants(thread).contains(&user) => thread,
            Target::Thread(_) => return Err(Failure::NotParticipant),
            Target::NewThread { recipient } => {
                let two = BTreeSet::from([user, recipient]);
                match self.threads.keys().find(|thread| self.participants(**thread) == two) {
                    Some(thread) => *thread,
                    // A known limit: the participants of the two users' thread have changed since.
                    None if self.store.iter().any(|stored| *stored.text == *lookup.text) => {
                        return Err(Failure::SiteUnavailable { retry_after_s: None });
                    }
                    None => return Ok(LookupResult::Absent),
                }
            }
        };
        let own = |stored: &&StoredPost| stored.thread == thread && stored.sender == user;
        let Some(newest) = self.store.iter().rev().find(own) else {
            return Ok(LookupResult::Absent);
        };
        let sender = Id::number(user);
        if newest.at + Duration::from_secs(2) < lookup.posted {
            return Ok(LookupResult::Absent);
        }
        let since_post = |stored: &&StoredPost| stored.at + Duration::from_secs(2) >= lookup.posted;
        let alike = self.store.iter().rev().filter(own).filter(since_post);
        let Some(alike) = { alike }.find(|stored| *stored.text == *lookup.text) else {
            return Ok(LookupResult::Mismatch { thread, sender, message: newest.id });
        };
        let message = Some(stored_message(alike.id));
        let participants = Some(self.participants(thread).into_iter().collect());
        let stored = Stored { thread, sender, message, participants, expires_s };
        Ok(LookupResult::Match { stored, newest: newest.id })
    }

    fn post(&mut self, post: &Post, at: Instant, rng: &mut Rng) -> Result<Stored, Failure> {
        let credential = post.credential.as_ref().ok_or(Failure::TokenMissing)?;
        let token = self.caller(credential, at)?;
        let (sender, expires_s) = (token.user, token.expires_s);
        let thread = match post.target {
            Target::Thread(thread) if self.participants(thread).contains(&sender) => thread,
            Target::Thread(_) => return Err(Failure::NotParticipant),
            Target::NewThread { recipient } if recipient == sender || recipient > USERS => {
                return Err(Failure::CannotWrite);
            }
            Target::NewThread { recipient } => {
                let two = BTreeSet::from([sender, recipient]);
                let found = self.threads.keys().find(|thread| self.participants(**thread) == two);
                let thread = found.copied().unwrap_or(1 + self.threads.len() as u64);
                if found.is_none() {
                    self.change(thread, two, at);
                }
                thread
            }
        };
        let id = 1 + self.store.len() as u64;
        let text = post.text.to_string();
        self.store.push(StoredPost { id, thread, sender, text, at });
        let message = stored_message(id);
        let all = self.participants(thread).into_iter().collect();
        Ok(Stored {
            thread,
            sender: Id::number(sender),
            message: rng.chance(90).then_some(message),
            participants: rng.chance(self.behavior.full_lists_percent).then_some(all),
            expires_s,
        })
    }

    /// Changes a true answer into a wrong one.
    fn falsify(&mut self, ask: &Ask, truth: Answer, at: Instant, rng: &mut Rng) -> Answer {
        match (ask, truth) {
            (Ask::Participants { thread, .. }, Answer::Participants(participants)) => {
                Answer::Participants(self.falsify_list(*thread, &participants, at, rng))
            }
            // The upstream cannot use an answer that names another thread.
            (_, Answer::Stored(_)) if rng.chance(30) => Answer::Failed(Failure::Unknown),
            (_, Answer::Stored(mut stored)) => {
                let participants = stored.participants.take();
                stored.participants = participants
                    .map(|participants| self.falsify_list(stored.thread, &participants, at, rng));
                Answer::Stored(stored)
            }
            (_, truth) => truth,
        }
    }

    /// A list with one user left out, or the list of another thread.
    fn falsify_list(
        &mut self,
        thread: u64,
        participants: &[u64],
        at: Instant,
        rng: &mut Rng,
    ) -> Box<[u64]> {
        let other = rng.range(1, THREADS);
        let wrong: Box<[u64]> = match rng.chance(50) && !participants.is_empty() {
            true => {
                let without = rng.pick(participants);
                participants.iter().copied().filter(|user| *user != without).collect()
            }
            false => self.participants(other).into_iter().collect(),
        };
        // User 0 stands for the list itself, which may be empty.
        self.false_lists.extend(wrong.iter().chain([&0]).map(|user| (thread, *user, at)));
        wrong
    }
}

fn stored_message(id: u64) -> StoredMessage {
    let (sent_at, html) = ("2027-01-15T08:00:00Z".to_owned(), "<p>html</p>".to_owned());
    StoredMessage { id, sent_at, html }
}

fn placeholder_credential() -> Credential {
    Credential::parse("placeholder").expect("a word is a credential")
}

fn summary_of(ask: &Ask) -> String {
    match ask {
        Ask::Post(post) => format!("post {:?} {}", post.target, short(&post.text)),
        Ask::Prove(credential) => format!("prove {}", credential.secret()),
        Ask::Recheck(credential) => format!("recheck {}", credential.secret()),
        Ask::CallPermission { thread, .. } => format!("permission to call in {thread}"),
        Ask::Participants { thread, .. } => format!("list {thread}"),
        Ask::Lookup(lookup) => format!("lookup {:?} {}", lookup.target, short(&lookup.text)),
    }
}

/// The beginning of a message's text, which is unique.
pub fn short(text: &str) -> &str {
    text.split('-').next().unwrap_or(text)
}

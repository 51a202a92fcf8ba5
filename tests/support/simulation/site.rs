//! A BuddyBoss site in virtual time: threads whose people change, a store of messages, and answers
//! that are prompt, late, lost, wrong, or refused.

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

/// Members are 1 to this.
pub const USERS: u64 = 5;
/// Threads that there are from the beginning, 1 to this.
pub const THREADS: u64 = 4;
/// What stands in every token and nowhere else.
pub const SECRET: &str = "sekret";
/// How long a question may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A message as it is stored.
pub struct StoredPost {
    pub id: u64,
    pub thread: u64,
    pub sender: u64,
    pub text: String,
    at: Instant,
}

/// What the site has said of a message.
#[derive(Clone, Copy)]
pub struct ReportedMessage {
    pub thread: u64,
    pub sender: u64,
}

struct Token {
    user: u64,
    /// In seconds since 1970, by the site's clock.
    expires_s: Option<u64>,
    revoked: bool,
}

/// What becomes of a question.
#[derive(Clone, Debug)]
enum AnswerPlan {
    Succeeds,
    /// It is answered with this, and nothing is done.
    Fails(Failure),
    /// It is done, and answered with this.
    Lost(Failure),
    AnswersFalsely,
}

struct PendingAsk {
    request: RequestId,
    ask: Ask,
    plan: AnswerPlan,
    works: Instant,
    answers: Instant,
    /// What the site has made of it, once it has worked.
    made: Option<Answer>,
    told: bool,
}

pub struct Site {
    pub mood: SiteBehavior,
    begun: Instant,
    threads: BTreeMap<u64, Vec<(Instant, BTreeSet<u64>)>>,
    pub store: Vec<StoredPost>,
    /// By text.
    pub told: BTreeMap<String, ReportedMessage>,
    /// Lies about who takes part, and when they were told.
    false_lists: Vec<(u64, u64, Instant)>,
    /// When the site has last not said who takes part in a thread.
    failed_lists: BTreeMap<u64, Instant>,
    tokens: BTreeMap<String, Token>,
    /// Whose tokens have been proven.
    pub proven: BTreeSet<(String, u64)>,
    pub posted: BTreeSet<String>,
    pending: Vec<PendingAsk>,
}

const BEGUN_S: u64 = 1_800_000_000;

impl Site {
    pub fn new(mood: SiteBehavior, begun: Instant, rng: &mut Rng) -> Site {
        let mut site = Site {
            mood,
            begun,
            threads: BTreeMap::new(),
            store: Vec::new(),
            told: BTreeMap::new(),
            false_lists: Vec::new(),
            failed_lists: BTreeMap::new(),
            tokens: BTreeMap::new(),
            proven: BTreeSet::new(),
            posted: BTreeSet::new(),
            pending: Vec::new(),
        };
        for thread in 1..=THREADS {
            let people = (1..=USERS).filter(|_| rng.chance(70)).collect();
            site.threads.insert(thread, vec![(begun, people)]);
        }
        site
    }

    /// The site's own clock, which does not jump.
    pub fn unix_s(&self, now: Instant) -> u64 {
        BEGUN_S + (now - self.begun).as_secs()
    }

    // ---- tokens

    /// A fresh token of this user.
    pub fn issue(&mut self, user: u64, now: Instant, rng: &mut Rng) -> String {
        let text = format!("{SECRET}-{user}-{:016x}", rng.next_u64());
        let lasts = self.mood.tokens_expire && rng.chance(50);
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

    pub fn people(&self, thread: u64) -> BTreeSet<u64> {
        let history = self.threads.get(&thread);
        history.and_then(|h| h.last()).map(|(_, people)| people.clone()).unwrap_or_default()
    }

    pub fn threads(&self) -> Vec<u64> {
        self.threads.keys().copied().collect()
    }

    /// The thread has these people from now on.
    pub fn change(&mut self, thread: u64, people: BTreeSet<u64>, now: Instant) {
        self.threads.entry(thread).or_default().push((now, people));
    }

    /// Whether a user took part in a thread at any time from `since` on, or the site has said so.
    pub fn took_part(&self, thread: u64, user: u64, since: Instant) -> bool {
        let history = self.threads.get(&thread).map_or(&[][..], Vec::as_slice);
        let truly = history.iter().enumerate().any(|(n, (_, people))| {
            let until = history.get(n + 1).map(|(at, _)| *at);
            people.contains(&user) && until.is_none_or(|until| until >= since)
        });
        truly
            || self.false_lists.iter().any(|(t, u, at)| (*t, *u) == (thread, user) && *at >= since)
    }

    /// Whether the server may not know who takes part in a thread, so that a message there is shown
    /// to its author alone.
    pub fn may_lack_list(&self, thread: u64, now: Instant) -> bool {
        let recent = |at: &Instant| now - *at < Duration::from_secs(700);
        self.failed_lists.get(&thread).is_some_and(recent)
            || self.false_lists.iter().any(|(t, _, at)| *t == thread && recent(at))
    }

    // ---- questions

    pub fn ask(&mut self, request: RequestId, ask: Ask, now: Instant, rng: &mut Rng) -> String {
        let plan = self.plan(&ask, rng);
        let takes = |rng: &mut Rng, ms| Duration::from_millis(rng.below(ms + 1));
        let quick = if rng.chance(50) { 0 } else { self.mood.latency_max_ms };
        let works = now + takes(rng, quick);
        let answers = (works + takes(rng, quick)).min(now + TIMEOUT).max(works);
        let (works, answers) = match &plan {
            // The server has given up when the site gets to it.
            AnswerPlan::Lost(Failure::Unknown) if rng.chance(40) => {
                (now + TIMEOUT + takes(rng, 20_000), now + TIMEOUT)
            }
            _ => (works, answers),
        };
        let shown = format!("{} {plan:?}", question(&ask));
        if let Ask::Post(post) = &ask {
            // What has certainly not been stored may be sent again, and nothing else.
            let stored = self.store.iter().any(|kept| *kept.text == *post.text);
            let pending = self
                .pending
                .iter()
                .filter(|q| !q.told || q.made.is_none())
                .any(|q| matches!(&q.ask, Ask::Post(other) if other.text == post.text));
            assert!(!stored && !pending, "posted twice: {}", post.text);
            self.posted.insert(post.text.to_string());
        }
        self.pending.push(PendingAsk {
            request,
            ask,
            plan,
            works,
            answers,
            made: None,
            told: false,
        });
        shown
    }

    fn plan(&mut self, ask: &Ask, rng: &mut Rng) -> AnswerPlan {
        let wait = Some(rng.below(30) as u32);
        let gone = [
            Failure::SiteUnavailable { retry_after_s: None },
            Failure::SiteUnavailable { retry_after_s: wait },
            Failure::SiteBusy { retry_after_s: wait },
            Failure::SiteMisconfigured,
            Failure::Overloaded,
        ];
        match ask {
            Ask::Post(_) if rng.chance(self.mood.post_failures_percent) => {
                let refused = [
                    Failure::NotStored,
                    Failure::RefusedBySite,
                    Failure::TooLarge,
                    Failure::CannotWrite,
                ];
                let nobody_knows = [Failure::Unknown, Failure::Unusable];
                match rng.below(4) {
                    0 => AnswerPlan::Fails(rng.pick(&gone)),
                    1 => AnswerPlan::Fails(rng.pick(&refused)),
                    2 => AnswerPlan::Fails(rng.pick(&nobody_knows)),
                    _ => AnswerPlan::Lost(rng.pick(&nobody_knows)),
                }
            }
            Ask::Prove(_) | Ask::Participants { .. }
                if rng.chance(self.mood.query_failures_percent) =>
            {
                AnswerPlan::Fails(rng.pick(&gone))
            }
            Ask::Lookup(_) if rng.chance(self.mood.post_failures_percent) => {
                AnswerPlan::Fails(rng.pick(&gone))
            }
            _ if rng.chance(self.mood.false_answers_percent) => AnswerPlan::AnswersFalsely,
            _ => AnswerPlan::Succeeds,
        }
    }

    /// When something happens next.
    pub fn next_event(&self) -> Option<Instant> {
        let works = self.pending.iter().filter(|q| q.made.is_none()).map(|q| q.works);
        works.chain(self.pending.iter().filter(|q| !q.told).map(|q| q.answers)).min()
    }

    /// How many questions have no answer.
    pub fn waiting(&self) -> usize {
        self.pending.iter().filter(|q| !q.told).count()
    }

    /// Does what is to be done by now, in order.
    pub fn work(&mut self, now: Instant, rng: &mut Rng) {
        loop {
            // In the order in which they were asked, where it is the same time.
            let due = |(_, q): &(usize, &mut PendingAsk)| q.made.is_none() && q.works <= now;
            let next = self.pending.iter_mut().enumerate().filter(due);
            let Some((n, question)) = next.min_by_key(|(n, q)| (q.works, *n)) else { break };
            let (at, plan) = (question.works, question.plan.clone());
            // The question is taken out for as long as it is worked on.
            let nothing = Ask::Participants { thread: 0, credential: nobody() };
            let ask = std::mem::replace(&mut question.ask, nothing);
            let made = match plan {
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
            (self.pending[n].made, self.pending[n].ask) = (Some(made), ask);
        }
        self.pending.retain(|question| question.made.is_none() || !question.told);
    }

    /// The next answer that has arrived by now.
    pub fn answer(&mut self, now: Instant) -> Option<(RequestId, Answer)> {
        let due = |q: &&mut PendingAsk| !q.told && q.answers <= now;
        let next = self.pending.iter_mut().filter(due).min_by_key(|q| (q.answers, q.request));
        let question = next?;
        question.told = true;
        let answer = question.made.clone().unwrap_or(Answer::Failed(Failure::Unknown));
        let request = question.request;
        let looked = match &answer {
            Answer::LookupResult(LookupResult::Match(stored)) => Some(stored),
            _ => None,
        };
        match (&question.ask, &answer) {
            (Ask::Lookup(look), _) => {
                if let Some(stored) = looked {
                    let sender = stored.sender.site_number().expect("the site has numbers");
                    let told = ReportedMessage { thread: stored.thread, sender };
                    self.told.insert(look.text.to_string(), told);
                    self.proven.insert((look.credential.secret().to_owned(), sender));
                }
            }
            (Ask::Post(post), Answer::Stored(stored)) => {
                let sender = stored.sender.site_number().expect("the site has numbers");
                let told = ReportedMessage { thread: stored.thread, sender };
                self.told.insert(post.text.to_string(), told);
                let secret = post.credential.as_ref().map(|c| c.secret().to_owned());
                self.proven.extend(secret.map(|secret| (secret, sender)));
            }
            (Ask::Participants { thread, .. }, Answer::Failed(_)) => {
                self.failed_lists.insert(*thread, now);
            }
            (Ask::Prove(credential), Answer::Proven(proven)) => {
                self.proven.insert((credential.secret().to_owned(), proven.user));
            }
            _ => {}
        }
        Some((request, answer))
    }

    /// The server that has asked is gone: what it has asked is done all the same.
    pub fn forget_server(&mut self) {
        self.pending.iter_mut().for_each(|question| question.told = true);
    }

    // ---- answers

    fn truth(&mut self, ask: &Ask, at: Instant, rng: &mut Rng) -> Answer {
        match ask {
            Ask::Prove(credential) => match self.caller(credential, at) {
                Ok(Token { user, expires_s, .. }) => {
                    Answer::Proven(Proven { user: *user, expires_s: *expires_s })
                }
                Err(failure) => Answer::Failed(failure),
            },
            Ask::Participants { thread, credential } => {
                let people = self.people(*thread);
                match self.caller(credential, at).map(|token| token.user) {
                    // The last user is a moderator, who may see what they take no part in.
                    Ok(user) if people.contains(&user) || user == USERS => {
                        Answer::Participants(people.into_iter().collect())
                    }
                    Ok(_) => Answer::Failed(Failure::NotParticipant),
                    Err(failure) => Answer::Failed(failure),
                }
            }
            Ask::Post(post) => self.post(post, at, rng).map_or_else(Answer::Failed, Answer::Stored),
            Ask::Lookup(look) => {
                self.look(look, at).map_or_else(Answer::Failed, Answer::LookupResult)
            }
        }
    }

    /// What the sender's newest message in the thread says, as `upstream/message_lookup.rs` reads it.
    fn look(&self, look: &Lookup, at: Instant) -> Result<LookupResult, Failure> {
        let token = self.caller(&look.credential, at)?;
        let (me, expires_s) = (token.user, token.expires_s);
        if look.sender.as_ref().and_then(Id::site_number).is_some_and(|sender| sender != me) {
            return Err(Failure::SiteUnavailable { retry_after_s: None });
        }
        let thread = match look.target {
            Target::Thread(thread) if self.people(thread).contains(&me) => thread,
            Target::Thread(_) => return Err(Failure::NotParticipant),
            Target::NewThread { recipient } => {
                let two = BTreeSet::from([me, recipient]);
                match self.threads.keys().find(|thread| self.people(**thread) == two) {
                    Some(thread) => *thread,
                    // A known limit: the two had a thread, and somebody has come or gone since.
                    None if self.store.iter().any(|kept| *kept.text == *look.text) => {
                        return Err(Failure::SiteUnavailable { retry_after_s: None });
                    }
                    None => return Ok(LookupResult::Absent),
                }
            }
        };
        let own = |kept: &&StoredPost| kept.thread == thread && kept.sender == me;
        let Some(newest) = self.store.iter().rev().find(own) else {
            return Ok(LookupResult::Absent);
        };
        let sender = Id::number(me);
        if newest.at + Duration::from_secs(2) < look.posted {
            return Ok(LookupResult::Absent);
        }
        if *newest.text != *look.text {
            return Ok(LookupResult::Mismatch { thread, sender, message: newest.id });
        }
        let message = Some(stored_message(newest.id));
        let participants = Some(self.people(thread).into_iter().collect());
        Ok(LookupResult::Match(Stored { thread, sender, message, participants, expires_s }))
    }

    fn post(&mut self, post: &Post, at: Instant, rng: &mut Rng) -> Result<Stored, Failure> {
        let credential = post.credential.as_ref().ok_or(Failure::TokenMissing)?;
        let token = self.caller(credential, at)?;
        let (sender, expires_s) = (token.user, token.expires_s);
        let thread = match post.target {
            Target::Thread(thread) if self.people(thread).contains(&sender) => thread,
            Target::Thread(_) => return Err(Failure::NotParticipant),
            Target::NewThread { recipient } if recipient == sender || recipient > USERS => {
                return Err(Failure::CannotWrite);
            }
            Target::NewThread { recipient } => {
                let two = BTreeSet::from([sender, recipient]);
                let found = self.threads.keys().find(|thread| self.people(**thread) == two);
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
        let all = self.people(thread).into_iter().collect();
        Ok(Stored {
            thread,
            sender: Id::number(sender),
            message: rng.chance(90).then_some(message),
            participants: rng.chance(self.mood.full_lists_percent).then_some(all),
            expires_s,
        })
    }

    /// The same answer, but for something.
    fn falsify(&mut self, ask: &Ask, truth: Answer, at: Instant, rng: &mut Rng) -> Answer {
        match (ask, truth) {
            (Ask::Participants { thread, .. }, Answer::Participants(people)) => {
                Answer::Participants(self.falsify_list(*thread, &people, at, rng))
            }
            // One that names another thread is of no use to the upstream.
            (_, Answer::Stored(_)) if rng.chance(30) => Answer::Failed(Failure::Unknown),
            (_, Answer::Stored(mut stored)) => {
                let people = stored.participants.take();
                stored.participants =
                    people.map(|people| self.falsify_list(stored.thread, &people, at, rng));
                Answer::Stored(stored)
            }
            (_, truth) => truth,
        }
    }

    /// Someone is left out, or it is another thread's list.
    fn falsify_list(
        &mut self,
        thread: u64,
        people: &[u64],
        at: Instant,
        rng: &mut Rng,
    ) -> Box<[u64]> {
        let other = rng.range(1, THREADS);
        let told: Box<[u64]> = match rng.chance(50) && !people.is_empty() {
            true => {
                let without = rng.pick(people);
                people.iter().copied().filter(|user| *user != without).collect()
            }
            false => self.people(other).into_iter().collect(),
        };
        // Also of a thread that is told to have nobody.
        self.false_lists.extend(told.iter().chain([&0]).map(|user| (thread, *user, at)));
        told
    }
}

fn stored_message(id: u64) -> StoredMessage {
    let (sent_at, html) = ("2027-01-15T08:00:00Z".to_owned(), "<p>html</p>".to_owned());
    StoredMessage { id, sent_at, html }
}

fn nobody() -> Credential {
    Credential::parse("nobody").expect("a word is a credential")
}

fn question(ask: &Ask) -> String {
    match ask {
        Ask::Post(post) => format!("post {:?} {}", post.target, short(&post.text)),
        Ask::Prove(credential) => format!("prove {}", credential.secret()),
        Ask::Participants { thread, .. } => format!("list {thread}"),
        Ask::Lookup(look) => format!("look {:?} {}", look.target, short(&look.text)),
    }
}

/// A text by its beginning, which is its name.
pub fn short(text: &str) -> &str {
    text.split('-').next().unwrap_or(text)
}

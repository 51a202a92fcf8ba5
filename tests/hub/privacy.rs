//! Random histories of joins, removals, reused thread ids and late answers: a frame of a thread only
//! reaches users who were participants within the list's lifetime before it was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use buddyline::config::{PresenceScope, Trust};
use buddyline::hub::interface::{
    Answer, Ask, ConnId, Failure, HeldFrameLimits, LookupResult, Proven, RequestId, Settings,
    Stored, Target,
};
use buddyline::protocol::Id;
use buddyline::protocol::credential::Credential;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::support::harness::{HubHarness, settings};

const SLOTS: u32 = 6;
const USERS: u64 = 4;
const THREADS: u64 = 3;
/// How long a list is valid, in seconds.
const LIST_S: u64 = 60;
/// How long lists are used while the site does not answer, in seconds.
const OUTAGE_S: u64 = 600;

fn verified() -> Settings {
    Settings {
        trust: Trust::Verified,
        presence: PresenceScope::Threads,
        membership_lasts: Duration::from_secs(LIST_S),
        joins_per_connection: 100,
        held_frames: HeldFrameLimits {
            total: 1_000,
            bytes: 100_000,
            per_connection: 1_000,
            bytes_per_connection: 100_000,
        },
        ..settings()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open {
        slot: u32,
        user: u64,
    },
    Close {
        slot: u32,
    },
    Join {
        slot: u32,
        thread: u64,
    },
    Type {
        slot: u32,
        thread: u64,
        typing: bool,
    },
    Send {
        slot: u32,
        thread: u64,
        as_user: Option<u64>,
    },
    SendNew {
        slot: u32,
        with: u64,
    },
    Call {
        slot: u32,
        with: u64,
        thread: u64,
    },
    ChangeUser {
        slot: u32,
        user: u64,
    },
    /// A user is added to a thread or removed from it on the site's own pages.
    ChangeParticipants {
        thread: u64,
        user: u64,
        takes_part: bool,
    },
    /// A thread is deleted, and the site gives its number to another one.
    Reuse {
        thread: u64,
        users: BTreeSet<u64>,
    },
    /// The site processes a query: its later answer shows the state of now.
    Work {
        pick: usize,
    },
    Answer {
        pick: usize,
        fails: bool,
        holds_all: bool,
    },
    /// One second passes.
    Advance,
}

/// Mostly single steps, sometimes many seconds in a row.
fn steps(fails: bool) -> impl Strategy<Value = Vec<Step>> {
    let some = prop_oneof![
        15 => step(fails).prop_map(|step| vec![step]),
        1 => (1_usize..40).prop_map(|seconds| vec![Step::Advance; seconds]),
    ];
    proptest::collection::vec(some, 1..200).prop_map(|steps| steps.concat())
}

fn step(fails: bool) -> impl Strategy<Value = Step> {
    let (slot, user, thread) = (0..SLOTS, 1..=USERS, 1..=THREADS);
    prop_oneof![
        3 => (slot.clone(), user.clone()).prop_map(|(slot, user)| Step::Open { slot, user }),
        1 => slot.clone().prop_map(|slot| Step::Close { slot }),
        4 => (slot.clone(), thread.clone()).prop_map(|(slot, thread)| Step::Join { slot, thread }),
        4 => (slot.clone(), thread.clone(), any::<bool>())
            .prop_map(|(slot, thread, typing)| Step::Type { slot, thread, typing }),
        4 => (slot.clone(), thread.clone(), proptest::option::weighted(0.2, user.clone()))
            .prop_map(|(slot, thread, as_user)| Step::Send { slot, thread, as_user }),
        1 => (slot.clone(), user.clone()).prop_map(|(slot, with)| Step::SendNew { slot, with }),
        1 => (slot.clone(), user.clone(), thread.clone())
            .prop_map(|(slot, with, thread)| Step::Call { slot, with, thread }),
        1 => (slot, user.clone()).prop_map(|(slot, user)| Step::ChangeUser { slot, user }),
        3 => (thread.clone(), user.clone(), any::<bool>())
            .prop_map(|(thread, user, takes_part)| Step::ChangeParticipants { thread, user, takes_part }),
        1 => (thread, proptest::collection::btree_set(user, 0..=3))
            .prop_map(|(thread, users)| Step::Reuse { thread, users }),
        4 => any::<usize>().prop_map(|pick| Step::Work { pick }),
        8 => (any::<usize>(), any::<u8>(), any::<bool>()).prop_map(move |(pick, die, holds_all)| {
            Step::Answer { pick, fails: fails && die < 60, holds_all }
        }),
    ]
}

/// The site, with the history of each thread's participants.
struct Site {
    threads: BTreeMap<u64, Vec<(Instant, BTreeSet<u64>)>>,
    last_message: u64,
}

impl Site {
    fn now(&self, thread: u64) -> BTreeSet<u64> {
        let history = self.threads.get(&thread);
        history.and_then(|h| h.last()).map(|(_, users)| users.clone()).unwrap_or_default()
    }

    fn set(&mut self, thread: u64, users: BTreeSet<u64>, at: Instant) {
        self.threads.entry(thread).or_default().push((at, users));
    }

    /// Whether a user took part at any time from `since` on.
    fn took_part(&self, thread: u64, user: u64, since: Instant) -> bool {
        let Some(history) = self.threads.get(&thread) else { return false };
        history.iter().enumerate().any(|(n, (_, users))| {
            let until = history.get(n + 1).map(|(at, _)| *at);
            users.contains(&user) && until.is_none_or(|until| until >= since)
        })
    }

    /// The site's answer in its present state.
    fn work(&mut self, ask: &Ask, at: Instant, holds_all: bool) -> Answer {
        let user = |credential: &Credential| credential.secret()[1..].parse::<u64>().unwrap();
        match ask {
            Ask::CallPermission { .. } => Answer::CallPermission(true),
            Ask::Prove(credential) | Ask::Recheck(credential) => {
                Answer::Proven(Proven { user: user(credential), expires_s: None })
            }
            Ask::Participants { thread, credential } => {
                let users = self.now(*thread);
                // The last user is a moderator, who may see threads without being a participant.
                match users.contains(&user(credential)) || user(credential) == USERS {
                    true => Answer::Participants(users.into_iter().collect()),
                    false => Answer::Failed(Failure::NotParticipant),
                }
            }
            // Posts have no unknown outcome in this test.
            Ask::Lookup(_) => Answer::LookupResult(LookupResult::Absent),
            Ask::Post(post) => {
                let sender = user(post.credential.as_ref().unwrap());
                let thread = match post.target {
                    Target::Thread(thread) if self.now(thread).contains(&sender) => thread,
                    Target::Thread(_) => return Answer::Failed(Failure::NotParticipant),
                    Target::NewThread { recipient } if recipient == sender => {
                        return Answer::Failed(Failure::CannotWrite);
                    }
                    Target::NewThread { recipient } => {
                        // Often a number that another thread had before.
                        let thread = 1 + self.last_message % (THREADS + 2);
                        self.set(thread, BTreeSet::from([sender, recipient]), at);
                        thread
                    }
                };
                self.last_message += 1;
                let all = self.now(thread).into_iter().collect();
                Answer::Stored(Stored {
                    thread,
                    sender: Id::number(sender),
                    message: None,
                    participants: holds_all.then_some(all),
                    expires_s: None,
                })
            }
        }
    }
}

struct World {
    harness: HubHarness,
    site: Site,
    open: BTreeMap<u32, ConnId>,
    queries: Vec<(RequestId, Ask, Option<Answer>)>,
    /// The user of each connection.
    user_of: BTreeMap<ConnId, u64>,
    list_age_max: Duration,
    deliveries: usize,
}

impl World {
    fn send(&mut self, slot: u32, text: &str) {
        if let Some(conn) = self.open.get(&slot) {
            self.harness.send(*conn, text);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Open { slot, user } => {
                if !self.open.contains_key(slot) {
                    let conn = self.harness.open_with(*slot, &format!("u{user}"));
                    self.open.insert(*slot, conn);
                }
            }
            Step::Close { slot } => {
                if let Some(conn) = self.open.remove(slot) {
                    self.harness.close(conn);
                }
            }
            Step::Join { slot, thread } => {
                self.send(*slot, &format!(r#"{{"type":"join_thread","threadId":{thread}}}"#));
            }
            Step::Type { slot, thread, typing } => {
                let text = format!(r#"{{"type":"typing","threadId":{thread},"typing":{typing}}}"#);
                self.send(*slot, &text);
            }
            Step::Send { slot, thread, as_user } => {
                let token = as_user.map(|user| format!(r#","token":"u{user}""#));
                let token = token.unwrap_or_default();
                let text = format!(
                    r#"{{"type":"send_message","threadId":{thread},"message":"x","clientId":"send"{token}}}"#
                );
                self.send(*slot, &text);
            }
            Step::SendNew { slot, with } => {
                let text = format!(
                    r#"{{"type":"send_message","recipientId":{with},"message":"new","clientId":"send"}}"#
                );
                self.send(*slot, &text);
            }
            Step::Call { slot, with, thread } => {
                let text = format!(
                    r#"{{"type":"call_initiated","recipientId":{with},"threadId":{thread}}}"#
                );
                self.send(*slot, &text);
            }
            Step::ChangeUser { slot, user } => {
                let text = format!(
                    r#"{{"type":"user_connected","userId":{user},"token":"u{user}","clientId":"change-user"}}"#
                );
                self.send(*slot, &text);
            }
            Step::ChangeParticipants { thread, user, takes_part } => {
                let mut users = self.site.now(*thread);
                let changed = match takes_part {
                    true => users.insert(*user),
                    false => users.remove(user),
                };
                if changed {
                    self.site.set(*thread, users, self.harness.now.instant);
                }
            }
            Step::Reuse { thread, users } => {
                self.site.set(*thread, users.clone(), self.harness.now.instant);
            }
            Step::Work { pick } => {
                if !self.queries.is_empty() {
                    let n = pick % self.queries.len();
                    let (_, ask, answer_seen) = &mut self.queries[n];
                    if answer_seen.is_none() {
                        *answer_seen = Some(self.site.work(ask, self.harness.now.instant, true));
                    }
                }
            }
            Step::Answer { pick, fails, holds_all } => {
                if !self.queries.is_empty() {
                    let (request, ask, answer_seen) =
                        self.queries.remove(pick % self.queries.len());
                    let answer = match (answer_seen, fails) {
                        (None, true) => {
                            Answer::Failed(Failure::SiteUnavailable { retry_after_s: None })
                        }
                        (Some(answer), _) => answer,
                        (None, false) => self.site.work(&ask, self.harness.now.instant, *holds_all),
                    };
                    self.harness.answer(request, answer);
                }
            }
            Step::Advance => self.harness.advance(Duration::from_secs(1)),
        }
        for (conn, _) in self.harness.closed() {
            self.open.retain(|_, open| *open != conn);
        }
        while self.harness.pending_asks() > 0 {
            let (request, ask) = self.harness.next_ask();
            self.queries.push((request, ask, None));
        }
    }

    /// Asserts that every frame sent since the last check went to a participant.
    fn check(&mut self) -> Result<(), TestCaseError> {
        let now = self.harness.now.instant;
        let since = now.checked_sub(self.list_age_max).unwrap_or(now);
        for (conn, frame) in self.harness.received() {
            match frame["type"].as_str().unwrap() {
                // The first `user_connected` names the connection's own user, and so does the answer to
                // a claim of its own; all others announce other users.
                "user_connected" => {
                    let user = frame["userId"].as_u64().unwrap();
                    if !self.user_of.contains_key(&conn) || frame["clientId"] == "change-user" {
                        self.user_of.insert(conn, user);
                    }
                }
                "message" | "typing" | "call_initiated" | "thread_joined" => {
                    let thread = frame["threadId"].as_u64().unwrap();
                    let user = self.user_of.get(&conn).copied();
                    let took_part =
                        user.is_some_and(|user| self.site.took_part(thread, user, since));
                    // The sender gets the outcome of their own message in any case.
                    let outcome = frame["type"] == "message" && frame["clientId"] == "send";
                    prop_assert!(took_part || outcome, "{user:?} on {conn:?} receives {frame}");
                    self.deliveries += usize::from(took_part && !outcome);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn run_steps(steps: &[Step], list_age_max_s: u64) -> Result<usize, TestCaseError> {
    let harness = HubHarness::new(verified());
    let start = harness.now.instant;
    let mut site = Site { threads: BTreeMap::new(), last_message: 0 };
    for thread in 1..=THREADS {
        site.set(thread, BTreeSet::from([1, 1 + thread % USERS]), start);
    }
    let mut world = World {
        harness,
        site,
        open: BTreeMap::new(),
        queries: Vec::new(),
        user_of: BTreeMap::new(),
        list_age_max: Duration::from_secs(list_age_max_s),
        deliveries: 0,
    };
    for step in steps {
        world.step(step);
        world.check()?;
    }
    Ok(world.deliveries)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn thread_frames_never_reach_non_participants(
        steps in steps(false),
    ) {
        run_steps(&steps, LIST_S)?;
    }

    #[test]
    fn thread_frames_stay_private_during_outages(
        steps in steps(true),
    ) {
        run_steps(&steps, OUTAGE_S)?;
    }
}

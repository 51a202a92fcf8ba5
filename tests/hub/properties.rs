//! What holds for every history: against naive models, and against nonsense.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use buddyline::hub::interface::{CallSettings, DeliveryLimits, Settings};
use buddyline::hub::interface::{ConnId, Failure, RequestId, Target};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::harness::HubHarness;
use crate::support::{harness, strategies};

const SLOTS: u32 = 6;
const THREADS: u64 = 4;
const GRACE_S: u64 = 5;

fn roomy() -> Settings {
    Settings {
        presence_grace: Duration::from_secs(GRACE_S),
        joins_per_connection: 100,
        calls: CallSettings::default(),
        deliveries: DeliveryLimits { total: 1_000, per_connection: 1_000, bytes: 10_000 },
        ..harness::settings()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open { slot: u32 },
    Close { slot: u32 },
    Be { slot: u32, user: u64 },
    Join { slot: u32, thread: u64 },
    Leave { slot: u32, thread: u64 },
    Type { slot: u32, thread: u64, typing: bool },
    Pass { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0..SLOTS;
    let thread = 1..=THREADS;
    prop_oneof![
        3 => slot.clone().prop_map(|slot| Step::Open { slot }),
        1 => slot.clone().prop_map(|slot| Step::Close { slot }),
        3 => (slot.clone(), 1..4u64).prop_map(|(slot, user)| Step::Be { slot, user }),
        4 => (slot.clone(), thread.clone()).prop_map(|(slot, thread)| Step::Join { slot, thread }),
        2 => (slot.clone(), thread.clone()).prop_map(|(slot, thread)| Step::Leave { slot, thread }),
        4 => (slot, thread, any::<bool>())
            .prop_map(|(slot, thread, typing)| Step::Type { slot, thread, typing }),
        1 => (0..7u64).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

/// The same community, kept in the plainest way.
#[derive(Default)]
struct Model {
    time_s: u64,
    open: BTreeMap<u32, (ConnId, Option<u64>, BTreeSet<u64>)>,
    /// When a user's last connection left.
    left: BTreeMap<u64, u64>,
}

impl Model {
    fn online(&self) -> BTreeSet<u64> {
        let here = self.open.values().filter_map(|(_, user, _)| *user);
        let grace = self.left.iter().filter(|(_, left)| **left + GRACE_S > self.time_s);
        here.chain(grace.map(|(user, _)| *user)).collect()
    }

    fn forget_user(&mut self, slot: u32) {
        let Some((_, user, _)) = self.open.get_mut(&slot) else { return };
        let Some(user) = user.take() else { return };
        if !self.open.values().any(|(_, other, _)| *other == Some(user)) {
            self.left.insert(user, self.time_s);
        }
    }

    fn subscribers(&self, thread: u64) -> BTreeSet<ConnId> {
        let assert_received =
            self.open.values().filter(|(_, _, threads)| threads.contains(&thread));
        assert_received.map(|(conn, _, _)| *conn).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn presence_and_subscriptions_match_a_naive_model(
        steps in vec(step(), 1..120),
    ) {
        let mut harness = HubHarness::new(roomy());
        let mut model = Model::default();
        for step in steps {
            apply(&mut harness, &mut model, &step);
            compare(&mut harness, &model)?;
        }
    }

    #[test]
    fn each_message_has_one_outcome_in_thread_order(
        sends in vec((0..SLOTS, 0..=THREADS), 1..60),
        turns in vec(any::<(u16, u8)>(), 200),
    ) {
        deliver(&sends, &turns)?;
    }

    #[test]
    fn random_text_does_not_affect_others(text in strategies::any_text(), before in any::<bool>()) {
        let mut harness = HubHarness::new(roomy());
        let bob = harness.open_in(0, "3", "1");
        let alice = if before { harness.open_in(1, "2", "1") } else { harness.open(1) };
        harness.send(alice, &text);
        let heard = harness.received();
        let errors = heard.iter().filter(|(_, frame)| frame["type"] == "error").count();
        prop_assert!(heard.iter().all(|(to, frame)| *to == alice || frame["type"] != "error"));
        prop_assert!(errors <= 1);
        // Not as a `Value`, which has no room for the number 1e999.
        if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
            prop_assert_eq!(heard.len(), 1);
            prop_assert_eq!(&heard[0].1["code"], "invalid_json");
        }
        harness.send(bob, r#"{"type":"ping"}"#);
        harness.assert_received(&[(bob, r#"{"type":"pong"}"#)]);
    }
}

fn apply(harness: &mut HubHarness, model: &mut Model, step: &Step) {
    let conn = |model: &Model, slot: &u32| model.open.get(slot).map(|(conn, _, _)| *conn);
    match step {
        Step::Open { slot } => {
            if !model.open.contains_key(slot) {
                let conn = harness.open(*slot);
                model.open.insert(*slot, (conn, None, BTreeSet::new()));
            }
        }
        Step::Close { slot } => {
            if let Some(conn) = conn(model, slot) {
                harness.close(conn);
                model.forget_user(*slot);
                model.open.remove(slot);
            }
        }
        Step::Be { slot, user } => {
            if let Some(conn) = conn(model, slot) {
                harness.send(conn, &format!(r#"{{"type":"user_connected","userId":{user}}}"#));
                // The grace is for lost connections: a name that is given up is gone at once.
                harness.advance(Duration::ZERO);
                model.left.remove(user);
                model.open.get_mut(slot).expect("is open").1 = Some(*user);
            }
        }
        Step::Join { slot, thread } => {
            if let Some(conn) = conn(model, slot) {
                harness.send(conn, &format!(r#"{{"type":"join_thread","threadId":{thread}}}"#));
                model.open.get_mut(slot).expect("is open").2.insert(*thread);
            }
        }
        Step::Leave { slot, thread } => {
            if let Some(conn) = conn(model, slot) {
                harness.send(conn, &format!(r#"{{"type":"leave_thread","threadId":{thread}}}"#));
                model.open.get_mut(slot).expect("is open").2.remove(thread);
            }
        }
        Step::Type { slot, thread, typing } => {
            if let Some(conn) = conn(model, slot) {
                let text = format!(r#"{{"type":"typing","threadId":{thread},"typing":{typing}}}"#);
                harness.received();
                harness.send(conn, &text);
                let mut expected = BTreeSet::from([conn]);
                expected.extend(model.subscribers(*thread));
                let heard = harness.received();
                let subscribers: BTreeSet<_> = heard.iter().map(|(to, _)| *to).collect();
                assert_eq!(subscribers, expected);
                assert_eq!(heard.len(), expected.len(), "each hears it once");
            }
        }
        Step::Pass { seconds } => {
            model.time_s += seconds;
            harness.advance(Duration::from_secs(*seconds));
        }
    }
    harness.received();
}

/// Asks the hub through a connection of its own, which goes again.
fn compare(harness: &mut HubHarness, model: &Model) -> Result<(), TestCaseError> {
    let asker = harness.open(SLOTS);
    let users = |harness: &mut HubHarness| -> BTreeSet<u64> {
        let heard = harness.received();
        assert_eq!(heard.len(), 1);
        let ids = heard[0].1["userIds"].as_array().expect("userIds").clone();
        let set: BTreeSet<_> = ids.iter().map(|id| id.as_u64().expect("a number")).collect();
        assert_eq!(set.len(), ids.len(), "each user once");
        set
    };
    harness.send(asker, r#"{"type":"online_users"}"#);
    prop_assert_eq!(users(harness), model.online());
    for thread in 1..=THREADS {
        harness.send(asker, &format!(r#"{{"type":"online_users","threadId":{thread}}}"#));
        let among = model.open.values().filter(|(_, _, threads)| threads.contains(&thread));
        let expected: BTreeSet<_> = among.filter_map(|(_, user, _)| *user).collect();
        prop_assert_eq!(users(harness), expected);
    }
    harness.close(asker);
    Ok(())
}

/// Sends, and answers in any order, with any failure, while connections come and go.
fn deliver(sends: &[(u32, u64)], turns: &[(u16, u8)]) -> Result<(), TestCaseError> {
    let mut harness = HubHarness::new(roomy());
    let conns: Vec<_> =
        (0..SLOTS).map(|slot| harness.open_as(slot, &(slot + 1).to_string())).collect();
    let watcher = harness.open_as(SLOTS, "99");
    for thread in 1..=THREADS {
        harness.send(watcher, &format!(r#"{{"type":"join_thread","threadId":{thread}}}"#));
    }
    let mut in_flight: Vec<(RequestId, Target, String)> = Vec::new();
    let mut sends = sends.iter().enumerate();
    let mut turns = turns.iter().cycle();
    let mut sent: Vec<(usize, u32, u64)> = Vec::new();
    let mut closed = BTreeSet::new();
    let mut fate: HashMap<usize, bool> = HashMap::new();
    harness.received();
    let mut heard = Vec::new();
    loop {
        let (pick, what) = turns.next().expect("endless");
        let more = match what % 3 {
            0 | 1 => sends.next(),
            _ => None,
        };
        if let Some((n, (slot, thread))) = more {
            if !closed.contains(slot) {
                let to = if *thread == 0 {
                    r#""recipientId":2"#.to_owned()
                } else {
                    format!(r#""threadId":{thread}"#)
                };
                let text =
                    format!(r#"{{"type":"send_message",{to},"message":"{n}","clientId":{n}}}"#);
                harness.send(conns[*slot as usize], &text);
                sent.push((n, *slot, *thread));
            }
        } else if *what == 255 && closed.len() < 3 {
            let slot = u32::from(*pick) % SLOTS;
            if closed.insert(slot) {
                harness.close(conns[slot as usize]);
            }
        } else if !in_flight.is_empty() {
            let (request, target, text) = in_flight.remove(usize::from(*pick) % in_flight.len());
            let n: usize = text.parse().expect("the number");
            let ok = what % 5 != 4;
            fate.insert(n, ok);
            if ok {
                let thread = match target {
                    Target::Thread(thread) => thread,
                    Target::NewThread { .. } => 1_000 + n as u64,
                };
                let sender = sent.iter().find(|(m, _, _)| *m == n).map(|(_, slot, _)| slot + 1);
                harness.store(request, thread, sender.expect("it was sent").into());
            } else {
                harness.fail(request, Failure::Unknown);
            }
        } else if sends.len() == 0 && harness.pending_asks() == 0 {
            break;
        }
        while harness.pending_asks() > 0 {
            let (request, post) = harness.next_post();
            let lane = |target: &Target| match target {
                Target::Thread(thread) => *thread,
                Target::NewThread { .. } => 0,
            };
            let busy = in_flight.iter().any(|(_, other, _)| lane(other) == lane(&post.target));
            prop_assert!(!busy, "one at a time in a thread");
            in_flight.push((request, post.target, post.text.to_string()));
        }
        heard.extend(harness.received());
    }
    prop_assert_eq!(harness.hub.counts().deliveries, 0);
    prop_assert_eq!(fate.len(), sent.len());
    for (n, slot, _) in &sent {
        let conn = conns[*slot as usize];
        let outcomes: Vec<_> = heard
            .iter()
            .filter(|(to, frame)| *to == conn && frame["clientId"] == *n)
            .map(|(_, frame)| frame["type"] == "message")
            .collect();
        if closed.contains(slot) {
            prop_assert!(outcomes.len() <= 1);
        } else {
            prop_assert_eq!(outcomes, vec![fate[n]]);
        }
    }
    for thread in 1..=THREADS {
        let accepted: Vec<_> = sent.iter().filter(|(n, _, t)| *t == thread && fate[n]).collect();
        let expected: Vec<_> = accepted.iter().map(|(n, _, _)| n.to_string()).collect();
        let shown: Vec<_> = heard
            .iter()
            .filter(|(to, f)| *to == watcher && f["type"] == "message" && f["threadId"] == thread)
            .map(|(_, frame)| frame["message"].as_str().expect("text").to_owned())
            .collect();
        prop_assert_eq!(shown, expected);
    }
    Ok(())
}

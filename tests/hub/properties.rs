//! Property tests of the hub: random histories against naive models, and random text.

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
    Identify { slot: u32, user: u64 },
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
        3 => (slot.clone(), 1..4u64).prop_map(|(slot, user)| Step::Identify { slot, user }),
        4 => (slot.clone(), thread.clone()).prop_map(|(slot, thread)| Step::Join { slot, thread }),
        2 => (slot.clone(), thread.clone()).prop_map(|(slot, thread)| Step::Leave { slot, thread }),
        4 => (slot, thread, any::<bool>())
            .prop_map(|(slot, thread, typing)| Step::Type { slot, thread, typing }),
        1 => (0..7u64).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

/// A naive model of connections, users and threads.
#[derive(Default)]
struct Model {
    time_s: u64,
    open: BTreeMap<u32, (ConnId, Option<u64>, BTreeSet<u64>)>,
    /// When each user's last connection closed, in seconds.
    disconnected: BTreeMap<u64, u64>,
}

impl Model {
    fn online(&self) -> BTreeSet<u64> {
        let connected = self.open.values().filter_map(|(_, user, _)| *user);
        let in_grace =
            self.disconnected.iter().filter(|(_, closed_at)| **closed_at + GRACE_S > self.time_s);
        connected.chain(in_grace.map(|(user, _)| *user)).collect()
    }

    fn forget_user(&mut self, slot: u32) {
        let Some((_, user, _)) = self.open.get_mut(&slot) else { return };
        let Some(user) = user.take() else { return };
        if !self.open.values().any(|(_, other, _)| *other == Some(user)) {
            self.disconnected.insert(user, self.time_s);
        }
    }

    fn subscribers(&self, thread: u64) -> BTreeSet<ConnId> {
        let joined = self.open.values().filter(|(_, _, threads)| threads.contains(&thread));
        joined.map(|(conn, _, _)| *conn).collect()
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
        choices in vec(any::<(u16, u8)>(), 200),
    ) {
        deliver(&sends, &choices)?;
    }

    #[test]
    fn random_text_does_not_affect_others(text in strategies::any_text(), before in any::<bool>()) {
        let mut harness = HubHarness::new(roomy());
        let bob = harness.open_in(0, "3", "1");
        let alice = if before { harness.open_in(1, "2", "1") } else { harness.open(1) };
        harness.send(alice, &text);
        let received = harness.received();
        let errors = received.iter().filter(|(_, frame)| frame["type"] == "error").count();
        prop_assert!(received.iter().all(|(to, frame)| *to == alice || frame["type"] != "error"));
        prop_assert!(errors <= 1);
        // Parsed without a `Value`, which cannot represent the number 1e999.
        if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
            prop_assert_eq!(received.len(), 1);
            prop_assert_eq!(&received[0].1["code"], "invalid_json");
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
        Step::Identify { slot, user } => {
            if let Some(conn) = conn(model, slot) {
                harness.send(conn, &format!(r#"{{"type":"user_connected","userId":{user}}}"#));
                // The grace is for lost connections only: a changed user goes offline at once.
                harness.advance(Duration::ZERO);
                model.disconnected.remove(user);
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
                let received = harness.received();
                let subscribers: BTreeSet<_> = received.iter().map(|(to, _)| *to).collect();
                assert_eq!(subscribers, expected);
                assert_eq!(received.len(), expected.len(), "each subscriber receives it once");
            }
        }
        Step::Pass { seconds } => {
            model.time_s += seconds;
            harness.advance(Duration::from_secs(*seconds));
        }
    }
    harness.received();
}

/// Compares the hub's answers with the model, through a connection opened for that.
fn compare(harness: &mut HubHarness, model: &Model) -> Result<(), TestCaseError> {
    let asker = harness.open(SLOTS);
    let users = |harness: &mut HubHarness| -> BTreeSet<u64> {
        let received = harness.received();
        assert_eq!(received.len(), 1);
        let ids = received[0].1["userIds"].as_array().expect("userIds").clone();
        let set: BTreeSet<_> = ids.iter().map(|id| id.as_u64().expect("a number")).collect();
        assert_eq!(set.len(), ids.len(), "each user once");
        set
    };
    harness.send(asker, r#"{"type":"online_users"}"#);
    prop_assert_eq!(users(harness), model.online());
    for thread in 1..=THREADS {
        harness.send(asker, &format!(r#"{{"type":"online_users","threadId":{thread}}}"#));
        let joined = model.open.values().filter(|(_, _, threads)| threads.contains(&thread));
        let expected: BTreeSet<_> = joined.filter_map(|(_, user, _)| *user).collect();
        prop_assert_eq!(users(harness), expected);
    }
    harness.close(asker);
    Ok(())
}

/// Sends messages and answers their posts in random order, some with failures, while connections
/// close; then checks outcomes and order.
fn deliver(sends: &[(u32, u64)], choices: &[(u16, u8)]) -> Result<(), TestCaseError> {
    let mut harness = HubHarness::new(roomy());
    let conns: Vec<_> =
        (0..SLOTS).map(|slot| harness.open_as(slot, &(slot + 1).to_string())).collect();
    let observer = harness.open_as(SLOTS, "99");
    for thread in 1..=THREADS {
        harness.send(observer, &format!(r#"{{"type":"join_thread","threadId":{thread}}}"#));
    }
    let mut in_flight: Vec<(RequestId, Target, String)> = Vec::new();
    let mut sends = sends.iter().enumerate();
    let mut choices = choices.iter().cycle();
    let mut sent: Vec<(usize, u32, u64)> = Vec::new();
    let mut closed = BTreeSet::new();
    let mut stored: HashMap<usize, bool> = HashMap::new();
    harness.received();
    let mut received = Vec::new();
    loop {
        let (pick, action) = choices.next().expect("endless");
        let more = match action % 3 {
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
        } else if *action == 255 && closed.len() < 3 {
            let slot = u32::from(*pick) % SLOTS;
            if closed.insert(slot) {
                harness.close(conns[slot as usize]);
            }
        } else if !in_flight.is_empty() {
            let (request, target, text) = in_flight.remove(usize::from(*pick) % in_flight.len());
            let n: usize = text.parse().expect("the number");
            let ok = action % 5 != 4;
            stored.insert(n, ok);
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
            prop_assert!(!busy, "one post at a time in a thread");
            in_flight.push((request, post.target, post.text.to_string()));
        }
        received.extend(harness.received());
    }
    prop_assert_eq!(harness.hub.counts().deliveries, 0);
    prop_assert_eq!(stored.len(), sent.len());
    for (n, slot, _) in &sent {
        let conn = conns[*slot as usize];
        let outcomes: Vec<_> = received
            .iter()
            .filter(|(to, frame)| *to == conn && frame["clientId"] == *n)
            .map(|(_, frame)| frame["type"] == "message")
            .collect();
        if closed.contains(slot) {
            prop_assert!(outcomes.len() <= 1);
        } else {
            prop_assert_eq!(outcomes, vec![stored[n]]);
        }
    }
    for thread in 1..=THREADS {
        let accepted: Vec<_> = sent.iter().filter(|(n, _, t)| *t == thread && stored[n]).collect();
        let expected: Vec<_> = accepted.iter().map(|(n, _, _)| n.to_string()).collect();
        let shown: Vec<_> = received
            .iter()
            .filter(|(to, f)| *to == observer && f["type"] == "message" && f["threadId"] == thread)
            .map(|(_, frame)| frame["message"].as_str().expect("text").to_owned())
            .collect();
        prop_assert_eq!(shown, expected);
    }
    Ok(())
}

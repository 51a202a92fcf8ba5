//! Calls under random interleavings of a few devices that call, answer, hang up, are lost and come
//! back: each device is told the end of a call exactly once, and no device is left ringing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use buddyline::hub::interface::{CallSettings, ConnId, Settings};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::harness::{HubHarness, settings};

const USERS: u64 = 3;
const DEVICES: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    /// Calls another user, with a callId or without.
    Start {
        device: usize,
        other: u64,
        has_id: bool,
        offers: bool,
    },
    /// Starts a group call in the thread.
    StartGroup {
        device: usize,
    },
    /// Sends a frame of one of the calls that the device is in or that ring on it.
    Send {
        device: usize,
        call: usize,
        kind: &'static str,
        has_id: bool,
        other: u64,
    },
    /// Asks to resume any call that ever existed.
    Resume {
        device: usize,
        call: usize,
    },
    Close {
        device: usize,
    },
    Open {
        device: usize,
        user: u64,
    },
    /// Changes the connection's user.
    ChangeUser {
        device: usize,
        user: u64,
    },
    Advance {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let device = 0..DEVICES;
    let kinds = prop::sample::select(vec![
        "offer",
        "answer",
        "answer",
        "answer",
        "ice-candidate",
        "call_ringing",
        "call_rejected",
        "call_cancelled",
        "call_hangup",
        "call_busy",
        "call_joined",
        "call_joined",
        "call_left",
    ]);
    prop_oneof![
        3 => (device.clone(), 0..USERS, any::<bool>(), any::<bool>())
            .prop_map(|(device, other, has_id, offers)| Step::Start { device, other, has_id, offers }),
        1 => device.clone().prop_map(|device| Step::StartGroup { device }),
        9 => (device.clone(), 0..40_usize, kinds, any::<bool>(), 0..USERS)
            .prop_map(|(device, call, kind, has_id, other)| Step::Send { device, call, kind, has_id, other }),
        2 => (device.clone(), 0..40_usize).prop_map(|(device, call)| Step::Resume { device, call }),
        2 => device.clone().prop_map(|device| Step::Close { device }),
        3 => (device.clone(), 0..USERS).prop_map(|(device, user)| Step::Open { device, user }),
        1 => (device, 0..USERS).prop_map(|(device, user)| Step::ChangeUser { device, user }),
        2 => prop::sample::select(vec![1, 4, 6, 20, 46]).prop_map(|seconds| Step::Advance { seconds }),
    ]
}

/// How often a device was in a call or rang for it, and how often it was told that
/// the call ended.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    opens: u32,
    ends: u32,
}

impl Known {
    fn record_open(&mut self) {
        self.opens = self.opens.max(self.ends + 1);
    }

    fn is_open(self) -> bool {
        self.opens > self.ends
    }
}

struct CallRunner {
    harness: HubHarness,
    devices: [Option<(ConnId, u64)>; DEVICES],
    known_calls: BTreeMap<(ConnId, String), Known>,
    calls: Vec<String>,
    /// Connections that sent a frame without a callId that no one received: the runner does not know
    /// which call they are in.
    untracked: BTreeSet<ConnId>,
    ids_used: u32,
}

impl CallRunner {
    fn new(reject_when_busy: bool) -> CallRunner {
        let calls = CallSettings { reject_when_busy, attempts: 1_000, ..CallSettings::default() };
        let harness = HubHarness::new(Settings { calls, ..settings() });
        let (devices, known_calls, calls, untracked) = Default::default();
        let mut runner =
            CallRunner { harness, devices, known_calls, calls, untracked, ids_used: 0 };
        for device in 0..4 {
            runner.open(device, device as u64 % USERS);
        }
        runner
    }

    fn open(&mut self, device: usize, user: u64) {
        if self.devices[device].is_some() {
            return;
        }
        let conn = self.harness.open(device as u32);
        self.devices[device] = Some((conn, user));
        self.harness
            .send(conn, &json!({"type": "user_connected", "userId": 10 + user}).to_string());
        self.harness.send(conn, r#"{"type":"join_thread","threadId":12}"#);
        self.process_received();
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Open { device, user } => self.open(device, user),
            Step::Advance { seconds } => self.harness.advance(Duration::from_secs(seconds)),
            Step::Close { device } => {
                if let Some((conn, _)) = self.devices[device].take() {
                    self.harness.close(conn);
                    self.known_calls.retain(|(of, _), _| *of != conn);
                }
            }
            Step::ChangeUser { device, user } => {
                let Some((conn, before)) = self.devices[device] else { return };
                self.devices[device] = Some((conn, user));
                if before != user {
                    self.known_calls.retain(|(of, _), _| *of != conn);
                    self.untracked.remove(&conn);
                }
                let frame = json!({"type": "user_connected", "userId": 10 + user});
                self.harness.send(conn, &frame.to_string());
            }
            Step::Start { device, other, has_id, offers } => {
                let Some((conn, user)) = self.devices[device] else { return };
                let kind = if offers { "offer" } else { "call_initiated" };
                let mut frame = frame(kind, user, other, conn);
                self.start_call(conn, &mut frame, has_id);
            }
            Step::StartGroup { device } => {
                let Some((conn, _)) = self.devices[device] else { return };
                self.start_call(conn, &mut json!({"type": "call_initiated", "threadId": 12}), true);
            }
            Step::Send { device, call, kind, has_id, other } => {
                let Some((conn, user)) = self.devices[device] else { return };
                let open: Vec<String> = self.open_calls(conn);
                if open.is_empty() {
                    return;
                }
                let mut frame = frame(kind, user, other, conn);
                if has_id || kind.starts_with("call_") {
                    frame["callId"] = json!(open[call % open.len()]);
                }
                self.harness.send(conn, &frame.to_string());
                let received = self.harness.received();
                // The frame may have reclaimed the seat of a lost device.
                if frame["callId"].is_null() && self.find_call(conn, &received).is_none() {
                    self.untracked.insert(conn);
                }
                self.process(received);
            }
            Step::Resume { device, call } => {
                let Some((conn, _)) = self.devices[device] else { return };
                let Some(call) = self.calls.get(call).cloned() else { return };
                let frame = json!({"type": "call_resume", "callId": call, "clientId": "r"});
                self.harness.send(conn, &frame.to_string());
                let mut received = self.harness.received();
                // A resume of an ended call is answered with one more `call_ended`.
                let known = self.known_calls.get(&(conn, call)).copied().unwrap_or_default();
                if !known.is_open() {
                    received.retain(|(to, frame)| *to != conn || frame["type"] != "call_ended");
                }
                self.process(received);
            }
        }
        self.process_received();
    }

    fn start_call(&mut self, conn: ConnId, frame: &mut Value, has_id: bool) {
        let mut own_id = None;
        if has_id {
            self.ids_used += 1;
            // The ids are not in order, so that either call of a glare can win.
            own_id = Some(format!("{}-{}", self.ids_used * 7 % 10, self.ids_used));
            frame["callId"] = json!(own_id);
        }
        frame["clientId"] = json!("start");
        self.harness.send(conn, &frame.to_string());
        let received = self.harness.received();
        // A call with an id keeps ringing for an offline user; a group call without online users ends.
        let rings_on = own_id.is_some() && frame["recipientId"].is_number();
        let refused = received.iter().any(|(to, frame)| {
            *to == conn
                && frame["clientId"] == "start"
                && (!rings_on || frame["code"] != "recipient_offline")
        });
        let started = self.find_call(conn, &received);
        if started.is_none() && own_id.is_none() && !refused {
            self.untracked.insert(conn);
        }
        if let Some(id) = own_id.filter(|_| !refused) {
            self.record_open(conn, &id);
        }
        self.process(received);
    }

    /// The call for which this device's frame made others ring or offered to them. Without a callId it
    /// may be the call of another of its user's devices.
    fn find_call(&mut self, conn: ConnId, received: &[(ConnId, Value)]) -> Option<String> {
        let of_call = |(to, frame): &(ConnId, Value)| {
            let rings = ["offer", "call_initiated"].iter().any(|kind| frame["type"] == *kind);
            frame["callId"].as_str().filter(|_| rings && *to != conn).map(str::to_owned)
        };
        let id = received.iter().find_map(of_call)?;
        self.record_open(conn, &id);
        Some(id)
    }

    fn record_open(&mut self, conn: ConnId, id: &str) {
        self.note_call(id);
        let known = self.known_calls.entry((conn, id.to_owned())).or_default();
        known.record_open();
    }

    fn note_call(&mut self, id: &str) {
        if !self.calls.iter().any(|known| known == id) {
            self.calls.push(id.to_owned());
        }
    }

    fn open_calls(&self, conn: ConnId) -> Vec<String> {
        let known =
            self.known_calls.iter().filter(|((of, _), known)| *of == conn && known.is_open());
        known.map(|((_, id), _)| id.clone()).collect()
    }

    fn process_received(&mut self) {
        let received = self.harness.received();
        self.process(received);
    }

    fn process(&mut self, received: Vec<(ConnId, Value)>) {
        let mut answers = BTreeSet::new();
        for (to, frame) in received {
            let Some(id) = frame["callId"].as_str().map(str::to_owned) else { continue };
            self.note_call(&id);
            let known = self.known_calls.entry((to, id.clone())).or_default();
            match frame["type"].as_str().expect("a type") {
                "call_ended" => {
                    known.ends += 1;
                    assert!(
                        known.ends <= known.opens.max(1) || self.untracked.contains(&to),
                        "{to:?} is told twice that {id} ended"
                    );
                }
                "call_resumed" | "call_joined" if !frame["clientId"].is_null() => {
                    known.record_open();
                }
                "error" => {}
                kind => {
                    assert!(
                        known.is_open() || known.ends == 0 || self.untracked.contains(&to),
                        "{to:?} receives {kind} of {id} after its end"
                    );
                    known.record_open();
                    if kind == "answer" {
                        let from = |part: &str| frame["answer"][part].as_u64().expect("the sender");
                        let from = (from("from") as usize, from("serial") as u32);
                        answers.insert((id, from));
                    }
                }
            }
        }
        for (id, (slot, serial)) in answers {
            self.assert_answered_once(&id, slot, serial);
        }
    }

    /// Asserts that no other device of the answering user keeps ringing. An answer may reach the
    /// caller late, when the slot has another connection.
    fn assert_answered_once(&self, id: &str, device: usize, serial: u32) {
        let Some((answering, user)) = self.devices[device] else { return };
        if answering.serial != serial {
            return;
        }
        for (conn, other) in self.devices.iter().flatten() {
            let known = self.known_calls.get(&(*conn, id.to_owned())).copied().unwrap_or_default();
            assert!(
                *conn == answering || *other != user || !known.is_open(),
                "{conn:?} keeps ringing after {answering:?} has answered {id}"
            );
        }
    }

    /// Hangs up all calls, and asserts that each has ended on each device.
    fn finish(&mut self) {
        self.harness.advance(Duration::from_secs(50));
        self.process_received();
        for (conn, _) in self.devices.into_iter().flatten() {
            for id in self.open_calls(conn) {
                self.harness.send(conn, &json!({"type": "call_hangup", "callId": id}).to_string());
                self.process_received();
            }
        }
        self.harness.advance(Duration::from_secs(50));
        self.process_received();
        for ((conn, id), known) in &self.known_calls {
            assert!(!known.is_open(), "{conn:?} was not told the end of {id}: {known:?}");
        }
    }
}

/// A frame that names its sending device, if it is an answer.
fn frame(kind: &str, user: u64, other: u64, conn: ConnId) -> Value {
    let mut frame = json!({"type": kind, "recipientId": 10 + other, "senderId": 10 + user});
    match kind {
        "offer" => frame[kind] = json!("sdp"),
        "answer" => frame[kind] = json!({"from": conn.slot, "serial": conn.serial}),
        "ice-candidate" => frame["candidate"] = json!("c"),
        _ => {}
    }
    frame
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn each_ring_ends_once_per_device_and_one_answer_wins(
        steps in prop::collection::vec(step(), 1..80),
        reject_when_busy in any::<bool>(),
    ) {
        let mut runner = CallRunner::new(reject_when_busy);
        for step in &steps {
            runner.run(step);
        }
        runner.finish();
    }
}

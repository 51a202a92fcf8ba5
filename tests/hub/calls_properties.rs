//! Calls under random interleavings of a few devices that call, answer, hang up, are lost and come
//! back: whatever rings ends once on each device, and nobody is left ringing.

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
    /// Calls another user, with a name of its own or without.
    Begin {
        device: usize,
        other: u64,
        names: bool,
        offers: bool,
    },
    /// Calls everyone in the thread.
    BeginGroup {
        device: usize,
    },
    /// Says something of one of the calls that it knows.
    Say {
        device: usize,
        call: usize,
        kind: &'static str,
        names: bool,
        other: u64,
    },
    /// Asks for its place in any call that there ever was.
    Resume {
        device: usize,
        call: usize,
    },
    Lose {
        device: usize,
    },
    Come {
        device: usize,
        user: u64,
    },
    /// Another user on the same connection.
    Change {
        device: usize,
        user: u64,
    },
    Pass {
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
            .prop_map(|(device, other, names, offers)| Step::Begin { device, other, names, offers }),
        1 => device.clone().prop_map(|device| Step::BeginGroup { device }),
        9 => (device.clone(), 0..40_usize, kinds, any::<bool>(), 0..USERS)
            .prop_map(|(device, call, kind, names, other)| Step::Say { device, call, kind, names, other }),
        2 => (device.clone(), 0..40_usize).prop_map(|(device, call)| Step::Resume { device, call }),
        2 => device.clone().prop_map(|device| Step::Lose { device }),
        3 => (device.clone(), 0..USERS).prop_map(|(device, user)| Step::Come { device, user }),
        1 => (device, 0..USERS).prop_map(|(device, user)| Step::Change { device, user }),
        2 => prop::sample::select(vec![1, 4, 6, 20, 46]).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

/// What a device knows of a call: how often it was in it or rang, and how often it was told the end.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    opens: u32,
    ends: u32,
}

impl Known {
    fn open(&mut self) {
        self.opens = self.opens.max(self.ends + 1);
    }

    fn is_open(self) -> bool {
        self.opens > self.ends
    }
}

struct CallRunner {
    harness: HubHarness,
    devices: [Option<(ConnId, u64)>; DEVICES],
    knows: BTreeMap<(ConnId, String), Known>,
    calls: Vec<String>,
    /// Devices that said something without naming the call, which nobody heard: what they are in is
    /// not known.
    blind: BTreeSet<ConnId>,
    names: u32,
}

impl CallRunner {
    fn new(reject_when_busy: bool) -> CallRunner {
        let calls = CallSettings { reject_when_busy, attempts: 1_000, ..CallSettings::default() };
        let harness = HubHarness::new(Settings { calls, ..settings() });
        let (devices, knows, calls, blind) = Default::default();
        let mut runner = CallRunner { harness, devices, knows, calls, blind, names: 0 };
        for device in 0..4 {
            runner.come(device, device as u64 % USERS);
        }
        runner
    }

    fn come(&mut self, device: usize, user: u64) {
        if self.devices[device].is_some() {
            return;
        }
        let conn = self.harness.open(device as u32);
        self.devices[device] = Some((conn, user));
        self.harness
            .send(conn, &json!({"type": "user_connected", "userId": 10 + user}).to_string());
        self.harness.send(conn, r#"{"type":"join_thread","threadId":12}"#);
        self.listen();
    }

    fn play(&mut self, step: &Step) {
        match *step {
            Step::Come { device, user } => self.come(device, user),
            Step::Pass { seconds } => self.harness.advance(Duration::from_secs(seconds)),
            Step::Lose { device } => {
                if let Some((conn, _)) = self.devices[device].take() {
                    self.harness.close(conn);
                    self.knows.retain(|(of, _), _| *of != conn);
                }
            }
            Step::Change { device, user } => {
                let Some((conn, before)) = self.devices[device] else { return };
                self.devices[device] = Some((conn, user));
                if before != user {
                    self.knows.retain(|(of, _), _| *of != conn);
                    self.blind.remove(&conn);
                }
                let frame = json!({"type": "user_connected", "userId": 10 + user});
                self.harness.send(conn, &frame.to_string());
            }
            Step::Begin { device, other, names, offers } => {
                let Some((conn, user)) = self.devices[device] else { return };
                let kind = if offers { "offer" } else { "call_initiated" };
                let mut frame = frame(kind, user, other, conn);
                self.begin(conn, &mut frame, names);
            }
            Step::BeginGroup { device } => {
                let Some((conn, _)) = self.devices[device] else { return };
                self.begin(conn, &mut json!({"type": "call_initiated", "threadId": 12}), true);
            }
            Step::Say { device, call, kind, names, other } => {
                let Some((conn, user)) = self.devices[device] else { return };
                let open: Vec<String> = self.open_calls(conn);
                if open.is_empty() {
                    return;
                }
                let mut frame = frame(kind, user, other, conn);
                if names || kind.starts_with("call_") {
                    frame["callId"] = json!(open[call % open.len()]);
                }
                self.harness.send(conn, &frame.to_string());
                let heard = self.harness.received();
                // It may take the place of a device that was lost.
                if frame["callId"].is_null() && self.find_call(conn, &heard).is_none() {
                    self.blind.insert(conn);
                }
                self.hear(heard);
            }
            Step::Resume { device, call } => {
                let Some((conn, _)) = self.devices[device] else { return };
                let Some(call) = self.calls.get(call).cloned() else { return };
                let frame = json!({"type": "call_resume", "callId": call, "clientId": "r"});
                self.harness.send(conn, &frame.to_string());
                let mut heard = self.harness.received();
                // Who asks for a call that is over is told once more.
                let known = self.knows.get(&(conn, call)).copied().unwrap_or_default();
                if !known.is_open() {
                    heard.retain(|(to, frame)| *to != conn || frame["type"] != "call_ended");
                }
                self.hear(heard);
            }
        }
        self.listen();
    }

    fn begin(&mut self, conn: ConnId, frame: &mut Value, names: bool) {
        let mut name = None;
        if names {
            self.names += 1;
            // Some are less and some greater than those of others.
            name = Some(format!("{}-{}", self.names * 7 % 10, self.names));
            frame["callId"] = json!(name);
        }
        frame["clientId"] = json!("begin");
        self.harness.send(conn, &frame.to_string());
        let heard = self.harness.received();
        // Whoever is called by name may come yet; of a group that is not there, nobody does.
        let rings_on = name.is_some() && frame["recipientId"].is_number();
        let refused = heard.iter().any(|(to, frame)| {
            *to == conn
                && frame["clientId"] == "begin"
                && (!rings_on || frame["code"] != "recipient_offline")
        });
        let begun = self.find_call(conn, &heard);
        if begun.is_none() && name.is_none() && !refused {
            self.blind.insert(conn);
        }
        if let Some(id) = name.filter(|_| !refused) {
            self.opens(conn, &id);
        }
        self.hear(heard);
    }

    /// The call in which this device has made others ring, or has made them an offer: without a name
    /// that may be the call of another of its user's devices.
    fn find_call(&mut self, conn: ConnId, heard: &[(ConnId, Value)]) -> Option<String> {
        let of_call = |(to, frame): &(ConnId, Value)| {
            let rings = ["offer", "call_initiated"].iter().any(|kind| frame["type"] == *kind);
            frame["callId"].as_str().filter(|_| rings && *to != conn).map(str::to_owned)
        };
        let id = heard.iter().find_map(of_call)?;
        self.opens(conn, &id);
        Some(id)
    }

    fn opens(&mut self, conn: ConnId, id: &str) {
        self.note_call(id);
        let known = self.knows.entry((conn, id.to_owned())).or_default();
        known.open();
    }

    fn note_call(&mut self, id: &str) {
        if !self.calls.iter().any(|known| known == id) {
            self.calls.push(id.to_owned());
        }
    }

    fn open_calls(&self, conn: ConnId) -> Vec<String> {
        let known = self.knows.iter().filter(|((of, _), known)| *of == conn && known.is_open());
        known.map(|((_, id), _)| id.clone()).collect()
    }

    fn listen(&mut self) {
        let heard = self.harness.received();
        self.hear(heard);
    }

    fn hear(&mut self, heard: Vec<(ConnId, Value)>) {
        let mut answers = BTreeSet::new();
        for (to, frame) in heard {
            let Some(id) = frame["callId"].as_str().map(str::to_owned) else { continue };
            self.note_call(&id);
            let known = self.knows.entry((to, id.clone())).or_default();
            match frame["type"].as_str().expect("a type") {
                "call_ended" => {
                    known.ends += 1;
                    assert!(
                        known.ends <= known.opens.max(1) || self.blind.contains(&to),
                        "{to:?} hears twice that {id} ended"
                    );
                }
                "call_resumed" | "call_joined" if !frame["clientId"].is_null() => {
                    known.open();
                }
                "error" => {}
                kind => {
                    assert!(
                        known.is_open() || known.ends == 0 || self.blind.contains(&to),
                        "{to:?} hears {kind} of {id} after its end"
                    );
                    known.open();
                    if kind == "answer" {
                        let from = frame["answer"]["from"].as_u64().expect("who answers");
                        answers.insert((id, from as u32));
                    }
                }
            }
        }
        for (id, slot) in answers {
            self.has_answered(&id, slot as usize);
        }
    }

    /// No other device of the user who has answered rings on.
    fn has_answered(&self, id: &str, device: usize) {
        let Some((answering, user)) = self.devices[device] else { return };
        for (conn, other) in self.devices.iter().flatten() {
            let known = self.knows.get(&(*conn, id.to_owned())).copied().unwrap_or_default();
            assert!(
                *conn == answering || *other != user || !known.is_open(),
                "{conn:?} rings on when {answering:?} has answered {id}"
            );
        }
    }

    /// Everyone hangs up, and time passes.
    fn finish(&mut self) {
        self.harness.advance(Duration::from_secs(50));
        self.listen();
        for (conn, _) in self.devices.into_iter().flatten() {
            for id in self.open_calls(conn) {
                self.harness.send(conn, &json!({"type": "call_hangup", "callId": id}).to_string());
                self.listen();
            }
        }
        self.harness.advance(Duration::from_secs(50));
        self.listen();
        for ((conn, id), known) in &self.knows {
            assert!(!known.is_open(), "{conn:?} is left in {id}: {known:?}");
        }
    }
}

/// A frame that says which device it is from.
fn frame(kind: &str, user: u64, other: u64, conn: ConnId) -> Value {
    let mut frame = json!({"type": kind, "recipientId": 10 + other, "senderId": 10 + user});
    match kind {
        "offer" => frame[kind] = json!("sdp"),
        "answer" => frame[kind] = json!({"from": conn.slot}),
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
            runner.play(step);
        }
        runner.finish();
    }
}

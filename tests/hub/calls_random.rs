//! Random call frames, many of them senseless, from connections that open, close and change their
//! user, in open and in verified trust: nothing panics, the hub's tables are consistent after every
//! step, and no call outlives its users' connections.

use std::time::Duration;

use buddyline::config::Trust;
use buddyline::hub::interface::{Answer, Ask, CallSettings, ConnId, Failure, Proven, Settings};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use crate::support::harness::{HubHarness, settings, verified};

const DEVICES: usize = 8;

#[derive(Clone, Debug)]
enum Step {
    Open {
        device: usize,
        user: u64,
    },
    ChangeUser {
        device: usize,
        user: u64,
    },
    Close {
        device: usize,
    },
    Send {
        device: usize,
        frame: String,
    },
    /// The site answers its oldest query: with these participants, or with a failure.
    Answer {
        list: Vec<u64>,
        fails: bool,
    },
    Advance {
        seconds: u64,
    },
}

fn id() -> impl Strategy<Value = Value> {
    select(vec![json!(7), json!(8), json!(9), json!("8"), json!("x"), Value::Null])
}

fn call_id() -> impl Strategy<Value = Value> {
    select(vec![json!("a"), json!("b"), json!(1), json!("1"), json!(2), Value::Null])
}

fn thread() -> impl Strategy<Value = Value> {
    select(vec![json!(41), json!(41), json!("41"), json!(42), json!("t"), Value::Null])
}

fn frame() -> impl Strategy<Value = String> {
    let kinds = vec![
        "call_initiated",
        "call_initiated",
        "offer",
        "offer",
        "answer",
        "answer",
        "ice-candidate",
        "call_ringing",
        "call_rejected",
        "call_cancelled",
        "call_hangup",
        "call_busy",
        "call_resume",
        "call_joined",
        "call_joined",
        "call_left",
    ];
    let payload = select(vec![json!("x"), json!({"sdp": ""}), json!("y".repeat(30_000))]);
    let fields = (call_id(), id(), id(), thread(), any::<[bool; 3]>());
    (select(kinds), fields, payload).prop_map(|(kind, fields, payload)| {
        let (call, recipient, sender, thread, [has_id, has_sender, is_group]) = fields;
        let mut frame = Map::new();
        frame.insert("type".to_owned(), json!(kind));
        let mut put = |field: &str, value: Value, is_present: bool| {
            if is_present && !value.is_null() {
                frame.insert(field.to_owned(), value);
            }
        };
        put("callId", call, has_id);
        put("senderId", sender, has_sender && !has_id);
        put("recipientId", recipient, !is_group);
        put("threadId", thread, true);
        match kind {
            "offer" | "answer" => put(kind, payload, true),
            "ice-candidate" => put("candidate", payload, true),
            _ => {}
        }
        Value::Object(frame).to_string()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let device = 0..DEVICES;
    let user = 7..10_u64;
    let list = select(vec![vec![7, 8, 9], vec![7, 8, 9], vec![7, 8], vec![8, 9], vec![]]);
    prop_oneof![
        3 => (device.clone(), user.clone()).prop_map(|(device, user)| Step::Open { device, user }),
        1 => (device.clone(), user).prop_map(|(device, user)| Step::ChangeUser { device, user }),
        1 => device.clone().prop_map(|device| Step::Close { device }),
        16 => (device, frame()).prop_map(|(device, frame)| Step::Send { device, frame }),
        8 => (list, prop::bool::weighted(0.1)).prop_map(|(list, fails)| Step::Answer { list, fails }),
        1 => select(vec![1, 4, 6, 20, 46, 61]).prop_map(|seconds| Step::Advance { seconds }),
    ]
}

struct CallRunner {
    harness: HubHarness,
    trust: Trust,
    devices: [Option<ConnId>; DEVICES],
}

impl CallRunner {
    fn new(trust: Trust, reject_when_busy: bool) -> CallRunner {
        let calls = CallSettings { reject_when_busy, attempts: 1_000, ..CallSettings::default() };
        let of_trust = if trust == Trust::Verified { verified() } else { settings() };
        let mut runner = CallRunner {
            harness: HubHarness::new(Settings { calls, ..of_trust }),
            trust,
            devices: [None; 8],
        };
        for device in 0..5 {
            runner.run(&Step::Open { device, user: 7 + device as u64 % 3 });
        }
        runner
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Open { device, user } if self.devices[*device].is_none() => {
                self.devices[*device] = Some(self.harness.open(*device as u32));
                self.identify(*device, *user);
                self.send(*device, r#"{"type":"join_thread","threadId":41}"#);
            }
            Step::Open { .. } => {}
            Step::ChangeUser { device, user } => self.identify(*device, *user),
            Step::Close { device } => {
                if let Some(conn) = self.devices[*device].take() {
                    self.harness.close(conn);
                }
            }
            Step::Send { device, frame } => self.send(*device, frame),
            Step::Answer { list, fails } => self.answer_site(list, *fails),
            Step::Advance { seconds } => self.harness.advance(Duration::from_secs(*seconds)),
        }
        for (conn, _) in self.harness.closed() {
            self.devices[conn.slot as usize] = None;
        }
    }

    fn identify(&mut self, device: usize, user: u64) {
        let frame = match self.trust {
            Trust::Open => json!({"type": "user_connected", "userId": user}),
            Trust::Verified => json!({"type": "user_connected", "token": format!("of-{user}")}),
        };
        self.send(device, &frame.to_string());
        // Proofs are answered at once, lists later.
        while let Some(request) = self.harness.try_next_proof() {
            self.harness.prove(request, user, None);
        }
    }

    fn send(&mut self, device: usize, frame: &str) {
        if let Some(conn) = self.devices[device] {
            self.harness.send(conn, frame);
        }
    }

    fn answer_site(&mut self, list: &[u64], fails: bool) {
        if self.harness.pending_asks() == 0 {
            return;
        }
        let (request, ask) = self.harness.next_ask();
        let answer = match ask {
            _ if fails => Answer::Failed(Failure::SiteUnavailable { retry_after_s: None }),
            Ask::Participants { .. } => Answer::Participants(list.into()),
            Ask::Prove(credential) => {
                let user = credential.secret().trim_start_matches("of-").parse();
                Answer::Proven(Proven { user: user.expect("a user"), expires_s: None })
            }
            other => panic!("{other:?}"),
        };
        self.harness.answer(request, answer);
    }

    /// Closes all connections, and asserts that no call is left.
    fn finish(&mut self) {
        for device in 0..DEVICES {
            self.run(&Step::Close { device });
        }
        while self.harness.pending_asks() > 0 {
            self.answer_site(&[], false);
        }
        self.harness.advance(Duration::from_secs(46));
        assert_eq!(self.harness.hub.counts().calls, [0, 0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_call_frames_keep_tables_consistent_and_leak_nothing(
        steps in prop::collection::vec(step(), 1..150),
        is_verified in any::<bool>(),
        reject_when_busy in any::<bool>(),
    ) {
        let trust = if is_verified { Trust::Verified } else { Trust::Open };
        let mut runner = CallRunner::new(trust, reject_when_busy);
        for step in &steps {
            runner.run(step);
        }
        runner.finish();
    }
}

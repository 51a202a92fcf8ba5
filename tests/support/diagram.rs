//! Plays a sequence diagram of `docs/PROTOCOL.md` against a hub.
//!
//! `A->>S: type, details` sends a frame. The lines `S->>A: type, details` after it are all the frames
//! that must be received then, in this order. A detail is `field value`, or a word that is the
//! frame's reason, state or code. `A-xS` closes a connection. A note can let seconds pass or state
//! that the call has been answered.

use std::time::Duration;

use buddyline::hub::interface::ConnId;
use serde_json::{Map, Value, json};

use super::harness::HubHarness;

/// The `callId` where the diagram gives none.
const CALL: &str = "c1";

struct Device {
    alias: String,
    user: u64,
    conn: ConnId,
}

pub struct DiagramRunner<'a> {
    harness: HubHarness,
    devices: Vec<Device>,
    /// Where the diagram is in the document, for messages of failed assertions.
    place: &'a str,
    slots: u32,
}

/// Plays the whole diagram. `place` names it in messages of failed assertions.
pub fn play(diagram: &str, place: &str) {
    let mut runner =
        DiagramRunner { harness: HubHarness::default(), devices: Vec::new(), place, slots: 0 };
    let mut lines = diagram.lines().map(str::trim).peekable();
    assert_eq!(lines.next(), Some("sequenceDiagram"), "{place}");
    while let Some(line) = lines.next() {
        let Some((what, words)) = line.split_once(": ") else {
            runner.open(line);
            continue;
        };
        match what.split_once("->>") {
            Some((from, "S")) => runner.send(from, words),
            Some((from, to)) => panic!("{place}: {to} receives a frame before {from} has sent one"),
            None => runner.apply_note(what, words),
        }
        let mut expected = Vec::new();
        while let Some(output) = lines.next_if(|line| is_output_or_note(line)) {
            if let Some((to, words)) = output.strip_prefix("S->>").and_then(|l| l.split_once(": "))
            {
                expected.push((to.to_owned(), words.to_owned()));
            }
        }
        runner.expect_frames(&expected);
    }
}

/// Whether a line is a received frame, or a note without effect, which may be in between.
fn is_output_or_note(line: &str) -> bool {
    line.starts_with("S->>") || line.starts_with("Note") && seconds(line).is_none()
}

/// The seconds that a note lets pass, if it does.
fn seconds(note: &str) -> Option<u64> {
    note.rsplit(": ").next()?.strip_suffix(" seconds")?.parse().ok()
}

impl DiagramRunner<'_> {
    fn open(&mut self, line: &str) {
        let named = line.strip_prefix("participant ").and_then(|line| line.split_once(" as "));
        let (alias, name) = named.unwrap_or_else(|| panic!("{}: {line}", self.place));
        let user = name.split("(user ").nth(1).and_then(|rest| rest.strip_suffix(')'));
        if let Some(user) = user {
            self.slots += 1;
            let conn = self.harness.open_in(self.slots, user, "12");
            let user = user.parse().expect("a number");
            self.devices.push(Device { alias: alias.to_owned(), user, conn });
        }
    }

    fn at(&self, alias: &str) -> usize {
        let found = self.devices.iter().position(|device| device.alias == alias);
        found.unwrap_or_else(|| panic!("{}: no {alias}", self.place))
    }

    fn users(&self) -> Vec<u64> {
        let mut users: Vec<u64> = self.devices.iter().map(|device| device.user).collect();
        users.dedup();
        users
    }

    fn send(&mut self, from: &str, words: &str) {
        let at = self.at(from);
        let (kind, details) = words.split_once(", ").unwrap_or((words, ""));
        let user = self.devices[at].user;
        let mut frame = Map::new();
        frame.insert("type".to_owned(), json!(kind));
        match kind {
            "user_connected" => {
                self.slots += 1;
                self.devices[at].conn = self.harness.open(self.slots);
                frame.insert("userId".to_owned(), json!(user));
            }
            _ => {
                frame.insert("callId".to_owned(), json!(CALL));
                if let [one, two] = self.users()[..] {
                    let other = if user == one { two } else { one };
                    frame.insert("recipientId".to_owned(), json!(other));
                }
            }
        }
        let payload = kind.strip_prefix("ice-").unwrap_or(kind);
        if ["offer", "answer", "candidate"].contains(&payload) {
            frame.insert(payload.to_owned(), json!("opaque"));
        }
        for detail in details.split(", ").filter(|detail| !detail.is_empty()) {
            let (field, value) = detail.split_once(' ').expect("a field and its value");
            frame.insert(field.to_owned(), value_of(value));
        }
        self.harness.send(self.devices[at].conn, &Value::from(frame).to_string());
    }

    fn apply_note(&mut self, what: &str, words: &str) {
        if let Some(lost) = what.strip_suffix("-xS") {
            let at = self.at(lost);
            self.harness.close(self.devices[at].conn);
        } else if let Some(seconds) = seconds(words) {
            self.harness.advance(Duration::from_secs(seconds));
        } else if words == "in an answered call" {
            let [one, two] = [0, 1].map(|at| self.devices[at].alias.clone());
            self.send(&one, "call_initiated");
            self.send(&two, "answer");
            self.harness.received();
        } else {
            assert!(what.starts_with("Note over "), "{}: {what}", self.place);
        }
    }

    fn expect_frames(&mut self, expected: &[(String, String)]) {
        let place = self.place;
        let received = self.harness.received();
        let name = |conn: &ConnId| {
            let device = self.devices.iter().find(|device| device.conn == *conn);
            device.map_or("?", |device| &device.alias).to_owned()
        };
        let kinds: Vec<(String, String)> = received
            .iter()
            .map(|(conn, frame)| (name(conn), frame["type"].as_str().expect("a type").to_owned()))
            .collect();
        let wanted: Vec<(String, String)> = expected
            .iter()
            .map(|(to, words)| (to.clone(), words.split(", ").next().unwrap_or("").to_owned()))
            .collect();
        assert_eq!(kinds, wanted, "{place}: {received:?}");
        for ((to, words), (_, frame)) in expected.iter().zip(&received) {
            for detail in words.split(", ").skip(1) {
                let fits = match detail.split_once(' ') {
                    Some((field, value)) => frame[field] == value_of(value),
                    None => ["reason", "state", "code"].iter().any(|f| frame[*f] == detail),
                };
                assert!(fits, "{place}: {to} receives {frame} without {detail}");
            }
        }
    }
}

/// The JSON value of a detail: a number, an array of numbers, or a string.
fn value_of(text: &str) -> Value {
    let numbers: Option<Vec<u64>> = text.split(' ').map(|word| word.parse().ok()).collect();
    match numbers.as_deref() {
        Some([one]) => json!(one),
        Some(several) => json!(several),
        None => json!(text),
    }
}

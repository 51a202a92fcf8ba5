//! The frames that simulated clients send: mostly valid ones, and some invalid ones.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bytes;
use crate::script::Script;
use crate::site::{SECRET, USERS, short};
use crate::world::FRAME_MAX;

/// How long dedup remembers a message, less a margin: the server counts from when it accepts it.
const REMEMBERED: Duration = Duration::from_secs(400);

impl Script<'_> {
    pub fn send(&mut self) {
        let Some(slot) = self.pick_connection() else { return };
        let frame = self.frame(slot);
        self.send_text(slot, &frame);
    }

    /// Sends a text frame, whole or in fragments, and delivers all or some of it to the server.
    pub fn send_text(&mut self, slot: usize, frame: &Value) {
        if self.world.link(slot).is_none() {
            return;
        }
        let summary = short_frame(frame);
        self.world.note(&format!("{slot} sends {summary}"));
        let text = frame.to_string().into_bytes();
        let rng = &mut self.world.rng;
        if rng.chance(90) || text.len() < 4 {
            self.put(slot, bytes::text(std::str::from_utf8(&text).expect("JSON is text")));
        } else {
            let first = rng.range(1, text.len() as u64 - 2) as usize;
            let second = rng.range(first as u64, text.len() as u64 - 1) as usize;
            let with_ping = rng.chance(50);
            self.put(slot, bytes::frame(bytes::TEXT_FRAGMENT, &text[..first]));
            if with_ping {
                self.ping(slot);
            }
            self.put(slot, bytes::frame(bytes::CONTINUATION, &text[first..second]));
            self.put(slot, bytes::frame(bytes::LAST_CONTINUATION, &text[second..]));
        }
        let all = self.world.rng.chance(80);
        let bytes = if all { usize::MAX } else { self.world.rng.range(1, 150) as usize };
        self.world.deliver_to_server(slot, bytes);
    }

    pub fn put(&mut self, slot: usize, bytes: Vec<u8>) {
        if let Some(link) = self.world.link(slot) {
            link.to_server.extend(bytes);
        }
    }

    fn ping(&mut self, slot: usize) {
        self.sent_count += 1;
        let payload = self.sent_count.to_be_bytes().to_vec();
        self.put(slot, bytes::frame(bytes::PING, &payload));
        if let Some(link) = self.world.link(slot) {
            link.pinged.push_back(payload);
        }
    }

    fn frame(&mut self, slot: usize) -> Value {
        let kind = self.world.rng.pick_weighted(&[
            (30, "send_message"),
            (14, "join_thread"),
            (3, "leave_thread"),
            (12, "typing"),
            (8, "call"),
            (4, "online_users"),
            (2, "ping"),
            (1, "ice_servers"),
            (6, "user_connected"),
        ]);
        match kind {
            "send_message" => self.resend(slot).unwrap_or_else(|| self.message(slot)),
            "join_thread" => self.join(slot),
            "user_connected" => self.claim(slot),
            "call" => self.call(slot),
            "typing" => {
                let thread = self.thread();
                let mut frame = json!({"type": "typing", "threadId": thread});
                if self.world.rng.chance(40) {
                    frame["typing"] = json!(self.world.rng.chance(50));
                }
                self.add_client_id(frame)
            }
            "online_users" if self.world.rng.chance(30) => {
                self.add_client_id(json!({"type": kind}))
            }
            "ping" | "ice_servers" => self.add_client_id(json!({"type": kind})),
            kind => {
                let thread = self.thread();
                self.add_client_id(json!({"type": kind, "threadId": thread}))
            }
        }
    }

    /// Gives most frames a clientId of their own.
    fn add_client_id(&mut self, mut frame: Value) -> Value {
        self.sent_count += 1;
        if self.world.rng.chance(75) {
            frame["clientId"] = json!(format!("n{}", self.sent_count));
        }
        frame
    }

    fn thread(&mut self) -> Value {
        let threads = self.world.site.threads();
        let thread = match self.world.rng.chance(4) {
            true => 99,
            false => self.world.rng.pick(&threads),
        };
        if self.world.rng.chance(20) { json!(thread.to_string()) } else { json!(thread) }
    }

    pub fn join(&mut self, _slot: usize) -> Value {
        let thread = self.thread();
        self.add_client_id(json!({"type": "join_thread", "threadId": thread}))
    }

    /// A token for a frame: mostly the client's own or none, sometimes another user's or a forged one.
    fn token(&mut self, slot: usize) -> Option<String> {
        let now = self.world.instant();
        let (user, own) = match self.world.link(slot) {
            Some(link) => (link.user, link.token.clone()),
            None => return None,
        };
        let world = &mut self.world;
        match world.rng.below(20) {
            0 => {
                let other = world.rng.range(1, USERS);
                Some(world.site.issue(other, now, &mut world.rng))
            }
            1 => Some(format!("{}-forged-{:08x}", SECRET, world.rng.next_u64())),
            2..=5 => Some(world.site.issue(user, now, &mut world.rng)),
            6..=11 => None,
            _ => own,
        }
    }

    pub fn claim(&mut self, slot: usize) -> Value {
        let user = self.world.link(slot).map_or(1, |link| link.user);
        let user = match self.world.rng.chance(4) {
            true => self.world.rng.range(1, USERS),
            false => user,
        };
        let mut frame = json!({"type": "user_connected", "userId": user});
        if let Some(token) = self.token(slot) {
            frame["token"] = json!(token);
        }
        self.add_client_id(frame)
    }

    fn message(&mut self, slot: usize) -> Value {
        let length = self.world.rng.pick(&[0, 5, 40, 300]);
        let text = format!("m{}-{}", self.sent_count, "é".repeat(length));
        let mut frame = json!({"type": "send_message", "message": text});
        if self.world.rng.chance(88) {
            frame["threadId"] = self.thread();
        }
        frame["recipientId"] = json!(self.world.rng.range(1, USERS + 1));
        if let Some(token) = self.token(slot) {
            frame["token"] = json!(token);
        }
        let frame = self.add_client_id(frame);
        if let (Some(user), true) = (self.user(slot), frame["clientId"].is_string()) {
            let (now, server) = (self.world.instant(), self.world.restarts);
            self.resendable.push((user, now, server, frame.clone()));
        }
        frame
    }

    /// The user as which the server knows a connection.
    fn user(&mut self, slot: usize) -> Option<u64> {
        let conn = self.world.link(slot)?.id;
        self.world.oracle.conns.get(&conn)?.user
    }

    /// A message that the same user has sent before, on any connection.
    fn resend(&mut self, slot: usize) -> Option<Value> {
        if !self.world.rng.chance(20) {
            return None;
        }
        // Frames on their way could change the connection's user.
        self.world.link(slot).filter(|link| link.to_server.is_empty())?;
        let user = self.user(slot)?;
        let (now, server) = (self.world.instant(), self.world.restarts);
        self.resendable.retain(|(_, at, to, _)| now - *at < REMEMBERED && *to == server);
        let own: Vec<Value> = self
            .resendable
            .iter()
            .filter(|(by, .., frame)| *by == user && self.world.oracle.is_sent_only_by(frame, user))
            .map(|(.., frame)| frame.clone())
            .collect();
        (!own.is_empty()).then(|| self.world.rng.pick(&own))
    }

    fn call(&mut self, slot: usize) -> Value {
        let sender = self.world.link(slot).map_or(1, |link| link.user);
        let other = self.world.rng.range(1, USERS);
        let kind = self.world.rng.pick(&["call_initiated", "offer", "answer", "ice-candidate"]);
        let thread = self.thread();
        let mut frame = json!({
            "type": kind, "senderId": sender, "recipientId": other, "threadId": thread,
        });
        match kind {
            "ice-candidate" => frame["candidate"] = json!({"c": 1}),
            "call_initiated" => {}
            kind => frame[kind] = json!({"sdp": "v=0"}),
        }
        if let Some(token) = self.token(slot) {
            frame["token"] = json!(token);
        }
        self.add_client_id(frame)
    }

    /// Sends something that no client should send.
    pub fn send_invalid(&mut self) {
        let Some(slot) = self.pick_connection() else { return };
        let kind = self.world.rng.below(14);
        self.world.note(&format!("{slot} sends invalid input {kind}"));
        let bytes = match kind {
            0 => bytes::text("{"),
            1 => bytes::text("[1]"),
            2 => bytes::text(r#"{"type":"join_thread","threadId":{}}"#),
            3 => bytes::text(r#"{"type":"no such","clientId":"?"}"#),
            4 => bytes::text(r#"{"type":"join_thread","threadId":"x y"}"#),
            5 => bytes::text(r#"{"type":"typing"}"#),
            6 => bytes::frame(bytes::BINARY, b"01"),
            7 => bytes::frame(bytes::PONG, b"unasked"),
            8 => bytes::text(&"[".repeat(200)),
            9 => {
                for _ in 0..self.world.rng.below(40) {
                    self.ping(slot);
                }
                Vec::new()
            }
            10 => bytes::header(bytes::TEXT, FRAME_MAX as u64 + 1, [0; 4]),
            11 => bytes::frame(bytes::TEXT, &[0xff, 0xfe]),
            12 => bytes::frame(0xf1, b"reserved"),
            _ => bytes::frame(bytes::CONTINUATION, b"of what?"),
        };
        // From 10 on the input is a protocol error, which closes the connection: send it less often.
        if kind < 10 || self.world.rng.chance(30) {
            self.put(slot, bytes);
            self.world.deliver_to_server(slot, usize::MAX);
        }
    }
}

/// A frame for the trace, with long texts cut.
fn short_frame(frame: &Value) -> String {
    let mut frame = frame.clone();
    if let Some(text) = frame["message"].as_str() {
        frame["message"] = json!(short(text));
    }
    frame.to_string()
}

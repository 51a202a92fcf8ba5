//! Shared by the benches: the parts of the server, without sockets.

#![allow(dead_code)] // No bench uses all of it.

#[path = "../../tests/support/bytes.rs"]
pub mod bytes;
#[path = "../../tests/support/harness.rs"]
mod harness;
pub mod sockets;

use std::time::{Duration, Instant};

use buddyline::config::PresenceScope;
use buddyline::hub::Hub;
use buddyline::hub::interface::{ConnId, DeliveryLimits, Effect, Input, Now, Settings};
use buddyline::protocol::server::EncodedFrame;
use buddyline::upstream::Upstream;
use buddyline::wire::outbox::{Ledger, Outbox};
use buddyline::wire::{Codec, Event, Wire};
use criterion::Criterion;

/// Client frames: joining thread 1, typing in it, and no longer typing.
pub const JOIN: &str = r#"{"type":"join_thread","threadId":1}"#;
pub const TYPING: &str = r#"{"type":"typing","threadId":1}"#;
pub const TYPING_ENDS: &str = r#"{"type":"typing","threadId":1,"typing":false}"#;
/// A message into that thread.
pub const MESSAGE: &str = r#"{"type":"send_message","recipientId":"3","message":"Hello, this is a message.","threadId":"1","token":"eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"}"#;

/// Most bytes of one write, as in `connection.rs`.
const WRITE_BYTES: usize = 64 * 1024;

/// Short measurements, so that all benches together take only minutes.
pub fn short_run() -> Criterion {
    let (warm_up, measure) = (Duration::from_millis(500), Duration::from_secs(2));
    Criterion::default().warm_up_time(warm_up).measurement_time(measure).sample_size(50)
}

/// The frame with which a client claims a user.
pub fn user_connected(user: u32) -> String {
    format!(r#"{{"type":"user_connected","userId":{user}}}"#)
}

/// An upgrade request as a browser sends it through a proxy.
pub fn browser_request() -> Vec<u8> {
    bytes::request_with(
        "Pragma: no-cache\r\nCache-Control: no-cache\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
         Chrome/138.0.0.0 Safari/537.36\r\nOrigin: https://community.example\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\
         Cookie: wordpress_test_cookie=WP%20Cookie%20check; wp-settings-time-7=1795345238\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
         X-Forwarded-For: 198.51.100.7\r\n",
    )
}

/// Receives the frames for connections.
pub trait FrameSink {
    /// Takes a frame for these connections.
    fn put(&mut self, to: &[ConnId], frame: EncodedFrame);
}

/// Drops all frames, so that only the hub's own work is measured.
pub struct Discard;

impl FrameSink for Discard {
    fn put(&mut self, _: &[ConnId], _: EncodedFrame) {}
}

/// Sends the next bytes of an outbox as `connection.rs` does, but without the system call: two or
/// more frames are copied first. Returns how many bytes were sent.
pub fn flush(outbox: &mut Outbox, copies: &mut Vec<u8>, ledger: &mut Ledger) -> usize {
    let bytes = match outbox.only() {
        Some(only) => only.len(),
        None => {
            copies.clear();
            outbox.copy_into(copies, WRITE_BYTES, |_| {});
            copies.len()
        }
    };
    outbox.consume(bytes, ledger);
    bytes
}

/// The outboxes of all connections, by slot.
pub struct Outboxes {
    outboxes: Vec<Outbox>,
    ledger: Ledger,
    copies: Vec<u8>,
}

impl Outboxes {
    pub fn new(count: u32) -> Outboxes {
        let outboxes = (0..count).map(|_| Outbox::default()).collect();
        Outboxes { outboxes, ledger: Ledger::default(), copies: Vec::new() }
    }

    /// Empties all outboxes. Returns how many bytes were sent.
    pub fn flush(&mut self) -> usize {
        let mut bytes = 0;
        for outbox in &mut self.outboxes {
            while !outbox.is_empty() {
                bytes += flush(outbox, &mut self.copies, &mut self.ledger);
            }
        }
        bytes
    }
}

impl FrameSink for Outboxes {
    fn put(&mut self, to: &[ConnId], frame: EncodedFrame) {
        for to in to {
            self.outboxes[to.slot as usize].push(EncodedFrame::clone(&frame));
        }
    }
}

/// A hub with the embedded site and a manual clock.
pub struct BenchHub {
    hub: Hub,
    upstream: Upstream,
    now: Now,
}

impl BenchHub {
    /// Creates a hub without connections.
    pub fn new() -> BenchHub {
        let settings = Settings {
            presence: PresenceScope::All,
            threads: 100_000,
            deliveries: DeliveryLimits { total: 1_000, per_connection: 64, bytes: 1 << 20 },
            ..harness::settings()
        };
        let now = Now { instant: Instant::now(), unix_s: 1_800_000_000 };
        BenchHub { hub: Hub::new(settings), upstream: Upstream::embedded(), now }
    }

    /// Creates a hub with this many users, all subscribed to thread 1.
    pub fn of(subscribers: u32) -> BenchHub {
        let mut hub = BenchHub::new();
        for slot in 0..subscribers {
            hub.open(slot, &mut Discard);
            hub.send(slot, &user_connected(slot + 1), &mut Discard);
            hub.send(slot, JOIN, &mut Discard);
        }
        // Their presence frames are delivered before the measurement.
        hub.advance(Duration::from_secs(1), &mut Discard);
        hub
    }

    pub fn open(&mut self, slot: u32, sink: &mut impl FrameSink) {
        self.handle(Input::Opened { conn: conn(slot), credential: None }, sink);
    }

    pub fn send(&mut self, slot: u32, text: &str, sink: &mut impl FrameSink) {
        self.handle(Input::Frame { conn: conn(slot), text }, sink);
    }

    pub fn close(&mut self, slot: u32, sink: &mut impl FrameSink) {
        self.handle(Input::Closed { conn: conn(slot) }, sink);
    }

    /// Advances the clock, and runs everything that is due.
    pub fn advance(&mut self, time: Duration, sink: &mut impl FrameSink) {
        self.now.instant += time;
        while self.hub.next_deadline().is_some_and(|at| at <= self.now.instant) {
            self.hub.advance(self.now);
            self.apply_effects(sink);
        }
    }

    /// Handles one input and then all its effects, as the server does.
    fn handle(&mut self, input: Input<'_>, sink: &mut impl FrameSink) {
        self.hub.handle(input, self.now);
        self.apply_effects(sink);
        while let Some((request, answer)) = self.upstream.next_answer() {
            self.hub.handle(Input::Answered { request, answer }, self.now);
            self.apply_effects(sink);
        }
    }

    fn apply_effects(&mut self, sink: &mut impl FrameSink) {
        while let Some(effect) = self.hub.next_effect() {
            match effect {
                Effect::Send { to, frame, .. } => sink.put(&[to], frame),
                Effect::FanOut { to, frame, .. } => sink.put(self.hub.receivers(to), frame),
                Effect::Ask { request, ask } => self.upstream.submit(request, *ask, self.now),
                Effect::SendCallStatus { reply, .. } => {
                    panic!("no status was requested: {reply:?}")
                }
                Effect::Active(_) => {}
                Effect::Wake(event) | Effect::Missed(event) => {
                    panic!("no call was started: {event:?}")
                }
                Effect::Close { reason, .. } => panic!("no connection is closed: {reason}"),
            }
        }
    }
}

fn conn(slot: u32) -> ConnId {
    ConnId { slot, serial: slot + 1 }
}

/// The shared codec, and the read buffer.
pub struct FrameReader {
    pub codec: Codec,
    scratch: Vec<u8>,
}

impl FrameReader {
    /// Creates a reader with the limits of the tests.
    pub fn new() -> FrameReader {
        FrameReader { codec: bytes::codec_of(bytes::LIMIT, false), scratch: Vec::new() }
    }

    /// Decodes the frames in these bytes as if one socket read had returned them, and passes each
    /// text to `text`. Returns the number of events.
    pub fn read(
        &mut self,
        wire: &mut Wire,
        bytes: &[u8],
        outbox: &mut Outbox,
        mut text: impl FnMut(&str),
    ) -> usize {
        self.scratch.clear();
        self.scratch.extend_from_slice(bytes);
        let mut input = &mut *self.scratch;
        let mut frames = 0;
        while !input.is_empty() {
            match wire.next(&mut self.codec, &mut input, outbox) {
                Event::Text(frame) => text(&frame),
                Event::Opened(_) => {}
                Event::NeedsInput => return frames,
                other => panic!("unexpected {other:?}"),
            }
            frames += 1;
        }
        frames
    }
}

/// Opens a WebSocket; returns its reader and its wire.
pub fn open_wire() -> (FrameReader, Wire) {
    let (mut reader, mut wire) = (FrameReader::new(), Wire::new(bytes::PEER));
    reader.read(&mut wire, &bytes::request(), &mut Outbox::default(), |_| {});
    (reader, wire)
}

//! Goes one of the hot paths so many times, and nothing else. `benches/instructions` runs it under
//! callgrind and counts.
//!
//! Without sockets, from the masked bytes of a client to the bytes that one write takes along; only
//! `tick-10` has the server's own loop, which does what `BenchHub` and `Outboxes` stand for.

mod support;

use std::env;
use std::time::Duration;

use buddyline::wire::Wire;
use buddyline::wire::outbox::Outbox;
use support::sockets::Loopback;
use support::{
    BenchHub, FrameReader, JOIN, MESSAGE, Outboxes, TYPING, browser_request, bytes, open_wire,
    user_connected,
};

fn main() {
    let mut arguments = env::args().skip(1);
    let path = arguments.next().expect("a path");
    let times = arguments.next().and_then(|times| times.parse().ok()).expect("how many times");
    match &*path {
        "typing-2" => send(TYPING, 2, times),
        "typing-1000" => send(TYPING, 1_000, times),
        "message-10" => send(MESSAGE, 10, times),
        "handshake" => handshakes(times),
        "come-and-go" => connects_and_leaves(times),
        "tick-10" => ticks(10, times),
        other => panic!("there is no path {other}"),
    }
}

/// One says this in a thread, and all in it hear what comes of it.
fn send(text: &str, subscribers: u32, times: usize) {
    let (mut hub, mut outboxes) = (BenchHub::of(subscribers), Outboxes::new(subscribers));
    let (mut reader, mut wire) = open_wire();
    let mut own = Outbox::default();
    let bytes = bytes::text(text);
    for _ in 0..times {
        reader.read(&mut wire, &bytes, &mut own, |text| {
            hub.send(0, text, &mut outboxes);
        });
        // A frame of more than two times a byte for each.
        assert!(outboxes.flush() > 2 * subscribers as usize, "all hear it");
    }
}

/// A request is answered.
fn handshakes(times: usize) {
    let mut reader = FrameReader::new();
    let request = browser_request();
    for _ in 0..times {
        let (mut wire, mut outbox) = (Wire::new(bytes::PEER), Outbox::default());
        assert_eq!(reader.read(&mut wire, &request, &mut outbox, |_| {}), 1);
        assert!(!outbox.is_empty(), "it is answered");
    }
}

/// An eleventh comes to ten, says who it is, joins and goes; the ten hear of it.
fn connects_and_leaves(times: usize) {
    let (mut hub, mut outboxes) = (BenchHub::of(10), Outboxes::new(11));
    let me = user_connected(11);
    for _ in 0..times {
        hub.open(10, &mut outboxes);
        hub.send(10, &me, &mut outboxes);
        hub.send(10, JOIN, &mut outboxes);
        hub.close(10, &mut outboxes);
        hub.advance(Duration::from_secs(10), &mut outboxes);
        assert!(outboxes.flush() > 0, "they hear of it");
    }
}

/// One types over a real socket, and all hear it over theirs.
fn ticks(subscribers: usize, times: usize) {
    let mut loopback = Loopback::new(subscribers);
    for _ in 0..times {
        loopback.type_once();
    }
}

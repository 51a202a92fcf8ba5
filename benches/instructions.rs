//! Runs one hot path a given number of times; `benches/instructions` counts its instructions under
//! callgrind.
//!
//! The paths use no sockets: they go from the masked bytes of a client to the bytes of one write.
//! Only `tick-10` runs the server's event loop, which `BenchHub` and `Outboxes` replace elsewhere.

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
    let path = arguments.next().expect("the first argument is a path");
    let times = arguments
        .next()
        .and_then(|times| times.parse().ok())
        .expect("the second argument is the number of runs");
    match &*path {
        "typing-2" => send(TYPING, 2, times),
        "typing-1000" => send(TYPING, 1_000, times),
        "message-10" => send(MESSAGE, 10, times),
        "handshake" => handshakes(times),
        "come-and-go" => connects_and_leaves(times),
        "tick-10" => ticks(10, times),
        other => panic!("unknown path {other}"),
    }
}

/// One user sends this frame in a thread, and all subscribers receive the result.
fn send(text: &str, subscribers: u32, times: usize) {
    let (mut hub, mut outboxes) = (BenchHub::of(subscribers), Outboxes::new(subscribers));
    let (mut reader, mut wire) = open_wire();
    let mut own = Outbox::default();
    let bytes = bytes::text(text);
    for _ in 0..times {
        reader.read(&mut wire, &bytes, &mut own, |text| {
            hub.send(0, text, &mut outboxes);
        });
        // More than the two bytes of a frame header for each subscriber.
        assert!(outboxes.flush() > 2 * subscribers as usize, "all subscribers receive it");
    }
}

/// A browser's upgrade request and its response.
fn handshakes(times: usize) {
    let mut reader = FrameReader::new();
    let request = browser_request();
    for _ in 0..times {
        let (mut wire, mut outbox) = (Wire::new(bytes::PEER), Outbox::default());
        assert_eq!(reader.read(&mut wire, &request, &mut outbox, |_| {}), 1);
        assert!(!outbox.is_empty(), "the outbox has the response");
    }
}

/// An eleventh user connects, joins the thread of the other ten and disconnects; the ten receive
/// the presence frames.
fn connects_and_leaves(times: usize) {
    let (mut hub, mut outboxes) = (BenchHub::of(10), Outboxes::new(11));
    let me = user_connected(11);
    for _ in 0..times {
        hub.open(10, &mut outboxes);
        hub.send(10, &me, &mut outboxes);
        hub.send(10, JOIN, &mut outboxes);
        hub.close(10, &mut outboxes);
        hub.advance(Duration::from_secs(10), &mut outboxes);
        assert!(outboxes.flush() > 0, "the others receive presence frames");
    }
}

/// One client types, and all receive it, over real sockets.
fn ticks(subscribers: usize, times: usize) {
    let mut loopback = Loopback::new(subscribers);
    for _ in 0..times {
        loopback.type_once();
    }
}

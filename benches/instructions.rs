//! Goes one of the hot paths so many times, and nothing else. `benches/instructions` runs it under
//! callgrind and counts.
//!
//! Without sockets, from the masked bytes of a client to the bytes that one write takes along; only
//! `tick-10` has the server's own loop, which does what `Community` and `Outboxes` stand for.

mod support;

use std::env;
use std::time::Duration;

use buddyline::wire::Wire;
use buddyline::wire::outbox::Outbox;
use support::sockets::Town;
use support::{
    Community, Ears, JOIN, MESSAGE, Outboxes, TYPING, browsers_request, bytes, open_wire,
    user_connected,
};

fn main() {
    let mut arguments = env::args().skip(1);
    let path = arguments.next().expect("a path");
    let times = arguments.next().and_then(|times| times.parse().ok()).expect("how many times");
    match &*path {
        "typing-2" => says(TYPING, 2, times),
        "typing-1000" => says(TYPING, 1_000, times),
        "message-10" => says(MESSAGE, 10, times),
        "handshake" => opens(times),
        "come-and-go" => comes_and_goes(times),
        "tick-10" => ticks(10, times),
        other => panic!("there is no path {other}"),
    }
}

/// One says this in a thread, and all in it hear what comes of it.
fn says(text: &str, hearers: u32, times: usize) {
    let (mut community, mut outboxes) = (Community::of(hearers), Outboxes::new(hearers));
    let (mut ears, mut wire) = open_wire();
    let mut own = Outbox::default();
    let bytes = bytes::text(text);
    for _ in 0..times {
        ears.read(&mut wire, &bytes, &mut own, |text| {
            community.says(0, text, &mut outboxes);
        });
        // A frame of more than two times a byte for each.
        assert!(outboxes.leave() > 2 * hearers as usize, "all hear it");
    }
}

/// A request is answered.
fn opens(times: usize) {
    let mut ears = Ears::new();
    let request = browsers_request();
    for _ in 0..times {
        let (mut wire, mut outbox) = (Wire::new(bytes::PEER), Outbox::default());
        assert_eq!(ears.read(&mut wire, &request, &mut outbox, |_| {}), 1);
        assert!(!outbox.is_empty(), "it is answered");
    }
}

/// An eleventh comes to ten, says who it is, joins and goes; the ten hear of it.
fn comes_and_goes(times: usize) {
    let (mut community, mut outboxes) = (Community::of(10), Outboxes::new(11));
    let me = user_connected(11);
    for _ in 0..times {
        community.open(10, &mut outboxes);
        community.says(10, &me, &mut outboxes);
        community.says(10, JOIN, &mut outboxes);
        community.close(10, &mut outboxes);
        community.pass(Duration::from_secs(10), &mut outboxes);
        assert!(outboxes.leave() > 0, "they hear of it");
    }
}

/// One types over a real socket, and all hear it over theirs.
fn ticks(hearers: usize, times: usize) {
    let mut town = Town::new(hearers);
    for _ in 0..times {
        town.types();
    }
}

//! What a connection costs the hub, and the whole server, in bytes that were asked of the allocator
//! and not given back.
//!
//! The counter stands before the allocator of this test's process and counts for each thread by
//! itself. What malloc adds to a block, 8 bytes and what makes it a multiple of 16, is not in it: so
//! the blocks are counted too, and there have to be next to none.
//!
//! `cargo test --test memory -- --nocapture` prints where the bytes go; `docs/ARCHITECTURE.md` has
//! the same byte by byte.

#![allow(clippy::unwrap_used)]

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/town.rs"]
mod town;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use allocation_counter::measure;
use buddyline::config::{Config, PresenceScope};
use buddyline::connection::Connection;
use buddyline::hub::Hub;
use buddyline::hub::interface::{ConnId, Effect, HubCounts, Input, Now, Settings};
use buddyline::server::Server;
use clap::Parser;

/// Connections, each of another user, two of them in each thread.
const CROWD: u32 = 10_000;
/// What an idle connection, identified and joined, may cost the hub. As counted it is 150; the rest
/// is a margin for the standard library and the crates, whose tables may grow otherwise one day.
const IDLE_BYTES_MAX: f64 = 154.0;
/// Blocks that the hub may have in all: those of its tables, ten as counted.
const BLOCKS_MAX: i64 = 12;

/// What has been asked of the allocator and not given back.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    bytes: i64,
    blocks: i64,
}

impl Held {
    fn bytes_each(self) -> f64 {
        self.bytes as f64 / f64::from(CROWD)
    }
}

/// A row of the table of what a connection costs.
fn print_part(part: &str, held: Held) {
    println!("{part:<32} {:>8.2} bytes {:>6} blocks", held.bytes_each(), held.blocks);
}

/// A hub, its clock, and what it holds.
struct Place {
    hub: Hub,
    now: Now,
    held: Held,
    heard: u32,
}

impl Place {
    fn new() -> Place {
        let now = Now { instant: Instant::now(), unix_s: 1_800_000_000 };
        let presence = PresenceScope::Off;
        let settings = Settings { presence, threads: CROWD as usize, ..town::settings() };
        let mut hub = None;
        let info = measure(|| hub = Some(Hub::new(settings)));
        let held = Held { bytes: info.bytes_current, blocks: info.count_current };
        Place { hub: hub.unwrap(), now, held, heard: 0 }
    }

    /// Does something, and prints and adds up what the hub holds from then on, or no longer.
    fn counts(&mut self, what: &str, go: impl FnOnce(&mut Place)) -> Held {
        let info = measure(|| go(self));
        let more = Held { bytes: info.bytes_current, blocks: info.count_current };
        print_part(what, more);
        self.held.bytes += more.bytes;
        self.held.blocks += more.blocks;
        self.hub.check_invariants();
        more
    }

    fn drain(&mut self) {
        while let Some(effect) = self.hub.next_effect() {
            self.heard += match effect {
                Effect::Send { .. } | Effect::Hint { .. } => 1,
                Effect::Spread { to, .. } => self.hub.receivers(to).len() as u32,
                Effect::Ask { .. } | Effect::Close { .. } | Effect::Wake(_) => 0,
                Effect::SendCallStatus { .. } => 0,
            };
        }
    }

    fn each(&mut self, input: impl Fn(ConnId) -> Input<'static>) {
        for slot in 0..CROWD {
            self.hub.handle(input(ConnId { slot, serial: slot + 1 }), self.now);
            self.drain();
        }
    }

    fn each_says(&mut self, text: impl Fn(u32) -> String) {
        for slot in 0..CROWD {
            let (conn, text) = (ConnId { slot, serial: slot + 1 }, text(slot));
            self.hub.handle(Input::Frame { conn, text: &text }, self.now);
            self.drain();
        }
    }

    fn open(&mut self) {
        self.each(|conn| Input::Opened { conn, credential: None });
    }

    fn identify(&mut self) {
        self.each_says(|slot| format!(r#"{{"type":"user_connected","userId":{}}}"#, slot + 1));
    }

    fn join(&mut self) {
        self.each_says(|slot| format!(r#"{{"type":"join_thread","threadId":{}}}"#, slot / 2 + 1));
    }

    fn type_once(&mut self) {
        self.each_says(|slot| format!(r#"{{"type":"typing","threadId":{}}}"#, slot / 2 + 1));
    }

    /// Each types ten times and hears twenty, and then that both are done.
    fn use_and_rest(&mut self) {
        let before = self.heard;
        for _ in 0..10 {
            self.type_once();
            self.pass(Duration::from_millis(500));
        }
        assert_eq!(self.heard - before, 20 * CROWD);
        self.pass(Duration::from_secs(10));
        assert_eq!(self.heard - before, 22 * CROWD, "they have stopped");
    }

    fn close(&mut self) {
        self.each(|conn| Input::Closed { conn });
        self.pass(Duration::from_secs(10));
    }

    fn pass(&mut self, time: Duration) {
        self.now.instant += time;
        while self.hub.next_deadline().is_some_and(|at| at <= self.now.instant) {
            self.hub.advance(self.now);
            self.drain();
        }
    }
}

#[test]
fn an_idle_connection_costs_the_hub_few_bytes_and_no_block_of_its_own() {
    let mut place = Place::new();
    println!("for each of {CROWD} connections, and blocks in all");
    place.counts("opened", Place::open);
    place.counts("user_connected", Place::identify);
    place.counts("join_thread, two in each", Place::join);
    println!(
        "{:<32} {:>8.2} bytes {:>6} blocks",
        "hub",
        place.held.bytes_each(),
        place.held.blocks
    );
    assert!(place.held.bytes_each() <= IDLE_BYTES_MAX, "{:?}", place.held);
    assert!(place.held.blocks <= BLOCKS_MAX, "{:?}", place.held);
}

#[test]
fn who_has_typed_and_rests_costs_what_they_did_before() {
    let mut place = Place::new();
    place.counts("idle", |place| {
        place.open();
        place.identify();
        place.join();
    });
    let typing = place.counts("while they type", Place::type_once);
    assert!(typing.bytes_each() > 100.0, "the counter sees what they type: {typing:?}");
    place.counts("typing is over", |place| place.pass(Duration::from_secs(10)));
    let used = place.counts("typed ten times, heard twenty", Place::use_and_rest);
    // A tree keeps a node when it has become empty.
    assert!(place.held.bytes_each() <= IDLE_BYTES_MAX + 1.0, "{:?}", place.held);
    assert!(place.held.blocks <= BLOCKS_MAX + 4, "{:?}", place.held);
    assert!(used.bytes == 0 && used.blocks == 0, "the second time costs nothing: {used:?}");
}

#[test]
fn when_all_have_gone_the_tables_wait_empty_for_the_next() {
    let mut place = Place::new();
    place.counts("idle", |place| {
        place.open();
        place.identify();
        place.join();
        place.use_and_rest();
    });
    place.counts("gone", Place::close);
    assert_eq!(
        place.hub.counts(),
        HubCounts { connections: 0, users: 0, threads: 0, deliveries: 0, calls: [0, 0] }
    );
    // The tables have their capacity still, and nothing else is left.
    assert!(place.held.bytes_each() <= IDLE_BYTES_MAX + 1.0, "{:?}", place.held);
    assert!(place.held.blocks <= BLOCKS_MAX + 6, "{:?}", place.held);
    let again = place.counts("the same again", |place| {
        place.open();
        place.identify();
        place.join();
        place.use_and_rest();
    });
    assert!(again.bytes == 0 && again.blocks == 0, "those who come again find room: {again:?}");
}

// ---- the whole server

/// Connections over real sockets: both ends of each are in this process.
const GUESTS: usize = 1_000;
/// What an idle connection, identified and joined, may cost the server: its place in the slab and
/// the hub's part. As counted it is 355, of which 16 are checks of a build without
/// optimisation; the rest is a margin, as above.
const SERVER_BYTES_MAX: f64 = 366.0;

/// A server that is turned by this thread, so that what it asks of the allocator is counted.
struct House {
    server: Server,
    address: SocketAddr,
    guests: Vec<TcpStream>,
}

impl House {
    fn new() -> House {
        let config = Config::parse_from(["buddyline", "--listen", "127.0.0.1:0", "--no-limits"]);
        let server = Server::bind(&config).unwrap();
        let (address, guests) = (server.addresses()[0], Vec::with_capacity(GUESTS));
        House { server, address, guests }
    }

    /// Each comes, says who it is, joins its thread, and hears that it has.
    fn fill(&mut self) {
        for n in 0..GUESTS {
            let mut guest = TcpStream::connect(self.address).unwrap();
            guest.set_nonblocking(true).unwrap();
            let identify = format!(r#"{{"type":"user_connected","userId":{}}}"#, n + 1);
            let join = format!(r#"{{"type":"join_thread","threadId":{}}}"#, n / 2 + 1);
            let all = [bytes::request(), bytes::text(&identify), bytes::text(&join)].concat();
            guest.write_all(&all).unwrap();
            self.guests.push(guest);
            self.hear(n, "thread_joined");
        }
        self.quiet();
    }

    /// Turns the loop until a guest has heard this.
    fn hear(&mut self, guest: usize, what: &str) {
        let mut buffer = [0; 1 << 16];
        let mut heard = String::new();
        while !heard.contains(what) {
            match self.guests[guest].read(&mut buffer) {
                Ok(0) => panic!("closed"),
                Ok(bytes) => heard += &String::from_utf8_lossy(&buffer[..bytes]),
                Err(_) => self.server.tick().unwrap(),
            }
        }
    }

    /// Lets everyone read until there is nothing more to hear.
    fn quiet(&mut self) {
        let until = Instant::now() + Duration::from_millis(1_500);
        let mut buffer = [0; 1 << 16];
        while Instant::now() < until {
            self.server.tick().unwrap();
            for guest in &mut self.guests {
                while guest.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
            }
        }
    }
}

#[test]
fn an_idle_connection_costs_the_server_few_bytes_and_no_block_of_its_own() {
    println!("place in the slab {:>29} bytes", size_of::<Connection>());
    let mut house = House::new();
    let info = measure(|| house.fill());
    let [bytes, blocks] = [info.bytes_current, info.count_current];
    let each = bytes as f64 / GUESTS as f64;
    println!("the whole server, of {GUESTS:<11} {each:>8.2} bytes {blocks:>6} blocks");
    assert!(each <= SERVER_BYTES_MAX, "{each} bytes for each");
    assert!(blocks <= 2 * BLOCKS_MAX, "{blocks} blocks");
    // The flood of their arrivals has left nothing, and neither does what they say.
    let info = measure(|| {
        for n in 0..GUESTS {
            let typing = format!(r#"{{"type":"typing","threadId":{}}}"#, n / 2 + 1);
            house.guests[n].write_all(&bytes::text(&typing)).unwrap();
            house.hear(n, "typing");
        }
        house.quiet();
        house.quiet();
        house.quiet();
    });
    println!("after use {:>40} bytes {:>6} blocks in all", info.bytes_current, info.count_current);
    assert!(info.bytes_current <= 4 * GUESTS as i64 && info.count_current <= 8, "{info:?}");
}

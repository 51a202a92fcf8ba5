//! Memory of a connection in the hub and in the whole server: bytes allocated and not freed.
//!
//! The counter wraps the allocator of this test's process, and counts each thread separately. It does
//! not include malloc's overhead (8 bytes per block, and rounding up to a multiple of 16), so the tests
//! also count blocks, of which there must be next to none.
//!
//! `cargo test --test memory -- --nocapture` prints the bytes of each step; `docs/ARCHITECTURE.md`
//! explains them byte by byte.

#![allow(clippy::unwrap_used)]

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/harness.rs"]
mod harness;

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

/// Connections, each of its own user, two in each thread.
const HUB_CONNECTIONS: u32 = 10_000;
/// The hub's limit for an idle connection that is identified and has joined a thread. The measured
/// value is 150; the rest is a margin for changes in the tables of the standard library and the crates.
const IDLE_BYTES_MAX: f64 = 154.0;
/// The limit for the hub's blocks in all: those of its tables, of which ten are measured.
const BLOCKS_MAX: i64 = 12;

/// Memory allocated and not freed.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    bytes: i64,
    blocks: i64,
}

impl Held {
    fn bytes_each(self) -> f64 {
        self.bytes as f64 / f64::from(HUB_CONNECTIONS)
    }
}

/// Prints a row of the table of costs per connection.
fn print_part(part: &str, held: Held) {
    println!("{part:<32} {:>8.2} bytes {:>6} blocks", held.bytes_each(), held.blocks);
}

/// A hub, its clock, and the memory that it holds.
struct HubUnderTest {
    hub: Hub,
    now: Now,
    held: Held,
    received: u32,
}

impl HubUnderTest {
    fn new() -> HubUnderTest {
        let now = Now { instant: Instant::now(), unix_s: 1_800_000_000 };
        let presence = PresenceScope::Off;
        let settings =
            Settings { presence, threads: HUB_CONNECTIONS as usize, ..harness::settings() };
        let mut hub = None;
        let info = measure(|| hub = Some(Hub::new(settings)));
        let held = Held { bytes: info.bytes_current, blocks: info.count_current };
        HubUnderTest { hub: hub.unwrap(), now, held, received: 0 }
    }

    /// Runs a step, prints by how much the hub's memory changed, and adds it up.
    fn measure_step(&mut self, what: &str, go: impl FnOnce(&mut HubUnderTest)) -> Held {
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
            self.received += match effect {
                Effect::Send { .. } => 1,
                Effect::FanOut { to, .. } => self.hub.receivers(to).len() as u32,
                Effect::Ask { .. } | Effect::Close { .. } => 0,
                Effect::Wake(_) | Effect::Missed(_) | Effect::Active(_) => 0,
                Effect::SendCallStatus { .. } => 0,
            };
        }
    }

    fn each(&mut self, input: impl Fn(ConnId) -> Input<'static>) {
        for slot in 0..HUB_CONNECTIONS {
            self.hub.handle(input(ConnId { slot, serial: slot + 1 }), self.now);
            self.drain();
        }
    }

    fn send_each(&mut self, text: impl Fn(u32) -> String) {
        for slot in 0..HUB_CONNECTIONS {
            let (conn, text) = (ConnId { slot, serial: slot + 1 }, text(slot));
            self.hub.handle(Input::Frame { conn, text: &text }, self.now);
            self.drain();
        }
    }

    /// Sends one frame; returns how often it allocated.
    fn measure_frame(&mut self, conn: ConnId, text: &str) -> u64 {
        let info = measure(|| {
            self.hub.handle(Input::Frame { conn, text }, self.now);
            self.drain();
        });
        info.count_total
    }

    fn open(&mut self) {
        self.each(|conn| Input::Opened { conn, credential: None });
    }

    fn identify(&mut self) {
        self.send_each(|slot| format!(r#"{{"type":"user_connected","userId":{}}}"#, slot + 1));
    }

    fn join(&mut self) {
        self.send_each(|slot| format!(r#"{{"type":"join_thread","threadId":{}}}"#, slot / 2 + 1));
    }

    fn type_once(&mut self) {
        self.send_each(|slot| format!(r#"{{"type":"typing","threadId":{}}}"#, slot / 2 + 1));
    }

    /// Each connection types ten times and receives twenty typing frames, then two ends of typing.
    fn type_and_idle(&mut self) {
        let before = self.received;
        for _ in 0..10 {
            self.type_once();
            self.advance(Duration::from_millis(500));
        }
        assert_eq!(self.received - before, 20 * HUB_CONNECTIONS);
        self.advance(Duration::from_secs(10));
        assert_eq!(self.received - before, 22 * HUB_CONNECTIONS, "both have stopped typing");
    }

    fn close(&mut self) {
        self.each(|conn| Input::Closed { conn });
        self.advance(Duration::from_secs(10));
    }

    fn advance(&mut self, time: Duration) {
        self.now.instant += time;
        while self.hub.next_deadline().is_some_and(|at| at <= self.now.instant) {
            self.hub.advance(self.now);
            self.drain();
        }
    }
}

#[test]
fn idle_connection_costs_hub_few_bytes_and_no_allocation() {
    let mut fixture = HubUnderTest::new();
    println!("for each of {HUB_CONNECTIONS} connections, and blocks in all");
    fixture.measure_step("opened", HubUnderTest::open);
    fixture.measure_step("user_connected", HubUnderTest::identify);
    fixture.measure_step("join_thread, two in each", HubUnderTest::join);
    println!(
        "{:<32} {:>8.2} bytes {:>6} blocks",
        "hub",
        fixture.held.bytes_each(),
        fixture.held.blocks
    );
    assert!(fixture.held.bytes_each() <= IDLE_BYTES_MAX, "{:?}", fixture.held);
    assert!(fixture.held.blocks <= BLOCKS_MAX, "{:?}", fixture.held);
}

#[test]
fn idle_after_typing_costs_no_extra_memory() {
    let mut fixture = HubUnderTest::new();
    fixture.measure_step("idle", |fixture| {
        fixture.open();
        fixture.identify();
        fixture.join();
    });
    let typing = fixture.measure_step("while they type", HubUnderTest::type_once);
    assert!(typing.bytes_each() > 100.0, "the counter sees the typing: {typing:?}");
    fixture.measure_step("typing is over", |fixture| fixture.advance(Duration::from_secs(10)));
    let used = fixture.measure_step("typed ten times, received 20", HubUnderTest::type_and_idle);
    // An empty tree keeps a node.
    assert!(fixture.held.bytes_each() <= IDLE_BYTES_MAX + 1.0, "{:?}", fixture.held);
    assert!(fixture.held.blocks <= BLOCKS_MAX + 4, "{:?}", fixture.held);
    assert!(used.bytes == 0 && used.blocks == 0, "the second time costs nothing: {used:?}");
}

#[test]
fn repeated_typing_allocates_nothing() {
    const TYPING: &str = r#"{"type":"typing","threadId":7}"#;
    let mut fixture = HubUnderTest::new();
    fixture.open();
    fixture.identify();
    fixture.send_each(|slot| match slot {
        0..1_000 => r#"{"type":"join_thread","threadId":7}"#.to_owned(),
        _ => r#"{"type":"ping"}"#.to_owned(),
    });
    let typing_conn = ConnId { slot: 0, serial: 1 };
    let first = fixture.measure_frame(typing_conn, TYPING);
    assert!(first > 0, "the first frame is encoded and the typing user recorded");
    let before = fixture.received;
    assert_eq!(fixture.measure_frame(typing_conn, TYPING), 0);
    assert_eq!(fixture.received - before, 1_000);
}

#[test]
fn tables_are_empty_and_reused_after_all_disconnect() {
    let mut fixture = HubUnderTest::new();
    fixture.measure_step("idle", |fixture| {
        fixture.open();
        fixture.identify();
        fixture.join();
        fixture.type_and_idle();
    });
    fixture.measure_step("gone", HubUnderTest::close);
    assert_eq!(
        fixture.hub.counts(),
        HubCounts { connections: 0, users: 0, threads: 0, deliveries: 0, calls: [0, 0] }
    );
    // The tables keep their capacity, and nothing else is left.
    assert!(fixture.held.bytes_each() <= IDLE_BYTES_MAX + 1.0, "{:?}", fixture.held);
    assert!(fixture.held.blocks <= BLOCKS_MAX + 6, "{:?}", fixture.held);
    let again = fixture.measure_step("the same again", |fixture| {
        fixture.open();
        fixture.identify();
        fixture.join();
        fixture.type_and_idle();
    });
    assert!(again.bytes == 0 && again.blocks == 0, "later connections reuse the tables: {again:?}");
}

// ---- the whole server

/// Connections over real sockets, with both ends in this process.
const SERVER_CONNECTIONS: usize = 1_000;
/// The server's limit for an idle connection that is identified and has joined a thread: its place in
/// the slab and the hub's part. The measured value is 355, of which 16 are checks of a build without
/// optimisation; the rest is a margin, as above.
const SERVER_BYTES_MAX: f64 = 366.0;

/// A server whose event loop runs in this thread, so that its allocations are counted.
struct ServerUnderTest {
    server: Server,
    address: SocketAddr,
    clients: Vec<TcpStream>,
}

impl ServerUnderTest {
    fn new() -> ServerUnderTest {
        let config = Config::parse_from(["buddyline", "--listen", "127.0.0.1:0", "--no-limits"]);
        let server = Server::bind(&config).unwrap();
        let (address, clients) = (server.addresses()[0], Vec::with_capacity(SERVER_CONNECTIONS));
        ServerUnderTest { server, address, clients }
    }

    /// Connects all clients: each identifies itself, joins its thread and gets the confirmation.
    fn fill(&mut self) {
        for n in 0..SERVER_CONNECTIONS {
            let mut client = TcpStream::connect(self.address).unwrap();
            client.set_nonblocking(true).unwrap();
            let identify = format!(r#"{{"type":"user_connected","userId":{}}}"#, n + 1);
            let join = format!(r#"{{"type":"join_thread","threadId":{}}}"#, n / 2 + 1);
            let all = [bytes::request(), bytes::text(&identify), bytes::text(&join)].concat();
            client.write_all(&all).unwrap();
            self.clients.push(client);
            self.tick_until_received(n, "thread_joined");
        }
        self.tick_until_idle();
    }

    /// Runs the event loop until this client has received this text.
    fn tick_until_received(&mut self, client: usize, what: &str) {
        let mut buffer = [0; 1 << 16];
        let mut received = String::new();
        while !received.contains(what) {
            match self.clients[client].read(&mut buffer) {
                Ok(0) => panic!("closed"),
                Ok(bytes) => received += &String::from_utf8_lossy(&buffer[..bytes]),
                Err(_) => self.server.tick().unwrap(),
            }
        }
    }

    /// Runs the event loop for a while, and reads all that clients receive.
    fn tick_until_idle(&mut self) {
        let until = Instant::now() + Duration::from_millis(1_500);
        let mut buffer = [0; 1 << 16];
        while Instant::now() < until {
            self.server.tick().unwrap();
            for client in &mut self.clients {
                while client.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
            }
        }
    }
}

#[test]
fn idle_connection_costs_server_few_bytes_and_no_allocation() {
    println!("place in the slab {:>29} bytes", size_of::<Connection>());
    let mut fixture = ServerUnderTest::new();
    let info = measure(|| fixture.fill());
    let [bytes, blocks] = [info.bytes_current, info.count_current];
    let each = bytes as f64 / SERVER_CONNECTIONS as f64;
    println!("the whole server, of {SERVER_CONNECTIONS:<11} {each:>8.2} bytes {blocks:>6} blocks");
    assert!(each <= SERVER_BYTES_MAX, "{each} bytes for each");
    assert!(blocks <= 2 * BLOCKS_MAX, "{blocks} blocks");
    // The burst of connects has left nothing behind, and neither do the frames that follow.
    let info = measure(|| {
        for n in 0..SERVER_CONNECTIONS {
            let typing = format!(r#"{{"type":"typing","threadId":{}}}"#, n / 2 + 1);
            fixture.clients[n].write_all(&bytes::text(&typing)).unwrap();
            fixture.tick_until_received(n, "typing");
        }
        fixture.tick_until_idle();
        fixture.tick_until_idle();
        fixture.tick_until_idle();
    });
    println!("after use {:>40} bytes {:>6} blocks in all", info.bytes_current, info.count_current);
    assert!(
        info.bytes_current <= 4 * SERVER_CONNECTIONS as i64 && info.count_current <= 8,
        "{info:?}"
    );
}

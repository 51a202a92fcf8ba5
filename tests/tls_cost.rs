//! What TLS costs: bytes for each connection that rests, and processor time for each handshake and
//! each frame.
//!
//! `cargo test --release --test tls_cost -- --ignored --nocapture --test-threads 1` prints the
//! times; `docs/ARCHITECTURE.md` has them.

#![allow(clippy::unwrap_used)]

#[path = "support/client.rs"]
mod plain;
#[path = "support/server.rs"]
mod server;
#[path = "support/tls.rs"]
mod tls;

use std::io::Read;
use std::sync::mpsc::{TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use buddyline::config::Config;
use clap::Parser;
use rustls::version::{TLS12, TLS13};
use serde_json::json;
use server::Server;
use tls::{Certificate, Client};

/// Connections whose bytes are counted.
const CONNECTIONS: usize = 200;
/// What a connection that rests may cost with TLS, of which about 340 are what it costs without.
/// As counted it is 2,230 with TLS 1.3 and 1,960 with 1.2; the rest is a margin for rustls.
const BYTES_MAX: f64 = 4_500.0;

/// Bytes that the server asks of the allocator for each connection, and has not given back.
fn bytes_each(
    certificate: &Certificate,
    version: &'static rustls::SupportedProtocolVersion,
) -> f64 {
    let arguments = certificate.arguments(&[]);
    let own = ["buddyline", "--listen=127.0.0.1:0", "--no-limits"].map(String::from);
    let config = Config::parse_from(own.iter().chain(&arguments));
    let mut server = buddyline::server::Server::bind(&config).unwrap();
    let address = server.addresses()[0];
    let client = certificate.client(&[version]);
    let (tells, told) = channel();
    // The counter counts this thread alone: clients live in another.
    let guests = thread::spawn(move || {
        let mut guests = Vec::new();
        for round in 0..2 {
            for user in round * CONNECTIONS + 1..=(round + 1) * CONNECTIONS {
                guests.push(Client::in_thread(address, &client, user as u64, user as u64 / 2));
            }
            // A while, for the server to read and to rest.
            thread::sleep(Duration::from_millis(1_500));
            tells.send(()).unwrap();
        }
        guests
    });
    let mut turn = || {
        loop {
            server.tick().unwrap();
            match told.try_recv() {
                Ok(()) => return,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => panic!("the clients have failed"),
            }
        }
    };
    // What all share is made for the first.
    turn();
    let more = measure(turn);
    drop(guests.join().unwrap());
    more.bytes_current as f64 / CONNECTIONS as f64
}

#[test]
fn idle_tls_connection_holds_no_buffers() {
    let certificate = Certificate::new();
    // Both at once: each thread has a counter of its own.
    thread::scope(|scope| {
        for (name, version) in [("1.2", &TLS12), ("1.3", &TLS13)] {
            let certificate = &certificate;
            scope.spawn(move || {
                let bytes = bytes_each(certificate, version);
                println!("a connection at rest, TLS {name}: {bytes:.0} bytes");
                assert!(bytes <= BYTES_MAX, "{bytes} bytes for each");
            });
        }
    });
}

// ---- times

/// How long something takes, by the loop's own processor time.
fn cost(server: &Server, times: u32, run: impl FnOnce()) -> Duration {
    let before = server.cpu_time().1;
    run();
    (server.cpu_time().1 - before) / times
}

#[test]
#[ignore = "it measures"]
fn tls_handshake_cost() {
    const TIMES: u32 = 1_000;
    let certificate = Certificate::new();
    let arguments = certificate.arguments(&["--no-limits"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    for (name, version) in [("1.2", &TLS12), ("1.3", &TLS13)] {
        let server = Server::start(&arguments);
        let full: Vec<_> = (0..TIMES).map(|_| certificate.client(&[version])).collect();
        let time = cost(&server, TIMES, || {
            for client in &full {
                Client::connect(server.address(), client).identify(1);
            }
        });
        println!("handshake, TLS {name}, ECDSA P-256, to a WebSocket with its user: {time:?}");
        let again = certificate.client(&[version]);
        Client::connect(server.address(), &again).identify(1);
        let time = cost(&server, TIMES, || {
            for _ in 0..TIMES {
                Client::connect(server.address(), &again).identify(1);
            }
        });
        println!("handshake, TLS {name}, with a ticket: {time:?}");
    }
}

#[test]
#[ignore = "it measures"]
fn tls_frame_cost() {
    const TIMES: u32 = 20_000;
    let certificate = Certificate::new();
    let arguments = certificate.arguments(&["--no-limits", "--presence=off"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let plain = Server::start(&["--no-limits", "--presence=off"]);
    let time = cost(&plain, TIMES, || {
        alone(TIMES, |frame| {
            let mut one = plain::Client::as_user(plain.address(), 1);
            frame(&mut |text| {
                one.send(text);
                one.expect_type("pong");
            });
        })
    });
    println!("a ping and its pong, without TLS: {time:?}");
    for (name, version) in [("1.2", &TLS12), ("1.3", &TLS13)] {
        let server = Server::start(&arguments);
        let client = certificate.client(&[version]);
        let time = cost(&server, TIMES, || {
            alone(TIMES, |frame| {
                let mut one = Client::connect(server.address(), &client);
                one.identify(1);
                frame(&mut |text| {
                    one.send(text);
                    one.expect("pong");
                });
            })
        });
        println!("a ping and its pong, TLS {name}: {time:?}");
    }
}

/// Runs something so many times.
fn alone(times: u32, with: impl FnOnce(&mut dyn FnMut(&mut dyn FnMut(&serde_json::Value)))) {
    let frame = json!({"type": "ping"});
    with(&mut |send| (0..times).for_each(|_| send(&frame)));
}

#[test]
#[ignore = "it measures"]
fn idle_tls_connections_cost() {
    const CROWD: u64 = 2_000;
    let certificate = Certificate::new();
    let arguments = certificate.arguments(&["--no-limits"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    for (name, version) in [("1.2", &TLS12), ("1.3", &TLS13)] {
        let server = Server::start(&arguments);
        let client = certificate.client(&[version]);
        let before = server.resident_kib();
        let mut clients: Vec<Client> = (0..CROWD)
            .map(|user| Client::in_thread(server.address(), &client, user + 1, user / 2 + 1))
            .collect();
        let until = Instant::now() + Duration::from_secs(2);
        for guest in &mut clients {
            guest.stream().sock.set_nonblocking(true).unwrap();
        }
        while Instant::now() < until {
            for guest in &mut clients {
                let _ = guest.stream().read(&mut [0; 4096]);
            }
        }
        let each = (server.resident_kib() - before) * 1024 / CROWD;
        println!("resident for each of {CROWD} at rest, TLS {name}: {each} bytes");
    }
}

//! Cost of TLS: memory per idle connection, and CPU time per handshake and per frame.
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
/// The limit for an idle connection with TLS, of which about 340 bytes are its cost without TLS. The
/// measured values are 2,230 with TLS 1.3 and 1,960 with 1.2; the rest is a margin for rustls.
const BYTES_MAX: f64 = 4_500.0;

/// The bytes per connection that the server has allocated and not freed.
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
    let (ready, is_ready) = channel();
    // The counter counts this thread alone, so the clients run in another.
    let clients = thread::spawn(move || {
        let mut clients = Vec::new();
        for batch in 0..2 {
            for user in batch * CONNECTIONS + 1..=(batch + 1) * CONNECTIONS {
                clients.push(Client::in_thread(address, &client, user as u64, user as u64 / 2));
            }
            // Time for the server to read everything and become idle.
            thread::sleep(Duration::from_millis(1_500));
            ready.send(()).unwrap();
        }
        clients
    });
    let mut serve_batch = || {
        loop {
            server.tick().unwrap();
            match is_ready.try_recv() {
                Ok(()) => return,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => panic!("the clients have failed"),
            }
        }
    };
    // The first batch allocates everything that connections share.
    serve_batch();
    let held = measure(serve_batch);
    drop(clients.join().unwrap());
    held.bytes_current as f64 / CONNECTIONS as f64
}

#[test]
fn idle_tls_connection_holds_no_buffers() {
    let certificate = Certificate::new();
    // Both versions run in parallel: each thread has its own counter.
    thread::scope(|scope| {
        for (name, version) in [("1.2", &TLS12), ("1.3", &TLS13)] {
            let certificate = &certificate;
            scope.spawn(move || {
                let bytes = bytes_each(certificate, version);
                println!("an idle connection, TLS {name}: {bytes:.0} bytes");
                assert!(bytes <= BYTES_MAX, "{bytes} bytes for each");
            });
        }
    });
}

// ---- times

/// The event loop's CPU time per repetition, of `times` repetitions.
fn cost(server: &Server, times: u32, run: impl FnOnce()) -> Duration {
    let before = server.cpu_time().1;
    run();
    (server.cpu_time().1 - before) / times
}

#[test]
#[ignore = "measures times"]
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
#[ignore = "measures times"]
fn tls_frame_cost() {
    const TIMES: u32 = 20_000;
    let certificate = Certificate::new();
    let arguments = certificate.arguments(&["--no-limits", "--presence=off"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let plain = Server::start(&["--no-limits", "--presence=off"]);
    let time = cost(&plain, TIMES, || {
        repeat_ping(TIMES, |frame| {
            let mut client = plain::Client::as_user(plain.address(), 1);
            frame(&mut |text| {
                client.send(text);
                client.expect_type("pong");
            });
        })
    });
    println!("a ping and its pong, without TLS: {time:?}");
    for (name, version) in [("1.2", &TLS12), ("1.3", &TLS13)] {
        let server = Server::start(&arguments);
        let client = certificate.client(&[version]);
        let time = cost(&server, TIMES, || {
            repeat_ping(TIMES, |frame| {
                let mut client = Client::connect(server.address(), &client);
                client.identify(1);
                frame(&mut |text| {
                    client.send(text);
                    client.expect("pong");
                });
            })
        });
        println!("a ping and its pong, TLS {name}: {time:?}");
    }
}

/// Calls `with` with a function that sends `times` pings through a given sender.
fn repeat_ping(times: u32, with: impl FnOnce(&mut dyn FnMut(&mut dyn FnMut(&serde_json::Value)))) {
    let frame = json!({"type": "ping"});
    with(&mut |send| (0..times).for_each(|_| send(&frame)));
}

#[test]
#[ignore = "measures memory"]
fn idle_tls_connections_cost() {
    const COUNT: u64 = 2_000;
    let certificate = Certificate::new();
    let arguments = certificate.arguments(&["--no-limits"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    for (name, version) in [("1.2", &TLS12), ("1.3", &TLS13)] {
        let server = Server::start(&arguments);
        let client = certificate.client(&[version]);
        let before = server.resident_kib();
        let mut clients: Vec<Client> = (0..COUNT)
            .map(|user| Client::in_thread(server.address(), &client, user + 1, user / 2 + 1))
            .collect();
        let until = Instant::now() + Duration::from_secs(2);
        for client in &mut clients {
            client.stream().sock.set_nonblocking(true).unwrap();
        }
        while Instant::now() < until {
            for client in &mut clients {
                let _ = client.stream().read(&mut [0; 4096]);
            }
        }
        let each = (server.resident_kib() - before) * 1024 / COUNT;
        println!("resident memory per idle connection of {COUNT}, TLS {name}: {each} bytes");
    }
}

//! A whole tick over real sockets: one client types, 1, 10 or 100 hear it, and the server's own
//! loop runs in this very thread. The clients' reads are part of the time.
#![allow(missing_docs)] // criterion's macros make functions without any.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use buddyline::config::Config;
use buddyline::server::Server;
use clap::Parser;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// A client's text frame: masked with zeros, which leaves it readable.
fn frame(text: &str) -> Vec<u8> {
    assert!(text.len() < 126, "a short frame");
    [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], text.as_bytes()].concat()
}

/// Turns the loop until this client has received `bytes`.
fn receive(server: &mut Server, client: &mut TcpStream, bytes: usize) {
    let mut received = 0;
    let mut buffer = [0; 4096];
    while received < bytes {
        match client.read(&mut buffer) {
            Ok(0) => panic!("the server closed the connection"),
            Ok(some) => received += some,
            Err(_) => server.tick().expect("a tick"),
        }
    }
    assert_eq!(received, bytes);
}

fn client(server: &mut Server, address: SocketAddr, n: usize) -> TcpStream {
    let mut client = TcpStream::connect(address).expect("the server listens");
    client.set_nodelay(true).expect("a TCP socket");
    client.set_nonblocking(true).expect("a TCP socket");
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).expect("room for a request");
    receive(server, &mut client, 129);
    client.write_all(&frame(r#"{"type":"join_thread","threadId":1}"#)).expect("room");
    receive(server, &mut client, 2 + r#"{"type":"thread_joined","threadId":1}"#.len());
    if n == 0 {
        client.write_all(&frame(r#"{"type":"user_connected","userId":7}"#)).expect("room");
        receive(server, &mut client, 2 + r#"{"type":"user_connected","userId":7}"#.len());
    }
    client
}

fn tick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("typing over sockets to hearers");
    for hearers in [1, 10, 100_usize] {
        let config = Config::parse_from(["buddyline", "--listen", "127.0.0.1:0"]);
        let mut server = Server::bind(&config).expect("a free port");
        let address = server.addresses()[0];
        let mut clients: Vec<_> = (0..hearers).map(|n| client(&mut server, address, n)).collect();
        let typing = frame(r#"{"type":"typing","threadId":1}"#);
        let heard = 2 + r#"{"type":"typing","threadId":1,"userId":7,"typing":true}"#.len();
        group.throughput(Throughput::Elements(hearers as u64));
        group.bench_with_input(BenchmarkId::from_parameter(hearers), &hearers, |bencher, _| {
            bencher.iter(|| {
                clients[0].write_all(&typing).expect("room for a frame");
                for client in &mut clients {
                    receive(&mut server, client, heard);
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, tick);
criterion_main!(benches);

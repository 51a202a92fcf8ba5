//! Limits at their bounds: the error, status or close code that the client gets.
//!
//! Other tests cover the number of connections and slow readers (`tests/process/server.rs`), slow
//! requests (`tests/process/lifecycle.rs`), and messages and joins (`tests/hub/basics.rs`).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::bytes::{
    BINARY, CONTINUATION, LAST_CONTINUATION, PING, TEXT, TEXT_FRAGMENT, frame, request,
};
use crate::support::client::{Client, LONG, Received, of_type};
use crate::support::server::Server;

const S: Duration = Duration::from_secs(1);

/// Opens a WebSocket on a plain socket, without a client library.
fn raw_websocket(server: &Server) -> TcpStream {
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.write_all(&request()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    socket
}

/// Reads to the end; returns the code of the close frame, which must come last.
fn close_code(mut socket: TcpStream) -> u16 {
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).unwrap();
    let at = rest.iter().rposition(|byte| *byte == 0x88).expect("a close frame");
    u16::from_be_bytes([rest[at + 2], rest[at + 3]])
}

// ---- connections

fn from_address(server: &Server, address: &str) -> Result<TcpStream, String> {
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let line = format!("X-Forwarded-For: {address}\r\nUpgrade:");
    let request = String::from_utf8(request()).unwrap().replacen("Upgrade:", &line, 1);
    socket.write_all(request.as_bytes()).unwrap();
    let mut status = [0; 12];
    socket.read_exact(&mut status).unwrap();
    match &status {
        b"HTTP/1.1 101" => Ok(socket),
        other => Err(String::from_utf8_lossy(other).into_owned()),
    }
}

#[test]
fn connections_over_the_per_address_limit_get_429() {
    let server = Server::start(&["--trusted-proxy=127.0.0.1", "--max-connections-per-address=2"]);
    let first = from_address(&server, "203.0.113.7").unwrap();
    let _second = from_address(&server, "203.0.113.7").unwrap();
    assert_eq!(from_address(&server, "203.0.113.7").unwrap_err(), "HTTP/1.1 429");
    let _other = from_address(&server, "203.0.113.8").expect("another address is not limited");
    // The part of the header that the client itself wrote, further left, does not count.
    assert!(from_address(&server, "203.0.113.9, 203.0.113.7").is_err());
    drop(first);
    let until = Instant::now() + LONG;
    while from_address(&server, "203.0.113.7").is_err() {
        assert!(Instant::now() < until, "no room after a connection has closed");
    }
}

#[test]
fn loopback_and_proxies_are_exempt_from_address_limit() {
    let server = Server::start(&["--max-connections-per-address=2"]);
    let clients: Vec<Client> =
        (1..=5).map(|user| Client::as_user(server.address(), user)).collect();
    assert_eq!(clients.len(), 5);
}

#[test]
fn request_head_over_the_limit_gets_431() {
    let server = Server::start(&["--max-head-bytes=1024"]);
    let padded = |bytes: usize| {
        let line = format!("X-Padding: {}\r\nUpgrade:", "x".repeat(bytes));
        String::from_utf8(request()).unwrap().replacen("Upgrade:", &line, 1)
    };
    let long = server.ask(padded(1024).as_bytes());
    assert!(long.starts_with("HTTP/1.1 431 "), "{long}");
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.write_all(padded(600).as_bytes()).unwrap();
    let mut status = [0; 12];
    socket.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 101");
}

#[test]
fn header_lines_over_the_limit_get_431() {
    for (limit, room) in [("--max-header-lines=10", 10), ("--no-limits", 10_000)] {
        let server = Server::start(&[limit]);
        let lines = |lines: usize| {
            let more = "X-More: 1\r\n".repeat(lines - 1);
            format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{more}\r\n")
        };
        let answer = server.ask(lines(room).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200 "), "{limit}: {answer}");
        let answer = server.ask(lines(room + 1).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 431 "), "{limit}: {answer}");
    }
    // Without the limit of bytes, a head of 200 KB is accepted and one of more than a MiB is not.
    let server = Server::start(&["--max-head-bytes=0"]);
    for (bytes, status) in [(200_000, "200"), (1 << 20, "431")] {
        let long =
            format!("GET /healthz HTTP/1.1\r\nHost: x\r\nCookie: {}\r\n\r\n", "c".repeat(bytes));
        let answer = server.ask(long.as_bytes());
        assert_eq!(answer.get(9..12), Some(status), "{bytes}: {answer}");
    }
}

#[test]
fn request_over_the_timeout_gets_408() {
    let server = Server::start(&["--handshake-lasts=300ms"]);
    let begun = Instant::now();
    let answer = server.ask(b"GET / HTTP/1.1\r\n");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(begun.elapsed() < 3 * S, "{:?}", begun.elapsed());
}

// ---- frames

#[test]
fn message_over_the_limit_closes_with_1009_even_in_fragments() {
    let server = Server::start(&["--max-frame-bytes=1024"]);
    let mut whole = raw_websocket(&server);
    whole.write_all(&frame(TEXT, &[b' '; 1025])).unwrap();
    assert_eq!(close_code(whole), 1009);
    let mut joined = raw_websocket(&server);
    let join = br#"{"type":"join_thread","threadId":1}"#;
    joined.write_all(&frame(TEXT, join)).unwrap();
    joined.write_all(&frame(TEXT_FRAGMENT, &[b' '; 1000])).unwrap();
    joined.write_all(&frame(LAST_CONTINUATION, &[b' '; 25])).unwrap();
    assert_eq!(close_code(joined), 1009);
    let mut at_the_limit = Client::connect(server.address());
    at_the_limit.send_text(&format!("{:1024}", json!({"type": "ping"}).to_string()));
    at_the_limit.expect_type("pong");
}

#[test]
fn rate_limit_refuses_each_frame_then_closes_with_1008() {
    let server = Server::start(&["--max-frames-per-second=20", "--max-frames-burst=40"]);
    let mut fast = Client::connect(server.address());
    let ping = |n: u32| json!({"type": "ping", "clientId": n});
    for n in 1..=50 {
        fast.send(&ping(n));
    }
    let mut pongs = 0;
    let mut refused = 0;
    for n in 1..=50 {
        let received = fast.next();
        assert_eq!(received["clientId"], n, "each frame has its answer, in order: {received}");
        match received["type"].as_str() {
            Some("pong") => pongs += 1,
            _ => {
                assert_eq!(received["code"], "rate_limited", "{received}");
                assert_eq!(received["replyTo"], "ping", "{received}");
                refused += 1;
            }
        }
    }
    assert!((40..=45).contains(&pongs), "{pongs}");
    assert_eq!(pongs + refused, 50);
    // After a second the rate allows frames again.
    thread::sleep(S);
    fast.send(&ping(51));
    assert_eq!(fast.next()["type"], "pong");
    for n in 0..200 {
        if fast.try_send(Message::text(ping(n).to_string())).is_err() {
            break;
        }
    }
    assert_eq!(fast.close_code(), Some(1008));
}

#[test]
fn pings_and_binary_frames_count_toward_the_rate() {
    let server = Server::start(&["--max-frames-per-second=20", "--max-frames-burst=40"]);
    for opcode in [PING, BINARY] {
        let mut fast = raw_websocket(&server);
        fast.write_all(&frame(opcode, b"x").repeat(100)).unwrap();
        assert_eq!(close_code(fast), 1008, "{opcode}");
    }
}

#[test]
fn endless_fragments_count_toward_the_rate() {
    let server = Server::start(&["--max-frames-per-second=20", "--max-frames-burst=40"]);
    let mut fast = raw_websocket(&server);
    fast.write_all(&frame(TEXT_FRAGMENT, b"{")).unwrap();
    fast.write_all(&frame(CONTINUATION, b"").repeat(100)).unwrap();
    assert_eq!(close_code(fast), 1008);
}

#[test]
fn joining_many_threads_at_once_is_within_the_rate() {
    let server = Server::start(&[]);
    let mut app = Client::as_user(server.address(), 7);
    for thread in 1..=1_000 {
        app.send(&json!({"type": "join_thread", "threadId": thread}));
    }
    for thread in 1..=1_000 {
        assert_eq!(app.next(), json!({"type": "thread_joined", "threadId": thread}));
    }
}

// ---- idle connections

#[test]
fn idle_client_is_pinged_and_kept_if_it_answers() {
    let server = Server::start(&["--ping-every=1s"]);
    let mut alive = Client::as_user(server.address(), 7);
    let mut dead = raw_websocket(&server);
    // The library answers pings while it waits.
    assert_eq!(alive.next_until(Instant::now() + 5 * S), Received::Silence);
    alive.send(&json!({"type": "ping"}));
    alive.expect_type("pong");
    let mut received = Vec::new();
    dead.read_to_end(&mut received).unwrap();
    assert_eq!(received[..4], [0x89, 0, 0x89, 0], "two pings");
    assert_eq!(received[4], 0x88);
    assert_eq!(u16::from_be_bytes([received[6], received[7]]), 1001);
}

#[test]
fn no_pings_without_an_idle_timeout() {
    let server = Server::start(&["--ping-every=0"]);
    let mut silent = raw_websocket(&server);
    silent.set_read_timeout(Some(3 * S)).unwrap();
    assert!(silent.read(&mut [0]).is_err(), "no ping arrives");
}

// ---- memory

#[test]
fn largest_unfinished_messages_are_closed_with_1013() {
    let server = Server::start(&["--max-buffer-bytes=1048576"]);
    let mut small = raw_websocket(&server);
    small.write_all(&frame(TEXT_FRAGMENT, br#"{"type":"#)).unwrap();
    let mut large: Vec<TcpStream> = (0..6).map(|_| raw_websocket(&server)).collect();
    for socket in &mut large {
        socket.write_all(&frame(TEXT_FRAGMENT, &[b' '; 200_000])).unwrap();
    }
    let closed = |socket: &TcpStream| {
        let mut socket = socket.try_clone().unwrap();
        socket.set_read_timeout(Some(S)).unwrap();
        let mut first = [0; 4];
        match socket.read(&mut first) {
            Ok(4) => (first[0] == 0x88).then(|| u16::from_be_bytes([first[2], first[3]])),
            _ => None,
        }
    };
    // Each of those that stay open takes the whole timeout.
    let codes: Vec<Option<u16>> = thread::scope(|scope| {
        let reads: Vec<_> = large.iter().map(|socket| scope.spawn(|| closed(socket))).collect();
        reads.into_iter().map(|read| read.join().unwrap()).collect()
    });
    let gone = codes.iter().filter(|code| **code == Some(1013)).count();
    assert!((1..=3).contains(&gone), "{codes:?}");
    small.write_all(&frame(LAST_CONTINUATION, br#""ping"}"#)).unwrap();
    let mut answer = [0; 17];
    small.read_exact(&mut answer).unwrap();
    assert!(answer.ends_with(br#"{"type":"pong"}"#), "{answer:?}");
}

#[test]
fn slow_reader_misses_typing_but_gets_messages() {
    let server = Server::start(&[
        "--soft-outbox-bytes=65536",
        "--max-outbox-bytes=67108864",
        "--max-frames-per-second=0",
        "--presence=off",
    ]);
    let mut slow = Client::with_small_receive_buffer(server.address());
    slow.send(&json!({"type": "join_thread", "threadId": 41}));
    slow.expect_type("thread_joined");
    let mut seven = Client::in_thread(server.address(), 7, 41);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    let text = "x".repeat(50_000);
    let mut received = Vec::new();
    for n in 1..=200 {
        seven.send(&json!({"type": "send_message", "threadId": 41, "message": text}));
        assert_eq!(seven.expect_type("message")["messageId"], n);
        // The message has ended the typing.
        seven.send(&json!({"type": "typing", "threadId": 41}));
        seven.expect(|frame| frame["type"] == "typing" && frame["typing"] == true);
        received.extend(eight.drain());
    }
    let types = |frames: &[Value]| {
        of_type(frames, "typing").iter().filter(|frame| frame["typing"] == true).count()
    };
    assert_eq!((of_type(&received, "message").len(), types(&received)), (200, 200));
    let received = slow.drain();
    assert_eq!(of_type(&received, "message").len(), 200, "every message");
    assert!(types(&received) < 150, "{} frames with typing: true", types(&received));
    // A reader that has caught up receives `typing` again.
    seven.send(&json!({"type": "typing", "threadId": 41}));
    slow.expect(|frame| frame["type"] == "typing" && frame["typing"] == true);
}

#[test]
fn frame_queued_for_many_slow_readers_counts_once() {
    let server = Server::start(&[
        "--max-buffer-bytes=8388608",
        "--max-outbox-bytes=67108864",
        "--soft-outbox-bytes=0",
        "--max-frames-per-second=0",
    ]);
    let mut slow: Vec<Client> = (0..8)
        .map(|_| {
            let mut slow = Client::with_small_receive_buffer(server.address());
            slow.send(&json!({"type": "join_thread", "threadId": 41}));
            slow.expect_type("thread_joined");
            slow
        })
        .collect();
    let mut seven = Client::in_thread(server.address(), 7, 41);
    let text = "x".repeat(50_000);
    // Five megabytes for each of the eight readers: forty if the buffers were not shared.
    for n in 1..=100 {
        seven.send(&json!({"type": "send_message", "threadId": 41, "message": text}));
        assert_eq!(seven.expect_type("message")["messageId"], n);
    }
    for slow in &mut slow {
        assert_eq!(of_type(&slow.drain(), "message").len(), 100);
    }
}

// ---- no limits

#[test]
fn no_limits_logs_a_warning_and_accepts_a_flood() {
    let server = Server::start(&["--no-limits"]);
    assert!(server.log().iter().any(|line| line.contains("WARN") && line.contains("--no-limits")));
    let mut fast = Client::as_user(server.address(), 7);
    for n in 0..5_000 {
        fast.send(&json!({"type": "ping", "clientId": n}));
    }
    for n in 0..5_000 {
        assert_eq!(fast.next(), json!({"type": "pong", "clientId": n}));
    }
}

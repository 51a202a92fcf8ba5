//! The event loop under load: many connections, floods, slow readers, and no free descriptors.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::bytes;
use crate::support::bytes::{PONG, frame, request};
use crate::support::client::{Client, LONG, of_type};
use crate::support::server::{Server, wait_until};

/// Sends a message in each direction; both clients receive both.
fn exchange_messages(one: &mut Client, other: &mut Client, thread: u64) {
    for text in ["ping", "pong"] {
        one.send(&json!({"type": "send_message", "threadId": thread, "message": text}));
        let has = |frame: &Value| frame["type"] == "message" && frame["message"] == text;
        one.expect(has);
        other.expect(has);
    }
}

#[test]
fn two_hundred_reset_connections_leave_no_state() {
    let server = Server::start(&["--presence-grace", "0s"]);
    let mut watcher = Client::as_user(server.address(), 1);
    let before = server.descriptors();
    let mut vanishing = Vec::new();
    for n in 0..200 {
        let mut socket = TcpStream::connect(server.address()).unwrap();
        match n % 4 {
            0 => {}
            1 => socket.write_all(b"GET / HT").unwrap(),
            2 => socket.write_all(&request()).unwrap(),
            _ => {
                let mut client = Client::over(socket.try_clone().unwrap());
                client.send(&json!({"type": "user_connected", "userId": 1_000 + n}));
                client.send(&json!({"type": "join_thread", "threadId": 41}));
                client.expect_type("thread_joined");
                // Some end with a reset (RST) instead of a FIN.
                if n % 8 == 3 {
                    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
                }
            }
        }
        vanishing.push(socket);
    }
    drop(vanishing);
    wait_until(LONG, "all descriptors are free again", || server.descriptors() == before);
    watcher.drain();
    watcher.send(&json!({"type": "online_users"}));
    assert_eq!(watcher.expect_type("online_users")["userIds"], json!([1]));
    let mut seven = Client::in_thread(server.address(), 7, 41);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    exchange_messages(&mut seven, &mut eight, 41);
}

#[test]
fn a_connection_beyond_the_limit_is_refused_with_503() {
    let server = Server::start(&["--max-connections", "3"]);
    let mut three: Vec<Client> = (1..=3).map(|u| Client::as_user(server.address(), u)).collect();
    let refused = server.ask(b"");
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("Retry-After: "), "{refused}");
    let socket = TcpStream::connect(server.address()).unwrap();
    let fault = Client::try_over(socket).err().expect("a fourth is refused");
    assert!(fault.contains("503"), "{fault}");
    three.pop().unwrap().leave();
    wait_until(LONG, "there is room again", || {
        TcpStream::connect(server.address()).is_ok_and(|socket| Client::try_over(socket).is_ok())
    });
    assert_eq!(three[0].drain().len(), 2, "the others stay open: two arrived after the first");
}

#[test]
fn descriptor_exhaustion_pauses_accept_and_recovers() {
    let server = Server::start(&[]);
    let mut served = Client::as_user(server.address(), 7);
    server.limit_descriptors(40);
    let mut clients: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("cannot accept")));
    assert_eq!(served.drain(), [] as [Value; 0], "an open connection is served");

    let (ticks, begun) = (server.cpu_ticks(), Instant::now());
    served.expect_nothing_for(Duration::from_secs(2));
    let used = server.cpu_ticks() - ticks;
    assert!(used <= 20, "{used} clock ticks of 10 ms in {:?}", begun.elapsed());
    let warnings = server.log().iter().filter(|line| line.contains("cannot accept")).count();
    assert!(warnings <= 3, "{warnings} log lines about it");

    clients.drain(..50);
    let begun = Instant::now();
    let mut newcomer = Client::in_thread(server.address(), 8, 41);
    assert!(begun.elapsed() < Duration::from_secs(3), "served after {:?}", begun.elapsed());
    served.send(&json!({"type": "join_thread", "threadId": 41}));
    served.expect_type("thread_joined");
    exchange_messages(&mut served, &mut newcomer, 41);
}

#[test]
fn low_descriptor_limit_is_logged_and_caps_connections() {
    let server = Server::start_with_descriptors(40, &[]);
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("room for 24 connections")));
    let mut served = Client::as_user(server.address(), 7);
    let mut clients: Vec<Client> = (0..23).map(|_| Client::connect(server.address())).collect();
    // The kernel completes the connection; the server does not accept it.
    let mut late = TcpStream::connect(server.address()).unwrap();
    late.write_all(&request()).unwrap();
    late.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let ticks = server.cpu_ticks();
    assert!(late.read(&mut [0; 1]).is_err(), "the server has not accepted it");
    let used = server.cpu_ticks() - ticks;
    assert!(used <= 20, "{used} clock ticks of 10 ms while idle");
    assert_eq!(served.drain(), [] as [Value; 0], "an open connection is served");
    clients.truncate(22);
    late.set_read_timeout(Some(LONG)).unwrap();
    late.read_exact(&mut [0; 100]).expect("it is accepted after another one has closed");
    assert!(!server.log().iter().any(|line| line.contains("cannot accept")));
}

#[test]
fn ping_flood_without_reading_is_closed() {
    let unlimited = ["--max-frames-per-second", "0", "--soft-outbox-bytes", "0"];
    let server = Server::start(&[&["--max-outbox-bytes", "65536"], &unlimited[..]].concat());
    let mut bystander = Client::as_user(server.address(), 7);
    let mut flood = Client::with_small_receive_buffer(server.address()).into_socket();
    flood.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let pings = [0x89, 0x80, 1, 2, 3, 4].repeat(10_000);
    let before = server.resident_kib();
    // Forty megabytes: the server stops reading, or resets the connection, long before.
    let ended = (0..700).find_map(|_| flood.write_all(&pings).err());
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 20_000, "{grown} KiB");
    wait_until(LONG, "the flood is closed", || ended.is_some() || flood.write_all(&pings).is_err());
    bystander.send(&json!({"type": "ping"}));
    bystander.expect_type("pong");
}

#[test]
fn frame_larger_than_the_outbox_reaches_all_readers() {
    let server = Server::start(&["--max-outbox-bytes", "65536"]);
    let mut author = Client::in_thread(server.address(), 1, 41);
    let mut readers: Vec<Client> =
        (0..4).map(|_| Client::with_small_receive_buffer(server.address())).collect();
    for reader in &mut readers {
        reader.send(&json!({"type": "join_thread", "threadId": 41}));
        reader.expect_type("thread_joined");
    }
    let text = "'".repeat(180_000);
    author.send(&json!({"type": "send_message", "threadId": 41, "message": text}));
    for reader in &mut readers {
        assert_eq!(reader.expect_type("message")["message"], text.as_str());
        reader.send(&json!({"type": "ping"}));
        reader.expect_type("pong");
    }
}

#[test]
fn slow_reader_is_closed_with_1013_and_others_get_all() {
    let server = Server::start(&[
        "--max-outbox-bytes=65536",
        "--soft-outbox-bytes=65536",
        "--max-frames-per-second=0",
        "--presence-grace=0s",
    ]);
    let mut slow = Client::with_small_receive_buffer(server.address());
    slow.send(&json!({"type": "user_connected", "userId": 9}));
    slow.send(&json!({"type": "join_thread", "threadId": 41}));
    slow.expect_type("thread_joined");
    let mut seven = Client::in_thread(server.address(), 7, 41);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    let reader = thread::spawn(move || {
        let mut ids = Vec::new();
        loop {
            let message = eight.expect_type("message");
            if message["message"] == "done" {
                return ids;
            }
            ids.push(message["messageId"].as_u64().unwrap());
        }
    });
    let text = "x".repeat(60_000);
    let mut sent = 0;
    let mut slow_is_gone = false;
    while !slow_is_gone {
        sent += 1;
        assert!(sent < 1_000, "{sent} messages of 60 kB queued for a client that does not read");
        seven.send(&json!({"type": "send_message", "threadId": 41, "message": text}));
        assert_eq!(seven.expect_type("message")["messageId"], sent);
        let since = seven.drain();
        slow_is_gone =
            of_type(&since, "user_disconnected").iter().any(|frame| frame["userId"] == 9);
    }
    // When it reads again, it gets the close frame.
    assert_eq!(slow.close_code(), Some(1013));
    seven.send(&json!({"type": "send_message", "threadId": 41, "message": "done"}));
    let received: Vec<u64> = reader.join().unwrap();
    assert_eq!(received, (1..=sent).collect::<Vec<u64>>());
}

#[test]
fn hundred_kilobyte_messages_pass_both_ways() {
    let server = Server::start(&[]);
    let mut seven = Client::in_thread(server.address(), 7, 41);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    let text: String = (0..100_000u32).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    for (from, to) in [(7, 8), (8, 7)] {
        let (one, other) =
            if from == 7 { (&mut seven, &mut eight) } else { (&mut eight, &mut seven) };
        one.send(
            &json!({"type": "send_message", "threadId": 41, "recipientId": to, "message": text}),
        );
        assert_eq!(one.expect_type("message")["message"], text.as_str());
        assert_eq!(other.expect_type("message")["message"], text.as_str());
    }
}

#[test]
fn flood_of_bad_frames_does_not_disturb_others() {
    let server = Server::start(&["--max-frames-per-second", "0"]);
    let mut seven = Client::in_thread(server.address(), 7, 41);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    let mut bad = TcpStream::connect(server.address()).unwrap();
    bad.write_all(&request()).unwrap();
    let mut reader = bad.try_clone().unwrap();
    let drain = thread::spawn(move || {
        // Reads all replies, so that the flood is not stopped by a full outbox.
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).map(|_| answer.len())
    });
    let flood: Vec<u8> =
        [bytes::text("{"), bytes::text(r#"{"type":"dance"}"#), frame(bytes::BINARY, b"x")]
            .concat()
            .repeat(500);
    for _ in 0..10 {
        bad.write_all(&flood).unwrap();
        exchange_messages(&mut seven, &mut eight, 41);
    }
    // Finally a frame that violates RFC 6455 (reserved opcode 3).
    bad.write_all(b"\x83\x00").unwrap();
    let answered = drain.join().unwrap().unwrap();
    assert!(answered > 10 * 1_500 * 50, "each bad frame has its error: {answered} bytes");
    let received = seven.drain();
    assert!(of_type(&received, "error").is_empty(), "{received:?}");
    exchange_messages(&mut seven, &mut eight, 41);
}

#[test]
fn sending_a_burst_then_closing_leaves_no_state() {
    let server = Server::start(&["--presence-grace", "0s"]);
    let before = server.descriptors();
    let burst = frame(PONG, &[0; 120]).repeat(4_000);
    let mut sockets = Vec::new();
    for round in 0..12 {
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket.write_all(&request()).unwrap();
        let mut head = [0; 16];
        socket.read_exact(&mut head).unwrap();
        // The server is suspended while the burst arrives.
        server.signal("STOP");
        let mut writer = socket.try_clone().unwrap();
        let burst = burst.clone();
        let writing = thread::spawn(move || {
            // The frames are pongs, which need no answer.
            writer.write_all(&burst[..(round + 1) * 40_000]).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        thread::sleep(Duration::from_millis(5));
        server.signal("CONT");
        writing.join().unwrap();
        sockets.push(socket);
    }
    wait_until(Duration::from_secs(5), "all connections are removed", || {
        server.descriptors() == before
    });
}

//! TLS in the server: handshakes, records, limits, and reload of the certificate.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use buddyline::config::Config;
use clap::Parser;
use rustls::version::{TLS12, TLS13};
use rustls::{ConnectionTrafficSecrets, HandshakeKind, SupportedProtocolVersion};
use serde_json::json;

use crate::support::server::Server;
use crate::support::tls::{Certificate, Client, LONG};
use crate::support::{bytes, server, tls};

const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
const S: Duration = Duration::from_secs(1);

fn start(certificate: &Certificate, more: &[&str]) -> Server {
    let arguments = certificate.arguments(more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Server::start(&arguments)
}

/// Sends a text of this size to another client, which sends it back.
fn echo_text(one: &mut Client, other: &mut Client, bytes: usize) {
    let sdp: String = ('a'..='z').cycle().take(bytes).collect();
    one.send(&json!({"type": "offer", "threadId": 7, "recipientId": 2, "offer": sdp}));
    assert_eq!(other.expect("offer")["offer"], sdp);
    other.send(&json!({"type": "answer", "threadId": 7, "recipientId": 1, "answer": sdp}));
    assert_eq!(one.expect("answer")["answer"], sdp);
}

#[test]
fn both_tls_versions_carry_messages_of_any_size() {
    let certificate = Certificate::new();
    let server = start(&certificate, &[]);
    assert!(server.log().iter().any(|line| line.contains("listening on wss://127.0.0.1:")));
    for version in BOTH {
        let config = certificate.client(&[version]);
        let mut one = Client::in_thread(server.address(), &config, 1, 7);
        let mut other = Client::in_thread(server.address(), &config, 2, 7);
        assert_eq!(one.stream().conn.protocol_version(), Some(version.version));
        one.send(&json!({"type": "send_message", "threadId": 7, "message": "over TLS"}));
        assert_eq!(other.expect("message")["message"], "over TLS");
        // Sizes around that of a record (16 KiB), and of several records.
        for bytes in [1, 16_000, 16_383, 16_384, 16_385, 33_000, 200_000] {
            echo_text(&mut one, &mut other, bytes);
        }
    }
}

#[test]
fn plain_https_is_answered_and_ends_with_close_notify() {
    let certificate = Certificate::new();
    let server = start(&certificate, &[]);
    for version in BOTH {
        let config = certificate.client(&[version]);
        let get = |path: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            tls::ask(server.address(), &config, request.as_bytes())
        };
        assert!(get("/healthz").starts_with("HTTP/1.1 200 "));
        assert!(get("/readyz").starts_with("HTTP/1.1 200 "));
        assert!(get("/").ends_with("</html>\n"), "the try-it page");
        assert!(get("/nowhere").starts_with("HTTP/1.1 404 "));
    }
}

#[test]
fn returning_client_resumes_its_tls_session() {
    let certificate = Certificate::new();
    let server = start(&certificate, &[]);
    for version in BOTH {
        let config = certificate.client(&[version]);
        let mut first = Client::connect(server.address(), &config);
        first.identify(1);
        assert_eq!(first.stream().conn.handshake_kind(), Some(HandshakeKind::Full));
        drop(first);
        let mut again = Client::connect(server.address(), &config);
        again.identify(1);
        assert_eq!(again.stream().conn.handshake_kind(), Some(HandshakeKind::Resumed));
    }
}

#[test]
fn dripping_tls_handshake_times_out_without_blocking() {
    let certificate = Certificate::new();
    let server = start(&certificate, &["--handshake-lasts=1s"]);
    let address = server.address();
    let drips: Vec<JoinHandle<Duration>> =
        (0..8).map(|_| thread::spawn(move || drip(address))).collect();
    let config = certificate.client(&BOTH);
    let mut one = Client::in_thread(address, &config, 1, 7);
    let until = Instant::now() + 2 * S;
    let mut longest = Duration::ZERO;
    while Instant::now() < until {
        let sent = Instant::now();
        one.send(&json!({"type": "ping"}));
        one.expect("pong");
        longest = longest.max(sent.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
    assert!(longest < S / 2, "{longest:?}");
    for drip in drips {
        let lasted = drip.join().unwrap();
        assert!((S * 9 / 10..4 * S).contains(&lasted), "{lasted:?}");
    }
    // The server may take some time to close the sockets.
    let until = Instant::now() + LONG;
    let idle = server.descriptors();
    while server.descriptors() > idle {
        assert!(Instant::now() < until, "descriptors are not released");
    }
}

/// Sends the beginning of a handshake byte by byte; returns the time until the server closes.
fn drip(address: SocketAddr) -> Duration {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let started = Instant::now();
    // A record with the start of a ClientHello of 500 bytes.
    let head = [0x16, 3, 1, 1, 0xf8, 1, 0, 1, 0xf4, 3, 3];
    for byte in head.into_iter().chain(std::iter::repeat(0)) {
        if socket.write_all(&[byte]).is_err() {
            break;
        }
        match socket.read(&mut [0; 64]) {
            Err(fault) if matches!(fault.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
        assert!(started.elapsed() < LONG, "the server does not close");
    }
    started.elapsed()
}

#[test]
fn plain_text_on_the_tls_port_is_closed() {
    let certificate = Certificate::new();
    let server = start(&certificate, &["--log-level=debug"]);
    let config = certificate.client(&BOTH);
    let mut one = Client::in_thread(server.address(), &config, 1, 7);
    let floods: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        &bytes::request(),
        &[0; 40_000],
        // A record header with a length above the maximum.
        &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0],
        // Records with a handshake message that never ends.
        &[&[0x16, 3, 1, 0x10, 0][..], &[1, 0, 0xff, 0xff][..], &[7; 4092][..]].concat().repeat(9),
    ];
    for flood in floods {
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let started = Instant::now();
        // The server may close before it has received all.
        let _ = socket.write_all(flood);
        let mut answer = Vec::new();
        match socket.read_to_end(&mut answer) {
            Err(fault) => assert_eq!(fault.kind(), ErrorKind::ConnectionReset),
            // At most an alert.
            Ok(_) => assert!(matches!(answer[..], [] | [0x15, 3, ..]), "{answer:?}"),
        }
        assert!(started.elapsed() < S, "{:?}", &flood[..8]);
        one.send(&json!({"type": "ping"}));
        one.expect("pong");
    }
    // Each fault is logged at level debug.
    let faults = |lines: &[String]| lines.iter().filter(|line| line.contains(": TLS: ")).count();
    server.wait_for_log(|lines| faults(lines) == 5);
}

#[test]
fn random_bytes_instead_of_a_handshake_are_harmless() {
    let certificate = Certificate::new();
    let server = start(&certificate, &[]);
    let config = certificate.client(&BOTH);
    // A complete ClientHello, which is then corrupted in many ways.
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut session = rustls::ClientConnection::new(config.clone(), name).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    for round in 0..600 {
        let mut bytes = hello.clone();
        for _ in 0..next(4) {
            let at = next(if round % 2 == 0 { 12 } else { bytes.len() });
            bytes[at] = u8::try_from(next(256)).unwrap();
        }
        if round % 3 == 0 {
            // Splits the message into two records.
            let cut = 5 + 1 + next(hello.len() - 7);
            let record = |part: &[u8]| {
                let length = u16::try_from(part.len()).unwrap().to_be_bytes();
                [&[0x16, 3, 1][..], &length, part].concat()
            };
            bytes = [record(&bytes[5..cut]), record(&bytes[cut..])].concat();
        }
        let more = bytes[..next(bytes.len())].to_vec();
        bytes.extend_from_slice(&more);
        let mut socket = TcpStream::connect(server.address()).unwrap();
        let cut = next(bytes.len());
        let _ = socket.write_all(&bytes[..cut]);
        if round % 8 == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = socket.write_all(&bytes[cut..]);
        let _ = socket.shutdown(Shutdown::Write);
        socket.set_read_timeout(Some(LONG)).unwrap();
        // It ends with a FIN or a reset.
        let ended = socket.read_to_end(&mut Vec::new());
        assert!(!ended.is_err_and(|fault| fault.kind() == ErrorKind::WouldBlock), "{round}");
    }
    Client::in_thread(server.address(), &config, 1, 7);
}

#[test]
fn client_closing_during_handshake_is_removed() {
    let certificate = Certificate::new();
    let server = start(&certificate, &[]);
    let before = server.descriptors();
    let cut: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut socket = TcpStream::connect(server.address()).unwrap();
            socket.write_all(&[0x16, 3, 1, 1, 0xf8, 1, 0]).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            socket
        })
        .collect();
    for mut socket in cut {
        socket.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(socket.read(&mut [0; 9]).unwrap(), 0);
    }
    let until = Instant::now() + LONG;
    while server.descriptors() > before {
        assert!(Instant::now() < until, "descriptors are not released");
    }
}

#[test]
fn client_is_removed_after_close_notify() {
    let certificate = Certificate::new();
    let server = start(&certificate, &[]);
    for version in BOTH {
        let config = certificate.client(&[version]);
        let mut stays = Client::in_thread(server.address(), &config, 1, 7);
        let mut goes = Client::in_thread(server.address(), &config, 2, 7);
        goes.send(&json!({"type": "send_message", "threadId": 7, "message": "my last"}));
        goes.stream().conn.send_close_notify();
        goes.stream().flush().unwrap();
        assert_eq!(stays.expect("message")["message"], "my last");
        let mut rest = Vec::new();
        let socket = &mut goes.stream().sock;
        assert!(socket.read_to_end(&mut rest).is_ok(), "the server closes too");
    }
}

#[test]
fn slow_tls_reader_is_closed_at_the_limit() {
    let certificate = Certificate::new();
    let limits = ["--max-outbox-bytes=262144", "--soft-outbox-bytes=65536", "--max-frames-burst=0"];
    let server = start(&certificate, &limits);
    let check = |version, thread: u64| {
        let config = certificate.client(&[version]);
        let mut slow = Client::in_thread(server.address(), &config, thread + 1, thread);
        let mut quick = Client::in_thread(server.address(), &config, thread + 2, thread);
        let sdp = "x".repeat(20_000);
        // The socket buffers of both kernels hold some megabytes.
        for _ in 0..1_000 {
            quick.send(&json!({
                "type": "offer", "threadId": thread, "recipientId": thread + 1, "offer": sdp,
            }));
            quick.send(&json!({"type": "ping"}));
            quick.expect("pong");
        }
        assert_eq!(slow.close_code(), Some(1013));
        quick.send(&json!({"type": "ping"}));
        quick.expect("pong");
    };
    thread::scope(|scope| {
        scope.spawn(|| check(&TLS12, 12));
        scope.spawn(|| check(&TLS13, 20));
    });
    let resident = server.resident_kib();
    assert!(resident < 32 << 10, "{resident} KiB");
}

#[test]
fn slow_tls_reader_gets_all_bytes_in_order() {
    let certificate = Certificate::new();
    let server = start(&certificate, &["--no-limits"]);
    let check = |version, thread: u64| {
        let config = certificate.client(&[version]);
        let mut slow = Client::in_thread(server.address(), &config, thread + 1, thread);
        let mut quick = Client::in_thread(server.address(), &config, thread + 2, thread);
        let text = "y".repeat(30_000);
        for n in 0..400 {
            quick.send(
                &json!({"type": "send_message", "threadId": thread, "message": text, "clientId": n}),
            );
            quick.expect("message");
        }
        let mut last = None;
        for _ in 0..400 {
            let frame = slow.expect("message");
            assert_eq!(frame["message"], text);
            assert!(frame["messageId"].as_u64() > last, "{frame}");
            last = frame["messageId"].as_u64();
        }
        slow.send(&json!({"type": "ping"}));
        slow.expect("pong");
    };
    thread::scope(|scope| {
        scope.spawn(|| check(&TLS12, 12));
        scope.spawn(|| check(&TLS13, 20));
    });
}

#[test]
fn frame_flood_over_tls_is_limited_as_without_tls() {
    let certificate = Certificate::new();
    let server = start(&certificate, &["--max-frames-per-second=20", "--max-frames-burst=2000"]);
    for version in BOTH {
        let config = certificate.client(&[version]);
        let mut client = Client::in_thread(server.address(), &config, 1, 7);
        let ping = bytes::text(r#"{"type":"ping"}"#);
        // Many frames in a record, and records that end within a frame.
        client.stream().write_all(&ping.repeat(1_000)).unwrap();
        client.stream().flush().unwrap();
        for _ in 0..1_000 {
            client.expect("pong");
        }
        // One byte in each record.
        for byte in &ping.repeat(3) {
            client.stream().write_all(&[*byte]).unwrap();
            client.stream().flush().unwrap();
        }
        for _ in 0..3 {
            client.expect("pong");
        }
        let _ = client.stream().write_all(&ping.repeat(4_000));
        let _ = client.stream().flush();
        assert_eq!(client.close_code(), Some(1008));
    }
}

#[test]
fn endless_key_updates_are_an_error() {
    let certificate = Certificate::new();
    let server = start(&certificate, &[]);
    let config = certificate.client(&[&TLS13]);
    let mut client = Client::in_thread(server.address(), &config, 1, 7);
    // A few key updates are accepted.
    for _ in 0..5 {
        client.stream().conn.refresh_traffic_keys().unwrap();
        client.send(&json!({"type": "ping"}));
        client.expect("pong");
    }
    for _ in 0..1_000 {
        client.stream().conn.refresh_traffic_keys().unwrap();
        if client.stream().flush().is_err() {
            break;
        }
    }
    assert_eq!(client.close_code(), None);
}

/// Encrypts records by hand (RFC 8446 5.2), to send what no library sends.
struct Forger {
    key: ring::aead::LessSafeKey,
    iv: Vec<u8>,
    sequence: u64,
    socket: TcpStream,
}

impl Forger {
    /// Continues the session of a TLS 1.3 client.
    fn new(stream: tls::Stream) -> Forger {
        let (session, socket) = stream.into_parts();
        let (sequence, secrets) = session.dangerous_extract_secrets().unwrap().tx;
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&ring::aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&ring::aead::AES_256_GCM, key, iv),
            _ => panic!("unexpected cipher"),
        };
        let key = ring::aead::UnboundKey::new(algorithm, key.as_ref()).unwrap();
        let key = ring::aead::LessSafeKey::new(key);
        Forger { key, iv: iv.as_ref().to_vec(), sequence, socket }
    }

    /// Encrypts a record with this content type and content.
    fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut nonce = [0; ring::aead::NONCE_LEN];
        nonce.copy_from_slice(&self.iv);
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence += 1;
        let mut inner = [content, &[kind]].concat();
        let length = u16::try_from(inner.len() + 16).unwrap().to_be_bytes();
        let head = [0x17, 3, 3, length[0], length[1]];
        let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
        let head_first = ring::aead::Aad::from(head);
        self.key.seal_in_place_append_tag(nonce, head_first, &mut inner).unwrap();
        [&head[..], &inner].concat()
    }
}

/// Content types of records (RFC 8446 5.1).
const HANDSHAKE: u8 = 0x16;
const DATA: u8 = 0x17;

#[test]
fn partial_tls_record_does_not_block_writes() {
    let certificate = Certificate::new();
    let server = start(&certificate, &[]);
    let config = certificate.client(&[&TLS13]);
    let mut other = Client::in_thread(server.address(), &config, 2, 7);
    let mut one = tls::stream(server.address(), &config).unwrap();
    let join = bytes::text(r#"{"type":"join_thread","threadId":7}"#);
    one.write_all(&[bytes::request(), join].concat()).unwrap();
    one.flush().unwrap();
    let mut received = [0; 1024];
    while one.read(&mut received).unwrap() > 0 {
        if String::from_utf8_lossy(&received).contains("thread_joined") {
            break;
        }
    }
    let mut forger = Forger::new(one);
    // A KeyUpdate message has five bytes (RFC 8446 4.6.3). Three are sent in a record, then a part
    // of the record with the other two.
    let part = forger.record(HANDSHAKE, &[24, 0, 0]);
    let rest = forger.record(HANDSHAKE, &[1, 0]);
    forger.socket.write_all(&[&part[..], &rest[..9]].concat()).unwrap();
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(50));
        other.send(&json!({"type": "send_message", "threadId": 7, "message": "to all"}));
        other.expect("message");
        // The message still reaches the client whose own record is incomplete.
        let mut record = [0; 5];
        forger.socket.read_exact(&mut record).unwrap();
        let mut sealed = vec![0; usize::from(u16::from_be_bytes([record[3], record[4]]))];
        forger.socket.read_exact(&mut sealed).unwrap();
        assert_eq!(record[0], DATA);
    }
    forger.socket.write_all(&rest[9..]).unwrap();
    // The server now uses the new key and cannot decrypt this record, which has the old one.
    let garbage = forger.record(DATA, b"x");
    forger.socket.write_all(&garbage).unwrap();
    let mut last = Vec::new();
    let _ = forger.socket.read_to_end(&mut last);
    other.send(&json!({"type": "ping"}));
    other.expect("pong");
}

#[test]
fn endless_empty_tls_records_are_refused() {
    let certificate = Certificate::new();
    let server = start(&certificate, &["--log-level=debug"]);
    let config = certificate.client(&[&TLS13]);
    let mut stream = tls::stream(server.address(), &config).unwrap();
    stream.write_all(b"GET /heal").unwrap();
    stream.flush().unwrap();
    let mut forger = Forger::new(stream);
    let mut sent = 0;
    for _ in 0..100_000 {
        let record = forger.record(DATA, b"");
        if forger.socket.write_all(&record).is_err() {
            break;
        }
        sent += record.len();
    }
    assert!(sent < 1_100_000, "at most what the socket buffers hold: {sent}");
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("TooManyEmptyFragments")));
}

#[test]
fn tls_fanout_works_while_many_connect() {
    let certificate = Certificate::new();
    let server = start(&certificate, &[]);
    let config = certificate.client(&BOTH);
    let mut clients: Vec<Client> =
        (1..=200).map(|user| Client::in_thread(server.address(), &config, user, 7)).collect();
    let address = server.address();
    let storm: Vec<JoinHandle<()>> = (0..4)
        .map(|_| {
            // A new config has no session ticket, so that each handshake needs a signature.
            let configs: Vec<_> = (0..50).map(|_| certificate.client(&BOTH)).collect();
            thread::spawn(move || {
                for config in configs {
                    Client::connect(address, &config).identify(1_000);
                }
            })
        })
        .collect();
    for n in 0..5 {
        clients[n].send(&json!({"type": "send_message", "threadId": 7, "message": "all"}));
        for client in &mut clients {
            assert_eq!(client.expect("message")["senderId"], n + 1);
        }
    }
    storm.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn stop_sends_close_notify() {
    let certificate = Certificate::new();
    let mut server = start(&certificate, &["--drain-timeout=1s"]);
    let mut clients = BOTH
        .map(|version| Client::in_thread(server.address(), &certificate.client(&[version]), 1, 7));
    server.signal("TERM");
    for client in &mut clients {
        assert_eq!(client.close_code(), Some(1012));
        // The stream ends with close_notify, not with a truncation.
        let mut rest = [0; 64];
        assert_eq!(client.stream().read(&mut rest).unwrap(), 0);
    }
    drop(clients);
    assert!(server.exit(LONG).success());
}

// ---- reload of the certificate

/// A server in a thread of this process, which reloads its certificate on request.
struct InProcessServer {
    address: SocketAddr,
    requests: Sender<(Config, Sender<Result<(), String>>)>,
}

impl InProcessServer {
    fn new(config: &Config) -> InProcessServer {
        let (sender, requests) = channel::<(Config, Sender<Result<(), String>>)>();
        let (address_sender, address) = channel();
        let config = config.clone();
        thread::spawn(move || {
            let mut server = buddyline::server::Server::bind(&config).unwrap();
            assert!(server.has_tls());
            address_sender.send(server.addresses()[0]).unwrap();
            loop {
                server.tick().unwrap();
                match requests.try_recv() {
                    Ok((config, answer)) => answer.send(server.reload_tls(&config)).unwrap(),
                    Err(std::sync::mpsc::TryRecvError::Empty) => {}
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                }
            }
        });
        InProcessServer { address: address.recv_timeout(LONG).unwrap(), requests: sender }
    }

    fn reload(&self, config: &Config) -> Result<(), String> {
        let (answer, result) = channel();
        self.requests.send((config.clone(), answer)).unwrap();
        result.recv_timeout(LONG).unwrap()
    }
}

fn config(arguments: &[String]) -> Config {
    let all = ["buddyline", "--listen=127.0.0.1:0"].map(String::from);
    Config::parse_from(all.iter().chain(arguments))
}

#[test]
fn new_certificate_applies_to_new_connections_only() {
    let mut certificate = Certificate::new();
    let settings = config(&certificate.arguments(&[]));
    let server = InProcessServer::new(&settings);
    let old = certificate.client(&BOTH);
    let mut one = Client::in_thread(server.address, &old, 1, 7);
    certificate.replace();
    let new = certificate.client(&BOTH);
    assert!(tls::stream(server.address, &new).is_err(), "not reloaded yet");
    server.reload(&settings).unwrap();
    let mut other = Client::in_thread(server.address, &new, 2, 7);
    other.send(&json!({"type": "send_message", "threadId": 7, "message": "still here?"}));
    assert_eq!(one.expect("message")["message"], "still here?");
    one.send(&json!({"type": "send_message", "threadId": 7, "message": "yes"}));
    assert_eq!(other.expect("message")["message"], "still here?");
    assert_eq!(other.expect("message")["message"], "yes");
    // A client that trusts only the old certificate has a session ticket, but the server ignores
    // it.
    assert!(tls::stream(server.address, &old).is_err());
}

#[test]
fn certificate_expiry_is_reported_everywhere() {
    let mut certificate = Certificate::new();
    certificate.replace_with_years(2000, 2001);
    let server = start(&certificate, &["--metrics-listen=127.0.0.1:0"]);
    let has =
        |words: &'static str| move |lines: &[String]| lines.iter().any(|line| line.contains(words));
    server
        .wait_for_log(has("WARN  [buddyline::server::tls] the certificate expired on 2001-01-01"));
    let number = || {
        let log = server.log();
        let line = log.iter().find_map(|line| line.split_once("metrics on http://")).unwrap().1;
        let address = line.strip_suffix("/metrics").unwrap().parse().unwrap();
        let page = server::ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let name = "\nbuddyline_tls_certificate_not_after_seconds ";
        page.split_once(name).unwrap().1.lines().next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(number(), 978_307_200);
    let arguments = certificate.arguments(&[]);
    let check = || {
        let output = server::binary().arg("check-config").args(&arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, output) = check();
    assert!(code == Some(0) && output.contains("warning  TLS certificate"), "{output}");
    certificate.replace_with_years(2000, 4000);
    server.signal("HUP");
    server.wait_for_log(has("settings reloaded"));
    assert_eq!(number(), 64_060_588_800);
    let (code, output) = check();
    assert!(code == Some(0) && output.contains("valid until 4000-01-01"), "{output}");
    certificate.replace_with_years(3000, 4000);
    server.signal("HUP");
    server.wait_for_log(has("the certificate is not valid before 3000-01-01"));
}

#[test]
fn bad_certificate_on_reload_keeps_the_old_one() {
    let certificate = Certificate::new();
    let settings = config(&certificate.arguments(&[]));
    let server = InProcessServer::new(&settings);
    let client = certificate.client(&BOTH);
    let key = std::fs::read_to_string(certificate.key()).unwrap();
    let cert = std::fs::read_to_string(certificate.cert()).unwrap();
    let stranger = Certificate::new();
    let other_key = std::fs::read_to_string(stranger.key()).unwrap();
    for (cert, key, why) in [
        ("", &key, "contains no certificate"),
        (&cert, &String::new(), "contains no key"),
        (&cert, &other_key, "is not the key of the certificate"),
    ] {
        certificate.write("cert.pem", 0o644, cert);
        certificate.write("key.pem", 0o600, key);
        let fault = server.reload(&settings).unwrap_err();
        assert!(fault.contains(why), "{fault}");
        Client::in_thread(server.address, &client, 1, 7);
    }
    let fault = server.reload(&config(&[])).unwrap_err();
    assert!(fault.contains("restart"), "{fault}");
    Client::in_thread(server.address, &client, 1, 7);
}

#[test]
fn sighup_reloads_the_certificate_unless_it_is_bad() {
    let mut certificate = Certificate::new();
    let server = start(&certificate, &[]);
    let old = certificate.client(&BOTH);
    let mut one = Client::in_thread(server.address(), &old, 1, 7);
    certificate.write("cert.pem", 0o644, "");
    server.signal("HUP");
    let refused = "the new settings are refused and the old ones kept";
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains(refused)));
    Client::connect(server.address(), &old).identify(2);
    certificate.replace();
    server.signal("HUP");
    let read = "settings reloaded";
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains(read)));
    Client::connect(server.address(), &certificate.client(&BOTH)).identify(2);
    assert!(tls::stream(server.address(), &old).is_err());
    one.send(&json!({"type": "ping"}));
    one.expect("pong");
}

// ---- settings

/// Runs `check-config`; returns its error text, or `good`.
fn check_config(arguments: &[String], folder: Option<&str>) -> String {
    let mut command: Command = server::binary();
    command.arg("check-config").args(arguments).env_remove("CREDENTIALS_DIRECTORY");
    command.envs(folder.map(|folder| ("CREDENTIALS_DIRECTORY", folder)));
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    if output.status.success() { "good".to_owned() } else { stderr }
}

#[test]
fn unusable_tls_files_are_named_with_the_reason() {
    let certificate = Certificate::new();
    let stranger = Certificate::new();
    let [cert, key] = [certificate.cert(), certificate.key()];
    let garbage = certificate.write("garbage", 0o600, "-----BEGIN CERTIFICATE-----\n!\n");
    let wrong = certificate.write(
        "wrong",
        0o600,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let locked = certificate.write(
        "locked",
        0o600,
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let nothing = certificate.write("nothing", 0o600, "");
    for (cert, key, parts) in [
        (Some(&cert), None, ["--tls-cert is set and --tls-key is not", "both"]),
        (None, Some(&key), ["--tls-key is set and --tls-cert is not", "both"]),
        (Some(&"/no/such".to_owned()), Some(&key), ["--tls-cert /no/such", "cannot be read"]),
        (Some(&cert), Some(&"/no/such".to_owned()), ["--tls-key /no/such", "cannot be read"]),
        (Some(&nothing), Some(&key), ["--tls-cert", "contains no certificate"]),
        (Some(&key), Some(&key), ["--tls-cert", "contains no certificate"]),
        (Some(&cert), Some(&cert), ["--tls-key", "contains no key"]),
        (Some(&cert), Some(&locked), ["--tls-key", "it is encrypted"]),
        (Some(&garbage), Some(&key), ["--tls-cert", "not valid PEM"]),
        (Some(&wrong), Some(&key), ["--tls-cert", "BadEncoding"]),
        (Some(&cert), Some(&stranger.key()), ["--tls-key", "not the key of the certificate"]),
    ] {
        let arguments: Vec<String> = cert
            .map(|path| format!("--tls-cert={path}"))
            .into_iter()
            .chain(key.map(|path| format!("--tls-key={path}")))
            .collect();
        let text = check_config(&arguments, None);
        for part in parts {
            assert!(text.contains(part), "{arguments:?}: {text}");
        }
    }
    assert_eq!(check_config(&certificate.arguments(&[]), None), "good");
}

#[test]
fn tls_files_come_from_systemd_unless_named() {
    let certificate = Certificate::new();
    let folder = certificate.folder().to_str().unwrap().to_owned();
    let text = |path: &str| std::fs::read_to_string(path).unwrap();
    assert_eq!(check_config(&[], Some(&folder)), "good", "no TLS files");
    certificate.write("tls-cert", 0o600, "\n");
    certificate.write("tls-key", 0o600, "\n");
    assert_eq!(check_config(&[], Some(&folder)), "good", "an empty file counts as unset");
    certificate.write("tls-cert", 0o600, &text(&certificate.cert()));
    let alone = check_config(&[], Some(&folder));
    assert!(alone.contains("tls-cert is set alone"), "{alone}");
    certificate.write("tls-key", 0o600, &text(&certificate.key()));
    let mut command = server::binary();
    command.args(["--listen=127.0.0.1:0"]).env("CREDENTIALS_DIRECTORY", &folder);
    let server = Server::launch(command, 1);
    let config = certificate.client(&BOTH);
    Client::connect(server.address(), &config).identify(1);
    certificate.write("tls-cert", 0o600, "");
    assert_eq!(
        check_config(&certificate.arguments(&[]), Some(&folder)),
        "good",
        "ignored when the files are named"
    );
}

#[test]
fn world_readable_key_is_warned_of_without_printing_it() {
    let certificate = Certificate::new();
    let key = std::fs::read_to_string(certificate.key()).unwrap();
    certificate.write("key.pem", 0o644, &key);
    let server = start(&certificate, &["--log-level=debug"]);
    let config = certificate.client(&BOTH);
    Client::connect(server.address(), &config).identify(1);
    let log = server.log().join("\n");
    assert!(log.contains("--tls-key") && log.contains("chmod o-rw"), "{log}");
    for line in key.lines() {
        assert!(!log.contains(line), "{log}");
    }
}

//! PROXY protocol headers of trusted proxies.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use serde_json::json;

use crate::support::bytes::{request, request_with};
use crate::support::client::{Client, LONG};
use crate::support::files::SecretFile;
use crate::support::server::{Server, read_response};
use crate::support::tls::{self, Certificate};

const ON: [&str; 3] =
    ["--trusted-proxy=127.0.0.1,10.0.0.0/8", "--proxy-protocol=on", "--log-level=debug"];
const LINE: &[u8] = b"PROXY TCP4 203.0.113.7 127.0.0.1 1234 80\r\n";

/// A header of version 2 for a TCP client over IPv4.
fn binary(client: [u8; 4], more: &[u8]) -> Vec<u8> {
    let length = u16::try_from(12 + more.len()).unwrap().to_be_bytes();
    let start = b"\r\n\r\n\0\r\nQUIT\n\x21\x11";
    [&start[..], &length, &client, &[127, 0, 0, 1, 4, 210, 0, 80], more].concat()
}

/// Sends these bytes and returns the socket, and the response up to its end or that of a 101's head.
fn send(server: &Server, parts: &[&[u8]]) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    for part in parts {
        socket.write_all(part).unwrap();
    }
    let answer = read_response(&mut socket);
    (socket, answer)
}

/// The client of a connection that begins with these bytes, as the server logs it.
fn client_of(server: &Server, header: &[u8], lines: &str) -> String {
    let opened = |log: &[String]| -> Vec<String> {
        let found = log.iter().filter_map(|line| line.split_once("open from "));
        found.map(|(_, client)| client.to_owned()).collect()
    };
    let before = opened(&server.log()).len();
    let (_socket, answer) = send(server, &[&[header, &request_with(lines)].concat()]);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    server.wait_for_log(|log| opened(log).len() > before);
    opened(&server.log()).pop().unwrap()
}

#[test]
fn client_address_is_taken_from_the_header_of_a_trusted_proxy() {
    let server = Server::start(&ON);
    let unknown = b"PROXY UNKNOWN\r\n";
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0";
    let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[b'/'; 216]].concat();
    let authority = b"\x02\0\x09a.example";
    let inner = b"PROXY TCP4 10.0.0.9 127.0.0.1 1234 80\r\n";
    let forwarded = "X-Forwarded-For: 198.51.100.1, 192.0.2.9\r\n";
    for (header, lines, expected) in [
        (LINE, "", "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 1234 80\r\n", "", "2001:db8::7"),
        (&binary([203, 0, 113, 8], b""), "", "203.0.113.8"),
        (&binary([203, 0, 113, 8], authority), "", "203.0.113.8"),
        // The proxy itself: a health check, or a client without an IP address.
        (unknown, "", "127.0.0.1"),
        (local, "", "127.0.0.1"),
        (&unix, "", "127.0.0.1"),
        // X-Forwarded-For counts if the client in the header is a trusted proxy as well.
        (LINE, forwarded, "203.0.113.7"),
        (inner, forwarded, "192.0.2.9"),
        (local, forwarded, "192.0.2.9"),
    ] {
        assert_eq!(client_of(&server, header, lines), expected, "{header:?} {lines}");
    }
}

#[test]
fn header_may_arrive_in_pieces_of_any_size() {
    let server = Server::start(&ON);
    let large = binary([203, 0, 113, 8], &[0; 4_068]);
    assert_eq!(large.len(), 4_096);
    for header in [LINE, &binary([203, 0, 113, 8], b""), &large] {
        let whole = [header, &request()].concat();
        let step = if header.len() > 1_000 { 1_000 } else { 1 };
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        for piece in whole.chunks(step) {
            socket.write_all(piece).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        let answer = read_response(&mut socket);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    }
    // The connection works like any other, with frames in the same packet as the request.
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.write_all(LINE).unwrap();
    let mut client = Client::over(socket);
    client.send(&json!({"type": "ping", "clientId": "here"}));
    assert_eq!(client.expect_type("pong")["clientId"], "here");
}

#[test]
fn missing_or_invalid_header_of_a_proxy_is_refused_with_a_warning() {
    let server = Server::start(&[&ON[..], &["--metrics-listen=127.0.0.1:0"]].concat());
    let too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(200));
    let version_three = [&b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c"[..], &[0; 12]].concat();
    let bad: [&[u8]; 5] = [
        b"",
        b"PROXY TCP4 nobody 127.0.0.1 1234 80\r\n",
        too_long.as_bytes(),
        &version_three,
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    ];
    for header in bad {
        let (_, answer) = send(&server, &[&[header, &request()].concat()]);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{header:?}: {answer}");
        assert!(answer.contains("PROXY protocol header"), "{answer}");
    }
    let about_headers = |log: &[String]| -> Vec<String> {
        log.iter().filter(|line| line.contains("PROXY protocol header")).cloned().collect()
    };
    server.wait_for_log(|log| about_headers(log).len() == bad.len());
    let lines = about_headers(&server.log());
    let warnings: Vec<&String> = lines.iter().filter(|line| line.contains("WARN")).collect();
    let [warning] = warnings[..] else { panic!("{warnings:?}") };
    for part in ["127.0.0.1", "it has none", "send-proxy", "--proxy-protocol off"] {
        assert!(warning.contains(part), "no {part:?} in {warning}");
    }
    let page = crate::support::scrape::scrape(&server);
    let refused = page.nonzero("buddyline_connections_refused_total");
    assert_eq!(refused, [("proxy", bad.len() as f64)]);
}

#[test]
fn only_trusted_proxies_may_send_a_header() {
    let other = "--trusted-proxy=10.0.0.0/8";
    for arguments in [
        // This client is no trusted proxy; no proxy is trusted; the setting is off.
        &[other, "--proxy-protocol=on"][..],
        &["--proxy-protocol=on"],
        &["--trusted-proxy=127.0.0.1"],
    ] {
        let server = Server::start(arguments);
        for header in [LINE, &binary([203, 0, 113, 8], b"")] {
            let (_, answer) = send(&server, &[&[header, &request()].concat()]);
            assert!(answer.starts_with("HTTP/1.1 400 "), "{arguments:?}: {answer}");
        }
        let (_, answer) = send(&server, &[&request()]);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{arguments:?}: {answer}");
    }
}

#[test]
fn incomplete_header_times_out() {
    let server = Server::start(&[&ON[..], &["--no-limits"]].concat());
    let begun = Instant::now();
    let mut sockets: Vec<TcpStream> =
        [&b""[..], b"PROXY TCP4", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"]
            .map(|start| {
                let mut socket = TcpStream::connect(server.address()).unwrap();
                socket.set_read_timeout(Some(LONG)).unwrap();
                socket.write_all(start).unwrap();
                socket
            })
            .into();
    for socket in &mut sockets {
        assert_eq!(read_response(socket), "");
    }
    let took = begun.elapsed();
    assert!((3..8).contains(&took.as_secs()), "{took:?}");
    // After the header, the request has its own time, and here no limit.
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.write_all(LINE).unwrap();
    thread::sleep(Duration::from_secs(6));
    socket.write_all(&request()).unwrap();
    assert!(read_response(&mut socket).starts_with("HTTP/1.1 101 "));
}

#[test]
fn clients_of_a_proxy_have_the_limit_of_their_address() {
    let server = Server::start(&[&ON[..], &["--max-connections-per-address=1"]].concat());
    let mut first = TcpStream::connect(server.address()).unwrap();
    first.write_all(LINE).unwrap();
    // It counts before its request.
    let deadline = Instant::now() + LONG;
    loop {
        let mut second = TcpStream::connect(server.address()).unwrap();
        second.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        second.write_all(LINE).unwrap();
        let mut start = [0; 12];
        if second.read_exact(&mut start).is_ok() {
            assert_eq!(&start, b"HTTP/1.1 429");
            break;
        }
        assert!(Instant::now() < deadline);
    }
    let other = binary([203, 0, 113, 8], b"");
    assert!(send(&server, &[&other, &request()]).1.starts_with("HTTP/1.1 101 "));
    // It is counted once, and makes room when it closes.
    drop(Client::over(first));
    let deadline = Instant::now() + LONG;
    while !send(&server, &[LINE, &request()]).1.starts_with("HTTP/1.1 101 ") {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn tls_follows_the_header() {
    let certificate = Certificate::new();
    let arguments = certificate.arguments(&ON);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = Server::start(&arguments);
    for version in [&TLS12, &TLS13] {
        let config = certificate.client(&[version]);
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket.set_nodelay(true).unwrap();
        for byte in LINE {
            socket.write_all(&[*byte]).unwrap();
        }
        let mut client = tls::Client::over(tls::stream_over(socket, &config).unwrap());
        client.send(&json!({"type": "ping", "clientId": "here"}));
        assert_eq!(client.expect("pong")["clientId"], "here");
        server.wait_for_log(|log| log.iter().any(|line| line.ends_with("open from 203.0.113.7")));
    }
    // Without a header the TLS handshake is refused; no plain text is sent.
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.write_all(b"\x16\x03\x01\x02\x00").unwrap();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{rest:?}");
}

#[test]
fn unix_socket_takes_a_header_as_well() {
    let path = std::env::temp_dir().join(format!("buddyline-proxy-{}.sock", std::process::id()));
    let listen = format!("--listen=unix:{}", path.display());
    let server = Server::start(&[&listen, "--proxy-protocol=on", "--log-level=debug"]);
    server.wait_for_log(|log| log.iter().any(|line| line.contains("listening on unix:")));
    let connect = || {
        let socket = UnixStream::connect(&path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket
    };
    let mut socket = connect();
    for byte in [LINE, &request()].concat() {
        socket.write_all(&[byte]).unwrap();
    }
    assert!(read_response(&mut socket).starts_with("HTTP/1.1 101 "));
    server.wait_for_log(|log| log.iter().any(|line| line.ends_with("open from 203.0.113.7")));
    let mut socket = connect();
    socket.write_all(&request()).unwrap();
    assert!(read_response(&mut socket).starts_with("HTTP/1.1 400 "));
    // No address is trusted here, so a TCP client sends none.
    assert!(send(&server, &[&request()]).1.starts_with("HTTP/1.1 101 "));
}

#[test]
fn reload_turns_the_proxy_protocol_on_and_off() {
    let file = SecretFile::with(&["BUDDYLINE_TRUSTED_PROXY=127.0.0.1"]);
    let server = Server::start(&["--env-file", file.path()]);
    let mut before = Client::as_user(server.address(), 7);
    for (value, reloads) in [("on", 1), ("off", 2)] {
        let lines = format!("BUDDYLINE_TRUSTED_PROXY=127.0.0.1\nBUDDYLINE_PROXY_PROTOCOL={value}");
        fs::write(file.path(), lines).unwrap();
        server.signal("HUP");
        server.wait_for_log(|log| {
            log.iter().filter(|line| line.contains("settings reloaded")).count() == reloads
        });
        let with = send(&server, &[&[LINE, &request()].concat()]).1;
        let without = send(&server, &[&request()]).1;
        let (good, bad) = if value == "on" { (with, without) } else { (without, with) };
        assert!(good.starts_with("HTTP/1.1 101 "), "{value}: {good}");
        assert!(bad.starts_with("HTTP/1.1 400 "), "{value}: {bad}");
    }
    before.send(&json!({"type": "ping"}));
    before.expect_type("pong");
}

//! Start and stop of the binary: exit codes, error texts, logs, plain HTTP.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client;
use crate::support::client::Client;
use crate::support::server::{Server, ask, binary};

/// Runs the binary until it exits; returns its exit code and output.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = binary().args(arguments).output().unwrap();
    let output = [stdout, stderr].concat();
    (status.code(), String::from_utf8(output).unwrap())
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()
}

#[test]
fn plain_http_is_answered_and_closed() {
    let server = Server::start(&[]);
    let health = server.ask(&get("/healthz"));
    assert!(health.starts_with("HTTP/1.1 200 ") && health.ends_with("\r\n\r\nok\n"), "{health}");
    let page = server.ask(&get("/"));
    assert!(page.starts_with("HTTP/1.1 200 ") && page.ends_with("</html>\n"), "{page}");
    assert!(server.ask(&get("/nothing")).starts_with("HTTP/1.1 404 "));
    assert!(server.ask(b"\x16\x03\x01\x02\x00\x01\x00").starts_with("HTTP/1.1 400 "));
    let off = Server::start(&["--try-page", "off"]);
    assert!(off.ask(&get("/")).starts_with("HTTP/1.1 404 "));
}

#[test]
fn half_closed_request_gets_the_whole_page() {
    let server = Server::start(&[]);
    for _ in 0..20 {
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket.set_read_timeout(Some(client::LONG)).unwrap();
        socket.write_all(&get("/")).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut page = String::new();
        socket.read_to_string(&mut page).unwrap();
        assert!(page.ends_with("</html>\n"), "{} bytes", page.len());
    }
}

#[test]
fn signal_closes_all_connections_and_exits_0() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&[]);
        let mut clients: Vec<Client> =
            (1..=5).map(|user| Client::as_user(server.address(), user)).collect();
        let _half_open = TcpStream::connect(server.address()).unwrap();
        let begun = Instant::now();
        server.signal(signal);
        for client in &mut clients {
            assert_eq!(client.close_code(), Some(1012), "SIG{signal}");
        }
        let left = Duration::from_secs(3).saturating_sub(begun.elapsed());
        assert_eq!(server.exit(left).code(), Some(0), "SIG{signal}");
    }
}

#[test]
fn address_in_use_exits_1_and_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, output) = run(&["--listen", &address]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains(&address), "{output}");
    let quiet = run(&["--listen", &address, "--log-level", "off"]);
    assert_eq!(quiet.0, Some(1));
}

#[test]
fn unusable_secret_exits_2_without_printing_it() {
    let path = std::env::temp_dir().join(format!("buddyline-process-{}", std::process::id()));
    std::fs::write(&path, "s3cret-1\ns3cret-2\ns3cret-3\n").unwrap();
    let site = ["--buddyboss-url", "https://community.example", "--trust", "open"];
    let file = ["--jwt-secret-file", path.to_str().unwrap()];
    let (code, output) = run(&[&site[..], &file[..]].concat());
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains(file[1]) && output.contains("two lines"), "{output}");
    let (code, more) = run(&file);
    assert_eq!(code, Some(2), "{more}");
    assert!(!output.contains("s3cret") && !more.contains("s3cret"), "{output}{more}");

    let with_both = binary().args(site).args(file).env("BUDDYLINE_JWT_SECRET", "s3cret").output();
    let Output { status, stdout, stderr } = with_both.unwrap();
    let output = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert_eq!(status.code(), Some(2), "{output}");
    assert!(output.contains("--jwt-secret-file") && output.contains("BUDDYLINE_JWT_SECRET"));
    assert!(!output.contains("s3cret"), "{output}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn password_in_url_is_not_printed() {
    let (code, output) = run(&["--buddyboss-url", "https://alice:s3cret@community.example"]);
    assert_eq!(code, Some(2));
    assert!(
        output.contains("--buddyboss-url") && output.contains("@community.example"),
        "{output}"
    );
    assert!(!output.contains("s3cret") && !output.contains("alice"), "{output}");
}

#[test]
fn bad_setting_exits_2_and_says_what_is_allowed() {
    for (setting, value, allowed) in [
        ("--listen", "8080", "HOST:PORT"),
        ("--upstream-timeout", "soon", "1s to 5m"),
        ("--max-connections", "1000001", "1 to 1000000"),
        ("--max-frame-bytes", "100", "1024 to 16777216"),
        ("--log-level", "loud", "info"),
        ("--trust", "nobody", "open"),
        ("--allowed-origin", "https://example.org/", "slash"),
        ("--trusted-proxy", "localhost", "127.0.0.1"),
        ("--buddyboss-url", "example.org", "https://"),
    ] {
        let (code, output) = run(&[setting, value]);
        assert_eq!(code, Some(2), "{output}");
        for part in [setting, value, allowed] {
            assert!(output.contains(part), "{part} is missing: {output}");
        }
    }
}

#[test]
fn conflicting_settings_exit_2() {
    let (code, output) = run(&["--trust", "verified"]);
    assert!(output.contains("--trust") && output.contains("--buddyboss-url"), "{output}");
    assert_eq!(code, Some(2), "{output}");
}

#[test]
fn trust_mode_is_logged_at_start() {
    let site = ["--buddyboss-url", "http://127.0.0.1:9"];
    let verified = Server::start(&site);
    assert!(verified.log().iter().any(|line| line.contains("by asking the site")));
    let open = Server::start(&[site[0], site[1], "--trust", "open"]);
    let warned = |line: &String| line.contains("WARN") && line.contains("--trust open");
    assert!(open.log().iter().any(warned), "{:?}", open.log());
}

#[test]
fn bad_environment_setting_is_named() {
    let Output { status, stderr, .. } =
        binary().env("BUDDYLINE_MAX_JOINS", "none").output().unwrap();
    let output = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{output}");
    assert!(output.contains("max-joins") && output.contains("none"), "{output}");
}

#[test]
fn version_flag_prints_the_version() {
    let (code, output) = run(&["--version"]);
    assert_eq!((code, output.trim()), (Some(0), concat!("buddyline ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn dual_stack_name_listens_on_both_families() {
    let families = |name: &str| -> Vec<bool> {
        name.to_socket_addrs().unwrap().map(|address| address.is_ipv6()).collect()
    };
    let named = families("localhost:0");
    if !(named.contains(&true) && named.contains(&false)) || TcpListener::bind("[::1]:0").is_err() {
        eprintln!("localhost has one address on this system: not tested");
        return;
    }
    let mut command = binary();
    command.args(["--listen", "localhost:0"]);
    let server = Server::launch(command, 2);
    let families: Vec<bool> = server.addresses().iter().map(|a| a.is_ipv6()).collect();
    assert!(families.contains(&true) && families.contains(&false), "{:?}", server.addresses());
    let [mut one, mut other] =
        [0, 1].map(|n| Client::in_thread(server.addresses()[n], 7 + n as u64, 41));
    one.send(&json!({"type": "send_message", "threadId": 41, "message": "over both"}));
    assert_eq!(other.expect_type("message")["message"], "over both");
    for address in server.addresses() {
        assert!(ask(*address, &get("/healthz")).starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn ipv6_address_is_listened_on() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this system has no IPv6: not tested");
        return;
    }
    let mut command = binary();
    command.args(["--listen", "[::1]:0"]);
    let server = Server::launch(command, 1);
    assert!(server.address().is_ipv6());
    let mut client = Client::as_user(server.address(), 7);
    assert_eq!(client.drain(), [json!(null); 0]);
    assert!(server.ask(&get("/healthz")).starts_with("HTTP/1.1 200 "));
}

#[test]
fn dripping_request_times_out_after_five_seconds() {
    let server = Server::start(&[]);
    let begun = Instant::now();
    let mut silent = TcpStream::connect(server.address()).unwrap();
    let mut drip = TcpStream::connect(server.address()).unwrap();
    let mut open = Client::as_user(server.address(), 7);
    silent.set_read_timeout(Some(client::LONG)).unwrap();
    drip.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut answer = Vec::new();
    let mut request = b"GET / HTTP/1.1\r\nHost: ".iter().chain([b'x'].iter().cycle());
    while begun.elapsed() < client::LONG && !answer.ends_with(b".\n") {
        let _ = drip.write_all(&[*request.next().unwrap()]);
        let mut bytes = [0; 512];
        if let Ok(some) = drip.read(&mut bytes) {
            answer.extend(&bytes[..some]);
        }
    }
    let lasted = begun.elapsed().as_secs_f64();
    assert!((4.5..8.0).contains(&lasted), "{lasted} s");
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(
        silent.read(&mut [0; 1]).unwrap(),
        0,
        "a silent connection is closed without an answer"
    );
    assert_eq!(open.drain(), [json!(null); 0], "an open WebSocket has no handshake timeout");
}

#[test]
fn debug_log_has_no_tokens_or_message_texts() {
    let mut server = Server::start(&["--log-level", "debug"]);
    let secrets =
        ["s3cr3t-tok-1", "private words", "s3cr3t-tok-2", "private reason", "s3cr3t-tok-3"];
    let request = format!(
        "GET /?token={} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Sec-WebSocket-Protocol: buddyline, {}\r\n\r\n",
        secrets[0], secrets[2], secrets[4]
    );
    assert!(server.ask(request.as_bytes()).starts_with("HTTP/1.1 200 "));
    let mut client = Client::in_thread(server.address(), 7, 41);
    client.send(&json!({
        "type": "send_message", "threadId": 41, "message": secrets[1], "token": secrets[0]
    }));
    client.expect_type("message");
    client.send(&json!({"type": "user_connected", "userId": 7, "token": secrets[2]}));
    client.send_text(&format!("{{\"type\":\"send_message\",\"token\":\"{}\",", secrets[4]));
    client.expect_type("error");
    client.send(&json!({"type": "private words"}));
    client.expect_type("error");
    let close =
        tungstenite::protocol::CloseFrame { code: 1000.into(), reason: "private reason".into() };
    client.try_send(tungstenite::Message::Close(Some(close))).unwrap();
    client.close_code();
    server.signal("TERM");
    server.exit(Duration::from_secs(3));
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("stopped")));
    for line in server.log() {
        assert!(!secrets.iter().any(|secret| line.contains(secret)), "{line}");
    }
}

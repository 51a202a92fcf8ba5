//! `buddyline health`, as a container's health check runs it.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::Client;
use crate::support::files::SecretFile;
use crate::support::server::{Server, binary};
use crate::support::site::Site;
use crate::support::tls::Certificate;

/// The exit code and the one line of a health check.
fn check(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    (output.status.code(), text.trim_end().to_owned())
}

fn health(arguments: &[&str]) -> (Option<i32>, String) {
    check(binary().arg("health").args(arguments))
}

#[test]
fn health_asks_the_address_that_the_settings_serve() {
    let server = Server::start(&[]);
    let port = server.address().port();
    for listen in
        [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"), format!("localhost:{port}")]
    {
        let (code, line) = health(&["--listen", &listen]);
        assert_eq!(code, Some(0), "{line}");
        assert!(line.starts_with("ok: http://") && line.ends_with("/healthz: ok"), "{line}");
    }
    // By the environment and the settings file, as in a container.
    let listen = format!("127.0.0.1:{port}");
    let line = format!("ok: http://{listen}/healthz: ok");
    let by_variable = check(binary().arg("health").env("BUDDYLINE_LISTEN", &listen));
    assert_eq!(by_variable, (Some(0), line.clone()));
    let file = SecretFile::with(&[&format!("BUDDYLINE_LISTEN={listen}")]);
    assert_eq!(health(&["--env-file", file.path()]), (Some(0), line.clone()));
    assert_eq!(health(&["--url", &format!("http://{listen}")]), (Some(0), line));
    let readyz = format!("http://{listen}/readyz");
    assert_eq!(health(&["--url", &readyz]), (Some(0), format!("ok: {readyz}: ready")));
    assert_eq!(
        health(&["--ready", "--listen", &listen]),
        (Some(0), format!("ok: {readyz}: ready"))
    );
    let nothing = format!("http://{listen}/nothing");
    let (code, line) = health(&["--url", &nothing]);
    assert!(code == Some(1) && line.contains("404 There is nothing"), "{line}");
}

#[test]
fn health_fails_in_time_with_one_line() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let begun = Instant::now();
    let (code, line) = health(&["--listen", &silent, "--within=300ms"]);
    assert!(code == Some(1) && line.starts_with("failed: http://127.0.0.1:"), "{line}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (code, line) = health(&["--listen", &free]);
    assert!(code == Some(1) && line.ends_with("/healthz: the connection is refused"), "{line}");

    // A Unix socket whose queue is full keeps a blocking connect waiting.
    let path = std::env::temp_dir().join(format!("buddyline-health-{}", std::process::id()));
    let _busy = UnixListener::bind(&path).unwrap();
    let url = format!("unix:{}", path.display());
    let (code, line) = health(&["--url", &url, "--within=300ms"]);
    assert!(code == Some(1) && line.starts_with("failed: unix:"), "{line}");
    std::fs::remove_file(&path).unwrap();

    // Something else than HTTP, and an endless answer.
    for answer in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], &[b'x'; 1 << 20]] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let _ = std::io::Write::write_all(&mut socket, answer);
        });
        let (code, line) = health(&["--listen", &address]);
        assert!(code == Some(1) && line.starts_with("failed: "), "{line}");
        assert!(line.len() < 200, "{line}");
    }
    for bad in [&["--listen=127.0.0.1:0"][..], &["--url=ftp://x"], &["--within=1h"]] {
        let output = binary().arg("health").args(bad).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
    }
}

#[test]
fn health_reaches_a_server_with_tls_unix_socket_or_proxy_protocol() {
    let certificate = Certificate::new();
    let arguments = certificate.arguments(&[]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = Server::start(&arguments);
    let listen = format!("--listen={}", server.address());
    let (code, line) = health(&[&arguments[..], &[&listen]].concat());
    assert!(code == Some(0) && line.starts_with("ok: https://127.0.0.1:"), "{line}");
    let (code, line) =
        health(&["--url", &format!("https://localhost:{}", server.address().port())]);
    assert_eq!(code, Some(0), "{line}");
    // Without TLS the server does not answer.
    assert_eq!(health(&[&listen]).0, Some(1));

    let path = std::env::temp_dir().join(format!("buddyline-health-{}.sock", std::process::id()));
    let listen = format!("unix:{}", path.display());
    for protocol in ["--proxy-protocol=on", "--proxy-protocol=off"] {
        let settings = ["--trusted-proxy=127.0.0.1", protocol];
        let server = Server::start(&[&settings[..], &["--listen", &listen]].concat());
        server.wait_for_log(|log| log.iter().any(|line| line.contains("listening on unix:")));
        let address = server.address().to_string();
        for listen in [&listen, &address] {
            let (code, line) = health(&[&settings[..], &["--listen", listen]].concat());
            assert_eq!(code, Some(0), "{protocol} {listen}: {line}");
        }
        let expected = if protocol.ends_with("on") { 1 } else { 0 };
        assert_eq!(health(&["--url", &listen]).0, Some(expected), "--url sends no header");
    }
}

#[test]
fn ready_check_fails_while_the_server_drains() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    let url = site.url();
    let server = Server::start(&["--buddyboss-url", &url, "--trust=open"]);
    let listen = format!("--listen={}", server.address());
    let mut seven = Client::as_user(server.address(), 7);
    // A message in flight keeps the server from stopping.
    site.set_latency(Duration::from_secs(5));
    seven.send(&json!({
        "type": "send_message", "threadId": 41, "message": "on its way", "senderId": 7,
        "token": "user-7", "clientId": "first",
    }));
    seven.drain();
    server.signal("TERM");
    server.wait_for_log(|log| log.iter().any(|line| line.contains("draining for at most")));
    let (code, line) = health(&["--ready", &listen]);
    assert!(code == Some(1) && line.ends_with("/readyz: 503 draining"), "{line}");
    assert_eq!(health(&[&listen]).0, Some(0), "a restart would not help");
}

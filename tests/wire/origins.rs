//! Which origins may connect: matching of patterns, and the handshake of the built binary.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use buddyline::config::origins::{OriginPattern, Origins};
use buddyline::config::site_url::SiteUrl;

use crate::support::bytes::request_with;
use crate::support::server::{Server, binary};

fn pattern(text: &str) -> OriginPattern {
    OriginPattern::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"))
}

fn allowed(patterns: &[&str], origin: &str) -> bool {
    let patterns: Vec<_> = patterns.iter().map(|text| pattern(text)).collect();
    Origins::only(&patterns, None).is_allowed(origin, None)
}

#[test]
fn origin_is_allowed_only_by_a_matching_pattern() {
    for (text, good, bad) in [
        (
            "https://app.example.org",
            &["https://app.example.org", "HTTPS://App.Example.ORG", "https://app.example.org:443"]
                [..],
            &[
                "http://app.example.org",
                "https://app.example.org:8443",
                "https://app.example.org:80",
                "https://app.example.org.",
                "https://app.example.org/",
                "https://app.example.org.evil.example",
                "https://app.example.org@evil.example",
                "https://app.example.org:443@evil.example",
                "https://evil.example/https://app.example.org",
                "https://evil.example#https://app.example.org",
                "https://app.example.org evil.example",
                "https://evil-app.example.org",
                "https://evil.app.example.org",
                "https://app.example.org:0443 ",
                "https://app.example.org:+443",
                "https://app.example.org:65979",
                "https://app.example.org:",
                "//app.example.org",
                "app.example.org",
                "null",
                "",
            ][..],
        ),
        (
            "*.example.org",
            &["https://a.example.org", "https://a.b.c.Example.Org", "https://a.example.org:443"],
            &[
                "https://example.org",
                "https://evilexample.org",
                "https://evil-example.org",
                "https://.example.org",
                "https://a..example.org",
                "https://a.example.org.",
                "https://a.example.org.evil.example",
                "https://evil.example?.example.org",
                "https://evil.example/.example.org",
                "https://evil.example\\.example.org",
                "https://evil.example%2f.example.org",
                "https://evil.example:443.example.org",
                "https://user@a.example.org",
                "http://a.example.org",
                "https://a.example.org:8443",
                "https://*.example.org",
            ],
        ),
        (
            "http://*.example.org:8080",
            &["http://a.example.org:8080"],
            &["http://a.example.org", "https://a.example.org:8080", "http://example.org:8080"],
        ),
        ("https://*.example.org:443", &["https://a.example.org"], &["http://a.example.org:443"]),
        ("http://localhost:3000", &["http://localhost:3000"], &["http://localhost"]),
        ("http://127.0.0.1:80", &["http://127.0.0.1"], &["http://127.0.0.1.evil.example"]),
        ("http://[0::1]:3000", &["http://[::1]:3000"], &["http://[::1]", "http://::1:3000"]),
        ("null", &["null"], &["NULL", "https://null", "null://", ""]),
        (
            "capacitor://localhost",
            &["capacitor://localhost"],
            &["http://localhost", "ionic://localhost"],
        ),
        ("Ionic://localhost", &["ionic://LOCALHOST"], &["ionic://localhost:80", "ionic://"]),
        ("file://", &["file://"], &["file:///", "file://host", "null", "https://"]),
    ] {
        for origin in good {
            assert!(allowed(&[text], origin), "{text} allows {origin:?}");
        }
        for origin in bad {
            assert!(!allowed(&[text], origin), "{text} does not allow {origin:?}");
        }
    }
}

#[test]
fn origin_is_allowed_if_any_pattern_matches() {
    let both = ["null", "https://a.example.org"];
    assert!(allowed(&both, "null") && allowed(&both, "https://a.example.org"));
    assert!(!allowed(&both, "https://b.example.org"));
    assert!(!allowed(&[], "https://a.example.org"));
    for anything in ["null", "https://b.example.org", "nonsense", ""] {
        assert!(allowed(&["null", "*"], anything), "{anything}");
        assert!(Origins::any().is_allowed(anything, None));
    }
}

#[test]
fn site_origin_is_allowed() {
    for (site, origin, other) in [
        ("https://example.org", "https://example.org", "http://example.org"),
        ("https://example.org/community", "https://example.org:443", "https://www.example.org"),
        ("http://127.0.0.1:8000/a/b", "http://127.0.0.1:8000", "http://127.0.0.1"),
        ("http://[::1]:8000", "http://[::1]:8000", "http://[::2]:8000"),
    ] {
        let site = SiteUrl::parse(site).unwrap();
        for patterns in [&[][..], &[pattern("https://app.example.org")]] {
            let origins = Origins::only(patterns, Some(&site));
            assert!(origins.is_allowed(origin, None), "{origin}");
            assert!(!origins.is_allowed(other, None), "{other}");
        }
    }
}

#[test]
fn same_origin_is_allowed() {
    let none = Origins::only(&[], None);
    for (origin, host) in [
        ("http://live.example.org", "live.example.org"),
        ("https://live.example.org", "Live.Example.org"),
        ("https://live.example.org", "live.example.org:443"),
        ("https://live.example.org:443", "live.example.org"),
        ("http://192.0.2.1:8080", "192.0.2.1:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
    ] {
        assert!(none.is_allowed(origin, Some(host)), "{origin} at {host}");
    }
    for (origin, host) in [
        ("https://live.example.org", "live.example.org:8443"),
        ("https://live.example.org:8443", "live.example.org"),
        ("http://live.example.org", "live.example.org:443"),
        ("https://evil.example", "live.example.org"),
        ("https://example.org", "live.example.org"),
        ("https://live.example.org@evil.example", "live.example.org"),
        ("https://live.example.org", "evil@live.example.org"),
        ("https://live.example.org", "live.example.org, evil.example"),
        ("https://live.example.org", ""),
        ("https://", ""),
        ("file://", ""),
        ("capacitor://localhost", "localhost"),
        ("null", "null"),
    ] {
        assert!(!none.is_allowed(origin, Some(host)), "{origin} at {host}");
    }
}

#[test]
fn invalid_origin_pattern_is_refused_with_reason() {
    for (text, part) in [
        ("", "scheme"),
        ("example.org", "https://"),
        ("https://example.org/", "slash"),
        ("https://example.org/app", "follow"),
        ("https://example.org?x", "follow"),
        ("https://u:p@example.org", "user name"),
        ("https://bücher.example", "xn--"),
        ("https://example.org.", "host"),
        ("https://example.org:0", "port"),
        ("https://example.org:99999", "port"),
        ("https://", "host"),
        ("1http://x", "scheme"),
        ("https://exa mple.org", "host"),
        ("https://*", "host"),
        ("https://*.", "host"),
        ("https://a.*.example.org", "host"),
        ("https://*.*.example.org", "host"),
        ("**.example.org", "https://"),
        ("https://*.127.0.0.1", "subdomains"),
        ("https://*.[::1]", "subdomains"),
        ("*", ""),
    ] {
        match OriginPattern::parse(text) {
            Err(fault) => assert!(fault.contains(part), "{text}: {fault}"),
            Ok(OriginPattern::Any) => assert_eq!(text, "*"),
            Ok(read) => panic!("{text} is read as {read:?}"),
        }
    }
}

// ---- over sockets

/// Sends an upgrade request with these header lines. Returns the connection and the response head.
fn open_websocket(server: &Server, lines: &str) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.write_all(&request_with(lines)).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    (socket, String::from_utf8(head).unwrap())
}

fn status(server: &Server, lines: &str) -> u16 {
    open_websocket(server, lines).1[9..12].parse().unwrap()
}

fn from(origin: &str) -> String {
    format!("Origin: {origin}\r\n")
}

const SITE: [&str; 2] = ["--buddyboss-url", "http://127.0.0.1:9"];

#[test]
fn wrong_origin_is_refused_before_upgrade_and_logged() {
    let server = Server::start(&["--allowed-origin", "https://app.example", "--log-level=debug"]);
    let (mut socket, head) = open_websocket(&server, &from("https://evil.example"));
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    let mut body = String::new();
    socket.read_to_string(&mut body).unwrap();
    assert!(body.contains("--allowed-origin") && !body.contains("evil"), "{body}");
    // A refusal has no effect on later attempts.
    assert_eq!(status(&server, &from("https://evil2.example")), 403);
    for good in [
        "",
        "Origin: https://app.example\r\n",
        // The `Host` of the request.
        "Origin: http://localhost:8080\r\n",
    ] {
        assert_eq!(status(&server, good), 101, "{good}");
    }
    let health = b"GET /healthz HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\n\r\n";
    assert!(server.ask(health).starts_with("HTTP/1.1 200 "));
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("evil2.example")));
    // The first refusal of each origin is a warning; the others are logged at level debug.
    assert_eq!(status(&server, &from("https://evil2.example")), 403);
    let levels = |lines: &[String]| -> Vec<bool> {
        let of_page = lines.iter().filter(|line| line.contains("//evil2.example"));
        of_page.map(|line| line.contains("WARN")).collect()
    };
    server.wait_for_log(|lines| levels(lines).len() == 2);
    assert_eq!(levels(&server.log()), [true, false]);
    assert!(server.log().iter().any(|l| l.contains("WARN") && l.contains("//evil.example")));
}

#[test]
fn verified_trust_allows_only_site_origins_by_default() {
    let server = Server::start(&SITE);
    assert_eq!(status(&server, &from("http://127.0.0.1:9")), 101);
    assert_eq!(status(&server, &from("https://evil.example")), 403);
    assert_eq!(status(&server, &from("null")), 403);
    let open = Server::start(&[&SITE[..], &["--trust", "open"]].concat());
    assert_eq!(status(&open, &from("https://evil.example")), 101);
    assert_eq!(status(&Server::start(&[]), &from("https://evil.example")), 101);
}

#[test]
fn origins_in_environment_are_comma_separated() {
    let mut command = binary();
    command.args(["--listen", "127.0.0.1:0"]);
    command.env("BUDDYLINE_ALLOWED_ORIGIN", "capacitor://localhost, *.example.org");
    let server = Server::launch(command, 1);
    assert_eq!(status(&server, &from("capacitor://localhost")), 101);
    assert_eq!(status(&server, &from("https://a.example.org")), 101);
    assert_eq!(status(&server, &from("https://example.org")), 403);
}

#[test]
fn logged_client_is_the_one_behind_the_trusted_proxy() {
    let forwarded = "X-Forwarded-For: 198.51.100.1, 203.0.113.9\r\n";
    for (arguments, client) in [
        (&["--log-level=debug"][..], "127.0.0.1"),
        (&["--log-level=debug", "--trusted-proxy=127.0.0.0/8"], "203.0.113.9"),
    ] {
        let server = Server::start(arguments);
        let (_open, head) = open_websocket(&server, forwarded);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let line = format!("open from {client}");
        server.wait_for_log(|lines| lines.iter().any(|found| found.ends_with(&line)));
    }
}

#[test]
fn handshake_token_is_neither_logged_nor_echoed() {
    let mut server = Server::start(&[&SITE[..], &["--log-level", "debug"]].concat());
    let unreadable = "Authorization: Bearer s3cr3t-4 s3cr3t-5\r\n";
    for lines in [
        "Authorization: Bearer s3cr3t-1\r\nSec-WebSocket-Protocol: s3cr3t-2, buddyline\r\n",
        "Sec-WebSocket-Protocol: buddyline, s3cr3t-2\r\n",
        unreadable,
        "",
        "Origin: https://evil.example\r\n",
    ] {
        let request = String::from_utf8(request_with(lines)).unwrap();
        let request = request.replace("/chat?x=1", "/chat?token=s3cr3t-3");
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).unwrap();
        // After the head come frames, which need not be UTF-8.
        let answer = String::from_utf8_lossy(&bytes);
        assert!(answer.starts_with("HTTP/1.1 ") && !answer.contains("s3cr3t"), "{answer}");
    }
    server.signal("TERM");
    server.exit(Duration::from_secs(3));
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("stopped")));
    let log = server.log();
    assert!(log.iter().any(|line| line.contains("open from")));
    for line in log {
        assert!(!line.contains("s3cr3t") && !line.contains("/chat"), "{line}");
    }
}

//! Responses to the first request of a connection: the upgrade, a page, or a refusal with a reason.

use buddyline::config::limits::HeadLimits;
use buddyline::config::origins::Origins;
use buddyline::config::proxies::TrustedProxies;
use buddyline::http::handshake::{Readiness, Rules};
use buddyline::wire::{Codec, Event};

use crate::support::bytes::*;

/// The events and the response after these first bytes, with or without the try-it page.
fn send_request(first: &[u8], try_page: bool) -> (Vec<Event<'static>>, String) {
    let mut codec = codec_of(LIMIT, try_page);
    let mut session = WireSession::default();
    session.feed(&mut codec, first);
    (session.take_events(), session.answer())
}

fn status(first: &[u8]) -> String {
    let (events, answer) = send_request(first, true);
    assert_eq!(events, [Event::Closing], "{answer}");
    let length = header_of(&answer, "content-length").expect("a Content-Length");
    assert_eq!(body(&answer).len(), length.parse::<usize>().unwrap(), "{answer}");
    assert_eq!(header_of(&answer, "connection").as_deref(), Some("close"));
    answer[..12].to_owned()
}

fn upgraded(request: &[u8]) -> String {
    let (events, answer) = send_request(request, false);
    assert!(matches!(events[..], [Event::Opened(_)]), "{answer}");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"));
    assert_eq!(header_of(&answer, "upgrade").as_deref(), Some("websocket"));
    assert_eq!(header_of(&answer, "connection").as_deref(), Some("Upgrade"));
    assert_eq!(header_of(&answer, "sec-websocket-accept").as_deref(), Some(ACCEPT));
    answer
}

/// The valid request with one text in it replaced.
fn changed(from: &str, to: &str) -> Vec<u8> {
    let good = String::from_utf8(request()).unwrap();
    assert!(good.contains(from), "{from}");
    good.replace(from, to).into_bytes()
}

#[test]
fn the_key_of_the_rfc_gets_the_answer_of_the_rfc() {
    let answer = upgraded(&request());
    assert_eq!(header_of(&answer, "sec-websocket-protocol"), None);
    assert_eq!(header_of(&answer, "sec-websocket-extensions"), None);
}

#[test]
fn any_path_and_any_query_is_upgraded() {
    let longest = format!("/{}?token=x", "p".repeat(4_000));
    for path in ["/", "/ws", "/healthz", "/a/b/c?token=secret&x=%20", "/?", &longest] {
        upgraded(&changed("/chat?x=1", path));
    }
}

#[test]
fn browser_and_proxy_header_variants_are_upgraded() {
    upgraded(&changed("Connection: Upgrade", "Connection: keep-alive, Upgrade"));
    upgraded(&changed("Connection: Upgrade", "connection:keep-alive\r\nCONNECTION:upgrade"));
    upgraded(&changed("Upgrade: websocket", "UPGRADE: WebSocket"));
    upgraded(&request_with("Sec-WebSocket-Extensions: permessage-deflate\r\n"));
    upgraded(&request_with("Origin: https://community.example\r\n"));
    upgraded(&request_with(&"X-More: 1\r\n".repeat(100 - 5)));
    let cookies = format!("Cookie: {}\r\n", "c".repeat(16_000));
    upgraded(&request_with(&cookies));
}

#[test]
fn subprotocol_token_is_not_echoed() {
    for offered in
        ["buddyline, s3cr3t-tok", "s3cr3t-tok,buddyline", "buddyline", "s3cr3t-tok, BuddyLine"]
    {
        let answer = upgraded(&request_with(&format!("Sec-WebSocket-Protocol: {offered}\r\n")));
        let chosen = header_of(&answer, "sec-websocket-protocol");
        assert_eq!(chosen.as_deref(), Some("buddyline"), "{offered}");
        assert!(!answer.contains("s3cr3t"), "{answer}");
    }
    let two_lines = "Sec-WebSocket-Protocol: buddyline\r\nSec-WebSocket-Protocol: s3cr3t-tok\r\n";
    assert!(!upgraded(&request_with(two_lines)).contains("s3cr3t"));
    // A subprotocol that the client has not offered may not be chosen (RFC 6455 section 4.2.2).
    let other = upgraded(&request_with("Sec-WebSocket-Protocol: chat, buddyline2\r\n"));
    assert_eq!(header_of(&other, "sec-websocket-protocol"), None);
}

#[test]
fn unsupported_websocket_version_gets_426_with_version_13() {
    for version in ["Sec-WebSocket-Version: 8", "Sec-WebSocket-Version: 14", "X-None: 1"] {
        let request = changed("Sec-WebSocket-Version: 13", version);
        assert_eq!(status(&request), "HTTP/1.1 426");
        let (_, answer) = send_request(&request, true);
        assert_eq!(header_of(&answer, "sec-websocket-version").as_deref(), Some("13"));
    }
}

#[test]
fn invalid_upgrade_request_is_refused() {
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    assert_eq!(status(&changed(&key, "")), "HTTP/1.1 400", "no key");
    assert_eq!(status(&changed(KEY, "c2hvcnQ=")), "HTTP/1.1 400", "a short key");
    assert_eq!(status(&changed(KEY, "")), "HTTP/1.1 400", "an empty key");
    assert_eq!(status(&changed("GET", "POST")), "HTTP/1.1 400", "POST");
    assert_eq!(status(&changed("HTTP/1.1", "HTTP/1.0")), "HTTP/1.1 400", "HTTP/1.0");
    assert_eq!(status(&changed("Connection: Upgrade", "Connection: keep-alive")), "HTTP/1.1 400");
    assert_eq!(status(&changed("Connection: Upgrade\r\n", "")), "HTTP/1.1 400");
}

#[test]
fn a_head_over_sixteen_kibibytes_is_refused_however_it_arrives() {
    let head = |bytes: usize| {
        let padding = bytes - request().len() - "X: \r\n".len();
        request_with(&format!("X: {}\r\n", "p".repeat(padding)))
    };
    let largest = head(16 * 1024);
    assert_eq!(largest.len(), 16 * 1024);
    let endless = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 100_000]].concat();
    let empty_lines = b"\r\n".repeat(10_000);
    for piece in [usize::MAX, 4_096, 1_000, 1] {
        let in_pieces = |bytes: &[u8]| {
            let mut codec = codec_of(LIMIT, true);
            let mut session = WireSession::default();
            for part in bytes.chunks(piece) {
                session.feed(&mut codec, part);
            }
            (session.take_events(), session.answer())
        };
        assert_eq!(in_pieces(&largest).0, [opened()], "in pieces of {piece}");
        for large in [&head(16 * 1024 + 1), &head(20_000), &endless, &empty_lines] {
            let (events, answer) = in_pieces(large);
            assert_eq!(events, [Event::Closing], "in pieces of {piece}");
            assert!(answer.starts_with("HTTP/1.1 431 "), "in pieces of {piece}: {answer}");
        }
    }
}

#[test]
fn bytes_after_the_head_do_not_count_toward_its_limit() {
    let line = format!("X-Long: {}\u{0}\r\n\r\n", "x".repeat(16_384));
    let head = changed("\r\n\r\n", &format!("\r\n{line}"));
    let mut in_pieces = WireSession::default();
    let mut codec = codec_of(LIMIT, true);
    head.chunks(1_000).for_each(|piece| in_pieces.feed(&mut codec, piece));
    assert_eq!(status(&head), "HTTP/1.1 431");
    assert!(in_pieces.answer().starts_with("HTTP/1.1 431"));
}

#[test]
fn more_header_lines_than_the_limit_are_refused() {
    assert_eq!(status(&request_with(&"X-More: 1\r\n".repeat(101 - 5))), "HTTP/1.1 431");
    assert_eq!(status(&request_with(&"a:b\r\n".repeat(1_000))), "HTTP/1.1 431");
    // Below, at and beyond the lines that need no allocation.
    for lines in [10, 128, 129, 1_000, 10_000] {
        let mut codec = Codec::new(
            LIMIT,
            Rules {
                readiness: Readiness::Ready,
                try_page: false,
                origins: Origins::any(),
                proxies: TrustedProxies::default(),
                head_limits: HeadLimits { bytes: 1 << 20, lines },
                site_events: false,
            },
        );
        for (more, expected) in [(lines - 5, "HTTP/1.1 101 "), (lines - 4, "HTTP/1.1 431 ")] {
            let mut session = WireSession::default();
            session.feed(&mut codec, &request_with(&"X-More: 1\r\n".repeat(more)));
            assert!(session.answer().starts_with(expected), "{lines} {}", session.answer());
        }
    }
}

#[test]
fn a_health_check_is_answered_with_ok() {
    for path in ["/healthz", "/healthz?from=monitor"] {
        let get = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(status(get.as_bytes()), "HTTP/1.1 200");
        let (_, answer) = send_request(get.as_bytes(), false);
        assert_eq!(body(&answer), "ok\n");
        assert_eq!(header_of(&answer, "cache-control").as_deref(), Some("no-store"));
    }
    let old = b"GET /healthz HTTP/1.0\r\n\r\n";
    assert_eq!(status(old), "HTTP/1.1 200", "some load balancers use HTTP/1.0");
    let (events, head) = send_request(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n", false);
    assert_eq!(events, [Event::Closing]);
    assert!(head.starts_with("HTTP/1.1 200 ") && body(&head).is_empty(), "{head}");
    assert_eq!(
        header_of(&head, "content-length").as_deref(),
        Some("3"),
        "the length of the response to GET"
    );
}

#[test]
fn try_page_is_served_when_enabled() {
    let get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(status(get), "HTTP/1.1 200");
    let (_, page) = send_request(get, true);
    assert!(header_of(&page, "content-type").unwrap().starts_with("text/html"));
    let policy = header_of(&page, "content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert!(body(&page).contains("WebSocket"));
    let (_, none) = send_request(get, false);
    assert!(none.starts_with("HTTP/1.1 404 "), "{none}");
}

#[test]
fn other_http_requests_get_an_explanation() {
    assert_eq!(status(b"GET /favicon.ico HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 404");
    assert_eq!(status(b"GET /healthz/x HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 404");
}

#[test]
fn options_is_answered_and_other_methods_get_405_with_allow() {
    for (line, expected) in [
        // HAProxy's default health check, and its variants.
        ("OPTIONS / HTTP/1.0", "200"),
        ("OPTIONS * HTTP/1.1", "200"),
        ("OPTIONS /live HTTP/1.1", "200"),
        ("OPTIONS /healthz HTTP/1.0", "200"),
        ("OPTIONS /healthz?x HTTP/1.1", "200"),
        ("OPTIONS /readyz HTTP/1.1", "200"),
        ("POST / HTTP/1.1", "405"),
        ("PUT /live HTTP/1.1", "405"),
        ("DELETE /healthz HTTP/1.1", "405"),
        ("PATCH /readyz HTTP/1.1", "405"),
        ("TRACE / HTTP/1.0", "405"),
        ("CONNECT live.example:443 HTTP/1.1", "405"),
        ("PROPFIND / HTTP/1.1", "501"),
        ("options / HTTP/1.1", "501"),
    ] {
        let request = format!("{line}\r\nHost: x\r\n\r\n");
        assert_eq!(status(request.as_bytes()), format!("HTTP/1.1 {expected}"), "{line}");
        let (_, answer) = send_request(request.as_bytes(), false);
        let allowed = header_of(&answer, "allow");
        assert_eq!(allowed.as_deref(), Some("GET, HEAD, OPTIONS"), "{line}");
    }
}

#[test]
fn non_http_input_is_refused() {
    // The first bytes of a TLS ClientHello, of SSH, of HTTP/2, and noise.
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x5b\x00\x9c";
    assert_eq!(status(hello), "HTTP/1.1 400");
    assert_eq!(status(b"SSH-2.0-OpenSSH_9.2\r\n"), "HTTP/1.1 400");
    assert_eq!(status(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "HTTP/1.1 505");
    assert_eq!(status(b"\x00\x01\x02"), "HTTP/1.1 400");
    assert_eq!(status(b"GET / HTTP/1.1\r\nno colon here\r\n\r\n"), "HTTP/1.1 400");
    assert_eq!(status(b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n"), "HTTP/1.1 400");
}

#[test]
fn input_after_a_refusal_is_ignored() {
    let mut codec = codec_of(LIMIT, true);
    let mut session = WireSession::default();
    session.feed(&mut codec, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let written = session.output.len();
    session.feed(&mut codec, &[request(), text("hello")].concat());
    assert_eq!(session.events, [Event::Closing]);
    assert_eq!(session.output.len(), written, "a second response on one connection");
}

#[test]
fn readiness_is_shown_to_health_checks_and_new_clients() {
    let all = [Readiness::Ready, Readiness::SiteUnavailable, Readiness::Draining];
    let mut codec = codec_of(LIMIT, true);
    for (readiness, status, page, upgrade) in [
        (all[0], "HTTP/1.1 200 ", "ready\n", "HTTP/1.1 101 "),
        (all[1], "HTTP/1.1 503 ", "the site is unavailable\n", "HTTP/1.1 101 "),
        (all[2], "HTTP/1.1 503 ", "draining\n", "HTTP/1.1 503 "),
        (all[0], "HTTP/1.1 200 ", "ready\n", "HTTP/1.1 101 "),
    ] {
        codec.set_readiness(readiness);
        let mut answer_to = |request: &[u8]| {
            let mut session = WireSession::default();
            session.feed(&mut codec, request);
            session.answer()
        };
        let answer = answer_to(b"GET /readyz?x HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with(status) && body(&answer) == page, "{answer}");
        assert_eq!(header_of(&answer, "cache-control").as_deref(), Some("no-store"));
        let head = answer_to(b"HEAD /readyz HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(head.starts_with(status) && body(&head).is_empty(), "{head}");
        let health = answer_to(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(health.starts_with("HTTP/1.1 200 ") && body(&health) == "ok\n", "{health}");
        assert_eq!(header_of(&health, "cache-control").as_deref(), Some("no-store"));
        let options = answer_to(b"OPTIONS /readyz HTTP/1.0\r\n\r\n");
        assert!(options.starts_with(status) && body(&options) == page, "{options}");
        // Whether new connections are welcome.
        for target in ["/", "*"] {
            let options = answer_to(format!("OPTIONS {target} HTTP/1.0\r\n\r\n").as_bytes());
            let draining = readiness == Readiness::Draining;
            let expected = if draining { "HTTP/1.1 503 " } else { "HTTP/1.1 200 " };
            assert!(options.starts_with(expected), "{target}: {options}");
        }
        let answer = answer_to(&request());
        assert!(answer.starts_with(upgrade), "{answer}");
        if readiness == Readiness::Draining {
            assert_eq!(header_of(&answer, "retry-after").as_deref(), Some("5"));
        }
    }
    let posted =
        send_request(b"POST /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", true).1;
    assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
}

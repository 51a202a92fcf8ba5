//! How the handshake determines a client: its credential, its origin and its address.

use buddyline::config::limits::HeadLimits;
use buddyline::config::origins::{OriginPattern, Origins};
use buddyline::config::proxies::{self, TrustedProxies};
use buddyline::http::handshake::{self, Handshake, Opened, Readiness, Rules};
use buddyline::protocol::ErrorCode;
use buddyline::protocol::credential::Scheme;
use buddyline::wire::{Codec, Event, Wire};

use crate::support::bytes::*;

fn rules(origins: Origins, networks: &[&str]) -> Rules {
    let networks: Vec<_> = networks.iter().map(|text| proxies::parse(text).unwrap()).collect();
    let proxies = TrustedProxies::new(&networks);
    let readiness = Readiness::Ready;
    Rules {
        readiness,
        try_page: true,
        origins,
        proxies,
        head_limits: HeadLimits::default(),
        site_events: false,
    }
}

fn respond(rules: Rules, request: &[u8]) -> (Vec<Event<'static>>, String) {
    let mut codec = Codec::new(LIMIT, rules);
    let mut session = WireSession::default();
    session.feed(&mut codec, request);
    (session.take_events(), session.answer())
}

// ---- the credential

/// `alice:open+sesame?`, whose base64 has a plus sign.
const PAIR: &str = "YWxpY2U6b3Blbj4+c2VzYW1lPw==";

/// The client of a request with this path and these header lines, which must be upgraded.
fn client_of(path: &str, lines: &str) -> Opened {
    let request = String::from_utf8(request_with(lines)).unwrap().replace("/chat?x=1", path);
    client_of_bytes(request.as_bytes())
}

fn client_of_bytes(request: &[u8]) -> Opened {
    let (events, answer) = respond(rules(Origins::any(), &[]), request);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    match <[Event; 1]>::try_from(events) {
        Ok([Event::Opened(opened)]) => opened,
        other => panic!("not opened: {other:?}"),
    }
}

/// The credential in a request, as scheme and secret; or `nothing`, or `unreadable`.
fn credential_in(path: &str, lines: &str) -> String {
    match client_of(path, lines).credential {
        None => "nothing".to_owned(),
        Some(Ok(credential)) => {
            let scheme = match credential.scheme() {
                Scheme::Bearer => "bearer",
                Scheme::Basic => "basic",
            };
            format!("{scheme} {}", credential.secret())
        }
        Some(Err(fault)) => {
            assert_eq!(fault.code, ErrorCode::InvalidField);
            "unreadable".to_owned()
        }
    }
}

#[test]
fn credential_is_read_from_each_supported_place() {
    let basic = format!("basic {PAIR}");
    let url_safe = PAIR.replace('+', "-").replace('/', "_").replace('=', "");
    let protocol = |list: &str| format!("Sec-WebSocket-Protocol: {list}\r\n");
    for (path, lines, expected) in [
        ("/", String::new(), "nothing"),
        // The header.
        ("/", "Authorization: Bearer abc.def\r\n".to_owned(), "bearer abc.def"),
        ("/", "authorization:bearer   abc.def  \r\n".to_owned(), "bearer abc.def"),
        ("/", format!("Authorization: Basic {PAIR}\r\n"), &basic),
        ("/", "Authorization: Bearer\r\n".to_owned(), "nothing"),
        ("/", "Authorization: Digest a=b\r\n".to_owned(), "nothing"),
        ("/", "Authorization: Bearer a b\r\n".to_owned(), "unreadable"),
        ("/", "Authorization: Basic ***\r\n".to_owned(), "unreadable"),
        ("/", "Authorization: Digest a\r\nAuthorization: Bearer b\r\n".to_owned(), "bearer b"),
        // The subprotocols.
        ("/", protocol("buddyline, abc"), "bearer abc"),
        ("/", protocol("abc,buddyline"), "bearer abc"),
        ("/", protocol("BuddyLine ,, abc"), "bearer abc"),
        ("/", protocol("buddyline") + &protocol("abc"), "bearer abc"),
        ("/", protocol("abc") + &protocol("buddyline"), "bearer abc"),
        ("/", protocol(&format!("buddyline, basic.{url_safe}")), &basic),
        ("/", protocol("buddyline"), "nothing"),
        ("/", protocol("buddyline, , buddyline"), "nothing"),
        ("/", protocol("abc"), "nothing"),
        ("/", protocol("abc, buddyline2"), "nothing"),
        ("/", protocol("buddyline, a b"), "unreadable"),
        ("/", protocol("buddyline, basic.!"), "unreadable"),
        // The query.
        ("/?token=abc", String::new(), "bearer abc"),
        ("/live?x=1&token=abc&y=2", String::new(), "bearer abc"),
        ("/?token=a=b", String::new(), "bearer a=b"),
        ("/?token=a?b", String::new(), "bearer a?b"),
        ("/?token=&token=abc", String::new(), "bearer abc"),
        ("/?token=abc&token=def", String::new(), "bearer abc"),
        ("/?token=", String::new(), "nothing"),
        ("/?token", String::new(), "nothing"),
        ("/?Token=abc&xtoken=abc&token.x=abc", String::new(), "nothing"),
        ("/token=abc", String::new(), "nothing"),
    ] {
        assert_eq!(credential_in(path, &lines), expected, "{path} {lines:?}");
    }
}

#[test]
fn a_token_in_the_query_is_decoded() {
    let basic = format!("basic {PAIR}");
    let escaped = PAIR.replace('+', "%2B").replace('=', "%3d");
    for (value, expected) in [
        ("a%2Eb%2ec".to_owned(), "bearer a.b.c"),
        // A plus sign is not a space: many clients do not escape it in base64.
        ("a+b".to_owned(), "bearer a+b"),
        ("a%2Bb".to_owned(), "bearer a+b"),
        // Except after the scheme: no credential begins with `Basic+`.
        (format!("Basic+{PAIR}"), &basic),
        (format!("basic+{escaped}"), &basic),
        (format!("Basic%20{PAIR}"), &basic),
        (format!("%42asic%20{escaped}"), &basic),
        (format!("Basic%20%20{PAIR}"), &basic),
        ("Basic+".to_owned(), "unreadable"),
        ("Basic%20".to_owned(), "unreadable"),
        // A percent sign without two hex digits stays as it is (the URL standard, 1.3).
        ("100%".to_owned(), "bearer 100%"),
        ("%zz%2".to_owned(), "bearer %zz%2"),
        ("%252E".to_owned(), "bearer %2E"),
        ("a%20b".to_owned(), "unreadable"),
        ("a%0D%0AX-Evil:1".to_owned(), "unreadable"),
        ("%00".to_owned(), "unreadable"),
        ("%ff%fe".to_owned(), "unreadable"),
        ("%C3%BC".to_owned(), "unreadable"),
        ("x".repeat(4_097), "unreadable"),
        ("%78".repeat(2_000), &format!("bearer {}", "x".repeat(2_000))),
    ] {
        assert_eq!(credential_in(&format!("/?token={value}"), ""), expected, "{value}");
    }
}

#[test]
fn credential_precedence_is_header_first_and_query_last() {
    let header = "Authorization: Bearer one\r\n";
    let protocol = "Sec-WebSocket-Protocol: buddyline, two\r\n";
    let query = "/?token=three";
    assert_eq!(credential_in(query, &format!("{protocol}{header}")), "bearer one");
    assert_eq!(credential_in(query, header), "bearer one");
    assert_eq!(credential_in(query, protocol), "bearer two");
    assert_eq!(credential_in(query, "Sec-WebSocket-Protocol: two\r\n"), "bearer three");
    // The password that a proxy in front has asked for hides no token.
    for basic in [format!("Authorization: Basic {PAIR}\r\n"), "Authorization: Basic *\r\n".into()] {
        assert_eq!(credential_in(query, &format!("{basic}{protocol}")), "bearer two");
        assert_eq!(credential_in("/", &format!("{basic}{protocol}")), "bearer two");
        assert_eq!(credential_in(query, &basic), "bearer three");
        assert_eq!(credential_in("/", &format!("{basic}{header}")), "bearer one");
        assert_eq!(credential_in("/", &format!("{header}{basic}")), "bearer one");
        let unreadable = "Sec-WebSocket-Protocol: buddyline, a b\r\n";
        assert_eq!(credential_in("/", &format!("{basic}{unreadable}")), "unreadable");
        let both = format!("{basic}Authorization: Bearer a b\r\n{protocol}");
        assert_eq!(credential_in("/", &both), "unreadable");
    }
    // An empty credential counts as none; an unreadable one is an error, not skipped.
    let nothing = "Authorization: Bearer \r\nSec-WebSocket-Protocol: buddyline,\r\n";
    assert_eq!(credential_in(query, nothing), "bearer three");
    assert_eq!(credential_in(query, "Authorization: Bearer a b\r\n"), "unreadable");
    assert_eq!(credential_in(query, "Sec-WebSocket-Protocol: buddyline, a b\r\n"), "unreadable");
}

#[test]
fn non_utf8_bytes_are_not_a_token() {
    for line in
        [&b"Authorization: Bearer \xff\r\n"[..], b"Sec-WebSocket-Protocol: buddyline, \xff\r\n"]
    {
        let good = request();
        let request = [&good[..good.len() - 2], line, b"\r\n"].concat();
        assert!(matches!(client_of_bytes(&request).credential, Some(Err(_))));
    }
}

#[test]
fn debug_output_of_request_omits_secrets() {
    let request = String::from_utf8(request_with(
        "Authorization: Bearer s3cr3t-1\r\nSec-WebSocket-Protocol: buddyline, s3cr3t-2\r\n",
    ));
    let request = request.unwrap().replace("/chat?x=1", "/?token=s3cr3t-3");
    let unreadable = request.replace("s3cr3t-1", "s3cr3t-1 s3cr3t-4");
    for request in [request, unreadable] {
        let mut codec = codec_of(LIMIT, false);
        let mut session = WireSession::default();
        let (begin, rest) = request.as_bytes().split_at(request.len() - 3);
        session.feed(&mut codec, begin);
        let half = format!("{:?}", session.wire);
        // Too short to contain the request, as text or as numbers.
        assert!(half.len() < 100, "{half}");
        session.feed(&mut codec, rest);
        let rules = rules(Origins::any(), &[]);
        let handshake = handshake::receive(request.as_bytes(), PEER, &rules);
        assert!(matches!(handshake, Handshake::Upgrade { .. }));
        let printed = format!("{:?} {:?} {codec:?} {handshake:?}", session.events, session.wire);
        assert!(printed.contains("credential: Some("), "{printed}");
        assert!(!printed.contains("s3cr3t"), "{printed}");
    }
}

// ---- the origin

/// Sends a request with these header lines to a server that allows two origins. Returns the refused
/// origin as it is logged, or `None` if the request is accepted.
fn refused_origin(lines: &str) -> Option<String> {
    refused_origin_of_bytes(&request_with(lines))
}

fn refused_origin_of_bytes(request: &[u8]) -> Option<String> {
    let patterns = ["https://app.example", "*.example.org"];
    let patterns = patterns.map(|text| OriginPattern::parse(text).unwrap());
    let (events, answer) = respond(rules(Origins::only(&patterns, None), &[]), request);
    match &events[..] {
        [Event::Opened(_)] => None,
        [Event::OriginRefused { origin }] => {
            assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
            assert_eq!(header_of(&answer, "connection").as_deref(), Some("close"));
            assert!(header_of(&answer, "content-type").unwrap().starts_with("text/plain"));
            assert!(body(&answer).contains("--allowed-origin"), "{answer}");
            assert!(!answer.contains("evil"), "{answer}");
            Some(origin.clone())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn disallowed_origin_is_refused_before_the_upgrade() {
    for lines in [
        "",
        "Origin: https://app.example\r\n",
        "origin:  https://APP.example:443  \r\n",
        "Origin: https://a.b.example.org\r\n",
        // The server's own address, which the request has as its `Host`.
        "Origin: http://localhost:8080\r\n",
    ] {
        assert_eq!(refused_origin(lines), None, "{lines}");
    }
    for origin in ["https://evil.example", "null", "https://example.org", "http://localhost", ""] {
        assert_eq!(refused_origin(&format!("Origin: {origin}\r\n")).as_deref(), Some(origin));
    }
    let twice = "Origin: https://app.example\r\nOrigin: https://app.example\r\n";
    assert_eq!(refused_origin(twice).unwrap(), "https://app.example and https://app.example");
}

/// Sends a handshake with this `Host` and these header lines from the proxy at 192.0.2.7, behind
/// which 10.0.0.0/8 are proxies as well, to a server that allows no page. Returns whether it opens.
fn opens_for(networks: &[&str], target: &str, host: &str, lines: &str) -> bool {
    let request = String::from_utf8(request_with(lines)).unwrap();
    let request = request.replace("localhost:8080", host).replace("/chat?x=1", target);
    let (events, answer) = respond(rules(Origins::only(&[], None), networks), request.as_bytes());
    match &events[..] {
        [Event::Opened(_)] => true,
        [Event::OriginRefused { .. }] => false,
        other => panic!("{other:?}: {answer}"),
    }
}

#[test]
fn app_origin_may_be_the_host_that_a_trusted_proxy_forwards() {
    let (none, one, chain) = (&[][..], &["192.0.2.0/24"][..], &["192.0.2.0/24", "10.0.0.0/8"][..]);
    // React Native, with a proxy that names its backend in `Host`.
    let app = "Origin: https://live.example\r\n";
    let with = |more: &str| format!("{app}{more}\r\n");
    let backend = "127.0.0.1:8080";
    for (networks, lines, opens) in [
        (one, app.to_owned(), false),
        (one, with("X-Forwarded-Host: live.example"), true),
        (one, with("x-forwarded-host:  LIVE.example:443 "), true),
        (one, with("X-Forwarded-Host: live.example:8443"), false),
        (one, with("X-Forwarded-Host: example"), false),
        (one, with("X-Forwarded-Host: https://live.example"), false),
        (one, with("X-Forwarded-Host: "), false),
        (one, with("X-Forwarded-Server: live.example"), false),
        // Only a trusted proxy is believed.
        (none, with("X-Forwarded-Host: live.example"), false),
        (&["10.0.0.0/8"], with("X-Forwarded-Host: live.example"), false),
        // Each proxy appends one entry: the client's own is left of them.
        (one, with("X-Forwarded-Host: live.example, other.example"), false),
        (one, with("X-Forwarded-Host: live.example\r\nX-Forwarded-Host: other.example"), false),
        (one, with("X-Forwarded-Host: other.example, live.example"), true),
        (
            chain,
            with(
                "X-Forwarded-For: 203.0.113.9, 10.0.0.1\r\n\
                  X-Forwarded-Host: live.example, inner.example",
            ),
            true,
        ),
        (
            chain,
            with(
                "X-Forwarded-For: 203.0.113.9, 10.0.0.1\r\n\
                  X-Forwarded-Host: live.example, inner.example, inner.example",
            ),
            false,
        ),
        (
            chain,
            with(
                "X-Forwarded-For: 10.0.0.1, 203.0.113.9\r\n\
                  X-Forwarded-Host: live.example, inner.example",
            ),
            false,
        ),
        // An opaque origin and two origins match no host.
        (one, "Origin: null\r\nX-Forwarded-Host: null\r\n".to_owned(), false),
        (one, format!("{app}{app}X-Forwarded-Host: live.example\r\n"), false),
    ] {
        assert_eq!(opens_for(networks, "/", backend, &lines), opens, "{networks:?} {lines}");
    }
    // `Host` itself, unless the target is in absolute form (RFC 9112 section 3.2.2).
    assert!(opens_for(none, "/", "live.example", app));
    assert!(opens_for(none, "https://live.example/live", backend, app));
    assert!(!opens_for(none, "https://other.example/live", "live.example", app));
}

#[test]
fn bearer_header_of_an_app_needs_no_allowed_origin() {
    let evil = "Origin: https://evil.example\r\n";
    let opens = |more: &str| opens_for(&[], "/", "live.example", &format!("{evil}{more}"));
    assert!(opens("Authorization: Bearer a.b.c\r\n"));
    assert!(opens("authorization: bearer a.b.c\r\nOrigin: null\r\n"));
    for more in [
        "",
        // A browser remembers Basic credentials, and sends them with the handshakes of any page.
        "Authorization: Basic YWxpY2U6c2VjcmV0\r\n",
        "Authorization: Digest username=\"alice\"\r\n",
        "Authorization: Negotiate YWxpY2U6c2VjcmV0\r\n",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer a b\r\n",
        "Authorization: a.b.c\r\n",
        "Authorization: Basic YWxpY2U6c2VjcmV0\r\nAuthorization: Bearer a.b.c\r\n",
        "Authorization: Bearer a.b.c\r\nAuthorization: Bearer a.b.c\r\n",
        "Proxy-Authorization: Bearer a.b.c\r\n",
        // The places that a page can choose.
        "Sec-WebSocket-Protocol: buddyline, a.b.c\r\n",
        "Cookie: Authorization=Bearer a.b.c\r\n",
        // A browser's request, to which a proxy has added the header.
        "Authorization: Bearer a.b.c\r\nSec-Fetch-Site: cross-site\r\n",
        "Authorization: Bearer a.b.c\r\nSec-Fetch-Mode: websocket\r\n",
        "Authorization: Bearer a.b.c\r\nsec-fetch-dest: empty\r\n",
    ] {
        assert!(!opens(more), "{more}");
    }
    assert!(!opens_for(&[], "/?token=a.b.c", "live.example", evil));
}

#[test]
fn call_status_for_an_app_is_not_readable_by_its_origin() {
    let ask = |method: &str, more: &str| {
        let request = format!(
            "{method} /calls/7 HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\n{more}\r\n"
        );
        let rules = rules(Origins::only(&[], None), &[]);
        handshake::receive(request.as_bytes(), PEER, &rules)
    };
    let bearer = "Authorization: Bearer a.b.c\r\n";
    let Handshake::CallStatusRequest { format, .. } = ask("GET", bearer) else {
        panic!("refused");
    };
    let format = format!("{format:?}");
    assert!(format.contains("origin: None") && !format.contains("evil"), "{format}");
    let browser = format!("{bearer}Sec-Fetch-Mode: cors\r\n");
    // A preflight request has no credentials; without it no page can send them.
    let preflight = "Access-Control-Request-Headers: authorization\r\n";
    for (method, more) in [("GET", ""), ("GET", &*browser), ("OPTIONS", preflight)] {
        let answer = ask(method, more);
        assert!(matches!(answer, Handshake::RefuseOrigin { .. }), "{method} {more}: {answer:?}");
    }
}

#[test]
fn logged_origin_is_sanitized() {
    let evil = refused_origin("Origin: https://evil\" \\'`<b>\tx\r\n").unwrap();
    assert_eq!(evil, "https://evil? ???<b>?x");
    let long = refused_origin(&format!("Origin: https://evil.{}\r\n", "x".repeat(1_000))).unwrap();
    assert_eq!(long.len(), 100);
    let many = "Origin: https://evil.example/with-some-more-of-it\r\n".repeat(5);
    assert_eq!(refused_origin(&many).unwrap().len(), 100);
    let good = request();
    let bytes = [&good[..good.len() - 2], b"Origin: \xff\xc3\xbc\x1b\r\n\r\n"].concat();
    // An escape character makes the whole header invalid.
    assert!(respond(rules(Origins::any(), &[]), &bytes).1.starts_with("HTTP/1.1 400 "));
    let bytes = [&good[..good.len() - 2], b"Origin: \xff\xc3\xbc\r\n\r\n"].concat();
    assert_eq!(refused_origin_of_bytes(&bytes).unwrap(), "???");
}

#[test]
fn origin_is_checked_for_websocket_requests_only() {
    let none = || rules(Origins::only(&[], None), &[]);
    let evil = "Host: x\r\nOrigin: https://evil.example\r\n\r\n";
    for path in ["/healthz", "/"] {
        let (events, answer) = respond(none(), format!("GET {path} HTTP/1.1\r\n{evil}").as_bytes());
        assert_eq!(events, [Event::Closing]);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    // With `Origins::any` even two origins, one of them malformed, are accepted.
    let twice = "Origin: https://evil.example\r\nOrigin: nonsense\r\n";
    client_of("/", twice);
}

// ---- the client address

#[test]
fn client_address_is_taken_from_trusted_proxies() {
    let client = |networks: &[&str], lines: &str| match respond(
        rules(Origins::any(), networks),
        &request_with(lines),
    )
    .0
    .remove(0)
    {
        Event::Opened(opened) => opened.client.to_string(),
        other => panic!("{other:?}"),
    };
    let forwarded = "X-Forwarded-For: 203.0.113.9\r\n";
    let peer = PEER.to_string();
    assert_eq!(client(&[], ""), peer);
    assert_eq!(client(&[], forwarded), peer, "no proxy is trusted");
    assert_eq!(client(&["10.0.0.0/8"], forwarded), peer, "the peer is not a trusted proxy");
    let trusted = ["192.0.2.0/24", "10.0.0.1"];
    assert_eq!(client(&trusted, ""), peer);
    assert_eq!(client(&trusted, forwarded), "203.0.113.9");
    assert_eq!(client(&trusted, "x-forwarded-for: [2001:db8::9]:80\r\n"), "2001:db8::9");
    // Several header lines form one list.
    let lines = "X-Forwarded-For: 198.51.100.1, 203.0.113.9\r\nX-Real-IP: 198.51.100.2\r\n\
                 X-Forwarded-For: 10.0.0.1\r\nForwarded: for=198.51.100.3\r\n";
    assert_eq!(client(&trusted, lines), "203.0.113.9");
}

#[test]
fn wire_struct_stays_small() {
    // Each idle connection has one.
    assert!(size_of::<Wire>() <= 48, "{} bytes", size_of::<Wire>());
}

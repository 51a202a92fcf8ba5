//! Fuzz target: parses any bytes as a request head, under different rules.
//!
//! The first byte of a case selects the rules; the second selects the peer address and the size of
//! the pieces in which the rest, the head, is read.

use std::collections::BTreeSet;
use std::net::IpAddr;

use buddyline::config::limits::HeadLimits;
use buddyline::config::origins::{OriginPattern, Origins};
use buddyline::config::proxies::{self, TrustedProxies};
use buddyline::config::site_url::SiteUrl;
use buddyline::http::handshake::{Handshake, Opened, Readiness, Rules, receive};
use buddyline::http::site_events::{BODY_BYTES_MAX, TEST_TOKEN_BYTES_MAX};
use buddyline::wire::outbox::Outbox;
use buddyline::wire::{Codec, Event, Wire};

/// Checks that nothing panics, that each response is complete and valid HTTP with known headers only,
/// that a refused origin is safe to log on one line, that only trusted proxies can change the client
/// address, and that the size of the pieces changes nothing.
pub fn run(data: &[u8]) {
    let [rules_byte, peer_byte, head @ ..] = data else { return };
    let rules = rules(*rules_byte);
    let peers = ["127.0.0.1", "10.1.2.3", "203.0.113.9", "::1"];
    let peer = peers[usize::from(peer_byte & 3)].parse().expect("an address");

    match receive(head, peer, &rules) {
        Handshake::Incomplete => assert!(head.len() < rules.head_limits.bytes),
        Handshake::Upgrade { response, head_bytes, opened } => {
            assert!(head_bytes <= head.len().min(rules.head_limits.bytes));
            assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
            assert_ne!(rules.readiness, Readiness::Draining, "no new connections");
            let lines: Vec<_> = head[..head_bytes].split(|byte| *byte == b'\n').collect();
            let named = |name: &[u8]| {
                let starts = lines.iter().filter_map(|line| line.get(..name.len()));
                starts.filter(|start| start.eq_ignore_ascii_case(name)).count()
            };
            assert_eq!(named(b"host:"), 1, "RFC 9112 section 3.2");
            assert_eq!(named(b"transfer-encoding:"), 0, "a handshake has no body");
            check_answer(&response, head);
            check_opened(&opened, peer, &rules);
        }
        Handshake::CallStatusRequest { status_request, .. } => {
            assert_ne!(rules.readiness, Readiness::Draining, "no new status requests");
            check_opened(
                &Opened { client: status_request.client, credential: status_request.credential },
                peer,
                &rules,
            );
        }
        Handshake::Events { head_bytes, events } => {
            assert!(rules.site_events && rules.readiness != Readiness::Draining);
            assert!(head_bytes <= head.len().min(rules.head_limits.bytes));
            assert!((1..=BODY_BYTES_MAX).contains(&events.body_bytes));
        }
        Handshake::TestArrival { token } => {
            assert!(rules.site_events && (1..=TEST_TOKEN_BYTES_MAX).contains(&token.len()));
        }
        Handshake::RefuseSite { response, .. } => {
            assert!(rules.site_events);
            assert!([" 4", " 503"].iter().any(|status| response[8..].starts_with(status)));
            check_answer(&response, head);
        }
        Handshake::Respond { response } => {
            assert!(!response.starts_with("HTTP/1.1 1"), "{response}");
            check_answer(&response, head);
        }
        Handshake::RefuseOrigin { response, origin } => {
            assert!(response.starts_with("HTTP/1.1 403 "), "{response}");
            check_answer(&response, head);
            let is_loggable = |c: char| matches!(c, ' '..='~') && !"\"'`\\".contains(c);
            assert!(origin.len() <= 100 && origin.chars().all(is_loggable), "{origin:?}");
        }
    }

    let mut codec = Codec::new(1_000, rules);
    let whole = feed(&mut codec, peer, head, head.len());
    let cut = feed(&mut codec, peer, head, 1 + usize::from(peer_byte >> 2) * 7);
    assert_eq!(whole, cut, "reading in pieces changes the outcome");
}

fn rules(which: u8) -> Rules {
    let patterns =
        ["https://app.example.org:8443", "*.example.net", "null", "capacitor://localhost"]
            .map(|text| OriginPattern::parse(text).expect("a pattern"));
    let site = SiteUrl::parse("https://community.example").expect("an address");
    let origins = match which >> 1 & 3 {
        0 | 1 => Origins::any(),
        2 => Origins::only(&patterns, None),
        _ => Origins::only(&[], Some(&site)),
    };
    let networks = ["127.0.0.1", "10.0.0.0/8"].map(|text| proxies::parse(text).expect("a network"));
    let proxies = match which >> 3 & 1 {
        0 => TrustedProxies::default(),
        _ => TrustedProxies::new(&networks),
    };
    let readiness = match which >> 4 & 3 {
        0 | 1 => Readiness::Ready,
        2 => Readiness::SiteUnavailable,
        _ => Readiness::Draining,
    };
    let head_limits = match which >> 6 {
        0 | 1 => HeadLimits::default(),
        2 => HeadLimits { bytes: 300, lines: 10 },
        _ => HeadLimits { bytes: usize::MAX, lines: 10_000 },
    };
    Rules {
        readiness,
        try_page: which & 1 == 1,
        origins,
        proxies,
        head_limits,
        site_events: which & 2 == 2,
    }
}

/// Checks a response against RFC 9112 sections 4 to 6.
fn check_answer(response: &str, request: &[u8]) {
    let (head, body) = response.split_once("\r\n\r\n").expect("a head ends");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status");
    let (code, words) = status.split_once(' ').expect("a status has words");
    assert!(code.len() == 3 && code.parse::<u16>().is_ok() && !words.is_empty(), "{status}");
    let mut names = BTreeSet::new();
    let mut length = None;
    for line in lines {
        let (name, value) = line.split_once(": ").expect("a header has a name");
        // The server chooses all values, except for the origin that may read the response.
        let known = [
            "Connection",
            "Upgrade",
            "Sec-WebSocket-Accept",
            "Sec-WebSocket-Protocol",
            "Sec-WebSocket-Version",
            "Content-Type",
            "Content-Length",
            "Content-Security-Policy",
            "X-Content-Type-Options",
            "Referrer-Policy",
            "Cache-Control",
            "Retry-After",
            "WWW-Authenticate",
            "Vary",
            "Allow",
            "Access-Control-Allow-Origin",
            "Access-Control-Allow-Methods",
            "Access-Control-Allow-Headers",
            "Access-Control-Max-Age",
        ];
        assert!(known.contains(&name), "{line}");
        assert!(names.insert(name), "header {name} is repeated");
        assert!(value.bytes().all(|b| matches!(b, b' '..=b'~')) && value.trim() == value, "{line}");
        match name {
            "Content-Length" => length = value.parse::<usize>().ok(),
            "Sec-WebSocket-Accept" => assert_eq!(value.len(), 28, "{line}"),
            "Sec-WebSocket-Protocol" => assert_eq!(value, "buddyline"),
            "Connection" => assert_eq!(value, if code == "101" { "Upgrade" } else { "close" }),
            _ => {}
        }
    }
    if code == "101" {
        let needed = ["Connection", "Upgrade", "Sec-WebSocket-Accept"];
        assert!(needed.iter().all(|name| names.contains(name)), "{head}");
        assert!(length.is_none() && body.is_empty());
    } else {
        assert!(names.contains("Connection"), "{head}");
        let start = request.iter().position(|b| !b"\r\n".contains(b)).unwrap_or(0);
        let is_head_request = request[start..].starts_with(b"HEAD ") && body.is_empty();
        assert!(length == Some(body.len()) || is_head_request, "{head}");
    }
}

fn check_opened(opened: &Opened, peer: IpAddr, rules: &Rules) {
    assert!(opened.client == peer.into() || rules.proxies.is_trusted(peer), "{opened:?}");
    match &opened.credential {
        None => {}
        Some(Ok(credential)) => {
            let secret = credential.secret();
            assert!(!secret.is_empty() && secret.bytes().all(|b| b.is_ascii_graphic()));
        }
        Some(Err(fault)) => assert!(fault.text.len() < 200, "{}", fault.text),
    }
}

/// Feeds a head in pieces of this size. Returns the event and the response.
fn feed(
    codec: &mut Codec,
    peer: IpAddr,
    head: &[u8],
    piece: usize,
) -> (Option<Event<'static>>, Vec<u8>) {
    let mut wire = Wire::new(peer);
    let mut outbox = Outbox::default();
    for part in head.chunks(piece.max(1)) {
        let mut read = part.to_vec();
        let mut input = &mut *read;
        let event = wire.next(codec, &mut input, &mut outbox).into_owned();
        if event != Event::NeedsInput {
            let answer = outbox.only().map(<[u8]>::to_vec).unwrap_or_default();
            return (Some(event), answer);
        }
        assert!(input.is_empty() && wire.is_in_handshake());
    }
    assert!(outbox.is_empty());
    (None, Vec::new())
}

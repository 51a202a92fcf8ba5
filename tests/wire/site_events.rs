//! Requests of the site's plugin as bytes: heads that are refused, and bodies in pieces.

use buddyline::config::limits::HeadLimits;
use buddyline::config::origins::Origins;
use buddyline::config::proxies::TrustedProxies;
use buddyline::http::handshake::{Readiness, Rules};
use buddyline::http::site_events::{BODY_BYTES_MAX, SiteRefusal};
use buddyline::wire::outbox::Outbox;
use buddyline::wire::{Codec, Event, Wire};

use crate::support::bytes::{LIMIT, PEER, WireSession, request};
use crate::support::plugin;

fn codec(readiness: Readiness, site_events: bool) -> Codec {
    let (origins, proxies) = (Origins::any(), TrustedProxies::default());
    let head_limits = HeadLimits::default();
    let rules = Rules { readiness, try_page: false, origins, proxies, head_limits, site_events };
    Codec::new(LIMIT, rules)
}

/// Sends a request, and returns the events and what was answered.
fn send(codec: &mut Codec, bytes: &[u8]) -> (Vec<Event<'static>>, String) {
    let mut session = WireSession::default();
    session.feed(codec, bytes);
    let answer = session.answer().to_owned();
    (session.take_events(), answer)
}

fn head(lines: &str) -> Vec<u8> {
    format!("POST /site/events HTTP/1.1\r\nHost: x\r\n{lines}\r\n").into_bytes()
}

const SIGNED: &str = "Buddyline-Signature: t=1,v1=0\r\n";

#[test]
fn events_arrive_whole_however_they_are_cut() {
    let body = "x".repeat(3_000);
    let request = plugin::request(SIGNED, body.as_bytes());
    for piece in [1, 7, 100, 1_000, 4_000] {
        let mut codec = codec(Readiness::Ready, true);
        let mut session = WireSession::default();
        for bytes in request.chunks(piece) {
            session.feed(&mut codec, bytes);
        }
        let [Event::EventsAnnounced, Event::EventsReceived { signature, body: received }] =
            &session.events[..]
        else {
            panic!("in pieces of {piece}: {:?}", session.events);
        };
        assert_eq!((&**signature, &received[..]), ("t=1,v1=0", body.as_bytes()));
        assert!(session.output.is_empty());
        assert_eq!(session.wire.held_bytes(), 0);
    }
}

#[test]
fn bytes_after_the_body_are_no_part_of_it() {
    let mut request = plugin::request(SIGNED, b"{}");
    request.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
    let (events, answer) = send(&mut codec(Readiness::Ready, true), &request);
    let [_, Event::EventsReceived { body, .. }] = &events[..] else { panic!("{events:?}") };
    assert!(body == b"{}" && answer.is_empty());
}

#[test]
fn slow_body_holds_at_most_twice_what_was_sent() {
    let (mut codec, mut outbox) = (codec(Readiness::Ready, true), Outbox::default());
    let mut wire = Wire::new(PEER);
    let length = format!("Content-Length: {BODY_BYTES_MAX}\r\n{SIGNED}");
    let mut bytes = head(&length);
    wire.next(&mut codec, &mut &mut *bytes, &mut outbox);
    assert_eq!(wire.held_bytes(), 0, "nothing is reserved for a body that was only announced");
    let mut sent = 0;
    while sent < BODY_BYTES_MAX - 1_000 {
        wire.next(&mut codec, &mut &mut [b'x'; 1_000][..], &mut outbox);
        sent += 1_000;
        assert!((sent..=2 * sent).contains(&wire.held_bytes()), "{sent} {}", wire.held_bytes());
    }
    assert!(wire.held_bytes() <= BODY_BYTES_MAX);
    wire.forget_held();
    assert_eq!(wire.held_bytes(), 0);
}

#[test]
fn heads_that_cannot_be_answered_with_events_are_refused() {
    let large = format!("Content-Length: {}\r\n{SIGNED}", BODY_BYTES_MAX + 1);
    let huge = format!("Content-Length: {}\r\n{SIGNED}", "9".repeat(40));
    let expects = format!("Content-Length: 2\r\nExpect: a-miracle\r\n{SIGNED}");
    let twice = format!("Content-Length: 2\r\n{SIGNED}{SIGNED}");
    let chunked = format!("Transfer-Encoding: chunked\r\n{SIGNED}");
    for (lines, status, cause) in [
        (SIGNED, "411", SiteRefusal::Format),
        (&chunked, "411", SiteRefusal::Format),
        (&format!("Content-Length: 0\r\n{SIGNED}"), "400", SiteRefusal::Format),
        (&large, "413", SiteRefusal::Size),
        (&huge, "413", SiteRefusal::Size),
        (&expects, "417", SiteRefusal::Format),
        (&twice, "401", SiteRefusal::Signature),
        ("Content-Length: 2\r\n", "401", SiteRefusal::Signature),
    ] {
        let (events, answer) = send(&mut codec(Readiness::Ready, true), &head(lines));
        assert_eq!(events, [Event::SiteRefused { cause }], "{lines}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{lines}: {answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"));
    }
    let (_, answer) = send(&mut codec(Readiness::Ready, true), &head("Content-Length: 2\r\n"));
    assert!(answer.ends_with("\r\n\r\n{\"error\":\"unauthorized\"}"), "{answer}");
}

#[test]
fn draining_server_takes_no_events() {
    let request = plugin::request(SIGNED, b"{}");
    let (events, answer) = send(&mut codec(Readiness::Draining, true), &request);
    assert_eq!(events, [Event::SiteRefused { cause: SiteRefusal::Draining }]);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: "), "{answer}");
}

#[test]
fn path_does_not_exist_without_a_secret_and_has_one_method() {
    let events = plugin::request(SIGNED, b"{}");
    let (_, answer) = send(&mut codec(Readiness::Ready, false), &events);
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    for path in ["/site/events", "/site/events/test/abc", "/live/site/events"] {
        for (method, is_post) in [("GET", false), ("PUT", false), ("POST", true), ("HEAD", false)] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            let (_, absent) = send(&mut codec(Readiness::Ready, false), request.as_bytes());
            let expected = if method == "PUT" { "405" } else { "404" };
            assert!(absent.starts_with(&format!("HTTP/1.1 {expected} ")), "{method} {absent}");
            let (events, answer) = send(&mut codec(Readiness::Ready, true), request.as_bytes());
            let is_test = path.contains("/test/");
            let status = match (is_test, method) {
                (true, "GET") => {
                    assert_eq!(events, [Event::TestArrival { token: "abc".to_owned() }]);
                    continue;
                }
                (false, _) if is_post => "411",
                _ => "405",
            };
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path} {answer}");
        }
    }
}

#[test]
fn plugin_that_expects_it_is_told_to_continue() {
    let (mut codec, mut outbox) = (codec(Readiness::Ready, true), Outbox::default());
    let mut wire = Wire::new(PEER);
    let mut bytes = head(&format!("Content-Length: 2\r\nExpect: 100-Continue\r\n{SIGNED}"));
    let announced = wire.next(&mut codec, &mut &mut *bytes, &mut outbox);
    assert_eq!((announced, outbox.bytes()), (Event::EventsAnnounced, 0));
    wire.accept_events(&mut outbox);
    wire.accept_events(&mut outbox);
    assert_eq!(outbox.bytes(), "HTTP/1.1 100 Continue\r\n\r\n".len(), "once");
    wire.next(&mut codec, &mut &mut b"{}".to_vec()[..], &mut outbox);
    wire.answer_site("HTTP/1.1 200 OK\r\n\r\n".to_owned(), &mut outbox);
    assert!(wire.is_closing());
}

#[test]
fn listener_for_the_site_serves_nothing_else() {
    for (bytes, status) in [
        (request(), "404"),
        (b"GET /calls/c HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "404"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "200"),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "405"),
        (b"OPTIONS /readyz HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "200"),
    ] {
        let mut session = WireSession::default();
        session.wire.serve_site();
        session.feed(&mut codec(Readiness::Ready, false), &bytes);
        assert_eq!(session.events, [Event::Closing]);
        assert!(
            session.answer().starts_with(&format!("HTTP/1.1 {status} ")),
            "{}",
            session.answer()
        );
    }
    let mut session = WireSession::default();
    session.wire.serve_site();
    session.feed(&mut codec(Readiness::Ready, false), &plugin::request(SIGNED, b"{}"));
    assert!(matches!(session.events[..], [_, Event::EventsReceived { .. }]));
}

//! `GET /calls/{callId}`, with which an app that a push has woken reads the status of a call.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use buddyline::config::limits::HeadLimits;
use buddyline::config::origins::{OriginPattern, Origins};
use buddyline::config::proxies::TrustedProxies;
use buddyline::http::handshake::{Readiness, Rules};
use buddyline::hub::interface::{CallSettings, ConnId, Failure, Settings};
use buddyline::protocol::Id;
use buddyline::protocol::status::CallStatusReply;
use buddyline::wire::outbox::Outbox;
use buddyline::wire::{Codec, Event};
use serde_json::{Value, json};

use crate::support::bytes::{LIMIT, PEER, WireSession, body, header_of};
use crate::support::client::{Client, LONG};
use crate::support::harness::{HubHarness, settings, verified};
use crate::support::server::{Server, wait_until};
use crate::support::site::Site;

// ---- the wire

fn rules(origins: Origins) -> Rules {
    let (readiness, proxies) = (Readiness::Ready, TrustedProxies::default());
    Rules {
        readiness,
        try_page: false,
        origins,
        proxies,
        head_limits: HeadLimits::default(),
        site_events: false,
    }
}

fn codec() -> Codec {
    Codec::new(LIMIT, rules(Origins::any()))
}

fn request(method: &str, path: &str, more: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: live.example\r\n{more}\r\n").into_bytes()
}

/// The call that a path names, or the HTTP response if the request is answered at once.
fn requested_call(path: &str) -> Result<Id, String> {
    let mut session = WireSession::default();
    session.feed(&mut codec(), &request("GET", path, ""));
    match session.take_events().pop() {
        Some(Event::CallStatusRequest(status_request)) => Ok(status_request.call),
        _ => Err(session.answer()),
    }
}

/// The HTTP response to this request once the hub has replied.
fn call_status_response(codec: &mut Codec, request: &[u8], reply: &CallStatusReply) -> String {
    let mut session = WireSession::default();
    session.feed(codec, request);
    assert!(session.wire.is_awaiting_status(), "{}", session.answer());
    assert!(session.output.is_empty());
    let mut outbox = Outbox::default();
    session.wire.send_call_status(reply, &mut outbox);
    assert!(session.wire.is_closing());
    let answer = String::from_utf8(outbox.only().unwrap().to_vec()).unwrap();
    assert_eq!(header_of(&answer, "connection").as_deref(), Some("close"));
    assert_eq!(header_of(&answer, "cache-control").as_deref(), Some("no-store"));
    answer
}

#[test]
fn call_id_is_the_percent_decoded_last_path_segment() {
    let long = "x".repeat(64);
    for (path, call) in [
        ("/calls/c", "c"),
        ("/calls/7", "7"),
        ("/calls/%37", "7"),
        ("/live/calls/a%2Fb%20c?x=1", "a/b c"),
        ("/calls/a+b", "a+b"),
        ("/calls/calls", "calls"),
        ("/calls/%C3%A9", "é"),
        (&format!("/calls/{long}"), &long),
    ] {
        assert_eq!(requested_call(path).as_ref(), Ok(&Id::string(call)), "{path}");
    }
    assert_eq!(requested_call("/calls/7").unwrap().key, Id::number(7).key);
    for (path, status) in [
        ("/calls", "404"),
        ("/calls/", "404"),
        ("/xcalls/c", "404"),
        ("/calls/a/b", "404"),
        ("/calls/%FF", "400"),
        (&format!("/calls/{long}x"), "400"),
    ] {
        let answer = requested_call(path).unwrap_err();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
}

#[test]
fn request_waits_for_its_answer_and_ignores_more_input() {
    let mut codec = codec();
    let mut session = WireSession::default();
    let whole = request("GET", "/calls/c?token=s3cr3t", "Accept: */*\r\n");
    let (first, rest) = whole.split_at(30);
    session.feed(&mut codec, first);
    assert!(session.wire.is_in_handshake() && session.events.is_empty());
    session.feed(&mut codec, rest);
    let events = session.take_events();
    let [Event::CallStatusRequest(status_request)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(status_request.client, PEER.into());
    let secret = status_request.credential.as_ref().unwrap().as_ref().unwrap().secret();
    assert_eq!(secret, "s3cr3t");
    assert!(!format!("{events:?}{:?}", session.wire).contains("s3cr3t"), "{events:?}");
    assert_eq!(session.wire.held_bytes(), 0);
    session.feed(&mut codec, &whole);
    assert!(session.events.is_empty() && session.output.is_empty());
    assert!(session.wire.is_awaiting_status() && !session.wire.is_between_messages());
}

#[test]
fn token_is_accepted_in_every_handshake_form() {
    for (path, more) in [
        ("/calls/c", "Authorization: Bearer s3cr3t\r\n"),
        ("/calls/c?token=s3cr3t", ""),
        ("/calls/c?x=1&token=s3cr3%74", ""),
    ] {
        let mut session = WireSession::default();
        session.feed(&mut codec(), &request("GET", path, more));
        let Some(Event::CallStatusRequest(status_request)) = session.take_events().pop() else {
            panic!("{path}")
        };
        assert_eq!(status_request.credential.unwrap().unwrap().secret(), "s3cr3t");
    }
}

#[test]
fn head_omits_the_body_and_other_methods_are_refused() {
    let get = call_status_response(
        &mut codec(),
        &request("GET", "/calls/c", ""),
        &CallStatusReply::NoSuchCall,
    );
    let head = call_status_response(
        &mut codec(),
        &request("HEAD", "/calls/c", ""),
        &CallStatusReply::NoSuchCall,
    );
    assert!(get.starts_with("HTTP/1.1 404 ") && !body(&get).is_empty(), "{get}");
    assert_eq!(head, get.split_inclusive("\r\n\r\n").next().unwrap());
    for (method, status) in [("POST", "405"), ("PUT", "405"), ("DELETE", "405"), ("OPTIONS", "200")]
    {
        let mut session = WireSession::default();
        session.feed(&mut codec(), &request(method, "/calls/c", ""));
        assert_eq!(session.take_events(), [Event::Closing], "{method}");
        let answer = session.answer();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method}: {answer}");
        assert_eq!(header_of(&answer, "allow").as_deref(), Some("GET, HEAD, OPTIONS"));
    }
}

#[test]
fn allowed_origins_may_read_status_and_others_are_refused() {
    let pattern = OriginPattern::parse("https://app.example.org").unwrap();
    let mut codec = Codec::new(LIMIT, rules(Origins::only(&[pattern], None)));
    let of = |origin: &str| format!("Origin: {origin}\r\n");
    let app = of("https://app.example.org");
    for (reply, status) in
        [(CallStatusReply::NoSuchCall, "404"), (CallStatusReply::TokenMissing, "401")]
    {
        let answer = call_status_response(&mut codec, &request("GET", "/calls/c", &app), &reply);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let allowed = header_of(&answer, "access-control-allow-origin");
        assert_eq!(allowed.as_deref(), Some("https://app.example.org"));
        assert_eq!(header_of(&answer, "access-control-allow-credentials"), None);
        assert_eq!(header_of(&answer, "vary").as_deref(), Some("Origin"));
    }
    // Requests without an origin, and same-origin requests, which need no preflight.
    let answer = call_status_response(
        &mut codec,
        &request("GET", "/calls/c", ""),
        &CallStatusReply::NoSuchCall,
    );
    assert_eq!(header_of(&answer, "access-control-allow-origin"), None);
    let own = of("https://live.example");
    call_status_response(
        &mut codec,
        &request("GET", "/calls/c", &own),
        &CallStatusReply::NoSuchCall,
    );

    let mut session = WireSession::default();
    let preflight = "Access-Control-Request-Method: GET\r\n\
               Access-Control-Request-Headers: authorization\r\n";
    session.feed(&mut codec, &request("OPTIONS", "/calls/c", &format!("{app}{preflight}")));
    let answer = session.answer();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let headers = header_of(&answer, "access-control-allow-headers");
    assert_eq!(headers.as_deref(), Some("Authorization"));
    assert!(header_of(&answer, "access-control-allow-origin").is_some());

    for (method, more) in [
        ("GET", of("https://evil.example")),
        ("OPTIONS", of("https://evil.example")),
        ("GET", of("null")),
        ("GET", format!("{app}{app}")),
    ] {
        let mut session = WireSession::default();
        session.feed(&mut codec, &request(method, "/calls/c?token=s3cr3t", &more));
        let [Event::OriginRefused { .. }] = session.take_events()[..] else { panic!("{more}") };
        let answer = session.answer();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert_eq!(header_of(&answer, "access-control-allow-origin"), None);
    }
}

#[test]
fn duplicate_or_malformed_origin_gets_no_cors_header() {
    let twice = "Origin: https://a.example\r\nOrigin: https://b.example\r\n";
    let answer = call_status_response(
        &mut codec(),
        &request("GET", "/calls/c", twice),
        &CallStatusReply::NoSuchCall,
    );
    assert_eq!(header_of(&answer, "access-control-allow-origin"), None);
    let odd = "Origin: https://a.example, evil\r\n";
    let answer = call_status_response(
        &mut codec(),
        &request("GET", "/calls/c", odd),
        &CallStatusReply::NoSuchCall,
    );
    assert_eq!(header_of(&answer, "access-control-allow-origin"), None);
}

#[test]
fn shutdown_and_timeout_answer_503() {
    let mut codec = codec();
    let assert_503 = |answer: &str| {
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert_eq!(header_of(answer, "retry-after").as_deref(), Some("5"));
        // A browser shows the header to a page only if it is exposed (the Fetch standard, section 3.3.3).
        let exposed = header_of(answer, "access-control-expose-headers");
        assert_eq!(exposed.as_deref(), Some("Retry-After"));
    };
    for stops in [true, false] {
        let (mut session, mut outbox) = (WireSession::default(), Outbox::default());
        session
            .feed(&mut codec, &request("GET", "/calls/c", "Origin: https://app.example.org\r\n"));
        match stops {
            true => session.wire.close(1012, "the server is restarting", &mut outbox),
            false => session.wire.time_out(&mut outbox),
        }
        assert_503(std::str::from_utf8(outbox.only().unwrap()).unwrap());
        assert!(session.wire.is_closing());
        session.wire.send_call_status(&CallStatusReply::NoSuchCall, &mut outbox);
        assert_eq!(outbox.count(), 1, "the request is answered once");
    }
    codec.set_readiness(Readiness::Draining);
    let mut session = WireSession::default();
    session.feed(&mut codec, &request("GET", "/calls/c", ""));
    assert_eq!(session.take_events(), [Event::Closing]);
    assert_503(&session.answer());
}

// ---- the hub

const SECOND: Duration = Duration::from_secs(1);

/// The only call status reply since the last call, which must be for this connection.
#[track_caller]
fn next_reply(harness: &mut HubHarness, conn: ConnId) -> CallStatusReply {
    let mut all = std::mem::take(&mut harness.call_status_replies);
    assert_eq!(all.len(), 1, "{all:?}");
    let (to, reply) = all.remove(0);
    assert_eq!(to, conn);
    reply
}

#[track_caller]
fn status(reply: &CallStatusReply) -> Value {
    match reply {
        CallStatusReply::Status(status) => serde_json::to_value(status).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn send(harness: &mut HubHarness, conn: ConnId, frame: &Value) {
    harness.send(conn, &frame.to_string());
}

fn ring(other: Option<u64>, call: &str) -> Value {
    json!({"type": "call_initiated", "recipientId": other, "threadId": 41, "callId": call})
}

/// A verified hub with user 7 connected, whose thread 41 has these other participants.
fn hub_with_caller(others: &[u64]) -> (HubHarness, ConnId) {
    hub_with_caller_and(verified(), others)
}

fn hub_with_caller_and(settings: Settings, others: &[u64]) -> (HubHarness, ConnId) {
    let mut harness = HubHarness::new(settings);
    let seven = harness.open_member(0, 7, 41, &[&[7], others].concat());
    (harness, seven)
}

#[test]
fn callee_woken_by_push_can_read_the_call_status() {
    let (mut harness, seven) = hub_with_caller(&[8]);
    send(&mut harness, seven, &ring(Some(8), "c"));
    harness.received();
    assert_eq!(harness.woken.len(), 1);

    let asker = harness.request_call_status(1, Some("token-of-8"), "c");
    let (request, credential) = harness.next_proof();
    assert_eq!((credential.secret(), harness.hub.status_requests()), ("token-of-8", 1));
    assert!(harness.call_status_replies.is_empty() && harness.hub.is_awaiting_outcome(asker));
    harness.prove(request, 8, None);
    let expected = json!({"callId": "c", "state": "ringing", "threadId": 41, "callerId": 7});
    assert_eq!(status(&next_reply(&mut harness, asker)), expected);
    assert_eq!((harness.hub.status_requests(), harness.hub.backlog()), (0, [0, 0, 0]));
    // The user of the request never connected, so no departure is announced.
    harness.advance(10 * SECOND);
    harness.assert_nothing_received();
    assert_eq!((harness.hub.counts().users, harness.hub.counts().connections), (1, 1));

    // The proof is cached, for other requests and for the WebSocket.
    let asker = harness.request_call_status(1, Some("token-of-8"), "c");
    assert_eq!(status(&next_reply(&mut harness, asker)), expected);
    let eight = harness.open_with(1, "token-of-8");
    assert_eq!(harness.pending_asks(), 0);
    let received = harness.received();
    let rings = |(to, frame): &(ConnId, Value)| *to == eight && frame["type"] == "call_initiated";
    assert_eq!(received.iter().filter(|each| rings(each)).count(), 1, "{received:?}");

    send(&mut harness, eight, &json!({"type": "offer", "callId": "c", "offer": "o"}));
    let asker = harness.request_call_status(2, Some("token-of-8"), "c");
    assert_eq!(status(&next_reply(&mut harness, asker))["state"], "connecting");
    send(&mut harness, seven, &json!({"type": "answer", "callId": "c", "answer": "a"}));
    let asker = harness.request_call_status(2, Some("token-of-7"), "c");
    assert_eq!(status(&next_reply(&mut harness, asker))["state"], "active");
    send(&mut harness, seven, &json!({"type": "call_hangup", "callId": "c"}));
    let asker = harness.request_call_status(2, Some("token-of-8"), "c");
    let expected = json!({
        "callId": "c", "state": "ended", "reason": "hangup", "threadId": 41, "callerId": 7,
    });
    assert_eq!(status(&next_reply(&mut harness, asker)), expected);
    harness.advance(61 * SECOND);
    harness.open_proven(3, 8);
    let asker = harness.request_call_status(2, Some("token-of-8"), "c");
    assert_eq!(next_reply(&mut harness, asker), CallStatusReply::NoSuchCall);
}

#[test]
fn call_status_is_404_for_everyone_else() {
    let (mut harness, seven) = hub_with_caller(&[8]);
    send(&mut harness, seven, &ring(Some(8), "c"));
    for (token, call) in [("token-of-9", "c"), ("token-of-8", "d")] {
        let asker = harness.request_call_status(1, Some(token), call);
        let user = token.rsplit('-').next().unwrap().parse().unwrap();
        let (request, _) = harness.next_proof();
        harness.prove(request, user, None);
        assert_eq!(next_reply(&mut harness, asker), CallStatusReply::NoSuchCall, "{token} {call}");
    }
}

#[test]
fn unproven_request_gets_the_reason_and_one_site_query() {
    let (mut harness, seven) = hub_with_caller(&[8]);
    send(&mut harness, seven, &ring(Some(8), "c"));
    let asker = harness.request_call_status(1, None, "c");
    assert_eq!(next_reply(&mut harness, asker), CallStatusReply::TokenMissing);
    let asker = harness.request_call_status(1, Some("two words"), "c");
    assert!(matches!(next_reply(&mut harness, asker), CallStatusReply::CredentialRejected(_)));
    for (token, failure) in [
        ("refused", Failure::TokenRefused),
        ("expired", Failure::TokenExpired),
        ("suspended", Failure::Suspended),
    ] {
        let asker = harness.request_call_status(1, Some(token), "c");
        let (request, _) = harness.next_proof();
        harness.fail(request, failure);
        assert!(
            matches!(next_reply(&mut harness, asker), CallStatusReply::CredentialRejected(_)),
            "{token}"
        );
        let again = harness.request_call_status(1, Some(token), "c");
        assert!(
            matches!(next_reply(&mut harness, again), CallStatusReply::CredentialRejected(_)),
            "{token}"
        );
    }
    // A proven token that has expired since.
    let asker = harness.request_call_status(1, Some("short"), "c");
    let (request, _) = harness.next_proof();
    harness.prove(request, 8, Some(harness.now.unix_s + 30));
    assert_eq!(status(&next_reply(&mut harness, asker))["state"], "ringing");
    harness.advance(30 * SECOND);
    let asker = harness.request_call_status(1, Some("short"), "c");
    assert!(matches!(next_reply(&mut harness, asker), CallStatusReply::CredentialRejected(_)));
    assert_eq!(harness.pending_asks(), 0);
}

#[test]
fn unanswered_site_query_is_not_a_rejection() {
    let (mut harness, seven) = hub_with_caller(&[8]);
    send(&mut harness, seven, &ring(Some(8), "c"));
    for (failure, seconds) in [
        (Failure::SiteUnavailable { retry_after_s: Some(17) }, 17),
        (Failure::SiteBusy { retry_after_s: None }, 5),
        (Failure::Unusable, 5),
        (Failure::Overloaded, 5),
    ] {
        let asker = harness.request_call_status(1, Some("token-of-8"), "c");
        let (request, _) = harness.next_proof();
        harness.fail(request, failure);
        match next_reply(&mut harness, asker) {
            CallStatusReply::Unavailable { retry_after_s, .. } => {
                assert_eq!(retry_after_s, seconds)
            }
            other => panic!("{other:?}"),
        }
        harness.advance(5 * SECOND);
    }
}

#[test]
fn status_requests_and_websocket_share_one_site_query() {
    let (mut harness, seven) = hub_with_caller(&[8]);
    send(&mut harness, seven, &ring(Some(8), "c"));
    harness.received();
    let first = harness.request_call_status(1, Some("token-of-8"), "c");
    let eight = harness.open_with(2, "token-of-8");
    let second = harness.request_call_status(3, Some("token-of-8"), "other");
    let (request, _) = harness.next_proof();
    assert_eq!(harness.pending_asks(), 0);
    harness.close(first);
    harness.prove(request, 8, None);
    assert_eq!(next_reply(&mut harness, second), CallStatusReply::NoSuchCall);
    let to_eight = harness.received().into_iter().filter(|(to, _)| *to == eight).count();
    assert_eq!(to_eight, 2, "`user_connected` and `call_initiated`");
}

#[test]
fn closed_request_cancels_its_site_query() {
    let (mut harness, seven) = hub_with_caller(&[8]);
    send(&mut harness, seven, &ring(Some(8), "c"));
    // Two queries are in flight, the third is queued.
    let askers =
        [1, 2, 3].map(|n| harness.request_call_status(n, Some(&format!("token-{n}")), "c"));
    assert_eq!((harness.pending_asks(), harness.hub.backlog()[1]), (2, 3));
    harness.close(askers[2]);
    assert_eq!((harness.hub.status_requests(), harness.hub.backlog()[1]), (2, 2));
    harness.close(askers[0]);
    let (request, _) = harness.next_proof();
    harness.prove(request, 8, None);
    assert!(harness.call_status_replies.is_empty(), "{:?}", harness.call_status_replies);
    let (request, _) = harness.next_proof();
    harness.fail(request, Failure::TokenRefused);
    assert!(matches!(next_reply(&mut harness, askers[1]), CallStatusReply::CredentialRejected(_)));
    assert_eq!((harness.pending_asks(), harness.hub.backlog()), (0, [0, 0, 0]));
}

#[test]
fn waiting_status_requests_are_bounded_by_site_capacity() {
    let mut harness = HubHarness::new(verified());
    for slot in 0..256 {
        harness.request_call_status(slot, Some(&format!("token-{slot}")), "c");
    }
    assert!(harness.call_status_replies.is_empty());
    let asker = harness.request_call_status(256, Some("token-256"), "c");
    let overloaded = next_reply(&mut harness, asker);
    assert!(
        matches!(overloaded, CallStatusReply::Unavailable { retry_after_s: 5, .. }),
        "{overloaded:?}"
    );
    // A request with a cached proof does not wait.
    let (request, _) = harness.next_proof();
    harness.prove(request, 8, None);
    harness.call_status_replies.clear();
    let asker = harness.request_call_status(256, Some("token-0"), "c");
    assert_eq!(next_reply(&mut harness, asker), CallStatusReply::NoSuchCall);
    let waiting = harness.request_call_status(0, Some("token-256"), "c");
    assert!(harness.call_status_replies.is_empty() && harness.hub.is_awaiting_outcome(waiting));
}

#[test]
fn absent_group_callee_may_ask_while_still_a_participant() {
    let calls = CallSettings { ring_lasts: 300 * SECOND, ..CallSettings::default() };
    let (mut harness, seven) = hub_with_caller_and(Settings { calls, ..verified() }, &[8, 9]);
    harness.open_proven(1, 8);
    send(&mut harness, seven, &ring(None, "g"));
    assert_eq!(harness.woken.len(), 1);
    let asker = harness.request_call_status(2, Some("token-of-9"), "g");
    let (request, _) = harness.next_proof();
    harness.prove(request, 9, None);
    assert_eq!(status(&next_reply(&mut harness, asker))["state"], "ringing");
    // The site removes user 9 from the thread.
    harness.advance(61 * SECOND);
    harness.send(seven, r#"{"type":"join_thread","threadId":41}"#);
    let (request, ..) = harness.next_list();
    harness.list(request, &[7, 8]);
    let asker = harness.request_call_status(2, Some("token-of-9"), "g");
    assert_eq!(next_reply(&mut harness, asker), CallStatusReply::NoSuchCall);
    assert_eq!(harness.hub.counts().calls, [1, 0]);
}

#[test]
fn call_lost_by_glare_names_the_surviving_call() {
    let (mut harness, seven) = hub_with_caller(&[8]);
    let eight = harness.open_proven(1, 8);
    send(&mut harness, seven, &ring(Some(8), "b"));
    send(&mut harness, eight, &ring(Some(7), "a"));
    let asker = harness.request_call_status(2, Some("token-of-8"), "b");
    let expected = json!({
        "callId": "b", "state": "ended", "reason": "glare", "continuesAs": "a", "threadId": 41,
        "callerId": 7,
    });
    assert_eq!(status(&next_reply(&mut harness, asker)), expected);
}

#[test]
fn ended_group_call_reads_ended_for_absent_callee() {
    let (mut harness, seven) = hub_with_caller(&[8, 9]);
    harness.open_proven(1, 8);
    send(&mut harness, seven, &ring(None, "g"));
    send(&mut harness, seven, &json!({"type": "call_hangup", "callId": "g"}));
    let asker = harness.request_call_status(2, Some("token-of-9"), "g");
    let (request, _) = harness.next_proof();
    harness.prove(request, 9, None);
    let status = status(&next_reply(&mut harness, asker));
    assert_eq!((&status["state"], &status["reason"]), (&json!("ended"), &json!("cancelled")));
}

#[test]
fn open_trust_answers_with_any_or_no_token() {
    let mut harness = HubHarness::new(settings());
    let alice = harness.open_as(0, "2");
    let frame = json!({"type": "call_initiated", "recipientId": "bob", "callId": 7});
    send(&mut harness, alice, &frame);
    for token in [None, Some("anything"), Some("two words")] {
        let asker = harness.request_call_status(1, token, "7");
        let expected = json!({"callId": 7, "state": "ringing", "callerId": 2});
        assert_eq!(status(&next_reply(&mut harness, asker)), expected);
    }
    send(&mut harness, alice, &json!({"type": "call_cancelled", "callId": "7"}));
    let asker = harness.request_call_status(1, None, "7");
    assert_eq!(status(&next_reply(&mut harness, asker))["reason"], "cancelled");
    let asker = harness.request_call_status(1, None, "8");
    assert_eq!(next_reply(&mut harness, asker), CallStatusReply::NoSuchCall);
    assert_eq!((harness.pending_asks(), harness.hub.counts().users), (0, 1));
}

// ---- the whole server

fn get(server: &Server, path: &str, more: &str) -> String {
    server.ask(&request("GET", path, more))
}

fn line(answer: &str) -> &str {
    answer.lines().next().unwrap_or_default()
}

fn json_of(answer: &str) -> Value {
    assert_eq!(line(answer), "HTTP/1.1 200 OK", "{answer}");
    assert_eq!(header_of(answer, "content-type").as_deref(), Some("application/json"));
    assert_eq!(header_of(answer, "cache-control").as_deref(), Some("no-store"));
    serde_json::from_str(body(answer)).unwrap()
}

#[test]
fn open_server_reports_call_status() {
    let server = Server::start(&[]);
    let mut alice = Client::as_user(server.address(), 2);
    alice.send(&json!({"type": "call_initiated", "recipientId": 3, "threadId": 12, "callId": "c"}));
    alice.expect_error("recipient_offline");
    let expected = json!({"callId": "c", "state": "ringing", "threadId": 12, "callerId": 2});
    assert_eq!(json_of(&get(&server, "/calls/c", "")), expected);
    let mut bob = Client::as_user(server.address(), 3);
    bob.expect(|frame| frame["type"] == "call_initiated");
    bob.send(&json!({"type": "answer", "answer": "a", "callId": "c"}));
    alice.expect(|frame| frame["type"] == "answer");
    assert_eq!(json_of(&get(&server, "/live/calls/%63", ""))["state"], "active");
    bob.send(&json!({"type": "call_hangup", "callId": "c"}));
    alice.expect(|frame| frame["type"] == "call_ended");
    let ended = json_of(&get(&server, "/calls/c", ""));
    assert_eq!((&ended["state"], &ended["reason"]), (&json!("ended"), &json!("hangup")));
    assert_eq!(line(&get(&server, "/calls/unknown", "")), "HTTP/1.1 404 Not Found");
    let head = server.ask(&request("HEAD", "/calls/c", ""));
    assert!(head.starts_with("HTTP/1.1 200 OK") && body(&head).is_empty(), "{head}");
    let post = server.ask(&request("POST", "/calls/c", "Content-Length: 0\r\n"));
    assert_eq!(line(&post), "HTTP/1.1 405 Method Not Allowed");
}

/// A server whose site has thread 41 with the users 7 and 8, of whom 7 calls 8.
fn ringing(site: &Site, more: &[&str]) -> (Server, Client) {
    site.add_thread(41, &[7, 8]);
    let url = site.url();
    let server =
        Server::start(&[&["--buddyboss-url", &url, "--log-level", "debug"], more].concat());
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("REST API answers")));
    let mut seven = Client::proven(server.address(), 7, "s3cr3t-7");
    seven.send(&ring(Some(8), "c"));
    seven.expect_error("recipient_offline");
    (server, seven)
}

#[test]
fn verified_server_reports_status_to_proven_parties() {
    let site = Site::start();
    let (server, mut seven) = ringing(&site, &[]);
    let proofs = site.proof_requests().len();
    let expected = json!({"callId": "c", "state": "ringing", "threadId": 41, "callerId": 7});
    let bearer = "Authorization: Bearer s3cr3t-8\r\n";
    assert_eq!(json_of(&get(&server, "/calls/c", bearer)), expected);
    assert_eq!(json_of(&get(&server, "/calls/c?token=s3cr3t-8", "")), expected);
    assert_eq!(site.proof_requests().len(), proofs + 1, "one query to the site");
    let stranger = get(&server, "/calls/c?token=s3cr3t-9", "");
    assert_eq!(line(&stranger), "HTTP/1.1 404 Not Found");
    let nothing = get(&server, "/calls/c", "");
    assert_eq!(line(&nothing), "HTTP/1.1 401 Unauthorized");
    assert_eq!(header_of(&nothing, "www-authenticate").as_deref(), Some("Bearer"));
    let bad = get(&server, "/calls/c?token=s3cr3t-unknown", "");
    assert_eq!(line(&bad), "HTTP/1.1 401 Unauthorized");
    let challenge = header_of(&bad, "www-authenticate");
    assert_eq!(challenge.as_deref(), Some("Bearer error=\"invalid_token\""));
    let evil = get(&server, "/calls/c?token=s3cr3t-8", "Origin: https://evil.example\r\n");
    assert_eq!(line(&evil), "HTTP/1.1 403 Forbidden");
    // A status request does not bring its user online.
    seven.send(&json!({"type": "online_users"}));
    let online = seven.expect(|frame| frame["type"] == "online_users");
    assert_eq!(online["userIds"], json!([7]));
    let log = server.log().join("\n");
    assert!(log.contains("call status request") && !log.contains("s3cr3t"), "{log}");
}

#[test]
fn request_waits_for_the_site_and_may_disconnect() {
    let site = Site::start();
    let (server, _seven) = ringing(&site, &[]);
    site.set_latency(SECOND);
    let mut closed_early = TcpStream::connect(server.address()).unwrap();
    closed_early.write_all(&request("GET", "/calls/c?token=s3cr3t-8", "")).unwrap();
    wait_until(LONG, "the server has received the request", || {
        server.log().iter().any(|line| line.contains("call status request"))
    });
    drop(closed_early);
    let start = Instant::now();
    let answer = get(&server, "/calls/c?token=fresh-8", "");
    assert_eq!(json_of(&answer)["state"], "ringing");
    assert!(start.elapsed() >= SECOND * 9 / 10, "the token was not cached before");
    site.set_latency(Duration::ZERO);
    assert_eq!(json_of(&get(&server, "/calls/c?token=s3cr3t-8", ""))["state"], "ringing");
}

#[test]
fn site_outage_answers_503_with_retry_after() {
    let site = Site::start();
    let (server, _seven) = ringing(&site, &[]);
    drop(site);
    let answer = get(&server, "/calls/c?token=s3cr3t-8", "");
    assert_eq!(line(&answer), "HTTP/1.1 503 Service Unavailable");
    let seconds: u32 = header_of(&answer, "retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds), "{answer}");
    // A request with a cached proof is answered all the same.
    assert_eq!(json_of(&get(&server, "/calls/c?token=s3cr3t-7", ""))["state"], "ringing");
}

#[test]
fn drain_answers_earlier_requests_and_refuses_new_ones() {
    let site = Site::start();
    let (mut server, seven) = ringing(&site, &["--drain-timeout", "8s"]);
    site.set_latency(SECOND);
    let mut waiting = TcpStream::connect(server.address()).unwrap();
    waiting.set_read_timeout(Some(LONG)).unwrap();
    waiting.write_all(&request("GET", "/calls/c?token=s3cr3t-8", "")).unwrap();
    wait_until(LONG, "the server has received the request", || {
        server.log().iter().any(|line| line.contains("call status request"))
    });
    server.signal("TERM");
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("draining")));
    let late = get(&server, "/calls/c?token=s3cr3t-7", "");
    assert_eq!(line(&late), "HTTP/1.1 503 Service Unavailable");
    assert_eq!(header_of(&late, "retry-after").as_deref(), Some("5"));
    drop(seven);
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert_eq!(json_of(&answer)["state"], "ringing", "the caller has a grace time to come back");
    assert!(server.exit(LONG).success());
}

#[test]
fn status_request_counts_as_a_connection() {
    let site = Site::start();
    let (server, _seven) = ringing(&site, &["--max-connections", "2"]);
    site.set_latency(SECOND);
    let mut waiting = TcpStream::connect(server.address()).unwrap();
    waiting.write_all(&request("GET", "/calls/c?token=s3cr3t-8", "")).unwrap();
    wait_until(LONG, "the server has received the request", || {
        server.log().iter().any(|line| line.contains("call status request"))
    });
    // The connection is refused before it has sent anything.
    let answer = server.ask(b"");
    assert_eq!(line(&answer), "HTTP/1.1 503 Service Unavailable");
}

//! `GET /calls/{callId}`: what an app is told that a push has woken for a call.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

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
    Rules { readiness, try_page: false, origins, proxies, head_bytes_max: 8192 }
}

fn codec() -> Codec {
    Codec::new(LIMIT, rules(Origins::any()))
}

fn request(method: &str, path: &str, more: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: live.example\r\n{more}\r\n").into_bytes()
}

/// The call that a path asks for, or the answer at once.
fn asked(path: &str) -> Result<Id, String> {
    let mut session = WireSession::default();
    session.feed(&mut codec(), &request("GET", path, ""));
    match session.take_events().pop() {
        Some(Event::CallStatusRequest(asked)) => Ok(asked.call),
        _ => Err(session.answer()),
    }
}

/// What a wire that has asked like this is told.
fn call_status_response(codec: &mut Codec, request: &[u8], told: &CallStatusReply) -> String {
    let mut session = WireSession::default();
    session.feed(codec, request);
    assert!(session.wire.is_awaiting_status(), "{}", session.answer());
    assert!(session.output.is_empty());
    let mut outbox = Outbox::default();
    session.wire.send_call_status(told, &mut outbox);
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
        assert_eq!(asked(path).as_ref(), Ok(&Id::string(call)), "{path}");
    }
    assert_eq!(asked("/calls/7").unwrap().key, Id::number(7).key);
    for (path, status) in [
        ("/calls", "404"),
        ("/calls/", "404"),
        ("/xcalls/c", "404"),
        ("/calls/a/b", "404"),
        ("/calls/%FF", "400"),
        (&format!("/calls/{long}x"), "400"),
    ] {
        let answer = asked(path).unwrap_err();
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
    let [Event::CallStatusRequest(asked)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(asked.client, PEER);
    let secret = asked.credential.as_ref().unwrap().as_ref().unwrap().secret();
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
        let Some(Event::CallStatusRequest(asked)) = session.take_events().pop() else {
            panic!("{path}")
        };
        assert_eq!(asked.credential.unwrap().unwrap().secret(), "s3cr3t");
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
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let mut session = WireSession::default();
        session.feed(&mut codec(), &request(method, "/calls/c", ""));
        assert_eq!(session.take_events(), [Event::Closing], "{method}");
        assert!(session.answer().starts_with("HTTP/1.1 400 "), "{method}");
    }
}

#[test]
fn allowed_origins_may_read_status_and_others_are_refused() {
    let pattern = OriginPattern::parse("https://app.example.org").unwrap();
    let mut codec = Codec::new(LIMIT, rules(Origins::only(&[pattern], None)));
    let of = |origin: &str| format!("Origin: {origin}\r\n");
    let app = of("https://app.example.org");
    for (told, status) in
        [(CallStatusReply::NoSuchCall, "404"), (CallStatusReply::TokenMissing, "401")]
    {
        let answer = call_status_response(&mut codec, &request("GET", "/calls/c", &app), &told);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let allowed = header_of(&answer, "access-control-allow-origin");
        assert_eq!(allowed.as_deref(), Some("https://app.example.org"));
        assert_eq!(header_of(&answer, "access-control-allow-credentials"), None);
        assert_eq!(header_of(&answer, "vary").as_deref(), Some("Origin"));
    }
    // No page, and the page of this address, for which a browser asks no more.
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
    let ask = "Access-Control-Request-Method: GET\r\n\
               Access-Control-Request-Headers: authorization\r\n";
    session.feed(&mut codec, &request("OPTIONS", "/calls/c", &format!("{app}{ask}")));
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
    let later = |answer: &str| {
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert_eq!(header_of(answer, "retry-after").as_deref(), Some("5"));
        // A browser shows it to a page only if it is named (the Fetch standard, section 3.3.3).
        let shown = header_of(answer, "access-control-expose-headers");
        assert_eq!(shown.as_deref(), Some("Retry-After"));
    };
    for ends in [true, false] {
        let (mut session, mut outbox) = (WireSession::default(), Outbox::default());
        session
            .feed(&mut codec, &request("GET", "/calls/c", "Origin: https://app.example.org\r\n"));
        match ends {
            true => session.wire.close(1012, "the server is restarting", &mut outbox),
            false => session.wire.time_out(&mut outbox),
        }
        later(std::str::from_utf8(outbox.only().unwrap()).unwrap());
        assert!(session.wire.is_closing());
        session.wire.send_call_status(&CallStatusReply::NoSuchCall, &mut outbox);
        assert_eq!(outbox.count(), 1, "it has its answer");
    }
    codec.set_readiness(Readiness::Draining);
    let mut session = WireSession::default();
    session.feed(&mut codec, &request("GET", "/calls/c", ""));
    assert_eq!(session.take_events(), [Event::Closing]);
    later(&session.answer());
}

// ---- the hub

const SECOND: Duration = Duration::from_secs(1);

/// What has been told since, of which there is one.
#[track_caller]
fn told(harness: &mut HubHarness, conn: ConnId) -> CallStatusReply {
    let mut all = std::mem::take(&mut harness.call_status_replies);
    assert_eq!(all.len(), 1, "{all:?}");
    let (to, told) = all.remove(0);
    assert_eq!(to, conn);
    told
}

#[track_caller]
fn status(told: &CallStatusReply) -> Value {
    match told {
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

/// Seven is there, and these are in thread 41 with them.
fn calling(others: &[u64]) -> (HubHarness, ConnId) {
    calling_by(verified(), others)
}

fn calling_by(settings: Settings, others: &[u64]) -> (HubHarness, ConnId) {
    let mut harness = HubHarness::new(settings);
    let seven = harness.open_member(0, 7, 41, &[&[7], others].concat());
    (harness, seven)
}

#[test]
fn callee_woken_by_push_can_read_the_call_status() {
    let (mut harness, seven) = calling(&[8]);
    send(&mut harness, seven, &ring(Some(8), "c"));
    harness.received();
    assert_eq!(harness.woken.len(), 1);

    let asker = harness.request_call_status(1, Some("token-of-8"), "c");
    let (request, credential) = harness.next_proof();
    assert_eq!((credential.secret(), harness.hub.status_requests()), ("token-of-8", 1));
    assert!(harness.call_status_replies.is_empty() && harness.hub.is_awaiting_outcome(asker));
    harness.prove(request, 8, None);
    let expected = json!({"callId": "c", "state": "ringing", "threadId": 41, "callerId": 7});
    assert_eq!(status(&told(&mut harness, asker)), expected);
    assert_eq!((harness.hub.status_requests(), harness.hub.backlog()), (0, [0, 0, 0]));
    // No end is told of who never came.
    harness.advance(10 * SECOND);
    harness.assert_nothing_received();
    assert_eq!((harness.hub.counts().users, harness.hub.counts().connections), (1, 1));

    // The proof is remembered: for another question, and for the WebSocket.
    let asker = harness.request_call_status(1, Some("token-of-8"), "c");
    assert_eq!(status(&told(&mut harness, asker)), expected);
    let eight = harness.open_with(1, "token-of-8");
    assert_eq!(harness.pending_asks(), 0);
    let heard = harness.received();
    let rings = |(to, frame): &(ConnId, Value)| *to == eight && frame["type"] == "call_initiated";
    assert_eq!(heard.iter().filter(|each| rings(each)).count(), 1, "{heard:?}");

    send(&mut harness, eight, &json!({"type": "offer", "callId": "c", "offer": "o"}));
    let asker = harness.request_call_status(2, Some("token-of-8"), "c");
    assert_eq!(status(&told(&mut harness, asker))["state"], "connecting");
    send(&mut harness, seven, &json!({"type": "answer", "callId": "c", "answer": "a"}));
    let asker = harness.request_call_status(2, Some("token-of-7"), "c");
    assert_eq!(status(&told(&mut harness, asker))["state"], "active");
    send(&mut harness, seven, &json!({"type": "call_hangup", "callId": "c"}));
    let asker = harness.request_call_status(2, Some("token-of-8"), "c");
    let expected = json!({
        "callId": "c", "state": "ended", "reason": "hangup", "threadId": 41, "callerId": 7,
    });
    assert_eq!(status(&told(&mut harness, asker)), expected);
    harness.advance(61 * SECOND);
    harness.open_proven(3, 8);
    let asker = harness.request_call_status(2, Some("token-of-8"), "c");
    assert_eq!(told(&mut harness, asker), CallStatusReply::NoSuchCall);
}

#[test]
fn call_status_is_404_for_everyone_else() {
    let (mut harness, seven) = calling(&[8]);
    send(&mut harness, seven, &ring(Some(8), "c"));
    for (token, call) in [("token-of-9", "c"), ("token-of-8", "d")] {
        let asker = harness.request_call_status(1, Some(token), call);
        let user = token.rsplit('-').next().unwrap().parse().unwrap();
        let (request, _) = harness.next_proof();
        harness.prove(request, user, None);
        assert_eq!(told(&mut harness, asker), CallStatusReply::NoSuchCall, "{token} {call}");
    }
}

#[test]
fn unproven_request_gets_the_reason_and_one_site_query() {
    let (mut harness, seven) = calling(&[8]);
    send(&mut harness, seven, &ring(Some(8), "c"));
    let asker = harness.request_call_status(1, None, "c");
    assert_eq!(told(&mut harness, asker), CallStatusReply::TokenMissing);
    let asker = harness.request_call_status(1, Some("two words"), "c");
    assert!(matches!(told(&mut harness, asker), CallStatusReply::CredentialRejected(_)));
    for (token, failure) in [
        ("refused", Failure::TokenRefused),
        ("expired", Failure::TokenExpired),
        ("suspended", Failure::Suspended),
    ] {
        let asker = harness.request_call_status(1, Some(token), "c");
        let (request, _) = harness.next_proof();
        harness.fail(request, failure);
        assert!(
            matches!(told(&mut harness, asker), CallStatusReply::CredentialRejected(_)),
            "{token}"
        );
        let again = harness.request_call_status(1, Some(token), "c");
        assert!(
            matches!(told(&mut harness, again), CallStatusReply::CredentialRejected(_)),
            "{token}"
        );
    }
    // Known to be somebody's, and expired since.
    let asker = harness.request_call_status(1, Some("short"), "c");
    let (request, _) = harness.next_proof();
    harness.prove(request, 8, Some(harness.now.unix_s + 30));
    assert_eq!(status(&told(&mut harness, asker))["state"], "ringing");
    harness.advance(30 * SECOND);
    let asker = harness.request_call_status(1, Some("short"), "c");
    assert!(matches!(told(&mut harness, asker), CallStatusReply::CredentialRejected(_)));
    assert_eq!(harness.pending_asks(), 0);
}

#[test]
fn unanswered_site_query_is_not_a_rejection() {
    let (mut harness, seven) = calling(&[8]);
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
        match told(&mut harness, asker) {
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
    let (mut harness, seven) = calling(&[8]);
    send(&mut harness, seven, &ring(Some(8), "c"));
    harness.received();
    let first = harness.request_call_status(1, Some("token-of-8"), "c");
    let eight = harness.open_with(2, "token-of-8");
    let second = harness.request_call_status(3, Some("token-of-8"), "other");
    let (request, _) = harness.next_proof();
    assert_eq!(harness.pending_asks(), 0);
    harness.close(first);
    harness.prove(request, 8, None);
    assert_eq!(told(&mut harness, second), CallStatusReply::NoSuchCall);
    let to_eight = harness.received().into_iter().filter(|(to, _)| *to == eight).count();
    assert_eq!(to_eight, 2, "who it is, and that it rings");
}

#[test]
fn closed_request_cancels_its_site_query() {
    let (mut harness, seven) = calling(&[8]);
    send(&mut harness, seven, &ring(Some(8), "c"));
    // Two are with the site, the third is in line.
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
    assert!(matches!(told(&mut harness, askers[1]), CallStatusReply::CredentialRejected(_)));
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
    let overloaded = told(&mut harness, asker);
    assert!(
        matches!(overloaded, CallStatusReply::Unavailable { retry_after_s: 5, .. }),
        "{overloaded:?}"
    );
    // Who is known need not wait.
    let (request, _) = harness.next_proof();
    harness.prove(request, 8, None);
    harness.call_status_replies.clear();
    let asker = harness.request_call_status(256, Some("token-0"), "c");
    assert_eq!(told(&mut harness, asker), CallStatusReply::NoSuchCall);
    let waits = harness.request_call_status(0, Some("token-256"), "c");
    assert!(harness.call_status_replies.is_empty() && harness.hub.is_awaiting_outcome(waits));
}

#[test]
fn absent_group_callee_may_ask_while_still_a_participant() {
    let calls = CallSettings { ring_lasts: 300 * SECOND, ..CallSettings::default() };
    let (mut harness, seven) = calling_by(Settings { calls, ..verified() }, &[8, 9]);
    harness.open_proven(1, 8);
    send(&mut harness, seven, &ring(None, "g"));
    assert_eq!(harness.woken.len(), 1);
    let asker = harness.request_call_status(2, Some("token-of-9"), "g");
    let (request, _) = harness.next_proof();
    harness.prove(request, 9, None);
    assert_eq!(status(&told(&mut harness, asker))["state"], "ringing");
    // The site takes 9 out of the thread.
    harness.advance(61 * SECOND);
    harness.send(seven, r#"{"type":"join_thread","threadId":41}"#);
    let (request, ..) = harness.next_list();
    harness.list(request, &[7, 8]);
    let asker = harness.request_call_status(2, Some("token-of-9"), "g");
    assert_eq!(told(&mut harness, asker), CallStatusReply::NoSuchCall);
    assert_eq!(harness.hub.counts().calls, [1, 0]);
}

#[test]
fn call_lost_by_glare_names_the_surviving_call() {
    let (mut harness, seven) = calling(&[8]);
    let eight = harness.open_proven(1, 8);
    send(&mut harness, seven, &ring(Some(8), "b"));
    send(&mut harness, eight, &ring(Some(7), "a"));
    let asker = harness.request_call_status(2, Some("token-of-8"), "b");
    let expected = json!({
        "callId": "b", "state": "ended", "reason": "glare", "continuesAs": "a", "threadId": 41,
        "callerId": 7,
    });
    assert_eq!(status(&told(&mut harness, asker)), expected);
}

#[test]
fn ended_group_call_reads_ended_for_absent_callee() {
    let (mut harness, seven) = calling(&[8, 9]);
    harness.open_proven(1, 8);
    send(&mut harness, seven, &ring(None, "g"));
    send(&mut harness, seven, &json!({"type": "call_hangup", "callId": "g"}));
    let asker = harness.request_call_status(2, Some("token-of-9"), "g");
    let (request, _) = harness.next_proof();
    harness.prove(request, 9, None);
    let status = status(&told(&mut harness, asker));
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
        assert_eq!(status(&told(&mut harness, asker)), expected);
    }
    send(&mut harness, alice, &json!({"type": "call_cancelled", "callId": "7"}));
    let asker = harness.request_call_status(1, None, "7");
    assert_eq!(status(&told(&mut harness, asker))["reason"], "cancelled");
    let asker = harness.request_call_status(1, None, "8");
    assert_eq!(told(&mut harness, asker), CallStatusReply::NoSuchCall);
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
    let over = json_of(&get(&server, "/calls/c", ""));
    assert_eq!((&over["state"], &over["reason"]), (&json!("ended"), &json!("hangup")));
    assert_eq!(line(&get(&server, "/calls/nobody", "")), "HTTP/1.1 404 Not Found");
    let head = server.ask(&request("HEAD", "/calls/c", ""));
    assert!(head.starts_with("HTTP/1.1 200 OK") && body(&head).is_empty(), "{head}");
    let post = server.ask(&request("POST", "/calls/c", "Content-Length: 0\r\n"));
    assert_eq!(line(&post), "HTTP/1.1 400 Bad Request");
}

/// A server at a site with thread 41 of the members 7 and 8, where 7 calls 8.
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
    assert_eq!(site.proof_requests().len(), proofs + 1, "one question");
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
    // Nobody has come, for whom it would ring.
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
    let mut gone = TcpStream::connect(server.address()).unwrap();
    gone.write_all(&request("GET", "/calls/c?token=s3cr3t-8", "")).unwrap();
    wait_until(LONG, "the site is asked", || {
        server.log().iter().any(|line| line.contains("call status request"))
    });
    drop(gone);
    let began = Instant::now();
    let answer = get(&server, "/calls/c?token=fresh-8", "");
    assert_eq!(json_of(&answer)["state"], "ringing");
    assert!(began.elapsed() >= SECOND * 9 / 10, "it was not known before");
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
    // Who is known is told all the same.
    assert_eq!(json_of(&get(&server, "/calls/c?token=s3cr3t-7", ""))["state"], "ringing");
}

#[test]
fn drain_answers_earlier_requests_and_refuses_new_ones() {
    let site = Site::start();
    let (mut server, seven) = ringing(&site, &["--drain-timeout", "8s"]);
    site.set_latency(SECOND);
    let mut waits = TcpStream::connect(server.address()).unwrap();
    waits.set_read_timeout(Some(LONG)).unwrap();
    waits.write_all(&request("GET", "/calls/c?token=s3cr3t-8", "")).unwrap();
    wait_until(LONG, "it has asked", || {
        server.log().iter().any(|line| line.contains("call status request"))
    });
    server.signal("TERM");
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("draining")));
    let late = get(&server, "/calls/c?token=s3cr3t-7", "");
    assert_eq!(line(&late), "HTTP/1.1 503 Service Unavailable");
    assert_eq!(header_of(&late, "retry-after").as_deref(), Some("5"));
    drop(seven);
    let mut answer = String::new();
    waits.read_to_string(&mut answer).unwrap();
    assert_eq!(json_of(&answer)["state"], "ringing", "its caller has a while to come back");
    assert!(server.exit(LONG).success());
}

#[test]
fn status_request_counts_as_a_connection() {
    let site = Site::start();
    let (server, _seven) = ringing(&site, &["--max-connections", "2"]);
    site.set_latency(SECOND);
    let mut waits = TcpStream::connect(server.address()).unwrap();
    waits.write_all(&request("GET", "/calls/c?token=s3cr3t-8", "")).unwrap();
    wait_until(LONG, "it has asked", || {
        server.log().iter().any(|line| line.contains("call status request"))
    });
    // It is refused before it has said anything.
    let answer = server.ask(b"");
    assert_eq!(line(&answer), "HTTP/1.1 503 Service Unavailable");
}

//! Regression tests: held frames, late answers, outages, and users that come, go and change. The
//! comment before each test describes the bug.

use std::time::Duration;

use buddyline::config::Trust;
use buddyline::hub::interface::{
    Answer, Ask, ConnId, DeliveryLimits, Failure, HeldFrameLimits, RequestId, Settings,
};

use crate::support::harness::{HubHarness, settings, verified};

const S: Duration = Duration::from_secs(1);

/// The hub settings that `server/setup.rs` derives from the default configuration.
fn default_settings() -> Settings {
    Settings {
        trust: Trust::Verified,
        site_queries: 4,
        joins_per_connection: 1000,
        deliveries: DeliveryLimits { total: 10_000, per_connection: 64, bytes: 64 << 20 },
        held_frames: HeldFrameLimits {
            total: 50_000,
            bytes: 64 << 20,
            per_connection: 1064,
            bytes_per_connection: 512 << 10,
        },
        ..settings()
    }
}

fn join(thread: u64) -> String {
    format!(r#"{{"type":"join_thread","threadId":{thread}}}"#)
}

fn typing(thread: u64) -> String {
    format!(r#"{{"type":"typing","threadId":{thread}}}"#)
}

fn send(thread: u64, id: &str) -> String {
    format!(r#"{{"type":"send_message","threadId":{thread},"message":"x","clientId":"{id}"}}"#)
}

fn frames_to<'a>(
    received: &'a [(ConnId, serde_json::Value)],
    conn: ConnId,
    kind: &str,
) -> Vec<&'a serde_json::Value> {
    received.iter().filter(|(to, f)| *to == conn && f["type"] == kind).map(|(_, f)| f).collect()
}

// A list that was already too old for calls on arrival was queried again, forever.
#[test]
fn call_to_non_participant_has_outcome_despite_slow_list() {
    let mut harness = HubHarness::new(verified());
    let alice = harness.open_member(0, 2, 1, &[2, 3]);
    harness.advance(11 * S);
    harness.send(alice, r#"{"type":"call_initiated","recipientId":9,"threadId":1,"clientId":"c"}"#);
    assert_outcome_despite_slow_lists(&mut harness);
}

// The same for joins, when a list arrives after its lifetime (--membership-lasts 10s is allowed
// beside --upstream-timeout 30s; the defaults allow 60s beside 5m).
#[test]
fn join_has_outcome_when_list_arrives_already_stale() {
    let lasts = 10 * S;
    let mut harness = HubHarness::new(Settings { membership_lasts: lasts, ..verified() });
    let alice = harness.open_proven(0, 2);
    harness.send(alice, &join(1));
    assert_outcome_despite_slow_lists(&mut harness);
}

#[track_caller]
fn assert_outcome_despite_slow_lists(harness: &mut HubHarness) {
    for round in 0..100 {
        while let Some(proof) = harness.try_next_proof() {
            harness.prove(proof, 2, None);
        }
        let Some((request, _)) = harness.try_next_list() else {
            assert_eq!(harness.received().len(), 1, "outcome after {round} queries");
            return;
        };
        harness.advance(11 * S);
        harness.list(request, &[2, 3]);
    }
    panic!("100 queries for one frame, and no outcome: {:?}", harness.received());
}

// With a constant flow of messages and overlapping queries, each list was intersected with the one
// before and kept its age: a new participant never got in, and after 60 s no subscriber received
// anything.
#[test]
fn recently_added_participant_can_join_a_busy_thread() {
    let mut harness = HubHarness::new(verified());
    let alice = harness.open_member(0, 2, 1, &[2, 3]);
    let bob = harness.open_member(1, 3, 1, &[2, 3]);
    let carol = harness.open_proven(2, 4);
    // One message is always in flight.
    harness.send(alice, &send(1, "first"));
    harness.send(alice, &send(1, "next"));
    let (mut post, _) = harness.next_post();
    // The site has just added Carol to the thread, and she joins.
    harness.send(carol, &join(1));
    let (mut list, _) = harness.try_next_list().unwrap();
    let mut before = true;
    let mut received_by_bob = 0;
    let mut lists = 1;
    for round in 0..120 {
        harness.advance(S);
        // The site lists all three, except in the post that it processed before it added Carol.
        let users: &[u64] = if before { &[2, 3] } else { &[2, 3, 4] };
        before = false;
        harness.store_with_participants(post, 1, 2, Some(users));
        harness.send(alice, &send(1, &format!("m{round}")));
        let mut posts = Vec::new();
        while harness.pending_asks() > 0 {
            match harness.next_ask() {
                (request, Ask::Post(_)) => posts.push(request),
                (_, other) => panic!("{other:?}"),
            }
        }
        post = posts.pop().expect("one message is always in flight");
        harness.advance(S / 2);
        harness.list(list, &[2, 3, 4]);
        let received = harness.received();
        received_by_bob += frames_to(&received, bob, "message").len();
        if !frames_to(&received, carol, "thread_joined").is_empty() {
            println!("joined after {round} rounds");
            return;
        }
        list = match harness.try_next_list() {
            Some((request, _)) => request,
            None => panic!("carol has no outcome and no query is pending: {received:?}"),
        };
        lists += 1;
    }
    panic!(
        "120 messages, {lists} lists: carol has not joined, and bob has received {received_by_bob} of the messages"
    );
}

// One user's failed query counted as an outage for the whole thread.
#[test]
fn failed_query_by_non_participant_does_not_affect_thread() {
    let mut harness = HubHarness::new(verified());
    let alice = harness.open_proven(0, 2);
    let mallory = harness.open_proven(1, 7);
    harness.send(mallory, &join(1));
    // The site answers this user's query with a 403 of some plugin (checks.rs: `unavailable`).
    let (request, _) = harness.try_next_list().unwrap();
    harness.fail(request, Failure::SiteUnavailable { retry_after_s: None });
    harness.received();
    harness.send(alice, &join(1));
    let received = harness.received();
    assert!(received.is_empty() && harness.pending_asks() == 1, "alice: {received:?}");
}

#[test]
fn removed_member_cannot_keep_a_stale_list_by_failing() {
    let mut harness = HubHarness::new(verified());
    let alice = harness.open_member(0, 2, 1, &[2, 7]);
    let mallory = harness.open_member(1, 7, 1, &[2, 7]);
    // Now the site removes Mallory (7). It answers all queries but hers at once.
    let mut last = None;
    let start = harness.now.instant;
    for _ in 0..700 {
        harness.advance(S);
        // Mallory sends first in each second: only an undecided list is queried.
        harness.send(mallory, &typing(1));
        if let Some((request, _)) = harness.try_next_list() {
            harness.fail(request, Failure::SiteUnavailable { retry_after_s: None });
        }
        harness.received();
        harness.send(alice, &typing(1));
        let received = harness.received();
        if !frames_to(&received, mallory, "typing").is_empty() {
            last = Some(harness.now.instant - start);
        }
        if let Some((request, _)) = harness.try_next_list() {
            harness.list(request, &[2]);
        }
        harness.received();
    }
    assert!(last.unwrap() <= 61 * S, "mallory receives alice's typing {last:?} after the list");
}

// A connection that changed its user still received the former user's outcomes.
#[test]
fn outcome_is_not_sent_after_connection_changes_user() {
    let mut harness = HubHarness::new(verified());
    let first = harness.open_member(0, 2, 1, &[2, 3]);
    harness.send(first, &send(1, "secret"));
    let (post, _) = harness.next_post();
    harness.close(first);
    let second = harness.open_proven(1, 2);
    // Another user signs in on the second connection.
    harness.send(second, r#"{"type":"user_connected","userId":9,"token":"token-of-9"}"#);
    let (proof, _) = harness.next_proof();
    harness.prove(proof, 9, None);
    harness.received();
    harness.store_with_participants(post, 1, 2, Some(&[2, 3]));
    let received = harness.received();
    assert!(frames_to(&received, second, "message").is_empty(), "user 9 receives {received:?}");
}

#[test]
fn outcome_survives_connection_that_changed_user_and_closed() {
    let mut harness = HubHarness::new(verified());
    let first = harness.open_member(0, 2, 1, &[2, 3]);
    harness.send(first, &send(1, "m"));
    let (post, _) = harness.next_post();
    harness.close(first);
    let second = harness.open_proven(1, 2);
    harness.send(second, r#"{"type":"user_connected","userId":9,"token":"token-of-9"}"#);
    let (proof, _) = harness.next_proof();
    harness.prove(proof, 9, None);
    harness.close(second);
    let third = harness.open_proven(2, 2);
    harness.received();
    harness.store_with_participants(post, 1, 2, Some(&[2, 3]));
    let received = harness.received();
    assert_eq!(frames_to(&received, third, "message").len(), 1, "no outcome: {received:?}");
}

// stop() and the revocation of the querying connection lost the outcome of the next connection.
#[test]
fn stop_delivers_outcome_to_next_connection() {
    let mut harness = HubHarness::new(verified());
    let first = harness.open_member(0, 2, 1, &[2, 3]);
    harness.send(first, &send(1, "m"));
    harness.next_post();
    harness.close(first);
    let second = harness.open_proven(1, 2);
    harness.received();
    harness.hub.stop();
    harness.take_effects();
    let received = harness.received();
    assert_eq!(frames_to(&received, second, "error").len(), 1, "no outcome: {received:?}");
}

#[test]
fn stop_delivers_held_message_to_next_connection() {
    let mut harness = HubHarness::new(verified());
    let first = harness.open_proven(0, 2);
    harness.send(first, &send(1, "m"));
    let (post, _) = harness.next_post();
    harness.store_with_participants(post, 1, 2, None);
    harness.try_next_list().unwrap();
    harness.close(first);
    let second = harness.open_proven(1, 2);
    harness.received();
    harness.hub.stop();
    harness.take_effects();
    let received = harness.received();
    assert_eq!(frames_to(&received, second, "message").len(), 1, "no outcome: {received:?}");
}

#[test]
fn revoked_query_delivers_outcome_to_next_connection() {
    let mut harness = HubHarness::new(verified());
    let first = harness.open_proven(0, 2);
    harness.send(first, &send(1, "m"));
    let (post, _) = harness.next_post();
    harness.store_with_participants(post, 1, 2, None);
    let (list, _) = harness.try_next_list().unwrap();
    harness.close(first);
    // The same user with another token.
    let second = harness.open_with(1, "fresh-token-of-2");
    harness.advance(S);
    let (proof, _) = harness.next_proof();
    harness.prove(proof, 2, None);
    harness.received();
    harness.fail(list, Failure::TokenExpired);
    let received = harness.received();
    assert_eq!(frames_to(&received, second, "message").len(), 1, "no outcome: {received:?}");
}

// Connections that came and went evicted the undelivered outcomes of others.
#[test]
fn reconnect_churn_does_not_evict_others_outcomes() {
    let mut harness = HubHarness::new(verified());
    let alice = harness.open_member(0, 2, 1, &[2, 3]);
    harness.send(alice, &send(1, "m"));
    let (post, _) = harness.next_post();
    harness.close(alice);
    // One message of Mallory is held while the list of a large thread is queried.
    let mallory = harness.open_proven(1, 7);
    harness.send(mallory, &send(5, "x"));
    let (own, _) = harness.next_post();
    harness.store_with_participants(own, 5, 7, None);
    harness.try_next_list().unwrap();
    for _ in 0..4200 {
        let conn = harness.open_proven(2, 7);
        harness.close(conn);
    }
    harness.store_with_participants(post, 1, 2, Some(&[2, 3]));
    harness.received();
    let alice = harness.open_with(0, "token-of-2");
    let received = harness.received();
    assert_eq!(frames_to(&received, alice, "message").len(), 1, "no outcome: {received:?}");
}

// Stored messages that waited for a list were not bounded.
#[test]
fn held_stored_messages_are_bounded() {
    let mut harness = HubHarness::new(verified());
    let mallory = harness.open_proven(0, 7);
    let text = "x".repeat(4000);
    for n in 0..1000 {
        harness.send(
            mallory,
            &format!(
                r#"{{"type":"send_message","threadId":5,"message":"{text}","clientId":"{n}"}}"#
            ),
        );
        while harness.pending_asks() > 0 {
            if let (request, Ask::Post(_)) = harness.next_ask() {
                harness.store_with_participants(request, 5, 7, None);
            }
        }
    }
    let received = harness.received();
    let outcomes = frames_to(&received, mallory, "error").len()
        + frames_to(&received, mallory, "message").len();
    assert!(
        outcomes > 0,
        "1000 stored messages (4 MB; bounds: 6 and 10 kB) wait, none has an outcome"
    );
}

// Queries outlived the connections that caused them: one account could fill the whole queue.
#[test]
fn queries_of_a_departed_account_do_not_delay_others() {
    let mut harness = HubHarness::new(default_settings());
    let mut thread = 1000;
    for _ in 0..47 {
        let mallory = harness.open_proven(0, 7);
        for _ in 0..1064 {
            harness.hub.handle(
                buddyline::hub::interface::Input::Frame { conn: mallory, text: &join(thread) },
                harness.now,
            );
            thread += 1;
        }
        harness.take_effects();
        harness.close(mallory);
    }
    harness.received();
    let alice = harness.open_proven(1, 2);
    harness.send(alice, &join(1));
    let received = harness.received();
    let mut queries = 0;
    while let Some((request, thread)) = harness.try_next_list() {
        queries += 1;
        if thread == 1 {
            break;
        }
        harness.hub.handle(
            buddyline::hub::interface::Input::Answered {
                request,
                answer: Answer::Failed(Failure::NotParticipant),
            },
            harness.now,
        );
        while let Some(effect) = harness.hub.next_effect() {
            if let buddyline::hub::interface::Effect::Ask { request, ask } = effect {
                if let Ask::Participants { thread, .. } = *ask {
                    if thread == 1 {
                        panic!(
                            "alice waits behind {queries} queries of closed connections: {received:?}"
                        );
                    }
                    harness.hub.handle(
                        buddyline::hub::interface::Input::Answered {
                            request,
                            answer: Answer::Failed(Failure::NotParticipant),
                        },
                        harness.now,
                    );
                    queries += 1;
                }
            }
        }
    }
    assert!(
        received.is_empty() && queries < 100,
        "{queries} queries of closed connections: {received:?}"
    );
}

#[test]
fn one_account_cannot_exhaust_the_query_queue() {
    let mut harness = HubHarness::new(verified());
    for n in 0..13 {
        let mallory = harness.open_proven(0, 7);
        for m in 0..8 {
            harness.send(mallory, &join(1000 + n * 8 + m));
        }
        harness.close(mallory);
    }
    harness.received();
    // Mallory's queries are in flight; her connection is closed.
    let alice = harness.open_with(1, "token-of-2");
    while let Some((request, ask)) = (harness.pending_asks() > 0).then(|| harness.next_ask()) {
        if let Ask::Prove(_) = ask {
            harness.prove(request, 2, None);
        }
    }
    harness.received();
    harness.send(alice, &join(1));
    let received = harness.received();
    assert!(frames_to(&received, alice, "error").is_empty(), "alice: {received:?}");
}

// An expired token stayed valid forever while the client sent other tokens on which the site gave
// no verdict (a firewall's page, a 404, a timeout).
#[test]
fn expired_token_loses_its_proof() {
    let mut harness = HubHarness::new(Settings { site_queries: 8, ..verified() });
    let mallory = harness.open_with(0, "token-of-7");
    let (proof, _) = harness.next_proof();
    harness.prove(proof, 7, Some(harness.now.unix_s + 100));
    harness.send(mallory, &join(1));
    let (list, _) = harness.try_next_list().unwrap();
    harness.list(list, &[2, 7]);
    let alice = harness.open_member(1, 2, 1, &[2, 7]);
    harness.advance(90 * S);
    harness.received();
    let mut n = 0;
    let mut offer_token = |harness: &mut HubHarness| {
        n += 1;
        harness.send(
            mallory,
            &format!(r#"{{"type":"user_connected","userId":7,"token":"waf-bait-{n}"}}"#),
        );
    };
    offer_token(&mut harness);
    offer_token(&mut harness);
    for minute in 0..60 {
        for _ in 0..3 {
            harness.advance(20 * S);
            if harness.closed().iter().any(|(conn, _)| *conn == mallory) {
                assert!(minute <= 3, "{minute}");
                return;
            }
            offer_token(&mut harness);
            while harness.pending_asks() > 0 {
                match harness.next_ask() {
                    (request, Ask::Prove(credential)) if credential.secret() == "token-of-2" => {
                        harness.prove(request, 2, None);
                    }
                    (request, Ask::Prove(_)) => {
                        harness.fail(request, Failure::SiteUnavailable { retry_after_s: None });
                        break;
                    }
                    (request, Ask::Participants { .. }) => harness.list(request, &[2, 7]),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    // The token expired an hour ago: report what the connection can still do.
    harness.received();
    harness.send(alice, &typing(1));
    while harness.pending_asks() > 0 {
        match harness.next_ask() {
            (request, Ask::Participants { .. }) => harness.list(request, &[2, 7]),
            (request, Ask::Prove(credential)) if credential.secret() == "token-of-2" => {
                harness.prove(request, 2, None);
            }
            _ => {}
        }
    }
    let received = frames_to(&harness.received(), mallory, "typing").len();
    harness.send(mallory, &typing(1));
    let sent = frames_to(&harness.received(), alice, "typing").len();
    panic!("open an hour after expiry: typing received {received}, typing sent {sent}");
}

#[test]
fn anonymous_connection_times_out_without_token_verdicts() {
    let mut harness = HubHarness::new(verified());
    let mallory = harness.open(0);
    for n in 0..60 {
        harness.send(
            mallory,
            &format!(r#"{{"type":"user_connected","userId":7,"token":"waf-bait-{n}"}}"#),
        );
        harness.advance(20 * S);
        if !harness.closed().is_empty() {
            return;
        }
        let (request, _) = harness.next_proof();
        harness.fail(request, Failure::SiteUnavailable { retry_after_s: None });
        harness.advance(20 * S);
        if !harness.closed().is_empty() {
            return;
        }
    }
    panic!("open after 40 minutes and 60 tokens without a proof");
}

// During an outage one credential was accepted on one connection and refused on another.
#[test]
fn stale_proof_is_treated_alike_on_two_connections() {
    let mut harness = HubHarness::new(verified());
    let _first = harness.open_with(0, "Basic YWxpY2U6b3BlbiBzZXNhbWU=");
    harness.advance(S);
    let (proof, _) = harness.next_proof();
    harness.prove(proof, 2, None);
    harness.advance(700 * S);
    while harness.pending_asks() > 0 {
        let (request, _) = harness.next_ask();
        harness.fail(request, Failure::SiteUnavailable { retry_after_s: None });
    }
    harness.advance(6 * S);
    harness.received();
    let second = harness.open_with(1, "Basic YWxpY2U6b3BlbiBzZXNhbWU=");
    let (request, _) = harness.next_proof();
    harness.fail(request, Failure::SiteUnavailable { retry_after_s: None });
    let received = harness.received();
    let second_in = !frames_to(&received, second, "user_connected").is_empty();
    harness.send(second, &join(1));
    let codes: Vec<_> = harness.received().iter().map(|(_, f)| f["code"].clone()).collect();
    let third = harness.open_with(2, "Basic YWxpY2U6b3BlbiBzZXNhbWU=");
    harness.advance(S);
    let third_in = !frames_to(&harness.received(), third, "user_connected").is_empty();
    assert_eq!(second_in, third_in, "second {second_in} (then {codes:?}), third {third_in}");
}

// Many held claims caused a recursion as deep.
#[test]
fn many_held_claims_do_not_recurse() {
    // The stack has 8 MiB, like that of the main thread.
    let n: usize = std::env::var("CLAIMS").ok().and_then(|n| n.parse().ok()).unwrap_or(1064);
    let run = move || {
        let mut settings = default_settings();
        settings.held_frames.per_connection = n;
        settings.held_frames.bytes_per_connection = 1 << 30;
        let mut harness = HubHarness::new(settings);
        let alice = harness.open_with(0, "t");
        for _ in 0..n {
            harness.hub.handle(
                buddyline::hub::interface::Input::Frame {
                    conn: alice,
                    text: r#"{"type":"user_connected","userId":2,"token":"t"}"#,
                },
                harness.now,
            );
        }
        harness.take_effects();
        let (proof, _) = harness.next_proof();
        harness.prove(proof, 2, None);
        assert_eq!(frames_to(&harness.received(), alice, "user_connected").len(), n + 1);
    };
    std::thread::Builder::new().stack_size(8 << 20).spawn(run).unwrap().join().unwrap();
}

// The query was marked as sent although the message was refused for lack of space, and never sent.
#[test]
fn rejected_message_leaves_its_token_usable() {
    let held_frames = HeldFrameLimits { total: 1, ..settings().held_frames };
    let mut harness = HubHarness::new(Settings { held_frames, ..verified() });
    let mallory = harness.open_with(0, "garbage");
    harness.send(mallory, &join(1));
    let alice = harness.open(1);
    let message =
        r#"{"type":"send_message","threadId":1,"message":"x","token":"alices","clientId":"a"}"#;
    harness.send(alice, message);
    harness.assert_error(alice, "overloaded");
    let (request, _) = harness.next_proof();
    harness.fail(request, Failure::TokenRefused);
    harness.received();
    harness.advance(60 * S);
    // On a new connection, later, with an idle server.
    let again = harness.open(2);
    harness.send(again, message);
    let (_, credential) = harness.next_proof();
    assert_eq!(credential.secret(), "alices");
}

/// Mallory (4) has joined thread 1, closed and joined again while both query slots were in use: the
/// thread has been put in the queue twice, and the site is queried about it for the first place.
struct QueuedTwice {
    harness: HubHarness,
    alice: ConnId,
    mallory: ConnId,
    /// The query about thread 8, which keeps the other slot.
    eight: RequestId,
    /// The query about thread 1.
    old: RequestId,
}

impl QueuedTwice {
    fn new() -> QueuedTwice {
        let mut harness = HubHarness::new(verified());
        let alice = harness.open_proven(0, 3);
        let mallory = harness.open_proven(1, 4);
        // Both query slots are in use.
        harness.send(alice, &join(7));
        harness.send(alice, &join(8));
        let (seven, _) = harness.try_next_list().unwrap();
        let (eight, _) = harness.try_next_list().unwrap();
        // Two places in the queue for thread 1.
        harness.send(mallory, &join(1));
        harness.close(mallory);
        let mallory = harness.open_proven(1, 4);
        harness.send(mallory, &join(1));
        harness.list(seven, &[3]);
        let (old, 1) = harness.try_next_list().unwrap() else { panic!("thread 1 is not queried") };
        QueuedTwice { harness, alice, mallory, eight, old }
    }
}

// A query whose connection closed kept its place in the queue. When the thread was queried again, the
// second place reset the date of the query in flight.
#[test]
fn older_list_does_not_replace_a_newer_one() {
    let QueuedTwice { mut harness, alice, mallory, eight, old } = QueuedTwice::new();
    harness.advance(S);
    // Now Mallory is removed. Alice sends a message, and the site's answer has the new list.
    harness.send(alice, r#"{"type":"send_message","threadId":1,"message":"x"}"#);
    let (post, _) = harness.next_post();
    harness.store_with_participants(post, 1, 3, Some(&[2, 3]));
    // The second place's turn comes, and then the list that was queried before the post.
    harness.list(eight, &[3]);
    harness.list(old, &[2, 3, 4]);
    harness.received();
    harness.send(mallory, &join(1));
    let (own, ..) = harness.next_list();
    harness.fail(own, Failure::NotParticipant);
    harness.send(alice, r#"{"type":"send_message","threadId":1,"message":"secret"}"#);
    let (post, _) = harness.next_post();
    harness.store_with_participants(post, 1, 3, None);
    let leaked = harness.received();
    assert!(!leaked.iter().any(|(to, f)| *to == mallory && f["type"] == "message"), "{leaked:?}");
}

// The same bug made a list look newer than it was.
#[test]
fn list_age_is_measured_from_the_query() {
    let QueuedTwice { mut harness, mallory, eight, old, .. } = QueuedTwice::new();
    harness.advance(30 * S);
    harness.list(eight, &[3]);
    harness.list(old, &[3, 4]);
    harness.advance(40 * S);
    harness.received();
    // This is 70 s after the query; a list is valid for 60.
    harness.send(mallory, &join(1));
    assert!(
        harness.try_next_list().is_some(),
        "the site is queried again: {:?}",
        harness.received()
    );
}

// A message held for its token's proof had no outcome when the server stopped.
#[test]
fn stop_answers_frames_held_for_a_proof() {
    let mut harness = HubHarness::new(verified());
    let alice = harness.open_with(0, "alices");
    harness.send(alice, r#"{"type":"send_message","threadId":1,"message":"x","clientId":"a"}"#);
    harness.hub.stop();
    harness.take_effects();
    assert_eq!(harness.received().len(), 1);
}

// Each message held during one unanswered query counted as a token without a verdict.
#[test]
fn one_unanswered_query_closes_no_connection() {
    let held_frames = HeldFrameLimits { per_connection: 1064, ..settings().held_frames };
    let mut harness = HubHarness::new(Settings { held_frames, ..verified() });
    let alice = harness.open_with(0, "alices");
    for n in 0..12 {
        let text =
            format!(r#"{{"type":"send_message","threadId":1,"message":"x","clientId":"{n}"}}"#);
        harness.send(alice, &text);
    }
    let (request, _) = harness.next_proof();
    harness.fail(request, Failure::SiteUnavailable { retry_after_s: None });
    assert_eq!(harness.closed(), []);
}

// A held frame was queried with the next user's credential, on behalf of the previous user.
#[test]
fn query_is_sent_with_its_own_users_token() {
    let mut harness = HubHarness::new(verified());
    let carol = harness.open_member(0, 5, 1, &[2, 3, 5]);
    harness.advance(61 * S);
    let shared = harness.open_proven(1, 2);
    let phone = harness.open_member(2, 2, 9, &[2]);
    // Carol's query is in flight when user 2 joins on a shared machine, and user 6 signs in there.
    harness.send(carol, &join(1));
    let (query, _) = harness.try_next_list().unwrap();
    harness.send(shared, &join(1));
    harness.send(shared, r#"{"type":"user_connected","userId":6,"token":"token-of-6"}"#);
    let (proof, _) = harness.next_proof();
    harness.prove(proof, 6, None);
    harness.fail(query, Failure::SiteUnavailable { retry_after_s: None });
    // The query is user 6's now, and its failure does not concern user 2.
    let (request, _, secret) = harness.next_list();
    assert_eq!(secret, "token-of-6");
    harness.fail(request, Failure::NotParticipant);
    harness.received();
    harness.send(phone, &join(1));
    assert_eq!(harness.next_list().2, "token-of-2");
}

// Closed connections kept their places in the queue, without a bound while the site hung.
#[test]
fn reconnect_churn_does_not_grow_the_thread_queue() {
    let mut harness = HubHarness::new(verified());
    let alice = harness.open_proven(0, 3);
    harness.send(alice, &join(7));
    harness.send(alice, &join(8));
    while harness.try_next_list().is_some() {}
    harness.open_proven(2, 4);
    for _ in 0..1000 {
        let mallory = harness.open_with(1, "token-of-3");
        (1..=8).for_each(|thread| harness.send(mallory, &join(100 + thread)));
        harness.close(mallory);
    }
    let [frames, checks, _] = harness.hub.backlog();
    assert_eq!(frames, 2);
    assert!(checks < 100, "{checks} queued");
}

// The same for the queue of proofs, which holds token secrets.
#[test]
fn reconnect_churn_does_not_grow_the_proof_queue() {
    let mut harness = HubHarness::new(verified());
    let _in_flight = [harness.open_with(0, "one"), harness.open_with(1, "two")];
    for n in 0..1000 {
        let mallory = harness.open_with(2, &format!("garbage-{n}"));
        harness.close(mallory);
    }
    let [_, checks, _] = harness.hub.backlog();
    assert!(checks < 100, "{checks} queued");
}

// The outcome was kept for the connection's last user instead of the sender.
#[test]
fn outcome_is_kept_when_another_user_takes_the_connection() {
    let mut harness = HubHarness::new(verified());
    let shared = harness.open_proven(0, 2);
    harness.send(shared, r#"{"type":"send_message","threadId":1,"message":"x","clientId":"a"}"#);
    let (post, _) = harness.next_post();
    harness.send(shared, r#"{"type":"user_connected","userId":6,"token":"token-of-6"}"#);
    let (proof, _) = harness.next_proof();
    harness.prove(proof, 6, None);
    harness.close(shared);
    harness.received();
    let phone = harness.open_proven(1, 2);
    harness.received();
    harness.store_with_participants(post, 1, 2, Some(&[2, 3]));
    let received = harness.received();
    assert!(received.iter().any(|(to, f)| *to == phone && f["clientId"] == "a"), "{received:?}");
}

// Closing rebuilt the queue of the thread once for each held frame.
#[test]
fn closing_is_fast_with_many_frames_held_in_a_thread() {
    let held_frames = HeldFrameLimits {
        total: 50_000,
        bytes: 64 << 20,
        per_connection: 1064,
        bytes_per_connection: 512 << 10,
    };
    let mut harness = HubHarness::new(Settings { held_frames, ..verified() });
    let conns: Vec<_> = (0..10).map(|n| harness.open_proven(n, 10 + u64::from(n))).collect();
    for conn in &conns {
        for _ in 0..1000 {
            harness.hub.handle(
                buddyline::hub::interface::Input::Frame { conn: *conn, text: &join(1) },
                harness.now,
            );
        }
    }
    let before = std::time::Instant::now();
    harness.close(conns[0]);
    let took = before.elapsed();
    assert!(took < Duration::from_millis(100), "{took:?}");
}

// When the connection that took over an outcome closed, the user's other later connection was
// skipped.
#[test]
fn outcome_moves_on_when_the_next_connection_closes() {
    let mut harness = HubHarness::new(verified());
    let lost = harness.open_proven(0, 4);
    harness.send(lost, r#"{"type":"send_message","threadId":1,"message":"x","clientId":"a"}"#);
    let (post, _) = harness.next_post();
    harness.close(lost);
    let next = harness.open_proven(1, 4);
    let other = harness.open_proven(2, 4);
    harness.close(next);
    harness.received();
    harness.store_with_participants(post, 1, 4, Some(&[2, 4]));
    let received = harness.received();
    assert!(received.iter().any(|(to, f)| *to == other && f["clientId"] == "a"), "{received:?}");
}

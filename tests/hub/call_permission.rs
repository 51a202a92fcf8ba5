//! Calls of two ring only if the site lets the caller write to the other participant.

use std::time::Duration;

use buddyline::hub::interface::{Answer, Ask, ConnId, Failure, RequestId};

use crate::support::harness::{HubHarness, verified};

const SECOND: Duration = Duration::from_secs(1);
const DOWN: Failure = Failure::SiteUnavailable { retry_after_s: None };

fn call(kind: &str, id: &str) -> String {
    format!(
        r#"{{"type":"{kind}","offer":"o","candidate":"i","recipientId":8,"threadId":41,"callId":"{id}"}}"#
    )
}

/// Users 7 and 8 in a thread of these participants; the test answers whether they may call.
fn fixture(participants: &[u64]) -> (HubHarness, ConnId, ConnId) {
    let mut harness = HubHarness::new(verified());
    harness.lets_everyone_call = false;
    let seven = harness.open_member(0, 7, 41, participants);
    let eight = harness.open_member(1, 8, 41, participants);
    (harness, seven, eight)
}

#[track_caller]
fn next_permission(harness: &mut HubHarness) -> RequestId {
    match harness.next_ask() {
        (request, Ask::CallPermission { thread: 41, credential }) => {
            assert_eq!(credential.secret(), "token-of-7");
            request
        }
        other => panic!("{other:?}"),
    }
}

fn types_to(harness: &mut HubHarness, conn: ConnId) -> Vec<String> {
    let received = harness.received().into_iter().filter(|(to, _)| *to == conn);
    received.map(|(_, frame)| frame["type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn blocked_caller_does_not_ring() {
    for kind in ["offer", "call_initiated"] {
        let (mut harness, seven, eight) = fixture(&[7, 8]);
        harness.send(seven, &call(kind, "c"));
        let request = next_permission(&mut harness);
        harness.assert_nothing_received();
        harness.answer(request, Answer::CallPermission(false));
        let error = harness.assert_error(seven, "cannot_write");
        assert_eq!(error["callId"], "c");
        // The answer holds for a minute.
        harness.advance(59 * SECOND);
        harness.received();
        harness.send(seven, &call(kind, "d"));
        harness.assert_error(seven, "cannot_write");
        harness.advance(SECOND);
        while let Some((request, _)) = harness.try_next_list() {
            harness.list(request, &[7, 8]);
        }
        harness.send(seven, &call(kind, "e"));
        while let Some((request, _)) = harness.try_next_list() {
            harness.list(request, &[7, 8]);
        }
        let request = next_permission(&mut harness);
        harness.answer(request, Answer::CallPermission(true));
        assert_eq!(types_to(&mut harness, eight), [kind]);
    }
}

#[test]
fn frames_behind_a_waiting_call_keep_their_order() {
    let (mut harness, seven, eight) = fixture(&[7, 8]);
    harness.send(seven, &call("call_initiated", "c"));
    for kind in ["offer", "ice-candidate"] {
        harness.send(seven, &call(kind, "c"));
    }
    let request = next_permission(&mut harness);
    assert_eq!(harness.pending_asks(), 0, "one question for one call");
    harness.answer(request, Answer::CallPermission(true));
    assert_eq!(types_to(&mut harness, eight), ["call_initiated", "offer"]);
    // A renegotiation within the call asks nobody.
    harness.send(eight, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    assert_eq!(types_to(&mut harness, eight), ["ice-candidate"], "kept until the answer");
    harness.advance(61 * SECOND);
    harness.received();
    harness.send(seven, &call("offer", "c"));
    assert!(!matches!(harness.try_next_list(), Some((_, thread)) if thread != 41));
    assert_eq!(harness.pending_asks(), 0);
    assert_eq!(types_to(&mut harness, eight), ["offer"]);
}

#[test]
fn call_cancelled_while_the_site_is_asked_ends() {
    let (mut harness, seven, eight) = fixture(&[7, 8]);
    harness.send(seven, &call("call_initiated", "c"));
    harness.send(seven, r#"{"type":"call_cancelled","callId":"c"}"#);
    let request = next_permission(&mut harness);
    harness.answer(request, Answer::CallPermission(true));
    assert!(types_to(&mut harness, eight).iter().any(|kind| kind == "call_cancelled"));
    assert_eq!(harness.hub.counts().calls, [0, 0]);
}

#[test]
fn calls_in_larger_threads_ask_nobody() {
    let (mut harness, seven, eight) = fixture(&[7, 8, 9]);
    harness.send(seven, &call("offer", "c"));
    assert_eq!(types_to(&mut harness, eight), ["offer"]);
    assert_eq!(harness.pending_asks(), 0);
}

#[test]
fn call_rings_while_the_site_is_down_unless_refused_before() {
    let (mut harness, seven, eight) = fixture(&[7, 8]);
    harness.send(seven, &call("offer", "c"));
    let request = next_permission(&mut harness);
    harness.fail(request, DOWN);
    assert_eq!(types_to(&mut harness, eight), ["offer"]);
    harness.send(seven, r#"{"type":"call_hangup","callId":"c"}"#);
    harness.received();
    harness.send(seven, &call("offer", "d"));
    let request = next_permission(&mut harness);
    harness.answer(request, Answer::CallPermission(false));
    harness.assert_error(seven, "cannot_write");
    harness.advance(61 * SECOND);
    harness.received();
    harness.send(seven, &call("offer", "e"));
    while let Some((request, _)) = harness.try_next_list() {
        harness.list(request, &[7, 8]);
    }
    let request = next_permission(&mut harness);
    harness.fail(request, DOWN);
    harness.assert_error(seven, "cannot_write");
    assert_eq!(types_to(&mut harness, eight), [""; 0]);
}

#[test]
fn full_queue_does_not_let_a_call_ring_unchecked() {
    let (mut harness, seven, eight) = fixture(&[7, 8]);
    harness.send(seven, &call("offer", "c"));
    let request = next_permission(&mut harness);
    harness.fail(request, Failure::Overloaded);
    harness.assert_error(seven, "overloaded");
    assert_eq!(types_to(&mut harness, eight), [""; 0]);
}

#[test]
fn refused_token_in_the_question_closes_the_caller() {
    let (mut harness, seven, eight) = fixture(&[7, 8]);
    harness.send(seven, &call("offer", "c"));
    let request = next_permission(&mut harness);
    harness.fail(request, Failure::Suspended);
    assert_eq!(harness.closed(), [(seven, 4401)]);
    assert!(types_to(&mut harness, eight).iter().all(|kind| kind != "offer"));
}

#[test]
fn question_of_a_closed_connection_is_dropped() {
    let mut settings = verified();
    settings.site_queries = 1;
    let mut harness = HubHarness::new(settings);
    harness.lets_everyone_call = false;
    let seven = harness.open_member(0, 7, 41, &[7, 8]);
    let eight = harness.open_member(1, 8, 41, &[7, 8]);
    // Another query is in flight, so the question waits.
    harness.open_with(2, "token-of-9");
    let (busy, _) = harness.next_proof();
    harness.send(seven, &call("offer", "c"));
    assert_eq!(harness.pending_asks(), 0);
    harness.close(seven);
    harness.prove(busy, 9, None);
    assert_eq!(harness.pending_asks(), 0);
    harness.received();
    // The slot's next user is not affected.
    let again = harness.open_member(0, 7, 41, &[7, 8]);
    harness.send(again, &call("offer", "d"));
    let request = next_permission(&mut harness);
    harness.answer(request, Answer::CallPermission(true));
    assert_eq!(types_to(&mut harness, eight), ["offer"]);
}

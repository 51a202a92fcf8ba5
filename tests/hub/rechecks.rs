//! Asking the site again about users whose proof is old: listeners, and frames that others see.

use std::time::Duration;

use buddyline::hub::interface::{Answer, Ask, ConnId, Failure, Proven, RequestId, Settings};

use crate::support::harness::{HubHarness, verified};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DOWN: Failure = Failure::SiteUnavailable { retry_after_s: None };
const TYPING: &str = r#"{"type":"typing","threadId":41,"typing":true}"#;
const OFFER: &str = r#"{"type":"offer","offer":"o","recipientId":8,"threadId":41,"callId":"c"}"#;

/// Opens a connection whose token is verified by its signature alone, valid for a week.
fn open_verified(harness: &mut HubHarness, slot: u32, user: u64) -> ConnId {
    let conn = harness.open_with(slot, &format!("token-of-{user}"));
    let expires_s = Some(harness.now.unix_s + 7 * 86_400);
    if let Some(request) = harness.try_next_proof() {
        harness.answer(request, Answer::Verified(Proven { user, expires_s }));
    }
    harness.received();
    conn
}

/// Users 7 and 8 in thread 41, their tokens verified by the signature alone.
fn two_in_thread(settings: Settings) -> (HubHarness, ConnId, ConnId) {
    let mut harness = HubHarness::new(settings);
    let seven = open_verified(&mut harness, 0, 7);
    let eight = open_verified(&mut harness, 1, 8);
    for conn in [seven, eight] {
        harness.send(conn, r#"{"type":"join_thread","threadId":41}"#);
        if let Some((request, _)) = harness.try_next_list() {
            harness.list(request, &[7, 8]);
        }
    }
    harness.received();
    (harness, seven, eight)
}

#[track_caller]
fn next_recheck(harness: &mut HubHarness, user: u64) -> RequestId {
    match harness.next_ask() {
        (request, Ask::Recheck(token)) if token.secret() == format!("token-of-{user}") => request,
        other => panic!("{other:?}"),
    }
}

fn types_to(harness: &mut HubHarness, conn: ConnId) -> Vec<String> {
    let received = harness.received().into_iter().filter(|(to, _)| *to == conn);
    received.map(|(_, frame)| frame["type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn suspended_listener_is_found_within_ten_minutes() {
    let mut harness = HubHarness::new(verified());
    let listener = open_verified(&mut harness, 0, 7);
    harness.advance(10 * MINUTE - SECOND);
    assert_eq!(harness.pending_asks(), 0);
    harness.advance(SECOND);
    let request = next_recheck(&mut harness, 7);
    harness.prove(request, 7, Some(harness.now.unix_s + 86_400));
    harness.assert_nothing_received();
    // A second round, after the first was answered.
    harness.advance(10 * MINUTE);
    let request = next_recheck(&mut harness, 7);
    harness.fail(request, Failure::Suspended);
    harness.assert_error(listener, "suspended");
    assert_eq!(harness.closed(), [(listener, 4401)]);
}

#[test]
fn unanswered_recheck_is_repeated_and_disconnects_nobody() {
    let mut harness = HubHarness::new(verified());
    open_verified(&mut harness, 0, 7);
    harness.advance(10 * MINUTE);
    for _ in 0..3 {
        let request = next_recheck(&mut harness, 7);
        harness.fail(request, DOWN);
        harness.assert_nothing_received();
        harness.advance(MINUTE - SECOND);
        assert_eq!(harness.pending_asks(), 0);
        harness.advance(SECOND);
    }
    let request = next_recheck(&mut harness, 7);
    harness.prove(request, 7, None);
    harness.advance(9 * MINUTE);
    assert_eq!(harness.pending_asks(), 0);
    assert!(harness.closed().is_empty());
}

#[test]
fn recheck_survives_no_token_expiry() {
    // The token ends a second after its recheck was due but could not be answered.
    let mut harness = HubHarness::new(verified());
    let conn = harness.open_with(0, "token-of-7");
    let request = harness.try_next_proof().unwrap();
    let expires_s = Some(harness.now.unix_s + 601);
    harness.answer(request, Answer::Verified(Proven { user: 7, expires_s }));
    harness.received();
    harness.advance(10 * MINUTE);
    let request = next_recheck(&mut harness, 7);
    harness.fail(request, DOWN);
    harness.advance(SECOND);
    harness.assert_error(conn, "token_expired");
}

#[test]
fn rechecks_go_one_at_a_time_behind_everything_else() {
    let mut settings = verified();
    settings.site_queries = 3;
    let mut harness = HubHarness::new(settings);
    for n in 0..20 {
        open_verified(&mut harness, n, 100 + u64::from(n));
    }
    harness.advance(10 * MINUTE);
    let first = next_recheck(&mut harness, 100);
    assert_eq!(harness.pending_asks(), 0, "the others wait");
    // A client that authenticates does not wait for them.
    harness.open_with(30, "token-of-7");
    let (new, credential) = harness.next_proof();
    assert_eq!(credential.secret(), "token-of-7");
    // Nor does a second connection of a user whose recheck is queued.
    harness.open_with(31, "token-of-119");
    let promoted = next_recheck(&mut harness, 119);
    harness.prove(promoted, 119, None);
    harness.prove(first, 100, None);
    let second = next_recheck(&mut harness, 101);
    assert_eq!(harness.pending_asks(), 0);
    harness.prove(second, 101, None);
    harness.prove(new, 7, None);
    next_recheck(&mut harness, 102);
}

#[test]
fn recheck_that_a_frame_waits_for_goes_first() {
    let (mut harness, seven, eight) = two_in_thread(verified());
    for n in 0..10 {
        open_verified(&mut harness, 10 + n, 100 + u64::from(n));
    }
    harness.advance(10 * MINUTE);
    // User 7's recheck is under way, user 8's is queued.
    let first = next_recheck(&mut harness, 7);
    harness.send(eight, r#"{"type":"typing","threadId":41,"typing":true}"#);
    let second = next_recheck(&mut harness, 8);
    harness.prove(second, 8, None);
    harness.prove(first, 7, None);
    assert!(harness.pending_asks() > 0, "the typing frame waits for the list");
    assert_eq!(types_to(&mut harness, seven), [""; 0]);
}

#[test]
fn suspended_users_typing_and_call_are_never_shown() {
    for frame in [TYPING, OFFER] {
        let (mut harness, seven, eight) = two_in_thread(verified());
        harness.send(seven, frame);
        harness.send(seven, r#"{"type":"ping"}"#);
        assert_eq!(types_to(&mut harness, seven), ["pong"], "only the frame waits");
        let request = next_recheck(&mut harness, 7);
        harness.fail(request, Failure::Suspended);
        let received = harness.received();
        assert!(received.iter().all(|(to, _)| *to == seven), "{received:?}");
        assert_eq!(received[0].1["code"], "suspended");
        assert_eq!(harness.closed(), [(seven, 4401)]);
        harness.advance(6 * SECOND);
        let shown = types_to(&mut harness, eight);
        assert!(shown.iter().all(|kind| kind == "user_disconnected"), "{shown:?}");
    }
}

#[test]
fn confirmed_user_types_without_waiting_for_five_minutes() {
    let (mut harness, seven, eight) = two_in_thread(verified());
    harness.send(seven, TYPING);
    // Further frames keep their order behind the one that waits.
    harness.send(seven, r#"{"type":"send_message","threadId":41,"message":"x","token":"t"}"#);
    let request = next_recheck(&mut harness, 7);
    assert_eq!(harness.pending_asks(), 0);
    harness.prove(request, 7, None);
    assert_eq!(types_to(&mut harness, eight), ["typing"]);
    let (post, _) = harness.next_post();
    harness.store(post, 41, 7);
    harness.received();
    for _ in 0..4 {
        harness.advance(55 * SECOND);
        while let Some((request, _)) = harness.try_next_list() {
            harness.list(request, &[7, 8]);
        }
        harness.received();
        harness.send(seven, TYPING);
        while let Some((request, _)) = harness.try_next_list() {
            harness.list(request, &[7, 8]);
        }
        assert_eq!(types_to(&mut harness, eight), ["typing"]);
        assert_eq!(harness.pending_asks(), 0);
    }
    harness.advance(5 * MINUTE);
    harness.received();
    harness.send(seven, TYPING);
    next_recheck(&mut harness, 7);
}

#[test]
fn site_that_does_not_answer_delays_one_frame_only() {
    let (mut harness, seven, eight) = two_in_thread(verified());
    harness.send(seven, TYPING);
    let request = next_recheck(&mut harness, 7);
    harness.fail(request, DOWN);
    assert_eq!(types_to(&mut harness, eight), ["typing"]);
    // The next query goes out beside the frame, and its answer still counts.
    harness.advance(6 * SECOND);
    harness.received();
    harness.send(seven, TYPING);
    assert_eq!(types_to(&mut harness, eight), ["typing"]);
    let request = next_recheck(&mut harness, 7);
    harness.fail(request, Failure::Suspended);
    assert_eq!(harness.closed(), [(seven, 4401)]);
}

#[test]
fn rechecks_can_be_switched_off() {
    let mut settings = verified();
    (settings.user_recheck_every, settings.user_proof_lasts) = (None, None);
    let (mut harness, seven, eight) = two_in_thread(settings);
    harness.send(seven, TYPING);
    assert_eq!(types_to(&mut harness, eight), ["typing"]);
    harness.advance(60 * MINUTE);
    assert_eq!(harness.pending_asks(), 0);
}

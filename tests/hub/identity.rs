//! Authentication in verified trust: each rule, and a client that tries to get around it.

use std::time::Duration;

use buddyline::config::PresenceScope;
use buddyline::hub::interface::{ConnId, Failure, HeldFrameLimits, Settings};
use serde_json::json;

use crate::support::harness::{HubHarness, verified};

const SECOND: Duration = Duration::from_secs(1);

fn harness() -> HubHarness {
    HubHarness::new(verified())
}

const DOWN: Failure = Failure::SiteUnavailable { retry_after_s: None };

fn claim(user: u64, token: &str) -> String {
    format!(r#"{{"type":"user_connected","userId":{user},"token":"{token}"}}"#)
}

const JOIN: &str = r#"{"type":"join_thread","threadId":41}"#;

#[test]
fn handshake_token_identifies_the_connection() {
    let mut harness = harness();
    let conn = harness.open_with(0, "secret");
    harness.assert_nothing_received();
    let (request, credential) = harness.next_proof();
    assert_eq!(credential.secret(), "secret");
    harness.prove(request, 7, None);
    harness.assert_received(&[(conn, r#"{"type":"user_connected","userId":7}"#)]);
}

#[test]
fn user_connected_token_proves_claim_and_keeps_id_form() {
    let mut harness = harness();
    let other = harness.open_proven(0, 3);
    let conn = harness.open(1);
    harness.send(conn, r#"{"type":"user_connected","userId":"7","token":"t","clientId":"c1"}"#);
    harness.assert_nothing_received();
    let (request, _) = harness.next_proof();
    harness.prove(request, 7, None);
    harness.assert_received(&[
        (other, r#"{"type":"user_connected","userId":"7"}"#),
        (conn, r#"{"type":"user_connected","userId":"7","clientId":"c1"}"#),
    ]);
}

#[test]
fn thousand_connections_with_one_token_cause_one_query() {
    let mut harness = harness();
    let conns: Vec<ConnId> = (0..1000).map(|slot| harness.open_with(slot, "shared")).collect();
    let (request, _) = harness.next_proof();
    assert_eq!(harness.pending_asks(), 0);
    harness.prove(request, 7, None);
    assert_eq!(harness.pending_asks(), 0);
    let received = harness.received();
    for conn in conns {
        assert!(received.iter().any(|(to, frame)| *to == conn && frame["userId"] == 7));
    }
    // The cached answer also serves connections that open later.
    let late = harness.open_with(1000, "shared");
    harness.assert_received(&[(late, r#"{"type":"user_connected","userId":7}"#)]);
}

#[test]
fn proof_is_cached_ten_minutes_after_last_connection() {
    let mut harness = harness();
    let conn = harness.open_proven(0, 7);
    harness.close(conn);
    harness.advance(599 * SECOND);
    let again = harness.open_with(0, "token-of-7");
    assert_eq!(harness.pending_asks(), 0);
    harness.close(again);
    harness.advance(2 * SECOND);
    harness.open_with(0, "token-of-7");
    harness.next_proof();
}

#[test]
fn claim_without_token_stays_anonymous_and_unannounced() {
    let mut harness = harness();
    let other = harness.open_proven(0, 3);
    let conn = harness.open(1);
    harness.send(conn, r#"{"type":"user_connected","userId":3}"#);
    harness.assert_error(conn, "token_required");
    for text in [
        JOIN,
        r#"{"type":"typing","threadId":41}"#,
        r#"{"type":"online_users"}"#,
        r#"{"type":"leave_thread","threadId":41}"#,
        r#"{"type":"call_initiated","senderId":3,"recipientId":7,"threadId":41}"#,
        r#"{"type":"offer","offer":"o","senderId":3,"recipientId":7,"threadId":41}"#,
    ] {
        harness.send(conn, text);
        harness.assert_error(conn, "token_required");
    }
    assert_eq!(harness.pending_asks(), 0);
    harness.send(conn, r#"{"type":"ping"}"#);
    harness.assert_received(&[(conn, r#"{"type":"pong"}"#)]);
    harness.close(other);
}

#[test]
fn claim_that_mismatches_the_token_changes_nothing() {
    let mut harness = harness();
    let bystander = harness.open_proven(0, 3);
    let conn = harness.open(1);
    harness.send(conn, &claim(3, "mallorys"));
    let (request, _) = harness.next_proof();
    harness.prove(request, 7, None);
    harness.assert_error(conn, "identity_mismatch");
    harness.send(conn, JOIN);
    harness.assert_error(conn, "token_required");
    // The same for a proven connection.
    let proven = harness.open_proven(2, 7);
    harness.send(proven, r#"{"type":"user_connected","userId":3}"#);
    harness.assert_error(proven, "identity_mismatch");
    harness.send(proven, &claim(3, "mallorys"));
    harness.assert_error(proven, "identity_mismatch");
    harness.send(proven, r#"{"type":"user_connected","userId":"7"}"#);
    harness.assert_received(&[(proven, r#"{"type":"user_connected","userId":"7"}"#)]);
    harness.close(bystander);
}

#[test]
fn refused_token_gets_reason_and_third_closes() {
    for (failure, code) in [
        (Failure::TokenRefused, "token_refused"),
        (Failure::TokenExpired, "token_expired"),
        (Failure::Suspended, "suspended"),
    ] {
        let mut harness = harness();
        let conn = harness.open_with(0, "first");
        for token in ["second", "third"] {
            let (request, _) = harness.next_proof();
            harness.fail(request, failure);
            harness.assert_error(conn, code);
            assert_eq!(harness.closed(), []);
            harness.send(conn, &claim(7, token));
        }
        let (request, _) = harness.next_proof();
        harness.fail(request, failure);
        harness.assert_error(conn, code);
        assert_eq!(harness.closed(), [(conn, 4401)]);
    }
}

/// `staging:pw`, as a browser sends it.
const BASIC: &str = "Basic c3RhZ2luZzpwdw==";

#[test]
fn token_in_a_frame_comes_before_basic_of_the_handshake() {
    let mut harness = harness();
    let conn = harness.open_with(0, BASIC);
    assert_eq!(harness.pending_asks(), 0, "it may be the password of a proxy");
    harness.send(conn, &claim(7, "user-7"));
    let (request, credential) = harness.next_proof();
    assert_eq!(credential.secret(), "user-7");
    harness.prove(request, 7, None);
    let kinds: Vec<_> = harness.received().iter().map(|(_, frame)| frame["type"].clone()).collect();
    assert_eq!(kinds, ["user_connected"]);
    harness.advance(2 * SECOND);
    assert_eq!(harness.pending_asks(), 0, "the password is never asked about");
    harness.assert_nothing_received();
}

#[test]
fn basic_of_the_handshake_is_checked_when_needed_or_after_a_second() {
    type Need = dyn Fn(&mut HubHarness, ConnId);
    let needs: [&Need; 4] = [
        &|harness, _| harness.advance(SECOND),
        &|harness, conn| harness.send(conn, JOIN),
        &|harness, conn| harness.send(conn, r#"{"type":"user_connected","userId":7}"#),
        &|harness, conn| {
            let text = r#"{"type":"send_message","threadId":41,"recipientId":"","message":"x"}"#;
            harness.send(conn, text);
        },
    ];
    for need in needs {
        let mut harness = harness();
        let conn = harness.open_with(0, BASIC);
        harness.send(conn, r#"{"type":"ping"}"#);
        harness.advance(SECOND - Duration::from_millis(1));
        assert_eq!(harness.pending_asks(), 0);
        harness.received();
        need(&mut harness, conn);
        let (request, credential) = harness.next_proof();
        assert_eq!(format!("Basic {}", credential.secret()), BASIC);
        harness.prove(request, 7, None);
        let received = harness.received();
        assert!(received.iter().any(|(_, frame)| frame["type"] == "user_connected"));
        // Once the site has named its user, the next connection need not wait.
        harness.open_with(1, BASIC);
        let received = harness.received();
        assert!(received.iter().any(|(_, frame)| frame["type"] == "user_connected"));
    }
    // A refusal is told as for any other credential, and the time of anonymous connections runs.
    let mut harness = harness();
    let conn = harness.open_with(0, BASIC);
    harness.advance(SECOND);
    let (request, _) = harness.next_proof();
    harness.fail(request, Failure::TokenRefused);
    harness.assert_error(conn, "token_refused");
    let again = harness.open_with(1, BASIC);
    harness.assert_nothing_received();
    harness.send(again, JOIN);
    let codes: Vec<_> = harness.received().iter().map(|(_, frame)| frame["code"].clone()).collect();
    assert_eq!(codes, ["token_refused", "token_required"]);
    harness.advance(60 * SECOND);
    let mut closed = harness.closed();
    closed.sort_by_key(|(conn, _)| conn.slot);
    assert_eq!(closed, [(conn, 4401), (again, 4401)]);
}

#[test]
fn token_refusal_is_cached_for_a_minute() {
    let mut harness = harness();
    let conn = harness.open_with(0, "forged");
    let (request, _) = harness.next_proof();
    harness.fail(request, Failure::TokenRefused);
    harness.assert_error(conn, "token_refused");
    let again = harness.open_with(1, "forged");
    harness.assert_error(again, "token_refused");
    assert_eq!(harness.pending_asks(), 0);
    harness.advance(61 * SECOND);
    harness.received();
    harness.open_with(2, "forged");
    harness.next_proof();
}

#[test]
fn frames_during_pending_proof_are_held_in_order() {
    let mut harness = harness();
    let conn = harness.open_with(0, "t");
    harness.send(conn, JOIN);
    harness.send(conn, r#"{"type":"typing","threadId":41}"#);
    harness.send(conn, r#"{"type":"ping"}"#);
    harness.assert_received(&[(conn, r#"{"type":"pong"}"#)]);
    let (request, _) = harness.next_proof();
    harness.prove(request, 7, None);
    harness.assert_received(&[(conn, r#"{"type":"user_connected","userId":7}"#)]);
    let (request, thread, secret) = harness.next_list();
    assert_eq!((thread, secret.as_str()), (41, "t"));
    harness.list(request, &[7, 8]);
    harness.assert_received(&[
        (conn, r#"{"type":"thread_joined","threadId":41}"#),
        (conn, r#"{"type":"typing","threadId":41,"userId":7,"typing":true}"#),
    ]);
}

#[test]
fn held_frames_are_bounded_and_excess_is_refused() {
    let mut harness = harness();
    let conn = harness.open_with(0, "t");
    for _ in 0..8 {
        harness.send(conn, JOIN);
    }
    harness.assert_nothing_received();
    harness.send(conn, JOIN);
    harness.assert_error(conn, "overloaded");
    // Closing the connection frees the space of its held frames.
    harness.close(conn);
    let conn = harness.open_with(0, "u");
    for _ in 0..8 {
        harness.send(conn, JOIN);
    }
    harness.assert_nothing_received();
}

#[test]
fn unanswered_proof_refuses_nobody_and_is_retried() {
    let mut harness = harness();
    let conn = harness.open_with(0, "t");
    let (request, _) = harness.next_proof();
    harness.fail(request, DOWN);
    harness.assert_error(conn, "site_unavailable");
    // The retry waits a few seconds.
    harness.send(conn, r#"{"type":"user_connected","userId":7}"#);
    harness.assert_error(conn, "site_unavailable");
    assert_eq!(harness.pending_asks(), 0);
    harness.advance(6 * SECOND);
    harness.send(conn, r#"{"type":"online_users"}"#);
    let (request, credential) = harness.next_proof();
    assert_eq!(credential.secret(), "t");
    harness.prove(request, 7, None);
    harness.assert_received(&[
        (conn, r#"{"type":"user_connected","userId":7}"#),
        (conn, r#"{"type":"online_users","userIds":[7]}"#),
    ]);
}

#[test]
fn site_outage_keeps_proven_connections_proven() {
    let mut harness = harness();
    let conn = harness.open_member(0, 7, 41, &[7]);
    harness.advance(601 * SECOND);
    // The token's expiry is unknown, so the site is queried again; no frame waits for that.
    let (request, _) = harness.next_proof();
    harness.send(conn, r#"{"type":"online_users"}"#);
    harness.assert_received(&[(conn, r#"{"type":"online_users","userIds":[7]}"#)]);
    harness.fail(request, DOWN);
    harness.assert_nothing_received();
    harness.send(conn, r#"{"type":"online_users"}"#);
    harness.assert_received(&[(conn, r#"{"type":"online_users","userIds":[7]}"#)]);
    harness.advance(6 * SECOND);
    harness.send(conn, r#"{"type":"online_users"}"#);
    harness.received();
    harness.next_proof();
}

#[test]
fn deleted_users_connections_close_on_site_verdict() {
    let mut harness = harness();
    let one = harness.open_proven(0, 7);
    let two = harness.open_proven(1, 7);
    let other = harness.open_proven(2, 8);
    harness.advance(601 * SECOND);
    harness.send(one, r#"{"type":"online_users"}"#);
    harness.received();
    let (request, _) = harness.next_proof();
    harness.fail(request, Failure::TokenRefused);
    let received = harness.received();
    assert!(received.iter().all(|(_, frame)| frame["code"] == "token_refused"), "{received:?}");
    assert_eq!(received.len(), 2);
    assert_eq!(harness.closed(), [(one, 4401), (two, 4401)]);
    harness.send(other, r#"{"type":"ping"}"#);
    harness.assert_received(&[(other, r#"{"type":"pong"}"#)]);
}

#[test]
fn anonymous_timeout_pauses_while_a_proof_is_pending() {
    let mut harness = harness();
    let silent = harness.open(0);
    let pending = harness.open_with(1, "slow");
    let refused = harness.open_with(2, "forged");
    let (slow, _) = harness.next_proof();
    let (forged, _) = harness.next_proof();
    harness.advance(10 * SECOND);
    harness.fail(forged, Failure::TokenRefused);
    harness.assert_error(refused, "token_refused");
    harness.advance(21 * SECOND);
    harness.assert_error(silent, "token_required");
    assert_eq!(harness.closed(), [(silent, 1008)]);
    harness.advance(10 * SECOND);
    harness.assert_error(refused, "token_required");
    assert_eq!(harness.closed(), [(refused, 4401)]);
    harness.advance(200 * SECOND);
    harness.prove(slow, 7, None);
    harness.assert_received(&[(pending, r#"{"type":"user_connected","userId":7}"#)]);
    harness.advance(3600 * SECOND);
    assert_eq!(harness.closed(), []);
}

#[test]
fn expired_token_has_a_minute_to_be_renewed() {
    let mut harness = harness();
    let (now, soon) = (harness.now.unix_s, harness.now.unix_s + 100);
    let conn = harness.open_with(0, "old");
    let (request, _) = harness.next_proof();
    harness.prove(request, 7, Some(soon));
    harness.send(conn, JOIN);
    let (request, ..) = harness.next_list();
    harness.list(request, &[7, 8]);
    let friend = harness.open_member(1, 8, 41, &[7, 8]);
    harness.received();

    harness.advance(100 * SECOND);
    harness.assert_error(conn, "token_expired");
    for text in [
        JOIN,
        r#"{"type":"typing","threadId":41}"#,
        r#"{"type":"online_users"}"#,
        r#"{"type":"user_connected","userId":7}"#,
        r#"{"type":"send_message","threadId":41,"message":"x"}"#,
    ] {
        harness.send(conn, text);
        harness.assert_error(conn, "token_expired");
    }
    // The connection still receives the frames of its threads.
    harness.send(friend, r#"{"type":"typing","threadId":41}"#);
    let (request, ..) = harness.next_list();
    harness.list(request, &[7, 8]);
    assert!(harness.received().iter().any(|(to, frame)| *to == conn && frame["type"] == "typing"));

    harness.advance(50 * SECOND);
    harness.received();
    harness.send(conn, &claim(7, "fresh"));
    let (request, _) = harness.next_proof();
    harness.prove(request, 7, Some(now + 100_000));
    harness.assert_received(&[(conn, r#"{"type":"user_connected","userId":7}"#)]);
    harness.advance(3000 * SECOND);
    assert_eq!(harness.closed(), []);
}

#[test]
fn unrenewed_token_closes_with_4401() {
    let mut harness = harness();
    let soon = harness.now.unix_s + 100;
    let conn = harness.open_with(0, "old");
    let (request, _) = harness.next_proof();
    harness.prove(request, 7, Some(soon));
    harness.advance(100 * SECOND);
    harness.received();
    // Another user's token and a forged one do not renew it.
    harness.send(conn, &claim(7, "mallorys"));
    let (request, _) = harness.next_proof();
    harness.prove(request, 9, None);
    harness.assert_error(conn, "identity_mismatch");
    harness.advance(30 * SECOND);
    harness.send(conn, &claim(7, "forged"));
    let (request, _) = harness.next_proof();
    harness.advance(15 * SECOND);
    harness.fail(request, Failure::TokenRefused);
    harness.assert_error(conn, "token_refused");
    assert_eq!(harness.closed(), []);
    harness.advance(15 * SECOND);
    assert_eq!(harness.closed(), [(conn, 4401)]);
}

#[test]
fn token_expiry_follows_the_wall_clock() {
    let mut harness = harness();
    let soon = harness.now.unix_s + 100;
    let conn = harness.open_with(0, "t");
    let (request, _) = harness.next_proof();
    harness.prove(request, 7, Some(soon));
    harness.received();
    // The wall clock was an hour fast, and is corrected.
    harness.now.unix_s -= 3600;
    harness.advance(150 * SECOND);
    harness.assert_nothing_received();
    harness.advance(3600 * SECOND);
    harness.assert_error(conn, "token_expired");
}

#[test]
fn stored_message_proves_a_pending_claim() {
    let mut harness = harness();
    let conn = harness.open(0);
    harness.send(conn, r#"{"type":"user_connected","userId":"7","clientId":"a"}"#);
    harness.assert_error(conn, "token_required");
    let send = r#"{"type":"send_message","threadId":41,"message":"hi","token":"t"}"#;
    harness.send(conn, send);
    harness.send(conn, r#"{"type":"typing","threadId":41}"#);
    let (request, credential) = harness.next_proof();
    assert_eq!(credential.secret(), "t");
    harness.prove(request, 7, None);
    harness.assert_received(&[(conn, r#"{"type":"user_connected","userId":"7","clientId":"a"}"#)]);
    let (request, post) = harness.next_post();
    assert_eq!(post.credential.unwrap().secret(), "t");
    harness.store_with_participants(request, 41, 7, Some(&[7, 8]));
    let kinds: Vec<_> =
        harness.received().into_iter().map(|(_, frame)| frame["type"].clone()).collect();
    // The typing was sent after the message, and was held for the list.
    assert_eq!(kinds, ["typing", "thread_joined", "typing", "message"]);
    let again = harness.open_with(1, "t");
    harness.assert_received(&[(again, r#"{"type":"user_connected","userId":7}"#)]);
}

#[test]
fn message_under_a_false_claim_keeps_its_real_sender() {
    let mut harness = harness();
    let conn = harness.open(0);
    harness.send(conn, r#"{"type":"user_connected","userId":8}"#);
    harness.assert_error(conn, "token_required");
    harness.send(
        conn,
        r#"{"type":"send_message","threadId":41,"message":"hi","token":"t","senderId":8}"#,
    );
    let (request, _) = harness.next_proof();
    harness.prove(request, 7, None);
    let (request, _) = harness.next_post();
    harness.store_with_participants(request, 41, 7, Some(&[7, 8]));
    let received: Vec<_> = harness.received().into_iter().map(|(_, frame)| frame).collect();
    assert_eq!(received[0]["code"], "identity_mismatch");
    assert_eq!(received[1], serde_json::json!({"type":"user_connected","userId":7}));
    assert_eq!(received[3]["senderId"], 7);
}

#[test]
fn message_with_uncheckable_token_gets_its_own_error() {
    let mut harness = harness();
    let conn = harness.open(0);
    let send = r#"{"type":"send_message","threadId":41,"message":"m","token":"t","clientId":"c"}"#;
    harness.send(conn, send);
    let (request, _) = harness.next_proof();
    harness.fail(request, DOWN);
    let error = harness.assert_error(conn, "site_unavailable");
    assert_eq!((&error["clientId"], &error["replyTo"]), (&"c".into(), &"send_message".into()));
    assert_eq!(harness.pending_asks(), 0);
    harness.advance(6 * SECOND);
    harness.send(conn, send);
    let (request, _) = harness.next_proof();
    harness.prove(request, 7, None);
    harness.next_post();
}

#[test]
fn foreign_token_in_message_does_not_subscribe() {
    let mut harness = harness();
    let conn = harness.open_proven(0, 7);
    harness.send(conn, r#"{"type":"send_message","threadId":41,"message":"hi","token":"of-8"}"#);
    let (request, _) = harness.next_post();
    harness.store_with_participants(request, 41, 8, Some(&[8, 9]));
    let received = harness.received();
    assert_eq!(received.len(), 1, "{received:?}");
    assert_eq!(received[0].1["senderId"], 8);
    let eight = harness.open_member(1, 8, 41, &[8, 9]);
    harness.send(eight, r#"{"type":"typing","threadId":41}"#);
    assert!(harness.received().iter().all(|(to, _)| *to == eight));
}

#[test]
fn message_without_token_uses_the_connections_token() {
    let mut harness = harness();
    let conn = harness.open_proven(0, 7);
    harness.send(conn, r#"{"type":"send_message","threadId":41,"message":"hi"}"#);
    let (_, post) = harness.next_post();
    assert_eq!(post.credential.unwrap().secret(), "token-of-7");
}

#[test]
fn changing_user_drops_the_previous_users_threads() {
    let mut harness = harness();
    let conn = harness.open_member(0, 7, 41, &[7, 8]);
    let friend = harness.open_member(1, 8, 41, &[7, 8]);
    harness.send(conn, &claim(9, "of-9"));
    let (request, _) = harness.next_proof();
    harness.prove(request, 9, None);
    let received = harness.received();
    let left = serde_json::json!({"type":"thread_left","threadId":41,"reason":"user_changed"});
    assert!(received.contains(&(conn, left)), "{received:?}");
    harness.send(friend, r#"{"type":"typing","threadId":41}"#);
    assert!(harness.received().iter().all(|(to, _)| *to == friend));
}

#[test]
fn only_proven_connections_receive_presence() {
    let mut harness = harness();
    let anonymous = harness.open(0);
    let pending = harness.open_with(1, "slow");
    harness.next_proof();
    let seven = harness.open_with(2, "token-of-7");
    let (request, _) = harness.next_proof();
    harness.prove(request, 7, None);
    harness.close(seven);
    harness.advance(6 * SECOND);
    assert!(harness.received().iter().all(|(to, _)| *to != anonymous && *to != pending));
}

#[test]
fn thread_presence_reaches_only_shared_thread_users() {
    let mut harness = HubHarness::new(Settings { presence: PresenceScope::Threads, ..verified() });
    let friend = harness.open_member(0, 8, 41, &[7, 8]);
    let stranger = harness.open_member(1, 9, 42, &[9, 10]);
    let conn = harness.open_with(2, "t");
    let (request, _) = harness.next_proof();
    harness.prove(request, 7, None);
    harness.assert_received(&[
        (friend, r#"{"type":"user_connected","userId":7}"#),
        (conn, r#"{"type":"user_connected","userId":7}"#),
    ]);
    harness.send(conn, r#"{"type":"online_users"}"#);
    harness.assert_received(&[(conn, r#"{"type":"online_users","userIds":[7,8]}"#)]);
    harness.send(stranger, r#"{"type":"online_users"}"#);
    harness.assert_received(&[(stranger, r#"{"type":"online_users","userIds":[9]}"#)]);
    harness.close(conn);
    harness.advance(6 * SECOND);
    harness.assert_received(&[(friend, r#"{"type":"user_disconnected","userId":7}"#)]);
}

#[test]
fn presence_off_sends_no_presence() {
    let mut harness = HubHarness::new(Settings { presence: PresenceScope::Off, ..verified() });
    let friend = harness.open_member(0, 8, 41, &[7, 8]);
    let conn = harness.open_with(1, "t");
    let (request, _) = harness.next_proof();
    harness.prove(request, 7, None);
    harness.assert_received(&[(conn, r#"{"type":"user_connected","userId":7}"#)]);
    harness.send(friend, r#"{"type":"online_users"}"#);
    harness.assert_received(&[(friend, r#"{"type":"online_users","userIds":[]}"#)]);
    harness.close(conn);
    harness.advance(6 * SECOND);
    harness.assert_nothing_received();
}

#[test]
fn site_queries_are_bounded_and_alternate_users_and_threads() {
    let mut harness = harness();
    let member = harness.open_proven(0, 7);
    for slot in 1..10 {
        harness.open_with(slot, &format!("t{slot}"));
    }
    assert_eq!(harness.pending_asks(), 2);
    harness.send(member, JOIN);
    // Eight proofs are queued before it, and it waits for two of them at most.
    for user in 11..13 {
        if let Some(request) = harness.try_next_proof() {
            harness.prove(request, user, None);
        }
    }
    harness.received();
    while let Some(request) = harness.try_next_proof() {
        assert!(harness.pending_asks() < 2, "two queries are in flight");
        let _ = request;
    }
    let (request, ..) = harness.next_list();
    harness.list(request, &[7]);
    harness.assert_received(&[(member, r#"{"type":"thread_joined","threadId":41}"#)]);
}

#[test]
fn outcome_goes_to_the_sender_after_a_user_change() {
    let mut harness = harness();
    let conn = harness.open_proven(0, 7);
    harness.send(conn, r#"{"type":"send_message","threadId":41,"message":"private"}"#);
    let (request, _) = harness.next_post();
    harness.send(conn, &claim(9, "token-of-9"));
    let (proof, _) = harness.next_proof();
    harness.prove(proof, 9, None);
    harness.close(conn);
    harness.received();
    harness.store_with_participants(request, 41, 7, Some(&[7, 8]));
    let nine = harness.open_with(1, "token-of-9");
    harness.assert_received(&[(nine, r#"{"type":"user_connected","userId":9}"#)]);
}

#[test]
fn outcome_of_absent_sender_waits_for_reconnect() {
    let mut harness = harness();
    let conn = harness.open_proven(0, 7);
    let send = r#"{"type":"send_message","threadId":41,"message":"m","clientId":"c"}"#;
    harness.send(conn, send);
    let (request, _) = harness.next_post();
    harness.close(conn);
    harness.store_with_participants(request, 41, 7, Some(&[7, 8]));
    harness.assert_nothing_received();
    // The user comes back with a fresh token.
    let back = harness.open_with(1, "fresh");
    let (proof, _) = harness.next_proof();
    harness.prove(proof, 7, None);
    let received = harness.received();
    assert_eq!((received[1].0, &received[1].1["clientId"]), (back, &"c".into()), "{received:?}");
}

#[test]
fn refused_message_tokens_count_as_guesses() {
    let mut harness = harness();
    let conn = harness.open(0);
    for guess in 0..3 {
        assert_eq!(harness.closed(), []);
        let send = r#"{"type":"send_message","threadId":41,"message":"m","token":"#;
        harness.send(conn, &format!("{send}\"guess-{guess}\"}}"));
        // A guess causes no post to the site.
        let (request, _) = harness.next_proof();
        harness.fail(request, Failure::TokenRefused);
        let error = harness.assert_error(conn, "token_refused");
        assert_eq!(error["replyTo"], "send_message");
    }
    assert_eq!(harness.closed(), [(conn, 4401)]);
}

#[test]
fn connecting_during_outage_gets_retry_not_sign_in() {
    let mut harness = harness();
    let conn = harness.open_with(0, "good");
    harness.send(conn, JOIN);
    let (request, _) = harness.next_proof();
    harness.fail(request, DOWN);
    let codes: Vec<_> =
        harness.received().into_iter().map(|(_, frame)| frame["code"].clone()).collect();
    assert_eq!(codes, ["site_unavailable", "site_unavailable"]);
    harness.advance(31 * SECOND);
    harness.assert_nothing_received();
    assert_eq!(harness.closed(), [(conn, 1013)]);
}

#[test]
fn credential_without_expiry_is_rechecked_every_ten_minutes() {
    let mut harness = harness();
    let listener = harness.open_proven(0, 7);
    harness.advance(601 * SECOND);
    let (request, _) = harness.next_proof();
    harness.prove(request, 7, None);
    harness.assert_nothing_received();
    harness.advance(601 * SECOND);
    let (request, _) = harness.next_proof();
    harness.fail(request, Failure::TokenRefused);
    harness.assert_error(listener, "token_refused");
    assert_eq!(harness.closed(), [(listener, 4401)]);
}

#[test]
fn held_frames_are_not_in_debug_output() {
    let mut harness = harness();
    let conn = harness.open_with(0, "first-secret");
    harness.send(conn, &claim(7, "second-secret"));
    harness.send(conn, r#"{"type":"join_thread","threadId":41,"token":"third-secret"}"#);
    let member = harness.open_with(1, "fourth-secret");
    while let Some(request) = harness.try_next_proof() {
        if harness.pending_asks() == 0 {
            harness.prove(request, 8, None);
        }
    }
    harness.send(member, r#"{"type":"join_thread","threadId":41,"token":"fifth-secret"}"#);
    harness
        .send(member, r#"{"type":"send_message","threadId":1,"message":"m","token":"6th-secret"}"#);
    let printed = format!("{:?} {:#?}", harness.hub, harness.hub);
    assert!(!printed.contains("-secret"), "{printed}");
}

#[test]
fn thousand_claims_in_a_row_do_not_recurse() {
    let held_frames = HeldFrameLimits {
        total: 100_000,
        bytes: 100_000_000,
        per_connection: 100_000,
        bytes_per_connection: 100_000_000,
    };
    let mut harness = HubHarness::new(Settings { held_frames, ..verified() });
    let known = harness.open_proven(0, 7);
    let conn = harness.open_with(1, "slow");
    for _ in 0..50_000 {
        harness.send(conn, &claim(7, "token-of-7"));
    }
    let (request, _) = harness.next_proof();
    harness.prove(request, 7, None);
    let received = harness.received();
    assert_eq!(received.iter().filter(|(to, _)| *to == conn).count(), 50_001);
    harness.close(known);
}

#[test]
fn proven_user_may_retry_renewal_freely_during_outage() {
    let mut harness = harness();
    let conn = harness.open_proven(0, 7);
    for n in 0..20 {
        harness.send(conn, &claim(7, &format!("fresh-{n}")));
        let (request, _) = harness.next_proof();
        harness.fail(request, DOWN);
        harness.assert_error(conn, "site_unavailable");
    }
    assert_eq!(harness.closed(), []);
    harness.send(conn, r#"{"type":"online_users"}"#);
    harness.assert_received(&[(conn, r#"{"type":"online_users","userIds":[7]}"#)]);
}

#[test]
fn message_does_not_overtake_one_held_for_a_proof() {
    let mut harness = HubHarness::new(verified());
    let seven = harness.open_with(0, "token-7");
    let (first, _) = harness.next_proof();
    harness.send(seven, r#"{"type":"user_connected","userId":7,"token":"token-7-fresh"}"#);
    let send = |text: &str| json!({"type": "send_message", "threadId": 12, "message": text, "token": "token-7"});
    harness.send(seven, &send("one").to_string());
    harness.prove(first, 7, None);
    let (second, _) = harness.next_proof();
    harness.send(seven, &send("two").to_string());
    assert_eq!(harness.pending_asks(), 0, "the message waits behind the first one");
    harness.prove(second, 7, None);
    let (request, post) = harness.next_post();
    assert_eq!(&*post.text, "one");
    harness.store(request, 12, 7);
    harness.received();
    while let Some(list) = harness.try_next_list() {
        harness.list(list.0, &[7]);
    }
    let (_, post) = harness.next_post();
    assert_eq!(&*post.text, "two");
}

//! Who gets in, in verified trust: each rule with the client that tries to get around it.

#![allow(clippy::unwrap_used)]

#[path = "support/town.rs"]
mod town;

use std::time::Duration;

use buddyline::config::PresenceScope;
use buddyline::hub::interface::{ConnId, Failure, HeldFrameLimits, Settings};
use serde_json::json;
use town::{Town, verified};

const SECOND: Duration = Duration::from_secs(1);

fn town() -> Town {
    Town::new(verified())
}

const DOWN: Failure = Failure::SiteUnavailable { retry_after_s: None };

fn claim(user: u64, token: &str) -> String {
    format!(r#"{{"type":"user_connected","userId":{user},"token":"{token}"}}"#)
}

const JOIN: &str = r#"{"type":"join_thread","threadId":41}"#;

#[test]
fn a_token_from_the_handshake_proves_who_a_connection_is() {
    let mut town = town();
    let conn = town.open_with(0, "secret");
    town.hears_nothing();
    let (request, credential) = town.asked_proof();
    assert_eq!(credential.secret(), "secret");
    town.prove(request, 7, None);
    town.hears(&[(conn, r#"{"type":"user_connected","userId":7}"#)]);
}

#[test]
fn a_token_in_user_connected_proves_its_claim_and_the_claims_form_is_kept() {
    let mut town = town();
    let other = town.open_proven(0, 3);
    let conn = town.open(1);
    town.say(conn, r#"{"type":"user_connected","userId":"7","token":"t","clientId":"c1"}"#);
    town.hears_nothing();
    let (request, _) = town.asked_proof();
    town.prove(request, 7, None);
    town.hears(&[
        (other, r#"{"type":"user_connected","userId":"7"}"#),
        (conn, r#"{"type":"user_connected","userId":"7","clientId":"c1"}"#),
    ]);
}

#[test]
fn one_token_on_a_thousand_connections_asks_the_site_once() {
    let mut town = town();
    let conns: Vec<ConnId> = (0..1000).map(|slot| town.open_with(slot, "shared")).collect();
    let (request, _) = town.asked_proof();
    assert_eq!(town.questions(), 0);
    town.prove(request, 7, None);
    assert_eq!(town.questions(), 0);
    let heard = town.heard();
    for conn in conns {
        assert!(heard.iter().any(|(to, frame)| *to == conn && frame["userId"] == 7));
    }
    // And not again while the answer holds, whoever is there.
    let late = town.open_with(1000, "shared");
    town.hears(&[(late, r#"{"type":"user_connected","userId":7}"#)]);
}

#[test]
fn a_proof_is_remembered_for_ten_minutes_after_its_last_connection() {
    let mut town = town();
    let conn = town.open_proven(0, 7);
    town.close(conn);
    town.pass(599 * SECOND);
    let again = town.open_with(0, "token-of-7");
    assert_eq!(town.questions(), 0);
    town.close(again);
    town.pass(2 * SECOND);
    town.open_with(0, "token-of-7");
    town.asked_proof();
}

#[test]
fn who_claims_without_a_token_stays_nobody_and_nobody_hears_of_it() {
    let mut town = town();
    let other = town.open_proven(0, 3);
    let conn = town.open(1);
    town.say(conn, r#"{"type":"user_connected","userId":3}"#);
    town.hears_error(conn, "token_required");
    for text in [
        JOIN,
        r#"{"type":"typing","threadId":41}"#,
        r#"{"type":"online_users"}"#,
        r#"{"type":"leave_thread","threadId":41}"#,
        r#"{"type":"call_initiated","senderId":3,"recipientId":7,"threadId":41}"#,
        r#"{"type":"offer","offer":"o","senderId":3,"recipientId":7,"threadId":41}"#,
    ] {
        town.say(conn, text);
        town.hears_error(conn, "token_required");
    }
    assert_eq!(town.questions(), 0);
    town.say(conn, r#"{"type":"ping"}"#);
    town.hears(&[(conn, r#"{"type":"pong"}"#)]);
    town.close(other);
}

#[test]
fn a_user_id_that_is_not_the_tokens_user_changes_nothing() {
    let mut town = town();
    let bystander = town.open_proven(0, 3);
    let conn = town.open(1);
    town.say(conn, &claim(3, "mallorys"));
    let (request, _) = town.asked_proof();
    town.prove(request, 7, None);
    town.hears_error(conn, "identity_mismatch");
    town.say(conn, JOIN);
    town.hears_error(conn, "token_required");
    // Nor for who is proven.
    let proven = town.open_proven(2, 7);
    town.say(proven, r#"{"type":"user_connected","userId":3}"#);
    town.hears_error(proven, "identity_mismatch");
    town.say(proven, &claim(3, "mallorys"));
    town.hears_error(proven, "identity_mismatch");
    town.say(proven, r#"{"type":"user_connected","userId":"7"}"#);
    town.hears(&[(proven, r#"{"type":"user_connected","userId":"7"}"#)]);
    town.close(bystander);
}

#[test]
fn a_refused_token_is_told_why_and_three_end_the_connection() {
    for (failure, code) in [
        (Failure::TokenRefused, "token_refused"),
        (Failure::TokenExpired, "token_expired"),
        (Failure::Suspended, "suspended"),
    ] {
        let mut town = town();
        let conn = town.open_with(0, "first");
        for token in ["second", "third"] {
            let (request, _) = town.asked_proof();
            town.fail(request, failure);
            town.hears_error(conn, code);
            assert_eq!(town.closed(), []);
            town.say(conn, &claim(7, token));
        }
        let (request, _) = town.asked_proof();
        town.fail(request, failure);
        town.hears_error(conn, code);
        assert_eq!(town.closed(), [(conn, 4401)]);
    }
}

#[test]
fn a_refusal_is_remembered_for_a_minute() {
    let mut town = town();
    let conn = town.open_with(0, "forged");
    let (request, _) = town.asked_proof();
    town.fail(request, Failure::TokenRefused);
    town.hears_error(conn, "token_refused");
    let again = town.open_with(1, "forged");
    town.hears_error(again, "token_refused");
    assert_eq!(town.questions(), 0);
    town.pass(61 * SECOND);
    town.heard();
    town.open_with(2, "forged");
    town.asked_proof();
}

#[test]
fn what_is_said_while_the_proof_is_out_waits_in_order() {
    let mut town = town();
    let conn = town.open_with(0, "t");
    town.say(conn, JOIN);
    town.say(conn, r#"{"type":"typing","threadId":41}"#);
    town.say(conn, r#"{"type":"ping"}"#);
    town.hears(&[(conn, r#"{"type":"pong"}"#)]);
    let (request, _) = town.asked_proof();
    town.prove(request, 7, None);
    town.hears(&[(conn, r#"{"type":"user_connected","userId":7}"#)]);
    let (request, thread, secret) = town.asked_list();
    assert_eq!((thread, secret.as_str()), (41, "t"));
    town.list(request, &[7, 8]);
    town.hears(&[
        (conn, r#"{"type":"thread_joined","threadId":41}"#),
        (conn, r#"{"type":"typing","threadId":41,"userId":7,"typing":true}"#),
    ]);
}

#[test]
fn what_waits_is_bounded_and_the_rest_is_told() {
    let mut town = town();
    let conn = town.open_with(0, "t");
    for _ in 0..8 {
        town.say(conn, JOIN);
    }
    town.hears_nothing();
    town.say(conn, JOIN);
    town.hears_error(conn, "overloaded");
    // Once heard out, there is room again; and what a gone connection has said makes room.
    town.close(conn);
    let conn = town.open_with(0, "u");
    for _ in 0..8 {
        town.say(conn, JOIN);
    }
    town.hears_nothing();
}

#[test]
fn a_site_that_does_not_answer_leaves_nobody_refused_and_is_asked_again() {
    let mut town = town();
    let conn = town.open_with(0, "t");
    let (request, _) = town.asked_proof();
    town.fail(request, DOWN);
    town.hears_error(conn, "site_unavailable");
    // Not at once, though.
    town.say(conn, r#"{"type":"user_connected","userId":7}"#);
    town.hears_error(conn, "site_unavailable");
    assert_eq!(town.questions(), 0);
    town.pass(6 * SECOND);
    town.say(conn, r#"{"type":"online_users"}"#);
    let (request, credential) = town.asked_proof();
    assert_eq!(credential.secret(), "t");
    town.prove(request, 7, None);
    town.hears(&[
        (conn, r#"{"type":"user_connected","userId":7}"#),
        (conn, r#"{"type":"online_users","userIds":[7]}"#),
    ]);
}

#[test]
fn a_site_that_is_down_makes_nobody_anonymous_who_is_proven() {
    let mut town = town();
    let conn = town.open_member(0, 7, 41, &[7]);
    town.pass(601 * SECOND);
    // Nothing says when this token ends: the site is asked again, and nobody waits for that.
    let (request, _) = town.asked_proof();
    town.say(conn, r#"{"type":"online_users"}"#);
    town.hears(&[(conn, r#"{"type":"online_users","userIds":[7]}"#)]);
    town.fail(request, DOWN);
    town.hears_nothing();
    town.say(conn, r#"{"type":"online_users"}"#);
    town.hears(&[(conn, r#"{"type":"online_users","userIds":[7]}"#)]);
    town.pass(6 * SECOND);
    town.say(conn, r#"{"type":"online_users"}"#);
    town.heard();
    town.asked_proof();
}

#[test]
fn a_deleted_users_connections_end_when_the_site_says_so() {
    let mut town = town();
    let one = town.open_proven(0, 7);
    let two = town.open_proven(1, 7);
    let other = town.open_proven(2, 8);
    town.pass(601 * SECOND);
    town.say(one, r#"{"type":"online_users"}"#);
    town.heard();
    let (request, _) = town.asked_proof();
    town.fail(request, Failure::TokenRefused);
    let heard = town.heard();
    assert!(heard.iter().all(|(_, frame)| frame["code"] == "token_refused"), "{heard:?}");
    assert_eq!(heard.len(), 2);
    assert_eq!(town.closed(), [(one, 4401), (two, 4401)]);
    town.say(other, r#"{"type":"ping"}"#);
    town.hears(&[(other, r#"{"type":"pong"}"#)]);
}

#[test]
fn who_proves_nothing_is_closed_after_a_time_that_does_not_run_while_the_site_thinks() {
    let mut town = town();
    let silent = town.open(0);
    let pending = town.open_with(1, "slow");
    let refused = town.open_with(2, "forged");
    let (slow, _) = town.asked_proof();
    let (forged, _) = town.asked_proof();
    town.pass(10 * SECOND);
    town.fail(forged, Failure::TokenRefused);
    town.hears_error(refused, "token_refused");
    town.pass(21 * SECOND);
    town.hears_error(silent, "token_required");
    assert_eq!(town.closed(), [(silent, 1008)]);
    town.pass(10 * SECOND);
    town.hears_error(refused, "token_required");
    assert_eq!(town.closed(), [(refused, 4401)]);
    town.pass(200 * SECOND);
    town.prove(slow, 7, None);
    town.hears(&[(pending, r#"{"type":"user_connected","userId":7}"#)]);
    town.pass(3600 * SECOND);
    assert_eq!(town.closed(), []);
}

#[test]
fn a_token_that_expires_has_a_minute_to_be_renewed() {
    let mut town = town();
    let (now, soon) = (town.now.unix_s, town.now.unix_s + 100);
    let conn = town.open_with(0, "old");
    let (request, _) = town.asked_proof();
    town.prove(request, 7, Some(soon));
    town.say(conn, JOIN);
    let (request, ..) = town.asked_list();
    town.list(request, &[7, 8]);
    let friend = town.open_member(1, 8, 41, &[7, 8]);
    town.heard();

    town.pass(100 * SECOND);
    town.hears_error(conn, "token_expired");
    for text in [
        JOIN,
        r#"{"type":"typing","threadId":41}"#,
        r#"{"type":"online_users"}"#,
        r#"{"type":"user_connected","userId":7}"#,
        r#"{"type":"send_message","threadId":41,"message":"x"}"#,
    ] {
        town.say(conn, text);
        town.hears_error(conn, "token_expired");
    }
    // It still hears what it has joined.
    town.say(friend, r#"{"type":"typing","threadId":41}"#);
    let (request, ..) = town.asked_list();
    town.list(request, &[7, 8]);
    assert!(town.heard().iter().any(|(to, frame)| *to == conn && frame["type"] == "typing"));

    town.pass(50 * SECOND);
    town.heard();
    town.say(conn, &claim(7, "fresh"));
    let (request, _) = town.asked_proof();
    town.prove(request, 7, Some(now + 100_000));
    town.hears(&[(conn, r#"{"type":"user_connected","userId":7}"#)]);
    town.pass(3000 * SECOND);
    assert_eq!(town.closed(), []);
}

#[test]
fn a_token_that_is_not_renewed_ends_the_connection_with_4401() {
    let mut town = town();
    let soon = town.now.unix_s + 100;
    let conn = town.open_with(0, "old");
    let (request, _) = town.asked_proof();
    town.prove(request, 7, Some(soon));
    town.pass(100 * SECOND);
    town.heard();
    // Another's token and a forged one do not help.
    town.say(conn, &claim(7, "mallorys"));
    let (request, _) = town.asked_proof();
    town.prove(request, 9, None);
    town.hears_error(conn, "identity_mismatch");
    town.pass(30 * SECOND);
    town.say(conn, &claim(7, "forged"));
    let (request, _) = town.asked_proof();
    town.pass(15 * SECOND);
    town.fail(request, Failure::TokenRefused);
    town.hears_error(conn, "token_refused");
    assert_eq!(town.closed(), []);
    town.pass(15 * SECOND);
    assert_eq!(town.closed(), [(conn, 4401)]);
}

#[test]
fn the_wall_clock_decides_when_a_token_expires_and_not_the_timer() {
    let mut town = town();
    let soon = town.now.unix_s + 100;
    let conn = town.open_with(0, "t");
    let (request, _) = town.asked_proof();
    town.prove(request, 7, Some(soon));
    town.heard();
    // The clock was an hour fast, and is set right.
    town.now.unix_s -= 3600;
    town.pass(150 * SECOND);
    town.hears_nothing();
    town.pass(3600 * SECOND);
    town.hears_error(conn, "token_expired");
}

#[test]
fn a_message_brings_the_proof_of_a_waiting_claim() {
    let mut town = town();
    let conn = town.open(0);
    town.say(conn, r#"{"type":"user_connected","userId":"7","clientId":"a"}"#);
    town.hears_error(conn, "token_required");
    let send = r#"{"type":"send_message","threadId":41,"message":"hi","token":"t"}"#;
    town.say(conn, send);
    town.say(conn, r#"{"type":"typing","threadId":41}"#);
    let (request, credential) = town.asked_proof();
    assert_eq!(credential.secret(), "t");
    town.prove(request, 7, None);
    town.hears(&[(conn, r#"{"type":"user_connected","userId":"7","clientId":"a"}"#)]);
    let (request, post) = town.asked();
    assert_eq!(post.credential.unwrap().secret(), "t");
    town.store_among(request, 41, 7, Some(&[7, 8]));
    let kinds: Vec<_> = town.heard().into_iter().map(|(_, frame)| frame["type"].clone()).collect();
    // Its typing was said after the message, and came to wait for the list.
    assert_eq!(kinds, ["typing", "thread_joined", "typing", "message"]);
    let again = town.open_with(1, "t");
    town.hears(&[(again, r#"{"type":"user_connected","userId":7}"#)]);
}

#[test]
fn a_message_under_anothers_claim_is_its_real_senders() {
    let mut town = town();
    let conn = town.open(0);
    town.say(conn, r#"{"type":"user_connected","userId":8}"#);
    town.hears_error(conn, "token_required");
    town.say(
        conn,
        r#"{"type":"send_message","threadId":41,"message":"hi","token":"t","senderId":8}"#,
    );
    let (request, _) = town.asked_proof();
    town.prove(request, 7, None);
    let (request, _) = town.asked();
    town.store_among(request, 41, 7, Some(&[7, 8]));
    let heard: Vec<_> = town.heard().into_iter().map(|(_, frame)| frame).collect();
    assert_eq!(heard[0]["code"], "identity_mismatch");
    assert_eq!(heard[1], serde_json::json!({"type":"user_connected","userId":7}));
    assert_eq!(heard[3]["senderId"], 7);
}

#[test]
fn a_message_whose_token_cannot_be_checked_has_an_error_of_its_own() {
    let mut town = town();
    let conn = town.open(0);
    let send = r#"{"type":"send_message","threadId":41,"message":"m","token":"t","clientId":"c"}"#;
    town.say(conn, send);
    let (request, _) = town.asked_proof();
    town.fail(request, DOWN);
    let error = town.hears_error(conn, "site_unavailable");
    assert_eq!((&error["clientId"], &error["replyTo"]), (&"c".into(), &"send_message".into()));
    assert_eq!(town.questions(), 0);
    town.pass(6 * SECOND);
    town.say(conn, send);
    let (request, _) = town.asked_proof();
    town.prove(request, 7, None);
    town.asked();
}

#[test]
fn another_users_token_in_a_message_does_not_make_the_connection_hear_their_thread() {
    let mut town = town();
    let conn = town.open_proven(0, 7);
    town.say(conn, r#"{"type":"send_message","threadId":41,"message":"hi","token":"of-8"}"#);
    let (request, _) = town.asked();
    town.store_among(request, 41, 8, Some(&[8, 9]));
    let heard = town.heard();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(heard[0].1["senderId"], 8);
    let eight = town.open_member(1, 8, 41, &[8, 9]);
    town.say(eight, r#"{"type":"typing","threadId":41}"#);
    assert!(town.heard().iter().all(|(to, _)| *to == eight));
}

#[test]
fn a_message_without_a_token_goes_with_the_connections_own() {
    let mut town = town();
    let conn = town.open_proven(0, 7);
    town.say(conn, r#"{"type":"send_message","threadId":41,"message":"hi"}"#);
    let (_, post) = town.asked();
    assert_eq!(post.credential.unwrap().secret(), "token-of-7");
}

#[test]
fn another_user_on_the_same_connection_hears_nothing_of_the_first_ones_threads() {
    let mut town = town();
    let conn = town.open_member(0, 7, 41, &[7, 8]);
    let friend = town.open_member(1, 8, 41, &[7, 8]);
    town.say(conn, &claim(9, "of-9"));
    let (request, _) = town.asked_proof();
    town.prove(request, 9, None);
    let heard = town.heard();
    let left = serde_json::json!({"type":"thread_left","threadId":41,"reason":"user_changed"});
    assert!(heard.contains(&(conn, left)), "{heard:?}");
    town.say(friend, r#"{"type":"typing","threadId":41}"#);
    assert!(town.heard().iter().all(|(to, _)| *to == friend));
}

#[test]
fn only_proven_connections_hear_presence() {
    let mut town = town();
    let nobody = town.open(0);
    let pending = town.open_with(1, "slow");
    town.asked_proof();
    let seven = town.open_with(2, "token-of-7");
    let (request, _) = town.asked_proof();
    town.prove(request, 7, None);
    town.close(seven);
    town.pass(6 * SECOND);
    assert!(town.heard().iter().all(|(to, _)| *to != nobody && *to != pending));
}

#[test]
fn with_presence_of_threads_only_companions_hear_who_comes_and_goes() {
    let mut town = Town::new(Settings { presence: PresenceScope::Threads, ..verified() });
    let friend = town.open_member(0, 8, 41, &[7, 8]);
    let stranger = town.open_member(1, 9, 42, &[9, 10]);
    let conn = town.open_with(2, "t");
    let (request, _) = town.asked_proof();
    town.prove(request, 7, None);
    town.hears(&[
        (friend, r#"{"type":"user_connected","userId":7}"#),
        (conn, r#"{"type":"user_connected","userId":7}"#),
    ]);
    town.say(conn, r#"{"type":"online_users"}"#);
    town.hears(&[(conn, r#"{"type":"online_users","userIds":[7,8]}"#)]);
    town.say(stranger, r#"{"type":"online_users"}"#);
    town.hears(&[(stranger, r#"{"type":"online_users","userIds":[9]}"#)]);
    town.close(conn);
    town.pass(6 * SECOND);
    town.hears(&[(friend, r#"{"type":"user_disconnected","userId":7}"#)]);
}

#[test]
fn with_presence_off_nobody_hears_who_comes_and_goes() {
    let mut town = Town::new(Settings { presence: PresenceScope::Off, ..verified() });
    let friend = town.open_member(0, 8, 41, &[7, 8]);
    let conn = town.open_with(1, "t");
    let (request, _) = town.asked_proof();
    town.prove(request, 7, None);
    town.hears(&[(conn, r#"{"type":"user_connected","userId":7}"#)]);
    town.say(friend, r#"{"type":"online_users"}"#);
    town.hears(&[(friend, r#"{"type":"online_users","userIds":[]}"#)]);
    town.close(conn);
    town.pass(6 * SECOND);
    town.hears_nothing();
}

#[test]
fn a_few_questions_at_a_time_are_with_the_site_and_people_and_threads_take_turns() {
    let mut town = town();
    let member = town.open_proven(0, 7);
    for slot in 1..10 {
        town.open_with(slot, &format!("t{slot}"));
    }
    assert_eq!(town.questions(), 2);
    town.say(member, JOIN);
    // Eight wait before it, and it waits for two of them at most.
    for user in 11..13 {
        if let Some(request) = town.try_proof() {
            town.prove(request, user, None);
        }
    }
    town.heard();
    while let Some(request) = town.try_proof() {
        assert!(town.questions() < 2, "two are with the site");
        let _ = request;
    }
    let (request, ..) = town.asked_list();
    town.list(request, &[7]);
    town.hears(&[(member, r#"{"type":"thread_joined","threadId":41}"#)]);
}

#[test]
fn an_outcome_goes_to_whoever_sent_the_message_and_not_to_the_connections_last_user() {
    let mut town = town();
    let conn = town.open_proven(0, 7);
    town.say(conn, r#"{"type":"send_message","threadId":41,"message":"private"}"#);
    let (request, _) = town.asked();
    town.say(conn, &claim(9, "token-of-9"));
    let (proof, _) = town.asked_proof();
    town.prove(proof, 9, None);
    town.close(conn);
    town.heard();
    town.store_among(request, 41, 7, Some(&[7, 8]));
    let nine = town.open_with(1, "token-of-9");
    town.hears(&[(nine, r#"{"type":"user_connected","userId":9}"#)]);
}

#[test]
fn a_message_that_was_stored_while_its_sender_was_away_waits_for_them() {
    let mut town = town();
    let conn = town.open_proven(0, 7);
    let send = r#"{"type":"send_message","threadId":41,"message":"m","clientId":"c"}"#;
    town.say(conn, send);
    let (request, _) = town.asked();
    town.close(conn);
    town.store_among(request, 41, 7, Some(&[7, 8]));
    town.hears_nothing();
    // With a fresh token.
    let back = town.open_with(1, "fresh");
    let (proof, _) = town.asked_proof();
    town.prove(proof, 7, None);
    let heard = town.heard();
    assert_eq!((heard[1].0, &heard[1].1["clientId"]), (back, &"c".into()), "{heard:?}");
}

#[test]
fn tokens_in_messages_are_guesses_too() {
    let mut town = town();
    let conn = town.open(0);
    for guess in 0..3 {
        assert_eq!(town.closed(), []);
        let send = r#"{"type":"send_message","threadId":41,"message":"m","token":"#;
        town.say(conn, &format!("{send}\"guess-{guess}\"}}"));
        // They cost the site no post.
        let (request, _) = town.asked_proof();
        town.fail(request, Failure::TokenRefused);
        let error = town.hears_error(conn, "token_refused");
        assert_eq!(error["replyTo"], "send_message");
    }
    assert_eq!(town.closed(), [(conn, 4401)]);
}

#[test]
fn who_comes_while_the_site_is_down_is_told_to_try_again_and_not_to_sign_in() {
    let mut town = town();
    let conn = town.open_with(0, "good");
    town.say(conn, JOIN);
    let (request, _) = town.asked_proof();
    town.fail(request, DOWN);
    let codes: Vec<_> = town.heard().into_iter().map(|(_, frame)| frame["code"].clone()).collect();
    assert_eq!(codes, ["site_unavailable", "site_unavailable"]);
    town.pass(31 * SECOND);
    town.hears_nothing();
    assert_eq!(town.closed(), [(conn, 1013)]);
}

#[test]
fn a_credential_without_an_end_is_asked_about_every_ten_minutes_while_somebody_listens() {
    let mut town = town();
    let listener = town.open_proven(0, 7);
    town.pass(601 * SECOND);
    let (request, _) = town.asked_proof();
    town.prove(request, 7, None);
    town.hears_nothing();
    town.pass(601 * SECOND);
    let (request, _) = town.asked_proof();
    town.fail(request, Failure::TokenRefused);
    town.hears_error(listener, "token_refused");
    assert_eq!(town.closed(), [(listener, 4401)]);
}

#[test]
fn what_waits_never_prints() {
    let mut town = town();
    let conn = town.open_with(0, "first-secret");
    town.say(conn, &claim(7, "second-secret"));
    town.say(conn, r#"{"type":"join_thread","threadId":41,"token":"third-secret"}"#);
    let member = town.open_with(1, "fourth-secret");
    while let Some(request) = town.try_proof() {
        if town.questions() == 0 {
            town.prove(request, 8, None);
        }
    }
    town.say(member, r#"{"type":"join_thread","threadId":41,"token":"fifth-secret"}"#);
    town.say(member, r#"{"type":"send_message","threadId":1,"message":"m","token":"6th-secret"}"#);
    let printed = format!("{:?} {:#?}", town.hub, town.hub);
    assert!(!printed.contains("-secret"), "{printed}");
}

#[test]
fn a_thousand_introductions_in_a_row_are_a_loop_and_no_recursion() {
    let held_frames = HeldFrameLimits {
        total: 100_000,
        bytes: 100_000_000,
        per_connection: 100_000,
        bytes_per_connection: 100_000_000,
    };
    let mut town = Town::new(Settings { held_frames, ..verified() });
    let known = town.open_proven(0, 7);
    let conn = town.open_with(1, "slow");
    for _ in 0..50_000 {
        town.say(conn, &claim(7, "token-of-7"));
    }
    let (request, _) = town.asked_proof();
    town.prove(request, 7, None);
    let heard = town.heard();
    assert_eq!(heard.iter().filter(|(to, _)| *to == conn).count(), 50_001);
    town.close(known);
}

#[test]
fn who_is_proven_may_try_to_renew_as_often_as_they_like_while_the_site_is_down() {
    let mut town = town();
    let conn = town.open_proven(0, 7);
    for n in 0..20 {
        town.say(conn, &claim(7, &format!("fresh-{n}")));
        let (request, _) = town.asked_proof();
        town.fail(request, DOWN);
        town.hears_error(conn, "site_unavailable");
    }
    assert_eq!(town.closed(), []);
    town.say(conn, r#"{"type":"online_users"}"#);
    town.hears(&[(conn, r#"{"type":"online_users","userIds":[7]}"#)]);
}

#[test]
fn a_message_does_not_overtake_one_that_waits_for_a_second_proof() {
    let mut town = Town::new(verified());
    let seven = town.open_with(0, "token-7");
    let (first, _) = town.asked_proof();
    town.say(seven, r#"{"type":"user_connected","userId":7,"token":"token-7-fresh"}"#);
    let send = |text: &str| json!({"type": "send_message", "threadId": 12, "message": text, "token": "token-7"});
    town.say(seven, &send("one").to_string());
    town.prove(first, 7, None);
    let (second, _) = town.asked_proof();
    town.say(seven, &send("two").to_string());
    assert_eq!(town.questions(), 0, "it waits behind the first");
    town.prove(second, 7, None);
    let (request, post) = town.asked();
    assert_eq!(&*post.text, "one");
    town.store(request, 12, 7);
    town.heard();
    while let Some(list) = town.try_list() {
        town.list(list.0, &[7]);
    }
    let (_, post) = town.asked();
    assert_eq!(&*post.text, "two");
}

//! Thread membership in verified trust: each rule, and a client that tries to get around it.

use std::time::Duration;

use buddyline::hub::interface::{ConnId, Failure, Settings};
use serde_json::{Value, json};

use crate::support::harness::{HubHarness, verified};

const SECOND: Duration = Duration::from_secs(1);
const DOWN: Failure = Failure::SiteUnavailable { retry_after_s: None };
const JOIN: &str = r#"{"type":"join_thread","threadId":41}"#;
const TYPING: &str = r#"{"type":"typing","threadId":41}"#;
const SEND: &str = r#"{"type":"send_message","threadId":41,"message":"hi"}"#;

fn harness() -> HubHarness {
    HubHarness::new(verified())
}

/// Whether a connection has received a frame of this type.
fn has_received(received: &[(ConnId, Value)], conn: ConnId, kind: &str) -> bool {
    received.iter().any(|(to, frame)| *to == conn && frame["type"] == kind)
}

#[test]
fn one_list_serves_every_participants_join() {
    let mut harness = harness();
    let seven = harness.open_proven(0, 7);
    let eight = harness.open_proven(1, 8);
    harness.send(seven, JOIN);
    harness.send(eight, JOIN);
    let (request, thread, secret) = harness.next_list();
    assert_eq!((thread, secret.as_str(), harness.pending_asks()), (41, "token-of-7", 0));
    harness.list(request, &[7, 8, 9]);
    harness.assert_received(&[
        (seven, r#"{"type":"thread_joined","threadId":41}"#),
        (eight, r#"{"type":"thread_joined","threadId":41}"#),
    ]);
    let nine = harness.open_member(2, 9, 41, &[]);
    assert_eq!(harness.pending_asks(), 0);
    harness.send(nine, TYPING);
    let received = harness.received();
    assert!([seven, eight, nine].iter().all(|conn| has_received(&received, *conn, "typing")));
}

#[test]
fn moderator_access_is_not_membership() {
    let mut harness = harness();
    let member = harness.open_member(0, 7, 41, &[7, 8]);
    let moderator = harness.open_proven(1, 1);
    harness.send(moderator, JOIN);
    let (request, _, secret) = harness.next_list();
    assert_eq!(secret, "token-of-1");
    // The site shows the moderator the thread, but they are not on its participant list.
    harness.list(request, &[7, 8]);
    harness.assert_error(moderator, "not_participant");
    harness.send(moderator, TYPING);
    harness.assert_error(moderator, "not_participant");
    harness.send(member, TYPING);
    assert!(!has_received(&harness.received(), moderator, "typing"));
}

#[test]
fn non_participant_is_refused_and_requery_is_delayed() {
    let mut harness = harness();
    let stranger = harness.open_proven(0, 9);
    for (n, thread) in [r#"41"#, r#""41""#, "99"].iter().enumerate() {
        harness.send(stranger, &format!(r#"{{"type":"join_thread","threadId":{thread}}}"#));
        if n != 1 {
            let (request, ..) = harness.next_list();
            harness.fail(request, Failure::NotParticipant);
        }
        harness.assert_error(stranger, "not_participant");
    }
    assert_eq!(harness.pending_asks(), 0);
    for text in [TYPING, r#"{"type":"leave_thread","threadId":41}"#] {
        harness.send(stranger, text);
        harness.assert_error(stranger, "not_participant");
    }
    harness.send(stranger, r#"{"type":"online_users","threadId":41}"#);
    harness.assert_error(stranger, "not_participant");
    for odd in [r#""general""#, "-4", r#""041""#] {
        harness.send(stranger, &format!(r#"{{"type":"join_thread","threadId":{odd}}}"#));
        harness.assert_error(stranger, "not_participant");
    }
    assert_eq!(harness.pending_asks(), 0);
    harness.advance(11 * SECOND);
    harness.send(stranger, JOIN);
    let (request, ..) = harness.next_list();
    harness.list(request, &[9]);
    harness.assert_received(&[(stranger, r#"{"type":"thread_joined","threadId":41}"#)]);
}

#[test]
fn newly_added_participant_joins_by_own_query() {
    let mut harness = harness();
    harness.open_member(0, 7, 41, &[7, 8]);
    let new = harness.open_proven(1, 9);
    harness.send(new, JOIN);
    let (request, _, secret) = harness.next_list();
    assert_eq!(secret, "token-of-9");
    harness.list(request, &[7, 8, 9]);
    harness.assert_received(&[(new, r#"{"type":"thread_joined","threadId":41}"#)]);
}

#[test]
fn removed_participant_is_unsubscribed_and_told() {
    let mut harness = harness();
    let seven = harness.open_member(0, 7, 41, &[7, 8]);
    let eight = harness.open_member(1, 8, 41, &[7, 8]);
    harness.advance(58 * SECOND);
    harness.send(seven, TYPING);
    harness.assert_nothing_received();
    let (request, ..) = harness.next_list();
    harness.list(request, &[7]);
    harness.assert_received(&[
        (eight, r#"{"type":"thread_left","threadId":41,"reason":"not_participant"}"#),
        (seven, r#"{"type":"typing","threadId":41,"userId":7,"typing":true}"#),
    ]);
    harness.advance(3 * SECOND);
    harness.assert_received(&[(
        seven,
        r#"{"type":"typing","threadId":41,"userId":7,"typing":false}"#,
    )]);
}

#[test]
fn query_by_removed_participant_removes_them_at_once() {
    let mut harness = harness();
    let seven = harness.open_member(0, 7, 41, &[7, 8]);
    let eight = harness.open_member(1, 8, 41, &[7, 8]);
    harness.advance(50 * SECOND);
    harness.send(eight, TYPING);
    assert!(has_received(&harness.received(), seven, "typing"));
    let (request, ..) = harness.next_list();
    harness.fail(request, Failure::NotParticipant);
    let received = harness.received();
    assert!(has_received(&received, eight, "thread_left"));
    assert!(
        received
            .contains(&(seven, json!({"type":"typing","threadId":41,"userId":8,"typing":false})))
    );
    assert!(!has_received(&received, eight, "typing"));
}

#[test]
fn list_is_refreshed_before_expiry_without_waiting() {
    let mut harness = harness();
    let seven = harness.open_member(0, 7, 41, &[7]);
    harness.advance(40 * SECOND);
    harness.send(seven, TYPING);
    assert_eq!(harness.pending_asks(), 0);
    harness.advance(10 * SECOND);
    harness.received();
    harness.send(seven, TYPING);
    assert!(has_received(&harness.received(), seven, "typing"));
    let (request, ..) = harness.next_list();
    harness.send(seven, TYPING);
    assert_eq!(harness.pending_asks(), 0);
    harness.list(request, &[7]);
    harness.received();
    harness.advance(40 * SECOND);
    harness.send(seven, TYPING);
    assert_eq!(harness.pending_asks(), 0);
}

#[test]
fn post_reply_refreshes_the_list() {
    let mut harness = harness();
    let seven = harness.open_member(0, 7, 41, &[7, 8, 9]);
    let nine = harness.open_member(1, 9, 41, &[]);
    harness.advance(55 * SECOND);
    harness.send(seven, SEND);
    let (request, _) = harness.next_post();
    harness.store_with_participants(request, 41, 7, Some(&[7, 8]));
    let received = harness.received();
    assert!(
        has_received(&received, nine, "thread_left") && !has_received(&received, nine, "message")
    );
    assert!(has_received(&received, seven, "message"));
    harness.advance(40 * SECOND);
    harness.send(seven, TYPING);
    assert_eq!(harness.pending_asks(), 0);
}

#[test]
fn messages_wait_in_order_for_a_large_threads_list() {
    let mut harness = harness();
    let seven = harness.open_member(0, 7, 41, &[7, 8]);
    let eight = harness.open_member(1, 8, 41, &[]);
    harness.advance(61 * SECOND);
    harness.send(seven, SEND);
    let (first, _) = harness.next_post();
    harness.store(first, 41, 7);
    let (request, ..) = harness.next_list();
    harness.send(seven, SEND);
    let (second, _) = harness.next_post();
    harness.store(second, 41, 7);
    harness.assert_nothing_received();
    // The third post's answer contains the whole list: the first two messages go out before it.
    harness.send(eight, SEND);
    let (third, _) = harness.next_post();
    harness.store_with_participants(third, 41, 8, Some(&[7, 8]));
    let ids: Vec<_> = harness.received().iter().filter(|(to, _)| *to == eight).map(id_of).collect();
    assert_eq!(ids, [1, 2, 3]);
    harness.list(request, &[7, 8]);
    harness.assert_nothing_received();
}

#[test]
fn failed_query_waits_for_another_users_query() {
    for failure in [None, Some(DOWN)] {
        let mut harness = harness();
        let seven = harness.open_member(0, 7, 41, &[7, 8]);
        let eight = harness.open_member(1, 8, 41, &[]);
        harness.advance(61 * SECOND);
        harness.send(eight, TYPING);
        let (request, ..) = harness.next_list();
        harness.fail(request, DOWN);
        harness.received();
        harness.send(seven, SEND);
        let (post, _) = harness.next_post();
        harness.store(post, 41, 7);
        let (request, _, secret) = harness.next_list();
        assert_eq!(secret, "token-of-7");
        harness.send(eight, SEND);
        let (post, _) = harness.next_post();
        harness.store(post, 41, 8);
        harness.assert_nothing_received();
        match failure {
            None => harness.list(request, &[7, 8]),
            Some(failure) => harness.fail(request, failure),
        }
        let received = harness.received();
        let ids = |of| received.iter().filter(|(to, _)| *to == of).map(id_of).collect::<Vec<_>>();
        let all = if failure.is_none() { [vec![1, 2], vec![1, 2]] } else { [vec![1], vec![2]] };
        assert_eq!([ids(seven), ids(eight)], all);
        assert_eq!((harness.pending_asks(), harness.hub.counts().deliveries), (0, 0));
    }
}

fn id_of(received: &(ConnId, Value)) -> u64 {
    received.1["messageId"].as_u64().unwrap()
}

#[test]
fn stored_message_without_list_is_shown_to_its_sender() {
    for failure in [DOWN, Failure::ThreadTooLarge, Failure::NotParticipant, Failure::TokenRefused] {
        let mut harness = harness();
        let seven = harness.open_proven(0, 7);
        harness.send(seven, SEND);
        let (request, _) = harness.next_post();
        harness.store(request, 41, 7);
        harness.assert_nothing_received();
        let (request, ..) = harness.next_list();
        harness.fail(request, failure);
        let received = harness.received();
        assert!(has_received(&received, seven, "message"), "{failure:?}: {received:?}");
        assert_eq!(harness.pending_asks(), 0, "{failure:?}");
    }
}

#[test]
fn stop_gives_stored_messages_an_outcome() {
    let mut harness = harness();
    let seven = harness.open_proven(0, 7);
    harness.send(seven, SEND);
    let (request, _) = harness.next_post();
    harness.store(request, 41, 7);
    harness.next_list();
    harness.hub.stop();
    harness.take_effects();
    assert!(has_received(&harness.received(), seven, "message"));
}

#[test]
fn reused_thread_id_removes_old_subscribers() {
    let mut harness = harness();
    let bob = harness.open_member(0, 3, 5, &[3, 4]);
    let mallory = harness.open_proven(1, 7);
    harness.send(mallory, r#"{"type":"send_message","recipientId":4,"message":"new"}"#);
    let (request, _) = harness.next_post();
    harness.store_with_participants(request, 5, 7, Some(&[4, 7]));
    let received = harness.received();
    assert!(
        has_received(&received, bob, "thread_left") && !has_received(&received, bob, "message")
    );
    assert!(has_received(&received, mallory, "message"));
}

#[test]
fn late_list_does_not_override_a_newer_one() {
    let mut harness = harness();
    let seven = harness.open_member(0, 7, 41, &[7, 8]);
    let eight = harness.open_member(1, 8, 41, &[]);
    harness.advance(50 * SECOND);
    harness.send(seven, TYPING);
    let (late, ..) = harness.next_list();
    // Meanwhile user 8 is removed, and the answer to a post of user 7 has the new list.
    harness.send(seven, SEND);
    let (request, _) = harness.next_post();
    harness.store_with_participants(request, 41, 7, Some(&[7, 9]));
    assert!(has_received(&harness.received(), eight, "thread_left"));
    harness.list(late, &[7, 8]);
    harness.received();
    harness.send(eight, TYPING);
    harness.assert_nothing_received();
    let (request, _, secret) = harness.next_list();
    assert_eq!(secret, "token-of-8");
    harness.fail(request, Failure::NotParticipant);
    harness.assert_error(eight, "not_participant");
}

#[test]
fn call_requires_a_thread_with_both_parties() {
    let mut harness = harness();
    let seven = harness.open_member(0, 7, 41, &[7, 8]);
    let eight = harness.open_proven(1, 8);
    let nine = harness.open_proven(2, 9);
    let call = |sender: u64, recipient: u64, rest: &str| {
        format!(
            r#"{{"type":"offer","offer":"o","senderId":{sender},"recipientId":{recipient},"callId":1{rest}}}"#
        )
    };
    harness.send(seven, &call(7, 8, ""));
    harness.assert_error(seven, "missing_field");
    harness.send(seven, &call(7, 9, r#","threadId":41"#));
    harness.assert_error(seven, "not_participant");
    harness.send(seven, &call(8, 9, r#","threadId":41"#));
    harness.assert_error(seven, "not_your_call");
    harness.send(nine, &call(9, 7, r#","threadId":41"#));
    let (request, ..) = harness.next_list();
    harness.fail(request, Failure::NotParticipant);
    harness.assert_error(nine, "not_participant");
    harness
        .send(seven, &call(7, 8, r#","threadId":41,"userId":9,"token":"secret","clientId":"x""#));
    harness.assert_received(&[(
        eight,
        r#"{"type":"offer","offer":"o","senderId":7,"recipientId":8,"callId":1,"threadId":41}"#,
    )]);
}

#[test]
fn call_frames_do_not_wait_for_a_slow_site() {
    let mut harness = harness();
    let seven = harness.open_member(0, 7, 41, &[7, 8]);
    let eight = harness.open_proven(1, 8);
    harness.advance(40 * SECOND);
    harness
        .send(seven, r#"{"type":"offer","offer":"o","recipientId":8,"threadId":41,"callId":"c"}"#);
    assert!(has_received(&harness.received(), eight, "offer"));
    // While it rings, the list becomes too old to start a call with.
    harness.advance(30 * SECOND);
    harness.received();
    assert_eq!(harness.pending_asks(), 0);
    harness.send(eight, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    assert!(
        has_received(&harness.received(), seven, "answer"),
        "the answer does not wait for the list"
    );
    let (request, ..) = harness.next_list();
    let candidate = r#"{"type":"ice-candidate","candidate":"x","recipientId":8,"callId":"c"}"#;
    harness.send(seven, candidate);
    assert!(has_received(&harness.received(), eight, "ice-candidate"));
    assert_eq!(harness.pending_asks(), 0, "the query is in flight already");
    // A frame that starts a call still waits for the list.
    harness.send(seven, r#"{"type":"call_initiated","threadId":41,"callId":"g"}"#);
    harness.assert_nothing_received();
    harness.fail(request, DOWN);
    harness.received();
    for (from, to) in [(seven, eight), (eight, seven)] {
        harness.send(from, r#"{"type":"ice-candidate","candidate":"y","callId":"c"}"#);
        assert!(
            has_received(&harness.received(), to, "ice-candidate"),
            "call frames do not wait while the site fails"
        );
    }
    // The next list removes a user that the site has removed.
    harness.advance(6 * SECOND);
    while let Some(proof) = harness.try_next_proof() {
        harness.fail(proof, DOWN);
    }
    harness.send(seven, candidate);
    assert!(has_received(&harness.received(), eight, "ice-candidate"));
    let (request, ..) = harness.next_list();
    harness.list(request, &[7]);
    assert!(has_received(&harness.received(), seven, "call_ended"));
    // A list that is ten minutes old is too old even for call frames.
    let ten = harness.open_proven(2, 10);
    let nine = harness.open_member(3, 9, 42, &[9, 10]);
    harness
        .send(nine, r#"{"type":"offer","offer":"o","recipientId":10,"threadId":42,"callId":"d"}"#);
    harness.send(ten, r#"{"type":"answer","answer":"a","callId":"d"}"#);
    harness.received();
    harness.advance(601 * SECOND);
    while let Some(proof) = harness.try_next_proof() {
        harness.fail(proof, DOWN);
    }
    harness.received();
    harness.send(nine, r#"{"type":"ice-candidate","candidate":"z","callId":"d"}"#);
    harness.assert_nothing_received();
}

#[test]
fn sender_id_of_another_user_is_refused() {
    let mut harness = harness();
    let seven = harness.open_member(0, 7, 41, &[7, 8]);
    let eight = harness.open_member(1, 8, 41, &[]);
    let spoof = r#""userId":9,"senderId":9,"user_id":9,"sender_id":9,"clientId":"mine""#;
    harness.send(seven, &format!(r#"{{"type":"typing","threadId":41,{spoof}}}"#));
    let received = harness.received();
    assert_eq!(
        received[1],
        (eight, json!({"type":"typing","threadId":41,"userId":7,"typing":true}))
    );
    harness.send(
        seven,
        &format!(r#"{{"type":"send_message","threadId":41,"message":"hi","token":"t",{spoof}}}"#),
    );
    let (request, post) = harness.next_post();
    assert_eq!(&*post.text, "hi");
    harness.store_with_participants(request, 41, 7, Some(&[7, 8]));
    let received = harness.received();
    let to_eight: Vec<_> = received.iter().filter(|(to, _)| *to == eight).map(|(_, f)| f).collect();
    assert_eq!(to_eight.len(), 2, "{to_eight:?}");
    assert_eq!((&to_eight[1]["senderId"], &to_eight[1]["clientId"]), (&7.into(), &Value::Null));
    // The same clientId from another user is another frame, with its own outcome.
    harness.send(eight, r#"{"type":"ping","clientId":"mine"}"#);
    harness.assert_received(&[(eight, r#"{"type":"pong","clientId":"mine"}"#)]);
}

#[test]
fn last_list_is_used_for_ten_minutes_during_outage() {
    let mut harness = harness();
    let seven = harness.open_member(0, 7, 41, &[7, 8]);
    let eight = harness.open_member(1, 8, 41, &[]);
    let nine = harness.open_proven(2, 9);
    harness.advance(61 * SECOND);
    // One user's failed query is not an outage: the token may be the cause.
    harness.send(seven, TYPING);
    let (request, ..) = harness.next_list();
    harness.fail(request, DOWN);
    harness.assert_error(seven, "site_unavailable");
    harness.send(eight, TYPING);
    let (request, ..) = harness.next_list();
    harness.fail(request, DOWN);
    assert!(has_received(&harness.received(), seven, "typing"));
    harness.send(nine, JOIN);
    let (request, ..) = harness.next_list();
    harness.fail(request, DOWN);
    harness.assert_error(nine, "site_unavailable");
    for conn in [seven, eight] {
        harness.send(conn, TYPING);
        assert!(has_received(&harness.received(), seven, "typing"));
    }
    harness.send(nine, JOIN);
    harness.assert_error(nine, "site_unavailable");
    assert_eq!(harness.pending_asks(), 0);
    harness.advance(545 * SECOND);
    while let Some(proof) = harness.try_next_proof() {
        harness.fail(proof, DOWN);
    }
    harness.received();
    harness.send(seven, TYPING);
    let (request, ..) = harness.next_list();
    harness.fail(request, DOWN);
    harness.assert_error(seven, "site_unavailable");
}

#[test]
fn refused_token_in_query_closes_asker_and_others_requery() {
    let mut harness = harness();
    let seven = harness.open_proven(0, 7);
    let eight = harness.open_proven(1, 8);
    harness.send(seven, JOIN);
    harness.send(eight, JOIN);
    let (request, ..) = harness.next_list();
    harness.fail(request, Failure::TokenRefused);
    harness.assert_error(seven, "token_refused");
    assert_eq!(harness.closed(), [(seven, 4401)]);
    let (request, _, secret) = harness.next_list();
    assert_eq!(secret, "token-of-8");
    harness.list(request, &[8]);
    harness.assert_received(&[(eight, r#"{"type":"thread_joined","threadId":41}"#)]);
}

#[test]
fn frames_held_for_a_list_are_bounded_and_freed_on_close() {
    let mut harness = harness();
    let seven = harness.open_proven(0, 7);
    for _ in 0..8 {
        harness.send(seven, TYPING);
    }
    harness.assert_nothing_received();
    harness.send(seven, TYPING);
    harness.assert_error(seven, "overloaded");
    let (request, ..) = harness.next_list();
    harness.close(seven);
    harness.list(request, &[7]);
    harness.assert_nothing_received();
    let again = harness.open_with(0, "token-of-7");
    harness.received();
    for _ in 0..8 {
        harness.send(again, TYPING);
    }
    assert!(harness.received().iter().all(|(_, frame)| frame["type"] == "typing"));
}

#[test]
fn oversized_thread_is_reported() {
    let mut harness = harness();
    let seven = harness.open_proven(0, 7);
    harness.send(seven, JOIN);
    let (request, ..) = harness.next_list();
    harness.fail(request, Failure::ThreadTooLarge);
    harness.assert_error(seven, "thread_too_large");
}

#[test]
fn new_thread_is_joined_by_listed_connections_only() {
    let mut harness = HubHarness::new(Settings { joins_per_connection: 1, ..verified() });
    let seven = harness.open_proven(0, 7);
    let eight = harness.open_proven(1, 8);
    let nine = harness.open_proven(2, 9);
    harness.send(seven, r#"{"type":"send_message","recipientId":8,"message":"hi"}"#);
    let (request, _) = harness.next_post();
    harness.store_with_participants(request, 5, 7, Some(&[7, 8]));
    let received = harness.received();
    assert!(has_received(&received, seven, "message") && has_received(&received, eight, "message"));
    // The site leaves a deleted account out of the list.
    harness.send(nine, r#"{"type":"send_message","recipientId":8,"message":"hi"}"#);
    let (request, _) = harness.next_post();
    harness.store_with_participants(request, 6, 9, Some(&[9]));
    let received = harness.received();
    assert!(
        has_received(&received, nine, "message") && !has_received(&received, eight, "message"),
        "{received:?}"
    );
}

#[test]
fn leave_takes_effect_after_earlier_frames() {
    let mut harness = harness();
    let seven = harness.open_member(0, 7, 41, &[7, 8]);
    harness.advance(61 * SECOND);
    harness.send(seven, JOIN);
    harness.send(seven, r#"{"type":"leave_thread","threadId":41}"#);
    harness.assert_nothing_received();
    let (request, ..) = harness.next_list();
    harness.list(request, &[7, 8]);
    harness.assert_received(&[
        (seven, r#"{"type":"thread_joined","threadId":41}"#),
        (seven, r#"{"type":"thread_left","threadId":41}"#),
    ]);
}

#[test]
fn new_participant_can_be_called_after_ten_seconds() {
    let mut harness = harness();
    let seven = harness.open_member(0, 7, 41, &[7]);
    let eight = harness.open_proven(1, 8);
    let call =
        r#"{"type":"call_initiated","senderId":7,"recipientId":8,"threadId":41,"callId":"c"}"#;
    harness.send(seven, call);
    harness.assert_error(seven, "not_participant");
    harness.advance(11 * SECOND);
    harness.send(seven, call);
    let (request, ..) = harness.next_list();
    harness.list(request, &[7]);
    harness.assert_error(seven, "not_participant");
    harness.advance(11 * SECOND);
    harness.send(seven, call);
    let (request, ..) = harness.next_list();
    harness.list(request, &[7, 8]);
    harness.assert_received(&[(eight, call)]);
}

#[test]
fn refused_participant_is_not_readmitted_by_an_old_list() {
    let mut harness = harness();
    let seven = harness.open_member(0, 7, 41, &[7, 8]);
    let eight = harness.open_member(1, 8, 41, &[]);
    harness.advance(61 * SECOND);
    harness.send(eight, TYPING);
    let (request, ..) = harness.next_list();
    harness.fail(request, Failure::NotParticipant);
    assert!(has_received(&harness.received(), eight, "thread_left"));
    // Now the site is down, and its last verdicts count.
    for (conn, thread) in [(seven, 41), (eight, 42)] {
        harness.send(conn, &format!(r#"{{"type":"typing","threadId":{thread}}}"#));
        let (request, ..) = harness.next_list();
        harness.fail(request, DOWN);
    }
    harness.received();
    harness.send(seven, TYPING);
    assert!(has_received(&harness.received(), seven, "typing"));
    harness.send(eight, TYPING);
    assert!(!has_received(&harness.received(), seven, "typing"));
}

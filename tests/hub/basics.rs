//! Scripted hub tests: inputs, and exactly the effects that follow.

use std::time::{Duration, Instant};

use buddyline::hub::Hub;
use buddyline::hub::interface::{
    Answer, ConnId, Effect, Failure, Input, LookupResult, Now, Settings, Stored, Target,
};
use buddyline::protocol::Id;
use serde_json::{Value, json};

use crate::support::harness;
use crate::support::harness::{HubHarness, settings};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn user_connected_goes_to_the_user_first_then_to_all() {
    let mut harness = HubHarness::default();
    let stranger = harness.open(0);
    let alice = harness.open(1);
    harness.send(alice, r#"{"type":"user_connected","userId":"2","clientId":"c"}"#);
    harness.assert_received(&[
        (stranger, r#"{"type":"user_connected","userId":"2"}"#),
        (alice, r#"{"type":"user_connected","userId":"2","clientId":"c"}"#),
    ]);
}

#[test]
fn second_device_is_announced_to_itself_only() {
    let mut harness = HubHarness::default();
    let phone = harness.open_as(0, "2");
    let laptop = harness.open(1);
    harness.send(laptop, r#"{"type":"user_connected","userId":"2"}"#);
    harness.assert_received(&[(laptop, r#"{"type":"user_connected","userId":"2"}"#)]);
    harness.send(phone, r#"{"type":"user_connected","userId":2}"#);
    harness.assert_received(&[(phone, r#"{"type":"user_connected","userId":2}"#)]);
}

#[test]
fn user_goes_offline_when_grace_ends_after_last_device() {
    let mut harness = HubHarness::default();
    let phone = harness.open_as(0, "2");
    let laptop = harness.open_as(1, "2");
    let bob = harness.open_as(2, "3");
    harness.close(phone);
    harness.advance(60 * SECOND);
    harness.assert_nothing_received();
    harness.close(laptop);
    harness.advance(Duration::from_millis(4_999));
    harness.assert_nothing_received();
    harness.advance(Duration::from_millis(1));
    harness.assert_received(&[(bob, r#"{"type":"user_disconnected","userId":2}"#)]);
}

#[test]
fn reconnect_within_grace_does_not_change_presence() {
    let mut harness = HubHarness::default();
    let phone = harness.open_as(0, "2");
    harness.open_as(1, "3");
    harness.close(phone);
    harness.advance(4 * SECOND);
    let again = harness.open(0);
    harness.send(again, r#"{"type":"user_connected","userId":2}"#);
    harness.assert_received(&[(again, r#"{"type":"user_connected","userId":2}"#)]);
    harness.advance(60 * SECOND);
    harness.assert_nothing_received();
}

#[test]
fn a_connection_may_become_another_user() {
    let mut harness = HubHarness::default();
    let conn = harness.open_as(0, "2");
    let other = harness.open_as(1, "9");
    harness.send(conn, r#"{"type":"user_connected","userId":3}"#);
    harness.assert_received(&[
        (other, r#"{"type":"user_connected","userId":3}"#),
        (conn, r#"{"type":"user_connected","userId":3}"#),
    ]);
    harness.advance(Duration::ZERO);
    let gone = r#"{"type":"user_disconnected","userId":2}"#;
    harness.assert_received(&[(conn, gone), (other, gone)]);
    harness.advance(60 * SECOND);
    harness.assert_nothing_received();
}

#[test]
fn online_users_is_answered_globally_and_per_thread() {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(0, "2", "7");
    harness.open_in(1, r#""bob""#, r#""7""#);
    harness.open_in(2, "2", "7");
    harness.open_as(3, "4");
    harness.send(alice, r#"{"type":"online_users"}"#);
    harness.assert_received(&[(alice, r#"{"type":"online_users","userIds":[2,"bob",4]}"#)]);
    harness.send(alice, r#"{"type":"online_users","threadId":"7","clientId":1}"#);
    let here = r#"{"type":"online_users","threadId":"7","userIds":[2,"bob"],"clientId":1}"#;
    harness.assert_received(&[(alice, here)]);
    harness.send(alice, r#"{"type":"online_users","threadId":8}"#);
    harness.assert_received(&[(alice, r#"{"type":"online_users","threadId":8,"userIds":[]}"#)]);
}

#[test]
fn join_and_leave_are_confirmed_in_the_senders_id_form() {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(0, "2", "1");
    let bob = harness.open_as(1, "3");
    harness.send(bob, r#"{"type":"join_thread","threadId":"1","clientId":"j"}"#);
    harness.assert_received(&[(bob, r#"{"type":"thread_joined","threadId":"1","clientId":"j"}"#)]);
    harness.send(bob, r#"{"type":"join_thread","threadId":1}"#);
    harness.assert_received(&[(bob, r#"{"type":"thread_joined","threadId":1}"#)]);
    harness.send(alice, r#"{"type":"typing","threadId":1}"#);
    let typing = r#"{"type":"typing","threadId":1,"userId":2,"typing":true}"#;
    harness.assert_received(&[(alice, typing), (bob, typing)]);
    harness.send(bob, r#"{"type":"leave_thread","threadId":1,"clientId":"l"}"#);
    harness.assert_received(&[(bob, r#"{"type":"thread_left","threadId":1,"clientId":"l"}"#)]);
    harness.send(alice, r#"{"type":"typing","threadId":1}"#);
    harness.assert_received(&[(alice, typing)]);
}

#[test]
fn joins_per_connection_are_limited() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    for thread in 1..=4 {
        harness.send(alice, &format!(r#"{{"type":"join_thread","threadId":{thread}}}"#));
    }
    harness.received();
    harness.send(alice, r#"{"type":"join_thread","threadId":5}"#);
    let fault = harness.assert_error(alice, "too_many_threads");
    assert_eq!((&fault["replyTo"], &fault["threadId"]), (&"join_thread".into(), &5.into()));
    harness.send(alice, r#"{"type":"join_thread","threadId":4}"#);
    harness.assert_received(&[(alice, r#"{"type":"thread_joined","threadId":4}"#)]);
}

#[test]
fn typing_ends_by_itself_three_seconds_after_the_last_repeat() {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(0, "2", "1");
    let bob = harness.open_in(1, "3", "1");
    let typing = r#"{"type":"typing","threadId":"1","userId":2,"typing":true}"#;
    let stopped = r#"{"type":"typing","threadId":"1","userId":2,"typing":false}"#;
    harness.send(alice, r#"{"type":"typing","threadId":"1"}"#);
    harness.assert_received(&[(alice, typing), (bob, typing)]);
    harness.advance(2 * SECOND);
    harness.send(alice, r#"{"type":"typing","threadId":"1"}"#);
    harness.assert_received(&[(alice, typing), (bob, typing)]);
    harness.advance(2 * SECOND);
    harness.assert_nothing_received();
    harness.advance(SECOND);
    harness.assert_received(&[(alice, stopped), (bob, stopped)]);
    harness.advance(60 * SECOND);
    harness.assert_nothing_received();
}

#[test]
fn continued_typing_uses_the_latest_id_form() {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(0, "2", "1");
    let assert_typing = |harness: &mut HubHarness, thread: &str, user: &str| {
        for _ in 0..2 {
            harness.send(alice, &format!(r#"{{"type":"typing","threadId":{thread}}}"#));
            let expected =
                format!(r#"{{"type":"typing","threadId":{thread},"userId":{user},"typing":true}}"#);
            harness.assert_received(&[(alice, &expected)]);
        }
    };
    assert_typing(&mut harness, "1", "2");
    assert_typing(&mut harness, r#""1""#, "2");
    assert_typing(&mut harness, "7", "2");
    assert_typing(&mut harness, "1", "2");
    harness.send(alice, r#"{"type":"user_connected","userId":"2"}"#);
    harness.assert_received(&[(alice, r#"{"type":"user_connected","userId":"2"}"#)]);
    assert_typing(&mut harness, "1", r#""2""#);
    assert_typing(&mut harness, "7", r#""2""#);
}

#[test]
fn typing_false_ends_typing_and_echoes_client_id_to_sender() {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(0, "2", "1");
    let bob = harness.open_in(1, "3", "1");
    harness.send(alice, r#"{"type":"typing","threadId":1}"#);
    harness.received();
    harness.send(alice, r#"{"type":"typing","threadId":1,"typing":false,"clientId":"t"}"#);
    harness.assert_received(&[
        (alice, r#"{"type":"typing","threadId":1,"userId":2,"typing":false,"clientId":"t"}"#),
        (bob, r#"{"type":"typing","threadId":1,"userId":2,"typing":false}"#),
    ]);
    harness.advance(60 * SECOND);
    harness.assert_nothing_received();
}

#[test]
fn typing_ends_when_the_connection_does() {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(0, "2", "1");
    let bob = harness.open_in(1, "3", "1");
    harness.send(alice, r#"{"type":"typing","threadId":1}"#);
    harness.received();
    harness.close(alice);
    harness
        .assert_received(&[(bob, r#"{"type":"typing","threadId":1,"userId":2,"typing":false}"#)]);
}

#[test]
fn typing_continues_while_another_device_types() {
    let mut harness = HubHarness::default();
    let phone = harness.open_in(0, "2", "1");
    let laptop = harness.open_in(1, "2", "1");
    harness.send(phone, r#"{"type":"typing","threadId":1}"#);
    harness.advance(2 * SECOND);
    harness.send(laptop, r#"{"type":"typing","threadId":1}"#);
    harness.received();
    harness.close(phone);
    harness.advance(2 * SECOND);
    harness.assert_nothing_received();
    harness.advance(SECOND);
    harness.assert_received(&[(
        laptop,
        r#"{"type":"typing","threadId":1,"userId":2,"typing":false}"#,
    )]);
}

#[test]
fn leaving_a_thread_ends_typing_in_it() {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(0, "2", "1");
    let bob = harness.open_in(1, "3", "1");
    harness.send(alice, r#"{"type":"typing","threadId":1}"#);
    harness.received();
    harness.send(alice, r#"{"type":"leave_thread","threadId":1}"#);
    let stopped = r#"{"type":"typing","threadId":1,"userId":2,"typing":false}"#;
    harness.assert_received(&[
        (alice, stopped),
        (bob, stopped),
        (alice, r#"{"type":"thread_left","threadId":1}"#),
    ]);
}

#[test]
fn typing_in_too_many_threads_ends_the_oldest() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    for thread in 1..=8 {
        harness.send(alice, &format!(r#"{{"type":"typing","threadId":{thread}}}"#));
    }
    assert_eq!(harness.received().len(), 8);
    harness.send(alice, r#"{"type":"typing","threadId":9}"#);
    harness.assert_received(&[
        (alice, r#"{"type":"typing","threadId":1,"userId":2,"typing":false}"#),
        (alice, r#"{"type":"typing","threadId":9,"userId":2,"typing":true}"#),
    ]);
}

#[test]
fn typing_without_join_reaches_sender_and_thread() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    let bob = harness.open_in(1, "3", "1");
    harness.send(alice, r#"{"type":"typing","threadId":1}"#);
    let typing = r#"{"type":"typing","threadId":1,"userId":2,"typing":true}"#;
    harness.assert_received(&[(alice, typing), (bob, typing)]);
}

#[test]
fn anonymous_typing_has_no_user_and_is_per_connection() {
    let mut harness = HubHarness::default();
    let (anonymous, other) = (harness.open(0), harness.open(1));
    let bob = harness.open_in(2, "3", "1");
    let typing = r#"{"type":"typing","threadId":"1","userId":null,"typing":true}"#;
    let stopped = r#"{"type":"typing","threadId":"1","userId":null,"typing":false}"#;
    harness.send(anonymous, r#"{"type":"typing","threadId":"1"}"#);
    harness.assert_received(&[(anonymous, typing), (bob, typing)]);
    harness.advance(2 * SECOND);
    harness.send(other, r#"{"type":"typing","threadId":"1"}"#);
    harness.assert_received(&[(other, typing), (bob, typing)]);
    harness.advance(SECOND);
    harness.assert_received(&[(anonymous, stopped), (bob, stopped)]);
    harness.close(other);
    harness.assert_received(&[(bob, stopped)]);
    harness.advance(60 * SECOND);
    harness.assert_nothing_received();
}

#[test]
fn identifying_ends_anonymous_typing() {
    let mut harness = HubHarness::default();
    let anonymous = harness.open(0);
    harness.send(anonymous, r#"{"type":"typing","threadId":"1"}"#);
    harness.send(anonymous, r#"{"type":"send_message","threadId":"1","message":"x","token":"t"}"#);
    harness.received();
    let (request, _) = harness.next_post();
    harness.store(request, 1, 2);
    let received = harness.received();
    let stopped = &received[0].1;
    assert_eq!((&stopped["typing"], &stopped["userId"]), (&false.into(), &Value::Null));
    let types: Vec<_> = received.iter().filter_map(|(_, frame)| frame["type"].as_str()).collect();
    assert_eq!(types, ["typing", "user_connected", "thread_joined", "message"]);
    harness.advance(60 * SECOND);
    harness.assert_nothing_received();
}

#[test]
fn anonymous_connection_cannot_call() {
    let mut harness = HubHarness::default();
    let anonymous = harness.open(0);
    harness.send(
        anonymous,
        r#"{"type":"offer","offer":"o","recipientId":2,"senderId":3,"clientId":"x"}"#,
    );
    let fault = harness.assert_error(anonymous, "not_identified");
    assert_eq!((&fault["replyTo"], &fault["clientId"]), (&"offer".into(), &"x".into()));
}

#[test]
fn leaving_on_one_device_keeps_the_others_typing() {
    let mut harness = HubHarness::default();
    let phone = harness.open_in(0, "2", "1");
    let laptop = harness.open_in(1, "2", "1");
    harness.send(phone, r#"{"type":"typing","threadId":1}"#);
    harness.received();
    harness.send(laptop, r#"{"type":"leave_thread","threadId":1}"#);
    harness.assert_received(&[(laptop, r#"{"type":"thread_left","threadId":1}"#)]);
}

#[test]
fn recipient_at_join_limit_still_gets_first_message() {
    let mut harness = HubHarness::default();
    let bob = harness.open_as(0, "3");
    for thread in 1..=4 {
        harness.send(bob, &format!(r#"{{"type":"join_thread","threadId":{thread}}}"#));
    }
    let alice = harness.open_as(1, "2");
    harness.send(alice, r#"{"type":"send_message","recipientId":3,"message":"hi"}"#);
    let (request, _) = harness.next_post();
    harness.store(request, 12, 2);
    let received = harness.received();
    let of = |conn| -> Vec<_> {
        let frames = received.iter().filter(|(to, _)| *to == conn);
        frames.filter_map(|(_, frame)| frame["type"].as_str()).collect()
    };
    assert_eq!(of(alice), ["thread_joined", "message"]);
    assert_eq!(of(bob), ["message"]);
}

#[test]
fn call_frame_reaches_all_peer_devices_by_either_field() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    let phone = harness.open_as(1, "3");
    let laptop = harness.open_as(2, "3");
    let as_sender = r#"{"type":"answer","answer":{"sdp":"v=0\r\n"},"recipientId":"3","senderId":2,"threadId":1}"#;
    harness.send(alice, as_sender);
    harness.assert_received(&[(phone, as_sender), (laptop, as_sender)]);
    let as_recipient =
        r#"{"type":"answer","answer":"sdp","recipientId":2,"senderId":3,"threadId":1}"#;
    harness.send(alice, as_recipient);
    harness.assert_received(&[(phone, as_recipient), (laptop, as_recipient)]);
}

#[test]
fn call_frame_relay_strips_only_token_and_client_id() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    let bob = harness.open_as(1, "3");
    harness.send(
        alice,
        r#"{"token":"t","type":"ice-candidate","candidate":null,"recipientId":3,"video":true,"clientId":"c"}"#,
    );
    let relayed = r#"{"type":"ice-candidate","candidate":null,"recipientId":3,"video":true}"#;
    harness.assert_received(&[(bob, relayed)]);
}

#[test]
fn foreign_or_undeliverable_call_frame_is_an_error() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    harness.open_as(1, "3");
    let call = |sender: &str, recipient: &str| {
        format!(
            r#"{{"type":"call_initiated","senderId":{sender},"recipientId":{recipient},"threadId":1}}"#
        )
    };
    harness.send(alice, &call("3", "4"));
    harness.assert_error(alice, "not_your_call");
    harness.send(alice, &call("2", "2"));
    harness.assert_error(alice, "not_your_call");
    harness.send(alice, &call("2", "4"));
    harness.assert_error(alice, "recipient_offline");
}

#[test]
fn duplicate_field_cannot_smuggle_a_frame_through_a_call() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    harness.open_as(1, "3");
    for twice in [
        r#"{"type":"offer","offer":"o","recipientId":3,"type":"message"}"#,
        r#"{"type":"offer","offer":"o","recipientId":3,"x":1,"x":2}"#,
        r#"{"type":"offer","offer":"o","recipientId":3,"x":1,"\u0078":2}"#,
    ] {
        harness.send(alice, twice);
        harness.assert_error(alice, "invalid_frame");
    }
}

#[test]
fn a_message_is_stored_first_and_then_shown_to_the_thread() {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(0, r#""2""#, "7");
    let bob = harness.open_in(1, "3", "7");
    harness.send(
        alice,
        r#"{"type":"send_message","recipientId":"3","message":"héllo \"you\"","threadId":"7","token":"tok","clientId":"c1"}"#,
    );
    harness.assert_nothing_received();
    let (request, post) = harness.next_post();
    assert_eq!((post.target, &*post.text), (Target::Thread(7), "héllo \"you\""));
    assert_eq!(post.credential.expect("the token").secret(), "tok");
    harness.store(request, 7, 2);
    harness.assert_received(&[
        (alice, r#"{"type":"message","threadId":"7","senderId":"2","recipientId":"3","message":"héllo \"you\"","messageId":1,"sentAt":"2027-01-15T08:00:00Z","html":"<p>html</p>","clientId":"c1"}"#),
        (bob, r#"{"type":"message","threadId":"7","senderId":"2","recipientId":"3","message":"héllo \"you\"","messageId":1,"sentAt":"2027-01-15T08:00:00Z","html":"<p>html</p>"}"#),
    ]);
}

#[test]
fn stored_message_identifies_and_joins_its_sender() {
    let mut harness = HubHarness::default();
    let bob = harness.open_as(0, "3");
    let anonymous = harness.open(1);
    harness.send(
        anonymous,
        r#"{"type":"send_message","recipientId":3,"message":"hi","threadId":"7","token":"t"}"#,
    );
    let (request, _) = harness.next_post();
    harness.store(request, 7, 2);
    harness.assert_received(&[
        (bob, r#"{"type":"user_connected","userId":2}"#),
        (anonymous, r#"{"type":"user_connected","userId":2}"#),
        (anonymous, r#"{"type":"thread_joined","threadId":"7"}"#),
        (anonymous, r#"{"type":"message","threadId":"7","senderId":2,"recipientId":3,"message":"hi","messageId":1,"sentAt":"2027-01-15T08:00:00Z","html":"<p>html</p>"}"#),
    ]);
}

#[test]
fn message_sender_is_taken_from_the_site() {
    let mut harness = HubHarness::default();
    let conn = harness.open_in(0, "2", "7");
    harness.send(conn, r#"{"type":"send_message","message":"hi","threadId":7,"token":"t"}"#);
    let (request, _) = harness.next_post();
    let (thread, message) = (7, None);
    let stored =
        Stored { thread, sender: Id::number(9), message, participants: None, expires_s: None };
    harness.answer(request, Answer::Stored(stored));
    harness.assert_received(&[(
        conn,
        r#"{"type":"message","threadId":7,"senderId":9,"recipientId":null,"message":"hi"}"#,
    )]);
}

#[test]
fn message_without_thread_joins_both_to_the_sites_thread() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    let tablet = harness.open_as(1, "2");
    let bob = harness.open_as(2, "3");
    let carol = harness.open_as(3, "4");
    for none in
        ["", r#","threadId":null"#, r#","threadId":"""#, r#","threadId":0"#, r#","threadId":"0""#]
    {
        harness.send(
            alice,
            &format!(r#"{{"type":"send_message","recipientId":"3","message":"x"{none}}}"#),
        );
        let (request, post) = harness.next_post();
        assert_eq!(post.target, Target::NewThread { recipient: 3 });
        harness.fail(request, Failure::Unknown);
        harness.assert_error(alice, "unknown_outcome");
    }
    harness.send(alice, r#"{"type":"send_message","recipientId":"3","message":"hi"}"#);
    let (request, _) = harness.next_post();
    harness.store(request, 12, 2);
    let joined = r#"{"type":"thread_joined","threadId":12}"#;
    let message = r#"{"type":"message","threadId":12,"senderId":2,"recipientId":"3","message":"hi","messageId":1,"sentAt":"2027-01-15T08:00:00Z","html":"<p>html</p>"}"#;
    harness.assert_received(&[
        (alice, joined),
        (tablet, joined),
        (bob, joined),
        (alice, message),
        (tablet, message),
        (bob, message),
    ]);
    harness.send(carol, r#"{"type":"online_users","threadId":12}"#);
    harness.assert_received(&[(carol, r#"{"type":"online_users","threadId":12,"userIds":[2,3]}"#)]);
}

#[test]
fn messages_queue_per_thread_only() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    let send = |thread: &str, text: &str| {
        format!(r#"{{"type":"send_message","message":"{text}","threadId":{thread},"token":"t"}}"#)
    };
    harness.send(alice, &send("7", "one"));
    harness.send(alice, &send("\"7\"", "two"));
    harness.send(alice, &send("8", "three"));
    let (one, post) = harness.next_post();
    assert_eq!(&*post.text, "one");
    let (three, post) = harness.next_post();
    assert_eq!(&*post.text, "three");
    assert_eq!(harness.pending_asks(), 0);
    harness.store(three, 8, 2);
    assert_eq!(harness.pending_asks(), 0);
    harness.fail(one, Failure::NotParticipant);
    let (_, post) = harness.next_post();
    assert_eq!(&*post.text, "two");
}

#[test]
fn new_threads_are_created_one_at_a_time() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    let bob = harness.open_as(1, "3");
    harness.send(alice, r#"{"type":"send_message","message":"one","recipientId":9,"token":"t"}"#);
    harness.send(bob, r#"{"type":"send_message","message":"two","recipientId":8,"token":"t"}"#);
    let (one, _) = harness.next_post();
    assert_eq!(harness.pending_asks(), 0);
    harness.fail(one, Failure::CannotWrite);
    assert_eq!(&*harness.next_post().1.text, "two");
}

#[test]
fn sending_a_message_ends_typing() {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(0, "2", "7");
    harness.send(alice, r#"{"type":"typing","threadId":7}"#);
    harness.send(alice, r#"{"type":"send_message","message":"x","threadId":7,"token":"t"}"#);
    harness.received();
    let (request, _) = harness.next_post();
    harness.store(request, 7, 2);
    let received = harness.received();
    assert_eq!(received[0].1["typing"], false);
    assert_eq!(received[1].1["type"], "message");
    harness.advance(60 * SECOND);
    harness.assert_nothing_received();
}

#[test]
fn message_of_a_departed_sender_still_reaches_the_thread() {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(0, "2", "7");
    let bob = harness.open_in(1, "3", "7");
    harness.send(
        alice,
        r#"{"type":"send_message","message":"bye","threadId":7,"token":"t","clientId":"c"}"#,
    );
    harness.close(alice);
    let stranger = harness.open(0);
    let (request, _) = harness.next_post();
    harness.store(request, 7, 2);
    let received = harness.received();
    assert_eq!(received.len(), 1, "{received:?}");
    assert_eq!((received[0].0, &received[0].1["message"]), (bob, &"bye".into()));
    assert!(received[0].1.get("clientId").is_none());
    harness.send(stranger, r#"{"type":"online_users","threadId":7}"#);
    harness.assert_received(&[(stranger, r#"{"type":"online_users","threadId":7,"userIds":[3]}"#)]);
}

#[test]
fn each_failure_has_an_error_code_and_advice() {
    let wait = |retry_after_s| Failure::SiteBusy { retry_after_s };
    let closed = |retry_after_s| Failure::SiteUnavailable { retry_after_s };
    for (failure, code) in [
        (Failure::TokenMissing, "token_required"),
        (Failure::TicketOnly, "token_required"),
        (Failure::TokenRefused, "token_refused"),
        (Failure::TokenExpired, "token_expired"),
        (Failure::Suspended, "suspended"),
        (Failure::NotParticipant, "not_participant"),
        (Failure::CannotWrite, "cannot_write"),
        (Failure::RefusedBySite, "refused_by_site"),
        (Failure::TooLarge, "too_large"),
        (wait(Some(30)), "site_busy"),
        (wait(None), "site_busy"),
        (closed(Some(600)), "site_unavailable"),
        (closed(None), "site_unavailable"),
        (Failure::SiteMisconfigured, "site_misconfigured"),
        (Failure::Overloaded, "overloaded"),
        (Failure::NotStored, "not_stored"),
        (Failure::Unknown, "unknown_outcome"),
        (Failure::Unusable, "unknown_outcome"),
    ] {
        let mut harness = HubHarness::default();
        let alice = harness.open_in(0, "2", "7");
        harness.open_in(1, "3", "7");
        harness.send(alice, r#"{"type":"send_message","message":"x","threadId":7,"clientId":5}"#);
        let (request, _) = harness.next_post();
        harness.fail(request, failure);
        let fault = harness.assert_error(alice, code);
        assert_eq!(fault["replyTo"], "send_message");
        assert_eq!((&fault["threadId"], &fault["clientId"]), (&7.into(), &5.into()));
        if let Failure::SiteBusy { retry_after_s: Some(s) }
        | Failure::SiteUnavailable { retry_after_s: Some(s) } = failure
        {
            assert!(fault["message"].as_str().unwrap().contains(&format!("{s} seconds")));
        }
    }
}

#[test]
fn messages_over_the_in_flight_limit_are_refused() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    let bob = harness.open_as(1, "3");
    let send = r#"{"type":"send_message","message":"x","threadId":7,"token":"t"}"#;
    for _ in 0..4 {
        harness.send(alice, send);
    }
    harness.assert_nothing_received();
    harness.send(alice, send);
    harness.assert_error(alice, "overloaded");
    harness.send(bob, send);
    harness.send(bob, send);
    harness.assert_nothing_received();
    harness.send(bob, send);
    harness.assert_error(bob, "overloaded");
    for _ in 0..6 {
        let (request, _) = harness.next_post();
        harness.store(request, 7, 2);
    }
    assert_eq!(harness.pending_asks(), 0);
    let messages = harness.received().iter().filter(|(_, f)| f["type"] == "message").count();
    assert_eq!(
        messages,
        4 + 2 + 2,
        "alice receives six, bob, who joins with his first message, two"
    );
    harness.send(alice, send);
    harness.assert_nothing_received();
}

#[test]
fn in_flight_messages_are_bounded_in_bytes() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    let send = |bytes: usize| {
        format!(r#"{{"type":"send_message","threadId":7,"message":"{}"}}"#, "x".repeat(bytes))
    };
    harness.send(alice, &send(6_000));
    harness.send(alice, &send(4_001));
    harness.assert_error(alice, "overloaded");
    harness.send(alice, &send(4_000));
    harness.assert_nothing_received();
    let (request, _) = harness.next_post();
    harness.fail(request, Failure::NotStored);
    harness.assert_error(alice, "not_stored");
    harness.send(alice, &send(6_000));
    harness.assert_nothing_received();
}

#[test]
fn changing_users_repeatedly_leaves_no_users_behind() {
    let mut harness = HubHarness::default();
    let conn = harness.open(0);
    for name in 0..1_000 {
        harness.send(conn, &format!(r#"{{"type":"user_connected","userId":{name}}}"#));
    }
    harness.advance(Duration::ZERO);
    harness.received();
    harness.send(conn, r#"{"type":"online_users"}"#);
    harness.assert_received(&[(conn, r#"{"type":"online_users","userIds":[999]}"#)]);
}

#[test]
fn stop_gives_every_message_an_outcome() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    for client_id in 1..=3 {
        harness.send(
            alice,
            &format!(
                r#"{{"type":"send_message","message":"x","threadId":7,"clientId":{client_id}}}"#
            ),
        );
    }
    harness.hub.stop();
    harness.take_effects();
    let outcomes: Vec<_> = harness
        .received()
        .iter()
        .map(|(_, frame)| (frame["clientId"].clone(), frame["code"].clone()))
        .collect();
    assert_eq!(
        outcomes,
        [
            (2.into(), "not_stored".into()),
            (3.into(), "not_stored".into()),
            (1.into(), "unknown_outcome".into()),
        ]
    );
    let (late, _) = harness.next_post();
    harness.store(late, 7, 2);
    harness.assert_nothing_received();
}

#[test]
fn outcome_goes_to_users_next_connection() {
    let mut harness = HubHarness::default();
    let gone = harness.open_in(0, "7", "41");
    let other_device = harness.open_as(1, "7");
    let friend = harness.open_in(2, "8", "41");
    for name in ["a", "b"] {
        let send = r#"{"type":"send_message","threadId":41,"message":"x","token":"t","clientId":"#;
        harness.send(gone, &format!("{send}\"{name}\"}}"));
    }
    let (first, _) = harness.next_post();
    harness.close(gone);
    // The outcome is kept while the user has no later connection; the thread gets messages meanwhile.
    harness.fail(first, Failure::Unusable);
    harness.advance(Duration::from_millis(500));
    let (look, _) = harness.next_lookup();
    let other = LookupResult::Mismatch { thread: 41, sender: Id::number(7), message: 5 };
    harness.answer(look, Answer::LookupResult(other));
    harness.assert_nothing_received();
    let (second, _) = harness.next_post();
    let back = harness.open(3);
    harness.assert_nothing_received();
    harness.send(back, r#"{"type":"user_connected","userId":"7"}"#);
    let received = harness.received();
    assert_eq!(received.len(), 2, "{received:?}");
    assert_eq!((received[1].0, &received[1].1["clientId"]), (back, &"a".into()));
    assert_eq!(received[1].1["code"], "unknown_outcome");
    // From then on the user's connection gets each outcome at once, and once.
    harness.store(second, 41, 7);
    let received = harness.received();
    let of = |conn| received.iter().filter(|(to, f)| *to == conn && f["type"] == "message").count();
    assert_eq!((of(back), of(friend), of(other_device)), (1, 1, 0), "{received:?}");
    let own = received.iter().find(|(to, f)| *to == back && f["type"] == "message");
    assert_eq!(own.map(|(_, frame)| &frame["clientId"]), Some(&"b".into()));
}

#[test]
fn outcome_is_kept_ten_minutes_for_its_user_only() {
    let mut harness = HubHarness::default();
    let gone = harness.open_as(0, "7");
    harness.send(gone, r#"{"type":"send_message","threadId":41,"message":"x","token":"t"}"#);
    let (request, _) = harness.next_post();
    harness.close(gone);
    harness.store(request, 41, 7);
    harness.open_as(1, "8");
    let stranger = harness.open(2);
    harness.send(stranger, r#"{"type":"user_connected","userId":9}"#);
    assert!(harness.received().iter().all(|(_, frame)| frame["type"] == "user_connected"));
    harness.advance(Duration::from_secs(601));
    harness.received();
    let late = harness.open(3);
    harness.send(late, r#"{"type":"user_connected","userId":7}"#);
    assert!(harness.received().iter().all(|(_, frame)| frame["type"] == "user_connected"));
}

#[test]
fn thread_limit_refuses_new_joins_and_keeps_existing() {
    let mut harness = HubHarness::new(Settings { threads: 2, ..settings() });
    let (alice, bob) = (harness.open_as(0, "2"), harness.open_as(1, "3"));
    harness.received();
    harness.send(alice, r#"{"type":"join_thread","threadId":12}"#);
    harness.send(alice, r#"{"type":"join_thread","threadId":13}"#);
    harness.received();
    harness.send(bob, r#"{"type":"join_thread","threadId":14,"clientId":"c"}"#);
    let fault = harness.assert_error(bob, "overloaded");
    assert_eq!((&fault["threadId"], &fault["clientId"]), (&json!(14), &json!("c")), "{fault}");
    harness.send(bob, r#"{"type":"join_thread","threadId":13}"#);
    harness.assert_received(&[(bob, r#"{"type":"thread_joined","threadId":13}"#)]);
    harness.send(alice, r#"{"type":"leave_thread","threadId":12}"#);
    harness.received();
    harness.send(bob, r#"{"type":"join_thread","threadId":14}"#);
    harness.assert_received(&[(bob, r#"{"type":"thread_joined","threadId":14}"#)]);
}

#[test]
fn rate_limited_frame_is_refused_with_its_client_id() {
    let mut harness = HubHarness::new(settings());
    let alice = harness.open_as(0, "2");
    harness.received();
    let text = r#"{"type":"send_message","threadId":12,"message":"x","token":"t","clientId":"c"}"#;
    harness.handle(Input::RateLimited { conn: alice, text: Some(text) });
    let fault = harness.assert_error(alice, "rate_limited");
    assert_eq!(fault["replyTo"], "send_message");
    assert_eq!((&fault["threadId"], &fault["clientId"]), (&json!(12), &json!("c")));
    assert_eq!(harness.pending_asks(), 0, "nothing was sent");
    harness.handle(Input::RateLimited { conn: alice, text: None });
    harness.assert_error(alice, "rate_limited");
}

#[test]
fn mass_arrivals_are_announced_in_bounded_batches() {
    const CONNECTIONS: u32 = 1_000;
    let mut hub = Hub::new(settings());
    let mut now = Now { instant: Instant::now(), unix_s: 1_800_000_000 };
    let conns = (0..CONNECTIONS).map(|slot| ConnId { slot, serial: slot + 1 });
    for conn in conns.clone() {
        hub.handle(Input::Opened { conn, credential: None }, now);
    }
    let (mut received, mut batches, mut largest) = ([0; CONNECTIONS as usize], 0, 0);
    let mut drain = |hub: &mut Hub| {
        while let Some(effect) = hub.next_effect() {
            if let Effect::FanOut { to, frame, droppable: true } = effect {
                batches += 1;
                largest = largest.max(frame.len());
                let count = harness::frames::frames(&frame).len();
                hub.receivers(to).iter().for_each(|conn| received[conn.slot as usize] += count);
            }
        }
    };
    for conn in conns {
        let text = format!(r#"{{"type":"user_connected","userId":"{:x>64}"}}"#, conn.slot);
        hub.handle(Input::Frame { conn, text: &text }, now);
        drain(&mut hub);
    }
    now.instant += Duration::from_millis(100);
    while hub.advance(now) {
        drain(&mut hub);
    }
    // Each connection gets its own arrival as the answer, and perhaps in a batch as well.
    assert!(
        received
            .iter()
            .all(|count| [CONNECTIONS as usize - 1, CONNECTIONS as usize].contains(count))
    );
    assert!((100..300).contains(&batches), "{batches} batches");
    assert!((16 * 1024..33 * 1024).contains(&largest), "{largest} bytes in the largest");
}

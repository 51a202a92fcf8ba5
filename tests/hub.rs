//! The hub by scripts: inputs, and exactly the effects that follow.

#[path = "support/town.rs"]
mod town;

use std::time::{Duration, Instant};

use buddyline::hub::Hub;
use buddyline::hub::interface::{
    Answer, ConnId, Effect, Failure, Input, LookupResult, Now, Settings, Stored, Target,
};
use buddyline::protocol::Id;
use serde_json::{Value, json};
use town::{Town, settings};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn everyone_hears_a_user_come_and_the_user_first_of_all_knows_it() {
    let mut town = Town::default();
    let stranger = town.open(0);
    let alice = town.open(1);
    town.say(alice, r#"{"type":"user_connected","userId":"2","clientId":"c"}"#);
    town.hears(&[
        (stranger, r#"{"type":"user_connected","userId":"2"}"#),
        (alice, r#"{"type":"user_connected","userId":"2","clientId":"c"}"#),
    ]);
}

#[test]
fn a_second_device_is_told_to_itself_alone() {
    let mut town = Town::default();
    let phone = town.open_as(0, "2");
    let laptop = town.open(1);
    town.say(laptop, r#"{"type":"user_connected","userId":"2"}"#);
    town.hears(&[(laptop, r#"{"type":"user_connected","userId":"2"}"#)]);
    town.say(phone, r#"{"type":"user_connected","userId":2}"#);
    town.hears(&[(phone, r#"{"type":"user_connected","userId":2}"#)]);
}

#[test]
fn a_user_is_gone_when_the_grace_time_after_the_last_device_is_over() {
    let mut town = Town::default();
    let phone = town.open_as(0, "2");
    let laptop = town.open_as(1, "2");
    let bob = town.open_as(2, "3");
    town.close(phone);
    town.pass(60 * SECOND);
    town.hears_nothing();
    town.close(laptop);
    town.pass(Duration::from_millis(4_999));
    town.hears_nothing();
    town.pass(Duration::from_millis(1));
    town.hears(&[(bob, r#"{"type":"user_disconnected","userId":2}"#)]);
}

#[test]
fn a_phone_that_changes_networks_does_not_flicker() {
    let mut town = Town::default();
    let phone = town.open_as(0, "2");
    town.open_as(1, "3");
    town.close(phone);
    town.pass(4 * SECOND);
    let again = town.open(0);
    town.say(again, r#"{"type":"user_connected","userId":2}"#);
    town.hears(&[(again, r#"{"type":"user_connected","userId":2}"#)]);
    town.pass(60 * SECOND);
    town.hears_nothing();
}

#[test]
fn a_connection_may_become_another_user() {
    let mut town = Town::default();
    let conn = town.open_as(0, "2");
    let other = town.open_as(1, "9");
    town.say(conn, r#"{"type":"user_connected","userId":3}"#);
    town.hears(&[
        (other, r#"{"type":"user_connected","userId":3}"#),
        (conn, r#"{"type":"user_connected","userId":3}"#),
    ]);
    town.pass(Duration::ZERO);
    let gone = r#"{"type":"user_disconnected","userId":2}"#;
    town.hears(&[(conn, gone), (other, gone)]);
    town.pass(60 * SECOND);
    town.hears_nothing();
}

#[test]
fn who_is_online_is_told_for_all_and_for_a_thread() {
    let mut town = Town::default();
    let alice = town.open_in(0, "2", "7");
    town.open_in(1, r#""bob""#, r#""7""#);
    town.open_in(2, "2", "7");
    town.open_as(3, "4");
    town.say(alice, r#"{"type":"online_users"}"#);
    town.hears(&[(alice, r#"{"type":"online_users","userIds":[2,"bob",4]}"#)]);
    town.say(alice, r#"{"type":"online_users","threadId":"7","clientId":1}"#);
    let here = r#"{"type":"online_users","threadId":"7","userIds":[2,"bob"],"clientId":1}"#;
    town.hears(&[(alice, here)]);
    town.say(alice, r#"{"type":"online_users","threadId":8}"#);
    town.hears(&[(alice, r#"{"type":"online_users","threadId":8,"userIds":[]}"#)]);
}

#[test]
fn joining_and_leaving_are_confirmed_to_the_joiner_in_the_form_it_wrote() {
    let mut town = Town::default();
    let alice = town.open_in(0, "2", "1");
    let bob = town.open_as(1, "3");
    town.say(bob, r#"{"type":"join_thread","threadId":"1","clientId":"j"}"#);
    town.hears(&[(bob, r#"{"type":"thread_joined","threadId":"1","clientId":"j"}"#)]);
    town.say(bob, r#"{"type":"join_thread","threadId":1}"#);
    town.hears(&[(bob, r#"{"type":"thread_joined","threadId":1}"#)]);
    town.say(alice, r#"{"type":"typing","threadId":1}"#);
    let typing = r#"{"type":"typing","threadId":1,"userId":2,"typing":true}"#;
    town.hears(&[(alice, typing), (bob, typing)]);
    town.say(bob, r#"{"type":"leave_thread","threadId":1,"clientId":"l"}"#);
    town.hears(&[(bob, r#"{"type":"thread_left","threadId":1,"clientId":"l"}"#)]);
    town.say(alice, r#"{"type":"typing","threadId":1}"#);
    town.hears(&[(alice, typing)]);
}

#[test]
fn a_connection_may_join_so_many_threads_and_no_more() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    for thread in 1..=4 {
        town.say(alice, &format!(r#"{{"type":"join_thread","threadId":{thread}}}"#));
    }
    town.heard();
    town.say(alice, r#"{"type":"join_thread","threadId":5}"#);
    let fault = town.hears_error(alice, "too_many_threads");
    assert_eq!((&fault["replyTo"], &fault["threadId"]), (&"join_thread".into(), &5.into()));
    town.say(alice, r#"{"type":"join_thread","threadId":4}"#);
    town.hears(&[(alice, r#"{"type":"thread_joined","threadId":4}"#)]);
}

#[test]
fn typing_ends_by_itself_three_seconds_after_the_last_repeat() {
    let mut town = Town::default();
    let alice = town.open_in(0, "2", "1");
    let bob = town.open_in(1, "3", "1");
    let typing = r#"{"type":"typing","threadId":"1","userId":2,"typing":true}"#;
    let over = r#"{"type":"typing","threadId":"1","userId":2,"typing":false}"#;
    town.say(alice, r#"{"type":"typing","threadId":"1"}"#);
    town.hears(&[(alice, typing), (bob, typing)]);
    town.pass(2 * SECOND);
    town.say(alice, r#"{"type":"typing","threadId":"1"}"#);
    town.hears(&[(alice, typing), (bob, typing)]);
    town.pass(2 * SECOND);
    town.hears_nothing();
    town.pass(SECOND);
    town.hears(&[(alice, over), (bob, over)]);
    town.pass(60 * SECOND);
    town.hears_nothing();
}

#[test]
fn who_goes_on_typing_is_told_in_the_form_in_which_ids_are_written_now() {
    let mut town = Town::default();
    let alice = town.open_in(0, "2", "1");
    let types = |town: &mut Town, thread: &str, user: &str| {
        for _ in 0..2 {
            town.say(alice, &format!(r#"{{"type":"typing","threadId":{thread}}}"#));
            let heard =
                format!(r#"{{"type":"typing","threadId":{thread},"userId":{user},"typing":true}}"#);
            town.hears(&[(alice, &heard)]);
        }
    };
    types(&mut town, "1", "2");
    types(&mut town, r#""1""#, "2");
    types(&mut town, "7", "2");
    types(&mut town, "1", "2");
    town.say(alice, r#"{"type":"user_connected","userId":"2"}"#);
    town.hears(&[(alice, r#"{"type":"user_connected","userId":"2"}"#)]);
    types(&mut town, "1", r#""2""#);
    types(&mut town, "7", r#""2""#);
}

#[test]
fn typing_ends_when_its_user_says_so_and_only_the_author_gets_the_client_id() {
    let mut town = Town::default();
    let alice = town.open_in(0, "2", "1");
    let bob = town.open_in(1, "3", "1");
    town.say(alice, r#"{"type":"typing","threadId":1}"#);
    town.heard();
    town.say(alice, r#"{"type":"typing","threadId":1,"typing":false,"clientId":"t"}"#);
    town.hears(&[
        (alice, r#"{"type":"typing","threadId":1,"userId":2,"typing":false,"clientId":"t"}"#),
        (bob, r#"{"type":"typing","threadId":1,"userId":2,"typing":false}"#),
    ]);
    town.pass(60 * SECOND);
    town.hears_nothing();
}

#[test]
fn typing_ends_when_the_connection_does() {
    let mut town = Town::default();
    let alice = town.open_in(0, "2", "1");
    let bob = town.open_in(1, "3", "1");
    town.say(alice, r#"{"type":"typing","threadId":1}"#);
    town.heard();
    town.close(alice);
    town.hears(&[(bob, r#"{"type":"typing","threadId":1,"userId":2,"typing":false}"#)]);
}

#[test]
fn typing_goes_on_while_the_users_other_device_types() {
    let mut town = Town::default();
    let phone = town.open_in(0, "2", "1");
    let laptop = town.open_in(1, "2", "1");
    town.say(phone, r#"{"type":"typing","threadId":1}"#);
    town.pass(2 * SECOND);
    town.say(laptop, r#"{"type":"typing","threadId":1}"#);
    town.heard();
    town.close(phone);
    town.pass(2 * SECOND);
    town.hears_nothing();
    town.pass(SECOND);
    town.hears(&[(laptop, r#"{"type":"typing","threadId":1,"userId":2,"typing":false}"#)]);
}

#[test]
fn leaving_a_thread_ends_typing_in_it() {
    let mut town = Town::default();
    let alice = town.open_in(0, "2", "1");
    let bob = town.open_in(1, "3", "1");
    town.say(alice, r#"{"type":"typing","threadId":1}"#);
    town.heard();
    town.say(alice, r#"{"type":"leave_thread","threadId":1}"#);
    let over = r#"{"type":"typing","threadId":1,"userId":2,"typing":false}"#;
    town.hears(&[(alice, over), (bob, over), (alice, r#"{"type":"thread_left","threadId":1}"#)]);
}

#[test]
fn a_connection_that_types_in_too_many_threads_has_stopped_in_the_oldest() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    for thread in 1..=8 {
        town.say(alice, &format!(r#"{{"type":"typing","threadId":{thread}}}"#));
    }
    assert_eq!(town.heard().len(), 8);
    town.say(alice, r#"{"type":"typing","threadId":9}"#);
    town.hears(&[
        (alice, r#"{"type":"typing","threadId":1,"userId":2,"typing":false}"#),
        (alice, r#"{"type":"typing","threadId":9,"userId":2,"typing":true}"#),
    ]);
}

#[test]
fn who_types_without_having_joined_hears_it_and_so_does_the_thread() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    let bob = town.open_in(1, "3", "1");
    town.say(alice, r#"{"type":"typing","threadId":1}"#);
    let typing = r#"{"type":"typing","threadId":1,"userId":2,"typing":true}"#;
    town.hears(&[(alice, typing), (bob, typing)]);
}

#[test]
fn who_is_nobody_yet_types_without_a_name_and_no_two_of_them_are_one() {
    let mut town = Town::default();
    let (react, other) = (town.open(0), town.open(1));
    let bob = town.open_in(2, "3", "1");
    let typing = r#"{"type":"typing","threadId":"1","userId":null,"typing":true}"#;
    let over = r#"{"type":"typing","threadId":"1","userId":null,"typing":false}"#;
    town.say(react, r#"{"type":"typing","threadId":"1"}"#);
    town.hears(&[(react, typing), (bob, typing)]);
    town.pass(2 * SECOND);
    town.say(other, r#"{"type":"typing","threadId":"1"}"#);
    town.hears(&[(other, typing), (bob, typing)]);
    town.pass(SECOND);
    town.hears(&[(react, over), (bob, over)]);
    town.close(other);
    town.hears(&[(bob, over)]);
    town.pass(60 * SECOND);
    town.hears_nothing();
}

#[test]
fn who_says_who_they_are_no_longer_types_without_a_name() {
    let mut town = Town::default();
    let react = town.open(0);
    town.say(react, r#"{"type":"typing","threadId":"1"}"#);
    town.say(react, r#"{"type":"send_message","threadId":"1","message":"x","token":"t"}"#);
    town.heard();
    let (request, _) = town.asked();
    town.store(request, 1, 2);
    let heard = town.heard();
    let over = &heard[0].1;
    assert_eq!((&over["typing"], &over["userId"]), (&false.into(), &Value::Null));
    let types: Vec<_> = heard.iter().filter_map(|(_, frame)| frame["type"].as_str()).collect();
    assert_eq!(types, ["typing", "user_connected", "thread_joined", "message"]);
    town.pass(60 * SECOND);
    town.hears_nothing();
}

#[test]
fn who_is_nobody_cannot_call() {
    let mut town = Town::default();
    let nobody = town.open(0);
    town.say(nobody, r#"{"type":"offer","offer":"o","recipientId":2,"senderId":3,"clientId":"x"}"#);
    let fault = town.hears_error(nobody, "not_identified");
    assert_eq!((&fault["replyTo"], &fault["clientId"]), (&"offer".into(), &"x".into()));
}

#[test]
fn leaving_a_thread_on_one_device_does_not_stop_the_other_from_typing() {
    let mut town = Town::default();
    let phone = town.open_in(0, "2", "1");
    let laptop = town.open_in(1, "2", "1");
    town.say(phone, r#"{"type":"typing","threadId":1}"#);
    town.heard();
    town.say(laptop, r#"{"type":"leave_thread","threadId":1}"#);
    town.hears(&[(laptop, r#"{"type":"thread_left","threadId":1}"#)]);
}

#[test]
fn a_recipient_who_can_join_no_more_threads_still_hears_the_message_that_starts_one() {
    let mut town = Town::default();
    let bob = town.open_as(0, "3");
    for thread in 1..=4 {
        town.say(bob, &format!(r#"{{"type":"join_thread","threadId":{thread}}}"#));
    }
    let alice = town.open_as(1, "2");
    town.say(alice, r#"{"type":"send_message","recipientId":3,"message":"hi"}"#);
    let (request, _) = town.asked();
    town.store(request, 12, 2);
    let heard = town.heard();
    let of = |conn| -> Vec<_> {
        let frames = heard.iter().filter(|(to, _)| *to == conn);
        frames.filter_map(|(_, frame)| frame["type"].as_str()).collect()
    };
    assert_eq!(of(alice), ["thread_joined", "message"]);
    assert_eq!(of(bob), ["message"]);
}

#[test]
fn a_call_frame_reaches_all_devices_of_the_other_party_whichever_way_it_is_addressed() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    let phone = town.open_as(1, "3");
    let laptop = town.open_as(2, "3");
    let as_sender = r#"{"type":"answer","answer":{"sdp":"v=0\r\n"},"recipientId":"3","senderId":2,"threadId":1}"#;
    town.say(alice, as_sender);
    town.hears(&[(phone, as_sender), (laptop, as_sender)]);
    let as_recipient =
        r#"{"type":"answer","answer":"sdp","recipientId":2,"senderId":3,"threadId":1}"#;
    town.say(alice, as_recipient);
    town.hears(&[(phone, as_recipient), (laptop, as_recipient)]);
}

#[test]
fn a_call_frame_is_relayed_without_token_and_client_id_and_with_everything_else() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    let bob = town.open_as(1, "3");
    town.say(
        alice,
        r#"{"token":"t","type":"ice-candidate","candidate":null,"recipientId":3,"video":true,"clientId":"c"}"#,
    );
    let relayed = r#"{"type":"ice-candidate","candidate":null,"recipientId":3,"video":true}"#;
    town.hears(&[(bob, relayed)]);
}

#[test]
fn a_call_that_is_not_the_callers_or_reaches_nobody_is_an_error() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    town.open_as(1, "3");
    let call = |sender: &str, recipient: &str| {
        format!(
            r#"{{"type":"call_initiated","senderId":{sender},"recipientId":{recipient},"threadId":1}}"#
        )
    };
    town.say(alice, &call("3", "4"));
    town.hears_error(alice, "not_your_call");
    town.say(alice, &call("2", "2"));
    town.hears_error(alice, "not_your_call");
    town.say(alice, &call("2", "4"));
    town.hears_error(alice, "recipient_offline");
}

#[test]
fn a_field_that_stands_twice_cannot_smuggle_another_frame_through_a_call() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    town.open_as(1, "3");
    for twice in [
        r#"{"type":"offer","offer":"o","recipientId":3,"type":"message"}"#,
        r#"{"type":"offer","offer":"o","recipientId":3,"x":1,"x":2}"#,
        r#"{"type":"offer","offer":"o","recipientId":3,"x":1,"\u0078":2}"#,
    ] {
        town.say(alice, twice);
        town.hears_error(alice, "invalid_frame");
    }
}

#[test]
fn a_message_is_stored_first_and_then_shown_to_the_thread() {
    let mut town = Town::default();
    let alice = town.open_in(0, r#""2""#, "7");
    let bob = town.open_in(1, "3", "7");
    town.say(
        alice,
        r#"{"type":"send_message","recipientId":"3","message":"héllo \"you\"","threadId":"7","token":"tok","clientId":"c1"}"#,
    );
    town.hears_nothing();
    let (request, post) = town.asked();
    assert_eq!((post.target, &*post.text), (Target::Thread(7), "héllo \"you\""));
    assert_eq!(post.credential.expect("the token").secret(), "tok");
    town.store(request, 7, 2);
    town.hears(&[
        (alice, r#"{"type":"message","threadId":"7","senderId":"2","recipientId":"3","message":"héllo \"you\"","messageId":1,"sentAt":"2027-01-15T08:00:00Z","html":"<p>html</p>","clientId":"c1"}"#),
        (bob, r#"{"type":"message","threadId":"7","senderId":"2","recipientId":"3","message":"héllo \"you\"","messageId":1,"sentAt":"2027-01-15T08:00:00Z","html":"<p>html</p>"}"#),
    ]);
}

#[test]
fn an_accepted_message_identifies_and_joins_a_connection_that_said_nothing_before() {
    let mut town = Town::default();
    let bob = town.open_as(0, "3");
    let react = town.open(1);
    town.say(
        react,
        r#"{"type":"send_message","recipientId":3,"message":"hi","threadId":"7","token":"t"}"#,
    );
    let (request, _) = town.asked();
    town.store(request, 7, 2);
    town.hears(&[
        (bob, r#"{"type":"user_connected","userId":2}"#),
        (react, r#"{"type":"user_connected","userId":2}"#),
        (react, r#"{"type":"thread_joined","threadId":"7"}"#),
        (react, r#"{"type":"message","threadId":"7","senderId":2,"recipientId":3,"message":"hi","messageId":1,"sentAt":"2027-01-15T08:00:00Z","html":"<p>html</p>"}"#),
    ]);
}

#[test]
fn the_sender_of_a_message_is_who_the_site_says_and_not_who_the_connection_says() {
    let mut town = Town::default();
    let liar = town.open_in(0, "2", "7");
    town.say(liar, r#"{"type":"send_message","message":"hi","threadId":7,"token":"t"}"#);
    let (request, _) = town.asked();
    let (thread, message) = (7, None);
    let stored =
        Stored { thread, sender: Id::number(9), message, participants: None, expires_s: None };
    town.answer(request, Answer::Stored(stored));
    town.hears(&[(
        liar,
        r#"{"type":"message","threadId":7,"senderId":9,"recipientId":null,"message":"hi"}"#,
    )]);
}

#[test]
fn a_message_without_a_thread_joins_both_sides_to_the_thread_that_the_site_names() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    let tablet = town.open_as(1, "2");
    let bob = town.open_as(2, "3");
    let carol = town.open_as(3, "4");
    for none in
        ["", r#","threadId":null"#, r#","threadId":"""#, r#","threadId":0"#, r#","threadId":"0""#]
    {
        town.say(
            alice,
            &format!(r#"{{"type":"send_message","recipientId":"3","message":"x"{none}}}"#),
        );
        let (request, post) = town.asked();
        assert_eq!(post.target, Target::NewThread { recipient: 3 });
        town.fail(request, Failure::Unknown);
        town.hears_error(alice, "unknown_outcome");
    }
    town.say(alice, r#"{"type":"send_message","recipientId":"3","message":"hi"}"#);
    let (request, _) = town.asked();
    town.store(request, 12, 2);
    let joined = r#"{"type":"thread_joined","threadId":12}"#;
    let message = r#"{"type":"message","threadId":12,"senderId":2,"recipientId":"3","message":"hi","messageId":1,"sentAt":"2027-01-15T08:00:00Z","html":"<p>html</p>"}"#;
    town.hears(&[
        (alice, joined),
        (tablet, joined),
        (bob, joined),
        (alice, message),
        (tablet, message),
        (bob, message),
    ]);
    town.say(carol, r#"{"type":"online_users","threadId":12}"#);
    town.hears(&[(carol, r#"{"type":"online_users","threadId":12,"userIds":[2,3]}"#)]);
}

#[test]
fn a_second_message_waits_for_the_first_in_its_thread_and_not_for_another_thread() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    let send = |thread: &str, text: &str| {
        format!(r#"{{"type":"send_message","message":"{text}","threadId":{thread},"token":"t"}}"#)
    };
    town.say(alice, &send("7", "one"));
    town.say(alice, &send("\"7\"", "two"));
    town.say(alice, &send("8", "three"));
    let (one, post) = town.asked();
    assert_eq!(&*post.text, "one");
    let (three, post) = town.asked();
    assert_eq!(&*post.text, "three");
    assert_eq!(town.questions(), 0);
    town.store(three, 8, 2);
    assert_eq!(town.questions(), 0);
    town.fail(one, Failure::NotParticipant);
    let (_, post) = town.asked();
    assert_eq!(&*post.text, "two");
}

#[test]
fn new_threads_are_made_one_at_a_time_whoever_asks() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    let bob = town.open_as(1, "3");
    town.say(alice, r#"{"type":"send_message","message":"one","recipientId":9,"token":"t"}"#);
    town.say(bob, r#"{"type":"send_message","message":"two","recipientId":8,"token":"t"}"#);
    let (one, _) = town.asked();
    assert_eq!(town.questions(), 0);
    town.fail(one, Failure::CannotWrite);
    assert_eq!(&*town.asked().1.text, "two");
}

#[test]
fn a_message_ends_its_senders_typing() {
    let mut town = Town::default();
    let alice = town.open_in(0, "2", "7");
    town.say(alice, r#"{"type":"typing","threadId":7}"#);
    town.say(alice, r#"{"type":"send_message","message":"x","threadId":7,"token":"t"}"#);
    town.heard();
    let (request, _) = town.asked();
    town.store(request, 7, 2);
    let heard = town.heard();
    assert_eq!(heard[0].1["typing"], false);
    assert_eq!(heard[1].1["type"], "message");
    town.pass(60 * SECOND);
    town.hears_nothing();
}

#[test]
fn a_sender_who_has_left_gets_nothing_and_the_thread_gets_the_message() {
    let mut town = Town::default();
    let alice = town.open_in(0, "2", "7");
    let bob = town.open_in(1, "3", "7");
    town.say(
        alice,
        r#"{"type":"send_message","message":"bye","threadId":7,"token":"t","clientId":"c"}"#,
    );
    town.close(alice);
    let stranger = town.open(0);
    let (request, _) = town.asked();
    town.store(request, 7, 2);
    let heard = town.heard();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!((heard[0].0, &heard[0].1["message"]), (bob, &"bye".into()));
    assert!(heard[0].1.get("clientId").is_none());
    town.say(stranger, r#"{"type":"online_users","threadId":7}"#);
    town.hears(&[(stranger, r#"{"type":"online_users","threadId":7,"userIds":[3]}"#)]);
}

#[test]
fn each_failure_has_its_code_and_says_what_to_do() {
    let wait = |retry_after_s| Failure::SiteBusy { retry_after_s };
    let closed = |retry_after_s| Failure::SiteUnavailable { retry_after_s };
    for (failure, code) in [
        (Failure::TokenMissing, "token_required"),
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
        let mut town = Town::default();
        let alice = town.open_in(0, "2", "7");
        town.open_in(1, "3", "7");
        town.say(alice, r#"{"type":"send_message","message":"x","threadId":7,"clientId":5}"#);
        let (request, _) = town.asked();
        town.fail(request, failure);
        let fault = town.hears_error(alice, code);
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
fn too_many_messages_on_their_way_are_refused_at_once_and_disturb_no_other() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    let bob = town.open_as(1, "3");
    let send = r#"{"type":"send_message","message":"x","threadId":7,"token":"t"}"#;
    for _ in 0..4 {
        town.say(alice, send);
    }
    town.hears_nothing();
    town.say(alice, send);
    town.hears_error(alice, "overloaded");
    town.say(bob, send);
    town.say(bob, send);
    town.hears_nothing();
    town.say(bob, send);
    town.hears_error(bob, "overloaded");
    for _ in 0..6 {
        let (request, _) = town.asked();
        town.store(request, 7, 2);
    }
    assert_eq!(town.questions(), 0);
    let messages = town.heard().iter().filter(|(_, f)| f["type"] == "message").count();
    assert_eq!(messages, 4 + 2 + 2, "alice hears six, bob, who joins with his first, two");
    town.say(alice, send);
    town.hears_nothing();
}

#[test]
fn messages_on_their_way_are_bounded_in_bytes_too() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    let send = |bytes: usize| {
        format!(r#"{{"type":"send_message","threadId":7,"message":"{}"}}"#, "x".repeat(bytes))
    };
    town.say(alice, &send(6_000));
    town.say(alice, &send(4_001));
    town.hears_error(alice, "overloaded");
    town.say(alice, &send(4_000));
    town.hears_nothing();
    let (request, _) = town.asked();
    town.fail(request, Failure::NotStored);
    town.hears_error(alice, "not_stored");
    town.say(alice, &send(6_000));
    town.hears_nothing();
}

#[test]
fn a_connection_that_takes_many_names_leaves_none_of_them_behind() {
    let mut town = Town::default();
    let conn = town.open(0);
    for name in 0..1_000 {
        town.say(conn, &format!(r#"{{"type":"user_connected","userId":{name}}}"#));
    }
    town.pass(Duration::ZERO);
    town.heard();
    town.say(conn, r#"{"type":"online_users"}"#);
    town.hears(&[(conn, r#"{"type":"online_users","userIds":[999]}"#)]);
}

#[test]
fn a_server_that_stops_gives_every_message_its_outcome() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    for client_id in 1..=3 {
        town.say(
            alice,
            &format!(
                r#"{{"type":"send_message","message":"x","threadId":7,"clientId":{client_id}}}"#
            ),
        );
    }
    town.hub.stop();
    town.take_effects();
    let outcomes: Vec<_> = town
        .heard()
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
    let (late, _) = town.asked();
    town.store(late, 7, 2);
    town.hears_nothing();
}

#[test]
fn an_outcome_whose_connection_has_gone_goes_to_its_users_next_one() {
    let mut town = Town::default();
    let gone = town.open_in(0, "7", "41");
    let other_device = town.open_as(1, "7");
    let friend = town.open_in(2, "8", "41");
    for name in ["a", "b"] {
        let send = r#"{"type":"send_message","threadId":41,"message":"x","token":"t","clientId":"#;
        town.say(gone, &format!("{send}\"{name}\"}}"));
    }
    let (first, _) = town.asked();
    town.close(gone);
    // While nobody is there it is kept, and the thread hears it all the same.
    town.fail(first, Failure::Unusable);
    town.pass(Duration::from_millis(500));
    let (look, _) = town.asked_look();
    let other = LookupResult::Mismatch { thread: 41, sender: Id::number(7), message: 5 };
    town.answer(look, Answer::LookupResult(other));
    town.hears_nothing();
    let (second, _) = town.asked();
    let back = town.open(3);
    town.hears_nothing();
    town.say(back, r#"{"type":"user_connected","userId":"7"}"#);
    let heard = town.heard();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert_eq!((heard[1].0, &heard[1].1["clientId"]), (back, &"a".into()));
    assert_eq!(heard[1].1["code"], "unknown_outcome");
    // From then on it is told at once, and once.
    town.store(second, 41, 7);
    let heard = town.heard();
    let of = |conn| heard.iter().filter(|(to, f)| *to == conn && f["type"] == "message").count();
    assert_eq!((of(back), of(friend), of(other_device)), (1, 1, 0), "{heard:?}");
    let own = heard.iter().find(|(to, f)| *to == back && f["type"] == "message");
    assert_eq!(own.map(|(_, frame)| &frame["clientId"]), Some(&"b".into()));
}

#[test]
fn an_outcome_is_kept_for_ten_minutes_and_for_nobody_else() {
    let mut town = Town::default();
    let gone = town.open_as(0, "7");
    town.say(gone, r#"{"type":"send_message","threadId":41,"message":"x","token":"t"}"#);
    let (request, _) = town.asked();
    town.close(gone);
    town.store(request, 41, 7);
    town.open_as(1, "8");
    let stranger = town.open(2);
    town.say(stranger, r#"{"type":"user_connected","userId":9}"#);
    assert!(town.heard().iter().all(|(_, frame)| frame["type"] == "user_connected"));
    town.pass(Duration::from_secs(601));
    town.heard();
    let late = town.open(3);
    town.say(late, r#"{"type":"user_connected","userId":7}"#);
    assert!(town.heard().iter().all(|(_, frame)| frame["type"] == "user_connected"));
}

#[test]
fn more_threads_than_the_server_keeps_are_not_joined_and_those_that_are_heard_are() {
    let mut town = Town::new(Settings { threads: 2, ..settings() });
    let (alice, bob) = (town.open_as(0, "2"), town.open_as(1, "3"));
    town.heard();
    town.say(alice, r#"{"type":"join_thread","threadId":12}"#);
    town.say(alice, r#"{"type":"join_thread","threadId":13}"#);
    town.heard();
    town.say(bob, r#"{"type":"join_thread","threadId":14,"clientId":"c"}"#);
    let fault = town.hears_error(bob, "overloaded");
    assert_eq!((&fault["threadId"], &fault["clientId"]), (&json!(14), &json!("c")), "{fault}");
    town.say(bob, r#"{"type":"join_thread","threadId":13}"#);
    town.hears(&[(bob, r#"{"type":"thread_joined","threadId":13}"#)]);
    town.say(alice, r#"{"type":"leave_thread","threadId":12}"#);
    town.heard();
    town.say(bob, r#"{"type":"join_thread","threadId":14}"#);
    town.hears(&[(bob, r#"{"type":"thread_joined","threadId":14}"#)]);
}

#[test]
fn a_frame_too_many_is_not_heard_and_its_sender_learns_which() {
    let mut town = Town::new(settings());
    let alice = town.open_as(0, "2");
    town.heard();
    let text = r#"{"type":"send_message","threadId":12,"message":"x","token":"t","clientId":"c"}"#;
    town.handle(Input::RateLimited { conn: alice, text: Some(text) });
    let fault = town.hears_error(alice, "rate_limited");
    assert_eq!(fault["replyTo"], "send_message");
    assert_eq!((&fault["threadId"], &fault["clientId"]), (&json!(12), &json!("c")));
    assert_eq!(town.questions(), 0, "nothing was sent");
    town.handle(Input::RateLimited { conn: alice, text: None });
    town.hears_error(alice, "rate_limited");
}

#[test]
fn of_a_flood_of_arrivals_everyone_hears_all_in_a_few_pieces_that_are_not_too_large() {
    const CROWD: u32 = 1_000;
    let mut hub = Hub::new(settings());
    let mut now = Now { instant: Instant::now(), unix_s: 1_800_000_000 };
    let conns = (0..CROWD).map(|slot| ConnId { slot, serial: slot + 1 });
    for conn in conns.clone() {
        hub.handle(Input::Opened { conn, credential: None }, now);
    }
    let (mut heard, mut pieces, mut largest) = ([0; CROWD as usize], 0, 0);
    let mut drain = |hub: &mut Hub| {
        while let Some(effect) = hub.next_effect() {
            if let Effect::Spread { to, frame, droppable: true } = effect {
                pieces += 1;
                largest = largest.max(frame.len());
                let told = town::frames::frames(&frame).len();
                hub.receivers(to).iter().for_each(|conn| heard[conn.slot as usize] += told);
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
    // Each of themselves by the answer, and perhaps once more.
    assert!(heard.iter().all(|told| [CROWD as usize - 1, CROWD as usize].contains(told)));
    assert!((100..300).contains(&pieces), "{pieces} pieces");
    assert!((16 * 1024..33 * 1024).contains(&largest), "{largest} bytes in one");
}

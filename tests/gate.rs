//! Who hears and does what in a thread, in verified trust: each rule with the client that tries to
//! get around it. `privacy.rs` holds the same in random histories.

#![allow(clippy::unwrap_used)]

#[path = "support/town.rs"]
mod town;

use std::time::Duration;

use buddyline::hub::interface::Failure;
use serde_json::json;
use town::{Town, verified};

const SECOND: Duration = Duration::from_secs(1);

const JOIN: &str = r#"{"type":"join_thread","threadId":41}"#;
const TYPING: &str = r#"{"type":"typing","threadId":41}"#;
const WHO: &str = r#"{"type":"online_users","threadId":41}"#;

fn town() -> Town {
    Town::new(verified())
}

#[test]
fn who_takes_no_part_in_a_thread_cannot_join_it() {
    let mut town = town();
    let friend = town.open_member(0, 8, 41, &[7, 8]);
    let stranger = town.open_proven(1, 9);
    town.say(stranger, JOIN);
    // They may have come since the last list, so their own question tells.
    let (request, thread, secret) = town.asked_list();
    assert_eq!((thread, &*secret), (41, "token-of-9"));
    town.hears_nothing();
    town.fail(request, Failure::NotParticipant);
    town.hears_error(stranger, "not_participant");
    // And not at once again.
    town.say(stranger, JOIN);
    town.hears_error(stranger, "not_participant");
    assert_eq!(town.questions(), 0);
    town.say(friend, TYPING);
    town.hears(&[(friend, r#"{"type":"typing","threadId":41,"userId":8,"typing":true}"#)]);
    // A thread's id is the site's number.
    town.say(stranger, r#"{"type":"join_thread","threadId":"lobby"}"#);
    town.hears_error(stranger, "not_participant");
    assert_eq!(town.questions(), 0);
}

#[test]
fn a_moderators_look_at_a_thread_is_no_part_in_it() {
    let mut town = town();
    let moderator = town.open_proven(0, 1);
    town.say(moderator, JOIN);
    let (request, ..) = town.asked_list();
    town.list(request, &[7, 8]);
    town.hears_error(moderator, "not_participant");
    let member = town.open_member(1, 7, 41, &[7, 8]);
    town.say(member, TYPING);
    assert!(town.heard().iter().all(|(to, _)| *to == member));
}

#[test]
fn who_takes_no_part_cannot_type_or_see_who_is_there() {
    let mut town = town();
    town.open_member(0, 8, 41, &[7, 8]);
    let stranger = town.open_proven(1, 9);
    for text in [TYPING, WHO, r#"{"type":"leave_thread","threadId":41}"#] {
        town.say(stranger, text);
        if let Some((request, _)) = town.try_list() {
            town.list(request, &[7, 8]);
        }
        town.hears_error(stranger, "not_participant");
    }
}

#[test]
fn a_call_needs_a_thread_in_which_both_take_part() {
    let mut town = town();
    let caller = town.open_member(0, 7, 41, &[7, 8]);
    let called = town.open_proven(1, 8);
    let stranger = town.open_proven(2, 9);
    let call =
        |to: u64, more: &str| format!(r#"{{"type":"offer","offer":"o","recipientId":{to}{more}}}"#);
    town.say(caller, &call(8, ""));
    town.hears_error(caller, "missing_field");
    town.say(caller, &call(9, r#","threadId":41"#));
    town.hears_error(caller, "not_participant");
    // Not to a participant either, by who is none; nor through a thread of one's own.
    town.say(stranger, &call(8, r#","threadId":41"#));
    let (request, ..) = town.asked_list();
    town.fail(request, Failure::NotParticipant);
    town.hears_error(stranger, "not_participant");
    town.say(stranger, &call(8, r#","threadId":42"#));
    let (request, ..) = town.asked_list();
    town.list(request, &[9, 10]);
    town.hears_error(stranger, "not_participant");
    let good = call(8, r#","threadId":41"#);
    town.say(caller, &good);
    town.hears(&[(called, &good)]);
}

#[test]
fn a_user_id_in_a_call_is_the_callers_or_is_left_out() {
    let mut town = town();
    let caller = town.open_member(0, 7, 41, &[7, 8]);
    let called = town.open_proven(1, 8);
    let call =
        |user: &str| format!(r#"{{"type":"call_initiated","recipientId":8,"threadId":41{user}}}"#);
    for (said, passed_on) in [
        (r#","userId":9"#, ""),
        (r#","userId":["9"]"#, ""),
        (r#","userId":7"#, r#","userId":7"#),
        (r#","userId":"7""#, r#","userId":"7""#),
    ] {
        town.say(caller, &call(said));
        town.hears(&[(called, &call(passed_on))]);
    }
}

#[test]
fn who_was_removed_is_out_before_the_next_frame_is_shown() {
    let mut town = town();
    let stays = town.open_member(0, 7, 41, &[7, 8]);
    let removed = town.open_member(1, 8, 41, &[7, 8]);
    let left = r#"{"type":"thread_left","threadId":41,"reason":"not_participant"}"#;
    town.pass(61 * SECOND);
    town.say(stays, TYPING);
    let (request, ..) = town.asked_list();
    town.hears_nothing();
    town.list(request, &[7]);
    town.hears(&[
        (removed, left),
        (stays, r#"{"type":"typing","threadId":41,"userId":7,"typing":true}"#),
    ]);
    // The answer to a message is a list as well.
    let again = town.open_member(2, 8, 41, &[7, 8]);
    town.say(stays, r#"{"type":"send_message","threadId":41,"message":"x"}"#);
    town.heard();
    let (request, _) = town.asked();
    town.store_among(request, 41, 7, Some(&[7]));
    let heard = town.heard();
    assert_eq!(heard[0], (again, serde_json::from_str(left).unwrap()));
    assert!(heard[1..].iter().all(|(to, _)| *to == stays), "{heard:?}");
}

#[test]
fn a_number_that_means_another_thread_turns_the_former_hearers_out() {
    let mut town = town();
    let former = town.open_member(0, 7, 41, &[7, 8]);
    let author = town.open_proven(1, 9);
    // The site has deleted thread 41, and gives its number to the next new one.
    town.say(author, r#"{"type":"send_message","recipientId":10,"message":"x"}"#);
    let (request, _) = town.asked();
    town.store_among(request, 41, 9, Some(&[9, 10]));
    let heard = town.heard();
    let of_former: Vec<_> = heard.iter().filter(|(to, _)| *to == former).collect();
    assert_eq!(of_former.len(), 1, "{heard:?}");
    assert_eq!(of_former[0].1["reason"], "not_participant");
    town.say(former, TYPING);
    let (request, ..) = town.asked_list();
    town.fail(request, Failure::NotParticipant);
    town.hears_error(former, "not_participant");
}

#[test]
fn a_late_answer_lets_nobody_back_in() {
    let mut town = town();
    let stays = town.open_member(0, 7, 41, &[7, 8]);
    let removed = town.open_member(1, 8, 41, &[7, 8]);
    town.pass(61 * SECOND);
    // A list is asked for; before it comes, a message's answer says that someone is gone.
    town.say(removed, JOIN);
    let (late, ..) = town.asked_list();
    town.pass(SECOND);
    town.say(stays, r#"{"type":"send_message","threadId":41,"message":"x"}"#);
    let (request, _) = town.asked();
    town.store_among(request, 41, 7, Some(&[7]));
    town.heard();
    town.list(late, &[7, 8]);
    assert!(town.heard().iter().all(|(_, frame)| frame["type"] != "thread_joined"));
    while let Some((request, _)) = town.try_list() {
        town.fail(request, Failure::NotParticipant);
    }
    town.heard();
    town.say(stays, TYPING);
    assert!(town.heard().iter().all(|(to, _)| *to == stays));
}

#[test]
fn anothers_client_id_leads_to_nothing() {
    let mut town = town();
    let alice = town.open_member(0, 7, 41, &[7, 8]);
    let bob = town.open_member(1, 8, 41, &[7, 8]);
    let send = |text: &str| {
        format!(r#"{{"type":"send_message","threadId":41,"message":"{text}","clientId":"c"}}"#)
    };
    town.say(alice, &send("hers"));
    let (request, _) = town.asked();
    town.store_among(request, 41, 7, Some(&[7, 8]));
    let heard = town.heard();
    let own = |to, frame: &serde_json::Value| frame["clientId"].is_null() == (to != alice);
    assert!(heard.iter().all(|(to, frame)| own(*to, frame)), "{heard:?}");
    // Bob's message is his own, and is stored, whatever name he gives it.
    town.say(bob, &send("his"));
    let (request, post) = town.asked();
    assert_eq!(&*post.text, "his");
    town.store_among(request, 41, 8, Some(&[7, 8]));
    let to_bob = town.heard().into_iter().find(|(to, _)| *to == bob).unwrap().1;
    assert_eq!((&to_bob["message"], &to_bob["clientId"]), (&json!("his"), &json!("c")));
}

#[test]
fn a_thread_too_large_to_list_is_heard_by_nobody() {
    let mut town = town();
    let member = town.open_proven(0, 7);
    let other = town.open_proven(1, 8);
    for conn in [member, other] {
        town.say(conn, JOIN);
        if let Some((request, _)) = town.try_list() {
            town.fail(request, Failure::ThreadTooLarge);
        }
        town.hears_error(conn, "thread_too_large");
    }
    town.say(member, r#"{"type":"send_message","threadId":41,"message":"x"}"#);
    let (request, _) = town.asked();
    town.store_among(request, 41, 7, None);
    let heard = town.heard();
    assert_eq!(heard.len(), 1);
    assert_eq!((heard[0].0, &heard[0].1["type"]), (member, &json!("message")));
}

//! Who may hear and speak in a thread, in verified trust: each rule with who tries to get around it.

#![allow(clippy::unwrap_used)]

#[path = "support/town.rs"]
mod town;

use std::time::Duration;

use buddyline::hub::interface::{ConnId, Failure, Settings};
use serde_json::{Value, json};
use town::{Town, verified};

const SECOND: Duration = Duration::from_secs(1);
const DOWN: Failure = Failure::SiteUnavailable { retry_after_s: None };
const JOIN: &str = r#"{"type":"join_thread","threadId":41}"#;
const TYPE: &str = r#"{"type":"typing","threadId":41}"#;
const SEND: &str = r#"{"type":"send_message","threadId":41,"message":"hi"}"#;

fn town() -> Town {
    Town::new(verified())
}

/// Whether a connection has been sent a frame of this type.
fn got(heard: &[(ConnId, Value)], conn: ConnId, kind: &str) -> bool {
    heard.iter().any(|(to, frame)| *to == conn && frame["type"] == kind)
}

#[test]
fn one_list_serves_every_participants_join() {
    let mut town = town();
    let seven = town.open_proven(0, 7);
    let eight = town.open_proven(1, 8);
    town.say(seven, JOIN);
    town.say(eight, JOIN);
    let (request, thread, secret) = town.asked_list();
    assert_eq!((thread, secret.as_str(), town.questions()), (41, "token-of-7", 0));
    town.list(request, &[7, 8, 9]);
    town.hears(&[
        (seven, r#"{"type":"thread_joined","threadId":41}"#),
        (eight, r#"{"type":"thread_joined","threadId":41}"#),
    ]);
    let nine = town.open_member(2, 9, 41, &[]);
    assert_eq!(town.questions(), 0);
    town.say(nine, TYPE);
    let heard = town.heard();
    assert!([seven, eight, nine].iter().all(|conn| got(&heard, *conn, "typing")));
}

#[test]
fn a_moderators_200_is_not_membership() {
    let mut town = town();
    let member = town.open_member(0, 7, 41, &[7, 8]);
    let moderator = town.open_proven(1, 1);
    town.say(moderator, JOIN);
    let (request, _, secret) = town.asked_list();
    assert_eq!(secret, "token-of-1");
    // The site shows them the thread; they do not stand on its list.
    town.list(request, &[7, 8]);
    town.hears_error(moderator, "not_participant");
    town.say(moderator, TYPE);
    town.hears_error(moderator, "not_participant");
    town.say(member, TYPE);
    assert!(!got(&town.heard(), moderator, "typing"));
}

#[test]
fn a_stranger_is_refused_and_asks_the_site_again_only_after_a_while() {
    let mut town = town();
    let stranger = town.open_proven(0, 9);
    for (n, thread) in [r#"41"#, r#""41""#, "99"].iter().enumerate() {
        town.say(stranger, &format!(r#"{{"type":"join_thread","threadId":{thread}}}"#));
        if n != 1 {
            let (request, ..) = town.asked_list();
            town.fail(request, Failure::NotParticipant);
        }
        town.hears_error(stranger, "not_participant");
    }
    assert_eq!(town.questions(), 0);
    for text in [TYPE, r#"{"type":"leave_thread","threadId":41}"#] {
        town.say(stranger, text);
        town.hears_error(stranger, "not_participant");
    }
    town.say(stranger, r#"{"type":"online_users","threadId":41}"#);
    town.hears_error(stranger, "not_participant");
    for odd in [r#""general""#, "-4", r#""041""#] {
        town.say(stranger, &format!(r#"{{"type":"join_thread","threadId":{odd}}}"#));
        town.hears_error(stranger, "not_participant");
    }
    assert_eq!(town.questions(), 0);
    town.pass(11 * SECOND);
    town.say(stranger, JOIN);
    let (request, ..) = town.asked_list();
    town.list(request, &[9]);
    town.hears(&[(stranger, r#"{"type":"thread_joined","threadId":41}"#)]);
}

#[test]
fn who_has_come_since_the_list_was_made_gets_in_by_their_own_question() {
    let mut town = town();
    town.open_member(0, 7, 41, &[7, 8]);
    let new = town.open_proven(1, 9);
    town.say(new, JOIN);
    let (request, _, secret) = town.asked_list();
    assert_eq!(secret, "token-of-9");
    town.list(request, &[7, 8, 9]);
    town.hears(&[(new, r#"{"type":"thread_joined","threadId":41}"#)]);
}

#[test]
fn who_is_no_longer_on_the_list_is_taken_out_and_told() {
    let mut town = town();
    let seven = town.open_member(0, 7, 41, &[7, 8]);
    let eight = town.open_member(1, 8, 41, &[7, 8]);
    town.pass(58 * SECOND);
    town.say(seven, TYPE);
    town.hears_nothing();
    let (request, ..) = town.asked_list();
    town.list(request, &[7]);
    town.hears(&[
        (eight, r#"{"type":"thread_left","threadId":41,"reason":"not_participant"}"#),
        (seven, r#"{"type":"typing","threadId":41,"userId":7,"typing":true}"#),
    ]);
    town.pass(3 * SECOND);
    town.hears(&[(seven, r#"{"type":"typing","threadId":41,"userId":7,"typing":false}"#)]);
}

#[test]
fn who_asks_about_a_thread_they_were_taken_out_of_is_out_at_once() {
    let mut town = town();
    let seven = town.open_member(0, 7, 41, &[7, 8]);
    let eight = town.open_member(1, 8, 41, &[7, 8]);
    town.pass(50 * SECOND);
    town.say(eight, TYPE);
    assert!(got(&town.heard(), seven, "typing"));
    let (request, ..) = town.asked_list();
    town.fail(request, Failure::NotParticipant);
    let heard = town.heard();
    assert!(got(&heard, eight, "thread_left"));
    assert!(
        heard.contains(&(seven, json!({"type":"typing","threadId":41,"userId":8,"typing":false})))
    );
    assert!(!got(&heard, eight, "typing"));
}

#[test]
fn a_list_is_renewed_before_it_ends_and_nobody_waits_for_that() {
    let mut town = town();
    let seven = town.open_member(0, 7, 41, &[7]);
    town.pass(40 * SECOND);
    town.say(seven, TYPE);
    assert_eq!(town.questions(), 0);
    town.pass(10 * SECOND);
    town.heard();
    town.say(seven, TYPE);
    assert!(got(&town.heard(), seven, "typing"));
    let (request, ..) = town.asked_list();
    town.say(seven, TYPE);
    assert_eq!(town.questions(), 0);
    town.list(request, &[7]);
    town.heard();
    town.pass(40 * SECOND);
    town.say(seven, TYPE);
    assert_eq!(town.questions(), 0);
}

#[test]
fn a_posts_answer_renews_the_list() {
    let mut town = town();
    let seven = town.open_member(0, 7, 41, &[7, 8, 9]);
    let nine = town.open_member(1, 9, 41, &[]);
    town.pass(55 * SECOND);
    town.say(seven, SEND);
    let (request, _) = town.asked();
    town.store_among(request, 41, 7, Some(&[7, 8]));
    let heard = town.heard();
    assert!(got(&heard, nine, "thread_left") && !got(&heard, nine, "message"));
    assert!(got(&heard, seven, "message"));
    town.pass(40 * SECOND);
    town.say(seven, TYPE);
    assert_eq!(town.questions(), 0);
}

#[test]
fn messages_into_a_big_thread_wait_for_its_list_in_order() {
    let mut town = town();
    let seven = town.open_member(0, 7, 41, &[7, 8]);
    let eight = town.open_member(1, 8, 41, &[]);
    town.pass(61 * SECOND);
    town.say(seven, SEND);
    let (first, _) = town.asked();
    town.store(first, 41, 7);
    let (request, ..) = town.asked_list();
    town.say(seven, SEND);
    let (second, _) = town.asked();
    town.store(second, 41, 7);
    town.hears_nothing();
    // A third one's answer happens to hold all of the list: the first two go before it.
    town.say(eight, SEND);
    let (third, _) = town.asked();
    town.store_among(third, 41, 8, Some(&[7, 8]));
    let ids: Vec<_> = town.heard().iter().filter(|(to, _)| *to == eight).map(id_of).collect();
    assert_eq!(ids, [1, 2, 3]);
    town.list(request, &[7, 8]);
    town.hears_nothing();
}

#[test]
fn who_has_just_failed_to_ask_waits_for_the_answer_to_another() {
    for failure in [None, Some(DOWN)] {
        let mut town = town();
        let seven = town.open_member(0, 7, 41, &[7, 8]);
        let eight = town.open_member(1, 8, 41, &[]);
        town.pass(61 * SECOND);
        town.say(eight, TYPE);
        let (request, ..) = town.asked_list();
        town.fail(request, DOWN);
        town.heard();
        town.say(seven, SEND);
        let (post, _) = town.asked();
        town.store(post, 41, 7);
        let (request, _, secret) = town.asked_list();
        assert_eq!(secret, "token-of-7");
        town.say(eight, SEND);
        let (post, _) = town.asked();
        town.store(post, 41, 8);
        town.hears_nothing();
        match failure {
            None => town.list(request, &[7, 8]),
            Some(failure) => town.fail(request, failure),
        }
        let heard = town.heard();
        let ids = |of| heard.iter().filter(|(to, _)| *to == of).map(id_of).collect::<Vec<_>>();
        let all = if failure.is_none() { [vec![1, 2], vec![1, 2]] } else { [vec![1], vec![2]] };
        assert_eq!([ids(seven), ids(eight)], all);
        assert_eq!((town.questions(), town.hub.counts().deliveries), (0, 0));
    }
}

fn id_of(heard: &(ConnId, Value)) -> u64 {
    heard.1["messageId"].as_u64().unwrap()
}

#[test]
fn a_stored_message_whose_thread_cannot_be_looked_up_is_shown_to_its_author() {
    for failure in [DOWN, Failure::ThreadTooLarge, Failure::NotParticipant, Failure::TokenRefused] {
        let mut town = town();
        let seven = town.open_proven(0, 7);
        town.say(seven, SEND);
        let (request, _) = town.asked();
        town.store(request, 41, 7);
        town.hears_nothing();
        let (request, ..) = town.asked_list();
        town.fail(request, failure);
        let heard = town.heard();
        assert!(got(&heard, seven, "message"), "{failure:?}: {heard:?}");
        assert_eq!(town.questions(), 0, "{failure:?}");
    }
}

#[test]
fn a_stopping_server_gives_stored_messages_their_outcome() {
    let mut town = town();
    let seven = town.open_proven(0, 7);
    town.say(seven, SEND);
    let (request, _) = town.asked();
    town.store(request, 41, 7);
    town.asked_list();
    town.hub.stop();
    town.take_effects();
    assert!(got(&town.heard(), seven, "message"));
}

#[test]
fn a_thread_number_that_comes_to_mean_another_thread_lets_the_old_ones_go() {
    let mut town = town();
    let bob = town.open_member(0, 3, 5, &[3, 4]);
    let mallory = town.open_proven(1, 7);
    town.say(mallory, r#"{"type":"send_message","recipientId":4,"message":"new"}"#);
    let (request, _) = town.asked();
    town.store_among(request, 5, 7, Some(&[4, 7]));
    let heard = town.heard();
    assert!(got(&heard, bob, "thread_left") && !got(&heard, bob, "message"));
    assert!(got(&heard, mallory, "message"));
}

#[test]
fn a_late_answer_does_not_undo_a_newer_one() {
    let mut town = town();
    let seven = town.open_member(0, 7, 41, &[7, 8]);
    let eight = town.open_member(1, 8, 41, &[]);
    town.pass(50 * SECOND);
    town.say(seven, TYPE);
    let (late, ..) = town.asked_list();
    // Meanwhile 8 is taken out, and a post of 7 says so.
    town.say(seven, SEND);
    let (request, _) = town.asked();
    town.store_among(request, 41, 7, Some(&[7, 9]));
    assert!(got(&town.heard(), eight, "thread_left"));
    town.list(late, &[7, 8]);
    town.heard();
    town.say(eight, TYPE);
    town.hears_nothing();
    let (request, _, secret) = town.asked_list();
    assert_eq!(secret, "token-of-8");
    town.fail(request, Failure::NotParticipant);
    town.hears_error(eight, "not_participant");
}

#[test]
fn a_call_needs_a_thread_and_both_parties_in_it() {
    let mut town = town();
    let seven = town.open_member(0, 7, 41, &[7, 8]);
    let eight = town.open_proven(1, 8);
    let nine = town.open_proven(2, 9);
    let call = |sender: u64, recipient: u64, rest: &str| {
        format!(
            r#"{{"type":"offer","offer":"o","senderId":{sender},"recipientId":{recipient},"callId":1{rest}}}"#
        )
    };
    town.say(seven, &call(7, 8, ""));
    town.hears_error(seven, "missing_field");
    town.say(seven, &call(7, 9, r#","threadId":41"#));
    town.hears_error(seven, "not_participant");
    town.say(seven, &call(8, 9, r#","threadId":41"#));
    town.hears_error(seven, "not_your_call");
    town.say(nine, &call(9, 7, r#","threadId":41"#));
    let (request, ..) = town.asked_list();
    town.fail(request, Failure::NotParticipant);
    town.hears_error(nine, "not_participant");
    town.say(seven, &call(7, 8, r#","threadId":41,"userId":9,"token":"secret","clientId":"x""#));
    town.hears(&[(
        eight,
        r#"{"type":"offer","offer":"o","senderId":7,"recipientId":8,"callId":1,"threadId":41}"#,
    )]);
}

#[test]
fn what_goes_on_in_a_call_does_not_wait_for_a_site_that_takes_its_time() {
    let mut town = town();
    let seven = town.open_member(0, 7, 41, &[7, 8]);
    let eight = town.open_proven(1, 8);
    town.pass(40 * SECOND);
    town.say(seven, r#"{"type":"offer","offer":"o","recipientId":8,"threadId":41,"callId":"c"}"#);
    assert!(got(&town.heard(), eight, "offer"));
    // While it rings, the list becomes too old to begin anything.
    town.pass(30 * SECOND);
    town.heard();
    assert_eq!(town.questions(), 0);
    town.say(eight, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    assert!(got(&town.heard(), seven, "answer"), "it has not waited");
    let (request, ..) = town.asked_list();
    let candidate = r#"{"type":"ice-candidate","candidate":"x","recipientId":8,"callId":"c"}"#;
    town.say(seven, candidate);
    assert!(got(&town.heard(), eight, "ice-candidate"));
    assert_eq!(town.questions(), 0, "it is being asked");
    // What begins a call waits, as ever.
    town.say(seven, r#"{"type":"call_initiated","threadId":41,"callId":"g"}"#);
    town.hears_nothing();
    town.fail(request, DOWN);
    town.heard();
    for (from, to) in [(seven, eight), (eight, seven)] {
        town.say(from, r#"{"type":"ice-candidate","candidate":"y","callId":"c"}"#);
        assert!(got(&town.heard(), to, "ice-candidate"), "nor while the site fails");
    }
    // Whoever has been taken out is out with the next answer.
    town.pass(6 * SECOND);
    while let Some(proof) = town.try_proof() {
        town.fail(proof, DOWN);
    }
    town.say(seven, candidate);
    assert!(got(&town.heard(), eight, "ice-candidate"));
    let (request, ..) = town.asked_list();
    town.list(request, &[7]);
    assert!(got(&town.heard(), seven, "call_ended"));
    // Nobody has asked for ten minutes: that is too long ago.
    let ten = town.open_proven(2, 10);
    let nine = town.open_member(3, 9, 42, &[9, 10]);
    town.say(nine, r#"{"type":"offer","offer":"o","recipientId":10,"threadId":42,"callId":"d"}"#);
    town.say(ten, r#"{"type":"answer","answer":"a","callId":"d"}"#);
    town.heard();
    town.pass(601 * SECOND);
    while let Some(proof) = town.try_proof() {
        town.fail(proof, DOWN);
    }
    town.heard();
    town.say(nine, r#"{"type":"ice-candidate","candidate":"z","callId":"d"}"#);
    town.hears_nothing();
}

#[test]
fn nobody_speaks_in_anothers_name() {
    let mut town = town();
    let seven = town.open_member(0, 7, 41, &[7, 8]);
    let eight = town.open_member(1, 8, 41, &[]);
    let spoof = r#""userId":9,"senderId":9,"user_id":9,"sender_id":9,"clientId":"mine""#;
    town.say(seven, &format!(r#"{{"type":"typing","threadId":41,{spoof}}}"#));
    let heard = town.heard();
    assert_eq!(heard[1], (eight, json!({"type":"typing","threadId":41,"userId":7,"typing":true})));
    town.say(
        seven,
        &format!(r#"{{"type":"send_message","threadId":41,"message":"hi","token":"t",{spoof}}}"#),
    );
    let (request, post) = town.asked();
    assert_eq!(&*post.text, "hi");
    town.store_among(request, 41, 7, Some(&[7, 8]));
    let heard = town.heard();
    let theirs: Vec<_> = heard.iter().filter(|(to, _)| *to == eight).map(|(_, f)| f).collect();
    assert_eq!(theirs.len(), 2, "{theirs:?}");
    assert_eq!((&theirs[1]["senderId"], &theirs[1]["clientId"]), (&7.into(), &Value::Null));
    // The same clientId from another user names another frame, and gets its own outcome.
    town.say(eight, r#"{"type":"ping","clientId":"mine"}"#);
    town.hears(&[(eight, r#"{"type":"pong","clientId":"mine"}"#)]);
}

#[test]
fn a_site_that_does_not_answer_is_left_alone_and_its_last_list_is_used_for_ten_minutes() {
    let mut town = town();
    let seven = town.open_member(0, 7, 41, &[7, 8]);
    let eight = town.open_member(1, 8, 41, &[]);
    let nine = town.open_proven(2, 9);
    town.pass(61 * SECOND);
    // One whose questions fail may have reasons of their own.
    town.say(seven, TYPE);
    let (request, ..) = town.asked_list();
    town.fail(request, DOWN);
    town.hears_error(seven, "site_unavailable");
    town.say(eight, TYPE);
    let (request, ..) = town.asked_list();
    town.fail(request, DOWN);
    assert!(got(&town.heard(), seven, "typing"));
    town.say(nine, JOIN);
    let (request, ..) = town.asked_list();
    town.fail(request, DOWN);
    town.hears_error(nine, "site_unavailable");
    for conn in [seven, eight] {
        town.say(conn, TYPE);
        assert!(got(&town.heard(), seven, "typing"));
    }
    town.say(nine, JOIN);
    town.hears_error(nine, "site_unavailable");
    assert_eq!(town.questions(), 0);
    town.pass(545 * SECOND);
    while let Some(proof) = town.try_proof() {
        town.fail(proof, DOWN);
    }
    town.heard();
    town.say(seven, TYPE);
    let (request, ..) = town.asked_list();
    town.fail(request, DOWN);
    town.hears_error(seven, "site_unavailable");
}

#[test]
fn a_question_with_a_token_that_is_refused_ends_its_connection_and_the_others_ask_themselves() {
    let mut town = town();
    let seven = town.open_proven(0, 7);
    let eight = town.open_proven(1, 8);
    town.say(seven, JOIN);
    town.say(eight, JOIN);
    let (request, ..) = town.asked_list();
    town.fail(request, Failure::TokenRefused);
    town.hears_error(seven, "token_refused");
    assert_eq!(town.closed(), [(seven, 4401)]);
    let (request, _, secret) = town.asked_list();
    assert_eq!(secret, "token-of-8");
    town.list(request, &[8]);
    town.hears(&[(eight, r#"{"type":"thread_joined","threadId":41}"#)]);
}

#[test]
fn frames_that_wait_for_a_list_are_bounded_and_end_with_their_connection() {
    let mut town = town();
    let seven = town.open_proven(0, 7);
    for _ in 0..8 {
        town.say(seven, TYPE);
    }
    town.hears_nothing();
    town.say(seven, TYPE);
    town.hears_error(seven, "overloaded");
    let (request, ..) = town.asked_list();
    town.close(seven);
    town.list(request, &[7]);
    town.hears_nothing();
    let again = town.open_with(0, "token-of-7");
    town.heard();
    for _ in 0..8 {
        town.say(again, TYPE);
    }
    assert!(town.heard().iter().all(|(_, frame)| frame["type"] == "typing"));
}

#[test]
fn a_thread_that_is_too_large_is_said_to_be() {
    let mut town = town();
    let seven = town.open_proven(0, 7);
    town.say(seven, JOIN);
    let (request, ..) = town.asked_list();
    town.fail(request, Failure::ThreadTooLarge);
    town.hears_error(seven, "thread_too_large");
}

#[test]
fn a_new_thread_is_joined_by_those_of_both_sides_who_are_on_its_list() {
    let mut town = Town::new(Settings { joins_per_connection: 1, ..verified() });
    let seven = town.open_proven(0, 7);
    let eight = town.open_proven(1, 8);
    let nine = town.open_proven(2, 9);
    town.say(seven, r#"{"type":"send_message","recipientId":8,"message":"hi"}"#);
    let (request, _) = town.asked();
    town.store_among(request, 5, 7, Some(&[7, 8]));
    let heard = town.heard();
    assert!(got(&heard, seven, "message") && got(&heard, eight, "message"));
    // The site has left out who cannot be written to: an account that is gone.
    town.say(nine, r#"{"type":"send_message","recipientId":8,"message":"hi"}"#);
    let (request, _) = town.asked();
    town.store_among(request, 6, 9, Some(&[9]));
    let heard = town.heard();
    assert!(got(&heard, nine, "message") && !got(&heard, eight, "message"), "{heard:?}");
}

#[test]
fn who_leaves_goes_after_what_they_said_before() {
    let mut town = town();
    let seven = town.open_member(0, 7, 41, &[7, 8]);
    town.pass(61 * SECOND);
    town.say(seven, JOIN);
    town.say(seven, r#"{"type":"leave_thread","threadId":41}"#);
    town.hears_nothing();
    let (request, ..) = town.asked_list();
    town.list(request, &[7, 8]);
    town.hears(&[
        (seven, r#"{"type":"thread_joined","threadId":41}"#),
        (seven, r#"{"type":"thread_left","threadId":41}"#),
    ]);
}

#[test]
fn someone_who_has_just_come_can_be_called_after_ten_seconds() {
    let mut town = town();
    let seven = town.open_member(0, 7, 41, &[7]);
    let eight = town.open_proven(1, 8);
    let call =
        r#"{"type":"call_initiated","senderId":7,"recipientId":8,"threadId":41,"callId":"c"}"#;
    town.say(seven, call);
    town.hears_error(seven, "not_participant");
    town.pass(11 * SECOND);
    town.say(seven, call);
    let (request, ..) = town.asked_list();
    town.list(request, &[7]);
    town.hears_error(seven, "not_participant");
    town.pass(11 * SECOND);
    town.say(seven, call);
    let (request, ..) = town.asked_list();
    town.list(request, &[7, 8]);
    town.hears(&[(eight, call)]);
}

#[test]
fn who_was_refused_by_name_does_not_come_back_by_an_old_list() {
    let mut town = town();
    let seven = town.open_member(0, 7, 41, &[7, 8]);
    let eight = town.open_member(1, 8, 41, &[]);
    town.pass(61 * SECOND);
    town.say(eight, TYPE);
    let (request, ..) = town.asked_list();
    town.fail(request, Failure::NotParticipant);
    assert!(got(&town.heard(), eight, "thread_left"));
    // Now the site is down, and what it said last counts.
    for (conn, thread) in [(seven, 41), (eight, 42)] {
        town.say(conn, &format!(r#"{{"type":"typing","threadId":{thread}}}"#));
        let (request, ..) = town.asked_list();
        town.fail(request, DOWN);
    }
    town.heard();
    town.say(seven, TYPE);
    assert!(got(&town.heard(), seven, "typing"));
    town.say(eight, TYPE);
    assert!(!got(&town.heard(), seven, "typing"));
}

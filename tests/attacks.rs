//! Histories in which something goes wrong.
#![allow(clippy::unwrap_used)]

#[path = "support/town.rs"]
mod town;

use std::time::Duration;

use buddyline::hub::interface::{Failure, Settings, WaitBounds};
use town::{Town, settings, verified};

const S: Duration = Duration::from_secs(1);

fn join(thread: u64) -> String {
    format!(r#"{{"type":"join_thread","threadId":{thread}}}"#)
}

// The question is counted as asked before there is room for the message, and is never put.
#[test]
fn a_message_that_finds_no_room_leaves_its_token_usable() {
    let waiting = WaitBounds { total: 1, ..settings().waiting };
    let mut town = Town::new(Settings { waiting, ..verified() });
    let mallory = town.open_with(0, "garbage");
    town.say(mallory, &join(1));
    let alice = town.open(1);
    let message =
        r#"{"type":"send_message","threadId":1,"message":"x","token":"alices","clientId":"a"}"#;
    town.say(alice, message);
    town.hears_error(alice, "overloaded");
    let (request, _) = town.asked_proof();
    town.fail(request, Failure::TokenRefused);
    town.heard();
    town.pass(60 * S);
    // On a new connection, an hour later, with a server that has nothing to do.
    let again = town.open(2);
    town.say(again, message);
    let (_, credential) = town.asked_proof();
    assert_eq!(credential.secret(), "alices");
}

// A question that its connection took back leaves its place in the line. When the thread is asked
// about again, the second place dates anew what is with the site already.
#[test]
fn an_old_list_does_not_undo_a_newer_one() {
    let mut town = Town::new(verified());
    let alice = town.open_proven(0, 3);
    let mallory = town.open_proven(1, 4);
    // The line stands: both questions are with the site.
    town.say(alice, &join(7));
    town.say(alice, &join(8));
    let (seven, _) = town.try_list().unwrap();
    let (eight, _) = town.try_list().unwrap();
    // Two places in the line for thread 1.
    town.say(mallory, &join(1));
    town.close(mallory);
    let mallory = town.open_proven(1, 4);
    town.say(mallory, &join(1));
    town.list(seven, &[3]);
    let (old, 1) = town.try_list().unwrap() else { panic!("not asked") };
    town.pass(S);
    // Now Mallory is removed. Alice writes, and the site's answer has the new list.
    town.say(alice, r#"{"type":"send_message","threadId":1,"message":"x"}"#);
    let (post, _) = town.asked();
    town.store_among(post, 1, 3, Some(&[2, 3]));
    // The second place in the line comes up, and only then the answer that is older than the post.
    town.list(eight, &[3]);
    town.list(old, &[2, 3, 4]);
    town.heard();
    town.say(mallory, &join(1));
    town.say(alice, r#"{"type":"send_message","threadId":1,"message":"secret"}"#);
    let (post, _) = town.asked();
    town.store_among(post, 1, 3, None);
    let leaked = town.heard();
    assert!(!leaked.iter().any(|(to, f)| *to == mallory && f["type"] == "message"), "{leaked:?}");
}

// The same makes a list younger than it is.
#[test]
fn a_list_is_as_old_as_its_question() {
    let mut town = Town::new(verified());
    let alice = town.open_proven(0, 3);
    let mallory = town.open_proven(1, 4);
    town.say(alice, &join(7));
    town.say(alice, &join(8));
    let (seven, _) = town.try_list().unwrap();
    let (eight, _) = town.try_list().unwrap();
    town.say(mallory, &join(1));
    town.close(mallory);
    let mallory = town.open_proven(1, 4);
    town.say(mallory, &join(1));
    town.list(seven, &[3]);
    let (old, 1) = town.try_list().unwrap() else { panic!("not asked") };
    town.pass(30 * S);
    town.list(eight, &[3]);
    town.list(old, &[3, 4]);
    town.pass(40 * S);
    town.heard();
    // 70 s after the site was asked, and lists hold for 60.
    town.say(mallory, &join(1));
    assert!(town.try_list().is_some(), "the site is asked again: {:?}", town.heard());
}

// A message that waits for its token's proof has no outcome when the server stops.
#[test]
fn stop_tells_who_waits_for_a_proof() {
    let mut town = Town::new(verified());
    let alice = town.open_with(0, "alices");
    town.say(alice, r#"{"type":"send_message","threadId":1,"message":"x","clientId":"a"}"#);
    town.hub.stop();
    town.take_effects();
    assert_eq!(town.heard().len(), 1);
}

// Each message that was said while the site was asked counts as a token without a verdict.
#[test]
fn one_unanswered_question_closes_no_connection() {
    let waiting = WaitBounds { per_connection: 1064, ..settings().waiting };
    let mut town = Town::new(Settings { waiting, ..verified() });
    let alice = town.open_with(0, "alices");
    for n in 0..12 {
        let text =
            format!(r#"{{"type":"send_message","threadId":1,"message":"x","clientId":"{n}"}}"#);
        town.say(alice, &text);
    }
    let (request, _) = town.asked_proof();
    town.fail(request, Failure::SiteUnavailable { retry_after_s: None });
    assert_eq!(town.closed(), []);
}

// What waits is asked about with the next user's credential, in the name of the one before.
#[test]
fn a_question_is_asked_by_the_one_in_whose_name_it_is() {
    let mut town = Town::new(verified());
    let carol = town.open_member(0, 5, 1, &[2, 3, 5]);
    town.pass(61 * S);
    let shared = town.open_proven(1, 2);
    let phone = town.open_member(2, 2, 9, &[2]);
    // Carol's question is with the site when user 2 asks on a shared machine, and 6 takes over.
    town.say(carol, &join(1));
    let (question, _) = town.try_list().unwrap();
    town.say(shared, &join(1));
    town.say(shared, r#"{"type":"user_connected","userId":6,"token":"token-of-6"}"#);
    let (proof, _) = town.asked_proof();
    town.prove(proof, 6, None);
    town.fail(question, Failure::SiteUnavailable { retry_after_s: None });
    let asked = town.asked_list();
    town.heard();
    let _ = phone;
    assert_eq!(asked.2, "token-of-2", "2's question");
}

// Places in the line stay when their connection goes, and nothing bounds them while the site hangs.
#[test]
fn coming_and_going_does_not_lengthen_the_line_of_threads() {
    let mut town = Town::new(verified());
    let alice = town.open_proven(0, 3);
    town.say(alice, &join(7));
    town.say(alice, &join(8));
    while town.try_list().is_some() {}
    town.open_proven(2, 4);
    for _ in 0..1000 {
        let mallory = town.open_with(1, "token-of-3");
        (1..=8).for_each(|thread| town.say(mallory, &join(100 + thread)));
        town.close(mallory);
    }
    let [frames, checks, _] = town.hub.unsettled();
    assert_eq!(frames, 2);
    assert!(checks < 100, "{checks} in line");
}

// The same for tokens, with their secrets.
#[test]
fn coming_and_going_does_not_lengthen_the_line_of_proofs() {
    let mut town = Town::new(verified());
    let _standing = [town.open_with(0, "one"), town.open_with(1, "two")];
    for n in 0..1000 {
        let mallory = town.open_with(2, &format!("garbage-{n}"));
        town.close(mallory);
    }
    let [_, checks, _] = town.hub.unsettled();
    assert!(checks < 100, "{checks} in line");
}

// Whoever sent it, the outcome is kept for the user that the connection had in the end.
#[test]
fn an_outcome_of_a_user_who_was_relieved_is_kept_for_them() {
    let mut town = Town::new(verified());
    let shared = town.open_proven(0, 2);
    town.say(shared, r#"{"type":"send_message","threadId":1,"message":"x","clientId":"a"}"#);
    let (post, _) = town.asked();
    town.say(shared, r#"{"type":"user_connected","userId":6,"token":"token-of-6"}"#);
    let (proof, _) = town.asked_proof();
    town.prove(proof, 6, None);
    town.close(shared);
    town.heard();
    let phone = town.open_proven(1, 2);
    town.heard();
    town.store_among(post, 1, 2, Some(&[2, 3]));
    let heard = town.heard();
    assert!(heard.iter().any(|(to, f)| *to == phone && f["clientId"] == "a"), "{heard:?}");
}

// For each frame that waits the whole line of its thread is made anew.
#[test]
fn a_connection_goes_quickly_though_many_wait_in_its_thread() {
    let waiting = WaitBounds {
        total: 50_000,
        bytes: 64 << 20,
        per_connection: 1064,
        bytes_per_connection: 512 << 10,
    };
    let mut town = Town::new(Settings { waiting, ..verified() });
    let conns: Vec<_> = (0..10).map(|n| town.open_proven(n, 10 + u64::from(n))).collect();
    for conn in &conns {
        for _ in 0..1000 {
            town.hub.handle(
                buddyline::hub::interface::Input::Frame { conn: *conn, text: &join(1) },
                town.now,
            );
        }
    }
    let before = std::time::Instant::now();
    town.close(conns[0]);
    let took = before.elapsed();
    assert!(took < Duration::from_millis(100), "{took:?}");
}

// The heir goes, and the user's other connection, which came later as well, is passed over.
#[test]
fn an_heir_that_goes_leaves_it_to_the_users_other_later_connection() {
    let mut town = Town::new(verified());
    let lost = town.open_proven(0, 4);
    town.say(lost, r#"{"type":"send_message","threadId":1,"message":"x","clientId":"a"}"#);
    let (post, _) = town.asked();
    town.close(lost);
    let heir = town.open_proven(1, 4);
    let other = town.open_proven(2, 4);
    town.close(heir);
    town.heard();
    town.store_among(post, 1, 4, Some(&[2, 4]));
    let heard = town.heard();
    assert!(heard.iter().any(|(to, f)| *to == other && f["clientId"] == "a"), "{heard:?}");
}

//! What `docs/PROTOCOL.md` says of calls is what happens.

#[path = "support/diagram.rs"]
mod diagram;
#[path = "support/markdown.rs"]
#[allow(dead_code)]
mod markdown;
#[path = "support/town.rs"]
mod town;

use std::time::Duration;

use buddyline::hub::interface::{CallSettings, ConnId, Settings};
use markdown::Document;
use serde_json::Value;
use town::{Town, settings, verified};

const RING: Duration = Duration::from_secs(45);
const GRACE: Duration = Duration::from_secs(30);

// ---- the diagrams

#[test]
fn each_diagram_is_what_happens() {
    let document = Document::read("docs/PROTOCOL.md");
    let diagrams = document.blocks.iter().filter(|block| block.language == "mermaid");
    let mut played = 0;
    for block in diagrams {
        diagram::play(&block.text, &format!("line {}, {}", block.line, block.heading));
        played += 1;
    }
    assert_eq!(played, 9);
}

// ---- whom it rings, and who is in

/// Alice, and Bob on two devices.
fn three() -> (Town, ConnId, ConnId, ConnId) {
    let mut town = Town::default();
    let [alice, phone, laptop] = [(1, "2"), (2, "3"), (3, "3")].map(|(n, id)| town.open_as(n, id));
    (town, alice, phone, laptop)
}

/// The same, in an answered call between Alice and the phone.
fn answered() -> (Town, ConnId, ConnId, ConnId) {
    let (mut town, alice, phone, laptop) = three();
    town.say(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    town.say(phone, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    town.heard();
    (town, alice, phone, laptop)
}

/// Who is there without a connection that counted, and what they hear first.
fn comes(town: &mut Town, slot: u32, user: u64) -> (ConnId, Vec<Value>) {
    let conn = town.open(slot);
    town.say(conn, &format!(r#"{{"type":"user_connected","userId":{user}}}"#));
    let heard = town.heard().into_iter().filter(|(to, _)| *to == conn);
    (conn, heard.map(|(_, frame)| frame).collect())
}

fn types(frames: &[Value]) -> Vec<&str> {
    frames.iter().map(|frame| frame["type"].as_str().expect("a type")).collect()
}

#[test]
fn a_device_that_connects_while_it_rings_rings_right_after_it_is_known() {
    let (mut town, alice, ..) = three();
    town.say(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    town.say(alice, r#"{"type":"offer","offer":"o","callId":"c"}"#);
    town.heard();
    let (_, heard) = comes(&mut town, 4, 3);
    assert_eq!(types(&heard), ["user_connected", "call_initiated", "offer"]);
}

#[test]
fn a_call_without_a_name_gets_one_and_both_sides_can_use_it() {
    let (mut town, alice, phone, laptop) = three();
    town.say(alice, r#"{"type":"call_initiated","recipientId":3}"#);
    let id = town.heard()[0].1["callId"].as_str().expect("a name").to_owned();
    assert_eq!(id, "6b49d200-00000001", "as the document shows it");
    town.say(phone, &format!(r#"{{"type":"call_rejected","callId":"{id}"}}"#));
    let ended = format!(r#"{{"type":"call_ended","callId":"{id}","reason":"rejected"}}"#);
    let rejected = format!(r#"{{"type":"call_rejected","callId":"{id}","userId":3}}"#);
    town.hears(&[(alice, &rejected), (alice, &ended), (phone, &ended), (laptop, &ended)]);
}

#[test]
fn the_caller_rings_again_and_the_time_begins_anew() {
    let (mut town, alice, phone, laptop) = three();
    let begins = r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#;
    town.say(alice, begins);
    town.pass(RING - Duration::from_secs(1));
    town.say(alice, r#"{"type":"call_initiated","callId":"c"}"#);
    town.heard();
    town.pass(RING - Duration::from_secs(1));
    town.hears_nothing();
    town.pass(Duration::from_secs(1));
    let ended = r#"{"type":"call_ended","callId":"c","reason":"no_answer"}"#;
    town.hears(&[(alice, ended), (phone, ended), (laptop, ended)]);
}

#[test]
fn a_new_call_to_the_same_user_ends_the_one_before() {
    let (mut town, alice, phone, _) = answered();
    town.say(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"d"}"#);
    let ended = r#"{"type":"call_ended","callId":"c","reason":"hangup"}"#;
    let heard = town.heard();
    for conn in [alice, phone] {
        assert!(heard.contains(&(conn, serde_json::from_str(ended).expect("JSON"))), "{heard:?}");
    }
    assert_eq!(heard.iter().filter(|(_, f)| f["type"] == "call_initiated").count(), 2);
    town.say(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"e"}"#);
    let heard = town.heard();
    let ends = heard.iter().filter(|(_, f)| f["type"] == "call_ended");
    assert!(ends.clone().all(|(_, f)| f["reason"] == "cancelled" && f["callId"] == "d"));
    assert_eq!(ends.count(), 3, "{heard:?}");
}

#[test]
fn any_device_of_the_caller_may_cancel_and_only_the_one_that_is_in_may_hang_up() {
    let (mut town, alice, _, _) = three();
    let tablet = town.open_as(5, "2");
    town.say(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    town.say(tablet, r#"{"type":"call_cancelled","callId":"c"}"#);
    let heard = town.heard();
    assert_eq!(heard.iter().filter(|(_, f)| f["reason"] == "cancelled").count(), 3, "{heard:?}");

    let (mut town, _, _, laptop) = answered();
    town.say(laptop, r#"{"type":"call_hangup","callId":"c"}"#);
    town.hears_error(laptop, "not_your_call");
}

#[test]
fn the_called_user_may_make_the_offer_and_it_fails_if_nobody_answers_that() {
    let (mut town, alice, phone, laptop) = three();
    town.say(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    town.heard();
    town.say(phone, r#"{"type":"offer","offer":"o","callId":"c"}"#);
    let elsewhere = r#"{"type":"call_ended","callId":"c","reason":"answered_elsewhere"}"#;
    town.hears(&[(laptop, elsewhere), (alice, r#"{"type":"offer","offer":"o","callId":"c"}"#)]);
    town.say(phone, r#"{"type":"call_resume","callId":"c"}"#);
    assert!(town.heard().iter().all(|(_, frame)| frame["state"] == "connecting"));
    town.pass(RING);
    let ended = r#"{"type":"call_ended","callId":"c","reason":"failed"}"#;
    town.hears(&[(alice, ended), (phone, ended)]);
}

#[test]
fn what_rings_is_not_said_to_ring_after_the_answer() {
    let (mut town, _, phone, _) = answered();
    town.say(phone, r#"{"type":"call_ringing","callId":"c"}"#);
    town.hears_nothing();
}

#[test]
fn a_hang_up_says_what_its_author_wrote_and_that_it_failed() {
    let (mut town, alice, phone, _) = answered();
    town.say(alice, r#"{"type":"call_hangup","callId":"c","reason":"failed","clientId":"x"}"#);
    let hangup = r#"{"type":"call_hangup","callId":"c","reason":"failed","userId":2}"#;
    let ended = r#"{"type":"call_ended","callId":"c","reason":"failed"}"#;
    town.hears(&[(phone, hangup), (alice, ended), (phone, ended)]);
}

#[test]
fn documented_frames_get_a_name_and_no_author_and_the_authors_own_fields_stay() {
    let (mut town, alice, phone, laptop) = three();
    town.say(
        alice,
        r#"{"type":"call_initiated","recipientId":3,"video":true,"token":"t","userId":9,"callId":7}"#,
    );
    let passed = r#"{"type":"call_initiated","recipientId":3,"video":true,"callId":7}"#;
    town.hears(&[(phone, passed), (laptop, passed)]);
}

// ---- both at once

#[test]
fn names_are_compared_as_text_and_without_names_the_first_call_stands() {
    let (mut town, alice, phone, _) = three();
    town.say(phone, r#"{"type":"call_initiated","recipientId":2,"callId":9}"#);
    town.say(alice, r#"{"type":"call_initiated","recipientId":3,"callId":10}"#);
    let heard = town.heard();
    let lost: Vec<_> = heard.iter().filter(|(_, f)| f["reason"] == "glare").collect();
    assert!(lost.iter().all(|(_, f)| f["callId"] == 9 && f["continuesAs"] == 10), "{heard:?}");
    assert_eq!(lost.len(), 2);

    let (mut town, alice, phone, _) = three();
    town.say(phone, r#"{"type":"call_initiated","recipientId":2}"#);
    let first = town.heard()[0].1["callId"].clone();
    town.say(alice, r#"{"type":"call_initiated","recipientId":3}"#);
    let heard = town.heard();
    assert_eq!(heard.len(), 1, "{heard:?}");
    let (conn, frame) = &heard[0];
    assert_eq!((*conn, &frame["reason"], &frame["continuesAs"]), (alice, &"glare".into(), &first));
}

// ---- lost connections

#[test]
fn a_call_ends_when_nobody_comes_back_and_who_was_away_is_told_once() {
    let (mut town, alice, phone, _) = answered();
    town.close(phone);
    town.pass(GRACE - Duration::from_secs(1));
    town.hears_nothing();
    town.pass(Duration::from_secs(1));
    let ended = r#"{"type":"call_ended","callId":"c","reason":"disconnected"}"#;
    town.hears(&[(alice, ended)]);
    town.pass(Duration::from_secs(59));
    let (conn, heard) = comes(&mut town, 4, 3);
    assert_eq!(types(&heard), ["user_connected", "call_ended"]);
    let (_, heard) = comes(&mut town, 5, 3);
    assert_eq!(types(&heard), ["user_connected"]);
    town.say(conn, r#"{"type":"call_resume","callId":"c"}"#);
    town.hears(&[(conn, ended)]);
    town.pass(Duration::from_secs(1));
    town.say(conn, r#"{"type":"call_resume","callId":"c"}"#);
    town.hears_error(conn, "no_such_call");
}

#[test]
fn a_live_call_moves_to_the_device_that_resumes_it() {
    let (mut town, alice, phone, laptop) = answered();
    town.say(laptop, r#"{"type":"call_resume","callId":"c","clientId":"r"}"#);
    town.hears(&[
        (
            laptop,
            r#"{"type":"call_resumed","callId":"c","userId":3,"state":"active","clientId":"r"}"#,
        ),
        (phone, r#"{"type":"call_ended","callId":"c","reason":"answered_elsewhere"}"#),
        (alice, r#"{"type":"call_resumed","callId":"c","userId":3,"state":"active"}"#),
    ]);
}

#[test]
fn who_comes_back_before_the_loss_is_known_resumes_and_can_then_hang_up() {
    let (mut town, _, phone, _) = answered();
    let back = town.open_as(4, "3");
    town.say(back, r#"{"type":"call_hangup","callId":"c"}"#);
    town.hears_error(back, "not_your_call");
    town.say(back, r#"{"type":"call_resume","callId":"c"}"#);
    town.say(back, r#"{"type":"call_hangup","callId":"c"}"#);
    let heard = town.heard();
    let told = heard.iter().filter(|(conn, f)| *conn == phone && f["type"] == "call_ended");
    assert!(told.map(|(_, f)| &f["reason"]).eq(["answered_elsewhere"]), "{heard:?}");
    assert_eq!(town.hub.counts().calls, [0, 0]);
}

#[test]
fn while_it_rings_the_callers_device_has_five_seconds_and_the_called_users_rings_again() {
    let (mut town, alice, phone, laptop) = three();
    town.say(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    town.close(laptop);
    town.heard();
    let (tablet, heard) = comes(&mut town, 4, 3);
    assert_eq!(types(&heard), ["user_connected", "call_initiated"]);
    town.say(tablet, r#"{"type":"call_resume","callId":"c"}"#);
    let resumed = r#"{"type":"call_resumed","callId":"c","userId":3,"state":"ringing"}"#;
    town.hears(&[(tablet, resumed)]);
    town.close(alice);
    town.pass(Duration::from_secs(5));
    let ended: Vec<ConnId> = town
        .heard()
        .into_iter()
        .filter_map(|(conn, frame)| (frame["reason"] == "disconnected").then_some(conn))
        .collect();
    assert_eq!(ended, [phone, tablet]);
}

#[test]
fn the_place_of_an_app_that_names_no_call_goes_to_its_users_next_connection() {
    let (mut town, alice, phone, laptop) = three();
    town.say(alice, r#"{"type":"offer","offer":"o","recipientId":3,"senderId":2}"#);
    town.say(phone, r#"{"type":"answer","answer":"a","recipientId":2,"senderId":3}"#);
    town.close(phone);
    town.heard();
    let (phone, _) = comes(&mut town, 4, 3);
    town.say(alice, r#"{"type":"ice-candidate","candidate":"x","recipientId":3}"#);
    let heard = town.heard();
    assert_eq!(heard.iter().map(|(conn, _)| *conn).collect::<Vec<_>>(), [phone], "not {laptop:?}");
}

#[test]
fn after_a_restart_the_callers_offer_begins_the_call_anew_under_its_name() {
    let (mut town, alice, phone, laptop) = three();
    town.say(alice, r#"{"type":"call_resume","callId":"c"}"#);
    town.hears_error(alice, "no_such_call");
    let offer = r#"{"type":"offer","offer":"restart","recipientId":3,"callId":"c"}"#;
    town.say(alice, offer);
    town.hears(&[(phone, offer), (laptop, offer)]);
    town.say(phone, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    let elsewhere = r#"{"type":"call_ended","callId":"c","reason":"answered_elsewhere"}"#;
    town.hears(&[(laptop, elsewhere), (alice, r#"{"type":"answer","answer":"a","callId":"c"}"#)]);
    town.say(alice, r#"{"type":"call_resume","callId":"c"}"#);
    assert!(town.heard().iter().all(|(_, frame)| frame["state"] == "active"));
}

// ---- offline, busy, bounds

#[test]
fn a_named_call_to_someone_offline_rings_on_and_one_without_a_name_is_over() {
    let mut town = Town::default();
    let alice = town.open_as(1, "2");
    town.say(alice, r#"{"type":"call_initiated","recipientId":3}"#);
    town.hears_error(alice, "recipient_offline");
    assert_eq!(town.hub.counts().calls, [0, 0]);
    town.say(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    assert_eq!(town.hears_error(alice, "recipient_offline")["callId"], "c");
    let (_, heard) = comes(&mut town, 2, 3);
    assert_eq!(types(&heard), ["user_connected", "call_initiated"]);
    assert_eq!(town.woken.len(), 2);
}

#[test]
fn a_server_that_refuses_says_busy_to_the_caller_alone() {
    let calls = CallSettings { reject_when_busy: true, ..CallSettings::default() };
    let mut town = Town::new(Settings { calls, ..settings() });
    let [alice, bob, carol] = [(1, "2"), (2, "3"), (3, "4")].map(|(n, id)| town.open_as(n, id));
    town.say(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    town.say(bob, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    town.heard();
    town.say(carol, r#"{"type":"call_initiated","recipientId":3,"callId":"d"}"#);
    town.hears(&[(carol, r#"{"type":"call_ended","callId":"d","reason":"busy"}"#)]);
}

#[test]
fn eight_calls_ring_a_user_and_the_ninth_is_too_many() {
    let mut town = Town::default();
    let callers: Vec<ConnId> = (10..19).map(|n| town.open_as(n, &n.to_string())).collect();
    let bob = town.open_as(2, "3");
    for caller in &callers[..8] {
        town.say(*caller, r#"{"type":"call_initiated","recipientId":3}"#);
    }
    assert!(town.heard().iter().all(|(conn, _)| *conn == bob));
    town.say(callers[8], r#"{"type":"call_initiated","recipientId":3}"#);
    town.hears_error(callers[8], "too_many_calls");
}

#[test]
fn with_the_fifth_answered_call_of_a_user_the_oldest_ends() {
    let mut town = Town::default();
    let alice = town.open_as(1, "2");
    let others: Vec<ConnId> = (10..15).map(|n| town.open_as(n, &n.to_string())).collect();
    for (user, other) in (10..15).zip(&others) {
        town.say(
            alice,
            &format!(r#"{{"type":"call_initiated","recipientId":{user},"callId":"c{user}"}}"#),
        );
        town.say(*other, r#"{"type":"answer","answer":"a","recipientId":2}"#);
        town.pass(Duration::from_secs(1));
    }
    let heard = town.heard();
    let ended: Vec<_> = heard.iter().filter(|(_, f)| f["type"] == "call_ended").collect();
    assert_eq!(ended.iter().map(|(conn, _)| *conn).collect::<Vec<_>>(), [alice, others[0]]);
    assert!(ended.iter().all(|(_, f)| f["callId"] == "c10" && f["reason"] == "hangup"));
}

#[test]
fn candidates_beyond_what_is_kept_go_to_all_devices_that_ring_and_none_is_lost() {
    let (mut town, alice, phone, laptop) = three();
    town.say(alice, r#"{"type":"offer","offer":"o","recipientId":3,"callId":"c"}"#);
    town.heard();
    for n in 0..130 {
        town.say(alice, &format!(r#"{{"type":"ice-candidate","candidate":"{n}","callId":"c"}}"#));
    }
    let heard = town.heard();
    for conn in [phone, laptop] {
        let got = heard.iter().filter(|(to, _)| *to == conn);
        let got: Vec<String> =
            got.map(|(_, f)| f["candidate"].as_str().expect("text").to_owned()).collect();
        assert_eq!(got, (0..130).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_too_much_for_a_lost_device_is_said_to_be() {
    let (mut town, alice, phone, _) = answered();
    town.close(phone);
    town.heard();
    for n in 0..128 {
        town.say(alice, &format!(r#"{{"type":"ice-candidate","candidate":"{n}","callId":"c"}}"#));
    }
    town.hears_nothing();
    town.say(alice, r#"{"type":"ice-candidate","candidate":"128","callId":"c"}"#);
    town.hears_error(alice, "recipient_offline");
}

#[test]
fn a_device_that_comes_misses_an_offer_for_which_there_was_no_room() {
    let (mut town, alice, phone, laptop) = three();
    town.say(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    town.heard();
    let offer = "o".repeat(64 << 10);
    town.say(alice, &format!(r#"{{"type":"offer","offer":"{offer}","callId":"c"}}"#));
    let heard: Vec<ConnId> = town.heard().into_iter().map(|(conn, _)| conn).collect();
    assert_eq!(heard, [phone, laptop]);
    let (_, heard) = comes(&mut town, 4, 3);
    assert_eq!(types(&heard), ["user_connected", "call_initiated"]);
}

#[test]
fn an_offer_that_meets_the_end_on_its_way_is_told_of_it_for_a_minute() {
    let (mut town, alice, phone, _) = answered();
    town.say(alice, r#"{"type":"call_left","callId":"c"}"#);
    town.heard();
    let offer = r#"{"type":"offer","offer":"o","recipientId":2,"callId":"c"}"#;
    town.say(phone, offer);
    town.hears(&[(phone, r#"{"type":"call_ended","callId":"c","reason":"hangup"}"#)]);
    town.pass(Duration::from_secs(60));
    town.say(phone, offer);
    town.hears(&[(alice, offer)]);
}

// ---- verified, and apps that know the documented frames only

#[test]
fn on_a_verified_server_only_what_begins_a_call_has_to_name_its_thread() {
    let mut town = Town::new(verified());
    let alice = town.open_member(1, 2, 41, &[2, 3]);
    let bob = town.open_member(2, 3, 41, &[2, 3]);
    town.say(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    town.hears_error(alice, "missing_field");
    town.say(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c","threadId":41}"#);
    town.say(bob, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    let heard = town.heard();
    assert_eq!(heard.iter().map(|(conn, _)| *conn).collect::<Vec<_>>(), [bob, alice], "{heard:?}");
}

#[test]
fn an_answer_without_a_call_and_without_a_name_goes_to_all_devices_as_ever() {
    let (mut town, alice, phone, laptop) = three();
    let answer = r#"{"type":"answer","answer":"a","senderId":2,"recipientId":3}"#;
    town.say(alice, answer);
    town.hears(&[(phone, answer), (laptop, answer)]);
    town.say(alice, r#"{"type":"answer","answer":"a","recipientId":3,"callId":"c"}"#);
    town.hears_error(alice, "no_such_call");
}

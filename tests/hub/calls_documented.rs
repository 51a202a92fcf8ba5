//! Checks what `docs/PROTOCOL.md` says about calls, diagrams included.

use std::time::Duration;

use buddyline::hub::interface::{CallSettings, ConnId, Settings};
use serde_json::Value;

use crate::support::diagram;
use crate::support::harness::{HubHarness, settings, verified};
use crate::support::markdown::Document;

const RING: Duration = Duration::from_secs(45);
const GRACE: Duration = Duration::from_secs(30);

// ---- the diagrams

#[test]
fn every_documented_diagram_matches_the_hub() {
    let document = Document::read("docs/PROTOCOL.md");
    let diagrams = document.blocks.iter().filter(|block| block.language == "mermaid");
    let mut played = 0;
    for block in diagrams {
        diagram::play(&block.text, &format!("line {}, {}", block.line, block.heading));
        played += 1;
    }
    assert_eq!(played, 9);
}

// ---- ringing, and the devices in a call

/// Alice, and Bob on two devices.
fn three() -> (HubHarness, ConnId, ConnId, ConnId) {
    let mut harness = HubHarness::default();
    let [alice, phone, laptop] =
        [(1, "2"), (2, "3"), (3, "3")].map(|(n, id)| harness.open_as(n, id));
    (harness, alice, phone, laptop)
}

/// Alice and Bob's two devices, with an answered call between Alice and the phone.
fn answered_call() -> (HubHarness, ConnId, ConnId, ConnId) {
    let (mut harness, alice, phone, laptop) = three();
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    harness.send(phone, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    harness.received();
    (harness, alice, phone, laptop)
}

/// Opens a connection for this user, and returns the frames that it receives first.
fn reconnect(harness: &mut HubHarness, slot: u32, user: u64) -> (ConnId, Vec<Value>) {
    let conn = harness.open(slot);
    harness.send(conn, &format!(r#"{{"type":"user_connected","userId":{user}}}"#));
    let received = harness.received().into_iter().filter(|(to, _)| *to == conn);
    (conn, received.map(|(_, frame)| frame).collect())
}

fn types(frames: &[Value]) -> Vec<&str> {
    frames.iter().map(|frame| frame["type"].as_str().expect("a type")).collect()
}

#[test]
fn connecting_device_rings_right_after_authentication() {
    let (mut harness, alice, ..) = three();
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    harness.send(alice, r#"{"type":"offer","offer":"o","callId":"c"}"#);
    harness.received();
    let (_, received) = reconnect(&mut harness, 4, 3);
    assert_eq!(types(&received), ["user_connected", "call_initiated", "offer"]);
}

#[test]
fn call_without_id_gets_one_that_both_sides_can_use() {
    let (mut harness, alice, phone, laptop) = three();
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3}"#);
    let id = harness.received()[0].1["callId"].as_str().expect("a callId").to_owned();
    assert_eq!(id, "6b49d200-00000001", "as the document shows it");
    harness.send(phone, &format!(r#"{{"type":"call_rejected","callId":"{id}"}}"#));
    let ended = format!(r#"{{"type":"call_ended","callId":"{id}","reason":"rejected"}}"#);
    let rejected = format!(r#"{{"type":"call_rejected","callId":"{id}","userId":3}}"#);
    harness.assert_received(&[
        (alice, &rejected),
        (alice, &ended),
        (phone, &ended),
        (laptop, &ended),
    ]);
}

#[test]
fn ringing_again_restarts_the_ring_timeout() {
    let (mut harness, alice, phone, laptop) = three();
    let begins = r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#;
    harness.send(alice, begins);
    harness.advance(RING - Duration::from_secs(1));
    harness.send(alice, r#"{"type":"call_initiated","callId":"c"}"#);
    harness.received();
    harness.advance(RING - Duration::from_secs(1));
    harness.assert_nothing_received();
    harness.advance(Duration::from_secs(1));
    let ended = r#"{"type":"call_ended","callId":"c","reason":"no_answer"}"#;
    harness.assert_received(&[(alice, ended), (phone, ended), (laptop, ended)]);
}

#[test]
fn new_call_to_the_same_user_ends_the_previous_one() {
    let (mut harness, alice, phone, _) = answered_call();
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"d"}"#);
    let ended = r#"{"type":"call_ended","callId":"c","reason":"hangup"}"#;
    let received = harness.received();
    for conn in [alice, phone] {
        assert!(
            received.contains(&(conn, serde_json::from_str(ended).expect("JSON"))),
            "{received:?}"
        );
    }
    assert_eq!(received.iter().filter(|(_, f)| f["type"] == "call_initiated").count(), 2);
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"e"}"#);
    let received = harness.received();
    let ends = received.iter().filter(|(_, f)| f["type"] == "call_ended");
    assert!(ends.clone().all(|(_, f)| f["reason"] == "cancelled" && f["callId"] == "d"));
    assert_eq!(ends.count(), 3, "{received:?}");
}

#[test]
fn any_caller_device_may_cancel_only_the_active_may_hang_up() {
    let (mut harness, alice, _, _) = three();
    let tablet = harness.open_as(5, "2");
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    harness.send(tablet, r#"{"type":"call_cancelled","callId":"c"}"#);
    let received = harness.received();
    assert_eq!(
        received.iter().filter(|(_, f)| f["reason"] == "cancelled").count(),
        3,
        "{received:?}"
    );

    let (mut harness, _, _, laptop) = answered_call();
    harness.send(laptop, r#"{"type":"call_hangup","callId":"c"}"#);
    harness.assert_error(laptop, "not_your_call");
}

#[test]
fn callee_offer_without_an_answer_fails_the_call() {
    let (mut harness, alice, phone, laptop) = three();
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    harness.received();
    harness.send(phone, r#"{"type":"offer","offer":"o","callId":"c"}"#);
    let elsewhere = r#"{"type":"call_ended","callId":"c","reason":"answered_elsewhere"}"#;
    harness.assert_received(&[
        (laptop, elsewhere),
        (alice, r#"{"type":"offer","offer":"o","callId":"c"}"#),
    ]);
    harness.send(phone, r#"{"type":"call_resume","callId":"c"}"#);
    assert!(harness.received().iter().all(|(_, frame)| frame["state"] == "connecting"));
    harness.advance(RING);
    let ended = r#"{"type":"call_ended","callId":"c","reason":"failed"}"#;
    harness.assert_received(&[(alice, ended), (phone, ended)]);
}

#[test]
fn no_ringing_status_follows_the_answer() {
    let (mut harness, _, phone, _) = answered_call();
    harness.send(phone, r#"{"type":"call_ringing","callId":"c"}"#);
    harness.assert_nothing_received();
}

#[test]
fn hangup_carries_the_senders_reason_and_failure() {
    let (mut harness, alice, phone, _) = answered_call();
    harness.send(alice, r#"{"type":"call_hangup","callId":"c","reason":"failed","clientId":"x"}"#);
    let hangup = r#"{"type":"call_hangup","callId":"c","reason":"failed","userId":2}"#;
    let ended = r#"{"type":"call_ended","callId":"c","reason":"failed"}"#;
    harness.assert_received(&[(phone, hangup), (alice, ended), (phone, ended)]);
}

#[test]
fn relayed_frames_gain_call_id_and_keep_sender_fields() {
    let (mut harness, alice, phone, laptop) = three();
    harness.send(
        alice,
        r#"{"type":"call_initiated","recipientId":3,"video":true,"token":"t","userId":9,"callId":7}"#,
    );
    let passed = r#"{"type":"call_initiated","recipientId":3,"video":true,"callId":7}"#;
    harness.assert_received(&[(phone, passed), (laptop, passed)]);
}

// ---- glare: both users call each other at once

#[test]
fn call_ids_compare_as_text_and_first_call_wins_without() {
    let (mut harness, alice, phone, _) = three();
    harness.send(phone, r#"{"type":"call_initiated","recipientId":2,"callId":9}"#);
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3,"callId":10}"#);
    let received = harness.received();
    let lost: Vec<_> = received.iter().filter(|(_, f)| f["reason"] == "glare").collect();
    assert!(lost.iter().all(|(_, f)| f["callId"] == 9 && f["continuesAs"] == 10), "{received:?}");
    assert_eq!(lost.len(), 2);

    let (mut harness, alice, phone, _) = three();
    harness.send(phone, r#"{"type":"call_initiated","recipientId":2}"#);
    let first = harness.received()[0].1["callId"].clone();
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3}"#);
    let received = harness.received();
    assert_eq!(received.len(), 1, "{received:?}");
    let (conn, frame) = &received[0];
    assert_eq!((*conn, &frame["reason"], &frame["continuesAs"]), (alice, &"glare".into(), &first));
}

// ---- lost connections

#[test]
fn call_ends_after_grace_and_lost_party_is_told_once() {
    let (mut harness, alice, phone, _) = answered_call();
    harness.close(phone);
    harness.advance(GRACE - Duration::from_secs(1));
    harness.assert_nothing_received();
    harness.advance(Duration::from_secs(1));
    let ended = r#"{"type":"call_ended","callId":"c","reason":"disconnected"}"#;
    harness.assert_received(&[(alice, ended)]);
    harness.advance(Duration::from_secs(59));
    let (conn, received) = reconnect(&mut harness, 4, 3);
    assert_eq!(types(&received), ["user_connected", "call_ended"]);
    let (_, received) = reconnect(&mut harness, 5, 3);
    assert_eq!(types(&received), ["user_connected"]);
    harness.send(conn, r#"{"type":"call_resume","callId":"c"}"#);
    harness.assert_received(&[(conn, ended)]);
    harness.advance(Duration::from_secs(1));
    harness.send(conn, r#"{"type":"call_resume","callId":"c"}"#);
    harness.assert_error(conn, "no_such_call");
}

#[test]
fn call_moves_to_the_device_that_resumes_it() {
    let (mut harness, alice, phone, laptop) = answered_call();
    harness.send(laptop, r#"{"type":"call_resume","callId":"c","clientId":"r"}"#);
    harness.assert_received(&[
        (
            laptop,
            r#"{"type":"call_resumed","callId":"c","userId":3,"state":"active","clientId":"r"}"#,
        ),
        (phone, r#"{"type":"call_ended","callId":"c","reason":"answered_elsewhere"}"#),
        (alice, r#"{"type":"call_resumed","callId":"c","userId":3,"state":"active"}"#),
    ]);
}

#[test]
fn early_reconnect_resumes_the_call_and_can_hang_up() {
    let (mut harness, _, phone, _) = answered_call();
    let back = harness.open_as(4, "3");
    harness.send(back, r#"{"type":"call_hangup","callId":"c"}"#);
    harness.assert_error(back, "not_your_call");
    harness.send(back, r#"{"type":"call_resume","callId":"c"}"#);
    harness.send(back, r#"{"type":"call_hangup","callId":"c"}"#);
    let received = harness.received();
    let ends = received.iter().filter(|(conn, f)| *conn == phone && f["type"] == "call_ended");
    assert!(ends.map(|(_, f)| &f["reason"]).eq(["answered_elsewhere"]), "{received:?}");
    assert_eq!(harness.hub.counts().calls, [0, 0]);
}

#[test]
fn lost_caller_has_five_seconds_and_lost_callee_rings_again() {
    let (mut harness, alice, phone, laptop) = three();
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    harness.close(laptop);
    harness.received();
    let (tablet, received) = reconnect(&mut harness, 4, 3);
    assert_eq!(types(&received), ["user_connected", "call_initiated"]);
    harness.send(tablet, r#"{"type":"call_resume","callId":"c"}"#);
    let resumed = r#"{"type":"call_resumed","callId":"c","userId":3,"state":"ringing"}"#;
    harness.assert_received(&[(tablet, resumed)]);
    harness.close(alice);
    harness.advance(Duration::from_secs(5));
    let ended: Vec<ConnId> = harness
        .received()
        .into_iter()
        .filter_map(|(conn, frame)| (frame["reason"] == "disconnected").then_some(conn))
        .collect();
    assert_eq!(ended, [phone, tablet]);
}

#[test]
fn legacy_apps_seat_goes_to_the_users_next_connection() {
    let (mut harness, alice, phone, laptop) = three();
    harness.send(alice, r#"{"type":"offer","offer":"o","recipientId":3,"senderId":2}"#);
    harness.send(phone, r#"{"type":"answer","answer":"a","recipientId":2,"senderId":3}"#);
    harness.close(phone);
    harness.received();
    let (phone, _) = reconnect(&mut harness, 4, 3);
    harness.send(alice, r#"{"type":"ice-candidate","candidate":"x","recipientId":3}"#);
    let received = harness.received();
    assert_eq!(
        received.iter().map(|(conn, _)| *conn).collect::<Vec<_>>(),
        [phone],
        "not {laptop:?}"
    );
}

#[test]
fn after_restart_an_offer_restarts_the_call_by_id() {
    let (mut harness, alice, phone, laptop) = three();
    harness.send(alice, r#"{"type":"call_resume","callId":"c"}"#);
    harness.assert_error(alice, "no_such_call");
    let offer = r#"{"type":"offer","offer":"restart","recipientId":3,"callId":"c"}"#;
    harness.send(alice, offer);
    harness.assert_received(&[(phone, offer), (laptop, offer)]);
    harness.send(phone, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    let elsewhere = r#"{"type":"call_ended","callId":"c","reason":"answered_elsewhere"}"#;
    harness.assert_received(&[
        (laptop, elsewhere),
        (alice, r#"{"type":"answer","answer":"a","callId":"c"}"#),
    ]);
    harness.send(alice, r#"{"type":"call_resume","callId":"c"}"#);
    assert!(harness.received().iter().all(|(_, frame)| frame["state"] == "active"));
}

// ---- offline, busy, limits

#[test]
fn only_calls_with_id_keep_ringing_for_offline_users() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(1, "2");
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3}"#);
    harness.assert_error(alice, "recipient_offline");
    assert_eq!(harness.hub.counts().calls, [0, 0]);
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    assert_eq!(harness.assert_error(alice, "recipient_offline")["callId"], "c");
    let (_, received) = reconnect(&mut harness, 2, 3);
    assert_eq!(types(&received), ["user_connected", "call_initiated"]);
    assert_eq!(harness.woken.len(), 2);
}

#[test]
fn refuse_when_busy_tells_only_the_caller() {
    let calls = CallSettings { reject_when_busy: true, ..CallSettings::default() };
    let mut harness = HubHarness::new(Settings { calls, ..settings() });
    let [alice, bob, carol] = [(1, "2"), (2, "3"), (3, "4")].map(|(n, id)| harness.open_as(n, id));
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    harness.send(bob, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    harness.received();
    harness.send(carol, r#"{"type":"call_initiated","recipientId":3,"callId":"d"}"#);
    harness.assert_received(&[(carol, r#"{"type":"call_ended","callId":"d","reason":"busy"}"#)]);
}

#[test]
fn ninth_ringing_call_for_a_user_is_refused() {
    let mut harness = HubHarness::default();
    let callers: Vec<ConnId> = (10..19).map(|n| harness.open_as(n, &n.to_string())).collect();
    let bob = harness.open_as(2, "3");
    for caller in &callers[..8] {
        harness.send(*caller, r#"{"type":"call_initiated","recipientId":3}"#);
    }
    assert!(harness.received().iter().all(|(conn, _)| *conn == bob));
    harness.send(callers[8], r#"{"type":"call_initiated","recipientId":3}"#);
    harness.assert_error(callers[8], "too_many_calls");
}

#[test]
fn fifth_answered_call_of_a_user_ends_the_oldest() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(1, "2");
    let others: Vec<ConnId> = (10..15).map(|n| harness.open_as(n, &n.to_string())).collect();
    for (user, other) in (10..15).zip(&others) {
        harness.send(
            alice,
            &format!(r#"{{"type":"call_initiated","recipientId":{user},"callId":"c{user}"}}"#),
        );
        harness.send(*other, r#"{"type":"answer","answer":"a","recipientId":2}"#);
        harness.advance(Duration::from_secs(1));
    }
    let received = harness.received();
    let ended: Vec<_> = received.iter().filter(|(_, f)| f["type"] == "call_ended").collect();
    assert_eq!(ended.iter().map(|(conn, _)| *conn).collect::<Vec<_>>(), [alice, others[0]]);
    assert!(ended.iter().all(|(_, f)| f["callId"] == "c10" && f["reason"] == "hangup"));
}

#[test]
fn excess_candidates_go_to_all_ringing_devices() {
    let (mut harness, alice, phone, laptop) = three();
    harness.send(alice, r#"{"type":"offer","offer":"o","recipientId":3,"callId":"c"}"#);
    harness.received();
    for n in 0..130 {
        harness
            .send(alice, &format!(r#"{{"type":"ice-candidate","candidate":"{n}","callId":"c"}}"#));
    }
    let received = harness.received();
    for conn in [phone, laptop] {
        let candidates = received.iter().filter(|(to, _)| *to == conn);
        let candidates: Vec<String> =
            candidates.map(|(_, f)| f["candidate"].as_str().expect("text").to_owned()).collect();
        assert_eq!(candidates, (0..130).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

#[test]
fn sender_is_told_when_lost_device_buffer_is_full() {
    let (mut harness, alice, phone, _) = answered_call();
    harness.close(phone);
    harness.received();
    for n in 0..128 {
        harness
            .send(alice, &format!(r#"{{"type":"ice-candidate","candidate":"{n}","callId":"c"}}"#));
    }
    harness.assert_nothing_received();
    harness.send(alice, r#"{"type":"ice-candidate","candidate":"128","callId":"c"}"#);
    harness.assert_error(alice, "recipient_offline");
}

#[test]
fn connecting_device_misses_an_offer_too_large_to_keep() {
    let (mut harness, alice, phone, laptop) = three();
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    harness.received();
    let offer = "o".repeat(64 << 10);
    harness.send(alice, &format!(r#"{{"type":"offer","offer":"{offer}","callId":"c"}}"#));
    let received: Vec<ConnId> = harness.received().into_iter().map(|(conn, _)| conn).collect();
    assert_eq!(received, [phone, laptop]);
    let (_, received) = reconnect(&mut harness, 4, 3);
    assert_eq!(types(&received), ["user_connected", "call_initiated"]);
}

#[test]
fn late_offer_is_told_of_the_end_for_a_minute() {
    let (mut harness, alice, phone, _) = answered_call();
    harness.send(alice, r#"{"type":"call_left","callId":"c"}"#);
    harness.received();
    let offer = r#"{"type":"offer","offer":"o","recipientId":2,"callId":"c"}"#;
    harness.send(phone, offer);
    harness.assert_received(&[(phone, r#"{"type":"call_ended","callId":"c","reason":"hangup"}"#)]);
    harness.advance(Duration::from_secs(60));
    harness.send(phone, offer);
    harness.assert_received(&[(alice, offer)]);
}

// ---- verified trust, and legacy apps

#[test]
fn verified_server_needs_thread_id_only_to_start_a_call() {
    let mut harness = HubHarness::new(verified());
    let alice = harness.open_member(1, 2, 41, &[2, 3]);
    let bob = harness.open_member(2, 3, 41, &[2, 3]);
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    harness.assert_error(alice, "missing_field");
    harness.send(alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c","threadId":41}"#);
    harness.send(bob, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    let received = harness.received();
    assert_eq!(
        received.iter().map(|(conn, _)| *conn).collect::<Vec<_>>(),
        [bob, alice],
        "{received:?}"
    );
}

#[test]
fn answer_without_call_or_id_goes_to_all_devices() {
    let (mut harness, alice, phone, laptop) = three();
    let answer = r#"{"type":"answer","answer":"a","senderId":2,"recipientId":3}"#;
    harness.send(alice, answer);
    harness.assert_received(&[(phone, answer), (laptop, answer)]);
    harness.send(alice, r#"{"type":"answer","answer":"a","recipientId":3,"callId":"c"}"#);
    harness.assert_error(alice, "no_such_call");
}

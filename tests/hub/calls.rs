//! Scripted calls: the frames that devices send, and exactly the frames that each one receives.

use std::time::Duration;

use buddyline::hub::interface::{CallSettings, ConnId, Settings};
use serde_json::{Value, json};

use crate::support::call_frames::{assert_received, start_group_call, summaries, summary, text};
use crate::support::harness::{HubHarness, settings, verified};

const SECOND: Duration = Duration::from_secs(1);

/// Alice (2) on one device, Bob (3) on a phone and a laptop, all in thread 12.
struct CallFixture {
    harness: HubHarness,
    alice: ConnId,
    phone: ConnId,
    laptop: ConnId,
}

impl CallFixture {
    fn new() -> CallFixture {
        CallFixture::with(settings())
    }

    fn with(settings: Settings) -> CallFixture {
        let mut harness = HubHarness::new(settings);
        let alice = harness.open_in(0, "2", "12");
        let phone = harness.open_in(1, "3", "12");
        let laptop = harness.open_in(2, "3", "12");
        CallFixture { harness, alice, phone, laptop }
    }

    /// Sends a frame of call "c" from this connection to the other user.
    fn send(&mut self, from: ConnId, kind: &str) {
        self.send_in(from, kind, Some("c"));
    }

    fn send_in(&mut self, from: ConnId, kind: &str, call: Option<&str>) {
        let (sender, recipient) = if from == self.alice { (2, 3) } else { (3, 2) };
        let frame = frame(kind, sender, recipient, call);
        self.harness.send(from, &frame.to_string());
    }

    #[track_caller]
    fn assert_received(&mut self, expected: &[(ConnId, &str)]) {
        assert_received(&mut self.harness, expected);
    }

    fn received(&mut self) -> Vec<(ConnId, String)> {
        summaries(&mut self.harness)
    }

    /// Call "c" rings on Bob's devices, and no received frame is left over.
    fn ringing() -> CallFixture {
        let mut s = CallFixture::new();
        s.send(s.alice, "call_initiated");
        s.send(s.alice, "offer");
        s.received();
        s
    }

    /// Call "c", answered on the phone.
    fn active() -> CallFixture {
        let mut s = CallFixture::ringing();
        s.send(s.phone, "answer");
        s.received();
        s
    }

    fn close(&mut self, conn: ConnId) {
        self.harness.close(conn);
        self.harness.assert_nothing_received();
    }

    /// Asserts that no call is ringing or active.
    #[track_caller]
    fn assert_no_calls(&self) {
        assert_eq!(self.harness.hub.counts().calls, [0, 0]);
    }
}

/// A frame with the payload that its type requires.
fn frame(kind: &str, sender: u64, recipient: u64, call: Option<&str>) -> Value {
    let mut frame =
        json!({"type": kind, "senderId": sender, "recipientId": recipient, "threadId": 12});
    match kind {
        "offer" | "answer" => frame[kind] = json!(format!("sdp of {sender}")),
        "ice-candidate" => frame["candidate"] = json!(format!("candidate of {sender}")),
        _ => {}
    }
    if let Some(call) = call {
        frame["callId"] = json!(call);
    }
    frame
}

// ---- ringing and answering

#[test]
fn call_rings_all_devices_and_first_answer_wins() {
    let mut s = CallFixture::new();
    s.send(s.alice, "call_initiated");
    s.assert_received(&[(s.phone, "call_initiated"), (s.laptop, "call_initiated")]);
    s.send(s.alice, "offer");
    s.assert_received(&[(s.phone, "offer"), (s.laptop, "offer")]);
    s.send(s.phone, "call_ringing");
    s.assert_received(&[(s.alice, "call_ringing")]);
    s.send(s.phone, "answer");
    s.assert_received(&[(s.laptop, "ended c answered_elsewhere"), (s.alice, "answer")]);
    s.send(s.laptop, "answer");
    s.assert_received(&[(s.laptop, "error not_your_call")]);
    s.send(s.laptop, "call_rejected");
    s.assert_received(&[(s.laptop, "error not_your_call")]);
    for (from, to) in [(s.alice, s.phone), (s.phone, s.alice)] {
        for kind in ["ice-candidate", "offer", "answer"] {
            s.send(from, kind);
            s.assert_received(&[(to, kind)]);
        }
    }
    s.send(s.phone, "call_hangup");
    s.assert_received(&[
        (s.alice, "call_hangup"),
        (s.alice, "ended c hangup"),
        (s.phone, "ended c hangup"),
    ]);
    s.assert_no_calls();
}

#[test]
fn caller_candidates_are_kept_for_the_answering_device() {
    let mut s = CallFixture::ringing();
    s.send(s.alice, "ice-candidate");
    s.send(s.alice, "ice-candidate");
    s.harness.assert_nothing_received();
    s.send(s.laptop, "ice-candidate");
    s.send(s.phone, "ice-candidate");
    s.harness.assert_nothing_received();
    s.send(s.phone, "answer");
    s.assert_received(&[
        (s.laptop, "ended c answered_elsewhere"),
        (s.alice, "answer"),
        (s.alice, "ice-candidate"),
        (s.phone, "ice-candidate"),
        (s.phone, "ice-candidate"),
    ]);
}

#[test]
fn candidates_over_the_limit_go_to_all_ringing_devices() {
    let mut s = CallFixture::ringing();
    let count = 130;
    for n in 0..count {
        let mut frame = frame("ice-candidate", 2, 3, Some("c"));
        frame["candidate"] = json!(format!("{n}"));
        s.harness.send(s.alice, &frame.to_string());
    }
    s.send(s.phone, "answer");
    let received = s.harness.received();
    for device in [s.phone, s.laptop] {
        let of =
            received.iter().filter(|(to, frame)| *to == device && frame["candidate"].is_string());
        let numbers: Vec<&str> = of.map(|(_, frame)| text(frame, "candidate")).collect();
        let expected: Vec<String> = (0..count).map(|n| n.to_string()).collect();
        assert_eq!(numbers, expected);
    }
    // Excess candidates of a device that has not answered go to the caller.
    let mut s = CallFixture::ringing();
    let mut large = frame("ice-candidate", 3, 2, Some("c"));
    large["candidate"] = json!("x".repeat(70_000));
    s.harness.send(s.phone, &large.to_string());
    s.assert_received(&[(s.alice, "ice-candidate")]);
}

#[test]
fn call_without_id_gets_one_on_every_frame() {
    let mut s = CallFixture::new();
    s.send_in(s.alice, "call_initiated", None);
    let received = s.harness.received();
    let id = text(&received[0].1, "callId").to_owned();
    assert_eq!(id.len(), 17, "{id}");
    for (from, kind) in [
        (s.alice, "offer"),
        (s.phone, "answer"),
        (s.alice, "ice-candidate"),
        (s.phone, "ice-candidate"),
        (s.alice, "call_hangup"),
    ] {
        s.send_in(from, kind, None);
        for (_, frame) in s.harness.received() {
            assert_eq!(text(&frame, "callId"), id, "{frame}");
        }
    }
    s.assert_no_calls();
}

#[test]
fn callee_may_send_the_offer() {
    let mut s = CallFixture::new();
    s.send_in(s.alice, "call_initiated", None);
    s.received();
    s.send_in(s.laptop, "offer", None);
    let received = s.received();
    assert!(
        received[0].1.ends_with("answered_elsewhere") && received[0].0 == s.phone,
        "{received:?}"
    );
    assert_eq!(received[1..], [(s.alice, "offer".to_owned())]);
    s.send_in(s.alice, "answer", None);
    s.assert_received(&[(s.laptop, "answer")]);
    s.harness.advance(60 * SECOND);
    s.harness.assert_nothing_received();
    assert_eq!(s.harness.hub.counts().calls, [0, 1]);
}

#[test]
fn unanswered_callee_offer_ends_the_call_as_failed() {
    let mut s = CallFixture::new();
    s.send(s.alice, "call_initiated");
    s.send(s.laptop, "offer");
    s.received();
    s.harness.advance(46 * SECOND);
    s.assert_received(&[(s.alice, "ended c failed"), (s.laptop, "ended c failed")]);
}

#[test]
fn device_connecting_while_ringing_rings_too() {
    let mut s = CallFixture::ringing();
    s.send(s.alice, "ice-candidate");
    let tablet = s.harness.open(3);
    s.harness.send(tablet, r#"{"type":"user_connected","userId":3}"#);
    s.assert_received(&[(tablet, "user_connected"), (tablet, "call_initiated"), (tablet, "offer")]);
    s.send(tablet, "answer");
    let mut received = s.received();
    received.sort();
    let elsewhere = "ended c answered_elsewhere".to_owned();
    assert_eq!(
        received,
        [
            (s.alice, "answer".to_owned()),
            (s.phone, elsewhere.clone()),
            (s.laptop, elsewhere),
            (tablet, "ice-candidate".to_owned()),
        ]
    );
}

// ---- ends

#[test]
fn ringing_call_ends_once_per_device_however_it_ends() {
    for (by_caller, kind, reason) in [
        (true, "call_cancelled", "cancelled"),
        (true, "call_hangup", "cancelled"),
        (false, "call_rejected", "rejected"),
        (false, "call_hangup", "rejected"),
        (false, "call_busy", "busy"),
    ] {
        let mut s = CallFixture::ringing();
        let from = if by_caller { s.alice } else { s.phone };
        s.send(from, kind);
        let ended = format!("ended c {reason}");
        let mut expected =
            vec![(s.alice, ended.clone()), (s.phone, ended.clone()), (s.laptop, ended)];
        let others = if by_caller { vec![s.phone, s.laptop] } else { vec![s.alice] };
        expected.extend(others.into_iter().map(|other| (other, kind.to_owned())));
        expected.sort();
        let mut received = s.received();
        received.sort();
        assert_eq!(received, expected, "{kind}");
        s.assert_no_calls();
        s.send(s.alice, "call_hangup");
        s.assert_received(&[(s.alice, "error no_such_call")]);
    }
}

#[test]
fn hangup_reports_its_reason_including_failure() {
    let mut s = CallFixture::active();
    let mut hangup = frame("call_hangup", 2, 3, None);
    hangup["reason"] = json!("failed");
    s.harness.send(s.alice, &hangup.to_string());
    let received = s.harness.received();
    assert_eq!(received[0].1["reason"], "failed");
    assert_eq!((&received[0].1["callId"], &received[0].1["userId"]), (&json!("c"), &json!(2)));
    let ended: Vec<_> = received[1..].iter().map(|(to, frame)| (*to, summary(frame))).collect();
    assert_eq!(ended, [(s.alice, "ended c failed".into()), (s.phone, "ended c failed".into())]);
    let mut s = CallFixture::active();
    hangup["reason"] = json!(["x"]);
    s.harness.send(s.alice, &hangup.to_string());
    s.harness.assert_error(s.alice, "invalid_field");
}

#[test]
fn unanswered_call_times_out_for_both_sides() {
    let mut s = CallFixture::ringing();
    s.harness.advance(44 * SECOND);
    s.harness.assert_nothing_received();
    s.send(s.alice, "call_initiated");
    s.assert_received(&[(s.phone, "call_initiated"), (s.laptop, "call_initiated")]);
    s.harness.advance(44 * SECOND);
    s.harness.assert_nothing_received();
    s.harness.advance(2 * SECOND);
    s.assert_received(&[
        (s.alice, "ended c no_answer"),
        (s.phone, "ended c no_answer"),
        (s.laptop, "ended c no_answer"),
    ]);
    s.assert_no_calls();
}

// ---- glare and several calls

#[test]
fn glare_is_won_by_the_lower_call_id() {
    // The first call has the lower id.
    let mut s = CallFixture::new();
    s.send_in(s.alice, "call_initiated", Some("a"));
    s.received();
    s.send_in(s.phone, "call_initiated", Some("b"));
    let received = s.harness.received();
    assert_eq!((received[0].0, summary(&received[0].1)), (s.phone, "ended b glare".to_owned()));
    assert_eq!((received.len(), text(&received[0].1, "continuesAs")), (1, "a"));
    s.send_in(s.phone, "answer", Some("a"));
    s.assert_received(&[(s.laptop, "ended a answered_elsewhere"), (s.alice, "answer")]);

    // The second call has the lower id.
    let mut s = CallFixture::new();
    s.send_in(s.alice, "call_initiated", Some("10"));
    s.received();
    s.send_in(s.phone, "offer", Some("1"));
    let received = s.harness.received();
    let summaries: Vec<_> = received.iter().map(|(to, frame)| (*to, summary(frame))).collect();
    let glare = || "ended 10 glare".to_owned();
    assert_eq!(
        summaries,
        [
            (s.alice, glare()),
            (s.phone, glare()),
            (s.laptop, glare()),
            (s.alice, "offer".to_owned()),
        ]
    );
    assert_eq!(text(&received[0].1, "continuesAs"), "1");
    s.send_in(s.alice, "answer", Some("1"));
    s.assert_received(&[(s.phone, "answer")]);
    assert_eq!(s.harness.hub.counts().calls, [0, 1]);
}

#[test]
fn glare_without_call_ids_is_won_by_the_first_call() {
    let mut s = CallFixture::new();
    s.send_in(s.alice, "call_initiated", None);
    s.received();
    s.send_in(s.phone, "call_initiated", None);
    let received = s.received();
    assert!(received.len() == 1 && received[0].1.ends_with("glare"), "{received:?}");
    // The loser's offer reaches the winner's call.
    s.send_in(s.phone, "offer", None);
    let received = s.received();
    assert!(received.contains(&(s.alice, "offer".to_owned())), "{received:?}");
    s.send_in(s.alice, "answer", None);
    s.assert_received(&[(s.phone, "answer")]);
}

#[test]
fn user_in_a_call_rings_or_is_busy_by_setting() {
    for reject_when_busy in [false, true] {
        let calls = CallSettings { reject_when_busy, ..CallSettings::default() };
        let mut s = CallFixture::with(Settings { calls, ..settings() });
        let carol = s.harness.open_in(3, "4", "12");
        s.send(s.alice, "offer");
        s.send(s.phone, "answer");
        s.received();
        s.harness.send(carol, &frame("call_initiated", 4, 3, Some("d")).to_string());
        match reject_when_busy {
            true => s.assert_received(&[(carol, "ended d busy")]),
            false => {
                s.assert_received(&[(s.phone, "call_initiated"), (s.laptop, "call_initiated")])
            }
        }
        // The frames of the active call go to the device in it only.
        s.send(s.alice, "ice-candidate");
        s.assert_received(&[(s.phone, "ice-candidate")]);
    }
}

#[test]
fn new_call_ends_the_callers_previous_call() {
    // Legacy apps do not send `call_hangup`.
    let mut s = CallFixture::new();
    for kind in ["call_initiated", "offer"] {
        s.send_in(s.alice, kind, None);
    }
    s.send_in(s.phone, "answer", None);
    s.received();
    s.send_in(s.alice, "call_initiated", None);
    let received: Vec<_> = s.received();
    assert!(received[0].1.ends_with("hangup") && received[1].1.ends_with("hangup"), "{received:?}");
    assert_eq!(
        received[2..],
        [(s.phone, "call_initiated".to_owned()), (s.laptop, "call_initiated".to_owned()),]
    );
    // A new call also ends one that is still ringing.
    let mut s = CallFixture::ringing();
    s.send_in(s.alice, "call_initiated", Some("d"));
    let received = s.received();
    assert_eq!(received.len(), 5);
    assert!(
        received[..3].iter().all(|(_, summary)| summary == "ended c cancelled"),
        "{received:?}"
    );
}

// ---- devices that are lost

#[test]
fn call_survives_lost_connection_and_replays_kept_frames() {
    let mut s = CallFixture::active();
    s.close(s.phone);
    s.send(s.alice, "ice-candidate");
    s.send(s.alice, "offer");
    s.harness.assert_nothing_received();
    s.harness.advance(29 * SECOND);
    s.received();
    let again = s.harness.open_as(3, "3");
    s.harness.send(again, r#"{"type":"call_resume","callId":"c","clientId":"x"}"#);
    let received = s.harness.received();
    let resumed = json!({"type": "call_resumed", "callId": "c", "userId": 3, "state": "active"});
    let mut own = resumed.clone();
    own["clientId"] = json!("x");
    assert_eq!(received[0], (again, own));
    assert_eq!(summary(&received[1].1), "ice-candidate");
    assert_eq!((received[2].0, summary(&received[2].1)), (again, "offer".to_owned()));
    assert_eq!(received[3], (s.alice, resumed));
    assert_eq!(received.len(), 4);
    s.harness.advance(60 * SECOND);
    s.send(again, "answer");
    s.assert_received(&[(s.alice, "answer")]);
}

#[test]
fn lost_party_is_disconnected_and_told_on_return() {
    let mut s = CallFixture::active();
    s.close(s.phone);
    s.harness.advance(31 * SECOND);
    s.assert_received(&[(s.alice, "ended c disconnected")]);
    s.assert_no_calls();
    let again = s.harness.open(3);
    s.harness.send(again, r#"{"type":"user_connected","userId":3}"#);
    s.assert_received(&[(again, "user_connected"), (again, "ended c disconnected")]);
    let later = s.harness.open(4);
    s.harness.send(later, r#"{"type":"user_connected","userId":3}"#);
    s.assert_received(&[(later, "user_connected")]);
    s.harness.send(again, r#"{"type":"call_resume","callId":"c"}"#);
    s.assert_received(&[(again, "ended c disconnected")]);
    s.harness.advance(61 * SECOND);
    s.harness.send(again, r#"{"type":"call_resume","callId":"c"}"#);
    s.assert_received(&[(again, "error no_such_call")]);
}

#[test]
fn reconnect_replaces_a_connection_not_yet_known_dead() {
    let mut s = CallFixture::active();
    let again = s.harness.open_as(3, "3");
    s.harness.send(again, r#"{"type":"call_resume","callId":"c"}"#);
    s.assert_received(&[
        (again, "call_resumed"),
        (s.phone, "ended c answered_elsewhere"),
        (s.alice, "call_resumed"),
    ]);
    s.send(s.phone, "ice-candidate");
    s.assert_received(&[(s.phone, "error not_your_call")]);
}

#[test]
fn legacy_app_rejoins_its_call_after_reconnect() {
    let mut s = CallFixture::new();
    s.send_in(s.alice, "offer", None);
    s.send_in(s.phone, "answer", None);
    s.received();
    s.close(s.laptop);
    s.close(s.phone);
    s.send_in(s.alice, "ice-candidate", None);
    s.harness.assert_nothing_received();
    let again = s.harness.open(3);
    s.harness.send(again, r#"{"type":"user_connected","userId":3}"#);
    let received = s.received();
    assert_eq!(received[0], (again, "user_connected".to_owned()));
    // No second `call_ended`: the laptop was told of the answer before it closed.
    assert_eq!(received[1..], [(again, "ice-candidate".to_owned())]);
    s.send_in(s.alice, "ice-candidate", None);
    s.assert_received(&[(again, "ice-candidate")]);
}

#[test]
fn any_frame_reclaims_a_vacant_call_seat() {
    let mut s = CallFixture::active();
    s.close(s.phone);
    s.send(s.laptop, "ice-candidate");
    s.assert_received(&[(s.alice, "ice-candidate")]);
    s.send(s.alice, "ice-candidate");
    s.assert_received(&[(s.laptop, "ice-candidate")]);
}

#[test]
fn lost_caller_stops_the_ringing_soon() {
    let mut s = CallFixture::ringing();
    s.close(s.alice);
    s.harness.advance(4 * SECOND);
    s.harness.assert_nothing_received();
    s.harness.advance(2 * SECOND);
    let received = s.received();
    assert!(received.contains(&(s.phone, "ended c disconnected".into())), "{received:?}");
    assert!(received.contains(&(s.laptop, "ended c disconnected".into())), "{received:?}");
    s.assert_no_calls();

    // A caller that returns in time resumes the call and gets the answer sent meanwhile.
    let mut s = CallFixture::ringing();
    s.close(s.alice);
    s.send(s.phone, "answer");
    s.assert_received(&[(s.laptop, "ended c answered_elsewhere")]);
    let again = s.harness.open_as(3, "2");
    s.harness.send(again, r#"{"type":"call_resume","callId":"c"}"#);
    s.assert_received(&[(again, "call_resumed"), (again, "answer"), (s.phone, "call_resumed")]);
}

#[test]
fn lost_ringing_device_learns_of_the_end_on_return() {
    let mut s = CallFixture::ringing();
    s.close(s.phone);
    s.send(s.laptop, "call_rejected");
    s.received();
    let again = s.harness.open(3);
    s.harness.send(again, r#"{"type":"user_connected","userId":3}"#);
    s.assert_received(&[(again, "user_connected"), (again, "ended c rejected")]);
}

#[test]
fn changing_user_leaves_the_previous_users_call() {
    let mut s = CallFixture::active();
    s.harness.send(s.phone, r#"{"type":"user_connected","userId":9}"#);
    s.received();
    s.send(s.alice, "ice-candidate");
    s.harness.assert_nothing_received();
    s.harness.advance(31 * SECOND);
    s.assert_received(&[(s.alice, "ended c disconnected")]);
}

// ---- offline users

#[test]
fn call_without_id_to_offline_user_ends_at_once() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    harness.send(alice, &frame("call_initiated", 2, 3, None).to_string());
    let fault = harness.assert_error(alice, "recipient_offline");
    assert!(fault["callId"].is_string());
    assert_eq!(harness.hub.counts().calls, [0, 0]);
    assert_eq!(harness.woken.len(), 1);
    let bob = harness.open(1);
    harness.send(bob, r#"{"type":"user_connected","userId":3}"#);
    assert_eq!(harness.received().len(), 2, "only the announcements of user 3, no ring");
}

#[test]
fn call_with_id_keeps_ringing_for_the_woken_phone() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    harness.send(alice, &frame("call_initiated", 2, 3, Some("c")).to_string());
    let fault = harness.assert_error(alice, "recipient_offline");
    assert_eq!(fault["callId"], "c");
    let event = harness.woken.pop().expect("an event");
    assert_eq!((event.call.to_json(), event.called.to_json()), (r#""c""#.into(), "3".into()));
    harness.advance(20 * SECOND);
    let bob = harness.open(1);
    harness.send(bob, r#"{"type":"user_connected","userId":3}"#);
    let received: Vec<String> =
        harness.received().iter().map(|(_, frame)| summary(frame)).collect();
    assert!(received.contains(&"call_initiated".to_owned()), "{received:?}");
}

#[test]
fn frames_outside_any_call_go_to_all_devices() {
    let mut s = CallFixture::new();
    for kind in ["answer", "ice-candidate"] {
        s.send_in(s.alice, kind, None);
        let received = s.harness.received();
        let expected = frame(kind, 2, 3, None);
        assert_eq!(received, [(s.phone, expected.clone()), (s.laptop, expected)]);
        s.send_in(s.alice, kind, Some("gone"));
        s.assert_received(&[(s.alice, "error no_such_call")]);
    }
    for kind in ["call_hangup", "call_rejected", "call_cancelled", "call_busy", "call_ringing"] {
        s.send_in(s.alice, kind, None);
        s.assert_received(&[(s.alice, "error no_such_call")]);
    }
}

// ---- access to calls

#[test]
fn outsiders_cannot_end_or_join_a_call() {
    let mut s = CallFixture::active();
    let mallory = s.harness.open_in(3, "9", "12");
    for kind in ["call_hangup", "call_rejected", "call_resume", "call_joined", "call_left"] {
        let frame = json!({"type": kind, "callId": "c", "threadId": 12});
        s.harness.send(mallory, &frame.to_string());
        s.assert_received(&[(mallory, "error no_such_call")]);
    }
    for kind in ["answer", "ice-candidate", "call_hangup"] {
        s.harness.send(mallory, &frame(kind, 9, 3, Some("c")).to_string());
        s.assert_received(&[(mallory, "error no_such_call")]);
    }
    // A new call may not reuse the id of one of the same users' calls.
    s.harness.send(mallory, &frame("call_initiated", 9, 3, Some("c")).to_string());
    s.assert_received(&[(mallory, "error invalid_field")]);
    s.send(s.alice, "ice-candidate");
    s.assert_received(&[(s.phone, "ice-candidate")]);
    // A new call with a known id may not end the known call through glare.
    s.harness.send(mallory, &frame("call_initiated", 9, 2, None).to_string());
    s.received();
    s.harness.send(s.alice, &frame("offer", 2, 9, Some("c")).to_string());
    s.assert_received(&[(s.alice, "error invalid_field")]);
    s.harness.send(s.alice, r#"{"type":"call_initiated","callId":"z"}"#);
    s.assert_received(&[(s.alice, "error missing_field")]);
}

#[test]
fn verified_call_is_for_participants_and_ends_on_removal() {
    let mut harness = HubHarness::new(verified());
    let seven = harness.open_member(0, 7, 41, &[7, 8]);
    let eight = harness.open_proven(1, 8);
    let nine = harness.open_proven(2, 9);
    let send = |harness: &mut HubHarness, from, kind: &str, sender: u64, recipient: u64| {
        let mut frame = frame(kind, sender, recipient, Some("c"));
        frame["threadId"] = json!(41);
        harness.send(from, &frame.to_string());
    };
    send(&mut harness, seven, "offer", 7, 9);
    harness.assert_error(seven, "not_participant");
    send(&mut harness, seven, "offer", 7, 8);
    send(&mut harness, eight, "answer", 8, 7);
    assert_eq!(harness.received().len(), 2);
    // A frame with a callId needs no threadId.
    harness.send(eight, r#"{"type":"ice-candidate","candidate":"x","callId":"c"}"#);
    assert_eq!(harness.received().len(), 1);
    harness.send(nine, r#"{"type":"call_resume","callId":"c"}"#);
    harness.assert_error(nine, "no_such_call");
    // The site removes user 8 from the thread.
    harness.advance(61 * SECOND);
    harness.received();
    harness.send(seven, r#"{"type":"join_thread","threadId":41}"#);
    let (request, ..) = harness.next_list();
    harness.list(request, &[7]);
    let received = summaries(&mut harness);
    assert!(received.contains(&(seven, "ended c failed".into())), "{received:?}");
    assert!(received.contains(&(eight, "ended c failed".into())), "{received:?}");
    assert_eq!(harness.hub.counts().calls, [0, 0]);
}

#[test]
fn device_connecting_on_an_expired_list_rings_after_the_next() {
    for (participants, rings) in [(&[7, 8][..], true), (&[7], false)] {
        let mut harness = HubHarness::new(verified());
        let seven = harness.open_member(0, 7, 41, &[7, 8]);
        harness.advance(40 * SECOND);
        let mut offer = frame("offer", 7, 8, Some("c"));
        offer["threadId"] = json!(41);
        harness.send(seven, &offer.to_string());
        harness.assert_error(seven, "recipient_offline");
        // The list is 65 s old, and the call rings for 20 s more.
        harness.advance(25 * SECOND);
        let eight = harness.open_proven(1, 8);
        let early = summaries(&mut harness);
        assert!(early.iter().all(|(to, text)| *to != eight || !text.contains(" c")), "{early:?}");
        let (request, ..) = harness.next_list();
        harness.list(request, participants);
        let received = summaries(&mut harness);
        let has_rung = received.iter().any(|(to, text)| *to == eight && text.starts_with("offer"));
        assert_eq!(has_rung, rings, "{received:?}");
    }
}

// ---- late frames

#[test]
fn late_offer_after_call_end_does_not_ring() {
    let mut s = CallFixture::active();
    s.send(s.alice, "call_hangup");
    s.received();
    s.send(s.phone, "offer");
    s.assert_received(&[(s.phone, "ended c hangup")]);
    s.assert_no_calls();
}

#[test]
fn frames_for_a_call_lost_by_glare_are_ignored() {
    let mut s = CallFixture::ringing();
    for kind in ["call_initiated", "offer", "ice-candidate", "call_cancelled"] {
        s.send_in(s.phone, kind, Some("d"));
        match kind {
            "call_initiated" => s.assert_received(&[(s.phone, "ended d glare")]),
            _ => s.harness.assert_nothing_received(),
        }
    }
    // The same for a first call that lost to a later one.
    s.send_in(s.phone, "call_initiated", Some("a"));
    s.received();
    s.send(s.alice, "ice-candidate");
    s.send(s.alice, "offer");
    s.harness.assert_nothing_received();
    assert_eq!(s.harness.hub.counts().calls, [1, 0]);
}

#[test]
fn cancel_does_not_overtake_a_call_held_for_the_site() {
    let mut harness = HubHarness::new(verified());
    let seven = harness.open_proven(0, 7);
    let eight = harness.open_proven(1, 8);
    harness.send(seven, r#"{"type":"call_initiated","recipientId":8,"threadId":41,"callId":"c"}"#);
    harness.send(seven, r#"{"type":"call_cancelled","callId":"c"}"#);
    harness.assert_nothing_received();
    let (request, ..) = harness.next_list();
    harness.list(request, &[7, 8]);
    let received = summaries(&mut harness);
    let of_eight =
        received.iter().filter(|(to, _)| *to == eight).map(|(_, summary)| summary.as_str());
    let expected = ["call_initiated", "call_cancelled", "ended c cancelled"];
    assert_eq!(of_eight.collect::<Vec<_>>(), expected);
    assert_eq!(harness.hub.counts().calls, [0, 0]);
}

#[test]
fn lost_ringing_device_learns_that_another_answered() {
    let mut s = CallFixture::ringing();
    s.close(s.laptop);
    s.send(s.phone, "answer");
    s.assert_received(&[(s.alice, "answer")]);
    let again = s.harness.open(3);
    s.harness.send(again, r#"{"type":"user_connected","userId":3}"#);
    s.assert_received(&[(again, "user_connected"), (again, "ended c answered_elsewhere")]);
    let later = s.harness.open(4);
    s.harness.send(later, r#"{"type":"user_connected","userId":3}"#);
    s.assert_received(&[(later, "user_connected")]);
}

#[test]
fn returning_device_learns_of_the_end_once() {
    let mut s = CallFixture::active();
    s.close(s.phone);
    let again = s.harness.open_as(3, "3");
    s.harness.send(again, r#"{"type":"call_resume","callId":"c"}"#);
    s.send(s.alice, "call_hangup");
    s.received();
    let later = s.harness.open(4);
    s.harness.send(later, r#"{"type":"user_connected","userId":3}"#);
    s.assert_received(&[(later, "user_connected")]);
}

#[test]
fn legacy_offer_rings_all_devices_each_time() {
    let mut s = CallFixture::new();
    for _ in 0..3 {
        s.send_in(s.alice, "offer", None);
        let received = s.received();
        for device in [s.phone, s.laptop] {
            assert!(received.contains(&(device, "offer".to_owned())), "{received:?}");
        }
        s.send_in(s.laptop, "answer", None);
        assert!(s.received().contains(&(s.alice, "answer".to_owned())));
    }
    assert_eq!(s.harness.hub.counts().calls, [0, 1]);
}

#[test]
fn busy_answer_is_repeated_on_request() {
    let calls = CallSettings { reject_when_busy: true, ..CallSettings::default() };
    let mut s = CallFixture::with(Settings { calls, ..settings() });
    let carol = s.harness.open_in(3, "4", "12");
    s.send(s.alice, "offer");
    s.send(s.phone, "answer");
    s.received();
    s.harness.send(carol, &frame("call_initiated", 4, 3, Some("d")).to_string());
    s.harness.send(carol, r#"{"type":"call_resume","callId":"d"}"#);
    s.assert_received(&[(carol, "ended d busy"), (carol, "ended d busy")]);
}

// ---- groups

#[test]
fn calling_a_thread_with_a_live_call_points_to_it() {
    let (mut harness, [_, three, _]) = start_group_call();
    harness.send(three, r#"{"type":"call_initiated","threadId":12,"callId":"a"}"#);
    let received = harness.received();
    assert_eq!((received.len(), summary(&received[0].1).as_str()), (1, "ended a glare"));
    assert_eq!((received[0].0, text(&received[0].1, "continuesAs")), (three, "g"));
    harness.send(three, r#"{"type":"call_joined","callId":"g"}"#);
    assert_eq!(harness.received().len(), 2);
}

#[test]
fn group_call_frames_are_pairwise_between_joined_users() {
    let (mut harness, [two, three, four]) = start_group_call();
    harness.send(three, r#"{"type":"call_joined","callId":"g","clientId":"j"}"#);
    let received = harness.received();
    let joined = json!({"type": "call_joined", "callId": "g", "threadId": 12, "userId": 3});
    let mut own = joined.clone();
    own["userIds"] = json!([2, 3]);
    own["clientId"] = json!("j");
    assert_eq!(received, [(three, own), (two, joined)]);
    harness.send(three, &frame("offer", 3, 2, Some("g")).to_string());
    let received = harness.received();
    assert_eq!((received[0].0, &received[0].1["userId"]), (two, &json!(3)));
    harness.send(two, &frame("answer", 2, 3, Some("g")).to_string());
    assert_eq!(summaries(&mut harness), [(three, "answer".to_owned())]);
    // A user whose devices still ring is not in the call.
    harness.send(two, &frame("offer", 2, 4, Some("g")).to_string());
    assert_eq!(summaries(&mut harness), [(two, "error not_your_call".to_owned())]);
    harness.send(four, &frame("answer", 4, 2, Some("g")).to_string());
    assert_eq!(summaries(&mut harness), [(four, "error not_your_call".to_owned())]);
    harness.send(two, r#"{"type":"offer","offer":"o","callId":"g"}"#);
    assert_eq!(summaries(&mut harness), [(two, "error missing_field".to_owned())]);
    harness.send(four, r#"{"type":"call_joined","callId":"g"}"#);
    let all: Vec<_> = summaries(&mut harness).into_iter().map(|(to, _)| to).collect();
    assert_eq!(all, [four, two, three]);
    harness.send(two, r#"{"type":"call_left","callId":"g"}"#);
    assert_eq!(
        summaries(&mut harness),
        [
            (two, "ended g hangup".to_owned()),
            (three, "left 2 hangup".to_owned()),
            (four, "left 2 hangup".to_owned()),
        ]
    );
}

#[test]
fn group_call_continues_without_absent_users() {
    let (mut harness, [two, three, four]) = start_group_call();
    harness.send(three, r#"{"type":"call_joined","callId":"g"}"#);
    harness.received();
    harness.advance(46 * SECOND);
    assert_eq!(
        summaries(&mut harness),
        [
            (four, "ended g no_answer".to_owned()),
            (two, "left 4 no_answer".to_owned()),
            (three, "left 4 no_answer".to_owned()),
        ]
    );
    // An absent user, like any participant of the thread, may join later.
    harness.send(four, r#"{"type":"call_joined","callId":"g","threadId":12}"#);
    assert_eq!(harness.received().len(), 3);
    harness.send(four, r#"{"type":"call_hangup","callId":"g"}"#);
    harness.send(three, r#"{"type":"call_hangup","callId":"g"}"#);
    let received = summaries(&mut harness);
    assert_eq!(
        received.iter().filter(|(_, summary)| summary.starts_with("ended")).count(),
        3,
        "{received:?}"
    );
    assert_eq!(harness.hub.counts().calls, [0, 0]);
}

#[test]
fn group_call_without_answers_ends_for_its_caller() {
    let (mut harness, [two, three, four]) = start_group_call();
    harness.send(three, r#"{"type":"call_rejected","callId":"g"}"#);
    assert_eq!(
        summaries(&mut harness),
        [(three, "ended g rejected".to_owned()), (two, "left 3 rejected".to_owned()),]
    );
    harness.advance(46 * SECOND);
    assert_eq!(
        summaries(&mut harness),
        [
            (four, "ended g no_answer".to_owned()),
            (two, "left 4 no_answer".to_owned()),
            (two, "ended g no_answer".to_owned()),
        ]
    );
}

#[test]
fn group_call_has_at_most_eight_users() {
    let mut harness = HubHarness::default();
    let devices: Vec<ConnId> =
        (0..9).map(|n| harness.open_in(n, &(n + 2).to_string(), "12")).collect();
    harness.send(devices[0], r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    harness.assert_error(devices[0], "thread_too_large");
    harness.send(devices[8], r#"{"type":"leave_thread","threadId":12}"#);
    harness.received();
    harness.send(devices[0], r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    for device in &devices[1..8] {
        harness.send(*device, r#"{"type":"call_joined","callId":"g"}"#);
    }
    harness.received();
    harness.send(devices[8], r#"{"type":"call_joined","callId":"g","threadId":12}"#);
    harness.assert_error(devices[8], "call_full");
}

#[test]
fn lost_group_call_member_may_rejoin() {
    let (mut harness, [two, three, _]) = start_group_call();
    harness.send(three, r#"{"type":"call_joined","callId":"g"}"#);
    harness.received();
    harness.close(three);
    harness.send(two, &frame("offer", 2, 3, Some("g")).to_string());
    harness.assert_nothing_received();
    let again = harness.open_as(5, "3");
    harness.send(again, r#"{"type":"call_resume","callId":"g"}"#);
    assert_eq!(
        summaries(&mut harness),
        [
            (again, "call_resumed".to_owned()),
            (again, "offer".to_owned()),
            (two, "call_resumed".to_owned()),
        ]
    );
}

// ---- bounds

#[test]
fn call_attempts_totals_and_ringing_calls_are_bounded() {
    let calls = CallSettings { attempts: 3, ..CallSettings::default() };
    let mut s = CallFixture::with(Settings { calls, ..settings() });
    for _ in 0..3 {
        s.send(s.alice, "call_initiated");
        s.send(s.alice, "call_cancelled");
    }
    s.received();
    s.send(s.alice, "call_initiated");
    s.assert_received(&[(s.alice, "error too_many_calls")]);
    s.send(s.phone, "call_initiated");
    s.assert_received(&[(s.alice, "call_initiated")]);

    let calls = CallSettings { total: 1, ..CallSettings::default() };
    let mut s = CallFixture::with(Settings { calls, ..settings() });
    s.send(s.alice, "call_initiated");
    let carol = s.harness.open_as(3, "4");
    s.received();
    s.harness.send(carol, &frame("call_initiated", 4, 2, Some("d")).to_string());
    s.assert_received(&[(carol, "error too_many_calls")]);

    let mut harness = HubHarness::default();
    let bob = harness.open_as(0, "3");
    for caller in 0..9 {
        let user = 10 + u64::from(caller);
        let conn = harness.open_as(1 + caller, &user.to_string());
        harness.send(conn, &frame("call_initiated", user, 3, None).to_string());
        match caller {
            8 => drop(harness.assert_error(conn, "too_many_calls")),
            _ => assert_eq!(harness.received().len(), 1),
        }
    }
    harness.send(bob, &frame("call_initiated", 3, 99, None).to_string());
    harness.assert_error(bob, "too_many_calls");
}

#[test]
fn oldest_answered_call_ends_over_the_per_user_limit() {
    let mut harness = HubHarness::default();
    let bob = harness.open_as(0, "3");
    for caller in 0..5 {
        let user = 10 + u64::from(caller);
        let conn = harness.open_as(1 + caller, &user.to_string());
        let call = format!("c{caller}");
        harness.advance(SECOND);
        harness.send(conn, &frame("offer", user, 3, Some(&call)).to_string());
        harness.received();
        harness.send(bob, &frame("answer", 3, user, Some(&call)).to_string());
        let received = summaries(&mut harness);
        match caller {
            4 => assert!(received.contains(&(bob, "ended c0 hangup".to_owned())), "{received:?}"),
            _ => assert_eq!(received, [(conn, "answer".to_owned())]),
        }
    }
    assert_eq!(harness.hub.counts().calls, [0, 4]);
}

#[test]
fn frames_kept_for_lost_device_are_bounded_and_peer_is_told() {
    let mut s = CallFixture::active();
    s.close(s.phone);
    for _ in 0..128 {
        s.send(s.alice, "ice-candidate");
        s.harness.assert_nothing_received();
    }
    s.send(s.alice, "ice-candidate");
    s.assert_received(&[(s.alice, "error recipient_offline")]);
}

//! Calls by scripts: what devices say, and what each of them hears.

#[path = "support/ears.rs"]
mod ears;
#[path = "support/town.rs"]
mod town;

use std::time::Duration;

use buddyline::hub::interface::{CallSettings, ConnId, Settings};
use ears::{group, hears, text, told, words};
use serde_json::{Value, json};
use town::{Town, settings, verified};

const SECOND: Duration = Duration::from_secs(1);

/// Alice (2) on one device, Bob (3) on a phone and a laptop, all in thread 12.
struct Scene {
    town: Town,
    alice: ConnId,
    phone: ConnId,
    laptop: ConnId,
}

impl Scene {
    fn new() -> Scene {
        Scene::with(settings())
    }

    fn with(settings: Settings) -> Scene {
        let mut town = Town::new(settings);
        let alice = town.open_in(0, "2", "12");
        let phone = town.open_in(1, "3", "12");
        let laptop = town.open_in(2, "3", "12");
        Scene { town, alice, phone, laptop }
    }

    /// Says a frame of call "c" between the two, from whom it is.
    fn say(&mut self, from: ConnId, kind: &str) {
        self.say_in(from, kind, Some("c"));
    }

    fn say_in(&mut self, from: ConnId, kind: &str, call: Option<&str>) {
        let (me, other) = if from == self.alice { (2, 3) } else { (3, 2) };
        let frame = frame(kind, me, other, call);
        self.town.say(from, &frame.to_string());
    }

    #[track_caller]
    fn hears(&mut self, expected: &[(ConnId, &str)]) {
        hears(&mut self.town, expected);
    }

    fn heard(&mut self) -> Vec<(ConnId, String)> {
        told(&mut self.town)
    }

    /// Call "c" rings at Bob's, and nobody has heard anything else.
    fn ringing() -> Scene {
        let mut scene = Scene::new();
        scene.say(scene.alice, "call_initiated");
        scene.say(scene.alice, "offer");
        scene.heard();
        scene
    }

    /// The same, answered on the phone.
    fn active() -> Scene {
        let mut scene = Scene::ringing();
        scene.say(scene.phone, "answer");
        scene.heard();
        scene
    }

    fn close(&mut self, conn: ConnId) {
        self.town.close(conn);
        self.town.hears_nothing();
    }

    /// Nobody is in a call or rings.
    #[track_caller]
    fn is_silent(&self) {
        assert_eq!(self.town.hub.counts().calls, [0, 0]);
    }
}

/// A frame with the payload that it needs.
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
fn it_rings_on_all_devices_and_the_first_answer_takes_it() {
    let mut s = Scene::new();
    s.say(s.alice, "call_initiated");
    s.hears(&[(s.phone, "call_initiated"), (s.laptop, "call_initiated")]);
    s.say(s.alice, "offer");
    s.hears(&[(s.phone, "offer"), (s.laptop, "offer")]);
    s.say(s.phone, "call_ringing");
    s.hears(&[(s.alice, "call_ringing")]);
    s.say(s.phone, "answer");
    s.hears(&[(s.laptop, "ended c answered_elsewhere"), (s.alice, "answer")]);
    s.say(s.laptop, "answer");
    s.hears(&[(s.laptop, "error not_your_call")]);
    s.say(s.laptop, "call_rejected");
    s.hears(&[(s.laptop, "error not_your_call")]);
    for (from, to) in [(s.alice, s.phone), (s.phone, s.alice)] {
        for kind in ["ice-candidate", "offer", "answer"] {
            s.say(from, kind);
            s.hears(&[(to, kind)]);
        }
    }
    s.say(s.phone, "call_hangup");
    s.hears(&[(s.alice, "call_hangup"), (s.alice, "ended c hangup"), (s.phone, "ended c hangup")]);
    s.is_silent();
}

#[test]
fn the_callers_candidates_are_kept_for_the_device_that_answers() {
    let mut s = Scene::ringing();
    s.say(s.alice, "ice-candidate");
    s.say(s.alice, "ice-candidate");
    s.town.hears_nothing();
    s.say(s.laptop, "ice-candidate");
    s.say(s.phone, "ice-candidate");
    s.town.hears_nothing();
    s.say(s.phone, "answer");
    s.hears(&[
        (s.laptop, "ended c answered_elsewhere"),
        (s.alice, "answer"),
        (s.alice, "ice-candidate"),
        (s.phone, "ice-candidate"),
        (s.phone, "ice-candidate"),
    ]);
}

#[test]
fn what_can_not_be_kept_goes_to_all_who_ring_and_nothing_is_lost() {
    let mut s = Scene::ringing();
    let said = 130;
    for n in 0..said {
        let mut frame = frame("ice-candidate", 2, 3, Some("c"));
        frame["candidate"] = json!(format!("{n}"));
        s.town.say(s.alice, &frame.to_string());
    }
    s.say(s.phone, "answer");
    let heard = s.town.heard();
    for device in [s.phone, s.laptop] {
        let of = heard.iter().filter(|(to, frame)| *to == device && frame["candidate"].is_string());
        let numbers: Vec<&str> = of.map(|(_, frame)| text(frame, "candidate")).collect();
        let expected: Vec<String> = (0..said).map(|n| n.to_string()).collect();
        assert_eq!(numbers, expected);
    }
    // And of one device that has not answered, they go to the caller.
    let mut s = Scene::ringing();
    let mut large = frame("ice-candidate", 3, 2, Some("c"));
    large["candidate"] = json!("x".repeat(70_000));
    s.town.say(s.phone, &large.to_string());
    s.hears(&[(s.alice, "ice-candidate")]);
}

#[test]
fn a_call_that_has_no_name_gets_one_and_it_is_on_every_frame() {
    let mut s = Scene::new();
    s.say_in(s.alice, "call_initiated", None);
    let heard = s.town.heard();
    let id = text(&heard[0].1, "callId").to_owned();
    assert_eq!(id.len(), 17, "{id}");
    for (from, kind) in [
        (s.alice, "offer"),
        (s.phone, "answer"),
        (s.alice, "ice-candidate"),
        (s.phone, "ice-candidate"),
        (s.alice, "call_hangup"),
    ] {
        s.say_in(from, kind, None);
        for (_, frame) in s.town.heard() {
            assert_eq!(text(&frame, "callId"), id, "{frame}");
        }
    }
    s.is_silent();
}

#[test]
fn the_callee_may_make_the_offer() {
    let mut s = Scene::new();
    s.say_in(s.alice, "call_initiated", None);
    s.heard();
    s.say_in(s.laptop, "offer", None);
    let heard = s.heard();
    assert!(heard[0].1.ends_with("answered_elsewhere") && heard[0].0 == s.phone, "{heard:?}");
    assert_eq!(heard[1..], [(s.alice, "offer".to_owned())]);
    s.say_in(s.alice, "answer", None);
    s.hears(&[(s.laptop, "answer")]);
    s.town.pass(60 * SECOND);
    s.town.hears_nothing();
    assert_eq!(s.town.hub.counts().calls, [0, 1]);
}

#[test]
fn an_offer_of_the_callee_that_is_never_answered_ends_as_failed() {
    let mut s = Scene::new();
    s.say(s.alice, "call_initiated");
    s.say(s.laptop, "offer");
    s.heard();
    s.town.pass(46 * SECOND);
    s.hears(&[(s.alice, "ended c failed"), (s.laptop, "ended c failed")]);
}

#[test]
fn a_device_that_comes_while_it_rings_rings_as_well() {
    let mut s = Scene::ringing();
    s.say(s.alice, "ice-candidate");
    let tablet = s.town.open(3);
    s.town.say(tablet, r#"{"type":"user_connected","userId":3}"#);
    s.hears(&[(tablet, "user_connected"), (tablet, "call_initiated"), (tablet, "offer")]);
    s.say(tablet, "answer");
    let mut heard = s.heard();
    heard.sort();
    let elsewhere = "ended c answered_elsewhere".to_owned();
    assert_eq!(
        heard,
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
fn each_way_to_end_a_call_that_rings_ends_it_once_on_every_device() {
    for (by_caller, kind, reason) in [
        (true, "call_cancelled", "cancelled"),
        (true, "call_hangup", "cancelled"),
        (false, "call_rejected", "rejected"),
        (false, "call_hangup", "rejected"),
        (false, "call_busy", "busy"),
    ] {
        let mut s = Scene::ringing();
        let from = if by_caller { s.alice } else { s.phone };
        s.say(from, kind);
        let ended = format!("ended c {reason}");
        let mut expected =
            vec![(s.alice, ended.clone()), (s.phone, ended.clone()), (s.laptop, ended)];
        let others = if by_caller { vec![s.phone, s.laptop] } else { vec![s.alice] };
        expected.extend(others.into_iter().map(|other| (other, kind.to_owned())));
        expected.sort();
        let mut heard = s.heard();
        heard.sort();
        assert_eq!(heard, expected, "{kind}");
        s.is_silent();
        s.say(s.alice, "call_hangup");
        s.hears(&[(s.alice, "error no_such_call")]);
    }
}

#[test]
fn a_hang_up_says_why_and_may_say_that_it_failed() {
    let mut s = Scene::active();
    let mut hangup = frame("call_hangup", 2, 3, None);
    hangup["reason"] = json!("failed");
    s.town.say(s.alice, &hangup.to_string());
    let heard = s.town.heard();
    assert_eq!(heard[0].1["reason"], "failed");
    assert_eq!((&heard[0].1["callId"], &heard[0].1["userId"]), (&json!("c"), &json!(2)));
    let ended: Vec<_> = heard[1..].iter().map(|(to, frame)| (*to, words(frame))).collect();
    assert_eq!(ended, [(s.alice, "ended c failed".into()), (s.phone, "ended c failed".into())]);
    let mut s = Scene::active();
    hangup["reason"] = json!(["x"]);
    s.town.say(s.alice, &hangup.to_string());
    s.town.hears_error(s.alice, "invalid_field");
}

#[test]
fn a_call_that_nobody_takes_ends_for_both_sides_in_time() {
    let mut s = Scene::ringing();
    s.town.pass(44 * SECOND);
    s.town.hears_nothing();
    s.say(s.alice, "call_initiated");
    s.hears(&[(s.phone, "call_initiated"), (s.laptop, "call_initiated")]);
    s.town.pass(44 * SECOND);
    s.town.hears_nothing();
    s.town.pass(2 * SECOND);
    s.hears(&[
        (s.alice, "ended c no_answer"),
        (s.phone, "ended c no_answer"),
        (s.laptop, "ended c no_answer"),
    ]);
    s.is_silent();
}

// ---- both at once, and several

#[test]
fn of_two_who_call_each_other_the_call_with_the_lesser_id_stands() {
    // The one that was first.
    let mut s = Scene::new();
    s.say_in(s.alice, "call_initiated", Some("a"));
    s.heard();
    s.say_in(s.phone, "call_initiated", Some("b"));
    let heard = s.town.heard();
    assert_eq!((heard[0].0, words(&heard[0].1)), (s.phone, "ended b glare".to_owned()));
    assert_eq!((heard.len(), text(&heard[0].1, "continuesAs")), (1, "a"));
    s.say_in(s.phone, "answer", Some("a"));
    s.hears(&[(s.laptop, "ended a answered_elsewhere"), (s.alice, "answer")]);

    // The one that came second.
    let mut s = Scene::new();
    s.say_in(s.alice, "call_initiated", Some("10"));
    s.heard();
    s.say_in(s.phone, "offer", Some("1"));
    let heard = s.town.heard();
    let told: Vec<_> = heard.iter().map(|(to, frame)| (*to, words(frame))).collect();
    let glare = || "ended 10 glare".to_owned();
    assert_eq!(
        told,
        [
            (s.alice, glare()),
            (s.phone, glare()),
            (s.laptop, glare()),
            (s.alice, "offer".to_owned()),
        ]
    );
    assert_eq!(text(&heard[0].1, "continuesAs"), "1");
    s.say_in(s.alice, "answer", Some("1"));
    s.hears(&[(s.phone, "answer")]);
    assert_eq!(s.town.hub.counts().calls, [0, 1]);
}

#[test]
fn of_two_old_apps_that_call_each_other_the_first_call_stands() {
    let mut s = Scene::new();
    s.say_in(s.alice, "call_initiated", None);
    s.heard();
    s.say_in(s.phone, "call_initiated", None);
    let heard = s.heard();
    assert!(heard.len() == 1 && heard[0].1.ends_with("glare"), "{heard:?}");
    // Whoever makes the offer now, they find each other.
    s.say_in(s.phone, "offer", None);
    let heard = s.heard();
    assert!(heard.contains(&(s.alice, "offer".to_owned())), "{heard:?}");
    s.say_in(s.alice, "answer", None);
    s.hears(&[(s.phone, "answer")]);
}

#[test]
fn who_is_in_a_call_is_rung_by_others_or_busy_as_it_is_set() {
    for refuses in [false, true] {
        let calls = CallSettings { reject_when_busy: refuses, ..CallSettings::default() };
        let mut s = Scene::with(Settings { calls, ..settings() });
        let carol = s.town.open_in(3, "4", "12");
        s.say(s.alice, "offer");
        s.say(s.phone, "answer");
        s.heard();
        s.town.say(carol, &frame("call_initiated", 4, 3, Some("d")).to_string());
        match refuses {
            true => s.hears(&[(carol, "ended d busy")]),
            false => s.hears(&[(s.phone, "call_initiated"), (s.laptop, "call_initiated")]),
        }
        // Nobody else is told anything of the call that goes on.
        s.say(s.alice, "ice-candidate");
        s.hears(&[(s.phone, "ice-candidate")]);
    }
}

#[test]
fn who_calls_anew_leaves_the_call_before_behind() {
    // Old apps know no hanging up.
    let mut s = Scene::new();
    for kind in ["call_initiated", "offer"] {
        s.say_in(s.alice, kind, None);
    }
    s.say_in(s.phone, "answer", None);
    s.heard();
    s.say_in(s.alice, "call_initiated", None);
    let heard: Vec<_> = s.heard();
    assert!(heard[0].1.ends_with("hangup") && heard[1].1.ends_with("hangup"), "{heard:?}");
    assert_eq!(
        heard[2..],
        [(s.phone, "call_initiated".to_owned()), (s.laptop, "call_initiated".to_owned()),]
    );
    // And so does one that has given up the first.
    let mut s = Scene::ringing();
    s.say_in(s.alice, "call_initiated", Some("d"));
    let heard = s.heard();
    assert_eq!(heard.len(), 5);
    assert!(heard[..3].iter().all(|(_, words)| words == "ended c cancelled"), "{heard:?}");
}

// ---- devices that are lost

#[test]
fn a_call_outlives_a_lost_connection_and_goes_on_with_what_was_kept() {
    let mut s = Scene::active();
    s.close(s.phone);
    s.say(s.alice, "ice-candidate");
    s.say(s.alice, "offer");
    s.town.hears_nothing();
    s.town.pass(29 * SECOND);
    s.heard();
    let again = s.town.open_as(3, "3");
    s.town.say(again, r#"{"type":"call_resume","callId":"c","clientId":"x"}"#);
    let heard = s.town.heard();
    let resumed = json!({"type": "call_resumed", "callId": "c", "userId": 3, "state": "active"});
    let mut own = resumed.clone();
    own["clientId"] = json!("x");
    assert_eq!(heard[0], (again, own));
    assert_eq!(words(&heard[1].1), "ice-candidate");
    assert_eq!((heard[2].0, words(&heard[2].1)), (again, "offer".to_owned()));
    assert_eq!(heard[3], (s.alice, resumed));
    assert_eq!(heard.len(), 4);
    s.town.pass(60 * SECOND);
    s.say(again, "answer");
    s.hears(&[(s.alice, "answer")]);
}

#[test]
fn who_does_not_come_back_is_disconnected_and_is_told_when_they_do() {
    let mut s = Scene::active();
    s.close(s.phone);
    s.town.pass(31 * SECOND);
    s.hears(&[(s.alice, "ended c disconnected")]);
    s.is_silent();
    let again = s.town.open(3);
    s.town.say(again, r#"{"type":"user_connected","userId":3}"#);
    s.hears(&[(again, "user_connected"), (again, "ended c disconnected")]);
    let later = s.town.open(4);
    s.town.say(later, r#"{"type":"user_connected","userId":3}"#);
    s.hears(&[(later, "user_connected")]);
    s.town.say(again, r#"{"type":"call_resume","callId":"c"}"#);
    s.hears(&[(again, "ended c disconnected")]);
    s.town.pass(61 * SECOND);
    s.town.say(again, r#"{"type":"call_resume","callId":"c"}"#);
    s.hears(&[(again, "error no_such_call")]);
}

#[test]
fn a_phone_takes_the_place_of_a_connection_that_is_not_known_to_be_dead() {
    let mut s = Scene::active();
    let again = s.town.open_as(3, "3");
    s.town.say(again, r#"{"type":"call_resume","callId":"c"}"#);
    s.hears(&[
        (again, "call_resumed"),
        (s.phone, "ended c answered_elsewhere"),
        (s.alice, "call_resumed"),
    ]);
    s.say(s.phone, "ice-candidate");
    s.hears(&[(s.phone, "error not_your_call")]);
}

#[test]
fn an_old_app_that_comes_back_is_in_its_call_again() {
    let mut s = Scene::new();
    s.say_in(s.alice, "offer", None);
    s.say_in(s.phone, "answer", None);
    s.heard();
    s.close(s.laptop);
    s.close(s.phone);
    s.say_in(s.alice, "ice-candidate", None);
    s.town.hears_nothing();
    let again = s.town.open(3);
    s.town.say(again, r#"{"type":"user_connected","userId":3}"#);
    let heard = s.heard();
    assert_eq!(heard[0], (again, "user_connected".to_owned()));
    // Whom the laptop rang was told that the phone took the call.
    assert_eq!(heard[1..], [(again, "ice-candidate".to_owned())]);
    s.say_in(s.alice, "ice-candidate", None);
    s.hears(&[(again, "ice-candidate")]);
}

#[test]
fn a_device_whose_place_is_vacant_may_simply_speak() {
    let mut s = Scene::active();
    s.close(s.phone);
    s.say(s.laptop, "ice-candidate");
    s.hears(&[(s.alice, "ice-candidate")]);
    s.say(s.alice, "ice-candidate");
    s.hears(&[(s.laptop, "ice-candidate")]);
}

#[test]
fn a_caller_who_is_lost_while_it_rings_stops_the_ringing_soon() {
    let mut s = Scene::ringing();
    s.close(s.alice);
    s.town.pass(4 * SECOND);
    s.town.hears_nothing();
    s.town.pass(2 * SECOND);
    let heard = s.heard();
    assert!(heard.contains(&(s.phone, "ended c disconnected".into())), "{heard:?}");
    assert!(heard.contains(&(s.laptop, "ended c disconnected".into())), "{heard:?}");
    s.is_silent();

    // But not if they are back, and whoever answers meanwhile is not lost to them.
    let mut s = Scene::ringing();
    s.close(s.alice);
    s.say(s.phone, "answer");
    s.hears(&[(s.laptop, "ended c answered_elsewhere")]);
    let again = s.town.open_as(3, "2");
    s.town.say(again, r#"{"type":"call_resume","callId":"c"}"#);
    s.hears(&[(again, "call_resumed"), (again, "answer"), (s.phone, "call_resumed")]);
}

#[test]
fn a_device_that_is_lost_while_it_rings_hears_of_the_end_when_it_is_back() {
    let mut s = Scene::ringing();
    s.close(s.phone);
    s.say(s.laptop, "call_rejected");
    s.heard();
    let again = s.town.open(3);
    s.town.say(again, r#"{"type":"user_connected","userId":3}"#);
    s.hears(&[(again, "user_connected"), (again, "ended c rejected")]);
}

#[test]
fn another_user_on_the_same_connection_is_in_no_call_of_the_one_before() {
    let mut s = Scene::active();
    s.town.say(s.phone, r#"{"type":"user_connected","userId":9}"#);
    s.heard();
    s.say(s.alice, "ice-candidate");
    s.town.hears_nothing();
    s.town.pass(31 * SECOND);
    s.hears(&[(s.alice, "ended c disconnected")]);
}

// ---- who is not there

#[test]
fn a_call_without_a_name_to_someone_offline_is_over_at_once() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    town.say(alice, &frame("call_initiated", 2, 3, None).to_string());
    let fault = town.hears_error(alice, "recipient_offline");
    assert!(fault["callId"].is_string());
    assert_eq!(town.hub.counts().calls, [0, 0]);
    assert_eq!(town.woken.len(), 1);
    let bob = town.open(1);
    town.say(bob, r#"{"type":"user_connected","userId":3}"#);
    assert_eq!(town.heard().len(), 2, "only that he has come");
}

#[test]
fn one_with_a_name_rings_on_for_the_phone_that_is_woken() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    town.say(alice, &frame("call_initiated", 2, 3, Some("c")).to_string());
    let fault = town.hears_error(alice, "recipient_offline");
    assert_eq!(fault["callId"], "c");
    let event = town.woken.pop().expect("an event");
    assert_eq!((event.call.to_json(), event.called.to_json()), (r#""c""#.into(), "3".into()));
    town.pass(20 * SECOND);
    let bob = town.open(1);
    town.say(bob, r#"{"type":"user_connected","userId":3}"#);
    let heard: Vec<String> = town.heard().iter().map(|(_, frame)| words(frame)).collect();
    assert!(heard.contains(&"call_initiated".to_owned()), "{heard:?}");
}

#[test]
fn what_belongs_to_no_call_goes_to_all_devices_as_it_always_did() {
    let mut s = Scene::new();
    for kind in ["answer", "ice-candidate"] {
        s.say_in(s.alice, kind, None);
        let heard = s.town.heard();
        let expected = frame(kind, 2, 3, None);
        assert_eq!(heard, [(s.phone, expected.clone()), (s.laptop, expected)]);
        s.say_in(s.alice, kind, Some("gone"));
        s.hears(&[(s.alice, "error no_such_call")]);
    }
    for kind in ["call_hangup", "call_rejected", "call_cancelled", "call_busy", "call_ringing"] {
        s.say_in(s.alice, kind, None);
        s.hears(&[(s.alice, "error no_such_call")]);
    }
}

// ---- whose call it is

#[test]
fn nobody_ends_or_joins_a_call_that_is_not_theirs() {
    let mut s = Scene::active();
    let mallory = s.town.open_in(3, "9", "12");
    for kind in ["call_hangup", "call_rejected", "call_resume", "call_joined", "call_left"] {
        let frame = json!({"type": kind, "callId": "c", "threadId": 12});
        s.town.say(mallory, &frame.to_string());
        s.hears(&[(mallory, "error no_such_call")]);
    }
    for kind in ["answer", "ice-candidate", "call_hangup"] {
        s.town.say(mallory, &frame(kind, 9, 3, Some("c")).to_string());
        s.hears(&[(mallory, "error no_such_call")]);
    }
    // Nor may a call take the name of another of the same people.
    s.town.say(mallory, &frame("call_initiated", 9, 3, Some("c")).to_string());
    s.hears(&[(mallory, "error invalid_field")]);
    s.say(s.alice, "ice-candidate");
    s.hears(&[(s.phone, "ice-candidate")]);
    // Nor end it by losing with its name against another.
    s.town.say(mallory, &frame("call_initiated", 9, 2, None).to_string());
    s.heard();
    s.town.say(s.alice, &frame("offer", 2, 9, Some("c")).to_string());
    s.hears(&[(s.alice, "error invalid_field")]);
    s.town.say(s.alice, r#"{"type":"call_initiated","callId":"z"}"#);
    s.hears(&[(s.alice, "error missing_field")]);
}

#[test]
fn in_verified_trust_a_call_is_for_participants_and_ends_for_who_is_taken_out() {
    let mut town = Town::new(verified());
    let seven = town.open_member(0, 7, 41, &[7, 8]);
    let eight = town.open_proven(1, 8);
    let nine = town.open_proven(2, 9);
    let say = |town: &mut Town, from, kind: &str, sender: u64, recipient: u64| {
        let mut frame = frame(kind, sender, recipient, Some("c"));
        frame["threadId"] = json!(41);
        town.say(from, &frame.to_string());
    };
    say(&mut town, seven, "offer", 7, 9);
    town.hears_error(seven, "not_participant");
    say(&mut town, seven, "offer", 7, 8);
    say(&mut town, eight, "answer", 8, 7);
    assert_eq!(town.heard().len(), 2);
    // What names the call need not name its thread.
    town.say(eight, r#"{"type":"ice-candidate","candidate":"x","callId":"c"}"#);
    assert_eq!(town.heard().len(), 1);
    town.say(nine, r#"{"type":"call_resume","callId":"c"}"#);
    town.hears_error(nine, "no_such_call");
    // The site takes 8 out of the thread.
    town.pass(61 * SECOND);
    town.heard();
    town.say(seven, r#"{"type":"join_thread","threadId":41}"#);
    let (request, ..) = town.asked_list();
    town.list(request, &[7]);
    let heard = told(&mut town);
    assert!(heard.contains(&(seven, "ended c failed".into())), "{heard:?}");
    assert!(heard.contains(&(eight, "ended c failed".into())), "{heard:?}");
    assert_eq!(town.hub.counts().calls, [0, 0]);
}

// ---- what is on its way when something else happens

#[test]
fn an_offer_that_crosses_the_end_does_not_ring_again() {
    let mut s = Scene::active();
    s.say(s.alice, "call_hangup");
    s.heard();
    s.say(s.phone, "offer");
    s.hears(&[(s.phone, "ended c hangup")]);
    s.is_silent();
}

#[test]
fn what_the_loser_of_two_calls_still_says_of_its_own_is_not_answered() {
    let mut s = Scene::ringing();
    for kind in ["call_initiated", "offer", "ice-candidate", "call_cancelled"] {
        s.say_in(s.phone, kind, Some("d"));
        match kind {
            "call_initiated" => s.hears(&[(s.phone, "ended d glare")]),
            _ => s.town.hears_nothing(),
        }
    }
    // And the one that came first and lost.
    s.say_in(s.phone, "call_initiated", Some("a"));
    s.heard();
    s.say(s.alice, "ice-candidate");
    s.say(s.alice, "offer");
    s.town.hears_nothing();
    assert_eq!(s.town.hub.counts().calls, [1, 0]);
}

#[test]
fn a_cancel_does_not_overtake_a_call_that_waits_for_the_sites_word() {
    let mut town = Town::new(verified());
    let seven = town.open_proven(0, 7);
    let eight = town.open_proven(1, 8);
    town.say(seven, r#"{"type":"call_initiated","recipientId":8,"threadId":41,"callId":"c"}"#);
    town.say(seven, r#"{"type":"call_cancelled","callId":"c"}"#);
    town.hears_nothing();
    let (request, ..) = town.asked_list();
    town.list(request, &[7, 8]);
    let heard = told(&mut town);
    let of_eight = heard.iter().filter(|(to, _)| *to == eight).map(|(_, words)| words.as_str());
    let expected = ["call_initiated", "call_cancelled", "ended c cancelled"];
    assert_eq!(of_eight.collect::<Vec<_>>(), expected);
    assert_eq!(town.hub.counts().calls, [0, 0]);
}

#[test]
fn a_device_that_rang_and_was_lost_hears_that_another_has_answered() {
    let mut s = Scene::ringing();
    s.close(s.laptop);
    s.say(s.phone, "answer");
    s.hears(&[(s.alice, "answer")]);
    let again = s.town.open(3);
    s.town.say(again, r#"{"type":"user_connected","userId":3}"#);
    s.hears(&[(again, "user_connected"), (again, "ended c answered_elsewhere")]);
    let later = s.town.open(4);
    s.town.say(later, r#"{"type":"user_connected","userId":3}"#);
    s.hears(&[(later, "user_connected")]);
}

#[test]
fn who_was_lost_and_is_back_hears_of_the_end_once() {
    let mut s = Scene::active();
    s.close(s.phone);
    let again = s.town.open_as(3, "3");
    s.town.say(again, r#"{"type":"call_resume","callId":"c"}"#);
    s.say(s.alice, "call_hangup");
    s.heard();
    let later = s.town.open(4);
    s.town.say(later, r#"{"type":"user_connected","userId":3}"#);
    s.hears(&[(later, "user_connected")]);
}

#[test]
fn old_apps_that_begin_with_an_offer_ring_all_devices_each_time() {
    let mut s = Scene::new();
    for _ in 0..3 {
        s.say_in(s.alice, "offer", None);
        let heard = s.heard();
        for device in [s.phone, s.laptop] {
            assert!(heard.contains(&(device, "offer".to_owned())), "{heard:?}");
        }
        s.say_in(s.laptop, "answer", None);
        assert!(s.heard().contains(&(s.alice, "answer".to_owned())));
    }
    assert_eq!(s.town.hub.counts().calls, [0, 1]);
}

#[test]
fn who_was_told_busy_hears_it_again_when_they_ask() {
    let calls = CallSettings { reject_when_busy: true, ..CallSettings::default() };
    let mut s = Scene::with(Settings { calls, ..settings() });
    let carol = s.town.open_in(3, "4", "12");
    s.say(s.alice, "offer");
    s.say(s.phone, "answer");
    s.heard();
    s.town.say(carol, &frame("call_initiated", 4, 3, Some("d")).to_string());
    s.town.say(carol, r#"{"type":"call_resume","callId":"d"}"#);
    s.hears(&[(carol, "ended d busy"), (carol, "ended d busy")]);
}

// ---- groups

#[test]
fn who_calls_a_thread_in_which_a_call_is_going_on_is_shown_the_way_to_it() {
    let (mut town, [_, three, _]) = group();
    town.say(three, r#"{"type":"call_initiated","threadId":12,"callId":"a"}"#);
    let heard = town.heard();
    assert_eq!((heard.len(), words(&heard[0].1).as_str()), (1, "ended a glare"));
    assert_eq!((heard[0].0, text(&heard[0].1, "continuesAs")), (three, "g"));
    town.say(three, r#"{"type":"call_joined","callId":"g"}"#);
    assert_eq!(town.heard().len(), 2);
}

#[test]
fn a_group_call_is_pairwise_between_those_who_have_joined() {
    let (mut town, [two, three, four]) = group();
    town.say(three, r#"{"type":"call_joined","callId":"g","clientId":"j"}"#);
    let heard = town.heard();
    let joined = json!({"type": "call_joined", "callId": "g", "threadId": 12, "userId": 3});
    let mut own = joined.clone();
    own["userIds"] = json!([2, 3]);
    own["clientId"] = json!("j");
    assert_eq!(heard, [(three, own), (two, joined)]);
    town.say(three, &frame("offer", 3, 2, Some("g")).to_string());
    let heard = town.heard();
    assert_eq!((heard[0].0, &heard[0].1["userId"]), (two, &json!(3)));
    town.say(two, &frame("answer", 2, 3, Some("g")).to_string());
    assert_eq!(told(&mut town), [(three, "answer".to_owned())]);
    // Who rings is not in.
    town.say(two, &frame("offer", 2, 4, Some("g")).to_string());
    assert_eq!(told(&mut town), [(two, "error not_your_call".to_owned())]);
    town.say(four, &frame("answer", 4, 2, Some("g")).to_string());
    assert_eq!(told(&mut town), [(four, "error not_your_call".to_owned())]);
    town.say(two, r#"{"type":"offer","offer":"o","callId":"g"}"#);
    assert_eq!(told(&mut town), [(two, "error missing_field".to_owned())]);
    town.say(four, r#"{"type":"call_joined","callId":"g"}"#);
    let all: Vec<_> = told(&mut town).into_iter().map(|(to, _)| to).collect();
    assert_eq!(all, [four, two, three]);
    town.say(two, r#"{"type":"call_left","callId":"g"}"#);
    assert_eq!(
        told(&mut town),
        [
            (two, "ended g hangup".to_owned()),
            (three, "left 2 hangup".to_owned()),
            (four, "left 2 hangup".to_owned()),
        ]
    );
}

#[test]
fn a_group_call_goes_on_without_those_who_do_not_come() {
    let (mut town, [two, three, four]) = group();
    town.say(three, r#"{"type":"call_joined","callId":"g"}"#);
    town.heard();
    town.pass(46 * SECOND);
    assert_eq!(
        told(&mut town),
        [
            (four, "ended g no_answer".to_owned()),
            (two, "left 4 no_answer".to_owned()),
            (three, "left 4 no_answer".to_owned()),
        ]
    );
    // But may come later, as may anyone who takes part in the thread.
    town.say(four, r#"{"type":"call_joined","callId":"g","threadId":12}"#);
    assert_eq!(town.heard().len(), 3);
    town.say(four, r#"{"type":"call_hangup","callId":"g"}"#);
    town.say(three, r#"{"type":"call_hangup","callId":"g"}"#);
    let heard = told(&mut town);
    assert_eq!(
        heard.iter().filter(|(_, words)| words.starts_with("ended")).count(),
        3,
        "{heard:?}"
    );
    assert_eq!(town.hub.counts().calls, [0, 0]);
}

#[test]
fn a_group_call_to_which_nobody_comes_ends_for_its_caller() {
    let (mut town, [two, three, four]) = group();
    town.say(three, r#"{"type":"call_rejected","callId":"g"}"#);
    assert_eq!(
        told(&mut town),
        [(three, "ended g rejected".to_owned()), (two, "left 3 rejected".to_owned()),]
    );
    town.pass(46 * SECOND);
    assert_eq!(
        told(&mut town),
        [
            (four, "ended g no_answer".to_owned()),
            (two, "left 4 no_answer".to_owned()),
            (two, "ended g no_answer".to_owned()),
        ]
    );
}

#[test]
fn a_group_is_of_eight_at_most() {
    let mut town = Town::default();
    let devices: Vec<ConnId> =
        (0..9).map(|n| town.open_in(n, &(n + 2).to_string(), "12")).collect();
    town.say(devices[0], r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    town.hears_error(devices[0], "thread_too_large");
    town.say(devices[8], r#"{"type":"leave_thread","threadId":12}"#);
    town.heard();
    town.say(devices[0], r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    for device in &devices[1..8] {
        town.say(*device, r#"{"type":"call_joined","callId":"g"}"#);
    }
    town.heard();
    town.say(devices[8], r#"{"type":"call_joined","callId":"g","threadId":12}"#);
    town.hears_error(devices[8], "call_full");
}

#[test]
fn who_is_lost_in_a_group_call_may_take_their_place_again() {
    let (mut town, [two, three, _]) = group();
    town.say(three, r#"{"type":"call_joined","callId":"g"}"#);
    town.heard();
    town.close(three);
    town.say(two, &frame("offer", 2, 3, Some("g")).to_string());
    town.hears_nothing();
    let again = town.open_as(5, "3");
    town.say(again, r#"{"type":"call_resume","callId":"g"}"#);
    assert_eq!(
        told(&mut town),
        [
            (again, "call_resumed".to_owned()),
            (again, "offer".to_owned()),
            (two, "call_resumed".to_owned()),
        ]
    );
}

// ---- bounds

#[test]
fn attempts_calls_in_all_and_calls_that_ring_have_a_bound() {
    let calls = CallSettings { attempts: 3, ..CallSettings::default() };
    let mut s = Scene::with(Settings { calls, ..settings() });
    for _ in 0..3 {
        s.say(s.alice, "call_initiated");
        s.say(s.alice, "call_cancelled");
    }
    s.heard();
    s.say(s.alice, "call_initiated");
    s.hears(&[(s.alice, "error too_many_calls")]);
    s.say(s.phone, "call_initiated");
    s.hears(&[(s.alice, "call_initiated")]);

    let calls = CallSettings { total: 1, ..CallSettings::default() };
    let mut s = Scene::with(Settings { calls, ..settings() });
    s.say(s.alice, "call_initiated");
    let carol = s.town.open_as(3, "4");
    s.heard();
    s.town.say(carol, &frame("call_initiated", 4, 2, Some("d")).to_string());
    s.hears(&[(carol, "error too_many_calls")]);

    let mut town = Town::default();
    let bob = town.open_as(0, "3");
    for caller in 0..9 {
        let user = 10 + u64::from(caller);
        let conn = town.open_as(1 + caller, &user.to_string());
        town.say(conn, &frame("call_initiated", user, 3, None).to_string());
        match caller {
            8 => drop(town.hears_error(conn, "too_many_calls")),
            _ => assert_eq!(town.heard().len(), 1),
        }
    }
    town.say(bob, &frame("call_initiated", 3, 99, None).to_string());
    town.hears_error(bob, "too_many_calls");
}

#[test]
fn of_more_answered_calls_than_a_user_has_the_oldest_ends() {
    let mut town = Town::default();
    let bob = town.open_as(0, "3");
    for caller in 0..5 {
        let user = 10 + u64::from(caller);
        let conn = town.open_as(1 + caller, &user.to_string());
        let call = format!("c{caller}");
        town.pass(SECOND);
        town.say(conn, &frame("offer", user, 3, Some(&call)).to_string());
        town.heard();
        town.say(bob, &frame("answer", 3, user, Some(&call)).to_string());
        let heard = told(&mut town);
        match caller {
            4 => assert!(heard.contains(&(bob, "ended c0 hangup".to_owned())), "{heard:?}"),
            _ => assert_eq!(heard, [(conn, "answer".to_owned())]),
        }
    }
    assert_eq!(town.hub.counts().calls, [0, 4]);
}

#[test]
fn as_much_as_may_be_is_kept_for_a_lost_device_and_the_other_is_told_of_the_rest() {
    let mut s = Scene::active();
    s.close(s.phone);
    for _ in 0..128 {
        s.say(s.alice, "ice-candidate");
        s.town.hears_nothing();
    }
    s.say(s.alice, "ice-candidate");
    s.hears(&[(s.alice, "error recipient_offline")]);
}

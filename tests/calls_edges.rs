//! Calls when frames cross, devices are lost at the wrong moment, or bounds are met.

#[path = "support/ears.rs"]
mod ears;
#[path = "support/town.rs"]
mod town;

use std::time::Duration;

use buddyline::hub::interface::{CallSettings, ConnId, Failure, Settings};
use ears::{group, hears, told};
use town::{Town, settings, verified};

const SECOND: Duration = Duration::from_secs(1);

/// Alice (2), and Bob (3) on a phone and a laptop.
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
        let [alice, phone, laptop] =
            [(0, "2"), (1, "3"), (2, "3")].map(|(slot, user)| town.open_as(slot, user));
        Scene { town, alice, phone, laptop }
    }

    /// Call "c" of Alice's rings at Bob's.
    fn ringing() -> Scene {
        let mut s = Scene::new();
        s.say(s.alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
        s.town.heard();
        s
    }

    /// The same, answered on the phone.
    fn active() -> Scene {
        let mut s = Scene::ringing();
        s.say(s.phone, r#"{"type":"answer","answer":"a","callId":"c"}"#);
        s.town.heard();
        s
    }

    fn say(&mut self, from: ConnId, frame: &str) {
        self.town.say(from, frame);
    }

    fn close(&mut self, conn: ConnId) {
        self.town.close(conn);
        self.town.hears_nothing();
    }

    #[track_caller]
    fn hears(&mut self, expected: &[(ConnId, &str)]) {
        hears(&mut self.town, expected);
    }
}

// ---- what crosses the answer

#[test]
fn a_caller_who_rings_again_when_it_is_answered_already_does_not_end_the_call() {
    let mut s = Scene::active();
    let again = r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#;
    s.say(s.alice, again);
    s.town.hears_nothing();
    s.say(s.phone, r#"{"type":"ice-candidate","candidate":"x","callId":"c"}"#);
    s.hears(&[(s.alice, "ice-candidate")]);
    // Another device of hers is not in the call.
    let tablet = s.town.open_as(3, "2");
    s.say(tablet, again);
    s.hears(&[(tablet, "error not_your_call")]);
}

#[test]
fn a_caller_who_was_lost_at_the_answer_and_rings_again_gets_it() {
    let mut s = Scene::ringing();
    s.close(s.alice);
    s.say(s.phone, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    s.hears(&[(s.laptop, "ended c answered_elsewhere")]);
    let back = s.town.open_as(3, "2");
    s.say(back, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    s.hears(&[(back, "answer")]);
    s.say(s.phone, r#"{"type":"ice-candidate","candidate":"x","callId":"c"}"#);
    s.hears(&[(back, "ice-candidate")]);
}

#[test]
fn who_declines_when_the_call_is_answered_elsewhere_does_not_end_it() {
    for kind in ["call_rejected", "call_busy", "call_ringing"] {
        let mut s = Scene::active();
        s.close(s.phone);
        s.say(s.laptop, &format!(r#"{{"type":"{kind}","callId":"c"}}"#));
        match kind {
            "call_ringing" => s.town.hears_nothing(),
            _ => s.hears(&[(s.laptop, "error not_your_call")]),
        }
        let back = s.town.open_as(3, "3");
        s.say(back, r#"{"type":"call_resume","callId":"c"}"#);
        s.hears(&[(back, "call_resumed"), (s.alice, "call_resumed")]);
    }
}

#[test]
fn a_caller_who_is_lost_when_it_is_answered_has_as_long_as_in_any_answered_call() {
    let mut s = Scene::ringing();
    s.close(s.alice);
    s.town.pass(4 * SECOND);
    s.say(s.phone, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    s.town.heard();
    s.town.pass(29 * SECOND);
    s.town.heard();
    let back = s.town.open_as(3, "2");
    s.say(back, r#"{"type":"call_resume","callId":"c"}"#);
    s.hears(&[(back, "call_resumed"), (back, "answer"), (s.phone, "call_resumed")]);
}

// ---- who was lost and is back

#[test]
fn a_device_that_was_lost_and_rings_again_has_missed_nothing() {
    let mut s = Scene::ringing();
    s.close(s.phone);
    let back = s.town.open(3);
    s.say(back, r#"{"type":"user_connected","userId":3}"#);
    s.hears(&[(back, "user_connected"), (back, "call_initiated")]);
    s.say(back, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    s.town.heard();
    // Its network changes once more, and the server does not know yet.
    let again = s.town.open(4);
    s.say(again, r#"{"type":"user_connected","userId":3}"#);
    s.hears(&[(again, "user_connected")]);
    s.say(again, r#"{"type":"call_hangup","callId":"c"}"#);
    s.hears(&[(again, "error not_your_call")]);
}

#[test]
fn of_two_devices_that_were_lost_the_one_that_stays_away_is_told() {
    let mut s = Scene::ringing();
    s.close(s.phone);
    s.close(s.laptop);
    let back = s.town.open_as(3, "3");
    s.say(back, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    s.town.heard();
    let laptop = s.town.open(4);
    s.say(laptop, r#"{"type":"user_connected","userId":3}"#);
    s.hears(&[(laptop, "user_connected"), (laptop, "ended c answered_elsewhere")]);
}

#[test]
fn who_is_back_in_a_group_call_hears_who_has_left_meanwhile() {
    let (mut town, [two, three, four]) = group();
    town.say(three, r#"{"type":"call_joined","callId":"g"}"#);
    town.say(four, r#"{"type":"call_joined","callId":"g"}"#);
    town.heard();
    town.close(three);
    town.say(four, r#"{"type":"call_left","callId":"g"}"#);
    hears(&mut town, &[(four, "ended g hangup"), (two, "left 4 hangup")]);
    let back = town.open_as(5, "3");
    town.say(back, r#"{"type":"call_resume","callId":"g"}"#);
    hears(&mut town, &[(back, "call_resumed"), (back, "left 4 hangup"), (two, "call_resumed")]);
}

// ---- groups

#[test]
fn who_rings_in_a_group_is_not_its_caller_when_the_caller_has_left() {
    let (mut town, [two, three, four]) = group();
    town.say(four, r#"{"type":"call_joined","callId":"g"}"#);
    town.say(two, r#"{"type":"call_left","callId":"g"}"#);
    town.heard();
    town.say(three, r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    hears(&mut town, &[(three, "error not_your_call")]);
    town.say(three, r#"{"type":"call_joined","callId":"g"}"#);
    hears(&mut town, &[(three, "call_joined"), (four, "call_joined")]);
}

#[test]
fn of_more_answered_group_calls_than_a_user_has_the_oldest_ends_for_its_caller_too() {
    let mut town = Town::new(Settings { joins_per_connection: 10, ..settings() });
    let alice = town.open_as(0, "2");
    for n in 0..5 {
        let other = town.open_in(n + 1, &(n + 10).to_string(), &n.to_string());
        town.say(alice, &format!(r#"{{"type":"join_thread","threadId":{n}}}"#));
        town.pass(SECOND);
        town.say(alice, &format!(r#"{{"type":"call_initiated","threadId":{n},"callId":"g{n}"}}"#));
        town.heard();
        town.say(other, &format!(r#"{{"type":"call_joined","callId":"g{n}"}}"#));
        let heard = told(&mut town);
        let ended = heard.contains(&(alice, "ended g0 hangup".to_owned()));
        assert_eq!(ended, n == 4, "{heard:?}");
    }
    assert_eq!(town.hub.counts().calls, [0, 4]);
}

#[test]
fn a_group_call_that_rings_no_more_keeps_nothing_for_who_would_ring() {
    // Else a few hundred long calls would leave no room for others.
    let long = "x".repeat(60_000);
    let begin = format!(r#"{{"type":"call_initiated","threadId":12,"callId":"g","x":"{long}"}}"#);
    let mut town = Town::default();
    let [two, three, four] = [2, 3, 4].map(|user| town.open_in(user - 2, &user.to_string(), "12"));
    town.say(two, &begin);
    town.say(three, r#"{"type":"call_joined","callId":"g"}"#);
    town.say(four, r#"{"type":"call_joined","callId":"g"}"#);
    town.close(three);
    town.heard();
    let offer = format!(r#"{{"type":"offer","offer":"{long}","recipientId":3,"callId":"g"}}"#);
    town.say(two, &offer);
    town.hears_nothing();
}

// ---- both at once

#[test]
fn a_call_that_another_has_given_way_to_is_not_refused_as_busy() {
    let calls = CallSettings { reject_when_busy: true, ..CallSettings::default() };
    let mut s = Scene::with(Settings { calls, ..settings() });
    let carol = s.town.open_as(3, "4");
    s.say(s.alice, r#"{"type":"offer","offer":"o","recipientId":4,"callId":"z"}"#);
    s.say(carol, r#"{"type":"answer","answer":"a","callId":"z"}"#);
    s.town.heard();
    s.say(s.alice, r#"{"type":"call_initiated","recipientId":3,"callId":"y"}"#);
    s.town.heard();
    s.say(s.phone, r#"{"type":"call_initiated","recipientId":2,"callId":"b"}"#);
    s.hears(&[
        (s.alice, "ended y glare"),
        (s.phone, "ended y glare"),
        (s.laptop, "ended y glare"),
        (s.alice, "call_initiated"),
    ]);
}

#[test]
fn who_loses_by_glare_again_and_again_has_called_too_often() {
    // Else one user could have the ends of all other calls forgotten.
    let calls = CallSettings { attempts: 3, ..CallSettings::default() };
    let mut s = Scene::with(Settings { calls, ..settings() });
    s.say(s.alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    s.town.heard();
    for name in ["", r#","callId":"d""#, r#","callId":"e""#] {
        s.say(s.phone, &format!(r#"{{"type":"call_initiated","recipientId":2{name}}}"#));
        assert_eq!(s.town.heard()[0].1["reason"], "glare");
    }
    for name in ["", r#","callId":"f""#] {
        s.say(s.phone, &format!(r#"{{"type":"call_initiated","recipientId":2{name}}}"#));
        s.hears(&[(s.phone, "error too_many_calls")]);
    }
    let (mut town, [_, three, _]) = group();
    for _ in 0..30 {
        town.say(three, r#"{"type":"call_initiated","threadId":12}"#);
        assert_eq!(town.heard()[0].1["reason"], "glare");
    }
    town.say(three, r#"{"type":"call_initiated","threadId":12}"#);
    hears(&mut town, &[(three, "error too_many_calls")]);
}

// ---- verified trust

#[test]
fn what_names_a_call_that_waits_for_the_sites_word_waits_behind_it() {
    let mut town = Town::new(verified());
    let seven = town.open_proven(0, 7);
    let eight = town.open_proven(1, 8);
    town.say(seven, r#"{"type":"offer","offer":"o","recipientId":8,"threadId":41,"callId":"c"}"#);
    town.say(seven, r#"{"type":"ice-candidate","candidate":"1","callId":"c"}"#);
    town.say(seven, r#"{"type":"ice-candidate","candidate":"2","recipientId":8,"callId":"c"}"#);
    town.hears_nothing();
    let (request, ..) = town.asked_list();
    town.list(request, &[7, 8]);
    hears(&mut town, &[(eight, "offer")]);
    town.say(eight, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    hears(&mut town, &[(seven, "answer"), (eight, "ice-candidate"), (eight, "ice-candidate")]);
}

#[test]
fn who_may_no_longer_be_in_the_thread_as_the_site_says_to_them_is_out_of_its_calls() {
    let mut town = Town::new(verified());
    let seven = town.open_member(0, 7, 41, &[7, 8]);
    let eight = town.open_proven(1, 8);
    let begin = r#"{"type":"offer","offer":"o","recipientId":8,"threadId":41,"callId":"c"}"#;
    town.say(seven, begin);
    town.say(eight, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    town.pass(61 * SECOND);
    town.heard();
    town.say(seven, r#"{"type":"ice-candidate","candidate":"1","callId":"c"}"#);
    let (request, ..) = town.asked_list();
    town.fail(request, Failure::NotParticipant);
    let heard = told(&mut town);
    for conn in [seven, eight] {
        assert!(heard.contains(&(conn, "ended c failed".to_owned())), "{heard:?}");
    }
}

// ---- bounds

#[test]
fn what_all_calls_together_keep_has_a_bound() {
    let mut town = Town::default();
    let large = "o".repeat(60_000);
    let calls = 300;
    for n in 0..calls {
        let caller = town.open_as(2 * n, &(1_000 + n).to_string());
        town.open_as(2 * n + 1, &(2_000 + n).to_string());
        let callee = 2_000 + n;
        let frame = format!(r#"{{"type":"offer","offer":"{large}","recipientId":{callee}}}"#);
        town.say(caller, &frame);
        assert_eq!(town.heard().len(), 1, "it rings, kept or not");
    }
    for (user, expected) in [(2_000, 2), (2_000 + calls - 1, 1)] {
        let conn = town.open(2 * calls + user);
        town.say(conn, &format!(r#"{{"type":"user_connected","userId":{user}}}"#));
        assert_eq!(town.heard().len(), expected, "{user}");
    }
}

#[test]
fn a_call_that_began_first_and_is_answered_last_is_not_the_one_that_ends() {
    let mut town = Town::default();
    let bob = town.open_as(0, "3");
    let callers: Vec<ConnId> = (0..5).map(|n| town.open_as(1 + n, &(10 + n).to_string())).collect();
    for (n, caller) in callers.iter().enumerate() {
        let offer = format!(r#"{{"type":"offer","offer":"o","recipientId":3,"callId":"c{n}"}}"#);
        town.say(*caller, &offer);
        town.pass(SECOND);
    }
    town.heard();
    for n in [1, 2, 3, 4, 0] {
        town.say(bob, &format!(r#"{{"type":"answer","answer":"a","callId":"c{n}"}}"#));
    }
    let heard = told(&mut town);
    let ended: Vec<_> = heard.iter().filter(|(_, words)| words.starts_with("ended")).collect();
    let words = "ended c1 hangup".to_owned();
    assert_eq!(ended, [&(callers[1], words.clone()), &(bob, words)], "{heard:?}");
}

#[test]
fn nobody_hears_how_a_call_ended_that_was_not_theirs() {
    let mut s = Scene::active();
    let mallory = s.town.open_as(3, "9");
    s.say(s.alice, r#"{"type":"call_hangup","callId":"c"}"#);
    s.town.heard();
    s.say(mallory, r#"{"type":"call_resume","callId":"c"}"#);
    s.hears(&[(mallory, "error no_such_call")]);
}

//! Edge cases of calls: frames that cross, devices lost at a bad moment, limits that are reached.

use std::time::Duration;

use buddyline::hub::interface::{CallSettings, ConnId, Failure, Settings};

use crate::support::call_frames::{assert_received, start_group_call, summaries};
use crate::support::harness::{HubHarness, settings, verified};

const SECOND: Duration = Duration::from_secs(1);

/// Alice (2), and Bob (3) on a phone and a laptop.
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
        let [alice, phone, laptop] =
            [(0, "2"), (1, "3"), (2, "3")].map(|(slot, user)| harness.open_as(slot, user));
        CallFixture { harness, alice, phone, laptop }
    }

    /// Alice's call "c" rings on Bob's devices.
    fn ringing() -> CallFixture {
        let mut s = CallFixture::new();
        s.send(s.alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
        s.harness.received();
        s
    }

    /// Call "c", answered on the phone.
    fn active() -> CallFixture {
        let mut s = CallFixture::ringing();
        s.send(s.phone, r#"{"type":"answer","answer":"a","callId":"c"}"#);
        s.harness.received();
        s
    }

    fn send(&mut self, from: ConnId, frame: &str) {
        self.harness.send(from, frame);
    }

    fn close(&mut self, conn: ConnId) {
        self.harness.close(conn);
        self.harness.assert_nothing_received();
    }

    #[track_caller]
    fn assert_received(&mut self, expected: &[(ConnId, &str)]) {
        assert_received(&mut self.harness, expected);
    }
}

// ---- frames that cross the answer

#[test]
fn repeated_ring_after_answer_does_not_end_the_call() {
    let mut s = CallFixture::active();
    let again = r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#;
    s.send(s.alice, again);
    s.harness.assert_nothing_received();
    s.send(s.phone, r#"{"type":"ice-candidate","candidate":"x","callId":"c"}"#);
    s.assert_received(&[(s.alice, "ice-candidate")]);
    // Another device of Alice is not in the call.
    let tablet = s.harness.open_as(3, "2");
    s.send(tablet, again);
    s.assert_received(&[(tablet, "error not_your_call")]);
}

#[test]
fn caller_lost_at_the_answer_gets_it_on_ringing_again() {
    let mut s = CallFixture::ringing();
    s.close(s.alice);
    s.send(s.phone, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    s.assert_received(&[(s.laptop, "ended c answered_elsewhere")]);
    let back = s.harness.open_as(3, "2");
    s.send(back, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    s.assert_received(&[(back, "answer")]);
    s.send(s.phone, r#"{"type":"ice-candidate","candidate":"x","callId":"c"}"#);
    s.assert_received(&[(back, "ice-candidate")]);
}

#[test]
fn decline_after_answer_elsewhere_does_not_end_the_call() {
    for kind in ["call_rejected", "call_busy", "call_ringing"] {
        let mut s = CallFixture::active();
        s.close(s.phone);
        s.send(s.laptop, &format!(r#"{{"type":"{kind}","callId":"c"}}"#));
        match kind {
            "call_ringing" => s.harness.assert_nothing_received(),
            _ => s.assert_received(&[(s.laptop, "error not_your_call")]),
        }
        let back = s.harness.open_as(3, "3");
        s.send(back, r#"{"type":"call_resume","callId":"c"}"#);
        s.assert_received(&[(back, "call_resumed"), (s.alice, "call_resumed")]);
    }
}

#[test]
fn caller_lost_at_the_answer_has_the_full_grace() {
    let mut s = CallFixture::ringing();
    s.close(s.alice);
    s.harness.advance(4 * SECOND);
    s.send(s.phone, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    s.harness.received();
    s.harness.advance(29 * SECOND);
    s.harness.received();
    let back = s.harness.open_as(3, "2");
    s.send(back, r#"{"type":"call_resume","callId":"c"}"#);
    s.assert_received(&[(back, "call_resumed"), (back, "answer"), (s.phone, "call_resumed")]);
}

// ---- lost devices that come back

#[test]
fn lost_device_that_rings_again_gets_all_kept_frames() {
    let mut s = CallFixture::ringing();
    s.close(s.phone);
    let back = s.harness.open(3);
    s.send(back, r#"{"type":"user_connected","userId":3}"#);
    s.assert_received(&[(back, "user_connected"), (back, "call_initiated")]);
    s.send(back, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    s.harness.received();
    // Its network changes again, and the server has not noticed the old connection's end yet.
    let again = s.harness.open(4);
    s.send(again, r#"{"type":"user_connected","userId":3}"#);
    s.assert_received(&[(again, "user_connected")]);
    s.send(again, r#"{"type":"call_hangup","callId":"c"}"#);
    s.assert_received(&[(again, "error not_your_call")]);
}

#[test]
fn of_two_lost_devices_the_absent_one_is_told_later() {
    let mut s = CallFixture::ringing();
    s.close(s.phone);
    s.close(s.laptop);
    let back = s.harness.open_as(3, "3");
    s.send(back, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    s.harness.received();
    let laptop = s.harness.open(4);
    s.send(laptop, r#"{"type":"user_connected","userId":3}"#);
    s.assert_received(&[(laptop, "user_connected"), (laptop, "ended c answered_elsewhere")]);
}

#[test]
fn rejoining_group_member_learns_who_has_left() {
    let (mut harness, [two, three, four]) = start_group_call();
    harness.send(three, r#"{"type":"call_joined","callId":"g"}"#);
    harness.send(four, r#"{"type":"call_joined","callId":"g"}"#);
    harness.received();
    harness.close(three);
    harness.send(four, r#"{"type":"call_left","callId":"g"}"#);
    assert_received(&mut harness, &[(four, "ended g hangup"), (two, "left 4 hangup")]);
    let back = harness.open_as(5, "3");
    harness.send(back, r#"{"type":"call_resume","callId":"g"}"#);
    assert_received(
        &mut harness,
        &[(back, "call_resumed"), (back, "left 4 hangup"), (two, "call_resumed")],
    );
}

// ---- groups

#[test]
fn ringing_group_member_does_not_become_the_caller() {
    let (mut harness, [two, three, four]) = start_group_call();
    harness.send(four, r#"{"type":"call_joined","callId":"g"}"#);
    harness.send(two, r#"{"type":"call_left","callId":"g"}"#);
    harness.received();
    harness.send(three, r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    assert_received(&mut harness, &[(three, "error not_your_call")]);
    harness.send(three, r#"{"type":"call_joined","callId":"g"}"#);
    assert_received(&mut harness, &[(three, "call_joined"), (four, "call_joined")]);
}

#[test]
fn oldest_group_call_over_limit_ends_for_its_caller_too() {
    let mut harness = HubHarness::new(Settings { joins_per_connection: 10, ..settings() });
    let alice = harness.open_as(0, "2");
    for n in 0..5 {
        let other = harness.open_in(n + 1, &(n + 10).to_string(), &n.to_string());
        harness.send(alice, &format!(r#"{{"type":"join_thread","threadId":{n}}}"#));
        harness.advance(SECOND);
        harness
            .send(alice, &format!(r#"{{"type":"call_initiated","threadId":{n},"callId":"g{n}"}}"#));
        harness.received();
        harness.send(other, &format!(r#"{{"type":"call_joined","callId":"g{n}"}}"#));
        let received = summaries(&mut harness);
        let ended = received.contains(&(alice, "ended g0 hangup".to_owned()));
        assert_eq!(ended, n == 4, "{received:?}");
    }
    assert_eq!(harness.hub.counts().calls, [0, 4]);
}

#[test]
fn group_call_drops_kept_frames_once_ringing_ends() {
    // Otherwise a few hundred long calls would use up the buffer for kept frames.
    let long = "x".repeat(60_000);
    let begin = format!(r#"{{"type":"call_initiated","threadId":12,"callId":"g","x":"{long}"}}"#);
    let mut harness = HubHarness::default();
    let [two, three, four] =
        [2, 3, 4].map(|user| harness.open_in(user - 2, &user.to_string(), "12"));
    harness.send(two, &begin);
    harness.send(three, r#"{"type":"call_joined","callId":"g"}"#);
    harness.send(four, r#"{"type":"call_joined","callId":"g"}"#);
    harness.close(three);
    harness.received();
    let offer = format!(r#"{{"type":"offer","offer":"{long}","recipientId":3,"callId":"g"}}"#);
    harness.send(two, &offer);
    harness.assert_nothing_received();
}

// ---- glare: both users call each other at once

#[test]
fn call_winning_glare_is_not_refused_as_busy() {
    let calls = CallSettings { reject_when_busy: true, ..CallSettings::default() };
    let mut s = CallFixture::with(Settings { calls, ..settings() });
    let carol = s.harness.open_as(3, "4");
    s.send(s.alice, r#"{"type":"offer","offer":"o","recipientId":4,"callId":"z"}"#);
    s.send(carol, r#"{"type":"answer","answer":"a","callId":"z"}"#);
    s.harness.received();
    s.send(s.alice, r#"{"type":"call_initiated","recipientId":3,"callId":"y"}"#);
    s.harness.received();
    s.send(s.phone, r#"{"type":"call_initiated","recipientId":2,"callId":"b"}"#);
    s.assert_received(&[
        (s.alice, "ended y glare"),
        (s.phone, "ended y glare"),
        (s.laptop, "ended y glare"),
        (s.alice, "call_initiated"),
    ]);
}

#[test]
fn repeated_glare_losses_count_as_call_attempts() {
    // Otherwise one user's calls could evict the remembered ends of all other calls.
    let calls = CallSettings { attempts: 3, ..CallSettings::default() };
    let mut s = CallFixture::with(Settings { calls, ..settings() });
    s.send(s.alice, r#"{"type":"call_initiated","recipientId":3,"callId":"c"}"#);
    s.harness.received();
    for name in ["", r#","callId":"d""#, r#","callId":"e""#] {
        s.send(s.phone, &format!(r#"{{"type":"call_initiated","recipientId":2{name}}}"#));
        assert_eq!(s.harness.received()[0].1["reason"], "glare");
    }
    for name in ["", r#","callId":"f""#] {
        s.send(s.phone, &format!(r#"{{"type":"call_initiated","recipientId":2{name}}}"#));
        s.assert_received(&[(s.phone, "error too_many_calls")]);
    }
    let (mut harness, [_, three, _]) = start_group_call();
    for _ in 0..30 {
        harness.send(three, r#"{"type":"call_initiated","threadId":12}"#);
        assert_eq!(harness.received()[0].1["reason"], "glare");
    }
    harness.send(three, r#"{"type":"call_initiated","threadId":12}"#);
    assert_received(&mut harness, &[(three, "error too_many_calls")]);
}

// ---- verified trust

#[test]
fn frames_for_a_call_held_for_the_site_queue_behind_it() {
    let mut harness = HubHarness::new(verified());
    let seven = harness.open_proven(0, 7);
    let eight = harness.open_proven(1, 8);
    harness
        .send(seven, r#"{"type":"offer","offer":"o","recipientId":8,"threadId":41,"callId":"c"}"#);
    harness.send(seven, r#"{"type":"ice-candidate","candidate":"1","callId":"c"}"#);
    harness.send(seven, r#"{"type":"ice-candidate","candidate":"2","recipientId":8,"callId":"c"}"#);
    harness.assert_nothing_received();
    let (request, ..) = harness.next_list();
    harness.list(request, &[7, 8]);
    assert_received(&mut harness, &[(eight, "offer")]);
    harness.send(eight, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    assert_received(
        &mut harness,
        &[(seven, "answer"), (eight, "ice-candidate"), (eight, "ice-candidate")],
    );
}

#[test]
fn removed_participant_is_removed_from_the_threads_calls() {
    let mut harness = HubHarness::new(verified());
    let seven = harness.open_member(0, 7, 41, &[7, 8]);
    let eight = harness.open_proven(1, 8);
    let begin = r#"{"type":"offer","offer":"o","recipientId":8,"threadId":41,"callId":"c"}"#;
    harness.send(seven, begin);
    harness.send(eight, r#"{"type":"answer","answer":"a","callId":"c"}"#);
    harness.advance(61 * SECOND);
    harness.received();
    harness.send(seven, r#"{"type":"ice-candidate","candidate":"1","callId":"c"}"#);
    let (request, ..) = harness.next_list();
    harness.fail(request, Failure::NotParticipant);
    let received = summaries(&mut harness);
    for conn in [seven, eight] {
        assert!(received.contains(&(conn, "ended c failed".to_owned())), "{received:?}");
    }
}

// ---- bounds

#[test]
fn bytes_kept_for_all_calls_are_bounded() {
    let mut harness = HubHarness::default();
    let large = "o".repeat(60_000);
    let calls = 300;
    for n in 0..calls {
        let caller = harness.open_as(2 * n, &(1_000 + n).to_string());
        harness.open_as(2 * n + 1, &(2_000 + n).to_string());
        let callee = 2_000 + n;
        let frame = format!(r#"{{"type":"offer","offer":"{large}","recipientId":{callee}}}"#);
        harness.send(caller, &frame);
        assert_eq!(harness.received().len(), 1, "the call rings whether or not its frame is kept");
    }
    for (user, expected) in [(2_000, 2), (2_000 + calls - 1, 1)] {
        let conn = harness.open(2 * calls + user);
        harness.send(conn, &format!(r#"{{"type":"user_connected","userId":{user}}}"#));
        assert_eq!(harness.received().len(), expected, "{user}");
    }
}

#[test]
fn oldest_call_is_chosen_by_answer_time() {
    let mut harness = HubHarness::default();
    let bob = harness.open_as(0, "3");
    let callers: Vec<ConnId> =
        (0..5).map(|n| harness.open_as(1 + n, &(10 + n).to_string())).collect();
    for (n, caller) in callers.iter().enumerate() {
        let offer = format!(r#"{{"type":"offer","offer":"o","recipientId":3,"callId":"c{n}"}}"#);
        harness.send(*caller, &offer);
        harness.advance(SECOND);
    }
    harness.received();
    for n in [1, 2, 3, 4, 0] {
        harness.send(bob, &format!(r#"{{"type":"answer","answer":"a","callId":"c{n}"}}"#));
    }
    let received = summaries(&mut harness);
    let ended: Vec<_> =
        received.iter().filter(|(_, summary)| summary.starts_with("ended")).collect();
    let summary = "ended c1 hangup".to_owned();
    assert_eq!(ended, [&(callers[1], summary.clone()), &(bob, summary)], "{received:?}");
}

#[test]
fn outsiders_do_not_learn_how_a_call_ended() {
    let mut s = CallFixture::active();
    let mallory = s.harness.open_as(3, "9");
    s.send(s.alice, r#"{"type":"call_hangup","callId":"c"}"#);
    s.harness.received();
    s.send(mallory, r#"{"type":"call_resume","callId":"c"}"#);
    s.assert_received(&[(mallory, "error no_such_call")]);
}

//! Clock jumps, as after a suspend, a wrong clock at boot, or a change by the operator: no connection
//! is lost, and everything due is done.

use std::time::Duration;

use buddyline::hub::interface::{ConnId, Failure};
use serde_json::Value;

use crate::support::harness::{HubHarness, verified};

const S: Duration = Duration::from_secs(1);
const YEAR_S: u64 = 365 * 24 * 3600;
const TYPING: &str = r#"{"type":"typing","threadId":41}"#;

fn send(id: &str) -> String {
    format!(r#"{{"type":"send_message","threadId":41,"message":"x","clientId":"{id}"}}"#)
}

fn frames_to<'a>(received: &'a [(ConnId, Value)], conn: ConnId, kind: &str) -> Vec<&'a Value> {
    received.iter().filter(|(to, f)| *to == conn && f["type"] == kind).map(|(_, f)| f).collect()
}

/// Opens connections of two users in one thread, with tokens that expire in an hour.
fn open_two(harness: &mut HubHarness) -> (ConnId, ConnId) {
    let expires = Some(harness.now.unix_s + 3600);
    let conns = [(0, 7), (1, 8)].map(|(slot, user)| {
        let conn = harness.open_with(slot, &format!("token-of-{user}"));
        let (request, _) = harness.next_proof();
        harness.prove(request, user, expires);
        harness.send(conn, r#"{"type":"join_thread","threadId":41}"#);
        if let Some((request, _)) = harness.try_next_list() {
            harness.list(request, &[7, 8]);
        }
        conn
    });
    harness.received();
    (conns[0], conns[1])
}

/// Asserts that typing and a message of `from` reach `to`.
fn assert_working(harness: &mut HubHarness, from: ConnId, to: ConnId) {
    harness.send(from, TYPING);
    if let Some((request, _)) = harness.try_next_list() {
        harness.list(request, &[7, 8]);
    }
    assert_eq!(frames_to(&harness.received(), to, "typing").len(), 1);
    harness.send(from, &send("after"));
    let (request, _) = harness.next_post();
    harness.store_with_participants(request, 41, 7, Some(&[7, 8]));
    assert_eq!(frames_to(&harness.received(), to, "message").len(), 1);
}

#[test]
fn wall_clock_jump_back_disconnects_nobody() {
    for date in [0, 1, 1_800_000_000 - 10 * YEAR_S] {
        let mut harness = HubHarness::new(verified());
        let (seven, eight) = open_two(&mut harness);
        harness.now.unix_s = date;
        harness.advance(Duration::ZERO);
        for _ in 0..10 {
            harness.advance(S);
        }
        assert_eq!(harness.closed(), [], "{date}");
        assert_working(&mut harness, seven, eight);
    }
}

#[test]
fn wall_clock_jump_forward_only_expires_tokens() {
    for years in [1, 50, 5_000] {
        let mut harness = HubHarness::new(verified());
        let (seven, eight) = open_two(&mut harness);
        harness.now.unix_s += years * YEAR_S;
        harness.send(seven, &send("late"));
        // More than an hour passes on the monotonic clock, which deadlines use.
        let mut errors = Vec::new();
        for _ in 0..3_700 {
            harness.advance(S);
            while let Some((request, _)) = harness.try_next_list() {
                harness.list(request, &[7, 8]);
            }
            errors.extend(harness.received().into_iter().filter(|(_, f)| f["type"] == "error"));
        }
        let expired = errors.iter().filter(|(_, f)| f["code"] == "token_expired").count();
        assert!(expired >= 2, "both users get the error: {errors:?}");
        let closed = harness.closed();
        assert!(closed.contains(&(seven, 4401)) && closed.contains(&(eight, 4401)), "{closed:?}");
    }
}

#[test]
fn wall_clock_at_maximum_is_handled() {
    let mut harness = HubHarness::new(verified());
    let (seven, _) = open_two(&mut harness);
    for date in [u64::MAX, u64::MAX - 1, 0, u64::MAX / 2, 1_800_000_000] {
        harness.now.unix_s = date;
        harness.hub.advance(harness.now);
        harness.take_effects();
        harness.send(seven, TYPING);
        harness.send(seven, &send("x"));
        let late = harness.open_with(5, "token-of-9");
        if let Some(request) = harness.try_next_proof() {
            harness.prove(request, 9, Some(u64::MAX));
        }
        harness.close(late);
    }
}

/// A virtual machine that was paused: its wall clock went on, its monotonic clock did not.
#[test]
fn wall_clock_jumps_do_not_fire_timers() {
    let mut harness = HubHarness::new(verified());
    let (seven, eight) = open_two(&mut harness);
    harness.send(seven, TYPING);
    harness.received();
    for date in [YEAR_S, 1_800_000_000 + 30, 0, 1_800_000_000 + 3_599] {
        harness.now.unix_s = date;
        while harness.hub.advance(harness.now) {
            harness.take_effects();
        }
    }
    assert_eq!(
        frames_to(&harness.received(), eight, "typing").len(),
        0,
        "no deadline uses the wall clock"
    );
    assert_eq!(harness.closed(), []);
    harness.advance(3 * S);
    assert_eq!(frames_to(&harness.received(), eight, "typing").len(), 1, "the typing has expired");
    harness.now.unix_s = 1_800_000_000;
    assert_working(&mut harness, seven, eight);
}

/// A laptop that slept for a week, so that everything is due at once.
#[test]
fn monotonic_jump_by_a_week_fires_everything_due() {
    let mut harness = HubHarness::new(verified());
    let (seven, eight) = open_two(&mut harness);
    harness.send(seven, TYPING);
    harness.send(seven, &send("asleep"));
    let (request, _) = harness.next_post();
    let stranger = harness.open(2);
    harness.close(seven);
    harness.received();
    harness.advance(7 * 24 * 3600 * S);
    let received = harness.received();
    assert_eq!(frames_to(&received, eight, "user_disconnected").len(), 1, "{received:?}");
    assert!(harness.closed().contains(&(stranger, 1008)));
    assert_eq!(harness.hub.counts().deliveries, 1, "the unanswered message is in flight");
    harness.fail(request, Failure::NotStored);
    assert_eq!(harness.hub.counts().deliveries, 0);
}

#[test]
fn draining_hub_refuses_new_work_and_announces_no_departures() {
    let mut harness = HubHarness::new(verified());
    let (seven, eight) = open_two(&mut harness);
    harness.send(seven, &send("before"));
    let (request, _) = harness.next_post();
    assert!(harness.hub.is_awaiting_outcome(seven) && !harness.hub.is_awaiting_outcome(eight));
    harness.hub.begin_drain();
    harness.send(seven, &send("after"));
    harness.assert_error(seven, "not_stored");
    assert_eq!(harness.pending_asks(), 0, "the message was not posted");
    harness.send(seven, TYPING);
    assert_eq!(frames_to(&harness.received(), eight, "typing").len(), 1);
    harness.close(eight);
    harness.advance(10 * S);
    assert_eq!(
        frames_to(&harness.received(), seven, "user_disconnected").len(),
        0,
        "no departure is announced while draining"
    );
    harness.store_with_participants(request, 41, 7, Some(&[7, 8]));
    assert_eq!(frames_to(&harness.received(), seven, "message").len(), 1);
    assert!(!harness.hub.is_awaiting_outcome(seven));
}

//! Clocks that jump, as they do on a suspended machine, after a wrong start, and by an operator's
//! hand: nobody is lost by it, and everything that was due is done.

#![allow(clippy::unwrap_used)]

#[path = "support/town.rs"]
mod town;

use std::time::Duration;

use buddyline::hub::interface::{ConnId, Failure};
use serde_json::Value;
use town::{Town, verified};

const S: Duration = Duration::from_secs(1);
const YEAR_S: u64 = 365 * 24 * 3600;
const TYPING: &str = r#"{"type":"typing","threadId":41}"#;

fn send(id: &str) -> String {
    format!(r#"{{"type":"send_message","threadId":41,"message":"x","clientId":"{id}"}}"#)
}

fn of<'a>(heard: &'a [(ConnId, Value)], conn: ConnId, kind: &str) -> Vec<&'a Value> {
    heard.iter().filter(|(to, f)| *to == conn && f["type"] == kind).map(|(_, f)| f).collect()
}

/// Two users whose tokens hold for an hour, in a thread of two.
fn two(town: &mut Town) -> (ConnId, ConnId) {
    let expires = Some(town.now.unix_s + 3600);
    let conns = [(0, 7), (1, 8)].map(|(slot, user)| {
        let conn = town.open_with(slot, &format!("token-of-{user}"));
        let (request, _) = town.asked_proof();
        town.prove(request, user, expires);
        town.say(conn, r#"{"type":"join_thread","threadId":41}"#);
        if let Some((request, _)) = town.try_list() {
            town.list(request, &[7, 8]);
        }
        conn
    });
    town.heard();
    (conns[0], conns[1])
}

/// Typing reaches the other, and a message finds its way.
fn all_is_well(town: &mut Town, from: ConnId, to: ConnId) {
    town.say(from, TYPING);
    if let Some((request, _)) = town.try_list() {
        town.list(request, &[7, 8]);
    }
    assert_eq!(of(&town.heard(), to, "typing").len(), 1);
    town.say(from, &send("after"));
    let (request, _) = town.asked();
    town.store_among(request, 41, 7, Some(&[7, 8]));
    assert_eq!(of(&town.heard(), to, "message").len(), 1);
}

#[test]
fn a_date_that_jumps_back_by_years_keeps_everyone_in() {
    for date in [0, 1, 1_800_000_000 - 10 * YEAR_S] {
        let mut town = Town::new(verified());
        let (seven, eight) = two(&mut town);
        town.now.unix_s = date;
        town.pass(Duration::ZERO);
        for _ in 0..10 {
            town.pass(S);
        }
        assert_eq!(town.closed(), [], "{date}");
        all_is_well(&mut town, seven, eight);
    }
}

#[test]
fn a_date_that_jumps_forward_by_years_expires_tokens_and_nothing_else() {
    for years in [1, 50, 5_000] {
        let mut town = Town::new(verified());
        let (seven, eight) = two(&mut town);
        town.now.unix_s += years * YEAR_S;
        town.say(seven, &send("late"));
        // An hour and more may go by on the clock that deadlines are by.
        let mut errors = Vec::new();
        for _ in 0..3_700 {
            town.pass(S);
            while let Some((request, _)) = town.try_list() {
                town.list(request, &[7, 8]);
            }
            errors.extend(town.heard().into_iter().filter(|(_, f)| f["type"] == "error"));
        }
        let expired = errors.iter().filter(|(_, f)| f["code"] == "token_expired").count();
        assert!(expired >= 2, "both are told: {errors:?}");
        let closed = town.closed();
        assert!(closed.contains(&(seven, 4401)) && closed.contains(&(eight, 4401)), "{closed:?}");
    }
}

#[test]
fn a_date_at_the_end_of_time_is_no_trouble() {
    let mut town = Town::new(verified());
    let (seven, _) = two(&mut town);
    for date in [u64::MAX, u64::MAX - 1, 0, u64::MAX / 2, 1_800_000_000] {
        town.now.unix_s = date;
        town.hub.advance(town.now);
        town.take_effects();
        town.say(seven, TYPING);
        town.say(seven, &send("x"));
        let late = town.open_with(5, "token-of-9");
        if let Some(request) = town.try_proof() {
            town.prove(request, 9, Some(u64::MAX));
        }
        town.close(late);
    }
}

/// A virtual machine that was stopped: its dates go on, its monotonic clock did not.
#[test]
fn while_the_steady_clock_stands_still_the_date_may_do_what_it_likes() {
    let mut town = Town::new(verified());
    let (seven, eight) = two(&mut town);
    town.say(seven, TYPING);
    town.heard();
    for date in [YEAR_S, 1_800_000_000 + 30, 0, 1_800_000_000 + 3_599] {
        town.now.unix_s = date;
        while town.hub.advance(town.now) {
            town.take_effects();
        }
    }
    assert_eq!(of(&town.heard(), eight, "typing").len(), 0, "no deadline is by the date");
    assert_eq!(town.closed(), []);
    town.pass(3 * S);
    assert_eq!(of(&town.heard(), eight, "typing").len(), 1, "and then it is over");
    town.now.unix_s = 1_800_000_000;
    all_is_well(&mut town, seven, eight);
}

/// A laptop that slept for a week: everything is due at once.
#[test]
fn a_steady_clock_that_jumps_by_a_week_does_everything_that_was_due() {
    let mut town = Town::new(verified());
    let (seven, eight) = two(&mut town);
    town.say(seven, TYPING);
    town.say(seven, &send("asleep"));
    let (request, _) = town.asked();
    let stranger = town.open(2);
    town.close(seven);
    town.heard();
    town.pass(7 * 24 * 3600 * S);
    let heard = town.heard();
    assert_eq!(of(&heard, eight, "user_disconnected").len(), 1, "{heard:?}");
    assert!(town.closed().contains(&(stranger, 1008)));
    assert_eq!(town.hub.counts().deliveries, 1, "what the site has not answered is on its way");
    town.fail(request, Failure::NotStored);
    assert_eq!(town.hub.counts().deliveries, 0);
}

#[test]
fn a_hub_that_drains_refuses_what_is_new_and_tells_nobody_who_leaves() {
    let mut town = Town::new(verified());
    let (seven, eight) = two(&mut town);
    town.say(seven, &send("before"));
    let (request, _) = town.asked();
    assert!(town.hub.is_awaiting_outcome(seven) && !town.hub.is_awaiting_outcome(eight));
    town.hub.begin_drain();
    town.say(seven, &send("after"));
    town.hears_error(seven, "not_stored");
    assert_eq!(town.questions(), 0, "it was not posted");
    town.say(seven, TYPING);
    assert_eq!(of(&town.heard(), eight, "typing").len(), 1);
    town.close(eight);
    town.pass(10 * S);
    assert_eq!(of(&town.heard(), seven, "user_disconnected").len(), 0, "they will be back");
    town.store_among(request, 41, 7, Some(&[7, 8]));
    assert_eq!(of(&town.heard(), seven, "message").len(), 1);
    assert!(!town.hub.is_awaiting_outcome(seven));
}

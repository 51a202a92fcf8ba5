//! The circuit breaker: when it opens, what closes it, and that it never hangs.

// A broken helper is a broken test.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use buddyline::upstream::breaker::{Breaker, Change, FAILURES_MAX, PAUSE_MAX, PAUSE_MIN, WAIT_MAX};
use buddyline::upstream::buddyboss::Reply;
use buddyline::upstream::health::Sign;
use proptest::prelude::*;
use support::fixtures::{load, names};

const FAILING: Sign = Sign::SILENCE;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn asks_for(seconds: u64) -> Sign {
    Sign::Failing { wait: Some(s(seconds)) }
}

/// One that five failures have opened at this time.
fn opened(now: Instant) -> Breaker {
    let mut breaker = Breaker::default();
    for _ in 1..FAILURES_MAX {
        assert_eq!(breaker.heard(FAILING, now), None);
        assert!(breaker.is_closed());
    }
    assert_eq!(breaker.heard(FAILING, now), Some(Change::Opened { pause: PAUSE_MIN }));
    assert!(!breaker.is_closed());
    breaker
}

#[test]
fn it_opens_after_five_failures_in_a_row_and_not_before() {
    let now = Instant::now();
    let mut breaker = Breaker::default();
    for sign in [FAILING, FAILING, FAILING, FAILING, Sign::Alive, FAILING, FAILING, Sign::Nothing] {
        assert_eq!(breaker.heard(sign, now), None);
    }
    assert_eq!(breaker.deadline(), None);
    assert_eq!(breaker.wait_s(now), None);
    // What says nothing is no end of the row, and no part of it.
    assert_eq!(breaker.heard(FAILING, now), None);
    assert_eq!(breaker.heard(FAILING, now), None);
    assert_eq!(breaker.heard(FAILING, now), Some(Change::Opened { pause: PAUSE_MIN }));
    assert_eq!(breaker.deadline(), Some(now + PAUSE_MIN));
}

#[test]
fn each_probe_that_fails_doubles_the_pause_up_to_thirty_seconds() {
    let mut now = Instant::now();
    let mut breaker = opened(now);
    for pause in [1, 2, 4, 8, 16, 30, 30, 30] {
        assert_eq!(breaker.deadline(), Some(now + s(pause)));
        assert_eq!(breaker.wait_s(now), Some(pause as u32));
        assert!(!breaker.take_probe(false, now + s(pause) - Duration::from_millis(1)));
        now += s(pause);
        assert!(breaker.take_probe(false, now));
        assert!(!breaker.is_closed(), "half-open is not closed");
        assert_eq!(breaker.wait_s(now), Some(1), "never 0");
        let next = s((2 * pause).min(30));
        assert_eq!(breaker.probed(FAILING, now), Some(Change::Reopened { pause: next }));
    }
    now += PAUSE_MAX;
    assert!(breaker.take_probe(false, now));
    assert_eq!(breaker.probed(Sign::Alive, now), Some(Change::Closed));
    // The next time it begins with a second again.
    for _ in 1..FAILURES_MAX {
        assert_eq!(breaker.heard(FAILING, now), None);
    }
    assert_eq!(breaker.heard(FAILING, now), Some(Change::Opened { pause: PAUSE_MIN }));
}

#[test]
fn the_site_may_ask_for_a_wait_of_up_to_a_minute() {
    let now = Instant::now();
    for (asked, pause) in [(0, 1), (1, 1), (17, 17), (60, 60), (600, 60), (u64::MAX, 60)] {
        let mut breaker = Breaker::default();
        let change = breaker.heard(asks_for(asked), now);
        assert_eq!(change, Some(Change::Opened { pause: s(pause) }), "{asked}");
        // Its own pause has not grown: the next is the second one, or what the probe is told.
        assert!(breaker.take_probe(false, now + s(pause)));
        let again = breaker.probed(FAILING, now + s(pause));
        assert_eq!(again, Some(Change::Reopened { pause: s(2) }));
        assert!(breaker.take_probe(false, now + s(pause + 2)));
        let again = breaker.probed(asks_for(asked), now + s(pause + 2));
        assert_eq!(again, Some(Change::Reopened { pause: s(pause.max(4)) }));
    }
}

#[test]
fn a_late_good_answer_closes_it_unless_the_site_has_asked_for_a_wait() {
    let now = Instant::now();
    let mut breaker = opened(now);
    assert_eq!(breaker.heard(Sign::Alive, now), Some(Change::Closed));

    let mut breaker = Breaker::default();
    breaker.heard(asks_for(20), now);
    assert_eq!(breaker.heard(Sign::Alive, now + s(19)), None);
    assert!(!breaker.is_closed());
    assert_eq!(breaker.heard(Sign::Alive, now + s(20)), Some(Change::Closed));

    // Who was asked before may bring the wish along.
    let mut breaker = opened(now);
    assert_eq!(breaker.heard(asks_for(10), now), None);
    assert_eq!(breaker.deadline(), Some(now + s(10)));
    assert_eq!(breaker.heard(asks_for(5), now), None);
    assert_eq!(breaker.deadline(), Some(now + s(10)), "never shorter");
    assert_eq!(breaker.heard(Sign::Alive, now), None);

    // While the probe is out, whoever is first with good news closes it.
    let mut breaker = opened(now);
    assert!(breaker.take_probe(false, now + s(1)));
    assert_eq!(breaker.heard(FAILING, now + s(1)), None, "the probe decides");
    assert_eq!(breaker.heard(Sign::Alive, now + s(1)), Some(Change::Closed));
    assert_eq!(breaker.probed(FAILING, now + s(2)), None, "one failure");
    assert!(breaker.is_closed());
}

#[test]
fn any_answer_to_the_probe_that_is_no_failure_closes_it() {
    let now = Instant::now();
    for sign in [Sign::Alive, Sign::Nothing] {
        let mut breaker = opened(now);
        assert!(breaker.take_probe(false, now + s(1)));
        assert_eq!(breaker.probed(sign, now + s(1)), Some(Change::Closed));
    }
}

#[test]
fn a_site_that_turns_guests_away_and_serves_its_members_is_not_given_up() {
    let mut now = Instant::now();
    let mut breaker = Breaker::default();
    // The probe of the start, which has no token, is told to come again in an hour.
    assert!(breaker.take_probe(true, now));
    assert_eq!(breaker.probed(asks_for(3600), now), None);
    assert!(breaker.is_closed(), "members have not failed");
    assert_eq!(breaker.heard(Sign::Alive, now), None);
    for _ in 1..FAILURES_MAX {
        assert_eq!(breaker.heard(FAILING, now), None);
    }
    assert_eq!(breaker.heard(FAILING, now), Some(Change::Opened { pause: PAUSE_MIN }));
    // No probe is asked, and each failure of a member's makes the pause longer.
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        now += s(pause);
        assert!(!breaker.take_probe(false, now) && breaker.is_closed());
        let next = s((2 * pause).min(30));
        assert_eq!(breaker.heard(FAILING, now), Some(Change::Opened { pause: next }));
    }
    now += PAUSE_MAX;
    assert!(!breaker.take_probe(false, now) && breaker.is_closed());
    assert_eq!(breaker.heard(Sign::Alive, now), None);
    // From then on it takes five of them again, and a second.
    for _ in 1..FAILURES_MAX {
        assert_eq!(breaker.heard(FAILING, now), None);
    }
    assert_eq!(breaker.heard(FAILING, now), Some(Change::Opened { pause: PAUSE_MIN }));
}

#[test]
fn a_probe_for_another_reason_goes_out_only_while_it_is_closed_and_counts_as_one() {
    let now = Instant::now();
    let mut breaker = Breaker::default();
    assert!(!breaker.take_probe(false, now));
    assert!(breaker.take_probe(true, now));
    assert!(!breaker.take_probe(true, now), "never two");
    for _ in 0..FAILURES_MAX {
        breaker.heard(FAILING, now);
    }
    assert_eq!(breaker.deadline(), None, "the one that is out comes first");
    assert!(!breaker.take_probe(true, now + s(9)), "never two");
    assert_eq!(breaker.probed(FAILING, now + s(9)), None);
    assert!(breaker.deadline().is_some_and(|at| at <= now + s(9)));
    assert!(breaker.take_probe(false, now + s(9)));
    assert_eq!(breaker.probed(FAILING, now + s(9)), Some(Change::Reopened { pause: s(2) }));
    assert!(!breaker.take_probe(true, now + s(10)), "wanted or not: the site is left alone");
}

// ---------------------------------------------------------------- random histories

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Heard(Sign),
    Probed(Sign),
    TakeProbe(bool),
}

fn sign() -> impl Strategy<Value = Sign> {
    prop_oneof![
        3 => Just(Sign::Alive),
        6 => Just(FAILING),
        1 => (0..700_u64).prop_map(asks_for),
        1 => Just(Sign::Nothing),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..40_000_u64).prop_map(Step::Pass),
        6 => sign().prop_map(Step::Heard),
        2 => sign().prop_map(Step::Probed),
        3 => any::<bool>().prop_map(Step::TakeProbe),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn it_never_probes_twice_at_once_and_always_finds_back(
        steps in prop::collection::vec(step(), 1..200)
    ) {
        let mut breaker = Breaker::default();
        let mut now = Instant::now();
        let mut probes_out = 0;
        let mut row = 0;
        // When it may next be closed by its own time alone, at the latest.
        let mut bound = None;
        for step in steps {
            let was_closed = breaker.is_closed();
            let mut tried = false;
            let change = match step {
                Step::Pass(ms) => {
                    now += Duration::from_millis(ms);
                    None
                }
                Step::Heard(sign) => {
                    let change = breaker.heard(sign, now);
                    if was_closed {
                        row = match sign {
                            Sign::Alive => 0,
                            Sign::Failing { .. } => row + 1,
                            Sign::Nothing => row,
                        };
                        let asked = matches!(sign, Sign::Failing { wait: Some(_) });
                        let opens = row >= FAILURES_MAX || asked;
                        prop_assert_eq!(opens, matches!(change, Some(Change::Opened { .. })));
                    } else if asks(sign) {
                        bound = bound.max(Some(now + WAIT_MAX));
                    }
                    change
                }
                Step::Probed(sign) if probes_out == 1 => {
                    probes_out = 0;
                    let change = breaker.probed(sign, now);
                    if was_closed {
                        // A probe that fails says little while members are served.
                        row = if sign == Sign::Alive { 0 } else { row };
                    } else if asks(sign) {
                        bound = bound.max(Some(now + WAIT_MAX));
                    }
                    if sign == Sign::Alive && !breaker.is_closed() {
                        // Only a wish of the site outlasts a good answer, and only its time.
                        prop_assert!(breaker.deadline().is_some_and(|at| at > now));
                    }
                    change
                }
                Step::Probed(_) => None,
                Step::TakeProbe(wanted) => {
                    let due = breaker.deadline().is_some_and(|at| at <= now);
                    let goes = breaker.take_probe(wanted, now);
                    tried = !was_closed && breaker.is_closed();
                    if tried {
                        // Where probes prove nothing, the next ask does.
                        prop_assert!(due && probes_out == 0 && goes == wanted);
                        (row, bound) = (FAILURES_MAX - 1, None);
                    } else {
                        prop_assert_eq!(goes, probes_out == 0 && (due || (was_closed && wanted)));
                        prop_assert_eq!(was_closed, breaker.is_closed());
                    }
                    probes_out += u32::from(goes);
                    None
                }
            };
            prop_assert!(probes_out <= 1, "two probes at once");
            match change {
                Some(Change::Opened { pause }) => {
                    prop_assert!(was_closed && !breaker.is_closed());
                    prop_assert!((PAUSE_MIN..=WAIT_MAX).contains(&pause));
                    bound = Some(now + pause);
                }
                Some(Change::Reopened { pause }) => {
                    prop_assert!(!was_closed && !breaker.is_closed());
                    prop_assert!((2 * PAUSE_MIN..=WAIT_MAX).contains(&pause));
                    bound = Some(now + pause);
                }
                Some(Change::Closed) => {
                    prop_assert!(!was_closed && breaker.is_closed());
                    (row, bound) = (0, None);
                }
                None => prop_assert!(tried || was_closed == breaker.is_closed(), "unsaid"),
            }
            // The open state ends: by a probe that is out, or by one that is allowed in time.
            prop_assert_eq!(breaker.is_closed(), breaker.wait_s(now).is_none());
            if let Some(wait) = breaker.wait_s(now) {
                prop_assert!((1..=WAIT_MAX.as_secs() as u32).contains(&wait));
                match breaker.deadline() {
                    Some(at) => prop_assert!(probes_out == 0 && Some(at) <= bound, "stuck"),
                    None => prop_assert_eq!(probes_out, 1, "nothing would ever close it"),
                }
            } else {
                prop_assert_eq!(breaker.deadline(), None);
            }
        }
        // A site that is in order again is asked again, after a minute at the latest.
        for _ in 0..2 {
            now += WAIT_MAX;
            if probes_out == 0 && !breaker.is_closed() {
                prop_assert!(breaker.take_probe(false, now) || breaker.is_closed());
            }
            probes_out = 0;
            breaker.probed(Sign::Alive, now);
        }
        prop_assert!(breaker.is_closed());
    }
}

fn asks(sign: Sign) -> bool {
    matches!(sign, Sign::Failing { wait: Some(_) })
}

// ---------------------------------------------------------------- what is a failure

#[test]
fn only_what_no_single_request_can_cause_counts_against_the_site() {
    let of = |name: &str| Sign::of(&load(name).reply(), false);
    // WordPress' word about one request, whatever the status.
    for name in [
        "me-expired-token",
        "thread-get-non-participant",
        "fail-php-fatal-after-store",
        "url-no-such-route",
    ] {
        assert_eq!(of(name), Sign::Alive, "{name}");
    }
    // And its word about all of them.
    for name in ["fail-maintenance-post", "fail-maintenance"] {
        assert_eq!(of(name), asks_for(600), "{name}");
    }
    let html = |status| Reply {
        status,
        content_type: Some("text/html".to_owned()),
        body: Some(b"<html>no</html>".to_vec()),
        ..Reply::default()
    };
    // Firewalls, proxies' limits, redirects, pages.
    for status in [200, 204, 301, 302, 400, 401, 403, 404, 413, 451] {
        assert_eq!(Sign::of(&html(status), false), Sign::Nothing, "{status}");
    }
    for status in [429, 500, 502, 503, 504, 520, 599] {
        assert_eq!(Sign::of(&html(status), false), FAILING, "{status}");
    }
    let asking = |status| {
        let retry_after = Some("17".to_owned());
        Sign::of(&Reply { retry_after, ..html(status) }, false)
    };
    for status in [429, 503] {
        assert_eq!(asking(status), asks_for(17), "{status}");
    }
    // Elsewhere the header has no such meaning.
    assert_eq!(asking(502), FAILING);
    assert_eq!(asking(301), Sign::Nothing);
    // A body that is lost on the way is a lost connection; one that is too long is not.
    let json = Reply {
        status: 200,
        content_type: Some("application/json".to_owned()),
        body: None,
        ..Reply::default()
    };
    assert_eq!(Sign::of(&json, false), Sign::Nothing);
    assert_eq!(Sign::of(&Reply { cut_off: true, ..json.clone() }, false), FAILING);
    // No database.
    let body = br#"{"code":"wp_die","message":"Error establishing a database connection"}"#;
    let dead = Reply { status: 500, body: Some(body.to_vec()), ..json };
    assert_eq!(Sign::of(&dead, false), FAILING);
}

#[test]
fn of_all_recorded_answers_only_those_of_a_site_that_is_down_count_against_it() {
    let mut failing: Vec<String> = names();
    failing.retain(|name| matches!(Sign::of(&load(name).reply(), false), Sign::Failing { .. }));
    assert_eq!(
        failing,
        [
            "fail-bad-gateway",
            "fail-database-down",
            "fail-gateway-timeout",
            "fail-maintenance",
            "fail-maintenance-post",
            "fail-php-fatal-early-accept-any",
        ]
    );
}

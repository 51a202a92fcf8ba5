//! The circuit breaker: when it opens, when it closes, and that it never stays open forever.

use std::time::{Duration, Instant};

use buddyline::upstream::breaker::{
    Breaker, FAILURES_MAX, PAUSE_MAX, PAUSE_MIN, Transition, WAIT_MAX,
};
use buddyline::upstream::buddyboss::Reply;
use buddyline::upstream::health::Health;
use proptest::prelude::*;

use crate::support::fixtures::{load, names};

const FAILING: Health = Health::NO_REPLY;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn failing_for(seconds: u64) -> Health {
    Health::Failing { retry_after: Some(s(seconds)) }
}

/// A breaker that five failures have opened at this time.
fn opened(now: Instant) -> Breaker {
    let mut breaker = Breaker::default();
    for _ in 1..FAILURES_MAX {
        assert_eq!(breaker.record(FAILING, now), None);
        assert!(breaker.is_closed());
    }
    assert_eq!(breaker.record(FAILING, now), Some(Transition::Opened { pause: PAUSE_MIN }));
    assert!(!breaker.is_closed());
    breaker
}

#[test]
fn breaker_opens_after_exactly_five_consecutive_failures() {
    let now = Instant::now();
    let mut breaker = Breaker::default();
    for health in
        [FAILING, FAILING, FAILING, FAILING, Health::Alive, FAILING, FAILING, Health::Neutral]
    {
        assert_eq!(breaker.record(health, now), None);
    }
    assert_eq!(breaker.deadline(), None);
    assert_eq!(breaker.retry_after_s(now), None);
    // A neutral reply neither ends the streak of failures nor counts in it.
    assert_eq!(breaker.record(FAILING, now), None);
    assert_eq!(breaker.record(FAILING, now), None);
    assert_eq!(breaker.record(FAILING, now), Some(Transition::Opened { pause: PAUSE_MIN }));
    assert_eq!(breaker.deadline(), Some(now + PAUSE_MIN));
}

#[test]
fn failed_probe_doubles_pause_up_to_thirty_seconds() {
    let mut now = Instant::now();
    let mut breaker = opened(now);
    for pause in [1, 2, 4, 8, 16, 30, 30, 30] {
        assert_eq!(breaker.deadline(), Some(now + s(pause)));
        assert_eq!(breaker.retry_after_s(now), Some(pause as u32));
        assert!(!breaker.try_start_probe(false, now + s(pause) - Duration::from_millis(1)));
        now += s(pause);
        assert!(breaker.try_start_probe(false, now));
        assert!(!breaker.is_closed(), "a half-open breaker is not closed");
        assert_eq!(breaker.retry_after_s(now), Some(1), "never 0");
        let next = s((2 * pause).min(30));
        assert_eq!(breaker.record_probe(FAILING, now), Some(Transition::Reopened { pause: next }));
    }
    now += PAUSE_MAX;
    assert!(breaker.try_start_probe(false, now));
    assert_eq!(breaker.record_probe(Health::Alive, now), Some(Transition::Closed));
    // The next outage begins with one second again.
    for _ in 1..FAILURES_MAX {
        assert_eq!(breaker.record(FAILING, now), None);
    }
    assert_eq!(breaker.record(FAILING, now), Some(Transition::Opened { pause: PAUSE_MIN }));
}

#[test]
fn retry_after_is_honoured_up_to_a_minute() {
    let now = Instant::now();
    for (seconds, pause) in [(0, 1), (1, 1), (17, 17), (60, 60), (600, 60), (u64::MAX, 60)] {
        let mut breaker = Breaker::default();
        let change = breaker.record(failing_for(seconds), now);
        assert_eq!(change, Some(Transition::Opened { pause: s(pause) }), "{seconds}");
        // `Retry-After` does not double the breaker's own pause: the next one is two seconds, or
        // the probe's `Retry-After`.
        assert!(breaker.try_start_probe(false, now + s(pause)));
        let again = breaker.record_probe(FAILING, now + s(pause));
        assert_eq!(again, Some(Transition::Reopened { pause: s(2) }));
        assert!(breaker.try_start_probe(false, now + s(pause + 2)));
        let again = breaker.record_probe(failing_for(seconds), now + s(pause + 2));
        assert_eq!(again, Some(Transition::Reopened { pause: s(pause.max(4)) }));
    }
}

#[test]
fn late_success_closes_breaker_unless_retry_after_is_set() {
    let now = Instant::now();
    let mut breaker = opened(now);
    assert_eq!(breaker.record(Health::Alive, now), Some(Transition::Closed));

    let mut breaker = Breaker::default();
    breaker.record(failing_for(20), now);
    assert_eq!(breaker.record(Health::Alive, now + s(19)), None);
    assert!(!breaker.is_closed());
    assert_eq!(breaker.record(Health::Alive, now + s(20)), Some(Transition::Closed));

    // A request sent before the breaker opened can still deliver a `Retry-After`.
    let mut breaker = opened(now);
    assert_eq!(breaker.record(failing_for(10), now), None);
    assert_eq!(breaker.deadline(), Some(now + s(10)));
    assert_eq!(breaker.record(failing_for(5), now), None);
    assert_eq!(breaker.deadline(), Some(now + s(10)), "never shorter");
    assert_eq!(breaker.record(Health::Alive, now), None);

    // While the probe is in flight, any successful reply closes the breaker.
    let mut breaker = opened(now);
    assert!(breaker.try_start_probe(false, now + s(1)));
    assert_eq!(breaker.record(FAILING, now + s(1)), None, "the probe decides");
    assert_eq!(breaker.record(Health::Alive, now + s(1)), Some(Transition::Closed));
    assert_eq!(breaker.record_probe(FAILING, now + s(2)), None, "only one failure");
    assert!(breaker.is_closed());
}

#[test]
fn any_successful_probe_closes_the_breaker() {
    let now = Instant::now();
    for health in [Health::Alive, Health::Neutral] {
        let mut breaker = opened(now);
        assert!(breaker.try_start_probe(false, now + s(1)));
        assert_eq!(breaker.record_probe(health, now + s(1)), Some(Transition::Closed));
    }
}

#[test]
fn rejecting_guests_does_not_open_the_breaker() {
    let mut now = Instant::now();
    let mut breaker = Breaker::default();
    // The first probe, which has no token, gets a `Retry-After` of an hour.
    assert!(breaker.try_start_probe(true, now));
    assert_eq!(breaker.record_probe(failing_for(3600), now), None);
    assert!(breaker.is_closed(), "no request with a token has failed");
    assert_eq!(breaker.record(Health::Alive, now), None);
    for _ in 1..FAILURES_MAX {
        assert_eq!(breaker.record(FAILING, now), None);
    }
    assert_eq!(breaker.record(FAILING, now), Some(Transition::Opened { pause: PAUSE_MIN }));
    // No probe is sent, and each failed request of a member doubles the pause.
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        now += s(pause);
        assert!(!breaker.try_start_probe(false, now) && breaker.is_closed());
        let next = s((2 * pause).min(30));
        assert_eq!(breaker.record(FAILING, now), Some(Transition::Opened { pause: next }));
    }
    now += PAUSE_MAX;
    assert!(!breaker.try_start_probe(false, now) && breaker.is_closed());
    assert_eq!(breaker.record(Health::Alive, now), None);
    // From then on it takes five failures again, and the pause is one second.
    for _ in 1..FAILURES_MAX {
        assert_eq!(breaker.record(FAILING, now), None);
    }
    assert_eq!(breaker.record(FAILING, now), Some(Transition::Opened { pause: PAUSE_MIN }));
}

#[test]
fn unrelated_probe_is_sent_only_while_closed_and_counts() {
    let now = Instant::now();
    let mut breaker = Breaker::default();
    assert!(!breaker.try_start_probe(false, now));
    assert!(breaker.try_start_probe(true, now));
    assert!(!breaker.try_start_probe(true, now), "two probes at once");
    for _ in 0..FAILURES_MAX {
        breaker.record(FAILING, now);
    }
    assert_eq!(breaker.deadline(), None, "a probe is in flight");
    assert!(!breaker.try_start_probe(true, now + s(9)), "two probes at once");
    assert_eq!(breaker.record_probe(FAILING, now + s(9)), None);
    assert!(breaker.deadline().is_some_and(|at| at <= now + s(9)));
    assert!(breaker.try_start_probe(false, now + s(9)));
    assert_eq!(
        breaker.record_probe(FAILING, now + s(9)),
        Some(Transition::Reopened { pause: s(2) })
    );
    assert!(!breaker.try_start_probe(true, now + s(10)), "no probe before the pause ends");
}

// ---------------------------------------------------------------- random histories

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Received(Health),
    Probed(Health),
    TakeProbe(bool),
}

fn health() -> impl Strategy<Value = Health> {
    prop_oneof![
        3 => Just(Health::Alive),
        6 => Just(FAILING),
        1 => (0..700_u64).prop_map(failing_for),
        1 => Just(Health::Neutral),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..40_000_u64).prop_map(Step::Pass),
        6 => health().prop_map(Step::Received),
        2 => health().prop_map(Step::Probed),
        3 => any::<bool>().prop_map(Step::TakeProbe),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn breaker_sends_one_probe_at_a_time_and_always_recovers(
        steps in prop::collection::vec(step(), 1..200)
    ) {
        let mut breaker = Breaker::default();
        let mut now = Instant::now();
        let mut probes_out = 0;
        let mut streak = 0;
        // The latest time at which the breaker may allow the next probe.
        let mut bound = None;
        for step in steps {
            let was_closed = breaker.is_closed();
            let mut tried = false;
            let change = match step {
                Step::Pass(ms) => {
                    now += Duration::from_millis(ms);
                    None
                }
                Step::Received(health) => {
                    let change = breaker.record(health, now);
                    if was_closed {
                        streak = match health {
                            Health::Alive => 0,
                            Health::Failing { .. } => streak + 1,
                            Health::Neutral => streak,
                        };
                        let has_header = has_retry_after(health);
                        let opens = streak >= FAILURES_MAX || has_header;
                        prop_assert_eq!(opens, matches!(change, Some(Transition::Opened { .. })));
                    } else if has_retry_after(health) {
                        bound = bound.max(Some(now + WAIT_MAX));
                    }
                    change
                }
                Step::Probed(health) if probes_out == 1 => {
                    probes_out = 0;
                    let change = breaker.record_probe(health, now);
                    if was_closed {
                        // A failed probe does not count while requests of members succeed.
                        streak = if health == Health::Alive { 0 } else { streak };
                    } else if has_retry_after(health) {
                        bound = bound.max(Some(now + WAIT_MAX));
                    }
                    if health == Health::Alive && !breaker.is_closed() {
                        // Only a `Retry-After` outlasts a successful reply, and only for its time.
                        prop_assert!(breaker.deadline().is_some_and(|at| at > now));
                    }
                    change
                }
                Step::Probed(_) => None,
                Step::TakeProbe(wanted) => {
                    let due = breaker.deadline().is_some_and(|at| at <= now);
                    let goes = breaker.try_start_probe(wanted, now);
                    tried = !was_closed && breaker.is_closed();
                    if tried {
                        // Where probes are refused, the next request tests the site.
                        prop_assert!(due && probes_out == 0 && goes == wanted);
                        (streak, bound) = (FAILURES_MAX - 1, None);
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
                Some(Transition::Opened { pause }) => {
                    prop_assert!(was_closed && !breaker.is_closed());
                    prop_assert!((PAUSE_MIN..=WAIT_MAX).contains(&pause));
                    bound = Some(now + pause);
                }
                Some(Transition::Reopened { pause }) => {
                    prop_assert!(!was_closed && !breaker.is_closed());
                    prop_assert!((2 * PAUSE_MIN..=WAIT_MAX).contains(&pause));
                    bound = Some(now + pause);
                }
                Some(Transition::Closed) => {
                    prop_assert!(!was_closed && breaker.is_closed());
                    (streak, bound) = (0, None);
                }
                None => prop_assert!(tried || was_closed == breaker.is_closed(), "a change without a transition"),
            }
            // The open state ends, by a probe in flight or by one that is allowed in time.
            prop_assert_eq!(breaker.is_closed(), breaker.retry_after_s(now).is_none());
            if let Some(retry_after) = breaker.retry_after_s(now) {
                prop_assert!((1..=WAIT_MAX.as_secs() as u32).contains(&retry_after));
                match breaker.deadline() {
                    Some(at) => prop_assert!(probes_out == 0 && Some(at) <= bound, "the pause is too long"),
                    None => prop_assert_eq!(probes_out, 1, "the breaker would stay open forever"),
                }
            } else {
                prop_assert_eq!(breaker.deadline(), None);
            }
        }
        // A site that works again gets requests again after at most a minute.
        for _ in 0..2 {
            now += WAIT_MAX;
            if probes_out == 0 && !breaker.is_closed() {
                prop_assert!(breaker.try_start_probe(false, now) || breaker.is_closed());
            }
            probes_out = 0;
            breaker.record_probe(Health::Alive, now);
        }
        prop_assert!(breaker.is_closed());
    }
}

fn has_retry_after(health: Health) -> bool {
    matches!(health, Health::Failing { retry_after: Some(_) })
}

// ---------------------------------------------------------------- which replies are failures

#[test]
fn failures_caused_by_one_request_do_not_count() {
    let of = |name: &str| Health::from_reply(&load(name).reply(), false);
    // An error of WordPress about one request, with any status.
    for name in [
        "me-expired-token",
        "thread-get-non-participant",
        "fail-php-fatal-after-store",
        "url-no-such-route",
    ] {
        assert_eq!(of(name), Health::Alive, "{name}");
    }
    // An error of WordPress about all requests.
    for name in ["fail-maintenance-post", "fail-maintenance"] {
        assert_eq!(of(name), failing_for(600), "{name}");
    }
    let html = |status| Reply {
        status,
        content_type: Some("text/html".to_owned()),
        body: Some(b"<html>no</html>".to_vec()),
        ..Reply::default()
    };
    // Firewalls, limits of proxies, redirects, HTML pages.
    for status in [200, 204, 301, 302, 400, 401, 403, 404, 413, 451] {
        assert_eq!(Health::from_reply(&html(status), false), Health::Neutral, "{status}");
    }
    for status in [429, 500, 502, 503, 504, 520, 599] {
        assert_eq!(Health::from_reply(&html(status), false), FAILING, "{status}");
    }
    let asking = |status| {
        let retry_after = Some("17".to_owned());
        Health::from_reply(&Reply { retry_after, ..html(status) }, false)
    };
    for status in [429, 503] {
        assert_eq!(asking(status), failing_for(17), "{status}");
    }
    // With other statuses the header has no such meaning.
    assert_eq!(asking(502), FAILING);
    assert_eq!(asking(301), Health::Neutral);
    // A truncated body is a lost connection; a body that is too long is not.
    let json = Reply {
        status: 200,
        content_type: Some("application/json".to_owned()),
        body: None,
        ..Reply::default()
    };
    assert_eq!(Health::from_reply(&json, false), Health::Neutral);
    assert_eq!(Health::from_reply(&Reply { truncated: true, ..json.clone() }, false), FAILING);
    // The site has no database connection.
    let body = br#"{"code":"wp_die","message":"Error establishing a database connection"}"#;
    let dead = Reply { status: 500, body: Some(body.to_vec()), ..json };
    assert_eq!(Health::from_reply(&dead, false), FAILING);
}

#[test]
fn only_recorded_outage_replies_count_as_failures() {
    let mut failing: Vec<String> = names();
    failing.retain(|name| {
        matches!(Health::from_reply(&load(name).reply(), false), Health::Failing { .. })
    });
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

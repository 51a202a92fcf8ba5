//! The pool of upstream workers: connection reuse, queue limits, exactly one answer for each
//! request, and the probe for the URL style.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use buddyline::hub::interface::{Answer, Failure, Now, RequestId};
use buddyline::protocol::Id;
use buddyline::upstream::Upstream;
use buddyline::upstream::url_style::UrlStyle;

use crate::support::driver::{LONG, PoolDriver, UNAVAILABLE, failed, post, prove, stored};
use crate::support::site::{Fault, Request, Site};

// ---------------------------------------------------------------- connections

#[test]
fn connection_is_reused() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| s.workers = 1);
    for _ in 0..5 {
        stored(driver.ask(post(1, "x")));
    }
    let connections: BTreeSet<_> = site.requests().iter().map(|r| r.connection).collect();
    assert_eq!(connections.len(), 1);
}

#[test]
fn idle_connection_closed_by_site_is_replaced() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| s.workers = 1);
    for n in 1..=5 {
        site.fail_next(Fault::CloseAfterAnswer);
        stored(driver.ask(post(1, "x")));
        assert_eq!(site.posts().len(), n);
        // Lets the end of the connection arrive.
        std::thread::sleep(Duration::from_millis(30));
    }
}

#[test]
fn reused_connection_dying_mid_request_is_not_retried() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| s.workers = 1);
    stored(driver.ask(post(1, "first")));
    site.fail_next(Fault::Close);
    assert_eq!(failed(driver.ask(post(1, "second"))), Failure::Unknown);
    stored(driver.ask(post(1, "third")));
    let posts = site.posts();
    assert_eq!(posts[0].connection, posts[1].connection, "the connection was not reused");
    let texts: Vec<_> = posts.iter().map(|p| p.json()["message"].clone()).collect();
    assert_eq!(texts, ["first", "second", "third"]);
}

#[test]
fn connection_closing_on_reuse_sends_at_most_once() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| s.workers = 1);
    // The site closes right after each answer, and the next request races against that.
    site.fail_when(|_, r| (r.method == "POST").then_some(Fault::CloseAfterAnswer));
    let mut good = BTreeSet::new();
    for n in 0..200 {
        let text = format!("{n:03}");
        match driver.ask(post(1, &text)) {
            Answer::Stored(_) => assert!(good.insert(text)),
            Answer::Failed(Failure::Unknown | UNAVAILABLE) => {}
            other => panic!("{other:?}"),
        }
        if !driver.pool.is_available() {
            // Five lost races in a row open the breaker.
            break;
        }
    }
    let texts: Vec<String> = site.stored(1).into_iter().map(|(_, text)| text).collect();
    let distinct: BTreeSet<String> = texts.iter().cloned().collect();
    assert_eq!(texts.len(), distinct.len(), "a message was stored twice");
    assert!(good.is_subset(&distinct));
}

// ---------------------------------------------------------------- bounds

#[test]
fn full_queue_fails_fast_and_the_rest_is_answered() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| (s.workers, s.queue) = (1, 2));
    site.set_latency(Duration::from_millis(300));
    let first = driver.submit(post(1, "1"));
    site.await_posts(1);
    let others: Vec<_> = (2..=6).map(|n| driver.submit(post(1, &n.to_string()))).collect();
    assert_eq!(driver.pool.outstanding(), 6);
    let overloaded: Vec<_> = std::iter::from_fn(|| driver.pool.next_answer()).collect();
    let full = Answer::Failed(Failure::Overloaded);
    assert_eq!(overloaded, [2, 3, 4].map(|n| (others[n], full.clone())));
    for request in [first, others[0], others[1]] {
        let (answered, answer) = driver.next();
        assert_eq!(answered, request);
        stored(answer);
    }
    assert_eq!(driver.pool.outstanding(), 0);
    assert_eq!(site.posts().len(), 3);
}

#[test]
fn uncollected_answers_do_not_block_workers() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| (s.workers, s.queue) = (2, 4));
    for n in 1..=6 {
        driver.submit(post(1, &n.to_string()));
    }
    site.await_posts(2);
    // The workers are done, and their answers are not collected.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(site.posts().len(), 2, "uncollected answers count toward the limit");
    for _ in 0..20 {
        driver.submit(post(1, "too many"));
    }
    assert_eq!(driver.pool.outstanding(), 26);
    let mut seen = BTreeMap::new();
    while driver.pool.outstanding() > 0 {
        let (request, answer) = driver.next();
        assert_eq!(seen.insert(request, answer), None, "two answers to one request");
    }
    assert_eq!(seen.len() as u64, driver.last);
    assert_eq!(seen.values().filter(|a| matches!(a, Answer::Stored(_))).count(), 6);
    stored(driver.ask(post(1, "and it goes on")));
}

/// A small random number generator, so that a failing run can be repeated with its seed.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn random_fault(rng: &mut Rng) -> Option<Fault> {
    Some(match rng.below(12) {
        0 => Fault::Close,
        1 => Fault::CloseAfterStoring,
        2 => Fault::Truncated,
        3 => Fault::Html,
        4 => Fault::Garbage,
        5 => Fault::CloseAfterAnswer,
        6 => Fault::status(429, &[]),
        7 => Fault::status(502, &[]),
        8 => Fault::HtmlBeforeJson,
        _ => return None,
    })
}

#[test]
fn every_request_gets_exactly_one_answer() {
    let mut times_open = 0;
    for seed in 1..=6_u64 {
        let site = Site::start();
        let mut driver = PoolDriver::ready(&site, |s| (s.workers, s.queue) = (4, 8));
        let mut site_rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut with_token = 0;
        site.fail_when(move |_, request| {
            std::thread::sleep(Duration::from_millis(site_rng.below(4)));
            request.header("authorization")?;
            with_token += 1;
            // Random faults, and regular outages.
            let down = with_token % 30 < 8;
            if down { Some(Fault::status(502, &[])) } else { random_fault(&mut site_rng) }
        });
        let mut rng = Rng(seed);
        let mut submitted: BTreeMap<RequestId, (u64, String)> = BTreeMap::new();
        let mut answers: BTreeMap<RequestId, Answer> = BTreeMap::new();
        let mut checks = 0;
        for n in 0..100 {
            // Time passes fast, so that the breaker opens and closes several times.
            let now = Now { instant: driver.started + Duration::from_millis(n * 200), unix_s: 0 };
            driver.pool.advance(now.instant);
            times_open += u32::from(!driver.pool.is_available());
            let (thread, text) = (1 + rng.below(3), format!("{seed}-{n}"));
            let request = driver.submit_at(post(thread, &text), now);
            submitted.insert(request, (thread, text));
            if rng.below(4) == 0 {
                driver.submit_at(prove("user-7"), now);
                checks += 1;
            }
            for _ in 0..rng.below(4) {
                if let Some((request, answer)) = driver.pool.next_answer() {
                    assert_eq!(answers.insert(request, answer), None, "seed {seed}: two answers");
                }
            }
            std::thread::sleep(Duration::from_millis(rng.below(3)));
        }
        while answers.len() < submitted.len() + checks {
            let (request, answer) = driver.next();
            assert_eq!(answers.insert(request, answer), None, "seed {seed}: two answers");
        }
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(driver.pool.next_answer(), None, "seed {seed}");
        assert_eq!(driver.pool.outstanding(), 0, "seed {seed}");
        let kept: Vec<_> =
            (1..=3).flat_map(|t| site.stored(t).into_iter().map(move |m| (t, m.1))).collect();
        for (request, message) in &submitted {
            let times = kept.iter().filter(|m| *m == message).count();
            match &answers[request] {
                Answer::Stored(_) => assert_eq!(times, 1, "seed {seed}: {message:?}"),
                Answer::Failed(Failure::Unknown | Failure::Unusable) => {
                    assert!(times <= 1, "seed {seed}")
                }
                Answer::Failed(_) => assert_eq!(times, 0, "seed {seed}: {message:?}"),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!((1..600).contains(&times_open), "{times_open}");
}

#[test]
fn dropping_the_pool_does_not_block() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| s.request_timeout = LONG);
    for _ in 0..4 {
        site.fail_next(Fault::Hang);
        driver.submit(post(1, "x"));
    }
    site.await_posts(2);
    let (begun, weak_waker) = (Instant::now(), driver.weak_waker);
    drop(driver.pool);
    assert!(begun.elapsed() < Duration::from_secs(1));
    // The workers end too, long before their requests time out.
    while weak_waker.upgrade().is_some() {
        assert!(begun.elapsed() < Duration::from_secs(2), "a worker still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(site.posts().len(), 2, "a queued request was sent after the pool was dropped");
}

// ---------------------------------------------------------------- the probe

#[test]
fn pretty_permalinks_are_detected() {
    let site = Site::start();
    let driver = PoolDriver::ready(&site, |_| ());
    let requests = site.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].path, "/wp-json/buddyboss/v1/members/me?_fields=id");
    assert_eq!(requests[0].header("authorization"), None);
    drop(driver);
}

#[test]
fn plain_permalinks_use_rest_route() {
    let site = Site::start();
    site.set_plain_permalinks(true);
    site.add_thread(1, &[7, 8]);
    let mut driver = PoolDriver::at(&site.url());
    driver.await_requests(&site, 2);
    assert_eq!(driver.pool.url_style(), UrlStyle::RestRoute);
    stored(driver.ask(post(1, "x")));
    let paths: Vec<_> = site.requests().into_iter().map(|r| r.path).collect();
    assert_eq!(
        paths,
        [
            "/wp-json/buddyboss/v1/members/me?_fields=id",
            "/?rest_route=/buddyboss/v1/members/me&_fields=id",
            "/?rest_route=/buddyboss/v1/messages",
        ]
    );
}

#[test]
fn rest_route_is_used_until_the_probe_answers() {
    let site = Site::start();
    site.add_thread(1, &[7, 8]);
    site.fail_when(|_, r| (r.method == "GET").then_some(Fault::Delay(Duration::from_millis(300))));
    let mut driver = PoolDriver::at(&site.url());
    stored(driver.ask(post(1, "x")));
    assert_eq!(site.posts()[0].path, "/?rest_route=/buddyboss/v1/messages");
    driver.await_url_style(UrlStyle::Pretty);
    stored(driver.ask(post(1, "x")));
    assert_eq!(site.posts()[1].path, "/wp-json/buddyboss/v1/messages");
}

#[test]
fn failed_probe_is_retried_once_a_minute() {
    let site = Site::start();
    site.add_thread(1, &[7, 8]);
    let broken = |r: &Request| (r.method == "GET").then(|| Fault::status(502, &[]));
    site.fail_when(move |_, r| broken(r));
    let mut driver = PoolDriver::at(&site.url());
    driver.await_requests(&site, 1);
    let at = |driver: &PoolDriver, s| Now {
        instant: driver.started + Duration::from_secs(s),
        unix_s: 0,
    };
    let gets = |driver: &mut PoolDriver, s| {
        driver.submit_at(post(1, "x"), at(driver, s));
        stored(driver.next().1);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(driver.pool.next_answer(), None);
        site.requests().iter().filter(|r| r.method == "GET").count()
    };
    // If the site fails with one URL style, the other is not tried.
    assert_eq!(gets(&mut driver, 1), 2);
    assert_eq!(gets(&mut driver, 30), 2);
    assert_eq!(gets(&mut driver, 62), 3);
    site.fail_when(|_, _| None);
    assert_eq!(gets(&mut driver, 100), 3);
    assert_eq!(gets(&mut driver, 123), 4);
    assert_eq!(driver.pool.url_style(), UrlStyle::Pretty);
    assert_eq!(gets(&mut driver, 999), 4);
}

#[test]
fn switching_to_plain_permalinks_leaves_one_outcome_unknown() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.set_plain_permalinks(true);
    assert_eq!(failed(driver.ask(post(1, "lost"))), Failure::Unusable);
    driver.await_url_style(UrlStyle::RestRoute);
    for _ in 0..3 {
        stored(driver.ask(post(1, "x")));
    }
}

#[test]
fn html_reply_at_a_pretty_url_switches_to_rest_route() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.fail_when(|_, r| {
        (r.method == "POST" && r.path.starts_with("/wp-json")).then_some(Fault::Html)
    });
    assert_eq!(failed(driver.ask(post(1, "lost"))), Failure::Unusable);
    // A probe finds that pretty URLs work, so the other style is tried first.
    driver.await_url_style(UrlStyle::RestRoute);
    for s in [1, 70, 140] {
        let now = Now { instant: driver.started + Duration::from_secs(s), unix_s: 0 };
        driver.submit_at(post(1, "x"), now);
        stored(driver.next().1);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(driver.pool.next_answer(), None);
    }
    assert_eq!(driver.pool.url_style(), UrlStyle::RestRoute);
}

#[test]
fn one_odd_reply_does_not_switch_to_a_blocked_url_style() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    // Like a firewall that blocks one URL style, and fails once for the other.
    site.fail_when(|_, r| r.path.contains("rest_route").then(|| Fault::status(403, &[])));
    site.fail_next(Fault::status(302, &[("Location", "https://community.example/")]));
    let before = site.requests().len();
    assert_eq!(failed(driver.ask(post(1, "odd"))), Failure::SiteMisconfigured);
    driver.await_requests(&site, before + 3);
    let paths: Vec<_> = site.requests()[before + 1..].iter().map(|r| r.path.clone()).collect();
    assert!(paths[0].contains("rest_route") && paths[1].contains("wp-json"), "{paths:?}");
    assert_eq!(driver.pool.url_style(), UrlStyle::Pretty);
    stored(driver.ask(post(1, "x")));
}

// ---------------------------------------------------------------- the embedded site

#[test]
fn embedded_site_answers_through_the_same_interface() {
    let mut upstream = Upstream::embedded();
    assert!(!upstream.has_answer());
    let now = Now { instant: Instant::now(), unix_s: 1_795_345_238 };
    for n in 1..=2 {
        upstream.submit(RequestId(n), post(5, "x"), now);
    }
    assert!(upstream.has_answer());
    assert_eq!(upstream.outstanding(), 2);
    for n in 1..=2 {
        let (request, answer) = upstream.next_answer().unwrap();
        assert_eq!(request, RequestId(n));
        assert_eq!(stored(answer).sender, Id::number(7));
    }
    assert_eq!(upstream.next_answer(), None);
}

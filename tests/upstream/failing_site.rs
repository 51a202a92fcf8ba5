//! The pool and its circuit breaker with a failing site, over real sockets: requests fail fast, a
//! probe tests the site, and requests are sent again.

use std::time::{Duration, Instant};

use buddyline::config::jwt_issuer::Issuer;
use buddyline::config::secrets::JwtKeys;
use buddyline::hub::interface::{Answer, Ask, Failure, Now, Post, RequestId, Target, TokenFault};
use buddyline::upstream::jwt::Verifier;
use buddyline::upstream::url_style::UrlStyle;

use crate::support::driver::{
    LONG, PoolDriver, failed, list, listed, post, post_as, prove, proven, stored,
};
use crate::support::fixtures::load;
use crate::support::jwt;
use crate::support::site::{Fault, Request, Site};

fn unavailable(seconds: u32) -> Failure {
    Failure::SiteUnavailable { retry_after_s: Some(seconds) }
}

fn at(driver: &PoolDriver, seconds: f64) -> Instant {
    driver.started + Duration::from_secs_f64(seconds)
}

/// Submits a request at this time, in seconds after the start.
fn submit_at(driver: &mut PoolDriver, ask: Ask, seconds: f64) -> RequestId {
    let now = Now { instant: at(driver, seconds), unix_s: 1_795_345_238 };
    driver.submit_at(ask, now)
}

/// Submits a request whose answer must be available at once.
fn ask_without_waiting(driver: &mut PoolDriver, ask: Ask, seconds: f64) -> Answer {
    let begun = Instant::now();
    let request = submit_at(driver, ask, seconds);
    assert!(driver.pool.has_answer(), "the event loop would sleep with an answer waiting");
    let (answered, answer) = driver.pool.next_answer().expect("an answer at once");
    assert_eq!(answered, request);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    answer
}

/// Opens the breaker: five posts fail at time 0.
fn open(driver: &mut PoolDriver, site: &Site) {
    site.always(Fault::status(502, &[]));
    for n in 0..5 {
        assert!(driver.pool.is_available(), "after {n} failures");
        submit_at(driver, post(1, "lost"), 0.0);
        assert_eq!(failed(driver.next().1), Failure::Unusable);
    }
    assert!(!driver.pool.is_available());
}

/// Sends the probe at this time, and processes its result.
fn probe(driver: &mut PoolDriver, seconds: f64) {
    driver.pool.advance(at(driver, seconds));
    driver.await_answer();
    assert_eq!(driver.pool.next_answer(), None, "a probe has no answer for the hub");
}

fn is_probe(request: &Request) -> bool {
    request.method == "GET"
        && request.path.contains("/members/me")
        && request.header("authorization").is_none()
}

#[test]
fn after_five_failures_requests_fail_fast_without_the_site() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    open(&mut driver, &site);
    let before = site.requests().len();
    for _ in 0..100 {
        assert_eq!(failed(ask_without_waiting(&mut driver, post(1, "x"), 0.2)), unavailable(1));
        assert_eq!(failed(ask_without_waiting(&mut driver, prove("user-7"), 0.2)), unavailable(1));
        assert_eq!(
            failed(ask_without_waiting(&mut driver, list(1, "user-7"), 0.2)),
            unavailable(1)
        );
    }
    assert_eq!(driver.pool.outstanding(), 0);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(site.requests().len(), before);
}

#[test]
fn queued_requests_fail_unsent_when_the_breaker_opens() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| (s.workers, s.queue) = (1, 10));
    site.set_latency(Duration::from_millis(10));
    site.always(Fault::Close);
    let requests: Vec<_> = (0..9).map(|n| driver.submit(post(1, &n.to_string()))).collect();
    for request in &requests[..5] {
        assert_eq!(driver.next(), (*request, Answer::Failed(Failure::Unknown)));
    }
    assert_eq!(driver.pool.outstanding(), 4);
    for request in &requests[5..] {
        assert_eq!(driver.pool.next_answer(), Some((*request, Answer::Failed(unavailable(1)))));
    }
    assert_eq!(driver.pool.outstanding(), 0);
    assert_eq!(site.posts().len(), 5);

    // Checks have a queue of their own.
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| s.workers = 1);
    site.set_latency(Duration::from_millis(100));
    site.always(Fault::status(503, &[("Retry-After", "20")]));
    let begun = site.requests().len();
    let sent = driver.submit(post(1, "sent"));
    let waiting = [driver.submit(prove("user-7")), driver.submit(post(2, "waits"))];
    assert_eq!(driver.next(), (sent, Answer::Failed(Failure::Unusable)));
    for request in waiting {
        assert_eq!(driver.pool.next_answer(), Some((request, Answer::Failed(unavailable(20)))));
    }
    assert_eq!(site.requests().len(), begun + 1);
}

#[test]
fn only_one_probe_is_sent_while_the_breaker_is_open() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    open(&mut driver, &site);
    site.always(Fault::Delay(Duration::from_millis(300)));
    let before = site.requests().len();
    driver.pool.advance(at(&driver, 0.99));
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(site.requests().len(), before, "a probe before its time");
    assert_eq!(driver.pool.next_deadline(), Some(at(&driver, 1.0)));
    for tenth in 10..60 {
        let seconds = f64::from(tenth) / 10.0;
        driver.pool.advance(at(&driver, seconds));
        assert_eq!(failed(ask_without_waiting(&mut driver, post(1, "x"), seconds)), unavailable(1));
    }
    assert!(!driver.pool.is_available(), "a half-open breaker blocks members' requests");
    assert_eq!(driver.pool.next_deadline(), None, "the event loop sleeps until the probe wakes it");
    probe(&mut driver, 6.0);
    assert!(driver.pool.is_available());
    let since = &site.requests()[before..];
    assert_eq!(since.len(), 1);
    assert!(is_probe(&since[0]), "{since:?}");
    site.always(Fault::Gzip);
    submit_at(&mut driver, post(1, "and it goes on"), 6.0);
    stored(driver.next().1);
    assert_eq!(site.stored(1).last().unwrap().1, "and it goes on");
}

#[test]
fn request_flood_does_not_hide_recovery() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    open(&mut driver, &site);
    site.always(Fault::Delay(Duration::ZERO));
    let before = site.requests().len();
    driver.pool.advance(at(&driver, 1.0));
    for _ in 0..1000 {
        submit_at(&mut driver, post(1, "x"), 1.0);
    }
    let until = Instant::now() + LONG;
    while site.requests().len() == before {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(failed(driver.pool.next_answer().unwrap().1), unavailable(1));
    assert!(driver.pool.is_available(), "with 999 answers still to be collected");
}

#[test]
fn probe_interval_grows_during_a_long_outage() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    open(&mut driver, &site);
    let before = site.requests().len();
    let mut now = 0.0;
    for (n, pause) in [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0].into_iter().enumerate() {
        assert_eq!(driver.pool.next_deadline(), Some(at(&driver, now + pause)));
        let left = failed(ask_without_waiting(&mut driver, post(1, "x"), now + 0.5));
        assert_eq!(left, unavailable(pause as u32), "rounded up");
        now += pause;
        probe(&mut driver, now);
        assert!(!driver.pool.is_available());
        assert_eq!(site.requests().len(), before + n + 1);
    }
    assert!(site.requests()[before..].iter().all(is_probe));
    site.always(Fault::Delay(Duration::ZERO));
    probe(&mut driver, now + 30.0);
    assert!(driver.pool.is_available());
    // The next outage begins with one second again.
    open(&mut driver, &site);
    assert_eq!(driver.pool.next_deadline(), Some(at(&driver, 1.0)));
}

#[test]
fn retry_after_applies_at_once_for_at_most_a_minute() {
    for (fault, retry_after_s, failure) in [
        (
            Fault::replay(&load("fail-maintenance-post")),
            60,
            Failure::SiteUnavailable { retry_after_s: Some(600) },
        ),
        (
            Fault::status(429, &[("Retry-After", "17")]),
            17,
            Failure::SiteBusy { retry_after_s: Some(17) },
        ),
        (Fault::status(503, &[("Retry-After", "3")]), 3, Failure::Unusable),
    ] {
        let site = Site::start();
        let mut driver = PoolDriver::ready(&site, |_| ());
        site.fail_next(fault.clone());
        submit_at(&mut driver, post(1, "x"), 0.0);
        assert_eq!(failed(driver.next().1), failure);
        let seconds = retry_after_s as f64;
        assert_eq!(
            failed(ask_without_waiting(&mut driver, post(1, "x"), 0.0)),
            unavailable(retry_after_s),
            "{fault:?}"
        );
        let almost = ask_without_waiting(&mut driver, post(1, "x"), seconds - 0.1);
        assert_eq!(failed(almost), unavailable(1));
        assert_eq!(driver.pool.next_deadline(), Some(at(&driver, seconds)));
        probe(&mut driver, seconds);
        assert!(driver.pool.is_available(), "{fault:?}");
        submit_at(&mut driver, post(1, "x"), seconds);
        stored(driver.next().1);
        assert_eq!(site.posts().len(), 2);
    }
    // Without the header it is a failure like any other.
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.always(Fault::status(429, &[]));
    for _ in 0..5 {
        assert!(driver.pool.is_available());
        let busy = Failure::SiteBusy { retry_after_s: None };
        assert_eq!(failed(driver.ask(post(1, "x"))), busy);
    }
    assert!(!driver.pool.is_available());
}

#[test]
fn late_successful_reply_closes_the_breaker() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.fail_next(Fault::Delay(Duration::from_millis(400)));
    let slow = submit_at(&mut driver, post(2, "slow"), 0.0);
    site.await_posts(1);
    open(&mut driver, &site);
    let (answered, answer) = driver.next();
    assert_eq!(answered, slow);
    stored(answer);
    assert!(driver.pool.is_available());

    // But a `Retry-After` of the site is respected.
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.fail_next(Fault::Delay(Duration::from_millis(300)));
    submit_at(&mut driver, post(2, "slow"), 0.0);
    site.await_posts(1);
    site.fail_next(Fault::status(429, &[("Retry-After", "9")]));
    submit_at(&mut driver, post(1, "x"), 0.0);
    driver.next();
    stored(driver.next().1);
    assert_eq!(failed(ask_without_waiting(&mut driver, post(1, "x"), 0.0)), unavailable(9));
}

#[test]
fn member_provoked_failures_do_not_open_the_breaker() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.suspend(66);
    let json = |status, body: &str| Fault::Answer {
        status,
        headers: vec![("Content-Type".into(), "application/json".into())],
        body: body.as_bytes().to_vec(),
    };
    let to = [("Location", "https://other.example/")];
    for _ in 0..6 {
        // WordPress refuses these tokens. Below: errors of WordPress and of gateways before it.
        for token in ["nobody", "expired", "user-66", "user-9"] {
            driver.ask(post_as(token, Target::Thread(1), "x"));
            driver.ask(prove(token));
            driver.ask(list(1, token));
        }
    }
    for fault in [
        Fault::replay(&load("fail-php-fatal-after-store")),
        Fault::status(401, &[]),
        Fault::status(403, &[]),
        Fault::status(404, &[]),
        Fault::status(413, &[]),
        Fault::status(302, &to),
        Fault::Html,
        Fault::HtmlBeforeJson,
        Fault::GzipBomb(64 << 20),
        Fault::Padded(5 << 20),
        json(500, r#"{"code":"bp_rest_messages_create_failed","message":"no"}"#),
        json(403, r#"{"code":"waf","message":"no"}"#),
    ] {
        for _ in 0..6 {
            site.fail_next(fault.clone());
            driver.ask(post(1, "x"));
            assert!(driver.pool.is_available(), "{fault:.60?}");
        }
    }
}

#[test]
fn truncated_or_lost_replies_open_the_breaker() {
    for fault in [Fault::Truncated, Fault::CloseAfterStoring, Fault::Garbage] {
        let site = Site::start();
        let mut driver = PoolDriver::ready(&site, |_| ());
        for n in 0..5 {
            assert!(driver.pool.is_available(), "{fault:?} {n}");
            site.fail_next(fault.clone());
            assert_eq!(failed(driver.ask(post(1, "x"))), Failure::Unknown);
        }
        assert!(!driver.pool.is_available(), "{fault:?}");
    }
}

#[test]
fn slow_large_thread_is_not_a_site_failure() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| s.request_timeout = Duration::from_millis(250));
    site.set_participants(1, &(1..=1_000).collect::<Vec<_>>());
    site.set_latency(Duration::from_millis(100));
    for _ in 0..6 {
        let failure = failed(driver.ask(list(1, "user-1")));
        assert_eq!(failure, Failure::SiteUnavailable { retry_after_s: None });
    }
    assert!(driver.pool.is_available());
}

#[test]
fn silent_site_costs_only_five_timeouts() {
    let site = Site::start();
    let timeout = Duration::from_millis(300);
    let mut driver = PoolDriver::ready(&site, |s| (s.workers, s.request_timeout) = (2, timeout));
    site.always(Fault::Hang);
    let begun = Instant::now();
    let requests: Vec<_> = (0..40).map(|n| driver.submit(post(1, &n.to_string()))).collect();
    let mut answers = Vec::new();
    while answers.len() < requests.len() {
        answers.push(driver.next());
    }
    // Three rounds of two workers. Twenty rounds, without the breaker, would take six seconds.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let unknown = answers.iter().filter(|(_, a)| *a == Answer::Failed(Failure::Unknown)).count();
    assert_eq!(unknown, site.posts().len(), "only requests that were sent have an unknown outcome");
    assert!((5..=6).contains(&unknown), "{unknown}");
    let mut answered: Vec<_> = answers.into_iter().map(|(request, _)| request).collect();
    answered.sort_unstable();
    assert_eq!(answered, requests, "one answer for each request");
}

#[test]
fn refused_connects_open_the_breaker() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let mut driver = PoolDriver::at(&format!("http://{address}"));
    // The first probe, sent at the start.
    probe(&mut driver, 0.0);
    while driver.pool.is_available() {
        submit_at(&mut driver, post(1, "x"), 0.0);
        let refused = Failure::SiteUnavailable { retry_after_s: None };
        assert_eq!(failed(driver.next().1), refused);
        assert!(driver.last <= 5);
    }
    probe(&mut driver, 1.0);
    assert!(!driver.pool.is_available());
    assert_eq!(failed(ask_without_waiting(&mut driver, post(1, "x"), 1.0)), unavailable(2));
}

#[test]
fn requests_needing_no_site_work_while_open() {
    const SECRET: &str = "put your unique phrase here; #[it] has spaces";
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| {
        let keys = JwtKeys::parse(SECRET.as_bytes()).unwrap();
        s.verifier = Some(Verifier::new(&keys, vec![Issuer::new(&site.url())]));
    });
    open(&mut driver, &site);
    let token = jwt::token(SECRET, &site.url(), 7, driver.now().unix_s, |_, _| ());
    assert_eq!(proven(ask_without_waiting(&mut driver, prove(&token), 0.0)).user, 7);
    assert_eq!(
        failed(ask_without_waiting(&mut driver, prove("forged"), 0.0)),
        Failure::TokenInvalid(TokenFault::Layout)
    );
    let target = Target::Thread(1);
    let bare = Ask::Post(Post { credential: None, target, text: "x".into(), claimed: None });
    assert_eq!(failed(ask_without_waiting(&mut driver, bare, 0.0)), Failure::TokenMissing);
}

// ---------------------------------------------------------------- a site that serves nobody

/// Collects the replies to probes until the pool has decided about this time.
fn settle(driver: &mut PoolDriver, seconds: f64) {
    driver.pool.advance(at(driver, seconds));
    std::thread::sleep(Duration::from_millis(60));
    while driver.pool.next_answer().is_some() {}
    driver.pool.advance(at(driver, seconds));
}

fn page(status: u16, kind: &str, body: &str) -> Fault {
    let headers = vec![("Content-Type".to_owned(), kind.to_owned())];
    Fault::Answer { status, headers, body: body.as_bytes().to_vec() }
}

#[test]
fn site_that_answers_everyone_with_a_page_is_unusable_in_five_seconds() {
    let html = "text/html; charset=UTF-8";
    for (name, fault) in [
        ("firewall", page(403, html, "<title>Attention Required!</title>")),
        ("coming soon", page(200, html, "<html><title>Coming soon</title>")),
        ("not found", page(404, html, "<title>404</title>")),
        ("login redirect", Fault::status(302, &[("Location", "/wp-login.php")])),
        ("maintenance page", page(200, html, "<!doctype html><title>Maintenance</title>")),
        ("other JSON", page(200, "application/json", r#"{"ok":true}"#)),
    ] {
        let site = Site::start();
        let mut driver = PoolDriver::ready(&site, |_| ());
        assert_eq!(proven(driver.ask(prove("user-7"))).user, 7);
        site.always(fault);
        submit_at(&mut driver, prove("user-8"), 1.0);
        assert!(matches!(driver.next().1, Answer::Failed(_)), "{name}");
        for s in [1.1, 2.5, 4.5] {
            assert!(!driver.pool.is_unusable(at(&driver, 3.9)), "{name}");
            settle(&mut driver, s);
        }
        assert!(driver.pool.is_unusable(at(&driver, 5.0)), "{name}");
        assert!(driver.pool.is_available(), "members' requests still go to the site: {name}");
        // A probe with the credential of a member notices by itself that it works again.
        site.always(Fault::Delay(Duration::ZERO));
        for s in 6..17 {
            settle(&mut driver, f64::from(s));
        }
        assert!(!driver.pool.is_unusable(at(&driver, 17.0)), "{name}");
        assert_eq!(driver.pool.next_deadline(), None, "{name}");
    }
}

#[test]
fn page_for_one_member_leaves_the_site_usable() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    assert_eq!(proven(driver.ask(prove("user-7"))).user, 7);
    site.fail_when(|_, r| {
        let theirs = r.header("authorization").is_some_and(|token| token.contains("user-8"));
        theirs.then(|| page(403, "text/html", "<title>Blocked</title>"))
    });
    for s in 1..20 {
        submit_at(&mut driver, prove("user-8"), f64::from(s));
        assert!(matches!(driver.next().1, Answer::Failed(_)));
        settle(&mut driver, f64::from(s));
        assert!(!driver.pool.is_unusable(at(&driver, f64::from(s))), "{s}");
    }
}

#[test]
fn messages_switched_off_make_the_site_unusable_until_they_are_on() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    let no_route = || {
        let body = r#"{"code":"rest_no_route","message":"x","data":{"status":404}}"#;
        page(404, "application/json", body)
    };
    site.fail_when(move |_, r| r.path.contains("/messages").then(no_route));
    submit_at(&mut driver, list(1, "user-7"), 1.0);
    assert_eq!(failed(driver.next().1), Failure::SiteMisconfigured);
    for s in 1..6 {
        // Tokens are still good: that does not hide it.
        submit_at(&mut driver, prove("user-7"), f64::from(s));
        assert_eq!(proven(driver.next().1).user, 7);
        settle(&mut driver, f64::from(s));
    }
    assert!(driver.pool.is_unusable(at(&driver, 6.0)));
    assert_eq!(driver.pool.url_style(), UrlStyle::Pretty, "the URL style is not to blame");
    site.fail_when(|_, _| None);
    for s in 7..18 {
        settle(&mut driver, f64::from(s));
    }
    assert!(!driver.pool.is_unusable(at(&driver, 18.0)));
    assert_eq!(listed(driver.ask(list(1, "user-7"))), [7, 8]);
}

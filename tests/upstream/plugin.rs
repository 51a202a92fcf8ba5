//! Signed requests to the site's plugin, over sockets.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use buddyline::protocol::signature::SiteKeys;
use buddyline::upstream::SiteSettings;
use buddyline::upstream::plugin::CallNotice;
use serde_json::{Value, json};

use crate::support::driver::{LONG, PoolDriver};
use crate::support::plugin::{SECRET, signature};
use crate::support::site::{Fault, Site};

type Seen = Arc<Mutex<Vec<(String, Value)>>>;

fn with_keys(settings: &mut SiteSettings) {
    settings.site_keys = Some(SiteKeys::new([SECRET.as_bytes()]));
}

fn json_answer(status: u16, body: &Value) -> Fault {
    let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
    Fault::Answer { status, headers, body: body.to_string().into_bytes() }
}

/// Makes the site a plugin that checks each signature as PHP does, and returns what it has seen.
fn add_plugin(site: &Site, features: &'static [&'static str]) -> Seen {
    let seen = Seen::default();
    let log = seen.clone();
    site.fail_when(move |_, request| {
        let (_, route) = request.path.split_once("/buddyline/v1/")?;
        let header = request.header("buddyline-signature").unwrap_or_default();
        let time = header.split([',', '=']).nth(1)?.parse().ok()?;
        assert_eq!(header, signature(SECRET, "requests", &request.body, time), "{route}");
        assert_eq!(request.header("authorization"), None);
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        log.lock().unwrap().push((route.to_owned(), body));
        Some(json_answer(
            200,
            &json!({"version": "0.1.0", "features": features, "time": time, "accepted": 1}),
        ))
    });
    seen
}

/// Runs the pool as the loop does until `done`.
fn run(driver: &mut PoolDriver, what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < until, "{what}");
        let now = driver.now();
        driver.pool.advance(now.instant);
        if let Some((_, answer)) = driver.pool.next_answer() {
            panic!("no request was submitted: {answer:?}");
        }
        driver.pool.advance_plugin(now);
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn call(n: u64) -> CallNotice {
    CallNotice {
        missed: n % 2 == 1,
        call: format!("call-{n}"),
        thread: None,
        caller: 7,
        called: 8,
        at_s: 1_795_345_238,
        group: false,
    }
}

#[test]
fn plugin_is_found_and_gets_calls_and_activity() {
    let site = Site::start();
    let seen = add_plugin(&site, &["calls", "activity"]);
    let mut driver = PoolDriver::ready(&site, with_keys);
    let now = driver.now();
    driver.pool.notify_call(call(0));
    driver.pool.note_active(&[7, 8], now);
    run(&mut driver, "the calls arrive", || seen.lock().unwrap().len() >= 2);
    let routes: Vec<_> = seen.lock().unwrap().clone();
    assert_eq!(routes[0].0, "status");
    assert_eq!(routes[1].0, "calls");
    assert_eq!(routes[1].1["events"][0]["callId"], "call-0");
    assert_eq!(routes[1].1["events"][0]["threadId"], Value::Null);
    assert_ne!(routes[0].1["id"], routes[1].1["id"]);
    driver.pool.notify_call(call(1));
    run(&mut driver, "the next call arrives", || seen.lock().unwrap().len() >= 3);
    assert_eq!(seen.lock().unwrap()[2].1["events"][0]["type"], "missed");
    let until = Instant::now() + Duration::from_millis(200);
    run(&mut driver, "its answer is collected", || Instant::now() >= until);
    let counts = driver.pool.plugin_counts().unwrap();
    assert!(counts.found && counts.failed == [0, 0, 0], "{counts:?}");
    assert_eq!(counts.answered, [1, 2, 0]);
    // Activity waits for its minute, and the loop sleeps meanwhile.
    let wake = driver.pool.next_deadline().unwrap();
    assert!(wake > Instant::now() + Duration::from_secs(50), "{:?}", wake - Instant::now());
}

#[test]
fn site_without_the_plugin_is_asked_once_a_minute_and_stays_usable() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, with_keys);
    driver.pool.notify_call(call(0));
    let asked = || site.requests().iter().filter(|r| r.path.contains("/buddyline/v1/")).count();
    run(&mut driver, "the status is asked", || asked() == 1);
    let until = Instant::now() + Duration::from_millis(300);
    run(&mut driver, "some time passes", || Instant::now() >= until);
    assert_eq!(asked(), 1);
    assert!(driver.pool.is_available());
    let counts = driver.pool.plugin_counts().unwrap();
    assert!(!counts.found && counts.failed == [1, 0, 0], "{counts:?}");
}

#[test]
fn failing_plugin_does_not_open_the_breaker() {
    let site = Site::start();
    site.fail_when(|_, request| {
        request.path.contains("/buddyline/v1/").then(|| json_answer(500, &json!({"code": "x"})))
    });
    let mut driver = PoolDriver::ready(&site, with_keys);
    for n in 0..8 {
        // A new secret is tried at once.
        let secret = format!("{SECRET}{n}");
        driver.pool.set_plugin(None, Some(SiteKeys::new([secret.as_bytes()])));
        let asked = || site.requests().iter().filter(|r| r.path.contains("/status")).count();
        run(&mut driver, "the status is asked", || asked() == n + 1);
        run(&mut driver, "and answered", || true);
        let until = Instant::now() + Duration::from_millis(50);
        run(&mut driver, "collected", || Instant::now() >= until);
    }
    assert!(driver.pool.is_available(), "the plugin says nothing about the site");
}

#[test]
fn without_a_secret_nothing_is_sent_to_the_plugin() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    driver.pool.notify_call(call(0));
    let until = Instant::now() + Duration::from_millis(100);
    run(&mut driver, "some time passes", || Instant::now() >= until);
    assert!(site.requests().iter().all(|request| !request.path.contains("buddyline/v1")));
    assert_eq!(driver.pool.plugin_counts(), None);
}

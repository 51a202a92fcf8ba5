//! Log lines about the site: they explain each failure to the operator and contain no secrets.

use std::sync::Mutex;
use std::time::Duration;

use log::{Level, LevelFilter, Metadata, Record};

use buddyline::config::jwt_issuer::Issuer;
use buddyline::config::secrets::JwtKeys;
use buddyline::config::site_url::SiteUrl;
use buddyline::config::token_header::TokenHeader;
use buddyline::hub::interface::{Now, Target};
use buddyline::upstream::jwt::Verifier;

use crate::one_at_a_time;
use crate::support::driver::{PoolDriver, list, post_as, prove};
use crate::support::fixtures::load;
use crate::support::jwt;
use crate::support::site::{Fault, Site};

/// A logger that keeps every line, including those of ureq, up to level `debug`, the most verbose
/// of a release build.
struct LogCapture(Mutex<Vec<(Level, String)>>);

static CAPTURE: LogCapture = LogCapture(Mutex::new(Vec::new()));

impl log::Log for LogCapture {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Debug
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{}: {}", record.target(), record.args());
            self.0.lock().unwrap().push((record.level(), line));
        }
    }

    fn flush(&self) {}
}

fn lines() -> Vec<(Level, String)> {
    std::mem::take(&mut CAPTURE.0.lock().unwrap())
}

fn assert_logged(level: Level, words: &str) {
    let lines = lines();
    let found = lines.iter().any(|(l, line)| *l == level && line.contains(words));
    assert!(found, "no {level} with {words:?} in {lines:#?}");
}

/// A single test, because a process has one logger.
#[test]
fn log_explains_failures_without_secrets() {
    let _alone = one_at_a_time();
    log::set_logger(&CAPTURE).unwrap();
    log::set_max_level(LevelFilter::Debug);

    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| s.request_timeout = Duration::from_millis(500));
    assert_logged(Level::Info, "the BuddyBoss REST API answers at /wp-json/");

    let page = || {
        let kind = vec![("Content-Type".to_owned(), "text/html".to_owned())];
        Fault::Answer { status: 200, headers: kind, body: b"<html>s1te-html</html>".to_vec() }
    };
    let odd_code = Fault::Answer {
        status: 500,
        headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
        body: br#"{"code":"<b>s1te-html</b>","message":"s1te-html"}"#.to_vec(),
    };
    let echoed_token = Fault::Answer {
        status: 500,
        headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
        body: br#"{"code":"t0ken-7","message":"t0ken-7"}"#.to_vec(),
    };
    let to = [("Location", "https://u5er:s1te-html@example.org/?key=s1te-html")];
    for fault in [
        page(),
        odd_code,
        echoed_token,
        Fault::status(302, &to),
        Fault::Close,
        Fault::Hang,
        Fault::Garbage,
        Fault::HtmlBeforeJson,
        Fault::replay(&load("fail-php-fatal-after-store")),
    ] {
        site.fail_next(fault);
        driver.ask(post_as("t0ken-7", Target::Thread(1), "pr1vate text"));
    }
    driver.ask(post_as("t0ken-unknown", Target::Thread(1), "pr1vate text"));
    let all = lines();
    assert!(all.iter().any(|(_, l)| l.contains("ureq")), "no lines of ureq: {all:#?}");
    for (_, line) in &all {
        for secret in ["t0ken", "pr1vate", "s1te-html", "u5er", "critical error"] {
            assert!(!line.contains(secret), "{secret} in {line}");
        }
    }
    let warned =
        |words: &str| all.iter().any(|(l, line)| *l == Level::Warn && line.contains(words));
    assert!(warned("the URL style of the REST API may be wrong"));
    assert!(warned("status 200, not JSON"));
    assert!(warned("the connection is closed without an answer"));
    assert!(warned("the answer takes too long"));
    assert!(warned("status 500, code internal_server_error"));
    drop(driver);

    for (fault, words) in [
        (Fault::status(301, &to), "it redirects to https://example.org/; set --buddyboss-url"),
        (Fault::replay(&load("url-no-such-route")), "the BuddyBoss REST API is not there"),
        (page(), "it answers not as a REST API: status 200"),
        (Fault::Close, "it cannot be reached: the connection is closed without an answer"),
    ] {
        let site = Site::start();
        site.always(fault);
        let mut driver = PoolDriver::at(&site.url());
        driver.await_answer();
        assert_eq!(driver.pool.next_answer(), None);
        assert_logged(Level::Warn, words);
    }

    // A site that is down fails every message; the log has one line about it.
    let mut driver = PoolDriver::at(&Site::refusing());
    for _ in 0..20 {
        driver.ask(post_as("t0ken-7", Target::Thread(1), "pr1vate text"));
    }
    let down = "request failed (message): the connection is refused";
    let warnings = lines().iter().filter(|(l, s)| *l == Level::Warn && s.contains(down)).count();
    assert_eq!(warnings, 1);

    check_noise_log();
    check_query_log();
    check_outage_log();
}

/// Output around the JSON is warned of once, however much it differs, and is not quoted.
fn check_noise_log() {
    let site = Site::start();
    lines();
    site.always(Fault::Wrapped("text/html", "\u{feff}", ""));
    let mut driver = PoolDriver::at(&site.url());
    driver.await_answer();
    assert_eq!(driver.pool.next_answer(), None);
    for before in [
        "Warning: pr1vate text in /srv/x.php on line 3\n",
        "<!-- t0ken-7 -->",
        "pr1vate text\n",
        "t0ken-7\n",
    ] {
        site.always(Fault::Wrapped("application/json", before, ""));
        driver.ask(post_as("t0ken-7", Target::Thread(1), "pr1vate text"));
    }
    let all = lines();
    let noisy = |level| all.iter().filter(move |(l, s)| *l == level && s.contains("its JSON has"));
    let warnings: Vec<&(Level, String)> = noisy(Level::Warn).collect();
    assert_eq!(warnings.len(), 1, "{all:#?}");
    assert!(warnings[0].1.contains("a byte order mark (EF BB BF) before it"), "{all:#?}");
    assert_eq!(noisy(Level::Debug).count(), 4, "{all:#?}");
    for (_, line) in noisy(Level::Debug) {
        assert!(!line.contains("pr1vate") && !line.contains("t0ken"), "{line}");
    }
}

fn check_outage_log() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| s.workers = 1);
    lines();
    site.always(Fault::status(502, &[]));
    let at = |driver: &PoolDriver, s| driver.started + Duration::from_secs(s);
    let ask_at = |driver: &mut PoolDriver, s| {
        let ask = post_as("t0ken-7", Target::Thread(1), "pr1vate text");
        let now = Now { instant: at(driver, s), unix_s: 0 };
        driver.submit_at(ask, now);
        driver.next()
    };
    for _ in 0..30 {
        ask_at(&mut driver, 1);
    }
    let probe_at = |driver: &mut PoolDriver, s| {
        driver.pool.advance(at(driver, s));
        driver.await_answer();
        assert_eq!(driver.pool.next_answer(), None);
    };
    // Two minutes, long enough for each line to be logged again.
    for s in [2, 4, 8, 16, 32, 62, 92, 122] {
        probe_at(&mut driver, s);
        ask_at(&mut driver, s);
    }
    site.always(Fault::Delay(Duration::ZERO));
    probe_at(&mut driver, 152);
    for _ in 0..3 {
        ask_at(&mut driver, 153);
    }
    // The outage is over once the site has answered well for a second.
    driver.pool.advance(at(&driver, 154));
    let all = lines();
    let logged: Vec<&str> = all
        .iter()
        .filter(|(level, _)| *level <= Level::Info)
        .map(|(_, line)| line.split_once(&format!("{}: ", site.url())).unwrap().1)
        .collect();
    assert_eq!(
        logged,
        [
            "request failed (message): status 502, not JSON (text/html)",
            "5 failures in a row, the last: status 502, not JSON (text/html); next probe in 1 s",
            "it answers again, after 151 s",
        ]
    );

    // The log quotes `Retry-After` of the site, with the pause that the server applies.
    for (seconds, pause) in [("7", "7"), ("600", "60")] {
        let site = Site::start();
        let mut driver = PoolDriver::ready(&site, |_| ());
        lines();
        site.fail_next(Fault::status(503, &[("Retry-After", seconds)]));
        ask_at(&mut driver, 0);
        let words = format!(
            "it asks for a pause (status 503, not JSON (text/html)); next probe in {pause} s"
        );
        assert_logged(Level::Warn, &words);
    }
}

fn check_query_log() {
    const PASSWORD: &str = "Basic dDBrZW46dDBrZW4tcGFzc3dvcmQ=";
    const KEY: &str = "s1gning-key s1gning-key s1gning-key";
    let site = Site::start();
    site.suspend(66);
    let mut driver = PoolDriver::ready(&site, |s| s.request_timeout = Duration::from_millis(500));
    lines();
    for token in ["t0ken-7", "t0ken-unknown", "t0ken-66", "expired", PASSWORD] {
        driver.ask(prove(token));
        driver.ask(list(1, token));
        driver.ask(list(404, token));
    }
    let refusals = lines();
    assert!(
        refusals.iter().all(|(level, _)| *level == Level::Debug),
        "faults of members are not warnings: {refusals:#?}"
    );

    // If the site accepts no token at all, the operator is warned.
    let mut fresh = PoolDriver::at(&site.url());
    for n in 0..3 {
        fresh.ask(prove(&format!("t0ken-strange-{n}x")));
    }
    assert_logged(Level::Warn, "it has accepted no token so far");
    drop(fresh);

    site.set_participants(1, &(1..=1_001).collect::<Vec<_>>());
    driver.ask(list(1, "t0ken-7"));
    assert_logged(Level::Warn, "request failed (participant list): the thread");
    let html = || Fault::Answer {
        status: 200,
        headers: vec![("Content-Type".to_owned(), "text/html".to_owned())],
        body: b"<html>s1te-html</html>".to_vec(),
    };
    for (fault, words) in [
        (html(), "the URL style of the REST API may be wrong (token check); probing again"),
        (html(), "request failed (token check): status 200, not JSON"),
        (Fault::Close, "request failed (token check): the connection is closed"),
        (Fault::status(403, &[]), "request failed (token check): status 403, not JSON"),
        (Fault::Hang, "request failed (token check): the answer takes too long"),
    ] {
        let site = Site::start();
        let mut driver =
            PoolDriver::ready(&site, |s| s.request_timeout = Duration::from_millis(300));
        site.fail_when(move |_, r| r.header("authorization").map(|_| fault.clone()));
        driver.ask(prove("t0ken-7"));
        assert_logged(Level::Warn, words);
    }

    // No secret is logged, with another token header and with local verification either.
    let site = Site::start();
    site.set_token_header("accessToken");
    let url = SiteUrl::parse(&site.url()).unwrap();
    let keys = JwtKeys::parse(KEY.as_bytes()).unwrap();
    let mut driver = PoolDriver::ready(&site, |s| {
        s.token_header = TokenHeader::parse("accessToken").unwrap();
        s.verifier = Some(Verifier::new(&keys, vec![Issuer::from(&url)]));
        log::debug!("{s:?} {keys:?}");
    });
    let now = driver.now();
    let good = jwt::token(KEY, &site.url(), 7, now.unix_s, |_, _| ());
    let forged = jwt::token("guess", &site.url(), 7, now.unix_s, |_, _| ());
    for token in [&*good, &forged, "t0ken-7", PASSWORD] {
        driver.ask(prove(token));
        driver.ask(list(1, token));
        driver.ask(post_as(token, Target::Thread(1), "pr1vate text"));
    }
    let all = lines();
    assert!(all.iter().any(|(_, l)| l.contains("accesstoken")), "ureq's lines: {all:#?}");
    let (good, forged) = (good.split('.').nth(2).unwrap(), forged.split('.').nth(2).unwrap());
    for (_, line) in refusals.iter().chain(&all) {
        for secret in ["t0ken", "pr1vate", "s1gning-key", "dDBrZW46", good, forged] {
            assert!(!line.contains(secret), "{secret} in {line}");
        }
    }
}

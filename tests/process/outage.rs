//! Outages of the site, end to end: clients, the real binary, and a test site that fails and
//! recovers.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Client, LONG, of_type};
use crate::support::server::Server;
use crate::support::site::{Fault, Site};

/// Starts a server in front of this site, and waits for the answer to its first probe.
fn start_server(site: &Site, more: &[&str]) -> Server {
    let url = site.url();
    let server = Server::start(&[&["--buddyboss-url", &url], more].concat());
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("REST API answers")));
    server
}

fn post(thread: u64, client_id: &str) -> Value {
    json!({
        "type": "send_message", "threadId": thread, "message": "private words",
        "token": "s3cr3t-7", "clientId": client_id,
    })
}

fn outcome(client: &mut Client, client_id: &str) -> Value {
    // While the site fails, an outcome may take fifteen seconds.
    client.expect_within(2 * LONG, |frame| {
        (frame["type"] == "message" || frame["type"] == "error") && frame["clientId"] == client_id
    })
}

/// Whether this is the error of an open breaker: sent at once, with a time to retry.
fn is_breaker_error(frame: &Value) -> bool {
    let text = frame["message"].as_str().unwrap();
    frame["code"] == "site_unavailable" && text.contains("Try again in ")
}

/// Sends messages until the breaker opens; returns how many reached the site.
fn fail_until_breaker_opens(client: &mut Client, thread: u64) -> usize {
    for n in 0..20 {
        let id = format!("lost-{n}");
        client.send(&post(thread, &id));
        if is_breaker_error(&outcome(client, &id)) {
            return n;
        }
    }
    panic!("the breaker does not open");
}

fn warnings_with(server: &Server, words: &str) -> usize {
    server.log().iter().filter(|line| line.contains(words)).count()
}

#[test]
fn outage_fails_sends_fast_and_recovers_by_itself() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    let server = start_server(&site, &["--trust", "open"]);
    let mut seven = Client::in_thread(server.address(), 7, 41);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    seven.drain();
    site.always(Fault::status(502, &[]));
    let lost = fail_until_breaker_opens(&mut seven, 41);
    assert!((1..=5).contains(&lost), "{lost}");
    let posts = site.posts().len();
    let started = Instant::now();
    for n in 0..50 {
        seven.send(&post(41, &format!("n{n}")));
    }
    for n in 0..50 {
        let error = outcome(&mut seven, &format!("n{n}"));
        assert!(is_breaker_error(&error), "{error}");
        assert_eq!((&error["replyTo"], &error["threadId"]), (&json!("send_message"), &json!(41)));
    }
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());

    // Frames that do not need the site are served.
    seven.send(&json!({"type": "typing", "threadId": 41}));
    assert_eq!(eight.expect_type("typing")["userId"], 7);
    let call = json!({"type": "call_initiated", "senderId": 7, "recipientId": 8, "threadId": 41});
    seven.send(&call);
    eight.expect_type("call_initiated");
    let _nine = Client::as_user(server.address(), 9);
    eight.expect(|frame| frame["type"] == "user_connected" && frame["userId"] == 9);

    let ready = || server.ask(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    // The site answered a moment ago; the server is unready only after some seconds of outage.
    let until = Instant::now() + Duration::from_secs(8);
    while !ready().ends_with("the site is unavailable\n") {
        assert!(Instant::now() < until, "{}", ready());
        thread::sleep(Duration::from_millis(50));
    }

    // No client sends anything: a probe alone detects that the site is back.
    let before = site.requests().len();
    site.always(Fault::Delay(Duration::ZERO));
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("it answers again, after")));
    let probes = site.requests()[before..].to_vec();
    assert!(probes.iter().all(|r| r.header("authorization").is_none()), "{probes:?}");
    assert_eq!(site.posts().len(), posts, "no message serves as the probe");
    assert!(ready().ends_with("ready\n"), "{}", ready());
    seven.send(&post(41, "back"));
    assert_eq!(outcome(&mut seven, "back")["type"], "message");
    assert_eq!(of_type(&eight.drain(), "message").len(), 1);

    assert_eq!(warnings_with(&server, "failures in a row"), 1, "{:#?}", server.log());
    assert_eq!(warnings_with(&server, "it answers again"), 1, "{:#?}", server.log());
    for line in server.log() {
        assert!(!line.contains("s3cr3t") && !line.contains("private"), "{line}");
    }
}

#[test]
fn outage_keeps_subscribers_and_fails_new_joins_fast() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    site.add_thread(42, &[7, 8]);
    let server = start_server(&site, &["--upstream-timeout", "1s"]);
    let mut seven = Client::proven(server.address(), 7, "token-7");
    let mut eight = Client::proven(server.address(), 8, "token-8");
    seven.join(41);
    eight.join(41);
    site.always(Fault::status(503, &[("Retry-After", "60")]));
    seven.send(&json!({"type": "join_thread", "threadId": 42, "clientId": "first"}));
    let first = seven.expect_error("site_unavailable");
    assert!(first["message"].as_str().unwrap().contains("Try again in 60 seconds."), "{first}");
    let requests = site.requests().len();

    // Subscribers still receive each other's frames.
    seven.send(&json!({"type": "typing", "threadId": 41}));
    assert_eq!(eight.expect_type("typing")["userId"], 7);
    // A thread whose participants are not cached, and a token that is not cached.
    let started = Instant::now();
    eight.send(&json!({"type": "join_thread", "threadId": 42, "clientId": "second"}));
    assert_eq!(eight.expect_error("site_unavailable")["clientId"], "second");
    let mut nine = Client::connect(server.address());
    nine.send(&json!({"type": "user_connected", "userId": 9, "token": "token-9"}));
    nine.expect_error("site_unavailable");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(site.requests().len(), requests, "the site receives no requests");
}

#[test]
fn hanging_site_delays_others_only_until_breaker_opens() {
    let site = Site::start();
    for thread in 1..=60 {
        site.add_thread(thread, &[7]);
    }
    let server = start_server(&site, &["--trust", "open", "--upstream-timeout", "1s"]);
    let mut seven = Client::as_user(server.address(), 7);
    site.always(Fault::Hang);
    let started = Instant::now();
    for thread in 1..=60 {
        seven.send(&post(thread, &thread.to_string()));
    }
    let mut answered = Vec::new();
    let mut late = 0;
    while answered.len() < 60 {
        let frame = seven.expect_within(Duration::from_secs(30), |frame| frame["type"] == "error");
        assert_eq!(frame["replyTo"], "send_message");
        answered.push(frame["clientId"].as_str().unwrap().to_owned());
        late += usize::from(started.elapsed() > Duration::from_secs(6));
    }
    // With four workers and without the breaker, all sixty would take fifteen seconds. Only the
    // messages that were posted have an unknown outcome, which the server looks up for a while.
    assert!(late < 20, "{late} of sixty");
    assert!(site.posts().len() < 20, "{} posts", site.posts().len());
    answered.sort_unstable();
    answered.dedup();
    assert_eq!(answered.len(), 60, "each has one outcome");
}

#[test]
fn server_idles_between_probes_during_outage() {
    let site = Site::start();
    site.add_thread(41, &[7]);
    let server = start_server(&site, &["--trust", "open"]);
    let mut seven = Client::as_user(server.address(), 7);
    site.always(Fault::status(502, &[]));
    fail_until_breaker_opens(&mut seven, 41);
    let requests = site.requests().len();
    let ticks = server.cpu_ticks();
    thread::sleep(Duration::from_millis(3500));
    // The pauses between probes have grown to seconds. A second has a hundred clock ticks.
    let probes = site.requests().len() - requests;
    assert!(probes <= 2, "{probes}");
    let used = server.cpu_ticks() - ticks;
    assert!(used < 50, "{used} clock ticks of processor time");
}

//! Messages end to end: clients, the real binary, and a test site that is slow, busy or faulty.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Client, LONG, of_type};
use crate::support::server::Server;
use crate::support::site::{Fault, Site};

/// Starts a server in front of this site, and waits for the answer to its first probe.
fn start_server(site: &Site, more: &[&str]) -> Server {
    let url = site.url();
    let server = Server::start(&[&["--buddyboss-url", &url, "--trust", "open"], more].concat());
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("REST API answers")));
    server
}

fn post(thread: u64, text: &str, user: u64, client_id: &str) -> Value {
    json!({
        "type": "send_message", "threadId": thread, "recipientId": "", "message": text,
        "token": format!("s3cr3t-{user}"), "clientId": client_id,
    })
}

/// The outcomes of one `send_message` among these frames.
fn outcomes<'a>(frames: &'a [Value], client_id: &str) -> Vec<&'a Value> {
    let mut found = of_type(frames, "message");
    found.extend(of_type(frames, "error"));
    found.retain(|frame| frame["clientId"] == client_id);
    found
}

fn outcome(client: &mut Client, client_id: &str) -> Value {
    client.expect(|frame| {
        (frame["type"] == "message" || frame["type"] == "error") && frame["clientId"] == client_id
    })
}

#[test]
fn two_hundred_messages_are_stored_and_delivered_in_order() {
    const USERS: u64 = 20;
    const THREADS: u64 = 5;
    const EACH: u64 = 10;
    let site = Site::start();
    let everyone: Vec<u64> = (1..=USERS).collect();
    for thread in 1..=THREADS {
        site.add_thread(thread, &everyone);
    }
    let server = start_server(&site, &["--upstream-workers", "5"]);
    site.set_latency(Duration::from_millis(100));
    // Later requests often finish earlier.
    site.fail_when(|number, _| Some(Fault::Delay(Duration::from_millis(number as u64 * 67 % 100))));
    let address = server.address();
    let clients: Vec<Client> = everyone
        .iter()
        .map(|user| {
            let mut client = Client::as_user(address, *user);
            for thread in 1..=THREADS {
                client.send(&json!({"type": "join_thread", "threadId": thread}));
                client.expect_type("thread_joined");
            }
            client
        })
        .collect();
    let started = Instant::now();
    let threads: Vec<_> = clients
        .into_iter()
        .zip(everyone)
        .map(|(mut client, user)| {
            thread::spawn(move || {
                for n in 0..EACH {
                    let text = format!("{user}/{n}");
                    client.send(&post(n * THREADS / EACH + 1, &text, user, &text));
                }
                let until = Instant::now() + 3 * LONG;
                let mut received = Vec::new();
                while of_type(&received, "message").len() < (USERS * EACH) as usize {
                    assert!(Instant::now() < until, "only {} frames", received.len());
                    received.push(client.next());
                }
                received.extend(client.drain());
                received
            })
        })
        .collect();
    let received: Vec<Vec<Value>> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    // One post after another would take thirty seconds; threads do not wait for each other.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());

    let mut stored: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for thread in 1..=THREADS {
        stored.insert(thread, site.stored(thread).into_iter().map(|(_, text)| text).collect());
    }
    assert_eq!(stored.values().map(Vec::len).sum::<usize>() as u64, USERS * EACH);
    assert_eq!(site.posts().len() as u64, USERS * EACH, "nothing is posted twice");
    for texts in stored.values() {
        for user in 1..=USERS {
            let by_user = |text: &&String| text.split_once('/').unwrap().0 == user.to_string();
            let mut in_order: Vec<&String> = texts.iter().filter(by_user).collect();
            in_order.sort_unstable();
            let stored: Vec<&String> = texts.iter().filter(by_user).collect();
            assert_eq!(stored, in_order, "in the order of sending");
        }
    }
    for (frames, user) in received.iter().zip(1..) {
        assert_eq!(of_type(frames, "error"), [] as [&Value; 0]);
        for (thread, texts) in &stored {
            let shown: Vec<&str> = of_type(frames, "message")
                .into_iter()
                .filter(|frame| frame["threadId"] == *thread)
                .map(|frame| frame["message"].as_str().unwrap())
                .collect();
            assert_eq!(shown, *texts, "user {user}, thread {thread}");
        }
        for n in 0..EACH {
            let id = format!("{user}/{n}");
            let own = outcomes(frames, &id);
            assert_eq!(own.len(), 1, "{own:?}");
            assert_eq!(own[0]["senderId"], user);
        }
    }
}

#[test]
fn each_site_fault_has_one_outcome_and_next_message_works() {
    // `Retry-After` in this or the 429 would defer the next message: see tests/process/outage.rs.
    let wp_die = || Fault::Answer {
        status: 503,
        headers: vec![("Content-Type".into(), "application/json".into())],
        body: br#"{"code":"wp_die","message":"Maintenance"}"#.to_vec(),
    };
    let elsewhere = [("Location", "https://other.example/")];
    let suspended = [("Location", "/wp-login.php?action=bp-suspended")];
    // If the answer does not tell whether the message is stored, the server looks it up.
    let cases: Vec<(Fault, &str)> = vec![
        (Fault::Hang, "unknown_outcome"),
        (Fault::HangAfterStoring, "message"),
        (Fault::Close, "unknown_outcome"),
        (Fault::CloseAfterStoring, "message"),
        (Fault::Truncated, "message"),
        (Fault::TruncatedChunks, "message"),
        (Fault::Padded(5 << 20), "message"),
        (Fault::GzipBomb(8 << 20), "message"),
        (Fault::Gzip, "message"),
        (Fault::FatalAfterStoring, "message"),
        (Fault::StoredLate(Duration::from_secs(3)), "message"),
        (Fault::Html, "not_stored"),
        (Fault::HtmlBeforeJson, "message"),
        (Fault::Garbage, "unknown_outcome"),
        (Fault::CloseAfterAnswer, "message"),
        (Fault::Delay(Duration::from_millis(100)), "message"),
        (Fault::status(301, &elsewhere), "site_misconfigured"),
        (Fault::status(302, &suspended), "suspended"),
        (Fault::status(400, &[]), "refused_by_site"),
        (Fault::status(401, &[]), "not_stored"),
        (Fault::status(403, &[]), "not_stored"),
        (Fault::status(404, &[]), "site_misconfigured"),
        (Fault::status(413, &[]), "too_large"),
        (Fault::status(429, &[]), "site_busy"),
        (Fault::status(500, &[]), "not_stored"),
        (Fault::status(502, &[]), "not_stored"),
        (Fault::status(504, &[]), "unknown_outcome"),
        (wp_die(), "site_unavailable"),
    ];
    // Fewer at a time than the failures in a row that open the breaker.
    thread::scope(|scope| {
        for cases in cases.chunks(4) {
            scope.spawn(|| assert_each_outcome(cases));
        }
    });
}

/// Sends a message into each of these faults and another one after it, and checks both outcomes.
fn assert_each_outcome(cases: &[(Fault, &str)]) {
    let site = Site::start();
    let threads: Vec<u64> = (1..=cases.len() as u64).collect();
    for thread in &threads {
        site.add_thread(*thread, &[7, 8]);
    }
    let faults: Vec<Fault> = cases.iter().map(|(fault, _)| fault.clone()).collect();
    site.fail_when(move |_, request| {
        let text = request.json()["message"].as_str()?.to_owned();
        let case: usize = text.strip_prefix("private words, first ")?.parse().ok()?;
        Some(faults[case - 1].clone())
    });
    let settings = ["--upstream-timeout", "1s", "--upstream-workers", "8", "--log-level", "debug"];
    let server = start_server(&site, &settings);
    let mut seven = Client::as_user(server.address(), 7);
    let mut eight = Client::as_user(server.address(), 8);
    for thread in &threads {
        eight.send(&json!({"type": "join_thread", "threadId": thread}));
        eight.expect_type("thread_joined");
    }
    for thread in &threads {
        for which in ["first", "second"] {
            let text = format!("private words, {which} {thread}");
            seven.send(&post(*thread, &text, 7, &format!("{which}-{thread}")));
        }
    }
    let (mut own, mut received) = (Vec::new(), Vec::new());
    let until = Instant::now() + 3 * LONG;
    let is_outcome = |frame: &Value| frame["type"] == "message" || frame["type"] == "error";
    while own.len() < 2 * cases.len() && Instant::now() < until {
        own.extend(seven.drain().into_iter().filter(is_outcome));
        received.extend(eight.drain().into_iter().filter(is_outcome));
        thread::sleep(Duration::from_millis(50));
    }
    for ((fault, expected), thread) in cases.iter().zip(threads) {
        let expected = *expected;
        let first = outcomes(&own, &format!("first-{thread}"));
        assert_eq!(first.len(), 1, "{fault:?}: {first:?}");
        let word = if first[0]["type"] == "error" { &first[0]["code"] } else { &first[0]["type"] };
        assert_eq!(word, expected, "{fault:?}: {}", first[0]);
        assert_eq!(first[0]["threadId"], thread);
        let second = outcomes(&own, &format!("second-{thread}"));
        assert_eq!(second.len(), 1, "after {fault:?}: {second:?}");
        assert_eq!(second[0]["type"], "message", "after {fault:?}");
        // The other user receives the messages whose outcome is `message`, and nothing else.
        let received = received.iter().filter(|frame| frame["threadId"] == thread);
        let messages = if expected == "message" { 2 } else { 1 };
        assert_eq!(received.count(), messages, "{fault:?}");
    }
    assert_eq!(site.posts().len(), 2 * cases.len(), "nothing is posted twice");
    for line in server.log() {
        assert!(!line.contains("s3cr3t") && !line.contains("private"), "{line}");
    }
}

#[test]
fn message_queued_behind_a_hanging_one_is_never_posted() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    let server = start_server(&site, &["--message-turn-lasts", "500ms"]);
    let mut seven = Client::as_user(server.address(), 7);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    site.fail_next(Fault::Delay(Duration::from_secs(2)));
    seven.send(&post(41, "slow", 7, "first"));
    seven.send(&post(41, "behind it", 7, "second"));
    let fault = seven.expect_error("not_stored");
    assert_eq!(fault["clientId"], "second");
    assert_eq!(outcome(&mut seven, "first")["type"], "message");
    // It may be sent again with the same clientId.
    seven.send(&post(41, "behind it", 7, "second"));
    assert_eq!(outcome(&mut seven, "second")["type"], "message");
    assert_eq!(site.stored(41), [(7, "slow".to_owned()), (7, "behind it".to_owned())]);
    assert_eq!(of_type(&eight.drain(), "message").len(), 2);
}

#[test]
fn resend_after_reconnect_is_stored_once() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    let server = start_server(&site, &[]);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    let mut phone = Client::in_thread(server.address(), 7, 41);
    site.fail_next(Fault::FatalAfterStoring);
    phone.send(&post(41, "hello", 7, "a"));
    phone.drain();
    // The old connection is still open while the new one sends.
    let mut again = Client::in_thread(server.address(), 7, 41);
    again.send(&post(41, "hello", 7, "a"));
    let first = outcome(&mut again, "a");
    assert_eq!(first["type"], "message", "{first}");
    assert_eq!(outcome(&mut phone, "a"), first);
    drop(phone);
    again.send(&post(41, "hello", 7, "a"));
    assert_eq!(outcome(&mut again, "a"), first);
    assert_eq!(of_type(&again.drain(), "message"), [] as [&Value; 0]);
    assert_eq!(of_type(&eight.drain(), "message").len(), 1);
    assert_eq!((site.posts().len(), site.lookup_requests().len()), (1, 1));
}

#[test]
fn site_refusal_is_reported_with_its_code() {
    let site = Site::start();
    site.add_thread(41, &[7, 8, 9]);
    site.suspend(9);
    let server = start_server(&site, &[]);
    let mut client = Client::connect(server.address());
    for (frame, code) in [
        (json!({"threadId": 41, "token": "expired"}), "token_expired"),
        (json!({"threadId": 41, "token": "forged"}), "token_refused"),
        (json!({"threadId": 41, "token": "t-9"}), "suspended"),
        (json!({"threadId": 41, "token": "t-10"}), "not_participant"),
        (json!({"threadId": 99, "token": "t-7"}), "not_participant"),
        (json!({"threadId": 41}), "token_required"),
        (json!({"recipientId": 7, "token": "t-7"}), "cannot_write"),
    ] {
        let mut frame = frame;
        frame["type"] = json!("send_message");
        frame["message"] = json!("hello");
        frame["clientId"] = json!(code);
        client.send(&frame);
        let fault = client.expect_error(code);
        assert_eq!(fault["clientId"], code);
        assert_eq!(fault.get("threadId"), frame.get("threadId"));
    }
    assert_eq!(client.drain(), [] as [Value; 0], "a refused message does not identify its sender");
    assert_eq!(site.stored(41), []);
}

#[test]
fn unreachable_site_is_reported_as_unavailable() {
    let url = Site::refusing();
    let server = Server::start(&["--buddyboss-url", &url, "--trust", "open"]);
    let mut client = Client::as_user(server.address(), 7);
    client.send(&post(41, "hello", 7, "a"));
    client.expect_error("site_unavailable");
    assert!(server.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200 "));
}

#[test]
fn sender_is_the_one_named_by_the_site() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    let server = start_server(&site, &[]);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    let mut liar = Client::as_user(server.address(), 8_000);
    liar.send(&post(41, "it is I", 7, "a"));
    assert_eq!(eight.expect_type("message")["senderId"], 7);
}

#[test]
fn message_without_thread_reaches_both_in_the_new_thread() {
    let site = Site::start();
    let server = start_server(&site, &[]);
    let mut seven = Client::connect(server.address());
    let mut eight = Client::as_user(server.address(), 8);
    let mut nine = Client::as_user(server.address(), 9);
    let first = json!({
        "type": "send_message", "recipientId": "8", "message": "hi", "token": "t-7", "threadId": ""
    });
    seven.send(&first);
    let message = seven.expect_type("message");
    assert_eq!((&message["senderId"], &message["recipientId"]), (&json!(7), &json!("8")));
    let thread = message["threadId"].as_u64().unwrap();
    assert_eq!(site.threads(), [(thread, vec![7, 8])]);
    assert_eq!(eight.expect_type("message")["threadId"], thread);
    eight.send(&post(thread, "hello", 8, "b"));
    assert_eq!(seven.expect_type("message")["message"], "hello");
    let received = nine.drain();
    assert!(of_type(&received, "message").is_empty(), "{received:?}");
}

#[test]
fn only_messages_over_the_queue_limit_are_overloaded() {
    let site = Site::start();
    for thread in 1..=6 {
        site.add_thread(thread, &[7]);
    }
    let server = start_server(&site, &["--upstream-workers", "1", "--upstream-queue", "1"]);
    site.set_latency(Duration::from_millis(400));
    let mut client = Client::as_user(server.address(), 7);
    for number in 1..=6 {
        client.send(&post(number, "hello", 7, &number.to_string()));
        // The worker must have taken the first before the others need room in the queue.
        if number == 1 {
            site.await_posts(1);
        }
    }
    let codes: Vec<Value> = (1..=6).map(|n: u64| outcome_of(&mut client, &n.to_string())).collect();
    let overloaded = codes.iter().filter(|code| **code == "overloaded").count();
    let stored = codes.iter().filter(|code| **code == "message").count();
    assert_eq!((stored, overloaded), (2, 4), "{codes:?}");
    assert_eq!(site.posts().len(), 2);
    site.set_latency(Duration::ZERO);
    client.send(&post(3, "again", 7, "again"));
    assert_eq!(outcome(&mut client, "again")["type"], "message");

    // The limit for one connection does not depend on the site.
    let server = start_server(&site, &["--max-sending-per-connection", "2"]);
    site.set_latency(Duration::from_millis(400));
    let mut greedy = Client::as_user(server.address(), 7);
    let mut modest = Client::as_user(server.address(), 7);
    for n in 0..3 {
        greedy.send(&post(1, "hello", 7, &format!("g{n}")));
    }
    assert_eq!(greedy.expect_error("overloaded")["clientId"], "g2");
    modest.send(&post(1, "hello", 7, "m"));
    assert_eq!(outcome(&mut modest, "m")["type"], "message");
}

/// The outcome of a message: `message`, or the code of its error. Outcomes may arrive in any order,
/// since the client keeps other frames for later calls.
fn outcome_of(client: &mut Client, client_id: &str) -> Value {
    let frame = client.find(|frame| {
        (frame["type"] == "message" || frame["type"] == "error") && frame["clientId"] == client_id
    });
    if frame["type"] == "error" { frame["code"].clone() } else { frame["type"].clone() }
}

#[test]
fn message_is_delivered_after_its_sender_leaves() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    let server = start_server(&site, &[]);
    site.set_latency(Duration::from_millis(300));
    let mut eight = Client::in_thread(server.address(), 8, 41);
    let mut seven = Client::in_thread(server.address(), 7, 41);
    seven.send(&post(41, "last words", 7, "a"));
    seven.drain();
    seven.leave();
    // Another user gets the slot of the connection, and none of its frames.
    let mut nine = Client::as_user(server.address(), 9);
    assert_eq!(eight.expect_type("message")["message"], "last words");
    assert_eq!(of_type(&nine.drain(), "message"), [] as [&Value; 0]);
    assert_eq!(of_type(&eight.drain(), "message"), [] as [&Value; 0], "once");
}

#[test]
fn stop_reports_every_outcome_before_closing() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    let mut server = start_server(&site, &["--drain-timeout", "0s"]);
    site.set_latency(Duration::from_millis(300));
    let mut seven = Client::as_user(server.address(), 7);
    seven.send(&post(41, "on its way", 7, "first"));
    seven.send(&post(41, "waits", 7, "second"));
    seven.drain();
    let started = Instant::now();
    server.signal("TERM");
    let (first, second) = (outcome_of(&mut seven, "first"), outcome_of(&mut seven, "second"));
    assert_eq!((first, second), (json!("unknown_outcome"), json!("not_stored")));
    // The site answers while the server still waits for the client to close the connection.
    assert_eq!(seven.close_code(), Some(1012));
    let status = server.exit(Duration::from_secs(3).saturating_sub(started.elapsed()));
    assert_eq!(status.code(), Some(0), "{:#?}", server.log());
}

//! Stop and restart: drains, signals, suspended and killed processes. Each accepted message gets an
//! outcome.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Client, Received};
use crate::support::client_set::ClientSet;
use crate::support::server::{Server, ask, binary};
use crate::support::site::{Fault, Site};

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Starts a server with `--trust open` in front of this site.
fn start_server(site: &Site, arguments: &[&str]) -> Server {
    let site = site.url();
    let site = ["--buddyboss-url", &site, "--trust", "open"];
    Server::start(&[&site[..], arguments].concat())
}

fn two_member_site() -> Site {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    site
}

fn message(thread: u64, text: &str, user: u64, client_id: &str) -> Value {
    json!({
        "type": "send_message", "threadId": thread, "message": text, "senderId": user,
        "token": format!("user-{user}"), "clientId": client_id,
    })
}

/// The outcome of a message: `message`, or the code of its error.
fn outcome_of(client: &mut Client, client_id: &str) -> String {
    let frame = client.find(|frame| {
        frame["clientId"] == client_id && (frame["type"] == "message" || frame["type"] == "error")
    });
    let word = if frame["type"] == "error" { &frame["code"] } else { &frame["type"] };
    word.as_str().unwrap().to_owned()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

fn upgrade() -> Vec<u8> {
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
      Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_vec()
}

fn await_drain(server: &Server) {
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("draining for at most")));
}

// ---- drain

#[test]
fn in_flight_message_finishes_before_its_sender_is_closed() {
    let site = two_member_site();
    let mut server = start_server(&site, &[]);
    let mut seven = Client::in_thread(server.address(), 7, 41);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    site.set_latency(1500 * MS);
    seven.send(&message(41, "on its way", 7, "first"));
    seven.send(&message(41, "behind it", 7, "second"));
    seven.drain();
    let begun = Instant::now();
    server.signal("TERM");
    assert_eq!(eight.close_code(), Some(1012));
    assert!(
        begun.elapsed() < S,
        "a connection without a message in flight closes at once: {:?}",
        begun.elapsed()
    );
    // Open connections are served, but new messages are not posted.
    seven.send(&message(41, "too late", 7, "third"));
    assert_eq!(outcome_of(&mut seven, "third"), "not_stored");
    seven.send(&json!({"type": "typing", "threadId": 41, "clientId": "typing"}));
    seven.find(|frame| frame["type"] == "typing" && frame["clientId"] == "typing");
    assert!(
        begun.elapsed() < 1200 * MS,
        "these replies do not wait for the site: {:?}",
        begun.elapsed()
    );
    assert_eq!(outcome_of(&mut seven, "first"), "message");
    assert_eq!(outcome_of(&mut seven, "second"), "message");
    let answered = Instant::now();
    assert_eq!(seven.close_code(), Some(1012));
    assert!(
        answered.elapsed() < S,
        "closed as soon as it has its outcomes: {:?}",
        answered.elapsed()
    );
    assert_eq!(server.exit(2 * S).code(), Some(0));
    let stored: Vec<_> = site.stored(41).into_iter().map(|(_, text)| text).collect();
    assert_eq!(stored, ["on its way", "behind it"]);
}

#[test]
fn message_of_departed_sender_is_stored_before_exit() {
    let site = two_member_site();
    let mut server = start_server(&site, &[]);
    let mut seven = Client::as_user(server.address(), 7);
    site.set_latency(S);
    for text in ["one", "two"] {
        seven.send(&message(41, text, 7, text));
    }
    seven.drain();
    seven.leave();
    server.signal("TERM");
    assert_eq!(server.exit(5 * S).code(), Some(0));
    assert_eq!(site.stored(41).len(), 2, "also the one that was queued behind the first");
}

#[test]
fn drain_keeps_a_connection_awaiting_an_earlier_outcome() {
    let site = two_member_site();
    let mut server = start_server(&site, &[]);
    let mut phone = Client::as_user(server.address(), 7);
    site.set_latency(1500 * MS);
    phone.send(&message(41, "from the tunnel", 7, "tunnel"));
    phone.drain();
    drop(phone);
    let mut again = Client::as_user(server.address(), 7);
    server.signal("TERM");
    assert_eq!(outcome_of(&mut again, "tunnel"), "message");
    assert_eq!(again.close_code(), Some(1012));
    assert_eq!(server.exit(2 * S).code(), Some(0));
}

#[test]
fn held_frames_get_an_outcome_before_drain_ends() {
    let site = two_member_site();
    let url = site.url();
    let mut server = Server::start(&["--buddyboss-url", &url]);
    let mut seven = Client::connect(server.address());
    site.set_latency(500 * MS);
    // The server verifies the token before it posts the message.
    seven.send(&message(41, "who am I?", 7, "waits"));
    seven.expect_nothing_for(100 * MS);
    server.signal("TERM");
    assert_eq!(outcome_of(&mut seven, "waits"), "message");
    assert_eq!(seven.close_code(), Some(1012));
    assert_eq!(server.exit(2 * S).code(), Some(0));
    assert_eq!(site.stored(41).len(), 1);
}

#[test]
fn drain_timeout_reports_remaining_outcomes() {
    let site = two_member_site();
    site.fail_when(|_, request| (request.method == "POST").then_some(Fault::Hang));
    let mut server = start_server(&site, &["--drain-timeout", "1s"]);
    let mut seven = Client::as_user(server.address(), 7);
    seven.send(&message(41, "hangs", 7, "first"));
    seven.send(&message(41, "waits", 7, "second"));
    seven.drain();
    let begun = Instant::now();
    server.signal("TERM");
    let outcomes = ["first", "second"].map(|id| outcome_of(&mut seven, id));
    assert_eq!(outcomes, ["unknown_outcome", "not_stored"]);
    assert_eq!(seven.close_code(), Some(1012));
    let lasted = begun.elapsed();
    assert!(lasted >= 950 * MS && lasted < 2 * S, "{lasted:?}");
    assert_eq!(server.exit(2 * S).code(), Some(0));
}

#[test]
fn zero_drain_time_exits_at_once() {
    let site = two_member_site();
    site.fail_when(|_, request| (request.method == "POST").then_some(Fault::Hang));
    let mut server = start_server(&site, &["--drain-timeout", "0s"]);
    let mut seven = Client::as_user(server.address(), 7);
    seven.send(&message(41, "hangs", 7, "first"));
    seven.drain();
    let begun = Instant::now();
    server.signal("TERM");
    assert_eq!(outcome_of(&mut seven, "first"), "unknown_outcome");
    assert_eq!(seven.close_code(), Some(1012));
    assert_eq!(server.exit(2 * S).code(), Some(0));
    assert!(begun.elapsed() < 2 * S, "{:?}", begun.elapsed());
}

#[test]
fn second_signal_exits_at_once_with_all_outcomes() {
    let site = Site::start();
    site.fail_when(|_, request| (request.method == "POST").then_some(Fault::Hang));
    let mut server = start_server(&site, &["--drain-timeout", "10m"]);
    let mut client_set = ClientSet::open(server.address(), 300);
    for (n, client) in client_set.clients.iter_mut().enumerate() {
        client.send(&message(n as u64 + 1, "x", n as u64 + 1, "c").to_string());
        client.send(r#"{"type":"ping"}"#);
    }
    client_set
        .poll_until(20 * S, |clients| clients.iter().all(|client| !client.received.is_empty()));
    server.signal("TERM");
    await_drain(&server);
    let begun = Instant::now();
    server.signal("INT");
    assert_eq!(server.exit(5 * S).code(), Some(0));
    let lasted = begun.elapsed();
    assert!(lasted < S, "{lasted:?}");
    client_set.poll_until(5 * S, |clients| clients.iter().all(|client| client.closed.is_some()));
    let mut codes = HashMap::new();
    for client in &client_set.clients {
        assert_eq!(client.closed.unwrap().1, Some(1012));
        let outcomes: Vec<_> =
            client.received.iter().filter(|text| text.contains(r#""c""#)).collect();
        assert_eq!(outcomes.len(), 1, "{:?}", client.received);
        let outcome: Value = serde_json::from_str(outcomes[0]).unwrap();
        *codes.entry(outcome["code"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    // Messages that no worker had taken are certainly not stored; the others have an unknown
    // outcome.
    assert_eq!(codes.values().sum::<usize>(), 300, "{codes:?}");
    let kinds = ["unknown_outcome", "not_stored", "overloaded"];
    assert!(codes.keys().all(|code| kinds.contains(&&**code)), "{codes:?}");
}

#[test]
fn drain_closes_900_connections_evenly_without_loss() {
    let site = Site::start();
    let arguments =
        ["--drain-timeout", "3s", "--upstream-workers", "8", "--presence-grace", "100ms"];
    let mut server = start_server(&site, &arguments);
    let mut client_set = ClientSet::open(server.address(), 900);
    site.set_latency(50 * MS);
    let report = run_drain(&site, &mut server, &mut client_set, 3 * S);
    assert_eq!(report.lost, 0, "{report:?}");
    assert_eq!(report.stored, 90, "{report:?}");
    // After each quarter of a second, the number of closed connections is close to an even rate:
    // the server is at most half a second early, and at most a second late on a busy machine.
    let each = 900 / 12;
    let mut closed = 0;
    for (step, now) in (1..=12_usize).zip(&report.closed) {
        closed += now;
        let expected = each * step.saturating_sub(4)..=each * (step + 2);
        assert!(expected.contains(&closed), "{closed} after step {step}: {report:?}");
    }
    assert!(report.departures == 0, "a drain announces no departures: {report:?}");
}

/// The results of a drain.
#[derive(Debug)]
struct DrainReport {
    /// Connections closed in each twelfth of the drain time, and in each such step after it.
    closed: Vec<usize>,
    /// Time from the signal to the last close, and to the exit of the process.
    lasted: [Duration; 2],
    stored: usize,
    lost: usize,
    /// Number of `user_disconnected` frames.
    departures: usize,
}

/// Lets each tenth client send a message to a thread of its own, and drains the server.
fn run_drain(
    site: &Site,
    server: &mut Server,
    client_set: &mut ClientSet,
    lasts: Duration,
) -> DrainReport {
    for (n, client) in client_set.clients.iter_mut().enumerate() {
        let user = n as u64 + 1;
        client.send(&json!({"type": "user_connected", "userId": user}).to_string());
        if n % 10 == 0 {
            site.add_thread(user, &[user]);
            client.send(&message(user, "x", user, "mine").to_string());
        }
        client.send(r#"{"type":"ping","clientId":"sent"}"#);
    }
    let pong = |text: &String| text.contains("pong");
    client_set.poll_until(60 * S, |clients| {
        clients.iter().all(|client| client.received.iter().any(pong))
    });
    // Drops the presence frames of the arrivals: only those of the drain count.
    client_set
        .clients
        .iter_mut()
        .for_each(|client| client.received.retain(|text| text.contains("mine")));
    let begun = Instant::now();
    server.signal("TERM");
    client_set
        .poll_until(lasts + 20 * S, |clients| clients.iter().all(|client| client.closed.is_some()));
    let last = client_set.clients.iter().filter_map(|client| client.closed).map(|(at, _)| at).max();
    assert_eq!(server.exit(10 * S).code(), Some(0));
    let lasted = [last.unwrap() - begun, begun.elapsed()];
    let (mut stored, mut lost) = (0, 0);
    for (n, client) in client_set.clients.iter().enumerate() {
        assert_eq!(client.closed.unwrap().1, Some(1012), "{:?}", client.received);
        let mine = client.received.iter().filter(|text| text.contains(r#""clientId":"mine""#));
        let mine: Vec<Value> = mine.map(|text| serde_json::from_str(text).unwrap()).collect();
        stored += mine.iter().filter(|frame| frame["type"] == "message").count();
        if n % 10 == 0 {
            lost += usize::from(mine.len() != 1);
        }
    }
    let departures = client_set.clients.iter().flat_map(|client| &client.received);
    let departures = departures.filter(|text| text.contains("user_disconnected")).count();
    DrainReport {
        closed: client_set.closes_per_step(begun, lasts / 12),
        lasted,
        stored,
        lost,
        departures,
    }
}

/// `cargo test --release --test process -- --ignored --nocapture drain_of_5000`
#[test]
#[ignore = "a measurement: half a minute, and 5,000 connections"]
fn drain_of_5000() {
    rlimit::increase_nofile_limit(20_000).unwrap();
    let site = Site::start();
    let mut server = start_server(
        &site,
        &["--upstream-workers", "16", "--upstream-queue", "1000", "--presence", "off"],
    );
    let mut client_set = ClientSet::open(server.address(), 5_000);
    site.set_latency(100 * MS);
    let report = run_drain(&site, &mut server, &mut client_set, 25 * S);
    let first = client_set
        .clients
        .iter()
        .filter_map(|client| client.closed)
        .map(|(at, _)| at)
        .min()
        .unwrap();
    let seconds = client_set.closes_per_step(first, S);
    println!("closed in each second: {seconds:?}");
    println!("time to the last close, time to the exit of the process: {:?}", report.lasted);
    println!(
        "messages in flight: 500, stored {}, without an outcome {}",
        report.stored, report.lost
    );
    assert_eq!((report.stored, report.lost), (500, 0));
    assert!(seconds.iter().all(|closed| *closed <= 260), "{seconds:?}");
}

/// `cargo test --release --test process -- --ignored --nocapture second_signal_among_5000`
#[test]
#[ignore = "a measurement: 5,000 connections"]
fn second_signal_among_5000() {
    rlimit::increase_nofile_limit(20_000).unwrap();
    let mut server = Server::start(&["--drain-timeout", "10m", "--presence", "off"]);
    let mut client_set = ClientSet::open(server.address(), 5_000);
    server.signal("TERM");
    await_drain(&server);
    let begun = Instant::now();
    server.signal("TERM");
    assert_eq!(server.exit(5 * S).code(), Some(0));
    println!("from the second signal to the exit of the process: {:?}", begun.elapsed());
    let log = server.final_output();
    log.lines().rev().take(3).for_each(|line| println!("{line}"));
    client_set.poll_until(10 * S, |clients| clients.iter().all(|client| client.closed.is_some()));
    let close_frames =
        client_set.clients.iter().filter(|client| client.closed.unwrap().1 == Some(1012)).count();
    println!("close frames received: {close_frames} of 5000");
    assert_eq!(close_frames, 5_000);
}

// ---- HTTP during a drain

#[test]
fn drain_fails_health_check_and_refuses_new_clients() {
    let site = two_member_site();
    let mut server = start_server(&site, &["--drain-timeout", "20s"]);
    let ready = server.ask(&get("/readyz"));
    assert!(ready.starts_with("HTTP/1.1 200 ") && ready.ends_with("\r\n\r\nready\n"), "{ready}");
    assert!(ready.contains("Cache-Control: no-store\r\n") && ready.contains("Connection: close"));
    let mut seven = Client::as_user(server.address(), 7);
    site.set_latency(2 * S);
    seven.send(&message(41, "on its way", 7, "first"));
    seven.drain();
    server.signal("TERM");
    await_drain(&server);
    for path in ["/readyz", "/readyz?from=balancer"] {
        let unready = server.ask(&get(path));
        assert!(unready.starts_with("HTTP/1.1 503 "), "{unready}");
        assert!(unready.ends_with("\r\n\r\ndraining\n"), "{unready}");
        assert!(unready.contains("Cache-Control: no-store\r\n"), "{unready}");
    }
    let head = server.ask(b"HEAD /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 503 ") && head.ends_with("\r\n\r\n"), "{head}");
    let health = server.ask(&get("/healthz"));
    assert!(health.starts_with("HTTP/1.1 200 ") && health.ends_with("\r\n\r\nok\n"), "{health}");
    let refused = server.ask(&upgrade());
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("Retry-After: 5\r\n"));
    assert_eq!(outcome_of(&mut seven, "first"), "message");
    assert_eq!(seven.close_code(), Some(1012));
    assert_eq!(server.exit(2 * S).code(), Some(0));
}

// ---- signals

#[test]
fn sighup_is_harmless() {
    let site = two_member_site();
    let mut server = start_server(&site, &[]);
    let mut seven = Client::in_thread(server.address(), 7, 41);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    for n in 0..20 {
        server.signal("HUP");
        let name = format!("m{n}");
        seven.send(&message(41, &name, 7, &name));
        assert_eq!(outcome_of(&mut seven, &name), "message");
        eight.expect(|frame| frame["message"] == *name);
    }
    server.wait_for_log(|lines| {
        lines.iter().any(|line| line.contains("INFO") && line.contains("SIGHUP"))
    });
    // A SIGHUP during a drain is harmless, too.
    site.set_latency(S);
    seven.send(&message(41, "last", 7, "last"));
    seven.drain();
    server.signal("TERM");
    await_drain(&server);
    server.signal("HUP");
    assert_eq!(outcome_of(&mut seven, "last"), "message");
    assert_eq!(seven.close_code(), Some(1012));
    assert_eq!(server.exit(2 * S).code(), Some(0));
}

#[test]
fn simultaneous_signals_count_once() {
    let site = two_member_site();
    site.fail_when(|_, request| (request.method == "POST").then_some(Fault::Hang));
    let mut server = start_server(&site, &["--drain-timeout", "10m"]);
    let mut seven = Client::as_user(server.address(), 7);
    seven.send(&message(41, "hangs", 7, "first"));
    seven.drain();
    let id = server.id();
    let signals = format!(
        "for i in 1 2 3 4 5 6 7 8 9; do kill -HUP {id}; kill -TERM {id}; kill -INT {id}; done; \
         sleep 0.5; for i in 1 2 3 4 5 6 7 8 9; do kill -TERM {id}; kill -HUP {id}; done; true"
    );
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(signals).stderr(Stdio::null()).status().unwrap();
    assert_eq!(outcome_of(&mut seven, "first"), "unknown_outcome");
    assert_eq!(seven.close_code(), Some(1012));
    assert_eq!(server.exit(2 * S).code(), Some(0));
    assert_eq!(server.final_output().matches("draining for at most").count(), 1);
}

// ---- suspended and killed processes

/// Three seconds: longer than each timeout of these settings, which are `typing`, the grace time of
/// presence, and the answer of the site.
#[test]
fn suspended_process_resumes() {
    check_resume_after(3 * S);
}

/// `cargo test --test process -- --ignored ten_seconds`
#[test]
#[ignore = "takes ten seconds; `suspended_process_resumes` takes three"]
fn process_suspended_for_ten_seconds_resumes() {
    check_resume_after(10 * S);
}

fn check_resume_after(suspended: Duration) {
    let site = two_member_site();
    let deadlines =
        ["--typing-lasts", "500ms", "--presence-grace", "500ms", "--upstream-timeout", "2s"];
    let server = start_server(&site, &deadlines);
    let mut seven = Client::in_thread(server.address(), 7, 41);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    let nine = Client::in_thread(server.address(), 9, 41);
    eight.find(|frame| frame["type"] == "user_connected" && frame["userId"] == 9);
    seven.send(&json!({"type": "typing", "threadId": 41}));
    eight.expect_type("typing");
    server.signal("STOP");
    drop(nine);
    for n in 0..50 {
        let name = format!("m{n}");
        seven.send(&message(41, &name, 7, &name));
    }
    thread::sleep(suspended - S);
    // The kernel completes the connection; the server accepts it after it resumes.
    let newcomer = thread::spawn({
        let address = server.address();
        move || Client::as_user(address, 10)
    });
    thread::sleep(S);
    let begun = Instant::now();
    server.signal("CONT");
    for n in 0..50 {
        assert_eq!(outcome_of(&mut seven, &format!("m{n}")), "message");
        eight.find(|frame| frame["message"] == format!("m{n}"));
    }
    eight.find(|frame| frame["type"] == "user_disconnected" && frame["userId"] == 9);
    let mut newcomer = newcomer.join().unwrap();
    newcomer.drain();
    assert!(begun.elapsed() < 5 * S, "{:?}", begun.elapsed());
    let stored: Vec<_> = site.stored(41).into_iter().map(|(_, text)| text).collect();
    assert_eq!(stored, (0..50).map(|n| format!("m{n}")).collect::<Vec<_>>(), "each once, in order");
    // Timeouts work as before: each fires exactly once.
    seven.send(&json!({"type": "typing", "threadId": 41}));
    eight.find(|frame| frame["type"] == "typing" && frame["typing"] == true);
    eight.find(|frame| frame["type"] == "typing" && frame["typing"] == false);
}

#[test]
fn drain_continues_after_a_long_suspension() {
    let mut server = Server::start(&["--drain-timeout", "1500ms"]);
    let mut client_set = ClientSet::open(server.address(), 600);
    server.signal("TERM");
    await_drain(&server);
    server.signal("STOP");
    thread::sleep(2 * S);
    server.signal("CONT");
    assert_eq!(server.exit(5 * S).code(), Some(0));
    client_set.poll_until(5 * S, |clients| clients.iter().all(|client| client.closed.is_some()));
    assert!(client_set.clients.iter().all(|client| client.closed.unwrap().1 == Some(1012)));
}

#[test]
fn kill_frees_the_port_and_loses_no_acknowledged_message() {
    let site = two_member_site();
    let mut server = start_server(&site, &[]);
    let address = server.address();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let mut seven = Client::in_thread(address, 7, 41);
        let _eight = Client::in_thread(address, 8, 41);
        let mut sent = 0;
        let until = Instant::now() + 300 * MS;
        while Instant::now() < until {
            let name = format!("r{round}-m{sent}");
            sent += 1;
            seven.send(&message(41, &name, 7, &name));
            // A few are in flight at any time.
            if sent > 5 {
                let seen = format!("r{round}-m{}", sent - 6);
                assert_eq!(outcome_of(&mut seven, &seen), "message");
                acknowledged.push(seen);
            }
        }
        server.signal("KILL");
        server.exit(2 * S);
        let begun = Instant::now();
        let mut command = binary();
        let (url, listen) = (site.url(), address.to_string());
        command.args(["--buddyboss-url", &url, "--trust", "open", "--listen", &listen]);
        server = Server::launch(command, 1);
        assert!(begun.elapsed() < 5 * S, "{:?}", begun.elapsed());
        assert!(ask(address, &get("/readyz")).starts_with("HTTP/1.1 200 "));
        // Frames that the killed server had sent are still in the receive buffer.
        let until = Instant::now() + S;
        while let Received::Text(text) = seven.next_until(until) {
            let frame: Value = serde_json::from_str(&text).unwrap();
            if frame["type"] == "message" {
                acknowledged.push(frame["clientId"].as_str().unwrap().to_owned());
            }
        }
    }
    let stored: Vec<_> = site.stored(41).into_iter().map(|(_, text)| text).collect();
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());
    for name in &acknowledged {
        assert_eq!(stored.iter().filter(|text| *text == name).count(), 1, "{name}");
    }
}

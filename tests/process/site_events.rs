//! `POST /site/events` through the real server: verified events, and every kind that is refused.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Client, LONG};
use crate::support::files::SecretFile;
use crate::support::plugin::{
    SECRET, body, new_id, now_s, read, request, send, signature, signed_request, ticket,
    ticket_claims,
};
use crate::support::scanner::SecretScanner;
use crate::support::scrape::{self, scrape};
use crate::support::server::{Server, ask, binary, wait_until};
use crate::support::site::{Fault, Site};
use crate::support::tls::Certificate;

/// A server with the secret of a plugin, and its site.
struct Fixture {
    server: Server,
    site: Site,
    _secret: SecretFile,
}

impl Fixture {
    fn start(arguments: &[&str]) -> Fixture {
        let (site, secret) = (Site::start(), SecretFile::with(&[SECRET]));
        let url = site.url();
        let all = ["--buddyboss-url", &url, "--site-secret-file", secret.path()];
        let server = scrape::start(&[&all, arguments].concat());
        Fixture { server, site, _secret: secret }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn refused(&self) -> Vec<(String, f64)> {
        let page = scrape(&self.server);
        let counts = page.nonzero("buddyline_site_requests_refused_total");
        counts.into_iter().map(|(cause, count)| (cause.to_owned(), count)).collect()
    }
}

const RESYNC: &str = r#"{"type":"resync"}"#;

fn status(response: &str) -> &str {
    response.split(' ').nth(1).unwrap_or_default()
}

fn signed_at(time_s: u64, body: &[u8]) -> Vec<u8> {
    let signature = signature(SECRET, "events", body, time_s);
    request(&format!("Buddyline-Signature: {signature}\r\n"), body)
}

/// Sends the begin of a request and keeps the connection.
fn begin(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    socket.write_all(bytes).unwrap();
    socket
}

fn read_to_end(mut socket: TcpStream) -> String {
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn verified_events_are_taken_and_counted_by_type() {
    let fixture = Fixture::start(&[]);
    let events = [
        json!({"type": "resync"}),
        json!({"type": "block", "userId": 3, "blockedId": 7}),
        json!({"type": "block", "userId": 3, "blockedId": 8}),
        json!({"type": "of_a_newer_plugin"}),
        json!({"type": "test", "token": "abc"}),
    ];
    let (code, answer) = send(fixture.address(), &events);
    assert_eq!((&*code, answer), ("200", json!({"accepted": 4, "ignored": 1})));
    let counts = scrape(&fixture.server);
    assert_eq!(
        counts.nonzero("buddyline_site_events_total"),
        [("block", 2.0), ("ignored", 1.0), ("resync", 1.0), ("test", 1.0)]
    );
    assert!(fixture.refused().is_empty());
    let log = fixture.server.log().join("\n");
    assert!(log.contains("the site's plugin 0.1.0 sends events"), "{log}");
    // The server works as before.
    fixture.site.add_member("anna", 3);
    let mut client = Client::proven(fixture.address(), 3, "anna");
    client.send(&json!({"type": "ping"}));
    client.find(|frame| frame["type"] == "pong");
}

#[test]
fn response_has_the_date_for_the_plugins_clock_check() {
    let fixture = Fixture::start(&[]);
    for time_s in [now_s(), now_s() - 4_000] {
        let response = ask(fixture.address(), &signed_at(time_s, &body(&[])));
        let date = response.lines().find_map(|line| line.strip_prefix("Date: ")).unwrap();
        let date = httpdate::parse_http_date(date).unwrap();
        let seconds = date.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(seconds.abs_diff(now_s()) <= 2, "{response}");
    }
}

#[test]
fn forged_events_are_refused_without_detail_and_logged_with_the_reason() {
    let fixture = Fixture::start(&["--log-level", "info"]);
    let good = body(&[json!({"type": "resync"})]);
    let other = "0".repeat(64);
    let mut changed = signed_request(SECRET, &good);
    *changed.last_mut().unwrap() = b' ';
    let wrong_purpose = signature(SECRET, "requests", &good, now_s());
    for forged in [
        signed_request(&other, &good),
        changed,
        request("", &good),
        request("Buddyline-Signature: t=now,v1=00\r\n", &good),
        request(&format!("Buddyline-Signature: {wrong_purpose}\r\n"), &good),
    ] {
        let response = ask(fixture.address(), &forged);
        assert_eq!(read(&response), ("401".to_owned(), json!({"error": "unauthorized"})));
    }
    for time_s in [now_s() - 400, now_s() + 400] {
        let response = ask(fixture.address(), &signed_at(time_s, &good));
        assert_eq!(read(&response), ("401".to_owned(), json!({"error": "unauthorized"})));
    }
    assert_eq!(fixture.refused(), [("clock".to_owned(), 2.0), ("signature".to_owned(), 5.0)]);
    assert!(scrape(&fixture.server).nonzero("buddyline_site_events_total").is_empty());
    let log = fixture.server.log();
    let lines: Vec<_> = log.iter().filter(|line| line.contains("/site/events")).collect();
    assert_eq!(lines.len(), 2, "one line of each cause in a minute: {lines:#?}");
    assert!(lines[0].contains("another secret") && lines[0].contains("WARN"), "{lines:#?}");
    assert!(lines[1].contains("behind the clock of this machine"), "{lines:#?}");
    let good = signed_request(SECRET, &good);
    assert_eq!(status(&ask(fixture.address(), &good)), "200", "the id was not used up");
}

#[test]
fn debug_log_has_no_secret_ticket_signature_or_text_of_an_event() {
    let fixture = Fixture::start(&["--log-level", "debug"]);
    let message = json!({
        "type": "message", "threadId": 4, "messageId": 9, "senderId": 7, "recipients": [8],
        "sentAt": "2026-11-22T11:00:44Z", "text": "s3cret-words-of-a-member", "html": "<p>s3cret-words-of-a-member</p>",
    });
    let good = body(&[message, json!({"type": "test", "token": "s3cret-test-of-the-doctor"})]);
    let request = signed_request(SECRET, &good);
    let signature = signature(SECRET, "events", &good, now_s());
    let (_, signature) = signature.split_once("v1=").unwrap();
    assert_eq!(status(&ask(fixture.address(), &request)), "200");
    assert_eq!(status(&ask(fixture.address(), &request)), "401");
    let claims = ticket_claims(&fixture.site.url(), 7, now_s(), &[4]);
    let [ticket, forged] = ["tickets", "events"].map(|purpose| ticket(SECRET, purpose, &claims));
    let mut client = Client::proven(fixture.address(), 7, &ticket);
    client.send(&json!({"type": "user_connected", "userId": 7, "token": forged}));
    client.expect_error("token_refused");
    fixture.server.wait_for_log(|lines| lines.iter().any(|line| line.contains("a ticket has a")));
    let log = fixture.server.log().join("\n");
    assert!(log.contains("the site's plugin reports 2 events"), "{log}");
    let mut scanner = SecretScanner::default();
    for secret in [
        SECRET,
        "s3cret-words-of-a-member",
        "s3cret-test-of-the-doctor",
        signature,
        &ticket,
        &forged,
    ] {
        scanner.add(secret);
    }
    assert_eq!(scanner.find(log.as_bytes()), None, "{log}");
}

#[test]
fn replayed_events_are_refused() {
    let fixture = Fixture::start(&[]);
    let request = signed_request(SECRET, &body(&[json!({"type": "resync"})]));
    assert_eq!(status(&ask(fixture.address(), &request)), "200");
    for _ in 0..3 {
        let response = ask(fixture.address(), &request);
        assert_eq!(read(&response), ("401".to_owned(), json!({"error": "unauthorized"})));
    }
    assert_eq!(fixture.refused(), [("replay".to_owned(), 3.0)]);
    let page = scrape(&fixture.server);
    assert_eq!(page.of("buddyline_site_events_total{type=\"resync\"}"), 1.0);
}

#[test]
fn malformed_bodies_are_refused_and_a_large_one_before_it_is_read() {
    let fixture = Fixture::start(&[]);
    let many = vec![RESYNC; 1_001].join(",");
    let many = format!(r#"{{"id":"{}","events":[{many}]}}"#, new_id());
    for bad in ["[]", "not json", r#"{"id":"short","events":[]}"#, &many] {
        let response = ask(fixture.address(), &signed_request(SECRET, bad.as_bytes()));
        assert_eq!(read(&response), ("400".to_owned(), json!({"error": "bad_request"})), "{bad}");
    }
    let head = format!(
        "POST /site/events HTTP/1.1\r\nHost: x\r\nContent-Length: 524289\r\n\
         Buddyline-Signature: t={},v1={}\r\n\r\n",
        now_s(),
        "0".repeat(64)
    );
    let response = ask(fixture.address(), head.as_bytes());
    assert_eq!(read(&response), ("413".to_owned(), json!({"error": "too_large"})));
    assert_eq!(fixture.refused(), [("format".to_owned(), 4.0), ("size".to_owned(), 1.0)]);
}

#[test]
fn largest_body_is_taken() {
    let fixture = Fixture::start(&[]);
    let events = vec![RESYNC; 1_000].join(",");
    let mut body = format!(r#"{{"id":"{}","events":[{events}]}}"#, new_id());
    let room = 512 * 1024 - body.len();
    body.push_str(&" ".repeat(room));
    let response = ask(fixture.address(), &signed_request(SECRET, body.as_bytes()));
    assert_eq!(read(&response), ("200".to_owned(), json!({"accepted": 1_000, "ignored": 0})));
}

#[test]
fn truncated_and_slow_bodies_end_in_time_and_change_nothing() {
    let fixture = Fixture::start(&[]);
    let request = signed_request(SECRET, &body(&[json!({"type": "resync"})]));
    drop(begin(fixture.address(), &request[..request.len() - 1]));
    wait_until(LONG, "the truncated body is counted", || {
        fixture.refused() == [("truncated".to_owned(), 1.0)]
    });
    let began = Instant::now();
    let slow = begin(fixture.address(), &request[..request.len() - 1]);
    let answer = read_to_end(slow);
    let took = began.elapsed();
    assert_eq!(read(&answer), ("408".to_owned(), json!({"error": "too_slow"})));
    assert!((Duration::from_secs(9)..Duration::from_secs(13)).contains(&took), "{took:?}");
    let expected = [("late".to_owned(), 1.0), ("truncated".to_owned(), 1.0)];
    assert_eq!(fixture.refused(), expected);
    assert_eq!(status(&ask(fixture.address(), &request)), "200", "the id was not used up");
}

#[test]
fn slow_bodies_of_others_do_not_keep_the_plugin_out() {
    let fixture = Fixture::start(&[]);
    let request = signed_request(SECRET, &body(&[]));
    let half = &request[..request.len() - 10];
    let slow: Vec<_> = (0..8).map(|_| begin(fixture.address(), half)).collect();
    // All of them are young, and a further one is told to come again.
    let response = ask(fixture.address(), &signed_request(SECRET, &body(&[])));
    assert_eq!(read(&response), ("503".to_owned(), json!({"error": "busy"})));
    assert!(response.contains("Retry-After: 1\r\n"));
    wait_until(LONG, "a slow body gives way", || {
        status(&ask(fixture.address(), &signed_request(SECRET, &body(&[])))) == "200"
    });
    let first = slow.into_iter().next().unwrap();
    assert_eq!(status(&read_to_end(first)), "408", "the oldest has given way");
}

#[test]
fn requests_over_the_rate_are_refused_with_retry_after() {
    let fixture = Fixture::start(&[]);
    let mut limited = 0;
    let began = Instant::now();
    for _ in 0..400 {
        let response = ask(fixture.address(), &signed_request(SECRET, &body(&[])));
        match status(&response) {
            "200" => {}
            "429" => {
                assert!(response.contains("Retry-After: 1\r\n"), "{response}");
                limited += 1;
            }
            other => panic!("{other}"),
        }
    }
    let allowed = 200 + (began.elapsed().as_secs_f64() * 50.0) as i32 + 1;
    assert!(limited >= 400 - allowed - 1, "{limited} of 400, {allowed} allowed");
    assert!(limited > 0 || allowed >= 400);
    // Requests that are not the plugin's do not use up its rate.
    let forged = signed_request(&"0".repeat(64), &body(&[]));
    for _ in 0..50 {
        assert_eq!(status(&ask(fixture.address(), &forged)), "401");
    }
}

#[test]
fn body_after_100_continue_is_taken() {
    let fixture = Fixture::start(&[]);
    let body = body(&[json!({"type": "resync"})]);
    let signature = signature(SECRET, "events", &body, now_s());
    let header = format!("Buddyline-Signature: {signature}\r\nExpect: 100-continue\r\n");
    let whole = request(&header, &body);
    let mut socket = begin(fixture.address(), &whole[..whole.len() - body.len()]);
    let mut first = [0; 25];
    socket.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(&body).unwrap();
    assert_eq!(status(&read_to_end(socket)), "200");
}

#[test]
fn without_a_secret_there_is_no_such_path() {
    let site = Site::start();
    let server = Server::start(&["--buddyboss-url", &site.url()]);
    let response = server.ask(&signed_request(SECRET, &body(&[])));
    assert_eq!(status(&response), "404");
}

#[test]
fn reload_rolls_the_secret_and_takes_it_away() {
    let old = "0ld-s3cret".repeat(5);
    let (site, file) = (Site::start(), SecretFile::with(&[&old]));
    let url = site.url();
    let server = Server::start(&["--buddyboss-url", &url, "--site-secret-file", file.path()]);
    let code = |secret: &str| status(&server.ask(&signed_request(secret, &body(&[])))).to_owned();
    let reload = |content: &str, expected: &str| {
        let seen = server.log().iter().filter(|line| line.contains(expected)).count();
        std::fs::write(file.path(), content).unwrap();
        server.signal("HUP");
        server.wait_for_log(|lines| {
            lines.iter().filter(|line| line.contains(expected)).count() > seen
        });
    };
    assert_eq!([code(&old), code(SECRET)], ["200", "401"]);
    reload(&format!("{SECRET}\n{old}\n"), "settings reloaded");
    assert_eq!([code(&old), code(SECRET)], ["200", "200"]);
    reload("too-short-s3cret", "the new settings are refused");
    assert_eq!([code(&old), code(SECRET)], ["200", "200"], "the old settings are kept");
    reload(SECRET, "settings reloaded");
    assert_eq!([code(&old), code(SECRET)], ["401", "200"]);
    assert!(!server.log().join("\n").contains("s3cret"));
}

#[test]
fn own_listener_takes_events_and_the_public_one_does_not() {
    // With TLS on the public listener, since that of the site has none.
    let certificate = Certificate::new();
    let arguments = certificate.arguments(&["--site-listen", "127.0.0.1:0"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let fixture = Fixture::start(&arguments);
    let log = fixture.server.log();
    let line = log.iter().find_map(|line| line.split_once("events of the site on http://"));
    let address: SocketAddr =
        line.unwrap().1.strip_suffix("/site/events").unwrap().parse().unwrap();
    let (code, answer) = send(address, &[json!({"type": "resync"})]);
    assert_eq!((&*code, answer), ("200", json!({"accepted": 1, "ignored": 0})));
    assert_eq!(status(&ask(address, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")), "200");
    assert_eq!(status(&ask(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")), "404");
    // More connections than there may be, none of which sends anything, give way in time.
    let idle: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    let (code, _) = send(address, &[]);
    assert_eq!(code, "200");
    drop(idle);

    let plain = Fixture::start(&["--site-listen", "127.0.0.1:0"]);
    let response = ask(plain.address(), &signed_request(SECRET, &body(&[])));
    assert_eq!(status(&response), "404");
}

#[test]
fn site_listener_needs_a_secret_and_a_secret_needs_a_site() {
    let secret = SecretFile::with(&[SECRET]);
    for (arguments, part) in [
        (
            &["--buddyboss-url", "http://127.0.0.1:1", "--site-listen", "127.0.0.1:0"][..],
            "--site-secret-file is not",
        ),
        (&["--site-secret-file", secret.path()], "--buddyboss-url is not"),
    ] {
        let output = binary().arg("check-config").args(arguments).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn check_config_names_the_site_secret_and_never_shows_it() {
    let secret = SecretFile::with(&["n3w-s3cret".repeat(4).as_str(), &"0ld-s3cret".repeat(4)]);
    let output = |more: &[&str], variables: &[(&str, &str)]| {
        let mut command = binary();
        command.args(["check-config", "--buddyboss-url", "http://127.0.0.1:1"]).args(more);
        command.args(["--listen", "127.0.0.1:0"]).envs(variables.iter().copied());
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(!text.concat().contains("s3cret"), "{text:?}");
        (output.status.code(), text.concat())
    };
    let (code, text) = output(&["--site-secret-file", secret.path()], &[]);
    assert!(code == Some(0) && text.contains("site secret file"), "{text}");
    let (code, text) = output(&[], &[("BUDDYLINE_SITE_SECRET", "short-s3cret")]);
    assert!(code == Some(2) && text.contains("32 to 512 printable"), "{text}");
    let php = "define( 'BUDDYLINE_SECRET', 's3cret-s3cret-s3cret-s3cret-s3cret' );";
    let (code, text) = output(&[], &[("BUDDYLINE_SITE_SECRET", php)]);
    assert!(code == Some(2) && text.contains("a line of PHP"), "{text}");
}

#[test]
fn doctor_learns_whether_a_test_event_has_arrived() {
    let fixture = Fixture::start(&[]);
    let arrival = |token: &str| {
        let request = format!("GET /site/events/test/{token} HTTP/1.1\r\nHost: x\r\n\r\n");
        read(&ask(fixture.address(), request.as_bytes()))
    };
    let [before, after] = ["404", "200"].map(str::to_owned);
    assert_eq!(arrival("token-0"), (before.clone(), json!({"arrived": false})));
    for n in 0..9 {
        let token = format!("token-{n}");
        send(fixture.address(), &[json!({"type": "test", "token": token})]);
        assert_eq!(arrival(&token), (after.clone(), json!({"arrived": true})));
    }
    assert_eq!(arrival("token-0").0, before, "only the last eight are remembered");
    let long = "x".repeat(65);
    send(fixture.address(), &[json!({"type": "test", "token": long})]);
    assert_eq!(arrival("token-1").0, after, "a token that is too long is not kept");
}

#[test]
fn call_to_an_offline_user_reaches_the_plugin() {
    let (site, secret) = (Site::start(), SecretFile::with(&[SECRET]));
    site.add_member("anna", 7);
    site.add_thread(4, &[7, 8]);
    site.fail_when(|_, request| {
        let (_, route) = request.path.split_once("/buddyline/v1/")?;
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let signed = request.header("buddyline-signature").unwrap_or_default();
        let time = signed[2..].split(',').next()?.parse().ok()?;
        let expected = signature(SECRET, "requests", &request.body, time);
        let status = if signed == expected && body["id"].is_string() { 200 } else { 401 };
        let body = match route {
            "status" => json!({"version": "0.1.0", "features": ["calls"], "time": time}),
            _ => json!({"accepted": 1}),
        };
        let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
        Some(Fault::Answer { status, headers, body: body.to_string().into_bytes() })
    });
    let url = site.url();
    let server = scrape::start(&["--buddyboss-url", &url, "--site-secret-file", secret.path()]);
    server.wait_for_log(|lines| {
        lines.iter().any(|line| line.contains("the site's plugin 0.1.0 answers: calls"))
    });
    let mut client = Client::proven(server.address(), 7, "anna");
    client.join(4);
    client.send(&json!({
        "type": "call_initiated", "callId": "c-1", "threadId": 4, "recipientId": 8, "offer": "o",
    }));
    let calls = || {
        let requests = site.requests();
        let calls = requests.into_iter().filter(|request| request.path.contains("v1/calls"));
        calls.map(|request| serde_json::from_slice::<Value>(&request.body).unwrap()).collect()
    };
    wait_until(LONG, "the call is reported", || {
        let calls: Vec<Value> = calls();
        !calls.is_empty()
    });
    let calls: Vec<Value> = calls();
    let event = &calls[0]["events"][0];
    assert_eq!((&event["type"], &event["callId"]), (&json!("offline"), &json!("c-1")));
    assert_eq!((&event["callerId"], &event["calledId"]), (&json!(7), &json!(8)));
    assert_eq!((&event["threadId"], &event["group"]), (&json!(4), &json!(false)));
    wait_until(LONG, "the answer is counted", || {
        let page = scrape(&server);
        page.of("buddyline_plugin_requests_total{kind=\"calls\",outcome=\"ok\"}") == 1.0
    });
    assert_eq!(scrape(&server).of("buddyline_plugin_found"), 1.0);
}

#[test]
fn draining_server_refuses_events() {
    let fixture = Fixture::start(&["--drain-timeout", "5s"]);
    fixture.site.add_member("anna", 3);
    fixture.site.set_latency(Duration::from_secs(2));
    fixture.site.add_thread(4, &[3, 5]);
    let mut client = Client::proven(fixture.address(), 3, "anna");
    client.send(&json!({"type": "send_message", "threadId": 4, "message": "x"}));
    wait_until(LONG, "the message is in flight", || !fixture.site.requests().is_empty());
    let half = signed_request(SECRET, &body(&[]));
    let mut early = begin(fixture.address(), &half[..half.len() - 1]);
    fixture.server.signal("TERM");
    fixture.server.wait_for_log(|lines| lines.iter().any(|line| line.contains("draining")));
    let response = ask(fixture.address(), &signed_request(SECRET, &body(&[])));
    assert_eq!(read(&response), ("503".to_owned(), json!({"error": "draining"})));
    early.write_all(&half[half.len() - 1..]).unwrap();
    assert_eq!(status(&read_to_end(early)), "503");
}

//! The metrics listener: metric values, readiness, and slow or faulty monitors.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::support::bytes::{BINARY, PING, frame};
use crate::support::client::{Client, LONG};
use crate::support::markdown::{Document, root, words};
use crate::support::scrape;
use crate::support::scrape::{get, metrics_address, scrape, start};
use crate::support::server::{Server, ask, wait_until};
use crate::support::site::{Fault, Site};

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

// ---- metric values

#[test]
fn metrics_match_client_activity_exactly() {
    let server = start(&["--presence", "off", "--ping-every", "10m"]);
    let none = scrape(&server);
    assert_eq!(none.of("buddyline_connections{state=\"open\"}"), 0.0);
    let mut clients: Vec<Client> =
        (1..=3).map(|user| Client::in_thread(server.address(), user, 41)).collect();
    clients[0].send(&json!({"type": "typing", "threadId": 41, "typing": true}));
    clients[0].send(&json!({"type": "send_message", "threadId": 41, "message": "secret words"}));
    clients[0].send(&json!({"type": "send_message", "message": "to nobody"}));
    clients[0].send_text("{no json");
    clients[0].send(&json!({"type": "evil\"} 1\nforged_total 7"}));
    clients[0].send(&json!({"type": "offer", "recipientId": 2, "offer": "o"}));
    for client in &mut clients {
        client.find(|frame| frame["type"] == "message");
    }
    clients[1].find(|frame| frame["type"] == "offer");
    clients[0].socket().write_all(&frame(BINARY, b"x")).unwrap();
    clients[0].socket().write_all(&frame(PING, b"x")).unwrap();
    clients[0].drain();

    let page = scrape(&server);
    assert_eq!(page.nonzero("buddyline_connections"), [("open", 3.0)]);
    assert_eq!(page.of("buddyline_connections_accepted_total"), 3.0);
    assert_eq!(page.of("buddyline_users_online"), 3.0);
    assert_eq!(page.of("buddyline_threads"), 1.0);
    let received = [
        ("binary", 1.0),
        ("control", 1.0),
        ("join_thread", 3.0),
        ("offer", 1.0),
        ("ping", 1.0),
        ("send_message", 2.0),
        ("typing", 1.0),
        ("unreadable", 2.0),
        ("user_connected", 3.0),
    ];
    assert_eq!(page.nonzero("buddyline_frames_received_total"), received);
    // `message` to three clients, `typing` and its end to three; three errors for text frames, and
    // one for the binary frame.
    let sent = [
        ("call", 1.0),
        ("error", 4.0),
        ("message", 3.0),
        ("pong", 1.0),
        ("thread_joined", 3.0),
        ("typing", 6.0),
        ("user_connected", 3.0),
    ];
    assert_eq!(page.nonzero("buddyline_frames_sent_total"), sent);
    let errors =
        [("invalid_json", 1.0), ("missing_field", 1.0), ("text_only", 1.0), ("unknown_type", 1.0)];
    assert_eq!(page.nonzero("buddyline_errors_total"), errors);
    // Each `typing` has three receivers. The message counts two, since its sender gets a frame of
    // its own.
    for (bound, count) in [("2", 1.0), ("4", 3.0), ("+Inf", 3.0)] {
        let bucket = format!("buddyline_fan_out_receivers_bucket{{le=\"{bound}\"}}");
        assert_eq!(page.of(&bucket), count);
    }
    assert_eq!(page.of("buddyline_fan_out_receivers_sum"), 8.0);
    assert_eq!(page.of("buddyline_fan_out_receivers_count"), 3.0);
    assert_eq!(page.nonzero("buddyline_frames_dropped_total"), []);
    assert_eq!(page.nonzero("buddyline_breaker_state"), [("closed", 1.0)]);
    assert_eq!(page.of("buddyline_ready"), 1.0);
    let version = concat!("buddyline_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
    assert_eq!(page.of(version), 1.0);
    assert!(!page.text.contains("secret words") && !page.text.contains("forged"), "{}", page.text);

    // The request alone has more than a hundred bytes.
    assert!(page.of("buddyline_received_bytes_total") > 900.0);
    assert!(page.of("buddyline_sent_bytes_total") > 900.0);
    let resident = page.of("process_resident_memory_bytes") / 1024.0;
    assert!((resident / server.resident_kib() as f64 - 1.0).abs() < 0.5, "{resident} KiB");
    assert!(page.of("buddyline_tick_duration_seconds_count") > 10.0);
    assert!(page.of("buddyline_tick_duration_seconds_sum") < 10.0);

    let (gone, after) = (clients.pop().unwrap(), page);
    gone.leave();
    wait_until(LONG, "the connection is removed", || {
        scrape(&server).of("buddyline_connections{state=\"open\"}") == 2.0
    });
    let again = scrape(&server);
    let only_grows = |name: &str| again.of(name) >= after.of(name);
    assert!(
        only_grows("buddyline_received_bytes_total") && only_grows("process_cpu_seconds_total")
    );
}

#[test]
fn bytes_are_counted_in_both_directions() {
    let server = start(&["--presence", "off"]);
    let mut client = Client::connect(server.address());
    client.drain();
    let before = scrape(&server);
    // Received: headers of 6 and 8 bytes, and the payloads. Sent: headers of 2 bytes.
    let short = format!(r#"{{"type":"ping","clientId":"{}"}}"#, "c".repeat(40));
    let long = format!(r#"{{"type":"ping","x":"{}"}}"#, "x".repeat(1_000));
    client.send_text(&short);
    client.send_text(&long);
    let replies = [client.next_text(), client.next_text()];
    let after = scrape(&server);
    let grown = |name: &str| after.of(name) - before.of(name);
    let received = 6 + short.len() + 8 + long.len();
    assert_eq!(grown("buddyline_received_bytes_total"), received as f64);
    let sent: usize = replies.iter().map(|text| 2 + text.len()).sum();
    assert_eq!(grown("buddyline_sent_bytes_total"), sent as f64);
}

#[test]
fn refusals_and_closes_are_counted_by_cause() {
    let server = start(&[
        "--max-connections",
        "2",
        "--max-frames-per-second",
        "1",
        "--max-frames-burst",
        "2",
        "--allowed-origin",
        "https://app.example",
        "--handshake-lasts",
        "1s",
    ]);
    let evil = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Origin: https://evil.example\r\n\r\n";
    assert!(server.ask(evil).starts_with("HTTP/1.1 403 "));
    assert!(server.ask(b"GET / HTTP/1.1\r\n").starts_with("HTTP/1.1 408 "));
    let mut two = [Client::connect(server.address()), Client::connect(server.address())];
    assert!(server.ask(b"").starts_with("HTTP/1.1 503 "));
    for _ in 0..4 {
        two[0].send(&json!({"type": "ping"}));
    }
    assert_eq!(two[0].close_code(), Some(1008));
    let page = scrape(&server);
    let refused = page.nonzero("buddyline_connections_refused_total");
    assert_eq!(refused, [("full", 1.0), ("late", 1.0), ("page", 1.0)]);
    assert_eq!(page.nonzero("buddyline_connections_ended_total"), [("flood", 1.0)]);
    assert_eq!(page.of("buddyline_frames_received_total{type=\"refused\"}"), 1.0);
    assert_eq!(page.of("buddyline_errors_total{code=\"rate_limited\"}"), 1.0);
    assert_eq!(page.of("buddyline_connections_limit"), 2.0);
}

#[test]
fn slow_reader_drops_and_backlog_are_counted() {
    let server = start(&["--max-outbox-bytes", "65536", "--soft-outbox-bytes", "4096"]);
    let slow = Client::in_thread(server.address(), 7, 41);
    let mut quick = Client::in_thread(server.address(), 8, 41);
    let text = "x".repeat(60_000);
    let ended = "buddyline_connections_ended_total{cause=\"too_slow\"}";
    let mut missed_some = false;
    for n in 0..500 {
        let message = json!({"type": "send_message", "threadId": 41, "message": text});
        quick.send(&message);
        quick.expect_type("message");
        quick.send(&json!({"type": "typing", "threadId": 41, "typing": true}));
        quick.expect_type("typing");
        if n % 10 == 0 {
            let page = scrape(&server);
            missed_some |= page.of("buddyline_frames_dropped_total{cause=\"missed\"}") > 0.0;
            if page.of(ended) > 0.0 {
                break;
            }
        }
    }
    let page = scrape(&server);
    assert_eq!(page.of(ended), 1.0);
    assert!(page.of("buddyline_frames_dropped_total{cause=\"too_slow\"}") >= 1.0);
    drop(slow);
    // The timeout sweep has sampled both connections at least once a second.
    assert!(missed_some || page.of("buddyline_frames_dropped_total{cause=\"missed\"}") > 0.0);
    wait_until(LONG, "the timeout sweep samples the outboxes", || {
        scrape(&server).of("buddyline_outbox_depth_bytes_count") > 0.0
    });
}

#[test]
fn site_requests_are_counted_by_kind_and_timed() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    let url = site.url();
    let server = start(&["--buddyboss-url", &url, "--upstream-timeout", "2s"]);
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("REST API answers")));
    let mut seven = Client::proven(server.address(), 7, "user-7");
    seven.join(41);
    let mut again = Client::proven(server.address(), 7, "user-7");
    again.join(41);
    site.set_latency(Duration::from_millis(120));
    seven.send(&json!({"type": "send_message", "threadId": 41, "message": "x"}));
    seven.expect_type("message");
    let page = scrape(&server);
    let answers = |kind: &str, outcome: &str| {
        format!("buddyline_upstream_answers_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}")
    };
    for kind in ["message", "token", "list", "probe"] {
        assert_eq!(page.of(&answers(kind, "ok")), 1.0, "{kind}");
    }
    let duration = |rest: &str| format!("buddyline_upstream_duration_seconds{rest}");
    assert_eq!(page.of(&duration("_bucket{kind=\"message\",le=\"0.1\"}")), 0.0);
    assert_eq!(page.of(&duration("_bucket{kind=\"message\",le=\"+Inf\"}")), 1.0);
    let took = page.of(&duration("_sum{kind=\"message\"}"));
    assert!((0.12..2.0).contains(&took), "{took}");
    assert_eq!(page.of("buddyline_upstream_wait_seconds_count"), 3.0, "probes do not wait");
    // The token of the second connection and the participants of the thread were cached.
    for cache in ["proofs", "lists"] {
        for result in ["hit", "miss"] {
            let requests =
                format!("buddyline_cache_requests_total{{cache=\"{cache}\",result=\"{result}\"}}");
            assert_eq!(page.of(&requests), 1.0, "{requests}");
        }
    }

    site.set_latency(Duration::ZERO);
    site.always(Fault::status(503, &[("Retry-After", "60")]));
    seven.send(&json!({"type": "send_message", "threadId": 41, "message": "y", "clientId": "y"}));
    wait_until(LONG, "the breaker is open", || {
        scrape(&server).of("buddyline_breaker_state{state=\"open\"}") == 1.0
    });
    seven.send(&json!({"type": "send_message", "message": "z", "recipientId": 8}));
    seven.expect_error("site_unavailable");
    let page = scrape(&server);
    assert_eq!(page.of(&answers("message", "unknown")), 1.0);
    assert_eq!(page.of(&answers("message", "unavailable")), 1.0);
    assert_eq!(page.nonzero("buddyline_breaker_state"), [("open", 1.0)]);
    assert_eq!(page.of("buddyline_breaker_opened_total"), 1.0);
    // The first message is still being looked up, in vain.
    assert_eq!(page.nonzero("buddyline_queue_length"), [("messages", 1.0)]);
    // The site answered a moment ago; the server is unready only after some seconds of outage.
    assert_eq!(page.of("buddyline_ready"), 1.0);
    assert_eq!(status(&get(&server, "/readyz")), "200");
    wait_until(LONG, "the server is unready", || status(&get(&server, "/readyz")) == "503");
    assert_eq!(scrape(&server).of("buddyline_ready"), 0.0);
    assert!(
        server
            .ask(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            .ends_with("the site is unavailable\n")
    );
}

#[test]
fn each_family_has_help_and_no_client_supplied_labels() {
    let server = start(&[]);
    let mut client = Client::as_user(server.address(), 7);
    client.send(&json!({"type": "join_thread", "threadId": "a \"forged\" thread"}));
    client.send(&json!({"type": "forged", "threadId": "forged"}));
    client.drain();
    let before = scrape(&server);
    for n in 0..200 {
        client.send(&json!({"type": format!("forged{n}"), "threadId": n}));
        client.send(&json!({"type": "join_thread", "threadId": format!("forged{n}")}));
    }
    client.drain();
    let page = scrape(&server);
    assert!(!page.text.contains("forged"));
    let names = |page: &scrape::MetricsPage| page.samples.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&before), names(&page), "input of clients adds no samples");
    assert!(page.samples.len() < 400, "{}", page.samples.len());
    for (name, family) in &page.families {
        let ours = name.starts_with("buddyline_") || name.starts_with("process_");
        assert!(ours && name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()), "{name}");
        assert!(family.help.len() > 10 && family.help.ends_with('.'), "{name}: {}", family.help);
        assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name}");
        assert!(
            page.samples.keys().any(|sample| sample.starts_with(&**name)),
            "{name} has no samples"
        );
    }
}

#[test]
fn calls_are_counted_by_state_and_end_reason() {
    let server = start(&[]);
    let mut alice = Client::as_user(server.address(), 1);
    let mut bob = Client::as_user(server.address(), 2);
    let ring = |client: &mut Client, other: u64, call: &str| {
        client.send(&json!({"type": "call_initiated", "recipientId": other, "callId": call}));
    };
    ring(&mut alice, 2, "a");
    bob.find(|frame| frame["callId"] == "a");
    bob.send(&json!({"type": "answer", "answer": "x", "callId": "a"}));
    alice.find(|frame| frame["type"] == "answer");
    ring(&mut alice, 3, "b");
    alice.expect_error("recipient_offline");
    ring(&mut alice, 4, "c");
    alice.expect_error("recipient_offline");
    let page = scrape(&server);
    assert_eq!(page.nonzero("buddyline_calls"), [("answered", 1.0), ("ringing", 2.0)]);
    assert_eq!(page.nonzero("buddyline_calls_ended_total"), []);
    assert_eq!(page.of("buddyline_calls_offline_callees_total"), 2.0);
    bob.send(&json!({"type": "call_hangup", "callId": "a"}));
    alice.find(|frame| frame["type"] == "call_ended");
    alice.send(&json!({"type": "call_cancelled", "callId": "c"}));
    alice.find(|frame| frame["reason"] == "cancelled");
    let page = scrape(&server);
    assert_eq!(page.nonzero("buddyline_calls"), [("ringing", 1.0)]);
    let ended = [("cancelled", 1.0), ("hangup", 1.0)];
    assert_eq!(page.nonzero("buddyline_calls_ended_total"), ended);
}

// ---- documentation

#[test]
fn documented_metric_families_match_the_page() {
    let page = scrape(&start(&[]));
    let document = Document::read("docs/OPERATIONS.md");
    let mut documented = BTreeSet::new();
    for row in document.table("Metric") {
        let name = row.name();
        let family = page.families.get(name).unwrap_or_else(|| panic!("no metric {name}"));
        assert_eq!(row.cells[1], family.kind, "{name}");
        let labels: BTreeSet<&str> = row.cells[2].split('`').skip(1).step_by(2).collect();
        assert_eq!(labels, labels_of(&page, name), "{name}");
        assert!(documented.insert(name), "{name} is documented twice");
    }
    let existing: BTreeSet<&str> = page.families.keys().map(String::as_str).collect();
    assert_eq!(documented, existing);
}

/// The names of the labels that the samples of a family have.
fn labels_of<'a>(page: &'a scrape::MetricsPage, family: &str) -> BTreeSet<&'a str> {
    let own = page.samples.keys().filter_map(|sample| sample.split_once('{'));
    let own = own.filter(|(name, _)| name.trim_end_matches("_bucket") == family);
    let labels = own.flat_map(|(_, labels)| labels.split(',').filter_map(|l| l.split('=').next()));
    labels.filter(|label| *label != "le").collect()
}

#[test]
fn documented_alerts_use_existing_metrics() {
    let page = scrape(&start(&[]));
    let document = Document::read("docs/OPERATIONS.md");
    let rows: Vec<_> = document.table("Alert when").collect();
    assert_eq!(rows.len(), 10);
    for row in rows {
        assert!(count_metrics(&page, row.name()) > 0, "{}", row.name());
        assert!(row.cells.iter().all(|cell| !cell.is_empty()), "line {}", row.line);
    }
}

#[test]
fn dashboard_parses_and_uses_existing_metrics() {
    let page = scrape(&start(&[]));
    let text = fs::read_to_string(root().join("docs/grafana.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut targets = 0;
    let mut titles = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(titles.insert(panel["title"].as_str().unwrap()), "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert!(count_metrics(&page, expression) > 0, "{expression}");
            targets += 1;
        }
    }
    assert!(targets > 15, "{targets}");
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            assert_eq!(count_metrics(&page, variable["query"]["query"].as_str().unwrap()), 1);
        }
    }
}

/// Counts the metrics in an expression; panics if a metric or a label value does not exist.
fn count_metrics(page: &scrape::MetricsPage, expression: &str) -> usize {
    let ours = |word: &&str| word.starts_with("buddyline_") || word.starts_with("process_");
    let named: Vec<&str> = words(expression).filter(ours).collect();
    for name in &named {
        let is = |sample: &String| sample.split('{').next() == Some(name);
        assert!(page.samples.keys().any(is), "no metric {name}: {expression}");
        for after in expression.split(name).skip(1) {
            let Some(labels) = after.strip_prefix('{') else { continue };
            for label in labels.split('}').next().unwrap().split(',') {
                let label = label.trim();
                let known = |sample: &&String| is(sample) && sample.contains(label);
                let is_prometheus_label = label.starts_with("instance=");
                assert!(is_prometheus_label || page.samples.keys().any(|s| known(&s)), "{label}");
            }
        }
    }
    named.len()
}

// ---- monitors

#[test]
fn metrics_are_unavailable_without_the_setting() {
    let server = Server::start(&[]);
    assert!(!server.log().iter().any(|line| line.contains("metrics")));
    assert_eq!(status(&server.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")), "404");
}

#[test]
fn full_server_still_serves_metrics() {
    let server = start(&["--max-connections", "1"]);
    let _client = Client::as_user(server.address(), 7);
    assert_eq!(status(&server.ask(b"")), "503");
    for (path, body) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = get(&server, path);
        assert!(status(&answer) == "200" && answer.ends_with(body), "{answer}");
    }
    let page = scrape(&server);
    assert_eq!(
        page.of("buddyline_connections{state=\"open\"}"),
        1.0,
        "monitors are not counted as clients"
    );
    assert_eq!(page.of("buddyline_connections_accepted_total"), 1.0);
}

#[test]
fn drain_is_visible_to_monitors() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    site.set_latency(Duration::from_secs(2));
    let url = site.url();
    let mut server = start(&["--buddyboss-url", &url, "--trust", "open"]);
    let mut seven = Client::as_user(server.address(), 7);
    seven.send(&json!({
        "type": "send_message", "threadId": 41, "message": "x", "token": "user-7",
    }));
    seven.drain();
    server.signal("TERM");
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("draining")));
    assert_eq!(status(&get(&server, "/healthz")), "200");
    let ready = get(&server, "/readyz");
    assert!(status(&ready) == "503" && ready.ends_with("draining\n"), "{ready}");
    let page = scrape(&server);
    assert_eq!(page.of("buddyline_ready"), 0.0);
    assert_eq!(page.of("buddyline_queue_length{queue=\"messages\"}"), 1.0);
    seven.expect_type("message");
    assert_eq!(server.exit(LONG).code(), Some(0));
}

#[test]
fn slow_monitors_time_out_without_harm() {
    let server = start(&[]);
    let place = metrics_address(&server);
    let mut client = Client::as_user(server.address(), 7);
    let before = server.descriptors();
    let started = Instant::now();
    let mut slow: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(place).unwrap()).collect();
    for (n, socket) in slow.iter_mut().enumerate() {
        let requests: [&[u8]; 4] = [b"G", b"GET /metrics HTTP/1.1\r\nX: ", b"", b"\r"];
        socket.write_all(requests[n]).unwrap();
    }
    // A monitor that gets its answer and does not close.
    let mut stays = TcpStream::connect(place).unwrap();
    stays.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    for _ in 0..20 {
        assert_eq!(status(&get(&server, "/healthz")), "200");
        client.drain();
    }
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    for socket in slow.iter_mut().chain([&mut stays]) {
        socket.set_read_timeout(Some(LONG)).unwrap();
        // It ends with a FIN or a reset.
        let _ = socket.read_to_end(&mut Vec::new());
    }
    let took = started.elapsed();
    let expected = Duration::from_secs(3)..Duration::from_secs(9);
    assert!(expected.contains(&took), "{took:?}");
    wait_until(LONG, "all descriptors are free again", || server.descriptors() == before);
    client.drain();
}

#[test]
fn silent_monitors_do_not_block_others_for_long() {
    let server = start(&[]);
    let place = metrics_address(&server);
    let before = server.descriptors();
    let monitors: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(place).unwrap()).collect();
    for mut socket in &monitors {
        socket.write_all(b"GET /met").unwrap();
    }
    let mut client = Client::as_user(server.address(), 7);
    client.drain();
    wait_until(LONG, "eight monitors are accepted", || server.descriptors() >= before + 8);
    assert!(server.descriptors() <= before + 9, "eight at a time, and one client");
    let started = Instant::now();
    assert_eq!(status(&get(&server, "/healthz")), "200");
    // The forty monitors before it take eight places in five rounds, of a second each.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    drop(monitors);
    wait_until(LONG, "only the client is left", || server.descriptors() == before + 1);
}

#[test]
fn closed_monitors_are_skipped_at_once() {
    let server = start(&[]);
    let place = metrics_address(&server);
    // More monitors than there are places, with a full backlog.
    let monitors: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(place).unwrap()).collect();
    for mut socket in &monitors {
        socket.write_all(b"GET /met").unwrap();
    }
    drop(monitors);
    let started = Instant::now();
    assert_eq!(status(&get(&server, "/healthz")), "200");
    assert!(started.elapsed() < Duration::from_millis(2_500), "{:?}", started.elapsed());
}

#[test]
fn abandoned_monitor_backlog_does_not_delay_the_next() {
    let server = start(&[]);
    let place = metrics_address(&server);
    let monitors: Vec<Socket> = (0..500)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&place.into());
            socket
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    drop(monitors);
    let started = Instant::now();
    assert_eq!(status(&get(&server, "/healthz")), "200");
    // TCP repeats a SYN that found no place in the backlog after 1 s, and after 3 s.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn oversized_or_invalid_monitor_request_gets_an_error() {
    let server = start(&[]);
    let place = metrics_address(&server);
    let long = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(3 * 4_096));
    for (request, expected) in [
        (long.as_bytes(), "431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "405"),
        (b"OPTIONS / HTTP/1.0\r\n\r\n", "200"),
        (b"\x16\x03\x01\r\n\r\n", "400"),
    ] {
        assert_eq!(status(&ask(place, request)), expected);
    }
    let head = ask(place, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    // A request with an endless body is closed.
    let mut endless = TcpStream::connect(place).unwrap();
    endless.set_write_timeout(Some(LONG)).unwrap();
    endless.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let refused = (0..100_000).any(|_| endless.write_all(&[b'x'; 1024]).is_err());
    assert!(refused, "the server has read a hundred megabytes");
}

#[test]
fn non_loopback_metrics_listener_logs_a_warning() {
    let server = Server::start(&["--metrics-listen", "0.0.0.0:0"]);
    let log = server.log();
    let warned = |line: &String| line.contains("WARN") && line.contains("--metrics-listen 0.0.0.0");
    assert_eq!(log.iter().filter(|line| warned(line)).count(), 1, "{log:#?}");
    assert!(!start(&[]).log().iter().any(|line| line.contains("WARN")));
}

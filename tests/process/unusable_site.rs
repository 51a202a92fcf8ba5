//! A site that answers everyone with a page: readiness, metrics and the log say so.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::Client;
use crate::support::scrape::{scrape, start};
use crate::support::server::Server;
use crate::support::site::{Fault, Site};

fn page(status: u16, title: &str) -> Fault {
    Fault::Answer {
        status,
        headers: vec![("Content-Type".to_owned(), "text/html; charset=UTF-8".to_owned())],
        body: format!("<html><head><title>{title}</title></head></html>").into_bytes(),
    }
}

#[test]
fn readiness_metrics_and_log_tell_that_nobody_gets_in() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    let server = start(&["--buddyboss-url", &site.url()]);
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("REST API answers")));
    let _seven = Client::proven(server.address(), 7, "token-7");
    let ready = || server.ask(b"GET /readyz HTTP/1.0\r\n\r\n");
    assert!(ready().ends_with("ready\n"), "{}", ready());
    site.always(page(403, "Attention Required! | Firewall"));
    let began = Instant::now();
    let mut n = 0;
    while ready().starts_with("HTTP/1.1 200") {
        n += 1;
        let mut client = Client::connect(server.address());
        client.send(&json!({"type": "user_connected", "userId": 9, "token": format!("t-{n}")}));
        client.expect_error("site_unavailable");
        assert!(began.elapsed() < Duration::from_secs(5), "{}", ready());
    }
    assert!(ready().ends_with("the site is unavailable\n"), "{}", ready());
    assert_eq!(scrape(&server).of("buddyline_ready"), 0.0);
    let first = "nobody can authenticate or send";
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains(first)));
    let log = server.log();
    let line = log.iter().find(|line| line.contains(first)).unwrap();
    for part in ["status 403", "text/html", "Attention Required! | Firewall"] {
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(log.iter().filter(|line| line.contains(first)).count(), 1, "{log:#?}");
    // Nobody has to come for the recovery to be noticed.
    site.always(Fault::Delay(Duration::ZERO));
    let until = Instant::now() + Duration::from_secs(12);
    while !ready().ends_with("ready\n") {
        assert!(Instant::now() < until, "{}", ready());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(scrape(&server).of("buddyline_ready"), 1.0);
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("it answers again, after")));
}

#[test]
fn each_short_outage_has_a_first_and_a_last_line() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    let server = Server::start(&["--buddyboss-url", &site.url(), "--trust", "open"]);
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("REST API answers")));
    let mut seven = Client::as_user(server.address(), 7);
    let count =
        |lines: &[String], words: &str| lines.iter().filter(|line| line.contains(words)).count();
    for outage in 1..=3 {
        site.fail_next(Fault::status(503, &[]));
        for n in 0..2 {
            seven.send(&json!({
                "type": "send_message", "threadId": 41, "message": "x", "token": "user-7",
                "clientId": format!("{outage}-{n}"),
            }));
            seven.expect(|frame| frame["clientId"] == format!("{outage}-{n}"));
        }
        server.wait_for_log(|lines| count(lines, "it answers again, after") == outage);
        let log = server.log();
        assert_eq!(count(&log, "request failed (message): status 503"), outage, "{log:#?}");
    }
}

//! Hostile sites and gateways: connections that close early, endless replies, and redirects.

use std::thread;
use std::time::{Duration, Instant};

use buddyline::hub::interface::Failure;
use buddyline::upstream::url_style::UrlStyle;

use crate::support::driver::{LONG, PoolDriver, failed, list, post, prove, stored};
use crate::support::raw::{Connection, ME, RawSite, stored as stored_answer};
use crate::support::site::{Fault, Site};

/// A text longer than the kernel buffers at once.
fn long(text: &str) -> String {
    format!("{text} {}", "x".repeat(200 << 10))
}

fn ready(site: &RawSite, timeout: Duration) -> PoolDriver {
    let mut driver =
        PoolDriver::with(&site.url(), |s| (s.workers, s.request_timeout) = (1, timeout));
    driver.await_url_style(UrlStyle::Pretty);
    driver
}

fn serve_well(connection: &mut Connection) {
    while let Some(head) = connection.request() {
        connection.write(if head.starts_with("POST") { stored_answer() } else { ME.to_owned() });
    }
}

// ---------------------------------------------------------------- keep-alive

#[test]
fn idle_keepalive_close_loses_no_message() {
    for idle in [0, 20, 150] {
        // Each connection answers one request and closes this many ms later, without
        // `Connection: close`.
        let site = RawSite::start(move |connection| {
            let Some(head) = connection.request() else { return };
            let post = head.starts_with("POST");
            connection.write(if post { stored_answer() } else { ME.to_owned() });
            thread::sleep(Duration::from_millis(idle));
        });
        let mut driver = ready(&site, Duration::from_secs(5));
        for n in 1..=5 {
            thread::sleep(Duration::from_millis(idle + 60));
            stored(driver.ask(post(1, &format!("text-{n}."))));
            assert_eq!(site.count("POST "), n);
            assert_eq!(site.count(&format!("text-{n}.")), 1);
        }
    }
}

#[test]
fn keepalive_close_during_post_is_not_retried() {
    // The site closes after half of the second message: with a reset, or by closing only its
    // writing half, so that the client can go on writing.
    for half_close in [false, true] {
        let site = RawSite::start(move |connection| {
            while let Some((head, length)) = connection.head() {
                if connection.number > 0 || !head.starts_with("POST") {
                    connection.body(length);
                    let post = head.starts_with("POST");
                    connection.write(if post { stored_answer() } else { ME.to_owned() });
                    continue;
                }
                if length < 1000 {
                    connection.body(length);
                    connection.write(stored_answer());
                    continue;
                }
                connection.body(length / 2);
                if half_close {
                    connection.end();
                    connection.body(length);
                }
                return;
            }
        });
        let mut driver = ready(&site, Duration::from_secs(2));
        stored(driver.ask(post(1, "first")));
        let begun = Instant::now();
        assert_eq!(failed(driver.ask(post(1, &long("second")))), Failure::Unknown);
        assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
        thread::sleep(Duration::from_millis(200));
        assert_eq!((site.count("POST "), site.count("second")), (2, 1), "half_close: {half_close}");
        stored(driver.ask(post(1, &long("third"))));
        assert_eq!((site.count("POST "), site.count("third")), (3, 1));
    }
}

// ---------------------------------------------------------------- endless replies

/// An endless reply to a post: `begin`, and then `rest` again and again, with this pause between
/// (zero for a flood).
struct Endless {
    name: &'static str,
    begin: &'static [u8],
    rest: &'static [u8],
    pause: Duration,
}

const DRIP: Duration = Duration::from_millis(20);

#[test]
fn endless_reply_ends_at_the_timeout() {
    let cases = [
        Endless { name: "drip: status line", begin: b"HTTP/1.1 200", rest: b" ", pause: DRIP },
        Endless { name: "drip: head", begin: b"HTTP/1.1 200 OK\r\nX: ", rest: b"x", pause: DRIP },
        Endless {
            name: "drip: early hints",
            begin: b"",
            rest: b"HTTP/1.1 103 Early Hints\r\n\r\n",
            pause: DRIP,
        },
        Endless {
            name: "drip: body",
            begin: b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                    Content-Length: 100000\r\n\r\n{",
            rest: b" ",
            pause: DRIP,
        },
        Endless {
            name: "drip: chunks",
            begin: b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                    Transfer-Encoding: chunked\r\n\r\n",
            rest: b"1\r\n \r\n",
            pause: DRIP,
        },
        // Compressed blocks that expand to no bytes, so that the limit of the body never applies.
        Endless {
            name: "flood: empty blocks",
            begin: b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                    Content-Encoding: gzip\r\n\r\n\
                    \x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00",
            rest: &[0, 0, 0, 0xff, 0xff],
            pause: Duration::ZERO,
        },
    ];
    for case in cases {
        let name = case.name;
        let site = RawSite::start(move |connection| {
            while let Some(head) = connection.request() {
                if !head.starts_with("POST") {
                    connection.write(ME);
                    continue;
                }
                let rest = case.rest.repeat(if case.pause.is_zero() { 1000 } else { 1 });
                connection.write(case.begin);
                while connection.write(&rest) {
                    thread::sleep(case.pause);
                }
                return;
            }
        });
        let timeout = Duration::from_millis(600);
        let mut driver = ready(&site, timeout);
        let begun = Instant::now();
        assert_eq!(failed(driver.ask(post(1, "x"))), Failure::Unknown, "{name}");
        let took = begun.elapsed();
        assert!(took >= timeout - DRIP && took < LONG / 2, "{name}: {took:?}");
        assert_eq!(site.count("POST "), 1, "{name}");
    }
}

#[test]
fn unneeded_reply_body_is_not_awaited() {
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 900000000\r\n\r\n";
    let redirect =
        "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 900000000\r\n\r\n";
    let unsized_page = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n\r\n";
    for (head, failure) in [
        (page, Failure::Unusable),
        (redirect, Failure::SiteMisconfigured),
        (unsized_page, Failure::Unusable),
    ] {
        let site = RawSite::start(move |connection| {
            while let Some(request) = connection.request() {
                if !request.starts_with("POST") {
                    connection.write(ME);
                    continue;
                }
                connection.write(head);
                while connection.write([b' '; 4096]) {
                    thread::sleep(Duration::from_millis(1));
                }
                return;
            }
        });
        let mut driver = ready(&site, Duration::from_secs(5));
        let begun = Instant::now();
        assert_eq!(failed(driver.ask(post(1, "x"))), failure);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert_eq!(site.count("/elsewhere"), 0);
    }
}

#[test]
fn site_that_stops_reading_hits_the_timeout() {
    let site = RawSite::start(|connection| {
        while let Some((head, length)) = connection.head() {
            if head.starts_with("POST") {
                while connection.is_active() {
                    thread::sleep(Duration::from_millis(5));
                }
                return;
            }
            connection.body(length);
            connection.write(ME);
        }
    });
    let timeout = Duration::from_millis(600);
    let mut driver = ready(&site, timeout);
    let begun = Instant::now();
    // More than the kernel's buffers on both sides can hold.
    let text = "x".repeat(6 << 20);
    assert_eq!(failed(driver.ask(post(1, &text))), Failure::Unknown);
    // Serializing this much JSON takes a while as well.
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
}

// ---------------------------------------------------------------- redirects

#[test]
fn redirects_are_never_followed_or_sent_a_token() {
    let elsewhere = RawSite::start(serve_well);
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    for status in [300, 301, 302, 303, 307, 308] {
        let port = elsewhere.url().rsplit_once(':').unwrap().1.to_owned();
        for to in [
            format!("{}/wp-json/buddyboss/v1/messages", elsewhere.url()),
            format!("http://localhost:{port}/"),
            format!("//127.0.0.1:{port}/"),
            "/elsewhere".to_owned(),
            format!("{}/elsewhere", site.url()),
        ] {
            for ask in [post(1, "x"), prove("user-7"), list(1, "user-7")] {
                let before = site.requests().len();
                let fault = Fault::status(status, &[("Location", &to)]);
                // Only requests with a token fail: a probe that follows finds a working site.
                site.fail_when(move |_, r| r.header("authorization").map(|_| fault.clone()));
                assert_eq!(failed(driver.ask(ask)), Failure::SiteMisconfigured, "{status} {to}");
                let requests = site.requests()[before..].to_vec();
                let with_token =
                    |r: &&_| crate::support::site::Request::header(r, "authorization").is_some();
                assert_eq!(requests.iter().filter(with_token).count(), 1, "{status} {to}");
                assert!(requests.iter().all(|r| !r.path.contains("elsewhere")), "{status} {to}");
            }
        }
    }
    assert_eq!(elsewhere.connections(), 0, "a redirect was followed");
}

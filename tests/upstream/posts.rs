//! Posting messages to a site over real sockets: stored, not stored, and unknown outcomes.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use buddyline::hub::interface::{Answer, Ask, Failure, Post, Target};
use buddyline::protocol::Id;
use socket2::{Domain, Socket, Type};

use crate::support::driver::{LONG, PoolDriver, UNAVAILABLE, failed, post, post_as, stored};
use crate::support::fixtures::load;
use crate::support::site::{Fault, Site};

// ---------------------------------------------------------------- stored

#[test]
fn message_is_stored_once_and_answered_with_the_sites_html() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    let stored = stored(driver.ask(post(2, "1 < 2 & so on")));
    assert_eq!((stored.thread, stored.sender), (2, Id::number(7)));
    let message = stored.message.unwrap();
    assert_eq!((message.id, &*message.html), (1, "<p>1 &lt; 2 &amp; so on</p>\n"));
    assert!(humantime::parse_rfc3339(&message.sent_at).is_ok(), "{}", message.sent_at);
    assert_eq!(site.stored(2), [(7, "1 < 2 & so on".to_owned())]);
    let posts = site.posts();
    assert_eq!(posts.len(), 1);
    assert_eq!(posts[0].path, "/wp-json/buddyboss/v1/messages");
    assert_eq!(posts[0].header("authorization"), Some("Bearer user-7"));
    assert_eq!(posts[0].header("content-type"), Some("application/json"));
    assert_eq!(posts[0].header("accept"), Some("application/json"));
    assert!(posts[0].header("user-agent").unwrap().starts_with("buddyline/"));
    assert_eq!(posts[0].header("transfer-encoding"), None);
    assert_eq!(posts[0].json(), serde_json::json!({"id": 2, "message": "1 < 2 & so on"}));
}

#[test]
fn new_thread_id_is_taken_from_the_site() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    let new = |to| post_as("user-9", Target::NewThread { recipient: to }, "hi");
    assert_eq!(stored(driver.ask(new(4))).thread, 4);
    assert_eq!(stored(driver.ask(new(4))).thread, 4);
    assert_eq!(stored(driver.ask(new(5))).thread, 5);
    assert_eq!(failed(driver.ask(new(9))), Failure::CannotWrite);
    assert_eq!(site.stored(4).len(), 2);
}

#[test]
fn gzip_reply_is_decoded() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.fail_next(Fault::Gzip);
    assert_eq!(stored(driver.ask(post(1, "x"))).thread, 1);
    assert_eq!(site.posts()[0].header("accept-encoding"), Some("gzip"));
}

#[test]
fn site_in_a_subdirectory_is_requested_there() {
    let site = Site::start();
    site.always(Fault::replay(&load("post-reply")));
    let mut driver = PoolDriver::at(&format!("{}/community/wp-json/", site.url()));
    stored(driver.ask(post(1, "hi alice")));
    assert_eq!(site.posts()[0].path, "/community/?rest_route=/buddyboss/v1/messages");
}

// ---------------------------------------------------------------- refused

#[test]
fn site_refusals_map_to_their_failure_kinds() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.suspend(66);
    for (token, thread, failure) in [
        ("nobody", 1, Failure::TokenRefused),
        ("expired", 1, Failure::TokenExpired),
        ("user-66", 1, Failure::Suspended),
        ("user-9", 1, Failure::NotParticipant),
        ("user-7", 404, Failure::NotParticipant),
    ] {
        let answer = driver.ask(post_as(token, Target::Thread(thread), "x"));
        assert_eq!(failed(answer), failure, "{token} in {thread}");
    }
    assert_eq!(site.stored(1), []);
}

#[test]
fn no_request_is_made_without_a_token() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    let post =
        Post { credential: None, target: Target::Thread(1), text: "x".into(), claimed: None };
    let request = driver.submit(Ask::Post(post));
    let at_once = driver.pool.next_answer();
    assert_eq!(at_once, Some((request, Answer::Failed(Failure::TokenMissing))));
    assert_eq!(site.posts().len(), 0);
}

#[test]
fn retry_after_is_passed_on() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.fail_next(Fault::status(429, &[("Retry-After", "17")]));
    let busy = Failure::SiteBusy { retry_after_s: Some(17) };
    assert_eq!(failed(driver.ask(post(1, "x"))), busy);
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.fail_next(Fault::replay(&load("fail-maintenance-post")));
    let closed = Failure::SiteUnavailable { retry_after_s: Some(600) };
    assert_eq!(failed(driver.ask(post(1, "x"))), closed);
}

#[test]
fn a_redirect_is_not_followed() {
    let (site, elsewhere) = (Site::start(), Site::start());
    let mut driver = PoolDriver::ready(&site, |_| ());
    for status in [301, 302, 303, 307, 308] {
        let to = format!("{}/wp-json/buddyboss/v1/messages", elsewhere.url());
        site.fail_next(Fault::status(status, &[("Location", &to)]));
        assert_eq!(failed(driver.ask(post(1, "x"))), Failure::SiteMisconfigured, "{status}");
    }
    assert_eq!(elsewhere.requests().len(), 0);
    assert_eq!(site.posts().len(), 5);
}

// ---------------------------------------------------------------- unknown outcome

#[test]
fn failure_after_sending_is_unknown_and_never_retried() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| s.request_timeout = Duration::from_millis(700));
    let faults = [
        Fault::Hang,
        Fault::HangAfterStoring,
        Fault::Close,
        Fault::CloseAfterStoring,
        Fault::Truncated,
        Fault::TruncatedChunks,
        Fault::Html,
        Fault::Garbage,
        Fault::status(204, &[]),
        Fault::status(500, &[]),
        Fault::status(502, &[]),
        Fault::status(503, &[]),
        Fault::status(504, &[]),
        Fault::replay(&load("fail-php-fatal-after-store")),
        Fault::replay(&load("group-thread-reply")),
        Fault::status(200, &[("X-Long", &"x".repeat(40 << 10))]),
    ];
    let mut kept = 0;
    for (n, fault) in faults.into_iter().enumerate() {
        kept += usize::from(fault.stores());
        let name = format!("{fault:.40?}");
        let whole = match &fault {
            Fault::Html => true,
            Fault::Answer { status, headers, .. } => {
                *status != 504 && !headers.iter().any(|(name, _)| name == "X-Long")
            }
            _ => false,
        };
        let failure = if whole { Failure::Unusable } else { Failure::Unknown };
        site.fail_next(fault);
        assert_eq!(failed(driver.ask(post(1, "x"))), failure, "{name}");
        assert_eq!(site.posts().len(), 2 * n + 1, "{name}");
        assert_eq!(site.stored(1).len(), kept, "{name}");
        // A success, because failures in a row would open the breaker.
        stored(driver.ask(post(2, "and it goes on")));
    }
}

#[test]
fn replies_are_limited_to_four_mebibytes() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.fail_next(Fault::Padded((4 << 20) - (8 << 10)));
    stored(driver.ask(post(1, "x")));
    site.fail_next(Fault::Padded(4 << 20));
    assert_eq!(failed(driver.ask(post(1, "x"))), Failure::Unknown);
}

#[test]
fn gzip_bomb_is_cut_off_at_four_mebibytes() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    // 256 MiB from 1.7 MB: reading it all would exceed the request timeout.
    site.fail_next(Fault::GzipBomb(256 << 20));
    assert_eq!(failed(driver.ask(post(1, "x"))), Failure::Unknown);
    stored(driver.ask(post(1, "x")));
}

// ---------------------------------------------------------------- never sent

#[test]
fn refused_connect_is_not_stored() {
    let mut driver = PoolDriver::at(&Site::refusing());
    assert_eq!(failed(driver.ask(post(1, "x"))), UNAVAILABLE);
}

#[test]
fn unresolvable_name_is_not_stored() {
    let mut driver = PoolDriver::with("http://no-such-site.invalid", |s| {
        s.connect_timeout = Duration::from_secs(2);
    });
    assert_eq!(failed(driver.ask(post(1, "x"))), UNAVAILABLE);
}

/// A listener that never accepts, and connections that fill its backlog: the next connect hangs.
fn full_listener() -> (Socket, Vec<Socket>, String) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let waiting = (0..8)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address);
            socket
        })
        .collect();
    let url = format!("http://{}", address.as_socket().unwrap());
    (listener, waiting, url)
}

#[test]
fn hanging_connect_is_not_stored() {
    let (_listener, _waiting, url) = full_listener();
    let mut driver = PoolDriver::at(&url);
    let begun = Instant::now();
    assert_eq!(failed(driver.ask(post(1, "x"))), UNAVAILABLE);
    assert!(begun.elapsed() >= Duration::from_millis(250), "the connect did not hang");
}

#[test]
fn request_timeout_during_connect_is_not_stored() {
    let (_listener, _waiting, url) = full_listener();
    let mut driver = PoolDriver::with(&url, |s| {
        s.connect_timeout = LONG;
        s.request_timeout = Duration::from_millis(300);
    });
    assert_eq!(failed(driver.ask(post(1, "x"))), UNAVAILABLE);
}

#[test]
fn failed_tls_handshake_is_not_stored() {
    // This site does not speak TLS: it answers the ClientHello with garbage or closes.
    for fault in [Fault::Garbage, Fault::Close] {
        let site = Site::start();
        site.always(fault);
        let mut driver = PoolDriver::at(&site.url().replace("http://", "https://"));
        assert_eq!(failed(driver.ask(post(1, "x"))), UNAVAILABLE);
    }
    // This listener sends nothing: the handshake ends at the connect timeout.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut driver = PoolDriver::at(&format!("https://{}", listener.local_addr().unwrap()));
    assert_eq!(failed(driver.ask(post(1, "x"))), UNAVAILABLE);
}

//! Attacks over real sockets: malicious members, and proxies that answer in place of the site.
use std::time::{Duration, Instant};

use buddyline::hub::interface::{Answer, Failure, Post, Target};
use buddyline::protocol::credential::Credential;
use buddyline::upstream::buddyboss::{self, Reply};
use serde_json::json;

use crate::support::client::{Client, of_type};
use crate::support::server::Server;
use crate::support::site::Site;

fn prove(server: &Server, user: u64) -> Client {
    let mut client = Client::connect(server.address());
    client
        .send(&json!({"type": "user_connected", "userId": user, "token": format!("token-{user}")}));
    client.expect_type("user_connected");
    client
}

/// A removed member floods the upstream queue with messages to threads that do not exist; the site
/// is healthy, so their removal must not be delayed as in an outage.
#[test]
fn removed_member_cannot_fake_an_outage_by_filling_queue() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    site.set_latency(Duration::from_millis(100));
    let url = site.url();
    let server = Server::start(&[
        "--buddyboss-url",
        &url,
        "--upstream-workers",
        "2",
        "--upstream-queue",
        "8",
        "--membership-lasts",
        "10s",
        "--presence",
        "off",
        "--max-frames-per-second=0",
    ]);
    let mut seven = prove(&server, 7);
    let mut eight = prove(&server, 8);
    for client in [&mut seven, &mut eight] {
        client.send(&json!({"type": "join_thread", "threadId": 41}));
        client.expect_type("thread_joined");
    }
    site.remove_participant(41, 8);
    let start = Instant::now();
    let mut last = None;
    let mut thread = 1000;
    let mut flood = prove(&server, 8);
    while start.elapsed() < Duration::from_secs(40) {
        for _ in 0..40 {
            thread += 1;
            flood.send(&json!({"type": "send_message", "threadId": thread, "message": "x"}));
        }
        seven.send(&json!({"type": "typing", "threadId": 41}));
        std::thread::sleep(Duration::from_millis(50));
        let _ = flood.drain();
        let _ = seven.drain();
        let received = eight.drain();
        if received.iter().any(|f| f["type"] == "typing") {
            last = Some(start.elapsed());
        }
        if !of_type(&received, "thread_left").is_empty() {
            break;
        }
    }
    let last = last.unwrap();
    assert!(
        last < Duration::from_secs(12),
        "removed at 0 s, list TTL 10 s, last frame at {last:?}"
    );
}

#[test]
fn proxy_401_to_a_post_does_not_reject_the_token() {
    let post = Post {
        credential: Some(Credential::parse("t").unwrap()),
        target: Target::Thread(1),
        text: "x".into(),
        claimed: None,
    };
    let reply = Reply {
        status: 401,
        content_type: Some("text/html".into()),
        body: Some(b"<html>401 Authorization Required (nginx)</html>".to_vec()),
        ..Reply::default()
    };
    let answer = buddyboss::parse_post_reply(&post, &reply);
    assert_ne!(
        answer,
        Answer::Failed(Failure::TokenRefused),
        "the token is revoked: all its connections close"
    );
}

/// End to end: a proxy answers one message with 401.
#[test]
fn proxy_401_to_a_post_closes_no_connections() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    let url = site.url();
    let server = Server::start(&["--buddyboss-url", &url, "--presence", "off"]);
    let mut phone = prove(&server, 7);
    let mut laptop = prove(&server, 7);
    site.fail_next(crate::support::site::Fault::status(401, &[("Content-Type", "text/html")]));
    phone.send(&json!({"type": "send_message", "threadId": 41, "message": "x"}));
    phone.expect_type("error");
    for device in [&mut phone, &mut laptop] {
        device.send(&json!({"type": "ping"}));
        device.expect_type("pong");
    }
}

/// Many claims wait for one proof, with the largest `--max-joins` that is allowed.
#[test]
fn many_claims_do_not_crash_the_process() {
    let site = Site::start();
    let url = site.url();
    site.set_latency(Duration::from_millis(1500));
    let server = Server::start(&[
        "--buddyboss-url",
        &url,
        "--presence=off",
        "--max-joins=100000",
        "--max-frames-per-second=0",
    ]);
    let mut mallory = Client::connect(server.address());
    let claim = json!({"type": "user_connected", "userId": 7, "token": "token-7"});
    for _ in 0..8_500 {
        mallory.send(&claim);
    }
    // Each claim is answered.
    for _ in 0..8_500 {
        mallory.expect_type("user_connected");
    }
    let mut alive = Client::connect(server.address());
    alive.send(&json!({"type": "ping"}));
    alive.expect_type("pong");
}

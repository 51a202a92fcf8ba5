//! Tickets of the site's plugin through the real server, where a client sends a token.

use std::time::Duration;

use serde_json::json;

use crate::support::client::{Client, LONG};
use crate::support::files::SecretFile;
use crate::support::plugin::{SECRET, now_s, ticket, ticket_claims};
use crate::support::server::{Server, wait_until};
use crate::support::site::Site;

fn start(site: &Site, secret: &SecretFile) -> Server {
    Server::start(&["--buddyboss-url", &site.url(), "--site-secret-file", secret.path()])
}

#[test]
fn client_with_a_ticket_costs_the_site_no_proof() {
    let (site, secret) = (Site::start(), SecretFile::with(&[SECRET]));
    let server = start(&site, &secret);
    // Longer than a token may be.
    let threads: Vec<u64> = (100_001..100_501).collect();
    let mut claims = ticket_claims(&site.url(), 7, now_s(), &threads);
    claims["blocked"] = json!((200_001..200_600).collect::<Vec<u64>>());
    let token = ticket(SECRET, "tickets", &claims);
    assert!(token.len() > 4_096, "{}", token.len());
    let mut client = Client::proven(server.address(), 7, &token);
    // In the handshake as well, and for another user.
    let other = ticket(SECRET, "tickets", &ticket_claims(&site.url(), 8, now_s(), &[4]));
    let header = format!("Bearer {other}");
    let mut other = Client::at(server.address(), "/", &[("Authorization", &header)]);
    other.send(&json!({"type": "user_connected", "userId": 8}));
    client.expect(|frame| frame["type"] == "user_connected" && frame["userId"] == 8);
    assert!(site.proof_requests().is_empty());
}

#[test]
fn message_and_list_with_a_ticket_only_need_a_token() {
    let (site, secret) = (Site::start(), SecretFile::with(&[SECRET]));
    site.add_member("anna", 7);
    site.add_thread(4, &[7, 8]);
    let server = start(&site, &secret);
    let token = ticket(SECRET, "tickets", &ticket_claims(&site.url(), 7, now_s(), &[]));
    let mut client = Client::proven(server.address(), 7, &token);
    client.send(&json!({"type": "send_message", "threadId": 4, "message": "x"}));
    let error = client.expect_error("token_required");
    assert!(error["message"].to_string().contains("ticket"), "{error}");
    client.send(&json!({"type": "join_thread", "threadId": 4}));
    let error = client.expect_error("token_required");
    assert!(error["message"].to_string().contains("ticket"), "{error}");
    let messages = || site.posts().iter().filter(|post| post.path.contains("/messages")).count();
    assert!(messages() == 0 && site.list_requests().is_empty());
    // With a token of the site in the frame, the message is stored.
    client.send(&json!({"type": "send_message", "threadId": 4, "message": "x", "token": "anna"}));
    wait_until(LONG, "the message is posted", || messages() == 1);
    assert!(site.requests().iter().all(|request| !format!("{request:?}").contains(&token)));
}

#[test]
fn refused_tickets_say_why_and_reach_the_log() {
    let (site, secret) = (Site::start(), SecretFile::with(&[SECRET]));
    let server = start(&site, &secret);
    let claims = ticket_claims(&site.url(), 7, now_s(), &[]);
    let old = ticket_claims(&site.url(), 7, now_s() - 301, &[]);
    let foreign = ticket_claims("https://other.example", 7, now_s(), &[]);
    for (token, code, text) in [
        (ticket(&"0".repeat(64), "tickets", &claims), "token_refused", "signature"),
        (ticket(SECRET, "requests", &claims), "token_refused", "signature"),
        (ticket(SECRET, "tickets", &old), "token_expired", "expired"),
        (ticket(SECRET, "tickets", &foreign), "token_refused", "issuer"),
    ] {
        let mut client = Client::connect(server.address());
        client.send(&json!({"type": "user_connected", "userId": 7, "token": token}));
        let error = client.expect_error(code);
        assert!(error["message"].to_string().contains(text), "{error}");
        client.expect_nothing_for(Duration::from_millis(50));
    }
    let log = server.log().join("\n");
    assert!(log.contains("the secret of --site-secret-file is not the plugin's"), "{log}");
    assert!(log.contains("is for the site https://other.example"), "{log}");
    assert!(site.proof_requests().is_empty(), "no ticket is sent to the site");
}

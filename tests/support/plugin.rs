//! Signed events and tickets as the site's plugin sends them, made without the code under test.

#![allow(dead_code, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use ring::hmac;
use serde_json::{Value, json};

use super::jwt;
use super::server::ask;

/// A secret of the plugin.
pub const SECRET: &str = "6b1f0d3c9a52e84771c0d5b8f29e3a6406d7c1b8e5f3924a7d60c8b1e2f4a953";

/// The time now, in seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, message).as_ref().to_vec()
}

/// The key for `events`, `tickets` or `requests`.
pub fn key(secret: &str, purpose: &str) -> Vec<u8> {
    hmac(secret.as_bytes(), format!("buddyline {purpose} v1").as_bytes())
}

/// The value of `Buddyline-Signature`.
pub fn signature(secret: &str, purpose: &str, body: &[u8], time_s: u64) -> String {
    let message = [format!("{time_s}.").as_bytes(), body].concat();
    let hex: String =
        hmac(&key(secret, purpose), &message).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={time_s},v1={hex}")
}

/// The claims of a ticket for a user, issued at a time.
pub fn ticket_claims(site: &str, user: u64, issued_s: u64, threads: &[u64]) -> Value {
    json!({
        "iss": site, "aud": "buddyline", "sub": user.to_string(), "iat": issued_s,
        "exp": issued_s + 300, "jti": new_id(), "sid": "a-session", "threads": threads,
        "blocked": [99], "more": false,
    })
}

/// A ticket with these claims, signed with the key of this purpose.
pub fn ticket(secret: &str, purpose: &str, claims: &Value) -> String {
    let header = br#"{"typ":"JWT","alg":"HS256","kid":"buddyline-ticket"}"#;
    let text = format!("{}.{}", jwt::encoded(header), jwt::encoded(claims.to_string().as_bytes()));
    let signature = hmac(&key(secret, purpose), text.as_bytes());
    format!("{text}.{}", jwt::encoded(&signature))
}

/// A new id of a body.
pub fn new_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("id-of-a-test-{:08}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A body with a new id.
pub fn body(events: &[Value]) -> Vec<u8> {
    let body = json!({"id": new_id(), "sentAt": now_s(), "plugin": "0.1.0", "events": events});
    body.to_string().into_bytes()
}

/// A whole request with this header line and this body.
pub fn request(header: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /site/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{header}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A whole, signed request.
pub fn signed_request(secret: &str, body: &[u8]) -> Vec<u8> {
    let signature = signature(secret, "events", body, now_s());
    request(&format!("Buddyline-Signature: {signature}\r\n"), body)
}

/// Sends events. Returns the status and the body of the response.
pub fn send(address: SocketAddr, events: &[Value]) -> (String, Value) {
    read(&ask(address, &signed_request(SECRET, &body(events))))
}

/// The status and the JSON of a response.
pub fn read(response: &str) -> (String, Value) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().to_owned();
    (status, serde_json::from_str(body).unwrap_or(Value::String(body.to_owned())))
}

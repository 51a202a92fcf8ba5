//! Reads the requests of the site's plugin: `POST /site/events`, whose body the wire collects, and
//! `GET /site/events/test/TOKEN`, with which the doctor asks whether a test event has arrived.

use super::handshake::{Handshake, Readiness, respond};
use super::headers::{has_header, header_tokens, single_header};
use super::methods;
use super::request::{self, Head};
use super::response::{NO_STORE, page, text, without_body};
use crate::protocol::signature::HEADER;

/// The largest body, in bytes.
pub const BODY_BYTES_MAX: usize = 512 * 1024;
/// The longest token of a test event, in bytes.
pub const TEST_TOKEN_BYTES_MAX: usize = 64;

const JSON: &str = "Content-Type: application/json\r\n";
/// The end of the path of events. Proxies may put a prefix before it.
const EVENTS: &str = "/site/events";
/// The text before the token in the path of a test.
const TEST: &str = "/site/events/test/";

/// Why a request of the plugin is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteRefusal {
    /// The time of the signature is too far from this machine's.
    Clock,
    /// The signature is missing, or no key has made it.
    Signature,
    /// The id of the body has been seen.
    Replay,
    /// The request or its body has another form.
    Format,
    /// The body is too large.
    Size,
    /// Too many requests in a second.
    Rate,
    /// The server is stopping.
    Draining,
    /// Too many bodies arrive at the same time.
    Busy,
    /// The body did not arrive in time.
    Late,
    /// The connection ended before the body did.
    Truncated,
}

impl SiteRefusal {
    /// All causes, with their labels in the metrics.
    pub const ALL: [(SiteRefusal, &'static str); 10] = [
        (SiteRefusal::Clock, "clock"),
        (SiteRefusal::Signature, "signature"),
        (SiteRefusal::Replay, "replay"),
        (SiteRefusal::Format, "format"),
        (SiteRefusal::Size, "size"),
        (SiteRefusal::Rate, "rate"),
        (SiteRefusal::Draining, "draining"),
        (SiteRefusal::Busy, "busy"),
        (SiteRefusal::Late, "late"),
        (SiteRefusal::Truncated, "truncated"),
    ];

    /// The response. It does not say why a signature is refused.
    pub fn response(self, headers: &str) -> String {
        let (status, retry, error) = match self {
            SiteRefusal::Clock | SiteRefusal::Signature | SiteRefusal::Replay => {
                ("401 Unauthorized", "", "unauthorized")
            }
            SiteRefusal::Format => ("400 Bad Request", "", "bad_request"),
            SiteRefusal::Size => ("413 Content Too Large", "", "too_large"),
            SiteRefusal::Rate => ("429 Too Many Requests", "Retry-After: 1\r\n", "rate_limited"),
            SiteRefusal::Draining => ("503 Service Unavailable", "Retry-After: 5\r\n", "draining"),
            SiteRefusal::Busy => ("503 Service Unavailable", "Retry-After: 1\r\n", "busy"),
            SiteRefusal::Late | SiteRefusal::Truncated => ("408 Request Timeout", "", "too_slow"),
        };
        json(status, &format!("{retry}{headers}"), &format!("{{\"error\":\"{error}\"}}"))
    }
}

/// The head of a request with events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsHead {
    /// The value of the header with the signature; not verified.
    pub signature: String,
    /// The length of the body.
    pub body_bytes: usize,
    /// Whether the plugin waits for `100 Continue`.
    pub expects_continue: bool,
}

/// The response to events that were taken.
pub fn accepted(accepted: usize, ignored: usize, headers: &str) -> String {
    json("200 OK", headers, &format!("{{\"accepted\":{accepted},\"ignored\":{ignored}}}"))
}

/// The response to the question whether a test event has arrived.
pub fn test_arrival(has_arrived: bool) -> String {
    match has_arrived {
        true => json("200 OK", "", "{\"arrived\":true}"),
        false => json("404 Not Found", "", "{\"arrived\":false}"),
    }
}

fn json(status: &str, headers: &str, body: &str) -> String {
    page(status, &format!("{JSON}{NO_STORE}{headers}"), body)
}

/// Whether this path belongs to the plugin.
pub(super) fn is_site_path(path: &str) -> bool {
    path.ends_with(EVENTS) || test_token(path).is_some()
}

/// The token in the path of a test.
fn test_token(path: &str) -> Option<&str> {
    let token = &path[path.find(TEST)? + TEST.len()..];
    let is_token = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let fits = (1..=TEST_TOKEN_BYTES_MAX).contains(&token.len());
    (fits && token.bytes().all(is_token)).then_some(token)
}

/// Answers a request whose head is complete, on a path of the plugin.
pub(super) fn answer(
    request: &httparse::Request<'_, '_>,
    head: Head<'_>,
    head_bytes: usize,
    readiness: Readiness,
) -> Handshake {
    let path = request::path(request);
    match (request.method, test_token(path)) {
        (Some("GET"), Some(token)) => return Handshake::TestArrival { token: token.to_owned() },
        (Some("POST"), None) => {}
        (method, token) => {
            let allowed = if token.is_some() { "GET" } else { "POST" };
            let refused = methods::only(allowed, method.unwrap_or_default());
            let is_head = method == Some("HEAD");
            return respond(if is_head { without_body(refused) } else { refused });
        }
    }
    if readiness == Readiness::Draining {
        return refuse(SiteRefusal::Draining);
    }
    if has_header(request, "transfer-encoding") || !has_header(request, "content-length") {
        let error = "{\"error\":\"length_required\"}";
        let response = json("411 Length Required", "", error);
        return Handshake::RefuseSite { response, cause: SiteRefusal::Format };
    }
    let mut expectations = header_tokens(request, "expect");
    if expectations.any(|expectation| !expectation.eq_ignore_ascii_case(b"100-continue")) {
        let response = json("417 Expectation Failed", "", "{\"error\":\"expectation_failed\"}");
        return Handshake::RefuseSite { response, cause: SiteRefusal::Format };
    }
    // A length that is no number was refused before; one with too many digits is too large.
    let length = header_tokens(request, "content-length").next().unwrap_or_default();
    let length = std::str::from_utf8(length).ok().and_then(|length| length.parse().ok());
    let body_bytes = match length {
        Some(length @ 1..=BODY_BYTES_MAX) if head.has_body => length,
        Some(0) => return refuse(SiteRefusal::Format),
        _ => return refuse(SiteRefusal::Size),
    };
    let Some(signature) = single_header(request, HEADER) else {
        return refuse(SiteRefusal::Signature);
    };
    let expects_continue = request.version == Some(1) && has_header(request, "expect");
    let signature = signature.to_owned();
    Handshake::Events { head_bytes, events: EventsHead { signature, body_bytes, expects_continue } }
}

/// Answers any other request on the listener for the plugin.
pub(super) fn answer_elsewhere(
    request: &httparse::Request<'_, '_>,
    readiness: Readiness,
) -> Handshake {
    let path = request::path(request);
    let response = match request.method {
        Some("GET" | "HEAD") => methods::health_check(path, readiness).unwrap_or_else(|| {
            let paths = "Not found; this listener serves /site/events, /healthz and /readyz.";
            text("404 Not Found", "", paths)
        }),
        Some("OPTIONS") => methods::options(path, readiness),
        method => methods::unsupported(method.unwrap_or_default()),
    };
    respond(if request.method == Some("HEAD") { without_body(response) } else { response })
}

fn refuse(cause: SiteRefusal) -> Handshake {
    Handshake::RefuseSite { response: cause.response(""), cause }
}

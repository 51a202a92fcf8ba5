//! Reads the first request of a connection and decides: upgrade to WebSocket, plain HTTP response,
//! or refusal.
//!
//! `httparse` parses the head and tungstenite computes the accept key; the requirements of an
//! upgrade are those of RFC 6455 section 4.2.1. Of a request only the client's address and its
//! credential are kept.

use std::mem::MaybeUninit;

use tungstenite::handshake::derive_accept_key;

use super::call_status::{self, CallStatusRequest, ResponseFormat};
use super::headers::{has_header_token, header_entries_from_right, single_header};
use super::origin::{self, OriginCheck};
use super::request::{self, Head, Invalid};
use super::response::{bad_request, draining, page, text, without_body};
use super::site_events::{EventsHead, SiteRefusal};
use super::try_page::{TRY_PAGE, TRY_PAGE_HEADERS};
use super::{methods, site_events, token};
use crate::config::Config;
use crate::config::limits::HeadLimits;
use crate::config::origins::Origins;
use crate::config::proxies::{Peer, TrustedProxies};
use crate::protocol::ClientError;
use crate::protocol::credential::Credential;

/// Header lines that are parsed into an array on the stack; a higher limit takes an allocation.
const HEADERS_ON_STACK: usize = 128;

/// The subprotocol that clients may offer together with a token (`PROTOCOL.md` 3).
pub(super) const SUBPROTOCOL: &str = "buddyline";

/// Whether the server can take work: what `GET /readyz` tells a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It takes connections and can store messages.
    Ready,
    /// It takes connections, but the site is unavailable, so no messages can be stored.
    SiteUnavailable,
    /// It is shutting down and accepts no new WebSocket.
    Draining,
}

/// The settings that decide how a request is answered.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Whether upgrades are accepted, and what `GET /readyz` answers.
    pub readiness: Readiness,
    /// Whether `GET /` serves the try-it page.
    pub try_page: bool,
    /// The origins whose pages may connect.
    pub origins: Origins,
    /// The proxies whose `X-Forwarded-For` and `X-Forwarded-Host` are trusted.
    pub proxies: TrustedProxies,
    /// The largest request head.
    pub head_limits: HeadLimits,
    /// Whether the public listeners take the events of the site's plugin.
    pub site_events: bool,
}

impl Rules {
    /// Takes the rules from the settings; readiness starts as ready, without the path of events.
    pub fn new(config: &Config) -> Rules {
        Rules {
            readiness: Readiness::Ready,
            try_page: config.is_try_page_enabled(),
            origins: config.origins(),
            proxies: config.proxies(),
            head_limits: config.limits().head_limits(),
            site_events: false,
        }
    }
}

/// The client that opened a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The client; behind trusted proxies the address that they report.
    pub client: Peer,
    /// The credential of the request, or what is wrong with it; `None` if it has none.
    pub credential: Option<Result<Credential, ClientError>>,
}

/// The result of parsing the bytes received so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Handshake {
    /// The head is not complete.
    Incomplete,
    /// Send `response` and switch to WebSocket; frames begin after the head.
    Upgrade {
        /// The whole response.
        response: String,
        /// Length of the request head.
        head_bytes: usize,
        /// The client.
        opened: Opened,
    },
    /// The client requests the status of a call and waits for the response.
    CallStatusRequest {
        /// The request.
        status_request: CallStatusRequest,
        /// The format of the response.
        format: ResponseFormat,
    },
    /// The site's plugin sends events: the body follows the head.
    Events {
        /// Length of the request head.
        head_bytes: usize,
        /// The head.
        events: EventsHead,
    },
    /// The doctor asks whether the test event with this token has arrived.
    TestArrival {
        /// The token.
        token: String,
    },
    /// Send this response to the site's plugin and close.
    RefuseSite {
        /// The whole response.
        response: String,
        /// The cause, for the metrics.
        cause: SiteRefusal,
    },
    /// Send this response and close.
    Respond {
        /// The whole response.
        response: String,
    },
    /// The same, because the page's origin is not allowed.
    RefuseOrigin {
        /// The whole response.
        response: String,
        /// The refused origin for the log: at most 100 printable ASCII characters, no quotes.
        origin: String,
    },
}

/// Reads a request head from the first bytes of a connection. `peer` is the socket's other end.
pub fn receive(bytes: &[u8], peer: impl Into<Peer>, rules: &Rules) -> Handshake {
    receive_on(Listener::Public, bytes, peer.into(), rules)
}

/// The listener on which a request arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// That of the clients (`--listen`).
    Public,
    /// That of the site's plugin (`--site-listen`).
    Site,
}

/// As [`receive`], on either listener.
pub(crate) fn receive_on(listener: Listener, bytes: &[u8], peer: Peer, rules: &Rules) -> Handshake {
    let HeadLimits { bytes: bytes_max, lines: lines_max } = rules.head_limits;
    let mut on_stack = [const { MaybeUninit::uninit() }; HEADERS_ON_STACK];
    let mut on_heap = Vec::new();
    let headers = match on_stack.get_mut(..lines_max) {
        Some(headers) => headers,
        None => {
            on_heap.resize_with(lines_max, MaybeUninit::uninit);
            &mut on_heap[..]
        }
    };
    let mut request = httparse::Request::new(&mut []);
    // Bytes beyond the limit are ignored: an error there must not depend on how reads are split.
    let bytes = &bytes[..bytes.len().min(bytes_max)];
    match request.parse_with_uninit_headers(bytes, headers) {
        Ok(httparse::Status::Complete(head_bytes)) => {
            answer(&mut request, head_bytes, listener, peer, rules).unwrap_or_else(respond)
        }
        Ok(httparse::Status::Partial) if bytes.len() < bytes_max => Handshake::Incomplete,
        Ok(httparse::Status::Partial) => respond(request::too_large(&request, bytes)),
        Err(fault) => match request::judge_error(fault, &request, bytes) {
            Invalid::NewerMinor(same) => receive_on(listener, &same, peer, rules),
            Invalid::Refused(response) => respond(response),
        },
    }
}

/// Answers a request whose head is complete.
///
/// # Errors
///
/// The response to an invalid request.
fn answer(
    request: &mut httparse::Request<'_, '_>,
    head_bytes: usize,
    listener: Listener,
    peer: Peer,
    rules: &Rules,
) -> Result<Handshake, String> {
    let head = request::check(request)?;
    let request = &*request;
    let is_for_site = site_events::is_site_path(request::path(request));
    if is_for_site && (rules.site_events || listener == Listener::Site) {
        return Ok(site_events::answer(request, head, head_bytes, rules.readiness));
    }
    if listener == Listener::Site {
        return Ok(site_events::answer_elsewhere(request, rules.readiness));
    }
    let Some(key) = upgrade_key(request, head)? else {
        return Ok(match call_status::call_id_in(request) {
            Some(call) => call_status::accept(request, head, call, peer, rules),
            None => respond(respond_plain_http(request, rules)),
        });
    };
    if rules.readiness == Readiness::Draining {
        return Err(draining());
    }
    if origin::check_origin(request, head, peer, rules) == OriginCheck::Refused {
        return Ok(origin::refuse_origin(request));
    }
    Ok(Handshake::Upgrade {
        response: switching_protocols(request, key),
        head_bytes,
        opened: Opened {
            client: client(request, peer, &rules.proxies),
            credential: token::credential(request),
        },
    })
}

/// The client's address: the peer's, or the one that trusted proxies report.
pub(super) fn client(
    request: &httparse::Request<'_, '_>,
    peer: Peer,
    proxies: &TrustedProxies,
) -> Peer {
    proxies.client_and_hops(peer, header_entries_from_right(request, "x-forwarded-for")).0
}

pub(super) fn respond(response: String) -> Handshake {
    Handshake::Respond { response }
}

/// The `Sec-WebSocket-Key` of an upgrade request; `None` if the request is no upgrade.
///
/// # Errors
///
/// The response to an invalid upgrade request.
fn upgrade_key<'a>(
    request: &httparse::Request<'_, 'a>,
    head: Head<'_>,
) -> Result<Option<&'a str>, String> {
    if !has_header_token(request, "upgrade", "websocket") {
        return Ok(None);
    }
    if request.method != Some("GET") || request.version != Some(1) {
        return Err(bad_request(
            "A WebSocket opens with GET over HTTP/1.1 (RFC 6455 section 4.1).",
        ));
    }
    if !has_header_token(request, "connection", "upgrade") {
        return Err(bad_request(
            "The header Connection: Upgrade is missing; does a proxy drop it?",
        ));
    }
    // The WebSocket begins after the head: a body would be read as frames.
    if head.has_body {
        return Err(bad_request(
            "A WebSocket handshake has no body, so no Content-Length and no Transfer-Encoding.",
        ));
    }
    if single_header(request, "sec-websocket-version") != Some("13") {
        let version = "Sec-WebSocket-Version: 13\r\n";
        return Err(text("426 Upgrade Required", version, "WebSocket version 13 is needed."));
    }
    // RFC 6455 section 11.3.1: it may not occur more than once.
    match single_header(request, "sec-websocket-key") {
        Some(key) if is_sixteen_bytes(key) => Ok(Some(key)),
        _ => Err(bad_request(
            "The header Sec-WebSocket-Key is missing or is not 16 bytes in base64.",
        )),
    }
}

/// Whether a key is 16 bytes in base64: 22 characters and two of padding (RFC 6455 section 4.1).
fn is_sixteen_bytes(key: &str) -> bool {
    let digit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    key.len() == 24 && key.ends_with("==") && key.bytes().take(22).all(digit)
}

fn switching_protocols(request: &httparse::Request<'_, '_>, key: &str) -> String {
    let mut response = String::with_capacity(192);
    response.push_str("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n");
    response.push_str("Upgrade: websocket\r\nSec-WebSocket-Accept: ");
    response.push_str(&derive_accept_key(key.as_bytes()));
    // A browser that offered subprotocols fails the connection unless the server selects one.
    if has_header_token(request, "sec-websocket-protocol", SUBPROTOCOL) {
        response.push_str("\r\nSec-WebSocket-Protocol: ");
        response.push_str(SUBPROTOCOL);
    }
    response.push_str("\r\n\r\n");
    response
}

fn respond_plain_http(request: &httparse::Request<'_, '_>, rules: &Rules) -> String {
    let path = request::path(request);
    let response = match (request.method, path) {
        // The plugin tells a server without its secret by this status.
        (Some("POST"), _) if site_events::is_site_path(path) => {
            text("404 Not Found", "", "There is nothing at this path.")
        }
        (Some("GET" | "HEAD"), "/") if rules.try_page => page("200 OK", TRY_PAGE_HEADERS, TRY_PAGE),
        (Some("GET" | "HEAD"), "/") => {
            text("404 Not Found", "", "buddyline speaks WebSocket here.")
        }
        (Some("GET" | "HEAD"), _) => methods::health_check(path, rules.readiness)
            .unwrap_or_else(|| text("404 Not Found", "", "There is nothing at this path.")),
        (Some("OPTIONS"), _) => methods::options(path, rules.readiness),
        (method, _) => methods::unsupported(method.unwrap_or_default()),
    };
    if request.method == Some("HEAD") { without_body(response) } else { response }
}

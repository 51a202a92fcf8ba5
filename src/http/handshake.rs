//! An HTTP request becomes an upgrade, a small page, or a refusal.
//!
//! `httparse` reads the head, tungstenite computes the accept key; what is asked of a WebSocket
//! request is RFC 6455 section 4.2.1. Nothing of a request is kept but who opens it: from where,
//! and with which credential.

use std::net::IpAddr;

use tungstenite::handshake::derive_accept_key;

use super::call_status::{self, CallStatusRequest, ResponseFormat};
use super::headers::{has_header_token, header, header_values, single_header};
use super::response::{bad_request, draining, healthz, page, readyz, text, without_body};
use super::token;
use super::try_page::{TRY_PAGE, TRY_PAGE_HEADERS};
use crate::config::Config;
use crate::config::origins::Origins;
use crate::config::proxies::TrustedProxies;
use crate::protocol::ClientError;
use crate::protocol::credential::Credential;

/// More header lines than any browser or proxy sends.
const HEADERS_MAX: usize = 64;

/// The subprotocol that clients may name to send a token along (`PROTOCOL.md` 3).
pub(super) const SUBPROTOCOL: &str = "buddyline";

/// The longest part of a refused `Origin` that is told, in characters.
const ORIGIN_LOGGED_MAX: usize = 100;

/// Whether the server can be given work: what `GET /readyz` says to who shares it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// It takes connections, and the site is not there to store messages.
    SiteUnavailable,
    /// It is about to end, and takes no WebSocket.
    Draining,
}

/// What a request is judged by.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Whether WebSockets are opened, and what `GET /readyz` says.
    pub readiness: Readiness,
    /// Whether `GET /` shows the try-it page.
    pub try_page: bool,
    /// The web pages that may connect.
    pub origins: Origins,
    /// Whose `X-Forwarded-For` is believed.
    pub proxies: TrustedProxies,
    /// The largest head, in bytes: cookies of a WordPress site come along.
    pub head_bytes_max: usize,
}

impl Rules {
    /// What the settings say.
    pub fn new(config: &Config) -> Rules {
        Rules {
            readiness: Readiness::Ready,
            try_page: config.is_try_page_enabled(),
            origins: config.origins(),
            proxies: config.proxies(),
            head_bytes_max: config.limits().max_head_bytes,
        }
    }
}

/// Who has opened a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The address at the other end, behind trusted proxies if there are any.
    pub client: IpAddr,
    /// What proves who it is, or what is wrong with that.
    pub credential: Option<Result<Credential, ClientError>>,
}

/// What comes of the bytes received so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Handshake {
    /// The head is not complete.
    Incomplete,
    /// Send this and speak WebSocket; the head was `head_bytes` long, what follows are frames.
    Upgrade {
        /// The whole answer.
        response: String,
        /// Where the frames start.
        head_bytes: usize,
        /// Who it is.
        opened: Opened,
    },
    /// Someone asks how a call is, and waits for the answer.
    CallStatusRequest {
        /// Who asks for what.
        status_request: CallStatusRequest,
        /// How the answer is to be written.
        format: ResponseFormat,
    },
    /// Send this and close.
    Respond {
        /// The whole answer.
        response: String,
    },
    /// The same, to a web page that may not connect.
    RefuseOrigin {
        /// The whole answer.
        response: String,
        /// Where it comes from: at most 100 printable ASCII characters without quotes, to be
        /// logged.
        origin: String,
    },
}

/// Reads a request head from the first bytes of a connection with this peer.
pub fn receive(bytes: &[u8], peer: IpAddr, rules: &Rules) -> Handshake {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    // Not a byte more, or a fault behind the limit would count only if it came in the same read.
    let bytes = &bytes[..bytes.len().min(rules.head_bytes_max)];
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => match upgrade_key(&request) {
            Ok(Some(_)) if rules.readiness == Readiness::Draining => respond(draining()),
            Ok(Some(_)) if !is_origin_allowed(&request, &rules.origins) => refuse_origin(&request),
            Ok(Some(key)) => Handshake::Upgrade {
                response: switching_protocols(&request, key),
                head_bytes,
                opened: Opened {
                    client: client(&request, peer, &rules.proxies),
                    credential: token::credential(&request),
                },
            },
            Ok(None) => match call_status::call_id_in(&request) {
                Some(call) => call_status::accept(&request, call, peer, rules),
                None => respond(respond_plain_http(&request, rules)),
            },
            Err(refusal) => respond(refusal),
        },
        Ok(httparse::Status::Partial) if bytes.len() < rules.head_bytes_max => {
            Handshake::Incomplete
        }
        Ok(_) | Err(httparse::Error::TooManyHeaders) => respond(text(
            "431 Request Header Fields Too Large",
            "",
            "The request head is too large.",
        )),
        Err(_) => respond(text("400 Bad Request", "", "This is not an HTTP/1.1 request.")),
    }
}

/// Whether a request comes from a page that may connect, or from no page.
pub(super) fn is_origin_allowed(request: &httparse::Request<'_, '_>, origins: &Origins) -> bool {
    if !origins.is_restricted() {
        return true;
    }
    let mut found = header_values(request, "origin");
    match (found.next(), found.next()) {
        (None, _) => true,
        (Some(origin), None) => match std::str::from_utf8(origin) {
            Ok(origin) => origins.is_allowed(origin.trim(), single_header(request, "host")),
            Err(_) => false,
        },
        // No browser says two things.
        (Some(_), Some(_)) => false,
    }
}

/// Says what to set, and nothing of what the request said.
pub(super) fn refuse_origin(request: &httparse::Request<'_, '_>) -> Handshake {
    let tellable = |byte: u8| match byte {
        b'"' | b'\'' | b'`' | b'\\' => '?',
        b' '..=b'~' => char::from(byte),
        _ => '?',
    };
    let mut origin = String::new();
    for line in header_values(request, "origin") {
        origin.extend((!origin.is_empty()).then_some(" and "));
        let room = ORIGIN_LOGGED_MAX.saturating_sub(origin.len());
        origin.extend(line.iter().take(room).map(|byte| tellable(*byte)));
    }
    origin.truncate(ORIGIN_LOGGED_MAX);
    let line = "Pages of this origin may not connect; the server's setting --allowed-origin says \
                which may.";
    Handshake::RefuseOrigin { response: text("403 Forbidden", "", line), origin }
}

/// The address at the other end.
pub(super) fn client(
    request: &httparse::Request<'_, '_>,
    peer: IpAddr,
    proxies: &TrustedProxies,
) -> IpAddr {
    // Several lines are one list (RFC 9110 section 5.3), and its end is what counts.
    let headers = request.headers.iter().rev();
    let values = headers.filter(|header| header.name.eq_ignore_ascii_case("x-forwarded-for"));
    proxies.client(peer, values.flat_map(|line| line.value.rsplit(|byte| *byte == b',')))
}

pub(super) fn respond(response: String) -> Handshake {
    Handshake::Respond { response }
}

/// The client's key if it asks for a WebSocket, `None` if it asks for something else.
fn upgrade_key<'a>(request: &httparse::Request<'_, 'a>) -> Result<Option<&'a str>, String> {
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
    if header(request, "sec-websocket-version") != Some("13") {
        let version = "Sec-WebSocket-Version: 13\r\n";
        return Err(text("426 Upgrade Required", version, "WebSocket version 13 is needed."));
    }
    match header(request, "sec-websocket-key") {
        Some(key) if is_sixteen_bytes(key) => Ok(Some(key)),
        _ => Err(bad_request(
            "The header Sec-WebSocket-Key is missing or is not 16 bytes in base64.",
        )),
    }
}

/// Sixteen bytes in base64 have 22 characters and two of padding (RFC 6455 section 4.1).
fn is_sixteen_bytes(key: &str) -> bool {
    let digit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    key.len() == 24 && key.ends_with("==") && key.bytes().take(22).all(digit)
}

fn switching_protocols(request: &httparse::Request<'_, '_>, key: &str) -> String {
    let mut response = String::with_capacity(192);
    response.push_str("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n");
    response.push_str("Upgrade: websocket\r\nSec-WebSocket-Accept: ");
    response.push_str(&derive_accept_key(key.as_bytes()));
    // A browser that named subprotocols fails the connection unless one is chosen.
    if has_header_token(request, "sec-websocket-protocol", SUBPROTOCOL) {
        response.push_str("\r\nSec-WebSocket-Protocol: ");
        response.push_str(SUBPROTOCOL);
    }
    response.push_str("\r\n\r\n");
    response
}

fn respond_plain_http(request: &httparse::Request<'_, '_>, rules: &Rules) -> String {
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let response = match (request.method, path) {
        (Some("GET" | "HEAD"), "/healthz") => healthz(),
        (Some("GET" | "HEAD"), "/readyz") => readyz(rules.readiness),
        (Some("GET" | "HEAD"), "/") if rules.try_page => page("200 OK", TRY_PAGE_HEADERS, TRY_PAGE),
        (Some("GET" | "HEAD"), "/") => {
            text("404 Not Found", "", "buddyline speaks WebSocket here.")
        }
        (Some("GET" | "HEAD"), _) => text("404 Not Found", "", "There is nothing at this path."),
        _ => bad_request("Only GET and HEAD are answered here."),
    };
    if request.method == Some("HEAD") { without_body(response) } else { response }
}

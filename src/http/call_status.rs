//! `GET /calls/{callId}`: the status of a call, for an app woken by a push notification
//! (`PROTOCOL.md`, "HTTP on the same port").
//!
//! It is the only request that cannot be answered at once: the site may have to verify the token
//! first. Until then the connection waits in a state of its own and ignores further input.

use std::fmt::Write;

use percent_encoding::percent_decode_str;

use super::handshake::{self, Handshake, Readiness, Rules};
use super::origin::{self, OriginCheck};
use super::request::{self, Head};
use super::response::{self, NO_STORE, RESTARTING};
use super::{headers, methods, token};
use crate::config::proxies::Peer;
use crate::protocol::credential::Credential;
use crate::protocol::status::CallStatusReply;
use crate::protocol::{ClientError, ID_BYTES_MAX, Id};

/// The content type of a JSON body, which browsers must not guess.
const JSON: &str = "Content-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n";
/// `Retry-After` in seconds where no better value is known.
const RETRY_AFTER_S: u32 = 5;
/// Headers of a CORS preflight response: what a browser may send, and for how many seconds it may
/// cache this (the Fetch standard, section 3.3.3).
const PREFLIGHT: &str = "Access-Control-Allow-Methods: GET, HEAD\r\n\
    Access-Control-Allow-Headers: Authorization\r\nAccess-Control-Max-Age: 600\r\n";

/// A request for the status of a call.
#[derive(Debug, PartialEq, Eq)]
pub struct CallStatusRequest {
    /// The client; behind trusted proxies the address that they report.
    pub client: Peer,
    /// The credential of the request, or what is wrong with it; `None` if it has none.
    pub credential: Option<Result<Credential, ClientError>>,
    /// The call.
    pub call: Id,
}

/// The format of the response, which depends on the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseFormat {
    /// The request is HEAD.
    without_body: bool,
    /// The origin whose page may read the response, if a page sent the request.
    origin: Option<Box<str>>,
}

impl ResponseFormat {
    fn from_request(request: &httparse::Request<'_, '_>) -> ResponseFormat {
        // An origin that no browser would send is not echoed.
        let origin = headers::single_header(request, "origin").filter(|origin| {
            !origin.is_empty() && origin.bytes().all(|byte| byte.is_ascii_graphic())
        });
        let without_body = request.method == Some("HEAD");
        ResponseFormat { without_body, origin: origin.map(Into::into) }
    }

    fn headers(&self, more: &str) -> String {
        let mut headers = format!("{NO_STORE}Vary: Origin\r\n{more}");
        if let Some(origin) = &self.origin {
            // Writing to a String cannot fail.
            let _ = write!(headers, "Access-Control-Allow-Origin: {origin}\r\n");
        }
        headers
    }

    fn text(&self, status: &str, more: &str, line: &str) -> String {
        self.finish(response::text(status, &self.headers(more), line))
    }

    fn finish(&self, response: String) -> String {
        if self.without_body { response::without_body(response) } else { response }
    }

    /// The whole response.
    pub(crate) fn response(&self, reply: &CallStatusReply) -> String {
        match reply {
            CallStatusReply::Status(status) => {
                // Ids and strings only: serializing them cannot fail.
                let body = serde_json::to_string(status).unwrap_or_default();
                self.finish(response::page("200 OK", &self.headers(JSON), &body))
            }
            CallStatusReply::NoSuchCall => self.text(
                "404 Not Found",
                "",
                "You are not in a call with this callId, or it ended long ago.",
            ),
            CallStatusReply::TokenMissing => self.text(
                "401 Unauthorized",
                "WWW-Authenticate: Bearer\r\n",
                "The request has no token: send your token as Authorization: Bearer.",
            ),
            // RFC 6750 section 3.1.
            CallStatusReply::CredentialRejected(fault) => self.text(
                "401 Unauthorized",
                "WWW-Authenticate: Bearer error=\"invalid_token\"\r\n",
                &fault.text,
            ),
            CallStatusReply::Unavailable { fault, retry_after_s } => {
                self.unavailable(*retry_after_s, &fault.text)
            }
        }
    }

    /// The response where the status stays unknown: the server drains, or the site took too long.
    pub(crate) fn no_status(&self, is_draining: bool) -> String {
        let line = match is_draining {
            true => RESTARTING,
            false => "The site did not verify the token in time; try again.",
        };
        self.unavailable(RETRY_AFTER_S, line)
    }

    fn unavailable(&self, seconds: u32, line: &str) -> String {
        let more =
            format!("Retry-After: {seconds}\r\nAccess-Control-Expose-Headers: Retry-After\r\n");
        self.text("503 Service Unavailable", &more, line)
    }
}

/// The `callId` in the path of a request, still percent-encoded; `None` for other paths. As with
/// upgrades, any prefix is allowed before `/calls/`, since proxies may pass on their own path.
pub(super) fn call_id_in<'a>(request: &httparse::Request<'_, 'a>) -> Option<&'a str> {
    let (prefix, call_id) = request::path(request).rsplit_once('/')?;
    (prefix.ends_with("/calls") && !call_id.is_empty()).then_some(call_id)
}

/// Handles a request for the call with this id, which is still percent-encoded.
pub(super) fn accept<'a>(
    request: &httparse::Request<'_, 'a>,
    head: Head<'a>,
    encoded_id: &str,
    peer: Peer,
    rules: &Rules,
) -> Handshake {
    let mut format = ResponseFormat::from_request(request);
    match origin::check_origin(request, head, peer, rules) {
        OriginCheck::Allowed => {}
        OriginCheck::NotFromPage => format.origin = None,
        OriginCheck::Refused => return origin::refuse_origin(request),
    }
    match request.method {
        Some("GET" | "HEAD") => {}
        // A CORS preflight: browsers ask before they send a token for a page.
        Some("OPTIONS") if format.origin.is_some() => {
            let response = response::page("200 OK", &format.headers(PREFLIGHT), "");
            return handshake::respond(response);
        }
        Some("OPTIONS") => return handshake::respond(methods::options("", rules.readiness)),
        method => {
            return handshake::respond(methods::unsupported(method.unwrap_or_default()));
        }
    }
    if rules.readiness == Readiness::Draining {
        return handshake::respond(format.no_status(true));
    }
    let text = percent_decode_str(encoded_id).decode_utf8();
    let Some(text) = text.ok().filter(|text| (1..=ID_BYTES_MAX).contains(&text.len())) else {
        let line = format!("A callId has 1 to {ID_BYTES_MAX} bytes of UTF-8, percent-encoded.");
        return handshake::respond(format.text("400 Bad Request", "", &line));
    };
    let status_request = CallStatusRequest {
        client: handshake::client(request, peer, &rules.proxies),
        credential: token::credential(request),
        call: Id::string(&text),
    };
    Handshake::CallStatusRequest { status_request, format }
}

//! `GET /calls/{callId}`: how a call is, for an app that a push has woken (`PROTOCOL.md`, "HTTP on
//! the same port").
//!
//! It is the only request whose answer is not known at once: the site may have to be asked whose
//! the token is. Until then the connection waits in a state of its own, and nothing else that it
//! says is looked at.

use std::fmt::Write;
use std::net::IpAddr;

use percent_encoding::percent_decode_str;

use super::handshake::{self, Handshake, Readiness, Rules};
use super::response::{self, NO_STORE, RESTARTING};
use super::{headers, token};
use crate::protocol::credential::Credential;
use crate::protocol::status::CallStatusReply;
use crate::protocol::{ClientError, ID_BYTES_MAX, Id};

/// For a body that is JSON, and nothing else to any browser.
const JSON: &str = "Content-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n";
/// Seconds after which to ask again, where nothing else is known.
const RETRY_AFTER_S: u32 = 5;
/// What a browser may send along, and how long it need not ask that again, in seconds (the Fetch
/// standard, section 3.3.3).
const PREFLIGHT: &str = "Access-Control-Allow-Methods: GET, HEAD\r\n\
    Access-Control-Allow-Headers: Authorization\r\nAccess-Control-Max-Age: 600\r\n";

/// Who asks, and for which call.
#[derive(Debug, PartialEq, Eq)]
pub struct CallStatusRequest {
    /// The address at the other end, behind trusted proxies if there are any.
    pub client: IpAddr,
    /// What proves who it is, or what is wrong with that.
    pub credential: Option<Result<Credential, ClientError>>,
    /// The call.
    pub call: Id,
}

/// How an answer is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseFormat {
    /// As HEAD gets it.
    without_body: bool,
    /// The page that may read it, or none.
    origin: Option<Box<str>>,
}

impl ResponseFormat {
    fn from_request(request: &httparse::Request<'_, '_>) -> ResponseFormat {
        // What no browser writes is said back to nobody.
        let origin = headers::single_header(request, "origin").filter(|origin| {
            !origin.is_empty() && origin.bytes().all(|byte| byte.is_ascii_graphic())
        });
        let without_body = request.method == Some("HEAD");
        ResponseFormat { without_body, origin: origin.map(Into::into) }
    }

    fn headers(&self, more: &str) -> String {
        let mut headers = format!("{NO_STORE}Vary: Origin\r\n{more}");
        if let Some(origin) = &self.origin {
            // A String takes every character: no error can come of it.
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

    /// The whole answer.
    pub(crate) fn response(&self, reply: &CallStatusReply) -> String {
        match reply {
            CallStatusReply::Status(status) => {
                // Of ids and words: no error can come of it.
                let body = serde_json::to_string(status).unwrap_or_default();
                self.finish(response::page("200 OK", &self.headers(JSON), &body))
            }
            CallStatusReply::NoSuchCall => {
                self.text("404 Not Found", "", "You are in no such call; it may be long over.")
            }
            CallStatusReply::TokenMissing => self.text(
                "401 Unauthorized",
                "WWW-Authenticate: Bearer\r\n",
                "Nothing proves who you are: send Authorization: Bearer and your token.",
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

    /// The answer to who gets none: the server ends, or the site has taken too long.
    pub(crate) fn no_status(&self, is_draining: bool) -> String {
        let line = match is_draining {
            true => RESTARTING,
            false => "The site has not said in time whose the token is; try again.",
        };
        self.unavailable(RETRY_AFTER_S, line)
    }

    fn unavailable(&self, seconds: u32, line: &str) -> String {
        let more =
            format!("Retry-After: {seconds}\r\nAccess-Control-Expose-Headers: Retry-After\r\n");
        self.text("503 Service Unavailable", &more, line)
    }
}

/// The name of the call that a request asks for, as it is written; `None` if it asks for something
/// else. As with WebSockets, the path may have anything before: proxies pass on what they get.
pub(super) fn call_id_in<'a>(request: &httparse::Request<'_, 'a>) -> Option<&'a str> {
    let path = request.path?;
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let (before, name) = path.rsplit_once('/')?;
    (before.ends_with("/calls") && !name.is_empty()).then_some(name)
}

/// What becomes of such a request.
pub(super) fn accept(
    request: &httparse::Request<'_, '_>,
    name: &str,
    peer: IpAddr,
    rules: &Rules,
) -> Handshake {
    if !handshake::is_origin_allowed(request, &rules.origins) {
        return handshake::refuse_origin(request);
    }
    let format = ResponseFormat::from_request(request);
    match request.method {
        Some("GET" | "HEAD") => {}
        // A page may send a token along only if its browser has asked whether it may.
        Some("OPTIONS") if format.origin.is_some() => {
            let response = response::page("200 OK", &format.headers(PREFLIGHT), "");
            return handshake::respond(response);
        }
        _ => {
            return handshake::respond(response::bad_request(
                "Only GET and HEAD are answered here.",
            ));
        }
    }
    if rules.readiness == Readiness::Draining {
        return handshake::respond(format.no_status(true));
    }
    let text = percent_decode_str(name).decode_utf8();
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

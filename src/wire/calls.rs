//! `GET /calls/{callId}`: how a call is, for an app that a push has woken (`PROTOCOL.md`, "HTTP on
//! the same port").
//!
//! It is the only request whose answer is not known at once: the site may have to be asked whose
//! the token is. Until then the connection waits in a state of its own, and nothing else that it
//! says is looked at.

use std::fmt::Write;
use std::net::IpAddr;

use percent_encoding::percent_decode_str;

use super::handshake::{self, Handshake, NO_STORE, Readiness, Rules};
use super::outbox::Outbox;
use super::{Phase, Wire, token};
use crate::protocol::credential::Credential;
use crate::protocol::status::CallTold;
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
pub struct CallAsked {
    /// The address at the other end, behind trusted proxies if there are any.
    pub client: IpAddr,
    /// What proves who it is, or what is wrong with that.
    pub credential: Option<Result<Credential, ClientError>>,
    /// The call.
    pub call: Id,
}

/// How an answer is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// As HEAD gets it.
    without_body: bool,
    /// The page that may read it, or none.
    origin: Option<Box<str>>,
}

impl Form {
    fn of(request: &httparse::Request<'_, '_>) -> Form {
        // What no browser writes is said back to nobody.
        let origin = handshake::only(request, "origin").filter(|origin| {
            !origin.is_empty() && origin.bytes().all(|byte| byte.is_ascii_graphic())
        });
        let without_body = request.method == Some("HEAD");
        Form { without_body, origin: origin.map(Into::into) }
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
        self.whole(handshake::text(status, &self.headers(more), line))
    }

    fn whole(&self, response: String) -> String {
        if self.without_body { handshake::without_body(response) } else { response }
    }

    /// The whole answer.
    fn answer(&self, told: &CallTold) -> String {
        match told {
            CallTold::Status(status) => {
                // Of ids and words: no error can come of it.
                let body = serde_json::to_string(status).unwrap_or_default();
                self.whole(handshake::page("200 OK", &self.headers(JSON), &body))
            }
            CallTold::NoSuchCall => {
                self.text("404 Not Found", "", "You are in no such call; it may be long over.")
            }
            CallTold::TokenMissing => self.text(
                "401 Unauthorized",
                "WWW-Authenticate: Bearer\r\n",
                "Nothing proves who you are: send Authorization: Bearer and your token.",
            ),
            // RFC 6750 section 3.1.
            CallTold::NotProven(fault) => self.text(
                "401 Unauthorized",
                "WWW-Authenticate: Bearer error=\"invalid_token\"\r\n",
                &fault.text,
            ),
            CallTold::NotKnown { fault, retry_after_s } => self.later(*retry_after_s, &fault.text),
        }
    }

    fn later(&self, seconds: u32, line: &str) -> String {
        let more =
            format!("Retry-After: {seconds}\r\nAccess-Control-Expose-Headers: Retry-After\r\n");
        self.text("503 Service Unavailable", &more, line)
    }
}

/// The name of the call that a request asks for, as it is written; `None` if it asks for something
/// else. As with WebSockets, the path may have anything before: proxies pass on what they get.
pub(super) fn name_in<'a>(request: &httparse::Request<'_, 'a>) -> Option<&'a str> {
    let path = request.path?;
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let (before, name) = path.rsplit_once('/')?;
    (before.ends_with("/calls") && !name.is_empty()).then_some(name)
}

/// What becomes of such a request.
pub(super) fn ask(
    request: &httparse::Request<'_, '_>,
    name: &str,
    peer: IpAddr,
    rules: &Rules,
) -> Handshake {
    if !handshake::may_come_in(request, &rules.origins) {
        return handshake::refuse_origin(request);
    }
    let form = Form::of(request);
    match request.method {
        Some("GET" | "HEAD") => {}
        // A page may send a token along only if its browser has asked whether it may.
        Some("OPTIONS") if form.origin.is_some() => {
            let response = handshake::page("200 OK", &form.headers(PREFLIGHT), "");
            return handshake::respond(response);
        }
        _ => return handshake::respond(handshake::bad("Only GET and HEAD are answered here.")),
    }
    if rules.readiness == Readiness::Draining {
        let line = "The server is restarting; try again.";
        return handshake::respond(form.later(RETRY_AFTER_S, line));
    }
    let text = percent_decode_str(name).decode_utf8();
    let Some(text) = text.ok().filter(|text| (1..=ID_BYTES_MAX).contains(&text.len())) else {
        let line = format!("A callId has 1 to {ID_BYTES_MAX} bytes of UTF-8, percent-encoded.");
        return handshake::respond(form.text("400 Bad Request", "", &line));
    };
    let asked = CallAsked {
        client: handshake::client(request, peer, &rules.proxies),
        credential: token::credential(request),
        call: Id::string(&text),
    };
    Handshake::AskCall { asked, form }
}

impl Wire {
    /// Whether it has asked how a call is, and has not been answered.
    pub fn is_asking(&self) -> bool {
        matches!(self.phase, Phase::Asking(_))
    }

    /// Answers who has asked how a call is; the conversation is over by that.
    pub fn send_call_status(&mut self, told: &CallTold, outbox: &mut Outbox) {
        if let Phase::Asking(form) = &self.phase {
            outbox.push(form.answer(told).into_bytes().into());
            self.phase = Phase::Closing;
        }
    }

    /// Says to who has asked how a call is that there is no answer: the server ends, or it has
    /// taken too long.
    pub(super) fn leave_unanswered(&mut self, ends: bool, outbox: &mut Outbox) {
        if let Phase::Asking(form) = &self.phase {
            let line = match ends {
                true => "The server is restarting; try again.",
                false => "The site has not said in time whose the token is; try again.",
            };
            outbox.push(form.later(RETRY_AFTER_S, line).into_bytes().into());
        }
    }
}

//! What a post means in HTTP and what an HTTP answer means to us: pure functions.
//!
//! [`super::checks`] does the same for the questions about people. The rules are the contract's;
//! the tests run them over recorded answers of a live site. Nothing that a site wrote leaves this
//! file but numbers, a date, and the HTML that the site has sanitised for its own pages.

use std::borrow::Cow;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::normalize::normalize_text;
use super::url_style::UrlStyle;
use super::{checks, json, jwt};
use crate::config::token_header::TokenHeader;
use crate::hub::interface::{Answer, Ask, Failure, Post, Stored, StoredMessage, Target};
use crate::protocol::credential::{Credential, Scheme};
use crate::protocol::{Id, SITE_ID_MAX};

/// The longest wait that is passed on from the site, in seconds: one hour.
pub const RETRY_AFTER_MAX_S: u32 = 3600;

/// The longest part of a `Location` that is told in a log, in characters.
const LOCATION_LOGGED_MAX: usize = 200;

/// A request to the site. It has no `Debug`: it carries a secret and a private text.
pub struct Request<'a> {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// Path and query, to be put after the site's address.
    pub path: Cow<'static, str>,
    /// The member's credential; `None` asks as nobody.
    pub token: Option<&'a Credential>,
    /// JSON, for a POST.
    pub body: Option<String>,
}

impl Request<'_> {
    /// The headers of the request, without those that HTTP itself needs. A token stands in the
    /// header that the site expects it in, an Application Password always in `Authorization`.
    pub fn headers<'h>(&self, token_header: &'h TokenHeader) -> Vec<(&'h str, String)> {
        // Without `Accept` WordPress answers faults in HTML (CONTRACT 6).
        let mut headers = vec![("Accept", "application/json".to_owned())];
        if let Some(token) = self.token {
            let secret = token.secret();
            headers.push(match token.scheme() {
                Scheme::Basic => ("Authorization", format!("Basic {secret}")),
                // The scheme's letters matter: `bearer` is no token to the site (CONTRACT 2).
                Scheme::Bearer if token_header.is_authorization() => {
                    ("Authorization", format!("Bearer {secret}"))
                }
                Scheme::Bearer => (token_header.name(), secret.to_owned()),
            });
        }
        if self.body.is_some() {
            headers.push(("Content-Type", "application/json".to_owned()));
        }
        headers
    }
}

/// The only bodies that go to the site: it believes more than these keys (CONTRACT 4).
#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Reply { id: u64, message: &'a str },
    New { recipients: [u64; 1], message: &'a str },
}

/// Why an ask need not go to the site at all; `None` when it must.
pub fn precheck(ask: &Ask) -> Option<Failure> {
    match ask {
        Ask::Post(post) => {
            let (Target::Thread(id) | Target::NewThread { recipient: id }) = post.target;
            if post.credential.is_none() {
                Some(Failure::TokenMissing)
            } else if !is_id(id) || post.text.is_empty() {
                // The site takes a thread 0 for a wish to have a new one (CONTRACT 3.1).
                Some(Failure::RefusedBySite)
            } else {
                None
            }
        }
        // What is looked up has been posted.
        Ask::Prove(_) | Ask::Lookup(_) => None,
        // There is no such thread, and the site says no more than this of those.
        Ask::Participants { thread, .. } => (!is_id(*thread)).then_some(Failure::NotParticipant),
    }
}

/// The request that puts a post to the site; [`precheck`] says which posts it must not see.
pub fn post_request(post: &Post, url_style: UrlStyle) -> Request<'_> {
    let message = &post.text;
    let body = match post.target {
        Target::Thread(id) => Body::Reply { id, message },
        Target::NewThread { recipient } => Body::New { recipients: [recipient], message },
    };
    let body = serde_json::to_string(&body).expect("integers and strings always serialise");
    let (path, token) = (Cow::Borrowed(url_style.messages()), post.credential.as_ref());
    Request { method: "POST", path, token, body: Some(body) }
}

/// The request of the probe: who am I, asked without a token.
pub fn probe_request(url_style: UrlStyle) -> Request<'static> {
    Request { method: "GET", path: Cow::Borrowed(url_style.me()), token: None, body: None }
}

/// What the site answered, as far as anything here reads it.
#[derive(Clone, Default)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The header `Content-Type`.
    pub content_type: Option<String>,
    /// The header `Retry-After`.
    pub retry_after: Option<String>,
    /// The header `Date`, to which a date in `Retry-After` is compared.
    pub date: Option<String>,
    /// The header `Age`: for how long a cache has had the answer, in seconds.
    pub age: Option<String>,
    /// The header `Location`.
    pub location: Option<String>,
    /// The body, decompressed. `None` when it did not come whole: cut off, or beyond the limit.
    pub body: Option<Vec<u8>>,
    /// Whether the body's end was lost on the way; one beyond the limit is not.
    pub truncated: bool,
}

impl Reply {
    /// Whether the header says JSON; parameters such as `charset` do not matter.
    pub fn is_json(&self) -> bool {
        let media = self.content_type.as_deref().unwrap_or_default().split(';').next();
        media.is_some_and(|m| m.trim().eq_ignore_ascii_case("application/json"))
    }

    /// The body as an object of the expected shape, where header and body agree that it is JSON.
    pub(super) fn json<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        json::parse_object(self.body.as_deref().filter(|_| self.is_json())?)
    }

    /// Whether the body is an empty list, where header and body agree that it is JSON.
    pub(super) fn is_empty_list(&self) -> bool {
        let body = self.body.as_deref().filter(|_| self.is_json());
        body.is_some_and(|body| {
            serde_json::from_slice::<Vec<&RawValue>>(body).is_ok_and(|list| list.is_empty())
        })
    }

    /// WordPress' word for the fault, if this is one of its error bodies.
    pub(super) fn wp_error(&self) -> Option<WpError> {
        self.json()
    }

    /// What may be said of it in a log: the status, and WordPress' word where that is harmless.
    pub fn log_detail(&self) -> String {
        let status = self.status;
        if let Some(code) = self.wp_error().as_ref().and_then(|fault| fault.loggable_code()) {
            return format!("status {status}, code {code}");
        }
        match &self.body {
            Some(_) => format!("status {status}, JSON of an unexpected shape"),
            None if self.truncated => format!("status {status}, JSON cut off"),
            None if self.is_json() => format!("status {status}, JSON too long or malformed"),
            None => format!("status {status}, not JSON"),
        }
    }

    /// How long the site asks to wait, from `Retry-After` as seconds or as a date: at least 1 and
    /// at most [`RETRY_AFTER_MAX_S`] seconds.
    pub fn retry_after_s(&self) -> Option<u32> {
        let value = self.retry_after.as_deref()?.trim();
        let seconds = if value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
            // More digits than fit are a long time.
            value.parse().unwrap_or(u64::MAX)
        } else {
            // Compared with the site's own clock, so that ours need not agree with it.
            let now = parse_http_date_s(self.date.as_deref()?)?;
            parse_http_date_s(value)?.saturating_sub(now)
        };
        Some(seconds.clamp(1, u64::from(RETRY_AFTER_MAX_S)) as u32)
    }
}

/// An error body of WordPress (CONTRACT 2).
#[derive(Deserialize)]
pub(super) struct WpError {
    /// The stable word, such as `rest_no_route`.
    pub code: String,
    #[serde(default)]
    message: String,
}

impl WpError {
    /// What a 403 with this word says about the token; `None` when it is not about the token.
    pub fn token_failure(&self) -> Option<Failure> {
        match &*self.code {
            // An expired and a forged token differ in the text alone (CONTRACT 2).
            "jwt_auth_invalid_token" if self.message == "Expired token" => {
                Some(Failure::TokenExpired)
            }
            // The plugin's own settings are wrong.
            "jwt_auth_bad_config" | "jwt_auth_unsupported_algorithm" => None,
            "rest_cookie_invalid_nonce" => Some(Failure::TokenRefused),
            code => code.starts_with("jwt_auth_").then_some(Failure::TokenRefused),
        }
    }

    /// The word if it can stand in a log line: short, and of small letters, as WordPress' words
    /// are. With digits and capitals it could be a token that the site repeats.
    pub fn loggable_code(&self) -> Option<&str> {
        let harmless = |b: u8| b.is_ascii_lowercase() || matches!(b, b'_' | b'-');
        (self.code.len() <= 64 && self.code.bytes().all(harmless)).then_some(&*self.code)
    }
}

/// What the site's answer to a post means (CONTRACT 1 to 6).
pub fn parse_post_reply(post: &Post, reply: &Reply) -> Answer {
    match reply.status {
        200 => parse_stored(post, reply)
            .map_or_else(|| Answer::Failed(unusable_failure(reply)), Answer::Stored),
        status => Answer::Failed(failure(status, reply)),
    }
}

fn failure(status: u16, reply: &Reply) -> Failure {
    let fault = reply.wp_error();
    let code = fault.as_ref().map(|f| &*f.code).unwrap_or_default();
    match status {
        300..=399 if is_suspension_redirect(reply.location.as_deref()) => Failure::Suspended,
        300..=399 => Failure::SiteMisconfigured,
        400 => Failure::RefusedBySite,
        401 if fault.is_some() => Failure::TokenRefused,
        // The web server's own word, not the site's about a token: WordPress has not seen it.
        401 => Failure::NotStored,
        403 if code == "bp_rest_authorization_required" => Failure::NotParticipant,
        403 => fault.as_ref().and_then(WpError::token_failure).unwrap_or(Failure::NotStored),
        404 => Failure::SiteMisconfigured,
        413 => Failure::TooLarge,
        429 => Failure::SiteBusy { retry_after_s: reply.retry_after_s() },
        other if other / 100 == 4 => Failure::NotStored,
        500 if code == "bp_rest_messages_create_failed" => Failure::CannotWrite,
        503 if code == "wp_die" => {
            Failure::SiteUnavailable { retry_after_s: reply.retry_after_s() }
        }
        // A 500 can come after the message was stored, and a 2xx that is no 200 is nothing that
        // BuddyBoss says.
        200..=299 | 500 | 502 | 503 => unusable_failure(reply),
        // After a 504 PHP goes on.
        _ => Failure::Unknown,
    }
}

/// An answer that says nothing of the message: if it is whole, the site's work is over.
fn unusable_failure(reply: &Reply) -> Failure {
    let truncated = reply.is_json() && reply.body.is_none();
    if truncated { Failure::Unknown } else { Failure::Unusable }
}

/// A suspended member is sent to the login page with this in the query (CONTRACT 2).
pub(super) fn is_suspension_redirect(location: Option<&str>) -> bool {
    let query = location.and_then(|l| l.split_once('?')).map(|(_, query)| query);
    query.is_some_and(|q| q.split(['&', '#']).any(|pair| pair == "action=bp-suspended"))
}

/// The parts of a thread object that matter (CONTRACT 3.3).
#[derive(Deserialize)]
pub(super) struct ThreadObject<'a> {
    pub id: u64,
    pub message_id: u64,
    pub current_user: u64,
    /// Entries are read one by one: a strange one among them must not make the answer useless.
    #[serde(borrow)]
    pub messages: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct MessageObject {
    pub id: u64,
    pub sender_id: u64,
    /// In UTC, without a zone; a date.
    pub date_sent: String,
    message: TextObject,
}

impl MessageObject {
    /// One entry, if it is one.
    pub fn read(raw: &RawValue) -> Option<MessageObject> {
        let message: MessageObject = serde_json::from_str(raw.get()).ok()?;
        (is_id(message.id) && is_date(&message.date_sent)).then_some(message)
    }

    /// The stored text without tags.
    pub fn raw(&self) -> Option<&str> {
        self.message.raw.as_deref()
    }

    /// What is told of it.
    pub fn to_stored_message(&self) -> StoredMessage {
        StoredMessage {
            id: self.id,
            // Without a zone in the answer, and always UTC (CONTRACT 3.3).
            sent_at: format!("{}Z", self.date_sent),
            html: self.message.rendered.clone().unwrap_or_default(),
        }
    }
}

#[derive(Deserialize)]
struct TextObject {
    #[serde(default)]
    raw: Option<String>,
    #[serde(default)]
    rendered: Option<String>,
}

/// A success, which is more than a status (CONTRACT rule 2); `None` is everything else.
fn parse_stored(post: &Post, reply: &Reply) -> Option<Stored> {
    let thread: ThreadObject = reply.json()?;
    if !is_id(thread.id) || !is_id(thread.message_id) || !is_id(thread.current_user) {
        return None;
    }
    if thread.messages.is_empty() {
        return None;
    }
    // The site stores a reply in the thread that was asked for or not at all. An answer that names
    // another is no answer to this request, and to believe it would show a private text to others.
    if matches!(post.target, Target::Thread(asked) if asked != thread.id) {
        return None;
    }
    let messages = thread.messages.iter().filter_map(|raw| MessageObject::read(raw));
    let mine = messages.filter(|message| message.sender_id == thread.current_user);
    Some(Stored {
        thread: thread.id,
        sender: Id::number(thread.current_user),
        message: newest_matching(mine, &post.text).map(|m| m.to_stored_message()),
        participants: checks::participants(reply, thread.current_user),
        expires_s: post.credential.as_ref().and_then(jwt::expiry),
    })
}

/// The newest with this text, else the newest: a web page of the same member may have posted
/// between our request and its answer (CONTRACT 3.3).
fn newest_matching(mine: impl Iterator<Item = MessageObject>, text: &str) -> Option<MessageObject> {
    let sent = normalize_text(text);
    let says_the_same = |m: &MessageObject| m.raw().is_some_and(|raw| normalize_text(raw) == sent);
    mine.max_by_key(|m| (says_the_same(m), m.id))
}

pub(super) fn is_id(number: u64) -> bool {
    (1..=SITE_ID_MAX).contains(&number)
}

/// `2026-11-22T11:00:38`: only this may go to clients as a date.
fn is_date(text: &str) -> bool {
    let pattern = b"dddd-dd-ddTdd:dd:dd";
    text.len() == pattern.len()
        && text
            .bytes()
            .zip(pattern)
            .all(|(b, &p)| if p == b'd' { b.is_ascii_digit() } else { b == p })
}

/// Seconds since 1970 of such a date, which is in UTC.
pub(super) fn parse_date_s(date: &str) -> Option<u64> {
    let at = humantime::parse_rfc3339(&format!("{date}Z")).ok()?;
    Some(at.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// Parses an HTTP date such as `Sun, 22 Nov 2026 11:00:38 GMT` (RFC 9110 5.6.7) into seconds since
/// 1970.
pub(super) fn parse_http_date_s(text: &str) -> Option<u64> {
    let at = httpdate::parse_http_date(text.trim()).ok()?;
    Some(at.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// What a probe's answer says about one form of the site's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeFinding {
    /// The BuddyBoss REST API answers here.
    Api,
    /// WordPress' REST API answers, and has no such route: BuddyBoss is not there.
    NoRoute,
    /// It sends us elsewhere: host and path only.
    Redirect(String),
    /// It answers, but not as a REST API does; the status.
    Other(u16),
    /// Nobody answers; why, in our words.
    Unreachable(&'static str),
}

/// What the answer to [`probe_request`] says.
pub fn classify_probe_reply(reply: &Reply) -> ProbeFinding {
    #[derive(Deserialize)]
    struct Me {
        #[serde(rename = "id")]
        _id: u64,
    }
    match reply.status {
        200 if reply.json::<Me>().is_some() => ProbeFinding::Api,
        300..=399 => {
            ProbeFinding::Redirect(redact_location(reply.location.as_deref().unwrap_or("")))
        }
        status => match reply.wp_error() {
            Some(fault) if fault.code == "rest_no_route" => ProbeFinding::NoRoute,
            // `rest_not_logged_in` it is on a bare site; plugins that close the API to strangers
            // have words of their own.
            Some(_) if matches!(status, 401 | 403) => ProbeFinding::Api,
            _ => ProbeFinding::Other(status),
        },
    }
}

/// Of a `Location` what may stand in a log: neither queries nor what stands before an `@`, which
/// hold secrets, and no control characters. A user name can stand in any part of it: addresses
/// without a scheme and with backslashes are addresses to browsers, too.
pub fn redact_location(location: &str) -> String {
    let end = location.find(['?', '#']).unwrap_or(location.len());
    let parts = location[..end].split(['/', '\\']);
    let clean: Vec<&str> = parts.map(|part| part.rsplit('@').next().unwrap_or_default()).collect();
    clean.join("/").chars().filter(char::is_ascii_graphic).take(LOCATION_LOGGED_MAX).collect()
}

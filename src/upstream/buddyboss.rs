//! Builds BuddyBoss REST requests for posts and probes, and parses the replies: pure functions.
//!
//! [`super::checks`] does the same for token checks and participant lists. The rules are those of
//! the contract; the tests apply them to recorded replies of a live site. Of a site's reply, only
//! numbers, a date and the HTML that the site sanitised for its own pages leave this module.

use std::borrow::Cow;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::normalize::normalize_text;
use super::url_style::UrlStyle;
use super::whole_number::whole_number;
use super::wrapped_json::{self, WrappedJson};
use super::{checks, json, jwt, page};
use crate::config::site_password::SitePassword;
use crate::config::token_header::TokenHeader;
use crate::hub::interface::{Answer, Ask, Failure, Post, Stored, StoredMessage, Target};
use crate::protocol::credential::{Credential, Scheme};
use crate::protocol::{Id, SITE_ID_MAX, signature};

/// The longest `Retry-After` that is passed on from the site, in seconds: one hour.
pub const RETRY_AFTER_MAX_S: u32 = 3600;

/// The longest part of a `Location` that is logged, in characters.
const LOCATION_LOGGED_MAX: usize = 200;

/// A request to the site. It has no `Debug`: it contains a secret and a private text.
pub struct Request<'a> {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// Path and query, relative to the site's base URL.
    pub path: Cow<'static, str>,
    /// The member's credential; `None` for an anonymous request.
    pub token: Option<&'a Credential>,
    /// The JSON body of a POST.
    pub body: Option<String>,
    /// The signature for the site's plugin.
    pub signature: Option<String>,
}

impl Request<'_> {
    /// The request's headers, without those that HTTP itself needs. A token is sent in the header
    /// that the site expects, an Application Password always in `Authorization`. If neither needs
    /// that header, it has the password of the site's web server.
    pub fn headers<'h>(
        &self,
        token_header: &'h TokenHeader,
        site_password: Option<&SitePassword>,
    ) -> Vec<(&'h str, String)> {
        // Without `Accept` WordPress reports errors as HTML (CONTRACT 6).
        let mut headers = vec![("Accept", "application/json".to_owned())];
        if let Some(token) = self.token {
            let secret = token.secret();
            headers.push(match token.scheme() {
                Scheme::Basic => ("Authorization", format!("Basic {secret}")),
                // The scheme is case-sensitive: the site ignores `bearer` (CONTRACT 2).
                Scheme::Bearer if token_header.is_authorization() => {
                    ("Authorization", format!("Bearer {secret}"))
                }
                Scheme::Bearer => (token_header.name(), secret.to_owned()),
            });
        }
        if let Some(password) = site_password {
            if headers.iter().all(|(name, _)| *name != "Authorization") {
                headers.push(("Authorization", password.header().to_owned()));
            }
        }
        if let Some(signature) = &self.signature {
            headers.push((signature::HEADER, signature.clone()));
        }
        if self.body.is_some() {
            headers.push(("Content-Type", "application/json".to_owned()));
        }
        headers
    }
}

/// The only bodies that are sent: the site would trust further keys as well (CONTRACT 4).
#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Reply { id: u64, message: &'a str },
    New { recipients: [u64; 1], message: &'a str },
}

/// The failure of a request that need not be sent to the site; `None` if it must be sent.
pub fn precheck(ask: &Ask) -> Option<Failure> {
    match ask {
        Ask::Post(post) => {
            let (Target::Thread(id) | Target::NewThread { recipient: id }) = post.target;
            if post.credential.is_none() {
                Some(Failure::TokenMissing)
            } else if !is_id(id) || post.text.is_empty() {
                // The site would create a new thread for thread 0 (CONTRACT 3.1).
                Some(Failure::RefusedBySite)
            } else {
                None
            }
        }
        // A message that is looked up has passed this check when it was posted.
        Ask::Prove(_) | Ask::Recheck(_) | Ask::Lookup(_) => None,
        // There is no such thread; the site reports the same for a thread that does not exist.
        Ask::Participants { thread, .. } | Ask::CallPermission { thread, .. } => {
            (!is_id(*thread)).then_some(Failure::NotParticipant)
        }
    }
}

/// Builds the request for a post. [`precheck`] must have let the post through.
pub fn post_request(post: &Post, url_style: UrlStyle) -> Request<'_> {
    let message = &post.text;
    let body = match post.target {
        Target::Thread(id) => Body::Reply { id, message },
        Target::NewThread { recipient } => Body::New { recipients: [recipient], message },
    };
    let body = serde_json::to_string(&body).expect("integers and strings always serialise");
    let (path, token) = (Cow::Borrowed(url_style.messages()), post.credential.as_ref());
    Request { method: "POST", path, token, body: Some(body), signature: None }
}

/// Builds the probe: `members/me`, without a token or with that of a member.
pub fn probe_request(url_style: UrlStyle, token: Option<&Credential>) -> Request<'_> {
    Request {
        method: "GET",
        path: Cow::Borrowed(url_style.me()),
        token,
        body: None,
        signature: None,
    }
}

/// Builds the probe whether BuddyBoss' routes for messages exist. It has no token, so WordPress
/// refuses it if they do.
pub fn messages_probe_request(url_style: UrlStyle) -> Request<'static> {
    Request {
        method: "GET",
        path: Cow::Owned(url_style.newest_thread()),
        token: None,
        body: None,
        signature: None,
    }
}

/// The parts of the site's reply that this module reads.
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
    /// The header `Age`: how long a cache has held the reply, in seconds.
    pub age: Option<String>,
    /// The header `Location`.
    pub location: Option<String>,
    /// The body, decompressed. `None` if it has no JSON, is cut off, or beyond the limit.
    pub body: Option<Vec<u8>>,
    /// The title of the page, if the reply to a GET is one instead of JSON.
    pub title: Option<String>,
    /// Whether the connection ended before the body did. A body beyond the limit is not truncated.
    pub truncated: bool,
    /// The JSON in the body, if it has other output around it ([`Reply::read_through`]).
    pub wrapped: Option<WrappedJson>,
}

impl Reply {
    /// Whether `Content-Type` is JSON, with any parameters such as `charset`.
    pub fn declares_json(&self) -> bool {
        self.media_type().eq_ignore_ascii_case("application/json")
    }

    /// Whether the body may be JSON that is not declared as such: PHP declares HTML if a plugin has
    /// printed something before WordPress sent its headers, and the status is then 200.
    pub fn may_be_undeclared_json(&self) -> bool {
        let media = self.media_type();
        self.status == 200
            && (media.is_empty()
                || ["text/html", "text/plain"].iter().any(|it| media.eq_ignore_ascii_case(it)))
    }

    fn media_type(&self) -> &str {
        self.content_type
            .as_deref()
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
    }

    /// Whether the reply has JSON: the header declares it, or it was found in other output.
    pub fn is_json(&self) -> bool {
        self.declares_json() || self.wrapped.is_some()
    }

    /// Finds JSON that has other output around it. The body stays only if it is JSON, or declared
    /// as JSON.
    #[must_use]
    pub fn read_through(mut self) -> Reply {
        let Some(body) = &self.body else { return self };
        if self.declares_json() {
            self.wrapped = wrapped_json::find(body);
        } else if self.may_be_undeclared_json() {
            self.wrapped = wrapped_json::find_undeclared(body);
        }
        if !self.is_json() {
            self.body = None;
        }
        // PHP sends status 200 if output precedes WordPress' status. Its error has the true one.
        let hidden = self.wrapped.as_ref().zip(self.body.as_deref());
        let error = hidden.and_then(|(wrapped, body)| wrapped.error::<ErrorStatus>(body));
        if let (200, Some(ErrorStatus { data: ErrorData { status }, .. })) = (self.status, error) {
            if (400..=599).contains(&status) {
                self.status = status;
            }
        }
        self
    }

    /// Parses the body as an object of the expected shape, if the reply has JSON.
    pub(super) fn json<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        let body = self.body.as_deref().filter(|_| self.is_json())?;
        match &self.wrapped {
            Some(wrapped) => wrapped.object(body),
            None => json::parse_object(body),
        }
    }

    /// The entries of the body, if it is a list and the reply has JSON.
    pub(super) fn list(&self) -> Option<Vec<&RawValue>> {
        let body = self.body.as_deref().filter(|_| self.is_json())?;
        let list = match &self.wrapped {
            Some(wrapped) => wrapped.only_value(body)?,
            None => body,
        };
        serde_json::from_slice(list).ok()
    }

    /// Whether the body is an empty list and the reply has JSON.
    pub(super) fn is_empty_list(&self) -> bool {
        self.list().is_some_and(|list| list.is_empty())
    }

    /// The error that WordPress reports, if the body is one of its error objects.
    pub(super) fn wp_error(&self) -> Option<WpError> {
        match (&self.wrapped, self.body.as_deref()) {
            (Some(wrapped), Some(body)) => wrapped.error(body),
            _ => self.json(),
        }
    }

    /// Why the JSON has other output around it, if it has: a sentence for the operator.
    pub fn noise(&self) -> Option<&str> {
        self.wrapped.as_ref().map(|wrapped| &*wrapped.cause)
    }

    /// A description that is safe to log: the status, and WordPress' error code if it is harmless.
    pub fn log_detail(&self) -> String {
        let status = self.status;
        if let Some(code) = self.wp_error().as_ref().and_then(|error| error.loggable_code()) {
            return format!("status {status}, code {code}");
        }
        match &self.body {
            Some(_) => format!("status {status}, JSON of an unexpected shape"),
            None if self.truncated && self.is_json() => format!("status {status}, JSON cut off"),
            None if self.is_json() => format!("status {status}, JSON too long or malformed"),
            None => format!("status {status}, not JSON"),
        }
    }

    /// As [`Reply::log_detail`], and for a page its media type and title.
    pub fn describe(&self) -> String {
        let detail = self.log_detail();
        match self.body.is_none() && !self.is_json() {
            true => {
                let page = page::describe(self.content_type.as_deref(), self.title.as_deref());
                format!("{detail} ({page})")
            }
            false => detail,
        }
    }

    /// Whether WordPress itself reports that the route does not exist.
    pub(super) fn is_no_route(&self) -> bool {
        self.wp_error().is_some_and(|error| error.code == "rest_no_route")
    }

    /// The pause that the site asks for in `Retry-After`, given in seconds or as a date: at least 1
    /// and at most [`RETRY_AFTER_MAX_S`] seconds.
    pub fn retry_after_s(&self) -> Option<u32> {
        let value = self.retry_after.as_deref()?.trim();
        let seconds = if value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
            // A number that overflows is a long time.
            value.parse().unwrap_or(u64::MAX)
        } else {
            // Relative to the site's own clock, so that a clock skew does not matter.
            let now = parse_http_date_s(self.date.as_deref()?)?;
            parse_http_date_s(value)?.saturating_sub(now)
        };
        Some(seconds.clamp(1, u64::from(RETRY_AFTER_MAX_S)) as u32)
    }
}

/// An error object of WordPress (CONTRACT 2).
#[derive(Deserialize)]
pub(super) struct WpError {
    /// The stable error code, such as `rest_no_route`.
    pub code: String,
    #[serde(default)]
    message: String,
}

impl WpError {
    /// The failure that a 403 with this code means for the token; `None` if the error is not about
    /// the token.
    pub(super) fn token_failure(&self) -> Option<Failure> {
        match &*self.code {
            // An expired and a forged token differ in the message only (CONTRACT 2).
            "jwt_auth_invalid_token" if self.message == "Expired token" => {
                Some(Failure::TokenExpired)
            }
            // The plugin is misconfigured; the token may be good.
            "jwt_auth_bad_config" | "jwt_auth_unsupported_algorithm" => None,
            "rest_cookie_invalid_nonce" => Some(Failure::TokenRefused),
            code => code.starts_with("jwt_auth_").then_some(Failure::TokenRefused),
        }
    }

    /// The code if it is safe to log: short, and of lower-case letters, as WordPress' codes are.
    /// With digits and capitals it could be a token that the site echoes.
    pub(super) fn loggable_code(&self) -> Option<&str> {
        let harmless = |b: u8| b.is_ascii_lowercase() || matches!(b, b'_' | b'-');
        (self.code.len() <= 64 && self.code.bytes().all(harmless)).then_some(&*self.code)
    }
}

/// The status in an error object of WordPress.
#[derive(Deserialize)]
struct ErrorStatus {
    #[serde(rename = "code")]
    _code: String,
    data: ErrorData,
}

#[derive(Deserialize)]
struct ErrorData {
    status: u16,
}

/// Interprets the reply to [`post_request`] (CONTRACT 1 to 6).
pub fn parse_post_reply(post: &Post, reply: &Reply) -> Answer {
    match reply.status {
        200 => parse_stored(post, reply)
            .map_or_else(|| Answer::Failed(unusable_failure(reply)), Answer::Stored),
        status => Answer::Failed(failure(status, reply)),
    }
}

fn failure(status: u16, reply: &Reply) -> Failure {
    let error = reply.wp_error();
    let code = error.as_ref().map(|error| &*error.code).unwrap_or_default();
    match status {
        300..=399 if is_suspension_redirect(reply.location.as_deref()) => Failure::Suspended,
        300..=399 => Failure::SiteMisconfigured,
        400 => Failure::RefusedBySite,
        401 if error.is_some() => Failure::TokenRefused,
        // From the web server: WordPress has not seen the request, so this is not about the token.
        401 => Failure::NotStored,
        403 if code == "bp_rest_authorization_required" => Failure::NotParticipant,
        403 => error.as_ref().and_then(WpError::token_failure).unwrap_or(Failure::NotStored),
        404 => Failure::SiteMisconfigured,
        413 => Failure::TooLarge,
        429 => Failure::SiteBusy { retry_after_s: reply.retry_after_s() },
        other if other / 100 == 4 => Failure::NotStored,
        500 if code == "bp_rest_messages_create_failed" => Failure::CannotWrite,
        503 if code == "wp_die" => {
            Failure::SiteUnavailable { retry_after_s: reply.retry_after_s() }
        }
        // A 500 can follow after the message was stored, and BuddyBoss sends no 2xx other than 200.
        200..=299 | 500 | 502 | 503 => unusable_failure(reply),
        // PHP keeps running after a 504.
        _ => Failure::Unknown,
    }
}

/// The failure for a reply that does not show whether the message was stored. `Unusable` means that
/// the reply is complete, so the site has finished the request.
fn unusable_failure(reply: &Reply) -> Failure {
    let truncated = reply.truncated || (reply.is_json() && reply.body.is_none());
    if truncated { Failure::Unknown } else { Failure::Unusable }
}

/// Whether a redirect is the one for suspended members: to the login page, with this parameter in
/// the query (CONTRACT 2).
pub(super) fn is_suspension_redirect(location: Option<&str>) -> bool {
    let query = location.and_then(|l| l.split_once('?')).map(|(_, query)| query);
    query.is_some_and(|q| q.split(['&', '#']).any(|pair| pair == "action=bp-suspended"))
}

/// The parts of a thread object that are used (CONTRACT 3.3).
#[derive(Deserialize)]
pub(super) struct ThreadObject<'a> {
    #[serde(deserialize_with = "whole_number")]
    pub id: u64,
    #[serde(deserialize_with = "whole_number")]
    pub message_id: u64,
    #[serde(deserialize_with = "whole_number")]
    pub current_user: u64,
    /// Entries are parsed one by one: an unexpected one must not make the whole reply unusable.
    #[serde(borrow)]
    pub messages: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct MessageObject {
    #[serde(deserialize_with = "whole_number")]
    pub id: u64,
    #[serde(deserialize_with = "whole_number")]
    pub sender_id: u64,
    /// In UTC, without a time zone: `2026-11-22T11:00:38`.
    pub date_sent: String,
    message: TextObject,
}

impl MessageObject {
    /// Parses one entry; `None` if it is not a valid message.
    pub(super) fn read(raw: &RawValue) -> Option<MessageObject> {
        let message: MessageObject = serde_json::from_str(raw.get()).ok()?;
        (is_id(message.id) && is_date(&message.date_sent)).then_some(message)
    }

    /// The stored text without tags.
    pub(super) fn raw(&self) -> Option<&str> {
        self.message.raw.as_deref()
    }

    /// Converts it to what clients may receive.
    pub(super) fn to_stored_message(&self) -> StoredMessage {
        StoredMessage {
            id: self.id,
            // The site sends no time zone; it is always UTC (CONTRACT 3.3).
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

/// Parses a success, which takes more than status 200 (CONTRACT rule 2); `None` for anything else.
fn parse_stored(post: &Post, reply: &Reply) -> Option<Stored> {
    let thread: ThreadObject = reply.json()?;
    if !is_id(thread.id) || !is_id(thread.message_id) || !is_id(thread.current_user) {
        return None;
    }
    if thread.messages.is_empty() {
        return None;
    }
    // The site stores a message in the requested thread or not at all. A reply that names another
    // thread is not the reply to this request; trusting it would show a private text to others.
    if matches!(post.target, Target::Thread(requested) if requested != thread.id) {
        return None;
    }
    let messages = thread.messages.iter().filter_map(|raw| MessageObject::read(raw));
    let own = messages.filter(|message| message.sender_id == thread.current_user);
    Some(Stored {
        thread: thread.id,
        sender: Id::number(thread.current_user),
        message: newest_matching(own, &post.text).map(|m| m.to_stored_message()),
        participants: checks::participants(reply, thread.current_user),
        expires_s: post.credential.as_ref().and_then(jwt::expiry),
    })
}

/// The newest of the member's own messages with this text, else the newest of them: the member may
/// have posted another one from a web page between the request and its reply (CONTRACT 3.3).
fn newest_matching(own: impl Iterator<Item = MessageObject>, text: &str) -> Option<MessageObject> {
    let sent = normalize_text(text);
    let has_same_text = |m: &MessageObject| m.raw().is_some_and(|raw| normalize_text(raw) == sent);
    own.max_by_key(|m| (has_same_text(m), m.id))
}

pub(super) fn is_id(number: u64) -> bool {
    (1..=SITE_ID_MAX).contains(&number)
}

/// Whether `text` has the form `2026-11-22T11:00:38`, the only one that may go to clients.
fn is_date(text: &str) -> bool {
    let pattern = b"dddd-dd-ddTdd:dd:dd";
    text.len() == pattern.len()
        && text
            .bytes()
            .zip(pattern)
            .all(|(b, &p)| if p == b'd' { b.is_ascii_digit() } else { b == p })
}

/// Parses a date of that form, which is in UTC, into seconds since 1970.
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

/// The result of a probe at one URL style of the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeFinding {
    /// The BuddyBoss REST API.
    Api,
    /// WordPress' REST API without this route: BuddyBoss is not active.
    NoRoute,
    /// BuddyBoss without its routes for messages: the component is switched off.
    NoMessages,
    /// A redirect; host and path of its target, safe to log.
    Redirect(String),
    /// A reply that is not from a REST API; its status.
    Other(u16),
    /// No reply; the reason.
    Unreachable(&'static str),
}

/// Classifies the reply to [`probe_request`].
pub fn classify_probe_reply(reply: &Reply) -> ProbeFinding {
    #[derive(Deserialize)]
    struct Me {
        #[serde(rename = "id", deserialize_with = "whole_number")]
        _id: u64,
    }
    match reply.status {
        200 if reply.json::<Me>().is_some() => ProbeFinding::Api,
        300..=399 => {
            ProbeFinding::Redirect(redact_location(reply.location.as_deref().unwrap_or("")))
        }
        status => match reply.wp_error() {
            Some(error) if error.code == "rest_no_route" => ProbeFinding::NoRoute,
            // A bare site sends `rest_not_logged_in`; plugins that close the API to anonymous
            // requests have codes of their own.
            Some(_) if matches!(status, 401 | 403) => ProbeFinding::Api,
            _ => ProbeFinding::Other(status),
        },
    }
}

/// Reduces a `Location` to what may be logged: no query and nothing before an `@`, because they may
/// hold secrets, and no control characters. A user name can be in any part of it, because browsers
/// accept URLs without a scheme and with backslashes.
pub fn redact_location(location: &str) -> String {
    let end = location.find(['?', '#']).unwrap_or(location.len());
    let parts = location[..end].split(['/', '\\']);
    let clean: Vec<&str> = parts.map(|part| part.rsplit('@').next().unwrap_or_default()).collect();
    clean.join("/").chars().filter(char::is_ascii_graphic).take(LOCATION_LOGGED_MAX).collect()
}

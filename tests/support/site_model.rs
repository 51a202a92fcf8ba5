//! The state and responses of the fake BuddyBoss site, without sockets: members, threads, messages.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::members::Members;

/// Participants on one page (CONTRACT 3.2).
const PAGE: usize = 20;

/// A request as received.
#[derive(Clone, Debug)]
pub struct Request {
    /// The number of its connection, counted from 1.
    pub connection: usize,
    /// `GET`, `POST` …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The headers as they were sent.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| &**value)
    }

    /// An argument of the query.
    pub fn argument(&self, name: &str) -> Option<&str> {
        let pairs = self.path.split_once('?')?.1.split('&');
        pairs.filter_map(|pair| pair.split_once('=')).find(|pair| pair.0 == name).map(|pair| pair.1)
    }

    /// The body as JSON; `null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// A thread: its participants, and its messages as id, sender, text and time.
#[derive(Default)]
pub struct Thread {
    pub participants: Vec<u64>,
    pub messages: Vec<(u64, u64, String, SystemTime)>,
}

/// The state of the site.
#[derive(Default)]
pub struct SiteModel {
    pub members: Members,
    pub threads: BTreeMap<u64, Thread>,
    pub plain_permalinks: bool,
    /// Whether the Messages component is disabled.
    pub messages_disabled: bool,
    last_message: u64,
}

/// A response.
#[derive(Clone, Default)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn json(status: u16, body: &Value) -> Response {
        let kind = "application/json; charset=UTF-8";
        Response { status, headers: Vec::new(), body: body.to_string().into_bytes() }
            .with("Content-Type", kind)
    }

    pub fn fault(status: u16, code: &str, message: &str) -> Response {
        let body = json!({"code": code, "message": message, "data": {"status": status}});
        Response::json(status, &body)
    }

    pub fn html(status: u16) -> Response {
        let body = b"<!DOCTYPE html><html><body>A page.</body></html>".to_vec();
        Response { status, headers: Vec::new(), body }.with("Content-Type", "text/html")
    }

    pub fn with(mut self, name: &str, value: &str) -> Response {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !self.headers.iter().any(|(name, _)| name == "Date") {
            head += &format!("Date: {}\r\n", http_date(SystemTime::now()));
        }
        head += &format!("Content-Length: {}\r\n\r\n", self.body.len());
        [head.as_bytes(), &self.body].concat()
    }
}

/// A date as HTTP writes it: `Sun, 22 Nov 2026 11:00:38 GMT`.
pub fn http_date(at: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let date = humantime::format_rfc3339_seconds(at).to_string();
    let month: usize = date[5..7].parse().expect("a month");
    let day = DAYS[(seconds / 86_400 % 7) as usize];
    let (year, month, time) = (&date[..4], MONTHS[month - 1], &date[11..19]);
    format!("{day}, {} {month} {year} {time} GMT", &date[8..10])
}

impl SiteModel {
    /// The response of a working site.
    pub fn answer(&mut self, request: &Request) -> Response {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let route = match path.strip_prefix("/wp-json") {
            Some(_) if self.plain_permalinks && request.method == "POST" => {
                return Response::html(200);
            }
            Some(_) if self.plain_permalinks => {
                return Response::html(301).with("Location", &format!("{path}/"));
            }
            Some(route) => route,
            None => match query.strip_prefix("rest_route=") {
                Some(route) => route.split('&').next().unwrap_or_default(),
                None => return Response::html(200),
            },
        };
        let no_route = || Response::fault(404, "rest_no_route", "No route was found.");
        if route == "/" {
            let home = &self.members.issuer;
            let namespaces = ["oembed/1.0", "buddyboss/v1", "jwt-auth/v1", "wp/v2"];
            return Response::json(200, &json!({"home": home, "namespaces": namespaces}));
        }
        let Some(route) = route.strip_prefix("/buddyboss/v1/") else { return no_route() };
        if self.messages_disabled && route.starts_with("messages") {
            return no_route();
        }
        let caller = match self.members.caller(request) {
            Ok(caller) => caller,
            Err(response) => return response,
        };
        let thread = route.strip_prefix("messages/").and_then(|id| id.parse::<u64>().ok());
        match (&*request.method, route, thread, caller) {
            ("GET", "members/me", _, None) => {
                Response::fault(401, "rest_not_logged_in", "You are not currently logged in.")
            }
            ("GET", "members/me", _, Some(id)) => Response::json(200, &json!({ "id": id })),
            ("POST", "messages", _, None) => {
                let sorry = "Sorry, you need to be logged in to create a message.";
                Response::fault(401, "bp_rest_authorization_required", sorry)
            }
            ("GET", _, Some(_), None) => not_allowed(401, "see this thread"),
            ("GET", "messages/search-thread", _, None) => not_allowed(401, "see this thread"),
            ("GET", "messages/search-thread", _, Some(id)) => {
                let with = request.argument("recipient_id").and_then(|n| n.parse().ok());
                let people = BTreeSet::from_iter([Some(id), with].into_iter().flatten());
                let same =
                    |t: &Thread| t.participants.iter().copied().collect::<BTreeSet<_>>() == people;
                match self.threads.iter().find(|(_, t)| same(t)) {
                    Some((thread, _)) => Response::json(200, &self.thread(*thread, id, Some(1))),
                    None => Response::json(200, &json!([])),
                }
            }
            ("GET", "messages", _, None) => not_allowed(401, "perform this action"),
            ("GET", "messages", _, Some(id)) => {
                let theirs = |t: &&Thread| t.participants.contains(&id);
                let newest = self.threads.iter().rev().find(|(_, t)| theirs(t));
                let list: Vec<Value> =
                    newest.into_iter().map(|(id, _)| json!({"id": id})).collect();
                Response::json(200, &Value::Array(list))
            }
            ("POST", "messages", _, Some(id)) => self.post(id, request),
            ("GET", _, Some(0), Some(_)) => {
                Response::fault(404, "bp_rest_invalid_id", "Sorry, this thread does not exist.")
            }
            ("GET", _, Some(thread), Some(id)) => match self.threads.get(&thread) {
                Some(t)
                    if t.participants.contains(&id) || self.members.moderators.contains(&id) =>
                {
                    let page = request.argument("recipients_page").and_then(|n| n.parse().ok());
                    let paged = request.argument("recipients_pagination") == Some("true");
                    let whole = self.thread(thread, id, paged.then(|| page.unwrap_or(1)));
                    match request.argument("_fields") {
                        Some(fields) => select_fields(&whole, fields),
                        None => Response::json(200, &whole),
                    }
                }
                _ => not_allowed(403, "see this thread"),
            },
            _ => no_route(),
        }
    }

    fn post(&mut self, caller: u64, request: &Request) -> Response {
        let body = match request.header("content-type") {
            Some("application/json") => request.json(),
            _ => Value::Null,
        };
        let text = body["message"].as_str().unwrap_or_default();
        let recipients: Vec<u64> = body["recipients"]
            .as_array()
            .map(|ids| ids.iter().filter_map(Value::as_u64).collect())
            .unwrap_or_default();
        let id = match body["id"].as_u64().filter(|id| *id > 0) {
            None if recipients.is_empty() => {
                return Response::fault(
                    400,
                    "bp_rest_empty_recipients",
                    "Please, enter recipients",
                );
            }
            _ if text.is_empty() => {
                return Response::fault(
                    400,
                    "bp_rest_messages_empty_message",
                    "Sorry, no message.",
                );
            }
            Some(id) => match self.threads.get(&id) {
                Some(thread) if thread.participants.contains(&caller) => id,
                _ => return not_allowed(403, "perform this action"),
            },
            None => {
                let mut people: Vec<u64> = recipients;
                people.push(caller);
                people.sort_unstable();
                people.dedup();
                if people.len() < 2 {
                    let sorry = "There was a problem sending your message.";
                    return Response::fault(500, "bp_rest_messages_create_failed", sorry);
                }
                self.thread_of(people)
            }
        };
        self.last_message += 1;
        let message = (self.last_message, caller, text.to_owned(), SystemTime::now());
        self.threads.entry(id).or_default().messages.push(message);
        Response::json(200, &self.thread(id, caller, Some(1)))
    }

    /// The thread of exactly these people, added if necessary. `people` must be sorted.
    fn thread_of(&mut self, people: Vec<u64>) -> u64 {
        let same = |t: &Thread| {
            let mut theirs = t.participants.clone();
            theirs.sort_unstable();
            theirs == people
        };
        if let Some((id, _)) = self.threads.iter().find(|(_, t)| same(t)) {
            return *id;
        }
        let id = self.threads.last_key_value().map_or(0, |(id, _)| *id) + 1;
        self.threads.insert(id, Thread { participants: people, messages: Vec::new() });
        id
    }

    /// A thread as the site returns it, with one page of its participants or with all of them
    /// (CONTRACT 3.2 and 3.3).
    fn thread(&self, id: u64, caller: u64, page: Option<usize>) -> Value {
        let thread = &self.threads[&id];
        let shown = &thread.messages[thread.messages.len().saturating_sub(10)..];
        let messages: Vec<Value> = shown
            .iter()
            .map(|(message, sender, text, at)| {
                let raw = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                let at = humantime::format_rfc3339_seconds(*at).to_string();
                json!({
                    "id": message,
                    "thread_id": id,
                    "sender_id": sender,
                    "subject": {"raw": "No Subject", "rendered": "No Subject"},
                    "message": {"rendered": format!("<p>{raw}</p>\n"), "raw": raw},
                    "date_sent": at.trim_end_matches('Z'),
                    "display_date": "Just now",
                    "sender_data": {"sender_name": format!("Member {sender}")},
                    "is_starred": false,
                })
            })
            .collect();
        // The newest rows come first.
        let newest = thread.participants.iter().rev();
        let shown: Vec<&u64> = match page {
            Some(page) => newest.skip(page.saturating_sub(1) * PAGE).take(PAGE).collect(),
            None => newest.collect(),
        };
        let recipients: Map<String, Value> = shown
            .into_iter()
            .map(|user| {
                let gone = u8::from(self.members.deleted.contains(user));
                let row = json!({
                    "id": user + 100, "user_id": user, "thread_id": id, "name": "Somebody",
                    "unread_count": 0, "is_deleted": gone, "is_hidden": 0,
                });
                (user.to_string(), row)
            })
            .collect();
        // PHP writes an empty object as a list.
        let recipients = if recipients.is_empty() { json!([]) } else { Value::Object(recipients) };
        let last = thread.messages.last();
        json!({
            "id": id,
            "message_id": last.map_or(0, |m| m.0),
            "last_sender_id": last.map_or(0, |m| m.1),
            "current_user": caller,
            "can_send_message": true,
            "recipients_count": thread.participants.len(),
            "recipients_per_page": PAGE,
            "recipients_total_pages": thread.participants.len().div_ceil(PAGE),
            "recipients": recipients,
            "messages_count": thread.messages.len(),
            "messages": messages,
        })
    }
}

/// Only these fields of a thread, and `_links`, which WordPress always adds.
fn select_fields(whole: &Value, fields: &str) -> Response {
    let mut some = Map::from_iter([("_links".to_owned(), json!({}))]);
    for field in fields.split(',') {
        some.insert(field.to_owned(), whole[field].clone());
    }
    Response::json(200, &Value::Object(some))
}

fn not_allowed(status: u16, what: &str) -> Response {
    let sorry = format!("Sorry, you are not allowed to {what}.");
    Response::fault(status, "bp_rest_authorization_required", &sorry)
}

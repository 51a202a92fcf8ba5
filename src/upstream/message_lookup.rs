//! Looks up whether a message was stored after its post had no usable reply: request and parsing.
//!
//! Pure functions, as in [`super::buddyboss`]. The thread is requested with the sender's own token,
//! and all messages in the reply are compared: the sender may have written on the site's pages
//! since. A message counts as the post's only if it is provably the sender's, has the same text and
//! is no older than the post.

use std::borrow::Cow;
use std::time::Duration;

use super::buddyboss::{
    MessageObject, Reply, Request, ThreadObject, is_id, parse_date_s, parse_http_date_s,
};
use super::normalize::normalize_text;
use super::url_style::UrlStyle;
use super::{checks, jwt};
use crate::hub::interface::{Answer, Failure, Lookup, LookupResult, Stored, Target};
use crate::protocol::Id;

/// The most messages of a thread in one reply (CONTRACT 3.2).
const MESSAGES_PER_PAGE: usize = 10;
/// How much older than the post a stored message may seem and still be the post's, in milliseconds:
/// one second because dates have whole seconds, and one for clock skew.
const CLOCK_SLACK_MS: u64 = 2_000;
/// A message with the same text that seems older than the post by no more than this, in
/// milliseconds, proves nothing either way: it may be the post's if the clocks differ much.
const UNCERTAIN_MS: u64 = 60_000;

/// Builds the request for the thread in which a message should be stored.
pub fn lookup_request(lookup: &Lookup, url_style: UrlStyle) -> Request<'_> {
    let path = match lookup.target {
        Target::Thread(thread) => url_style.newest_messages(thread),
        Target::NewThread { recipient } => url_style.search_thread(recipient),
    };
    Request {
        method: "GET",
        path: Cow::Owned(path),
        token: Some(&lookup.credential),
        body: None,
        signature: None,
    }
}

/// Interprets the reply to [`lookup_request`]; `elapsed` is the time between the start of the post
/// and this reply.
pub fn parse_lookup_reply(lookup: &Lookup, reply: &Reply, elapsed: Duration) -> Answer {
    if reply.status != 200 {
        return Answer::Failed(checks::failure(reply, Failure::NotParticipant));
    }
    // A reply that proves nothing is a failed lookup, which may be repeated.
    let failed = Answer::Failed(Failure::SiteUnavailable { retry_after_s: None });
    match_lookup(lookup, reply, elapsed).map_or(failed, Answer::LookupResult)
}

/// `None` if the reply proves nothing.
fn match_lookup(lookup: &Lookup, reply: &Reply, elapsed: Duration) -> Option<LookupResult> {
    // A cached reply may be older than the post, so it proves nothing.
    if reply.age.as_deref().is_some_and(|age| age.trim() != "0") {
        return None;
    }
    if matches!(lookup.target, Target::NewThread { .. }) && reply.is_empty_list() {
        return Some(LookupResult::Absent);
    }
    let thread: ThreadObject = reply.json()?;
    let user = thread.current_user;
    if !is_id(thread.id) || !is_id(user) || (thread.messages.is_empty() && thread.message_id != 0) {
        return None;
    }
    if lookup.sender.as_ref().and_then(Id::site_number).is_some_and(|sender| sender != user) {
        return None;
    }
    let participants = checks::participants(reply, user);
    match lookup.target {
        Target::Thread(requested) if requested != thread.id => return None,
        Target::Thread(_) => {}
        // The post would have gone to the thread of exactly these two (CONTRACT 3.1).
        Target::NewThread { recipient } => {
            let pair = [user.min(recipient), user.max(recipient)];
            participants.as_deref().filter(|users| *users == pair)?;
        }
    }
    // A message that cannot be parsed may be the one looked for.
    let messages: Option<Vec<MessageObject>> =
        thread.messages.iter().map(|raw| MessageObject::read(raw)).collect();
    let messages = messages?;
    let posted_ms = posted_ms(reply, elapsed);
    let own = messages.iter().filter(|m| m.sender_id == user);
    let own: Option<Vec<(&MessageObject, u64)>> =
        own.map(|m| Some((m, parse_date_s(&m.date_sent)? * 1_000))).collect();
    let own = own?;
    let Some((newest, newest_ms)) = own.iter().copied().max_by_key(|(m, _)| m.id) else {
        let oldest_ms =
            messages.iter().filter_map(|m| parse_date_s(&m.date_sent)).min().map(|s| s * 1_000);
        let is_whole_thread = messages.len() < MESSAGES_PER_PAGE;
        // Otherwise newer messages may have pushed the sender's out of the reply.
        let reaches_back = oldest_ms
            .zip(posted_ms)
            .is_some_and(|(oldest, posted)| oldest + CLOCK_SLACK_MS < posted);
        return (is_whole_thread || reaches_back).then_some(LookupResult::Absent);
    };
    let mismatch = |message| {
        let (thread, sender) = (thread.id, Id::number(user));
        Some(LookupResult::Mismatch { thread, sender, message })
    };
    let Some(posted_ms) = posted_ms else { return mismatch(newest.id) };
    let is_since_post = |sent_ms: u64, slack_ms| sent_ms + slack_ms >= posted_ms;
    let sent = normalize_text(&lookup.text);
    let has_same_text = |m: &MessageObject| m.raw().is_some_and(|raw| normalize_text(raw) == sent);
    let alike = own.into_iter().filter(|(m, _)| has_same_text(m)).max_by_key(|(m, _)| m.id);
    match alike {
        // An empty normalized text proves nothing: a picture without a text looks like a text that
        // consists of tags only.
        Some((alike, sent_ms)) if is_since_post(sent_ms, CLOCK_SLACK_MS) && !sent.is_empty() => {
            let stored = Stored {
                thread: thread.id,
                sender: Id::number(user),
                message: Some(alike.to_stored_message()),
                participants,
                expires_s: jwt::expiry(&lookup.credential),
            };
            Some(LookupResult::Match { stored, newest: newest.id })
        }
        _ if is_since_post(newest_ms, CLOCK_SLACK_MS) => mismatch(newest.id),
        Some((alike, sent_ms)) if is_since_post(sent_ms, UNCERTAIN_MS) => mismatch(alike.id),
        _ => Some(LookupResult::Absent),
    }
}

/// When the post started, by the site's own clock, in milliseconds since 1970. `None` if the reply
/// has no `Date`.
fn posted_ms(reply: &Reply, elapsed: Duration) -> Option<u64> {
    let now_ms = parse_http_date_s(reply.date.as_deref()?)? * 1_000;
    let elapsed_ms = u64::try_from(elapsed.as_millis()).ok()?;
    now_ms.checked_sub(elapsed_ms)
}

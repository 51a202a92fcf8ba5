//! Whether a message is stored whose post had no usable answer: the question, and what the answers
//! mean.
//!
//! Pure functions, as in [`super::buddyboss`]. The sender's own token asks for the thread, and the
//! newest message of theirs decides. What does not prove that it is theirs, and no older than the
//! post, never counts as it: at worst the sender is told that nobody knows.

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

/// The most messages that the site shows of a thread (CONTRACT 3.2).
const MESSAGES_PER_PAGE: usize = 10;
/// How much older than the post a message may look that is the post's: one second because dates
/// have whole seconds, and one for clocks that differ.
const CLOCK_SLACK_MS: u64 = 2_000;
/// A message with the same text that looks older than the post by no more than this may still be
/// the post's, if clocks differ much: it proves nothing either way.
const UNCERTAIN_MS: u64 = 60_000;

/// The request that looks up the thread into which a message should have gone.
pub fn look_request(look: &Lookup, url_style: UrlStyle) -> Request<'_> {
    let path = match look.target {
        Target::Thread(thread) => url_style.newest_messages(thread),
        Target::NewThread { recipient } => url_style.search_thread(recipient),
    };
    Request { method: "GET", path: Cow::Owned(path), token: Some(&look.credential), body: None }
}

/// What the answer to [`look_request`] means, if it came so long after the message was put to the
/// site.
pub fn parse_look_reply(look: &Lookup, reply: &Reply, after: Duration) -> Answer {
    if reply.status != 200 {
        return Answer::Failed(checks::failure(reply, Failure::NotParticipant));
    }
    // What proves nothing is a look that has failed.
    let nothing = Answer::Failed(Failure::SiteUnavailable { retry_after_s: None });
    match_lookup(look, reply, after).map_or(nothing, Answer::LookupResult)
}

fn match_lookup(look: &Lookup, reply: &Reply, after: Duration) -> Option<LookupResult> {
    // What a cache remembers may be older than the post, and shows neither that it is stored nor
    // that it is not.
    if reply.age.as_deref().is_some_and(|age| age.trim() != "0") {
        return None;
    }
    if matches!(look.target, Target::NewThread { .. }) && reply.is_empty_list() {
        return Some(LookupResult::Absent);
    }
    let thread: ThreadObject = reply.json()?;
    let me = thread.current_user;
    if !is_id(thread.id) || !is_id(me) || (thread.messages.is_empty() && thread.message_id != 0) {
        return None;
    }
    if look.sender.as_ref().and_then(Id::site_number).is_some_and(|sender| sender != me) {
        return None;
    }
    let participants = checks::participants(reply, me);
    match look.target {
        Target::Thread(asked) if asked != thread.id => return None,
        Target::Thread(_) => {}
        // The post would have gone to the thread of exactly these two (CONTRACT 3.1).
        Target::NewThread { recipient } => {
            let two = [me.min(recipient), me.max(recipient)];
            participants.as_deref().filter(|people| *people == two)?;
        }
    }
    // One that cannot be read may be the one.
    let messages: Option<Vec<MessageObject>> =
        thread.messages.iter().map(|raw| MessageObject::read(raw)).collect();
    let messages = messages?;
    let posted_ms = posted_ms(reply, after);
    let newest = messages.iter().filter(|m| m.sender_id == me).max_by_key(|m| m.id);
    let Some(newest) = newest else {
        let oldest_ms =
            messages.iter().filter_map(|m| parse_date_s(&m.date_sent)).min().map(|s| s * 1_000);
        let all = messages.len() < MESSAGES_PER_PAGE;
        // Theirs may have been pushed out of what is shown.
        let reaches_back = oldest_ms
            .zip(posted_ms)
            .is_some_and(|(oldest, started)| oldest + CLOCK_SLACK_MS < started);
        return (all || reaches_back).then_some(LookupResult::Absent);
    };
    let other =
        LookupResult::Mismatch { thread: thread.id, sender: Id::number(me), message: newest.id };
    let sent_ms = parse_date_s(&newest.date_sent)? * 1_000;
    let sent = normalize_text(&look.text);
    let says_the_same = newest.raw().is_some_and(|raw| normalize_text(raw) == sent);
    Some(match posted_ms {
        None => other,
        Some(posted_ms) if sent_ms + CLOCK_SLACK_MS < posted_ms => {
            let doubtful = says_the_same && sent_ms + UNCERTAIN_MS >= posted_ms;
            if doubtful { other } else { LookupResult::Absent }
        }
        // A picture without a text says the same as a text of tags alone.
        Some(_) if says_the_same && !sent.is_empty() => LookupResult::Match(Stored {
            thread: thread.id,
            sender: Id::number(me),
            message: Some(newest.to_stored_message()),
            participants,
            expires_s: jwt::expiry(&look.credential),
        }),
        Some(_) => other,
    })
}

/// When the post began, by the site's own clock, in milliseconds since 1970. `None` if the answer
/// does not say what time it is.
fn posted_ms(reply: &Reply, after: Duration) -> Option<u64> {
    let now_ms = parse_http_date_s(reply.date.as_deref()?)? * 1_000;
    let after_ms = u64::try_from(after.as_millis()).ok()?;
    now_ms.checked_sub(after_ms)
}

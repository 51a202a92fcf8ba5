//! Debug log of requests to the site and their answers, each line with its request number. All
//! requests for one message, look-ups included, are logged under one number.

use log::{Level, log_enabled};

use crate::hub::Hub;
use crate::hub::interface::{Answer, Ask, CallEvent, LookupResult, RequestId, Target};
use crate::protocol::Id;

/// Logs a request to the site.
pub(super) fn log_query(hub: &Hub, request: RequestId, ask: &Ask) {
    if !log_enabled!(Level::Debug) {
        return;
    }
    let connection = hub.sender_of(request).map(|conn| conn.serial);
    let request = ask.log_request(request).0;
    match ask {
        Ask::Post(post) => match post.target {
            Target::Thread(thread) => {
                log::debug!(connection, request; "sending a message to thread {thread}");
            }
            Target::NewThread { recipient } => {
                log::debug!(connection, request; "sending a message to user {recipient}");
            }
        },
        Ask::Lookup(_) => log::debug!(request; "looking up the message in its thread"),
        Ask::Prove(_) => log::debug!(request; "checking a token"),
        Ask::Recheck(_) => log::debug!(request; "checking a token again"),
        Ask::CallPermission { thread, .. } => {
            log::debug!(request; "asking who may write in thread {thread}");
        }
        Ask::Participants { thread, .. } => {
            log::debug!(request; "reading the participants of thread {thread}")
        }
    }
}

/// Logs a call to an offline user. A push notification would be triggered here.
pub(super) fn log_offline_callee(event: &CallEvent) {
    let thread = event.thread.as_ref().map_or_else(|| "none".to_owned(), Id::to_json);
    let [call, caller, callee] = [&event.call, &event.caller, &event.called].map(Id::to_json);
    log::debug!("call {call} of user {caller}: user {callee} is offline; thread {thread}");
}

/// Logs a call that its callee has missed.
pub(super) fn log_missed_call(event: &CallEvent) {
    let [call, caller, callee] = [&event.call, &event.caller, &event.called].map(Id::to_json);
    log::debug!("call {call} of user {caller}: user {callee} has missed it");
}

/// Log line of an answer, kept until the hub has processed it.
pub(super) struct AnswerLog {
    /// The request number of its log line.
    request: RequestId,
    /// Whether it is about a message without an outcome yet.
    is_message: bool,
    summary: String,
}

impl AnswerLog {
    /// Prepares the line of an answer; `None` if debug lines are not logged.
    pub(super) fn new(hub: &Hub, request: RequestId, answer: &Answer) -> Option<AnswerLog> {
        if !log_enabled!(Level::Debug) {
            return None;
        }
        let summary = match answer {
            Answer::Stored(stored) => format!("stored in thread {}", stored.thread),
            Answer::Proven(proven) | Answer::Verified(proven) => format!("{proven:?}"),
            Answer::Ticket(ticket) => format!("a ticket of user {}", ticket.user),
            Answer::CallPermission(true) => "the user may write".to_owned(),
            Answer::CallPermission(false) => "the user may not write".to_owned(),
            Answer::LookupResult(LookupResult::Match { stored, .. }) => {
                format!("found in thread {}", stored.thread)
            }
            Answer::LookupResult(LookupResult::Mismatch { thread, .. }) => {
                format!("thread {thread} has a different message")
            }
            Answer::LookupResult(LookupResult::Absent) => "not found".to_owned(),
            Answer::Participants(users) => format!("{} participants", users.len()),
            Answer::Failed(failure) => format!("{failure:?}"),
        };
        let request = hub.log_request(request);
        Some(AnswerLog { request, is_message: hub.sender_of(request).is_some(), summary })
    }

    /// Logs the line, after the hub has processed the answer.
    pub(super) fn log_answer(&self, hub: &Hub) {
        let AnswerLog { request, is_message, summary } = self;
        match *is_message && hub.sender_of(*request).is_some() {
            true => log::debug!(request = request.0; "{summary}; the outcome is not known yet"),
            false => log::debug!(request = request.0; "{summary}"),
        }
    }
}

//! What the log tells of questions to the site, at `debug`: each line with the request that it is
//! about. A message has one from its way to the site until its fate is decided, looks included.

use log::{Level, log_enabled};

use crate::hub::Hub;
use crate::hub::interface::{Answer, Ask, CallEvent, LookupResult, RequestId, Target};
use crate::protocol::Id;

/// A question is put to the site.
pub(super) fn log_query(hub: &Hub, request: RequestId, ask: &Ask) {
    if !log_enabled!(Level::Debug) {
        return;
    }
    let connection = hub.sender_of(request).map(|conn| conn.serial);
    let request = ask.log_request(request).0;
    match ask {
        Ask::Post(post) => match post.target {
            Target::Thread(thread) => {
                log::debug!(connection, request; "a message for thread {thread}");
            }
            Target::NewThread { recipient } => {
                log::debug!(connection, request; "a message for user {recipient}");
            }
        },
        Ask::Lookup(_) => log::debug!(request; "its thread is looked up"),
        Ask::Prove(_) => log::debug!(request; "whose a token is"),
        Ask::Participants { thread, .. } => {
            log::debug!(request; "who takes part in thread {thread}")
        }
    }
}

/// Someone is called who is not there. What could wake their phone is told here once there is such.
pub(super) fn log_offline_callee(event: &CallEvent) {
    let thread = event.thread.as_ref().map_or_else(|| "none".to_owned(), Id::to_json);
    let [call, caller, called] = [&event.call, &event.caller, &event.called].map(Id::to_json);
    log::debug!("call {call} of user {caller} for user {called}, who is offline; thread {thread}");
}

/// An answer, until it is known what has become of it.
pub(super) struct AnswerLog {
    /// Under which it is told.
    request: RequestId,
    /// Whether it is about a message whose fate was not decided.
    is_message: bool,
    words: String,
}

impl AnswerLog {
    /// Nothing where nothing is logged.
    pub(super) fn new(hub: &Hub, request: RequestId, answer: &Answer) -> Option<AnswerLog> {
        if !log_enabled!(Level::Debug) {
            return None;
        }
        let words = match answer {
            Answer::Stored(stored) => format!("stored in thread {}", stored.thread),
            Answer::Proven(proven) => format!("{proven:?}"),
            Answer::LookupResult(LookupResult::Match(stored)) => {
                format!("the same is in thread {}", stored.thread)
            }
            Answer::LookupResult(LookupResult::Mismatch { thread, .. }) => {
                format!("something else is in thread {thread}")
            }
            Answer::LookupResult(LookupResult::Absent) => "nothing is there".to_owned(),
            Answer::Participants(users) => format!("{} take part", users.len()),
            Answer::Failed(failure) => format!("{failure:?}"),
        };
        let request = hub.log_request(request);
        Some(AnswerLog { request, is_message: hub.sender_of(request).is_some(), words })
    }

    /// Once the hub has been told of it.
    pub(super) fn log_answer(&self, hub: &Hub) {
        let AnswerLog { request, is_message, words } = self;
        match *is_message && hub.sender_of(*request).is_some() {
            true => log::debug!(request = request.0; "{words}; its fate is not decided"),
            false => log::debug!(request = request.0; "{words}"),
        }
    }
}

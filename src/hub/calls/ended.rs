//! Calls that ended recently: for devices that had lost their connection at the end, and for status
//! requests.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::hub::capacity::SmallList;
use crate::protocol::server::EndReason;
use crate::protocol::{Id, IdKey};

/// How long an ended call is remembered. An app woken by a push asks for its status within seconds.
const ENDED_TTL: Duration = Duration::from_secs(60);
/// Ended calls that are remembered; beyond it, the oldest is dropped.
const ENDED_MAX: usize = 4_096;

/// The end of a call, as devices receive it.
#[derive(Clone, Debug)]
pub(crate) struct CallEnd {
    /// The `callId`.
    pub id: Id,
    /// The thread of the call.
    pub thread: Option<Id>,
    /// Why it ended.
    pub reason: EndReason,
    /// The id of the call that replaces it.
    pub continues_as: Option<Id>,
}

/// A call that has ended.
#[derive(Debug)]
pub(crate) struct EndedCall {
    /// The end, as devices receive it.
    pub end: CallEnd,
    /// The user who began it.
    pub caller: Id,
    /// The users who were parties or invited.
    users: SmallList<IdKey>,
    /// Of these, the users with a device that has not been notified.
    unnotified: SmallList<IdKey>,
    until: Instant,
}

/// All ended calls, oldest first.
#[derive(Debug, Default)]
pub(super) struct EndedCalls {
    entries: VecDeque<EndedCall>,
}

impl EndedCalls {
    /// Records an end.
    pub(super) fn record(
        &mut self,
        caller: Id,
        end: CallEnd,
        users: SmallList<IdKey>,
        unnotified: SmallList<IdKey>,
        now: Instant,
    ) {
        self.expire(now);
        if self.entries.len() == ENDED_MAX {
            self.entries.pop_front();
        }
        let until = now + ENDED_TTL;
        self.entries.push_back(EndedCall { end, caller, users, unnotified, until });
    }

    /// Finds the latest ended call of this user with this id.
    pub(super) fn find(&mut self, user: &IdKey, id: &IdKey, now: Instant) -> Option<&EndedCall> {
        self.expire(now);
        self.entries
            .iter()
            .rev()
            .find(|ended| ended.end.id.key == *id && ended.users.contains(user))
    }

    /// Finds the latest ended call with this id.
    pub(super) fn find_by_id(&mut self, id: &IdKey, now: Instant) -> Option<&EndedCall> {
        self.expire(now);
        self.entries.iter().rev().find(|ended| ended.end.id.key == *id)
    }

    /// Returns the ends of which a user's new device is to be notified. Each end is returned to one
    /// device of the user only.
    pub(super) fn take_unnotified(&mut self, user: &IdKey, now: Instant) -> Vec<&EndedCall> {
        self.expire(now);
        let mut due = Vec::new();
        for ended in &mut self.entries {
            if let Some(at) = ended.unnotified.iter().position(|unnotified| unnotified == user) {
                ended.unnotified.remove(at);
                due.push(&*ended);
            }
        }
        due
    }

    /// Drops expired entries. That is done when the table is used, without a timer.
    fn expire(&mut self, now: Instant) {
        while self.entries.front().is_some_and(|ended| ended.until <= now) {
            self.entries.pop_front();
        }
    }
}

//! Calls that have ended, remembered for a while: for devices that had lost their connection then,
//! and for apps that ask.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::hub::capacity::SmallList;
use crate::protocol::server::EndReason;
use crate::protocol::{Id, IdKey};

/// How long an end is remembered. An app that was woken for a call asks within seconds.
const ENDED_TTL: Duration = Duration::from_secs(60);
/// Ends that are remembered; the oldest goes.
const ENDED_MAX: usize = 4_096;

/// What is told of a call's end.
#[derive(Clone, Debug)]
pub struct CallEnd {
    /// What it was called.
    pub id: Id,
    /// Where it was.
    pub thread: Option<Id>,
    /// Why.
    pub reason: EndReason,
    /// The call that stands instead.
    pub continues_as: Option<Id>,
}

/// A call that has ended.
#[derive(Debug)]
pub struct EndedCall {
    /// What is told of it.
    pub end: CallEnd,
    /// Who began it.
    pub caller: Id,
    /// Who was in it or was rung.
    users: SmallList<IdKey>,
    /// Those of them who have a device that does not know.
    unnotified: SmallList<IdKey>,
    until: Instant,
}

/// All of them, by age.
#[derive(Debug, Default)]
pub struct EndedCalls {
    entries: VecDeque<EndedCall>,
}

impl EndedCalls {
    /// Remembers an end.
    pub fn record(
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

    /// The latest end of a call of this user's.
    pub fn find(&mut self, user: &IdKey, id: &IdKey, now: Instant) -> Option<&EndedCall> {
        self.expire(now);
        self.entries
            .iter()
            .rev()
            .find(|ended| ended.end.id.key == *id && ended.users.contains(user))
    }

    /// The latest end of a call of this name.
    pub fn find_by_id(&mut self, id: &IdKey, now: Instant) -> Option<&EndedCall> {
        self.expire(now);
        self.entries.iter().rev().find(|ended| ended.end.id.key == *id)
    }

    /// The ends that a user's new device is to be told; each is told once.
    pub fn take_unnotified(&mut self, user: &IdKey, now: Instant) -> Vec<&EndedCall> {
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

    /// Forgets those whose time is over. There is no hurry: it happens as others come.
    fn expire(&mut self, now: Instant) {
        while self.entries.front().is_some_and(|ended| ended.until <= now) {
            self.entries.pop_front();
        }
    }
}

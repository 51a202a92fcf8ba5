//! Calls that have ended, remembered for a while: for devices that had lost their connection then,
//! and for apps that ask.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::hub::capacity::Few;
use crate::protocol::server::EndReason;
use crate::protocol::{Id, IdKey};

/// How long an end is remembered. An app that was woken for a call asks within seconds.
const LASTS: Duration = Duration::from_secs(60);
/// Ends that are remembered; the oldest goes.
const OVER_MAX: usize = 4_096;

/// What is told of a call's end.
#[derive(Clone, Debug)]
pub struct Told {
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
pub struct Over {
    /// What is told of it.
    pub told: Told,
    /// Who began it.
    pub caller: Id,
    /// Who was in it or was rung.
    users: Few<IdKey>,
    /// Those of them who have a device that does not know.
    untold: Few<IdKey>,
    until: Instant,
}

/// All of them, by age.
#[derive(Debug, Default)]
pub struct Ends {
    ends: VecDeque<Over>,
}

impl Ends {
    /// Remembers an end.
    pub fn note(
        &mut self,
        caller: Id,
        told: Told,
        users: Few<IdKey>,
        untold: Few<IdKey>,
        now: Instant,
    ) {
        self.forget(now);
        if self.ends.len() == OVER_MAX {
            self.ends.pop_front();
        }
        let until = now + LASTS;
        self.ends.push_back(Over { told, caller, users, untold, until });
    }

    /// The latest end of a call of this user's.
    pub fn find(&mut self, user: &IdKey, id: &IdKey, now: Instant) -> Option<&Over> {
        self.forget(now);
        self.ends.iter().rev().find(|over| over.told.id.key == *id && over.users.contains(user))
    }

    /// The latest end of a call of this name.
    pub fn find_any(&mut self, id: &IdKey, now: Instant) -> Option<&Over> {
        self.forget(now);
        self.ends.iter().rev().find(|over| over.told.id.key == *id)
    }

    /// The ends that a user's new device is to be told; each is told once.
    pub fn take_untold(&mut self, user: &IdKey, now: Instant) -> Vec<&Over> {
        self.forget(now);
        let mut told = Vec::new();
        for over in &mut self.ends {
            if let Some(at) = over.untold.iter().position(|untold| untold == user) {
                over.untold.remove(at);
                told.push(&*over);
            }
        }
        told
    }

    /// Forgets those whose time is over. There is no hurry: it happens as others come.
    fn forget(&mut self, now: Instant) {
        while self.ends.front().is_some_and(|over| over.until <= now) {
            self.ends.pop_front();
        }
    }
}

//! Whether a user may write to the other participant of a thread of two, and so may call them.
//!
//! A participant list does not show blocks. Until the site reports them, the server asks before a
//! call rings, and remembers the answer for a minute.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::hub::failure::Failure;
use crate::hub::interface::ConnId;

/// How long an answer is used.
const PERMISSION_TTL: Duration = Duration::from_secs(60);
/// How long a refusal is used while the site does not answer.
const OUTAGE_MAX_AGE: Duration = Duration::from_secs(600);
/// Answers that are remembered; beyond it, the oldest is dropped.
const KNOWN_MAX: usize = 10_000;

/// A user who calls in a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CallPair {
    /// The thread.
    pub thread: u64,
    /// The user who calls.
    pub user: u64,
}

/// The permission to call, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallPermission {
    /// The site lets the user write.
    Allowed,
    /// It does not.
    Refused,
    /// It has to be asked.
    Unknown,
}

#[derive(Debug)]
struct Known {
    is_allowed: bool,
    since: Instant,
    age: u64,
}

/// The answers, and the connections whose frames wait for one.
#[derive(Debug, Default)]
pub(crate) struct CallPermissions {
    known: HashMap<CallPair, Known>,
    by_age: BTreeMap<u64, CallPair>,
    last_age: u64,
    /// The connections that wait, in order; each holds a frame.
    waiting: HashMap<CallPair, Vec<ConnId>>,
}

impl CallPermissions {
    /// Forgets all answers about these two users: a block may have changed them.
    pub(crate) fn forget(&mut self, one: u64, other: u64) {
        let concerns = |pair: &CallPair| pair.user == one || pair.user == other;
        self.by_age.retain(|_, pair| !concerns(pair));
        self.known.retain(|pair, _| !concerns(pair));
    }

    /// Forgets all answers.
    pub(crate) fn forget_all(&mut self) {
        self.by_age.clear();
        self.known.clear();
    }

    /// Whether a user may call, as far as is known.
    pub(crate) fn get(&self, pair: CallPair, now: Instant) -> CallPermission {
        match self.known.get(&pair) {
            Some(known) if now.saturating_duration_since(known.since) < PERMISSION_TTL => {
                if known.is_allowed { CallPermission::Allowed } else { CallPermission::Refused }
            }
            _ => CallPermission::Unknown,
        }
    }

    /// Whether the site has refused a call recently enough to count while it does not answer.
    pub(crate) fn is_refused_in_outage(&self, pair: CallPair, now: Instant) -> bool {
        self.known.get(&pair).is_some_and(|known| {
            !known.is_allowed && now.saturating_duration_since(known.since) <= OUTAGE_MAX_AGE
        })
    }

    /// Lets a connection wait for the answer; true if the caller must queue the query.
    pub(crate) fn wait(&mut self, pair: CallPair, conn: ConnId) -> bool {
        let waiting = self.waiting.entry(pair).or_default();
        waiting.push(conn);
        waiting.len() == 1
    }

    /// The connections that wait for an answer, while its query is queued.
    pub(crate) fn waiting(&self, pair: CallPair) -> &[ConnId] {
        self.waiting.get(&pair).map_or(&[], Vec::as_slice)
    }

    /// Forgets the connections that wait for an answer, because all have closed.
    pub(crate) fn forget_waiting(&mut self, pair: CallPair) {
        self.waiting.remove(&pair);
    }

    /// Records the site's answer, and returns the connections that waited for it.
    pub(crate) fn record_answer(
        &mut self,
        pair: CallPair,
        result: Result<bool, Failure>,
        now: Instant,
    ) -> Vec<ConnId> {
        if let Ok(is_allowed) = result {
            if let Some(before) = self.known.remove(&pair) {
                self.by_age.remove(&before.age);
            }
            self.last_age += 1;
            self.known.insert(pair, Known { is_allowed, since: now, age: self.last_age });
            self.by_age.insert(self.last_age, pair);
            if self.known.len() > KNOWN_MAX {
                if let Some((_, oldest)) = self.by_age.pop_first() {
                    self.known.remove(&oldest);
                }
            }
        }
        self.waiting.remove(&pair).unwrap_or_default()
    }

    /// Asserts that the tables agree with each other.
    pub(crate) fn check_invariants(&self) {
        assert!(self.known.len() <= KNOWN_MAX && self.known.len() == self.by_age.len());
        assert!(self.by_age.iter().all(|(age, pair)| self.known[pair].age == *age));
        assert!(self.waiting.values().all(|conns| !conns.is_empty()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_permissions_are_bounded_and_expire() {
        let (mut permissions, now) = (CallPermissions::default(), Instant::now());
        let pair = |thread| CallPair { thread, user: 7 };
        for thread in 0..10_010 {
            permissions.record_answer(pair(thread), Ok(thread % 2 == 0), now);
        }
        permissions.check_invariants();
        assert_eq!(permissions.get(pair(9), now), CallPermission::Unknown);
        assert_eq!(permissions.get(pair(10), now), CallPermission::Allowed);
        assert_eq!(permissions.get(pair(11), now), CallPermission::Refused);
        let later = now + PERMISSION_TTL;
        assert_eq!(permissions.get(pair(10), later), CallPermission::Unknown);
        assert!(!permissions.is_refused_in_outage(pair(10), later));
        assert!(permissions.is_refused_in_outage(pair(11), later));
        assert!(!permissions.is_refused_in_outage(pair(11), now + 11 * PERMISSION_TTL));
    }
}

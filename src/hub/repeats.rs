//! What each user has sent under which `clientId`, so that nothing is stored twice.
//!
//! An app that does not know what became of a message sends it again under the same `clientId`
//! (`PROTOCOL.md` 3). It gets the outcome of the first: from memory, or with the first. A message
//! that was certainly not stored is forgotten, so that it may be tried again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::deadlines::{DeadlineKey, Deadlines};
use super::interface::ConnId;
use crate::protocol::IdKey;
use crate::protocol::server::EncodedFrame;

/// How long after its acceptance a message is not stored again.
const LASTS: Duration = Duration::from_secs(600);
/// Outcomes that are remembered, and their bytes; the oldest goes.
const OUTCOMES_MAX: usize = 20_000;
const BYTES_MAX: usize = 16 << 20;
/// What an outcome costs beside its frame, in bytes.
const OVERHEAD: usize = 256;
/// Repeats of one message that may wait for its outcome.
const WAITERS_MAX: usize = 8;
/// Outcomes that are forgotten in one go.
const FORGET_AT_ONCE: usize = 256;

/// Whose `clientId` it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// This user's, on any connection.
    User(IdKey),
    /// A connection's that has not said who it is.
    Nobody(ConnId),
}

/// A message by the name that its sender gave it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// Whose.
    pub who: Who,
    /// The `clientId`.
    pub client_id: IdKey,
}

/// What is known of a message that is sent.
#[derive(Debug)]
pub enum Known {
    /// Nothing: it is the first.
    New,
    /// It has been sent before, and this came of it.
    Outcome(EncodedFrame),
    /// It has been sent before: the connection hears of it together with the first.
    Waits,
    /// The same, and too many wait for it already.
    TooMany,
}

#[derive(Debug)]
enum State {
    /// On its way; who has sent it again meanwhile.
    OnItsWay(Vec<ConnId>),
    Told {
        outcome: EncodedFrame,
        ends: DeadlineKey,
    },
}

#[derive(Debug)]
struct Entry {
    accepted: Instant,
    state: State,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Repeats {
    sent: HashMap<Name, Entry>,
    /// When outcomes are forgotten.
    ends: Deadlines<Name>,
    bytes: usize,
    /// How many outcomes each connection waits for here.
    waits: HashMap<ConnId, usize>,
}

impl Repeats {
    /// What is known of the message of this name, sent by this connection, which waits for it if it
    /// is on its way.
    pub fn find(&mut self, name: &Name, conn: ConnId, now: Instant) -> Known {
        let Some(entry) = self.sent.get_mut(name) else { return Known::New };
        match &mut entry.state {
            State::Told { .. } if entry.accepted + LASTS <= now => Known::New,
            State::Told { outcome, .. } => Known::Outcome(EncodedFrame::clone(outcome)),
            State::OnItsWay(waiters) if waiters.len() >= WAITERS_MAX => Known::TooMany,
            State::OnItsWay(waiters) => {
                waiters.push(conn);
                *self.waits.entry(conn).or_default() += 1;
                Known::Waits
            }
        }
    }

    /// Notes that a message has been accepted.
    pub fn accepted(&mut self, name: Name, now: Instant) {
        // One that has just become too old may still be there.
        self.forget_one(&name);
        let state = State::OnItsWay(Vec::new());
        self.sent.insert(name, Entry { accepted: now, state });
    }

    /// Takes in what came of a message, and who waits to hear it. It is remembered if it `lasts`.
    pub fn told(&mut self, name: &Name, outcome: &EncodedFrame, lasts: bool) -> Vec<ConnId> {
        let Some(entry) = self.sent.get_mut(name) else { return Vec::new() };
        let State::OnItsWay(waiters) = &mut entry.state else { return Vec::new() };
        let waiters = std::mem::take(waiters);
        if lasts {
            let ends = self.ends.set(entry.accepted + LASTS, name.clone());
            entry.state = State::Told { outcome: EncodedFrame::clone(outcome), ends };
            self.bytes += outcome.len() + OVERHEAD;
        } else {
            self.sent.remove(name);
        }
        for conn in &waiters {
            if let Some(count) = self.waits.get_mut(conn) {
                *count -= 1;
                if *count == 0 {
                    self.waits.remove(conn);
                }
            }
        }
        self.shed();
        waiters
    }

    /// Whether a connection waits for an outcome here.
    pub fn has(&self, conn: ConnId) -> bool {
        self.waits.contains_key(&conn)
    }

    /// When the next is forgotten.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.ends.next()
    }

    /// Forgets some of those whose time is over; false if there is none.
    pub fn forget(&mut self, now: Instant) -> bool {
        let due = |this: &mut Self| this.ends.next().is_some_and(|at| at <= now);
        let mut any = false;
        for _ in 0..FORGET_AT_ONCE {
            if !due(self) {
                break;
            }
            any = true;
            self.forget_oldest();
        }
        any
    }

    fn shed(&mut self) {
        while self.ends.count() > OUTCOMES_MAX || self.bytes > BYTES_MAX {
            if !self.forget_oldest() {
                return;
            }
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(name) = self.ends.next().and_then(|at| self.ends.pop_due(at)) else {
            return false;
        };
        if let Some(Entry { state: State::Told { outcome, .. }, .. }) = self.sent.remove(&name) {
            self.bytes -= outcome.len() + OVERHEAD;
        }
        true
    }

    fn forget_one(&mut self, name: &Name) {
        if let Some(Entry { state: State::Told { outcome, ends }, .. }) = self.sent.remove(name) {
            self.bytes -= outcome.len() + OVERHEAD;
            self.ends.cancel(ends);
        }
    }

    /// How many outcomes are remembered.
    pub fn count(&self) -> usize {
        self.ends.count()
    }

    /// Asserts that the tables agree with each other.
    pub fn check_invariants(&self) {
        let told = self.sent.values().filter_map(|entry| match &entry.state {
            State::Told { outcome, .. } => Some(outcome.len() + OVERHEAD),
            State::OnItsWay(_) => None,
        });
        assert_eq!(told.clone().count(), self.ends.count());
        assert_eq!(told.sum::<usize>(), self.bytes);
        assert!(self.ends.count() <= OUTCOMES_MAX && self.bytes <= BYTES_MAX);
        let waiters = self.sent.values().map(|entry| match &entry.state {
            State::OnItsWay(waiters) => waiters.len(),
            State::Told { .. } => 0,
        });
        assert_eq!(waiters.sum::<usize>(), self.waits.values().sum::<usize>());
        assert!(self.waits.values().all(|count| *count > 0));
    }
}

//! Dedup of messages by `clientId`, so that a message sent twice is stored once.
//!
//! An app that does not know the outcome of a message sends it again under the same `clientId`
//! (`PROTOCOL.md` 3). It gets the outcome of the first message, either from this cache or together
//! with the first sender. A message that was certainly not stored is forgotten, so that the app may
//! retry it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::hub::deadlines::{DeadlineKey, Deadlines};
use crate::hub::interface::ConnId;
use crate::protocol::IdKey;
use crate::protocol::server::EncodedFrame;

/// How long after its acceptance a message is recognized as a duplicate.
const TTL: Duration = Duration::from_secs(600);
/// Outcomes that are remembered, and their bytes; beyond it, the oldest is dropped.
const OUTCOMES_MAX: usize = 20_000;
const BYTES_MAX: usize = 16 << 20;
/// Estimated bytes of an entry besides its frame.
const ENTRY_OVERHEAD: usize = 256;
/// Duplicates of one message that may wait for its outcome.
const WAITERS_MAX: usize = 8;
/// Outcomes that are dropped in one step.
const FORGET_BATCH: usize = 256;

/// The scope of a `clientId`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sender {
    /// A user, on any connection.
    User(IdKey),
    /// An anonymous connection.
    Connection(ConnId),
}

/// Identifies a message by its sender and `clientId`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DedupKey {
    /// The sender.
    pub sender: Sender,
    /// The `clientId`.
    pub client_id: IdKey,
}

/// Result of [`Dedup::find`].
#[derive(Debug)]
pub(crate) enum DedupResult {
    /// The message is new.
    New,
    /// A duplicate whose outcome is known.
    Outcome(EncodedFrame),
    /// A duplicate of a message that is in flight; the connection now waits for the outcome.
    InFlight,
    /// A duplicate of a message in flight for which too many duplicates wait already.
    TooMany,
}

#[derive(Debug)]
enum MessageState {
    /// In flight, with the connections that have sent a duplicate.
    InFlight(Vec<ConnId>),
    Settled {
        outcome: EncodedFrame,
        ends: DeadlineKey,
    },
}

#[derive(Debug)]
struct DedupEntry {
    accepted_at: Instant,
    state: MessageState,
}

/// Messages in flight and remembered outcomes, by their keys.
#[derive(Debug, Default)]
pub(crate) struct Dedup {
    entries: HashMap<DedupKey, DedupEntry>,
    /// When outcomes expire.
    ends: Deadlines<DedupKey>,
    bytes: usize,
    /// How many outcomes each connection waits for.
    wait_counts: HashMap<ConnId, usize>,
}

impl Dedup {
    /// Looks up a message that a connection sends. If it is a duplicate of one in flight, the
    /// connection becomes a waiter for the outcome.
    pub(crate) fn find(&mut self, key: &DedupKey, conn: ConnId, now: Instant) -> DedupResult {
        let Some(entry) = self.entries.get_mut(key) else { return DedupResult::New };
        match &mut entry.state {
            MessageState::Settled { .. } if entry.accepted_at + TTL <= now => DedupResult::New,
            MessageState::Settled { outcome, .. } => {
                DedupResult::Outcome(EncodedFrame::clone(outcome))
            }
            MessageState::InFlight(waiters) if waiters.len() >= WAITERS_MAX => DedupResult::TooMany,
            MessageState::InFlight(waiters) => {
                waiters.push(conn);
                *self.wait_counts.entry(conn).or_default() += 1;
                DedupResult::InFlight
            }
        }
    }

    /// Records that a message has been accepted.
    pub(crate) fn insert(&mut self, key: DedupKey, now: Instant) {
        // An expired entry may still be there.
        self.remove(&key);
        let state = MessageState::InFlight(Vec::new());
        self.entries.insert(key, DedupEntry { accepted_at: now, state });
    }

    /// Records the outcome of a message and returns the connections that wait for it. With
    /// `remember` the outcome is kept for later duplicates, otherwise the message is forgotten.
    pub(crate) fn settle(
        &mut self,
        key: &DedupKey,
        outcome: &EncodedFrame,
        remember: bool,
    ) -> Vec<ConnId> {
        let Some(entry) = self.entries.get_mut(key) else { return Vec::new() };
        let MessageState::InFlight(waiters) = &mut entry.state else { return Vec::new() };
        let waiters = std::mem::take(waiters);
        if remember {
            let ends = self.ends.set(entry.accepted_at + TTL, key.clone());
            entry.state = MessageState::Settled { outcome: EncodedFrame::clone(outcome), ends };
            self.bytes += outcome.len() + ENTRY_OVERHEAD;
        } else {
            self.entries.remove(key);
        }
        for conn in &waiters {
            if let Some(count) = self.wait_counts.get_mut(conn) {
                *count -= 1;
                if *count == 0 {
                    self.wait_counts.remove(conn);
                }
            }
        }
        self.evict();
        waiters
    }

    /// Whether a connection waits for an outcome.
    pub(crate) fn has(&self, conn: ConnId) -> bool {
        self.wait_counts.contains_key(&conn)
    }

    /// Returns when the next outcome expires.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.ends.next()
    }

    /// Drops some expired outcomes; false if there is none.
    pub(crate) fn forget(&mut self, now: Instant) -> bool {
        let due = |this: &mut Self| this.ends.next().is_some_and(|at| at <= now);
        let mut any = false;
        for _ in 0..FORGET_BATCH {
            if !due(self) {
                break;
            }
            any = true;
            self.forget_oldest();
        }
        any
    }

    fn evict(&mut self) {
        while self.ends.count() > OUTCOMES_MAX || self.bytes > BYTES_MAX {
            if !self.forget_oldest() {
                return;
            }
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(key) = self.ends.next().and_then(|at| self.ends.pop_due(at)) else {
            return false;
        };
        if let Some(DedupEntry { state: MessageState::Settled { outcome, .. }, .. }) =
            self.entries.remove(&key)
        {
            self.bytes -= outcome.len() + ENTRY_OVERHEAD;
        }
        true
    }

    fn remove(&mut self, key: &DedupKey) {
        if let Some(DedupEntry { state: MessageState::Settled { outcome, ends }, .. }) =
            self.entries.remove(key)
        {
            self.bytes -= outcome.len() + ENTRY_OVERHEAD;
            self.ends.cancel(ends);
        }
    }

    /// How many outcomes are remembered.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.ends.count()
    }

    /// Asserts that the tables agree with each other.
    pub(crate) fn check_invariants(&self) {
        let settled = self.entries.values().filter_map(|entry| match &entry.state {
            MessageState::Settled { outcome, .. } => Some(outcome.len() + ENTRY_OVERHEAD),
            MessageState::InFlight(_) => None,
        });
        assert_eq!(settled.clone().count(), self.ends.count());
        assert_eq!(settled.sum::<usize>(), self.bytes);
        assert!(self.ends.count() <= OUTCOMES_MAX && self.bytes <= BYTES_MAX);
        let waiters = self.entries.values().map(|entry| match &entry.state {
            MessageState::InFlight(waiters) => waiters.len(),
            MessageState::Settled { .. } => 0,
        });
        assert_eq!(waiters.sum::<usize>(), self.wait_counts.values().sum::<usize>());
        assert!(self.wait_counts.values().all(|count| *count > 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_outcomes_are_bounded_by_count_and_bytes() {
        let now = Instant::now();
        let conn = ConnId { slot: 0, serial: 1 };
        let key = |id: u64| DedupKey {
            sender: Sender::User(IdKey::Number(2)),
            client_id: IdKey::Number(id),
        };
        let is_known = |dedup: &mut Dedup, id| {
            matches!(dedup.find(&key(id), conn, now), DedupResult::Outcome(_))
        };
        for (bytes, kept) in [(100, 20_000), (64 << 10, 255), (17 << 20, 0)] {
            let mut dedup = Dedup::default();
            let frame: EncodedFrame = vec![0; bytes].into();
            for id in 0..20_010 {
                dedup.insert(key(id), now);
                dedup.settle(&key(id), &frame, true);
            }
            dedup.check_invariants();
            assert_eq!(dedup.count(), kept);
            let oldest = 20_010 - kept as u64;
            assert!(!is_known(&mut dedup, oldest - 1), "the oldest goes");
            assert!(kept == 0 || (is_known(&mut dedup, oldest) && is_known(&mut dedup, 20_009)));
            // None is forgotten too late, and not all in one go.
            let end = now + Duration::from_secs(600);
            let mut goes = 0;
            while dedup.forget(end) {
                goes += 1;
            }
            assert_eq!((dedup.count(), goes), (0, kept.div_ceil(256)));
            dedup.check_invariants();
        }
    }
}

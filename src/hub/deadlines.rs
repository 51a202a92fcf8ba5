//! Timers: one ordered table of deadlines, with exact cancellation and no stale entries.

use std::collections::BTreeMap;
use std::time::Instant;

/// Identifies an entry, to cancel it.
pub(super) type DeadlineKey = (Instant, u64);

/// Entries ordered by the time when they are due.
#[derive(Debug)]
pub(super) struct Deadlines<T> {
    due: BTreeMap<DeadlineKey, T>,
    serial: u64,
}

impl<T> Default for Deadlines<T> {
    fn default() -> Self {
        Deadlines { due: BTreeMap::new(), serial: 0 }
    }
}

impl<T> Deadlines<T> {
    /// Adds an entry that is due at `at`.
    pub(super) fn set(&mut self, at: Instant, what: T) -> DeadlineKey {
        self.serial += 1;
        self.due.insert((at, self.serial), what);
        (at, self.serial)
    }

    /// Removes an entry.
    pub(super) fn cancel(&mut self, key: DeadlineKey) {
        let known = self.due.remove(&key);
        debug_assert!(known.is_some(), "a deadline is cancelled once");
    }

    /// Returns the earliest time at which an entry is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// Takes the earliest entry that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<T> {
        self.next().filter(|at| *at <= now)?;
        self.due.pop_first().map(|(_, what)| what)
    }

    /// Returns how many entries are set.
    pub(super) fn count(&self) -> usize {
        self.due.len()
    }
}

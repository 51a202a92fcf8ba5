//! Things that are due at a time: one ordered table, exact removal, no stale entries.

use std::collections::BTreeMap;
use std::time::Instant;

/// Names one entry, to take it back.
pub type DeadlineKey = (Instant, u64);

/// What is due when.
#[derive(Debug)]
pub struct Deadlines<T> {
    due: BTreeMap<DeadlineKey, T>,
    serial: u64,
}

impl<T> Default for Deadlines<T> {
    fn default() -> Self {
        Deadlines { due: BTreeMap::new(), serial: 0 }
    }
}

impl<T> Deadlines<T> {
    /// Notes that `what` is due at `at`.
    pub fn set(&mut self, at: Instant, what: T) -> DeadlineKey {
        self.serial += 1;
        self.due.insert((at, self.serial), what);
        (at, self.serial)
    }

    /// Takes an entry back.
    pub fn cancel(&mut self, key: DeadlineKey) {
        let known = self.due.remove(&key);
        debug_assert!(known.is_some(), "a deadline is cancelled once");
    }

    /// The earliest, if any.
    pub fn next(&self) -> Option<Instant> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// Takes the earliest that is due at `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<T> {
        self.next().filter(|at| *at <= now)?;
        self.due.pop_first().map(|(_, what)| what)
    }

    /// How many are set.
    pub fn count(&self) -> usize {
        self.due.len()
    }
}

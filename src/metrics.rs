//! Metric types (counters and histograms) and the Prometheus page.
//!
//! Each module owns its own metrics. They are plain integers of the event loop's thread, without
//! locks and atomics, except for the lost log lines, which several threads count. The page is
//! rendered only when it is requested.

pub(crate) mod histogram;
pub(crate) mod page;

use std::sync::atomic::{AtomicU64, Ordering};

/// Log lines that were dropped because the reader of standard error was too slow.
pub(crate) static LOG_LINES_LOST: SharedCount = SharedCount(AtomicU64::new(0));

/// A counter that several threads increment.
#[derive(Debug)]
pub(crate) struct SharedCount(AtomicU64);

impl SharedCount {
    /// Adds one.
    pub(crate) fn record(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the current value.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Hits and misses of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HitCounter {
    /// Lookups that found a valid entry.
    pub hits: u64,
    /// Lookups that found no entry or an expired one.
    pub misses: u64,
}

impl HitCounter {
    /// Counts a hit or a miss.
    pub fn record(&mut self, hit: bool) {
        *if hit { &mut self.hits } else { &mut self.misses } += 1;
    }
}

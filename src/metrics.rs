//! What is counted, and the text in which a monitor reads it.
//!
//! Nothing here knows what the numbers mean. They are owned by whoever counts, on the loop's one
//! thread: plain integers, without locks and without atomics, but for what the log loses, which has
//! a thread of its own. The text is made only when it is asked for.

pub mod histogram;
pub mod page;

use std::sync::atomic::{AtomicU64, Ordering};

/// Lines of the log that nobody has read.
pub static LOG_LINES_LOST: SharedCount = SharedCount(AtomicU64::new(0));

/// A count of several threads.
#[derive(Debug)]
pub struct SharedCount(AtomicU64);

impl SharedCount {
    /// Counts one more.
    pub fn record(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often something was known already, and how often it had to be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HitCounter {
    /// It was known.
    pub hits: u64,
    /// It was not, or no longer.
    pub misses: u64,
}

impl HitCounter {
    /// Counts one more of either.
    pub fn record(&mut self, hit: bool) {
        *if hit { &mut self.hits } else { &mut self.misses } += 1;
    }
}

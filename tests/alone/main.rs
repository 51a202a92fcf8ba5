//! Tests that measure latency or memory, or that install a logger: they run one at a time.
//!
//! Cargo runs the test binaries one after another, and [`one_at_a_time`] keeps the tests of this
//! one from running in parallel.

#![allow(clippy::unwrap_used)]

use std::sync::{Mutex, MutexGuard, PoisonError};

#[path = "../support/mod.rs"]
mod support;

mod arrivals;
mod fairness;
mod gzip_bomb;
mod site_log;

/// Returns a guard that a test holds until it ends.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

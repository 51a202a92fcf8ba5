//! A reply that decompresses to a gigabyte costs little memory and time.
//!
//! The test measures the memory of its own process, so no other test may run beside it.

use std::time::{Duration, Instant};

use buddyline::hub::interface::Failure;

use crate::one_at_a_time;
use crate::support::driver::{PoolDriver, UNAVAILABLE, failed, list, post, prove, stored};
use crate::support::site::{Fault, Site};

/// Resets the peak that [`peak`] returns, so that earlier tests do not count (proc(5),
/// `clear_refs`).
fn reset_peak() {
    // If the system does not support it, the peak is that of the whole process.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The peak of this process's resident memory in bytes; `None` if the system does not report it.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? << 10)
}

#[test]
fn gigabyte_gzip_bomb_costs_little_memory_and_time() {
    let _alone = one_at_a_time();
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.fail_next(Fault::GzipBomb(0));
    assert_eq!(failed(driver.ask(post(1, "x"))), Failure::Unknown);
    reset_peak();
    let before = peak();
    let begun = Instant::now();
    // 1 GiB out of 6.8 MB.
    site.fail_next(Fault::GzipBomb(1 << 30));
    assert_eq!(failed(driver.ask(post(1, "x"))), Failure::Unknown);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    if let (Some(before), Some(after)) = (before, peak()) {
        let grown = after - before;
        // The compressed answer, which the test site copies twice, and the 4 MiB limit of an
        // answer.
        assert!(grown < 48 << 20, "{} MiB more", grown >> 20);
    }
    stored(driver.ask(post(2, "after the bomb")));
    site.fail_when(|_, r| r.header("authorization").map(|_| Fault::GzipBomb(1 << 30)));
    assert_eq!(failed(driver.ask(prove("user-7"))), UNAVAILABLE);
    assert_eq!(failed(driver.ask(list(1, "user-7"))), UNAVAILABLE);
    assert!(
        driver.pool.is_available(),
        "a long answer does not open the breaker: the texts of a thread can cause it"
    );
}

//! An answer that grows without measure, in a process of its own: it looks at its memory.

use std::time::{Duration, Instant};

use buddyline::hub::interface::Failure;

use crate::one_at_a_time;
use crate::support::driver::{PoolDriver, UNAVAILABLE, failed, list, post, prove, stored};
use crate::support::site::{Fault, Site};

/// The largest that this process has ever been, in bytes; `None` where the system does not say.
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
    let before = peak();
    let begun = Instant::now();
    // 1 GiB out of 6.8 MB.
    site.fail_next(Fault::GzipBomb(1 << 30));
    assert_eq!(failed(driver.ask(post(1, "x"))), Failure::Unknown);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    if let (Some(before), Some(after)) = (before, peak()) {
        let grown = after - before;
        // The bomb itself, which the site here copies twice, and our 4 MiB.
        assert!(grown < 48 << 20, "{} MiB more", grown >> 20);
    }
    stored(driver.ask(post(2, "and it goes on")));
    site.fail_when(|_, r| r.header("authorization").map(|_| Fault::GzipBomb(1 << 30)));
    assert_eq!(failed(driver.ask(prove("user-7"))), UNAVAILABLE);
    assert_eq!(failed(driver.ask(list(1, "user-7"))), UNAVAILABLE);
    assert!(driver.pool.is_available(), "a thread's texts can make an answer too long");
}

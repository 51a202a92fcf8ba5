//! What a process of this machine has used, from `/proc` (proc(5)).

use std::fs;
use std::io;
use std::time::Duration;

/// A clock tick, as `/proc` counts them on every machine that this runs on (`USER_HZ`).
const TICK_MS: u64 = 10;

/// Processor time so far of all threads, in user and system mode.
///
/// # Errors
///
/// There is no such process, or this system has no `/proc`.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Duration::from_millis(ticks * TICK_MS))
}

/// Resident memory in KiB: from `status`, which needs no page size as `statm` does.
///
/// # Errors
///
/// As above.
pub fn resident_kib(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    parse_rss(&status).ok_or(io::ErrorKind::InvalidData.into())
}

fn ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything.
    let mut fields = stat[stat.rfind(')')?..].split_ascii_whitespace().skip(12);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn parse_rss(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_stat_is_parsed_behind_an_odd_process_name() {
        let stat = "7 (a) b ) S 1 2 3 4 5 6 7 8 9 10 31 11 0 0 20";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a) S 1"), None);
        assert_eq!(parse_rss("Name:\tx\nVmRSS:\t  1234 kB\n"), Some(1_234));
    }
}

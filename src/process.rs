//! Processor time and memory of a process on this machine, from `/proc` (proc(5)).

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use procfs::process::Process;

/// Says what to do if the system starts no further thread.
pub(crate) fn explain_thread_fault(what: &str, fault: &io::Error) -> String {
    format!(
        "{what} cannot be started: {fault}. Raise the limit of processes and threads (ulimit -u, \
         TasksMax= of the unit, pids of a container) or of memory"
    )
}

/// Returns the processor time that all threads have used so far, in user and system mode.
///
/// # Errors
///
/// There is no such process, or this system has no `/proc`.
pub(crate) fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = open(pid)?.stat().map_err(io::Error::other)?;
    let ticks = stat.utime + stat.stime;
    Ok(Duration::from_millis(ticks * 1_000 / procfs::ticks_per_second()))
}

/// Returns the resident memory in KiB: from `status`, which needs no page size as `statm` does.
///
/// # Errors
///
/// As for [`cpu_time`].
pub(crate) fn resident_kib(pid: u32) -> io::Result<u64> {
    let status = open(pid)?.status().map_err(io::Error::other)?;
    status.vmrss.ok_or(io::ErrorKind::InvalidData.into())
}

fn open(pid: u32) -> io::Result<Process> {
    // `Process::new` takes a signed id.
    Process::new_with_root(PathBuf::from(format!("/proc/{pid}"))).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_has_time_and_memory_and_pid_zero_does_not_exist() {
        let own = std::process::id();
        assert!(cpu_time(own).is_ok());
        assert!(resident_kib(own).unwrap() > 100);
        assert!(resident_kib(0).is_err());
    }
}

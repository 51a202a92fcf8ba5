//! Collects the observations of this machine: ports and limits.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use procfs::net::TcpState;
use procfs::process::{self, FDTarget, Process};

use super::REFUSED;
use crate::config::Config;
use crate::config::limits::UNLIMITED;
use crate::doctor::health::HealthTarget;
use crate::doctor::observations::MachineObservation;

/// The default of `--listen`.
const DEFAULT_LISTEN: &str = "localhost:8080";
/// The time limit of a request to this machine.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Examines the machine. A free port is occupied for a moment; no connection is accepted on it.
pub(crate) fn collect(config: &Config) -> MachineObservation {
    let mut listens = Vec::new();
    let mut is_ours = false;
    let mut holder = None;
    for listen in &config.listen {
        if let Some(path) = listen.unix_path() {
            let result = check_path(path).map_err(|error| error.kind());
            is_ours |=
                result == Err(ErrorKind::AddrInUse) && is_ours_at(&HealthTarget::socket(path));
            listens.push((listen.name.clone(), result));
        }
        // A name that cannot be resolved has ended the program before.
        for address in listen.resolve().unwrap_or_default() {
            let result = TcpListener::bind(address).map(drop).map_err(|error| error.kind());
            if result == Err(ErrorKind::AddrInUse) {
                is_ours |= is_our_port(address);
                holder = holder.or_else(|| find_holder(address.port()));
            }
            listens.push((address.to_string(), result));
        }
    }
    let reserved = config.reserved_descriptors() as u64;
    let connections = config.limits().max_connections;
    let wanted = (connections != UNLIMITED).then_some(connections as u64 + reserved);
    // The server raises the soft limit itself, up to the hard limit.
    let limit = rlimit::getrlimit(rlimit::Resource::NOFILE).map(|(_, hard)| hard);
    let limit = limit.map(|hard| config.nofile.map_or(hard, |wanted| hard.min(wanted)));
    MachineObservation {
        is_ours,
        holder,
        is_default: config.listen.iter().map(|listen| &*listen.name).eq([DEFAULT_LISTEN]),
        listens,
        files: limit.map_err(|error| error.to_string()),
        files_wanted: wanted,
        files_reserved: reserved,
    }
}

/// Whether a Unix socket can be created: its folder exists, and nothing else has its name.
fn check_path(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            fs::metadata(folder.unwrap_or(Path::new("."))).map(drop)
        }
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(ErrorKind::AlreadyExists.into()),
        // A server without a clean end may have left it; then a new one replaces it.
        Ok(_) => match HealthTarget::socket(path).ask(LOCAL_TIMEOUT) {
            Err(reason) if reason == REFUSED => Ok(()),
            _ => Err(ErrorKind::AddrInUse.into()),
        },
    }
}

/// The program that listens on a TCP port, such as `nginx (pid 412)`. Only root sees the programs
/// of other users.
fn find_holder(port: u16) -> Option<String> {
    let tables = [procfs::net::tcp(), procfs::net::tcp6()];
    let sockets: Vec<u64> = tables
        .into_iter()
        .flatten()
        .flatten()
        .filter(|socket| socket.state == TcpState::Listen && socket.local_address.port() == port)
        .map(|socket| socket.inode)
        .collect();
    let holds = |process: &Process| {
        let mut files = process.fd().into_iter().flatten().flatten();
        files.any(|file| matches!(file.target, FDTarget::Socket(it) if sockets.contains(&it)))
    };
    let mut processes = process::all_processes().ok().filter(|_| !sockets.is_empty())?;
    let holder = processes.find_map(|process| process.ok().filter(holds))?;
    let name: String = holder.stat().ok()?.comm.chars().filter(|c| !c.is_control()).collect();
    Some(format!("{name} (pid {})", holder.pid))
}

/// Whether a buddyline server answers at this address.
fn is_our_port(address: SocketAddr) -> bool {
    let mut to = address;
    if to.ip().is_unspecified() {
        to.set_ip(match to.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    is_ours_at(&HealthTarget::local(to))
}

/// Whether the response to `GET /healthz` is that of a buddyline server.
fn is_ours_at(target: &HealthTarget) -> bool {
    target.ask(LOCAL_TIMEOUT).is_ok_and(|(status, line)| status == 200 && line == "ok")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_that_holds_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let pid = format!("(pid {})", std::process::id());
        let holder = find_holder(port).unwrap();
        assert!(holder.ends_with(&pid) && !holder.starts_with(' '), "{holder}");
        drop(listener);
        assert_eq!(find_holder(port), None);
    }
}

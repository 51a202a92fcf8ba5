//! Collects the observations of this machine: ports and limits.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::config::Config;
use crate::config::limits::UNLIMITED;
use crate::doctor::observations::MachineObservation;

/// The time limit of each step of a request to this machine.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Far more than the reply to `GET /healthz`.
const REPLY_BYTES_MAX: usize = 4 << 10;

/// Examines the machine. A free port is occupied for a moment; no connection is accepted on it.
pub(crate) fn collect(config: &Config) -> MachineObservation {
    let listens: Vec<(SocketAddr, Result<(), ErrorKind>)> = config
        .listen
        .resolve()
        // A name that cannot be resolved has ended the program before.
        .unwrap_or_default()
        .iter()
        .map(|address| {
            let result = TcpListener::bind(address).map(drop).map_err(|error| error.kind());
            (*address, result)
        })
        .collect();
    let taken = listens.iter().find(|(_, result)| *result == Err(ErrorKind::AddrInUse));
    let reserved = config.reserved_descriptors() as u64;
    let connections = config.limits().max_connections;
    let wanted = (connections != UNLIMITED).then_some(connections as u64 + reserved);
    // The server raises the soft limit itself, up to the hard limit.
    let limit = rlimit::getrlimit(rlimit::Resource::NOFILE).map(|(_, hard)| hard);
    let limit = limit.map(|hard| config.nofile.map_or(hard, |wanted| hard.min(wanted)));
    MachineObservation {
        is_ours: taken.is_some_and(|(address, _)| is_ours(*address)),
        listens,
        files: limit.map_err(|error| error.to_string()),
        files_wanted: wanted,
        files_reserved: reserved,
    }
}

/// Whether the reply to `GET /healthz` at this address is that of a buddyline server.
fn is_ours(address: SocketAddr) -> bool {
    let mut to = address;
    if to.ip().is_unspecified() {
        to.set_ip(match to.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let request = || {
        let mut socket = TcpStream::connect_timeout(&to, LOCAL_TIMEOUT)?;
        socket.set_read_timeout(Some(LOCAL_TIMEOUT))?;
        socket.set_write_timeout(Some(LOCAL_TIMEOUT))?;
        socket
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        // A single read: a server that sends one byte a second must not hold up the check.
        let mut reply = vec![0; REPLY_BYTES_MAX];
        let length = socket.read(&mut reply)?;
        reply.truncate(length);
        Ok::<_, std::io::Error>(reply)
    };
    request()
        .is_ok_and(|reply| reply.starts_with(b"HTTP/1.1 200 ") && reply.ends_with(b"\r\n\r\nok\n"))
}

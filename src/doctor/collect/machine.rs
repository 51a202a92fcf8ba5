//! This machine: its ports and its limits.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::config::Config;
use crate::config::limits::UNLIMITED;
use crate::doctor::observations::MachineObservation;

/// For an answer of this machine to itself.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Far more than the answer of `GET /healthz` has.
const ANSWER_BYTES_MAX: u64 = 4 << 10;

/// Looks. A port that is free is taken for a moment; nobody is accepted on it.
pub fn collect(config: &Config) -> MachineObservation {
    let listens: Vec<(SocketAddr, Result<(), ErrorKind>)> = config
        .listen
        .resolve()
        // Whoever could not be found has ended the start.
        .unwrap_or_default()
        .iter()
        .map(|address| {
            let came = TcpListener::bind(address).map(drop).map_err(|fault| fault.kind());
            (*address, came)
        })
        .collect();
    let taken = listens.iter().find(|(_, came)| *came == Err(ErrorKind::AddrInUse));
    let reserved = config.reserved_descriptors() as u64;
    let connections = config.limits().max_connections;
    let wanted = (connections != UNLIMITED).then_some(connections as u64 + reserved);
    // The server raises the soft limit itself, as far as the hard one lets it.
    let most = rlimit::getrlimit(rlimit::Resource::NOFILE).map(|(_, hard)| hard);
    let most = most.map(|hard| config.nofile.map_or(hard, |asked| hard.min(asked)));
    MachineObservation {
        is_ours: taken.is_some_and(|(address, _)| is_ours(*address)),
        listens,
        files: most.map_err(|fault| fault.to_string()),
        files_wanted: wanted,
        files_reserved: reserved,
    }
}

/// Whether the health page of this server answers there.
fn is_ours(address: SocketAddr) -> bool {
    let mut to = address;
    if to.ip().is_unspecified() {
        to.set_ip(match to.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let answer = || {
        let mut socket = TcpStream::connect_timeout(&to, LOCAL_TIMEOUT)?;
        socket.set_read_timeout(Some(LOCAL_TIMEOUT))?;
        socket.set_write_timeout(Some(LOCAL_TIMEOUT))?;
        socket
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        // One that drips would hold this for a second a byte: the first piece has to do.
        let mut piece = [0; ANSWER_BYTES_MAX as usize];
        let read = socket.read(&mut piece)?;
        answer.extend_from_slice(&piece[..read]);
        Ok::<_, std::io::Error>(answer)
    };
    answer().is_ok_and(|answer| {
        answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"\r\n\r\nok\n")
    })
}

//! Listening sockets: binding, inheriting and accepting.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use nix::{libc, sys::socket::setsockopt};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::unix_socket::{self, SocketPath};
use crate::config::proxies::Peer;
use crate::config::unix_socket::SocketFile;
use crate::config::{Config, Listen};
use crate::connection::Stream;

/// Backlog of connections that wait to be accepted; the system's own limit may be lower.
pub(super) const BACKLOG: i32 = 4096;

/// Idle time before the first TCP keep-alive probe, and the interval of further probes. A phone
/// that has lost its network is detected after about two minutes.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(20);

/// `TCP_DEFER_ACCEPT` of tcp(7): seconds for which the kernel holds back a connection until its
/// first bytes arrive.
#[derive(Clone)]
struct DeferAccept;

nix::setsockopt_impl!(
    DeferAccept,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    usize,
    nix::sys::socket::sockopt::SetUsize
);

/// A client that sends nothing is accepted after this time, and then has the handshake timeout.
const DEFER_ACCEPT_S: usize = 1;

/// The most listening sockets of one kind; names and repeated settings have far fewer.
const LISTENERS_MAX: usize = 256;

/// A listening socket that the service manager has passed on.
#[derive(Debug)]
pub enum InheritedSocket {
    /// A TCP socket.
    Tcp(std::net::TcpListener),
    /// A Unix socket. Its file belongs to the service manager.
    Unix(std::os::unix::net::UnixListener),
}

/// How addresses are bound.
#[derive(Debug)]
pub(super) struct BindOptions {
    /// Whether `[::]` takes no IPv4 connections.
    ipv6_only: bool,
    /// Mode and owner of Unix sockets.
    socket_file: SocketFile,
    backlog: i32,
}

impl BindOptions {
    pub(super) fn new(config: &Config, backlog: i32) -> BindOptions {
        BindOptions { ipv6_only: config.ipv6_only, socket_file: config.socket_file(), backlog }
    }
}

/// All listeners, each with whether connections may be waiting.
pub(super) struct Listeners {
    all: Vec<(Listener, bool)>,
    /// The service manager has created them, and keeps them open when this process ends.
    inherited: bool,
}

enum Listener {
    Tcp(TcpListener),
    /// With the file, unless the service manager has created it.
    Unix(UnixListener, Option<SocketPath>),
}

impl Listener {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Listener::Tcp(listener) => listener,
            Listener::Unix(listener, _) => listener,
        }
    }

    fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Listener::Tcp(listener) => {
                let (socket, peer) = listener.accept()?;
                Ok((socket.into(), Peer::Address(peer.ip().to_canonical())))
            }
            Listener::Unix(listener, _) => Ok((listener.accept()?.0.into(), Peer::Unix)),
        }
    }
}

impl Listeners {
    /// Listens on each address. Listener number n gets the token `first - n`.
    pub(super) fn bind(
        listens: &[Listen],
        options: &BindOptions,
        registry: &Registry,
        first: usize,
    ) -> io::Result<Listeners> {
        let mut listeners = Listeners { all: Vec::new(), inherited: false };
        let resolved: io::Result<Vec<_>> = listens
            .iter()
            .map(|listen| Ok((listen, listen.resolve().map_err(io::Error::other)?)))
            .collect();
        let resolved = resolved?;
        let all: Vec<SocketAddr> =
            resolved.iter().flat_map(|(_, addresses)| addresses.iter().copied()).collect();
        let mut bound = Vec::new();
        for (listen, addresses) in &resolved {
            match listen.unix_path() {
                Some(path) if listeners.has_path(path) => {}
                Some(path) => {
                    let (socket, path) = unix_socket::bind(path, &options.socket_file)?;
                    listeners.add_unix(socket, Some(path), registry, first)?;
                }
                None => {
                    // An address may be given twice, or be one of two names.
                    let new: Vec<SocketAddr> = addresses
                        .iter()
                        .copied()
                        .filter(|address| address.port() == 0 || !bound.contains(address))
                        .collect();
                    listeners.bind_name(&new, &all, options, registry, first)?;
                    bound.extend(new);
                }
            }
        }
        Ok(listeners)
    }

    /// Listens on the addresses of one name. `all` has those of the other names as well.
    ///
    /// A name such as localhost may resolve to an address family that this system lacks. It is
    /// enough that one address works, but an address in use is an error.
    fn bind_name(
        &mut self,
        addresses: &[SocketAddr],
        all: &[SocketAddr],
        options: &BindOptions,
        registry: &Registry,
        first: usize,
    ) -> io::Result<()> {
        let before = self.all.len();
        let mut absent = None;
        for address in addresses {
            let only_v6 = options.ipv6_only || !is_dual_stack(*address, all);
            let bound = bind(*address, only_v6, options.backlog)
                .map_err(|fault| (fault.kind(), with_address(*address, &fault)));
            match bound {
                Ok(listener) => self.add(Listener::Tcp(listener), registry, first)?,
                Err((io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported, fault)) => {
                    log::debug!("{fault}");
                    absent = Some(fault);
                }
                Err((_, fault)) if address.is_ipv6() && addresses.iter().any(|a| a.is_ipv4()) => {
                    // EAFNOSUPPORT has no `ErrorKind`: any other error counts as an absent family.
                    if fault.kind() == io::ErrorKind::AddrInUse {
                        return Err(fault);
                    }
                    log::debug!("{fault}");
                    absent = Some(fault);
                }
                Err((_, fault)) => return Err(fault),
            }
        }
        match (self.all.len() == before, absent) {
            (true, Some(fault)) => Err(fault),
            _ => Ok(()),
        }
    }

    /// Takes over listening sockets. Their tokens are as in [`Listeners::bind`].
    pub(super) fn inherit(
        sockets: Vec<InheritedSocket>,
        registry: &Registry,
        first: usize,
    ) -> io::Result<Listeners> {
        let mut listeners = Listeners { all: Vec::new(), inherited: true };
        for socket in sockets {
            match socket {
                InheritedSocket::Tcp(socket) => {
                    let socket = Socket::from(socket);
                    prepare(&socket)?;
                    let listener = TcpListener::from_std(socket.into());
                    listeners.add(Listener::Tcp(listener), registry, first)?;
                }
                InheritedSocket::Unix(socket) => {
                    listeners.add_unix(socket, None, registry, first)?
                }
            }
        }
        Ok(listeners)
    }

    fn add_unix(
        &mut self,
        socket: std::os::unix::net::UnixListener,
        path: Option<SocketPath>,
        registry: &Registry,
        first: usize,
    ) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        self.add(Listener::Unix(UnixListener::from_std(socket), path), registry, first)
    }

    fn add(&mut self, mut listener: Listener, registry: &Registry, first: usize) -> io::Result<()> {
        if self.all.len() >= LISTENERS_MAX {
            let fault = format!("cannot listen on more than {LISTENERS_MAX} addresses");
            return Err(io::Error::other(fault));
        }
        let token = Token(first - self.all.len());
        registry.register(listener.source(), token, Interest::READABLE)?;
        self.all.push((listener, true));
        Ok(())
    }

    fn has_path(&self, path: &Path) -> bool {
        self.all.iter().any(|(listener, _)| {
            matches!(listener, Listener::Unix(_, Some(bound)) if bound.path() == path)
        })
    }

    /// Whether the service manager keeps the sockets open for the next server.
    pub(super) fn are_inherited(&self) -> bool {
        self.inherited
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The addresses of the TCP listeners.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let address = |listener: &Listener| match listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        };
        self.all.iter().filter_map(|(listener, _)| address(listener)).collect()
    }

    /// Logs where `what` is served on `http_path`. Warns, with the risk, of each address of `flag`
    /// that is not a loopback address: there is no TLS on it.
    pub(super) fn log_plain_http(&self, what: &str, http_path: &str, flag: &str, risk: &str) {
        for path in self.paths() {
            log::info!("{what} on unix:{}", path.display());
        }
        for address in self.addresses() {
            log::info!("{what} on http://{address}{http_path}");
            if !address.ip().is_loopback() {
                log::warn!("{flag} {address}: {risk}");
            }
        }
    }

    /// The paths of the Unix sockets.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let path = |listener: &Listener| match listener {
            // Its own address is the name that it had before it was renamed.
            Listener::Unix(_, Some(path)) => Some(path.path().to_owned()),
            Listener::Unix(listener, None) => {
                listener.local_addr().ok()?.as_pathname().map(Path::to_owned)
            }
            Listener::Tcp(_) => None,
        };
        self.all.iter().filter_map(|(listener, _)| path(listener)).collect()
    }

    pub(super) fn note_ready(&mut self, number: usize) {
        if let Some((_, ready)) = self.all.get_mut(number) {
            *ready = true;
        }
    }

    /// Whether a connection may be waiting.
    pub(super) fn has_more(&self) -> bool {
        self.all.iter().any(|(_, ready)| *ready)
    }

    /// Accepts the next connection, or returns `None` if no listener has one. The peer's address is
    /// canonical: an IPv4 address is returned as such even on an IPv6 listener.
    ///
    /// # Errors
    ///
    /// The system cannot accept now, for lack of descriptors or memory. The listener still counts
    /// as ready: readiness is edge-triggered, and no event will report that descriptors are free
    /// again.
    pub(super) fn accept(&mut self) -> io::Result<Option<(Stream, Peer)>> {
        for (listener, ready) in self.all.iter_mut().filter(|(_, ready)| *ready) {
            loop {
                match listener.accept() {
                    Ok(accepted) => return Ok(Some(accepted)),
                    Err(fault) => match fault.kind() {
                        io::ErrorKind::WouldBlock => {
                            *ready = false;
                            break;
                        }
                        // The client left before it was accepted.
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                        _ => return Err(fault),
                    },
                }
            }
        }
        Ok(None)
    }

    /// Stops listening.
    pub(super) fn close(&mut self, registry: &Registry) {
        for (mut listener, _) in self.all.drain(..) {
            // Dropping it closes it in any case.
            let _ = registry.deregister(listener.source());
        }
    }
}

/// Whether a listener takes IPv4 connections as well: that of `[::]`, unless an IPv4 address with
/// the same port is bound separately.
fn is_dual_stack(address: SocketAddr, all: &[SocketAddr]) -> bool {
    let is_taken = |other: &SocketAddr| other.is_ipv4() && other.port() == address.port();
    address.is_ipv6()
        && address.ip().is_unspecified()
        && (address.port() == 0 || !all.iter().any(is_taken))
}

fn bind(address: SocketAddr, only_v6: bool, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.set_reuse_address(true)?;
    prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Sets options that accepted sockets inherit, which saves system calls for each.
fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE_AFTER);
    socket.set_tcp_keepalive(&keep_alive.with_interval(KEEP_ALIVE_EVERY).with_retries(3))?;
    // The request has arrived when a connection is accepted, which saves an event and a read.
    if let Err(fault) = setsockopt(socket, DeferAccept, &DEFER_ACCEPT_S) {
        log::debug!("cannot set TCP_DEFER_ACCEPT: {fault}");
    }
    socket.set_nonblocking(true)
}

fn with_address(address: SocketAddr, fault: &io::Error) -> io::Error {
    io::Error::new(fault.kind(), format!("cannot listen on {address}: {fault}"))
}

/// Closes a new socket, after writing a response if there is one. The write does not wait: a client
/// that misses the response sees the close.
pub(super) fn refuse(socket: &Stream, response: Option<String>) {
    if let Some(response) = response {
        let _ = socket.send(response.as_bytes());
    }
}

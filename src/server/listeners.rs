//! Listening sockets: binding, inheriting and accepting.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use nix::{libc, sys::socket::setsockopt};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

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

/// All listeners, each with whether connections may be waiting.
pub(super) struct Listeners {
    all: Vec<(TcpListener, bool)>,
    /// The service manager has created them, and keeps them open when this process ends.
    inherited: bool,
}

impl Listeners {
    /// Listens on each address with this backlog. Listener number n gets the token `first - n`.
    ///
    /// A name such as localhost may resolve to an address family that this system lacks. It is
    /// enough that one address works, but an address in use is an error.
    pub(super) fn bind(
        addresses: &[SocketAddr],
        backlog: i32,
        registry: &Registry,
        first: usize,
    ) -> io::Result<Listeners> {
        let mut listeners = Listeners { all: Vec::new(), inherited: false };
        let mut absent = None;
        for address in addresses {
            let bound = bind(*address, backlog)
                .map_err(|fault| (fault.kind(), with_address(*address, &fault)));
            match bound {
                Ok(listener) => listeners.add(listener, registry, first)?,
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
        match (listeners.all.is_empty(), absent) {
            (true, Some(fault)) => Err(fault),
            _ => Ok(listeners),
        }
    }

    /// Takes over listening sockets. Their tokens are as in [`Listeners::bind`].
    pub(super) fn inherit(
        sockets: Vec<std::net::TcpListener>,
        registry: &Registry,
        first: usize,
    ) -> io::Result<Listeners> {
        let mut listeners = Listeners { all: Vec::new(), inherited: true };
        for socket in sockets {
            let socket = Socket::from(socket);
            prepare(&socket)?;
            listeners.add(TcpListener::from_std(socket.into()), registry, first)?;
        }
        Ok(listeners)
    }

    fn add(
        &mut self,
        mut listener: TcpListener,
        registry: &Registry,
        first: usize,
    ) -> io::Result<()> {
        let token = Token(first - self.all.len());
        registry.register(&mut listener, token, Interest::READABLE)?;
        self.all.push((listener, true));
        Ok(())
    }

    /// Whether the service manager keeps the sockets open for the next server.
    pub(super) fn are_inherited(&self) -> bool {
        self.inherited
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.all.iter().filter_map(|(listener, _)| listener.local_addr().ok()).collect()
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
    pub(super) fn accept(&mut self) -> io::Result<Option<(TcpStream, IpAddr)>> {
        for (listener, ready) in self.all.iter_mut().filter(|(_, ready)| *ready) {
            loop {
                match listener.accept() {
                    Ok((socket, peer)) => return Ok(Some((socket, peer.ip().to_canonical()))),
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
            let _ = registry.deregister(&mut listener);
        }
    }
}

fn bind(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // The IPv4 address is bound separately.
        socket.set_only_v6(true)?;
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
pub(super) fn refuse(mut socket: TcpStream, response: Option<String>) {
    if let Some(response) = response {
        let _ = socket.write(response.as_bytes());
    }
}

//! The way to a host: its name, a connection, TLS.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::ClientConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConnection, Error, RootCertStore, StreamOwned};

use super::{TimeBudget, now_s};
use crate::doctor::observations::{Reachability, Tls};

/// A certificate that ends within this is worth a word: those of Let's Encrypt are renewed 30 days
/// before their end.
const EXPIRES_SOON_S: u64 = 14 * 24 * 60 * 60;
/// The longest part of a library's words that is told, in characters.
const WORDS_MAX: usize = 160;

/// A socket that is used until a time, and not a moment longer: a library that reads until it has
/// a whole record or frame would let a peer that drips keep it for ever.
pub struct DeadlineSocket {
    socket: TcpStream,
    until: Instant,
}

impl DeadlineSocket {
    fn remaining(&self) -> io::Result<Duration> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }
}

impl Read for DeadlineSocket {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.remaining()?))?;
        self.socket.read(to)
    }
}

impl Write for DeadlineSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.remaining()?))?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// A connection, with or without TLS.
pub enum Stream {
    /// Without.
    Plain(DeadlineSocket),
    /// With.
    Tls(Box<StreamOwned<ClientConnection, DeadlineSocket>>),
}

impl Stream {
    /// It is used until then.
    pub fn set_deadline(&mut self, until: Instant) {
        match self {
            Stream::Plain(timed) => timed.until = until,
            Stream::Tls(stream) => stream.sock.until = until,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(to),
            Stream::Tls(stream) => stream.read(to),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// Goes all the way; the stream is there if all of it works.
pub fn open_stream(
    host: &str,
    port: u16,
    secure: bool,
    time: TimeBudget,
) -> (Reachability, Option<Stream>) {
    let mut reachability =
        Reachability { host: host.to_owned(), port, secure, ..Reachability::default() };
    let Some(left) = time.remaining() else { return (reachability, None) };
    let addresses = resolve(host, port, left);
    let targets = addresses.clone();
    reachability.addresses = Some(addresses.map(|all| all.iter().map(SocketAddr::ip).collect()));
    let (Ok(targets), Some(left)) = (targets, time.remaining()) else {
        return (reachability, None);
    };
    let socket = match connect(&targets, left) {
        Ok((socket, to, took)) => {
            reachability.connected = Some(Ok((to, took)));
            socket
        }
        Err(why) => {
            reachability.connected = Some(Err(why));
            return (reachability, None);
        }
    };
    if !secure {
        return (
            reachability,
            Some(Stream::Plain(DeadlineSocket { socket, until: Instant::now() })),
        );
    }
    let Some(left) = time.remaining() else { return (reachability, None) };
    match tls_handshake(socket, host, left, root_store(), 0) {
        Ok(stream) => {
            let version = stream.conn.protocol_version().and_then(|version| version.as_str());
            let version = version.unwrap_or("TLS").replace("TLSv1_", "TLSv1.");
            reachability.tls =
                Some(Tls::Works { version, expires_soon: expires_soon(&reachability, time) });
            (reachability, Some(Stream::Tls(Box::new(stream))))
        }
        Err(fault) => {
            reachability.tls = Some(fault);
            (reachability, None)
        }
    }
}

/// Looks a name up. The system's resolver cannot be told how long it may take, so it has a thread
/// of its own, which ends when it gives up, or with the program.
fn resolve(host: &str, port: u16, within: Duration) -> Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let (tx, rx) = channel();
    let name = host.to_owned();
    let collect = move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
        // Nobody listens any more if it took too long.
        let _ = tx.send(found);
    };
    if thread::Builder::new().name("resolver".into()).spawn(collect).is_err() {
        return Err("no thread could be started to look it up".to_owned());
    }
    match rx.recv_timeout(within) {
        Ok(Ok(addresses)) => {
            let mut addresses: Vec<SocketAddr> = addresses;
            let mut known = Vec::new();
            // In the resolver's order, which is the order in which they are tried.
            addresses.retain(|address| {
                let new = !known.contains(address);
                known.push(*address);
                new
            });
            if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
        }
        Ok(Err(fault)) => Err(sanitize(&fault.to_string())),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            Err(format!("the resolver has no answer after {} s", within.as_secs()))
        }
    }
}

/// Connects to the first address that lets it, and gives each its share of the time.
fn connect(
    targets: &[SocketAddr],
    within: Duration,
) -> Result<(TcpStream, SocketAddr, Duration), String> {
    let mut why = "it has no address".to_owned();
    let share = within / u32::try_from(targets.len()).unwrap_or(u32::MAX).max(1);
    for target in targets {
        let begun = Instant::now();
        match TcpStream::connect_timeout(target, share.max(Duration::from_millis(1))) {
            Ok(socket) => return Ok((socket, *target, begun.elapsed())),
            Err(fault) => why = describe_error(&fault),
        }
    }
    Err(why)
}

/// The authorities that the server's own client believes.
fn root_store() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

/// A TLS handshake as it would be so many seconds later, by the clock that certificates are held
/// to.
fn tls_handshake(
    socket: TcpStream,
    host: &str,
    within: Duration,
    roots: RootCertStore,
    later_s: u64,
) -> Result<StreamOwned<ClientConnection, DeadlineSocket>, Tls> {
    let failed = |fault: &dyn std::fmt::Display| Tls::Failed(sanitize(&fault.to_string()));
    let name = ServerName::try_from(host.to_owned()).map_err(|fault| failed(&fault))?;
    let provider = Arc::new(default_provider());
    let config = ClientConfig::builder_with_details(provider, Arc::new(ShiftedClock(later_s)))
        .with_safe_default_protocol_versions()
        .map_err(|fault| failed(&fault))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let conn = ClientConnection::new(Arc::new(config), name).map_err(|fault| failed(&fault))?;
    let mut stream =
        StreamOwned { conn, sock: DeadlineSocket { socket, until: Instant::now() + within } };
    while stream.conn.is_handshaking() {
        handshake_step(&mut stream).map_err(|fault| tls_fault(&fault))?;
    }
    Ok(stream)
}

/// What there is to write of a handshake, and one read.
fn handshake_step(stream: &mut StreamOwned<ClientConnection, DeadlineSocket>) -> io::Result<()> {
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut stream.sock)?;
    }
    if stream.conn.is_handshaking() && stream.conn.wants_read() {
        if stream.conn.read_tls(&mut stream.sock)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Err(fault) = stream.conn.process_new_packets() {
            // The alert, so that the other end knows as well.
            let _ = stream.conn.write_tls(&mut stream.sock);
            return Err(io::Error::new(io::ErrorKind::InvalidData, fault));
        }
    }
    Ok(())
}

/// Whether the certificate no longer holds in two weeks, by a second handshake then.
fn expires_soon(reachability: &Reachability, time: TimeBudget) -> bool {
    let (Some(Ok((to, _))), Some(left)) = (&reachability.connected, time.remaining()) else {
        return false;
    };
    let Ok(socket) = TcpStream::connect_timeout(to, left) else { return false };
    let later = tls_handshake(socket, &reachability.host, left, root_store(), EXPIRES_SOON_S);
    matches!(later, Err(Tls::Certificate(why)) if why == EXPIRED)
}

const EXPIRED: &str = "it has expired";

fn tls_fault(fault: &io::Error) -> Tls {
    let inner = fault.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(why)) => Tls::Certificate(match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => EXPIRED.into(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "it is not valid yet, or this machine's clock is wrong".into()
            }
            CertificateError::UnknownIssuer => {
                "its authority is not known, or the chain to it is not whole".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "it is for another name".into()
            }
            CertificateError::Revoked => "it has been revoked".into(),
            other => sanitize(&format!("{other:?}")),
        }),
        Some(Error::InvalidMessage(_)) => Tls::NoTls,
        Some(other) => Tls::Failed(sanitize(&other.to_string())),
        None => Tls::Failed(describe_error(fault)),
    }
}

/// What went wrong with a socket.
pub fn describe_error(fault: &io::Error) -> String {
    use io::ErrorKind as Kind;
    match fault.kind() {
        Kind::ConnectionRefused => "the connection is refused".into(),
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => {
            "the connection is reset".into()
        }
        Kind::TimedOut | Kind::WouldBlock => "it takes too long".into(),
        Kind::UnexpectedEof => "the connection is closed without an answer".into(),
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
            "there is no way to the host".into()
        }
        _ => sanitize(&fault.to_string()),
    }
}

/// The beginning of somebody else's words, without control characters.
fn sanitize(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect()
}

/// A clock that goes ahead by so many seconds.
#[derive(Debug)]
struct ShiftedClock(u64);

impl TimeProvider for ShiftedClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now_s() + self.0)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpListener;

    use rustls::ServerConfig;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;

    const LONG: Duration = Duration::from_secs(5);
    const YEAR_S: u64 = 365 * 24 * 60 * 60;

    fn certificate(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    fn own_authority() -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(include_str!("../../../tests/tls/authority.pem"))).unwrap();
        roots
    }

    /// What comes of a handshake with a server whose certificate is localhost's.
    fn shake(host: &str, roots: RootCertStore, later_s: u64) -> Result<(), Tls> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let chain = vec![certificate(include_str!("../../../tests/tls/certificate.pem"))];
        let key = include_str!("../../../tests/tls/key.pem");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            let mut conn = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            // The client may go away in the middle of it.
            let _ = conn.complete_io(&mut socket);
        });
        let socket = TcpStream::connect(address).unwrap();
        let came = tls_handshake(socket, host, LONG, roots, later_s).map(drop);
        server.join().unwrap();
        came
    }

    #[test]
    fn certificate_needs_valid_name_time_and_authority() {
        let refused = |why: &str| Err(Tls::Certificate(why.to_owned()));
        assert_eq!(shake("localhost", own_authority(), 0), Ok(()));
        assert_eq!(shake("other.example", own_authority(), 0), refused("it is for another name"));
        assert_eq!(shake("localhost", own_authority(), 101 * YEAR_S), refused(EXPIRED));
        let unknown = shake("localhost", root_store(), 0).unwrap_err();
        assert!(matches!(unknown, Tls::Certificate(why) if why.contains("authority")));
    }

    #[test]
    fn endless_tls_handshake_times_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let begun = Instant::now();
        let within = Duration::from_millis(200);
        let came = tls_handshake(socket, "localhost", within, root_store(), 0).map(drop);
        assert!(begun.elapsed() < LONG);
        assert_eq!(came, Err(Tls::Failed(describe_error(&ErrorKind::TimedOut.into()))));
    }
}

//! Connects to a host step by step (name, connection, TLS) and records the result of each step.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, WebPkiServerVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme, StreamOwned,
};

use super::{TimeBudget, now_s};
use crate::config::site_proxy::SiteProxy;
use crate::config::site_trust::{self, SiteTrust};
use crate::doctor::observations::{CertificateChain, ProxySeen, Reachability, Tls};
use crate::upstream::probe_client;

/// Warn about a certificate that expires within this time: Let's Encrypt certificates are renewed
/// 30 days before expiry.
const EXPIRES_SOON_S: u64 = 14 * 24 * 60 * 60;
/// The largest reply header of a proxy that is accepted.
const TUNNEL_HEAD_BYTES_MAX: usize = 16 << 10;
/// The longest part of a library's error text that is reported, in characters.
const ERROR_TEXT_MAX: usize = 160;

/// A blocking socket with an overall deadline: a timeout per read would let a peer that sends byte
/// by byte hold up a library that reads until it has a whole record or frame.
pub(super) struct DeadlineSocket {
    socket: TcpStream,
    deadline: Instant,
}

impl DeadlineSocket {
    fn remaining(&self) -> io::Result<Duration> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }
}

impl Read for DeadlineSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.remaining()?))?;
        self.socket.read(buffer)
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
pub(super) enum Stream {
    /// Without TLS.
    Plain(DeadlineSocket),
    /// With TLS.
    Tls(Box<StreamOwned<ClientConnection, DeadlineSocket>>),
}

impl Stream {
    /// Sets the deadline of all further reads and writes.
    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        match self {
            Stream::Plain(socket) => socket.deadline = deadline,
            Stream::Tls(stream) => stream.sock.deadline = deadline,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
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

/// How to reach a host.
pub(super) struct Route<'a> {
    /// The authorities for its certificate.
    pub trust: &'a SiteTrust,
    /// The proxy, if there is one.
    pub proxy: Option<&'a SiteProxy>,
}

/// Resolves, connects and does the TLS handshake; returns the stream if all steps succeed.
pub(super) fn open_stream(
    host: &str,
    port: u16,
    secure: bool,
    route: &Route<'_>,
    time: TimeBudget,
) -> (Reachability, Option<Stream>) {
    let mut reachability =
        Reachability { host: host.to_owned(), port, secure, ..Reachability::default() };
    reachability.proxy = route.proxy.map(|proxy| ProxySeen {
        host: proxy.host().to_owned(),
        name: proxy.to_string(),
        port: proxy.port(),
        source: proxy.source(),
    });
    let Some(left) = time.remaining() else { return (reachability, None) };
    let (next_host, next_port) =
        route.proxy.map_or((host, port), |proxy| (proxy.host(), proxy.port()));
    let addresses = resolve(next_host, next_port, left);
    let targets = addresses.clone();
    reachability.addresses = Some(addresses.map(|all| all.iter().map(SocketAddr::ip).collect()));
    let (Ok(targets), Some(left)) = (targets, time.remaining()) else {
        return (reachability, None);
    };
    let connected = connect(&targets, left).and_then(|(socket, to, took)| {
        Ok((open_tunnel(socket, host, port, route.proxy, left)?, to, took))
    });
    let socket = match connected {
        Ok((socket, to, took)) => {
            reachability.connected = Some(Ok((to, took)));
            socket
        }
        Err(reason) => {
            reachability.connected = Some(Err(reason));
            return (reachability, None);
        }
    };
    if !secure {
        return (
            reachability,
            Some(Stream::Plain(DeadlineSocket { socket, deadline: Instant::now() })),
        );
    }
    let Some(left) = time.remaining() else { return (reachability, None) };
    match tls_handshake(socket, host, left, root_store(route.trust), 0) {
        Ok(stream) => {
            let version = stream.conn.protocol_version().and_then(|version| version.as_str());
            let version = version.unwrap_or("TLS").replace("TLSv1_", "TLSv1.");
            reachability.tls = Some(Tls::Works {
                version,
                expires_soon: expires_soon(&reachability, route, time),
            });
            (reachability, Some(Stream::Tls(Box::new(stream))))
        }
        Err(tls) => {
            reachability.tls = Some(tls);
            (reachability, None)
        }
    }
}

/// Resolves a name. The system's resolver has no timeout parameter, so it runs on a separate
/// thread, which ends when the resolver does, or with the program.
fn resolve(host: &str, port: u16, timeout: Duration) -> Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let (tx, rx) = channel();
    let name = host.to_owned();
    let resolver = move || {
        let addresses = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
        // The receiver is gone if the lookup took too long.
        let _ = tx.send(addresses);
    };
    if thread::Builder::new().name("resolver".into()).spawn(resolver).is_err() {
        return Err("the resolver's thread could not be started".to_owned());
    }
    match rx.recv_timeout(timeout) {
        Ok(Ok(addresses)) => {
            let mut addresses: Vec<SocketAddr> = addresses;
            let mut seen = Vec::new();
            // Removes duplicates but keeps the resolver's order, in which addresses are tried.
            addresses.retain(|address| {
                let is_new = !seen.contains(address);
                seen.push(*address);
                is_new
            });
            if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(sanitize(&error.to_string())),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            Err(format!("no answer from the resolver after {} s", timeout.as_secs()))
        }
    }
}

/// Connects to the first address that accepts, with an equal share of the timeout for each.
fn connect(
    targets: &[SocketAddr],
    timeout: Duration,
) -> Result<(TcpStream, SocketAddr, Duration), String> {
    let mut reason = "it has no address".to_owned();
    let share = timeout / u32::try_from(targets.len()).unwrap_or(u32::MAX).max(1);
    for target in targets {
        let started = Instant::now();
        match TcpStream::connect_timeout(target, share.max(Duration::from_millis(1))) {
            Ok(socket) => return Ok((socket, *target, started.elapsed())),
            Err(error) => reason = describe_error(&error),
        }
    }
    Err(reason)
}

/// The proxy's answer without its password.
pub(crate) const PROXY_PASSWORD: &str = "the proxy requires a user name and a password (407)";
/// The proxy's answer with any other status, which follows.
pub(crate) const TUNNEL_REFUSED: &str = "the proxy refuses the tunnel with status";

/// Asks the proxy, if there is one, for a tunnel to the host, as the server's own HTTP client does.
fn open_tunnel(
    socket: TcpStream,
    host: &str,
    port: u16,
    proxy: Option<&SiteProxy>,
    timeout: Duration,
) -> Result<TcpStream, String> {
    let Some(proxy) = proxy else { return Ok(socket) };
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some(authorization) = probe_client::proxy_authorization(proxy) {
        request += &format!("Proxy-Authorization: {authorization}\r\n");
    }
    let mut stream = DeadlineSocket { socket, deadline: Instant::now() + timeout };
    let head = stream.write_all(format!("{request}\r\n").as_bytes()).and_then(|()| {
        let mut head = Vec::new();
        // Byte by byte: the bytes after the head belong to the tunnel.
        while !head.ends_with(b"\r\n\r\n") && head.len() < TUNNEL_HEAD_BYTES_MAX {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        Ok(head)
    });
    let head = head.map_err(|error| format!("the proxy: {}", describe_error(&error)))?;
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let is_http = response.parse(&head).is_ok();
    match response.code.filter(|_| is_http) {
        Some(200) => Ok(stream.socket),
        Some(407) => Err(PROXY_PASSWORD.to_owned()),
        Some(status) => Err(format!("{TUNNEL_REFUSED} {status}")),
        None => Err("the answer of the proxy is not HTTP".to_owned()),
    }
}

/// The certificate authorities that the server's own HTTP client trusts.
fn root_store(trust: &SiteTrust) -> RootCertStore {
    let Some(certificates) = trust.certificates() else {
        return RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.iter().cloned());
    roots
}

/// Does a TLS handshake that checks certificates as if it were `later_s` seconds later.
fn tls_handshake(
    socket: TcpStream,
    host: &str,
    timeout: Duration,
    roots: RootCertStore,
    later_s: u64,
) -> Result<StreamOwned<ClientConnection, DeadlineSocket>, Tls> {
    let failed = |error: &dyn std::fmt::Display| Tls::Failed(sanitize(&error.to_string()));
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(&error))?;
    let provider = Arc::new(default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.build().map_err(|error| failed(&error))?;
    let (sender, chain) = channel();
    let verifier = Arc::new(RecordingVerifier { verifier, chain: sender });
    let config = ClientConfig::builder_with_details(provider, Arc::new(ShiftedClock(later_s)))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let conn = ClientConnection::new(Arc::new(config), name).map_err(|error| failed(&error))?;
    let mut stream =
        StreamOwned { conn, sock: DeadlineSocket { socket, deadline: Instant::now() + timeout } };
    while stream.conn.is_handshaking() {
        handshake_step(&mut stream)
            .map_err(|error| classify_tls_error(&error, chain.try_recv().ok()))?;
    }
    Ok(stream)
}

/// Writes all pending handshake data and reads once.
fn handshake_step(stream: &mut StreamOwned<ClientConnection, DeadlineSocket>) -> io::Result<()> {
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut stream.sock)?;
    }
    if stream.conn.is_handshaking() && stream.conn.wants_read() {
        if stream.conn.read_tls(&mut stream.sock)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Err(error) = stream.conn.process_new_packets() {
            // Send the alert, so that the server learns the reason too.
            let _ = stream.conn.write_tls(&mut stream.sock);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
    }
    Ok(())
}

/// Whether the certificate expires within two weeks: repeats the handshake with the clock advanced.
fn expires_soon(reachability: &Reachability, route: &Route<'_>, time: TimeBudget) -> bool {
    let (Some(Ok((to, _))), Some(left)) = (&reachability.connected, time.remaining()) else {
        return false;
    };
    let Ok(socket) = TcpStream::connect_timeout(to, left) else { return false };
    let Reachability { host, port, .. } = reachability;
    let Ok(socket) = open_tunnel(socket, host, *port, route.proxy, left) else { return false };
    let later = tls_handshake(socket, host, left, root_store(route.trust), EXPIRES_SOON_S);
    matches!(later, Err(Tls::Expired))
}

fn classify_tls_error(error: &io::Error, chain: Option<CertificateChain>) -> Tls {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(reason)) => match reason {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Tls::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Tls::Certificate("it is not valid yet, or this machine's clock is wrong".into())
            }
            CertificateError::UnknownIssuer => Tls::UnknownAuthority(chain.unwrap_or_default()),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Tls::OtherName
            }
            CertificateError::Revoked => Tls::Certificate("it has been revoked".into()),
            other => Tls::Certificate(sanitize(&format!("{other:?}"))),
        },
        Some(Error::InvalidMessage(_)) => Tls::NoTls,
        Some(other) => Tls::Failed(sanitize(&other.to_string())),
        None => Tls::Failed(describe_error(error)),
    }
}

/// Nothing listens there.
pub(crate) const REFUSED: &str = "the connection is refused";

/// Describes an error of a socket.
pub(crate) fn describe_error(error: &io::Error) -> String {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => REFUSED.into(),
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => {
            "the connection is reset".into()
        }
        Kind::TimedOut | Kind::WouldBlock => "it takes too long".into(),
        Kind::UnexpectedEof => "the connection is closed without an answer".into(),
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
            "there is no route to the host".into()
        }
        _ => sanitize(&error.to_string()),
    }
}

/// Shortens an error text from outside and removes control characters.
fn sanitize(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(ERROR_TEXT_MAX).collect()
}

/// Verifies certificates as the server does, and records those that came.
#[derive(Debug)]
struct RecordingVerifier {
    verifier: Arc<WebPkiServerVerifier>,
    chain: Sender<CertificateChain>,
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The receiver is gone if the handshake has been given up.
        let _ = self.chain.send(describe_chain(end_entity, intermediates));
        let verifier = &self.verifier;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

fn describe_chain(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> CertificateChain {
    let is_self_signed = site_trust::issuer(end_entity).is_some_and(|(_, is_own)| is_own);
    let last = site_trust::issuer(intermediates.last().unwrap_or(end_entity));
    let issuer = last.map(|(issuer, _)| sanitize(&issuer)).unwrap_or_default();
    CertificateChain { issuer, is_self_signed, intermediates: intermediates.len() }
}

/// A clock that is this many seconds ahead.
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
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;

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

    /// Does a handshake with a server whose certificate is for localhost.
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
            // The client may disconnect during the handshake.
            let _ = conn.complete_io(&mut socket);
        });
        let socket = TcpStream::connect(address).unwrap();
        let result = tls_handshake(socket, host, LONG, roots, later_s).map(drop);
        server.join().unwrap();
        result
    }

    #[test]
    fn certificate_needs_valid_name_time_and_authority() {
        assert_eq!(shake("localhost", own_authority(), 0), Ok(()));
        assert_eq!(shake("other.example", own_authority(), 0), Err(Tls::OtherName));
        assert_eq!(shake("localhost", own_authority(), 101 * YEAR_S), Err(Tls::Expired));
        let unknown = shake("localhost", root_store(&SiteTrust::built_in()), 0).unwrap_err();
        let Tls::UnknownAuthority(chain) = unknown else { panic!("{unknown:?}") };
        assert!(!chain.issuer.is_empty() && !chain.is_self_signed, "{chain:?}");
        assert_eq!(chain.intermediates, 0);
    }

    #[test]
    fn endless_tls_handshake_times_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let started = Instant::now();
        let timeout = Duration::from_millis(200);
        let result = tls_handshake(socket, "localhost", timeout, own_authority(), 0).map(drop);
        assert!(started.elapsed() < LONG);
        assert_eq!(result, Err(Tls::Failed(describe_error(&ErrorKind::TimedOut.into()))));
    }
}

//! `buddyline health`: asks a server whether it works, for images without curl.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustls::client::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use super::collect::describe_error;
use crate::config::Config;
use crate::config::health_url::HealthUrl;

/// Far more than the response of a health check.
const RESPONSE_BYTES_MAX: u64 = 16 << 10;
/// The longest part of a response that is reported, in characters.
const REPORTED_MAX: usize = 80;

/// The server to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthTarget {
    place: Place,
    /// Whether the server speaks TLS. Its certificate is not verified: `doctor` does that.
    secure: bool,
    path: String,
    /// Whether the server expects a PROXY protocol header from here.
    sends_proxy_header: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A host name or an IP address, and a port.
    Tcp(String, u16),
    Unix(PathBuf),
}

impl HealthTarget {
    /// The first address of `--listen`; `[::]` and `0.0.0.0` are asked on this machine.
    ///
    /// # Errors
    ///
    /// The system chooses the port, or the TLS settings are incomplete.
    pub fn from_config(config: &Config, path: &str) -> Result<HealthTarget, String> {
        let listen = config.listen.first().ok_or("--listen has no address: set --url")?;
        let (place, is_proxy) = match listen.unix_path() {
            Some(path) => (Place::Unix(path.to_owned()), true),
            None => {
                let (host, port) = listen.name.rsplit_once(':').unwrap_or((&listen.name, ""));
                let port = port.parse().ok().filter(|port| *port > 0);
                let port = port.ok_or_else(|| {
                    format!("--listen {} has no fixed port: set --url", listen.name)
                })?;
                let host = host.trim_matches(['[', ']']);
                let loopback: IpAddr = match host.parse() {
                    Ok(IpAddr::V4(ip)) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                    Ok(IpAddr::V6(ip)) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                    // Connections to an own address come from the same address.
                    Ok(ip) => ip,
                    Err(_) => Ipv4Addr::LOCALHOST.into(),
                };
                let host =
                    if host.parse::<IpAddr>().is_ok() { loopback.to_string() } else { host.into() };
                (Place::Tcp(host, port), config.proxies().is_trusted(loopback))
            }
        };
        Ok(HealthTarget {
            place,
            secure: config.has_tls()?,
            path: path.to_owned(),
            sends_proxy_header: is_proxy && config.is_proxy_protocol_on(),
        })
    }

    /// The first address of `--site-listen`, or of `--listen` without it.
    ///
    /// # Errors
    ///
    /// As [`HealthTarget::from_config`].
    pub(super) fn for_site(config: &Config, path: &str) -> Result<HealthTarget, String> {
        let Some(own) = config.site_listen.first() else {
            return HealthTarget::from_config(config, path);
        };
        let mut config = config.clone();
        config.listen = vec![own.clone()];
        let target = HealthTarget::from_config(&config, path)?;
        // That listener has no TLS, and no proxy stands before it.
        Ok(HealthTarget { secure: false, sends_proxy_header: false, ..target })
    }

    /// The server at a URL; `path` counts if the URL has none.
    pub fn from_url(url: &HealthUrl, path: &str) -> HealthTarget {
        let (place, secure, own_path) = match url {
            HealthUrl::Http { host, port, secure, path } => {
                (Place::Tcp(host.clone(), *port), *secure, path.clone())
            }
            HealthUrl::Unix(path) => (Place::Unix(path.clone()), false, None),
        };
        let path = own_path.unwrap_or_else(|| path.to_owned());
        HealthTarget { place, secure, path, sends_proxy_header: false }
    }

    /// A server without TLS at this address of the machine.
    pub(super) fn local(address: SocketAddr) -> HealthTarget {
        HealthTarget::plain(Place::Tcp(address.ip().to_string(), address.port()))
    }

    fn plain(place: Place) -> HealthTarget {
        let path = "/healthz".to_owned();
        HealthTarget { place, secure: false, path, sends_proxy_header: false }
    }

    /// A server at this Unix socket.
    pub(super) fn socket(path: &Path) -> HealthTarget {
        HealthTarget::plain(Place::Unix(path.to_owned()))
    }

    /// Asks on a thread of its own, since the system's resolver has no timeout. Returns the status
    /// code and the first line of the body.
    ///
    /// # Errors
    ///
    /// No valid response came in time.
    pub fn ask(&self, timeout: Duration) -> Result<(u16, String), String> {
        let (sender, result) = channel();
        let target = self.clone();
        let ask = move || {
            // The receiver is gone if this took too long.
            let _ = sender.send(target.request(timeout).map_err(|fault| describe_error(&fault)));
        };
        thread::Builder::new()
            .name("health".into())
            .spawn(ask)
            .map_err(|fault| format!("cannot start a thread: {fault}"))?;
        let late = || format!("no answer within {}", humantime::format_duration(timeout));
        let response = result.recv_timeout(timeout).map_err(|_| late())??;
        parse(&response).ok_or_else(|| "the answer is not HTTP".to_owned())
    }

    /// Sends the request and reads the whole response. Each step may take the timeout.
    fn request(&self, timeout: Duration) -> io::Result<Vec<u8>> {
        let mut host = "localhost".to_owned();
        let mut stream: Box<dyn Stream> = match &self.place {
            Place::Tcp(name, port) => {
                host = match name.contains(':') {
                    true => format!("[{name}]:{port}"),
                    false => format!("{name}:{port}"),
                };
                let socket = TcpStream::connect((name.as_str(), *port))?;
                socket.set_read_timeout(Some(timeout))?;
                socket.set_write_timeout(Some(timeout))?;
                Box::new(socket)
            }
            Place::Unix(path) => {
                let socket = UnixStream::connect(path)?;
                socket.set_read_timeout(Some(timeout))?;
                socket.set_write_timeout(Some(timeout))?;
                Box::new(socket)
            }
        };
        if self.sends_proxy_header {
            stream.write_all(b"PROXY UNKNOWN\r\n")?;
        }
        if self.secure {
            stream = Box::new(start_tls(stream, self.tls_name())?);
        }
        let Self { path, .. } = self;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: buddyline-health\r\nConnection: \
             close\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        let mut response = Vec::new();
        match stream.take(RESPONSE_BYTES_MAX).read_to_end(&mut response) {
            // Some servers end a TLS stream without a close_notify.
            Err(fault) if fault.kind() != ErrorKind::UnexpectedEof => Err(fault),
            _ if response.is_empty() => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(response),
        }
    }

    fn tls_name(&self) -> &str {
        match &self.place {
            Place::Tcp(host, _) => host,
            Place::Unix(_) => "localhost",
        }
    }
}

impl fmt::Display for HealthTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        match &self.place {
            Place::Tcp(host, port) if host.contains(':') => {
                write!(f, "{scheme}://[{host}]:{port}{}", self.path)
            }
            Place::Tcp(host, port) => write!(f, "{scheme}://{host}:{port}{}", self.path),
            Place::Unix(socket) => write!(f, "unix:{}, {}", socket.display(), self.path),
        }
    }
}

/// The status code and the first line of the body, cleaned.
fn parse(response: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(response);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    let line = body.lines().next().unwrap_or_default();
    Some((status, line.chars().filter(|c| !c.is_control()).take(REPORTED_MAX).collect()))
}

/// A socket, with or without TLS.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn start_tls(
    stream: Box<dyn Stream>,
    name: &str,
) -> io::Result<StreamOwned<ClientConnection, Box<dyn Stream>>> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let provider = Arc::new(default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, stream))
}

/// Accepts any certificate: nothing secret is sent, and a certificate for the public name is not
/// valid for this machine's address.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn target(arguments: &[&str]) -> Result<String, String> {
        let config = Config::try_parse_from(["buddyline"].iter().chain(arguments)).unwrap();
        HealthTarget::from_config(&config, "/healthz").map(|target| target.to_string())
    }

    #[test]
    fn health_target_follows_the_listen_address() {
        for (listen, expected) in [
            ("localhost:8080", "http://localhost:8080/healthz"),
            ("0.0.0.0:80", "http://127.0.0.1:80/healthz"),
            ("[::]:80", "http://[::1]:80/healthz"),
            ("192.0.2.1:80", "http://192.0.2.1:80/healthz"),
            ("[2001:db8::1]:80,127.0.0.1:81", "http://[2001:db8::1]:80/healthz"),
            ("unix:/run/live.sock", "unix:/run/live.sock, /healthz"),
        ] {
            assert_eq!(target(&["--listen", listen]).as_deref(), Ok(expected));
        }
        assert!(target(&["--listen=127.0.0.1:0"]).unwrap_err().contains("--url"));
        assert!(target(&["--tls-cert=/nowhere"]).unwrap_err().contains("--tls-key"));
    }

    #[test]
    fn status_and_first_body_line_are_read_from_the_response() {
        for (response, expected) in [
            ("HTTP/1.1 200 OK\r\nA: b\r\n\r\nok\nmore", Some((200, "ok"))),
            ("HTTP/1.0 503 No\r\n\r\n", Some((503, ""))),
            ("HTTP/1.1 200 OK\r\n\r\n\u{1b}[31mred", Some((200, "[31mred"))),
            ("HTTP/1.1 2\r\n\r\n", None),
            ("SSH-2.0-OpenSSH_9.2\r\n", None),
            ("HTTP/1.1 200 OK\r\n", None),
        ] {
            let expected = expected.map(|(status, line)| (status, line.to_owned()));
            assert_eq!(parse(response.as_bytes()), expected, "{response:?}");
        }
    }
}

//! A TLS server for localhost in front of a site that speaks plain HTTP.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::tls::{Certificate, LONG};

/// How long one direction may wait before the other has its turn.
const TURN: Duration = Duration::from_millis(3);

/// A running front; it stops accepting when dropped.
pub struct TlsFront {
    address: SocketAddr,
    handshakes: Arc<AtomicUsize>,
    stops: Arc<AtomicBool>,
}

impl TlsFront {
    /// Starts a front with this certificate for the site at `url`, such as `http://127.0.0.1:9081`.
    pub fn before(url: &str, certificate: &Certificate) -> TlsFront {
        let site: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let key = PrivateKeyDer::from_pem_file(certificate.key()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der.clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (handshakes, stops) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopping) = (handshakes.clone(), stops.clone());
        thread::spawn(move || {
            for socket in listener.incoming() {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                let (socket, config, count) = (socket.unwrap(), config.clone(), count.clone());
                // A client that does not trust the certificate ends the handshake.
                thread::spawn(move || serve(socket, config, site, &count));
            }
        });
        TlsFront { address, handshakes, stops }
    }

    /// The site's URL through the front.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// The number of completed handshakes.
    pub fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    mut socket: TcpStream,
    config: Arc<ServerConfig>,
    site: SocketAddr,
    handshakes: &AtomicUsize,
) -> io::Result<()> {
    socket.set_read_timeout(Some(LONG))?;
    socket.set_nodelay(true)?;
    let mut session = ServerConnection::new(config).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    handshakes.fetch_add(1, Ordering::Relaxed);
    socket.set_read_timeout(Some(TURN))?;
    let mut inside = TcpStream::connect(site)?;
    inside.set_read_timeout(Some(TURN))?;
    let mut client = StreamOwned::new(session, socket);
    let until = Instant::now() + 2 * LONG;
    while Instant::now() < until {
        if !pass_on(&mut client, &mut inside)? || !pass_on(&mut inside, &mut client)? {
            client.conn.send_close_notify();
            return client.flush();
        }
    }
    Ok(())
}

/// Passes on the bytes that are there. `false` at the end.
fn pass_on(from: &mut impl Read, to: &mut impl Write) -> io::Result<bool> {
    let mut chunk = [0; 16 << 10];
    match from.read(&mut chunk) {
        Ok(0) => Ok(false),
        Ok(length) => {
            to.write_all(&chunk[..length])?;
            to.flush()?;
            Ok(true)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

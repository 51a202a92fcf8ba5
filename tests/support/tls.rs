//! Certificates, and clients that speak TLS as a browser does: rustls with tungstenite on top.

#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use serde_json::{Value, json};
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::{Message, WebSocket};

/// Longer than anything here should take.
pub const LONG: Duration = Duration::from_secs(10);

/// A certificate for localhost that has signed itself, with its key, in a folder of its own.
pub struct Certificate {
    folder: PathBuf,
    /// As a client sees it.
    pub der: CertificateDer<'static>,
}

impl Certificate {
    /// A new one.
    pub fn new() -> Certificate {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("buddyline-tls-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let (cert, key) = Certificate::pair();
        let certificate = Certificate { folder, der: cert.der().clone() };
        certificate.write("cert.pem", 0o644, &cert.pem());
        certificate.write("key.pem", 0o600, &key.serialize_pem());
        certificate
    }

    fn pair() -> (rcgen::Certificate, KeyPair) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (cert, signing_key)
    }

    /// Puts another certificate and its key into the same files.
    pub fn replace(&mut self) {
        let (cert, key) = Certificate::pair();
        self.write("cert.pem", 0o644, &cert.pem());
        self.write("key.pem", 0o600, &key.serialize_pem());
        self.der = cert.der().clone();
    }

    /// Puts one into the same files that holds from the one year to the other.
    pub fn replace_with_years(&mut self, from: i32, until: i32) {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        self.write("cert.pem", 0o644, &cert.pem());
        self.write("key.pem", 0o600, &key.serialize_pem());
        self.der = cert.der().clone();
    }

    /// Writes a file of the folder.
    pub fn write(&self, name: &str, mode: u32, text: &str) -> String {
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file with the certificate.
    pub fn cert(&self) -> String {
        self.folder.join("cert.pem").to_str().unwrap().to_owned()
    }

    /// The file with the key.
    pub fn key(&self) -> String {
        self.folder.join("key.pem").to_str().unwrap().to_owned()
    }

    /// The arguments of a server that has it, before these.
    pub fn arguments(&self, more: &[&str]) -> Vec<String> {
        let own = [format!("--tls-cert={}", self.cert()), format!("--tls-key={}", self.key())];
        own.into_iter().chain(more.iter().map(|text| (*text).to_owned())).collect()
    }

    /// How a client speaks that trusts it, and nobody else.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_protocol_versions(versions).unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.enable_secret_extraction = true;
        Arc::new(config)
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A stream with TLS agreed on.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Agrees on TLS.
pub fn stream(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Stream> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(LONG))?;
    socket.set_write_timeout(Some(LONG))?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut session = ClientConnection::new(config.clone(), name).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(session, socket))
}

/// Sends bytes over TLS; returns all that comes back until the end, which the server must say.
pub fn ask(address: SocketAddr, config: &Arc<ClientConfig>, bytes: &[u8]) -> String {
    let mut stream = stream(address, config).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // Without the server's close_notify this is an error.
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

/// A WebSocket over TLS.
pub struct Client {
    socket: WebSocket<Stream>,
}

impl Client {
    /// Opens one.
    pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Client {
        Client::over(stream(address, config).unwrap())
    }

    /// Opens one over a stream.
    pub fn over(stream: Stream) -> Client {
        let (socket, _) = tungstenite::client("wss://localhost/", stream).unwrap();
        Client { socket }
    }

    /// Opens one, says whose it is, and hears a thread.
    pub fn in_thread(
        address: SocketAddr,
        config: &Arc<ClientConfig>,
        user: u64,
        thread: u64,
    ) -> Client {
        let mut client = Client::connect(address, config);
        client.identify(user);
        client.send(&json!({"type": "join_thread", "threadId": thread}));
        client.expect("thread_joined");
        client
    }

    /// Says whose it is.
    pub fn identify(&mut self, user: u64) {
        self.send(&json!({"type": "user_connected", "userId": user}));
        self.expect("user_connected");
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &Value) {
        self.try_send(frame).unwrap();
    }

    /// Sends a frame; fails when the server no longer listens.
    pub fn try_send(&mut self, frame: &Value) -> Result<(), tungstenite::Error> {
        self.socket.send(Message::text(frame.to_string()))
    }

    /// The next frame of this type.
    pub fn expect(&mut self, kind: &str) -> Value {
        let until = Instant::now() + LONG;
        loop {
            assert!(Instant::now() < until, "no {kind}");
            if let Message::Text(text) = self.socket.read().unwrap() {
                let frame: Value = serde_json::from_str(&text).unwrap();
                if frame["type"] == kind {
                    return frame;
                }
            }
        }
    }

    /// Waits for the end: the code of the server's close frame, none after a reset.
    pub fn close_code(&mut self) -> Option<u16> {
        loop {
            match self.socket.read() {
                Ok(Message::Close(frame)) => {
                    return frame.map(|CloseFrame { code, .. }| code.into());
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// The stream beneath.
    pub fn stream(&mut self) -> &mut Stream {
        self.socket.get_mut()
    }
}

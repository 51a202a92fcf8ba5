//! Test certificates, and WebSocket clients over TLS: rustls with tungstenite on top.

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

/// The deadline of every wait: longer than any step should take.
pub const LONG: Duration = Duration::from_secs(10);

/// A self-signed certificate for localhost with its key, in a temporary folder.
pub struct Certificate {
    folder: PathBuf,
    /// The certificate that clients trust, in DER.
    pub der: CertificateDer<'static>,
}

impl Certificate {
    /// Generates a certificate and writes its files.
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

    /// Writes a new certificate and key to the same files.
    pub fn replace(&mut self) {
        let (cert, key) = Certificate::pair();
        self.write("cert.pem", 0o644, &cert.pem());
        self.write("key.pem", 0o600, &key.serialize_pem());
        self.der = cert.der().clone();
    }

    /// Writes a new certificate that is valid from one year until the other to the same files.
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

    /// Writes a file in the folder and returns its path.
    pub fn write(&self, name: &str, mode: u32, text: &str) -> String {
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The folder with the files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of the certificate.
    pub fn cert(&self) -> String {
        self.folder.join("cert.pem").to_str().unwrap().to_owned()
    }

    /// The path of the key.
    pub fn key(&self) -> String {
        self.folder.join("key.pem").to_str().unwrap().to_owned()
    }

    /// The server's arguments for this certificate, followed by `more`.
    pub fn arguments(&self, more: &[&str]) -> Vec<String> {
        let own = [format!("--tls-cert={}", self.cert()), format!("--tls-key={}", self.key())];
        own.into_iter().chain(more.iter().map(|text| (*text).to_owned())).collect()
    }

    /// The configuration of a client that trusts only this certificate.
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

/// A stream after the TLS handshake.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Connects and completes the TLS handshake.
pub fn stream(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Stream> {
    stream_over(TcpStream::connect(address)?, config)
}

/// Completes the TLS handshake on a socket that the test has connected.
pub fn stream_over(mut socket: TcpStream, config: &Arc<ClientConfig>) -> io::Result<Stream> {
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

/// Sends bytes over TLS and returns the response until the server's `close_notify`.
pub fn ask(address: SocketAddr, config: &Arc<ClientConfig>, bytes: &[u8]) -> String {
    let mut stream = stream(address, config).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // Without a `close_notify` from the server this is an error.
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

/// A WebSocket over TLS.
pub struct Client {
    socket: WebSocket<Stream>,
}

impl Client {
    /// Opens a WebSocket.
    pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Client {
        Client::over(stream(address, config).unwrap())
    }

    /// Opens a WebSocket over an existing TLS stream.
    pub fn over(stream: Stream) -> Client {
        let (socket, _) = tungstenite::client("wss://localhost/", stream).unwrap();
        Client { socket }
    }

    /// Opens a WebSocket, sends `user_connected`, and joins a thread.
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

    /// Sends `user_connected`, without a token.
    pub fn identify(&mut self, user: u64) {
        self.send(&json!({"type": "user_connected", "userId": user}));
        self.expect("user_connected");
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &Value) {
        self.try_send(frame).unwrap();
    }

    /// Sends a frame; an error if the server has closed the connection.
    pub fn try_send(&mut self, frame: &Value) -> Result<(), tungstenite::Error> {
        self.socket.send(Message::text(frame.to_string()))
    }

    /// The next frame of this type; earlier frames are dropped.
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

    /// Waits until the connection ends: the code of the close frame, or `None` after a reset.
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

    /// The TLS stream.
    pub fn stream(&mut self) -> &mut Stream {
        self.socket.get_mut()
    }
}

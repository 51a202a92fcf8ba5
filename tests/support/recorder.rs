//! A tap on the wire: stands between clients and a server, and keeps every byte that clients get.
//!
//! ```ignore
//! let tap = Tap::before(server.address());
//! let client = Client::connect(tap.address());
//! // … and when the server has ended:
//! for bytes in tap.all() { … }          // one for each connection
//! ```

#![allow(dead_code, clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Longer than any connection of a test is silent.
const LONG: Duration = Duration::from_secs(60);

type Pump = JoinHandle<Vec<u8>>;

/// The tap.
pub struct RecordingProxy {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    acceptor: JoinHandle<Vec<Pump>>,
}

impl RecordingProxy {
    /// One that passes everything on to this server.
    pub fn before(server: SocketAddr) -> RecordingProxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        let acceptor = thread::spawn({
            let stopping = stopping.clone();
            move || accept(&listener, server, &stopping)
        });
        RecordingProxy { address, stopping, acceptor }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the clients got, connection by connection. Waits until the server has closed them all.
    pub fn all(self) -> Vec<Vec<u8>> {
        self.stopping.store(true, Ordering::Relaxed);
        let pumps = self.acceptor.join().unwrap();
        pumps.into_iter().map(|pump| pump.join().unwrap()).collect()
    }
}

fn accept(listener: &TcpListener, server: SocketAddr, stopping: &AtomicBool) -> Vec<Pump> {
    let mut pumps = Vec::new();
    while !stopping.load(Ordering::Relaxed) {
        let Ok((client, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        client.set_nonblocking(false).unwrap();
        // A server that is stopping takes nobody in.
        let Ok(server) = TcpStream::connect(server) else { continue };
        for socket in [&client, &server] {
            socket.set_nodelay(true).unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
        }
        let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || pump(from, to));
        pumps.push(thread::spawn(move || pump(server, client)));
    }
    pumps
}

/// Passes everything on until the end, and returns it. Who no longer listens ends nothing: what is
/// sent to them counts as well.
fn pump(mut from: TcpStream, mut to: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => {
                all.extend_from_slice(&piece[..n]);
                let _ = to.write_all(&piece[..n]);
            }
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    all
}

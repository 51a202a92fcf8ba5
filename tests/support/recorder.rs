//! A proxy between clients and a server that records every byte sent to the clients.
//!
//! ```ignore
//! let proxy = RecordingProxy::before(server.address());
//! let client = Client::connect(proxy.address());
//! // … and when the server has stopped:
//! for bytes in proxy.all() { … }        // one item for each connection
//! ```

#![allow(dead_code, clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The read timeout: longer than any connection of a test is idle.
const LONG: Duration = Duration::from_secs(60);

type Pump = JoinHandle<Vec<u8>>;

/// A running proxy.
pub struct RecordingProxy {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    acceptor: JoinHandle<Vec<Pump>>,
}

impl RecordingProxy {
    /// Starts a proxy that forwards everything to this server.
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

    /// The address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bytes sent to the clients, by connection. Waits until the server has closed all of them.
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
        // A server that is stopping accepts no connections.
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

/// Forwards everything until `from` ends, and returns it. A write error does not end it, because
/// bytes sent to a client that has closed are recorded as well.
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

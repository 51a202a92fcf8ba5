//! Many WebSocket clients in one thread: nonblocking sockets that are polled in turn.

#![allow(dead_code, clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// The read timeout of a handshake: longer than it should take.
const LONG: Duration = Duration::from_secs(30);
/// The pause between two polls of all clients.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// One client of a [`ClientSet`].
pub struct PolledClient {
    socket: TcpStream,
    unread: Vec<u8>,
    /// The text frames received so far.
    pub received: Vec<String>,
    /// When the server closed, and its close code; `None` if it closed without a close frame.
    pub closed: Option<(Instant, Option<u16>)>,
}

/// A set of clients.
pub struct ClientSet {
    pub clients: Vec<PolledClient>,
}

impl ClientSet {
    /// Opens `count` WebSockets.
    pub fn open(address: SocketAddr, count: usize) -> ClientSet {
        let mut clients = Vec::with_capacity(count);
        while clients.len() < count {
            // At most as many at once as the accept backlog of any system holds.
            let batch: Vec<_> =
                (0..(count - clients.len()).min(100)).map(|_| connect(address)).collect();
            clients.extend(batch.into_iter().map(await_upgrade));
        }
        ClientSet { clients }
    }

    /// Reads from each client once.
    pub fn poll(&mut self) {
        self.clients.iter_mut().for_each(PolledClient::poll);
    }

    /// Polls all clients until `wanted` holds; panics after `within`.
    pub fn poll_until(&mut self, within: Duration, wanted: impl Fn(&[PolledClient]) -> bool) {
        let until = Instant::now() + within;
        loop {
            self.poll();
            if wanted(&self.clients) {
                return;
            }
            assert!(Instant::now() < until, "the condition did not hold within {within:?}");
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// How many clients were closed in each time step since `begun`.
    pub fn closes_per_step(&self, begun: Instant, step: Duration) -> Vec<usize> {
        let mut steps = Vec::new();
        for (at, _) in self.clients.iter().filter_map(|client| client.closed) {
            let step =
                (at.saturating_duration_since(begun).as_secs_f64() / step.as_secs_f64()) as usize;
            steps.resize(steps.len().max(step + 1), 0);
            steps[step] += 1;
        }
        steps
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.set_nodelay(true).unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    socket
}

fn await_upgrade(mut socket: TcpStream) -> PolledClient {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    socket.set_nonblocking(true).unwrap();
    PolledClient { socket, unread: Vec::new(), received: Vec::new(), closed: None }
}

impl PolledClient {
    /// Sends a text frame; does nothing if the server has closed the connection.
    pub fn send(&mut self, text: &str) {
        let mut frame = vec![0x81];
        match text.len() {
            short @ 0..=125 => frame.push(0x80 | short as u8),
            long => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&u16::try_from(long).unwrap().to_be_bytes());
            }
        }
        // A mask of zeros leaves the text as it is.
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        let _ = self.socket.write_all(&frame);
    }

    fn poll(&mut self) {
        if self.closed.is_some() {
            return;
        }
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return self.end(None),
                Ok(bytes) => {
                    self.unread.extend_from_slice(&buffer[..bytes]);
                    self.take_frames();
                    if self.closed.is_some() {
                        return;
                    }
                }
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.end(None),
            }
        }
    }

    fn take_frames(&mut self) {
        loop {
            let (length, start) = match self.unread[..] {
                [_, length @ 0..=125, ..] => (usize::from(length), 2),
                [_, 126, high, low, ..] => (usize::from(u16::from_be_bytes([high, low])), 4),
                [_, 127, ..] => panic!("no test sends a frame over 65535 bytes"),
                _ => return,
            };
            if self.unread.len() < start + length {
                return;
            }
            let frame: Vec<u8> = self.unread.drain(..start + length).collect();
            match frame[0] {
                0x81 => self.received.push(String::from_utf8(frame[start..].to_vec()).unwrap()),
                0x88 => {
                    let code = u16::from_be_bytes([frame[start], frame[start + 1]]);
                    return self.end(Some(code));
                }
                other => panic!("unexpected frame with first byte {other:#x}"),
            }
        }
    }

    fn end(&mut self, code: Option<u16>) {
        self.closed = Some((Instant::now(), code));
        // The server waits for the client to close the socket.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

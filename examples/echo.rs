//! A WebSocket echo server built from the server's `wire` and `connection` modules. The Autobahn
//! test suite (`tests/autobahn/`) runs against it; it is also the smallest program that shows how
//! the parts fit together.
//!
//! `cargo run --release --example echo -- 127.0.0.1:9001`

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use buddyline::config::limits::HeadLimits;
use buddyline::config::origins::Origins;
use buddyline::config::proxies::TrustedProxies;
use buddyline::connection::{ActiveTime, Connection, Flushed, Received, SendContext};
use buddyline::http::handshake::{Readiness, Rules};
use buddyline::hub::interface::ConnId;
use buddyline::protocol::server::EncodedFrame;
use buddyline::wire::{Codec, Event};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

/// Longest message, in bytes; the longest of Autobahn has 16 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Most simultaneous connections; further ones are closed at once.
const CONNECTIONS_MAX: usize = 64;
/// Backpressure: while more bytes than this wait for a connection, nothing is read from it.
const OUTBOX_BYTES_MAX: usize = 32 << 20;
/// Bytes read from one connection before the next one is served.
const READ_BYTES: usize = 64 << 10;
/// Bytes written to one connection before the next one is served.
const WRITE_BYTES: usize = 256 << 10;

const LISTENER: Token = Token(usize::MAX);

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let address: SocketAddr =
        address.parse().map_err(|fault| io::Error::new(ErrorKind::InvalidInput, fault))?;
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(address)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("listening on {}", listener.local_addr()?);

    let (origins, proxies) = (Origins::any(), TrustedProxies::default());
    let rules = Rules {
        readiness: Readiness::Ready,
        try_page: false,
        origins,
        proxies,
        head_limits: HeadLimits::default(),
        site_events: false,
    };
    let mut echo = Echo {
        codec: Codec::new(MESSAGE_BYTES_MAX, rules),
        connections: Slab::new(),
        send_context: SendContext::default(),
        serial: 0,
        scratch: vec![0; READ_BYTES],
    };
    let mut events = Events::with_capacity(CONNECTIONS_MAX);
    // Connections with work left. Readiness is edge-triggered: no event will report them again.
    let mut pending: Vec<usize> = Vec::new();
    loop {
        let sleep = (!pending.is_empty()).then_some(Duration::ZERO);
        match poll.poll(&mut events, sleep) {
            Err(fault) if fault.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        let mut ready = std::mem::take(&mut pending);
        for event in &events {
            match event.token() {
                LISTENER => {
                    while let Ok((socket, peer)) = listener.accept() {
                        echo.add(socket, peer, &poll)?;
                    }
                }
                Token(slot) => {
                    if let Some(connection) = echo.connections.get_mut(slot) {
                        connection.blocked &= !event.is_writable();
                    }
                    ready.push(slot);
                }
            }
        }
        ready.sort_unstable();
        ready.dedup();
        for slot in ready {
            match echo.serve(slot) {
                Served::All => {}
                Served::Part => pending.push(slot),
                Served::Gone => echo.remove(slot),
            }
        }
    }
}

/// All connections, and their shared state.
struct Echo {
    codec: Codec,
    connections: Slab<Connection>,
    send_context: SendContext,
    serial: u32,
    scratch: Vec<u8>,
}

/// The result of serving a connection once.
enum Served {
    /// All work is done; an event will report new work.
    All,
    /// More work is ready now.
    Part,
    /// The connection has ended.
    Gone,
}

impl Echo {
    /// Adds a connection, or closes the socket if there are too many.
    fn add(&mut self, mut socket: TcpStream, peer: SocketAddr, poll: &Poll) -> io::Result<()> {
        if self.connections.len() >= CONNECTIONS_MAX {
            return Ok(());
        }
        let entry = self.connections.vacant_entry();
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut socket, Token(entry.key()), both)?;
        self.serial = self.serial.wrapping_add(1);
        let id = ConnId { slot: entry.key() as u32, serial: self.serial };
        entry.insert(Connection::new(id, socket, peer.ip(), ActiveTime::default()));
        Ok(())
    }

    /// Removes a connection, which closes its socket.
    fn remove(&mut self, slot: usize) {
        if let Some(mut connection) = self.connections.try_remove(slot) {
            connection.outbox.clear(&mut self.send_context.ledger);
        }
    }

    /// Reads once, echoes the messages, and writes once.
    fn serve(&mut self, slot: usize) -> Served {
        let Some(connection) = self.connections.get_mut(slot) else { return Served::All };
        // Backpressure: the kernel's buffers fill, and the client's writes block.
        let full = connection.outbox.bytes() > OUTBOX_BYTES_MAX;
        let more_to_read = match full {
            true => true,
            false => match connection.receive(&mut self.scratch) {
                Received::End => return Served::Gone,
                Received::Nothing => false,
                Received::Bytes(bytes) => {
                    let mut input = &mut self.scratch[..bytes];
                    while echo_next(connection, &mut self.codec, &mut input) {}
                    true
                }
            },
        };
        match connection.flush(WRITE_BYTES, &mut self.send_context) {
            Flushed::Gone => Served::Gone,
            Flushed::More => Served::Part,
            // A writable event will follow, and the next read with it.
            Flushed::Blocked if full => Served::All,
            Flushed::Blocked | Flushed::Done if more_to_read => Served::Part,
            Flushed::Blocked | Flushed::Done => Served::All,
        }
    }
}

/// Handles the next event and echoes its message; false if there is no more input.
fn echo_next(connection: &mut Connection, codec: &mut Codec, input: &mut &mut [u8]) -> bool {
    let frame = match connection.wire.next(codec, input, &mut connection.outbox) {
        Event::NeedsInput => return false,
        Event::Opened(_)
        | Event::CallStatusRequest(_)
        | Event::OriginRefused { .. }
        | Event::EventsAnnounced
        | Event::EventsReceived { .. }
        | Event::TestArrival { .. }
        | Event::SiteRefused { .. }
        | Event::Control
        | Event::Closing => {
            return true;
        }
        Event::Text(text) => Frame::message(text.into_owned(), OpCode::Data(Data::Text), true),
        Event::Binary(bytes) => Frame::message(bytes, OpCode::Data(Data::Binary), true),
    };
    let mut bytes = Vec::with_capacity(frame.len());
    // Writing to a Vec cannot fail.
    let _ = frame.format(&mut bytes);
    connection.outbox.push(EncodedFrame::from(bytes));
    true
}

//! An echo server made of the server's own wire and connection: what the Autobahn test suite
//! (`tests/autobahn/`) talks to, and the smallest program that shows how the parts fit together.
//!
//! `cargo run --release --example echo -- 127.0.0.1:9001`

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

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

/// The longest message, in bytes: Autobahn's longest has 16 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Connections at a time; who comes beyond it is turned away.
const CONNECTIONS_MAX: usize = 64;
/// Once so many bytes wait to be sent to a connection, nothing more is read from it.
const OUTBOX_BYTES_MAX: usize = 32 << 20;
/// Read from one connection before it is another's turn, in bytes.
const READ_BYTES: usize = 64 << 10;
/// Written to one connection before it is another's turn, in bytes.
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
        head_bytes_max: 8192,
    };
    let mut echo = Echo {
        codec: Codec::new(MESSAGE_BYTES_MAX, rules),
        connections: Slab::new(),
        send_context: SendContext::default(),
        serial: 0,
        scratch: vec![0; READ_BYTES],
    };
    let mut events = Events::with_capacity(CONNECTIONS_MAX);
    // Who has more to do than one turn allows. Readiness is edge-triggered: no event will say so.
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

/// All connections, and what they share.
struct Echo {
    codec: Codec,
    connections: Slab<Connection>,
    send_context: SendContext,
    serial: u32,
    scratch: Vec<u8>,
}

/// How far one turn of a connection has come.
enum Served {
    /// An event will say when there is more to do.
    All,
    /// There is more to do at once.
    Part,
    /// The connection is over.
    Gone,
}

impl Echo {
    /// Takes a socket in, if there is room.
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

    /// Ends a connection, which closes its socket.
    fn remove(&mut self, slot: usize) {
        if let Some(mut connection) = self.connections.try_remove(slot) {
            connection.outbox.clear(&mut self.send_context.ledger);
        }
    }

    /// One read, the echo of what it says, one write.
    fn serve(&mut self, slot: usize) -> Served {
        let Some(connection) = self.connections.get_mut(slot) else { return Served::All };
        // Who does not read is not read: the kernel's buffers fill, and the client's write stops.
        let full = connection.outbox.bytes() > OUTBOX_BYTES_MAX;
        let more_to_read = match full {
            true => true,
            false => match connection.receive(&mut self.scratch) {
                Received::End => return Served::Gone,
                Received::Nothing => false,
                Received::Bytes(bytes) => {
                    let mut input = &mut self.scratch[..bytes];
                    while answer(connection, &mut self.codec, &mut input) {}
                    true
                }
            },
        };
        match connection.flush(WRITE_BYTES, &mut self.send_context) {
            Flushed::Gone => Served::Gone,
            Flushed::More => Served::Part,
            // A writable event follows, and brings the next read along.
            Flushed::Blocked if full => Served::All,
            Flushed::Blocked | Flushed::Done if more_to_read => Served::Part,
            Flushed::Blocked | Flushed::Done => Served::All,
        }
    }
}

/// Takes in the next thing that a client said and sends it back; false when there is no more.
fn answer(connection: &mut Connection, codec: &mut Codec, input: &mut &mut [u8]) -> bool {
    let frame = match connection.wire.next(codec, input, &mut connection.outbox) {
        Event::NeedsInput => return false,
        Event::Opened(_)
        | Event::CallStatusRequest(_)
        | Event::OriginRefused { .. }
        | Event::Control
        | Event::Closing => {
            return true;
        }
        Event::Text(text) => Frame::message(text.into_owned(), OpCode::Data(Data::Text), true),
        Event::Binary(bytes) => Frame::message(bytes, OpCode::Data(Data::Binary), true),
    };
    let mut bytes = Vec::with_capacity(frame.len());
    // A Vec takes every byte: no error can come of it.
    let _ = frame.format(&mut bytes);
    connection.outbox.push(EncodedFrame::from(bytes));
    true
}

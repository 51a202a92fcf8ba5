//! One socket with its wire, its outbox, and what the loop has to do about it.

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::time::Instant;

use mio::net::TcpStream;

use crate::hub::interface::ConnId;
use crate::wire::Wire;
use crate::wire::outbox::Outbox;

/// Frames that leave in one system call. With more, their bytes outweigh the call.
const GATHER_MAX: usize = 64;

/// One socket, from accept to burial.
#[derive(Debug)]
pub struct Connection {
    /// Its name for the hub.
    pub id: ConnId,
    /// Whose address it is: the peer's, or, once open, the one that trusted proxies speak for.
    pub client: IpAddr,
    /// The conversation.
    pub wire: Wire,
    /// What waits to be sent.
    pub outbox: Outbox,
    /// When what it is to finish began: its request, a frame of which the rest is missing, its
    /// goodbye. Without meaning in between.
    pub since: Instant,
    /// The hub knows it.
    pub opened: bool,
    /// More waits for it than it may, and it takes nothing.
    pub overflowed: bool,
    /// It stands on the dirty list.
    pub dirty: bool,
    /// It stands on the again list.
    pub again: bool,
    /// Nothing more is sent: the peer has been told, and its end of the stream is awaited.
    half_closed: bool,
    socket: TcpStream,
}

/// How a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Everything has left.
    Done,
    /// The kernel takes no more; a writable event will say when.
    Blocked,
    /// The budget of this tick is used up.
    More,
    /// The socket is of no use any more.
    Gone,
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes, and perhaps there are more.
    Bytes(usize),
    /// Nothing now; a readable event will say when.
    Nothing,
    /// The peer's end, or the socket's.
    End,
}

impl Connection {
    /// A socket that has just been accepted from this peer.
    pub fn new(id: ConnId, socket: TcpStream, peer: IpAddr, now: Instant) -> Connection {
        Connection {
            id,
            client: peer,
            wire: Wire::new(peer),
            outbox: Outbox::default(),
            since: now,
            opened: false,
            overflowed: false,
            dirty: false,
            again: false,
            half_closed: false,
            socket,
        }
    }

    /// The socket, to be registered once.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// One `recv`.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Received {
        loop {
            return match self.socket.read(buffer) {
                Ok(0) => Received::End,
                Ok(bytes) => Received::Bytes(bytes),
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
                Err(_) => Received::End,
            };
        }
    }

    /// Sends what waits, up to about `budget` bytes. A closing connection whose last bytes have
    /// left sends the end of the stream.
    pub fn flush(&mut self, budget: usize) -> Flushed {
        let mut left = budget;
        while !self.outbox.is_empty() {
            let (offered, written) = self.write();
            match written {
                Ok(0) => return Flushed::Gone,
                Ok(bytes) => {
                    self.outbox.consume(bytes);
                    left = left.saturating_sub(bytes);
                    if bytes < offered {
                        // A short write says that the kernel's buffer is full: no second call to
                        // hear it again. The writable event is still to come.
                        return Flushed::Blocked;
                    }
                    if left == 0 && !self.outbox.is_empty() {
                        return Flushed::More;
                    }
                }
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Flushed::Blocked,
                Err(_) => return Flushed::Gone,
            }
        }
        if self.wire.is_closing() && !self.half_closed {
            self.half_closed = true;
            // The peer may be gone already, which ends the connection just as well.
            if self.socket.shutdown(Shutdown::Write).is_err() {
                return Flushed::Gone;
            }
        }
        Flushed::Done
    }

    /// One system call: how many bytes it was offered, and what came of it.
    fn write(&mut self) -> (usize, io::Result<usize>) {
        // A vector of one costs the kernel more than the bytes themselves.
        if let Some(bytes) = self.outbox.only() {
            return (bytes.len(), self.socket.write(bytes));
        }
        let mut slices = [IoSlice::new(&[]); GATHER_MAX];
        let filled = self.outbox.gather(&mut slices);
        let slices = &slices[..filled];
        (slices.iter().map(|slice| slice.len()).sum(), self.socket.write_vectored(slices))
    }
}

//! One socket with its wire, its outbox, and what the loop has to do about it.

pub mod rate;
mod tls;
mod tls_io;

use std::io::{self, IoSlice, Write};
use std::net::{IpAddr, Shutdown};
use std::time::Duration;

use mio::net::TcpStream;
use rustix::net::{RecvFlags, SendFlags};

use crate::config::tls::TlsIdentity;
use crate::hub::interface::ConnId;
use crate::protocol::server::EncodedFrame;
use crate::wire::Wire;
use crate::wire::outbox::{Ledger, Outbox};
use rate::RateState;
use tls::TlsSession;
pub use tls_io::RecvContext;

/// Large frames that leave in one system call. With more, their bytes outweigh the call.
const IOVEC_MAX: usize = 64;
/// What small frames are copied into, to leave in one piece.
const COPY_BYTES: usize = 64 * 1024;
/// Frames that are larger than this, on the average, are not copied: for each piece of a vector the
/// kernel needs as long as for copying some hundred bytes.
const COPY_FRAME_BYTES_MAX: usize = 512;

/// Fewer frames are copied anew for each: to look whether they are the same takes as long.
const CACHE_FRAMES_MIN: usize = 4;

/// What all connections share when they send.
#[derive(Debug, Default)]
pub struct SendContext {
    /// What waits for those that do not read.
    pub ledger: Ledger,
    copy_cache: CopyCache,
    sealed: tls_io::RecordBuffers,
}

/// Small frames that leave together, in one piece. Those who hear the same thread are written to
/// one after the other, and what waits for one of them is mostly what waited for the last.
#[derive(Default)]
struct CopyCache {
    bytes: Vec<u8>,
    /// What they are copies of.
    frames: Vec<EncodedFrame>,
    /// Of a few frames.
    scratch: Vec<u8>,
}

/// The bytes are what people wrote: they are not shown.
impl std::fmt::Debug for CopyCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyCache").field("frames", &self.frames.len()).finish_non_exhaustive()
    }
}

impl CopyCache {
    /// The next of what waits in an outbox, in one piece.
    fn coalesce(&mut self, outbox: &Outbox) -> &[u8] {
        if outbox.count() < CACHE_FRAMES_MIN {
            self.scratch.clear();
            outbox.copy_into(&mut self.scratch, COPY_BYTES, |_| {});
            return &self.scratch;
        }
        if !outbox.starts_with(&self.frames) {
            self.frames.clear();
            self.bytes.clear();
            // One huge frame may have stood among many small ones.
            self.bytes.shrink_to(2 * COPY_BYTES);
            let note = |frame: &EncodedFrame| self.frames.push(EncodedFrame::clone(frame));
            outbox.copy_into(&mut self.bytes, COPY_BYTES, note);
        }
        &self.bytes
    }
}

/// A time by the server's own watch, which stands still while the whole process does: tenths of a
/// second since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActiveTime(u32);

impl ActiveTime {
    /// This long after the start.
    pub fn from_start(since_start: Duration) -> ActiveTime {
        ActiveTime(u32::try_from(since_start.as_millis() / 100).unwrap_or(u32::MAX))
    }

    /// How long ago another one was.
    pub fn since(self, earlier: ActiveTime) -> Duration {
        Duration::from_millis(u64::from(self.0.saturating_sub(earlier.0)) * 100)
    }
}

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
    pub since: ActiveTime,
    /// When something last came from it.
    pub last_received: ActiveTime,
    /// Signs of life that it has been asked for since.
    pub pings: u8,
    /// What it has said, against the rate.
    pub rate_state: RateState,
    /// It counts among those of its client's address.
    pub counts_for_address: bool,
    /// The hub knows it.
    pub registered: bool,
    /// More waits for it than it may, and it takes nothing.
    pub overflowed: bool,
    /// It stands among those that are written to at the end of the tick.
    pub dirty: bool,
    /// It stands in the queue of those for whom something waits that is for many.
    pub in_fanout_queue: bool,
    /// The poll says when the kernel takes more: since it has once taken less than there was.
    pub write_interest: bool,
    /// It stands on the again list.
    pub read_pending: bool,
    /// It is about to be buried.
    pub doomed: bool,
    /// The kernel takes nothing before it says so by an event.
    pub blocked: bool,
    /// Nothing more is sent: the peer has been told, and its end of the stream is awaited.
    half_closed: bool,
    socket: TcpStream,
    /// What stands between the socket and the wire where the server speaks TLS.
    tls: Option<Box<TlsSession>>,
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
    pub fn new(id: ConnId, socket: TcpStream, peer: IpAddr, now: ActiveTime) -> Connection {
        Connection {
            id,
            client: peer,
            wire: Wire::new(peer),
            outbox: Outbox::default(),
            since: now,
            last_received: now,
            pings: 0,
            rate_state: RateState::default(),
            counts_for_address: false,
            registered: false,
            overflowed: false,
            dirty: false,
            in_fanout_queue: false,
            write_interest: false,
            read_pending: false,
            doomed: false,
            blocked: false,
            half_closed: false,
            socket,
            tls: None,
        }
    }

    /// Speaks TLS from the first byte on.
    ///
    /// # Errors
    ///
    /// The library refuses its own settings.
    pub fn enable_tls(&mut self, identity: &TlsIdentity) -> Result<(), String> {
        self.tls = Some(Box::new(TlsSession::new(identity)?));
        Ok(())
    }

    /// The socket, to be registered once.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// One `recv`.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Received {
        loop {
            return match recv(&self.socket, buffer) {
                Ok(0) => Received::End,
                Ok(bytes) => Received::Bytes(bytes),
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
                Err(_) => Received::End,
            };
        }
    }

    /// Sends what waits, up to about `budget` bytes. A closing connection whose last bytes have
    /// left sends the end of the stream. What the kernel does not take is entered in the ledger.
    pub fn flush(&mut self, budget: usize, send_context: &mut SendContext) -> Flushed {
        if self.tls.is_some() {
            return self.flush_tls(budget, send_context);
        }
        let mut left = budget;
        while !self.outbox.is_empty() {
            if self.blocked {
                self.outbox.charge(&mut send_context.ledger);
                return Flushed::Blocked;
            }
            let (offered, written) = self.write(&mut send_context.copy_cache);
            match written {
                Ok(0) => return Flushed::Gone,
                Ok(bytes) => {
                    self.outbox.consume(bytes, &mut send_context.ledger);
                    left = left.saturating_sub(bytes);
                    // A short write says that the kernel's buffer is full: no second call to hear
                    // it again. The writable event is still to come.
                    self.blocked = bytes < offered;
                    if left == 0 && !self.blocked && !self.outbox.is_empty() {
                        return Flushed::More;
                    }
                }
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(_) => return Flushed::Gone,
            }
        }
        self.end_output()
    }

    /// Sends the end of the stream, once, if the conversation has come to its end.
    fn end_output(&mut self) -> Flushed {
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
    fn write(&mut self, copy_cache: &mut CopyCache) -> (usize, io::Result<usize>) {
        // A vector of one costs the kernel more than the bytes themselves.
        if let Some(bytes) = self.outbox.only() {
            return (bytes.len(), send(&self.socket, bytes));
        }
        if self.outbox.bytes() <= COPY_FRAME_BYTES_MAX * self.outbox.count() {
            let bytes = copy_cache.coalesce(&self.outbox);
            return (bytes.len(), send(&self.socket, bytes));
        }
        let mut slices = [IoSlice::new(&[]); IOVEC_MAX];
        let filled = self.outbox.gather(&mut slices);
        let slices = &slices[..filled];
        (slices.iter().map(|slice| slice.len()).sum(), self.socket.write_vectored(slices))
    }
}

// The standard library's calls go through the C library, for which they are points where a thread
// can be cancelled: in a process with threads that is a good part of what a call costs beside the
// kernel's.

fn send(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?)
}

fn recv(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let (bytes, _) = rustix::net::recv(socket, buffer, RecvFlags::empty())?;
    Ok(bytes)
}

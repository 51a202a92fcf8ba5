//! One client connection: its socket, WebSocket state, outbox and TLS session.

pub mod proxy_header;
pub mod rate;
mod stream;
mod tls;
mod tls_io;

use std::io::{self, IoSlice};
use std::time::Duration;

use crate::config::proxies::Peer;
use crate::config::tls::TlsIdentity;
use crate::hub::interface::ConnId;
use crate::protocol::server::EncodedFrame;
use crate::wire::Wire;
use crate::wire::outbox::{Ledger, Outbox};
use proxy_header::{HEADER_BYTES_MAX, ProxyHeader};
use rate::RateState;
pub use stream::Stream;
use tls::TlsSession;
pub use tls_io::RecvContext;

/// Large frames written in one system call. With more, the cost of their bytes outweighs the
/// call's.
const IOVEC_MAX: usize = 64;
/// Bytes of small frames that are copied into one buffer and sent with one call.
const COPY_BYTES: usize = 64 * 1024;
/// Frames with a larger average size are not copied: a vector's element costs the kernel as much as
/// copying some hundred bytes.
const COPY_FRAME_BYTES_MAX: usize = 512;

/// Fewer frames are copied for each connection: comparing them with the cache takes as long.
const CACHE_FRAMES_MIN: usize = 4;

/// Buffers and accounting that all connections share for sending.
#[derive(Debug, Default)]
pub struct SendContext {
    /// Memory held for slow readers.
    pub ledger: Ledger,
    copy_cache: CopyCache,
    records: tls_io::RecordBuffers,
}

/// Small frames coalesced into one buffer. Subscribers of one thread are flushed one after the
/// other, and most of them have the same frames waiting, so the last copy is kept.
#[derive(Default)]
struct CopyCache {
    bytes: Vec<u8>,
    /// The frames in `bytes`.
    frames: Vec<EncodedFrame>,
    /// Buffer for fewer than `CACHE_FRAMES_MIN` frames, which are not cached.
    scratch: Vec<u8>,
}

/// Hides the bytes, which are user content.
impl std::fmt::Debug for CopyCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyCache").field("frames", &self.frames.len()).finish_non_exhaustive()
    }
}

impl CopyCache {
    /// Returns the first frames of an outbox in one slice.
    fn coalesce(&mut self, outbox: &Outbox) -> &[u8] {
        if outbox.count() < CACHE_FRAMES_MIN {
            self.scratch.clear();
            outbox.copy_into(&mut self.scratch, COPY_BYTES, |_| {});
            return &self.scratch;
        }
        if !outbox.starts_with(&self.frames) {
            self.frames.clear();
            self.bytes.clear();
            // One huge frame among many small ones may have grown the buffer.
            self.bytes.shrink_to(2 * COPY_BYTES);
            let note = |frame: &EncodedFrame| self.frames.push(EncodedFrame::clone(frame));
            outbox.copy_into(&mut self.bytes, COPY_BYTES, note);
        }
        &self.bytes
    }
}

/// A time by the active clock, which stops while the whole process is suspended: tenths of a second
/// since the server's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActiveTime(u32);

impl ActiveTime {
    /// The time `since_start` after the start.
    pub fn from_start(since_start: Duration) -> ActiveTime {
        ActiveTime(u32::try_from(since_start.as_millis() / 100).unwrap_or(u32::MAX))
    }

    /// The duration since an earlier time.
    pub fn since(self, earlier: ActiveTime) -> Duration {
        Duration::from_millis(u64::from(self.0.saturating_sub(earlier.0)) * 100)
    }
}

/// One client connection, from accept to removal.
#[derive(Debug)]
pub struct Connection {
    /// The id by which the hub knows it.
    pub id: ConnId,
    /// The client: the peer or, once open, the one that trusted proxies forward.
    pub client: Peer,
    /// The HTTP and WebSocket state.
    pub wire: Wire,
    /// Frames waiting to be sent.
    pub outbox: Outbox,
    /// Start of the unfinished step that a timeout limits: the request, a partial frame or message,
    /// or the close. Meaningless between steps.
    pub since: ActiveTime,
    /// Time of the last input.
    pub last_received: ActiveTime,
    /// Pings sent since the last input.
    pub pings: u8,
    /// State of its rate limit.
    pub rate_state: RateState,
    /// Whether it counts against the limit of its client's address.
    pub counts_for_address: bool,
    /// Whether the hub knows it.
    pub registered: bool,
    /// Whether its outbox has exceeded the hard limit.
    pub overflowed: bool,
    /// Whether it is on the dirty list, to be flushed at the end of the tick.
    pub dirty: bool,
    /// Whether it is in the fan-out queue.
    pub in_fanout_queue: bool,
    /// Whether the poll watches for writability: set by the first incomplete write.
    pub write_interest: bool,
    /// Whether it is on a list of connections to read without an event.
    pub read_pending: bool,
    /// Whether it is on the list of connections to remove.
    pub doomed: bool,
    /// Whether the kernel's send buffer is full; a writable event clears it.
    pub blocked: bool,
    /// Whether the write side is shut down and the peer's end of stream is awaited.
    half_closed: bool,
    socket: Stream,
    /// The TLS session, if the server uses TLS.
    tls: Option<Box<TlsSession>>,
}

/// Repeats a system call that a signal has interrupted.
fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Result of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// The outbox is empty.
    Done,
    /// The kernel's send buffer is full; a writable event will follow.
    Blocked,
    /// The byte budget is used up.
    More,
    /// The socket has failed.
    Gone,
}

/// Result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Number of bytes read; there may be more.
    Bytes(usize),
    /// Nothing to read; a readable event will follow.
    Nothing,
    /// End of stream, or a failed socket.
    End,
}

impl Connection {
    /// Creates a connection for a socket that was just accepted from `peer`.
    pub fn new(
        id: ConnId,
        socket: impl Into<Stream>,
        peer: impl Into<Peer>,
        now: ActiveTime,
    ) -> Connection {
        let peer = peer.into();
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
            socket: socket.into(),
            tls: None,
        }
    }

    /// Uses TLS from the first byte on.
    ///
    /// # Errors
    ///
    /// rustls refuses the settings.
    pub fn enable_tls(&mut self, identity: &TlsIdentity) -> Result<(), String> {
        self.tls = Some(Box::new(TlsSession::new(identity)?));
        Ok(())
    }

    /// The socket, to register it with the poll.
    pub fn socket(&mut self) -> &mut Stream {
        &mut self.socket
    }

    /// Reads the PROXY protocol header that must come first. Only a complete header is taken from
    /// the socket: until then an event announces each further part, and afterwards TLS or HTTP
    /// begins as on any other connection.
    ///
    /// `None` at the end of the stream.
    pub fn receive_proxy_header(&mut self) -> Option<ProxyHeader> {
        let mut first = [0; HEADER_BYTES_MAX];
        let peeked = retry(|| self.socket.peek(&mut first));
        let header = match peeked {
            Ok(0) => return None,
            Ok(bytes) => ProxyHeader::parse(&first[..bytes]),
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => ProxyHeader::Incomplete,
            Err(_) => return None,
        };
        if let ProxyHeader::Complete { bytes, client } = header {
            let mut taken = 0;
            while taken < bytes {
                match retry(|| self.socket.recv(&mut first[taken..bytes])) {
                    Ok(0) | Err(_) => return None,
                    Ok(more) => taken += more,
                }
            }
            self.wire.note_proxy_header(client.map(Peer::Address));
        }
        Some(header)
    }

    /// Reads with one `recv`.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Received {
        loop {
            return match self.socket.recv(buffer) {
                Ok(0) => Received::End,
                Ok(bytes) => Received::Bytes(bytes),
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
                Err(_) => Received::End,
            };
        }
    }

    /// Sends the outbox, up to about `budget` bytes. A closing connection then shuts down its write
    /// side. Frames that the kernel does not take are charged to the ledger.
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
                    // A short write means that the kernel's buffer is full: a second call would
                    // only fail. The writable event will follow.
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

    /// Shuts down the write side, once, if the connection is closing.
    fn end_output(&mut self) -> Flushed {
        if self.wire.is_closing() && !self.half_closed {
            self.half_closed = true;
            // Fails if the peer is gone already, which ends the connection as well.
            if self.socket.shut_down_write().is_err() {
                return Flushed::Gone;
            }
        }
        Flushed::Done
    }

    /// Writes with one system call. Returns how many bytes were offered, and the result.
    fn write(&mut self, copy_cache: &mut CopyCache) -> (usize, io::Result<usize>) {
        // A vectored write of one frame costs the kernel more than its bytes.
        if let Some(bytes) = self.outbox.only() {
            return (bytes.len(), self.socket.send(bytes));
        }
        if self.outbox.bytes() <= COPY_FRAME_BYTES_MAX * self.outbox.count() {
            let bytes = copy_cache.coalesce(&self.outbox);
            return (bytes.len(), self.socket.send(bytes));
        }
        let mut slices = [IoSlice::new(&[]); IOVEC_MAX];
        let filled = self.outbox.gather(&mut slices);
        let slices = &slices[..filled];
        (slices.iter().map(|slice| slice.len()).sum(), self.socket.send_vectored(slices))
    }
}

//! How a connection that speaks TLS reads and writes: like any other, with records in between.
//!
//! Between two reads a session holds no more than the beginning of a record, and between two writes
//! no more than a record that the kernel has not taken: what waits for a slow reader waits in its
//! outbox, where it is judged, and is sealed when it can leave.

use std::io;

use super::{Connection, Flushed, Received, SendContext, send};

/// Plain bytes that are sealed at a time, which is the most that a record may have (RFC 8446 5.1).
pub(super) const RECORD_PLAINTEXT_MAX: usize = 16 * 1024;
/// What a record has besides, and what rustls puts before it, such as the word of a new key.
const RECORD_SLACK: usize = 1024;

/// What all connections that speak TLS share when they receive: room for what has come.
#[derive(Debug, Default)]
pub struct RecvContext {
    sealed: Vec<u8>,
}

/// What all connections that speak TLS share when they send.
#[derive(Default)]
pub(super) struct RecordBuffers {
    plain: Vec<u8>,
    sealed: Vec<u8>,
}

/// The bytes are what people wrote: they are not shown.
impl std::fmt::Debug for RecordBuffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordBuffers").finish_non_exhaustive()
    }
}

/// What one read of a session has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TlsRead {
    /// Plain bytes.
    pub plain: usize,
    /// The kernel may have more.
    pub more: bool,
    /// Nothing comes any more: the peer has said so, or has broken the rules.
    pub ended: bool,
}

impl Connection {
    /// Whether TLS stands between the socket and the wire.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether TLS is still being agreed on: what its next bytes cost may be a signature.
    pub fn in_tls_handshake(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| !session.is_established())
    }

    /// Whether something waits that is to be written.
    pub fn has_output(&self) -> bool {
        !self.outbox.is_empty() || self.tls_output_bytes() > 0
    }

    /// Bytes of memory that are held for what has come in part and cannot be read yet.
    pub fn tls_input_bytes(&self) -> usize {
        self.tls.as_ref().map_or(0, |session| session.held_bytes())
    }

    /// Bytes of records that the kernel has not taken.
    pub fn tls_output_bytes(&self) -> usize {
        self.tls.as_ref().map_or(0, |session| session.tls_output_bytes())
    }

    /// Gives up what has come in part, and records that have not left: nothing more is listened to,
    /// and if there were such records, nothing is said.
    pub fn discard_tls_buffers(&mut self) {
        if let Some(session) = &mut self.tls {
            session.discard_buffers();
        }
    }

    /// Why the peer is not spoken to any more, once.
    pub fn tls_fault(&mut self) -> Option<String> {
        self.tls.as_mut().and_then(|session| session.fault())
    }

    /// One `recv`, opened; and whether there may be more to read without an event. Only of a
    /// connection that is sealed; the buffer has room for `RECORD_PLAINTEXT_MAX` bytes.
    ///
    /// `Bytes(0)` says that what has come was for TLS itself.
    pub fn receive_tls(
        &mut self,
        buffer: &mut [u8],
        recv_context: &mut RecvContext,
    ) -> (Received, bool) {
        let Some(session) = &mut self.tls else { return (Received::Nothing, false) };
        loop {
            return match session.receive(&self.socket, &mut recv_context.sealed, buffer) {
                Ok(TlsRead { plain: 0, ended: true, .. }) => (Received::End, false),
                Ok(TlsRead { plain, more, ended }) => (Received::Bytes(plain), more || ended),
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                    (Received::Nothing, false)
                }
                Err(_) => (Received::End, false),
            };
        }
    }

    /// Seals and sends what waits, as [`Connection::flush`] does.
    pub(super) fn flush_tls(&mut self, budget: usize, send_context: &mut SendContext) -> Flushed {
        let before = self.tls_output_bytes();
        let flushed = self.seal_and_send(budget, send_context);
        send_context.ledger.note_held(before, self.tls_output_bytes());
        flushed
    }

    fn seal_and_send(&mut self, budget: usize, send_context: &mut SendContext) -> Flushed {
        let mut left = budget;
        loop {
            match self.send_pending(send_context) {
                Flushed::Done => {}
                other => return other,
            }
            if self.outbox.is_empty() {
                break;
            }
            if self.blocked {
                self.outbox.charge(&mut send_context.ledger);
                return Flushed::Blocked;
            }
            if left == 0 {
                return Flushed::More;
            }
            match self.send_record(send_context) {
                Some(bytes) => left = left.saturating_sub(bytes),
                None => return Flushed::Gone,
            }
        }
        if self.wire.is_closing() && !self.half_closed {
            if let Some(session) = &mut self.tls {
                session.queue_close();
            }
            match self.send_pending(send_context) {
                Flushed::Done => {}
                other => return other,
            }
        }
        self.end_output()
    }

    /// Sends what the kernel has not taken before, and what TLS itself has to say.
    fn send_pending(&mut self, send_context: &mut SendContext) -> Flushed {
        let Some(session) = &mut self.tls else { return Flushed::Gone };
        let pending = session.pending();
        while !pending.is_empty() {
            if self.blocked {
                self.outbox.charge(&mut send_context.ledger);
                return Flushed::Blocked;
            }
            match send(&self.socket, pending) {
                Ok(0) => return Flushed::Gone,
                Ok(bytes) if bytes < pending.len() => {
                    pending.drain(..bytes);
                    self.blocked = true;
                }
                Ok(_) => *pending = Vec::new(),
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(_) => return Flushed::Gone,
            }
        }
        Flushed::Done
    }

    /// Seals the next bytes of the outbox into one record and sends it; the rest of it is pending
    /// then. How many bytes these were.
    fn send_record(&mut self, send_context: &mut SendContext) -> Option<usize> {
        let SendContext { ledger, sealed: RecordBuffers { plain, sealed }, .. } = send_context;
        let session = self.tls.as_mut()?;
        sealed.resize(RECORD_PLAINTEXT_MAX + RECORD_SLACK, 0);
        let bytes = match self.outbox.only() {
            Some(only) => &only[..only.len().min(RECORD_PLAINTEXT_MAX)],
            None => {
                plain.clear();
                self.outbox.copy_at_most(plain, RECORD_PLAINTEXT_MAX);
                plain
            }
        };
        let length = bytes.len();
        // None before TLS is agreed on, when nothing can wait, and none after 2^60 records.
        let written = session.seal(bytes, sealed)?;
        let record = &sealed[..written];
        self.outbox.consume(length, ledger);
        let sent = loop {
            match send(&self.socket, record) {
                Ok(0) => return None,
                Ok(bytes) => break bytes,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => break 0,
                Err(_) => return None,
            }
        };
        if sent < record.len() {
            self.blocked = true;
            session.pending().extend_from_slice(&record[sent..]);
        }
        Some(length)
    }
}

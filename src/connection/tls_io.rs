//! Reading and writing of a connection that uses TLS.
//!
//! Between two reads a session holds at most a partial record, and between two writes at most one
//! record that the kernel has not taken. Output for a slow reader waits in its outbox, where the
//! limits apply, and is encrypted only when it can be sent.

use std::io;

use super::{Connection, Flushed, Received, SendContext};

/// Plain bytes encrypted at a time: the maximum of a record (RFC 8446 section 5.1).
pub(super) const RECORD_PLAINTEXT_MAX: usize = 16 * 1024;
/// Overhead of a record, and of records that rustls puts before it, such as a key update.
const RECORD_SLACK: usize = 1024;

/// The receive buffer that all TLS connections share.
#[derive(Debug, Default)]
pub struct RecvContext {
    encrypted: Vec<u8>,
}

/// The send buffers that all TLS connections share.
#[derive(Default)]
pub(super) struct RecordBuffers {
    plain: Vec<u8>,
    encrypted: Vec<u8>,
}

/// Hides the bytes, which are user content.
impl std::fmt::Debug for RecordBuffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordBuffers").finish_non_exhaustive()
    }
}

/// Result of one read of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TlsRead {
    /// Number of plain bytes.
    pub plain: usize,
    /// Whether the kernel may have more.
    pub more: bool,
    /// Whether the input has ended: the peer has closed the session or sent invalid data.
    pub ended: bool,
}

impl Connection {
    /// Whether the connection uses TLS.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether the TLS handshake is in progress: its next bytes may cost a signature.
    pub fn in_tls_handshake(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| !session.is_established())
    }

    /// Whether frames or records wait to be written.
    pub fn has_output(&self) -> bool {
        !self.outbox.is_empty() || self.tls_output_bytes() > 0
    }

    /// Bytes of memory held for partial records.
    pub fn tls_input_bytes(&self) -> usize {
        self.tls.as_ref().map_or(0, |session| session.held_bytes())
    }

    /// Bytes of records that the kernel has not taken.
    pub fn tls_output_bytes(&self) -> usize {
        self.tls.as_ref().map_or(0, |session| session.tls_output_bytes())
    }

    /// Drops partial input and unsent records. Further input is discarded, and if there were unsent
    /// records, nothing more is sent.
    pub fn discard_tls_buffers(&mut self) {
        if let Some(session) = &mut self.tls {
            session.discard_buffers();
        }
    }

    /// Takes the TLS error that ended the session, if there was one.
    pub fn tls_fault(&mut self) -> Option<String> {
        self.tls.as_mut().and_then(|session| session.fault())
    }

    /// Reads with one `recv` and decrypts. Also returns whether there may be more to read without
    /// an event. For TLS connections only; the buffer has room for `RECORD_PLAINTEXT_MAX` bytes.
    ///
    /// `Bytes(0)` means that only handshake records or partial records were received.
    pub fn receive_tls(
        &mut self,
        buffer: &mut [u8],
        recv_context: &mut RecvContext,
    ) -> (Received, bool) {
        let Some(session) = &mut self.tls else { return (Received::Nothing, false) };
        loop {
            return match session.receive(&self.socket, &mut recv_context.encrypted, buffer) {
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

    /// Encrypts and sends the outbox, as [`Connection::flush`] does without TLS.
    pub(super) fn flush_tls(&mut self, budget: usize, send_context: &mut SendContext) -> Flushed {
        let before = self.tls_output_bytes();
        let flushed = self.encrypt_and_send(budget, send_context);
        send_context.ledger.note_held(before, self.tls_output_bytes());
        flushed
    }

    fn encrypt_and_send(&mut self, budget: usize, send_context: &mut SendContext) -> Flushed {
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

    /// Sends the pending records: handshake records, alerts, and the rest of a partial write.
    fn send_pending(&mut self, send_context: &mut SendContext) -> Flushed {
        let Some(session) = &mut self.tls else { return Flushed::Gone };
        let pending = session.pending();
        while !pending.is_empty() {
            if self.blocked {
                self.outbox.charge(&mut send_context.ledger);
                return Flushed::Blocked;
            }
            match self.socket.send(pending) {
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

    /// Encrypts the next bytes of the outbox into one record and sends it; what the kernel does not
    /// take becomes pending. Returns the number of plain bytes, or `None` if the connection is
    /// gone.
    fn send_record(&mut self, send_context: &mut SendContext) -> Option<usize> {
        let SendContext { ledger, records: RecordBuffers { plain, encrypted }, .. } = send_context;
        let session = self.tls.as_mut()?;
        encrypted.resize(RECORD_PLAINTEXT_MAX + RECORD_SLACK, 0);
        let bytes = match self.outbox.only() {
            Some(only) => &only[..only.len().min(RECORD_PLAINTEXT_MAX)],
            None => {
                plain.clear();
                self.outbox.copy_at_most(plain, RECORD_PLAINTEXT_MAX);
                plain
            }
        };
        let length = bytes.len();
        // `None` before the handshake ends, when nothing can wait, and after 2^60 records.
        let written = session.encrypt(bytes, encrypted)?;
        let record = &encrypted[..written];
        self.outbox.consume(length, ledger);
        let sent = loop {
            match self.socket.send(record) {
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

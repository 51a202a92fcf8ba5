//! One server-side TLS session, which holds no buffers between reads and writes.
//!
//! rustls' unbuffered interface works in place on memory that the caller provides: one buffer for
//! all connections. Its buffered interface keeps 4 KiB for each, and reads in pieces of that.

use std::fmt;
use std::io;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};

use super::stream::Stream;
use super::tls_io::{RECORD_PLAINTEXT_MAX, TlsRead};
use crate::config::tls::TlsIdentity;

/// A record's header (RFC 8446 section 5.1): type, version and length.
const HEADER_BYTES: usize = 5;
/// The longest record that TLS 1.2 allows (RFC 5246 section 6.2.3), and the longest accepted
/// handshake message of several records.
const RECORD_BYTES_MAX: usize = HEADER_BYTES + RECORD_PLAINTEXT_MAX + 2048;
/// Limit of unsent handshake records and alerts; a certificate chain is far smaller.
const TLS_OUTPUT_BYTES_MAX: usize = 128 * 1024;
/// An encrypted close_notify alert, with room to spare.
const ALERT_BYTES_MAX: usize = 128;

/// A session, from the first byte of its handshake on.
pub(super) struct TlsSession {
    connection: UnbufferedServerConnection,
    /// A partial record, or records of a partial handshake message. rustls remembers the latter: it
    /// must be passed them at every call, and would panic without.
    partial: Vec<u8>,
    /// Encrypted records that the kernel has not taken.
    pending: Vec<u8>,
    /// The handshake is complete.
    established: bool,
    /// Further input is discarded.
    ignores_input: bool,
    /// The peer has closed its side, or has sent invalid data.
    input_ended: bool,
    /// No more records may be encrypted.
    ended: bool,
    fault: Option<Box<str>>,
}

/// Hides keys and partial input.
impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSession").field("established", &self.established).finish_non_exhaustive()
    }
}

impl TlsSession {
    pub(super) fn new(identity: &TlsIdentity) -> Result<TlsSession, String> {
        let connection = UnbufferedServerConnection::new(identity.settings())
            .map_err(|fault| fault.to_string())?;
        Ok(TlsSession {
            connection,
            partial: Vec::new(),
            pending: Vec::new(),
            established: false,
            ignores_input: false,
            input_ended: false,
            ended: false,
            fault: None,
        })
    }

    pub(super) fn is_established(&self) -> bool {
        self.established
    }

    /// Bytes of memory held for a partial record.
    pub(super) fn held_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Bytes of records that the kernel has not taken.
    pub(super) fn tls_output_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Records to send before any others.
    pub(super) fn pending(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// Takes the error that ended the session, if there was one.
    pub(super) fn fault(&mut self) -> Option<String> {
        self.fault.take().map(String::from)
    }

    /// Drops partial input and unsent records. Further input is discarded, and nothing more is sent
    /// if there were any: no record can follow one that was sent in part.
    pub(super) fn discard_buffers(&mut self) {
        self.ended |= !self.pending.is_empty() || !self.partial.is_empty();
        (self.pending, self.partial) = (Vec::new(), Vec::new());
        self.ignores_input = true;
    }

    /// Reads once and decrypts all complete records into `plain`. They fit: plaintext is shorter
    /// than its record, and more than one record is read only where there is room for all.
    pub(super) fn receive(
        &mut self,
        socket: &Stream,
        encrypted: &mut Vec<u8>,
        plain: &mut [u8],
    ) -> io::Result<TlsRead> {
        let eof = TlsRead { plain: 0, more: false, ended: true };
        if self.input_ended {
            return Ok(eof);
        }
        encrypted.resize(RECORD_BYTES_MAX, 0);
        let held = self.partial.len();
        let end = match self.partial[..] {
            [_, _, _, high, low, ..] => {
                let record = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
                record.clamp(RECORD_PLAINTEXT_MAX, RECORD_BYTES_MAX)
            }
            _ => RECORD_PLAINTEXT_MAX,
        };
        if held >= end {
            // A handshake message that continues over many records.
            self.fail("a handshake message is too long");
            return Ok(eof);
        }
        let received = socket.recv(&mut encrypted[held..end])?;
        if received == 0 {
            return Ok(eof);
        }
        let more = received == end - held;
        if self.ignores_input {
            return Ok(TlsRead { plain: 0, more, ended: false });
        }
        encrypted[..held].copy_from_slice(&self.partial);
        let (opened, rest, ended) = self.decrypt(&mut encrypted[..held + received], plain);
        self.input_ended = ended;
        if ended || rest == held + received {
            self.partial = Vec::new();
        } else {
            // An exact allocation: most of the time there is none.
            self.partial = encrypted[rest..held + received].to_vec();
        }
        Ok(TlsRead { plain: opened, more, ended })
    }

    /// Decrypts the records in a buffer. Returns the number of plain bytes, the offset of the rest,
    /// and whether the session's input has ended.
    fn decrypt(&mut self, encrypted: &mut [u8], plain: &mut [u8]) -> (usize, usize, bool) {
        let (mut opened, mut begin, mut ended) = (0, 0, false);
        let fault = loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(&mut encrypted[begin..]);
            let mut fault = None;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        let end = opened + record.payload.len();
                        match plain.get_mut(opened..end) {
                            Some(room) => room.copy_from_slice(record.payload),
                            None => {
                                fault = Some("the plaintext is longer than the buffer".to_owned())
                            }
                        }
                        opened = end.min(plain.len());
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut self.pending, &mut data)
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => ended = true,
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.established = true;
                    return (opened, begin + discard, ended);
                }
                Ok(ConnectionState::BlockedHandshake) => return (opened, begin + discard, ended),
                // Both sides have closed. Early data is not offered, so there is none.
                Ok(_) => return (opened, begin + discard, true),
                Err(error) => fault = Some(error.to_string()),
            }
            begin += discard;
            if self.pending.len() > TLS_OUTPUT_BYTES_MAX {
                fault = Some("the peer does not read handshake records".to_owned());
            }
            if let Some(fault) = fault {
                break fault;
            }
        };
        // rustls may have an alert to send.
        if let Ok(ConnectionState::EncodeTlsData(mut alert)) =
            self.connection.process_tls_records(&mut encrypted[begin..]).state
        {
            encode(&mut self.pending, &mut alert);
        }
        self.fail(&fault);
        (opened, begin, true)
    }

    /// Ends the session because of an error of the peer.
    fn fail(&mut self, fault: &str) {
        self.fault = Some(fault.into());
        (self.ignores_input, self.input_ended, self.ended) = (true, true, true);
        self.partial = Vec::new();
    }

    /// Encrypts plain bytes, at most [`RECORD_PLAINTEXT_MAX`], into `records`. Returns their
    /// length, or `None` if nothing can be encrypted.
    pub(super) fn encrypt(&mut self, plain: &[u8], records: &mut [u8]) -> Option<usize> {
        if self.ended {
            return None;
        }
        // Handshake records were queued when their input was read, and have been sent before.
        match self.connection.process_tls_records(&mut self.partial).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => traffic.encrypt(plain, records).ok(),
            _ => None,
        }
    }

    /// Queues a close_notify alert (RFC 8446 section 6.1), once.
    pub(super) fn queue_close(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.connection.process_tls_records(&mut self.partial).state
        {
            let mut alert = [0; ALERT_BYTES_MAX];
            if let Ok(bytes) = traffic.queue_close_notify(&mut alert) {
                self.pending.extend_from_slice(&alert[..bytes]);
            }
        }
    }
}

/// Appends a handshake record or an alert to the pending records.
fn encode(pending: &mut Vec<u8>, data: &mut EncodeTlsData<'_, ServerConnectionData>) {
    let before = pending.len();
    // With an empty buffer, rustls returns the required size.
    if let Err(EncodeError::InsufficientSize(needs)) = data.encode(&mut []) {
        pending.resize(before + needs.required_size, 0);
        let written = data.encode(&mut pending[before..]).unwrap_or(0);
        pending.truncate(before + written);
    }
}

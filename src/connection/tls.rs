//! One TLS session of the server, without buffers of its own between reads and writes.
//!
//! rustls' unbuffered interface works in place, on memory that is handed to it: one buffer for all
//! connections. Its other interface keeps 4 KiB with each, and reads in pieces of that.

use std::fmt;
use std::io;

use mio::net::TcpStream;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};

use super::recv;
use super::tls_io::{RECORD_PLAINTEXT_MAX, TlsRead};
use crate::config::tls::TlsIdentity;

/// A record's header (RFC 8446 5.1): a type, a version, and how much follows.
const HEADER_BYTES: usize = 5;
/// The longest record that TLS 1.2 allows (RFC 5246 6.2.3); a longer first flight is refused
/// as well.
const RECORD_BYTES_MAX: usize = HEADER_BYTES + RECORD_PLAINTEXT_MAX + 2048;
/// What TLS itself may have to say and the kernel does not take: a certificate chain is far less.
const TLS_OUTPUT_BYTES_MAX: usize = 128 * 1024;
/// The goodbye of TLS, sealed, with room to spare.
const ALERT_BYTES_MAX: usize = 128;

/// A session, from the first byte of its handshake.
pub(super) struct TlsSession {
    connection: UnbufferedServerConnection,
    /// A record in part, or records with a message of TLS in part, which rustls remembers: it has
    /// to be shown them whenever it is asked for anything, and would panic without.
    partial: Vec<u8>,
    /// Records that the kernel has not taken.
    pending: Vec<u8>,
    /// Its handshake is over.
    established: bool,
    /// Nothing that comes is looked at any more.
    ignores_input: bool,
    /// Nothing comes any more.
    input_ended: bool,
    /// The last that will be sealed has been.
    ended: bool,
    fault: Option<Box<str>>,
}

/// What has come in part is not shown, nor any key.
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

    /// Bytes of memory that are held for a record in part.
    pub(super) fn held_bytes(&self) -> usize {
        self.partial.len()
    }

    /// How many bytes of records the kernel has not taken.
    pub(super) fn tls_output_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Records that are to be sent before anything else.
    pub(super) fn pending(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// Why the peer is not listened to any more, once.
    pub(super) fn fault(&mut self) -> Option<String> {
        self.fault.take().map(String::from)
    }

    /// Gives up what has come in part, and what has not left: nothing more is listened to, and
    /// nothing can follow on a record that has left in part.
    pub(super) fn discard_buffers(&mut self) {
        self.ended |= !self.pending.is_empty() || !self.partial.is_empty();
        (self.pending, self.partial) = (Vec::new(), Vec::new());
        self.ignores_input = true;
    }

    /// Reads once, and opens all whole records. What comes fits: a record's plain bytes are fewer
    /// than its own, and more than one record is read only where there is room for all.
    pub(super) fn receive(
        &mut self,
        socket: &TcpStream,
        sealed: &mut Vec<u8>,
        plain: &mut [u8],
    ) -> io::Result<TlsRead> {
        let eof = TlsRead { plain: 0, more: false, ended: true };
        if self.input_ended {
            return Ok(eof);
        }
        sealed.resize(RECORD_BYTES_MAX, 0);
        let held = self.partial.len();
        let end = match self.partial[..] {
            [_, _, _, high, low, ..] => {
                let record = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
                record.clamp(RECORD_PLAINTEXT_MAX, RECORD_BYTES_MAX)
            }
            _ => RECORD_PLAINTEXT_MAX,
        };
        if held >= end {
            // A message of the handshake that goes on over many records.
            self.refuse("a message of the handshake is too long");
            return Ok(eof);
        }
        let came = recv(socket, &mut sealed[held..end])?;
        if came == 0 {
            return Ok(eof);
        }
        let more = came == end - held;
        if self.ignores_input {
            return Ok(TlsRead { plain: 0, more, ended: false });
        }
        sealed[..held].copy_from_slice(&self.partial);
        let (opened, rest, ended) = self.open(&mut sealed[..held + came], plain);
        self.input_ended = ended;
        if ended || rest == held + came {
            self.partial = Vec::new();
        } else {
            // Exact, and its own: most of the time there is none.
            self.partial = sealed[rest..held + came].to_vec();
        }
        Ok(TlsRead { plain: opened, more, ended })
    }

    /// Opens the records in a buffer: how many plain bytes came out, where the rest begins, and
    /// whether it was the end.
    fn open(&mut self, sealed: &mut [u8], plain: &mut [u8]) -> (usize, usize, bool) {
        let (mut opened, mut begin, mut ended) = (0, 0, false);
        let fault = loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(&mut sealed[begin..]);
            let mut fault = None;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        let end = opened + record.payload.len();
                        match plain.get_mut(opened..end) {
                            Some(room) => room.copy_from_slice(record.payload),
                            None => fault = Some("more has come than was read".to_owned()),
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
                // Both sides have said goodbye; and early data is not offered, so there is none.
                Ok(_) => return (opened, begin + discard, true),
                Err(error) => fault = Some(error.to_string()),
            }
            begin += discard;
            if self.pending.len() > TLS_OUTPUT_BYTES_MAX {
                fault = Some("what TLS has to say is not read".to_owned());
            }
            if let Some(fault) = fault {
                break fault;
            }
        };
        // What rustls has to say about it: an alert, if anything.
        if let Ok(ConnectionState::EncodeTlsData(mut alert)) =
            self.connection.process_tls_records(&mut sealed[begin..]).state
        {
            encode(&mut self.pending, &mut alert);
        }
        self.refuse(&fault);
        (opened, begin, true)
    }

    /// Ends the session for a fault of the peer.
    fn refuse(&mut self, fault: &str) {
        self.fault = Some(fault.into());
        (self.ignores_input, self.input_ended, self.ended) = (true, true, true);
        self.partial = Vec::new();
    }

    /// Seals plain bytes, at most [`RECORD_PLAINTEXT_MAX`], into records: how long these are. `None` if
    /// nothing can be sealed.
    pub(super) fn seal(&mut self, plain: &[u8], records: &mut [u8]) -> Option<usize> {
        if self.ended {
            return None;
        }
        // Whatever TLS itself had to say was pending since input was taken, and has left before.
        match self.connection.process_tls_records(&mut self.partial).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => traffic.encrypt(plain, records).ok(),
            _ => None,
        }
    }

    /// Says that nothing follows (RFC 8446 6.1), once.
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

/// Puts a record of TLS itself at the end of those that are to be sent.
fn encode(pending: &mut Vec<u8>, data: &mut EncodeTlsData<'_, ServerConnectionData>) {
    let before = pending.len();
    // Told that there is no room, it says how much it needs.
    if let Err(EncodeError::InsufficientSize(needs)) = data.encode(&mut []) {
        pending.resize(before + needs.required_size, 0);
        let written = data.encode(&mut pending[before..]).unwrap_or(0);
        pending.truncate(before + written);
    }
}

//! One TLS session of the server, without buffers of its own between reads and writes.
//!
//! rustls' unbuffered interface works in place, on memory that is handed to it: one buffer for all
//! connections. Its other interface keeps 4 KiB with each, and reads in pieces of that.

use std::fmt;
use std::io;

use mio::net::TcpStream;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};

use super::sealed::{SEALED_AT_ONCE, Taken};
use super::recv;
use crate::config::tls::Identity;

/// A record's header (RFC 8446 5.1): a type, a version, and how much follows.
const HEADER_BYTES: usize = 5;
/// The longest record that TLS 1.2 allows (RFC 5246 6.2.3); a first flight that is longer is refused
/// as well.
const RECORD_BYTES_MAX: usize = HEADER_BYTES + SEALED_AT_ONCE + 2048;
/// What TLS itself may have to say and the kernel does not take: a certificate chain is far less.
const PENDING_BYTES_MAX: usize = 128 * 1024;
/// Sealed bytes that may come for one plain byte. Records of one byte each need 23 to 30; with
/// nothing at all in them they would be a flood that no limit on frames sees.
const SEALED_FOR_PLAIN: usize = 32;
/// How many more: a handshake, which the limit on its time bounds as well, and alerts.
const IDLE_BYTES_MAX: usize = 64 * 1024;

/// A session, from the first byte of its handshake.
pub(super) struct Session {
    connection: UnbufferedServerConnection,
    /// A record in part.
    partial: Vec<u8>,
    /// Records that the kernel has not taken.
    pending: Vec<u8>,
    /// Sealed bytes that have come without plain ones in them.
    idle_bytes: usize,
    /// Its handshake is over.
    established: bool,
    /// Nothing that comes is looked at any more.
    deaf: bool,
    /// Nothing comes any more.
    over: bool,
    /// The last that will be sealed has been.
    ended: bool,
    fault: Option<Box<str>>,
}

/// What has come in part is not shown, nor any key.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("established", &self.established).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(identity: &Identity) -> Result<Session, String> {
        let connection = UnbufferedServerConnection::new(identity.settings())
            .map_err(|fault| fault.to_string())?;
        Ok(Session {
            connection,
            partial: Vec::new(),
            pending: Vec::new(),
            idle_bytes: 0,
            established: false,
            deaf: false,
            over: false,
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
    pub(super) fn pending_bytes(&self) -> usize {
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
    pub(super) fn forget_held(&mut self) {
        self.forget_input();
        self.ended |= !self.pending.is_empty();
        self.pending = Vec::new();
    }

    fn forget_input(&mut self) {
        self.partial = Vec::new();
        self.deaf = true;
    }

    /// Reads once, and opens all whole records. What comes fits: a record's plain bytes are fewer
    /// than its own, and more than one record is read only where there is room for all.
    pub(super) fn receive(
        &mut self,
        socket: &TcpStream,
        sealed: &mut Vec<u8>,
        plain: &mut [u8],
    ) -> io::Result<Taken> {
        let end_of_all = Taken { plain: 0, more: false, ended: true };
        if self.over {
            return Ok(end_of_all);
        }
        sealed.resize(RECORD_BYTES_MAX, 0);
        let held = self.partial.len();
        let end = match self.partial[..] {
            [_, _, _, high, low, ..] => {
                let record = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
                record.clamp(SEALED_AT_ONCE, RECORD_BYTES_MAX)
            }
            _ => SEALED_AT_ONCE,
        };
        if held >= end {
            // A message of the handshake that goes on over many records.
            self.refuse("a message of the handshake is too long");
            return Ok(end_of_all);
        }
        let came = recv(socket, &mut sealed[held..end])?;
        if came == 0 {
            return Ok(end_of_all);
        }
        let more = came == end - held;
        if self.deaf {
            return Ok(Taken { plain: 0, more, ended: false });
        }
        sealed[..held].copy_from_slice(&self.partial);
        let (opened, rest, mut ended) = self.open(&mut sealed[..held + came], plain);
        self.idle_bytes = (self.idle_bytes + came).saturating_sub(opened * SEALED_FOR_PLAIN);
        if self.idle_bytes > IDLE_BYTES_MAX && !ended {
            self.refuse("records without anything in them");
            ended = true;
        }
        self.over = ended;
        if ended || rest == held + came {
            self.partial = Vec::new();
        } else {
            // Exact, and its own: most of the time there is none.
            self.partial = sealed[rest..held + came].to_vec();
        }
        Ok(Taken { plain: opened, more, ended })
    }

    /// Opens the records in a buffer: how many plain bytes came out, where the rest begins, and
    /// whether it was the end.
    fn open(&mut self, sealed: &mut [u8], plain: &mut [u8]) -> (usize, usize, bool) {
        let (mut opened, mut begin, mut ended) = (0, 0, false);
        loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(&mut sealed[begin..]);
            let mut fault = None;
            let mut goes_on = true;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        let Some(room) = plain.get_mut(opened..opened + record.payload.len())
                        else {
                            fault = Some("more has come than was read".to_owned());
                            break;
                        };
                        room.copy_from_slice(record.payload);
                        opened += record.payload.len();
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut self.pending, |room| {
                    data.encode(room).map_err(|fault| match fault {
                        rustls::unbuffered::EncodeError::InsufficientSize(size) => {
                            size.required_size
                        }
                        rustls::unbuffered::EncodeError::AlreadyEncoded => 0,
                    })
                }),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.established = true;
                    goes_on = false;
                }
                Ok(ConnectionState::PeerClosed) => ended = true,
                Ok(ConnectionState::BlockedHandshake) => goes_on = false,
                // Early data is not offered, so there is none; and both sides have said goodbye.
                Ok(_) => (ended, goes_on) = (true, false),
                Err(error) => fault = Some(error.to_string()),
            }
            begin += discard;
            if fault.is_none() && self.pending.len() > PENDING_BYTES_MAX {
                fault = Some("it does not read what TLS says".to_owned());
            }
            if let Some(fault) = fault {
                self.refuse(&fault);
                return (opened, begin, true);
            }
            if !goes_on {
                return (opened, begin, ended);
            }
        }
    }

    /// Ends the session for a fault of the peer. What TLS has to say about it is pending.
    fn refuse(&mut self, fault: &str) {
        self.forget_input();
        self.fault = Some(fault.into());
        (self.over, self.ended) = (true, true);
        // The alert, if there is one, comes first.
        if let Ok(ConnectionState::EncodeTlsData(mut alert)) =
            self.connection.process_tls_records(&mut []).state
        {
            encode(&mut self.pending, |room| {
                alert.encode(room).map_err(|fault| match fault {
                    rustls::unbuffered::EncodeError::InsufficientSize(size) => size.required_size,
                    rustls::unbuffered::EncodeError::AlreadyEncoded => 0,
                })
            });
        }
    }

    /// Seals plain bytes, at most [`SEALED_AT_ONCE`], into records: how long these are. `None` where
    /// nothing can be sealed.
    pub(super) fn seal(&mut self, plain: &[u8], records: &mut [u8]) -> Option<usize> {
        if self.ended {
            return None;
        }
        loop {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return traffic.encrypt(plain, records).ok();
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                // Whatever it has to say was pending when input was taken, and has left before.
                _ => return None,
            }
        }
    }

    /// Says that nothing follows (RFC 8446 6.1), once.
    pub(super) fn say_goodbye(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.connection.process_tls_records(&mut []).state
        {
            encode(&mut self.pending, |room| {
                traffic.queue_close_notify(room).map_err(|fault| match fault {
                    rustls::unbuffered::EncryptError::InsufficientSize(size) => size.required_size,
                    rustls::unbuffered::EncryptError::EncryptExhausted => 0,
                })
            });
        }
    }
}

/// Lets something be written at the end of a vector, which says how much it is: first, as an error,
/// how much room it needs.
fn encode(bytes: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, usize>) {
    let before = bytes.len();
    let written = write(&mut []).or_else(|required| {
        bytes.resize(before + required, 0);
        write(&mut bytes[before..])
    });
    bytes.truncate(before + written.unwrap_or(0));
}

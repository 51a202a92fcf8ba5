//! One simulated connection: the server's end, the network and the client's end.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Instant;

use buddyline::connection::rate::RateState;
use buddyline::hub::interface::ConnId;
use buddyline::protocol::server::EncodedFrame;
use buddyline::wire::Wire;
use buddyline::wire::outbox::{Ledger, Outbox};

use crate::bytes;
use crate::site::SECRET;

/// How a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    All,
    /// Up to this many bytes at a time.
    Some(usize),
    Nothing,
}

pub struct Link {
    // The server's end.
    pub id: ConnId,
    pub wire: Wire,
    pub outbox: Outbox,
    /// Whether the hub knows it.
    pub opened: bool,
    pub overflowed: bool,
    pub since: Instant,
    pub last_received: Instant,
    pub pings: u8,
    pub rate_state: RateState,
    /// Frames of the hub that the client has not read.
    pub expected: VecDeque<EncodedFrame>,
    // The network.
    pub to_server: Vec<u8>,
    to_client: VecDeque<u8>,
    kernel_buffer: usize,
    // The client's end.
    pub user: u64,
    /// The token with which the client authenticates.
    pub token: Option<String>,
    pub reading: Reading,
    pub pinged: VecDeque<Vec<u8>>,
    unparsed: Vec<u8>,
    is_upgrade_answered: bool,
    /// Whether the server has refused the upgrade.
    refused: bool,
    /// Whether the server has sent a close frame or refused the upgrade.
    pub is_closed_by_server: bool,
    /// The code of the server's close frame.
    pub close_code: Option<u16>,
}

impl Link {
    /// A connection whose kernel buffer holds this many unread bytes.
    pub fn new(
        id: ConnId,
        user: u64,
        token: Option<String>,
        kernel_buffer: usize,
        now: Instant,
    ) -> Link {
        Link {
            id,
            wire: Wire::new(bytes::PEER),
            outbox: Outbox::default(),
            opened: false,
            overflowed: false,
            since: now,
            last_received: now,
            pings: 0,
            rate_state: RateState::default(),
            expected: VecDeque::new(),
            to_server: Vec::new(),
            to_client: VecDeque::new(),
            kernel_buffer,
            user,
            token,
            reading: Reading::All,
            pinged: VecDeque::new(),
            unparsed: Vec::new(),
            is_upgrade_answered: false,
            refused: false,
            is_closed_by_server: false,
            close_code: None,
        }
    }

    /// Writes as much as the kernel buffer takes; the rest is charged to the ledger.
    pub fn flush(&mut self, ledger: &mut Ledger) {
        while !self.outbox.is_empty() {
            let free = self.kernel_buffer.saturating_sub(self.to_client.len());
            if free == 0 {
                return self.outbox.charge(ledger);
            }
            let mut slices = [IoSlice::new(&[]); 4];
            let filled = self.outbox.gather(&mut slices);
            let offered = slices[..filled].iter().flat_map(|slice| slice.iter().copied());
            let before = self.to_client.len();
            self.to_client.extend(offered.take(free));
            let written = self.to_client.len() - before;
            self.outbox.consume(written, ledger);
        }
    }

    /// Whether the client has read everything that the server has for it.
    pub fn is_drained(&self) -> bool {
        self.outbox.is_empty() && self.to_client.is_empty()
    }

    /// Whether the client still waits for the response to its upgrade request.
    pub fn is_unanswered(&self) -> bool {
        !self.is_upgrade_answered
    }

    /// Lets the client read, and answer pings as a client library does. Returns how many bytes it read.
    pub fn read(&mut self) -> usize {
        let bytes = match self.reading {
            Reading::All => self.to_client.len(),
            Reading::Some(bytes) => bytes.min(self.to_client.len()),
            Reading::Nothing => 0,
        };
        self.unparsed.extend(self.to_client.drain(..bytes));
        while self.read_one() {}
        bytes
    }

    fn read_one(&mut self) -> bool {
        if self.refused {
            // The body of the response follows.
            self.unparsed.clear();
            return false;
        }
        if !self.is_upgrade_answered {
            let head = self.unparsed.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = head else { return false };
            let head: Vec<u8> = self.unparsed.drain(..end + 4).collect();
            let head = String::from_utf8(head).expect("a head is text");
            assert!(!head.contains(SECRET), "a token in {head:?}");
            self.is_upgrade_answered = true;
            if !head.starts_with("HTTP/1.1 101 ") {
                (self.is_closed_by_server, self.refused) = (true, true);
            }
            return true;
        }
        let Some((first, payload, length)) = server_frame(&self.unparsed) else { return false };
        assert!(!self.is_closed_by_server, "{first:02x} {payload:02x?} after the close frame");
        match first {
            bytes::TEXT => {
                let expected = self.expected.pop_front();
                let same = expected.is_some_and(|frame| frame[..] == self.unparsed[..length]);
                let text = String::from_utf8_lossy(&payload);
                assert!(same, "not the next frame that the hub sent: {text}");
            }
            bytes::PONG => {
                let found = self.pinged.iter().position(|ping| *ping == payload);
                let found =
                    found.unwrap_or_else(|| panic!("a pong without a ping: {payload:02x?}"));
                self.pinged.drain(..=found);
            }
            bytes::PING => self.to_server.extend(bytes::frame(bytes::PONG, &payload)),
            bytes::CLOSE => {
                self.is_closed_by_server = true;
                self.close_code =
                    payload.first_chunk().map(|code: &[u8; 2]| u16::from_be_bytes(*code));
            }
            other => panic!("the server sends a frame of kind {other:02x}"),
        }
        self.unparsed.drain(..length);
        true
    }
}

/// The server's frame at the start of `bytes`, if it is complete: its first byte, its payload, and its
/// whole length.
fn server_frame(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (length, head) = match *bytes.get(1)? {
        126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
        short @ 0..126 => (u64::from(short), 2),
        _ => panic!("a server's frame is masked"),
    };
    let length = head + length as usize;
    Some((bytes[0], bytes.get(head..length)?.to_vec(), length))
}

//! One connection with both of its ends, and the network between them.

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
    /// So many bytes at a time.
    Some(usize),
    Nothing,
}

pub struct Link {
    // The server's end.
    pub id: ConnId,
    pub wire: Wire,
    pub outbox: Outbox,
    /// The hub knows it.
    pub opened: bool,
    pub overflowed: bool,
    pub since: Instant,
    pub heard: Instant,
    pub pings: u8,
    pub ahead: RateState,
    /// What was put into the outbox by the hub and has not been read.
    pub expected: VecDeque<EncodedFrame>,
    // The network.
    pub up: Vec<u8>,
    down: VecDeque<u8>,
    kernel_buffer: usize,
    // The client's end.
    pub user: u64,
    /// What the client signs in with.
    pub token: Option<String>,
    pub reading: Reading,
    pub pinged: VecDeque<Vec<u8>>,
    unparsed: Vec<u8>,
    answered: bool,
    /// No WebSocket has been opened.
    refused: bool,
    /// The server has said that this is the end.
    pub is_closed_by_server: bool,
    /// What the last frame was.
    pub close_code: Option<u16>,
}

impl Link {
    /// A connection whose kernel takes so many bytes that the client has not read.
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
            heard: now,
            pings: 0,
            ahead: RateState::default(),
            expected: VecDeque::new(),
            up: Vec::new(),
            down: VecDeque::new(),
            kernel_buffer,
            user,
            token,
            reading: Reading::All,
            pinged: VecDeque::new(),
            unparsed: Vec::new(),
            answered: false,
            refused: false,
            is_closed_by_server: false,
            close_code: None,
        }
    }

    /// Writes what the kernel takes; what is left is entered.
    pub fn flush(&mut self, ledger: &mut Ledger) {
        while !self.outbox.is_empty() {
            let kernel_buffer = self.kernel_buffer.saturating_sub(self.down.len());
            if kernel_buffer == 0 {
                return self.outbox.charge(ledger);
            }
            let mut slices = [IoSlice::new(&[]); 4];
            let filled = self.outbox.gather(&mut slices);
            let offered = slices[..filled].iter().flat_map(|slice| slice.iter().copied());
            let before = self.down.len();
            self.down.extend(offered.take(kernel_buffer));
            let written = self.down.len() - before;
            self.outbox.consume(written, ledger);
        }
    }

    /// Whether all that the server has to say has left, and has been read.
    pub fn is_silent(&self) -> bool {
        self.outbox.is_empty() && self.down.is_empty()
    }

    /// Whether the client has heard nothing yet.
    pub fn is_unanswered(&self) -> bool {
        !self.answered
    }

    /// The client reads, and answers what a client's library answers. Returns how much it has read.
    pub fn read(&mut self) -> usize {
        let bytes = match self.reading {
            Reading::All => self.down.len(),
            Reading::Some(bytes) => bytes.min(self.down.len()),
            Reading::Nothing => 0,
        };
        self.unparsed.extend(self.down.drain(..bytes));
        while self.read_one() {}
        bytes
    }

    fn read_one(&mut self) -> bool {
        if self.refused {
            // A page may follow.
            self.unparsed.clear();
            return false;
        }
        if !self.answered {
            let head = self.unparsed.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = head else { return false };
            let head: Vec<u8> = self.unparsed.drain(..end + 4).collect();
            let head = String::from_utf8(head).expect("a head is text");
            assert!(!head.contains(SECRET), "a token in {head:?}");
            self.answered = true;
            if !head.starts_with("HTTP/1.1 101 ") {
                (self.is_closed_by_server, self.refused) = (true, true);
            }
            return true;
        }
        let Some((first, payload, whole)) = server_frame(&self.unparsed) else { return false };
        assert!(!self.is_closed_by_server, "{first:02x} {payload:02x?} after the end");
        match first {
            bytes::TEXT => {
                let expected = self.expected.pop_front();
                let same = expected.is_some_and(|frame| frame[..] == self.unparsed[..whole]);
                let text = String::from_utf8_lossy(&payload);
                assert!(same, "not the next frame of what the hub has said: {text}");
            }
            bytes::PONG => {
                let asked = self.pinged.iter().position(|ping| *ping == payload);
                let asked = asked.unwrap_or_else(|| panic!("a pong for no ping: {payload:02x?}"));
                self.pinged.drain(..=asked);
            }
            bytes::PING => self.up.extend(bytes::frame(bytes::PONG, &payload)),
            bytes::CLOSE => {
                self.is_closed_by_server = true;
                self.close_code =
                    payload.first_chunk().map(|code: &[u8; 2]| u16::from_be_bytes(*code));
            }
            other => panic!("the server sends a frame of kind {other:02x}"),
        }
        self.unparsed.drain(..whole);
        true
    }
}

/// A server's whole frame at the beginning: first byte, payload, and how long it is in all.
fn server_frame(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (length, head) = match *bytes.get(1)? {
        126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
        short @ 0..126 => (u64::from(short), 2),
        _ => panic!("a server's frame is masked"),
    };
    let whole = head + length as usize;
    Some((bytes[0], bytes.get(head..whole)?.to_vec(), whole))
}

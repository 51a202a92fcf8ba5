//! The send queue of one connection: encoded frames that wait for its socket.
//!
//! The queue holds references, so slow readers of one thread share one copy of its frames. Usually
//! at most two frames wait, which needs no memory beyond the outbox itself.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;

use crate::protocol::server::EncodedFrame;

/// Memory of a queued frame besides its bytes: reference counts, allocator rounding, queue entry.
/// It is counted because a flood of empty pongs would otherwise be free.
const FRAME_OVERHEAD_BYTES: usize = 48;

/// Frames in the order in which they are sent; the first may be partially sent.
#[derive(Debug, Default)]
pub struct Outbox {
    first: Option<EncodedFrame>,
    second: Option<EncodedFrame>,
    /// Allocated while more than two frames wait.
    #[expect(clippy::box_collection, reason = "each idle connection has an outbox")]
    rest: Option<Box<VecDeque<EncodedFrame>>>,
    /// Bytes that wait, without those already sent.
    bytes: usize,
    /// Bytes of the first frame that are sent.
    sent: usize,
    /// How many frames, counted from the first, are charged to a ledger.
    charged: usize,
}

/// Initial capacity of `rest`: after a third frame usually more follow.
const REST_FRAMES: usize = 14;

/// Memory held for slow readers: each frame counts once, however many outboxes hold it.
///
/// Each outbox that could not send a frame charges it; the last one to release it removes it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// How many outboxes hold a frame, by the address of its bytes, which does not change while
    /// one of them does.
    waiting: HashMap<usize, u32>,
    bytes: usize,
}

impl Ledger {
    /// Bytes of memory: the frames, and their overhead in each queue.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records that a connection holds `now` bytes that are not queued frames, instead of `before`.
    pub fn note_held(&mut self, before: usize, now: usize) {
        self.bytes = self.bytes + now - before;
    }

    fn charge(&mut self, frame: &EncodedFrame) {
        let waiting = self.waiting.entry(frame.as_ptr().addr()).or_default();
        *waiting += 1;
        self.bytes += FRAME_OVERHEAD_BYTES + if *waiting == 1 { frame.len() } else { 0 };
    }

    fn release(&mut self, frame: &EncodedFrame) {
        let Some(waiting) = self.waiting.get_mut(&frame.as_ptr().addr()) else {
            debug_assert!(false, "only charged frames are released");
            return;
        };
        *waiting -= 1;
        self.bytes -= FRAME_OVERHEAD_BYTES;
        if *waiting == 0 {
            self.bytes -= frame.len();
            self.waiting.remove(&frame.as_ptr().addr());
        }
    }
}

impl Outbox {
    /// Appends a frame.
    pub fn push(&mut self, frame: EncodedFrame) {
        self.bytes += frame.len();
        match (&self.first, &self.second) {
            (None, _) => self.first = Some(frame),
            (_, None) => self.second = Some(frame),
            _ => {
                let more = || Box::new(VecDeque::with_capacity(REST_FRAMES));
                self.rest.get_or_insert_with(more).push_back(frame);
            }
        }
    }

    /// Bytes that wait to be sent.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory of the queued frames in bytes, as if none of them were shared.
    pub fn memory_bytes(&self) -> usize {
        self.bytes + self.count() * FRAME_OVERHEAD_BYTES
    }

    /// Whether no frame waits.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// How many frames wait.
    pub fn count(&self) -> usize {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.len());
        usize::from(self.first.is_some()) + usize::from(self.second.is_some()) + rest
    }

    /// The unsent bytes, if exactly one frame waits.
    pub fn only(&self) -> Option<&[u8]> {
        let first = self.first.as_ref().filter(|_| self.second.is_none());
        first.map(|frame| &frame[self.sent..])
    }

    fn frames(&self) -> impl Iterator<Item = &EncodedFrame> {
        self.first.iter().chain(&self.second).chain(self.rest.iter().flat_map(|rest| rest.iter()))
    }

    /// The unsent bytes, frame by frame.
    fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let skipped = std::iter::once(self.sent).chain(std::iter::repeat(0));
        self.frames().zip(skipped).map(|(frame, sent)| &frame[sent..])
    }

    /// Fills `slices` with the next unsent bytes; returns how many it filled.
    pub fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, bytes) in slices.iter_mut().zip(self.chunks()) {
            *slice = IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    /// Whether the next frames to send are these (by identity), and the first is entirely unsent.
    pub fn starts_with(&self, frames: &[EncodedFrame]) -> bool {
        let same = |(one, other): (&EncodedFrame, &EncodedFrame)| EncodedFrame::ptr_eq(one, other);
        self.sent == 0
            && !frames.is_empty()
            && frames.len() <= self.count()
            && self.frames().zip(frames).all(same)
    }

    /// Copies the next frames into `bytes` until it has at least `enough` bytes. Calls `note` with
    /// each copied frame, unless the first one is partially sent.
    pub fn copy_into(
        &self,
        bytes: &mut Vec<u8>,
        enough: usize,
        mut note: impl FnMut(&EncodedFrame),
    ) {
        let mut sent = self.sent;
        for frame in self.frames() {
            bytes.extend_from_slice(&frame[std::mem::take(&mut sent)..]);
            if self.sent == 0 {
                note(frame);
            }
            if bytes.len() >= enough {
                break;
            }
        }
    }

    /// Copies at most `max` of the next unsent bytes.
    pub fn copy_at_most(&self, bytes: &mut Vec<u8>, max: usize) {
        let mut room = max;
        for piece in self.chunks() {
            let taken = piece.len().min(room);
            bytes.extend_from_slice(&piece[..taken]);
            room -= taken;
            if room == 0 {
                break;
            }
        }
    }

    /// Removes `bytes` bytes, which have been sent.
    pub fn consume(&mut self, mut bytes: usize, ledger: &mut Ledger) {
        debug_assert!(bytes <= self.bytes, "no more is sent than waits");
        if bytes == self.bytes && self.charged == 0 {
            // The usual case: everything is sent.
            *self = Outbox::default();
            return;
        }
        self.bytes -= bytes;
        while let Some(first) = &self.first {
            let left = first.len() - self.sent;
            if bytes < left {
                self.sent += bytes;
                return;
            }
            bytes -= left;
            self.sent = 0;
            if self.charged > 0 {
                self.charged -= 1;
                ledger.release(first);
            }
            self.first = self.second.take();
            if let Some(rest) = &mut self.rest {
                self.second = rest.pop_front();
                if rest.is_empty() {
                    self.rest = None;
                }
            }
        }
    }

    /// Charges all queued frames to the ledger, because the reader is slow.
    pub fn charge(&mut self, ledger: &mut Ledger) {
        self.frames().skip(self.charged).for_each(|frame| ledger.charge(frame));
        self.charged = self.count();
    }

    /// Whether queued frames are charged to a ledger.
    pub fn is_charged(&self) -> bool {
        self.charged > 0
    }

    /// Drops all frames that are entirely unsent, and returns how many. The rest of a partially
    /// sent frame stays, since the peer could not parse the stream without it.
    pub fn drop_unsent(&mut self, ledger: &mut Ledger) -> usize {
        let kept = usize::from(self.sent > 0);
        let dropped = self.count().saturating_sub(kept);
        self.frames().take(self.charged).skip(kept).for_each(|frame| ledger.release(frame));
        self.charged = self.charged.min(kept);
        if kept == 0 {
            self.first = None;
        }
        self.second = None;
        self.rest = None;
        self.bytes = self.first.as_ref().map_or(0, |frame| frame.len() - self.sent);
        dropped
    }

    /// Drops everything, when the socket is closed.
    pub fn clear(&mut self, ledger: &mut Ledger) {
        self.sent = 0;
        self.drop_unsent(ledger);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(frames: &[&str]) -> Outbox {
        let mut outbox = Outbox::default();
        for frame in frames {
            outbox.push(frame.as_bytes().into());
        }
        outbox
    }

    fn waiting(outbox: &Outbox) -> String {
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = outbox.gather(&mut slices);
        let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        assert_eq!(bytes.len(), outbox.bytes());
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn partial_write_leaves_exactly_the_rest() {
        for sent in 0..=9 {
            let mut outbox = outbox(&["one", "", "two", "six"]);
            outbox.consume(sent, &mut Ledger::default());
            assert_eq!(waiting(&outbox), "onetwosix"[sent..]);
            assert_eq!(outbox.is_empty(), sent == 9);
            let only = outbox.only().map(|bytes| bytes.len());
            assert_eq!(only, (6..9).contains(&sent).then_some(9 - sent));
        }
    }

    #[test]
    fn partially_written_frame_is_not_dropped() {
        let ledger = &mut Ledger::default();
        let mut half_sent = outbox(&["one", "two"]);
        half_sent.consume(1, ledger);
        assert_eq!(half_sent.drop_unsent(ledger), 1);
        assert_eq!(waiting(&half_sent), "ne");
        assert_eq!(half_sent.memory_bytes(), 2 + FRAME_OVERHEAD_BYTES);

        let mut at_a_boundary = outbox(&["one", "two"]);
        at_a_boundary.consume(3, ledger);
        assert_eq!(at_a_boundary.drop_unsent(ledger), 1);
        assert_eq!(at_a_boundary.memory_bytes(), 0);
        at_a_boundary.push(b"bye".as_slice().into());
        assert_eq!(waiting(&at_a_boundary), "bye");
    }

    #[test]
    fn shared_frame_is_counted_once_until_the_last_reader() {
        let ledger = &mut Ledger::default();
        let shared = EncodedFrame::from(b"0123456789".as_slice());
        let mut both = [Outbox::default(), Outbox::default()];
        for outbox in &mut both {
            outbox.push(EncodedFrame::clone(&shared));
            outbox.push(b"own".as_slice().into());
            outbox.charge(ledger);
            // Charging twice has no effect.
            outbox.charge(ledger);
        }
        assert_eq!(ledger.bytes(), 10 + 2 * 3 + 4 * FRAME_OVERHEAD_BYTES);
        both[0].consume(10, ledger);
        assert_eq!(ledger.bytes(), 10 + 2 * 3 + 3 * FRAME_OVERHEAD_BYTES);
        both[1].consume(1, ledger);
        both[1].drop_unsent(ledger);
        assert_eq!(ledger.bytes(), 10 + 3 + 2 * FRAME_OVERHEAD_BYTES);
        both[1].push(b"late".as_slice().into());
        both[1].consume(9 + 4, ledger);
        assert_eq!(ledger.bytes(), 3 + FRAME_OVERHEAD_BYTES);
        both[0].clear(ledger);
        assert_eq!((ledger.bytes(), ledger.waiting.len()), (0, 0));
    }

    #[test]
    fn copy_takes_whole_frames_until_the_limit() {
        let mut outbox = outbox(&["one", "", "three", "four"]);
        let copy = |outbox: &Outbox, enough| {
            let (mut bytes, mut frames) = (Vec::new(), Vec::new());
            outbox.copy_into(&mut bytes, enough, |frame| frames.push(frame.clone()));
            (String::from_utf8(bytes).unwrap(), frames)
        };
        for (enough, copied, count) in [(1, "one", 1), (4, "onethree", 3), (99, "onethreefour", 4)]
        {
            let (text, frames) = copy(&outbox, enough);
            assert_eq!((text.as_str(), frames.len()), (copied, count));
            assert!(outbox.starts_with(&frames));
        }
        let (_, frames) = copy(&outbox, 99);
        outbox.consume(1, &mut Ledger::default());
        assert!(!outbox.starts_with(&frames), "the first is partially sent");
        assert_eq!(copy(&outbox, 99), ("nethreefour".to_owned(), Vec::new()));
        // Also removes the empty frame that follows.
        outbox.consume(2, &mut Ledger::default());
        assert!(outbox.starts_with(&frames[2..]) && outbox.starts_with(&frames[2..3]));
        assert!(!outbox.starts_with(&frames) && !outbox.starts_with(&frames[3..]));
        assert!(!outbox.starts_with(&[]));
    }

    #[test]
    fn gather_fills_only_the_available_slices() {
        let outbox = outbox(&["a", "b", "c"]);
        let mut slices = [IoSlice::new(&[]); 2];
        assert_eq!(outbox.gather(&mut slices), 2);
    }
}

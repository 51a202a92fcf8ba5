//! Who comes and goes, as everyone is told of it.
//!
//! Everyone hears of everyone, so that ten thousand who come at once are a hundred million frames.
//! The first of them are told at once; those that follow are gathered, and told together a little
//! later: one piece of memory and one place in each outbox, however many they are.

use std::time::{Duration, Instant};

use crate::protocol::server::EncodedFrame;

/// What is gathered waits no longer than this: a blink.
const WINDOW: Duration = Duration::from_millis(100);
/// Deliveries in a period that are made at once: a small community never waits, and of ten thousand
/// the first two do not.
const IMMEDIATE_MAX: usize = 20_000;
/// Gathered frames in bytes that do not wait for the end of the period.
const BATCH_BYTES_MAX: usize = 32 * 1024;

/// What is to be told, and when.
#[derive(Debug, Default)]
pub struct PresenceBatch {
    window_ends: Option<Instant>,
    /// Deliveries made at once in this period.
    sent: usize,
    /// Frames, one after the other.
    buffer: Vec<u8>,
}

/// What is to be told of one who has just come or gone.
#[derive(Debug, PartialEq, Eq)]
pub enum Dispatch {
    /// This one, at once.
    Immediate,
    /// All that has been gathered, this one among it: it is much.
    Flush(EncodedFrame),
    /// Nothing yet.
    Deferred,
}

impl PresenceBatch {
    /// Takes in a frame that is for so many.
    pub fn push(&mut self, frame: &EncodedFrame, subscribers: usize, now: Instant) -> Dispatch {
        // Nothing overtakes what waits.
        if self.buffer.is_empty() {
            if self.window_ends.is_none_or(|end| end <= now) {
                (self.window_ends, self.sent) = (Some(now + WINDOW), 0);
            }
            if self.sent == 0 || self.sent + subscribers <= IMMEDIATE_MAX {
                self.sent += subscribers;
                return Dispatch::Immediate;
            }
        }
        self.buffer.extend_from_slice(frame);
        match self.buffer.len() {
            BATCH_BYTES_MAX.. => Dispatch::Flush(self.take(now)),
            _ => Dispatch::Deferred,
        }
    }

    /// Takes the frames that have been gathered, if it is time to tell them.
    pub fn take_due(&mut self, now: Instant) -> Option<EncodedFrame> {
        self.next_deadline().filter(|at| *at <= now)?;
        Some(self.take(now))
    }

    fn take(&mut self, now: Instant) -> EncodedFrame {
        // Those who go on to come are gathered as well.
        (self.window_ends, self.sent) = (Some(now + WINDOW), IMMEDIATE_MAX);
        std::mem::take(&mut self.buffer).into()
    }

    /// When what has been gathered is to be told.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.window_ends.filter(|_| !self.buffer.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn frame(text: &str) -> EncodedFrame {
        text.as_bytes().into()
    }

    #[test]
    fn first_arrivals_are_announced_at_once_then_batched() {
        let (mut batch, now) = (PresenceBatch::default(), Instant::now());
        let mut push = |text, at| batch.push(&frame(text), IMMEDIATE_MAX / 2, at);
        for text in ["at", "once"] {
            assert_eq!(push(text, now), Dispatch::Immediate);
        }
        // Nothing overtakes what waits, however late the tick.
        for (text, ms) in [("one", 0), ("two", 50), ("three", 150)] {
            assert_eq!(push(text, now + ms * MS), Dispatch::Deferred);
        }
        assert_eq!(batch.next_deadline(), Some(now + WINDOW));
        assert_eq!(batch.take_due(now + 99 * MS), None);
        assert_eq!(batch.take_due(now + 100 * MS), Some(frame("onetwothree")));
        assert_eq!(batch.next_deadline(), None);
        // The flood may go on: until nobody has come for a period, nobody is told of at once.
        assert_eq!(batch.push(&frame("four"), 1, now + 199 * MS), Dispatch::Deferred);
        assert_eq!(batch.take_due(now + 200 * MS), Some(frame("four")));
        assert_eq!(batch.push(&frame("five"), 1, now + 300 * MS), Dispatch::Immediate);
    }

    #[test]
    fn single_arrivals_are_announced_at_once() {
        let (mut batch, now) = (PresenceBatch::default(), Instant::now());
        assert_eq!(batch.push(&frame("one"), 2 * IMMEDIATE_MAX, now), Dispatch::Immediate);
        assert_eq!(batch.push(&frame("two"), 2 * IMMEDIATE_MAX, now), Dispatch::Deferred);
    }

    #[test]
    fn small_audiences_get_many_announcements_at_once() {
        let (mut batch, now) = (PresenceBatch::default(), Instant::now());
        for _ in 0..1_000 {
            assert_eq!(batch.push(&frame("x"), 20, now), Dispatch::Immediate);
        }
        assert_eq!(batch.push(&frame("x"), 20, now), Dispatch::Deferred);
    }

    #[test]
    fn large_batches_are_flushed_at_once() {
        let (mut batch, now) = (PresenceBatch::default(), Instant::now());
        assert_eq!(batch.push(&frame("x"), IMMEDIATE_MAX, now), Dispatch::Immediate);
        let large = "x".repeat(BATCH_BYTES_MAX - 1);
        assert_eq!(batch.push(&frame(&large), 1, now), Dispatch::Deferred);
        let all = Dispatch::Flush(frame(&(large + "y")));
        assert_eq!(batch.push(&frame("y"), 1, now), all);
        assert_eq!(batch.next_deadline(), None);
    }
}

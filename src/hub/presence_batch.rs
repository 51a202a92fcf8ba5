//! Batches presence events (`user_connected`, `user_disconnected`) when many users come or go.
//!
//! Every event goes to every connection, so 10,000 users who connect at once cause 100 million
//! deliveries. The first events of a window are sent at once. Those that follow are collected and
//! sent together when the window ends: as one block of memory that takes one place in each outbox.

use std::time::{Duration, Instant};

use crate::protocol::server::EncodedFrame;

/// How long an event waits in a batch at most; people do not notice 100 ms.
const WINDOW: Duration = Duration::from_millis(100);
/// Deliveries that are sent at once within a window. A small community never exceeds it; with
/// 10,000 connections it allows two events.
const IMMEDIATE_MAX: usize = 20_000;
/// A batch of this many bytes is sent before the window ends.
const BATCH_BYTES_MAX: usize = 32 * 1024;

/// The current window and the batch of events collected in it.
#[derive(Debug, Default)]
pub(super) struct PresenceBatch {
    window_ends: Option<Instant>,
    /// Deliveries sent at once in this window.
    sent: usize,
    /// The batch: encoded frames, one after the other.
    buffer: Vec<u8>,
}

/// How to send an event that was pushed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Dispatch {
    /// Send this event at once.
    Immediate,
    /// Send the whole batch, which includes this event, because it is large.
    Flush(EncodedFrame),
    /// Send nothing yet: the event is in the batch.
    Deferred,
}

impl PresenceBatch {
    /// Adds an event that goes to this many connections.
    pub(super) fn push(
        &mut self,
        frame: &EncodedFrame,
        subscribers: usize,
        now: Instant,
    ) -> Dispatch {
        // An event must not overtake the batch.
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

    /// Takes the batch if the window has ended.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<EncodedFrame> {
        self.next_deadline().filter(|at| *at <= now)?;
        Some(self.take(now))
    }

    fn take(&mut self, now: Instant) -> EncodedFrame {
        // The next window begins without an immediate budget, so that a continuing flood is
        // batched.
        (self.window_ends, self.sent) = (Some(now + WINDOW), IMMEDIATE_MAX);
        std::mem::take(&mut self.buffer).into()
    }

    /// Returns when the batch is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
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
        // An event must not overtake the batch, however late the tick.
        for (text, ms) in [("one", 0), ("two", 50), ("three", 150)] {
            assert_eq!(push(text, now + ms * MS), Dispatch::Deferred);
        }
        assert_eq!(batch.next_deadline(), Some(now + WINDOW));
        assert_eq!(batch.take_due(now + 99 * MS), None);
        assert_eq!(batch.take_due(now + 100 * MS), Some(frame("onetwothree")));
        assert_eq!(batch.next_deadline(), None);
        // As long as events arrive in every window, all of them are batched.
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

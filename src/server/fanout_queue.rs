//! Connections for whom something waits that is for many: a queue that is gone through round by
//! round, a part in each tick.
//!
//! Between two parts the loop reads. So what comes in during a round leaves with the rest of it,
//! and nobody else waits for a whole round. When frames come faster than rounds end, yet a few at a
//! time, the queue rests now and then: more of them leave in one system call.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::hub::interface::ConnId;

/// A poll sleeps for whole milliseconds: rests are saved up until they are worth one.
const PAUSE: Duration = Duration::from_millis(1);
/// What came before a pause like this says nothing of what comes now.
const STATS_EXPIRE_AFTER: Duration = Duration::from_millis(10);
/// Parts over which the frames that leave in one system call are counted, about: some
/// milliseconds, or the first frames of a burst would wait.
const AVERAGE_OVER: u64 = 16;
/// Where so many leave in one system call, on the average, writing no longer keeps up with reading.
const BACKLOGGED_FRAMES_PER_WRITE: u64 = 128;
/// So that what divides them does not leave much behind.
const SCALE: u64 = 256;

/// Who waits for what is for many, and when they are written to.
#[derive(Debug, Default)]
pub(super) struct FanoutQueue {
    queue: VecDeque<ConnId>,
    /// Of the last parts: so many times `AVERAGE_OVER` times `SCALE`.
    writes: u64,
    frames: u64,
    ended: Option<Instant>,
    /// Rest that is saved up.
    saved_pause: Duration,
    paused_until: Option<Instant>,
}

/// What one part of a round has come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlushStats {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) writes: usize,
    pub(super) frames: usize,
}

impl FanoutQueue {
    pub(super) fn push(&mut self, conn: ConnId) {
        self.queue.push_back(conn);
    }

    /// Who has waited longest.
    pub(super) fn pop(&mut self) -> Option<ConnId> {
        self.queue.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// How long nobody is written to; zero if it is time for the next part.
    pub(super) fn pause_left(&self, now: Instant) -> Duration {
        let left = self.paused_until.map_or(Duration::ZERO, |until| until.duration_since(now));
        // A sleep would be twice as long as this.
        if left < PAUSE / 2 { Duration::ZERO } else { left }
    }

    /// Takes note of a part. If that saves system calls, the queue rests for a fifth of the time
    /// that it took: rounds last longer, by less than what it takes off each frame's wait that none
    /// waits for the end of the one before.
    pub(super) fn note(&mut self, stats: FlushStats) {
        if self.ended.is_none_or(|ended| stats.began.duration_since(ended) > STATS_EXPIRE_AFTER) {
            (self.writes, self.frames, self.saved_pause) = (0, 0, Duration::ZERO);
        }
        self.ended = Some(stats.ended);
        self.writes = self.writes - self.writes / AVERAGE_OVER + stats.writes as u64 * SCALE;
        self.frames = self.frames - self.frames / AVERAGE_OVER + stats.frames as u64 * SCALE;
        self.paused_until = None;
        if !self.is_pause_worthwhile() {
            return;
        }
        let took = stats.ended.duration_since(stats.began);
        // After one long part the next ones would rest for it.
        self.saved_pause = (self.saved_pause + took / 5).min(2 * PAUSE);
        if self.saved_pause >= PAUSE {
            self.saved_pause -= PAUSE;
            self.paused_until = Some(stats.ended + PAUSE);
        }
    }

    /// Whether more comes than leaves, or nearly so: then less is to be read.
    pub(super) fn is_backlogged(&self) -> bool {
        !self.queue.is_empty() && self.frames > BACKLOGGED_FRAMES_PER_WRITE * self.writes
    }

    /// Whether frames come faster than rounds end. From eight of them on in one system call, they
    /// cost more than the call does: to wait for more would save nothing.
    fn is_pause_worthwhile(&self) -> bool {
        2 * self.frames > 3 * self.writes && self.frames < 8 * self.writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Parts of a millisecond each, from `start` on, that write to ten connections; how often the
    /// queue rested after one.
    fn pauses(queue: &mut FanoutQueue, start: Instant, count: u32, frames: usize) -> usize {
        let stats = |n| {
            let (began, ended) = (start + MS * n, start + MS * (n + 1));
            queue.note(FlushStats { began, ended, writes: 10, frames });
            !queue.pause_left(ended).is_zero()
        };
        (0..count).map(stats).filter(|pauses| *pauses).count()
    }

    #[test]
    fn single_frames_are_flushed_at_once() {
        assert_eq!(pauses(&mut FanoutQueue::default(), Instant::now(), 100, 10), 0);
    }

    #[test]
    fn fast_frame_streams_are_batched() {
        let mut queue = FanoutQueue::default();
        assert_eq!(pauses(&mut queue, Instant::now(), 100, 20), 20);
    }

    #[test]
    fn large_batches_are_not_delayed_further() {
        assert_eq!(pauses(&mut FanoutQueue::default(), Instant::now(), 100, 90), 0);
    }

    #[test]
    fn burst_of_two_is_not_batched() {
        let (mut queue, start) = (FanoutQueue::default(), Instant::now());
        assert_eq!(pauses(&mut queue, start, 100, 10), 0);
        assert_eq!(pauses(&mut queue, start + 100 * MS, 8, 20), 0);
        // What was before is forgotten after a pause.
        assert_eq!(pauses(&mut queue, start + 200 * MS, 8, 20), 1);
    }

    #[test]
    fn very_large_batches_mark_the_queue_as_behind() {
        let mut queue = FanoutQueue::default();
        pauses(&mut queue, Instant::now(), 100, 2_000);
        assert!(!queue.is_backlogged(), "nobody waits");
        queue.push(ConnId { slot: 7, serial: 1 });
        assert!(queue.is_backlogged());
        pauses(&mut queue, Instant::now(), 100, 1_000);
        assert!(!queue.is_backlogged());
    }

    #[test]
    fn batching_delay_ends_when_less_than_a_sleep_remains() {
        let (mut queue, start) = (FanoutQueue::default(), Instant::now());
        assert_eq!(pauses(&mut queue, start, 5, 20), 1);
        let ended = start + 5 * MS;
        assert_eq!(queue.pause_left(ended), MS);
        assert_eq!(queue.pause_left(ended + MS / 2), MS / 2);
        assert_eq!(queue.pause_left(ended + MS * 6 / 10), Duration::ZERO);
    }
}

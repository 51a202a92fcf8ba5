//! Fan-out queue: connections with pending frames that have many receivers, flushed in parts.
//!
//! A round through the queue takes several ticks, and the loop reads between two parts. So a frame
//! that arrives during a round leaves with the rest of it, and no other connection waits for a
//! whole round. When frames arrive faster than rounds end, but few per write, the queue pauses now
//! and then, so that more frames leave in one system call.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::hub::interface::ConnId;

/// Length of a pause. A poll sleeps for whole milliseconds, so shorter pauses are accumulated.
const PAUSE: Duration = Duration::from_millis(1);
/// Averages are reset after an idle time like this.
const STATS_EXPIRE_AFTER: Duration = Duration::from_millis(10);
/// Number of parts over which frames per write are averaged. They take a few milliseconds; with
/// more, the first frames of a burst would wait.
const AVERAGE_OVER: u64 = 16;
/// With more frames per write on average, writing no longer keeps up with reading.
const BACKLOGGED_FRAMES_PER_WRITE: u64 = 128;
/// Fixed-point scale of the averages, which keeps the error of their division small.
const SCALE: u64 = 256;

/// The queue, and when to flush its next part.
#[derive(Debug, Default)]
pub(super) struct FanoutQueue {
    queue: VecDeque<ConnId>,
    /// Moving average of writes per part, times `AVERAGE_OVER` times `SCALE`.
    writes: u64,
    /// The same of frames per part.
    frames: u64,
    ended: Option<Instant>,
    /// Accumulated pause time.
    saved_pause: Duration,
    paused_until: Option<Instant>,
}

/// Writes and frames of one part of a round.
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

    /// Removes the connection that has waited longest.
    pub(super) fn pop(&mut self) -> Option<ConnId> {
        self.queue.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Time left of the current pause; zero if the next part is due.
    pub(super) fn pause_left(&self, now: Instant) -> Duration {
        let left = self.paused_until.map_or(Duration::ZERO, |until| until.duration_since(now));
        // The poll would round it up to at least twice as long.
        if left < PAUSE / 2 { Duration::ZERO } else { left }
    }

    /// Records a part. If pauses save system calls, a fifth of the time that the part took is
    /// accumulated as pause. That delays a frame by less than it gains from not waiting for the end
    /// of the round before.
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
        // Capped, so that one long part does not cause several pauses.
        self.saved_pause = (self.saved_pause + took / 5).min(2 * PAUSE);
        if self.saved_pause >= PAUSE {
            self.saved_pause -= PAUSE;
            self.paused_until = Some(stats.ended + PAUSE);
        }
    }

    /// Whether frames arrive about as fast as they are sent, or faster: then less should be read.
    pub(super) fn is_backlogged(&self) -> bool {
        !self.queue.is_empty() && self.frames > BACKLOGGED_FRAMES_PER_WRITE * self.writes
    }

    /// Whether frames arrive faster than rounds end, with fewer than eight per write. Eight frames
    /// cost more than the system call, so a pause would save nothing.
    fn is_pause_worthwhile(&self) -> bool {
        2 * self.frames > 3 * self.writes && self.frames < 8 * self.writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Records `count` parts of 1 ms each that write to ten connections. Returns the number of
    /// pauses.
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
        // The averages are reset after an idle time.
        assert_eq!(pauses(&mut queue, start + 200 * MS, 8, 20), 1);
    }

    #[test]
    fn very_large_batches_mark_the_queue_as_behind() {
        let mut queue = FanoutQueue::default();
        pauses(&mut queue, Instant::now(), 100, 2_000);
        assert!(!queue.is_backlogged(), "the queue is empty");
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

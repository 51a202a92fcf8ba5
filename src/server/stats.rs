//! Counters and histograms of the event loop, for metrics only.

use std::time::Instant;

use crate::hub::interface::Now;
use crate::metrics::histogram::Histogram;
use crate::protocol::frame_kind::ServerFrameKind;

/// Bounds of tick durations in microseconds: most ticks are below the second, and ticks above 50 ms
/// have delayed all clients.
static TICK_BOUNDS: [u64; 12] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 1_000_000];
/// Bounds of receivers per frame.
static FAN_OUT_BOUNDS: [u64; 9] = [2, 4, 8, 16, 64, 256, 1_024, 4_096, 16_384];
/// Bounds of bytes in one outbox.
static OUTBOX_BOUNDS: [u64; 7] = [0, 1_024, 16_384, 65_536, 262_144, 1_048_576, 4_194_304];

/// Counters and histograms.
#[derive(Debug)]
pub(super) struct ServerStats {
    /// Start time of the server, in seconds since 1970.
    pub(super) started_unix_s: u64,
    /// Bytes read from clients.
    pub(super) received_bytes: u64,
    /// Pings and pongs received from clients.
    pub(super) control: u64,
    /// Callees without a connection.
    pub(super) offline_callees: u64,
    /// Frames put into outboxes, in the order of [`ServerFrameKind::ALL`].
    sent: [u64; ServerFrameKind::ALL.len()],
    /// Receivers of each frame that has more than one.
    pub(super) fan_outs: Histogram<9>,
    /// Bytes in the outbox of each connection, sampled by the sweep of timeouts.
    pub(super) outboxes: Histogram<7>,
    /// Duration of ticks, without polling.
    pub(super) ticks: Histogram<12>,
    tick_began: Option<Instant>,
}

impl ServerStats {
    pub(super) fn new(now: Now) -> ServerStats {
        ServerStats {
            started_unix_s: now.unix_s,
            received_bytes: 0,
            control: 0,
            offline_callees: 0,
            sent: [0; ServerFrameKind::ALL.len()],
            fan_outs: Histogram::new(&FAN_OUT_BOUNDS),
            outboxes: Histogram::new(&OUTBOX_BOUNDS),
            ticks: Histogram::new(&TICK_BOUNDS),
            tick_began: None,
        }
    }

    /// Counts a frame that was put into `receivers` outboxes.
    pub(super) fn count_sent(&mut self, kind: ServerFrameKind, receivers: u64) {
        self.sent[kind as usize] += receivers;
    }

    /// Frames put into outboxes, by kind.
    pub(super) fn sent_by_kind(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ServerFrameKind::ALL.into_iter().map(|(_, name)| name).zip(self.sent)
    }

    /// Starts the time of a tick, when polling has ended.
    pub(super) fn begin_tick(&mut self, now: Instant) {
        self.tick_began = Some(now);
    }

    /// Ends the time of a tick, before the next poll.
    pub(super) fn end_tick(&mut self, now: Instant) {
        if let Some(began) = self.tick_began.take() {
            let took = now.saturating_duration_since(began).as_micros();
            self.ticks.record(u64::try_from(took).unwrap_or(u64::MAX));
        }
    }
}

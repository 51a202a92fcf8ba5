//! What one tick may take, and what it took.

use std::time::{Duration, Instant};

/// Steps that may be taken before the clock is looked at again; each may be for a whole thread.
const STEPS_PER_CLOCK_READ: u32 = 8;
/// The same where a step takes some microseconds, and the phase milliseconds.
const SHORT_STEPS_PER_CLOCK_READ: u32 = 32;
/// Deliveries before the clock is looked at again.
const DELIVERIES_PER_CLOCK_READ: u64 = 4_096;

/// One phase of a tick, bounded by the clock.
///
/// Looking at the clock costs as much as a delivery, and most ticks are short. So it is looked at
/// only once a few steps have been taken: a phase of a few steps never does.
#[derive(Debug)]
pub(super) struct TimeBudget {
    limit: Duration,
    deadline: Option<Instant>,
    steps_per_clock_read: u32,
    steps: u32,
    deliveries: u64,
    exhausted: bool,
}

impl TimeBudget {
    /// One that may last this long, begun when `deliveries` had been made.
    pub(super) fn new(limit: Duration, deliveries: u64) -> TimeBudget {
        let steps_per_clock_read = STEPS_PER_CLOCK_READ;
        TimeBudget {
            limit,
            deadline: None,
            steps_per_clock_read,
            steps: 0,
            deliveries,
            exhausted: false,
        }
    }

    /// One whose steps are short, beside what they deliver.
    pub(super) fn with_short_steps(limit: Duration, deliveries: u64) -> TimeBudget {
        let steps_per_clock_read = SHORT_STEPS_PER_CLOCK_READ;
        TimeBudget { steps_per_clock_read, ..TimeBudget::new(limit, deliveries) }
    }

    /// Whether its time was over when that was last asked.
    pub(super) fn was_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Whether its time is over; asked before each step.
    pub(super) fn is_exhausted(&mut self, deliveries: u64) -> bool {
        self.steps += 1;
        let many = self.steps > self.steps_per_clock_read;
        if !self.exhausted && (many || deliveries - self.deliveries >= DELIVERIES_PER_CLOCK_READ) {
            let now = Instant::now();
            self.exhausted = now >= *self.deadline.get_or_insert(now + self.limit);
            (self.steps, self.deliveries) = (0, deliveries);
        }
        self.exhausted
    }

    /// The same where a single step may take as long as a phase should: the clock is looked at
    /// before each.
    pub(super) fn is_exhausted_now(&mut self) -> bool {
        self.steps = self.steps_per_clock_read;
        self.is_exhausted(self.deliveries)
    }
}

/// What a tick has done, for the log line of one that took too long.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TickWork {
    pub events: usize,
    pub frames: usize,
    pub accepted: usize,
    pub answers: usize,
    pub timers: usize,
    pub deliveries: u64,
    pub flushed: usize,
    pub swept: usize,
    pub reaped: usize,
}

/// A tick that takes longer has kept everyone waiting.
pub(super) const SLOW_TICK: Duration = Duration::from_millis(50);
/// Ticks that took too long are warned of this often.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The ticks that took too long.
#[derive(Debug, Default)]
pub(super) struct SlowTicks {
    pub(super) count: u64,
    warned: Option<Instant>,
}

impl SlowTicks {
    /// Notes how long a tick took that did this work.
    pub(super) fn record(&mut self, began: Instant, ended: Instant, work: &TickWork) {
        let took = ended.saturating_duration_since(began);
        if took < SLOW_TICK {
            return;
        }
        self.count += 1;
        let quiet = self.warned.is_some_and(|then| ended.duration_since(then) < WARN_EVERY);
        let level = if quiet { log::Level::Debug } else { log::Level::Warn };
        if !quiet {
            self.warned = Some(ended);
        }
        let (count, took) = (self.count, took.as_millis());
        log::log!(level, "a tick took {took} ms, number {count} of that kind: {work:?}");
    }
}

/// The server's watch: time since its start, without that in which the whole process stood still.
///
/// A process that was stopped for ten seconds has heard nothing for ten seconds, which is not its
/// clients' fault: their time limits go by this.
#[derive(Debug)]
pub(super) struct ActiveClock {
    last: Instant,
    active: Duration,
}

/// The loop sleeps for a second at most: whatever is longer was no sleep of its own.
const SLEEP_MAX: Duration = Duration::from_secs(2);

impl ActiveClock {
    pub(super) fn new(now: Instant) -> ActiveClock {
        ActiveClock { last: now, active: Duration::ZERO }
    }

    /// How long the server has been awake.
    pub(super) fn advance(&mut self, now: Instant) -> Duration {
        self.active += now.saturating_duration_since(self.last).min(SLEEP_MAX);
        self.last = now;
        self.active
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_phase_does_not_read_the_clock() {
        let mut budget = TimeBudget::new(Duration::ZERO, 7);
        assert!(
            (0..STEPS_PER_CLOCK_READ)
                .all(|_| !budget.is_exhausted(7 + DELIVERIES_PER_CLOCK_READ - 1))
        );
        assert!(budget.is_exhausted(7));
        assert!(budget.is_exhausted(7), "and stays over");
    }

    #[test]
    fn many_short_steps_still_read_the_clock() {
        let mut budget = TimeBudget::with_short_steps(Duration::ZERO, 7);
        assert!(
            (0..SHORT_STEPS_PER_CLOCK_READ)
                .all(|_| !budget.is_exhausted(7) && !budget.was_exhausted())
        );
        assert!(budget.is_exhausted(7) && budget.was_exhausted());
        let mut budget = TimeBudget::with_short_steps(Duration::ZERO, 7);
        assert!(budget.is_exhausted(7 + DELIVERIES_PER_CLOCK_READ) && budget.was_exhausted());
    }

    #[test]
    fn many_deliveries_read_the_clock() {
        let mut budget = TimeBudget::new(Duration::ZERO, 7);
        assert!(budget.is_exhausted(7 + DELIVERIES_PER_CLOCK_READ));
        let mut long = TimeBudget::new(Duration::from_secs(60), 7);
        assert!((1..100).all(|n| !long.is_exhausted(7 + n * DELIVERIES_PER_CLOCK_READ)));
    }

    #[test]
    fn long_steps_read_the_clock_before_each() {
        let mut budget = TimeBudget::new(Duration::ZERO, 0);
        assert!(budget.is_exhausted_now(), "no time at all");
        let mut short = TimeBudget::new(Duration::from_millis(1), 0);
        assert!(!short.is_exhausted_now(), "its time begins");
        std::thread::sleep(Duration::from_millis(2));
        assert!(short.is_exhausted_now());
        let mut long = TimeBudget::new(Duration::from_secs(60), 0);
        assert!((0..100).all(|_| !long.is_exhausted_now()));
    }

    #[test]
    fn watchdog_pauses_while_the_process_is_suspended() {
        let start = Instant::now();
        let mut active_clock = ActiveClock::new(start);
        let second = Duration::from_secs(1);
        assert_eq!(active_clock.advance(start + second), second);
        assert_eq!(active_clock.advance(start + 3_600 * second), second + SLEEP_MAX);
        // No clock of this kind goes back, but nothing breaks if one does.
        assert_eq!(active_clock.advance(start), second + SLEEP_MAX);
    }

    #[test]
    fn overlong_tick_is_counted() {
        let (mut slow, start) = (SlowTicks::default(), Instant::now());
        slow.record(start, start + SLOW_TICK / 2, &TickWork::default());
        assert_eq!(slow.count, 0);
        slow.record(start, start + SLOW_TICK, &TickWork::default());
        slow.record(start, start + 2 * SLOW_TICK, &TickWork::default());
        assert_eq!(slow.count, 2);
    }
}

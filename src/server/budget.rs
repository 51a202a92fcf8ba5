//! Time budgets of a tick's phases, detection of slow ticks, and the active clock.

use std::time::{Duration, Instant};

/// Steps between two reads of the clock; each step may deliver to a whole thread.
const STEPS_PER_CLOCK_READ: u32 = 8;
/// The same for phases of milliseconds whose steps take microseconds.
const SHORT_STEPS_PER_CLOCK_READ: u32 = 32;
/// Deliveries between two reads of the clock.
const DELIVERIES_PER_CLOCK_READ: u64 = 4_096;

/// Time budget of one phase of a tick.
///
/// Reading the clock costs as much as a delivery, and most ticks are short. So the clock is read
/// only after several steps, and never in a phase of a few steps.
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
    /// A budget of `limit`, for a phase that begins after `deliveries` deliveries in total.
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

    /// A budget for steps that are short apart from their deliveries.
    pub(super) fn with_short_steps(limit: Duration, deliveries: u64) -> TimeBudget {
        let steps_per_clock_read = SHORT_STEPS_PER_CLOCK_READ;
        TimeBudget { steps_per_clock_read, ..TimeBudget::new(limit, deliveries) }
    }

    /// Whether the last check found the budget exhausted.
    pub(super) fn was_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Whether the budget is exhausted; call it before each step, with the total of deliveries.
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

    /// Like [`TimeBudget::is_exhausted`] for steps that may each use up the budget: reads the clock
    /// every time.
    pub(super) fn is_exhausted_now(&mut self) -> bool {
        self.steps = self.steps_per_clock_read;
        self.is_exhausted(self.deliveries)
    }
}

/// Work done in a tick, for the log line of a slow tick.
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

/// Ticks that take at least this long are counted as slow.
pub(super) const SLOW_TICK: Duration = Duration::from_millis(50);
/// Minimum time between two warnings of slow ticks.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Counts and logs slow ticks.
#[derive(Debug, Default)]
pub(super) struct SlowTicks {
    pub(super) count: u64,
    warned: Option<Instant>,
}

impl SlowTicks {
    /// Records the duration and the work of a tick.
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
        log::log!(level, "a tick took {took} ms (slow tick {count} since the start): {work:?}");
    }
}

/// Time since the server's start, without times in which the whole process was suspended.
///
/// Clients' timeouts use this clock: a process that was stopped for ten seconds has read nothing
/// for ten seconds, which does not make its clients silent.
#[derive(Debug)]
pub(super) struct ActiveClock {
    last: Instant,
    active: Duration,
}

/// The loop sleeps for at most a second: a longer gap means that the process was suspended.
const SLEEP_MAX: Duration = Duration::from_secs(2);

impl ActiveClock {
    pub(super) fn new(now: Instant) -> ActiveClock {
        ActiveClock { last: now, active: Duration::ZERO }
    }

    /// Advances to `now` and returns the active time since the start.
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
        assert!(budget.is_exhausted(7), "and stays exhausted");
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
        assert!(budget.is_exhausted_now(), "a zero budget");
        let mut short = TimeBudget::new(Duration::from_millis(1), 0);
        assert!(!short.is_exhausted_now(), "the first check starts the time");
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
        // A monotonic clock does not go back, but it would do no harm.
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

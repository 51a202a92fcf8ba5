//! What one tick may take, and what it took.

use std::time::{Duration, Instant};

/// Steps that may be taken before the clock is looked at again; each may be for a whole thread.
const STEPS_PER_LOOK: u32 = 8;
/// The same where a step takes some microseconds, and the phase milliseconds.
const SHORT_STEPS_PER_LOOK: u32 = 32;
/// Deliveries before the clock is looked at again.
const DELIVERIES_PER_LOOK: u64 = 4_096;

/// One phase of a tick, bounded by the clock.
///
/// Looking at the clock costs as much as a delivery, and most ticks are short. So it is looked at
/// only once a few steps have been taken: a phase of a few steps never does.
#[derive(Debug)]
pub(super) struct Phase {
    lasts: Duration,
    ends: Option<Instant>,
    steps_per_look: u32,
    steps: u32,
    deliveries: u64,
    over: bool,
}

impl Phase {
    /// One that may last this long, begun when `deliveries` had been made.
    pub(super) fn new(lasts: Duration, deliveries: u64) -> Phase {
        let steps_per_look = STEPS_PER_LOOK;
        Phase { lasts, ends: None, steps_per_look, steps: 0, deliveries, over: false }
    }

    /// One whose steps are short, beside what they deliver.
    pub(super) fn of_short_steps(lasts: Duration, deliveries: u64) -> Phase {
        let steps_per_look = SHORT_STEPS_PER_LOOK;
        Phase { steps_per_look, ..Phase::new(lasts, deliveries) }
    }

    /// Whether its time was over when that was last asked.
    pub(super) fn was_over(&self) -> bool {
        self.over
    }

    /// Whether its time is over; asked before each step.
    pub(super) fn is_over(&mut self, deliveries: u64) -> bool {
        self.steps += 1;
        let many = self.steps > self.steps_per_look;
        if !self.over && (many || deliveries - self.deliveries >= DELIVERIES_PER_LOOK) {
            let now = Instant::now();
            self.over = now >= *self.ends.get_or_insert(now + self.lasts);
            (self.steps, self.deliveries) = (0, deliveries);
        }
        self.over
    }

    /// The same where a single step may take as long as a phase should: the clock is looked at
    /// before each.
    pub(super) fn is_over_now(&mut self) -> bool {
        self.steps = self.steps_per_look;
        self.is_over(self.deliveries)
    }
}

/// What a tick has done, for the log line of one that took too long.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    pub events: usize,
    pub frames: usize,
    pub accepted: usize,
    pub answers: usize,
    pub due: usize,
    pub deliveries: u64,
    pub flushed: usize,
    pub swept: usize,
    pub buried: usize,
}

/// A tick that takes longer has kept everyone waiting.
pub(super) const TICK_LASTS: Duration = Duration::from_millis(50);
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
    pub(super) fn record(&mut self, began: Instant, ended: Instant, work: &Work) {
        let took = ended.saturating_duration_since(began);
        if took < TICK_LASTS {
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
pub(super) struct Watch {
    looked: Instant,
    awake: Duration,
}

/// The loop sleeps for a second at most: whatever is longer was no sleep of its own.
const STOOD_STILL: Duration = Duration::from_secs(2);

impl Watch {
    pub(super) fn new(now: Instant) -> Watch {
        Watch { looked: now, awake: Duration::ZERO }
    }

    /// How long the server has been awake.
    pub(super) fn look(&mut self, now: Instant) -> Duration {
        self.awake += now.saturating_duration_since(self.looked).min(STOOD_STILL);
        self.looked = now;
        self.awake
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_of_a_few_steps_does_not_look_at_the_clock() {
        let mut phase = Phase::new(Duration::ZERO, 7);
        assert!((0..STEPS_PER_LOOK).all(|_| !phase.is_over(7 + DELIVERIES_PER_LOOK - 1)));
        assert!(phase.is_over(7));
        assert!(phase.is_over(7), "and stays over");
    }

    #[test]
    fn a_phase_of_short_steps_looks_at_the_clock_all_the_same() {
        let mut phase = Phase::of_short_steps(Duration::ZERO, 7);
        assert!((0..SHORT_STEPS_PER_LOOK).all(|_| !phase.is_over(7) && !phase.was_over()));
        assert!(phase.is_over(7) && phase.was_over());
        let mut phase = Phase::of_short_steps(Duration::ZERO, 7);
        assert!(phase.is_over(7 + DELIVERIES_PER_LOOK) && phase.was_over());
    }

    #[test]
    fn a_phase_of_many_deliveries_looks_at_the_clock() {
        let mut phase = Phase::new(Duration::ZERO, 7);
        assert!(phase.is_over(7 + DELIVERIES_PER_LOOK));
        let mut long = Phase::new(Duration::from_secs(60), 7);
        assert!((1..100).all(|n| !long.is_over(7 + n * DELIVERIES_PER_LOOK)));
    }

    #[test]
    fn a_phase_of_long_steps_looks_at_the_clock_before_each() {
        let mut phase = Phase::new(Duration::ZERO, 0);
        assert!(phase.is_over_now(), "no time at all");
        let mut short = Phase::new(Duration::from_millis(1), 0);
        assert!(!short.is_over_now(), "its time begins");
        std::thread::sleep(Duration::from_millis(2));
        assert!(short.is_over_now());
        let mut long = Phase::new(Duration::from_secs(60), 0);
        assert!((0..100).all(|_| !long.is_over_now()));
    }

    #[test]
    fn the_watch_stands_still_while_the_process_does() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let second = Duration::from_secs(1);
        assert_eq!(watch.look(start + second), second);
        assert_eq!(watch.look(start + 3_600 * second), second + STOOD_STILL);
        // No clock of this kind goes back, but nothing breaks if one does.
        assert_eq!(watch.look(start), second + STOOD_STILL);
    }

    #[test]
    fn a_tick_that_takes_too_long_is_counted() {
        let (mut slow, start) = (SlowTicks::default(), Instant::now());
        slow.record(start, start + TICK_LASTS / 2, &Work::default());
        assert_eq!(slow.count, 0);
        slow.record(start, start + TICK_LASTS, &Work::default());
        slow.record(start, start + 2 * TICK_LASTS, &Work::default());
        assert_eq!(slow.count, 2);
    }
}

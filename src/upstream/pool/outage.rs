//! Tells outages apart, so that each has a first and a last log line.
//!
//! An outage begins with a failure and is over once the site has answered well for a while. That
//! while is longer if outages follow each other closely: a site that fails every few seconds has
//! one long outage, and the log stays readable.

use std::time::{Duration, Instant};

/// The site must answer well for this long before an outage is over.
const QUIET_MIN: Duration = Duration::from_secs(1);
/// The longest such time.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// The current outage, and what is remembered of the last one.
#[derive(Debug)]
pub(super) struct Outages {
    current: Option<Outage>,
    /// How long the site must answer well before the next outage is over.
    quiet: Duration,
    last_end: Option<Instant>,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    /// The first success since the last failure.
    recovered_at: Option<Instant>,
}

impl Default for Outages {
    fn default() -> Outages {
        Outages { current: None, quiet: QUIET_MIN, last_end: None }
    }
}

impl Outages {
    /// Records a failure; true if it begins an outage.
    pub(super) fn record_failure(&mut self, now: Instant) -> bool {
        if let Some(outage) = &mut self.current {
            outage.recovered_at = None;
            return false;
        }
        let is_close =
            self.last_end.is_some_and(|at| now.saturating_duration_since(at) < QUIET_MAX);
        self.quiet = if is_close { (self.quiet * 2).min(QUIET_MAX) } else { QUIET_MIN };
        self.current = Some(Outage { since: now, recovered_at: None });
        true
    }

    /// Records that the site has answered well.
    pub(super) fn record_success(&mut self, now: Instant) {
        if let Some(outage) = &mut self.current {
            outage.recovered_at.get_or_insert(now);
        }
    }

    /// When [`Outages::take_end`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        Some(self.current.as_ref()?.recovered_at? + self.quiet)
    }

    /// Ends the outage if the site has answered well for long enough; returns how long it lasted.
    pub(super) fn take_end(&mut self, now: Instant) -> Option<Duration> {
        self.deadline().filter(|at| *at <= now)?;
        let outage = self.current.take()?;
        self.last_end = Some(now);
        Some(outage.recovered_at?.saturating_duration_since(outage.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn outage_ends_after_a_quiet_second() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        outages.record_success(start);
        assert_eq!(outages.deadline(), None);
        assert!(outages.record_failure(start));
        assert!(!outages.record_failure(start + 500 * MS));
        outages.record_success(start + 600 * MS);
        assert!(!outages.record_failure(start + 700 * MS), "the same outage");
        outages.record_success(start + 800 * MS);
        outages.record_success(start + 900 * MS);
        assert_eq!(outages.take_end(start + 1_799 * MS), None);
        assert_eq!(outages.deadline(), Some(start + 1_800 * MS));
        assert_eq!(outages.take_end(start + 1_800 * MS), Some(800 * MS));
        assert_eq!(outages.take_end(start + 9_000 * MS), None);
    }

    #[test]
    fn flapping_site_has_ever_longer_outages() {
        let (mut outages, start) = (Outages::default(), Instant::now());
        let (mut begun, mut ended) = (0, 0);
        // It fails every third second, for an hour.
        for s in 0..3_600 {
            let now = start + s * 1_000 * MS;
            ended += u32::from(outages.take_end(now).is_some());
            if s % 3 == 0 {
                begun += u32::from(outages.record_failure(now));
            } else {
                outages.record_success(now);
            }
        }
        assert!((1..=4).contains(&begun) && ended < begun, "{begun} {ended}");
        // After an hour of good answers, outages are short again.
        let later = start + 7_200_000 * MS;
        outages.record_success(later);
        assert!(outages.take_end(later + 61_000 * MS).is_some());
        assert!(outages.record_failure(later + 3_600_000 * MS));
        outages.record_success(later + 3_600_000 * MS);
        assert!(outages.take_end(later + 3_601_000 * MS).is_some());
    }
}

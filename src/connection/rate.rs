//! Rate limit of a client's frames: a token bucket (GCRA).
//!
//! No library (such as `governor`): they read the clock or use atomics, and the server needs
//! 8 bytes a connection, the time of the tick, and a third verdict for floods.

use std::time::Duration;

/// A rate with a burst, the same for all clients.
///
/// It counts time instead of tokens (the generic cell rate algorithm): each frame advances the
/// client's state by the interval of the rate, and the state may be ahead of the clock by the
/// burst. The `governor` crate does the same with a clock and atomics that one thread does not
/// need.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    interval_ns: u64,
    /// Frames are accepted while the state is at most this far ahead of the clock.
    burst_ns: u64,
    /// Beyond the burst, frames are refused one by one for this long; after that it is a flood.
    refused_ns: u64,
}

/// Decision of the rate limit on one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateVerdict {
    /// The frame is processed.
    Accepted,
    /// The frame is answered with an error.
    Refused,
    /// The client has exceeded the limit for too long; the connection is closed.
    Flood,
}

/// One client's state: the time up to which its frames are paid for, in nanoseconds since the
/// server's start.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateState(u64);

/// One second's worth of frames is refused one by one before it counts as a flood.
const REFUSED: Duration = Duration::from_secs(1);

impl RateLimit {
    /// Allows `per_second` frames in the long run and `burst` at once.
    pub fn new(per_second: usize, burst: usize) -> RateLimit {
        let interval_ns = 1_000_000_000 / (per_second as u64).max(1);
        let burst_ns = interval_ns.saturating_mul(burst as u64);
        let refused = REFUSED.as_nanos() as u64;
        // With an interval of more than a second, one frame is still refused before the flood.
        RateLimit { interval_ns, burst_ns, refused_ns: refused.max(interval_ns) }
    }

    /// Checks one more frame, `since_start` after the server's start.
    pub fn check(&self, state: &mut RateState, since_start: Duration) -> RateVerdict {
        let now = since_start.as_nanos() as u64;
        let paid = state.0.max(now).saturating_add(self.interval_ns);
        let ahead = paid - now;
        if ahead <= self.burst_ns {
            state.0 = paid;
            RateVerdict::Accepted
        } else if ahead <= self.burst_ns.saturating_add(self.refused_ns) {
            state.0 = paid;
            RateVerdict::Refused
        } else {
            RateVerdict::Flood
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rate: &RateLimit, state: &mut RateState, at_ms: u64, frames: usize) -> [usize; 3] {
        let mut counts = [0; 3];
        for _ in 0..frames {
            counts[rate.check(state, Duration::from_millis(at_ms)) as usize] += 1;
        }
        counts
    }

    #[test]
    fn burst_is_accepted_then_refused_then_flood() {
        let (rate, mut state) = (RateLimit::new(50, 200), RateState::default());
        assert_eq!(check(&rate, &mut state, 0, 1_000), [200, 50, 750]);
        // Refused frames count as well.
        assert_eq!(check(&rate, &mut state, 1_000, 100), [0, 50, 50]);
        assert_eq!(check(&rate, &mut state, 3_000, 200), [50, 50, 100]);
    }

    #[test]
    fn frames_within_the_rate_are_always_accepted() {
        let (rate, mut state) = (RateLimit::new(50, 1), RateState::default());
        for at in 0..1_000 {
            assert_eq!(check(&rate, &mut state, at * 20, 1), [1, 0, 0], "at {at}");
        }
    }

    #[test]
    fn without_limits_nothing_is_counted() {
        let (rate, mut state) = (RateLimit::new(usize::MAX, usize::MAX), RateState::default());
        assert_eq!(check(&rate, &mut state, 0, 100_000), [100_000, 0, 0]);
        let no_burst = RateLimit::new(50, usize::MAX);
        assert_eq!(check(&no_burst, &mut state, 0, 100_000), [100_000, 0, 0]);
    }

    #[test]
    fn rate_counter_works_after_a_century() {
        let (rate, mut state) = (RateLimit::new(1, 10), RateState::default());
        let at = 100 * 365 * 24 * 3_600_000;
        assert_eq!(check(&rate, &mut state, at, 12), [10, 1, 1]);
    }
}

//! How many frames a client may send: a token bucket.

use std::time::Duration;

/// A rate with a burst, the same for all clients.
///
/// Instead of tokens it counts time (the generic cell rate algorithm): each frame is paid with the
/// interval of the rate, and nobody may be ahead of the clock by more than the burst is worth.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    interval_ns: u64,
    /// So far ahead, everything is accepted.
    burst_ns: u64,
    /// From there on as well, frames are refused one by one; beyond it is a flood.
    refused_ns: u64,
}

/// What is to be done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is heard.
    Accepted,
    /// It is answered with an error.
    Refused,
    /// Its sender has gone on for too long.
    Flood,
}

/// How far ahead of the clock one client is: nanoseconds since the server's start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead(u64);

/// Frames refused one by one are a second's worth.
const REFUSED: Duration = Duration::from_secs(1);

impl Rate {
    /// So many a second in the long run, and so many at once.
    pub fn new(per_second: usize, burst: usize) -> Rate {
        let interval_ns = 1_000_000_000 / (per_second as u64).max(1);
        let burst_ns = interval_ns.saturating_mul(burst as u64);
        let refused = REFUSED.as_nanos() as u64;
        // At a frame in two seconds, one is refused.
        Rate { interval_ns, burst_ns, refused_ns: refused.max(interval_ns) }
    }

    /// Judges one more frame, `since_start` after the server's start.
    pub fn judge(&self, ahead: &mut Ahead, since_start: Duration) -> Verdict {
        let now = since_start.as_nanos() as u64;
        let paid = ahead.0.max(now).saturating_add(self.interval_ns);
        let by = paid - now;
        if by <= self.burst_ns {
            ahead.0 = paid;
            Verdict::Accepted
        } else if by <= self.burst_ns.saturating_add(self.refused_ns) {
            ahead.0 = paid;
            Verdict::Refused
        } else {
            Verdict::Flood
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(rate: &Rate, ahead: &mut Ahead, at_ms: u64, frames: usize) -> [usize; 3] {
        let mut counts = [0; 3];
        for _ in 0..frames {
            counts[rate.judge(ahead, Duration::from_millis(at_ms)) as usize] += 1;
        }
        counts
    }

    #[test]
    fn a_burst_is_heard_a_second_s_worth_refused_and_the_rest_is_a_flood() {
        let (rate, mut ahead) = (Rate::new(50, 200), Ahead::default());
        assert_eq!(judge(&rate, &mut ahead, 0, 1_000), [200, 50, 750]);
        // Refused frames are paid for as well.
        assert_eq!(judge(&rate, &mut ahead, 1_000, 100), [0, 50, 50]);
        assert_eq!(judge(&rate, &mut ahead, 3_000, 200), [50, 50, 100]);
    }

    #[test]
    fn who_keeps_to_the_rate_is_always_heard() {
        let (rate, mut ahead) = (Rate::new(50, 1), Ahead::default());
        for at in 0..1_000 {
            assert_eq!(judge(&rate, &mut ahead, at * 20, 1), [1, 0, 0], "at {at}");
        }
    }

    #[test]
    fn without_limits_nothing_is_counted() {
        let (rate, mut ahead) = (Rate::new(usize::MAX, usize::MAX), Ahead::default());
        assert_eq!(judge(&rate, &mut ahead, 0, 100_000), [100_000, 0, 0]);
        let no_burst = Rate::new(50, usize::MAX);
        assert_eq!(judge(&no_burst, &mut ahead, 0, 100_000), [100_000, 0, 0]);
    }

    #[test]
    fn after_a_century_the_count_goes_on() {
        let (rate, mut ahead) = (Rate::new(1, 10), Ahead::default());
        let at = 100 * 365 * 24 * 3_600_000;
        assert_eq!(judge(&rate, &mut ahead, at, 12), [10, 1, 1]);
    }
}

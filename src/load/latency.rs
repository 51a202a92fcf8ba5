//! Latency histograms of the load test, and the percentiles that the report shows.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Relative error of a percentile: three significant digits.
const SIGNIFICANT_DIGITS: u8 = 3;
/// Longest duration that is told apart, an hour in nanoseconds; a run is shorter.
const NANOS_MAX: u64 = 3_600_000_000_000;

/// Durations in nanoseconds, in a fixed amount of memory.
#[derive(Debug)]
pub(super) struct Latencies {
    nanos: Histogram<u64>,
}

/// Count and percentiles of a histogram, in milliseconds; all are 0 if nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Number of recorded durations.
    pub count: u64,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// 99.9th percentile.
    pub p999_ms: f64,
    /// Maximum.
    pub max_ms: f64,
}

impl Default for Latencies {
    fn default() -> Latencies {
        let nanos = Histogram::new_with_max(NANOS_MAX, SIGNIFICANT_DIGITS);
        Latencies { nanos: nanos.expect("the bounds are valid") }
    }
}

impl Latencies {
    /// Records a duration in nanoseconds.
    pub(super) fn record(&mut self, nanos: u64) {
        self.nanos.saturating_record(nanos);
    }

    /// Returns the count and the percentiles.
    pub(super) fn summary(&self) -> Summary {
        let ms = |nanos: u64| nanos as f64 / 1e6;
        let quantile_ms = |quantile: f64| ms(self.nanos.value_at_quantile(quantile));
        Summary {
            count: self.nanos.len(),
            p50_ms: quantile_ms(0.5),
            p99_ms: quantile_ms(0.99),
            p999_ms: quantile_ms(0.999),
            max_ms: ms(self.nanos.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_correct_to_three_digits() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.summary(), Summary::default(), "an empty histogram is all zeros");
        for ms in 1..=1_000 {
            latencies.record(ms * 1_000_000);
        }
        let Summary { count, p50_ms, p99_ms, p999_ms, max_ms } = latencies.summary();
        assert_eq!(count, 1_000);
        for (found, exact) in [(p50_ms, 500.0), (p99_ms, 990.0), (p999_ms, 999.0), (max_ms, 1e3)] {
            assert!(found >= exact && found <= exact * 1.001, "{found} for {exact}");
        }
    }

    #[test]
    fn zero_and_endless_durations_are_counted() {
        let mut latencies = Latencies::default();
        latencies.record(0);
        latencies.record(u64::MAX);
        let Summary { count, max_ms, .. } = latencies.summary();
        assert!(count == 2 && max_ms >= NANOS_MAX as f64 / 1e6, "{count}, {max_ms}");
    }
}

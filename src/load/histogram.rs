//! How long things took: counts in buckets that are at most a thirty-second of their content wide.

use serde::Serialize;

/// Buckets to a power of two.
const FINE: u64 = 32;
const FINE_BITS: u32 = FINE.trailing_zeros();

/// Durations in nanoseconds, in 15 KiB however many there are.
#[derive(Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max: u64,
}

/// What a table shows of it, in milliseconds; all are 0 if nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many were measured.
    pub count: u64,
    /// Half took no longer.
    pub p50_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// 999 of 1,000 took no longer.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; bucket(u64::MAX) + 1], count: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    /// The upper end of the bucket that this part of all, in thousandths, does not exceed.
    fn at(&self, thousandths: u64) -> u64 {
        let wanted = (self.count * thousandths).div_ceil(1_000);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return upper_end(index).min(self.max);
            }
        }
        0
    }

    /// What a table shows.
    pub fn summary(&self) -> Summary {
        let ms = |nanos: u64| nanos as f64 / 1e6;
        Summary {
            count: self.count,
            p50_ms: ms(self.at(500)),
            p99_ms: ms(self.at(990)),
            p999_ms: ms(self.at(999)),
            max_ms: ms(self.max),
        }
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < FINE {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - FINE_BITS;
    (u64::from(shift) * FINE + (nanos >> shift)) as usize
}

/// The largest number of a bucket.
fn upper_end(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * FINE {
        return index;
    }
    let shift = index / FINE - 1;
    let first = (index % FINE + FINE) << shift;
    first + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_width_is_at_most_a_thirty_second() {
        for bits in 0..64 {
            for near in [0, 1, 12_345] {
                let nanos = (1u64 << bits).saturating_add(near);
                let end = upper_end(bucket(nanos));
                assert_eq!(bucket(end), bucket(nanos), "{nanos}");
                assert!(end >= nanos && end - nanos <= nanos / FINE, "{nanos}: {end}");
                assert!(end == u64::MAX || bucket(end + 1) == bucket(nanos) + 1, "{nanos}");
            }
        }
    }

    #[test]
    fn percentiles_of_a_thousand_values_are_correct() {
        let mut times = Histogram::default();
        assert_eq!(times.summary(), Summary::default(), "nothing measured is nothing shown");
        for ms in 1..=1_000 {
            times.add(ms * 1_000_000);
        }
        let summary = times.summary();
        for (is, exact) in
            [(summary.p50_ms, 500.0), (summary.p99_ms, 990.0), (summary.p999_ms, 999.0)]
        {
            assert!(is >= exact && is <= exact * 1.04, "{is} for {exact}");
        }
        assert_eq!((summary.count, summary.max_ms), (1_000, 1_000.0));
    }
}

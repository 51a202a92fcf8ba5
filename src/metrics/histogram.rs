//! A histogram with a few fixed buckets and a sum, as Prometheus has it.

/// Counts values in `N` buckets and one overflow bucket. The owner chooses the unit.
#[derive(Clone, Debug)]
pub(crate) struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    counts: [u64; N],
    overflow: u64,
    sum: u64,
}

/// A view of a histogram that is independent of its number of buckets.
#[derive(Clone, Copy, Debug)]
pub struct Buckets<'a> {
    /// The inclusive upper bound of each bucket, ascending.
    pub bounds: &'a [u64],
    /// The number of values in each bucket, not cumulative.
    pub counts: &'a [u64],
    /// The number of values above the last bound.
    pub overflow: u64,
    /// The sum of all values.
    pub sum: u64,
}

impl<const N: usize> Histogram<N> {
    /// Creates an empty histogram with these inclusive upper bounds, ascending.
    pub(crate) const fn new(bounds: &'static [u64; N]) -> Histogram<N> {
        Histogram { bounds, counts: [0; N], overflow: 0, sum: 0 }
    }

    /// Counts a value.
    pub(crate) fn record(&mut self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        *self.counts.get_mut(bucket).unwrap_or(&mut self.overflow) += 1;
        // A sum of microseconds overflows only after half a million years.
        self.sum = self.sum.saturating_add(value);
    }

    /// Returns the counts.
    pub(crate) fn buckets(&self) -> Buckets<'_> {
        let Histogram { bounds, counts, overflow, sum } = self;
        Buckets { bounds: *bounds, counts, overflow: *overflow, sum: *sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_falls_into_the_first_bucket_that_fits() {
        let mut histogram = Histogram::new(&[1, 10, 100]);
        for value in [0, 1, 2, 10, 11, 100, 101, u64::MAX] {
            histogram.record(value);
        }
        let buckets = histogram.buckets();
        assert_eq!((buckets.counts, buckets.overflow), (&[2, 2, 2][..], 2));
        assert_eq!(buckets.sum, u64::MAX, "the sum saturates");
    }
}

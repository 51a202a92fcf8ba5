//! How large things were: a count for each of a few fixed ranges, and a sum.

/// Values in `N` ranges and one beyond them; the unit is its owner's affair.
#[derive(Clone, Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    counts: [u64; N],
    overflow: u64,
    sum: u64,
}

/// The same for who shows it, whatever its size.
#[derive(Clone, Copy, Debug)]
pub struct Buckets<'a> {
    /// The largest value of each range, ascending.
    pub bounds: &'a [u64],
    /// How many values each range has, those of the ranges before it not among them.
    pub counts: &'a [u64],
    /// How many are larger than all bounds.
    pub overflow: u64,
    /// All values, added up.
    pub sum: u64,
}

impl<const N: usize> Histogram<N> {
    /// An empty one with these bounds, the largest value of each range, ascending.
    pub const fn new(bounds: &'static [u64; N]) -> Histogram<N> {
        Histogram { bounds, counts: [0; N], overflow: 0, sum: 0 }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        let range = self.bounds.partition_point(|bound| *bound < value);
        *self.counts.get_mut(range).unwrap_or(&mut self.overflow) += 1;
        // A sum of times and sizes reaches this in half a million years.
        self.sum = self.sum.saturating_add(value);
    }

    /// What it has counted.
    pub fn buckets(&self) -> Buckets<'_> {
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
        assert_eq!(buckets.sum, u64::MAX, "it does not wrap");
    }
}

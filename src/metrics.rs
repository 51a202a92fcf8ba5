//! What is counted, and the text in which a monitor reads it.
//!
//! Nothing here knows what the numbers mean. They are owned by whoever counts, on the loop's one
//! thread: plain integers, without locks and without atomics. The text is made only when it is
//! asked for.

pub mod histogram;
pub mod page;

/// How often something was known already, and how often it had to be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// It was known.
    pub hits: u64,
    /// It was not, or no longer.
    pub misses: u64,
}

impl Hits {
    /// Counts one more of either.
    pub fn note(&mut self, hit: bool) {
        *if hit { &mut self.hits } else { &mut self.misses } += 1;
    }
}

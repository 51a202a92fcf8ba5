//! Rate limit: how many calls each user has begun within the last minute.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::hub::deadlines::Deadlines;
use crate::protocol::IdKey;

const MINUTE: Duration = Duration::from_secs(60);
/// Users with a counter; beyond it, the oldest counter is dropped. It bounds the memory that
/// clients with ever new user ids can use.
const USERS_MAX: usize = 50_000;

/// Counters of call attempts, by user.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    by_user: HashMap<IdKey, u32>,
    resets: Deadlines<IdKey>,
}

impl Attempts {
    /// Counts an attempt; false if the user has made `max` attempts since the first one, within a
    /// minute of it.
    pub(super) fn count(&mut self, user: &IdKey, max: usize, now: Instant) -> bool {
        while let Some(user) = self.resets.pop_due(now) {
            self.by_user.remove(&user);
        }
        if self.resets.count() > USERS_MAX {
            let oldest = self.resets.next().and_then(|at| self.resets.pop_due(at));
            oldest.map(|user| self.by_user.remove(&user));
        }
        let attempts = self.by_user.entry(user.clone()).or_insert_with(|| {
            self.resets.set(now + MINUTE, user.clone());
            0
        });
        if *attempts as usize >= max {
            return false;
        }
        *attempts += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_attempts_are_limited_per_minute() {
        let (alice, bob) = (IdKey::Number(2), IdKey::Number(3));
        let start = Instant::now();
        let mut attempts = Attempts::default();
        for second in 0..3 {
            assert!(attempts.count(&alice, 3, start + Duration::from_secs(second)));
        }
        assert!(!attempts.count(&alice, 3, start + Duration::from_secs(59)));
        assert!(attempts.count(&bob, 3, start + Duration::from_secs(59)));
        assert!(attempts.count(&alice, 3, start + MINUTE));
        assert_eq!(attempts.by_user.len(), 2);
        assert!(attempts.count(&alice, 3, start + MINUTE * 3));
        assert_eq!(attempts.by_user.len(), 1, "an expired counter is dropped");
    }
}

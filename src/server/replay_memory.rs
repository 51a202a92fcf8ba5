//! Remembers the ids of the plugin's requests, so that each is accepted once.

use std::collections::HashSet;
use std::time::Duration;

use crate::protocol::signature::WINDOW_S;

/// Ids in the memory. The rate limit lets fewer pass in [`REMEMBERED`].
const IDS_MAX: usize = 65_536;
/// An id is remembered at least as long as its signature can be valid: from the oldest to the
/// newest time in the window.
const REMEMBERED: Duration = Duration::from_secs(2 * WINDOW_S + 1);

/// Why an id is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replayed {
    /// It was accepted before.
    Seen,
    /// There is no room; it was not remembered.
    Full,
}

/// The ids of two periods of [`REMEMBERED`]: when one ends, the ids of the one before are dropped.
#[derive(Debug, Default)]
pub(super) struct ReplayMemory {
    current: HashSet<Box<str>>,
    previous: HashSet<Box<str>>,
    /// The begin of the current period, since the server's start.
    since: Duration,
}

impl ReplayMemory {
    /// Remembers an id that was not seen.
    ///
    /// # Errors
    ///
    /// Why it is not accepted.
    pub(super) fn insert(&mut self, id: &str, since_start: Duration) -> Result<(), Replayed> {
        let age = since_start.saturating_sub(self.since);
        if age >= REMEMBERED {
            self.previous = std::mem::take(&mut self.current);
            if age >= 2 * REMEMBERED {
                self.previous.clear();
            }
            self.since = since_start;
        }
        if self.current.contains(id) || self.previous.contains(id) {
            return Err(Replayed::Seen);
        }
        if self.current.len() + self.previous.len() >= IDS_MAX {
            return Err(Replayed::Full);
        }
        self.current.insert(id.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn id_is_refused_for_as_long_as_its_signature_is_valid() {
        for start in 0..1_300 {
            let mut memory = ReplayMemory::default();
            // The periods begin with the first id.
            memory.insert("first-of-the-site", Duration::ZERO).unwrap();
            memory.insert("0123456789abcdef", start * SECOND).unwrap();
            for later in [0, 1, 300, 600] {
                let at = (start + later) * SECOND;
                assert_eq!(memory.insert("0123456789abcdef", at), Err(Replayed::Seen), "{start}");
            }
        }
    }

    #[test]
    fn old_ids_are_dropped_and_make_room() {
        let mut memory = ReplayMemory::default();
        for n in 0..IDS_MAX {
            memory.insert(&format!("id-{n}"), Duration::ZERO).unwrap();
        }
        let late = REMEMBERED - SECOND;
        assert_eq!(memory.insert("one-more", late), Err(Replayed::Full));
        assert_eq!(memory.insert("id-7", late), Err(Replayed::Seen), "also when it is full");
        assert_eq!(memory.insert("one-more", REMEMBERED), Err(Replayed::Full));
        memory.insert("one-more", 2 * REMEMBERED).unwrap();
        memory.insert("id-7", 2 * REMEMBERED).unwrap();
        assert!(memory.current.len() + memory.previous.len() <= 2);
    }

    #[test]
    fn rate_limit_fills_less_than_the_memory() {
        assert!(2 * REMEMBERED.as_secs() as usize * 50 + 200 < IDS_MAX);
    }
}

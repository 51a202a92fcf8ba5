//! The newest message of each sender in each thread that is somebody's outcome already.
//!
//! Who says "ok" twice within a second has two messages that nothing but their numbers tells apart:
//! the number of the first must not answer for the second.

use std::collections::{BTreeMap, HashMap};

use super::interface::RequestId;
use crate::protocol::IdKey;

/// Senders in threads that are remembered; the one that was told longest ago goes. Only seconds
/// matter: what is older is told apart by its time.
const SETTLED_MAX: usize = 10_000;

/// Whose outcome a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettledWhen {
    /// Nobody's, as far as is known.
    Never,
    /// It, or a newer one, was told before the post in question was put to the site.
    BeforePost,
    /// It, or a newer one, was told since.
    AfterPost,
}

#[derive(Debug)]
struct Newest {
    message: u64,
    /// The last question that had been put by then.
    last_request: RequestId,
    age: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Settled {
    last: HashMap<(u64, IdKey), Newest>,
    by_age: BTreeMap<u64, (u64, IdKey)>,
    last_age: u64,
}

impl Settled {
    /// Notes that a message is the outcome of one of its sender's posts, which was told after this
    /// question was put.
    pub fn note(&mut self, thread: u64, sender: &IdKey, message: u64, last_request: RequestId) {
        let key = (thread, sender.clone());
        let newest = match self.last.remove(&key) {
            Some(last) => {
                self.by_age.remove(&last.age);
                last.message.max(message)
            }
            None => message,
        };
        self.last_age += 1;
        self.by_age.insert(self.last_age, key.clone());
        self.last.insert(key, Newest { message: newest, last_request, age: self.last_age });
        if self.last.len() > SETTLED_MAX {
            if let Some((_, oldest)) = self.by_age.pop_first() {
                self.last.remove(&oldest);
            }
        }
    }

    /// Whose outcome a message is, seen from a post that was put as this question.
    pub fn settled_when(
        &self,
        thread: u64,
        sender: &IdKey,
        message: u64,
        post: RequestId,
    ) -> SettledWhen {
        match self.last.get(&(thread, sender.clone())) {
            Some(last) if message <= last.message && last.last_request < post => {
                SettledWhen::BeforePost
            }
            Some(last) if message <= last.message => SettledWhen::AfterPost,
            _ => SettledWhen::Never,
        }
    }

    /// Asserts that the tables agree with each other.
    pub fn check_invariants(&self) {
        assert!(self.last.len() <= SETTLED_MAX && self.last.len() == self.by_age.len());
        assert!(self.by_age.iter().all(|(age, key)| self.last[key].age == *age));
    }
}

//! The newest message of each sender in each thread that already is the outcome of a request.
//!
//! A user who sends "ok" twice within a second has two messages that differ only by their numbers.
//! This table keeps the first message from being taken for the outcome of the second request.

use std::collections::{BTreeMap, HashMap};

use crate::hub::interface::RequestId;
use crate::protocol::IdKey;

/// Pairs of thread and sender that are remembered; beyond it, the one updated longest ago is
/// dropped. Only seconds matter: older messages are distinguished by their time.
const SETTLED_MAX: usize = 10_000;

/// When a message became the outcome of a request, relative to a later post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettledWhen {
    /// Never, as far as is known.
    Never,
    /// It, or a newer message, was settled before the post was sent to the site.
    BeforePost,
    /// It, or a newer message, was settled after the post was sent to the site.
    AfterPost,
}

#[derive(Debug)]
struct Newest {
    message: u64,
    /// The latest request at the time when the message was settled.
    last_request: RequestId,
    age: u64,
}

/// The newest settled message by thread and sender.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    last: HashMap<(u64, IdKey), Newest>,
    by_age: BTreeMap<u64, (u64, IdKey)>,
    last_age: u64,
}

impl Settled {
    /// Records that a message is the outcome of one of its sender's posts. `last_request` is the
    /// latest request so far.
    pub(crate) fn note(
        &mut self,
        thread: u64,
        sender: &IdKey,
        message: u64,
        last_request: RequestId,
    ) {
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

    /// Tells whether a message was settled before or after the request `post` was sent.
    pub(crate) fn settled_when(
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
    pub(crate) fn check_invariants(&self) {
        assert!(self.last.len() <= SETTLED_MAX && self.last.len() == self.by_age.len());
        assert!(self.by_age.iter().all(|(age, key)| self.last[key].age == *age));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_messages_are_bounded() {
        let mut settled = Settled::default();
        let alice = IdKey::Number(2);
        for thread in 1..=10_010 {
            settled.note(thread, &alice, 5, RequestId(1));
        }
        settled.check_invariants();
        assert_eq!(settled.settled_when(10, &alice, 5, RequestId(2)), SettledWhen::Never);
        assert_eq!(settled.settled_when(11, &alice, 5, RequestId(2)), SettledWhen::BeforePost);
        assert_eq!(settled.settled_when(11, &alice, 5, RequestId(1)), SettledWhen::AfterPost);
        assert_eq!(settled.settled_when(11, &alice, 6, RequestId(2)), SettledWhen::Never);
        assert_eq!(
            settled.settled_when(11, &IdKey::Number(3), 5, RequestId(2)),
            SettledWhen::Never
        );
    }
}

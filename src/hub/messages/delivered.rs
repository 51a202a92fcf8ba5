//! Messages that were delivered, so that each is heard once: by the answer to its post or by the
//! site's event about it, whichever comes first.

use std::collections::{HashMap, VecDeque};

use crate::hub::interface::ConnId;

/// Messages that are remembered; beyond it, the oldest is forgotten. Event and answer arrive within
/// seconds of each other.
const DELIVERED_MAX: usize = 20_000;

/// The receivers that have a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeliveredTo {
    /// Its author alone, on this connection.
    Author(ConnId),
    /// The subscribers of its thread.
    Thread,
    /// The subscribers, and the inboxes of all participants.
    Everyone,
}

/// The messages that were delivered last.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    messages: HashMap<u64, DeliveredTo>,
    order: VecDeque<u64>,
}

impl Delivered {
    /// Records the receivers of a message, and returns those that had it before.
    pub(crate) fn note(&mut self, message: u64, to: DeliveredTo) -> Option<DeliveredTo> {
        let before = self.messages.insert(message, to);
        if before.is_none() {
            self.order.push_back(message);
            if self.order.len() > DELIVERED_MAX {
                let oldest = self.order.pop_front();
                oldest.map(|oldest| self.messages.remove(&oldest));
            }
        }
        before
    }

    /// The receivers that have a message.
    pub(crate) fn get(&self, message: u64) -> Option<DeliveredTo> {
        self.messages.get(&message).copied()
    }

    /// Asserts that the tables agree with each other.
    pub(crate) fn check_invariants(&self) {
        assert!(self.order.len() <= DELIVERED_MAX && self.order.len() == self.messages.len());
    }
}

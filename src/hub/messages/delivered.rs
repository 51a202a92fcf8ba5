//! Messages that were delivered, so that each is heard once: by the answer to its post or by the
//! site's event about it, whichever comes first.

use crate::hub::interface::ConnId;

/// Messages that are remembered, a power of two. The site numbers messages in sequence, so each has
/// a place of its own among the last ones; event and answer arrive within seconds of each other.
const SLOTS: usize = 1 << 14;

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

/// The messages that were delivered last, by the low bits of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    /// Empty until the first message.
    slots: Vec<Option<(u64, DeliveredTo)>>,
}

impl Delivered {
    /// Records the receivers of a message, and returns those that had it before.
    pub(crate) fn note(&mut self, message: u64, to: DeliveredTo) -> Option<DeliveredTo> {
        if self.slots.is_empty() {
            self.slots.resize(SLOTS, None);
        }
        let before = self.slots[slot_of(message)].replace((message, to));
        before.filter(|(other, _)| *other == message).map(|(_, to)| to)
    }

    /// The receivers that have a message.
    pub(crate) fn get(&self, message: u64) -> Option<DeliveredTo> {
        let (other, to) = self.slots.get(slot_of(message)).copied().flatten()?;
        (other == message).then_some(to)
    }
}

fn slot_of(message: u64) -> usize {
    message as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_messages_are_remembered() {
        let mut delivered = Delivered::default();
        assert_eq!(delivered.get(7), None);
        assert_eq!(delivered.note(7, DeliveredTo::Thread), None);
        assert_eq!(delivered.note(7, DeliveredTo::Everyone), Some(DeliveredTo::Thread));
        for message in 8..7 + SLOTS as u64 {
            assert_eq!(delivered.note(message, DeliveredTo::Thread), None);
        }
        assert_eq!(delivered.get(7), Some(DeliveredTo::Everyone));
        assert_eq!(delivered.note(7 + SLOTS as u64, DeliveredTo::Thread), None);
        assert_eq!(delivered.get(7), None, "its place was needed");
    }
}

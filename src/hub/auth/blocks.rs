//! Blocks between users, as the site reports them: by events, and in tickets.
//!
//! A ticket names the users that are blocked either way, and the user's next ticket replaces it. If
//! a ticket named a block, it outlasts the event that lifts it: the other user may block as well.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Blocks that are remembered from events; beyond it, the oldest is forgotten.
const EVENTS_MAX: usize = 100_000;
/// Users in all tickets; beyond it, the ticket that was stored first is forgotten.
const TICKET_USERS_MAX: usize = 500_000;

/// All known blocks.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    /// The user who blocks and the user who is blocked, with the entry's age.
    by_event: HashMap<(u64, u64), u64>,
    by_age: BTreeMap<u64, (u64, u64)>,
    last_age: u64,
    /// The users that the last ticket of each user names.
    by_ticket: HashMap<u64, Box<[u64]>>,
    ticket_order: VecDeque<u64>,
    ticket_users: usize,
    /// How many entries name each user.
    involved: HashMap<u64, u32>,
}

impl Blocks {
    /// Records that a user blocks another.
    pub(crate) fn block(&mut self, user: u64, blocked: u64) {
        self.last_age += 1;
        match self.by_event.insert((user, blocked), self.last_age) {
            Some(age) => {
                self.by_age.remove(&age);
            }
            None => self.involve([user, blocked]),
        }
        self.by_age.insert(self.last_age, (user, blocked));
        if self.by_event.len() > EVENTS_MAX {
            if let Some((_, oldest)) = self.by_age.pop_first() {
                self.by_event.remove(&oldest);
                self.release([oldest.0, oldest.1]);
            }
        }
    }

    /// Records that a user no longer blocks another.
    pub(crate) fn unblock(&mut self, user: u64, blocked: u64) {
        if let Some(age) = self.by_event.remove(&(user, blocked)) {
            self.by_age.remove(&age);
            self.release([user, blocked]);
        }
    }

    /// Replaces the users that the ticket of a user names, in ascending order.
    pub(crate) fn set_from_ticket(&mut self, user: u64, blocked: Box<[u64]>) {
        self.remove_ticket(user);
        if blocked.is_empty() {
            return;
        }
        self.ticket_users += blocked.len();
        for other in &blocked {
            self.involve([user, *other]);
        }
        self.by_ticket.insert(user, blocked);
        self.ticket_order.push_back(user);
        while self.ticket_users > TICKET_USERS_MAX {
            let Some(oldest) = self.ticket_order.front().copied() else { return };
            self.remove_ticket(oldest);
        }
    }

    /// Whether one of these users blocks the other.
    pub(crate) fn is_between(&self, one: u64, other: u64) -> bool {
        self.involves(one)
            && (self.by_event.contains_key(&(one, other))
                || self.by_event.contains_key(&(other, one))
                || self.ticket_names(one, other)
                || self.ticket_names(other, one))
    }

    /// Whether a user is part of any block.
    pub(crate) fn involves(&self, user: u64) -> bool {
        self.involved.contains_key(&user)
    }

    /// Whether there is no block at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.involved.is_empty()
    }

    fn ticket_names(&self, of: u64, other: u64) -> bool {
        self.by_ticket.get(&of).is_some_and(|users| users.binary_search(&other).is_ok())
    }

    fn remove_ticket(&mut self, user: u64) {
        if let Some(blocked) = self.by_ticket.remove(&user) {
            self.ticket_users -= blocked.len();
            self.ticket_order.retain(|other| *other != user);
            for other in &blocked {
                self.release([user, *other]);
            }
        }
    }

    fn involve(&mut self, users: [u64; 2]) {
        for user in users {
            *self.involved.entry(user).or_default() += 1;
        }
    }

    fn release(&mut self, users: [u64; 2]) {
        for user in users {
            if let Some(count) = self.involved.get_mut(&user) {
                *count -= 1;
                if *count == 0 {
                    self.involved.remove(&user);
                }
            }
        }
    }

    /// Asserts that the tables agree with each other.
    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.by_event.len(), self.by_age.len());
        assert_eq!(self.by_ticket.len(), self.ticket_order.len());
        let in_tickets: usize = self.by_ticket.values().map(|users| users.len()).sum();
        assert_eq!(self.ticket_users, in_tickets);
        let named: u32 = self.involved.values().sum();
        assert_eq!(named as usize, 2 * (self.by_event.len() + in_tickets));
        assert!(self.by_event.len() <= EVENTS_MAX && in_tickets <= TICKET_USERS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_by_event_and_ticket_count_either_way() {
        let mut blocks = Blocks::default();
        assert!(blocks.is_empty());
        blocks.block(7, 8);
        blocks.block(7, 8);
        blocks.block(8, 7);
        assert!(blocks.is_between(7, 8) && blocks.is_between(8, 7) && !blocks.is_between(7, 9));
        blocks.unblock(7, 8);
        assert!(blocks.is_between(7, 8), "the other still blocks");
        blocks.unblock(8, 7);
        assert!(!blocks.is_between(7, 8) && blocks.is_empty());
        blocks.set_from_ticket(7, Box::new([8, 9]));
        assert!(blocks.is_between(9, 7) && blocks.involves(9));
        blocks.set_from_ticket(7, Box::new([9]));
        assert!(!blocks.is_between(7, 8) && !blocks.involves(8) && blocks.is_between(7, 9));
        blocks.set_from_ticket(7, Box::default());
        assert!(blocks.is_empty());
        blocks.check_invariants();
    }

    #[test]
    fn remembered_blocks_are_bounded() {
        let mut blocks = Blocks::default();
        for n in 1..=EVENTS_MAX as u64 + 5 {
            blocks.block(n, 1_000_000);
        }
        assert!(!blocks.is_between(5, 1_000_000) && blocks.is_between(6, 1_000_000));
        for n in 1..=600 {
            blocks.set_from_ticket(n, (1..=1_000).map(|other| other * 1_000_000).collect());
        }
        assert!(!blocks.ticket_names(1, 1_000_000) && blocks.ticket_names(600, 1_000_000));
        blocks.check_invariants();
    }
}

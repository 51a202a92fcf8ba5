//! Inboxes: the connections that receive everything that concerns their user.

use std::collections::HashMap;

use super::capacity::SmallList;
use super::interface::ConnId;
use crate::protocol::client::InboxContent;

/// A connection that has joined the inbox of its user.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inbox {
    /// The connection.
    pub conn: ConnId,
    /// How much of a message it receives.
    pub content: InboxContent,
}

/// All inboxes by user. Bounded by the number of connections.
#[derive(Debug, Default)]
pub(super) struct Inboxes {
    by_user: HashMap<u64, SmallList<Inbox>>,
    count: usize,
}

impl Inboxes {
    /// Adds a connection, or changes how much it receives.
    pub(super) fn join(&mut self, user: u64, conn: ConnId, content: InboxContent) {
        let inboxes = self.by_user.entry(user).or_default();
        match inboxes.iter_mut().find(|inbox| inbox.conn == conn) {
            Some(inbox) => inbox.content = content,
            None => {
                inboxes.push(Inbox { conn, content });
                self.count += 1;
            }
        }
    }

    /// Removes a connection, if it has joined.
    pub(super) fn leave(&mut self, user: u64, conn: ConnId) {
        let Some(inboxes) = self.by_user.get_mut(&user) else { return };
        let before = inboxes.len();
        inboxes.retain(|inbox| inbox.conn != conn);
        self.count -= before - inboxes.len();
        if inboxes.is_empty() {
            self.by_user.remove(&user);
        }
    }

    /// The connections that have joined the inbox of a user.
    pub(super) fn of(&self, user: u64) -> &[Inbox] {
        self.by_user.get(&user).map_or(&[], SmallList::as_slice)
    }

    /// How many connections have joined an inbox.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The users with an inbox, ascending.
    pub(super) fn users(&self) -> Vec<u64> {
        let mut users: Vec<u64> = self.by_user.keys().copied().collect();
        // The order of a hash map differs between runs.
        users.sort_unstable();
        users
    }

    /// Asserts that the table is consistent, and that `is_of` holds for each entry.
    pub(super) fn check_invariants(&self, is_of: impl Fn(ConnId, u64) -> bool) {
        assert_eq!(self.count, self.by_user.values().map(SmallList::len).sum::<usize>());
        for (user, inboxes) in &self.by_user {
            assert!(!inboxes.is_empty());
            assert!(inboxes.iter().all(|inbox| is_of(inbox.conn, *user)));
        }
    }
}

//! Presence: which users are online, on which connections, and whose grace period is running.
//!
//! A user is online from the first connection until the last one has been closed for the grace
//! period, so that a phone that changes networks does not appear to go offline (`PROTOCOL.md` 2.7).

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use slab::Slab;

use super::capacity::{self, SmallList};
use super::deadlines::{DeadlineKey, Deadlines};
use super::index::Index;
use super::interface::ConnId;
use crate::protocol::{Id, IdKey};

type UserIx = u32;

/// Users in their grace period. A community has far fewer phones that change networks at once; the
/// bound limits clients that connect and disconnect under ever new user ids.
const GRACES_MAX: usize = 50_000;

/// How often the site is told who was active.
const ACTIVITY_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct User {
    /// In the form in which the user's first connection wrote it.
    id: Id,
    /// Empty while the grace period runs.
    conns: SmallList<ConnId>,
}

/// The user of a connection and the form in which the connection writes the id. The value is twice
/// the user's index, plus one if the id is quoted, plus one so that `None` takes no extra space.
#[derive(Clone, Copy, Debug)]
struct UserRef(NonZeroU32);

impl UserRef {
    fn new(user: UserIx, quoted: bool) -> UserRef {
        UserRef(NonZeroU32::MIN.saturating_add(user << 1 | u32::from(quoted)))
    }

    fn user(self) -> UserIx {
        (self.0.get() - 1) >> 1
    }

    fn quoted(self) -> bool {
        (self.0.get() - 1) & 1 == 1
    }
}

/// All users who are online.
#[derive(Debug, Default)]
pub(super) struct Presence {
    index: Index,
    users: Slab<User>,
    user_refs: Vec<Option<UserRef>>,
    grace_deadlines: Deadlines<UserIx>,
    /// Users in their grace period. There are few, so `User` has no field for the deadline.
    in_grace: BTreeMap<UserIx, DeadlineKey>,
    activity: Activity,
}

/// The connections that have sent a frame since the site was told last who is active.
#[derive(Debug, Default)]
struct Activity {
    /// By slot.
    is_active: Vec<bool>,
    /// When the site is told next; `None` while there is nobody.
    due: Option<Instant>,
}

impl Presence {
    /// Reserves the slot of a new connection.
    pub(super) fn open(&mut self, conn: ConnId) {
        capacity::ensure_slot(&mut self.user_refs, conn.slot);
        debug_assert!(self.user_refs[conn.slot as usize].is_none(), "a new slot is empty");
    }

    /// Notes that the user of a connection is active.
    #[inline]
    pub(super) fn note_active(&mut self, conn: ConnId, now: Instant) {
        let is_noted = self.activity.is_active.get(conn.slot as usize).copied();
        if !is_noted.unwrap_or_default() && self.is_identified(conn) {
            capacity::ensure_slot(&mut self.activity.is_active, conn.slot);
            self.activity.is_active[conn.slot as usize] = true;
            self.activity.due.get_or_insert(now + ACTIVITY_INTERVAL);
        }
    }

    /// Takes the users who were active, once a minute: their numbers, each once.
    pub(super) fn take_active(&mut self, now: Instant) -> Option<Box<[u64]>> {
        self.activity.due.take_if(|due| *due <= now)?;
        let mut users = Vec::new();
        for (is_active, user_ref) in self.activity.is_active.iter_mut().zip(&self.user_refs) {
            if let (true, Some(user_ref)) = (std::mem::take(is_active), user_ref) {
                users.extend(self.users[user_ref.user() as usize].id.site_number());
            }
        }
        users.sort_unstable();
        users.dedup();
        Some(users.into())
    }

    /// Assigns an anonymous connection to a user; true if the user was offline.
    pub(super) fn connect_user(&mut self, conn: ConnId, id: &Id) -> bool {
        let (ix, first) = match self.find_ix(&id.key) {
            Some(ix) => (ix, false),
            None => {
                let user = User { id: id.clone(), conns: SmallList::new() };
                let ix = capacity::insert(&mut self.users, user);
                self.index.insert(ix, |ix| &self.users[ix as usize].id.key);
                (ix, true)
            }
        };
        if let Some(deadline) = self.in_grace.remove(&ix) {
            self.grace_deadlines.cancel(deadline);
        }
        self.users[ix as usize].conns.push(conn);
        let user_ref = self.user_refs[conn.slot as usize].replace(UserRef::new(ix, id.quoted));
        debug_assert!(user_ref.is_none(), "a connection has at most one user");
        first
    }

    /// Removes a connection from its user. If it was the last one, the grace period begins.
    pub(super) fn disconnect(&mut self, conn: ConnId, now: Instant, grace: Duration) {
        let Some(user_ref) = self.user_refs[conn.slot as usize].take() else {
            return;
        };
        // The slot's next user counts anew.
        if let Some(is_active) = self.activity.is_active.get_mut(conn.slot as usize) {
            *is_active = false;
        }
        let user = &mut self.users[user_ref.user() as usize];
        user.conns.retain(|other| *other != conn);
        capacity::shrink(&mut user.conns);
        if user.conns.is_empty() {
            let deadline = self.grace_deadlines.set(now + grace, user_ref.user());
            self.in_grace.insert(user_ref.user(), deadline);
        }
    }

    /// Removes and returns one user whose grace period ends by `now`, or earlier if too many users
    /// have one. Returns `None` when there are no more.
    pub(super) fn pop_departed(&mut self, now: Instant) -> Option<Id> {
        let too_many = self.grace_deadlines.count() > GRACES_MAX;
        let until = if too_many { self.grace_deadlines.next()? } else { now };
        let ix = self.grace_deadlines.pop_due(until)?;
        self.in_grace.remove(&ix);
        let user = self.users.remove(ix as usize);
        self.index.remove(ix, &user.id.key);
        Some(user.id)
    }

    /// Returns the user of a connection, in the form in which the connection wrote the id.
    pub(super) fn user_of(&self, conn: ConnId) -> Option<Id> {
        let user_ref = self.user_refs[conn.slot as usize]?;
        let key = self.users[user_ref.user() as usize].id.key.clone();
        Some(Id { key, quoted: user_ref.quoted() })
    }

    /// Returns the site's number of a connection's user.
    pub(super) fn number_of(&self, conn: ConnId) -> Option<u64> {
        let user_ref = self.user_refs[conn.slot as usize]?;
        self.users[user_ref.user() as usize].id.site_number()
    }

    /// Whether a connection has a user; otherwise it is anonymous.
    pub(super) fn is_identified(&self, conn: ConnId) -> bool {
        self.user_refs[conn.slot as usize].is_some()
    }

    /// Records whether a connection writes its user's id as a string.
    pub(super) fn set_quoted(&mut self, conn: ConnId, quoted: bool) {
        if let Some(user_ref) = &mut self.user_refs[conn.slot as usize] {
            *user_ref = UserRef::new(user_ref.user(), quoted);
        }
    }

    /// Returns this user's id if the user is online.
    pub(super) fn find(&self, user: &IdKey) -> Option<&Id> {
        self.find_ix(user).map(|ix| &self.users[ix as usize].id)
    }

    /// Returns a user's connections.
    pub(super) fn conns_of(&self, user: &IdKey) -> &[ConnId] {
        match self.find_ix(user) {
            Some(ix) => &self.users[ix as usize].conns,
            None => &[],
        }
    }

    /// Returns how many users are online.
    pub(super) fn count(&self) -> usize {
        self.users.len()
    }

    /// Lists all users who are online, including those in their grace period, in no particular
    /// order.
    pub(super) fn online(&self) -> impl Iterator<Item = &Id> {
        self.users.iter().map(|(_, user)| &user.id)
    }

    /// Returns the users of these connections, each once, in the order of the connections.
    pub(super) fn users_among(&self, conns: impl Iterator<Item = ConnId>) -> Vec<&Id> {
        let mut seen = vec![false; self.users.capacity()];
        let mut ids = Vec::new();
        for user_ref in conns.filter_map(|conn| self.user_refs[conn.slot as usize]) {
            if !std::mem::replace(&mut seen[user_ref.user() as usize], true) {
                ids.push(&self.users[user_ref.user() as usize].id);
            }
        }
        ids
    }

    /// Returns when the next grace period ends, or the site is to be told who was active.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.grace_deadlines.next(), self.activity.due].into_iter().flatten().min()
    }

    fn find_ix(&self, user: &IdKey) -> Option<UserIx> {
        self.index.find(user, |ix| &self.users[ix as usize].id.key)
    }

    /// Asserts that the tables agree with each other.
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.index.count(), self.users.len());
        for (ix, user) in &self.users {
            let ix = ix as UserIx;
            assert_eq!(self.find_ix(&user.id.key), Some(ix));
            let in_grace = self.in_grace.contains_key(&ix);
            assert_eq!(user.conns.is_empty(), in_grace, "online by a connection or by grace");
            for conn in &user.conns {
                let user_ref =
                    self.user_refs[conn.slot as usize].expect("a user's connection refers back");
                assert_eq!(user_ref.user(), ix);
            }
        }
        let claimed = self.user_refs.iter().flatten().count();
        assert_eq!(claimed, self.users.iter().map(|(_, user)| user.conns.len()).sum::<usize>());
        assert_eq!(self.grace_deadlines.count(), self.in_grace.len());
        assert!(self.in_grace.keys().all(|ix| self.users.contains(*ix as usize)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_user_ref_sizes_match_documentation() {
        assert_eq!(size_of::<User>(), 48);
        assert_eq!(size_of::<Option<UserRef>>(), 4);
    }

    #[test]
    fn user_ref_keeps_user_and_id_form() {
        for (user, quoted) in [(0, false), (0, true), (1, false), (70_000, true)] {
            let user_ref = UserRef::new(user, quoted);
            assert_eq!((user_ref.user(), user_ref.quoted()), (user, quoted));
        }
    }
}

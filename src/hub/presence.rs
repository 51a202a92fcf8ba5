//! Who is online, on which connections, and whose grace time is running.
//!
//! A user is online from their first connection until the last one has been gone for the grace
//! time: a phone that changes networks does not flicker (`PROTOCOL.md` 2.7).

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

/// Users in their grace time. Far more than a community's phones that change networks at once; a
/// bound for who comes and goes under ever new names.
const GRACES_MAX: usize = 50_000;

#[derive(Debug)]
struct User {
    /// In the form in which their first connection wrote it.
    id: Id,
    /// None while their grace time runs.
    conns: SmallList<ConnId>,
}

/// Whose connection this is, and how they write it: twice the user's place, one for the quotes, and
/// one so that nothing is left for nobody.
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
pub struct Presence {
    index: Index,
    users: Slab<User>,
    user_refs: Vec<Option<UserRef>>,
    grace_deadlines: Deadlines<UserIx>,
    /// Who is in their grace time: few, so a user has no room for it.
    in_grace: BTreeMap<UserIx, DeadlineKey>,
}

impl Presence {
    /// Makes room for a connection.
    pub fn open(&mut self, conn: ConnId) {
        capacity::ensure_slot(&mut self.user_refs, conn.slot);
        debug_assert!(self.user_refs[conn.slot as usize].is_none(), "a slot is given on empty");
    }

    /// Gives a connection that is nobody's to a user. True if they were not online.
    pub fn connect_user(&mut self, conn: ConnId, id: &Id) -> bool {
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
        debug_assert!(user_ref.is_none(), "a connection is one user's at a time");
        first
    }

    /// Takes a connection from its user, whose grace time starts if it was their last.
    pub fn disconnect(&mut self, conn: ConnId, now: Instant, grace: Duration) {
        let Some(user_ref) = self.user_refs[conn.slot as usize].take() else {
            return;
        };
        let user = &mut self.users[user_ref.user() as usize];
        user.conns.retain(|other| *other != conn);
        capacity::shrink(&mut user.conns);
        if user.conns.is_empty() {
            let deadline = self.grace_deadlines.set(now + grace, user_ref.user());
            self.in_grace.insert(user_ref.user(), deadline);
        }
    }

    /// Takes one user whose grace time is over at `now`, or cut short because too many have one,
    /// until there are no more.
    pub fn pop_departed(&mut self, now: Instant) -> Option<Id> {
        let too_many = self.grace_deadlines.count() > GRACES_MAX;
        let until = if too_many { self.grace_deadlines.next()? } else { now };
        let ix = self.grace_deadlines.pop_due(until)?;
        self.in_grace.remove(&ix);
        let user = self.users.remove(ix as usize);
        self.index.remove(ix, &user.id.key);
        Some(user.id)
    }

    /// Whose connection this is, in the form in which it wrote it.
    pub fn user_of(&self, conn: ConnId) -> Option<Id> {
        let user_ref = self.user_refs[conn.slot as usize]?;
        let key = self.users[user_ref.user() as usize].id.key.clone();
        Some(Id { key, quoted: user_ref.quoted() })
    }

    /// The site's number of a connection's user.
    pub fn number_of(&self, conn: ConnId) -> Option<u64> {
        let user_ref = self.user_refs[conn.slot as usize]?;
        self.users[user_ref.user() as usize].id.site_number()
    }

    /// Whether a connection is somebody's.
    pub fn is_identified(&self, conn: ConnId) -> bool {
        self.user_refs[conn.slot as usize].is_some()
    }

    /// Notes how a connection writes its user.
    pub fn set_quoted(&mut self, conn: ConnId, quoted: bool) {
        if let Some(user_ref) = &mut self.user_refs[conn.slot as usize] {
            *user_ref = UserRef::new(user_ref.user(), quoted);
        }
    }

    /// This user, if online.
    pub fn find(&self, user: &IdKey) -> Option<&Id> {
        self.find_ix(user).map(|ix| &self.users[ix as usize].id)
    }

    /// A user's connections.
    pub fn conns_of(&self, user: &IdKey) -> &[ConnId] {
        match self.find_ix(user) {
            Some(ix) => &self.users[ix as usize].conns,
            None => &[],
        }
    }

    /// How many are online.
    pub fn count(&self) -> usize {
        self.users.len()
    }

    /// Everyone who is online, those in their grace time included, in no particular order.
    pub fn online(&self) -> impl Iterator<Item = &Id> {
        self.users.iter().map(|(_, user)| &user.id)
    }

    /// The users of these connections, each once, in the order in which they stand there.
    pub fn users_among(&self, conns: impl Iterator<Item = ConnId>) -> Vec<&Id> {
        let mut seen = vec![false; self.users.capacity()];
        let mut ids = Vec::new();
        for user_ref in conns.filter_map(|conn| self.user_refs[conn.slot as usize]) {
            if !std::mem::replace(&mut seen[user_ref.user() as usize], true) {
                ids.push(&self.users[user_ref.user() as usize].id);
            }
        }
        ids
    }

    /// When the next grace time is over.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.grace_deadlines.next()
    }

    fn find_ix(&self, user: &IdKey) -> Option<UserIx> {
        self.index.find(user, |ix| &self.users[ix as usize].id.key)
    }

    /// Asserts that the tables agree with each other.
    pub fn check_invariants(&self) {
        assert_eq!(self.index.count(), self.users.len());
        for (ix, user) in &self.users {
            let ix = ix as UserIx;
            assert_eq!(self.find_ix(&user.id.key), Some(ix));
            let in_grace = self.in_grace.contains_key(&ix);
            assert_eq!(user.conns.is_empty(), in_grace, "online by one of the two");
            for conn in &user.conns {
                let user_ref =
                    self.user_refs[conn.slot as usize].expect("a user's connection is theirs");
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
    fn user_and_claim_sizes_match_documentation() {
        assert_eq!(size_of::<User>(), 48);
        assert_eq!(size_of::<Option<UserRef>>(), 4);
    }

    #[test]
    fn claim_keeps_user_and_id_form() {
        for (user, quoted) in [(0, false), (0, true), (1, false), (70_000, true)] {
            let user_ref = UserRef::new(user, quoted);
            assert_eq!((user_ref.user(), user_ref.quoted()), (user, quoted));
        }
    }
}

//! Who is online, on which connections, and whose grace time is running.
//!
//! A user is online from their first connection until the last one has been gone for the grace
//! time: a phone that changes networks does not flicker (`PROTOCOL.md` 2.7).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use slab::Slab;

use super::deadlines::{DeadlineKey, Deadlines};
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
    conns: Vec<ConnId>,
    grace: Option<DeadlineKey>,
}

/// Whose connection this is, and how they write it.
#[derive(Clone, Copy, Debug)]
struct Claim {
    user: UserIx,
    quoted: bool,
}

/// All users who are online.
#[derive(Debug, Default)]
pub struct Presence {
    index: HashMap<IdKey, UserIx>,
    users: Slab<User>,
    claims: Vec<Option<Claim>>,
    graces: Deadlines<UserIx>,
}

impl Presence {
    /// Makes room for a connection.
    pub fn open(&mut self, conn: ConnId) {
        let slot = conn.slot as usize;
        if self.claims.len() <= slot {
            self.claims.resize(slot + 1, None);
        }
        debug_assert!(self.claims[slot].is_none(), "a slot is given on empty");
    }

    /// Gives a connection that is nobody's to a user. True if they were not online.
    pub fn arrive(&mut self, conn: ConnId, id: &Id) -> bool {
        let ix = match self.index.get(&id.key) {
            Some(ix) => *ix,
            None => {
                let user = User { id: id.clone(), conns: Vec::new(), grace: None };
                let ix = self.users.insert(user) as UserIx;
                self.index.insert(id.key.clone(), ix);
                ix
            }
        };
        let user = &mut self.users[ix as usize];
        let in_grace = user.grace.take().map(|deadline| self.graces.cancel(deadline)).is_some();
        let first = user.conns.is_empty() && !in_grace;
        user.conns.push(conn);
        let claim = self.claims[conn.slot as usize].replace(Claim { user: ix, quoted: id.quoted });
        debug_assert!(claim.is_none(), "a connection is one user's at a time");
        first
    }

    /// Takes a connection from its user, whose grace time starts if it was their last.
    pub fn leave(&mut self, conn: ConnId, now: Instant, grace: Duration) {
        let Some(claim) = self.claims[conn.slot as usize].take() else {
            return;
        };
        let user = &mut self.users[claim.user as usize];
        user.conns.retain(|other| *other != conn);
        if user.conns.is_empty() {
            user.grace = Some(self.graces.set(now + grace, claim.user));
        }
    }

    /// Takes one user whose grace time is over at `now`, or cut short because too many have one,
    /// until there are no more.
    pub fn depart(&mut self, now: Instant) -> Option<Id> {
        let too_many = self.graces.count() > GRACES_MAX;
        let until = if too_many { self.graces.next()? } else { now };
        let ix = self.graces.pop_due(until)?;
        let user = self.users.remove(ix as usize);
        self.index.remove(&user.id.key);
        Some(user.id)
    }

    /// Whose connection this is, in the form in which it wrote it.
    pub fn user_of(&self, conn: ConnId) -> Option<Id> {
        let claim = self.claims[conn.slot as usize]?;
        let key = self.users[claim.user as usize].id.key.clone();
        Some(Id { key, quoted: claim.quoted })
    }

    /// The site's number of a connection's user.
    pub fn number_of(&self, conn: ConnId) -> Option<u64> {
        let claim = self.claims[conn.slot as usize]?;
        self.users[claim.user as usize].id.site_number()
    }

    /// Whether a connection is somebody's.
    pub fn is_known(&self, conn: ConnId) -> bool {
        self.claims[conn.slot as usize].is_some()
    }

    /// Notes how a connection writes its user.
    pub fn write_as(&mut self, conn: ConnId, quoted: bool) {
        if let Some(claim) = &mut self.claims[conn.slot as usize] {
            claim.quoted = quoted;
        }
    }

    /// This user, if online.
    pub fn find(&self, user: &IdKey) -> Option<&Id> {
        self.index.get(user).map(|ix| &self.users[*ix as usize].id)
    }

    /// A user's connections.
    pub fn conns_of(&self, user: &IdKey) -> &[ConnId] {
        match self.index.get(user) {
            Some(ix) => &self.users[*ix as usize].conns,
            None => &[],
        }
    }

    /// Everyone who is online, those in their grace time included, in no particular order.
    pub fn online(&self) -> impl Iterator<Item = &Id> {
        self.users.iter().map(|(_, user)| &user.id)
    }

    /// The users of these connections, each once, in the order in which they stand there.
    pub fn users_among(&self, conns: impl Iterator<Item = ConnId>) -> Vec<&Id> {
        let mut seen = vec![false; self.users.capacity()];
        let mut ids = Vec::new();
        for claim in conns.filter_map(|conn| self.claims[conn.slot as usize]) {
            if !std::mem::replace(&mut seen[claim.user as usize], true) {
                ids.push(&self.users[claim.user as usize].id);
            }
        }
        ids
    }

    /// When the next grace time is over.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.graces.next()
    }

    /// Asserts that the tables agree with each other.
    pub fn check_invariants(&self) {
        assert_eq!(self.index.len(), self.users.len());
        for (ix, user) in &self.users {
            assert_eq!(self.index.get(&user.id.key), Some(&(ix as UserIx)));
            assert_eq!(user.conns.is_empty(), user.grace.is_some(), "online by one of the two");
            for conn in &user.conns {
                let claim = self.claims[conn.slot as usize].expect("a user's connection is theirs");
                assert_eq!(claim.user, ix as UserIx);
            }
        }
        let claimed = self.claims.iter().flatten().count();
        assert_eq!(claimed, self.users.iter().map(|(_, user)| user.conns.len()).sum::<usize>());
        assert_eq!(
            self.graces.count(),
            self.users.iter().filter(|(_, u)| u.grace.is_some()).count()
        );
    }
}

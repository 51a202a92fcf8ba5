//! Outcomes whose connection has gone, kept for its user's next one.
//!
//! A phone that changes networks, or comes back with a fresh token, still learns what became of
//! what it had sent: each `send_message` has exactly one outcome (`PROTOCOL.md` 2.9).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::deadlines::Deadlines;
use super::interface::ConnId;
use crate::protocol::IdKey;
use crate::protocol::server::EncodedFrame;

/// How long after a connection's end its user may come back for outcomes.
const LASTS: Duration = Duration::from_secs(600);
/// Connections that are waited for, and bytes that are kept for them; the oldest goes.
const LOST_MAX: usize = 4_096;
const BYTES_MAX: usize = 16 << 20;

/// A connection that has gone with messages on their way.
#[derive(Debug)]
struct Lost {
    user: IdKey,
    /// The user's next connection, while it is there.
    heir: Option<ConnId>,
    kept: Vec<EncodedFrame>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Heirs {
    lost: HashMap<ConnId, Lost>,
    by_user: HashMap<IdKey, Vec<ConnId>>,
    ends: Deadlines<ConnId>,
    bytes: usize,
}

impl Heirs {
    /// Notes that a user's connection has gone, perhaps with messages on their way.
    pub fn closed(&mut self, conn: ConnId, user: &IdKey, with_messages: bool, now: Instant) {
        for other in self.by_user.get(user).into_iter().flatten() {
            if let Some(lost) = self.lost.get_mut(other) {
                lost.heir = lost.heir.filter(|heir| *heir != conn);
            }
        }
        if !with_messages {
            return;
        }
        self.ends.set(now + LASTS, conn);
        let lost = Lost { user: user.clone(), heir: None, kept: Vec::new() };
        self.lost.insert(conn, lost);
        self.by_user.entry(user.clone()).or_default().push(conn);
        self.shed();
    }

    /// Makes a user's new connection the heir of those that have gone, and hands over what was
    /// kept, in order.
    pub fn arrived(&mut self, conn: ConnId, user: &IdKey) -> Vec<EncodedFrame> {
        let mut kept = Vec::new();
        for other in self.by_user.get(user).into_iter().flatten() {
            if let Some(lost) = self.lost.get_mut(other) {
                lost.heir = lost.heir.or(Some(conn));
                kept.append(&mut lost.kept);
            }
        }
        self.bytes -= kept.iter().map(|frame| frame.len()).sum::<usize>();
        kept
    }

    /// Who gets the outcomes of what this user, or nobody yet, has sent on a connection that has
    /// gone.
    pub fn heir_of(&self, conn: ConnId, user: Option<&IdKey>) -> Option<ConnId> {
        let lost = self.lost.get(&conn)?;
        lost.heir.filter(|_| user.is_none_or(|user| *user == lost.user))
    }

    /// Keeps an outcome of what this user, or nobody yet, has sent on a connection that has gone,
    /// if its user may come back for it.
    pub fn keep(&mut self, conn: ConnId, user: Option<&IdKey>, frame: EncodedFrame) {
        let lost = self.lost.get_mut(&conn);
        if let Some(lost) = lost.filter(|lost| user.is_none_or(|user| *user == lost.user)) {
            self.bytes += frame.len();
            lost.kept.push(frame);
            self.shed();
        }
    }

    /// When the next is given up.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.ends.next()
    }

    /// Gives up those whose time is over.
    pub fn forget(&mut self, now: Instant) {
        while let Some(conn) = self.ends.pop_due(now) {
            self.remove(conn);
        }
    }

    fn shed(&mut self) {
        while self.lost.len() > LOST_MAX || self.bytes > BYTES_MAX {
            let Some(conn) = self.ends.next().and_then(|at| self.ends.pop_due(at)) else {
                return;
            };
            self.remove(conn);
        }
    }

    fn remove(&mut self, conn: ConnId) {
        let Some(lost) = self.lost.remove(&conn) else {
            return;
        };
        self.bytes -= lost.kept.iter().map(|frame| frame.len()).sum::<usize>();
        if let Some(conns) = self.by_user.get_mut(&lost.user) {
            conns.retain(|other| *other != conn);
            if conns.is_empty() {
                self.by_user.remove(&lost.user);
            }
        }
    }

    /// Asserts that the tables agree with each other.
    pub fn check_invariants(&self) {
        assert_eq!(self.lost.len(), self.ends.count());
        assert_eq!(self.lost.len(), self.by_user.values().map(Vec::len).sum::<usize>());
        let kept = self.lost.values().flat_map(|lost| &lost.kept);
        assert_eq!(self.bytes, kept.map(|frame| frame.len()).sum::<usize>());
        assert!(self.lost.len() <= LOST_MAX && self.bytes <= BYTES_MAX);
    }
}

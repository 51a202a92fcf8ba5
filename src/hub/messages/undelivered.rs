//! Outcomes that could not be delivered because the connection closed, kept for its user's next
//! one.
//!
//! A phone that changes networks, or reconnects with a fresh token, still gets the outcome of each
//! message it has sent: every `send_message` has exactly one outcome (`PROTOCOL.md` 2.9).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::hub::deadlines::Deadlines;
use crate::hub::interface::ConnId;
use crate::protocol::IdKey;
use crate::protocol::server::EncodedFrame;

/// How long after a connection's end its user may come back for outcomes.
const TTL: Duration = Duration::from_secs(600);
/// Lost connections that are remembered, and bytes kept for them; the oldest is dropped.
const LOST_MAX: usize = 4_096;
const BYTES_MAX: usize = 16 << 20;
/// Later connections of a user that may take over the outcomes, one after the other.
const SUCCESSORS_MAX: usize = 8;

/// A connection that has closed, or now belongs to another user, while messages of this user were
/// in flight.
#[derive(Debug)]
struct LostConnection {
    /// The user's later connections that are open, in the order in which they connected.
    successors: Vec<ConnId>,
    kept: Vec<EncodedFrame>,
}

/// All lost connections, by user.
#[derive(Debug, Default)]
pub(crate) struct Undelivered {
    lost: HashMap<IdKey, Vec<(ConnId, LostConnection)>>,
    ends: Deadlines<(ConnId, IdKey)>,
    bytes: usize,
}

impl Undelivered {
    /// Records that a connection no longer belongs to a user. It is remembered if messages of the
    /// user are in flight on it.
    pub(crate) fn register_lost(
        &mut self,
        conn: ConnId,
        user: &IdKey,
        with_messages: bool,
        now: Instant,
    ) {
        for (_, lost) in self.lost.get_mut(user).into_iter().flatten() {
            lost.successors.retain(|successor| *successor != conn);
        }
        if !with_messages || self.find(conn, user).is_some() {
            return;
        }
        self.ends.set(now + TTL, (conn, user.clone()));
        let lost = LostConnection { successors: Vec::new(), kept: Vec::new() };
        self.lost.entry(user.clone()).or_default().push((conn, lost));
        self.evict();
    }

    /// Makes a user's new connection a successor of the lost ones, and returns the outcomes kept
    /// for the user, in order.
    pub(crate) fn hand_over(&mut self, conn: ConnId, user: &IdKey) -> Vec<EncodedFrame> {
        let mut kept = Vec::new();
        for (gone, lost) in self.lost.get_mut(user).into_iter().flatten() {
            if *gone != conn && lost.successors.len() < SUCCESSORS_MAX {
                lost.successors.push(conn);
            }
            kept.append(&mut lost.kept);
        }
        self.bytes -= kept.iter().map(|frame| frame.len()).sum::<usize>();
        kept
    }

    /// Returns the connection that gets the outcomes of what this user sent on a lost connection.
    pub(crate) fn successor_of(&self, conn: ConnId, user: &IdKey) -> Option<ConnId> {
        self.find(conn, user)?.successors.first().copied()
    }

    /// Lists the lost connections whose outcomes go to this connection of the user.
    pub(crate) fn predecessors(&self, conn: ConnId, user: &IdKey) -> impl Iterator<Item = ConnId> {
        let lost = self.lost.get(user).into_iter().flatten();
        lost.filter(move |(_, lost)| lost.successors.first() == Some(&conn)).map(|(gone, _)| *gone)
    }

    /// Keeps an outcome of a message that this user sent on a lost connection, if that connection
    /// is still remembered.
    pub(crate) fn store(&mut self, conn: ConnId, user: &IdKey, frame: EncodedFrame) {
        let mut lost = self.lost.get_mut(user).into_iter().flatten();
        if let Some((_, lost)) = lost.find(|(gone, _)| *gone == conn) {
            self.bytes += frame.len();
            lost.kept.push(frame);
            self.evict();
        }
    }

    /// Returns when the next lost connection expires.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.ends.next()
    }

    /// Drops expired lost connections and their outcomes.
    pub(crate) fn forget(&mut self, now: Instant) {
        while let Some((conn, user)) = self.ends.pop_due(now) {
            self.remove(conn, &user);
        }
    }

    fn find(&self, conn: ConnId, user: &IdKey) -> Option<&LostConnection> {
        let mut lost = self.lost.get(user).into_iter().flatten();
        lost.find(|(gone, _)| *gone == conn).map(|(_, lost)| lost)
    }

    fn evict(&mut self) {
        while self.ends.count() > LOST_MAX || self.bytes > BYTES_MAX {
            let Some((conn, user)) = self.ends.next().and_then(|at| self.ends.pop_due(at)) else {
                return;
            };
            self.remove(conn, &user);
        }
    }

    fn remove(&mut self, conn: ConnId, user: &IdKey) {
        let Some(all) = self.lost.get_mut(user) else {
            return;
        };
        if let Some(at) = all.iter().position(|(gone, _)| *gone == conn) {
            let (_, lost) = all.remove(at);
            self.bytes -= lost.kept.iter().map(|frame| frame.len()).sum::<usize>();
        }
        if all.is_empty() {
            self.lost.remove(user);
        }
    }

    /// Asserts that the tables agree with each other.
    pub(crate) fn check_invariants(&self) {
        let all = || self.lost.values().flatten();
        assert_eq!(all().count(), self.ends.count());
        let kept = all().flat_map(|(_, lost)| &lost.kept);
        assert_eq!(self.bytes, kept.map(|frame| frame.len()).sum::<usize>());
        assert!(self.ends.count() <= LOST_MAX && self.bytes <= BYTES_MAX);
    }
}

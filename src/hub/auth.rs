//! Authentication as one unit: credentials of connections, queries to the site, held frames.
//!
//! [`Identities`] knows what each connection has presented and what it proves, [`SiteQueries`]
//! is the queue of queries, [`HeldFrames`] counts the frames that wait for an answer, and
//! [`CallPermissions`] remembers which users may call in a thread.

pub(crate) mod blocks;
pub(crate) mod call_permissions;
pub(crate) mod held_frames;
pub(crate) mod identity;
pub(crate) mod proofs;
pub(crate) mod site_queries;
pub(crate) mod tickets;

use super::Hub;
use super::failure::Failure;
use super::interface::{ConnId, Now};
use crate::config::Trust;
use blocks::Blocks;
use call_permissions::{CallPair, CallPermissions};
use held_frames::{HeldFrameLimits, HeldFrames, HeldText};
use identity::Identities;
use site_queries::SiteQueries;
use tickets::Tickets;

/// The tables of authentication.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    /// The tokens, claims and proofs of each connection.
    pub(super) identity: Identities,
    /// Queries about credentials and participants, queued and in flight.
    pub(super) queries: SiteQueries,
    /// How many frames wait for the site, and their bytes.
    pub(super) held: HeldFrames,
    /// The users who may call in a thread.
    pub(super) calls: CallPermissions,
    /// The threads that tickets list, and the events that count more.
    pub(super) tickets: Tickets,
    /// The blocks between users.
    pub(super) blocks: Blocks,
    /// The call about which the site has just failed to answer, and why. The frame that was held
    /// for that answer never asks again.
    pub(super) unanswered_call: Option<(CallPair, Failure)>,
}

impl Auth {
    /// Holds a frame until the site has answered about the connection's credential, before or after
    /// the frames that it holds already; false if there is no room.
    pub(super) fn hold(
        &mut self,
        conn: ConnId,
        text: &str,
        first: bool,
        bounds: &HeldFrameLimits,
    ) -> bool {
        let has_room = self.held.add(conn, None, text.len(), bounds);
        if has_room {
            self.identity.hold(conn, HeldText::new(text), first);
        }
        has_room
    }

    /// Reserves room for a frame that waits for a thread's participants; false if there is none.
    pub(super) fn reserve_for_thread(
        &mut self,
        conn: ConnId,
        user: u64,
        bytes: usize,
        limits: &HeldFrameLimits,
    ) -> bool {
        self.held.add(conn, Some(user), bytes, limits)
    }

    /// Releases the room of a frame that no longer waits for a thread's participants.
    pub(super) fn release_for_thread(&mut self, conn: ConnId, user: u64, text: &HeldText) {
        self.held.remove(conn, Some(user), text.bytes());
    }

    /// Takes the next held frame of a connection that waits for no answer.
    pub(super) fn next_held(&mut self, conn: ConnId) -> Option<HeldText> {
        let text = self.identity.next_held(conn)?;
        self.held.remove(conn, None, text.bytes());
        Some(text)
    }

    /// Takes the next held frame of a connection, whether it waits for an answer or not.
    pub(super) fn take_held(&mut self, conn: ConnId) -> Option<HeldText> {
        let text = self.identity.take_held(conn)?;
        self.held.remove(conn, None, text.bytes());
        Some(text)
    }

    /// Forgets a connection, its held frames, and the queries that only it needed.
    pub(super) fn close(&mut self, conn: ConnId, now: Now) {
        for text in self.identity.close(conn, now.instant) {
            self.held.remove(conn, None, text.bytes());
        }
        for proof in self.identity.take_cancelled() {
            self.queries.remove_proof(proof);
        }
    }

    /// Asserts that the tables agree with each other.
    pub(super) fn check_invariants(&self) {
        self.identity.check_invariants();
        self.calls.check_invariants();
        self.tickets.check_invariants();
        self.blocks.check_invariants();
    }
}

impl Hub {
    /// Whether a connection's user must be proven by a credential. In open trust every `userId` is
    /// believed.
    pub(super) fn requires_proof(&self) -> bool {
        self.settings.trust == Trust::Verified
    }
}

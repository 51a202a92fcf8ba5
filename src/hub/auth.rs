//! Authentication as one unit: credentials of connections, queries to the site, held frames.
//!
//! [`Identities`] knows what each connection has presented and what it proves, [`SiteQueries`]
//! is the queue of queries, and [`HeldFrames`] counts the frames that wait for an answer.

pub(crate) mod held_frames;
pub(crate) mod identity;
pub(crate) mod proofs;
pub(crate) mod site_queries;

use super::Hub;
use super::interface::{Ask, ConnId, Now};
use super::messages::delivery::RequestTime;
use crate::config::Trust;
use held_frames::{HeldFrameLimits, HeldFrames, HeldText};
use identity::Identities;
use proofs::ProofIx;
use site_queries::{SiteQueries, SiteQuery};

/// The tables of authentication.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    /// The tokens, claims and proofs of each connection.
    pub(super) identity: Identities,
    /// Queries about credentials and participants, queued and in flight.
    pub(super) queries: SiteQueries,
    /// How many frames wait for the site, and their bytes.
    pub(super) held: HeldFrames,
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
    }
}

impl Hub {
    /// Whether a connection's user must be proven by a credential. In open trust every `userId` is
    /// believed.
    pub(super) fn requires_proof(&self) -> bool {
        self.settings.trust == Trust::Verified
    }

    /// Queues the query whose credential this is, and sends what may be sent.
    pub(super) fn query_proof(&mut self, proof: ProofIx, now: Now) {
        self.auth.queries.push_proof(proof);
        self.send_site_queries(now);
    }

    /// Sends queued queries to the site, as many as may be in flight at once.
    pub(super) fn send_site_queries(&mut self, now: Now) {
        while let Some(query) = self.auth.queries.next(self.settings.site_queries) {
            let request = self.messages.request_ids.allocate();
            let ask = match query {
                SiteQuery::Proof(proof) => self.auth.identity.begin_query(proof).map(Ask::Prove),
                SiteQuery::Participants(thread) => {
                    let asked_at = RequestTime { at: now.instant, request_id: request };
                    let credential = self.membership.begin_query(thread, asked_at);
                    credential.map(|credential| Ask::Participants { thread, credential })
                }
            };
            if let Some(ask) = ask {
                self.auth.queries.mark_in_flight(request, query);
                self.output.ask(request, Box::new(ask));
            }
        }
    }
}

//! Sends queued queries about credentials and participants to the site, a few at a time.

use super::Hub;
use super::auth::proofs::ProofIx;
use super::auth::site_queries::SiteQuery;
use super::interface::{Ask, Now};
use super::messages::delivery::RequestTime;

impl Hub {
    /// Queues a query about this credential, and sends queued queries up to the limit.
    pub(super) fn query_proof(&mut self, proof: ProofIx, now: Now) {
        self.auth.queries.push_proof(proof);
        self.send_site_queries(now);
    }

    /// Queues a query about this credential for whose answer nobody waits.
    pub(super) fn recheck_proof(&mut self, proof: ProofIx, now: Now) {
        self.auth.queries.push_recheck(proof);
        self.send_site_queries(now);
    }

    /// Sends queued queries to the site, as many as may be in flight at once.
    pub(super) fn send_site_queries(&mut self, now: Now) {
        while let Some(query) = self.auth.queries.next(self.settings.site_queries) {
            let request = self.messages.request_ids.allocate();
            let ask = match query {
                SiteQuery::Proof(proof) | SiteQuery::Recheck(proof) => {
                    self.auth.identity.begin_query(proof).map(|(credential, by_site)| match by_site
                    {
                        true => Ask::Recheck(credential),
                        false => Ask::Prove(credential),
                    })
                }
                SiteQuery::CallPermission(pair) => {
                    let waiting = self.auth.calls.waiting(pair).iter();
                    let open = waiting.copied().find(|conn| {
                        self.output.is_open(*conn)
                            && self.presence.number_of(*conn) == Some(pair.user)
                    });
                    let credential =
                        open.and_then(|conn| self.auth.identity.proven_credential(conn));
                    if credential.is_none() {
                        // The connections that waited have closed.
                        self.auth.calls.forget_waiting(pair);
                    }
                    credential.map(|credential| {
                        let credential = credential.clone();
                        Ask::CallPermission { thread: pair.thread, credential }
                    })
                }
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

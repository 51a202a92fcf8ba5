//! Queue of queries to the site about credentials and participants, with a limit in flight.
//!
//! When many clients connect at once, their queries wait here and not in the upstream's queue,
//! where messages would have to wait behind them. Credentials and threads take turns, and so do the
//! users who ask about threads, so that a flood of one kind does not delay the others.
//!
//! Nobody waits for a recheck, and their number grows with the members online. So they are sent one
//! at a time, and only while nothing else is queued.

use std::collections::{HashMap, VecDeque};

use super::call_permissions::CallPair;
use super::proofs::ProofIx;
use crate::hub::interface::RequestId;

/// A query to the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SiteQuery {
    /// The user of this credential.
    Proof(ProofIx),
    /// The user of this credential, once more.
    Recheck(ProofIx),
    /// Whether this user may write to the other participant of a thread.
    CallPermission(CallPair),
    /// The participants of this thread.
    Participants(u64),
}

/// Queued queries and queries in flight. The caller queues a credential or thread only once, so
/// there are never more queries than credentials and threads that wait for an answer.
#[derive(Debug, Default)]
pub(crate) struct SiteQueries {
    proofs: VecDeque<ProofIx>,
    /// Credentials that nobody waits for.
    rechecks: VecDeque<ProofIx>,
    /// Callers who wait to ring.
    calls: VecDeque<CallPair>,
    /// The threads queued by each user. Users take turns, so one account cannot fill the queue.
    threads: HashMap<u64, VecDeque<u64>>,
    users: VecDeque<u64>,
    /// Whether the next query is about a credential, if one is queued.
    proofs_first: bool,
    in_flight: HashMap<RequestId, SiteQuery>,
    /// Whether one of the queries in flight is a recheck.
    is_rechecking: bool,
}

impl SiteQueries {
    /// Queues a query about a credential.
    pub(crate) fn push_proof(&mut self, proof: ProofIx) {
        self.proofs.push_back(proof);
    }

    /// Queues a query about a credential for whose answer nobody waits.
    pub(crate) fn push_recheck(&mut self, proof: ProofIx) {
        self.rechecks.push_back(proof);
    }

    /// Moves a queued recheck to the queries that are waited for.
    pub(crate) fn promote(&mut self, proof: ProofIx) {
        if let Some(at) = self.rechecks.iter().position(|other| *other == proof) {
            self.rechecks.remove(at);
            self.proofs.push_back(proof);
        }
    }

    /// Queues a query whether a user may call.
    pub(crate) fn push_call(&mut self, pair: CallPair) {
        self.calls.push_back(pair);
    }

    /// Queues a query for the participants of a thread, on behalf of this user.
    pub(crate) fn push_participants(&mut self, thread: u64, user: u64) {
        let threads = self.threads.entry(user).or_default();
        if threads.is_empty() {
            self.users.push_back(user);
        }
        threads.push_back(thread);
    }

    /// Removes a queued credential for which no connection waits any more.
    pub(crate) fn remove_proof(&mut self, proof: ProofIx) {
        for queue in [&mut self.proofs, &mut self.rechecks] {
            if let Some(at) = queue.iter().position(|other| *other == proof) {
                queue.remove(at);
            }
        }
    }

    /// Removes a user's queued threads for which `keep` is false.
    pub(crate) fn retain_threads(&mut self, user: u64, keep: impl Fn(u64) -> bool) {
        if let Some(threads) = self.threads.get_mut(&user) {
            threads.retain(|thread| keep(*thread));
            if threads.is_empty() {
                self.threads.remove(&user);
                self.users.retain(|other| *other != user);
            }
        }
    }

    fn next_thread(&mut self) -> Option<u64> {
        let user = self.users.pop_front()?;
        let threads = self.threads.get_mut(&user)?;
        let thread = threads.pop_front();
        if threads.is_empty() {
            self.threads.remove(&user);
        } else {
            self.users.push_back(user);
        }
        thread
    }

    /// Takes the next query to send, if fewer than `max_in_flight` are in flight.
    pub(crate) fn next(&mut self, max_in_flight: usize) -> Option<SiteQuery> {
        if self.in_flight.len() >= max_in_flight {
            return None;
        }
        // A caller waits for it, and calls are rare.
        if let Some(pair) = self.calls.pop_front() {
            return Some(SiteQuery::CallPermission(pair));
        }
        self.proofs_first = !self.proofs_first;
        let proof = |this: &mut Self| this.proofs.pop_front().map(SiteQuery::Proof);
        let list = |this: &mut Self| this.next_thread().map(SiteQuery::Participants);
        let next = match self.proofs_first {
            true => proof(self).or_else(|| list(self)),
            false => list(self).or_else(|| proof(self)),
        };
        let recheck = |this: &mut Self| {
            let proof = (!this.is_rechecking).then(|| this.rechecks.pop_front()).flatten();
            proof.map(SiteQuery::Recheck)
        };
        next.or_else(|| recheck(self))
    }

    /// Records that a query has been sent.
    pub(crate) fn mark_in_flight(&mut self, request: RequestId, query: SiteQuery) {
        self.is_rechecking |= matches!(query, SiteQuery::Recheck(_));
        self.in_flight.insert(request, query);
    }

    /// Takes a query that was answered; `None` if there is no such request.
    pub(crate) fn finish(&mut self, request: RequestId) -> Option<SiteQuery> {
        let query = self.in_flight.remove(&request)?;
        self.is_rechecking &= !matches!(query, SiteQuery::Recheck(_));
        Some(query)
    }

    /// Returns how many queries are queued or in flight.
    pub(crate) fn count(&self) -> usize {
        self.in_flight.len()
            + self.proofs.len()
            + self.rechecks.len()
            + self.calls.len()
            + self.threads.values().map(VecDeque::len).sum::<usize>()
    }
}

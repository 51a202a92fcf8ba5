//! Questions to the site about people and threads: a few at a time, each once.
//!
//! Whoever arrives in a crowd waits here, and not in the upstream's queue, where messages would
//! have to wait behind them. People and threads take turns, and so do the users whose threads they
//! are: no flood of arrivals or of joins holds up the others.

use std::collections::{HashMap, VecDeque};

use super::authentication::proofs::ProofIx;
use super::interface::RequestId;

/// What is to be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteQuery {
    /// Whose this credential is.
    Proof(ProofIx),
    /// Who takes part in this thread.
    Participants(u64),
}

/// All of them. Who puts one sees to it that it does not stand here already, so there are never
/// more than credentials and threads that wait for an answer.
#[derive(Debug, Default)]
pub struct SiteQueries {
    proofs: VecDeque<ProofIx>,
    /// Each user's threads, and whose turn is next: one account does not fill the line of all.
    threads: HashMap<u64, VecDeque<u64>>,
    users: VecDeque<u64>,
    /// Whose turn it is.
    proofs_first: bool,
    in_flight: HashMap<RequestId, SiteQuery>,
}

impl SiteQueries {
    /// Puts the question whose a credential is in line.
    pub fn push_proof(&mut self, proof: ProofIx) {
        self.proofs.push_back(proof);
    }

    /// Puts the question who takes part in a thread in line, in this user's name.
    pub fn push_participants(&mut self, thread: u64, user: u64) {
        let threads = self.threads.entry(user).or_default();
        if threads.is_empty() {
            self.users.push_back(user);
        }
        threads.push_back(thread);
    }

    /// Takes a credential that nobody waits for any more out of the line.
    pub fn remove_proof(&mut self, proof: ProofIx) {
        if let Some(at) = self.proofs.iter().position(|other| *other == proof) {
            self.proofs.remove(at);
        }
    }

    /// Keeps only those of a user's threads in line.
    pub fn retain_threads(&mut self, user: u64, keep: impl Fn(u64) -> bool) {
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

    /// The next to ask, if fewer than `max_in_flight` are with the site.
    pub fn next(&mut self, max_in_flight: usize) -> Option<SiteQuery> {
        if self.in_flight.len() >= max_in_flight {
            return None;
        }
        self.proofs_first = !self.proofs_first;
        let proof = |this: &mut Self| this.proofs.pop_front().map(SiteQuery::Proof);
        let list = |this: &mut Self| this.next_thread().map(SiteQuery::Participants);
        match self.proofs_first {
            true => proof(self).or_else(|| list(self)),
            false => list(self).or_else(|| proof(self)),
        }
    }

    /// Notes that one has been put to the site.
    pub fn mark_in_flight(&mut self, request: RequestId, query: SiteQuery) {
        self.in_flight.insert(request, query);
    }

    /// Takes the one that was answered; `None` if there is no such request.
    pub fn finish(&mut self, request: RequestId) -> Option<SiteQuery> {
        self.in_flight.remove(&request)
    }

    /// How many are with the site or in line.
    pub fn count(&self) -> usize {
        self.in_flight.len()
            + self.proofs.len()
            + self.threads.values().map(VecDeque::len).sum::<usize>()
    }
}

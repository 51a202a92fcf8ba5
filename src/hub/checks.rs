//! Questions to the site about people and threads: a few at a time, each once.
//!
//! Whoever arrives in a crowd waits here, and not in the upstream's queue, where messages would
//! have to wait behind them. People and threads take turns, so that neither a flood of arrivals
//! nor one of joins holds up the other.

use std::collections::{HashMap, VecDeque};

use super::identity::proofs::ProofIx;
use super::interface::RequestId;

/// What is to be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Whose this credential is.
    Proof(ProofIx),
    /// Who takes part in this thread.
    List(u64),
}

/// All of them. Who puts one sees to it that it does not stand here already, so there are never
/// more than credentials and threads that wait for an answer.
#[derive(Debug, Default)]
pub struct Checks {
    proofs: VecDeque<ProofIx>,
    lists: VecDeque<u64>,
    /// Whose turn it is.
    lists_next: bool,
    in_flight: HashMap<RequestId, Check>,
}

impl Checks {
    /// Puts one in line.
    pub fn push(&mut self, check: Check) {
        match check {
            Check::Proof(proof) => self.proofs.push_back(proof),
            Check::List(thread) => self.lists.push_back(thread),
        }
    }

    /// The next to ask, if fewer than `at_once` are with the site.
    pub fn next(&mut self, at_once: usize) -> Option<Check> {
        if self.in_flight.len() >= at_once {
            return None;
        }
        self.lists_next = !self.lists_next;
        let proof = |this: &mut Self| this.proofs.pop_front().map(Check::Proof);
        let list = |this: &mut Self| this.lists.pop_front().map(Check::List);
        match self.lists_next {
            true => proof(self).or_else(|| list(self)),
            false => list(self).or_else(|| proof(self)),
        }
    }

    /// Notes that one has been put to the site.
    pub fn asked(&mut self, request: RequestId, check: Check) {
        self.in_flight.insert(request, check);
    }

    /// Takes the one that was answered; `None` if there is no such request.
    pub fn finish(&mut self, request: RequestId) -> Option<Check> {
        self.in_flight.remove(&request)
    }

    /// How many are with the site or in line.
    pub fn count(&self) -> usize {
        self.in_flight.len() + self.proofs.len() + self.lists.len()
    }
}

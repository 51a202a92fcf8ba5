//! Counters and latency histograms of the requests to the site, for the metrics page.
//!
//! Nothing in the server depends on these numbers.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::pool::worker::{AskKind, Task};
use super::site::ProbeOutcome;
use crate::hub::interface::{Answer, Failure, RequestId};
use crate::metrics::histogram::{Buckets, Histogram};

use super::health::Health;

/// Histogram bounds in microseconds: from a fast site on the local network to times beyond any
/// request timeout.
static BOUNDS: [u64; 12] = [
    10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
    30_000_000, 60_000_000,
];

/// The metric label of each request kind, in the order of `AskKind`; the pool's own probe is last.
pub(crate) const KINDS: [&str; 6] = ["message", "token", "list", "look", "call", "probe"];
const PROBE: usize = 5;

/// The outcome of a request, reduced to a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutcomeKind {
    /// The site did what was asked.
    Good,
    /// The site refused the request, or the request could not have been granted.
    Refused,
    /// The site asks for fewer requests (status 429).
    Busy,
    /// The site was not reached, or was not asked because the breaker is open.
    Unavailable,
    /// The reply is not one of a BuddyBoss site.
    Misconfigured,
    /// The request was not sent because the queue is full.
    Overloaded,
    /// No usable reply: the site may have done what was asked.
    Unknown,
}

/// The metric labels of [`OutcomeKind`], in the order of its discriminants.
pub(crate) const OUTCOMES: [&str; 7] =
    ["ok", "refused", "busy", "unavailable", "misconfigured", "overloaded", "unknown"];

impl OutcomeKind {
    fn from_answer(answer: &Answer) -> OutcomeKind {
        let Answer::Failed(failure) = answer else { return OutcomeKind::Good };
        match failure {
            Failure::TokenMissing
            | Failure::TicketOnly
            | Failure::TokenRefused
            | Failure::TokenInvalid(_)
            | Failure::TokenExpired
            | Failure::Suspended
            | Failure::NotParticipant
            | Failure::ThreadTooLarge
            | Failure::CannotWrite
            | Failure::RefusedBySite
            | Failure::TooLarge
            | Failure::NotStored => OutcomeKind::Refused,
            Failure::SiteBusy { .. } => OutcomeKind::Busy,
            Failure::SiteUnavailable { .. } => OutcomeKind::Unavailable,
            Failure::SiteMisconfigured => OutcomeKind::Misconfigured,
            Failure::Overloaded => OutcomeKind::Overloaded,
            Failure::Unknown | Failure::Unusable => OutcomeKind::Unknown,
        }
    }
}

/// A request without an answer yet.
#[derive(Debug)]
struct InFlight {
    kind: AskKind,
    /// When it was queued; after dispatch, when a worker got it.
    since: Instant,
}

/// The counters. Times are measured by the loop, to within one tick.
#[derive(Debug)]
pub struct UpstreamStats {
    /// Bounded by the pool's limits on accepted requests.
    in_flight: HashMap<RequestId, InFlight>,
    probe_since: Option<Instant>,
    outcomes: [[u64; OUTCOMES.len()]; KINDS.len()],
    latencies: [Histogram<12>; KINDS.len()],
    queue_waits: Histogram<12>,
    /// Tokens verified locally: accepted, refused.
    verified: [u64; 2],
    /// How often the breaker has opened.
    pub opened: u64,
}

/// The pool's current load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Posts and lookups of messages that wait for a worker.
    pub messages: usize,
    /// Token checks and participant lists that wait for a worker.
    pub checks: usize,
    /// Workers with a task.
    pub busy: usize,
    /// The breaker's state, an index into [`super::breaker::Breaker::STATES`].
    pub breaker: usize,
}

impl Default for UpstreamStats {
    fn default() -> UpstreamStats {
        let empty = Histogram::new(&BOUNDS);
        UpstreamStats {
            in_flight: HashMap::new(),
            probe_since: None,
            outcomes: [[0; OUTCOMES.len()]; KINDS.len()],
            latencies: std::array::from_fn(|_| empty.clone()),
            queue_waits: empty,
            verified: [0; 2],
            opened: 0,
        }
    }
}

impl UpstreamStats {
    /// Records that a request was accepted into the queue.
    pub(super) fn record_queued(&mut self, request: RequestId, kind: AskKind, now: Instant) {
        self.in_flight.insert(request, InFlight { kind, since: now });
    }

    /// Records a request that was answered without being queued.
    pub(super) fn record_rejected(&mut self, kind: AskKind, outcome: OutcomeKind) {
        self.outcomes[kind as usize][outcome as usize] += 1;
    }

    /// Records that a task goes to a worker.
    pub(super) fn record_dispatch(&mut self, task: &Task, now: Instant) {
        match task {
            Task::Probe(_) => self.probe_since = Some(now),
            Task::Plugin { .. } => {}
            Task::Ask { request, .. } => {
                if let Some(in_flight) = self.in_flight.get_mut(request) {
                    let since = std::mem::replace(&mut in_flight.since, now);
                    self.queue_waits.record(micros(now.saturating_duration_since(since)));
                }
            }
        }
    }

    /// Records the answer that a worker returned.
    pub(super) fn record_answer(&mut self, request: RequestId, answer: &Answer, now: Instant) {
        if let Some(InFlight { kind, since }) = self.in_flight.remove(&request) {
            self.outcomes[kind as usize][OutcomeKind::from_answer(answer) as usize] += 1;
            self.latencies[kind as usize].record(micros(now.saturating_duration_since(since)));
        }
    }

    /// Records a queued request that fails unsent because the breaker opened.
    pub(super) fn record_cancelled(&mut self, request: RequestId) {
        if let Some(InFlight { kind, .. }) = self.in_flight.remove(&request) {
            self.record_rejected(kind, OutcomeKind::Unavailable);
        }
    }

    /// Records the outcome of a probe.
    pub(super) fn record_probe(&mut self, probed: &ProbeOutcome, now: Instant) {
        let outcome = match (&probed.found, probed.health) {
            (Ok(_), _) => OutcomeKind::Good,
            (Err(_), Health::Failing { .. }) => OutcomeKind::Unavailable,
            (Err(_), _) => OutcomeKind::Misconfigured,
        };
        self.outcomes[PROBE][outcome as usize] += 1;
        if let Some(since) = self.probe_since.take() {
            self.latencies[PROBE].record(micros(now.saturating_duration_since(since)));
        }
    }

    /// Records the local verification of a token.
    pub(super) fn record_verification(&mut self, accepted: bool) {
        self.verified[usize::from(!accepted)] += 1;
    }

    /// Tokens verified locally: accepted, refused.
    pub fn tokens(&self) -> [u64; 2] {
        self.verified
    }

    /// Requests by kind and outcome, with their count.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let kinds = KINDS.into_iter().zip(self.outcomes);
        kinds.flat_map(|(kind, counts)| {
            OUTCOMES.into_iter().zip(counts).map(move |(outcome, count)| (kind, outcome, count))
        })
    }

    /// The site's latency in microseconds, for each kind.
    pub fn latencies(&self) -> impl Iterator<Item = (&'static str, Buckets<'_>)> {
        KINDS.into_iter().zip(self.latencies.iter().map(Histogram::buckets))
    }

    /// How long requests wait for a worker, in microseconds.
    pub fn queue_waits(&self) -> Buckets<'_> {
        self.queue_waits.buckets()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::interface::Proven;
    use crate::protocol::credential::Credential;
    use crate::upstream::url_style::UrlStyle;

    #[test]
    fn each_request_counts_once_with_kind_result_and_times() {
        let (mut stats, start) = (UpstreamStats::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let proven = Answer::Proven(Proven { user: 7, expires_s: None });
        let task = |n| Task::Ask {
            request: RequestId(n),
            ask: crate::hub::interface::Ask::Prove(Credential::parse("user-7").unwrap()),
            url_style: UrlStyle::Pretty,
        };
        stats.record_queued(RequestId(1), AskKind::Token, at(0));
        stats.record_dispatch(&task(1), at(20));
        stats.record_answer(RequestId(1), &proven, at(90));
        stats.record_queued(RequestId(2), AskKind::Message, at(0));
        stats.record_cancelled(RequestId(2));
        // The request was cancelled: this answer must not count.
        stats.record_answer(RequestId(2), &proven, at(90));
        stats.record_rejected(AskKind::Message, OutcomeKind::Overloaded);
        let counted: Vec<_> = stats.outcomes().filter(|(.., count)| *count > 0).collect();
        let message = [("message", "unavailable", 1), ("message", "overloaded", 1)];
        assert_eq!(counted, [&message[..], &[("token", "ok", 1)]].concat());
        let (_, token) = stats.latencies().nth(1).unwrap();
        assert_eq!((token.sum, token.counts.iter().sum::<u64>()), (70_000, 1));
        assert_eq!(stats.queue_waits().sum, 20_000);
        assert!(stats.in_flight.is_empty());
    }

    #[test]
    fn labels_are_ordered_by_discriminant() {
        assert_eq!(
            (AskKind::Message as usize, AskKind::Call as usize, PROBE),
            (0, 4, KINDS.len() - 1)
        );
        assert_eq!(KINDS[AskKind::Token as usize], "token");
        assert_eq!(KINDS[AskKind::List as usize], "list");
        assert_eq!(
            (OutcomeKind::Good as usize, OutcomeKind::Unknown as usize),
            (0, OUTCOMES.len() - 1)
        );
        assert_eq!(OUTCOMES[OutcomeKind::Refused as usize], "refused");
        assert_eq!(OUTCOMES[OutcomeKind::Misconfigured as usize], "misconfigured");
    }
}

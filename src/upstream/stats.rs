//! What the site has been asked since the start, what came of it, and how long it took: counts for
//! the operator, on which nothing depends.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::pool::worker::{AskKind, Task};
use super::site::ProbeOutcome;
use crate::hub::interface::{Answer, Failure, RequestId};
use crate::metrics::histogram::{Buckets, Histogram};

use super::health::Health;

/// Microseconds: from the best that a site in the same building does to what nobody waits for.
static BOUNDS: [u64; 12] = [
    10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
    30_000_000, 60_000_000,
];

/// What the site is asked, in the order of `AskKind`; the pool's own probe is the last.
pub const KINDS: [&str; 5] = ["message", "token", "list", "look", "probe"];
const PROBE: usize = 4;

/// What comes of a question, in a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutcomeKind {
    /// As was hoped for.
    Good,
    /// The site says no, or the request was none that it could have granted.
    Refused,
    /// It asks for fewer requests.
    Busy,
    /// It was not reached, or was not asked because it fails.
    Unavailable,
    /// It answers as no BuddyBoss site would.
    Misconfigured,
    /// It was not asked, for too many questions wait.
    Overloaded,
    /// No usable answer: what was asked for may have been done.
    Unknown,
}

/// The words for what comes of a question, in the order of the numbers.
pub const OUTCOMES: [&str; 7] =
    ["ok", "refused", "busy", "unavailable", "misconfigured", "overloaded", "unknown"];

impl OutcomeKind {
    fn from_answer(answer: &Answer) -> OutcomeKind {
        let Answer::Failed(failure) = answer else { return OutcomeKind::Good };
        match failure {
            Failure::TokenMissing
            | Failure::TokenRefused
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

/// A question that has no answer yet.
#[derive(Debug)]
struct InFlight {
    what: AskKind,
    /// When it came, and later when it was given to a worker.
    since: Instant,
}

/// The counts. Times are as the loop sees them, to within one turn of it.
#[derive(Debug)]
pub struct UpstreamStats {
    /// As many as the pool has taken, which has its bounds.
    in_flight: HashMap<RequestId, InFlight>,
    probe_since: Option<Instant>,
    outcomes: [[u64; OUTCOMES.len()]; KINDS.len()],
    latencies: [Histogram<12>; KINDS.len()],
    queue_waits: Histogram<12>,
    /// Tokens that were checked without the site: good ones and refused ones.
    verified: [u64; 2],
    /// How often the breaker has opened.
    pub opened: u64,
}

/// How much is to do for the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Messages and look-ups that wait for a worker.
    pub messages: usize,
    /// Questions about people and threads that do.
    pub checks: usize,
    /// Workers with something to do.
    pub busy: usize,
    /// The breaker's state, as a number in [`super::breaker::Breaker::STATES`].
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
    /// Notes that a question has been taken.
    pub(super) fn record_queued(&mut self, request: RequestId, what: AskKind, now: Instant) {
        self.in_flight.insert(request, InFlight { what, since: now });
    }

    /// Notes that a question was answered without being taken.
    pub(super) fn record_rejected(&mut self, what: AskKind, outcome: OutcomeKind) {
        self.outcomes[what as usize][outcome as usize] += 1;
    }

    /// Notes that a job goes to a worker.
    pub(super) fn record_dispatch(&mut self, task: &Task, now: Instant) {
        match task {
            Task::Probe(_) => self.probe_since = Some(now),
            Task::Ask { request, .. } => {
                if let Some(in_flight) = self.in_flight.get_mut(request) {
                    let since = std::mem::replace(&mut in_flight.since, now);
                    self.queue_waits.record(micros(now.saturating_duration_since(since)));
                }
            }
        }
    }

    /// Notes the answer that a worker has brought.
    pub(super) fn record_answer(&mut self, request: RequestId, answer: &Answer, now: Instant) {
        if let Some(InFlight { what, since }) = self.in_flight.remove(&request) {
            self.outcomes[what as usize][OutcomeKind::from_answer(answer) as usize] += 1;
            self.latencies[what as usize].record(micros(now.saturating_duration_since(since)));
        }
    }

    /// Notes that a question is answered that was never sent, for the site fails.
    pub(super) fn record_cancelled(&mut self, request: RequestId) {
        if let Some(InFlight { what, .. }) = self.in_flight.remove(&request) {
            self.record_rejected(what, OutcomeKind::Unavailable);
        }
    }

    /// Notes what came of a probe.
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

    /// Notes that a token was checked without the site.
    pub(super) fn record_verification(&mut self, good: bool) {
        self.verified[usize::from(!good)] += 1;
    }

    /// Tokens that were checked without the site: good ones and refused ones.
    pub fn tokens(&self) -> [u64; 2] {
        self.verified
    }

    /// What came of the questions: of what kind, how it ended, how often.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let kinds = KINDS.into_iter().zip(self.outcomes);
        kinds.flat_map(|(kind, counts)| {
            OUTCOMES.into_iter().zip(counts).map(move |(outcome, count)| (kind, outcome, count))
        })
    }

    /// How long the site takes, in microseconds, for each kind.
    pub fn latencies(&self) -> impl Iterator<Item = (&'static str, Buckets<'_>)> {
        KINDS.into_iter().zip(self.latencies.iter().map(Histogram::buckets))
    }

    /// How long questions wait for a worker, in microseconds.
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
        // Nobody's answer.
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
            (AskKind::Message as usize, AskKind::Look as usize, PROBE),
            (0, 3, KINDS.len() - 1)
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

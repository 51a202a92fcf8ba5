//! What the site has been asked since the start, what came of it, and how long it took: counts for
//! the operator, on which nothing depends.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::pool::work::{Job, What};
use super::site::Probed;
use crate::hub::interface::{Answer, Failure, RequestId};
use crate::metrics::histogram::{Histogram, Ranges};

use super::health::Sign;

/// Microseconds: from the best that a site in the same building does to what nobody waits for.
static BOUNDS: [u64; 12] = [
    10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
    30_000_000, 60_000_000,
];

/// What the site is asked, in the order of `What`; the pool's own probe is the last.
pub const KINDS: [&str; 5] = ["message", "token", "list", "look", "probe"];
const PROBE: usize = 4;

/// What comes of a question, in a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
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

impl Answered {
    fn of(answer: &Answer) -> Answered {
        let Answer::Failed(failure) = answer else { return Answered::Good };
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
            | Failure::NotStored => Answered::Refused,
            Failure::SiteBusy { .. } => Answered::Busy,
            Failure::SiteUnavailable { .. } => Answered::Unavailable,
            Failure::SiteMisconfigured => Answered::Misconfigured,
            Failure::Overloaded => Answered::Overloaded,
            Failure::Unknown | Failure::Unusable => Answered::Unknown,
        }
    }
}

/// A question that has no answer yet.
#[derive(Debug)]
struct Open {
    what: What,
    /// When it came, and later when it was given to a worker.
    since: Instant,
}

/// The counts. Times are as the loop sees them, to within one turn of it.
#[derive(Debug)]
pub struct Tally {
    /// As many as the pool has taken, which has its bounds.
    open: HashMap<RequestId, Open>,
    probe_since: Option<Instant>,
    outcomes: [[u64; OUTCOMES.len()]; KINDS.len()],
    takes: [Histogram<12>; KINDS.len()],
    waits: Histogram<12>,
    /// Tokens that were checked without the site: good ones and refused ones.
    verified: [u64; 2],
    /// How often the breaker has opened.
    pub opened: u64,
}

/// How much is to do for the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Messages and look-ups that wait for a worker.
    pub messages: usize,
    /// Questions about people and threads that do.
    pub checks: usize,
    /// Workers with something to do.
    pub busy: usize,
    /// The breaker's state, as a number in [`super::breaker::Breaker::STATES`].
    pub breaker: usize,
}

impl Default for Tally {
    fn default() -> Tally {
        let empty = Histogram::new(&BOUNDS);
        Tally {
            open: HashMap::new(),
            probe_since: None,
            outcomes: [[0; OUTCOMES.len()]; KINDS.len()],
            takes: std::array::from_fn(|_| empty.clone()),
            waits: empty,
            verified: [0; 2],
            opened: 0,
        }
    }
}

impl Tally {
    /// Notes that a question has been taken.
    pub(super) fn asked(&mut self, request: RequestId, what: What, now: Instant) {
        self.open.insert(request, Open { what, since: now });
    }

    /// Notes that a question was answered without being taken.
    pub(super) fn not_asked(&mut self, what: What, answered: Answered) {
        self.outcomes[what as usize][answered as usize] += 1;
    }

    /// Notes that a job goes to a worker.
    pub(super) fn given(&mut self, job: &Job, now: Instant) {
        match job {
            Job::Probe(_) => self.probe_since = Some(now),
            Job::Ask { request, .. } => {
                if let Some(open) = self.open.get_mut(request) {
                    let since = std::mem::replace(&mut open.since, now);
                    self.waits.note(micros(now.saturating_duration_since(since)));
                }
            }
        }
    }

    /// Notes the answer that a worker has brought.
    pub(super) fn answered(&mut self, request: RequestId, answer: &Answer, now: Instant) {
        if let Some(Open { what, since }) = self.open.remove(&request) {
            self.outcomes[what as usize][Answered::of(answer) as usize] += 1;
            self.takes[what as usize].note(micros(now.saturating_duration_since(since)));
        }
    }

    /// Notes that a question is answered that was never sent, for the site fails.
    pub(super) fn given_up(&mut self, request: RequestId) {
        if let Some(Open { what, .. }) = self.open.remove(&request) {
            self.not_asked(what, Answered::Unavailable);
        }
    }

    /// Notes what came of a probe.
    pub(super) fn probed(&mut self, probed: &Probed, now: Instant) {
        let answered = match (&probed.found, probed.sign) {
            (Ok(_), _) => Answered::Good,
            (Err(_), Sign::Failing { .. }) => Answered::Unavailable,
            (Err(_), _) => Answered::Misconfigured,
        };
        self.outcomes[PROBE][answered as usize] += 1;
        if let Some(since) = self.probe_since.take() {
            self.takes[PROBE].note(micros(now.saturating_duration_since(since)));
        }
    }

    /// Notes that a token was checked without the site.
    pub(super) fn verified(&mut self, good: bool) {
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
    pub fn takes(&self) -> impl Iterator<Item = (&'static str, Ranges<'_>)> {
        KINDS.into_iter().zip(self.takes.iter().map(Histogram::ranges))
    }

    /// How long questions wait for a worker, in microseconds.
    pub fn waits(&self) -> Ranges<'_> {
        self.waits.ranges()
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
    use crate::upstream::address::Form;

    #[test]
    fn a_question_counts_once_with_its_kind_its_end_and_its_times() {
        let (mut tally, start) = (Tally::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let proven = Answer::Proven(Proven { user: 7, expires_s: None });
        let job = |n| Job::Ask {
            request: RequestId(n),
            ask: crate::hub::interface::Ask::Prove(Credential::parse("user-7").unwrap()),
            form: Form::Pretty,
        };
        tally.asked(RequestId(1), What::Token, at(0));
        tally.given(&job(1), at(20));
        tally.answered(RequestId(1), &proven, at(90));
        tally.asked(RequestId(2), What::Message, at(0));
        tally.given_up(RequestId(2));
        // Nobody's answer.
        tally.answered(RequestId(2), &proven, at(90));
        tally.not_asked(What::Message, Answered::Overloaded);
        let counted: Vec<_> = tally.outcomes().filter(|(.., count)| *count > 0).collect();
        let message = [("message", "unavailable", 1), ("message", "overloaded", 1)];
        assert_eq!(counted, [&message[..], &[("token", "ok", 1)]].concat());
        let (_, token) = tally.takes().nth(1).unwrap();
        assert_eq!((token.sum, token.counts.iter().sum::<u64>()), (70_000, 1));
        assert_eq!(tally.waits().sum, 20_000);
        assert!(tally.open.is_empty());
    }

    #[test]
    fn the_words_stand_in_the_order_of_the_numbers() {
        assert_eq!((What::Message as usize, What::Look as usize, PROBE), (0, 3, KINDS.len() - 1));
        assert_eq!(KINDS[What::Token as usize], "token");
        assert_eq!(KINDS[What::List as usize], "list");
        assert_eq!((Answered::Good as usize, Answered::Unknown as usize), (0, OUTCOMES.len() - 1));
        assert_eq!(OUTCOMES[Answered::Refused as usize], "refused");
        assert_eq!(OUTCOMES[Answered::Misconfigured as usize], "misconfigured");
    }
}

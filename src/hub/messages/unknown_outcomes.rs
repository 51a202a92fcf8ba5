//! Reconciles messages with an unknown outcome: schedules lookups of each in its thread.
//!
//! The post of such a message ended without a usable answer, and it is never sent again. The thread
//! shows whether the site has stored the message: at once, or later if the site may still be
//! processing it. Until that is decided the message blocks its lane, since a later message would
//! become the sender's newest one; so the lookups come soon. While the site is unavailable none is
//! sent, and all come at once when it is available again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::hub::deadlines::{DeadlineKey, Deadlines};
use crate::hub::failure::SiteState;
use crate::hub::interface::RequestId;

/// When the thread is looked up, counted from the failure. A site that has finished the request has
/// stored the message or never will, so the first lookup with an answer decides.
const DELAYS_WHEN_FINISHED: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];
/// A site that may still be processing the request can store the message later. A lookup that does
/// not find it decides nothing, and after the last one the outcome stays unknown.
const DELAYS_WHEN_RUNNING: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];

/// The time between a lookup without an answer and the next one.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// The outcome stays unknown if no lookup was answered in this time since the failure.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);

#[derive(Debug)]
struct Unresolved {
    site_state: SiteState,
    failed_at: Instant,
    /// When the next lookup is due, or the end while the site is unavailable; `None` while a lookup
    /// is in flight or being evaluated.
    due: Option<DeadlineKey>,
}

/// The next step for a message with an unknown outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DueStep {
    /// The lookup of this post.
    Lookup(RequestId),
    /// The site was unavailable for too long: the outcome of this post stays unknown.
    GiveUp(RequestId),
}

/// All messages with an unknown outcome, by the request that posted them.
#[derive(Debug)]
pub(crate) struct UnknownOutcomes {
    unresolved: HashMap<RequestId, Unresolved>,
    due: Deadlines<RequestId>,
    /// Lookups in flight, with the post that each is about.
    in_flight: HashMap<RequestId, RequestId>,
    site_available: bool,
}

impl Default for UnknownOutcomes {
    /// No messages; the site is available.
    fn default() -> UnknownOutcomes {
        UnknownOutcomes {
            unresolved: HashMap::new(),
            due: Deadlines::default(),
            in_flight: HashMap::new(),
            site_available: true,
        }
    }
}

impl UnknownOutcomes {
    /// Records that a post failed and its outcome is unknown, and schedules the first lookup.
    pub(crate) fn begin(&mut self, post: RequestId, site_state: SiteState, now: Instant) {
        self.unresolved.insert(post, Unresolved { site_state, failed_at: now, due: None });
        self.schedule_next(post, now);
    }

    /// Returns when [`UnknownOutcomes::take_due`] has something.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.due.next()
    }

    /// Takes what is due. For a lookup, `lookup` is recorded as the request that performs it.
    pub(crate) fn take_due(&mut self, now: Instant, lookup: RequestId) -> Option<DueStep> {
        let post = self.due.pop_due(now)?;
        if let Some(unresolved) = self.unresolved.get_mut(&post) {
            unresolved.due = None;
        }
        if !self.site_available {
            return Some(DueStep::GiveUp(post));
        }
        self.in_flight.insert(lookup, post);
        Some(DueStep::Lookup(post))
    }

    /// Records whether requests reach the site. When they do again, all lookups are due.
    pub(crate) fn set_site_available(&mut self, available: bool, now: Instant) {
        self.site_available = available;
        let mut scheduled = Vec::new();
        while let Some(post) = self.due.next().and_then(|at| self.due.pop_due(at)) {
            scheduled.push(post);
        }
        for post in scheduled {
            self.schedule_at(post, now);
        }
    }

    /// Returns the post that a lookup is about.
    pub(crate) fn post_of(&self, lookup: RequestId) -> Option<RequestId> {
        self.in_flight.get(&lookup).copied()
    }

    /// Takes a lookup that was answered; `None` if there is no such request. The caller continues
    /// with [`UnknownOutcomes::schedule_next`] or [`UnknownOutcomes::remove`].
    pub(crate) fn finish_lookup(&mut self, lookup: RequestId) -> Option<(RequestId, SiteState)> {
        let post = self.in_flight.remove(&lookup)?;
        self.unresolved.get(&post).map(|unresolved| (post, unresolved.site_state))
    }

    /// Schedules the next lookup that is still in the future, after one that decided nothing; false
    /// if there is none.
    pub(crate) fn schedule_next(&mut self, post: RequestId, now: Instant) -> bool {
        let Some(unresolved) = self.unresolved.get(&post) else { return false };
        let delays = match unresolved.site_state {
            SiteState::Finished => &DELAYS_WHEN_FINISHED,
            SiteState::MayBeRunning => &DELAYS_WHEN_RUNNING,
        };
        let next = delays.iter().map(|after| unresolved.failed_at + *after).find(|at| *at > now);
        next.inspect(|at| self.schedule_at(post, *at)).is_some()
    }

    /// Schedules a lookup after one that got no answer; false if it is too late for another.
    pub(crate) fn schedule_retry(&mut self, post: RequestId, now: Instant) -> bool {
        let Some(unresolved) = self.unresolved.get(&post) else { return false };
        if now >= unresolved.failed_at + GIVE_UP_AFTER {
            return false;
        }
        self.schedule_at(post, now + RETRY_INTERVAL);
        true
    }

    /// Schedules a lookup at `at`, or the end while the site is unavailable.
    fn schedule_at(&mut self, post: RequestId, at: Instant) {
        let Some(unresolved) = self.unresolved.get_mut(&post) else { return };
        let give_up_at = unresolved.failed_at + GIVE_UP_AFTER;
        let at = if self.site_available { at } else { give_up_at };
        unresolved.due = Some(self.due.set(at, post));
    }

    /// Removes a post whose outcome is decided.
    pub(crate) fn remove(&mut self, post: RequestId) {
        if let Some(due) = self.unresolved.remove(&post).and_then(|unresolved| unresolved.due) {
            self.due.cancel(due);
        }
    }

    /// Removes all posts, before the server stops.
    pub(crate) fn clear(&mut self) {
        let site_available = self.site_available;
        *self = UnknownOutcomes { site_available, ..UnknownOutcomes::default() };
    }

    /// Asserts that each post is scheduled for a lookup or has one in flight.
    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.unresolved.len(), self.due.count() + self.in_flight.len());
        assert!(self.in_flight.values().all(|post| self.unresolved.contains_key(post)));
        assert_eq!(
            self.unresolved.values().filter(|unresolved| unresolved.due.is_some()).count(),
            self.due.count()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Runs all steps until `end` and returns the time of each in milliseconds, and whether it is a
    /// lookup; no lookup gets an answer.
    fn run_unanswered(
        outcomes: &mut UnknownOutcomes,
        start: Instant,
        end: u64,
    ) -> Vec<(u64, bool)> {
        let mut steps = Vec::new();
        while let Some(at) = outcomes.next_deadline().filter(|at| *at <= start + end as u32 * MS) {
            let after_ms = (at - start).as_millis() as u64;
            let lookup = RequestId(1_000 + steps.len() as u64);
            match outcomes.take_due(at, lookup).unwrap() {
                DueStep::Lookup(_) => {
                    let (post, _) = outcomes.finish_lookup(lookup).unwrap();
                    steps.push((after_ms, true));
                    if !outcomes.schedule_retry(post, at) {
                        outcomes.remove(post);
                    }
                }
                DueStep::GiveUp(post) => {
                    steps.push((after_ms, false));
                    outcomes.remove(post);
                }
            }
            outcomes.check_invariants();
        }
        steps
    }

    #[test]
    fn unanswered_lookups_repeat_until_fifteen_seconds() {
        let (mut outcomes, start) = (UnknownOutcomes::default(), Instant::now());
        outcomes.begin(RequestId(1), SiteState::Finished, start);
        let steps = run_unanswered(&mut outcomes, start, 90_000);
        let expected: Vec<_> = (0..=8).map(|n| (500 + 2_000 * n, true)).collect();
        assert_eq!(steps, expected);
        assert_eq!(outcomes.next_deadline(), None);
    }

    #[test]
    fn unavailable_site_is_not_asked_until_it_is_back() {
        let (mut outcomes, start) = (UnknownOutcomes::default(), Instant::now());
        outcomes.begin(RequestId(1), SiteState::Finished, start);
        outcomes.set_site_available(false, start + 100 * MS);
        outcomes.begin(RequestId(2), SiteState::MayBeRunning, start + 200 * MS);
        assert_eq!(run_unanswered(&mut outcomes, start, 14_999), []);
        let back = start + 3_000 * MS;
        outcomes.set_site_available(true, back);
        let due = |outcomes: &mut UnknownOutcomes, n| outcomes.take_due(back, RequestId(n));
        assert_eq!(due(&mut outcomes, 10), Some(DueStep::Lookup(RequestId(1))));
        assert_eq!(due(&mut outcomes, 11), Some(DueStep::Lookup(RequestId(2))));
        assert_eq!(due(&mut outcomes, 12), None);
        outcomes.check_invariants();
        // The site fails again while a lookup is in flight.
        outcomes.set_site_available(false, back);
        let (post, _) = outcomes.finish_lookup(RequestId(11)).unwrap();
        assert!(outcomes.schedule_retry(post, back + 100 * MS));
        assert_eq!(run_unanswered(&mut outcomes, start, 90_000), [(15_200, false)]);
    }
}

//! Reconciles messages with an unknown outcome: schedules lookups of each in its thread.
//!
//! The post of such a message ended without a usable answer, and it is never sent again. The thread
//! shows whether the site has stored the message: at once, or later if the site may still be
//! processing it. Until that is decided the message blocks its lane, since a later message would
//! become the sender's newest one; so the lookups come soon.

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

#[derive(Debug)]
struct Unresolved {
    site_state: SiteState,
    failed_at: Instant,
    /// When the next lookup is due; `None` while one is in flight or being evaluated.
    due: Option<DeadlineKey>,
}

/// All messages with an unknown outcome, by the request that posted them.
#[derive(Debug, Default)]
pub(crate) struct UnknownOutcomes {
    unresolved: HashMap<RequestId, Unresolved>,
    due: Deadlines<RequestId>,
    /// Lookups in flight, with the post that each is about.
    in_flight: HashMap<RequestId, RequestId>,
}

impl UnknownOutcomes {
    /// Records that a post failed and its outcome is unknown, and schedules the first lookup.
    pub(crate) fn begin(&mut self, post: RequestId, site_state: SiteState, now: Instant) {
        self.unresolved.insert(post, Unresolved { site_state, failed_at: now, due: None });
        self.schedule_next(post, now);
    }

    /// Returns when the next lookup is due.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.due.next()
    }

    /// Takes a post whose lookup is due, and records `lookup` as the request that performs it.
    pub(crate) fn take_due(&mut self, now: Instant, lookup: RequestId) -> Option<RequestId> {
        let post = self.due.pop_due(now)?;
        if let Some(unresolved) = self.unresolved.get_mut(&post) {
            unresolved.due = None;
        }
        self.in_flight.insert(lookup, post);
        Some(post)
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

    /// Schedules the next lookup that is still in the future; false if there is none.
    pub(crate) fn schedule_next(&mut self, post: RequestId, now: Instant) -> bool {
        let Some(unresolved) = self.unresolved.get_mut(&post) else { return false };
        let delays = match unresolved.site_state {
            SiteState::Finished => &DELAYS_WHEN_FINISHED,
            SiteState::MayBeRunning => &DELAYS_WHEN_RUNNING,
        };
        let next = delays.iter().map(|after| unresolved.failed_at + *after).find(|at| *at > now);
        unresolved.due = next.map(|at| self.due.set(at, post));
        next.is_some()
    }

    /// Removes a post whose outcome is decided.
    pub(crate) fn remove(&mut self, post: RequestId) {
        if let Some(due) = self.unresolved.remove(&post).and_then(|unresolved| unresolved.due) {
            self.due.cancel(due);
        }
    }

    /// Removes all posts, before the server stops.
    pub(crate) fn clear(&mut self) {
        *self = UnknownOutcomes::default();
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

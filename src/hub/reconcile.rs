//! Messages whose fate is not known, and when the site is asked about each.
//!
//! Their post is over without a usable answer, and is never sent again. The thread shows whether it
//! has stored them: at once, or, where it may still be at work, later. Until that is decided their
//! lane stands, or the sender's newest message would be a later one; so it is decided soon.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::deadlines::{DeadlineKey, Deadlines};
use super::failure::SiteState;
use super::interface::RequestId;

/// When the thread is looked up, counted from the failure. A site whose work is over has stored the
/// message or will not: the first look that is answered decides.
const DELAYS_WHEN_FINISHED: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];
/// A site that may still be at work can store it later. A look that does not find it decides
/// nothing, and after the last nobody knows.
const DELAYS_WHEN_RUNNING: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];

#[derive(Debug)]
struct Unresolved {
    site_state: SiteState,
    failed_at: Instant,
    /// When the next look is due, unless one is with the site or has just come back.
    due: Option<DeadlineKey>,
}

/// All of them, by the request that should have stored them.
#[derive(Debug, Default)]
pub struct Reconciler {
    unresolved: HashMap<RequestId, Unresolved>,
    due: Deadlines<RequestId>,
    /// The looks that are with the site, and the post that each is about.
    in_flight: HashMap<RequestId, RequestId>,
}

impl Reconciler {
    /// Notes that a post has failed and left this doubt.
    pub fn begin(&mut self, post: RequestId, site_state: SiteState, now: Instant) {
        self.unresolved.insert(post, Unresolved { site_state, failed_at: now, due: None });
        self.schedule_next(post, now);
    }

    /// When the next look is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.next()
    }

    /// Takes a post whose thread is to be looked up now, under the name `lookup`.
    pub fn take_due(&mut self, now: Instant, lookup: RequestId) -> Option<RequestId> {
        let post = self.due.pop_due(now)?;
        if let Some(unresolved) = self.unresolved.get_mut(&post) {
            unresolved.due = None;
        }
        self.in_flight.insert(lookup, post);
        Some(post)
    }

    /// The post that a look is about.
    pub fn post_of(&self, lookup: RequestId) -> Option<RequestId> {
        self.in_flight.get(&lookup).copied()
    }

    /// Takes the look that was answered; `None` if there is no such request. Either
    /// [`Reconciler::wait`] or [`Reconciler::remove`] follows.
    pub fn finish_lookup(&mut self, lookup: RequestId) -> Option<(RequestId, SiteState)> {
        let post = self.in_flight.remove(&lookup)?;
        self.unresolved.get(&post).map(|unresolved| (post, unresolved.site_state))
    }

    /// Waits for the next look that is not over yet; false if there is none.
    pub fn schedule_next(&mut self, post: RequestId, now: Instant) -> bool {
        let Some(unresolved) = self.unresolved.get_mut(&post) else { return false };
        let delays = match unresolved.site_state {
            SiteState::Finished => &DELAYS_WHEN_FINISHED,
            SiteState::MayBeRunning => &DELAYS_WHEN_RUNNING,
        };
        let next = delays.iter().map(|after| unresolved.failed_at + *after).find(|at| *at > now);
        unresolved.due = next.map(|at| self.due.set(at, post));
        next.is_some()
    }

    /// Forgets one that is decided.
    pub fn remove(&mut self, post: RequestId) {
        if let Some(due) = self.unresolved.remove(&post).and_then(|unresolved| unresolved.due) {
            self.due.cancel(due);
        }
    }

    /// Forgets all, before the server stops.
    pub fn clear(&mut self) {
        *self = Reconciler::default();
    }

    /// Asserts that each waits for its time or for an answer.
    pub fn check_invariants(&self) {
        assert_eq!(self.unresolved.len(), self.due.count() + self.in_flight.len());
        assert!(self.in_flight.values().all(|post| self.unresolved.contains_key(post)));
        assert_eq!(
            self.unresolved.values().filter(|unresolved| unresolved.due.is_some()).count(),
            self.due.count()
        );
    }
}

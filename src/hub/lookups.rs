//! Messages whose fate is not known, and when the site is asked about each.
//!
//! Their post is over without a usable answer, and is never sent again. The thread shows whether it
//! has stored them: at once, or, where it may still be at work, later. Until that is decided their
//! lane stands, or the sender's newest message would be a later one; so it is decided soon.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::deadlines::{DeadlineKey, Deadlines};
use super::failure::Doubt;
use super::interface::RequestId;

/// When the thread is looked up, counted from the failure. A site whose work is over has stored the
/// message or will not: the first look that is answered decides.
const ENDED: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];
/// A site that may still be at work can store it later. A look that does not find it decides
/// nothing, and after the last nobody knows.
const MAY_GO_ON: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];

#[derive(Debug)]
struct Open {
    doubt: Doubt,
    failed: Instant,
    /// When the next look is due, unless one is with the site or has just come back.
    due: Option<DeadlineKey>,
}

/// All of them, by the request that should have stored them.
#[derive(Debug, Default)]
pub struct Lookups {
    open: HashMap<RequestId, Open>,
    due: Deadlines<RequestId>,
    /// The looks that are with the site, and the post that each is about.
    looks: HashMap<RequestId, RequestId>,
}

impl Lookups {
    /// Notes that a post has failed and left this doubt.
    pub fn begin(&mut self, post: RequestId, doubt: Doubt, now: Instant) {
        self.open.insert(post, Open { doubt, failed: now, due: None });
        self.wait(post, now);
    }

    /// When the next look is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.next()
    }

    /// Takes a post whose thread is to be looked up now, under the name `look`.
    pub fn due(&mut self, now: Instant, look: RequestId) -> Option<RequestId> {
        let post = self.due.pop_due(now)?;
        if let Some(open) = self.open.get_mut(&post) {
            open.due = None;
        }
        self.looks.insert(look, post);
        Some(post)
    }

    /// The post that a look is about.
    pub fn post_of(&self, look: RequestId) -> Option<RequestId> {
        self.looks.get(&look).copied()
    }

    /// Takes the look that was answered; `None` if there is no such request. Either
    /// [`Lookups::wait`] or [`Lookups::end`] follows.
    pub fn answered(&mut self, look: RequestId) -> Option<(RequestId, Doubt)> {
        let post = self.looks.remove(&look)?;
        self.open.get(&post).map(|open| (post, open.doubt))
    }

    /// Waits for the next look that is not over yet; false if there is none.
    pub fn wait(&mut self, post: RequestId, now: Instant) -> bool {
        let Some(open) = self.open.get_mut(&post) else { return false };
        let looks = match open.doubt {
            Doubt::Ended => &ENDED,
            Doubt::MayGoOn => &MAY_GO_ON,
        };
        let next = looks.iter().map(|after| open.failed + *after).find(|at| *at > now);
        open.due = next.map(|at| self.due.set(at, post));
        next.is_some()
    }

    /// Forgets one that is decided.
    pub fn end(&mut self, post: RequestId) {
        if let Some(due) = self.open.remove(&post).and_then(|open| open.due) {
            self.due.cancel(due);
        }
    }

    /// Forgets all, before the server stops.
    pub fn clear(&mut self) {
        *self = Lookups::default();
    }

    /// Asserts that each waits for its time or for an answer.
    pub fn check_invariants(&self) {
        assert_eq!(self.open.len(), self.due.count() + self.looks.len());
        assert!(self.looks.values().all(|post| self.open.contains_key(post)));
        assert_eq!(self.open.values().filter(|open| open.due.is_some()).count(), self.due.count());
    }
}

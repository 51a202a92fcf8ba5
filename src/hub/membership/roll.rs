//! What is known of one thread, and what waits for the rest.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::hub::delivery::{Asked, Job};
use crate::hub::failure::Failure;
use crate::hub::interface::{ConnId, Stored};
use crate::hub::waiting::HeldText;
use crate::protocol::credential::Credential;

/// How long the site's word that someone does not take part holds.
const REFUSAL_LASTS: Duration = Duration::from_secs(10);
/// How long a thread is taken to be too large.
pub(super) const TOO_LARGE_LASTS: Duration = Duration::from_secs(60);
/// Strangers of one thread that are remembered; more are asked about each time.
const REFUSED_MAX: usize = 32;

/// What cannot be decided before the site has said who takes part.
#[derive(Debug)]
pub enum Held {
    /// A client's frame.
    Frame {
        /// Who sent it.
        conn: ConnId,
        /// As whom.
        user: u64,
        /// Its text.
        text: HeldText,
    },
    /// A stored message that is to be shown.
    Message {
        /// What was asked, and what came of it.
        stored: Box<(Job, Stored)>,
        /// The question that it waits for is its own, or the last that it waits for.
        asked: bool,
    },
}

/// A list of participants.
#[derive(Debug)]
pub(super) struct List {
    /// Ascending.
    pub(super) users: Box<[u64]>,
    /// When the site was asked, which is when this was true, or a little later.
    pub(super) asked: Asked,
}

/// A question that is with the site, or in line.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) credential: Credential,
    pub(super) user: u64,
    /// `None` while it stands in line.
    pub(super) asked: Option<Asked>,
}

/// One thread.
#[derive(Debug, Default)]
pub(super) struct Roll {
    pub(super) list: Option<List>,
    /// Who the site said does not take part, and until when that is believed.
    pub(super) refused: VecDeque<(u64, Instant)>,
    /// Whose questions the site has not answered, and how long they are not repeated. One member's
    /// bad luck is nobody else's.
    pub(super) failed: VecDeque<(u64, Failure, Instant)>,
    pub(super) too_large: Option<Instant>,
    pub(super) question: Option<Question>,
    pub(super) held: VecDeque<Held>,
    /// Its place among the oldest.
    pub(super) age: u64,
}

impl List {
    pub(super) fn has(&self, user: u64) -> bool {
        self.users.binary_search(&user).is_ok()
    }

    pub(super) fn age(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.asked.at)
    }
}

impl Roll {
    /// Whether its question still stands in line.
    pub(super) fn is_in_line(&self) -> bool {
        self.question.as_ref().is_some_and(|question| question.asked.is_none())
    }

    pub(super) fn refuse(&mut self, user: u64, now: Instant) {
        self.refused.retain(|(who, until)| *who != user && *until > now);
        if self.refused.len() >= REFUSED_MAX {
            self.refused.pop_front();
        }
        self.refused.push_back((user, now + REFUSAL_LASTS));
    }

    pub(super) fn fail(&mut self, user: u64, failure: Failure, until: Instant, now: Instant) {
        self.failed.retain(|(who, _, until)| *who != user && *until > now);
        if self.failed.len() >= REFUSED_MAX {
            self.failed.pop_front();
        }
        self.failed.push_back((user, failure, until));
    }

    pub(super) fn failure_of(&self, user: u64, now: Instant) -> Option<Failure> {
        if self.too_large.is_some_and(|until| until > now) {
            return Some(Failure::ThreadTooLarge);
        }
        let failed = self.failed.iter().find(|(who, _, until)| *who == user && *until > now);
        failed.map(|(_, failure, _)| *failure)
    }
}

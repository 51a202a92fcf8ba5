//! What is known of one thread, and what waits for the rest.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::hub::delivery::{PendingMessage, RequestTime};
use crate::hub::failure::Failure;
use crate::hub::held_frames::HeldText;
use crate::hub::interface::{ConnId, Stored};
use crate::protocol::credential::Credential;

/// How long the site's word that someone does not take part holds.
const REFUSAL_TTL: Duration = Duration::from_secs(10);
/// How long a thread is taken to be too large.
pub(super) const TOO_LARGE_TTL: Duration = Duration::from_secs(60);
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
        stored: Box<(PendingMessage, Stored)>,
        /// The question that it waits for is its own, or the last that it waits for.
        is_final: bool,
    },
}

/// A list of participants.
#[derive(Debug)]
pub(super) struct ParticipantList {
    /// Ascending.
    pub(super) users: Box<[u64]>,
    /// When the site was asked, which is when this was true, or a little later.
    pub(super) asked_at: RequestTime,
}

/// A question that is with the site, or in line.
#[derive(Debug)]
pub(super) struct ParticipantQuery {
    pub(super) credential: Credential,
    pub(super) user: u64,
    /// `None` while it stands in line.
    pub(super) asked_at: Option<RequestTime>,
}

/// One thread.
#[derive(Debug, Default)]
pub(super) struct ThreadRecord {
    pub(super) list: Option<ParticipantList>,
    /// Who the site said does not take part, and until when that is believed.
    pub(super) refused: VecDeque<(u64, Instant)>,
    /// Whose questions the site has not answered, and how long they are not repeated. One member's
    /// bad luck is nobody else's.
    pub(super) failed: VecDeque<(u64, Failure, Instant)>,
    pub(super) too_large: Option<Instant>,
    pub(super) query: Option<ParticipantQuery>,
    pub(super) held: VecDeque<Held>,
    /// Its place among the oldest.
    pub(super) age: u64,
}

impl ParticipantList {
    pub(super) fn has(&self, user: u64) -> bool {
        self.users.binary_search(&user).is_ok()
    }

    pub(super) fn age(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.asked_at.at)
    }
}

impl ThreadRecord {
    /// Whether its question still stands in line.
    pub(super) fn is_queued(&self) -> bool {
        self.query.as_ref().is_some_and(|query| query.asked_at.is_none())
    }

    pub(super) fn note_refusal(&mut self, user: u64, now: Instant) {
        self.refused.retain(|(other, until)| *other != user && *until > now);
        if self.refused.len() >= REFUSED_MAX {
            self.refused.pop_front();
        }
        self.refused.push_back((user, now + REFUSAL_TTL));
    }

    pub(super) fn note_failure(
        &mut self,
        user: u64,
        failure: Failure,
        until: Instant,
        now: Instant,
    ) {
        self.failed.retain(|(other, _, until)| *other != user && *until > now);
        if self.failed.len() >= REFUSED_MAX {
            self.failed.pop_front();
        }
        self.failed.push_back((user, failure, until));
    }

    pub(super) fn failure_of(&self, user: u64, now: Instant) -> Option<Failure> {
        if self.too_large.is_some_and(|until| until > now) {
            return Some(Failure::ThreadTooLarge);
        }
        let failed = self.failed.iter().find(|(other, _, until)| *other == user && *until > now);
        failed.map(|(_, failure, _)| *failure)
    }
}

//! Record of one thread: its participant list, its query, and what waits for the answer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::hub::auth::held_frames::HeldText;
use crate::hub::failure::Failure;
use crate::hub::interface::{ConnId, Stored};
use crate::hub::messages::delivery::{PendingMessage, RequestTime};
use crate::protocol::credential::Credential;

/// How long the site's answer that a user is not a participant is remembered.
const REFUSAL_TTL: Duration = Duration::from_secs(10);
/// How long a thread is remembered as too large.
pub(super) const TOO_LARGE_TTL: Duration = Duration::from_secs(60);
/// Refusals and failures remembered per thread; beyond it, the site is asked each time.
const REFUSED_MAX: usize = 32;
/// Changes remembered per thread; beyond it, the list is dropped and the site is asked.
pub(super) const CHANGES_MAX: usize = 64;
/// How long a change corrects the lists in events about messages, which may be out of order.
const CHANGE_TTL: Duration = Duration::from_secs(60);

/// Something that waits until the site has reported the participants.
#[derive(Debug)]
pub(crate) enum Held {
    /// A client's frame.
    Frame {
        /// The connection that sent it.
        conn: ConnId,
        /// The user of the connection at that time.
        user: u64,
        /// Its text.
        text: HeldText,
    },
    /// A stored message to deliver.
    Message {
        /// The message and the site's answer to its post.
        stored: Box<(PendingMessage, Stored)>,
        /// Whether it waits for its author's own query, or for the last query that it may wait
        /// for. If that fails, only the author gets it.
        is_final: bool,
    },
}

/// A list of participants.
#[derive(Debug)]
pub(super) struct ParticipantList {
    /// User numbers, ascending.
    pub(super) users: Box<[u64]>,
    /// When the site was asked. The list was valid then, or a little later.
    pub(super) asked_at: RequestTime,
}

/// A query for the list, queued or in flight.
#[derive(Debug)]
pub(super) struct ParticipantQuery {
    pub(super) credential: Credential,
    pub(super) user: u64,
    /// `None` while it is queued.
    pub(super) asked_at: Option<RequestTime>,
}

/// The known state of one thread.
#[derive(Debug, Default)]
pub(super) struct ThreadRecord {
    pub(super) list: Option<ParticipantList>,
    /// Users who are not participants according to the site, and until when that is valid.
    pub(super) refused: VecDeque<(u64, Instant)>,
    /// Users whose query failed, and until when it is not repeated. A failure for one member does
    /// not affect the others.
    pub(super) failed: VecDeque<(u64, Failure, Instant)>,
    pub(super) too_large: Option<Instant>,
    /// Users whom the site's events have added or removed a short while ago, with the time. They
    /// correct lists that the site may have made before.
    pub(super) changes: VecDeque<(u64, bool, RequestTime)>,
    pub(super) query: Option<ParticipantQuery>,
    pub(super) held: VecDeque<Held>,
    /// Key in `Membership::by_age`.
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
    /// Corrects a list that the site was asked for by the changes that were reported afterwards.
    pub(super) fn correct(&self, users: Box<[u64]>, asked_at: RequestTime) -> Box<[u64]> {
        self.apply_changes(users, |at| at.request_id >= asked_at.request_id)
    }

    /// Corrects the list in an event about a message by recent changes: events may be out of order.
    pub(super) fn correct_event(&self, users: Box<[u64]>, now: Instant) -> Box<[u64]> {
        self.apply_changes(users, |at| now.saturating_duration_since(at.at) < CHANGE_TTL)
    }

    fn apply_changes(
        &self,
        users: Box<[u64]>,
        applies: impl Fn(&RequestTime) -> bool,
    ) -> Box<[u64]> {
        let changes = || self.changes.iter().filter(|(.., at)| applies(at));
        if changes().next().is_none() {
            return users;
        }
        let mut users = users.into_vec();
        for (user, is_added, _) in changes() {
            users.retain(|other| other != user);
            if *is_added {
                users.push(*user);
            }
        }
        users.sort_unstable();
        users.into()
    }

    /// Whether its query is queued and has not been sent.
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

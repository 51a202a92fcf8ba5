//! Messages from `send_message` to their one outcome: delivery, dedup, lookups, late outcomes.
//!
//! One struct for the tables that share the life of a message. Its methods record what happened and
//! return what is to be sent; they emit nothing.

pub(crate) mod dedup;
pub(crate) mod delivered;
pub(crate) mod delivery;
pub(crate) mod held_events;
pub(crate) mod settled;
pub(crate) mod undelivered;
pub(crate) mod unknown_outcomes;

use std::time::Instant;

use super::capacity::SmallList;
use super::failure::{SiteState, not_in_thread, too_many_repeats};
use super::interface::{
    Answer, ConnId, DeliveryLimits, Failure, FailureContext, LookupResult, Now, RequestId, Stored,
};
use crate::protocol::credential::Credential;
use crate::protocol::server::EncodedFrame;
use crate::protocol::site_event::SiteMessage;
use crate::protocol::{ClientError, Id, IdKey};
use dedup::{Dedup, DedupKey, DedupResult, Sender};
use delivered::Delivered;
use delivery::{
    Delivery, Lane, PendingMessage, PostRequest, RequestIds, RequestTime, waited_too_long,
};
use held_events::HeldEvents;
use settled::{Settled, SettledWhen};
use undelivered::Undelivered;
use unknown_outcomes::{DueStep, UnknownOutcomes};

/// Seconds by which the monotonic and the wall clock may differ over the life of a post. It is less
/// than the age in which a lookup cannot tell two equal texts apart.
const CLOCK_SKEW_MAX_S: u64 = 10;

/// The tables of messages.
#[derive(Debug)]
pub(crate) struct Messages {
    delivery: Delivery,
    unknown_outcomes: UnknownOutcomes,
    settled: Settled,
    dedup: Dedup,
    undelivered: Undelivered,
    /// Messages that were delivered, by an answer or an event.
    pub(super) delivered: Delivered,
    held_events: HeldEvents,
    /// Names of the requests to the site, in the order in which they are sent.
    pub(super) request_ids: RequestIds,
}

/// Whether a message was sent before under the same `clientId`.
#[derive(Debug)]
pub(super) enum Repeat {
    /// It was not; this is its key.
    First(DedupKey),
    /// It was, and this is its outcome.
    Settled(EncodedFrame),
    /// It was, and the connection gets the outcome together with the first sender.
    InFlight,
}

/// The end of a post.
#[derive(Debug)]
pub(super) struct PostEnd {
    pub(super) post: RequestId,
    /// The stored message, or what its sender is told.
    pub(super) result: Result<Stored, ClientError>,
    /// Why the site has rejected the sender's credential, if it has.
    pub(super) rejection: Option<Failure>,
}

/// The next step for a message with an unknown outcome.
#[derive(Debug)]
pub(super) enum LookupStep {
    /// Send this lookup to the site.
    Ask(PostRequest),
    /// The outcome stays unknown.
    End(PostEnd),
}

/// The connections that get an outcome.
#[derive(Debug, Default)]
pub(super) struct OutcomeReceivers {
    /// The author's connection, or a later connection of the author.
    pub(super) direct: SmallList<ConnId>,
    /// Open connections that sent the same message again.
    pub(super) repeaters: Vec<ConnId>,
}

/// The conclusion from a lookup of a message.
enum LookupVerdict {
    Stored(Box<Stored>),
    NotStored,
    /// It may be stored.
    Unclear,
    /// The lookup itself failed.
    Failed,
}

impl Messages {
    /// Empty tables. A message waits at most `max_wait` behind earlier ones of its lane.
    pub(super) fn new(max_wait: Option<std::time::Duration>) -> Messages {
        Messages {
            delivery: Delivery::new(max_wait),
            unknown_outcomes: UnknownOutcomes::default(),
            settled: Settled::default(),
            dedup: Dedup::default(),
            undelivered: Undelivered::default(),
            delivered: Delivered::default(),
            held_events: HeldEvents::default(),
            request_ids: RequestIds::default(),
        }
    }

    // ---- from the frame to the site

    /// Looks up an earlier message of this `clientId`, sent by this user or on this connection.
    ///
    /// # Errors
    ///
    /// Too many repeats wait for its outcome already.
    pub(super) fn check_repeat(
        &mut self,
        conn: ConnId,
        user: Option<IdKey>,
        client_id: &IdKey,
        now: Now,
    ) -> Result<Repeat, ClientError> {
        let key = |sender| DedupKey { sender, client_id: client_id.clone() };
        let by_connection = key(Sender::Connection(conn));
        let by_user = user.map(|user| key(Sender::User(user)));
        // A connection that identified itself meanwhile still owns what it sent before.
        for known_as in by_user.iter().chain([&by_connection]) {
            match self.dedup.find(known_as, conn, now.instant) {
                DedupResult::New => {}
                DedupResult::Outcome(frame) => return Ok(Repeat::Settled(frame)),
                DedupResult::InFlight => return Ok(Repeat::InFlight),
                DedupResult::TooMany => return Err(too_many_repeats()),
            }
        }
        Ok(Repeat::First(by_user.unwrap_or(by_connection)))
    }

    /// The time of a request that is sent to the site now.
    pub(super) fn request_time(&self, now: Now) -> RequestTime {
        RequestTime { at: now.instant, request_id: self.request_ids.last() }
    }

    /// Accepts a message. Returns the request to the site, or `None` while the message waits
    /// behind others of its lane.
    ///
    /// # Errors
    ///
    /// [`Failure::Overloaded`]: too many messages are in flight.
    #[inline]
    pub(super) fn accept(
        &mut self,
        pending: PendingMessage,
        bounds: &DeliveryLimits,
        now: Now,
    ) -> Result<Option<PostRequest>, Failure> {
        let key = pending.dedup_key.clone();
        let accepted = self.delivery.accept(pending, bounds, &mut self.request_ids);
        let question = accepted.map_err(|_| Failure::Overloaded)?;
        if let Some(key) = key {
            self.dedup.insert(key, now.instant);
        }
        Ok(question)
    }

    /// Starts the next message of a lane whose message is finished.
    pub(super) fn next_in_lane(&mut self, lane: Lane, now: Now) -> Option<PostRequest> {
        self.delivery.next(lane, &mut self.request_ids, now)
    }

    /// Takes a message that has waited too long in its lane, with the error for its sender. It
    /// counts until [`Messages::release`].
    pub(super) fn expire_waiting(&mut self, now: Now) -> Option<(PendingMessage, ClientError)> {
        let (pending, waited) = self.delivery.expire_waiting(now.instant)?;
        Some((pending, waited_too_long(waited)))
    }

    // ---- answers of the site

    /// Records an answer about a post or a lookup. `None` if its outcome is still open.
    #[inline]
    pub(super) fn record_answer(
        &mut self,
        request: RequestId,
        answer: Answer,
        now: Now,
    ) -> Option<PostEnd> {
        if let Some((post, site_state)) = self.unknown_outcomes.finish_lookup(request) {
            return self.record_lookup(post, site_state, answer, now);
        }
        match answer {
            Answer::Stored(stored) => Some(PostEnd::new(request, Ok(stored))),
            Answer::Failed(failure) => match failure.site_state() {
                Some(site_state) if self.credential_of(request).is_some() => {
                    self.unknown_outcomes.begin(request, site_state, now.instant);
                    None
                }
                _ => Some(PostEnd::failed(request, failure)),
            },
            answer => {
                let is_unknown = self.delivery.get(request).is_none();
                debug_assert!(is_unknown, "{answer:?} answers no message");
                None
            }
        }
    }

    /// Takes what is due for a message with an unknown outcome.
    pub(super) fn take_due_lookup(&mut self, now: Now) -> Option<LookupStep> {
        self.unknown_outcomes.next_deadline().filter(|at| *at <= now.instant)?;
        let request = self.request_ids.allocate();
        match self.unknown_outcomes.take_due(now.instant, request)? {
            DueStep::Lookup(post) => {
                let ask = self.delivery.get(post).and_then(PendingMessage::lookup_request);
                debug_assert!(ask.is_some(), "a message that is looked up has a credential");
                ask.map(|ask| LookupStep::Ask((request, ask)))
            }
            DueStep::GiveUp(post) => Some(LookupStep::End(PostEnd::failed(post, Failure::Unknown))),
        }
    }

    /// Records whether requests reach the site.
    pub(super) fn set_site_available(&mut self, available: bool, now: Now) {
        self.unknown_outcomes.set_site_available(available, now.instant);
    }

    fn record_lookup(
        &mut self,
        post: RequestId,
        site_state: SiteState,
        answer: Answer,
        now: Now,
    ) -> Option<PostEnd> {
        if let Answer::Failed(failure) = &answer {
            if failure.is_credential_rejection() {
                // The site would reject every further lookup as well.
                let rejection = Some(*failure);
                return Some(PostEnd { rejection, ..PostEnd::failed(post, Failure::Unknown) });
            }
        }
        let verdict = match answer {
            Answer::LookupResult(result) => self.judge_lookup(post, result, now),
            Answer::Failed(_) => LookupVerdict::Failed,
            answer => {
                debug_assert!(false, "{answer:?} answers no lookup");
                LookupVerdict::Failed
            }
        };
        match (verdict, site_state) {
            (LookupVerdict::Stored(stored), _) => Some(PostEnd::new(post, Ok(*stored))),
            (LookupVerdict::NotStored, SiteState::Finished) => {
                Some(PostEnd::new(post, Err(not_in_thread())))
            }
            (LookupVerdict::Unclear, SiteState::Finished) => {
                Some(PostEnd::failed(post, Failure::Unusable))
            }
            (LookupVerdict::Failed, _) => {
                let is_scheduled = self.unknown_outcomes.schedule_retry(post, now.instant);
                (!is_scheduled).then(|| PostEnd::failed(post, Failure::Unknown))
            }
            (LookupVerdict::NotStored | LookupVerdict::Unclear, _) => {
                let is_scheduled = self.unknown_outcomes.schedule_next(post, now.instant);
                (!is_scheduled).then(|| PostEnd::failed(post, Failure::Unknown))
            }
        }
    }

    fn judge_lookup(&self, post: RequestId, result: LookupResult, now: Now) -> LookupVerdict {
        let settled_when = |thread, sender: &Id, message| {
            self.settled.settled_when(thread, &sender.key, message, post)
        };
        let newest_settled = match result {
            // The worker compared ages by a clock that stops while the machine is suspended.
            LookupResult::Absent if self.is_clock_consistent_since(post, now) => {
                return LookupVerdict::NotStored;
            }
            LookupResult::Absent => return LookupVerdict::Unclear,
            LookupResult::Mismatch { thread, sender, message } => {
                settled_when(thread, &sender, message)
            }
            LookupResult::Match { stored, newest } => {
                let Some(message) = &stored.message else { return LookupVerdict::Unclear };
                match settled_when(stored.thread, &stored.sender, message.id) {
                    SettledWhen::Never => return LookupVerdict::Stored(Box::new(stored)),
                    // The equal text belongs to an earlier post. The site may have changed the text
                    // of this one, so a newer message may still be it.
                    SettledWhen::BeforePost => settled_when(stored.thread, &stored.sender, newest),
                    SettledWhen::AfterPost => return LookupVerdict::Unclear,
                }
            }
        };
        match newest_settled {
            // The sender's newest message is older than this post.
            SettledWhen::BeforePost => LookupVerdict::NotStored,
            SettledWhen::Never | SettledWhen::AfterPost => LookupVerdict::Unclear,
        }
    }

    /// Whether both clocks agree how long ago a message was posted.
    fn is_clock_consistent_since(&self, post: RequestId, now: Now) -> bool {
        self.delivery.get(post).is_some_and(|pending| {
            let monotonic = now.instant.saturating_duration_since(pending.posted_at.at).as_secs();
            let by_date = now.unix_s.saturating_sub(pending.posted_unix_s);
            monotonic.abs_diff(by_date) <= CLOCK_SKEW_MAX_S
        })
    }

    /// The credential with which a message was posted.
    pub(super) fn credential_of(&self, post: RequestId) -> Option<&Credential> {
        self.delivery.get(post)?.credential.as_ref()
    }

    /// Takes a message whose outcome is known; `None` if the drain has abandoned it. It counts
    /// until [`Messages::release`], and its lane stands until [`Messages::next_in_lane`].
    #[inline]
    pub(super) fn finish(
        &mut self,
        post: RequestId,
        result: &Result<Stored, ClientError>,
    ) -> Option<PendingMessage> {
        self.unknown_outcomes.remove(post);
        let mut pending = self.delivery.finish(post)?;
        if let Ok(stored) = result {
            if let Some(message) = &stored.message {
                let (sender, last) = (&stored.sender.key, self.request_ids.last());
                self.settled.note(stored.thread, sender, message.id, last);
            }
            pending.claimed.get_or_insert_with(|| stored.sender.clone());
        }
        Some(pending)
    }

    /// Releases the place of a message whose sender has its outcome.
    pub(super) fn release(&mut self, pending: &PendingMessage) {
        self.delivery.settle(pending);
    }

    /// Abandons all messages when the server stops, each with the error for its sender. Those never
    /// posted come first.
    pub(super) fn abandon(&mut self) -> Vec<(PendingMessage, ClientError)> {
        self.unknown_outcomes.clear();
        self.delivery.abandon()
    }

    // ---- events about messages

    /// Holds an event about a message that may be the answer to a post in flight, or that follows
    /// such an event in its thread.
    ///
    /// # Errors
    ///
    /// Returns the event, which is to be handled now.
    pub(super) fn hold_event(&mut self, message: Box<SiteMessage>) -> Result<(), Box<SiteMessage>> {
        let posts = self.delivery.posts_that_may_be(&message);
        if posts.is_empty() && !self.held_events.has_thread(message.thread) {
            return Err(message);
        }
        self.held_events.hold(message, posts)
    }

    /// Takes the events that have waited for a post that is finished.
    pub(super) fn release_events(&mut self, post: RequestId) -> Vec<SiteMessage> {
        self.held_events.finish(post)
    }

    // ---- who gets an outcome

    /// The connection that gets the outcome of a message: its sender's, or, once that has closed,
    /// the next connection of the same user.
    pub(super) fn outcome_connection(
        &self,
        pending: &PendingMessage,
        is_open: impl Fn(ConnId) -> bool,
    ) -> ConnId {
        let user = pending.claimed.as_ref().filter(|_| !is_open(pending.origin));
        let successor =
            user.and_then(|user| self.undelivered.successor_of(pending.origin, &user.key));
        successor.unwrap_or(pending.origin)
    }

    /// Records the outcome of a message and returns the connections that get its frame. The frame
    /// is kept for the user's next connection where none is open, and for repeats if `remember`.
    pub(super) fn settle_outcome(
        &mut self,
        pending: &PendingMessage,
        frame: &EncodedFrame,
        remember: bool,
        is_open: impl Fn(ConnId) -> bool,
    ) -> OutcomeReceivers {
        let key = pending.dedup_key.as_ref();
        let repeaters = key.map(|key| self.dedup.settle(key, frame, remember));
        let mut repeaters = repeaters.unwrap_or_default();
        let mut direct = SmallList::new();
        let to = self.outcome_connection(pending, &is_open);
        if is_open(to) {
            // A later connection that has repeated the message as well gets its outcome once.
            let again = repeaters.iter().position(|conn| to != pending.origin && *conn == to);
            if let Some(again) = again {
                repeaters.remove(again);
            }
            direct.push(to);
        } else if let Some(user) = &pending.claimed {
            let is_delivered = repeaters.iter().any(|conn| is_open(*conn));
            match self.repeater_successor(&user.key, &repeaters, &is_open) {
                _ if is_delivered => {}
                Some(to) => direct.push(to),
                None => {
                    let frame = EncodedFrame::clone(frame);
                    self.undelivered.store(pending.origin, &user.key, frame);
                }
            }
        }
        // A repeater that has closed: its user's later connection gets the outcome, once.
        let closed = repeaters.iter().copied().find(|conn| !is_open(*conn));
        if let (Some(DedupKey { sender: Sender::User(user), .. }), Some(closed), true) =
            (key, closed, is_open(pending.origin))
        {
            match self.repeater_successor(user, &repeaters, &is_open) {
                Some(successor) if repeaters.contains(&successor) => {}
                Some(to) => direct.push(to),
                None => self.undelivered.store(closed, user, EncodedFrame::clone(frame)),
            }
        }
        repeaters.retain(|conn| is_open(*conn));
        OutcomeReceivers { direct, repeaters }
    }

    /// The successor of a closed connection that had repeated the message.
    fn repeater_successor(
        &self,
        user: &IdKey,
        repeaters: &[ConnId],
        is_open: impl Fn(ConnId) -> bool,
    ) -> Option<ConnId> {
        let mut closed = repeaters.iter().filter(|conn| !is_open(**conn));
        closed.find_map(|conn| self.undelivered.successor_of(*conn, user))
    }

    /// Whether messages of a connection have no outcome yet.
    pub(super) fn has_pending_outcome(&self, conn: ConnId) -> bool {
        self.delivery.has(conn) || self.dedup.has(conn)
    }

    /// Whether a connection gets outcomes of an earlier connection of its user.
    pub(super) fn has_predecessor_outcome(&self, conn: ConnId, user: &IdKey) -> bool {
        let mut predecessors = self.undelivered.predecessors(conn, user);
        predecessors.any(|predecessor| self.has_pending_outcome(predecessor))
    }

    /// Notes that a connection has closed or changed its user; the user's next connection gets the
    /// outcomes that are still open.
    pub(super) fn register_lost(&mut self, conn: ConnId, user: &IdKey, now: Now) {
        let has_pending = self.has_pending_outcome(conn);
        self.undelivered.register_lost(conn, user, has_pending, now.instant);
    }

    /// Takes the outcomes that were kept for a user's next connection, which this one is.
    pub(super) fn hand_over(&mut self, conn: ConnId, user: &IdKey) -> Vec<EncodedFrame> {
        self.undelivered.hand_over(conn, user)
    }

    // ---- time and counts

    /// When something is due: a message that waits too long, a lookup, an outcome to forget.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.delivery.next_deadline(),
            self.unknown_outcomes.next_deadline(),
            self.undelivered.next_deadline(),
            self.dedup.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Forgets outcomes of connections whose users have not come back in time.
    pub(super) fn forget_undelivered(&mut self, now: Now) {
        self.undelivered.forget(now.instant);
    }

    /// Forgets remembered outcomes that are due; false if there are none.
    pub(super) fn forget_outcomes(&mut self, now: Now) -> bool {
        self.dedup.forget(now.instant)
    }

    /// Messages that have no outcome yet.
    pub(super) fn count(&self) -> usize {
        self.delivery.count()
    }

    /// The connection that sent a message whose outcome is open.
    pub(super) fn sender_of(&self, post: RequestId) -> Option<ConnId> {
        self.delivery.get(post).map(|pending| pending.origin)
    }

    /// The post that a lookup is about.
    pub(super) fn post_of(&self, lookup: RequestId) -> Option<RequestId> {
        self.unknown_outcomes.post_of(lookup)
    }

    /// Asserts that the tables agree with each other.
    pub(super) fn check_invariants(&self) {
        self.delivery.check_invariants();
        self.unknown_outcomes.check_invariants();
        self.settled.check_invariants();
        self.dedup.check_invariants();
        self.undelivered.check_invariants();
    }
}

impl PostEnd {
    fn new(post: RequestId, result: Result<Stored, ClientError>) -> PostEnd {
        PostEnd { post, result, rejection: None }
    }

    fn failed(post: RequestId, failure: Failure) -> PostEnd {
        let rejection = failure.is_credential_rejection().then_some(failure);
        let result = Err(failure.client_error(FailureContext::Message));
        PostEnd { post, result, rejection }
    }
}

//! The community as a state machine: [`Input`] in, [`Effect`] out, one deadline.
//!
//! No socket, no clock, no thread. The shell calls [`Hub::handle`] and then takes the effects with
//! [`Hub::next_effect`] until there are none: one mutation, then drain.
//!
//! What the hub decides is in this file and in nine more: [`session`] (who a connection is),
//! [`access`] (who may do what in a thread), [`send`] (what becomes of a message), [`outcomes`]
//! (who is told of it), [`signalling`] (who calls whom), [`call_status`] (who asks how a call is),
//! [`ice`] (who is told of TURN servers), [`output`] (who is told anything) and [`draining`] (what
//! begins no more).
//! The other rooms keep tables and answer questions; they do not call each other.

pub mod access;
pub mod authentication;
pub mod call_status;
pub mod calls;
pub mod capacity;
pub mod deadlines;
pub mod dedup;
pub mod delivery;
pub mod draining;
pub mod failure;
pub mod held_frames;
pub mod ice;
pub mod index;
pub mod interface;
pub mod membership;
pub mod outcomes;
pub mod output;
pub mod presence;
pub mod presence_batch;
pub mod reconcile;
pub mod send;
pub mod session;
pub mod settled;
pub mod signalling;
pub mod site_queries;
pub mod stats;
pub mod threads;
pub mod undelivered;

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::config::{PresenceScope, Trust};
use crate::protocol::client::{ClientFrame, ReplyTo, parse};
use crate::protocol::server::{EncodedFrame, Encoder, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id, IdKey};
use authentication::Authentication;
use call_status::StatusRequests;
use calls::Calls;
use dedup::Dedup;
use delivery::{Delivery, RequestIds};
use held_frames::HeldFrames;
use interface::{ConnId, Effect, HubCounts, Input, Now, Receivers, RequestId, Settings};
use membership::Membership;
use presence::Presence;
use presence_batch::PresenceBatch;
use reconcile::Reconciler;
use settled::Settled;
use site_queries::SiteQueries;
use stats::HubStats;
use threads::{JoinResult, Threads, TypingStart, Typist};
use undelivered::Undelivered;

/// Room for receivers that is kept for the next effects.
const RECEIVERS_KEPT: usize = 4_096;

/// Places on lists that are looked through for companions: who is in more has to ask by thread.
const CONTACTS_MAX: usize = 20_000;

/// The community.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    /// The connection in each slot.
    open: Vec<Option<ConnId>>,
    presence: Presence,
    presence_batch: PresenceBatch,
    threads: Threads,
    delivery: Delivery,
    reconciler: Reconciler,
    settled: Settled,
    dedup: Dedup,
    undelivered: Undelivered,
    calls: Calls,
    status_requests: StatusRequests,
    authentication: Authentication,
    membership: Membership,
    site_queries: SiteQueries,
    held_frames: HeldFrames,
    request_ids: RequestIds,
    stats: HubStats,
    /// Frames that had to wait for a proof are being heard.
    resuming_held: bool,
    /// The server is about to end.
    draining: bool,
    /// The thread and the user of which the site has just been asked: what they have said is
    /// decided now, and not asked about again.
    resolved: Option<(u64, u64)>,
    encoder: Encoder,
    effects: VecDeque<Effect>,
    /// Of the effects that are for several; empty as soon as all effects are taken.
    receivers: Vec<ConnId>,
}

impl Hub {
    /// An empty community.
    pub fn new(settings: Settings) -> Hub {
        let index_users = settings.presence == PresenceScope::Threads;
        let membership = Membership::new(settings.membership_lasts, index_users);
        let max_wait = settings.message_turn_lasts;
        Hub {
            settings,
            open: Vec::new(),
            presence: Presence::default(),
            presence_batch: PresenceBatch::default(),
            threads: Threads::default(),
            delivery: Delivery::new(max_wait),
            reconciler: Reconciler::default(),
            settled: Settled::default(),
            dedup: Dedup::default(),
            undelivered: Undelivered::default(),
            calls: Calls::default(),
            status_requests: StatusRequests::default(),
            authentication: Authentication::default(),
            membership,
            site_queries: SiteQueries::default(),
            held_frames: HeldFrames::default(),
            request_ids: RequestIds::default(),
            stats: HubStats::default(),
            resuming_held: false,
            draining: false,
            resolved: None,
            encoder: Encoder::default(),
            effects: VecDeque::new(),
            receivers: Vec::new(),
        }
    }

    /// Other bounds and times from now on. What the tables go by stays what it is: trust, the scope
    /// of presence, and how long a message waits for its turn.
    pub fn set_settings(&mut self, settings: Settings) {
        let Settings { trust, presence, message_turn_lasts, .. } = self.settings;
        self.membership.set_list_ttl(settings.membership_lasts);
        self.settings = Settings { trust, presence, message_turn_lasts, ..settings };
    }

    /// Takes one input in. What follows from it waits in [`Hub::next_effect`].
    pub fn handle(&mut self, input: Input<'_>, now: Now) {
        match input {
            Input::Opened { conn, credential } => self.handle_open(conn, credential, now),
            Input::Frame { conn, text } => self.handle_frame(conn, text, true, now),
            Input::Binary { conn } => {
                self.stats.binary += 1;
                let fault = "Send text frames: binary frames carry nothing in this protocol.";
                let fault = ClientError::new(ErrorCode::TextOnly, fault);
                self.send_error(conn, &ReplyTo::default(), &fault);
            }
            Input::RateLimited { conn, text } => {
                let reply = text.map(|text| parse(text).0).unwrap_or_default();
                self.send_error(conn, &reply, &failure::rate_limited());
            }
            Input::CallStatusRequest { conn, credential, call } => {
                self.handle_call_status(conn, credential, call, now);
            }
            Input::Closed { conn } if self.status_requests.has(conn) => {
                self.cancel_status_request(conn, now)
            }
            Input::Closed { conn } => self.handle_close(conn, now),
            Input::Answered { request, answer } => self.handle_answer(request, answer, now),
        }
    }

    /// The next thing to do, in order; `None` when all is done.
    pub fn next_effect(&mut self) -> Option<Effect> {
        let effect = self.effects.pop_front();
        if effect.is_none() {
            self.receivers.clear();
            self.receivers.shrink_to(RECEIVERS_KEPT);
        }
        effect
    }

    /// Whom an [`Effect::Spread`] is for, which has just been taken.
    pub fn receivers(&self, to: Receivers) -> &[ConnId] {
        &self.receivers[to.start..][..to.count]
    }

    /// When [`Hub::advance`] is to be called, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.threads.next_deadline(),
            self.presence.next_deadline(),
            self.presence_batch.next_deadline(),
            self.authentication.next_deadline(),
            self.undelivered.next_deadline(),
            self.calls.next_deadline(),
            self.delivery.next_deadline(),
            self.reconciler.next_deadline(),
            self.dedup.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Does one thing that is due at `now`; false if there was none. The caller takes the effects
    /// before the next: many things may be due at once, and each may be for everyone.
    pub fn advance(&mut self, now: Now) -> bool {
        self.undelivered.forget(now.instant);
        // First, since what comes next may add to it.
        if let Some(batch) = self.presence_batch.take_due(now.instant) {
            self.broadcast_batch(&batch);
        } else if let Some(typist) = self.threads.pop_typing_timeout(now.instant) {
            self.announce_typing_stop(&typist);
        } else if let Some(user) = self.presence.pop_departed(now.instant) {
            if !self.draining {
                let frame = self.encoder.encode(&ServerFrame::UserDisconnected { user_id: &user });
                self.announce_presence(&user, &frame, None, now);
            }
        } else if let Some((conn, due)) = self.authentication.pop_timeout(now) {
            self.handle_auth_timeout(conn, due, now);
        } else if self.calls.advance(now.instant) {
            self.send_call_notifications();
        } else if !self.expire_waiting_message(now) && !self.run_due_lookup(now) {
            return self.dedup.forget(now.instant);
        }
        true
    }

    // ---- presence

    fn is_open(&self, conn: ConnId) -> bool {
        self.open.get(conn.slot as usize).is_some_and(|open| *open == Some(conn))
    }

    fn send_online_users(&mut self, conn: ConnId, thread: Option<&Id>, client_id: Option<&Id>) {
        let contacts;
        let user_ids: Vec<&Id> = match (thread, self.settings.presence) {
            (_, PresenceScope::Off) => Vec::new(),
            (None, PresenceScope::All) => self.presence.online().collect(),
            (None, PresenceScope::Threads) => {
                contacts = self.contacts(conn);
                contacts.iter().filter_map(|user| self.presence.find(user)).collect()
            }
            (Some(thread), _) => {
                let subscribers = self.threads.subscribers(&thread.key);
                self.presence.users_among(subscribers.iter().map(|subscriber| subscriber.conn))
            }
        };
        let frame = ServerFrame::OnlineUsers { thread_id: thread, user_ids: &user_ids, client_id };
        let frame = self.encoder.encode(&frame);
        self.effects.push_back(Effect::Send { to: conn, frame });
    }

    /// Those with whom a connection's user shares a thread.
    fn contacts(&self, conn: ConnId) -> BTreeSet<IdKey> {
        let threads = self.presence.number_of(conn).map(|user| self.membership.threads_of(user));
        let people =
            threads.unwrap_or_default().iter().flat_map(|t| self.membership.participants(*t));
        people.take(CONTACTS_MAX).map(|user| IdKey::Number(*user)).collect()
    }

    // ---- frames

    /// Takes in a frame, or once more one that had to wait.
    fn handle_frame(&mut self, conn: ConnId, text: &str, is_new: bool, now: Now) {
        debug_assert!(self.is_open(conn), "only who is open speaks");
        if self.authentication.is_closing(conn) {
            return;
        }
        let (mut reply, frame) = parse(text);
        if is_new {
            self.stats.count_frame(reply.kind);
        }
        if let Err(fault) =
            frame.and_then(|frame| self.dispatch(conn, frame, text, &mut reply, now))
        {
            self.send_error(conn, &reply, &fault);
        }
    }

    fn dispatch(
        &mut self,
        conn: ConnId,
        frame: ClientFrame<'_>,
        text: &str,
        reply: &mut ReplyTo,
        now: Now,
    ) -> Result<(), ClientError> {
        // What had to wait for a proof was said before the end began.
        if self.draining && !self.resuming_held && matches!(frame, ClientFrame::SendMessage(_)) {
            return self.answer_while_draining(conn, reply, now);
        }
        if self.settings.trust == Trust::Verified && self.hold_for_proof(conn, &frame, text, now)? {
            return Ok(());
        }
        let client_id = reply.client_id.as_ref();
        let no_time = Duration::ZERO;
        match frame {
            ClientFrame::UserConnected { user, token } => {
                self.user_connected(conn, user, token.as_deref(), reply, now)?;
            }
            ClientFrame::JoinThread { thread } => {
                if self.check_access(conn, &thread, text, no_time, now)? {
                    self.join_thread(conn, &thread, client_id)?;
                }
            }
            ClientFrame::LeaveThread { thread } => {
                if self.check_leave(conn, &thread, text, now)? {
                    self.leave_thread(conn, &thread, client_id);
                }
            }
            ClientFrame::SendMessage(message) => self.send_message(conn, message, reply, now)?,
            ClientFrame::Typing { thread, typing } => {
                // It is to be right until the thread has heard that it is over.
                let lasts = self.settings.typing_lasts;
                if self.check_access(conn, &thread, text, lasts, now)? {
                    self.handle_typing(conn, &thread, typing, client_id, now);
                }
            }
            ClientFrame::Call(call) => self.handle_call(conn, call, reply, text, now)?,
            ClientFrame::OnlineUsers { thread } => {
                let admitted = match &thread {
                    Some(thread) => self.check_access(conn, thread, text, no_time, now)?,
                    None => true,
                };
                if admitted {
                    self.send_online_users(conn, thread.as_ref(), client_id);
                }
            }
            ClientFrame::Ping => self.reply(conn, &ServerFrame::Pong { client_id }),
            ClientFrame::IceServers => self.send_ice_servers(conn, client_id, now)?,
        }
        Ok(())
    }

    fn join_thread(
        &mut self,
        conn: ConnId,
        thread: &Id,
        client_id: Option<&Id>,
    ) -> Result<(), ClientError> {
        let (max, in_all) = (self.settings.joins_per_connection, self.settings.threads);
        match self.threads.join(conn, &thread.key, max, in_all) {
            JoinResult::New | JoinResult::Already => {}
            JoinResult::TooMany => {
                let text = format!("A connection may join {max} threads; leave one first.");
                return Err(ClientError::new(ErrorCode::TooManyThreads, text));
            }
            JoinResult::ServerFull => {
                let text = "Too many threads are heard on this server. Try again in a moment.";
                return Err(ClientError::new(ErrorCode::Overloaded, text));
            }
        }
        self.reply(conn, &ServerFrame::ThreadJoined { thread_id: thread, client_id });
        Ok(())
    }

    fn leave_thread(&mut self, conn: ConnId, thread: &Id, client_id: Option<&Id>) {
        if let Some(typist) = self.threads.stop_typing_here(conn, &thread.key) {
            self.announce_typing_stop(&typist);
        }
        // Who did not hear it is where they wanted to be.
        self.threads.leave(conn, &thread.key);
        self.reply(conn, &ServerFrame::ThreadLeft { thread_id: thread, reason: None, client_id });
    }

    fn handle_typing(
        &mut self,
        conn: ConnId,
        thread: &Id,
        typing: bool,
        client_id: Option<&Id>,
        now: Now,
    ) {
        let until = now.instant + self.settings.typing_lasts;
        let cached = if typing { self.threads.renew_typing(conn, thread, until) } else { None };
        let cached = match (cached, client_id) {
            // Again and again: this needs to know nothing else.
            (Some((thread_ix, frame)), None) => {
                return self.send_to_thread(Some(thread_ix), conn, None, frame, true);
            }
            (cached, _) => cached,
        };
        // A sample client types before the server can know who it is (`PROTOCOL.md` 2.3).
        let user = self.presence.user_of(conn);
        let user = user.as_ref();
        if !typing {
            self.threads.stop_typing(conn, user, &thread.key);
            return self.broadcast_typing_stop(conn, user, thread, client_id);
        }
        let (thread_ix, frame) = cached.unwrap_or_else(|| {
            let TypingStart { thread_ix, evicted } =
                self.threads.start_typing(conn, user, thread, until);
            if let Some(typist) = evicted {
                self.announce_typing_stop(&typist);
            }
            let frame = self.encode_typing(thread, user, true, None);
            self.threads.cache_typing_frame(conn, user, thread, &frame);
            (thread_ix, frame)
        });
        let own = client_id.map(|id| self.encode_typing(thread, user, true, Some(id)));
        // Whoever types keeps the thread where it is.
        self.send_to_thread(Some(thread_ix), conn, own, frame, true);
    }

    fn require_user(&self, conn: ConnId) -> Result<Id, ClientError> {
        self.presence.user_of(conn).ok_or_else(|| {
            ClientError::new(
                ErrorCode::NotIdentified,
                "The server does not know who you are: send user_connected with your userId first.",
            )
        })
    }

    // ---- typing

    fn broadcast_typing_stop(
        &mut self,
        conn: ConnId,
        user: Option<&Id>,
        thread: &Id,
        client_id: Option<&Id>,
    ) {
        let thread_ix = self.threads.find(&thread.key);
        let frame = self.encode_typing(thread, user, false, None);
        let own = client_id.map(|id| self.encode_typing(thread, user, false, Some(id)));
        // That is no news to be missed: it would look as if they went on.
        self.send_to_thread(thread_ix, conn, own, frame, false);
    }

    fn announce_typing_stop(&mut self, typist: &Typist) {
        self.broadcast_typing_stop(typist.conn, typist.user.as_ref(), &typist.thread(), None);
    }

    /// The same, without its typist.
    fn announce_typing_stop_to_subscribers(&mut self, typist: &Typist) {
        let thread = typist.thread();
        let frame = self.encode_typing(&thread, typist.user.as_ref(), false, None);
        let start = self.receivers.len();
        let subscribers = self.threads.subscribers(&thread.key).iter();
        self.receivers.extend(subscribers.map(|subscriber| subscriber.conn));
        self.fan_out_from(start, &frame, false);
    }

    fn encode_typing(
        &mut self,
        thread_id: &Id,
        user_id: Option<&Id>,
        typing: bool,
        client_id: Option<&Id>,
    ) -> EncodedFrame {
        self.encoder.encode(&ServerFrame::Typing { thread_id, user_id, typing, client_id })
    }

    fn stop_typing_on(&mut self, conn: ConnId) {
        while let Some(typist) = self.threads.stop_one_typing(conn) {
            self.announce_typing_stop(&typist);
        }
    }

    // ---- for the shell and the tests

    /// How many WebSockets are open, users online, threads heard, and messages on their way.
    pub fn counts(&self) -> HubCounts {
        HubCounts {
            connections: self.open.iter().flatten().count(),
            users: self.presence.count(),
            threads: self.threads.count(),
            deliveries: self.delivery.count(),
            calls: self.calls.ringing_and_answered(),
        }
    }

    /// The connection that sent the message which this question is to store, while its fate is not
    /// decided.
    pub fn sender_of(&self, post: RequestId) -> Option<ConnId> {
        self.delivery.get(post).map(|pending| pending.origin)
    }

    /// Under which request the log tells of this one: a look belongs to its message's.
    pub fn log_request(&self, request: RequestId) -> RequestId {
        self.reconciler.post_of(request).unwrap_or(request)
    }

    /// What waits for the site: frames, questions, and connections for their proof.
    pub fn backlog(&self) -> [usize; 3] {
        [self.held_frames.frames(), self.site_queries.count(), self.authentication.pending_count()]
    }

    /// Asserts that the tables of each room agree with each other.
    pub fn check_invariants(&self) {
        self.presence.check_invariants();
        self.threads.check_invariants();
        self.delivery.check_invariants();
        self.reconciler.check_invariants();
        self.settled.check_invariants();
        self.dedup.check_invariants();
        self.undelivered.check_invariants();
        self.calls.check_invariants();
        self.authentication.check_invariants();
        self.membership.check_invariants();
    }
}

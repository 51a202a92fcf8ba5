//! The community as a state machine: [`Input`] in, [`Effect`] out, one deadline.
//!
//! No socket, no clock, no thread. The shell calls [`Hub::handle`] and then takes the effects with
//! [`Hub::next_effect`] until there are none: one mutation, then drain.
//!
//! This file dispatches: every frame, every answer of the site and every timeout enters here. The
//! modules below it decide about one subject each and never call back into this file:
//! [`session`] (authentication of a connection), [`access`] (rights in a thread),
//! [`subscriptions`], [`typing`], [`online`] (presence), [`send`] and [`outcomes`] (messages),
//! [`signalling`] and [`call_events`] (calls), [`call_status`], [`ice`], [`site_requests`] (queries
//! to the site) and [`draining`]. They emit through [`output`].
//! All other modules are tables that answer questions and record facts; they emit nothing.

mod access;
mod auth;
mod call_events;
mod call_permission;
mod call_status;
mod calls;
mod capacity;
mod deadlines;
mod draining;
mod failure;
mod ice;
mod inbox;
mod inboxes;
mod index;
pub mod interface;
mod membership;
mod messages;
mod online;
mod outcomes;
mod output;
mod presence;
mod presence_batch;
mod send;
mod session;
mod signalling;
mod site_events;
mod site_requests;
mod stats;
mod subscriptions;
mod threads;
mod typing;

use std::time::{Duration, Instant};

use crate::config::PresenceScope;
use crate::protocol::client::{ClientFrame, FrameType, ReplyTo, parse};
use crate::protocol::server::ServerFrame;
use crate::protocol::site_event::{SiteEvent, SiteMessage};
use crate::protocol::{ClientError, ErrorCode};
use auth::Auth;
use auth::call_permissions::CallPair;
use auth::proofs::ProofIx;
use auth::site_queries::SiteQuery;
use call_status::StatusRequests;
use calls::Calls;
use inboxes::Inboxes;
use interface::{
    Answer, ConnId, Effect, Failure, HubCounts, Input, Now, Proven, Receivers, RequestId, Settings,
    Stored,
};
use membership::{Access, Held, Membership};
use messages::delivery::{PendingMessage, RequestTime};
use messages::{LookupStep, Messages, PostEnd};
use output::Output;
use presence::Presence;
use presence_batch::PresenceBatch;
use stats::HubStats;
use threads::Threads;

/// The community.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    output: Output,
    presence: Presence,
    presence_batch: PresenceBatch,
    threads: Threads,
    messages: Messages,
    auth: Auth,
    membership: Membership,
    calls: Calls,
    status_requests: StatusRequests,
    inboxes: Inboxes,
    stats: HubStats,
    /// The server is draining: new messages are refused.
    draining: bool,
    /// The thread and the user about whom the site has just answered. Frames that were held for
    /// that answer are decided by it, and never ask again.
    resolved: Option<(u64, u64)>,
}

impl Hub {
    /// An empty community.
    pub fn new(settings: Settings) -> Hub {
        let index_users = settings.presence == PresenceScope::Threads;
        let membership = Membership::new(settings.membership_lasts, index_users);
        let messages = Messages::new(settings.message_turn_lasts);
        let mut auth = Auth::default();
        auth.identity.set_recheck_every(settings.user_recheck_every);
        Hub {
            settings,
            output: Output::default(),
            presence: Presence::default(),
            presence_batch: PresenceBatch::default(),
            threads: Threads::default(),
            messages,
            auth,
            membership,
            calls: Calls::default(),
            status_requests: StatusRequests::default(),
            inboxes: Inboxes::default(),
            stats: HubStats::default(),
            draining: false,
            resolved: None,
        }
    }

    /// Changes limits and times. Trust, the scope of presence and the longest wait of a message
    /// stay as they were at the start: tables depend on them.
    pub fn set_settings(&mut self, settings: Settings) {
        let Settings { trust, presence, message_turn_lasts, .. } = self.settings;
        self.membership.set_list_ttl(settings.membership_lasts);
        self.auth.identity.set_recheck_every(settings.user_recheck_every);
        self.settings = Settings { trust, presence, message_turn_lasts, ..settings };
    }

    // ---- the interface of the shell

    /// Handles one input. The effects wait in [`Hub::next_effect`].
    pub fn handle(&mut self, input: Input<'_>, now: Now) {
        match input {
            Input::Opened { conn, credential } => self.handle_open(conn, credential, now),
            Input::Frame { conn, text } => self.handle_frame(conn, text, true, now),
            Input::Binary { conn } => {
                self.stats.binary += 1;
                let fault = "Send text frames: binary frames carry nothing in this protocol.";
                let fault = ClientError::new(ErrorCode::TextOnly, fault);
                self.output.send_error(conn, &ReplyTo::default(), &fault);
            }
            Input::RateLimited { conn, text } => {
                let reply = text.map(|text| parse(text).0).unwrap_or_default();
                self.output.send_error(conn, &reply, &failure::rate_limited());
            }
            Input::CallStatusRequest { conn, credential, call } => {
                self.handle_call_status(conn, credential, call, now);
            }
            Input::Closed { conn } if self.status_requests.has(conn) => {
                self.cancel_status_request(conn, now)
            }
            Input::Closed { conn } => self.handle_close(conn, now),
            Input::Answered { request, answer } => self.handle_answer(request, answer, now),
            Input::SiteEvents(events) => {
                for event in events {
                    match event {
                        SiteEvent::Message(message) => match self.messages.hold_event(message) {
                            Ok(()) => {}
                            Err(message) => self.handle_site_message(&message, now),
                        },
                        event => self.handle_site_event(event, now),
                    }
                }
            }
            Input::SiteAvailable(available) => self.messages.set_site_available(available, now),
        }
    }

    /// Takes the next effect, in order; `None` when all are taken.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.output.next_effect()
    }

    /// The receivers of the [`Effect::FanOut`] that was just taken.
    pub fn receivers(&self, to: Receivers) -> &[ConnId] {
        self.output.receivers(to)
    }

    /// When [`Hub::advance`] is to be called, if no input comes before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.threads.next_deadline(),
            self.presence.next_deadline(),
            self.presence_batch.next_deadline(),
            self.auth.identity.next_deadline(),
            self.calls.next_deadline(),
            self.messages.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Runs one timer that is due at `now`; false if there was none. The caller takes the effects
    /// before the next call: many timers may be due at once, and each may be for everyone.
    pub fn advance(&mut self, now: Now) -> bool {
        self.messages.forget_undelivered(now);
        // First, since the other timers may add to the batch.
        if self.flush_presence_batch(now) {
            return true;
        }
        if let Some(typist) = self.threads.pop_typing_timeout(now.instant) {
            self.announce_typing_stop(&typist);
            return true;
        }
        if let Some(user) = self.presence.pop_departed(now.instant) {
            if !self.draining {
                self.announce_offline(&user, now);
            }
            return true;
        }
        if let Some(users) = self.presence.take_active(now.instant) {
            self.output.push(Effect::Active(users));
            return true;
        }
        if let Some((conn, due)) = self.auth.identity.pop_timeout(now) {
            self.handle_auth_timeout(conn, due, now);
            return true;
        }
        if self.calls.advance(now.instant) {
            self.send_call_notifications();
            return true;
        }
        if self.expire_waiting_message(now) {
            return true;
        }
        if let Some(step) = self.messages.take_due_lookup(now) {
            match step {
                LookupStep::Ask((request, ask)) => self.output.ask(request, ask),
                LookupStep::End(end) => self.finish_post(end, now),
            }
            return true;
        }
        self.messages.forget_outcomes(now)
    }

    // ---- frames

    /// Handles a frame, or a held frame once more (`is_new` is false).
    fn handle_frame(&mut self, conn: ConnId, text: &str, is_new: bool, now: Now) {
        debug_assert!(self.output.is_open(conn), "frames come from open connections");
        if self.auth.identity.is_closing(conn) {
            return;
        }
        let (mut reply, frame) = parse(text);
        if is_new {
            self.stats.count_frame(reply.kind);
            if reply.kind != Some(FrameType::Ping) {
                self.presence.note_active(conn, now.instant);
            }
        }
        let outcome =
            frame.and_then(|frame| self.dispatch(conn, frame, text, &mut reply, is_new, now));
        if let Err(fault) = outcome {
            self.output.send_error(conn, &reply, &fault);
        }
    }

    fn dispatch(
        &mut self,
        conn: ConnId,
        frame: ClientFrame<'_>,
        text: &str,
        reply: &mut ReplyTo,
        is_new: bool,
        now: Now,
    ) -> Result<(), ClientError> {
        // A message that was held for a proof was sent before the drain began.
        if self.draining && is_new && matches!(frame, ClientFrame::SendMessage(_)) {
            return self.answer_while_draining(conn, reply, now);
        }
        if self.requires_proof() && self.hold_for_proof(conn, &frame, text, now)? {
            return Ok(());
        }
        let client_id = reply.client_id.as_ref();
        match frame {
            ClientFrame::UserConnected { user, token } => {
                self.user_connected(conn, user, token.as_deref(), reply, now)?;
            }
            ClientFrame::JoinThread { thread } => {
                if self.check_access(conn, &thread, text, Duration::ZERO, now)? {
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
                // Membership must outlast the typing timeout.
                let lasts = self.settings.typing_lasts;
                if self.check_access(conn, &thread, text, lasts, now)? {
                    self.handle_typing(conn, &thread, typing, client_id, now);
                }
            }
            ClientFrame::Call(call) => self.handle_call(conn, call, reply, text, now)?,
            ClientFrame::OnlineUsers { thread } => {
                let has_access = match &thread {
                    Some(thread) => self.check_access(conn, thread, text, Duration::ZERO, now)?,
                    None => true,
                };
                if has_access {
                    self.send_online_users(conn, thread.as_ref(), client_id);
                }
            }
            ClientFrame::Ping => self.output.reply(conn, &ServerFrame::Pong { client_id }),
            ClientFrame::JoinInbox { content } => self.join_inbox(conn, content, client_id)?,
            ClientFrame::LeaveInbox => self.leave_inbox(conn, client_id),
            ClientFrame::IceServers => self.send_ice_servers(conn, client_id, now)?,
        }
        Ok(())
    }

    /// Handles the frames that a connection sent while the site was asked who it is.
    fn resume_held_frames(&mut self, conn: ConnId, now: Now) {
        while let Some(text) = self.auth.next_held(conn) {
            self.handle_frame(conn, text.as_str(), false, now);
        }
    }

    // ---- answers of the site

    fn handle_answer(&mut self, request: RequestId, answer: Answer, now: Now) {
        if answer.is_from_site() {
            self.membership.note_site_answer();
        }
        if let Some(query) = self.auth.queries.finish(request) {
            match (query, answer) {
                (SiteQuery::Proof(proof) | SiteQuery::Recheck(proof), answer) => match answer {
                    Answer::Proven(proven) => self.handle_proof(proof, Ok(proven), true, now),
                    Answer::Verified(proven)
                        if self.auth.tickets.was_revoked(proven.user, now.unix_s) =>
                    {
                        self.auth.identity.require_site(proof);
                        self.auth.queries.push_proof(proof);
                    }
                    Answer::Verified(proven) => self.handle_proof(proof, Ok(proven), false, now),
                    Answer::Ticket(ticket) => {
                        let result = self.accept_ticket(proof, &ticket);
                        self.handle_proof(proof, result, true, now);
                    }
                    Answer::Failed(failure) => self.handle_proof(proof, Err(failure), true, now),
                    answer => debug_assert!(false, "{answer:?} answers no proof"),
                },
                (SiteQuery::CallPermission(pair), Answer::CallPermission(is_allowed)) => {
                    self.handle_call_permission(pair, Ok(is_allowed), now);
                }
                (SiteQuery::CallPermission(pair), Answer::Failed(failure)) => {
                    self.handle_call_permission(pair, Err(failure), now);
                }
                (SiteQuery::Participants(thread), Answer::Participants(users)) => {
                    self.handle_participants(thread, Ok(users), now);
                }
                (SiteQuery::Participants(thread), Answer::Failed(failure)) => {
                    self.handle_participants(thread, Err(failure), now);
                }
                (query, answer) => debug_assert!(false, "{answer:?} answers no {query:?}"),
            }
            return self.send_site_queries(now);
        }
        if let Some(end) = self.messages.record_answer(request, answer, now) {
            self.finish_post(end, now);
        }
    }

    /// Applies the site's answer about a credential to the connections that wait for it.
    fn handle_proof(
        &mut self,
        proof: ProofIx,
        result: Result<Proven, Failure>,
        by_site: bool,
        now: Now,
    ) {
        let waiting = self.auth.identity.record_answer(proof, result, by_site, now);
        if let Err(failure) = result {
            if failure.is_credential_rejection() {
                let conns = self.auth.identity.connections_proven_by(proof);
                self.revoke_connections(conns, failure, now);
            }
        }
        for conn in waiting {
            if self.status_requests.has(conn) {
                self.finish_status_request(conn, result, now);
            } else if !self.auth.identity.is_pending_on(conn, proof) {
                self.auth.identity.end_wait(conn);
                self.resume_held_frames(conn, now);
            } else if self.auth.identity.take_message_credential(conn, now) {
                // The message that brought the credential is the first held frame; it is answered
                // by that frame's own check.
                self.resume_held_frames(conn, now);
                if let Err(failure) = result {
                    self.count_failure(conn, failure, now);
                }
            } else {
                self.apply_proof(conn, result, now);
                self.resume_held_frames(conn, now);
            }
        }
    }

    /// Applies the site's answer whether a user may call in a thread.
    fn handle_call_permission(&mut self, pair: CallPair, result: Result<bool, Failure>, now: Now) {
        let mut waiting = self.auth.calls.record_answer(pair, result, now.instant);
        waiting.retain(|conn| self.output.is_open(*conn));
        if let (Err(failure), Some(conn)) = (result, waiting.first()) {
            let credential = self.auth.identity.proven_credential(*conn).cloned();
            if let Some(credential) = credential.filter(|_| failure.is_credential_rejection()) {
                self.revoke(&credential, failure, now);
            }
        }
        for conn in waiting {
            if self.auth.identity.end_wait(conn) {
                self.auth.unanswered_call = result.err().map(|failure| (pair, failure));
                self.resume_held_frames(conn, now);
                self.auth.unanswered_call = None;
            }
        }
    }

    /// Applies the site's answer about a thread's participants.
    fn handle_participants(&mut self, thread: u64, result: Result<Box<[u64]>, Failure>, now: Now) {
        let failure = result.as_ref().err().copied();
        let answered = self.membership.record_answer(thread, result, now.instant);
        let Some((user, credential)) = answered else {
            return;
        };
        match failure {
            None => {
                self.remove_nonmembers(thread, now);
                self.ring_devices_of(thread, now);
            }
            Some(Failure::NotParticipant) => self.remove_user(thread, user, now),
            Some(failure) if failure.is_credential_rejection() => {
                // Authors get their outcome before their connection is closed.
                for (pending, stored) in self.membership.release_own_messages(thread) {
                    self.deliver_to_author(&pending, &stored);
                }
                self.revoke(&credential, failure, now);
            }
            Some(_) => {}
        }
        self.release_held(thread, Some(user), now);
    }

    /// Handles what was held for a thread's participants, in order. All frames of `asker`, whose
    /// query was answered, are decided now; other users may have to ask themselves.
    fn release_held(&mut self, thread: u64, asker: Option<u64>, now: Now) {
        for held in self.membership.release_held(thread) {
            match held {
                Held::Frame { conn, user, text } => {
                    let access = self.membership.access(thread, user, now.instant, Duration::ZERO);
                    let same = self.presence.number_of(conn) == Some(user);
                    if same && asker != Some(user) && access == Access::Unknown {
                        self.membership.hold(thread, Held::Frame { conn, user, text });
                        self.query_participants(thread, conn, user, now);
                        continue;
                    }
                    self.auth.release_for_thread(conn, user, &text);
                    self.resolved = asker.map(|asker| (thread, asker));
                    self.handle_frame(conn, text.as_str(), false, now);
                    self.resolved = None;
                }
                Held::Message { stored, is_final } => {
                    let (pending, stored) = *stored;
                    self.deliver_or_hold(pending, stored, is_final, now);
                }
            }
        }
    }

    /// Gives a message its outcome, and posts the next of its lane.
    fn finish_post(&mut self, end: PostEnd, now: Now) {
        let PostEnd { post, result, rejection } = end;
        let rejected = rejection.and_then(|failure| {
            let credential = self.messages.credential_of(post)?.clone();
            Some((credential, failure))
        });
        if let Some(pending) = self.messages.finish(post, &result) {
            let lane = pending.lane();
            match result {
                Ok(stored) => self.handle_stored(pending, stored, now),
                Err(fault) => self.fail_message(&pending, &fault),
            }
            if let Some((request, ask)) = self.messages.next_in_lane(lane, now) {
                self.output.ask(request, ask);
            }
        }
        if let Some((credential, failure)) = rejected {
            self.revoke(&credential, failure, now);
        }
        for message in self.messages.release_events(post) {
            self.handle_site_message(&message, now);
        }
    }

    /// Learns the participants of a thread from an event about a message, and delivers it.
    fn handle_site_message(&mut self, message: &SiteMessage, now: Now) {
        let mut users = message.recipients.to_vec();
        users.push(message.sender);
        users.sort_unstable();
        users.dedup();
        let at = RequestTime { at: now.instant, request_id: self.messages.request_ids.last() };
        if self.learn_from_event(message.thread, users.clone().into(), at, now) {
            self.ring_devices_of(message.thread, now);
            // Frames and messages that were held are older: they go first.
            self.release_held(message.thread, None, now);
        }
        self.deliver_site_message(message, users);
    }

    /// Learns from a stored message who its sender is and who takes part in its thread, and
    /// delivers it.
    fn handle_stored(&mut self, pending: PendingMessage, mut stored: Stored, now: Now) {
        if let (Some(credential), Some(user)) = (&pending.credential, stored.sender.site_number()) {
            let proven = Proven { user, expires_s: stored.expires_s };
            self.learn_from_post(pending.conn, credential, proven, now);
        }
        let (thread, participants) = (stored.thread, stored.participants.take());
        if let Some(users) = participants {
            if self.learn_participants(thread, users, pending.posted_at, now) {
                self.ring_devices_of(thread, now);
                // Held frames and messages are older: they go first.
                self.release_held(thread, None, now);
            }
        }
        self.deliver_or_hold(pending, stored, false, now);
    }

    // ---- for the shell and the tests

    /// How many WebSockets are open, users online, threads joined, and messages in flight.
    pub fn counts(&self) -> HubCounts {
        HubCounts {
            connections: self.output.connections().count(),
            users: self.presence.count(),
            threads: self.threads.count(),
            deliveries: self.messages.count(),
            calls: self.calls.ringing_and_answered(),
        }
    }

    /// The connection that sent the message of this request, while its outcome is open.
    pub fn sender_of(&self, post: RequestId) -> Option<ConnId> {
        self.messages.sender_of(post)
    }

    /// The request under which the log shows this one: a lookup belongs to its message's.
    pub fn log_request(&self, request: RequestId) -> RequestId {
        self.messages.post_of(request).unwrap_or(request)
    }

    /// Numbers of held frames, queries, and connections without a proof: all wait for the site.
    pub fn backlog(&self) -> [usize; 3] {
        let Auth { identity, queries, held, .. } = &self.auth;
        [held.frames(), queries.count(), identity.pending_count()]
    }

    /// Asserts that the tables of each module agree with each other.
    pub fn check_invariants(&self) {
        self.presence.check_invariants();
        self.threads.check_invariants();
        self.messages.check_invariants();
        self.calls.check_invariants();
        self.auth.check_invariants();
        self.membership.check_invariants();
        self.inboxes.check_invariants(|conn, user| self.presence.number_of(conn) == Some(user));
    }
}

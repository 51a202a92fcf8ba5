//! Who is told what has become of a message: its author, its thread, and who has sent it again.

use super::Hub;
use super::dedup::{DedupKey, Sender};
use super::delivery::PendingMessage;
use super::interface::{ConnId, Effect, Now, Proven, Stored, Target};
use super::membership::Held;
use super::threads::JoinResult;
use crate::config::Trust;
use crate::protocol::server::{EncodedFrame, ErrorFrame, MessageFrame, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id, IdKey};

impl Hub {
    /// The job with whoever gets its outcome now: its connection, or its user's next one.
    fn redirect_to_successor(&self, pending: PendingMessage) -> PendingMessage {
        let conn = self.outcome_connection(&pending);
        PendingMessage { conn, ..pending }
    }

    fn outcome_connection(&self, pending: &PendingMessage) -> ConnId {
        let user = pending.claimed.as_ref().filter(|_| !self.is_open(pending.origin));
        let successor =
            user.and_then(|user| self.undelivered.successor_of(pending.origin, &user.key));
        successor.unwrap_or(pending.origin)
    }

    /// Tells the author of a message that it has failed.
    pub(super) fn send_failure(&mut self, pending: &PendingMessage, fault: &ClientError) {
        let frame = ServerFrame::Error(ErrorFrame::new(fault, &pending.reply));
        let frame = self.encoder.encode(&frame);
        // What was certainly not stored may be tried again under the same name.
        let remember = fault.code == ErrorCode::UnknownOutcome;
        self.send_outcome(pending, frame, remember);
    }

    /// Sends an outcome to the author, or keeps it until they are back, and to those of their
    /// connections that have sent the same message again. It is repeated later if it `remember`.
    /// Returns those connections.
    fn send_outcome(
        &mut self,
        pending: &PendingMessage,
        frame: EncodedFrame,
        remember: bool,
    ) -> Vec<ConnId> {
        let key = pending.dedup_key.as_ref();
        let waiters = key.map(|key| self.dedup.settle(key, &frame, remember));
        let mut repeating = waiters.unwrap_or_default();
        let to = self.outcome_connection(pending);
        if self.is_open(to) {
            // Who inherits what they have sent again hears it once.
            let again = repeating.iter().position(|conn| to != pending.origin && *conn == to);
            if let Some(again) = again {
                repeating.remove(again);
            }
            let frame = EncodedFrame::clone(&frame);
            self.effects.push_back(Effect::Send { to, frame });
        } else if let Some(user) = &pending.claimed {
            let heard = repeating.iter().any(|conn| self.is_open(*conn));
            match self.repeat_successor(&user.key, &repeating) {
                _ if heard => {}
                Some(to) => {
                    let frame = EncodedFrame::clone(&frame);
                    self.effects.push_back(Effect::Send { to, frame });
                }
                None => {
                    self.undelivered.store(pending.origin, &user.key, EncodedFrame::clone(&frame))
                }
            }
        }
        if let (Some(DedupKey { sender: Sender::User(user), .. }), true) =
            (key, self.is_open(pending.origin))
        {
            self.send_to_repeat_successor(user, &repeating, &frame);
        }
        repeating.retain(|conn| self.is_open(*conn));
        self.fan_out(repeating.iter().copied(), &frame, false);
        repeating
    }

    /// Who has sent a message again and gone hears of it on a later connection, once, unless that
    /// one hears of it anyway.
    fn send_to_repeat_successor(
        &mut self,
        user: &IdKey,
        repeating: &[ConnId],
        frame: &EncodedFrame,
    ) {
        let Some(gone) = repeating.iter().find(|conn| !self.is_open(**conn)) else {
            return;
        };
        let frame = EncodedFrame::clone(frame);
        match self.repeat_successor(user, repeating) {
            Some(successor) if repeating.contains(&successor) => {}
            Some(to) => self.effects.push_back(Effect::Send { to, frame }),
            None => self.undelivered.store(*gone, user, frame),
        }
    }

    /// The later connection of one that has sent a message again and gone.
    fn repeat_successor(&self, user: &IdKey, repeating: &[ConnId]) -> Option<ConnId> {
        let gone = repeating.iter().filter(|conn| !self.is_open(**conn));
        gone.filter_map(|conn| self.undelivered.successor_of(*conn, user)).next()
    }

    /// Whether a connection has sent what has no outcome yet.
    pub(super) fn has_pending_outcome(&self, conn: ConnId) -> bool {
        self.delivery.has(conn) || self.dedup.has(conn)
    }

    /// In verified trust, a stored message says who its sender is and who takes part in the thread;
    /// it is shown when the second is known.
    pub(super) fn handle_stored(&mut self, pending: PendingMessage, mut stored: Stored, now: Now) {
        if self.settings.trust == Trust::Open {
            return self.deliver(pending, &stored, now);
        }
        if let (Some(credential), Some(user)) = (&pending.credential, stored.sender.site_number()) {
            let proven = Proven { user, expires_s: stored.expires_s };
            self.learn_from_post(pending.conn, credential, proven, now);
        }
        if let Some(users) = stored.participants.take() {
            let thread = stored.thread;
            self.membership.set_list(thread, users, pending.posted_at);
            self.remove_nonmembers(thread, now);
            // What came before is shown before.
            self.release_held(thread, None, now);
        }
        self.deliver_or_hold(pending, stored, false, now);
    }

    /// Shows a stored message to its thread, as soon as it is known who takes part. One that was
    /// `is_final` for in vain is shown to its author alone.
    pub(super) fn deliver_or_hold(
        &mut self,
        pending: PendingMessage,
        stored: Stored,
        is_final: bool,
        now: Now,
    ) {
        let thread = stored.thread;
        if self.membership.is_current(thread, now.instant) {
            return self.deliver(pending, &stored, now);
        }
        let user = stored.sender.site_number();
        let failing =
            user.is_some_and(|user| self.membership.failure(thread, user, now.instant).is_some());
        if failing && !is_final && self.membership.has_query(thread) {
            // What another is about to hear serves them as well, and they do not overtake.
            let stored = Box::new((pending, stored));
            return self.membership.hold(thread, Held::Message { stored, is_final: true });
        }
        if let (Some(credential), Some(user), false) =
            (&pending.credential, user, is_final || failing)
        {
            let is_final = self.membership.request_list(thread, user, credential);
            if is_final {
                self.site_queries.push_participants(thread, user);
            }
            let stored = Box::new((pending, stored));
            self.membership.hold(thread, Held::Message { stored, is_final });
            return self.send_site_queries(now);
        }
        self.deliver_to_author(&pending, &stored);
    }

    fn deliver(&mut self, pending: PendingMessage, stored: &Stored, now: Now) {
        let pending = &self.redirect_to_successor(pending);
        let (thread, sender) = resolve_ids(pending, stored);
        let over_limit = self.auto_join(pending, &sender, &thread, now);
        // The site's user and the connection's need not be the same in open trust.
        let on_any_device = self.threads.stop_typing(pending.conn, Some(&sender), &thread.key);
        let here = self.threads.stop_typing_here(pending.conn, &thread.key);
        for typist in on_any_device.iter().chain(&here) {
            self.announce_typing_stop(typist);
        }
        let frame = |client_id| message_frame(pending, stored, &thread, &sender, client_id);
        let for_others = self.encoder.encode(&frame(None));
        let own = match &pending.reply.client_id {
            Some(client_id) => self.encoder.encode(&frame(Some(client_id))),
            None => EncodedFrame::clone(&for_others),
        };
        let already_sent = self.send_outcome(pending, own, true);
        self.send_to_others(&thread.key, &for_others, pending.conn, &already_sent);
        let over_limit = over_limit.into_iter().filter(|to| !already_sent.contains(to));
        self.fan_out(over_limit, &for_others, false);
        self.delivery.settle(pending);
    }

    pub(super) fn deliver_to_author(&mut self, pending: &PendingMessage, stored: &Stored) {
        let (thread, sender) = resolve_ids(pending, stored);
        let client_id = pending.reply.client_id.as_ref();
        let frame = message_frame(pending, stored, &thread, &sender, client_id);
        let frame = self.encoder.encode(&frame);
        self.send_outcome(pending, frame, true);
        self.delivery.settle(pending);
    }

    /// Gives stored messages that wait for the site's word their outcome, before the server stops.
    pub(super) fn flush_held_messages(&mut self) {
        for stored in self.membership.take_messages() {
            let (pending, stored) = *stored;
            self.deliver_to_author(&pending, &stored);
        }
    }

    /// What an accepted message tells about its connection: who it is, and that it belongs to the
    /// thread (`PROTOCOL.md` 2.3); a new thread is joined by both sides' connections (2.5). Returns
    /// those that have joined as many as they may: they get this one message all the same.
    fn auto_join(
        &mut self,
        pending: &PendingMessage,
        sender: &Id,
        thread: &Id,
        now: Now,
    ) -> Vec<ConnId> {
        let mut over_limit = Vec::new();
        if self.is_open(pending.conn) {
            if self.settings.trust == Trust::Open && !self.presence.is_identified(pending.conn) {
                self.connect_user(pending.conn, sender, None, now);
            }
            // The author gets its own message in any case.
            self.join_silently(pending.conn, thread);
        }
        if let (Target::NewThread { .. }, Some(recipient)) = (pending.target, &pending.recipient) {
            let mut conns = self.presence.conns_of(&sender.key).to_vec();
            conns.extend(self.presence.conns_of(&recipient.key));
            conns.retain(|conn| *conn != pending.conn);
            over_limit.extend(conns.into_iter().filter(|conn| !self.join_silently(*conn, thread)));
        }
        over_limit
    }

    /// Joins without being asked, and says so if it is new; false if the limit is reached. In
    /// verified trust only who takes part joins.
    fn join_silently(&mut self, conn: ConnId, thread: &Id) -> bool {
        if self.settings.trust == Trust::Verified {
            let both = self.presence.number_of(conn).zip(thread.site_number());
            if !both.is_some_and(|(user, thread)| self.membership.is_member(thread, user)) {
                return true;
            }
        }
        let max = self.settings.joins_per_connection;
        let joined = self.threads.join(conn, &thread.key, max, self.settings.threads);
        if joined == JoinResult::New {
            self.reply(conn, &ServerFrame::ThreadJoined { thread_id: thread, client_id: None });
        }
        matches!(joined, JoinResult::New | JoinResult::Already)
    }

    /// Sends a frame to everyone who hears the thread, but for its author and those who have it.
    fn send_to_others(
        &mut self,
        thread: &IdKey,
        frame: &EncodedFrame,
        author: ConnId,
        already_sent: &[ConnId],
    ) {
        let start = self.receivers.len();
        let subscribers = self.threads.subscribers(thread).iter().map(|subscriber| subscriber.conn);
        let others = subscribers.filter(|conn| *conn != author && !already_sent.contains(conn));
        self.receivers.extend(others);
        self.fan_out_from(start, frame, false);
    }
}

/// How a message names its thread and its sender: as the sender did, where they did.
fn resolve_ids(pending: &PendingMessage, stored: &Stored) -> (Id, Id) {
    let thread = match &pending.reply.thread {
        Some(requested) if requested.key == IdKey::Number(stored.thread) => requested.clone(),
        _ => Id::number(stored.thread),
    };
    let sender = match &pending.claimed {
        Some(claimed) if claimed.key == stored.sender.key => claimed.clone(),
        _ => stored.sender.clone(),
    };
    (thread, sender)
}

fn message_frame<'a>(
    pending: &'a PendingMessage,
    stored: &'a Stored,
    thread_id: &'a Id,
    sender_id: &'a Id,
    client_id: Option<&'a Id>,
) -> ServerFrame<'a> {
    let message = stored.message.as_ref();
    ServerFrame::Message(MessageFrame {
        thread_id,
        sender_id,
        recipient_id: pending.recipient.as_ref(),
        message: &pending.text,
        message_id: message.map(|message| message.id),
        sent_at: message.map(|message| message.sent_at.as_str()),
        html: message.map(|message| message.html.as_str()),
        client_id,
    })
}

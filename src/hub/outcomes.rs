//! Delivers outcomes: the stored message to its thread and author, or the error to its author.

use super::Hub;
use super::interface::{ConnId, Now, Stored, Target};
use super::membership::Held;
use super::messages::delivered::DeliveredTo;
use super::messages::delivery::PendingMessage;
use crate::protocol::server::{EncodedFrame, ErrorFrame, InboxFrame, MessageFrame, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id, IdKey};

impl Hub {
    /// Sends the author of a message its error, and releases its place.
    pub(super) fn fail_message(&mut self, pending: &PendingMessage, fault: &ClientError) {
        self.send_failure(pending, fault);
        self.messages.release(pending);
    }

    /// Sends the author of a message its error.
    pub(super) fn send_failure(&mut self, pending: &PendingMessage, fault: &ClientError) {
        let frame = ServerFrame::Error(ErrorFrame::new(fault, &pending.reply));
        let frame = self.output.encode(&frame);
        // A message that was certainly not stored may be sent again under the same `clientId`.
        let remember = fault.code == ErrorCode::UnknownOutcome;
        self.send_outcome(pending, frame, remember);
    }

    /// Sends an outcome to the author and to the connections that sent the same message again,
    /// which it returns. Repeats get it later as well if `remember`.
    fn send_outcome(
        &mut self,
        pending: &PendingMessage,
        frame: EncodedFrame,
        remember: bool,
    ) -> Vec<ConnId> {
        let is_open = |conn| self.output.is_open(conn);
        let receivers = self.messages.settle_outcome(pending, &frame, remember, is_open);
        for to in &receivers.direct {
            self.output.send(*to, EncodedFrame::clone(&frame));
        }
        self.output.fan_out(receivers.repeaters.iter().copied(), &frame, false);
        receivers.repeaters
    }

    /// Fails a message that has waited too long in its lane; false if there is none.
    pub(super) fn expire_waiting_message(&mut self, now: Now) -> bool {
        let Some((pending, fault)) = self.messages.expire_waiting(now) else {
            return false;
        };
        self.fail_message(&pending, &fault);
        true
    }

    /// Delivers a stored message to its thread, or holds it until the site has listed the thread's
    /// participants. `is_final` means that the list was requested for this message: if it is still
    /// not current, the author alone gets the message.
    pub(super) fn deliver_or_hold(
        &mut self,
        mut pending: PendingMessage,
        stored: Stored,
        is_final: bool,
        now: Now,
    ) {
        let thread = stored.thread;
        if self.has_current_participants(thread, now) {
            return self.deliver(&mut pending, &stored, now);
        }
        let user = stored.sender.site_number();
        let failing =
            user.is_some_and(|user| self.membership.failure(thread, user, now.instant).is_some());
        if failing && !is_final && self.membership.has_query(thread) {
            // The query of another user serves this message too, and keeps the order.
            let stored = Box::new((pending, stored));
            return self.membership.hold(thread, Held::Message { stored, is_final: true });
        }
        if let (Some(credential), Some(user), false) =
            (&pending.credential, user, is_final || failing)
        {
            let is_final = self.membership.request_list(thread, user, credential);
            if is_final {
                self.auth.queries.push_participants(thread, user);
            }
            let stored = Box::new((pending, stored));
            self.membership.hold(thread, Held::Message { stored, is_final });
            return self.send_site_queries(now);
        }
        self.deliver_to_author(&pending, &stored);
    }

    /// Sends a stored message to its author and to the subscribers of its thread.
    fn deliver(&mut self, pending: &mut PendingMessage, stored: &Stored, now: Now) {
        pending.conn = self.messages.outcome_connection(pending, |conn| self.output.is_open(conn));
        let pending = &*pending;
        let (thread, sender) = resolve_ids(pending, stored);
        let over_limit = self.auto_join(pending, &sender, &thread, now);
        // In open trust the site's user and the connection's may differ.
        let on_any_device = self.threads.stop_typing(pending.conn, Some(&sender), &thread.key);
        let here = self.threads.stop_typing_here(pending.conn, &thread.key);
        for typist in on_any_device.iter().chain(&here) {
            self.announce_typing_stop(typist);
        }
        let frame = |client_id| message_frame(pending, stored, &thread, &sender, client_id);
        let for_others = self.output.encode(&frame(None));
        let own = match &pending.reply.client_id {
            Some(client_id) => self.output.encode(&frame(Some(client_id))),
            None => EncodedFrame::clone(&for_others),
        };
        let already_sent = self.send_outcome(pending, own, true);
        let number = stored.message.as_ref().map(|message| message.id);
        // The site's event about this message has reached the thread already.
        let before = number.and_then(|number| self.messages.delivered.get(number));
        if !before.is_none_or(|to| matches!(to, DeliveredTo::Author(_))) {
            return self.messages.release(pending);
        }
        let reaches_inboxes = self.enforces_membership();
        let to = if reaches_inboxes { DeliveredTo::Everyone } else { DeliveredTo::Thread };
        number.map(|number| self.messages.delivered.note(number, to));
        let subscribers = self.threads.subscribers(&thread.key).iter();
        let others = subscribers.map(|subscriber| subscriber.conn);
        let others = others.filter(|conn| *conn != pending.conn && !already_sent.contains(conn));
        if self.auth.blocks.is_empty() {
            self.output.fan_out(others, &for_others, false);
        } else {
            let hides = |conn: &ConnId| self.is_hidden_by_block(*conn, &sender);
            let others: Vec<ConnId> = others.filter(|conn| !hides(conn)).collect();
            self.output.fan_out(others, &for_others, false);
        }
        let over_limit = over_limit.into_iter().filter(|to| !already_sent.contains(to));
        self.output.fan_out(over_limit, &for_others, false);
        if reaches_inboxes && self.inboxes.count() > 0 {
            let mut except = already_sent;
            except.push(pending.conn);
            self.send_to_participants_inboxes(pending, stored, &sender, &except);
        }
        self.messages.release(pending);
    }

    /// Sends a stored message to the inboxes of the thread's participants.
    fn send_to_participants_inboxes(
        &mut self,
        pending: &PendingMessage,
        stored: &Stored,
        sender: &Id,
        except: &[ConnId],
    ) {
        let mut users = self.membership.participants(stored.thread).to_vec();
        if let Some(sender) = sender.site_number() {
            users.retain(|user| !self.auth.blocks.is_between(*user, sender));
        }
        let thread = Id::number(stored.thread);
        let mut frame = message_frame(pending, stored, &thread, sender, None);
        if let ServerFrame::Message(message) = &mut frame {
            message.inbox = true;
        }
        let full = self.output.encode(&frame);
        let message = stored.message.as_ref();
        let ids = InboxFrame {
            event: "message",
            thread_id: Some(stored.thread),
            message_id: message.map(|message| message.id),
            sender_id: sender.site_number(),
            sent_at: message.map(|message| message.sent_at.as_str()),
            ..InboxFrame::default()
        };
        self.send_message_to_inboxes(&users, &full, &ids, except);
    }

    /// Sends a stored message to its author alone.
    pub(super) fn deliver_to_author(&mut self, pending: &PendingMessage, stored: &Stored) {
        let (thread, sender) = resolve_ids(pending, stored);
        let client_id = pending.reply.client_id.as_ref();
        let frame = message_frame(pending, stored, &thread, &sender, client_id);
        let frame = self.output.encode(&frame);
        self.send_outcome(pending, frame, true);
        let number = stored.message.as_ref().map(|message| message.id);
        let is_new = |number: &u64| self.messages.delivered.get(*number).is_none();
        if let Some(number) = number.filter(is_new) {
            self.messages.delivered.note(number, DeliveredTo::Author(pending.conn));
        }
        self.messages.release(pending);
    }

    /// Whether a block stands between a connection's user and a sender.
    fn is_hidden_by_block(&self, conn: ConnId, sender: &Id) -> bool {
        let users = self.presence.number_of(conn).zip(sender.site_number());
        users.is_some_and(|(user, sender)| self.auth.blocks.is_between(user, sender))
    }

    /// Sends the held stored messages to their authors when the server stops.
    pub(super) fn flush_held_messages(&mut self) {
        for (pending, stored) in self.membership.take_messages() {
            self.deliver_to_author(&pending, &stored);
        }
    }

    /// Applies what a stored message proves: its connection belongs to the sender and to the thread
    /// (`PROTOCOL.md` 2.3), and both sides of a new thread join it (2.5). Returns the connections
    /// at their limit of joins, which get this one message all the same.
    fn auto_join(
        &mut self,
        pending: &PendingMessage,
        sender: &Id,
        thread: &Id,
        now: Now,
    ) -> Vec<ConnId> {
        let mut over_limit = Vec::new();
        if self.output.is_open(pending.conn) {
            self.identify_from_post(pending.conn, sender, now);
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
}

/// The ids of a message's thread and sender, in the sender's own spelling if the sender gave them.
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
        attachments: None,
        notice: None,
        inbox: false,
        client_id,
    })
}

//! Applies what has happened on the site: messages, members, blocks and sessions that its plugin
//! reports.

use super::Hub;
use super::auth::proofs::ProofIx;
use super::failure::Failure;
use super::interface::{ConnId, FailureContext, Now, Proven, Ticket};
use super::messages::delivered::DeliveredTo;
use super::messages::delivery::RequestTime;
use crate::config::PresenceScope;
use crate::protocol::client::ReplyTo;
use crate::protocol::server::{EndReason, InboxFrame, LeftReason, MessageFrame, ServerFrame};
use crate::protocol::site_event::{Revocation, SiteEvent, SiteMessage, ThreadChange};
use crate::protocol::{Id, IdKey};

impl Hub {
    /// Applies one event, which is not a message.
    pub(super) fn handle_site_event(&mut self, event: SiteEvent, now: Now) {
        match event {
            SiteEvent::ThreadDeleted { thread, recipients } => {
                self.delete_thread(thread, &recipients, now);
            }
            SiteEvent::Participants { thread, added, removed } => {
                self.change_participants(thread, &added, &removed, now);
            }
            SiteEvent::Blanked { thread, user, messages } => {
                self.announce_blanked(thread, user, &messages);
            }
            SiteEvent::Thread { change, thread, user, unread_total, up_to } => {
                self.announce_thread_change(change, thread, user, unread_total, up_to);
            }
            SiteEvent::Block { user, blocked } => self.block(user, blocked, now),
            SiteEvent::Unblock { user, blocked } => {
                self.auth.blocks.unblock(user, blocked);
                self.auth.calls.forget(user, blocked);
                if !self.auth.blocks.is_between(user, blocked) {
                    self.show_presence_between(user, blocked, true);
                }
            }
            SiteEvent::Revoked { user, reason } => self.revoke_user(user, reason, now),
            SiteEvent::Unsuspended { user } => self.auth.tickets.unrevoke(user),
            SiteEvent::Notification { user, component, action, unread_total } => {
                let frame = InboxFrame {
                    event: "notification",
                    component: Some(&component),
                    action: Some(&action),
                    unread_total,
                    ..InboxFrame::default()
                };
                self.send_to_inboxes(&[user], &frame);
            }
            SiteEvent::Resync => {
                self.membership.forget_lists();
                self.auth.tickets.forget_threads();
                self.auth.calls.forget_all();
                let users = self.inboxes.users();
                let frame = InboxFrame { event: "resync", ..InboxFrame::default() };
                self.send_to_inboxes(&users, &frame);
            }
            // The dispatcher holds messages first, and the shell answers tests of the connection.
            SiteEvent::Message(_) | SiteEvent::Test { .. } => {}
        }
    }

    /// Delivers a message that was stored on the site to the subscribers of its thread and to the
    /// inboxes of `users`, its participants, each once.
    pub(super) fn deliver_site_message(&mut self, message: &SiteMessage, mut users: Vec<u64>) {
        let before = self.messages.delivered.note(message.message, DeliveredTo::Everyone);
        let is_hidden = |user: Option<u64>| {
            user.is_some_and(|user| message.hidden_from.binary_search(&user).is_ok())
        };
        let (thread, sender) = (Id::number(message.thread), Id::number(message.sender));
        let frame = |inbox| {
            ServerFrame::Message(MessageFrame {
                thread_id: &thread,
                sender_id: &sender,
                recipient_id: None,
                message: &message.text,
                message_id: Some(message.message),
                sent_at: Some(&message.sent_at),
                html: Some(&message.html),
                attachments: message.attachments,
                notice: message.notice,
                inbox,
                client_id: None,
            })
        };
        let ids = InboxFrame {
            event: "message",
            thread_id: Some(message.thread),
            message_id: Some(message.message),
            sender_id: Some(message.sender),
            sent_at: Some(&message.sent_at),
            notice: message.notice,
            silent: message.silent.then_some(true),
            ..InboxFrame::default()
        };
        let author = match before {
            None => None,
            Some(DeliveredTo::Author(conn)) => Some(conn),
            Some(DeliveredTo::Thread | DeliveredTo::Everyone) => {
                if before == Some(DeliveredTo::Thread) {
                    users.retain(|user| !is_hidden(Some(*user)));
                    let full = self.output.encode(&frame(true));
                    self.send_message_to_inboxes(&users, &full, &ids, &[]);
                }
                return;
            }
        };
        let for_thread = self.output.encode(&frame(false));
        let enforces = self.enforces_membership();
        let subscribers = self.threads.subscribers(&thread.key).iter();
        let conns: Vec<ConnId> = subscribers
            .map(|subscriber| subscriber.conn)
            .filter(|conn| Some(*conn) != author && !is_hidden(self.presence.number_of(*conn)))
            .filter(|conn| {
                // A user who was added since the message was stored stays subscribed.
                let user = self.presence.number_of(*conn);
                !enforces || user.is_some_and(|user| users.binary_search(&user).is_ok())
            })
            .collect();
        self.output.fan_out(conns, &for_thread, false);
        users.retain(|user| !is_hidden(Some(*user)));
        if self.inboxes.count() > 0 {
            let full = self.output.encode(&frame(true));
            self.send_message_to_inboxes(&users, &full, &ids, author.as_slice());
        }
    }

    /// Forgets a thread: its number may be used again.
    fn delete_thread(&mut self, thread: u64, recipients: &[u64], now: Now) {
        self.membership.forget_thread(thread);
        for user in recipients {
            self.auth.tickets.remove_thread(*user, thread, now.unix_s);
        }
        let id = Id::number(thread);
        let subscribers = self.threads.subscribers(&id.key).iter();
        let conns: Vec<ConnId> = subscribers.map(|subscriber| subscriber.conn).collect();
        self.unsubscribe(thread, &conns, LeftReason::Deleted);
        let parties = self.calls.parties_in_thread(&id.key);
        self.remove_from_calls(parties, now);
        let frame = InboxFrame {
            event: "thread_deleted",
            thread_id: Some(thread),
            ..InboxFrame::default()
        };
        self.send_to_inboxes(recipients, &frame);
    }

    fn change_participants(&mut self, thread: u64, added: &[u64], removed: &[u64], now: Now) {
        let at = RequestTime { at: now.instant, request_id: self.messages.request_ids.last() };
        let mut told = self.membership.participants(thread).to_vec();
        told.extend(added.iter().chain(removed));
        told.sort_unstable();
        told.dedup();
        if self.enforces_membership() {
            self.membership.change(thread, added, true, at);
            self.membership.change(thread, removed, false, at);
            for user in removed {
                self.auth.tickets.remove_thread(*user, thread, now.unix_s);
                self.remove_user(thread, *user, now);
            }
        }
        let frame = InboxFrame {
            event: "participants",
            thread_id: Some(thread),
            added: Some(added),
            removed: Some(removed),
            ..InboxFrame::default()
        };
        self.send_to_inboxes(&told, &frame);
    }

    fn announce_blanked(&mut self, thread: u64, user: u64, messages: &[u64]) {
        let id = Id::number(thread);
        let frame = ServerFrame::ContentDeleted { thread_id: &id, ids: messages };
        let frame = self.output.encode(&frame);
        let subscribers = self.threads.subscribers(&id.key).iter();
        let mut conns: Vec<ConnId> = subscribers.map(|subscriber| subscriber.conn).collect();
        let mut users = self.membership.participants(thread).to_vec();
        users.push(user);
        conns.extend(users.iter().flat_map(|user| self.inboxes.of(*user)).map(|inbox| inbox.conn));
        conns.sort_unstable();
        conns.dedup();
        self.output.fan_out(conns, &frame, false);
    }

    fn announce_thread_change(
        &mut self,
        change: ThreadChange,
        thread: u64,
        user: u64,
        unread_total: Option<u64>,
        up_to: Option<u64>,
    ) {
        let event = match change {
            ThreadChange::Read => "read",
            ThreadChange::Unread => "unread",
            ThreadChange::Archived => "archived",
            ThreadChange::Unarchived => "unarchived",
        };
        let thread_id = Some(thread);
        let frame = InboxFrame { event, thread_id, unread_total, up_to, ..InboxFrame::default() };
        self.send_to_inboxes(&[user], &frame);
        if let (ThreadChange::Read, Some(up_to), true) =
            (change, up_to, self.settings.read_receipts)
        {
            let (id, user_id) = (Id::number(thread), Id::number(user));
            let frame = ServerFrame::ThreadRead { thread_id: &id, user_id: &user_id, up_to };
            let frame = self.output.encode(&frame);
            let subscribers = self.threads.subscribers(&id.key).iter();
            let conns: Vec<ConnId> = subscribers
                .map(|subscriber| subscriber.conn)
                .filter(|conn| self.presence.number_of(*conn) != Some(user))
                .collect();
            self.output.fan_out(conns, &frame, true);
        }
    }

    // ---- blocks

    /// From now on neither of two users hears the other's typing, presence or calls.
    fn block(&mut self, user: u64, blocked: u64, now: Now) {
        if !self.auth.blocks.is_between(user, blocked) {
            for conn in [user, blocked].map(|user| self.connections_of(user)).concat() {
                self.stop_typing_on(conn);
            }
            self.show_presence_between(user, blocked, false);
            let [one, other] = [IdKey::Number(user), IdKey::Number(blocked)];
            while let Some(ix) = self.calls.find_between(&one, &other) {
                self.calls.end(ix, EndReason::Failed, None, now.instant);
            }
            self.send_call_notifications();
        }
        self.auth.blocks.block(user, blocked);
        self.auth.calls.forget(user, blocked);
    }

    /// Shows each of two users that the other is online, or hides it.
    fn show_presence_between(&mut self, one: u64, other: u64, is_shown: bool) {
        if self.settings.presence == PresenceScope::Off {
            return;
        }
        for (user, to) in [(one, other), (other, one)] {
            let Some(id) = self.presence.find(&IdKey::Number(user)).cloned() else { continue };
            let frame = match is_shown {
                true => ServerFrame::UserConnected { user_id: &id, client_id: None },
                false => ServerFrame::UserDisconnected { user_id: &id },
            };
            let frame = self.output.encode(&frame);
            let conns = self.connections_of(to);
            self.output.fan_out(conns, &frame, false);
        }
    }

    fn connections_of(&self, user: u64) -> Vec<ConnId> {
        self.presence.conns_of(&IdKey::Number(user)).to_vec()
    }

    // ---- sessions

    /// Closes the connections of a user who may no longer use the site, or of one session.
    fn revoke_user(&mut self, user: u64, reason: Revocation, now: Now) {
        let failure = match &reason {
            Revocation::Suspended => Failure::Suspended,
            Revocation::Deleted | Revocation::SignedOut { .. } => Failure::TokenRefused,
        };
        let session = match reason {
            Revocation::SignedOut { session } => session,
            Revocation::Suspended | Revocation::Deleted => None,
        };
        let mut conns = self.connections_of(user);
        if let Some(session) = &session {
            conns.retain(|conn| self.auth.identity.session_of(*conn) == Some(session));
        }
        self.auth.identity.revoke_user(user, session.as_deref(), failure, now.instant);
        self.auth.tickets.revoke(user, session, now.unix_s);
        for conn in conns {
            let fault = failure.client_error(FailureContext::Token);
            self.output.send_error(conn, &ReplyTo::default(), &fault);
            self.close_revoked(conn);
        }
    }

    /// Applies the answer that a credential is a ticket, unless a later event has revoked it.
    pub(super) fn accept_ticket(
        &mut self,
        proof: ProofIx,
        ticket: &Ticket,
    ) -> Result<Proven, Failure> {
        let Ticket { user, issued_s, expires_s, session, threads, blocked } = ticket;
        if self.auth.tickets.is_revoked(*user, *issued_s, session.as_deref()) {
            return Err(Failure::TokenRefused);
        }
        self.auth.identity.set_session(proof, session.as_deref());
        self.auth.tickets.store(*user, *issued_s, threads);
        let mut blocked = blocked.to_vec();
        blocked.sort_unstable();
        blocked.dedup();
        self.auth.blocks.set_from_ticket(*user, blocked.into());
        Ok(Proven { user: *user, expires_s: Some(*expires_s) })
    }
}

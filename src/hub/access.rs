//! Thread access: who may read, write and call in a thread, by the site's list of participants.
//!
//! Whether lists are enforced at all is decided here ([`Hub::enforces_membership`]).

use std::time::Duration;

use super::Hub;
use super::auth::held_frames::HeldText;
use super::interface::{ConnId, Failure, FailureContext, Now};
use super::membership::{Access, Held};
use super::messages::delivery::RequestTime;
use crate::config::Trust;
use crate::protocol::server::{LeftReason, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id, IdKey, SITE_ID_MAX};

impl Hub {
    /// Whether threads are open to participants only. In open trust every user may enter every
    /// thread.
    pub(super) fn enforces_membership(&self) -> bool {
        self.settings.trust == Trust::Verified
    }

    /// Whether the user of a connection takes part in a thread, now and for `ahead` from now. If
    /// that is not known, the frame is held until the site has answered, and the result is false.
    ///
    /// # Errors
    ///
    /// The user does not take part, or the site does not answer.
    pub(super) fn check_access(
        &mut self,
        conn: ConnId,
        thread: &Id,
        text: &str,
        ahead: Duration,
        now: Now,
    ) -> Result<bool, ClientError> {
        if !self.enforces_membership() {
            return Ok(true);
        }
        let not_participant = || Failure::NotParticipant.client_error(FailureContext::Thread);
        let number = thread.site_number().ok_or_else(|| {
            let got = thread.why_no_site_number();
            let text = format!(
                "There is no such thread: threadId must be a whole number from 1 to \
                 {SITE_ID_MAX}, not {got}."
            );
            ClientError::new(ErrorCode::NotParticipant, text)
        })?;
        let user = self.presence.number_of(conn).ok_or_else(not_participant)?;
        let access = self.membership.access(number, user, now.instant, ahead);
        if self.resolved.is_none() {
            self.stats.list_hits.record(access != Access::Unknown);
        }
        match access {
            Access::Member => Ok(true),
            Access::StaleMember => {
                self.query_participants(number, conn, user, now);
                Ok(true)
            }
            Access::NonMember => Err(not_participant()),
            // The site has signed that the user takes part.
            Access::Unknown | Access::Failed(_)
                if self.auth.tickets.lists(user, number, now.unix_s) =>
            {
                Ok(true)
            }
            Access::Failed(failure) => Err(failure.client_error(FailureContext::Thread)),
            // The site was just asked, and its answer does not hold long enough.
            Access::Unknown if self.resolved == Some((number, user)) => {
                let failure = Failure::SiteUnavailable { retry_after_s: None };
                Err(failure.client_error(FailureContext::Thread))
            }
            Access::Unknown => {
                self.hold_for_participants(number, conn, user, text, now)?;
                Ok(false)
            }
        }
    }

    /// Holds a frame until the site has listed a thread's participants, which it is asked for with
    /// this user's credential.
    pub(super) fn hold_for_participants(
        &mut self,
        thread: u64,
        conn: ConnId,
        user: u64,
        text: &str,
        now: Now,
    ) -> Result<(), ClientError> {
        let limits = &self.settings.held_frames;
        if !self.auth.reserve_for_thread(conn, user, text.len(), limits) {
            return Err(Failure::Overloaded.client_error(FailureContext::Thread));
        }
        self.membership.hold(thread, Held::Frame { conn, user, text: HeldText::new(text) });
        self.query_participants(thread, conn, user, now);
        Ok(())
    }

    /// Whether a connection may leave a thread now. A subscriber may leave at once, unless frames
    /// of its own are held for this thread; then the leave is held behind them.
    pub(super) fn check_leave(
        &mut self,
        conn: ConnId,
        thread: &Id,
        text: &str,
        now: Now,
    ) -> Result<bool, ClientError> {
        let number = thread.site_number();
        let waits = number.is_some_and(|number| self.membership.has_held_frame(number, conn));
        if self.threads.is_subscribed(conn, &thread.key) && !waits {
            return Ok(true);
        }
        match (waits, number, self.presence.number_of(conn)) {
            (true, Some(number), Some(user)) => {
                self.hold_for_participants(number, conn, user, text, now)?;
                Ok(false)
            }
            _ => self.check_access(conn, thread, text, Duration::ZERO, now),
        }
    }

    /// Whether both parties of a call take part in its thread, as [`Hub::check_access`] does for
    /// one.
    ///
    /// # Errors
    ///
    /// One of them does not, or the call has no thread, or the site does not answer.
    pub(super) fn check_call_access(
        &mut self,
        conn: ConnId,
        thread: Option<&Id>,
        other: &Id,
        text: &str,
        now: Now,
    ) -> Result<bool, ClientError> {
        if !self.enforces_membership() {
            return Ok(true);
        }
        let missing = || ClientError::new(ErrorCode::MissingField, "threadId is missing.");
        let thread = thread.ok_or_else(missing)?;
        if !self.check_access(conn, thread, text, Duration::ZERO, now)? {
            return Ok(false);
        }
        let not_participant = || {
            let text = "The other party of this call is not in this thread.";
            ClientError::new(ErrorCode::NotParticipant, text)
        };
        let other = other.site_number().ok_or_else(not_participant)?;
        // `check_access` has verified that both exist, but not that there is a list: a ticket may
        // have admitted the user.
        let number = thread.site_number().ok_or_else(not_participant)?;
        let user = self.presence.number_of(conn).ok_or_else(not_participant)?;
        let is_unlisted = self.membership.is_unlisted(number);
        if self.membership.is_member(number, other)
            || (is_unlisted && self.auth.tickets.lists(other, number, now.unix_s))
        {
            return Ok(true);
        }
        if let Some(failure) =
            self.membership.failure(number, user, now.instant).filter(|_| is_unlisted)
        {
            return Err(failure.client_error(FailureContext::Thread));
        }
        if self.resolved != Some((number, user))
            && (is_unlisted || self.membership.can_have_joined(number, other, now.instant))
        {
            self.hold_for_participants(number, conn, user, text, now)?;
            Ok(false)
        } else {
            Err(not_participant())
        }
    }

    /// Whether both parties of a call were on the thread's last list, which has expired. Their call
    /// frames do not wait for the new list: a held answer could arrive after the ring timeout. The
    /// new list removes a party that is no longer on it.
    pub(super) fn check_stale_access(
        &mut self,
        conn: ConnId,
        thread: &Id,
        other: &Id,
        now: Now,
    ) -> bool {
        let (number, user) = (thread.site_number(), self.presence.number_of(conn));
        let (Some(number), Some(user), Some(with)) = (number, user, other.site_number()) else {
            return false;
        };
        let access = self.membership.access(number, user, now.instant, Duration::ZERO);
        let waits = matches!(access, Access::Unknown | Access::Failed(_));
        if !waits || !self.membership.has_recent_members(number, [user, with], now.instant) {
            return false;
        }
        if access == Access::Unknown {
            self.query_participants(number, conn, user, now);
        }
        true
    }

    /// Queues the query for a thread's participants, with the credential of this connection.
    pub(super) fn query_participants(&mut self, thread: u64, conn: ConnId, user: u64, now: Now) {
        let Some(credential) = self.auth.identity.proven_credential(conn) else {
            debug_assert!(false, "a user has a credential");
            return;
        };
        if self.membership.request_list(thread, user, credential) {
            self.auth.queries.push_participants(thread, user);
            self.send_site_queries(now);
        }
    }

    /// Whether a message in this thread can be delivered by the list that is known.
    pub(super) fn has_current_participants(&self, thread: u64, now: Now) -> bool {
        !self.enforces_membership() || self.membership.is_current(thread, now.instant)
    }

    /// Whether the last list has the user of a connection.
    pub(super) fn is_known_participant(&self, conn: ConnId, thread: &Id) -> bool {
        let ids = self.presence.number_of(conn).zip(thread.site_number());
        !self.enforces_membership()
            || ids.is_some_and(|(user, thread)| self.membership.is_member(thread, user))
    }

    /// The users that are called in a group call of a thread: its participants, or in open trust
    /// its subscribers.
    pub(super) fn thread_users(&self, thread: &Id) -> Vec<Id> {
        if !self.enforces_membership() {
            let subscribers = self.threads.subscribers(&thread.key).iter();
            let users = self.presence.users_among(subscribers.map(|subscriber| subscriber.conn));
            return users.into_iter().cloned().collect();
        }
        let number = thread.site_number().into_iter();
        let participants = number.flat_map(|number| self.membership.participants(number));
        participants.map(|user| Id::number(*user)).collect()
    }

    // ---- calls that ring already

    /// Lets a device that has just connected ring for the calls of its user. Where the thread's
    /// list has expired, the site is asked first, and [`Hub::ring_devices_of`] continues.
    pub(super) fn ring_device(&mut self, conn: ConnId, user: &Id, now: Now) {
        for (ix, thread) in self.calls.ringing_for(&user.key) {
            if !self.enforces_membership() {
                self.calls.ring_device(ix, &user.key, conn);
                continue;
            }
            let thread = thread.as_ref().and_then(Id::site_number);
            let Some((thread, number)) = thread.zip(user.site_number()) else { continue };
            match self.membership.access(thread, number, now.instant, Duration::ZERO) {
                Access::Member | Access::StaleMember => {
                    self.calls.ring_device(ix, &user.key, conn);
                }
                Access::Unknown => self.query_participants(thread, conn, number, now),
                Access::NonMember | Access::Failed(_) => {}
            }
        }
    }

    /// Lets the devices ring that connected while the list of this thread was expired.
    pub(super) fn ring_devices_of(&mut self, thread: u64, now: Now) {
        for (_, user) in self.calls.parties_in_thread(&IdKey::Number(thread)) {
            for conn in self.presence.conns_of(&user.key).to_vec() {
                self.ring_device(conn, &user, now);
            }
        }
        self.send_call_notifications();
    }

    // ---- changes of a list

    /// Takes over the participants that a post's answer lists; false if lists are not enforced.
    pub(super) fn learn_participants(
        &mut self,
        thread: u64,
        users: Box<[u64]>,
        asked_at: RequestTime,
        now: Now,
    ) -> bool {
        let enforced = self.enforces_membership();
        if enforced {
            self.membership.set_list(thread, users, asked_at);
            self.remove_nonmembers(thread, now);
        }
        enforced
    }

    /// Takes over the participants that an event about a message lists; false if lists are not
    /// enforced.
    pub(super) fn learn_from_event(
        &mut self,
        thread: u64,
        users: Box<[u64]>,
        at: RequestTime,
        now: Now,
    ) -> bool {
        let enforced = self.enforces_membership();
        if enforced {
            self.membership.set_event_list(thread, users, at);
            self.remove_nonmembers(thread, now);
        }
        enforced
    }

    /// Removes one user from a thread and its calls.
    pub(super) fn remove_user(&mut self, thread: u64, user: u64, now: Now) {
        let key = IdKey::Number(user);
        let conns = self.presence.conns_of(&key).to_vec();
        self.remove_connections(thread, &conns);
        let mut removed = self.calls.parties_in_thread(&IdKey::Number(thread));
        removed.retain(|(_, party)| party.key == key);
        self.remove_from_calls(removed, now);
    }

    /// Removes the connections and call parties that are not on the list of a thread.
    pub(super) fn remove_nonmembers(&mut self, thread: u64, now: Now) {
        if !self.membership.has_list(thread) {
            return;
        }
        let takes_part = |conn| {
            let user = self.presence.number_of(conn);
            user.is_some_and(|user| self.membership.is_member(thread, user))
        };
        let subscribers = self.threads.subscribers(&IdKey::Number(thread)).iter();
        let gone: Vec<ConnId> = subscribers
            .map(|subscriber| subscriber.conn)
            .filter(|conn| !takes_part(*conn))
            .collect();
        self.remove_connections(thread, &gone);
        let mut gone = self.calls.parties_in_thread(&IdKey::Number(thread));
        let lists =
            |user: &Id| user.site_number().is_some_and(|n| self.membership.is_member(thread, n));
        gone.retain(|(_, user)| !lists(user));
        self.remove_from_calls(gone, now);
    }

    fn remove_connections(&mut self, thread: u64, conns: &[ConnId]) {
        self.unsubscribe(thread, conns, LeftReason::NotParticipant);
    }

    /// Ends subscriptions of a thread for a reason that the clients did not ask for.
    pub(super) fn unsubscribe(&mut self, thread: u64, conns: &[ConnId], reason: LeftReason) {
        let id = Id::number(thread);
        let mut typists = Vec::new();
        for conn in conns {
            typists.extend(self.threads.stop_typing_here(*conn, &id.key));
            if self.threads.leave(*conn, &id.key) {
                let reason = Some(reason);
                self.output.reply(
                    *conn,
                    &ServerFrame::ThreadLeft { thread_id: &id, reason, client_id: None },
                );
            }
        }
        // After all have left, so that none of them is told of the others.
        for typist in typists {
            self.announce_typing_stop_to_subscribers(&typist);
        }
    }
}

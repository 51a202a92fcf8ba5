//! Who may do what in a thread, in verified trust: what the hub decides by the site's lists.

use std::time::Duration;

use super::Hub;
use super::delivery::RequestTime;
use super::held_frames::HeldText;
use super::interface::{Ask, ConnId, Effect, Failure, FailureContext, Now};
use super::membership::{Access, Held};
use super::site_queries::SiteQuery;
use crate::config::Trust;
use crate::protocol::server::{LeftReason, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id, IdKey};

impl Hub {
    /// Whether the user of a connection takes part in a thread, now and for `ahead` from now. If
    /// that is not known, the frame waits for the site's word, and the answer is false.
    ///
    /// # Errors
    ///
    /// They do not, or the site does not say.
    pub(super) fn check_access(
        &mut self,
        conn: ConnId,
        thread: &Id,
        text: &str,
        ahead: Duration,
        now: Now,
    ) -> Result<bool, ClientError> {
        if self.settings.trust == Trust::Open {
            return Ok(true);
        }
        let not_participant = || Failure::NotParticipant.client_error(FailureContext::Thread);
        let number = thread.site_number().ok_or_else(not_participant)?;
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
            Access::Failed(failure) => Err(failure.client_error(FailureContext::Thread)),
            // What has just been said is too old for this, or does not hold long enough.
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

    /// Lets a frame wait for the site's word on a thread, which this user's credential asks for.
    pub(super) fn hold_for_participants(
        &mut self,
        thread: u64,
        conn: ConnId,
        user: u64,
        text: &str,
        now: Now,
    ) -> Result<(), ClientError> {
        if !self.held_frames.add(conn, Some(user), text.len(), &self.settings.held_frames) {
            return Err(Failure::Overloaded.client_error(FailureContext::Thread));
        }
        self.membership.hold(thread, Held::Frame { conn, user, text: HeldText::new(text) });
        self.query_participants(thread, conn, user, now);
        Ok(())
    }

    /// The same for who wants to leave: who hears it may go at once, but not before what they said
    /// earlier.
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

    /// Whether both parties of a call take part in its thread, as far as [`Hub::check_access`].
    ///
    /// # Errors
    ///
    /// They do not, or the call has no thread, or the site does not say.
    pub(super) fn check_call_access(
        &mut self,
        conn: ConnId,
        thread: Option<&Id>,
        other: &Id,
        text: &str,
        now: Now,
    ) -> Result<bool, ClientError> {
        if self.settings.trust == Trust::Open {
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
        // There is a number and a user, or they would not have been admitted.
        let number = thread.site_number().ok_or_else(not_participant)?;
        let user = self.presence.number_of(conn).ok_or_else(not_participant)?;
        if self.membership.is_member(number, other) {
            Ok(true)
        } else if self.resolved != Some((number, user))
            && self.membership.can_have_joined(number, other, now.instant)
        {
            self.hold_for_participants(number, conn, user, text, now)?;
            Ok(false)
        } else {
            Err(not_participant())
        }
    }

    /// Whether these two, who are in a call of this thread, were on its last list. What they say
    /// there does not wait for a new one: an answer that does may come when it rings no more. Whom
    /// the new list has no more, it takes out of the call.
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

    /// Puts the question who takes part in a thread in line, in the name of this connection's user.
    fn query_participants(&mut self, thread: u64, conn: ConnId, user: u64, now: Now) {
        let Some(credential) = self.authentication.proven_credential(conn) else {
            debug_assert!(false, "a user has a credential");
            return;
        };
        if self.membership.request_list(thread, user, credential) {
            self.site_queries.push_participants(thread, user);
            self.send_site_queries(now);
        }
    }

    /// What the site said of a thread's participants.
    pub(super) fn handle_participants(
        &mut self,
        thread: u64,
        result: Result<Box<[u64]>, Failure>,
        now: Now,
    ) {
        let failure = result.as_ref().err().copied();
        let answered = self.membership.record_answer(thread, result, now.instant);
        let Some((user, credential)) = answered else {
            return;
        };
        match failure {
            None => self.remove_nonmembers(thread, now),
            Some(Failure::NotParticipant) => {
                let conns = self.presence.conns_of(&IdKey::Number(user)).to_vec();
                self.remove_connections(thread, &conns);
                let mut gone = self.calls.parties_in_thread(&IdKey::Number(thread));
                gone.retain(|(_, party)| party.key == IdKey::Number(user));
                self.remove_from_calls(gone, now);
            }
            Some(failure) if failure.is_credential_rejection() => {
                // Their outcome comes before the end of their connection.
                for stored in self.membership.release_own_messages(thread) {
                    self.deliver_to_author(&stored.0, &stored.1);
                }
                self.revoke(&credential, failure, now);
            }
            Some(_) => {}
        }
        self.release_held(thread, Some(user), now);
    }

    /// Takes everyone out of a thread who is not on its list.
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
        let id = Id::number(thread);
        let mut typists = Vec::new();
        for conn in conns {
            typists.extend(self.threads.stop_typing_here(*conn, &id.key));
            if self.threads.leave(*conn, &id.key) {
                let reason = Some(LeftReason::NotParticipant);
                self.reply(
                    *conn,
                    &ServerFrame::ThreadLeft { thread_id: &id, reason, client_id: None },
                );
            }
        }
        // Only then, so that nobody who is out hears of the others.
        for typist in typists {
            self.announce_typing_stop_to_subscribers(&typist);
        }
    }

    /// Goes on with what waited for the site's word on a thread, in order. All that `asker`, whose
    /// question was answered, has said is decided now; others may have to ask themselves.
    pub(super) fn release_held(&mut self, thread: u64, asker: Option<u64>, now: Now) {
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
                    self.held_frames.remove(conn, Some(user), text.bytes());
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

    /// Puts as many questions about people and threads to the site as it may be asked at once.
    pub(super) fn send_site_queries(&mut self, now: Now) {
        while let Some(query) = self.site_queries.next(self.settings.site_queries) {
            let request = self.request_ids.allocate();
            let ask = match query {
                SiteQuery::Proof(proof) => self.authentication.begin_query(proof).map(Ask::Prove),
                SiteQuery::Participants(thread) => {
                    let asked_at = RequestTime { at: now.instant, request_id: request };
                    let credential = self.membership.begin_query(thread, asked_at);
                    credential.map(|credential| Ask::Participants { thread, credential })
                }
            };
            if let Some(ask) = ask {
                self.site_queries.mark_in_flight(request, query);
                self.effects.push_back(Effect::Ask { request, ask: Box::new(ask) });
            }
        }
    }
}

//! Who may do what in a thread, in verified trust: what the hub decides by the site's lists.

use std::time::Duration;

use super::Hub;
use super::checks::Check;
use super::delivery::Asked;
use super::interface::{About, Ask, ConnId, Effect, Failure, Now};
use super::membership::{Held, Word};
use super::waiting::HeldText;
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
    pub(super) fn admits(
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
        let stranger = || Failure::NotParticipant.client_error(About::Thread);
        let number = thread.site_number().ok_or_else(stranger)?;
        let user = self.presence.number_of(conn).ok_or_else(stranger)?;
        let word = self.membership.word(number, user, now.instant, ahead);
        if self.decided.is_none() {
            self.stats.lists.record(word != Word::Ask);
        }
        match word {
            Word::Member => Ok(true),
            Word::MemberForNow => {
                self.look_up(number, conn, user, now);
                Ok(true)
            }
            Word::Stranger => Err(stranger()),
            Word::Failed(failure) => Err(failure.client_error(About::Thread)),
            // What has just been said is too old for this, or does not hold long enough.
            Word::Ask if self.decided == Some((number, user)) => {
                let failure = Failure::SiteUnavailable { retry_after_s: None };
                Err(failure.client_error(About::Thread))
            }
            Word::Ask => {
                self.hold_for_list(number, conn, user, text, now)?;
                Ok(false)
            }
        }
    }

    /// Lets a frame wait for the site's word on a thread, which this user's credential asks for.
    pub(super) fn hold_for_list(
        &mut self,
        thread: u64,
        conn: ConnId,
        user: u64,
        text: &str,
        now: Now,
    ) -> Result<(), ClientError> {
        if !self.waiting.add(conn, Some(user), text.len(), &self.settings.waiting) {
            return Err(Failure::Overloaded.client_error(About::Thread));
        }
        self.membership.hold(thread, Held::Frame { conn, user, text: HeldText::new(text) });
        self.look_up(thread, conn, user, now);
        Ok(())
    }

    /// The same for who wants to leave: who hears it may go at once, but not before what they said
    /// earlier.
    pub(super) fn lets_go(
        &mut self,
        conn: ConnId,
        thread: &Id,
        text: &str,
        now: Now,
    ) -> Result<bool, ClientError> {
        let number = thread.site_number();
        let waits = number.is_some_and(|number| self.membership.holds_frame_of(number, conn));
        if self.threads.hears(conn, &thread.key) && !waits {
            return Ok(true);
        }
        match (waits, number, self.presence.number_of(conn)) {
            (true, Some(number), Some(user)) => {
                self.hold_for_list(number, conn, user, text, now)?;
                Ok(false)
            }
            _ => self.admits(conn, thread, text, Duration::ZERO, now),
        }
    }

    /// Whether both parties of a call take part in its thread, as far as [`Hub::admits`].
    ///
    /// # Errors
    ///
    /// They do not, or the call has no thread, or the site does not say.
    pub(super) fn admits_call(
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
        if !self.admits(conn, thread, text, Duration::ZERO, now)? {
            return Ok(false);
        }
        let stranger = || {
            let text = "The other party of this call is not in this thread.";
            ClientError::new(ErrorCode::NotParticipant, text)
        };
        let other = other.site_number().ok_or_else(stranger)?;
        // There is a number and a user, or they would not have been admitted.
        let number = thread.site_number().ok_or_else(stranger)?;
        let user = self.presence.number_of(conn).ok_or_else(stranger)?;
        if self.membership.lists(number, other) {
            Ok(true)
        } else if self.decided != Some((number, user))
            && self.membership.may_have_come(number, other, now.instant)
        {
            self.hold_for_list(number, conn, user, text, now)?;
            Ok(false)
        } else {
            Err(stranger())
        }
    }

    /// Whether these two, who are in a call of this thread, were on its last list. What they say
    /// there does not wait for a new one: an answer that does may come when it rings no more. Whom
    /// the new list has no more, it takes out of the call.
    pub(super) fn goes_by_last_list(
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
        let word = self.membership.word(number, user, now.instant, Duration::ZERO);
        let waits = matches!(word, Word::Ask | Word::Failed(_));
        if !waits || !self.membership.has_listed(number, [user, with], now.instant) {
            return false;
        }
        if word == Word::Ask {
            self.look_up(number, conn, user, now);
        }
        true
    }

    /// Puts the question who takes part in a thread in line, in the name of this connection's user.
    fn look_up(&mut self, thread: u64, conn: ConnId, user: u64, now: Now) {
        let Some(credential) = self.identity.proof_of(conn) else {
            debug_assert!(false, "a user has a credential");
            return;
        };
        if self.membership.want(thread, user, credential) {
            self.checks.push_list(thread, user);
            self.ask_checks(now);
        }
    }

    /// What the site said of a thread's participants.
    pub(super) fn listed(&mut self, thread: u64, result: Result<Box<[u64]>, Failure>, now: Now) {
        let failure = result.as_ref().err().copied();
        let answered = self.membership.answered(thread, result, now.instant);
        let Some((user, credential)) = answered else {
            return;
        };
        match failure {
            None => self.turn_out(thread, now),
            Some(Failure::NotParticipant) => {
                let conns = self.presence.conns_of(&IdKey::Number(user)).to_vec();
                self.turn_out_these(thread, &conns);
                let mut gone = self.calls.parties_in_thread(&IdKey::Number(thread));
                gone.retain(|(_, party)| party.key == IdKey::Number(user));
                self.remove_from_calls(gone, now);
            }
            Some(failure) if failure.condemns() => {
                // Their outcome comes before the end of their connection.
                for stored in self.membership.release_own(thread) {
                    self.show_to_author(&stored.0, &stored.1);
                }
                self.condemn(&credential, failure, now);
            }
            Some(_) => {}
        }
        self.release(thread, Some(user), now);
    }

    /// Takes everyone out of a thread who is not on its list.
    pub(super) fn turn_out(&mut self, thread: u64, now: Now) {
        if !self.membership.has_list(thread) {
            return;
        }
        let takes_part = |conn| {
            let user = self.presence.number_of(conn);
            user.is_some_and(|user| self.membership.lists(thread, user))
        };
        let hearers = self.threads.hearers(&IdKey::Number(thread)).iter();
        let gone: Vec<ConnId> =
            hearers.map(|hearer| hearer.conn).filter(|conn| !takes_part(*conn)).collect();
        self.turn_out_these(thread, &gone);
        let mut gone = self.calls.parties_in_thread(&IdKey::Number(thread));
        let lists =
            |user: &Id| user.site_number().is_some_and(|n| self.membership.lists(thread, n));
        gone.retain(|(_, user)| !lists(user));
        self.remove_from_calls(gone, now);
    }

    fn turn_out_these(&mut self, thread: u64, conns: &[ConnId]) {
        let id = Id::number(thread);
        let mut typists = Vec::new();
        for conn in conns {
            typists.extend(self.threads.typing_stops_here(*conn, &id.key));
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
            self.typing_over_for_hearers(&typist);
        }
    }

    /// Goes on with what waited for the site's word on a thread, in order. All that `asker`, whose
    /// question was answered, has said is decided now; others may have to ask themselves.
    pub(super) fn release(&mut self, thread: u64, asker: Option<u64>, now: Now) {
        for held in self.membership.release(thread) {
            match held {
                Held::Frame { conn, user, text } => {
                    let word = self.membership.word(thread, user, now.instant, Duration::ZERO);
                    let same = self.presence.number_of(conn) == Some(user);
                    if same && asker != Some(user) && word == Word::Ask {
                        self.membership.hold(thread, Held::Frame { conn, user, text });
                        self.look_up(thread, conn, user, now);
                        continue;
                    }
                    self.waiting.take(conn, Some(user), text.bytes());
                    self.decided = asker.map(|asker| (thread, asker));
                    self.frame(conn, text.as_str(), false, now);
                    self.decided = None;
                }
                Held::Message { stored, asked } => {
                    let (job, stored) = *stored;
                    self.show_or_hold(job, stored, asked, now);
                }
            }
        }
    }

    /// Puts as many questions about people and threads to the site as it may be asked at once.
    pub(super) fn ask_checks(&mut self, now: Now) {
        while let Some(check) = self.checks.next(self.settings.checks) {
            let request = self.requests.name();
            let ask = match check {
                Check::Proof(proof) => self.identity.to_ask(proof).map(Ask::Prove),
                Check::List(thread) => {
                    let asked = Asked { at: now.instant, after: request };
                    let credential = self.membership.ask(thread, asked);
                    credential.map(|credential| Ask::List { thread, credential })
                }
            };
            if let Some(ask) = ask {
                self.checks.asked(request, check);
                self.effects.push_back(Effect::Ask { request, ask: Box::new(ask) });
            }
        }
    }
}

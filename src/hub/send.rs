//! What becomes of a message: from `send_message` to its one outcome.

use std::sync::Arc;

use super::Hub;
use super::authentication::AuthState;
use super::authentication::proofs::CredentialStatus;
use super::dedup::{DedupKey, DedupResult, Sender};
use super::delivery::{PendingMessage, RequestTime, server_stopping, waited_too_long};
use super::failure::{SiteState, not_in_thread, too_many_repeats};
use super::interface::{
    Answer, ConnId, Effect, Failure, FailureContext, LookupResult, Now, RequestId, Stored, Target,
};
use super::session::identity_mismatch;
use super::settled::SettledWhen;
use super::site_queries::SiteQuery;
use crate::config::Trust;
use crate::protocol::client::{ClientFrame, ReplyTo, SendMessage, parse};
use crate::protocol::credential::Credential;
use crate::protocol::{ClientError, ErrorCode, Id, IdKey, SITE_ID_MAX};

/// Seconds by which two clocks may differ that count the same time: less than what a look leaves in
/// doubt for a text that is the same.
const CLOCK_SKEW_MAX_S: u64 = 10;

impl Hub {
    pub(super) fn send_message(
        &mut self,
        conn: ConnId,
        message: SendMessage<'_>,
        reply: &ReplyTo,
        now: Now,
    ) -> Result<(), ClientError> {
        let target = match (&message.thread, &message.recipient) {
            (Some(thread), _) => Target::Thread(site_number(thread, "threadId")?),
            (None, Some(recipient)) => {
                Target::NewThread { recipient: site_number(recipient, "recipientId")? }
            }
            // The parser has refused a frame with neither.
            (None, None) => return Ok(()),
        };
        let key = match &reply.client_id {
            Some(client_id) => match self.check_repeat(conn, &client_id.key, now)? {
                Some(key) => Some(key),
                None => return Ok(()),
            },
            None => None,
        };
        let credential = match message.token.as_deref() {
            Some(text) => Some(Credential::parse(text)?),
            None if self.authentication.auth_state(conn) == AuthState::Expired => {
                return Err(Failure::TokenExpired.client_error(FailureContext::Message));
            }
            None => self.authentication.latest_credential(conn).cloned(),
        };
        let pending = PendingMessage {
            origin: conn,
            conn,
            reply: reply.clone(),
            recipient: message.recipient,
            claimed: self.presence.user_of(conn),
            target,
            text: Arc::from(message.text.as_ref()),
            credential,
            posted_at: RequestTime { at: now.instant, request_id: self.request_ids.last() },
            posted_unix_s: now.unix_s,
            dedup_key: key.clone(),
        };
        match self.delivery.accept(pending, &self.settings.deliveries, &mut self.request_ids) {
            Ok(Some((request, ask))) => self.effects.push_back(Effect::Ask { request, ask }),
            Ok(None) => {}
            Err(_) => return Err(Failure::Overloaded.client_error(FailureContext::Message)),
        }
        if let Some(key) = key {
            self.dedup.insert(key, now.instant);
        }
        Ok(())
    }

    /// The name of a message that is sent under this `clientId` for the first time. If it is a
    /// repeat, its outcome is the first one's, now or later, and there is no name.
    ///
    /// # Errors
    ///
    /// Too many repeats of it wait already.
    pub(super) fn check_repeat(
        &mut self,
        conn: ConnId,
        client_id: &IdKey,
        now: Now,
    ) -> Result<Option<DedupKey>, ClientError> {
        let key = |sender| DedupKey { sender, client_id: client_id.clone() };
        let by_connection = key(Sender::Connection(conn));
        let by_user = self.presence.user_of(conn).map(|user| key(Sender::User(user.key)));
        // What was sent before the connection had said who it is is its own all the same.
        for key_to_check in by_user.iter().chain([&by_connection]) {
            match self.dedup.find(key_to_check, conn, now.instant) {
                DedupResult::New => {}
                DedupResult::Outcome(frame) => {
                    self.effects.push_back(Effect::Send { to: conn, frame });
                    return Ok(None);
                }
                DedupResult::InFlight => return Ok(None),
                DedupResult::TooMany => return Err(too_many_repeats()),
            }
        }
        Ok(Some(by_user.unwrap_or(by_connection)))
    }

    /// Whether a message has to wait until it is known whose connection this is; if so, it does.
    ///
    /// Who is somebody sends with whatever token they like: the site decides by it. Of who is
    /// nobody the message's own token has to prove who they are, before it costs the site a post.
    ///
    /// # Errors
    ///
    /// Nothing can prove it.
    pub(super) fn hold_message_for_proof(
        &mut self,
        conn: ConnId,
        message: &SendMessage<'_>,
        text: &str,
        now: Now,
    ) -> Result<bool, ClientError> {
        let pending = self.authentication.pending(conn).is_some();
        // What has been said before it and still waits goes before it.
        if self.presence.is_identified(conn)
            && !(pending && self.authentication.has_held_frames(conn))
        {
            return Ok(false);
        }
        if pending {
            self.hold(conn, text, false)?;
            return Ok(true);
        }
        // What is offered is asked about; the message must find its place then.
        if !self.held_frames.has_room(conn, None, text.len(), &self.settings.held_frames) {
            return Err(Failure::Overloaded.client_error(FailureContext::Message));
        }
        let status = match message.token.as_deref() {
            Some(token) => {
                let credential = Credential::parse(token)?;
                self.authentication.authenticate_with_message(conn, credential, now)
            }
            None => match self.authentication.reauthenticate(conn, None, now) {
                Some(status) => status,
                None => return Err(Failure::TokenMissing.client_error(FailureContext::Message)),
            },
        };
        match status {
            CredentialStatus::Valid(proven) => {
                let claim = self.authentication.set_proven(conn, proven, now);
                if let Some(false_claim) = claim.as_ref().filter(|claim| !claim.is_of(proven)) {
                    self.send_error(conn, &false_claim.reply, &identity_mismatch());
                }
                let claim = claim.filter(|claim| claim.is_of(proven));
                self.identify_as_proven(conn, proven, claim, now);
                Ok(false)
            }
            CredentialStatus::Failed(failure) => {
                self.authentication.take_message_credential(conn, now);
                self.start_auth_timeout(conn, now);
                Err(failure.client_error(FailureContext::Message))
            }
            CredentialStatus::Ask(_) | CredentialStatus::Wait => {
                self.hold(conn, text, true)?;
                self.apply_credential_status(conn, status, now);
                Ok(true)
            }
        }
    }

    pub(super) fn handle_answer(&mut self, request: RequestId, answer: Answer, now: Now) {
        if self.settings.trust == Trust::Verified && answer.is_from_site() {
            self.membership.note_site_answer();
        }
        if let Some(check) = self.site_queries.finish(request) {
            match (check, answer) {
                (SiteQuery::Proof(proof), Answer::Proven(proven)) => {
                    self.handle_proof(proof, Ok(proven), now);
                }
                (SiteQuery::Proof(proof), Answer::Failed(failure)) => {
                    self.handle_proof(proof, Err(failure), now);
                }
                (SiteQuery::Participants(thread), Answer::Participants(users)) => {
                    self.handle_participants(thread, Ok(users), now);
                }
                (SiteQuery::Participants(thread), Answer::Failed(failure)) => {
                    self.handle_participants(thread, Err(failure), now);
                }
                (check, answer) => debug_assert!(false, "{answer:?} answers no {check:?}"),
            }
            return self.send_site_queries(now);
        }
        if let Some((post, site_state)) = self.reconciler.finish_lookup(request) {
            return self.handle_lookup(post, site_state, answer, now);
        }
        match answer {
            Answer::Stored(stored) => self.finish_post(request, Ok(stored), now),
            Answer::Failed(failure) => match failure.site_state() {
                Some(site_state) if self.can_look_up(request) => {
                    self.reconciler.begin(request, site_state, now.instant);
                }
                _ => self.fail_post(request, failure, now),
            },
            answer => {
                let is_unknown = self.delivery.get(request).is_none();
                debug_assert!(is_unknown, "{answer:?} answers no message");
            }
        }
    }

    // ---- messages whose fate is not known

    /// Whether there is such a message, and somebody's credential to look for it.
    fn can_look_up(&self, post: RequestId) -> bool {
        self.delivery.get(post).is_some_and(|pending| pending.credential.is_some())
    }

    /// Asks the site for the thread of a message whose fate is not known, if that is due for one.
    pub(super) fn run_due_lookup(&mut self, now: Now) -> bool {
        if self.reconciler.next_deadline().is_none_or(|at| at > now.instant) {
            return false;
        }
        let request = self.request_ids.allocate();
        let post = self.reconciler.take_due(now.instant, request);
        if let Some(ask) =
            post.and_then(|post| self.delivery.get(post)).and_then(PendingMessage::lookup_request)
        {
            self.effects.push_back(Effect::Ask { request, ask });
        } else {
            debug_assert!(false, "what is looked up is on its way, and has a credential");
        }
        true
    }

    /// What the thread of a message whose fate is not known has shown.
    fn handle_lookup(&mut self, post: RequestId, site_state: SiteState, answer: Answer, now: Now) {
        if let Answer::Failed(failure) = &answer {
            if failure.is_credential_rejection() {
                // Nor would the next look be let in.
                return self.fail_refused_lookup(post, *failure, now);
            }
        }
        let verdict = match answer {
            Answer::LookupResult(result) => self.judge_lookup(post, result, now),
            Answer::Failed(_) => LookupVerdict::Failed,
            answer => {
                debug_assert!(false, "{answer:?} answers no look");
                LookupVerdict::Failed
            }
        };
        match (verdict, site_state) {
            (LookupVerdict::Stored(stored), _) => self.finish_post(post, Ok(*stored), now),
            (LookupVerdict::NotStored, SiteState::Finished) => {
                self.finish_post(post, Err(not_in_thread()), now)
            }
            (LookupVerdict::Unclear, SiteState::Finished) => {
                self.fail_post(post, Failure::Unusable, now)
            }
            (LookupVerdict::Failed | LookupVerdict::NotStored | LookupVerdict::Unclear, _) => {
                if !self.reconciler.schedule_next(post, now.instant) {
                    self.fail_post(post, Failure::Unknown, now);
                }
            }
        }
    }

    /// What a look says of a message, by what is known of others.
    fn judge_lookup(&self, post: RequestId, result: LookupResult, now: Now) -> LookupVerdict {
        let settled_when = |thread, sender: &Id, message| {
            self.settled.settled_when(thread, &sender.key, message, post)
        };
        let (settled_when, stored) = match result {
            // Whether it is too old to be the post's was told by a clock that a suspension stops.
            LookupResult::Absent if self.is_clock_consistent_since(post, now) => {
                return LookupVerdict::NotStored;
            }
            LookupResult::Absent => return LookupVerdict::Unclear,
            LookupResult::Mismatch { thread, sender, message } => {
                (settled_when(thread, &sender, message), None)
            }
            LookupResult::Match(stored) => {
                let Some(message) = &stored.message else { return LookupVerdict::Unclear };
                (settled_when(stored.thread, &stored.sender, message.id), Some(stored))
            }
        };
        match (settled_when, stored) {
            // The sender's newest is older than this one would be.
            (SettledWhen::BeforePost, _) => LookupVerdict::NotStored,
            (SettledWhen::Never, Some(stored)) => LookupVerdict::Stored(Box::new(stored)),
            (SettledWhen::Never | SettledWhen::AfterPost, _) => LookupVerdict::Unclear,
        }
    }

    /// Whether as much time has gone by since a message was posted by both our clocks.
    fn is_clock_consistent_since(&self, post: RequestId, now: Now) -> bool {
        self.delivery.get(post).is_some_and(|pending| {
            let monotonic = now.instant.saturating_duration_since(pending.posted_at.at).as_secs();
            let by_date = now.unix_s.saturating_sub(pending.posted_unix_s);
            monotonic.abs_diff(by_date) <= CLOCK_SKEW_MAX_S
        })
    }

    // ---- the end

    fn fail_post(&mut self, post: RequestId, failure: Failure, now: Now) {
        let credential = self.delivery.get(post).and_then(|pending| pending.credential.clone());
        self.finish_post(post, Err(failure.client_error(FailureContext::Message)), now);
        if let Some(credential) = credential.filter(|_| failure.is_credential_rejection()) {
            self.revoke(&credential, failure, now);
        }
    }

    fn fail_refused_lookup(&mut self, post: RequestId, failure: Failure, now: Now) {
        let credential = self.delivery.get(post).and_then(|pending| pending.credential.clone());
        self.fail_post(post, Failure::Unknown, now);
        if let Some(credential) = credential {
            self.revoke(&credential, failure, now);
        }
    }

    /// The fate of a message is decided, and the next in its lane goes out.
    fn finish_post(&mut self, post: RequestId, end: Result<Stored, ClientError>, now: Now) {
        self.reconciler.remove(post);
        // Given up when the server began to stop: its sender has heard so.
        let Some(pending) = self.delivery.finish(post) else {
            return;
        };
        let lane = pending.lane();
        match end {
            Ok(stored) => {
                if let Some(message) = &stored.message {
                    let (sender, last) = (&stored.sender.key, self.request_ids.last());
                    self.settled.note(stored.thread, sender, message.id, last);
                }
                let claimed = pending.claimed.or(Some(stored.sender.clone()));
                self.handle_stored(PendingMessage { claimed, ..pending }, stored, now);
            }
            Err(fault) => {
                self.send_failure(&pending, &fault);
                self.delivery.settle(&pending);
            }
        }
        if let Some((request, ask)) = self.delivery.next(lane, &mut self.request_ids, now) {
            self.effects.push_back(Effect::Ask { request, ask });
        }
    }

    /// Sends one away that has waited too long for its turn; false if there is none.
    pub(super) fn expire_waiting_message(&mut self, now: Now) -> bool {
        let Some((pending, waited)) = self.delivery.expire_waiting(now.instant) else {
            return false;
        };
        self.send_failure(&pending, &waited_too_long(waited));
        self.delivery.settle(&pending);
        true
    }

    /// Gives messages that wait for a proof their outcome, before the server stops.
    pub(super) fn reject_held_frames(&mut self) {
        let conns: Vec<ConnId> = self.open.iter().flatten().copied().collect();
        for conn in conns {
            while let Some(text) = self.authentication.take_held(conn) {
                self.held_frames.remove(conn, None, text.bytes());
                let (reply, frame) = parse(text.as_str());
                if let Ok(ClientFrame::SendMessage(_)) = frame {
                    self.send_error(conn, &reply, &server_stopping());
                }
            }
        }
    }
}

/// What a look says of a message.
enum LookupVerdict {
    /// It is stored.
    Stored(Box<Stored>),
    /// It is not stored now.
    NotStored,
    /// It may be.
    Unclear,
    /// The look has failed.
    Failed,
}

fn site_number(id: &Id, field: &'static str) -> Result<u64, ClientError> {
    id.site_number().ok_or_else(|| {
        let what = format!("{field} must be a whole number from 1 to {SITE_ID_MAX} to send to.");
        ClientError::new(ErrorCode::InvalidField, what)
    })
}

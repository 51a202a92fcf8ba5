//! Who a connection is, from its handshake to its end: what the hub decides by claims and proofs.

use std::time::Duration;

use super::Hub;
use super::authentication::proofs::{CredentialStatus, ProofIx};
use super::authentication::{AuthState, AuthTimeout, Claim, REFUSALS_MAX, UNANSWERED_MAX};
use super::capacity;
use super::held_frames::HeldText;
use super::interface::{ConnId, Effect, Failure, FailureContext, Now, Proven};
use crate::config::Trust;
use crate::protocol::client::{ClientFrame, ReplyTo};
use crate::protocol::credential::Credential;
use crate::protocol::server::{LeftReason, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id};

/// RFC 6455 7.4.1: a policy is violated.
const CLOSE_POLICY: u16 = 1008;
/// Try again later (IANA's registry of close codes).
const CLOSE_TRY_AGAIN: u16 = 1013;
/// Token refused or expired (`PROTOCOL.md` 3).
const CLOSE_TOKEN: u16 = 4401;

impl Hub {
    pub(super) fn handle_open(
        &mut self,
        conn: ConnId,
        credential: Option<Result<Credential, ClientError>>,
        now: Now,
    ) {
        capacity::ensure_slot(&mut self.open, conn.slot);
        let before = self.open[conn.slot as usize].replace(conn);
        debug_assert!(before.is_none(), "a slot is given on empty");
        self.presence.open(conn);
        self.threads.open(conn);
        self.authentication.open(conn);
        match (credential, self.settings.trust) {
            (Some(Ok(credential)), Trust::Open) => {
                self.authentication.store_credential(conn, credential, now.instant);
            }
            (Some(Ok(credential)), Trust::Verified) => {
                let status = self.authentication.authenticate(conn, credential, None, now);
                self.apply_credential_status(conn, status, now);
            }
            (Some(Err(fault)), _) => {
                self.send_error(conn, &ReplyTo::default(), &fault);
                self.start_auth_timeout(conn, now);
            }
            (None, _) => self.start_auth_timeout(conn, now),
        }
    }

    pub(super) fn handle_close(&mut self, conn: ConnId, now: Now) {
        debug_assert!(self.is_open(conn), "closed once, after opened");
        self.open[conn.slot as usize] = None;
        self.stop_typing_on(conn);
        self.threads.close(conn);
        for text in self.authentication.close(conn, now.instant) {
            self.held_frames.remove(conn, None, text.bytes());
        }
        let mut users = Vec::new();
        for (user, text) in self.membership.close(conn) {
            self.held_frames.remove(conn, Some(user), text.bytes());
            users.push(user);
        }
        users.dedup();
        for user in users {
            self.site_queries.retain_threads(user, |thread| self.membership.is_queued(thread));
        }
        for proof in self.authentication.take_cancelled() {
            self.site_queries.remove_proof(proof);
        }
        if let Some(user) = self.presence.user_of(conn) {
            self.undelivered.register_lost(
                conn,
                &user.key,
                self.has_pending_outcome(conn),
                now.instant,
            );
            self.calls.disconnect_device(conn, &user.key, &self.settings.calls, now.instant);
        }
        self.presence.disconnect(conn, now.instant, self.settings.presence_grace);
    }

    // ---- in open trust, and when it is proven

    pub(super) fn connect_user(
        &mut self,
        conn: ConnId,
        user: &Id,
        client_id: Option<&Id>,
        now: Now,
    ) {
        // Whoever it typed as is nobody on this connection any more.
        self.stop_typing_on(conn);
        let first = self.presence.connect_user(conn, user);
        if first {
            let frame = ServerFrame::UserConnected { user_id: user, client_id: None };
            let frame = self.encoder.encode(&frame);
            self.announce_presence(user, &frame, Some(conn), now);
        }
        self.reply(conn, &ServerFrame::UserConnected { user_id: user, client_id });
        for frame in self.undelivered.hand_over(conn, &user.key) {
            self.effects.push_back(Effect::Send { to: conn, frame });
        }
        self.calls.connect_device(conn, &user.key, now.instant);
        self.send_call_notifications();
    }

    /// Makes a connection this user's, or says to it that it is.
    fn identify_as(&mut self, conn: ConnId, user: &Id, client_id: Option<&Id>, now: Now) {
        match self.presence.user_of(conn) {
            Some(known) if known.key == user.key => {
                self.presence.set_quoted(conn, user.quoted);
                self.threads.clear_typing_frames(conn);
                self.reply(conn, &ServerFrame::UserConnected { user_id: user, client_id });
            }
            before => {
                if let Some(before) = before {
                    let with_messages = self.has_pending_outcome(conn);
                    self.undelivered.register_lost(conn, &before.key, with_messages, now.instant);
                    self.calls.disconnect_device(
                        conn,
                        &before.key,
                        &self.settings.calls,
                        now.instant,
                    );
                    if self.settings.trust == Trust::Verified {
                        self.leave_all_threads(conn);
                    }
                }
                // The grace is for a connection that was lost, not for a change of name.
                self.presence.disconnect(conn, now.instant, Duration::ZERO);
                self.connect_user(conn, user, client_id, now);
            }
        }
    }

    /// The threads of one user are no business of the next.
    fn leave_all_threads(&mut self, conn: ConnId) {
        self.stop_typing_on(conn);
        while let Some(key) = self.threads.leave_last(conn) {
            let id = Id { key, quoted: false };
            let reason = Some(LeftReason::UserChanged);
            self.reply(conn, &ServerFrame::ThreadLeft { thread_id: &id, reason, client_id: None });
        }
    }

    /// `user_connected`, with what proves it.
    ///
    /// # Errors
    ///
    /// The claim is not what is proven, or nothing proves it yet: then it waits.
    pub(super) fn user_connected(
        &mut self,
        conn: ConnId,
        user: Id,
        token: Option<&str>,
        reply: &ReplyTo,
        now: Now,
    ) -> Result<(), ClientError> {
        let credential = token.map(Credential::parse).transpose()?;
        if self.settings.trust == Trust::Open {
            if let Some(credential) = credential {
                self.authentication.store_credential(conn, credential, now.instant);
            }
            self.identify_as(conn, &user, reply.client_id.as_ref(), now);
            return Ok(());
        }
        let claim = Claim { user, reply: reply.clone() };
        if let Some(credential) = credential {
            let status = self.authentication.authenticate(conn, credential, Some(claim), now);
            self.apply_credential_status(conn, status, now);
            return Ok(());
        }
        match (self.authentication.auth_state(conn), self.presence.user_of(conn)) {
            (AuthState::Expired, _) => Err(token_expired()),
            (_, Some(known)) if known.key == claim.user.key => {
                self.identify_as(conn, &claim.user, reply.client_id.as_ref(), now);
                Ok(())
            }
            (_, Some(_)) => Err(identity_mismatch()),
            (_, None) => match self.authentication.reauthenticate(conn, Some(claim.clone()), now) {
                Some(status) => {
                    self.apply_credential_status(conn, status, now);
                    Ok(())
                }
                None => {
                    self.authentication.store_claim(conn, claim);
                    Err(token_required())
                }
            },
        }
    }

    // ---- proofs

    pub(super) fn start_auth_timeout(&mut self, conn: ConnId, now: Now) {
        if self.settings.trust == Trust::Verified && !self.presence.is_identified(conn) {
            self.authentication
                .start_auth_timeout(conn, now.instant + self.settings.anonymous_lasts);
        }
    }

    pub(super) fn apply_credential_status(
        &mut self,
        conn: ConnId,
        status: CredentialStatus,
        now: Now,
    ) {
        match status {
            CredentialStatus::Valid(proven) => self.accept_proof(conn, proven, now),
            CredentialStatus::Failed(failure) => self.reject_proof(conn, failure, now),
            CredentialStatus::Ask(proof) => {
                self.site_queries.push_proof(proof);
                self.send_site_queries(now);
            }
            CredentialStatus::Wait => {}
        }
    }

    fn accept_proof(&mut self, conn: ConnId, proven: Proven, now: Now) {
        let claimed = self.authentication.claim_of(conn);
        if claimed.is_some_and(|claim| !claim.is_of(proven)) {
            let claim = self.authentication.fall_back(conn, false, now);
            self.send_error(
                conn,
                &claim.map(|claim| claim.reply).unwrap_or_default(),
                &identity_mismatch(),
            );
            self.count_refusal(conn, now);
        } else {
            let claim = self.authentication.set_proven(conn, proven, now);
            self.identify_as_proven(conn, proven, claim, now);
        }
        self.resume_held_frames(conn, now);
    }

    pub(super) fn identify_as_proven(
        &mut self,
        conn: ConnId,
        proven: Proven,
        claim: Option<Claim>,
        now: Now,
    ) {
        match claim {
            Some(claim) => self.identify_as(conn, &claim.user, claim.reply.client_id.as_ref(), now),
            None => self.identify_as(conn, &Id::number(proven.user), None, now),
        }
    }

    fn reject_proof(&mut self, conn: ConnId, failure: Failure, now: Now) {
        let claim = self.authentication.fall_back(conn, !failure.is_credential_rejection(), now);
        let reply = claim.map(|claim| claim.reply).unwrap_or_default();
        self.send_error(conn, &reply, &failure.client_error(FailureContext::Token));
        self.count_failure(conn, failure, now);
        self.resume_held_frames(conn, now);
    }

    /// Counts a credential that has proven nothing. Of those that the site has not judged a few are
    /// bad luck, and many are a way to stay.
    fn count_failure(&mut self, conn: ConnId, failure: Failure, now: Now) {
        if failure.is_credential_rejection() {
            return self.count_refusal(conn, now);
        }
        let many = self.authentication.count_unanswered(conn) >= UNANSWERED_MAX;
        // Who is proven stays so while the site is down, however often they try.
        if many && self.authentication.auth_state(conn) != AuthState::Proven {
            self.close(conn, CLOSE_TRY_AGAIN, "the site does not answer");
        } else {
            self.start_auth_timeout(conn, now);
        }
    }

    /// Counts what a connection has tried; guessing ends soon.
    fn count_refusal(&mut self, conn: ConnId, now: Now) {
        if self.authentication.count_refusal(conn) >= REFUSALS_MAX {
            self.close(conn, CLOSE_TOKEN, "token refused");
        } else {
            self.start_auth_timeout(conn, now);
        }
    }

    /// Goes on with what a connection has said while it waited for its proof.
    fn resume_held_frames(&mut self, conn: ConnId, now: Now) {
        // One of these frames may be the next to introduce itself: a loop, and no recursion.
        if std::mem::replace(&mut self.resuming_held, true) {
            return;
        }
        while let Some(text) = self.authentication.next_held(conn) {
            self.held_frames.remove(conn, None, text.bytes());
            self.handle_frame(conn, text.as_str(), false, now);
        }
        self.resuming_held = false;
    }

    /// What the site said of a credential.
    pub(super) fn handle_proof(
        &mut self,
        proof: ProofIx,
        result: Result<Proven, Failure>,
        now: Now,
    ) {
        let waiting = self.authentication.record_answer(proof, result, now);
        if let Err(failure) = result {
            if failure.is_credential_rejection() {
                self.revoke_connections(
                    self.authentication.connections_proven_by(proof),
                    failure,
                    now,
                );
            }
        }
        for conn in waiting {
            match result {
                _ if self.status_requests.has(conn) => {
                    self.finish_status_request(conn, result, now)
                }
                // The message that brought it comes first among what waits, and says the rest.
                _ if self.authentication.take_message_credential(conn, now) => {
                    self.resume_held_frames(conn, now);
                    if let Err(failure) = result {
                        self.count_failure(conn, failure, now);
                    }
                }
                Ok(proven) => self.accept_proof(conn, proven, now),
                Err(failure) => self.reject_proof(conn, failure, now),
            }
        }
    }

    /// The site has said of a credential in use that it is no good any more.
    pub(super) fn revoke(&mut self, credential: &Credential, failure: Failure, now: Now) {
        let conns = self.authentication.revoke(credential, failure, now.instant);
        self.revoke_connections(conns, failure, now);
    }

    fn revoke_connections(&mut self, conns: Vec<ConnId>, failure: Failure, now: Now) {
        for conn in conns {
            if failure == Failure::TokenExpired {
                if self.authentication.expire(conn, now) {
                    self.send_error(conn, &ReplyTo::default(), &token_expired());
                }
            } else {
                let fault = failure.client_error(FailureContext::Token);
                self.send_error(conn, &ReplyTo::default(), &fault);
                self.close(conn, CLOSE_TOKEN, "token refused");
            }
        }
    }

    /// A message that the site has stored says whose its token is. A fresh one carries on where the
    /// connection's own has expired.
    pub(super) fn learn_from_post(
        &mut self,
        conn: ConnId,
        credential: &Credential,
        proven: Proven,
        now: Now,
    ) {
        self.authentication.record(credential, proven, now.instant);
        let renews = self.is_open(conn)
            && self.authentication.pending(conn).is_none()
            && self.authentication.auth_state(conn) == AuthState::Expired
            && self.presence.number_of(conn) == Some(proven.user);
        if renews {
            self.authentication.store_credential(conn, credential.clone(), now.instant);
            self.authentication.set_proven(conn, proven, now);
        }
    }

    // ---- what may be said

    /// Whether a frame has to wait until it is known whose connection this is; if so, it does.
    ///
    /// # Errors
    ///
    /// It is nobody's, and this is not for nobody.
    pub(super) fn hold_for_proof(
        &mut self,
        conn: ConnId,
        frame: &ClientFrame<'_>,
        text: &str,
        now: Now,
    ) -> Result<bool, ClientError> {
        let is_user_connected = match frame {
            // Nobody hears a pong but who asked.
            ClientFrame::Ping => return Ok(false),
            ClientFrame::SendMessage(message) => {
                return self.hold_message_for_proof(conn, message, text, now);
            }
            ClientFrame::UserConnected { .. } => true,
            _ => false,
        };
        let auth_state = self.authentication.auth_state(conn);
        if let Some(claim) = self.authentication.pending(conn) {
            let known = self.presence.user_of(conn).map(|known| known.key);
            let renews = auth_state == AuthState::Proven
                && claim.map(|claim| &claim.user.key) == known.as_ref();
            if is_user_connected || !renews {
                self.hold(conn, text, false)?;
                return Ok(true);
            }
        }
        match auth_state {
            _ if is_user_connected => Ok(false),
            AuthState::Proven => {
                self.renew_if_stale(conn, now);
                Ok(false)
            }
            AuthState::Expired => Err(token_expired()),
            AuthState::Anonymous if self.authentication.can_retry(conn, now) => {
                self.hold(conn, text, true)?;
                if let Some(status) = self.authentication.reauthenticate(conn, None, now) {
                    self.apply_credential_status(conn, status, now);
                }
                Ok(true)
            }
            AuthState::Anonymous => Err(match self.authentication.last_failure(conn) {
                Some(failure) => failure.client_error(FailureContext::Token),
                None => token_required(),
            }),
        }
    }

    /// Asks the site again about a proof that is old, and nobody waits for that.
    fn renew_if_stale(&mut self, conn: ConnId, now: Now) {
        if let Some(proof) = self.authentication.begin_renewal(conn, now) {
            self.site_queries.push_proof(proof);
            self.send_site_queries(now);
        }
    }

    pub(super) fn hold(
        &mut self,
        conn: ConnId,
        text: &str,
        first: bool,
    ) -> Result<(), ClientError> {
        if !self.held_frames.add(conn, None, text.len(), &self.settings.held_frames) {
            return Err(Failure::Overloaded.client_error(FailureContext::Token));
        }
        self.authentication.hold(conn, HeldText::new(text), first);
        Ok(())
    }

    /// A connection's time is up.
    pub(super) fn handle_auth_timeout(&mut self, conn: ConnId, due: AuthTimeout, now: Now) {
        match due {
            AuthTimeout::Anonymous { unanswered: true, .. } => {
                self.close(conn, CLOSE_TRY_AGAIN, "the site does not answer");
            }
            AuthTimeout::Anonymous { refused, .. } => {
                self.send_error(conn, &ReplyTo::default(), &token_required());
                let code = if refused { CLOSE_TOKEN } else { CLOSE_POLICY };
                self.close(conn, code, "nothing has proven who you are");
            }
            AuthTimeout::Recheck => self.renew_if_stale(conn, now),
            AuthTimeout::Expired => self.send_error(conn, &ReplyTo::default(), &token_expired()),
            AuthTimeout::NotRenewed => self.close(conn, CLOSE_TOKEN, "token expired"),
        }
    }

    fn close(&mut self, conn: ConnId, code: u16, reason: &'static str) {
        // What it has said, and waits, is not heard any more.
        self.authentication.mark_closing(conn);
        self.effects.push_back(Effect::Close { conn, code, reason });
    }
}

pub(super) fn identity_mismatch() -> ClientError {
    ClientError::new(
        ErrorCode::IdentityMismatch,
        "The token is another user's than this userId: send the userId that signed in.",
    )
}

fn token_required() -> ClientError {
    ClientError::new(
        ErrorCode::TokenRequired,
        "Nothing has proven who you are: send user_connected with your userId and your token.",
    )
}

fn token_expired() -> ClientError {
    ClientError::new(
        ErrorCode::TokenExpired,
        "Your token has expired: send user_connected with your userId and a fresh token.",
    )
}

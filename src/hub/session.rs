//! Sessions: who a connection is, from its handshake to its close, by claims and proofs.
//!
//! Whether a user must be proven is decided in [`super::auth`]; what a user may do in a thread is
//! decided in [`super::access`].

use std::time::Duration;

use super::Hub;
use super::auth::identity::{AuthState, AuthTimeout, Claim, REFUSALS_MAX, UNANSWERED_MAX};
use super::auth::proofs::{CredentialStatus, PROOF_TTL, Renewal};
use super::interface::{ConnId, Failure, FailureContext, Now, Proven};
use crate::protocol::call::CallKind;
use crate::protocol::client::{ClientFrame, ReplyTo, SendMessage};
use crate::protocol::credential::{Credential, Scheme};
use crate::protocol::server::{LeftReason, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id};

/// Policy violation (RFC 6455 section 7.4.1).
const CLOSE_POLICY: u16 = 1008;
/// Try again later (IANA's registry of close codes).
const CLOSE_TRY_AGAIN: u16 = 1013;
/// Token refused or expired (`PROTOCOL.md` 3).
const CLOSE_TOKEN: u16 = 4401;

/// How long the check of `Basic` in a handshake waits for a token in a frame.
const BASIC_DEFERRED: Duration = Duration::from_secs(1);

impl Hub {
    /// Opens a connection, with the credential of its handshake or what is wrong with that.
    pub(super) fn handle_open(
        &mut self,
        conn: ConnId,
        credential: Option<Result<Credential, ClientError>>,
        now: Now,
    ) {
        self.output.open(conn);
        self.presence.open(conn);
        self.threads.open(conn);
        self.auth.identity.open(conn);
        match credential {
            Some(Ok(credential))
                if self.requires_proof() && self.may_be_of_a_proxy(&credential) =>
            {
                let until = now.instant + BASIC_DEFERRED;
                self.auth.identity.defer_credential(conn, credential, until, now.instant);
            }
            Some(Ok(credential)) if self.requires_proof() => {
                let status = self.auth.identity.authenticate(conn, credential, None, now);
                self.apply_credential_status(conn, status, now);
            }
            Some(Ok(credential)) => {
                self.auth.identity.store_credential(conn, credential, now.instant);
            }
            Some(Err(fault)) => {
                self.output.send_error(conn, &ReplyTo::default(), &fault);
                self.start_auth_timeout(conn, now);
            }
            None => self.start_auth_timeout(conn, now),
        }
    }

    /// Whether a handshake's credential may be the password of a proxy, which browsers send along:
    /// `Basic`, and not known to be a member's.
    fn may_be_of_a_proxy(&self, credential: &Credential) -> bool {
        credential.scheme() == Scheme::Basic && !self.auth.identity.has_proof_of(credential)
    }

    /// Closes a connection whose credential the site no longer accepts.
    pub(super) fn close_revoked(&mut self, conn: ConnId) {
        self.close(conn, CLOSE_TOKEN, "token refused");
    }

    /// Closes a connection: ends its typing and subscriptions, and drops what it has waiting.
    pub(super) fn handle_close(&mut self, conn: ConnId, now: Now) {
        self.output.close(conn);
        self.stop_typing_on(conn);
        self.threads.close(conn);
        self.auth.close(conn, now);
        let mut users = Vec::new();
        for (user, text) in self.membership.close(conn) {
            self.auth.release_for_thread(conn, user, &text);
            users.push(user);
        }
        users.dedup();
        for user in users {
            self.auth.queries.retain_threads(user, |thread| self.membership.is_queued(thread));
        }
        if let Some(user) = self.presence.user_of(conn) {
            self.detach_user(conn, &user, now);
        }
        self.presence.disconnect(conn, now.instant, self.settings.presence_grace);
    }

    /// Keeps what a user has under way on a connection that is no longer theirs: open outcomes for
    /// the next connection, and the place in a call. Their inbox ends.
    fn detach_user(&mut self, conn: ConnId, user: &Id, now: Now) {
        if let Some(number) = user.site_number() {
            self.inboxes.leave(number, conn);
        }
        self.messages.register_lost(conn, &user.key, now);
        self.calls.disconnect_device(conn, &user.key, &self.settings.calls, now.instant);
    }

    // ---- identification

    /// Makes a connection a user's, announces the user if it is their first, and hands over what
    /// waits for them.
    fn connect_user(&mut self, conn: ConnId, user: &Id, client_id: Option<&Id>, now: Now) {
        // Typing under the connection's former user ends.
        self.stop_typing_on(conn);
        let is_first = self.presence.connect_user(conn, user);
        if is_first {
            self.announce_online(user, conn, now);
        }
        self.output.reply(conn, &ServerFrame::UserConnected { user_id: user, client_id });
        for frame in self.messages.hand_over(conn, &user.key) {
            self.output.send(conn, frame);
        }
        self.calls.connect_device(conn, &user.key, now.instant);
        self.ring_device(conn, user, now);
        self.send_call_notifications();
    }

    /// Identifies an anonymous connection as the sender of the message that it has stored. In
    /// verified trust its credential has identified it already.
    pub(super) fn identify_from_post(&mut self, conn: ConnId, sender: &Id, now: Now) {
        if !self.requires_proof() && !self.presence.is_identified(conn) {
            self.connect_user(conn, sender, None, now);
        }
    }

    /// The user of a connection.
    ///
    /// # Errors
    ///
    /// The connection is anonymous.
    pub(super) fn require_user(&self, conn: ConnId) -> Result<Id, ClientError> {
        self.presence.user_of(conn).ok_or_else(|| {
            ClientError::new(
                ErrorCode::NotIdentified,
                "The server does not know who you are: send user_connected with your userId first.",
            )
        })
    }

    /// Makes a connection this user's, or confirms that it is.
    fn identify_as(&mut self, conn: ConnId, user: &Id, client_id: Option<&Id>, now: Now) {
        match self.presence.user_of(conn) {
            Some(known) if known.key == user.key => {
                self.presence.set_quoted(conn, user.quoted);
                self.threads.clear_typing_frames(conn);
                self.output.reply(conn, &ServerFrame::UserConnected { user_id: user, client_id });
            }
            before => {
                if let Some(before) = before {
                    self.detach_user(conn, &before, now);
                    if self.requires_proof() {
                        self.leave_all_threads(conn);
                    }
                }
                // The grace time is for lost connections, not for a change of user.
                self.presence.disconnect(conn, now.instant, Duration::ZERO);
                self.connect_user(conn, user, client_id, now);
            }
        }
    }

    /// Ends all subscriptions of a connection whose user has changed.
    fn leave_all_threads(&mut self, conn: ConnId) {
        self.stop_typing_on(conn);
        while let Some(key) = self.threads.leave_last(conn) {
            let id = Id { key, quoted: false };
            let reason = Some(LeftReason::UserChanged);
            let frame = ServerFrame::ThreadLeft { thread_id: &id, reason, client_id: None };
            self.output.reply(conn, &frame);
        }
    }

    /// Handles `user_connected`, with the token that proves the claimed user.
    ///
    /// # Errors
    ///
    /// The credential proves another user, or no credential proves the claim; the claim is then
    /// kept for the next credential.
    pub(super) fn user_connected(
        &mut self,
        conn: ConnId,
        user: Id,
        token: Option<&str>,
        reply: &ReplyTo,
        now: Now,
    ) -> Result<(), ClientError> {
        let credential = token.map(Credential::parse).transpose()?;
        if !self.requires_proof() {
            if let Some(credential) = credential {
                self.auth.identity.store_credential(conn, credential, now.instant);
            }
            self.identify_as(conn, &user, reply.client_id.as_ref(), now);
            return Ok(());
        }
        let claim = Claim { user, reply: reply.clone() };
        if let Some(credential) = credential {
            let status = self.auth.identity.authenticate(conn, credential, Some(claim), now);
            self.apply_credential_status(conn, status, now);
            return Ok(());
        }
        match (self.auth.identity.auth_state(conn), self.presence.user_of(conn)) {
            (AuthState::Expired, _) => Err(token_expired()),
            (_, Some(known)) if known.key == claim.user.key => {
                self.identify_as(conn, &claim.user, reply.client_id.as_ref(), now);
                Ok(())
            }
            (_, Some(_)) => Err(identity_mismatch()),
            (_, None) => match self.auth.identity.reauthenticate(conn, Some(claim.clone()), now) {
                Some(status) => {
                    self.apply_credential_status(conn, status, now);
                    Ok(())
                }
                None => {
                    self.auth.identity.store_claim(conn, claim);
                    Err(token_required())
                }
            },
        }
    }

    // ---- proofs

    /// Starts the time in which an anonymous connection must prove its user.
    fn start_auth_timeout(&mut self, conn: ConnId, now: Now) {
        if self.requires_proof() && !self.presence.is_identified(conn) {
            let until = now.instant + self.settings.anonymous_lasts;
            self.auth.identity.start_auth_timeout(conn, until);
        }
    }

    /// Acts on what is known of a credential that a connection has presented.
    fn apply_credential_status(&mut self, conn: ConnId, status: CredentialStatus, now: Now) {
        match status {
            CredentialStatus::Valid(proven) => self.accept_proof(conn, proven, now),
            CredentialStatus::Failed(failure) => self.reject_proof(conn, failure, now),
            CredentialStatus::Ask(proof) => self.query_proof(proof, now),
            CredentialStatus::Wait(proof) => {
                self.auth.queries.promote(proof);
                self.send_site_queries(now);
            }
        }
    }

    /// Identifies a connection by its credential, unless it claims to be another user.
    fn accept_proof(&mut self, conn: ConnId, proven: Proven, now: Now) {
        let claimed = self.auth.identity.claim_of(conn);
        if claimed.is_some_and(|claim| !claim.is_of(proven)) {
            let claim = self.auth.identity.fall_back(conn, false, now);
            let reply = claim.map(|claim| claim.reply).unwrap_or_default();
            self.output.send_error(conn, &reply, &identity_mismatch());
            self.count_refusal(conn, now);
        } else {
            let claim = self.auth.identity.set_proven(conn, proven, now);
            self.identify_as_proven(conn, proven, claim, now);
        }
    }

    fn identify_as_proven(&mut self, conn: ConnId, proven: Proven, claim: Option<Claim>, now: Now) {
        match claim {
            Some(claim) => self.identify_as(conn, &claim.user, claim.reply.client_id.as_ref(), now),
            None => self.identify_as(conn, &Id::number(proven.user), None, now),
        }
    }

    /// Answers a connection whose credential proves nothing.
    fn reject_proof(&mut self, conn: ConnId, failure: Failure, now: Now) {
        let claim = self.auth.identity.fall_back(conn, !failure.is_credential_rejection(), now);
        let reply = claim.map(|claim| claim.reply).unwrap_or_default();
        self.output.send_error(conn, &reply, &failure.client_error(FailureContext::Token));
        self.count_failure(conn, failure, now);
    }

    /// Applies the site's answer about a credential to one of the connections that wait for it.
    pub(super) fn apply_proof(&mut self, conn: ConnId, result: Result<Proven, Failure>, now: Now) {
        match result {
            Ok(proven) => self.accept_proof(conn, proven, now),
            Err(failure) => self.reject_proof(conn, failure, now),
        }
    }

    /// Counts a credential that has proven nothing. A few without an answer of the site are an
    /// outage; many are a client that stays connected without a proof.
    pub(super) fn count_failure(&mut self, conn: ConnId, failure: Failure, now: Now) {
        if failure.is_credential_rejection() {
            return self.count_refusal(conn, now);
        }
        let many = self.auth.identity.count_unanswered(conn) >= UNANSWERED_MAX;
        // A proven connection stays proven while the site is down.
        if many && self.auth.identity.auth_state(conn) != AuthState::Proven {
            self.close(conn, CLOSE_TRY_AGAIN, "the site does not answer");
        } else {
            self.start_auth_timeout(conn, now);
        }
    }

    /// Counts a refused credential, and closes the connection after [`REFUSALS_MAX`] of them.
    fn count_refusal(&mut self, conn: ConnId, now: Now) {
        if self.auth.identity.count_refusal(conn) >= REFUSALS_MAX {
            self.close(conn, CLOSE_TOKEN, "token refused");
        } else {
            self.start_auth_timeout(conn, now);
        }
    }

    /// Revokes a credential that the site rejects, on all connections that use it.
    pub(super) fn revoke(&mut self, credential: &Credential, failure: Failure, now: Now) {
        let conns = self.auth.identity.revoke(credential, failure, now.instant);
        self.revoke_connections(conns, failure, now);
    }

    pub(super) fn revoke_connections(&mut self, conns: Vec<ConnId>, failure: Failure, now: Now) {
        for conn in conns {
            if failure == Failure::TokenExpired {
                if self.auth.identity.expire(conn, now) {
                    self.output.send_error(conn, &ReplyTo::default(), &token_expired());
                }
            } else {
                let fault = failure.client_error(FailureContext::Token);
                self.output.send_error(conn, &ReplyTo::default(), &fault);
                self.close(conn, CLOSE_TOKEN, "token refused");
            }
        }
    }

    /// Learns from a stored message whose credential it was posted with. A fresh token renews a
    /// connection whose own token has expired.
    pub(super) fn learn_from_post(
        &mut self,
        conn: ConnId,
        credential: &Credential,
        proven: Proven,
        now: Now,
    ) {
        if !self.requires_proof() {
            return;
        }
        self.auth.identity.record(credential, proven, now.instant);
        let renews = self.output.is_open(conn)
            && self.auth.identity.pending(conn).is_none()
            && self.auth.identity.auth_state(conn) == AuthState::Expired
            && self.presence.number_of(conn) == Some(proven.user);
        if renews {
            self.auth.identity.store_credential(conn, credential.clone(), now.instant);
            self.auth.identity.set_proven(conn, proven, now);
        }
    }

    // ---- frames that need a user

    /// Holds a frame while the site is asked who its connection is; false if it need not wait. Only
    /// where a proof is required.
    ///
    /// # Errors
    ///
    /// The connection is anonymous and this frame requires a user.
    pub(super) fn hold_for_proof(
        &mut self,
        conn: ConnId,
        frame: &ClientFrame<'_>,
        text: &str,
        now: Now,
    ) -> Result<bool, ClientError> {
        let is_user_connected = match frame {
            // A pong reveals nothing to others.
            ClientFrame::Ping => return Ok(false),
            // Earlier frames go first.
            _ if self.auth.identity.is_waiting(conn) => {
                self.hold(conn, text, false)?;
                return Ok(true);
            }
            ClientFrame::SendMessage(message) => {
                return self.hold_message_for_proof(conn, message, text, now);
            }
            ClientFrame::UserConnected { .. } => true,
            _ => false,
        };
        if !is_user_connected && self.auth.identity.is_deferred(conn) {
            self.check_deferred(conn, now);
        }
        let auth_state = self.auth.identity.auth_state(conn);
        if let Some(claim) = self.auth.identity.pending(conn) {
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
            AuthState::Proven if self.is_shown_to_others(conn, frame) => {
                self.hold_for_recheck(conn, text, now)
            }
            AuthState::Proven => {
                self.renew_if_stale(conn, PROOF_TTL, now);
                Ok(false)
            }
            AuthState::Expired => Err(token_expired()),
            AuthState::Anonymous if self.auth.identity.can_retry(conn, now) => {
                self.hold(conn, text, true)?;
                if let Some(status) = self.auth.identity.reauthenticate(conn, None, now) {
                    // The frame is held until the answer: a status without a query would strand it.
                    debug_assert!(matches!(
                        status,
                        CredentialStatus::Ask(_) | CredentialStatus::Wait(_)
                    ));
                    self.apply_credential_status(conn, status, now);
                }
                Ok(true)
            }
            AuthState::Anonymous => Err(match self.auth.identity.last_failure(conn) {
                Some(failure) => failure.client_error(FailureContext::Token),
                None => token_required(),
            }),
        }
    }

    /// The same for a message. An identified connection may send with any token: the site decides
    /// by it. On an anonymous one the message's own token must prove the user before the site is
    /// asked to store anything.
    ///
    /// # Errors
    ///
    /// No credential proves the user.
    fn hold_message_for_proof(
        &mut self,
        conn: ConnId,
        message: &SendMessage<'_>,
        text: &str,
        now: Now,
    ) -> Result<bool, ClientError> {
        let pending = self.auth.identity.pending(conn).is_some();
        // Earlier frames that are held go first.
        if self.presence.is_identified(conn)
            && !(pending && self.auth.identity.has_held_frames(conn))
        {
            return Ok(false);
        }
        if pending {
            self.hold(conn, text, false)?;
            return Ok(true);
        }
        // Check for room first: the query is only worth its cost if the message can be held.
        if !self.auth.held.has_room(conn, None, text.len(), &self.settings.held_frames) {
            return Err(Failure::Overloaded.client_error(FailureContext::Message));
        }
        let status = match message.token.as_deref() {
            Some(token) => {
                let credential = Credential::parse(token)?;
                self.auth.identity.authenticate_with_message(conn, credential, now)
            }
            None => match self.auth.identity.reauthenticate(conn, None, now) {
                Some(status) => status,
                None => return Err(Failure::TokenMissing.client_error(FailureContext::Message)),
            },
        };
        match status {
            CredentialStatus::Valid(proven) => {
                let claim = self.auth.identity.set_proven(conn, proven, now);
                if let Some(false_claim) = claim.as_ref().filter(|claim| !claim.is_of(proven)) {
                    self.output.send_error(conn, &false_claim.reply, &identity_mismatch());
                }
                let claim = claim.filter(|claim| claim.is_of(proven));
                self.identify_as_proven(conn, proven, claim, now);
                Ok(false)
            }
            CredentialStatus::Failed(failure) => {
                self.auth.identity.take_message_credential(conn, now);
                self.start_auth_timeout(conn, now);
                Err(failure.client_error(FailureContext::Message))
            }
            CredentialStatus::Ask(_) | CredentialStatus::Wait(_) => {
                self.hold(conn, text, true)?;
                self.apply_credential_status(conn, status, now);
                Ok(true)
            }
        }
    }

    /// Whether a frame shows its user to others, without the site having stored it: typing, and the
    /// begin of a call. A frame within a call must not wait.
    fn is_shown_to_others(&self, conn: ConnId, frame: &ClientFrame<'_>) -> bool {
        match frame {
            ClientFrame::Typing { typing, .. } => *typing,
            ClientFrame::Call(call) => {
                let begins = matches!(call.kind, CallKind::Initiated | CallKind::Offer);
                let id = call.call.as_ref().map(|id| &id.key);
                let is_in_call = |me: Id| self.calls.find(&me.key, None, id).is_some();
                begins && !self.presence.user_of(conn).is_some_and(is_in_call)
            }
            _ => false,
        }
    }

    /// Holds a frame that others see while the site is asked whether its user is still welcome;
    /// false if the site said so recently, or does not answer.
    fn hold_for_recheck(
        &mut self,
        conn: ConnId,
        text: &str,
        now: Now,
    ) -> Result<bool, ClientError> {
        let Some(max_age) = self.settings.user_proof_lasts else {
            self.renew_if_stale(conn, PROOF_TTL, now);
            return Ok(false);
        };
        // Check for room first: a query without its frame would let the frame pass unchecked.
        if !self.auth.held.has_room(conn, None, text.len(), &self.settings.held_frames) {
            return Err(Failure::Overloaded.client_error(FailureContext::Token));
        }
        // A site that does not answer delays one frame, and not all that follow.
        let has_failed = self.auth.identity.has_failed_renewal(conn);
        let renewal = self.auth.identity.renew(conn, max_age, true, now);
        if has_failed {
            if let Renewal::Ask(proof) = renewal {
                self.recheck_proof(proof, now);
            }
            return Ok(false);
        }
        let (Renewal::Ask(proof) | Renewal::Wait(proof)) = renewal else { return Ok(false) };
        self.hold_behind_query(conn, text)?;
        match renewal {
            Renewal::Ask(_) => self.query_proof(proof, now),
            _ => {
                self.auth.queries.promote(proof);
                self.send_site_queries(now);
            }
        }
        Ok(true)
    }

    /// Holds a frame of a proven user, and all further ones behind it, until the site has answered.
    pub(super) fn hold_behind_query(
        &mut self,
        conn: ConnId,
        text: &str,
    ) -> Result<(), ClientError> {
        self.hold(conn, text, true)?;
        self.auth.identity.begin_wait(conn);
        Ok(())
    }

    /// Asks the site again about a proof that is older than `max_age`, without holding any frame.
    fn renew_if_stale(&mut self, conn: ConnId, max_age: Duration, now: Now) {
        if let Renewal::Ask(proof) = self.auth.identity.renew(conn, max_age, false, now) {
            self.recheck_proof(proof, now);
        }
    }

    /// Checks the credential of a handshake that was deferred.
    fn check_deferred(&mut self, conn: ConnId, now: Now) {
        if let Some(status) = self.auth.identity.reauthenticate(conn, None, now) {
            self.apply_credential_status(conn, status, now);
        }
    }

    fn hold(&mut self, conn: ConnId, text: &str, first: bool) -> Result<(), ClientError> {
        match self.auth.hold(conn, text, first, &self.settings.held_frames) {
            true => Ok(()),
            false => Err(Failure::Overloaded.client_error(FailureContext::Token)),
        }
    }

    /// Acts when the time of a connection's authentication is up.
    pub(super) fn handle_auth_timeout(&mut self, conn: ConnId, due: AuthTimeout, now: Now) {
        match due {
            AuthTimeout::Deferred => self.check_deferred(conn, now),
            AuthTimeout::Anonymous { unanswered: true, .. } => {
                self.close(conn, CLOSE_TRY_AGAIN, "the site does not answer");
            }
            AuthTimeout::Anonymous { refused, .. } => {
                self.output.send_error(conn, &ReplyTo::default(), &token_required());
                let code = if refused { CLOSE_TOKEN } else { CLOSE_POLICY };
                self.close(conn, code, "nothing has proven who you are");
            }
            AuthTimeout::Recheck => self.renew_if_stale(conn, Duration::ZERO, now),
            AuthTimeout::Expired => {
                self.output.send_error(conn, &ReplyTo::default(), &token_expired())
            }
            AuthTimeout::NotRenewed => self.close(conn, CLOSE_TOKEN, "token expired"),
        }
    }

    fn close(&mut self, conn: ConnId, code: u16, reason: &'static str) {
        // Held frames of a closing connection are ignored.
        self.auth.identity.mark_closing(conn);
        self.output.close_connection(conn, code, reason);
    }
}

fn identity_mismatch() -> ClientError {
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

//! Who a connection is, from its handshake to its end: what the hub decides by claims and proofs.

use std::time::Duration;

use super::Hub;
use super::capacity;
use super::identity::proofs::{Offer, ProofIx};
use super::identity::{Claim, Due, REFUSALS_MAX, Standing, UNANSWERED_MAX};
use super::interface::{About, ConnId, Effect, Failure, Now, Proven};
use super::waiting::HeldText;
use crate::config::Trust;
use crate::protocol::client::{ClientFrame, ReplyTo};
use crate::protocol::credential::Credential;
use crate::protocol::server::{LeftReason, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id};

/// RFC 6455 7.4.1: a policy is violated.
const POLICY: u16 = 1008;
/// Try again later (IANA's registry of close codes).
const TRY_AGAIN: u16 = 1013;
/// Token refused or expired (`PROTOCOL.md` 3).
const TOKEN: u16 = 4401;

impl Hub {
    pub(super) fn opened(
        &mut self,
        conn: ConnId,
        credential: Option<Result<Credential, ClientError>>,
        now: Now,
    ) {
        capacity::reach(&mut self.open, conn.slot);
        let before = self.open[conn.slot as usize].replace(conn);
        debug_assert!(before.is_none(), "a slot is given on empty");
        self.presence.open(conn);
        self.threads.open(conn);
        self.identity.open(conn);
        match (credential, self.settings.trust) {
            (Some(Ok(credential)), Trust::Open) => {
                self.identity.keep(conn, credential, now.instant);
            }
            (Some(Ok(credential)), Trust::Verified) => {
                let offer = self.identity.offer(conn, credential, None, now);
                self.offered(conn, offer, now);
            }
            (Some(Err(fault)), _) => {
                self.error(conn, &ReplyTo::default(), &fault);
                self.await_proof(conn, now);
            }
            (None, _) => self.await_proof(conn, now),
        }
    }

    pub(super) fn closed(&mut self, conn: ConnId, now: Now) {
        debug_assert!(self.is_open(conn), "closed once, after opened");
        self.open[conn.slot as usize] = None;
        self.stop_typing_on(conn);
        self.threads.close(conn);
        for text in self.identity.close(conn, now.instant) {
            self.waiting.take(conn, None, text.bytes());
        }
        let mut users = Vec::new();
        for (user, text) in self.membership.close(conn) {
            self.waiting.take(conn, Some(user), text.bytes());
            users.push(user);
        }
        users.dedup();
        for user in users {
            self.checks.retain_lists(user, |thread| self.membership.is_in_line(thread));
        }
        for proof in self.identity.take_unwanted() {
            self.checks.drop_proof(proof);
        }
        if let Some(user) = self.presence.user_of(conn) {
            self.heirs.closed(conn, &user.key, self.has_sent(conn), now.instant);
            self.calls.disconnect_device(conn, &user.key, &self.settings.calls, now.instant);
        }
        self.presence.leave(conn, now.instant, self.settings.presence_grace);
    }

    // ---- in open trust, and when it is proven

    pub(super) fn arrive(&mut self, conn: ConnId, user: &Id, client_id: Option<&Id>, now: Now) {
        // Whoever it typed as is nobody on this connection any more.
        self.stop_typing_on(conn);
        let first = self.presence.arrive(conn, user);
        if first {
            let frame = ServerFrame::UserConnected { user_id: user, client_id: None };
            let frame = self.encoder.encode(&frame);
            self.announce(user, &frame, Some(conn), now);
        }
        self.reply(conn, &ServerFrame::UserConnected { user_id: user, client_id });
        for frame in self.heirs.arrived(conn, &user.key) {
            self.effects.push_back(Effect::Send { to: conn, frame });
        }
        self.calls.connect_device(conn, &user.key, now.instant);
        self.send_call_notifications();
    }

    /// Makes a connection this user's, or says to it that it is.
    fn is_user(&mut self, conn: ConnId, user: &Id, client_id: Option<&Id>, now: Now) {
        match self.presence.user_of(conn) {
            Some(known) if known.key == user.key => {
                self.presence.write_as(conn, user.quoted);
                self.threads.forget_frames(conn);
                self.reply(conn, &ServerFrame::UserConnected { user_id: user, client_id });
            }
            before => {
                if let Some(before) = before {
                    let with_messages = self.has_sent(conn);
                    self.heirs.closed(conn, &before.key, with_messages, now.instant);
                    self.calls.disconnect_device(
                        conn,
                        &before.key,
                        &self.settings.calls,
                        now.instant,
                    );
                    if self.settings.trust == Trust::Verified {
                        self.leave_everything(conn);
                    }
                }
                // The grace is for a connection that was lost, not for a change of name.
                self.presence.leave(conn, now.instant, Duration::ZERO);
                self.arrive(conn, user, client_id, now);
            }
        }
    }

    /// The threads of one user are no business of the next.
    fn leave_everything(&mut self, conn: ConnId) {
        self.stop_typing_on(conn);
        while let Some(key) = self.threads.leave_one(conn) {
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
                self.identity.keep(conn, credential, now.instant);
            }
            self.is_user(conn, &user, reply.client_id.as_ref(), now);
            return Ok(());
        }
        let claim = Claim { user, reply: reply.clone() };
        if let Some(credential) = credential {
            let offer = self.identity.offer(conn, credential, Some(claim), now);
            self.offered(conn, offer, now);
            return Ok(());
        }
        match (self.identity.standing(conn), self.presence.user_of(conn)) {
            (Standing::Expired, _) => Err(expired()),
            (_, Some(known)) if known.key == claim.user.key => {
                self.is_user(conn, &claim.user, reply.client_id.as_ref(), now);
                Ok(())
            }
            (_, Some(_)) => Err(mismatch()),
            (_, None) => match self.identity.offer_again(conn, Some(claim.clone()), now) {
                Some(offer) => {
                    self.offered(conn, offer, now);
                    Ok(())
                }
                None => {
                    self.identity.claim(conn, claim);
                    Err(token_required())
                }
            },
        }
    }

    // ---- proofs

    pub(super) fn await_proof(&mut self, conn: ConnId, now: Now) {
        if self.settings.trust == Trust::Verified && !self.presence.is_known(conn) {
            self.identity.await_proof(conn, now.instant + self.settings.anonymous_lasts);
        }
    }

    pub(super) fn offered(&mut self, conn: ConnId, offer: Offer, now: Now) {
        match offer {
            Offer::Known(proven) => self.proven(conn, proven, now),
            Offer::Failed(failure) => self.not_proven(conn, failure, now),
            Offer::Ask(proof) => {
                self.checks.push_proof(proof);
                self.ask_checks(now);
            }
            Offer::Wait => {}
        }
    }

    fn proven(&mut self, conn: ConnId, proven: Proven, now: Now) {
        let claimed = self.identity.claim_of(conn);
        if claimed.is_some_and(|claim| !claim.is_of(proven)) {
            let claim = self.identity.fall_back(conn, false, now);
            self.error(conn, &claim.map(|claim| claim.reply).unwrap_or_default(), &mismatch());
            self.refuse(conn, now);
        } else {
            let claim = self.identity.stand(conn, proven, now);
            self.is_proven_user(conn, proven, claim, now);
        }
        self.go_on(conn, now);
    }

    pub(super) fn is_proven_user(
        &mut self,
        conn: ConnId,
        proven: Proven,
        claim: Option<Claim>,
        now: Now,
    ) {
        match claim {
            Some(claim) => self.is_user(conn, &claim.user, claim.reply.client_id.as_ref(), now),
            None => self.is_user(conn, &Id::number(proven.user), None, now),
        }
    }

    fn not_proven(&mut self, conn: ConnId, failure: Failure, now: Now) {
        let claim = self.identity.fall_back(conn, !failure.condemns(), now);
        let reply = claim.map(|claim| claim.reply).unwrap_or_default();
        self.error(conn, &reply, &failure.client_error(About::Token));
        self.count_failure(conn, failure, now);
        self.go_on(conn, now);
    }

    /// Counts a credential that has proven nothing. Of those that the site has not judged a few are
    /// bad luck, and many are a way to stay.
    fn count_failure(&mut self, conn: ConnId, failure: Failure, now: Now) {
        if failure.condemns() {
            return self.refuse(conn, now);
        }
        let many = self.identity.leave_unanswered(conn) >= UNANSWERED_MAX;
        // Who is proven stays so while the site is down, however often they try.
        if many && self.identity.standing(conn) != Standing::Proven {
            self.close(conn, TRY_AGAIN, "the site does not answer");
        } else {
            self.await_proof(conn, now);
        }
    }

    /// Counts what a connection has tried; guessing ends soon.
    fn refuse(&mut self, conn: ConnId, now: Now) {
        if self.identity.refuse(conn) >= REFUSALS_MAX {
            self.close(conn, TOKEN, "token refused");
        } else {
            self.await_proof(conn, now);
        }
    }

    /// Goes on with what a connection has said while it waited for its proof.
    fn go_on(&mut self, conn: ConnId, now: Now) {
        // One of these frames may be the next to introduce itself: a loop, and no recursion.
        if std::mem::replace(&mut self.goes_on, true) {
            return;
        }
        while let Some(text) = self.identity.next_held(conn) {
            self.waiting.take(conn, None, text.bytes());
            self.frame(conn, text.as_str(), false, now);
        }
        self.goes_on = false;
    }

    /// What the site said of a credential.
    pub(super) fn proof_answered(
        &mut self,
        proof: ProofIx,
        result: Result<Proven, Failure>,
        now: Now,
    ) {
        let waiting = self.identity.answered(proof, result, now);
        if let Err(failure) = result {
            if failure.condemns() {
                self.condemn_these(self.identity.proven_by(proof), failure, now);
            }
        }
        for conn in waiting {
            match result {
                _ if self.status_requests.has(conn) => {
                    self.finish_status_request(conn, result, now)
                }
                // The message that brought it comes first among what waits, and says the rest.
                _ if self.identity.takes_message_back(conn, now) => {
                    self.go_on(conn, now);
                    if let Err(failure) = result {
                        self.count_failure(conn, failure, now);
                    }
                }
                Ok(proven) => self.proven(conn, proven, now),
                Err(failure) => self.not_proven(conn, failure, now),
            }
        }
    }

    /// The site has said of a credential in use that it is no good any more.
    pub(super) fn condemn(&mut self, credential: &Credential, failure: Failure, now: Now) {
        let conns = self.identity.condemn(credential, failure, now.instant);
        self.condemn_these(conns, failure, now);
    }

    fn condemn_these(&mut self, conns: Vec<ConnId>, failure: Failure, now: Now) {
        for conn in conns {
            if failure == Failure::TokenExpired {
                if self.identity.expire(conn, now) {
                    self.error(conn, &ReplyTo::default(), &expired());
                }
            } else {
                let fault = failure.client_error(About::Token);
                self.error(conn, &ReplyTo::default(), &fault);
                self.close(conn, TOKEN, "token refused");
            }
        }
    }

    /// A message that the site has stored says whose its token is. A fresh one carries on where the
    /// connection's own has expired.
    pub(super) fn vouch(
        &mut self,
        conn: ConnId,
        credential: &Credential,
        proven: Proven,
        now: Now,
    ) {
        self.identity.learn(credential, proven, now.instant);
        let renews = self.is_open(conn)
            && self.identity.pending(conn).is_none()
            && self.identity.standing(conn) == Standing::Expired
            && self.presence.number_of(conn) == Some(proven.user);
        if renews {
            self.identity.keep(conn, credential.clone(), now.instant);
            self.identity.stand(conn, proven, now);
        }
    }

    // ---- what may be said

    /// Whether a frame has to wait until it is known whose connection this is; if so, it does.
    ///
    /// # Errors
    ///
    /// It is nobody's, and this is not for nobody.
    pub(super) fn waits_for_proof(
        &mut self,
        conn: ConnId,
        frame: &ClientFrame<'_>,
        text: &str,
        now: Now,
    ) -> Result<bool, ClientError> {
        let introduces = match frame {
            // Nobody hears a pong but who asked.
            ClientFrame::Ping => return Ok(false),
            ClientFrame::SendMessage(message) => {
                return self.message_waits_for_proof(conn, message, text, now);
            }
            ClientFrame::UserConnected { .. } => true,
            _ => false,
        };
        let standing = self.identity.standing(conn);
        if let Some(claim) = self.identity.pending(conn) {
            let known = self.presence.user_of(conn).map(|known| known.key);
            let renews = standing == Standing::Proven
                && claim.map(|claim| &claim.user.key) == known.as_ref();
            if introduces || !renews {
                self.hold(conn, text, false)?;
                return Ok(true);
            }
        }
        match standing {
            _ if introduces => Ok(false),
            Standing::Proven => {
                self.renew_if_old(conn, now);
                Ok(false)
            }
            Standing::Expired => Err(expired()),
            Standing::Anonymous if self.identity.may_ask_again(conn, now) => {
                self.hold(conn, text, true)?;
                if let Some(offer) = self.identity.offer_again(conn, None, now) {
                    self.offered(conn, offer, now);
                }
                Ok(true)
            }
            Standing::Anonymous => Err(match self.identity.unanswered(conn) {
                Some(failure) => failure.client_error(About::Token),
                None => token_required(),
            }),
        }
    }

    /// Asks the site again about a proof that is old, and nobody waits for that.
    fn renew_if_old(&mut self, conn: ConnId, now: Now) {
        if let Some(proof) = self.identity.renews(conn, now) {
            self.checks.push_proof(proof);
            self.ask_checks(now);
        }
    }

    pub(super) fn hold(
        &mut self,
        conn: ConnId,
        text: &str,
        first: bool,
    ) -> Result<(), ClientError> {
        if !self.waiting.add(conn, None, text.len(), &self.settings.waiting) {
            return Err(Failure::Overloaded.client_error(About::Token));
        }
        self.identity.hold(conn, HeldText::new(text), first);
        Ok(())
    }

    /// A connection's time is up.
    pub(super) fn time_is_up(&mut self, conn: ConnId, due: Due, now: Now) {
        match due {
            Due::Anonymous { unanswered: true, .. } => {
                self.close(conn, TRY_AGAIN, "the site does not answer");
            }
            Due::Anonymous { refused, .. } => {
                self.error(conn, &ReplyTo::default(), &token_required());
                let code = if refused { TOKEN } else { POLICY };
                self.close(conn, code, "nothing has proven who you are");
            }
            Due::Unsure => self.renew_if_old(conn, now),
            Due::Expired => self.error(conn, &ReplyTo::default(), &expired()),
            Due::NotRenewed => self.close(conn, TOKEN, "token expired"),
        }
    }

    fn close(&mut self, conn: ConnId, code: u16, reason: &'static str) {
        // What it has said, and waits, is not heard any more.
        self.identity.end(conn);
        self.effects.push_back(Effect::Close { conn, code, reason });
    }
}

pub(super) fn mismatch() -> ClientError {
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

fn expired() -> ClientError {
    ClientError::new(
        ErrorCode::TokenExpired,
        "Your token has expired: send user_connected with your userId and a fresh token.",
    )
}

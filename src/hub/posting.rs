//! What becomes of a message: from `send_message` to its one outcome.

use std::sync::Arc;

use super::Hub;
use super::checks::Check;
use super::delivery::{Asked, Job, stopping, turn_is_over};
use super::entrance::mismatch;
use super::failure::{Doubt, not_in_thread, repeated_too_often};
use super::identity::Standing;
use super::identity::proofs::Offer;
use super::interface::{
    About, Answer, ConnId, Effect, Failure, Looked, Now, RequestId, Stored, Target,
};
use super::repeats::{Known, Name, Who};
use super::told::Whose;
use crate::config::Trust;
use crate::protocol::client::{ClientFrame, ReplyTo, SendMessage, parse};
use crate::protocol::credential::Credential;
use crate::protocol::{ClientError, ErrorCode, Id, IdKey, SITE_ID_MAX};

/// Seconds by which two clocks may differ that count the same time: less than what a look leaves in
/// doubt for a text that is the same.
const CLOCKS_DIFFER_MAX_S: u64 = 10;

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
        let name = match &reply.client_id {
            Some(client_id) => match self.first_sent(conn, &client_id.key, now)? {
                Some(name) => Some(name),
                None => return Ok(()),
            },
            None => None,
        };
        let credential = match message.token.as_deref() {
            Some(text) => Some(Credential::parse(text)?),
            None if self.identity.standing(conn) == Standing::Expired => {
                return Err(Failure::TokenExpired.client_error(About::Message));
            }
            None => self.identity.credential_of(conn).cloned(),
        };
        let job = Job {
            origin: conn,
            conn,
            reply: reply.clone(),
            recipient: message.recipient,
            claimed: self.presence.user_of(conn),
            target,
            text: Arc::from(message.text.as_ref()),
            credential,
            asked: Asked { at: now.instant, after: self.requests.last() },
            asked_s: now.unix_s,
            name: name.clone(),
        };
        match self.delivery.accept(job, &self.settings.deliveries, &mut self.requests) {
            Ok(Some((request, ask))) => self.effects.push_back(Effect::Ask { request, ask }),
            Ok(None) => {}
            Err(_) => return Err(Failure::Overloaded.client_error(About::Message)),
        }
        if let Some(name) = name {
            self.repeats.accepted(name, now.instant);
        }
        Ok(())
    }

    /// The name of a message that is sent under this `clientId` for the first time. If it is a
    /// repeat, its outcome is the first one's, now or later, and there is no name.
    ///
    /// # Errors
    ///
    /// Too many repeats of it wait already.
    pub(super) fn first_sent(
        &mut self,
        conn: ConnId,
        client_id: &IdKey,
        now: Now,
    ) -> Result<Option<Name>, ClientError> {
        let name = |who| Name { who, client_id: client_id.clone() };
        let nobodys = name(Who::Nobody(conn));
        let users = self.presence.user_of(conn).map(|user| name(Who::User(user.key)));
        // What was sent before the connection had said who it is is its own all the same.
        for known_as in users.iter().chain([&nobodys]) {
            match self.repeats.find(known_as, conn, now.instant) {
                Known::New => {}
                Known::Outcome(frame) => {
                    self.effects.push_back(Effect::Send { to: conn, frame });
                    return Ok(None);
                }
                Known::Waits => return Ok(None),
                Known::TooMany => return Err(repeated_too_often()),
            }
        }
        Ok(Some(users.unwrap_or(nobodys)))
    }

    /// Whether a message has to wait until it is known whose connection this is; if so, it does.
    ///
    /// Who is somebody sends with whatever token they like: the site decides by it. Of who is
    /// nobody the message's own token has to prove who they are, before it costs the site a post.
    ///
    /// # Errors
    ///
    /// Nothing can prove it.
    pub(super) fn message_waits_for_proof(
        &mut self,
        conn: ConnId,
        message: &SendMessage<'_>,
        text: &str,
        now: Now,
    ) -> Result<bool, ClientError> {
        let pending = self.identity.pending(conn).is_some();
        // What has been said before it and still waits goes before it.
        if self.presence.is_known(conn) && !(pending && self.identity.holds(conn)) {
            return Ok(false);
        }
        if pending {
            self.hold(conn, text, false)?;
            return Ok(true);
        }
        // What is offered is asked about; the message must find its place then.
        if !self.waiting.has_room(conn, None, text.len(), &self.settings.waiting) {
            return Err(Failure::Overloaded.client_error(About::Message));
        }
        let offer = match message.token.as_deref() {
            Some(token) => {
                let credential = Credential::parse(token)?;
                self.identity.offer_with_message(conn, credential, now)
            }
            None => match self.identity.offer_again(conn, None, now) {
                Some(offer) => offer,
                None => return Err(Failure::TokenMissing.client_error(About::Message)),
            },
        };
        match offer {
            Offer::Known(proven) => {
                let claim = self.identity.stand(conn, proven, now);
                if let Some(false_claim) = claim.as_ref().filter(|claim| !claim.is_of(proven)) {
                    self.error(conn, &false_claim.reply, &mismatch());
                }
                let claim = claim.filter(|claim| claim.is_of(proven));
                self.is_proven_user(conn, proven, claim, now);
                Ok(false)
            }
            Offer::Failed(failure) => {
                self.identity.takes_message_back(conn, now);
                self.await_proof(conn, now);
                Err(failure.client_error(About::Message))
            }
            Offer::Ask(_) | Offer::Wait => {
                self.hold(conn, text, true)?;
                self.offered(conn, offer, now);
                Ok(true)
            }
        }
    }

    pub(super) fn answered(&mut self, request: RequestId, answer: Answer, now: Now) {
        if self.settings.trust == Trust::Verified && answer.is_the_sites() {
            self.membership.site_answers();
        }
        if let Some(check) = self.checks.finish(request) {
            match (check, answer) {
                (Check::Proof(proof), Answer::Proven(proven)) => {
                    self.proof_answered(proof, Ok(proven), now);
                }
                (Check::Proof(proof), Answer::Failed(failure)) => {
                    self.proof_answered(proof, Err(failure), now);
                }
                (Check::List(thread), Answer::Listed(users)) => {
                    self.listed(thread, Ok(users), now);
                }
                (Check::List(thread), Answer::Failed(failure)) => {
                    self.listed(thread, Err(failure), now);
                }
                (check, answer) => debug_assert!(false, "{answer:?} answers no {check:?}"),
            }
            return self.ask_checks(now);
        }
        if let Some((post, doubt)) = self.lookups.answered(request) {
            return self.looked(post, doubt, answer, now);
        }
        match answer {
            Answer::Stored(stored) => self.post_ends(request, Ok(stored), now),
            Answer::Failed(failure) => match failure.doubt() {
                Some(doubt) if self.may_look(request) => {
                    self.lookups.begin(request, doubt, now.instant);
                }
                _ => self.post_fails(request, failure, now),
            },
            answer => {
                let nobodys = self.delivery.job(request).is_none();
                debug_assert!(nobodys, "{answer:?} answers no message");
            }
        }
    }

    // ---- messages whose fate is not known

    /// Whether there is such a message, and somebody's credential to look for it.
    fn may_look(&self, post: RequestId) -> bool {
        self.delivery.job(post).is_some_and(|job| job.credential.is_some())
    }

    /// Asks the site for the thread of a message whose fate is not known, if that is due for one.
    pub(super) fn look_up_message(&mut self, now: Now) -> bool {
        if self.lookups.next_deadline().is_none_or(|at| at > now.instant) {
            return false;
        }
        let request = self.requests.name();
        let post = self.lookups.due(now.instant, request);
        if let Some(ask) = post.and_then(|post| self.delivery.job(post)).and_then(Job::look) {
            self.effects.push_back(Effect::Ask { request, ask });
        } else {
            debug_assert!(false, "what is looked up is on its way, and has a credential");
        }
        true
    }

    /// What the thread of a message whose fate is not known has shown.
    fn looked(&mut self, post: RequestId, doubt: Doubt, answer: Answer, now: Now) {
        if let Answer::Failed(failure) = &answer {
            if failure.condemns() {
                // Nor would the next look be let in.
                return self.look_is_refused(post, *failure, now);
            }
        }
        let verdict = match answer {
            Answer::Looked(looked) => self.verdict(post, looked, now),
            Answer::Failed(_) => Verdict::Failed,
            answer => {
                debug_assert!(false, "{answer:?} answers no look");
                Verdict::Failed
            }
        };
        match (verdict, doubt) {
            (Verdict::Stored(stored), _) => self.post_ends(post, Ok(*stored), now),
            (Verdict::NotThere, Doubt::Ended) => self.post_ends(post, Err(not_in_thread()), now),
            (Verdict::Unclear, Doubt::Ended) => self.post_fails(post, Failure::Unusable, now),
            (Verdict::Failed | Verdict::NotThere | Verdict::Unclear, _) => {
                if !self.lookups.wait(post, now.instant) {
                    self.post_fails(post, Failure::Unknown, now);
                }
            }
        }
    }

    /// What a look says of a message, by what is known of others.
    fn verdict(&self, post: RequestId, looked: Looked, now: Now) -> Verdict {
        let whose =
            |thread, sender: &Id, message| self.told.whose(thread, &sender.key, message, post);
        let (whose, stored) = match looked {
            // Whether it is too old to be the post's was told by a clock that a suspension stops.
            Looked::Nothing if self.clocks_agree_since(post, now) => return Verdict::NotThere,
            Looked::Nothing => return Verdict::Unclear,
            Looked::Other { thread, sender, message } => (whose(thread, &sender, message), None),
            Looked::Same(stored) => {
                let Some(message) = &stored.message else { return Verdict::Unclear };
                (whose(stored.thread, &stored.sender, message.id), Some(stored))
            }
        };
        match (whose, stored) {
            // The sender's newest is older than this one would be.
            (Whose::Earlier, _) => Verdict::NotThere,
            (Whose::Nobodys, Some(stored)) => Verdict::Stored(Box::new(stored)),
            (Whose::Nobodys | Whose::Meanwhile, _) => Verdict::Unclear,
        }
    }

    /// Whether as much time has gone by since a message was posted by both our clocks.
    fn clocks_agree_since(&self, post: RequestId, now: Now) -> bool {
        self.delivery.job(post).is_some_and(|job| {
            let monotonic = now.instant.saturating_duration_since(job.asked.at).as_secs();
            let by_date = now.unix_s.saturating_sub(job.asked_s);
            monotonic.abs_diff(by_date) <= CLOCKS_DIFFER_MAX_S
        })
    }

    // ---- the end

    fn post_fails(&mut self, post: RequestId, failure: Failure, now: Now) {
        let credential = self.delivery.job(post).and_then(|job| job.credential.clone());
        self.post_ends(post, Err(failure.client_error(About::Message)), now);
        if let Some(credential) = credential.filter(|_| failure.condemns()) {
            self.condemn(&credential, failure, now);
        }
    }

    fn look_is_refused(&mut self, post: RequestId, failure: Failure, now: Now) {
        let credential = self.delivery.job(post).and_then(|job| job.credential.clone());
        self.post_fails(post, Failure::Unknown, now);
        if let Some(credential) = credential {
            self.condemn(&credential, failure, now);
        }
    }

    /// The fate of a message is decided, and the next in its lane goes out.
    fn post_ends(&mut self, post: RequestId, end: Result<Stored, ClientError>, now: Now) {
        self.lookups.end(post);
        // Given up when the server began to stop: its sender has heard so.
        let Some(job) = self.delivery.finish(post) else {
            return;
        };
        let lane = job.lane();
        match end {
            Ok(stored) => {
                if let Some(message) = &stored.message {
                    let (sender, last) = (&stored.sender.key, self.requests.last());
                    self.told.note(stored.thread, sender, message.id, last);
                }
                let claimed = job.claimed.or(Some(stored.sender.clone()));
                self.stored(Job { claimed, ..job }, stored, now);
            }
            Err(fault) => {
                self.fail(&job, &fault);
                self.delivery.settle(&job);
            }
        }
        if let Some((request, ask)) = self.delivery.next(lane, &mut self.requests, now) {
            self.effects.push_back(Effect::Ask { request, ask });
        }
    }

    /// Sends one away that has waited too long for its turn; false if there is none.
    pub(super) fn turn_is_over(&mut self, now: Now) -> bool {
        let Some((job, lasted)) = self.delivery.give_up(now.instant) else {
            return false;
        };
        self.fail(&job, &turn_is_over(lasted));
        self.delivery.settle(&job);
        true
    }

    /// Gives messages that wait for a proof their outcome, before the server stops.
    pub(super) fn refuse_what_waits(&mut self) {
        let conns: Vec<ConnId> = self.open.iter().flatten().copied().collect();
        for conn in conns {
            while let Some(text) = self.identity.take_held(conn) {
                self.waiting.take(conn, None, text.bytes());
                let (reply, frame) = parse(text.as_str());
                if let Ok(ClientFrame::SendMessage(_)) = frame {
                    self.error(conn, &reply, &stopping());
                }
            }
        }
    }
}

/// What a look says of a message.
enum Verdict {
    /// It is stored.
    Stored(Box<Stored>),
    /// It is not stored now.
    NotThere,
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

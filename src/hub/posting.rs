//! What becomes of a message: from `send_message` to its one outcome.

use std::sync::Arc;

use super::checks::Check;
use super::delivery::{Asked, Job, stopping};
use super::entrance::mismatch;
use super::identity::Standing;
use super::identity::proofs::Offer;
use super::interface::{
    About, Answer, ConnId, Effect, Failure, Now, Proven, RequestId, Stored, Target,
};
use super::membership::Held;
use super::threads::Joined;
use super::{Hub, send};
use crate::config::Trust;
use crate::protocol::client::{ClientFrame, ReplyTo, SendMessage, parse};
use crate::protocol::credential::Credential;
use crate::protocol::server::{EncodedFrame, ErrorFrame, MessageFrame, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id, IdKey, SITE_ID_MAX};

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
        };
        match self.delivery.accept(job, &self.settings.deliveries, &mut self.requests) {
            Ok(Some((request, ask))) => self.effects.push_back(Effect::Ask { request, ask }),
            Ok(None) => {}
            Err(_) => return Err(Failure::Overloaded.client_error(About::Message)),
        }
        Ok(())
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
        if self.presence.is_known(conn) {
            return Ok(false);
        }
        if self.identity.pending(conn).is_some() {
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
        // Given up when the server began to stop: its sender has heard so.
        let finished = self.delivery.finish(request, &mut self.requests, now.instant);
        let Some((job, next)) = finished else {
            return;
        };
        match answer {
            Answer::Stored(stored) => {
                let claimed = job.claimed.or(Some(stored.sender.clone()));
                self.stored(Job { claimed, ..job }, stored, now);
            }
            Answer::Failed(failure) => {
                self.fail(&job, &failure.client_error(About::Message));
                self.delivery.settle(&job);
                if let Some(credential) = job.credential.filter(|_| failure.condemns()) {
                    self.condemn(&credential, failure, now);
                }
            }
            answer => debug_assert!(false, "{answer:?} answers no message"),
        }
        if let Some((request, ask)) = next {
            self.effects.push_back(Effect::Ask { request, ask });
        }
    }

    /// The job with whoever gets its outcome now: its connection, or its user's next one.
    fn inherited(&self, job: Job) -> Job {
        let conn = self.author_of(&job);
        Job { conn, ..job }
    }

    fn author_of(&self, job: &Job) -> ConnId {
        let user = job.claimed.as_ref().filter(|_| !self.is_open(job.origin));
        let heir = user.and_then(|user| self.heirs.heir_of(job.origin, &user.key));
        heir.unwrap_or(job.origin)
    }

    /// Tells the author of a message that it has failed.
    pub(super) fn fail(&mut self, job: &Job, fault: &ClientError) {
        let frame = ServerFrame::Error(ErrorFrame::new(fault, &job.reply));
        let frame = self.encoder.encode(&frame);
        self.tell_author(job, frame);
    }

    /// Sends an outcome to its author, or keeps it until they are back.
    fn tell_author(&mut self, job: &Job, frame: EncodedFrame) {
        let to = self.author_of(job);
        if self.is_open(to) {
            self.effects.push_back(Effect::Send { to, frame });
        } else if let Some(user) = &job.claimed {
            self.heirs.keep(job.origin, &user.key, frame);
        }
    }

    /// In verified trust, a stored message says who its sender is and who takes part in the thread;
    /// it is shown when the second is known.
    fn stored(&mut self, job: Job, mut stored: Stored, now: Now) {
        if self.settings.trust == Trust::Open {
            return self.show_stored(job, &stored);
        }
        if let (Some(credential), Some(user)) = (&job.credential, stored.sender.site_number()) {
            let proven = Proven { user, expires_s: stored.expires_s };
            self.vouch(job.conn, credential, proven, now);
        }
        if let Some(users) = stored.participants.take() {
            let thread = stored.thread;
            self.membership.set(thread, users, job.asked);
            self.turn_out(thread);
            // What came before is shown before.
            self.release(thread, None, now);
        }
        self.show_or_hold(job, stored, false, now);
    }

    /// Shows a stored message to its thread, as soon as it is known who takes part. One that was
    /// `asked` for in vain is shown to its author alone.
    pub(super) fn show_or_hold(&mut self, job: Job, stored: Stored, asked: bool, now: Now) {
        let thread = stored.thread;
        if self.membership.is_current(thread, now.instant) {
            return self.show_stored(job, &stored);
        }
        let user = stored.sender.site_number();
        let failing =
            user.is_some_and(|user| self.membership.failure(thread, user, now.instant).is_some());
        if let (Some(credential), Some(user), false) = (&job.credential, user, asked || failing) {
            let asked = self.membership.want(thread, user, credential);
            if asked {
                self.checks.push_list(thread, user);
            }
            let stored = Box::new((job, stored));
            self.membership.hold(thread, Held::Message { stored, asked });
            return self.ask_checks(now);
        }
        self.show_to_author(&job, &stored);
    }

    fn show_stored(&mut self, job: Job, stored: &Stored) {
        let job = &self.inherited(job);
        let (thread, sender) = names(job, stored);
        let turned_away = self.introduce(job, &sender, &thread);
        // The site's user and the connection's need not be the same in open trust.
        let on_any_device = self.threads.typing_stops(job.conn, Some(&sender), &thread.key);
        let here = self.threads.typing_stops_here(job.conn, &thread.key);
        for typist in on_any_device.iter().chain(&here) {
            self.typing_over(typist);
        }
        let frame = |client_id| message_frame(job, stored, &thread, &sender, client_id);
        let for_others =
            self.show(&thread.key, job.conn, job.reply.client_id.as_ref(), send, frame);
        for to in turned_away {
            self.effects.push_back(Effect::Send { to, frame: EncodedFrame::clone(&for_others) });
        }
        if !self.is_open(job.conn) {
            let own = self.encoder.encode(&frame(job.reply.client_id.as_ref()));
            self.tell_author(job, own);
        }
        self.delivery.settle(job);
    }

    pub(super) fn show_to_author(&mut self, job: &Job, stored: &Stored) {
        let (thread, sender) = names(job, stored);
        let client_id = job.reply.client_id.as_ref();
        let frame = message_frame(job, stored, &thread, &sender, client_id);
        let frame = self.encoder.encode(&frame);
        self.tell_author(job, frame);
        self.delivery.settle(job);
    }

    /// Gives stored messages that wait for the site's word their outcome, before the server stops.
    pub(super) fn show_what_is_stored(&mut self) {
        for stored in self.membership.take_messages() {
            let (job, stored) = *stored;
            self.show_to_author(&job, &stored);
        }
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

    /// What an accepted message tells about its connection: who it is, and that it belongs to the
    /// thread (`PROTOCOL.md` 2.3); a new thread is joined by both sides' connections (2.5). Returns
    /// those that have joined as many as they may: they get this one message all the same.
    fn introduce(&mut self, job: &Job, sender: &Id, thread: &Id) -> Vec<ConnId> {
        let mut turned_away = Vec::new();
        if self.is_open(job.conn) {
            if self.settings.trust == Trust::Open && !self.presence.is_known(job.conn) {
                self.arrive(job.conn, sender, None);
            }
            // The author gets its own message in any case.
            self.join_quietly(job.conn, thread);
        }
        if let (Target::NewThread { .. }, Some(recipient)) = (job.target, &job.recipient) {
            let mut conns = self.presence.conns_of(&sender.key).to_vec();
            conns.extend(self.presence.conns_of(&recipient.key));
            conns.retain(|conn| *conn != job.conn);
            turned_away.extend(conns.into_iter().filter(|conn| !self.join_quietly(*conn, thread)));
        }
        turned_away
    }

    /// Joins without being asked, and says so if it is new; false if the limit is reached. In
    /// verified trust only who takes part joins.
    fn join_quietly(&mut self, conn: ConnId, thread: &Id) -> bool {
        if self.settings.trust == Trust::Verified {
            let both = self.presence.number_of(conn).zip(thread.site_number());
            if !both.is_some_and(|(user, thread)| self.membership.lists(thread, user)) {
                return true;
            }
        }
        let max = self.settings.joins_per_connection;
        let joined = self.threads.join(conn, &thread.key, max, self.settings.threads);
        if joined == Joined::New {
            self.reply(conn, &ServerFrame::ThreadJoined { thread_id: thread, client_id: None });
        }
        matches!(joined, Joined::New | Joined::Already)
    }
}

/// How a message names its thread and its sender: as the sender did, where they did.
fn names(job: &Job, stored: &Stored) -> (Id, Id) {
    let thread = match &job.reply.thread {
        Some(asked) if asked.key == IdKey::Number(stored.thread) => asked.clone(),
        _ => Id::number(stored.thread),
    };
    let sender = match &job.claimed {
        Some(claimed) if claimed.key == stored.sender.key => claimed.clone(),
        _ => stored.sender.clone(),
    };
    (thread, sender)
}

fn message_frame<'a>(
    job: &'a Job,
    stored: &'a Stored,
    thread_id: &'a Id,
    sender_id: &'a Id,
    client_id: Option<&'a Id>,
) -> ServerFrame<'a> {
    let message = stored.message.as_ref();
    ServerFrame::Message(MessageFrame {
        thread_id,
        sender_id,
        recipient_id: job.recipient.as_ref(),
        message: &job.text,
        message_id: message.map(|message| message.id),
        sent_at: message.map(|message| message.sent_at.as_str()),
        html: message.map(|message| message.html.as_str()),
        client_id,
    })
}

fn site_number(id: &Id, field: &'static str) -> Result<u64, ClientError> {
    id.site_number().ok_or_else(|| {
        let what = format!("{field} must be a whole number from 1 to {SITE_ID_MAX} to send to.");
        ClientError::new(ErrorCode::InvalidField, what)
    })
}

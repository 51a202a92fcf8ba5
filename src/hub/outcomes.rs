//! Who is told what has become of a message: its author, its thread, and who has sent it again.

use super::Hub;
use super::delivery::Job;
use super::interface::{ConnId, Effect, Now, Proven, Stored, Target};
use super::membership::Held;
use super::repeats::{Name, Who};
use super::threads::Joined;
use crate::config::Trust;
use crate::protocol::server::{EncodedFrame, ErrorFrame, MessageFrame, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id, IdKey};

impl Hub {
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
        // What was certainly not stored may be tried again under the same name.
        let lasts = fault.code == ErrorCode::UnknownOutcome;
        self.tell_author(job, frame, lasts);
    }

    /// Sends an outcome to the author, or keeps it until they are back, and to those of their
    /// connections that have sent the same message again. It is repeated later if it `lasts`.
    /// Returns those connections.
    fn tell_author(&mut self, job: &Job, frame: EncodedFrame, lasts: bool) -> Vec<ConnId> {
        let name = job.name.as_ref();
        let told = name.map(|name| self.repeats.told(name, &frame, lasts));
        let mut repeating = told.unwrap_or_default();
        let to = self.author_of(job);
        if self.is_open(to) {
            // Who inherits what they have sent again hears it once.
            let again = repeating.iter().position(|conn| to != job.origin && *conn == to);
            if let Some(again) = again {
                repeating.remove(again);
            }
            let frame = EncodedFrame::clone(&frame);
            self.effects.push_back(Effect::Send { to, frame });
        } else if let Some(user) = &job.claimed {
            let heard = repeating.iter().any(|conn| self.is_open(*conn));
            match self.heir_of_repeats(&user.key, &repeating) {
                _ if heard => {}
                Some(to) => {
                    let frame = EncodedFrame::clone(&frame);
                    self.effects.push_back(Effect::Send { to, frame });
                }
                None => self.heirs.keep(job.origin, &user.key, EncodedFrame::clone(&frame)),
            }
        }
        if let (Some(Name { who: Who::User(user), .. }), true) = (name, self.is_open(job.origin)) {
            self.tell_heir_of_repeats(user, &repeating, &frame);
        }
        repeating.retain(|conn| self.is_open(*conn));
        self.spread(repeating.iter().copied(), &frame, false);
        repeating
    }

    /// Who has sent a message again and gone hears of it on a later connection, once, unless that
    /// one hears of it anyway.
    fn tell_heir_of_repeats(&mut self, user: &IdKey, repeating: &[ConnId], frame: &EncodedFrame) {
        let Some(gone) = repeating.iter().find(|conn| !self.is_open(**conn)) else {
            return;
        };
        let frame = EncodedFrame::clone(frame);
        match self.heir_of_repeats(user, repeating) {
            Some(heir) if repeating.contains(&heir) => {}
            Some(to) => self.effects.push_back(Effect::Send { to, frame }),
            None => self.heirs.keep(*gone, user, frame),
        }
    }

    /// The later connection of one that has sent a message again and gone.
    fn heir_of_repeats(&self, user: &IdKey, repeating: &[ConnId]) -> Option<ConnId> {
        let gone = repeating.iter().filter(|conn| !self.is_open(**conn));
        gone.filter_map(|conn| self.heirs.heir_of(*conn, user)).next()
    }

    /// Whether a connection has sent what has no outcome yet.
    pub(super) fn has_sent(&self, conn: ConnId) -> bool {
        self.delivery.has(conn) || self.repeats.has(conn)
    }

    /// In verified trust, a stored message says who its sender is and who takes part in the thread;
    /// it is shown when the second is known.
    pub(super) fn stored(&mut self, job: Job, mut stored: Stored, now: Now) {
        if self.settings.trust == Trust::Open {
            return self.show_stored(job, &stored, now);
        }
        if let (Some(credential), Some(user)) = (&job.credential, stored.sender.site_number()) {
            let proven = Proven { user, expires_s: stored.expires_s };
            self.vouch(job.conn, credential, proven, now);
        }
        if let Some(users) = stored.participants.take() {
            let thread = stored.thread;
            self.membership.set(thread, users, job.asked);
            self.turn_out(thread, now);
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
            return self.show_stored(job, &stored, now);
        }
        let user = stored.sender.site_number();
        let failing =
            user.is_some_and(|user| self.membership.failure(thread, user, now.instant).is_some());
        if failing && !asked && self.membership.is_asked(thread) {
            // What another is about to hear serves them as well, and they do not overtake.
            let stored = Box::new((job, stored));
            return self.membership.hold(thread, Held::Message { stored, asked: true });
        }
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

    fn show_stored(&mut self, job: Job, stored: &Stored, now: Now) {
        let job = &self.inherited(job);
        let (thread, sender) = names(job, stored);
        let turned_away = self.introduce(job, &sender, &thread, now);
        // The site's user and the connection's need not be the same in open trust.
        let on_any_device = self.threads.typing_stops(job.conn, Some(&sender), &thread.key);
        let here = self.threads.typing_stops_here(job.conn, &thread.key);
        for typist in on_any_device.iter().chain(&here) {
            self.typing_over(typist);
        }
        let frame = |client_id| message_frame(job, stored, &thread, &sender, client_id);
        let for_others = self.encoder.encode(&frame(None));
        let own = match &job.reply.client_id {
            Some(client_id) => self.encoder.encode(&frame(Some(client_id))),
            None => EncodedFrame::clone(&for_others),
        };
        let have_it = self.tell_author(job, own, true);
        self.show_others(&thread.key, &for_others, job.conn, &have_it);
        let turned_away = turned_away.into_iter().filter(|to| !have_it.contains(to));
        self.spread(turned_away, &for_others, false);
        self.delivery.settle(job);
    }

    pub(super) fn show_to_author(&mut self, job: &Job, stored: &Stored) {
        let (thread, sender) = names(job, stored);
        let client_id = job.reply.client_id.as_ref();
        let frame = message_frame(job, stored, &thread, &sender, client_id);
        let frame = self.encoder.encode(&frame);
        self.tell_author(job, frame, true);
        self.delivery.settle(job);
    }

    /// Gives stored messages that wait for the site's word their outcome, before the server stops.
    pub(super) fn show_what_is_stored(&mut self) {
        for stored in self.membership.take_messages() {
            let (job, stored) = *stored;
            self.show_to_author(&job, &stored);
        }
    }

    /// What an accepted message tells about its connection: who it is, and that it belongs to the
    /// thread (`PROTOCOL.md` 2.3); a new thread is joined by both sides' connections (2.5). Returns
    /// those that have joined as many as they may: they get this one message all the same.
    fn introduce(&mut self, job: &Job, sender: &Id, thread: &Id, now: Now) -> Vec<ConnId> {
        let mut turned_away = Vec::new();
        if self.is_open(job.conn) {
            if self.settings.trust == Trust::Open && !self.presence.is_known(job.conn) {
                self.arrive(job.conn, sender, None, now);
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

    /// Sends a frame to everyone who hears the thread, but for its author and those who have it.
    fn show_others(
        &mut self,
        thread: &IdKey,
        frame: &EncodedFrame,
        author: ConnId,
        have_it: &[ConnId],
    ) {
        let start = self.receivers.len();
        let hearers = self.threads.hearers(thread).iter().map(|hearer| hearer.conn);
        let others = hearers.filter(|conn| *conn != author && !have_it.contains(conn));
        self.receivers.extend(others);
        self.spread_from(start, frame, false);
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

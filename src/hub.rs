//! The community as a state machine: [`Input`] in, [`Effect`] out, one deadline.
//!
//! No socket, no clock, no thread. The shell calls [`Hub::handle`] and then takes the effects with
//! [`Hub::next_effect`] until there are none: one mutation, then drain. All control flow of the
//! logic is in this file; the rooms below it keep tables and answer questions.

pub mod calls;
pub mod deadlines;
pub mod delivery;
pub mod failure;
pub mod interface;
pub mod presence;
pub mod threads;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::protocol::client::{Call, ClientFrame, ReplyTo, SendMessage, parse, relayed};
use crate::protocol::credential::Credential;
use crate::protocol::server::{EncodedFrame, Encoder, ErrorFrame, MessageFrame, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id, IdKey, SITE_ID_MAX};
use delivery::{Delivery, Job};
use interface::{
    Answer, Census, ConnId, Effect, Failure, Input, Now, RequestId, Settings, Stored, Target,
};
use presence::Presence;
use threads::{Joined, Threads, Typist};

/// The community.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    /// The connection in each slot.
    open: Vec<Option<ConnId>>,
    presence: Presence,
    threads: Threads,
    delivery: Delivery,
    encoder: Encoder,
    effects: VecDeque<Effect>,
}

impl Hub {
    /// An empty community.
    pub fn new(settings: Settings) -> Hub {
        Hub {
            settings,
            open: Vec::new(),
            presence: Presence::default(),
            threads: Threads::default(),
            delivery: Delivery::default(),
            encoder: Encoder::default(),
            effects: VecDeque::new(),
        }
    }

    /// Takes one input in. What follows from it waits in [`Hub::next_effect`].
    pub fn handle(&mut self, input: Input<'_>, now: Now) {
        match input {
            Input::Opened { conn, .. } => self.opened(conn),
            Input::Frame { conn, text } => self.frame(conn, text, now),
            Input::Binary { conn } => {
                let fault = "Send text frames: binary frames carry nothing in this protocol.";
                let fault = ClientError::new(ErrorCode::TextOnly, fault);
                self.error(conn, &ReplyTo::default(), &fault);
            }
            Input::Closed { conn } => self.closed(conn, now),
            Input::Answered { request, answer } => self.answered(request, answer),
        }
    }

    /// The next thing to do, in order; `None` when all is done.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Hub::advance`] is to be called, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [self.threads.next_deadline(), self.presence.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Does one thing that is due at `now`; false if there was none. The caller takes the effects
    /// before the next: many things may be due at once, and each may be for everyone.
    pub fn advance(&mut self, now: Now) -> bool {
        if let Some(typist) = self.threads.typing_times_out(now.instant) {
            self.typing_over(&typist);
        } else if let Some(user) = self.presence.depart(now.instant) {
            let frame = self.encoder.encode(&ServerFrame::UserDisconnected { user_id: &user });
            self.broadcast(&frame, None);
        } else {
            return false;
        }
        true
    }

    /// Gives every message on its way its outcome, before the server stops.
    pub fn stop(&mut self) {
        for (job, fault) in self.delivery.abandon() {
            self.error(job.conn, &job.reply, &fault);
        }
    }

    // ---- connections and presence

    fn opened(&mut self, conn: ConnId) {
        let slot = conn.slot as usize;
        if self.open.len() <= slot {
            self.open.resize(slot + 1, None);
        }
        debug_assert!(self.open[slot].is_none(), "a slot is given on empty");
        self.open[slot] = Some(conn);
        self.presence.open(conn);
        self.threads.open(conn);
    }

    fn is_open(&self, conn: ConnId) -> bool {
        self.open.get(conn.slot as usize).is_some_and(|open| *open == Some(conn))
    }

    fn closed(&mut self, conn: ConnId, now: Now) {
        debug_assert!(self.is_open(conn), "closed once, after opened");
        self.open[conn.slot as usize] = None;
        self.stop_typing_on(conn);
        self.threads.close(conn);
        self.presence.leave(conn, now.instant, self.settings.presence_grace);
    }

    fn arrive(&mut self, conn: ConnId, user: &Id, client_id: Option<&Id>) {
        // Whoever it typed as is nobody on this connection any more.
        self.stop_typing_on(conn);
        let first = self.presence.arrive(conn, user);
        if first {
            let frame = ServerFrame::UserConnected { user_id: user, client_id: None };
            let frame = self.encoder.encode(&frame);
            self.broadcast(&frame, Some(conn));
        }
        self.reply(conn, &ServerFrame::UserConnected { user_id: user, client_id });
    }

    fn user_connected(&mut self, conn: ConnId, user: &Id, reply: &ReplyTo, now: Now) {
        match self.presence.user_of(conn) {
            Some(known) if known.key == user.key => {
                let client_id = reply.client_id.as_ref();
                self.reply(conn, &ServerFrame::UserConnected { user_id: user, client_id });
            }
            _ => {
                // The grace is for a connection that was lost, not for a change of name.
                self.presence.leave(conn, now.instant, Duration::ZERO);
                self.arrive(conn, user, reply.client_id.as_ref());
            }
        }
    }

    fn online_users(&mut self, conn: ConnId, thread: Option<&Id>, client_id: Option<&Id>) {
        let user_ids: Vec<&Id> = match thread {
            None => self.presence.online().collect(),
            Some(thread) => {
                let hearers = self.threads.hearers(&thread.key);
                self.presence.users_among(hearers.iter().map(|hearer| hearer.conn))
            }
        };
        let frame = ServerFrame::OnlineUsers { thread_id: thread, user_ids: &user_ids, client_id };
        let frame = self.encoder.encode(&frame);
        self.effects.push_back(Effect::Send { to: conn, frame });
    }

    // ---- frames

    fn frame(&mut self, conn: ConnId, text: &str, now: Now) {
        debug_assert!(self.is_open(conn), "only who is open speaks");
        let (reply, frame) = parse(text);
        if let Err(fault) =
            frame.and_then(|frame| self.client_frame(conn, frame, text, &reply, now))
        {
            self.error(conn, &reply, &fault);
        }
    }

    fn client_frame(
        &mut self,
        conn: ConnId,
        frame: ClientFrame<'_>,
        text: &str,
        reply: &ReplyTo,
        now: Now,
    ) -> Result<(), ClientError> {
        let client_id = reply.client_id.as_ref();
        match frame {
            ClientFrame::UserConnected { user } => self.user_connected(conn, &user, reply, now),
            ClientFrame::JoinThread { thread } => self.join_thread(conn, &thread, client_id)?,
            ClientFrame::LeaveThread { thread } => self.leave_thread(conn, &thread, client_id),
            ClientFrame::SendMessage(message) => self.send_message(conn, message, reply)?,
            ClientFrame::Typing { thread, typing } => {
                self.typing(conn, &thread, typing, client_id, now);
            }
            ClientFrame::Call(call) => self.call(conn, &call, text)?,
            ClientFrame::OnlineUsers { thread } => {
                self.online_users(conn, thread.as_ref(), client_id);
            }
            ClientFrame::Ping => self.reply(conn, &ServerFrame::Pong { client_id }),
        }
        Ok(())
    }

    fn join_thread(
        &mut self,
        conn: ConnId,
        thread: &Id,
        client_id: Option<&Id>,
    ) -> Result<(), ClientError> {
        let max = self.settings.joins_per_connection;
        if self.threads.join(conn, &thread.key, max) == Joined::TooMany {
            return Err(ClientError::new(
                ErrorCode::TooManyThreads,
                format!("A connection may join {max} threads; leave one first."),
            ));
        }
        self.reply(conn, &ServerFrame::ThreadJoined { thread_id: thread, client_id });
        Ok(())
    }

    fn leave_thread(&mut self, conn: ConnId, thread: &Id, client_id: Option<&Id>) {
        if let Some(typist) = self.threads.typing_stops_here(conn, &thread.key) {
            self.typing_over(&typist);
        }
        // Who did not hear it is where they wanted to be.
        self.threads.leave(conn, &thread.key);
        self.reply(conn, &ServerFrame::ThreadLeft { thread_id: thread, client_id });
    }

    fn typing(
        &mut self,
        conn: ConnId,
        thread: &Id,
        typing: bool,
        client_id: Option<&Id>,
        now: Now,
    ) {
        // A sample client types before the server can know who it is (`PROTOCOL.md` 2.3).
        let user = self.presence.user_of(conn);
        let user = user.as_ref();
        if typing {
            let lasting = self.settings.typing_lasts;
            let elsewhere = self.threads.typing_starts(conn, user, thread, now.instant, lasting);
            if let Some(typist) = elsewhere {
                self.typing_over(&typist);
            }
        } else {
            self.threads.typing_stops(conn, user, &thread.key);
        }
        self.show_typing(conn, user, thread, typing, client_id);
    }

    fn call(&mut self, conn: ConnId, call: &Call, text: &str) -> Result<(), ClientError> {
        let me = self.identified(conn)?;
        let other = calls::other_party(&me.key, call)?;
        let conns = self.presence.conns_of(&other.key);
        if conns.is_empty() {
            return Err(ClientError::new(
                ErrorCode::RecipientOffline,
                "The other party of this call is not online.",
            ));
        }
        let frame = self.encoder.encode_text(&relayed(text)?);
        for to in conns {
            self.effects.push_back(Effect::Send { to: *to, frame: EncodedFrame::clone(&frame) });
        }
        Ok(())
    }

    fn identified(&self, conn: ConnId) -> Result<Id, ClientError> {
        self.presence.user_of(conn).ok_or_else(|| {
            ClientError::new(
                ErrorCode::NotIdentified,
                "The server does not know who you are: send user_connected with your userId first.",
            )
        })
    }

    // ---- messages

    fn send_message(
        &mut self,
        conn: ConnId,
        message: SendMessage<'_>,
        reply: &ReplyTo,
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
            None | Some("") => None,
            Some(text) => Some(Credential::parse(text)?),
        };
        let job = Job {
            conn,
            reply: reply.clone(),
            recipient: message.recipient,
            claimed: self.presence.user_of(conn),
            target,
            text: Arc::from(message.text.as_ref()),
            credential,
        };
        match self.delivery.accept(job, &self.settings.deliveries) {
            Ok(Some((request, ask))) => self.effects.push_back(Effect::Ask { request, ask }),
            Ok(None) => {}
            Err(_) => return Err(Failure::Overloaded.client_error()),
        }
        Ok(())
    }

    fn answered(&mut self, request: RequestId, answer: Answer) {
        // Given up when the server began to stop: its sender has heard so.
        let Some((job, next)) = self.delivery.finish(request) else {
            return;
        };
        match answer {
            Answer::Stored(stored) => self.stored(&job, &stored),
            Answer::Proven(_) | Answer::Listed(_) => {}
            Answer::Failed(failure) => self.error(job.conn, &job.reply, &failure.client_error()),
        }
        if let Some((request, ask)) = next {
            self.effects.push_back(Effect::Ask { request, ask });
        }
    }

    fn stored(&mut self, job: &Job, stored: &Stored) {
        let thread = match &job.reply.thread {
            Some(asked) => asked.clone(),
            None => Id::number(stored.thread),
        };
        let sender = match &job.claimed {
            Some(claimed) if claimed.key == stored.sender.key => claimed.clone(),
            _ => stored.sender.clone(),
        };
        let turned_away = self.introduce(job, &sender, &thread);
        // The site's user and the connection's need not be the same in open trust.
        let on_any_device = self.threads.typing_stops(job.conn, Some(&sender), &thread.key);
        let here = self.threads.typing_stops_here(job.conn, &thread.key);
        for typist in on_any_device.iter().chain(&here) {
            self.typing_over(typist);
        }

        let message = stored.message.as_ref();
        let frame = |client_id| {
            ServerFrame::Message(MessageFrame {
                thread_id: &thread,
                sender_id: &sender,
                recipient_id: job.recipient.as_ref(),
                message: &job.text,
                message_id: message.map(|message| message.id),
                sent_at: message.map(|message| message.sent_at.as_str()),
                html: message.map(|message| message.html.as_str()),
                client_id,
            })
        };
        let for_others = self.show(&thread.key, job.conn, job.reply.client_id.as_ref(), frame);
        for to in turned_away {
            self.effects.push_back(Effect::Send { to, frame: EncodedFrame::clone(&for_others) });
        }
    }

    /// What an accepted message tells about its connection: who it is, and that it belongs to the
    /// thread (`PROTOCOL.md` 2.3); a new thread is joined by both sides' connections (2.5). Returns
    /// those that have joined as many as they may: they get this one message all the same.
    fn introduce(&mut self, job: &Job, sender: &Id, thread: &Id) -> Vec<ConnId> {
        let mut turned_away = Vec::new();
        if self.is_open(job.conn) {
            if self.presence.user_of(job.conn).is_none() {
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

    /// Joins without being asked, and says so if it is new; false if the limit is reached.
    fn join_quietly(&mut self, conn: ConnId, thread: &Id) -> bool {
        let max = self.settings.joins_per_connection;
        let joined = self.threads.join(conn, &thread.key, max);
        if joined == Joined::New {
            self.reply(conn, &ServerFrame::ThreadJoined { thread_id: thread, client_id: None });
        }
        joined != Joined::TooMany
    }

    // ---- typing

    fn show_typing(
        &mut self,
        conn: ConnId,
        user: Option<&Id>,
        thread: &Id,
        typing: bool,
        client_id: Option<&Id>,
    ) {
        let frame =
            |client_id| ServerFrame::Typing { thread_id: thread, user_id: user, typing, client_id };
        self.show(&thread.key, conn, client_id, frame);
    }

    fn typing_over(&mut self, typist: &Typist) {
        self.show_typing(typist.conn, typist.user.as_ref(), &typist.thread, false, None);
    }

    fn stop_typing_on(&mut self, conn: ConnId) {
        while let Some(typist) = self.threads.typing_stops_on(conn) {
            self.typing_over(&typist);
        }
    }

    // ---- ways to send

    /// Sends what `author` caused to everyone who hears the thread and, joined or not, to the
    /// author, whose copy alone carries their `clientId`. Returns the others' copy.
    fn show<'a>(
        &mut self,
        thread: &IdKey,
        author: ConnId,
        client_id: Option<&'a Id>,
        frame: impl Fn(Option<&'a Id>) -> ServerFrame<'a>,
    ) -> EncodedFrame {
        let encoded = self.encoder.encode(&frame(None));
        if self.is_open(author) {
            let own = match client_id {
                Some(_) => self.encoder.encode(&frame(client_id)),
                None => EncodedFrame::clone(&encoded),
            };
            self.effects.push_back(Effect::Send { to: author, frame: own });
        }
        for hearer in self.threads.hearers(thread) {
            if hearer.conn != author {
                let frame = EncodedFrame::clone(&encoded);
                self.effects.push_back(Effect::Send { to: hearer.conn, frame });
            }
        }
        encoded
    }

    fn broadcast(&mut self, frame: &EncodedFrame, except: Option<ConnId>) {
        for to in self.open.iter().flatten().copied().filter(|conn| Some(*conn) != except) {
            self.effects.push_back(Effect::Send { to, frame: EncodedFrame::clone(frame) });
        }
    }

    fn reply(&mut self, to: ConnId, frame: &ServerFrame<'_>) {
        let frame = self.encoder.encode(frame);
        self.effects.push_back(Effect::Send { to, frame });
    }

    fn error(&mut self, to: ConnId, reply: &ReplyTo, fault: &ClientError) {
        if self.is_open(to) {
            self.reply(to, &ServerFrame::Error(ErrorFrame::new(fault, reply)));
        }
    }

    // ---- for the shell and the tests

    /// How many WebSockets are open, threads heard, and messages on their way.
    pub fn census(&self) -> Census {
        Census {
            connections: self.open.iter().flatten().count(),
            threads: self.threads.count(),
            deliveries: self.delivery.count(),
        }
    }

    /// Asserts that the tables of each room agree with each other.
    pub fn check_invariants(&self) {
        self.presence.check_invariants();
        self.threads.check_invariants();
        self.delivery.check_invariants();
    }
}

fn site_number(id: &Id, field: &'static str) -> Result<u64, ClientError> {
    id.site_number().ok_or_else(|| {
        let what = format!("{field} must be a whole number from 1 to {SITE_ID_MAX} to send to.");
        ClientError::new(ErrorCode::InvalidField, what)
    })
}

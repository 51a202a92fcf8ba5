//! Who calls whom: what the hub decides of a call frame. The calls themselves are in [`super::calls`].

use super::Hub;
use super::calls::{Beginning, CallIx, Full, GROUP_MAX, Seat, Step};
use super::interface::{CallEvent, ConnId, Effect, Now};
use crate::config::Trust;
use crate::protocol::call::{Call, CallKind, Relayed};
use crate::protocol::client::ReplyTo;
use crate::protocol::server::{CallState, EncodedFrame, EndReason, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id, IdKey};

/// A call frame, and what is known of it.
struct Said<'a> {
    conn: ConnId,
    me: Id,
    call: Call,
    /// The other party, where the frame or its call names one.
    other: Option<Id>,
    reply: &'a mut ReplyTo,
    relayed: Relayed,
    now: Now,
}

impl Said<'_> {
    fn names_calls(&self) -> bool {
        self.call.call.is_some()
    }
}

impl Hub {
    /// A call frame, as far as it may go on: it may have to wait for the site's word on its thread.
    ///
    /// # Errors
    ///
    /// It is nobody's call, or not theirs, or there is no room for it.
    pub(super) fn call(
        &mut self,
        conn: ConnId,
        call: Call,
        reply: &mut ReplyTo,
        text: &str,
        now: Now,
    ) -> Result<(), ClientError> {
        let me = self.identified(conn)?;
        let mut other = call.other_party(&me.key)?.cloned();
        let id = call.call.as_ref().map(|id| &id.key);
        let found = self.calls.find(&me.key, other.as_ref().map(|other| &other.key), id);
        if let Some(ix) = found {
            let its = self.calls.get(ix);
            reply.call = Some(its.id.clone());
            let at = its.party(&me.key).filter(|_| !its.is_group);
            other = other.or_else(|| at.map(|at| its.parties[its.other(at)].user.clone()));
        }
        // Who ends a call needs nobody's leave.
        if !ends(call.kind) {
            let of_call = found.and_then(|ix| self.calls.get(ix).thread.clone());
            let thread = reply.thread.clone().or(of_call);
            if !self.admits_to_call(conn, thread.as_ref(), other.as_ref(), text, now)? {
                return Ok(());
            }
        }
        let relayed = Relayed::read(text, &me.key)?;
        let said = Said { conn, me, call, other, reply, relayed, now };
        let outcome = match found {
            Some(ix) => self.in_call(ix, said),
            None => self.outside(said),
        };
        self.tell_of_calls();
        outcome
    }

    fn admits_to_call(
        &mut self,
        conn: ConnId,
        thread: Option<&Id>,
        other: Option<&Id>,
        text: &str,
        now: Now,
    ) -> Result<bool, ClientError> {
        match (self.settings.trust, other, thread) {
            (Trust::Open, ..) => Ok(true),
            (_, Some(other), _) => self.admits_call(conn, thread, other, text, now),
            (_, None, Some(thread)) => {
                self.admits(conn, thread, text, std::time::Duration::ZERO, now)
            }
            // A call that nobody knows, in no thread: that is said below.
            (_, None, None) => Ok(true),
        }
    }

    // ---- in a call

    fn in_call(&mut self, ix: CallIx, said: Said<'_>) -> Result<(), ClientError> {
        let Some(seat) = self.calls.seat(ix, &said.me.key, said.conn) else {
            debug_assert!(false, "a call that was found is theirs");
            return Ok(());
        };
        if said.names_calls() {
            self.calls.names_calls(ix, &said.me.key);
        }
        let seat = match (seat, said.call.kind) {
            (_, CallKind::Resume | CallKind::Joined | CallKind::Initiated) => seat,
            // The app has not asked for its place, and speaks as the one that has it.
            (Seat::Vacant, _) => {
                self.sit_again(ix, &said);
                Seat::In
            }
            _ => seat,
        };
        let is_group = self.calls.get(ix).is_group;
        match said.call.kind {
            CallKind::Initiated => self.call_again(ix, seat, said),
            CallKind::Offer if !is_group => self.offer(ix, seat, said),
            CallKind::Answer if !is_group && seat == Seat::Ringing => {
                let frame = self.relay(ix, &said);
                self.calls.accept(ix, &said.me.key, said.conn, (&frame, false), said.now.instant);
                Ok(())
            }
            CallKind::Candidate if !is_group => self.candidate(ix, seat, &said),
            CallKind::Offer | CallKind::Answer | CallKind::Candidate => {
                self.pass_on(ix, seat, &said)
            }
            CallKind::Ringing if seat == Seat::Ringing => {
                let frame = self.relay(ix, &said);
                self.calls.pass_to_all(ix, &said.me.key, &frame);
                Ok(())
            }
            // It has been answered meanwhile.
            CallKind::Ringing => Ok(()),
            CallKind::Resume => self.resume(ix, seat, &said),
            CallKind::Joined if is_group => self.join(ix, said),
            CallKind::Joined => Err(ClientError::new(
                ErrorCode::NotYourCall,
                "This is a call of two: send an answer to take it.",
            )),
            CallKind::Rejected
            | CallKind::Cancelled
            | CallKind::Hangup { .. }
            | CallKind::Busy
            | CallKind::Left => self.hang_up(ix, seat, &said),
        }
    }

    /// The caller rings again, or begins anew with someone with whom they are in a call already.
    fn call_again(&mut self, ix: CallIx, seat: Seat, said: Said<'_>) -> Result<(), ClientError> {
        let call = self.calls.get(ix);
        let (is_caller, is_group) = (self.calls.is_caller(ix, &said.me.key), call.is_group);
        let rings = call.rings();
        if is_group && said.other.is_some() {
            return Err(ClientError::new(
                ErrorCode::NotYourCall,
                "callId names a group call: send offers to those who are in it.",
            ));
        }
        match seat {
            _ if is_caller && rings => {
                self.sit_again(ix, &said);
                self.ring_again(ix, &said, false);
                Ok(())
            }
            Seat::Ringing if said.names_calls() => Err(ClientError::new(
                ErrorCode::NotYourCall,
                "This call rings you: send an answer to take it.",
            )),
            // Both call each other, and this one has no name to compare: the first stands.
            Seat::Ringing => {
                self.lose_to(ix, None, &said);
                Ok(())
            }
            _ if is_group => Ok(()),
            _ => self.begin_instead(ix, said),
        }
    }

    fn offer(&mut self, ix: CallIx, seat: Seat, said: Said<'_>) -> Result<(), ClientError> {
        let rings = self.calls.get(ix).rings();
        match seat {
            Seat::Ringing => {
                let frame = self.relay(ix, &said);
                self.calls.accept(ix, &said.me.key, said.conn, (&frame, true), said.now.instant);
                Ok(())
            }
            // The device that makes the offer is the one that calls.
            Seat::In | Seat::Elsewhere if rings => {
                self.sit_again(ix, &said);
                self.ring_again(ix, &said, true);
                Ok(())
            }
            Seat::Elsewhere if !said.names_calls() => self.begin_instead(ix, said),
            _ => self.pass_on(ix, seat, &said),
        }
    }

    fn candidate(&mut self, ix: CallIx, seat: Seat, said: &Said<'_>) -> Result<(), ClientError> {
        let rings = self.calls.get(ix).rings();
        match seat {
            Seat::Ringing => {
                let frame = self.relay(ix, said);
                self.calls.candidate_of_called(ix, said.conn, &frame);
                Ok(())
            }
            Seat::In if rings => {
                let frame = self.relay(ix, said);
                self.calls.candidate_of_caller(ix, &frame);
                Ok(())
            }
            _ => self.pass_on(ix, seat, said),
        }
    }

    /// What one device says to the other.
    fn pass_on(&mut self, ix: CallIx, seat: Seat, said: &Said<'_>) -> Result<(), ClientError> {
        match seat {
            Seat::In | Seat::Vacant => {}
            Seat::Elsewhere => return Err(elsewhere()),
            Seat::Ringing => {
                return Err(ClientError::new(
                    ErrorCode::NotYourCall,
                    "You are not in this group call: send call_joined first.",
                ));
            }
        }
        let call = self.calls.get(ix);
        let Some(at) = said.other.as_ref().and_then(|other| call.party(&other.key)) else {
            return Err(ClientError::new(
                ErrorCode::MissingField,
                "recipientId is missing: in a group call it says for whom this is.",
            ));
        };
        if !call.parties[at].is_in() {
            return Err(ClientError::new(
                ErrorCode::NotYourCall,
                "The recipient has not joined this group call.",
            ));
        }
        let answers = said.call.kind == CallKind::Answer && call.state == CallState::Connecting;
        let frame = self.relay(ix, said);
        if !self.calls.pass(ix, at, &frame) {
            return Err(ClientError::new(
                ErrorCode::RecipientOffline,
                "The other device has lost its connection, and no more is kept for it.",
            ));
        }
        if answers {
            self.calls.is_answered(ix, said.now.instant);
        }
        Ok(())
    }

    fn hang_up(&mut self, ix: CallIx, seat: Seat, said: &Said<'_>) -> Result<(), ClientError> {
        let call = self.calls.get(ix);
        let is_answered = call.is_group || !call.rings();
        let reason = match (said.call.kind, seat) {
            (_, Seat::Elsewhere) if is_answered => return Err(elsewhere()),
            (CallKind::Busy, Seat::Ringing) => EndReason::Busy,
            (_, Seat::Ringing) => EndReason::Rejected,
            (CallKind::Hangup { failed: true }, _) => EndReason::Failed,
            _ if is_answered => EndReason::Hangup,
            _ => EndReason::Cancelled,
        };
        let frame = self.relay(ix, said);
        self.calls.pass_to_all(ix, &said.me.key, &frame);
        self.calls.leave(ix, &said.me.key, reason, said.now.instant);
        Ok(())
    }

    fn resume(&mut self, ix: CallIx, seat: Seat, said: &Said<'_>) -> Result<(), ClientError> {
        let kept = match seat {
            Seat::Ringing => Vec::new(),
            _ => self.calls.sit(ix, &said.me.key, said.conn),
        };
        let call = self.calls.get(ix);
        let (call_id, state) = (call.id.clone(), call.shown_state());
        let frame = |client_id| ServerFrame::CallResumed {
            call_id: &call_id,
            user_id: &said.me,
            state,
            client_id,
        };
        let others = self.encoder.encode(&frame(None));
        self.reply(said.conn, &frame(said.reply.client_id.as_ref()));
        if seat != Seat::Ringing {
            self.calls.pass_to_all(ix, &said.me.key, &others);
        }
        self.give(said.conn, kept);
        Ok(())
    }

    /// A device whose place was vacant speaks, without having asked for it.
    fn sit_again(&mut self, ix: CallIx, said: &Said<'_>) {
        let kept = self.calls.sit(ix, &said.me.key, said.conn);
        self.give(said.conn, kept);
    }

    fn give(&mut self, to: ConnId, frames: Vec<EncodedFrame>) {
        self.effects.extend(frames.into_iter().map(|frame| Effect::Send { to, frame }));
    }

    // ---- outside of any call

    fn outside(&mut self, said: Said<'_>) -> Result<(), ClientError> {
        match (said.call.kind, &said.other, &said.call.call) {
            (CallKind::Initiated, None, _) => self.begin_group(said),
            (CallKind::Initiated | CallKind::Offer, Some(other), _) => {
                match self.calls.between(&said.me.key, &other.key) {
                    Some(ix) => self.begin_beside(ix, said),
                    None => self.begin(said),
                }
            }
            // An app that knows of no calls, and a call that the server does not know.
            (CallKind::Answer | CallKind::Candidate, Some(other), None) => {
                let conns = self.presence.conns_of(&other.key).to_vec();
                if conns.is_empty() {
                    return Err(offline());
                }
                let frame = self.encoder.encode_text(&said.relayed.naming(None, None));
                self.spread(conns, &frame, false);
                Ok(())
            }
            (CallKind::Joined, _, Some(id)) => {
                let thread = said.reply.thread.as_ref();
                match thread.and_then(|thread| self.calls.group_in(&thread.key, &id.key)) {
                    Some(ix) => self.join(ix, said),
                    None => self.over_already(said),
                }
            }
            _ => self.over_already(said),
        }
    }

    /// The call that a frame names is over, or there was none.
    fn over_already(&mut self, said: Said<'_>) -> Result<(), ClientError> {
        let over = said
            .call
            .call
            .as_ref()
            .and_then(|id| self.calls.ended(&said.me.key, &id.key, said.now.instant));
        match over {
            Some(over) if said.call.kind == CallKind::Resume => {
                let (call_id, thread_id, reason) = (&over.id, over.thread.as_ref(), over.reason);
                let frame =
                    ServerFrame::CallEnded { call_id, thread_id, reason, continues_as: None };
                let frame = self.encoder.encode(&frame);
                self.effects.push_back(Effect::Send { to: said.conn, frame });
                Ok(())
            }
            _ => Err(ClientError::new(
                ErrorCode::NoSuchCall,
                "You are in no such call; it may be over.",
            )),
        }
    }

    /// Both call each other, or one calls who is in a call with them already.
    fn begin_beside(&mut self, ix: CallIx, said: Said<'_>) -> Result<(), ClientError> {
        let call = self.calls.get(ix);
        if !call.rings() || self.calls.is_caller(ix, &said.me.key) {
            return self.begin_instead(ix, said);
        }
        let mine = said.call.call.as_ref();
        if mine.is_none_or(|mine| text_of(mine) > text_of(&call.id)) {
            let mine = mine.cloned();
            self.lose_to(ix, mine, &said);
            return Ok(());
        }
        self.check_room(&said)?;
        let stands = mine.cloned();
        self.calls.end(ix, EndReason::Glare, stands, said.now.instant);
        self.tell_of_calls();
        self.begin_now(said)
    }

    /// This one ends before it has begun: the other's call stands.
    fn lose_to(&mut self, ix: CallIx, mine: Option<Id>, said: &Said<'_>) {
        let call = mine.unwrap_or_else(|| self.calls.make_id(said.now.unix_s));
        let stands = self.calls.get(ix);
        let frame = self.encoder.encode(&ServerFrame::CallEnded {
            call_id: &call,
            thread_id: said.reply.thread.as_ref(),
            reason: EndReason::Glare,
            continues_as: Some(&stands.id),
        });
        self.effects.push_back(Effect::Send { to: said.conn, frame });
    }

    /// A call takes the place of one that its caller has left behind.
    fn begin_instead(&mut self, ix: CallIx, said: Said<'_>) -> Result<(), ClientError> {
        self.check_room(&said)?;
        let rings = self.calls.get(ix).rings();
        let reason = if rings { EndReason::Cancelled } else { EndReason::Hangup };
        self.calls.end(ix, reason, None, said.now.instant);
        self.tell_of_calls();
        self.begin_now(said)
    }

    fn begin(&mut self, said: Said<'_>) -> Result<(), ClientError> {
        self.check_room(&said)?;
        self.begin_now(said)
    }

    /// Whether there is room for a call of two; an attempt is counted.
    fn check_room(&mut self, said: &Said<'_>) -> Result<(), ClientError> {
        let others = said.other.iter().map(|other| &other.key);
        let bounds = &self.settings.calls;
        let room = self.calls.room(&said.me.key, others, bounds, said.now.instant);
        room.map_err(|full| too_many(full, bounds.attempts))
    }

    fn begin_now(&mut self, said: Said<'_>) -> Result<(), ClientError> {
        let Some(other) = said.other.clone() else {
            debug_assert!(false, "a call of two has two");
            return Ok(());
        };
        let id = self.name_call(&said, [&said.me.key, &other.key])?;
        said.reply.call = Some(id.clone());
        if self.settings.calls.refuses_when_busy && self.calls.is_busy(&other.key) {
            let (reason, thread_id) = (EndReason::Busy, said.reply.thread.as_ref());
            let busy =
                ServerFrame::CallEnded { call_id: &id, thread_id, reason, continues_as: None };
            self.reply(said.conn, &busy);
            return Ok(());
        }
        let devices = self.presence.conns_of(&other.key).to_vec();
        let is_offline = devices.is_empty();
        if is_offline {
            let event = CallEvent {
                call: id.clone(),
                thread: said.reply.thread.clone(),
                caller: said.me.clone(),
                called: other.clone(),
            };
            self.effects.push_back(Effect::Wake(Box::new(event)));
            // Its app would not know how to take back a call that goes on.
            if !said.names_calls() {
                return Err(offline());
            }
        }
        let frame = self.encoder.encode_text(&said.relayed.naming(Some(&id), None));
        let new = Beginning {
            id,
            thread: said.reply.thread.clone(),
            caller: said.me.clone(),
            device: said.conn,
            names_calls: said.names_calls(),
            called: vec![(other, &devices[..])],
            is_group: false,
            frame: &frame,
            is_offer: said.call.kind == CallKind::Offer,
        };
        self.calls.begin(new, &self.settings.calls, said.now.instant);
        if is_offline { Err(offline()) } else { Ok(()) }
    }

    fn name_call<'a>(
        &mut self,
        said: &Said<'_>,
        users: impl IntoIterator<Item = &'a IdKey>,
    ) -> Result<Id, ClientError> {
        match &said.call.call {
            None => Ok(self.calls.make_id(said.now.unix_s)),
            Some(id) if self.calls.is_taken(&id.key, users) => Err(ClientError::new(
                ErrorCode::InvalidField,
                "callId is the name of another call; choose one that is new, such as a UUID.",
            )),
            Some(id) => Ok(id.clone()),
        }
    }

    // ---- groups

    fn begin_group(&mut self, said: Said<'_>) -> Result<(), ClientError> {
        let Some(thread) = said.reply.thread.clone() else {
            debug_assert!(false, "who names nobody names a thread");
            return Ok(());
        };
        let mut users = self.participants(&thread);
        users.retain(|user| user.key != said.me.key);
        if users.len() >= GROUP_MAX {
            let text = format!("A group call is for a thread of up to {GROUP_MAX}.");
            return Err(ClientError::new(ErrorCode::ThreadTooLarge, text));
        }
        users.retain(|user| !self.presence.conns_of(&user.key).is_empty());
        let bounds = &self.settings.calls;
        let called = users.iter().map(|user| &user.key);
        let room = self.calls.room(&said.me.key, called.clone(), bounds, said.now.instant);
        room.map_err(|full| too_many(full, bounds.attempts))?;
        let id = self.name_call(&said, called.chain([&said.me.key]))?;
        said.reply.call = Some(id.clone());
        if users.is_empty() {
            return Err(ClientError::new(
                ErrorCode::RecipientOffline,
                "Nobody else of this thread is online.",
            ));
        }
        let frame = self.encoder.encode_text(&said.relayed.naming(Some(&id), Some(&said.me)));
        let presence = &self.presence;
        let called = users.into_iter().map(|user| {
            let devices = presence.conns_of(&user.key);
            (user, devices)
        });
        let new = Beginning {
            id,
            thread: Some(thread),
            caller: said.me.clone(),
            device: said.conn,
            names_calls: said.names_calls(),
            called: called.collect(),
            is_group: true,
            frame: &frame,
            is_offer: false,
        };
        self.calls.begin(new, &self.settings.calls, said.now.instant);
        Ok(())
    }

    /// Who takes part in a thread, or, in open trust, who hears it.
    fn participants(&self, thread: &Id) -> Vec<Id> {
        if self.settings.trust == Trust::Open {
            let hearers = self.threads.hearers(&thread.key).iter();
            let users = self.presence.users_among(hearers.map(|hearer| hearer.conn));
            return users.into_iter().cloned().collect();
        }
        let people = thread.site_number().into_iter().flat_map(|n| self.membership.people(n));
        people.map(|user| Id::number(*user)).collect()
    }

    fn join(&mut self, ix: CallIx, said: Said<'_>) -> Result<(), ClientError> {
        if !self.calls.join(ix, &said.me, said.conn) {
            let text = format!("{GROUP_MAX} people are in this group call: it is full.");
            return Err(ClientError::new(ErrorCode::CallFull, text));
        }
        let call = self.calls.get(ix);
        let (call_id, thread) = (call.id.clone(), call.thread.clone());
        let is_in = call.parties.iter().filter(|party| party.is_in());
        let all: Vec<Id> = is_in.map(|party| party.user.clone()).collect();
        let frame = |user_ids, client_id| ServerFrame::CallJoined {
            call_id: &call_id,
            thread_id: thread.as_ref(),
            user_id: &said.me,
            user_ids,
            client_id,
        };
        let others = self.encoder.encode(&frame(None, None));
        self.reply(said.conn, &frame(Some(&all), said.reply.client_id.as_ref()));
        self.calls.pass_to_all(ix, &said.me.key, &others);
        Ok(())
    }

    // ---- telling

    /// The frame as others get it: of a group call, and of what only this server knows, with its
    /// author.
    fn relay(&mut self, ix: CallIx, said: &Said<'_>) -> EncodedFrame {
        let call = self.calls.get(ix);
        let is_documented = matches!(
            said.call.kind,
            CallKind::Initiated | CallKind::Offer | CallKind::Answer | CallKind::Candidate
        );
        let author = Some(&said.me).filter(|_| call.is_group || !is_documented);
        self.encoder.encode_text(&said.relayed.naming(Some(&call.id), author))
    }

    fn ring_again(&mut self, ix: CallIx, said: &Said<'_>, is_offer: bool) {
        let frame = self.relay(ix, said);
        let settings = &self.settings.calls;
        self.calls.ring_again(ix, (&frame, is_offer), settings, said.now.instant);
    }

    /// Tells all devices what has become of their calls.
    pub(super) fn tell_of_calls(&mut self) {
        for step in self.calls.take_steps() {
            match step {
                Step::Tell { to, frame } => self.spread(to, &frame, false),
                Step::Ended { to, call, thread, reason, continues_as } => {
                    let (continues_as, thread_id) = (continues_as.as_ref(), thread.as_ref());
                    let call_id = &call;
                    let frame = ServerFrame::CallEnded { call_id, thread_id, reason, continues_as };
                    let frame = self.encoder.encode(&frame);
                    self.spread(to, &frame, false);
                }
                Step::Left { to, call, thread, user, reason } => {
                    let (call_id, thread_id, user_id) = (&call, thread.as_ref(), &user);
                    let frame = ServerFrame::CallLeft { call_id, thread_id, user_id, reason };
                    let frame = self.encoder.encode(&frame);
                    self.spread(to, &frame, false);
                }
            }
        }
    }

    /// Ends the part in a thread's calls of those of whom this is not so any more.
    pub(super) fn end_calls_of(&mut self, gone: Vec<(CallIx, Id)>, now: Now) {
        for (ix, user) in gone {
            // It may have ended with the party before.
            if self.calls.is_party(ix, &user.key) {
                self.calls.leave(ix, &user.key, EndReason::Failed, now.instant);
            }
        }
        self.tell_of_calls();
    }
}

fn ends(kind: CallKind) -> bool {
    matches!(
        kind,
        CallKind::Rejected
            | CallKind::Cancelled
            | CallKind::Hangup { .. }
            | CallKind::Busy
            | CallKind::Left
    )
}

/// The letters of an id: what the lesser of two is told by.
fn text_of(id: &Id) -> String {
    match &id.key {
        IdKey::Number(number) => number.to_string(),
        IdKey::Text(text) => text.to_string(),
    }
}

fn offline() -> ClientError {
    let text = "The other party of this call is not online.";
    ClientError::new(ErrorCode::RecipientOffline, text)
}

fn elsewhere() -> ClientError {
    let text = "Another device of yours is in this call.";
    ClientError::new(ErrorCode::NotYourCall, text)
}

fn too_many(full: Full, attempts: usize) -> ClientError {
    let text = match full {
        Full::Attempts => {
            format!("You may begin {attempts} calls a minute. Try again in a moment.")
        }
        Full::Caller => "Too many calls of yours ring already. End one first.".to_owned(),
        Full::Called => "Too many calls ring the other party already. Try again later.".to_owned(),
        Full::Server => "There are too many calls on this server. Try again later.".to_owned(),
    };
    ClientError::new(ErrorCode::TooManyCalls, text)
}

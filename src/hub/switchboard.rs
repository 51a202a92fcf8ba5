//! Who calls whom: what the hub decides of a call frame. The calls are in [`super::calls`].

mod beginning;

use super::Hub;
use super::calls::{CallIx, GROUP_MAX, Seat, Step, Told};
use super::interface::{ConnId, Effect, Now};
use crate::config::Trust;
use crate::protocol::call::{Call, CallKind, Relayed};
use crate::protocol::client::ReplyTo;
use crate::protocol::server::{CallState, EncodedFrame, EndReason, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id};

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
    fn names_call(&self) -> bool {
        self.call.call.is_some()
    }

    /// Whether its app knows of calls.
    fn knows_calls(&self) -> bool {
        self.names_call() || !self.call.kind.is_documented()
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
        // What begins its call may be waiting for the site's word: it must not overtake that.
        let follows = call.kind.ends() || (call.kind.is_documented() && reply.thread.is_none());
        let before = self.membership.last_wait_of(conn).filter(|_| follows && found.is_none());
        if let Some((thread, user)) = before.zip(self.presence.number_of(conn)) {
            return self.hold_for_list(thread, conn, user, text, now);
        }
        // To end a call needs nobody's leave.
        if !call.kind.ends() {
            let of_call = found.and_then(|ix| self.calls.get(ix).thread.clone());
            let thread = reply.thread.clone().or(of_call);
            let (thread, other) = (thread.as_ref(), other.as_ref());
            let goes_on = found.is_some_and(|ix| self.goes_on(ix, &call, conn, thread, other, now));
            if !goes_on && !self.admits_to_call(conn, thread, other, text, now)? {
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

    /// Whether a frame goes on in a call as its parties were last known. What rings is new to who
    /// hears it: it goes by a list that holds.
    fn goes_on(
        &mut self,
        ix: CallIx,
        call: &Call,
        conn: ConnId,
        thread: Option<&Id>,
        other: Option<&Id>,
        now: Now,
    ) -> bool {
        let rings = match call.kind {
            CallKind::Initiated => true,
            CallKind::Offer => self.begins_anew(ix),
            _ => false,
        };
        let its = self.calls.get(ix).thread.as_ref().map(|thread| &thread.key);
        match thread.filter(|thread| !rings && its == Some(&thread.key)).zip(other) {
            Some((thread, other)) => self.goes_by_last_list(conn, thread, other, now),
            None => false,
        }
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
        if said.knows_calls() {
            self.calls.knows_calls(ix, &said.me.key);
        }
        let seat = match (seat, said.call.kind) {
            (_, CallKind::Resume | CallKind::Joined | CallKind::Initiated) => seat,
            (_, CallKind::Offer) if self.begins_anew(ix) => seat,
            // A device says it that rang, not one that was in.
            (Seat::Vacant, CallKind::Ringing | CallKind::Rejected | CallKind::Busy) => {
                Seat::Elsewhere
            }
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
            CallKind::Answer if !is_group && seat == Seat::Ringing => self.accept(ix, &said, false),
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
            Seat::Ringing if said.names_call() => Err(ClientError::new(
                ErrorCode::NotYourCall,
                "This call rings you: take it instead.",
            )),
            // Both call each other, and this one has no name to compare: the first stands.
            Seat::Ringing => self.lose_to(ix, None, &said),
            _ if is_caller && rings => {
                self.sit_again(ix, &said);
                self.ring_again(ix, &said, false);
                Ok(())
            }
            _ if is_group => Ok(()),
            // It has been answered meanwhile.
            Seat::Elsewhere if said.names_call() => Err(elsewhere()),
            _ if said.names_call() => {
                self.sit_again(ix, &said);
                Ok(())
            }
            _ => self.begin_instead(ix, said),
        }
    }

    fn offer(&mut self, ix: CallIx, seat: Seat, said: Said<'_>) -> Result<(), ClientError> {
        let rings = self.calls.get(ix).rings();
        match seat {
            Seat::Ringing => self.accept(ix, &said, true),
            // The device that makes the offer is the one that calls.
            Seat::In | Seat::Elsewhere if rings => {
                self.sit_again(ix, &said);
                self.ring_again(ix, &said, true);
                Ok(())
            }
            Seat::Elsewhere if !said.names_call() => self.begin_instead(ix, said),
            _ if self.begins_anew(ix) => self.begin_instead(ix, said),
            _ => self.pass_on(ix, seat, &said),
        }
    }

    fn accept(&mut self, ix: CallIx, said: &Said<'_>, is_offer: bool) -> Result<(), ClientError> {
        let frame = self.relay(ix, said);
        let (settings, at) = (&self.settings.calls, (&said.me.key, said.conn));
        let reaches = self.calls.accept(ix, at, (&frame, is_offer), settings, said.now.instant);
        if reaches { Ok(()) } else { Err(not_kept()) }
    }

    /// Whether an offer within a call begins another: apps that know of no calls may begin each
    /// with an offer, and hang up without a word.
    fn begins_anew(&self, ix: CallIx) -> bool {
        !self.calls.get(ix).rings() && !self.calls.is_known(ix)
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
                match call.is_group {
                    true => "The recipient has not joined this group call.",
                    false => "Nobody has answered this call yet.",
                },
            ));
        }
        let answers = said.call.kind == CallKind::Answer && call.state == CallState::Connecting;
        let frame = self.relay(ix, said);
        if !self.calls.pass(ix, at, &frame) {
            return Err(not_kept());
        }
        if answers {
            self.calls.is_answered(ix, said.now.instant);
        }
        Ok(())
    }

    fn hang_up(&mut self, ix: CallIx, seat: Seat, said: &Said<'_>) -> Result<(), ClientError> {
        let call = self.calls.get(ix);
        let is_group = call.is_group;
        let is_answered = is_group || !call.rings();
        let reason = match (said.call.kind, seat) {
            (_, Seat::Elsewhere) if is_answered => return Err(elsewhere()),
            (CallKind::Busy, Seat::Ringing) => EndReason::Busy,
            (_, Seat::Ringing) => EndReason::Rejected,
            (CallKind::Hangup { failed: true }, _) => EndReason::Failed,
            _ if is_answered && call.shown_state() != CallState::Ringing => EndReason::Hangup,
            _ => EndReason::Cancelled,
        };
        // A group hears from the server who leaves: these frames would look like the end for all.
        if !is_group {
            let frame = self.relay(ix, said);
            self.calls.pass_to_all(ix, &said.me.key, &frame);
        }
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

    // ---- groups

    fn join(&mut self, ix: CallIx, said: Said<'_>) -> Result<(), ClientError> {
        if !self.calls.join(ix, &said.me, said.conn, said.now.instant) {
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
        let documented = said.call.kind.is_documented();
        let author = Some(&said.me).filter(|_| call.is_group || !documented);
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
                Step::Ended { to, told } => {
                    let frame = self.encoder.encode(&ended(&told));
                    self.spread(to, &frame, false);
                }
                Step::Left { ix, to, user, told } => {
                    let (call_id, thread_id, reason) =
                        (&told.id, told.thread.as_ref(), told.reason);
                    let user_id = &user;
                    let frame = ServerFrame::CallLeft { call_id, thread_id, user_id, reason };
                    let frame = self.encoder.encode(&frame);
                    self.spread(to, &frame, false);
                    self.calls.keep_for_lost(ix, call_id, &frame);
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

fn ended(told: &Told) -> ServerFrame<'_> {
    ServerFrame::CallEnded {
        call_id: &told.id,
        thread_id: told.thread.as_ref(),
        reason: told.reason,
        continues_as: told.continues_as.as_ref(),
    }
}

fn not_kept() -> ClientError {
    let text = "The other device has lost its connection, and no more is kept for it.";
    ClientError::new(ErrorCode::RecipientOffline, text)
}

fn elsewhere() -> ClientError {
    let text = "Another device of yours is in this call.";
    ClientError::new(ErrorCode::NotYourCall, text)
}

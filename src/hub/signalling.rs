//! Who calls whom: what the hub decides of a call frame. The calls are in [`super::calls`].

mod setup;

use std::time::Duration;

use super::Hub;
use super::calls::{CallIx, DeviceState, GROUP_MAX};
use super::interface::{ConnId, Now};
use crate::protocol::call::{CallFrame, CallKind, RelayedFrame};
use crate::protocol::client::ReplyTo;
use crate::protocol::server::{CallState, EncodedFrame, EndReason, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id};

/// A call frame, and what is known of it.
struct CallRequest<'a> {
    conn: ConnId,
    me: Id,
    call: CallFrame,
    /// The other party, where the frame or its call names one.
    other: Option<Id>,
    reply: &'a mut ReplyTo,
    relayed: RelayedFrame,
    now: Now,
}

impl CallRequest<'_> {
    fn has_call_id(&self) -> bool {
        self.call.call.is_some()
    }

    /// Whether its app knows of calls.
    fn is_call_aware(&self) -> bool {
        self.has_call_id() || !self.call.kind.is_baseline()
    }
}

impl Hub {
    /// A call frame, as far as it may go on: it may have to wait for the site's word on its thread.
    ///
    /// # Errors
    ///
    /// It is nobody's call, or not theirs, or there is no room for it.
    pub(super) fn handle_call(
        &mut self,
        conn: ConnId,
        call: CallFrame,
        reply: &mut ReplyTo,
        text: &str,
        now: Now,
    ) -> Result<(), ClientError> {
        let me = self.require_user(conn)?;
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
        let follows = call.kind.is_end() || (call.kind.is_baseline() && reply.thread.is_none());
        let before = self.membership.last_held_thread(conn).filter(|_| follows && found.is_none());
        if let Some((thread, user)) = before.zip(self.presence.number_of(conn)) {
            return self.hold_for_participants(thread, conn, user, text, now);
        }
        // To end a call needs nobody's leave.
        if !call.kind.is_end() {
            let of_call = found.and_then(|ix| self.calls.get(ix).thread.clone());
            let thread = reply.thread.clone().or(of_call);
            let (thread, other) = (thread.as_ref(), other.as_ref());
            let continues_call =
                found.is_some_and(|ix| self.continues_call(ix, &call, conn, thread, other, now));
            if !continues_call && !self.authorize_call_frame(conn, thread, other, text, now)? {
                return Ok(());
            }
        }
        let relayed = RelayedFrame::read(text, &me.key)?;
        let request = CallRequest { conn, me, call, other, reply, relayed, now };
        let outcome = match found {
            Some(ix) => self.handle_in_call(ix, request),
            None => match self.find_joinable(&request) {
                Some(ix) => self.join(ix, request),
                None => self.handle_without_call(request),
            },
        };
        self.send_call_notifications();
        outcome
    }

    /// Whether a frame goes on in a call as its parties were last known. What rings is new to who
    /// hears it: it goes by a list that holds.
    fn continues_call(
        &mut self,
        ix: CallIx,
        call: &CallFrame,
        conn: ConnId,
        thread: Option<&Id>,
        other: Option<&Id>,
        now: Now,
    ) -> bool {
        let is_ringing = match call.kind {
            CallKind::Initiated => true,
            CallKind::Offer => self.is_new_call(ix),
            _ => false,
        };
        let its = self.calls.get(ix).thread.as_ref().map(|thread| &thread.key);
        match thread.filter(|thread| !is_ringing && its == Some(&thread.key)).zip(other) {
            Some((thread, other)) => self.check_stale_access(conn, thread, other, now),
            None => false,
        }
    }

    fn authorize_call_frame(
        &mut self,
        conn: ConnId,
        thread: Option<&Id>,
        other: Option<&Id>,
        text: &str,
        now: Now,
    ) -> Result<bool, ClientError> {
        match (other, thread) {
            (Some(other), _) => self.check_call_access(conn, thread, other, text, now),
            (None, Some(thread)) => self.check_access(conn, thread, text, Duration::ZERO, now),
            // An unknown call in no thread: the caller answers that with `no_such_call`.
            (None, None) => Ok(true),
        }
    }

    // ---- in a call

    fn handle_in_call(&mut self, ix: CallIx, request: CallRequest<'_>) -> Result<(), ClientError> {
        let Some(device_state) = self.calls.device_state(ix, &request.me.key, request.conn) else {
            debug_assert!(false, "a call that was found is theirs");
            return Ok(());
        };
        if request.is_call_aware() {
            self.calls.mark_call_aware(ix, &request.me.key);
        }
        let device_state = match (device_state, request.call.kind) {
            (_, CallKind::Resume | CallKind::Joined | CallKind::Initiated) => device_state,
            (_, CallKind::Offer) if self.is_new_call(ix) => device_state,
            // A device says it that rang, not one that was in.
            (
                DeviceState::Disconnected,
                CallKind::Ringing | CallKind::Rejected | CallKind::Busy,
            ) => DeviceState::OnOtherDevice,
            // The app has not asked for its place, and speaks as the one that has it.
            (DeviceState::Disconnected, _) => {
                self.reattach_device(ix, &request);
                DeviceState::Joined
            }
            _ => device_state,
        };
        let is_group = self.calls.get(ix).is_group;
        match request.call.kind {
            CallKind::Initiated => self.handle_initiated(ix, device_state, request),
            CallKind::Offer if !is_group => self.handle_offer(ix, device_state, request),
            CallKind::Answer if !is_group && device_state == DeviceState::Ringing => {
                self.accept_call(ix, &request, false)
            }
            CallKind::Candidate if !is_group => self.handle_candidate(ix, device_state, &request),
            CallKind::Offer | CallKind::Answer | CallKind::Candidate => {
                self.relay_to_peer(ix, device_state, &request)
            }
            CallKind::Ringing if device_state == DeviceState::Ringing => {
                let frame = self.encode_relayed(ix, &request);
                self.calls.relay_to_others(ix, &request.me.key, &frame);
                Ok(())
            }
            // It has been answered meanwhile.
            CallKind::Ringing => Ok(()),
            CallKind::Resume => self.resume_call(ix, device_state, &request),
            CallKind::Joined if is_group => self.join(ix, request),
            CallKind::Joined => Err(ClientError::new(
                ErrorCode::NotYourCall,
                "This is a call of two: send an answer to take it.",
            )),
            CallKind::Rejected
            | CallKind::Cancelled
            | CallKind::Hangup { .. }
            | CallKind::Busy
            | CallKind::Left => self.hang_up(ix, device_state, &request),
        }
    }

    /// The caller rings again, or begins anew with someone with whom they are in a call already.
    fn handle_initiated(
        &mut self,
        ix: CallIx,
        device_state: DeviceState,
        request: CallRequest<'_>,
    ) -> Result<(), ClientError> {
        let call = self.calls.get(ix);
        let (is_caller, is_group) = (self.calls.is_caller(ix, &request.me.key), call.is_group);
        let is_ringing = call.is_ringing();
        if is_group && request.other.is_some() {
            return Err(ClientError::new(
                ErrorCode::NotYourCall,
                "callId names a group call: send offers to those who are in it.",
            ));
        }
        match device_state {
            DeviceState::Ringing if request.has_call_id() => Err(ClientError::new(
                ErrorCode::NotYourCall,
                "This call rings you: take it instead.",
            )),
            // Both call each other, and this one has no name to compare: the first stands.
            DeviceState::Ringing => self.yield_to(ix, None, &request),
            _ if is_caller && is_ringing => {
                self.reattach_device(ix, &request);
                self.ring_again(ix, &request, false);
                Ok(())
            }
            _ if is_group => Ok(()),
            // It has been answered meanwhile.
            DeviceState::OnOtherDevice if request.has_call_id() => Err(on_other_device()),
            _ if request.has_call_id() => {
                self.reattach_device(ix, &request);
                Ok(())
            }
            _ => self.replace_call(ix, request),
        }
    }

    fn handle_offer(
        &mut self,
        ix: CallIx,
        device_state: DeviceState,
        request: CallRequest<'_>,
    ) -> Result<(), ClientError> {
        let is_ringing = self.calls.get(ix).is_ringing();
        match device_state {
            DeviceState::Ringing => self.accept_call(ix, &request, true),
            // The device that makes the offer is the one that calls.
            DeviceState::Joined | DeviceState::OnOtherDevice if is_ringing => {
                self.reattach_device(ix, &request);
                self.ring_again(ix, &request, true);
                Ok(())
            }
            DeviceState::OnOtherDevice if !request.has_call_id() => self.replace_call(ix, request),
            _ if self.is_new_call(ix) => self.replace_call(ix, request),
            _ => self.relay_to_peer(ix, device_state, &request),
        }
    }

    fn accept_call(
        &mut self,
        ix: CallIx,
        request: &CallRequest<'_>,
        is_offer: bool,
    ) -> Result<(), ClientError> {
        let frame = self.encode_relayed(ix, request);
        let (settings, at) = (&self.settings.calls, (&request.me.key, request.conn));
        let delivered =
            self.calls.accept_call(ix, at, (&frame, is_offer), settings, request.now.instant);
        if delivered { Ok(()) } else { Err(buffer_full()) }
    }

    /// Whether an offer within a call begins another: apps that know of no calls may begin each
    /// with an offer, and hang up without a word.
    fn is_new_call(&self, ix: CallIx) -> bool {
        !self.calls.get(ix).is_ringing() && !self.calls.has_call_aware_party(ix)
    }

    fn handle_candidate(
        &mut self,
        ix: CallIx,
        device_state: DeviceState,
        request: &CallRequest<'_>,
    ) -> Result<(), ClientError> {
        let is_ringing = self.calls.get(ix).is_ringing();
        match device_state {
            DeviceState::Ringing => {
                let frame = self.encode_relayed(ix, request);
                self.calls.relay_callee_candidate(ix, request.conn, &frame);
                Ok(())
            }
            DeviceState::Joined if is_ringing => {
                let frame = self.encode_relayed(ix, request);
                self.calls.relay_caller_candidate(ix, &frame);
                Ok(())
            }
            _ => self.relay_to_peer(ix, device_state, request),
        }
    }

    /// What one device says to the other.
    fn relay_to_peer(
        &mut self,
        ix: CallIx,
        device_state: DeviceState,
        request: &CallRequest<'_>,
    ) -> Result<(), ClientError> {
        match device_state {
            DeviceState::Joined | DeviceState::Disconnected => {}
            DeviceState::OnOtherDevice => return Err(on_other_device()),
            DeviceState::Ringing => {
                return Err(ClientError::new(
                    ErrorCode::NotYourCall,
                    "You are not in this group call: send call_joined first.",
                ));
            }
        }
        let call = self.calls.get(ix);
        let Some(at) = request.other.as_ref().and_then(|other| call.party(&other.key)) else {
            return Err(ClientError::new(
                ErrorCode::MissingField,
                "recipientId is missing: in a group call it says for whom this is.",
            ));
        };
        if !call.parties[at].has_joined() {
            return Err(ClientError::new(
                ErrorCode::NotYourCall,
                match call.is_group {
                    true => "The recipient has not joined this group call.",
                    false => "Nobody has answered this call yet.",
                },
            ));
        }
        let answers = request.call.kind == CallKind::Answer && call.state == CallState::Connecting;
        let frame = self.encode_relayed(ix, request);
        if !self.calls.relay_to(ix, at, &frame) {
            return Err(buffer_full());
        }
        if answers {
            self.calls.mark_answered(ix, request.now.instant);
        }
        Ok(())
    }

    fn hang_up(
        &mut self,
        ix: CallIx,
        device_state: DeviceState,
        request: &CallRequest<'_>,
    ) -> Result<(), ClientError> {
        let call = self.calls.get(ix);
        let is_group = call.is_group;
        let is_answered = is_group || !call.is_ringing();
        let reason = match (request.call.kind, device_state) {
            (_, DeviceState::OnOtherDevice) if is_answered => return Err(on_other_device()),
            (CallKind::Busy, DeviceState::Ringing) => EndReason::Busy,
            (_, DeviceState::Ringing) => EndReason::Rejected,
            (CallKind::Hangup { failed: true }, _) => EndReason::Failed,
            _ if is_answered && call.reported_state() != CallState::Ringing => EndReason::Hangup,
            _ => EndReason::Cancelled,
        };
        // A group hears from the server who leaves: these frames would look like the end for all.
        if !is_group {
            let frame = self.encode_relayed(ix, request);
            self.calls.relay_to_others(ix, &request.me.key, &frame);
        }
        self.calls.leave(ix, &request.me.key, reason, request.now.instant);
        Ok(())
    }

    fn resume_call(
        &mut self,
        ix: CallIx,
        device_state: DeviceState,
        request: &CallRequest<'_>,
    ) -> Result<(), ClientError> {
        let buffered = match device_state {
            DeviceState::Ringing => Vec::new(),
            _ => self.calls.attach_device(ix, &request.me.key, request.conn),
        };
        let call = self.calls.get(ix);
        let (call_id, state) = (call.id.clone(), call.reported_state());
        let frame = |client_id| ServerFrame::CallResumed {
            call_id: &call_id,
            user_id: &request.me,
            state,
            client_id,
        };
        let others = self.output.encode(&frame(None));
        self.output.reply(request.conn, &frame(request.reply.client_id.as_ref()));
        if device_state != DeviceState::Ringing {
            self.calls.relay_to_others(ix, &request.me.key, &others);
        }
        self.send_all(request.conn, buffered);
        Ok(())
    }

    /// A device whose place was vacant speaks, without having asked for it.
    fn reattach_device(&mut self, ix: CallIx, request: &CallRequest<'_>) {
        let buffered = self.calls.attach_device(ix, &request.me.key, request.conn);
        self.send_all(request.conn, buffered);
    }

    fn send_all(&mut self, to: ConnId, frames: Vec<EncodedFrame>) {
        frames.into_iter().for_each(|frame| self.output.send(to, frame));
    }

    // ---- groups

    /// The group call of a thread that `call_joined` names, for a user who is no party of it yet.
    fn find_joinable(&self, request: &CallRequest<'_>) -> Option<CallIx> {
        let id = request.call.call.as_ref().filter(|_| request.call.kind == CallKind::Joined)?;
        let thread = request.reply.thread.as_ref()?;
        let found = self.calls.find_group(&thread.key);
        found.filter(|ix| self.calls.get(*ix).id.key == id.key)
    }

    fn join(&mut self, ix: CallIx, request: CallRequest<'_>) -> Result<(), ClientError> {
        if !self.calls.join(ix, &request.me, request.conn, request.now.instant) {
            let text = format!("{GROUP_MAX} people are in this group call: it is full.");
            return Err(ClientError::new(ErrorCode::CallFull, text));
        }
        let call = self.calls.get(ix);
        let (call_id, thread) = (call.id.clone(), call.thread.clone());
        let joined = call.parties.iter().filter(|party| party.has_joined());
        let all: Vec<Id> = joined.map(|party| party.user.clone()).collect();
        let frame = |user_ids, client_id| ServerFrame::CallJoined {
            call_id: &call_id,
            thread_id: thread.as_ref(),
            user_id: &request.me,
            user_ids,
            client_id,
        };
        let others = self.output.encode(&frame(None, None));
        self.output.reply(request.conn, &frame(Some(&all), request.reply.client_id.as_ref()));
        self.calls.relay_to_others(ix, &request.me.key, &others);
        Ok(())
    }

    // ---- telling

    /// The frame as others get it: of a group call, and of what only this server knows, with its
    /// author.
    fn encode_relayed(&mut self, ix: CallIx, request: &CallRequest<'_>) -> EncodedFrame {
        let call = self.calls.get(ix);
        let is_baseline = request.call.kind.is_baseline();
        let author = Some(&request.me).filter(|_| call.is_group || !is_baseline);
        self.output.encode_text(&request.relayed.with_ids(Some(&call.id), author))
    }

    fn ring_again(&mut self, ix: CallIx, request: &CallRequest<'_>, is_offer: bool) {
        let frame = self.encode_relayed(ix, request);
        let settings = &self.settings.calls;
        self.calls.ring_again(ix, (&frame, is_offer), settings, request.now.instant);
    }
}

fn buffer_full() -> ClientError {
    let text = "The other device has lost its connection, and no more is kept for it.";
    ClientError::new(ErrorCode::RecipientOffline, text)
}

fn on_other_device() -> ClientError {
    let text = "Another device of yours is in this call.";
    ClientError::new(ErrorCode::NotYourCall, text)
}

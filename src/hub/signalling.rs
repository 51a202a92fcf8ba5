//! Call signalling: authorises call frames and applies them to the table in [`super::calls`].
//!
//! Frames that begin a call are handled in `setup`, frames within a call here.

mod setup;

use std::time::Duration;

use super::Hub;
use super::calls::{CallIx, DeviceState, GROUP_MAX};
use super::interface::{ConnId, Now};
use crate::protocol::call::{CallFrame, CallKind, RelayedFrame};
use crate::protocol::client::ReplyTo;
use crate::protocol::server::{CallState, EncodedFrame, EndReason, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id};

/// A call frame, with what the server has resolved about it.
struct CallRequest<'a> {
    conn: ConnId,
    me: Id,
    call: CallFrame,
    /// The other party, if the frame or its call names one.
    other: Option<Id>,
    reply: &'a mut ReplyTo,
    relayed: RelayedFrame,
    now: Now,
}

impl CallRequest<'_> {
    fn has_call_id(&self) -> bool {
        self.call.call.is_some()
    }

    /// Whether the app sends a `callId` or a frame that only apps with call support send.
    fn is_call_aware(&self) -> bool {
        self.has_call_id() || !self.call.kind.is_baseline()
    }
}

impl Hub {
    /// Handles a call frame, or holds it until the site has listed the thread's participants.
    ///
    /// # Errors
    ///
    /// There is no such call, it is another user's, or a limit is reached.
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
        // The frame that begins this call may be held: this one must not overtake it.
        let follows = call.kind.is_end() || (call.kind.is_baseline() && reply.thread.is_none());
        let before = self.membership.last_held_thread(conn).filter(|_| follows && found.is_none());
        if let Some((thread, user)) = before.zip(self.presence.number_of(conn)) {
            return self.hold_for_participants(thread, conn, user, text, now);
        }
        // Ending a call needs no authorisation.
        if !call.kind.is_end() {
            let of_call = found.and_then(|ix| self.calls.get(ix).thread.clone());
            let thread = reply.thread.clone().or(of_call);
            let (thread, other) = (thread.as_ref(), other.as_ref());
            let continues_call =
                found.is_some_and(|ix| self.continues_call(ix, &call, conn, thread, other, now));
            if !continues_call && !self.authorize_call_frame(conn, thread, other, text, now)? {
                return Ok(());
            }
            let rings = other.is_some() && self.begins_to_ring(found, &call);
            if rings && !self.check_call_permission(conn, thread, other, text, now)? {
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

    /// Whether a frame makes the devices of the other party ring.
    fn begins_to_ring(&self, found: Option<CallIx>, call: &CallFrame) -> bool {
        match call.kind {
            CallKind::Initiated => true,
            CallKind::Offer => found.is_none_or(|ix| self.is_new_call(ix)),
            _ => false,
        }
    }

    /// Whether a frame within a call may use the thread's last list of participants. A frame that
    /// rings needs a current list.
    fn continues_call(
        &mut self,
        ix: CallIx,
        call: &CallFrame,
        conn: ConnId,
        thread: Option<&Id>,
        other: Option<&Id>,
        now: Now,
    ) -> bool {
        let is_ringing = self.begins_to_ring(Some(ix), call);
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
            // Sent by a device that rang, not by the one that was disconnected.
            (
                DeviceState::Disconnected,
                CallKind::Ringing | CallKind::Rejected | CallKind::Busy,
            ) => DeviceState::OnOtherDevice,
            // The app continues without `call_resume`: its device takes the place again.
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
            // The call was answered meanwhile.
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

    /// Handles `call_initiated` within a call: the caller rings again, or begins a new call with
    /// the same party.
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
            // Glare without a `callId` to compare: the first call stands.
            DeviceState::Ringing => self.yield_to(ix, None, &request),
            _ if is_caller && is_ringing => {
                self.reattach_device(ix, &request);
                self.ring_again(ix, &request, false);
                Ok(())
            }
            _ if is_group => Ok(()),
            // The call was answered meanwhile.
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
            // The device that sends the offer becomes the caller's device.
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

    /// Whether an offer within a call begins a new one. Apps without call support begin each call
    /// with an offer, and may end it without any frame.
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

    /// Relays a frame from one device to the other.
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
        // In a group the server sends `call_left`: a relayed frame would look like the end for all.
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

    /// Attaches a device to the place that its user's disconnected device had.
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

    // ---- relaying

    /// Encodes a frame for the other parties. It names its author in group calls, and where the
    /// frame is not one of the four that every app sends.
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

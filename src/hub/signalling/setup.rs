//! Call setup: begins calls of two and of groups, and resolves glare.

use super::CallRequest;
use crate::hub::Hub;
use crate::hub::call_events::call_ended_frame;
use crate::hub::calls::{CallEnd, CallIx, CallLimit, GROUP_MAX, NewCall};
use crate::hub::interface::{CallEvent, Effect};
use crate::protocol::call::CallKind;
use crate::protocol::client::missing_field;
use crate::protocol::server::EndReason;
use crate::protocol::{ClientError, ErrorCode, Id, IdKey};

impl Hub {
    pub(super) fn handle_without_call(
        &mut self,
        request: CallRequest<'_>,
    ) -> Result<(), ClientError> {
        match (request.call.kind, &request.other, &request.call.call) {
            // A late offer of an ended call does not begin a new one.
            (CallKind::Offer, _, Some(id))
                if self
                    .calls
                    .find_ended(&request.me.key, &id.key, request.now.instant)
                    .is_some() =>
            {
                self.reply_call_over(request)
            }
            (CallKind::Initiated, None, _) => self.begin_group(request),
            (CallKind::Initiated | CallKind::Offer, Some(other), _) => {
                self.check_call_id(&request, [&request.me.key, &other.key])?;
                match self.calls.find_between(&request.me.key, &other.key) {
                    Some(ix) => self.resolve_glare(ix, request),
                    None => self.begin(request),
                }
            }
            // Without a `callId` and without a known call, the frame is relayed as it is.
            (CallKind::Answer | CallKind::Candidate, Some(other), None) => {
                let conns = self.presence.conns_of(&other.key).to_vec();
                if conns.is_empty() {
                    return Err(offline());
                }
                let frame = self.output.encode_text(&request.relayed.with_ids(None, None));
                self.output.fan_out(conns, &frame, false);
                Ok(())
            }
            _ => self.reply_call_over(request),
        }
    }

    /// Answers a frame whose call has ended or never existed.
    fn reply_call_over(&mut self, request: CallRequest<'_>) -> Result<(), ClientError> {
        let ended =
            request.call.call.as_ref().and_then(|id| {
                self.calls.find_ended(&request.me.key, &id.key, request.now.instant)
            });
        match ended {
            // The device has been told and is in the call that won.
            Some(ended)
                if ended.end.reason == EndReason::Glare
                    && request.call.kind != CallKind::Resume =>
            {
                Ok(())
            }
            Some(ended) if matches!(request.call.kind, CallKind::Resume | CallKind::Offer) => {
                let frame = self.output.encode(&call_ended_frame(&ended.end));
                self.output.send(request.conn, frame);
                Ok(())
            }
            _ => Err(ClientError::new(
                ErrorCode::NoSuchCall,
                "You are in no such call; it may be over.",
            )),
        }
    }

    /// Resolves a call between two users who have one already: glare, or a new call in its place.
    fn resolve_glare(&mut self, ix: CallIx, request: CallRequest<'_>) -> Result<(), ClientError> {
        let call = self.calls.get(ix);
        if !call.is_ringing() || self.calls.is_caller(ix, &request.me.key) {
            return self.replace_call(ix, request);
        }
        let mine = request.call.call.as_ref();
        if mine.is_none_or(|mine| id_text(mine) > id_text(&call.id)) {
            let mine = mine.cloned();
            return self.yield_to(ix, mine, &request);
        }
        self.check_call_limits(&request)?;
        let stands = mine.cloned();
        self.calls.end(ix, EndReason::Glare, stands, request.now.instant);
        self.send_call_notifications();
        // The callee's own call has just ended: the callee is not busy.
        self.ring_callee(request)
    }

    /// Ends a call before it has begun, because the other call stands. It counts as an attempt.
    pub(super) fn yield_to(
        &mut self,
        ix: CallIx,
        mine: Option<Id>,
        request: &CallRequest<'_>,
    ) -> Result<(), ClientError> {
        let bounds = &self.settings.calls;
        let counted = self.calls.count_attempt(&request.me.key, bounds, request.now.instant);
        counted.map_err(|limit| limit_reached(limit, bounds.attempts))?;
        let id = mine.unwrap_or_else(|| self.calls.generate_id(request.now.unix_s));
        let stands = Some(self.calls.get(ix).id.clone());
        let thread = request.reply.thread.clone();
        self.end_unstarted(
            request,
            CallEnd { id, thread, reason: EndReason::Glare, continues_as: stands },
        );
        Ok(())
    }

    /// Ends a call before it has begun.
    fn end_unstarted(&mut self, request: &CallRequest<'_>, end: CallEnd) {
        self.output.reply(request.conn, &call_ended_frame(&end));
        self.calls.record_end(&request.me, end, request.now.instant);
    }

    /// Ends a call that its caller has abandoned, and begins the new one.
    pub(super) fn replace_call(
        &mut self,
        ix: CallIx,
        request: CallRequest<'_>,
    ) -> Result<(), ClientError> {
        self.check_call_limits(&request)?;
        let is_ringing = self.calls.get(ix).is_ringing();
        let reason = if is_ringing { EndReason::Cancelled } else { EndReason::Hangup };
        self.calls.end(ix, reason, None, request.now.instant);
        self.send_call_notifications();
        self.begin_unless_busy(request)
    }

    fn begin(&mut self, request: CallRequest<'_>) -> Result<(), ClientError> {
        self.check_call_limits(&request)?;
        self.begin_unless_busy(request)
    }

    /// Checks the limits for a call of two, and counts the attempt.
    fn check_call_limits(&mut self, request: &CallRequest<'_>) -> Result<(), ClientError> {
        let others = request.other.iter().map(|other| &other.key);
        let bounds = &self.settings.calls;
        let checked = self.calls.check_limits(&request.me.key, others, bounds, request.now.instant);
        checked.map_err(|limit| limit_reached(limit, bounds.attempts))
    }

    fn begin_unless_busy(&mut self, request: CallRequest<'_>) -> Result<(), ClientError> {
        let reject = self.settings.calls.reject_when_busy;
        if reject && request.other.as_ref().is_some_and(|other| self.calls.is_busy(&other.key)) {
            let (id, thread) = (self.choose_call_id(&request), request.reply.thread.clone());
            self.end_unstarted(
                &request,
                CallEnd { id, thread, reason: EndReason::Busy, continues_as: None },
            );
            return Ok(());
        }
        self.ring_callee(request)
    }

    fn ring_callee(&mut self, request: CallRequest<'_>) -> Result<(), ClientError> {
        let Some(other) = request.other.clone() else {
            debug_assert!(false, "a call of two has two");
            return Ok(());
        };
        let id = self.choose_call_id(&request);
        request.reply.call = Some(id.clone());
        let devices = self.presence.conns_of(&other.key).to_vec();
        let is_offline = devices.is_empty();
        if is_offline {
            self.wake(&request, &id, &other, false);
            // An app without call support could not end the call that would go on.
            if !request.has_call_id() {
                return Err(offline());
            }
        }
        let frame = self.output.encode_text(&request.relayed.with_ids(Some(&id), None));
        let new = NewCall {
            id,
            thread: request.reply.thread.clone(),
            caller: request.me.clone(),
            device: request.conn,
            call_aware: request.has_call_id(),
            called: vec![(other, &devices[..])],
            is_group: false,
            frame: &frame,
            is_offer: request.call.kind == CallKind::Offer,
        };
        self.calls.begin(new, &self.settings.calls, request.now.instant);
        if is_offline { Err(offline()) } else { Ok(()) }
    }

    /// Reports a call to an offline user, so that their device can be woken.
    fn wake(&mut self, request: &CallRequest<'_>, call: &Id, called: &Id, group: bool) {
        let event = CallEvent {
            call: call.clone(),
            thread: request.reply.thread.clone(),
            caller: request.me.clone(),
            called: called.clone(),
            group,
        };
        self.output.push(Effect::Wake(Box::new(event)));
    }

    /// Checks that the `callId` of a new call is not taken.
    ///
    /// # Errors
    ///
    /// It is the id of another call of these users.
    fn check_call_id<'a>(
        &self,
        request: &CallRequest<'_>,
        users: impl IntoIterator<Item = &'a IdKey>,
    ) -> Result<(), ClientError> {
        match &request.call.call {
            Some(id) if self.calls.is_id_taken(&id.key, users) => Err(ClientError::new(
                ErrorCode::InvalidField,
                "callId is the name of another call; choose one that is new, such as a UUID.",
            )),
            _ => Ok(()),
        }
    }

    fn choose_call_id(&mut self, request: &CallRequest<'_>) -> Id {
        let own = request.call.call.clone();
        own.unwrap_or_else(|| self.calls.generate_id(request.now.unix_s))
    }

    // ---- groups

    fn begin_group(&mut self, request: CallRequest<'_>) -> Result<(), ClientError> {
        let Some(thread) = request.reply.thread.clone() else {
            return Err(missing_field("recipientId"));
        };
        self.check_call_id(&request, [&request.me.key])?;
        // A thread has at most one group call: the second caller is sent to the first.
        if let Some(ix) = self.calls.find_group(&thread.key) {
            let mine = request.call.call.clone();
            return self.yield_to(ix, mine, &request);
        }
        let mut users = self.thread_users(&thread);
        users.retain(|user| user.key != request.me.key);
        if users.len() >= GROUP_MAX {
            let text = format!("A group call is for a thread of up to {GROUP_MAX}.");
            return Err(ClientError::new(ErrorCode::ThreadTooLarge, text));
        }
        let (users, offline): (Vec<Id>, Vec<Id>) =
            users.into_iter().partition(|user| !self.presence.conns_of(&user.key).is_empty());
        let bounds = &self.settings.calls;
        let called = users.iter().map(|user| &user.key);
        let checked =
            self.calls.check_limits(&request.me.key, called.clone(), bounds, request.now.instant);
        checked.map_err(|limit| limit_reached(limit, bounds.attempts))?;
        self.check_call_id(&request, called)?;
        let id = self.choose_call_id(&request);
        request.reply.call = Some(id.clone());
        offline.iter().for_each(|user| self.wake(&request, &id, user, true));
        if users.is_empty() {
            return Err(ClientError::new(
                ErrorCode::RecipientOffline,
                "Nobody else of this thread is online.",
            ));
        }
        let frame =
            self.output.encode_text(&request.relayed.with_ids(Some(&id), Some(&request.me)));
        let presence = &self.presence;
        let called = users.into_iter().map(|user| {
            let devices = presence.conns_of(&user.key);
            (user, devices)
        });
        let new = NewCall {
            id,
            thread: Some(thread),
            caller: request.me.clone(),
            device: request.conn,
            call_aware: request.has_call_id(),
            called: called.collect(),
            is_group: true,
            frame: &frame,
            is_offer: false,
        };
        let ix = self.calls.begin(new, &self.settings.calls, request.now.instant);
        self.calls.set_invited_offline(ix, &offline);
        Ok(())
    }
}

/// The text of an id, by which the lesser of two is found.
fn id_text(id: &Id) -> String {
    match &id.key {
        IdKey::Number(number) => number.to_string(),
        IdKey::Text(text) => text.to_string(),
    }
}

fn offline() -> ClientError {
    let text = "The other party of this call is not online.";
    ClientError::new(ErrorCode::RecipientOffline, text)
}

fn limit_reached(limit: CallLimit, attempts: usize) -> ClientError {
    let text = match limit {
        CallLimit::Attempts => {
            format!("You may begin {attempts} calls a minute. Try again in a moment.")
        }
        CallLimit::Caller => "Too many calls of yours ring already. End one first.".to_owned(),
        CallLimit::Called => {
            "Too many calls ring the other party already. Try again later.".to_owned()
        }
        CallLimit::Server => "There are too many calls on this server. Try again later.".to_owned(),
    };
    ClientError::new(ErrorCode::TooManyCalls, text)
}

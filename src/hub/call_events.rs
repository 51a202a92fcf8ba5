//! Sends what the table of calls reports to devices: relayed frames, ends, departures.

use super::Hub;
use super::calls::{CallEnd, CallIx, Notification};
use super::interface::{CallEvent, Effect, Now};
use crate::protocol::Id;
use crate::protocol::server::{EndReason, ServerFrame};

impl Hub {
    /// Sends the notifications that [`super::calls`] has queued.
    pub(super) fn send_call_notifications(&mut self) {
        for notification in self.calls.take_notifications() {
            match notification {
                Notification::Frame { to, frame } => self.output.fan_out(to, &frame, false),
                Notification::Ended { to, end } => {
                    let frame = self.output.encode(&call_ended_frame(&end));
                    self.output.fan_out(to, &frame, false);
                }
                Notification::Missed { call, thread, caller, called, group } => {
                    let event = CallEvent { call, thread, caller, called, group };
                    self.output.push(Effect::Missed(Box::new(event)));
                }
                Notification::Left { ix, to, user, end } => {
                    let (call_id, thread_id, reason) = (&end.id, end.thread.as_ref(), end.reason);
                    let user_id = &user;
                    let frame = ServerFrame::CallLeft { call_id, thread_id, user_id, reason };
                    let frame = self.output.encode(&frame);
                    self.output.fan_out(to, &frame, false);
                    self.calls.buffer_for_disconnected(ix, call_id, &frame);
                }
            }
        }
    }

    /// Removes users from calls of a thread in which they no longer take part.
    pub(super) fn remove_from_calls(&mut self, removed: Vec<(CallIx, Id)>, now: Now) {
        for (ix, user) in removed {
            // The call may have ended when the party before was removed.
            if self.calls.is_party(ix, &user.key) {
                self.calls.leave(ix, &user.key, EndReason::Failed, now.instant);
            }
        }
        self.send_call_notifications();
    }
}

/// The `call_ended` frame of a call.
pub(super) fn call_ended_frame(end: &CallEnd) -> ServerFrame<'_> {
    ServerFrame::CallEnded {
        call_id: &end.id,
        thread_id: end.thread.as_ref(),
        reason: end.reason,
        continues_as: end.continues_as.as_ref(),
    }
}

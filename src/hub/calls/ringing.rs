//! Ringing: the frames that ring devices, and the ring timeout of an unanswered call.

use std::time::Instant;

use super::{CallIx, CallSettings, CallTimer, Calls, Notification};
use crate::protocol::IdKey;
use crate::protocol::server::{CallState, EncodedFrame, EndReason};

impl Calls {
    /// Sends the caller's repeated call frame or new offer to the ringing devices. A repeated call
    /// frame, but not an offer, restarts the ring timeout.
    pub(crate) fn ring_again(
        &mut self,
        ix: CallIx,
        (frame, is_offer): (&EncodedFrame, bool),
        settings: &CallSettings,
        now: Instant,
    ) {
        if !is_offer {
            self.start_ring_timeout(ix, settings, now);
        }
        self.ring(ix, frame, is_offer);
    }

    /// Sends a setup frame to the ringing devices, and buffers it for those that connect later.
    pub(super) fn ring(&mut self, ix: CallIx, frame: &EncodedFrame, is_offer: bool) {
        let to = self.get(ix).ringing_devices();
        self.notifications.push(Notification::Frame { to, frame: EncodedFrame::clone(frame) });
        self.account_buffer(ix, |call, room| call.buffer_setup_frame(frame, is_offer, room));
    }

    /// Starts the ring timeout of a call, or starts it again.
    pub(super) fn start_ring_timeout(&mut self, ix: CallIx, settings: &CallSettings, now: Instant) {
        let until = self.timers.set(now + settings.ring_lasts, CallTimer::RingTimeout(ix));
        if let Some(before) = self.calls[ix as usize].ring_timer.replace(until) {
            self.timers.cancel(before);
        }
    }

    /// Cancels the ring timeout of a call, if it has one.
    pub(super) fn cancel_ring_timeout(&mut self, ix: CallIx) {
        if let Some(timer) = self.calls[ix as usize].ring_timer.take() {
            self.timers.cancel(timer);
        }
    }

    /// Cancels the ring timeout and drops the setup frames of a group call that rings nobody any
    /// more.
    pub(super) fn stop_ringing_if_answered(&mut self, ix: CallIx) {
        if self.get(ix).is_ringing() {
            return;
        }
        self.cancel_ring_timeout(ix);
        self.account_buffer(ix, |call, _| call.drop_setup_frames());
    }

    /// Ends a call that has rung for the maximum time. In a group, the users who have not answered
    /// are removed.
    pub(super) fn handle_ring_timeout(&mut self, ix: CallIx, now: Instant) {
        let call = &mut self.calls[ix as usize];
        call.ring_timer = None;
        match call.state {
            CallState::Connecting => self.end(ix, EndReason::Failed, None, now),
            _ if call.is_group => {
                let silent = call.parties.iter().filter(|party| !party.has_joined());
                let silent: Vec<IdKey> = silent.map(|p| p.user.key.clone()).collect();
                for user in silent {
                    // Removing the last of them may end the call.
                    if self.calls.contains(ix as usize) {
                        self.leave(ix, &user, EndReason::NoAnswer, now);
                    }
                }
            }
            _ => self.end(ix, EndReason::NoAnswer, None, now),
        }
    }
}

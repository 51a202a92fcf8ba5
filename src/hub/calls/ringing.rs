//! Ringing: the frames that ring devices, and the ring timeout of an unanswered call.

use std::time::Instant;

use super::call::PartyState;
use super::{CallIx, CallSettings, CallTimer, Calls, Notification};
use crate::hub::capacity::SmallList;
use crate::hub::interface::ConnId;
use crate::protocol::server::{CallState, EncodedFrame, EndReason};
use crate::protocol::{Id, IdKey};

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

    /// Lets a connected device of a called user ring, unless it rings already or the user has
    /// answered.
    pub(crate) fn ring_device(&mut self, ix: CallIx, user: &IdKey, device: ConnId) {
        let call = &mut self.calls[ix as usize];
        let Some(party) = call.party(user).map(|at| &mut call.parties[at]) else { return };
        let PartyState::Ringing(devices) = &mut party.state else { return };
        if devices.contains(&device) {
            return;
        }
        devices.push(device);
        // This may be a device that lost its connection; it has missed nothing.
        party.unnotified_devices = party.unnotified_devices.saturating_sub(1);
        let frames = call.setup_frames().map(EncodedFrame::clone);
        let to = SmallList::from_slice(&[device]);
        let frames = frames.map(|frame| Notification::Frame { to: to.clone(), frame });
        self.notifications.extend(frames);
    }

    /// The calls that ring for a user, with their threads.
    pub(crate) fn ringing_for(&self, user: &IdKey) -> SmallList<(CallIx, Option<Id>)> {
        let calls = self.by_user.get(user).into_iter().flatten().copied();
        let ringing = calls.filter(|ix| {
            let call = self.get(*ix);
            let party = call.party(user).map(|at| &call.parties[at].state);
            matches!(party, Some(PartyState::Ringing(_)))
        });
        ringing.map(|ix| (ix, self.get(ix).thread.clone())).collect()
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

//! Relay of signalling frames between the devices of a call, with buffers for disconnected ones.

use super::call::{Buffered, Call, PartyState};
use super::{BUFFERED_BYTES_MAX, CallIx, Calls, Notification};
use crate::hub::interface::ConnId;
use crate::protocol::server::EncodedFrame;
use crate::protocol::{Id, IdKey};

impl Calls {
    /// Sends a frame to a party, or buffers it if the party has lost its connection; false if it
    /// cannot be buffered.
    pub(crate) fn relay_to(&mut self, ix: CallIx, at: usize, frame: &EncodedFrame) -> bool {
        let call = &self.calls[ix as usize];
        match &call.parties[at].state {
            PartyState::Disconnected(_) => {
                let buffered =
                    self.account_buffer(ix, |call, room| call.buffer_for(at, frame, room));
                buffered == Buffered::Yes
            }
            _ => {
                let to = call.parties[at].devices().into();
                self.notifications
                    .push(Notification::Frame { to, frame: EncodedFrame::clone(frame) });
                true
            }
        }
    }

    /// Sends a frame to all other parties; in a group call only to those who have joined.
    pub(crate) fn relay_to_others(&mut self, ix: CallIx, except: &IdKey, frame: &EncodedFrame) {
        for at in 0..self.get(ix).parties.len() {
            let call = self.get(ix);
            let party = &call.parties[at];
            if (party.has_joined() || !call.is_group) && party.user.key != *except {
                self.relay_to(ix, at, frame);
            }
        }
    }

    /// Buffers a frame, which the connected devices have got, for the parties without a connection.
    pub(crate) fn buffer_for_disconnected(&mut self, ix: CallIx, id: &Id, frame: &EncodedFrame) {
        let call = self.calls.get(ix as usize).filter(|call| call.id.key == id.key);
        for at in 0..call.map_or(0, |call| call.parties.len()) {
            if matches!(self.get(ix).parties[at].state, PartyState::Disconnected(_)) {
                self.relay_to(ix, at, frame);
            }
        }
    }

    /// Relays or buffers a candidate that the caller sends before the answer.
    pub(crate) fn relay_caller_candidate(&mut self, ix: CallIx, frame: &EncodedFrame) {
        let relays_candidates = self.get(ix).relays_candidates;
        if !relays_candidates
            && self.account_buffer(ix, |call, room| call.buffer_candidate(frame, room))
                == Buffered::Yes
        {
            return;
        }
        // The buffer is full. From now on all ringing devices get the candidates at once, the
        // buffered ones first, so that none is lost.
        self.calls[ix as usize].relays_candidates = true;
        let mut frames = self.account_buffer(ix, |call, _| call.take_candidates());
        frames.push(EncodedFrame::clone(frame));
        let to = self.get(ix).ringing_devices();
        self.notifications
            .extend(frames.into_iter().map(|frame| Notification::Frame { to: to.clone(), frame }));
    }

    /// Buffers a candidate of a device that has not answered; without room it goes to the caller.
    pub(crate) fn relay_callee_candidate(
        &mut self,
        ix: CallIx,
        device: ConnId,
        frame: &EncodedFrame,
    ) {
        if self.account_buffer(ix, |call, room| call.buffer_early_candidate(device, frame, room))
            == Buffered::No
        {
            self.relay_to(ix, 0, frame);
        }
    }

    /// Lets a call change its buffers, and updates the byte count of all calls. `change` gets the
    /// bytes that are still free.
    pub(super) fn account_buffer<T>(
        &mut self,
        ix: CallIx,
        change: impl FnOnce(&mut Call, usize) -> T,
    ) -> T {
        let room = BUFFERED_BYTES_MAX - self.buffered_bytes;
        let call = &mut self.calls[ix as usize];
        let before = call.buffered_bytes();
        let result = change(call, room);
        self.buffered_bytes = self.buffered_bytes + call.buffered_bytes() - before;
        result
    }
}

//! What the devices of a call say to each other, and what is kept of it for who cannot hear it yet.

use super::call::{Buffered, Call, PartyState};
use super::{BUFFERED_BYTES_MAX, CallIx, Calls, Notification};
use crate::hub::interface::ConnId;
use crate::protocol::server::EncodedFrame;
use crate::protocol::{Id, IdKey};

impl Calls {
    /// Hands a frame to a party of a call, or keeps it for the device that will take the place of
    /// the one that was lost; false if it can't be kept.
    pub fn relay_to(&mut self, ix: CallIx, at: usize, frame: &EncodedFrame) -> bool {
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

    /// Hands a frame to all other parties; of a group only to those who are in.
    pub fn relay_to_others(&mut self, ix: CallIx, except: &IdKey, frame: &EncodedFrame) {
        for at in 0..self.get(ix).parties.len() {
            let call = self.get(ix);
            let party = &call.parties[at];
            if (party.has_joined() || !call.is_group) && party.user.key != *except {
                self.relay_to(ix, at, frame);
            }
        }
    }

    /// Keeps what a call's devices have been told, for those who have lost their connection.
    pub fn buffer_for_disconnected(&mut self, ix: CallIx, id: &Id, frame: &EncodedFrame) {
        let call = self.calls.get(ix as usize).filter(|call| call.id.key == id.key);
        for at in 0..call.map_or(0, |call| call.parties.len()) {
            if matches!(self.get(ix).parties[at].state, PartyState::Disconnected(_)) {
                self.relay_to(ix, at, frame);
            }
        }
    }

    /// A candidate of the caller's before the answer.
    pub fn relay_caller_candidate(&mut self, ix: CallIx, frame: &EncodedFrame) {
        let relays_candidates = self.get(ix).relays_candidates;
        if !relays_candidates
            && self.account_buffer(ix, |call, room| call.buffer_candidate(frame, room))
                == Buffered::Yes
        {
            return;
        }
        // Nothing is lost: from now on all who ring get them as they come, those kept first.
        self.calls[ix as usize].relays_candidates = true;
        let mut frames = self.account_buffer(ix, |call, _| call.take_candidates());
        frames.push(EncodedFrame::clone(frame));
        let to = self.get(ix).ringing_devices();
        self.notifications
            .extend(frames.into_iter().map(|frame| Notification::Frame { to: to.clone(), frame }));
    }

    /// A candidate of a device that has not answered.
    pub fn relay_callee_candidate(&mut self, ix: CallIx, device: ConnId, frame: &EncodedFrame) {
        if self.account_buffer(ix, |call, room| call.buffer_early_candidate(device, frame, room))
            == Buffered::No
        {
            self.relay_to(ix, 0, frame);
        }
    }

    /// Lets a call keep something or give it up; all of them together keep as much as they may.
    pub(super) fn account_buffer<T>(
        &mut self,
        ix: CallIx,
        keep: impl FnOnce(&mut Call, usize) -> T,
    ) -> T {
        let room = BUFFERED_BYTES_MAX - self.buffered_bytes;
        let call = &mut self.calls[ix as usize];
        let before = call.buffered_bytes();
        let buffered = keep(call, room);
        self.buffered_bytes = self.buffered_bytes + call.buffered_bytes() - before;
        buffered
    }
}

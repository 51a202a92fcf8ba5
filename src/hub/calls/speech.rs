//! What the devices of a call say to each other, and what is kept of it for who cannot hear it yet.

use super::call::{Call, Kept, Place};
use super::{CallIx, Calls, KEPT_BYTES_MAX, Step};
use crate::hub::interface::ConnId;
use crate::protocol::server::EncodedFrame;
use crate::protocol::{Id, IdKey};

impl Calls {
    /// Hands a frame to a party of a call, or keeps it for the device that will take the place of
    /// the one that was lost; false if it can't be kept.
    pub fn pass(&mut self, ix: CallIx, at: usize, frame: &EncodedFrame) -> bool {
        let call = &self.calls[ix as usize];
        match &call.parties[at].place {
            Place::Lost(_) => {
                let kept = self.keeping(ix, |call, room| call.keep_for(at, frame, room));
                kept == Kept::Yes
            }
            _ => {
                let to = call.parties[at].devices().into();
                self.steps.push(Step::Tell { to, frame: EncodedFrame::clone(frame) });
                true
            }
        }
    }

    /// Hands a frame to all other parties; of a group only to those who are in.
    pub fn pass_to_all(&mut self, ix: CallIx, but: &IdKey, frame: &EncodedFrame) {
        for at in 0..self.get(ix).parties.len() {
            let call = self.get(ix);
            let party = &call.parties[at];
            if (party.is_in() || !call.is_group) && party.user.key != *but {
                self.pass(ix, at, frame);
            }
        }
    }

    /// Keeps what a call's devices have been told, for those who have lost their connection.
    pub fn keep_for_lost(&mut self, ix: CallIx, id: &Id, frame: &EncodedFrame) {
        let call = self.calls.get(ix as usize).filter(|call| call.id.key == id.key);
        for at in 0..call.map_or(0, |call| call.parties.len()) {
            if matches!(self.get(ix).parties[at].place, Place::Lost(_)) {
                self.pass(ix, at, frame);
            }
        }
    }

    /// A candidate of the caller's before the answer.
    pub fn candidate_of_caller(&mut self, ix: CallIx, frame: &EncodedFrame) {
        let trickles = self.get(ix).trickles;
        if !trickles && self.keeping(ix, |call, room| call.keep_candidate(frame, room)) == Kept::Yes
        {
            return;
        }
        // Nothing is lost: from now on all who ring get them as they come, those kept first.
        self.calls[ix as usize].trickles = true;
        let mut frames = self.keeping(ix, |call, _| call.take_candidates());
        frames.push(EncodedFrame::clone(frame));
        let to = self.get(ix).ringing_devices();
        self.steps.extend(frames.into_iter().map(|frame| Step::Tell { to: to.clone(), frame }));
    }

    /// A candidate of a device that has not answered.
    pub fn candidate_of_called(&mut self, ix: CallIx, device: ConnId, frame: &EncodedFrame) {
        if self.keeping(ix, |call, room| call.keep_early(device, frame, room)) == Kept::No {
            self.pass(ix, 0, frame);
        }
    }

    /// Lets a call keep something or give it up; all of them together keep as much as they may.
    pub(super) fn keeping<T>(&mut self, ix: CallIx, keep: impl FnOnce(&mut Call, usize) -> T) -> T {
        let room = KEPT_BYTES_MAX - self.kept_bytes;
        let call = &mut self.calls[ix as usize];
        let before = call.kept_bytes();
        let kept = keep(call, room);
        self.kept_bytes = self.kept_bytes + call.kept_bytes() - before;
        kept
    }
}

//! Calls for who asks how they are, and is not in them: an app that a push has woken.

use std::time::Instant;

use super::{CallIx, Calls, EndedCall};
use crate::protocol::{Id, IdKey};

impl Calls {
    /// Notes who was called to a group and was not there.
    pub fn set_invited_offline(&mut self, ix: CallIx, users: &[Id]) {
        self.calls[ix as usize].invited_offline =
            users.iter().map(|user| user.key.clone()).collect();
    }

    /// The group call of this name to which a user was called who was not there.
    pub fn find_invited_offline(&self, me: &IdKey, id: &IdKey) -> Option<CallIx> {
        let mut calls = self.calls.iter();
        let found = calls.find(|(_, call)| call.id.key == *id && call.invited_offline.contains(me));
        found.map(|(ix, _)| ix as CallIx)
    }

    /// The call of this name, whoever is in it; of several, the latest.
    pub fn find_by_id(&self, id: &IdKey) -> Option<CallIx> {
        let named = self.calls.iter().filter(|(_, call)| call.id.key == *id);
        named.max_by_key(|(_, call)| call.begun).map(|(ix, _)| ix as CallIx)
    }

    /// The latest end of a call of this name, whoever was in it.
    pub fn find_ended_by_id(&mut self, id: &IdKey, now: Instant) -> Option<&EndedCall> {
        self.ended_calls.find_by_id(id, now)
    }
}

//! Calls for who asks how they are, and is not in them: an app that a push has woken.

use std::time::Instant;

use super::{CallIx, Calls, Over};
use crate::protocol::{Id, IdKey};

impl Calls {
    /// Notes who was called to a group and was not there.
    pub fn note_woken(&mut self, ix: CallIx, users: &[Id]) {
        self.calls[ix as usize].woken = users.iter().map(|user| user.key.clone()).collect();
    }

    /// The group call of this name to which a user was called who was not there.
    pub fn find_woken(&self, me: &IdKey, id: &IdKey) -> Option<CallIx> {
        let mut calls = self.calls.iter();
        let found = calls.find(|(_, call)| call.id.key == *id && call.woken.contains(me));
        found.map(|(ix, _)| ix as CallIx)
    }

    /// The call of this name, whoever is in it; of several, the latest.
    pub fn find_any(&self, id: &IdKey) -> Option<CallIx> {
        let named = self.calls.iter().filter(|(_, call)| call.id.key == *id);
        named.max_by_key(|(_, call)| call.begun).map(|(ix, _)| ix as CallIx)
    }

    /// The latest end of a call of this name, whoever was in it.
    pub fn ended_of_any(&mut self, id: &IdKey, now: Instant) -> Option<&Over> {
        self.ends.find_any(id, now)
    }
}

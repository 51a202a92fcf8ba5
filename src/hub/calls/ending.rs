//! How calls end: someone says so, time is up, or a device is gone for good.

use std::collections::HashMap;
use std::time::Instant;

use super::call::{Party, Place};
use super::{CallIx, CallSettings, Calls, Due, Step, Told};
use crate::hub::capacity::Few;
use crate::hub::interface::ConnId;
use crate::protocol::server::{CallState, EncodedFrame, EndReason};
use crate::protocol::{Id, IdKey};

impl Calls {
    /// A party leaves, or does not come: a call of two is over by that.
    pub fn leave(&mut self, ix: CallIx, user: &IdKey, reason: EndReason, now: Instant) {
        let call = &mut self.calls[ix as usize];
        let Some(at) = call.party(user).filter(|_| call.is_group) else {
            return self.end(ix, reason, None, now);
        };
        let party = self.keeping(ix, |call, _| call.remove(at));
        let call = &self.calls[ix as usize];
        if let Place::Lost(Some(loss)) = party.place {
            self.due.cancel(loss);
        }
        let (id, thread) = (call.id.clone(), call.thread.clone());
        let is_in = call.parties.iter().filter(|party| party.is_in());
        let others: Few<ConnId> = is_in.flat_map(Party::devices).copied().collect();
        let (alone, rings) = (call.count_in(), call.rings());
        let caller = call.parties.first().map_or(&party.user, |party| &party.user).clone();
        self.may_ring_no_more(ix);
        self.forget_of(user, ix);
        let told = Told { id, thread, reason, continues_as: None };
        self.steps.push(Step::Ended { to: party.devices().into(), told: told.clone() });
        self.steps.push(Step::Left { ix, to: others, user: party.user, told: told.clone() });
        let untold = if party.missed > 0 { Few::from_iter([user.clone()]) } else { Few::new() };
        self.ends.note(caller, told, Few::from_iter([user.clone()]), untold, now);
        match (alone, rings) {
            (0, _) => self.end(ix, EndReason::Cancelled, None, now),
            (1, false) => self.end(ix, reason, None, now),
            _ => {}
        }
    }

    /// Ends a call for all.
    pub fn end(&mut self, ix: CallIx, reason: EndReason, continues_as: Option<Id>, now: Instant) {
        let call = self.calls.remove(ix as usize);
        self.kept_bytes -= call.kept_bytes();
        if let Some(ring) = call.ring {
            self.due.cancel(ring);
        }
        if let Some(thread) = &call.thread {
            forget(&mut self.of_thread, &thread.key, ix);
        }
        let (mut users, mut untold) = (Few::new(), Few::new());
        for party in &call.parties {
            self.forget_of(&party.user.key, ix);
            if let Place::Lost(Some(loss)) = party.place {
                self.due.cancel(loss);
            }
            users.push(party.user.key.clone());
            if party.missed > 0 {
                untold.push(party.user.key.clone());
            }
        }
        users.extend(call.woken.iter().cloned());
        self.ended[reason as usize] += 1;
        let to = call.devices().collect();
        let told = Told { id: call.id, thread: call.thread, reason, continues_as };
        self.steps.push(Step::Ended { to, told: told.clone() });
        if let Some(caller) = call.parties.into_iter().next() {
            self.ends.note(caller.user, told, users, untold, now);
        }
    }

    fn forget_of(&mut self, user: &IdKey, ix: CallIx) {
        forget(&mut self.of_user, user, ix);
    }

    /// A group call that rings nobody any more keeps nothing for who would ring.
    pub(super) fn may_ring_no_more(&mut self, ix: CallIx) {
        let call = &mut self.calls[ix as usize];
        if call.rings() {
            return;
        }
        if let Some(ring) = call.ring.take() {
            self.due.cancel(ring);
        }
        self.keeping(ix, |call, _| call.forget_beginning());
    }

    // ---- devices that come and go

    /// Who is lost has until then: as long as in any answered call.
    pub(super) fn waits_longer(&mut self, ix: CallIx, until: Instant) {
        for party in &mut self.calls[ix as usize].parties {
            if let Place::Lost(Some(loss)) = &mut party.place {
                let later = self.due.set(until, Due::Loss(ix, party.user.key.clone()));
                self.due.cancel(std::mem::replace(loss, later));
            }
        }
    }

    /// A device of this user has lost its connection, or is another user's now.
    pub fn lost(&mut self, device: ConnId, user: &IdKey, settings: &CallSettings, now: Instant) {
        for ix in self.of_user.get(user).cloned().unwrap_or_default() {
            let call = &mut self.calls[ix as usize];
            let answered = call.is_group || !call.rings();
            let Some(party) = call.parties.iter_mut().find(|party| party.user.key == *user) else {
                continue;
            };
            if !party.devices().contains(&device) {
                continue;
            }
            party.missed = party.missed.saturating_add(1);
            match &mut party.place {
                Place::Rings(devices) => devices.retain(|other| *other != device),
                place => {
                    let grace = if answered { settings.grace } else { settings.ring_grace };
                    let loss = Due::Loss(ix, user.clone());
                    *place = Place::Lost(Some(self.due.set(now + grace, loss)));
                }
            }
        }
    }

    /// A device of this user has come: what rings the user rings there as well, and it is told how
    /// calls ended whose end a device of theirs has missed.
    pub fn arrived(&mut self, device: ConnId, user: &IdKey, now: Instant) {
        let to = || Few::from_slice(&[device]);
        for over in self.ends.take_untold(user, now) {
            self.steps.push(Step::Ended { to: to(), told: over.told.clone() });
        }
        for ix in self.of_user.get(user).cloned().unwrap_or_default() {
            let call = &mut self.calls[ix as usize];
            let Some(at) = call.party(user) else { continue };
            let party = &mut call.parties[at];
            match &mut party.place {
                Place::Rings(devices) => {
                    devices.push(device);
                    // It may be one that was lost, and has missed nothing.
                    party.missed = party.missed.saturating_sub(1);
                    let told = call.beginning().map(EncodedFrame::clone);
                    self.steps.extend(told.map(|frame| Step::Tell { to: to(), frame }));
                }
                // An app that does not know of resuming: the next to come is the one that is back.
                Place::Lost(_) if !party.knows_calls => {
                    let kept = self.sit(ix, user, device);
                    let told = kept.into_iter().map(|frame| Step::Tell { to: to(), frame });
                    self.steps.extend(told);
                }
                // It rang, was lost, and does not know that another one has answered.
                Place::In(_) if party.missed > 0 => {
                    party.missed -= 1;
                    let told = call.end_elsewhere();
                    self.steps.push(Step::Ended { to: to(), told });
                }
                Place::Lost(_) | Place::In(_) => {}
            }
        }
    }

    // ---- time

    /// When the next call has rung or waited for long enough.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.next()
    }

    /// Does one thing that is due; false if there was none.
    pub fn advance(&mut self, now: Instant) -> bool {
        match self.due.pop_due(now) {
            None => return false,
            Some(Due::Ring(ix)) => {
                let call = &mut self.calls[ix as usize];
                call.ring = None;
                match call.state {
                    CallState::Connecting => self.end(ix, EndReason::Failed, None, now),
                    _ if call.is_group => {
                        let silent = call.parties.iter().filter(|party| !party.is_in());
                        let silent: Vec<IdKey> = silent.map(|p| p.user.key.clone()).collect();
                        for user in silent {
                            // The last of them may end the call for all.
                            if self.calls.contains(ix as usize) {
                                self.leave(ix, &user, EndReason::NoAnswer, now);
                            }
                        }
                    }
                    _ => self.end(ix, EndReason::NoAnswer, None, now),
                }
            }
            Some(Due::Loss(ix, user)) => {
                let call = &mut self.calls[ix as usize];
                if let Some(at) = call.party(&user) {
                    call.parties[at].place = Place::Lost(None);
                }
                self.leave(ix, &user, EndReason::Disconnected, now);
            }
        }
        true
    }
}

fn forget(of: &mut HashMap<IdKey, Few<CallIx>>, key: &IdKey, ix: CallIx) {
    if let Some(calls) = of.get_mut(key) {
        calls.retain(|other| *other != ix);
        if calls.is_empty() {
            of.remove(key);
        }
    }
}

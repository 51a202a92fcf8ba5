//! How calls end: someone says so, time is up, or a device is gone for good.

use std::collections::HashMap;
use std::time::Instant;

use super::call::{Party, PartyState};
use super::{CallEnd, CallIx, CallSettings, CallTimer, Calls, Notification};
use crate::hub::capacity::SmallList;
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
        let party = self.account_buffer(ix, |call, _| call.remove(at));
        let call = &self.calls[ix as usize];
        if let PartyState::Disconnected(Some(timer)) = party.state {
            self.timers.cancel(timer);
        }
        let (id, thread) = (call.id.clone(), call.thread.clone());
        let joined = call.parties.iter().filter(|party| party.has_joined());
        let others: SmallList<ConnId> = joined.flat_map(Party::devices).copied().collect();
        let (alone, is_ringing) = (call.count_joined(), call.is_ringing());
        let caller = call.parties.first().map_or(&party.user, |party| &party.user).clone();
        self.stop_ringing_if_answered(ix);
        self.unindex_user(user, ix);
        let end = CallEnd { id, thread, reason, continues_as: None };
        self.notifications
            .push(Notification::Ended { to: party.devices().into(), end: end.clone() });
        self.notifications.push(Notification::Left {
            ix,
            to: others,
            user: party.user,
            end: end.clone(),
        });
        let unnotified = if party.unnotified_devices > 0 {
            SmallList::from_iter([user.clone()])
        } else {
            SmallList::new()
        };
        self.ended_calls.record(caller, end, SmallList::from_iter([user.clone()]), unnotified, now);
        match (alone, is_ringing) {
            (0, _) => self.end(ix, EndReason::Cancelled, None, now),
            (1, false) => self.end(ix, reason, None, now),
            _ => {}
        }
    }

    /// Ends a call for all.
    pub fn end(&mut self, ix: CallIx, reason: EndReason, continues_as: Option<Id>, now: Instant) {
        let call = self.calls.remove(ix as usize);
        self.buffered_bytes -= call.buffered_bytes();
        if let Some(ring) = call.ring {
            self.timers.cancel(ring);
        }
        if let Some(thread) = &call.thread {
            unindex(&mut self.by_thread, &thread.key, ix);
        }
        let (mut users, mut unnotified) = (SmallList::new(), SmallList::new());
        for party in &call.parties {
            self.unindex_user(&party.user.key, ix);
            if let PartyState::Disconnected(Some(timer)) = party.state {
                self.timers.cancel(timer);
            }
            users.push(party.user.key.clone());
            if party.unnotified_devices > 0 {
                unnotified.push(party.user.key.clone());
            }
        }
        users.extend(call.invited_offline.iter().cloned());
        self.ended[reason as usize] += 1;
        let to = call.devices().collect();
        let end = CallEnd { id: call.id, thread: call.thread, reason, continues_as };
        self.notifications.push(Notification::Ended { to, end: end.clone() });
        if let Some(caller) = call.parties.into_iter().next() {
            self.ended_calls.record(caller.user, end, users, unnotified, now);
        }
    }

    fn unindex_user(&mut self, user: &IdKey, ix: CallIx) {
        unindex(&mut self.by_user, user, ix);
    }

    /// A group call that rings nobody any more keeps nothing for who would ring.
    pub(super) fn stop_ringing_if_answered(&mut self, ix: CallIx) {
        let call = &mut self.calls[ix as usize];
        if call.is_ringing() {
            return;
        }
        if let Some(ring) = call.ring.take() {
            self.timers.cancel(ring);
        }
        self.account_buffer(ix, |call, _| call.drop_setup_frames());
    }

    // ---- devices that come and go

    /// Who is lost has until then: as long as in any answered call.
    pub(super) fn extend_reconnect_timers(&mut self, ix: CallIx, until: Instant) {
        for party in &mut self.calls[ix as usize].parties {
            if let PartyState::Disconnected(Some(timer)) = &mut party.state {
                let later =
                    self.timers.set(until, CallTimer::ReconnectTimeout(ix, party.user.key.clone()));
                self.timers.cancel(std::mem::replace(timer, later));
            }
        }
    }

    /// A device of this user has lost its connection, or is another user's now.
    pub fn disconnect_device(
        &mut self,
        device: ConnId,
        user: &IdKey,
        settings: &CallSettings,
        now: Instant,
    ) {
        for ix in self.by_user.get(user).cloned().unwrap_or_default() {
            let call = &mut self.calls[ix as usize];
            let answered = call.is_group || !call.is_ringing();
            let Some(party) = call.parties.iter_mut().find(|party| party.user.key == *user) else {
                continue;
            };
            if !party.devices().contains(&device) {
                continue;
            }
            party.unnotified_devices = party.unnotified_devices.saturating_add(1);
            match &mut party.state {
                PartyState::Ringing(devices) => devices.retain(|other| *other != device),
                state => {
                    let grace = if answered { settings.grace } else { settings.ring_grace };
                    let timer = CallTimer::ReconnectTimeout(ix, user.clone());
                    *state = PartyState::Disconnected(Some(self.timers.set(now + grace, timer)));
                }
            }
        }
    }

    /// A device of this user has come: what rings the user rings there as well, and it is told how
    /// calls ended whose end a device of theirs has missed.
    pub fn connect_device(&mut self, device: ConnId, user: &IdKey, now: Instant) {
        let to = || SmallList::from_slice(&[device]);
        for ended in self.ended_calls.take_unnotified(user, now) {
            self.notifications.push(Notification::Ended { to: to(), end: ended.end.clone() });
        }
        for ix in self.by_user.get(user).cloned().unwrap_or_default() {
            let call = &mut self.calls[ix as usize];
            let Some(at) = call.party(user) else { continue };
            let party = &mut call.parties[at];
            match &mut party.state {
                PartyState::Ringing(devices) => {
                    devices.push(device);
                    // It may be one that was lost, and has missed nothing.
                    party.unnotified_devices = party.unnotified_devices.saturating_sub(1);
                    let frames = call.setup_frames().map(EncodedFrame::clone);
                    self.notifications
                        .extend(frames.map(|frame| Notification::Frame { to: to(), frame }));
                }
                // An app that does not know of resuming: the next to come is the one that is back.
                PartyState::Disconnected(_) if !party.call_aware => {
                    let buffered = self.attach_device(ix, user, device);
                    let frames =
                        buffered.into_iter().map(|frame| Notification::Frame { to: to(), frame });
                    self.notifications.extend(frames);
                }
                // It rang, was lost, and does not know that another one has answered.
                PartyState::Joined(_) if party.unnotified_devices > 0 => {
                    party.unnotified_devices -= 1;
                    let end = call.answered_elsewhere();
                    self.notifications.push(Notification::Ended { to: to(), end });
                }
                PartyState::Disconnected(_) | PartyState::Joined(_) => {}
            }
        }
    }

    // ---- time

    /// When the next call has rung or waited for long enough.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Does one thing that is due; false if there was none.
    pub fn advance(&mut self, now: Instant) -> bool {
        match self.timers.pop_due(now) {
            None => return false,
            Some(CallTimer::RingTimeout(ix)) => {
                let call = &mut self.calls[ix as usize];
                call.ring = None;
                match call.state {
                    CallState::Connecting => self.end(ix, EndReason::Failed, None, now),
                    _ if call.is_group => {
                        let silent = call.parties.iter().filter(|party| !party.has_joined());
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
            Some(CallTimer::ReconnectTimeout(ix, user)) => {
                let call = &mut self.calls[ix as usize];
                if let Some(at) = call.party(&user) {
                    call.parties[at].state = PartyState::Disconnected(None);
                }
                self.leave(ix, &user, EndReason::Disconnected, now);
            }
        }
        true
    }
}

fn unindex(of: &mut HashMap<IdKey, SmallList<CallIx>>, key: &IdKey, ix: CallIx) {
    if let Some(calls) = of.get_mut(key) {
        calls.retain(|other| *other != ix);
        if calls.is_empty() {
            of.remove(key);
        }
    }
}

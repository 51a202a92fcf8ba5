//! How calls end: a user leaves, a timeout passes, or a device disconnects for good.

use std::collections::HashMap;
use std::time::Instant;

use super::call::{Party, PartyState};
use super::{CallEnd, CallIx, CallSettings, CallTimer, Calls, Notification};
use crate::hub::capacity::SmallList;
use crate::hub::interface::ConnId;
use crate::protocol::server::EndReason;
use crate::protocol::{Id, IdKey};

impl Calls {
    /// Removes a party that leaves or does not answer. That ends a two-party call. It ends a group
    /// call when no party has joined any more, or when one has and nobody rings.
    pub(crate) fn leave(&mut self, ix: CallIx, user: &IdKey, reason: EndReason, now: Instant) {
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
        let (joined_count, is_ringing) = (call.count_joined(), call.is_ringing());
        let caller = call.parties.first().map_or(&party.user, |party| &party.user).clone();
        self.stop_ringing_if_answered(ix);
        self.unindex_user(user, ix);
        if matches!(party.state, PartyState::Ringing(_)) && reason == EndReason::NoAnswer {
            let (call, thread) = (id.clone(), thread.clone());
            let (caller, called) = (caller.clone(), party.user.clone());
            let group = true;
            self.notifications.push(Notification::Missed { call, thread, caller, called, group });
        }
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
        match (joined_count, is_ringing) {
            (0, _) => self.end(ix, EndReason::Cancelled, None, now),
            (1, false) => self.end(ix, reason, None, now),
            _ => {}
        }
    }

    /// Ends a call for all parties.
    pub(crate) fn end(
        &mut self,
        ix: CallIx,
        reason: EndReason,
        continues_as: Option<Id>,
        now: Instant,
    ) {
        let call = self.calls.remove(ix as usize);
        self.buffered_bytes -= call.buffered_bytes();
        if let Some(ring) = call.ring_timer {
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
        // The caller gave up, or the call rang to its end: the callee has missed it.
        let is_missed =
            matches!(reason, EndReason::NoAnswer | EndReason::Cancelled | EndReason::Disconnected);
        if let Some((caller, others)) = call.parties.split_first().filter(|_| is_missed) {
            for party in others.iter().filter(|p| matches!(p.state, PartyState::Ringing(_))) {
                let (group, thread, call) = (call.is_group, call.thread.clone(), call.id.clone());
                let (caller, called) = (caller.user.clone(), party.user.clone());
                let missed = Notification::Missed { call, thread, caller, called, group };
                self.notifications.push(missed);
            }
        }
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

    // ---- devices that connect and disconnect

    /// Extends the reconnect timeouts of the parties, since the call has been answered.
    pub(super) fn extend_reconnect_timers(&mut self, ix: CallIx, until: Instant) {
        for party in &mut self.calls[ix as usize].parties {
            if let PartyState::Disconnected(Some(timer)) = &mut party.state {
                let later =
                    self.timers.set(until, CallTimer::ReconnectTimeout(ix, party.user.key.clone()));
                self.timers.cancel(std::mem::replace(timer, later));
            }
        }
    }

    /// A device of this user has lost its connection, or now belongs to another user.
    pub(crate) fn disconnect_device(
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

    /// A device of this user has connected: it takes the place of a device that lost its
    /// connection, and is notified of ended calls if another device of the user missed that. It
    /// does not ring yet ([`Calls::ring_device`]).
    pub(crate) fn connect_device(&mut self, device: ConnId, user: &IdKey, now: Instant) {
        let to = || SmallList::from_slice(&[device]);
        for ended in self.ended_calls.take_unnotified(user, now) {
            self.notifications.push(Notification::Ended { to: to(), end: ended.end.clone() });
        }
        for ix in self.by_user.get(user).cloned().unwrap_or_default() {
            let call = &mut self.calls[ix as usize];
            let Some(at) = call.party(user) else { continue };
            let party = &mut call.parties[at];
            match &mut party.state {
                // This app does not support resuming: the next device to connect takes over.
                PartyState::Disconnected(_) if !party.call_aware => {
                    let buffered = self.attach_device(ix, user, device);
                    let frames =
                        buffered.into_iter().map(|frame| Notification::Frame { to: to(), frame });
                    self.notifications.extend(frames);
                }
                // This device rang, lost its connection, and missed that another one answered.
                PartyState::Joined(_) if party.unnotified_devices > 0 => {
                    party.unnotified_devices -= 1;
                    let end = call.answered_elsewhere();
                    self.notifications.push(Notification::Ended { to: to(), end });
                }
                PartyState::Ringing(_) | PartyState::Disconnected(_) | PartyState::Joined(_) => {}
            }
        }
    }

    // ---- timeouts

    /// Returns when the next timeout is due.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Handles one timeout that is due; false if there is none.
    pub(crate) fn advance(&mut self, now: Instant) -> bool {
        match self.timers.pop_due(now) {
            None => return false,
            Some(CallTimer::RingTimeout(ix)) => self.handle_ring_timeout(ix, now),
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

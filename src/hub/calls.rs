//! Calls: whom it rings, who is in, and how each ends.
//!
//! A device is a connection. It is told of a call when it begins to ring or to call, and then of
//! exactly one end: each device that this table names gets one [`Notification::Ended`].

mod attempts;
mod call;
mod counts;
mod ended;
mod relay;
mod status;
mod teardown;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use slab::Slab;

use super::capacity::SmallList;
use super::deadlines::Deadlines;
use super::interface::ConnId;
use crate::protocol::server::{CallState, EncodedFrame, EndReason};
use crate::protocol::{Id, IdKey};
use attempts::Attempts;
use call::{Call, Party, PartyState};
use ended::EndedCalls;
pub use ended::{CallEnd, EndedCall};

/// A call's place in the table, valid while it lasts.
pub type CallIx = u32;

/// People in a group call: each sends to each, so a device sends seven times what it shows.
pub const GROUP_MAX: usize = 8;
/// Calls that ring one user or with which they ring others, at the same time.
const RINGING_MAX: usize = 8;
/// Answered calls of one user. Apps that know no hanging up leave theirs behind; the oldest ends.
const ANSWERED_MAX: usize = 4;
/// Bytes that are kept for the devices of all calls.
const BUFFERED_BYTES_MAX: usize = 16 << 20;

/// Bounds and times of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSettings {
    /// Calls in all.
    pub total: usize,
    /// Calls that one user may begin in a minute.
    pub attempts: usize,
    /// How long it rings.
    pub ring_lasts: Duration,
    /// How long an answered call waits for a device that has lost its connection.
    pub grace: Duration,
    /// How long a call that rings waits for its caller's.
    pub ring_grace: Duration,
    /// Whether who is in a call is busy for others.
    pub reject_when_busy: bool,
}

impl Default for CallSettings {
    fn default() -> CallSettings {
        CallSettings {
            total: 10_000,
            attempts: 30,
            ring_lasts: Duration::from_secs(45),
            grace: Duration::from_secs(30),
            ring_grace: Duration::from_secs(5),
            reject_when_busy: false,
        }
    }
}

/// What a device is to be told, in order.
#[derive(Debug)]
pub enum Notification {
    /// What another device of the call has said.
    Frame {
        /// Whom.
        to: SmallList<ConnId>,
        /// What.
        frame: EncodedFrame,
    },
    /// That the call is over for these.
    Ended {
        /// Whom.
        to: SmallList<ConnId>,
        /// Which call, and why.
        end: CallEnd,
    },
    /// That someone is no longer in a group call.
    Left {
        /// The call, which may have ended with it.
        ix: CallIx,
        /// Whom; it is kept for who has lost their connection.
        to: SmallList<ConnId>,
        /// Who.
        user: Id,
        /// Of which call, and why.
        end: CallEnd,
    },
}

/// A call that is to begin.
#[derive(Debug)]
pub struct NewCall<'a> {
    /// What it is called.
    pub id: Id,
    /// Where it is.
    pub thread: Option<Id>,
    /// Who begins it.
    pub caller: Id,
    /// On which device.
    pub device: ConnId,
    /// Its app knows of calls.
    pub call_aware: bool,
    /// Who is called, on which devices.
    pub called: Vec<(Id, &'a [ConnId])>,
    /// Of several.
    pub is_group: bool,
    /// What the called devices get.
    pub frame: &'a EncodedFrame,
    /// It is an offer.
    pub is_offer: bool,
}

/// Where a device stands in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It rings.
    Ringing,
    /// It is the one that is in.
    Joined,
    /// Its user is in, and the device has lost its connection.
    Disconnected,
    /// Its user is in on another device.
    OnOtherDevice,
}

/// Why no call begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallLimit {
    /// The caller has begun too many within a minute.
    Attempts,
    /// Too many ring the caller, or with too many they ring others.
    Caller,
    /// Too many ring one of the called.
    Called,
    /// As many calls as the server holds.
    Server,
}

#[derive(Clone, Debug)]
enum CallTimer {
    /// It has rung for long enough.
    RingTimeout(CallIx),
    /// Nobody has taken the place of a device that was lost.
    ReconnectTimeout(CallIx, IdKey),
}

/// All calls.
#[derive(Debug, Default)]
pub struct Calls {
    calls: Slab<Call>,
    by_user: HashMap<IdKey, SmallList<CallIx>>,
    by_thread: HashMap<IdKey, SmallList<CallIx>>,
    timers: Deadlines<CallTimer>,
    ended_calls: EndedCalls,
    attempts: Attempts,
    buffered_bytes: usize,
    generated_ids: u32,
    /// Calls that have ended, by reason.
    ended: [u64; EndReason::ALL.len()],
    notifications: Vec<Notification>,
}

impl Calls {
    // ---- finding

    /// A call.
    pub fn get(&self, ix: CallIx) -> &Call {
        &self.calls[ix as usize]
    }

    /// The call of this user that a frame means: the one it names, or that of two with this other
    /// user.
    pub fn find(&self, me: &IdKey, other: Option<&IdKey>, id: Option<&IdKey>) -> Option<CallIx> {
        let fits = |ix: &CallIx| {
            let call = self.get(*ix);
            let is_with = other.map(|other| call.party(other).is_some());
            match id {
                Some(id) => call.id.key == *id && is_with != Some(false),
                None => is_with == Some(true) && !call.is_group,
            }
        };
        self.by_user.get(me)?.iter().copied().find(fits)
    }

    /// The call between these two.
    pub fn find_between(&self, me: &IdKey, other: &IdKey) -> Option<CallIx> {
        self.find(me, Some(other), None)
    }

    /// The group call in a thread; there is one at most.
    pub fn find_group(&self, thread: &IdKey) -> Option<CallIx> {
        let all = self.by_thread.get(thread)?;
        all.iter().copied().find(|ix| self.get(*ix).is_group)
    }

    /// The calls in a thread, and their parties.
    pub fn parties_in_thread(&self, thread: &IdKey) -> Vec<(CallIx, Id)> {
        let all = self.by_thread.get(thread).into_iter().flatten();
        let parties =
            all.flat_map(|ix| self.get(*ix).parties.iter().map(|p| (*ix, p.user.clone())));
        parties.collect()
    }

    /// Where a device of this user stands.
    pub fn device_state(&self, ix: CallIx, user: &IdKey, device: ConnId) -> Option<DeviceState> {
        let call = self.get(ix);
        Some(match &call.parties[call.party(user)?].state {
            PartyState::Ringing(_) => DeviceState::Ringing,
            PartyState::Joined(current) if *current == device => DeviceState::Joined,
            PartyState::Joined(_) => DeviceState::OnOtherDevice,
            PartyState::Disconnected(_) => DeviceState::Disconnected,
        })
    }

    /// A call of this user's that has not begun, for a reason that they have been told.
    pub fn record_end(&mut self, caller: &Id, end: CallEnd, now: Instant) {
        let users = SmallList::from_iter([caller.key.clone()]);
        self.ended_calls.record(caller.clone(), end, users, SmallList::new(), now);
    }

    /// Whether there is such a call, and this user takes part.
    pub fn is_party(&self, ix: CallIx, user: &IdKey) -> bool {
        self.calls.get(ix as usize).is_some_and(|call| call.party(user).is_some())
    }

    /// Whether this user began the call.
    pub fn is_caller(&self, ix: CallIx, user: &IdKey) -> bool {
        self.get(ix).parties.first().is_some_and(|party| party.user.key == *user)
    }

    /// Whether this user is in an answered call.
    pub fn is_busy(&self, user: &IdKey) -> bool {
        self.answered_calls(user).next().is_some()
    }

    fn answered_calls(&self, user: &IdKey) -> impl Iterator<Item = CallIx> + '_ {
        let user = user.clone();
        self.by_user.get(&user).into_iter().flatten().copied().filter(move |ix| {
            let call = self.get(*ix);
            let joined = call.party(&user).is_some_and(|at| call.parties[at].has_joined());
            joined && (call.is_group || !call.is_ringing())
        })
    }

    /// A call of this user's that has ended lately.
    pub fn find_ended(&mut self, user: &IdKey, id: &IdKey, now: Instant) -> Option<&EndedCall> {
        self.ended_calls.find(user, id, now)
    }

    // ---- beginning

    /// A name for a call whose caller gave it none.
    pub fn generate_id(&mut self, unix_s: u64) -> Id {
        self.generated_ids = self.generated_ids.wrapping_add(1);
        Id::string(&format!("{:08x}-{:08x}", unix_s as u32, self.generated_ids))
    }

    /// Whether a call of this name could be mistaken for another of these users'.
    pub fn is_id_taken<'a>(&self, id: &IdKey, users: impl IntoIterator<Item = &'a IdKey>) -> bool {
        let mut calls = users.into_iter().filter_map(|user| self.by_user.get(user)).flatten();
        calls.any(|ix| self.get(*ix).id.key == *id)
    }

    /// Counts an attempt to call.
    ///
    /// # Errors
    ///
    /// There were too many.
    pub fn count_attempt(
        &mut self,
        caller: &IdKey,
        settings: &CallSettings,
        now: Instant,
    ) -> Result<(), CallLimit> {
        let counts = self.attempts.count(caller, settings.attempts, now);
        if counts { Ok(()) } else { Err(CallLimit::Attempts) }
    }

    /// Counts an attempt to call, and says whether there is room for it.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn check_limits<'a>(
        &mut self,
        caller: &IdKey,
        called: impl IntoIterator<Item = &'a IdKey>,
        settings: &CallSettings,
        now: Instant,
    ) -> Result<(), CallLimit> {
        self.count_attempt(caller, settings, now)?;
        let rung = |user: &IdKey| {
            let calls = self.by_user.get(user).into_iter().flatten();
            calls.filter(|ix| self.get(**ix).ring.is_some()).count() >= RINGING_MAX
        };
        if self.calls.len() >= settings.total {
            Err(CallLimit::Server)
        } else if rung(caller) {
            Err(CallLimit::Caller)
        } else if called.into_iter().any(rung) {
            Err(CallLimit::Called)
        } else {
            Ok(())
        }
    }

    /// Begins a call, and rings.
    pub fn begin(&mut self, new: NewCall<'_>, settings: &CallSettings, now: Instant) -> CallIx {
        let mut call = Call::new(new.id, new.thread, new.is_group, now);
        call.parties.push(Party::caller(new.caller, new.device, new.call_aware));
        call.parties.extend(new.called.into_iter().map(|(user, on)| Party::called(user, on)));
        let ix = self.calls.insert(call) as CallIx;
        let call = &mut self.calls[ix as usize];
        call.ring = Some(self.timers.set(now + settings.ring_lasts, CallTimer::RingTimeout(ix)));
        for party in &call.parties {
            self.by_user.entry(party.user.key.clone()).or_default().push(ix);
        }
        if let Some(thread) = &call.thread {
            self.by_thread.entry(thread.key.clone()).or_default().push(ix);
        }
        self.ring(ix, new.frame, new.is_offer);
        ix
    }

    /// The caller says once more that they call, or makes another offer.
    pub fn ring_again(
        &mut self,
        ix: CallIx,
        (frame, is_offer): (&EncodedFrame, bool),
        settings: &CallSettings,
        now: Instant,
    ) {
        if !is_offer {
            let until = self.timers.set(now + settings.ring_lasts, CallTimer::RingTimeout(ix));
            if let Some(before) = self.calls[ix as usize].ring.replace(until) {
                self.timers.cancel(before);
            }
        }
        self.ring(ix, frame, is_offer);
    }

    fn ring(&mut self, ix: CallIx, frame: &EncodedFrame, is_offer: bool) {
        let to = self.get(ix).ringing_devices();
        self.notifications.push(Notification::Frame { to, frame: EncodedFrame::clone(frame) });
        self.account_buffer(ix, |call, room| call.buffer_setup_frame(frame, is_offer, room));
    }

    // ---- answering

    /// The called user takes a call of two on this device, with an answer or with an offer of their
    /// own. It no longer rings on the others. False if the caller has lost their connection, and
    /// the frame can't be kept for them.
    pub fn accept_call(
        &mut self,
        ix: CallIx,
        (user, device): (&IdKey, ConnId),
        (frame, is_offer): (&EncodedFrame, bool),
        settings: &CallSettings,
        now: Instant,
    ) -> bool {
        self.attach_device(ix, user, device);
        self.extend_reconnect_timers(ix, now + settings.grace);
        let call = &mut self.calls[ix as usize];
        call.state = if is_offer { CallState::Connecting } else { CallState::Active };
        let at = call.party(user).unwrap_or_default();
        let other = call.other(at);
        let (early_candidates, candidates) = self.account_buffer(ix, |call, _| {
            (call.take_early_candidates(device), call.take_candidates())
        });
        let delivered = self.relay_to(ix, other, frame);
        for frame in early_candidates {
            self.relay_to(ix, other, &frame);
        }
        for frame in candidates {
            self.notifications
                .push(Notification::Frame { to: SmallList::from_slice(&[device]), frame });
        }
        if !is_offer {
            self.mark_answered(ix, now);
        }
        delivered
    }

    /// The descriptions have been exchanged: nobody has to wait for the end of the ringing.
    pub fn mark_answered(&mut self, ix: CallIx, now: Instant) {
        let call = &mut self.calls[ix as usize];
        call.state = CallState::Active;
        if let Some(ring) = call.ring.take() {
            self.timers.cancel(ring);
        }
        self.enforce_answered_limit(ix, now);
    }

    /// Ends the oldest other call of each who is in this one and in too many.
    fn enforce_answered_limit(&mut self, ix: CallIx, now: Instant) {
        let joined = self.get(ix).parties.iter().filter(|party| party.has_joined());
        let users: SmallList<IdKey> = joined.map(|party| party.user.key.clone()).collect();
        for user in &users {
            if self.answered_calls(user).count() <= ANSWERED_MAX {
                continue;
            }
            let others = self.answered_calls(user).filter(|other| *other != ix);
            if let Some(oldest) = others.min_by_key(|other| self.get(*other).begun) {
                self.leave(oldest, user, EndReason::Hangup, now);
            }
        }
    }

    /// Makes a device the one on which its user is in the call, and returns what was kept for it.
    /// The user's other devices are out.
    pub fn attach_device(&mut self, ix: CallIx, user: &IdKey, device: ConnId) -> Vec<EncodedFrame> {
        let call = &mut self.calls[ix as usize];
        let Some(at) = call.party(user) else {
            debug_assert!(false, "who sits down is a party");
            return Vec::new();
        };
        let party = &mut call.parties[at];
        let others = party.devices().iter().copied().filter(|other| *other != device);
        let to: SmallList<ConnId> = others.collect();
        if let PartyState::Disconnected(timer) =
            std::mem::replace(&mut party.state, PartyState::Joined(device))
        {
            party.unnotified_devices = party.unnotified_devices.saturating_sub(1);
            if let Some(timer) = timer {
                self.timers.cancel(timer);
            }
        }
        let buffered = self.account_buffer(ix, |call, _| call.take_buffered(at));
        if !to.is_empty() {
            let end = self.get(ix).answered_elsewhere();
            self.notifications.push(Notification::Ended { to, end });
        }
        buffered
    }

    /// Whether one of the parties has an app that knows of calls.
    pub fn has_call_aware_party(&self, ix: CallIx) -> bool {
        self.get(ix).parties.iter().any(|party| party.call_aware)
    }

    /// Notes that a user's app knows of calls.
    pub fn mark_call_aware(&mut self, ix: CallIx, user: &IdKey) {
        let call = &mut self.calls[ix as usize];
        if let Some(at) = call.party(user) {
            call.parties[at].call_aware = true;
        }
    }

    // ---- groups

    /// Someone joins a group call on this device; false if it is full.
    pub fn join(&mut self, ix: CallIx, user: &Id, device: ConnId, now: Instant) -> bool {
        let call = &mut self.calls[ix as usize];
        let at = call.party(&user.key);
        let joined = at.is_some_and(|at| call.parties[at].has_joined());
        if !joined && call.count_joined() >= GROUP_MAX {
            return false;
        }
        if at.is_none() {
            call.parties.push(Party::called(user.clone(), &[]));
            self.by_user.entry(user.key.clone()).or_default().push(ix);
        }
        self.attach_device(ix, &user.key, device);
        self.stop_ringing_if_answered(ix);
        // It may be the first who comes, and by that one of the caller's answered calls.
        self.enforce_answered_limit(ix, now);
        true
    }

    /// What devices are to be told since the last time.
    pub fn take_notifications(&mut self) -> Vec<Notification> {
        std::mem::take(&mut self.notifications)
    }
}

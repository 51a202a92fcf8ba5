//! Tables of all calls: their parties, the devices that ring or take part, and how each call ends.
//!
//! A device is a connection. The hub notifies it of a call when it begins to ring or to call, and
//! then of exactly one end: each device in these tables gets one [`Notification::Ended`].

mod attempts;
mod call;
mod ended;
mod relay;
mod ringing;
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
pub(super) use ended::{CallEnd, EndedCall};

/// Index of a call in the table, valid as long as the call.
pub(super) type CallIx = u32;

/// Participants of a group call. Each device sends its media to every other participant, so it
/// uploads the same stream up to seven times.
pub(super) const GROUP_MAX: usize = 8;
/// Ringing calls of one user at the same time, as caller and as callee together.
const RINGING_MAX: usize = 8;
/// Answered calls of one user. Apps that never send a hangup leave calls behind, so the oldest
/// ends.
const ANSWERED_MAX: usize = 4;
/// Bytes buffered for the devices of all calls together.
const BUFFERED_BYTES_MAX: usize = 16 << 20;

/// Limits and timeouts of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSettings {
    /// Calls on the whole server.
    pub total: usize,
    /// Calls that one user may begin in a minute.
    pub attempts: usize,
    /// How long a call rings.
    pub ring_lasts: Duration,
    /// How long an answered call waits for a party that has lost its connection.
    pub grace: Duration,
    /// How long a ringing call waits for a caller who has lost the connection.
    pub ring_grace: Duration,
    /// Whether a user in an answered call is busy for other callers.
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

/// A notification for devices; they are sent in order.
#[derive(Debug)]
pub(super) enum Notification {
    /// A frame that another device of the call has sent.
    Frame {
        /// The devices that get the frame.
        to: SmallList<ConnId>,
        /// The frame.
        frame: EncodedFrame,
    },
    /// The call has ended for these devices.
    Ended {
        /// The devices for which it has ended.
        to: SmallList<ConnId>,
        /// The call and the reason.
        end: CallEnd,
    },
    /// A user has missed a call.
    Missed {
        /// The call.
        call: Id,
        /// The thread of the call.
        thread: Option<Id>,
        /// The user who called.
        caller: Id,
        /// The user who missed it.
        called: Id,
        /// Whether it is a group call.
        group: bool,
    },
    /// A user has left a group call.
    Left {
        /// The call, which may have ended at the same time.
        ix: CallIx,
        /// The devices to notify; the call buffers the frame for parties without a connection.
        to: SmallList<ConnId>,
        /// The user who has left.
        user: Id,
        /// The call and the reason.
        end: CallEnd,
    },
}

/// The parameters of a new call.
#[derive(Debug)]
pub(super) struct NewCall<'a> {
    /// The `callId`.
    pub id: Id,
    /// The thread of the call.
    pub thread: Option<Id>,
    /// The user who calls.
    pub caller: Id,
    /// The device that calls.
    pub device: ConnId,
    /// Whether the caller's app is call-aware (see `Party::call_aware`).
    pub call_aware: bool,
    /// The users to call, with the devices that are to ring.
    pub called: Vec<(Id, &'a [ConnId])>,
    /// Whether it is a group call.
    pub is_group: bool,
    /// The frame that the called devices get.
    pub frame: &'a EncodedFrame,
    /// Whether that frame is an offer.
    pub is_offer: bool,
}

/// State of one device in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeviceState {
    /// The device rings.
    Ringing,
    /// Its user takes part in the call on this device.
    Joined,
    /// Its user takes part, but the device that was used has lost its connection.
    Disconnected,
    /// Its user takes part on another device.
    OnOtherDevice,
}

/// The limit that prevents a new call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallLimit {
    /// The caller has begun too many calls within a minute.
    Attempts,
    /// The caller has too many ringing calls, as caller and as callee together.
    Caller,
    /// One of the called users has too many ringing calls.
    Called,
    /// The server holds as many calls as it may.
    Server,
}

#[derive(Clone, Debug)]
enum CallTimer {
    /// The call has rung for the maximum time.
    RingTimeout(CallIx),
    /// No device has replaced the one that lost its connection.
    ReconnectTimeout(CallIx, IdKey),
}

/// All calls, with indexes by user and by thread.
#[derive(Debug, Default)]
pub(super) struct Calls {
    calls: Slab<Call>,
    by_user: HashMap<IdKey, SmallList<CallIx>>,
    by_thread: HashMap<IdKey, SmallList<CallIx>>,
    timers: Deadlines<CallTimer>,
    ended_calls: EndedCalls,
    attempts: Attempts,
    buffered_bytes: usize,
    generated_ids: u32,
    /// How many calls have ended, by reason.
    ended: [u64; EndReason::ALL.len()],
    notifications: Vec<Notification>,
}

impl Calls {
    // ---- lookup

    /// Returns a call, which must exist.
    pub(super) fn get(&self, ix: CallIx) -> &Call {
        &self.calls[ix as usize]
    }

    /// Finds the call of this user that a frame refers to: by its id or, without an id, the
    /// two-party call with the other user.
    pub(super) fn find(
        &self,
        me: &IdKey,
        other: Option<&IdKey>,
        id: Option<&IdKey>,
    ) -> Option<CallIx> {
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

    /// Finds the two-party call between these users.
    pub(super) fn find_between(&self, me: &IdKey, other: &IdKey) -> Option<CallIx> {
        self.find(me, Some(other), None)
    }

    /// Finds the group call in a thread; a thread has at most one.
    pub(super) fn find_group(&self, thread: &IdKey) -> Option<CallIx> {
        let all = self.by_thread.get(thread)?;
        all.iter().copied().find(|ix| self.get(*ix).is_group)
    }

    /// Lists every party of every call in a thread.
    pub(super) fn parties_in_thread(&self, thread: &IdKey) -> Vec<(CallIx, Id)> {
        let all = self.by_thread.get(thread).into_iter().flatten();
        let parties =
            all.flat_map(|ix| self.get(*ix).parties.iter().map(|p| (*ix, p.user.clone())));
        parties.collect()
    }

    /// Returns the state of a user's device in a call; `None` if the user is no party of it.
    pub(super) fn device_state(
        &self,
        ix: CallIx,
        user: &IdKey,
        device: ConnId,
    ) -> Option<DeviceState> {
        let call = self.get(ix);
        Some(match &call.parties[call.party(user)?].state {
            PartyState::Ringing(_) => DeviceState::Ringing,
            PartyState::Joined(current) if *current == device => DeviceState::Joined,
            PartyState::Joined(_) => DeviceState::OnOtherDevice,
            PartyState::Disconnected(_) => DeviceState::Disconnected,
        })
    }

    /// Records a call of this user that ended before it began; the user has got the reason already.
    pub(super) fn record_end(&mut self, caller: &Id, end: CallEnd, now: Instant) {
        let users = SmallList::from_iter([caller.key.clone()]);
        self.ended_calls.record(caller.clone(), end, users, SmallList::new(), now);
    }

    /// Whether the call still exists and this user is a party of it.
    pub(super) fn is_party(&self, ix: CallIx, user: &IdKey) -> bool {
        self.calls.get(ix as usize).is_some_and(|call| call.party(user).is_some())
    }

    /// Whether this user began the call.
    pub(super) fn is_caller(&self, ix: CallIx, user: &IdKey) -> bool {
        self.get(ix).parties.first().is_some_and(|party| party.user.key == *user)
    }

    /// Whether this user takes part in an answered call.
    pub(super) fn is_busy(&self, user: &IdKey) -> bool {
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

    /// Finds a call of this user that ended recently.
    pub(super) fn find_ended(
        &mut self,
        user: &IdKey,
        id: &IdKey,
        now: Instant,
    ) -> Option<&EndedCall> {
        self.ended_calls.find(user, id, now)
    }

    // ---- beginning a call

    /// Generates an id for a call whose caller chose none.
    pub(super) fn generate_id(&mut self, unix_s: u64) -> Id {
        self.generated_ids = self.generated_ids.wrapping_add(1);
        Id::string(&format!("{:08x}-{:08x}", unix_s as u32, self.generated_ids))
    }

    /// Whether one of these users is a party of a call with this id.
    pub(super) fn is_id_taken<'a>(
        &self,
        id: &IdKey,
        users: impl IntoIterator<Item = &'a IdKey>,
    ) -> bool {
        let mut calls = users.into_iter().filter_map(|user| self.by_user.get(user)).flatten();
        calls.any(|ix| self.get(*ix).id.key == *id)
    }

    /// Counts an attempt to call.
    ///
    /// # Errors
    ///
    /// The caller has made too many attempts within a minute.
    pub(super) fn count_attempt(
        &mut self,
        caller: &IdKey,
        settings: &CallSettings,
        now: Instant,
    ) -> Result<(), CallLimit> {
        let counts = self.attempts.count(caller, settings.attempts, now);
        if counts { Ok(()) } else { Err(CallLimit::Attempts) }
    }

    /// Counts an attempt to call and checks the limits of ringing calls and of all calls.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
    pub(super) fn check_limits<'a>(
        &mut self,
        caller: &IdKey,
        called: impl IntoIterator<Item = &'a IdKey>,
        settings: &CallSettings,
        now: Instant,
    ) -> Result<(), CallLimit> {
        self.count_attempt(caller, settings, now)?;
        let is_ringing_too_often = |user: &IdKey| {
            let calls = self.by_user.get(user).into_iter().flatten();
            calls.filter(|ix| self.get(**ix).ring_timer.is_some()).count() >= RINGING_MAX
        };
        if self.calls.len() >= settings.total {
            Err(CallLimit::Server)
        } else if is_ringing_too_often(caller) {
            Err(CallLimit::Caller)
        } else if called.into_iter().any(is_ringing_too_often) {
            Err(CallLimit::Called)
        } else {
            Ok(())
        }
    }

    /// Begins a call and lets the called devices ring.
    pub(super) fn begin(
        &mut self,
        new: NewCall<'_>,
        settings: &CallSettings,
        now: Instant,
    ) -> CallIx {
        let mut call = Call::new(new.id, new.thread, new.is_group, now);
        call.parties.push(Party::caller(new.caller, new.device, new.call_aware));
        call.parties.extend(new.called.into_iter().map(|(user, on)| Party::called(user, on)));
        let ix = self.calls.insert(call) as CallIx;
        self.start_ring_timeout(ix, settings, now);
        let call = &self.calls[ix as usize];
        for party in &call.parties {
            self.by_user.entry(party.user.key.clone()).or_default().push(ix);
        }
        if let Some(thread) = &call.thread {
            self.by_thread.entry(thread.key.clone()).or_default().push(ix);
        }
        self.ring(ix, new.frame, new.is_offer);
        ix
    }

    // ---- answering

    /// Answers a two-party call on this device of the called user, with an answer or with an offer.
    /// The user's other devices stop ringing. Returns false if the caller has lost the connection
    /// and the frame cannot be buffered.
    pub(super) fn accept_call(
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

    /// Marks a call as answered: both descriptions have been exchanged, so ringing cannot time out.
    pub(super) fn mark_answered(&mut self, ix: CallIx, now: Instant) {
        self.calls[ix as usize].state = CallState::Active;
        self.cancel_ring_timeout(ix);
        self.enforce_answered_limit(ix, now);
    }

    /// For each user in this call who has too many answered calls, ends the oldest of the others.
    fn enforce_answered_limit(&mut self, ix: CallIx, now: Instant) {
        let joined = self.get(ix).parties.iter().filter(|party| party.has_joined());
        let users: SmallList<IdKey> = joined.map(|party| party.user.key.clone()).collect();
        for user in &users {
            if self.answered_calls(user).count() <= ANSWERED_MAX {
                continue;
            }
            let others = self.answered_calls(user).filter(|other| *other != ix);
            if let Some(oldest) = others.min_by_key(|other| self.get(*other).started_at) {
                self.leave(oldest, user, EndReason::Hangup, now);
            }
        }
    }

    /// Makes this the only device on which its user takes part and returns the frames buffered for
    /// that user. The user's other devices are notified that the call was answered elsewhere.
    pub(super) fn attach_device(
        &mut self,
        ix: CallIx,
        user: &IdKey,
        device: ConnId,
    ) -> Vec<EncodedFrame> {
        let call = &mut self.calls[ix as usize];
        let Some(at) = call.party(user) else {
            debug_assert!(false, "only a party attaches a device");
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

    /// Whether the app of at least one party is call-aware (see `Party::call_aware`).
    pub(super) fn has_call_aware_party(&self, ix: CallIx) -> bool {
        self.get(ix).parties.iter().any(|party| party.call_aware)
    }

    /// Records that a user's app is call-aware (see `Party::call_aware`).
    pub(super) fn mark_call_aware(&mut self, ix: CallIx, user: &IdKey) {
        let call = &mut self.calls[ix as usize];
        if let Some(at) = call.party(user) {
            call.parties[at].call_aware = true;
        }
    }

    // ---- group calls

    /// Adds a user to a group call on this device; false if the call is full.
    pub(super) fn join(&mut self, ix: CallIx, user: &Id, device: ConnId, now: Instant) -> bool {
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
        // A group call counts as answered for its caller once a second user has joined.
        self.enforce_answered_limit(ix, now);
        true
    }

    /// Records the users who were invited to a group call but had no connection.
    pub(super) fn set_invited_offline(&mut self, ix: CallIx, users: &[Id]) {
        self.calls[ix as usize].invited_offline =
            users.iter().map(|user| user.key.clone()).collect();
    }

    // ---- status requests, from apps that a push notification has woken

    /// Finds the group call with this id to which a user was invited while offline.
    pub(super) fn find_invited_offline(&self, me: &IdKey, id: &IdKey) -> Option<CallIx> {
        let mut calls = self.calls.iter();
        let found = calls.find(|(_, call)| call.id.key == *id && call.invited_offline.contains(me));
        found.map(|(ix, _)| ix as CallIx)
    }

    /// Finds the call with this id, whoever its parties are; of several, the latest.
    pub(super) fn find_by_id(&self, id: &IdKey) -> Option<CallIx> {
        let matching = self.calls.iter().filter(|(_, call)| call.id.key == *id);
        matching.max_by_key(|(_, call)| call.started_at).map(|(ix, _)| ix as CallIx)
    }

    /// Finds the latest ended call with this id, whoever its parties were.
    pub(super) fn find_ended_by_id(&mut self, id: &IdKey, now: Instant) -> Option<&EndedCall> {
        self.ended_calls.find_by_id(id, now)
    }

    // ---- notifications, counts and checks

    /// Takes the notifications that have accumulated since the last call.
    pub(super) fn take_notifications(&mut self) -> Vec<Notification> {
        std::mem::take(&mut self.notifications)
    }

    /// Returns how many calls ring and how many are answered.
    pub(super) fn ringing_and_answered(&self) -> [usize; 2] {
        let ringing =
            self.calls.iter().filter(|(_, call)| call.reported_state() == CallState::Ringing);
        let ringing = ringing.count();
        [ringing, self.calls.len() - ringing]
    }

    /// Returns how many calls have ended, by reason.
    pub(super) fn ended_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        EndReason::ALL.into_iter().map(|(_, word)| word).zip(self.ended)
    }

    /// Asserts that the tables agree with each other.
    pub(super) fn check_invariants(&self) {
        let (mut buffered_bytes, mut timers) = (0, 0);
        for (ix, call) in &self.calls {
            call.check_invariants();
            buffered_bytes += call.buffered_bytes();
            timers += usize::from(call.ring_timer.is_some());
            for party in &call.parties {
                timers += usize::from(matches!(party.state, PartyState::Disconnected(_)));
                let calls = self.by_user.get(&party.user.key);
                assert!(calls.is_some_and(|calls| calls.contains(&(ix as CallIx))));
            }
            let calls = call.thread.as_ref().map(|thread| &self.by_thread[&thread.key]);
            assert!(calls.is_none_or(|calls| calls.contains(&(ix as CallIx))));
        }
        assert_eq!((self.buffered_bytes, self.timers.count()), (buffered_bytes, timers));
        let parties = self.calls.iter().map(|(_, call)| call.parties.len()).sum::<usize>();
        assert_eq!(self.by_user.values().map(|calls| calls.len()).sum::<usize>(), parties);
        let with_thread = self.calls.iter().filter(|(_, call)| call.thread.is_some()).count();
        assert_eq!(self.by_thread.values().map(|calls| calls.len()).sum::<usize>(), with_thread);
        assert!(self.notifications.is_empty(), "the hub has sent all notifications");
    }
}

//! Calls: whom it rings, who is in, and how each ends.
//!
//! A device is a connection. It is told of a call when it begins to ring or to call, and then of
//! exactly one end: each device that this table names gets one [`Step::Ended`].

mod attempts;
mod call;
mod census;
mod ending;
mod over;
mod shown;
mod speech;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use slab::Slab;

use super::capacity::Few;
use super::deadlines::Deadlines;
use super::interface::ConnId;
use crate::protocol::server::{CallState, EncodedFrame, EndReason};
use crate::protocol::{Id, IdKey};
use attempts::Attempts;
use call::{Call, Party, Place};
use over::Ends;
pub use over::{Over, Told};

/// A call's place in the table, valid while it lasts.
pub type CallIx = u32;

/// People in a group call: each sends to each, so a device sends seven times what it shows.
pub const GROUP_MAX: usize = 8;
/// Calls that ring one user or with which they ring others, at the same time.
const RINGING_MAX: usize = 8;
/// Answered calls of one user. Apps that know no hanging up leave theirs behind; the oldest ends.
const ANSWERED_MAX: usize = 4;
/// Bytes that are kept for the devices of all calls.
const KEPT_BYTES_MAX: usize = 16 << 20;

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
    pub refuses_when_busy: bool,
}

impl Default for CallSettings {
    fn default() -> CallSettings {
        CallSettings {
            total: 10_000,
            attempts: 30,
            ring_lasts: Duration::from_secs(45),
            grace: Duration::from_secs(30),
            ring_grace: Duration::from_secs(5),
            refuses_when_busy: false,
        }
    }
}

/// What a device is to be told, in order.
#[derive(Debug)]
pub enum Step {
    /// What another device of the call has said.
    Tell {
        /// Whom.
        to: Few<ConnId>,
        /// What.
        frame: EncodedFrame,
    },
    /// That the call is over for these.
    Ended {
        /// Whom.
        to: Few<ConnId>,
        /// Which call, and why.
        told: Told,
    },
    /// That someone is no longer in a group call.
    Left {
        /// The call, which may have ended with it.
        ix: CallIx,
        /// Whom; it is kept for who has lost their connection.
        to: Few<ConnId>,
        /// Who.
        user: Id,
        /// Of which call, and why.
        told: Told,
    },
}

/// A call that is to begin.
#[derive(Debug)]
pub struct Beginning<'a> {
    /// What it is called.
    pub id: Id,
    /// Where it is.
    pub thread: Option<Id>,
    /// Who begins it.
    pub caller: Id,
    /// On which device.
    pub device: ConnId,
    /// Its app knows of calls.
    pub knows_calls: bool,
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
pub enum Seat {
    /// It rings.
    Ringing,
    /// It is the one that is in.
    In,
    /// Its user is in, and the device has lost its connection.
    Vacant,
    /// Its user is in on another device.
    Elsewhere,
}

/// Why no call begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
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
enum Due {
    /// It has rung for long enough.
    Ring(CallIx),
    /// Nobody has taken the place of a device that was lost.
    Loss(CallIx, IdKey),
}

/// All calls.
#[derive(Debug, Default)]
pub struct Calls {
    calls: Slab<Call>,
    of_user: HashMap<IdKey, Few<CallIx>>,
    of_thread: HashMap<IdKey, Few<CallIx>>,
    due: Deadlines<Due>,
    ends: Ends,
    attempts: Attempts,
    kept_bytes: usize,
    made: u32,
    /// Calls that have ended, by reason.
    ended: [u64; EndReason::ALL.len()],
    steps: Vec<Step>,
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
        self.of_user.get(me)?.iter().copied().find(fits)
    }

    /// The call between these two.
    pub fn between(&self, me: &IdKey, other: &IdKey) -> Option<CallIx> {
        self.find(me, Some(other), None)
    }

    /// The group call in a thread; there is one at most.
    pub fn group_in(&self, thread: &IdKey) -> Option<CallIx> {
        let all = self.of_thread.get(thread)?;
        all.iter().copied().find(|ix| self.get(*ix).is_group)
    }

    /// The calls in a thread, and their parties.
    pub fn parties_in(&self, thread: &IdKey) -> Vec<(CallIx, Id)> {
        let all = self.of_thread.get(thread).into_iter().flatten();
        let parties =
            all.flat_map(|ix| self.get(*ix).parties.iter().map(|p| (*ix, p.user.clone())));
        parties.collect()
    }

    /// Where a device of this user stands.
    pub fn seat(&self, ix: CallIx, user: &IdKey, device: ConnId) -> Option<Seat> {
        let call = self.get(ix);
        Some(match &call.parties[call.party(user)?].place {
            Place::Rings(_) => Seat::Ringing,
            Place::In(seated) if *seated == device => Seat::In,
            Place::In(_) => Seat::Elsewhere,
            Place::Lost(_) => Seat::Vacant,
        })
    }

    /// A call of this user's that has not begun, for a reason that they have been told.
    pub fn note_end(&mut self, caller: &Id, over: Told, now: Instant) {
        let users = Few::from_iter([caller.key.clone()]);
        self.ends.note(caller.clone(), over, users, Few::new(), now);
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
        self.answered(user).next().is_some()
    }

    fn answered(&self, user: &IdKey) -> impl Iterator<Item = CallIx> + '_ {
        let user = user.clone();
        self.of_user.get(&user).into_iter().flatten().copied().filter(move |ix| {
            let call = self.get(*ix);
            let is_in = call.party(&user).is_some_and(|at| call.parties[at].is_in());
            is_in && (call.is_group || !call.rings())
        })
    }

    /// A call of this user's that has ended lately.
    pub fn ended(&mut self, user: &IdKey, id: &IdKey, now: Instant) -> Option<&Over> {
        self.ends.find(user, id, now)
    }

    // ---- beginning

    /// A name for a call whose caller gave it none.
    pub fn make_id(&mut self, unix_s: u64) -> Id {
        self.made = self.made.wrapping_add(1);
        Id::string(&format!("{:08x}-{:08x}", unix_s as u32, self.made))
    }

    /// Whether a call of this name could be mistaken for another of these users'.
    pub fn is_taken<'a>(&self, id: &IdKey, users: impl IntoIterator<Item = &'a IdKey>) -> bool {
        let mut calls = users.into_iter().filter_map(|user| self.of_user.get(user)).flatten();
        calls.any(|ix| self.get(*ix).id.key == *id)
    }

    /// Counts an attempt to call.
    ///
    /// # Errors
    ///
    /// There were too many.
    pub fn attempt(
        &mut self,
        caller: &IdKey,
        settings: &CallSettings,
        now: Instant,
    ) -> Result<(), Full> {
        let counts = self.attempts.count(caller, settings.attempts, now);
        if counts { Ok(()) } else { Err(Full::Attempts) }
    }

    /// Counts an attempt to call, and says whether there is room for it.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn room<'a>(
        &mut self,
        caller: &IdKey,
        called: impl IntoIterator<Item = &'a IdKey>,
        settings: &CallSettings,
        now: Instant,
    ) -> Result<(), Full> {
        self.attempt(caller, settings, now)?;
        let rung = |user: &IdKey| {
            let calls = self.of_user.get(user).into_iter().flatten();
            calls.filter(|ix| self.get(**ix).ring.is_some()).count() >= RINGING_MAX
        };
        if self.calls.len() >= settings.total {
            Err(Full::Server)
        } else if rung(caller) {
            Err(Full::Caller)
        } else if called.into_iter().any(rung) {
            Err(Full::Called)
        } else {
            Ok(())
        }
    }

    /// Begins a call, and rings.
    pub fn begin(&mut self, new: Beginning<'_>, settings: &CallSettings, now: Instant) -> CallIx {
        let mut call = Call::new(new.id, new.thread, new.is_group, now);
        call.parties.push(Party::caller(new.caller, new.device, new.knows_calls));
        call.parties.extend(new.called.into_iter().map(|(user, on)| Party::called(user, on)));
        let ix = self.calls.insert(call) as CallIx;
        let call = &mut self.calls[ix as usize];
        call.ring = Some(self.due.set(now + settings.ring_lasts, Due::Ring(ix)));
        for party in &call.parties {
            self.of_user.entry(party.user.key.clone()).or_default().push(ix);
        }
        if let Some(thread) = &call.thread {
            self.of_thread.entry(thread.key.clone()).or_default().push(ix);
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
            let until = self.due.set(now + settings.ring_lasts, Due::Ring(ix));
            if let Some(before) = self.calls[ix as usize].ring.replace(until) {
                self.due.cancel(before);
            }
        }
        self.ring(ix, frame, is_offer);
    }

    fn ring(&mut self, ix: CallIx, frame: &EncodedFrame, is_offer: bool) {
        let to = self.get(ix).ringing_devices();
        self.steps.push(Step::Tell { to, frame: EncodedFrame::clone(frame) });
        self.keeping(ix, |call, room| call.keep_beginning(frame, is_offer, room));
    }

    // ---- answering

    /// The called user takes a call of two on this device, with an answer or with an offer of their
    /// own. It no longer rings on the others. False if the caller has lost their connection, and
    /// the frame can't be kept for them.
    pub fn accept(
        &mut self,
        ix: CallIx,
        (user, device): (&IdKey, ConnId),
        (frame, is_offer): (&EncodedFrame, bool),
        settings: &CallSettings,
        now: Instant,
    ) -> bool {
        self.sit(ix, user, device);
        self.waits_longer(ix, now + settings.grace);
        let call = &mut self.calls[ix as usize];
        call.state = if is_offer { CallState::Connecting } else { CallState::Active };
        let at = call.party(user).unwrap_or_default();
        let other = call.other(at);
        let (early, candidates) =
            self.keeping(ix, |call, _| (call.answered_by(device), call.take_candidates()));
        let reaches = self.pass(ix, other, frame);
        for frame in early {
            self.pass(ix, other, &frame);
        }
        for frame in candidates {
            self.steps.push(Step::Tell { to: Few::from_slice(&[device]), frame });
        }
        if !is_offer {
            self.is_answered(ix, now);
        }
        reaches
    }

    /// The descriptions have been exchanged: nobody has to wait for the end of the ringing.
    pub fn is_answered(&mut self, ix: CallIx, now: Instant) {
        let call = &mut self.calls[ix as usize];
        call.state = CallState::Active;
        if let Some(ring) = call.ring.take() {
            self.due.cancel(ring);
        }
        self.end_calls_before(ix, now);
    }

    /// Ends the oldest other call of each who is in this one and in too many.
    fn end_calls_before(&mut self, ix: CallIx, now: Instant) {
        let is_in = self.get(ix).parties.iter().filter(|party| party.is_in());
        let users: Few<IdKey> = is_in.map(|party| party.user.key.clone()).collect();
        for user in &users {
            if self.answered(user).count() <= ANSWERED_MAX {
                continue;
            }
            let others = self.answered(user).filter(|other| *other != ix);
            if let Some(oldest) = others.min_by_key(|other| self.get(*other).begun) {
                self.leave(oldest, user, EndReason::Hangup, now);
            }
        }
    }

    /// Makes a device the one on which its user is in the call, and returns what was kept for it.
    /// The user's other devices are out.
    pub fn sit(&mut self, ix: CallIx, user: &IdKey, device: ConnId) -> Vec<EncodedFrame> {
        let call = &mut self.calls[ix as usize];
        let Some(at) = call.party(user) else {
            debug_assert!(false, "who sits down is a party");
            return Vec::new();
        };
        let party = &mut call.parties[at];
        let others = party.devices().iter().copied().filter(|other| *other != device);
        let to: Few<ConnId> = others.collect();
        if let Place::Lost(loss) = std::mem::replace(&mut party.place, Place::In(device)) {
            party.missed = party.missed.saturating_sub(1);
            if let Some(loss) = loss {
                self.due.cancel(loss);
            }
        }
        let kept = self.keeping(ix, |call, _| call.take_kept(at));
        if !to.is_empty() {
            let told = self.get(ix).end_elsewhere();
            self.steps.push(Step::Ended { to, told });
        }
        kept
    }

    /// Whether one of the parties has an app that knows of calls.
    pub fn is_known(&self, ix: CallIx) -> bool {
        self.get(ix).parties.iter().any(|party| party.knows_calls)
    }

    /// Notes that a user's app knows of calls.
    pub fn knows_calls(&mut self, ix: CallIx, user: &IdKey) {
        let call = &mut self.calls[ix as usize];
        if let Some(at) = call.party(user) {
            call.parties[at].knows_calls = true;
        }
    }

    // ---- groups

    /// Someone joins a group call on this device; false if it is full.
    pub fn join(&mut self, ix: CallIx, user: &Id, device: ConnId, now: Instant) -> bool {
        let call = &mut self.calls[ix as usize];
        let at = call.party(&user.key);
        let is_in = at.is_some_and(|at| call.parties[at].is_in());
        if !is_in && call.count_in() >= GROUP_MAX {
            return false;
        }
        if at.is_none() {
            call.parties.push(Party::called(user.clone(), &[]));
            self.of_user.entry(user.key.clone()).or_default().push(ix);
        }
        self.sit(ix, &user.key, device);
        self.may_ring_no_more(ix);
        // It may be the first who comes, and by that one of the caller's answered calls.
        self.end_calls_before(ix, now);
        true
    }

    /// What devices are to be told since the last time.
    pub fn take_steps(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.steps)
    }
}

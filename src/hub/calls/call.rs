//! One call: its parties, the devices on which it rings and those that are in it.

use std::time::Instant;

use smallvec::SmallVec;

use super::Told;
use crate::hub::capacity::Few;
use crate::hub::deadlines::DeadlineKey;
use crate::hub::interface::ConnId;
use crate::protocol::server::{CallState, EncodedFrame, EndReason};
use crate::protocol::{Id, IdKey};

/// Frames that are kept for the devices of one call, and their bytes: a description and what is
/// found of candidates in half a minute, several times over.
const KEPT_FRAMES_MAX: usize = 128;
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Where a party of a call is.
#[derive(Debug)]
pub enum Place {
    /// It rings on these devices; there may be none for now.
    Rings(Few<ConnId>),
    /// In the call, on this device.
    In(ConnId),
    /// In the call, but the device has lost its connection; until then another may take its place.
    /// `None` when that time is over.
    Lost(Option<DeadlineKey>),
}

/// A user in a call.
#[derive(Debug)]
pub struct Party {
    /// Who, in the form in which they were first written.
    pub user: Id,
    /// Where they are.
    pub place: Place,
    /// Their app knows of calls: it names one, or has sent a frame that only such an app does.
    pub knows_calls: bool,
    /// How many of their devices lost their connection and have not been told how the call went on.
    pub missed: u32,
    /// What others said while the device had no connection.
    kept: Vec<EncodedFrame>,
}

impl Party {
    /// A party who has been in from the start.
    pub fn caller(user: Id, device: ConnId, knows_calls: bool) -> Party {
        Party { knows_calls, ..Party::with(user, Place::In(device)) }
    }

    /// A party whom it rings.
    pub fn called(user: Id, devices: &[ConnId]) -> Party {
        Party::with(user, Place::Rings(devices.into()))
    }

    fn with(user: Id, place: Place) -> Party {
        Party { user, place, knows_calls: false, missed: 0, kept: Vec::new() }
    }

    /// In the call, with a connection or without.
    pub fn is_in(&self) -> bool {
        !matches!(self.place, Place::Rings(_))
    }

    /// The devices that have been told of the call and not of its end.
    pub fn devices(&self) -> &[ConnId] {
        match &self.place {
            Place::Rings(devices) => devices,
            Place::In(device) => std::slice::from_ref(device),
            Place::Lost(_) => &[],
        }
    }
}

/// A call of two, or of a group.
#[derive(Debug)]
pub struct Call {
    /// What it is called.
    pub id: Id,
    /// The thread that it belongs to, where its first frame named one.
    pub thread: Option<Id>,
    /// Of several: each joins, and each pair of them has a connection of its own.
    pub is_group: bool,
    /// Who began it, and then who was called; of a group also who came later.
    pub parties: SmallVec<[Party; 2]>,
    /// Who was called to a group and was not there: no parties, but they may ask and join.
    pub woken: Few<IdKey>,
    /// How far it is; of a group, active from the start.
    pub state: CallState,
    /// When it began.
    pub begun: Instant,
    /// When it has rung for long enough.
    pub(super) ring: Option<DeadlineKey>,
    /// What a device gets that begins to ring.
    initiated: Option<EncodedFrame>,
    offer: Option<EncodedFrame>,
    /// The caller's candidates, for the device that will answer.
    candidates: Vec<EncodedFrame>,
    /// Too many to be kept: they go to all devices at once.
    pub(super) trickles: bool,
    /// Candidates of devices that have not answered.
    early: Vec<(ConnId, EncodedFrame)>,
    kept_bytes: usize,
}

/// Whether a frame is kept for later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is.
    Yes,
    /// As much is kept as may be.
    No,
}

impl Call {
    /// A call that has just begun.
    pub fn new(id: Id, thread: Option<Id>, is_group: bool, now: Instant) -> Call {
        Call {
            id,
            thread,
            is_group,
            parties: SmallVec::new(),
            woken: Few::new(),
            state: if is_group { CallState::Active } else { CallState::Ringing },
            begun: now,
            ring: None,
            initiated: None,
            offer: None,
            candidates: Vec::new(),
            trickles: false,
            early: Vec::new(),
            kept_bytes: 0,
        }
    }

    /// Where this user stands among the parties.
    pub fn party(&self, user: &IdKey) -> Option<usize> {
        self.parties.iter().position(|party| party.user.key == *user)
    }

    /// The other party of a call of two.
    pub fn other(&self, at: usize) -> usize {
        1 - at
    }

    /// How many are in.
    pub fn count_in(&self) -> usize {
        self.parties.iter().filter(|party| party.is_in()).count()
    }

    /// Whether it rings anybody, on a device or on none for now.
    pub fn rings(&self) -> bool {
        self.parties.iter().any(|party| !party.is_in())
    }

    /// How far it is, for who asks.
    pub fn shown_state(&self) -> CallState {
        let nobody_came = self.is_group && self.count_in() < 2;
        if nobody_came { CallState::Ringing } else { self.state }
    }

    /// All devices that have been told of it and not of its end.
    pub fn devices(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.parties.iter().flat_map(Party::devices).copied()
    }

    /// The devices on which it rings.
    pub fn ringing_devices(&self) -> Few<ConnId> {
        let rung = self.parties.iter().filter(|party| !party.is_in());
        rung.flat_map(Party::devices).copied().collect()
    }

    /// What a device is told whose user is in the call on another.
    pub fn end_elsewhere(&self) -> Told {
        let (id, thread) = (self.id.clone(), self.thread.clone());
        Told { id, thread, reason: EndReason::AnsweredElsewhere, continues_as: None }
    }

    // ---- what is kept

    /// Bytes that are kept.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    fn kept_frames(&self) -> usize {
        let of_parties = self.parties.iter().map(|party| party.kept.len());
        let begun = usize::from(self.initiated.is_some()) + usize::from(self.offer.is_some());
        begun + self.candidates.len() + self.early.len() + of_parties.sum::<usize>()
    }

    fn room(&mut self, frame: &EncodedFrame, room: usize) -> Kept {
        let bytes = frame.len();
        let fits = bytes <= room.min(KEPT_BYTES_MAX - self.kept_bytes);
        if !fits || self.kept_frames() == KEPT_FRAMES_MAX {
            return Kept::No;
        }
        self.kept_bytes += bytes;
        Kept::Yes
    }

    /// Keeps what begins the call for devices that come while it rings, in place of an earlier one.
    /// Without room it is not kept.
    pub fn keep_beginning(&mut self, frame: &EncodedFrame, is_offer: bool, room: usize) {
        let before = if is_offer { self.offer.take() } else { self.initiated.take() };
        self.kept_bytes -= before.map_or(0, |frame| frame.len());
        if self.room(frame, room) == Kept::Yes {
            let place = if is_offer { &mut self.offer } else { &mut self.initiated };
            *place = Some(EncodedFrame::clone(frame));
        }
    }

    /// What a device gets that begins to ring.
    pub fn beginning(&self) -> impl Iterator<Item = &EncodedFrame> {
        [&self.initiated, &self.offer].into_iter().flatten()
    }

    /// It rings nobody any more: no device will get it.
    pub fn forget_beginning(&mut self) {
        for frame in self.initiated.take().into_iter().chain(self.offer.take()) {
            self.kept_bytes -= frame.len();
        }
    }

    /// Keeps a candidate of the caller's for the device that will answer.
    pub fn keep_candidate(&mut self, frame: &EncodedFrame, room: usize) -> Kept {
        let kept = self.room(frame, room);
        if kept == Kept::Yes {
            self.candidates.push(EncodedFrame::clone(frame));
        }
        kept
    }

    /// The candidates that have been kept.
    pub fn take_candidates(&mut self) -> Vec<EncodedFrame> {
        let taken = std::mem::take(&mut self.candidates);
        self.kept_bytes -= bytes_of(&taken);
        taken
    }

    /// Keeps a candidate of a device that has not answered.
    pub fn keep_early(&mut self, device: ConnId, frame: &EncodedFrame, room: usize) -> Kept {
        let kept = self.room(frame, room);
        if kept == Kept::Yes {
            self.early.push((device, EncodedFrame::clone(frame)));
        }
        kept
    }

    /// This device has answered: its candidates, and nothing more is kept for who rings.
    pub fn answered_by(&mut self, device: ConnId) -> Vec<EncodedFrame> {
        self.forget_beginning();
        let early = std::mem::take(&mut self.early);
        self.kept_bytes -= early.iter().map(|(_, frame)| frame.len()).sum::<usize>();
        early.into_iter().filter(|(from, _)| *from == device).map(|(_, frame)| frame).collect()
    }

    /// Keeps what was said to a party whose device has no connection.
    pub fn keep_for(&mut self, at: usize, frame: &EncodedFrame, room: usize) -> Kept {
        let kept = self.room(frame, room);
        if kept == Kept::Yes {
            self.parties[at].kept.push(EncodedFrame::clone(frame));
        }
        kept
    }

    /// What was kept for a party.
    pub fn take_kept(&mut self, at: usize) -> Vec<EncodedFrame> {
        let taken = std::mem::take(&mut self.parties[at].kept);
        self.kept_bytes -= bytes_of(&taken);
        taken
    }

    /// Takes a party out.
    pub fn remove(&mut self, at: usize) -> Party {
        let party = self.parties.remove(at);
        self.kept_bytes -= bytes_of(&party.kept);
        party
    }

    /// Asserts that what is counted is there.
    pub fn check_invariants(&self) {
        let parties = self.parties.iter().map(|party| bytes_of(&party.kept)).sum::<usize>();
        let early: usize = self.early.iter().map(|(_, frame)| frame.len()).sum();
        let begun: usize = self.beginning().map(|frame| frame.len()).sum();
        assert_eq!(self.kept_bytes, parties + early + begun + bytes_of(&self.candidates));
        assert!(self.kept_bytes <= KEPT_BYTES_MAX && self.kept_frames() <= KEPT_FRAMES_MAX);
        assert!(self.is_group || self.parties.len() == 2);
        for (at, party) in self.parties.iter().enumerate() {
            assert_eq!(self.party(&party.user.key), Some(at), "a user is one party");
            assert!(party.kept.is_empty() || matches!(party.place, Place::Lost(_)));
        }
        let answered = matches!(self.state, CallState::Active | CallState::Connecting);
        assert!(
            self.is_group || answered != self.rings(),
            "a call of two is answered by the other"
        );
    }
}

fn bytes_of(frames: &[EncodedFrame]) -> usize {
    frames.iter().map(|frame| frame.len()).sum()
}

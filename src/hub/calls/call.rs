//! One call: its parties, the devices on which it rings and those that are in it.

use std::time::Instant;

use smallvec::SmallVec;

use super::CallEnd;
use crate::hub::capacity::SmallList;
use crate::hub::deadlines::DeadlineKey;
use crate::hub::interface::ConnId;
use crate::protocol::server::{CallState, EncodedFrame, EndReason};
use crate::protocol::{Id, IdKey};

/// Frames that are kept for the devices of one call, and their bytes: a description and what is
/// found of candidates in half a minute, several times over.
const BUFFERED_FRAMES_MAX: usize = 128;
const BUFFERED_BYTES_MAX: usize = 64 << 10;

/// Where a party of a call is.
#[derive(Debug)]
pub enum PartyState {
    /// It rings on these devices; there may be none for now.
    Ringing(SmallList<ConnId>),
    /// In the call, on this device.
    Joined(ConnId),
    /// In the call, but the device has lost its connection; until then another may take its place.
    /// `None` when that time is over.
    Disconnected(Option<DeadlineKey>),
}

/// A user in a call.
#[derive(Debug)]
pub struct Party {
    /// Who, in the form in which they were first written.
    pub user: Id,
    /// Where they are.
    pub state: PartyState,
    /// Their app knows of calls: it names one, or has sent a frame that only such an app does.
    pub call_aware: bool,
    /// How many of their devices lost their connection and have not been told how the call went on.
    pub unnotified_devices: u32,
    /// What others said while the device had no connection.
    buffered: Vec<EncodedFrame>,
}

impl Party {
    /// A party who has been in from the start.
    pub fn caller(user: Id, device: ConnId, call_aware: bool) -> Party {
        Party { call_aware, ..Party::with(user, PartyState::Joined(device)) }
    }

    /// A party whom it rings.
    pub fn called(user: Id, devices: &[ConnId]) -> Party {
        Party::with(user, PartyState::Ringing(devices.into()))
    }

    fn with(user: Id, state: PartyState) -> Party {
        Party { user, state, call_aware: false, unnotified_devices: 0, buffered: Vec::new() }
    }

    /// In the call, with a connection or without.
    pub fn has_joined(&self) -> bool {
        !matches!(self.state, PartyState::Ringing(_))
    }

    /// The devices that have been told of the call and not of its end.
    pub fn devices(&self) -> &[ConnId] {
        match &self.state {
            PartyState::Ringing(devices) => devices,
            PartyState::Joined(device) => std::slice::from_ref(device),
            PartyState::Disconnected(_) => &[],
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
    pub invited_offline: SmallList<IdKey>,
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
    pub(super) relays_candidates: bool,
    /// Candidates of devices that have not answered.
    early_candidates: Vec<(ConnId, EncodedFrame)>,
    buffered_bytes: usize,
}

/// Whether a frame is kept for later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffered {
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
            invited_offline: SmallList::new(),
            state: if is_group { CallState::Active } else { CallState::Ringing },
            begun: now,
            ring: None,
            initiated: None,
            offer: None,
            candidates: Vec::new(),
            relays_candidates: false,
            early_candidates: Vec::new(),
            buffered_bytes: 0,
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
    pub fn count_joined(&self) -> usize {
        self.parties.iter().filter(|party| party.has_joined()).count()
    }

    /// Whether it rings anybody, on a device or on none for now.
    pub fn is_ringing(&self) -> bool {
        self.parties.iter().any(|party| !party.has_joined())
    }

    /// How far it is, for who asks.
    pub fn reported_state(&self) -> CallState {
        let nobody_came = self.is_group && self.count_joined() < 2;
        if nobody_came { CallState::Ringing } else { self.state }
    }

    /// All devices that have been told of it and not of its end.
    pub fn devices(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.parties.iter().flat_map(Party::devices).copied()
    }

    /// The devices on which it rings.
    pub fn ringing_devices(&self) -> SmallList<ConnId> {
        let rung = self.parties.iter().filter(|party| !party.has_joined());
        rung.flat_map(Party::devices).copied().collect()
    }

    /// What a device is told whose user is in the call on another.
    pub fn answered_elsewhere(&self) -> CallEnd {
        let (id, thread) = (self.id.clone(), self.thread.clone());
        CallEnd { id, thread, reason: EndReason::AnsweredElsewhere, continues_as: None }
    }

    // ---- what is kept

    /// Bytes that are kept.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    fn buffered_frames(&self) -> usize {
        let of_parties = self.parties.iter().map(|party| party.buffered.len());
        let begun = usize::from(self.initiated.is_some()) + usize::from(self.offer.is_some());
        begun + self.candidates.len() + self.early_candidates.len() + of_parties.sum::<usize>()
    }

    fn reserve(&mut self, frame: &EncodedFrame, room: usize) -> Buffered {
        let bytes = frame.len();
        let fits = bytes <= room.min(BUFFERED_BYTES_MAX - self.buffered_bytes);
        if !fits || self.buffered_frames() == BUFFERED_FRAMES_MAX {
            return Buffered::No;
        }
        self.buffered_bytes += bytes;
        Buffered::Yes
    }

    /// Keeps what begins the call for devices that come while it rings, in place of an earlier one.
    /// Without room it is not kept.
    pub fn buffer_setup_frame(&mut self, frame: &EncodedFrame, is_offer: bool, room: usize) {
        let before = if is_offer { self.offer.take() } else { self.initiated.take() };
        self.buffered_bytes -= before.map_or(0, |frame| frame.len());
        if self.reserve(frame, room) == Buffered::Yes {
            let slot = if is_offer { &mut self.offer } else { &mut self.initiated };
            *slot = Some(EncodedFrame::clone(frame));
        }
    }

    /// What a device gets that begins to ring.
    pub fn setup_frames(&self) -> impl Iterator<Item = &EncodedFrame> {
        [&self.initiated, &self.offer].into_iter().flatten()
    }

    /// It rings nobody any more: no device will get it.
    pub fn drop_setup_frames(&mut self) {
        for frame in self.initiated.take().into_iter().chain(self.offer.take()) {
            self.buffered_bytes -= frame.len();
        }
    }

    /// Keeps a candidate of the caller's for the device that will answer.
    pub fn buffer_candidate(&mut self, frame: &EncodedFrame, room: usize) -> Buffered {
        let buffered = self.reserve(frame, room);
        if buffered == Buffered::Yes {
            self.candidates.push(EncodedFrame::clone(frame));
        }
        buffered
    }

    /// The candidates that have been kept.
    pub fn take_candidates(&mut self) -> Vec<EncodedFrame> {
        let taken = std::mem::take(&mut self.candidates);
        self.buffered_bytes -= bytes_of(&taken);
        taken
    }

    /// Keeps a candidate of a device that has not answered.
    pub fn buffer_early_candidate(
        &mut self,
        device: ConnId,
        frame: &EncodedFrame,
        room: usize,
    ) -> Buffered {
        let buffered = self.reserve(frame, room);
        if buffered == Buffered::Yes {
            self.early_candidates.push((device, EncodedFrame::clone(frame)));
        }
        buffered
    }

    /// This device has answered: its candidates, and nothing more is kept for who rings.
    pub fn take_early_candidates(&mut self, device: ConnId) -> Vec<EncodedFrame> {
        self.drop_setup_frames();
        let early_candidates = std::mem::take(&mut self.early_candidates);
        self.buffered_bytes -= early_candidates.iter().map(|(_, frame)| frame.len()).sum::<usize>();
        early_candidates
            .into_iter()
            .filter(|(from, _)| *from == device)
            .map(|(_, frame)| frame)
            .collect()
    }

    /// Keeps what was said to a party whose device has no connection.
    pub fn buffer_for(&mut self, at: usize, frame: &EncodedFrame, room: usize) -> Buffered {
        let buffered = self.reserve(frame, room);
        if buffered == Buffered::Yes {
            self.parties[at].buffered.push(EncodedFrame::clone(frame));
        }
        buffered
    }

    /// What was kept for a party.
    pub fn take_buffered(&mut self, at: usize) -> Vec<EncodedFrame> {
        let taken = std::mem::take(&mut self.parties[at].buffered);
        self.buffered_bytes -= bytes_of(&taken);
        taken
    }

    /// Takes a party out.
    pub fn remove(&mut self, at: usize) -> Party {
        let party = self.parties.remove(at);
        self.buffered_bytes -= bytes_of(&party.buffered);
        party
    }

    /// Asserts that what is counted is there.
    pub fn check_invariants(&self) {
        let parties = self.parties.iter().map(|party| bytes_of(&party.buffered)).sum::<usize>();
        let early_candidates: usize =
            self.early_candidates.iter().map(|(_, frame)| frame.len()).sum();
        let begun: usize = self.setup_frames().map(|frame| frame.len()).sum();
        assert_eq!(
            self.buffered_bytes,
            parties + early_candidates + begun + bytes_of(&self.candidates)
        );
        assert!(
            self.buffered_bytes <= BUFFERED_BYTES_MAX
                && self.buffered_frames() <= BUFFERED_FRAMES_MAX
        );
        assert!(self.is_group || self.parties.len() == 2);
        for (at, party) in self.parties.iter().enumerate() {
            assert_eq!(self.party(&party.user.key), Some(at), "a user is one party");
            assert!(
                party.buffered.is_empty() || matches!(party.state, PartyState::Disconnected(_))
            );
        }
        let answered = matches!(self.state, CallState::Active | CallState::Connecting);
        assert!(
            self.is_group || answered != self.is_ringing(),
            "a call of two is answered by the other"
        );
    }
}

fn bytes_of(frames: &[EncodedFrame]) -> usize {
    frames.iter().map(|frame| frame.len()).sum()
}

//! State of one call: its parties, their devices, and the frames buffered for them.

use std::time::Instant;

use smallvec::SmallVec;

use super::CallEnd;
use crate::hub::capacity::SmallList;
use crate::hub::deadlines::DeadlineKey;
use crate::hub::interface::ConnId;
use crate::protocol::server::{CallState, EncodedFrame, EndReason};
use crate::protocol::{Id, IdKey};

/// Frames buffered for the devices of one call, and their bytes: several times a session
/// description and the ICE candidates gathered in half a minute.
const BUFFERED_FRAMES_MAX: usize = 128;
const BUFFERED_BYTES_MAX: usize = 64 << 10;

/// State of a party.
#[derive(Debug)]
pub(crate) enum PartyState {
    /// Its devices ring; at the moment there may be none.
    Ringing(SmallList<ConnId>),
    /// It takes part on this device.
    Joined(ConnId),
    /// It takes part, but its device has lost the connection. Another device may replace it until
    /// this deadline; `None` when the deadline has passed.
    Disconnected(Option<DeadlineKey>),
}

/// A user who takes part in a call or rings.
#[derive(Debug)]
pub(crate) struct Party {
    /// The user, in the form in which the id was first written.
    pub user: Id,
    /// Whether the user rings, takes part or is disconnected.
    pub state: PartyState,
    /// Whether the user's app implements this protocol's calls, not only offers and answers: it has
    /// sent a `callId`, or a frame that only such an app sends.
    pub call_aware: bool,
    /// How many of the user's devices lost their connection and missed how the call went on.
    pub unnotified_devices: u32,
    /// Frames from the others while the device had no connection.
    buffered: Vec<EncodedFrame>,
}

impl Party {
    /// The caller, who takes part from the start.
    pub(crate) fn caller(user: Id, device: ConnId, call_aware: bool) -> Party {
        Party { call_aware, ..Party::new(user, PartyState::Joined(device)) }
    }

    /// A called user, whose devices ring.
    pub(crate) fn called(user: Id, devices: &[ConnId]) -> Party {
        Party::new(user, PartyState::Ringing(devices.into()))
    }

    fn new(user: Id, state: PartyState) -> Party {
        Party { user, state, call_aware: false, unnotified_devices: 0, buffered: Vec::new() }
    }

    /// Whether the user takes part, with a connection or without.
    pub(crate) fn has_joined(&self) -> bool {
        !matches!(self.state, PartyState::Ringing(_))
    }

    /// The devices that know of the call and have not been notified of its end.
    pub(crate) fn devices(&self) -> &[ConnId] {
        match &self.state {
            PartyState::Ringing(devices) => devices,
            PartyState::Joined(device) => std::slice::from_ref(device),
            PartyState::Disconnected(_) => &[],
        }
    }
}

/// A two-party call or a group call.
#[derive(Debug)]
pub(crate) struct Call {
    /// The `callId`.
    pub id: Id,
    /// The thread of the call, if its first frame named one.
    pub thread: Option<Id>,
    /// Whether it is a group call: users join one by one, and each pair has its own peer
    /// connection.
    pub is_group: bool,
    /// The caller first, then the called users; in a group call also users who joined later.
    pub parties: SmallVec<[Party; 2]>,
    /// Users who were invited to a group call but had no connection. They are no parties, but may
    /// ask for the call's status and join.
    pub invited_offline: SmallList<IdKey>,
    /// Progress of the call; a group call is active from the start.
    pub state: CallState,
    /// When the call began.
    pub started_at: Instant,
    /// When ringing times out.
    pub(super) ring_timer: Option<DeadlineKey>,
    /// The frame that begins the call, and the offer, for devices that begin to ring later.
    initiated: Option<EncodedFrame>,
    offer: Option<EncodedFrame>,
    /// The caller's ICE candidates, for the device that will answer.
    candidates: Vec<EncodedFrame>,
    /// The caller's candidates did not fit into the buffer, so they go to all ringing devices at
    /// once.
    pub(super) relays_candidates: bool,
    /// ICE candidates of devices that have not answered.
    early_candidates: Vec<(ConnId, EncodedFrame)>,
    buffered_bytes: usize,
}

/// Whether a frame was buffered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Buffered {
    /// The frame was buffered.
    Yes,
    /// A limit on buffered frames or bytes is reached.
    No,
}

impl Call {
    /// A call that has just begun, without parties.
    pub(crate) fn new(id: Id, thread: Option<Id>, is_group: bool, now: Instant) -> Call {
        Call {
            id,
            thread,
            is_group,
            parties: SmallVec::new(),
            invited_offline: SmallList::new(),
            state: if is_group { CallState::Active } else { CallState::Ringing },
            started_at: now,
            ring_timer: None,
            initiated: None,
            offer: None,
            candidates: Vec::new(),
            relays_candidates: false,
            early_candidates: Vec::new(),
            buffered_bytes: 0,
        }
    }

    /// Returns the position of this user among the parties.
    pub(crate) fn party(&self, user: &IdKey) -> Option<usize> {
        self.parties.iter().position(|party| party.user.key == *user)
    }

    /// Returns the position of the other party of a two-party call.
    pub(crate) fn other(&self, at: usize) -> usize {
        1 - at
    }

    /// Returns how many parties take part.
    pub(crate) fn count_joined(&self) -> usize {
        self.parties.iter().filter(|party| party.has_joined()).count()
    }

    /// Whether at least one party rings, even if it has no device at the moment.
    pub(crate) fn is_ringing(&self) -> bool {
        self.parties.iter().any(|party| !party.has_joined())
    }

    /// Returns the state to report in a status request: a group call rings until two have joined.
    pub(crate) fn reported_state(&self) -> CallState {
        let nobody_answered = self.is_group && self.count_joined() < 2;
        if nobody_answered { CallState::Ringing } else { self.state }
    }

    /// All devices that know of the call and have not been notified of its end.
    pub(crate) fn devices(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.parties.iter().flat_map(Party::devices).copied()
    }

    /// The devices that ring.
    pub(crate) fn ringing_devices(&self) -> SmallList<ConnId> {
        let ringing = self.parties.iter().filter(|party| !party.has_joined());
        ringing.flat_map(Party::devices).copied().collect()
    }

    /// The end of the call for devices whose user has answered on another device.
    pub(crate) fn answered_elsewhere(&self) -> CallEnd {
        let (id, thread) = (self.id.clone(), self.thread.clone());
        CallEnd { id, thread, reason: EndReason::AnsweredElsewhere, continues_as: None }
    }

    // ---- buffered frames

    /// Returns the bytes of all buffered frames.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    fn buffered_frames(&self) -> usize {
        let of_parties = self.parties.iter().map(|party| party.buffered.len());
        let setup_frames =
            usize::from(self.initiated.is_some()) + usize::from(self.offer.is_some());
        setup_frames
            + self.candidates.len()
            + self.early_candidates.len()
            + of_parties.sum::<usize>()
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

    /// Buffers the frame that begins the call, or the offer, for devices that connect while it
    /// rings. It replaces an earlier one. If it exceeds a limit, it is not buffered.
    pub(crate) fn buffer_setup_frame(&mut self, frame: &EncodedFrame, is_offer: bool, room: usize) {
        let before = if is_offer { self.offer.take() } else { self.initiated.take() };
        self.buffered_bytes -= before.map_or(0, |frame| frame.len());
        if self.reserve(frame, room) == Buffered::Yes {
            let slot = if is_offer { &mut self.offer } else { &mut self.initiated };
            *slot = Some(EncodedFrame::clone(frame));
        }
    }

    /// The frames that a device gets when it begins to ring.
    pub(crate) fn setup_frames(&self) -> impl Iterator<Item = &EncodedFrame> {
        [&self.initiated, &self.offer].into_iter().flatten()
    }

    /// Drops the setup frames once the call rings no device any more.
    pub(crate) fn drop_setup_frames(&mut self) {
        for frame in self.initiated.take().into_iter().chain(self.offer.take()) {
            self.buffered_bytes -= frame.len();
        }
    }

    /// Buffers a candidate of the caller for the device that will answer.
    pub(crate) fn buffer_candidate(&mut self, frame: &EncodedFrame, room: usize) -> Buffered {
        let buffered = self.reserve(frame, room);
        if buffered == Buffered::Yes {
            self.candidates.push(EncodedFrame::clone(frame));
        }
        buffered
    }

    /// Takes the buffered candidates of the caller.
    pub(crate) fn take_candidates(&mut self) -> Vec<EncodedFrame> {
        let taken = std::mem::take(&mut self.candidates);
        self.buffered_bytes -= bytes_of(&taken);
        taken
    }

    /// Buffers a candidate of a device that has not answered.
    pub(crate) fn buffer_early_candidate(
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

    /// Takes the candidates of the device that has answered. Those of other devices and the setup
    /// frames are dropped.
    pub(crate) fn take_early_candidates(&mut self, device: ConnId) -> Vec<EncodedFrame> {
        self.drop_setup_frames();
        let early_candidates = std::mem::take(&mut self.early_candidates);
        self.buffered_bytes -= early_candidates.iter().map(|(_, frame)| frame.len()).sum::<usize>();
        early_candidates
            .into_iter()
            .filter(|(from, _)| *from == device)
            .map(|(_, frame)| frame)
            .collect()
    }

    /// Buffers a frame for a party whose device has no connection.
    pub(crate) fn buffer_for(&mut self, at: usize, frame: &EncodedFrame, room: usize) -> Buffered {
        let buffered = self.reserve(frame, room);
        if buffered == Buffered::Yes {
            self.parties[at].buffered.push(EncodedFrame::clone(frame));
        }
        buffered
    }

    /// Takes the frames buffered for a party.
    pub(crate) fn take_buffered(&mut self, at: usize) -> Vec<EncodedFrame> {
        let taken = std::mem::take(&mut self.parties[at].buffered);
        self.buffered_bytes -= bytes_of(&taken);
        taken
    }

    /// Removes a party.
    pub(crate) fn remove(&mut self, at: usize) -> Party {
        let party = self.parties.remove(at);
        self.buffered_bytes -= bytes_of(&party.buffered);
        party
    }

    /// Asserts that the counters match the buffers and the states of the parties.
    pub(crate) fn check_invariants(&self) {
        let parties = self.parties.iter().map(|party| bytes_of(&party.buffered)).sum::<usize>();
        let early_candidates: usize =
            self.early_candidates.iter().map(|(_, frame)| frame.len()).sum();
        let setup_frames: usize = self.setup_frames().map(|frame| frame.len()).sum();
        assert_eq!(
            self.buffered_bytes,
            parties + early_candidates + setup_frames + bytes_of(&self.candidates)
        );
        assert!(
            self.buffered_bytes <= BUFFERED_BYTES_MAX
                && self.buffered_frames() <= BUFFERED_FRAMES_MAX
        );
        assert!(self.is_group || self.parties.len() == 2);
        for (at, party) in self.parties.iter().enumerate() {
            assert_eq!(self.party(&party.user.key), Some(at), "a user is at most one party");
            assert!(
                party.buffered.is_empty() || matches!(party.state, PartyState::Disconnected(_))
            );
        }
        let answered = matches!(self.state, CallState::Active | CallState::Connecting);
        assert!(
            self.is_group || answered != self.is_ringing(),
            "a two-party call is answered when the called user has joined"
        );
    }
}

fn bytes_of(frames: &[EncodedFrame]) -> usize {
    frames.iter().map(|frame| frame.len()).sum()
}

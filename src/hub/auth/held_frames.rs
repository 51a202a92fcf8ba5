//! Counts and limits of the frames held until the site has answered a query.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use zeroize::Zeroizing;

use crate::hub::interface::ConnId;

/// A held frame. It may contain a token, so `Debug` shows its length only and it is zeroed on drop.
pub(crate) struct HeldText(Zeroizing<Box<str>>);

impl HeldText {
    /// Copies the text of a frame.
    pub(crate) fn new(text: &str) -> HeldText {
        HeldText(Zeroizing::new(text.into()))
    }

    /// Returns the text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the length in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for HeldText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldText({} bytes)", self.bytes())
    }
}

/// Limits of held frames.
#[derive(Clone, Copy, Debug)]
pub struct HeldFrameLimits {
    /// Frames on the whole server.
    pub total: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Frames of one connection.
    pub per_connection: usize,
    /// Their bytes.
    pub bytes_per_connection: usize,
}

/// All connections of one user together may hold as many frames as this many connections.
const CONNECTIONS_PER_USER: usize = 2;

#[derive(Clone, Copy, Debug, Default)]
struct FrameUsage {
    frames: usize,
    bytes: usize,
}

impl FrameUsage {
    fn has_room_for(&self, bytes: usize, frames_max: usize, bytes_max: usize) -> bool {
        self.frames < frames_max && self.bytes + bytes <= bytes_max
    }

    fn add(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.frames -= 1;
        self.bytes -= bytes;
    }
}

/// How many frames and bytes are held now: in all, per connection and per user.
#[derive(Debug, Default)]
pub(crate) struct HeldFrames {
    all: FrameUsage,
    /// By slot, with the serial of the connection that is counted.
    per_slot: Vec<(u32, FrameUsage)>,
    by_user: HashMap<u64, FrameUsage>,
}

impl HeldFrames {
    /// Whether there is room for a frame. `user` is the connection's user, if it is known.
    pub(crate) fn has_room(
        &self,
        conn: ConnId,
        user: Option<u64>,
        bytes: usize,
        limits: &HeldFrameLimits,
    ) -> bool {
        let own = self.per_slot.get(conn.slot as usize);
        // An earlier connection in the same slot is counted separately.
        let own = own.filter(|(serial, _)| *serial == conn.serial).map(|(_, usage)| *usage);
        let users = user.and_then(|user| self.by_user.get(&user)).copied();
        let (frames_max, bytes_max) = (limits.per_connection, limits.bytes_per_connection);
        // Without limits the settings are `usize::MAX`.
        let of_user = |max: usize| max.saturating_mul(CONNECTIONS_PER_USER);
        self.all.has_room_for(bytes, limits.total, limits.bytes)
            && own.unwrap_or_default().has_room_for(bytes, frames_max, bytes_max)
            && users.is_none_or(|usage| {
                usage.has_room_for(bytes, of_user(frames_max), of_user(bytes_max))
            })
    }

    /// Whether a frame of this connection is held.
    pub(crate) fn has(&self, conn: ConnId) -> bool {
        let own = self.per_slot.get(conn.slot as usize);
        own.is_some_and(|(serial, usage)| *serial == conn.serial && usage.frames > 0)
    }

    /// Counts a held frame; false if there is no room.
    pub(crate) fn add(
        &mut self,
        conn: ConnId,
        user: Option<u64>,
        bytes: usize,
        limits: &HeldFrameLimits,
    ) -> bool {
        if !self.has_room(conn, user, bytes, limits) {
            return false;
        }
        let slot = conn.slot as usize;
        if self.per_slot.len() <= slot {
            self.per_slot.resize(slot + 1, (0, FrameUsage::default()));
        }
        let (serial, own) = &mut self.per_slot[slot];
        if *serial != conn.serial {
            (*serial, *own) = (conn.serial, FrameUsage::default());
        }
        self.all.add(bytes);
        own.add(bytes);
        if let Some(user) = user {
            self.by_user.entry(user).or_default().add(bytes);
        }
        true
    }

    /// Stops counting a held frame, even if its connection has closed.
    pub(crate) fn remove(&mut self, conn: ConnId, user: Option<u64>, bytes: usize) {
        self.all.remove(bytes);
        if let Some(Entry::Occupied(mut of_user)) = user.map(|user| self.by_user.entry(user)) {
            of_user.get_mut().remove(bytes);
            if of_user.get().frames == 0 {
                of_user.remove();
            }
        }
        let (serial, own) = &mut self.per_slot[conn.slot as usize];
        // A later connection in the same slot is counted separately.
        if *serial == conn.serial {
            own.remove(bytes);
        }
    }

    /// Returns how many frames are held.
    pub(crate) fn frames(&self) -> usize {
        self.all.frames
    }
}

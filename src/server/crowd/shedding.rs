//! What happens when too much is held for all that are slow.

use super::{Buffers, Crowd};

/// Beyond the limit on all buffers, those with the most are closed until so much of it is left.
const SHED_DOWN_TO: f64 = 0.875;

impl Crowd {
    /// Other limits for what is held from now on.
    pub(in crate::server) fn set_buffers(&mut self, buffers: Buffers) {
        self.buffers = buffers;
    }

    /// Sees to it that not too much is held for all that are slow: those with the most are to be
    /// closed.
    pub(in crate::server) fn shed(&mut self) {
        let held = |crowd: &Crowd| crowd.outlet.ledger.bytes() + crowd.unfinished;
        if held(self) <= self.buffers.all {
            return;
        }
        let mut heaviest: Vec<(usize, u32)> = self
            .connections
            .iter()
            .filter(|(_, connection)| !connection.wire.is_closing())
            .map(|(slot, connection)| {
                let waits =
                    if connection.outbox.is_entered() { connection.outbox.weight() } else { 0 };
                let unread = self.unread.get(&(slot as u32)).map_or(0, Vec::len);
                let sealed = connection.sealed_bytes() + connection.pending_bytes();
                let holds = connection.wire.held_bytes() + sealed;
                (waits + holds + unread, slot as u32)
            })
            // Closing it would free nothing.
            .filter(|(holds, _)| *holds > 0)
            .collect();
        heaviest.sort_unstable();
        let enough = (self.buffers.all as f64 * SHED_DOWN_TO) as usize;
        while held(self) > enough {
            let Some((_, slot)) = heaviest.pop() else { return };
            let connection = &mut self.connections[slot as usize];
            self.dropped += connection.outbox.drop_unsent(&mut self.outlet.ledger) as u64;
            self.unfinished -= connection.wire.held_bytes() + connection.sealed_bytes();
            connection.wire.forget_held();
            self.outlet.ledger.note_held(connection.pending_bytes(), 0);
            connection.forget_sealed();
            self.drop_unread(slot);
            self.overflow(slot);
        }
    }
}

//! Memory shedding: closes the connections that hold the most when all together exceed the limit.

use super::{BufferLimits, Connections};

/// Connections are closed until the held memory is down to this fraction of the limit.
const SHED_DOWN_TO: f64 = 0.875;

impl Connections {
    /// Replaces the limits of memory held for slow clients.
    pub(in crate::server) fn set_buffer_limits(&mut self, buffer_limits: BufferLimits) {
        self.buffer_limits = buffer_limits;
    }

    /// If slow clients hold more memory than the total limit, drops the buffers of those that hold
    /// the most and marks them to be closed.
    pub(in crate::server) fn shed(&mut self) {
        let held = |connections: &Connections| {
            connections.send_context.ledger.bytes() + connections.partial_bytes
        };
        if held(self) <= self.buffer_limits.total {
            return;
        }
        let mut heaviest: Vec<(usize, u32)> = self
            .slab
            .iter()
            .filter(|(_, connection)| !connection.wire.is_closing())
            .map(|(slot, connection)| {
                let unsent = if connection.outbox.is_charged() {
                    connection.outbox.memory_bytes()
                } else {
                    0
                };
                let unread = self.unread.get(&(slot as u32)).map_or(0, Vec::len);
                let tls = connection.tls_input_bytes() + connection.tls_output_bytes();
                let holds = connection.wire.held_bytes() + tls;
                (unsent + holds + unread, slot as u32)
            })
            // Closing those that hold nothing would free nothing.
            .filter(|(holds, _)| *holds > 0)
            .collect();
        heaviest.sort_unstable();
        let enough = (self.buffer_limits.total as f64 * SHED_DOWN_TO) as usize;
        while held(self) > enough {
            let Some((_, slot)) = heaviest.pop() else { return };
            let connection = &mut self.slab[slot as usize];
            self.dropped += connection.outbox.drop_unsent(&mut self.send_context.ledger) as u64;
            self.partial_bytes -= connection.wire.held_bytes() + connection.tls_input_bytes();
            connection.wire.forget_held();
            self.send_context.ledger.note_held(connection.tls_output_bytes(), 0);
            connection.discard_tls_buffers();
            self.drop_unread(slot);
            self.mark_overflowed(slot);
        }
    }
}

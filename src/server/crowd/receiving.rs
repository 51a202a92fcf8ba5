//! How a connection is read, with TLS or without.

use super::Crowd;
use crate::connection::Received;

impl Crowd {
    /// One read of a connection. What TLS has to say for itself is noted, to leave in this tick.
    pub(in crate::server) fn receive(&mut self, slot: u32, buffer: &mut [u8]) -> Received {
        let Some(connection) = self.connections.get_mut(slot as usize) else {
            return Received::Nothing;
        };
        if !connection.is_sealed() {
            return connection.receive(buffer);
        }
        let held = connection.sealed_bytes();
        let pending = connection.pending_bytes();
        let (received, more) = connection.receive_sealed(buffer, &mut self.inlet);
        self.unfinished = self.unfinished + connection.sealed_bytes() - held;
        let now_pending = connection.pending_bytes();
        self.outlet.ledger.note_held(pending, now_pending);
        if now_pending > 0 {
            self.mark_dirty(slot);
        }
        if more {
            self.read_again(slot);
        }
        received
    }
}

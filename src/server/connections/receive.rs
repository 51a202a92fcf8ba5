//! How a connection is read, with TLS or without.

use super::Connections;
use crate::connection::Received;

impl Connections {
    /// One read of a connection. What TLS has to say for itself is noted, to leave in this tick.
    pub(in crate::server) fn receive(&mut self, slot: u32, buffer: &mut [u8]) -> Received {
        let Some(connection) = self.slab.get_mut(slot as usize) else {
            return Received::Nothing;
        };
        if !connection.has_tls() {
            return connection.receive(buffer);
        }
        let held = connection.tls_input_bytes();
        let pending = connection.tls_output_bytes();
        let (received, more) = connection.receive_tls(buffer, &mut self.recv_context);
        self.partial_bytes = self.partial_bytes + connection.tls_input_bytes() - held;
        let now_pending = connection.tls_output_bytes();
        self.send_context.ledger.note_held(pending, now_pending);
        if now_pending > 0 {
            self.mark_dirty(slot);
        }
        if more {
            self.requeue_read(slot);
        }
        received
    }
}

//! What there is of connections: looked at only when a monitor asks.

use super::Connections;

/// Connections by their states, and what waits for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::server) struct ConnectionStats {
    /// Their request has not been answered yet.
    pub(in crate::server) handshakes: u64,
    /// WebSockets.
    pub(in crate::server) open: u64,
    /// They have heard, or are to hear, that it is over.
    pub(in crate::server) closing: u64,
    /// Those for whom something waits.
    pub(in crate::server) waiting: u64,
    /// Bytes that wait for all of them, a frame for each that it is for.
    pub(in crate::server) waiting_bytes: u64,
}

impl Connections {
    /// Looks at all connections: some nanoseconds for each.
    pub(in crate::server) fn stats(&self) -> ConnectionStats {
        let mut stats = ConnectionStats::default();
        for (_, connection) in &self.slab {
            let state = if connection.wire.is_closing() {
                &mut stats.closing
            } else if connection.wire.is_in_handshake() || connection.wire.is_awaiting_status() {
                &mut stats.handshakes
            } else {
                &mut stats.open
            };
            *state += 1;
            stats.waiting += u64::from(!connection.outbox.is_empty());
            stats.waiting_bytes += connection.outbox.bytes() as u64;
        }
        stats
    }

    /// Bytes of memory that are held for those who are slow, and the limit.
    pub(in crate::server) fn held_bytes(&self) -> (usize, usize) {
        (self.send_context.ledger.bytes() + self.partial_bytes, self.buffer_limits.total)
    }

    /// Connections for whom something waits that is for many.
    pub(in crate::server) fn fanout_len(&self) -> usize {
        self.fanout.len()
    }
}

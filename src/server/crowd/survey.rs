//! What there is of connections: looked at only when a monitor asks.

use super::Crowd;

/// Connections by their states, and what waits for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::server) struct Survey {
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

impl Crowd {
    /// Looks at all connections: some nanoseconds for each.
    pub(in crate::server) fn survey(&self) -> Survey {
        let mut survey = Survey::default();
        for (_, connection) in &self.connections {
            let state = if connection.wire.is_closing() {
                &mut survey.closing
            } else if connection.wire.in_handshake() || connection.wire.is_asking() {
                &mut survey.handshakes
            } else {
                &mut survey.open
            };
            *state += 1;
            survey.waiting += u64::from(!connection.outbox.is_empty());
            survey.waiting_bytes += connection.outbox.bytes() as u64;
        }
        survey
    }

    /// Bytes of memory that are held for those who are slow, and the limit.
    pub(in crate::server) fn held_bytes(&self) -> (usize, usize) {
        (self.outlet.ledger.bytes() + self.unfinished, self.buffers.all)
    }

    /// Connections for whom something waits that is for many.
    pub(in crate::server) fn bulk_len(&self) -> usize {
        self.bulk.len()
    }
}

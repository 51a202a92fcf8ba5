//! All connections, and which of them have something left to do.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use slab::Slab;

use crate::connection::{Connection, Flushed};
use crate::hub::interface::ConnId;
use crate::protocol::server::EncodedFrame;

/// Bytes written to one connection in one tick.
const FLUSH_BYTES_PER_TICK: usize = 64 * 1024;
/// How long a client may take for its request.
const HANDSHAKE_LASTS: Duration = Duration::from_secs(10);
/// How long a client may take for the rest of a frame, or of a message in fragments.
const UNFINISHED_LASTS: Duration = Duration::from_secs(60);
/// How long a closing connection may take to read its last bytes and close its end.
const CLOSING_LASTS: Duration = Duration::from_secs(3);

/// The slab of connections, with lists of slots. A connection stands on a list once, which its
/// flags see to, except among the doomed: it may have two reasons. A slot on a list may be empty by
/// the time the list is gone through, or someone else's: there is nothing to do then, and no harm.
pub(super) struct Crowd {
    connections: Slab<Connection>,
    serial: u32,
    /// Something to send.
    dirty: Vec<u32>,
    /// More to read than one tick's budget.
    again: Vec<u32>,
    /// Too much to send: to be closed.
    overflowed: Vec<u32>,
    /// To be buried at the end of this tick.
    doomed: Vec<u32>,
    outbox_bytes_max: usize,
    /// Frames put into outboxes.
    pub(super) sent: u64,
    /// Frames for connections that had gone.
    pub(super) stale: u64,
}

impl Crowd {
    pub(super) fn new(outbox_bytes_max: usize) -> Crowd {
        Crowd {
            connections: Slab::new(),
            serial: 0,
            dirty: Vec::new(),
            again: Vec::new(),
            overflowed: Vec::new(),
            doomed: Vec::new(),
            outbox_bytes_max,
            sent: 0,
            stale: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether the next tick has something to do without any event.
    pub(super) fn has_left_over(&self) -> bool {
        !self.again.is_empty() || !self.dirty.is_empty()
    }

    pub(super) fn get(&mut self, slot: u32) -> Option<&mut Connection> {
        self.connections.get_mut(slot as usize)
    }

    pub(super) fn slots(&self) -> Vec<u32> {
        self.connections.iter().map(|(slot, _)| slot as u32).collect()
    }

    /// Takes a new socket in and has it watched: once, for both directions, and never again (see
    /// docs/ARCHITECTURE.md).
    pub(super) fn add(
        &mut self,
        mut socket: TcpStream,
        peer: IpAddr,
        registry: &Registry,
        now: Instant,
    ) -> io::Result<()> {
        let entry = self.connections.vacant_entry();
        let both = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut socket, Token(entry.key()), both)?;
        self.serial = self.serial.wrapping_add(1);
        let id = ConnId { slot: entry.key() as u32, serial: self.serial };
        entry.insert(Connection::new(id, socket, peer, now));
        Ok(())
    }

    // ---- input

    /// Notes that a connection has more to read.
    pub(super) fn read_again(&mut self, slot: u32) {
        if let Some(connection) = self.connections.get_mut(slot as usize) {
            if !std::mem::replace(&mut connection.again, true) {
                self.again.push(slot);
            }
        }
    }

    /// Who had more to read at the end of the last tick.
    pub(super) fn take_again(&mut self) -> Vec<u32> {
        let slots = std::mem::take(&mut self.again);
        for slot in &slots {
            if let Some(connection) = self.connections.get_mut(*slot as usize) {
                connection.again = false;
            }
        }
        slots
    }

    // ---- output

    /// Puts a frame into an outbox, unless too much waits there already.
    pub(super) fn deliver(&mut self, to: ConnId, frame: EncodedFrame) {
        let connection = self.connections.get(to.slot as usize);
        if !connection.is_some_and(|c| c.id == to && !c.wire.is_closing()) {
            self.stale += 1;
            return;
        }
        // A frame of any size finds its place: it is the reader who is judged, not the frame.
        if self.has_room(to.slot) {
            self.connections[to.slot as usize].outbox.push(frame);
            self.sent += 1;
            self.mark_dirty(to.slot);
        }
    }

    /// Notes what a connection's own wire has put into its outbox, or that it is closing.
    pub(super) fn note_output(&mut self, slot: u32) {
        if let Some(connection) = self.connections.get_mut(slot as usize) {
            let closing = connection.wire.is_closing();
            if closing || !connection.outbox.is_empty() {
                self.mark_dirty(slot);
            }
            if !closing {
                self.has_room(slot);
            }
        }
    }

    /// Puts a connection on the list of those that are written to at the end of the tick.
    fn mark_dirty(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.connections[slot as usize].dirty, true) {
            self.dirty.push(slot);
        }
    }

    /// Whether less waits for a connection than the limit. If not even writing to it helps, it has
    /// overflowed: the limit is for who does not read, not for who has not been written to yet.
    fn has_room(&mut self, slot: u32) -> bool {
        let connection = &mut self.connections[slot as usize];
        if connection.outbox.weight() <= self.outbox_bytes_max {
            return true;
        }
        if connection.overflowed {
            return false;
        }
        connection.flush(usize::MAX);
        connection.overflowed = connection.outbox.weight() > self.outbox_bytes_max;
        if connection.overflowed {
            self.overflowed.push(slot);
        }
        !connection.overflowed
    }

    /// One connection that does not read, until there are no more; what waits for it is dropped.
    pub(super) fn next_overflowed(&mut self) -> Option<u32> {
        while let Some(slot) = self.overflowed.pop() {
            // Its own wire may have begun to close it since.
            let connection = self.connections.get_mut(slot as usize);
            if let Some(connection) = connection.filter(|c| !c.wire.is_closing()) {
                connection.outbox.drop_unsent();
                return Some(slot);
            }
        }
        None
    }

    /// Writes to each connection that has something to send, once. Who is stopped by the budget
    /// stays on the list; who is stopped by the kernel waits for a writable event.
    pub(super) fn flush(&mut self) {
        for slot in std::mem::take(&mut self.dirty) {
            let Some(connection) = self.connections.get_mut(slot as usize) else {
                continue;
            };
            connection.dirty = false;
            match connection.flush(FLUSH_BYTES_PER_TICK) {
                Flushed::Done | Flushed::Blocked => {}
                Flushed::More => {
                    connection.dirty = true;
                    self.dirty.push(slot);
                }
                Flushed::Gone => self.doomed.push(slot),
            }
        }
    }

    // ---- the end of connections

    /// Says goodbye to a connection; it is buried when it has heard it, or soon after.
    pub(super) fn close(&mut self, slot: u32, code: u16, reason: &'static str, now: Instant) {
        if let Some(connection) = self.connections.get_mut(slot as usize) {
            if !connection.wire.is_closing() {
                connection.wire.close(code, reason, &mut connection.outbox);
                connection.since = now;
                self.note_output(slot);
            }
        }
    }

    /// Notes that a socket is of no use any more.
    pub(super) fn doom(&mut self, slot: u32) {
        self.doomed.push(slot);
    }

    /// Dooms who takes too long for its request, for the rest of a frame, or for its goodbye.
    pub(super) fn doom_the_slow(&mut self, now: Instant) {
        for (slot, connection) in &self.connections {
            let wire = &connection.wire;
            let lasts = if wire.in_handshake() {
                HANDSHAKE_LASTS
            } else if wire.is_closing() {
                CLOSING_LASTS
            } else if wire.is_unfinished() {
                UNFINISHED_LASTS
            } else {
                continue;
            };
            if now.duration_since(connection.since) >= lasts {
                self.doomed.push(slot as u32);
            }
        }
    }

    pub(super) fn next_doomed(&mut self) -> Option<u32> {
        self.doomed.pop()
    }

    /// Removes a connection, which closes its socket.
    pub(super) fn bury(&mut self, slot: u32, registry: &Registry) {
        if let Some(mut connection) = self.connections.try_remove(slot as usize) {
            // Closing the socket takes it out of the poll; a failure here changes nothing.
            let _ = registry.deregister(connection.socket());
        }
    }
}

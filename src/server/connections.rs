//! The table of all connections, and the lists of those with pending reads, output or removal.

mod shed;

use std::collections::HashMap;
use std::io;
use std::time::Instant;

use mio::{Interest, Registry, Token};
use slab::Slab;

use super::budget::TimeBudget;
use super::fanout_queue::{FanoutQueue, FlushStats};
use crate::config::proxies::Peer;
use crate::config::tls::TlsIdentity;
use crate::connection::{
    ActiveTime, Connection, Flushed, Received, RecvContext, SendContext, Stream,
};
use crate::hub::interface::ConnId;
use crate::protocol::server::EncodedFrame;
use crate::wire::outbox::Ledger;

/// Bytes written to one connection in one tick.
const FLUSH_BYTES_PER_TICK: usize = 64 * 1024;
/// A frame for more receivers than this goes through the fan-out queue; one for fewer is flushed in
/// the same tick.
const IMMEDIATE_RECEIVERS_MAX: usize = 16;

/// Limits of memory held for slow clients, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct BufferLimits {
    /// Of one outbox, above which it takes no droppable frames.
    pub(super) soft: usize,
    /// Of one outbox, above which its connection is closed.
    pub(super) hard: usize,
    /// Of all connections together.
    pub(super) total: usize,
}

/// Connections by state, and their pending output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ConnectionStats {
    /// Connections whose request has not been answered.
    pub(super) handshakes: u64,
    /// Open WebSockets.
    pub(super) open: u64,
    /// Connections that are closing.
    pub(super) closing: u64,
    /// Connections with pending output.
    pub(super) waiting: u64,
    /// Bytes of pending output; a shared frame counts for each receiver.
    pub(super) waiting_bytes: u64,
}

/// The slab of connections, with lists of slots.
///
/// A connection is on each list at most once, which its flags ensure; the fan-out queue also has
/// its serial. A slot on another list may be empty or reused when the list is processed, which does
/// no harm there. Only `doomed` must not hold stale slots, so connections are removed only from
/// there.
pub(super) struct Connections {
    slab: Slab<Connection>,
    registry: Registry,
    serial: u32,
    /// Connections to flush at the end of the tick, the longest waiting first.
    dirty: Vec<u32>,
    /// Connections with pending frames that have many receivers.
    fanout: FanoutQueue,
    /// The last flush ran out of time before the end of its list.
    flush_incomplete: bool,
    /// Connections that the last tick had no time to read.
    deferred: Vec<u32>,
    /// Connections with more input than their share of one tick.
    read_pending: Vec<u32>,
    /// Input read but not processed, by slot: less than one read each.
    unread: HashMap<u32, Vec<u8>>,
    /// Connections over the hard limit, to be closed.
    overflowed: Vec<u32>,
    /// Connections to remove at the end of the tick.
    doomed: Vec<u32>,
    buffer_limits: BufferLimits,
    send_context: SendContext,
    recv_context: RecvContext,
    /// Bytes held of partial messages, partial TLS records and unprocessed input.
    partial_bytes: usize,
    /// Frames put into outboxes.
    pub(super) sent: u64,
    /// Frames for connections that were closed already.
    pub(super) stale: u64,
    /// Droppable frames that were not queued for slow readers.
    pub(super) missed: u64,
    /// Unsent frames of connections closed as slow readers.
    pub(super) dropped: u64,
    /// Bytes handed to the kernel.
    pub(super) sent_bytes: u64,
}

impl Connections {
    pub(super) fn new(buffer_limits: BufferLimits, registry: Registry) -> Connections {
        Connections {
            slab: Slab::new(),
            registry,
            serial: 0,
            dirty: Vec::new(),
            fanout: FanoutQueue::default(),
            flush_incomplete: false,
            deferred: Vec::new(),
            read_pending: Vec::new(),
            unread: HashMap::new(),
            overflowed: Vec::new(),
            doomed: Vec::new(),
            buffer_limits,
            send_context: SendContext::default(),
            recv_context: RecvContext::default(),
            partial_bytes: 0,
            sent: 0,
            stale: 0,
            missed: 0,
            dropped: 0,
            sent_bytes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Upper bound of all slots in use.
    pub(super) fn slot_capacity(&self) -> usize {
        self.slab.capacity()
    }

    /// Whether the next tick has work to do without any event.
    pub(super) fn has_pending_work(&self) -> bool {
        let input = !self.read_pending.is_empty() || !self.deferred.is_empty();
        input || !self.dirty.is_empty() || !self.doomed.is_empty()
    }

    /// Whether frames enter the fan-out queue faster than they are sent.
    pub(super) fn is_backlogged(&self) -> bool {
        self.fanout.is_backlogged()
    }

    /// When to flush the next part of the fan-out queue; `None` if it is empty.
    pub(super) fn next_fanout_flush(&self, now: Instant) -> Option<Instant> {
        (!self.fanout.is_empty()).then(|| now + self.fanout.pause_left(now))
    }

    pub(super) fn get(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slab.get_mut(slot as usize)
    }

    pub(super) fn slots(&self) -> Vec<u32> {
        self.slab.iter().map(|(slot, _)| slot as u32).collect()
    }

    /// Adds a socket and registers it for readability; `flush_connection` adds writability.
    pub(super) fn add(
        &mut self,
        socket: impl Into<Stream>,
        peer: impl Into<Peer>,
        counts_for_address: bool,
        identity: Option<&TlsIdentity>,
        now: ActiveTime,
    ) -> io::Result<&mut Connection> {
        let mut socket = socket.into();
        let entry = self.slab.vacant_entry();
        self.registry.register(&mut socket, Token(entry.key()), Interest::READABLE)?;
        self.serial = self.serial.wrapping_add(1);
        let id = ConnId { slot: entry.key() as u32, serial: self.serial };
        let mut connection = Connection::new(id, socket, peer, now);
        connection.counts_for_address = counts_for_address;
        if let Some(identity) = identity {
            connection.enable_tls(identity).map_err(io::Error::other)?;
        }
        Ok(entry.insert(connection))
    }

    // ---- input

    /// Queues a connection to be read again in the next tick.
    pub(super) fn requeue_read(&mut self, slot: u32) {
        if self.mark_read_pending(slot) {
            self.read_pending.push(slot);
        }
    }

    /// Queues a connection to be read first in the next tick, as there was no time for it.
    pub(super) fn defer_read(&mut self, slot: u32) {
        if self.mark_read_pending(slot) {
            self.deferred.push(slot);
        }
    }

    /// Marks a connection as queued for reading. Returns false if it was queued already or is gone.
    fn mark_read_pending(&mut self, slot: u32) -> bool {
        let connection = self.slab.get_mut(slot as usize);
        connection.is_some_and(|connection| !std::mem::replace(&mut connection.read_pending, true))
    }

    /// Takes the connections to read without an event: first the deferred ones, then those that
    /// have used up their share. While output is backlogged, only one of the latter: clients that
    /// send more than the server can deliver must wait, and the others need not.
    pub(super) fn take_pending_reads(&mut self) -> Vec<u32> {
        let mut slots = std::mem::take(&mut self.deferred);
        let shares = if self.flush_incomplete || self.fanout.is_backlogged() {
            self.read_pending.len().min(1)
        } else {
            self.read_pending.len()
        };
        slots.extend(self.read_pending.drain(..shares));
        for slot in &slots {
            if let Some(connection) = self.slab.get_mut(*slot as usize) {
                connection.read_pending = false;
            }
        }
        slots
    }

    /// Keeps input that this tick has no time to process; the next tick processes it first. Does
    /// nothing, and does not queue the connection, if the input is empty.
    pub(super) fn keep_unread(&mut self, slot: u32, input: &[u8]) {
        if !input.is_empty() {
            self.partial_bytes += input.len();
            self.unread.insert(slot, input.to_vec());
            self.requeue_read(slot);
        }
    }

    /// Moves kept input into the buffer. Returns its length, or `None` if there is none.
    pub(super) fn take_unread(&mut self, slot: u32, buffer: &mut [u8]) -> Option<usize> {
        if self.unread.is_empty() {
            return None;
        }
        let bytes = self.unread.remove(&slot)?;
        self.partial_bytes -= bytes.len();
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Some(bytes.len())
    }

    /// Accounts for a connection's partial messages, which took `before` bytes and now take `now`.
    pub(super) fn note_held(&mut self, before: usize, now: usize) {
        self.partial_bytes = self.partial_bytes + now - before;
    }

    /// Reads a connection once, and decrypts. Handshake records that TLS queues leave in this tick.
    pub(super) fn receive(&mut self, slot: u32, buffer: &mut [u8]) -> Received {
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

    // ---- output

    /// Queues a frame for one connection, to be flushed in this tick.
    pub(super) fn deliver(&mut self, to: ConnId, frame: EncodedFrame, droppable: bool) {
        self.enqueue(to, frame, droppable, false);
    }

    /// Queues a frame for several connections; if they are many, through the fan-out queue.
    pub(super) fn broadcast(&mut self, to: &[ConnId], frame: &EncodedFrame, droppable: bool) {
        let many = to.len() > IMMEDIATE_RECEIVERS_MAX;
        for to in to {
            self.enqueue(*to, EncodedFrame::clone(frame), droppable, many);
        }
    }

    /// Puts a frame into an outbox, unless the outbox is over its limit: the soft one for droppable
    /// frames, the hard one for all.
    fn enqueue(&mut self, to: ConnId, frame: EncodedFrame, droppable: bool, is_fanout: bool) {
        let known = self.slab.get_mut(to.slot as usize);
        let Some(mut connection) = known.filter(|c| c.id == to && !c.wire.is_closing()) else {
            self.stale += 1;
            return;
        };
        if connection.outbox.memory_bytes() > self.buffer_limits.soft {
            if droppable && !self.make_room(to.slot, self.buffer_limits.soft) {
                self.missed += 1;
                return;
            }
            // The limit applies to what waited before: one frame of any size is accepted.
            if !self.enforce_hard_limit(to.slot) {
                self.dropped += 1;
                return;
            }
            connection = &mut self.slab[to.slot as usize];
        }
        connection.outbox.push(frame);
        self.sent += 1;
        if is_fanout {
            if !std::mem::replace(&mut connection.in_fanout_queue, true) {
                self.fanout.push(to);
            }
        } else if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(to.slot);
        }
    }

    /// Schedules a flush after the wire has written to the outbox or has begun to close.
    pub(super) fn note_output(&mut self, slot: u32) {
        let Some(connection) = self.slab.get_mut(slot as usize) else { return };
        let closing = connection.wire.is_closing();
        if closing || connection.has_output() {
            self.mark_dirty(slot);
            if !closing {
                self.enforce_hard_limit(slot);
            }
        }
    }

    /// Handles a writable event: schedules a flush if output is pending.
    pub(super) fn note_writable(&mut self, slot: u32) {
        if let Some(connection) = self.slab.get_mut(slot as usize) {
            connection.blocked = false;
            if connection.wire.is_closing() || connection.has_output() {
                self.mark_dirty(slot);
            }
        }
    }

    /// Puts a connection on the dirty list, to be flushed at the end of the tick.
    fn mark_dirty(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.slab[slot as usize].dirty, true) {
            self.dirty.push(slot);
        }
    }

    /// Puts a connection into the fan-out queue.
    fn enqueue_fanout(&mut self, slot: u32) {
        let connection = &mut self.slab[slot as usize];
        if !std::mem::replace(&mut connection.in_fanout_queue, true) {
            self.fanout.push(connection.id);
        }
    }

    /// Whether an outbox holds at most `max` bytes. If it holds more, it is flushed first: the
    /// limit is for clients that do not read, not for those that were not flushed yet.
    fn make_room(&mut self, slot: u32, max: usize) -> bool {
        if self.slab[slot as usize].outbox.memory_bytes() > max {
            self.flush_connection(slot, usize::MAX);
        }
        self.slab[slot as usize].outbox.memory_bytes() <= max
    }

    /// Whether an outbox is within the hard limit; if not, marks its connection to be closed.
    fn enforce_hard_limit(&mut self, slot: u32) -> bool {
        let has_room = self.make_room(slot, self.buffer_limits.hard);
        if !has_room {
            self.mark_overflowed(slot);
        }
        has_room
    }

    fn mark_overflowed(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.slab[slot as usize].overflowed, true) {
            self.overflowed.push(slot);
        }
    }

    /// Takes the next connection over the hard limit, if any, and drops its unsent frames.
    pub(super) fn next_overflowed(&mut self) -> Option<u32> {
        while let Some(slot) = self.overflowed.pop() {
            // It may have begun to close since.
            let connection = self.slab.get_mut(slot as usize);
            if let Some(connection) = connection.filter(|c| c.overflowed && !c.wire.is_closing()) {
                self.dropped += connection.outbox.drop_unsent(&mut self.send_context.ledger) as u64;
                return Some(slot);
            }
        }
        None
    }

    /// Flushes each connection on the dirty list once, within the time budget. A connection stopped
    /// by a budget stays on the list; one stopped by the kernel waits for a writable event. Returns
    /// the number of connections flushed.
    pub(super) fn flush(&mut self, budget: &mut TimeBudget) -> usize {
        let slots = std::mem::take(&mut self.dirty);
        let mut done = 0;
        while done < slots.len() && !budget.is_exhausted(0) {
            let slot = slots[done];
            if let Some(connection) = self.slab.get_mut(slot as usize) {
                connection.dirty = false;
                if self.flush_connection(slot, FLUSH_BYTES_PER_TICK) == Flushed::More {
                    self.mark_dirty(slot);
                }
            }
            done += 1;
        }
        self.flush_incomplete = done < slots.len();
        if !self.flush_incomplete && self.dirty.is_empty() {
            // Keeps the allocation for the next tick.
            self.dirty = slots;
            self.dirty.clear();
        } else {
            // The longest waiting come first.
            let later = std::mem::take(&mut self.dirty);
            self.dirty.extend(slots.iter().skip(done).chain(&later));
        }
        done
    }

    /// Flushes the next connections of the fan-out queue, within the time budget; the next tick
    /// continues. Returns the number of connections written to.
    pub(super) fn flush_fanout(&mut self, budget: &mut TimeBudget) -> usize {
        let began = Instant::now();
        let (mut writes, mut frames) = (0, 0);
        while !budget.is_exhausted(0) {
            let Some(ConnId { slot, serial }) = self.fanout.pop() else { break };
            let connection = self.slab.get_mut(slot as usize);
            let Some(connection) = connection.filter(|c| c.id.serial == serial) else { continue };
            connection.in_fanout_queue = false;
            let pending = connection.outbox.count();
            if pending > 0 {
                (writes, frames) = (writes + 1, frames + pending);
                if self.flush_connection(slot, FLUSH_BYTES_PER_TICK) == Flushed::More {
                    self.enqueue_fanout(slot);
                }
            }
        }
        self.fanout.note(FlushStats { began, ended: Instant::now(), writes, frames });
        writes
    }

    /// Flushes a connection, up to about `budget` bytes. The first write that the kernel does not
    /// take in full registers the socket for writability. Most connections never need that, and
    /// registering all at accept would cost one more event for each.
    fn flush_connection(&mut self, slot: u32, budget: usize) -> Flushed {
        let connection = &mut self.slab[slot as usize];
        let before = connection.outbox.bytes();
        let mut flushed = connection.flush(budget, &mut self.send_context);
        self.sent_bytes += (before - connection.outbox.bytes()) as u64;
        if connection.blocked && !connection.write_interest {
            let both = Interest::READABLE | Interest::WRITABLE;
            let token = Token(slot as usize);
            // Reregistering reports existing readiness again, so none is lost in between.
            match self.registry.reregister(connection.socket(), token, both) {
                Ok(()) => connection.write_interest = true,
                Err(_) => flushed = Flushed::Gone,
            }
        }
        if flushed == Flushed::Gone {
            self.mark_doomed(slot);
        }
        flushed
    }

    // ---- closing and removal

    /// Sends a close frame; the connection is removed when the peer closes, or after a timeout.
    pub(super) fn close(&mut self, slot: u32, code: u16, reason: &'static str, now: ActiveTime) {
        self.begin_close(slot, now, |connection, _| {
            connection.wire.close(code, reason, &mut connection.outbox);
        });
    }

    /// Sends `response` in place of the unsent answer to the request, and closes.
    pub(super) fn refuse(&mut self, slot: u32, response: String, now: ActiveTime) {
        self.begin_close(slot, now, |connection, ledger| {
            connection.wire.refuse(response, &mut connection.outbox, ledger);
        });
    }

    /// Sends a response to the site's plugin, and closes.
    pub(super) fn answer_site(&mut self, slot: u32, response: String, now: ActiveTime) {
        self.begin_close(slot, now, |connection, _| {
            connection.wire.answer_site(response, &mut connection.outbox);
        });
    }

    /// Answers a request that has timed out, and closes.
    pub(super) fn time_out(&mut self, slot: u32, now: ActiveTime) {
        self.begin_close(slot, now, |connection, _| {
            connection.wire.time_out(&mut connection.outbox);
        });
    }

    /// Begins to close a connection with what `send_last` sends, unless it is closing already. Its
    /// partial message is dropped.
    fn begin_close(
        &mut self,
        slot: u32,
        now: ActiveTime,
        send_last: impl FnOnce(&mut Connection, &mut Ledger),
    ) {
        let connection = self.slab.get_mut(slot as usize);
        let Some(connection) = connection.filter(|c| !c.wire.is_closing()) else { return };
        self.partial_bytes -= connection.wire.held_bytes();
        send_last(connection, &mut self.send_context.ledger);
        connection.since = now;
        self.note_output(slot);
    }

    /// Marks a connection for removal.
    pub(super) fn mark_doomed(&mut self, slot: u32) {
        if let Some(connection) = self.slab.get_mut(slot as usize) {
            if !std::mem::replace(&mut connection.doomed, true) {
                self.doomed.push(slot);
            }
        }
    }

    pub(super) fn next_doomed(&mut self) -> Option<u32> {
        self.doomed.pop()
    }

    /// Removes a connection. Dropping its socket closes it and deregisters it from the poll.
    pub(super) fn reap(&mut self, slot: u32) -> Option<Connection> {
        let mut connection = self.slab.try_remove(slot as usize)?;
        connection.outbox.clear(&mut self.send_context.ledger);
        self.send_context.ledger.note_held(connection.tls_output_bytes(), 0);
        self.partial_bytes -= connection.wire.held_bytes() + connection.tls_input_bytes();
        self.drop_unread(slot);
        Some(connection)
    }

    fn drop_unread(&mut self, slot: u32) {
        if let Some(unread) = self.unread.remove(&slot) {
            self.partial_bytes -= unread.len();
        }
    }

    // ---- metrics

    /// Counts connections by state. Visits all of them, at a few nanoseconds each.
    pub(super) fn stats(&self) -> ConnectionStats {
        let mut stats = ConnectionStats::default();
        for (_, connection) in &self.slab {
            let state = if connection.wire.is_closing() {
                &mut stats.closing
            } else if connection.wire.is_before_response() {
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

    /// Bytes of memory held for slow clients, and the limit.
    pub(super) fn held_bytes(&self) -> (usize, usize) {
        (self.send_context.ledger.bytes() + self.partial_bytes, self.buffer_limits.total)
    }

    /// Connections in the fan-out queue.
    pub(super) fn fanout_len(&self) -> usize {
        self.fanout.len()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

    use mio::Poll;
    use mio::net::TcpStream;

    use super::*;
    use crate::config::limits::UNLIMITED;

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A connection table with a listener for its clients.
    struct Fixture {
        connections: Connections,
        /// Keeps the registry valid.
        _poll: Poll,
        listener: TcpListener,
    }

    impl Fixture {
        fn new(total: usize) -> Fixture {
            let poll = Poll::new().unwrap();
            let registry = poll.registry().try_clone().unwrap();
            Fixture {
                connections: Connections::new(
                    BufferLimits { soft: UNLIMITED, hard: UNLIMITED, total },
                    registry,
                ),
                _poll: poll,
                listener: TcpListener::bind(SocketAddr::new(LOCALHOST, 0)).unwrap(),
            }
        }

        /// Opens a connection. Returns its slot and the client's socket, which reads nothing.
        fn connect(&mut self) -> (u32, std::net::TcpStream) {
            let client = std::net::TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            let (socket, _) = self.listener.accept().unwrap();
            socket.set_nonblocking(true).unwrap();
            let before = self.connections.slots();
            let socket = TcpStream::from_std(socket);
            self.connections.add(socket, LOCALHOST, false, None, ActiveTime::default()).unwrap();
            let slot =
                self.connections.slots().into_iter().find(|slot| !before.contains(slot)).unwrap();
            (slot, client)
        }

        fn flush(&mut self) {
            let long = std::time::Duration::from_secs(5);
            self.connections.flush(&mut TimeBudget::new(long, 0));
        }
    }

    #[test]
    fn new_connection_in_a_twice_doomed_slot_is_kept() {
        let mut fixture = Fixture::new(UNLIMITED);
        let (slot, _client) = fixture.connect();
        // Its end of stream was read in one tick, and a write failed in the next.
        fixture.connections.mark_doomed(slot);
        fixture.connections.mark_doomed(slot);
        assert_eq!(fixture.connections.next_doomed(), Some(slot));
        assert!(fixture.connections.reap(slot).is_some());
        // The budget was used up, and the next tick accepts before it removes.
        let (reused, _other) = fixture.connect();
        assert_eq!(reused, slot);
        assert_eq!(fixture.connections.next_doomed(), None);
    }

    #[test]
    fn memory_shedding_spares_connections_holding_nothing() {
        let mut fixture = Fixture::new(1 << 20);
        let (slow, _reads_nothing) = fixture.connect();
        let quick: Vec<_> = (0..8).map(|_| fixture.connect()).collect();
        let frame = EncodedFrame::from(vec![0; 16 << 20].as_slice());
        let id = fixture.connections.get(slow).unwrap().id;
        fixture.connections.deliver(id, frame, false);
        for _ in 0..1_000 {
            fixture.connections.note_writable(slow);
            fixture.flush();
        }
        // The socket has just become writable, and there was no time to flush.
        fixture.connections.note_writable(slow);
        fixture.connections.shed();
        assert_eq!(fixture.connections.next_overflowed(), Some(slow), "{quick:?}");
        assert_eq!(fixture.connections.next_overflowed(), None, "the others hold nothing");
    }

    #[test]
    fn unparsed_input_counts_as_held_by_its_connection() {
        let mut fixture = Fixture::new(1 << 20);
        let flooders: Vec<_> = (0..80).map(|_| fixture.connect()).collect();
        let (quiet, _client) = fixture.connect();
        for (slot, _) in &flooders {
            fixture.connections.keep_unread(*slot, &[0; 16 * 1024]);
        }
        fixture.connections.shed();
        let closed: Vec<u32> =
            std::iter::from_fn(|| fixture.connections.next_overflowed()).collect();
        assert!((20..30).contains(&closed.len()) && !closed.contains(&quiet), "{closed:?}");
        for slot in fixture.connections.slots() {
            fixture.connections.reap(slot);
        }
        assert_eq!(fixture.connections.partial_bytes, 0);
    }

    #[test]
    fn fully_read_connection_is_not_requeued() {
        let mut fixture = Fixture::new(UNLIMITED);
        let (slot, mut client) = fixture.connect();
        client.write_all(b"all of it").unwrap();
        fixture.connections.keep_unread(slot, b"");
        assert!(!fixture.connections.has_pending_work());
    }

    #[test]
    fn fanout_over_the_tick_budget_waits_for_the_next_tick() {
        let mut fixture = Fixture::new(UNLIMITED);
        let many: Vec<_> = (0..=IMMEDIATE_RECEIVERS_MAX).map(|_| fixture.connect()).collect();
        let ids: Vec<_> =
            many.iter().map(|(slot, _)| fixture.connections.get(*slot).unwrap().id).collect();
        for n in 0..200 {
            fixture.connections.broadcast(&ids, &EncodedFrame::from([n; 500].as_slice()), false);
        }
        let mut round = TimeBudget::new(std::time::Duration::ZERO, 0);
        assert!(fixture.connections.flush_fanout(&mut round) > 0);
        assert!(
            fixture.connections.dirty.is_empty(),
            "frames of few receivers would wait behind them"
        );
        let mut left = std::iter::from_fn(|| fixture.connections.fanout.pop());
        assert_eq!(left.by_ref().count(), many.len(), "each is queued once more or still");
    }

    #[test]
    fn new_connection_in_a_queued_slot_has_one_turn() {
        let mut fixture = Fixture::new(UNLIMITED);
        let mut many: Vec<_> = (0..=IMMEDIATE_RECEIVERS_MAX).map(|_| fixture.connect()).collect();
        let frame = EncodedFrame::from([1, 2, 3].as_slice());
        let ids = |fixture: &mut Fixture| -> Vec<ConnId> {
            let slots = fixture.connections.slots();
            slots.iter().map(|slot| fixture.connections.get(*slot).unwrap().id).collect()
        };
        let before = ids(&mut fixture);
        fixture.connections.broadcast(&before, &frame, false);
        let slot = many[0].0;
        fixture.connections.reap(slot);
        many.push(fixture.connect());
        let now_there = ids(&mut fixture);
        assert_eq!(now_there[0].slot, slot);
        fixture.connections.broadcast(&now_there, &frame, false);
        let mut long = TimeBudget::new(std::time::Duration::from_secs(5), 0);
        assert_eq!(fixture.connections.flush_fanout(&mut long), now_there.len());
        assert!(fixture.connections.fanout.is_empty());
    }
}

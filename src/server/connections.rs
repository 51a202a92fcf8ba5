//! All connections, and which of them have something left to do.

mod shed;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use slab::Slab;

use super::budget::TimeBudget;
use super::fanout_queue::{FanoutQueue, FlushStats};
use crate::config::tls::TlsIdentity;
use crate::connection::{ActiveTime, Connection, Flushed, Received, RecvContext, SendContext};
use crate::hub::interface::ConnId;
use crate::protocol::server::EncodedFrame;
use crate::wire::outbox::Ledger;

/// Bytes written to one connection in one tick.
const FLUSH_BYTES_PER_TICK: usize = 64 * 1024;
/// What is for more than so many waits in their queue; who hears it with fewer is written to in the
/// same tick.
const IMMEDIATE_RECEIVERS_MAX: usize = 16;

/// What may be held for clients that are slow, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct BufferLimits {
    /// In one outbox, before it takes no more of what can be missed.
    pub(super) soft: usize,
    /// In one outbox.
    pub(super) hard: usize,
    /// In all.
    pub(super) total: usize,
}

/// Connections by their states, and what waits for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ConnectionStats {
    /// Their request has not been answered yet.
    pub(super) handshakes: u64,
    /// WebSockets.
    pub(super) open: u64,
    /// They have heard, or are to hear, that it is over.
    pub(super) closing: u64,
    /// Those for whom something waits.
    pub(super) waiting: u64,
    /// Bytes that wait for all of them, a frame for each that it is for.
    pub(super) waiting_bytes: u64,
}

/// The slab of connections, with lists of slots. A connection stands on a list once, which its
/// flags see to; in the bulk queue it stands with its serial. A slot on another list may be empty
/// by the time the list is gone through, or someone else's: there is nothing to do then, and no
/// harm. Only among the doomed there would be, so nobody is removed but from there.
pub(super) struct Connections {
    slab: Slab<Connection>,
    registry: Registry,
    serial: u32,
    /// Something to send at the end of the tick; who comes first has waited longest.
    dirty: Vec<u32>,
    /// Those for whom something waits that is for many.
    fanout: FanoutQueue,
    /// The last flush has not come to the end of its list.
    flush_incomplete: bool,
    /// Not read at all in the last tick, which had no time left.
    deferred: Vec<u32>,
    /// More to read than one tick's share.
    read_pending: Vec<u32>,
    /// What has been read, and not looked at yet: less than one read, of those on the again list.
    unread: HashMap<u32, Vec<u8>>,
    /// Too much to send: to be closed.
    overflowed: Vec<u32>,
    /// To be buried at the end of this tick.
    doomed: Vec<u32>,
    buffer_limits: BufferLimits,
    send_context: SendContext,
    recv_context: RecvContext,
    /// What was said in part, or has not been looked at yet.
    partial_bytes: usize,
    /// Frames put into outboxes.
    pub(super) sent: u64,
    /// Frames for connections that had gone.
    pub(super) stale: u64,
    /// Frames that slow readers have missed.
    pub(super) missed: u64,
    /// Frames for those who are closed for being slow, which have not left.
    pub(super) dropped: u64,
    /// Bytes that the kernel has taken.
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

    /// Slots that are or were in use: all connections are below.
    pub(super) fn slot_capacity(&self) -> usize {
        self.slab.capacity()
    }

    /// Whether the next tick has something to do without any event.
    pub(super) fn has_pending_work(&self) -> bool {
        let input = !self.read_pending.is_empty() || !self.deferred.is_empty();
        input || !self.dirty.is_empty() || !self.doomed.is_empty()
    }

    /// Whether more is said to many than leaves.
    pub(super) fn is_backlogged(&self) -> bool {
        self.fanout.is_backlogged()
    }

    /// When those for whom something waits that is for many are to be written to, if there are any.
    pub(super) fn next_fanout_flush(&self, now: Instant) -> Option<Instant> {
        (!self.fanout.is_empty()).then(|| now + self.fanout.pause_left(now))
    }

    pub(super) fn get(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slab.get_mut(slot as usize)
    }

    pub(super) fn slots(&self) -> Vec<u32> {
        self.slab.iter().map(|(slot, _)| slot as u32).collect()
    }

    /// Takes a new socket in and has its input watched; see `flush_connection` for its output.
    pub(super) fn add(
        &mut self,
        mut socket: TcpStream,
        peer: IpAddr,
        counts_for_address: bool,
        identity: Option<&TlsIdentity>,
        now: ActiveTime,
    ) -> io::Result<()> {
        let entry = self.slab.vacant_entry();
        self.registry.register(&mut socket, Token(entry.key()), Interest::READABLE)?;
        self.serial = self.serial.wrapping_add(1);
        let id = ConnId { slot: entry.key() as u32, serial: self.serial };
        let mut connection = Connection::new(id, socket, peer, now);
        connection.counts_for_address = counts_for_address;
        if let Some(identity) = identity {
            connection.enable_tls(identity).map_err(io::Error::other)?;
        }
        entry.insert(connection);
        Ok(())
    }

    // ---- input

    /// Notes that a connection has more to read.
    pub(super) fn requeue_read(&mut self, slot: u32) {
        if self.mark_read_pending(slot) {
            self.read_pending.push(slot);
        }
    }

    /// Notes that there was no time to read a connection at all.
    pub(super) fn defer_read(&mut self, slot: u32) {
        if self.mark_read_pending(slot) {
            self.deferred.push(slot);
        }
    }

    /// Whether a connection stands on neither list of those that are to be read; now it does.
    fn mark_read_pending(&mut self, slot: u32) -> bool {
        let connection = self.slab.get_mut(slot as usize);
        connection.is_some_and(|connection| !std::mem::replace(&mut connection.read_pending, true))
    }

    /// Who is to be read without an event: first those for whom there was no time, then those who
    /// have had their share. As long as output has not left, only one of these: who says more than
    /// can be sent must wait, and everyone else need not.
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

    /// Keeps what a tick has no time to look at; it is read first in the next. Who has nothing left
    /// is not sent to the end of a list of those who have.
    pub(super) fn keep_unread(&mut self, slot: u32, input: &[u8]) {
        if !input.is_empty() {
            self.partial_bytes += input.len();
            self.unread.insert(slot, input.to_vec());
            self.requeue_read(slot);
        }
    }

    /// Puts what was kept back into the buffer; how many bytes that are, if there are any.
    pub(super) fn take_unread(&mut self, slot: u32, buffer: &mut [u8]) -> Option<usize> {
        if self.unread.is_empty() {
            return None;
        }
        let bytes = self.unread.remove(&slot)?;
        self.partial_bytes -= bytes.len();
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Some(bytes.len())
    }

    /// Notes that a connection holds so much of what was said in part instead of `before`.
    pub(super) fn note_held(&mut self, before: usize, now: usize) {
        self.partial_bytes = self.partial_bytes + now - before;
    }

    /// One read of a connection. What TLS has to say for itself is noted, to leave in this tick.
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

    /// Puts a frame into an outbox, to leave in this tick.
    pub(super) fn deliver(&mut self, to: ConnId, frame: EncodedFrame, droppable: bool) {
        self.enqueue(to, frame, droppable, false);
    }

    /// Puts a frame into several outboxes. If they are many, it leaves in their turn.
    pub(super) fn broadcast(&mut self, to: &[ConnId], frame: &EncodedFrame, droppable: bool) {
        let many = to.len() > IMMEDIATE_RECEIVERS_MAX;
        for to in to {
            self.enqueue(*to, EncodedFrame::clone(frame), droppable, many);
        }
    }

    /// Puts a frame into an outbox, unless too much waits there already: for what can be missed,
    /// less is too much.
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
            // A frame of any size finds its place: it is the reader who is judged, not the frame.
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

    /// Notes what a connection's own wire has put into its outbox, or that it is closing.
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

    /// The kernel takes more of a connection's output.
    pub(super) fn note_writable(&mut self, slot: u32) {
        if let Some(connection) = self.slab.get_mut(slot as usize) {
            connection.blocked = false;
            if connection.wire.is_closing() || connection.has_output() {
                self.mark_dirty(slot);
            }
        }
    }

    /// Puts a connection on the list of those that are written to at the end of the tick.
    fn mark_dirty(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.slab[slot as usize].dirty, true) {
            self.dirty.push(slot);
        }
    }

    /// Puts a connection into the queue of those for whom something waits that is for many.
    fn enqueue_fanout(&mut self, slot: u32) {
        let connection = &mut self.slab[slot as usize];
        if !std::mem::replace(&mut connection.in_fanout_queue, true) {
            self.fanout.push(connection.id);
        }
    }

    /// Whether no more waits for a connection than this. If so much does, it is written to first:
    /// the limit is for who does not read, not for who has not been written to yet.
    fn make_room(&mut self, slot: u32, max: usize) -> bool {
        if self.slab[slot as usize].outbox.memory_bytes() > max {
            self.flush_connection(slot, usize::MAX);
        }
        self.slab[slot as usize].outbox.memory_bytes() <= max
    }

    /// Whether less waits for a connection than may; otherwise it is to be closed.
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

    /// One connection that does not read, until there are no more; what waits for it is dropped.
    pub(super) fn next_overflowed(&mut self) -> Option<u32> {
        while let Some(slot) = self.overflowed.pop() {
            // Its own wire may have begun to close it since.
            let connection = self.slab.get_mut(slot as usize);
            if let Some(connection) = connection.filter(|c| c.overflowed && !c.wire.is_closing()) {
                self.dropped += connection.outbox.drop_unsent(&mut self.send_context.ledger) as u64;
                return Some(slot);
            }
        }
        None
    }

    /// Writes to each connection that has something to send in this tick, once, until the phase is
    /// over. Who is stopped by a budget stays on the list; who is stopped by the kernel waits for a
    /// writable event. Returns how many it has written to.
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
            // Its memory serves the next tick.
            self.dirty = slots;
            self.dirty.clear();
        } else {
            // Who has waited longest comes first.
            let later = std::mem::take(&mut self.dirty);
            self.dirty.extend(slots.iter().skip(done).chain(&later));
        }
        done
    }

    /// Writes to those for whom something waits that is for many, until the phase is over; in the
    /// next tick it goes on. Returns how many it has written to.
    pub(super) fn flush_fanout(&mut self, budget: &mut TimeBudget) -> usize {
        let began = Instant::now();
        let (mut writes, mut frames) = (0, 0);
        while !budget.is_exhausted(0) {
            let Some(ConnId { slot, serial }) = self.fanout.pop() else { break };
            let connection = self.slab.get_mut(slot as usize);
            let Some(connection) = connection.filter(|c| c.id.serial == serial) else { continue };
            connection.in_fanout_queue = false;
            let waits = connection.outbox.count();
            if waits > 0 {
                (writes, frames) = (writes + 1, frames + waits);
                if self.flush_connection(slot, FLUSH_BYTES_PER_TICK) == Flushed::More {
                    self.enqueue_fanout(slot);
                }
            }
        }
        self.fanout.note(FlushStats { began, ended: Instant::now(), writes, frames });
        writes
    }

    /// Writes what waits for a connection, up to about `budget` bytes. From the first time on that
    /// the kernel does not take all of it, the poll watches for when it does. Most never need that,
    /// and the event with which such a watch begins would be one more for each that arrives.
    fn flush_connection(&mut self, slot: u32, budget: usize) -> Flushed {
        let connection = &mut self.slab[slot as usize];
        let waited = connection.outbox.bytes();
        let mut flushed = connection.flush(budget, &mut self.send_context);
        self.sent_bytes += (waited - connection.outbox.bytes()) as u64;
        if connection.blocked && !connection.write_interest {
            let both = Interest::READABLE | Interest::WRITABLE;
            let token = Token(slot as usize);
            // Readiness that is there already is told of once more: none is lost between the two.
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

    // ---- the end of connections

    /// Says goodbye to a connection; it is buried when it has heard it, or soon after.
    pub(super) fn close(&mut self, slot: u32, code: u16, reason: &'static str, now: ActiveTime) {
        self.begin_close(slot, now, |connection, _| {
            connection.wire.close(code, reason, &mut connection.outbox);
        });
    }

    /// Says nothing but this, instead of an answer to a request that has not left yet.
    pub(super) fn refuse(&mut self, slot: u32, response: String, now: ActiveTime) {
        self.begin_close(slot, now, |connection, ledger| {
            connection.wire.refuse(response, &mut connection.outbox, ledger);
        });
    }

    /// Ends a request that takes too long.
    pub(super) fn time_out(&mut self, slot: u32, now: ActiveTime) {
        self.begin_close(slot, now, |connection, _| {
            connection.wire.time_out(&mut connection.outbox);
        });
    }

    /// Begins the end of a connection with these last words, unless it has begun: what it has said
    /// in part is not held any longer.
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

    /// Notes that a socket is of no use any more.
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

    /// Removes a connection, which closes its socket and so takes it out of the poll.
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

    /// Looks at all connections: some nanoseconds for each.
    pub(super) fn stats(&self) -> ConnectionStats {
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
    pub(super) fn held_bytes(&self) -> (usize, usize) {
        (self.send_context.ledger.bytes() + self.partial_bytes, self.buffer_limits.total)
    }

    /// Connections for whom something waits that is for many.
    pub(super) fn fanout_len(&self) -> usize {
        self.fanout.len()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

    use mio::Poll;

    use super::*;
    use crate::config::limits::UNLIMITED;

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A crowd whose clients stand at the other ends of their sockets.
    struct Fixture {
        connections: Connections,
        /// Watches as long as it is there.
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

        /// One more connection: its slot, and the client's end, which reads nothing.
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
        // Its end was read in one tick, and a write has failed in the next.
        fixture.connections.mark_doomed(slot);
        fixture.connections.mark_doomed(slot);
        assert_eq!(fixture.connections.next_doomed(), Some(slot));
        assert!(fixture.connections.reap(slot).is_some());
        // The tick's time is over, and the next one accepts before it buries.
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
        // The kernel has just said that it takes more, and there was no time to write.
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
        assert!(fixture.connections.dirty.is_empty(), "a lone frame would wait behind them");
        let mut left = std::iter::from_fn(|| fixture.connections.fanout.pop());
        assert_eq!(left.by_ref().count(), many.len(), "each has a second share, or the first");
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

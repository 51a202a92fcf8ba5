//! Tests of the crowd with real sockets, which are too long to stand beside it.

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

    use mio::Poll;

    use super::super::*;
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

//! Tests of the crowd with real sockets, which are too long to stand beside it.

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

    use mio::Poll;

    use super::super::*;
    use crate::config::limits::UNLIMITED;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A crowd whose clients stand at the other ends of their sockets.
    struct Place {
        crowd: Crowd,
        /// Watches as long as it is there.
        _poll: Poll,
        listener: TcpListener,
    }

    impl Place {
        fn new(all: usize) -> Place {
            let poll = Poll::new().unwrap();
            let registry = poll.registry().try_clone().unwrap();
            Place {
                crowd: Crowd::new(Buffers { soft: UNLIMITED, hard: UNLIMITED, all }, registry),
                _poll: poll,
                listener: TcpListener::bind(SocketAddr::new(HOME, 0)).unwrap(),
            }
        }

        /// One more connection: its slot, and the client's end, which reads nothing.
        fn enter(&mut self) -> (u32, std::net::TcpStream) {
            let client = std::net::TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            let (socket, _) = self.listener.accept().unwrap();
            socket.set_nonblocking(true).unwrap();
            let before = self.crowd.slots();
            let socket = TcpStream::from_std(socket);
            self.crowd.add(socket, HOME, false, None, Moment::default()).unwrap();
            let slot = self.crowd.slots().into_iter().find(|slot| !before.contains(slot)).unwrap();
            (slot, client)
        }

        fn flush(&mut self) {
            let long = std::time::Duration::from_secs(5);
            self.crowd.flush(&mut Phase::new(long, 0));
        }
    }

    #[test]
    fn who_comes_to_the_place_of_one_with_two_reasons_to_go_stays() {
        let mut place = Place::new(UNLIMITED);
        let (slot, _client) = place.enter();
        // Its end was read in one tick, and a write has failed in the next.
        place.crowd.doom(slot);
        place.crowd.doom(slot);
        assert_eq!(place.crowd.next_doomed(), Some(slot));
        assert!(place.crowd.bury(slot).is_some());
        // The tick's time is over, and the next one accepts before it buries.
        let (reused, _other) = place.enter();
        assert_eq!(reused, slot);
        assert_eq!(place.crowd.next_doomed(), None);
    }

    #[test]
    fn when_too_much_is_held_nobody_goes_who_holds_nothing() {
        let mut place = Place::new(1 << 20);
        let (slow, _reads_nothing) = place.enter();
        let quick: Vec<_> = (0..8).map(|_| place.enter()).collect();
        let frame = EncodedFrame::from(vec![0; 16 << 20].as_slice());
        let id = place.crowd.get(slow).unwrap().id;
        place.crowd.deliver(id, frame, false);
        for _ in 0..1_000 {
            place.crowd.note_writable(slow);
            place.flush();
        }
        // The kernel has just said that it takes more, and there was no time to write.
        place.crowd.note_writable(slow);
        place.crowd.shed();
        assert_eq!(place.crowd.next_overflowed(), Some(slow), "{quick:?}");
        assert_eq!(place.crowd.next_overflowed(), None, "the others hold nothing");
    }

    #[test]
    fn what_was_read_and_not_looked_at_is_held_by_whom_it_came_from() {
        let mut place = Place::new(1 << 20);
        let flooders: Vec<_> = (0..80).map(|_| place.enter()).collect();
        let (quiet, _client) = place.enter();
        for (slot, _) in &flooders {
            place.crowd.keep_unread(*slot, &[0; 16 * 1024]);
        }
        place.crowd.shed();
        let closed: Vec<u32> = std::iter::from_fn(|| place.crowd.next_overflowed()).collect();
        assert!((20..30).contains(&closed.len()) && !closed.contains(&quiet), "{closed:?}");
        for slot in place.crowd.slots() {
            place.crowd.bury(slot);
        }
        assert_eq!(place.crowd.unfinished, 0);
    }

    #[test]
    fn who_was_read_to_the_end_needs_no_second_turn() {
        let mut place = Place::new(UNLIMITED);
        let (slot, mut client) = place.enter();
        client.write_all(b"all of it").unwrap();
        place.crowd.keep_unread(slot, b"");
        assert!(!place.crowd.has_left_over());
    }

    #[test]
    fn who_has_more_than_a_tick_s_share_of_what_is_for_many_waits_for_the_next_round() {
        let mut place = Place::new(UNLIMITED);
        let many: Vec<_> = (0..=FEW).map(|_| place.enter()).collect();
        let ids: Vec<_> = many.iter().map(|(slot, _)| place.crowd.get(*slot).unwrap().id).collect();
        for n in 0..200 {
            place.crowd.spread(&ids, &EncodedFrame::from([n; 500].as_slice()), false);
        }
        let mut round = Phase::new(std::time::Duration::ZERO, 0);
        assert!(place.crowd.flush_bulk(&mut round) > 0);
        assert!(place.crowd.dirty.is_empty(), "a lone frame would wait behind them");
        let mut left = std::iter::from_fn(|| place.crowd.bulk.pop());
        assert_eq!(left.by_ref().count(), many.len(), "each has a second share, or the first");
    }

    #[test]
    fn who_comes_to_the_place_of_one_in_the_queue_has_one_turn() {
        let mut place = Place::new(UNLIMITED);
        let mut many: Vec<_> = (0..=FEW).map(|_| place.enter()).collect();
        let frame = EncodedFrame::from([1, 2, 3].as_slice());
        let ids = |place: &mut Place| -> Vec<ConnId> {
            let slots = place.crowd.slots();
            slots.iter().map(|slot| place.crowd.get(*slot).unwrap().id).collect()
        };
        let before = ids(&mut place);
        place.crowd.spread(&before, &frame, false);
        let slot = many[0].0;
        place.crowd.bury(slot);
        many.push(place.enter());
        let now_there = ids(&mut place);
        assert_eq!(now_there[0].slot, slot);
        place.crowd.spread(&now_there, &frame, false);
        let mut long = Phase::new(std::time::Duration::from_secs(5), 0);
        assert_eq!(place.crowd.flush_bulk(&mut long), now_there.len());
        assert!(place.crowd.bulk.is_empty());
    }
}

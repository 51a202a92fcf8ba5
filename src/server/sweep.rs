//! What no event tells of: who takes too long, and who has not been heard for a while.
//!
//! Once a second all connections are looked at, some in each tick: there is no timer for each.

use std::time::Duration;

use super::Server;
use crate::connection::{Connection, Moment};
use crate::hub::interface::Now;

/// How often all are looked at.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Connections looked at in one tick. Each may be sent a ping, which is a system call.
const SLOTS_PER_TICK: usize = 512;
/// How long a client may take for the rest of a frame, or of a message in fragments.
const UNFINISHED_LASTS: Duration = Duration::from_secs(60);
/// How long who has asked how a call is may wait for the answer: an app that a push has woken has
/// less time than a site may take.
const ASKED_LASTS: Duration = Duration::from_secs(10);
/// How long a closing connection may take to read its last bytes and close its end.
const CLOSING_LASTS: Duration = Duration::from_secs(3);
/// Pings that may remain without an answer.
const PINGS_MAX: u8 = 2;

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) handshake_lasts: Duration,
    pub(super) ping_every: Duration,
}

/// Why something has to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overdue {
    /// Its request does not come.
    Request,
    /// The answer to its request is not known.
    Answer,
    /// It does not read its goodbye, or does not answer it.
    Goodbye,
    /// The rest of its frame or message does not come.
    Rest,
    /// It is to give a sign of life.
    Sign,
    /// It has not given one.
    Life,
}

impl Patience {
    /// What is overdue of a connection; `None` is the rule.
    fn overdue(&self, connection: &Connection, now: Moment) -> Option<Overdue> {
        let takes = now.since(connection.since);
        let wire = &connection.wire;
        if wire.in_handshake() {
            return (takes >= self.handshake_lasts).then_some(Overdue::Request);
        }
        if wire.is_asking() {
            return (takes >= ASKED_LASTS).then_some(Overdue::Answer);
        }
        if wire.is_closing() {
            return (takes >= CLOSING_LASTS).then_some(Overdue::Goodbye);
        }
        if wire.is_unfinished() && takes >= UNFINISHED_LASTS {
            return Some(Overdue::Rest);
        }
        let pings = connection.pings;
        if now.since(connection.heard) < self.ping_every * (u32::from(pings) + 1) {
            return None;
        }
        Some(if pings < PINGS_MAX { Overdue::Sign } else { Overdue::Life })
    }
}

impl Server {
    /// Looks at some connections, if it is time.
    pub(super) fn sweep(&mut self, now: Now) {
        if self.sweeping.is_none() && now.instant.duration_since(self.swept) >= SWEEP_EVERY {
            self.swept = now.instant;
            self.sweeping = Some(0);
            self.admission.try_again();
            self.scrapes.sweep(now.instant);
        }
        let Some(first) = self.sweeping else { return };
        let end = self.crowd.slots_end();
        let next = end.min(first + SLOTS_PER_TICK);
        for slot in first..next {
            self.look_at(slot as u32, now);
        }
        self.work.swept = next - first.min(next);
        self.sweeping = Some(next).filter(|next| *next < end);
    }

    fn look_at(&mut self, slot: u32, now: Now) {
        let moment = self.moment;
        let Some(connection) = self.crowd.get(slot) else { return };
        let overdue = self.patience.overdue(connection, moment);
        self.stats.outboxes.record(connection.outbox.bytes() as u64);
        if connection.blocked {
            // The kernel says when it takes more; if it has ever failed to, this is the way out.
            self.crowd.note_writable(slot);
        }
        match overdue {
            None => {}
            Some(Overdue::Request) => {
                self.counts.late += 1;
                self.crowd.time_out(slot, moment);
            }
            Some(Overdue::Answer) => {
                self.crowd.time_out(slot, moment);
                self.tell_closed(slot, now);
            }
            Some(Overdue::Goodbye) => self.crowd.doom(slot),
            Some(Overdue::Rest) => {
                self.dismiss(slot, 1008, "the rest of a frame did not come", now);
            }
            Some(Overdue::Sign) => {
                let Some(connection) = self.crowd.get(slot) else { return };
                connection.pings += 1;
                connection.wire.ping(&self.codec, &mut connection.outbox);
                self.crowd.note_output(slot);
            }
            Some(Overdue::Life) => {
                self.counts.silent += 1;
                self.dismiss(slot, 1001, "no sign of life", now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

    use mio::net::TcpStream;

    use super::*;
    use crate::config::origins::Origins;
    use crate::config::proxies::TrustedProxies;
    use crate::hub::interface::ConnId;
    use crate::wire::Codec;
    use crate::wire::handshake::{Readiness, Rules};
    use crate::wire::outbox::Outbox;

    const PATIENCE: Patience =
        Patience { handshake_lasts: Duration::from_secs(5), ping_every: Duration::from_secs(25) };

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(seconds))
    }

    fn connection() -> Connection {
        let home = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let listener = TcpListener::bind(SocketAddr::new(home, 0)).unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Connection::new(ConnId { slot: 0, serial: 1 }, socket, home, at(10))
    }

    #[test]
    fn a_request_has_its_time_from_the_first_moment_however_it_drips() {
        let mut connection = connection();
        connection.heard = at(14);
        assert_eq!(PATIENCE.overdue(&connection, at(14)), None);
        assert_eq!(PATIENCE.overdue(&connection, at(15)), Some(Overdue::Request));
        let never = Patience { handshake_lasts: crate::config::limits::NEVER, ..PATIENCE };
        assert_eq!(never.overdue(&connection, at(1_000_000)), None);
    }

    #[test]
    fn who_asks_how_a_call_is_waits_ten_seconds_and_is_not_pinged() {
        let (mut connection, mut outbox) = (connection(), Outbox::default());
        let (origins, proxies) = (Origins::any(), TrustedProxies::default());
        let (readiness, try_page, head_bytes_max) = (Readiness::Ready, false, 8192);
        let rules = Rules { readiness, try_page, origins, proxies, head_bytes_max };
        let mut request = *b"GET /calls/c HTTP/1.1\r\n\r\n";
        let (mut codec, mut input) = (Codec::new(1024, rules), &mut request[..]);
        connection.wire.next(&mut codec, &mut input, &mut outbox);
        assert!(connection.wire.is_asking() && outbox.is_empty());
        assert_eq!(PATIENCE.overdue(&connection, at(19)), None);
        assert_eq!(PATIENCE.overdue(&connection, at(20)), Some(Overdue::Answer));
        connection.wire.time_out(&mut outbox);
        assert!(connection.wire.is_closing() && !outbox.is_empty());
    }

    #[test]
    fn a_goodbye_has_three_seconds() {
        let mut connection = connection();
        connection.wire.close(1001, "", &mut Outbox::default());
        assert_eq!(PATIENCE.overdue(&connection, at(12)), None);
        assert_eq!(PATIENCE.overdue(&connection, at(13)), Some(Overdue::Goodbye));
    }
}

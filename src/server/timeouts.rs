//! Timeouts of connections: handshake, partial message, close, and ping.
//!
//! Connections have no timers. A sweep checks all of them once a second, some in each tick.

use std::time::Duration;

use super::Server;
use super::site_requests::BODY_TIMEOUT;
use crate::connection::{ActiveTime, Connection};
use crate::hub::interface::Now;

/// Interval of the sweep over all connections.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Slots checked in one tick. Each may be sent a ping, which is a system call.
const SLOTS_PER_TICK: usize = 512;
/// How long a client may take for the rest of a frame or a fragmented message.
const PARTIAL_MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a call status request may wait for its answer: an app woken by a push notification has
/// less time than the site may take.
const CALL_STATUS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a proxy may take for its PROXY protocol header. The protocol's specification advises at
/// least three seconds, since the packet may be lost once.
const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a closing connection may take to read its last bytes and close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Unanswered pings before the connection is closed.
const UNANSWERED_PINGS_MAX: u8 = 2;

/// Timeouts from the settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) handshake_lasts: Duration,
    pub(super) ping_every: Duration,
}

/// A timeout that a connection has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overdue {
    /// The request is not complete.
    Handshake,
    /// The call status request has no answer.
    CallStatus,
    /// The body of the site's plugin is not complete.
    Events,
    /// The peer has not closed its side.
    Close,
    /// The rest of a frame or message is missing.
    PartialMessage,
    /// It is time to send a ping.
    PingDue,
    /// The pings have no answer.
    Unresponsive,
}

impl Timeouts {
    /// Returns the timeout that a connection has reached, if any.
    fn overdue(&self, connection: &Connection, now: ActiveTime) -> Option<Overdue> {
        let elapsed = now.since(connection.since);
        let wire = &connection.wire;
        if wire.is_awaiting_proxy_header() {
            return (elapsed >= PROXY_HEADER_TIMEOUT).then_some(Overdue::Handshake);
        }
        if wire.is_awaiting_site() {
            return (elapsed >= self.handshake_lasts.min(BODY_TIMEOUT))
                .then_some(Overdue::Handshake);
        }
        if wire.is_receiving_events() {
            return (elapsed >= BODY_TIMEOUT).then_some(Overdue::Events);
        }
        if wire.is_in_handshake() {
            return (elapsed >= self.handshake_lasts).then_some(Overdue::Handshake);
        }
        if wire.is_awaiting_status() {
            return (elapsed >= CALL_STATUS_TIMEOUT).then_some(Overdue::CallStatus);
        }
        if wire.is_closing() {
            return (elapsed >= CLOSE_TIMEOUT).then_some(Overdue::Close);
        }
        if wire.has_partial_message() && elapsed >= PARTIAL_MESSAGE_TIMEOUT {
            return Some(Overdue::PartialMessage);
        }
        let pings = connection.pings;
        if now.since(connection.last_received) < self.ping_every * (u32::from(pings) + 1) {
            return None;
        }
        Some(if pings < UNANSWERED_PINGS_MAX { Overdue::PingDue } else { Overdue::Unresponsive })
    }
}

impl Server {
    /// Begins a sweep if it is due, and checks the next slots of a sweep in progress.
    pub(super) fn check_timeouts(&mut self, now: Now) {
        if self.sweep_next.is_none()
            && now.instant.duration_since(self.last_sweep) >= SWEEP_INTERVAL
        {
            self.last_sweep = now.instant;
            self.sweep_next = Some(0);
            self.admission.retry();
            self.metrics_listener.check_timeouts(now.instant);
        }
        let Some(first) = self.sweep_next else { return };
        let end = self.connections.slot_capacity();
        let next = end.min(first + SLOTS_PER_TICK);
        for slot in first..next {
            self.check_connection(slot as u32, now);
        }
        self.work.swept = next - first.min(next);
        self.sweep_next = Some(next).filter(|next| *next < end);
    }

    fn check_connection(&mut self, slot: u32, now: Now) {
        let active_now = self.active_now;
        let Some(connection) = self.connections.get(slot) else { return };
        let overdue = self.timeouts.overdue(connection, active_now);
        self.stats.outboxes.record(connection.outbox.bytes() as u64);
        if connection.blocked {
            // Retries the write, in case a writable event was missed.
            self.connections.note_writable(slot);
        }
        match overdue {
            None => {}
            Some(Overdue::Handshake) => {
                self.counts.late += 1;
                self.connections.time_out(slot, active_now);
            }
            Some(Overdue::CallStatus) => {
                self.connections.time_out(slot, active_now);
                self.notify_closed(slot, now);
            }
            Some(Overdue::Events) => self.time_out_events(slot, now),
            Some(Overdue::Close) => self.connections.mark_doomed(slot),
            Some(Overdue::PartialMessage) => {
                self.close_slot(slot, 1008, "the rest of a frame did not come", now);
            }
            Some(Overdue::PingDue) => {
                let Some(connection) = self.connections.get(slot) else { return };
                connection.pings += 1;
                connection.wire.ping(&self.codec, &mut connection.outbox);
                self.connections.note_output(slot);
            }
            Some(Overdue::Unresponsive) => {
                self.counts.silent += 1;
                self.close_slot(slot, 1001, "no sign of life", now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

    use mio::net::TcpStream;

    use super::*;
    use crate::config::limits::HeadLimits;
    use crate::config::origins::Origins;
    use crate::config::proxies::TrustedProxies;
    use crate::http::handshake::{Readiness, Rules};
    use crate::hub::interface::ConnId;
    use crate::wire::Codec;
    use crate::wire::outbox::Outbox;

    const TIMEOUTS: Timeouts =
        Timeouts { handshake_lasts: Duration::from_secs(5), ping_every: Duration::from_secs(25) };

    fn at(seconds: u64) -> ActiveTime {
        ActiveTime::from_start(Duration::from_secs(seconds))
    }

    fn connection() -> Connection {
        let home = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let listener = TcpListener::bind(SocketAddr::new(home, 0)).unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Connection::new(ConnId { slot: 0, serial: 1 }, socket, home, at(10))
    }

    #[test]
    fn request_timeout_runs_from_accept_despite_dripping() {
        let mut connection = connection();
        connection.last_received = at(14);
        assert_eq!(TIMEOUTS.overdue(&connection, at(14)), None);
        assert_eq!(TIMEOUTS.overdue(&connection, at(15)), Some(Overdue::Handshake));
        let never = Timeouts { handshake_lasts: crate::config::limits::NEVER, ..TIMEOUTS };
        assert_eq!(never.overdue(&connection, at(1_000_000)), None);
    }

    #[test]
    fn proxy_header_has_four_seconds_even_without_limits() {
        let never = Timeouts { handshake_lasts: crate::config::limits::NEVER, ..TIMEOUTS };
        let mut connection = connection();
        connection.wire.expect_proxy_header();
        assert_eq!(never.overdue(&connection, at(13)), None);
        assert_eq!(never.overdue(&connection, at(14)), Some(Overdue::Handshake));
    }

    #[test]
    fn call_status_request_waits_ten_seconds_without_pings() {
        let (mut connection, mut outbox) = (connection(), Outbox::default());
        let (origins, proxies) = (Origins::any(), TrustedProxies::default());
        let (readiness, try_page, head_limits) = (Readiness::Ready, false, HeadLimits::default());
        let rules =
            Rules { readiness, try_page, origins, proxies, head_limits, site_events: false };
        let mut request = *b"GET /calls/c HTTP/1.1\r\nHost: x\r\n\r\n";
        let (mut codec, mut input) = (Codec::new(1024, rules), &mut request[..]);
        connection.wire.next(&mut codec, &mut input, &mut outbox);
        assert!(connection.wire.is_awaiting_status() && outbox.is_empty());
        assert_eq!(TIMEOUTS.overdue(&connection, at(19)), None);
        assert_eq!(TIMEOUTS.overdue(&connection, at(20)), Some(Overdue::CallStatus));
        connection.wire.time_out(&mut outbox);
        assert!(connection.wire.is_closing() && !outbox.is_empty());
    }

    #[test]
    fn closing_handshake_has_three_seconds() {
        let mut connection = connection();
        connection.wire.close(1001, "", &mut Outbox::default());
        assert_eq!(TIMEOUTS.overdue(&connection, at(12)), None);
        assert_eq!(TIMEOUTS.overdue(&connection, at(13)), Some(Overdue::Close));
    }
}

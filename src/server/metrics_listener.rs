//! The listener for monitors, which are no clients: they are few, ask one thing, and hear it.
//!
//! It lives in the same loop, and apart from the crowd: a monitor is answered though there are as
//! many clients as may be. All that it can take is bounded: so many at a time, a head of so many
//! bytes, a few seconds, and one page of numbers in a tick.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::listeners::Listeners;
use super::{METRICS_TOKENS, Server};
use crate::config::Listen;
use crate::http::handshake::Readiness;
use crate::http::metrics_endpoint::{self, HEAD_BYTES_MAX, MetricsRequest};
use crate::hub::interface::Now;

/// Monitors at a time. One more takes the place of the one that has been there longest, or waits
/// in the kernel's queue until that one has had its time.
const CONNECTIONS_MAX: usize = 8;
/// Those that the kernel keeps meanwhile. Eight a second have their turn, whatever they are: with
/// as many as clients may be, a crowd that says nothing would keep a monitor out for minutes.
const METRICS_BACKLOG: i32 = 64;
/// What nobody takes from a monitor.
const EVICT_AFTER: Duration = Duration::from_secs(1);
/// How long a monitor may take, from accept to its end of the stream.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Listener number n has the token `LISTENER_TOKENS - n`.
const LISTENER_TOKENS: usize = METRICS_TOKENS + 2_048;
/// What a monitor may say after its request, before it is closed on.
const TRAILING_BYTES_MAX: usize = 16 * 1024;

/// The listener, if there is one, and who asks.
pub(super) struct MetricsListener {
    listeners: Listeners,
    /// Accepting has failed, as it does without descriptors; the next sweep lets it try again.
    accept_failed: bool,
    connections: [Option<MetricsConnection>; CONNECTIONS_MAX],
}

/// One monitor.
struct MetricsConnection {
    socket: TcpStream,
    since: Instant,
    /// Something has happened to its socket that has not been looked at.
    has_event: bool,
    state: State,
}

/// How far a monitor is.
enum State {
    /// Its request is not complete.
    Reading(Vec<u8>),
    /// It waits for the numbers, or only for the head of the answer.
    Ready { head_only: bool },
    /// It is answered; so many bytes have left.
    Writing(Vec<u8>, usize),
    /// Its end of the stream is awaited: closed earlier, what it has not read could be lost. It has
    /// said so many bytes since.
    Lingering(usize),
}

impl MetricsListener {
    /// Listens, if an address is given.
    ///
    /// # Errors
    ///
    /// It cannot be listened on.
    pub(super) fn bind(
        listen: Option<&Listen>,
        registry: &Registry,
    ) -> io::Result<MetricsListener> {
        let addresses = listen.map(Listen::resolve).transpose().map_err(io::Error::other)?;
        let addresses = addresses.unwrap_or_default();
        let listeners = Listeners::bind(&addresses, METRICS_BACKLOG, registry, LISTENER_TOKENS)?;
        for address in listeners.addresses() {
            log::info!("metrics on http://{address}/metrics");
            if !address.ip().is_loopback() {
                log::warn!(
                    "--metrics-listen {address}: whoever reaches this address reads the numbers; \
                     expected is 127.0.0.1, or a firewall in front"
                );
            }
        }
        Ok(MetricsListener {
            listeners,
            accept_failed: false,
            connections: std::array::from_fn(|_| None),
        })
    }

    /// Notes an event, which is looked at at the end of the tick.
    pub(super) fn handle_event(&mut self, token: usize) {
        match self.connections.get_mut(token - METRICS_TOKENS) {
            Some(connection) => {
                connection.iter_mut().for_each(|connection| connection.has_event = true)
            }
            None => self.listeners.note_ready(LISTENER_TOKENS - token),
        }
    }

    /// Whether the next tick has something to do without any event.
    pub(super) fn has_pending_work(&self) -> bool {
        let can_accept = self.has_more() && self.connections.iter().any(Option::is_none);
        can_accept
            || self
                .connections
                .iter()
                .flatten()
                .any(|connection| connection.has_event || connection.is_ready())
    }

    fn has_more(&self) -> bool {
        self.listeners.has_more() && !self.accept_failed
    }

    /// Sends those away who take too long.
    pub(super) fn check_timeouts(&mut self, now: Instant) {
        self.accept_failed = false;
        for slot in &mut self.connections {
            if slot.as_ref().is_some_and(|connection| connection.age(now) >= TIMEOUT) {
                *slot = None;
            }
        }
    }

    /// Accepts, reads, and writes what is there to write.
    fn advance(&mut self, registry: &Registry, readiness: Readiness, now: Instant) {
        self.accept(registry, now);
        for slot in &mut self.connections {
            let Some(connection) = slot else { continue };
            if std::mem::take(&mut connection.has_event) && !connection.advance(readiness) {
                *slot = None;
            }
        }
    }

    /// Accepts as long as there is somebody and a place; the rest is tried again in each tick.
    fn accept(&mut self, registry: &Registry, now: Instant) {
        while self.has_more() {
            let Some(slot) = self.slot(now) else { return };
            let accepted = self.listeners.accept();
            self.accept_failed = accepted.is_err();
            let Ok(Some((mut socket, _))) = accepted else { return };
            let both = Interest::READABLE | Interest::WRITABLE;
            if registry.register(&mut socket, Token(METRICS_TOKENS + slot), both).is_ok() {
                let state = State::Reading(Vec::new());
                self.connections[slot] =
                    Some(MetricsConnection { socket, since: now, has_event: true, state });
            }
        }
    }

    /// A free place, or that of who has been there longest and long enough.
    fn slot(&self, now: Instant) -> Option<usize> {
        let places = self.connections.iter().enumerate();
        let age = |connection: &Option<MetricsConnection>| {
            connection.as_ref().map_or(Duration::MAX, |connection| connection.age(now))
        };
        let (slot, connection) = places.max_by_key(|(_, connection)| age(connection))?;
        (age(connection) >= EVICT_AFTER).then_some(slot)
    }

    /// Who waits for the numbers, the one that has waited longest.
    fn next_ready(&mut self) -> Option<&mut Option<MetricsConnection>> {
        let is_ready = |slot: &&mut Option<MetricsConnection>| {
            slot.as_ref().is_some_and(MetricsConnection::is_ready)
        };
        self.connections
            .iter_mut()
            .filter(is_ready)
            .min_by_key(|slot| slot.as_ref().map(|connection| connection.since))
    }
}

impl MetricsConnection {
    fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Reads and writes as far as it goes; false when the connection is over.
    fn advance(&mut self, readiness: Readiness) -> bool {
        self.read(readiness) && self.write()
    }

    fn read(&mut self, readiness: Readiness) -> bool {
        let mut piece = [0; 1024];
        loop {
            let bytes = match self.socket.read(&mut piece) {
                Ok(0) => return matches!(self.state, State::Ready { .. } | State::Writing(..)),
                Ok(bytes) => bytes,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
                Err(fault) => return fault.kind() == io::ErrorKind::WouldBlock,
            };
            match &mut self.state {
                State::Reading(head) => {
                    head.extend_from_slice(&piece[..bytes]);
                    debug_assert!(head.len() < HEAD_BYTES_MAX + piece.len());
                    match metrics_endpoint::receive(head, readiness) {
                        MetricsRequest::Incomplete => {}
                        MetricsRequest::Metrics { head_only } => {
                            self.state = State::Ready { head_only }
                        }
                        MetricsRequest::Respond(response) => {
                            self.state = State::Writing(response.into_bytes(), 0);
                        }
                    }
                }
                // It has said what there is to say: its next event finds the rest.
                State::Ready { .. } | State::Writing(..) => return true,
                State::Lingering(said) => {
                    *said += bytes;
                    if *said > TRAILING_BYTES_MAX {
                        return false;
                    }
                }
            }
        }
    }

    fn write(&mut self) -> bool {
        let State::Writing(response, sent) = &mut self.state else { return true };
        while *sent < response.len() {
            match self.socket.write(&response[*sent..]) {
                Ok(0) => return false,
                Ok(bytes) => *sent += bytes,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) => return fault.kind() == io::ErrorKind::WouldBlock,
            }
        }
        self.state = State::Lingering(0);
        // What it has said already may have been read over: its end of the stream among it.
        self.has_event = true;
        self.socket.shutdown(Shutdown::Write).is_ok()
    }
}

impl Server {
    /// Serves the monitors, at the end of a tick, when all is counted.
    pub(super) fn serve_metrics(&mut self, now: Now) {
        let metrics_listener = &self.metrics_listener;
        if !metrics_listener.listeners.has_more()
            && metrics_listener.connections.iter().all(Option::is_none)
        {
            return;
        }
        let readiness = self.readiness(now.instant);
        self.metrics_listener.advance(self.poll.registry(), readiness, now.instant);
        if self.metrics_listener.next_ready().is_none() {
            return;
        }
        let page = self.metrics_page(now);
        let Some(slot) = self.metrics_listener.next_ready() else { return };
        if let Some(connection) = slot {
            let head_only = matches!(connection.state, State::Ready { head_only: true });
            let response = metrics_endpoint::metrics(&page, head_only);
            connection.state = State::Writing(response.into_bytes(), 0);
            if !connection.write() {
                *slot = None;
            }
        }
    }
}

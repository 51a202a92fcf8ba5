//! The metrics listener: serves `GET /metrics` and health checks to monitors.
//!
//! It runs in the same loop but apart from the clients' connections, so that monitors are answered
//! even when `--max-connections` is reached. Its use of resources is bounded: a few connections at
//! a time, a limited request head, a few seconds each, and one metrics page per tick.

use std::io;
use std::time::{Duration, Instant};

use mio::{Interest, Registry, Token};

use super::listeners::{BindOptions, Listeners};
use super::{METRICS_TOKENS, Server};
use crate::config::Config;
use crate::connection::Stream;
use crate::http::handshake::Readiness;
use crate::http::metrics_endpoint::{self, HEAD_BYTES_MAX, MetricsRequest};
use crate::hub::interface::Now;
use crate::process;

/// Concurrent monitors. A further one replaces the oldest once that is [`EVICT_AFTER`] old, and
/// waits in the kernel's queue until then.
const CONNECTIONS_MAX: usize = 8;
/// Backlog. At least eight connections per second are served or replaced; with the clients'
/// backlog, connections that send nothing could keep a monitor out for minutes.
const METRICS_BACKLOG: i32 = 64;
/// Time that each monitor has before another may replace it.
const EVICT_AFTER: Duration = Duration::from_secs(1);
/// How long a monitor may take, from accept to its end of stream.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Listener number n has the token `LISTENER_TOKENS - n`.
const LISTENER_TOKENS: usize = METRICS_TOKENS + 2_048;
/// Bytes that a monitor may send after its request before it is closed.
const TRAILING_BYTES_MAX: usize = 16 * 1024;

/// The listener, if one is configured, and its connections.
pub(super) struct MetricsListener {
    listeners: Listeners,
    /// Accepting has failed, for example for lack of descriptors; the next sweep of timeouts
    /// retries.
    accept_failed: bool,
    connections: [Option<MetricsConnection>; CONNECTIONS_MAX],
}

/// Connection of one monitor.
struct MetricsConnection {
    socket: Stream,
    since: Instant,
    /// Its socket has an event that is not handled yet.
    has_event: bool,
    state: State,
}

/// Progress of a monitor's request.
enum State {
    /// Its request is not complete.
    Reading(Vec<u8>),
    /// It waits for the metrics page, or only for the head of the response.
    Ready { head_only: bool },
    /// The response, and how many of its bytes are sent.
    Writing(Vec<u8>, usize),
    /// Its end of stream is awaited, because closing earlier could lose what it has not read.
    /// Counts the bytes that it has sent since.
    Lingering(usize),
}

impl MetricsListener {
    /// Listens on `--metrics-listen`, if it is set.
    ///
    /// # Errors
    ///
    /// The address cannot be bound.
    pub(super) fn bind(config: &Config, registry: &Registry) -> io::Result<MetricsListener> {
        let options = BindOptions::new(config, METRICS_BACKLOG);
        let listeners =
            Listeners::bind(&config.metrics_listen, &options, registry, LISTENER_TOKENS)?;
        let own = process::resident_kib(std::process::id());
        if let (Err(fault), false) = (own, config.metrics_listen.is_empty()) {
            log::warn!(
                "/proc cannot be read ({fault}): the metrics process_resident_memory_bytes and \
                 process_cpu_seconds_total have no values"
            );
        }
        listeners.log_plain_http(
            "metrics",
            "/metrics",
            "--metrics-listen",
            "anyone who can reach this address can read the metrics; use 127.0.0.1, or protect it \
             by a firewall",
        );
        Ok(MetricsListener {
            listeners,
            accept_failed: false,
            connections: std::array::from_fn(|_| None),
        })
    }

    /// Records an event, which is handled at the end of the tick.
    pub(super) fn handle_event(&mut self, token: usize) {
        match self.connections.get_mut(token - METRICS_TOKENS) {
            Some(connection) => {
                connection.iter_mut().for_each(|connection| connection.has_event = true)
            }
            None => self.listeners.note_ready(LISTENER_TOKENS - token),
        }
    }

    /// Whether the next tick has work to do without any event.
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

    /// Closes connections that take too long, and retries accepting.
    pub(super) fn check_timeouts(&mut self, now: Instant) {
        self.accept_failed = false;
        for slot in &mut self.connections {
            if slot.as_ref().is_some_and(|connection| connection.age(now) >= TIMEOUT) {
                *slot = None;
            }
        }
    }

    /// Accepts connections and handles events.
    fn advance(&mut self, registry: &Registry, readiness: Readiness, now: Instant) {
        self.accept(registry, now);
        for slot in &mut self.connections {
            let Some(connection) = slot else { continue };
            if std::mem::take(&mut connection.has_event) && !connection.advance(readiness) {
                *slot = None;
            }
        }
    }

    /// Accepts connections while there are slots; the others are tried again in each tick.
    fn accept(&mut self, registry: &Registry, now: Instant) {
        while self.has_more() {
            let Some(slot) = self.free_slot(now) else { return };
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

    /// Returns a free slot, or that of the oldest connection if it may be replaced.
    fn free_slot(&self, now: Instant) -> Option<usize> {
        let slots = self.connections.iter().enumerate();
        let age = |connection: &Option<MetricsConnection>| {
            connection.as_ref().map_or(Duration::MAX, |connection| connection.age(now))
        };
        let (slot, connection) = slots.max_by_key(|(_, connection)| age(connection))?;
        (age(connection) >= EVICT_AFTER).then_some(slot)
    }

    /// Returns the oldest connection that waits for the metrics page.
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

    /// Reads and writes until the socket would block; false when the connection is over.
    fn advance(&mut self, readiness: Readiness) -> bool {
        self.read(readiness) && self.write()
    }

    fn read(&mut self, readiness: Readiness) -> bool {
        let mut piece = [0; 1024];
        loop {
            let bytes = match self.socket.recv(&mut piece) {
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
                // The request is complete; further input is read while lingering.
                State::Ready { .. } | State::Writing(..) => return true,
                State::Lingering(trailing) => {
                    *trailing += bytes;
                    if *trailing > TRAILING_BYTES_MAX {
                        return false;
                    }
                }
            }
        }
    }

    fn write(&mut self) -> bool {
        let State::Writing(response, sent) = &mut self.state else { return true };
        while *sent < response.len() {
            match self.socket.send(&response[*sent..]) {
                Ok(0) => return false,
                Ok(bytes) => *sent += bytes,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) => return fault.kind() == io::ErrorKind::WouldBlock,
            }
        }
        self.state = State::Lingering(0);
        // Its end of stream may have arrived already, without being read.
        self.has_event = true;
        self.socket.shut_down_write().is_ok()
    }
}

impl Server {
    /// Serves monitors at the end of a tick, when its counts are complete.
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

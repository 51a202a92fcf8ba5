//! Input of a tick: events, new connections, reads, answers of the site, and the hub's timers.

use std::time::Duration;

use mio::Token;
use mio::event::Event;

use super::budget::TimeBudget;
use super::query_log::AnswerLog;
use super::read_batch::{READ_BYTES, ReadChunk};
use super::{
    LISTENER_TOKENS, METRICS_TOKENS, SIGNALS, SITE_LISTENER_TOKENS, Server, WAKER, listeners,
};
use crate::config::proxies::Peer;
use crate::connection::Received;
use crate::connection::rate::RateVerdict;
use crate::http::call_status::CallStatusRequest;
use crate::http::handshake::Opened;
use crate::http::response;
use crate::hub::interface::{ConnId, Input, Now};
use crate::protocol::ClientError;
use crate::protocol::credential::Credential;
use crate::wire;

/// Connections accepted in one tick.
const ACCEPTS_PER_TICK: usize = 64;
/// Answers of the site processed in one tick.
const ANSWERS_PER_TICK: usize = 256;
/// Timers run in one tick; each may send to all connections.
const TIMERS_PER_TICK: usize = 64;
/// Time budgets of a tick for answers and timers.
const ANSWERS_BUDGET: Duration = Duration::from_millis(4);
const TIMERS_BUDGET: Duration = Duration::from_millis(4);
/// Deliveries that one connection may cause in one tick. One frame may exceed it. It leaves time to
/// read the other connections.
const DELIVERIES_PER_READ: u64 = 16_000;

impl Server {
    pub(super) fn handle_event(&mut self, event: &Event, now: Now) {
        match event.token() {
            // Answers are collected in every tick; the waker only ends the poll.
            WAKER => {}
            SIGNALS => self.handle_signals(now),
            Token(listener) if listener > LISTENER_TOKENS - self.listeners.len() => {
                self.listeners.note_ready(LISTENER_TOKENS - listener);
            }
            Token(token) if token >= METRICS_TOKENS => self.metrics_listener.handle_event(token),
            Token(token) if token > SITE_LISTENER_TOKENS - self.site_requests.listeners.len() => {
                self.site_requests.listeners.note_ready(SITE_LISTENER_TOKENS - token);
            }
            Token(slot) => {
                let slot = slot as u32;
                if event.is_writable() {
                    if let Some(reader) = self.connections.get(slot).filter(|reader| reader.blocked)
                    {
                        // A peer that drains its socket is alive; a ping would queue behind the
                        // data.
                        (reader.last_received, reader.pings) = (self.active_now, 0);
                    }
                    self.connections.note_writable(slot);
                }
                let ends = event.is_read_closed() || event.is_error();
                if event.is_readable() || ends {
                    self.read(slot, ends, now);
                }
            }
        }
    }

    pub(super) fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_TICK {
            let open = self.connections.len();
            if !self.listeners.has_more() || !self.admission.is_open(open) {
                return;
            }
            let (socket, peer) = match self.listeners.accept() {
                Ok(Some(accepted)) => accepted,
                Ok(None) => return,
                Err(fault) => {
                    self.counts.accept_errors += 1;
                    return self.admission.pause_after_error(open, &fault);
                }
            };
            // Before the TLS handshake no response can be sent, so the socket is only closed.
            let plain = self.identity.is_none();
            if open >= self.admission.connections_max {
                self.counts.refused += 1;
                listeners::refuse(&socket, plain.then(response::too_many_connections));
                continue;
            }
            let counted = self.admission.is_counted(peer);
            if counted && !self.admission.admit(peer) {
                self.counts.refused += 1;
                self.counts.refused_address += 1;
                listeners::refuse(&socket, plain.then(response::too_many_from_address));
                continue;
            }
            self.counts.accepted += 1;
            self.work.accepted += 1;
            let awaits_proxy_header = self.expects_proxy_header(peer);
            let identity = self.identity.as_ref();
            match self.connections.add(socket, peer, counted, identity, self.active_now) {
                Ok(connection) if awaits_proxy_header => connection.wire.expect_proxy_header(),
                Ok(_) => {}
                Err(fault) => {
                    log::warn!("cannot register a connection: {fault}");
                    if counted {
                        self.admission.release(peer);
                    }
                }
            }
        }
    }

    /// Reads one connection once, for [`Server::process_reads`]. A short read means that the socket
    /// is drained, unless the event announced the peer's end of stream, which is still to be read.
    /// No connection is read twice before the batch is processed.
    pub(super) fn read(&mut self, slot: u32, ends: bool, now: Now) {
        if self.connections.get(slot).is_none_or(|connection| connection.read_pending) {
            return;
        }
        if self.read_budget.was_exhausted() || self.is_handshake_deferred(slot) {
            return self.connections.defer_read(slot);
        }
        let awaits_proxy_header =
            self.connections.get(slot).is_some_and(|reader| reader.wire.is_awaiting_proxy_header());
        if awaits_proxy_header && !self.read_proxy_header(slot, now) {
            return;
        }
        let room = self.read_batch.spare();
        let unread = self.connections.take_unread(slot, room);
        let received = match unread {
            Some(bytes) => Received::Bytes(bytes),
            None => self.connections.receive(slot, room),
        };
        let bytes = match received {
            Received::Bytes(bytes) => bytes,
            Received::Nothing => return,
            Received::End => {
                self.note_tls_fault(slot);
                self.note_truncated_events(slot);
                return self.connections.mark_doomed(slot);
            }
        };
        if unread.is_none() {
            self.stats.received_bytes += bytes as u64;
        }
        if bytes == READ_BYTES || ends || unread.is_some() {
            self.connections.requeue_read(slot);
        }
        self.read_batch.note(slot, bytes);
        if self.read_batch.is_full() {
            self.process_reads(now);
        }
    }

    /// Processes the batch of reads.
    pub(super) fn process_reads(&mut self, now: Now) {
        // Taken, because processing borrows the whole server.
        let mut read_batch = std::mem::take(&mut self.read_batch);
        for ReadChunk { slot, range } in &read_batch.chunks {
            self.process_input(*slot, &mut read_batch.buffer[range.clone()], now);
        }
        read_batch.clear();
        self.read_batch = read_batch;
    }

    /// Processes the input of one connection, up to its share of the tick.
    fn process_input(&mut self, slot: u32, mut input: &mut [u8], now: Now) {
        let Some(connection) = self.connections.get(slot) else { return };
        connection.last_received = self.active_now;
        connection.pings = 0;
        if connection.wire.is_between_messages() {
            // These bytes begin a message.
            connection.since = self.active_now;
        }
        if self.read_budget.is_exhausted(self.connections.sent) {
            // There was time to read the input but not to process it.
            self.connections.defer_read(slot);
            return self.connections.keep_unread(slot, input);
        }
        let delivery_limit = self.connections.sent + DELIVERIES_PER_READ;
        while self.process_next(slot, &mut input, now) && !input.is_empty() {
            if self.connections.sent >= delivery_limit
                || self.read_budget.is_exhausted(self.connections.sent)
            {
                self.connections.keep_unread(slot, input);
                break;
            }
        }
        self.connections.note_output(slot);
    }

    /// Processes the next request or frame of a connection; false when there is no more.
    fn process_next(&mut self, slot: u32, input: &mut &mut [u8], now: Now) -> bool {
        let Some(connection) = self.connections.get(slot) else {
            return false;
        };
        let conn = connection.id;
        let held_before = connection.wire.held_bytes();
        let event = connection.wire.next(&mut self.codec, input, &mut connection.outbox);
        let held_after = connection.wire.held_bytes();
        // A ping between two fragments of a message does not extend the time for its rest.
        if !matches!(event, wire::Event::NeedsInput) && !connection.wire.has_partial_message() {
            connection.since = self.active_now;
        }
        let verdict = if event.is_frame() {
            self.work.frames += 1;
            self.rate.check(&mut connection.rate_state, self.since_start)
        } else {
            RateVerdict::Accepted
        };
        self.connections.note_held(held_before, held_after);
        if verdict == RateVerdict::Refused {
            self.counts.rate_limited += 1;
        }
        match (event, verdict) {
            (_, RateVerdict::Flood) => return self.close_flooder(slot, now),
            (wire::Event::Text(text), RateVerdict::Accepted) => {
                self.hub.handle(Input::Frame { conn, text: &text }, now);
            }
            (wire::Event::Text(text), RateVerdict::Refused) => {
                self.hub.handle(Input::RateLimited { conn, text: Some(&text) }, now);
            }
            (_, RateVerdict::Refused) => {
                self.hub.handle(Input::RateLimited { conn, text: None }, now)
            }
            (wire::Event::Binary(_), _) => self.hub.handle(Input::Binary { conn }, now),
            (wire::Event::Control, _) => {
                self.stats.control += 1;
                return true;
            }
            (wire::Event::NeedsInput, _) => return false,
            (wire::Event::Opened(opened), _) => self.handle_open(slot, opened, now),
            (wire::Event::CallStatusRequest(request), _) => {
                self.handle_call_status(slot, request, now)
            }
            (wire::Event::OriginRefused { origin }, _) => {
                self.counts.refused_pages += 1;
                self.origin_warnings.note(&origin, now.instant);
            }
            (wire::Event::EventsAnnounced, _) => self.admit_events(slot, now),
            (wire::Event::EventsReceived { signature, body }, _) => {
                self.handle_events(slot, &signature, &body, now);
            }
            (wire::Event::TestArrival { token }, _) => self.answer_test_arrival(slot, &token),
            (wire::Event::SiteRefused { cause }, _) => self.note_site_refusal(slot, cause),
            (wire::Event::Closing, _) => self.notify_closed(slot, now),
        }
        self.apply_effects(now);
        true
    }

    /// Closes a connection that keeps exceeding the rate limit after errors have told it so.
    fn close_flooder(&mut self, slot: u32, now: Now) -> bool {
        self.counts.floods += 1;
        self.close_slot(slot, 1008, "too many frames", now);
        self.apply_effects(now);
        false
    }

    /// Admits a connection whose WebSocket handshake is complete; the response is not sent yet.
    fn handle_open(&mut self, slot: u32, Opened { client, credential }: Opened, now: Now) {
        let Some(conn) = self.admit(slot, client) else { return };
        log::debug!(connection = conn.serial; "open from {client}");
        let credential = self.without_site_password(credential);
        self.hub.handle(Input::Opened { conn, credential }, now);
    }

    /// Passes a call status request to the hub, which may answer it later.
    fn handle_call_status(&mut self, slot: u32, status_request: CallStatusRequest, now: Now) {
        let CallStatusRequest { client, credential, call } = status_request;
        if let Some(conn) = self.admit(slot, client) {
            log::debug!(connection = conn.serial; "call status request from {client}");
            let credential = self.without_site_password(credential);
            self.hub.handle(Input::CallStatusRequest { conn, credential, call }, now);
        }
    }

    /// Drops the password of the site's web server, which a browser sends along if the proxy in
    /// front asks for it: it is no member's.
    fn without_site_password(
        &self,
        credential: Option<Result<Credential, ClientError>>,
    ) -> Option<Result<Credential, ClientError>> {
        credential.filter(|credential| match (credential, &self.site_password) {
            (Ok(credential), Some(password)) => credential != password,
            _ => true,
        })
    }

    /// Counts a connection against its client's address and marks it as known to the hub. If the
    /// address is at its limit, refuses the connection and returns `None`.
    fn admit(&mut self, slot: u32, client: Peer) -> Option<ConnId> {
        let connection = self.connections.get(slot)?;
        // A socket whose peer is a proxy was not counted when it was accepted.
        let counts = !connection.counts_for_address && self.admission.is_counted(client);
        connection.client = client;
        connection.counts_for_address |= counts;
        if counts && !self.admission.admit(client) {
            connection.counts_for_address = false;
            self.counts.refused += 1;
            self.counts.refused_address += 1;
            self.connections.refuse(slot, response::too_many_from_address(), self.active_now);
            return None;
        }
        connection.registered = true;
        Some(connection.id)
    }

    pub(super) fn collect_answers(&mut self, now: Now) {
        let mut budget = TimeBudget::new(ANSWERS_BUDGET, self.connections.sent);
        for _ in 0..ANSWERS_PER_TICK {
            if budget.is_exhausted(self.connections.sent) {
                return;
            }
            let Some((request, answer)) = self.upstream.next_answer() else {
                return;
            };
            self.work.answers += 1;
            let answer_log = AnswerLog::new(&self.hub, request, &answer);
            self.hub.handle(Input::Answered { request, answer }, now);
            answer_log.inspect(|answer_log| answer_log.log_answer(&self.hub));
            self.apply_effects(now);
        }
    }

    /// Tells the hub when the site becomes available or unavailable.
    pub(super) fn notice_availability(&mut self, now: Now) {
        let available = self.upstream.is_available();
        if std::mem::replace(&mut self.site_available, available) != available {
            self.hub.handle(Input::SiteAvailable(available), now);
        }
    }

    pub(super) fn run_timers(&mut self, now: Now) {
        let mut budget = TimeBudget::new(TIMERS_BUDGET, self.connections.sent);
        for _ in 0..TIMERS_PER_TICK {
            if budget.is_exhausted(self.connections.sent) || !self.hub.advance(now) {
                return;
            }
            self.work.timers += 1;
            self.apply_effects(now);
        }
    }
}

//! The event loop: one thread and one poll for all sockets.
//!
//! Each tick polls, reads the clock once, reads sockets and collects the site's answers within
//! their time budgets, passes both to the hub, and then flushes each connection that has output
//! with one gathered write. A connection that a budget has stopped comes first in the next tick,
//! which then does not sleep.

mod admission;
mod budget;
mod connections;
mod drain;
mod fanout_queue;
mod input;
mod listeners;
mod metrics_listener;
mod metrics_page;
mod proxy_headers;
mod query_log;
mod read_batch;
mod reload;
mod replay_memory;
mod service_manager;
mod setup;
mod signals;
mod site_requests;
mod stats;
mod timeouts;
mod tls;
mod unix_socket;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mio::{Events, Poll, Token, Waker};
use signal_hook_mio::v1_0::Signals;

use crate::config::Config;
use crate::config::tls::TlsIdentity;
use crate::connection::ActiveTime;
use crate::connection::rate::RateLimit;
use crate::hub::Hub;
use crate::hub::interface::{ConnId, Effect, Input, Now};
use crate::protocol::credential::Credential;
use crate::protocol::frame_kind::ServerFrameKind;
use crate::protocol::status::CallStatusReply;
use crate::upstream::Upstream;
use crate::upstream::jwt::Verifier;
use crate::wire::Codec;
use admission::{Admission, OriginWarnings};
use budget::{ActiveClock, SlowTicks, TickWork, TimeBudget};
use connections::Connections;
use drain::Drain;
pub use listeners::InheritedSocket;
use listeners::{BACKLOG, BindOptions, Listeners};
use metrics_listener::MetricsListener;
use read_batch::ReadBatch;
pub use reload::ConfigSource;
use service_manager::ServiceManager;
use site_requests::SiteRequests;
use stats::ServerStats;
use timeouts::{SWEEP_INTERVAL, Timeouts};

/// Events taken from one poll: enough to batch frames of one thread that arrive together, and few
/// enough that the first is not delayed by the last.
const EVENTS_PER_TICK: usize = 1024;
/// How long a tick may read. The budgets of all phases add up to about half of
/// [`budget::SLOW_TICK`], since the last step of a phase may be a long one.
const READ_BUDGET: Duration = Duration::from_millis(8);
/// For connections with output that is not in the fan-out queue.
const FLUSH_BUDGET: Duration = Duration::from_millis(6);
/// For one part of a round through the fan-out queue.
const FANOUT_FLUSH_BUDGET: Duration = Duration::from_micros(250);
/// While the fan-out queue is backlogged, a tick reads less and writes more.
const READ_BUDGET_BACKLOGGED: Duration = Duration::from_millis(1);
const FANOUT_FLUSH_BUDGET_BACKLOGGED: Duration = Duration::from_millis(12);
/// For TLS handshakes: one signature takes from 0.1 ms to a few milliseconds.
const TLS_HANDSHAKE_BUDGET: Duration = Duration::from_millis(4);
const REAP_BUDGET: Duration = Duration::from_millis(4);
/// A tick that has done less than this is not timed.
const MIN_WORK_TO_TIME: usize = 64;

const WAKER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);
/// Listener number n has the token `LISTENER_TOKENS - n`.
const LISTENER_TOKENS: usize = usize::MAX - 2;
/// The tokens from here to `LISTENER_TOKENS` belong to the metrics listener.
const METRICS_TOKENS: usize = usize::MAX - 4_096;
/// Listener number n for the site's plugin has the token `SITE_LISTENER_TOKENS - n`.
const SITE_LISTENER_TOKENS: usize = METRICS_TOKENS - 1;

/// The server. The one thread that runs it owns all its state.
pub struct Server {
    poll: Poll,
    events: Events,
    signals: Option<Signals>,
    listeners: Listeners,
    connections: Connections,
    admission: Admission,
    timeouts: Timeouts,
    rate: RateLimit,
    codec: Codec,
    hub: Hub,
    upstream: Upstream,
    /// Whether requests reach the site, as the hub knows.
    site_available: bool,
    read_batch: ReadBatch,
    origin_warnings: OriginWarnings,
    proxy_header_warned: Option<Instant>,
    metrics_listener: MetricsListener,
    site_requests: SiteRequests,
    counts: ServerCounters,
    stats: ServerStats,
    slow_ticks: SlowTicks,
    started: Instant,
    /// Wall time of this tick since the start.
    since_start: Duration,
    active_clock: ActiveClock,
    /// Time of this tick by the active clock.
    active_now: ActiveTime,
    work: TickWork,
    read_budget: TimeBudget,
    /// The part of the read budget for TLS handshakes.
    tls_budget: TimeBudget,
    identity: Option<TlsIdentity>,
    /// The password of the site's web server, which proves no member.
    site_password: Option<Credential>,
    last_sweep: Instant,
    /// The next slot to check, while a sweep of timeouts is in progress.
    sweep_next: Option<usize>,
    /// The settings in force; a reload replaces them.
    config: Config,
    /// The source from which a reload reads new settings.
    source: Option<Box<dyn ConfigSource>>,
    service_manager: ServiceManager,
    /// Set once the server has begun to drain.
    draining: Option<Drain>,
}

/// Event counts, for the log line at the end and for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerCounters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections refused at a limit.
    pub refused: u64,
    /// Of these, connections refused at the limit of their address.
    pub refused_address: u64,
    /// Requests that did not arrive within the handshake timeout.
    pub late: u64,
    /// Connections of trusted proxies without a valid PROXY protocol header.
    pub bad_proxy_headers: u64,
    /// Connections of web pages whose origin is not allowed.
    pub refused_pages: u64,
    /// Failed `accept` calls, for example when descriptors run out.
    pub accept_errors: u64,
    /// Frames put into outboxes.
    pub sent: u64,
    /// Frames and outcomes for connections that were already closed.
    pub stale: u64,
    /// Connections closed as slow readers.
    pub overflowed: u64,
    /// Droppable frames that were not queued for slow readers.
    pub missed: u64,
    /// Frames refused by the rate limit.
    pub rate_limited: u64,
    /// Connections closed for exceeding the rate limit persistently.
    pub floods: u64,
    /// Connections closed because they answered no ping.
    pub silent: u64,
    /// Failed TLS handshakes, and TLS sessions ended by an error of the peer.
    pub tls_faults: u64,
    /// Ticks that took longer than 50 ms.
    pub slow_ticks: u64,
}

impl Server {
    /// Listens on `--listen` and starts the upstream; [`Server::run`] runs the loop.
    ///
    /// # Errors
    ///
    /// An address cannot be bound, a secret or a certificate cannot be read, or the system is out
    /// of descriptors or threads.
    pub fn bind(config: &Config) -> io::Result<Server> {
        Server::start(config, Vec::new())
    }

    /// Like [`Server::bind`], on inherited listening sockets instead of `--listen` if there are
    /// any. Clients that connect during a restart wait in the queues of these sockets.
    ///
    /// # Errors
    ///
    /// As for [`Server::bind`].
    pub fn start(config: &Config, inherited: Vec<InheritedSocket>) -> io::Result<Server> {
        let limits = config.limits();
        let now = clock();
        let started = now.instant;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let listeners = match inherited.is_empty() {
            true => {
                let options = BindOptions::new(config, BACKLOG);
                Listeners::bind(&config.listen, &options, poll.registry(), LISTENER_TOKENS)?
            }
            false => Listeners::inherit(inherited, poll.registry(), LISTENER_TOKENS)?,
        };
        let metrics_listener = MetricsListener::bind(config, poll.registry())?;
        let site_keys = setup::site_keys(config.site_secret().map_err(io::Error::other)?.as_ref());
        let site_requests = SiteRequests::bind(config, site_keys.clone(), poll.registry())?;
        let upstream = match &config.buddyboss_url {
            None => Upstream::embedded(),
            Some(url) => setup::upstream(config, url, site_keys, waker, started)?,
        };
        let site_password = config.site_password_with_warnings().map_err(io::Error::other)?;
        let turn_secret = config.turn_secret().map_err(io::Error::other)?;
        Ok(Server {
            events: Events::with_capacity(EVENTS_PER_TICK),
            signals: None,
            listeners,
            connections: Connections::new(
                setup::buffer_limits(&limits),
                poll.registry().try_clone()?,
            ),
            admission: setup::admission(config)?,
            timeouts: setup::timeouts(&limits),
            rate: RateLimit::new(limits.max_frames_per_second, limits.max_frames_burst),
            codec: setup::codec(config, site_requests.is_public()),
            hub: Hub::new(setup::hub_settings(config, turn_secret)),
            upstream,
            site_available: true,
            read_batch: ReadBatch::new(),
            origin_warnings: OriginWarnings::default(),
            proxy_header_warned: None,
            metrics_listener,
            site_requests,
            counts: ServerCounters::default(),
            stats: ServerStats::new(now),
            slow_ticks: SlowTicks::default(),
            started,
            since_start: Duration::ZERO,
            active_clock: ActiveClock::new(started),
            active_now: ActiveTime::default(),
            work: TickWork::default(),
            read_budget: TimeBudget::new(READ_BUDGET, 0),
            tls_budget: TimeBudget::new(TLS_HANDSHAKE_BUDGET, 0),
            identity: config.tls().map_err(io::Error::other)?,
            site_password: site_password.and_then(|(read, _)| setup::site_credential(&read)),
            last_sweep: started,
            sweep_next: None,
            config: config.clone(),
            source: None,
            service_manager: ServiceManager::from_env(started),
            draining: None,
            poll,
        })
    }

    /// The addresses that the server listens on, with the port that the system chose for port 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.addresses()
    }

    /// The Unix sockets that the server listens on.
    pub fn socket_paths(&self) -> Vec<PathBuf> {
        self.listeners.paths()
    }

    /// Verifies tokens with the site's keys; `None` if the site is asked.
    pub fn verifier(&self) -> Option<&Verifier> {
        self.upstream.verifier()
    }

    /// The event counts so far.
    pub fn counts(&self) -> ServerCounters {
        let Connections { sent, stale, missed, .. } = self.connections;
        ServerCounters { sent, stale, missed, slow_ticks: self.slow_ticks.count, ..self.counts }
    }

    /// Runs one tick of the loop.
    ///
    /// # Errors
    ///
    /// Polling itself fails.
    pub fn tick(&mut self) -> io::Result<()> {
        let timeout = self.poll_timeout();
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            polled => polled?,
        }
        let now = clock();
        self.since_start = now.instant.duration_since(self.started);
        self.active_now = ActiveTime::from_start(self.active_clock.advance(now.instant));
        self.work = TickWork::default();
        let sent_before = self.connections.sent;
        self.stats.begin_tick(now.instant);
        self.codec.set_readiness(self.readiness(now.instant));

        let read_budget =
            if self.connections.is_backlogged() { READ_BUDGET_BACKLOGGED } else { READ_BUDGET };
        self.read_budget = TimeBudget::with_short_steps(read_budget, sent_before);
        self.tls_budget = TimeBudget::new(TLS_HANDSHAKE_BUDGET, 0);
        // Connections that a budget stopped in the last tick come first.
        for slot in self.connections.take_pending_reads() {
            // The event that announced the peer's end of stream may be from an earlier tick.
            self.read(slot, true, now);
        }
        // Before the events: one of them may be for the same connection.
        self.process_reads(now);
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            self.work.events += 1;
            self.handle_event(event, now);
        }
        self.events = events;
        self.process_reads(now);
        self.accept();
        self.accept_site();
        self.upstream.advance(now.instant);
        self.collect_answers(now);
        self.upstream.advance_plugin(now);
        self.notice_availability(now);
        self.run_timers(now);
        // A connection that overflowed with its own pongs caused no effect above.
        self.apply_effects(now);
        self.check_timeouts(now);
        self.notify_service_manager(now);
        self.drain_some(now);
        self.flush(now);
        self.connections.shed();
        self.apply_effects(now);
        self.reap(now);
        self.serve_metrics(now);
        self.work.deliveries = self.connections.sent - sent_before;
        let TickWork { events, frames, deliveries, swept, .. } = self.work;
        if events + frames + swept + deliveries as usize > MIN_WORK_TO_TIME {
            self.slow_ticks.record(now.instant, Instant::now(), &self.work);
        }
        Ok(())
    }

    /// Returns the poll timeout: the time until the next known deadline.
    fn poll_timeout(&mut self) -> Duration {
        let accepts = self.listeners.has_more() && self.admission.is_open(self.connections.len());
        let has_leftover = self.connections.has_pending_work()
            || self.sweep_next.is_some()
            || self.upstream.has_answer();
        // This clock read also ends the duration of the last tick.
        let now = Instant::now();
        self.stats.end_tick(now);
        if has_leftover || accepts || self.metrics_listener.has_pending_work() {
            return Duration::ZERO;
        }
        if self.draining.is_some() && self.connections.next_fanout_flush(now).is_none() {
            return drain::DRAIN_POLL;
        }
        let sweep = self.last_sweep + SWEEP_INTERVAL;
        let fanout = self.connections.next_fanout_flush(now);
        let notify = self.service_manager.next_deadline();
        let deadlines = [self.hub.next_deadline(), self.upstream.next_deadline(), fanout, notify];
        let wake = deadlines.into_iter().flatten().fold(sweep, Instant::min);
        wake.saturating_duration_since(now)
    }

    // ---- output

    /// Flushes connections that have output, within the budgets of a tick.
    fn flush(&mut self, now: Now) {
        self.work.flushed =
            self.connections.flush(&mut TimeBudget::with_short_steps(FLUSH_BUDGET, 0));
        if self.connections.next_fanout_flush(now.instant).is_some_and(|at| at <= now.instant) {
            let read_took = now.instant.elapsed();
            let limit = match self.connections.is_backlogged() {
                true => FANOUT_FLUSH_BUDGET_BACKLOGGED,
                false => FANOUT_FLUSH_BUDGET.max(read_took + read_took / 2),
            };
            self.work.flushed += self.connections.flush_fanout(&mut TimeBudget::new(limit, 0));
        }
    }

    /// Executes the effects that the hub has queued.
    fn apply_effects(&mut self, now: Now) {
        loop {
            while let Some(effect) = self.hub.next_effect() {
                let sent = self.connections.sent;
                match effect {
                    Effect::Send { to, frame, droppable } => {
                        let kind = ServerFrameKind::classify(&frame);
                        self.connections.deliver(to, frame, droppable);
                        self.stats.count_sent(kind, self.connections.sent - sent);
                    }
                    Effect::FanOut { to, frame, droppable } => {
                        let receivers = self.hub.receivers(to);
                        self.stats.fan_outs.record(receivers.len() as u64);
                        self.connections.broadcast(receivers, &frame, droppable);
                        self.stats.count_sent(
                            ServerFrameKind::classify(&frame),
                            self.connections.sent - sent,
                        );
                    }
                    Effect::Ask { request, ask } => {
                        query_log::log_query(&self.hub, request, &ask);
                        self.upstream.submit(request, *ask, now);
                    }
                    Effect::Close { conn, code, reason } => self.close(conn, code, reason, now),
                    Effect::SendCallStatus { conn, reply } => self.send_call_status(conn, &reply),
                    Effect::Active(users) => self.upstream.note_active(&users, now),
                    Effect::Missed(event) => {
                        query_log::log_missed_call(&event);
                        self.notify_site_of_call(&event, true, now);
                    }
                    Effect::Wake(event) => {
                        self.stats.offline_callees += 1;
                        query_log::log_offline_callee(&event);
                        self.notify_site_of_call(&event, false, now);
                    }
                }
            }
            // Closing a connection may make the hub queue more effects.
            let Some(slot) = self.connections.next_overflowed() else {
                return;
            };
            self.counts.overflowed += 1;
            self.close_slot(slot, 1013, "too slow", now);
        }
    }

    /// Sends the hub's answer to a call status request. The hub has forgotten the connection.
    fn send_call_status(&mut self, conn: ConnId, reply: &CallStatusReply) {
        let connection = self.connections.get(conn.slot).filter(|connection| connection.id == conn);
        let Some(connection) = connection else { return };
        connection.registered = false;
        connection.wire.send_call_status(reply, &mut connection.outbox);
        connection.since = self.active_now;
        self.connections.note_output(conn.slot);
    }

    // ---- the end of connections

    fn close(&mut self, conn: ConnId, code: u16, reason: &'static str, now: Now) {
        if self.connections.get(conn.slot).is_some_and(|connection| connection.id == conn) {
            self.close_slot(conn.slot, code, reason, now);
        }
    }

    /// Sends a close frame and notifies the hub.
    fn close_slot(&mut self, slot: u32, code: u16, reason: &'static str, now: Now) {
        if let Some(connection) = self.connections.get(slot) {
            let connection = connection.id.serial;
            log::debug!(connection; "closing with code {code}: {reason}");
        }
        self.connections.close(slot, code, reason, self.active_now);
        self.notify_closed(slot, now);
    }

    /// Notifies the hub, once, that a connection is closed.
    fn notify_closed(&mut self, slot: u32, now: Now) {
        if let Some(connection) = self.connections.get(slot) {
            if std::mem::take(&mut connection.registered) {
                let conn = connection.id;
                log::debug!(connection = conn.serial; "closed");
                self.hub.handle(Input::Closed { conn }, now);
            }
        }
    }

    /// Removes doomed connections. They are removed only here, so that no event of a batch refers
    /// to a reused slot.
    fn reap(&mut self, now: Now) {
        let mut budget = TimeBudget::new(REAP_BUDGET, self.connections.sent);
        while !budget.is_exhausted(self.connections.sent) {
            let Some(slot) = self.connections.next_doomed() else { return };
            self.notify_closed(slot, now);
            let removed = self.connections.reap(slot);
            if let Some(connection) = removed.filter(|connection| connection.counts_for_address) {
                self.admission.release(connection.client);
            }
            self.work.reaped += 1;
            self.apply_effects(now);
        }
    }
}

/// Reads the clock for the hub; no other code does.
fn clock() -> Now {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 is a board without a battery: its dates are wrong in any case.
    Now { instant: Instant::now(), unix_s: since_1970.map_or(0, |since| since.as_secs()) }
}

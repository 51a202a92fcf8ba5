//! The tick: one thread, one poll, all sockets.
//!
//! Each turn of the loop sleeps until something happens, reads the clock once, reads sockets and
//! collects answers within their budgets, lets the hub decide, and then writes: one gathered write
//! for each connection that has something to send. Whoever is stopped by a budget comes first in
//! the next turn, which then does not sleep.

mod crowd;
mod listeners;
mod refusals;
mod setup;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use crate::config::Config;
use crate::connection::Received;
use crate::hub::Hub;
use crate::hub::interface::{Answer, ConnId, Effect, Input, Now};
use crate::upstream::Upstream;
use crate::wire::handshake::{self, Opened, Rules};
use crate::wire::{self, Codec};
use crowd::Crowd;
use listeners::Listeners;
use refusals::Refusals;

/// Connections accepted in one tick.
const ACCEPTS_PER_TICK: usize = 64;
/// Answers from the site taken in one tick.
const ANSWERS_PER_TICK: usize = 256;
/// Bytes read from one connection in one tick, which is one read: some four hundred of the smallest
/// frames, each of which may be for a whole thread.
const READ_BYTES_PER_TICK: usize = 16 * 1024;
/// Due things done in one tick, each of which may be for everyone.
const DUE_PER_TICK: usize = 64;
/// Events taken from one poll. A few, so that outboxes are flushed before they grow: a thousand
/// arrivals in one tick would put a thousand frames into each. No more frames leave in one system
/// call anyway.
const EVENTS_PER_TICK: usize = 64;
/// How often old handshakes and closings are looked for, and a failed accept is tried again.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long the server takes to say goodbye.
const STOPPING_LASTS: Duration = Duration::from_secs(1);
/// How long a stopping server sleeps at most, so as not to overshoot.
const STOPPING_POLL: Duration = Duration::from_millis(20);

const WAKER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);
/// Listener number n has the token `LISTENERS - n`.
const LISTENERS: usize = usize::MAX - 2;

/// The server: everything is owned here, by the one thread that runs it.
pub struct Server {
    poll: Poll,
    events: Events,
    signals: Option<Signals>,
    listeners: Listeners,
    crowd: Crowd,
    connections_max: usize,
    codec: Codec,
    hub: Hub,
    upstream: Upstream,
    scratch: Box<[u8]>,
    refusals: Refusals,
    counts: Counts,
    swept: Instant,
    stopping: bool,
}

/// What happened, for the log line at the end and for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections refused at the limit.
    pub refused: u64,
    /// Accepts that failed, as they do without descriptors.
    pub accept_errors: u64,
    /// Frames put into outboxes.
    pub sent: u64,
    /// Frames and outcomes for connections that had gone.
    pub stale: u64,
    /// Connections closed because they did not read.
    pub overflowed: u64,
}

impl Server {
    /// Listens and starts the upstream; [`Server::run`] does the rest.
    ///
    /// # Errors
    ///
    /// An address that cannot be listened on, a secret that cannot be read, or a system out of
    /// descriptors or threads.
    pub fn bind(config: &Config) -> io::Result<Server> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let listeners = Listeners::bind(&config.listen.addresses, poll.registry(), LISTENERS)?;
        let upstream = match &config.buddyboss_url {
            None => Upstream::embedded(),
            Some(url) => Upstream::site(&setup::site_settings(config, url)?, waker)?,
        };
        Ok(Server {
            poll,
            events: Events::with_capacity(EVENTS_PER_TICK),
            signals: None,
            listeners,
            crowd: Crowd::new(config.max_outbox_bytes as usize),
            connections_max: setup::room_for_connections(config)?,
            codec: Codec::new(config.max_frame_bytes as usize, Rules::new(config)),
            hub: Hub::new(setup::hub_settings(config)),
            upstream,
            scratch: vec![0; READ_BYTES_PER_TICK].into_boxed_slice(),
            refusals: Refusals::default(),
            counts: Counts::default(),
            swept: Instant::now(),
            stopping: false,
        })
    }

    /// Lets SIGTERM and SIGINT end [`Server::run`].
    ///
    /// # Errors
    ///
    /// The system refuses the handlers.
    pub fn stop_on_signals(&mut self) -> io::Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        self.poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        self.signals = Some(signals);
        Ok(())
    }

    /// The addresses that it listens on, with the port that the system chose for port 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.addresses()
    }

    /// Whether tokens are checked with the site's JWT secret.
    pub fn checks_signatures(&self) -> bool {
        self.upstream.checks_signatures()
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        Counts { sent: self.crowd.sent, stale: self.crowd.stale, ..self.counts }
    }

    /// Ticks until a signal comes, then says goodbye.
    ///
    /// # Errors
    ///
    /// Polling itself fails; no connection's error gets here.
    pub fn run(&mut self) -> io::Result<()> {
        while !self.stopping {
            self.tick()?;
        }
        self.stop()
    }

    /// One turn of the loop.
    ///
    /// # Errors
    ///
    /// Polling itself fails.
    pub fn tick(&mut self) -> io::Result<()> {
        let sleep = self.sleep();
        match self.poll.poll(&mut self.events, Some(sleep)) {
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            polled => polled?,
        }
        let now = clock();

        // Who was stopped by a budget in the last tick comes first.
        for slot in self.crowd.take_again() {
            // The event that spoke of the peer's end may have come in an earlier tick.
            self.read(slot, true, now);
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            self.event(event, now);
        }
        self.events = events;
        self.accept(now);
        self.collect_answers(now);
        for _ in 0..DUE_PER_TICK {
            if !self.hub.advance(now) {
                break;
            }
            self.drain(now);
        }
        // Whose own pongs are too many to hold has caused no effect that was drained before.
        self.drain(now);
        if now.instant.duration_since(self.swept) >= SWEEP_EVERY {
            self.sweep(now);
        }
        self.crowd.flush();
        self.bury(now);
        Ok(())
    }

    /// How long nothing will happen, as far as can be known.
    fn sleep(&self) -> Duration {
        let left_over =
            self.crowd.has_left_over() || self.listeners.has_more() || self.upstream.has_answer();
        if left_over {
            return Duration::ZERO;
        }
        if self.stopping {
            return STOPPING_POLL;
        }
        let sweep = self.swept + SWEEP_EVERY;
        let wake = self.hub.next_deadline().map_or(sweep, |deadline| deadline.min(sweep));
        wake.saturating_duration_since(Instant::now())
    }

    // ---- input

    fn event(&mut self, event: &Event, now: Now) {
        match event.token() {
            // Answers are collected in every tick; the waker only ends the sleep.
            WAKER => {}
            SIGNALS => {
                if let Some(signal) = self.signals.as_mut().and_then(|s| s.pending().next()) {
                    log::info!("signal {signal}: stopping");
                    self.stopping = true;
                }
            }
            Token(listener) if listener > LISTENERS - self.listeners.len() => {
                self.listeners.note_ready(LISTENERS - listener);
            }
            Token(slot) => {
                // A socket without output has nothing to do with a writable event, and each
                // registration begins with one.
                let slot = slot as u32;
                if event.is_writable() {
                    self.crowd.note_output(slot);
                }
                let ends = event.is_read_closed() || event.is_error();
                if event.is_readable() || ends {
                    self.read(slot, ends, now);
                }
            }
        }
    }

    fn accept(&mut self, now: Now) {
        for _ in 0..ACCEPTS_PER_TICK {
            let (socket, peer) = match self.listeners.accept() {
                Ok(Some(accepted)) => accepted,
                Ok(None) => return,
                Err(fault) => {
                    // Readiness is edge-triggered: only the sweep tries again.
                    if self.counts.accept_errors % 64 == 0 {
                        log::warn!("cannot accept connections: {fault}; trying again each second");
                    }
                    self.counts.accept_errors += 1;
                    return;
                }
            };
            if self.crowd.len() >= self.connections_max {
                self.counts.refused += 1;
                listeners::refuse(socket, &handshake::too_many_connections());
                continue;
            }
            self.counts.accepted += 1;
            if let Err(fault) = self.crowd.add(socket, peer, self.poll.registry(), now.instant) {
                log::warn!("cannot watch a connection: {fault}");
            }
        }
    }

    /// Reads one connection once. A short read means that the socket is drained, unless the event
    /// said that the peer's end is there to be read as well.
    fn read(&mut self, slot: u32, ends: bool, now: Now) {
        let Some(connection) = self.crowd.get(slot) else {
            return;
        };
        if connection.again {
            return;
        }
        let bytes = match connection.receive(&mut self.scratch) {
            Received::Bytes(bytes) => bytes,
            Received::Nothing => return,
            Received::End => {
                self.crowd.doom(slot);
                return;
            }
        };
        if connection.wire.is_between_messages() {
            // What these bytes begin, if they do not end it.
            connection.since = now.instant;
        }
        if bytes == self.scratch.len() || ends {
            self.crowd.read_again(slot);
        }
        // The hub may not be told while the scratch buffer is borrowed from the server.
        let scratch = std::mem::take(&mut self.scratch);
        let mut input = &scratch[..bytes];
        while self.take_in(slot, &mut input, now) {}
        self.scratch = scratch;
        self.crowd.note_output(slot);
    }

    /// Takes in the next thing that a connection said; false when there is no more.
    fn take_in(&mut self, slot: u32, input: &mut &[u8], now: Now) -> bool {
        let Some(connection) = self.crowd.get(slot) else {
            return false;
        };
        let conn = connection.id;
        match connection.wire.next(&mut self.codec, input, &mut connection.outbox) {
            wire::Event::Drained => return false,
            wire::Event::Opened(Opened { client, credential }) => {
                connection.opened = true;
                connection.client = client;
                log::debug!("connection {}: open from {client}", conn.serial);
                self.hub.handle(Input::Opened { conn, credential }, now);
            }
            wire::Event::OriginRefused { origin } => {
                connection.since = now.instant;
                self.refusals.note(&origin, now.instant);
            }
            wire::Event::Text(text) => {
                connection.since = now.instant;
                self.hub.handle(Input::Frame { conn, text: text.as_str() }, now);
            }
            wire::Event::Binary(_) => {
                connection.since = now.instant;
                self.hub.handle(Input::Binary { conn }, now);
            }
            wire::Event::Closing => {
                connection.since = now.instant;
                self.tell_closed(slot, now);
            }
        }
        self.drain(now);
        true
    }

    fn collect_answers(&mut self, now: Now) {
        for _ in 0..ANSWERS_PER_TICK {
            let Some((request, answer)) = self.upstream.next_answer() else {
                return;
            };
            match &answer {
                Answer::Stored(stored) => {
                    log::debug!("request {}: stored in thread {}", request.0, stored.thread);
                }
                Answer::Proven(proven) => log::debug!("request {}: {proven:?}", request.0),
                Answer::Listed(_) => log::debug!("request {}: listed", request.0),
                Answer::Failed(failure) => log::debug!("request {}: {failure:?}", request.0),
            }
            self.hub.handle(Input::Answered { request, answer }, now);
            self.drain(now);
        }
    }

    // ---- output

    /// Carries out what the hub wants done.
    fn drain(&mut self, now: Now) {
        loop {
            while let Some(effect) = self.hub.next_effect() {
                match effect {
                    Effect::Send { to, frame } => self.crowd.deliver(to, frame),
                    Effect::Ask { request, ask } => self.upstream.submit(request, *ask, now),
                    Effect::Close { conn, code, reason } => self.close(conn, code, reason, now),
                }
            }
            // Telling the hub that a connection is closed may give it more to do.
            let Some(slot) = self.crowd.next_overflowed() else {
                return;
            };
            self.counts.overflowed += 1;
            self.crowd.close(slot, 1013, "too slow to read", now.instant);
            self.tell_closed(slot, now);
        }
    }

    // ---- the end of connections

    fn close(&mut self, conn: ConnId, code: u16, reason: &'static str, now: Now) {
        if self.crowd.get(conn.slot).is_some_and(|connection| connection.id == conn) {
            log::debug!("connection {}: closing with {code}, {reason}", conn.serial);
            self.crowd.close(conn.slot, code, reason, now.instant);
            self.tell_closed(conn.slot, now);
        }
    }

    /// Tells the hub, once, that nothing more reaches a connection.
    fn tell_closed(&mut self, slot: u32, now: Now) {
        if let Some(connection) = self.crowd.get(slot) {
            if std::mem::take(&mut connection.opened) {
                let conn = connection.id;
                log::debug!("connection {}: closed", conn.serial);
                self.hub.handle(Input::Closed { conn }, now);
            }
        }
    }

    /// What is done once a second.
    fn sweep(&mut self, now: Now) {
        self.swept = now.instant;
        self.listeners.wake_resting();
        self.crowd.doom_the_slow(now.instant);
    }

    /// Buries the doomed. Nobody is removed before, so no event of a batch meets a reused slot.
    fn bury(&mut self, now: Now) {
        while let Some(slot) = self.crowd.next_doomed() {
            self.tell_closed(slot, now);
            self.crowd.bury(slot, self.poll.registry());
            self.drain(now);
        }
    }

    /// Gives every message its outcome, closes every connection with 1001, and waits a little for
    /// the last bytes to be read.
    fn stop(&mut self) -> io::Result<()> {
        let now = clock();
        self.listeners.close(self.poll.registry());
        self.hub.stop();
        self.drain(now);
        log::info!("closing {} connections", self.crowd.len());
        for slot in self.crowd.slots() {
            self.crowd.close(slot, 1001, "the server is stopping", now.instant);
        }
        // Only then, so that nobody's end is told to those who are to go next.
        for slot in self.crowd.slots() {
            self.tell_closed(slot, now);
            self.drain(now);
        }
        let until = now.instant + STOPPING_LASTS;
        while self.crowd.len() > 0 && Instant::now() < until {
            self.tick()?;
        }
        log::info!("stopped: {:?}", self.counts());
        Ok(())
    }
}

/// The only place that reads a clock for the logic.
fn clock() -> Now {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 is a board without a battery: its dates are wrong either way.
    Now { instant: Instant::now(), unix_s: since_1970.map_or(0, |since| since.as_secs()) }
}

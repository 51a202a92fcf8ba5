//! The tick: one thread, one poll, all sockets.
//!
//! Each turn of the loop sleeps until something happens, reads the clock once, reads sockets and
//! collects answers within their budgets, lets the hub decide, and then writes: one gathered write
//! for each connection that has something to send. Whoever is stopped by a budget comes first in
//! the next turn, which then does not sleep.

mod admission;
mod asked;
mod bulk;
mod crowd;
mod drain;
mod input;
mod intake;
mod listeners;
mod numbers;
mod refusals;
mod reload;
mod scrapes;
mod setup;
mod signals;
mod stats;
mod supervisor;
mod sweep;
mod tls;
mod traces;
mod turn;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mio::{Events, Poll, Token, Waker};
use signal_hook_mio::v1_0::Signals;

use crate::config::Config;
use crate::config::tls::TlsIdentity;
use crate::connection::Moment;
use crate::connection::rate::Rate;
use crate::hub::Hub;
use crate::hub::interface::{ConnId, Effect, Input, Now};
use crate::protocol::kinds::FrameKind;
use crate::upstream::Upstream;
use crate::wire::Codec;
use crate::wire::handshake::Rules;
use admission::Admission;
use crowd::Crowd;
use drain::Drain;
use intake::Intake;
use listeners::{BACKLOG, Listeners};
use refusals::Refusals;
pub use reload::Source;
use scrapes::Scrapes;
use stats::Tally;
use supervisor::Supervisor;
use sweep::{Patience, SWEEP_EVERY};
use turn::{Phase, SlowTicks, Watch, Work};

/// Events taken from one poll. Enough that frames of one thread which come together leave together,
/// and not so many that the first waits long for the last.
const EVENTS_PER_TICK: usize = 1024;
/// How long a tick may read, write, and bury. With the rest it is about half of what a tick may
/// take in all, since the last step of a phase may be a long one.
const READS_LAST: Duration = Duration::from_millis(8);
/// To write to those for whom something waits that is not for many.
const FLUSH_LASTS: Duration = Duration::from_millis(6);
/// To write to those for whom it is: a part of their round.
const BULK_LASTS: Duration = Duration::from_micros(250);
/// While more is said to many than leaves: a little of what is said is read, and much is written.
const READS_LAST_BEHIND: Duration = Duration::from_millis(1);
const BULK_LASTS_BEHIND: Duration = Duration::from_millis(12);
/// To agree on TLS with those who come: a signature takes from a tenth of a millisecond to a few.
const AGREEMENTS_LAST: Duration = Duration::from_millis(4);
const BURIALS_LAST: Duration = Duration::from_millis(4);
/// A tick that has done less than this is not timed.
const TICK_WORTH_TIMING: usize = 64;

const WAKER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);
/// Listener number n has the token `LISTENERS - n`.
const LISTENERS: usize = usize::MAX - 2;
/// The tokens from here to those of the listeners are the monitors'.
const SCRAPES: usize = usize::MAX - 4_096;

/// The server: everything is owned here, by the one thread that runs it.
pub struct Server {
    poll: Poll,
    events: Events,
    signals: Option<Signals>,
    listeners: Listeners,
    crowd: Crowd,
    admission: Admission,
    patience: Patience,
    rate: Rate,
    codec: Codec,
    hub: Hub,
    upstream: Upstream,
    intake: Intake,
    refusals: Refusals,
    scrapes: Scrapes,
    counts: Counts,
    stats: Tally,
    slow_ticks: SlowTicks,
    started: Instant,
    /// The time of this tick by the clock, since the start.
    since_start: Duration,
    watch: Watch,
    /// The time of this tick by the watch.
    moment: Moment,
    work: Work,
    reads: Phase,
    /// The part of the reads that is for agreeing on TLS.
    agreements: Phase,
    identity: Option<TlsIdentity>,
    swept: Instant,
    /// The slot that is looked at next, while connections are looked at.
    sweeping: Option<usize>,
    /// What it works by: changed by a reload.
    config: Config,
    /// Where a reload gets its settings from.
    source: Option<Box<dyn Source>>,
    supervisor: Supervisor,
    /// It is about to end.
    ending: Option<Drain>,
}

/// What happened, for the log line at the end and for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections refused at a limit.
    pub refused: u64,
    /// Those of them that came from an address that has as many as it may.
    pub refused_address: u64,
    /// Requests that did not come in time.
    pub late: u64,
    /// Web pages that may not connect.
    pub refused_pages: u64,
    /// Accepts that failed, as they do without descriptors.
    pub accept_errors: u64,
    /// Frames put into outboxes.
    pub sent: u64,
    /// Frames and outcomes for connections that had gone.
    pub stale: u64,
    /// Connections closed because they did not read.
    pub overflowed: u64,
    /// Frames that slow readers have missed.
    pub missed: u64,
    /// Frames refused because their sender sent too many.
    pub rate_limited: u64,
    /// Connections closed because they went on all the same.
    pub floods: u64,
    /// Connections that gave no sign of life.
    pub silent: u64,
    /// TLS that was not agreed on, or was broken off for a fault.
    pub tls_faults: u64,
    /// Ticks that took longer than 50 ms.
    pub slow_ticks: u64,
}

impl Server {
    /// Listens and starts the upstream; [`Server::run`] does the rest.
    ///
    /// # Errors
    ///
    /// An address that cannot be listened on, a secret or a certificate that cannot be read, or a
    /// system out of descriptors or threads.
    pub fn bind(config: &Config) -> io::Result<Server> {
        Server::start(config, Vec::new())
    }

    /// The same on sockets that listen already, if there are any, instead of `--listen`: who
    /// connects while one server ends and the next begins waits there.
    ///
    /// # Errors
    ///
    /// As of [`Server::bind`].
    pub fn start(config: &Config, inherited: Vec<TcpListener>) -> io::Result<Server> {
        let limits = config.limits();
        let now = clock();
        let started = now.instant;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let listeners = match inherited.is_empty() {
            true => {
                let addresses = config.listen.resolve().map_err(io::Error::other)?;
                Listeners::bind(&addresses, BACKLOG, poll.registry(), LISTENERS)?
            }
            false => Listeners::inherit(inherited, poll.registry(), LISTENERS)?,
        };
        let scrapes = Scrapes::bind(config.metrics_listen.as_ref(), poll.registry())?;
        let upstream = match &config.buddyboss_url {
            None => Upstream::embedded(),
            Some(url) => Upstream::site(&setup::site_settings(config, url)?, waker, started)?,
        };
        let turn_secret = config.turn_secret().map_err(io::Error::other)?;
        Ok(Server {
            events: Events::with_capacity(EVENTS_PER_TICK),
            signals: None,
            listeners,
            crowd: Crowd::new(setup::buffers(&limits), poll.registry().try_clone()?),
            admission: setup::admission(config)?,
            patience: setup::patience(&limits),
            rate: Rate::new(limits.max_frames_per_second, limits.max_frames_burst),
            codec: Codec::new(limits.max_frame_bytes, Rules::new(config)),
            hub: Hub::new(setup::hub_settings(config, turn_secret)),
            upstream,
            intake: Intake::new(),
            refusals: Refusals::default(),
            scrapes,
            counts: Counts::default(),
            stats: Tally::new(now),
            slow_ticks: SlowTicks::default(),
            started,
            since_start: Duration::ZERO,
            watch: Watch::new(started),
            moment: Moment::default(),
            work: Work::default(),
            reads: Phase::new(READS_LAST, 0),
            agreements: Phase::new(AGREEMENTS_LAST, 0),
            identity: config.tls().map_err(io::Error::other)?,
            swept: started,
            sweeping: None,
            config: config.clone(),
            source: None,
            supervisor: Supervisor::of_process(started),
            ending: None,
            poll,
        })
    }

    /// The addresses that it listens on, with the port that the system chose for port 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.addresses()
    }

    /// Whether tokens are checked with the site's JWT secret.
    pub fn has_verifier(&self) -> bool {
        self.upstream.has_verifier()
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        let Crowd { sent, stale, missed, .. } = self.crowd;
        Counts { sent, stale, missed, slow_ticks: self.slow_ticks.count, ..self.counts }
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
        self.since_start = now.instant.duration_since(self.started);
        self.moment = Moment::after(self.watch.look(now.instant));
        self.work = Work::default();
        let sent_before = self.crowd.sent;
        self.stats.tick_begins(now.instant);
        self.codec.set_readiness(self.readiness(now.instant));

        let reads = if self.crowd.is_behind() { READS_LAST_BEHIND } else { READS_LAST };
        self.reads = Phase::of_short_steps(reads, sent_before);
        self.agreements = Phase::new(AGREEMENTS_LAST, 0);
        // Who was stopped by a budget in the last tick comes first.
        for slot in self.crowd.take_again() {
            // The event that spoke of the peer's end may have come in an earlier tick.
            self.read(slot, true, now);
        }
        // An event may be for one of these as well.
        self.take_in_all(now);
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            self.work.events += 1;
            self.event(event, now);
        }
        self.events = events;
        self.take_in_all(now);
        self.accept();
        self.upstream.advance(now.instant);
        self.collect_answers(now);
        self.do_what_is_due(now);
        // Whose own pongs are too many to hold has caused no effect that was drained before.
        self.drain(now);
        self.sweep(now);
        self.tell_supervisor(now);
        self.let_go(now);
        self.flush(now);
        self.crowd.shed();
        self.drain(now);
        self.bury(now);
        self.serve_scrapes(now);
        self.work.deliveries = self.crowd.sent - sent_before;
        let Work { events, frames, deliveries, swept, .. } = self.work;
        if events + frames + swept + deliveries as usize > TICK_WORTH_TIMING {
            self.slow_ticks.record(now.instant, Instant::now(), &self.work);
        }
        Ok(())
    }

    /// How long nothing will happen, as far as can be known.
    fn sleep(&mut self) -> Duration {
        let accepts = self.listeners.has_more() && self.admission.is_open(self.crowd.len());
        let left_over =
            self.crowd.has_left_over() || self.sweeping.is_some() || self.upstream.has_answer();
        // The clock that says how long to sleep says when the last tick has ended as well.
        let now = Instant::now();
        self.stats.tick_ends(now);
        if left_over || accepts || self.scrapes.has_left_over() {
            return Duration::ZERO;
        }
        if self.ending.is_some() && self.crowd.next_bulk(now).is_none() {
            return drain::POLL;
        }
        let sweep = self.swept + SWEEP_EVERY;
        let bulk = self.crowd.next_bulk(now);
        let told = self.supervisor.next_deadline();
        let deadlines = [self.hub.next_deadline(), self.upstream.next_deadline(), bulk, told];
        let wake = deadlines.into_iter().flatten().fold(sweep, Instant::min);
        wake.saturating_duration_since(now)
    }

    // ---- output

    /// Writes to who has something to send, for as long as a tick may.
    fn flush(&mut self, now: Now) {
        self.work.flushed = self.crowd.flush(&mut Phase::of_short_steps(FLUSH_LASTS, 0));
        if self.crowd.next_bulk(now.instant).is_some_and(|at| at <= now.instant) {
            let read = now.instant.elapsed();
            let lasts = match self.crowd.is_behind() {
                true => BULK_LASTS_BEHIND,
                false => BULK_LASTS.max(read + read / 2),
            };
            self.work.flushed += self.crowd.flush_bulk(&mut Phase::new(lasts, 0));
        }
    }

    /// Carries out what the hub wants done.
    fn drain(&mut self, now: Now) {
        loop {
            while let Some(effect) = self.hub.next_effect() {
                let sent = self.crowd.sent;
                match effect {
                    Effect::Send { to, frame } => {
                        let kind = FrameKind::of(&frame);
                        self.crowd.deliver(to, frame, false);
                        self.stats.sent(kind, self.crowd.sent - sent);
                    }
                    Effect::Hint { to, frame } => {
                        let kind = FrameKind::of(&frame);
                        self.crowd.deliver(to, frame, true);
                        self.stats.sent(kind, self.crowd.sent - sent);
                    }
                    Effect::Spread { to, frame, can_be_missed } => {
                        let receivers = self.hub.receivers(to);
                        self.stats.fan_outs.record(receivers.len() as u64);
                        self.crowd.spread(receivers, &frame, can_be_missed);
                        self.stats.sent(FrameKind::of(&frame), self.crowd.sent - sent);
                    }
                    Effect::Ask { request, ask } => {
                        traces::asked(&self.hub, request, &ask);
                        self.upstream.submit(request, *ask, now);
                    }
                    Effect::Close { conn, code, reason } => self.close(conn, code, reason, now),
                    Effect::TellCall { conn, told } => self.tell_call(conn, &told),
                    Effect::Wake(event) => {
                        self.stats.woken += 1;
                        traces::nobody_there(&event);
                    }
                }
            }
            // Telling the hub that a connection is closed may give it more to do.
            let Some(slot) = self.crowd.next_overflowed() else {
                return;
            };
            self.counts.overflowed += 1;
            self.dismiss(slot, 1013, "too slow", now);
        }
    }

    // ---- the end of connections

    fn close(&mut self, conn: ConnId, code: u16, reason: &'static str, now: Now) {
        if self.crowd.get(conn.slot).is_some_and(|connection| connection.id == conn) {
            self.dismiss(conn.slot, code, reason, now);
        }
    }

    /// Says goodbye to a connection, and tells the hub.
    fn dismiss(&mut self, slot: u32, code: u16, reason: &'static str, now: Now) {
        if let Some(connection) = self.crowd.get(slot) {
            let connection = connection.id.serial;
            log::debug!(connection; "closing with {code}, {reason}");
        }
        self.crowd.close(slot, code, reason, self.moment);
        self.tell_closed(slot, now);
    }

    /// Tells the hub, once, that nothing more reaches a connection.
    fn tell_closed(&mut self, slot: u32, now: Now) {
        if let Some(connection) = self.crowd.get(slot) {
            if std::mem::take(&mut connection.opened) {
                let conn = connection.id;
                log::debug!(connection = conn.serial; "closed");
                self.hub.handle(Input::Closed { conn }, now);
            }
        }
    }

    /// Buries the doomed. Nobody is removed before, so no event of a batch meets a reused slot.
    fn bury(&mut self, now: Now) {
        let mut phase = Phase::new(BURIALS_LAST, self.crowd.sent);
        while !phase.is_over(self.crowd.sent) {
            let Some(slot) = self.crowd.next_doomed() else { return };
            self.tell_closed(slot, now);
            let buried = self.crowd.bury(slot);
            if let Some(connection) = buried.filter(|connection| connection.counted) {
                self.admission.leave(connection.client);
            }
            self.work.buried += 1;
            self.drain(now);
        }
    }
}

/// The only place that reads a clock for the logic.
fn clock() -> Now {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 is a board without a battery: its dates are wrong either way.
    Now { instant: Instant::now(), unix_s: since_1970.map_or(0, |since| since.as_secs()) }
}

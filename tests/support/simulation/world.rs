//! The simulated world: a server without sockets, its clients and its site, in virtual time. The hub,
//! the wire and the outbox are the real ones; this module does with bytes in memory what `server.rs`
//! and `server/connections.rs` do with sockets.

use std::time::{Duration, Instant};

use buddyline::connection::rate::{RateLimit, RateVerdict};
use buddyline::hub::Hub;
use buddyline::hub::interface::{Ask, ConnId, Effect, Input, Now};
use buddyline::protocol::server::EncodedFrame;
use buddyline::wire::outbox::Ledger;
use buddyline::wire::{Codec, Event};

use crate::bytes;
use crate::harness;
use crate::link::{Link, Reading};
use crate::oracle::Oracle;
use crate::plan::RunConfig;
use crate::rng::Rng;
use crate::site::{SECRET, Site};
use crate::trace::Trace;

/// The largest message, in bytes.
pub const FRAME_MAX: usize = 4_096;
/// As in `server/timeouts.rs`.
const PINGS_MAX: u8 = 2;
const CLOSING_LASTS: Duration = Duration::from_secs(3);
const HANDSHAKE_LASTS: Duration = Duration::from_secs(5);
const UNFINISHED_LASTS: Duration = Duration::from_secs(60);
/// The longest step in which time passes.
const TICK: Duration = Duration::from_secs(2);

pub struct World<'a> {
    pub plan: RunConfig,
    pub hub: Hub,
    pub codec: Codec,
    pub links: Vec<Option<Link>>,
    pub ledger: Ledger,
    rate: RateLimit,
    serial: u32,
    start: Instant,
    pub now: Now,
    pub site: Site,
    pub oracle: Oracle,
    pub rng: Rng,
    pub trace: &'a mut Trace,
    /// While draining: when the drain times out.
    pub draining: Option<Instant>,
    /// Whether the hub was told that requests reach the site.
    pub site_available: bool,
    pub overflowed: Vec<usize>,
    /// Droppable frames that slow readers missed.
    pub missed: usize,
    pub restarts: usize,
}

impl<'a> World<'a> {
    pub fn new(
        plan: RunConfig,
        site: Site,
        rng: Rng,
        start: Instant,
        trace: &'a mut Trace,
    ) -> Self {
        use buddyline::config::{PresenceScope, Trust};
        let verified = plan.hub.trust == Trust::Verified;
        let off = plan.hub.presence == PresenceScope::Off;
        let list_age_max = if site.behavior.query_failures_percent > 0 { 600 } else { 60 };
        let oracle = Oracle::new(verified, off, Duration::from_secs(list_age_max));
        World {
            hub: Hub::new(plan.hub.clone()),
            codec: bytes::codec_of(FRAME_MAX, false),
            links: Vec::new(),
            ledger: Ledger::default(),
            rate: RateLimit::new(plan.per_second, plan.burst),
            plan,
            serial: 0,
            start,
            now: Now { instant: start, unix_s: site.unix_s(start) },
            site,
            oracle,
            rng,
            trace,
            draining: None,
            site_available: true,
            overflowed: Vec::new(),
            missed: 0,
            restarts: 0,
        }
    }

    /// Adds a line to the trace.
    pub fn note(&mut self, what: &str) {
        let at = (self.now.instant - self.start).as_millis();
        self.trace.note(format!("{:>4} {:>9} {what}", self.trace.steps, at));
    }

    pub fn instant(&self) -> Instant {
        self.now.instant
    }

    pub fn link(&mut self, slot: usize) -> Option<&mut Link> {
        self.links.get_mut(slot)?.as_mut()
    }

    // ---- clients

    /// Connects a client, whose request head waits in the network.
    pub fn connect(&mut self, user: u64, token: Option<String>, head: Vec<u8>) {
        let slot = self.links.iter().position(Option::is_none).unwrap_or(self.links.len());
        if slot == self.links.len() {
            self.links.push(None);
        }
        self.serial += 1;
        let id = ConnId { slot: slot as u32, serial: self.serial };
        let kernel_buffer = self.rng.range(50, 800) as usize;
        let mut link = Link::new(id, user, token, kernel_buffer, self.now.instant);
        link.to_server = head;
        self.links[slot] = Some(link);
    }

    /// Delivers up to this many bytes that a client has sent to the server.
    pub fn deliver_to_server(&mut self, slot: usize, bytes: usize) {
        let now = self.now.instant;
        let Some(link) = self.link(slot) else { return };
        let mut bytes: Vec<u8> = link.to_server.drain(..bytes.min(link.to_server.len())).collect();
        if bytes.is_empty() {
            return;
        }
        (link.last_received, link.pings) = (now, 0);
        if link.wire.is_between_messages() {
            link.since = now;
        }
        let events_max = bytes.len() + 2;
        let mut input = &mut *bytes;
        // Each event consumes at least a byte, except the last two.
        for _ in 0..events_max {
            if !self.process_event(slot, &mut input) {
                self.flush_and_check(slot);
                return self.drain();
            }
        }
        panic!("the wire reports events without end");
    }

    /// Cuts a connection, as when the client or its network is gone.
    pub fn cut(&mut self, slot: usize) {
        self.report_closed(slot);
        if let Some(mut link) = self.links[slot].take() {
            link.outbox.clear(&mut self.ledger);
        }
        self.drain();
    }

    // ---- the server's input

    fn process_event(&mut self, slot: usize, input: &mut &mut [u8]) -> bool {
        let now = self.now.instant;
        let Some(link) = self.links[slot].as_mut() else { return false };
        let conn = link.id;
        let event = link.wire.next(&mut self.codec, input, &mut link.outbox);
        if !matches!(event, Event::NeedsInput) {
            link.since = now;
        }
        match event {
            Event::NeedsInput => return false,
            Event::Opened(opened) => {
                link.opened = true;
                let credential = opened.credential;
                let token = credential.as_ref().and_then(|c| c.as_ref().ok());
                self.oracle.record_open(conn, token.map(|token| token.secret()));
                self.hub.handle(Input::Opened { conn, credential }, self.now);
            }
            Event::CallStatusRequest(request) => {
                panic!("no client requests a call status: {request:?}")
            }
            Event::OriginRefused { origin } => panic!("no client sends an origin: {origin}"),
            Event::EventsAnnounced
            | Event::EventsReceived { .. }
            | Event::TestArrival { .. }
            | Event::SiteRefused { .. } => panic!("no client is the site's plugin"),
            Event::Text(text) => {
                let text = &*text;
                match self.check_rate(slot) {
                    RateVerdict::Accepted => {
                        self.oracle.record_sent(conn, text);
                        self.hub.handle(Input::Frame { conn, text }, self.now);
                    }
                    RateVerdict::Refused => {
                        self.oracle.record_sent(conn, text);
                        self.hub.handle(Input::RateLimited { conn, text: Some(text) }, self.now);
                    }
                    RateVerdict::Flood => return self.end_flood(slot),
                }
            }
            Event::Binary(_) => match self.check_rate(slot) {
                RateVerdict::Accepted => self.hub.handle(Input::Binary { conn }, self.now),
                RateVerdict::Refused => {
                    self.hub.handle(Input::RateLimited { conn, text: None }, self.now);
                }
                RateVerdict::Flood => return self.end_flood(slot),
            },
            Event::Control => match self.check_rate(slot) {
                RateVerdict::Accepted => return true,
                RateVerdict::Refused => {
                    self.hub.handle(Input::RateLimited { conn, text: None }, self.now);
                }
                RateVerdict::Flood => return self.end_flood(slot),
            },
            Event::Closing => self.report_closed(slot),
        }
        self.drain();
        true
    }

    fn check_rate(&mut self, slot: usize) -> RateVerdict {
        let since_start = self.now.instant - self.start;
        let link = self.links[slot].as_mut().expect("a sending client is connected");
        self.rate.check(&mut link.rate_state, since_start)
    }

    fn end_flood(&mut self, slot: usize) -> bool {
        self.close_with(slot, 1008, "too many frames");
        self.drain();
        false
    }

    // ---- the server's output

    /// Carries out the hub's effects.
    pub fn drain(&mut self) {
        loop {
            while let Some(effect) = self.hub.next_effect() {
                match effect {
                    Effect::Send { to, frame, droppable } => self.deliver(to, &frame, droppable),
                    Effect::FanOut { to, frame, droppable } => {
                        for to in self.hub.receivers(to).to_vec() {
                            self.deliver(to, &frame, droppable);
                        }
                    }
                    Effect::Ask { request, ask } => {
                        let now = self.now.instant;
                        let is_lookup = matches!(&*ask, Ask::Lookup(_));
                        assert!(!is_lookup || self.site_available, "an open breaker is not asked");
                        if let Ask::Post(post) = &*ask {
                            self.oracle.outcomes.record_post(&post.text, post.target);
                        }
                        let query = self.site.ask(request, *ask, now, &mut self.rng);
                        self.note(&format!("  queries {} {query}", request.0));
                    }
                    Effect::Active(_) => {}
                    Effect::Wake(_) | Effect::Missed(_) | Effect::SendCallStatus { .. } => {}
                    Effect::Close { conn, code, reason } => {
                        let slot = conn.slot as usize;
                        if self.link(slot).is_some_and(|link| link.id == conn) {
                            self.close_with(slot, code, reason);
                        }
                    }
                }
            }
            let Some(slot) = self.next_overflowed() else { break };
            self.close_with(slot, 1013, "too slow");
        }
        self.hub.check_invariants();
        self.oracle.end_round(&self.site, self.now.instant);
    }

    fn deliver(&mut self, to: ConnId, frames: &EncodedFrame, droppable: bool) {
        let each = harness::frames::frames(frames);
        if each.len() == 1 {
            // All receivers share the frame, so that the ledger counts it once.
            return self.deliver_one(to, EncodedFrame::clone(frames), droppable);
        }
        for (frame, _) in each {
            self.deliver_one(to, frame.into(), droppable);
        }
    }

    fn deliver_one(&mut self, to: ConnId, frame: EncodedFrame, droppable: bool) {
        let summary = self.oracle.on_frame(to, &frame, droppable, &self.site, self.now.instant);
        self.note(&format!("  {summary}"));
        let (soft, hard) = (self.plan.soft, self.plan.hard);
        let slot = to.slot as usize;
        let Some(link) = self.links[slot].as_mut() else { return };
        if link.id != to || link.wire.is_closing() {
            return;
        }
        if link.outbox.memory_bytes() > soft {
            link.flush(&mut self.ledger);
            if droppable && link.outbox.memory_bytes() > soft {
                self.missed += 1;
                return;
            }
            if link.outbox.memory_bytes() > hard {
                return self.overflow(slot);
            }
        }
        link.expected.push_back(EncodedFrame::clone(&frame));
        link.outbox.push(frame);
    }

    /// Flushes after input: queued pongs count against the hard limit as well.
    fn flush_and_check(&mut self, slot: usize) {
        let hard = self.plan.hard;
        let Some(link) = self.links[slot].as_mut() else { return };
        link.flush(&mut self.ledger);
        if !link.wire.is_closing() && link.outbox.memory_bytes() > hard {
            self.overflow(slot);
        }
    }

    fn overflow(&mut self, slot: usize) {
        let link = self.links[slot].as_mut().expect("the slot is in use");
        if !std::mem::replace(&mut link.overflowed, true) {
            self.overflowed.push(slot);
        }
    }

    fn next_overflowed(&mut self) -> Option<usize> {
        while let Some(slot) = self.overflowed.pop() {
            let link = self.links[slot].as_mut();
            if let Some(link) = link.filter(|link| link.overflowed && !link.wire.is_closing()) {
                link.outbox.drop_unsent(&mut self.ledger);
                return Some(slot);
            }
        }
        None
    }

    // ---- the end of connections

    pub fn close_with(&mut self, slot: usize, code: u16, reason: &'static str) {
        self.note(&format!("  closes {slot} with {code}, {reason}"));
        let now = self.now.instant;
        if let Some(link) = self.links[slot].as_mut() {
            link.wire.close(code, reason, &mut link.outbox);
            link.since = now;
        }
        self.report_closed(slot);
    }

    fn report_closed(&mut self, slot: usize) {
        let Some(link) = self.links[slot].as_mut() else { return };
        if std::mem::take(&mut link.opened) {
            let conn = link.id;
            self.oracle.record_close(conn, self.now.instant);
            self.hub.handle(Input::Closed { conn }, self.now);
        }
    }

    // ---- time

    /// Moves the bytes in the network on, lets clients read, and checks the queued bytes.
    pub fn transfer(&mut self) {
        for slot in 0..self.links.len() {
            let Some(link) = self.links[slot].as_mut() else { continue };
            // Bounded, since a client that reads may answer and get more to read.
            for _ in 0..1_000 {
                link.flush(&mut self.ledger);
                if link.read() == 0 {
                    break;
                }
                if link.reading != Reading::All {
                    break;
                }
            }
            if link.is_closed_by_server || (link.wire.is_closing() && link.is_drained()) {
                assert!(
                    link.wire.is_closing(),
                    "the server keeps a connection after its close frame"
                );
                self.cut(slot);
            }
        }
        let waiting: Vec<usize> =
            self.links.iter().flatten().map(|l| l.outbox.memory_bytes()).collect();
        // One frame may exceed the hard limit; the largest is a relayed one.
        let frame = FRAME_MAX + 1_000;
        let heaviest = waiting.iter().max().copied().unwrap_or(0);
        assert!(
            heaviest <= self.plan.hard + frame,
            "{heaviest} bytes are queued for one connection"
        );
        // A partly written frame is held as a whole.
        let slow = waiting.iter().filter(|weight| **weight > 0);
        let held = slow.map(|weight| weight + frame).sum::<usize>();
        assert!(self.ledger.bytes() <= held, "the ledger holds {} bytes", self.ledger.bytes());
    }

    /// Lets time pass in small steps, so that everything happens when it is due.
    pub fn advance(&mut self, time: Duration) {
        let until = self.now.instant + time;
        for steps in 0.. {
            assert!(steps < 10_000, "events without end");
            let tick = self.now.instant + TICK;
            let events = [self.site.next_event(), self.hub.next_deadline(), Some(tick)];
            let next = events.into_iter().flatten().min().unwrap_or(until);
            let next = next.clamp(self.now.instant, until);
            self.advance_to(next);
            if next == until {
                return;
            }
        }
    }

    /// Lets time pass in one step, as if the process was suspended.
    pub fn suspend(&mut self, time: Duration) {
        self.advance_to(self.now.instant + time);
    }

    /// Tells the hub whether the breaker lets requests through.
    pub fn set_site_available(&mut self, available: bool) {
        self.note(&format!("the site is available: {available}"));
        self.site_available = available;
        self.hub.handle(Input::SiteAvailable(available), self.now);
        self.drain();
    }

    /// Sets the wall clock.
    pub fn set_clock(&mut self, unix_s: u64) {
        self.now.unix_s = unix_s;
    }

    pub fn unix_s(&self) -> u64 {
        self.now.unix_s
    }

    fn advance_to(&mut self, next: Instant) {
        let before = self.site.unix_s(self.now.instant);
        self.now.instant = next;
        self.now.unix_s += self.site.unix_s(next) - before;
        for answers in 0.. {
            assert!(answers < 1_000, "queries without end");
            self.site.work(next, &mut self.rng);
            let Some((request, answer)) = self.site.answer(next) else { break };
            let printed = format!("{answer:?}");
            assert!(!printed.contains(SECRET), "a token in {printed}");
            self.note(&format!(
                "  answer {} {}",
                request.0,
                printed.split("message").next().unwrap()
            ));
            self.hub.handle(Input::Answered { request, answer }, self.now);
            self.drain();
        }
        let mut due = 0;
        while self.hub.advance(self.now) {
            self.drain();
            due += 1;
            assert!(due < 1_000, "deadlines without end");
        }
        let next = self.hub.next_deadline();
        assert!(next.is_none_or(|next| next > self.now.instant), "everything due is done");
        self.check_timeouts();
        self.drain_one();
        self.transfer();
    }

    /// Applies the timeouts of `server/timeouts.rs`.
    fn check_timeouts(&mut self) {
        let now = self.now.instant;
        for slot in 0..self.links.len() {
            let Some(link) = self.links[slot].as_mut() else { continue };
            let takes = now - link.since;
            if link.wire.is_in_handshake() {
                if takes >= HANDSHAKE_LASTS {
                    link.wire.time_out(&mut link.outbox);
                    link.since = now;
                }
            } else if link.wire.is_closing() {
                if takes >= CLOSING_LASTS {
                    self.cut(slot);
                }
            } else if link.wire.has_partial_message() && takes >= UNFINISHED_LASTS {
                self.close_with(slot, 1008, "the rest of a frame did not come");
                self.drain();
            } else if let Some(every) = self.plan.ping_every {
                if now - link.last_received < every * (u32::from(link.pings) + 1) {
                    continue;
                }
                if link.pings < PINGS_MAX {
                    link.pings += 1;
                    link.wire.ping(&self.codec, &mut link.outbox);
                    self.flush_and_check(slot);
                    self.drain();
                } else {
                    self.close_with(slot, 1001, "no sign of life");
                    self.drain();
                }
            }
        }
    }
}

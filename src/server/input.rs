//! What comes in: connections, what they say, and the site's answers.

use std::time::Duration;

use mio::Token;
use mio::event::Event;

use super::intake::{Arrival, READ_BYTES};
use super::traces::Trace;
use super::turn::Phase;
use super::{LISTENERS, SCRAPES, SIGNALS, Server, WAKER, listeners};
use crate::connection::Received;
use crate::connection::rate::Verdict;
use crate::hub::interface::{Input, Now};
use crate::wire;
use crate::wire::handshake::{self, Opened};

/// Connections accepted in one tick.
const ACCEPTS_PER_TICK: usize = 64;
/// Answers from the site taken in one tick.
const ANSWERS_PER_TICK: usize = 256;
/// Due things done in one tick, each of which may be for everyone.
const DUE_PER_TICK: usize = 64;
/// How long a tick may collect answers, and do due things.
const ANSWERS_LAST: Duration = Duration::from_millis(4);
const DUE_LASTS: Duration = Duration::from_millis(4);
/// Deliveries that one connection may cause in one tick, or a frame more than that: the others are
/// to have their share of the reading time.
const SHARE: u64 = 16_000;

impl Server {
    pub(super) fn event(&mut self, event: &Event, now: Now) {
        match event.token() {
            // Answers are collected in every tick; the waker only ends the sleep.
            WAKER => {}
            SIGNALS => self.heed_signals(now),
            Token(listener) if listener > LISTENERS - self.listeners.len() => {
                self.listeners.note_ready(LISTENERS - listener);
            }
            Token(scrape) if scrape >= SCRAPES => self.scrapes.event(scrape),
            Token(slot) => {
                let slot = slot as u32;
                if event.is_writable() {
                    if let Some(reader) = self.crowd.get(slot).filter(|reader| reader.blocked) {
                        // Who takes bytes is alive; a ping would reach it behind them.
                        (reader.heard, reader.pings) = (self.moment, 0);
                    }
                    self.crowd.note_writable(slot);
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
            let open = self.crowd.len();
            if !self.listeners.has_more() || !self.admission.is_open(open) {
                return;
            }
            let (socket, peer) = match self.listeners.accept() {
                Ok(Some(accepted)) => accepted,
                Ok(None) => return,
                Err(fault) => {
                    self.counts.accept_errors += 1;
                    return self.admission.failed(open, &fault);
                }
            };
            // Before TLS is agreed on, no word would be understood: the close says it.
            let plain = self.identity.is_none();
            if open >= self.admission.connections_max {
                self.counts.refused += 1;
                listeners::refuse(socket, plain.then(handshake::too_many_connections));
                continue;
            }
            let counted = self.admission.counts(peer);
            if counted && !self.admission.enter(peer) {
                self.counts.refused += 1;
                self.counts.refused_address += 1;
                listeners::refuse(socket, plain.then(handshake::too_many_from_there));
                continue;
            }
            self.counts.accepted += 1;
            self.work.accepted += 1;
            let identity = self.identity.as_ref();
            if let Err(fault) = self.crowd.add(socket, peer, counted, identity, self.moment) {
                log::warn!("cannot watch a connection: {fault}");
                if counted {
                    self.admission.leave(peer);
                }
            }
        }
    }

    /// Reads one connection once; it is looked at by [`Server::take_in_all`]. A short read means
    /// that the socket is drained, unless the event said that the peer's end is there to be read as
    /// well. Nobody is read twice before all is taken in.
    pub(super) fn read(&mut self, slot: u32, ends: bool, now: Now) {
        if self.crowd.get(slot).is_none_or(|connection| connection.again) {
            return;
        }
        if self.reads.was_over() || self.agrees_later(slot) {
            return self.crowd.put_off(slot);
        }
        let room = self.intake.room();
        let unread = self.crowd.take_unread(slot, room);
        let received = match unread {
            Some(bytes) => Received::Bytes(bytes),
            None => self.crowd.receive(slot, room),
        };
        let bytes = match received {
            Received::Bytes(bytes) => bytes,
            Received::Nothing => return,
            Received::End => {
                self.note_tls_fault(slot);
                return self.crowd.doom(slot);
            }
        };
        if unread.is_none() {
            self.stats.received_bytes += bytes as u64;
        }
        if bytes == READ_BYTES || ends || unread.is_some() {
            self.crowd.read_again(slot);
        }
        self.intake.note(slot, bytes);
        if self.intake.is_full() {
            self.take_in_all(now);
        }
    }

    /// Takes in what has been read.
    pub(super) fn take_in_all(&mut self, now: Now) {
        // The hub may not be told while the buffer is borrowed from the server.
        let mut intake = std::mem::take(&mut self.intake);
        for Arrival { slot, place } in &intake.arrivals {
            self.take_in(*slot, &mut intake.buffer[place.clone()], now);
        }
        intake.clear();
        self.intake = intake;
    }

    /// Takes in what a connection said, up to its share.
    fn take_in(&mut self, slot: u32, mut input: &mut [u8], now: Now) {
        let Some(connection) = self.crowd.get(slot) else { return };
        connection.heard = self.moment;
        connection.pings = 0;
        if connection.wire.is_between_messages() {
            // What these bytes begin, if they do not end it.
            connection.since = self.moment;
        }
        if self.reads.is_over(self.crowd.sent) {
            // There was time to read it, and none to look at it.
            self.crowd.put_off(slot);
            return self.crowd.keep_unread(slot, input);
        }
        let share_ends = self.crowd.sent + SHARE;
        while self.take_in_next(slot, &mut input, now) && !input.is_empty() {
            if self.crowd.sent >= share_ends || self.reads.is_over(self.crowd.sent) {
                self.crowd.keep_unread(slot, input);
                break;
            }
        }
        self.crowd.note_output(slot);
    }

    /// Takes in the next thing that a connection said; false when there is no more.
    fn take_in_next(&mut self, slot: u32, input: &mut &mut [u8], now: Now) -> bool {
        let Some(connection) = self.crowd.get(slot) else {
            return false;
        };
        let conn = connection.id;
        let held = connection.wire.held_bytes();
        let event = connection.wire.next(&mut self.codec, input, &mut connection.outbox);
        let holds = connection.wire.held_bytes();
        // A ping between the fragments of a message gives its rest no more time.
        if !matches!(event, wire::Event::Drained) && !connection.wire.is_unfinished() {
            connection.since = self.moment;
        }
        let verdict = if event.is_frame() {
            self.work.frames += 1;
            self.rate.judge(&mut connection.ahead, self.since_start)
        } else {
            Verdict::Accepted
        };
        self.crowd.note_held(held, holds);
        if verdict == Verdict::Refused {
            self.counts.rate_limited += 1;
        }
        match (event, verdict) {
            (_, Verdict::Flood) => return self.end_flood(slot, now),
            (wire::Event::Text(text), Verdict::Accepted) => {
                self.hub.handle(Input::Frame { conn, text: &text }, now);
            }
            (wire::Event::Text(text), Verdict::Refused) => {
                self.hub.handle(Input::Refused { conn, text: Some(&text) }, now);
            }
            (_, Verdict::Refused) => self.hub.handle(Input::Refused { conn, text: None }, now),
            (wire::Event::Binary(_), _) => self.hub.handle(Input::Binary { conn }, now),
            (wire::Event::Control, _) => {
                self.stats.control += 1;
                return true;
            }
            (wire::Event::Drained, _) => return false,
            (wire::Event::Opened(opened), _) => self.opened(slot, opened, now),
            (wire::Event::CallAsked(asked), _) => self.call_asked(slot, asked, now),
            (wire::Event::OriginRefused { origin }, _) => {
                self.counts.refused_pages += 1;
                self.refusals.note(&origin, now.instant);
            }
            (wire::Event::Closing, _) => self.tell_closed(slot, now),
        }
        self.drain(now);
        true
    }

    /// Ends a connection that has been told that it says too much, and goes on.
    fn end_flood(&mut self, slot: u32, now: Now) -> bool {
        self.counts.floods += 1;
        self.dismiss(slot, 1008, "too many frames", now);
        self.drain(now);
        false
    }

    /// A WebSocket has been opened; its answer has not left yet.
    fn opened(&mut self, slot: u32, Opened { client, credential }: Opened, now: Now) {
        let Some(conn) = self.enter(slot, client) else { return };
        log::debug!(connection = conn.serial; "open from {client}");
        self.hub.handle(Input::Opened { conn, credential }, now);
    }

    pub(super) fn collect_answers(&mut self, now: Now) {
        let mut phase = Phase::new(ANSWERS_LAST, self.crowd.sent);
        for _ in 0..ANSWERS_PER_TICK {
            if phase.is_over(self.crowd.sent) {
                return;
            }
            let Some((request, answer)) = self.upstream.next_answer() else {
                return;
            };
            self.work.answers += 1;
            let trace = Trace::of(&self.hub, request, &answer);
            self.hub.handle(Input::Answered { request, answer }, now);
            trace.inspect(|trace| trace.answered(&self.hub));
            self.drain(now);
        }
    }

    pub(super) fn do_what_is_due(&mut self, now: Now) {
        let mut phase = Phase::new(DUE_LASTS, self.crowd.sent);
        for _ in 0..DUE_PER_TICK {
            if phase.is_over(self.crowd.sent) || !self.hub.advance(now) {
                return;
            }
            self.work.due += 1;
            self.drain(now);
        }
    }
}

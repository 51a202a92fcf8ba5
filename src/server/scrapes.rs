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
use super::{SCRAPES, Server};
use crate::config::Listen;
use crate::hub::interface::Now;
use crate::wire::handshake::Readiness;
use crate::wire::monitor::{self, Asked, HEAD_BYTES_MAX};

/// Monitors at a time. One more takes the place of the one that has been there longest, or waits
/// in the kernel's queue until that one has had its time.
const SCRAPES_MAX: usize = 8;
/// Those that the kernel keeps meanwhile. Eight a second have their turn, whatever they are: with
/// as many as clients may be, a crowd that says nothing would keep a monitor out for minutes.
const WAITING_MAX: i32 = 64;
/// What nobody takes from a monitor.
const UNDISTURBED: Duration = Duration::from_secs(1);
/// How long a monitor may take, from accept to its end of the stream.
const LASTS: Duration = Duration::from_secs(5);
/// Listener number n has the token `LISTENERS - n`.
const LISTENERS: usize = SCRAPES + 2_048;
/// What a monitor may say after its request, before it is closed on.
const AFTERWORDS_MAX: usize = 16 * 1024;

/// The listener, if there is one, and who asks.
pub(super) struct Scrapes {
    listeners: Listeners,
    /// Accepting has failed, as it does without descriptors; the next sweep lets it try again.
    failed: bool,
    open: [Option<Scrape>; SCRAPES_MAX],
}

/// One monitor.
struct Scrape {
    socket: TcpStream,
    since: Instant,
    /// Something has happened to its socket that has not been looked at.
    stirs: bool,
    stage: Stage,
}

/// How far a monitor is.
enum Stage {
    /// Its request is not complete.
    Asks(Vec<u8>),
    /// It waits for the numbers, or only for the head of the answer.
    Wants { head_only: bool },
    /// It is answered; so many bytes have left.
    Hears(Vec<u8>, usize),
    /// Its end of the stream is awaited: closed earlier, what it has not read could be lost. It has
    /// said so many bytes since.
    Parts(usize),
}

impl Scrapes {
    /// Listens, if an address is given.
    ///
    /// # Errors
    ///
    /// It cannot be listened on.
    pub(super) fn bind(listen: Option<&Listen>, registry: &Registry) -> io::Result<Scrapes> {
        let addresses = listen.map(Listen::resolve).transpose().map_err(io::Error::other)?;
        let addresses = addresses.unwrap_or_default();
        let listeners = Listeners::bind(&addresses, WAITING_MAX, registry, LISTENERS)?;
        for address in listeners.addresses() {
            log::info!("metrics on http://{address}/metrics");
            if !address.ip().is_loopback() {
                log::warn!(
                    "--metrics-listen {address}: whoever reaches this address reads the numbers; \
                     expected is 127.0.0.1, or a firewall in front"
                );
            }
        }
        Ok(Scrapes { listeners, failed: false, open: std::array::from_fn(|_| None) })
    }

    /// Notes an event, which is looked at at the end of the tick.
    pub(super) fn event(&mut self, token: usize) {
        match self.open.get_mut(token - SCRAPES) {
            Some(scrape) => scrape.iter_mut().for_each(|scrape| scrape.stirs = true),
            None => self.listeners.note_ready(LISTENERS - token),
        }
    }

    /// Whether the next tick has something to do without any event.
    pub(super) fn has_left_over(&self) -> bool {
        let may_enter = self.has_more() && self.open.iter().any(Option::is_none);
        may_enter || self.open.iter().flatten().any(|scrape| scrape.stirs || scrape.wants())
    }

    fn has_more(&self) -> bool {
        self.listeners.has_more() && !self.failed
    }

    /// Sends those away who take too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.failed = false;
        for place in &mut self.open {
            if place.as_ref().is_some_and(|scrape| scrape.lasts(now) >= LASTS) {
                *place = None;
            }
        }
    }

    /// Accepts, reads, and writes what is there to write.
    fn advance(&mut self, registry: &Registry, readiness: Readiness, now: Instant) {
        self.accept(registry, now);
        for place in &mut self.open {
            let Some(scrape) = place else { continue };
            if std::mem::take(&mut scrape.stirs) && !scrape.advance(readiness) {
                *place = None;
            }
        }
    }

    /// Accepts as long as there is somebody and a place; the rest is tried again in each tick.
    fn accept(&mut self, registry: &Registry, now: Instant) {
        while self.has_more() {
            let Some(place) = self.place(now) else { return };
            let accepted = self.listeners.accept();
            self.failed = accepted.is_err();
            let Ok(Some((mut socket, _))) = accepted else { return };
            let both = Interest::READABLE | Interest::WRITABLE;
            if registry.register(&mut socket, Token(SCRAPES + place), both).is_ok() {
                let stage = Stage::Asks(Vec::new());
                self.open[place] = Some(Scrape { socket, since: now, stirs: true, stage });
            }
        }
    }

    /// A free place, or that of who has been there longest and long enough.
    fn place(&self, now: Instant) -> Option<usize> {
        let places = self.open.iter().enumerate();
        let lasts = |scrape: &Option<Scrape>| {
            scrape.as_ref().map_or(Duration::MAX, |scrape| scrape.lasts(now))
        };
        let (place, scrape) = places.max_by_key(|(_, scrape)| lasts(scrape))?;
        (lasts(scrape) >= UNDISTURBED).then_some(place)
    }

    /// Who waits for the numbers, the one that has waited longest.
    fn next_wanting(&mut self) -> Option<&mut Option<Scrape>> {
        let wants = |place: &&mut Option<Scrape>| place.as_ref().is_some_and(Scrape::wants);
        self.open
            .iter_mut()
            .filter(wants)
            .min_by_key(|place| place.as_ref().map(|scrape| scrape.since))
    }
}

impl Scrape {
    fn wants(&self) -> bool {
        matches!(self.stage, Stage::Wants { .. })
    }

    fn lasts(&self, now: Instant) -> Duration {
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
                Ok(0) => return matches!(self.stage, Stage::Wants { .. } | Stage::Hears(..)),
                Ok(bytes) => bytes,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
                Err(fault) => return fault.kind() == io::ErrorKind::WouldBlock,
            };
            match &mut self.stage {
                Stage::Asks(head) => {
                    head.extend_from_slice(&piece[..bytes]);
                    debug_assert!(head.len() < HEAD_BYTES_MAX + piece.len());
                    match monitor::receive(head, readiness) {
                        Asked::Incomplete => {}
                        Asked::Metrics { head_only } => self.stage = Stage::Wants { head_only },
                        Asked::Respond(response) => {
                            self.stage = Stage::Hears(response.into_bytes(), 0);
                        }
                    }
                }
                // It has said what there is to say: its next event finds the rest.
                Stage::Wants { .. } | Stage::Hears(..) => return true,
                Stage::Parts(said) => {
                    *said += bytes;
                    if *said > AFTERWORDS_MAX {
                        return false;
                    }
                }
            }
        }
    }

    fn write(&mut self) -> bool {
        let Stage::Hears(response, sent) = &mut self.stage else { return true };
        while *sent < response.len() {
            match self.socket.write(&response[*sent..]) {
                Ok(0) => return false,
                Ok(bytes) => *sent += bytes,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) => return fault.kind() == io::ErrorKind::WouldBlock,
            }
        }
        self.stage = Stage::Parts(0);
        // What it has said already may have been read over: its end of the stream among it.
        self.stirs = true;
        self.socket.shutdown(Shutdown::Write).is_ok()
    }
}

impl Server {
    /// Serves the monitors, at the end of a tick, when all is counted.
    pub(super) fn serve_scrapes(&mut self, now: Now) {
        let scrapes = &self.scrapes;
        if !scrapes.listeners.has_more() && scrapes.open.iter().all(Option::is_none) {
            return;
        }
        let readiness = self.readiness(now.instant);
        self.scrapes.advance(self.poll.registry(), readiness, now.instant);
        if self.scrapes.next_wanting().is_none() {
            return;
        }
        let page = self.numbers(now);
        let Some(place) = self.scrapes.next_wanting() else { return };
        if let Some(scrape) = place {
            let head_only = matches!(scrape.stage, Stage::Wants { head_only: true });
            let response = monitor::metrics(&page, head_only);
            scrape.stage = Stage::Hears(response.into_bytes(), 0);
            if !scrape.write() {
                *place = None;
            }
        }
    }
}

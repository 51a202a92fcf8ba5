//! Requests of the site's plugin: verifies events and passes them to the hub.
//!
//! They arrive on the public listeners, or only on those of `--site-listen`. A body is collected by
//! its connection; a few may arrive at the same time, and a slow one gives way to the next.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use mio::Registry;

use super::listeners::{BindOptions, Listeners};
use super::replay_memory::{ReplayMemory, Replayed};
use super::{SITE_LISTENER_TOKENS, Server};
use crate::config::{Config, SITE_CONNECTIONS_MAX};
use crate::connection::ActiveTime;
use crate::connection::rate::{RateLimit, RateState, RateVerdict};
use crate::http::site_events::{self, SiteRefusal, TEST_TOKEN_BYTES_MAX};
use crate::hub::interface::{CallEvent, ConnId, Input, Now};
use crate::protocol::signature::{Purpose, Signature, SignatureFault, SiteKeys};
use crate::protocol::site_event::{SiteEvent, SiteEvents};
use crate::protocol::{Id, IdKey};
use crate::upstream::plugin::CallNotice;

/// Requests of the plugin in a second, and at once.
const REQUESTS_PER_SECOND: usize = 50;
const REQUESTS_BURST: usize = 200;
/// Bodies that arrive at the same time. A further one replaces the oldest once that is
/// [`EVICT_AFTER`] old: the plugin sends a body at once, and others must not keep it out.
const BODIES_MAX: usize = 8;
const EVICT_AFTER: Duration = Duration::from_secs(1);
/// How long a body may take.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Test events whose arrival is remembered.
const TESTS_MAX: usize = 8;
/// Log a refusal of each cause at most this often.
const WARN_EVERY: Duration = Duration::from_secs(60);
const LISTENER_BACKLOG: i32 = 64;

/// The keys, listeners and counters for requests of the plugin.
pub(super) struct SiteRequests {
    /// `None` without a secret.
    keys: Option<SiteKeys>,
    pub(super) listeners: Listeners,
    /// Connections of its own listeners; some may have closed.
    connections: Vec<ConnId>,
    /// Bodies that arrive, the oldest first, with their begin; some may have ended.
    bodies: VecDeque<(ConnId, ActiveTime)>,
    replay_memory: ReplayMemory,
    rate: RateLimit,
    rate_state: RateState,
    /// Tokens of test events, the oldest first.
    tests: VecDeque<String>,
    /// The version of the plugin, as it says.
    plugin: Option<String>,
    /// When a refusal was logged last, in the order of [`SiteRefusal::ALL`].
    warned: [Option<Duration>; SiteRefusal::ALL.len()],
    pub(super) stats: SiteRequestStats,
}

/// Counts of events and refusals.
#[derive(Debug, Default)]
pub(super) struct SiteRequestStats {
    /// Events, in the order of [`SiteEvent::TYPES`].
    events: [u64; SiteEvent::TYPES.len()],
    tests: u64,
    ignored: u64,
    /// Refusals, in the order of [`SiteRefusal::ALL`].
    refused: [u64; SiteRefusal::ALL.len()],
}

impl SiteRequestStats {
    /// Events by type.
    pub(super) fn events_by_type(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let others = [("test", self.tests), ("ignored", self.ignored)];
        SiteEvent::TYPES.into_iter().zip(self.events).chain(others)
    }

    /// Refusals by cause.
    pub(super) fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        SiteRefusal::ALL.into_iter().map(|(_, name)| name).zip(self.refused)
    }
}

impl SiteRequests {
    /// Listens on `--site-listen`, if it is set.
    ///
    /// # Errors
    ///
    /// The address cannot be bound.
    pub(super) fn bind(
        config: &Config,
        keys: Option<SiteKeys>,
        registry: &Registry,
    ) -> io::Result<SiteRequests> {
        let options = BindOptions::new(config, LISTENER_BACKLOG);
        let listeners =
            Listeners::bind(&config.site_listen, &options, registry, SITE_LISTENER_TOKENS)?;
        listeners.log_plain_http(
            "events of the site",
            "/site/events",
            "--site-listen",
            "messages reach this address without encryption; use 127.0.0.1 or a private network, \
             or --listen with TLS",
        );
        Ok(SiteRequests {
            keys,
            listeners,
            connections: Vec::new(),
            bodies: VecDeque::new(),
            replay_memory: ReplayMemory::default(),
            rate: RateLimit::new(REQUESTS_PER_SECOND, REQUESTS_BURST),
            rate_state: RateState::default(),
            tests: VecDeque::new(),
            plugin: None,
            warned: [None; SiteRefusal::ALL.len()],
            stats: SiteRequestStats::default(),
        })
    }

    /// Verifies with these keys from now on.
    pub(super) fn set_keys(&mut self, keys: Option<SiteKeys>) {
        self.keys = keys;
    }

    /// Whether the public listeners take events.
    pub(super) fn is_public(&self) -> bool {
        self.keys.is_some() && self.listeners.len() == 0
    }

    /// Verifies and parses a body. The reason of a refusal is for the log.
    fn check(
        &mut self,
        signature: &str,
        body: &[u8],
        since_start: Duration,
        unix_s: u64,
    ) -> Result<SiteEvents, (SiteRefusal, String)> {
        let refuse = |cause, reason: &str| Err((cause, reason.to_owned()));
        let Some(keys) = &self.keys else {
            return refuse(SiteRefusal::Signature, "no --site-secret-file is set");
        };
        keys.verify(Purpose::Events, signature, body, unix_s).map_err(explain)?;
        if self.rate.check(&mut self.rate_state, since_start) != RateVerdict::Accepted {
            return refuse(SiteRefusal::Rate, "more than 50 requests in a second");
        }
        let events =
            SiteEvents::parse(body).or_else(|reason| refuse(SiteRefusal::Format, reason))?;
        match self.replay_memory.insert(&events.id, since_start) {
            Ok(()) => Ok(events),
            Err(Replayed::Seen) => refuse(SiteRefusal::Replay, "its id was accepted before"),
            Err(Replayed::Full) => {
                refuse(SiteRefusal::Rate, "the memory of ids is full for some minutes")
            }
        }
    }

    /// Counts a refusal. Returns whether it is to be logged as a warning.
    fn note_refusal(&mut self, cause: SiteRefusal, since_start: Duration) -> bool {
        let index = cause as usize;
        self.stats.refused[index] += 1;
        let is_due = self.warned[index].is_none_or(|at| since_start - at >= WARN_EVERY);
        if is_due {
            self.warned[index] = Some(since_start);
        }
        is_due
    }

    /// Takes out test events, which are for the doctor, and counts the others.
    fn take_tests(&mut self, events: &mut Vec<SiteEvent>) {
        for event in events.iter() {
            match (event.type_index(), event) {
                (Some(index), _) => self.stats.events[index] += 1,
                (None, SiteEvent::Test { token }) => {
                    self.stats.tests += 1;
                    if token.len() <= TEST_TOKEN_BYTES_MAX {
                        if self.tests.len() == TESTS_MAX {
                            self.tests.pop_front();
                        }
                        self.tests.push_back(token.clone());
                    }
                }
                (None, _) => {}
            }
        }
        events.retain(|event| !matches!(event, SiteEvent::Test { .. }));
    }
}

/// The refusal for a signature that is not valid, with its reason for the log.
fn explain(fault: SignatureFault) -> (SiteRefusal, String) {
    match fault {
        SignatureFault::Malformed => {
            (SiteRefusal::Signature, "it has no valid Buddyline-Signature header".to_owned())
        }
        SignatureFault::Mismatch => (
            SiteRefusal::Signature,
            "its signature is made with another secret than that of --site-secret-file".to_owned(),
        ),
        SignatureFault::Clock(ahead) => {
            let direction = if ahead < 0 { "behind" } else { "ahead of" };
            let seconds = ahead.unsigned_abs();
            let reason = format!(
                "its time is {seconds} s {direction} the clock of this machine: set both clocks \
                 (NTP)"
            );
            (SiteRefusal::Clock, reason)
        }
    }
}

impl Server {
    /// Accepts connections of the site's plugin on its own listeners.
    pub(super) fn accept_site(&mut self) {
        if !self.site_requests.listeners.has_more() {
            return;
        }
        let connections = &mut self.connections;
        let is_open = |id: &ConnId| connections.get(id.slot).is_some_and(|c| c.id == *id);
        self.site_requests.connections.retain(is_open);
        while self.site_requests.connections.len() < SITE_CONNECTIONS_MAX {
            let (socket, peer) = match self.site_requests.listeners.accept() {
                Ok(Some(accepted)) => accepted,
                Ok(None) => return,
                Err(fault) => {
                    self.counts.accept_errors += 1;
                    return log::debug!("cannot accept a connection of the site: {fault}");
                }
            };
            match self.connections.add(socket, peer, false, None, self.active_now) {
                Ok(connection) => {
                    connection.wire.serve_site();
                    self.site_requests.connections.push(connection.id);
                }
                Err(fault) => log::warn!("cannot register a connection of the site: {fault}"),
            }
        }
    }

    /// Admits a body that the plugin has announced, or refuses it.
    pub(super) fn admit_events(&mut self, slot: u32, now: Now) {
        let Some(connection) = self.connections.get(slot) else { return };
        let id = connection.id;
        if let Some(Err(fault)) = connection.wire.announced_signature().map(|signature| {
            // Before the body is read: this costs nothing.
            Signature::parse(signature, now.unix_s)
        }) {
            let (cause, reason) = explain(fault);
            return self.refuse_events(slot, cause, &reason, now);
        }
        let connections = &mut self.connections;
        let mut is_arriving = |id: ConnId| {
            let connection = connections.get(id.slot).filter(|connection| connection.id == id);
            connection.is_some_and(|connection| connection.wire.is_receiving_events())
        };
        self.site_requests.bodies.retain(|(id, _)| is_arriving(*id));
        if self.site_requests.bodies.len() >= BODIES_MAX {
            let oldest = self.site_requests.bodies.front().copied();
            let is_old =
                |(_, began): &(ConnId, ActiveTime)| self.active_now.since(*began) >= EVICT_AFTER;
            let Some((oldest, _)) = oldest.filter(is_old) else {
                let reason = "too many bodies arrive at the same time";
                return self.refuse_events(slot, SiteRefusal::Busy, reason, now);
            };
            self.site_requests.bodies.pop_front();
            let reason = "its body arrives slowly, and others wait";
            self.refuse_events(oldest.slot, SiteRefusal::Late, reason, now);
        }
        self.site_requests.bodies.push_back((id, self.active_now));
        if let Some(connection) = self.connections.get(slot) {
            connection.wire.accept_events(&mut connection.outbox);
        }
    }

    /// Verifies events and passes them to the hub.
    pub(super) fn handle_events(&mut self, slot: u32, signature: &str, body: &[u8], now: Now) {
        if self.draining.is_some() {
            return self.refuse_events(slot, SiteRefusal::Draining, "the server stops", now);
        }
        let checked = self.site_requests.check(signature, body, self.since_start, now.unix_s);
        let SiteEvents { plugin, mut events, ignored, .. } = match checked {
            Ok(events) => events,
            Err((cause, reason)) => return self.refuse_events(slot, cause, &reason, now),
        };
        self.site_requests.stats.ignored += ignored as u64;
        let accepted = events.len();
        self.site_requests.take_tests(&mut events);
        self.note_plugin(plugin);
        log::debug!("the site's plugin reports {accepted} events; {ignored} are ignored");
        self.answer_site(slot, site_events::accepted(accepted, ignored, &date(now)));
        if !events.is_empty() {
            self.hub.handle(Input::SiteEvents(events), now);
        }
    }

    /// Tells the doctor whether a test event has arrived.
    pub(super) fn answer_test_arrival(&mut self, slot: u32, token: &str) {
        let has_arrived = self.site_requests.tests.iter().any(|test| test == token);
        self.answer_site(slot, site_events::test_arrival(has_arrived));
    }

    /// Counts a request of the plugin that was refused by its head.
    pub(super) fn note_site_refusal(&mut self, slot: u32, cause: SiteRefusal) {
        let reason = match cause {
            SiteRefusal::Size => "its body is larger than 512 KiB",
            SiteRefusal::Draining => "the server stops",
            SiteRefusal::Signature => "it has no Buddyline-Signature header",
            _ => "expected a Content-Length, and no Transfer-Encoding",
        };
        self.log_site_refusal(slot, cause, reason);
    }

    /// Counts a body whose connection has ended.
    pub(super) fn note_truncated_events(&mut self, slot: u32) {
        if self.connections.get(slot).is_some_and(|c| c.wire.is_receiving_events()) {
            let reason = "the connection ended before the body did";
            self.log_site_refusal(slot, SiteRefusal::Truncated, reason);
        }
    }

    /// Refuses a body that has not arrived in time.
    pub(super) fn time_out_events(&mut self, slot: u32, now: Now) {
        let reason = "its body did not arrive within 10 s";
        self.refuse_events(slot, SiteRefusal::Late, reason, now);
    }

    /// Counts a refused request of the plugin, and logs it once a minute.
    fn log_site_refusal(&mut self, slot: u32, cause: SiteRefusal, reason: &str) {
        let is_due = self.site_requests.note_refusal(cause, self.since_start);
        let level = if is_due { log::Level::Warn } else { log::Level::Debug };
        if let Some(connection) = self.connections.get(slot) {
            let peer = connection.client;
            log::log!(
                level,
                "refused a request to /site/events from {peer}: {reason} (logged once a minute)"
            );
        }
    }

    /// Refuses a request whose response has not been sent yet.
    fn refuse_events(&mut self, slot: u32, cause: SiteRefusal, reason: &str, now: Now) {
        self.log_site_refusal(slot, cause, reason);
        self.answer_site(slot, cause.response(&date(now)));
    }

    /// Tells the site's plugin of a call, unless the site does not number its users, as open trust
    /// allows.
    pub(super) fn notify_site_of_call(&mut self, event: &CallEvent, missed: bool, now: Now) {
        let [caller, called] = [&event.caller, &event.called].map(Id::site_number);
        let (Some(caller), Some(called)) = (caller, called) else { return };
        let call = match &event.call.key {
            IdKey::Number(number) => number.to_string(),
            IdKey::Text(text) => text.to_string(),
        };
        let thread = event.thread.as_ref().and_then(Id::site_number);
        let (at_s, group) = (now.unix_s, event.group);
        self.upstream.notify_call(CallNotice { missed, call, thread, caller, called, at_s, group });
    }

    fn answer_site(&mut self, slot: u32, response: String) {
        self.connections.answer_site(slot, response, self.active_now);
    }

    fn note_plugin(&mut self, plugin: Option<String>) {
        let is_version = |text: &String| {
            text.len() <= 32
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+".contains(&b))
        };
        let plugin = plugin.filter(is_version);
        if plugin.is_some() && plugin != self.site_requests.plugin {
            log::info!("the site's plugin {} sends events", plugin.as_deref().unwrap_or_default());
            self.site_requests.plugin = plugin;
        }
    }
}

/// The header by which the plugin compares the clocks.
fn date(now: Now) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(now.unix_s);
    format!("Date: {}\r\n", httpdate::fmt_http_date(time))
}

//! What the service manager is told: sd_notify(3).
//!
//! The loop itself feeds the watchdog, so that a loop that is stuck is one that is not heard. Once
//! the server is up nothing here waits: a manager that does not read misses a word, and hears the
//! next. That the server is up, or has read its settings anew, is said until it is taken.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::Server;
use crate::hub::interface::Now;

/// How often the status is made anew.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// While it drains, the manager is asked for so much more time, again and again.
const EXTEND_EVERY: Duration = Duration::from_secs(2);
const EXTEND_BY: Duration = Duration::from_secs(15);
/// How often the watchdog is fed while it waits: a late tick or two are no death.
const WATCHDOG_PINGS: u32 = 4;
/// And no more often than this, however little it waits.
const WATCHDOG_INTERVAL_MIN: Duration = Duration::from_millis(1);
/// How long a word that must not be missed waits until it is said again.
const READY_RETRY_AFTER: Duration = Duration::from_millis(100);

/// The service manager, if there is one.
pub(super) struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// How often the watchdog is fed.
    watchdog_interval: Option<Duration>,
    watchdog_sent: Instant,
    status_sent: Instant,
    status: String,
    /// Since when more time is asked for.
    extension_sent: Option<Instant>,
    /// The manager did not take the word that the server is up, at this time at the latest.
    ready_unsent_since: Option<Instant>,
}

impl ServiceManager {
    /// The manager that the environment names, and how long it waits for a sign of life.
    pub(super) fn from_env(now: Instant) -> ServiceManager {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let socket = name.and_then(|name| match connect(&name) {
            Ok(socket) => Some(socket),
            Err(fault) => {
                log::warn!("cannot tell the service manager anything: {fault}");
                None
            }
        });
        let watchdog = sd_notify::watchdog_enabled().filter(|lasts| !lasts.is_zero());
        ServiceManager {
            socket,
            watchdog_interval: watchdog
                .map(|lasts| (lasts / WATCHDOG_PINGS).max(WATCHDOG_INTERVAL_MIN)),
            watchdog_sent: now,
            status_sent: now,
            status: String::new(),
            extension_sent: None,
            ready_unsent_since: None,
        }
    }

    /// The server is up, or has done with its reload.
    pub(super) fn ready(&mut self, now: Instant) {
        // Who has not heard it waits, and ends the server in the end.
        self.ready_unsent_since = (!self.notify(&[NotifyState::Ready])).then_some(now);
    }

    /// The settings are being read.
    pub(super) fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now]),
            Err(_) => self.notify(&[NotifyState::Reloading]),
        };
    }

    /// The server is about to end.
    pub(super) fn stopping(&mut self, now: Instant) {
        (self.extension_sent, self.ready_unsent_since) = (Some(now), None);
        // It is to be told anew at once.
        self.status.clear();
        self.notify(&[NotifyState::Stopping, extension()]);
    }

    /// When there is something to say, though nothing happens until then.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.socket.as_ref()?;
        let feed = self.watchdog_interval.map(|every| self.watchdog_sent + every);
        let extend = self.extension_sent.map(|at| at + EXTEND_EVERY);
        let repeat = self.ready_unsent_since.map(|at| at + READY_RETRY_AFTER);
        [feed, extend, repeat].into_iter().flatten().min()
    }

    /// Says what is due.
    pub(super) fn advance(&mut self, now: Instant, status: impl FnOnce() -> String) {
        if self.socket.is_none() {
            return;
        }
        if self.ready_unsent_since.is_some_and(|at| now.duration_since(at) >= READY_RETRY_AFTER) {
            self.ready(now);
        }
        if self
            .watchdog_interval
            .is_some_and(|every| now.duration_since(self.watchdog_sent) >= every)
        {
            self.watchdog_sent = now;
            self.notify(&[NotifyState::Watchdog]);
        }
        if self.extension_sent.is_some_and(|at| now.duration_since(at) >= EXTEND_EVERY) {
            self.extension_sent = Some(now);
            self.notify(&[extension()]);
        }
        if self.status.is_empty() || now.duration_since(self.status_sent) >= STATUS_EVERY {
            self.status_sent = now;
            let status = status();
            if status != self.status {
                self.notify(&[NotifyState::Status(&status)]);
                self.status = status;
            }
        }
    }

    /// Whether it has not been missed.
    fn notify(&self, states: &[NotifyState<'_>]) -> bool {
        let Some(socket) = &self.socket else { return true };
        let words: String = states.iter().map(|state| format!("{state}\n")).collect();
        match socket.send(words.as_bytes()) {
            Ok(_) => true,
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                log::debug!("the service manager does not read");
                false
            }
            Err(fault) => {
                log::debug!("cannot tell the service manager: {fault}");
                // There is nobody any more who could take it.
                true
            }
        }
    }
}

impl Server {
    /// Tells the service manager what is due.
    pub(super) fn notify_service_manager(&mut self, now: Now) {
        let Server { service_manager, connections, hub, upstream, draining, .. } = self;
        service_manager.advance(now.instant, || {
            let counts = hub.counts();
            let site = if upstream.is_available() { "" } else { ", the site does not answer" };
            let drains = if draining.is_some() { "draining, " } else { "" };
            format!("{drains}{} connections, {} threads{site}", connections.len(), counts.threads)
        });
    }
}

fn extension() -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(EXTEND_BY.as_micros() as u32)
}

/// A path, or behind an `@` an abstract name.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

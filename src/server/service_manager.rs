//! Notifications to the service manager by sd_notify(3): readiness, status, watchdog.
//!
//! The loop itself pings the watchdog, so that systemd restarts a loop that is stuck. Sending never
//! blocks: a manager that does not read misses a notification and gets the next. Only `READY=1`,
//! at the start and after a reload, is repeated until it is sent.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::Server;
use crate::hub::interface::Now;

/// Interval at which the status is updated.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// While draining, ask for `EXTEND_BY` more time at this interval.
const EXTEND_EVERY: Duration = Duration::from_secs(2);
const EXTEND_BY: Duration = Duration::from_secs(15);
/// Watchdog pings per timeout, so that a late tick or two do no harm.
const WATCHDOG_PINGS: u32 = 4;
/// Minimum interval of watchdog pings, however short the timeout.
const WATCHDOG_INTERVAL_MIN: Duration = Duration::from_millis(1);
/// Delay before a failed `READY=1` is sent again.
const READY_RETRY_AFTER: Duration = Duration::from_millis(100);

/// The service manager's notification socket, if there is one.
pub(super) struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// Interval of watchdog pings.
    watchdog_interval: Option<Duration>,
    watchdog_sent: Instant,
    status_sent: Instant,
    status: String,
    /// While draining, when more time was last asked for.
    extension_sent: Option<Instant>,
    /// When sending `READY=1` last failed, if it has to be repeated.
    ready_unsent_since: Option<Instant>,
}

impl ServiceManager {
    /// Connects to the socket that the environment names, and reads the watchdog timeout.
    pub(super) fn from_env(now: Instant) -> ServiceManager {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let socket = name.and_then(|name| match connect(&name) {
            Ok(socket) => Some(socket),
            Err(fault) => {
                log::warn!("cannot connect to the service manager (NOTIFY_SOCKET): {fault}");
                None
            }
        });
        let watchdog = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero());
        ServiceManager {
            socket,
            watchdog_interval: watchdog
                .map(|timeout| (timeout / WATCHDOG_PINGS).max(WATCHDOG_INTERVAL_MIN)),
            watchdog_sent: now,
            status_sent: now,
            status: String::new(),
            extension_sent: None,
            ready_unsent_since: None,
        }
    }

    /// Notifies that the server is up, or that a reload is complete.
    pub(super) fn ready(&mut self, now: Instant) {
        // A manager that misses this would time out and stop the server.
        self.ready_unsent_since = (!self.notify(&[NotifyState::Ready])).then_some(now);
    }

    /// Notifies that a reload has begun.
    pub(super) fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now]),
            Err(_) => self.notify(&[NotifyState::Reloading]),
        };
    }

    /// Notifies that the server is stopping, and asks for more time.
    pub(super) fn stopping(&mut self, now: Instant) {
        (self.extension_sent, self.ready_unsent_since) = (Some(now), None);
        // The status is sent again at once.
        self.status.clear();
        self.notify(&[NotifyState::Stopping, extension()]);
    }

    /// When the next notification is due, if no event comes before.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.socket.as_ref()?;
        let ping = self.watchdog_interval.map(|every| self.watchdog_sent + every);
        let extend = self.extension_sent.map(|at| at + EXTEND_EVERY);
        let repeat = self.ready_unsent_since.map(|at| at + READY_RETRY_AFTER);
        [ping, extend, repeat].into_iter().flatten().min()
    }

    /// Sends the notifications that are due.
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

    /// Sends a notification. Returns false if it should be repeated.
    fn notify(&self, states: &[NotifyState<'_>]) -> bool {
        let Some(socket) = &self.socket else { return true };
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        match socket.send(text.as_bytes()) {
            Ok(_) => true,
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                log::debug!("the service manager does not read notifications");
                false
            }
            Err(fault) => {
                log::debug!("cannot notify the service manager: {fault}");
                // Repeating would not help: the socket is gone.
                true
            }
        }
    }
}

impl Server {
    /// Sends due notifications to the service manager.
    pub(super) fn notify_service_manager(&mut self, now: Now) {
        let Server { service_manager, connections, hub, upstream, draining, .. } = self;
        service_manager.advance(now.instant, || {
            let counts = hub.counts();
            let site = if upstream.is_available() { "" } else { ", the site is unavailable" };
            let prefix = if draining.is_some() { "draining, " } else { "" };
            format!("{prefix}{} connections, {} threads{site}", connections.len(), counts.threads)
        });
    }
}

fn extension() -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(EXTEND_BY.as_micros() as u32)
}

/// Connects to a path or, with a leading `@`, to an abstract name.
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

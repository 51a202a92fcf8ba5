//! Signals: SIGTERM and SIGINT drain the server, SIGHUP reloads the settings.

use std::io;

use mio::Interest;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use super::{SIGNALS, Server};
use crate::hub::interface::Now;

impl Server {
    /// Makes SIGTERM and SIGINT end [`Server::run`]: the first drains, the second stops at once. A
    /// SIGHUP reloads the settings from the source given to [`Server::set_config_source`].
    ///
    /// # Errors
    ///
    /// The system refuses the handlers.
    pub fn install_signal_handlers(&mut self) -> io::Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        self.poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
        self.signals = Some(signals);
        Ok(())
    }

    /// Handles pending signals. Several SIGINT and SIGTERM that arrive together count as one, since
    /// a terminal and a wrapper may both pass on a Ctrl-C.
    pub(super) fn handle_signals(&mut self, now: Now) {
        let (mut stop, mut hangup) = (None, false);
        for signal in self.signals.iter_mut().flat_map(|signals| signals.pending()) {
            match signal {
                SIGHUP => hangup = true,
                SIGINT => stop = Some("SIGINT"),
                _ => stop = Some("SIGTERM"),
            }
        }
        if hangup && stop.is_none() && self.draining.is_none() {
            self.reload(now);
        }
        if let Some(signal) = stop {
            self.begin_drain(signal, now);
        }
    }
}

//! What the system tells the process.

use std::io;

use mio::Interest;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use super::{SIGNALS, Server};
use crate::hub::interface::Now;

impl Server {
    /// Lets SIGTERM and SIGINT end [`Server::run`]: the first drains, the second ends at once. A
    /// SIGHUP reads the settings anew, if [`Server::set_config_source`] has said where from.
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

    /// Takes all signals that have come. Several that ask for the end are one wish, if they come
    /// together: a terminal and a wrapper both pass a Ctrl-C on.
    pub(super) fn handle_signals(&mut self, now: Now) {
        let (mut end, mut hangup) = (None, false);
        for signal in self.signals.iter_mut().flat_map(|signals| signals.pending()) {
            match signal {
                SIGHUP => hangup = true,
                SIGINT => end = Some("SIGINT"),
                _ => end = Some("SIGTERM"),
            }
        }
        if hangup && end.is_none() && self.draining.is_none() {
            self.reload(now);
        }
        if let Some(signal) = end {
            self.begin_drain(signal, now);
        }
    }
}

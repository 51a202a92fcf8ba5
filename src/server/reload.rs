//! New settings for a server that goes on.

use super::{Codec, RateLimit, Rules, Server, setup};
use crate::config::Config;
use crate::config::files::Secrets;
use crate::config::limits::Limits;
use crate::hub::interface::Now;

/// Where the settings come from, again.
pub trait ConfigSource {
    /// Reads and checks them, and what they name.
    ///
    /// # Errors
    ///
    /// What is wrong with them, without secrets.
    fn read(&mut self) -> Result<(Config, Secrets), String>;

    /// They are in force.
    fn on_applied(&mut self, config: &Config);
}

impl Server {
    /// Lets a SIGHUP read the settings anew from here.
    pub fn set_config_source(&mut self, source: Box<dyn ConfigSource>) {
        self.source = Some(source);
    }

    /// Reads the settings anew and works by them from now on, or goes on as before if anything is
    /// wrong with them. No connection notices, unless a new limit says so.
    pub(super) fn reload(&mut self, now: Now) {
        let Some(mut source) = self.source.take() else {
            return log::info!("SIGHUP: there are no settings that could be read anew");
        };
        self.service_manager.reloading();
        match source.read().and_then(|(config, secrets)| self.apply(&config, secrets, now)) {
            Ok(()) => {
                source.on_applied(&self.config);
                self.warn_of_certificate(now);
                log::info!("SIGHUP: the settings are read anew");
            }
            Err(fault) => log::error!(
                "SIGHUP: the new settings are refused and the old ones kept: {}",
                fault.trim_end()
            ),
        }
        self.source = Some(source);
        self.service_manager.ready(now.instant);
    }

    /// Everything that can fail comes first.
    fn apply(&mut self, config: &Config, secrets: Secrets, now: Now) -> Result<(), String> {
        let identity = self.next_identity(secrets.identity)?;
        let restart_flags = self.config.restart_only_changes(config);
        let config = config.with_startup_settings(&self.config);
        // With the trust that stays.
        let hub_settings = setup::hub_settings(&config, secrets.turn);
        // The site stays the one that it was, and with it who issues its tokens.
        let verifier = setup::verifier(&config, secrets.keys);
        secrets.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        for flag in restart_flags {
            log::warn!("{flag} has changed: it holds from the next start");
        }
        let limits: Limits = config.limits();
        self.connections.set_buffer_limits(setup::buffer_limits(&limits));
        self.admission.set_limits(
            limits.max_connections,
            limits.max_connections_per_address,
            config.proxies(),
        );
        self.timeouts = setup::timeouts(&limits);
        self.rate = RateLimit::new(limits.max_frames_per_second, limits.max_frames_burst);
        // Between two messages it has no state; a message in fragments has its own.
        self.codec = Codec::new(limits.max_frame_bytes, Rules::new(&config));
        self.codec.set_readiness(self.readiness(now.instant));
        self.hub.set_settings(hub_settings);
        self.upstream.set_verifier(verifier);
        self.identity = identity;
        self.config = config;
        Ok(())
    }
}

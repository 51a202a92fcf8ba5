//! Reload of the settings at SIGHUP, without a restart.

use super::{RateLimit, Server, setup};
use crate::config::Config;
use crate::config::files::Secrets;
use crate::config::limits::Limits;
use crate::hub::interface::Now;

/// Source from which a reload reads the settings.
pub trait ConfigSource {
    /// Reads and checks the settings and the files that they name.
    ///
    /// # Errors
    ///
    /// Returns the fault in the settings, without secrets.
    fn read(&mut self) -> Result<(Config, Secrets), String>;

    /// Called when the new settings are in force.
    fn on_applied(&mut self, config: &Config);
}

impl Server {
    /// Sets the source from which SIGHUP reloads the settings.
    pub fn set_config_source(&mut self, source: Box<dyn ConfigSource>) {
        self.source = Some(source);
    }

    /// Reloads the settings, or keeps the old ones if anything is wrong with the new. Connections
    /// stay open, unless they exceed a new limit.
    pub(super) fn reload(&mut self, now: Now) {
        let Some(mut source) = self.source.take() else {
            return log::info!("SIGHUP: this server has no source to reload settings from");
        };
        self.service_manager.reloading();
        match source.read().and_then(|(config, secrets)| self.apply(&config, secrets, now)) {
            Ok(()) => {
                source.on_applied(&self.config);
                self.warn_of_certificate(now);
                log::info!("SIGHUP: settings reloaded");
            }
            Err(fault) => log::error!(
                "SIGHUP: the new settings are refused and the old ones kept: {}",
                fault.trim_end()
            ),
        }
        self.source = Some(source);
        self.service_manager.ready(now.instant);
    }

    /// Applies new settings as a whole or, if anything fails, not at all: what can fail comes
    /// first.
    fn apply(&mut self, config: &Config, secrets: Secrets, now: Now) -> Result<(), String> {
        let identity = self.next_identity(secrets.identity)?;
        let restart_flags = self.config.restart_only_changes(config);
        let config = config.with_startup_settings(&self.config);
        // With the trust mode of the start.
        let hub_settings = setup::hub_settings(&config, secrets.turn);
        // With the site of the start, and so with its issuer.
        let verifier = setup::verifier(&config, secrets.keys);
        secrets.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        for flag in restart_flags {
            log::warn!("{flag} has changed: it takes effect at the next start");
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
        // The codec has no state between messages; a fragmented message is kept by its connection.
        let site_keys = setup::site_keys(secrets.site_secret.as_ref());
        let tickets = setup::tickets(&config, site_keys.clone());
        self.upstream.set_plugin(tickets, site_keys.clone());
        self.site_requests.set_keys(site_keys);
        self.codec = setup::codec(&config, self.site_requests.is_public());
        self.codec.set_readiness(self.readiness(now.instant));
        self.hub.set_settings(hub_settings);
        self.upstream.set_verifier(verifier);
        self.upstream.set_trust(secrets.site_trust);
        self.site_password = secrets.site_password.as_ref().and_then(setup::site_credential);
        self.upstream.set_password(secrets.site_password);
        self.identity = identity;
        self.config = config;
        Ok(())
    }
}

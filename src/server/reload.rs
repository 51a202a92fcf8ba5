//! New settings for a server that goes on.

use super::{Codec, Rate, Rules, Server, setup};
use crate::config::Config;
use crate::config::files::Secrets;
use crate::config::limits::Limits;
use crate::hub::interface::Now;

/// Where the settings come from, again.
pub trait Source {
    /// Reads and checks them, and what they name.
    ///
    /// # Errors
    ///
    /// What is wrong with them, without secrets.
    fn read(&mut self) -> Result<(Config, Secrets), String>;

    /// They are in force.
    fn applied(&mut self, config: &Config);
}

impl Server {
    /// Lets a SIGHUP read the settings anew from here.
    pub fn reload_from(&mut self, source: Box<dyn Source>) {
        self.source = Some(source);
    }

    /// Reads the settings anew and works by them from now on, or goes on as before if anything is
    /// wrong with them. No connection notices, unless a new limit says so.
    pub(super) fn reload(&mut self, now: Now) {
        let Some(mut source) = self.source.take() else {
            return log::info!("SIGHUP: there are no settings that could be read anew");
        };
        self.supervisor.reloading();
        match source.read().and_then(|(config, secrets)| self.apply(&config, secrets, now)) {
            Ok(()) => {
                source.applied(&self.config);
                self.warn_of_certificate(now);
                log::info!("SIGHUP: the settings are read anew");
            }
            Err(fault) => log::error!(
                "SIGHUP: the new settings are refused and the old ones kept: {}",
                fault.trim_end()
            ),
        }
        self.source = Some(source);
        self.supervisor.ready(now.instant);
    }

    /// Everything that can fail comes first.
    fn apply(&mut self, config: &Config, secrets: Secrets, now: Now) -> Result<(), String> {
        let identity = self.next_identity(secrets.identity)?;
        let stays = self.config.restart_only_changes(config);
        let config = config.with_startup_settings(&self.config);
        // With the trust that stays.
        let hub_settings = setup::hub_settings(&config, secrets.turn);
        // The site stays the one that it was, and with it who issues its tokens.
        let verifier = setup::verifier(&config, secrets.keys);
        secrets.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        for flag in stays {
            log::warn!("{flag} has changed: it holds from the next start");
        }
        let limits: Limits = config.limits();
        self.crowd.set_buffers(setup::buffers(&limits));
        self.admission.set_limits(
            limits.max_connections,
            limits.max_connections_per_address,
            config.proxies(),
        );
        self.patience = setup::patience(&limits);
        self.rate = Rate::new(limits.max_frames_per_second, limits.max_frames_burst);
        // Between two messages it has no state; a message in fragments has its own.
        self.codec = Codec::new(limits.max_frame_bytes, Rules::new(&config));
        self.codec.set_readiness(self.readiness(now.instant));
        self.hub.set_settings(hub_settings);
        self.upstream.set_verifier(verifier);
        self.identity = identity;
        self.config = config;
        Ok(())
    }

    /// Tells the service manager what is due.
    pub(super) fn tell_supervisor(&mut self, now: Now) {
        let Server { supervisor, crowd, hub, upstream, ending, .. } = self;
        supervisor.advance(now.instant, || {
            let census = hub.census();
            let site = if upstream.is_available() { "" } else { ", the site does not answer" };
            let drains = if ending.is_some() { "draining, " } else { "" };
            format!("{drains}{} connections, {} threads{site}", crowd.len(), census.threads)
        });
    }
}

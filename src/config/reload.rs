//! Which settings a reload changes, and which need a restart.

use super::Config;

impl Config {
    /// Returns the flags of the settings that differ from `other` and need a restart to change.
    pub fn restart_only_changes(&self, other: &Config) -> Vec<&'static str> {
        let message_turn = |config: &Config| config.limits().message_turn_lasts;
        let differs = [
            ("--listen", self.listen != other.listen),
            ("--metrics-listen", self.metrics_listen != other.metrics_listen),
            ("--site-listen", self.site_listen != other.site_listen),
            ("--ipv6-only", self.ipv6_only != other.ipv6_only),
            ("--unix-socket-mode", self.unix_socket_mode != other.unix_socket_mode),
            ("--unix-socket-owner", self.unix_socket_owner != other.unix_socket_owner),
            ("--buddyboss-url", self.buddyboss_url != other.buddyboss_url),
            ("--trust", self.trust_mode() != other.trust_mode()),
            ("--presence", self.presence != other.presence),
            ("--token-header", self.token_header != other.token_header),
            ("--site-proxy", self.site_proxy != other.site_proxy),
            ("--upstream-workers", self.upstream_workers != other.upstream_workers),
            ("--upstream-queue", self.upstream_queue != other.upstream_queue),
            ("--upstream-timeout", self.upstream_timeout != other.upstream_timeout),
            ("--message-turn-lasts", message_turn(self) != message_turn(other)),
            ("--nofile", self.nofile != other.nofile),
            ("--log-format", self.log_format != other.log_format),
        ];
        differs.into_iter().filter(|(_, differs)| *differs).map(|(flag, _)| flag).collect()
    }

    /// Returns these settings, except that those that need a restart are taken from `other`.
    pub fn with_startup_settings(&self, other: &Config) -> Config {
        Config {
            listen: other.listen.clone(),
            metrics_listen: other.metrics_listen.clone(),
            site_listen: other.site_listen.clone(),
            ipv6_only: other.ipv6_only,
            unix_socket_mode: other.unix_socket_mode,
            unix_socket_owner: other.unix_socket_owner.clone(),
            buddyboss_url: other.buddyboss_url.clone(),
            trust: Some(other.trust_mode()),
            presence: other.presence,
            token_header: other.token_header.clone(),
            site_proxy: other.site_proxy.clone(),
            upstream_workers: other.upstream_workers,
            upstream_queue: other.upstream_queue,
            upstream_timeout: other.upstream_timeout,
            nofile: other.nofile,
            log_format: other.log_format,
            ..self.clone()
        }
    }
}

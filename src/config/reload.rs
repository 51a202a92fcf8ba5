//! What a reload of the settings may change.

use super::Config;

impl Config {
    /// The flags of the settings that differ from another one's and hold from the start of the
    /// server to its end.
    pub fn restart_only_changes(&self, other: &Config) -> Vec<&'static str> {
        let turn = |config: &Config| config.limits().message_turn_lasts;
        let differs = [
            ("--listen", self.listen != other.listen),
            ("--metrics-listen", self.metrics_listen != other.metrics_listen),
            ("--buddyboss-url", self.buddyboss_url != other.buddyboss_url),
            ("--trust", self.trust_mode() != other.trust_mode()),
            ("--presence", self.presence != other.presence),
            ("--token-header", self.token_header != other.token_header),
            ("--upstream-workers", self.upstream_workers != other.upstream_workers),
            ("--upstream-queue", self.upstream_queue != other.upstream_queue),
            ("--upstream-timeout", self.upstream_timeout != other.upstream_timeout),
            ("--message-turn-lasts", turn(self) != turn(other)),
            ("--nofile", self.nofile != other.nofile),
            ("--log-format", self.log_format != other.log_format),
        ];
        differs.into_iter().filter(|(_, differs)| *differs).map(|(flag, _)| flag).collect()
    }

    /// The settings that a reload leaves in force: these, and of another one's those that hold from
    /// the start to the end.
    pub fn with_startup_settings(&self, other: &Config) -> Config {
        Config {
            listen: other.listen.clone(),
            metrics_listen: other.metrics_listen.clone(),
            buddyboss_url: other.buddyboss_url.clone(),
            trust: Some(other.trust_mode()),
            presence: other.presence,
            token_header: other.token_header.clone(),
            upstream_workers: other.upstream_workers,
            upstream_queue: other.upstream_queue,
            upstream_timeout: other.upstream_timeout,
            nofile: other.nofile,
            log_format: other.log_format,
            ..self.clone()
        }
    }
}

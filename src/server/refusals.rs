//! What the operator is told of web pages that may not connect.

use std::time::{Duration, Instant};

/// A page that tries again and again must not fill the log.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// When the operator was last warned.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    warned: Option<Instant>,
}

impl Refusals {
    /// Tells of one refusal: as a warning once a minute, otherwise for who looks closely.
    pub(super) fn note(&mut self, origin: &str, now: Instant) {
        let level = match self.warned {
            Some(warned) if now.duration_since(warned) < WARN_EVERY => log::Level::Debug,
            _ => {
                self.warned = Some(now);
                log::Level::Warn
            }
        };
        log::log!(
            level,
            "refused a page of \"{origin}\", which no --allowed-origin has (at most one such \
             warning a minute)"
        );
    }
}

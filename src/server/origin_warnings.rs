//! What the operator is told of web pages that may not connect.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A page that tries again and again must not fill the log.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// So many different pages are warned of within that time; the rest is for who looks closely.
const WARNINGS_MAX: usize = 16;

/// Of which pages the operator was warned, and when; the oldest first.
#[derive(Debug, Default)]
pub(super) struct OriginWarnings {
    warned: VecDeque<(String, Instant)>,
}

impl OriginWarnings {
    /// Tells of one refusal: as a warning once a minute for each page.
    pub(super) fn note(&mut self, origin: &str, now: Instant) {
        self.warned.retain(|(_, then)| now.duration_since(*then) < WARN_EVERY);
        let known = self.warned.iter().any(|(page, _)| page == origin);
        let level = match known || self.warned.len() >= WARNINGS_MAX {
            true => log::Level::Debug,
            false => {
                self.warned.push_back((origin.to_owned(), now));
                log::Level::Warn
            }
        };
        log::log!(
            level,
            "refused a page of \"{origin}\", which no --allowed-origin has (one such warning a \
             minute for each page)"
        );
    }
}

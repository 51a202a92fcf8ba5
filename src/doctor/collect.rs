//! The looking itself: sockets, files, the clock. It judges nothing.

pub mod machine;
mod net;
mod public;
mod site;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::ExamineOptions;
use super::observations::{Keys, Observations};
use crate::config::Config;

/// The longest time for one thing, whatever is left of the whole.
const STEP_TIMEOUT: Duration = Duration::from_secs(8);

/// The time that all of it may take.
#[derive(Clone, Copy)]
pub struct TimeBudget {
    until: Instant,
    /// For one question to the site.
    request: Duration,
}

impl TimeBudget {
    fn new(within: Duration, request: Duration) -> TimeBudget {
        TimeBudget { until: Instant::now() + within, request: request.min(STEP_TIMEOUT) }
    }

    /// What is left of it, for one thing; `None` where that is too little for anything.
    fn remaining(self) -> Option<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        (left > Duration::from_millis(50)).then_some(left.min(STEP_TIMEOUT))
    }

    /// The same for a question to the site.
    fn for_request(self) -> Option<Duration> {
        self.remaining().map(|left| left.min(self.request))
    }
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Looks at the machine first, which takes no time, then at the clients' way and at the site: one
/// that hangs must not keep the rest from being seen.
pub fn collect_all(config: &Config, options: &ExamineOptions, keys: Keys) -> Observations {
    let time = TimeBudget::new(options.within, config.upstream_timeout);
    let machine = machine::collect(config);
    let public = options.public_url.as_ref().map(|url| public::collect(url, time));
    let site = config.buddyboss_url.as_ref();
    let site = site.map(|url| site::collect(config, url, options.credential.as_ref(), keys, time));
    Observations { site, machine, public }
}

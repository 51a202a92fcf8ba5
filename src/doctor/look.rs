//! The looking itself: sockets, files, the clock. It judges nothing.

pub mod machine;
mod net;
mod public;
mod site;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Wish;
use super::seen::{Keys, Seen};
use crate::config::Config;

/// The longest time for one thing, whatever is left of the whole.
const ONE_THING: Duration = Duration::from_secs(8);

/// The time that all of it may take.
#[derive(Clone, Copy)]
pub struct Time {
    until: Instant,
    /// For one question to the site.
    question: Duration,
}

impl Time {
    fn new(within: Duration, question: Duration) -> Time {
        Time { until: Instant::now() + within, question: question.min(ONE_THING) }
    }

    /// What is left of it, for one thing; `None` where that is too little for anything.
    fn left(self) -> Option<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        (left > Duration::from_millis(50)).then_some(left.min(ONE_THING))
    }

    /// The same for a question to the site.
    fn for_question(self) -> Option<Duration> {
        self.left().map(|left| left.min(self.question))
    }
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Looks at the machine first, which takes no time, then at the clients' way and at the site: one
/// that hangs must not keep the rest from being seen.
pub fn at_everything(config: &Config, wish: &Wish, keys: Keys) -> Seen {
    let time = Time::new(wish.within, config.upstream_timeout);
    let machine = machine::look(config);
    let public = wish.public_url.as_ref().map(|url| public::look(url, time));
    let site = config.buddyboss_url.as_ref();
    let site = site.map(|url| site::look(config, url, wish.credential.as_ref(), keys, time));
    Seen { site, machine, public }
}

//! Collects the observations: does the I/O with sockets, files and the clock, and judges nothing.

pub(crate) mod machine;
mod net;
mod plugin;
mod public;
mod site;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(super) use net::{PROXY_PASSWORD, REFUSED, TUNNEL_REFUSED, describe_error};

use super::ExamineOptions;
use super::observations::{Keys, Observations};
use crate::config::Config;
use crate::config::site_proxy::SiteRoute;
use crate::config::site_trust::SiteTrust;

/// The time limit of one step, however much of the whole is left.
const STEP_TIMEOUT: Duration = Duration::from_secs(8);

/// The time budget of an examination.
#[derive(Clone, Copy)]
pub(super) struct TimeBudget {
    deadline: Instant,
    /// The time limit of one request to the site.
    request: Duration,
}

impl TimeBudget {
    fn new(within: Duration, request: Duration) -> TimeBudget {
        TimeBudget { deadline: Instant::now() + within, request: request.min(STEP_TIMEOUT) }
    }

    /// The time limit of the next step; `None` if less than 50 ms are left.
    fn remaining(self) -> Option<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        (left > Duration::from_millis(50)).then_some(left.min(STEP_TIMEOUT))
    }

    /// The time limit of the next request to the site; `None` if less than 50 ms are left.
    fn for_request(self) -> Option<Duration> {
        self.remaining().map(|left| left.min(self.request))
    }
}

/// Seconds since 1970.
pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Examines the machine first, which takes no time, then the public address and the site, so that a
/// site that hangs does not use up the time of the other checks.
pub(super) fn collect_all(
    config: &Config,
    options: &ExamineOptions,
    keys: Keys,
    trust: SiteTrust,
    route: SiteRoute,
) -> Observations {
    let time = TimeBudget::new(options.within, config.upstream_timeout);
    let machine = machine::collect(config);
    let public = options.public_url.as_ref().map(|url| public::collect(url, time));
    let proxy = match route {
        SiteRoute::Proxy(proxy) => Some(proxy),
        SiteRoute::Direct | SiteRoute::Excluded(_) => None,
    };
    let site = config.buddyboss_url.as_ref();
    let credential = options.credential.as_ref();
    let site = site.map(|url| site::collect(config, url, credential, keys, trust, proxy, time));
    Observations { site, machine, public }
}

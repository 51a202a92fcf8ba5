//! The event loop's interface to the BuddyBoss site: requests go out, answers come back, and no
//! call blocks.
//!
//! The implementation is either a real site ([`pool`], HTTP on worker threads) or an in-memory
//! stand-in ([`embedded`]). The loop cannot tell which: each [`Upstream::submit`] is followed by
//! exactly one answer from [`Upstream::next_answer`], at once or much later.

pub mod breaker;
pub mod buddyboss;
pub mod checks;
mod embedded;
pub mod health;
mod json;
pub mod jwt;
pub mod message_lookup;
pub mod normalize;
mod page;
pub mod plugin;
pub mod pool;
pub(crate) mod probe_client;
mod site;
pub(crate) mod stats;
pub mod url_style;
pub mod usability;
mod whole_number;
mod wrapped_json;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::site_password::SitePassword;
use crate::config::site_proxy::SiteProxy;
use crate::config::site_trust::SiteTrust;
use crate::config::site_url::SiteUrl;
use crate::config::token_header::TokenHeader;
use crate::hub::interface::{Answer, Ask, Now, RequestId};
use crate::protocol::signature::SiteKeys;
use embedded::Store;
use jwt::Verifier;
use jwt::ticket::TicketVerifier;
use plugin::CallNotice;
use pool::Pool;
use pool::plugin_client::PluginCounts;
use stats::{PoolStatus, UpstreamStats};

/// How to reach a site, and the limits that apply to it.
#[derive(Clone, Debug)]
pub struct SiteSettings {
    /// The site's base URL.
    pub url: SiteUrl,
    /// Concurrent requests, each on a thread of its own. At least 1. More workers than the site has
    /// cores only add waiting time (CONTRACT 9).
    pub workers: usize,
    /// Message requests that may wait for a worker; further ones fail as `Overloaded`. At least 1.
    pub queue: usize,
    /// Time limit for the DNS lookup, and again for connecting including the TLS handshake.
    pub connect_timeout: Duration,
    /// Time limit for a whole request, from the DNS lookup to the last byte of the last reply. It
    /// must exceed twice the connect timeout, or the connect timeout never applies.
    pub request_timeout: Duration,
    /// The longest reply body, in bytes after decompression. Ten messages of 64 KiB make 1.4 MB
    /// (CONTRACT 9).
    pub body_max: u64,
    /// The header in which the site expects a member's token.
    pub token_header: TokenHeader,
    /// The login and password that the site's web server asks for.
    pub password: Option<SitePassword>,
    /// The certificate authorities for the site's certificate.
    pub trust: SiteTrust,
    /// The proxy for all requests, if there is one.
    pub proxy: Option<SiteProxy>,
    /// Verifies tokens locally; `None` if no key of the site is set.
    pub verifier: Option<Verifier>,
    /// Verifies tickets of the site's plugin; `None` if there is no secret of the plugin.
    pub tickets: Option<TicketVerifier>,
    /// Signs requests to the site's plugin; `None` if there is no secret of the plugin.
    pub site_keys: Option<SiteKeys>,
}

impl SiteSettings {
    /// Default settings for a site: 4 workers, 256 queued requests, 5 s to connect, 30 s in all,
    /// 4 MiB per reply, tokens in `Authorization` and verified by the site.
    pub fn new(url: SiteUrl) -> SiteSettings {
        SiteSettings {
            url,
            workers: 4,
            queue: 256,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            body_max: 4 << 20,
            token_header: TokenHeader::default(),
            password: None,
            trust: SiteTrust::built_in(),
            proxy: None,
            verifier: None,
            tickets: None,
            site_keys: None,
        }
    }
}

/// The destination of the loop's requests: the site or the stand-in.
pub enum Upstream {
    /// A BuddyBoss site.
    Site(Box<Pool>),
    /// The stand-in, and its answers that were not collected yet: one per request submitted since.
    Embedded(Box<Store>, VecDeque<(RequestId, Answer)>),
}

impl Upstream {
    /// Connects to a site; each answer wakes the loop through `waker`. Fails if a worker thread
    /// cannot be started.
    pub fn site(
        settings: &SiteSettings,
        waker: Arc<mio::Waker>,
        now: Instant,
    ) -> io::Result<Upstream> {
        Ok(Upstream::Site(Box::new(Pool::start(settings, waker, now)?)))
    }

    /// Creates an empty stand-in. It needs no waker: its answers are ready when `submit` returns.
    pub fn embedded() -> Upstream {
        Upstream::Embedded(Box::default(), VecDeque::new())
    }

    /// Verifies tokens locally; `None` if the site is asked.
    pub fn verifier(&self) -> Option<&Verifier> {
        match self {
            Upstream::Site(pool) => pool.verifier(),
            Upstream::Embedded(..) => None,
        }
    }

    /// Verifies tokens with `verifier` from now on; with `None`, the site is asked.
    pub fn set_verifier(&mut self, verifier: Option<Verifier>) {
        if let Upstream::Site(pool) = self {
            pool.set_verifier(verifier);
        }
    }

    /// Verifies tickets and signs requests to the plugin with these from now on; with `None`,
    /// tickets are refused, and no requests are sent.
    pub fn set_plugin(&mut self, tickets: Option<TicketVerifier>, keys: Option<SiteKeys>) {
        if let Upstream::Site(pool) = self {
            pool.set_plugin(tickets, keys);
        }
    }

    /// Tells the site's plugin of a call that nobody could take, if there is a plugin.
    pub fn notify_call(&mut self, notice: CallNotice) {
        if let Upstream::Site(pool) = self {
            pool.notify_call(notice);
        }
    }

    /// Tells the site's plugin that users are active, if there is a plugin.
    pub fn note_active(&mut self, users: &[u64], now: Now) {
        if let Upstream::Site(pool) = self {
            pool.note_active(users, now);
        }
    }

    /// Sends the next request to the site's plugin, if one is due and no other requests wait.
    pub fn advance_plugin(&mut self, now: Now) {
        if let Upstream::Site(pool) = self {
            pool.advance_plugin(now);
        }
    }

    /// Counts of requests to the site's plugin; `None` without a secret.
    pub fn plugin_counts(&self) -> Option<PluginCounts> {
        match self {
            Upstream::Site(pool) => pool.plugin_counts(),
            Upstream::Embedded(..) => None,
        }
    }

    /// Trusts these authorities for the site's certificate from now on. Requests in flight go on.
    pub fn set_trust(&mut self, trust: SiteTrust) {
        if let Upstream::Site(pool) = self {
            pool.set_trust(trust);
        }
    }

    /// Sends this login and password to the site's web server from now on.
    pub fn set_password(&mut self, password: Option<SitePassword>) {
        if let Upstream::Site(pool) = self {
            pool.set_password(password);
        }
    }

    /// Submits a request. It never blocks and never fails: a request that cannot be sent gets a
    /// failure as its answer.
    pub fn submit(&mut self, request: RequestId, ask: Ask, now: Now) {
        match self {
            Upstream::Site(pool) => pool.submit(request, ask, now),
            Upstream::Embedded(store, ready) => {
                let answer = store.answer(ask, now);
                ready.push_back((request, answer));
            }
        }
    }

    /// Records the time and starts a probe if one is due. Never blocks.
    pub fn advance(&mut self, now: Instant) {
        if let Upstream::Site(pool) = self {
            pool.advance(now);
        }
    }

    /// The time at which [`Upstream::advance`] must be called even if no event arrives before.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self {
            Upstream::Site(pool) => pool.next_deadline(),
            Upstream::Embedded(..) => None,
        }
    }

    /// Whether requests go to the site. `false` while the breaker is not closed: requests then fail
    /// at once. The stand-in is always available.
    pub fn is_available(&self) -> bool {
        match self {
            Upstream::Site(pool) => pool.is_available(),
            Upstream::Embedded(..) => true,
        }
    }

    /// Whether this server should receive new clients: the site is available, or worked within the
    /// last seconds, so that a load balancer does not switch away on each pause of a second; and it
    /// does not answer everyone with something that no member can use.
    pub fn is_ready(&self, now: Instant) -> bool {
        match self {
            Upstream::Site(pool) => {
                (pool.is_available() || pool.has_recent_success(now)) && !pool.is_unusable(now)
            }
            Upstream::Embedded(..) => true,
        }
    }

    /// The site's counters and the pool's current load; `None` for the stand-in.
    pub fn stats(&self) -> Option<(&UpstreamStats, PoolStatus)> {
        match self {
            Upstream::Site(pool) => Some((pool.stats(), pool.status())),
            Upstream::Embedded(..) => None,
        }
    }

    /// Takes the next answer, if one is ready. Never blocks.
    pub fn next_answer(&mut self) -> Option<(RequestId, Answer)> {
        match self {
            Upstream::Site(pool) => pool.next_answer(),
            Upstream::Embedded(_, ready) => ready.pop_front(),
        }
    }

    /// Whether [`Upstream::next_answer`] has work, so that the loop must not sleep.
    pub fn has_answer(&self) -> bool {
        match self {
            Upstream::Site(pool) => pool.has_answer(),
            Upstream::Embedded(_, ready) => !ready.is_empty(),
        }
    }

    /// Requests whose answers were not collected yet; a server that drains may wait for them.
    pub fn outstanding(&self) -> usize {
        match self {
            Upstream::Site(pool) => pool.outstanding(),
            Upstream::Embedded(_, ready) => ready.len(),
        }
    }
}

//! The site, seen from the loop: questions out, answers back, and never a wait.
//!
//! Behind it is either a real site ([`pool`], over HTTP, with worker threads) or a stand-in in
//! memory ([`embedded`]). The loop cannot tell which: each [`Upstream::submit`] is followed by
//! exactly one answer from [`Upstream::next_answer`], at once or much later.

pub mod breaker;
pub mod buddyboss;
pub mod checks;
pub mod embedded;
pub mod health;
mod json;
pub mod jwt;
pub mod normalize;
pub mod pool;
pub mod probe_client;
pub mod reconcile;
mod site;
pub mod stats;
pub mod url_style;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::site_url::SiteUrl;
use crate::config::token_header::TokenHeader;
use crate::hub::interface::{Answer, Ask, Now, RequestId};
use embedded::Store;
use jwt::Verifier;
use pool::Pool;
use stats::{PoolStatus, UpstreamStats};

/// How to reach a site.
#[derive(Clone, Debug)]
pub struct SiteSettings {
    /// Where it is.
    pub url: SiteUrl,
    /// Calls at the same time, each a thread. More than the site has cores only adds waiting
    /// (CONTRACT 9). At least 1.
    pub workers: usize,
    /// Asks that may wait for a worker; beyond it they fail as `Overloaded`. At least 1.
    pub queue: usize,
    /// For looking up the name, and again for connecting with the TLS handshake.
    pub connect_timeout: Duration,
    /// For a whole ask, from the name to the last byte of the last answer. Longer than twice the
    /// connect timeout, or that one never gets its turn.
    pub request_timeout: Duration,
    /// The longest answer, in bytes after decompression. Ten messages of 64 KiB make 1.4 MB
    /// (CONTRACT 9).
    pub body_max: u64,
    /// Where the site expects a member's token.
    pub token_header: TokenHeader,
    /// Checks tokens without the site, where its secret is known.
    pub verifier: Option<Verifier>,
}

impl SiteSettings {
    /// The settings for this site that need no thought: 4 workers, 256 asks waiting, 5 s to
    /// connect, 30 s in all, 4 MiB, tokens in `Authorization` and checked by the site.
    pub fn new(url: SiteUrl) -> SiteSettings {
        SiteSettings {
            url,
            workers: 4,
            queue: 256,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            body_max: 4 << 20,
            token_header: TokenHeader::default(),
            verifier: None,
        }
    }
}

/// Where the loop puts its questions.
pub enum Upstream {
    /// A BuddyBoss site.
    Site(Box<Pool>),
    /// The stand-in, and its answers that have not been collected: as many as were submitted since.
    Embedded(Box<Store>, VecDeque<(RequestId, Answer)>),
}

impl Upstream {
    /// A site, whose answers ring `waker`. Fails when a worker thread cannot be made.
    pub fn site(
        settings: &SiteSettings,
        waker: Arc<mio::Waker>,
        now: Instant,
    ) -> io::Result<Upstream> {
        Ok(Upstream::Site(Box::new(Pool::start(settings, waker, now)?)))
    }

    /// The stand-in, empty. It has no waker: its answers are there when `submit` returns.
    pub fn embedded() -> Upstream {
        Upstream::Embedded(Box::default(), VecDeque::new())
    }

    /// Whether it checks tokens itself, with the site's JWT secret.
    pub fn has_verifier(&self) -> bool {
        matches!(self, Upstream::Site(pool) if pool.has_verifier())
    }

    /// Checks tokens with this from now on, or asks the site.
    pub fn set_verifier(&mut self, verifier: Option<Verifier>) {
        if let Upstream::Site(pool) = self {
            pool.set_verifier(verifier);
        }
    }

    /// Puts a question. Never blocks, never fails: what cannot be asked is answered.
    pub fn submit(&mut self, request: RequestId, ask: Ask, now: Now) {
        match self {
            Upstream::Site(pool) => pool.submit(request, ask, now),
            Upstream::Embedded(store, ready) => {
                let answer = store.answer(ask, now);
                ready.push_back((request, answer));
            }
        }
    }

    /// Notes what time it is, and does what is due. Never blocks.
    pub fn advance(&mut self, now: Instant) {
        if let Upstream::Site(pool) = self {
            pool.advance(now);
        }
    }

    /// When [`Upstream::advance`] has something to do, though nothing happens until then.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self {
            Upstream::Site(pool) => pool.next_deadline(),
            Upstream::Embedded(..) => None,
        }
    }

    /// Whether questions are put to the site; it fails, if not, and they are answered at once. The
    /// stand-in is always there.
    pub fn is_available(&self) -> bool {
        match self {
            Upstream::Site(pool) => pool.is_available(),
            Upstream::Embedded(..) => true,
        }
    }

    /// Whether it is worth while to send members here: the site is asked, or has worked lately. A
    /// balancer is not to turn away from each pause of a second.
    pub fn is_ready(&self, now: Instant) -> bool {
        match self {
            Upstream::Site(pool) => pool.is_available() || pool.has_recent_success(now),
            Upstream::Embedded(..) => true,
        }
    }

    /// What has been counted of the site, and how much is to do; `None` for the stand-in.
    pub fn stats(&self) -> Option<(&UpstreamStats, PoolStatus)> {
        match self {
            Upstream::Site(pool) => Some((pool.stats(), pool.status())),
            Upstream::Embedded(..) => None,
        }
    }

    /// The next answer that has come back. Never blocks.
    pub fn next_answer(&mut self) -> Option<(RequestId, Answer)> {
        match self {
            Upstream::Site(pool) => pool.next_answer(),
            Upstream::Embedded(_, ready) => ready.pop_front(),
        }
    }

    /// Whether there is something to collect, so that the loop must not go to sleep.
    pub fn has_answer(&self) -> bool {
        match self {
            Upstream::Site(pool) => pool.has_answer(),
            Upstream::Embedded(_, ready) => !ready.is_empty(),
        }
    }

    /// How many questions have no collected answer yet; a server that stops may wait for them.
    pub fn outstanding(&self) -> usize {
        match self {
            Upstream::Site(pool) => pool.outstanding(),
            Upstream::Embedded(_, ready) => ready.len(),
        }
    }
}

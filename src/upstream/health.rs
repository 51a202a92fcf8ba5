//! Classifies a reply by what it says about the site's health, as the input of the circuit breaker.
//!
//! One member must not be able to open the breaker for the others. So only results that no single
//! request should be able to cause count against the site: no reply, a gateway error, and
//! WordPress' own report that it is closed. A firewall that refuses one text, a body beyond the
//! limit and a redirect are neutral, because a member can provoke them.

use std::time::Duration;

use super::buddyboss::Reply;

/// The health that one reply, or its absence, indicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// WordPress works: it did what was asked, or refused it with an error body of its own.
    Alive,
    /// The site fails.
    Failing {
        /// The pause that the site asks for, if it does.
        retry_after: Option<Duration>,
    },
    /// The reply says nothing about the site's health.
    Neutral,
}

impl Health {
    /// No reply: the site was not reached, or the reply was late or lost.
    pub const NO_REPLY: Health = Health::Failing { retry_after: None };

    /// Classifies a reply; `good` if the request succeeded.
    pub fn from_reply(reply: &Reply, good: bool) -> Health {
        let retry_after = reply.retry_after_s().map(|s| Duration::from_secs(s.into()));
        let error_is_about_request = || reply.wp_error().map(|error| error.code != "wp_die");
        match reply.status {
            429 => Health::Failing { retry_after },
            503 if retry_after.is_some() => Health::Failing { retry_after },
            // A PHP error concerns this request: its text may have caused it. The code `wp_die`
            // concerns all requests: no database, or maintenance (CONTRACT 6).
            500..=599 if error_is_about_request() == Some(true) => Health::Alive,
            500..=599 => Health::NO_REPLY,
            _ if reply.truncated => Health::NO_REPLY,
            _ if good || error_is_about_request() == Some(true) => Health::Alive,
            _ => Health::Neutral,
        }
    }
}

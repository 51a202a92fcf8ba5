//! What an answer says about the site as a whole, rather than about one request.
//!
//! One member must not be able to close the site for the others. So only what no single request
//! should be able to cause counts against the site: silence, a gateway's word that nobody is behind
//! it, and WordPress' own word that it is closed. A firewall's refusal of one text, a body beyond
//! the limit, or a redirect says nothing, for a member can provoke them.

use std::time::Duration;

use super::buddyboss::Reply;

/// The word of one answer, or of its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// WordPress works: it has done what was asked, or has refused it in its own words.
    Alive,
    /// The site fails.
    Failing {
        /// How long it asks to be left alone, where it says so.
        retry_after: Option<Duration>,
    },
    /// Neither.
    Neutral,
}

impl Health {
    /// No answer came: not reached, too late, or lost on the way.
    pub const NO_REPLY: Health = Health::Failing { retry_after: None };

    /// The sign in an answer that came; `good` if it is one that was hoped for.
    pub fn from_reply(reply: &Reply, good: bool) -> Health {
        let retry_after = reply.retry_after_s().map(|s| Duration::from_secs(s.into()));
        let own_word = || reply.wp_error().map(|fault| fault.code != "wp_die");
        match reply.status {
            429 => Health::Failing { retry_after },
            503 if retry_after.is_some() => Health::Failing { retry_after },
            // A PHP error is WordPress' word about this request: a text may have caused it. Its
            // word `wp_die` is about all of them: no database, or maintenance (CONTRACT 6).
            500..=599 if own_word() == Some(true) => Health::Alive,
            500..=599 => Health::NO_REPLY,
            _ if reply.truncated => Health::NO_REPLY,
            _ if good || own_word() == Some(true) => Health::Alive,
            _ => Health::Neutral,
        }
    }
}

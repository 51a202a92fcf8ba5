//! One question after the other, for whoever looks at a site rather than serves its members.
//!
//! It asks over the client of the workers, so that what is seen here is what they see. All of it is
//! GET: nothing at the site changes.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::SiteSettings;
use super::buddyboss::{self, Reply, Request, is_id};
use super::checks;
use super::site::Site;
use super::url_style::UrlStyle;
use crate::hub::interface::Failure;
use crate::protocol::credential::Credential;

/// Someone who looks at a site.
pub struct ProbeClient {
    site: Site,
}

/// What the REST API says of itself.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
pub struct RestIndex {
    /// The site's address as it sees it itself, which it writes into its tokens.
    #[serde(default)]
    pub home: Option<String>,
    /// What it offers, such as `buddyboss/v1`.
    pub namespaces: Vec<String>,
}

impl ProbeClient {
    /// To this site.
    pub fn new(settings: &SiteSettings) -> ProbeClient {
        ProbeClient { site: Site::new(settings) }
    }

    /// The question of the probe: who am I, perhaps with a credential.
    ///
    /// # Errors
    ///
    /// As for every question here, why no answer came, in our words.
    pub fn me(
        &self,
        url_style: UrlStyle,
        credential: Option<&Credential>,
        within: Duration,
    ) -> Result<Reply, &'static str> {
        let request = match credential {
            Some(credential) => checks::prove_request(credential, url_style),
            None => buddyboss::probe_request(url_style),
        };
        self.site.ask(&request, within)
    }

    /// What the REST API says of itself.
    pub fn index(&self, url_style: UrlStyle, within: Duration) -> Result<Reply, &'static str> {
        self.get(Cow::Borrowed(url_style.index()), None, within)
    }

    /// The caller's newest thread.
    pub fn newest_thread(
        &self,
        url_style: UrlStyle,
        credential: &Credential,
        within: Duration,
    ) -> Result<Reply, &'static str> {
        self.get(Cow::Owned(url_style.newest_thread()), Some(credential), within)
    }

    /// The first participants of a thread, as the server asks for them.
    pub fn participants(
        &self,
        url_style: UrlStyle,
        thread: u64,
        credential: Option<&Credential>,
        within: Duration,
    ) -> Result<Reply, &'static str> {
        self.get(Cow::Owned(url_style.participants(thread, 1)), credential, within)
    }

    fn get(
        &self,
        path: Cow<'static, str>,
        token: Option<&Credential>,
        within: Duration,
    ) -> Result<Reply, &'static str> {
        self.site.ask(&Request { method: "GET", path, token, body: None }, within)
    }
}

/// WordPress' word for a fault, such as `rest_no_route`, if it can be shown; and nothing for an
/// answer that has none.
pub fn error_code(reply: &Reply) -> Option<String> {
    reply.wp_error()?.loggable_code().map(str::to_owned)
}

/// What [`ProbeClient::index`] has brought.
pub fn parse_index(reply: &Reply) -> Option<RestIndex> {
    reply.json().filter(|_| reply.status == 200)
}

/// The number of the thread that [`ProbeClient::newest_thread`] has brought: `Some(None)` where the
/// caller has none, `None` where the answer is of no use.
pub fn parse_newest_thread(reply: &Reply) -> Option<Option<u64>> {
    #[derive(Deserialize)]
    struct Thread {
        id: u64,
    }
    let body = reply.body.as_deref().filter(|_| reply.is_json() && reply.status == 200)?;
    let list = serde_json::from_slice::<Vec<&RawValue>>(body).ok()?;
    let Some(first) = list.first() else { return Some(None) };
    let thread: Thread = serde_json::from_str(first.get()).ok()?;
    is_id(thread.id).then_some(Some(thread.id))
}

/// What the site's clock said when it answered, in seconds since 1970: `None` where it says
/// nothing, or where a cache has kept the answer.
pub fn server_clock_s(reply: &Reply) -> Option<u64> {
    let fresh = reply.age.as_deref().is_none_or(|age| age.trim() == "0");
    buddyboss::parse_http_date_s(reply.date.as_deref().filter(|_| fresh)?)
}

/// Whose the credential was that [`ProbeClient::me`] was asked with, where the site says so.
pub fn parse_member(reply: &Reply) -> Option<u64> {
    #[derive(Deserialize)]
    struct Me {
        id: u64,
    }
    let me: Me = reply.json().filter(|_| reply.status == 200)?;
    is_id(me.id).then_some(me.id)
}

/// What an answer to [`ProbeClient::me`] that names nobody says of the credential.
pub fn token_failure(reply: &Reply) -> Failure {
    checks::failure(reply, Failure::TokenRefused)
}

impl RestIndex {
    /// Whether something is offered whose name begins like this.
    pub fn has_namespace(&self, start: &str) -> bool {
        self.namespaces.iter().any(|name| name.starts_with(start))
    }
}

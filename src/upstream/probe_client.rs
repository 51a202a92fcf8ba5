//! A blocking client for `buddyline doctor`: sends single requests to the site and parses replies.
//!
//! It uses the same HTTP client as the workers, so that the doctor sees what they see. All requests
//! are GETs, except those to the plugin: nothing else on the site changes.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;

use super::SiteSettings;
use super::buddyboss::{self, Reply, Request, is_id};
use super::checks;
use super::plugin::PluginRequest;
use super::site::{self, Site};
use super::url_style::UrlStyle;
use crate::config::site_proxy::SiteProxy;
use crate::hub::interface::Failure;
use crate::protocol::credential::Credential;

/// A client that examines a site.
pub(crate) struct ProbeClient {
    site: Site,
}

/// The index of the site's REST API.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct RestIndex {
    /// The site's own base URL, which is also the issuer in its tokens.
    #[serde(default)]
    pub home: Option<String>,
    /// The namespaces it offers, such as `buddyboss/v1`.
    pub namespaces: Vec<String>,
}

impl ProbeClient {
    /// Creates a client for this site.
    pub(crate) fn new(settings: &SiteSettings) -> ProbeClient {
        ProbeClient { site: Site::new(settings) }
    }

    /// Requests `members/me`, anonymously (as the breaker's probe does) or with a credential.
    ///
    /// # Errors
    ///
    /// As for every request here, the reason why no reply came.
    pub(crate) fn me(
        &self,
        url_style: UrlStyle,
        credential: Option<&Credential>,
        timeout: Duration,
    ) -> Result<Reply, &'static str> {
        let request = match credential {
            Some(credential) => checks::prove_request(credential, url_style),
            None => buddyboss::probe_request(url_style, None),
        };
        self.site.request(&request, timeout)
    }

    /// Requests the REST API's index.
    pub(crate) fn index(
        &self,
        url_style: UrlStyle,
        timeout: Duration,
    ) -> Result<Reply, &'static str> {
        self.get(Cow::Borrowed(url_style.index()), None, timeout)
    }

    /// Requests the newest thread of the credential's user.
    pub(crate) fn newest_thread(
        &self,
        url_style: UrlStyle,
        credential: &Credential,
        timeout: Duration,
    ) -> Result<Reply, &'static str> {
        self.get(Cow::Owned(url_style.newest_thread()), Some(credential), timeout)
    }

    /// Requests the first page of a thread's participants, as the server does.
    pub(crate) fn participants(
        &self,
        url_style: UrlStyle,
        thread: u64,
        credential: Option<&Credential>,
        timeout: Duration,
    ) -> Result<Reply, &'static str> {
        self.get(Cow::Owned(url_style.participants(thread, 1)), credential, timeout)
    }

    /// Sends a signed request to the site's plugin.
    pub(crate) fn ask_plugin(
        &self,
        request: PluginRequest,
        url_style: UrlStyle,
        timeout: Duration,
    ) -> Result<Reply, &'static str> {
        self.site.request(&request.into_request(url_style), timeout)
    }

    fn get(
        &self,
        path: Cow<'static, str>,
        token: Option<&Credential>,
        timeout: Duration,
    ) -> Result<Reply, &'static str> {
        self.site
            .request(&Request { method: "GET", path, token, body: None, signature: None }, timeout)
    }
}

/// The header `Proxy-Authorization` for a proxy that has a user name and a password.
pub(crate) fn proxy_authorization(proxy: &SiteProxy) -> Option<String> {
    site::proxy_authorization(proxy)
}

/// WordPress' error code, such as `rest_no_route`, if the reply has one that is safe to show.
pub(crate) fn error_code(reply: &Reply) -> Option<String> {
    reply.wp_error()?.loggable_code().map(str::to_owned)
}

/// Parses the reply to [`ProbeClient::index`].
pub(crate) fn parse_index(reply: &Reply) -> Option<RestIndex> {
    reply.json().filter(|_| reply.status == 200)
}

/// Parses the thread id in the reply to [`ProbeClient::newest_thread`]: `Some(None)` if the user
/// has no thread, `None` if the reply is unusable.
pub(crate) fn parse_newest_thread(reply: &Reply) -> Option<Option<u64>> {
    #[derive(Deserialize)]
    struct Thread {
        id: u64,
    }
    let list = reply.list().filter(|_| reply.status == 200)?;
    let Some(first) = list.first() else { return Some(None) };
    let thread: Thread = serde_json::from_str(first.get()).ok()?;
    is_id(thread.id).then_some(Some(thread.id))
}

/// The site's clock when it replied, in seconds since 1970; `None` if the reply has no valid `Date`
/// or comes from a cache.
pub(crate) fn server_clock_s(reply: &Reply) -> Option<u64> {
    let fresh = reply.age.as_deref().is_none_or(|age| age.trim() == "0");
    buddyboss::parse_http_date_s(reply.date.as_deref().filter(|_| fresh)?)
}

/// Parses the user id in the reply to [`ProbeClient::me`].
pub(crate) fn parse_member(reply: &Reply) -> Option<u64> {
    #[derive(Deserialize)]
    struct Me {
        id: u64,
    }
    let me: Me = reply.json().filter(|_| reply.status == 200)?;
    is_id(me.id).then_some(me.id)
}

/// The failure that a reply to [`ProbeClient::me`] without a user means for the credential.
pub(crate) fn token_failure(reply: &Reply) -> Failure {
    checks::failure(reply, Failure::TokenRefused)
}

impl RestIndex {
    /// Whether the site offers a namespace with this prefix.
    pub(crate) fn has_namespace(&self, prefix: &str) -> bool {
        self.namespaces.iter().any(|name| name.starts_with(prefix))
    }
}

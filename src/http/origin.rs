//! Decides whether the page or app that sent a request may connect, by the request's `Origin`.

use super::handshake::{Handshake, Rules};
use super::headers::{has_header, header_entries_from_right, header_values};
use super::request::Head;
use super::response::text;
use crate::config::proxies::Peer;
use crate::protocol::credential::{Credential, Scheme};

/// Longest logged part of a refused `Origin`, in characters.
const ORIGIN_LOGGED_MAX: usize = 100;

/// How the origin of a request was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OriginCheck {
    /// It is allowed, or the request has none because no page sent it.
    Allowed,
    /// It is not allowed, but the request cannot come from a page.
    NotFromPage,
    /// It is not allowed.
    Refused,
}

/// Checks the `Origin` of a request. `peer` is the socket's other end.
pub(super) fn check_origin<'a>(
    request: &httparse::Request<'_, 'a>,
    head: Head<'a>,
    peer: Peer,
    rules: &Rules,
) -> OriginCheck {
    if !rules.origins.is_restricted() {
        return OriginCheck::Allowed;
    }
    let mut found = header_values(request, "origin");
    let is_allowed = match (found.next(), found.next()) {
        (None, _) => true,
        (Some(origin), None) => std::str::from_utf8(origin).is_ok_and(|origin| {
            let hosts = head.host.into_iter().chain(forwarded_hosts(request, peer, rules));
            rules.origins.is_allowed(origin.trim(), hosts)
        }),
        // No browser sends two origins.
        (Some(_), Some(_)) => false,
    };
    match is_allowed {
        true => OriginCheck::Allowed,
        false if has_bearer_of_app(request) => OriginCheck::NotFromPage,
        false => OriginCheck::Refused,
    }
}

/// The hosts in `X-Forwarded-Host` that trusted proxies have written. Each proxy appends one at the
/// right, as with `X-Forwarded-For`, or replaces the header.
fn forwarded_hosts<'a>(
    request: &httparse::Request<'_, 'a>,
    peer: Peer,
    rules: &Rules,
) -> impl Iterator<Item = &'a str> {
    let chain = header_entries_from_right(request, "x-forwarded-for");
    let (_, proxies) = rules.proxies.client_and_hops(peer, chain);
    let hosts = header_entries_from_right(request, "x-forwarded-host").take(proxies);
    hosts.filter_map(|host| std::str::from_utf8(host).ok().map(str::trim))
}

/// Whether the request has `Authorization: Bearer` and comes from no browser.
///
/// A page cannot make a browser send this header with a WebSocket, and with `fetch` only after a
/// preflight request, which is refused. `Basic` is different: a browser remembers such credentials
/// for a server, and sends them for every page. A proxy could add a `Bearer` header to the request
/// of a browser; such a request is recognised by the Fetch Metadata headers, which browsers add
/// (W3C Fetch Metadata section 2) and pages cannot set or omit.
fn has_bearer_of_app(request: &httparse::Request<'_, '_>) -> bool {
    let is_bearer = |value: &[u8]| {
        let parsed = Credential::from_authorization(String::from_utf8_lossy(value).trim());
        matches!(parsed, Some(Ok(credential)) if credential.scheme() == Scheme::Bearer)
    };
    let is_browser = ["sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"]
        .iter()
        .any(|name| has_header(request, name));
    let mut values = header_values(request, "authorization");
    !is_browser && values.next().is_some_and(is_bearer) && values.next().is_none()
}

/// Refuses a request because of its origin. The response names the setting and repeats nothing of
/// the request.
pub(super) fn refuse_origin(request: &httparse::Request<'_, '_>) -> Handshake {
    let sanitized = |byte: u8| match byte {
        b'"' | b'\'' | b'`' | b'\\' => '?',
        b' '..=b'~' => char::from(byte),
        _ => '?',
    };
    let mut origin = String::new();
    for line in header_values(request, "origin") {
        origin.extend((!origin.is_empty()).then_some(" and "));
        let room = ORIGIN_LOGGED_MAX.saturating_sub(origin.len());
        origin.extend(line.iter().take(room).map(|byte| sanitized(*byte)));
    }
    origin.truncate(ORIGIN_LOGGED_MAX);
    let line = "Pages of this origin may not connect; the server's setting --allowed-origin says \
                which may. An app that is no page can send its token as Authorization: Bearer.";
    Handshake::RefuseOrigin { response: text("403 Forbidden", "", line), origin }
}

//! The origin check: which web pages may connect (`--allowed-origin`).
//!
//! A browser sends the origin of the page with each WebSocket request (RFC 6454 section 7, RFC 6455
//! section 10.2), and a page cannot change it. Programs that are not browsers may omit or forge it:
//! this check keeps out the pages of other sites, not programs.
//!
//! It has a parser of its own because the `http` crate does not accept `file://`, and `url`
//! normalizes what must be refused here (see `site_url.rs`) and allocates for each request.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::site_url::SiteUrl;

/// A value of `--allowed-origin`: one origin, or the subdomains of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// `*`: any page.
    Any,
    /// `null`: pages with an opaque origin, such as sandboxed frames and files.
    Null,
    /// `https://app.example.org:8443`, `capacitor://localhost`, `file://`: exactly this origin.
    Exact(OriginParts),
    /// `https://*.example.org`, in short `*.example.org`: subdomains at any depth, but not the
    /// domain itself.
    Subdomains(OriginParts),
}

/// Scheme, host and port in normal form: lower case, and without the default port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginParts {
    scheme: Box<str>,
    host: Box<str>,
    port: Option<u16>,
}

impl OriginPattern {
    /// Parses a value of `--allowed-origin`.
    ///
    /// # Errors
    ///
    /// A message that says what is wrong and what is expected.
    pub fn parse(text: &str) -> Result<OriginPattern, String> {
        let refuse = |why: &str| {
            Err(format!(
                "not an origin: {why} (expected https://app.example.org, *.example.org, null, \
                 capacitor://localhost, or * for any)"
            ))
        };
        let text = text.trim();
        match text {
            "*" => return Ok(OriginPattern::Any),
            "null" => return Ok(OriginPattern::Null),
            _ => {}
        }
        let whole = match text.strip_prefix("*.") {
            Some(_) => format!("https://{text}"),
            None => text.to_owned(),
        };
        let Some((scheme, rest)) = whole.split_once("://") else {
            return refuse("it must begin with a scheme such as https://");
        };
        if rest.contains('@') {
            return refuse("it must not have a user name or a password");
        }
        if rest.contains(['/', '?', '#', '\\']) {
            return refuse("nothing may follow the host and port, not even a slash");
        }
        if !rest.is_ascii() {
            return refuse("a host with non-ASCII letters must be in the form xn--…");
        }
        let domain = rest.strip_prefix("*.");
        let bare = format!("{scheme}://{}", domain.unwrap_or(rest));
        let Some(origin) = Origin::parse(&bare) else {
            return refuse("its scheme, host or port is invalid");
        };
        let parts = OriginParts {
            scheme: origin.scheme.to_ascii_lowercase().into(),
            host: match parse_bracketed_ipv6(origin.host) {
                Some(address) => format!("[{address}]").into(),
                None => origin.host.to_ascii_lowercase().into(),
            },
            port: origin.port(),
        };
        match domain {
            None => Ok(OriginPattern::Exact(parts)),
            Some(_) if parts.host.is_empty() || is_ip_address(&parts.host) => {
                refuse("only a domain has subdomains")
            }
            Some(_) => Ok(OriginPattern::Subdomains(parts)),
        }
    }

    /// Returns the origin of the pages of the site.
    fn of_site(site: &SiteUrl) -> Option<OriginPattern> {
        let (scheme, rest) = site.as_str().split_once("://")?;
        let host = rest.split('/').next()?;
        OriginPattern::parse(&format!("{scheme}://{host}")).ok()
    }

    fn matches(&self, origin: Option<&Origin<'_>>) -> bool {
        match (self, origin) {
            (OriginPattern::Any, _) | (OriginPattern::Null, None) => true,
            (OriginPattern::Exact(parts), Some(origin)) => {
                parts.has_same_scheme_and_port(origin)
                    && origin.host.eq_ignore_ascii_case(&parts.host)
            }
            (OriginPattern::Subdomains(parts), Some(origin)) => {
                let dot = origin.host.len().checked_sub(parts.host.len() + 1);
                parts.has_same_scheme_and_port(origin)
                    && dot.is_some_and(|at| {
                        let (subdomain, domain) = origin.host.as_bytes().split_at(at);
                        let domain = &domain[1..];
                        !subdomain.is_empty()
                            && origin.host.as_bytes()[at] == b'.'
                            && domain.eq_ignore_ascii_case(parts.host.as_bytes())
                    })
            }
            (OriginPattern::Null, Some(_)) | (_, None) => false,
        }
    }
}

impl OriginParts {
    /// Whether the origin has the same scheme and port.
    fn has_same_scheme_and_port(&self, origin: &Origin<'_>) -> bool {
        origin.scheme.eq_ignore_ascii_case(&self.scheme) && origin.port() == self.port
    }
}

/// The origins that may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    /// `None`: origins are not checked.
    allowed: Option<Vec<OriginPattern>>,
}

impl Origins {
    /// Allows every origin.
    pub fn any() -> Origins {
        Origins { allowed: None }
    }

    /// Allows these origins and, if there is a site, the origin of its pages.
    pub fn only(patterns: &[OriginPattern], site: Option<&SiteUrl>) -> Origins {
        if patterns.contains(&OriginPattern::Any) {
            return Origins::any();
        }
        let site = site.and_then(OriginPattern::of_site);
        Origins { allowed: Some(patterns.iter().cloned().chain(site).collect()) }
    }

    /// Whether origins are checked.
    pub fn is_restricted(&self) -> bool {
        self.allowed.is_some()
    }

    /// Whether a request with this `Origin` is allowed. `hosts` are the names of the server in that
    /// request: its `Host`, and what trusted proxies forward as that of the client. Requests
    /// without an `Origin` do not come from web pages and need no check.
    ///
    /// The server's own origin is always allowed, because React Native sends the origin of the
    /// server that it connects to. This is safe with verified trust: the server uses no cookies or
    /// other credentials that a browser adds by itself. With `--trust open`, where network access
    /// is the only protection, a page whose host name resolves to the server's address is allowed
    /// by this rule (DNS rebinding).
    pub fn is_allowed<'a>(&self, origin: &str, hosts: impl IntoIterator<Item = &'a str>) -> bool {
        let Some(allowed) = &self.allowed else { return true };
        let parsed = match origin {
            "null" => None,
            text => match Origin::parse(text) {
                None => return false,
                parsed => parsed,
            },
        };
        allowed.iter().any(|pattern| pattern.matches(parsed.as_ref()))
            || parsed.is_some_and(|origin| hosts.into_iter().any(|host| origin.matches_host(host)))
    }
}

/// A parsed `Origin` header (RFC 6454 section 7) that is not `null`.
#[derive(Clone, Copy)]
struct Origin<'a> {
    scheme: &'a str,
    /// The host, an IPv6 address in brackets; empty only for app schemes such as `file`.
    host: &'a str,
    /// The port as written, if any.
    written_port: Option<u16>,
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Origin<'a>> {
        let (scheme, rest) = text.split_once("://")?;
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(is_allowed)
        {
            return None;
        }
        let (host, written_port) = host_and_port(rest)?;
        let origin = Origin { scheme, host, written_port };
        let is_app_scheme = origin.default_port().is_none() && written_port.is_none();
        (!host.is_empty() || is_app_scheme).then_some(origin)
    }

    fn default_port(&self) -> Option<u16> {
        let is = |scheme: &str| self.scheme.eq_ignore_ascii_case(scheme);
        match () {
            () if is("https") || is("wss") => Some(443),
            () if is("http") || is("ws") => Some(80),
            () => None,
        }
    }

    /// Returns the port, or the default port of the scheme.
    fn effective_port(&self) -> Option<u16> {
        self.written_port.or(self.default_port())
    }

    /// Returns the port unless it is the default port of the scheme.
    fn port(&self) -> Option<u16> {
        self.written_port.filter(|port| Some(*port) != self.default_port())
    }

    /// Whether a `Host` header (RFC 9110 section 7.2) has the same host and port. Behind a proxy
    /// that terminates TLS, only the origin has the scheme, so its default port applies to both.
    fn matches_host(&self, host: &str) -> bool {
        let Some((host, port)) = host_and_port(host) else { return false };
        self.default_port().is_some()
            && self.host.eq_ignore_ascii_case(host)
            && self.effective_port() == port.or(self.default_port())
    }
}

/// Splits `HOST` or `HOST:PORT`. The host has letters, digits, `-` and `_` without empty labels, or
/// is an IPv6 address in brackets, or is empty.
fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let end = match text.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(end);
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        // Digits only: `str::parse` would accept a plus sign.
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port > 0)?)
        }
        _ => return None,
    };
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_allowed);
    let is_valid =
        host.is_empty() || parse_bracketed_ipv6(host).is_some() || host.split('.').all(is_label);
    is_valid.then_some((host, port))
}

fn parse_bracketed_ipv6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

fn is_ip_address(host: &str) -> bool {
    // A browser parses a host that ends in a number as an IPv4 address.
    let last = host.rsplit('.').next().unwrap_or(host);
    host.parse::<Ipv4Addr>().is_ok()
        || parse_bracketed_ipv6(host).is_some()
        || last.bytes().all(|b| b.is_ascii_digit())
}

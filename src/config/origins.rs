//! Which web pages may connect: the origins that an operator allows, and how one is recognised.
//!
//! A browser says with each WebSocket request which page it comes from (RFC 6454 section 7, RFC
//! 6455 section 10.2), and no page can make it lie. Apps that are no pages say nothing, or what
//! they like: this keeps other sites' pages out, not programs.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::site_url::SiteUrl;

/// One allowed origin, or a family of them, as an operator writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// `*`: any page.
    Any,
    /// `null`: pages without an origin, such as sandboxed frames and files.
    Null,
    /// `https://app.example.org:8443`, `capacitor://localhost`, `file://`: this one.
    Exact(OriginParts),
    /// `https://*.example.org`, in short `*.example.org`: each subdomain of this, however deep, and
    /// not the domain itself.
    Subdomains(OriginParts),
}

/// Scheme, host and port in their normal form: small letters, and no port that goes without saying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginParts {
    scheme: Box<str>,
    host: Box<str>,
    port: Option<u16>,
}

impl OriginPattern {
    /// Reads what an operator allows.
    ///
    /// # Errors
    ///
    /// A sentence that says what is expected.
    pub fn parse(text: &str) -> Result<OriginPattern, String> {
        let refuse = |why: &str| {
            Err(format!(
                "not an origin: {why} (expected is https://app.example.org, *.example.org, null, \
                 an app's capacitor://localhost, or * for any)"
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
            return refuse("it does not begin with a scheme such as https://");
        };
        if rest.contains('@') {
            return refuse("it has a user name or a password");
        }
        if rest.contains(['/', '?', '#', '\\']) {
            return refuse("nothing may follow host and port, not even a slash");
        }
        if !rest.is_ascii() {
            return refuse("a host with other letters is written as browsers do, xn--…");
        }
        let below = rest.strip_prefix("*.");
        let bare = format!("{scheme}://{}", below.unwrap_or(rest));
        let Some(origin) = Origin::read(&bare) else {
            return refuse("its scheme, host or port cannot be read");
        };
        let place = OriginParts {
            scheme: origin.scheme.to_ascii_lowercase().into(),
            host: match parse_bracketed_ipv6(origin.host) {
                Some(address) => format!("[{address}]").into(),
                None => origin.host.to_ascii_lowercase().into(),
            },
            port: origin.port(),
        };
        match below {
            None => Ok(OriginPattern::Exact(place)),
            Some(_) if place.host.is_empty() || is_ip_address(&place.host) => {
                refuse("only a domain has subdomains")
            }
            Some(_) => Ok(OriginPattern::Subdomains(place)),
        }
    }

    /// The origin of the site's own pages.
    fn of_site(site: &SiteUrl) -> Option<OriginPattern> {
        let (scheme, rest) = site.as_str().split_once("://")?;
        let host = rest.split('/').next()?;
        OriginPattern::parse(&format!("{scheme}://{host}")).ok()
    }

    fn matches(&self, origin: Option<&Origin<'_>>) -> bool {
        match (self, origin) {
            (OriginPattern::Any, _) | (OriginPattern::Null, None) => true,
            (OriginPattern::Exact(place), Some(origin)) => {
                place.has_same_scheme_and_port(origin)
                    && origin.host.eq_ignore_ascii_case(&place.host)
            }
            (OriginPattern::Subdomains(place), Some(origin)) => {
                // The label before the dot is not empty: no host has empty labels.
                let ends = origin.host.len().checked_sub(place.host.len() + 1);
                place.has_same_scheme_and_port(origin)
                    && ends.is_some_and(|at| {
                        let (label, domain) = origin.host.as_bytes().split_at(at);
                        let domain = &domain[1..];
                        !label.is_empty()
                            && origin.host.as_bytes()[at] == b'.'
                            && domain.eq_ignore_ascii_case(place.host.as_bytes())
                    })
            }
            (OriginPattern::Null, Some(_)) | (_, None) => false,
        }
    }
}

impl OriginParts {
    /// Whether scheme and port are the same.
    fn has_same_scheme_and_port(&self, origin: &Origin<'_>) -> bool {
        origin.scheme.eq_ignore_ascii_case(&self.scheme) && origin.port() == self.port
    }
}

/// Whom the server lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    /// None: not checked.
    allowed: Option<Vec<OriginPattern>>,
}

impl Origins {
    /// Every page may connect, whatever it says.
    pub fn any() -> Origins {
        Origins { allowed: None }
    }

    /// These, and the pages of the site, if there is one.
    pub fn only(patterns: &[OriginPattern], site: Option<&SiteUrl>) -> Origins {
        if patterns.contains(&OriginPattern::Any) {
            return Origins::any();
        }
        let site = site.and_then(OriginPattern::of_site);
        Origins { allowed: Some(patterns.iter().cloned().chain(site).collect()) }
    }

    /// Whether there is anything to check.
    pub fn is_restricted(&self) -> bool {
        self.allowed.is_some()
    }

    /// Whether a request may come in, by the value of its one `Origin` header and of its one `Host`
    /// header, if it has one. Whoever sends no `Origin` is no page and need not be asked.
    ///
    /// A page of the server's own address is always welcome: React Native says of itself that it
    /// comes from the server that it connects to. That opens nothing where a token proves who
    /// someone is: the server knows no cookies or other authority that a browser would add by
    /// itself. (With `--trust open`, where being able to reach the server is the authority, a page
    /// that has its own name resolve to the server's address comes in like this.)
    pub fn is_allowed(&self, origin: &str, host: Option<&str>) -> bool {
        let Some(allowed) = &self.allowed else { return true };
        let parsed = match origin {
            "null" => None,
            text => match Origin::read(text) {
                None => return false,
                read => read,
            },
        };
        allowed.iter().any(|pattern| pattern.matches(parsed.as_ref()))
            || parsed.zip(host).is_some_and(|(origin, host)| origin.matches_host(host))
    }
}

/// What stands in an `Origin` header (RFC 6454 section 7), unless it is `null`.
#[derive(Clone, Copy)]
struct Origin<'a> {
    scheme: &'a str,
    /// An IPv6 address has its brackets; empty only for schemes of apps.
    host: &'a str,
    /// As written.
    written_port: Option<u16>,
}

impl<'a> Origin<'a> {
    fn read(text: &'a str) -> Option<Origin<'a>> {
        let (scheme, rest) = text.split_once("://")?;
        let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(letter) {
            return None;
        }
        let (host, written_port) = host_and_port(rest)?;
        let origin = Origin { scheme, host, written_port };
        let of_app = origin.default_port().is_none() && written_port.is_none();
        (!host.is_empty() || of_app).then_some(origin)
    }

    fn default_port(&self) -> Option<u16> {
        let is = |scheme: &str| self.scheme.eq_ignore_ascii_case(scheme);
        match () {
            () if is("https") || is("wss") => Some(443),
            () if is("http") || is("ws") => Some(80),
            () => None,
        }
    }

    /// The port, also where it goes without saying.
    fn effective_port(&self) -> Option<u16> {
        self.written_port.or(self.default_port())
    }

    /// The port, where it does not go without saying.
    fn port(&self) -> Option<u16> {
        self.written_port.filter(|port| Some(*port) != self.default_port())
    }

    /// Whether a `Host` header (RFC 9110 section 7.2) names the same place. Behind a proxy that
    /// speaks TLS, only the origin knows the scheme, so its default port counts for both.
    fn matches_host(&self, host: &str) -> bool {
        let Some((host, port)) = host_and_port(host) else { return false };
        self.default_port().is_some()
            && self.host.eq_ignore_ascii_case(host)
            && self.effective_port() == port.or(self.default_port())
    }
}

/// A host of letters, digits, `-` and `_` without empty labels, or an IPv6 address in brackets, or
/// nothing; and the port, if there is one.
fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let end = match text.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(end);
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        // Digits only: a number may be written with a plus sign in Rust.
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port > 0)?)
        }
        _ => return None,
    };
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(letter);
    let good =
        host.is_empty() || parse_bracketed_ipv6(host).is_some() || host.split('.').all(is_label);
    good.then_some((host, port))
}

fn parse_bracketed_ipv6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

fn is_ip_address(host: &str) -> bool {
    // What ends in a number is an IPv4 address for a browser, if it is anything.
    let last = host.rsplit('.').next().unwrap_or(host);
    host.parse::<Ipv4Addr>().is_ok()
        || parse_bracketed_ipv6(host).is_some()
        || last.bytes().all(|b| b.is_ascii_digit())
}

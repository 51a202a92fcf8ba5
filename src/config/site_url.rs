//! The URL of the BuddyBoss site, validated and normalized.
//!
//! Parsed with the `http` crate, not with `url`. By the rules of browsers, `url` accepts what is
//! refused here (`https:///host`, `https:host`, an empty port, line breaks in the middle), and its
//! Unicode tables add some 230 KB to the binary.

use std::fmt;

use http::Uri;

/// The validated URL of a BuddyBoss site: scheme `http` or `https`, a host, optionally a port and a
/// path. It cannot contain a password, so it may be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteUrl {
    /// Scheme, authority and path, without a slash at the end.
    base: String,
}

impl SiteUrl {
    /// Parses a URL such as `https://example.org/community`. Slashes and a `/wp-json` at the end
    /// are removed.
    ///
    /// # Errors
    ///
    /// A message for the operator. It does not repeat the text, which may contain a password.
    pub fn parse(text: &str) -> Result<SiteUrl, String> {
        let refuse = |why: &str| {
            Err(format!(
                "not the URL of a site: {why} (expected a URL such as https://example.org)"
            ))
        };
        let text = text.trim();
        if text.contains(['?', '#']) {
            return refuse("it has a query or a fragment");
        }
        let Ok(uri) = text.parse::<Uri>() else {
            return refuse("it is not a valid URL, or has non-ASCII characters");
        };
        let scheme = match uri.scheme_str() {
            Some("http") => "http",
            Some("https") => "https",
            Some(_) => return refuse("its scheme is neither http nor https"),
            None => return refuse("it does not begin with https:// or http://"),
        };
        let Some(authority) = uri.authority() else {
            return refuse("it has no host");
        };
        if authority.as_str().contains('@') {
            return refuse("it has a user name or a password");
        }
        // The `http` crate also accepts an empty port and one beyond 65,535.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => String::new(),
            Some(_) => match authority.port_u16() {
                // The default port is omitted, as in the `Origin` of a browser.
                Some(443) if scheme == "https" => String::new(),
                Some(80) if scheme == "http" => String::new(),
                Some(port) if port > 0 => format!(":{port}"),
                _ => return refuse("its port is not a number from 1 to 65535"),
            },
            None => return refuse("it has no host"),
        };
        if authority.host().is_empty() {
            return refuse("it has no host");
        }
        let path = uri.path().trim_end_matches('/');
        let path = path.strip_suffix("/wp-json").unwrap_or(path).trim_end_matches('/');
        let host = authority.host().to_ascii_lowercase();
        Ok(SiteUrl { base: format!("{scheme}://{host}{port}{path}") })
    }

    /// Returns the URL without a slash at the end.
    pub fn as_str(&self) -> &str {
        &self.base
    }
}

impl fmt::Display for SiteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn site_url_accepts_the_forms_operators_write() {
        for (text, base) in [
            ("https://example.org", "https://example.org"),
            ("https://example.org/", "https://example.org"),
            (" https://example.org//\n", "https://example.org"),
            ("HTTPS://Example.ORG", "https://example.org"),
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("http://[::1]:8000/", "http://[::1]:8000"),
            ("https://example.org:443/", "https://example.org"),
            ("http://example.org:80", "http://example.org"),
            ("https://example.org:80", "https://example.org:80"),
            ("https://example.org/community", "https://example.org/community"),
            ("https://example.org/community/", "https://example.org/community"),
            ("https://example.org/wp-json", "https://example.org"),
            ("https://example.org/community/wp-json/", "https://example.org/community"),
            ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ] {
            assert_eq!(SiteUrl::parse(text).map(|u| u.base), Ok(base.to_owned()), "{text}");
        }
    }

    #[test]
    fn invalid_site_url_is_refused_without_echo() {
        for text in [
            "",
            "example.org",
            "/community",
            "ftp://example.org",
            "ws://example.org",
            "https://",
            "https:///path",
            "https://:443",
            "https://example.org:",
            "https://example.org:0",
            "https://example.org:65536",
            "https://alice:s3cret@example.org",
            "https://alice@example.org",
            "https://example.org/?page=2",
            "https://example.org/#top",
            "https://exa mple.org",
            "https://bücher.example",
            "https://example.org/\r\nX-Evil: 1",
        ] {
            let error = SiteUrl::parse(text).unwrap_err();
            assert!(!error.contains("s3cret") && !error.contains("alice"), "{text}: {error}");
        }
    }
}

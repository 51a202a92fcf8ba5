//! The public URL of the server, as apps have it: `wss://community.example/live`.
//!
//! Parsed with the `http` crate; `site_url.rs` says why not with `url`.

use std::fmt;

use http::Uri;

/// A validated WebSocket URL: scheme `ws` or `wss`, a host, optionally a port and a path. It cannot
/// contain a password or a token, so it may be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    /// Whether the scheme is `wss`.
    pub secure: bool,
    /// A host name or an IP address, without brackets.
    pub host: String,
    /// The port as written, or the default of the scheme.
    pub port: u16,
    /// The path; at least a slash.
    pub path: String,
    /// Host and port as in the `Host` header, without the default port.
    pub authority: String,
}

impl PublicUrl {
    /// Parses a URL such as `wss://community.example/live`.
    ///
    /// # Errors
    ///
    /// A message for the operator. It does not repeat the text, which may contain a token.
    pub fn parse(text: &str) -> Result<PublicUrl, String> {
        let refuse = |why: &str| {
            Err(format!(
                "not a WebSocket URL: {why} (expected a URL such as wss://example.org/live)"
            ))
        };
        if text.contains(['?', '#', '@']) {
            return refuse("it must not have a query, a fragment or a user name");
        }
        let Ok(uri) = text.trim().parse::<Uri>() else {
            return refuse("it is not a valid URL, or has non-ASCII characters");
        };
        let secure = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") => false,
            _ => return refuse("it does not begin with wss:// or ws://"),
        };
        let Some(authority) = uri.authority().filter(|a| !a.host().is_empty()) else {
            return refuse("it has no host");
        };
        let default_port = if secure { 443 } else { 80 };
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => default_port,
            Some(_) => match authority.port_u16() {
                Some(port) if port > 0 => port,
                _ => return refuse("its port is not a number from 1 to 65535"),
            },
            None => return refuse("it has no host"),
        };
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let path = if uri.path().is_empty() { "/" } else { uri.path() }.to_owned();
        let colon = if port == default_port { String::new() } else { format!(":{port}") };
        let authority = format!("{}{colon}", authority.host().to_ascii_lowercase());
        Ok(PublicUrl { secure, host, port, path, authority })
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_url_accepts_the_forms_apps_use() {
        for (text, printed, host, port) in [
            ("wss://a.example", "wss://a.example/", "a.example", 443),
            ("wss://A.example:443/live", "wss://a.example/live", "a.example", 443),
            ("ws://127.0.0.1:8080", "ws://127.0.0.1:8080/", "127.0.0.1", 8080),
            ("ws://[::1]:81/x", "ws://[::1]:81/x", "::1", 81),
        ] {
            let url = PublicUrl::parse(text).unwrap();
            assert_eq!((&*url.to_string(), &*url.host, url.port), (printed, host, port));
            assert_eq!(url.secure, text.starts_with("wss"));
        }
    }

    #[test]
    fn non_websocket_url_is_refused_without_echo() {
        for text in [
            "",
            "a.example",
            "https://a.example",
            "wss://",
            "wss://:443",
            "wss://a.example:0",
            "wss://a.example:65536",
            "wss://a.example/?token=s3cret",
            "wss://alice:s3cret@a.example",
        ] {
            let error = PublicUrl::parse(text).unwrap_err();
            assert!(!error.contains("s3cret"), "{text}: {error}");
        }
    }
}

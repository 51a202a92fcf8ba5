//! The URL that `buddyline health` asks: `http://`, `https://` or `unix:PATH`.

use std::path::PathBuf;

use http::Uri;

/// A validated URL of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthUrl {
    /// An HTTP URL.
    Http {
        /// A host name or an IP address, without brackets.
        host: String,
        /// The port as written, or the default of the scheme.
        port: u16,
        /// Whether the scheme is `https`.
        secure: bool,
        /// The path, if the URL has one.
        path: Option<String>,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl HealthUrl {
    /// Parses `http://HOST:PORT/PATH`, `https://…` or `unix:PATH`.
    ///
    /// # Errors
    ///
    /// A message that says what is expected, without the text.
    pub fn parse(text: &str) -> Result<HealthUrl, String> {
        let expected = || {
            "expected a URL such as http://127.0.0.1:8080/healthz, without a user name or a query, \
             or unix:/run/buddyline/live.sock"
                .to_owned()
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err(expected())
            } else {
                Ok(HealthUrl::Unix(path.into()))
            };
        }
        if text.contains(['?', '#', '@']) {
            return Err(expected());
        }
        let uri: Uri = text.parse().map_err(|_| expected())?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(expected()),
        };
        let authority = uri.authority().ok_or_else(expected)?;
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => Some(if secure { 443 } else { 80 }),
            _ => authority.port_u16().filter(|port| *port > 0),
        };
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let path = Some(uri.path()).filter(|path| path.len() > 1).map(str::to_owned);
        match port.filter(|_| !host.is_empty()) {
            Some(port) => Ok(HealthUrl::Http { host, port, secure, path }),
            None => Err(expected()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_url_is_http_or_a_unix_socket() {
        let http = |host: &str, port, secure, path: Option<&str>| HealthUrl::Http {
            host: host.to_owned(),
            port,
            secure,
            path: path.map(str::to_owned),
        };
        for (text, url) in [
            ("http://localhost", http("localhost", 80, false, None)),
            ("http://127.0.0.1:8080/", http("127.0.0.1", 8080, false, None)),
            ("https://[::1]/readyz", http("::1", 443, true, Some("/readyz"))),
            ("unix:/run/a.sock", HealthUrl::Unix("/run/a.sock".into())),
        ] {
            assert_eq!(HealthUrl::parse(text), Ok(url), "{text}");
        }
        for text in [
            "",
            "localhost:8080",
            "ws://localhost/",
            "http://",
            "http://a:0/",
            "http://a:99999/",
            "http://user:s3cret@a/",
            "http://a/?token=s3cret",
            "unix:",
        ] {
            let fault = HealthUrl::parse(text).unwrap_err();
            assert!(fault.contains("http://127.0.0.1") && !fault.contains("s3cret"), "{text}");
        }
    }
}

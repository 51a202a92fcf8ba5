//! The request header in which the site expects a user's token (`--token-header`).

use std::fmt;

use http::HeaderName;
use http::header::AUTHORIZATION;

/// The name of the header: `Authorization`, or a custom one such as `accessToken` of the BuddyBoss
/// App.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHeader {
    name: HeaderName,
}

/// Headers that have another meaning for the site or for a proxy in front of it. Names that begin
/// with one of `RESERVED_PREFIXES` are reserved as well.
const RESERVED: [&str; 14] = [
    "connection",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "origin",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-wp-nonce",
];
const RESERVED_PREFIXES: [&str; 6] =
    ["accept", "content-", "if-", "proxy-", "x-forwarded-", "x-http-method"];

impl TokenHeader {
    /// Parses a header name, in upper or lower case.
    ///
    /// # Errors
    ///
    /// A message for the operator.
    pub fn parse(text: &str) -> Result<TokenHeader, String> {
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            return Err("expected the name of a header, such as Authorization".to_owned());
        };
        let is_reserved = RESERVED.contains(&name.as_str())
            || RESERVED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix));
        match is_reserved {
            true => Err("this header has another meaning: expected one for a token".to_owned()),
            false => Ok(TokenHeader { name }),
        }
    }

    /// Returns the name in lower case. Header names are case-insensitive (RFC 9110 5.1).
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Whether this is `Authorization`, in which the token follows `Bearer`.
    pub fn is_authorization(&self) -> bool {
        self.name == AUTHORIZATION
    }
}

impl Default for TokenHeader {
    fn default() -> TokenHeader {
        TokenHeader { name: AUTHORIZATION }
    }
}

impl fmt::Display for TokenHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_name_is_case_insensitive() {
        for (text, name) in [
            ("Authorization", "authorization"),
            ("accessToken", "accesstoken"),
            ("X-Auth-Token", "x-auth-token"),
        ] {
            assert_eq!(TokenHeader::parse(text).unwrap().name(), name);
        }
        assert!(TokenHeader::parse("AUTHORIZATION").unwrap().is_authorization());
        assert_eq!(TokenHeader::parse("authorization").unwrap(), TokenHeader::default());
    }

    #[test]
    fn invalid_or_reserved_header_name_is_refused() {
        for text in [
            "",
            " ",
            "access token",
            "token:",
            "tok\r\nen",
            "tökén",
            "Host",
            "Content-Type",
            "content-length",
            "Accept",
            "Accept-Encoding",
            "Cookie",
            "Connection",
            "Upgrade",
            "Transfer-Encoding",
            "Proxy-Authorization",
            "X-WP-Nonce",
            "X-Forwarded-For",
            "X-HTTP-Method-Override",
        ] {
            assert!(TokenHeader::parse(text).is_err(), "{text}");
        }
    }
}

//! The header in which the site expects a member's token.

use std::fmt;

use http::HeaderName;
use http::header::AUTHORIZATION;

/// The name of a header that may carry a token: `Authorization`, or one of the site's own, as sites
/// behind the BuddyBoss app have in `accessToken`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHeader {
    name: HeaderName,
}

/// Headers that mean something else to the site or to what stands in front of it. Names that begin
/// like one of `RESERVED_PREFIXES` are taken as well.
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
    /// Reads a name as an operator writes it; letters may be large or small.
    ///
    /// # Errors
    ///
    /// A sentence for the operator.
    pub fn parse(text: &str) -> Result<TokenHeader, String> {
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            return Err("expected the name of a header, such as Authorization".to_owned());
        };
        let taken = RESERVED.contains(&name.as_str())
            // `accesstoken` does not begin like `accept`; a kind is not a whole word.
            || RESERVED_PREFIXES.iter().any(|kind| name.as_str().starts_with(kind));
        match taken {
            true => Err("this header has another meaning; expected is one for a token".to_owned()),
            false => Ok(TokenHeader { name }),
        }
    }

    /// The name in small letters, as it goes over the wire: names of headers have no case (RFC 9110
    /// 5.1).
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Whether it is the usual one, in which a token follows the word `Bearer`.
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

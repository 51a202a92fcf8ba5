//! Credentials for authentication: a bearer token or an Application Password, never printed.
//!
//! The site issues both (CONTRACT 2). Wherever a client sends one (`PROTOCOL.md` 3), it is parsed
//! here into a [`Credential`]: its debug output is `Credential(…)`, its bytes are zeroed when the
//! last clone is dropped, and tables identify it by its [`Fingerprint`].

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ring::digest::{Context, SHA256};
use zeroize::Zeroizing;

use super::{ClientError, ErrorCode};

/// The identifier of the key (`kid`) in the header of a ticket of the site's plugin.
pub const TICKET_KID: &str = "buddyline-ticket";

/// The longest header of a ticket, encoded, in bytes.
const TICKET_HEADER_BYTES_MAX: usize = 256;

/// The HTTP authentication scheme with which a secret is sent to the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// A token: `Authorization: Bearer …`, or a header that the site defines.
    Bearer,
    /// An Application Password: `Authorization: Basic …` (RFC 7617).
    Basic,
}

/// A secret for the site; clones share one copy.
#[derive(Clone)]
pub struct Credential {
    scheme: Scheme,
    secret: Arc<Zeroizing<Box<str>>>,
}

/// Identifies a credential without keeping it: SHA-256 of scheme and secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Credential {
    /// Longest secret, in bytes; web servers refuse longer header lines anyway.
    pub const BYTES_MAX: usize = 4096;
    /// Longest ticket of the site's plugin, in bytes: it lists threads and blocks, and goes to no
    /// web server.
    pub const TICKET_BYTES_MAX: usize = 20_480;

    /// Parses a `token` from a frame, a query or a subprotocol: the token itself, optionally after
    /// `Bearer `; `Basic ` and base64 of `login:password`; or, where spaces and slashes are not
    /// allowed, `basic.` and the same in base64url without padding.
    ///
    /// # Errors
    ///
    /// The token is invalid; the text does not repeat it.
    pub fn parse(text: &str) -> Result<Credential, ClientError> {
        // Some apps keep the token with the scheme of the header.
        if let Some(known) = Credential::from_authorization(text) {
            return known;
        }
        if let Some(encoded) = text.strip_prefix("basic.") {
            return match URL_SAFE_NO_PAD.decode(encoded).map(Zeroizing::new) {
                Ok(pair) if pair.contains(&b':') => {
                    Ok(Credential::new(Scheme::Basic, STANDARD.encode(&*pair)))
                }
                _ => Err(invalid("expected base64url of login:password after basic.")),
            };
        }
        Credential::bearer(text)
    }

    /// Parses the value of an `Authorization` header; `None` if its scheme is neither `Bearer` nor
    /// `Basic`, or nothing follows the scheme.
    pub fn from_authorization(value: &str) -> Option<Result<Credential, ClientError>> {
        if let Some(token) = strip_scheme(value, "Bearer") {
            return Some(Credential::bearer(token));
        }
        strip_scheme(value, "Basic").map(Credential::basic)
    }

    /// The scheme of an `Authorization` header, if something follows it.
    pub fn scheme_of(value: &str) -> Option<Scheme> {
        let bearer = strip_scheme(value, "Bearer").map(|_| Scheme::Bearer);
        bearer.or_else(|| strip_scheme(value, "Basic").map(|_| Scheme::Basic))
    }

    fn bearer(text: &str) -> Result<Credential, ClientError> {
        let printable = text.bytes().all(|b| b.is_ascii_graphic());
        let max = Self::BYTES_MAX;
        let fits = text.len() <= max || (text.len() <= Self::TICKET_BYTES_MAX && is_ticket(text));
        if !printable || text.is_empty() || !fits {
            return Err(invalid(&format!(
                "expected 1 to {max} bytes of printable ASCII without spaces"
            )));
        }
        Ok(Credential::new(Scheme::Bearer, text.to_owned()))
    }

    /// Normalizes the base64, so that the site and the fingerprint see one form.
    fn basic(encoded: &str) -> Result<Credential, ClientError> {
        let bare = encoded.trim_end_matches('=');
        match STANDARD_NO_PAD.decode(bare).map(Zeroizing::new) {
            Ok(pair) if pair.contains(&b':') && encoded.len() <= Self::BYTES_MAX => {
                Ok(Credential::new(Scheme::Basic, STANDARD.encode(&*pair)))
            }
            _ => Err(invalid("expected base64 of login:password after Basic")),
        }
    }

    fn new(scheme: Scheme, secret: String) -> Credential {
        Credential { scheme, secret: Arc::new(Zeroizing::new(secret.into_boxed_str())) }
    }

    /// Whether it says that it is a ticket of the site's plugin, which the site does not take as a
    /// token.
    pub fn is_ticket(&self) -> bool {
        self.scheme == Scheme::Bearer && is_ticket(&self.secret)
    }

    /// The scheme with which it is sent to the site.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The secret, as it follows the scheme in a header line.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The fingerprint that identifies it in tables.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut context = Context::new(&SHA256);
        context.update(match self.scheme {
            Scheme::Bearer => b"bearer ",
            Scheme::Basic => b"basic  ",
        });
        context.update(self.secret().as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        Fingerprint(bytes)
    }
}

/// Compares fingerprints: the time this takes does not reveal where two secrets differ.
impl PartialEq for Credential {
    fn eq(&self, other: &Credential) -> bool {
        self.fingerprint() == other.fingerprint()
    }
}

impl Eq for Credential {}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// Whether the header of a JWT names the key of tickets.
fn is_ticket(token: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Header<'a> {
        #[serde(borrow)]
        kid: Option<std::borrow::Cow<'a, str>>,
    }
    let header = token.split_once('.').map(|(header, _)| header);
    let header = header.filter(|header| header.len() <= TICKET_HEADER_BYTES_MAX);
    let Some(Ok(header)) = header.map(|header| URL_SAFE_NO_PAD.decode(header)) else {
        return false;
    };
    serde_json::from_slice::<Header<'_>>(&header)
        .is_ok_and(|header| header.kid.as_deref() == Some(TICKET_KID))
}

/// The text after a scheme, which is case-insensitive (RFC 9110 section 11.1), and its spaces.
fn strip_scheme<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (first, rest) = text.split_once(' ')?;
    let rest = rest.trim_start_matches(' ');
    (first.eq_ignore_ascii_case(word) && !rest.is_empty()).then_some(rest)
}

fn invalid(expected: &str) -> ClientError {
    ClientError::new(ErrorCode::InvalidField, format!("token is not valid: {expected}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `alice:open sesame`
    const PAIR: &str = "YWxpY2U6b3BlbiBzZXNhbWU=";

    #[test]
    fn debug_output_of_credential_omits_the_secret() {
        let bearer = Credential::parse("secret-secret").unwrap();
        let basic = Credential::parse(&format!("Basic {PAIR}")).unwrap();
        for credential in [bearer, basic] {
            assert_eq!(format!("{credential:?}"), "Credential(…)");
        }
    }

    #[test]
    fn a_token_fits_into_a_header_line() {
        assert_eq!(Credential::parse("eyJ0.eyJp.c2ln").unwrap().secret(), "eyJ0.eyJp.c2ln");
        for bad in ["", "two words", "line\r\nX-Evil: 1", "naïve", "\u{0}", "Basic ", "basic.*"] {
            let fault = Credential::parse(bad).unwrap_err();
            assert_eq!(fault.code, ErrorCode::InvalidField, "{bad:?}");
            assert!(bad.is_empty() || !fault.text.contains(bad), "{}", fault.text);
        }
        assert!(Credential::parse(&"x".repeat(Credential::BYTES_MAX)).is_ok());
        assert!(Credential::parse(&"x".repeat(Credential::BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn only_a_ticket_may_be_longer_than_a_token() {
        let token = |header: &str, length: usize| {
            let header = URL_SAFE_NO_PAD.encode(header);
            let rest = length - header.len() - 1;
            Credential::parse(&format!("{header}.{}", "x".repeat(rest)))
        };
        let ticket = r#"{"typ":"JWT","alg":"HS256","kid":"buddyline-ticket"}"#;
        let other = r#"{"typ":"JWT","alg":"HS256","kid":"buddyline-tickets"}"#;
        assert!(token(ticket, 200).unwrap().is_ticket());
        assert!(token(ticket, Credential::TICKET_BYTES_MAX).unwrap().is_ticket());
        assert!(token(ticket, Credential::TICKET_BYTES_MAX + 1).is_err());
        assert!(!token(other, Credential::BYTES_MAX).unwrap().is_ticket());
        assert!(token(other, Credential::BYTES_MAX + 1).is_err());
        for text in ["x", "x.y.z", ".", "e30.x"] {
            assert!(!Credential::parse(text).unwrap().is_ticket(), "{text}");
        }
    }

    #[test]
    fn app_password_is_equal_in_every_form() {
        let bare = PAIR.trim_end_matches('=');
        let forms = [format!("Basic {PAIR}"), format!("basic  {bare}"), format!("basic.{bare}")];
        let prints: Vec<_> = forms
            .iter()
            .map(|form| {
                let credential = Credential::parse(form).unwrap();
                assert_eq!((credential.scheme(), credential.secret()), (Scheme::Basic, PAIR));
                credential.fingerprint()
            })
            .collect();
        assert!(prints.iter().all(|print| *print == prints[0]));
        // Without a colon it contains no password.
        for bad in ["Basic YWxpY2U=", "basic.YWxpY2U", "Basic ***"] {
            assert!(Credential::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn token_may_carry_the_bearer_prefix() {
        let bare = Credential::parse("eyJ0.eyJp.c2ln").unwrap();
        assert_eq!(Credential::parse("Bearer eyJ0.eyJp.c2ln").unwrap(), bare);
    }

    #[test]
    fn authorization_scheme_is_case_insensitive() {
        let bearer = Credential::from_authorization("bearer  abc").unwrap().unwrap();
        assert_eq!((bearer.scheme(), bearer.secret()), (Scheme::Bearer, "abc"));
        let basic = Credential::from_authorization(&format!("BASIC {PAIR}")).unwrap().unwrap();
        assert_eq!(basic.scheme(), Scheme::Basic);
        for other in ["Digest abc", "Bearer", "Bearer ", "abc"] {
            assert!(Credential::from_authorization(other).is_none(), "{other}");
        }
        assert!(Credential::from_authorization("Bearer a b").unwrap().is_err());
    }

    #[test]
    fn fingerprint_depends_on_scheme_and_secret() {
        let prints = [PAIR, "abc", "abd"].map(|text| Credential::parse(text).unwrap());
        let basic = Credential::parse(&format!("Basic {PAIR}")).unwrap();
        let mut all: Vec<_> = prints.iter().map(Credential::fingerprint).collect();
        all.push(basic.fingerprint());
        for (n, print) in all.iter().enumerate() {
            assert!(!all[..n].contains(print));
        }
    }
}

//! Verifies the site's JSON Web Tokens (JWT) with its secret, without a request to the site
//! (RFC 7515, 7519; CONTRACT 2).
//!
//! A valid signature proves that the site issued the token. It does not show whether the member has
//! been deleted or suspended since: only the site knows that.
//!
//! No JWT library is used: one algorithm and four claims are all there is to check, and the code
//! accepts exactly what the site writes (no duplicate keys, no other algorithm, no lenient base64);
//! the cryptography is `ring`'s.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::json::{StrictObject, parse_object};
use crate::config::secrets::JwtKeys;
use crate::config::site_url::SiteUrl;
use crate::hub::interface::{Failure, Proven};
use crate::protocol::SITE_ID_MAX;
use crate::protocol::credential::{Credential, Scheme};

/// How far in the future a token's `nbf` may be, in seconds: clocks differ, and the site sets `nbf`
/// to the time of signing. `exp` has no such tolerance.
pub const SKEW_S: u64 = 30;

/// Verifies tokens with the site's secrets.
#[derive(Clone)]
pub struct Verifier {
    keys: Vec<hmac::Key>,
    issuer: SiteUrl,
}

impl Verifier {
    /// Accepts tokens that name this issuer and are signed with one of these keys.
    pub fn new(keys: &JwtKeys, issuer: SiteUrl) -> Verifier {
        let keys = keys.secrets().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret)).collect();
        Verifier { keys, issuer }
    }

    /// Verifies a token at a time in seconds since 1970, and returns its user and expiry.
    ///
    /// # Errors
    ///
    /// [`Failure::TokenExpired`] for a token that was valid before; [`Failure::TokenRefused`] for
    /// any other fault, including an algorithm other than HS256.
    pub fn verify(&self, token: &str, now_unix_s: u64) -> Result<Proven, Failure> {
        let claims = self.signed_claims(token).ok_or(Failure::TokenRefused)?;
        if SiteUrl::parse(&claims.iss).as_ref() != Ok(&self.issuer) {
            return Err(Failure::TokenRefused);
        }
        let user = claims.data.0.user.0.id.number().ok_or(Failure::TokenRefused)?;
        if claims.nbf.is_some_and(|nbf| nbf > now_unix_s.saturating_add(SKEW_S)) {
            return Err(Failure::TokenRefused);
        }
        let exp = valid_time(claims.exp).ok_or(Failure::TokenRefused)?;
        match exp <= now_unix_s {
            true => Err(Failure::TokenExpired),
            false => Ok(Proven { user, expires_s: Some(exp) }),
        }
    }

    /// Explains to the operator why a token may have been refused because of a wrong setting;
    /// `None` if only the client can be at fault.
    pub fn log_detail(&self, token: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Issuer {
            iss: String,
        }
        if let Some(claims) = self.signed_claims(token) {
            // Signed with the secret: the site itself wrote this issuer.
            let issuer = SiteUrl::parse(&claims.iss).ok()?;
            return (issuer != self.issuer).then(|| {
                format!(
                    "a token with a valid signature names the issuer {issuer}, but {} is expected: \
                     if {issuer} is this site's address, set --jwt-issuer to it",
                    self.issuer
                )
            });
        }
        let segments = Segments::split(token)?;
        let header: Header = parse_object(&decode_base64url(segments.header)?)?;
        let issuer: Issuer = parse_object(&decode_base64url(segments.claims)?)?;
        if SiteUrl::parse(&issuer.iss).as_ref() != Ok(&self.issuer) {
            return None;
        }
        let problem = match header.alg.as_str() {
            "HS256" => "has a wrong signature: it is forged, or the JWT secret is not the site's",
            _ => "is not signed with HS256: it is forged, or the site uses another algorithm",
        };
        Some(format!("a token with the issuer {} {problem}", self.issuer))
    }

    /// The token's claims, if its signature is valid.
    fn signed_claims(&self, token: &str) -> Option<Claims> {
        let Segments { header, claims, signature, signed } = Segments::split(token)?;
        let header: Header = parse_object(&decode_base64url(header)?)?;
        if header.alg != "HS256" || header.crit {
            return None;
        }
        let signature = decode_base64url(signature)?;
        // `ring` compares in constant time. The claims are parsed only after that: anyone could
        // have written them.
        let signed = signed.as_bytes();
        let valid = self.keys.iter().any(|key| hmac::verify(key, signed, &signature).is_ok());
        if valid { parse_object(&decode_base64url(claims)?) } else { None }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} keys, issuer {})", self.keys.len(), self.issuer)
    }
}

/// The expiry of a credential in seconds since 1970, if it is a token with one. The signature is
/// not verified: this is for credentials that the site has just accepted.
pub fn expiry(credential: &Credential) -> Option<u64> {
    #[derive(Deserialize)]
    struct Expiry {
        exp: u64,
    }
    match credential.scheme() {
        Scheme::Bearer => {
            let claims = decode_base64url(Segments::split(credential.secret())?.claims)?;
            valid_time(parse_object::<Expiry>(&claims)?.exp)
        }
        Scheme::Basic => None,
    }
}

/// The segments of a token, still encoded.
struct Segments<'a> {
    header: &'a str,
    claims: &'a str,
    signature: &'a str,
    /// Header and claims, the input of the signature.
    signed: &'a str,
}

impl Segments<'_> {
    /// Splits a token into exactly three segments (RFC 7515 3.1).
    fn split(token: &str) -> Option<Segments<'_>> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        (!claims.contains('.')).then_some(Segments { header, claims, signature, signed })
    }
}

/// Decodes base64url in its canonical form only (RFC 7515 2): no padding, no non-zero spare bits.
fn decode_base64url(segment: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(segment).ok()
}

/// Rejects times so large that sums with them could overflow.
fn valid_time(unix_s: u64) -> Option<u64> {
    (unix_s <= SITE_ID_MAX).then_some(unix_s)
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    /// Whether the token requires extensions (RFC 7515 4.1.11); none is supported.
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    exp: u64,
    #[serde(default, deserialize_with = "not_null")]
    nbf: Option<u64>,
    data: StrictObject<Data>,
}

/// Reads a number that may be missing; `null` is an error.
fn not_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    u64::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct Data {
    user: StrictObject<User>,
}

#[derive(Deserialize)]
struct User {
    id: UserId,
}

/// The usual JWT plugin writes a string; similar plugins write a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum UserId {
    Text(String),
    Number(u64),
}

impl UserId {
    fn number(&self) -> Option<u64> {
        let number = match self {
            UserId::Number(n) => *n,
            // `parse` also accepts `+7` and `007`, which the site does not write.
            UserId::Text(text) => text.parse().ok().filter(|n: &u64| n.to_string() == *text)?,
        };
        (1..=SITE_ID_MAX).contains(&number).then_some(number)
    }
}

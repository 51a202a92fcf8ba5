//! Proof without a request: the site's own signature on a token (RFC 7515, 7519; CONTRACT 2).
//!
//! Who has the site's secret can tell its tokens from forgeries. That does not see deleted and
//! suspended members, whom only the site knows.

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

/// How far in the future a token may begin to hold, in seconds: clocks differ, and the site writes
/// the second of the signing there. An end is taken as it is.
pub const SKEW_S: u64 = 30;

/// Checks tokens with the site's secret.
#[derive(Clone)]
pub struct Verifier {
    keys: Vec<hmac::Key>,
    issuer: SiteUrl,
}

impl Verifier {
    /// Takes tokens that this site has signed with one of these keys.
    pub fn new(keys: &JwtKeys, issuer: SiteUrl) -> Verifier {
        let keys = keys.secrets().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret)).collect();
        Verifier { keys, issuer }
    }

    /// Whose token this is, at this second since 1970.
    ///
    /// # Errors
    ///
    /// [`Failure::TokenExpired`] for a token that was good once; [`Failure::TokenRefused`] for all
    /// else, also for tokens whose algorithm is not HS256.
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

    /// Why a token of this site may have been refused by mistake, for the operator, who alone can
    /// set it right; `None` where that is nothing but the client's affair.
    pub fn log_detail(&self, token: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Issuer {
            iss: String,
        }
        if let Some(claims) = self.signed_claims(token) {
            // Signed with the secret: the name is the site's own.
            let named = SiteUrl::parse(&claims.iss).ok()?;
            return (named != self.issuer).then(|| {
                format!(
                    "a token with a good signature names the issuer {named}, and expected is {}: \
                     if that is this site's address, set --jwt-issuer to it",
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
        let what = match header.alg.as_str() {
            "HS256" => "has another signature: it is forged, or the JWT secret is not the site's",
            _ => "is not signed with HS256: it is forged, or the site is set to another algorithm",
        };
        Some(format!("a token in the name of {} {what}", self.issuer))
    }

    /// What the token says, once it is certain that the site says so.
    fn signed_claims(&self, token: &str) -> Option<Claims> {
        let Segments { header, claims, signature, signed } = Segments::split(token)?;
        let header: Header = parse_object(&decode_base64url(header)?)?;
        if header.alg != "HS256" || header.crit {
            return None;
        }
        let signature = decode_base64url(signature)?;
        // In constant time (`ring`), and before anything is believed that anybody could have
        // written.
        let signed = signed.as_bytes();
        let good = self.keys.iter().any(|key| hmac::verify(key, signed, &signature).is_ok());
        if good { parse_object(&decode_base64url(claims)?) } else { None }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} keys, issuer {})", self.keys.len(), self.issuer)
    }
}

/// When a credential expires, in seconds since 1970, if it is a token that says so. The signature
/// is not looked at: this is for credentials that the site has just accepted.
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

/// The parts of a token, still encoded.
struct Segments<'a> {
    header: &'a str,
    claims: &'a str,
    signature: &'a str,
    /// What the signature is of.
    signed: &'a str,
}

impl Segments<'_> {
    /// Exactly three (RFC 7515 3.1).
    fn split(token: &str) -> Option<Segments<'_>> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        (!claims.contains('.')).then_some(Segments { header, claims, signature, signed })
    }
}

/// Base64url in the one form in which it can be written (RFC 7515 2): no padding, no spare bits.
fn decode_base64url(segment: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(segment).ok()
}

/// A time that can be one; beyond it, sums could overflow.
fn valid_time(unix_s: u64) -> Option<u64> {
    (unix_s <= SITE_ID_MAX).then_some(unix_s)
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    /// Whether there are extensions that must be understood (RFC 7515 4.1.11). We know none.
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

/// There or not there; `null` is neither.
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

/// The plugin writes a string; others of its kind write a number.
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
            // `parse` takes `+7` and `007`, which the site does not write.
            UserId::Text(text) => text.parse().ok().filter(|n: &u64| n.to_string() == *text)?,
        };
        (1..=SITE_ID_MAX).contains(&number).then_some(number)
    }
}

//! Verifies the site's JSON Web Tokens (JWT) with its secret or its public key, without a request
//! to the site (RFC 7515, 7519; CONTRACT 2).
//!
//! A valid signature proves that the site issued the token. It does not show whether the member has
//! been deleted or suspended since: only the site knows that.
//!
//! Each refusal has its true reason, for the log, the doctor and the client: the claims of a token
//! are read, and blamed, only after its signature was found to be valid.
//!
//! No JWT library is used: three algorithms and four claims are all there is to check, and the code
//! accepts exactly what sites write (no duplicate keys, no other algorithm, no lenient base64); the
//! cryptography is `ring`'s.

mod claims;
mod keys;
pub mod ticket;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::json::parse_object;
use crate::config::jwt_issuer::{self, Issuer};
use crate::config::secrets::JwtKeys;
use crate::hub::interface::{Failure, Proven, TokenFault};
use crate::protocol::credential::{Credential, Scheme};
use claims::Claims;
pub use keys::Algorithm;
use keys::{Keys, SignatureCheck};

/// How far in the future a token's `nbf` may be, in seconds: clocks differ, and the site sets `nbf`
/// to the time of signing. `exp` has no such tolerance.
pub const SKEW_S: u64 = 30;

/// Verifies tokens with the site's keys.
#[derive(Clone)]
pub struct Verifier {
    keys: Keys,
    issuers: Vec<Issuer>,
    requires_expiry: bool,
}

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not a signed JWT; what is wrong.
    NotJwt(&'static str),
    /// No key is set for its algorithm, or none with the identifier in its header.
    NoKey {
        /// The algorithm that its header names.
        algorithm: Algorithm,
        /// Whether its claims, which nobody has verified, name an issuer of the site.
        names_issuer: bool,
    },
    /// Its signature is not valid.
    Signature {
        /// Whether its claims, which nobody has verified, name an issuer of the site.
        names_issuer: bool,
    },
    /// It is signed by the site, and its claims have not the expected layout; what is wrong.
    Claims(&'static str),
    /// It is signed by the site, and names another issuer, or none.
    Issuer(Option<String>),
    /// It is signed by the site, and not valid for so many seconds.
    NotYetValid(u64),
    /// It is signed by the site, and has no expiry, which the settings require.
    NoExpiry,
    /// It is signed by the site, and has expired.
    Expired,
    /// It is signed by the site and valid, but does not say whose it is where that is expected.
    NoUser,
}

impl Verifier {
    /// Accepts tokens that name one of these issuers and are signed with one of these keys.
    pub fn new(keys: &JwtKeys, issuers: Vec<Issuer>) -> Verifier {
        Verifier { keys: Keys::new(keys), issuers, requires_expiry: false }
    }

    /// Sets whether tokens without an expiry are refused.
    pub fn require_expiry(self, requires_expiry: bool) -> Verifier {
        Verifier { requires_expiry, ..self }
    }

    /// Verifies a token at a time in seconds since 1970, and returns its user and expiry.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub fn verify(&self, token: &str, now_unix_s: u64) -> Result<Proven, Refusal> {
        let claims = self.signed_claims(token)?;
        let claims = Claims::parse(&claims).map_err(Refusal::Claims)?;
        if !self.is_expected(claims.iss.as_deref()) {
            return Err(Refusal::Issuer(claims.iss));
        }
        let wait_s = claims.nbf.map_or(0, |nbf| nbf.saturating_sub(now_unix_s));
        if wait_s > SKEW_S {
            return Err(Refusal::NotYetValid(wait_s));
        }
        match claims.exp {
            Some(exp) if exp <= now_unix_s => return Err(Refusal::Expired),
            None if self.requires_expiry => return Err(Refusal::NoExpiry),
            _ => {}
        }
        let user = claims.user.ok_or(Refusal::NoUser)?;
        Ok(Proven { user, expires_s: claims.exp })
    }

    /// The issuers of the site, for a message.
    pub fn issuers(&self) -> String {
        let issuers: Vec<String> = self.issuers.iter().map(Issuer::to_string).collect();
        issuers.join(", ")
    }

    /// The kind of keys that verify tokens, for a message.
    pub fn key_names(&self) -> &'static str {
        match self.keys.counts() {
            [_, 0] => "JWT secret",
            [0, _] => "public key",
            _ => "JWT secret or public key",
        }
    }

    fn is_expected(&self, iss: Option<&str>) -> bool {
        self.issuers.iter().any(|issuer| issuer.is_of(iss))
    }

    /// The token's claims, if its signature is valid.
    fn signed_claims(&self, token: &str) -> Result<Vec<u8>, Refusal> {
        let Segments { header, claims, signature, signed } = Segments::split(token)?;
        let header = decode_base64url(header)?;
        let header = Header::parse(&header)?;
        if header.crit {
            return Err(Refusal::NotJwt("its header requires extensions (crit)"));
        }
        let signature = decode_base64url(signature)?;
        let claims = decode_base64url(claims)?;
        let algorithm = Algorithm::from_name(&header.alg);
        // The claims are parsed only after that: anyone could have written them.
        match self.keys.verify(algorithm, header.kid().as_deref(), signed.as_bytes(), &signature) {
            SignatureCheck::Valid => Ok(claims),
            SignatureCheck::Invalid => {
                Err(Refusal::Signature { names_issuer: self.names_issuer(&claims) })
            }
            SignatureCheck::NoKey => {
                Err(Refusal::NoKey { algorithm, names_issuer: self.names_issuer(&claims) })
            }
        }
    }

    /// Whether claims that nobody has verified name an issuer of the site.
    fn names_issuer(&self, claims: &[u8]) -> bool {
        Claims::parse(claims)
            .is_ok_and(|claims| claims.iss.is_some() && self.is_expected(claims.iss.as_deref()))
    }

    /// Explains a refusal to the operator; `None` for a token that has expired, which is no fault.
    /// Only what the site has signed is repeated.
    pub fn explain(&self, refusal: &Refusal) -> Option<String> {
        const SIGNED: &str = "a token with a valid signature";
        let issuers = self.issuers();
        let key_name = self.key_names();
        let whose = |names_issuer: bool| match names_issuer {
            true => format!("a token with the issuer {issuers}"),
            false => format!("a token with another issuer than {issuers}, or none,"),
        };
        Some(match refusal {
            Refusal::Expired => return None,
            Refusal::NotJwt(why) => format!(
                "a token is not a signed JWT ({why}): it is not the site's, or the site uses other \
                 tokens: then remove {}, and the site is asked",
                match self.keys.counts() {
                    [_, 0] => "--jwt-secret-file",
                    [0, _] => "--jwt-key-file",
                    _ => "--jwt-secret-file and --jwt-key-file",
                }
            ),
            Refusal::NoKey { algorithm, names_issuer } => {
                let (whose, name) = (whose(*names_issuer), algorithm.name());
                match algorithm {
                    _ if self.keys.has(*algorithm) => format!(
                        "{whose} is signed with a key (kid) that --jwt-key-file does not have: it \
                         is forged, or the site has a new key: add it to the file, and reload"
                    ),
                    Algorithm::Hs256 => format!(
                        "{whose} is signed with HS256, and no secret is set: it is forged, or \
                         --jwt-secret-file is missing"
                    ),
                    Algorithm::Rs256 | Algorithm::Es256 => format!(
                        "{whose} is signed with {name}, and no public key for it is set: it is \
                         forged, or --jwt-key-file must name the site's public key"
                    ),
                    Algorithm::Other(_) => format!(
                        "{whose} is signed with {name}, and only HS256, RS256 and ES256 are \
                         supported: it is forged, or the site must use one of these"
                    ),
                }
            }
            Refusal::Signature { names_issuer: true } => {
                format!(
                    "{} has a wrong signature: it is forged, or the {key_name} is not the site's",
                    whose(true)
                )
            }
            Refusal::Signature { names_issuer: false } => format!(
                "{} has a wrong signature: it is forged or another site's, or neither the {key_name} \
                 nor --jwt-issuer is the site's",
                whose(false)
            ),
            Refusal::Claims(why) => format!("{SIGNED} is refused: {why}"),
            Refusal::Issuer(Some(issuer)) if !issuer.is_empty() => {
                let issuer = jwt_issuer::printable(issuer);
                format!(
                    "{SIGNED} names the issuer {issuer}, but {issuers} is expected: if {issuer} is \
                     this site, set --jwt-issuer to it"
                )
            }
            Refusal::Issuer(_) => format!(
                "{SIGNED} names no issuer (iss), but {issuers} is expected: if this site issues \
                 such tokens, add an empty --jwt-issuer"
            ),
            // Without the time that is left: the line is logged once a minute.
            Refusal::NotYetValid(_) => format!(
                "{SIGNED} is not valid yet (nbf is more than {SKEW_S} s ahead): synchronise the \
                 clocks of the site and of this machine"
            ),
            Refusal::NoExpiry => format!(
                "{SIGNED} has no expiry (exp), and --jwt-without-exp is refuse: let the site's \
                 plugin set one, or accept such tokens"
            ),
            Refusal::NoUser => format!(
                "{SIGNED} has no user id in data.user.id: the site is asked for the user of each \
                 such token"
            ),
        })
    }
}

impl Refusal {
    /// Whether the signature is valid, so that the site itself has written the claims.
    pub fn is_signed(&self) -> bool {
        !matches!(self, Refusal::NotJwt(_) | Refusal::NoKey { .. } | Refusal::Signature { .. })
    }

    /// Whether the operator should learn of it: the settings or the site are at fault, unless the
    /// token is forged. Otherwise the token is no one's, or another site's.
    pub fn may_be_a_wrong_setting(&self) -> bool {
        match self {
            Refusal::NoKey { names_issuer, .. } | Refusal::Signature { names_issuer } => {
                *names_issuer
            }
            refusal => refusal.is_signed(),
        }
    }

    /// The failure that the client gets.
    pub fn failure(&self) -> Failure {
        Failure::TokenInvalid(match self {
            Refusal::NotJwt(_) => TokenFault::Layout,
            Refusal::Claims(_) | Refusal::NoUser => TokenFault::Claims,
            Refusal::NoKey { .. } => TokenFault::Algorithm,
            Refusal::Signature { .. } => TokenFault::Signature,
            Refusal::Issuer(_) => TokenFault::Issuer,
            Refusal::NotYetValid(_) => TokenFault::NotYetValid,
            Refusal::NoExpiry => TokenFault::NoExpiry,
            Refusal::Expired => return Failure::TokenExpired,
        })
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [secrets, public] = self.keys.counts();
        let issuers = self.issuers();
        write!(f, "Verifier({secrets} secrets, {public} public keys, issuers {issuers})")
    }
}

/// The expiry of a credential in seconds since 1970, if it is a token with one. The signature is
/// not verified: this is for credentials that the site has just accepted.
pub fn expiry(credential: &Credential) -> Option<u64> {
    match credential.scheme() {
        Scheme::Bearer => {
            let segments = Segments::split(credential.secret()).ok()?;
            Claims::expiry(&decode_base64url(segments.claims).ok()?)
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
    fn split(token: &str) -> Result<Segments<'_>, Refusal> {
        let split = || {
            let (signed, signature) = token.rsplit_once('.')?;
            let (header, claims) = signed.split_once('.')?;
            (!claims.contains('.')).then_some(Segments { header, claims, signature, signed })
        };
        split().ok_or(Refusal::NotJwt("it has not three parts that are separated by dots"))
    }
}

/// Decodes base64url in its canonical form only (RFC 7515 2): no padding, no non-zero spare bits.
fn decode_base64url(segment: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(segment).map_err(|_| Refusal::NotJwt("a part is not base64url"))
}

#[derive(Deserialize)]
struct Header<'a> {
    alg: String,
    /// The identifier of the key. Of another type than text, it names none.
    #[serde(borrow)]
    kid: Option<&'a RawValue>,
    /// Whether the token requires extensions (RFC 7515 4.1.11); none is supported.
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

impl Header<'_> {
    /// Reads a decoded header.
    fn parse(json: &[u8]) -> Result<Header<'_>, Refusal> {
        parse_object(json).ok_or(Refusal::NotJwt("its header is not a JSON object with alg"))
    }

    fn kid(&self) -> Option<String> {
        serde_json::from_str(self.kid?.get()).ok()
    }
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

//! Verifies the tickets of the site's plugin: JWTs with a key of their own, which name their user,
//! the user's threads, and the users whom a block separates from that user.
//!
//! A ticket is the site's word about its user at the time of its issue, a few minutes ago.
//! It is never sent to the site, which does not know it as a token.

use std::fmt;

use ring::hmac;
use serde::Deserialize;

use super::{Algorithm, Header, Refusal, SKEW_S, Segments, decode_base64url, parse_object};
use crate::config::jwt_issuer::{self, Issuer};
use crate::hub::interface::Ticket;
use crate::protocol::SITE_ID_MAX;
use crate::protocol::credential::TICKET_KID;
use crate::protocol::signature::{Purpose, SiteKeys};

/// The audience of tickets.
const AUDIENCE: &str = "buddyline";
/// The longest time from issue to expiry, in seconds: events that revoke tickets are remembered as
/// long.
const LASTS_MAX_S: u64 = 600;
/// The most threads and the most blocks in a ticket.
const THREADS_MAX: usize = 500;
const BLOCKED_MAX: usize = 1_000;
/// The longest session, in bytes.
const SESSION_BYTES_MAX: usize = 128;

/// Verifies tickets with the secret of the site's plugin.
#[derive(Clone)]
pub struct TicketVerifier {
    keys: SiteKeys,
    issuers: Vec<Issuer>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    iat: u64,
    exp: u64,
    #[serde(default)]
    sid: Option<String>,
    #[serde(default)]
    threads: Vec<u64>,
    #[serde(default)]
    blocked: Vec<u64>,
}

impl TicketVerifier {
    /// Accepts tickets of these issuers that are signed with one of these keys.
    pub fn new(keys: SiteKeys, issuers: Vec<Issuer>) -> TicketVerifier {
        TicketVerifier { keys, issuers }
    }

    /// Verifies a ticket at a time in seconds since 1970.
    ///
    /// # Errors
    ///
    /// Why it is refused.
    pub fn verify(&self, token: &str, now_unix_s: u64) -> Result<Ticket, Refusal> {
        let claims = self.signed_claims(token)?;
        let claims: Claims = parse_object(&claims).ok_or(Refusal::Claims(LAYOUT))?;
        if !self.issuers.iter().any(|issuer| issuer.is_of(Some(&claims.iss))) {
            return Err(Refusal::Issuer(Some(claims.iss)));
        }
        if claims.aud != AUDIENCE {
            return Err(Refusal::Claims("aud is not buddyline"));
        }
        let wait_s = claims.iat.saturating_sub(now_unix_s);
        if wait_s > SKEW_S {
            return Err(Refusal::NotYetValid(wait_s));
        }
        if claims.exp.saturating_sub(claims.iat) > LASTS_MAX_S {
            return Err(Refusal::Claims("exp is more than ten minutes after iat"));
        }
        if claims.exp <= now_unix_s {
            return Err(Refusal::Expired);
        }
        let is_id = |n: &u64| (1..=SITE_ID_MAX).contains(n);
        if claims.threads.len() > THREADS_MAX || claims.blocked.len() > BLOCKED_MAX {
            return Err(Refusal::Claims("threads or blocked is too long"));
        }
        if !claims.threads.iter().chain(&claims.blocked).all(is_id) {
            return Err(Refusal::Claims("threads or blocked has a number that is no id"));
        }
        // `parse` also accepts `+7` and `007`, which the plugin does not write.
        let user = claims.sub.parse().ok().filter(|n: &u64| n.to_string() == claims.sub);
        Ok(Ticket {
            user: user.filter(is_id).ok_or(Refusal::Claims("sub is not the id of a user"))?,
            issued_s: claims.iat,
            expires_s: claims.exp,
            session: claims.sid.filter(|sid| sid.len() <= SESSION_BYTES_MAX),
            threads: claims.threads.into(),
            blocked: claims.blocked.into(),
        })
    }

    /// The claims, if the signature is valid.
    fn signed_claims(&self, token: &str) -> Result<Vec<u8>, Refusal> {
        let Segments { header, claims, signature, signed } = Segments::split(token)?;
        let header = decode_base64url(header)?;
        let header = Header::parse(&header)?;
        let algorithm = Algorithm::from_name(&header.alg);
        if header.crit || header.kid().as_deref() != Some(TICKET_KID) {
            return Err(Refusal::NotJwt("its header is not that of a ticket"));
        }
        if algorithm != Algorithm::Hs256 {
            return Err(Refusal::NoKey { algorithm, names_issuer: false });
        }
        let signature = decode_base64url(signature)?;
        let claims = decode_base64url(claims)?;
        let is_valid = |key| hmac::verify(key, signed.as_bytes(), &signature).is_ok();
        match self.keys.of(Purpose::Tickets).any(is_valid) {
            true => Ok(claims),
            false => Err(Refusal::Signature { names_issuer: true }),
        }
    }

    /// Explains a refusal to the operator; `None` for a ticket that has expired, which is no fault.
    /// Only what the plugin has signed is repeated.
    pub fn explain(&self, refusal: &Refusal) -> Option<String> {
        const SIGNED: &str = "a ticket with a valid signature";
        Some(match refusal {
            Refusal::Expired => return None,
            Refusal::Signature { .. } => "a ticket has a wrong signature: it is forged, or the \
                                          secret of --site-secret-file is not the plugin's"
                .to_owned(),
            Refusal::Issuer(issuer) => {
                let issuer = jwt_issuer::printable(issuer.as_deref().unwrap_or_default());
                let issuers: Vec<String> = self.issuers.iter().map(Issuer::to_string).collect();
                format!(
                    "{SIGNED} is for the site {issuer}, but {} is expected: if {issuer} is this \
                     site, set --jwt-issuer to it",
                    issuers.join(", ")
                )
            }
            Refusal::NotYetValid(_) => format!(
                "{SIGNED} is not valid yet (iat is more than {SKEW_S} s ahead): synchronise the \
                 clocks of the site and of this machine"
            ),
            Refusal::Claims(why) => format!("{SIGNED} is refused: {why}"),
            Refusal::NotJwt(_) | Refusal::NoKey { .. } => {
                "a ticket is forged: its layout or its algorithm is not the plugin's".to_owned()
            }
            Refusal::NoExpiry | Refusal::NoUser => format!("{SIGNED} is refused: {LAYOUT}"),
        })
    }
}

const LAYOUT: &str = "one of iss, aud, sub, iat and exp is missing or of another type";

impl fmt::Debug for TicketVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketVerifier({:?})", self.keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        secret: String,
        site: String,
        tickets: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        claims: serde_json::Value,
        token: String,
        valid: bool,
        now: u64,
        why: String,
    }

    #[test]
    fn shared_vectors_are_judged_as_by_the_plugin() {
        let text = include_str!("../../../tests/vectors/signatures.json");
        let vectors: Vectors = serde_json::from_str(text).unwrap();
        let keys = SiteKeys::new([vectors.secret.as_bytes()]);
        let verifier = TicketVerifier::new(keys, vec![Issuer::new(&vectors.site)]);
        assert!(vectors.tickets.len() > 10);
        for vector in &vectors.tickets {
            let verdict = verifier.verify(&vector.token, vector.now);
            assert_eq!(verdict.is_ok(), vector.valid, "{}: {verdict:?}", vector.why);
            let Ok(ticket) = verdict else { continue };
            let list = |name: &str| serde_json::to_value(ticket_list(&ticket, name)).unwrap();
            assert_eq!(ticket.user.to_string(), vector.claims["sub"], "{}", vector.why);
            assert_eq!(list("threads"), vector.claims["threads"]);
            assert_eq!(list("blocked"), vector.claims["blocked"]);
            assert_eq!(ticket.session.as_deref(), vector.claims["sid"].as_str());
            assert_eq!(ticket.issued_s, vector.claims["iat"]);
            assert_eq!(ticket.expires_s, vector.claims["exp"]);
        }
    }

    fn ticket_list<'a>(ticket: &'a Ticket, name: &str) -> &'a [u64] {
        if name == "threads" { &ticket.threads } else { &ticket.blocked }
    }
}

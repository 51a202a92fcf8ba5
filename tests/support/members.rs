//! Whom the site of the tests knows, and how they prove it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::jwt;
use super::site_model::{Request, Response};

/// The members. Whoever is not mentioned here is one without troubles.
#[derive(Default)]
pub struct Members {
    /// Whom a token stands for, or an Application Password as `Basic …`.
    pub tokens: BTreeMap<String, u64>,
    pub suspended: BTreeSet<u64>,
    /// Their tokens are nobody's; their rows in threads stay.
    pub deleted: BTreeSet<u64>,
    /// They may look into threads that they are not in.
    pub moderators: BTreeSet<u64>,
    /// Where tokens are looked for, bare; `None` is `Authorization`, after `Bearer`.
    pub token_header: Option<String>,
    /// With one, tokens of three segments are checked as the JWT plugin does.
    pub jwt_secret: Option<String>,
    /// What stands in the site's tokens: its own address.
    pub issuer: String,
}

impl Members {
    /// The request's credential: a bare token, or `Basic …`.
    pub fn credential<'a>(&self, request: &'a Request) -> Option<&'a str> {
        let usual = request.header("authorization");
        if let Some(basic) = usual.filter(|value| value.starts_with("Basic ")) {
            return Some(basic);
        }
        match &self.token_header {
            Some(name) => request.header(name),
            None => usual?.strip_prefix("Bearer "),
        }
    }

    /// Who a request's credential says it is: `None` without one, and for those that the site
    /// takes for none (CONTRACT 2).
    pub fn caller(&self, request: &Request) -> Result<Option<u64>, Response> {
        let Some(credential) = self.credential(request) else { return Ok(None) };
        match self.owner(credential)? {
            Some(id) if self.deleted.contains(&id) => Ok(None),
            Some(id) if self.suspended.contains(&id) => {
                let login = "/wp-login.php?action=bp-suspended&reauth=1";
                Err(Response::html(302).with("Location", login))
            }
            owner => Ok(owner),
        }
    }

    fn owner(&self, credential: &str) -> Result<Option<u64>, Response> {
        let known = self.tokens.get(credential).copied();
        if known.is_some() || credential.starts_with("Basic ") {
            return Ok(known);
        }
        let bad = |code: &str, why: &str| Err(Response::fault(403, code, why));
        match &self.jwt_secret {
            Some(secret) if credential.matches('.').count() == 2 => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
                return match jwt::read(credential, secret, &self.issuer, now.as_secs()) {
                    Ok(id) => Ok(Some(id)),
                    Err((code, why)) => bad(code, why),
                };
            }
            _ if credential == "expired" => return bad("jwt_auth_invalid_token", "Expired token"),
            _ => {}
        }
        match credential.rsplit_once('-').and_then(|(_, digits)| digits.parse().ok()) {
            Some(id) => Ok(Some(id)),
            None => bad("jwt_auth_invalid_token", "Signature verification failed"),
        }
    }
}

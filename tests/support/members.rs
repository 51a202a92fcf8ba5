//! The users of the fake site, and how it authenticates their requests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::jwt;
use super::site_model::{Request, Response};

/// The members. An id without an entry here is an ordinary member.
#[derive(Default)]
pub struct Members {
    /// The member of each token, and of each Application Password as `Basic …`.
    pub tokens: BTreeMap<String, u64>,
    pub suspended: BTreeSet<u64>,
    /// Deleted members: their tokens are refused; their rows in threads stay.
    pub deleted: BTreeSet<u64>,
    /// Members who may read threads that they are not in.
    pub moderators: BTreeSet<u64>,
    /// The header with the bare token; `None` means `Authorization`, after `Bearer`.
    pub token_header: Option<String>,
    /// The `Authorization` that the web server asks for; it is no member's.
    pub web_password: Option<String>,
    /// If set, tokens of three segments are verified with it, as the JWT plugin does.
    pub jwt_secret: Option<String>,
    /// The issuer of the site's tokens: its own address.
    pub issuer: String,
}

impl Members {
    /// The request's credential: a bare token, or `Basic …`.
    pub fn credential<'a>(&self, request: &'a Request) -> Option<&'a str> {
        let usual = request.header("authorization");
        let is_of_member = |value: &&str| {
            value.starts_with("Basic ") && self.web_password.as_deref() != Some(value)
        };
        if let Some(basic) = usual.filter(is_of_member) {
            return Some(basic);
        }
        match &self.token_header {
            Some(name) => request.header(name),
            None => usual?.strip_prefix("Bearer "),
        }
    }

    /// The member that a request's credential belongs to: `None` without a credential, and for
    /// credentials that the site ignores (CONTRACT 2).
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

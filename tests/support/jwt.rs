//! Makes JSON Web Tokens, valid and invalid ones, and verifies them as the JWT plugin does.
//!
//! ```ignore
//! let valid = token(SECRET, "https://community.example", 7, now, |_, _| ());
//! let expired = token(SECRET, issuer, 7, now, |_, claims| claims["exp"] = json!(now - 1));
//! let unsigned = token(SECRET, issuer, 7, now, |header, _| header["alg"] = json!("none"));
//! let malformed = signed(SECRET, br#"{"alg":"HS256"}"#, b"[]");
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

/// The lifetime that the plugin gives a token, in seconds.
pub const WEEK_S: u64 = 604_800;

/// A signed token as the plugin makes it (CONTRACT 2), with header and claims altered by `change`.
pub fn token(
    secret: &str,
    issuer: &str,
    user: u64,
    now_s: u64,
    change: impl FnOnce(&mut Value, &mut Value),
) -> String {
    let mut header = json!({"typ": "JWT", "alg": "HS256"});
    let mut claims = json!({
        "iss": issuer,
        "iat": now_s,
        "nbf": now_s,
        "exp": now_s + WEEK_S,
        "data": {"user": {"id": user.to_string()}},
    });
    change(&mut header, &mut claims);
    signed(secret, header.to_string().as_bytes(), claims.to_string().as_bytes())
}

/// A token of any bytes as header and claims, with a valid signature.
pub fn signed(secret: &str, header: &[u8], claims: &[u8]) -> String {
    let text = format!("{}.{}", encoded(header), encoded(claims));
    format!("{text}.{}", encoded(&signature(secret, &text)))
}

/// HMAC-SHA256 of a text.
pub fn signature(secret: &str, text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

/// Base64url without padding.
pub fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Verifies a token at this time as the plugin does. Returns the user id, or the plugin's error code
/// and text.
pub fn read(
    token: &str,
    secret: &str,
    issuer: &str,
    now_s: u64,
) -> Result<u64, (&'static str, &'static str)> {
    const BAD: &str = "jwt_auth_invalid_token";
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, proof] = parts[..] else { return Err((BAD, "Wrong number of segments")) };
    let object = |segment: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(segment).unwrap_or_default();
        serde_json::from_slice::<Value>(&bytes).map_err(|_| (BAD, "Syntax error, malformed JSON"))
    };
    if object(header)?["alg"] != "HS256" {
        return Err((BAD, "Algorithm not supported"));
    }
    if encoded(&signature(secret, &format!("{header}.{claims}"))) != proof {
        return Err((BAD, "Signature verification failed"));
    }
    let claims = object(claims)?;
    if claims["nbf"].as_u64().is_some_and(|nbf| nbf > now_s) {
        return Err((BAD, "Cannot handle token prior to 2026-11-22T11:09:41+0000"));
    }
    if claims["exp"].as_u64().is_none_or(|exp| exp <= now_s) {
        return Err((BAD, "Expired token"));
    }
    if claims["iss"].as_str() != Some(issuer) {
        return Err(("jwt_auth_bad_iss", "The iss do not match with this server"));
    }
    let id = claims["data"]["user"]["id"].as_str().and_then(|id| id.parse().ok());
    id.ok_or(("jwt_auth_bad_request", "User ID not found in the token"))
}

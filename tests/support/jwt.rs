//! Makes JSON Web Tokens, valid and invalid ones, and verifies them as the JWT plugin does.
//!
//! ```ignore
//! let valid = token(SECRET, "https://community.example", 7, now, |_, _| ());
//! let expired = token(SECRET, issuer, 7, now, |_, claims| claims["exp"] = json!(now - 1));
//! let unsigned = token(SECRET, issuer, 7, now, |header, _| header["alg"] = json!("none"));
//! let malformed = signed(SECRET, br#"{"alg":"HS256"}"#, b"[]");
//! ```

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    RsaPublicKeyComponents,
};
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

/// A private key of a site whose plugin signs with RS256 or ES256.
pub enum Signer {
    Rs256(RsaKeyPair),
    Es256(EcdsaKeyPair),
}

impl Signer {
    /// Always the same key, because `ring` makes no RSA keys.
    pub fn rs256() -> Signer {
        let pem = include_str!("keys/rsa-of-the-tests.pem");
        let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        Signer::Rs256(RsaKeyPair::from_pkcs8(&STANDARD.decode(text).unwrap()).unwrap())
    }

    /// A new key.
    pub fn es256() -> Signer {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Signer::Es256(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap())
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Signer::Rs256(_) => "RS256",
            Signer::Es256(_) => "ES256",
        }
    }

    /// A token with these parts, signed whatever its header says.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let parts = [header, claims].map(|part| encoded(part.to_string().as_bytes()));
        let text = parts.join(".");
        let random = SystemRandom::new();
        let proof = match self {
            Signer::Rs256(key) => {
                let mut proof = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut proof).unwrap();
                proof
            }
            Signer::Es256(key) => key.sign(&random, text.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{text}.{}", encoded(&proof))
    }

    /// The public key as a JSON Web Key.
    pub fn jwk(&self, kid: Option<&str>) -> Value {
        let mut key = match self {
            Signer::Rs256(key) => {
                let numbers: RsaPublicKeyComponents<Vec<u8>> = key.public().into();
                json!({
                    "kty": "RSA", "use": "sig", "alg": "RS256",
                    "n": encoded(&numbers.n), "e": encoded(&numbers.e),
                })
            }
            Signer::Es256(key) => {
                let point = key.public_key().as_ref();
                json!({
                    "kty": "EC", "crv": "P-256",
                    "x": encoded(&point[1..33]), "y": encoded(&point[33..]),
                })
            }
        };
        if let Some(kid) = kid {
            key["kid"] = kid.into();
        }
        key
    }

    /// The public key in PEM (RFC 7468 13).
    pub fn pem(&self) -> String {
        // The DER of SubjectPublicKeyInfo up to the key itself (RFC 3279, RFC 5480).
        let der = match self {
            Signer::Rs256(key) => {
                let key = key.public().as_ref();
                let head = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A";
                [&STANDARD.decode(head).unwrap()[..], key].concat()
            }
            Signer::Es256(key) => {
                let head = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE";
                let head = STANDARD.decode(head).unwrap();
                [&head[..head.len() - 1], key.public_key().as_ref()].concat()
            }
        };
        let text = STANDARD.encode(der);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }
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

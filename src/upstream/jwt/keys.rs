//! The keys that verify signatures of tokens (RFC 7515, 7518), each for one algorithm only.
//!
//! The algorithm in a token's header only selects among the keys that were configured for it. A
//! public key therefore never verifies an HMAC, and there is no key for `none`.

use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};

use crate::config::public_keys::{KeyMaterial, PublicKey};
use crate::config::secrets::JwtKeys;

/// An algorithm of signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// Any other one, with its name if it is a known one.
    Other(Option<&'static str>),
}

/// The registered algorithms that are not supported (RFC 7518 3.1, RFC 8037, RFC 8812).
const OTHERS: [&str; 12] = [
    "HS384", "HS512", "RS384", "RS512", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA",
    "ES256K", "none",
];

impl Algorithm {
    /// Reads the `alg` of a header, which is case-sensitive.
    pub(super) fn from_name(name: &str) -> Algorithm {
        match name {
            "HS256" => Algorithm::Hs256,
            "RS256" => Algorithm::Rs256,
            "ES256" => Algorithm::Es256,
            other => Algorithm::Other(OTHERS.into_iter().find(|known| *known == other)),
        }
    }

    /// Its name, or a word for one that is not known: a name from a token is not printed.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "HS256",
            Algorithm::Rs256 => "RS256",
            Algorithm::Es256 => "ES256",
            Algorithm::Other(name) => name.unwrap_or("an unknown algorithm"),
        }
    }
}

/// Whether a signature is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignatureCheck {
    Valid,
    Invalid,
    /// No key is set for the algorithm, or none with the key's identifier.
    NoKey,
}

/// The configured keys, by algorithm.
#[derive(Clone)]
pub(super) struct Keys {
    hs256: Vec<hmac::Key>,
    rs256: Vec<(Option<String>, RsaPublicKeyComponents<Vec<u8>>)>,
    es256: Vec<(Option<String>, Vec<u8>)>,
}

impl Keys {
    pub(super) fn new(keys: &JwtKeys) -> Keys {
        let hs256 = keys.secrets().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret));
        let (mut rs256, mut es256) = (Vec::new(), Vec::new());
        for PublicKey { kid, material } in keys.public() {
            match material {
                KeyMaterial::Rsa { n, e } => {
                    let key = RsaPublicKeyComponents { n: n.clone(), e: e.clone() };
                    rs256.push((kid.clone(), key));
                }
                KeyMaterial::P256(point) => es256.push((kid.clone(), point.clone())),
            }
        }
        Keys { hs256: hs256.collect(), rs256, es256 }
    }

    /// Whether a key is set for an algorithm.
    pub(super) fn has(&self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::Hs256 => !self.hs256.is_empty(),
            Algorithm::Rs256 => !self.rs256.is_empty(),
            Algorithm::Es256 => !self.es256.is_empty(),
            Algorithm::Other(_) => false,
        }
    }

    /// The numbers of secrets and of public keys.
    pub(super) fn counts(&self) -> [usize; 2] {
        [self.hs256.len(), self.rs256.len() + self.es256.len()]
    }

    /// Verifies a signature with the keys of its algorithm. If the token names a key, only that one
    /// and keys without an identifier are tried.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        signed: &[u8],
        signature: &[u8],
    ) -> SignatureCheck {
        let is_named = |own: &Option<String>| match (own.as_deref(), kid) {
            (Some(own), Some(kid)) => own == kid,
            _ => true,
        };
        match algorithm {
            // `ring` compares in constant time.
            Algorithm::Hs256 => {
                check(self.hs256.iter(), |key| hmac::verify(key, signed, signature).is_ok())
            }
            Algorithm::Rs256 => {
                let named = self.rs256.iter().filter(|(own, _)| is_named(own));
                check(named, |(_, key)| {
                    key.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature).is_ok()
                })
            }
            Algorithm::Es256 => {
                let named = self.es256.iter().filter(|(own, _)| is_named(own));
                check(named, |(_, point)| {
                    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
                    key.verify(signed, signature).is_ok()
                })
            }
            Algorithm::Other(_) => SignatureCheck::NoKey,
        }
    }
}

fn check<T>(keys: impl Iterator<Item = T>, is_valid: impl Fn(T) -> bool) -> SignatureCheck {
    let mut outcome = SignatureCheck::NoKey;
    for key in keys {
        if is_valid(key) {
            return SignatureCheck::Valid;
        }
        outcome = SignatureCheck::Invalid;
    }
    outcome
}

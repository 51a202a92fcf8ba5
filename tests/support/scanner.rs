//! Searches logs, output and memory for leaked secrets.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

/// A leak of this many characters of a secret counts.
const MIN_MATCH: usize = 16;

/// The characters that must at least be percent-encoded in the query of a URL.
const QUERY: AsciiSet = CONTROLS.add(b' ').add(b'"').add(b'+').add(b'/').add(b'=').add(b'%');

/// The secrets of a test, in every form in which they could leak.
#[derive(Default)]
pub struct SecretScanner {
    /// Each form in lower case with the secret that it belongs to, keyed by its first bytes; no
    /// form is shorter than the key.
    all: BTreeMap<[u8; MIN_MATCH], Vec<(Vec<u8>, String)>>,
}

impl SecretScanner {
    /// Adds a secret: the whole, its first and its last sixteen characters, and the same of each of
    /// its parts between dots; all of them plain and percent-encoded.
    pub fn add(&mut self, secret: &str) {
        let parts = secret.split('.').filter(|part| part.len() >= MIN_MATCH);
        for part in parts.chain([secret]) {
            let (first, last) = (&part[..MIN_MATCH], &part[part.len() - MIN_MATCH..]);
            for text in [part, first, last] {
                let forms = [
                    text.to_owned(),
                    utf8_percent_encode(text, &QUERY).to_string(),
                    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string(),
                    text.replace(' ', "+"),
                ];
                for form in forms {
                    let needle = form.to_ascii_lowercase().into_bytes();
                    let alike =
                        self.all.entry(needle[..MIN_MATCH].try_into().unwrap()).or_default();
                    if !alike.iter().any(|(known, _)| *known == needle) {
                        alike.push((needle, secret.to_owned()));
                    }
                }
            }
        }
    }

    /// Adds an Application Password: with and without its spaces, and as base64 in a header.
    pub fn add_password(&mut self, login: &str, password: &str) {
        let pair = format!("{login}:{password}");
        for secret in [
            password.to_owned(),
            password.replace(' ', ""),
            STANDARD.encode(&pair),
            STANDARD_NO_PAD.encode(&pair),
            URL_SAFE_NO_PAD.encode(&pair),
        ] {
            self.add(&secret);
        }
    }

    /// The number of forms that are searched for.
    pub fn count(&self) -> usize {
        self.all.values().map(Vec::len).sum()
    }

    /// The first secret found in these bytes, in any form and ignoring case, with the bytes around
    /// it.
    pub fn find(&self, bytes: &[u8]) -> Option<String> {
        let bytes = bytes.to_ascii_lowercase();
        bytes.windows(MIN_MATCH).enumerate().find_map(|(at, beginning)| {
            let alike = self.all.get(beginning)?;
            let (needle, secret) = alike.iter().find(|(n, _)| bytes[at..].starts_with(n))?;
            let around = &bytes[at.saturating_sub(80)..(at + needle.len() + 40).min(bytes.len())];
            Some(format!("{secret} in {:?}", String::from_utf8_lossy(around)))
        })
    }
}

//! Signatures between the server and the site's plugin: `Buddyline-Signature: t=…,v1=…`.
//!
//! One secret is shared. A key for each purpose is derived from it, so that no signature is valid
//! in another place.

use std::fmt::{self, Write};

use ring::hmac::{self, HMAC_SHA256, Key};

/// The header of a signed request.
pub const HEADER: &str = "Buddyline-Signature";
/// How far the time of a signature may be from this machine's, in seconds.
pub const WINDOW_S: u64 = 300;
/// The most signatures of one header that are compared: one for each secret of a rotation, and as
/// many again.
const SIGNATURES_MAX: usize = 4;
/// The longest header, in bytes.
const HEADER_BYTES_MAX: usize = 1024;

/// The use of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Events that the plugin sends.
    Events,
    /// Tickets that the plugin issues.
    Tickets,
    /// Requests of the server to the plugin.
    Requests,
}

impl Purpose {
    const ALL: [Purpose; 3] = [Purpose::Events, Purpose::Tickets, Purpose::Requests];

    /// The message from which the key is derived.
    fn label(self) -> &'static str {
        match self {
            Purpose::Events => "buddyline events v1",
            Purpose::Tickets => "buddyline tickets v1",
            Purpose::Requests => "buddyline requests v1",
        }
    }
}

/// Why a signature is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureFault {
    /// The header is missing or has no time or no signature.
    Malformed,
    /// Its time is this many seconds ahead of this machine's clock, or behind if negative.
    Clock(i64),
    /// No key of the secrets has made it.
    Mismatch,
}

/// The keys that are derived from the shared secrets; those of the first secret sign.
#[derive(Clone)]
pub struct SiteKeys {
    /// The keys of each secret, in the order of [`Purpose::ALL`].
    keys: Vec<[Key; 3]>,
}

impl fmt::Debug for SiteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteKeys({})", self.keys.len())
    }
}

impl SiteKeys {
    /// Derives the keys. The first secret signs, and all of them verify.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> SiteKeys {
        let derive = |secret: &[u8]| {
            let secret = Key::new(HMAC_SHA256, secret);
            Purpose::ALL.map(|purpose| {
                let derived = hmac::sign(&secret, purpose.label().as_bytes());
                Key::new(HMAC_SHA256, derived.as_ref())
            })
        };
        SiteKeys { keys: secrets.into_iter().map(derive).collect() }
    }

    /// The keys for a purpose, one for each secret; the first one signs.
    pub fn of(&self, purpose: Purpose) -> impl Iterator<Item = &Key> {
        self.keys.iter().map(move |keys| &keys[purpose as usize])
    }

    /// Returns the value of [`HEADER`] for a body that is sent at `now_s`.
    pub fn sign(&self, purpose: Purpose, body: &[u8], now_s: u64) -> String {
        let mut header = format!("t={now_s}");
        if let Some(key) = self.of(purpose).next() {
            header.push_str(",v1=");
            for byte in message(key, now_s, body).sign().as_ref() {
                // Writing to a String cannot fail.
                let _ = write!(header, "{byte:02x}");
            }
        }
        header
    }

    /// Checks the header of a request. The time that it takes says nothing about the right
    /// signature.
    ///
    /// # Errors
    ///
    /// Why the signature is refused.
    pub fn verify(
        &self,
        purpose: Purpose,
        header: &str,
        body: &[u8],
        now_s: u64,
    ) -> Result<(), SignatureFault> {
        let signature = Signature::parse(header, now_s)?;
        let is_valid = |key: &Key| {
            let made = message(key, signature.time_s, body).sign();
            // ring compares only tags that it has made, and in constant time. Under the same key,
            // the tags of two values are equal if the values are.
            let compare = Key::new(HMAC_SHA256, made.as_ref());
            let expected = hmac::sign(&compare, made.as_ref());
            let is_equal = |value| hmac::verify(&compare, value, expected.as_ref()).is_ok();
            signature.values().any(|value| is_equal(value))
        };
        match self.of(purpose).any(is_valid) {
            true => Ok(()),
            false => Err(SignatureFault::Mismatch),
        }
    }
}

/// Begins the signature of `<time>.<body>`.
fn message(key: &Key, time_s: u64, body: &[u8]) -> hmac::Context {
    let mut context = hmac::Context::with_key(key);
    context.update(time_s.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    context
}

/// A parsed header whose time is in the window.
#[derive(Debug)]
pub struct Signature {
    time_s: u64,
    values: [[u8; 32]; SIGNATURES_MAX],
    count: usize,
}

impl Signature {
    /// Parses a header. Unknown parts are ignored.
    ///
    /// # Errors
    ///
    /// As [`SiteKeys::verify`], except that no signature is compared.
    pub fn parse(header: &str, now_s: u64) -> Result<Signature, SignatureFault> {
        if header.len() > HEADER_BYTES_MAX {
            return Err(SignatureFault::Malformed);
        }
        let mut time = None;
        let mut signature = Signature { time_s: 0, values: [[0; 32]; SIGNATURES_MAX], count: 0 };
        for part in header.split(',') {
            match part.trim().split_once('=') {
                Some(("t", text)) if time.is_none() => {
                    time = Some(parse_time(text).ok_or(SignatureFault::Malformed)?);
                }
                Some(("t", _)) => return Err(SignatureFault::Malformed),
                Some(("v1", text)) => {
                    if let (Some(value), true) = (parse_hex(text), signature.count < SIGNATURES_MAX)
                    {
                        signature.values[signature.count] = value;
                        signature.count += 1;
                    }
                }
                _ => {}
            }
        }
        signature.time_s = time.ok_or(SignatureFault::Malformed)?;
        if signature.count == 0 {
            return Err(SignatureFault::Malformed);
        }
        if signature.time_s.abs_diff(now_s) > WINDOW_S {
            let seconds = |s: u64| i64::try_from(s).unwrap_or(i64::MAX);
            let ahead = seconds(signature.time_s).saturating_sub(seconds(now_s));
            return Err(SignatureFault::Clock(ahead));
        }
        Ok(signature)
    }

    fn values(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.values[..self.count].iter()
    }
}

/// Digits as they are signed: without a sign and without zeros in front.
fn parse_time(text: &str) -> Option<u64> {
    let is_canonical = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_canonical)
}

/// 64 lower-case hexadecimal digits.
fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut value = [0; 32];
    for (byte, pair) in value.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        secret: String,
        derived: Derived,
        signatures: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Derived {
        events: String,
        tickets: String,
        requests: String,
    }

    #[derive(Deserialize)]
    struct Vector {
        key: String,
        body: String,
        header: String,
        valid: bool,
        now: i64,
        t: i64,
        why: String,
    }

    fn vectors() -> Vectors {
        serde_json::from_str(include_str!("../../tests/vectors/signatures.json")).unwrap()
    }

    fn purpose(name: &str) -> Purpose {
        match name {
            "events" => Purpose::Events,
            "tickets" => Purpose::Tickets,
            "requests" => Purpose::Requests,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn shared_vectors_are_judged_as_by_the_plugin() {
        let vectors = vectors();
        let keys = SiteKeys::new([vectors.secret.as_bytes()]);
        assert!(vectors.signatures.len() > 20);
        let mut signed = 0;
        for vector in &vectors.signatures {
            let purpose = purpose(&vector.key);
            let now = u64::try_from(vector.now).unwrap();
            let verdict = keys.verify(purpose, &vector.header, vector.body.as_bytes(), now);
            assert_eq!(verdict.is_ok(), vector.valid, "{}: {verdict:?}", vector.why);
            let made =
                u64::try_from(vector.t).map(|t| keys.sign(purpose, vector.body.as_bytes(), t));
            signed += usize::from(made.is_ok_and(|made| made == vector.header));
        }
        assert!(
            signed >= 5,
            "the headers of the plugin are those that this server makes: {signed}"
        );
    }

    #[test]
    fn derived_keys_are_those_of_the_plugin() {
        let vectors = vectors();
        let keys = SiteKeys::new([vectors.secret.as_bytes()]);
        let Derived { events, tickets, requests } = vectors.derived;
        for (purpose, hex) in
            [(Purpose::Events, events), (Purpose::Tickets, tickets), (Purpose::Requests, requests)]
        {
            let expected = Key::new(HMAC_SHA256, &parse_hex(&hex).unwrap());
            let [one, other] = [keys.of(purpose).next().unwrap(), &expected]
                .map(|key| hmac::sign(key, b"x").as_ref().to_vec());
            assert_eq!(one, other, "{purpose:?}");
        }
    }

    #[test]
    fn first_secret_signs_and_both_verify() {
        let [new, old] = [&[b'n'; 32][..], &[b'o'; 32]];
        let (rolling, before, after) =
            (SiteKeys::new([new, old]), SiteKeys::new([old]), SiteKeys::new([new]));
        let verify =
            |keys: &SiteKeys, header: &str| keys.verify(Purpose::Events, header, b"{}", 1_000);
        let sign = |keys: &SiteKeys| keys.sign(Purpose::Events, b"{}", 1_000);
        assert_eq!(verify(&rolling, &sign(&before)), Ok(()));
        assert_eq!(verify(&rolling, &sign(&after)), Ok(()));
        assert_eq!(verify(&after, &sign(&rolling)), Ok(()));
        assert_eq!(verify(&before, &sign(&rolling)), Err(SignatureFault::Mismatch));
    }

    #[test]
    fn fault_says_how_wrong_the_clock_is() {
        let keys = SiteKeys::new([&[b'k'; 32][..]]);
        let header = keys.sign(Purpose::Events, b"", 10_000);
        let verify = |now| keys.verify(Purpose::Events, &header, b"", now);
        assert_eq!(verify(9_000), Err(SignatureFault::Clock(1_000)));
        assert_eq!(verify(10_301), Err(SignatureFault::Clock(-301)));
        let far = format!("t={},v1={}", u64::MAX, "0".repeat(64));
        assert!(matches!(Signature::parse(&far, 0), Err(SignatureFault::Clock(_))));
    }

    proptest! {
        #[test]
        fn changed_signature_is_refused(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            time in 1_000_u64..5_000_000_000,
            at in any::<proptest::sample::Index>(),
            other in any::<u8>(),
        ) {
            let keys = SiteKeys::new([&[b'k'; 64][..]]);
            let header = keys.sign(Purpose::Events, &body, time);
            prop_assert_eq!(keys.verify(Purpose::Events, &header, &body, time), Ok(()));
            prop_assert!(keys.verify(Purpose::Requests, &header, &body, time).is_err());
            let mut changed = header.clone().into_bytes();
            let at = at.index(changed.len());
            prop_assume!(changed[at] != other && other.is_ascii());
            changed[at] = other;
            let changed = String::from_utf8(changed).unwrap();
            prop_assert!(keys.verify(Purpose::Events, &changed, &body, time).is_err(), "{}", changed);
        }

        #[test]
        fn any_header_is_judged_without_a_panic(header in "[ -~]{0,200}", now in any::<u64>()) {
            let _ = Signature::parse(&header, now);
            let parts = format!("t={now},v1={header},v1=é");
            let _ = Signature::parse(&parts, now);
        }
    }
}

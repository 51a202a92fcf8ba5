//! Reads the public keys with which the site's tokens are verified (`--jwt-key-file`): PEM, or a
//! JSON Web Key Set (JWKS, RFC 7517).
//!
//! A key is for one algorithm: an RSA key for RS256, a P-256 key for ES256 (RFC 7518 3.1). It is
//! never a secret for HS256, with which anyone who has the public key could sign.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::{PemObject, SectionKind};
use serde::Deserialize;
use serde_json::Value;
use x509_cert::Certificate;
use x509_cert::der::asn1::UintRef;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Reader, SliceReader};
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::files;

/// The flag that names the file.
pub(super) const FLAG: &str = "--jwt-key-file";
/// Maximum size of the file.
const FILE_BYTES_MAX: usize = 64 << 10;
/// Maximum number of keys. A token that names no key is verified with each of them.
pub const KEYS_MAX: usize = 16;
/// Sizes of RSA keys, in bits, that can be verified with.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// An uncompressed point of P-256: 4, x and y.
const P256_POINT_BYTES: usize = 65;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");

/// A public key of the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Its identifier, which the `kid` of a token names; a key in PEM has none.
    pub kid: Option<String>,
    /// The key.
    pub material: KeyMaterial,
}

/// The numbers of a public key, and with them its algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyMaterial {
    /// For RS256: the numbers in big-endian bytes, without zeros at the start.
    Rsa {
        /// The modulus.
        n: Vec<u8>,
        /// The exponent.
        e: Vec<u8>,
    },
    /// For ES256: the uncompressed point.
    P256(Vec<u8>),
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.material {
            KeyMaterial::Rsa { n, .. } => write!(f, "RSA with {} bits for RS256", bits(n)),
            KeyMaterial::P256(_) => f.write_str("P-256 for ES256"),
        }
    }
}

/// Reads the file; also returns warnings for the operator.
///
/// # Errors
///
/// A message that names the file and says what is wrong.
pub(super) fn read(path: &Path) -> Result<(Vec<PublicKey>, Vec<String>), String> {
    let place = format!("{FLAG} {}", path.display());
    let read = || -> io::Result<(Vec<u8>, u32)> {
        let file = files::open(path)?;
        let mode = file.metadata()?.permissions().mode();
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        Ok((bytes, mode))
    };
    let (bytes, mode) = read().map_err(|fault| format!("{place}: it cannot be read: {fault}"))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!(
            "{place}: it is larger than {FILE_BYTES_MAX} bytes, too large for public keys"
        ));
    }
    let (keys, skipped) = parse(&bytes).map_err(|why| format!("{place}: {why}"))?;
    let mut warnings: Vec<String> =
        skipped.into_iter().map(|why| format!("{place}: a key is not used: {why}")).collect();
    if mode & 0o002 != 0 {
        // Anyone who can replace the key can sign any token.
        warnings
            .push(format!("{place}: everyone on this machine may change it: run chmod o-w on it"));
    }
    Ok((keys, warnings))
}

/// Parses PEM or JWKS. Returns the keys, and why others in it are not used.
///
/// # Errors
///
/// A message that says what is wrong.
pub fn parse(bytes: &[u8]) -> Result<(Vec<PublicKey>, Vec<String>), String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let found = match bytes.trim_ascii_start().first() {
        Some(b'{') => parse_jwks(bytes)?,
        _ => parse_pem(bytes)?,
    };
    let (mut keys, mut skipped) = (Vec::new(), Vec::new());
    for key in found {
        match key {
            Ok(key) => keys.push(key),
            Err(why) => skipped.push(why),
        }
    }
    match (keys.is_empty(), skipped.first()) {
        (false, _) if keys.len() > KEYS_MAX => {
            Err(format!("it has {} keys: expected at most {KEYS_MAX}", keys.len()))
        }
        (false, _) => Ok((keys, skipped)),
        (true, Some(why)) => Err(format!("it has no key that can be used: {why}")),
        (true, None) => {
            Err("it has no key: expected PEM with BEGIN PUBLIC KEY, or a JSON Web Key \
                             Set"
            .to_owned())
        }
    }
}

type Found = Vec<Result<PublicKey, String>>;

const PRIVATE: &str = "it has a private key, which this server must not have: expected only the \
                       public key (openssl pkey -in private.pem -pubout)";

// ---- PEM

fn parse_pem(bytes: &[u8]) -> Result<Found, String> {
    let has = |label: &str| bytes.windows(label.len()).any(|part| part == label.as_bytes());
    if has("PRIVATE KEY-----") {
        return Err(PRIVATE.to_owned());
    }
    if has("BEGIN RSA PUBLIC KEY-----") {
        return Err(
            "it has a key in the old form BEGIN RSA PUBLIC KEY: convert it with openssl rsa \
                    -RSAPublicKey_in -in old.pem -pubout"
                .to_owned(),
        );
    }
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
        let (kind, der) = section.map_err(|_| "it is not valid PEM".to_owned())?;
        match kind {
            SectionKind::PublicKey => {
                let info = SubjectPublicKeyInfoRef::from_der(&der);
                found.push(info.map_err(|_| UNREADABLE.to_owned()).and_then(from_spki));
            }
            SectionKind::Certificate => {
                let certificate = Certificate::from_der(&der).map_err(|_| UNREADABLE.to_owned());
                found.push(certificate.and_then(|certificate| {
                    let info = &certificate.tbs_certificate.subject_public_key_info;
                    let der = x509_cert::der::Encode::to_der(info);
                    let der = der.map_err(|_| UNREADABLE.to_owned())?;
                    let info = SubjectPublicKeyInfoRef::from_der(&der);
                    info.map_err(|_| UNREADABLE.to_owned()).and_then(from_spki)
                }));
            }
            _ => {}
        }
    }
    Ok(found)
}

const UNREADABLE: &str = "it is not a valid public key";

fn from_spki(info: SubjectPublicKeyInfoRef<'_>) -> Result<PublicKey, String> {
    let bits = info.subject_public_key.as_bytes().ok_or(UNREADABLE)?;
    let material = match info.algorithm.oid {
        RSA => {
            let (n, e) = rsa_numbers(bits).ok_or(UNREADABLE)?;
            rsa(n, e)?
        }
        EC => {
            let curve = info.algorithm.parameters.and_then(|any| any.decode_as().ok());
            match curve {
                Some(P256) => p256(bits.to_vec())?,
                _ => return Err(OTHER_CURVE.to_owned()),
            }
        }
        _ => return Err(OTHER_TYPE.to_owned()),
    };
    Ok(PublicKey { kid: None, material })
}

/// The modulus and the exponent of an `RSAPublicKey` (RFC 8017 A.1.1).
fn rsa_numbers(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut reader = SliceReader::new(der).ok()?;
    let numbers = reader.sequence(|reader| {
        let (n, e) = (UintRef::decode(reader)?, UintRef::decode(reader)?);
        Ok((n.as_bytes().to_vec(), e.as_bytes().to_vec()))
    });
    reader.finish(numbers.ok()?).ok()
}

// ---- JWKS

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

fn parse_jwks(bytes: &[u8]) -> Result<Found, String> {
    let not_a_set = || {
        "it is not a JSON Web Key Set: expected {\"keys\":[…]} as in RFC 7517, or PEM with BEGIN \
         PUBLIC KEY"
            .to_owned()
    };
    let mut set: Value = serde_json::from_slice(bytes).map_err(|_| not_a_set())?;
    let keys = match set["keys"].take() {
        Value::Array(keys) => keys,
        // A single key.
        Value::Null if set["kty"].is_string() => vec![set],
        _ => return Err(not_a_set()),
    };
    if keys.iter().any(|key| !key["d"].is_null()) {
        return Err(PRIVATE.to_owned());
    }
    // A key that is not understood does not make the others unusable (RFC 7517 5).
    let parse = |key| serde_json::from_value(key).map_err(|_| UNREADABLE.to_owned());
    Ok(keys.into_iter().map(|key| parse(key).and_then(from_jwk)).collect())
}

fn from_jwk(key: Jwk) -> Result<PublicKey, String> {
    if key.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
        return Err("it is not for signatures (its use is not sig)".to_owned());
    }
    let (material, algorithm) = match (&*key.kty, key.crv.as_deref()) {
        ("RSA", _) => (rsa(number(key.n.as_deref())?, number(key.e.as_deref())?)?, "RS256"),
        ("EC", Some("P-256")) => {
            let [x, y] = [key.x.as_deref(), key.y.as_deref()].map(|text| text.and_then(decode));
            let (x, y) = x.zip(y).ok_or(UNREADABLE)?;
            (p256([&[4], &x[..], &y].concat())?, "ES256")
        }
        ("EC", _) => return Err(OTHER_CURVE.to_owned()),
        ("oct", _) => {
            return Err("it is a secret (its kty is oct): HS256 needs --jwt-secret-file".to_owned());
        }
        _ => return Err(OTHER_TYPE.to_owned()),
    };
    if key.alg.as_deref().is_some_and(|alg| alg != algorithm) {
        return Err(format!("it is for another algorithm than {algorithm}"));
    }
    Ok(PublicKey { kid: key.kid, material })
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// A number in base64url, without zeros at the start.
fn number(text: Option<&str>) -> Result<Vec<u8>, String> {
    let bytes = text.and_then(decode).ok_or(UNREADABLE)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(bytes[zeros..].to_vec())
}

// ---- checks

const OTHER_TYPE: &str =
    "its type is not supported: expected an RSA key for RS256, or a P-256 key for ES256";
const OTHER_CURVE: &str = "its curve is not supported: expected P-256 for ES256";

/// The number of bits of a number without zeros at the start.
fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

fn rsa(n: Vec<u8>, e: Vec<u8>) -> Result<KeyMaterial, String> {
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    if !RSA_BITS.contains(&bits(&n)) {
        let (least, most) = RSA_BITS.into_inner();
        return Err(format!("it is an RSA key with {} bits: expected {least} to {most}", bits(&n)));
    }
    // `ring` supports exponents of at most 33 bits.
    if !is_odd(&n) || !is_odd(&e) || !(2..=33).contains(&bits(&e)) {
        return Err(UNREADABLE.to_owned());
    }
    Ok(KeyMaterial::Rsa { n, e })
}

fn p256(point: Vec<u8>) -> Result<KeyMaterial, String> {
    match point.len() == P256_POINT_BYTES && point[0] == 4 {
        true => Ok(KeyMaterial::P256(point)),
        false => {
            Err("its point is not uncompressed (openssl ec -pubin -conv_form uncompressed)"
                .to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys that OpenSSL made (openssl genpkey, openssl pkey -pubout).
    const EC_PEM: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEol+9a09w635VYP+O7qTAIfjjInmW
cU9cF7ddhiyFVnFeKqd/NTOx7mKuHPJMR+evNhGU5EYKxI14pxIsQnXsYQ==
-----END PUBLIC KEY-----
";
    const ED25519_PEM: &str = "\
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAbkSFPxHVycSHGj8E/BVOCZUoDWYiZbcu/N6M9WHOioE=
-----END PUBLIC KEY-----
";
    const P521_PEM: &str = "\
-----BEGIN PUBLIC KEY-----
MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQA48t1gcfDRdEVTsJBd9NGuCICCg1r
7tkoFKvamVABlK+P4M65P1rfWTDZCYxy/DAR80EQ9idZFq7fPKox2f5H4EIAPzcZ
ODyCnbXUzSZ76QBePJbqqx3DoKfN0uNih81H5e42IklUxQWUyFN0T2+cDuVi046a
yC/78Rx5LwrWFe5216c=
-----END PUBLIC KEY-----
";
    const RSA_1024_PEM: &str = "\
-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCtgbwHlzehyzJPYapnXwy6arcB
0RIwNwnLLhV1EsQ7irloL0zZs5gIQg3zyunCXoNVftJ64CappDs2uqYnN6qMkSUz
Ys9OAyG0EikNEhDhWpU+X6nF1XLs2GMtpwf6Ay6JhTbn4Cu4yfeUpEflH6yO61lp
IrOB+o9P/6miXOc+0QIDAQAB
-----END PUBLIC KEY-----
";
    const RSA_2048_PEM: &str = "\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAoLpnDWxj0rwVXHhLGVrH
5xaUzScdevvSydT3tZBoHL1gfU+hOLF+Tzsi+QHymQYwippyEK0F4lun119ax1T/
SG6Qw8D3PEt82gjD94CMH70d+pqc2Lpsrd1yOwPE+F0is7nwb6W6xmq1XbZsYaDr
SSU4XSSVWZCKAElJFnvBkIsu4hIp7PHkocqCMH47WOUyM9lG1jpIsJVhjTLeqrDh
bHj5HR0e/5JPDzRi4J1gK61cY8uv/iUFsMd9p6eNWN8FA3VMOWSHgXBlaEAjQHS/
RnGpobo/hLGRc/Iz2KjPfLmvrlmtaIO0rFeIXyaBba0R6e46SCUTkQGmO4l6cEhd
MwIDAQAB
-----END PUBLIC KEY-----
";

    fn fault(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err()
    }

    fn shown(text: &str) -> Vec<String> {
        parse(text.as_bytes()).unwrap().0.iter().map(PublicKey::to_string).collect()
    }

    #[test]
    fn keys_of_openssl_are_read() {
        assert_eq!(shown(EC_PEM), ["P-256 for ES256"]);
        assert_eq!(shown(RSA_2048_PEM), ["RSA with 2048 bits for RS256"]);
        let both = format!("\u{feff}of 2026\r\n{}", [EC_PEM, RSA_2048_PEM].join("\n"));
        assert_eq!(shown(&both.replace('\n', "\r\n")).len(), 2);
    }

    #[test]
    fn unusable_key_is_named_and_others_still_count() {
        for (pem, why) in [
            (ED25519_PEM, "type is not supported"),
            (P521_PEM, "expected P-256"),
            (RSA_1024_PEM, "1024 bits: expected 2048 to 8192"),
        ] {
            assert!(fault(pem).contains(why), "{}", fault(pem));
            let (keys, skipped) = parse([pem, EC_PEM].join("\n").as_bytes()).unwrap();
            assert_eq!((keys.len(), skipped.len()), (1, 1));
            assert!(skipped[0].contains(why), "{skipped:?}");
        }
    }

    #[test]
    fn file_without_a_public_key_is_refused() {
        let body = "AAAA";
        for (text, why) in [
            ("", "it has no key"),
            ("a secret of the site", "it has no key"),
            (
                &format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"),
                "private key",
            ),
            (&format!("-----BEGIN RSA PRIVATE KEY-----\n{body}\n"), "private key"),
            (&format!("-----BEGIN RSA PUBLIC KEY-----\n{body}\n"), "openssl rsa"),
            (
                &format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"),
                "not a valid",
            ),
            (&EC_PEM.replace('M', "*"), "PEM"),
            (&EC_PEM.replace("-----END PUBLIC KEY-----", ""), "PEM"),
            ("{", "not a JSON Web Key Set"),
            ("{}", "not a JSON Web Key Set"),
            (r#"{"keys":{}}"#, "not a JSON Web Key Set"),
            (r#"{"keys":[]}"#, "it has no key"),
            (r#"{"keys":[7]}"#, "not a valid public key"),
            (r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","d":"AQAB"}]}"#, "private key"),
            (r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#, "17 bits"),
            (r#"{"keys":[{"kty":"RSA","e":"AQAB"}]}"#, "not a valid public key"),
            (r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#, "--jwt-secret-file"),
            (r#"{"kty":"EC","crv":"P-384","x":"AA","y":"AA"}"#, "P-256"),
            (r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#, "uncompressed"),
            (r#"{"kty":"OKP","crv":"Ed25519","x":"AA"}"#, "type is not supported"),
        ] {
            let fault = fault(text);
            assert!(fault.contains(why), "{text:?}: {fault}");
        }
    }

    #[test]
    fn key_of_a_set_counts_only_for_its_own_use() {
        let x = URL_SAFE_NO_PAD.encode([1; 32]);
        let key = format!(r#""kty":"EC","crv":"P-256","x":"{x}","y":"{x}""#);
        for (more, usable) in [
            ("", true),
            (r#","kid":"a","use":"sig","alg":"ES256","x5c":["AA"]"#, true),
            (r#","use":"enc""#, false),
            (r#","alg":"RS256""#, false),
            (r#","alg":"HS256""#, false),
            (r#","kid":7"#, false),
        ] {
            let set = format!(r#"{{"keys":[{{{key}{more}}}]}}"#);
            assert_eq!(parse(set.as_bytes()).is_ok(), usable, "{set}");
        }
    }

    #[test]
    fn at_most_sixteen_keys_are_accepted() {
        let many = |count| [EC_PEM].repeat(count).join("\n");
        assert_eq!(parse(many(KEYS_MAX).as_bytes()).unwrap().0.len(), KEYS_MAX);
        assert!(fault(&many(KEYS_MAX + 1)).contains("17 keys: expected at most 16"));
    }

    #[test]
    fn rsa_numbers_must_be_odd_and_the_exponent_small() {
        let good = || [&[0xc5][..], &[1; 255]].concat();
        assert!(rsa(good(), vec![1, 0, 1]).is_ok());
        assert!(rsa(good(), vec![3]).is_ok());
        for e in [vec![], vec![1], vec![4], vec![4, 0, 0, 0, 1], vec![1; 8]] {
            assert!(rsa(good(), e.clone()).is_err(), "{e:?}");
        }
        let mut even = good();
        even[255] = 2;
        assert!(rsa(even, vec![1, 0, 1]).is_err());
        assert!(rsa(vec![0xff; 1025], vec![1, 0, 1]).is_err());
    }
}

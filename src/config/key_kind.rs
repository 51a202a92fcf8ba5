//! Names the kind of a certificate's key, for the message about a key that cannot be used.

use x509_cert::Certificate;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{Decode, Reader, SliceReader};

/// The kinds of keys that the server can use.
pub(super) const SUPPORTED: &str = "an RSA key of 2048, 3072 or 4096 bits, an ECDSA key on the \
                                    curve P-256 or P-384, or an Ed25519 key";

const RSA: &str = "1.2.840.113549.1.1.1";
const ECDSA: &str = "1.2.840.10045.2.1";

/// Returns the kind of the public key in a certificate in DER, such as `ECDSA, curve P-521`; `None`
/// if it cannot be parsed.
pub(super) fn of_certificate(certificate: &[u8]) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let key = certificate.tbs_certificate.subject_public_key_info;
    let kind = key.algorithm.oid.to_string();
    Some(match &*kind {
        RSA => format!("RSA, {} bits", rsa_bits(key.subject_public_key.as_bytes()?)?),
        ECDSA => {
            let curve = key.algorithm.parameters?.decode_as::<ObjectIdentifier>().ok()?;
            format!("ECDSA, curve {}", curve_name(&curve.to_string()))
        }
        "1.3.101.112" => "Ed25519".to_owned(),
        "1.3.101.113" => "Ed448".to_owned(),
        "1.2.840.10040.4.1" => "DSA".to_owned(),
        "1.2.840.113549.1.1.10" => "RSA-PSS".to_owned(),
        other => format!("of the kind {other}"),
    })
}

fn curve_name(curve: &str) -> &str {
    match curve {
        "1.2.840.10045.3.1.7" => "P-256",
        "1.3.132.0.34" => "P-384",
        "1.3.132.0.35" => "P-521",
        "1.3.132.0.33" => "P-224",
        "1.3.132.0.10" => "secp256k1",
        other => other,
    }
}

/// The bits of the modulus, which is the first number in an RSA public key (RFC 8017 A.1.1).
fn rsa_bits(key: &[u8]) -> Option<usize> {
    let mut reader = SliceReader::new(key).ok()?;
    let modulus = reader
        .sequence(|fields| {
            let modulus = UintRef::decode(fields)?;
            UintRef::decode(fields)?;
            Ok(modulus)
        })
        .ok()?;
    let bytes = modulus.as_bytes();
    let first = bytes.first()?;
    Some(bytes.len() * 8 - first.leading_zeros() as usize)
}

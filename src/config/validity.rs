//! The validity period of the server's certificate (RFC 5280 4.1.2.5), and a warning near its end.

use std::time::{Duration, UNIX_EPOCH};

use x509_cert::Certificate;
use x509_cert::der::Decode;

/// Warn this long before expiry. Let's Encrypt certificates are renewed 30 days before.
const EXPIRES_SOON_S: u64 = 14 * 24 * 60 * 60;

/// The validity period of a certificate, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second of the period.
    pub from_s: u64,
    /// The last second of the period.
    pub until_s: u64,
}

impl Validity {
    /// Reads the period from a certificate in DER; `None` if it cannot be parsed.
    pub(super) fn from_der(certificate: &[u8]) -> Option<Validity> {
        let period = Certificate::from_der(certificate).ok()?.tbs_certificate.validity;
        Some(Validity {
            from_s: period.not_before.to_unix_duration().as_secs(),
            until_s: period.not_after.to_unix_duration().as_secs(),
        })
    }

    /// Returns a warning for the operator if the certificate has expired, expires soon or is not
    /// valid yet.
    pub fn warning(&self, now_s: u64) -> Option<String> {
        let Validity { from_s, until_s } = *self;
        if now_s > until_s {
            let until = format_date(until_s);
            Some(format!("the certificate expired on {until}: clients refuse it"))
        } else if now_s < from_s {
            let from = format_date(from_s);
            Some(format!(
                "the certificate is not valid before {from}, or the clock of this machine is wrong"
            ))
        } else if until_s - now_s < EXPIRES_SOON_S {
            Some(format!("the certificate expires on {}: renew it", format_date(until_s)))
        } else {
            None
        }
    }
}

/// Formats a time as in RFC 3339.
pub(crate) fn format_date(since_1970_s: u64) -> String {
    // The last second that RFC 3339 can represent.
    let shown = UNIX_EPOCH + Duration::from_secs(since_1970_s.min(253_402_300_799));
    humantime::format_rfc3339_seconds(shown).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a certificate for localhost that is valid from one year to another.
    fn certificate(from: i32, until: i32) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 2);
        params.not_after = rcgen::date_time_ymd(until, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn certificate_dates_are_parsed_in_both_forms() {
        for (from, until, dates) in [
            (1975, 2049, ["1975-01-02T00:00:00Z", "2049-12-31T00:00:00Z"]),
            (2026, 2050, ["2026-01-02T00:00:00Z", "2050-12-31T00:00:00Z"]),
            (2051, 4096, ["2051-01-02T00:00:00Z", "4096-12-31T00:00:00Z"]),
        ] {
            let Validity { from_s, until_s } =
                Validity::from_der(&certificate(from, until)).unwrap();
            assert_eq!([format_date(from_s), format_date(until_s)], dates);
        }
    }

    #[test]
    fn other_input_is_rejected_without_panic() {
        let good = certificate(2026, 2030);
        for end in 0..good.len() {
            assert_eq!(Validity::from_der(&good[..end]), None, "{end}");
        }
        for at in 0..good.len() {
            for value in [0, 0x17, 0x7f, 0x80, 0x84, 0x88, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = Validity::from_der(&bad);
            }
        }
    }

    #[test]
    fn certificate_warns_before_start_near_expiry_and_after() {
        let day = 86_400;
        let validity = Validity { from_s: 100 * day, until_s: 200 * day };
        for (now, words) in [
            (99, "not valid before 1970-04-11"),
            (187, "expires on 1970-07-20"),
            (201, "expired on"),
        ] {
            let warning = validity.warning(now * day).unwrap();
            assert!(warning.contains(words), "{warning}");
        }
        assert_eq!(validity.warning(185 * day), None);
    }
}

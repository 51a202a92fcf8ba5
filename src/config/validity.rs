//! From when to when a certificate holds (RFC 5280 4.1.2.5), and nothing else of what it says.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One that ends so soon is worth a word: those of Let's Encrypt are renewed 30 days before.
const EXPIRES_SOON_S: u64 = 14 * 24 * 60 * 60;

/// From when to when a certificate holds, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second in which it does.
    pub from_s: u64,
    /// The last one.
    pub until_s: u64,
}

impl Validity {
    /// What a certificate in DER says; `None` if it cannot be read.
    pub(super) fn from_der(certificate: &[u8]) -> Option<Validity> {
        const SEQUENCE: u8 = 0x30;
        const VERSION: u8 = 0xa0;
        let inside = |bytes| read_der_element(bytes).filter(|(tag, ..)| *tag == SEQUENCE);
        let (_, certificate, _) = inside(certificate)?;
        let (_, mut rest, _) = inside(certificate)?;
        if let (VERSION, _, after) = read_der_element(rest)? {
            rest = after;
        }
        // Its number, the kind of its signature, and who has signed it.
        for _ in 0..3 {
            (_, _, rest) = read_der_element(rest)?;
        }
        let (_, times, _) = inside(rest)?;
        let (tag, from, rest) = read_der_element(times)?;
        let from_s = parse_der_time(tag, from)?;
        let (tag, until, _) = read_der_element(rest)?;
        Some(Validity { from_s, until_s: parse_der_time(tag, until)? })
    }

    /// What an operator should know at this time, if anything.
    pub fn warning(&self, now_s: u64) -> Option<String> {
        let Validity { from_s, until_s } = *self;
        if now_s > until_s {
            Some(format!(
                "the certificate has ended on {}: no client takes it",
                format_date(until_s)
            ))
        } else if now_s < from_s {
            let from = format_date(from_s);
            Some(format!("the certificate begins on {from}, or this machine's clock is wrong"))
        } else if until_s - now_s < EXPIRES_SOON_S {
            Some(format!(
                "the certificate ends on {}: see that it is renewed",
                format_date(until_s)
            ))
        } else {
            None
        }
    }
}

/// A time as RFC 3339 has it.
pub fn format_date(since_1970_s: u64) -> String {
    // The last second that RFC 3339 can write.
    let shown = UNIX_EPOCH + Duration::from_secs(since_1970_s.min(253_402_300_799));
    humantime::format_rfc3339_seconds(shown).to_string()
}

/// The first element of DER: its tag, its content, and what follows (X.690 8.1).
fn read_der_element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match usize::from(length) {
        short @ 0..0x80 => (short, rest),
        long => {
            let (length, rest) =
                rest.split_at_checked(long - 0x80).filter(|(l, _)| l.len() <= 4)?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// A time, `UTCTime` or `GeneralizedTime`, in seconds since 1970; none before that is of any use.
fn parse_der_time(tag: u8, time: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let text = match (tag, text.len()) {
        (0x17, 12) => format!("{}{text}", if text < "50" { "20" } else { "19" }),
        (0x18, 14) => text.to_owned(),
        _ => return None,
    };
    let part = |from, to| text.get(from..to);
    let time = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4)?,
        part(4, 6)?,
        part(6, 8)?,
        part(8, 10)?,
        part(10, 12)?,
        part(12, 14)?
    );
    let time: SystemTime = humantime::parse_rfc3339(&time).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate for localhost of these two years.
    fn certificate(from: i32, until: i32) -> Vec<u8> {
        let mut wishes = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        wishes.not_before = rcgen::date_time_ymd(from, 1, 2);
        wishes.not_after = rcgen::date_time_ymd(until, 12, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        wishes.self_signed(&key).unwrap().der().to_vec()
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
        for (now, words) in
            [(99, "begins on 1970-04-11"), (187, "ends on 1970-07-20"), (201, "has ended")]
        {
            let said = validity.warning(now * day).unwrap();
            assert!(said.contains(words), "{said}");
        }
        assert_eq!(validity.warning(185 * day), None);
    }
}

//! Reads a JSON number as an integer: `7`, `7.0` and `7e0` are the same (RFC 8259 section 6).
//!
//! Clients that keep all numbers as doubles (Gson's maps, Dart's `num`) write 7 as `7.0`. The
//! digits are evaluated exactly; no value passes through a double here.

use std::fmt;

use super::{IdKey, SITE_ID_MAX};

/// Why a JSON number is not an integer that can be an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotWhole {
    /// It has a fraction, as in `7.5`.
    Fraction,
    /// It does not fit into 64 bits.
    TooLarge,
    /// It has a decimal point or an exponent, and is beyond the integers that a double holds
    /// exactly: its author has probably rounded another id to it.
    Rounded,
}

impl fmt::Display for NotWhole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotWhole::Fraction => f.write_str("a number with a fraction"),
            NotWhole::TooLarge => f.write_str("a number of more than 64 bits"),
            NotWhole::Rounded => write!(
                f,
                "a number beyond {SITE_ID_MAX} with a decimal point or an exponent: such a number \
                 may be rounded, so write all its digits, or a string"
            ),
        }
    }
}

/// Reads a valid JSON number as an integer; a negative one becomes a text.
///
/// # Errors
///
/// The reason why it is not an integer, or may not be the one that its author means.
pub(crate) fn parse_whole_number(json: &str) -> Result<IdKey, NotWhole> {
    let (is_negative, unsigned) = match json.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, json),
    };
    let magnitude = match unsigned.find(['.', 'e', 'E']) {
        Some(_) => parse_decimal(unsigned)?,
        None => unsigned.parse().map_err(|_| NotWhole::TooLarge)?,
    };
    match (is_negative, magnitude) {
        (false, _) | (true, 0) => Ok(IdKey::Number(magnitude)),
        (true, _) if magnitude > i64::MIN.unsigned_abs() => Err(NotWhole::TooLarge),
        (true, _) => Ok(IdKey::Text(format!("-{magnitude}").into())),
    }
}

/// Evaluates an unsigned decimal with a fraction or an exponent: `digits × 10^exponent`, without
/// the zeros at both ends of the digits.
fn parse_decimal(unsigned: &str) -> Result<u64, NotWhole> {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    let Some(first) = digits().position(|digit| digit != b'0') else { return Ok(0) };
    let trailing_zeros = digits().rev().take_while(|digit| *digit == b'0').count();
    let significant = whole.len() + fraction.len() - first - trailing_zeros;
    let exponent = exponent
        .saturating_add_unsigned(trailing_zeros as u64)
        .saturating_sub_unsigned(fraction.len() as u64);
    if exponent < 0 {
        return Err(NotWhole::Fraction);
    }
    // 2^53 has 16 digits, so this cannot overflow.
    if exponent.saturating_add_unsigned(significant as u64) > 16 {
        return Err(NotWhole::Rounded);
    }
    let zeros = usize::try_from(exponent).unwrap_or(0);
    let value = digits()
        .skip(first)
        .take(significant)
        .chain(std::iter::repeat_n(b'0', zeros))
        .fold(0, |value: u64, digit| 10 * value + u64::from(digit - b'0'));
    if value > SITE_ID_MAX { Err(NotWhole::Rounded) } else { Ok(value) }
}

/// Parses the exponent; one that does not fit is as far out as the largest that does.
fn parse_exponent(text: &str) -> i64 {
    text.parse().unwrap_or(if text.starts_with('-') { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(value: u64) -> Result<IdKey, NotWhole> {
        Ok(IdKey::Number(value))
    }

    #[test]
    fn number_forms_of_an_integer_are_the_same() {
        for text in [
            "7", "7.0", "7.000", "7e0", "7E0", "7e+0", "7e-0", "7.0e0", "0.7e1", "70e-1",
            "700.0e-2", "0.0007e4", "7e00",
        ] {
            assert_eq!(parse_whole_number(text), number(7), "{text}");
        }
        for text in ["0", "-0", "0.0", "-0.0", "0e0", "0e99999999999999999999", "0.00e-9"] {
            assert_eq!(parse_whole_number(text), number(0), "{text}");
        }
        for text in ["1000", "1e3", "1.0E3", "10e2", "0.001e6"] {
            assert_eq!(parse_whole_number(text), number(1_000), "{text}");
        }
        for text in ["-7", "-7.0", "-7e0", "-0.7e1"] {
            assert_eq!(parse_whole_number(text), Ok(IdKey::Text("-7".into())), "{text}");
        }
        let long_zeros = format!("7.{}", "0".repeat(100_000));
        assert_eq!(parse_whole_number(&long_zeros), number(7));
    }

    #[test]
    fn fraction_is_told_from_a_number_that_is_too_large() {
        for text in ["1.5", "7.0000000000000000000001", "7e-1", "0.1", "1e-99999999999999999999"] {
            assert_eq!(parse_whole_number(text), Err(NotWhole::Fraction), "{text}");
        }
        for text in ["18446744073709551616", "-9223372036854775809", "99999999999999999999999"] {
            assert_eq!(parse_whole_number(text), Err(NotWhole::TooLarge), "{text}");
        }
    }

    #[test]
    fn double_beyond_two_to_the_53_is_refused_as_rounded() {
        for (text, value) in [
            ("9007199254740991", SITE_ID_MAX),
            ("9007199254740991.0", SITE_ID_MAX),
            ("9.007199254740991e15", SITE_ID_MAX),
            // All digits are written: nothing is rounded.
            ("9007199254740993", SITE_ID_MAX + 2),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_whole_number(text), number(value), "{text}");
        }
        for text in [
            // 2^53 and 2^53 + 1 are the same double.
            "9007199254740992.0",
            "9007199254740993.0",
            "-9007199254740992.0",
            "9.223372036854776e18",
            "1e16",
            "9999999999999999.0",
            "1e400",
            "1e99999999999999999999",
            "1e9223372036854775807",
        ] {
            assert_eq!(parse_whole_number(text), Err(NotWhole::Rounded), "{text}");
        }
        assert_eq!(parse_whole_number("1e15"), number(1_000_000_000_000_000));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn every_form_of_a_safe_integer_is_read_exactly(
            value in 0..=SITE_ID_MAX, shift in 0_usize..20, zeros in 0_usize..5
        ) {
            let digits = format!("{value:020}");
            let (whole, fraction) = digits.split_at(20 - shift);
            // JSON has no leading zeros.
            let whole = whole.trim_start_matches('0');
            let whole = if whole.is_empty() { "0" } else { whole };
            let text = format!("{whole}.{fraction}{}e{shift}", "0".repeat(zeros + 1));
            prop_assert_eq!(parse_whole_number(&text), number(value), "{}", text);
            prop_assert_eq!(parse_whole_number(&format!("{value}.0")), number(value));
        }

        #[test]
        fn a_double_is_read_as_itself_or_refused(double in any::<f64>()) {
            prop_assume!(double.is_finite());
            let text = serde_json::to_string(&double).unwrap();
            match parse_whole_number(&text) {
                Ok(IdKey::Number(value)) => prop_assert_eq!(value as f64, double),
                Ok(IdKey::Text(value)) => prop_assert_eq!(value.parse::<f64>().unwrap(), double),
                Err(NotWhole::Fraction) => prop_assert_ne!(double.fract(), 0.0),
                Err(_) => prop_assert!(double.abs() > SITE_ID_MAX as f64),
            }
        }
    }
}

//! Reads the claims of a token (RFC 7519 4.1): who issued it, for whom, and when it is valid.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::SITE_ID_MAX;
use crate::upstream::json::{StrictObject, parse_object};

/// The claims that count, with times in whole seconds since 1970. A claim that is `null` is not
/// set, as for the site itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// The issuer.
    pub iss: Option<String>,
    /// The time from which the token has expired, rounded down.
    pub exp: Option<u64>,
    /// The time before which it is not valid, rounded up.
    pub nbf: Option<u64>,
    /// The user, if `data.user.id` is the id of one.
    pub user: Option<u64>,
}

/// The claims as they are written. Anything that is not named here is not read.
#[derive(Deserialize)]
struct RawClaims<'a> {
    #[serde(borrow)]
    iss: Option<&'a RawValue>,
    #[serde(borrow)]
    exp: Option<&'a RawValue>,
    #[serde(borrow)]
    nbf: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct AnyObject {}

impl Claims {
    /// Reads the claims from JSON.
    ///
    /// # Errors
    ///
    /// The fault in their layout.
    pub(super) fn parse(json: &[u8]) -> Result<Claims, &'static str> {
        let raw: RawClaims<'_> =
            parse_object(json).ok_or_else(|| match parse_object::<AnyObject>(json) {
                Some(_) => "one of iss, exp, nbf and data is there twice",
                None => "its claims are not a JSON object",
            })?;
        let iss = raw.iss.map(|iss| serde_json::from_str(iss.get()).map_err(|_| "iss is not text"));
        Ok(Claims {
            iss: iss.transpose()?,
            exp: raw.exp.map(|exp| seconds(exp, f64::floor).ok_or(EXP)).transpose()?,
            nbf: raw.nbf.map(|nbf| seconds(nbf, f64::ceil).ok_or(NBF)).transpose()?,
            user: raw.data.and_then(user),
        })
    }

    /// The expiry alone, whatever the other claims are.
    pub(super) fn expiry(json: &[u8]) -> Option<u64> {
        #[derive(Deserialize)]
        struct Expiry<'a> {
            #[serde(borrow)]
            exp: Option<&'a RawValue>,
        }
        seconds(parse_object::<Expiry<'_>>(json)?.exp?, f64::floor)
    }
}

const EXP: &str = "exp is not a number: RFC 7519 wants the seconds since 1970, without quotes";
const NBF: &str = "nbf is not a number: RFC 7519 wants the seconds since 1970, without quotes";

/// A NumericDate (RFC 7519 2): any JSON number, with a fraction or an exponent as well. A time that
/// is too early or too late for any clock becomes the nearest that is not, so that sums with it do
/// not overflow.
fn seconds(value: &RawValue, round: fn(f64) -> f64) -> Option<u64> {
    let text = value.get();
    let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    // JSON's numbers are a subset of those that `parse` reads; a float saturates in a cast.
    let number: f64 = text.parse().ok().filter(|_| is_number)?;
    Some((round(number) as u64).min(SITE_ID_MAX))
}

/// The user in `data`: `{"user":{"id":"7"}}`.
fn user(data: &RawValue) -> Option<u64> {
    #[derive(Deserialize)]
    struct Data {
        user: StrictObject<User>,
    }
    #[derive(Deserialize)]
    struct User {
        id: UserId,
    }
    let data: Data = parse_object(data.get().as_bytes())?;
    data.user.0.id.number()
}

/// The usual JWT plugin writes a string; similar plugins write a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum UserId {
    Text(String),
    Number(u64),
}

impl UserId {
    fn number(&self) -> Option<u64> {
        let number = match self {
            UserId::Number(n) => *n,
            // `parse` also accepts `+7` and `007`, which the site does not write.
            UserId::Text(text) => text.parse().ok().filter(|n: &u64| n.to_string() == *text)?,
        };
        (1..=SITE_ID_MAX).contains(&number).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exp(value: &str) -> Result<Option<u64>, &'static str> {
        Claims::parse(format!(r#"{{"exp":{value}}}"#).as_bytes()).map(|claims| claims.exp)
    }

    fn nbf(value: &str) -> Result<Option<u64>, &'static str> {
        Claims::parse(format!(r#"{{"nbf":{value}}}"#).as_bytes()).map(|claims| claims.nbf)
    }

    #[test]
    fn numeric_date_is_any_json_number() {
        for (text, floor, ceil) in [
            ("0", 0, 0),
            ("1795345238", 1_795_345_238, 1_795_345_238),
            ("1795345238.0", 1_795_345_238, 1_795_345_238),
            ("1795345238.25", 1_795_345_238, 1_795_345_239),
            ("1795345238.999999", 1_795_345_238, 1_795_345_239),
            ("1.9e9", 1_900_000_000, 1_900_000_000),
            ("1.795345238E+9", 1_795_345_238, 1_795_345_238),
            ("19000000005e-1", 1_900_000_000, 1_900_000_001),
            ("-1", 0, 0),
            ("-0.5", 0, 0),
            ("-1e999", 0, 0),
            ("9007199254740991", SITE_ID_MAX, SITE_ID_MAX),
            ("9007199254740993", SITE_ID_MAX, SITE_ID_MAX),
            ("18446744073709551615", SITE_ID_MAX, SITE_ID_MAX),
            ("1e300", SITE_ID_MAX, SITE_ID_MAX),
            ("1e999", SITE_ID_MAX, SITE_ID_MAX),
        ] {
            assert_eq!(exp(text), Ok(Some(floor)), "{text}");
            assert_eq!(nbf(text), Ok(Some(ceil)), "{text}");
            let json = format!(r#"{{"exp":{text},"iss":1}}"#);
            assert_eq!(Claims::expiry(json.as_bytes()), Some(floor), "{text}");
        }
    }

    #[test]
    fn time_that_is_no_number_is_named() {
        for text in [r#""1795345238""#, r#""soon""#, "true", "[1795345238]", "{}", r#""""#] {
            assert!(exp(text).unwrap_err().starts_with("exp "), "{text}");
            assert!(nbf(text).unwrap_err().starts_with("nbf "), "{text}");
            assert_eq!(Claims::expiry(format!(r#"{{"exp":{text}}}"#).as_bytes()), None);
        }
        // No JSON at all.
        for text in ["NaN", "inf", "0x1", "1_000", "+1", "01", ".5", "1.", ""] {
            assert_eq!(exp(text), Err("its claims are not a JSON object"), "{text}");
        }
    }

    #[test]
    fn null_claims_are_not_set() {
        let none = Claims::parse(br#"{"iss":null,"exp":null,"nbf":null,"data":null}"#);
        assert_eq!(none, Ok(Claims::default()));
        assert_eq!(Claims::parse(b"{}"), Ok(Claims::default()));
    }

    #[test]
    fn issued_at_is_not_read() {
        for iat in ["1.5", r#""1795345238""#, "null", "99999999999", "[]", "1,\"iat\":2"] {
            let json = format!(r#"{{"exp":7,"iat":{iat}}}"#);
            assert_eq!(Claims::parse(json.as_bytes()).map(|claims| claims.exp), Ok(Some(7)));
        }
    }
}

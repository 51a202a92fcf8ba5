//! Reads whole numbers of the site's JSON, also those that a plugin writes as doubles.
//!
//! PHP's `json_encode` writes the float 7 as `7.0` with `JSON_PRESERVE_ZERO_FRACTION`, and a large
//! one with an exponent. Values are read from the digits, since serde_json does not promise to
//! parse doubles exactly.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::protocol::IdKey;
use crate::protocol::whole_number::parse_whole_number;

/// For `deserialize_with`: a whole number that is not negative.
pub(super) fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let json = <&RawValue>::deserialize(deserializer)?.get();
    let is_number = json.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    match is_number.then(|| parse_whole_number(json)) {
        Some(Ok(IdKey::Number(number))) => Ok(number),
        _ => Err(D::Error::custom("expected a whole number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::json::parse_object;

    #[derive(Deserialize)]
    struct Me {
        #[serde(deserialize_with = "whole_number")]
        id: u64,
    }

    #[test]
    fn double_without_a_fraction_is_a_whole_number() {
        let read = |value: &str| {
            parse_object::<Me>(format!(r#"{{"id":{value}}}"#).as_bytes()).map(|me| me.id)
        };
        for (value, expected) in [
            ("7", 7),
            (" 7.0 ", 7),
            ("7e0", 7),
            ("1.0e+15", 1_000_000_000_000_000),
            ("9007199254740991.0", 9_007_199_254_740_991),
            ("-0.0", 0),
        ] {
            assert_eq!(read(value), Some(expected), "{value}");
        }
        for value in
            ["7.5", "-7", "-7.0", "9007199254740993.0", "\"7\"", "\"7.0\"", "null", "[]", "true"]
        {
            assert_eq!(read(value), None, "{value}");
        }
    }
}

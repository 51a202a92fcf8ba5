//! Parses JSON from the site and from tokens strictly as objects.
//!
//! serde's derived code for a struct also accepts an array of the fields' values in order. Neither
//! the site nor a token is written like that, so such input is rejected.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// A struct that is read from a JSON object only; any other type is an error, and so is a duplicate
/// of one of its keys.
pub(super) struct StrictObject<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for StrictObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StrictObject<T>, D::Error> {
        deserializer.deserialize_map(Reader(PhantomData))
    }
}

struct Reader<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
    type Value = StrictObject<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StrictObject<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(StrictObject)
    }
}

/// Parses all of `bytes` as one object; `None` if that fails.
pub(super) fn parse_object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    serde_json::from_slice::<StrictObject<T>>(bytes).ok().map(|StrictObject(value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Me {
        id: u64,
    }

    #[test]
    fn only_a_single_valid_object_is_accepted() {
        let read = |text: &str| parse_object::<Me>(text.as_bytes()).map(|me| me.id);
        assert_eq!(read(r#" {"id": 7, "x": [1], "x": 2} "#), Some(7));
        for odd in ["[7]", "7", "null", r#"{"id":7,"id":7}"#, r#"{"id":7}{}"#, r#"{"id":7.0}"#, ""]
        {
            assert_eq!(read(odd), None, "{odd}");
        }
    }
}

//! Splits a client's frame into its fields, as raw JSON.
//!
//! A fast path handles the plain objects that nearly all clients send, in a third of serde's time.
//! serde parses all others and defines what is valid; a test compares the two.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The JSON of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Raw<'a>(&'a str);

impl<'a> Raw<'a> {
    pub(super) fn get(self) -> &'a str {
        self.0
    }

    /// Whether the value is a JSON number.
    pub(super) fn is_number(self) -> bool {
        self.0.starts_with(|first: char| first == '-' || first.is_ascii_digit())
    }
}

impl<'a> From<&'a RawValue> for Raw<'a> {
    fn from(raw: &'a RawValue) -> Raw<'a> {
        Raw(raw.get())
    }
}

/// All fields that frames may have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    pub(super) kind: Option<Raw<'a>>,
    pub(super) user_id: Option<Raw<'a>>,
    pub(super) thread_id: Option<Raw<'a>>,
    pub(super) recipient_id: Option<Raw<'a>>,
    pub(super) sender_id: Option<Raw<'a>>,
    pub(super) client_id: Option<Raw<'a>>,
    pub(super) call_id: Option<Raw<'a>>,
    pub(super) message: Option<Raw<'a>>,
    pub(super) token: Option<Raw<'a>>,
    pub(super) typing: Option<Raw<'a>>,
    pub(super) reason: Option<Raw<'a>>,
    pub(super) offer: Option<Raw<'a>>,
    pub(super) answer: Option<Raw<'a>>,
    /// Here `null` is a value: it ends the candidates (W3C WebRTC, RTCPeerConnectionIceEvent).
    pub(super) candidate: Option<Raw<'a>>,
    pub(super) content: Option<Raw<'a>>,
}

/// Longest text for the fast path, in bytes; serde is faster for longer ones, since it scans eight
/// bytes at a time.
const FAST_PATH_BYTES_MAX: usize = 256;

impl<'a> Fields<'a> {
    /// Parses the fields of a JSON object.
    ///
    /// # Errors
    ///
    /// The text is not a JSON object, or a known field occurs twice.
    pub(super) fn read(text: &'a str) -> Result<Fields<'a>, serde_json::Error> {
        match Fields::parse_fast(text) {
            Some(fields) => Ok(fields),
            None => serde_json::from_str(text),
        }
    }

    /// The slot for the field with this name, and its static name.
    fn slot(&mut self, name: &str) -> Option<(&'static str, &mut Option<Raw<'a>>)> {
        Some(match name {
            "type" => ("type", &mut self.kind),
            "userId" => ("userId", &mut self.user_id),
            "threadId" => ("threadId", &mut self.thread_id),
            "recipientId" => ("recipientId", &mut self.recipient_id),
            "senderId" => ("senderId", &mut self.sender_id),
            "clientId" => ("clientId", &mut self.client_id),
            "callId" => ("callId", &mut self.call_id),
            "message" => ("message", &mut self.message),
            "token" => ("token", &mut self.token),
            "typing" => ("typing", &mut self.typing),
            "reason" => ("reason", &mut self.reason),
            "offer" => ("offer", &mut self.offer),
            "answer" => ("answer", &mut self.answer),
            "candidate" => ("candidate", &mut self.candidate),
            "content" => ("content", &mut self.content),
            _ => return None,
        })
    }

    /// Parses an object without whitespace, escapes, nesting, `null` and duplicate fields. `None`
    /// means that serde must parse the text, not that it is invalid.
    fn parse_fast(text: &'a str) -> Option<Fields<'a>> {
        if text.len() > FAST_PATH_BYTES_MAX {
            return None;
        }
        let mut fields = Fields::default();
        let mut rest = text.strip_prefix('{')?;
        loop {
            let name;
            (name, rest) = split_string(rest)?;
            rest = rest.strip_prefix(':')?;
            let value;
            (value, rest) = split_scalar(rest)?;
            if let Some((_, slot)) = fields.slot(&name[1..name.len() - 1]) {
                if slot.replace(Raw(value)).is_some() {
                    return None;
                }
            }
            match rest.as_bytes() {
                [b',', ..] => rest = &rest[1..],
                [b'}'] => return Some(fields),
                _ => return None,
            }
        }
    }
}

/// Splits off a string with its quotes.
fn split_string(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('"')?;
    let end = inner.bytes().position(|byte| matches!(byte, b'"' | b'\\' | ..=0x1f))?;
    if inner.as_bytes()[end] != b'"' {
        return None;
    }
    text.split_at_checked(end + 2)
}

/// Splits off a string, a non-negative whole number, or a boolean.
fn split_scalar(text: &str) -> Option<(&str, &str)> {
    let length = match text.as_bytes() {
        [b'"', ..] => return split_string(text),
        [b'0', ..] => 1,
        [b'1'..=b'9', ..] => text.bytes().position(|byte| !byte.is_ascii_digit())?,
        [b't', b'r', b'u', b'e', ..] => 4,
        [b'f', b'a', b'l', b's', b'e', ..] => 5,
        _ => return None,
    };
    text.split_at_checked(length)
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Fields<'de>, D::Error> {
        from.deserialize_map(FieldsVisitor)
    }
}

/// A field's name.
#[derive(Deserialize)]
struct FieldName<'a>(#[serde(borrow)] Cow<'a, str>);

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        let mut seen = Vec::new();
        while let Some(FieldName(name)) = map.next_key()? {
            let Some((name, slot)) = fields.slot(&name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen.contains(&name) {
                return Err(A::Error::duplicate_field(name));
            }
            seen.push(name);
            let value = map.next_value::<&RawValue>()?;
            // `null` counts as absent.
            let absent = value.get() == "null" && name != "candidate";
            *slot = (!absent).then_some(value.into());
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The result of serde.
    fn by_serde(text: &str) -> Option<Fields<'_>> {
        serde_json::from_str(text).ok()
    }

    #[test]
    fn typical_client_frames_take_the_fast_path() {
        for text in [
            r#"{"type":"typing","threadId":1}"#,
            r#"{"type":"typing","threadId":"41","typing":false,"marker":"~1.2~"}"#,
            r#"{"type":"user_connected","userId":18446744073709551615}"#,
            r#"{"type":"send_message","threadId":0,"message":"hé, {you}","token":"a.b.c"}"#,
            r#"{"type":"ping","clientId":"","x":true}"#,
        ] {
            let fields = Fields::parse_fast(text);
            assert!(fields.is_some(), "{text}");
            assert_eq!(fields, by_serde(text), "{text}");
        }
    }

    #[test]
    fn unusual_frames_fall_back_to_serde() {
        let long = format!(r#"{{"type":"{}"}}"#, "x".repeat(FAST_PATH_BYTES_MAX));
        for text in [
            "",
            "{",
            "{}",
            "[]",
            r#" {"type":"ping"}"#,
            r#"{"type":"ping"} "#,
            r#"{"type":"ping"}}"#,
            r#"{"type":"ping",}"#,
            r#"{"type":"ping""#,
            r#"{"type":"pi"#,
            r#"{"type" :"ping"}"#,
            r#"{"type":"pi\u006eg"}"#,
            "{\"type\":\"a\nb\"}",
            r#"{"type":"ping","type":"ping"}"#,
            r#"{"type":null}"#,
            r#"{"type":-1}"#,
            r#"{"type":01}"#,
            r#"{"type":1.5}"#,
            r#"{"type":1e3}"#,
            r#"{"type":truer}"#,
            r#"{"type":[]}"#,
            r#"{"type":{}}"#,
            "{type:1}",
            &long,
        ] {
            assert_eq!(Fields::parse_fast(text), None, "{text}");
        }
    }

    #[test]
    fn null_equals_absent_except_for_candidate() {
        let text = r#"{"type":null,"candidate":null}"#;
        let candidate = Some(Raw("null"));
        assert_eq!(Fields::read(text).unwrap(), Fields { candidate, ..Fields::default() });
        let twice = Fields::read(r#"{"type":null,"type":"ping"}"#).unwrap_err();
        assert!(twice.is_data(), "{twice}");
    }

    /// Parts of valid and invalid objects.
    const PARTS: [&str; 28] = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        " ",
        "\n",
        r#""type""#,
        r#""type":"#,
        r#""threadId":"#,
        r#""marker":"#,
        r#""a\"b""#,
        r#""\ud800""#,
        r#""é""#,
        r#""""#,
        "true",
        "false",
        "null",
        "0",
        "1",
        "90",
        "-",
        ".5",
        "e3",
        "18446744073709551616",
    ];

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 4_096, failure_persistence: None, ..ProptestConfig::default()
        })]

        #[test]
        fn fast_path_agrees_with_serde(
            parts in proptest::collection::vec(proptest::sample::select(&PARTS[..]), 0..12)
        ) {
            let text = parts.concat();
            for text in [format!("{{{text}}}"), format!("{{\"x\":{text}}}"), text] {
                if let Some(fields) = Fields::parse_fast(&text) {
                    prop_assert_eq!(Some(fields), by_serde(&text));
                }
            }
        }

        #[test]
        fn fast_path_agrees_with_serde_on_mutated_frames(
            at in 0_usize..60, byte in 0_u8..128, cut in any::<bool>()
        ) {
            let mut bytes = br#"{"type":"typing","threadId":12,"typing":false,"x":"y"}"#.to_vec();
            match (at < bytes.len(), cut) {
                (true, true) => bytes.truncate(at),
                (true, false) => bytes[at] = byte,
                _ => {}
            }
            let text = String::from_utf8(bytes).unwrap();
            if let Some(fields) = Fields::parse_fast(&text) {
                prop_assert_eq!(Some(fields), by_serde(&text));
            }
        }
    }
}

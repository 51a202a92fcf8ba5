//! Log lines as JSON objects.

use std::fmt::Write;

use log::Record;
use serde::Serialize;
use serde_json::{Map, Value};

use super::bounded_text::BoundedText;
use super::{LINE_BYTES_MAX, fields};

/// Bytes of the truncation mark and the line feed.
const END_BYTES: usize = 4;

#[derive(Serialize)]
struct JsonLine<'a> {
    time: &'a str,
    level: &'a str,
    target: &'a str,
    message: &'a str,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// Formats a record with time, level, target, message and its fields.
pub(super) fn line(record: &Record<'_>, time: &str) -> String {
    let mut target = BoundedText::new(256, as_json);
    // Writing fails when a text is full.
    let _ = target.write_str(record.target());
    let mut line = JsonLine {
        time,
        level: &record.level().as_str().to_ascii_lowercase(),
        target: &target.into_text(),
        message: "",
        fields: fields::collect(record),
    };
    let used = to_json_line(&line).len() + END_BYTES;
    let mut message = BoundedText::new(LINE_BYTES_MAX.saturating_sub(used), as_json);
    let _ = message.write_fmt(*record.args());
    let message = message.into_text();
    line.message = &message;
    to_json_line(&line)
}

fn to_json_line(line: &JsonLine<'_>) -> String {
    let text = serde_json::to_string(line);
    // Fails only for map keys that are not strings, of which there are none here.
    let mut text = text.unwrap_or_default();
    text.push('\n');
    text
}

/// Returns the size of a character within a JSON string (RFC 8259 section 7). Control characters
/// that JSON does not escape become spaces, since they could control a terminal.
fn as_json(character: char) -> (char, usize) {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\x08' | '\x0c' => (character, 2),
        '\0'..='\x1f' => (character, 6),
        '\x7f'..='\u{9f}' => (' ', 1),
        _ => (character, character.len_utf8()),
    }
}

//! Log lines as text, for people or for systemd's journal.

use std::fmt::Write;

use log::{Level, Record};
use serde_json::Value;

use super::bounded_text::{BoundedText, replace_control};
use super::{LINE_BYTES_MAX, fields};

/// Formats a record with time, level, target, fields and message.
pub(super) fn line(record: &Record<'_>, time: &str, coloured: bool) -> String {
    let level = record.level();
    // The usual colours: red, yellow, cyan, magenta.
    let colour = match level {
        Level::Error => 31,
        Level::Warn => 33,
        Level::Info => 36,
        Level::Debug | Level::Trace => 35,
    };
    with_newline(match coloured {
        true => format!("{time} \x1b[{colour}m{level:<5}\x1b[0m {}", body(record)),
        false => format!("{time} {level:<5} {}", body(record)),
    })
}

/// Formats a record with priority (sd-daemon(3)), target, fields and message.
pub(super) fn journal_line(record: &Record<'_>) -> String {
    with_newline(format!("{}{}", priority(record.level()), body(record)))
}

/// Formats a text of several lines for the journal, where each line needs its priority.
pub(super) fn journal_lines(level: Level, text: &str) -> String {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| format!("{}{line}\n", priority(level))).collect()
}

/// SD_ERR, SD_WARNING, SD_INFO, SD_DEBUG.
fn priority(level: Level) -> &'static str {
    match level {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

/// Formats target, fields and message: "[…] connection 17: closed".
fn body(record: &Record<'_>) -> String {
    // Time, level and priority fit in the rest.
    let mut bounded = BoundedText::new(LINE_BYTES_MAX - 64, replace_control);
    // Fails when the text is full.
    let _ = write(&mut bounded, record);
    bounded.into_text()
}

fn write(bounded: &mut BoundedText, record: &Record<'_>) -> std::fmt::Result {
    write!(bounded, "[{}] ", record.target())?;
    let mut separator = "";
    for (name, value) in fields::collect(record) {
        match value {
            Value::String(text) => write!(bounded, "{separator}{name} {text}")?,
            value => write!(bounded, "{separator}{name} {value}")?,
        }
        separator = ", ";
    }
    if !separator.is_empty() {
        bounded.write_str(": ")?;
    }
    bounded.write_fmt(*record.args())
}

fn with_newline(mut line: String) -> String {
    line.push('\n');
    line
}

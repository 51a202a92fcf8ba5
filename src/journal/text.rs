//! A line for people, and one for the journal, which has time and level of its own.

use std::fmt::Write;

use log::{Level, Record};
use serde_json::Value;

use super::bounded_text::{BoundedText, replace_control};
use super::{LINE_BYTES_MAX, fields};

/// Time, level, target and text.
pub(super) fn line(record: &Record<'_>, time: &str, coloured: bool) -> String {
    let level = record.level();
    // Colours as in most logs: red, yellow, cyan, magenta.
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

/// A priority, target and text (sd-daemon(3)).
pub(super) fn journal_line(record: &Record<'_>) -> String {
    with_newline(format!("{}{}", priority(record.level()), body(record)))
}

/// Words of several lines for the journal: the priority holds for one line only.
pub(super) fn journal_lines(level: Level, words: &str) -> String {
    let lines = words.lines().filter(|line| !line.is_empty());
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

/// Where it was logged, what it is about, and the words: "[…] connection 17: closed".
fn body(record: &Record<'_>) -> String {
    // What stands before it in a line has its place in what is left.
    let mut room = BoundedText::new(LINE_BYTES_MAX - 64, replace_control);
    // It fails when it is full.
    let _ = write(&mut room, record);
    room.into_text()
}

fn write(room: &mut BoundedText, record: &Record<'_>) -> std::fmt::Result {
    write!(room, "[{}] ", record.target())?;
    let mut before = "";
    for (name, value) in fields::collect(record) {
        match value {
            Value::String(text) => write!(room, "{before}{name} {text}")?,
            value => write!(room, "{before}{name} {value}")?,
        }
        before = ", ";
    }
    if !before.is_empty() {
        room.write_str(": ")?;
    }
    room.write_fmt(*record.args())
}

fn with_newline(mut line: String) -> String {
    line.push('\n');
    line
}

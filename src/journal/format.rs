//! Log formats: text for people, systemd's journal, and JSON.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use log::{Level, Record};

use super::{json, text};
use crate::config::LogFormat;

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// With time and level, for people.
    Text { coloured: bool },
    /// For systemd's journal, which adds the time itself.
    Journal,
    /// One JSON object per line.
    Json,
}

impl Format {
    /// Resolves the setting for this process.
    pub(super) fn of(setting: LogFormat) -> Format {
        match setting {
            LogFormat::Auto if is_journal_stderr() => Format::Journal,
            LogFormat::Auto | LogFormat::Text => {
                let is_allowed = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
                Format::Text { coloured: is_allowed && io::stderr().is_terminal() }
            }
            LogFormat::Journal => Format::Journal,
            LogFormat::Json => Format::Json,
        }
    }

    /// Formats a record as a line, with its line feed.
    pub(super) fn line(self, record: &Record<'_>) -> String {
        match self {
            Format::Text { coloured } => text::line(record, &time(SystemTime::now()), coloured),
            Format::Journal => text::journal_line(record),
            Format::Json => json::line(record, &time(SystemTime::now())),
        }
    }

    /// Formats a line about the log itself.
    pub(super) fn internal_line(self, level: Level, message: &str) -> String {
        let mut record = Record::builder();
        record.target("buddyline::journal").level(level);
        self.line(&record.args(format_args!("{message}")).build())
    }

    /// Formats the error with which the process exits; in the text format it is unchanged.
    pub(super) fn final_error(self, message: &str) -> String {
        match self {
            Format::Text { .. } => message.to_owned(),
            Format::Journal => text::journal_lines(Level::Error, message),
            Format::Json => self.internal_line(Level::Error, message.trim_end()),
        }
    }
}

/// Formats a time as in RFC 3339, in UTC. A time before 1970 is shown as the start of that year,
/// and one after 9999 as an empty string, so that a wrong clock does not prevent logging.
fn time(now: SystemTime) -> String {
    let mut text = String::new();
    let now = now.max(SystemTime::UNIX_EPOCH);
    let _ = write!(text, "{}", humantime::format_rfc3339_millis(now));
    text
}

/// Whether standard error is the stream to the journal that systemd has opened for this service.
/// The variable alone is not enough: child processes of a service inherit it (systemd.exec(5)).
fn is_journal_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let metadata = stderr.and_then(|stderr| stderr.metadata());
    metadata.is_ok_and(|file| stream == format!("{}:{}", file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn wrong_clock_does_not_prevent_logging() {
        let day = Duration::from_secs(86_400);
        assert_eq!(time(SystemTime::UNIX_EPOCH - day), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(SystemTime::UNIX_EPOCH + 20_000 * day), "2024-10-04T00:00:00.000Z");
        assert_eq!(time(SystemTime::UNIX_EPOCH + 4_000_000 * day), "");
    }

    #[test]
    fn multi_line_exit_message_is_an_error_in_each_format() {
        let message = "error: no such thing\n\nTry --help.\n";
        assert_eq!(Format::Text { coloured: false }.final_error(message), message);
        let journal = Format::Journal.final_error(message);
        assert_eq!(journal, "<3>error: no such thing\n<3>Try --help.\n");
        let json = Format::Json.final_error(message);
        let line: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json.matches('\n').count(), 1);
        assert_eq!(
            (&line["level"], &line["message"]),
            (&"error".into(), &message.trim_end().into())
        );
    }
}

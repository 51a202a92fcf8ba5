//! The log: one line for each record, written to standard error by a thread of its own.
//!
//! The event loop neither waits for the log's reader nor fails with it, when the reader stalls,
//! exits or its disk is full. A line is formatted by the thread that logs it and sent through a
//! bounded channel. If the channel is full the line is dropped, and the next line is preceded by
//! the number of dropped ones.

mod bounded_text;
mod fields;
mod format;
mod json;
mod text;
mod writer;

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use log::{LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

use crate::config::LogFormat;
use crate::metrics::LOG_LINES_LOST;
use crate::process;
use format::Format;
use writer::{Entry, LogCommand};

/// Capacity of the channel, in lines.
const LINES_MAX: usize = 4_096;
/// Maximum bytes of a line; a longer one is truncated.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// How long a flush waits for the writer.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The logger: filters and formats records, and sends them to the writer.
struct Journal {
    /// Levels of libraries. Used as a filter only: the global level is [`log::max_level`], and the
    /// writer writes the lines.
    levels: SimpleLogger,
    format: Format,
    entries: Sender<Entry>,
    /// Lines dropped since the last one that was sent.
    lost: AtomicU64,
}

/// Starts logging to standard error, with this level and format.
///
/// # Errors
///
/// A logger is installed already, or the thread cannot be created.
pub fn start(level: LevelFilter, format: LogFormat) -> io::Result<()> {
    let format = Format::of(format);
    let (entries, received) = bounded(LINES_MAX);
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || writer::write_all(&received, format, &mut io::stderr()))
        .map_err(|fault| io::Error::other(process::explain_thread_fault("its thread", &fault)))?;
    let journal = Journal { levels: levels(), format, entries, lost: AtomicU64::new(0) };
    log::set_boxed_logger(Box::new(journal)).map_err(io::Error::other)?;
    set_level(level);
    Ok(())
}

/// Sets the log level. Libraries have limits of their own in addition.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Levels of libraries, below the global level.
fn levels() -> SimpleLogger {
    SimpleLogger::new()
        // Notes of a connection pool or a TLS library are not events of this server, and any client
        // can cause warnings of the latter.
        .with_module_level("ureq", LevelFilter::Warn)
        .with_module_level("rustls", LevelFilter::Error)
        // At lower levels it logs the contents of clients' close frames.
        .with_module_level("tungstenite", LevelFilter::Warn)
}

/// Prints why the process exits, as an error, at any log level and even without a logger. Gives up
/// after a second if standard error does not take it, unless no thread can be started.
pub fn print_error(format: LogFormat, text: &str) {
    log::logger().flush();
    let text = Format::of(format).final_error(text);
    let (written, done) = bounded(1);
    let in_thread = text.clone();
    let writer = thread::Builder::new().spawn(move || {
        let _ = io::stderr().write_all(in_thread.as_bytes());
        let _ = written.send(());
    });
    let _ = match writer {
        Ok(_) => done.recv_timeout(FLUSH_TIMEOUT).map_err(io::Error::other),
        // The limit of threads may be the reason that is to be printed.
        Err(_) => io::stderr().write_all(text.as_bytes()),
    };
}

impl Journal {
    /// Sends a line to the writer, or counts it as dropped.
    fn submit(&self, line: String) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let entry = Entry { lost, command: LogCommand::Line(line) };
        if self.entries.try_send(entry).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
            LOG_LINES_LOST.record();
        }
    }
}

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.levels.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.submit(self.format.line(record));
        }
    }

    /// Waits until all lines are written, for a second at most.
    fn flush(&self) {
        let until = Instant::now() + FLUSH_TIMEOUT;
        let (written, done) = bounded(1);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let entry = Entry { lost, command: LogCommand::Flush(written) };
        // A writer that is stuck is not waited for any longer.
        if self.entries.send_deadline(entry, until).is_ok() {
            let _ = done.recv_deadline(until);
        } else {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::Receiver;
    use log::Level;
    use serde_json::Value;

    fn journal(format: Format, entries: Sender<Entry>) -> Journal {
        Journal { levels: levels(), format, entries, lost: AtomicU64::new(0) }
    }

    fn log(journal: &Journal, text: &str) {
        log_as(journal, "buddyline", Level::Info, text);
    }

    fn log_as(journal: &Journal, target: &str, level: Level, text: &str) {
        let mut record = Record::builder();
        journal.log(&record.target(target).level(level).args(format_args!("{text}")).build());
    }

    fn written(received: &Receiver<Entry>, format: Format) -> Vec<String> {
        let mut out = Vec::new();
        writer::write_all(received, format, &mut out);
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    /// Returns the lines that `write` logs, in this format.
    fn lines(format: Format, write: impl FnOnce(&Journal)) -> Vec<String> {
        let (entries, received) = bounded(64);
        let journal = journal(format, entries);
        write(&journal);
        drop(journal);
        written(&received, format)
    }

    const TEXT: Format = Format::Text { coloured: false };

    #[test]
    fn text_line_has_time_level_target_fields_and_message() {
        let before = std::time::SystemTime::now() - Duration::from_millis(1);
        let lines = lines(TEXT, |journal| {
            log(journal, "listening");
            log_as(journal, "ureq::pool", Level::Info, "not an event of this server");
            log_as(journal, "ureq::pool", Level::Warn, "but this is one");
            log_as(journal, "rustls::common_state", Level::Warn, "caused by any client");
            let fields = [("connection", 17), ("request", 5)];
            let mut record = Record::builder();
            record.target("buddyline").level(Level::Debug).key_values(&fields);
            journal.log(&record.args(format_args!("a message")).build());
        });
        let rests = lines.iter().map(|line| line.split_once(' ').unwrap().1);
        let expected = [
            "INFO  [buddyline] listening",
            "WARN  [ureq::pool] but this is one",
            "DEBUG [buddyline] connection 17, request 5: a message",
        ];
        assert_eq!(rests.collect::<Vec<_>>(), expected);
        let (time, _) = lines[0].split_once(' ').unwrap();
        assert_eq!(time.len(), "2026-11-22T11:00:38.123Z".len());
        let time = humantime::parse_rfc3339(time).unwrap();
        assert!(before <= time && time <= std::time::SystemTime::now());
    }

    #[test]
    fn journal_line_starts_with_priority_and_has_no_time() {
        let lines = lines(Format::Journal, |journal| {
            for level in Level::iter() {
                log_as(journal, "buddyline", level, "text");
            }
        });
        let expected = ["<3>", "<4>", "<6>", "<7>", "<7>"];
        assert_eq!(lines, expected.map(|priority| format!("{priority}[buddyline] text")));
    }

    #[test]
    fn colours_are_around_the_level_alone() {
        let coloured = Format::Text { coloured: true };
        let lines = lines(coloured, |journal| log_as(journal, "buddyline", Level::Warn, "text"));
        assert!(lines[0].ends_with("Z \x1b[33mWARN \x1b[0m [buddyline] text"), "{lines:?}");
    }

    #[test]
    fn json_line_has_typed_fields_and_omits_missing_values() {
        let lines = lines(Format::Json, |journal| {
            let fields: [(&str, log::kv::Value<'_>); 6] = [
                ("connection", 17_u32.into()),
                ("text", "t\"\n".into()),
                ("request", log::kv::ToValue::to_value(&None::<u64>)),
                ("good", true.into()),
                ("change", (-3).into()),
                ("message", "not the line's own".into()),
            ];
            let mut record = Record::builder();
            record.target("buddyline").level(Level::Debug).key_values(&fields);
            journal.log(&record.args(format_args!("text")).build());
        });
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        let time = line["time"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
        let expected = serde_json::json!({
            "time": time, "level": "debug", "target": "buddyline", "message": "text",
            "connection": 17, "text": "t\" ", "good": true, "change": -3,
        });
        assert_eq!(line, expected);
        assert!(lines[0].starts_with("{\"time\":"), "{}", lines[0]);
    }

    #[test]
    fn long_line_is_truncated_and_stays_one_line() {
        for format in [TEXT, Format::Journal] {
            let lines = lines(format, |journal| {
                log(journal, &"ä".repeat(100_000));
                log(journal, "two\nlines\x1b[2J");
            });
            assert_eq!(lines.len(), 2);
            assert!(lines[0].ends_with("ä…"));
            assert!((LINE_BYTES_MAX - 100..LINE_BYTES_MAX).contains(&lines[0].len()));
            assert!(lines[1].ends_with("[buddyline] two lines [2J"), "{}", lines[1]);
        }
    }

    #[test]
    fn any_record_is_one_bounded_json_object() {
        let texts = ["a", "ä", "😀", "\"", "\\", "\n", "\0", "\x1b", "\x7f", "\u{85}", "\u{2028}"];
        for text in texts {
            for count in [1, 8_000, 100_000] {
                let long = text.repeat(count);
                let lines = lines(Format::Json, |journal| {
                    let fields = [("long", &*long)];
                    let mut record = Record::builder();
                    record.target(&long).level(Level::Info).key_values(&fields);
                    journal.log(&record.args(format_args!("{long}")).build());
                });
                assert_eq!(lines.len(), 1, "{text:?}");
                assert!(lines[0].len() < LINE_BYTES_MAX, "{text:?}");
                assert!(!lines[0].contains(char::is_control));
                let line: Value = serde_json::from_str(&lines[0]).unwrap();
                let message = line["message"].as_str().unwrap();
                let kept = message.trim_end_matches('…');
                match message == kept {
                    true => assert_eq!(message.chars().count(), long.chars().count()),
                    false => assert!(lines[0].len() > LINE_BYTES_MAX - 16, "{text:?}"),
                }
                let shown = if matches!(text, "\x7f" | "\u{85}") { " " } else { text };
                assert_eq!(kept, shown.repeat(kept.chars().count()));
            }
        }
    }

    #[test]
    fn full_channel_drops_lines_and_reports_the_count() {
        let (entries, received) = bounded(2);
        let journal = journal(TEXT, entries);
        let before = LOG_LINES_LOST.count();
        for n in 1..=7 {
            log(&journal, &format!("line {n}"));
        }
        assert!(LOG_LINES_LOST.count() >= before + 5, "the metric counts them as well");
        for n in 1..=2 {
            let Entry { lost: 0, command: LogCommand::Line(line) } = received.recv().unwrap()
            else {
                panic!("line {n}, with nothing lost before it");
            };
            assert!(line.ends_with(&format!("] line {n}\n")), "{line}");
        }
        log(&journal, "line 8");
        drop(journal);
        let lines = written(&received, TEXT);
        assert!(lines[0].ends_with("5 log lines were lost"), "{lines:?}");
        assert!(lines[1].ends_with("INFO  [buddyline] line 8"), "{lines:?}");
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn flush_waits_for_the_writer_up_to_a_limit() {
        let (entries, received) = bounded(1);
        let stuck = journal(TEXT, entries);
        log(&stuck, "never written");
        let begun = Instant::now();
        stuck.flush();
        let waited = begun.elapsed();
        assert!(waited >= FLUSH_TIMEOUT && waited < 2 * FLUSH_TIMEOUT, "{waited:?}");
        drop(received);

        let (entries, received) = bounded(8);
        let journal = journal(TEXT, entries);
        log(&journal, "last line");
        let writer = thread::spawn(move || written(&received, TEXT));
        journal.flush();
        drop(journal);
        let lines = writer.join().unwrap();
        assert!(lines.len() == 1 && lines[0].ends_with("] last line"), "{lines:?}");
    }
}

//! The log: one line for each record, written by a thread of its own.
//!
//! Whoever reads the log may stall, go away, or have no room left: the loop never waits for it and
//! never fails with it. A line is formatted where it is logged and goes into a bounded channel; if
//! that is full the line is lost, and the next one that is not says how many were.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};
use simple_logger::SimpleLogger;

/// Lines that wait for the writer.
const LINES_MAX: usize = 4_096;
/// Bytes of one line; the rest of it is cut off.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// How long the end of the process waits for the writer.
const FLUSH_LASTS: Duration = Duration::from_secs(1);

/// What is logged, and the way to the writer.
struct Journal {
    /// Which module may log what; the lines are written here.
    levels: SimpleLogger,
    coloured: bool,
    entries: Sender<Entry>,
    /// Lines that found no place since the last that did.
    lost: AtomicU64,
}

/// What the writer is told.
struct Entry {
    /// Lines that were lost before this one.
    lost: u64,
    what: What,
}

enum What {
    /// Write this, which ends in a line feed.
    Line(String),
    /// Say when all that came before is written.
    Flush(Sender<()>),
}

/// Logs to standard error from now on, up to this level.
///
/// # Errors
///
/// There is a log already, or no thread can be made.
pub fn start(level: LevelFilter) -> io::Result<()> {
    let levels = SimpleLogger::new()
        // `log` itself leaves out what is below the level, which may change.
        .with_level(LevelFilter::Debug)
        // What a connection pool or a TLS library notes is no event of this server.
        .with_module_level("ureq", LevelFilter::Warn)
        .with_module_level("rustls", LevelFilter::Warn)
        // It prints what clients write into their close frames.
        .with_module_level("tungstenite", LevelFilter::Warn);
    let coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (entries, received) = bounded(LINES_MAX);
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_all(&received, &mut io::stderr()))?;
    let journal = Journal { levels, coloured, entries, lost: AtomicU64::new(0) };
    log::set_boxed_logger(Box::new(journal)).map_err(io::Error::other)?;
    set_level(level);
    Ok(())
}

/// Logs up to this level from now on.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Says why the process ends, whatever the log level and with or without a log. If nobody can hear
/// it within a second, the exit code has to be enough.
pub fn say(text: String) {
    log::logger().flush();
    let (said, done) = bounded(1);
    let speaker = thread::Builder::new().spawn(move || {
        let _ = io::stderr().write_all(text.as_bytes());
        let _ = said.send(());
    });
    if speaker.is_ok() {
        let _ = done.recv_timeout(FLUSH_LASTS);
    }
}

impl Journal {
    fn line(&self, record: &Record<'_>) -> String {
        let mut line = Line { text: String::with_capacity(128), full: false };
        // A clock before 1970 shows that year; one beyond 9999 shows nothing, which is no reason
        // not to log.
        let now = SystemTime::now().max(SystemTime::UNIX_EPOCH);
        let _ = write!(line.text, "{} ", humantime::format_rfc3339_millis(now));
        let level = record.level();
        // Colours as in most logs: red, yellow, cyan, magenta.
        let colour = match level {
            Level::Error => 31,
            Level::Warn => 33,
            Level::Info => 36,
            Level::Debug | Level::Trace => 35,
        };
        let _ = match self.coloured {
            true => write!(line.text, "\x1b[{colour}m{level:<5}\x1b[0m "),
            false => write!(line.text, "{level:<5} "),
        };
        let _ = write!(line.text, "[{}] ", record.target());
        let _ = line.write_fmt(*record.args());
        if line.full {
            line.text.push('…');
        }
        line.text.push('\n');
        line.text
    }

    /// Hands a line to the writer, or counts it as lost.
    fn enter(&self, line: String) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let entry = Entry { lost, what: What::Line(line) };
        if self.entries.try_send(entry).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.levels.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.enter(self.line(record));
        }
    }

    /// Waits until all is written, for a second at most.
    fn flush(&self) {
        let until = Instant::now() + FLUSH_LASTS;
        let (written, done) = bounded(1);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let entry = Entry { lost, what: What::Flush(written) };
        // A writer that does not get on is left behind.
        if self.entries.send_deadline(entry, until).is_ok() {
            let _ = done.recv_deadline(until);
        } else {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

/// The text of a record on its way into a line: as much as fits, and no control characters, which
/// would begin a line that nobody has logged.
struct Line {
    text: String,
    full: bool,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.text.len() + character.len_utf8() > LINE_BYTES_MAX {
                self.full = true;
                // Whatever is still to be formatted is not looked at.
                return Err(fmt::Error);
            }
            self.text.push(if character.is_control() { ' ' } else { character });
        }
        Ok(())
    }
}

/// The writer: until the process ends.
fn write_all(entries: &Receiver<Entry>, out: &mut impl Write) {
    let mut writer = Writer { out, lost: 0, torn: false };
    for Entry { lost, what } in entries {
        writer.lost += lost;
        match what {
            What::Line(line) => writer.line(&line),
            What::Flush(written) => {
                writer.tell_losses();
                // Who asked may have left.
                let _ = written.send(());
            }
        }
    }
}

/// Writes lines to what may fail at any time, and may work again.
struct Writer<'a, W> {
    out: &'a mut W,
    /// Lines that nobody has read, and nobody has been told of.
    lost: u64,
    /// The last line stopped in the middle.
    torn: bool,
}

impl<W: Write> Writer<'_, W> {
    fn line(&mut self, line: &str) {
        if !self.tell_losses() || !self.put(line) {
            self.lost += 1;
        }
    }

    /// Says how many lines were lost; false if even that was.
    fn tell_losses(&mut self) -> bool {
        let told = match self.lost {
            0 => true,
            1 => self.put("1 log line was lost\n"),
            lost => self.put(&format!("{lost} log lines were lost\n")),
        };
        if told {
            self.lost = 0;
        }
        told
    }

    fn put(&mut self, line: &str) -> bool {
        let whole = match std::mem::take(&mut self.torn) {
            true => format!("\n{line}"),
            false => line.to_owned(),
        };
        let mut rest = whole.as_bytes();
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(written) if written > 0 => rest = &rest[written..],
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.torn = rest.len() < whole.len() || whole.len() > line.len();
                    return false;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(entries: Sender<Entry>) -> Journal {
        let levels = SimpleLogger::new()
            .with_level(LevelFilter::Debug)
            .with_module_level("ureq", LevelFilter::Warn);
        Journal { levels, coloured: false, entries, lost: AtomicU64::new(0) }
    }

    fn say(journal: &Journal, text: &str) {
        say_as(journal, "buddyline", Level::Info, text);
    }

    fn say_as(journal: &Journal, target: &str, level: Level, text: &str) {
        let mut record = Record::builder();
        journal.log(&record.target(target).level(level).args(format_args!("{text}")).build());
    }

    /// What was written, line by line, without the time.
    fn lines(bytes: &[u8]) -> Vec<&str> {
        let text = std::str::from_utf8(bytes).unwrap();
        text.lines().map(|line| line.split_once("Z ").map_or(line, |(_, rest)| rest)).collect()
    }

    /// Takes so many bytes, and fails for as often as it is told when they are used up.
    struct Disk {
        room: usize,
        failures: usize,
        bytes: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                self.failures -= 1;
                if self.failures == 0 {
                    self.room = usize::MAX;
                }
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= taken;
            self.bytes.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_has_time_level_target_and_text() {
        let (entries, received) = bounded(8);
        let journal = journal(entries);
        let before = SystemTime::now() - Duration::from_millis(1);
        say(&journal, "listening");
        say_as(&journal, "ureq::pool", Level::Info, "no event of this server");
        say_as(&journal, "ureq::pool", Level::Warn, "but this is");
        drop(journal);
        let mut out = Vec::new();
        write_all(&received, &mut out);
        assert_eq!(lines(&out), ["INFO  [buddyline] listening", "WARN  [ureq::pool] but this is"]);
        let (time, _) = std::str::from_utf8(&out).unwrap().split_once(' ').unwrap();
        assert_eq!(time.len(), "2026-11-22T11:00:38.123Z".len());
        let time = humantime::parse_rfc3339(time).unwrap();
        assert!(before <= time && time <= SystemTime::now());
    }

    #[test]
    fn a_full_channel_loses_lines_and_the_next_one_says_how_many() {
        let (entries, received) = bounded(2);
        let journal = journal(entries);
        for n in 1..=7 {
            say(&journal, &format!("line {n}"));
        }
        let mut out = Vec::new();
        for _ in 0..2 {
            let Entry { lost, what: What::Line(line) } = received.recv().unwrap() else {
                panic!("a line");
            };
            out.extend_from_slice(format!("{lost} {line}").as_bytes());
        }
        say(&journal, "line 8");
        drop(journal);
        write_all(&received, &mut out);
        let all = String::from_utf8(out.clone()).unwrap();
        assert!(all.contains("line 2") && !all.contains("line 3"), "{all}");
        assert_eq!(lines(&out)[2..], ["5 log lines were lost", "INFO  [buddyline] line 8"]);
    }

    #[test]
    fn a_disk_that_was_full_has_whole_lines_again_when_there_is_room() {
        let (entries, received) = bounded(16);
        let journal = journal(entries);
        for n in 1..=6 {
            say(&journal, &format!("line {n}"));
        }
        drop(journal);
        let mut disk = Disk { room: 80, failures: 3, bytes: Vec::new() };
        write_all(&received, &mut disk);
        let all = lines(&disk.bytes);
        assert_eq!(all[0], "INFO  [buddyline] line 1");
        assert!("INFO  [buddyline] line 2".starts_with(all[1]), "torn: {all:?}");
        assert_eq!(all[2], "3 log lines were lost");
        assert_eq!(all[3..], ["INFO  [buddyline] line 5", "INFO  [buddyline] line 6"]);
    }

    #[test]
    fn a_line_is_cut_and_stays_one_line() {
        let (entries, received) = bounded(2);
        let journal = journal(entries);
        say(&journal, &"ä".repeat(100_000));
        say(&journal, "two\nlines\x1b[2J");
        drop(journal);
        let mut out = Vec::new();
        write_all(&received, &mut out);
        let lines = lines(&out);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with("ä…") && lines[0].len() <= LINE_BYTES_MAX);
        assert_eq!(lines[1], "INFO  [buddyline] two lines [2J");
    }

    #[test]
    fn a_flush_waits_for_the_writer_and_not_for_ever() {
        let (entries, received) = bounded(1);
        let stuck = journal(entries);
        say(&stuck, "nobody writes this");
        let begun = Instant::now();
        stuck.flush();
        let waited = begun.elapsed();
        assert!(waited >= FLUSH_LASTS && waited < 2 * FLUSH_LASTS, "{waited:?}");
        drop(received);

        let (entries, received) = bounded(8);
        let journal = journal(entries);
        say(&journal, "last words");
        let writer = thread::spawn(move || {
            let mut out = Vec::new();
            write_all(&received, &mut out);
            out
        });
        journal.flush();
        drop(journal);
        assert_eq!(lines(&writer.join().unwrap()), ["INFO  [buddyline] last words"]);
    }
}

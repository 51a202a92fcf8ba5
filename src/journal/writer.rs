//! The log's writer thread: writes lines to an output that may fail and recover at any time.

use std::io::{self, Write};

use crossbeam_channel::{Receiver, Sender};
use log::Level;

use super::format::Format;
use crate::metrics::LOG_LINES_LOST;

/// A message to the writer.
pub(super) struct Entry {
    /// Lines dropped before this one.
    pub lost: u64,
    pub command: LogCommand,
}

pub(super) enum LogCommand {
    /// Write this line, which ends in a line feed.
    Line(String),
    /// Report on the channel when all lines before are written.
    Flush(Sender<()>),
}

/// Writes all entries, until the channel is closed.
pub(super) fn write_all(entries: &Receiver<Entry>, format: Format, out: &mut impl Write) {
    let mut writer = Writer { out, format, lost: 0, partial_line: false };
    for Entry { lost, command } in entries {
        writer.lost += lost;
        match command {
            LogCommand::Line(line) => writer.line(&line),
            LogCommand::Flush(written) => {
                writer.report_lost();
                // The flush may have timed out.
                let _ = written.send(());
            }
        }
    }
}

/// Writes lines, and counts those that fail.
struct Writer<'a, W> {
    out: &'a mut W,
    format: Format,
    /// Lines lost and not reported yet.
    lost: u64,
    /// The last line was written only in part.
    partial_line: bool,
}

impl<W: Write> Writer<'_, W> {
    fn line(&mut self, line: &str) {
        if !self.report_lost() || !self.write(line) {
            self.lost += 1;
            LOG_LINES_LOST.record();
        }
    }

    /// Writes how many lines were lost. Returns false if that fails as well.
    fn report_lost(&mut self) -> bool {
        let lost = match self.lost {
            0 => return true,
            1 => "1 log line was lost".to_owned(),
            lost => format!("{lost} log lines were lost"),
        };
        let reported = self.write(&self.format.internal_line(Level::Warn, &lost));
        if reported {
            self.lost = 0;
        }
        reported
    }

    fn write(&mut self, line: &str) -> bool {
        let whole = match std::mem::take(&mut self.partial_line) {
            true => format!("\n{line}"),
            false => line.to_owned(),
        };
        let mut rest = whole.as_bytes();
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(written) if written > 0 => rest = &rest[written..],
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.partial_line = rest.len() < whole.len() || whole.len() > line.len();
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
    use crossbeam_channel::bounded;

    /// Takes `room` bytes, then fails `failures` times, then takes everything.
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

    /// Writes `count` lines to a disk and returns what it holds.
    fn written(count: usize, format: Format, mut disk: Disk) -> String {
        let (entries, received) = bounded(count);
        for n in 1..=count {
            entries
                .send(Entry { lost: 0, command: LogCommand::Line(format!("this is line {n}\n")) })
                .unwrap();
        }
        drop(entries);
        write_all(&received, format, &mut disk);
        String::from_utf8(disk.bytes).unwrap()
    }

    #[test]
    fn whole_lines_resume_after_a_full_disk() {
        let disk = Disk { room: 24, failures: 3, bytes: Vec::new() };
        let all = written(6, Format::Journal, disk);
        let expected = [
            "this is line 1",
            "this is l",
            "<4>[buddyline::journal] 3 log lines were lost",
            "this is line 5",
            "this is line 6",
        ];
        assert_eq!(all.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn dropped_line_count_is_a_regular_line() {
        for (format, expected) in [
            (Format::Text { coloured: false }, "Z WARN  [buddyline::journal] 1 log line was lost"),
            (Format::Json, r#""message":"1 log line was lost""#),
        ] {
            let all = written(2, format, Disk { room: 0, failures: 1, bytes: Vec::new() });
            let lines: Vec<&str> = all.lines().collect();
            assert!(lines[0].contains(expected), "{all}");
            assert_eq!(lines[1..], ["this is line 2"]);
        }
    }
}

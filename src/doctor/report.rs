//! Formats findings as text for people and as JSON for programs.

use serde::Serialize;

use super::finding::{Finding, Status};

/// The width of the text report, in columns.
const WIDTH: usize = 80;
/// The column at which the text after the status begins.
const INDENT: usize = 9;

/// The number of findings by status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Findings without a problem.
    pub ok: usize,
    /// Warnings.
    pub warning: usize,
    /// Failures.
    pub failed: usize,
    /// Checks that were skipped.
    pub skipped: usize,
}

impl Summary {
    /// Counts these findings.
    pub fn from_findings(findings: &[Finding]) -> Summary {
        let count = |status| findings.iter().filter(|finding| finding.status == status).count();
        Summary {
            ok: count(Status::Ok),
            warning: count(Status::Warning),
            failed: count(Status::Failed),
            skipped: count(Status::Skipped),
        }
    }
}

/// Whether no finding is a failure.
pub fn has_no_failures(findings: &[Finding]) -> bool {
    Summary::from_findings(findings).failed == 0
}

/// Formats findings as lines of at most 80 columns, except for longer words: status, name and
/// observation, and below a warning or failure its remedy.
pub fn format_text(findings: &[Finding], colour: bool) -> String {
    let mut text = String::new();
    for finding in &merge_skipped(findings) {
        let status = finding.status.as_str();
        let (on, off) = match (colour, finding.status) {
            (false, _) => ("", ""),
            (true, Status::Ok) => ("\x1b[32m", "\x1b[0m"),
            (true, Status::Warning) => ("\x1b[33m", "\x1b[0m"),
            (true, Status::Failed) => ("\x1b[31m", "\x1b[0m"),
            (true, Status::Skipped) => ("\x1b[2m", "\x1b[0m"),
        };
        let gap = " ".repeat(INDENT.saturating_sub(status.len()));
        text += &format!("{on}{status}{off}{gap}");
        wrap(&mut text, &format!("{}: {}", finding.names, finding.seen), INDENT + 2);
        if let Some(remedy) = finding.remedy {
            text += &format!("{}-> ", " ".repeat(INDENT));
            wrap(&mut text, remedy, INDENT + 3);
        }
    }
    let Summary { ok, warning, failed, skipped } = Summary::from_findings(findings);
    text + &format!("\nfailed {failed}, warnings {warning}, ok {ok}, skipped {skipped}\n")
}

/// One row of the text report.
struct Row<'a> {
    names: String,
    status: Status,
    seen: &'a str,
    remedy: Option<&'a str>,
}

/// Merges consecutive checks that were skipped for the same reason into one row.
fn merge_skipped(findings: &[Finding]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for finding in findings {
        let Finding { name, status, seen, remedy } = finding;
        match rows.last_mut() {
            Some(last) if last.status == Status::Skipped && last.seen == seen => {
                last.names += ", ";
                last.names += name;
            }
            _ => rows.push(Row {
                names: (*name).to_owned(),
                status: *status,
                seen,
                remedy: remedy.as_deref(),
            }),
        }
    }
    rows
}

/// Appends words to a line that is at most `indent` columns long; further lines get that indent.
fn wrap(text: &mut String, words: &str, indent: usize) {
    let mut column = indent;
    for (n, word) in words.split(' ').enumerate() {
        let length = word.chars().count();
        if n > 0 && column + 1 + length > WIDTH {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if n > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
}

/// Formats findings as one JSON object with `findings` and `summary`.
pub fn format_json(findings: &[Finding]) -> String {
    #[derive(Serialize)]
    struct Report<'a> {
        findings: &'a [Finding],
        summary: Summary,
    }
    let report = Report { findings, summary: Summary::from_findings(findings) };
    let text = serde_json::to_string_pretty(&report).expect("strings and numbers always serialise");
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> [Finding; 5] {
        [
            Finding::ok("name", "all is well"),
            Finding::warning("clock", "a long story ".repeat(12), "do this, and then that"),
            Finding::failed("port", "127.0.0.1:8080 is taken", "word ".repeat(30)),
            Finding::skipped("token", "none was given"),
            Finding::skipped("JWT secret", "none was given"),
        ]
    }

    #[test]
    fn lines_are_aligned_and_fit_into_eighty_columns() {
        let text = format_text(&findings(), false);
        assert!(text.starts_with("ok       name: all is well\nwarning  clock: a long"), "{text}");
        assert!(text.contains("\n         -> do this, and then that\nfailed   port: "), "{text}");
        let end = "\nskipped  token, JWT secret: none was given\n\n\
                   failed 1, warnings 1, ok 1, skipped 2\n";
        assert!(text.ends_with(end), "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn colours_do_not_shift_columns() {
        let mut plain = format_text(&findings(), true);
        assert!(plain.contains("\x1b[31mfailed\x1b[0m   port"), "{plain}");
        for code in ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[2m", "\x1b[0m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, format_text(&findings(), false));
    }

    #[test]
    fn json_report_is_one_object() {
        let value: serde_json::Value = serde_json::from_str(&format_json(&findings())).unwrap();
        assert_eq!(value["findings"][2]["status"], "failed");
        assert_eq!(value["findings"][0]["remedy"], serde_json::Value::Null);
        assert_eq!(value["summary"]["skipped"], 2);
    }
}

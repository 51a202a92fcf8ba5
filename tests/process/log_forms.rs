//! The formats of the log: text, systemd journal, JSON. All log lines of a message share one
//! request id.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::files::SecretFile;
use crate::support::server::{Server, binary};
use crate::support::site::{Fault, Site};

// ---- choice of the format

/// Runs a server whose address is in use, with a file as standard error, this `JOURNAL_STREAM`, and
/// further arguments; returns the last line of its output.
fn last_line(stream: impl Fn(&File) -> Option<String>, arguments: &[&str]) -> String {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let log = SecretFile::with(&[]);
    let file = File::options().write(true).open(log.path()).unwrap();
    let mut command = binary();
    command.args(["--listen", &taken.local_addr().unwrap().to_string()]).args(arguments);
    command.env_remove("JOURNAL_STREAM");
    if let Some(stream) = stream(&file) {
        command.env("JOURNAL_STREAM", stream);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    assert_eq!(command.status().unwrap().code(), Some(1));
    let text = std::fs::read_to_string(log.path()).unwrap();
    text.lines().last().unwrap().to_owned()
}

/// `JOURNAL_STREAM` for this file, as systemd sets it (systemd.exec(5)).
fn journal_stream(file: &File) -> Option<String> {
    let metadata = file.metadata().unwrap();
    Some(format!("{}:{}", metadata.dev(), metadata.ino()))
}

fn is_text(text: &str) -> bool {
    // A fatal error is printed as it is, whatever the log level.
    text.starts_with("buddyline: ") && !text.contains('<')
}

fn is_journal(text: &str) -> bool {
    text.starts_with("<3>buddyline: ")
}

#[test]
fn journal_form_is_used_only_on_journal_stream() {
    let text = last_line(journal_stream, &[]);
    assert!(is_journal(&text), "{text}");
    let other = |file: &File| {
        let metadata = file.metadata().unwrap();
        Some(format!("{}:{}", metadata.dev(), metadata.ino() + 1))
    };
    for stream in [&other as &dyn Fn(&File) -> _, &|_| None, &|_| Some(String::new()), &|_| {
        Some("8:1:".to_owned())
    }] {
        let text = last_line(stream, &[]);
        assert!(is_text(&text), "{text}");
    }
}

#[test]
fn explicit_log_format_overrides_detection() {
    let text = last_line(journal_stream, &["--log-format", "text"]);
    assert!(is_text(&text), "{text}");
    let text = last_line(|_| None, &["--log-format", "journal"]);
    assert!(is_journal(&text), "{text}");
    let text = last_line(journal_stream, &["--log-format", "json"]);
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["message"].as_str().unwrap().starts_with("buddyline: "), "{text}");
}

#[test]
fn refused_settings_are_logged_as_errors_in_the_journal() {
    for arguments in [&["--trust", "verified"][..], &["--listen", "nowhere"]] {
        let mut command = binary();
        command.args(arguments).args(["--log-format", "journal"]);
        // The second is refused before the format is known.
        let file = File::open("/dev/null").unwrap();
        command.env("JOURNAL_STREAM", journal_stream(&file).unwrap());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        let all = text.lines().all(|line| line.starts_with("<3>"));
        assert_eq!(all, arguments[0] == "--trust", "{text}");
    }
}

#[test]
fn journal_lines_have_a_priority_and_no_time() {
    let mut command = binary();
    command.args(["--listen", "127.0.0.1:0", "--no-limits", "--log-level", "debug"]);
    command.env("BUDDYLINE_LOG_FORMAT", "journal");
    let mut server = Server::launch(command, 1);
    Client::in_thread(server.address(), 7, 41).leave();
    server.signal("TERM");
    server.exit(Duration::from_secs(5));
    let log = server.final_output();
    for line in log.lines() {
        let known = ["<4>[buddyline", "<6>[buddyline", "<7>[buddyline"];
        assert!(known.iter().any(|start| line.starts_with(start)), "{line}");
    }
    assert!(log.contains("<4>[buddyline] --no-limits"), "{log}");
    assert!(log.contains("<6>[buddyline] listening on ws://"), "{log}");
    assert!(log.contains("<7>[buddyline::server::input] connection 1: open from"), "{log}");
}

// ---- request ids

/// Sends two messages; the site stores the first and then closes without an answer. Returns the
/// log.
fn two_messages(form: &str) -> String {
    let site = Site::start();
    site.add_thread(1, &[7, 8]);
    let url = site.url();
    let arguments = ["--buddyboss-url", &url, "--log-level", "debug", "--log-format", form];
    let mut server = Server::start(&arguments);
    let mut client = Client::proven(server.address(), 7, "user-7");
    client.join(1);
    site.fail_next(Fault::CloseAfterStoring);
    for text in ["f1rst of two", "s3cond of two"] {
        client.send(&json!({"type": "send_message", "threadId": 1, "message": text}));
        client.expect(|frame| frame["message"] == text && frame["messageId"].is_u64());
    }
    server.signal("TERM");
    server.exit(Duration::from_secs(5));
    let log = server.final_output();
    assert!(!log.contains("of two"), "{log}");
    log
}

#[test]
fn json_log_lines_of_a_message_share_one_request_id() {
    let log = two_messages("json");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        for field in ["time", "level", "target", "message"] {
            assert!(line[field].is_string(), "{line}");
        }
    }
    let opened = lines.iter().find(|line| line["message"] == "open from 127.0.0.1").unwrap();
    let begins = |line: &&Value| line["message"] == "sending a message to thread 1";
    let requests: Vec<u64> =
        lines.iter().filter(begins).map(|line| line["request"].as_u64().unwrap()).collect();
    assert_eq!(requests.len(), 2, "{log}");
    let lines_of = |request: u64| -> Vec<&Value> {
        lines.iter().filter(|line| line["request"] == request).collect()
    };
    let messages_of = |request| -> Vec<String> {
        let message = |line: &Value| line["message"].as_str().unwrap().replace("127.0.0.1", "");
        lines_of(request).into_iter().map(message).collect()
    };
    for request in &requests {
        assert_eq!(lines_of(*request)[0]["connection"], opened["connection"], "{log}");
        assert!(opened["connection"].is_u64());
    }
    let first = messages_of(requests[0]);
    let expected = [
        "sending a message to thread 1",
        "request failed (message): ",
        "the outcome is not known yet",
        "looking up the message in its thread",
        "found in thread 1",
    ];
    assert_eq!(first.len(), expected.len(), "{log}");
    for (line, part) in first.iter().zip(expected) {
        assert!(line.contains(part), "{line}: {part}");
    }
    assert_eq!(messages_of(requests[1]), ["sending a message to thread 1", "stored in thread 1"]);
}

#[test]
fn text_log_lines_of_a_message_share_one_request_id() {
    let log = two_messages("text");
    let begins = log.lines().find(|line| line.contains("sending a message to thread 1")).unwrap();
    let (_, rest) = begins.split_once("] connection ").unwrap();
    let (_, rest) = rest.split_once(", request ").unwrap();
    let request = rest.split(':').next().unwrap();
    let about = format!("] request {request}: ");
    assert_eq!(log.lines().filter(|line| line.contains(&about)).count(), 4, "{log}");
}

//! The form of the log: for people, for systemd's journal, for programs; and that one number ties
//! together what is said of one message.

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

// ---- which form

/// Runs a server that finds its address taken, with a file for its standard error, JOURNAL_STREAM
/// as this says, and further arguments; returns what it wrote.
fn final_output(stream: impl Fn(&File) -> Option<String>, arguments: &[&str]) -> String {
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
    let words = std::fs::read_to_string(log.path()).unwrap();
    // Whatever it said before that it starts.
    words.lines().last().unwrap().to_owned()
}

/// As systemd writes it (systemd.exec(5)).
fn named(file: &File) -> Option<String> {
    let metadata = file.metadata().unwrap();
    Some(format!("{}:{}", metadata.dev(), metadata.ino()))
}

fn is_text(words: &str) -> bool {
    // The end is said as it is, whatever the level.
    words.starts_with("buddyline: ") && !words.contains('<')
}

fn is_journal(words: &str) -> bool {
    words.starts_with("<3>buddyline: ")
}

#[test]
fn journal_form_is_used_only_on_journal_stream() {
    let words = final_output(named, &[]);
    assert!(is_journal(&words), "{words}");
    let other = |file: &File| {
        let metadata = file.metadata().unwrap();
        Some(format!("{}:{}", metadata.dev(), metadata.ino() + 1))
    };
    for stream in [&other as &dyn Fn(&File) -> _, &|_| None, &|_| Some(String::new()), &|_| {
        Some("8:1:".to_owned())
    }] {
        let words = final_output(stream, &[]);
        assert!(is_text(&words), "{words}");
    }
}

#[test]
fn explicit_log_format_overrides_detection() {
    let words = final_output(named, &["--log-format", "text"]);
    assert!(is_text(&words), "{words}");
    let words = final_output(|_| None, &["--log-format", "journal"]);
    assert!(is_journal(&words), "{words}");
    let words = final_output(named, &["--log-format", "json"]);
    let line: Value = serde_json::from_str(&words).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["message"].as_str().unwrap().starts_with("buddyline: "), "{words}");
}

#[test]
fn refused_settings_are_logged_as_errors_in_the_journal() {
    for arguments in [&["--trust", "verified"][..], &["--listen", "nowhere"]] {
        let mut command = binary();
        command.args(arguments).args(["--log-format", "journal"]);
        // The second is refused before the form is known.
        let file = File::open("/dev/null").unwrap();
        command.env("JOURNAL_STREAM", named(&file).unwrap());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let words = String::from_utf8(output.stderr).unwrap();
        let all = words.lines().all(|line| line.starts_with("<3>"));
        assert_eq!(all, arguments[0] == "--trust", "{words}");
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

// ---- what belongs together

/// A site that stores a message and then fails, and one that stores another. Returns the log.
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
    let told = |request: u64| -> Vec<&Value> {
        lines.iter().filter(|line| line["request"] == request).collect()
    };
    let words = |request| -> Vec<String> {
        let message = |line: &Value| line["message"].as_str().unwrap().replace("127.0.0.1", "");
        told(request).into_iter().map(message).collect()
    };
    for request in &requests {
        assert_eq!(told(*request)[0]["connection"], opened["connection"], "{log}");
        assert!(opened["connection"].is_u64());
    }
    let first = words(requests[0]);
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
    assert_eq!(words(requests[1]), ["sending a message to thread 1", "stored in thread 1"]);
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

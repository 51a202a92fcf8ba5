//! Changing the log level at run time. A process has one log, so the test runs itself as a second
//! process.

use std::process::Command;

use buddyline::config::LogFormat;
use buddyline::journal;
use log::{Level, LevelFilter, log_enabled};

/// Environment variable of the process that writes the log.
const WRITER: &str = "BUDDYLINE_TEST_WRITES_A_LOG";

#[test]
fn log_level_can_change_while_libraries_keep_theirs() {
    if std::env::var_os(WRITER).is_some() {
        return write();
    }
    let name = "log_level::log_level_can_change_while_libraries_keep_theirs";
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", name, "--nocapture"]).env(WRITER, "1").output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    let ours = log.lines().filter(|line| line.starts_with('<'));
    let expected = [
        "<4>[ours] at info",
        "<6>[ours] at info",
        "<4>[ureq::pool] at info",
        "<4>[ours] at debug",
        "<6>[ours] at debug",
        "<7>[ours] at debug",
        "<4>[ureq::pool] at debug",
        "<3>[ours] the level is error",
        "<4>[ours] at warn",
        "<4>[ureq::pool] at warn",
    ];
    assert_eq!(ours.collect::<Vec<_>>(), expected);
}

fn write() {
    journal::start(LevelFilter::Info, LogFormat::Journal).unwrap();
    assert!(
        journal::start(LevelFilter::Info, LogFormat::Journal).is_err(),
        "a process has one log"
    );
    log_all("info");
    journal::set_level(LevelFilter::Debug);
    assert!(log_enabled!(target: "ours", Level::Debug));
    assert!(!log_enabled!(target: "ureq", Level::Info), "lines below the level are not formatted");
    log_all("debug");
    journal::set_level(LevelFilter::Error);
    log::error!(target: "ours", "the level is error");
    log_all("error");
    journal::set_level(LevelFilter::Off);
    log::error!(target: "ours", "nothing is logged");
    log_all("off");
    journal::set_level(LevelFilter::Warn);
    log_all("warn");
    log::logger().flush();
}

fn log_all(level: &str) {
    for target in ["ours", "ureq::pool"] {
        log::warn!(target: target, "at {level}");
        log::info!(target: target, "at {level}");
        log::debug!(target: target, "at {level}");
    }
}

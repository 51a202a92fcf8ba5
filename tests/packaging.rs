//! The files of the package say what the code does.
//!
//! What the package does once it is installed, `tests/systemd/run` tries on a system of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use buddyline::config::Config;
use buddyline::config::env_file::{self, EnvFile};
use clap::{CommandFactory, Parser};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What stands behind a `#` and is no remark: the name and the value of each setting.
fn offered() -> BTreeMap<String, String> {
    let text = read("systemd/buddyline.env");
    let mut offered = BTreeMap::new();
    let mut explained = false;
    for line in text.lines() {
        match line.strip_prefix("#BUDDYLINE_").and_then(|setting| setting.split_once('=')) {
            Some((name, value)) => {
                assert!(explained, "{name} has a remark above it");
                let twice = offered.insert(format!("BUDDYLINE_{name}"), value.to_owned());
                assert!(twice.is_none(), "{name} stands there twice");
                explained = false;
            }
            None => {
                assert!(line.is_empty() || line.starts_with('#'), "it sets something: {line}");
                explained = line.starts_with("# ");
            }
        }
        assert!(line.chars().count() <= 100, "{line}");
    }
    offered
}

#[test]
fn the_file_of_settings_has_every_setting_with_its_default() {
    let mut offered = offered();
    for setting in Config::command().get_arguments() {
        let name = setting.get_env().and_then(|name| name.to_str()).expect("a variable");
        if name == env_file::VARIABLE {
            continue;
        }
        let value = offered.remove(name).unwrap_or_else(|| panic!("{name} is missing"));
        if let Some(default) = setting.get_default_values().first() {
            assert_eq!(Some(&*value), default.to_str(), "{name}");
        }
    }
    assert!(offered.is_empty(), "no such settings: {offered:?}");
}

#[test]
fn each_line_of_the_file_of_settings_is_good_once_its_mark_is_taken_away() {
    for (name, value) in offered() {
        let line = format!("{name}={value}");
        let file = EnvFile::parse(&line).unwrap_or_else(|fault| panic!("{line}: {fault}"));
        let command = Config::command();
        let setting = command.get_arguments().find(|a| a.get_env().is_some_and(|e| *e == *name));
        let flag = setting.and_then(|setting| setting.get_long()).expect("a flag");
        let flag = match setting.is_some_and(|setting| setting.get_action().takes_values()) {
            true => format!("--{flag}={}", file.get(&name).expect("a value")),
            false => format!("--{flag}"),
        };
        assert!(Config::try_parse_from(["buddyline", &flag]).is_ok(), "{line}");
    }
}

/// The value of a line in a unit.
fn value_of<'a>(unit: &'a str, key: &str) -> &'a str {
    let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("the unit has no {key}="))
}

#[test]
fn the_service_is_given_more_time_to_stop_than_a_drain_takes() {
    let unit = read("systemd/buddyline.service");
    let config = Config::try_parse_from(["buddyline"]).expect("the defaults are good");
    let seconds: u64 = value_of(&unit, "TimeoutStopSec").parse().expect("seconds");
    assert!(seconds >= config.drain_timeout.as_secs() + 10, "{seconds}");
}

#[test]
fn the_units_and_the_server_agree_on_names() {
    let unit = read("systemd/buddyline.service");
    let credential = format!("{}:", buddyline::config::secrets::CREDENTIAL);
    assert!(value_of(&unit, "LoadCredential").starts_with(&credential));
    assert!(value_of(&unit, "Environment").starts_with(&format!("{}=-/", env_file::VARIABLE)));
    // Who goes over to the socket is found at the same address.
    let socket = read("systemd/buddyline.socket");
    let port = offered()["BUDDYLINE_LISTEN"].rsplit_once(':').map(|(_, port)| port.to_owned());
    assert_eq!(value_of(&socket, "ListenStream"), format!("127.0.0.1:{}", port.expect("a port")));
}

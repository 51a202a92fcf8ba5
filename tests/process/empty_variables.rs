//! An empty environment variable is as if it were not set: Compose files (`${X:-}`) and unit files
//! set such variables.

use std::fs;
use std::process::Command;

use buddyline::config::{Config, secrets};
use clap::CommandFactory;

use crate::support::files::SecretFile;
use crate::support::server::{Server, binary};

/// The variables of all settings, and of the values that have no flag.
fn variables() -> Vec<String> {
    let command = Config::command();
    let settings = command.get_arguments().map(|argument| argument.get_env().expect("a variable"));
    let mut all: Vec<String> = settings.map(|name| name.to_str().unwrap().to_owned()).collect();
    all.extend(
        [secrets::JWT, secrets::TURN, secrets::SITE_PASSWORD]
            .map(|secret| secret.variable)
            .map(String::from),
    );
    assert!(all.len() > 50, "{all:?}");
    all
}

/// The exit code and the whole output of `check-config`, without what it says about the port: other
/// programs may listen on it.
fn check_config(mut command: Command) -> (Option<i32>, String) {
    let output = command.env_remove("CREDENTIALS_DIRECTORY").arg("check-config").output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let is_about_settings = |line: &&str| line.contains("open files") || line.contains("settings");
    // Whether another program uses the port, which is one of the warnings, may change.
    let without_warnings = |line: &'_ str| line.split(", with").next().unwrap().to_owned();
    let lines = text.lines().filter(is_about_settings).map(without_warnings);
    (output.status.code(), lines.collect())
}

#[test]
fn each_empty_variable_is_as_if_it_were_not_set() {
    let expected = check_config(binary());
    assert!(expected.0 == Some(0) && expected.1.contains("are valid"), "{}", expected.1);
    for name in variables() {
        let mut command = binary();
        command.env(&name, "");
        assert_eq!(check_config(command), expected, "{name}");
    }
    let mut command = binary();
    command.envs(variables().into_iter().map(|name| (name, "")));
    assert_eq!(check_config(command), expected, "all of them");
    // A value that is not empty still counts, and so does an empty flag.
    let mut command = binary();
    command.env("BUDDYLINE_LOG_LEVEL", " ");
    assert_eq!(check_config(command).0, Some(2));
    let output = binary().args(["check-config", "--log-level="]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn each_empty_line_of_the_env_file_is_as_if_it_were_not_there() {
    let none = SecretFile::with(&[]);
    let with_file = |file: &SecretFile| {
        let mut command = binary();
        command.env("BUDDYLINE_ENV_FILE", file.path());
        check_config(command)
    };
    let expected = with_file(&none);
    assert!(expected.0 == Some(0) && expected.1.contains("are valid"), "{}", expected.1);
    for name in variables() {
        for value in ["", "\"\"", "''"] {
            let file = SecretFile::with(&[&format!("{name}={value}")]);
            assert_eq!(with_file(&file), expected, "{name}={value}");
        }
    }
}

#[test]
fn server_with_only_empty_variables_starts_and_reloads() {
    let has = |server: &Server, part: &str| {
        server.wait_for_log(|lines| lines.iter().any(|line| line.contains(part)));
    };
    let mut command = binary();
    command.envs(variables().into_iter().map(|name| (name, "")));
    command.args(["--listen", "127.0.0.1:0"]).env("CREDENTIALS_DIRECTORY", "");
    let server = Server::launch(command, 1);
    server.signal("HUP");
    has(&server, "settings reloaded");

    let file = SecretFile::with(&["BUDDYLINE_MAX_JOINS=5", "BUDDYLINE_LOG_LEVEL=debug"]);
    let server = Server::start(&["--env-file", file.path()]);
    let all: Vec<String> = variables().iter().map(|name| format!("{name}=")).collect();
    fs::write(file.path(), all.join("\n")).unwrap();
    server.signal("HUP");
    has(&server, "settings reloaded");
    let log = server.log().join("\n");
    assert!(!log.contains("at the next start"), "{log}");
}

#[test]
fn help_names_a_variable_that_is_empty() {
    let output = binary().arg("--help").env("BUDDYLINE_LISTEN", "").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("BUDDYLINE_LISTEN"), "{text}");
}

//! The command line: the server without a subcommand, or one of the tools.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{FalseyValueParser, Resettable, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::env_file::{self, EnvFile};
use crate::config::health_url::HealthUrl;
use crate::config::public_url::PublicUrl;
use crate::config::{self, Config, secrets};
use crate::load;

/// Real-time messages, presence, typing and call signalling for a BuddyBoss community.
///
/// Without --buddyboss-url the server uses an embedded stand-in that keeps threads and messages
/// in memory: open the printed address in two browser tabs.
#[derive(Parser, Debug)]
#[command(
    name = "buddyline",
    version,
    about,
    max_term_width = 100,
    next_line_help = true,
    args_conflicts_with_subcommands = true,
    subcommand_help_heading = "Tools"
)]
pub struct Cli {
    /// The settings of the server.
    #[command(flatten)]
    pub config: Config,

    /// The tool to run instead of the server.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The tools of this binary.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Check the settings of the server and the files that they name, without starting it.
    ///
    /// The check makes no network requests, so it can run as ExecStartPre. Exit code 0 if the
    /// server can start, perhaps with warnings; 1 if it cannot; 2 for a bad setting.
    CheckConfig {
        /// The settings.
        #[command(flatten)]
        config: Box<Config>,
    },
    /// Load-test your own server with many clients and report latency, losses and resource use.
    Bench {
        /// The load to produce.
        #[command(flatten)]
        options: load::Options,
    },
    /// Check everything that the server depends on: the site, a token, this machine, the proxy.
    ///
    /// Each finding is ok, a warning or failed, with a remedy, or skipped if it was not checked.
    /// The checks change nothing at the site. Exit code 0 if no check failed, perhaps with
    /// warnings; 1 if one failed; 2 for a bad setting.
    Doctor {
        /// The settings of the server.
        #[command(flatten)]
        config: Box<Config>,
        /// Further checks.
        #[command(flatten)]
        options: DoctorOptions,
    },
    /// Ask a running server whether it works, for health checks of images without curl.
    ///
    /// Without --url, the server of these settings is asked on this machine. Prints one line. Exit
    /// code 0 if the answer is 200, 1 if it is not or none comes, 2 for a bad setting.
    Health {
        /// The settings of the server.
        #[command(flatten)]
        config: Box<Config>,
        /// The address to ask.
        #[command(flatten)]
        options: HealthOptions,
    },
}

/// Options of the health check alone.
#[derive(Args, Debug)]
#[command(next_help_heading = "Health check")]
pub struct HealthOptions {
    /// URL to ask, such as http://127.0.0.1:8080/healthz, or a Unix socket as unix:PATH. If it is
    /// not set, /healthz at the first address of --listen. Certificates are not verified.
    #[arg(long, value_name = "URL", value_parser = HealthUrl::parse)]
    pub url: Option<HealthUrl>,

    /// Ask /readyz instead of /healthz: fails as well while the site is unavailable or the server
    /// drains.
    #[arg(long)]
    pub ready: bool,

    /// Time limit of the check, 100ms to 1m.
    #[arg(long, value_name = "TIME", default_value = "3s",
          value_parser = |s: &str| config::parse_duration(s, "100ms", "1m"))]
    pub within: Duration,
}

/// Options of the doctor alone.
#[derive(Args, Debug)]
#[command(next_help_heading = "Doctor")]
pub struct DoctorOptions {
    /// File with a member's token to test: the doctor looks up its user and one of the user's
    /// threads. Without a file, BUDDYLINE_DOCTOR_TOKEN may hold the token itself.
    #[arg(long, value_name = "PATH")]
    pub token_file: Option<PathBuf>,

    /// URL at which apps reach the server through its proxy, such as wss://community.example/live:
    /// the doctor opens a WebSocket there. The server should be running.
    #[arg(long, value_name = "URL", value_parser = PublicUrl::parse)]
    pub public_url: Option<PublicUrl>,

    /// Time limit for all checks together, 5s to 5m.
    #[arg(long, value_name = "TIME", default_value = "25s",
          value_parser = |s: &str| config::parse_duration(s, "5s", "5m"))]
    pub within: Duration,

    /// Print one JSON object: findings with name, status, seen and remedy, and a summary.
    #[arg(long)]
    pub json: bool,
}

impl Cli {
    /// Reads the arguments, the first of which is the program's name, and the settings file that
    /// they or the environment name. With a file, settings in the environment are ignored.
    ///
    /// # Errors
    ///
    /// Returns the error text for the user; also the output of `--help` and `--version`.
    pub fn read(arguments: &[OsString]) -> Result<Cli, clap::Error> {
        let Some(name) = find_env_file(arguments) else {
            let parsed = without_empty_variables(Cli::command()).try_get_matches_from(arguments);
            return match parsed {
                Ok(matches) => Cli::from_arg_matches(&matches),
                // The help text names all variables.
                Err(fault) if !fault.use_stderr() => Cli::try_parse_from(arguments),
                Err(fault) => Err(fault),
            };
        };
        let refuse = |fault: String| Cli::command().error(ErrorKind::ValueValidation, fault);
        let file = EnvFile::read(&name).map_err(refuse)?;
        let place = format!("{} {}", env_file::FLAG, Path::new(&name).display());
        let settings = Config::command();
        if let Some(unknown) = file.names().find(|name| !is_known(&settings, name)) {
            return Err(refuse(format!("{place}: {unknown} is not a known setting")));
        }
        let mut command = without_environment(Cli::command(), &settings);
        let tool = arguments.get(1).and_then(|first| command.find_subcommand(first));
        let options_start = if tool.is_some() { 2 } else { 1 };
        let accepts =
            |id| tool.is_none_or(|tool| tool.get_arguments().any(|own| own.get_id() == id));
        let from_file = settings
            .get_arguments()
            .filter(|setting| accepts(setting.get_id()))
            .filter_map(|setting| argument_from_file(setting, &file, arguments));
        let from_file: Vec<OsString> = from_file.collect();
        let mut all: Vec<OsString> = arguments.iter().take(options_start).cloned().collect();
        all.extend(from_file);
        all.extend(arguments.iter().skip(options_start).cloned());
        let matches =
            command.try_get_matches_from_mut(all).map_err(|fault| match fault.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => fault,
                // The bad value may be in the file.
                _ => refuse(format!(
                    "{}\n(settings from {place} are included)",
                    without_advice(&fault)
                )),
            })?;
        Cli::from_arg_matches(&matches)
    }
}

/// Returns the error message without the usage and help hints around it.
pub fn without_advice(fault: &clap::Error) -> String {
    let text = fault.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    text.split("\n\n").next().unwrap_or_default().to_owned()
}

/// Finds the path of the settings file, in a flag or in the environment.
fn find_env_file(arguments: &[OsString]) -> Option<OsString> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == env_file::FLAG {
            return rest.next().cloned();
        }
        let text = argument.to_str().and_then(|text| text.strip_prefix(env_file::FLAG));
        if let Some(name) = text.and_then(|text| text.strip_prefix('=')) {
            return Some(name.into());
        }
    }
    std::env::var_os(env_file::VARIABLE).filter(|name| !name.is_empty())
}

/// Makes the command ignore empty environment variables: Compose files and unit files set those for
/// settings without a value.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let ignore_empty = |argument: Arg| {
        let value = argument.get_env().and_then(std::env::var_os);
        match value.is_some_and(|value| value.is_empty()) {
            true => argument.env(Resettable::Reset),
            false => argument,
        }
    };
    command.mut_args(ignore_empty).mut_subcommands(|tool| tool.mut_args(ignore_empty))
}

/// Makes the command ignore environment variables for all settings except the settings file.
fn without_environment(command: clap::Command, settings: &clap::Command) -> clap::Command {
    let ignore_env = |argument: Arg| {
        let id = argument.get_id();
        let is_setting = settings.get_arguments().any(|setting| setting.get_id() == id);
        match is_setting && id != "env_file" {
            true => argument.env(Resettable::Reset),
            false => argument,
        }
    };
    command.mut_args(ignore_env).mut_subcommands(|tool| tool.mut_args(ignore_env))
}

/// Whether a variable is one of the server's settings, or has another program's prefix.
fn is_known(settings: &clap::Command, name: &str) -> bool {
    !name.starts_with("BUDDYLINE_")
        || [secrets::JWT, secrets::TURN, secrets::SITE_PASSWORD]
            .iter()
            .any(|secret| name == secret.variable)
        || settings.get_arguments().any(|setting| setting.get_env() == Some(OsStr::new(name)))
}

/// Returns the file's value of a setting as an argument; `None` if the file has none or the command
/// line sets it.
fn argument_from_file(setting: &Arg, file: &EnvFile, arguments: &[OsString]) -> Option<OsString> {
    let value = file.get(setting.get_env()?.to_str()?).filter(|value| !value.is_empty())?;
    let flag = format!("--{}", setting.get_long()?);
    let sets_it = |argument: &OsString| {
        let rest = argument.to_str().and_then(|text| text.strip_prefix(&flag));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    if arguments.iter().any(sets_it) || flag == env_file::FLAG {
        return None;
    }
    match setting.get_action() {
        // Any value but 0, no, off, false and the like turns a switch on.
        ArgAction::SetTrue => {
            let on = FalseyValueParser::new().parse_ref(&Config::command(), None, value.as_ref());
            on.unwrap_or(true).then(|| flag.into())
        }
        _ => Some(format!("{flag}={value}").into()),
    }
}

//! The command line: the server, which is what the name alone starts, and the tools beside it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{FalseyValueParser, Resettable, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::env_file::{self, EnvFile};
use crate::config::public_url::PublicUrl;
use crate::config::{self, Config, secrets};
use crate::load;

/// Real-time messages, presence, typing and call signalling for a BuddyBoss community.
///
/// Without --buddyboss-url the server runs on an embedded stand-in that keeps threads and
/// messages in memory: open the printed address in two browser tabs.
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
    /// What the server is started with.
    #[command(flatten)]
    pub config: Config,

    /// Instead of the server.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What this binary does besides serving.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Check the settings that the server would start with, and the files that they name.
    ///
    /// Nothing is asked over the network: it is made for ExecStartPre. Exit code 0 when the server
    /// can start, perhaps with warnings; 1 when it cannot; 2 for a bad setting.
    CheckConfig {
        /// The settings.
        #[command(flatten)]
        config: Box<Config>,
    },
    /// Load a server of one's own with many clients, and tell how it bears them.
    Bench {
        /// What is measured.
        #[command(flatten)]
        options: load::Options,
    },
    /// Look whether all that the server needs is there: the site, a token, this machine, the proxy.
    ///
    /// Each line is ok, a warning or failed, with what to do about it, or skipped: not looked at.
    /// Nothing at the site changes. Exit code 0 when nothing has failed, perhaps with warnings; 1
    /// when something has; 2 for a bad setting.
    Doctor {
        /// The settings that the server is started with.
        #[command(flatten)]
        config: Box<Config>,
        /// What else to look at.
        #[command(flatten)]
        options: DoctorOptions,
    },
}

/// What only the doctor is told.
#[derive(Args, Debug)]
#[command(next_help_heading = "Doctor")]
pub struct DoctorOptions {
    /// File with a member's token, to be tried: whose it is, and one of its threads. Without a
    /// file, BUDDYLINE_DOCTOR_TOKEN may hold the token itself.
    #[arg(long, value_name = "PATH")]
    pub token_file: Option<PathBuf>,

    /// Where apps reach the server through its proxy, such as wss://community.example/live: whether
    /// a WebSocket opens there. The server should be running.
    #[arg(long, value_name = "URL", value_parser = PublicUrl::parse)]
    pub public_url: Option<PublicUrl>,

    /// Longest time for all of it, 5s to 5m.
    #[arg(long, value_name = "TIME", default_value = "25s",
          value_parser = |s: &str| config::parse_duration(s, "5s", "5m"))]
    pub within: Duration,

    /// Write one JSON object: findings with name, status, seen and remedy, and a summary.
    #[arg(long)]
    pub json: bool,
}

impl Cli {
    /// Reads the arguments, the first of which is the program's name, and the file of settings
    /// that they or the environment name. With a file, the environment has no settings.
    ///
    /// # Errors
    ///
    /// What is wrong and what is expected; also what `--help` and `--version` say.
    pub fn read(arguments: &[OsString]) -> Result<Cli, clap::Error> {
        let Some(name) = find_env_file(arguments) else {
            return Cli::try_parse_from(arguments);
        };
        let refuse = |fault: String| Cli::command().error(ErrorKind::ValueValidation, fault);
        let file = EnvFile::read(&name).map_err(refuse)?;
        let place = format!("{} {}", env_file::FLAG, Path::new(&name).display());
        let settings = Config::command();
        if let Some(unknown) = file.names().find(|name| !is_known(&settings, name)) {
            return Err(refuse(format!("{place}: {unknown} is no setting")));
        }
        let mut command = without_environment(Cli::command(), &settings);
        let tool = arguments.get(1).and_then(|first| command.find_subcommand(first));
        let begins = if tool.is_some() { 2 } else { 1 };
        let takes = |id| tool.is_none_or(|tool| tool.get_arguments().any(|own| own.get_id() == id));
        let from_file = settings
            .get_arguments()
            .filter(|setting| takes(setting.get_id()))
            .filter_map(|setting| argument_from_file(setting, &file, arguments));
        let from_file: Vec<OsString> = from_file.collect();
        let mut all: Vec<OsString> = arguments.iter().take(begins).cloned().collect();
        all.extend(from_file);
        all.extend(arguments.iter().skip(begins).cloned());
        let matches =
            command.try_get_matches_from_mut(all).map_err(|fault| match fault.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => fault,
                // The value may stand in the file.
                _ => refuse(format!("{}\n({place} is read as well)", without_advice(&fault))),
            })?;
        Cli::from_arg_matches(&matches)
    }
}

/// What is wrong, without the advice around it.
pub fn without_advice(fault: &clap::Error) -> String {
    let text = fault.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    text.split("\n\n").next().unwrap_or_default().to_owned()
}

/// The file that is named, by a flag or by the environment.
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

/// The command, for whose settings the environment is empty but for the file's name.
fn without_environment(command: clap::Command, settings: &clap::Command) -> clap::Command {
    let forget = |argument: Arg| {
        let id = argument.get_id();
        let is_setting = settings.get_arguments().any(|setting| setting.get_id() == id);
        match is_setting && id != "env_file" {
            true => argument.env(Resettable::Reset),
            false => argument,
        }
    };
    command.mut_args(forget).mut_subcommands(|tool| tool.mut_args(forget))
}

/// Whether a variable is one of the server's, or none of its business.
fn is_known(settings: &clap::Command, name: &str) -> bool {
    !name.starts_with("BUDDYLINE_")
        || [secrets::JWT, secrets::TURN].iter().any(|secret| name == secret.variable)
        || settings.get_arguments().any(|setting| setting.get_env() == Some(OsStr::new(name)))
}

/// What the file says of a setting, as an argument; `None` where it says nothing or the command
/// line says it already.
fn argument_from_file(setting: &Arg, file: &EnvFile, arguments: &[OsString]) -> Option<OsString> {
    let value = file.get(setting.get_env()?.to_str()?).filter(|value| !value.is_empty())?;
    let flag = format!("--{}", setting.get_long()?);
    let says = |argument: &OsString| {
        let rest = argument.to_str().and_then(|text| text.strip_prefix(&flag));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    if arguments.iter().any(says) || flag == env_file::FLAG {
        return None;
    }
    match setting.get_action() {
        // A switch is on, but for words such as 0, no, off and false.
        ArgAction::SetTrue => {
            let on = FalseyValueParser::new().parse_ref(&Config::command(), None, value.as_ref());
            on.unwrap_or(true).then(|| flag.into())
        }
        _ => Some(format!("{flag}={value}").into()),
    }
}

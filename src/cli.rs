//! The command line: the server, which is what the name alone starts, and the tools beside it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::config::public_url::PublicUrl;

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
        config: Config,
    },

    /// Look whether all that the server needs is there: the site, a token, this machine, the proxy.
    ///
    /// Each line is ok, a warning or failed, with what to do about it, or skipped: not looked at.
    /// Nothing at the site changes. Exit code 0 when nothing has failed, perhaps with warnings; 1
    /// when something has; 2 for a bad setting.
    Doctor {
        /// The settings that the server is started with.
        #[command(flatten)]
        config: Config,
        /// What else to look at.
        #[command(flatten)]
        options: DoctorOptions,
    },
}

/// What only the doctor is told.
#[derive(Args, Debug)]
#[command(next_help_heading = "Doctor")]
pub struct DoctorOptions {
    /// File with a member's token, to be tried: whose it is, and one of its threads. Without a file,
    /// BUDDYLINE_DOCTOR_TOKEN may hold the token itself.
    #[arg(long, value_name = "PATH")]
    pub token_file: Option<PathBuf>,

    /// Where apps reach the server through its proxy, such as wss://community.example/live: whether
    /// a WebSocket opens there. The server should be running.
    #[arg(long, value_name = "URL", value_parser = PublicUrl::parse)]
    pub public_url: Option<PublicUrl>,

    /// Longest time for all of it, 5s to 5m.
    #[arg(long, value_name = "TIME", default_value = "25s", value_parser = within)]
    pub within: Duration,

    /// Write one JSON object: findings with name, status, seen and remedy, and a summary.
    #[arg(long)]
    pub json: bool,
}

fn within(text: &str) -> Result<Duration, String> {
    let allowed = "expected a time from 5s to 5m, such as 25s or 1m";
    let time = humantime::parse_duration(text).map_err(|fault| format!("{allowed} ({fault})"))?;
    let fits = (Duration::from_secs(5)..=Duration::from_secs(300)).contains(&time);
    if fits { Ok(time) } else { Err(allowed.to_owned()) }
}

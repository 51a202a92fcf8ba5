//! The command line: the server, which is what the name alone starts, and the tools beside it.

use clap::{Parser, Subcommand};

use crate::config::Config;

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
    CheckConfig {
        /// The settings.
        #[command(flatten)]
        config: Config,
    },
}

//! Writes the manual pages and the completions of the shells into a folder, from the command line
//! itself: `cargo run --example manual -- FOLDER`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::{env, io};

use buddyline::cli::Cli;
use clap::CommandFactory;
use clap_complete::Shell;

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("expected is a folder to write to"))?;
    fs::create_dir_all(&folder)?;
    let mut command = Cli::command();
    // One page for each tool, such as buddyline-check-config.1.
    clap_mangen::generate_to(command.clone(), &folder)?;
    for (shell, name) in [
        (Shell::Bash, "buddyline.bash"),
        (Shell::Zsh, "_buddyline"),
        (Shell::Fish, "buddyline.fish"),
    ] {
        let mut file = File::create(folder.join(name))?;
        clap_complete::generate(shell, &mut command, "buddyline", &mut file);
    }
    Ok(())
}

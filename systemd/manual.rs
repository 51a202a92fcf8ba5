//! Writes what a package brings along besides the binary, all of it made from the flags: the man
//! pages, completions for three shells, and a file with every setting commented out.
//!
//! `cargo run --example manual -- FOLDER`

use std::path::Path;
use std::{env, fs, io};

use buddyline::cli::Cli;
use buddyline::config::Config;
use clap::CommandFactory;
use clap_complete::{Shell, generate_to};

fn main() -> io::Result<()> {
    let Some(folder) = env::args_os().nth(1) else {
        return Err(io::Error::other("expected is the folder to write into"));
    };
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut Cli::command(), "buddyline", folder)?;
    }
    fs::write(folder.join("buddyline.env"), settings())
}

/// The settings in the format of `EnvironmentFile=`, each with its sentence and its default.
fn settings() -> String {
    let mut text = String::from(
        "# Settings of buddyline. After a change: systemctl reload buddyline; what holds from the\n\
         # start only is named in the log. `buddyline check-config` looks at them before. No secrets\n\
         # here: the JWT secret stands in /etc/buddyline/jwt-secret, which only root can read, and the\n\
         # TURN secret in /etc/buddyline/turn-secret.\n",
    );
    for setting in Config::command().get_arguments() {
        let Some(variable) = setting.get_env().and_then(|name| name.to_str()) else { continue };
        if variable == "BUDDYLINE_ENV_FILE" {
            continue;
        }
        text.push('\n');
        let help = setting.get_help().map(ToString::to_string).unwrap_or_default();
        for line in wrapped(&help, 96) {
            text.push_str(&format!("# {line}\n"));
        }
        let default = setting.get_default_values().first().and_then(|value| value.to_str());
        text.push_str(&format!("#{variable}={}\n", default.unwrap_or_default()));
    }
    text
}

/// Words in lines of at most so many characters.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

//! Generates the package's man pages, completions for three shells and the settings file, in which
//! every setting is commented out, from the definition of the flags.
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
        return Err(io::Error::other("expected the folder to write into"));
    };
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut Cli::command(), "buddyline", folder)?;
    }
    fs::write(folder.join("buddyline.env"), settings())
}

/// Returns the settings in the format of `EnvironmentFile=`, each with its help text and default.
fn settings() -> String {
    let mut text = String::from(
        "# Settings of buddyline. After a change, run `systemctl reload buddyline`; the log names the\n\
         # settings that need a restart. Run `buddyline check-config` first to check them. Put no\n\
         # secrets here: the JWT secret belongs into /etc/buddyline/jwt-secret, which only root can\n\
         # read, the secret of the site's plugin into /etc/buddyline/site-secret, and the TURN secret\n\
         # into /etc/buddyline/turn-secret.\n",
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

/// Wraps a text into lines of at most `width` bytes.
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

//! The environment file (`--env-file`): settings as `NAME=value` lines, read by the server itself.
//!
//! The environment of a running process cannot be changed from outside; this file can, and a reload
//! reads it again. Its format is a subset of systemd's `EnvironmentFile=`: one `NAME=value` per
//! line, optionally in quotes; lines that begin with `#` or `;` are comments.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::{Config, files};

/// The environment variable that names the file.
pub const VARIABLE: &str = "BUDDYLINE_ENV_FILE";
/// The flag that names the file.
pub const FLAG: &str = "--env-file";

/// Maximum size of the file, far more than all settings need.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// The settings in the file, by the name of their variable. `Debug` prints no values, because one
/// may be a secret.
#[derive(Default)]
pub struct EnvFile {
    values: BTreeMap<String, Zeroizing<String>>,
}

impl EnvFile {
    /// Reads a file. If its name begins with `-`, as in a systemd unit, the file is optional.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or a line is not a setting. The message has the name of the file
    /// and the number of the line, never its content.
    pub fn read(name: &OsStr) -> Result<EnvFile, String> {
        let (optional, path) = match name.as_bytes().strip_prefix(b"-") {
            Some(path) => (true, Path::new(OsStr::from_bytes(path))),
            None => (false, Path::new(name)),
        };
        let place = format!("{FLAG} {}", path.display());
        let read = || {
            // The full capacity: a reallocation would leave a copy of the secret in memory.
            let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize + 1));
            files::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
            match text.len() as u64 > FILE_BYTES_MAX {
                true => Err(io::Error::other("it is too large for a file of settings")),
                false => Ok(text),
            }
        };
        match read() {
            Ok(text) => EnvFile::parse(&text).map_err(|fault| format!("{place}, {fault}")),
            Err(fault) if optional && fault.kind() == io::ErrorKind::NotFound => {
                Ok(EnvFile::default())
            }
            Err(fault) => Err(format!("{place}: it cannot be read: {fault}")),
        }
    }

    /// Parses the text of a file. If several lines have the same name, the last one counts.
    ///
    /// # Errors
    ///
    /// The number of the line that is not a setting, and what is wrong with it.
    pub fn parse(text: &str) -> Result<EnvFile, String> {
        let mut values = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let fault = |what: &str| format!("line {}: {what}", number + 1);
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let (name, value) = line.split_once('=').ok_or_else(|| fault("expected NAME=value"))?;
            let name = name.trim_end();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(fault("the name before = may have letters, digits and _ only"));
            }
            let value = unquote(value.trim_start()).map_err(fault)?;
            values.insert(name.to_owned(), Zeroizing::new(value.to_owned()));
        }
        Ok(EnvFile { values })
    }

    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|value| value.as_str())
    }

    /// Returns the names of the variables in the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Returns the value of a variable in the type that `std::env::var_os` returns.
    pub(super) fn get_os(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }
}

impl Config {
    /// Returns a variable that has no flag, from the environment file if there is one, else from
    /// the environment; `None` if it is empty.
    pub(super) fn variable(&self, name: &str) -> Result<Option<OsString>, String> {
        let value = match &self.env_file {
            Some(file) => EnvFile::read(file)?.get_os(name),
            None => std::env::var_os(name),
        };
        Ok(value.filter(|value| !value.is_empty()))
    }
}

/// Removes the quotes around a value. Refuses values that systemd would read differently.
fn unquote(value: &str) -> Result<&str, &'static str> {
    let Some(quote) = value.chars().next().filter(|first| matches!(first, '"' | '\'')) else {
        return match value.ends_with('\\') {
            true => Err("a line must not continue on the next line (\\ at its end)"),
            false => Ok(value),
        };
    };
    let inside = value[1..]
        .strip_suffix(quote)
        .ok_or("the quote at the start of the value is not closed")?;
    match inside.contains([quote, '\\']) {
        true => Err("a quoted value must not contain a backslash or its own quote"),
        false => Ok(inside),
    }
}

impl std::fmt::Debug for EnvFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_file_is_parsed_like_systemd() {
        let text = "# a comment\n; another\n\nBUDDYLINE_LISTEN=127.0.0.1:80\n\
                    BUDDYLINE_A = \"two words\"  \nBUDDYLINE_B='#'\nBUDDYLINE_C=\nBUDDYLINE_C=last\n\
                    BUDDYLINE_D=a=b # c\r\n";
        let file = EnvFile::parse(text).unwrap();
        for (name, value) in [
            ("BUDDYLINE_LISTEN", "127.0.0.1:80"),
            ("BUDDYLINE_A", "two words"),
            ("BUDDYLINE_B", "#"),
            ("BUDDYLINE_C", "last"),
            ("BUDDYLINE_D", "a=b # c"),
        ] {
            assert_eq!(file.get(name), Some(value), "{name}");
        }
        assert_eq!(file.names().count(), 5);
    }

    #[test]
    fn ambiguous_env_file_lines_are_refused_without_echo() {
        for line in ["s3cret", "=s3cret", "A B=s3cret", "A='s3cret", "A=s3cret\\", "A=\"s3\"cret\""]
        {
            let fault = EnvFile::parse(&format!("A=1\n{line}\n")).unwrap_err();
            assert!(fault.starts_with("line 2: ") && !fault.contains("s3"), "{fault}");
        }
        let file = EnvFile::parse("BUDDYLINE_JWT_SECRET=s3cret").unwrap();
        assert!(!format!("{file:?}").contains("s3cret"));
    }

    #[test]
    fn missing_file_is_allowed_only_if_optional() {
        assert!(EnvFile::read(OsStr::new("-/nowhere/at all")).unwrap().names().next().is_none());
        let fault = EnvFile::read(OsStr::new("/nowhere/at all")).unwrap_err();
        assert!(fault.contains("/nowhere/at all"), "{fault}");
    }
}

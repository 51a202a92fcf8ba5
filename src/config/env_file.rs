//! A file of settings: the environment of a service, read by the server itself.
//!
//! The environment of a process cannot be changed from outside, and this file can: it is what a
//! reload reads anew. Its format is that of systemd's `EnvironmentFile=`, of which it takes what
//! settings need: `NAME=value`, one a line, perhaps in quotes; `#` and `;` begin remarks.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::{Config, files};

/// The environment variable that names the file.
pub const VARIABLE: &str = "BUDDYLINE_ENV_FILE";
/// The flag that does.
pub const FLAG: &str = "--env-file";

/// Far more than all settings have.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Settings by the name of their variable. One of them may be a secret: it does not print.
#[derive(Default)]
pub struct EnvFile {
    values: BTreeMap<String, Zeroizing<String>>,
}

impl EnvFile {
    /// Reads a file. Where a `-` stands before its name, as in a unit, it need not exist.
    ///
    /// # Errors
    ///
    /// It cannot be read, or a line is no setting: its name and the number of the line, and never
    /// what stands there.
    pub fn read(name: &OsStr) -> Result<EnvFile, String> {
        let (optional, path) = match name.as_bytes().strip_prefix(b"-") {
            Some(path) => (true, Path::new(OsStr::from_bytes(path))),
            None => (false, Path::new(name)),
        };
        let place = format!("{FLAG} {}", path.display());
        let read = || {
            // Room for all of it, so that the text never moves and leaves a copy behind.
            let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize + 1));
            files::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
            match text.len() as u64 > FILE_BYTES_MAX {
                true => Err(io::Error::other("it is too long for a file of settings")),
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

    /// Reads the text of a file. The last of several lines with the same name counts.
    ///
    /// # Errors
    ///
    /// The number of the line that is no setting, and what is wrong with it.
    pub fn parse(text: &str) -> Result<EnvFile, String> {
        let mut values = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let fault = |what: &str| format!("line {}: {what}", number + 1);
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let (name, value) =
                line.split_once('=').ok_or_else(|| fault("expected is NAME=value"))?;
            let name = name.trim_end();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(fault("the name before = has letters, digits and _ only"));
            }
            let value = unquote(value.trim_start()).map_err(fault)?;
            values.insert(name.to_owned(), Zeroizing::new(value.to_owned()));
        }
        Ok(EnvFile { values })
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|value| value.as_str())
    }

    /// The variables that are set.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The value of a variable as the environment has it.
    pub(super) fn get_os(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }
}

impl Config {
    /// A variable that is no setting, from where the settings come from.
    pub(super) fn variable(&self, name: &str) -> Result<Option<OsString>, String> {
        match &self.env_file {
            Some(file) => Ok(EnvFile::read(file)?.get_os(name)),
            None => Ok(std::env::var_os(name)),
        }
    }
}

/// A value without its quotes. What systemd would read in another way is refused instead.
fn unquote(value: &str) -> Result<&str, &'static str> {
    let Some(quote) = value.chars().next().filter(|first| matches!(first, '"' | '\'')) else {
        return match value.ends_with('\\') {
            true => Err("a line that goes on in the next one is not understood"),
            false => Ok(value),
        };
    };
    let inside = value[1..].strip_suffix(quote).ok_or("the quote at its begin has no end")?;
    match inside.contains([quote, '\\']) {
        true => Err("a backslash or a quote within quotes is not understood"),
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
        let text = "# a remark\n; another\n\nBUDDYLINE_LISTEN=127.0.0.1:80\n\
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

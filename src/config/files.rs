//! The files that settings name. They are read at a reload as well, by the loop's own thread.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::Config;
use super::ice::TurnSecret;
use super::secrets::JwtKeys;
use super::tls::TlsIdentity;

/// What is no part of the settings themselves: it stands in files of its own, or is not to be
/// printed.
#[derive(Debug)]
pub struct Secrets {
    /// The site's JWT secret; `None` where it is not set.
    pub keys: Option<JwtKeys>,
    /// The secret of the TURN servers; `None` where there are none.
    pub turn: Option<TurnSecret>,
    /// What the server proves itself with; `None` where it does not speak TLS.
    pub identity: Option<TlsIdentity>,
    /// What an operator should be warned of.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads all of it, once.
    ///
    /// # Errors
    ///
    /// As [`Config::jwt_keys`], [`Config::turn_secret`] and [`Config::tls`].
    pub fn load_secrets(&self) -> Result<Secrets, String> {
        let mut warnings = Vec::new();
        let keys = collect_warnings(self.jwt_keys_with_warnings()?, &mut warnings);
        let turn = collect_warnings(self.turn_secret_with_warnings()?, &mut warnings);
        warnings.extend(turn.as_ref().and_then(|_| self.open_relay_warning()));
        let identity = collect_warnings(self.tls_with_warnings()?, &mut warnings);
        Ok(Secrets { keys, turn, identity, warnings })
    }
}

fn collect_warnings<T>(read: Option<(T, Vec<String>)>, warnings: &mut Vec<String>) -> Option<T> {
    let (read, others) = read?;
    warnings.extend(others);
    Some(read)
}

/// Opens a file that can be read to its end, and again: a pipe would be waited for, and a device
/// may have no end.
///
/// # Errors
///
/// It cannot be opened, or is something else.
pub(super) fn open(path: &Path) -> io::Result<File> {
    match fs::metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(io::Error::other("it is no regular file, which a reload could read again")),
    }
}

//! Reads the files that settings name: secrets, and the TLS certificate.
//!
//! The event loop's thread reads them again at a reload.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Config;
use super::ice::TurnSecret;
use super::secrets::JwtKeys;
use super::site_password::SitePassword;
use super::site_secret::SiteSecret;
use super::site_trust::SiteTrust;
use super::tls::TlsIdentity;

/// Secrets and certificates, kept apart from [`Config`], which may be printed.
#[derive(Debug)]
pub struct Secrets {
    /// The keys of the site's tokens, if set.
    pub keys: Option<JwtKeys>,
    /// The login and password of the site's web server, if set.
    pub site_password: Option<SitePassword>,
    /// The secret shared with the site's plugin, if set.
    pub site_secret: Option<SiteSecret>,
    /// The secret shared with the TURN servers, if there are any.
    pub turn: Option<TurnSecret>,
    /// The certificate and the private key of the server; `None` without TLS.
    pub identity: Option<TlsIdentity>,
    /// The certificate authorities for the site's certificate.
    pub site_trust: SiteTrust,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads all secrets and certificates once.
    ///
    /// # Errors
    ///
    /// As [`Config::jwt_keys`], [`Config::site_password`], [`Config::site_secret`],
    /// [`Config::turn_secret`], [`Config::tls`] and [`Config::site_trust`].
    pub fn load_secrets(&self) -> Result<Secrets, String> {
        let mut warnings = Vec::new();
        let keys = collect_warnings(self.jwt_keys_with_warnings()?, &mut warnings);
        let site_password = collect_warnings(self.site_password_with_warnings()?, &mut warnings);
        let site_secret = collect_warnings(self.site_secret_with_warnings()?, &mut warnings);
        let turn = collect_warnings(self.turn_secret_with_warnings()?, &mut warnings);
        warnings.extend(turn.as_ref().and_then(|_| self.open_relay_warning()));
        let identity = collect_warnings(self.tls_with_warnings()?, &mut warnings);
        Ok(Secrets {
            keys,
            site_password,
            site_secret,
            turn,
            identity,
            site_trust: self.site_trust()?,
            warnings,
        })
    }
}

fn collect_warnings<T>(read: Option<(T, Vec<String>)>, warnings: &mut Vec<String>) -> Option<T> {
    let (read, others) = read?;
    warnings.extend(others);
    Some(read)
}

/// Returns the directory of systemd credentials (`LoadCredential=` in the unit), if there is one.
pub(super) fn credentials_dir() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Opens a regular file. A pipe could block the event loop, and a device may have no end.
///
/// # Errors
///
/// The file cannot be opened, or is not a regular file.
pub(super) fn open(path: &Path) -> io::Result<File> {
    match fs::metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

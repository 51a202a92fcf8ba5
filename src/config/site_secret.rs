//! The secret that the server shares with the site's plugin (`--site-secret-file`).

use std::fmt;

use zeroize::Zeroizing;

use super::secrets::{self, SecretLines, SecretSources};
use super::{Config, log_warnings};

/// The shortest and the longest secret, in bytes.
const BYTES: std::ops::RangeInclusive<usize> = 32..=512;

/// One secret, or two while the site changes it: the first signs, and both verify.
#[derive(Clone, PartialEq, Eq)]
pub struct SiteSecret {
    lines: SecretLines,
}

impl fmt::Debug for SiteSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteSecret({})", self.lines.len())
    }
}

impl SiteSecret {
    /// Checks the lines of a file. White space around a secret is not part of it, as in the plugin.
    ///
    /// # Errors
    ///
    /// A message that says what is wrong, without the text.
    pub(super) fn from_lines(lines: SecretLines) -> Result<SiteSecret, String> {
        let lines: SecretLines =
            lines.into_iter().map(|line| Zeroizing::new(line.trim_ascii().to_vec())).collect();
        let is_secret = |line: &Zeroizing<Vec<u8>>| {
            BYTES.contains(&line.len()) && line.iter().all(u8::is_ascii_graphic)
        };
        match lines.iter().all(is_secret) {
            true => Ok(SiteSecret { lines }),
            false => Err(format!(
                "expected {} to {} printable ASCII characters without spaces in a line: the secret \
                 that the settings page of the plugin shows",
                BYTES.start(),
                BYTES.end()
            )),
        }
    }

    /// The secrets; the first one signs.
    pub fn secrets(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().map(|line| &***line)
    }
}

impl Config {
    /// Reads the secret that the server shares with the site's plugin; `None` if none is set. Logs
    /// warnings.
    ///
    /// # Errors
    ///
    /// A message that names the source and what is wrong, without the secret.
    pub fn site_secret(&self) -> Result<Option<SiteSecret>, String> {
        Ok(self.site_secret_with_warnings()?.map(log_warnings))
    }

    /// Like [`Config::site_secret`], but returns the warnings instead of logging them.
    ///
    /// # Errors
    ///
    /// As [`Config::site_secret`].
    pub fn site_secret_with_warnings(&self) -> Result<Option<(SiteSecret, Vec<String>)>, String> {
        let names = &secrets::SITE;
        let variable = self.variable(names.variable)?;
        let file = self.site_secret_file.as_deref();
        let read = SecretSources::from_process(names, file, variable).read_lines()?;
        let Some((lines, warnings)) = read else {
            return match self.site_listen.is_empty() {
                true => Ok(None),
                false => Err(format!(
                    "--site-listen is set and {} is not: the requests of the site's plugin are \
                     verified with that secret",
                    names.flag
                )),
            };
        };
        let secret =
            SiteSecret::from_lines(lines).map_err(|why| format!("{}: {why}", names.flag))?;
        match self.buddyboss_url.is_some() {
            true => Ok(Some((secret, warnings))),
            false => Err(format!("{} is set and --buddyboss-url is not", names.flag)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(lines: &[&str]) -> Result<SiteSecret, String> {
        let lines = lines.iter().map(|line| Zeroizing::new(line.as_bytes().to_vec())).collect();
        SiteSecret::from_lines(lines)
    }

    #[test]
    fn white_space_around_a_site_secret_is_removed() {
        let (new, old) = ("n3w".repeat(20), "0ld".repeat(20));
        let read = secret(&[&format!(" {new}\t"), &old]).unwrap();
        assert!(read.secrets().eq([new.as_bytes(), old.as_bytes()]));
        assert!(!format!("{read:?}").contains("n3w"));
    }

    #[test]
    fn short_long_and_unprintable_site_secrets_are_refused() {
        for good in ["x".repeat(32), "~".repeat(512)] {
            assert!(secret(&[&good]).is_ok());
        }
        let good = "g".repeat(64);
        for bad in ["s3cret!".repeat(4), "s3cret!!".repeat(65), format!("s3cret {good}")] {
            let fault = secret(&[&good, &bad]).unwrap_err();
            assert!(fault.contains("32 to 512") && !fault.contains("s3cret"), "{fault}");
        }
        assert!(secret(&["s3crét-s3crét-s3crét-s3crét-s3crét"]).is_err());
    }
}

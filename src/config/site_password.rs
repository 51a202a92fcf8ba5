//! The login and password that the site's web server asks for (`--site-basic-auth-file`).
//!
//! They are for the web server in front of WordPress, as on a staging site, and say nothing about a
//! member.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::secrets::{self, SecretSources};
use super::{Config, log_warnings};

/// The longest login and password together, in bytes.
const BYTES_MAX: usize = 1024;

/// A login and a password, as the value of `Authorization` (RFC 7617).
#[derive(Clone, PartialEq, Eq)]
pub struct SitePassword {
    header: Zeroizing<String>,
}

impl fmt::Debug for SitePassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SitePassword(…)")
    }
}

impl SitePassword {
    /// Parses `login:password`.
    ///
    /// # Errors
    ///
    /// A message that says what is wrong, without the text.
    pub fn parse(line: &[u8]) -> Result<SitePassword, String> {
        let (login, password) = match line.iter().position(|byte| *byte == b':') {
            Some(0) => return Err("it has no login before the colon".to_owned()),
            Some(at) => (&line[..at], &line[at + 1..]),
            None => return Err("it has no colon: expected login:password".to_owned()),
        };
        if line.len() > BYTES_MAX || line.iter().any(u8::is_ascii_control) {
            return Err(format!(
                "expected at most {BYTES_MAX} bytes without control characters, as login:password"
            ));
        }
        if login.eq_ignore_ascii_case(b"authorization") {
            return Err("it is a header: expected login:password alone".to_owned());
        }
        // Lines of the file that the web server reads (htpasswd).
        if [&b"$apr1$"[..], b"$2y$", b"$2b$", b"$5$", b"$6$", b"{SHA}", b"{SSHA}"]
            .iter()
            .any(|prefix| password.starts_with(prefix))
        {
            return Err("it has the hash of a password, as a file of htpasswd does: expected the \
                        password itself"
                .to_owned());
        }
        let encoded = Zeroizing::new(STANDARD.encode(line));
        Ok(SitePassword { header: Zeroizing::new(format!("Basic {}", *encoded)) })
    }

    /// The value of `Authorization`.
    pub fn header(&self) -> &str {
        &self.header
    }
}

impl Config {
    /// Reads the site's login and password; `None` if none is set. Logs warnings.
    ///
    /// # Errors
    ///
    /// A message that names the source and what is wrong, without the secret.
    pub fn site_password(&self) -> Result<Option<SitePassword>, String> {
        Ok(self.site_password_with_warnings()?.map(log_warnings))
    }

    /// Like [`Config::site_password`], but returns the warnings instead of logging them.
    ///
    /// # Errors
    ///
    /// As [`Config::site_password`].
    pub fn site_password_with_warnings(
        &self,
    ) -> Result<Option<(SitePassword, Vec<String>)>, String> {
        let names = &secrets::SITE_PASSWORD;
        let variable = self.variable(names.variable)?;
        let file = self.site_basic_auth_file.as_deref();
        let sources = SecretSources::from_process(names, file, variable);
        let Some((lines, warnings)) = sources.read_lines()? else { return Ok(None) };
        let line = lines.first().expect("a file of secrets has a line");
        let password = SitePassword::parse(line).map_err(|why| format!("{}: {why}", names.flag))?;
        match self.buddyboss_url.is_some() {
            true => Ok(Some((password, warnings))),
            false => Err(format!("{} is set and --buddyboss-url is not", names.flag)),
        }
    }

    /// Returns what is wrong if the site's password and the tokens of members need the same header.
    pub fn site_password_conflict(&self) -> Option<&'static str> {
        self.token_header.is_authorization().then_some(CONFLICT)
    }
}

/// The problem if the tokens of members are sent in `Authorization` as well.
pub const CONFLICT: &str = "--site-basic-auth-file and the tokens of members need the same header, \
     Authorization: requests with a token go without the site's password, and its web server may \
     refuse them";

/// The remedy for [`CONFLICT`].
pub const CONFLICT_REMEDY: &str = "Let the web server ask this machine for no password (nginx: \
     satisfy any; allow ADDRESS; Apache: Require ip ADDRESS in RequireAny), or set --token-header \
     if the site's plugin reads another header.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_and_password_become_a_header() {
        for (text, encoded) in [
            ("staging:pw", "c3RhZ2luZzpwdw=="),
            ("a:b:c", "YTpiOmM="),
            ("a:", "YTo="),
            ("jörg:ü ber", "asO2cmc6w7wgYmVy"),
        ] {
            let password = SitePassword::parse(text.as_bytes()).unwrap();
            assert_eq!(password.header(), format!("Basic {encoded}"));
            assert_eq!(format!("{password:?}"), "SitePassword(…)");
        }
    }

    #[test]
    fn other_text_than_login_and_password_is_refused_without_echo() {
        let long = format!("s3cret:{}", "x".repeat(BYTES_MAX));
        for text in [
            "s3cret",
            ":s3cret",
            "s3cret:a\tb",
            "Authorization: Basic s3cret",
            "s3cret:$apr1$abc$def",
            "s3cret:$2y$10$abc",
            "s3cret:{SHA}abc",
            &long,
        ] {
            let fault = SitePassword::parse(text.as_bytes()).unwrap_err();
            assert!(!fault.contains("s3cret"), "{fault}");
        }
    }
}

//! Reads secrets: the JWT secret of the site, the secret of its plugin, the password of its web
//! server, and the secret of the TURN servers.
//!
//! A secret comes from a file, an environment variable or a systemd credential, never from an
//! argument, which every process on the machine can read. `Debug` does not print secrets, and their
//! bytes are zeroed when they are dropped.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::files;
use super::public_keys::PublicKey;

/// The names under which a secret is set.
#[derive(Debug)]
pub struct SecretNames {
    /// The flag that names the file.
    pub flag: &'static str,
    /// The environment variable that may hold the secret itself.
    pub variable: &'static str,
    /// The name of the systemd credential, a file in `$CREDENTIALS_DIRECTORY`.
    pub credential: &'static str,
    /// Maximum number of secrets: two where the old and the new one are valid during a rotation.
    secrets_max: usize,
    /// The data from which an attacker can guess a short secret; `None` if it signs nothing.
    signs: Option<&'static str>,
}

/// The site's JWT secret.
pub const JWT: SecretNames = SecretNames {
    flag: "--jwt-secret-file",
    variable: "BUDDYLINE_JWT_SECRET",
    credential: "jwt-secret",
    secrets_max: 2,
    signs: Some("any token"),
};

/// The secret shared with the site's plugin. Its shortest length is checked with the rest of it.
pub const SITE: SecretNames = SecretNames {
    flag: "--site-secret-file",
    variable: "BUDDYLINE_SITE_SECRET",
    credential: "site-secret",
    secrets_max: 2,
    signs: None,
};

/// The secret shared with the TURN servers. Only one: the server cannot know which of two a TURN
/// server uses.
pub const TURN: SecretNames = SecretNames {
    flag: "--turn-secret-file",
    variable: "BUDDYLINE_TURN_SECRET",
    credential: "turn-secret",
    secrets_max: 1,
    signs: Some("any credential that it signs"),
};

/// The login and password with which the site's web server lets requests through.
pub const SITE_PASSWORD: SecretNames = SecretNames {
    flag: "--site-basic-auth-file",
    variable: "BUDDYLINE_SITE_BASIC_AUTH",
    credential: "site-basic-auth",
    secrets_max: 1,
    signs: None,
};

/// Maximum size of a file of secrets. A larger file is not one.
const FILE_BYTES_MAX: usize = 64 << 10;
/// Minimum length that HS256 requires (RFC 7518 3.2). A shorter secret can be guessed.
const BYTES_ADVISED: usize = 32;

/// Secrets, one per line of the source; zeroed on drop.
pub(super) type SecretLines = Vec<Zeroizing<Vec<u8>>>;

/// The keys of the site's tokens: one secret, or two during a rotation, and public keys.
#[derive(Clone, Default)]
pub struct JwtKeys {
    secrets: SecretLines,
    public: Vec<PublicKey>,
}

impl JwtKeys {
    /// Parses one or two secrets, one per line. Only the line ending is removed, because secrets of
    /// WordPress contain spaces.
    ///
    /// # Errors
    ///
    /// A message that says what is wrong, without the content.
    pub fn parse(bytes: &[u8]) -> Result<JwtKeys, String> {
        let secrets = parse_lines(bytes, JWT.secrets_max)?;
        Ok(JwtKeys { secrets, public: Vec::new() })
    }

    /// Adds public keys.
    pub fn with_public(self, public: Vec<PublicKey>) -> JwtKeys {
        JwtKeys { public, ..self }
    }

    /// Returns the secrets as in `JWT_AUTH_SECRET_KEY` of the site.
    pub fn secrets(&self) -> impl Iterator<Item = &[u8]> {
        self.secrets.iter().map(|secret| &***secret)
    }

    /// Returns the public keys.
    pub fn public(&self) -> &[PublicKey] {
        &self.public
    }
}

impl fmt::Debug for JwtKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtKeys({} secrets, {} public)", self.secrets.len(), self.public.len())
    }
}

/// Splits a file into at most `secrets_max` secrets, one per line.
fn parse_lines(bytes: &[u8], secrets_max: usize) -> Result<SecretLines, String> {
    if bytes.contains(&0) || bytes.starts_with(b"\xef\xbb\xbf") || bytes.starts_with(b"\xff\xfe") {
        return Err("it begins with a byte order mark or contains zero bytes: save it as plain \
                    text in UTF-8, without a byte order mark"
            .to_owned());
    }
    if let Some(fault) = describe_other_file(bytes) {
        return Err(fault);
    }
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let lines: Vec<&[u8]> = text
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .collect();
    if lines.len() > secrets_max {
        let most = if secrets_max == 1 { "one line" } else { "two lines" };
        return Err(format!("it has more than {most}: expected one secret per line"));
    }
    if lines.iter().any(|line| line.is_empty()) {
        return Err("it is empty or has an empty line: expected one secret per line".into());
    }
    Ok(lines.into_iter().map(|line| line.to_vec().into()).collect())
}

/// Describes what a text is that holds more than the secret, or a key that is none.
///
/// A public key as the secret would let anyone sign tokens who has the key.
fn describe_other_file(bytes: &[u8]) -> Option<String> {
    const NAMES: [&str; 7] = [
        "JWT_AUTH_SECRET_KEY",
        "BUDDYLINE_SECRET",
        SITE.variable,
        JWT.variable,
        TURN.variable,
        SITE_PASSWORD.variable,
        "static-auth-secret",
    ];
    let is_php = |line: &[u8]| {
        let rest = strip_prefix_of_any_case(line, "define").map(<[u8]>::trim_ascii_start);
        rest.is_some_and(|rest| rest.starts_with(b"(")) || line.starts_with(b"<?php")
    };
    let set_name = |line: &[u8]| {
        let line = strip_prefix_of_any_case(line, "export ").unwrap_or(line).trim_ascii_start();
        NAMES.into_iter().find(|name| {
            let rest = strip_prefix_of_any_case(line, name).map(<[u8]>::trim_ascii_start);
            rest.is_some_and(|rest| rest.starts_with(b"=") || rest.starts_with(b":"))
        })
    };
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    if lines.clone().any(is_php) {
        return Some(
            "it has a line of PHP, not the secret alone: of define('NAME', 'abc'); keep abc"
                .to_owned(),
        );
    }
    if let Some(name) = lines.clone().find_map(set_name) {
        return Some(format!("it has a line {name}=…: expected the value alone, without the name"));
    }
    if lines.any(|line| line.starts_with(b"-----BEGIN ")) {
        return Some(
            "it has a key in PEM: a public key of the site belongs into --jwt-key-file, and a \
             secret is the value alone"
                .to_owned(),
        );
    }
    let is_object = bytes.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
    is_object.then(|| {
        "it has JSON: a JSON Web Key Set of the site belongs into --jwt-key-file, and a secret is \
         the value alone"
            .to_owned()
    })
}

fn strip_prefix_of_any_case<'a>(line: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    let (first, rest) = line.split_at_checked(prefix.len())?;
    first.eq_ignore_ascii_case(prefix.as_bytes()).then_some(rest)
}

/// The sources that a secret may come from.
#[derive(Debug)]
pub(super) struct SecretSources<'a> {
    names: &'static SecretNames,
    file: Option<&'a Path>,
    variable: Option<Secret>,
    /// The directory of systemd credentials (`LoadCredential=` in the unit).
    credentials_dir: Option<PathBuf>,
}

/// Bytes that `Debug` does not print.
struct Secret(Zeroizing<Vec<u8>>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<'a> SecretSources<'a> {
    /// Takes the file and the variable, if set, and the credentials directory from the environment.
    pub(super) fn from_process(
        names: &'static SecretNames,
        file: Option<&'a Path>,
        variable: Option<OsString>,
    ) -> SecretSources<'a> {
        SecretSources::new(names, file, variable, files::credentials_dir())
    }

    fn new(
        names: &'static SecretNames,
        file: Option<&'a Path>,
        variable: Option<OsString>,
        credentials_dir: Option<PathBuf>,
    ) -> Self {
        let variable = variable.map(|text| Secret(text.into_vec().into()));
        SecretSources { names, file, variable, credentials_dir }
    }

    /// Reads the JWT secrets, like [`SecretSources::read_lines`].
    pub(super) fn read(self) -> Result<Option<(JwtKeys, Vec<String>)>, String> {
        let read = self.read_lines()?;
        let keys = |secrets| JwtKeys { secrets, public: Vec::new() };
        Ok(read.map(|(secrets, warnings)| (keys(secrets), warnings)))
    }

    /// Reads the secrets, and returns them with warnings for the operator; `None` if none is set. A
    /// file or a variable takes precedence over the systemd credential.
    pub(super) fn read_lines(self) -> Result<Option<(SecretLines, Vec<String>)>, String> {
        let mut warnings = Vec::new();
        let SecretNames { flag, variable, credential, secrets_max, signs } = self.names;
        let (place, bytes) = match (self.file, self.variable) {
            (Some(_), Some(_)) => {
                return Err(format!("{flag} and {variable} are both set: set only one of them"));
            }
            (Some(path), None) => {
                let place = format!("{flag} {}", path.display());
                let bytes = read_file(path, &place, &mut warnings)?;
                (place, bytes)
            }
            (None, Some(Secret(bytes))) => ((*variable).to_owned(), bytes),
            (None, None) => {
                let path =
                    self.credentials_dir.map(|credentials_dir| credentials_dir.join(credential));
                // A credential that exists but cannot be read is an error.
                let is_there = |path: &PathBuf| path.try_exists().unwrap_or(true);
                let Some(path) = path.filter(is_there) else { return Ok(None) };
                let place = format!("the credential {}", path.display());
                let bytes = read_file(&path, &place, &mut warnings)?;
                if bytes.trim_ascii().is_empty() {
                    // The unit's default without a file (SetCredential=, systemd.exec(5)).
                    return Ok(None);
                }
                (place, bytes)
            }
        };
        let lines = parse_lines(&bytes, *secrets_max).map_err(|why| format!("{place}: {why}"))?;
        if lines.iter().any(|secret| looks_wrapped(secret)) {
            warnings.push(format!(
                "{place}: a secret begins or ends with white space or is in quotes: keep the value \
                 alone"
            ));
        }
        if let (Some(shortest), Some(signs)) = (lines.iter().map(|line| line.len()).min(), signs) {
            if shortest < BYTES_ADVISED {
                warnings.push(format!(
                    "{place}: a secret of {shortest} bytes can be guessed from {signs}: use at \
                     least {BYTES_ADVISED} bytes, on both sides"
                ));
            }
        }
        Ok(Some((lines, warnings)))
    }
}

/// Whether a secret looks as if quotes or white space around it had been copied as well.
fn looks_wrapped(secret: &[u8]) -> bool {
    let ends = secret.first().zip(secret.last());
    ends.is_some_and(|(first, last)| {
        first.is_ascii_whitespace()
            || last.is_ascii_whitespace()
            || (secret.len() > 1 && first == last && matches!(first, b'"' | b'\''))
    })
}

/// Reads a file of secrets without leaving copies of them in memory.
pub(super) fn read_file(
    path: &Path,
    place: &str,
    warnings: &mut Vec<String>,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let refuse = |why: &dyn fmt::Display| format!("{place}: it cannot be read: {why}");
    let file = files::open(path).map_err(|fault| match fault.kind() {
        // The path may be the secret itself, set in the wrong place: it is not printed.
        io::ErrorKind::NotFound if !path.is_absolute() => {
            let what = place.split(' ').next().unwrap_or_default();
            format!("{what}: there is no such file: expected a path, not the secret itself")
        }
        _ => refuse(&fault),
    })?;
    let mode = file.metadata().map_err(|fault| refuse(&fault))?.permissions().mode();
    let access = match mode & 0o006 {
        0 => None,
        0o004 => Some("read"),
        0o002 => Some("change"),
        _ => Some("read and change"),
    };
    if let Some(access) = access {
        warnings.push(format!(
            "{place}: everyone on this machine may {access} it: run chmod o-rw on it"
        ));
    }
    // Reads one byte beyond the maximum to detect a larger file. The full capacity, because a
    // reallocation would leave a copy of the secret in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * FILE_BYTES_MAX));
    let mut reader = file.take(FILE_BYTES_MAX as u64 + 1);
    reader.read_to_end(&mut bytes).map_err(|fault| refuse(&fault))?;
    match bytes.len() > FILE_BYTES_MAX {
        true => Err(format!(
            "{place}: it is larger than {FILE_BYTES_MAX} bytes, too large for a secret"
        )),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LONG: &str = "put your unique phrase here, and make it long";

    /// A directory that is removed at the end of the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path =
                std::env::temp_dir().join(format!("buddyline-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn file(&self, name: &str, mode: u32, content: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn secrets(keys: &JwtKeys) -> Vec<String> {
        keys.secrets().map(|secret| String::from_utf8_lossy(secret).into_owned()).collect()
    }

    #[test]
    fn only_the_trailing_newline_is_stripped_from_a_secret() {
        for (text, expected) in [
            ("one", vec!["one"]),
            ("one\n", vec!["one"]),
            ("one\r\n", vec!["one"]),
            (" o ne\t\n", vec![" o ne\t"]),
            ("new\nold", vec!["new", "old"]),
            ("new\r\nold\r\n", vec!["new", "old"]),
        ] {
            assert_eq!(secrets(&JwtKeys::parse(text.as_bytes()).unwrap()), expected, "{text:?}");
        }
        for text in ["", "\n", "\r\n", "one\n\n", "\none", "one\n\ntwo", "s3cret\nb\nc"] {
            let fault = JwtKeys::parse(text.as_bytes()).unwrap_err();
            assert!(!fault.contains("s3cret"), "{fault}");
        }
    }

    #[test]
    fn no_setting_means_no_secret() {
        assert!(SecretSources::new(&JWT, None, None, None).read().unwrap().is_none());
        let credentials_dir = Folder::new("nothing");
        assert!(
            SecretSources::new(&JWT, None, None, Some(credentials_dir.0.clone()))
                .read()
                .unwrap()
                .is_none()
        );
        credentials_dir.file(JWT.credential, 0o400, b"\n");
        assert!(
            SecretSources::new(&JWT, None, None, Some(credentials_dir.0.clone()))
                .read()
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn named_secret_beats_systemd_credential() {
        let credentials_dir = Folder::new("sources");
        credentials_dir.file(JWT.credential, 0o400, LONG.as_bytes());
        let path = credentials_dir.file("file", 0o600, format!("{LONG}, in a file\n").as_bytes());
        let read = |file: Option<&Path>, variable: Option<&str>| {
            SecretSources::new(
                &JWT,
                file,
                variable.map(OsString::from),
                Some(credentials_dir.0.clone()),
            )
            .read()
        };
        for (file, variable, expected) in [
            (None, None, LONG.to_owned()),
            (Some(&*path), None, format!("{LONG}, in a file")),
            (
                None,
                Some("from the environment, thirty-two bytes"),
                "from the environment, thirty-two bytes".into(),
            ),
        ] {
            let (keys, warnings) = read(file, variable).unwrap().unwrap();
            assert_eq!(secrets(&keys), [expected]);
            assert!(warnings.is_empty(), "{warnings:?}");
        }
        let fault = read(Some(&path), Some("s3cret")).unwrap_err();
        assert!(fault.contains(JWT.flag) && fault.contains(JWT.variable), "{fault}");
        assert!(!fault.contains("s3cret"));
        assert!(read(None, Some("")).unwrap_err().contains(JWT.variable));
    }

    #[test]
    fn secret_errors_name_the_file_but_not_its_content() {
        let credentials_dir = Folder::new("faults");
        let missing = credentials_dir.0.join("missing");
        let long = credentials_dir.file("long", 0o600, &b"s3cret".repeat(20_000));
        let full = credentials_dir.file("full", 0o600, b"s3cret-1\ns3cret-2\ns3cret-3\n");
        let empty = credentials_dir.file("empty", 0o600, b"\n");
        for path in [&missing, &long, &full, &empty, &credentials_dir.0] {
            let fault = SecretSources::new(&JWT, Some(path), None, None).read().unwrap_err();
            assert!(fault.contains(JWT.flag), "{fault}");
            assert!(fault.contains(&path.display().to_string()), "{fault}");
            assert!(!fault.contains("s3cret"), "{fault}");
        }
        let whole = credentials_dir.file("whole", 0o600, &vec![b'x'; FILE_BYTES_MAX]);
        assert!(SecretSources::new(&JWT, Some(&whole), None, None).read().is_ok());
    }

    #[test]
    fn invalid_secret_path_is_not_echoed() {
        let sources =
            SecretSources::new(&JWT, Some(Path::new("my very secret phrase")), None, None);
        let fault = sources.read().unwrap_err();
        assert!(fault.contains(JWT.flag) && !fault.contains("phrase"), "{fault}");
    }

    #[test]
    fn bom_nul_and_quotes_in_secret_are_refused_or_warned_of() {
        for text in ["\u{feff}a long enough secret, one would think", "zero\0byte"] {
            assert!(JwtKeys::parse(text.as_bytes()).is_err());
        }
        for text in [&b"'in quotes'"[..], b" before", b"after "] {
            assert!(looks_wrapped(text));
        }
        for text in [&b"it's"[..], b"'", b"\"x'"] {
            assert!(!looks_wrapped(text));
        }
    }

    #[test]
    fn text_around_a_secret_or_a_public_key_is_refused() {
        for (text, part) in [
            ("define('JWT_AUTH_SECRET_KEY', 's3cret, long enough for all tests');", "PHP"),
            ("  DEFINE ( \"JWT_AUTH_SECRET_KEY\", \"s3cret\" );\r\n", "PHP"),
            ("<?php\ndefine('A', 's3cret');\ndefine('B', 's3cret');\n", "PHP"),
            ("JWT_AUTH_SECRET_KEY=s3cret", "JWT_AUTH_SECRET_KEY"),
            ("export jwt_auth_secret_key = 's3cret'", "JWT_AUTH_SECRET_KEY"),
            ("BUDDYLINE_JWT_SECRET=s3cret\n", "BUDDYLINE_JWT_SECRET"),
            ("static-auth-secret=s3cret", "static-auth-secret"),
            ("-----BEGIN PUBLIC KEY-----\ns3cret\n-----END PUBLIC KEY-----\n", "--jwt-key-file"),
            ("{\"keys\":[{\"kty\":\"RSA\",\"n\":\"s3cret\"}]}", "--jwt-key-file"),
        ] {
            let fault = JwtKeys::parse(text.as_bytes()).unwrap_err();
            assert!(fault.contains(part) && !fault.contains("s3cret"), "{text}: {fault}");
        }
        for text in ["defined(x)", "define", "a=b", "{not json", "=", "x JWT_AUTH_SECRET_KEY=y"] {
            assert!(JwtKeys::parse(text.as_bytes()).is_ok(), "{text}");
        }
    }

    #[test]
    fn short_secret_and_world_readable_file_are_warned_of() {
        let credentials_dir = Folder::new("warnings");
        let path = credentials_dir.file("open", 0o644, b"s3cret\n");
        let (_, warnings) =
            SecretSources::new(&JWT, Some(&path), None, None).read().unwrap().unwrap();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("everyone") && warnings[1].contains("6 bytes"));
        assert!(warnings.iter().all(|warning| !warning.contains("s3cret")));
    }

    #[test]
    fn debug_output_omits_secrets() {
        let sources = SecretSources::new(&JWT, None, Some("s3cret".into()), None);
        assert!(!format!("{sources:?}").contains("s3cret"));
        let (keys, _) = sources.read().unwrap().unwrap();
        assert!(!format!("{keys:?}").contains("s3cret"));
    }
}

//! The settings of STUN and TURN servers (ICE), and the secret shared with the TURN servers.
//!
//! Browsers receive the URLs verbatim, and reject the whole list if one URL is invalid. So each URL
//! is validated at the start.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use zeroize::Zeroizing;

use super::secrets::{self, SecretSources};
use super::{Config, Trust, log_warnings};

/// Maximum number of URLs of each kind. A browser tries them all, and many slow it down.
pub(crate) const URLS_MAX: usize = 8;

/// The settings of the STUN and TURN servers that clients use for calls.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Calls")]
pub struct IceSettings {
    /// STUN server for calls, such as stun:turn.example.org:3478, at most 8. Repeat it, or separate
    /// with commas.
    #[arg(long, env = "BUDDYLINE_STUN_URL", value_name = "URL", value_delimiter = ',',
          value_parser = IceUrl::stun)]
    pub stun_url: Vec<IceUrl>,

    /// TURN server for calls, such as turn:turn.example.org:3478?transport=udp, at most 8. Repeat
    /// it, or separate with commas. Needs --turn-secret-file.
    #[arg(long, env = "BUDDYLINE_TURN_URL", value_name = "URL", value_delimiter = ',',
          value_parser = IceUrl::turn)]
    pub turn_url: Vec<IceUrl>,

    /// File with the secret of the TURN servers (static-auth-secret in coturn), on one line.
    /// Instead of a file, BUDDYLINE_TURN_SECRET may hold the secret itself.
    #[arg(long, env = "BUDDYLINE_TURN_SECRET_FILE", value_name = "PATH")]
    pub turn_secret_file: Option<PathBuf>,

    /// How long the credentials that clients get for the TURN servers are valid, 1m to 7d.
    #[arg(long, env = "BUDDYLINE_TURN_TTL", value_name = "TIME", default_value = "24h",
          value_parser = |s: &str| super::parse_duration(s, "1m", "7d"))]
    pub turn_ttl: Duration,
}

/// The address of a STUN server (RFC 7064) or a TURN server (RFC 7065).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IceUrl(Box<str>);

impl IceUrl {
    /// Parses `stun:HOST` or `stuns:HOST`, optionally with `:PORT`.
    ///
    /// # Errors
    ///
    /// A message that says what is expected and which part is wrong.
    pub fn stun(text: &str) -> Result<IceUrl, String> {
        let rest = text.strip_prefix("stun:").or_else(|| text.strip_prefix("stuns:"));
        let checked = rest.ok_or("the scheme").and_then(|rest| match rest.contains('?') {
            true => Err("the query, which STUN URLs do not have"),
            false => host_and_port(rest),
        });
        let expected = "expected stun:HOST or stuns:HOST, optionally with :PORT";
        checked.map(|()| IceUrl(text.into())).map_err(|wrong| format!("{expected} (see {wrong})"))
    }

    /// Parses `turn:HOST` or `turns:HOST`, optionally with `:PORT` and `?transport=udp` or `tcp`.
    ///
    /// # Errors
    ///
    /// A message that says what is expected and which part is wrong.
    pub fn turn(text: &str) -> Result<IceUrl, String> {
        let rest = text.strip_prefix("turn:").or_else(|| text.strip_prefix("turns:"));
        let checked = rest.ok_or("the scheme").and_then(|rest| match rest.split_once('?') {
            None => host_and_port(rest),
            Some((authority, "transport=udp" | "transport=tcp")) => host_and_port(authority),
            Some(_) => Err("the part after the question mark"),
        });
        let expected = "expected turn:HOST or turns:HOST, optionally with :PORT and ?transport=udp or \
                        ?transport=tcp";
        checked.map(|()| IceUrl(text.into())).map_err(|wrong| format!("{expected} (see {wrong})"))
    }

    /// Returns the URL as the operator wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks `host [":" port]` (RFC 7064 3.1). The error names the part that is wrong.
fn host_and_port(text: &str) -> Result<(), &'static str> {
    let (is_host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inside, after) = rest.split_once(']').ok_or("the bracket")?;
            let port = if after.is_empty() { None } else { Some(after) };
            let port = port.map(|port| port.strip_prefix(':').ok_or("the part after the bracket"));
            (inside.parse::<Ipv6Addr>().is_ok(), port.transpose()?)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (is_host(host), Some(port)),
            None => (is_host(text), None),
        },
    };
    let is_port = |port: &str| {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        digits && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    match (is_host, port) {
        (false, _) => Err("the host"),
        (true, Some(port)) if !is_port(port) => Err("the port"),
        (true, _) => Ok(()),
    }
}

/// Whether a text is a host name (RFC 1123 2.1, underscores allowed as well) or an IPv4 address.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(is_allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    match last.bytes().all(|byte| byte.is_ascii_digit()) {
        // A browser parses a host that ends in a number as IPv4 (WHATWG URL, "ends in a number").
        true => text.parse::<Ipv4Addr>().is_ok(),
        false => text.len() <= 253 && text.split('.').all(is_label),
    }
}

/// The secret shared with the TURN servers. `Debug` does not print it, and it is zeroed on drop.
pub struct TurnSecret(Zeroizing<Vec<u8>>);

impl TurnSecret {
    /// Returns the secret as it is configured in the TURN server.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for TurnSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TurnSecret(…)")
    }
}

impl Config {
    /// Reads the TURN secret from the file, the variable or the credential; `None` without TURN
    /// servers. Logs warnings about the secret and about open trust.
    ///
    /// # Errors
    ///
    /// As [`Config::turn_secret_with_warnings`].
    pub fn turn_secret(&self) -> Result<Option<TurnSecret>, String> {
        let Some(secret) = self.turn_secret_with_warnings()?.map(log_warnings) else {
            return Ok(None);
        };
        self.open_relay_warning().iter().for_each(|warning| log::warn!("{warning}"));
        Ok(Some(secret))
    }

    /// Returns a warning if clients get TURN credentials without authentication.
    pub(super) fn open_relay_warning(&self) -> Option<String> {
        let warning = "--trust open: any client gets credentials for the TURN server, under any \
                       userId";
        (self.trust_mode() == Trust::Open).then(|| warning.to_owned())
    }

    /// Like [`Config::turn_secret`], but returns the warnings about the secret instead of logging
    /// them.
    ///
    /// # Errors
    ///
    /// A message that names the settings that conflict, or the source of the secret and what is
    /// wrong, without the secret.
    pub fn turn_secret_with_warnings(&self) -> Result<Option<(TurnSecret, Vec<String>)>, String> {
        let ice = &self.ice;
        for (flag, urls) in [("--stun-url", &ice.stun_url), ("--turn-url", &ice.turn_url)] {
            if urls.len() > URLS_MAX {
                let count = urls.len();
                return Err(format!("{flag} is set {count} times: expected at most {URLS_MAX}"));
            }
        }
        let variable = self.variable(secrets::TURN.variable)?;
        let file = ice.turn_secret_file.as_deref();
        let read = SecretSources::from_process(&secrets::TURN, file, variable).read_lines()?;
        // `secrets::TURN` allows one line only.
        let secret = read.and_then(|(lines, warnings)| Some((lines.into_iter().next()?, warnings)));
        match (ice.turn_url.is_empty(), secret) {
            (true, None) => Ok(None),
            (true, Some(_)) => Err("a TURN secret is set and --turn-url is not: set it to the \
                                    address of the TURN server that has the secret"
                .to_owned()),
            (false, None) => {
                Err("--turn-url is set and --turn-secret-file is not: set it to a file with \
                     the secret of the TURN server (static-auth-secret in coturn)"
                    .to_owned())
            }
            // An open relay must be requested explicitly.
            (false, Some(_)) if self.trust.is_none() && self.trust_mode() == Trust::Open => Err(
                "--turn-url is set and --buddyboss-url is not: without a site, clients are not \
                     authenticated, and any client would get credentials for the TURN server. Set \
                     --buddyboss-url, or --trust open to allow that."
                    .to_owned(),
            ),
            (false, Some((secret, warnings))) => Ok(Some((TurnSecret(secret), warnings))),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn stun_and_turn_urls_are_kept_verbatim() {
        for text in ["stun:a", "stuns:a.example.org:5349", "stun:[::1]", "stun:192.0.2.1:1"] {
            assert_eq!(IceUrl::stun(text).unwrap().as_str(), text);
        }
        for text in [
            "turn:turn.example.org",
            "turns:turn.example.org:443?transport=tcp",
            "turn:[2001:db8::1]:3478?transport=udp",
            "turn:192.0.2.1?transport=tcp",
            "turn:coturn_1:65535",
        ] {
            assert_eq!(IceUrl::turn(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn urls_a_browser_rejects_are_refused_with_reason() {
        let long = format!("turn:{}", "a.".repeat(127) + "aa");
        for (text, wrong) in [
            ("turn.example.org", "the scheme"),
            ("https://turn.example.org", "the scheme"),
            ("stun:turn.example.org", "the scheme"),
            ("TURN:turn.example.org", "the scheme"),
            ("turn://turn.example.org", "the host"),
            ("turn:", "the host"),
            ("turn::3478", "the host"),
            ("turn:alice@turn.example.org", "the host"),
            ("turn:turn.example.org/", "the host"),
            ("turn:turn..org", "the host"),
            ("turn:-a.org", "the host"),
            ("turn:a b", "the host"),
            ("turn:192.0.2.256", "the host"),
            ("turn:1", "the host"),
            ("turn:[192.0.2.1]", "the host"),
            ("turn:bücher.example", "the host"),
            (&long, "the host"),
            ("turn:[::1", "the bracket"),
            ("turn:[::1]3478", "the part after the bracket"),
            ("turn:a:", "the port"),
            ("turn:a:0", "the port"),
            ("turn:a:+1", "the port"),
            ("turn:a:65536", "the port"),
            ("turn:a?transport=sctp", "the part after the question mark"),
            ("turn:a?", "the part after the question mark"),
            ("turn:a?transport=udp&x=1", "the part after the question mark"),
        ] {
            let fault = IceUrl::turn(text).unwrap_err();
            assert!(fault.ends_with(&format!("(see {wrong})")), "{text}: {fault}");
        }
        for text in ["turn:a", "stun:a?transport=udp", "stun:a:x"] {
            let fault = IceUrl::stun(text).unwrap_err();
            assert!(fault.contains("stun:HOST"), "{text}: {fault}");
        }
    }

    /// A file that is removed at the end of the test.
    struct Secret(PathBuf);

    impl Secret {
        fn new(name: &str, text: &str) -> Secret {
            let name = format!("buddyline-turn-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, text).unwrap();
            Secret(path)
        }

        fn flag(&self) -> String {
            format!("--turn-secret-file={}", self.0.display())
        }
    }

    impl Drop for Secret {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    const SITE: &str = "--buddyboss-url=https://community.example";
    const URL: &str = "--turn-url=turn:a";

    fn read(arguments: &[&str]) -> Config {
        Config::try_parse_from(["buddyline"].iter().chain(arguments)).unwrap()
    }

    #[test]
    fn turn_needs_secret_and_url_and_explicit_open_trust() {
        let secret = Secret::new("together", "s3cret\n");
        let file = &*secret.flag();
        for (arguments, parts) in [
            (&[SITE, URL][..], ["--turn-url", "--turn-secret-file"]),
            (&[SITE, file], ["a TURN secret", "--turn-url"]),
            (&[URL, file], ["--turn-url", "--trust open"]),
        ] {
            let fault = read(arguments).check().unwrap_err();
            assert!(!fault.contains("s3cret"), "{fault}");
            for part in parts {
                assert!(fault.contains(part), "{fault:?} names {part:?}");
            }
        }
        for good in [&[SITE, URL, file][..], &[URL, file, "--trust=open"]] {
            let config = read(good);
            config.check().unwrap();
            let (secret, warnings) = config.turn_secret_with_warnings().unwrap().unwrap();
            assert_eq!(secret.bytes(), b"s3cret");
            assert!(!format!("{config:?} {secret:?} {warnings:?}").contains("s3cret"));
            // Whether the file is world-readable depends on the umask.
            assert!(warnings.iter().any(|warning| warning.contains("6 bytes")), "{warnings:?}");
        }
        read(&["--stun-url=stun:a"]).check().unwrap();
    }

    #[test]
    fn turn_secret_must_be_one_line() {
        let secret = Secret::new("lines", "s3cret-1\ns3cret-2\n");
        let fault = read(&[SITE, URL, &secret.flag()]).check().unwrap_err();
        assert!(fault.contains("--turn-secret-file") && fault.contains("one line"), "{fault}");
        assert!(!fault.contains("s3cret"), "{fault}");
    }

    #[test]
    fn ice_urls_are_limited_to_eight_per_kind() {
        let secret = Secret::new("many", "s3cret\n");
        let many = |flag: &str, count| {
            format!("--{flag}-url={}", vec![flag.to_owned() + ":a"; count].join(","))
        };
        let with = |stun, turn| {
            read(&[SITE, &secret.flag(), &many("stun", stun), &many("turn", turn)]).check()
        };
        with(URLS_MAX, URLS_MAX).unwrap();
        assert!(with(URLS_MAX + 1, 1).unwrap_err().contains("--stun-url is set 9 times"));
        assert!(with(1, URLS_MAX + 1).unwrap_err().contains("--turn-url is set 9 times"));
    }

    #[test]
    fn turn_credential_lifetime_is_a_minute_to_a_week() {
        assert_eq!(read(&[]).ice.turn_ttl, Duration::from_secs(86_400));
        for (text, good) in [("1m", true), ("59s", false), ("7d", true), ("169h", false)] {
            let read = Config::try_parse_from(["buddyline", "--turn-ttl", text]);
            assert_eq!(read.is_ok(), good, "{text}");
        }
    }
}

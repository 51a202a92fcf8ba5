//! Every setting with its unit, default and limit; read once, checked once.
//!
//! Each is a flag and an environment variable. A value that is not allowed ends the start with a
//! sentence that names the setting, the value and what is allowed.

pub mod calls;
pub mod env_file;
pub mod files;
pub mod ice;
pub mod limits;
pub mod listen;
pub mod origins;
pub mod proxies;
pub mod public_url;
pub mod reload;
pub mod secrets;
pub mod site_url;
pub mod tls;
pub mod token_header;
pub mod validity;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use ipnet::IpNet;
use log::LevelFilter;

use calls::CallOptions;
use ice::IceSettings;
use limits::Limits;
pub use listen::Listen;
use origins::{OriginPattern, Origins};
use proxies::TrustedProxies;
use secrets::{JwtKeys, SecretSources};
use site_url::SiteUrl;
use tls::TlsIdentity;
use token_header::TokenHeader;

/// Descriptors that are not a client's: standard streams, poll, waker, signals, listeners.
const DESCRIPTORS_RESERVED: usize = 16;
/// Those of monitors and of the listeners for them.
const DESCRIPTORS_FOR_MONITORING: usize = 10;
/// Those of a worker: a connection to the site that is kept, one that is being made, a look-up of
/// the site's name.
const DESCRIPTORS_PER_WORKER: usize = 3;

/// What the server is started with.
#[derive(Parser, Debug, Clone)]
pub struct Config {
    /// File with settings, NAME=value for each environment variable below, instead of the
    /// environment; a flag still wins. SIGHUP reads it anew. With a - before the name it may lack.
    #[arg(
        long,
        env = env_file::VARIABLE,
        value_name = "PATH",
        help_heading = "Settings"
    )]
    pub env_file: Option<OsString>,

    /// Address and port to listen on; a name listens on each of its addresses.
    #[arg(long, env = "BUDDYLINE_LISTEN", value_name = "HOST:PORT", default_value = "localhost:8080",
          help_heading = "Network", value_parser = Listen::parse)]
    pub listen: Listen,

    /// Address and port where a monitor reads GET /metrics, /healthz and /readyz; nobody does
    /// without it. Whoever reaches this address reads the numbers: let it be 127.0.0.1:PORT.
    #[arg(long, env = "BUDDYLINE_METRICS_LISTEN", value_name = "HOST:PORT",
          help_heading = "Network", value_parser = Listen::parse)]
    pub metrics_listen: Option<Listen>,

    /// File with the certificate that the server shows, in PEM, the server's own first and those
    /// between it and its authority after it. With it and --tls-key, only TLS is spoken.
    #[arg(long, env = "BUDDYLINE_TLS_CERT", value_name = "PATH", help_heading = "Network")]
    pub tls_cert: Option<PathBuf>,

    /// File with the certificate's private key, in PEM and not encrypted.
    #[arg(long, env = "BUDDYLINE_TLS_KEY", value_name = "PATH", help_heading = "Network")]
    pub tls_key: Option<PathBuf>,

    /// The try-it page at GET /: auto shows it while no site is set.
    #[arg(
        long,
        env = "BUDDYLINE_TRY_PAGE",
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Network"
    )]
    pub try_page: TryPage,

    /// Web pages that may connect besides the site's: an origin with its scheme, *.example.org,
    /// null, or * for any. Several: again, or with commas. With open trust and none: any page.
    #[arg(long, env = "BUDDYLINE_ALLOWED_ORIGIN", value_name = "ORIGIN", value_delimiter = ',',
          help_heading = "Network", value_parser = OriginPattern::parse)]
    pub allowed_origin: Vec<OriginPattern>,

    /// A proxy whose X-Forwarded-For is believed: an address, or a network such as 10.0.0.0/8.
    /// Several: again, or with commas.
    #[arg(long, env = "BUDDYLINE_TRUSTED_PROXY", value_name = "IP", value_delimiter = ',',
          help_heading = "Network", value_parser = proxies::parse)]
    pub trusted_proxy: Vec<IpNet>,

    /// Address of the BuddyBoss site with its scheme: https, a host, perhaps a port and a path.
    #[arg(long, env = "BUDDYLINE_BUDDYBOSS_URL", value_name = "URL", help_heading = "Site",
          value_parser = SiteUrl::parse)]
    pub buddyboss_url: Option<SiteUrl>,

    /// Whether a userId is believed (open) or proven (verified, which needs a site). With a site,
    /// verified unless open is asked for; without one, open.
    #[arg(long, env = "BUDDYLINE_TRUST", value_name = "MODE", help_heading = "Site")]
    pub trust: Option<Trust>,

    /// Header in which the site expects a member's token: after "Bearer" in the usual one, bare in
    /// any other, such as the BuddyBoss App's accessToken.
    #[arg(long, env = "BUDDYLINE_TOKEN_HEADER", value_name = "NAME", default_value = "Authorization",
          help_heading = "Site", value_parser = TokenHeader::parse)]
    pub token_header: TokenHeader,

    /// File with the site's JWT secret, to check tokens without asking the site; a second line may
    /// have another one. Without a file, BUDDYLINE_JWT_SECRET may hold the secret itself.
    #[arg(long, env = "BUDDYLINE_JWT_SECRET_FILE", value_name = "PATH", help_heading = "Site")]
    pub jwt_secret_file: Option<PathBuf>,

    /// Address that the site writes into its tokens, where it is not the one of --buddyboss-url.
    #[arg(long, env = "BUDDYLINE_JWT_ISSUER", value_name = "URL", help_heading = "Site",
          value_parser = SiteUrl::parse)]
    pub jwt_issuer: Option<SiteUrl>,

    /// Requests to the site at the same time, 1 to 64.
    #[arg(long, env = "BUDDYLINE_UPSTREAM_WORKERS", value_name = "N", default_value_t = 4,
          help_heading = "Site", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub upstream_workers: u16,

    /// Requests that wait for a worker, 1 to 100000; one more is answered "overloaded".
    #[arg(long, env = "BUDDYLINE_UPSTREAM_QUEUE", value_name = "N", default_value_t = 256,
          help_heading = "Site", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub upstream_queue: u32,

    /// Longest time for a whole request to the site, 1s to 5m.
    #[arg(long, env = "BUDDYLINE_UPSTREAM_TIMEOUT", value_name = "TIME", default_value = "30s",
          help_heading = "Site", value_parser = |s: &str| parse_duration(s, "1s", "5m"))]
    pub upstream_timeout: Duration,

    /// How long "typing" lasts without a repeat, 100ms to 1m.
    #[arg(long, env = "BUDDYLINE_TYPING_LASTS", value_name = "TIME", default_value = "3s",
          help_heading = "Behaviour", value_parser = |s: &str| parse_duration(s, "100ms", "1m"))]
    pub typing_lasts: Duration,

    /// How long a user stays online without a connection, 0s to 10m.
    #[arg(long, env = "BUDDYLINE_PRESENCE_GRACE", value_name = "TIME", default_value = "5s",
          help_heading = "Behaviour", value_parser = |s: &str| parse_duration(s, "0s", "10m"))]
    pub presence_grace: Duration,

    /// Who hears who comes and goes: everyone, people who share a thread with them, or nobody.
    #[arg(
        long,
        env = "BUDDYLINE_PRESENCE",
        value_name = "SCOPE",
        default_value = "all",
        help_heading = "Behaviour"
    )]
    pub presence: PresenceScope,

    /// How long the site's list of a thread's participants holds, 10s to 10m.
    #[arg(long, env = "BUDDYLINE_MEMBERSHIP_LASTS", value_name = "TIME", default_value = "60s",
          help_heading = "Behaviour", value_parser = |s: &str| parse_duration(s, "10s", "10m"))]
    pub membership_lasts: Duration,

    /// How long messages on their way and connections get when the server is to stop, 0s to 10m.
    #[arg(long, env = "BUDDYLINE_DRAIN_TIMEOUT", value_name = "TIME", default_value = "25s",
          help_heading = "Behaviour", value_parser = |s: &str| parse_duration(s, "0s", "10m"))]
    pub drain_timeout: Duration,

    /// How calls go.
    #[command(flatten)]
    set_calls: CallOptions,

    /// Open files that the system is asked to allow, 64 to 10000000. Without it, as many as
    /// --max-connections needs; never more than the system's hard limit, which only root raises.
    #[arg(long, env = "BUDDYLINE_NOFILE", value_name = "N", help_heading = "Limits",
          value_parser = clap::value_parser!(u64).range(64..=10_000_000))]
    pub nofile: Option<u64>,

    /// What calls are helped with.
    #[command(flatten)]
    pub ice: IceSettings,

    /// What clients may take.
    #[command(flatten)]
    set_limits: Limits,

    /// How much is logged: off, error, warn, info or debug.
    #[arg(long, env = "BUDDYLINE_LOG_LEVEL", value_name = "LEVEL", default_value = "info",
          help_heading = "Logs", value_parser = log_level)]
    pub log_level: LevelFilter,

    /// Form of the log's lines: auto is journal where systemd leads standard error to its journal,
    /// and text elsewhere; json is an object a line.
    #[arg(
        long,
        env = "BUDDYLINE_LOG_FORMAT",
        value_name = "FORM",
        default_value = "auto",
        help_heading = "Logs"
    )]
    pub log_format: LogFormat,
}

/// The form of the log's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `Journal` where standard error leads to systemd's journal, and `Text` elsewhere.
    Auto,
    /// For people: time, level, target and text, with colours on a terminal.
    Text,
    /// For systemd's journal: the level as its number, and no time.
    Journal,
    /// For programs: an object of JSON a line.
    Json,
}

/// When the try-it page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TryPage {
    /// Always.
    On,
    /// Never.
    Off,
    /// While no site is set.
    Auto,
}

/// Whether a connection is believed to be whom it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Trust {
    /// Every userId is believed: for development, and where everyone is trusted.
    Open,
    /// A token proves who someone is, and the site says who takes part in a thread.
    Verified,
}

/// Who hears who comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PresenceScope {
    /// Everyone.
    All,
    /// People who share a thread with the user.
    Threads,
    /// Nobody.
    Off,
}

impl Config {
    /// Checks all that a start needs: the settings, the files that they name, and the names to
    /// listen on, which may take as long as looking them up does.
    ///
    /// # Errors
    ///
    /// A sentence that names the settings, their values and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        // What is risky is said where they are put to use.
        self.load_secrets()?;
        let listens =
            [("--listen", Some(&self.listen)), ("--metrics-listen", self.metrics_listen.as_ref())];
        for (flag, listen) in listens {
            listen.map(Listen::resolve).transpose().map_err(|fault| format!("{flag} {fault}"))?;
        }
        self.check_combinations()
    }

    /// Checks what one setting alone does not show.
    ///
    /// # Errors
    ///
    /// As of [`Config::check`].
    pub fn check_combinations(&self) -> Result<(), String> {
        if self.trust == Some(Trust::Verified) && self.buddyboss_url.is_none() {
            return Err(
                "--trust is verified and --buddyboss-url is not set: the embedded stand-in \
                        has no members who could prove who they are. Set a site, or --trust open."
                    .to_owned(),
            );
        }
        if self.presence == PresenceScope::Threads && self.trust_mode() == Trust::Open {
            return Err(
                "--presence is threads and --trust is open: who takes part in a thread is \
                        known only with --trust verified. Set --presence all or off."
                    .to_owned(),
            );
        }
        let (typing, membership) = (self.typing_lasts, self.membership_lasts);
        if membership < typing * 2 {
            let [typing, membership] = [typing, membership].map(humantime::format_duration);
            return Err(format!(
                "--membership-lasts is {membership} and --typing-lasts is {typing}: expected is \
                 at least twice as long."
            ));
        }
        Ok(())
    }

    /// Whether a `userId` is believed or proven, whatever was left unsaid.
    pub fn trust_mode(&self) -> Trust {
        let unsaid = if self.buddyboss_url.is_some() { Trust::Verified } else { Trust::Open };
        self.trust.unwrap_or(unsaid)
    }

    /// What clients may take.
    pub fn limits(&self) -> Limits {
        self.set_limits.effective()
    }

    /// How calls go.
    pub fn calls(&self) -> CallOptions {
        self.set_calls.effective(self.set_limits.no_limits)
    }

    /// Which web pages may connect.
    pub fn origins(&self) -> Origins {
        match (self.trust_mode(), &self.allowed_origin[..]) {
            (Trust::Open, []) => Origins::any(),
            (_, patterns) => Origins::only(patterns, self.buddyboss_url.as_ref()),
        }
    }

    /// Whose `X-Forwarded-For` is believed.
    pub fn proxies(&self) -> TrustedProxies {
        TrustedProxies::new(&self.trusted_proxy)
    }

    /// The site's JWT secret, from wherever it is set; `None` where it is not. It is read anew each
    /// time, and not kept here, where it would be printed. What is risky about it is logged.
    ///
    /// # Errors
    ///
    /// A sentence that names where it should have come from and what is wrong, without the secret.
    pub fn jwt_keys(&self) -> Result<Option<JwtKeys>, String> {
        let Some((keys, warnings)) = self.jwt_keys_with_warnings()? else { return Ok(None) };
        warnings.iter().for_each(|warning| log::warn!("{warning}"));
        Ok(Some(keys))
    }

    /// The same, with what is risky about it instead of a log.
    ///
    /// # Errors
    ///
    /// As [`Config::jwt_keys`].
    pub fn jwt_keys_with_warnings(&self) -> Result<Option<(JwtKeys, Vec<String>)>, String> {
        let variable = self.variable(secrets::JWT.variable)?;
        let file = self.jwt_secret_file.as_deref();
        let sources = SecretSources::from_process(&secrets::JWT, file, variable);
        let Some((keys, warnings)) = sources.read()? else { return Ok(None) };
        if self.buddyboss_url.is_none() {
            return Err("a JWT secret is set and --buddyboss-url is not: expected is the address \
                        of the site whose tokens it checks"
                .to_owned());
        }
        Ok(Some((keys, warnings)))
    }

    /// Descriptors that no client gets: the server's own, those of monitors, and of the workers.
    pub fn reserved_descriptors(&self) -> usize {
        let workers = self.buddyboss_url.as_ref().map_or(0, |_| self.upstream_workers.into());
        let monitors = self.metrics_listen.as_ref().map_or(0, |_| DESCRIPTORS_FOR_MONITORING);
        DESCRIPTORS_RESERVED + monitors + workers * DESCRIPTORS_PER_WORKER
    }

    /// What the server proves itself with to those who speak TLS; `None` where it does not. It is
    /// read anew each time. What is risky about it is logged.
    ///
    /// # Errors
    ///
    /// A sentence that names the file, or the setting that is missing, and what is wrong.
    pub fn tls(&self) -> Result<Option<TlsIdentity>, String> {
        let Some((identity, warnings)) = self.tls_with_warnings()? else { return Ok(None) };
        warnings.iter().for_each(|warning| log::warn!("{warning}"));
        Ok(Some(identity))
    }

    fn tls_with_warnings(&self) -> Result<Option<(TlsIdentity, Vec<String>)>, String> {
        let files = tls::TlsFiles::from_process(self.tls_cert.as_deref(), self.tls_key.as_deref())?;
        files.map(|files| files.read()).transpose()
    }

    /// Whether `GET /` shows the page.
    pub fn is_try_page_enabled(&self) -> bool {
        match self.try_page {
            TryPage::On => true,
            TryPage::Off => false,
            TryPage::Auto => self.buddyboss_url.is_none(),
        }
    }
}

/// A time within these bounds.
pub(crate) fn parse_duration(text: &str, min: &str, max: &str) -> Result<Duration, String> {
    let parse = |text: &str| humantime::parse_duration(text).map_err(|fault| fault.to_string());
    let allowed = format!("expected a time from {min} to {max}, such as 500ms, 5s or 1m");
    let value = parse(text).map_err(|fault| format!("{allowed} ({fault})"))?;
    match value >= parse(min)? && value <= parse(max)? {
        true => Ok(value),
        false => Err(allowed),
    }
}

fn log_level(text: &str) -> Result<LevelFilter, String> {
    match text.parse() {
        // Compiled out: tungstenite prints every frame at that level.
        Ok(LevelFilter::Trace) | Err(_) => {
            Err("expected one of off, error, warn, info, debug".to_owned())
        }
        Ok(level) => Ok(level),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Config, String> {
        let all = ["buddyline"].iter().chain(arguments);
        Config::try_parse_from(all).map_err(|fault| fault.to_string())
    }

    #[test]
    fn defaults_match_the_documentation() {
        let config = read(&[]).unwrap();
        assert!(config.listen.addresses.iter().all(|a| a.port() == 8080 && a.ip().is_loopback()));
        assert!(config.is_try_page_enabled());
        assert_eq!(config.upstream_workers, 4);
        assert_eq!(config.upstream_timeout, Duration::from_secs(30));
        assert_eq!(config.limits().max_frame_bytes, 256 * 1024);
        config.check().unwrap();
    }

    #[test]
    fn bad_value_names_setting_value_and_allowed_range() {
        for (arguments, parts) in [
            (["--listen", "8080"], ["--listen", "8080", "HOST:PORT"]),
            (["--upstream-timeout", "5 parsecs"], ["--upstream-timeout", "5 parsecs", "1s to 5m"]),
            (["--upstream-timeout", "10m"], ["--upstream-timeout", "10m", "1s to 5m"]),
            (["--upstream-workers", "0"], ["--upstream-workers", "0", "1..=64"]),
            (["--log-level", "trace"], ["--log-level", "trace", "debug"]),
            (["--log-format", "xml"], ["--log-format", "xml", "json"]),
            (["--try-page", "maybe"], ["--try-page", "maybe", "auto"]),
            (["--token-header", "Host"], ["--token-header", "Host", "another meaning"]),
            (["--jwt-issuer", "example"], ["--jwt-issuer", "example", "https"]),
            (["--buddyboss-url", "ftp://x"], ["--buddyboss-url", "ftp://x", "http"]),
            (["--allowed-origin", "a.example"], ["--allowed-origin", "a.example", "https://"]),
            (["--trusted-proxy", "nginx"], ["--trusted-proxy", "nginx", "10.0.0.0/8"]),
            (["--membership-lasts", "5s"], ["--membership-lasts", "5s", "10s to 10m"]),
            (["--anonymous-lasts", "1ms"], ["--anonymous-lasts", "1ms", "1s to 10m"]),
            (["--max-joins", "100001"], ["--max-joins", "100001", "1 to 100000, or 0"]),
            (["--max-head-bytes", "99"], ["--max-head-bytes", "99", "1024 to 65536, or 0"]),
            (["--drain-timeout", "11m"], ["--drain-timeout", "11m", "0s to 10m"]),
            (["--presence", "some"], ["--presence", "some", "threads"]),
        ] {
            let fault = read(&arguments).unwrap_err();
            for part in parts {
                assert!(fault.contains(part), "{fault:?} names {part:?}");
            }
        }
    }
}

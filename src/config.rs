//! All settings of the server, with unit, default and range: parsing and validation.
//!
//! Each setting is a command-line flag and an environment variable. The doc comments of the fields
//! are the text of `--help`; `docs/SETTINGS.md` lists the same settings. An invalid value ends the
//! start with a message that names the setting, the value and what is expected.

pub(crate) mod calls;
pub mod env_file;
pub mod files;
pub mod health_url;
pub(crate) mod ice;
pub mod jwt_issuer;
mod key_kind;
pub mod limits;
mod listen;
pub mod origins;
pub mod proxies;
pub mod public_keys;
pub(crate) mod public_url;
mod reload;
pub mod secrets;
pub mod site_password;
pub mod site_proxy;
pub mod site_secret;
pub mod site_trust;
pub mod site_url;
pub(crate) mod tls;
pub mod token_header;
pub mod token_keys;
pub mod unix_socket;
pub(crate) mod validity;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Parser, ValueEnum};
use ipnet::IpNet;
use log::LevelFilter;

use calls::CallOptions;
use ice::IceSettings;
use jwt_issuer::IssuerList;
use limits::Limits;
pub use listen::Listen;
use origins::{OriginPattern, Origins};
use proxies::TrustedProxies;
use site_proxy::ProxyText;
use site_url::SiteUrl;
use tls::TlsIdentity;
use token_header::TokenHeader;
use unix_socket::{SocketFile, SocketMode, SocketOwner};

/// Descriptors for the process itself: standard streams, poll, waker, signals, listeners.
const DESCRIPTORS_RESERVED: usize = 16;
/// Descriptors for the metrics listeners and their connections.
const DESCRIPTORS_FOR_MONITORING: usize = 10;
/// Descriptors for connections of the site's plugin on its own listener.
const DESCRIPTORS_FOR_SITE: usize = SITE_CONNECTIONS_MAX + 2;
/// Connections of the site's plugin on its own listener.
pub const SITE_CONNECTIONS_MAX: usize = 32;
/// Descriptors for each upstream worker: a kept-alive connection to the site, one that is being
/// opened, and a DNS lookup.
const DESCRIPTORS_PER_WORKER: usize = 3;

/// The settings of the server.
#[derive(Parser, Debug, Clone)]
pub struct Config {
    /// Read the settings from this file instead of the environment: one NAME=value per line, with
    /// the environment variables below as names. Flags take precedence. SIGHUP reads the file
    /// again. If PATH begins with -, the file is optional.
    #[arg(
        long,
        env = env_file::VARIABLE,
        value_name = "PATH",
        help_heading = "Settings"
    )]
    pub env_file: Option<OsString>,

    /// Address and port to listen on, or a Unix socket as unix:PATH. A host name listens on each of
    /// its addresses; `[::]:PORT` takes IPv4 connections as well. Repeat it, or separate with
    /// commas.
    #[arg(long, env = "BUDDYLINE_LISTEN", value_name = "HOST:PORT", default_value = "localhost:8080",
          value_delimiter = ',', help_heading = "Network", value_parser = Listen::parse)]
    pub listen: Vec<Listen>,

    /// Address of a separate listener for monitoring, as for --listen: GET /metrics, /healthz and
    /// /readyz. If it is not set, /metrics is not served. There is no password: prefer
    /// 127.0.0.1:PORT. Repeat it, or separate with commas.
    #[arg(long, env = "BUDDYLINE_METRICS_LISTEN", value_name = "HOST:PORT", value_delimiter = ',',
          help_heading = "Network", value_parser = Listen::parse)]
    pub metrics_listen: Vec<Listen>,

    /// Address of a separate listener for the site's plugin, as for --listen: POST /site/events,
    /// without TLS. With it, the addresses of --listen do not answer that path. Needs
    /// --site-secret-file. Repeat it, or separate with commas.
    #[arg(long, env = "BUDDYLINE_SITE_LISTEN", value_name = "HOST:PORT", value_delimiter = ',',
          help_heading = "Network", value_parser = Listen::parse)]
    pub site_listen: Vec<Listen>,

    /// Take only IPv6 connections on `[::]:PORT`.
    #[arg(long, env = "BUDDYLINE_IPV6_ONLY", help_heading = "Network",
          value_parser = FalseyValueParser::new())]
    pub ipv6_only: bool,

    /// Permissions of the Unix sockets of the three listeners, in octal. A proxy needs
    /// read and write permission.
    #[arg(long, env = "BUDDYLINE_UNIX_SOCKET_MODE", value_name = "MODE", default_value = "660",
          help_heading = "Network", value_parser = SocketMode::parse)]
    pub unix_socket_mode: SocketMode,

    /// Owner of these sockets: USER, USER:GROUP or :GROUP, such as :www-data. If it is not set, the
    /// user and group of the server. Only root may give a socket away; another user may set one of
    /// its own groups.
    #[arg(long, env = "BUDDYLINE_UNIX_SOCKET_OWNER", value_name = "OWNER", help_heading = "Network",
          value_parser = SocketOwner::parse)]
    pub unix_socket_owner: Option<SocketOwner>,

    /// PEM file with the server's certificate first, followed by the intermediate certificates.
    /// With --tls-cert and --tls-key, the server accepts TLS connections only.
    #[arg(long, env = "BUDDYLINE_TLS_CERT", value_name = "PATH", help_heading = "Network")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the private key of the certificate, not encrypted. Needed with --tls-cert.
    #[arg(long, env = "BUDDYLINE_TLS_KEY", value_name = "PATH", help_heading = "Network")]
    pub tls_key: Option<PathBuf>,

    /// When to serve the try-it page at GET /.
    #[arg(
        long,
        env = "BUDDYLINE_TRY_PAGE",
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Network"
    )]
    pub try_page: TryPage,

    /// Origin of web pages that may connect, besides the pages of the site: SCHEME://HOST:PORT,
    /// *.example.org, null, or * for any. Repeat it, or separate with commas. Other pages are
    /// refused with 403. With open trust and no such setting, any page may connect.
    #[arg(long, env = "BUDDYLINE_ALLOWED_ORIGIN", value_name = "ORIGIN", value_delimiter = ',',
          help_heading = "Network", value_parser = OriginPattern::parse)]
    pub allowed_origin: Vec<OriginPattern>,

    /// Proxy whose X-Forwarded-For and X-Forwarded-Host headers are trusted: an IP address, or a
    /// network such as 10.0.0.0/8. Repeat it, or separate with commas.
    #[arg(long, env = "BUDDYLINE_TRUSTED_PROXY", value_name = "IP", value_delimiter = ',',
          help_heading = "Network", value_parser = proxies::parse)]
    pub trusted_proxy: Vec<IpNet>,

    /// Whether trusted proxies send a PROXY protocol header (version 1 or 2) first, as HAProxy does
    /// with send-proxy, and load balancers that pass on TCP. With on, each connection of a trusted
    /// proxy or through a Unix socket must begin with one, and the address in it is that of the
    /// client; other connections must not.
    #[arg(
        long,
        env = "BUDDYLINE_PROXY_PROTOCOL",
        value_name = "WHEN",
        default_value = "off",
        help_heading = "Network"
    )]
    pub proxy_protocol: ProxyProtocol,

    /// URL of the BuddyBoss site: https://, a host, and optionally a port and a path. If it is not
    /// set, the server uses an embedded stand-in that keeps threads and messages in memory.
    #[arg(long, env = "BUDDYLINE_BUDDYBOSS_URL", value_name = "URL", help_heading = "Site",
          value_parser = SiteUrl::parse)]
    pub buddyboss_url: Option<SiteUrl>,

    /// How clients prove their userId. If it is not set: verified with --buddyboss-url, open
    /// without. verified needs --buddyboss-url.
    #[arg(long, env = "BUDDYLINE_TRUST", value_name = "MODE", help_heading = "Site")]
    pub trust: Option<Trust>,

    /// Request header in which the site expects the token of a member. In Authorization, the token
    /// follows "Bearer"; any other header, such as accessToken of the BuddyBoss App, has the token
    /// alone.
    #[arg(long, env = "BUDDYLINE_TOKEN_HEADER", value_name = "NAME", default_value = "Authorization",
          help_heading = "Site", value_parser = TokenHeader::parse)]
    pub token_header: TokenHeader,

    /// File with the JWT secret of the site (JWT_AUTH_SECRET_KEY). With it, the server verifies
    /// tokens without a request to the site. While the site changes its secret, the file may have
    /// the old and the new one on two lines. Instead of a file, BUDDYLINE_JWT_SECRET may hold the
    /// secret itself.
    #[arg(long, env = "BUDDYLINE_JWT_SECRET_FILE", value_name = "PATH", help_heading = "Site")]
    pub jwt_secret_file: Option<PathBuf>,

    /// File with the public key of the site for tokens that are signed with RS256 or ES256: PEM, or
    /// a JSON Web Key Set (JWKS), with at most 16 keys. With it, the server verifies such tokens
    /// without a request to the site. SIGHUP reads it again.
    #[arg(long, env = "BUDDYLINE_JWT_KEY_FILE", value_name = "PATH", help_heading = "Site")]
    pub jwt_key_file: Option<PathBuf>,

    /// Issuer (iss) in the tokens of the site, if it differs from --buddyboss-url: any text. Repeat
    /// it, or separate with commas, if the site has several; a comma in an issuer is written \,. An
    /// empty one accepts tokens without an issuer.
    #[arg(long, env = "BUDDYLINE_JWT_ISSUER", value_name = "TEXT", help_heading = "Site",
          value_parser = IssuerList::parse)]
    pub jwt_issuer: Vec<IssuerList>,

    /// Tokens without an expiry (exp) that a key of the site has signed: accept asks the site about
    /// them, and again every ten minutes, as about other credentials without an end; refuse refuses
    /// them.
    #[arg(
        long,
        env = "BUDDYLINE_JWT_WITHOUT_EXP",
        value_name = "MODE",
        default_value = "accept",
        help_heading = "Site"
    )]
    pub jwt_without_exp: TokensWithoutExp,

    /// File with the secret that the site's plugin shares with this server: the text that its
    /// settings page shows. With it, the server takes the plugin's events at POST /site/events, and
    /// its tickets as tokens. While the site changes the secret, the file may have the new and the
    /// old one on two lines; the first one signs. Instead of a file, BUDDYLINE_SITE_SECRET may hold
    /// the secret itself. SIGHUP reads it again.
    #[arg(long, env = "BUDDYLINE_SITE_SECRET_FILE", value_name = "PATH", help_heading = "Site")]
    pub site_secret_file: Option<PathBuf>,

    /// File with the login and password that the web server of the site asks for (HTTP Basic
    /// authentication), as login:password on one line. They are sent in Authorization with each
    /// request that needs no such header for a member's token: see --token-header. Instead of a
    /// file, BUDDYLINE_SITE_BASIC_AUTH may hold them.
    #[arg(
        long,
        env = "BUDDYLINE_SITE_BASIC_AUTH_FILE",
        value_name = "PATH",
        help_heading = "Site"
    )]
    pub site_basic_auth_file: Option<PathBuf>,

    /// PEM file with certificate authorities that the server trusts for the site's certificate, in
    /// addition to those of the system, or of the variables SSL_CERT_FILE and SSL_CERT_DIR.
    #[arg(long, env = "BUDDYLINE_SITE_CA_FILE", value_name = "PATH", help_heading = "Site")]
    pub site_ca_file: Option<PathBuf>,

    /// Proxy through which the server reaches the site: http://HOST:PORT, or off for none. If it
    /// is not set, the variables HTTPS_PROXY, HTTP_PROXY and NO_PROXY count. A user name and a
    /// password before the host are accepted in the variable only.
    #[arg(long, env = "BUDDYLINE_SITE_PROXY", hide_env_values = true, value_name = "URL",
          help_heading = "Site", value_parser = ProxyText::new)]
    pub site_proxy: Option<ProxyText>,

    /// Maximum number of concurrent requests to the site, 1 to 64. Further requests are queued.
    #[arg(long, env = "BUDDYLINE_UPSTREAM_WORKERS", value_name = "N", default_value_t = 4,
          help_heading = "Site", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub upstream_workers: u16,

    /// Maximum number of queued requests to the site, 1 to 100000. Beyond it, the client gets the
    /// error "overloaded".
    #[arg(long, env = "BUDDYLINE_UPSTREAM_QUEUE", value_name = "N", default_value_t = 256,
          help_heading = "Site", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub upstream_queue: u32,

    /// Maximum time for one whole request to the site, 1s to 5m. After it, the request has failed:
    /// the client gets "unknown_outcome" for a message that was posted, else "site_unavailable".
    #[arg(long, env = "BUDDYLINE_UPSTREAM_TIMEOUT", value_name = "TIME", default_value = "30s",
          help_heading = "Site", value_parser = |s: &str| parse_duration(s, "1s", "5m"))]
    pub upstream_timeout: Duration,

    /// How long a typing indicator lasts unless the client repeats it, 100ms to 1m. Then the server
    /// announces that the user has stopped.
    #[arg(long, env = "BUDDYLINE_TYPING_LASTS", value_name = "TIME", default_value = "3s",
          help_heading = "Behaviour", value_parser = |s: &str| parse_duration(s, "100ms", "1m"))]
    pub typing_lasts: Duration,

    /// How long a user stays online after their last connection has closed, 0s to 10m. Then the
    /// server announces the user as offline.
    #[arg(long, env = "BUDDYLINE_PRESENCE_GRACE", value_name = "TIME", default_value = "5s",
          help_heading = "Behaviour", value_parser = |s: &str| parse_duration(s, "0s", "10m"))]
    pub presence_grace: Duration,

    /// Which clients receive presence events (a user is online or offline).
    #[arg(
        long,
        env = "BUDDYLINE_PRESENCE",
        value_name = "SCOPE",
        default_value = "all",
        help_heading = "Behaviour"
    )]
    pub presence: PresenceScope,

    /// How long the site's list of the participants of a thread is cached, 10s to 10m, and at least
    /// twice --typing-lasts. Then the server requests it again.
    #[arg(long, env = "BUDDYLINE_MEMBERSHIP_LASTS", value_name = "TIME", default_value = "60s",
          help_heading = "Behaviour", value_parser = |s: &str| parse_duration(s, "10s", "10m"))]
    pub membership_lasts: Duration,

    /// Whether the participants of a thread hear how far others have read it (`thread_read`). Needs
    /// the plugin of the site.
    #[arg(
        long,
        env = "BUDDYLINE_READ_RECEIPTS",
        value_name = "MODE",
        default_value = "off",
        help_heading = "Behaviour"
    )]
    pub read_receipts: ReadReceipts,

    /// How often the site is asked again about each connected user, 0s to 24h, so that a suspended
    /// user is disconnected even if they only listen and their token is verified without the site.
    /// One such request is in flight at a time. With 0s, only credentials without an expiry are
    /// asked about, every 10m.
    #[arg(long, env = "BUDDYLINE_USER_RECHECK_EVERY", value_name = "TIME", default_value = "10m",
          help_heading = "Behaviour", value_parser = |s: &str| parse_duration(s, "0s", "24h"))]
    pub user_recheck_every: Duration,

    /// How long an answer of the site about a user suffices for typing and calls, 0s to 24h. The
    /// first such frame afterwards waits until the site has confirmed the user. With 0s, no frame
    /// waits.
    #[arg(long, env = "BUDDYLINE_USER_PROOF_LASTS", value_name = "TIME", default_value = "5m",
          help_heading = "Behaviour", value_parser = |s: &str| parse_duration(s, "0s", "24h"))]
    pub user_proof_lasts: Duration,

    /// Maximum time for a graceful stop, 0s to 10m: messages in flight get their outcome, and
    /// connections are closed gradually with 1012. With 0s, everything ends at once.
    #[arg(long, env = "BUDDYLINE_DRAIN_TIMEOUT", value_name = "TIME", default_value = "25s",
          help_heading = "Behaviour", value_parser = |s: &str| parse_duration(s, "0s", "10m"))]
    pub drain_timeout: Duration,

    /// The settings of calls.
    #[command(flatten)]
    set_calls: CallOptions,

    /// Number of open files to request from the system (RLIMIT_NOFILE), 64 to 10000000. If it is
    /// not set, as many as --max-connections needs. The hard limit of the system, which only root
    /// can raise, is never exceeded.
    #[arg(long, env = "BUDDYLINE_NOFILE", value_name = "N", help_heading = "Limits",
          value_parser = clap::value_parser!(u64).range(64..=10_000_000))]
    pub nofile: Option<u64>,

    /// STUN and TURN servers for calls.
    #[command(flatten)]
    pub ice: IceSettings,

    /// The limits on clients.
    #[command(flatten)]
    set_limits: Limits,

    /// Least severe level that is logged: off, error, warn, info or debug.
    #[arg(long, env = "BUDDYLINE_LOG_LEVEL", value_name = "LEVEL", default_value = "info",
          help_heading = "Logs", value_parser = log_level)]
    pub log_level: LevelFilter,

    /// Format of the log lines on standard error.
    #[arg(
        long,
        env = "BUDDYLINE_LOG_FORMAT",
        value_name = "FORM",
        default_value = "auto",
        help_heading = "Logs"
    )]
    pub log_format: LogFormat,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Journal if standard error is connected to the systemd journal, text otherwise.
    Auto,
    /// Time, level, module and message, with colours on a terminal.
    Text,
    /// For the systemd journal: the level as a number, and no time.
    Journal,
    /// One JSON object per line.
    Json,
}

/// Whether trusted proxies send a PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyProtocol {
    /// They must.
    On,
    /// They must not.
    Off,
}

/// Whether participants hear how far others have read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReadReceipts {
    /// They do.
    On,
    /// They do not.
    Off,
}

/// When the try-it page is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TryPage {
    /// Always.
    On,
    /// Never.
    Off,
    /// If --buddyboss-url is not set.
    Auto,
}

/// How a client proves its `userId`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Trust {
    /// Any userId is accepted, and any thread may be joined: for development and trusted networks.
    Open,
    /// A token of the site proves the userId, and the site lists the participants of each thread.
    Verified,
}

/// Treatment of tokens without an expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TokensWithoutExp {
    /// The site is asked about them, again and again.
    Accept,
    /// They are refused.
    Refuse,
}

/// Which clients receive presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PresenceScope {
    /// All clients.
    All,
    /// Clients that share a thread with the user; needs verified trust.
    Threads,
    /// No clients.
    Off,
}

impl Config {
    /// Validates the settings, the files that they name, and the addresses to listen on. Blocks
    /// while it looks up host names.
    ///
    /// # Errors
    ///
    /// A message that names the settings, their values and what is expected.
    pub fn check(&self) -> Result<(), String> {
        // The warnings are logged where the secrets are used.
        self.load_secrets()?;
        for (flag, listens) in [
            ("--listen", &self.listen),
            ("--metrics-listen", &self.metrics_listen),
            ("--site-listen", &self.site_listen),
        ] {
            for listen in listens {
                listen.resolve().map_err(|fault| format!("{flag} {fault}"))?;
            }
        }
        if let Some(owner) = &self.unix_socket_owner {
            owner.look_up().map_err(|fault| format!("--unix-socket-owner {owner}: {fault}"))?;
        }
        self.check_combinations()
    }

    /// Checks that the settings are compatible with each other.
    ///
    /// # Errors
    ///
    /// As [`Config::check`].
    pub fn check_combinations(&self) -> Result<(), String> {
        if self.trust == Some(Trust::Verified) && self.buddyboss_url.is_none() {
            return Err(
                "--trust is verified and --buddyboss-url is not set: only a site can verify \
                 tokens. Set --buddyboss-url, or --trust open."
                    .to_owned(),
            );
        }
        if self.presence == PresenceScope::Threads && self.trust_mode() == Trust::Open {
            return Err(
                "--presence is threads and --trust is open: the participants of a thread are \
                 known only with --trust verified. Set --presence all or off."
                    .to_owned(),
            );
        }
        self.site_route()?;
        let (typing, membership) = (self.typing_lasts, self.membership_lasts);
        if membership < typing * 2 {
            let [typing, membership] = [typing, membership].map(humantime::format_duration);
            return Err(format!(
                "--membership-lasts is {membership} and --typing-lasts is {typing}: \
                 --membership-lasts must be at least twice as long."
            ));
        }
        Ok(())
    }

    /// Returns the trust mode that is set, or its default.
    pub fn trust_mode(&self) -> Trust {
        let default = if self.buddyboss_url.is_some() { Trust::Verified } else { Trust::Open };
        self.trust.unwrap_or(default)
    }

    /// Returns the limits, with `--no-limits` applied.
    pub fn limits(&self) -> Limits {
        self.set_limits.effective()
    }

    /// Returns the settings of calls, with `--no-limits` applied.
    pub fn calls(&self) -> CallOptions {
        self.set_calls.effective(self.set_limits.no_limits)
    }

    /// Returns the origins of web pages that may connect.
    pub fn origins(&self) -> Origins {
        match (self.trust_mode(), &self.allowed_origin[..]) {
            (Trust::Open, []) => Origins::any(),
            (_, patterns) => Origins::only(patterns, self.buddyboss_url.as_ref()),
        }
    }

    /// Returns the mode and the owner of Unix sockets.
    pub fn socket_file(&self) -> SocketFile {
        SocketFile { mode: self.unix_socket_mode, owner: self.unix_socket_owner.clone() }
    }

    /// Returns the proxies whose `X-Forwarded-For` and `X-Forwarded-Host` are trusted.
    pub fn proxies(&self) -> TrustedProxies {
        TrustedProxies::new(&self.trusted_proxy)
    }

    /// Returns the number of descriptors that are not available to clients: those of the server
    /// itself, of monitoring and of the upstream workers.
    pub fn reserved_descriptors(&self) -> usize {
        let workers = self.buddyboss_url.as_ref().map_or(0, |_| self.upstream_workers.into());
        let monitors = if self.metrics_listen.is_empty() { 0 } else { DESCRIPTORS_FOR_MONITORING };
        let plugin = if self.site_listen.is_empty() { 0 } else { DESCRIPTORS_FOR_SITE };
        // Some listeners are part of the reserve.
        let listeners = (self.listen.len() + self.metrics_listen.len() + self.site_listen.len())
            .saturating_sub(2);
        DESCRIPTORS_RESERVED + listeners + monitors + plugin + workers * DESCRIPTORS_PER_WORKER
    }

    /// Reads the certificate and the private key of the server; `None` without TLS. Logs warnings.
    ///
    /// # Errors
    ///
    /// A message that names the file, or the setting that is missing, and what is wrong.
    pub fn tls(&self) -> Result<Option<TlsIdentity>, String> {
        Ok(self.tls_with_warnings()?.map(log_warnings))
    }

    fn tls_with_warnings(&self) -> Result<Option<(TlsIdentity, Vec<String>)>, String> {
        let files = tls::TlsFiles::from_process(self.tls_cert.as_deref(), self.tls_key.as_deref())?;
        files.map(|files| files.read()).transpose()
    }

    /// Whether the server uses TLS, without reading the files.
    ///
    /// # Errors
    ///
    /// Only one of the two files is set.
    pub fn has_tls(&self) -> Result<bool, String> {
        let files = tls::TlsFiles::from_process(self.tls_cert.as_deref(), self.tls_key.as_deref())?;
        Ok(files.is_some())
    }

    /// Whether trusted proxies must send a PROXY protocol header.
    pub fn is_proxy_protocol_on(&self) -> bool {
        self.proxy_protocol == ProxyProtocol::On
    }

    /// Whether the server serves the try-it page at `GET /`.
    pub fn is_try_page_enabled(&self) -> bool {
        match self.try_page {
            TryPage::On => true,
            TryPage::Off => false,
            TryPage::Auto => self.buddyboss_url.is_none(),
        }
    }
}

/// Parses a duration such as `500ms` and checks that it is between `min` and `max`, inclusive.
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
        // Trace is compiled out: tungstenite would log every frame at that level.
        Ok(LevelFilter::Trace) | Err(_) => {
            Err("expected one of off, error, warn, info, debug".to_owned())
        }
        Ok(level) => Ok(level),
    }
}

/// Logs the warnings that came with a setting.
fn log_warnings<T>((value, warnings): (T, Vec<String>)) -> T {
    warnings.iter().for_each(|warning| log::warn!("{warning}"));
    value
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
        assert!(
            config.listen[0].addresses.iter().all(|a| a.port() == 8080 && a.ip().is_loopback())
        );
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
            (["--jwt-without-exp", "maybe"], ["--jwt-without-exp", "maybe", "refuse"]),
            (["--buddyboss-url", "ftp://x"], ["--buddyboss-url", "ftp://x", "http"]),
            (["--allowed-origin", "a.example"], ["--allowed-origin", "a.example", "https://"]),
            (["--trusted-proxy", "nginx"], ["--trusted-proxy", "nginx", "10.0.0.0/8"]),
            (["--membership-lasts", "5s"], ["--membership-lasts", "5s", "10s to 10m"]),
            (["--anonymous-lasts", "1ms"], ["--anonymous-lasts", "1ms", "1s to 10m"]),
            (["--max-joins", "100001"], ["--max-joins", "100001", "1 to 100000, or 0"]),
            (["--max-head-bytes", "99"], ["--max-head-bytes", "99", "1024 to 65536, or 0"]),
            (["--max-header-lines", "9"], ["--max-header-lines", "9", "10 to 1000, or 0"]),
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

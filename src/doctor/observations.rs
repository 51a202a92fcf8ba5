//! The observations that `collect` records and `judge` evaluates.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::jwt_issuer::Issuer;
use crate::config::secrets::JwtKeys;
use crate::config::site_url::SiteUrl;
use crate::config::token_header::TokenHeader;
use crate::config::token_keys::KeyPlace;
use crate::protocol::credential::Scheme;
use crate::upstream::buddyboss::Reply;
use crate::upstream::jwt::Refusal;
use crate::upstream::plugin::{PluginFault, PluginStatus, TestReply};
use crate::upstream::url_style::UrlStyle;

/// All observations of an examination.
pub struct Observations {
    /// The site, if one is set.
    pub site: Option<SiteObservation>,
    /// This machine.
    pub machine: MachineObservation,
    /// The public address, if one was given.
    pub public: Option<PublicObservation>,
}

/// The steps to reach a host: name, connection, TLS. A step that was not tried is `None`.
#[derive(Debug, Default)]
pub struct Reachability {
    /// The host as it was written, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether TLS is used.
    pub secure: bool,
    /// The proxy, if there is one: the addresses and the connection are then its own.
    pub proxy: Option<ProxySeen>,
    /// The addresses of the name, or the reason why there are none.
    pub addresses: Option<Result<Vec<IpAddr>, String>>,
    /// The address and how long connecting took, or the reason why it failed.
    pub connected: Option<Result<(SocketAddr, Duration), String>>,
    /// The result of the TLS handshake.
    pub tls: Option<Tls>,
}

/// A proxy between the server and a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySeen {
    /// Its host, without brackets.
    pub host: String,
    /// Host and port, and the setting that names it; without its password.
    pub name: String,
    /// The port.
    pub port: u16,
    /// The setting or the variable that names it.
    pub source: &'static str,
}

/// The result of a TLS handshake.
#[derive(Debug, PartialEq, Eq)]
pub enum Tls {
    /// It worked.
    Works {
        /// The protocol version, such as `TLSv1.3`.
        version: String,
        /// Whether the certificate expires within 14 days.
        expires_soon: bool,
    },
    /// The certificate is not valid; the reason.
    Certificate(String),
    /// The certificate is that of another name.
    OtherName,
    /// The certificate has expired.
    Expired,
    /// No trusted authority has issued the certificate.
    UnknownAuthority(CertificateChain),
    /// The server does not speak TLS.
    NoTls,
    /// Any other failure; the reason.
    Failed(String),
}

/// The certificates that a server sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateChain {
    /// The issuer of the last one; empty if it cannot be read.
    pub issuer: String,
    /// Whether the server's certificate has signed itself.
    pub is_self_signed: bool,
    /// How many intermediate certificates came with it.
    pub intermediates: usize,
}

/// One request to the site and its result.
#[derive(Clone)]
pub struct TimedReply {
    /// The reply, or the reason why there is none.
    pub reply: Result<Reply, &'static str>,
    /// How long it took.
    pub took: Duration,
    /// When the reply arrived, in seconds since 1970 by this machine's clock.
    pub at_s: u64,
}

impl TimedReply {
    /// The reply, if one came.
    pub fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref().ok()
    }

    /// Whether it is what an endpoint of the REST API returns when all is well.
    pub fn is_good(&self) -> bool {
        self.reply().is_some_and(|reply| reply.status == 200 && reply.is_json())
    }
}

/// Requests sent at once, by callers that each send the next when the last is answered.
pub struct LoadObservation {
    /// The number of callers.
    pub callers: usize,
    /// Whether the site was asked by fewer callers than the server has workers.
    pub is_capped: bool,
    /// The result of each request: its status, or the reason why there is no usable reply.
    pub results: Vec<Result<u16, &'static str>>,
    /// The time from the first request until the last reply.
    pub took: Duration,
}

/// The observations of the site. A request that was not sent is `None` or missing in its list.
pub struct SiteObservation {
    /// The base URL.
    pub url: SiteUrl,
    /// The header for tokens.
    pub token_header: TokenHeader,
    /// The setting `--upstream-workers`.
    pub workers: u16,
    /// The setting `--upstream-timeout`.
    pub timeout: Duration,
    /// The certificate authorities that the server trusts for it.
    pub trust: String,
    /// Whether its host can be reached.
    pub reachability: Reachability,
    /// Anonymous requests for `members/me`, in one URL style and perhaps in the other.
    pub probes: Vec<(UrlStyle, TimedReply)>,
    /// Requests for the REST API's index, repeated for timing.
    pub index: Vec<TimedReply>,
    /// A request for a thread, anonymous or with the token.
    pub messages: Option<TimedReply>,
    /// A request for `members/me` with an invalid token.
    pub bad_token: Option<TimedReply>,
    /// The scheme of the token to try, if one was given.
    pub scheme: Option<Scheme>,
    /// The option that holds the token.
    pub token_option: &'static str,
    /// Requests for `members/me` with that token, repeated for timing.
    pub me: Vec<TimedReply>,
    /// A request for the newest thread of the token's user.
    pub newest_thread: Option<TimedReply>,
    /// Requests for that thread's participants, repeated for timing.
    pub thread: Vec<TimedReply>,
    /// The same request, sent several times at once.
    pub load: Option<LoadObservation>,
    /// The token's expiry, in seconds since 1970, if it has one.
    pub expires_s: Option<u64>,
    /// The result of verifying the token with the site's keys.
    pub secret: SecretCheck,
    /// The name of the finding about the keys: `JWT secret`, or `JWT key` for public keys only.
    pub key_finding: &'static str,
    /// The options that hold the keys.
    pub key_places: Vec<KeyPlace>,
    /// The issuers of which tokens must name one.
    pub issuers: Vec<Issuer>,
    /// Whether the site's web server gets a password.
    pub has_password: bool,
    /// The plugin, if there is a secret for it.
    pub plugin: Option<PluginObservation>,
}

/// The observations of the site's plugin. A step that was not tried is `None`.
#[derive(Default)]
pub struct PluginObservation {
    /// The reply to a signed request for its status, or the reason why there is none.
    pub status: Option<Result<Result<PluginStatus, PluginFault>, &'static str>>,
    /// When that request was signed, in seconds since 1970.
    pub sent_s: u64,
    /// The reply to the request for a test event.
    pub test: Option<Result<Result<TestReply, PluginFault>, &'static str>>,
    /// Whether the running server has received the test event, or why that is not known.
    pub arrival: Option<Result<bool, String>>,
}

/// The result of verifying a token with the JWT secret and the public keys.
pub enum SecretCheck {
    /// No key is set.
    None,
    /// A key is set, but there is no token to verify.
    Untried,
    /// The token's user or the refusal, and its explanation for the operator.
    Tried(Result<u64, Refusal>, Option<String>),
}

/// The observations of this machine.
pub struct MachineObservation {
    /// Each address to listen on, and the result of binding to it.
    pub listens: Vec<(String, Result<(), io::ErrorKind>)>,
    /// Whether the program that occupies an address is a buddyline server.
    pub is_ours: bool,
    /// The program that occupies an address, such as `nginx (pid 412)`, if it can be seen.
    pub holder: Option<String>,
    /// Whether `--listen` has its default.
    pub is_default: bool,
    /// The hard limit of open files, or the reason why it is unknown.
    pub files: Result<u64, String>,
    /// The number of files needed for all connections; `None` if connections have no limit.
    pub files_wanted: Option<u64>,
    /// The part of them that is not for connections.
    pub files_reserved: u64,
}

/// The observations of the public address.
pub struct PublicObservation {
    /// Whether the host in front of the server can be reached.
    pub reachability: Reachability,
    /// The result of requesting a WebSocket there; `None` if that was not tried.
    pub upgrade: Option<Upgrade>,
    /// The same with an origin; `None` if that was not tried.
    pub app_origin: Option<AppOrigin>,
}

/// The result of requesting a WebSocket as React Native does.
pub struct AppOrigin {
    /// The `Origin` that it makes of the public address.
    pub origin: String,
    /// The result; without a ping.
    pub upgrade: Upgrade,
}

/// The result of requesting a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// It opened.
    Opened {
        /// Whether `Upgrade` and `Sec-WebSocket-Accept` are right (RFC 6455 4.2.2).
        good: bool,
        /// How long the answer to a ping took, if one came.
        pong: Option<Duration>,
    },
    /// A reply that is not an upgrade.
    Answered {
        /// Its status.
        status: u16,
        /// Its `Location`, without parts that could be secret.
        location: Option<String>,
        /// The beginning of its body.
        body: String,
    },
    /// No reply; the reason.
    NoReply(String),
}

/// The keys of the site's tokens, if set.
pub type Keys = Option<JwtKeys>;

//! What was seen, before anybody judges it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::secrets::JwtKeys;
use crate::config::site_url::SiteUrl;
use crate::config::token_header::TokenHeader;
use crate::hub::interface::Failure;
use crate::protocol::credential::Scheme;
use crate::upstream::buddyboss::Reply;
use crate::upstream::url_style::UrlStyle;

/// All that an examination sees.
pub struct Observations {
    /// The site, where one is set.
    pub site: Option<SiteObservation>,
    /// This machine.
    pub machine: MachineObservation,
    /// The way of the clients, where an address was given.
    pub public: Option<PublicObservation>,
}

/// The way to a host: its name, a connection, TLS. Each is `None` where it was not tried.
#[derive(Debug, Default)]
pub struct Reachability {
    /// As it was written, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether there should be TLS.
    pub secure: bool,
    /// The addresses of the name, or why there are none.
    pub addresses: Option<Result<Vec<IpAddr>, String>>,
    /// How long connecting took, and to which address; or why it failed.
    pub connected: Option<Result<(SocketAddr, Duration), String>>,
    /// What came of the TLS handshake.
    pub tls: Option<Tls>,
}

/// What came of a TLS handshake.
#[derive(Debug, PartialEq, Eq)]
pub enum Tls {
    /// It worked.
    Works {
        /// `TLSv1.3`
        version: String,
        /// Whether the certificate is one that no longer holds in 14 days.
        expires_soon: bool,
    },
    /// The certificate is not to be believed; why, in a few words.
    Certificate(String),
    /// What answers does not speak TLS.
    NoTls,
    /// Anything else.
    Failed(String),
}

/// One question to the site.
#[derive(Clone)]
pub struct TimedReply {
    /// The answer, or why there is none.
    pub reply: Result<Reply, &'static str>,
    /// How long it took.
    pub took: Duration,
    /// When the answer was there, in seconds since 1970 by our clock.
    pub at_s: u64,
}

impl TimedReply {
    /// The answer, if one came.
    pub fn answer(&self) -> Option<&Reply> {
        self.reply.as_ref().ok()
    }
}

/// The site. What was not asked is `None`.
pub struct SiteObservation {
    /// Its address.
    pub url: SiteUrl,
    /// The header for tokens.
    pub token_header: TokenHeader,
    /// `--upstream-workers`
    pub workers: u16,
    /// `--upstream-timeout`
    pub timeout: Duration,
    /// The way there.
    pub reachability: Reachability,
    /// Who am I, as nobody, in one form and perhaps in the other.
    pub probes: Vec<(UrlStyle, TimedReply)>,
    /// What the REST API says of itself, several times.
    pub index: Vec<TimedReply>,
    /// A thread, asked for as nobody or with the token.
    pub messages: Option<TimedReply>,
    /// Who am I, with a token that is none.
    pub bad_token: Option<TimedReply>,
    /// How the token that was given is written, if one was.
    pub scheme: Option<Scheme>,
    /// Who am I, with that token, several times.
    pub me: Vec<TimedReply>,
    /// Its owner's newest thread.
    pub newest_thread: Option<TimedReply>,
    /// That thread's participants, several times.
    pub thread: Vec<TimedReply>,
    /// When the token ends, in seconds since 1970, where it says so.
    pub expires_s: Option<u64>,
    /// What the JWT secret says of the token.
    pub secret: SecretCheck,
    /// The issuer that tokens are expected to name.
    pub issuer: SiteUrl,
}

/// What the JWT secret says.
pub enum SecretCheck {
    /// None is set.
    None,
    /// There is one, and no token to try it with.
    Untried,
    /// Whose token it is, or why not; and what can be said of that.
    Tried(Result<u64, Failure>, Option<String>),
}

/// This machine.
pub struct MachineObservation {
    /// Each address to listen on, and what came of listening there.
    pub listens: Vec<(SocketAddr, Result<(), io::ErrorKind>)>,
    /// Whether what listens there already answers as this server does.
    pub is_ours: bool,
    /// How many files may be open, at most; or why that is not known.
    pub files: Result<u64, String>,
    /// How many are needed for all connections, or `None` where they have no limit.
    pub files_wanted: Option<u64>,
    /// Those of them that are not for connections.
    pub files_reserved: u64,
}

/// The way of the clients.
pub struct PublicObservation {
    /// The way to what stands in front of the server.
    pub reachability: Reachability,
    /// What came of asking for a WebSocket there; `None` where it was not tried.
    pub upgrade: Option<Upgrade>,
}

/// What came of asking for a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// It opened.
    Opened {
        /// Whether its accept key is right (RFC 6455 4.2.2).
        good: bool,
        /// How long a ping took to be answered, if it was.
        pong: Option<Duration>,
    },
    /// Another answer.
    Answered {
        /// Its status.
        status: u16,
        /// Its `Location`, without what could be secret.
        location: Option<String>,
        /// The beginning of its body.
        body: String,
    },
    /// None, and why.
    NoReply(String),
}

/// What the JWT secret is tried with.
pub type Keys = Option<JwtKeys>;

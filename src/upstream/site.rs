//! The blocking HTTP client for the site. Only worker threads and the doctor use it, never the
//! loop.
//!
//! **ureq never sends a request twice** (read in 3.5.2, `run.rs` and `pool.rs`): its only loop is
//! for redirects, which are off here. Before ureq reuses a pooled connection, it checks with a
//! non-blocking read whether the site has closed it, and discards it if so. If the site closes it
//! later, the request fails and is not repeated. A POST therefore arrives at most once;
//! `tests/upstream/pool.rs` and `tests/upstream/hostile.rs` check that.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ureq::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use ureq::http::{self, HeaderMap, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy, SendBody, Timeout};

use super::SiteSettings;
use super::buddyboss::{self, ProbeFinding, Reply, Request};
use super::checks::{self, PageProgress, ParticipantPages};
use super::health::Health;
use super::message_lookup;
use super::plugin::PluginRequest;
use super::url_style::UrlStyle;
use super::usability::{Evidence, ProbeKind};
use super::{page, wrapped_json};
use crate::config::site_password::SitePassword;
use crate::config::site_proxy::SiteProxy;
use crate::config::site_trust::SiteTrust;
use crate::config::site_url::SiteUrl;
use crate::config::token_header::TokenHeader;
use crate::hub::interface::{Answer, Ask, Failure, Lookup, Post};
use crate::protocol::credential::Credential;

/// The longest idle time after which a connection is reused, less than the 5 s after which Apache
/// closes it. The outcome of a POST on a connection that is being closed is unknown.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// The largest response header, far more than WordPress sends; a larger one is an error.
const HEADER_BYTES_MAX: usize = 32 << 10;

/// The time limit of a request to the plugin, because messages wait while it occupies a worker.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of a body that is not declared as JSON is read to see whether it is an HTML page.
const PAGE_START_BYTES: u64 = 1 << 10;

/// Any other error of a socket or of the resolver.
const NETWORK_FAULT: &str = "the network fails, or the host name cannot be resolved";

/// A client for one site, with its connection pool.
pub(super) struct Site {
    agent: Agent,
    url: SiteUrl,
    token_header: TokenHeader,
    password: Option<SitePassword>,
    /// Whether requests go through a proxy.
    has_proxy: bool,
    body_max: u64,
    /// For all HTTP requests that answer one [`Ask`].
    request_timeout: Duration,
    /// For each of the two HTTP requests of a probe.
    probe_timeout: Duration,
}

/// The outcome of an [`Ask`].
pub(super) struct Outcome {
    pub answer: Answer,
    /// The reason of a failure for the log, without secrets; `None` on success.
    pub log_detail: Option<String>,
    /// Whether the URL style may be wrong.
    pub suspect_url: bool,
    /// The site's health that it indicates.
    pub health: Health,
    /// Whether it shows that the site can serve members.
    pub evidence: Evidence,
    /// Why the JSON of the reply has other output around it, if it has.
    pub noise: Option<String>,
}

/// A probe to send.
pub(crate) struct ProbePlan {
    /// The URL style that is tried first.
    pub first: UrlStyle,
    /// The credential of a member whom the site has accepted before, if the site may be unusable.
    pub member: Option<Credential>,
    /// Whether to ask for the routes of messages as well.
    pub messages: bool,
}

/// The outcome of a probe.
pub(super) struct ProbeOutcome {
    /// The URL style under which the API answers, or what the probe found instead.
    pub found: Result<UrlStyle, ProbeFinding>,
    /// The reply that was found instead, for the log.
    pub detail: Option<String>,
    /// The kind of probe that was sent.
    pub kind: ProbeKind,
    /// The site's health that it indicates.
    pub health: Health,
    /// Why the JSON of the reply has other output around it, if it has.
    pub noise: Option<String>,
}

impl ProbeOutcome {
    /// The outcome of a probe without a reply.
    pub(super) fn unreachable(reason: &'static str, kind: ProbeKind) -> ProbeOutcome {
        ProbeOutcome {
            found: Err(ProbeFinding::Unreachable(reason)),
            detail: None,
            kind,
            health: Health::NO_REPLY,
            noise: None,
        }
    }

    /// Whether the probe shows that the site can serve members.
    pub(super) fn evidence(&self) -> Evidence {
        match &self.found {
            Ok(_) => Evidence::Usable,
            Err(ProbeFinding::NoMessages) => Evidence::MessagesMissing,
            // The circuit breaker decides about failures.
            Err(_) if matches!(self.health, Health::Failing { .. }) => Evidence::Nothing,
            Err(_) => Evidence::Unusable,
        }
    }

    /// Whether a request with a token would have met the same. A firewall may refuse anonymous
    /// requests only.
    pub(super) fn is_certain(&self) -> bool {
        let refused = matches!(self.found, Err(ProbeFinding::Other(401 | 403)));
        self.kind == ProbeKind::Member || !refused
    }
}

/// Why a request has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unanswered {
    /// The reason, safe to log.
    pub reason: &'static str,
    /// Whether the site may have received it.
    pub was_sent: bool,
}

/// The outcome of one HTTP request.
enum HttpOutcome {
    Replied(Box<Reply>),
    /// It failed before any of the body was sent: the site cannot have stored anything.
    NotSent(&'static str),
    /// It failed later.
    Lost(&'static str),
}

impl Site {
    pub(super) fn new(settings: &SiteSettings) -> Site {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Following a redirect would turn a POST into a GET and send a token to another host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // By default, ureq would take one from the environment.
            .proxy(settings.proxy.as_ref().map(client_proxy))
            // ureq resolves names on a separate thread, which ends when the system's resolver does.
            .timeout_resolve(Some(settings.connect_timeout))
            .timeout_connect(Some(settings.connect_timeout))
            .tls_config(TlsConfig::builder().root_certs(root_certs(&settings.trust)).build())
            .user_agent(concat!("buddyline/", env!("CARGO_PKG_VERSION")))
            .max_response_header_size(HEADER_BYTES_MAX)
            .input_buffer_size(2 * HEADER_BYTES_MAX)
            .output_buffer_size(16 << 10)
            .max_idle_connections(settings.workers.max(1))
            .max_idle_connections_per_host(settings.workers.max(1))
            .max_idle_age(IDLE_MAX)
            .build();
        Site {
            agent: Agent::new_with_config(config),
            url: settings.url.clone(),
            token_header: settings.token_header.clone(),
            password: settings.password.clone(),
            has_proxy: settings.proxy.is_some(),
            body_max: settings.body_max,
            request_timeout: settings.request_timeout,
            probe_timeout: settings.request_timeout.min(2 * settings.connect_timeout),
        }
    }

    /// Aborts all requests, current and future.
    pub(super) fn shut_down(&self) {
        self.agent.clone().shutdown();
    }

    /// Executes an ask. Blocks for at most the request timeout.
    pub(super) fn execute(&self, ask: &Ask, url_style: UrlStyle) -> Outcome {
        if let Some(failure) = buddyboss::precheck(ask) {
            return Outcome::failed(failure, None);
        }
        match ask {
            Ask::Post(post) => self.post(post, url_style),
            Ask::Prove(credential) | Ask::Recheck(credential) => self.prove(credential, url_style),
            Ask::CallPermission { thread, credential } => {
                self.call_permission(*thread, credential, url_style)
            }
            Ask::Participants { thread, credential } => self.list(*thread, credential, url_style),
            Ask::Lookup(lookup) => self.lookup(lookup, url_style),
        }
    }

    fn post(&self, post: &Post, url_style: UrlStyle) -> Outcome {
        let request = buddyboss::post_request(post, url_style);
        match self.send(&request, self.request_timeout) {
            HttpOutcome::Replied(reply) => {
                Outcome::from_reply(buddyboss::parse_post_reply(post, &reply), &reply, None)
            }
            HttpOutcome::NotSent(reason) => Outcome::unavailable(reason),
            HttpOutcome::Lost(reason) => Outcome::failed(Failure::Unknown, Some(reason)),
        }
    }

    fn prove(&self, credential: &Credential, url_style: UrlStyle) -> Outcome {
        let request = checks::prove_request(credential, url_style);
        match self.send(&request, self.request_timeout) {
            HttpOutcome::Replied(reply) => {
                Outcome::from_reply(checks::parse_prove_reply(credential, &reply), &reply, None)
            }
            HttpOutcome::NotSent(reason) | HttpOutcome::Lost(reason) => {
                Outcome::unavailable(reason)
            }
        }
    }

    fn call_permission(
        &self,
        thread: u64,
        credential: &Credential,
        url_style: UrlStyle,
    ) -> Outcome {
        let request = checks::call_permission_request(thread, credential, url_style);
        match self.send(&request, self.request_timeout) {
            HttpOutcome::Replied(reply) => {
                let answer = checks::parse_call_permission_reply(thread, &reply);
                Outcome::from_reply(answer, &reply, None)
            }
            HttpOutcome::NotSent(reason) | HttpOutcome::Lost(reason) => {
                Outcome::unavailable(reason)
            }
        }
    }

    fn lookup(&self, lookup: &Lookup, url_style: UrlStyle) -> Outcome {
        let request = message_lookup::lookup_request(lookup, url_style);
        match self.send(&request, self.request_timeout) {
            HttpOutcome::Replied(reply) => {
                let answer =
                    message_lookup::parse_lookup_reply(lookup, &reply, lookup.posted.elapsed());
                Outcome::from_reply(answer, &reply, None)
            }
            HttpOutcome::NotSent(reason) | HttpOutcome::Lost(reason) => {
                Outcome::unavailable(reason)
            }
        }
    }

    /// Requests page after page, all of them within one request timeout.
    fn list(&self, thread: u64, credential: &Credential, url_style: UrlStyle) -> Outcome {
        let started = Instant::now();
        let mut pages = ParticipantPages::new(thread);
        loop {
            let left = self.request_timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                let outcome = Outcome::unavailable("the replies take too long");
                return Outcome { health: Health::Neutral, ..outcome };
            }
            let request = checks::list_request(thread, pages.page(), credential, url_style);
            match self.send(&request, left) {
                HttpOutcome::Replied(reply) => match pages.add_page(&reply) {
                    PageProgress::More => {}
                    PageProgress::Done(answer, reason) => {
                        return Outcome::from_reply(answer, &reply, reason);
                    }
                },
                // Earlier pages arrived: this thread is slow, but the site is not silent.
                HttpOutcome::NotSent(reason) | HttpOutcome::Lost(reason) if pages.page() > 1 => {
                    return Outcome { health: Health::Neutral, ..Outcome::unavailable(reason) };
                }
                HttpOutcome::NotSent(reason) | HttpOutcome::Lost(reason) => {
                    return Outcome::unavailable(reason);
                }
            }
        }
    }

    /// Finds out under which URL style the API answers, if any. Blocks for at most six times the
    /// connect timeout.
    pub(super) fn probe(&self, plan: &ProbePlan) -> ProbeOutcome {
        let outcome = self.probe_style(plan.first, plan);
        match (&outcome.found, outcome.health) {
            // A failing site is not asked twice.
            (Ok(_) | Err(ProbeFinding::NoMessages), _) | (_, Health::Failing { .. }) => outcome,
            _ => {
                let other = self.probe_style(plan.first.other(), plan);
                // If neither works, the log shows the reply that members get.
                if other.found.is_ok() { other } else { outcome }
            }
        }
    }

    /// Sends a signed request to the site's plugin.
    ///
    /// # Errors
    ///
    /// Why no reply came.
    pub(super) fn ask_plugin(
        &self,
        request: &PluginRequest,
        url_style: UrlStyle,
    ) -> Result<Reply, Unanswered> {
        let plain = request.clone().into_request(url_style);
        match self.send(&plain, self.request_timeout.min(PLUGIN_TIMEOUT)) {
            HttpOutcome::Replied(reply) => Ok(*reply),
            HttpOutcome::NotSent(reason) => Err(Unanswered { reason, was_sent: false }),
            HttpOutcome::Lost(reason) => Err(Unanswered { reason, was_sent: true }),
        }
    }

    /// Sends one request and returns the uninterpreted reply.
    ///
    /// # Errors
    ///
    /// The reason reason no reply came, safe to log.
    pub(super) fn request(
        &self,
        request: &Request<'_>,
        timeout: Duration,
    ) -> Result<Reply, &'static str> {
        match self.send(request, timeout) {
            HttpOutcome::Replied(reply) => Ok(*reply),
            HttpOutcome::NotSent(reason) | HttpOutcome::Lost(reason) => Err(reason),
        }
    }

    fn probe_style(&self, url_style: UrlStyle, plan: &ProbePlan) -> ProbeOutcome {
        let kind = if plan.member.is_some() { ProbeKind::Member } else { ProbeKind::Anonymous };
        let request = buddyboss::probe_request(url_style, plan.member.as_ref());
        // A shorter timeout, because messages wait while the probe occupies a worker.
        let reply = match self.send(&request, self.probe_timeout) {
            HttpOutcome::Replied(reply) => reply,
            HttpOutcome::NotSent(reason) | HttpOutcome::Lost(reason) => {
                return ProbeOutcome::unreachable(reason, kind);
            }
        };
        let noise = reply.noise().map(str::to_owned);
        let finding = buddyboss::classify_probe_reply(&reply);
        let health = Health::from_reply(&reply, finding == ProbeFinding::Api);
        let (found, detail) = match finding {
            ProbeFinding::Api if plan.messages && self.has_no_messages(url_style) => {
                (Err(ProbeFinding::NoMessages), None)
            }
            ProbeFinding::Api => (Ok(url_style), None),
            finding => (Err(finding), Some(reply.describe())),
        };
        ProbeOutcome { found, detail, kind, health, noise }
    }

    fn has_no_messages(&self, url_style: UrlStyle) -> bool {
        let request = buddyboss::messages_probe_request(url_style);
        let outcome = self.send(&request, self.probe_timeout);
        matches!(outcome, HttpOutcome::Replied(reply) if reply.is_no_route())
    }

    fn send(&self, request: &Request<'_>, timeout: Duration) -> HttpOutcome {
        let mut builder = http::Request::builder()
            .method(request.method)
            .uri(format!("{}{}", self.url, request.path));
        for (name, value) in request.headers(&self.token_header, self.password.as_ref()) {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_str(&value);
            let (Ok(name), Ok(mut value)) = (name, value) else {
                return HttpOutcome::NotSent("a header value cannot be written");
            };
            // ureq logs headers; it prints sensitive values redacted.
            let is_secret = name == AUTHORIZATION || name == self.token_header.name();
            value.set_sensitive(is_secret);
            builder = builder.header(name, value);
        }
        let Some(body) = &request.body else {
            let token = Some(request.token.map_or("", Credential::secret));
            let Ok(request) = builder.body(()) else {
                return HttpOutcome::NotSent("not a valid request");
            };
            let request =
                self.agent.configure_request(request).timeout_global(Some(timeout)).build();
            return match self.agent.run(request) {
                Ok(response) => HttpOutcome::Replied(Box::new(self.read(response, token))),
                Err(error) => HttpOutcome::Lost(self.describe_error(&error)),
            };
        };
        let mut tracked = TrackedBody { rest: body.as_bytes(), started: false };
        // Without a length ureq would send chunks, which not every server passes on to PHP.
        builder = builder.header("Content-Length", body.len());
        let Ok(request) = builder.body(SendBody::from_reader(&mut tracked)) else {
            return HttpOutcome::NotSent("not a valid request");
        };
        let request = self.agent.configure_request(request).timeout_global(Some(timeout)).build();
        match self.agent.run(request) {
            Ok(response) => HttpOutcome::Replied(Box::new(self.read(response, None))),
            Err(error) if tracked.started => HttpOutcome::Lost(self.describe_error(&error)),
            Err(error) => HttpOutcome::NotSent(self.describe_error(&error)),
        }
    }

    /// Describes an error in fixed words. With a proxy, ureq resolves only its name and connects
    /// only to it.
    fn describe_error(&self, error: &ureq::Error) -> &'static str {
        use io::ErrorKind as Kind;
        match error {
            ureq::Error::ConnectProxyFailed(reason) if reason.contains(" 407/") => {
                "the proxy requires a user name and a password (407)"
            }
            ureq::Error::ConnectProxyFailed(reason) if reason.contains(" 403/") => {
                "the proxy forbids connections to the site (403)"
            }
            ureq::Error::ConnectProxyFailed(_) => "the proxy does not connect to the site",
            ureq::Error::HostNotFound if self.has_proxy => {
                "the host name of the proxy cannot be resolved"
            }
            ureq::Error::Timeout(Timeout::Connect) if self.has_proxy => {
                "connecting through the proxy takes too long"
            }
            ureq::Error::Io(fault) if self.has_proxy && fault.kind() == Kind::ConnectionRefused => {
                "the proxy cannot be reached: the connection is refused"
            }
            _ => match describe_error(error) {
                NETWORK_FAULT if self.has_proxy => {
                    "the network fails, or the host name of the proxy cannot be resolved"
                }
                other => other,
            },
        }
    }

    /// Reads a reply. For a GET, the title of a page is read as well, unless it repeats the token
    /// of the request; `token` is empty if there was none, and `None` for a POST.
    fn read(&self, response: Response<Body>, token: Option<&str>) -> Reply {
        let (head, body) = response.into_parts();
        let mut reply = Reply {
            status: head.status.as_u16(),
            content_type: header_text(&head.headers, "content-type"),
            retry_after: header_text(&head.headers, "retry-after"),
            date: header_text(&head.headers, "date"),
            age: header_text(&head.headers, "age"),
            location: header_text(&head.headers, "location"),
            ..Reply::default()
        };
        let title_of = |html: &[u8]| {
            let has_token =
                |title: &String| token.is_some_and(|t| !t.is_empty() && title.contains(t));
            page::title(html).filter(|title| token.is_some() && !has_token(title))
        };
        // Only JSON bodies are read to their end. The connection of any other is not reused.
        let is_undeclared = reply.may_be_undeclared_json();
        if (reply.declares_json() && !head.status.is_redirection()) || is_undeclared {
            let mut bytes = Vec::new();
            // The limit counts decompressed bytes.
            let mut reader = body.into_with_config().limit(self.body_max).reader();
            let start = reader.by_ref().take(PAGE_START_BYTES).read_to_end(&mut bytes);
            if is_undeclared && wrapped_json::is_page(&bytes) {
                let _ = reader.take(page::TITLE_WITHIN_BYTES).read_to_end(&mut bytes);
                reply.title = title_of(&bytes);
                return reply;
            }
            match start.and_then(|_| reader.read_to_end(&mut bytes)) {
                Ok(_) => reply.body = Some(bytes),
                Err(error) => reply.truncated = is_truncation(&ureq::Error::from(error)),
            }
        } else if token.is_some() && !head.status.is_redirection() {
            let mut bytes = Vec::new();
            let reader = body.into_with_config().limit(self.body_max).reader();
            let _ = reader.take(page::TITLE_WITHIN_BYTES).read_to_end(&mut bytes);
            reply.title = title_of(&bytes);
        }
        reply.read_through()
    }
}

impl Outcome {
    /// The outcome of a reply; `detail` replaces the reply's own log detail.
    fn from_reply(answer: Answer, reply: &Reply, detail: Option<&'static str>) -> Outcome {
        let failed = matches!(answer, Answer::Failed(_));
        let misconfigured = answer == Answer::Failed(Failure::SiteMisconfigured);
        let health = Health::from_reply(reply, !failed);
        let evidence = match &answer {
            _ if reply.is_no_route() => Evidence::MessagesMissing,
            // The web server's limit concerns this text only.
            Answer::Failed(Failure::TooLarge) => Evidence::Nothing,
            _ if health == Health::Alive || answer.is_from_site() => Evidence::Usable,
            // The circuit breaker decides about failures.
            _ if matches!(health, Health::Failing { .. }) => Evidence::Nothing,
            _ => Evidence::Unusable,
        };
        Outcome {
            // Where WordPress itself knows no such route, the URL style is right.
            suspect_url: (misconfigured && !reply.is_no_route())
                || (reply.status == 200 && !reply.is_json()),
            log_detail: failed.then(|| detail.map_or_else(|| reply.describe(), str::to_owned)),
            health,
            evidence,
            noise: reply.noise().map(str::to_owned),
            answer,
        }
    }

    fn unavailable(reason: &'static str) -> Outcome {
        Outcome::failed(Failure::SiteUnavailable { retry_after_s: None }, Some(reason))
    }

    /// A failure without a reply. With a log detail it counts against the site's health; without
    /// one, the site was not asked.
    pub(super) fn failed(failure: Failure, log_detail: Option<&'static str>) -> Outcome {
        let health = log_detail.map_or(Health::Neutral, |_| Health::NO_REPLY);
        let evidence = Evidence::Nothing;
        let log_detail = log_detail.map(str::to_owned);
        let answer = Answer::Failed(failure);
        Outcome { answer, log_detail, suspect_url: false, health, evidence, noise: None }
    }
}

/// A request body that records whether ureq has started to read it.
///
/// ureq connects, does the TLS handshake and sends the headers first, and its errors do not show
/// which step failed: a reset is an `Io` error at any time, and the global timeout may end any
/// step. If the body was never read, the site has received nothing that it could store.
struct TrackedBody<'a> {
    rest: &'a [u8],
    started: bool,
}

impl Read for TrackedBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.started = true;
        self.rest.read(buffer)
    }
}

/// The same proxy for ureq, which asks it for a tunnel with CONNECT.
fn client_proxy(proxy: &SiteProxy) -> Proxy {
    Proxy::new(proxy.url()).expect("the URL was checked when it was parsed")
}

/// The header `Proxy-Authorization` for a proxy with a password, as ureq sends it.
pub(super) fn proxy_authorization(proxy: &SiteProxy) -> Option<String> {
    let proxy = client_proxy(proxy);
    let (user, password) = (proxy.username(), proxy.password());
    let pair = format!("{}:{}", user.unwrap_or_default(), password.unwrap_or_default());
    user.or(password).map(|_| format!("Basic {}", STANDARD.encode(pair)))
}

fn root_certs(trust: &SiteTrust) -> RootCerts {
    let Some(certificates) = trust.certificates() else { return RootCerts::WebPki };
    RootCerts::from(certificates.iter().map(|der| Certificate::from_der(der).to_owned()))
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// Whether the connection ended before the body did; false for a body beyond the limit or
/// malformed.
fn is_truncation(error: &ureq::Error) -> bool {
    use io::ErrorKind as Kind;
    match error {
        ureq::Error::Timeout(_) => true,
        ureq::Error::Io(error) => matches!(
            error.kind(),
            Kind::UnexpectedEof
                | Kind::ConnectionReset
                | Kind::ConnectionAborted
                | Kind::BrokenPipe
                | Kind::TimedOut
        ),
        _ => false,
    }
}

/// Describes an error in fixed words, which cannot contain anything of a request.
fn describe_error(error: &ureq::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match error {
        ureq::Error::HostNotFound => "the host name cannot be resolved",
        ureq::Error::Timeout(Timeout::Resolve) => "resolving the host name takes too long",
        ureq::Error::Timeout(Timeout::Connect) => "connecting takes too long",
        ureq::Error::Timeout(_) => "the answer takes too long",
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::TlsRequired => "TLS failed",
        ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => "the answer is not HTTP",
        ureq::Error::Io(error) => match error.kind() {
            Kind::ConnectionRefused => "the connection is refused",
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => {
                "the connection is reset"
            }
            Kind::UnexpectedEof => "the connection is closed without an answer",
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
                "there is no route to the host"
            }
            Kind::NotConnected => "the server is stopping",
            // rustls' errors arrive wrapped in this kind.
            Kind::InvalidData => "TLS failed, or the answer is not HTTP",
            _ => NETWORK_FAULT,
        },
        _ => "the request fails",
    }
}

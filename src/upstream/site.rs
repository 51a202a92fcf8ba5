//! One blocking call to the site. Workers run this; the loop never does.
//!
//! **ureq never sends a request twice** (read in 3.5.2, `run.rs` and `pool.rs`): its only loop is
//! for redirects, which are off here. A pooled connection is looked at before it is used (a read
//! that does not block), and thrown away if the site has closed it; one that closes later than
//! that makes the call fail, and the call is not repeated. A POST therefore arrives at most once,
//! which `tests/upstream/pool.rs` and `tests/upstream/hostile.rs` hold it to.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use ureq::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use ureq::http::{self, HeaderMap, Response};
use ureq::{Agent, Body, SendBody, Timeout};

use super::SiteSettings;
use super::buddyboss::{self, ProbeFinding, Reply, Request};
use super::checks::{self, PageProgress, ParticipantPages};
use super::health::Health;
use super::reconcile;
use super::url_style::UrlStyle;
use crate::config::site_url::SiteUrl;
use crate::config::token_header::TokenHeader;
use crate::hub::interface::{Answer, Ask, Failure, Lookup, Post};
use crate::protocol::credential::Credential;

/// A connection is used again this long after its last answer, no longer: below the 5 s after which
/// Apache closes it. A POST that meets a closing connection is a message whose fate is unknown.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// Far more than WordPress sends; beyond it the answer counts as none.
const HEADER_BYTES_MAX: usize = 32 << 10;

/// The site as a worker sees it; a clone shares the connections.
#[derive(Clone)]
pub(super) struct Site {
    agent: Agent,
    url: SiteUrl,
    token_header: TokenHeader,
    body_max: u64,
    /// For all calls of an ask.
    request_timeout: Duration,
    /// For each of the two calls of a probe.
    probe_timeout: Duration,
}

/// What came of an ask.
pub(super) struct Outcome {
    pub answer: Answer,
    /// What happened, in our words, for the log; `None` when all is well.
    pub log_detail: Option<String>,
    /// Whether the address form may be the wrong one.
    pub suspect_url: bool,
    /// What it says about the site as a whole.
    pub health: Health,
}

/// What came of a probe.
pub(super) struct ProbeOutcome {
    /// The form of address that the site answers to.
    pub found: Result<UrlStyle, ProbeFinding>,
    /// What it says about the site as a whole.
    pub health: Health,
}

/// What came of a call.
enum HttpOutcome {
    Replied(Reply),
    /// It failed before the body was touched: the site cannot have stored anything.
    NotSent(&'static str),
    /// It failed later.
    Lost(&'static str),
}

impl Site {
    pub fn new(settings: &SiteSettings) -> Site {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect would make a GET of a POST, and carry a token to another host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Not from the environment: a forgotten variable must not send tokens elsewhere.
            .proxy(None)
            // Looking a name up counts as connecting here; ureq does it on a thread of its own,
            // which ends when the system's resolver gives up.
            .timeout_resolve(Some(settings.connect_timeout))
            .timeout_connect(Some(settings.connect_timeout))
            .user_agent(concat!("buddyline/", env!("CARGO_PKG_VERSION")))
            .max_response_header_size(HEADER_BYTES_MAX)
            .input_buffer_size(2 * HEADER_BYTES_MAX)
            .output_buffer_size(16 << 10)
            .max_idle_connections(settings.workers.max(1))
            .max_idle_connections_per_host(settings.workers.max(1))
            .max_idle_age(IDLE_MAX)
            .build();
        let agent = Agent::new_with_config(config);
        Site {
            agent,
            url: settings.url.clone(),
            token_header: settings.token_header.clone(),
            body_max: settings.body_max,
            request_timeout: settings.request_timeout,
            probe_timeout: settings.request_timeout.min(2 * settings.connect_timeout),
        }
    }

    /// Ends all calls, and all that are still to come.
    pub fn shut_down(&self) {
        self.agent.clone().shutdown();
    }

    /// Puts an ask to the site. Takes as long as it takes, bounded by the request timeout.
    pub fn execute(&self, ask: &Ask, url_style: UrlStyle) -> Outcome {
        if let Some(failure) = buddyboss::precheck(ask) {
            return Outcome::failed(failure, None);
        }
        match ask {
            Ask::Post(post) => self.post(post, url_style),
            Ask::Prove(credential) => self.prove(credential, url_style),
            Ask::Participants { thread, credential } => self.list(*thread, credential, url_style),
            Ask::Lookup(look) => self.look(look, url_style),
        }
    }

    fn post(&self, post: &Post, url_style: UrlStyle) -> Outcome {
        let request = buddyboss::post_request(post, url_style);
        match self.send(&request, self.request_timeout) {
            HttpOutcome::Replied(reply) => {
                Outcome::from_reply(buddyboss::parse_post_reply(post, &reply), &reply, None)
            }
            HttpOutcome::NotSent(why) => Outcome::unavailable(why),
            HttpOutcome::Lost(why) => Outcome::failed(Failure::Unknown, Some(why)),
        }
    }

    fn prove(&self, credential: &Credential, url_style: UrlStyle) -> Outcome {
        let request = checks::prove_request(credential, url_style);
        match self.send(&request, self.request_timeout) {
            HttpOutcome::Replied(reply) => {
                Outcome::from_reply(checks::parse_prove_reply(credential, &reply), &reply, None)
            }
            HttpOutcome::NotSent(why) | HttpOutcome::Lost(why) => Outcome::unavailable(why),
        }
    }

    fn look(&self, look: &Lookup, url_style: UrlStyle) -> Outcome {
        let request = reconcile::look_request(look, url_style);
        match self.send(&request, self.request_timeout) {
            HttpOutcome::Replied(reply) => {
                let answer = reconcile::parse_look_reply(look, &reply, look.posted.elapsed());
                Outcome::from_reply(answer, &reply, None)
            }
            HttpOutcome::NotSent(why) | HttpOutcome::Lost(why) => Outcome::unavailable(why),
        }
    }

    /// Page after page, and all of them within the time of one request.
    fn list(&self, thread: u64, credential: &Credential, url_style: UrlStyle) -> Outcome {
        let started = Instant::now();
        let mut pages = ParticipantPages::new(thread);
        loop {
            let left = self.request_timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                let outcome = Outcome::unavailable("the answers take too long");
                return Outcome { health: Health::Neutral, ..outcome };
            }
            let request = checks::list_request(thread, pages.page(), credential, url_style);
            match self.send(&request, left) {
                HttpOutcome::Replied(reply) => match pages.add_page(&reply) {
                    PageProgress::More => {}
                    PageProgress::Done(answer, why) => {
                        return Outcome::from_reply(answer, &reply, why);
                    }
                },
                // Pages came: it is this thread that takes long, not the site that is silent.
                HttpOutcome::NotSent(why) | HttpOutcome::Lost(why) if pages.page() > 1 => {
                    return Outcome { health: Health::Neutral, ..Outcome::unavailable(why) };
                }
                HttpOutcome::NotSent(why) | HttpOutcome::Lost(why) => {
                    return Outcome::unavailable(why);
                }
            }
        }
    }

    /// Finds out which form of address the site answers to, if any, and tries `first` first. Takes
    /// no longer than four times the connect timeout.
    pub fn probe(&self, first: UrlStyle) -> ProbeOutcome {
        let (finding, health) = self.probe_style(first);
        let (url_style, (finding, health)) = match finding {
            ProbeFinding::Api => (first, (finding, health)),
            // A site that fails is not asked twice.
            _ if matches!(health, Health::Failing { .. }) => (first, (finding, health)),
            _ => (first.other(), self.probe_style(first.other())),
        };
        let found = if finding == ProbeFinding::Api { Ok(url_style) } else { Err(finding) };
        ProbeOutcome { found, health }
    }

    /// Asks, and leaves it to the caller what the answer means.
    ///
    /// # Errors
    ///
    /// Why no answer came, in our words.
    pub fn ask(&self, request: &Request<'_>, timeout: Duration) -> Result<Reply, &'static str> {
        match self.send(request, timeout) {
            HttpOutcome::Replied(reply) => Ok(reply),
            HttpOutcome::NotSent(why) | HttpOutcome::Lost(why) => Err(why),
        }
    }

    fn probe_style(&self, url_style: UrlStyle) -> (ProbeFinding, Health) {
        // Nobody's message should wait for it long.
        match self.send(&buddyboss::probe_request(url_style), self.probe_timeout) {
            HttpOutcome::Replied(reply) => {
                let finding = buddyboss::classify_probe_reply(&reply);
                let health = Health::from_reply(&reply, finding == ProbeFinding::Api);
                (finding, health)
            }
            HttpOutcome::NotSent(why) | HttpOutcome::Lost(why) => {
                (ProbeFinding::Unreachable(why), Health::NO_REPLY)
            }
        }
    }

    fn send(&self, request: &Request<'_>, timeout: Duration) -> HttpOutcome {
        let mut wanted = http::Request::builder()
            .method(request.method)
            .uri(format!("{}{}", self.url, request.path));
        for (name, value) in request.headers(&self.token_header) {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_str(&value);
            let (Ok(name), Ok(mut value)) = (name, value) else {
                return HttpOutcome::NotSent("a header value cannot be written");
            };
            // Sensitive values print as such, wherever ureq prints them.
            let secret = name == AUTHORIZATION || name == self.token_header.name();
            value.set_sensitive(secret);
            wanted = wanted.header(name, value);
        }
        let Some(body) = &request.body else {
            let Ok(wanted) = wanted.body(()) else {
                return HttpOutcome::NotSent("not a valid request");
            };
            let wanted = self.agent.configure_request(wanted).timeout_global(Some(timeout)).build();
            return match self.agent.run(wanted) {
                Ok(response) => HttpOutcome::Replied(self.read(response)),
                Err(error) => HttpOutcome::Lost(describe_error(&error)),
            };
        };
        let mut sent = TrackedBody { rest: body.as_bytes(), started: false };
        // Without a length ureq would send chunks, which not every server hands to PHP.
        wanted = wanted.header("Content-Length", body.len());
        let Ok(wanted) = wanted.body(SendBody::from_reader(&mut sent)) else {
            return HttpOutcome::NotSent("not a valid request");
        };
        let wanted = self.agent.configure_request(wanted).timeout_global(Some(timeout)).build();
        match self.agent.run(wanted) {
            Ok(response) => HttpOutcome::Replied(self.read(response)),
            Err(error) if sent.started => HttpOutcome::Lost(describe_error(&error)),
            Err(error) => HttpOutcome::NotSent(describe_error(&error)),
        }
    }

    fn read(&self, response: Response<Body>) -> Reply {
        let (head, body) = response.into_parts();
        let mut reply = Reply {
            status: head.status.as_u16(),
            content_type: header_text(&head.headers, "content-type"),
            retry_after: header_text(&head.headers, "retry-after"),
            date: header_text(&head.headers, "date"),
            age: header_text(&head.headers, "age"),
            location: header_text(&head.headers, "location"),
            body: None,
            truncated: false,
        };
        // Only JSON is ever looked into. Any other body is left unread, and the connection with it.
        if reply.is_json() && !head.status.is_redirection() {
            let mut bytes = Vec::new();
            // The limit counts what comes out of the decompression.
            let mut reader = body.into_with_config().limit(self.body_max).reader();
            match reader.read_to_end(&mut bytes) {
                Ok(_) => reply.body = Some(bytes),
                Err(fault) => reply.truncated = is_truncation(&ureq::Error::from(fault)),
            }
        }
        reply
    }
}

impl Outcome {
    /// An answer that follows from this reply; `why` where that does not show what happened.
    fn from_reply(answer: Answer, reply: &Reply, why: Option<&'static str>) -> Outcome {
        let failed = matches!(answer, Answer::Failed(_));
        let lost = answer == Answer::Failed(Failure::SiteMisconfigured);
        Outcome {
            suspect_url: lost || (reply.status == 200 && !reply.is_json()),
            log_detail: failed.then(|| why.map_or_else(|| reply.log_detail(), str::to_owned)),
            health: Health::from_reply(reply, !failed),
            answer,
        }
    }

    fn unavailable(why: &'static str) -> Outcome {
        Outcome::failed(Failure::SiteUnavailable { retry_after_s: None }, Some(why))
    }

    /// A failure without a reply. With a remark, which says what happened on the way, it is the
    /// site's silence; without, the site has not been asked.
    pub fn failed(failure: Failure, log_detail: Option<&'static str>) -> Outcome {
        let health = log_detail.map_or(Health::Neutral, |_| Health::NO_REPLY);
        let log_detail = log_detail.map(str::to_owned);
        Outcome { answer: Answer::Failed(failure), log_detail, suspect_url: false, health }
    }
}

/// A request body that knows whether it was asked for.
///
/// ureq connects, shakes hands and sends the headers first, and its errors do not tell these from
/// what comes after: a reset is an `Io` error at any time, and the global timeout strikes anywhere.
/// This tells: a site that has seen nothing of the body has nothing to store.
struct TrackedBody<'a> {
    rest: &'a [u8],
    started: bool,
}

impl Read for TrackedBody<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.started = true;
        self.rest.read(to)
    }
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// Whether a body's end did not come, rather than lying beyond the limit or being malformed.
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

/// What went wrong, in words that cannot hold anything of a request.
fn describe_error(error: &ureq::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match error {
        ureq::Error::HostNotFound => "the host name is not known",
        ureq::Error::Timeout(Timeout::Resolve) => "looking up the host name takes too long",
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
                "there is no way to the host"
            }
            Kind::NotConnected => "the server is stopping",
            // rustls' errors come wrapped into this kind.
            Kind::InvalidData => "TLS failed, or the answer is not HTTP",
            _ => "the network fails, or the host name is not known",
        },
        _ => "the call fails",
    }
}

//! Collects the observations of the site: sends and times requests as the server's workers do.

use std::time::{Duration, Instant};

use http::Uri;

use super::{TimeBudget, net, now_s};
use crate::config::Config;
use crate::config::site_trust::SiteTrust;
use crate::config::site_url::SiteUrl;
use crate::doctor::judge::site::{owner, url_style};
use crate::doctor::observations::{Keys, SecretCheck, SiteObservation, TimedReply};
use crate::protocol::credential::{Credential, Scheme};
use crate::upstream::SiteSettings;
use crate::upstream::buddyboss::{self, ProbeFinding, Reply};
use crate::upstream::jwt::{self, Verifier};
use crate::upstream::probe_client::{self, ProbeClient};
use crate::upstream::url_style::UrlStyle;

/// How often each of the three timed requests is sent.
const REPEATS: usize = 3;
/// An invalid token: it has two segments, while a JWT has three.
const BAD_TOKEN: &str = "this-is.no-token";
/// A thread id that many sites have; only whether the route exists matters.
const SAMPLE_THREAD: u64 = 1;

/// Examines the site within the time budget, with at most 14 requests, all of them GETs.
pub(super) fn collect(
    config: &Config,
    url: &SiteUrl,
    credential: Option<&Credential>,
    keys: Keys,
    trust: SiteTrust,
    time: TimeBudget,
) -> SiteObservation {
    let issuer = config.jwt_issuer.clone().unwrap_or_else(|| url.clone());
    let (host, port, secure) = endpoint(url);
    let (reachability, stream) = net::open_stream(&host, port, secure, &trust, time);
    // The requests use connections of their own, as the server's do.
    let is_reachable = stream.is_some();
    drop(stream);
    let mut observation = SiteObservation {
        url: url.clone(),
        token_header: config.token_header.clone(),
        workers: config.upstream_workers,
        timeout: config.upstream_timeout,
        reachability,
        trust: trust.to_string(),
        probes: Vec::new(),
        index: Vec::new(),
        messages: None,
        bad_token: None,
        scheme: credential.map(Credential::scheme),
        me: Vec::new(),
        newest_thread: None,
        thread: Vec::new(),
        expires_s: credential.and_then(jwt::expiry),
        secret: check_secret(keys, credential, &issuer),
        issuer,
    };
    if is_reachable {
        let settings = SiteSettings {
            workers: 1,
            request_timeout: config.upstream_timeout,
            token_header: config.token_header.clone(),
            trust,
            ..SiteSettings::new(url.clone())
        };
        send_requests(&mut observation, &ProbeClient::new(&settings), credential, time);
    }
    observation
}

fn send_requests(
    observation: &mut SiteObservation,
    client: &ProbeClient,
    credential: Option<&Credential>,
    time: TimeBudget,
) {
    for url_style in [UrlStyle::Pretty, UrlStyle::RestRoute] {
        let Some(call) = call(time, |timeout| client.me(url_style, None, timeout)) else { return };
        let finding = call.reply().map(buddyboss::classify_probe_reply);
        observation.probes.push((url_style, call));
        // A site that does not reply at all is not asked twice.
        if matches!(finding, None | Some(ProbeFinding::Api)) {
            break;
        }
    }
    let Some(url_style) = url_style(observation) else { return };
    if let Ok(bad_token) = Credential::parse(BAD_TOKEN) {
        observation.bad_token =
            call(time, |timeout| client.me(url_style, Some(&bad_token), timeout));
    }
    if let Some(credential) = credential {
        observation.me = repeat(time, |timeout| client.me(url_style, Some(credential), timeout));
    }
    // A credential that the site refused would be refused here as well.
    let accepted = credential.filter(|_| owner(observation).is_some());
    let sample_thread = |timeout| client.participants(url_style, SAMPLE_THREAD, accepted, timeout);
    observation.messages = call(time, sample_thread);
    observation.index = repeat(time, |timeout| client.index(url_style, timeout));
    let Some(credential) = accepted else { return };
    observation.newest_thread =
        call(time, |timeout| client.newest_thread(url_style, credential, timeout));
    let newest = observation.newest_thread.as_ref().and_then(TimedReply::reply);
    if let Some(thread) = newest.and_then(probe_client::parse_newest_thread).flatten() {
        let request = |timeout| client.participants(url_style, thread, Some(credential), timeout);
        observation.thread = repeat(time, request);
    }
}

type ReplyResult = Result<Reply, &'static str>;

/// Sends one request; `None` if there is no time left.
fn call(time: TimeBudget, request: impl FnOnce(Duration) -> ReplyResult) -> Option<TimedReply> {
    let timeout = time.for_request()?;
    let started = Instant::now();
    let reply = request(timeout);
    Some(TimedReply { reply, took: started.elapsed(), at_s: now_s() })
}

/// Sends a request [`REPEATS`] times, or until one fails.
fn repeat(time: TimeBudget, request: impl Fn(Duration) -> ReplyResult) -> Vec<TimedReply> {
    let mut calls = Vec::new();
    while calls.len() < REPEATS {
        let Some(call) = call(time, &request) else { break };
        let is_ok = call.reply().is_some_and(|reply| reply.status == 200);
        calls.push(call);
        if !is_ok {
            break;
        }
    }
    calls
}

fn check_secret(keys: Keys, credential: Option<&Credential>, issuer: &SiteUrl) -> SecretCheck {
    let Some(keys) = keys else { return SecretCheck::None };
    let Some(credential) = credential.filter(|it| it.scheme() == Scheme::Bearer) else {
        return SecretCheck::Untried;
    };
    let verifier = Verifier::new(&keys, issuer.clone());
    let token = credential.secret();
    let user = verifier.verify(token, now_s()).map(|proven| proven.user);
    let log_detail = if user.is_err() { verifier.log_detail(token) } else { None };
    SecretCheck::Tried(user, log_detail)
}

/// Host (without brackets), port, and whether TLS is used.
fn endpoint(url: &SiteUrl) -> (String, u16, bool) {
    let uri: Uri = url.as_str().parse().expect("a SiteUrl is a valid URI");
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    (host, port, secure)
}

//! The site: asks as a worker of the server does, and notes what came and how long it took.

use std::time::{Duration, Instant};

use super::{TimeBudget, net, now_s};
use crate::config::Config;
use crate::config::site_url::SiteUrl;
use crate::doctor::judge::site::{owner, url_style};
use crate::doctor::observations::{Keys, SecretCheck, SiteObservation, TimedReply};
use crate::protocol::credential::{Credential, Scheme};
use crate::upstream::SiteSettings;
use crate::upstream::buddyboss::{self, ProbeFinding, Reply};
use crate::upstream::jwt::{self, Verifier};
use crate::upstream::probe_client::{self, ProbeClient};
use crate::upstream::url_style::UrlStyle;

/// How often each of the three calls is timed.
const REPEATS: usize = 3;
/// A token that is nobody's: two segments, where a JWT has three.
const BAD_TOKEN: &str = "this-is.no-token";
/// A thread that many sites have; what counts is whether there is a route to it.
const SOME_THREAD: u64 = 1;

/// Looks, for as long as there is time. At most 14 questions, none of which changes anything.
pub fn collect(
    config: &Config,
    url: &SiteUrl,
    credential: Option<&Credential>,
    keys: Keys,
    time: TimeBudget,
) -> SiteObservation {
    let issuer = config.jwt_issuer.clone().unwrap_or_else(|| url.clone());
    let (reachability, stream) = net::open_stream(&host(url), port(url), is_secure(url), time);
    // The questions go over connections of their own, as the server's do.
    let leads = stream.is_some();
    drop(stream);
    let mut seen = SiteObservation {
        url: url.clone(),
        token_header: config.token_header.clone(),
        workers: config.upstream_workers,
        timeout: config.upstream_timeout,
        reachability,
        probes: Vec::new(),
        index: Vec::new(),
        messages: None,
        bad_token: None,
        scheme: credential.map(Credential::scheme),
        me: Vec::new(),
        newest_thread: None,
        thread: Vec::new(),
        expires_s: credential.and_then(jwt::expiry),
        secret: secret(keys, credential, &issuer),
        issuer,
    };
    if leads {
        let settings = SiteSettings {
            workers: 1,
            request_timeout: config.upstream_timeout,
            token_header: config.token_header.clone(),
            ..SiteSettings::new(url.clone())
        };
        ask(&mut seen, &ProbeClient::new(&settings), credential, time);
    }
    seen
}

fn ask(
    seen: &mut SiteObservation,
    client: &ProbeClient,
    credential: Option<&Credential>,
    time: TimeBudget,
) {
    for url_style in [UrlStyle::Pretty, UrlStyle::RestRoute] {
        let Some(call) = call(time, |within| client.me(url_style, None, within)) else { return };
        let finding = call.answer().map(buddyboss::classify_probe_reply);
        seen.probes.push((url_style, call));
        // A site that does not answer at all is not asked twice.
        if matches!(finding, None | Some(ProbeFinding::Api)) {
            break;
        }
    }
    let Some(url_style) = url_style(seen) else { return };
    if let Ok(bad_token) = Credential::parse(BAD_TOKEN) {
        seen.bad_token = call(time, |within| client.me(url_style, Some(&bad_token), within));
    }
    if let Some(credential) = credential {
        seen.me = repeat(time, |within| client.me(url_style, Some(credential), within));
    }
    // Whoever is refused would be refused here as well.
    let known = credential.filter(|_| owner(seen).is_some());
    let ask_thread = |within| client.participants(url_style, SOME_THREAD, known, within);
    seen.messages = call(time, ask_thread);
    seen.index = repeat(time, |within| client.index(url_style, within));
    let Some(credential) = known else { return };
    seen.newest_thread = call(time, |within| client.newest_thread(url_style, credential, within));
    let newest = seen.newest_thread.as_ref().and_then(TimedReply::answer);
    if let Some(thread) = newest.and_then(probe_client::parse_newest_thread).flatten() {
        let ask = |within| client.participants(url_style, thread, Some(credential), within);
        seen.thread = repeat(time, ask);
    }
}

type Answer = Result<Reply, &'static str>;

/// Asks once; `None` when there is no time left.
fn call(time: TimeBudget, ask: impl FnOnce(Duration) -> Answer) -> Option<TimedReply> {
    let within = time.for_request()?;
    let begun = Instant::now();
    let reply = ask(within);
    Some(TimedReply { reply, took: begun.elapsed(), at_s: now_s() })
}

/// Asks several times, until it is not answered well.
fn repeat(time: TimeBudget, ask: impl Fn(Duration) -> Answer) -> Vec<TimedReply> {
    let mut calls = Vec::new();
    while calls.len() < REPEATS {
        let Some(call) = call(time, &ask) else { break };
        let good = call.answer().is_some_and(|reply| reply.status == 200);
        calls.push(call);
        if !good {
            break;
        }
    }
    calls
}

fn secret(keys: Keys, credential: Option<&Credential>, issuer: &SiteUrl) -> SecretCheck {
    let Some(keys) = keys else { return SecretCheck::None };
    let Some(credential) = credential.filter(|known| known.scheme() == Scheme::Bearer) else {
        return SecretCheck::Untried;
    };
    let verifier = Verifier::new(&keys, issuer.clone());
    let token = credential.secret();
    let came = verifier.verify(token, now_s()).map(|proven| proven.user);
    let log_detail = if came.is_err() { verifier.log_detail(token) } else { None };
    SecretCheck::Tried(came, log_detail)
}

fn is_secure(url: &SiteUrl) -> bool {
    url.as_str().starts_with("https://")
}

/// What stands between the scheme and the path.
fn authority(url: &SiteUrl) -> &str {
    let rest = url.as_str().split_once("://").map_or("", |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

fn host(url: &SiteUrl) -> String {
    let authority = authority(url);
    // Of `[::1]:8000`, the colons within do not count.
    let end = authority.rfind(':').filter(|at| !authority[*at..].contains(']'));
    authority[..end.unwrap_or(authority.len())].trim_matches(['[', ']']).to_owned()
}

fn port(url: &SiteUrl) -> u16 {
    let usual = if is_secure(url) { 443 } else { 80 };
    let written = authority(url).rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    written.unwrap_or(usual)
}

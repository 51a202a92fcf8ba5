//! Collects the observations of the site: sends and times requests as the server's workers do.

use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use http::Uri;

use super::{TimeBudget, net, now_s, plugin};
use crate::config::Config;
use crate::config::site_proxy::SiteProxy;
use crate::config::site_trust::SiteTrust;
use crate::config::site_url::SiteUrl;
use crate::doctor::judge::site::{owner, url_style};
use crate::doctor::observations::{
    Keys, LoadObservation, PluginObservation, SecretCheck, SiteObservation, TimedReply,
};
use crate::doctor::token;
use crate::protocol::credential::{Credential, Scheme};
use crate::protocol::signature::SiteKeys;
use crate::upstream::SiteSettings;
use crate::upstream::buddyboss::{self, ProbeFinding, Reply};
use crate::upstream::jwt::{self, Verifier};
use crate::upstream::probe_client::{self, ProbeClient};
use crate::upstream::url_style::UrlStyle;

/// How often each of the three timed requests is sent.
const REPEATS: usize = 3;
/// The largest number of requests at once.
const CALLERS_MAX: u16 = 16;
/// After this time no caller sends another request, except its second.
const LOAD_TIME: Duration = Duration::from_secs(1);
/// The number of requests that each caller sends, unless one fails or no time is left.
const LOAD_REPEATS: RangeInclusive<usize> = 2..=10;
/// An invalid token: it has two segments, while a JWT has three.
const BAD_TOKEN: &str = "this-is.no-token";
/// A thread id that many sites have; only whether the route exists matters.
const SAMPLE_THREAD: u64 = 1;

/// Examines the site within the time budget, with GETs only, except for the plugin: at most 14 one
/// after the other, then at most ten for each worker of the server, and never more at once than it
/// has workers, then two for the plugin.
pub(super) fn collect(
    config: &Config,
    url: &SiteUrl,
    credential: Option<&Credential>,
    keys: Keys,
    trust: SiteTrust,
    proxy: Option<SiteProxy>,
    time: TimeBudget,
) -> SiteObservation {
    let verifier = keys.as_ref().map(|keys| {
        let verifier = Verifier::new(keys, config.jwt_issuers());
        verifier.require_expiry(config.requires_jwt_expiry())
    });
    // Its warnings are a finding of their own.
    let password = config.site_password_with_warnings().ok().flatten().map(|(read, _)| read);
    let secret = config.site_secret_with_warnings().ok().flatten().map(|(read, _)| read);
    let site_keys = secret.map(|secret| SiteKeys::new(secret.secrets()));
    let only_public = keys.as_ref().is_some_and(|keys| keys.secrets().next().is_none());
    let (host, port, secure) = endpoint(url);
    let route = net::Route { trust: &trust, proxy: proxy.as_ref() };
    let (reachability, stream) = net::open_stream(&host, port, secure, &route, time);
    // The requests use connections of their own, as the server's do.
    let is_reachable = stream.is_some();
    drop(stream);
    let mut observation = SiteObservation {
        url: url.clone(),
        token_header: config.token_header.clone(),
        workers: config.upstream_workers,
        timeout: config.upstream_timeout,
        reachability,
        trust: trust.sources(),
        probes: Vec::new(),
        index: Vec::new(),
        messages: None,
        bad_token: None,
        scheme: credential.map(Credential::scheme),
        token_option: token::option_in_use(),
        me: Vec::new(),
        newest_thread: None,
        thread: Vec::new(),
        load: None,
        expires_s: credential.and_then(jwt::expiry),
        secret: check_secret(verifier.as_ref(), credential),
        key_finding: if only_public { "JWT key" } else { "JWT secret" },
        key_places: keys.as_ref().map(|keys| config.jwt_key_places(keys)).unwrap_or_default(),
        issuers: config.jwt_issuers(),
        has_password: password.is_some(),
        plugin: site_keys.as_ref().map(|_| PluginObservation::default()),
    };
    if is_reachable {
        let settings = SiteSettings {
            workers: usize::from(callers(config.upstream_workers)),
            request_timeout: config.upstream_timeout,
            token_header: config.token_header.clone(),
            password,
            trust,
            proxy,
            ..SiteSettings::new(url.clone())
        };
        let client = ProbeClient::new(&settings);
        send_requests(&mut observation, &client, credential, time);
        if let (Some(keys), Some(url_style)) = (site_keys, url_style(&observation)) {
            let plugin = plugin::collect(config, &keys, &client, url_style, time);
            observation.plugin = Some(plugin);
        }
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
        if observation.thread.len() == REPEATS && observation.thread.iter().all(TimedReply::is_good)
        {
            observation.load = Some(measure_load(observation.workers, time, request));
        }
    }
}

/// The number of requests that are sent at once to a site whose server has this many workers.
fn callers(workers: u16) -> u16 {
    workers.clamp(1, CALLERS_MAX)
}

/// Sends a request from as many callers at once as the server has workers.
fn measure_load(
    workers: u16,
    time: TimeBudget,
    request: impl Fn(Duration) -> ReplyResult + Sync,
) -> LoadObservation {
    let started = Instant::now();
    let caller = || {
        let mut results = Vec::new();
        while results.len() < *LOAD_REPEATS.end() {
            if results.len() >= *LOAD_REPEATS.start() && started.elapsed() >= LOAD_TIME {
                break;
            }
            let Some(call) = call(time, &request) else { break };
            let is_good = call.is_good();
            // The lack of time is not the site's failure.
            if !is_good && time.remaining().is_none() {
                break;
            }
            results.push(match call.reply {
                Ok(reply) if is_good || reply.status != 200 => Ok(reply.status),
                Ok(_) => Err("status 200 without JSON"),
                Err(reason) => Err(reason),
            });
            if !is_good {
                break;
            }
        }
        results
    };
    let mut results = Vec::new();
    let mut running = 0;
    thread::scope(|scope| {
        // A caller whose thread cannot be started is missing; this thread is always one of them.
        let others: Vec<_> = (1..callers(workers))
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, caller).ok())
            .collect();
        running = 1 + others.len();
        results.extend(caller());
        for other in others {
            results.extend(other.join().unwrap_or_default());
        }
    });
    LoadObservation {
        callers: running,
        is_capped: running < usize::from(workers),
        results,
        took: started.elapsed(),
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

fn check_secret(verifier: Option<&Verifier>, credential: Option<&Credential>) -> SecretCheck {
    let Some(verifier) = verifier else { return SecretCheck::None };
    let Some(credential) = credential.filter(|it| it.scheme() == Scheme::Bearer) else {
        return SecretCheck::Untried;
    };
    match verifier.verify(credential.secret(), now_s()) {
        Ok(proven) => SecretCheck::Tried(Ok(proven.user), None),
        Err(refusal) => {
            let explanation = verifier.explain(&refusal);
            SecretCheck::Tried(Err(refusal), explanation)
        }
    }
}

/// Host (without brackets), port, and whether TLS is used.
fn endpoint(url: &SiteUrl) -> (String, u16, bool) {
    let uri: Uri = url.as_str().parse().expect("a SiteUrl is a valid URI");
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    (host, port, secure)
}

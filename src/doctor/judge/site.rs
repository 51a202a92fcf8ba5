//! The site: from its name to the token of a member.

use std::time::Duration;

use super::{ReachabilityNames, judge_reachability, milliseconds};
use crate::config::site_url::SiteUrl;
use crate::doctor::finding::Finding;
use crate::doctor::observations::{Observations, SecretCheck, SiteObservation, TimedReply};
use crate::hub::interface::Failure;
use crate::protocol::credential::Scheme;
use crate::upstream::buddyboss::{self, ProbeFinding};
use crate::upstream::jwt::SKEW_S;
use crate::upstream::probe_client::{self, RestIndex};
use crate::upstream::url_style::UrlStyle;

const NAMES: ReachabilityNames =
    ReachabilityNames { resolves: "site name", connects: "site connection", tls: "site TLS" };

const REDIRECTS: &str = "redirects";
const REST: &str = "REST API";
const MESSAGES: &str = "Messages component";
const HEADER: &str = "token header";
const TOKEN: &str = "token";
const SECRET: &str = "JWT secret";
const ISSUER: &str = "JWT issuer";
const CLOCK: &str = "clock";
const SPEED: &str = "speed";

/// Clocks that are closer than this are the same: `Date` has whole seconds.
const SKEW_SMALL_S: u64 = 5;
/// A site that takes longer than this for a thread is slow (CONTRACT 9 has 0.12 to 0.34 s).
const SLOW: Duration = Duration::from_secs(1);
/// A post costs so many times what a look at its thread does (CONTRACT 9).
const POST_COST_RATIO: f64 = 1.4;
/// A token that ends before this is of no use for a look at tomorrow.
const EXPIRES_SOON_S: u64 = 3600;

const AUTHORIZATION_STRIPPED: &str = "The web server takes it away before WordPress sees it. Apache: CGIPassAuth On, \
                     or SetEnvIf Authorization \"(.*)\" HTTP_AUTHORIZATION=$1; nginx: \
                     fastcgi_param HTTP_AUTHORIZATION $http_authorization;";

/// Judges all of it.
pub fn judge(seen: &Observations) -> Vec<Finding> {
    let Some(site) = &seen.site else {
        return vec![Finding::warning(
            "site",
            "none is set: the server would keep messages in memory, on its stand-in",
            "Set --buddyboss-url, such as https://community.example.",
        )];
    };
    let (mut findings, leads) =
        judge_reachability(&site.reachability, &NAMES, ["http://", "https://"]);
    let rest = [MESSAGES, HEADER, TOKEN, SECRET, ISSUER, CLOCK, SPEED];
    if !leads || site.probes.is_empty() {
        let why = "the site is not reached, or no time was left";
        let names = [REDIRECTS, REST].into_iter().chain(rest);
        findings.extend(names.map(|name| Finding::skipped(name, why)));
        return findings;
    }
    findings.extend(judge_api(site));
    if url_style(site).is_none() {
        let unanswered = rest.into_iter().filter(|name| *name != CLOCK);
        let why = "the REST API does not answer";
        findings.extend(unanswered.map(|name| Finding::skipped(name, why)));
        findings.push(judge_clock(site));
        return findings;
    }
    let index = site.index.iter().find_map(|call| probe_client::parse_index(call.answer()?));
    let owner = owner(site);
    findings.push(judge_messages(site));
    findings.push(judge_header(site, index.as_ref(), owner));
    findings.push(judge_token(site, owner));
    findings.push(judge_secret(site, owner));
    findings.push(judge_issuer(site, index.as_ref()));
    findings.push(judge_clock(site));
    findings.push(judge_speed(site));
    findings
}

/// The form of address under which the REST API answers, if it does.
pub fn url_style(site: &SiteObservation) -> Option<UrlStyle> {
    let answers = |call: &TimedReply| {
        call.answer().map(buddyboss::classify_probe_reply) == Some(ProbeFinding::Api)
    };
    site.probes.iter().find(|(_, call)| answers(call)).map(|(url_style, _)| *url_style)
}

/// Whose the token is, if the site says so.
pub fn owner(site: &SiteObservation) -> Option<u64> {
    site.me.iter().find_map(|call| probe_client::parse_member(call.answer()?))
}

/// Redirects, and the form of address.
fn judge_api(site: &SiteObservation) -> [Finding; 2] {
    let no_redirect = || Finding::ok(REDIRECTS, "none");
    if let Some(url_style) = url_style(site) {
        let words = url_style.prefix();
        let seen = match url_style {
            UrlStyle::Pretty => format!("it answers under {words}"),
            UrlStyle::RestRoute => format!("it answers under {words}, and not under /wp-json/"),
        };
        return [no_redirect(), Finding::ok(REST, seen)];
    }
    let found: Vec<ProbeFinding> = site
        .probes
        .iter()
        .map(|(_, call)| match &call.reply {
            Ok(reply) => buddyboss::classify_probe_reply(reply),
            Err(why) => ProbeFinding::Unreachable(why),
        })
        .collect();
    let redirect = found.iter().find_map(|found| match found {
        ProbeFinding::Redirect(to) => Some(to),
        _ => None,
    });
    if let Some(to) = redirect {
        let remedy = match redirect_target(to).filter(|there| *there != site.url) {
            Some(there) => format!("Set --buddyboss-url {there}: tokens do not follow redirects."),
            None => "A plugin or the web server sends strangers away: let the paths under \
                     /wp-json/ through."
                .to_owned(),
        };
        let failed = Finding::failed(REDIRECTS, format!("the site sends us to {to}"), remedy);
        return [failed, Finding::skipped(REST, "not beyond a redirect")];
    }
    let failed = |seen: String, remedy: &str| [no_redirect(), Finding::failed(REST, seen, remedy)];
    if found.contains(&ProbeFinding::NoRoute) {
        return failed(
            "WordPress answers, and BuddyBoss does not: it has no members/me".to_owned(),
            "Activate the plugin BuddyBoss Platform, and see that no plugin closes its REST API.",
        );
    }
    let replies = || site.probes.iter().filter_map(|(_, call)| call.answer());
    if let Some(reply) = replies().find(|reply| matches!(reply.status, 500..=599)) {
        return failed(
            format!("the site fails: {}", reply.log_detail()),
            "Maintenance, a database that is down or a PHP error: look into the site's own log.",
        );
    }
    match replies().next() {
        Some(reply) => failed(
            format!("what answers is no REST API: {}", reply.log_detail()),
            "Is this WordPress' address? A firewall, a password in front of the site or a plugin \
             that closes the REST API answers like that as well.",
        ),
        None => {
            let why = site.probes.iter().find_map(|(_, call)| call.reply.as_ref().err());
            failed(
                format!("no answer: {}", why.unwrap_or(&"nobody was asked")),
                "The web server is there and PHP may not be: look into their logs.",
            )
        }
    }
}

/// The address of the site to which a redirect leads, where that can be told.
fn redirect_target(to: &str) -> Option<SiteUrl> {
    if to.contains("wp-login") {
        return None;
    }
    let end = to.find("/wp-json").unwrap_or(to.len());
    SiteUrl::parse(&to[..end]).ok()
}

fn judge_messages(site: &SiteObservation) -> Finding {
    let Some(call) = &site.messages else { return Finding::skipped(MESSAGES, "no time was left") };
    let Some(reply) = call.answer() else { return no_answer(MESSAGES, call) };
    let word = probe_client::error_code(reply);
    match (reply.status, word.as_deref()) {
        (404, Some("rest_no_route")) => Finding::failed(
            MESSAGES,
            "off: the site has no route for messages",
            "Switch on BuddyBoss > Components > Private Messaging.",
        ),
        (200, _) => Finding::ok(MESSAGES, "on"),
        (401 | 403 | 404, Some(word)) if word.starts_with("bp_rest_") => {
            Finding::ok(MESSAGES, "on")
        }
        _ => Finding::warning(
            MESSAGES,
            format!("not certain: {}", reply.log_detail()),
            "Give a member's token (--token-file): this site does not tell strangers.",
        ),
    }
}

/// Whether tokens reach WordPress.
fn judge_header(site: &SiteObservation, index: Option<&RestIndex>, owner: Option<u64>) -> Finding {
    let usual = site.token_header.is_authorization();
    let name = if usual { "Authorization" } else { site.token_header.name() };
    if owner.is_some() && site.scheme == Some(Scheme::Bearer) {
        return Finding::ok(HEADER, format!("{name} reaches WordPress: the token is understood"));
    }
    let word = |call: Option<&TimedReply>| probe_client::error_code(call?.answer()?);
    let jwt = |word: Option<String>| word.is_some_and(|word| word.starts_with("jwt_auth_"));
    if jwt(word(site.bad_token.as_ref())) || jwt(word(site.me.first())) {
        let seen = format!("{name} reaches WordPress: its JWT plugin has read it");
        return Finding::ok(HEADER, seen);
    }
    if owner.is_some() {
        // As an Application Password, which stands in the same header.
        return Finding::ok(HEADER, "Authorization reaches WordPress: the password is understood");
    }
    let Some(call) = &site.bad_token else { return Finding::skipped(HEADER, "no time was left") };
    let Some(reply) = call.answer() else { return no_answer(HEADER, call) };
    let has_plugin = index.map(|index| index.has_namespace("jwt-auth/"));
    match (usual, probe_client::error_code(reply).as_deref(), has_plugin) {
        (true, Some("rest_not_logged_in"), Some(true)) => Finding::failed(
            HEADER,
            "Authorization does not reach WordPress: a bad token is answered as if there were none",
            AUTHORIZATION_STRIPPED,
        ),
        (true, _, Some(false)) => Finding::warning(
            HEADER,
            "not certain: the site has no JWT plugin that would object to a bad token",
            "Give a good one with --token-file, or an Application Password. Does the site have a \
             plugin for tokens at all?",
        ),
        _ => Finding::warning(
            HEADER,
            format!("not certain whether {name} reaches WordPress: {}", reply.log_detail()),
            "Give a member's token with --token-file.",
        ),
    }
}

fn judge_token(site: &SiteObservation, owner: Option<u64>) -> Finding {
    if site.scheme.is_none() {
        return Finding::skipped(TOKEN, "none given (--token-file or BUDDYLINE_DOCTOR_TOKEN)");
    }
    let Some(call) = site.me.first() else { return Finding::skipped(TOKEN, "no time was left") };
    if let Some(owner) = owner {
        let Some(ends) = site.expires_s else {
            return Finding::ok(TOKEN, format!("accepted, it is member {owner}'s"));
        };
        let left = ends.saturating_sub(call.at_s);
        let words = humantime::format_duration(Duration::from_secs(left - left % 60)).to_string();
        let seen = format!("accepted, it is member {owner}'s and holds for {words}");
        return match left < EXPIRES_SOON_S {
            true => Finding::warning(TOKEN, seen, "Apps should get a new one in time."),
            false => Finding::ok(TOKEN, seen),
        };
    }
    let Some(reply) = call.answer() else { return no_answer(TOKEN, call) };
    let refused = |seen: &str, remedy: &str| Finding::failed(TOKEN, seen, remedy);
    match probe_client::token_failure(reply) {
        Failure::TokenExpired => refused("refused: it has expired", "Get a new one."),
        Failure::Suspended => refused(
            "refused: its member is suspended",
            "Take the token of a member in good standing.",
        ),
        Failure::TokenRefused
            if probe_client::error_code(reply).as_deref() == Some("jwt_auth_bad_iss") =>
        {
            refused("refused: it is another site's", "Take a token that this site has issued.")
        }
        Failure::TokenRefused if reply.status == 401 => refused(
            "refused: to the site the request has no token, or one of nobody",
            "See the line about the token header; or the member is deleted, or the Application \
             Password revoked.",
        ),
        Failure::TokenRefused => refused(
            &format!("refused: {}", reply.log_detail()),
            "Take a whole token that this site has issued, on one line. Has its \
             JWT_AUTH_SECRET_KEY changed since?",
        ),
        _ => refused(
            &format!("no word about it: {}", reply.log_detail()),
            "Look into the site's log.",
        ),
    }
}

fn judge_secret(site: &SiteObservation, owner: Option<u64>) -> Finding {
    match (&site.secret, site.scheme, owner) {
        (SecretCheck::None, _, _) => Finding::skipped(
            SECRET,
            "none is set: each new token costs the site a request (--jwt-secret-file)",
        ),
        (_, Some(Scheme::Basic), _) => {
            Finding::skipped(SECRET, "an Application Password is not signed with it")
        }
        (SecretCheck::Untried, ..) => {
            Finding::skipped(SECRET, "give a member's token to try it with (--token-file)")
        }
        (SecretCheck::Tried(Ok(user), _), _, Some(owner)) if *user == owner => {
            Finding::ok(SECRET, "it is the site's: the token is signed with it")
        }
        (SecretCheck::Tried(Ok(user), _), _, Some(owner)) => Finding::failed(
            SECRET,
            format!("by the secret the token is member {user}'s, by the site member {owner}'s"),
            "Leave the secret out: something at the site changes who a token is.",
        ),
        (SecretCheck::Tried(Ok(user), _), _, None) => Finding::warning(
            SECRET,
            format!("the token of member {user} is signed with it, and the site does not take it"),
            "See the line about the token: is the secret an old one of the site's?",
        ),
        (SecretCheck::Tried(Err(Failure::TokenExpired), _), ..) => {
            Finding::ok(SECRET, "the token is signed with it, and has expired")
        }
        (SecretCheck::Tried(Err(_), why), ..) => Finding::failed(
            SECRET,
            match why {
                Some(why) => why.clone(),
                None => "by the secret the token is not one of this site's".to_owned(),
            },
            "Compare the file with JWT_AUTH_SECRET_KEY in wp-config.php: the value alone, without \
             quotes. Or leave the secret out.",
        ),
    }
}

/// The issuer, without needing a token: the site writes its own address.
fn judge_issuer(site: &SiteObservation, index: Option<&RestIndex>) -> Finding {
    if matches!(site.secret, SecretCheck::None) {
        return Finding::skipped(ISSUER, "it does not matter without a secret");
    }
    let home = index.and_then(|index| SiteUrl::parse(index.home.as_deref()?).ok());
    let expected = &site.issuer;
    match home {
        Some(home) if home == *expected => Finding::ok(ISSUER, format!("{home}")),
        Some(home) => Finding::failed(
            ISSUER,
            format!("the site is {home} to itself, and tokens of {expected} are expected"),
            format!("Set --jwt-issuer {home}."),
        ),
        None => Finding::skipped(ISSUER, "the site does not tell its own address"),
    }
}

fn judge_clock(site: &SiteObservation) -> Finding {
    let calls = site.probes.iter().map(|(_, call)| call).chain(&site.me).chain(&site.index);
    let skews = calls.filter_map(|call| {
        let theirs = probe_client::server_clock_s(call.answer()?)?;
        // `Date` is of some moment while the answer was on its way.
        Some((theirs.abs_diff(call.at_s).saturating_sub(call.took.as_secs()), theirs > call.at_s))
    });
    let Some((skew, ahead)) = skews.min() else {
        return Finding::skipped(CLOCK, "the site's answers have no fresh Date");
    };
    let words = humantime::format_duration(Duration::from_secs(skew));
    let which = if ahead { "ahead of" } else { "behind" };
    let seen = format!("the site's clock is {words} {which} this machine's");
    let remedy = "Let both keep time (timedatectl set-ntp true).";
    match (skew, &site.secret) {
        (0..=SKEW_SMALL_S, _) => {
            Finding::ok(CLOCK, format!("the site's is within {SKEW_SMALL_S}s of this machine's"))
        }
        (_, SecretCheck::None) => Finding::warning(CLOCK, seen, remedy),
        (skew, _) if skew <= SKEW_S => Finding::warning(CLOCK, seen, remedy),
        _ => Finding::failed(
            CLOCK,
            format!("{seen}: tokens would be taken as not yet good, or too long"),
            remedy,
        ),
    }
}

fn judge_speed(site: &SiteObservation) -> Finding {
    let asked = [("REST index", &site.index), ("members/me", &site.me), ("thread", &site.thread)];
    let known: Vec<(&str, Duration)> = asked
        .into_iter()
        .filter_map(|(what, calls)| {
            let mut times: Vec<Duration> =
                calls.iter().filter(|call| is_good(call)).map(|call| call.took).collect();
            times.sort_unstable();
            Some((what, *times.get(times.len() / 2)?))
        })
        .collect();
    let Some((_, slowest)) = known.iter().max_by_key(|(_, took)| *took) else {
        return Finding::skipped(SPEED, "no call was answered well");
    };
    let list: Vec<String> =
        known.iter().map(|(what, took)| format!("{what} {}", milliseconds(*took))).collect();
    let mut seen = list.join(", ");
    match known.iter().find(|(what, _)| *what == "thread") {
        Some((_, took)) => {
            let workers = site.workers;
            let rate = f64::from(workers) / (POST_COST_RATIO * took.as_secs_f64().max(0.001));
            let rate = if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") };
            seen += &format!(
                "; with {workers} workers at most about {rate} messages a second, and no more than \
                 the site's cores can do"
            );
        }
        None if owner(site).is_none() => seen += "; the message rate needs a token",
        None => seen += "; the message rate needs a thread of the token's member",
    }
    if *slowest > site.timeout / 2 {
        let remedy = "The site takes more than half of --upstream-timeout: it needs more CPU, an \
                      object cache or fewer plugins.";
        Finding::warning(SPEED, seen, remedy)
    } else if *slowest > SLOW {
        let remedy = "That is slow: more CPU for PHP and the database, OPcache and an object cache \
                      (Redis) help most.";
        Finding::warning(SPEED, seen, remedy)
    } else {
        Finding::ok(SPEED, seen)
    }
}

fn is_good(call: &TimedReply) -> bool {
    call.answer().is_some_and(|reply| reply.status == 200 && reply.is_json())
}

fn no_answer(name: &'static str, call: &TimedReply) -> Finding {
    let why = call.reply.as_ref().err().copied().unwrap_or("it is empty");
    let took = milliseconds(call.took);
    let remedy = "It answered before: does a firewall or a rate limit stop this machine?";
    Finding::failed(name, format!("no answer after {took}: {why}"), remedy)
}

//! Judges the site, from its host name to the token of a member.

use std::time::Duration;

use super::{NO_KEY, ReachabilityNames, SITE_OPTION, judge_reachability, milliseconds, unreached};
use crate::config::jwt_issuer::{self, Issuer};
use crate::config::site_url::SiteUrl;
use crate::config::token_keys::KeyPlace;
use crate::doctor::finding::Finding;
use crate::doctor::observations::{
    LoadObservation, Observations, SecretCheck, SiteObservation, TimedReply, Tls,
};
use crate::hub::interface::Failure;
use crate::protocol::credential::Scheme;
use crate::upstream::buddyboss::{self, ProbeFinding, Reply};
use crate::upstream::jwt::{Algorithm, Refusal, SKEW_S};
use crate::upstream::probe_client::{self, RestIndex};
use crate::upstream::url_style::UrlStyle;

const NAMES: ReachabilityNames = ReachabilityNames {
    resolves: "site name",
    connects: "site connection",
    tls: "site TLS",
    option: SITE_OPTION,
    scheme: ["http://", "https://"],
};

const REDIRECTS: &str = "redirects";
const REST: &str = "REST API";
const JSON: &str = "clean JSON";
const MESSAGES: &str = "Messages component";
const HEADER: &str = "token header";
const TOKEN: &str = "token";
const ISSUER: &str = "JWT issuer";
const CLAIMS: &str = "JWT claims";
const CLOCK: &str = "clock";
const SPEED: &str = "speed";

/// The noise in JSON that one command finds.
const BYTE_ORDER_MARK: &str = "byte order mark";

/// A smaller clock skew than this is no problem: `Date` has whole seconds.
const SKEW_SMALL_S: u64 = 5;
/// A site that takes longer than this for a thread is slow (0.12 to 0.34 s in CONTRACT 9).
const SLOW: Duration = Duration::from_secs(1);
/// The cost of storing a message relative to a request for its thread, at least and at most: 0.9 to
/// 1.6 where it was measured, with 1 to 8 requests at once.
const MESSAGE_COST: (f64, f64) = (0.9, 1.6);
/// Warn about a token that expires within this time.
const EXPIRES_SOON_S: u64 = 3600;

const AUTHORIZATION_STRIPPED: &str = "The web server removes it before WordPress sees it. Apache: \
                     CGIPassAuth On, or SetEnvIf Authorization \"(.*)\" HTTP_AUTHORIZATION=$1; \
                     nginx: fastcgi_param HTTP_AUTHORIZATION $http_authorization;";

/// Judges the site.
pub fn judge(observations: &Observations) -> Vec<Finding> {
    let Some(site) = &observations.site else {
        return vec![Finding::warning(
            "site",
            "none is set: the server would use its stand-in and keep messages in memory",
            "Set --buddyboss-url, such as https://community.example.",
        )];
    };
    let (mut findings, is_reachable) = judge_reachability(&site.reachability, &NAMES);
    // Which authorities count decides about this line.
    for finding in findings.iter_mut().filter(|finding| finding.name == NAMES.tls) {
        if matches!(site.reachability.tls, Some(Tls::UnknownAuthority(_))) {
            finding.seen += &format!("; trusted are {}", site.trust);
        }
    }
    findings.extend(site.has_password.then(|| super::site_password(&site.token_header)));
    if !is_reachable || site.probes.is_empty() {
        findings.extend(skip(site, &[REDIRECTS, REST, JSON, CLOCK], unreached(&site.reachability)));
        return findings;
    }
    findings.extend(judge_api(site));
    if url_style(site).is_none() {
        findings.extend([judge_json(site), judge_clock(site)]);
        findings.extend(skip(site, &[], "no usable reply of the REST API (see above)"));
        return findings;
    }
    let index = site.index.iter().find_map(|call| probe_client::parse_index(call.reply()?));
    let owner = owner(site);
    findings.push(judge_json(site));
    findings.push(judge_messages(site));
    findings.push(judge_header(site, index.as_ref(), owner));
    findings.push(judge_token(site, owner));
    findings.push(judge_secret(site, owner));
    findings.push(judge_issuer(site, index.as_ref(), owner));
    findings.push(judge_claims(site));
    findings.push(judge_clock(site));
    findings.push(judge_speed(site));
    findings
}

/// Skips these checks, and those that need the REST API, for this reason. A check of something that
/// is not set has that reason.
fn skip(site: &SiteObservation, names: &[&'static str], reason: &str) -> Vec<Finding> {
    let mut names = names.to_vec();
    names.extend([MESSAGES, HEADER]);
    let keys = [site.key_finding, ISSUER, CLAIMS];
    let has_keys = !matches!(site.secret, SecretCheck::None);
    names.extend(site.scheme.map(|_| TOKEN));
    names.extend(keys.into_iter().filter(|_| has_keys));
    names.push(SPEED);
    let mut findings: Vec<Finding> =
        names.into_iter().map(|name| Finding::skipped(name, reason)).collect();
    findings.extend(site.scheme.is_none().then(|| Finding::skipped(TOKEN, NO_TOKEN)));
    let without_key = keys.into_iter().filter(|_| !has_keys);
    findings.extend(without_key.map(|name| Finding::skipped(name, NO_KEY)));
    findings
}

const NO_TOKEN: &str = "none is set (--token-file or BUDDYLINE_DOCTOR_TOKEN)";

/// The options that hold the keys, with their files: such as `--jwt-secret-file jwt.txt`.
fn key_places(site: &SiteObservation) -> String {
    let shown = |place: &KeyPlace| match &place.file {
        Some(file) => format!("{} {file}", place.option),
        None => place.option.clone(),
    };
    site.key_places.iter().map(shown).collect::<Vec<_>>().join(" or ")
}

/// The options that hold the keys, without their files.
fn key_options(site: &SiteObservation) -> String {
    let options: Vec<&str> = site.key_places.iter().map(|place| &*place.option).collect();
    options.join(" and ")
}

/// The URL style under which the REST API answers, if it does.
pub fn url_style(site: &SiteObservation) -> Option<UrlStyle> {
    let is_api = |call: &TimedReply| {
        call.reply().map(buddyboss::classify_probe_reply) == Some(ProbeFinding::Api)
    };
    site.probes.iter().find(|(_, call)| is_api(call)).map(|(url_style, _)| *url_style)
}

/// The user of the token, if the site accepts it.
pub fn owner(site: &SiteObservation) -> Option<u64> {
    site.me.iter().find_map(|call| probe_client::parse_member(call.reply()?))
}

/// Judges redirects and the REST API.
fn judge_api(site: &SiteObservation) -> [Finding; 2] {
    let no_redirect = || Finding::ok(REDIRECTS, "none");
    if let Some(url_style) = url_style(site) {
        let prefix = url_style.prefix();
        let seen = match url_style {
            UrlStyle::Pretty => format!("it answers under {prefix}"),
            UrlStyle::RestRoute => format!("it answers under {prefix}, but not under /wp-json/"),
        };
        return [no_redirect(), Finding::ok(REST, seen)];
    }
    let found: Vec<(UrlStyle, ProbeFinding)> = site
        .probes
        .iter()
        .map(|(url_style, call)| match &call.reply {
            Ok(reply) => (*url_style, buddyboss::classify_probe_reply(reply)),
            Err(reason) => (*url_style, ProbeFinding::Unreachable(reason)),
        })
        .collect();
    let redirect = found.iter().find_map(|(url_style, found)| match found {
        ProbeFinding::Redirect(to) => Some((*url_style, to)),
        _ => None,
    });
    if let Some((url_style, to)) = redirect {
        let failed = judge_redirect(site, url_style, to);
        return [failed, Finding::skipped(REST, "redirects are not followed")];
    }
    let failed = |seen: String, remedy: &str| [no_redirect(), Finding::failed(REST, seen, remedy)];
    if found.iter().any(|(_, found)| *found == ProbeFinding::NoRoute) {
        return failed(
            "WordPress answers, but BuddyBoss does not: there is no route members/me".to_owned(),
            "Activate the plugin BuddyBoss Platform; check that no plugin disables its REST API.",
        );
    }
    let replies = || site.probes.iter().filter_map(|(_, call)| call.reply());
    if let Some(reply) = replies().find(|reply| matches!(reply.status, 500..=599)) {
        let (seen, remedy) = judge_server_error(reply);
        return failed(seen, remedy);
    }
    match replies().next() {
        Some(reply) if reply.status == 401 && !site.has_password => failed(
            format!("the web server asks for a password: {}", reply.describe()),
            if site.token_header.is_authorization() {
                "Exempt this machine from it, at least under /wp-json/ (nginx: satisfy any; allow \
                 ADDRESS). Or set --site-basic-auth-file to a file with login:password, and \
                 --token-header to another header that the site's plugin reads: both would need \
                 Authorization."
            } else {
                "Set --site-basic-auth-file to a file with login:password."
            },
        ),
        Some(reply) if reply.status == 401 => failed(
            format!("the web server refuses the site's password: {}", reply.describe()),
            "Correct login and password in the file of --site-basic-auth-file.",
        ),
        Some(reply) => {
            let (seen, remedy) = judge_page(site, reply);
            failed(seen, &remedy)
        }
        None => {
            let reason = site.probes.iter().find_map(|(_, call)| call.reply.as_ref().err());
            failed(
                format!("no reply: {}", reason.unwrap_or(&"no request was sent")),
                "The web server accepts connections, but PHP may not run: read their logs.",
            )
        }
    }
}

/// Judges a redirect of the REST API to a place that is safe to show.
fn judge_redirect(site: &SiteObservation, url_style: UrlStyle, to: &str) -> Finding {
    let path = url_style.me().replace("?_fields=id", "").replace("&_fields=id", "");
    let seen = format!("GET {}{path} is redirected to {to}", site.url);
    let remedy = match redirect_target(to) {
        _ if to.contains("wp-login") => {
            "Let visitors read /wp-json/: see BuddyBoss > Settings > General (Private Website, \
             Private REST APIs), and plugins that require a login."
                .to_owned()
        }
        Some(there) if there != site.url => {
            format!("Set --buddyboss-url {there}: tokens do not follow redirects.")
        }
        _ => "Exempt the paths under /wp-json/ from the redirect, in the web server or the plugin \
              that does it."
            .to_owned(),
    };
    Finding::failed(REDIRECTS, seen, remedy)
}

/// Says what a reply with a status from 500 means, and what to do.
fn judge_server_error(reply: &Reply) -> (String, &'static str) {
    let described = reply.describe();
    let title = reply.title.as_deref().unwrap_or_default().to_ascii_lowercase();
    let is_maintenance = title.contains("maintenance")
        || probe_client::error_code(reply).as_deref() == Some("wp_die");
    match reply.status {
        503 if is_maintenance => (
            format!("the site is in maintenance: {described}"),
            "Wait. If no update runs, delete the file .maintenance in WordPress' root.",
        ),
        503 if reply.retry_after.is_some() => (
            format!("the site asks to wait (Retry-After): {described}"),
            "Wait: it is in maintenance or overloaded. If no update runs, delete the file \
             .maintenance in WordPress' root.",
        ),
        502 | 504 => (
            format!("the web server gets no answer of PHP: {described}"),
            "Start or restart PHP (php-fpm), and read the web server's error log.",
        ),
        _ => (
            format!("the site fails: {described}"),
            "Read PHP's error log: a PHP error, or a database that is down.",
        ),
    }
}

/// Says what answers in place of the REST API, and what to do.
fn judge_page(site: &SiteObservation, reply: &Reply) -> (String, String) {
    let described = reply.describe();
    match &reply.title {
        Some(_) => (
            format!("a page answers in its place: {described}"),
            "Switch that page off, or exempt /wp-json/ and this machine's address from it. If it is \
             not your site's, correct --buddyboss-url."
            .to_owned(),
        ),
        None => (
            format!("the reply is not from a REST API: {described}"),
            format!(
                "Run curl -i {}{} on this machine: if WordPress is there, exempt /wp-json/ in the \
                 program that answers; otherwise correct --buddyboss-url.",
                site.url, "/wp-json/"
            ),
        ),
    }
}

/// The site's URL in the target of a redirect, if it can be derived from it.
fn redirect_target(to: &str) -> Option<SiteUrl> {
    let end = to.find("/wp-json").unwrap_or(to.len());
    SiteUrl::parse(&to[..end]).ok()
}

/// Judges whether replies have output around their JSON.
fn judge_json(site: &SiteObservation) -> Finding {
    let calls = site.probes.iter().map(|(_, call)| call);
    let calls = calls.chain(&site.bad_token).chain(&site.me).chain(&site.messages);
    let calls = calls.chain(&site.index).chain(&site.newest_thread).chain(&site.thread);
    let replies: Vec<&Reply> = calls.filter_map(TimedReply::reply).collect();
    match replies.iter().find_map(|reply| reply.noise()) {
        Some(noise) if noise.contains(BYTE_ORDER_MARK) => Finding::warning(
            JSON,
            noise,
            "The server reads through it, but other apps may fail. Find the file in WordPress' \
             root: LC_ALL=C grep -rlP '^\\xEF\\xBB\\xBF' --include='*.php' .",
        ),
        Some(noise) => Finding::warning(
            JSON,
            noise,
            "The server reads through it, but other apps may fail, and a reply in which the JSON \
             cannot be told from the rest is lost: remove it.",
        ),
        None if replies.iter().any(|reply| reply.is_json()) => {
            Finding::ok(JSON, "nothing is printed around it")
        }
        None => Finding::skipped(JSON, "no JSON was received"),
    }
}

fn judge_messages(site: &SiteObservation) -> Finding {
    let Some(call) = &site.messages else { return Finding::skipped(MESSAGES, "no time was left") };
    let Some(reply) = call.reply() else { return no_reply(MESSAGES, call) };
    let code = probe_client::error_code(reply);
    match (reply.status, code.as_deref()) {
        (404, Some("rest_no_route")) => Finding::failed(
            MESSAGES,
            "the site has no route for messages",
            "Private Messaging is probably off: enable it in BuddyBoss > Components.",
        ),
        (200, _) => Finding::ok(MESSAGES, "on"),
        (401 | 403 | 404, Some(code)) if code.starts_with("bp_rest_") => {
            Finding::ok(MESSAGES, "on")
        }
        _ => Finding::warning(
            MESSAGES,
            format!("not certain: {}", reply.describe()),
            "Set a member's token (--token-file): this site refuses anonymous requests.",
        ),
    }
}

/// Judges whether the token header reaches WordPress.
fn judge_header(site: &SiteObservation, index: Option<&RestIndex>, owner: Option<u64>) -> Finding {
    let is_authorization = site.token_header.is_authorization();
    let name = if is_authorization { "Authorization" } else { site.token_header.name() };
    if owner.is_some() && site.scheme == Some(Scheme::Bearer) {
        return Finding::ok(HEADER, format!("{name} reaches WordPress: the token is accepted"));
    }
    let is_jwt_error = |call: Option<&TimedReply>| {
        let code = call.and_then(TimedReply::reply).and_then(probe_client::error_code);
        code.is_some_and(|code| code.starts_with("jwt_auth_"))
    };
    if is_jwt_error(site.bad_token.as_ref()) || is_jwt_error(site.me.first()) {
        let seen = format!("{name} reaches WordPress: its JWT plugin answers");
        return Finding::ok(HEADER, seen);
    }
    if owner.is_some() {
        // With an Application Password, which is sent in the same header.
        return Finding::ok(HEADER, "Authorization reaches WordPress: the password is accepted");
    }
    let Some(call) = &site.bad_token else { return Finding::skipped(HEADER, "no time was left") };
    let Some(reply) = call.reply() else { return no_reply(HEADER, call) };
    let has_plugin = index.map(|index| index.has_namespace("jwt-auth/"));
    match (is_authorization, probe_client::error_code(reply).as_deref(), has_plugin) {
        (true, Some("rest_not_logged_in"), Some(true)) => Finding::failed(
            HEADER,
            "Authorization does not reach WordPress: the reply to a bad token is that to no token",
            AUTHORIZATION_STRIPPED,
        ),
        (true, _, Some(false)) => Finding::warning(
            HEADER,
            "not certain: the site has no JWT plugin that would refuse a bad token",
            "Set a valid token or an Application Password with --token-file, and check that the \
             site has a plugin for tokens.",
        ),
        _ => Finding::warning(
            HEADER,
            format!("not certain whether {name} reaches WordPress: {}", reply.describe()),
            "Set a member's token with --token-file.",
        ),
    }
}

fn judge_token(site: &SiteObservation, owner: Option<u64>) -> Finding {
    if site.scheme.is_none() {
        return Finding::skipped(TOKEN, NO_TOKEN);
    }
    let Some(call) = site.me.first() else { return Finding::skipped(TOKEN, "no time was left") };
    if let Some(owner) = owner {
        let Some(expires_s) = site.expires_s else {
            return Finding::ok(TOKEN, format!("accepted, it is member {owner}'s"));
        };
        let option = site.token_option;
        let Some(left_s) = expires_s.checked_sub(call.at_s).filter(|left_s| *left_s > 0) else {
            return Finding::failed(
                TOKEN,
                format!(
                    "it expired {} ago, although the site still accepts it as member {owner}'s",
                    humantime::format_duration(Duration::from_secs(call.at_s - expires_s))
                ),
                format!(
                    "Put a fresh token into {option}, and run this again. If the site accepts \
                     expired ones, check its JWT plugin."
                ),
            );
        };
        let shown_s = if left_s < 60 { left_s } else { left_s - left_s % 60 };
        let left = humantime::format_duration(Duration::from_secs(shown_s));
        let seen = format!("accepted, it is member {owner}'s and valid for {left}");
        return match left_s < EXPIRES_SOON_S {
            true => Finding::warning(
                TOKEN,
                seen,
                format!(
                    "Put a fresh token into {option}. If this one is fresh, the site's tokens end \
                     soon: apps must get a new one in time."
                ),
            ),
            false => Finding::ok(TOKEN, seen),
        };
    }
    let Some(reply) = call.reply() else { return no_reply(TOKEN, call) };
    let refused = |seen: &str, remedy: &str| Finding::failed(TOKEN, seen, remedy);
    match probe_client::token_failure(reply) {
        Failure::TokenExpired => refused(
            "refused: it has expired",
            &format!("Put a fresh token into {}.", site.token_option),
        ),
        Failure::Suspended => refused(
            "refused: its member is suspended",
            "Use the token of a member who is not suspended.",
        ),
        Failure::TokenRefused
            if probe_client::error_code(reply).as_deref() == Some("jwt_auth_bad_iss") =>
        {
            refused("refused: it is another site's", "Use a token that this site has issued.")
        }
        Failure::TokenRefused if reply.status == 401 => refused(
            "refused: the site sees no token, or one without a member",
            "See the line about the token header. If that is ok, the member is deleted or the \
             Application Password is revoked.",
        ),
        Failure::TokenRefused => refused(
            &format!("refused: {}", reply.describe()),
            "Use a complete token that this site has issued, on one line. Tokens become invalid \
             when the site's JWT_AUTH_SECRET_KEY changes.",
        ),
        _ => refused(
            &format!("the site neither accepts nor refuses it: {}", reply.describe()),
            "Read the site's log.",
        ),
    }
}

/// Judges the keys by the signature of the token alone: whatever else is wrong with a token that is
/// signed with them, they are the site's.
fn judge_secret(site: &SiteObservation, owner: Option<u64>) -> Finding {
    let name = site.key_finding;
    let result = match (&site.secret, site.scheme) {
        (SecretCheck::None, _) => return Finding::skipped(name, NO_KEY),
        (_, Some(Scheme::Basic)) => {
            return Finding::skipped(name, "an Application Password is not signed with it");
        }
        (SecretCheck::Untried, _) => {
            let reason = "set a member's token to check it with (--token-file)";
            return Finding::skipped(name, reason);
        }
        (SecretCheck::Tried(result, _), _) => result,
    };
    let remove = format!("Remove {}", key_options(site));
    match (result, owner) {
        (Ok(user), Some(owner)) if *user != owner => Finding::failed(
            name,
            format!("the token names member {user}, but the site takes it for member {owner}'s"),
            format!("{remove}: something on the site maps tokens to other members."),
        ),
        (Ok(user), None) => Finding::warning(
            name,
            format!(
                "the token of member {user} is signed with it, but the site does not accept the \
                 token"
            ),
            "See the line about the token. The key may be an old one of the site.",
        ),
        (Err(refusal), _) if !refusal.is_signed() => judge_unsigned(site, refusal, owner.is_some()),
        _ => Finding::ok(name, "it is the site's: the token is signed with it"),
    }
}

/// Judges the keys by a token whose signature they do not verify.
fn judge_unsigned(site: &SiteObservation, refusal: &Refusal, is_accepted: bool) -> Finding {
    let name = site.key_finding;
    let places = key_places(site);
    let asks =
        format!("remove {}: buddyline then asks the site about each new token", key_options(site));
    let Some(whose) = is_accepted.then_some("the site accepts this token, but it is") else {
        return match refusal {
            Refusal::NotJwt(why) => {
                Finding::skipped(name, format!("the token is not a signed JWT: {why}"))
            }
            _ => Finding::failed(
                name,
                format!("the token is not signed with {places}, and the site does not accept it"),
                format!("Put a token that the site accepts into {}.", site.token_option),
            ),
        };
    };
    let place = |is_public| site.key_places.iter().find(|place| place.is_public == is_public);
    match refusal {
        Refusal::NotJwt(why) => Finding::failed(
            name,
            format!("{whose} not a signed JWT: {why}"),
            format!("The site's tokens cannot be verified here: {asks}."),
        ),
        Refusal::NoKey { algorithm, .. } => {
            let signed = algorithm.name();
            let (seen, remedy) = match (algorithm, place(true)) {
                (Algorithm::Other(_), _) => (
                    format!("{whose} signed with {signed}"),
                    format!("Only HS256, RS256 and ES256 can be verified here: {asks}."),
                ),
                (Algorithm::Hs256, _) => (
                    format!("{whose} signed with {signed}, and no secret is set"),
                    "Set --jwt-secret-file to a file with the site's secret.".to_owned(),
                ),
                (_, Some(KeyPlace { file: Some(file), .. })) => (
                    format!("{whose} signed with {signed}, with a key that is not in {file}"),
                    format!("Put the public key of the site's plugin into {file}."),
                ),
                _ => (
                    format!("{whose} signed with {signed}, and no public key is set"),
                    "Set --jwt-key-file to the public key of the site's plugin.".to_owned(),
                ),
            };
            Finding::failed(name, seen, remedy)
        }
        _ => {
            let into = |place: &KeyPlace| place.file.clone().unwrap_or(place.option.clone());
            let secret = place(false).map(|place| {
                format!(
                    "the value of JWT_AUTH_SECRET_KEY in wp-config.php, without quotes, into {}",
                    into(place)
                )
            });
            let public = place(true)
                .map(|place| format!("the public key of the site's plugin into {}", into(place)));
            let what = match (&secret, &public) {
                (Some(_), None) => "the secret",
                _ => "a key",
            };
            let parts: Vec<String> = [secret, public].into_iter().flatten().collect();
            Finding::failed(
                name,
                format!("{whose} not signed with {what} in {places}"),
                format!("Put {}.", parts.join(", or ")),
            )
        }
    }
}

/// Judges the issuer: that of the token if it is signed by the site, else the site's own address,
/// which is in its index and which the usual plugin writes into its tokens.
fn judge_issuer(site: &SiteObservation, index: Option<&RestIndex>, owner: Option<u64>) -> Finding {
    if matches!(site.secret, SecretCheck::None) {
        return Finding::skipped(ISSUER, NO_KEY);
    }
    let expected: Vec<String> = site.issuers.iter().map(Issuer::to_string).collect();
    let expected = expected.join(", ");
    match &site.secret {
        SecretCheck::Tried(Err(Refusal::Issuer(Some(iss))), _)
            if !iss.is_empty() && owner.is_some() =>
        {
            let iss = jwt_issuer::printable(iss);
            return Finding::failed(
                ISSUER,
                format!("the token, which this site signed, names {iss}; expected is {expected}"),
                format!(
                    "Set --jwt-issuer {iss}. It replaces {expected}; repeat it to accept both."
                ),
            );
        }
        SecretCheck::Tried(Err(Refusal::Issuer(_)), _) if owner.is_some() => {
            return Finding::failed(
                ISSUER,
                format!("the token, which this site signed, names none; expected is {expected}"),
                format!(
                    "Set an empty --jwt-issuer (''). It replaces {expected}; repeat it to accept \
                     both."
                ),
            );
        }
        SecretCheck::Tried(Ok(_), _) => {
            return Finding::ok(ISSUER, format!("the token names an expected one: {expected}"));
        }
        SecretCheck::Tried(Err(refusal), _)
            if refusal.is_signed()
                && !matches!(refusal, Refusal::Claims(_) | Refusal::Issuer(_)) =>
        {
            return Finding::ok(ISSUER, format!("the token names an expected one: {expected}"));
        }
        _ => {}
    }
    // With a token that the site refuses as well, the setting may be right.
    let is_foreign = matches!(site.secret, SecretCheck::Tried(Err(Refusal::Issuer(_)), _));
    let unverified = match &site.secret {
        SecretCheck::Tried(
            Err(Refusal::Signature { names_issuer } | Refusal::NoKey { names_issuer, .. }),
            _,
        ) => Some(*names_issuer),
        _ => None,
    };
    match index.and_then(|index| index.home.as_deref()).filter(|home| !home.is_empty()) {
        Some(home) if site.issuers.iter().any(|issuer| issuer.is_of(Some(home))) => {
            let home = Issuer::new(home);
            match unverified {
                _ if is_foreign => Finding::skipped(
                    ISSUER,
                    format!("the token does not name {expected}, and the site does not accept it"),
                ),
                None => Finding::ok(
                    ISSUER,
                    format!("the site's own address is an expected one: {home}"),
                ),
                Some(true) => Finding::skipped(
                    ISSUER,
                    format!("the token names {expected}, but its signature is not verified"),
                ),
                Some(false) => Finding::skipped(
                    ISSUER,
                    format!("the token does not name {expected}, but is not verified either"),
                ),
            }
        }
        Some(home) => {
            let home = Issuer::new(home);
            Finding::failed(
                ISSUER,
                format!("the site's own address is {home}, but tokens of {expected} are expected"),
                format!("Set --jwt-issuer {home}. It replaces {expected}."),
            )
        }
        None => Finding::skipped(ISSUER, "the site does not report its own address"),
    }
}

/// Judges the other claims of a token that the site has signed.
fn judge_claims(site: &SiteObservation) -> Finding {
    let (result, explanation) = match &site.secret {
        SecretCheck::None => {
            return Finding::skipped(CLAIMS, NO_KEY);
        }
        SecretCheck::Untried => {
            return Finding::skipped(CLAIMS, "set a member's token to read them (--token-file)");
        }
        SecretCheck::Tried(result, explanation) => (result, explanation),
    };
    let seen = explanation.clone().unwrap_or_default();
    match result {
        Ok(_) if site.expires_s.is_none() => Finding::ok(
            CLAIMS,
            "as expected, without an expiry (exp): the site is asked about such a token, and again \
             every ten minutes",
        ),
        Ok(_) => Finding::ok(CLAIMS, "user, expiry and other times are as expected"),
        Err(Refusal::Issuer(_)) => Finding::skipped(CLAIMS, "the issuer is not an expected one"),
        Err(Refusal::Expired) => Finding::skipped(CLAIMS, "the token has expired"),
        Err(Refusal::NoUser) => Finding::warning(
            CLAIMS,
            seen,
            "That works, at the cost of a request for each new token. To avoid it, let the site's \
             plugin write the user id into data.user.id.",
        ),
        Err(Refusal::NotYetValid(wait_s)) => Finding::failed(
            CLAIMS,
            format!("the token, which this site signed, is not valid for another {wait_s} s (nbf)"),
            "Synchronise both clocks (timedatectl set-ntp true).",
        ),
        Err(Refusal::NoExpiry) => Finding::failed(
            CLAIMS,
            seen,
            "Set --jwt-without-exp accept, or an expiry in the site's plugin.",
        ),
        Err(Refusal::Claims(why)) => Finding::failed(
            CLAIMS,
            format!("buddyline refuses the token, which this site signed: {why}"),
            format!(
                "Correct what the site's plugin or a filter of it writes into tokens. Or remove {}: \
                 buddyline then asks the site about each new token (one request each).",
                key_options(site)
            ),
        ),
        Err(Refusal::NotJwt(_)) => {
            Finding::skipped(CLAIMS, "not checked: the token is not a signed JWT")
        }
        Err(_) => Finding::skipped(CLAIMS, "not checked: the token's signature does not match"),
    }
}

fn judge_clock(site: &SiteObservation) -> Finding {
    let calls = site.probes.iter().map(|(_, call)| call).chain(&site.me).chain(&site.index);
    let skews = calls.filter_map(|call| {
        let site_s = probe_client::server_clock_s(call.reply()?)?;
        // The site set `Date` at some time during the request.
        Some((site_s.abs_diff(call.at_s).saturating_sub(call.took.as_secs()), site_s > call.at_s))
    });
    let Some((skew, ahead)) = skews.min() else {
        return Finding::skipped(CLOCK, "the site's replies have no current Date");
    };
    let amount = humantime::format_duration(Duration::from_secs(skew));
    let direction = if ahead { "ahead of" } else { "behind" };
    let seen = format!("the site's clock is {amount} {direction} this machine's");
    let remedy = "Synchronise both clocks (timedatectl set-ntp true).";
    match (skew, &site.secret) {
        (0..=SKEW_SMALL_S, _) => Finding::ok(
            CLOCK,
            format!("the site's clock is within {SKEW_SMALL_S}s of this machine's"),
        ),
        (_, SecretCheck::None) => Finding::warning(CLOCK, seen, remedy),
        (skew, _) if skew <= SKEW_S => Finding::warning(CLOCK, seen, remedy),
        _ => Finding::failed(
            CLOCK,
            format!("{seen}: valid tokens would be refused, or expired ones accepted"),
            remedy,
        ),
    }
}

fn judge_speed(site: &SiteObservation) -> Finding {
    let endpoints =
        [("REST index", &site.index), ("members/me", &site.me), ("thread", &site.thread)];
    let medians: Vec<(&str, Duration)> = endpoints
        .into_iter()
        .filter_map(|(name, calls)| {
            let mut times: Vec<Duration> =
                calls.iter().filter(|call| call.is_good()).map(|call| call.took).collect();
            times.sort_unstable();
            Some((name, *times.get(times.len() / 2)?))
        })
        .collect();
    let Some((_, slowest)) = medians.iter().max_by_key(|(_, took)| *took) else {
        return Finding::skipped(SPEED, "no request succeeded");
    };
    let list: Vec<String> =
        medians.iter().map(|(name, took)| format!("{name} {}", milliseconds(*took))).collect();
    let mut seen = list.join(", ");
    match &site.load {
        Some(load) => {
            let (seen_at_once, remedy) = judge_load(load);
            seen += &seen_at_once;
            if let Some(remedy) = remedy {
                return Finding::warning(SPEED, seen, remedy);
            }
        }
        None => seen += &format!("; message speed not measured: {}", unmeasured(site)),
    }
    if *slowest > site.timeout / 2 {
        let remedy = "The site takes more than half of --upstream-timeout: it needs more CPU, an \
                      object cache or fewer plugins.";
        Finding::warning(SPEED, seen, remedy)
    } else if *slowest > SLOW {
        let remedy = "The site is slow: more CPU for PHP and the database, OPcache and an object \
                      cache (Redis) help most.";
        Finding::warning(SPEED, seen, remedy)
    } else {
        Finding::ok(SPEED, seen)
    }
}

/// Says why no requests were sent at once.
fn unmeasured(site: &SiteObservation) -> String {
    let Some(owner) = owner(site) else {
        return match site.scheme {
            Some(_) => "the site does not accept the token".to_owned(),
            None => "it needs a member's token (--token-file)".to_owned(),
        };
    };
    let newest = site.newest_thread.as_ref();
    match newest.and_then(TimedReply::reply).and_then(probe_client::parse_newest_thread) {
        Some(None) => format!("member {owner} has no thread"),
        Some(Some(_)) => "not all requests succeeded".to_owned(),
        None => match newest.map(|call| &call.reply) {
            Some(Ok(reply)) => {
                format!("member {owner}'s newest thread is unknown: {}", reply.describe())
            }
            Some(Err(reason)) => format!("member {owner}'s newest thread is unknown: {reason}"),
            None => "no time was left".to_owned(),
        },
    }
}

/// Describes what requests at once reached; with a remedy if some of them failed.
fn judge_load(load: &LoadObservation) -> (String, Option<&'static str>) {
    let LoadObservation { callers, results, took, .. } = load;
    let at_once = if load.is_capped {
        format!("{callers} at once (fewer than --upstream-workers)")
    } else {
        format!("{callers} at once")
    };
    let is_failure = |result: &&Result<u16, &'static str>| **result != Ok(200);
    if let Some(failure) = results.iter().find(is_failure) {
        let failures = results.iter().filter(is_failure).count();
        let reason = match failure {
            Ok(status) => format!("status {status}"),
            Err(reason) => (*reason).to_owned(),
        };
        let seen = format!("; {at_once}: {failures} of {} failed ({reason})", results.len());
        let remedy = "One request at a time succeeds, several at once do not: exempt this machine \
                      from the site's rate limit or firewall, give PHP more workers, or set fewer \
                      --upstream-workers.";
        return (seen, Some(remedy));
    }
    if results.is_empty() {
        return ("; message speed not measured: no time was left".to_owned(), None);
    }
    let count = u32::try_from(results.len()).unwrap_or(u32::MAX);
    let reads = f64::from(count) / took.as_secs_f64().max(0.001);
    let (low, high) = MESSAGE_COST;
    let seen = format!(
        "; {at_once}: {} reads of the thread a second, so about {} to {} messages a second, since one costs {low} \
         to {high} reads",
        rate(reads),
        rate(reads / high),
        rate(reads / low)
    );
    (seen, None)
}

fn rate(a_second: f64) -> String {
    if a_second < 9.95 { format!("{a_second:.1}") } else { format!("{a_second:.0}") }
}

fn no_reply(name: &'static str, call: &TimedReply) -> Finding {
    let reason = call.reply.as_ref().err().copied().unwrap_or("it is empty");
    let took = milliseconds(call.took);
    let remedy =
        "Earlier requests succeeded: check for a firewall or rate limit against this machine.";
    Finding::failed(name, format!("no reply after {took}: {reason}"), remedy)
}

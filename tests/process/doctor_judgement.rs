//! The judgement of `buddyline doctor`: for each observation, the finding with status and remedy.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use buddyline::config::jwt_issuer::Issuer;
use buddyline::config::site_url::SiteUrl;
use buddyline::config::token_header::TokenHeader;
use buddyline::config::token_keys::KeyPlace;
use buddyline::config::{Config, Trust};
use buddyline::doctor::finding::Status::{self, Failed, Ok as Good, Skipped, Warning};
use buddyline::doctor::judge::{ice, key_file, machine, public, secret_file, site, trust};
use buddyline::doctor::observations::{
    AppOrigin, CertificateChain, LoadObservation, MachineObservation, Observations, ProxySeen,
    PublicObservation, Reachability, SecretCheck, SiteObservation, TimedReply, Tls, Upgrade,
};
use buddyline::protocol::credential::Scheme;
use buddyline::upstream::buddyboss::Reply;
use buddyline::upstream::jwt::{Algorithm, Refusal};
use buddyline::upstream::url_style::UrlStyle;
use clap::Parser;

const NOW: u64 = 1_795_000_000;

fn reply(status: u16, body: &str) -> Reply {
    Reply {
        status,
        content_type: Some("application/json; charset=UTF-8".to_owned()),
        body: Some(body.as_bytes().to_vec()),
        ..Reply::default()
    }
}

fn fault(status: u16, code: &str, message: &str) -> TimedReply {
    answered(reply(status, &format!(r#"{{"code":"{code}","message":"{message}"}}"#)))
}

fn bodiless_reply(status: u16, location: Option<&str>) -> TimedReply {
    let location = location.map(str::to_owned);
    answered(Reply { status, location, ..Reply::default() })
}

fn answered(reply: Reply) -> TimedReply {
    TimedReply { reply: Ok(reply), took: Duration::from_millis(100), at_s: NOW }
}

fn http_date(at_s: u64) -> String {
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(at_s))
}

fn timed_out() -> TimedReply {
    TimedReply { reply: Err("the answer takes too long"), took: Duration::from_secs(8), at_s: NOW }
}

fn anonymous_reply() -> TimedReply {
    let mut call = fault(401, "rest_not_logged_in", "You are not currently logged in.");
    if let Ok(reply) = &mut call.reply {
        reply.date = Some(http_date(NOW));
    }
    call
}

fn healthy_path(secure: bool) -> Reachability {
    let to: SocketAddr = "203.0.113.5:443".parse().unwrap();
    Reachability {
        host: "community.example".to_owned(),
        port: 443,
        secure,
        proxy: None,
        addresses: Some(Ok(vec![to.ip()])),
        connected: Some(Ok((to, Duration::from_millis(20)))),
        tls: secure.then(|| Tls::Works { version: "TLSv1.3".to_owned(), expires_soon: false }),
    }
}

/// Observations of a healthy site, with its secret and a token of member 7.
fn healthy_site() -> SiteObservation {
    let url = SiteUrl::parse("https://community.example").unwrap();
    let index = r#"{"home":"https://community.example","namespaces":["jwt-auth/v1"]}"#;
    let me = || answered(reply(200, r#"{"id":7}"#));
    SiteObservation {
        url: url.clone(),
        token_header: TokenHeader::default(),
        workers: 4,
        timeout: Duration::from_secs(30),
        trust: "the system's authorities".to_owned(),
        reachability: healthy_path(true),
        probes: vec![(UrlStyle::Pretty, anonymous_reply())],
        index: vec![answered(reply(200, index))],
        messages: Some(fault(403, "bp_rest_authorization_required", "Sorry")),
        bad_token: Some(fault(403, "jwt_auth_invalid_token", "Wrong number of segments")),
        scheme: Some(Scheme::Bearer),
        token_option: "the file of --token-file",
        me: vec![me(), me(), me()],
        newest_thread: Some(answered(reply(200, r#"[{"id":41}]"#))),
        thread: vec![answered(reply(200, r#"{"id":41}"#))],
        load: Some(load(4, &[Ok(200); 20], Duration::from_secs(1))),
        expires_s: Some(NOW + 7 * 24 * 3600),
        secret: SecretCheck::Tried(Ok(7), None),
        key_finding: "JWT secret",
        key_places: vec![key_place("--jwt-secret-file", "jwt.txt", false)],
        issuers: vec![Issuer::from(&url)],
        has_password: false,
        plugin: None,
    }
}

fn key_place(option: &str, file: &str, is_public: bool) -> KeyPlace {
    KeyPlace { option: option.to_owned(), file: Some(file.to_owned()), is_public }
}

fn load(callers: usize, results: &[Result<u16, &'static str>], took: Duration) -> LoadObservation {
    LoadObservation { callers, is_capped: false, results: results.to_vec(), took }
}

/// The site answers all requests with a page.
fn page(site: &mut SiteObservation, status: u16, title: &str) {
    let (content_type, title) = (Some("text/html".to_owned()), Some(title.to_owned()));
    let page = answered(Reply { status, content_type, title, ..Reply::default() });
    site.probes = vec![(UrlStyle::Pretty, page.clone()), (UrlStyle::RestRoute, page)];
    (site.index, site.me, site.thread) = Default::default();
    (site.messages, site.bad_token, site.newest_thread) = Default::default();
}

/// A proxy does not connect.
fn proxied(site: &mut SiteObservation, reason: &str, source: &'static str) {
    let host = "proxy.example".to_owned();
    let name = format!("{host}:3128 ({source})");
    site.reachability.proxy = Some(ProxySeen { host, name, port: 3128, source });
    site.reachability.connected = Some(Err(reason.to_owned()));
}

fn unknown_authority(is_self_signed: bool, intermediates: usize) -> Tls {
    let issuer = "CN=Some CA".to_owned();
    Tls::UnknownAuthority(CertificateChain { issuer, is_self_signed, intermediates })
}

/// Changes the observations of a healthy site; returns status and text of one finding.
fn finding_of(name: &str, change: impl FnOnce(&mut SiteObservation)) -> (Status, String) {
    let mut site = healthy_site();
    change(&mut site);
    let machine = machine_seen(Ok(()), 100_000);
    let findings = site::judge(&Observations { site: Some(site), machine, public: None });
    let finding = findings.iter().find(|finding| finding.name == name);
    let finding = finding.unwrap_or_else(|| panic!("no finding {name}: {findings:?}"));
    let needs_remedy = matches!(finding.status, Warning | Failed);
    assert_eq!(finding.remedy.is_some(), needs_remedy, "{finding:?}");
    let remedy = finding.remedy.as_deref().unwrap_or_default();
    (finding.status, format!("{} -> {remedy}", finding.seen))
}

fn machine_seen(result: Result<(), ErrorKind>, files: u64) -> MachineObservation {
    MachineObservation {
        listens: vec![("127.0.0.1:8080".parse().unwrap(), result)],
        is_ours: false,
        holder: None,
        is_default: false,
        files: Ok(files),
        files_wanted: Some(16_028),
        files_reserved: 28,
    }
}

#[test]
fn healthy_site_is_ok_on_every_line() {
    let machine = machine_seen(Ok(()), 100_000);
    let findings = site::judge(&Observations { site: Some(healthy_site()), machine, public: None });
    assert_eq!(findings.len(), 14);
    for finding in findings {
        assert_eq!(finding.status, Good, "{finding:?}");
    }
}

type Change = Box<dyn FnOnce(&mut SiteObservation)>;

fn change(change: impl FnOnce(&mut SiteObservation) + 'static) -> Change {
    Box::new(change)
}

#[test]
fn each_site_fault_is_located_and_comes_with_a_remedy() {
    let dropped_header = |s: &mut SiteObservation| {
        s.bad_token = Some(anonymous_reply());
        s.me = vec![anonymous_reply()];
        s.secret = SecretCheck::None;
    };
    let table: Vec<(&str, Change, Status, &[&str])> = vec![
        (
            "site name",
            change(|s| s.reachability.addresses = Some(Err("not known".to_owned()))),
            Failed,
            &["community.example: not known", "resolver"],
        ),
        (
            "site connection",
            change(|s| {
                s.reachability.connected = Some(Err("the connection is refused".to_owned()))
            }),
            Failed,
            &["Nothing listens on port 443", "web server", "--buddyboss-url"],
        ),
        (
            "site connection",
            change(|s| s.reachability.connected = Some(Err("it takes too long".to_owned()))),
            Failed,
            &["port 443: it takes too long", "firewall"],
        ),
        (
            "site connection",
            change(|s| proxied(s, "the connection is refused", "--site-proxy")),
            Failed,
            &["Nothing listens on proxy.example:3128: correct --site-proxy, or set it to off"],
        ),
        (
            "site connection",
            change(|s| proxied(s, "the proxy refuses the tunnel with status 403", "https_proxy")),
            Failed,
            &["Allow CONNECT to community.example:443", "set --site-proxy off"],
        ),
        (
            "site connection",
            change(|s| proxied(s, "the proxy refuses the tunnel with status 503", "https_proxy")),
            Failed,
            &["does not reach the site"],
        ),
        (
            "site connection",
            change(|s| proxied(s, "the proxy refuses the tunnel with status 400", "https_proxy")),
            Failed,
            &["Check that https_proxy names an HTTP proxy"],
        ),
        (
            "site connection",
            change(|s| {
                let reason = "the proxy requires a user name and a password (407)";
                proxied(s, reason, "https_proxy");
            }),
            Failed,
            &["BUDDYLINE_SITE_PROXY"],
        ),
        (
            "site TLS",
            change(|s| s.reachability.tls = Some(Tls::Expired)),
            Failed,
            &["it has expired", "certbot renew"],
        ),
        (
            "site TLS",
            change(|s| s.reachability.tls = Some(Tls::OtherName)),
            Failed,
            &["another name than community.example", "--buddyboss-url"],
        ),
        (
            "site TLS",
            change(|s| s.reachability.tls = Some(unknown_authority(false, 0))),
            Failed,
            &[
                "\"CN=Some CA\" is unknown, and no intermediate certificate is sent; trusted are \
                 the system's authorities",
                "fullchain.pem",
                "--site-ca-file",
            ],
        ),
        (
            "site TLS",
            change(|s| s.reachability.tls = Some(unknown_authority(false, 1))),
            Failed,
            &["its chain ends at \"CN=Some CA\"", "--site-ca-file"],
        ),
        (
            "site TLS",
            change(|s| s.reachability.tls = Some(unknown_authority(true, 0))),
            Failed,
            &["it is self-signed", "--site-ca-file"],
        ),
        (
            "site TLS",
            change(|s| s.reachability.tls = Some(Tls::NoTls)),
            Failed,
            &["443", "http://"],
        ),
        (
            "site TLS",
            change(|s| {
                s.reachability.tls =
                    Some(Tls::Works { version: "T".to_owned(), expires_soon: true })
            }),
            Warning,
            &["14 days", "renewed"],
        ),
        (
            "site TLS",
            change(|s| s.reachability = healthy_path(false)),
            Warning,
            &["read on the network", "https://"],
        ),
        (
            "redirects",
            change(|s| {
                let to = "https://www.community.example/wp-json/buddyboss/v1/members/me?x=1";
                s.probes = vec![(UrlStyle::Pretty, bodiless_reply(301, Some(to)))];
            }),
            Failed,
            &["--buddyboss-url https://www.community.example:"],
        ),
        (
            "redirects",
            change(|s| {
                let to = "https://community.example/wp-login.php?redirect_to=x";
                s.probes = vec![(UrlStyle::Pretty, bodiless_reply(302, Some(to)))];
            }),
            Failed,
            &[
                "GET https://community.example/wp-json/buddyboss/v1/members/me is redirected to",
                "wp-login.php",
                "Private REST APIs",
            ],
        ),
        (
            "redirects",
            change(|s| {
                let to = "https://community.example/wp-json/other";
                s.probes = vec![(UrlStyle::Pretty, bodiless_reply(302, Some(to)))];
            }),
            Failed,
            &["wp-json/other", "Exempt the paths under /wp-json/"],
        ),
        (
            "REST API",
            change(|s| {
                let slash = bodiless_reply(301, Some("/wp-json/buddyboss/v1/members/me/"));
                s.probes =
                    vec![(UrlStyle::Pretty, slash), (UrlStyle::RestRoute, anonymous_reply())];
            }),
            Good,
            &["/?rest_route=/, but not"],
        ),
        (
            "REST API",
            change(|s| {
                s.probes = vec![(UrlStyle::Pretty, fault(404, "rest_no_route", "No route"))]
            }),
            Failed,
            &["BuddyBoss does not", "Activate"],
        ),
        (
            "REST API",
            change(|s| s.probes = vec![(UrlStyle::Pretty, fault(503, "wp_die", "Maintenance"))]),
            Failed,
            &["in maintenance: status 503, code wp_die", "delete the file .maintenance"],
        ),
        (
            "REST API",
            change(|s| page(s, 503, "Updating the SITE: Maintenance")),
            Failed,
            &["the site is in maintenance: status 503", "delete the file .maintenance"],
        ),
        (
            "REST API",
            change(|s| {
                let retry_after = Some("600".to_owned());
                let reply = Reply { status: 503, retry_after, ..Reply::default() };
                s.probes = vec![(UrlStyle::Pretty, answered(reply))];
            }),
            Failed,
            &["asks to wait (Retry-After)", ".maintenance"],
        ),
        ("REST API", change(|s| page(s, 502, "Bad Gateway")), Failed, &["no answer of PHP"]),
        (
            "REST API",
            change(|s| page(s, 500, "Error")),
            Failed,
            &["the site fails", "PHP's error log"],
        ),
        (
            "REST API",
            change(|s| page(s, 200, "Coming soon")),
            Failed,
            &[
                "a page answers in its place: status 200",
                "title \"Coming soon\"",
                "Switch that page off",
            ],
        ),
        (
            "REST API",
            change(|s| s.probes = vec![(UrlStyle::Pretty, bodiless_reply(403, None))]),
            Failed,
            &["status 403, not JSON", "curl -i https://community.example/wp-json/"],
        ),
        (
            "REST API",
            change(|s| s.probes = vec![(UrlStyle::Pretty, timed_out())]),
            Failed,
            &["takes too long", "PHP"],
        ),
        (
            "clean JSON",
            change(|s| {
                let body = "\u{feff}{\"code\":\"rest_not_logged_in\",\"data\":{\"status\":401}}";
                let undeclared = Reply { content_type: None, ..reply(200, body) };
                s.probes = vec![(UrlStyle::Pretty, answered(undeclared.read_through()))];
            }),
            Warning,
            &["byte order mark (EF BB BF)", "wp-config.php", "reads through it", "grep -rlP"],
        ),
        ("clean JSON", change(|s| page(s, 200, "Coming soon")), Skipped, &["no JSON was received"]),
        (
            "clean JSON",
            change(|s| {
                let body = "Warning: x in /srv/x.php on line 3\n{\"id\":7}";
                s.me = vec![answered(reply(200, body).read_through())];
            }),
            Warning,
            &["Warning: … in /srv/x.php on line 3", "display_errors"],
        ),
        (
            "Messages component",
            change(|s| s.messages = Some(fault(404, "rest_no_route", "No route"))),
            Failed,
            &["no route", "Private Messaging is probably off"],
        ),
        (
            "Messages component",
            change(|s| s.messages = Some(fault(401, "rest_private", "Closed"))),
            Warning,
            &["not certain", "--token-file"],
        ),
        ("Messages component", change(|s| s.messages = Some(timed_out())), Failed, &["no reply"]),
        ("token header", change(dropped_header), Failed, &["does not reach", "CGIPassAuth"]),
        (
            "token header",
            change(move |s| {
                dropped_header(s);
                s.index.clear();
            }),
            Warning,
            &["not certain"],
        ),
        (
            "token header",
            change(move |s| {
                dropped_header(s);
                s.index = vec![answered(reply(200, r#"{"namespaces":["wp/v2"]}"#))];
            }),
            Warning,
            &["no JWT plugin"],
        ),
        ("token", change(dropped_header), Failed, &["no token, or one without a member"]),
        (
            "token",
            change(|s| s.me = vec![fault(403, "jwt_auth_invalid_token", "Expired token")]),
            Failed,
            &["expired"],
        ),
        (
            "token",
            change(|s| s.me = vec![fault(403, "jwt_auth_bad_iss", "The iss do not match")]),
            Failed,
            &["another site's"],
        ),
        (
            "token",
            change(|s| {
                let to = "https://community.example/wp-login.php?action=bp-suspended&reauth=1";
                s.me = vec![bodiless_reply(302, Some(to))];
            }),
            Failed,
            &["suspended"],
        ),
        (
            "token",
            change(|s| s.me = vec![fault(403, "jwt_auth_invalid_token", "Signature")]),
            Failed,
            &["jwt_auth_invalid_token"],
        ),
        ("token", change(|s| s.scheme = None), Skipped, &["--token-file"]),
        ("token", change(|s| s.expires_s = Some(NOW + 600)), Warning, &["10m"]),
        ("token", change(|s| s.expires_s = Some(NOW + 9)), Warning, &["valid for 9s"]),
        (
            "token",
            change(|s| s.expires_s = Some(NOW - 100)),
            Failed,
            &["expired 1m 40s ago, although the site still accepts it", "--token-file"],
        ),
        (
            "JWT secret",
            change(|s| {
                let refusal = Refusal::Signature { names_issuer: true };
                s.secret = SecretCheck::Tried(Err(refusal), None);
            }),
            Failed,
            &[
                "the site accepts this token, but it is not signed with the secret in \
                 --jwt-secret-file jwt.txt",
                "wp-config.php, without quotes, into jwt.txt.",
            ],
        ),
        ("JWT secret", change(|s| s.secret = SecretCheck::None), Skipped, &["--jwt-secret-file"]),
        ("JWT secret", change(|s| s.secret = SecretCheck::Tried(Ok(8), None)), Failed, &["8", "7"]),
        (
            "JWT issuer",
            change(|s| {
                s.secret = SecretCheck::Untried;
                let index = r#"{"home":"https://www.community.example","namespaces":[]}"#;
                s.index = vec![answered(reply(200, index))];
            }),
            Failed,
            &["--jwt-issuer https://www.community.example."],
        ),
        (
            "speed",
            change(|s| s.thread[0].took = Duration::from_secs(2)),
            Warning,
            &["thread 2000 ms", "slow"],
        ),
        ("speed", change(|s| s.thread[0].took = Duration::from_secs(16)), Warning, &["half of"]),
        (
            "speed",
            change(|s| {
                s.thread.clear();
                s.load = None;
                s.me.clear();
                s.scheme = None;
            }),
            Good,
            &["it needs a member's token"],
        ),
    ];
    for (name, change, status, words) in table {
        let (found, text) = finding_of(name, change);
        assert_eq!(found, status, "{name}: {text}");
        for word in words {
            assert!(text.contains(word), "{name}: no {word:?} in {text:?}");
        }
    }
}

#[test]
fn message_rate_is_a_range_of_the_reads_measured_at_once() {
    let second = Duration::from_secs(1);
    for (observed, words) in [
        (
            load(4, &[Ok(200); 20], second),
            "4 at once: 20 reads of the thread a second, so about 12 to 22 messages",
        ),
        // The rate is what the site reached, not what the latency of one request promises.
        (
            load(4, &[Ok(200); 20], 2 * second),
            "10 reads of the thread a second, so about 6.2 to 11 messages",
        ),
        (
            load(1, &[Ok(200); 2], 4 * second),
            "1 at once: 0.5 reads of the thread a second, so about 0.3 to 0.6 messages",
        ),
        (load(4, &[Ok(200); 40], Duration::ZERO), "40000 reads"),
        (load(4, &[], Duration::ZERO), "no time was left"),
    ] {
        let (status, text) = finding_of("speed", |s| s.load = Some(observed));
        assert_eq!(status, Good, "{text}");
        assert!(
            text.starts_with("REST index 100 ms, members/me 100 ms, thread 100 ms; "),
            "{text}"
        );
        assert!(text.contains(words), "no {words:?} in {text:?}");
    }
    let (_, text) = finding_of("speed", |s| {
        s.workers = 40;
        s.load = Some(LoadObservation { is_capped: true, ..load(16, &[Ok(200); 40], second) });
    });
    assert!(text.contains("16 at once (fewer than --upstream-workers): 40 reads"), "{text}");
}

#[test]
fn failures_of_requests_at_once_are_a_warning() {
    let second = Duration::from_secs(1);
    for (results, words) in [
        (vec![Ok(200), Ok(429), Ok(200), Ok(429)], "4 at once: 2 of 4 failed (status 429)"),
        (vec![Ok(200), Err("it timed out")], "1 of 2 failed (it timed out)"),
        (vec![Ok(302)], "1 of 1 failed (status 302)"),
    ] {
        let (status, text) = finding_of("speed", |s| s.load = Some(load(4, &results, second)));
        assert_eq!(status, Warning, "{text}");
        for word in [words, "rate limit", "--upstream-workers"] {
            assert!(text.contains(word), "no {word:?} in {text:?}");
        }
        assert!(!text.contains("messages a second"), "{text}");
    }
}

#[test]
fn missing_message_rate_says_why() {
    for (change, words) in [
        (
            change(|s| {
                s.thread.clear();
                s.newest_thread = Some(answered(reply(200, "[]")));
            }),
            "message speed not measured: member 7 has no thread",
        ),
        (
            change(|s| {
                s.thread.clear();
                s.newest_thread = Some(fault(500, "wp_die", "Error"));
            }),
            "member 7's newest thread is unknown: status 500",
        ),
        (
            change(|s| {
                s.thread.clear();
                s.newest_thread = None;
            }),
            "no time was left",
        ),
        (
            change(|s| s.thread.push(fault(503, "wp_die", "Maintenance"))),
            "not all requests succeeded",
        ),
    ] {
        let (status, text) = finding_of("speed", |s| {
            s.load = None;
            change(s);
        });
        assert_eq!(status, Good, "{text}");
        assert!(text.contains(words), "no {words:?} in {text:?}");
    }
}

#[test]
fn clock_skew_is_graver_when_tokens_are_verified_locally() {
    for (date_s, age, has_secret, status) in [
        (NOW, None, true, Good),
        (NOW + 5, None, true, Good),
        (NOW - 20, None, true, Warning),
        (NOW + 31, None, true, Failed),
        (NOW - 3600, None, true, Failed),
        (NOW - 3600, None, false, Warning),
        // A cached response does not tell the current time of the site.
        (NOW - 3600, Some("3600"), true, Skipped),
    ] {
        let (found, text) = finding_of("clock", |s| {
            if !has_secret {
                s.secret = SecretCheck::None;
            }
            let Ok(reply) = &mut s.probes[0].1.reply else { panic!("an answer") };
            reply.date = Some(http_date(date_s));
            reply.age = age.map(str::to_owned);
        });
        assert_eq!(found, status, "{date_s} {age:?} {has_secret}: {text}");
    }
}

#[test]
fn checks_after_a_failed_dependency_are_skipped() {
    let mut site = healthy_site();
    site.reachability.connected = Some(Err("the connection is refused".to_owned()));
    site.reachability.tls = None;
    site.probes.clear();
    let machine = machine_seen(Ok(()), 100_000);
    let findings = site::judge(&Observations { site: Some(site), machine, public: None });
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    assert_eq!((count(Good), count(Failed), count(Skipped)), (1, 1, 11), "{findings:?}");
}

#[test]
fn skipped_checks_name_their_own_reason() {
    let unreached = |s: &mut SiteObservation| {
        s.probes.clear();
        s.reachability.tls = None;
    };
    type Fail = fn(&mut SiteObservation);
    let table: [(Fail, &str); 5] = [
        (|s| s.reachability.addresses = Some(Err("not known".to_owned())), "no address"),
        (|s| s.reachability.connected = Some(Err("it is refused".to_owned())), "no connection"),
        (|s| s.reachability.tls = Some(Tls::Expired), "no trusted TLS connection"),
        (|s| s.reachability.tls = Some(Tls::NoTls), "no TLS connection"),
        (|_| (), "no time was left"),
    ];
    for (change, reason) in table {
        for name in ["REST API", "clean JSON", "token", "JWT secret"] {
            let (status, text) = finding_of(name, |s| {
                unreached(s);
                change(s);
            });
            assert!(status == Skipped && text.contains(reason), "{name}: {text}");
        }
    }
    // Options that are not set would be skipped with any site.
    let unset = |s: &mut SiteObservation| {
        page(s, 503, "Maintenance");
        s.secret = SecretCheck::None;
        s.scheme = None;
    };
    for (name, reason) in [
        ("token", "none is set"),
        ("JWT secret", "no secret or key is set"),
        ("JWT issuer", "no secret or key is set"),
        ("Messages component", "no usable reply"),
    ] {
        let (status, text) = finding_of(name, unset);
        assert!(status == Skipped && text.contains(reason), "{name}: {text}");
    }
}

#[test]
fn port_check_matches_what_the_server_would_see() {
    for (result, is_ours, may_run, status, word) in [
        (Ok(()), false, false, Good, "free"),
        (Err(ErrorKind::AddrInUse), false, false, Failed, "--listen"),
        (Err(ErrorKind::AddrInUse), false, true, Warning, "--listen"),
        (Err(ErrorKind::AddrInUse), true, false, Good, "already runs"),
        (Err(ErrorKind::PermissionDenied), false, false, Failed, "CAP_NET_BIND_SERVICE"),
        (Err(ErrorKind::AddrNotAvailable), false, false, Failed, "not an address of this machine"),
    ] {
        let seen = MachineObservation { is_ours, ..machine_seen(result, 100_000) };
        let finding = &machine(&seen, may_run)[1];
        assert_eq!(finding.status, status, "{finding:?}");
        let text = format!("{finding:?}");
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    for (holder, words) in [
        ("nginx (pid 41)", ["in use by nginx (pid 41)", "or stop that program"]),
        ("buddyline (pid 41)", ["by buddyline (pid 41)", "If that is this server, ignore this"]),
    ] {
        let mut seen = machine_seen(Err(ErrorKind::AddrInUse), 100_000);
        (seen.holder, seen.is_default) = (Some(holder.to_owned()), true);
        let text = format!("{:?}", machine(&seen, false)[1]);
        for word in [words[0], words[1], "(the default of --listen)"] {
            assert!(text.contains(word), "no {word:?} in {text}");
        }
    }
    let mut seen = machine_seen(Err(ErrorKind::AddrNotAvailable), 100_000);
    seen.listens.push(("127.0.0.1:8081".parse().unwrap(), Ok(())));
    assert_eq!(machine(&seen, false)[1].status, Good, "one address is enough");
}

#[test]
fn low_descriptor_limit_warns_with_the_needed_number() {
    let finding = &machine(&machine_seen(Ok(()), 1024), false)[0];
    assert_eq!(finding.status, Warning);
    assert!(finding.seen.contains("room for 996 connections; 16000 are wanted"), "{finding:?}");
    assert!(finding.remedy.as_deref().unwrap().contains("LimitNOFILE=16028"));
    assert_eq!(machine(&machine_seen(Ok(()), 16_028), false)[0].status, Good);
}

#[test]
fn missing_proxy_headers_are_named() {
    let answered = |status, body: &str| Upgrade::Answered {
        status,
        location: (status == 301).then(|| "https://community.example/live".to_owned()),
        body: body.to_owned(),
    };
    let pong = Some(Duration::from_millis(3));
    for (upgrade, status, word) in [
        (Upgrade::Opened { good: true, pong }, Good, "3 ms"),
        (Upgrade::Opened { good: true, pong: None }, Warning, "proxy_pass"),
        (Upgrade::Opened { good: false, pong: None }, Failed, "Sec-WebSocket-Accept"),
        (answered(404, "There is nothing at this path.\n"), Failed, "Upgrade $http_upgrade"),
        (answered(200, "<html>"), Failed, "Upgrade $http_upgrade"),
        (answered(301, ""), Failed, "redirects to https://community.example/live"),
        (answered(404, "<html>"), Failed, "location"),
        (answered(502, "<html>"), Failed, "it is running"),
        (answered(401, ""), Failed, "password"),
        (answered(503, "The server is restarting; try again.\n"), Warning, "in a moment"),
        (Upgrade::NoReply("the connection is reset".to_owned()), Failed, "error log"),
    ] {
        let (upgrade, app_origin) = (Some(upgrade), None);
        let seen = PublicObservation { reachability: healthy_path(true), upgrade, app_origin };
        let findings = public::judge(Some(&seen));
        assert_eq!(findings.len(), 4);
        let finding = findings.last().unwrap();
        assert_eq!(finding.status, status, "{finding:?}");
        assert!(format!("{finding:?}").contains(word), "{word}: {finding:?}");
    }
    assert_eq!(public::judge(None)[0].status, Skipped);
}

/// The findings about the keys, the issuer and the claims, for a token that is refused.
fn judge_refusal(refusal: Refusal, change: impl Fn(&mut SiteObservation)) -> [(Status, String); 3] {
    ["JWT secret", "JWT issuer", "JWT claims"].map(|name| {
        finding_of(name, |s| {
            s.secret = SecretCheck::Tried(Err(refusal.clone()), Some("because of it".to_owned()));
            change(s);
        })
    })
}

#[test]
fn only_what_is_wrong_with_a_token_is_blamed() {
    let signature = Refusal::Signature { names_issuer: true };
    let [secret, issuer, claims] = judge_refusal(signature, |_| ());
    assert_eq!((secret.0, issuer.0, claims.0), (Failed, Skipped, Skipped));
    assert!(issuer.1.contains("its signature is not verified"), "{}", issuer.1);
    assert!(claims.1.contains("signature does not match"), "{}", claims.1);
    // The site's own address is known without the token.
    let moved = |s: &mut SiteObservation| {
        s.index = vec![answered(reply(
            200,
            r#"{"home":"https://www.community.example","namespaces":[]}"#,
        ))];
    };
    let [_, issuer, _] = judge_refusal(Refusal::Signature { names_issuer: false }, moved);
    assert!(issuer.0 == Failed && issuer.1.contains("--jwt-issuer https://www"), "{}", issuer.1);
    let refused = |s: &mut SiteObservation| s.me = vec![fault(403, "jwt_auth_invalid_token", "")];
    let [secret, ..] = judge_refusal(Refusal::Signature { names_issuer: true }, refused);
    assert!(secret.0 == Failed && secret.1.contains("the site does not accept it"), "{}", secret.1);

    for (iss, words) in [
        (Some("https://bücher.example"), "Set --jwt-issuer https://bücher.example."),
        (Some("my-app"), "Set --jwt-issuer my-app."),
        (Some(""), "empty --jwt-issuer"),
        (None, "empty --jwt-issuer"),
    ] {
        let refusal = Refusal::Issuer(iss.map(str::to_owned));
        let [secret, issuer, claims] = judge_refusal(refusal, |_| ());
        assert_eq!((secret.0, issuer.0, claims.0), (Good, Failed, Skipped), "{iss:?}");
        assert!(issuer.1.contains(words), "{}", issuer.1);
    }

    // The site refuses it as well: then the setting may be right.
    let foreign = Refusal::Issuer(Some("https://other.example".to_owned()));
    let [_, issuer, _] = judge_refusal(foreign, refused);
    assert!(issuer.0 == Skipped && issuer.1.contains("does not accept it"), "{}", issuer.1);

    for (refusal, status) in [
        (Refusal::Claims("exp is not a number"), Failed),
        (Refusal::NotYetValid(99), Failed),
        (Refusal::NoExpiry, Failed),
        (Refusal::NoUser, Warning),
        (Refusal::Expired, Skipped),
    ] {
        let [secret, issuer, claims] = judge_refusal(refusal.clone(), |_| ());
        assert_eq!((secret.0, issuer.0, claims.0), (Good, Good, status), "{refusal:?}");
        let says_why = ["because of it", "another 99 s", "site signed: exp is not a number"]
            .iter()
            .any(|part| claims.1.contains(part));
        assert!(status == Skipped || says_why, "{}", claims.1);
    }

    let algorithm = Refusal::NoKey { algorithm: Algorithm::Rs256, names_issuer: true };
    let [secret, _, claims] = judge_refusal(algorithm, |_| ());
    assert_eq!((secret.0, claims.0), (Failed, Skipped));
    assert!(
        secret.1.contains("RS256, and no public key is set -> Set --jwt-key-file"),
        "{}",
        secret.1
    );
    let with_key = |s: &mut SiteObservation| {
        s.key_places = vec![key_place("--jwt-key-file", "site.pem", true)];
    };
    for (algorithm, words) in [
        (Algorithm::Rs256, "with a key that is not in site.pem"),
        (Algorithm::Hs256, "no secret is set -> Set --jwt-secret-file"),
        (Algorithm::Other(Some("HS512")), "HS512 -> Only HS256, RS256 and ES256"),
    ] {
        let refusal = Refusal::NoKey { algorithm, names_issuer: true };
        let [secret, ..] = judge_refusal(refusal, with_key);
        assert!(secret.0 == Failed && secret.1.contains(words), "{}", secret.1);
        assert!(!secret.1.contains("remove --jwt-secret-file"), "{}", secret.1);
    }

    // The site accepts tokens that are no JWTs: then the secret is of no use.
    let [secret, ..] = judge_refusal(Refusal::NotJwt("it has not three parts"), |_| ());
    assert!(secret.0 == Failed && secret.1.contains("remove --jwt-secret-file:"), "{}", secret.1);
    let refused = |s: &mut SiteObservation| s.me = vec![fault(403, "jwt_auth_invalid_token", "")];
    let [secret, ..] = judge_refusal(Refusal::NotJwt("it has not three parts"), refused);
    assert!(secret.0 == Skipped && secret.1.contains("three parts"), "{}", secret.1);
}

#[test]
fn token_without_end_is_said_to_cost_requests() {
    let (status, text) = finding_of("JWT claims", |s| s.expires_s = None);
    assert!(status == Good && text.contains("every ten minutes"), "{text}");
    assert_eq!(finding_of("JWT claims", |s| s.secret = SecretCheck::None).0, Skipped);
    assert_eq!(finding_of("JWT claims", |s| s.secret = SecretCheck::Untried).0, Skipped);
}

#[test]
fn site_password_that_cannot_go_with_tokens_is_a_warning() {
    let (status, text) = finding_of("site password", |s| s.has_password = true);
    assert!(status == Warning && text.contains("--token-header"), "{text}");
    let (status, text) = finding_of("site password", |s| {
        s.has_password = true;
        s.token_header = TokenHeader::parse("accessToken").unwrap();
    });
    assert!(status == Good && text.contains("accesstoken"), "{text}");
    let html = || answered(Reply { status: 401, ..Reply::default() });
    for (has_password, words) in [(false, "Exempt this machine"), (true, "Correct login")] {
        let (status, text) = finding_of("REST API", |s| {
            s.has_password = has_password;
            s.probes = vec![(UrlStyle::Pretty, html()), (UrlStyle::RestRoute, html())];
        });
        assert!(status == Failed && text.contains(words), "{text}");
    }
}

#[test]
fn trust_mode_is_named_and_open_trust_warned_of() {
    let of = |arguments: &[&str]| {
        trust(&Config::try_parse_from([&["buddyline"], arguments].concat()).unwrap())
    };
    let site = "--buddyboss-url=https://community.example";
    for (arguments, status, word) in [
        (&[site][..], Good, "verified"),
        (&[site, "--trust=open"], Warning, "any userId"),
        (&[], Warning, "no site is set"),
    ] {
        let finding = of(arguments);
        assert_eq!(finding.status, status, "{finding:?}");
        assert!(finding.seen.contains(word), "{finding:?}");
    }
}

#[test]
fn key_file_check_lists_keys_and_repeats_warnings() {
    let findings = key_file("x", &[], &["it is open".to_owned()]);
    assert_eq!(findings.len(), 2);
    assert_eq!((findings[0].status, findings[1].status), (Good, Warning));
}

#[test]
fn origin_of_apps_is_judged_by_the_reply() {
    let refused =
        |status, body: &str| Upgrade::Answered { status, location: None, body: body.to_owned() };
    let own = "Pages of this origin may not connect; the server's setting --allowed-origin …\n";
    for (upgrade, status, words) in [
        (Upgrade::Opened { good: true, pong: None }, Good, &["https://live.example connect"][..]),
        (
            refused(403, own),
            Failed,
            &["--allowed-origin https://live.example", "$http_host", "ProxyPreserveHost On"],
        ),
        (refused(403, "<html>"), Warning, &["status 403", "firewall"]),
        (Upgrade::Opened { good: false, pong: None }, Warning, &["the reply is wrong"]),
        (Upgrade::NoReply("the connection is reset".to_owned()), Warning, &["is reset"]),
    ] {
        let pong = Some(Duration::from_millis(3));
        let seen = PublicObservation {
            reachability: healthy_path(true),
            upgrade: Some(Upgrade::Opened { good: true, pong }),
            app_origin: Some(AppOrigin { origin: "https://live.example".to_owned(), upgrade }),
        };
        let findings = public::judge(Some(&seen));
        let finding = findings.last().unwrap();
        assert_eq!((findings.len(), finding.name), (5, "public origin"));
        assert_eq!(finding.status, status, "{finding:?}");
        for word in words {
            assert!(format!("{finding:?}").contains(word), "{word}: {finding:?}");
        }
    }
}

#[test]
fn secret_file_check_repeats_the_readers_warnings() {
    assert!(secret_file("x", None).is_empty());
    assert_eq!(
        (secret_file("x", Some(&[]))[0].status, secret_file("x", Some(&[]))[0].name),
        (Good, "x")
    );
    let warned = secret_file("x", Some(&["it is short".to_owned()]));
    assert_eq!((warned[0].status, &*warned[0].seen), (Warning, "it is short"));
    let warned =
        secret_file("x", Some(&["F: everyone may read it: run chmod o-rw on it".to_owned()]));
    assert_eq!(&*warned[0].seen, "F: everyone may read it");
    assert_eq!(warned[0].remedy.as_deref(), Some("Run chmod o-rw on it."));
}

#[test]
fn ice_servers_are_listed_with_a_warning_in_open_trust() {
    let settings = |arguments: &[&str]| {
        Config::try_parse_from(["buddyline"].iter().chain(arguments)).unwrap().ice
    };
    assert!(ice(&settings(&[]), Trust::Verified).is_empty());
    let stun = ice(&settings(&["--stun-url=stun:a"]), Trust::Open);
    assert_eq!((stun[0].status, &*stun[0].seen), (Good, "stun:a"));
    let both = settings(&["--stun-url=stun:a", "--turn-url=turn:b,turns:c", "--turn-ttl=90m"]);
    let fine = ice(&both, Trust::Verified);
    assert_eq!(
        (fine[0].status, &*fine[0].seen),
        (Good, "stun:a, turn:b, turns:c; credentials for 1h 30m")
    );
    let open = ice(&both, Trust::Open);
    assert_eq!(open[0].status, Warning);
    assert!(open[0].seen.contains("--trust is open"), "{open:?}");
}

//! Building requests to the site from validated parts, and classifying replies to the probe.

use std::time::{Duration, Instant};

use buddyline::config::site_password::SitePassword;
use buddyline::config::token_header::TokenHeader;
use buddyline::hub::interface::{Ask, Failure as F, Lookup, Post, RequestId, Target};
use buddyline::protocol::SITE_ID_MAX;
use buddyline::protocol::credential::Credential;
use buddyline::upstream::buddyboss::{
    ProbeFinding, Reply, Request, classify_probe_reply, parse_post_reply, post_request, precheck,
    probe_request,
};
use buddyline::upstream::checks::{
    ParticipantPages, list_request, parse_prove_reply, prove_request,
};
use buddyline::upstream::message_lookup::parse_lookup_reply;
use buddyline::upstream::url_style::UrlStyle;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::fixtures::load;

fn post(target: Target, text: &str) -> Post {
    Post { credential: Credential::parse("secret").ok(), target, text: text.into(), claimed: None }
}

fn bare(status: u16) -> Reply {
    let content_type = Some("text/html".to_owned());
    Reply { status, content_type, body: Some(b"<html>no</html>".to_vec()), ..Reply::default() }
}

fn body(request: &Request<'_>) -> Value {
    serde_json::from_str(request.body.as_deref().unwrap()).unwrap()
}

/// The headers for a site that expects tokens in the default header.
fn headers(request: &Request<'_>) -> Vec<(String, String)> {
    headers_in(request, &TokenHeader::default())
}

fn headers_in(request: &Request<'_>, header: &TokenHeader) -> Vec<(String, String)> {
    headers_with(request, header, None)
}

fn headers_with(
    request: &Request<'_>,
    header: &TokenHeader,
    password: Option<&SitePassword>,
) -> Vec<(String, String)> {
    request
        .headers(header, password)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn a_request_has_three_headers_and_the_token_in_one_of_them() {
    let post = post(Target::Thread(7), "hi");
    let request = post_request(&post, UrlStyle::Pretty);
    assert_eq!((request.method, &*request.path), ("POST", "/wp-json/buddyboss/v1/messages"));
    let headers = headers(&request);
    assert_eq!(headers.len(), 3);
    for (name, value) in [
        ("Accept", "application/json"),
        ("Authorization", "Bearer secret"),
        ("Content-Type", "application/json"),
    ] {
        assert!(headers.contains(&pair(name, value)), "{name}");
    }
    assert_eq!(body(&request), json!({"id": 7, "message": "hi"}));
}

#[test]
fn new_thread_request_names_recipient_but_no_thread() {
    let post = post(Target::NewThread { recipient: 4 }, "hi");
    let request = post_request(&post, UrlStyle::RestRoute);
    assert_eq!(request.path, "/?rest_route=/buddyboss/v1/messages");
    assert_eq!(body(&request), json!({"recipients": [4], "message": "hi"}));
}

#[test]
fn invalid_post_makes_no_request() {
    let no_token = Post { credential: None, ..post(Target::Thread(1), "x") };
    for (post, failure) in [
        (no_token, F::TokenMissing),
        (post(Target::Thread(0), "x"), F::RefusedBySite),
        (post(Target::NewThread { recipient: 0 }, "x"), F::RefusedBySite),
        (post(Target::Thread(SITE_ID_MAX + 1), "x"), F::RefusedBySite),
        (post(Target::Thread(1), ""), F::RefusedBySite),
    ] {
        assert_eq!(precheck(&Ask::Post(post)), Some(failure));
    }
    for thread in [0, SITE_ID_MAX + 1] {
        let ask = Ask::Participants { thread, credential: token("secret") };
        assert_eq!(precheck(&ask), Some(F::NotParticipant));
    }
}

// ---------------------------------------------------------------- authentication and participants

fn token(text: &str) -> Credential {
    Credential::parse(text).unwrap()
}

#[test]
fn proof_request_carries_the_token() {
    let credential = token("secret");
    for (url_style, path) in [
        (UrlStyle::Pretty, "/wp-json/buddyboss/v1/members/me?_fields=id"),
        (UrlStyle::RestRoute, "/?rest_route=/buddyboss/v1/members/me&_fields=id"),
    ] {
        let request = prove_request(&credential, url_style);
        assert_eq!((request.method, &*request.path), ("GET", path));
        let expected = [pair("Accept", "application/json"), pair("Authorization", "Bearer secret")];
        assert_eq!(headers(&request), expected);
        assert!(request.body.is_none());
    }
}

#[test]
fn participant_list_is_requested_page_by_page() {
    let credential = token("secret");
    let fields =
        "_fields=id,recipients,recipients_count,recipients_per_page,recipients_total_pages";
    let arguments = format!("recipients_pagination=true&recipients_page=2&{fields}");
    for (url_style, path) in [
        (UrlStyle::Pretty, format!("/wp-json/buddyboss/v1/messages/12?{arguments}")),
        (UrlStyle::RestRoute, format!("/?rest_route=/buddyboss/v1/messages/12&{arguments}")),
    ] {
        let request = list_request(12, 2, &credential, url_style);
        assert_eq!((request.method, &*request.path), ("GET", &*path));
        assert_eq!(headers(&request)[1], pair("Authorization", "Bearer secret"));
        assert!(request.body.is_none());
    }
    // This is exactly the request that was recorded.
    let recorded = load("thread-get-31-participants-page-2").path;
    assert_eq!(list_request(12, 2, &credential, UrlStyle::Pretty).path, recorded);
}

#[test]
fn site_password_is_sent_where_the_token_leaves_room() {
    let password = SitePassword::parse(b"staging:pw").unwrap();
    let (own, usual) = (TokenHeader::parse("accessToken").unwrap(), TokenHeader::default());
    let basic = "Basic c3RhZ2luZzpwdw==";
    for (credential, header, authorization, more) in [
        (None, &usual, basic, None),
        (Some("secret"), &own, basic, Some("secret")),
        // These need the header themselves.
        (Some("secret"), &usual, "Bearer secret", None),
        (Some("Basic YTpi"), &own, "Basic YTpi", None),
        (Some("Basic YTpi"), &usual, "Basic YTpi", None),
    ] {
        let credential = credential.map(token);
        let request = match &credential {
            Some(credential) => prove_request(credential, UrlStyle::Pretty),
            None => probe_request(UrlStyle::Pretty, None),
        };
        let headers = headers_with(&request, header, Some(&password));
        let values = |name: &str| -> Vec<&str> {
            let named = headers.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
            named.map(|(_, value)| &**value).collect()
        };
        assert_eq!(values("authorization"), [authorization]);
        assert_eq!(values("accesstoken"), more.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn credential_is_put_in_the_expected_header() {
    let own = TokenHeader::parse("accessToken").unwrap();
    let usual = TokenHeader::default();
    for (text, header, name, value) in [
        ("secret", &usual, "Authorization", "Bearer secret"),
        ("secret", &own, "accesstoken", "secret"),
        ("Basic YTpi", &usual, "Authorization", "Basic YTpi"),
        ("Basic YTpi", &own, "Authorization", "Basic YTpi"),
    ] {
        let credential = token(text);
        let post = Post { credential: Some(credential.clone()), ..post(Target::Thread(1), "x") };
        for request in [
            post_request(&post, UrlStyle::Pretty),
            prove_request(&credential, UrlStyle::Pretty),
            list_request(1, 1, &credential, UrlStyle::Pretty),
        ] {
            let headers = headers_in(&request, header);
            let with_secret =
                headers.iter().filter(|(_, value)| value.contains(credential.secret()));
            assert_eq!(with_secret.collect::<Vec<_>>(), [&pair(name, value)], "{text}");
        }
    }
}

#[test]
fn debug_output_of_requests_omits_credentials() {
    let credential = token("s3cret-token");
    for ask in [
        Ask::Prove(credential.clone()),
        Ask::Participants { thread: 1, credential: credential.clone() },
        Ask::Post(Post { credential: Some(credential), ..post(Target::Thread(1), "x") }),
    ] {
        assert!(!format!("{ask:?}").contains("s3cret"), "{ask:?}");
    }
}

proptest! {
    #[test]
    fn request_body_has_only_known_keys_and_the_exact_text(
        text in ".{1,200}", id in 1..=SITE_ID_MAX, new: bool,
    ) {
        let target = if new { Target::NewThread { recipient: id } } else { Target::Thread(id) };
        let post = post(target, &text);
        let request = post_request(&post, UrlStyle::Pretty);
        let expected = match new {
            true => json!({"recipients": [id], "message": text}),
            false => json!({"id": id, "message": text}),
        };
        prop_assert_eq!(body(&request), expected);
    }

    #[test]
    fn random_replies_do_not_panic(
        status in 100_u16..1000, kind in ".{0,20}", header in ".{0,40}", bytes: Vec<u8>, json: bool,
        after: Duration,
    ) {
        let kind = if json { "application/json".to_owned() } else { kind };
        let reply = Reply {
            status,
            content_type: Some(kind),
            retry_after: Some(header.clone()),
            age: None,
            date: Some("Sun, 22 Nov 2026 11:00:38 GMT".to_owned()),
            location: Some(header),
            body: Some(bytes),
            ..Reply::default()
        };
        parse_post_reply(&post(Target::Thread(1), "x"), &reply);
        parse_prove_reply(&token("secret"), &reply);
        ParticipantPages::new(1).add_page(&reply);
        classify_probe_reply(&reply);
        let credential = token("secret");
        for target in [Target::Thread(1), Target::NewThread { recipient: 3 }] {
            let (text, posted, post) = ("x".into(), Instant::now(), RequestId(1));
            let credential = credential.clone();
            let lookup = Lookup { credential, target, text, sender: None, posted, post };
            parse_lookup_reply(&lookup, &reply, after);
        }
    }
}

// ---------------------------------------------------------------- the probe

#[test]
fn probe_requests_me_without_a_token() {
    for (url_style, path) in [
        (UrlStyle::Pretty, "/wp-json/buddyboss/v1/members/me?_fields=id"),
        (UrlStyle::RestRoute, "/?rest_route=/buddyboss/v1/members/me&_fields=id"),
    ] {
        let request = probe_request(url_style, None);
        assert_eq!((request.method, &*request.path), ("GET", path));
        assert_eq!(headers(&request), [pair("Accept", "application/json")]);
        assert!(request.body.is_none());
    }
}

#[test]
fn probe_recognises_a_buddyboss_site() {
    for (name, expected) in [
        ("me-no-token", ProbeFinding::Api),
        ("me-fields-id", ProbeFinding::Api),
        ("private-rest-me-no-token", ProbeFinding::Api),
        ("url-rest-route", ProbeFinding::Api),
        ("url-rest-route-with-plain-permalinks", ProbeFinding::Api),
        ("url-no-such-route", ProbeFinding::NoRoute),
        ("url-wp-json-with-plain-permalinks-post", ProbeFinding::Other(200)),
        ("fail-php-warning-before-json", ProbeFinding::Api),
        ("fail-database-down", ProbeFinding::Other(500)),
        ("fail-maintenance", ProbeFinding::Other(503)),
        ("fail-bad-gateway", ProbeFinding::Other(502)),
    ] {
        assert_eq!(classify_probe_reply(&load(name).reply()), expected, "{name}");
    }
    let to = "https://community.example/wp-json/buddyboss/v1/members/me/".to_owned();
    let plain = load("url-wp-json-with-plain-permalinks").reply();
    assert_eq!(classify_probe_reply(&plain), ProbeFinding::Redirect(to));
    assert_eq!(classify_probe_reply(&bare(401)), ProbeFinding::Other(401));
}

#[test]
fn redirect_target_is_logged_without_secrets() {
    for (location, logged) in [
        ("https://www.example.org/wp-json/?token=s3cret", "https://www.example.org/wp-json/"),
        ("https://alice:s3cret@example.org/a#s3cret", "https://example.org/a"),
        ("/elsewhere?x=s3cret", "/elsewhere"),
        ("//other.example/a", "//other.example/a"),
        ("//alice:s3cret@other.example/a", "//other.example/a"),
        ("https:\\\\alice:s3cret@example.org\\a", "https://example.org/a"),
        ("alice:s3cret@example.org", "example.org"),
        ("https://example.org/a\r\nnew line", "https://example.org/anewline"),
        ("", ""),
    ] {
        let reply = Reply { location: Some(location.to_owned()), ..bare(301) };
        assert_eq!(
            classify_probe_reply(&reply),
            ProbeFinding::Redirect(logged.to_owned()),
            "{location}"
        );
    }
}

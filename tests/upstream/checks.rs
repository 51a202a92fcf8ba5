//! Parsing the site's replies to authentication and participant requests, with replies recorded
//! from a live site.

use std::collections::BTreeSet;

use buddyline::hub::interface::{Answer, Failure as F, Post, Proven, Target};
use buddyline::protocol::credential::Credential;
use buddyline::protocol::{Id, SITE_ID_MAX};
use buddyline::upstream::buddyboss::{Reply, parse_post_reply};
use buddyline::upstream::checks::{
    PAGES_MAX, PageProgress, ParticipantPages, parse_call_permission_reply, parse_prove_reply,
};
use serde_json::{Value, json};

use crate::support::fixtures::{self, load};
use crate::support::jwt;

const UNAVAILABLE: F = F::SiteUnavailable { retry_after_s: None };
const CLOSED: F = F::SiteUnavailable { retry_after_s: Some(600) };

fn token(text: &str) -> Credential {
    Credential::parse(text).unwrap()
}

fn proven(user: u64) -> Answer {
    Answer::Proven(Proven { user, expires_s: None })
}

fn failed(failure: F) -> Answer {
    Answer::Failed(failure)
}

fn listed(people: &[u64]) -> Answer {
    Answer::Participants(people.into())
}

// ---------------------------------------------------------------- every recording

/// The expected answer of each recorded reply to an authentication.
#[rustfmt::skip]
fn proofs() -> Vec<(&'static str, Answer)> {
    vec![
        ("me-application-password-ok", proven(2)),
        ("me-application-password-revoked", failed(F::TokenRefused)),
        ("me-basic-real-password", failed(F::TokenRefused)),
        ("me-basic-wrong-password", failed(F::TokenRefused)),
        ("me-cookie-after-logout", failed(F::TokenRefused)),
        ("me-cookie-bad-nonce", failed(F::TokenRefused)),
        ("me-cookie-carol-bearer-alice", proven(4)),
        ("me-cookie-carol-bearer-alice-no-nonce", failed(F::TokenRefused)),
        ("me-cookie-nonce", proven(4)),
        ("me-cookie-nonce-only-logged-in", proven(4)),
        ("me-cookie-without-nonce", failed(F::TokenRefused)),
        ("me-deleted-user", failed(F::TokenRefused)),
        ("me-empty-bearer", failed(F::TokenRefused)),
        ("me-expired-token", failed(F::TokenExpired)),
        ("me-fields-id", proven(2)),
        ("me-garbage-segments", failed(F::TokenRefused)),
        ("me-lowercase-scheme", failed(F::TokenRefused)),
        ("me-malformed-token", failed(F::TokenRefused)),
        ("me-never-existed-user", failed(F::TokenRefused)),
        ("me-no-token", failed(F::TokenRefused)),
        ("me-nonce-without-cookie", failed(F::TokenRefused)),
        ("me-not-yet-valid", failed(F::TokenRefused)),
        ("me-ok", proven(2)),
        ("fail-php-warning-before-json", proven(2)),
        ("me-permissions", failed(UNAVAILABLE)),
        ("me-suspended", failed(F::Suspended)),
        ("me-token-with-newline-space", proven(2)),
        ("me-wrong-issuer", failed(F::TokenRefused)),
        ("me-wrong-signature", failed(F::TokenRefused)),
        ("private-rest-me-no-token", failed(F::TokenRefused)),
    ]
}

/// The expected answer of each recorded reply to a participant request; `None` means that there is
/// another page.
#[rustfmt::skip]
fn lists() -> Vec<(&'static str, Option<Answer>)> {
    let forbidden = || Some(failed(F::NotParticipant));
    let thirty_one: Vec<u64> = [2].into_iter().chain(8..=37).collect();
    vec![
        // It is read through, and is no thread.
        ("fail-php-warning-before-json", Some(failed(UNAVAILABLE))),
        ("group-thread-get", Some(listed(&[2, 3, 4]))),
        ("group-thread-get-after-join", Some(listed(&[2, 3, 4, 5]))),
        ("group-thread-get-after-leave", Some(listed(&[2, 3, 4]))),
        ("group-thread-get-after-leave-by-leaver", forbidden()),
        ("thread-get-1to1", Some(listed(&[3, 5]))),
        // The request was not paged: the reply has all participants, despite its page count.
        ("thread-get-31-participants", Some(listed(&thirty_one))),
        // Read as a first page, with eleven of the 31 participants.
        ("thread-get-31-participants-page-2", None),
        ("thread-get-admin-non-participant", Some(listed(&[2, 3, 4]))),
        ("thread-get-after-delete-messages", forbidden()),
        ("thread-get-after-delete-messages-deleter", forbidden()),
        ("thread-get-before", Some(listed(&[2, 3]))),
        ("thread-get-blocked", Some(listed(&[4, 7]))),
        ("thread-get-blocker", Some(listed(&[4, 7]))),
        ("thread-get-deleted", forbidden()),
        ("thread-get-expired-token", Some(failed(F::TokenExpired))),
        // Without the number of pages the list may be incomplete.
        ("thread-get-fields", Some(failed(UNAVAILABLE))),
        ("thread-get-negative", Some(failed(F::SiteMisconfigured))),
        ("thread-get-no-token", Some(failed(F::TokenRefused))),
        ("thread-get-non-participant", forbidden()),
        ("thread-get-nonexistent", forbidden()),
        ("thread-get-nonnumeric", Some(failed(F::SiteMisconfigured))),
        ("thread-get-not-connected", Some(failed(UNAVAILABLE))),
        ("thread-get-one-side-deleted", Some(listed(&[3, 4]))),
        ("thread-get-participant", Some(listed(&[2, 3, 4]))),
        ("thread-get-recipients-pagination", Some(listed(&[2, 3, 4]))),
        // Member 158 is deleted: the site counts the row, but it is not a participant.
        ("thread-get-with-deleted-user", Some(listed(&[2]))),
        ("thread-get-zero", Some(failed(F::SiteMisconfigured))),
    ]
}

/// Replies of a failing site, with the expected failure for both kinds of request.
#[rustfmt::skip]
const TROUBLE: &[(&str, F)] = &[
    ("fail-bad-gateway", UNAVAILABLE),
    ("fail-body-too-large", UNAVAILABLE),
    ("fail-database-down", UNAVAILABLE),
    ("fail-gateway-timeout", UNAVAILABLE),
    ("fail-maintenance", CLOSED),
    ("fail-maintenance-post", CLOSED),
    ("fail-php-fatal-after-store", UNAVAILABLE),
    ("fail-php-fatal-early", UNAVAILABLE),
    ("fail-php-fatal-early-accept-any", UNAVAILABLE),
    ("url-no-such-route", F::SiteMisconfigured),
    ("url-wp-json-with-plain-permalinks", F::SiteMisconfigured),
    ("url-wp-json-with-plain-permalinks-post", UNAVAILABLE),
];

/// The thread in the path of a recorded request.
fn thread_of(path: &str) -> u64 {
    let rest = path.split("/messages/").nth(1).unwrap_or("1");
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().unwrap_or(1)
}

fn first_page(thread: u64, reply: &Reply) -> Option<Answer> {
    match ParticipantPages::new(thread).add_page(reply) {
        PageProgress::More => None,
        PageProgress::Done(answer, _) => Some(answer),
    }
}

#[test]
fn each_recorded_reply_matches_the_tables() {
    for (name, expected) in proofs() {
        assert_eq!(parse_prove_reply(&token("secret"), &load(name).reply()), expected, "{name}");
    }
    for (name, expected) in lists() {
        let fixture = load(name);
        assert_eq!(first_page(thread_of(&fixture.path), &fixture.reply()), expected, "{name}");
    }
    for (name, failure) in TROUBLE {
        let reply = load(name).reply();
        assert_eq!(parse_prove_reply(&token("secret"), &reply), failed(*failure), "{name}");
        assert_eq!(first_page(1, &reply), Some(failed(*failure)), "{name}");
    }
}

#[test]
fn every_recorded_reply_has_a_table_row() {
    let (proofs, lists) = (proofs(), lists());
    let rows = proofs.iter().map(|row| row.0).chain(lists.iter().map(|row| row.0));
    let rows: BTreeSet<&str> = rows.chain(TROUBLE.iter().map(|row| row.0)).collect();
    // One of them is in both tables.
    assert_eq!(rows.len() + 1, proofs.len() + lists.len() + TROUBLE.len(), "a row is repeated");
    for name in fixtures::names() {
        let ours = ["me-", "thread-get-", "group-thread-get", "private-rest-", "fail-"];
        if ours.iter().any(|kind| name.starts_with(kind)) {
            assert!(rows.contains(&*name), "{name} has no row");
        }
    }
}

#[test]
fn two_recorded_pages_form_one_list() {
    // The first page was recorded only as the reply to a post, which has the same shape.
    let mut reader = ParticipantPages::new(12);
    assert_eq!(reader.add_page(&load("post-thread-31-participants").reply()), PageProgress::More);
    assert_eq!(reader.page(), 2);
    let people: Vec<u64> = [2].into_iter().chain(8..=37).collect();
    let second = load("thread-get-31-participants-page-2").reply();
    assert_eq!(reader.add_page(&second), PageProgress::Done(listed(&people), None));
}

#[test]
fn post_reply_lists_participants_only_when_complete() {
    for (name, thread, expected) in [
        ("post-reply", 1, Some(&[2, 3][..])),
        ("group-thread-reply", 10, Some(&[2, 3, 4])),
        ("group-thread-post-after-join", 10, Some(&[2, 3, 4, 5])),
        ("post-to-thread-with-deleted-user", 56, Some(&[2])),
        ("post-after-own-delete", 5, Some(&[3, 4])),
    ] {
        let got = parse_post_reply(&post(Target::Thread(thread), "secret"), &load(name).reply());
        let Answer::Stored(stored) = got else { panic!("{name}: {got:?}") };
        assert_eq!(stored.participants.as_deref(), expected, "{name}");
        assert_eq!(stored.expires_s, None);
    }
    let new = parse_post_reply(
        &post(Target::NewThread { recipient: 3 }, "secret"),
        &load("post-new-thread-multi").reply(),
    );
    assert!(matches!(new, Answer::Stored(s) if s.participants.as_deref() == Some(&[2, 3, 4])));
    // This recording lacks messages because of its `_fields`. With messages added it is a
    // successful reply with 20 of 31 participants.
    let fixture = load("post-thread-31-participants");
    let mut body: Value = serde_json::from_slice(&fixture.body).unwrap();
    body["message_id"] = json!(99);
    body["messages"] = json!([{
        "id": 99, "sender_id": 2, "date_sent": "2026-11-22T11:00:38", "message": {"raw": "x"},
    }]);
    let got = parse_post_reply(&post(Target::Thread(12), "secret"), &reply(200, &body));
    assert!(matches!(&got, Answer::Stored(s) if s.participants.is_none()), "{got:?}");
}

// ---------------------------------------------------------------- authentication

fn post(target: Target, secret: &str) -> Post {
    Post { credential: Some(token(secret)), target, text: "x".into(), claimed: None }
}

fn reply(status: u16, body: &Value) -> Reply {
    Reply {
        status,
        content_type: Some("application/json; charset=UTF-8".to_owned()),
        body: Some(body.to_string().into_bytes()),
        ..Reply::default()
    }
}

fn bare(status: u16) -> Reply {
    let content_type = Some("text/html".to_owned());
    Reply { status, content_type, body: Some(b"<html>no</html>".to_vec()), ..Reply::default() }
}

#[test]
fn proof_requires_an_object_with_a_valid_id() {
    let read = |body: &Value| parse_prove_reply(&token("secret"), &reply(200, body));
    assert_eq!(read(&json!({"id": SITE_ID_MAX, "_links": {}})), proven(SITE_ID_MAX));
    for odd in [
        json!({"id": 0}),
        json!({"id": -1}),
        json!({"id": SITE_ID_MAX + 1}),
        json!({"id": "2"}),
        json!({"id": 2.5}),
        json!({"id": 1e16}),
        json!({"id": null}),
        json!({"id": [2]}),
        json!({}),
        json!([2]),
        json!([{"id": 2}]),
        json!(2),
        json!(null),
    ] {
        assert_eq!(read(&odd), failed(UNAVAILABLE), "{odd}");
    }
    let twice = Reply { body: Some(br#"{"id":2,"id":3}"#.to_vec()), ..reply(200, &json!(0)) };
    assert_eq!(parse_prove_reply(&token("secret"), &twice), failed(UNAVAILABLE));
    let good = reply(200, &json!({"id": 2}));
    for kind in [Some("text/html"), None] {
        let reply = Reply { content_type: kind.map(str::to_owned), ..good.clone() };
        assert_eq!(parse_prove_reply(&token("secret"), &reply), failed(UNAVAILABLE));
    }
    assert_eq!(
        parse_prove_reply(&token("secret"), &Reply { body: None, ..good.clone() }),
        failed(UNAVAILABLE)
    );
    let created = Reply { status: 201, ..good };
    assert_eq!(parse_prove_reply(&token("secret"), &created), failed(UNAVAILABLE));
}

#[test]
fn foreign_error_replies_do_not_reject_a_token() {
    let both = |reply: &Reply| {
        let (proof, list) =
            (parse_prove_reply(&token("secret"), reply), first_page(1, reply).unwrap());
        assert_eq!(proof, list);
        proof
    };
    for (status, failure) in [
        (204, UNAVAILABLE),
        (301, F::SiteMisconfigured),
        (302, F::SiteMisconfigured),
        (400, UNAVAILABLE),
        (401, UNAVAILABLE),
        (403, UNAVAILABLE),
        (404, F::SiteMisconfigured),
        (405, UNAVAILABLE),
        (418, UNAVAILABLE),
        (429, F::SiteBusy { retry_after_s: None }),
        (500, UNAVAILABLE),
        (502, UNAVAILABLE),
        (503, UNAVAILABLE),
        (504, UNAVAILABLE),
        (599, UNAVAILABLE),
    ] {
        assert_eq!(both(&bare(status)), failed(failure), "{status}");
        assert_eq!(both(&Reply { body: None, ..bare(status) }), failed(failure), "{status}");
    }
    let fault = |status, code: &str, text: &str| {
        both(&reply(status, &json!({"code": code, "message": text, "data": {"status": status}})))
    };
    for code in ["firewall", "", "jwt_auth_bad_config", "jwt_auth_unsupported_algorithm"] {
        assert_eq!(fault(403, code, "Expired token"), failed(UNAVAILABLE), "{code}");
    }
    assert_eq!(fault(403, "jwt_auth_invalid_token", "Expired token"), failed(F::TokenExpired));
    for code in ["jwt_auth_invalid_token", "jwt_auth_bad_iss", "rest_cookie_invalid_nonce"] {
        assert_eq!(fault(403, code, "x"), failed(F::TokenRefused), "{code}");
    }
    for code in ["rest_not_logged_in", "bp_rest_authorization_required", "another"] {
        assert_eq!(fault(401, code, "x"), failed(F::TokenRefused), "{code}");
    }
    // This code has different meanings for the two kinds of request.
    let no_right = reply(403, &json!({"code": "bp_rest_authorization_required", "message": "x"}));
    assert_eq!(parse_prove_reply(&token("secret"), &no_right), failed(F::TokenRefused));
    assert_eq!(first_page(1, &no_right), Some(failed(F::NotParticipant)));
    let wait = Reply { retry_after: Some("17".to_owned()), ..bare(429) };
    assert_eq!(both(&wait), failed(F::SiteBusy { retry_after_s: Some(17) }));
    let login = Some("/wp-login.php?action=bp-suspended&reauth=1".to_owned());
    assert_eq!(both(&Reply { location: login, ..bare(302) }), failed(F::Suspended));
}

#[test]
fn accepted_token_supplies_its_own_expiry() {
    const NOW: u64 = 1_795_345_238;
    let expiry =
        |secret: &str| match parse_prove_reply(&token(secret), &reply(200, &json!({"id": 2}))) {
            Answer::Proven(Proven { user: 2, expires_s }) => expires_s,
            other => panic!("{other:?}"),
        };
    let jwt = jwt::token("any key", "https://elsewhere.example", 9, NOW, |_, _| ());
    assert_eq!(expiry(&jwt), Some(NOW + jwt::WEEK_S));
    let Answer::Stored(stored) =
        parse_post_reply(&post(Target::Thread(1), &jwt), &load("post-reply").reply())
    else {
        panic!("not stored");
    };
    assert_eq!(stored.expires_s, Some(NOW + jwt::WEEK_S));
    let claims = |claims: &str| jwt::signed("any key", b"{}", claims.as_bytes());
    for odd in [
        "opaque".to_owned(),
        "a.b.c".to_owned(),
        "..".to_owned(),
        format!("{jwt}.more"),
        claims("{}"),
        claims(r#"{"exp":"1795345238"}"#),
        claims(r#"{"exp":1,"exp":2}"#),
        claims("[1795345238]"),
        "Basic YWxpY2U6b3BlbiBzZXNhbWU=".to_owned(),
    ] {
        assert_eq!(expiry(&odd), None, "{odd}");
    }
    // Any number is a time (RFC 7519 2), and sums with it must not overflow.
    for (number, expected) in [
        ("1795345238.5", 1_795_345_238),
        ("-1", 0),
        ("18446744073709551615", SITE_ID_MAX),
        ("1e300", SITE_ID_MAX),
    ] {
        assert_eq!(expiry(&claims(&format!(r#"{{"exp":{number}}}"#))), Some(expected), "{number}");
    }
}

// ---------------------------------------------------------------- participants

/// A page of a thread: these people, of `count` participants on `pages` pages.
fn page(people: &[u64], count: u64, pages: u64) -> Value {
    let rows = people.iter().map(|id| (id.to_string(), json!({"user_id": id, "is_deleted": 0})));
    json!({
        "id": 1,
        "recipients": Value::Object(rows.collect()),
        "recipients_count": count,
        "recipients_per_page": 20,
        "recipients_total_pages": pages,
    })
}

/// The answer after reading these pages, all of which must be requested.
fn read(pages: &[Value]) -> Answer {
    let mut reader = ParticipantPages::new(1);
    for (n, page) in pages.iter().enumerate() {
        assert_eq!(reader.page(), n as u64 + 1);
        match reader.add_page(&reply(200, page)) {
            PageProgress::More => {}
            PageProgress::Done(answer, _) => {
                assert_eq!(n + 1, pages.len(), "{answer:?} before the last page");
                return answer;
            }
        }
    }
    panic!("no answer after the last page");
}

#[test]
fn participant_list_is_sorted_without_deleted_accounts() {
    assert_eq!(read(&[page(&[9, 3, 12], 3, 1)]), listed(&[3, 9, 12]));
    let mut gone = page(&[9, 3, 12], 3, 1);
    gone["recipients"]["9"]["is_deleted"] = json!(1);
    assert_eq!(read(&[gone]), listed(&[3, 12]));
    let mut empty = page(&[], 0, 0);
    assert_eq!(read(&[empty.clone()]), listed(&[]));
    empty["recipients"] = json!([]);
    assert_eq!(read(&[empty]), listed(&[]));
}

#[test]
fn rows_shifting_between_pages_fail_the_list() {
    let rows: Vec<u64> = (1..=31).rev().collect();
    let (first, second) = (&rows[..20], &rows[20..]);
    let all: Vec<u64> = (1..=31).collect();
    assert_eq!(read(&[page(first, 31, 2), page(second, 31, 2)]), listed(&all));
    // A user joined: the last row of the first page is the first row of the second.
    let joined = [&rows[19..20], second].concat();
    assert_eq!(read(&[page(first, 31, 2), page(&joined, 32, 2)]), failed(UNAVAILABLE));
    // A user on the first page left: one row moved up and is on neither page.
    let left = &rows[21..];
    assert_eq!(read(&[page(first, 31, 2), page(left, 30, 2)]), failed(UNAVAILABLE));
    // Both: the count is the same, but one row is repeated and one is missing.
    let both = &joined[..11];
    assert_eq!(read(&[page(first, 31, 2), page(both, 31, 2)]), failed(UNAVAILABLE));
    // A page that is shorter or longer than the counts say.
    assert_eq!(read(&[page(&rows[..19], 31, 2), page(second, 31, 2)]), failed(UNAVAILABLE));
    assert_eq!(read(&[page(first, 19, 1)]), failed(UNAVAILABLE));
    assert_eq!(read(&[page(first, 21, 1)]), failed(UNAVAILABLE));
    assert_eq!(read(&[page(&[], 1, 0)]), failed(UNAVAILABLE));
    // A member who is on both pages was deleted between them.
    let mut gone = page(&joined, 31, 2);
    gone["recipients"]["12"]["is_deleted"] = json!(1);
    assert_eq!(read(&[page(first, 31, 2), gone]), failed(UNAVAILABLE));
}

#[test]
fn failed_page_fails_the_list() {
    let first = page(&(1..=20).collect::<Vec<_>>(), 31, 2);
    let second = |bad: &Reply| {
        let mut reader = ParticipantPages::new(1);
        assert_eq!(reader.add_page(&reply(200, &first)), PageProgress::More);
        match reader.add_page(bad) {
            PageProgress::Done(answer, _) => answer,
            PageProgress::More => panic!("another page is requested"),
        }
    };
    assert_eq!(second(&bare(502)), failed(UNAVAILABLE));
    assert_eq!(second(&bare(200)), failed(UNAVAILABLE));
    assert_eq!(second(&load("thread-get-non-participant").reply()), failed(F::NotParticipant));
    assert_eq!(second(&load("thread-get-expired-token").reply()), failed(F::TokenExpired));
}

#[test]
fn thread_over_fifty_pages_is_too_large() {
    let people: Vec<u64> = (1..=20).collect();
    let mut reader = ParticipantPages::new(1);
    assert_eq!(
        reader.add_page(&reply(200, &page(&people, 20 * PAGES_MAX, PAGES_MAX))),
        PageProgress::More
    );
    assert_eq!(read(&[page(&people, 1_001, PAGES_MAX + 1)]), failed(F::ThreadTooLarge));
}

#[test]
fn unreadable_reply_fails_the_list() {
    let good = page(&[2, 3], 2, 1);
    assert_eq!(read(std::slice::from_ref(&good)), listed(&[2, 3]));
    let odd = |path: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(path).unwrap() = value.clone();
        assert_eq!(read(&[body]), failed(UNAVAILABLE), "{path} = {value}");
    };
    odd("/id", json!(2));
    odd("/id", json!("1"));
    for value in [json!(null), json!("x"), json!([good["recipients"]["2"]]), json!([2, 3])] {
        odd("/recipients", value);
    }
    for value in [json!(null), json!(2), json!([2, 0]), json!({}), json!({"id": 2})] {
        odd("/recipients/2", value);
    }
    for value in [json!(0), json!("2"), json!(-2), json!(2.5), json!(null), json!(SITE_ID_MAX + 1)]
    {
        odd("/recipients/2/user_id", value);
    }
    odd("/recipients/2/user_id", json!(3));
    odd("/recipients/2/is_deleted", json!("1"));
    odd("/recipients_count", json!("2"));
    odd("/recipients_count", json!(null));
    odd("/recipients_total_pages", json!(-1));
    for key in ["id", "recipients", "recipients_count", "recipients_total_pages"] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(key);
        assert_eq!(read(&[body]), failed(UNAVAILABLE), "no {key}");
    }
}

#[test]
fn numbers_written_as_doubles_are_read_like_integers() {
    let as_doubles = |body: &Value| {
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let text = body.to_string();
        // Each number follows a colon, and a comma or a brace ends it.
        let parts = text.split(':').map(|part| match part.find([',', '}']) {
            Some(end) if digits(&part[..end]) => format!("{}.0{}", &part[..end], &part[end..]),
            _ => part.to_owned(),
        });
        let body = parts.collect::<Vec<_>>().join(":");
        assert!(body.contains(".0"), "{body}");
        Reply { body: Some(body.into_bytes()), ..reply(200, &json!(0)) }
    };
    let me = as_doubles(&json!({"id": SITE_ID_MAX}));
    assert_eq!(parse_prove_reply(&token("secret"), &me), proven(SITE_ID_MAX));
    let mut body = page(&[2, 3], 2, 1);
    let PageProgress::Done(list, None) = ParticipantPages::new(1).add_page(&as_doubles(&body))
    else {
        panic!("no list");
    };
    assert_eq!(list, listed(&[2, 3]));
    body["message_id"] = json!(99);
    body["current_user"] = json!(2);
    body["messages"] = json!([{
        "id": 99, "sender_id": 2, "date_sent": "2026-11-22T11", "message": {"raw": "x"},
    }]);
    // `as_doubles` does not know strings with colons.
    let mut reply = as_doubles(&body);
    let text = String::from_utf8(reply.body.unwrap()).unwrap();
    reply.body = Some(text.replace("2026-11-22T11", "2026-11-22T11:00:38").into_bytes());
    let stored = parse_post_reply(&post(Target::Thread(1), "secret"), &reply);
    let Answer::Stored(stored) = stored else { panic!("{stored:?}") };
    assert_eq!((stored.thread, stored.sender), (1, Id::number(2)));
    assert_eq!(stored.message.map(|message| message.id), Some(99));
    assert_eq!(stored.participants.as_deref(), Some(&[2, 3][..]));
}

#[test]
fn malformed_list_in_post_reply_is_ignored_and_stored() {
    let mut good = page(&[2, 3], 2, 1);
    good["message_id"] = json!(99);
    good["current_user"] = json!(2);
    good["messages"] = json!([{
        "id": 99, "sender_id": 2, "date_sent": "2026-11-22T11:00:38", "message": {"raw": "x"},
    }]);
    let participants = |body: &Value| match parse_post_reply(
        &post(Target::Thread(1), "secret"),
        &reply(200, body),
    ) {
        Answer::Stored(stored) => stored.participants,
        other => panic!("{other:?}"),
    };
    assert_eq!(participants(&good).as_deref(), Some(&[2, 3][..]));
    for (path, value) in [
        ("/recipients", json!([])),
        ("/recipients", json!("x")),
        ("/recipients/3", json!(null)),
        ("/recipients/3/user_id", json!(0)),
        ("/recipients/3/user_id", json!(2)),
        // The sender is not in the list, or is deleted.
        ("/recipients/2/user_id", json!(4)),
        ("/recipients/2/is_deleted", json!(1)),
        ("/recipients_count", json!(3)),
        ("/recipients_count", json!(1)),
        ("/recipients_count", json!(null)),
        ("/recipients_total_pages", json!(2)),
        ("/recipients_total_pages", json!(0)),
        ("/recipients_total_pages", json!("1")),
    ] {
        let mut body = good.clone();
        *body.pointer_mut(path).unwrap() = value.clone();
        assert_eq!(participants(&body), None, "{path} = {value}");
    }
    for key in ["recipients", "recipients_count", "recipients_total_pages"] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(key);
        assert_eq!(participants(&body), None, "no {key}");
    }
}

// ---------------------------------------------------------------- permission to call

#[test]
fn recorded_threads_tell_who_may_call() {
    for (name, thread, answer) in [
        ("thread-get-recipients-pagination", 4, Answer::CallPermission(true)),
        ("thread-get-blocker", 5, Answer::CallPermission(false)),
        ("thread-get-not-connected", 1, Answer::CallPermission(false)),
        ("thread-get-non-participant", 4, failed(F::NotParticipant)),
        ("thread-get-expired-token", 4, failed(F::TokenExpired)),
        ("fail-maintenance", 4, failed(CLOSED)),
        ("me-ok", 4, failed(UNAVAILABLE)),
    ] {
        let reply = load(name).reply();
        assert_eq!(parse_call_permission_reply(thread, &reply), answer, "{name}");
    }
    // The reply is about another thread.
    let reply = load("thread-get-recipients-pagination").reply();
    assert_eq!(parse_call_permission_reply(5, &reply), failed(UNAVAILABLE));
}

#[test]
fn only_errors_between_two_people_forbid_a_call() {
    let permission = |value: Value| {
        let body = json!({"id": 4, "can_send_message": value}).to_string();
        parse_call_permission_reply(
            4,
            &Reply {
                status: 200,
                content_type: Some("application/json".to_owned()),
                body: Some(body.into_bytes()),
                ..Reply::default()
            },
        )
    };
    let errors = |code: &str| json!({"errors": {code: ["text"]}, "error_data": {code: {}}});
    for code in [
        "bp_rest_user_blocked",
        "bp_rest_user_suspended",
        "bp_rest_friendship_required",
        "bp_rest_deleted_unset",
    ] {
        assert_eq!(permission(errors(code)), Answer::CallPermission(false), "{code}");
    }
    for value in [json!(true), json!(null), json!(false), errors("bp_rest_archived_conversation")] {
        assert_eq!(permission(value.clone()), Answer::CallPermission(true), "{value}");
    }
}

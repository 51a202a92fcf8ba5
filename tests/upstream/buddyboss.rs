//! Parsing the site's replies to a post, with replies recorded from a live site.

use std::collections::BTreeSet;

use buddyline::hub::interface::{Answer, Failure as F, Post, Stored, Target};
use buddyline::protocol::credential::Credential;
use buddyline::protocol::{Id, SITE_ID_MAX};
use buddyline::upstream::buddyboss::{Reply, parse_post_reply};
use serde_json::{Value, json};

use Expected::{Failed, Stored as StoredAs};

use crate::support::fixtures::{self, Fixture, load};

/// The expected outcome of a recorded reply: thread, sender and message, or a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Stored(u64, u64, u64),
    Failed(F),
}

/// Every recorded reply to a post, and every other reply that a post could get.
#[rustfmt::skip]
const TABLE: &[(&str, Expected)] = &[
    ("fail-bad-gateway", Failed(F::Unusable)),
    ("fail-body-too-large", Failed(F::TooLarge)),
    ("fail-database-down", Failed(F::Unusable)),
    ("fail-gateway-timeout", Failed(F::Unknown)),
    ("fail-maintenance-post", Failed(F::SiteUnavailable { retry_after_s: Some(600) })),
    ("fail-maintenance", Failed(F::SiteUnavailable { retry_after_s: Some(600) })),
    ("fail-php-fatal-after-store", Failed(F::Unusable)),
    ("fail-php-fatal-early-accept-any", Failed(F::Unusable)),
    ("fail-php-fatal-early", Failed(F::Unusable)),
    ("fail-php-warning-before-json", Failed(F::Unusable)),
    ("group-thread-post-after-join", StoredAs(10, 5, 71)),
    ("group-thread-post-after-leave", Failed(F::NotParticipant)),
    ("group-thread-post-non-member", Failed(F::NotParticipant)),
    ("group-thread-reply", StoredAs(10, 3, 66)),
    ("post-admin-not-in-thread", Failed(F::NotParticipant)),
    ("post-after-own-delete", StoredAs(5, 3, 45)),
    ("post-cookie-nonce", StoredAs(2, 4, 171)),
    ("post-deleted-user", Failed(F::TokenRefused)),
    ("post-duplicate-second", StoredAs(1, 2, 40)),
    ("post-expired-token", Failed(F::TokenExpired)),
    ("post-group-not-connected", StoredAs(4, 2, 47)),
    ("post-hash-idempotency", StoredAs(1, 2, 41)),
    ("post-into-deleted-thread", Failed(F::NotParticipant)),
    ("post-into-thread-all-messages-deleted", Failed(F::NotParticipant)),
    ("post-invalid-json", Failed(F::RefusedBySite)),
    ("post-media-only", StoredAs(2, 2, 981)),
    ("post-message-64k", StoredAs(1, 2, 21)),
    ("post-message-65k-over-text-column", StoredAs(1, 2, 22)),
    ("post-message-ampersand", StoredAs(1, 2, 17)),
    ("post-message-emoji", StoredAs(1, 2, 16)),
    ("post-message-empty", Failed(F::RefusedBySite)),
    ("post-message-html", StoredAs(1, 2, 13)),
    ("post-message-invalid-utf8", Failed(F::RefusedBySite)),
    ("post-message-mention", StoredAs(1, 2, 20)),
    ("post-message-missing", Failed(F::RefusedBySite)),
    ("post-message-multiline", StoredAs(1, 2, 18)),
    ("post-message-nbsp", StoredAs(1, 2, 11)),
    ("post-message-null-byte", StoredAs(1, 2, 24)),
    ("post-message-number", StoredAs(1, 2, 23)),
    ("post-message-object", Failed(F::Unusable)),
    ("post-message-rtl", StoredAs(1, 2, 25)),
    ("post-message-script-only", StoredAs(1, 2, 15)),
    ("post-message-script", StoredAs(1, 2, 14)),
    ("post-message-url", StoredAs(1, 2, 19)),
    ("post-message-whitespace", StoredAs(1, 2, 10)),
    ("post-message-zero", StoredAs(1, 2, 12)),
    ("post-new-not-connected", Failed(F::CannotWrite)),
    ("post-new-thread-alice-bob", StoredAs(1, 2, 2)),
    ("post-new-thread-created", StoredAs(2, 2, 3)),
    ("post-new-thread-multi", StoredAs(4, 2, 5)),
    ("post-new-thread-subject", StoredAs(3, 3, 4)),
    ("post-no-token", Failed(F::TokenRefused)),
    ("post-nonexistent-method", Failed(F::SiteMisconfigured)),
    ("post-not-in-thread", Failed(F::NotParticipant)),
    ("post-recipients-csv", StoredAs(4, 2, 28)),
    ("post-recipients-deleted-user", Failed(F::CannotWrite)),
    ("post-recipients-duplicate", StoredAs(1, 2, 34)),
    ("post-recipients-empty", Failed(F::RefusedBySite)),
    ("post-recipients-missing", Failed(F::RefusedBySite)),
    ("post-recipients-mixed-known-unknown", StoredAs(2, 2, 30)),
    ("post-recipients-negative", StoredAs(1, 2, 33)),
    ("post-recipients-scalar", StoredAs(1, 2, 29)),
    ("post-recipients-self-first", StoredAs(1, 2, 31)),
    ("post-recipients-self-last", StoredAs(1, 2, 32)),
    ("post-recipients-self", Failed(F::CannotWrite)),
    ("post-recipients-string-ids", StoredAs(1, 2, 27)),
    ("post-recipients-unknown", Failed(F::CannotWrite)),
    ("post-recipients-username", Failed(F::RefusedBySite)),
    ("post-reply-blocked", Failed(F::CannotWrite)),
    ("post-reply-connected", StoredAs(1, 2, 46)),
    ("post-reply-form-encoded", StoredAs(1, 3, 9)),
    ("post-reply-id-as-string", StoredAs(1, 3, 7)),
    ("post-reply-media-component-active", StoredAs(2, 2, 980)),
    ("post-reply-not-connected", Failed(F::CannotWrite)),
    ("post-reply-with-recipients-ignored", StoredAs(1, 3, 8)),
    ("post-reply", StoredAs(1, 3, 6)),
    ("post-send-at-fraction", Failed(F::RefusedBySite)),
    ("post-send-at", StoredAs(1, 2, 34)),
    ("post-suspended", Failed(F::Suspended)),
    ("post-thread-31-participants", Failed(F::Unusable)),
    ("post-thread-nonexistent", Failed(F::NotParticipant)),
    ("post-thread-nonnumeric", Failed(F::RefusedBySite)),
    ("post-thread-zero", Failed(F::RefusedBySite)),
    ("post-to-someone-i-blocked", Failed(F::CannotWrite)),
    ("post-to-someone-who-blocked-me", Failed(F::CannotWrite)),
    ("post-to-suspended", Failed(F::CannotWrite)),
    ("post-to-thread-with-deleted-user", StoredAs(56, 2, 979)),
    ("post-user-id-query-param", StoredAs(1, 2, 36)),
    ("post-wrong-content-type", Failed(F::RefusedBySite)),
    ("url-no-such-route", Failed(F::SiteMisconfigured)),
    ("url-options-preflight", Failed(F::Unusable)),
    ("url-rest-route-with-plain-permalinks", Failed(F::Unusable)),
    ("url-rest-route", Failed(F::Unusable)),
    ("url-wp-json-with-plain-permalinks-post", Failed(F::Unusable)),
    ("url-wp-json-with-plain-permalinks", Failed(F::SiteMisconfigured)),
];

/// Prefixes of recordings that cannot be the reply to a post.
const OTHERS: [&str; 5] =
    ["me-", "private-rest-", "thread-get-", "group-thread-get", "search-thread-"];

fn post(target: Target, text: &str) -> Post {
    Post { credential: Credential::parse("secret").ok(), target, text: text.into(), claimed: None }
}

/// A post with the target and text of a recorded request.
fn post_of(fixture: &Fixture) -> Post {
    let sent = &fixture.sent;
    let id = sent["id"].as_u64().or_else(|| sent["id"].as_str()?.parse().ok()).filter(|id| *id > 0);
    let target = match id {
        Some(id) => Target::Thread(id),
        None => Target::NewThread { recipient: 3 },
    };
    post(target, sent["message"].as_str().unwrap_or("?"))
}

fn summary(answer: &Answer) -> Expected {
    match answer {
        Answer::Failed(failure) => Failed(*failure),
        Answer::Stored(s) => StoredAs(
            s.thread,
            s.sender.site_number().unwrap(),
            s.message.as_ref().map_or(0, |m| m.id),
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_recorded_reply_maps_to_the_expected_answer() {
    for (name, expected) in TABLE {
        let fixture = load(name);
        let got = summary(&parse_post_reply(&post_of(&fixture), &fixture.reply()));
        assert_eq!(got, *expected, "{name}");
    }
}

#[test]
fn every_recording_has_a_table_row() {
    let rows: BTreeSet<&str> = TABLE.iter().map(|row| row.0).collect();
    assert_eq!(rows.len(), TABLE.len(), "a row is repeated");
    for name in fixtures::names() {
        if !OTHERS.iter().any(|other| name.starts_with(other)) {
            assert!(rows.contains(&*name), "{name} has no row");
        }
    }
}

#[test]
fn recordings_match_their_originals() {
    let origin = fixtures::origin();
    if !origin.is_dir() {
        return;
    }
    for name in fixtures::names() {
        let file = format!("{name}.json");
        let ours = std::fs::read(fixtures::folder().join(&file)).unwrap();
        let theirs = std::fs::read(origin.join(&file)).unwrap();
        assert!(ours == theirs, "{name} differs from the recording it was copied from");
    }
    for entry in std::fs::read_dir(origin).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if ["post-", "fail-", "url-", "me-", "thread-get-", "search-thread-"]
            .iter()
            .any(|kind| file.starts_with(kind))
        {
            assert!(fixtures::folder().join(&file).exists(), "{file} has not been copied");
        }
    }
}

#[test]
fn stored_message_carries_the_sites_id_date_and_html() {
    let fixture = load("post-reply");
    let Answer::Stored(stored) =
        parse_post_reply(&post(Target::Thread(1), "hi alice"), &fixture.reply())
    else {
        panic!("not stored");
    };
    assert_eq!((stored.thread, stored.sender), (1, Id::number(3)));
    let message = stored.message.unwrap();
    assert_eq!(message.id, 6);
    assert_eq!(message.sent_at, "2026-11-22T11:00:38Z");
    assert_eq!(message.html, "<p>hi alice</p>\n");
}

// ---------------------------------------------------------------- the posted message

fn entry(id: u64, sender: u64, raw: &str) -> Value {
    json!({
        "id": id, "sender_id": sender, "date_sent": "2026-11-22T11:00:38",
        "message": {"raw": raw, "rendered": format!("<p>{raw}</p>\n")},
    })
}

fn thread(messages: &[Value]) -> Value {
    json!({"id": 1, "message_id": 99, "current_user": 2, "messages": messages})
}

fn reply(status: u16, body: &Value) -> Reply {
    Reply {
        status,
        content_type: Some("application/json; charset=UTF-8".to_owned()),
        body: Some(body.to_string().into_bytes()),
        ..Reply::default()
    }
}

fn stored(text: &str, body: &Value) -> Option<Stored> {
    match parse_post_reply(&post(Target::Thread(1), text), &reply(200, body)) {
        Answer::Stored(stored) => Some(stored),
        Answer::Failed(failure) => {
            assert_eq!(failure, F::Unusable);
            None
        }
        other => panic!("{other:?}"),
    }
}

fn own_message_id(text: &str, messages: &[Value]) -> Option<u64> {
    stored(text, &thread(messages)).expect("stored").message.map(|m| m.id)
}

#[test]
fn newest_message_of_the_sender_is_used_not_the_last() {
    let messages = [entry(1, 2, "old"), entry(2, 2, "mine"), entry(3, 9, "another's")];
    assert_eq!(own_message_id("mine", &messages), Some(2));
}

#[test]
fn newest_message_with_the_posted_text_wins() {
    let messages = [entry(1, 2, "ok"), entry(2, 2, "ok"), entry(3, 2, "from the web page")];
    assert_eq!(own_message_id("ok", &messages), Some(2));
    assert_eq!(own_message_id("  <b>ok</b>\n", &messages), Some(2));
    assert_eq!(own_message_id("changed by a plugin", &messages), Some(3));
}

#[test]
fn newest_message_is_the_one_with_the_highest_id() {
    assert_eq!(own_message_id("x", &[entry(5, 2, "x"), entry(4, 2, "x")]), Some(5));
}

#[test]
fn reply_without_the_senders_message_still_counts_as_stored() {
    let messages: Vec<Value> = (1..=10).map(|n| entry(n, 9, "busy")).collect();
    assert_eq!(own_message_id("mine", &messages), None);
}

#[test]
fn malformed_entry_does_not_affect_the_others() {
    let mut odd = entry(8, 2, "mine");
    odd["date_sent"] = json!("<script>");
    let mut no_text = entry(3, 2, "");
    no_text["message"] = json!({"raw": null});
    let messages = [json!(null), json!("x"), odd, json!({"id": "9"}), entry(2, 2, "mine"), no_text];
    assert_eq!(own_message_id("mine", &messages), Some(2));
}

// ---------------------------------------------------------------- successful replies

#[test]
fn thread_object_requires_ids_and_a_message() {
    let good = thread(&[entry(1, 2, "x")]);
    assert!(stored("x", &good).is_some());
    for (key, values) in [
        ("id", vec![json!(0), json!(-1), json!("1"), json!(null), json!(SITE_ID_MAX + 1)]),
        ("message_id", vec![json!(0), json!(null)]),
        ("current_user", vec![json!(0), json!(null), json!(1.5)]),
        ("messages", vec![json!([]), json!({}), json!(null), json!("x")]),
    ] {
        for value in values {
            let mut bad = good.clone();
            bad[key] = value.clone();
            assert!(stored("x", &bad).is_none(), "{key} = {value}");
        }
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().remove(key);
        assert!(stored("x", &bad).is_none(), "no {key}");
    }
    for other in [json!([good]), json!({"message": "sent", "data": [good]}), json!("x"), json!(1)] {
        assert!(stored("x", &other).is_none());
    }
}

#[test]
fn reply_about_another_thread_is_rejected() {
    let mut other = thread(&[entry(1, 2, "x")]);
    other["id"] = json!(2);
    assert!(stored("x", &other).is_none());
    let new = post(Target::NewThread { recipient: 3 }, "x");
    assert!(
        matches!(parse_post_reply(&new, &reply(200, &other)), Answer::Stored(s) if s.thread == 2)
    );
}

#[test]
fn a_200_with_html_is_an_unknown_outcome() {
    let good = reply(200, &thread(&[entry(1, 2, "x")]));
    let read = |reply: &Reply| summary(&parse_post_reply(&post(Target::Thread(1), "x"), reply));
    assert_eq!(read(&good), StoredAs(1, 2, 1));
    for kind in [Some("text/html"), Some("application/json-seq"), Some(""), None] {
        let reply = Reply { content_type: kind.map(str::to_owned), ..good.clone() };
        assert_eq!(read(&reply), Failed(F::Unusable), "{kind:?}");
    }
    for kind in ["application/json", "Application/JSON;charset=utf-8", "application/json ; x=y"] {
        let reply = Reply { content_type: Some(kind.to_owned()), ..good.clone() };
        assert_eq!(read(&reply), StoredAs(1, 2, 1), "{kind}");
    }
    let before = [b"<br />Warning", &*good.body.clone().unwrap()].concat();
    assert_eq!(read(&Reply { body: Some(before), ..good.clone() }), Failed(F::Unusable));
    let after = [&*good.body.clone().unwrap(), b"<!-- cached -->"].concat();
    assert_eq!(read(&Reply { body: Some(after), ..good.clone() }), Failed(F::Unusable));
    assert_eq!(read(&Reply { body: None, ..good.clone() }), Failed(F::Unknown));
    for status in [201, 202, 204, 206] {
        assert_eq!(read(&Reply { status, ..good.clone() }), Failed(F::Unusable), "{status}");
    }
}

// ---------------------------------------------------------------- failures

fn fails(reply: &Reply) -> F {
    match parse_post_reply(&post(Target::Thread(1), "x"), reply) {
        Answer::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn fault(status: u16, code: &str, message: &str) -> F {
    fails(&reply(status, &json!({"code": code, "message": message, "data": {"status": status}})))
}

#[test]
fn token_failure_is_classified_by_status_code_and_text() {
    for code in ["rest_not_logged_in", "bp_rest_authorization_required", "anything"] {
        assert_eq!(fault(401, code, "x"), F::TokenRefused);
    }
    assert_eq!(fault(403, "jwt_auth_invalid_token", "Expired token"), F::TokenExpired);
    assert_eq!(
        fault(403, "jwt_auth_invalid_token", "Signature verification failed"),
        F::TokenRefused
    );
    for code in ["jwt_auth_bad_iss", "jwt_auth_bad_auth_header", "rest_cookie_invalid_nonce"] {
        assert_eq!(fault(403, code, "Expired token"), F::TokenRefused);
    }
    assert_eq!(fault(403, "bp_rest_authorization_required", "x"), F::NotParticipant);
    assert_eq!(fault(403, "firewall", "x"), F::NotStored);
}

fn bare(status: u16) -> Reply {
    let content_type = Some("text/html".to_owned());
    Reply { status, content_type, body: Some(b"<html>no</html>".to_vec()), ..Reply::default() }
}

#[test]
fn status_without_json_is_classified_by_status_alone() {
    for (status, failure) in [
        (301, F::SiteMisconfigured),
        (304, F::SiteMisconfigured),
        (308, F::SiteMisconfigured),
        (400, F::RefusedBySite),
        (401, F::NotStored),
        (403, F::NotStored),
        (404, F::SiteMisconfigured),
        (405, F::NotStored),
        (413, F::TooLarge),
        (418, F::NotStored),
        (429, F::SiteBusy { retry_after_s: None }),
        (499, F::NotStored),
        (500, F::Unusable),
        (502, F::Unusable),
        (503, F::Unusable),
        (504, F::Unknown),
        (520, F::Unknown),
        (599, F::Unknown),
    ] {
        assert_eq!(fails(&bare(status)), failure, "{status}");
        assert_eq!(
            fails(&Reply { body: None, ..bare(status) }),
            failure,
            "{status} without a body"
        );
    }
}

#[test]
fn suspended_member_is_recognised_by_the_redirect() {
    let to = |location: &str| fails(&Reply { location: Some(location.to_owned()), ..bare(302) });
    let login = "https://community.example/wp-login.php";
    assert_eq!(to(&format!("{login}?action=bp-suspended&reauth=1")), F::Suspended);
    assert_eq!(to(&format!("{login}?reauth=1&action=bp-suspended")), F::Suspended);
    assert_eq!(to("/wp-login.php?action=bp-suspended"), F::Suspended);
    assert_eq!(to(&format!("{login}?redirect_to=x")), F::SiteMisconfigured);
    assert_eq!(to("https://community.example/action=bp-suspended"), F::SiteMisconfigured);
}

#[test]
fn retry_after_accepts_seconds_or_date_within_bounds() {
    let now = "Sun, 22 Nov 2026 11:00:38 GMT";
    let wait = |value: &str, date: Option<&str>| {
        let reply = Reply {
            retry_after: Some(value.to_owned()),
            date: date.map(str::to_owned),
            ..bare(429)
        };
        assert_eq!(fails(&reply), F::SiteBusy { retry_after_s: reply.retry_after_s() });
        reply.retry_after_s()
    };
    assert_eq!(wait("7", None), Some(7));
    assert_eq!(wait(" 7 ", None), Some(7));
    assert_eq!(wait("0", None), Some(1));
    assert_eq!(wait("99999", None), Some(3600));
    assert_eq!(wait("99999999999999999999999", None), Some(3600));
    assert_eq!(wait("Sun, 22 Nov 2026 11:01:08 GMT", Some(now)), Some(30));
    assert_eq!(wait("Sunday, 22-Nov-26 11:01:08 GMT", Some(now)), Some(30));
    assert_eq!(wait("Sun Nov 22 11:01:08 2026", Some(now)), Some(30));
    assert_eq!(wait("Tue, 01 Dec 2026 00:00:00 GMT", Some(now)), Some(3600));
    assert_eq!(wait("Sun, 22 Nov 2026 10:00:00 GMT", Some(now)), Some(1));
    assert_eq!(wait("Sun, 22 Nov 2026 11:01:08 GMT", None), None);
    for odd in ["", "soon", "-5", "1.5", "+5", "Sun, 99 Foo 2026 11:01:08 GMT", "Sun, 22 Nov"] {
        assert_eq!(wait(odd, Some(now)), None, "{odd}");
    }
}

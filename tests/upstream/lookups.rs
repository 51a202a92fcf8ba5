//! Looking up whether the site has stored a message, with recorded replies and over sockets.

use std::time::{Duration, Instant};

use buddyline::hub::interface::{Answer, Failure as F, Lookup, LookupResult, RequestId, Target};
use buddyline::protocol::Id;
use buddyline::protocol::credential::Credential;
use buddyline::upstream::buddyboss::Reply;
use buddyline::upstream::message_lookup::{lookup_request, parse_lookup_reply as read};
use buddyline::upstream::url_style::UrlStyle;
use serde_json::{Value, json};

use crate::support::driver::{PoolDriver, UNAVAILABLE, failed, lookup, lookup_result, post};
use crate::support::fixtures::load;
use crate::support::site::{Fault, Site};

const S: Duration = Duration::from_secs(1);

fn ask(target: Target, sender: Option<u64>, text: &str) -> Lookup {
    Lookup {
        credential: Credential::parse("secret").unwrap(),
        target,
        text: text.into(),
        sender: sender.map(Id::number),
        posted: Instant::now(),
        post: RequestId(1),
    }
}

/// A recorded reply, dated at this time on 22 November 2026.
fn at(name: &str, time: &str) -> Reply {
    Reply { date: Some(format!("Sun, 22 Nov 2026 {time} GMT")), ..load(name).reply() }
}

fn mismatch(thread: u64, sender: u64, message: u64) -> Answer {
    Answer::LookupResult(LookupResult::Mismatch { thread, sender: Id::number(sender), message })
}

const NOT_STORED: Answer = Answer::LookupResult(LookupResult::Absent);
const INCONCLUSIVE: Answer = Answer::Failed(UNAVAILABLE);

/// The id of the message that was found.
fn matched_id(answer: Answer) -> Option<u64> {
    match answer {
        Answer::LookupResult(LookupResult::Match { stored, .. }) => stored.message.map(|m| m.id),
        _ => None,
    }
}

// ---------------------------------------------------------------- the request

#[test]
fn lookup_requests_thread_with_the_senders_token() {
    let thread = ask(Target::Thread(12), None, "x");
    let new = ask(Target::NewThread { recipient: 3 }, None, "x");
    for (lookup, url_style, path) in [
        (
            &thread,
            UrlStyle::Pretty,
            "/wp-json/buddyboss/v1/messages/12?recipients_pagination=true&recipients_page=1",
        ),
        (
            &thread,
            UrlStyle::RestRoute,
            "/?rest_route=/buddyboss/v1/messages/12&recipients_pagination=true&recipients_page=1",
        ),
        (&new, UrlStyle::Pretty, "/wp-json/buddyboss/v1/messages/search-thread?recipient_id=3"),
        (
            &new,
            UrlStyle::RestRoute,
            "/?rest_route=/buddyboss/v1/messages/search-thread&recipient_id=3",
        ),
    ] {
        let request = lookup_request(lookup, url_style);
        assert_eq!((request.method, &*request.path), ("GET", path));
        assert_eq!(request.token.unwrap().secret(), "secret");
        assert!(request.body.is_none());
    }
}

// ---------------------------------------------------------------- recorded replies

#[test]
fn lookup_finds_the_senders_newest_message() {
    // 11:00:44 in thread 4: "csv" by member 2.
    let lookup = ask(Target::Thread(4), Some(2), "csv");
    let reply = at("thread-get-recipients-pagination", "11:00:50");
    let Answer::LookupResult(LookupResult::Match { stored, .. }) = read(&lookup, &reply, 7 * S)
    else {
        panic!()
    };
    assert_eq!((stored.thread, stored.sender), (4, Id::number(2)));
    let message = stored.message.unwrap();
    assert_eq!((message.id, &*message.sent_at), (28, "2026-11-22T11:00:44Z"));
    assert_eq!(message.html, "<p>csv</p>\n");
    assert_eq!(stored.participants.as_deref(), Some(&[2, 3, 4][..]));
}

#[test]
fn lookup_matches_text_altered_by_the_site() {
    for (text, id) in [("nul \0 byte", None), ("hi 👋🏽 😀 ✓ 日本語", Some(16))] {
        let lookup = ask(Target::Thread(1), Some(2), text);
        assert_eq!(matched_id(read(&lookup, &at("thread-get-before", "11:00:41"), S)), id);
    }
}

#[test]
fn message_older_than_the_post_is_not_matched() {
    let lookup = ask(Target::Thread(4), Some(2), "csv");
    let read =
        |time: &str, after| read(&lookup, &at("thread-get-recipients-pagination", time), after);
    // The message is dated 11:00:44. Rounding to seconds and clock skew may add up to two seconds.
    assert_eq!(matched_id(read("11:00:44", Duration::ZERO)), Some(28));
    assert_eq!(matched_id(read("11:00:46", Duration::ZERO)), Some(28));
    assert_eq!(matched_id(read("11:01:16", 30 * S)), Some(28));
    // Within a minute it may still be the message, if the clocks differ more: inconclusive.
    assert_eq!(read("11:00:47", Duration::ZERO), mismatch(4, 2, 28));
    assert_eq!(read("11:00:47", S / 2), mismatch(4, 2, 28));
    assert_eq!(read("11:01:44", Duration::ZERO), mismatch(4, 2, 28));
    assert_eq!(read("11:01:45", Duration::ZERO), NOT_STORED);
    // An older message with another text is certainly not the message.
    let bye = ask(Target::Thread(4), Some(2), "bye");
    let reply = at("thread-get-recipients-pagination", "11:00:47");
    assert_eq!(self::read(&bye, &reply, Duration::ZERO), NOT_STORED);
}

#[test]
fn newer_message_with_other_text_is_reported_as_other() {
    let lookup = ask(Target::Thread(4), Some(2), "changed by a plugin");
    let reply = at("thread-get-recipients-pagination", "11:00:45");
    assert_eq!(read(&lookup, &reply, 2 * S), mismatch(4, 2, 28));
}

#[test]
fn lookup_without_site_date_finds_nothing() {
    let lookup = ask(Target::Thread(4), Some(2), "csv");
    let good = at("thread-get-recipients-pagination", "11:00:45");
    assert_eq!(matched_id(read(&lookup, &good, S)), Some(28));
    for date in [None, Some("soon".to_owned())] {
        assert_eq!(read(&lookup, &Reply { date, ..good.clone() }, S), mismatch(4, 2, 28));
    }
}

// A cached reply may be older than the post, so a missing message or an earlier newest message of
// the sender proves nothing.
#[test]
fn cached_reply_is_inconclusive() {
    let aged = |reply: Reply, age: &str| Reply { age: Some(age.to_owned()), ..reply };
    let good = || at("thread-get-recipients-pagination", "11:00:45");
    for (text, time) in [("csv", "11:00:45"), ("bye", "11:00:45"), ("bye", "11:05:00")] {
        let lookup = ask(Target::Thread(4), Some(2), text);
        let reply = at("thread-get-recipients-pagination", time);
        assert_eq!(read(&lookup, &aged(reply, "3"), S), INCONCLUSIVE, "{text} {time}");
    }
    let lookup = ask(Target::NewThread { recipient: 5 }, Some(4), "x");
    let none = load("search-thread-none").reply();
    assert_eq!(read(&lookup, &aged(none, "3"), S), INCONCLUSIVE);
    let lookup = ask(Target::Thread(4), Some(2), "csv");
    assert_eq!(matched_id(read(&lookup, &aged(good(), "0"), S)), Some(28));
}

#[test]
fn lookup_with_another_users_token_is_inconclusive() {
    // A moderator sees the thread without being a participant.
    let reply = at("thread-get-admin-non-participant", "11:00:45");
    assert_eq!(read(&ask(Target::Thread(4), Some(2), "csv"), &reply, S), INCONCLUSIVE);
    let reply = at("thread-get-recipients-pagination", "11:00:45");
    assert_eq!(read(&ask(Target::Thread(4), Some(3), "csv"), &reply, S), INCONCLUSIVE);
    // If the sender is unknown, it is the user that the site names.
    assert_eq!(matched_id(read(&ask(Target::Thread(4), None, "csv"), &reply, S)), Some(28));
}

#[test]
fn other_users_messages_are_not_matched() {
    // The newest of thread 1 is member 3's "with user_id"; member 2's comes before it.
    let reply = at("search-thread-found", "11:02:56");
    let lookup = ask(Target::Thread(1), Some(2), "with user_id");
    assert_eq!(read(&lookup, &reply, 2 * S), mismatch(1, 2, 36));
}

#[test]
fn reply_for_another_thread_is_inconclusive() {
    let reply = at("thread-get-recipients-pagination", "11:00:45");
    assert_eq!(read(&ask(Target::Thread(5), Some(2), "csv"), &reply, S), INCONCLUSIVE);
}

#[test]
fn new_thread_is_the_one_between_the_two_users() {
    let reply = at("search-thread-found", "11:02:56");
    let text = "typed by bob, signed alice";
    let to = |recipient| ask(Target::NewThread { recipient }, Some(2), text);
    assert_eq!(matched_id(read(&to(3), &reply, 2 * S)), Some(36));
    assert_eq!(read(&to(4), &reply, 2 * S), INCONCLUSIVE);
    // A thread of three people does not match.
    let three = at("thread-get-recipients-pagination", "11:00:45");
    let lookup = ask(Target::NewThread { recipient: 3 }, Some(2), "csv");
    assert_eq!(read(&lookup, &three, S), INCONCLUSIVE);
}

#[test]
fn missing_thread_between_two_users_means_not_stored() {
    for name in ["search-thread-none", "search-thread-unknown-user"] {
        let lookup = ask(Target::NewThread { recipient: 5 }, Some(4), "x");
        assert_eq!(read(&lookup, &load(name).reply(), S), NOT_STORED, "{name}");
        // For a lookup in a known thread this reply is inconclusive.
        assert_eq!(
            read(&ask(Target::Thread(1), Some(4), "x"), &load(name).reply(), S),
            INCONCLUSIVE
        );
    }
}

#[test]
fn malformed_thread_fails_the_lookup() {
    let lookup = ask(Target::Thread(4), Some(2), "x");
    for (name, failure) in [
        ("thread-get-non-participant", F::NotParticipant),
        ("thread-get-nonexistent", F::NotParticipant),
        ("thread-get-deleted", F::NotParticipant),
        ("thread-get-expired-token", F::TokenExpired),
        ("thread-get-no-token", F::TokenRefused),
        ("search-thread-no-token", F::TokenRefused),
        ("search-thread-missing-param", UNAVAILABLE),
        ("fail-php-fatal-early", UNAVAILABLE),
        ("fail-php-warning-before-json", UNAVAILABLE),
        ("fail-bad-gateway", UNAVAILABLE),
        ("fail-gateway-timeout", UNAVAILABLE),
        ("fail-maintenance", F::SiteUnavailable { retry_after_s: Some(600) }),
        ("url-wp-json-with-plain-permalinks", F::SiteMisconfigured),
        ("me-ok", UNAVAILABLE),
    ] {
        assert_eq!(read(&lookup, &load(name).reply(), S), Answer::Failed(failure), "{name}");
    }
}

// ---------------------------------------------------------------- synthetic replies

fn entry(id: u64, sender: u64, raw: &str, second: u64) -> Value {
    json!({
        "id": id, "sender_id": sender, "date_sent": format!("2026-11-22T11:00:{second:02}"),
        "message": {"raw": raw, "rendered": format!("<p>{raw}</p>\n")},
    })
}

/// The result for a thread with these messages at 11:00:40, ten seconds after "x" was posted.
fn lookup_among(messages: &[Value]) -> Answer {
    let last = messages.last().map_or(json!(0), |last| last["id"].clone());
    let body = json!({"id": 1, "message_id": last, "current_user": 2, "messages": messages});
    let reply = Reply {
        status: 200,
        content_type: Some("application/json".to_owned()),
        date: Some("Sun, 22 Nov 2026 11:00:40 GMT".to_owned()),
        body: Some(body.to_string().into_bytes()),
        ..Reply::default()
    };
    read(&ask(Target::Thread(1), Some(2), "x"), &reply, 10 * S)
}

#[test]
fn newest_own_message_with_the_text_matches_behind_others() {
    let found = |messages: &[Value]| match lookup_among(messages) {
        Answer::LookupResult(LookupResult::Match { stored, newest }) => {
            (stored.message.unwrap().id, newest)
        }
        other => panic!("{other:?}"),
    };
    let (old, other_users) = (entry(7, 2, "old", 1), entry(10, 3, "x", 31));
    assert_eq!(found(&[old.clone(), entry(9, 2, "x", 30), other_users.clone()]), (9, 9));
    // The sender wrote on the site's pages as well, before and after.
    let (before, post, after) = (entry(8, 2, "y", 30), entry(9, 2, "x", 30), entry(11, 2, "z", 38));
    assert_eq!(found(&[old.clone(), before, post.clone(), other_users, after.clone()]), (9, 11));
    assert_eq!(found(&[after, post, old.clone()]), (9, 11), "in any order");
    // Of two equal texts the newest counts; the hub knows whether the other has a post of its own.
    assert_eq!(found(&[entry(8, 2, "x", 30), entry(9, 2, "x", 30)]), (9, 9));
    // An equal text from before the post does not hide that a newer message may be the post's.
    assert_eq!(lookup_among(&[entry(8, 2, "x", 1), entry(9, 2, "y", 31)]), mismatch(1, 2, 9));
    // An equal text shortly before the post is uncertain, whatever older message follows it.
    assert_eq!(lookup_among(&[entry(8, 2, "x", 20), entry(9, 2, "y", 21)]), mismatch(1, 2, 8));
    assert_eq!(lookup_among(&[old, entry(8, 2, "y", 21)]), NOT_STORED);
}

#[test]
fn no_sender_message_is_conclusive_within_the_window() {
    assert_eq!(lookup_among(&[]), NOT_STORED);
    let busy = |count: u64, second| -> Vec<_> {
        (1..=count).map(|id| entry(id, 3, "busy", second)).collect()
    };
    assert_eq!(lookup_among(&busy(9, 35)), NOT_STORED);
    assert_eq!(lookup_among(&busy(10, 20)), NOT_STORED);
    // All ten messages are newer than the post, so it may have dropped out of the reply.
    assert_eq!(lookup_among(&busy(10, 35)), INCONCLUSIVE);
}

#[test]
fn unreadable_entry_makes_lookup_inconclusive() {
    for odd in [json!(null), json!({"id": 11}), entry(11, 2, "x", 99)] {
        assert_eq!(lookup_among(&[entry(9, 2, "x", 30), odd]), INCONCLUSIVE);
    }
}

#[test]
fn text_that_normalizes_to_empty_is_never_matched() {
    // A message with only a picture looks the same.
    let reply = |raw: &str| {
        let body = json!({
            "id": 1, "message_id": 9, "current_user": 2, "messages": [entry(9, 2, raw, 35)],
        });
        Reply {
            status: 200,
            content_type: Some("application/json".to_owned()),
            date: Some("Sun, 22 Nov 2026 11:00:40 GMT".to_owned()),
            body: Some(body.to_string().into_bytes()),
            ..Reply::default()
        }
    };
    for text in [" ", "<b></b>", "\u{0}"] {
        let lookup = ask(Target::Thread(1), Some(2), text);
        assert_eq!(read(&lookup, &reply(""), 10 * S), mismatch(1, 2, 9));
    }
}

// ---------------------------------------------------------------- over sockets

#[test]
fn failed_post_is_looked_up_at_the_site() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    let thread = Target::Thread(1);
    assert_eq!(lookup_result(driver.ask(lookup(thread, "hi", S))), LookupResult::Absent);
    site.fail_next(Fault::FatalAfterStoring);
    assert_eq!(failed(driver.ask(post(1, "hi"))), F::Unusable);
    let LookupResult::Match { stored, .. } = lookup_result(driver.ask(lookup(thread, "hi", S)))
    else {
        panic!()
    };
    assert_eq!((stored.thread, stored.message.unwrap().id), (1, 1));
    assert_eq!(stored.participants.as_deref(), Some(&[7, 8][..]));
    let sender = Id::number(7);
    let not_this = LookupResult::Mismatch { thread: 1, sender, message: 1 };
    assert_eq!(lookup_result(driver.ask(lookup(thread, "bye", S))), not_this);
    assert_eq!(failed(driver.ask(lookup(Target::Thread(99), "hi", S))), F::NotParticipant);
    assert_eq!((site.posts().len(), site.lookup_requests().len()), (1, 4));
    assert!(
        site.lookup_requests().iter().all(|r| r.header("authorization") == Some("Bearer user-7"))
    );
}

#[test]
fn new_thread_is_looked_up_by_its_recipient() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    let with = |recipient| lookup(Target::NewThread { recipient }, "hi", S);
    assert_eq!(lookup_result(driver.ask(with(9))), LookupResult::Absent);
    site.add_thread(50, &[7, 9]);
    assert_eq!(lookup_result(driver.ask(with(9))), LookupResult::Absent);
    site.fail_next(Fault::CloseAfterStoring);
    let to_nine = Target::NewThread { recipient: 9 };
    assert_eq!(
        failed(driver.ask(crate::support::driver::post_as("user-7", to_nine, "hi"))),
        F::Unknown
    );
    let LookupResult::Match { stored, .. } = lookup_result(driver.ask(with(9))) else { panic!() };
    assert_eq!(stored.thread, 50);
}

#[test]
fn unanswered_lookup_fails() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| s.request_timeout = Duration::from_millis(700));
    for fault in [Fault::Hang, Fault::Close, Fault::Truncated, Fault::Html, Fault::Garbage] {
        let name = format!("{fault:?}");
        site.fail_when(move |_, r| r.path.contains("recipients_page").then(|| fault.clone()));
        assert_eq!(failed(driver.ask(lookup(Target::Thread(1), "hi", S))), UNAVAILABLE, "{name}");
    }
}

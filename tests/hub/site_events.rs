//! Events of the site are heard once, by those who may hear them, whatever comes first.

use std::time::Duration;

use buddyline::config::PresenceScope;
use buddyline::hub::interface::{Answer, ConnId, Failure, Input, Proven, Settings, Ticket};
use buddyline::protocol::site_event::SiteEvent;
use serde_json::{Value, json};

use crate::support::harness::{HubHarness, stored, verified};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn event(value: Value) -> SiteEvent {
    SiteEvent::parse(&value.to_string()).unwrap_or_else(|| panic!("{value}"))
}

fn report(harness: &mut HubHarness, events: impl IntoIterator<Item = Value>) {
    let events = events.into_iter().map(event).collect();
    harness.handle(Input::SiteEvents(events));
}

fn message(thread: u64, id: u64, sender: u64, recipients: &[u64]) -> Value {
    json!({
        "type": "message", "threadId": thread, "messageId": id, "senderId": sender,
        "recipients": recipients, "sentAt": "2026-12-01T10:00:00Z", "text": "hi",
        "html": "<p>hi</p>\n",
    })
}

/// Users 7 and 8 in thread 41.
fn two() -> (HubHarness, ConnId, ConnId) {
    two_with(verified())
}

fn two_with(settings: Settings) -> (HubHarness, ConnId, ConnId) {
    let mut harness = HubHarness::new(settings);
    let seven = harness.open_member(0, 7, 41, &[7, 8]);
    let eight = harness.open_member(1, 8, 41, &[7, 8]);
    (harness, seven, eight)
}

fn join_inbox(harness: &mut HubHarness, slot: u32, user: u64, content: &str) -> ConnId {
    let conn = harness.open_proven(slot, user);
    harness.send(conn, &format!(r#"{{"type":"join_inbox","content":"{content}"}}"#));
    let received = harness.received();
    assert_eq!(received[0].1, json!({"type": "inbox_joined", "content": content}));
    conn
}

/// The frames that a connection has received since the last check, without presence.
fn heard(received: &[(ConnId, Value)], conn: ConnId) -> Vec<Value> {
    let frames = received.iter().filter(|(to, _)| *to == conn).map(|(_, frame)| frame.clone());
    frames.filter(|frame| !["user_connected", "user_disconnected"].contains(&kind(frame))).collect()
}

fn kind(frame: &Value) -> &str {
    frame["type"].as_str().unwrap()
}

fn kinds(received: &[(ConnId, Value)], conn: ConnId) -> Vec<String> {
    heard(received, conn).iter().map(|frame| kind(frame).to_owned()).collect()
}

// ---------------------------------------------------------------- messages

#[test]
fn message_from_the_web_page_reaches_thread_and_inboxes_once() {
    let (mut harness, seven, eight) = two();
    let full = join_inbox(&mut harness, 2, 8, "full");
    let ids = join_inbox(&mut harness, 3, 8, "ids");
    let other = join_inbox(&mut harness, 4, 9, "full");
    // A connection with both hears it once.
    harness.send(eight, r#"{"type":"join_inbox"}"#);
    harness.received();
    report(&mut harness, [message(41, 100, 7, &[8])]);
    let received = harness.received();
    let expected = json!({
        "type": "message", "threadId": 41, "senderId": 7, "recipientId": null, "message": "hi",
        "messageId": 100, "sentAt": "2026-12-01T10:00:00Z", "html": "<p>hi</p>\n",
    });
    for conn in [seven, eight] {
        assert_eq!(heard(&received, conn), std::slice::from_ref(&expected));
    }
    let mut by_inbox = expected;
    by_inbox["inbox"] = json!(true);
    assert_eq!(heard(&received, full), [by_inbox]);
    assert_eq!(
        heard(&received, ids),
        [json!({
            "type": "inbox", "event": "message", "threadId": 41, "messageId": 100, "senderId": 7,
            "sentAt": "2026-12-01T10:00:00Z",
        })]
    );
    assert_eq!(heard(&received, other), [] as [Value; 0]);
    // The plugin reports it once more.
    report(&mut harness, [message(41, 100, 7, &[8])]);
    harness.assert_nothing_received();
}

#[test]
fn event_and_answer_of_a_post_are_heard_once_in_either_order() {
    for event_first in [true, false] {
        let (mut harness, seven, eight) = two();
        let phone = harness.open_member(2, 7, 41, &[7, 8]);
        let inbox = join_inbox(&mut harness, 3, 8, "full");
        let text = r#"{"type":"send_message","threadId":41,"message":"hi","clientId":"a"}"#;
        harness.send(seven, text);
        let (post, _) = harness.next_post();
        let answer = Answer::Stored(stored(41, 7, 100, Some(&[7, 8])));
        let event = message(41, 100, 7, &[8]);
        if event_first {
            report(&mut harness, [event]);
            harness.assert_nothing_received();
            harness.answer(post, answer);
        } else {
            harness.answer(post, answer);
            report(&mut harness, [event]);
        }
        let received = harness.received();
        for conn in [seven, phone, eight, inbox] {
            assert_eq!(kinds(&received, conn), ["message"], "{event_first} {received:?}");
        }
        let own = heard(&received, seven);
        assert_eq!((&own[0]["clientId"], &own[0]["messageId"]), (&json!("a"), &json!(100)));
        assert!(heard(&received, inbox)[0]["inbox"].as_bool().unwrap());
    }
}

#[test]
fn other_message_of_the_author_waits_for_the_post_in_order() {
    let (mut harness, seven, eight) = two();
    harness.send(seven, r#"{"type":"send_message","threadId":41,"message":"hi","clientId":"a"}"#);
    let (post, _) = harness.next_post();
    // The author wrote on the web page as well; another user's message follows.
    report(&mut harness, [message(41, 99, 7, &[8]), message(41, 101, 8, &[7])]);
    harness.assert_nothing_received();
    harness.answer(post, Answer::Stored(stored(41, 7, 100, Some(&[7, 8]))));
    let ids = |received: &[(ConnId, Value)], conn| -> Vec<u64> {
        let messages = heard(received, conn);
        messages.iter().map(|frame| frame["messageId"].as_u64().unwrap()).collect()
    };
    let received = harness.received();
    for conn in [seven, eight] {
        assert_eq!(ids(&received, conn), [100, 99, 101]);
    }
    // A failed post releases them as well.
    harness.send(seven, r#"{"type":"send_message","threadId":41,"message":"hi","clientId":"b"}"#);
    let (post, _) = harness.next_post();
    report(&mut harness, [message(41, 102, 7, &[8])]);
    harness.fail(post, Failure::CannotWrite);
    assert_eq!(ids(&harness.received(), eight), [102]);
}

#[test]
fn new_thread_by_event_or_answer_is_heard_once() {
    let mut harness = HubHarness::new(verified());
    let seven = harness.open_proven(0, 7);
    let inbox = join_inbox(&mut harness, 1, 8, "ids");
    harness.send(seven, r#"{"type":"send_message","recipientId":8,"message":"x","clientId":"a"}"#);
    let (post, _) = harness.next_post();
    report(&mut harness, [message(50, 100, 7, &[8])]);
    assert_eq!(kinds(&harness.received(), inbox), [""; 0]);
    harness.answer(post, Answer::Stored(stored(50, 7, 100, Some(&[7, 8]))));
    let received = harness.received();
    assert_eq!(kinds(&received, seven), ["thread_joined", "message"]);
    // Both sides of a new thread join it.
    assert_eq!(kinds(&received, inbox), ["thread_joined", "message"]);
}

#[test]
fn blocked_recipient_does_not_hear_a_message_in_a_group() {
    let mut harness = HubHarness::new(verified());
    let seven = harness.open_member(0, 7, 41, &[7, 8, 9]);
    let eight = harness.open_member(1, 8, 41, &[7, 8, 9]);
    let inbox = join_inbox(&mut harness, 2, 8, "full");
    let mut event = message(41, 100, 7, &[8, 9]);
    event["hiddenFrom"] = json!([8]);
    report(&mut harness, [event]);
    let received = harness.received();
    assert_eq!(kinds(&received, seven), ["message"]);
    assert_eq!((kinds(&received, eight), kinds(&received, inbox)), (vec![], vec![]));
    // A post of the app is hidden by the block itself.
    report(&mut harness, [json!({"type": "block", "userId": 8, "blockedId": 7})]);
    harness.received();
    harness.send(seven, r#"{"type":"send_message","threadId":41,"message":"x"}"#);
    let (post, _) = harness.next_post();
    harness.answer(post, Answer::Stored(stored(41, 7, 101, Some(&[7, 8, 9]))));
    let received = harness.received();
    assert_eq!(
        (kinds(&received, seven), kinds(&received, eight)),
        (vec!["message".into()], vec![])
    );
}

#[test]
fn author_alone_has_it_until_the_event_brings_the_participants() {
    let (mut harness, seven, eight) = two();
    harness.advance(61 * SECOND);
    harness.received();
    harness.send(seven, r#"{"type":"send_message","threadId":41,"message":"x","clientId":"a"}"#);
    let (post, _) = harness.next_post();
    // The answer lists nobody, and the list cannot be had.
    harness.answer(post, Answer::Stored(stored(41, 7, 100, None)));
    let (request, ..) = harness.next_list();
    harness.fail(request, Failure::SiteUnavailable { retry_after_s: None });
    while let Some((request, _)) = harness.try_next_list() {
        harness.fail(request, Failure::SiteUnavailable { retry_after_s: None });
    }
    let received = harness.received();
    assert_eq!(
        (kinds(&received, seven), kinds(&received, eight)),
        (vec!["message".into()], vec![])
    );
    report(&mut harness, [message(41, 100, 7, &[8])]);
    let received = harness.received();
    assert_eq!(
        (kinds(&received, seven), kinds(&received, eight)),
        (vec![], vec!["message".into()])
    );
}

// ---------------------------------------------------------------- members of threads

#[test]
fn removed_participant_leaves_at_once_and_a_late_list_does_not_readmit() {
    let (mut harness, seven, eight) = two();
    let inbox = join_inbox(&mut harness, 2, 8, "ids");
    // A list is under way when the event comes.
    harness.advance(61 * SECOND);
    harness.received();
    harness.send(seven, r#"{"type":"typing","threadId":41}"#);
    let (request, ..) = harness.next_list();
    let removal = json!({"type": "participants", "threadId": 41, "added": [9], "removed": [8]});
    report(&mut harness, [removal]);
    let received = harness.received();
    assert_eq!(
        heard(&received, eight),
        [json!({"type": "thread_left", "threadId": 41, "reason": "not_participant"})]
    );
    assert_eq!(
        heard(&received, inbox),
        [json!({
            "type": "inbox", "event": "participants", "threadId": 41, "added": [9], "removed": [8],
        })]
    );
    harness.list(request, &[7, 8]);
    harness.received();
    let nine = harness.open_proven(3, 9);
    for conn in [eight, nine] {
        harness.send(conn, r#"{"type":"join_thread","threadId":41}"#);
    }
    let received = harness.received();
    assert_eq!(kinds(&received, nine), ["thread_joined"]);
    assert_eq!(kinds(&received, eight), [""; 0]);
    // A message event that is older than the removal does not readmit either.
    report(&mut harness, [message(41, 100, 7, &[8, 9])]);
    let received = harness.received();
    assert_eq!((kinds(&received, nine), kinds(&received, eight)), (vec!["message".into()], vec![]));
}

#[test]
fn deleted_threads_number_may_be_used_again() {
    let (mut harness, seven, eight) = two();
    let inbox = join_inbox(&mut harness, 2, 7, "full");
    report(
        &mut harness,
        [json!({
            "type": "thread_deleted", "threadId": 41, "recipients": [7, 8],
        })],
    );
    let received = harness.received();
    for conn in [seven, eight] {
        assert_eq!(
            heard(&received, conn),
            [json!({"type": "thread_left", "threadId": 41, "reason": "deleted"})]
        );
    }
    assert_eq!(
        heard(&received, inbox),
        [json!({"type": "inbox", "event": "thread_deleted", "threadId": 41})]
    );
    // The number now belongs to others.
    report(&mut harness, [message(41, 200, 9, &[10])]);
    harness.assert_nothing_received();
    harness.send(seven, r#"{"type":"join_thread","threadId":41}"#);
    let (request, ..) = harness.next_list();
    harness.fail(request, Failure::NotParticipant);
    harness.assert_error(seven, "not_participant");
}

#[test]
fn resync_asks_the_site_again() {
    let (mut harness, seven, _) = two();
    let inbox = join_inbox(&mut harness, 2, 8, "ids");
    report(&mut harness, [json!({"type": "resync"})]);
    assert_eq!(heard(&harness.received(), inbox), [json!({"type": "inbox", "event": "resync"})]);
    harness.send(seven, r#"{"type":"typing","threadId":41}"#);
    let (request, thread, _) = harness.next_list();
    assert_eq!(thread, 41);
    harness.list(request, &[7, 8]);
}

#[test]
fn reading_and_blanking_reach_those_concerned() {
    for receipts in [false, true] {
        let mut settings = verified();
        settings.read_receipts = receipts;
        let (mut harness, seven, eight) = two_with(settings);
        let own = join_inbox(&mut harness, 2, 8, "ids");
        let read = json!({
            "type": "read", "threadId": 41, "userId": 8, "unreadTotal": 3, "upTo": 100,
        });
        report(&mut harness, [read]);
        let received = harness.received();
        assert_eq!(
            heard(&received, own),
            [json!({
                "type": "inbox", "event": "read", "threadId": 41, "unreadTotal": 3, "upTo": 100,
            })]
        );
        let expected = json!({"type": "thread_read", "threadId": 41, "userId": 8, "upTo": 100});
        assert_eq!(heard(&received, seven), if receipts { vec![expected] } else { vec![] });
        assert_eq!(heard(&received, eight), [] as [Value; 0]);
        let blanked = json!({
            "type": "blanked", "threadId": 41, "userId": 7, "messageIds": [5, 4],
        });
        report(&mut harness, [blanked]);
        let received = harness.received();
        for conn in [seven, eight, own] {
            assert_eq!(
                heard(&received, conn),
                [json!({"type": "content_deleted", "threadId": 41, "ids": [4, 5]})]
            );
        }
        let notification = json!({
            "type": "notification", "userId": 8, "component": "friends", "action": "request",
            "unreadTotal": 2,
        });
        report(&mut harness, [notification]);
        let received = harness.received();
        assert_eq!(
            heard(&received, own),
            [json!({
                "type": "inbox", "event": "notification", "component": "friends",
                "action": "request", "unreadTotal": 2,
            })]
        );
        assert_eq!(heard(&received, eight), [] as [Value; 0]);
    }
}

// ---------------------------------------------------------------- blocks

#[test]
fn block_hides_typing_presence_and_calls_in_both_directions() {
    let (mut harness, seven, eight) = two();
    let nine = harness.open_member(2, 9, 41, &[7, 8, 9]);
    report(&mut harness, [message(41, 1, 9, &[7, 8])]);
    harness
        .send(seven, r#"{"type":"offer","offer":"o","recipientId":8,"threadId":41,"callId":"c"}"#);
    harness.send(seven, r#"{"type":"typing","threadId":41}"#);
    harness.received();
    report(&mut harness, [json!({"type": "block", "userId": 8, "blockedId": 7})]);
    let received = harness.received();
    for (conn, gone) in [(seven, 8), (eight, 7)] {
        let all: Vec<&Value> =
            received.iter().filter(|(to, _)| *to == conn).map(|(_, frame)| frame).collect();
        assert!(all.contains(&&json!({"type": "user_disconnected", "userId": gone})), "{all:?}");
        assert!(all.iter().any(|frame| kind(frame) == "call_ended"), "{all:?}");
        let stopped = json!({"type": "typing", "threadId": 41, "userId": 7, "typing": false});
        assert!(all.contains(&&stopped), "{all:?}");
    }
    for (from, to) in [(seven, eight), (eight, seven)] {
        for _ in 0..2 {
            harness.send(from, r#"{"type":"typing","threadId":41}"#);
            let received = harness.received();
            assert_eq!((kinds(&received, to).len(), kinds(&received, nine).len()), (0, 1));
        }
        let other = if from == seven { 8 } else { 7 };
        harness.send(
            from,
            &format!(
                r#"{{"type":"call_initiated","recipientId":{other},"threadId":41,"callId":"d"}}"#
            ),
        );
        harness.assert_error(from, "cannot_write");
        harness.send(from, r#"{"type":"online_users"}"#);
        let online = harness.received().remove(0).1["userIds"].clone();
        assert!(!online.as_array().unwrap().contains(&json!(other)), "{online}");
        assert!(online.as_array().unwrap().contains(&json!(9)), "{online}");
    }
    // A further device of the blocked user is not announced.
    harness.close(seven);
    harness.advance(10 * SECOND);
    harness.received();
    harness.open_with(3, "token-of-7");
    let received = harness.received();
    let announced =
        |conn| received.iter().any(|(to, f)| *to == conn && kind(f) == "user_connected");
    assert!(!announced(eight) && announced(nine), "{received:?}");
    report(&mut harness, [json!({"type": "unblock", "userId": 8, "blockedId": 7})]);
    let received = harness.received();
    let shown = json!({"type": "user_connected", "userId": 7});
    assert!(received.contains(&(eight, shown)), "{received:?}");
    harness.send(eight, r#"{"type":"typing","threadId":41}"#);
    assert_eq!(kinds(&harness.received(), nine), ["typing"]);
}

#[test]
fn blocks_hide_presence_among_those_who_share_a_thread() {
    let mut settings = verified();
    settings.presence = PresenceScope::Threads;
    let (mut harness, seven, eight) = two_with(settings);
    report(&mut harness, [json!({"type": "block", "userId": 7, "blockedId": 8})]);
    harness.received();
    harness.close(seven);
    harness.advance(10 * SECOND);
    assert!(harness.received().iter().all(|(to, _)| *to != eight));
}

// ---------------------------------------------------------------- sessions and tickets

fn ticket(user: u64, issued_s: u64, session: &str, threads: &[u64], blocked: &[u64]) -> Answer {
    Answer::Ticket(Ticket {
        user,
        issued_s,
        expires_s: issued_s + 300,
        session: Some(session.to_owned()),
        threads: threads.into(),
        blocked: blocked.into(),
    })
}

fn open_ticket(harness: &mut HubHarness, slot: u32, token: &str, ticket: Answer) -> ConnId {
    let conn = harness.open_with(slot, token);
    let (request, _) = harness.next_proof();
    harness.answer(request, ticket);
    conn
}

#[test]
fn ticket_proves_user_and_threads_without_asking() {
    let mut harness = HubHarness::new(verified());
    let now_s = harness.now.unix_s;
    let seven = open_ticket(&mut harness, 0, "t7", ticket(7, now_s, "s", &[41, 42], &[]));
    let eight = open_ticket(&mut harness, 1, "t8", ticket(8, now_s, "s", &[41], &[]));
    harness.received();
    for conn in [seven, eight] {
        harness.send(conn, r#"{"type":"join_thread","threadId":41}"#);
    }
    harness.send(seven, r#"{"type":"typing","threadId":41}"#);
    let received = harness.received();
    assert_eq!(kinds(&received, eight), ["thread_joined", "typing"]);
    assert_eq!(harness.pending_asks(), 0);
    // A thread that is not listed is asked for as ever.
    harness.send(eight, r#"{"type":"join_thread","threadId":42}"#);
    let (request, ..) = harness.next_list();
    harness.fail(request, Failure::NotParticipant);
    harness.assert_error(eight, "not_participant");
    // A removal that arrived after the ticket was issued counts more, for its next use as well.
    report(&mut harness, [json!({"type": "participants", "threadId": 41, "removed": [8]})]);
    assert_eq!(kinds(&harness.received(), eight), ["thread_left"]);
    harness.send(eight, r#"{"type":"join_thread","threadId":41}"#);
    assert!(kinds(&harness.received(), eight).iter().all(|kind| kind != "thread_joined"));
}

#[test]
fn call_in_a_thread_of_tickets_needs_the_other_partys_or_a_list() {
    let mut harness = HubHarness::new(verified());
    let now_s = harness.now.unix_s;
    let seven = open_ticket(&mut harness, 0, "t7", ticket(7, now_s, "s", &[41, 42], &[]));
    let eight = open_ticket(&mut harness, 1, "t8", ticket(8, now_s, "s", &[41], &[]));
    harness.received();
    let call = |thread: u64, called: u64| {
        json!({
            "type": "call_initiated", "callId": format!("c-{thread}-{called}"),
            "threadId": thread, "recipientId": called, "offer": "o",
        })
        .to_string()
    };
    harness.send(seven, &call(41, 8));
    let received = harness.received();
    let kinds_of_eight = kinds(&received, eight);
    assert!(kinds_of_eight.iter().any(|kind| kind == "call_initiated"), "{received:?}");
    assert_eq!(harness.pending_asks(), 0, "both tickets list the thread");
    // The site is asked about a user whose ticket does not list the thread, or who has none.
    harness.send(seven, &call(42, 8));
    let (request, ..) = harness.next_list();
    harness.fail(request, Failure::TicketOnly);
    harness.assert_error(seven, "token_required");
    // The ticket still admits the user.
    harness.send(seven, r#"{"type":"join_thread","threadId":42}"#);
    assert_eq!(kinds(&harness.received(), seven), ["thread_joined"]);
    harness.send(seven, &call(42, 8));
    harness.assert_error(seven, "token_required");
    harness.advance(MINUTE);
    harness.received();
    harness.send(seven, &call(42, 8));
    let (request, ..) = harness.next_list();
    harness.list(request, &[7, 9]);
    harness.assert_error(seven, "not_participant");
}

#[test]
fn tickets_are_enough_for_a_call_and_name_its_blocks() {
    for blocked in [false, true] {
        let mut harness = HubHarness::new(verified());
        harness.lets_everyone_call = false;
        let now_s = harness.now.unix_s;
        let names: &[u64] = if blocked { &[8] } else { &[] };
        let seven = open_ticket(&mut harness, 0, "t7", ticket(7, now_s, "s", &[41], names));
        let eight = open_ticket(&mut harness, 1, "t8", ticket(8, now_s, "s", &[41], &[]));
        // The participants are known by the tickets only, or by an event as well.
        for (n, event) in [None, Some(message(41, 100, 7, &[8]))].into_iter().enumerate() {
            report(&mut harness, event);
            harness.received();
            harness.send(
                seven,
                &format!(
                    r#"{{"type":"call_initiated","recipientId":8,"threadId":41,"callId":"c{n}"}}"#
                ),
            );
            match blocked {
                true => drop(harness.assert_error(seven, "cannot_write")),
                false => assert_eq!(kinds(&harness.received(), eight), ["call_initiated"]),
            }
            assert_eq!(harness.pending_asks(), 0);
            harness.send(seven, &format!(r#"{{"type":"call_cancelled","callId":"c{n}"}}"#));
        }
    }
}

#[test]
fn ticket_from_before_a_revocation_is_refused() {
    for (reason, expected) in [
        (json!({"type": "suspended", "userId": 7}), "suspended"),
        (json!({"type": "deleted", "userId": 7}), "token_refused"),
        (json!({"type": "signed_out", "userId": 7, "sid": "s"}), "token_refused"),
        (json!({"type": "signed_out", "userId": 7}), "token_refused"),
    ] {
        let mut harness = HubHarness::new(verified());
        let now_s = harness.now.unix_s;
        let conn = open_ticket(&mut harness, 0, "t7", ticket(7, now_s, "s", &[41], &[]));
        let elsewhere = open_ticket(&mut harness, 1, "other", ticket(7, now_s, "s2", &[], &[]));
        harness.received();
        report(&mut harness, [reason.clone()]);
        let closed = harness.closed();
        assert!(closed.contains(&(conn, 4401)), "{reason}");
        assert_eq!(closed.contains(&(elsewhere, 4401)), reason.get("sid").is_none(), "{reason}");
        let received = harness.received();
        let error = received.iter().find(|(to, _)| *to == conn).unwrap();
        assert_eq!(error.1["code"], expected, "{received:?}");
        // The same ticket again, and another one of the session that was issued before.
        let again = harness.open_with(2, "t7");
        assert_eq!(kinds(&harness.received(), again), ["error"]);
        let older = open_ticket(&mut harness, 3, "older", ticket(7, now_s, "s", &[], &[]));
        assert_eq!(kinds(&harness.received(), older), ["error"], "{reason}");
        harness.advance(SECOND);
        harness.received();
        if expected == "suspended" {
            report(&mut harness, [json!({"type": "unsuspended", "userId": 7})]);
        }
        let fresh = open_ticket(&mut harness, 4, "fresh", ticket(7, now_s + 1, "s", &[], &[]));
        let received = harness.received();
        assert!(received.iter().any(|(to, f)| *to == fresh && kind(f) == "user_connected"));
    }
}

#[test]
fn good_signature_does_not_hide_a_suspension() {
    let mut harness = HubHarness::new(verified());
    report(&mut harness, [json!({"type": "suspended", "userId": 7})]);
    let conn = harness.open_with(0, "token-of-7");
    let (request, _) = harness.next_proof();
    let expires_s = Some(harness.now.unix_s + 86_400);
    harness.answer(request, Answer::Verified(Proven { user: 7, expires_s }));
    harness.assert_nothing_received();
    let (request, _) = harness.next_proof();
    harness.fail(request, Failure::Suspended);
    harness.assert_error(conn, "suspended");
}

#[test]
fn ticket_names_blocks_until_the_next_one() {
    let (mut harness, seven, eight) = two();
    let now_s = harness.now.unix_s;
    let third = open_ticket(&mut harness, 2, "t7", ticket(7, now_s, "s", &[41], &[8]));
    harness.received();
    harness.send(seven, r#"{"type":"typing","threadId":41}"#);
    assert_eq!(kinds(&harness.received(), eight), [""; 0]);
    harness.advance(MINUTE);
    harness.received();
    harness.send(third, r#"{"type":"user_connected","userId":7,"token":"t7b"}"#);
    let (request, _) = harness.next_proof();
    harness.answer(request, ticket(7, now_s + 60, "s", &[41], &[]));
    harness.received();
    harness.send(seven, r#"{"type":"typing","threadId":41}"#);
    while let Some((request, _)) = harness.try_next_list() {
        harness.list(request, &[7, 8]);
    }
    assert_eq!(kinds(&harness.received(), eight), ["typing"]);
}

// ---------------------------------------------------------------- inboxes and calls

#[test]
fn inbox_needs_a_user_and_ends_with_the_connection() {
    let mut harness = HubHarness::new(verified());
    let anonymous = harness.open(0);
    harness.send(anonymous, r#"{"type":"join_inbox"}"#);
    harness.assert_error(anonymous, "token_required");
    let seven = join_inbox(&mut harness, 1, 7, "full");
    harness.send(seven, r#"{"type":"join_inbox","content":"all"}"#);
    harness.assert_error(seven, "invalid_field");
    harness.send(seven, r#"{"type":"leave_inbox","clientId":"l"}"#);
    assert_eq!(heard(&harness.received(), seven), [json!({"type": "inbox_left", "clientId": "l"})]);
    report(&mut harness, [message(41, 100, 8, &[7])]);
    harness.assert_nothing_received();
    harness.send(seven, r#"{"type":"join_inbox"}"#);
    harness.received();
    harness.close(seven);
    report(&mut harness, [message(41, 101, 8, &[7])]);
    harness.advance(10 * SECOND);
    assert!(harness.received().iter().all(|(to, _)| *to != seven));
}

#[test]
fn unanswered_call_is_reported_as_missed_once() {
    for ends_by in ["timeout", "call_cancelled", "call_rejected"] {
        let (mut harness, seven, eight) = two();
        let call = r#"{"type":"call_initiated","recipientId":8,"threadId":41,"callId":"c"}"#;
        harness.send(seven, call);
        match ends_by {
            "timeout" => harness.advance(50 * SECOND),
            "call_cancelled" => harness.send(seven, r#"{"type":"call_cancelled","callId":"c"}"#),
            _ => harness.send(eight, r#"{"type":"call_rejected","callId":"c"}"#),
        }
        let missed: Vec<_> =
            harness.missed.iter().map(|m| (m.caller.to_json(), m.called.to_json())).collect();
        let expected = vec![("7".to_owned(), "8".to_owned())];
        assert_eq!(missed, if ends_by == "call_rejected" { vec![] } else { expected }, "{ends_by}");
    }
}

#[test]
fn active_users_are_reported_once_a_minute() {
    let mut harness = HubHarness::new(verified());
    let seven = harness.open_proven(0, 7);
    let phone = harness.open_proven(1, 7);
    let idle = harness.open_proven(2, 8);
    harness.advance(2 * MINUTE);
    assert!(harness.active.is_empty(), "nobody has sent a frame");
    for conn in [seven, phone, seven] {
        harness.send(conn, r#"{"type":"online_users"}"#);
    }
    harness.send(idle, r#"{"type":"ping"}"#);
    harness.advance(MINUTE - SECOND);
    assert!(harness.active.is_empty());
    harness.advance(SECOND);
    assert_eq!(std::mem::take(&mut harness.active), [[7]]);
    // The next user of a slot counts anew; one who has left does not count.
    harness.send(seven, r#"{"type":"online_users"}"#);
    harness.close(seven);
    let nine = harness.open_proven(0, 9);
    harness.send(nine, r#"{"type":"online_users"}"#);
    harness.advance(MINUTE);
    assert_eq!(std::mem::take(&mut harness.active), [[9]]);
    harness.advance(10 * MINUTE);
    assert!(harness.active.is_empty());
}

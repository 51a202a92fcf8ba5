//! Outcomes of messages: lookups of uncertain ones, lane timeouts, and dedup by `clientId`.

use std::time::Duration;

use buddyline::hub::interface::{
    Answer, ConnId, DeliveryLimits, Failure, Input, LookupResult, RequestId, Settings, Target,
};
use buddyline::protocol::Id;
use serde_json::Value;

use crate::support::harness::{HubHarness, matching, settings, stored, verified};

const S: Duration = Duration::from_secs(1);
const UNAVAILABLE: Failure = Failure::SiteUnavailable { retry_after_s: None };

fn send(thread: u64, text: &str, client_id: &str) -> String {
    format!(
        r#"{{"type":"send_message","threadId":{thread},"message":"{text}","token":"t","clientId":"{client_id}"}}"#
    )
}

fn new(recipient: u64, client_id: &str) -> String {
    format!(
        r#"{{"type":"send_message","recipientId":{recipient},"message":"x","token":"t","clientId":"{client_id}"}}"#
    )
}

/// A hub to which user 2 of thread 7 has sent "ok" with the clientId "a", that user's connection,
/// and the request that posts the message.
fn one_sent() -> (HubHarness, ConnId, RequestId) {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(0, "2", "7");
    harness.send(alice, &send(7, "ok", "a"));
    let (post, _) = harness.next_post();
    (harness, alice, post)
}

/// The outcomes of this `clientId` that this connection has received since the last call.
fn outcomes(harness: &mut HubHarness, conn: ConnId, client_id: &str) -> Vec<Value> {
    let received = harness.received().into_iter().filter(|(to, _)| *to == conn);
    received.map(|(_, frame)| frame).filter(|frame| frame["clientId"] == client_id).collect()
}

fn other(message: u64) -> Answer {
    Answer::LookupResult(LookupResult::Mismatch { thread: 7, sender: Id::number(2), message })
}

// ---- look-ups

#[test]
fn unusable_reply_is_settled_by_one_lookup() {
    let (mut harness, alice, post) = one_sent();
    let bob = harness.open_in(1, "3", "7");
    harness.fail(post, Failure::Unusable);
    harness.advance(499 * S / 1000);
    assert_eq!(harness.pending_asks(), 0);
    harness.advance(S / 1000);
    let (request, lookup) = harness.next_lookup();
    assert_eq!((lookup.target, &*lookup.text), (Target::Thread(7), "ok"));
    assert_eq!(lookup.credential.secret(), "t");
    assert_eq!(lookup.sender, Some(Id::number(2)));
    assert_eq!(harness.now.instant - lookup.posted, S / 2);
    harness.assert_nothing_received();
    harness.found(request, 7, 2, 10);
    let own = r#"{"type":"message","threadId":7,"senderId":2,"recipientId":null,"message":"ok","messageId":10,"sentAt":"2027-01-15T08:00:00Z","html":"<p>html</p>","clientId":"a"}"#;
    let others = own.replace(r#","clientId":"a""#, "");
    harness.assert_received(&[(alice, own), (bob, &others)]);
    harness.advance(60 * S);
    assert_eq!((harness.pending_asks(), harness.hub.counts().deliveries), (0, 0));
}

#[test]
fn missing_message_after_unusable_reply_is_not_stored() {
    let (mut harness, alice, post) = one_sent();
    harness.fail(post, Failure::Unusable);
    harness.advance(S / 2);
    let (request, _) = harness.next_lookup();
    harness.not_found(request);
    let fault = harness.assert_error(alice, "not_stored");
    assert_eq!((&fault["clientId"], &fault["threadId"]), (&"a".into(), &7.into()));
    harness.advance(60 * S);
    assert_eq!((harness.pending_asks(), harness.hub.counts().deliveries), (0, 0));
}

#[test]
fn after_machine_sleep_a_missing_message_is_unknown() {
    let (mut harness, alice, post) = one_sent();
    // The machine slept: its wall clock went on, its monotonic clock did not.
    harness.now.unix_s += 3_600;
    harness.fail(post, Failure::Unusable);
    harness.advance(S / 2);
    let (request, _) = harness.next_lookup();
    harness.not_found(request);
    harness.assert_error(alice, "unknown_outcome");
    // A post sent after the sleep is as certain as ever.
    harness.send(alice, &send(7, "ok", "b"));
    let (post, _) = harness.next_post();
    harness.fail(post, Failure::Unusable);
    harness.advance(S / 2);
    let (request, _) = harness.next_lookup();
    harness.not_found(request);
    harness.assert_error(alice, "not_stored");
}

#[test]
fn unknown_outcome_is_looked_up_three_times() {
    let (mut harness, alice, post) = one_sent();
    harness.fail(post, Failure::Unknown);
    for (wait, last) in [(S, false), (4 * S, false), (10 * S, true)] {
        harness.advance(wait - S / 1000);
        assert_eq!(harness.pending_asks(), 0);
        harness.advance(S / 1000);
        let (request, _) = harness.next_lookup();
        harness.assert_nothing_received();
        harness.not_found(request);
        if last {
            harness.assert_error(alice, "unknown_outcome");
        } else {
            harness.assert_nothing_received();
        }
    }
}

#[test]
fn late_stored_message_is_found_by_next_lookup() {
    let (mut harness, alice, post) = one_sent();
    harness.fail(post, Failure::Unknown);
    harness.advance(S);
    let (request, _) = harness.next_lookup();
    harness.not_found(request);
    harness.advance(4 * S);
    let (request, _) = harness.next_lookup();
    harness.found(request, 7, 2, 10);
    assert_eq!(outcomes(&mut harness, alice, "a")[0]["messageId"], 10);
    harness.advance(60 * S);
    assert_eq!(harness.pending_asks(), 0);
    harness.assert_nothing_received();
}

#[test]
fn unanswered_lookups_repeat_for_fifteen_seconds() {
    for failure in [Failure::Unknown, Failure::Unusable] {
        let (mut harness, alice, post) = one_sent();
        harness.fail(post, failure);
        let mut waited = Duration::ZERO;
        let answered_s = loop {
            harness.advance(S / 2);
            waited += S / 2;
            if harness.pending_asks() > 0 {
                let (request, _) = harness.next_lookup();
                harness.fail(request, UNAVAILABLE);
            }
            let received = harness.received();
            if !received.is_empty() {
                assert_eq!(received[0].1["code"], "unknown_outcome", "{received:?}");
                assert_eq!(received[0].0, alice);
                break waited.as_secs();
            }
        };
        assert!((15..=17).contains(&answered_s), "{answered_s} s");
        harness.advance(60 * S);
        assert_eq!(harness.pending_asks(), 0);
    }
}

#[test]
fn lookup_waits_for_the_site_and_goes_when_it_is_back() {
    for failure in [Failure::Unknown, Failure::Unusable] {
        let (mut harness, alice, post) = one_sent();
        harness.fail(post, failure);
        harness.handle(Input::SiteAvailable(false));
        harness.advance(10 * S);
        assert_eq!(harness.pending_asks(), 0, "an open breaker would answer each at once");
        harness.handle(Input::SiteAvailable(true));
        harness.advance(Duration::ZERO);
        let (request, _) = harness.next_lookup();
        harness.found(request, 7, 2, 10);
        assert_eq!(outcomes(&mut harness, alice, "a")[0]["messageId"], 10);
    }
}

#[test]
fn outcome_is_unknown_if_the_site_stays_away() {
    let (mut harness, alice, post) = one_sent();
    harness.send(alice, &send(7, "next", "b"));
    harness.handle(Input::SiteAvailable(false));
    harness.fail(post, Failure::Unusable);
    harness.advance(15 * S - S / 1000);
    harness.assert_nothing_received();
    harness.advance(S / 1000);
    let error = harness.assert_error(alice, "unknown_outcome");
    assert_eq!(error["clientId"], "a");
    assert_eq!(&*harness.next_post().1.text, "next", "its lane continues");
    harness.handle(Input::SiteAvailable(true));
    harness.advance(60 * S);
    assert_eq!(harness.pending_asks(), 0);
}

#[test]
fn message_from_the_web_page_hides_no_outcome() {
    let (mut harness, alice, post) = one_sent();
    harness.fail(post, Failure::Unusable);
    harness.advance(S / 2);
    let (request, _) = harness.next_lookup();
    let found = LookupResult::Match { stored: stored(7, 2, 10, None), newest: 11 };
    harness.answer(request, Answer::LookupResult(found));
    assert_eq!(outcomes(&mut harness, alice, "a")[0]["messageId"], 10);
}

#[test]
fn equal_text_of_an_earlier_post_leaves_a_newer_message_open() {
    let (mut harness, alice, post) = one_sent();
    harness.store(post, 7, 2);
    let first = outcomes(&mut harness, alice, "a")[0]["messageId"].as_u64().unwrap();
    for (newest, code) in [(first, "not_stored"), (first + 1, "unknown_outcome")] {
        harness.send(alice, &send(7, "ok", code));
        let (post, _) = harness.next_post();
        harness.fail(post, Failure::Unusable);
        harness.advance(S / 2);
        let (request, _) = harness.next_lookup();
        let found = LookupResult::Match { stored: stored(7, 2, first, None), newest };
        harness.answer(request, Answer::LookupResult(found));
        harness.assert_error(alice, code);
    }
}

#[test]
fn hanging_lookup_holds_the_lane_for_a_bounded_time() {
    let (mut harness, alice, post) = one_sent();
    harness.fail(post, Failure::Unknown);
    harness.advance(S);
    let (request, _) = harness.next_lookup();
    harness.advance(30 * S);
    assert_eq!(harness.pending_asks(), 0, "one look-up at a time");
    harness.fail(request, UNAVAILABLE);
    harness.assert_error(alice, "unknown_outcome");
}

#[test]
fn newer_message_with_other_text_leaves_outcome_unknown() {
    let (mut harness, alice, post) = one_sent();
    harness.fail(post, Failure::Unusable);
    harness.advance(S / 2);
    let (request, _) = harness.next_lookup();
    harness.answer(request, other(10));
    harness.assert_error(alice, "unknown_outcome");
}

#[test]
fn earlier_identical_message_does_not_settle_a_later_one() {
    let (mut harness, alice, post) = one_sent();
    harness.send(alice, &send(7, "ok", "b"));
    harness.store(post, 7, 2);
    let first = outcomes(&mut harness, alice, "a")[0]["messageId"].as_u64().unwrap();
    let (post, _) = harness.next_post();
    harness.fail(post, Failure::Unusable);
    harness.advance(S / 2);
    let (request, _) = harness.next_lookup();
    harness.found(request, 7, 2, first);
    harness.assert_error(alice, "not_stored");
}

#[test]
fn earlier_message_with_other_text_means_not_stored() {
    let (mut harness, alice, post) = one_sent();
    harness.store(post, 7, 2);
    let first = outcomes(&mut harness, alice, "a")[0]["messageId"].as_u64().unwrap();
    harness.send(alice, &send(7, "bye", "b"));
    let (post, _) = harness.next_post();
    harness.fail(post, Failure::Unusable);
    harness.advance(S / 2);
    let (request, _) = harness.next_lookup();
    harness.answer(request, other(first));
    harness.assert_error(alice, "not_stored");
}

#[test]
fn message_of_another_lane_leaves_outcome_unknown() {
    let (mut harness, alice, post) = one_sent();
    // A message to the same users without a thread id: the site stores it in thread 7.
    harness.send(alice, &new(3, "b"));
    let (meanwhile, _) = harness.next_post();
    harness.store(meanwhile, 7, 2);
    let id = outcomes(&mut harness, alice, "b")[0]["messageId"].as_u64().unwrap();
    harness.fail(post, Failure::Unusable);
    harness.advance(S / 2);
    let (request, _) = harness.next_lookup();
    harness.found(request, 7, 2, id);
    harness.assert_error(alice, "unknown_outcome");
}

#[test]
fn lane_is_blocked_until_the_outcome_is_settled() {
    let (mut harness, alice, post) = one_sent();
    harness.send(alice, &send(7, "next", "b"));
    harness.fail(post, Failure::Unknown);
    harness.advance(S);
    let (request, _) = harness.next_lookup();
    assert_eq!(harness.pending_asks(), 0);
    harness.found(request, 7, 2, 10);
    assert_eq!(&*harness.next_post().1.text, "next");
}

#[test]
fn new_thread_is_looked_up_by_recipient_and_joined() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    let bob = harness.open_as(1, "3");
    harness.send(alice, &new(3, "a"));
    let (post, _) = harness.next_post();
    harness.fail(post, Failure::Unusable);
    harness.advance(S / 2);
    let (request, lookup) = harness.next_lookup();
    assert_eq!(lookup.target, Target::NewThread { recipient: 3 });
    harness.found(request, 12, 2, 10);
    let received = harness.received();
    for conn in [alice, bob] {
        let of =
            |kind: &str| received.iter().filter(|(to, f)| *to == conn && f["type"] == kind).count();
        assert_eq!((of("thread_joined"), of("message")), (1, 1), "{received:?}");
    }
}

#[test]
fn lookup_result_supplies_participants() {
    let mut harness = HubHarness::new(verified());
    let alice = harness.open_member(0, 2, 1, &[2, 3, 4]);
    let carol = harness.open_member(1, 4, 1, &[2, 3, 4]);
    harness.send(alice, r#"{"type":"send_message","threadId":1,"message":"x","clientId":"a"}"#);
    let (post, _) = harness.next_post();
    harness.fail(post, Failure::Unusable);
    harness.advance(S / 2);
    let (request, lookup) = harness.next_lookup();
    assert_eq!(lookup.credential.secret(), "token-of-2");
    harness.answer(request, matching(stored(1, 2, 10, Some(&[2, 3]))));
    let received = harness.received();
    assert!(
        received.iter().any(|(to, f)| *to == carol && f["type"] == "thread_left"),
        "{received:?}"
    );
    assert!(!received.iter().any(|(to, f)| *to == carol && f["type"] == "message"), "{received:?}");
    assert!(received.iter().any(|(to, f)| *to == alice && f["clientId"] == "a"), "{received:?}");
}

#[test]
fn token_refused_in_lookup_closes_with_unknown_outcome() {
    let mut harness = HubHarness::new(verified());
    let alice = harness.open_member(0, 2, 1, &[2, 3]);
    harness.send(alice, r#"{"type":"send_message","threadId":1,"message":"x","clientId":"a"}"#);
    let (post, _) = harness.next_post();
    harness.fail(post, Failure::Unknown);
    harness.advance(S);
    let (request, _) = harness.next_lookup();
    harness.fail(request, Failure::TokenRefused);
    let received = harness.received();
    assert_eq!(received[0].1["code"], "unknown_outcome", "{received:?}");
    assert_eq!(harness.closed(), [(alice, 4401)]);
}

#[test]
fn stop_reports_unknown_outcomes() {
    let (mut harness, alice, post) = one_sent();
    harness.send(alice, &send(7, "next", "b"));
    harness.fail(post, Failure::Unknown);
    harness.advance(S);
    let (request, _) = harness.next_lookup();
    harness.hub.stop();
    harness.take_effects();
    let codes: Vec<_> = harness.received().iter().map(|(_, f)| f["code"].clone()).collect();
    assert_eq!(codes, ["not_stored", "unknown_outcome"]);
    harness.found(request, 7, 2, 10);
    harness.advance(60 * S);
    harness.assert_nothing_received();
    assert_eq!((harness.pending_asks(), harness.hub.next_deadline().is_some()), (0, true));
}

#[test]
fn drain_answers_duplicates_and_refuses_new_messages() {
    let (mut harness, alice, post) = one_sent();
    harness.store(post, 7, 2);
    let first = outcomes(&mut harness, alice, "a");
    harness.send(alice, &send(7, "on its way", "b"));
    let (post, _) = harness.next_post();
    harness.hub.begin_drain();
    // A client that gets `not_stored` resends to the next server, which does not know the clientId.
    harness.send(alice, &send(7, "ok", "a"));
    assert_eq!(outcomes(&mut harness, alice, "a"), first);
    harness.send(alice, &send(7, "on its way", "b"));
    harness.assert_nothing_received();
    harness.send(alice, &send(7, "new", "c"));
    harness.assert_error(alice, "not_stored");
    harness.send(alice, r#"{"type":"send_message","threadId":7,"message":"new"}"#);
    harness.assert_error(alice, "not_stored");
    let anonymous = harness.open(1);
    harness.send(anonymous, &send(7, "ok", "a"));
    harness.assert_error(anonymous, "not_stored");
    harness.store(post, 7, 2);
    assert_eq!(outcomes(&mut harness, alice, "b").len(), 2);
    assert_eq!((harness.pending_asks(), harness.hub.counts().deliveries), (0, 0));
}

#[test]
fn drain_waits_for_undelivered_outcome_despite_slot_reuse() {
    let (mut harness, alice, post) = one_sent();
    harness.close(alice);
    let phone = harness.open_as(1, "2");
    let bob = harness.open_as(0, "3");
    harness.send(bob, &send(8, "hi", "b"));
    assert!(harness.hub.is_awaiting_outcome(phone));
    harness.store(post, 7, 2);
    assert_eq!(outcomes(&mut harness, phone, "a").len(), 1);
    assert!(!harness.hub.is_awaiting_outcome(phone) && harness.hub.is_awaiting_outcome(bob));
}

// ---- lane timeouts

#[test]
fn message_expires_after_forty_seconds_in_the_lane() {
    let (mut harness, alice, post) = one_sent();
    harness.advance(5 * S);
    harness.send(alice, &send(7, "second", "b"));
    harness.advance(5 * S);
    harness.send(alice, &send(7, "third", "c"));
    harness.advance(35 * S - S / 1000);
    harness.assert_nothing_received();
    harness.advance(S / 1000);
    let fault = harness.assert_error(alice, "not_stored");
    assert_eq!(fault["clientId"], "b");
    assert!(fault["message"].as_str().unwrap().contains("40s"), "{fault}");
    harness.advance(4 * S);
    harness.store(post, 7, 2);
    let (_, next) = harness.next_post();
    assert_eq!(&*next.text, "third");
    assert_eq!(harness.pending_asks(), 0);
    assert_eq!(harness.hub.counts().deliveries, 1);
}

#[test]
fn in_flight_message_has_no_lane_timeout() {
    let (mut harness, alice, post) = one_sent();
    harness.advance(300 * S);
    harness.assert_nothing_received();
    harness.store(post, 7, 2);
    assert_eq!(outcomes(&mut harness, alice, "a")[0]["type"], "message");
}

#[test]
fn new_thread_message_has_the_same_lane_timeout() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    let bob = harness.open_as(1, "3");
    harness.send(alice, &new(4, "a"));
    harness.send(bob, &new(4, "b"));
    harness.next_post();
    harness.advance(40 * S);
    assert_eq!(harness.assert_error(bob, "not_stored")["clientId"], "b");
}

#[test]
fn without_lane_timeout_messages_wait_indefinitely() {
    let mut harness = HubHarness::new(Settings { message_turn_lasts: None, ..settings() });
    let alice = harness.open_in(0, "2", "7");
    harness.send(alice, &send(7, "first", "a"));
    harness.send(alice, &send(7, "second", "b"));
    harness.advance(3_000 * S);
    harness.assert_nothing_received();
    assert_eq!(harness.hub.counts().deliveries, 2);
}

// ---- duplicates

#[test]
fn duplicate_client_id_is_stored_once_and_answered_twice() {
    let (mut harness, alice, post) = one_sent();
    let bob = harness.open_in(1, "3", "7");
    harness.store(post, 7, 2);
    let first = harness.received();
    assert_eq!(first.len(), 2);
    harness.send(alice, &send(7, "ok", "a"));
    assert_eq!(harness.pending_asks(), 0);
    let again = harness.received();
    assert_eq!(again, [first[0].clone()], "the same outcome, and nothing for bob ({})", bob.slot);
}

#[test]
fn duplicate_waits_for_the_first_outcome() {
    let (mut harness, alice, post) = one_sent();
    // The first connection is dead, and the server has not noticed yet.
    let phone = harness.open_in(1, "2", "7");
    harness.send(phone, &send(7, "ok", "a"));
    harness.send(phone, &send(7, "ok", "a"));
    assert_eq!(harness.pending_asks(), 0);
    harness.assert_nothing_received();
    harness.store(post, 7, 2);
    let received = harness.received();
    let own = |conn| received.iter().filter(|(to, f)| *to == conn && f["clientId"] == "a").count();
    assert_eq!((own(alice), own(phone), received.len()), (1, 2, 3), "{received:?}");
}

#[test]
fn resend_after_reconnect_gets_one_outcome() {
    let (mut harness, alice, post) = one_sent();
    harness.close(alice);
    let phone = harness.open_in(1, "2", "7");
    harness.send(phone, &send(7, "ok", "a"));
    harness.store(post, 7, 2);
    assert_eq!(outcomes(&mut harness, phone, "a").len(), 1);
    let later = harness.open_as(2, "2");
    assert_eq!(outcomes(&mut harness, later, "a"), [] as [Value; 0]);
}

#[test]
fn kept_outcome_is_sent_on_connect_and_on_resend() {
    let (mut harness, alice, post) = one_sent();
    harness.close(alice);
    harness.store(post, 7, 2);
    let phone = harness.open(1);
    harness.send(phone, r#"{"type":"user_connected","userId":"2"}"#);
    assert_eq!(outcomes(&mut harness, phone, "a").len(), 1);
    harness.send(phone, &send(7, "ok", "a"));
    assert_eq!(outcomes(&mut harness, phone, "a").len(), 1);
    assert_eq!(harness.pending_asks(), 0);
}

#[test]
fn departed_resender_gets_outcome_on_next_connection() {
    let (mut harness, alice, post) = one_sent();
    let phone = harness.open_as(1, "2");
    harness.send(phone, &send(7, "ok", "a"));
    harness.close(phone);
    let tablet = harness.open_as(2, "2");
    harness.store(post, 7, 2);
    let received = harness.received();
    let of = |conn| received.iter().filter(|(to, f)| *to == conn && f["clientId"] == "a").count();
    assert_eq!((of(alice), of(tablet)), (1, 1), "{received:?}");
}

#[test]
fn repeated_resends_across_connections_get_one_outcome() {
    let (mut harness, alice, post) = one_sent();
    let phone = harness.open_as(1, "2");
    harness.send(phone, &send(7, "ok", "a"));
    harness.close(phone);
    let tablet = harness.open_as(2, "2");
    harness.send(tablet, &send(7, "ok", "a"));
    harness.store(post, 7, 2);
    let received = harness.received();
    let of = |conn| received.iter().filter(|(to, f)| *to == conn && f["clientId"] == "a").count();
    assert_eq!((of(alice), of(tablet)), (1, 1), "{received:?}");
}

// The later connection opened before the first one closed, so it does not take over its outcomes.
#[test]
fn resender_gets_outcome_when_first_connection_closes_last() {
    let (mut harness, alice, post) = one_sent();
    let phone = harness.open_as(1, "2");
    harness.send(phone, &send(7, "ok", "a"));
    harness.close(phone);
    let tablet = harness.open_as(2, "2");
    harness.close(alice);
    harness.store(post, 7, 2);
    assert_eq!(outcomes(&mut harness, tablet, "a").len(), 1);
    let later = harness.open(3);
    harness.send(later, r#"{"type":"user_connected","userId":2}"#);
    assert_eq!(outcomes(&mut harness, later, "a").len(), 0);
}

#[test]
fn resender_returning_later_gets_outcome_once() {
    for first_closes in [false, true] {
        let (mut harness, alice, post) = one_sent();
        let phone = harness.open_as(1, "2");
        harness.send(phone, &send(7, "ok", "a"));
        harness.close(phone);
        if first_closes {
            harness.close(alice);
        }
        harness.store(post, 7, 2);
        assert_eq!(outcomes(&mut harness, alice, "a").len(), usize::from(!first_closes));
        let tablet = harness.open(2);
        harness.send(tablet, r#"{"type":"user_connected","userId":2}"#);
        assert_eq!(outcomes(&mut harness, tablet, "a").len(), 1);
        let later = harness.open(3);
        harness.send(later, r#"{"type":"user_connected","userId":2}"#);
        assert_eq!(outcomes(&mut harness, later, "a").len(), 0);
    }
}

#[test]
fn client_id_is_a_new_message_after_ten_minutes() {
    let (mut harness, alice, post) = one_sent();
    harness.store(post, 7, 2);
    harness.received();
    harness.advance(600 * S - S / 1000);
    harness.send(alice, &send(7, "ok", "a"));
    assert_eq!((harness.pending_asks(), harness.received().len()), (0, 1));
    harness.advance(S / 1000);
    harness.send(alice, &send(7, "ok", "a"));
    assert_eq!((harness.pending_asks(), harness.received().len()), (1, 0));
}

#[test]
fn failed_message_may_be_retried_with_same_client_id() {
    for failure in [UNAVAILABLE, Failure::Overloaded, Failure::TokenMissing, Failure::CannotWrite] {
        let (mut harness, alice, post) = one_sent();
        let phone = harness.open_as(1, "2");
        harness.send(phone, &send(7, "ok", "a"));
        harness.fail(post, failure);
        let received = harness.received();
        assert_eq!(received.len(), 2, "the first connection and the one that waited: {received:?}");
        harness.send(alice, &send(7, "ok", "a"));
        assert_eq!(&*harness.next_post().1.text, "ok");
    }
}

#[test]
fn unknown_outcome_is_repeated_and_never_reposted() {
    let (mut harness, alice, post) = one_sent();
    harness.fail(post, Failure::Unusable);
    harness.advance(S / 2);
    let (request, _) = harness.next_lookup();
    harness.send(alice, &send(7, "ok", "a"));
    harness.answer(request, other(10));
    assert_eq!(outcomes(&mut harness, alice, "a").len(), 2);
    harness.send(alice, &send(7, "ok", "a"));
    harness.assert_error(alice, "unknown_outcome");
    assert_eq!(harness.pending_asks(), 0);
}

#[test]
fn dedup_key_is_user_and_client_id_in_either_form() {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(0, "2", "7");
    let bob = harness.open_in(1, "3", "7");
    let anonymous = harness.open(2);
    let frame = |id: &str| {
        format!(r#"{{"type":"send_message","threadId":7,"message":"x","clientId":{id}}}"#)
    };
    harness.send(alice, &frame("5"));
    harness.send(alice, &frame("\"5\""));
    harness.send(bob, &frame("5"));
    harness.send(anonymous, &frame("5"));
    assert_eq!(harness.hub.counts().deliveries, 3);
}

#[test]
fn anonymous_dedup_is_per_connection() {
    let mut harness = HubHarness::default();
    let anonymous = harness.open(0);
    harness.send(anonymous, &send(7, "ok", "a"));
    let (post, _) = harness.next_post();
    harness.store(post, 7, 2);
    assert_eq!(outcomes(&mut harness, anonymous, "a").len(), 1);
    // The connection now belongs to the user that the site named as the sender.
    harness.send(anonymous, &send(7, "ok", "a"));
    assert_eq!((harness.pending_asks(), outcomes(&mut harness, anonymous, "a").len()), (0, 1));
}

#[test]
fn messages_without_client_id_are_never_deduplicated() {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(0, "2", "7");
    for _ in 0..2 {
        harness.send(alice, r#"{"type":"send_message","threadId":7,"message":"x"}"#);
    }
    assert_eq!(harness.hub.counts().deliveries, 2);
}

#[test]
fn at_most_eight_duplicates_wait_for_one_message() {
    let (mut harness, alice, post) = one_sent();
    for _ in 0..8 {
        harness.send(alice, &send(7, "ok", "a"));
    }
    harness.assert_nothing_received();
    harness.send(alice, &send(7, "ok", "a"));
    let fault = harness.assert_error(alice, "overloaded");
    // The message may be stored in the end, so this error must not deny that.
    assert!(!fault["message"].as_str().unwrap().contains("not stored"), "{fault}");
    harness.store(post, 7, 2);
    assert_eq!(outcomes(&mut harness, alice, "a").len(), 9);
}

#[test]
fn message_rejected_as_overloaded_may_be_resent() {
    let mut harness = HubHarness::new(Settings {
        deliveries: DeliveryLimits { total: 1, ..settings().deliveries },
        ..settings()
    });
    let alice = harness.open_in(0, "2", "7");
    harness.send(alice, &send(7, "first", "a"));
    harness.send(alice, &send(7, "second", "b"));
    harness.assert_error(alice, "overloaded");
    let (post, _) = harness.next_post();
    harness.store(post, 7, 2);
    harness.received();
    harness.send(alice, &send(7, "second", "b"));
    assert_eq!(&*harness.next_post().1.text, "second");
}

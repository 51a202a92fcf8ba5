//! What becomes of messages whose fate is not known, that wait too long, or that come twice.
#![allow(clippy::unwrap_used)]

#[path = "support/town.rs"]
mod town;

use std::time::{Duration, Instant};

use buddyline::hub::dedup::{Dedup, DedupKey, DedupResult, Sender};
use buddyline::hub::interface::{
    Answer, ConnId, DeliveryLimits, Failure, LookupResult, RequestId, Settings, Target,
};
use buddyline::hub::settled::{Settled, SettledWhen};
use buddyline::protocol::server::EncodedFrame;
use buddyline::protocol::{Id, IdKey};
use serde_json::Value;
use town::{Town, settings, stored, verified};

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

/// A town in which member 2 of thread 7 has sent "ok" under "a", and its post.
fn one_sent() -> (Town, ConnId, RequestId) {
    let mut town = Town::default();
    let alice = town.open_in(0, "2", "7");
    town.say(alice, &send(7, "ok", "a"));
    let (post, _) = town.asked();
    (town, alice, post)
}

/// The outcomes of this `clientId` that this connection has had since the last look.
fn outcomes(town: &mut Town, conn: ConnId, client_id: &str) -> Vec<Value> {
    let heard = town.heard().into_iter().filter(|(to, _)| *to == conn);
    heard.map(|(_, frame)| frame).filter(|frame| frame["clientId"] == client_id).collect()
}

fn other(message: u64) -> Answer {
    Answer::LookupResult(LookupResult::Mismatch { thread: 7, sender: Id::number(2), message })
}

// ---- the look-up

#[test]
fn after_an_answer_of_no_use_the_thread_is_looked_up_once_and_decides() {
    let (mut town, alice, post) = one_sent();
    let bob = town.open_in(1, "3", "7");
    town.fail(post, Failure::Unusable);
    town.pass(499 * S / 1000);
    assert_eq!(town.questions(), 0);
    town.pass(S / 1000);
    let (look, asked) = town.asked_look();
    assert_eq!((asked.target, &*asked.text), (Target::Thread(7), "ok"));
    assert_eq!(asked.credential.secret(), "t");
    assert_eq!(asked.sender, Some(Id::number(2)));
    assert_eq!(town.now.instant - asked.posted, S / 2);
    town.hears_nothing();
    town.found(look, 7, 2, 10);
    let own = r#"{"type":"message","threadId":7,"senderId":2,"recipientId":null,"message":"ok","messageId":10,"sentAt":"2027-01-15T08:00:00Z","html":"<p>html</p>","clientId":"a"}"#;
    let others = own.replace(r#","clientId":"a""#, "");
    town.hears(&[(alice, own), (bob, &others)]);
    town.pass(60 * S);
    assert_eq!((town.questions(), town.hub.counts().deliveries), (0, 0));
}

#[test]
fn what_the_thread_does_not_have_after_an_answer_of_no_use_is_not_stored() {
    let (mut town, alice, post) = one_sent();
    town.fail(post, Failure::Unusable);
    town.pass(S / 2);
    let (look, _) = town.asked_look();
    town.not_found(look);
    let fault = town.hears_error(alice, "not_stored");
    assert_eq!((&fault["clientId"], &fault["threadId"]), (&"a".into(), &7.into()));
    town.pass(60 * S);
    assert_eq!((town.questions(), town.hub.counts().deliveries), (0, 0));
}

#[test]
fn after_a_suspension_nothing_is_certainly_not_stored() {
    let (mut town, alice, post) = one_sent();
    // The machine has slept: only one of its clocks has gone on.
    town.now.unix_s += 3_600;
    town.fail(post, Failure::Unusable);
    town.pass(S / 2);
    let (look, _) = town.asked_look();
    town.not_found(look);
    town.hears_error(alice, "unknown_outcome");
    // What was put since is as certain as ever.
    town.say(alice, &send(7, "ok", "b"));
    let (post, _) = town.asked();
    town.fail(post, Failure::Unusable);
    town.pass(S / 2);
    let (look, _) = town.asked_look();
    town.not_found(look);
    town.hears_error(alice, "not_stored");
}

#[test]
fn while_the_site_may_be_at_work_the_thread_is_looked_up_three_times() {
    let (mut town, alice, post) = one_sent();
    town.fail(post, Failure::Unknown);
    for (wait, last) in [(S, false), (4 * S, false), (10 * S, true)] {
        town.pass(wait - S / 1000);
        assert_eq!(town.questions(), 0);
        town.pass(S / 1000);
        let (look, _) = town.asked_look();
        town.hears_nothing();
        town.not_found(look);
        if last {
            town.hears_error(alice, "unknown_outcome");
        } else {
            town.hears_nothing();
        }
    }
}

#[test]
fn what_the_site_stores_late_is_found_by_the_next_look() {
    let (mut town, alice, post) = one_sent();
    town.fail(post, Failure::Unknown);
    town.pass(S);
    let (look, _) = town.asked_look();
    town.not_found(look);
    town.pass(4 * S);
    let (look, _) = town.asked_look();
    town.found(look, 7, 2, 10);
    assert_eq!(outcomes(&mut town, alice, "a")[0]["messageId"], 10);
    town.pass(60 * S);
    assert_eq!(town.questions(), 0);
    town.hears_nothing();
}

#[test]
fn a_look_that_fails_counts_as_one() {
    for failure in [Failure::Unknown, Failure::Unusable] {
        let (mut town, alice, post) = one_sent();
        town.fail(post, failure);
        for n in 1..=3 {
            town.hears_nothing();
            while town.questions() == 0 {
                town.pass(S / 2);
            }
            let (look, _) = town.asked_look();
            // A site that hangs: the looks that were due meanwhile are over.
            town.pass(if n == 2 { S } else { Duration::ZERO });
            town.fail(look, UNAVAILABLE);
        }
        town.hears_error(alice, "unknown_outcome");
    }
}

#[test]
fn a_site_that_hangs_on_the_look_as_well_keeps_the_lane_no_longer_than_that() {
    let (mut town, alice, post) = one_sent();
    town.fail(post, Failure::Unknown);
    town.pass(S);
    let (look, _) = town.asked_look();
    town.pass(30 * S);
    assert_eq!(town.questions(), 0, "one look at a time");
    town.fail(look, UNAVAILABLE);
    town.hears_error(alice, "unknown_outcome");
}

#[test]
fn a_newest_message_that_says_something_else_is_nothing_certain() {
    let (mut town, alice, post) = one_sent();
    town.fail(post, Failure::Unusable);
    town.pass(S / 2);
    let (look, _) = town.asked_look();
    town.answer(look, other(10));
    town.hears_error(alice, "unknown_outcome");
}

#[test]
fn the_first_ok_does_not_answer_for_the_second() {
    let (mut town, alice, post) = one_sent();
    town.say(alice, &send(7, "ok", "b"));
    town.store(post, 7, 2);
    let first = outcomes(&mut town, alice, "a")[0]["messageId"].as_u64().unwrap();
    let (post, _) = town.asked();
    town.fail(post, Failure::Unusable);
    town.pass(S / 2);
    let (look, _) = town.asked_look();
    town.found(look, 7, 2, first);
    town.hears_error(alice, "not_stored");
}

#[test]
fn an_earlier_message_that_says_something_else_is_known_as_such() {
    let (mut town, alice, post) = one_sent();
    town.store(post, 7, 2);
    let first = outcomes(&mut town, alice, "a")[0]["messageId"].as_u64().unwrap();
    town.say(alice, &send(7, "bye", "b"));
    let (post, _) = town.asked();
    town.fail(post, Failure::Unusable);
    town.pass(S / 2);
    let (look, _) = town.asked_look();
    town.answer(look, other(first));
    town.hears_error(alice, "not_stored");
}

#[test]
fn what_another_lane_has_stored_meanwhile_hides_what_it_may_have_stored_before() {
    let (mut town, alice, post) = one_sent();
    // To the same people without the thread's number: the site puts it into thread 7.
    town.say(alice, &new(3, "b"));
    let (meanwhile, _) = town.asked();
    town.store(meanwhile, 7, 2);
    let id = outcomes(&mut town, alice, "b")[0]["messageId"].as_u64().unwrap();
    town.fail(post, Failure::Unusable);
    town.pass(S / 2);
    let (look, _) = town.asked_look();
    town.found(look, 7, 2, id);
    town.hears_error(alice, "unknown_outcome");
}

#[test]
fn the_lane_stands_until_the_fate_is_decided() {
    let (mut town, alice, post) = one_sent();
    town.say(alice, &send(7, "next", "b"));
    town.fail(post, Failure::Unknown);
    town.pass(S);
    let (look, _) = town.asked_look();
    assert_eq!(town.questions(), 0);
    town.found(look, 7, 2, 10);
    assert_eq!(&*town.asked().1.text, "next");
}

#[test]
fn a_new_thread_is_looked_up_by_its_recipient_and_joined_when_found() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    let bob = town.open_as(1, "3");
    town.say(alice, &new(3, "a"));
    let (post, _) = town.asked();
    town.fail(post, Failure::Unusable);
    town.pass(S / 2);
    let (look, asked) = town.asked_look();
    assert_eq!(asked.target, Target::NewThread { recipient: 3 });
    town.found(look, 12, 2, 10);
    let heard = town.heard();
    for conn in [alice, bob] {
        let of =
            |kind: &str| heard.iter().filter(|(to, f)| *to == conn && f["type"] == kind).count();
        assert_eq!((of("thread_joined"), of("message")), (1, 1), "{heard:?}");
    }
}

#[test]
fn a_found_message_tells_who_takes_part() {
    let mut town = Town::new(verified());
    let alice = town.open_member(0, 2, 1, &[2, 3, 4]);
    let carol = town.open_member(1, 4, 1, &[2, 3, 4]);
    town.say(alice, r#"{"type":"send_message","threadId":1,"message":"x","clientId":"a"}"#);
    let (post, _) = town.asked();
    town.fail(post, Failure::Unusable);
    town.pass(S / 2);
    let (look, asked) = town.asked_look();
    assert_eq!(asked.credential.secret(), "token-of-2");
    town.answer(look, Answer::LookupResult(LookupResult::Match(stored(1, 2, 10, Some(&[2, 3])))));
    let heard = town.heard();
    assert!(heard.iter().any(|(to, f)| *to == carol && f["type"] == "thread_left"), "{heard:?}");
    assert!(!heard.iter().any(|(to, f)| *to == carol && f["type"] == "message"), "{heard:?}");
    assert!(heard.iter().any(|(to, f)| *to == alice && f["clientId"] == "a"), "{heard:?}");
}

#[test]
fn a_token_that_the_look_finds_refused_ends_it() {
    let mut town = Town::new(verified());
    let alice = town.open_member(0, 2, 1, &[2, 3]);
    town.say(alice, r#"{"type":"send_message","threadId":1,"message":"x","clientId":"a"}"#);
    let (post, _) = town.asked();
    town.fail(post, Failure::Unknown);
    town.pass(S);
    let (look, _) = town.asked_look();
    town.fail(look, Failure::TokenRefused);
    let heard = town.heard();
    assert_eq!(heard[0].1["code"], "unknown_outcome", "{heard:?}");
    assert_eq!(town.closed(), [(alice, 4401)]);
}

#[test]
fn a_server_that_stops_tells_what_it_does_not_know() {
    let (mut town, alice, post) = one_sent();
    town.say(alice, &send(7, "next", "b"));
    town.fail(post, Failure::Unknown);
    town.pass(S);
    let (look, _) = town.asked_look();
    town.hub.stop();
    town.take_effects();
    let codes: Vec<_> = town.heard().iter().map(|(_, f)| f["code"].clone()).collect();
    assert_eq!(codes, ["not_stored", "unknown_outcome"]);
    town.found(look, 7, 2, 10);
    town.pass(60 * S);
    town.hears_nothing();
    assert_eq!((town.questions(), town.hub.next_deadline().is_some()), (0, true));
}

#[test]
fn a_server_that_stops_still_answers_repeats_and_takes_nothing_new() {
    let (mut town, alice, post) = one_sent();
    town.store(post, 7, 2);
    let told = outcomes(&mut town, alice, "a");
    town.say(alice, &send(7, "on its way", "b"));
    let (post, _) = town.asked();
    town.hub.begin_drain();
    // Who hears that it is not stored sends it to the next server, which has forgotten it.
    town.say(alice, &send(7, "ok", "a"));
    assert_eq!(outcomes(&mut town, alice, "a"), told);
    town.say(alice, &send(7, "on its way", "b"));
    town.hears_nothing();
    town.say(alice, &send(7, "new", "c"));
    town.hears_error(alice, "not_stored");
    town.say(alice, r#"{"type":"send_message","threadId":7,"message":"new"}"#);
    town.hears_error(alice, "not_stored");
    let nobody = town.open(1);
    town.say(nobody, &send(7, "ok", "a"));
    town.hears_error(nobody, "not_stored");
    town.store(post, 7, 2);
    assert_eq!(outcomes(&mut town, alice, "b").len(), 2);
    assert_eq!((town.questions(), town.hub.counts().deliveries), (0, 0));
}

#[test]
fn a_server_that_stops_waits_for_an_inherited_outcome_though_anothers_connection_has_the_place() {
    let (mut town, alice, post) = one_sent();
    town.close(alice);
    let phone = town.open_as(1, "2");
    let bob = town.open_as(0, "3");
    town.say(bob, &send(8, "hi", "b"));
    assert!(town.hub.is_awaiting_outcome(phone));
    town.store(post, 7, 2);
    assert_eq!(outcomes(&mut town, phone, "a").len(), 1);
    assert!(!town.hub.is_awaiting_outcome(phone) && town.hub.is_awaiting_outcome(bob));
}

// ---- waiting for a turn

#[test]
fn a_message_waits_forty_seconds_for_its_turn_and_is_then_never_posted() {
    let (mut town, alice, post) = one_sent();
    town.pass(5 * S);
    town.say(alice, &send(7, "second", "b"));
    town.pass(5 * S);
    town.say(alice, &send(7, "third", "c"));
    town.pass(35 * S - S / 1000);
    town.hears_nothing();
    town.pass(S / 1000);
    let fault = town.hears_error(alice, "not_stored");
    assert_eq!(fault["clientId"], "b");
    assert!(fault["message"].as_str().unwrap().contains("40s"), "{fault}");
    town.pass(4 * S);
    town.store(post, 7, 2);
    let (_, next) = town.asked();
    assert_eq!(&*next.text, "third");
    assert_eq!(town.questions(), 0);
    assert_eq!(town.hub.counts().deliveries, 1);
}

#[test]
fn whoever_has_their_turn_may_take_as_long_as_the_site_takes() {
    let (mut town, alice, post) = one_sent();
    town.pass(300 * S);
    town.hears_nothing();
    town.store(post, 7, 2);
    assert_eq!(outcomes(&mut town, alice, "a")[0]["type"], "message");
}

#[test]
fn a_new_conversation_waits_no_longer_than_others() {
    let mut town = Town::default();
    let alice = town.open_as(0, "2");
    let bob = town.open_as(1, "3");
    town.say(alice, &new(4, "a"));
    town.say(bob, &new(4, "b"));
    town.asked();
    town.pass(40 * S);
    assert_eq!(town.hears_error(bob, "not_stored")["clientId"], "b");
}

#[test]
fn without_a_limit_a_message_waits_for_its_turn_for_ever() {
    let mut town = Town::new(Settings { message_turn_lasts: None, ..settings() });
    let alice = town.open_in(0, "2", "7");
    town.say(alice, &send(7, "first", "a"));
    town.say(alice, &send(7, "second", "b"));
    town.pass(3_000 * S);
    town.hears_nothing();
    assert_eq!(town.hub.counts().deliveries, 2);
}

// ---- repeats

#[test]
fn what_comes_twice_under_one_client_id_is_stored_once_and_answered_twice() {
    let (mut town, alice, post) = one_sent();
    let bob = town.open_in(1, "3", "7");
    town.store(post, 7, 2);
    let first = town.heard();
    assert_eq!(first.len(), 2);
    town.say(alice, &send(7, "ok", "a"));
    assert_eq!(town.questions(), 0);
    let again = town.heard();
    assert_eq!(again, [first[0].clone()], "the same, and bob ({}) hears nothing", bob.slot);
}

#[test]
fn a_repeat_waits_for_the_outcome_of_the_first() {
    let (mut town, alice, post) = one_sent();
    // The phone has lost its network, and the server does not know yet.
    let phone = town.open_in(1, "2", "7");
    town.say(phone, &send(7, "ok", "a"));
    town.say(phone, &send(7, "ok", "a"));
    assert_eq!(town.questions(), 0);
    town.hears_nothing();
    town.store(post, 7, 2);
    let heard = town.heard();
    let own = |conn| heard.iter().filter(|(to, f)| *to == conn && f["clientId"] == "a").count();
    assert_eq!((own(alice), own(phone), heard.len()), (1, 2, 3), "{heard:?}");
}

#[test]
fn who_comes_back_and_sends_again_hears_it_once() {
    let (mut town, alice, post) = one_sent();
    town.close(alice);
    let phone = town.open_in(1, "2", "7");
    town.say(phone, &send(7, "ok", "a"));
    town.store(post, 7, 2);
    assert_eq!(outcomes(&mut town, phone, "a").len(), 1);
    let later = town.open_as(2, "2");
    assert_eq!(outcomes(&mut town, later, "a"), [] as [Value; 0]);
}

#[test]
fn an_outcome_that_was_kept_is_told_on_arrival_and_repeated_on_demand() {
    let (mut town, alice, post) = one_sent();
    town.close(alice);
    town.store(post, 7, 2);
    let phone = town.open(1);
    town.say(phone, r#"{"type":"user_connected","userId":"2"}"#);
    assert_eq!(outcomes(&mut town, phone, "a").len(), 1);
    town.say(phone, &send(7, "ok", "a"));
    assert_eq!(outcomes(&mut town, phone, "a").len(), 1);
    assert_eq!(town.questions(), 0);
}

#[test]
fn who_has_sent_again_and_gone_hears_of_it_on_the_next_connection() {
    let (mut town, alice, post) = one_sent();
    let phone = town.open_as(1, "2");
    town.say(phone, &send(7, "ok", "a"));
    town.close(phone);
    let tablet = town.open_as(2, "2");
    town.store(post, 7, 2);
    let heard = town.heard();
    let of = |conn| heard.iter().filter(|(to, f)| *to == conn && f["clientId"] == "a").count();
    assert_eq!((of(alice), of(tablet)), (1, 1), "{heard:?}");
}

#[test]
fn who_has_sent_again_and_gone_and_sent_again_hears_of_it_once() {
    let (mut town, alice, post) = one_sent();
    let phone = town.open_as(1, "2");
    town.say(phone, &send(7, "ok", "a"));
    town.close(phone);
    let tablet = town.open_as(2, "2");
    town.say(tablet, &send(7, "ok", "a"));
    town.store(post, 7, 2);
    let heard = town.heard();
    let of = |conn| heard.iter().filter(|(to, f)| *to == conn && f["clientId"] == "a").count();
    assert_eq!((of(alice), of(tablet)), (1, 1), "{heard:?}");
}

// The later connection was there before the first had gone, so that it did not inherit from it.
#[test]
fn who_has_sent_again_and_gone_hears_of_it_though_the_first_has_gone_last() {
    let (mut town, alice, post) = one_sent();
    let phone = town.open_as(1, "2");
    town.say(phone, &send(7, "ok", "a"));
    town.close(phone);
    let tablet = town.open_as(2, "2");
    town.close(alice);
    town.store(post, 7, 2);
    assert_eq!(outcomes(&mut town, tablet, "a").len(), 1);
    let later = town.open(3);
    town.say(later, r#"{"type":"user_connected","userId":2}"#);
    assert_eq!(outcomes(&mut town, later, "a").len(), 0);
}

#[test]
fn who_has_sent_again_and_is_back_later_finds_the_outcome_once() {
    for first_goes in [false, true] {
        let (mut town, alice, post) = one_sent();
        let phone = town.open_as(1, "2");
        town.say(phone, &send(7, "ok", "a"));
        town.close(phone);
        if first_goes {
            town.close(alice);
        }
        town.store(post, 7, 2);
        assert_eq!(outcomes(&mut town, alice, "a").len(), usize::from(!first_goes));
        let tablet = town.open(2);
        town.say(tablet, r#"{"type":"user_connected","userId":2}"#);
        assert_eq!(outcomes(&mut town, tablet, "a").len(), 1);
        let later = town.open(3);
        town.say(later, r#"{"type":"user_connected","userId":2}"#);
        assert_eq!(outcomes(&mut town, later, "a").len(), 0);
    }
}

#[test]
fn ten_minutes_later_it_is_another_message() {
    let (mut town, alice, post) = one_sent();
    town.store(post, 7, 2);
    town.heard();
    town.pass(600 * S - S / 1000);
    town.say(alice, &send(7, "ok", "a"));
    assert_eq!((town.questions(), town.heard().len()), (0, 1));
    town.pass(S / 1000);
    town.say(alice, &send(7, "ok", "a"));
    assert_eq!((town.questions(), town.heard().len()), (1, 0));
}

#[test]
fn what_was_not_stored_may_be_tried_again_under_the_same_name() {
    for failure in [UNAVAILABLE, Failure::Overloaded, Failure::TokenMissing, Failure::CannotWrite] {
        let (mut town, alice, post) = one_sent();
        let phone = town.open_as(1, "2");
        town.say(phone, &send(7, "ok", "a"));
        town.fail(post, failure);
        let heard = town.heard();
        assert_eq!(heard.len(), 2, "the first and the one that waited: {heard:?}");
        town.say(alice, &send(7, "ok", "a"));
        assert_eq!(&*town.asked().1.text, "ok");
    }
}

#[test]
fn what_nobody_knows_is_repeated_and_never_posted_again() {
    let (mut town, alice, post) = one_sent();
    town.fail(post, Failure::Unusable);
    town.pass(S / 2);
    let (look, _) = town.asked_look();
    town.say(alice, &send(7, "ok", "a"));
    town.answer(look, other(10));
    assert_eq!(outcomes(&mut town, alice, "a").len(), 2);
    town.say(alice, &send(7, "ok", "a"));
    town.hears_error(alice, "unknown_outcome");
    assert_eq!(town.questions(), 0);
}

#[test]
fn a_client_id_is_the_same_as_a_number_and_as_a_string_and_another_users_is_another() {
    let mut town = Town::default();
    let alice = town.open_in(0, "2", "7");
    let bob = town.open_in(1, "3", "7");
    let nobody = town.open(2);
    let frame = |id: &str| {
        format!(r#"{{"type":"send_message","threadId":7,"message":"x","clientId":{id}}}"#)
    };
    town.say(alice, &frame("5"));
    town.say(alice, &frame("\"5\""));
    town.say(bob, &frame("5"));
    town.say(nobody, &frame("5"));
    assert_eq!(town.hub.counts().deliveries, 3);
}

#[test]
fn who_is_nobody_yet_repeats_on_the_same_connection() {
    let mut town = Town::default();
    let nobody = town.open(0);
    town.say(nobody, &send(7, "ok", "a"));
    let (post, _) = town.asked();
    town.store(post, 7, 2);
    assert_eq!(outcomes(&mut town, nobody, "a").len(), 1);
    // It is the user's now whom the site has named.
    town.say(nobody, &send(7, "ok", "a"));
    assert_eq!((town.questions(), outcomes(&mut town, nobody, "a").len()), (0, 1));
}

#[test]
fn without_a_client_id_each_is_a_message_of_its_own() {
    let mut town = Town::default();
    let alice = town.open_in(0, "2", "7");
    for _ in 0..2 {
        town.say(alice, r#"{"type":"send_message","threadId":7,"message":"x"}"#);
    }
    assert_eq!(town.hub.counts().deliveries, 2);
}

#[test]
fn no_more_than_eight_repeats_wait_for_one_message() {
    let (mut town, alice, post) = one_sent();
    for _ in 0..8 {
        town.say(alice, &send(7, "ok", "a"));
    }
    town.hears_nothing();
    town.say(alice, &send(7, "ok", "a"));
    let told = town.hears_error(alice, "overloaded");
    // Perhaps it is, and then its sender must not believe this one.
    assert!(!told["message"].as_str().unwrap().contains("not stored"), "{told}");
    town.store(post, 7, 2);
    assert_eq!(outcomes(&mut town, alice, "a").len(), 9);
}

#[test]
fn a_message_that_found_no_room_may_come_again() {
    let mut town = Town::new(Settings {
        deliveries: DeliveryLimits { total: 1, ..settings().deliveries },
        ..settings()
    });
    let alice = town.open_in(0, "2", "7");
    town.say(alice, &send(7, "first", "a"));
    town.say(alice, &send(7, "second", "b"));
    town.hears_error(alice, "overloaded");
    let (post, _) = town.asked();
    town.store(post, 7, 2);
    town.heard();
    town.say(alice, &send(7, "second", "b"));
    assert_eq!(&*town.asked().1.text, "second");
}

#[test]
fn the_outcomes_that_are_remembered_are_bounded_by_count_and_bytes() {
    let now = Instant::now();
    let conn = ConnId { slot: 0, serial: 1 };
    let key =
        |id: u64| DedupKey { sender: Sender::User(IdKey::Number(2)), client_id: IdKey::Number(id) };
    let is_known =
        |dedup: &mut Dedup, id| matches!(dedup.find(&key(id), conn, now), DedupResult::Outcome(_));
    for (bytes, kept) in [(100, 20_000), (64 << 10, 255), (17 << 20, 0)] {
        let mut dedup = Dedup::default();
        let frame: EncodedFrame = vec![0; bytes].into();
        for id in 0..20_010 {
            dedup.insert(key(id), now);
            dedup.settle(&key(id), &frame, true);
        }
        dedup.check_invariants();
        assert_eq!(dedup.count(), kept);
        let oldest = 20_010 - kept as u64;
        assert!(!is_known(&mut dedup, oldest - 1), "the oldest goes");
        assert!(kept == 0 || (is_known(&mut dedup, oldest) && is_known(&mut dedup, 20_009)));
        // None is forgotten too late, and not all in one go.
        let end = now + 600 * S;
        let mut goes = 0;
        while dedup.forget(end) {
            goes += 1;
        }
        assert_eq!((dedup.count(), goes), (0, kept.div_ceil(256)));
        dedup.check_invariants();
    }
}

#[test]
fn the_messages_that_are_known_are_bounded() {
    let mut settled = Settled::default();
    let alice = IdKey::Number(2);
    for thread in 1..=10_010 {
        settled.note(thread, &alice, 5, RequestId(1));
    }
    settled.check_invariants();
    assert_eq!(settled.settled_when(10, &alice, 5, RequestId(2)), SettledWhen::Never);
    assert_eq!(settled.settled_when(11, &alice, 5, RequestId(2)), SettledWhen::BeforePost);
    assert_eq!(settled.settled_when(11, &alice, 5, RequestId(1)), SettledWhen::AfterPost);
    assert_eq!(settled.settled_when(11, &alice, 6, RequestId(2)), SettledWhen::Never);
    assert_eq!(settled.settled_when(11, &IdKey::Number(3), 5, RequestId(2)), SettledWhen::Never);
}

//! What `docs/PROTOCOL.md` says of group calls is what happens; its diagram is played in
//! `tests/calls_documented.rs`.

#[path = "support/town.rs"]
mod town;

use std::time::Duration;

use buddyline::hub::interface::ConnId;
use town::Town;

const RING: Duration = Duration::from_secs(45);

#[test]
fn joining_again_on_another_device_moves_a_group_call_there() {
    let mut town = Town::default();
    let [alice, phone, laptop] =
        [(1, "2"), (2, "3"), (3, "3")].map(|(n, user)| town.open_in(n, user, "12"));
    town.say(alice, r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    town.say(phone, r#"{"type":"call_joined","callId":"g"}"#);
    let heard = town.heard();
    let elsewhere: Vec<ConnId> = heard
        .iter()
        .filter_map(|(conn, f)| (f["reason"] == "answered_elsewhere").then_some(*conn))
        .collect();
    assert_eq!(elsewhere, [laptop]);
    town.say(laptop, r#"{"type":"call_joined","callId":"g"}"#);
    let joined = r#"{"type":"call_joined","callId":"g","threadId":12,"userId":3}"#;
    town.hears(&[
        (laptop, r#"{"type":"call_joined","callId":"g","threadId":12,"userId":3,"userIds":[2,3]}"#),
        (
            phone,
            r#"{"type":"call_ended","callId":"g","threadId":12,"reason":"answered_elsewhere"}"#,
        ),
        (alice, joined),
    ]);
}

#[test]
fn a_thread_has_one_group_call_and_who_comes_second_is_shown_to_it() {
    let mut town = Town::default();
    let [alice, bob] = [(1, "2"), (2, "3")].map(|(n, user)| town.open_in(n, user, "12"));
    town.say(alice, r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    town.heard();
    town.say(bob, r#"{"type":"call_initiated","threadId":12,"callId":"a"}"#);
    let shown =
        r#"{"type":"call_ended","callId":"a","threadId":12,"reason":"glare","continuesAs":"g"}"#;
    town.hears(&[(bob, shown)]);
    town.say(bob, r#"{"type":"call_busy","callId":"g"}"#);
    let left = r#"{"type":"call_left","callId":"g","threadId":12,"userId":3,"reason":"busy"}"#;
    let ended = r#"{"type":"call_ended","callId":"g","threadId":12,"reason":"busy"}"#;
    town.hears(&[(bob, ended), (alice, left), (alice, ended)]);
}

#[test]
fn who_was_not_rung_joins_a_group_call_by_its_thread_and_it_ends_with_the_last_two() {
    let mut town = Town::default();
    let [alice, bob] = [(1, "2"), (2, "3")].map(|(n, id)| town.open_in(n, id, "12"));
    town.say(alice, r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    town.say(bob, r#"{"type":"call_rejected","callId":"g"}"#);
    town.heard();
    assert_eq!(town.hub.counts().calls, [0, 0], "one is alone and nobody rings");

    town.say(alice, r#"{"type":"call_initiated","threadId":12,"callId":"h"}"#);
    town.say(bob, r#"{"type":"call_joined","callId":"h"}"#);
    let carol = town.open_in(3, "4", "12");
    town.say(carol, r#"{"type":"offer","offer":"o","recipientId":2,"callId":"h"}"#);
    town.heard();
    town.say(carol, r#"{"type":"call_joined","callId":"h","threadId":12}"#);
    let joined = r#"{"type":"call_joined","callId":"h","threadId":12,"userId":4}"#;
    town.hears(&[
        (
            carol,
            r#"{"type":"call_joined","callId":"h","threadId":12,"userId":4,"userIds":[2,3,4]}"#,
        ),
        (alice, joined),
        (bob, joined),
    ]);
    town.say(alice, r#"{"type":"call_hangup","callId":"h"}"#);
    town.heard();
    town.say(bob, r#"{"type":"call_left","callId":"h"}"#);
    let heard = town.heard();
    let ends: Vec<ConnId> =
        heard.iter().filter_map(|(conn, f)| (f["type"] == "call_ended").then_some(*conn)).collect();
    assert_eq!(ends, [bob, carol], "{heard:?}");
}

#[test]
fn who_does_not_join_in_time_is_told_and_the_others_are_too() {
    let mut town = Town::default();
    let [alice, bob, carol] = [(1, "2"), (2, "3"), (3, "4")].map(|(n, u)| town.open_in(n, u, "12"));
    town.say(alice, r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    town.say(bob, r#"{"type":"call_joined","callId":"g"}"#);
    town.heard();
    town.pass(RING);
    let left = r#"{"type":"call_left","callId":"g","threadId":12,"userId":4,"reason":"no_answer"}"#;
    town.hears(&[
        (carol, r#"{"type":"call_ended","callId":"g","threadId":12,"reason":"no_answer"}"#),
        (alice, left),
        (bob, left),
    ]);
}

#[test]
fn a_group_call_is_for_eight_and_for_who_is_there() {
    let mut town = Town::default();
    let people: Vec<ConnId> = (10..19).map(|n| town.open_in(n, &n.to_string(), "12")).collect();
    town.say(people[0], r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    town.hears_error(people[0], "thread_too_large");
    let alone = town.open_in(1, "2", "13");
    town.say(alone, r#"{"type":"call_initiated","threadId":13,"callId":"g"}"#);
    town.hears_error(alone, "recipient_offline");
}

#[test]
fn after_a_restart_who_joins_begins_the_group_call_anew_and_the_others_join_it() {
    let mut town = Town::default();
    let alice = town.open_in(1, "2", "12");
    let joined = r#"{"type":"call_joined","callId":"g","threadId":12}"#;
    let begun = r#"{"type":"call_initiated","callId":"g","threadId":12}"#;
    town.say(alice, joined);
    town.hears_error(alice, "no_such_call");
    town.say(alice, begun);
    town.hears_error(alice, "recipient_offline");
    let bob = town.open_in(2, "3", "12");
    // Both have been told that there is none.
    for conn in [alice, bob] {
        town.say(conn, joined);
        town.hears_error(conn, "no_such_call");
    }
    town.say(alice, begun);
    town.hears(&[(bob, r#"{"type":"call_initiated","callId":"g","threadId":12,"userId":2}"#)]);
    town.say(bob, begun);
    town.hears_error(bob, "not_your_call");
    town.say(bob, joined);
    let who = r#"{"type":"call_joined","callId":"g","threadId":12,"userId":3"#;
    town.hears(&[(bob, &format!(r#"{who},"userIds":[2,3]}}"#)), (alice, &format!("{who}}}"))]);
    let carol = town.open_in(3, "4", "12");
    town.say(carol, joined);
    assert_eq!(town.heard().len(), 3, "all who are in, and who has just come");
}

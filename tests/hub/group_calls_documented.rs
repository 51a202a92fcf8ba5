//! Checks what `docs/PROTOCOL.md` says about group calls; `tests/hub/calls_documented.rs` plays its
//! diagram.

use std::time::Duration;

use buddyline::hub::interface::ConnId;

use crate::support::harness::HubHarness;

const RING: Duration = Duration::from_secs(45);

#[test]
fn group_call_moves_to_the_device_that_joins_again() {
    let mut harness = HubHarness::default();
    let [alice, phone, laptop] =
        [(1, "2"), (2, "3"), (3, "3")].map(|(n, user)| harness.open_in(n, user, "12"));
    harness.send(alice, r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    harness.send(phone, r#"{"type":"call_joined","callId":"g"}"#);
    let received = harness.received();
    let elsewhere: Vec<ConnId> = received
        .iter()
        .filter_map(|(conn, f)| (f["reason"] == "answered_elsewhere").then_some(*conn))
        .collect();
    assert_eq!(elsewhere, [laptop]);
    harness.send(laptop, r#"{"type":"call_joined","callId":"g"}"#);
    let joined = r#"{"type":"call_joined","callId":"g","threadId":12,"userId":3}"#;
    harness.assert_received(&[
        (laptop, r#"{"type":"call_joined","callId":"g","threadId":12,"userId":3,"userIds":[2,3]}"#),
        (
            phone,
            r#"{"type":"call_ended","callId":"g","threadId":12,"reason":"answered_elsewhere"}"#,
        ),
        (alice, joined),
    ]);
}

#[test]
fn second_group_call_in_a_thread_points_to_the_first() {
    let mut harness = HubHarness::default();
    let [alice, bob] = [(1, "2"), (2, "3")].map(|(n, user)| harness.open_in(n, user, "12"));
    harness.send(alice, r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    harness.received();
    harness.send(bob, r#"{"type":"call_initiated","threadId":12,"callId":"a"}"#);
    let glare =
        r#"{"type":"call_ended","callId":"a","threadId":12,"reason":"glare","continuesAs":"g"}"#;
    harness.assert_received(&[(bob, glare)]);
    harness.send(bob, r#"{"type":"call_busy","callId":"g"}"#);
    let left = r#"{"type":"call_left","callId":"g","threadId":12,"userId":3,"reason":"busy"}"#;
    let ended = r#"{"type":"call_ended","callId":"g","threadId":12,"reason":"busy"}"#;
    harness.assert_received(&[(bob, ended), (alice, left), (alice, ended)]);
}

#[test]
fn group_call_is_joinable_by_thread_and_ends_with_last_two() {
    let mut harness = HubHarness::default();
    let [alice, bob] = [(1, "2"), (2, "3")].map(|(n, id)| harness.open_in(n, id, "12"));
    harness.send(alice, r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    harness.send(bob, r#"{"type":"call_rejected","callId":"g"}"#);
    harness.received();
    assert_eq!(harness.hub.counts().calls, [0, 0], "one user is left and no device rings");

    harness.send(alice, r#"{"type":"call_initiated","threadId":12,"callId":"h"}"#);
    harness.send(bob, r#"{"type":"call_joined","callId":"h"}"#);
    let carol = harness.open_in(3, "4", "12");
    harness.send(carol, r#"{"type":"offer","offer":"o","recipientId":2,"callId":"h"}"#);
    harness.received();
    harness.send(carol, r#"{"type":"call_joined","callId":"h","threadId":12}"#);
    let joined = r#"{"type":"call_joined","callId":"h","threadId":12,"userId":4}"#;
    harness.assert_received(&[
        (
            carol,
            r#"{"type":"call_joined","callId":"h","threadId":12,"userId":4,"userIds":[2,3,4]}"#,
        ),
        (alice, joined),
        (bob, joined),
    ]);
    harness.send(alice, r#"{"type":"call_hangup","callId":"h"}"#);
    harness.received();
    harness.send(bob, r#"{"type":"call_left","callId":"h"}"#);
    let received = harness.received();
    let ends: Vec<ConnId> = received
        .iter()
        .filter_map(|(conn, f)| (f["type"] == "call_ended").then_some(*conn))
        .collect();
    assert_eq!(ends, [bob, carol], "{received:?}");
}

#[test]
fn missed_group_call_is_reported_to_everyone() {
    let mut harness = HubHarness::default();
    let [alice, bob, carol] =
        [(1, "2"), (2, "3"), (3, "4")].map(|(n, u)| harness.open_in(n, u, "12"));
    harness.send(alice, r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    harness.send(bob, r#"{"type":"call_joined","callId":"g"}"#);
    harness.received();
    harness.advance(RING);
    let left = r#"{"type":"call_left","callId":"g","threadId":12,"userId":4,"reason":"no_answer"}"#;
    harness.assert_received(&[
        (carol, r#"{"type":"call_ended","callId":"g","threadId":12,"reason":"no_answer"}"#),
        (alice, left),
        (bob, left),
    ]);
}

#[test]
fn group_call_needs_online_users_and_at_most_eight() {
    let mut harness = HubHarness::default();
    let members: Vec<ConnId> = (10..19).map(|n| harness.open_in(n, &n.to_string(), "12")).collect();
    harness.send(members[0], r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    harness.assert_error(members[0], "thread_too_large");
    let alone = harness.open_in(1, "2", "13");
    harness.send(alone, r#"{"type":"call_initiated","threadId":13,"callId":"g"}"#);
    harness.assert_error(alone, "recipient_offline");
}

#[test]
fn after_restart_first_join_restarts_the_group_call() {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(1, "2", "12");
    let joined = r#"{"type":"call_joined","callId":"g","threadId":12}"#;
    let initiated = r#"{"type":"call_initiated","callId":"g","threadId":12}"#;
    harness.send(alice, joined);
    harness.assert_error(alice, "no_such_call");
    harness.send(alice, initiated);
    harness.assert_error(alice, "recipient_offline");
    let bob = harness.open_in(2, "3", "12");
    // Both get the answer that there is no such call.
    for conn in [alice, bob] {
        harness.send(conn, joined);
        harness.assert_error(conn, "no_such_call");
    }
    harness.send(alice, initiated);
    harness.assert_received(&[(
        bob,
        r#"{"type":"call_initiated","callId":"g","threadId":12,"userId":2}"#,
    )]);
    harness.send(bob, initiated);
    harness.assert_error(bob, "not_your_call");
    harness.send(bob, joined);
    let joined_head = r#"{"type":"call_joined","callId":"g","threadId":12,"userId":3"#;
    harness.assert_received(&[
        (bob, &format!(r#"{joined_head},"userIds":[2,3]}}"#)),
        (alice, &format!("{joined_head}}}")),
    ]);
    let carol = harness.open_in(3, "4", "12");
    harness.send(carol, joined);
    assert_eq!(
        harness.received().len(),
        3,
        "both users in the call and the user who has just joined"
    );
}

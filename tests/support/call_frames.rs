//! Short summaries of the frames that the devices of a call receive.

#![allow(dead_code)]

use buddyline::hub::interface::ConnId;
use serde_json::{Value, json};

use super::harness::HubHarness;

/// A frame's `type`, followed by the fields that distinguish it from others of the same type.
pub fn summary(frame: &Value) -> String {
    match text(frame, "type") {
        "call_ended" => format!("ended {} {}", text(frame, "callId"), text(frame, "reason")),
        "error" => format!("error {}", text(frame, "code")),
        "call_left" => format!("left {} {}", frame["userId"], text(frame, "reason")),
        kind => kind.to_owned(),
    }
}

pub fn text<'a>(frame: &'a Value, field: &str) -> &'a str {
    frame[field].as_str().expect("a string")
}

/// Removes the frames received since the last check: device and summary, in order.
pub fn summaries(harness: &mut HubHarness) -> Vec<(ConnId, String)> {
    harness.received().iter().map(|(to, frame)| (*to, summary(frame))).collect()
}

/// Asserts that exactly these frames were received since the last check, in this order.
#[track_caller]
pub fn assert_received(harness: &mut HubHarness, expected: &[(ConnId, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(to, summary)| (*to, (*summary).to_owned())).collect();
    assert_eq!(summaries(harness), expected);
}

/// Users 2 to 4 join thread 12 with one device each, and user 2 calls the thread as call "g".
pub fn start_group_call() -> (HubHarness, [ConnId; 3]) {
    let mut harness = HubHarness::default();
    let devices = [2, 3, 4].map(|user| harness.open_in(user - 2, &user.to_string(), "12"));
    harness.send(devices[0], r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    let received = harness.received();
    let rung: Vec<ConnId> = received.iter().map(|(to, _)| *to).collect();
    assert_eq!(rung, devices[1..]);
    assert_eq!((&received[0].1["userId"], &received[0].1["callId"]), (&json!(2), &json!("g")));
    (harness, devices)
}

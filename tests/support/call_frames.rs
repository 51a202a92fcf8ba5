//! What the devices of a call hear, in a few words each.

#![allow(dead_code)]

use buddyline::hub::interface::ConnId;
use serde_json::{Value, json};

use super::harness::HubHarness;

/// A frame's `type`, and what tells it from others of it.
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

/// What has been heard since the last look, by device, in order.
pub fn summaries(harness: &mut HubHarness) -> Vec<(ConnId, String)> {
    harness.received().iter().map(|(to, frame)| (*to, summary(frame))).collect()
}

/// Exactly this has been heard since.
#[track_caller]
pub fn assert_received(harness: &mut HubHarness, expected: &[(ConnId, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(to, summary)| (*to, (*summary).to_owned())).collect();
    assert_eq!(summaries(harness), expected);
}

/// Users 2 to 4 in thread 12 on a device each, and 2 calls all of them as "g".
pub fn start_group_call() -> (HubHarness, [ConnId; 3]) {
    let mut harness = HubHarness::default();
    let devices = [2, 3, 4].map(|user| harness.open_in(user - 2, &user.to_string(), "12"));
    harness.send(devices[0], r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    let heard = harness.received();
    let rung: Vec<ConnId> = heard.iter().map(|(to, _)| *to).collect();
    assert_eq!(rung, devices[1..]);
    assert_eq!((&heard[0].1["userId"], &heard[0].1["callId"]), (&json!(2), &json!("g")));
    (harness, devices)
}

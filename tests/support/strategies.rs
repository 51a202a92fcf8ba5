//! Random texts for property tests: noise, JSON, and nearly valid frames.

use buddyline::protocol::client::FrameType;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Text of any kind: noise, JSON of any shape, unbalanced brackets, and nearly valid frames.
pub fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => json(),
        2 => near_valid_frame(),
        1 => "\\PC{0,100}",
        1 => "[\\[{\":,}\\]a0\\\\]{0,60}",
    ]
}

/// Any JSON value.
pub fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| serde_json::json!(n).to_string()),
        "\\PC{0,80}".prop_map(|text| serde_json::json!(text).to_string()),
        select(&["\"\\ud800\"", "\"\\u0000\"", "1e999", "-0", "18446744073709551616", "\"\""][..])
            .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            vec(("\\PC{0,5}", inner), 0..4).prop_map(object),
        ]
    })
}

fn object(fields: Vec<(String, String)>) -> String {
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}:{value}", serde_json::json!(name))).collect();
    format!("{{{}}}", fields.join(","))
}

/// A JSON object like a frame: known field names, known types, values of any kind.
pub fn near_valid_frame() -> impl Strategy<Value = String> {
    let names = [
        "userId",
        "threadId",
        "recipientId",
        "senderId",
        "clientId",
        "message",
        "token",
        "typing",
        "offer",
        "answer",
        "candidate",
        "type",
    ];
    let kinds: Vec<&str> = FrameType::ALL.iter().map(|(_, word)| *word).collect();
    let field = (select(names.to_vec()), json()).prop_map(|(name, value)| (name.to_owned(), value));
    (select(kinds), vec(field, 0..8)).prop_map(|(kind, mut fields)| {
        fields.insert(0, ("type".to_owned(), format!("\"{kind}\"")));
        object(fields)
    })
}

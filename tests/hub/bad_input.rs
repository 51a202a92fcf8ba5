//! Invalid input: the error that each invalid frame gets, and unusual frames that are valid.

use buddyline::hub::interface::{Input, Target};

use crate::support::harness::HubHarness;

#[test]
fn invalid_frame_gets_error_code_and_changes_nothing() {
    let mut harness = HubHarness::default();
    let alice = harness.open_in(0, "2", "1");
    let long = "x".repeat(65);
    for (text, code, part) in [
        ("", "invalid_json", "line 1"),
        ("hello", "invalid_json", "line 1"),
        (r#"{"type":"ping""#, "invalid_json", "line 1"),
        (r#"{"type":"ping"} x"#, "invalid_json", "trailing"),
        ("[1,2]", "invalid_frame", "object"),
        (r#"["ping"]"#, "invalid_frame", "object"),
        ("7", "invalid_frame", "object"),
        ("null", "invalid_frame", "object"),
        ("{}", "invalid_frame", "type"),
        (r#"{"type":null}"#, "invalid_frame", "type"),
        (r#"{"type":7}"#, "invalid_field", "type must be a string"),
        (r#"{"type":"ping","type":"typing"}"#, "invalid_frame", "once"),
        (r#"{"type":"pnig"}"#, "unknown_type", "\"pnig\""),
        (r#"{"type":"user_connected"}"#, "missing_field", "userId"),
        (r#"{"type":"user_connected","userId":null}"#, "missing_field", "userId"),
        (r#"{"type":"user_connected","userId":""}"#, "invalid_field", "userId"),
        (
            r#"{"type":"user_connected","userId":1.5}"#,
            "invalid_field",
            "not a number with a fraction",
        ),
        (r#"{"type":"user_connected","userId":15e-1}"#, "invalid_field", "with a fraction"),
        (r#"{"type":"user_connected","userId":9007199254740992.0}"#, "invalid_field", "rounded"),
        (r#"{"type":"user_connected","userId":1e400}"#, "invalid_field", "rounded"),
        (r#"{"type":"join_thread","threadId":1.5}"#, "invalid_field", "threadId must be"),
        (r#"{"type":"ping","clientId":-0.5}"#, "invalid_field", "clientId must be"),
        (r#"{"type":"send_message","threadId":0.5,"message":"x"}"#, "invalid_field", "a fraction"),
        (r#"{"type":"call_hangup","callId":1e-1}"#, "invalid_field", "callId must be"),
        (r#"{"type":"call_rejected","recipientId":1.5}"#, "invalid_field", "recipientId must be"),
        (r#"{"type":"call_rejected","recipientId":1,"senderId":1.5}"#, "invalid_field", "senderId"),
        (r#"{"type":"user_connected","userId":18446744073709551616}"#, "invalid_field", "64 bits"),
        (r#"{"type":"user_connected","userId":true}"#, "invalid_field", "a boolean"),
        (r#"{"type":"user_connected","userId":{"id":1}}"#, "invalid_field", "an object"),
        (r#"{"type":"user_connected","userId":"\ud800"}"#, "invalid_field", "userId"),
        (&format!(r#"{{"type":"user_connected","userId":"{long}"}}"#), "invalid_field", "65"),
        (&format!(r#"{{"type":"ping","clientId":"{long}"}}"#), "invalid_field", "clientId"),
        (r#"{"type":"join_thread"}"#, "missing_field", "threadId"),
        (r#"{"type":"leave_thread"}"#, "missing_field", "threadId"),
        (r#"{"type":"typing"}"#, "missing_field", "threadId"),
        (r#"{"type":"typing","threadId":1,"typing":"yes"}"#, "invalid_field", "true or false"),
        (r#"{"type":"send_message","threadId":1}"#, "missing_field", "message is missing"),
        (r#"{"type":"send_message","threadId":1,"message":""}"#, "invalid_field", "empty"),
        (r#"{"type":"send_message","threadId":1,"message":7}"#, "invalid_field", "message"),
        (r#"{"type":"send_message","threadId":1,"message":{"a":1}}"#, "invalid_field", "message"),
        (r#"{"type":"send_message","message":"x"}"#, "missing_field", "recipientId"),
        (
            r#"{"type":"send_message","message":"x","threadId":"abc"}"#,
            "invalid_field",
            "not a text",
        ),
        (
            r#"{"type":"send_message","message":"x","threadId":-1}"#,
            "invalid_field",
            "not a negative",
        ),
        (r#"{"type":"send_message","message":"x","threadId":-1.0}"#, "invalid_field", "negative"),
        (r#"{"type":"send_message","message":"x","threadId":"7.0"}"#, "invalid_field", "digits"),
        (
            r#"{"type":"send_message","message":"x","threadId":9007199254740992}"#,
            "invalid_field",
            "threadId must be a whole number from 1 to 9007199254740991 to send to, not a larger",
        ),
        (
            r#"{"type":"send_message","message":"x","recipientId":"bob"}"#,
            "invalid_field",
            "recipientId",
        ),
        (r#"{"type":"send_message","message":"x","recipientId":0}"#, "invalid_field", "not 0"),
        (
            r#"{"type":"send_message","message":"x","threadId":1,"token":7}"#,
            "invalid_field",
            "token",
        ),
        (
            r#"{"type":"send_message","message":"x","threadId":1,"token":"s3cret t0ken"}"#,
            "invalid_field",
            "token",
        ),
        (r#"{"type":"offer","recipientId":3}"#, "missing_field", "offer"),
        (r#"{"type":"offer","offer":[1],"recipientId":3}"#, "invalid_field", "offer"),
        (r#"{"type":"offer","offer":"o"}"#, "missing_field", "recipientId"),
        (r#"{"type":"answer","offer":"o","recipientId":3}"#, "missing_field", "answer"),
        (r#"{"type":"ice-candidate","recipientId":3}"#, "missing_field", "candidate"),
        (r#"{"type":"ice-candidate","candidate":7,"recipientId":3}"#, "invalid_field", "candidate"),
        (r#"{"type":"call_initiated","recipientId":3,"senderId":[]}"#, "invalid_field", "senderId"),
    ] {
        harness.send(alice, text);
        let fault = harness.assert_error(alice, code);
        let message = fault["message"].as_str().unwrap();
        assert!(
            message.contains(part),
            "{text} is answered {message:?}, which does not contain {part:?}"
        );
        assert!(!message.contains("s3cret"), "no token in an error");
    }
    harness.send(alice, r#"{"type":"online_users"}"#);
    harness.assert_received(&[(alice, r#"{"type":"online_users","userIds":[2]}"#)]);
}

#[test]
fn a_binary_frame_is_answered_with_an_error() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    harness.handle(Input::Binary { conn: alice });
    harness.assert_error(alice, "text_only");
}

#[test]
fn error_names_the_frame_as_far_as_it_was_parsed() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    harness.send(alice, r#"{"type":"typing","threadId":"t","typing":3,"clientId":"c"}"#);
    let fault = harness.assert_error(alice, "invalid_field");
    assert_eq!(fault["replyTo"], "typing");
    assert_eq!((&fault["threadId"], &fault["clientId"]), (&"t".into(), &"c".into()));
    harness.send(alice, r#"{"type":"dance","threadId":1,"clientId":"c"}"#);
    let fault = harness.assert_error(alice, "unknown_type");
    assert_eq!((fault.get("replyTo"), &fault["clientId"]), (None, &"c".into()));
}

#[test]
fn ids_are_echoed_in_the_senders_form() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, r#""2""#);
    for (id, echo) in [
        ("7", "7"),
        (r#""7""#, r#""7""#),
        (r#""007""#, r#""007""#),
        ("-7", "-7"),
        ("7.0", "7"),
        ("7e0", "7"),
        ("0.7E+1", "7"),
        ("-7.0", "-7"),
        ("-0.0", "0"),
        (r#""-7""#, r#""-7""#),
        ("-0", "0"),
        ("18446744073709551615", "18446744073709551615"),
        (r#""a\"\u00e9\n😀""#, r#""a\"é\n😀""#),
    ] {
        harness.send(alice, &format!(r#"{{"type":"typing","threadId":{id},"typing":false}}"#));
        let echo = format!(r#"{{"type":"typing","threadId":{echo},"userId":"2","typing":false}}"#);
        harness.assert_received(&[(alice, &echo)]);
    }
}

#[test]
fn client_that_writes_ids_as_doubles_is_served() {
    let mut harness = HubHarness::default();
    let bob = harness.open_in(0, "3", "12");
    let alice = harness.open(1);
    harness.send(alice, r#"{"type":"user_connected","userId":2.0,"clientId":1.0}"#);
    harness.assert_received(&[
        (bob, r#"{"type":"user_connected","userId":2}"#),
        (alice, r#"{"type":"user_connected","userId":2,"clientId":1}"#),
    ]);
    harness.send(alice, r#"{"type":"join_thread","threadId":12.0,"clientId":2e0}"#);
    let joined = r#"{"type":"thread_joined","threadId":12,"clientId":2}"#;
    harness.assert_received(&[(alice, joined)]);
    harness.send(alice, r#"{"type":"typing","threadId":1.2e1,"typing":false}"#);
    let typing = r#"{"type":"typing","threadId":12,"userId":2,"typing":false}"#;
    harness.assert_received(&[(alice, typing), (bob, typing)]);
    // `0.0` starts a thread, as `0` does.
    harness.send(
        alice,
        r#"{"type":"send_message","threadId":0.0,"recipientId":3.0,"message":"x","clientId":3.0}"#,
    );
    assert_eq!(harness.next_post().1.target, Target::NewThread { recipient: 3 });
    // Receivers may keep ids as integers; other numbers in the frame are not touched.
    harness.send(
        alice,
        r#"{"type":"call_initiated","callId":5.0,"senderId":2.0,"recipientId":3.0,"threadId":12.0,"userId":2.0,"x":1.0,"message":1.5}"#,
    );
    let call = r#"{"type":"call_initiated","callId":5,"senderId":2,"recipientId":3,"threadId":12,"userId":2,"x":1.0,"message":1.5}"#;
    harness.assert_received(&[(bob, call)]);
    harness.send(bob, r#"{"type":"call_ringing","callId":"5"}"#);
    assert_eq!(harness.received()[0].1["callId"], "5");
    harness.send(alice, r#"{"type":"call_cancelled","callId":50e-1}"#);
    let received = harness.received();
    let ended = received.iter().filter(|(_, frame)| frame["type"] == "call_ended").count();
    assert_eq!(ended, 2, "{received:?}");
}

#[test]
fn escaped_keys_unknown_fields_and_whitespace_are_accepted() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    harness.send(
        alice,
        " {\n \"t\\u0079pe\" : \"ping\",\t\"more\":[{\"a\":null}], \"message\":3 }\r\n",
    );
    harness.assert_received(&[(alice, r#"{"type":"pong"}"#)]);
}

#[test]
fn deep_nesting_is_rejected_without_harm() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    let deep = format!(r#"{{"type":"ping","x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    harness.send(alice, &deep);
    let received = harness.received();
    assert_eq!(received.len(), 1);
    assert!(received[0].1["type"] == "pong" || received[0].1["code"] == "invalid_json");
}

#[test]
fn frame_length_uses_the_shortest_encoding() {
    let mut harness = HubHarness::default();
    let alice = harness.open_as(0, "2");
    for size in [1, 60, 125, 126, 127, 1_000, 65_000, 65_535, 65_536, 200_000] {
        let offer = "o".repeat(size);
        harness.send(
            alice,
            &format!(r#"{{"type":"typing","threadId":1,"typing":false,"x":"{offer}"}}"#),
        );
        harness.received();
        let bob = harness.open_as(1, "3");
        // A call frame of an unknown call is relayed unchanged.
        let call = format!(r#"{{"type":"answer","answer":"{offer}","recipientId":3}}"#);
        harness.send(alice, &call);
        harness.assert_received(&[(bob, &call)]);
        harness.close(bob);
    }
}

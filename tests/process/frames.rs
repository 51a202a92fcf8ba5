//! Each frame of the protocol over real sockets, with the real binary on its embedded site.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Client, LONG, Received, of_type};
use crate::support::server::Server;

fn field_names(frame: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = frame.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn user_connected_reaches_everyone_connected() {
    let server = Server::start(&[]);
    let mut anonymous = Client::connect(server.address());
    let mut eight = Client::as_user(server.address(), 8);
    anonymous.expect_type("user_connected");
    let mut seven = Client::connect(server.address());
    seven.send(&json!({"type": "user_connected", "userId": "7"}));
    for client in [&mut seven, &mut eight, &mut anonymous] {
        assert_eq!(client.next(), json!({"type": "user_connected", "userId": "7"}));
    }
}

#[test]
fn join_thread_subscribes_the_connection() {
    let server = Server::start(&[]);
    let mut writer = Client::in_thread(server.address(), 7, 41);
    writer.send(&json!({"type": "send_message", "threadId": 41, "message": "before"}));
    writer.expect_type("message");
    // One connection, many threads, and one that it has not joined.
    let mut subscriber = Client::in_thread(server.address(), 8, 41);
    subscriber.send(&json!({"type": "join_thread", "threadId": "42", "clientId": "j2"}));
    let joined = subscriber.next();
    assert_eq!(joined, json!({"type": "thread_joined", "threadId": "42", "clientId": "j2"}));
    for thread in [41, 42, 43] {
        writer.send(&json!({"type": "send_message", "threadId": thread, "message": "after"}));
        writer.expect_type("message");
    }
    let received = subscriber.drain();
    let threads: Vec<&Value> =
        of_type(&received, "message").into_iter().map(|message| &message["threadId"]).collect();
    assert_eq!(threads, [41, 42]);
    subscriber.send(&json!({"type": "leave_thread", "threadId": 42, "clientId": 9}));
    let left = subscriber.next();
    assert_eq!(left, json!({"type": "thread_left", "threadId": 42, "clientId": 9}));
    writer.send(&json!({"type": "send_message", "threadId": 42, "message": "after leaving"}));
    writer.expect_type("message");
    assert_eq!(subscriber.drain(), [] as [Value; 0]);
}

#[test]
fn send_message_reaches_everyone_in_the_thread_and_its_sender() {
    let server = Server::start(&[]);
    let mut seven = Client::in_thread(server.address(), 7, 41);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    let mut stranger = Client::as_user(server.address(), 9);
    for client in [&mut seven, &mut eight, &mut stranger] {
        client.drain();
    }
    let text = "Hello, <b>\"this\"</b> is a message. \u{1f600}\n\u{0}\\";
    seven.send(&json!({
        "type": "send_message", "recipientId": "8", "message": text, "threadId": "41",
        "token": "s3cr3t-7", "clientId": "c-1",
    }));
    let own = seven.next();
    let theirs = eight.next();
    for frame in [&own, &theirs] {
        assert_eq!(frame["type"], "message");
        assert_eq!(frame["threadId"], "41");
        assert_eq!(frame["senderId"], 7);
        assert_eq!(frame["recipientId"], "8");
        assert_eq!(frame["message"], text);
        assert_eq!(frame["messageId"], 1);
        assert!(frame["sentAt"].as_str().unwrap().ends_with('Z'));
        assert!(!frame["html"].as_str().unwrap().contains("<b>"));
    }
    assert_eq!(own["clientId"], "c-1");
    assert_eq!(theirs.get("clientId"), None, "only the sender gets its clientId");
    let known = ["html", "message", "messageId", "recipientId", "senderId", "sentAt", "threadId"];
    assert_eq!(field_names(&theirs), [&known[..], &["type"]].concat());
    assert_eq!(stranger.drain(), [] as [Value; 0]);
}

#[test]
fn typing_reaches_the_thread_and_expires() {
    let server = Server::start(&["--typing-lasts", "300ms"]);
    let mut seven = Client::in_thread(server.address(), 7, 41);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    seven.drain();
    let frame = |typing| json!({"type": "typing", "threadId": 41, "userId": 7, "typing": typing});
    let begun = Instant::now();
    seven.send(&json!({"type": "typing", "threadId": 41}));
    assert_eq!(seven.next(), frame(true));
    assert_eq!(eight.next(), frame(true));
    assert_eq!(seven.next(), frame(false));
    assert_eq!(eight.next(), frame(false));
    let lasted = begun.elapsed();
    assert!(lasted >= Duration::from_millis(300) && lasted < LONG / 2, "{lasted:?}");

    seven.send(&json!({"type": "typing", "threadId": 41}));
    eight.expect(|f| *f == frame(true));
    seven.send(&json!({"type": "send_message", "threadId": 41, "message": "done"}));
    assert_eq!(eight.next(), frame(false), "the message ends it");
    assert_eq!(eight.next()["type"], "message");

    seven.send(&json!({"type": "typing", "threadId": 41}));
    assert_eq!(eight.next(), frame(true));
    seven.leave();
    assert_eq!(eight.next(), frame(false), "disconnecting ends it");

    eight.send(&json!({"type": "typing", "threadId": 41, "typing": false}));
    assert_eq!(eight.next()["typing"], false, "a client may end it itself");
}

/// Sends a call frame from user 7 to user 8; returns the text that 8 receives.
fn relayed(frame: &str) -> String {
    let server = Server::start(&[]);
    let mut eight = Client::as_user(server.address(), 8);
    let mut seven = Client::as_user(server.address(), 7);
    eight.expect_type("user_connected");
    seven.send_text(frame);
    let got = eight.next_text();
    assert_eq!(seven.drain(), [] as [Value; 0], "the sender gets no reply");
    assert_eq!(eight.drain(), [] as [Value; 0], "it is relayed once");
    got
}

/// A frame without the `callId` that the server appended.
fn without_call_id(frame: &str) -> String {
    let (own, name) = frame.split_once(r#","callId":""#).expect("a call has a callId");
    assert!(name.ends_with(r#""}"#) && name.len() == "12345678-12345678\"}".len(), "{name}");
    format!("{own}}}")
}

#[test]
fn call_initiated_is_relayed_unchanged_but_for_the_call_id() {
    let frame = r#"{"type":"call_initiated","senderId":"7","recipientId":8,"threadId":"41"}"#;
    assert_eq!(without_call_id(&relayed(frame)), frame);
    let frame = r#"{"type":"call_initiated","callId":7,"recipientId":8}"#;
    assert_eq!(relayed(frame), frame, "it has a callId already");
}

#[test]
fn an_offer_reaches_the_other_party_byte_for_byte() {
    let sdp = r#"v=0\r\no=- 4611 2 IN IP4 127.0.0.1\r\ns=\u002d\/é 😀 \u0000"#;
    for payload in
        [format!("\"{sdp}\""), format!(r#"{{"type": "offer",  "sdp":"{sdp}","n":1.50}}"#)]
    {
        let frame = format!(
            r#"{{"type":"offer","offer":{payload},"recipientId":"8","senderId":"7","threadId":"41"}}"#
        );
        assert_eq!(without_call_id(&relayed(&frame)), frame);
    }
}

#[test]
fn an_answer_reaches_the_other_party_byte_for_byte() {
    let frame = r#"{"type":"answer","answer":{"sdp":"v=0\r\n"},"recipientId":8,"senderId":7,"threadId":41}"#;
    assert_eq!(relayed(frame), frame);
}

#[test]
fn an_ice_candidate_reaches_the_other_party_byte_for_byte() {
    for candidate in
        [r#"{"candidate":"candidate:1 1 udp 2122260223","sdpMLineIndex":0}"#, "null", "\"\""]
    {
        let frame = format!(
            r#"{{"type":"ice-candidate","candidate":{candidate},"recipientId":8,"senderId":7}}"#
        );
        assert_eq!(relayed(&frame), frame);
    }
}

#[test]
fn token_and_client_id_are_not_relayed() {
    let frame = r#"{"token":"s3cr3t","type":"offer","offer":"x","clientId":"c","recipientId":8,"more":[1]}"#;
    let expected = r#"{"type":"offer","offer":"x","recipientId":8,"more":[1]}"#;
    assert_eq!(without_call_id(&relayed(frame)), expected);
}

#[test]
fn call_peer_is_whichever_id_is_not_the_sender() {
    let server = Server::start(&[]);
    let mut eight = Client::as_user(server.address(), 8);
    let mut eights_tablet = Client::as_user(server.address(), 8);
    let mut seven = Client::as_user(server.address(), 7);
    let mut nine = Client::as_user(server.address(), 9);
    for client in [&mut eight, &mut eights_tablet, &mut seven, &mut nine] {
        client.drain();
    }
    // An answer whose sender is the caller, and one whose sender is the answerer.
    for (sender, recipient) in [(8, 7), (7, 8)] {
        let frame =
            json!({"type": "answer", "answer": "x", "senderId": sender, "recipientId": recipient});
        seven.send(&frame);
        assert_eq!(eight.next(), frame);
        assert_eq!(eights_tablet.next(), frame, "all of the user's connections");
    }
    nine.send(&json!({"type": "offer", "offer": "x", "senderId": 7, "recipientId": 8}));
    nine.expect_error("not_your_call");
    nine.send(&json!({"type": "offer", "offer": "x", "senderId": 9, "recipientId": 9}));
    nine.expect_error("not_your_call");
    nine.send(
        &json!({"type": "offer", "offer": "x", "senderId": 9, "recipientId": 10, "clientId": 5}),
    );
    let fault = nine.expect_error("recipient_offline");
    assert_eq!(fault["replyTo"], "offer");
    assert_eq!(fault["clientId"], 5);
    let mut anonymous = Client::connect(server.address());
    anonymous.send(&json!({"type": "offer", "offer": "x", "senderId": 9, "recipientId": 8}));
    anonymous.expect_error("not_identified");
    assert_eq!(eight.drain(), [] as [Value; 0]);
}

#[test]
fn errors_go_to_the_sender_only_and_keep_the_connection() {
    let server = Server::start(&[]);
    let mut bystander = Client::in_thread(server.address(), 8, 41);
    let mut seven = Client::as_user(server.address(), 7);
    bystander.expect_type("user_connected");
    let wrong = [
        ("{", "invalid_json"),
        ("", "invalid_json"),
        ("[]", "invalid_frame"),
        ("7", "invalid_frame"),
        ("{}", "invalid_frame"),
        (r#"{"type":"dance"}"#, "unknown_type"),
        (r#"{"type":7}"#, "invalid_field"),
        (r#"{"type":"join_thread"}"#, "missing_field"),
        (r#"{"type":"join_thread","threadId":[1]}"#, "invalid_field"),
        (r#"{"type":"join_thread","threadId":""}"#, "invalid_field"),
        (r#"{"type":"join_thread","threadId":1.5}"#, "invalid_field"),
        (r#"{"type":"send_message","threadId":41}"#, "missing_field"),
        (r#"{"type":"send_message","threadId":41,"message":""}"#, "invalid_field"),
        (r#"{"type":"send_message","message":"x"}"#, "missing_field"),
        (r#"{"type":"send_message","threadId":"x","message":"x"}"#, "invalid_field"),
        (r#"{"type":"send_message","threadId":41,"message":"x","token":"a b"}"#, "invalid_field"),
        (r#"{"type":"typing","threadId":41,"typing":"no"}"#, "invalid_field"),
        (r#"{"type":"offer","recipientId":8}"#, "missing_field"),
    ];
    for (text, code) in wrong {
        seven.send_text(text);
        seven.expect_error(code);
    }
    seven.try_send(tungstenite::Message::binary(vec![1, 2, 3])).unwrap();
    seven.expect_error("text_only");
    assert_eq!(seven.drain(), [] as [Value; 0], "one error for each");
    assert_eq!(bystander.drain(), [] as [Value; 0]);
}

#[test]
fn error_names_the_frame_it_answers() {
    let server = Server::start(&[]);
    let mut client = Client::as_user(server.address(), 7);
    client.send(&json!({
        "type": "send_message", "threadId": "41", "message": 5, "clientId": "c-9", "token": "t0k"
    }));
    let fault = client.expect_error("invalid_field");
    assert_eq!(field_names(&fault), ["clientId", "code", "message", "replyTo", "threadId", "type"]);
    assert_eq!(fault["replyTo"], "send_message");
    assert_eq!(fault["threadId"], "41");
    assert_eq!(fault["clientId"], "c-9");
    client.send(&json!({"type": "ice-candidate", "candidate": [], "recipientId": 8}));
    assert_eq!(client.expect_error("invalid_field")["replyTo"], "ice-candidate");
}

#[test]
fn message_without_thread_joins_both_sides_to_a_new_thread() {
    let server = Server::start(&[]);
    let mut seven = Client::as_user(server.address(), 7);
    let mut phone = Client::as_user(server.address(), 8);
    let mut tablet = Client::as_user(server.address(), 8);
    let mut nine = Client::as_user(server.address(), 9);
    for none in [json!(null), json!(""), json!(0), json!("0")] {
        for client in [&mut seven, &mut phone, &mut tablet, &mut nine] {
            client.drain();
        }
        seven.send(
            &json!({"type": "send_message", "recipientId": 8, "message": "hi", "threadId": none}),
        );
        let thread = seven.expect_type("message")["threadId"].clone();
        assert!(thread.is_u64(), "{thread}");
        for device in [&mut phone, &mut tablet] {
            let message = device.expect_type("message");
            assert_eq!((&message["threadId"], &message["message"]), (&thread, &json!("hi")));
        }
        phone.send(&json!({"type": "send_message", "threadId": thread, "message": "yes?"}));
        assert_eq!(seven.expect_type("message")["message"], "yes?");
        assert_eq!(tablet.expect_type("message")["message"], "yes?");
        assert_eq!(nine.drain(), [] as [Value; 0]);
    }
}

#[test]
fn user_goes_offline_after_last_device_and_grace() {
    let server = Server::start(&["--presence-grace", "400ms"]);
    let mut watcher = Client::as_user(server.address(), 8);
    let phone = Client::as_user(server.address(), 7);
    let tablet = Client::as_user(server.address(), 7);
    let mut received = watcher.drain();
    assert_eq!(of_type(&received, "user_connected").len(), 1, "once for two devices: {received:?}");

    phone.leave();
    watcher.expect_nothing_for(Duration::from_millis(600));
    tablet.leave();
    // A phone that changes networks is back within the grace time: no presence frame is sent.
    let phone = Client::as_user(server.address(), 7);
    watcher.expect_nothing_for(Duration::from_millis(600));

    let left = Instant::now();
    phone.leave();
    let gone = watcher.next();
    assert_eq!(gone, json!({"type": "user_disconnected", "userId": 7}));
    assert!(left.elapsed() >= Duration::from_millis(400), "{:?}", left.elapsed());
    let _back = Client::as_user(server.address(), 7);
    received = watcher.drain();
    assert_eq!(received, [json!({"type": "user_connected", "userId": 7})]);
}

#[test]
fn numeric_and_string_ids_are_one_user_echoed_as_sent() {
    let server = Server::start(&[]);
    let mut number = Client::as_user(server.address(), 7);
    let mut text = Client::connect(server.address());
    text.send(&json!({"type": "user_connected", "userId": "7"}));
    assert_eq!(text.next(), json!({"type": "user_connected", "userId": "7"}));
    assert_eq!(number.drain(), [] as [Value; 0], "the user was online already");
    text.send(&json!({"type": "online_users", "clientId": "o"}));
    let online = text.next();
    assert_eq!(online, json!({"type": "online_users", "userIds": [7], "clientId": "o"}));
    text.send(&json!({"type": "join_thread", "threadId": "41"}));
    text.next();
    number.send(&json!({"type": "join_thread", "threadId": 41}));
    number.next();
    text.send(&json!({"type": "typing", "threadId": "41"}));
    let typing = number.next();
    assert_eq!((&typing["userId"], &typing["threadId"]), (&json!("7"), &json!("41")));
}

#[test]
fn a_message_over_the_limit_closes_with_1009() {
    let server = Server::start(&["--max-frame-bytes", "2000"]);
    let mut client = Client::as_user(server.address(), 7);
    // The server may close before the client has sent all of it.
    let _ = client.try_send(tungstenite::Message::text("x".repeat(3_000)));
    assert_eq!(client.next_until(Instant::now() + LONG), Received::Closed(Some(1009)));
}

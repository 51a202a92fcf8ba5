//! The two sample clients of the documentation, copied literally, in one conversation.
//!
//! Neither sends `user_connected` or joins a thread. The React sample checks `type`; the Flutter
//! sample searches the raw frame for the letters `message` and `typing`. So no other frame may
//! contain them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Client, LONG};
use crate::support::server::Server;
use crate::support::site::Site;

/// How long the Flutter sample shows "Typing..." after each frame.
const FLUTTER_TYPES: Duration = Duration::from_secs(3);

/// The frames that both samples send.
struct Sample {
    socket: Client,
    user: u64,
    recipient: &'static str,
    thread: &'static str,
}

impl Sample {
    fn open(address: SocketAddr, user: u64, recipient: &'static str, thread: &'static str) -> Self {
        Sample { socket: Client::connect(address), user, recipient, thread }
    }

    fn send_message(&mut self, text: &str) {
        self.socket.send(&json!({
            "type": "send_message",
            "recipientId": self.recipient,
            "message": text,
            "threadId": self.thread,
            "token": format!("token-{}", self.user),
        }));
    }

    fn handle_typing(&mut self) {
        self.socket.send(&json!({"type": "typing", "threadId": self.thread}));
    }
}

/// The component `App` of the React sample.
struct React {
    sample: Sample,
    messages: Vec<Value>,
    /// Each value passed to `setTypingStatus`.
    typing_statuses: Vec<Value>,
}

impl React {
    fn on_message(&mut self, event: &str) {
        let data: Value = serde_json::from_str(event).unwrap();
        if data["type"] == "message" {
            self.messages.push(data);
        } else if data["type"] == "typing" {
            self.typing_statuses.push(data["typing"].clone());
        }
    }

    fn listen(&mut self) {
        for text in self.sample.socket.drain_texts() {
            self.on_message(&text);
        }
    }

    fn shown(&self) -> Vec<&str> {
        self.messages.iter().map(|message| message["message"].as_str().unwrap()).collect()
    }
}

/// The state `_WebSocketChatState` of the Flutter sample.
struct Flutter {
    sample: Sample,
    messages: Vec<String>,
    /// The frames that the sample took for `typing`.
    typing: Vec<String>,
    typing_until: Option<Instant>,
}

impl Flutter {
    fn on_message(&mut self, message: &str) {
        if message.contains("message") {
            self.messages.push(message.to_owned());
        } else if message.contains("typing") {
            self.typing.push(message.to_owned());
            self.typing_until = Some(Instant::now() + FLUTTER_TYPES);
        }
    }

    fn listen(&mut self) {
        for text in self.sample.socket.drain_texts() {
            self.on_message(&text);
        }
    }

    /// The texts of the frames shown raw; panics on anything but a `message` frame.
    fn shown(&self) -> Vec<String> {
        let text = |raw: &String| {
            let frame: Value = serde_json::from_str(raw).unwrap();
            assert_eq!(frame["type"], "message", "shown as a message: {raw}");
            frame["message"].as_str().unwrap().to_owned()
        };
        self.messages.iter().map(text).collect()
    }
}

/// Three users in thread 41 exchange messages, while others send frames of all kinds.
fn exchange_messages(server: &Server) {
    let address = server.address();
    let sample = |user, recipient| Sample::open(address, user, recipient, "41");
    let mut anna = React { sample: sample(7, "8"), messages: vec![], typing_statuses: vec![] };
    let mut ben =
        Flutter { sample: sample(8, "7"), messages: vec![], typing: vec![], typing_until: None };
    // The third follows docs/PROTOCOL.md: it identifies itself and joins.
    let mut carl = Client::in_thread(address, 9, 41);

    // The first message of each identifies the sender and subscribes its connection to the thread.
    // A client that has received its own message knows that it was sent.
    let wait_for = |client: &mut Client, text: &str| -> Vec<String> {
        let until = Instant::now() + LONG;
        let mut texts = Vec::new();
        loop {
            texts.push(client.next_text());
            let frame: Value = serde_json::from_str(texts.last().unwrap()).unwrap();
            if frame["type"] == "message" && frame["message"] == text {
                return texts;
            }
            assert!(Instant::now() < until, "{text} does not arrive");
        }
    };
    anna.sample.send_message("I am Anna");
    for text in wait_for(&mut anna.sample.socket, "I am Anna") {
        anna.on_message(&text);
    }
    ben.sample.send_message("I am Ben");
    for text in wait_for(&mut ben.sample.socket, "I am Ben") {
        ben.on_message(&text);
    }
    anna.listen();
    assert_eq!(anna.shown(), ["I am Anna", "I am Ben"]);
    assert_eq!(ben.shown(), ["I am Ben"], "earlier messages are in the site's history");

    // Presence, joins, queries, calls, another thread: neither sample shows any of it.
    let mut dora = Client::in_thread(address, 10, 41);
    let mut phone = Client::in_thread(address, 8, 41);
    for frame in [
        json!({"type": "online_users", "clientId": "o"}),
        json!({"type": "online_users", "threadId": 41}),
        json!({"type": "leave_thread", "threadId": 41}),
        json!({"type": "join_thread", "threadId": 42}),
        json!({"type": "call_initiated", "senderId": 10, "recipientId": 7, "threadId": 41}),
        json!({"type": "call_initiated", "senderId": 10, "recipientId": 8, "threadId": 41}),
        json!({"type": "offer", "offer": "v=0", "senderId": 10, "recipientId": 8}),
        json!({"type": "answer", "answer": "v=0", "senderId": 10, "recipientId": 8}),
        json!({"type": "ice-candidate", "candidate": null, "senderId": 10, "recipientId": 8}),
        json!({"type": "typing", "threadId": 42}),
        json!({"type": "send_message", "threadId": "42", "message": "elsewhere", "token": "t-10"}),
    ] {
        dora.send(&frame);
    }
    wait_for(&mut dora, "elsewhere");
    phone.send(&json!({"type": "user_connected", "userId": 11}));
    phone.drain();
    dora.leave();
    phone.leave();
    let gone = |frame: &Value| frame["type"] == "user_disconnected" && frame["userId"] == 11;
    carl.expect(gone);
    anna.listen();
    ben.listen();
    assert_eq!(anna.shown(), ["I am Anna", "I am Ben"]);
    assert_eq!(ben.shown(), ["I am Ben"]);
    assert_eq!(anna.typing_statuses, [] as [Value; 0]);
    assert_eq!(ben.typing, [] as [String; 0]);

    // Anna types and sends; Carl types and stops; Ben types until it expires.
    anna.sample.handle_typing();
    anna.listen();
    ben.listen();
    assert_eq!(anna.typing_statuses, [true], "the sender receives it too");
    assert_eq!(ben.typing.len(), 1);
    assert!(ben.typing[0].contains(r#""typing":true"#), "{:?}", ben.typing);
    let shows_until = ben.typing_until.unwrap() - Instant::now();
    assert!(shows_until > Duration::from_secs(2), "{shows_until:?}");
    anna.sample.send_message("typing is not a message, \"message\" is");
    for text in wait_for(&mut anna.sample.socket, "typing is not a message, \"message\" is") {
        anna.on_message(&text);
    }
    assert_eq!(anna.typing_statuses, [true, false], "the message ends it");
    carl.send(&json!({"type": "typing", "threadId": 41}));
    carl.send(&json!({"type": "typing", "threadId": 41, "typing": false}));
    carl.drain();
    anna.listen();
    ben.listen();
    assert_eq!(anna.typing_statuses, [true, false, true, false]);
    ben.sample.handle_typing();
    let started = Instant::now();
    ben.listen();
    let stopped = |frame: &Value| {
        frame["type"] == "typing" && frame["typing"] == false && frame["userId"] == 8
    };
    carl.expect(stopped);
    assert!(started.elapsed() >= Duration::from_millis(400), "{:?}", started.elapsed());
    anna.listen();
    ben.listen();
    assert_eq!(anna.typing_statuses, [true, false, true, false, true, false]);
    // A frame with `typing: false` contains the letters as well, so the sample counts it.
    assert_eq!(ben.typing.len(), 6);

    // Each of the three receives every message once, in the same order.
    let texts = ["Ben again", "Anna again", "Carl"];
    ben.sample.send_message(texts[0]);
    wait_for(&mut carl, texts[0]);
    anna.sample.send_message(texts[1]);
    wait_for(&mut carl, texts[1]);
    carl.send(
        &json!({"type": "send_message", "threadId": 41, "message": texts[2], "token": "t-9"}),
    );
    wait_for(&mut carl, texts[2]);
    anna.listen();
    ben.listen();
    let literal = "typing is not a message, \"message\" is";
    assert_eq!(anna.shown(), [&["I am Anna", "I am Ben", literal], &texts[..]].concat());
    assert_eq!(ben.shown(), [&["I am Ben", literal], &texts[..]].concat());
    let senders: Vec<&Value> = anna.messages.iter().map(|m| &m["senderId"]).collect();
    assert_eq!(senders, [7, 8, 7, 8, 7, 9]);
    assert_eq!(anna.messages[0]["threadId"], "41");
    assert_eq!(anna.messages[0]["recipientId"], "8");
}

const QUICK: [&str; 4] = ["--typing-lasts", "400ms", "--presence-grace", "0s"];

#[test]
fn sample_clients_talk_on_the_embedded_site() {
    exchange_messages(&Server::start(&QUICK));
}

#[test]
fn sample_clients_talk_through_a_real_site() {
    let site = Site::start();
    site.set_latency(Duration::from_millis(20));
    site.add_thread(41, &[7, 8, 9]);
    site.add_thread(42, &[10, 7]);
    let url = site.url();
    let arguments = [&QUICK[..], &["--buddyboss-url", &url, "--trust", "open"]].concat();
    exchange_messages(&Server::start(&arguments));
    assert_eq!(site.stored(41).len(), 6);
    assert_eq!(site.posts().len(), 7, "one POST for each message");
}

#[test]
fn the_flutter_sample_shows_an_error_raw() {
    let server = Server::start(&[]);
    let sample = Sample::open(server.address(), 8, "7", "not-a-number");
    let mut flutter = Flutter { sample, messages: vec![], typing: vec![], typing_until: None };
    flutter.sample.send_message("lost");
    flutter.listen();
    assert_eq!(flutter.messages.len(), 1);
    assert!(flutter.messages[0].contains(r#""type":"error""#), "{:?}", flutter.messages);
}

#[test]
fn react_sample_sends_typing_before_any_message() {
    let server = Server::start(&QUICK);
    let mut carl = Client::in_thread(server.address(), 9, 41);
    let sample = Sample::open(server.address(), 7, "8", "41");
    let mut react = React { sample, messages: vec![], typing_statuses: vec![] };
    react.sample.handle_typing();
    for typing in [true, false] {
        let text = react.sample.socket.next_text();
        react.on_message(&text);
        let received = carl.next();
        assert_eq!((&received["type"], &received["typing"]), (&json!("typing"), &json!(typing)));
    }
    assert_eq!(react.typing_statuses, [true, false]);
    // Its first message ends the typing of the anonymous connection.
    react.sample.handle_typing();
    react.sample.send_message("I am Anna");
    carl.expect(|frame| frame["type"] == "typing" && frame["typing"] == true);
    carl.expect(|frame| frame["type"] == "typing" && frame["typing"] == false);
    assert_eq!(carl.expect_type("message")["senderId"], 7);
    react.listen();
    assert_eq!(react.typing_statuses, [true, false, true, false]);
    assert_eq!(react.shown(), ["I am Anna"]);
}

#[test]
fn the_flutter_sample_shows_its_message_once_and_raw() {
    let server = Server::start(&[]);
    let sample = Sample::open(server.address(), 8, "7", "41");
    let mut flutter = Flutter { sample, messages: vec![], typing: vec![], typing_until: None };
    flutter.sample.send_message("Hello, this is a message.");
    let text = flutter.sample.socket.next_text();
    flutter.on_message(&text);
    flutter.listen();
    while flutter.messages.is_empty() {
        let text = flutter.sample.socket.next_text();
        flutter.on_message(&text);
    }
    flutter.listen();
    assert_eq!(flutter.shown(), ["Hello, this is a message."]);
    assert_eq!(flutter.typing, [] as [String; 0]);
}

#[test]
fn samples_are_anonymous_on_verified_server_until_first_send() {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    let url = site.url();
    let server = Server::start(&["--buddyboss-url", &url, "--anonymous-lasts", "1s"]);
    let react = |sample| React { sample, messages: vec![], typing_statuses: vec![] };
    let flutter = |sample| Flutter { sample, messages: vec![], typing: vec![], typing_until: None };
    let mut silent = react(Sample::open(server.address(), 7, "8", "41"));
    let mut shown = flutter(Sample::open(server.address(), 8, "7", "41"));
    shown.sample.handle_typing();
    // As docs/PROTOCOL.md recommends for the samples: with the token in the URL.
    let address = "/?token=token-7";
    let socket = Client::at(server.address(), address, &[]);
    let mut known = react(Sample { socket, user: 7, recipient: "8", thread: "41" });
    known.sample.socket.expect_type("user_connected");
    let text = silent.sample.socket.next_text();
    silent.on_message(&text);
    assert_eq!(silent.sample.socket.close_code(), Some(1008));
    assert_eq!((silent.shown(), silent.typing_statuses.len()), (vec![], 0), "errors are not shown");
    while !shown.messages.iter().any(|row| row.contains("send user_connected")) {
        let text = shown.sample.socket.next_text();
        shown.on_message(&text);
    }
    assert!(shown.messages.iter().all(|row| row.contains(r#""type":"error""#)), "shown as rows");
    // The connection with a token stays open, and one message subscribes it to the thread.
    known.sample.send_message("I am Anna");
    let mut ben = flutter(Sample::open(server.address(), 8, "7", "41"));
    ben.sample.send_message("I am Ben");
    let until = Instant::now() + LONG;
    while known.shown().len() < 2 && Instant::now() < until {
        let text = known.sample.socket.next_text();
        known.on_message(&text);
    }
    assert_eq!(known.shown(), ["I am Anna", "I am Ben"]);
}

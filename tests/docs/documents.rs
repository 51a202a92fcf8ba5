//! Checks that the documents in `docs/` and the README match the code.
//!
//! In `docs/PROTOCOL.md` each block of JSON follows a line that names its sender: "Client sends:"
//! or "Server sends:".

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use buddyline::config::Config;
use buddyline::config::secrets;
use buddyline::hub::interface::{ConnId, Failure, FailureContext, Input, Settings, TokenFault};
use buddyline::protocol::call::RelayedFrame;
use buddyline::protocol::client::{ClientFrame, FrameType, InboxContent, ReplyTo, parse};
use buddyline::protocol::server::{
    CallState, Encoder, EndReason, ErrorFrame, InboxFrame, LeftReason, MessageFrame, ServerFrame,
};
use buddyline::protocol::site_event::{Attachments, Notice};
use buddyline::protocol::{ClientError, ErrorCode, Id};
use clap::CommandFactory;
use serde_json::{Map, Value};

use crate::support::harness::{HubHarness, json, settings, verified};
use crate::support::markdown::{Block, Document, Row, root, words};

type Object = Map<String, Value>;

const CLIENT: &str = "Client sends:";
const SERVER: &str = "Server sends:";

// ---- frames from the client

#[test]
fn every_json_block_names_its_sender() {
    let document = protocol();
    for block in document.blocks.iter().filter(|block| block.language == "json") {
        assert!(matches!(&*block.above, CLIENT | SERVER), "line {}: {}", block.line, block.above);
    }
}

#[test]
fn documented_client_frames_are_accepted() {
    let document = protocol();
    for block in sent_by(&document, CLIENT) {
        let (_, frame) = parse(&block.text);
        assert!(frame.is_ok(), "line {}: {:?}", block.line, frame.err());
    }
}

#[test]
fn each_client_frame_has_a_section_with_an_example() {
    let document = protocol();
    for (kind, word) in FrameType::ALL {
        let heading = format!("Sending `{word}`");
        let in_section = |block: &&Block| block.heading == heading;
        let mut examples = sent_by(&document, CLIENT).filter(in_section).peekable();
        assert!(examples.peek().is_some(), "{heading}");
        assert!(examples.all(|block| parse(&block.text).0.kind == Some(kind)), "{heading}");
    }
}

#[test]
fn fields_are_required_exactly_as_documented() {
    let document = protocol();
    let mut checked = 0;
    for row in document.table("Field").filter(|row| row.header[2] == "Needed") {
        let examples: Vec<Object> = sent_by(&document, CLIENT)
            .filter(|block| block.heading == row.heading)
            .map(object)
            .filter(|example| example.contains_key(row.name()))
            .collect();
        assert!(!examples.is_empty(), "line {}: no example shows the field", row.line);
        let one_of_two = fields_of(&document, &row.heading, |row| row.cells[2].starts_with("this"));
        for example in examples {
            let alone = error_without(&example, &[row.name()]);
            match &*row.cells[2] {
                "yes" => assert_eq!(alone, Some(ErrorCode::MissingField), "line {}", row.line),
                "no" | "with a site" => assert_eq!(alone, None, "line {}", row.line),
                _ => {
                    let names: Vec<&str> = one_of_two.iter().map(|name| &**name).collect();
                    assert_eq!(names.len(), 2, "line {}: {}", row.line, row.cells[2]);
                    // Without `callId`, which stands in for both fields.
                    let both = error_without(&example, &[&*names, &["callId"]].concat());
                    assert_eq!(both, Some(ErrorCode::MissingField), "line {}", row.line);
                }
            }
            checked += 1;
        }
    }
    assert!(checked > FrameType::ALL.len(), "{checked}");
}

#[test]
fn client_examples_use_only_fields_from_the_tables() {
    let document = protocol();
    for block in sent_by(&document, CLIENT) {
        let mut known = fields_of(&document, &block.heading, |_| true);
        if matches!(parse(&block.text).1, Ok(ClientFrame::Call(_))) {
            known.extend(fields_of(&document, "Sending `call_initiated`", |_| true));
        }
        known.extend(["type".to_owned(), "clientId".to_owned()]);
        for field in object(block).keys() {
            assert!(known.contains(field), "line {}: {field}", block.line);
        }
    }
}

/// Returns the error code of an example without these fields, or `None` if it is accepted.
fn error_without(example: &Object, names: &[&str]) -> Option<ErrorCode> {
    let mut example = example.clone();
    names.iter().for_each(|name| drop(example.remove(*name)));
    parse(&Value::from(example).to_string()).1.err().map(|fault| fault.code)
}

// ---- frames from the server

#[test]
fn documented_server_frames_match_what_it_sends() {
    let document = protocol();
    let (full, bare) = (server_frames(true), server_frames(false));
    let mut shown = BTreeSet::new();
    for block in sent_by(&document, SERVER) {
        let example = object(block);
        let kind = kind_of(&example);
        let Some(full) = full.get(&kind) else { continue };
        for (field, value) in &example {
            let real = full.get(field);
            let real =
                real.unwrap_or_else(|| panic!("line {}: the server sends no {field}", block.line));
            let id = |value: &Value| value.is_string() || value.is_u64();
            let named_so = field.ends_with("Id") && field != "messageId" || field == "continuesAs";
            let is_id = named_so && id(real) && id(value);
            let alike = std::mem::discriminant(value) == std::mem::discriminant(real);
            assert!(is_id || alike, "line {}: {field} is {value}", block.line);
        }
        for field in bare[&kind].keys() {
            assert!(example.contains_key(field), "line {}: {field} is missing", block.line);
        }
        assert_eq!(block.heading, format!("Receiving `{kind}`"), "line {}", block.line);
        shown.insert(kind);
    }
    assert_eq!(shown, full.into_keys().collect(), "each type has an example");
}

#[test]
fn relayed_call_frames_match_the_documented_examples() {
    let document = protocol();
    let own = server_frames(true);
    let documented = ["call_initiated", "offer", "answer", "ice-candidate"];
    let sent_by_callee = ["answer", "call_ringing", "call_rejected", "call_busy"];
    let mut expected = Vec::new();
    for block in sent_by(&document, CLIENT) {
        let Ok(ClientFrame::Call(_)) = parse(&block.text).1 else { continue };
        let example = object(block);
        let kind = &*kind_of(&example);
        let is_group = !example.contains_key("recipientId");
        let author = Id::number(if sent_by_callee.contains(&kind) { 3 } else { 2 });
        let shown = Some(&author).filter(|_| is_group || !documented.contains(&kind));
        let relayed = RelayedFrame::read(&block.text, &author.key).expect("an example is good");
        let relayed: Object = serde_json::from_str(&relayed.with_ids(None, shown)).expect("JSON");
        if !own.contains_key(kind) && kind != "call_resume" {
            expected.push(relayed);
        }
    }
    assert_eq!(expected.len(), 10);
    let shown = sent_by(&document, SERVER).map(object);
    let shown: Vec<Object> = shown.filter(|example| !own.contains_key(&kind_of(example))).collect();
    assert_eq!(shown, expected);
}

#[test]
fn tables_list_exactly_the_fields_the_server_sends() {
    let document = protocol();
    let (full, bare) = (server_frames(true), server_frames(false));
    for (kind, frame) in &full {
        let heading = format!("Receiving `{kind}`");
        let keys = |keep: &dyn Fn(&String) -> bool| -> BTreeSet<String> {
            frame.keys().filter(|key| *key != "type" && keep(key)).cloned().collect()
        };
        let always = keys(&|key| bare[kind].contains_key(key));
        let sometimes = keys(&|key| !bare[kind].contains_key(key));
        let listed = |when| fields_of(&document, &heading, |row| row.cells[2] == when);
        assert_eq!(listed("always"), always, "{heading}");
        assert_eq!(listed("sometimes"), sometimes, "{heading}");
        assert_eq!(fields_of(&document, &heading, |_| true).len() + 1, frame.len(), "{heading}");
    }
}

#[test]
fn only_message_error_and_inbox_frames_contain_message() {
    assert_eq!(server_frames_with("message"), ["error", "inbox", "message"]);
}

#[test]
fn only_typing_and_error_frames_contain_typing() {
    assert_eq!(server_frames_with("typing"), ["error", "typing"]);
}

#[test]
fn call_frame_words_avoid_message_and_typing() {
    let document = protocol();
    let calls = sent_by(&document, CLIENT)
        .filter(|block| matches!(parse(&block.text).1, Ok(ClientFrame::Call(_))));
    for block in calls {
        let frame = object(block);
        let keys: Vec<&str> = frame.keys().map(|key| &**key).collect();
        let words = format!("{} {}", kind_of(&frame), keys.join(" "));
        assert!(!words.contains("message") && !words.contains("typing"), "{words}");
    }
}

#[test]
fn call_reasons_and_states_avoid_message_and_typing() {
    let states = STATES.map(state_word);
    assert_eq!(serde_json::json!(STATES), serde_json::json!(states));
    for word in EndReason::ALL.map(|(_, word)| word).into_iter().chain(states) {
        assert!(!word.contains("message") && !word.contains("typing"), "{word}");
    }
}

#[test]
fn call_end_reasons_are_each_documented_once() {
    let document = protocol();
    let rows: Vec<&Row> = document.table("Reason").collect();
    let listed: Vec<&str> = rows.iter().map(|row| row.name()).collect();
    assert_eq!(listed, EndReason::ALL.map(|(_, word)| word));
    assert!(rows.iter().all(|row| row.cells.len() == 4 && row.cells.iter().all(|c| !c.is_empty())));
}

#[test]
fn call_states_are_each_documented_once() {
    let document = protocol();
    let listed: Vec<&str> = document.table("State").map(Row::name).collect();
    assert_eq!(listed, STATES.map(state_word));
}

/// The match below has no wildcard, so that a new state does not compile until it is added here.
const STATES: [CallState; 4] =
    [CallState::Ringing, CallState::Connecting, CallState::Active, CallState::Ended];

fn state_word(state: CallState) -> &'static str {
    match state {
        CallState::Ringing => "ringing",
        CallState::Connecting => "connecting",
        CallState::Active => "active",
        CallState::Ended => "ended",
    }
}

/// The types of the server's frames that contain these letters.
fn server_frames_with(letters: &str) -> Vec<String> {
    let frames = server_frames(true).into_iter();
    let found =
        frames.filter(|(_, frame)| Value::from(frame.clone()).to_string().contains(letters));
    found.map(|(kind, _)| kind).collect()
}

/// One frame of each type as the server sends it, by type: with all fields (`full`), or with the
/// required ones only. No value contains the letters `message` or `typing`.
fn server_frames(full: bool) -> BTreeMap<String, Object> {
    let id = Id::number(7);
    let (id, maybe) = (&id, full.then_some(&id));
    let fault = ClientError::new(ErrorCode::TextOnly, "x");
    let reply = ReplyTo {
        kind: full.then_some(FrameType::Typing),
        thread: maybe.cloned(),
        call: maybe.cloned(),
        client_id: maybe.cloned(),
    };
    let message = MessageFrame {
        thread_id: id,
        sender_id: id,
        recipient_id: maybe,
        message: "x",
        message_id: full.then_some(1),
        sent_at: full.then_some("x"),
        html: full.then_some("x"),
        attachments: full.then(Attachments::default),
        notice: full.then_some(Notice::Join),
        inbox: full,
        client_id: maybe,
    };
    let frames = [
        ServerFrame::UserConnected { user_id: id, client_id: maybe },
        ServerFrame::UserDisconnected { user_id: id },
        ServerFrame::ThreadJoined { thread_id: id, client_id: maybe },
        ServerFrame::ThreadLeft {
            thread_id: id,
            reason: full.then_some(LeftReason::NotParticipant),
            client_id: maybe,
        },
        ServerFrame::Message(message),
        ServerFrame::Typing { thread_id: id, user_id: Some(id), typing: true, client_id: maybe },
        ServerFrame::OnlineUsers { thread_id: maybe, user_ids: &[id], client_id: maybe },
        ServerFrame::Pong { client_id: maybe },
        ServerFrame::IceServers { ice_servers: &[], ttl: full.then_some(1), client_id: maybe },
        ServerFrame::CallEnded {
            call_id: id,
            thread_id: maybe,
            reason: EndReason::Glare,
            continues_as: maybe,
        },
        ServerFrame::CallResumed {
            call_id: id,
            user_id: id,
            state: CallState::Active,
            client_id: maybe,
        },
        ServerFrame::CallJoined {
            call_id: id,
            thread_id: maybe,
            user_id: id,
            user_ids: full.then_some(std::slice::from_ref(id)),
            client_id: maybe,
        },
        ServerFrame::CallLeft {
            call_id: id,
            thread_id: maybe,
            user_id: id,
            reason: EndReason::Hangup,
        },
        ServerFrame::InboxJoined { content: InboxContent::Ids, client_id: maybe },
        ServerFrame::InboxLeft { client_id: maybe },
        ServerFrame::Inbox(InboxFrame {
            event: "resync",
            thread_id: full.then_some(7),
            message_id: full.then_some(7),
            sender_id: full.then_some(7),
            sent_at: full.then_some("x"),
            notice: full.then_some(Notice::Join),
            silent: full.then_some(true),
            ids: full.then_some(&[7]),
            added: full.then_some(&[7]),
            removed: full.then_some(&[7]),
            unread_total: full.then_some(7),
            up_to: full.then_some(7),
            component: full.then_some("x"),
            action: full.then_some("x"),
        }),
        ServerFrame::ThreadRead { thread_id: id, user_id: id, up_to: 7 },
        ServerFrame::ContentDeleted { thread_id: id, ids: &[7] },
        ServerFrame::Error(ErrorFrame::new(&fault, &reply)),
    ];
    let mut encoder = Encoder::default();
    let encoded = frames.iter().map(|frame| {
        let Value::Object(object) = json(&encoder.encode(frame)) else { panic!("{frame:?}") };
        assert_eq!(kind_of(&object), word(frame));
        (kind_of(&object), object)
    });
    encoded.collect()
}

/// The match has no wildcard, so that a new frame does not compile until it is added here; add it
/// to the list above as well.
fn word(frame: &ServerFrame<'_>) -> &'static str {
    match frame {
        ServerFrame::UserConnected { .. } => "user_connected",
        ServerFrame::UserDisconnected { .. } => "user_disconnected",
        ServerFrame::ThreadJoined { .. } => "thread_joined",
        ServerFrame::ThreadLeft { .. } => "thread_left",
        ServerFrame::Message(_) => "message",
        ServerFrame::Typing { .. } => "typing",
        ServerFrame::OnlineUsers { .. } => "online_users",
        ServerFrame::Pong { .. } => "pong",
        ServerFrame::IceServers { .. } => "ice_servers",
        ServerFrame::CallEnded { .. } => "call_ended",
        ServerFrame::CallResumed { .. } => "call_resumed",
        ServerFrame::CallJoined { .. } => "call_joined",
        ServerFrame::CallLeft { .. } => "call_left",
        ServerFrame::InboxJoined { .. } => "inbox_joined",
        ServerFrame::InboxLeft { .. } => "inbox_left",
        ServerFrame::Inbox(_) => "inbox",
        ServerFrame::ThreadRead { .. } => "thread_read",
        ServerFrame::ContentDeleted { .. } => "content_deleted",
        ServerFrame::Error(_) => "error",
    }
}

// ---- errors

#[test]
fn each_error_code_is_documented_once_with_example() {
    let document = protocol();
    let rows: Vec<&Row> = error_rows(&document).collect();
    let listed: Vec<&str> = rows.iter().map(|row| row.name()).collect();
    assert_eq!(listed, ErrorCode::ALL.map(code_word));
    for row in rows {
        assert_eq!(row.cells.len(), 4, "line {}", row.line);
        assert!(row.cells.iter().all(|cell| !cell.is_empty()), "line {}", row.line);
    }
}

#[test]
fn error_examples_match_the_servers_errors() {
    let document = protocol();
    let sent = errors_sent();
    for row in error_rows(&document) {
        let example = (row.name().to_owned(), row.cells[3].clone());
        assert!(sent.contains(&example), "line {}: {example:?}", row.line);
    }
    for block in sent_by(&document, SERVER).map(object).filter(|o| kind_of(o) == "error") {
        let text = |field: &str| block[field].as_str().expect("a string").to_owned();
        assert!(sent.contains(&(text("code"), text("message"))), "{block:?}");
    }
}

/// Code and text of at least one error of each kind.
fn errors_sent() -> BTreeSet<(String, String)> {
    let max: usize = default_of("--max-joins").parse().expect("a number");
    let mut harness =
        HubHarness::new(Settings { joins_per_connection: max, threads: max + 1, ..settings() });
    let anonymous = harness.open(0);
    let alice = harness.open_as(1, "2");
    harness.send(anonymous, r#"{"type":"offer","offer":"o","recipientId":2}"#);
    for thread in 0..=max {
        harness.send(alice, &format!(r#"{{"type":"join_thread","threadId":"t{thread}"}}"#));
    }
    for text in [
        r#"{"type":"ping""#,
        "{}",
        r#"{"type":"join"}"#,
        r#"{"type":"join_thread"}"#,
        r#"{"type":"send_message","threadId":1,"message":""}"#,
        r#"{"type":"call_initiated","senderId":4,"recipientId":3}"#,
        r#"{"type":"call_initiated","senderId":2,"recipientId":3}"#,
    ] {
        harness.send(alice, text);
    }
    harness.handle(Input::Binary { conn: alice });
    harness.handle(Input::RateLimited { conn: alice, text: None });
    let mut received = harness.received();
    received.extend(errors_of_authentication());
    received.extend(errors_of_calls());
    let received = received.into_iter().map(|(_, frame)| frame);
    let received = received.filter(|frame| frame["type"] == "error").map(|frame| {
        let text = |field: &str| frame[field].as_str().expect("a string").to_owned();
        (text("code"), text("message"))
    });
    let failures = [
        Failure::TokenMissing,
        Failure::TicketOnly,
        Failure::TokenRefused,
        Failure::TokenInvalid(TokenFault::Layout),
        Failure::TokenInvalid(TokenFault::Claims),
        Failure::TokenInvalid(TokenFault::Algorithm),
        Failure::TokenInvalid(TokenFault::Signature),
        Failure::TokenInvalid(TokenFault::Issuer),
        Failure::TokenInvalid(TokenFault::NotYetValid),
        Failure::TokenInvalid(TokenFault::NoExpiry),
        Failure::TokenExpired,
        Failure::Suspended,
        Failure::NotParticipant,
        Failure::ThreadTooLarge,
        Failure::CannotWrite,
        Failure::RefusedBySite,
        Failure::TooLarge,
        Failure::SiteBusy { retry_after_s: Some(30) },
        Failure::SiteUnavailable { retry_after_s: Some(8) },
        Failure::SiteMisconfigured,
        Failure::Overloaded,
        Failure::NotStored,
        Failure::Unknown,
        Failure::Unusable,
    ];
    let contexts = [FailureContext::Message, FailureContext::Token, FailureContext::Thread];
    let failed =
        failures.iter().flat_map(|failure| contexts.map(|context| failure.client_error(context)));
    received.chain(failed.map(|fault| (code_word(fault.code), fault.text.into_owned()))).collect()
}

/// The frames of a run with verified trust, which cover the errors of authentication.
fn errors_of_authentication() -> Vec<(ConnId, Value)> {
    let mut harness = HubHarness::new(verified());
    let anonymous = harness.open(0);
    harness.send(anonymous, r#"{"type":"join_thread","threadId":41}"#);
    let mut received = harness.received();
    let conn = harness.open_with(1, "token");
    let (request, _) = harness.next_proof();
    let expires_s = harness.now.unix_s + 1;
    harness.prove(request, 7, Some(expires_s));
    harness.send(conn, r#"{"type":"user_connected","userId":8}"#);
    harness.send(conn, r#"{"type":"join_thread","threadId":41}"#);
    let (request, ..) = harness.next_list();
    harness.list(request, &[7]);
    harness.send(conn, r#"{"type":"call_initiated","recipientId":8,"threadId":41}"#);
    harness.send(conn, r#"{"type":"call_initiated","recipientId":8}"#);
    harness.advance(Duration::from_secs(1));
    received.extend(harness.received());
    received
}

/// The frames of a run with calls, which cover the errors of calls.
fn errors_of_calls() -> Vec<(ConnId, Value)> {
    let mut harness = HubHarness::new(settings());
    let conns: Vec<ConnId> =
        (1..=9).map(|user| harness.open_in(user, &user.to_string(), "12")).collect();
    let (ninth, rest) = conns.split_last().expect("nine");
    harness.send(*ninth, r#"{"type":"leave_thread","threadId":12}"#);
    harness.send(rest[0], r#"{"type":"call_initiated","threadId":12,"callId":"g"}"#);
    harness.send(rest[0], r#"{"type":"call_hangup","callId":"none"}"#);
    for conn in &conns[1..] {
        harness.send(*conn, r#"{"type":"call_joined","threadId":12,"callId":"g"}"#);
    }
    for _ in 0..=settings().calls.attempts {
        harness.send(*ninth, r#"{"type":"call_initiated","recipientId":77}"#);
    }
    harness.received()
}

fn error_rows(document: &Document) -> impl Iterator<Item = &Row> {
    document.table("Code").filter(|row| row.heading == "Error codes")
}

fn code_word(code: ErrorCode) -> String {
    let word = serde_json::to_value(code).expect("a code is JSON");
    word.as_str().expect("a code is a word").to_owned()
}

// ---- close codes

/// The files that choose a close code; [`PASS_ON`] only pass it on.
const CLOSERS: [&str; 6] = [
    "src/hub/session.rs",
    "src/server.rs",
    "src/server/drain.rs",
    "src/server/input.rs",
    "src/server/timeouts.rs",
    "src/wire.rs",
];

/// Files that close a connection with a code from elsewhere.
const PASS_ON: [&str; 2] = ["src/hub/output.rs", "src/server/connections.rs"];

#[test]
fn close_code_table_matches_the_codes_sent() {
    let document = protocol();
    let rows = document.table("Code").filter(|row| row.heading == "Close codes");
    let sent = rows.filter(|row| !row.cells[1].starts_with("never sent by this server"));
    let listed: Vec<u16> = sent.map(|row| row.cells[0].parse().expect("a code")).collect();
    let mut sources = vec![root().join("src")];
    let mut sends = BTreeSet::new();
    while let Some(path) = sources.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(path).expect("a folder");
            sources.extend(entries.map(|entry| entry.expect("an entry").path()));
            continue;
        }
        let name =
            path.strip_prefix(root()).expect("a path below the root").to_str().expect("UTF-8");
        let text = fs::read_to_string(&path).expect("a source");
        if CLOSERS.contains(&name) {
            sends.extend(close_codes(&text));
        } else {
            let closes = text.contains("Effect::Close") || text.contains("wire.close(");
            assert!(!closes || PASS_ON.contains(&name), "{name} closes connections");
        }
    }
    assert_eq!(listed, Vec::from_iter(sends));
}

/// The numbers in a source, without comments, that are in the ranges of close codes.
fn close_codes(text: &str) -> impl Iterator<Item = u16> {
    let code = text.lines().filter_map(|line| line.split("//").next());
    let numbers = code.flat_map(words).filter_map(|word| word.parse().ok());
    numbers.filter(|number| matches!(number, 1000..=1015 | 3000..=4999))
}

// ---- settings

#[test]
fn settings_page_lists_exactly_the_settings_with_defaults() {
    let page = Document::read("docs/SETTINGS.md");
    let mut listed: Vec<[String; 3]> = settings_rows(&page)
        .map(|row| [0, 1, 2].map(|column| row.cells[column].replace('`', "")))
        .collect();
    let mut expected: Vec<[String; 3]> = Setting::all()
        .into_iter()
        .map(|Setting { flag, variable, default }| [flag, variable, default.unwrap_or_default()])
        .collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
}

#[test]
fn settings_page_lists_the_values_that_are_accepted() {
    let page = Document::read("docs/SETTINGS.md");
    let command = Config::command();
    for row in settings_rows(&page) {
        let flag = row.name();
        let argument = command.get_arguments().find(|a| a.get_long() == flag.strip_prefix("--"));
        let argument = argument.unwrap_or_else(|| panic!("{flag} is no setting"));
        let named: Vec<&str> = row.cells[3].split('`').skip(1).step_by(2).collect();
        // A switch takes no value.
        let is_switch = !argument.get_action().takes_values();
        for value in argument.get_possible_values().iter().filter(|_| !is_switch) {
            assert!(named.contains(&value.get_name()), "line {}: {value:?}", row.line);
        }
        // A number beyond all ranges, so that the error names the range.
        let arguments = ["buddyline".to_owned(), format!("{flag}=9000000000000000")];
        let range = &row.cells[3];
        let error = command.clone().try_get_matches_from(arguments).err();
        let error = error.map(|error| error.to_string().replace("..=", " to ")).unwrap_or_default();
        let has_range = range.starts_with(|c: char| c.is_ascii_digit());
        assert_eq!(has_range, error.contains(" to "), "line {}: {error}", row.line);
        assert!(!has_range || error.contains(range), "line {}: {error}", row.line);
        let help = argument.get_help().expect("a setting has a help text").to_string();
        assert!(!has_range || help.contains(range), "line {}: {help}", row.line);
    }
}

/// The rows of the tables of settings.
fn settings_rows(page: &Document) -> impl Iterator<Item = &Row> {
    page.rows.iter().filter(|row| row.header[1] == "Environment")
}

#[test]
fn documented_limits_match_settings_and_defaults() {
    let document = protocol();
    let rows: Vec<&Row> = document.table("Limit").collect();
    assert!(!rows.is_empty());
    for row in rows {
        let flag = row.cells[2].trim_matches('`');
        let default = default_of(flag);
        assert_eq!(row.cells[1], default, "line {}: {flag}", row.line);
    }
}

#[test]
fn documents_name_only_existing_settings() {
    let settings = Setting::all();
    let known = |word: &str| {
        // Variables without a flag: secrets are not accepted as arguments.
        [secrets::JWT, secrets::TURN].iter().any(|secret| secret.variable == word)
            || settings.iter().any(|s| s.flag == word || s.variable == word)
    };
    // The README also names flags of other tools; `docs/PROTOCOL.md` does not.
    for word in words(&protocol().text).filter(|word| word.starts_with("--") && word.len() > 3) {
        assert!(known(word) || word.trim_matches('-').is_empty(), "docs/PROTOCOL.md: {word}");
    }
    for document in all_documents() {
        let rows = document.rows.iter().flat_map(Row::words);
        for word in rows.filter(|word| word.starts_with("BUDDYLINE_")) {
            assert!(known(word), "{}: {word}", document.path.display());
        }
    }
}

struct Setting {
    flag: String,
    variable: String,
    default: Option<String>,
}

impl Setting {
    fn all() -> Vec<Setting> {
        let command = Config::command();
        let settings = command.get_arguments().map(|argument| {
            let flag = format!("--{}", argument.get_long().expect("a setting has a flag"));
            let variable = argument.get_env().unwrap_or_else(|| panic!("{flag}: no variable"));
            let variable = variable.to_str().expect("ASCII").to_owned();
            let default = argument.get_default_values().first();
            let default = default.map(|value| value.to_str().expect("ASCII").to_owned());
            Setting { flag, variable, default }
        });
        let settings: Vec<_> = settings.collect();
        assert!(!settings.is_empty());
        settings
    }
}

fn default_of(flag: &str) -> String {
    let setting = Setting::all().into_iter().find(|setting| setting.flag == flag);
    let setting = setting.unwrap_or_else(|| panic!("{flag} is no setting"));
    setting.default.unwrap_or_else(|| panic!("{flag} has no default"))
}

// ---- links

#[test]
fn links_between_documents_resolve() {
    let mut followed = 0;
    for document in all_documents() {
        for link in &document.links {
            if link.target.contains("://") || link.target.starts_with("mailto:") {
                continue;
            }
            let place = format!("{}, line {}: {}", document.path.display(), link.line, link.target);
            let (file, anchor) = link.target.split_once('#').unwrap_or((&link.target, ""));
            let path = match file {
                "" => document.path.clone(),
                _ => document.path.parent().expect("a file is in a folder").join(file),
            };
            assert!(path.exists(), "{place}");
            if !anchor.is_empty() && path.extension().is_some_and(|end| end == "md") {
                let path = path.to_str().expect("UTF-8");
                assert!(Document::read(path).anchors.contains(anchor), "{place}");
            }
            followed += 1;
        }
    }
    assert!(followed > 0);
}

// ---- threats

#[test]
fn each_threat_names_existing_tests() {
    assert_cites_tests("docs/SECURITY.md", "Threat", 3);
}

#[test]
fn each_fault_names_existing_tests() {
    assert_cites_tests("docs/OPERATIONS.md", "Fault", 4);
}

/// Checks that each row of a table has this many cells, and that the last one names pairs of a file
/// and a test in it.
fn assert_cites_tests(document: &str, header: &str, cells: usize) {
    let document = Document::read(document);
    let rows: Vec<&Row> = document.table(header).collect();
    assert!(rows.len() > 20, "{}", rows.len());
    let mut missing = Vec::new();
    for row in rows {
        assert_eq!(row.cells.len(), cells, "line {}", row.line);
        let named: Vec<&str> = row.cells[cells - 1].split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty() && named.len() % 2 == 0, "line {}: {named:?}", row.line);
        for pair in named.chunks(2) {
            let text = fs::read_to_string(root().join(pair[0])).unwrap_or_default();
            let is_there = match pair[0].ends_with(".rs") {
                true => has_test(&text, pair[1]),
                false => has_check(&text, pair[1]),
            };
            if !is_there {
                missing.push(format!("line {}: {} {}", row.line, pair[0], pair[1]));
            }
        }
    }
    assert!(missing.is_empty(), "tests that do not exist:\n{}", missing.join("\n"));
}

/// Whether a script of `tests/wordpress/` has a test of this name.
fn has_check(text: &str, name: &str) -> bool {
    text.contains(&format!("test(\n\t'{name}',"))
        || text.contains(&format!("    def {name}(self):")) && text.contains(&format!("\"{name}\""))
}

/// Whether a source has a test of this name; a plain function does not count.
fn has_test(text: &str, name: &str) -> bool {
    let lines = text.lines().rev().skip_while(|line| {
        let line = line.trim_start().strip_prefix("fn ");
        line.and_then(|rest| rest.strip_prefix(name)).is_none_or(|rest| !rest.starts_with('('))
    });
    let mut above = lines.skip(1).skip_while(|line| line.trim().starts_with("#[ignore"));
    above.next().is_some_and(|line| line.trim() == "#[test]")
}

// ---- reading

fn protocol() -> Document {
    Document::read("docs/PROTOCOL.md")
}

/// README.md and all of `docs/`.
fn all_documents() -> Vec<Document> {
    let files = fs::read_dir(root().join("docs")).expect("a folder docs");
    let paths = files.map(|file| file.expect("an entry of docs").path());
    let paths = paths.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let docs = paths.map(|path| Document::read(path.to_str().expect("UTF-8")));
    docs.chain([Document::read("README.md")]).collect()
}

fn sent_by<'a>(document: &'a Document, sender: &'a str) -> impl Iterator<Item = &'a Block> {
    document.blocks.iter().filter(move |block| block.language == "json" && block.above == sender)
}

fn object(block: &Block) -> Object {
    serde_json::from_str(&block.text).unwrap_or_else(|e| panic!("line {}: {e}", block.line))
}

fn kind_of(object: &Object) -> String {
    object["type"].as_str().expect("type is a string").to_owned()
}

/// The fields in the table of a section, from the rows that `wanted` accepts.
fn fields_of(
    document: &Document,
    heading: &str,
    wanted: impl Fn(&Row) -> bool,
) -> BTreeSet<String> {
    let rows = document.table("Field").filter(|row| row.heading == heading && wanted(row));
    rows.map(|row| row.name().to_owned()).collect()
}

//! Parses the frames of clients: one text becomes one [`ClientFrame`], or an error.
//!
//! One pass over the text; only values that are kept are copied. `null` counts as absent.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::IgnoredAny;

use super::call::{CallFrame, CallKind};
use super::fields::{Fields, Raw};
use super::whole_number::parse_whole_number;
use super::{ClientError, ErrorCode, ID_BYTES_MAX, Id, IdKey};

/// The `type` of a client's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameType {
    /// Claims a user for the connection.
    UserConnected,
    /// Subscribes to a thread.
    JoinThread,
    /// Unsubscribes from a thread.
    LeaveThread,
    /// Stores a message and delivers it to the thread.
    SendMessage,
    /// Tells the thread that the user types, or has stopped.
    Typing,
    /// Starts a call: rings the callee, or all participants of a thread.
    CallInitiated,
    /// A WebRTC offer for the other party.
    Offer,
    /// A WebRTC answer for the other party.
    Answer,
    /// An ICE candidate for the other party.
    #[serde(rename = "ice-candidate")]
    IceCandidate,
    /// A device of the callee rings.
    CallRinging,
    /// The callee declines the call.
    CallRejected,
    /// The caller cancels the call.
    CallCancelled,
    /// Ends a call.
    CallHangup,
    /// The callee is in another call.
    CallBusy,
    /// Replaces a device that has lost its connection.
    CallResume,
    /// Joins a group call.
    CallJoined,
    /// Leaves a group call.
    CallLeft,
    /// Requests the list of online users.
    OnlineUsers,
    /// Checks that the server responds.
    Ping,
    /// Requests STUN and TURN servers.
    IceServers,
    /// Subscribes to everything that concerns the user.
    JoinInbox,
    /// Ends that subscription.
    LeaveInbox,
}

impl FrameType {
    /// Every type with its name in the protocol.
    pub const ALL: [(FrameType, &'static str); 22] = [
        (FrameType::UserConnected, "user_connected"),
        (FrameType::JoinThread, "join_thread"),
        (FrameType::LeaveThread, "leave_thread"),
        (FrameType::SendMessage, "send_message"),
        (FrameType::Typing, "typing"),
        (FrameType::CallInitiated, "call_initiated"),
        (FrameType::Offer, "offer"),
        (FrameType::Answer, "answer"),
        (FrameType::IceCandidate, "ice-candidate"),
        (FrameType::CallRinging, "call_ringing"),
        (FrameType::CallRejected, "call_rejected"),
        (FrameType::CallCancelled, "call_cancelled"),
        (FrameType::CallHangup, "call_hangup"),
        (FrameType::CallBusy, "call_busy"),
        (FrameType::CallResume, "call_resume"),
        (FrameType::CallJoined, "call_joined"),
        (FrameType::CallLeft, "call_left"),
        (FrameType::OnlineUsers, "online_users"),
        (FrameType::Ping, "ping"),
        (FrameType::IceServers, "ice_servers"),
        (FrameType::JoinInbox, "join_inbox"),
        (FrameType::LeaveInbox, "leave_inbox"),
    ];

    fn from_name(word: &str) -> Option<FrameType> {
        Self::ALL.iter().find(|(_, w)| *w == word).map(|(kind, _)| *kind)
    }
}

/// A parsed frame of a client.
#[derive(Debug)]
pub enum ClientFrame<'a> {
    /// Claims a user for the connection.
    UserConnected {
        /// The claimed user.
        user: Id,
        /// The credential that proves it.
        token: Option<Cow<'a, str>>,
    },
    /// Subscribes to a thread.
    JoinThread {
        /// The thread.
        thread: Id,
    },
    /// Unsubscribes from a thread.
    LeaveThread {
        /// The thread.
        thread: Id,
    },
    /// Stores a message and delivers it to the thread.
    SendMessage(SendMessage<'a>),
    /// Tells the thread that the user types, or has stopped.
    Typing {
        /// The thread.
        thread: Id,
        /// True while the user types, false when they have stopped.
        typing: bool,
    },
    /// A call frame.
    Call(CallFrame),
    /// Requests the list of online users.
    OnlineUsers {
        /// Limits the list to the subscribers of this thread.
        thread: Option<Id>,
    },
    /// Checks that the server responds.
    Ping,
    /// Requests STUN and TURN servers.
    IceServers,
    /// Subscribes to everything that concerns the user.
    JoinInbox {
        /// How much of a message the connection receives.
        content: InboxContent,
    },
    /// Ends that subscription.
    LeaveInbox,
}

/// How much of a message an inbox receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InboxContent {
    /// The whole `message` frame.
    Full,
    /// The ids: the client fetches what it shows from the site.
    Ids,
}

/// A `send_message` frame.
#[derive(Debug)]
pub struct SendMessage<'a> {
    /// The recipient; used only without a thread (`PROTOCOL.md` 2.12).
    pub recipient: Option<Id>,
    /// The thread; `None` starts a new one (`PROTOCOL.md` 2.5).
    pub thread: Option<Id>,
    /// The text, exactly as written; not empty.
    pub text: Cow<'a, str>,
    /// The credential; sent to the site only.
    pub token: Option<Cow<'a, str>>,
}

/// The frame that a reply or an error refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyTo {
    /// The type of that frame.
    pub kind: Option<FrameType>,
    /// The thread in that frame.
    pub thread: Option<Id>,
    /// The call in that frame, or the call that it concerns.
    pub call: Option<Id>,
    /// The `clientId` of that frame.
    pub client_id: Option<Id>,
}

/// Parses one text frame. The [`ReplyTo`] is filled as far as the frame could be parsed.
pub fn parse(text: &str) -> (ReplyTo, Result<ClientFrame<'_>, ClientError>) {
    let mut reply = ReplyTo::default();
    let frame = parse_into(text, &mut reply);
    (reply, frame)
}

fn parse_into<'a>(text: &'a str, reply: &mut ReplyTo) -> Result<ClientFrame<'a>, ClientError> {
    // serde would also read the fields from an array, which the protocol does not allow.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => error(ErrorCode::InvalidFrame, "Expected a JSON object with a type."),
            Err(fault) => invalid_json(&fault),
        });
    }
    let fields = Fields::read(text).map_err(|fault| match fault.is_data() {
        true => error(ErrorCode::InvalidFrame, format!("Each field may occur only once: {fault}.")),
        false => invalid_json(&fault),
    })?;

    let word = match fields.kind {
        Some(raw) => string_value(raw, "type")?,
        None => return Err(error(ErrorCode::InvalidFrame, "The object has no type.")),
    };
    let kind = FrameType::from_name(&word);
    reply.kind = kind;
    reply.client_id = optional_id(fields.client_id, "clientId")?;
    let Some(kind) = kind else {
        return Err(unknown_type(&word));
    };
    if kind == FrameType::SendMessage && is_no_thread(fields.thread_id) {
        return parse_send_message(&fields, None);
    }
    reply.thread = optional_id(fields.thread_id, "threadId")?;
    let thread = reply.thread.clone();

    Ok(match kind {
        FrameType::UserConnected => {
            let user = id(fields.user_id, "userId")?;
            ClientFrame::UserConnected { user, token: optional_text(fields.token, "token")? }
        }
        FrameType::JoinThread => ClientFrame::JoinThread { thread: require(thread, "threadId")? },
        FrameType::LeaveThread => ClientFrame::LeaveThread { thread: require(thread, "threadId")? },
        FrameType::SendMessage => return parse_send_message(&fields, thread),
        FrameType::Typing => ClientFrame::Typing {
            thread: require(thread, "threadId")?,
            typing: match fields.typing.map(|raw| (raw, raw.get())) {
                None | Some((_, "true")) => true,
                Some((_, "false")) => false,
                Some((raw, _)) => return Err(wrong_type("typing", "true or false", raw)),
            },
        },
        FrameType::CallInitiated => parse_call(&fields, CallKind::Initiated, reply)?,
        FrameType::Offer => {
            check_payload(fields.offer, "offer")?;
            parse_call(&fields, CallKind::Offer, reply)?
        }
        FrameType::Answer => {
            check_payload(fields.answer, "answer")?;
            parse_call(&fields, CallKind::Answer, reply)?
        }
        FrameType::IceCandidate => {
            if fields.candidate.is_none_or(|raw| raw.get() != "null") {
                check_payload(fields.candidate, "candidate")?;
            }
            parse_call(&fields, CallKind::Candidate, reply)?
        }
        FrameType::CallRinging => parse_call(&fields, CallKind::Ringing, reply)?,
        FrameType::CallRejected => parse_call(&fields, CallKind::Rejected, reply)?,
        FrameType::CallCancelled => parse_call(&fields, CallKind::Cancelled, reply)?,
        FrameType::CallHangup => {
            let reason = optional_text(fields.reason, "reason")?;
            parse_call(
                &fields,
                CallKind::Hangup { failed: reason.as_deref() == Some("failed") },
                reply,
            )?
        }
        FrameType::CallBusy => parse_call(&fields, CallKind::Busy, reply)?,
        FrameType::CallResume => parse_call(&fields, CallKind::Resume, reply)?,
        FrameType::CallJoined => parse_call(&fields, CallKind::Joined, reply)?,
        FrameType::CallLeft => parse_call(&fields, CallKind::Left, reply)?,
        FrameType::OnlineUsers => ClientFrame::OnlineUsers { thread },
        FrameType::Ping => ClientFrame::Ping,
        FrameType::IceServers => ClientFrame::IceServers,
        FrameType::JoinInbox => ClientFrame::JoinInbox {
            content: match optional_text(fields.content, "content")?.as_deref() {
                None | Some("full") => InboxContent::Full,
                Some("ids") => InboxContent::Ids,
                Some(_) => {
                    let text = r#"content must be "full" or "ids"."#;
                    return Err(error(ErrorCode::InvalidField, text));
                }
            },
        },
        FrameType::LeaveInbox => ClientFrame::LeaveInbox,
    })
}

fn parse_send_message<'a>(
    fields: &Fields<'a>,
    thread: Option<Id>,
) -> Result<ClientFrame<'a>, ClientError> {
    let recipient = match fields.recipient_id {
        // With a thread it is only echoed. A form without a selected recipient sends "".
        Some(raw) if thread.is_some() && raw.get() == "\"\"" => None,
        raw => optional_id(raw, "recipientId")?,
    };
    let text = match fields.message {
        Some(raw) => string_value(raw, "message")?,
        None => return Err(missing_field("message")),
    };
    if text.is_empty() {
        return Err(error(ErrorCode::InvalidField, "message must not be empty."));
    }
    let token = optional_text(fields.token, "token")?;
    if thread.is_none() && recipient.is_none() {
        return Err(error(
            ErrorCode::MissingField,
            "threadId or recipientId is missing: name the thread, or the user to start one with.",
        ));
    }
    Ok(ClientFrame::SendMessage(SendMessage { recipient, thread, text, token }))
}

/// Whether `threadId` is absent, null, empty or 0 (`PROTOCOL.md` 2.5).
fn is_no_thread(raw: Option<Raw<'_>>) -> bool {
    raw.is_none_or(|raw| match raw.is_number() {
        true => parse_whole_number(raw.get()) == Ok(IdKey::Number(0)),
        false => matches!(raw.get(), "\"\"" | "\"0\""),
    })
}

fn parse_call<'a>(
    fields: &Fields<'a>,
    kind: CallKind,
    reply: &mut ReplyTo,
) -> Result<ClientFrame<'a>, ClientError> {
    reply.call = optional_id(fields.call_id, "callId")?;
    let call = CallFrame {
        kind,
        call: reply.call.clone(),
        sender: optional_id(fields.sender_id, "senderId")?,
        recipient: optional_id(fields.recipient_id, "recipientId")?,
    };
    call.validate(reply.thread.is_some())?;
    Ok(ClientFrame::Call(call))
}

fn check_payload(raw: Option<Raw<'_>>, field: &'static str) -> Result<(), ClientError> {
    match raw {
        Some(raw) if raw.get().starts_with(['"', '{']) => Ok(()),
        Some(raw) => Err(wrong_type(field, "a string or an object", raw)),
        None => Err(missing_field(field)),
    }
}

fn require(id: Option<Id>, field: &'static str) -> Result<Id, ClientError> {
    id.ok_or_else(|| missing_field(field))
}

fn id(raw: Option<Raw<'_>>, field: &'static str) -> Result<Id, ClientError> {
    require(optional_id(raw, field)?, field)
}

const ID_EXPECTED: &str = "a string or a whole number of at most 64 bits";

/// Parses an id (`PROTOCOL.md` 2.1): a string of 1 to 64 bytes, or an integer, also if its author
/// wrote it as a double (`7.0`).
///
/// # Errors
///
/// The value is neither.
pub(super) fn optional_id(
    raw: Option<Raw<'_>>,
    field: &'static str,
) -> Result<Option<Id>, ClientError> {
    let Some(raw) = raw else {
        return Ok(None);
    };
    if let Some(quoted) = raw.get().strip_prefix('"') {
        // Fast path: most ids are numbers, and a number has no escapes.
        if let Some(n) = quoted.strip_suffix('"').and_then(IdKey::parse_canonical) {
            return Ok(Some(Id { key: IdKey::Number(n), quoted: true }));
        }
        let text = string_value(raw, field)?;
        return match text.len() {
            0 => Err(error(ErrorCode::InvalidField, format!("{field} must not be empty."))),
            1..=ID_BYTES_MAX => Ok(Some(Id::string(&text))),
            long => Err(error(
                ErrorCode::InvalidField,
                format!("{field} may have at most {ID_BYTES_MAX} bytes; this one has {long}."),
            )),
        };
    }
    if !raw.is_number() {
        return Err(wrong_type(field, ID_EXPECTED, raw));
    }
    match parse_whole_number(raw.get()) {
        Ok(key) => Ok(Some(Id { key, quoted: false })),
        Err(fault) => {
            let text = format!("{field} must be {ID_EXPECTED}, not {fault}.");
            Err(error(ErrorCode::InvalidField, text))
        }
    }
}

/// The text of an optional field; an empty string counts as absent.
fn optional_text<'a>(
    raw: Option<Raw<'a>>,
    field: &'static str,
) -> Result<Option<Cow<'a, str>>, ClientError> {
    let text = raw.map(|raw| string_value(raw, field)).transpose()?;
    Ok(text.filter(|text| !text.is_empty()))
}

/// The text of a JSON string, borrowed if it has no escapes.
fn string_value<'a>(raw: Raw<'a>, field: &'static str) -> Result<Cow<'a, str>, ClientError> {
    let Some(inner) = raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Err(wrong_type(field, "a string", raw));
    };
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    serde_json::from_str(raw.get()).map(Cow::Owned).map_err(|_| {
        // The raw value is valid JSON, so only a lone surrogate can fail here.
        error(ErrorCode::InvalidField, format!("{field} contains half of a surrogate pair."))
    })
}

fn error(code: ErrorCode, text: impl Into<Cow<'static, str>>) -> ClientError {
    ClientError::new(code, text)
}

/// The error for a missing required field.
pub fn missing_field(field: &'static str) -> ClientError {
    error(ErrorCode::MissingField, format!("{field} is missing."))
}

fn wrong_type(field: &'static str, expected: &str, got: Raw<'_>) -> ClientError {
    let got = match got.get().as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    };
    error(ErrorCode::InvalidField, format!("{field} must be {expected}, not {got}."))
}

fn invalid_json(fault: &serde_json::Error) -> ClientError {
    error(ErrorCode::InvalidJson, format!("Not valid JSON: {fault}."))
}

fn unknown_type(word: &str) -> ClientError {
    let excerpt: String = word.chars().take(40).collect();
    let known: Vec<&str> = FrameType::ALL.iter().map(|(_, word)| *word).collect();
    error(
        ErrorCode::UnknownType,
        format!("The type {excerpt:?} is not known; expected one of {}.", known.join(", ")),
    )
}

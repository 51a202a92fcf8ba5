//! What a client may send: one text becomes one [`ClientFrame`], or the reason why it is none.
//!
//! One pass over the text, nothing copied but what is kept. `null` counts as absent.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::IgnoredAny;

use super::call::{CallFrame, CallKind};
use super::fields::{Fields, Raw};
use super::{ClientError, ErrorCode, ID_BYTES_MAX, Id, IdKey};

/// The `type` of a client's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameType {
    /// Says whose connection this is.
    UserConnected,
    /// Starts hearing a thread.
    JoinThread,
    /// Stops hearing a thread.
    LeaveThread,
    /// Stores a message and shows it to the thread.
    SendMessage,
    /// Shows the thread that the user types, or has stopped.
    Typing,
    /// Rings the other party.
    CallInitiated,
    /// A WebRTC offer for the other party.
    Offer,
    /// A WebRTC answer for the other party.
    Answer,
    /// An ICE candidate for the other party.
    #[serde(rename = "ice-candidate")]
    IceCandidate,
    /// A device of the called user rings.
    CallRinging,
    /// The called user does not take the call.
    CallRejected,
    /// The caller gives up.
    CallCancelled,
    /// Ends a call.
    CallHangup,
    /// The called user is in another call.
    CallBusy,
    /// Takes the place of a device that has lost its connection.
    CallResume,
    /// Joins a group call.
    CallJoined,
    /// Leaves a group call.
    CallLeft,
    /// Asks who is online.
    OnlineUsers,
    /// Asks whether the server is there.
    Ping,
    /// Asks for STUN and TURN servers.
    IceServers,
}

impl FrameType {
    /// Every type, with its word on the wire.
    pub const ALL: [(FrameType, &'static str); 20] = [
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
    ];

    fn from_name(word: &str) -> Option<FrameType> {
        Self::ALL.iter().find(|(_, w)| *w == word).map(|(kind, _)| *kind)
    }
}

/// What a client wants.
#[derive(Debug)]
pub enum ClientFrame<'a> {
    /// Says whose connection this is.
    UserConnected {
        /// The user it claims to be.
        user: Id,
        /// What proves it.
        token: Option<Cow<'a, str>>,
    },
    /// Starts hearing a thread.
    JoinThread {
        /// Which.
        thread: Id,
    },
    /// Stops hearing a thread.
    LeaveThread {
        /// Which.
        thread: Id,
    },
    /// Stores a message and shows it to the thread.
    SendMessage(SendMessage<'a>),
    /// Shows the thread that the user types, or has stopped.
    Typing {
        /// Where.
        thread: Id,
        /// Started or goes on, or has stopped.
        typing: bool,
    },
    /// A call frame.
    Call(CallFrame),
    /// Asks who is online.
    OnlineUsers {
        /// Only those who hear this thread.
        thread: Option<Id>,
    },
    /// Asks whether the server is there.
    Ping,
    /// Asks for STUN and TURN servers.
    IceServers,
}

/// A `send_message` frame.
#[derive(Debug)]
pub struct SendMessage<'a> {
    /// Whom it is for; matters only without a thread (`PROTOCOL.md` 2.12).
    pub recipient: Option<Id>,
    /// The thread; `None` for a new one (`PROTOCOL.md` 2.5).
    pub thread: Option<Id>,
    /// The text, exactly as written; not empty.
    pub text: Cow<'a, str>,
    /// The credential; goes to the site and nowhere else.
    pub token: Option<Cow<'a, str>>,
}

/// What an answer or an error refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyTo {
    /// The type of the frame that is answered.
    pub kind: Option<FrameType>,
    /// The thread it named.
    pub thread: Option<Id>,
    /// The call it named, or the one that it is about.
    pub call: Option<Id>,
    /// The client's own name for it.
    pub client_id: Option<Id>,
}

/// Reads one text frame. The [`ReplyTo`] is filled as far as the frame could be understood.
pub fn parse(text: &str) -> (ReplyTo, Result<ClientFrame<'_>, ClientError>) {
    let mut reply = ReplyTo::default();
    let frame = parse_into(text, &mut reply);
    (reply, frame)
}

fn parse_into<'a>(text: &'a str, reply: &mut ReplyTo) -> Result<ClientFrame<'a>, ClientError> {
    // serde reads a struct from an array as well, which no client means.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => error(ErrorCode::InvalidFrame, "Expected a JSON object with a type."),
            Err(fault) => invalid_json(&fault),
        });
    }
    let fields = Fields::read(text).map_err(|fault| match fault.is_data() {
        true => error(ErrorCode::InvalidFrame, format!("Each field may stand once: {fault}.")),
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
    })
}

fn parse_send_message<'a>(
    fields: &Fields<'a>,
    thread: Option<Id>,
) -> Result<ClientFrame<'a>, ClientError> {
    let recipient = match fields.recipient_id {
        // With a thread it is only echoed; an empty one is what a form without a choice sends.
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
            "threadId or recipientId is missing: name the thread, or whom to start one with.",
        ));
    }
    Ok(ClientFrame::SendMessage(SendMessage { recipient, thread, text, token }))
}

/// Absent, null, empty or 0 (`PROTOCOL.md` 2.5).
fn is_no_thread(raw: Option<Raw<'_>>) -> bool {
    raw.is_none_or(|raw| matches!(raw.get(), "\"\"" | "0" | "\"0\""))
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

/// An id as `PROTOCOL.md` 2.1 allows it: a string of 1 to 64 bytes, or an integer.
pub(super) fn optional_id(
    raw: Option<Raw<'_>>,
    field: &'static str,
) -> Result<Option<Id>, ClientError> {
    let Some(raw) = raw else {
        return Ok(None);
    };
    if let Some(quoted) = raw.get().strip_prefix('"') {
        // Most ids are numbers, and a number has no escapes to look for.
        if let Some(n) = quoted.strip_suffix('"').and_then(IdKey::parse_canonical) {
            return Ok(Some(Id { key: IdKey::Number(n), quoted: true }));
        }
        let text = string_value(raw, field)?;
        return match text.len() {
            0 => Err(error(ErrorCode::InvalidField, format!("{field} must not be empty."))),
            1..=ID_BYTES_MAX => Ok(Some(Id::string(&text))),
            long => Err(error(
                ErrorCode::InvalidField,
                format!("{field} may have {ID_BYTES_MAX} bytes; this one has {long}."),
            )),
        };
    }
    let digits = raw.get();
    if let Ok(n) = digits.parse::<u64>() {
        Ok(Some(Id::number(n)))
    } else if let Ok(n) = digits.parse::<i64>() {
        let key = match u64::try_from(n) {
            Ok(zero) => IdKey::Number(zero),
            Err(_) => IdKey::Text(n.to_string().into()),
        };
        Ok(Some(Id { key, quoted: false }))
    } else {
        Err(wrong_type(field, "a string or a whole number of at most 64 bits", raw))
    }
}

/// The text of a field that may be absent; empty counts as absent.
fn optional_text<'a>(
    raw: Option<Raw<'a>>,
    field: &'static str,
) -> Result<Option<Cow<'a, str>>, ClientError> {
    let text = raw.map(|raw| string_value(raw, field)).transpose()?;
    Ok(text.filter(|text| !text.is_empty()))
}

/// The text of a JSON string, borrowed where it has no escapes.
fn string_value<'a>(raw: Raw<'a>, field: &'static str) -> Result<Cow<'a, str>, ClientError> {
    let Some(inner) = raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Err(wrong_type(field, "a string", raw));
    };
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    serde_json::from_str(raw.get()).map(Cow::Owned).map_err(|_| {
        // The raw value is JSON already: only this has no place in UTF-8.
        error(ErrorCode::InvalidField, format!("{field} has half of a surrogate pair in it."))
    })
}

fn error(code: ErrorCode, text: impl Into<Cow<'static, str>>) -> ClientError {
    ClientError::new(code, text)
}

/// The error that a field is absent which its type needs.
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
        _ if expected.contains("number") => "a number that is not valid here",
        _ => "a number",
    };
    error(ErrorCode::InvalidField, format!("{field} must be {expected}, not {got}."))
}

fn invalid_json(fault: &serde_json::Error) -> ClientError {
    error(ErrorCode::InvalidJson, format!("Not valid JSON: {fault}."))
}

fn unknown_type(word: &str) -> ClientError {
    let shown: String = word.chars().take(40).collect();
    let known: Vec<&str> = FrameType::ALL.iter().map(|(_, word)| *word).collect();
    error(
        ErrorCode::UnknownType,
        format!("The type {shown:?} is not known; expected one of {}.", known.join(", ")),
    )
}

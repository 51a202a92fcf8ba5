//! The frames of the server, and their encoder: each frame is encoded once, WebSocket header
//! included, and then shared by all its receivers.

use std::rc::Rc;

use serde::Serialize;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::client::{FrameType, InboxContent, ReplyTo};
use super::ice::IceServer;
use super::site_event::{Attachments, Notice};
use super::{ClientError, ErrorCode, Id};

/// The encoded bytes of a frame, header included, shared by its receivers.
///
/// `Rc` and not `Arc`: all of them stay on the thread of the event loop.
pub type EncodedFrame = Rc<[u8]>;

/// A frame of the server. Some clients search frames for a substring, so `message` occurs only in
/// `message` and `error` frames, and `typing` only in `typing` frames and in the `replyTo` of an
/// error (`PROTOCOL.md` 2.2).
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum ServerFrame<'a> {
    /// A user has come online.
    UserConnected {
        /// The user.
        user_id: &'a Id,
        /// Echoed to the connection that sent `user_connected`.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// A user has gone offline and did not return within the grace time.
    UserDisconnected {
        /// The user.
        user_id: &'a Id,
    },
    /// The connection is now subscribed to this thread.
    ThreadJoined {
        /// The thread.
        thread_id: &'a Id,
        /// The `clientId` of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// The connection is no longer subscribed to this thread.
    ThreadLeft {
        /// The thread.
        thread_id: &'a Id,
        /// Why, if the client did not ask for it.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<LeftReason>,
        /// The `clientId` of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// A stored message.
    Message(MessageFrame<'a>),
    /// A user types, or has stopped.
    Typing {
        /// The thread.
        thread_id: &'a Id,
        /// The user; null for an anonymous connection.
        user_id: Option<&'a Id>,
        /// True while the user types, false when they have stopped.
        typing: bool,
        /// Echoed to the connection that sent `typing`.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// The connection now receives everything that concerns its user.
    InboxJoined {
        /// How much of a message it receives.
        content: InboxContent,
        /// The `clientId` of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// The connection no longer does.
    InboxLeft {
        /// The `clientId` of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// Something that concerns the user has happened on the site.
    Inbox(InboxFrame<'a>),
    /// A participant has read the thread.
    ThreadRead {
        /// The thread.
        thread_id: &'a Id,
        /// The participant.
        user_id: &'a Id,
        /// The newest message that the participant has read.
        up_to: u64,
    },
    /// Messages were blanked by their author.
    ContentDeleted {
        /// The thread.
        thread_id: &'a Id,
        /// The messages.
        ids: &'a [u64],
    },
    /// The list of online users.
    OnlineUsers {
        /// The requested thread.
        #[serde(skip_serializing_if = "Option::is_none")]
        thread_id: Option<&'a Id>,
        /// Each user once, in no particular order.
        user_ids: &'a [&'a Id],
        /// The `clientId` of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// The reply to `ping`.
    Pong {
        /// The `clientId` of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// The call has ended for this device: it no longer rings, or is no longer in the call.
    CallEnded {
        /// The call.
        call_id: &'a Id,
        /// The thread of the call.
        #[serde(skip_serializing_if = "Option::is_none")]
        thread_id: Option<&'a Id>,
        /// The reason.
        reason: EndReason,
        /// The call that replaces it, after glare.
        #[serde(skip_serializing_if = "Option::is_none")]
        continues_as: Option<&'a Id>,
    },
    /// A device has replaced one that had lost its connection.
    CallResumed {
        /// The call.
        call_id: &'a Id,
        /// The user of the device.
        user_id: &'a Id,
        /// The state of the call.
        state: CallState,
        /// Echoed to the resuming device.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// A user has joined a group call.
    CallJoined {
        /// The call.
        call_id: &'a Id,
        /// The thread.
        #[serde(skip_serializing_if = "Option::is_none")]
        thread_id: Option<&'a Id>,
        /// The user.
        user_id: &'a Id,
        /// All participants of the call; only for the user who joined.
        #[serde(skip_serializing_if = "Option::is_none")]
        user_ids: Option<&'a [Id]>,
        /// Echoed to the connection that joined.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// A user has left a group call, or has declined it.
    CallLeft {
        /// The call.
        call_id: &'a Id,
        /// The thread.
        #[serde(skip_serializing_if = "Option::is_none")]
        thread_id: Option<&'a Id>,
        /// The user.
        user_id: &'a Id,
        /// The reason.
        reason: EndReason,
    },
    /// STUN and TURN servers, for the requesting connection only.
    IceServers {
        /// In the form that `new RTCPeerConnection({ iceServers })` accepts.
        ice_servers: &'a [IceServer<'a>],
        /// For how many seconds the TURN credential is valid.
        #[serde(skip_serializing_if = "Option::is_none")]
        ttl: Option<u64>,
        /// The `clientId` of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// An error, for the sender only.
    Error(ErrorFrame<'a>),
}

/// Why a call has ended, for one device or for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// A party ended the call.
    Hangup,
    /// The callee declined.
    Rejected,
    /// The caller cancelled.
    Cancelled,
    /// The callee is in another call.
    Busy,
    /// The ring timeout passed without an answer.
    NoAnswer,
    /// Another device of the same user answered.
    AnsweredElsewhere,
    /// A device lost its connection, and no device resumed the call in time.
    Disconnected,
    /// No media connection was established, or a party lost access to the thread.
    Failed,
    /// Both users called each other: the other call continues.
    Glare,
}

impl EndReason {
    /// Every reason with its name in the protocol, in the order of their discriminants.
    pub const ALL: [(EndReason, &'static str); 9] = [
        (EndReason::Hangup, "hangup"),
        (EndReason::Rejected, "rejected"),
        (EndReason::Cancelled, "cancelled"),
        (EndReason::Busy, "busy"),
        (EndReason::NoAnswer, "no_answer"),
        (EndReason::AnsweredElsewhere, "answered_elsewhere"),
        (EndReason::Disconnected, "disconnected"),
        (EndReason::Failed, "failed"),
        (EndReason::Glare, "glare"),
    ];
}

/// The state of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CallState {
    /// No device has answered yet.
    Ringing,
    /// The callee accepted with an offer of their own, which the caller has not answered.
    Connecting,
    /// Answered.
    Active,
    /// The call has ended.
    Ended,
}

/// Why a connection was unsubscribed from a thread that it did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftReason {
    /// Its user is no longer among the thread's participants.
    NotParticipant,
    /// The connection now belongs to another user.
    UserChanged,
    /// The thread was deleted.
    Deleted,
}

/// An event for the inboxes of a user. Only the fields of its event are present.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InboxFrame<'a> {
    /// The event.
    pub event: &'static str,
    /// The thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<u64>,
    /// The message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<u64>,
    /// The author of the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender_id: Option<u64>,
    /// When the message was stored: RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<&'a str>,
    /// Set for a notice that a user has joined or left a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<Notice>,
    /// Whether the message counts as read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent: Option<bool>,
    /// Messages that were blanked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<&'a [u64]>,
    /// Users who were added to the thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added: Option<&'a [u64]>,
    /// Users who were removed from the thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<&'a [u64]>,
    /// How many threads or notifications the user has not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread_total: Option<u64>,
    /// The newest message that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_to: Option<u64>,
    /// The component of a notification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<&'a str>,
    /// The action of a notification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<&'a str>,
}

/// A stored message as the thread's subscribers receive it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageFrame<'a> {
    /// The thread of the message.
    pub thread_id: &'a Id,
    /// The author, according to the site.
    pub sender_id: &'a Id,
    /// As the sender wrote it; null if absent.
    pub recipient_id: Option<&'a Id>,
    /// The text exactly as its sender wrote it.
    pub message: &'a str,
    /// The site's id of the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<u64>,
    /// When the site stored it: RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<&'a str>,
    /// The text as the site rendered it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html: Option<&'a str>,
    /// Counts of attached files, as the site reports them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Attachments>,
    /// Set for a notice that a user has joined or left a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notice: Option<Notice>,
    /// True if it comes by an inbox, and not because the connection joined the thread.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub inbox: bool,
    /// Echoed only to the connection that sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<&'a Id>,
}

/// An error and the frame it refers to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorFrame<'a> {
    message: &'a str,
    code: ErrorCode,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<FrameType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<&'a Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call_id: Option<&'a Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a Id>,
}

impl<'a> ErrorFrame<'a> {
    /// Creates the frame from an error and the frame it refers to.
    pub fn new(fault: &'a ClientError, reply: &'a ReplyTo) -> ErrorFrame<'a> {
        ErrorFrame {
            message: &fault.text,
            code: fault.code,
            reply_to: reply.kind,
            thread_id: reply.thread.as_ref(),
            call_id: reply.call.as_ref(),
            client_id: reply.client_id.as_ref(),
        }
    }
}

/// Encodes frames; reuses one buffer for all of them.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: Vec<u8>,
    /// Number of encoded error frames, in the order of [`ErrorCode::ALL`].
    errors: [u64; ErrorCode::ALL.len()],
}

/// Longest header of a server frame, which has no mask (RFC 6455 section 5.2).
const HEADER_BYTES_MAX: usize = 10;

/// A buffer that a huge frame has grown beyond this is freed.
const BUFFER_BYTES_KEPT: usize = 64 * 1024;

impl Encoder {
    /// Encodes one text frame with its header.
    pub fn encode(&mut self, frame: &ServerFrame<'_>) -> EncodedFrame {
        if let ServerFrame::Error(error) = frame {
            self.errors[error.code as usize] += 1;
        }
        self.encode_with(|buffer| write_frame(buffer, frame))
    }

    /// Encodes a text that is already JSON, such as a relayed call frame.
    pub fn encode_text(&mut self, text: &str) -> EncodedFrame {
        self.encode_with(|buffer| buffer.extend_from_slice(text.as_bytes()))
    }

    /// The number of encoded error frames by code.
    pub fn errors(&self) -> impl Iterator<Item = (ErrorCode, u64)> {
        ErrorCode::ALL.into_iter().zip(self.errors)
    }

    fn encode_with(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> EncodedFrame {
        self.buffer.clear();
        self.buffer.resize(HEADER_BYTES_MAX, 0);
        fill(&mut self.buffer);
        let payload = (self.buffer.len() - HEADER_BYTES_MAX) as u64;

        let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
        let start = HEADER_BYTES_MAX - header.len(payload);
        let mut room = &mut self.buffer[start..HEADER_BYTES_MAX];
        header.format(payload, &mut room).expect("the buffer has the length of the header");

        let encoded = Rc::from(&self.buffer[start..]);
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        encoded
    }
}

/// Writes the most frequent frames by hand, in less than half of serde's time; serde writes the
/// others. A test compares the handwritten output with serde's.
fn write_frame(out: &mut Vec<u8>, frame: &ServerFrame<'_>) {
    match frame {
        ServerFrame::UserConnected { user_id, client_id } => {
            put(out, r#"{"type":"user_connected","userId":"#);
            put_json(out, user_id);
            put_client_id(out, *client_id);
        }
        ServerFrame::ThreadJoined { thread_id, client_id } => {
            put(out, r#"{"type":"thread_joined","threadId":"#);
            put_json(out, thread_id);
            put_client_id(out, *client_id);
        }
        ServerFrame::Message(message) => {
            put(out, r#"{"type":"message","threadId":"#);
            put_json(out, message.thread_id);
            put(out, r#","senderId":"#);
            put_json(out, message.sender_id);
            put(out, r#","recipientId":"#);
            put_id_or_null(out, message.recipient_id);
            put(out, r#","message":"#);
            put_json(out, message.message);
            if let Some(number) = message.message_id {
                put(out, r#","messageId":"#);
                put_json(out, &number);
            }
            if let Some(sent_at) = message.sent_at {
                put(out, r#","sentAt":"#);
                put_json(out, sent_at);
            }
            if let Some(html) = message.html {
                put(out, r#","html":"#);
                put_json(out, html);
            }
            if let Some(attachments) = message.attachments {
                put(out, r#","attachments":"#);
                put_json(out, &attachments);
            }
            if let Some(notice) = message.notice {
                put(out, r#","notice":"#);
                put_json(out, &notice);
            }
            if message.inbox {
                put(out, r#","inbox":true"#);
            }
            put_client_id(out, message.client_id);
        }
        ServerFrame::Typing { thread_id, user_id, typing, client_id } => {
            put(out, r#"{"type":"typing","threadId":"#);
            put_json(out, thread_id);
            put(out, r#","userId":"#);
            put_id_or_null(out, *user_id);
            put(out, if *typing { r#","typing":true"# } else { r#","typing":false"# });
            put_client_id(out, *client_id);
        }
        _ => return put_json(out, frame),
    }
    put(out, "}");
}

fn put(out: &mut Vec<u8>, json: &str) {
    out.extend_from_slice(json.as_bytes());
}

fn put_client_id(out: &mut Vec<u8>, client_id: Option<&Id>) {
    if let Some(client_id) = client_id {
        put(out, r#","clientId":"#);
        put_json(out, client_id);
    }
}

fn put_id_or_null(out: &mut Vec<u8>, id: Option<&Id>) {
    match id {
        Some(id) => put_json(out, id),
        None => put(out, "null"),
    }
}

fn put_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Writing to a Vec cannot fail, and the frames have only string keys.
    serde_json::to_writer(out, value).expect("our frames are JSON");
}

#[cfg(test)]
mod tests {
    use super::super::IdKey;
    use super::*;

    /// The header of these short frames has two or four bytes.
    fn payload(frame: &[u8]) -> &[u8] {
        &frame[if frame[1] == 126 { 4 } else { 2 }..]
    }

    /// Ids of every form, with all characters that JSON escapes.
    fn ids() -> [Id; 8] {
        [
            Id::number(0),
            Id::number(u64::MAX),
            Id::string("0"),
            Id::string("18446744073709551615"),
            Id::string("007"),
            Id::string("\"\\/\u{0}\u{1f}\u{7f}\n\t\u{8}\u{c}\r\u{2028}é\u{1f600}"),
            Id { key: IdKey::Text("-7".into()), quoted: false },
            Id { key: IdKey::Text("-7".into()), quoted: true },
        ]
    }

    #[test]
    fn errors_are_counted_by_their_codes() {
        let mut encoder = Encoder::default();
        for (n, code) in ErrorCode::ALL.into_iter().enumerate() {
            let fault = ClientError::new(code, "x");
            for _ in 0..=n {
                let reply = ReplyTo::default();
                let frame = ErrorFrame::new(&fault, &reply);
                encoder.encode(&ServerFrame::Error(frame));
            }
        }
        assert!(encoder.errors().zip(1..).all(|((_, count), expected)| count == expected));
        assert_eq!(encoder.errors().count(), ErrorCode::ALL.len());
    }

    #[test]
    fn handwritten_encoding_matches_serde() {
        let ids = ids();
        let optional: Vec<Option<&Id>> = ids.iter().map(Some).chain([None]).collect();
        let mut encoder = Encoder::default();
        let mut same = |frame: ServerFrame<'_>| {
            let derived = serde_json::to_string(&frame).unwrap();
            let encoded = encoder.encode(&frame);
            assert_eq!(std::str::from_utf8(payload(&encoded)).unwrap(), derived);
        };
        for id in &ids {
            for &client_id in &optional {
                same(ServerFrame::UserConnected { user_id: id, client_id });
                same(ServerFrame::ThreadJoined { thread_id: id, client_id });
                for &other in &optional {
                    for typing in [true, false] {
                        same(ServerFrame::Typing {
                            thread_id: id,
                            user_id: other,
                            typing,
                            client_id,
                        });
                    }
                    let texts =
                        [None, Some(""), Some("plain"), Some("<p class=\"a\">\\\u{0}é</p>\n")];
                    let attachments = Attachments { photos: 2, ..Attachments::default() };
                    for text in texts {
                        same(ServerFrame::Message(MessageFrame {
                            thread_id: id,
                            sender_id: &ids[0],
                            recipient_id: other,
                            message: text.unwrap_or("\u{1f}"),
                            message_id: text.map(|text| u64::MAX - text.len() as u64),
                            sent_at: text,
                            html: text,
                            attachments: text.map(|_| attachments),
                            notice: text.map(|_| Notice::Left),
                            inbox: text.is_none(),
                            client_id,
                        }));
                    }
                }
            }
        }
    }
}

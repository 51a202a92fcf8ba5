//! What the server says: each frame becomes bytes once, header included, and is shared from then
//! on.

use std::rc::Rc;

use serde::Serialize;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::client::{FrameType, ReplyTo};
use super::ice::IceServer;
use super::{ClientError, ErrorCode, Id};

/// A frame's bytes as they go onto the wire, header included; encoded once and shared.
///
/// Not atomic on purpose: all of them live on the loop's thread.
pub type EncodedFrame = Rc<[u8]>;

/// What the server says. The letters `message` stand in `message` and `error` frames only, the
/// letters `typing` in `typing` frames (and where an error names what it answers): `PROTOCOL.md`
/// 2.2.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum ServerFrame<'a> {
    /// A user has come online.
    UserConnected {
        /// Who.
        user_id: &'a Id,
        /// Echoed to the connection that said it.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// A user has gone and did not come back within the grace time.
    UserDisconnected {
        /// Who.
        user_id: &'a Id,
    },
    /// The connection hears this thread from now on.
    ThreadJoined {
        /// Which.
        thread_id: &'a Id,
        /// Echoed.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// The connection no longer hears this thread.
    ThreadLeft {
        /// Which.
        thread_id: &'a Id,
        /// Why, where it was not the client's own wish.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<LeftReason>,
        /// Echoed.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// A stored message.
    Message(MessageFrame<'a>),
    /// Someone types, or has stopped.
    Typing {
        /// Where.
        thread_id: &'a Id,
        /// Who; null for a connection that has not said.
        user_id: Option<&'a Id>,
        /// Types, or has stopped.
        typing: bool,
        /// Echoed to the connection that said it.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// Who is online.
    OnlineUsers {
        /// The thread that was asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        thread_id: Option<&'a Id>,
        /// Each once, in no particular order.
        user_ids: &'a [&'a Id],
        /// Echoed.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// The server is there.
    Pong {
        /// Echoed.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// A call is over for this device: it no longer rings, or is no longer in it.
    CallEnded {
        /// Which.
        call_id: &'a Id,
        /// Where the call was.
        #[serde(skip_serializing_if = "Option::is_none")]
        thread_id: Option<&'a Id>,
        /// Why.
        reason: EndReason,
        /// The call that stands instead, where both have called each other.
        #[serde(skip_serializing_if = "Option::is_none")]
        continues_as: Option<&'a Id>,
    },
    /// A device has taken the place of one that has lost its connection.
    CallResumed {
        /// In which call.
        call_id: &'a Id,
        /// Whose device it is.
        user_id: &'a Id,
        /// How far the call is.
        state: CallState,
        /// Echoed to the device itself.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// Someone is in a group call from now on.
    CallJoined {
        /// Which.
        call_id: &'a Id,
        /// Where.
        #[serde(skip_serializing_if = "Option::is_none")]
        thread_id: Option<&'a Id>,
        /// Who.
        user_id: &'a Id,
        /// All who are in, for the one who has joined.
        #[serde(skip_serializing_if = "Option::is_none")]
        user_ids: Option<&'a [Id]>,
        /// Echoed to the one who has joined.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// Someone is no longer in a group call, or does not come.
    CallLeft {
        /// Which.
        call_id: &'a Id,
        /// Where.
        #[serde(skip_serializing_if = "Option::is_none")]
        thread_id: Option<&'a Id>,
        /// Who.
        user_id: &'a Id,
        /// Why.
        reason: EndReason,
    },
    /// STUN and TURN servers, for the one who asked alone.
    IceServers {
        /// As `new RTCPeerConnection({ iceServers })` takes them.
        ice_servers: &'a [IceServer<'a>],
        /// For how many seconds the credential among them holds.
        #[serde(skip_serializing_if = "Option::is_none")]
        ttl: Option<u64>,
        /// Echoed.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_id: Option<&'a Id>,
    },
    /// What went wrong, for the sender alone.
    Error(ErrorFrame<'a>),
}

/// Why a call is over, for one device or for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// One of the two has ended it.
    Hangup,
    /// The called user did not take it.
    Rejected,
    /// The caller gave up.
    Cancelled,
    /// The called user is in another call.
    Busy,
    /// Nobody answered in time.
    NoAnswer,
    /// Another device of the same user is in it.
    AnsweredElsewhere,
    /// A device lost its connection, and nobody took its place in time.
    Disconnected,
    /// No media came through, or one of the two may no longer be in the thread.
    Failed,
    /// Both called each other: the other call stands.
    Glare,
}

impl EndReason {
    /// Every reason, with its word, in the order of their numbers.
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

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CallState {
    /// Nobody has answered yet.
    Ringing,
    /// The called user has taken it by an offer of their own, which the caller has not answered.
    Connecting,
    /// Answered.
    Active,
    /// Over.
    Ended,
}

/// Why a connection no longer hears a thread that it did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftReason {
    /// Its user is no longer among the thread's participants.
    NotParticipant,
    /// It is another user's connection now.
    UserChanged,
}

/// A stored message as the thread's hearers get it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageFrame<'a> {
    /// The thread it is in.
    pub thread_id: &'a Id,
    /// Who wrote it, as the site says.
    pub sender_id: &'a Id,
    /// As the sender wrote it; null where they wrote none.
    pub recipient_id: Option<&'a Id>,
    /// The text exactly as its sender wrote it.
    pub message: &'a str,
    /// The site's number for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<u64>,
    /// RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<&'a str>,
    /// What the site made of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html: Option<&'a str>,
    /// Echoed to the connection that sent it, and to no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<&'a Id>,
}

/// What went wrong.
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
    /// The error with what it refers to.
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

/// Turns frames into bytes; keeps one buffer for all of them.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: Vec<u8>,
    /// Errors that it has made frames of, in the order of [`ErrorCode::ALL`].
    errors: [u64; ErrorCode::ALL.len()],
}

/// The longest header of a frame from a server (RFC 6455 5.2): no mask.
const HEADER_BYTES_MAX: usize = 10;

/// A buffer grown beyond this by one huge frame is given back.
const BUFFER_BYTES_KEPT: usize = 64 * 1024;

impl Encoder {
    /// One text frame, its header in front.
    pub fn encode(&mut self, frame: &ServerFrame<'_>) -> EncodedFrame {
        if let ServerFrame::Error(error) = frame {
            self.errors[error.code as usize] += 1;
        }
        self.encode_with(|buffer| write_frame(buffer, frame))
    }

    /// A text that is a frame already, as a call's relayed object is.
    pub fn encode_text(&mut self, text: &str) -> EncodedFrame {
        self.encode_with(|buffer| buffer.extend_from_slice(text.as_bytes()))
    }

    /// How many frames it has made of errors, by their codes.
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
        header.format(payload, &mut room).expect("its length was asked for just now");

        let encoded = Rc::from(&self.buffer[start..]);
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        encoded
    }
}

/// The frames that crowds cause are written by hand, in less than half of the time that serde
/// takes. It writes the others, and says what these look like: a test holds them to it.
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
    // A Vec takes every byte and our own frames have string keys: no error can come of it.
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

    /// Ids of every form, and texts with all that JSON escapes.
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
                    for text in texts {
                        same(ServerFrame::Message(MessageFrame {
                            thread_id: id,
                            sender_id: &ids[0],
                            recipient_id: other,
                            message: text.unwrap_or("\u{1f}"),
                            message_id: text.map(|text| u64::MAX - text.len() as u64),
                            sent_at: text,
                            html: text,
                            client_id,
                        }));
                    }
                }
            }
        }
    }
}

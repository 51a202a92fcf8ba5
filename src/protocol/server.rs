//! What the server says: each frame becomes bytes once, header included, and is shared from then
//! on.

use std::rc::Rc;

use serde::Serialize;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::client::{FrameType, ReplyTo};
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
    /// What went wrong, for the sender alone.
    Error(ErrorFrame<'a>),
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
            client_id: reply.client_id.as_ref(),
        }
    }
}

/// Turns frames into bytes; keeps one buffer for all of them.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: Vec<u8>,
}

/// The longest header of a frame from a server (RFC 6455 5.2): no mask.
const HEADER_BYTES_MAX: usize = 10;

/// A buffer grown beyond this by one huge frame is given back.
const BUFFER_BYTES_KEPT: usize = 64 * 1024;

impl Encoder {
    /// One text frame, its header in front.
    pub fn encode(&mut self, frame: &ServerFrame<'_>) -> EncodedFrame {
        self.framed(|buffer| {
            // A Vec takes every byte and our own frames have string keys: no error can come of it.
            serde_json::to_writer(buffer, frame).expect("our frames are JSON");
        })
    }

    /// A text that is a frame already, as a call's relayed object is.
    pub fn encode_text(&mut self, text: &str) -> EncodedFrame {
        self.framed(|buffer| buffer.extend_from_slice(text.as_bytes()))
    }

    fn framed(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> EncodedFrame {
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

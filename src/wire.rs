//! One WebSocket conversation without a socket: bytes in, events and bytes out.
//!
//! tungstenite does the work of RFC 6455: unmasking, UTF-8, fragments, control frames, and what
//! breaks the rules. Between whole, unfragmented messages its context has no state worth keeping,
//! so one [`Codec`] serves every connection: the wire cuts its input at frame boundaries and feeds
//! whole frames. A connection owns a buffer only while a frame is incomplete, and a context of its
//! own only while a message is in fragments.

mod context;
mod framing;
pub mod outbox;

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use tungstenite::protocol::WebSocketContext;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::{Bytes, Error};

use crate::http::call_status::{CallStatusRequest, ResponseFormat};
use crate::http::handshake::{self, Handshake, Opened, Readiness, Rules};
use crate::http::response;
use crate::protocol::server::EncodedFrame;
use crate::protocol::status::CallStatusReply;
use context::{Received, close_code, context, read_frame};
use framing::{
    FrameSize, NextFrame, SHORT_HEADER_BYTES, frame_size, plain_text_mask, short_text, take, text,
};
use outbox::{Ledger, Outbox};

/// What all connections share: the settings, and the context between messages.
pub struct Codec {
    frame_bytes_max: usize,
    rules: Rules,
    shared_context: WebSocketContext,
    /// RFC 6455 section 5.5.2, without a payload; shared by all that it is sent to.
    ping: EncodedFrame,
}

impl Codec {
    /// A codec for messages of at most `frame_bytes_max` bytes, and for requests by these rules.
    pub fn new(frame_bytes_max: usize, rules: Rules) -> Codec {
        let ping = EncodedFrame::from([0x89, 0].as_slice());
        Codec { frame_bytes_max, rules, shared_context: context(frame_bytes_max), ping }
    }

    /// Says whether WebSockets are opened from now on, and what `GET /readyz` tells.
    pub fn set_readiness(&mut self, readiness: Readiness) {
        self.rules.readiness = readiness;
    }
}

/// The context's buffer has held what people wrote: it is not shown.
impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Codec { frame_bytes_max, rules, shared_context: _, ping: _ } = self;
        let mut codec = f.debug_struct("Codec");
        codec.field("frame_bytes_max", frame_bytes_max).field("rules", rules);
        codec.finish_non_exhaustive()
    }
}

/// What the bytes meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The WebSocket is open; the answer is in the outbox.
    Opened(Opened),
    /// A web page may not connect: [`Event::Closing`] for a reason that the operator should know.
    OriginRefused {
        /// Where it comes from, fit for a line in a log.
        origin: String,
    },
    /// Someone asks how a call is: [`Wire::send_call_status`] is the answer.
    CallStatusRequest(CallStatusRequest),
    /// A text message; mostly it stands where it has been read.
    Text(Cow<'a, str>),
    /// A binary message.
    Binary(Bytes),
    /// A ping, a pong, or a part of a message that goes on: a sign of life and a frame to count. A
    /// ping's answer is in the outbox.
    Control,
    /// The last bytes to send are in the outbox; whatever else comes in is not looked at.
    Closing,
    /// All input is used up.
    NeedsInput,
}

impl Event<'_> {
    /// Whether it is one more frame of its sender.
    pub fn is_frame(&self) -> bool {
        matches!(self, Event::Text(_) | Event::Binary(_) | Event::Control)
    }

    /// The same, for longer than what was read.
    pub fn into_owned(self) -> Event<'static> {
        match self {
            Event::Text(text) => Event::Text(Cow::Owned(text.into_owned())),
            Event::Opened(opened) => Event::Opened(opened),
            Event::CallStatusRequest(status_request) => Event::CallStatusRequest(status_request),
            Event::OriginRefused { origin } => Event::OriginRefused { origin },
            Event::Binary(bytes) => Event::Binary(bytes),
            Event::Control => Event::Control,
            Event::Closing => Event::Closing,
            Event::NeedsInput => Event::NeedsInput,
        }
    }
}

/// One conversation, from the first byte of its request.
pub struct Wire {
    state: WireState,
    /// An incomplete request head or frame; empty and without memory most of the time.
    partial: Vec<u8>,
}

enum WireState {
    Handshake {
        /// Whose address the socket has.
        peer: IpAddr,
    },
    /// It has asked how a call is, and is to be answered in this form.
    AwaitingStatus(Box<ResponseFormat>),
    Open,
    /// Open, and a message is in fragments: its context, and how many bytes that holds.
    Fragments(Box<WebSocketContext>, usize),
    Closing,
}

/// What has come in may be a token or what people wrote: only its length is shown.
impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            WireState::Handshake { .. } => "Handshake",
            WireState::AwaitingStatus(_) => "Asking",
            WireState::Open => "Open",
            WireState::Fragments(..) => "Fragments",
            WireState::Closing => "Closing",
        };
        let mut wire = f.debug_struct("Wire");
        wire.field("phase", &state).field("partial_bytes", &self.partial.len()).finish()
    }
}

impl Wire {
    /// A conversation with this peer: the address of the socket's other end, which may be a proxy.
    pub fn new(peer: IpAddr) -> Wire {
        Wire { state: WireState::Handshake { peer }, partial: Vec::new() }
    }

    /// Takes in the next of `input`, up to the next event. Call it until it says
    /// [`Event::NeedsInput`], or that the conversation has come to its end. What is masked is unmasked
    /// where it stands: nothing looks at it a second time.
    pub fn next<'a>(
        &mut self,
        codec: &mut Codec,
        input: &mut &'a mut [u8],
        outbox: &mut Outbox,
    ) -> Event<'a> {
        match self.state {
            WireState::Handshake { peer } => self.handshake(peer, codec, input, outbox),
            WireState::Open | WireState::Fragments(..) => self.frames(codec, input, outbox),
            WireState::AwaitingStatus(_) | WireState::Closing => {
                *input = &mut [];
                Event::NeedsInput
            }
        }
    }

    /// Says goodbye, if the conversation is open: a close frame goes into the outbox, and nothing
    /// may follow it.
    pub fn close(&mut self, code: u16, reason: &'static str, outbox: &mut Outbox) {
        if matches!(self.state, WireState::Open | WireState::Fragments(..)) {
            let code = CloseCode::from(code);
            let frame = Frame::close(Some(CloseFrame { code, reason: reason.into() }));
            let mut bytes = Vec::with_capacity(frame.len());
            // A Vec takes every byte: no error can come of it.
            let _ = frame.format(&mut bytes);
            outbox.push(bytes.into());
        }
        self.fail_call_status(true, outbox);
        self.state = WireState::Closing;
        self.partial = Vec::new();
    }

    /// Says that the request took too long, if any of it has come, or its answer.
    pub fn time_out(&mut self, outbox: &mut Outbox) {
        if self.is_in_handshake() && !self.partial.is_empty() {
            outbox.push(response::request_timeout().into_bytes().into());
        }
        self.fail_call_status(false, outbox);
        self.state = WireState::Closing;
        self.partial = Vec::new();
    }

    /// Takes the answer to the request back, which has not left yet, and says this instead.
    pub fn refuse(&mut self, response: String, outbox: &mut Outbox, ledger: &mut Ledger) {
        outbox.drop_unsent(ledger);
        outbox.push(response.into_bytes().into());
        self.state = WireState::Closing;
        self.partial = Vec::new();
    }

    /// Asks for a sign of life.
    pub fn ping(&self, codec: &Codec, outbox: &mut Outbox) {
        outbox.push(EncodedFrame::clone(&codec.ping));
    }

    /// Bytes of memory that are held for what has come in part.
    pub fn held_bytes(&self) -> usize {
        let fragments = match self.state {
            WireState::Fragments(_, bytes) => bytes,
            _ => 0,
        };
        self.partial.len() + fragments
    }

    /// Gives up what has come in part: nothing more is listened to.
    pub fn forget_held(&mut self) {
        self.partial = Vec::new();
        if matches!(self.state, WireState::Fragments(..)) {
            self.state = WireState::Open;
        }
    }

    /// Whether the request is still to come, in whole or in part.
    pub fn is_in_handshake(&self) -> bool {
        matches!(self.state, WireState::Handshake { .. })
    }

    /// Whether it has asked how a call is, and has not been answered.
    pub fn is_awaiting_status(&self) -> bool {
        matches!(self.state, WireState::AwaitingStatus(_))
    }

    /// Answers who has asked how a call is; the conversation is over by that.
    pub fn send_call_status(&mut self, reply: &CallStatusReply, outbox: &mut Outbox) {
        if let WireState::AwaitingStatus(format) = &self.state {
            outbox.push(format.response(reply).into_bytes().into());
            self.state = WireState::Closing;
        }
    }

    /// Whether the rest of a frame, or of a message in fragments, is still to come.
    pub fn has_partial_message(&self) -> bool {
        match self.state {
            WireState::Open => !self.partial.is_empty(),
            WireState::Fragments(..) => true,
            WireState::Handshake { .. } | WireState::AwaitingStatus(_) | WireState::Closing => {
                false
            }
        }
    }

    /// Whether the conversation is open and nothing of the next message has come.
    pub fn is_between_messages(&self) -> bool {
        matches!(self.state, WireState::Open) && self.partial.is_empty()
    }

    /// Whether nothing more is said or listened to.
    pub fn is_closing(&self) -> bool {
        matches!(self.state, WireState::Closing)
    }

    /// Says to who has asked how a call is that there is no answer: the server ends, or it has
    /// taken too long.
    fn fail_call_status(&mut self, is_draining: bool, outbox: &mut Outbox) {
        if let WireState::AwaitingStatus(format) = &self.state {
            outbox.push(format.no_status(is_draining).into_bytes().into());
        }
    }

    fn handshake<'a>(
        &mut self,
        peer: IpAddr,
        codec: &Codec,
        input: &mut &mut [u8],
        outbox: &mut Outbox,
    ) -> Event<'a> {
        let before = self.partial.len();
        let received: &[u8] = if before == 0 {
            input
        } else {
            // No more than a head may have, and the byte that shows that it is too large.
            let max = codec.rules.head_bytes_max.saturating_add(1);
            let room = max.saturating_sub(before).min(input.len());
            self.partial.extend_from_slice(&input[..room]);
            &self.partial
        };
        let (response, state, event) = match handshake::receive(received, peer, &codec.rules) {
            Handshake::Incomplete => {
                if before == 0 {
                    self.partial.extend_from_slice(input);
                }
                *input = &mut [];
                return Event::NeedsInput;
            }
            Handshake::Upgrade { response, head_bytes, opened } => {
                take(input, head_bytes - before);
                (response, WireState::Open, Event::Opened(opened))
            }
            Handshake::CallStatusRequest { status_request, format } => {
                *input = &mut [];
                self.partial = Vec::new();
                self.state = WireState::AwaitingStatus(Box::new(format));
                return Event::CallStatusRequest(status_request);
            }
            Handshake::Respond { response } => (response, WireState::Closing, Event::Closing),
            Handshake::RefuseOrigin { response, origin } => {
                (response, WireState::Closing, Event::OriginRefused { origin })
            }
        };
        outbox.push(response.into_bytes().into());
        self.partial = Vec::new();
        self.state = state;
        event
    }

    fn frames<'a>(
        &mut self,
        codec: &mut Codec,
        input: &mut &'a mut [u8],
        outbox: &mut Outbox,
    ) -> Event<'a> {
        if let (WireState::Open, true) = (&self.state, self.partial.is_empty()) {
            if let Some((bytes, mask)) = short_text(codec, input) {
                let payload = &mut take(input, bytes)[SHORT_HEADER_BYTES..];
                return text(payload, mask).unwrap_or_else(|fault| self.fail(&fault, outbox));
            }
        }
        let event = match self.next_frame(codec, input) {
            Ok(NextFrame::Incomplete) => return Event::NeedsInput,
            Ok(NextFrame::InInput(size)) => {
                self.feed(codec, &size, take(input, size.bytes), outbox)
            }
            Ok(NextFrame::InPartial(size)) => {
                let mut whole = std::mem::take(&mut self.partial);
                self.feed(codec, &size, &mut whole, outbox).map(Event::into_owned)
            }
            Err(fault) => Err(fault),
        };
        event.unwrap_or_else(|fault| self.fail(&fault, outbox))
    }

    /// Ends the conversation for what is wrong with it.
    fn fail(&mut self, fault: &Error, outbox: &mut Outbox) -> Event<'static> {
        let (code, reason) = close_code(fault);
        self.close(code, reason, outbox);
        Event::Closing
    }

    /// Finds the end of the next frame. What is cut off at the end of the input is kept.
    fn next_frame(&mut self, codec: &Codec, input: &mut &mut [u8]) -> Result<NextFrame, Error> {
        if self.partial.is_empty() {
            return match frame_size(codec, input)? {
                Some(size) if size.bytes <= input.len() => Ok(NextFrame::InInput(size)),
                _ => {
                    self.partial.extend_from_slice(input);
                    *input = &mut [];
                    Ok(NextFrame::Incomplete)
                }
            };
        }
        loop {
            let missing = match frame_size(codec, &self.partial)? {
                Some(size) if size.bytes == self.partial.len() => {
                    return Ok(NextFrame::InPartial(size));
                }
                Some(size) => size.bytes - self.partial.len(),
                // Byte by byte, not to take any of the next frame: a header has fourteen at most.
                None => 1,
            };
            if input.is_empty() {
                return Ok(NextFrame::Incomplete);
            }
            let missing = missing.min(input.len());
            self.partial.extend_from_slice(take(input, missing));
        }
    }

    /// Gives one whole frame to the context that it belongs to.
    fn feed<'a>(
        &mut self,
        codec: &mut Codec,
        size: &FrameSize,
        frame: &'a mut [u8],
        outbox: &mut Outbox,
    ) -> Result<Event<'a>, Error> {
        let header = &size.header;
        if let (WireState::Open, Some(mask)) = (&self.state, plain_text_mask(header)) {
            return text(&mut frame[size.payload_at..], mask);
        }
        let starts_fragments =
            !header.is_final && matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        if starts_fragments && matches!(self.state, WireState::Open) {
            self.state = WireState::Fragments(Box::new(context(codec.frame_bytes_max)), 0);
        }
        let (context, shared) = match &mut self.state {
            WireState::Fragments(own, bytes) => {
                // What the context keeps are the payloads; a header may be smaller than this.
                if matches!(header.opcode, OpCode::Data(_)) {
                    *bytes += frame.len().saturating_sub(header.len(frame.len() as u64));
                }
                (own.as_mut(), false)
            }
            _ => (&mut codec.shared_context, true),
        };
        let read = read_frame(context, frame, outbox);
        match &read {
            // In fragments, a message that is complete ends the need for a context.
            Ok(Received::Message(_)) if !shared => self.state = WireState::Open,
            // A context that has seen the end or an error is of no use to anyone else.
            Ok(Received::Closed) | Err(_) if shared => {
                codec.shared_context = self::context::context(codec.frame_bytes_max)
            }
            _ => {}
        }
        match read? {
            Received::Message(event) => Ok(event),
            Received::Control | Received::Nothing => Ok(Event::Control),
            Received::Closed => {
                self.state = WireState::Closing;
                Ok(Event::Closing)
            }
        }
    }
}

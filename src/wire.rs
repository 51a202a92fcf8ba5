//! One WebSocket conversation without a socket: bytes in, events and bytes out.
//!
//! tungstenite does the work of RFC 6455: unmasking, UTF-8, fragments, control frames, and what
//! breaks the rules. Between whole, unfragmented messages its context has no state worth keeping,
//! so one [`Codec`] serves every connection: the wire cuts its input at frame boundaries and feeds
//! whole frames. A connection owns a buffer only while a frame is incomplete, and a context of its
//! own only while a message is in fragments.

pub mod calls;
mod framing;
pub mod handshake;
pub mod monitor;
pub mod outbox;
mod token;
mod try_page;

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::IpAddr;

use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Bytes, Error, Message};

use crate::protocol::server::EncodedFrame;
use calls::{CallAsked, Form};
use framing::{
    Cut, FrameSize, SHORT_HEADER_BYTES, frame_size, plain_text_mask, short_text, take, text,
};
use handshake::{Handshake, Opened, Readiness, Rules};
use outbox::{Ledger, Outbox};

/// Read buffer of a context, in bytes: most frames fit, and it is cleared before each read.
const READ_BUFFER_BYTES: usize = 1024;

/// What a context may hold of its own pongs; each leaves at once, since the outbox takes all.
const WRITE_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// What all connections share: the settings, and the context between messages.
pub struct Codec {
    frame_bytes_max: usize,
    rules: Rules,
    idle: WebSocketContext,
    /// RFC 6455 section 5.5.2, without a payload; shared by all that it is sent to.
    ping: EncodedFrame,
}

impl Codec {
    /// A codec for messages of at most `frame_bytes_max` bytes, and for requests by these rules.
    pub fn new(frame_bytes_max: usize, rules: Rules) -> Codec {
        let ping = EncodedFrame::from([0x89, 0].as_slice());
        Codec { frame_bytes_max, rules, idle: context(frame_bytes_max), ping }
    }

    /// Says whether WebSockets are opened from now on, and what `GET /readyz` tells.
    pub fn set_readiness(&mut self, readiness: Readiness) {
        self.rules.readiness = readiness;
    }
}

/// The context's buffer has held what people wrote: it is not shown.
impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Codec { frame_bytes_max, rules, idle: _, ping: _ } = self;
        let mut codec = f.debug_struct("Codec");
        codec.field("frame_bytes_max", frame_bytes_max).field("rules", rules);
        codec.finish_non_exhaustive()
    }
}

fn context(frame_bytes_max: usize) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(frame_bytes_max))
        .max_frame_size(Some(frame_bytes_max))
        .accept_unmasked_frames(false);
    WebSocketContext::new(Role::Server, Some(config))
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
    /// Someone asks how a call is: [`Wire::tell_call`] is the answer.
    CallAsked(CallAsked),
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
    Drained,
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
            Event::CallAsked(asked) => Event::CallAsked(asked),
            Event::OriginRefused { origin } => Event::OriginRefused { origin },
            Event::Binary(bytes) => Event::Binary(bytes),
            Event::Control => Event::Control,
            Event::Closing => Event::Closing,
            Event::Drained => Event::Drained,
        }
    }
}

/// One conversation, from the first byte of its request.
pub struct Wire {
    phase: Phase,
    /// An incomplete request head or frame; empty and without memory most of the time.
    partial: Vec<u8>,
}

enum Phase {
    Handshake {
        /// Whose address the socket has.
        peer: IpAddr,
    },
    /// It has asked how a call is, and is to be answered in this form.
    Asking(Box<Form>),
    Open,
    /// Open, and a message is in fragments: its context, and how many bytes that holds.
    Fragments(Box<WebSocketContext>, usize),
    Closing,
}

/// What has come in may be a token or what people wrote: only its length is shown.
impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.phase {
            Phase::Handshake { .. } => "Handshake",
            Phase::Asking(_) => "Asking",
            Phase::Open => "Open",
            Phase::Fragments(..) => "Fragments",
            Phase::Closing => "Closing",
        };
        let mut wire = f.debug_struct("Wire");
        wire.field("phase", &phase).field("partial_bytes", &self.partial.len()).finish()
    }
}

impl Wire {
    /// A conversation with this peer: the address of the socket's other end, which may be a proxy.
    pub fn new(peer: IpAddr) -> Wire {
        Wire { phase: Phase::Handshake { peer }, partial: Vec::new() }
    }

    /// Takes in the next of `input`, up to the next event. Call it until it says
    /// [`Event::Drained`], or that the conversation has come to its end. What is masked is unmasked
    /// where it stands: nothing looks at it a second time.
    pub fn next<'a>(
        &mut self,
        codec: &mut Codec,
        input: &mut &'a mut [u8],
        outbox: &mut Outbox,
    ) -> Event<'a> {
        match self.phase {
            Phase::Handshake { peer } => self.handshake(peer, codec, input, outbox),
            Phase::Open | Phase::Fragments(..) => self.frames(codec, input, outbox),
            Phase::Asking(_) | Phase::Closing => {
                *input = &mut [];
                Event::Drained
            }
        }
    }

    /// Says goodbye, if the conversation is open: a close frame goes into the outbox, and nothing
    /// may follow it.
    pub fn close(&mut self, code: u16, reason: &'static str, outbox: &mut Outbox) {
        if matches!(self.phase, Phase::Open | Phase::Fragments(..)) {
            let code = CloseCode::from(code);
            let frame = Frame::close(Some(CloseFrame { code, reason: reason.into() }));
            let mut bytes = Vec::with_capacity(frame.len());
            // A Vec takes every byte: no error can come of it.
            let _ = frame.format(&mut bytes);
            outbox.push(bytes.into());
        }
        self.leave_unanswered(true, outbox);
        self.phase = Phase::Closing;
        self.partial = Vec::new();
    }

    /// Says that the request took too long, if any of it has come, or its answer.
    pub fn time_out(&mut self, outbox: &mut Outbox) {
        if self.in_handshake() && !self.partial.is_empty() {
            outbox.push(handshake::timed_out().into_bytes().into());
        }
        self.leave_unanswered(false, outbox);
        self.phase = Phase::Closing;
        self.partial = Vec::new();
    }

    /// Takes the answer to the request back, which has not left yet, and says this instead.
    pub fn refuse(&mut self, response: String, outbox: &mut Outbox, ledger: &mut Ledger) {
        outbox.drop_unsent(ledger);
        outbox.push(response.into_bytes().into());
        self.phase = Phase::Closing;
        self.partial = Vec::new();
    }

    /// Asks for a sign of life.
    pub fn ping(&self, codec: &Codec, outbox: &mut Outbox) {
        outbox.push(EncodedFrame::clone(&codec.ping));
    }

    /// Bytes of memory that are held for what has come in part.
    pub fn held_bytes(&self) -> usize {
        let fragments = match self.phase {
            Phase::Fragments(_, bytes) => bytes,
            _ => 0,
        };
        self.partial.len() + fragments
    }

    /// Gives up what has come in part: nothing more is listened to.
    pub fn forget_held(&mut self) {
        self.partial = Vec::new();
        if matches!(self.phase, Phase::Fragments(..)) {
            self.phase = Phase::Open;
        }
    }

    /// Whether the request is still to come, in whole or in part.
    pub fn in_handshake(&self) -> bool {
        matches!(self.phase, Phase::Handshake { .. })
    }

    /// Whether the rest of a frame, or of a message in fragments, is still to come.
    pub fn is_unfinished(&self) -> bool {
        match self.phase {
            Phase::Open => !self.partial.is_empty(),
            Phase::Fragments(..) => true,
            Phase::Handshake { .. } | Phase::Asking(_) | Phase::Closing => false,
        }
    }

    /// Whether the conversation is open and nothing of the next message has come.
    pub fn is_between_messages(&self) -> bool {
        matches!(self.phase, Phase::Open) && self.partial.is_empty()
    }

    /// Whether nothing more is said or listened to.
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing)
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
        let (response, phase, event) = match handshake::receive(received, peer, &codec.rules) {
            Handshake::Incomplete => {
                if before == 0 {
                    self.partial.extend_from_slice(input);
                }
                *input = &mut [];
                return Event::Drained;
            }
            Handshake::Upgrade { response, head_bytes, opened } => {
                take(input, head_bytes - before);
                (response, Phase::Open, Event::Opened(opened))
            }
            Handshake::AskCall { asked, form } => {
                *input = &mut [];
                self.partial = Vec::new();
                self.phase = Phase::Asking(Box::new(form));
                return Event::CallAsked(asked);
            }
            Handshake::Respond { response } => (response, Phase::Closing, Event::Closing),
            Handshake::RefuseOrigin { response, origin } => {
                (response, Phase::Closing, Event::OriginRefused { origin })
            }
        };
        outbox.push(response.into_bytes().into());
        self.partial = Vec::new();
        self.phase = phase;
        event
    }

    fn frames<'a>(
        &mut self,
        codec: &mut Codec,
        input: &mut &'a mut [u8],
        outbox: &mut Outbox,
    ) -> Event<'a> {
        if let (Phase::Open, true) = (&self.phase, self.partial.is_empty()) {
            if let Some((bytes, mask)) = short_text(codec, input) {
                let payload = &mut take(input, bytes)[SHORT_HEADER_BYTES..];
                return text(payload, mask).unwrap_or_else(|fault| self.fail(&fault, outbox));
            }
        }
        let event = match self.next_frame(codec, input) {
            Ok(Cut::Incomplete) => return Event::Drained,
            Ok(Cut::Whole(size)) => self.feed(codec, &size, take(input, size.bytes), outbox),
            Ok(Cut::InPartial(size)) => {
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
    fn next_frame(&mut self, codec: &Codec, input: &mut &mut [u8]) -> Result<Cut, Error> {
        if self.partial.is_empty() {
            return match frame_size(codec, input)? {
                Some(size) if size.bytes <= input.len() => Ok(Cut::Whole(size)),
                _ => {
                    self.partial.extend_from_slice(input);
                    *input = &mut [];
                    Ok(Cut::Incomplete)
                }
            };
        }
        loop {
            let missing = match frame_size(codec, &self.partial)? {
                Some(size) if size.bytes == self.partial.len() => return Ok(Cut::InPartial(size)),
                Some(size) => size.bytes - self.partial.len(),
                // Byte by byte, not to take any of the next frame: a header has fourteen at most.
                None => 1,
            };
            if input.is_empty() {
                return Ok(Cut::Incomplete);
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
        if let (Phase::Open, Some(mask)) = (&self.phase, plain_text_mask(header)) {
            return text(&mut frame[size.payload_at..], mask);
        }
        let starts_fragments =
            !header.is_final && matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        if starts_fragments && matches!(self.phase, Phase::Open) {
            self.phase = Phase::Fragments(Box::new(context(codec.frame_bytes_max)), 0);
        }
        let (context, shared) = match &mut self.phase {
            Phase::Fragments(own, bytes) => {
                // What the context keeps are the payloads; a header may be smaller than this.
                if matches!(header.opcode, OpCode::Data(_)) {
                    *bytes += frame.len().saturating_sub(header.len(frame.len() as u64));
                }
                (own.as_mut(), false)
            }
            _ => (&mut codec.idle, true),
        };
        let read = read_whole(context, frame, outbox);
        match &read {
            // In fragments, a message that is complete ends the need for a context.
            Ok(Heard::Message(_)) if !shared => self.phase = Phase::Open,
            // A context that has seen the end or an error is of no use to anyone else.
            Ok(Heard::Closed) | Err(_) if shared => {
                codec.idle = self::context(codec.frame_bytes_max)
            }
            _ => {}
        }
        match read? {
            Heard::Message(event) => Ok(event),
            Heard::Control | Heard::Nothing => Ok(Event::Control),
            Heard::Closed => {
                self.phase = Phase::Closing;
                Ok(Event::Closing)
            }
        }
    }
}

enum Heard {
    Message(Event<'static>),
    Control,
    Nothing,
    Closed,
}

/// Feeds one whole frame, and reads until the context has said all that it has to say.
fn read_whole(
    context: &mut WebSocketContext,
    frame: &[u8],
    outbox: &mut Outbox,
) -> Result<Heard, Error> {
    let mut memory = Memory { input: frame, outbox };
    let mut control = false;
    loop {
        match context.read(&mut memory) {
            Ok(Message::Text(text)) => {
                let text = Cow::Owned(text.as_str().to_owned());
                return Ok(Heard::Message(Event::Text(text)));
            }
            Ok(Message::Binary(bytes)) => return Ok(Heard::Message(Event::Binary(bytes))),
            // The answer to a ping or a close is written by the next read.
            Ok(_) => control = true,
            Err(Error::Io(fault)) if fault.kind() == io::ErrorKind::WouldBlock => {
                return Ok(if control { Heard::Control } else { Heard::Nothing });
            }
            Err(Error::ConnectionClosed) => return Ok(Heard::Closed),
            Err(fault) => return Err(fault),
        }
    }
}

/// RFC 6455 section 7.4.1.
fn close_code(fault: &Error) -> (u16, &'static str) {
    match fault {
        Error::Capacity(_) => (1009, "the message is too big"),
        Error::Utf8(_) => (1007, "text must be UTF-8"),
        _ => (1002, "protocol error"),
    }
}

/// The stream that a context sees: it reads what is given and writes into the outbox. With a
/// write buffer of 0 bytes each pong or close arrives as one whole frame.
struct Memory<'a> {
    input: &'a [u8],
    outbox: &'a mut Outbox,
}

impl Read for Memory<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buffer)
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outbox.push(bytes.into());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

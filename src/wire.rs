//! One WebSocket conversation without a socket: bytes in, events and bytes out.
//!
//! tungstenite implements RFC 6455: unmasking, UTF-8, fragments, control frames and protocol
//! errors. Between whole, unfragmented messages its context has no state worth keeping, so all
//! connections share one [`Codec`]: the wire cuts its input at frame boundaries and feeds whole
//! frames. A connection owns a buffer only while a frame is incomplete, and a context of its own
//! only while a message is in fragments. The connection begins as an HTTP request, which
//! [`http`](crate::http) reads.

mod context;
mod framing;
pub mod outbox;

use std::borrow::Cow;
use std::fmt;

use tungstenite::protocol::WebSocketContext;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::{Bytes, Error};

use crate::config::proxies::Peer;
use crate::http::call_status::{CallStatusRequest, ResponseFormat};
use crate::http::handshake::{self, Handshake, Listener, Opened, Readiness, Rules};
use crate::http::response;
use crate::http::site_events::{EventsHead, SiteRefusal};
use crate::protocol::server::EncodedFrame;
use crate::protocol::status::CallStatusReply;
use context::{Received, context, read_frame};
use framing::{
    FrameSize, NextFrame, SHORT_HEADER_BYTES, frame_size, plain_text_mask, short_text, take, text,
};
use outbox::{Ledger, Outbox};

/// The settings and the tungstenite context that all connections share.
pub struct Codec {
    frame_bytes_max: usize,
    rules: Rules,
    shared_context: WebSocketContext,
    /// A ping without payload (RFC 6455 section 5.5.2), shared by all outboxes.
    ping: EncodedFrame,
}

impl Codec {
    /// Creates a codec that accepts messages of at most `frame_bytes_max` bytes and judges requests
    /// by `rules`.
    pub fn new(frame_bytes_max: usize, rules: Rules) -> Codec {
        let ping = EncodedFrame::from([0x89, 0].as_slice());
        Codec { frame_bytes_max, rules, shared_context: context(frame_bytes_max), ping }
    }

    /// Sets whether upgrades are accepted from now on, and what `GET /readyz` answers.
    pub fn set_readiness(&mut self, readiness: Readiness) {
        self.rules.readiness = readiness;
    }
}

/// Omits the context: its buffer may still hold message texts.
impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Codec { frame_bytes_max, rules, shared_context: _, ping: _ } = self;
        let mut codec = f.debug_struct("Codec");
        codec.field("frame_bytes_max", frame_bytes_max).field("rules", rules);
        codec.finish_non_exhaustive()
    }
}

/// The next event in the bytes received so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The WebSocket is open; the 101 response is in the outbox.
    Opened(Opened),
    /// The page's origin is not allowed. Otherwise as [`Event::Closing`]; the operator is warned.
    OriginRefused {
        /// The refused `Origin`, sanitized for the log.
        origin: String,
    },
    /// The client requests the status of a call; reply with [`Wire::send_call_status`].
    CallStatusRequest(CallStatusRequest),
    /// The site's plugin is about to send events: call [`Wire::accept_events`] or
    /// [`Wire::answer_site`].
    EventsAnnounced,
    /// The site's plugin has sent events; reply with [`Wire::answer_site`].
    EventsReceived {
        /// The header with the signature.
        signature: String,
        /// The whole body.
        body: Vec<u8>,
    },
    /// The doctor asks whether a test event has arrived; reply with [`Wire::answer_site`].
    TestArrival {
        /// The token of the test.
        token: String,
    },
    /// A request of the site's plugin is refused. Otherwise as [`Event::Closing`].
    SiteRefused {
        /// Why.
        cause: SiteRefusal,
    },
    /// A text message; usually borrowed from the input.
    Text(Cow<'a, str>),
    /// A binary message.
    Binary(Bytes),
    /// A ping, a pong, or a non-final fragment: proof that the peer is alive, and a frame for the
    /// rate limit. The pong for a ping is in the outbox.
    Control,
    /// The last bytes to send are in the outbox; further input is ignored.
    Closing,
    /// All input is consumed.
    NeedsInput,
}

impl Event<'_> {
    /// Whether this event counts as a frame for the rate limit.
    pub fn is_frame(&self) -> bool {
        matches!(self, Event::Text(_) | Event::Binary(_) | Event::Control)
    }

    /// The same event, independent of the read buffer.
    pub fn into_owned(self) -> Event<'static> {
        match self {
            Event::Text(text) => Event::Text(Cow::Owned(text.into_owned())),
            Event::Opened(opened) => Event::Opened(opened),
            Event::CallStatusRequest(status_request) => Event::CallStatusRequest(status_request),
            Event::OriginRefused { origin } => Event::OriginRefused { origin },
            Event::EventsAnnounced => Event::EventsAnnounced,
            Event::EventsReceived { signature, body } => Event::EventsReceived { signature, body },
            Event::TestArrival { token } => Event::TestArrival { token },
            Event::SiteRefused { cause } => Event::SiteRefused { cause },
            Event::Binary(bytes) => Event::Binary(bytes),
            Event::Control => Event::Control,
            Event::Closing => Event::Closing,
            Event::NeedsInput => Event::NeedsInput,
        }
    }
}

/// The protocol state of one connection, from the first byte of its request.
pub struct Wire {
    state: WireState,
    /// An incomplete request head or frame; usually empty and without an allocation.
    partial: Vec<u8>,
}

enum WireState {
    Handshake {
        /// The socket's other end, which may be a proxy.
        peer: Peer,
        listener: Listener,
        /// A PROXY protocol header must come first, even before TLS.
        awaits_proxy_header: bool,
    },
    /// The client has requested the status of a call; the response will have this format.
    AwaitingStatus(Box<ResponseFormat>),
    Open,
    /// Open, with a message in fragments: its context, and the payload bytes that context holds.
    Fragments(Box<WebSocketContext>, usize),
    /// The site's plugin sends events: what has arrived of them.
    Events(Box<Events>),
    /// A request of the site's plugin is complete and is answered at once.
    AwaitingSiteAnswer,
    Closing,
}

/// A request with events whose body is not complete.
struct Events {
    head: EventsHead,
    body: Vec<u8>,
}

/// Shows only the length of partial input: it may be a token or a message text.
impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            WireState::Handshake { .. } => "Handshake",
            WireState::AwaitingStatus(_) => "AwaitingStatus",
            WireState::Events(_) => "Events",
            WireState::AwaitingSiteAnswer => "AwaitingSiteAnswer",
            WireState::Open => "Open",
            WireState::Fragments(..) => "Fragments",
            WireState::Closing => "Closing",
        };
        let mut wire = f.debug_struct("Wire");
        wire.field("state", &state).field("partial_bytes", &self.partial.len()).finish()
    }
}

impl Wire {
    /// Starts in the handshake. `peer` is the socket's other end, perhaps a proxy.
    pub fn new(peer: impl Into<Peer>) -> Wire {
        let (peer, listener) = (peer.into(), Listener::Public);
        let state = WireState::Handshake { peer, listener, awaits_proxy_header: false };
        Wire { state, partial: Vec::new() }
    }

    /// Answers as the listener for the site's plugin.
    pub fn serve_site(&mut self) {
        if let WireState::Handshake { listener, .. } = &mut self.state {
            *listener = Listener::Site;
        }
    }

    /// Makes the connection begin with a PROXY protocol header, which the caller reads.
    pub fn expect_proxy_header(&mut self) {
        if let WireState::Handshake { awaits_proxy_header, .. } = &mut self.state {
            *awaits_proxy_header = true;
        }
    }

    /// Whether a PROXY protocol header must come next.
    pub fn is_awaiting_proxy_header(&self) -> bool {
        matches!(self.state, WireState::Handshake { awaits_proxy_header: true, .. })
    }

    /// Goes on with the request after a PROXY protocol header, which may replace the peer.
    pub fn note_proxy_header(&mut self, client: Option<Peer>) {
        if let WireState::Handshake { peer, awaits_proxy_header, .. } = &mut self.state {
            *peer = client.unwrap_or(*peer);
            *awaits_proxy_header = false;
        }
    }

    /// Consumes `input` up to the next event. Call it until it returns [`Event::NeedsInput`] or the
    /// connection is closing. Payloads are unmasked in place.
    pub fn next<'a>(
        &mut self,
        codec: &mut Codec,
        input: &mut &'a mut [u8],
        outbox: &mut Outbox,
    ) -> Event<'a> {
        match self.state {
            WireState::Handshake { peer, listener, .. } => {
                self.handshake(listener, peer, codec, input, outbox)
            }
            WireState::Events(_) => self.events(input),
            WireState::Open | WireState::Fragments(..) => self.frames(codec, input, outbox),
            WireState::AwaitingStatus(_) | WireState::AwaitingSiteAnswer | WireState::Closing => {
                *input = &mut [];
                Event::NeedsInput
            }
        }
    }

    /// Closes the connection. If the WebSocket is open, a close frame goes into the outbox, and
    /// nothing may follow it; a request for a call's status is answered with 503.
    pub fn close(&mut self, code: u16, reason: &'static str, outbox: &mut Outbox) {
        if matches!(self.state, WireState::Open | WireState::Fragments(..)) {
            let code = CloseCode::from(code);
            let frame = Frame::close(Some(CloseFrame { code, reason: reason.into() }));
            let mut bytes = Vec::with_capacity(frame.len());
            // Writing to a Vec cannot fail.
            let _ = frame.format(&mut bytes);
            outbox.push(bytes.into());
        }
        self.fail_call_status(true, outbox);
        self.fail_events(SiteRefusal::Draining, outbox);
        self.state = WireState::Closing;
        self.partial = Vec::new();
    }

    /// Closes a connection that timed out: with 408 if the request is incomplete, with 503 if the
    /// status of a call was not known in time.
    pub fn time_out(&mut self, outbox: &mut Outbox) {
        if self.is_in_handshake() && !self.partial.is_empty() {
            outbox.push(response::request_timeout().into_bytes().into());
        }
        self.fail_call_status(false, outbox);
        self.fail_events(SiteRefusal::Late, outbox);
        self.state = WireState::Closing;
        self.partial = Vec::new();
    }

    /// Replaces the response that has not been sent yet by this one, and closes.
    pub fn refuse(&mut self, response: String, outbox: &mut Outbox, ledger: &mut Ledger) {
        outbox.drop_unsent(ledger);
        outbox.push(response.into_bytes().into());
        self.state = WireState::Closing;
        self.partial = Vec::new();
    }

    /// Sends a ping.
    pub fn ping(&self, codec: &Codec, outbox: &mut Outbox) {
        outbox.push(EncodedFrame::clone(&codec.ping));
    }

    /// Bytes of memory held for incomplete input.
    pub fn held_bytes(&self) -> usize {
        let more = match &self.state {
            WireState::Fragments(_, bytes) => *bytes,
            WireState::Events(events) => events.body.capacity(),
            _ => 0,
        };
        self.partial.len() + more
    }

    /// Drops incomplete input; the caller reads nothing more from this connection.
    pub fn forget_held(&mut self) {
        self.partial = Vec::new();
        match self.state {
            WireState::Fragments(..) => self.state = WireState::Open,
            WireState::Events(_) => self.state = WireState::AwaitingSiteAnswer,
            _ => {}
        }
    }

    /// Whether the request head is not complete yet.
    pub fn is_in_handshake(&self) -> bool {
        matches!(self.state, WireState::Handshake { .. })
    }

    /// Whether the first request has no response yet.
    pub fn is_before_response(&self) -> bool {
        !matches!(self.state, WireState::Open | WireState::Fragments(..) | WireState::Closing)
    }

    /// Whether the client has requested the status of a call and has no response yet.
    pub fn is_awaiting_status(&self) -> bool {
        matches!(self.state, WireState::AwaitingStatus(_))
    }

    /// Whether the events of the site's plugin are arriving.
    pub fn is_receiving_events(&self) -> bool {
        matches!(self.state, WireState::Events(_))
    }

    /// Whether the connection belongs to the site's plugin, on its own listener, and has sent no
    /// complete request.
    pub fn is_awaiting_site(&self) -> bool {
        matches!(self.state, WireState::Handshake { listener: Listener::Site, .. })
    }

    /// The header with the signature of events that are arriving.
    pub fn announced_signature(&self) -> Option<&str> {
        match &self.state {
            WireState::Events(events) => Some(&events.head.signature),
            _ => None,
        }
    }

    /// Lets the site's plugin send the body that it has announced.
    pub fn accept_events(&mut self, outbox: &mut Outbox) {
        if let WireState::Events(events) = &mut self.state {
            if std::mem::take(&mut events.head.expects_continue) {
                outbox.push(response::CONTINUE.into());
            }
        }
    }

    /// Sends a response to the site's plugin, and closes.
    pub fn answer_site(&mut self, response: String, outbox: &mut Outbox) {
        if matches!(self.state, WireState::Events(_) | WireState::AwaitingSiteAnswer) {
            outbox.push(response.into_bytes().into());
            self.state = WireState::Closing;
        }
    }

    /// Sends the status of a call, and closes.
    pub fn send_call_status(&mut self, reply: &CallStatusReply, outbox: &mut Outbox) {
        if let WireState::AwaitingStatus(format) = &self.state {
            outbox.push(format.response(reply).into_bytes().into());
            self.state = WireState::Closing;
        }
    }

    /// Whether the rest of a frame, or of a message in fragments, has not arrived yet.
    pub fn has_partial_message(&self) -> bool {
        match self.state {
            WireState::Open => !self.partial.is_empty(),
            WireState::Fragments(..) => true,
            WireState::Handshake { .. }
            | WireState::AwaitingStatus(_)
            | WireState::Events(_)
            | WireState::AwaitingSiteAnswer
            | WireState::Closing => false,
        }
    }

    /// Whether the WebSocket is open and no part of the next message has arrived.
    pub fn is_between_messages(&self) -> bool {
        matches!(self.state, WireState::Open) && self.partial.is_empty()
    }

    /// Whether the connection is closing: no more input is read and no more frames are sent.
    pub fn is_closing(&self) -> bool {
        matches!(self.state, WireState::Closing)
    }

    /// Answers a pending request for a call's status with 503.
    fn fail_call_status(&mut self, is_draining: bool, outbox: &mut Outbox) {
        if let WireState::AwaitingStatus(format) = &self.state {
            outbox.push(format.no_status(is_draining).into_bytes().into());
        }
    }

    /// Answers a request of the site's plugin whose body is not complete.
    fn fail_events(&mut self, cause: SiteRefusal, outbox: &mut Outbox) {
        if let WireState::Events(_) | WireState::AwaitingSiteAnswer = &self.state {
            outbox.push(cause.response("").into_bytes().into());
        }
    }

    /// Collects the body of the events.
    fn events<'a>(&mut self, input: &mut &mut [u8]) -> Event<'a> {
        let WireState::Events(events) = &mut self.state else { return Event::NeedsInput };
        let missing = events.head.body_bytes - events.body.len();
        let piece = take(input, missing.min(input.len()));
        if events.body.capacity() - events.body.len() < piece.len() {
            // Doubled at most: a client cannot make the server hold more than twice what it sent.
            let room = events.body.len().max(piece.len()).min(missing);
            events.body.reserve_exact(room.max(piece.len()));
        }
        events.body.extend_from_slice(piece);
        if events.body.len() < events.head.body_bytes {
            return Event::NeedsInput;
        }
        let signature = std::mem::take(&mut events.head.signature);
        let body = std::mem::take(&mut events.body);
        self.state = WireState::AwaitingSiteAnswer;
        *input = &mut [];
        Event::EventsReceived { signature, body }
    }

    fn handshake<'a>(
        &mut self,
        listener: Listener,
        peer: Peer,
        codec: &Codec,
        input: &mut &mut [u8],
        outbox: &mut Outbox,
    ) -> Event<'a> {
        let before = self.partial.len();
        let received: &[u8] = if before == 0 {
            input
        } else {
            // At most the limit for a head, plus the byte that shows that it is exceeded.
            let max = codec.rules.head_limits.bytes.saturating_add(1);
            let room = max.saturating_sub(before).min(input.len());
            self.partial.extend_from_slice(&input[..room]);
            &self.partial
        };
        let handshake = handshake::receive_on(listener, received, peer, &codec.rules);
        let (response, state, event) = match handshake {
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
            Handshake::Events { head_bytes, events: head } => {
                take(input, head_bytes - before);
                self.partial = Vec::new();
                self.state = WireState::Events(Box::new(Events { head, body: Vec::new() }));
                return Event::EventsAnnounced;
            }
            Handshake::TestArrival { token } => {
                *input = &mut [];
                self.partial = Vec::new();
                self.state = WireState::AwaitingSiteAnswer;
                return Event::TestArrival { token };
            }
            Handshake::RefuseSite { response, cause } => {
                (response, WireState::Closing, Event::SiteRefused { cause })
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

    /// Closes the connection because of a protocol error.
    fn fail(&mut self, fault: &Error, outbox: &mut Outbox) -> Event<'static> {
        let (code, reason) = close_code(fault);
        self.close(code, reason, outbox);
        Event::Closing
    }

    /// Finds the end of the next frame. An incomplete frame at the end of the input is kept.
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
                // Byte by byte, to take nothing of the next frame; a header has at most 14 bytes.
                None => 1,
            };
            if input.is_empty() {
                return Ok(NextFrame::Incomplete);
            }
            let missing = missing.min(input.len());
            self.partial.extend_from_slice(take(input, missing));
        }
    }

    /// Feeds one whole frame to the context it belongs to.
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
                // The context keeps only payloads. The header length that is subtracted may be
                // a few bytes too large.
                if matches!(header.opcode, OpCode::Data(_)) {
                    *bytes += frame.len().saturating_sub(header.len(frame.len() as u64));
                }
                (own.as_mut(), false)
            }
            _ => (&mut codec.shared_context, true),
        };
        let read = read_frame(context, frame, outbox);
        match &read {
            // The fragmented message is complete: its context is not needed any more.
            Ok(Received::Message(_)) if !shared => self.state = WireState::Open,
            // After a close or an error the context cannot be used again.
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

/// The close code (RFC 6455 section 7.4.1) and reason for an error.
fn close_code(fault: &Error) -> (u16, &'static str) {
    match fault {
        Error::Capacity(_) => (1009, "the message is too big"),
        Error::Utf8(_) => (1007, "text must be UTF-8"),
        _ => (1002, "protocol error"),
    }
}

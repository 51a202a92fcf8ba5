//! Both sides of a WebSocket as bytes in memory: builds a client's requests and frames, and feeds
//! them to a [`Wire`].

#![allow(dead_code, clippy::unwrap_used)]

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};

use buddyline::config::limits::HeadLimits;
use buddyline::config::origins::Origins;
use buddyline::config::proxies::TrustedProxies;
use buddyline::http::handshake::{Opened, Readiness, Rules};
use buddyline::wire::outbox::{Ledger, Outbox};
use buddyline::wire::{Codec, Event, Wire};

/// First byte of an unfragmented text frame.
pub const TEXT: u8 = 0x81;
/// First byte of an unfragmented binary frame.
pub const BINARY: u8 = 0x82;
/// First byte of a close frame.
pub const CLOSE: u8 = 0x88;
/// First byte of a ping.
pub const PING: u8 = 0x89;
/// First byte of a pong.
pub const PONG: u8 = 0x8a;
/// First byte of the first fragment of a text message.
pub const TEXT_FRAGMENT: u8 = 0x01;
/// First byte of a fragment in the middle.
pub const CONTINUATION: u8 = 0x00;
/// First byte of the last fragment.
pub const LAST_CONTINUATION: u8 = 0x80;

/// The `Sec-WebSocket-Key` of the example in RFC 6455 section 1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The `Sec-WebSocket-Accept` that belongs to [`KEY`].
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The default limit of a message, in bytes.
pub const LIMIT: usize = 256 * 1024;

/// The peer address of a [`WireSession`].
pub const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// A codec that accepts any origin and trusts no proxy, with or without the try-it page.
pub fn codec_of(frame_bytes_max: usize, try_page: bool) -> Codec {
    let (origins, proxies) = (Origins::any(), TrustedProxies::default());
    let readiness = Readiness::Ready;
    Codec::new(
        frame_bytes_max,
        Rules {
            readiness,
            try_page,
            origins,
            proxies,
            head_limits: HeadLimits::default(),
            site_events: false,
        },
    )
}

/// The event that a valid request without a token causes.
pub fn opened() -> Event<'static> {
    Event::Opened(Opened { client: PEER.into(), credential: None })
}

/// A valid upgrade request with additional header lines.
pub fn request_with(more: &str) -> Vec<u8> {
    format!(
        "GET /chat?x=1 HTTP/1.1\r\nHost: localhost:8080\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
    .into_bytes()
}

/// A valid upgrade request.
pub fn request() -> Vec<u8> {
    request_with("")
}

/// The header of a masked frame with a payload of this length.
pub fn header(first: u8, length: u64, mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(0x80 | length as u8),
        126..=65_535 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes
}

/// A masked frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = header(first, payload.len() as u64, mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A masked, unfragmented text frame.
pub fn text(text: &str) -> Vec<u8> {
    frame(TEXT, text.as_bytes())
}

/// A masked close frame with a code.
pub fn close(code: u16) -> Vec<u8> {
    frame(CLOSE, &code.to_be_bytes())
}

/// A wire with its outbox, and all events and output that the bytes so far have caused.
pub struct WireSession {
    pub wire: Wire,
    outbox: Outbox,
    /// All events except `NeedsInput` and `Control`.
    pub events: Vec<Event<'static>>,
    /// All bytes that the client would have received.
    pub output: Vec<u8>,
}

impl Default for WireSession {
    fn default() -> WireSession {
        let (events, output) = (Vec::new(), Vec::new());
        WireSession { wire: Wire::new(PEER), outbox: Outbox::default(), events, output }
    }
}

impl WireSession {
    /// Completes the handshake and discards its event and output.
    pub fn open(codec: &mut Codec) -> WireSession {
        let mut session = WireSession::default();
        session.feed(codec, &request());
        assert_eq!(session.events, [opened()]);
        session.events.clear();
        session.output.clear();
        session
    }

    /// Feeds bytes as one read from a socket would.
    pub fn feed(&mut self, codec: &mut Codec, bytes: &[u8]) {
        let mut read = bytes.to_vec();
        let mut input = &mut *read;
        // Each event consumes at least one byte, except for the last two.
        for _ in 0..bytes.len() + 2 {
            let event = self.wire.next(codec, &mut input, &mut self.outbox).into_owned();
            self.collect();
            if event == Event::NeedsInput {
                assert!(
                    input.is_empty(),
                    "the wire needs input, but {} bytes are left",
                    input.len()
                );
                return;
            }
            assert!(!self.events.contains(&Event::Closing), "{event:?} after `Closing`");
            // `Control` only counts pings and fragments.
            if event != Event::Control {
                self.events.push(event);
            }
        }
        panic!("the wire never asks for more input");
    }

    /// Removes and returns the events so far.
    pub fn take_events(&mut self) -> Vec<Event<'static>> {
        std::mem::take(&mut self.events)
    }

    /// The texts among the events.
    pub fn texts(&self) -> Vec<&str> {
        let texts = self.events.iter().filter_map(|event| match event {
            Event::Text(text) => Some(text.as_ref()),
            _ => None,
        });
        texts.collect()
    }

    /// The output as frames: first byte and payload.
    pub fn frames(&self) -> Vec<(u8, Vec<u8>)> {
        server_frames(&self.output)
    }

    /// The code of the close frame at the end of the output.
    pub fn close_code(&self) -> Option<u16> {
        let frames = self.frames();
        let (first, payload) = frames.last()?;
        match payload[..] {
            [high, low, ..] if *first == CLOSE => Some(u16::from_be_bytes([high, low])),
            _ => None,
        }
    }

    /// The output as an HTTP response.
    pub fn answer(&self) -> String {
        String::from_utf8(self.output.clone()).unwrap()
    }

    fn collect(&mut self) {
        while !self.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let filled = self.outbox.gather(&mut slices);
            let bytes =
                slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>();
            self.outbox.consume(bytes.len(), &mut Ledger::default());
            self.output.extend(bytes);
        }
    }
}

/// Parses a server's frames: first byte and payload. Panics on a masked or incomplete frame.
pub fn server_frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let (length, rest) = match *length {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize, &rest[8..]),
            short @ 0..126 => (usize::from(short), rest),
            _ => panic!("the server sent a masked frame"),
        };
        frames.push((*first, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "the last frame is incomplete");
    frames
}

/// The value of a header of an HTTP response. Panics if the header is repeated.
pub fn header_of(answer: &str, name: &str) -> Option<String> {
    let (head, _) = answer.split_once("\r\n\r\n").expect("a head ends");
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut found = lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    let value = found.next().map(str::to_owned);
    assert_eq!(found.next(), None, "header {name} is repeated");
    value
}

/// The body of an HTTP response.
pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("a head ends").1
}

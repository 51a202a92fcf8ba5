//! One client's side of the conversation: bytes of frames, and what they say.

use std::io::Cursor;

use mio::net::TcpStream;
use serde::Deserialize;
use serde_json::value::RawValue;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::OpCode;

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The socket is not connected yet.
    Connecting,
    /// The request is sent.
    Handshake,
    /// The WebSocket is open, the thread not yet joined.
    Joining,
    /// It hears its thread.
    Joined,
    /// It is over.
    Closed,
}

/// One client.
pub(super) struct Client {
    pub(super) socket: Option<TcpStream>,
    pub(super) state: State,
    /// Nanoseconds since the start.
    pub(super) started: u64,
    pub(super) user: Option<u64>,
    /// The start of a head or frame whose rest is still to come.
    pub(super) input: Vec<u8>,
    pub(super) output: Vec<u8>,
}

/// The longest frame that is waited for: a list of a hundred thousand users is shorter.
const FRAME_BYTES_MAX: u64 = 4 << 20;

/// What a frame is, what it carries, and how many bytes it has.
type Frame<'a> = (OpCode, &'a [u8], usize);

/// A frame at the start of these bytes. `None`: its rest is still to come.
pub(super) fn parse_frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, ()> {
    let mut cursor = Cursor::new(bytes);
    let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(drop)? else {
        return Ok(None);
    };
    // The server neither masks nor, in its short frames, uses fragments.
    if header.mask.is_some() || !header.is_final || length > FRAME_BYTES_MAX {
        return Err(());
    }
    let start = cursor.position() as usize;
    let end = start + length as usize;
    Ok(bytes.get(start..end).map(|payload| (header.opcode, payload, end)))
}

/// Adds a masked frame.
pub(super) fn write_frame(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8], mask: [u8; 4]) {
    let header = FrameHeader { opcode, is_final: true, mask: Some(mask), ..FrameHeader::default() };
    // A Vec takes every byte: no error can come of it.
    let _ = header.format(payload.len() as u64, out);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// What is looked at in a frame of the server.
#[derive(Deserialize)]
pub(super) struct ServerFrame<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: &'a str,
    #[serde(borrow, rename = "userId")]
    user: Option<&'a RawValue>,
    pub(super) typing: Option<bool>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    pub(super) code: Option<&'a str>,
}

/// Stands before the time in a message.
pub(super) const MARK: &str = "buddyline bench ";

impl ServerFrame<'_> {
    pub(super) fn user(&self) -> Option<u64> {
        self.user?.get().trim_matches('"').parse().ok()
    }

    /// When a message of ours was sent, in nanoseconds since the start.
    pub(super) fn sent_at(&self) -> Option<u64> {
        self.message?.get().trim_matches('"').strip_prefix(MARK)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use tungstenite::protocol::frame::coding::Data;

    use super::*;

    #[test]
    fn frame_is_returned_once_complete() {
        let bytes = b"\x81\x03abc\x81\x01d";
        for cut in 0..5 {
            assert_eq!(parse_frame(&bytes[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(parse_frame(bytes), Ok(Some((OpCode::Data(Data::Text), &b"abc"[..], 5))));
        for bad in [&b"\x01\x03abc"[..], b"\x81\x83abcdefg", b"\x81\x7f\x7f\0\0\0\0\0\0\0"] {
            assert_eq!(parse_frame(bad), Err(()), "{bad:?}");
        }
    }

    #[test]
    fn client_frames_are_masked() {
        let mut out = Vec::new();
        write_frame(&mut out, OpCode::Data(Data::Text), b"abcde", [1, 2, 3, 4]);
        assert_eq!(out, [0x81, 0x85, 1, 2, 3, 4, b'a' ^ 1, b'b' ^ 2, b'c' ^ 3, b'd' ^ 4, b'e' ^ 1]);
    }

    #[test]
    fn timestamp_and_user_are_parsed_from_a_message() {
        let text = r#"{"type":"message","threadId":1,"message":"buddyline bench 17","userId":"5"}"#;
        let heard: ServerFrame = serde_json::from_str(text).unwrap();
        assert_eq!((heard.sent_at(), heard.user(), heard.typing), (Some(17), Some(5), None));
    }
}

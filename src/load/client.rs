//! One client of the load test: its state, and reading and writing of WebSocket frames.

use std::io::Cursor;

use mio::net::TcpStream;
use serde::Deserialize;
use serde_json::value::RawValue;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::OpCode;

/// The state of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The socket is not connected yet.
    Connecting,
    /// The upgrade request is sent.
    Handshake,
    /// The WebSocket is open, and the thread is not joined yet.
    Joining,
    /// The thread is joined.
    Joined,
    /// The connection is closed or has failed.
    Closed,
}

/// One client.
pub(super) struct Client {
    pub(super) socket: Option<TcpStream>,
    pub(super) state: State,
    /// When it began to connect, in nanoseconds since the start of the run.
    pub(super) started: u64,
    pub(super) user: Option<u64>,
    /// The incomplete response head or frame received so far.
    pub(super) input: Vec<u8>,
    pub(super) output: Vec<u8>,
}

/// Maximum size of a frame from the server; a list of a hundred thousand users is smaller.
const FRAME_BYTES_MAX: u64 = 4 << 20;

/// Opcode, payload and total length of a frame.
type Frame<'a> = (OpCode, &'a [u8], usize);

/// Parses the frame at the start of `bytes`; `None` if it is incomplete.
pub(super) fn parse_frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, ()> {
    let mut cursor = Cursor::new(bytes);
    let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(drop)? else {
        return Ok(None);
    };
    // The server sends neither masked nor fragmented frames.
    if header.mask.is_some() || !header.is_final || length > FRAME_BYTES_MAX {
        return Err(());
    }
    let start = cursor.position() as usize;
    let end = start + length as usize;
    Ok(bytes.get(start..end).map(|payload| (header.opcode, payload, end)))
}

/// Appends a masked frame to `out`.
pub(super) fn write_frame(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8], mask: [u8; 4]) {
    let header = FrameHeader { opcode, is_final: true, mask: Some(mask), ..FrameHeader::default() };
    // Writing to a Vec cannot fail.
    let _ = header.format(payload.len() as u64, out);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// The fields of the server's frames that the load test uses.
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

/// Prefix of the send time in the text of a message.
pub(super) const MARK: &str = "buddyline bench ";

impl ServerFrame<'_> {
    pub(super) fn user(&self) -> Option<u64> {
        self.user?.get().trim_matches('"').parse().ok()
    }

    /// Returns when a message of this run was sent, in nanoseconds since its start.
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
        let frame: ServerFrame = serde_json::from_str(text).unwrap();
        assert_eq!((frame.sent_at(), frame.user(), frame.typing), (Some(17), Some(5), None));
    }
}

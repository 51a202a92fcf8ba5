//! A fuzz target: any bytes, cut anywhere, through the wire.
//!
//! The first byte of a case says how it is written, the second how it is cut:
//!
//! * bit 0: with a large limit; else with a small one; bit 3: with none;
//! * bit 1: the rest is frames in short, see [`expand_frames`]; else bytes as they come;
//! * bit 2: without a request in front.

#[path = "../bytes.rs"]
mod bytes;

use buddyline::wire::{Codec, Event};
use bytes::*;

const SMALL: usize = 100;
const LARGE: usize = 40_000;

/// The limit of a request head that [`codec_of`] sets.
const HEAD_BYTES_MAX: usize = 8_192;

/// More than any answer to a request without the try-it page has, and than a close frame.
const ANSWER_BYTES_MAX: usize = 1_024;

/// No panic; the same events and the same output however the bytes are cut; of these, whole frames
/// as a server may send them, no more bytes than came in; and what is kept of an incomplete frame
/// or request is bounded.
pub fn run(data: &[u8]) {
    let [how, seed, rest @ ..] = data else { return };
    let limit = match (how & 8, how & 1) {
        (0, 0) => SMALL,
        (0, _) => LARGE,
        _ => usize::MAX,
    };
    let spoken = if how & 2 == 0 { rest.to_vec() } else { expand_frames(rest) };
    let bytes = if how & 4 == 0 { [request(), spoken].concat() } else { spoken };
    // One codec for all: what a conversation leaves in it must not show in the next.
    let mut codec = codec_of(limit, false);

    let whole = feed(&mut codec, &bytes, limit, |left| left);
    check_output(&whole, bytes.len());
    let mut state = u32::from(*seed) + 1;
    let cut = feed(&mut codec, &bytes, limit, |_| {
        // xorshift, to draw pieces of some bytes, mostly.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        1 + (state >> 8) as usize % if state % 7 == 0 { 2_000 } else { 40 }
    });
    assert_same(&whole, &cut);
    if bytes.len() < 1_000 {
        assert_same(&whole, &feed(&mut codec, &bytes, limit, |_| 1));
    }
}

/// Frames in short: the first byte, the length of the payload, the payload, which is masked here.
/// A length over 250 says that a header follows which claims the eight bytes after it as length,
/// and nothing else.
fn expand_frames(mut rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let [first, length, more @ ..] = rest {
        rest = more;
        if *length > 250 {
            let Some((claimed, more)) = rest.split_first_chunk() else { break };
            bytes.extend(header(*first, u64::from_be_bytes(*claimed), [1, 2, 3, 4]));
            rest = more;
        } else {
            let (payload, more) = rest.split_at(rest.len().min(usize::from(*length)));
            bytes.extend(frame(*first, payload));
            rest = more;
        }
    }
    bytes
}

fn feed(
    codec: &mut Codec,
    mut bytes: &[u8],
    limit: usize,
    mut piece: impl FnMut(usize) -> usize,
) -> WireSession {
    let mut session = WireSession::default();
    while !bytes.is_empty() {
        let (now, later) = bytes.split_at(piece(bytes.len()).clamp(1, bytes.len()));
        session.feed(codec, now);
        let kept = session.wire.held_bytes();
        // Fragments up to the limit, and a frame; a header has fourteen bytes at most.
        let may_be_kept = if session.wire.is_in_handshake() {
            HEAD_BYTES_MAX + 1
        } else {
            limit.saturating_mul(2).saturating_add(14)
        };
        assert!(kept <= may_be_kept, "{kept} bytes are kept");
        bytes = later;
    }
    session
}

fn assert_same(whole: &WireSession, cut: &WireSession) {
    assert_eq!(whole.events, cut.events, "the cuts show");
    assert_eq!(whole.output, cut.output, "the cuts show");
    assert_eq!(whole.wire.is_closing(), cut.wire.is_closing(), "the cuts show");
    assert_eq!(whole.wire.has_partial_message(), cut.wire.has_partial_message(), "the cuts show");
}

fn check_output(session: &WireSession, received: usize) {
    let output = &session.output;
    assert!(output.len() <= received + ANSWER_BYTES_MAX, "more goes out than comes in");
    if output.is_empty() {
        assert!(session.wire.is_in_handshake() || session.events.is_empty());
        return;
    }
    assert!(output.starts_with(b"HTTP/1.1 "), "the answer to the request comes first");
    if !matches!(session.events.first(), Some(Event::Opened(_))) {
        assert!(session.wire.is_closing(), "an answer that opens nothing is the last");
        return;
    }
    let head = output.windows(4).position(|end| end == b"\r\n\r\n").expect("a head ends") + 4;
    let frames = server_frames(&output[head..]);
    for (n, (first, payload)) in frames.iter().enumerate() {
        assert!(payload.len() <= 125, "a control frame is short");
        match *first {
            PONG => {}
            CLOSE => {
                assert_eq!(n + 1, frames.len(), "nothing follows a close");
                assert!(session.wire.is_closing());
                check_close(payload);
            }
            other => panic!("a wire says {other:#x} of itself"),
        }
    }
}

/// RFC 6455 sections 5.5.1 and 7.4.
fn check_close(payload: &[u8]) {
    match payload {
        [] => {}
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            assert!(may_be_sent, "close code {code}");
            assert!(std::str::from_utf8(reason).is_ok(), "a reason is UTF-8");
        }
        [_] => panic!("half a close code"),
    }
}

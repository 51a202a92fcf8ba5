//! Fuzz target: feeds any bytes, split anywhere, to a wire.
//!
//! The second byte of a case is the seed of the pieces into which it is split. The bits of the first
//! byte say how to read the rest:
//!
//! * bit 0: with a large message limit, else with a small one; bit 3: without a limit;
//! * bit 1: the rest is frames in a short notation, see [`expand_frames`]; else it is raw bytes;
//! * bit 2: without an upgrade request in front.

#[path = "../bytes.rs"]
mod bytes;

use buddyline::wire::{Codec, Event};
use bytes::*;

const SMALL: usize = 100;
const LARGE: usize = 40_000;

/// The limit of a request head that [`codec_of`] sets.
const HEAD_BYTES_MAX: usize = 8_192;

/// More bytes than a close frame and any response have without the try-it page.
const ANSWER_BYTES_MAX: usize = 1_024;

/// Checks that nothing panics, that events and output do not depend on how the bytes are split, that
/// the output is complete frames that a server may send and not longer than the input, and that the
/// memory for an incomplete frame or request is bounded.
pub fn run(data: &[u8]) {
    let [how, seed, rest @ ..] = data else { return };
    let limit = match (how & 8, how & 1) {
        (0, 0) => SMALL,
        (0, _) => LARGE,
        _ => usize::MAX,
    };
    let spoken = if how & 2 == 0 { rest.to_vec() } else { expand_frames(rest) };
    let bytes = if how & 4 == 0 { [request(), spoken].concat() } else { spoken };
    // One codec for all sessions: data left by one session must not leak into the next.
    let mut codec = codec_of(limit, false);

    let whole = feed(&mut codec, &bytes, limit, |left| left);
    check_output(&whole, bytes.len());
    let mut state = u32::from(*seed) + 1;
    let cut = feed(&mut codec, &bytes, limit, |_| {
        // xorshift; most pieces have at most 40 bytes.
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

/// Expands the short notation of frames: the first byte, the length of the payload, and the payload,
/// which is masked here. After a length over 250, the next eight bytes are the length that a header
/// without a payload claims.
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
        // Fragments up to the limit, and one frame; a frame header has at most 14 bytes.
        let kept_max = if session.wire.is_in_handshake() {
            HEAD_BYTES_MAX + 1
        } else {
            limit.saturating_mul(2).saturating_add(14)
        };
        assert!(kept <= kept_max, "{kept} bytes are kept");
        bytes = later;
    }
    session
}

fn assert_same(whole: &WireSession, cut: &WireSession) {
    assert_eq!(whole.events, cut.events, "splitting changes the events");
    assert_eq!(whole.output, cut.output, "splitting changes the output");
    assert_eq!(whole.wire.is_closing(), cut.wire.is_closing(), "splitting changes the state");
    let partial = [whole, cut].map(|session| session.wire.has_partial_message());
    assert_eq!(partial[0], partial[1], "splitting changes the state");
}

fn check_output(session: &WireSession, received: usize) {
    let output = &session.output;
    assert!(output.len() <= received + ANSWER_BYTES_MAX, "the output is longer than the input");
    if output.is_empty() {
        assert!(session.wire.is_in_handshake() || session.events.is_empty());
        return;
    }
    assert!(output.starts_with(b"HTTP/1.1 "), "the response to the request comes first");
    if !matches!(session.events.first(), Some(Event::Opened(_))) {
        assert!(session.wire.is_closing(), "a response that does not upgrade ends the connection");
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
            other => panic!("the wire sent a frame with first byte {other:#x}"),
        }
    }
}

/// Checks the payload of a close frame against RFC 6455 sections 5.5.1 and 7.4.
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

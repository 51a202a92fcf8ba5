//! Random input: no panic, and no effect on other connections of the same codec.

use buddyline::protocol::IdKey;
use buddyline::protocol::call::RelayedFrame;
use buddyline::protocol::client::parse;
use buddyline::wire::Event;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::support::bytes::*;
use crate::support::strategies;

/// A message limit in bytes, small enough for random messages to reach it.
const SMALL: usize = 2_000;

/// A frame of a client, valid or nearly valid.
fn a_frame() -> impl Strategy<Value = Vec<u8>> {
    let firsts = [
        TEXT,
        TEXT,
        BINARY,
        PING,
        PONG,
        CLOSE,
        TEXT_FRAGMENT,
        0x02,
        CONTINUATION,
        LAST_CONTINUATION,
    ];
    let payload = prop_oneof![
        8 => vec(any::<u8>(), 0..40),
        8 => "\\PC{0,20}".prop_map(String::into_bytes),
        2 => vec(any::<u8>(), 100..300),
        1 => (SMALL - 2..SMALL + 3).prop_map(|length| vec![b'x'; length]),
    ];
    (select(firsts.to_vec()), payload).prop_map(|(first, payload)| frame(first, &payload))
}

/// Frames, some of them corrupted, mixed with random bytes.
fn random_frames() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        10 => a_frame(),
        1 => vec(any::<u8>(), 0..30),
        1 => (any::<u8>(), any::<u64>()).prop_map(|(first, n)| header(first, n, [9; 4])),
    ];
    let flips = vec((any::<Index>(), any::<u8>()), 0..3);
    (vec(part, 0..20), flips).prop_map(|(parts, flips)| {
        let mut bytes = parts.concat();
        if !bytes.is_empty() {
            for (at, with) in flips {
                *at.get_mut(&mut bytes) ^= with;
            }
        }
        bytes
    })
}

fn pieces(bytes: &[u8], cuts: &[Index]) -> Vec<Vec<u8>> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|ends| bytes[ends[0]..ends[1]].to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_do_not_affect_other_wires_on_the_codec(
        random_frames in random_frames(),
        cuts in vec(any::<Index>(), 0..12),
        messages in vec("\\PC{1,30}", 4..12),
        fragmented in any::<u16>(),
        other_cuts in vec(any::<Index>(), 0..12),
    ) {
        let mut codec = codec_of(SMALL, false);
        let mut wild = WireSession::open(&mut codec);
        let mut good = WireSession::open(&mut codec);
        let script: Vec<u8> = messages.iter().enumerate().flat_map(|(n, message)| {
            if fragmented >> n & 1 == 0 {
                return text(message);
            }
            // Split in the middle, which may be within a character.
            let (start, rest) = message.as_bytes().split_at(message.len() / 2);
            [frame(TEXT_FRAGMENT, start), frame(PING, b"p"), frame(LAST_CONTINUATION, rest)].concat()
        }).collect();
        let mut wild_pieces = pieces(&random_frames, &cuts).into_iter();
        let mut good_pieces = pieces(&script, &other_cuts).into_iter();
        loop {
            let (wild_piece, good_piece) = (wild_pieces.next(), good_pieces.next());
            if wild_piece.is_none() && good_piece.is_none() {
                break;
            }
            wild.feed(&mut codec, &wild_piece.unwrap_or_default());
            good.feed(&mut codec, &good_piece.unwrap_or_default());
        }
        let expected: Vec<&str> = messages.iter().map(String::as_str).collect();
        prop_assert_eq!(good.texts(), expected);
        let events = good.events.iter().filter(|event| **event != Event::Control);
        prop_assert_eq!(events.count(), messages.len());
        // The wild connection gets only complete control frames.
        for (first, payload) in wild.frames() {
            prop_assert!(matches!(first, PONG | CLOSE) && payload.len() <= 125);
        }
        prop_assert_eq!(wild.wire.is_closing(), !wild.frames().iter().all(|(f, _)| *f == PONG));
    }

    #[test]
    fn fragmentation_of_random_bytes_changes_nothing(random_frames in random_frames(), cuts in vec(any::<Index>(), 0..12)) {
        let mut codec = codec_of(SMALL, false);
        let mut whole = WireSession::open(&mut codec);
        whole.feed(&mut codec, &random_frames);
        let mut cut = WireSession::open(&mut codec);
        for piece in pieces(&random_frames, &cuts) {
            cut.feed(&mut codec, &piece);
        }
        prop_assert_eq!(&cut.events, &whole.events);
        prop_assert_eq!(&cut.output, &whole.output);
    }

    #[test]
    fn random_bytes_as_request_do_not_panic(
        start in select(&["", "GET / HTTP/1.1\r\nHost: x\r\n", "GET ", "\r\n"][..]),
        noise in vec(any::<u8>(), 0..300),
        cuts in vec(any::<Index>(), 0..6),
    ) {
        let bytes = [start.as_bytes(), &noise].concat();
        let mut codec = codec_of(SMALL, true);
        let mut whole = WireSession::default();
        whole.feed(&mut codec, &bytes);
        let mut cut = WireSession::default();
        for piece in pieces(&bytes, &cuts) {
            cut.feed(&mut codec, &piece);
        }
        prop_assert_eq!(&cut.output, &whole.output);
        prop_assert!(whole.output.is_empty() || whole.output.starts_with(b"HTTP/1.1 "));
    }
}

/// The length, in characters, of the longest part of `theirs` that occurs in `ours`.
fn longest_quote(theirs: &str, ours: &str) -> usize {
    let theirs: Vec<char> = theirs.chars().collect();
    let mut longest = 0;
    for start in 0..theirs.len() {
        while start + longest < theirs.len() {
            let quote: String = theirs[start..=start + longest].iter().collect();
            if !ours.contains(&quote) {
                break;
            }
            longest += 1;
        }
    }
    longest
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn random_text_is_a_frame_or_an_error(
        text in strategies::any_text()
    ) {
        let (_, frame) = parse(&text);
        if let Err(fault) = frame {
            prop_assert!(!fault.text.is_empty() && fault.text.len() < 600, "{}", fault.text);
        }
        // The server relays only parsed frames, but this must not panic on any text either.
        let _ = RelayedFrame::read(&text, &IdKey::Number(2));
    }

    #[test]
    fn parse_error_quotes_little_and_never_a_token(
        frame in strategies::near_valid_frame(),
        // Letters that the error texts do not contain.
        token in "[QXZ]{12,80}",
        wrong in "[JKVW]{41,200}",
        kind in select(&["type", "message", "userId", "threadId", "typing", "candidate", "x"][..]),
    ) {
        let frame = frame.trim_end_matches('}');
        let text = format!(r#"{frame},"token":"{token}","{kind}":"{wrong}"}}"#);
        let bad_token = format!(r#"{frame},"token":["{token}"]}}"#);
        let cut_off = format!(r#"{frame},"token":"{token}"#);
        let alone = format!(r#"{{"type":"{wrong}","token":"{token}"}}"#);
        for text in [text, bad_token, cut_off, alone] {
            for fault in [parse(&text).1.err(), RelayedFrame::read(&text, &IdKey::Number(2)).err()].into_iter().flatten() {
                prop_assert!(!fault.text.contains(&token[..8]), "{}", fault.text);
                prop_assert!(longest_quote(&wrong, &fault.text) <= 40, "{}", fault.text);
            }
        }
    }
}

#[test]
fn nesting_of_any_depth_does_not_panic() {
    for depth in [1_000, 100_000] {
        for text in [
            "[".repeat(depth),
            "{\"a\":".repeat(depth),
            format!("{}1{}", "[".repeat(depth), "]".repeat(depth)),
            format!(
                r#"{{"type":"offer","offer":{}1{}}}"#,
                "{\"a\":".repeat(depth),
                "}".repeat(depth)
            ),
        ] {
            let _ = parse(&text);
            let _ = RelayedFrame::read(&text, &IdKey::Number(2));
        }
    }
}

//! WebSocket framing without sockets: events and output do not depend on how the input is split.

use buddyline::wire::outbox::Outbox;
use buddyline::wire::{Codec, Event, Wire};

use crate::support::bytes::*;

fn codec() -> Codec {
    codec_of(LIMIT, true)
}

fn texts(texts: &[&str]) -> Vec<Event<'static>> {
    texts.iter().map(|text| Event::Text((*text).to_owned().into())).collect()
}

/// A byte stream with every kind of frame, and the events that it must cause.
fn conversation(long: &str) -> (Vec<u8>, Vec<Event<'static>>) {
    let medium = "m".repeat(300);
    let bytes = [
        request(),
        text("{\"type\":\"ping\"}"),
        frame(PING, b"are you there"),
        text(""),
        frame(TEXT_FRAGMENT, "fr\u{e4}".as_bytes()),
        frame(PING, b"between"),
        frame(CONTINUATION, b"gmen"),
        frame(PONG, b"unasked"),
        frame(LAST_CONTINUATION, b"ts"),
        text(&medium),
        text(long),
        frame(BINARY, &[0xff; 9]),
        frame(CLOSE, b"\x03\xe8bye"),
        text("too late"),
    ];
    let mut events = vec![opened()];
    let messages = ["{\"type\":\"ping\"}", "", "fr\u{e4}gments", &medium, long];
    events.extend(texts(&messages));
    events.extend([Event::Binary(vec![0xff; 9].into()), Event::Closing]);
    (bytes.concat(), events)
}

#[test]
fn input_split_at_any_byte_parses_the_same() {
    let (bytes, events) = conversation("l");
    let mut codec = codec();
    let mut whole = WireSession::default();
    whole.feed(&mut codec, &bytes);
    assert_eq!(whole.events, events);
    let frames =
        &whole.output[whole.output.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4..];
    let pong = |payload: &[u8]| (PONG, payload.to_vec());
    let answers = [pong(b"are you there"), pong(b"between"), (CLOSE, b"\x03\xe8bye".to_vec())];
    assert_eq!(server_frames(frames), answers);

    for cut in 0..=bytes.len() {
        let mut session = WireSession::default();
        session.feed(&mut codec, &bytes[..cut]);
        session.feed(&mut codec, &bytes[cut..]);
        assert_eq!(session.events, events, "cut at {cut}");
        assert_eq!(session.output, whole.output, "cut at {cut}");
    }
}

#[test]
fn input_fed_byte_by_byte_parses_the_same() {
    let (bytes, events) = conversation(&"x".repeat(2_000));
    let mut codec = codec();
    let mut whole = WireSession::default();
    whole.feed(&mut codec, &bytes);
    let mut drip = WireSession::default();
    for byte in &bytes {
        drip.feed(&mut codec, &[*byte]);
    }
    assert_eq!(drip.events, events);
    assert_eq!(drip.output, whole.output);
}

#[test]
fn large_text_survives_fragmented_reads() {
    let long = "0123456789".repeat(7_000);
    let (bytes, events) = conversation(&long);
    let mut codec = codec();
    // Every cut near the start and the end of the long frame, and some within it.
    let ends = bytes.len() - 60..=bytes.len();
    let begins = 500..=1_000;
    for cut in (0..bytes.len()).step_by(7_001).chain(begins).chain(ends) {
        let mut session = WireSession::default();
        session.feed(&mut codec, &bytes[..cut]);
        session.feed(&mut codec, &bytes[cut..]);
        assert_eq!(session.events, events, "cut at {cut}");
    }
    for piece in [1_000, 1_024, 4_096, 65_536] {
        let mut session = WireSession::default();
        for part in bytes.chunks(piece) {
            session.feed(&mut codec, part);
        }
        assert_eq!(session.events, events, "in pieces of {piece}");
    }
}

#[test]
fn frame_in_the_same_packet_as_the_request_is_read() {
    let mut codec = codec();
    let mut session = WireSession::default();
    session.feed(&mut codec, &[request(), text("first"), text("second")].concat());
    assert_eq!(session.events[0], opened());
    assert_eq!(session.texts(), ["first", "second"]);
}

#[test]
fn every_pong_carries_the_payload_of_its_ping() {
    let mut codec = codec();
    let mut session = WireSession::open(&mut codec);
    let longest = [b'p'; 125];
    let pings = [frame(PING, b""), frame(PING, b"\x00\xff"), frame(PING, &longest)];
    session.feed(&mut codec, &pings.concat());
    let pongs = [(PONG, vec![]), (PONG, b"\x00\xff".to_vec()), (PONG, longest.to_vec())];
    assert_eq!(session.frames(), pongs);
    assert!(session.events.is_empty());
}

#[test]
fn a_close_is_answered_with_the_same_code() {
    for code in [1000, 1001, 1011, 3000, 4401, 4999] {
        let mut codec = codec();
        let mut session = WireSession::open(&mut codec);
        session.feed(&mut codec, &close(code));
        assert_eq!(session.events, [Event::Closing]);
        assert_eq!(session.close_code(), Some(code));
    }
    let mut codec = codec();
    let mut session = WireSession::open(&mut codec);
    session.feed(&mut codec, &frame(CLOSE, b""));
    assert_eq!(session.frames(), [(CLOSE, vec![])], "a close without a code");
}

/// Feeds bytes that break a rule. Only `Closing` may follow, with this close code, and other wires
/// on the same codec must not be affected.
fn breaks(rule: &str, code: u16, bytes: &[u8]) {
    let mut codec = codec();
    let mut bystander = WireSession::open(&mut codec);
    bystander.feed(&mut codec, &frame(TEXT_FRAGMENT, b"half "));
    let mut cut_off = WireSession::open(&mut codec);
    let other = text("of one piece");
    cut_off.feed(&mut codec, &other[..8]);

    let mut session = WireSession::open(&mut codec);
    session.feed(&mut codec, bytes);
    assert_eq!(session.events, [Event::Closing], "{rule}");
    assert_eq!(session.close_code(), Some(code), "{rule}");
    let written = session.output.len();
    session.feed(&mut codec, &[text("more"), frame(PING, b"hello?"), close(1000)].concat());
    assert_eq!(session.output.len(), written, "{rule}: nothing follows a close");
    assert!(session.wire.is_closing());

    // Other wires on the codec are not affected, even in the middle of a message or frame.
    bystander.feed(&mut codec, &frame(LAST_CONTINUATION, b"done"));
    assert_eq!(bystander.texts(), ["half done"], "{rule}");
    cut_off.feed(&mut codec, &other[8..]);
    assert_eq!(cut_off.texts(), ["of one piece"], "{rule}");
    let mut newcomer = WireSession::open(&mut codec);
    newcomer.feed(&mut codec, &[text("hello"), frame(PING, b"x")].concat());
    assert_eq!(newcomer.texts(), ["hello"], "{rule}");
    assert_eq!(newcomer.frames(), [(PONG, b"x".to_vec())], "{rule}");
}

#[test]
fn a_frame_without_a_mask_closes_with_1002() {
    breaks("an unmasked text frame", 1002, b"\x81\x05hello");
    breaks("an unmasked control frame", 1002, b"\x89\x00");
}

#[test]
fn a_text_that_is_not_utf_8_closes_with_1007() {
    breaks("a lone continuation byte", 1007, &frame(TEXT, b"abc\x80def"));
    breaks("a surrogate", 1007, &frame(TEXT, b"\xed\xa0\x80"));
    breaks("cut off in a character", 1007, &frame(TEXT, b"\xf0\x9f\x98"));
    let begin = frame(TEXT_FRAGMENT, b"\xf0\x9f");
    breaks("over fragments", 1007, &[begin.clone(), frame(LAST_CONTINUATION, b"x")].concat());
    breaks("in the last fragment", 1007, &[begin, frame(LAST_CONTINUATION, b"\x98")].concat());
}

#[test]
fn a_character_may_be_split_over_fragments() {
    let mut codec = codec();
    let mut session = WireSession::open(&mut codec);
    let smile = "\u{1f600}".as_bytes();
    let fragments = [
        frame(TEXT_FRAGMENT, &smile[..1]),
        frame(CONTINUATION, &smile[1..3]),
        frame(LAST_CONTINUATION, &smile[3..]),
    ];
    session.feed(&mut codec, &fragments.concat());
    assert_eq!(session.texts(), ["\u{1f600}"]);
}

#[test]
fn reserved_opcodes_and_bits_close_with_1002() {
    for opcode in [0x3, 0x7, 0xb, 0xf] {
        breaks("a reserved opcode", 1002, &frame(0x80 | opcode, b"x"));
    }
    for bit in [0x40, 0x20, 0x10] {
        breaks("a reserved bit", 1002, &frame(TEXT | bit, b"x"));
    }
}

#[test]
fn control_frames_are_short_and_whole_or_close_with_1002() {
    for first in [PING, PONG, CLOSE] {
        breaks("over 125 bytes", 1002, &frame(first, &[b'x'; 126]));
        breaks("fragmented", 1002, &frame(first & 0x0f, b"x"));
    }
}

#[test]
fn fragments_out_of_order_close_with_1002() {
    breaks("a continuation without a start", 1002, &frame(CONTINUATION, b"x"));
    breaks("an end without a start", 1002, &frame(LAST_CONTINUATION, b"x"));
    let two = [frame(TEXT_FRAGMENT, b"x"), text("y")].concat();
    breaks("a text within a text", 1002, &two);
    let twice = [frame(TEXT_FRAGMENT, b"x"), frame(TEXT_FRAGMENT, b"y")].concat();
    breaks("a start within a text", 1002, &twice);
}

#[test]
fn malformed_close_frame_closes_with_an_error() {
    breaks("half a code", 1002, &frame(CLOSE, b"\x03"));
    breaks("a code that may not be sent", 1002, &close(1005));
    breaks("a code below 1000", 1002, &close(999));
    breaks("a reason that is not UTF-8", 1007, &frame(CLOSE, b"\x03\xe8\xff"));
}

#[test]
fn message_at_the_limit_passes_and_one_byte_more_fails() {
    let mut codec = codec();
    let largest = "x".repeat(LIMIT);
    let mut session = WireSession::open(&mut codec);
    session.feed(&mut codec, &text(&largest));
    assert_eq!(session.texts(), [largest.as_str()]);
    let mut session = WireSession::open(&mut codec);
    let (half, rest) = largest.as_bytes().split_at(LIMIT / 2);
    session
        .feed(&mut codec, &[frame(TEXT_FRAGMENT, half), frame(LAST_CONTINUATION, rest)].concat());
    assert_eq!(session.texts(), [largest.as_str()], "in fragments");

    breaks("one byte more", 1009, &frame(TEXT, &vec![b'x'; LIMIT + 1]));
    let (half, rest) =
        (frame(TEXT_FRAGMENT, half), frame(LAST_CONTINUATION, &[rest, b"x"].concat()));
    breaks("one byte more in fragments", 1009, &[half, rest].concat());
}

#[test]
fn oversized_message_is_refused_by_its_header() {
    for length in [LIMIT as u64 + 1, u64::from(u32::MAX), 1 << 40, i64::MAX as u64, u64::MAX] {
        breaks("a length over the limit", 1009, &header(TEXT, length, [1, 2, 3, 4]));
    }
    let many: Vec<u8> = std::iter::once(frame(TEXT_FRAGMENT, &[b'x'; 1_000]))
        .chain(std::iter::repeat_n(frame(CONTINUATION, &[b'x'; 1_000]), LIMIT / 1_000 + 1))
        .flatten()
        .collect();
    breaks("fragments without an end", 1009, &many);
}

#[test]
fn impossible_length_is_refused_even_without_a_limit() {
    let mut codec = codec_of(usize::MAX, false);
    let mut session = WireSession::open(&mut codec);
    session.feed(&mut codec, &[&header(TEXT, u64::MAX, [1; 4])[..], b"some bytes"].concat());
    assert_eq!(session.close_code(), Some(1009));
}

#[test]
fn protocol_violations_are_refused_in_any_fragmentation() {
    for (code, bytes) in [
        (1002, b"\x81\x05hello".to_vec()),
        (1002, frame(0x83, b"x")),
        (1002, frame(LAST_CONTINUATION, b"x")),
        (1002, frame(PING, &[0; 126])),
        (1007, frame(TEXT, b"\xff")),
        (1009, header(TEXT, 1 << 32, [0; 4])),
    ] {
        for cut in 0..=bytes.len() {
            let mut codec = codec();
            let mut session = WireSession::open(&mut codec);
            session.feed(&mut codec, &bytes[..cut]);
            session.feed(&mut codec, &bytes[cut..]);
            assert_eq!(session.close_code(), Some(code), "{bytes:?} cut at {cut}");
        }
    }
}

#[test]
fn close_frame_is_the_last_output() {
    for in_fragments in [false, true] {
        let mut codec = codec();
        let mut session = WireSession::open(&mut codec);
        if in_fragments {
            session.feed(&mut codec, &frame(TEXT_FRAGMENT, b"x"));
        }
        let mut outbox = Outbox::default();
        session.wire.close(1001, "bye", &mut outbox);
        let size = 2 + 2 + "bye".len();
        assert_eq!(outbox.bytes(), size);
        session.wire.close(1013, "again", &mut outbox);
        assert_eq!(outbox.bytes(), size, "closed once");
        session.feed(&mut codec, &[frame(PING, b"x"), close(1000), text("x")].concat());
        assert!(session.events.is_empty() && session.output.is_empty());
    }
}

#[test]
fn closing_an_unopened_wire_writes_nothing() {
    let mut outbox = Outbox::default();
    let mut wire = Wire::new(PEER);
    assert!(wire.is_in_handshake());
    wire.close(1001, "bye", &mut outbox);
    assert!(outbox.is_empty(), "no close frame before the upgrade");
    assert!(wire.is_closing() && !wire.is_in_handshake());
}

#[test]
fn wires_sharing_a_codec_do_not_mix() {
    let mut codec = codec();
    let mut sessions: Vec<WireSession> = (0..40).map(|_| WireSession::open(&mut codec)).collect();
    let scripts: Vec<Vec<u8>> = (0..sessions.len())
        .map(|n| {
            let name = format!("talk {n} ");
            let fragments = [
                frame(TEXT_FRAGMENT, name.as_bytes()),
                frame(CONTINUATION, b"in "),
                frame(LAST_CONTINUATION, b"parts"),
            ];
            [text(&name), fragments.concat(), frame(PING, name.as_bytes()), text(&name)].concat()
        })
        .collect();
    let longest = scripts.iter().map(Vec::len).max().unwrap();
    // All sessions in turn, each with pieces of a different size.
    for turn in 0..longest {
        for (n, (session, script)) in sessions.iter_mut().zip(&scripts).enumerate() {
            let piece = n % 7 + 1;
            let from = (turn * piece).min(script.len());
            let to = (from + piece).min(script.len());
            session.feed(&mut codec, &script[from..to]);
        }
    }
    for (n, session) in sessions.iter().enumerate() {
        let name = format!("talk {n} ");
        assert_eq!(session.texts(), [&name, &format!("{name}in parts"), &name]);
        assert_eq!(session.frames(), [(PONG, name.into_bytes())]);
    }
}

#[test]
fn idle_wire_holds_no_bytes() {
    assert!(size_of::<Wire>() <= 48, "{} bytes for each connection", size_of::<Wire>());
    let mut codec = codec();
    let fresh = format!("{:?}", WireSession::open(&mut codec).wire);
    let mut session = WireSession::open(&mut codec);
    let long = text(&"x".repeat(100_000));
    for cut in [1, 5, 50_000] {
        session.feed(&mut codec, &long[..cut]);
        session.feed(&mut codec, &long[cut..]);
        session.feed(
            &mut codec,
            &[frame(TEXT_FRAGMENT, b"a"), frame(LAST_CONTINUATION, b"b")].concat(),
        );
        // The debug output shows that no bytes are held; the capacity is not public.
        assert_eq!(format!("{:?}", session.wire), fresh, "cut at {cut}");
    }
}

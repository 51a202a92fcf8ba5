//! Frames without sockets: whatever the cuts, the same events and the same bytes.

#![allow(clippy::unwrap_used)]

#[path = "support/bytes.rs"]
mod bytes;

use buddyline::wire::outbox::Outbox;
use buddyline::wire::{Codec, Event, Wire};
use bytes::*;

fn codec() -> Codec {
    codec_of(LIMIT, true)
}

fn texts(texts: &[&str]) -> Vec<Event<'static>> {
    texts.iter().map(|text| Event::Text((*text).to_owned().into())).collect()
}

/// A conversation with something of everything, and what is to be heard of it.
fn conversation(long: &str) -> (Vec<u8>, Vec<Event<'static>>) {
    let medium = "m".repeat(300);
    let bytes = [
        request(),
        text("{\"type\":\"ping\"}"),
        frame(PING, b"are you there"),
        text(""),
        frame(TEXT_BEGINS, "fr\u{e4}".as_bytes()),
        frame(PING, b"between"),
        frame(GOES_ON, b"gmen"),
        frame(PONG, b"unasked"),
        frame(ENDS, b"ts"),
        text(&medium),
        text(long),
        frame(BINARY, &[0xff; 9]),
        frame(CLOSE, b"\x03\xe8bye"),
        text("too late"),
    ];
    let mut events = vec![opened()];
    let said = ["{\"type\":\"ping\"}", "", "fr\u{e4}gments", &medium, long];
    events.extend(texts(&said));
    events.extend([Event::Binary(vec![0xff; 9].into()), Event::Closing]);
    (bytes.concat(), events)
}

#[test]
fn a_conversation_cut_at_any_byte_is_the_same_conversation() {
    let (bytes, events) = conversation("l");
    let mut codec = codec();
    let mut whole = Talk::default();
    whole.hear(&mut codec, &bytes);
    assert_eq!(whole.events, events);
    let frames =
        &whole.output[whole.output.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4..];
    let pong = |payload: &[u8]| (PONG, payload.to_vec());
    let answers = [pong(b"are you there"), pong(b"between"), (CLOSE, b"\x03\xe8bye".to_vec())];
    assert_eq!(server_frames(frames), answers);

    for cut in 0..=bytes.len() {
        let mut talk = Talk::default();
        talk.hear(&mut codec, &bytes[..cut]);
        talk.hear(&mut codec, &bytes[cut..]);
        assert_eq!(talk.events, events, "cut at {cut}");
        assert_eq!(talk.output, whole.output, "cut at {cut}");
    }
}

#[test]
fn a_conversation_that_drips_in_byte_by_byte_is_the_same_conversation() {
    let (bytes, events) = conversation(&"x".repeat(2_000));
    let mut codec = codec();
    let mut whole = Talk::default();
    whole.hear(&mut codec, &bytes);
    let mut drip = Talk::default();
    for byte in &bytes {
        drip.hear(&mut codec, &[*byte]);
    }
    assert_eq!(drip.events, events);
    assert_eq!(drip.output, whole.output);
}

#[test]
fn a_text_of_seventy_thousand_bytes_survives_its_cuts() {
    let long = "0123456789".repeat(7_000);
    let (bytes, events) = conversation(&long);
    let mut codec = codec();
    // Around the long frame's beginning and end every cut, within it some.
    let ends = bytes.len() - 60..=bytes.len();
    let begins = 500..=1_000;
    for cut in (0..bytes.len()).step_by(7_001).chain(begins).chain(ends) {
        let mut talk = Talk::default();
        talk.hear(&mut codec, &bytes[..cut]);
        talk.hear(&mut codec, &bytes[cut..]);
        assert_eq!(talk.events, events, "cut at {cut}");
    }
    for piece in [1_000, 1_024, 4_096, 65_536] {
        let mut talk = Talk::default();
        for part in bytes.chunks(piece) {
            talk.hear(&mut codec, part);
        }
        assert_eq!(talk.events, events, "in pieces of {piece}");
    }
}

#[test]
fn a_frame_in_the_same_packet_as_the_request_is_heard() {
    let mut codec = codec();
    let mut talk = Talk::default();
    talk.hear(&mut codec, &[request(), text("first"), text("second")].concat());
    assert_eq!(talk.events[0], opened());
    assert_eq!(talk.texts(), ["first", "second"]);
}

#[test]
fn every_pong_carries_the_payload_of_its_ping() {
    let mut codec = codec();
    let mut talk = Talk::open(&mut codec);
    let longest = [b'p'; 125];
    let pings = [frame(PING, b""), frame(PING, b"\x00\xff"), frame(PING, &longest)];
    talk.hear(&mut codec, &pings.concat());
    let pongs = [(PONG, vec![]), (PONG, b"\x00\xff".to_vec()), (PONG, longest.to_vec())];
    assert_eq!(talk.frames(), pongs);
    assert!(talk.events.is_empty());
}

#[test]
fn a_close_is_answered_with_the_same_code() {
    for code in [1000, 1001, 1011, 3000, 4401, 4999] {
        let mut codec = codec();
        let mut talk = Talk::open(&mut codec);
        talk.hear(&mut codec, &close(code));
        assert_eq!(talk.events, [Event::Closing]);
        assert_eq!(talk.close_code(), Some(code));
    }
    let mut codec = codec();
    let mut talk = Talk::open(&mut codec);
    talk.hear(&mut codec, &frame(CLOSE, b""));
    assert_eq!(talk.frames(), [(CLOSE, vec![])], "a close without a code");
}

/// Feeds what breaks a rule: nothing may be heard of it, and the close code says which rule.
fn breaks(rule: &str, code: u16, bytes: &[u8]) {
    let mut codec = codec();
    let mut bystander = Talk::open(&mut codec);
    bystander.hear(&mut codec, &frame(TEXT_BEGINS, b"half "));
    let mut cut_off = Talk::open(&mut codec);
    let other = text("of one piece");
    cut_off.hear(&mut codec, &other[..8]);

    let mut talk = Talk::open(&mut codec);
    talk.hear(&mut codec, bytes);
    assert_eq!(talk.events, [Event::Closing], "{rule}");
    assert_eq!(talk.close_code(), Some(code), "{rule}");
    let said = talk.output.len();
    talk.hear(&mut codec, &[text("more"), frame(PING, b"hello?"), close(1000)].concat());
    assert_eq!(talk.output.len(), said, "{rule}: nothing follows a close");
    assert!(talk.wire.is_closing());

    // Others who share the codec hear nothing of it, whatever they are in the middle of.
    bystander.hear(&mut codec, &frame(ENDS, b"done"));
    assert_eq!(bystander.texts(), ["half done"], "{rule}");
    cut_off.hear(&mut codec, &other[8..]);
    assert_eq!(cut_off.texts(), ["of one piece"], "{rule}");
    let mut newcomer = Talk::open(&mut codec);
    newcomer.hear(&mut codec, &[text("hello"), frame(PING, b"x")].concat());
    assert_eq!(newcomer.texts(), ["hello"], "{rule}");
    assert_eq!(newcomer.frames(), [(PONG, b"x".to_vec())], "{rule}");
}

#[test]
fn a_frame_without_a_mask_closes_with_1002() {
    breaks("a mask is a duty", 1002, b"\x81\x05hello");
    breaks("also for control frames", 1002, b"\x89\x00");
}

#[test]
fn a_text_that_is_not_utf_8_closes_with_1007() {
    breaks("a lone continuation byte", 1007, &frame(TEXT, b"abc\x80def"));
    breaks("a surrogate", 1007, &frame(TEXT, b"\xed\xa0\x80"));
    breaks("cut off in a character", 1007, &frame(TEXT, b"\xf0\x9f\x98"));
    let begin = frame(TEXT_BEGINS, b"\xf0\x9f");
    breaks("over fragments", 1007, &[begin.clone(), frame(ENDS, b"x")].concat());
    breaks("in the last fragment", 1007, &[begin, frame(ENDS, b"\x98")].concat());
}

#[test]
fn a_character_may_be_split_over_fragments() {
    let mut codec = codec();
    let mut talk = Talk::open(&mut codec);
    let smile = "\u{1f600}".as_bytes();
    let fragments =
        [frame(TEXT_BEGINS, &smile[..1]), frame(GOES_ON, &smile[1..3]), frame(ENDS, &smile[3..])];
    talk.hear(&mut codec, &fragments.concat());
    assert_eq!(talk.texts(), ["\u{1f600}"]);
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
    breaks("a continuation without a start", 1002, &frame(GOES_ON, b"x"));
    breaks("an end without a start", 1002, &frame(ENDS, b"x"));
    let two = [frame(TEXT_BEGINS, b"x"), text("y")].concat();
    breaks("a text within a text", 1002, &two);
    let twice = [frame(TEXT_BEGINS, b"x"), frame(TEXT_BEGINS, b"y")].concat();
    breaks("a start within a text", 1002, &twice);
}

#[test]
fn a_close_frame_that_is_no_close_frame_closes_with_an_error() {
    breaks("half a code", 1002, &frame(CLOSE, b"\x03"));
    breaks("a code that may not be sent", 1002, &close(1005));
    breaks("a code below all codes", 1002, &close(999));
    breaks("a reason that is not UTF-8", 1007, &frame(CLOSE, b"\x03\xe8\xff"));
}

#[test]
fn a_message_at_the_limit_is_heard_and_one_byte_more_is_not() {
    let mut codec = codec();
    let largest = "x".repeat(LIMIT);
    let mut talk = Talk::open(&mut codec);
    talk.hear(&mut codec, &text(&largest));
    assert_eq!(talk.texts(), [largest.as_str()]);
    let mut talk = Talk::open(&mut codec);
    let (half, rest) = largest.as_bytes().split_at(LIMIT / 2);
    talk.hear(&mut codec, &[frame(TEXT_BEGINS, half), frame(ENDS, rest)].concat());
    assert_eq!(talk.texts(), [largest.as_str()], "in fragments");

    breaks("one byte more", 1009, &frame(TEXT, &vec![b'x'; LIMIT + 1]));
    let (half, rest) = (frame(TEXT_BEGINS, half), frame(ENDS, &[rest, b"x"].concat()));
    breaks("one byte more in fragments", 1009, &[half, rest].concat());
}

#[test]
fn a_message_that_will_be_too_large_is_refused_before_it_arrives() {
    for length in [LIMIT as u64 + 1, u64::from(u32::MAX), 1 << 40, i64::MAX as u64, u64::MAX] {
        breaks("the header is enough", 1009, &header(TEXT, length, [1, 2, 3, 4]));
    }
    let many: Vec<u8> = std::iter::once(frame(TEXT_BEGINS, &[b'x'; 1_000]))
        .chain(std::iter::repeat_n(frame(GOES_ON, &[b'x'; 1_000]), LIMIT / 1_000 + 1))
        .flatten()
        .collect();
    breaks("fragments without an end", 1009, &many);
}

#[test]
fn a_length_that_cannot_be_is_refused_even_without_a_limit() {
    let mut codec = codec_of(usize::MAX, false);
    let mut talk = Talk::open(&mut codec);
    talk.hear(&mut codec, &[&header(TEXT, u64::MAX, [1; 4])[..], b"some bytes"].concat());
    assert_eq!(talk.close_code(), Some(1009));
}

#[test]
fn what_breaks_a_rule_is_refused_in_any_pieces() {
    for (code, bytes) in [
        (1002, b"\x81\x05hello".to_vec()),
        (1002, frame(0x83, b"x")),
        (1002, frame(ENDS, b"x")),
        (1002, frame(PING, &[0; 126])),
        (1007, frame(TEXT, b"\xff")),
        (1009, header(TEXT, 1 << 32, [0; 4])),
    ] {
        for cut in 0..=bytes.len() {
            let mut codec = codec();
            let mut talk = Talk::open(&mut codec);
            talk.hear(&mut codec, &bytes[..cut]);
            talk.hear(&mut codec, &bytes[cut..]);
            assert_eq!(talk.close_code(), Some(code), "{bytes:?} cut at {cut}");
        }
    }
}

#[test]
fn the_servers_close_is_the_last_thing_it_says() {
    for in_fragments in [false, true] {
        let mut codec = codec();
        let mut talk = Talk::open(&mut codec);
        if in_fragments {
            talk.hear(&mut codec, &frame(TEXT_BEGINS, b"x"));
        }
        let mut outbox = Outbox::default();
        talk.wire.close(1001, "bye", &mut outbox);
        let size = 2 + 2 + "bye".len();
        assert_eq!(outbox.bytes(), size);
        talk.wire.close(1013, "again", &mut outbox);
        assert_eq!(outbox.bytes(), size, "closed once");
        talk.hear(&mut codec, &[frame(PING, b"x"), close(1000), text("x")].concat());
        assert!(talk.events.is_empty() && talk.output.is_empty());
    }
}

#[test]
fn a_wire_that_is_not_open_says_nothing_when_it_is_closed() {
    let mut outbox = Outbox::default();
    let mut wire = Wire::new(PEER);
    assert!(wire.is_in_handshake());
    wire.close(1001, "bye", &mut outbox);
    assert!(outbox.is_empty(), "who has not been answered speaks no WebSocket yet");
    assert!(wire.is_closing() && !wire.is_in_handshake());
}

#[test]
fn many_conversations_on_one_codec_do_not_mix() {
    let mut codec = codec();
    let mut talks: Vec<Talk> = (0..40).map(|_| Talk::open(&mut codec)).collect();
    let scripts: Vec<Vec<u8>> = (0..talks.len())
        .map(|n| {
            let name = format!("talk {n} ");
            let fragments = [
                frame(TEXT_BEGINS, name.as_bytes()),
                frame(GOES_ON, b"in "),
                frame(ENDS, b"parts"),
            ];
            [text(&name), fragments.concat(), frame(PING, name.as_bytes()), text(&name)].concat()
        })
        .collect();
    let longest = scripts.iter().map(Vec::len).max().unwrap();
    // In turns, each with pieces of its own size.
    for turn in 0..longest {
        for (n, (talk, script)) in talks.iter_mut().zip(&scripts).enumerate() {
            let piece = n % 7 + 1;
            let from = (turn * piece).min(script.len());
            let to = (from + piece).min(script.len());
            talk.hear(&mut codec, &script[from..to]);
        }
    }
    for (n, talk) in talks.iter().enumerate() {
        let name = format!("talk {n} ");
        assert_eq!(talk.texts(), [&name, &format!("{name}in parts"), &name]);
        assert_eq!(talk.frames(), [(PONG, name.into_bytes())]);
    }
}

#[test]
fn an_idle_conversation_keeps_nothing() {
    assert!(size_of::<Wire>() <= 48, "{} bytes for each connection", size_of::<Wire>());
    let mut codec = codec();
    let fresh = format!("{:?}", Talk::open(&mut codec).wire);
    let mut talk = Talk::open(&mut codec);
    let long = text(&"x".repeat(100_000));
    for cut in [1, 5, 50_000] {
        talk.hear(&mut codec, &long[..cut]);
        talk.hear(&mut codec, &long[cut..]);
        talk.hear(&mut codec, &[frame(TEXT_BEGINS, b"a"), frame(ENDS, b"b")].concat());
        // No context of its own and no bytes; the capacity has no public name.
        assert_eq!(format!("{:?}", talk.wire), fresh, "cut at {cut}");
    }
}

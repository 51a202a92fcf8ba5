//! Splits the server's output into text frames.

/// The frames in these bytes: the whole frame with its header, and its text.
pub fn frames(mut bytes: &[u8]) -> Vec<(&[u8], &str)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (start, length) = match *bytes {
            [0x81, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
            [0x81, 127, ..] => {
                let length = bytes[2..10].try_into().expect("eight bytes");
                (10, usize::try_from(u64::from_be_bytes(length)).expect("it is in memory"))
            }
            [0x81, short @ ..=125, ..] => (2, usize::from(short)),
            _ => panic!("not a text frame of a server: first bytes {:02x?}", &bytes[..2]),
        };
        let (frame, rest) = bytes.split_at(start + length);
        frames.push((frame, std::str::from_utf8(&frame[start..]).expect("text is UTF-8")));
        bytes = rest;
    }
    frames
}

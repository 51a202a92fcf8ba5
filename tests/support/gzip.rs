//! Builds gzip files without a library: uncompressed blocks, and a decompression bomb.

/// A gzip file of stored (uncompressed) blocks.
pub fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = bytes.chunks(65_535).peekable();
    while let Some(block) = blocks.next() {
        file.push(u8::from(blocks.peek().is_none()));
        let length = block.len() as u16;
        file.extend_from_slice(&length.to_le_bytes());
        file.extend_from_slice(&(!length).to_le_bytes());
        file.extend_from_slice(block);
    }
    let crc = bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1))
        })
    });
    file.extend_from_slice(&(!crc).to_le_bytes());
    file.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    file
}

/// A truncated gzip file that expands to `length` spaces: one space, and then codes of 13 bits that
/// each repeat the last byte 258 times (RFC 1951 3.2.6).
pub fn bomb(length: usize) -> Vec<u8> {
    let again = [1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0];
    let mut bits = vec![1, 1, 0, /* a space: */ 0, 1, 0, 1, 0, 0, 0, 0];
    // From the third byte on, the same thirteen bytes repeat.
    (0..16).for_each(|_| bits.extend_from_slice(&again));
    let byte = |bits: &[u8]| bits.iter().rev().fold(0_u8, |byte, bit| byte << 1 | bit);
    let bytes: Vec<u8> = bits.chunks_exact(8).map(byte).collect();
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    file.extend_from_slice(&bytes[..2]);
    let rest = length / 258 * again.len() / 8;
    file.extend(bytes[2..15].iter().cycle().take(rest));
    file
}

//! What has been read in this tick and is not looked at yet.
//!
//! Sockets are read some dozens in a row, and what they said is looked at after that. Either way is
//! short, and stays in the processor's caches as long as it is gone through again and again; taking
//! turns, each would find them full of the other.

use std::ops::Range;

/// Bytes read from one connection in one tick, which is one read: some four hundred of the smallest
/// frames, each of which may be for a whole thread.
pub(super) const READ_BYTES: usize = 16 * 1024;
/// Reads in a row.
const READS_MAX: usize = 32;

/// What one connection said.
#[derive(Debug)]
pub(super) struct ReadChunk {
    pub(super) slot: u32,
    /// Where in the buffer that is.
    pub(super) range: Range<usize>,
}

/// A buffer that all connections share, and what stands in it.
#[derive(Debug, Default)]
pub(super) struct ReadBatch {
    pub(super) buffer: Box<[u8]>,
    pub(super) chunks: Vec<ReadChunk>,
    filled: usize,
}

impl ReadBatch {
    pub(super) fn new() -> ReadBatch {
        let buffer = vec![0; 2 * READ_BYTES].into_boxed_slice();
        ReadBatch { buffer, chunks: Vec::with_capacity(READS_MAX), filled: 0 }
    }

    /// Room for one read. There is some unless the intake is full.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..][..READ_BYTES]
    }

    /// Notes that a connection has said so much, which stands in the room. It has said nothing else
    /// that is not looked at yet: of that only the last would be kept, if there were no time left.
    pub(super) fn note(&mut self, slot: u32, bytes: usize) {
        debug_assert!(self.chunks.iter().all(|chunk| chunk.slot != slot), "read once");
        let range = self.filled..self.filled + bytes;
        self.filled = range.end;
        self.chunks.push(ReadChunk { slot, range });
    }

    /// Whether it is time to look at what has come.
    pub(super) fn is_full(&self) -> bool {
        self.chunks.len() >= READS_MAX || self.filled > self.buffer.len() - READ_BYTES
    }

    /// All has been looked at.
    pub(super) fn clear(&mut self) {
        self.chunks.clear();
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_has_room_for_a_whole_read_until_full() {
        for bytes in [1, 100, READ_BYTES / 3, READ_BYTES] {
            let mut read_batch = ReadBatch::new();
            let mut slot = 0;
            while !read_batch.is_full() {
                assert_eq!(read_batch.spare().len(), READ_BYTES);
                read_batch.spare()[..bytes].fill(slot as u8);
                read_batch.note(slot, bytes);
                slot += 1;
            }
            assert!(slot as usize == READS_MAX || slot as usize * bytes > READ_BYTES, "{bytes}");
            for ReadChunk { slot, range } in &read_batch.chunks {
                assert_eq!(range.len(), bytes);
                assert!(read_batch.buffer[range.clone()].iter().all(|byte| *byte == *slot as u8));
            }
            read_batch.clear();
            assert!(!read_batch.is_full() && read_batch.chunks.is_empty());
        }
    }
}

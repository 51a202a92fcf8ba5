//! A batch of reads: several sockets are read in a row, and then their input is processed.
//!
//! The kernel's code for a read and the server's for a frame each fit the processor's caches, but
//! alternating between them would evict one with the other.

use std::ops::Range;

/// Bytes read from one connection in one tick, with one read: about four hundred of the smallest
/// frames, each of which may go to a whole thread.
pub(super) const READ_BYTES: usize = 16 * 1024;
/// Reads of one batch.
const READS_MAX: usize = 32;

/// Input of one connection.
#[derive(Debug)]
pub(super) struct ReadChunk {
    pub(super) slot: u32,
    /// Its place in the buffer.
    pub(super) range: Range<usize>,
}

/// A read buffer that all connections share, with the ranges that each has filled.
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

    /// Room for one read; available unless the batch is full.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..][..READ_BYTES]
    }

    /// Adds a read of `bytes` bytes into the room. A connection may be in the batch only once: if
    /// there is no time to process it, only its last input would be kept.
    pub(super) fn note(&mut self, slot: u32, bytes: usize) {
        debug_assert!(
            self.chunks.iter().all(|chunk| chunk.slot != slot),
            "each connection is read once"
        );
        let range = self.filled..self.filled + bytes;
        self.filled = range.end;
        self.chunks.push(ReadChunk { slot, range });
    }

    /// Whether the batch must be processed before the next read.
    pub(super) fn is_full(&self) -> bool {
        self.chunks.len() >= READS_MAX || self.filled > self.buffer.len() - READ_BYTES
    }

    /// Empties the batch after it was processed.
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

//! The log of a run: printed when the run fails, and compared when it is repeated.

use std::collections::VecDeque;

/// The last lines of a run, and a checksum of all lines.
pub struct Trace {
    lines: VecDeque<String>,
    capacity: usize,
    sum: u64,
    pub steps: usize,
}

impl Trace {
    /// A trace that keeps at most `capacity` lines.
    pub fn new(capacity: usize) -> Trace {
        Trace { lines: VecDeque::new(), capacity, sum: 0xcbf2_9ce4_8422_2325, steps: 0 }
    }

    pub fn note(&mut self, line: String) {
        // FNV-1a.
        for byte in line.bytes().chain([b'\n']) {
            self.sum = (self.sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.lines.len() == self.capacity {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }

    pub fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

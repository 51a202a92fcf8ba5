//! Truncating text buffer: keeps what fits and ends with a mark if there was more.

use std::fmt::{self, Write};

/// Marks the end of truncated text.
const TRUNCATED: char = '…';

/// A text of bounded size. Formatting into it fails once it is full.
pub(super) struct BoundedText {
    text: String,
    /// Bytes left.
    left: usize,
    full: bool,
    filter: CharFilter,
}

/// Maps a character to the one to keep and the bytes that this takes in the output.
pub(super) type CharFilter = fn(char) -> (char, usize);

impl BoundedText {
    /// Creates a buffer of `bytes` bytes, plus the mark.
    pub(super) fn new(bytes: usize, filter: CharFilter) -> BoundedText {
        BoundedText {
            text: String::with_capacity(128.min(bytes)),
            left: bytes,
            full: false,
            filter,
        }
    }

    /// Returns the text, with the mark at its end if it was truncated.
    pub(super) fn into_text(mut self) -> String {
        if self.full {
            self.text.push(TRUNCATED);
        }
        self.text
    }
}

impl Write for BoundedText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let (kept, bytes) = (self.filter)(character);
            let Some(left) = self.left.checked_sub(bytes) else {
                self.full = true;
                // The error stops the formatting of the rest.
                return Err(fmt::Error);
            };
            self.left = left;
            self.text.push(kept);
        }
        Ok(())
    }
}

/// Replaces control characters by spaces: they could forge a log line or control a terminal.
pub(super) fn replace_control(character: char) -> (char, usize) {
    let kept = if character.is_control() { ' ' } else { character };
    (kept, kept.len_utf8())
}

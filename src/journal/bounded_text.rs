//! Text of which no more is kept than there is room for.

use std::fmt::{self, Write};

/// Stands at the end of what was cut.
const CUT: char = '…';

/// As much of a text as fits. What is formatted into it ends where it is full.
pub(super) struct BoundedText {
    text: String,
    /// Bytes that are left for it.
    left: usize,
    full: bool,
    filter: CharFilter,
}

/// What a character becomes, and the bytes that it takes where the text goes.
pub(super) type CharFilter = fn(char) -> (char, usize);

impl BoundedText {
    /// Room for so many bytes, and a mark if more was to come.
    pub fn new(bytes: usize, filter: CharFilter) -> BoundedText {
        BoundedText {
            text: String::with_capacity(128.min(bytes)),
            left: bytes,
            full: false,
            filter,
        }
    }

    /// What has been kept, with a mark at its end if that is not all.
    pub fn into_text(mut self) -> String {
        if self.full {
            self.text.push(CUT);
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
                // Whatever is still to be formatted is not looked at.
                return Err(fmt::Error);
            };
            self.left = left;
            self.text.push(kept);
        }
        Ok(())
    }
}

/// For a line of text: control characters would begin a line that nobody has logged, or steer a
/// terminal.
pub(super) fn replace_control(character: char) -> (char, usize) {
    let kept = if character.is_control() { ' ' } else { character };
    (kept, kept.len_utf8())
}

//! The files that settings name. They are read at a reload as well, by the loop's own thread.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Opens a file that can be read to its end, and again: a pipe would be waited for, and a device
/// may have no end.
///
/// # Errors
///
/// It cannot be opened, or is something else.
pub(super) fn open(path: &Path) -> io::Result<File> {
    match fs::metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(io::Error::other("it is no regular file, which a reload could read again")),
    }
}

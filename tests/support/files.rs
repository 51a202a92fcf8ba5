//! Temporary files that are removed when the test ends.

#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A file with mode 0600; removed when dropped.
pub struct SecretFile(PathBuf);

impl SecretFile {
    /// Creates a file with these lines.
    pub fn with(lines: &[&str]) -> SecretFile {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("buddyline-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, lines.join("\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        SecretFile(path)
    }

    /// The file's path.
    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

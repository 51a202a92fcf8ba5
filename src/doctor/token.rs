//! Reads the token to try from a file or an environment variable, never from an argument.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use crate::protocol::credential::Credential;

/// The environment variable that may hold the token.
pub const VARIABLE: &str = "BUDDYLINE_DOCTOR_TOKEN";

const FLAG: &str = "--token-file";
/// The largest token file, far more than a token needs.
const FILE_BYTES_MAX: usize = 16 << 10;

/// Reads the token, if one is set: the bare token, or `Basic` and an Application Password, as
/// clients send it (`PROTOCOL.md` 3).
///
/// # Errors
///
/// A sentence that names the source and the problem, without the token.
pub fn read(file: Option<&Path>) -> Result<Option<Credential>, String> {
    let variable = std::env::var_os(VARIABLE).filter(|text| !text.is_empty());
    let (source, text) = match (file, variable) {
        (Some(_), Some(_)) => {
            return Err(format!("{FLAG} and {VARIABLE} are both set; set only one of them"));
        }
        (Some(path), None) => {
            let source = format!("{FLAG} {}", path.display());
            let text = read_file(path).map_err(|problem| format!("{source}: {problem}"))?;
            (source, text)
        }
        (None, Some(text)) => {
            let text = text.into_string().map(Zeroizing::new);
            (VARIABLE.to_owned(), text.map_err(|_| format!("{VARIABLE}: it is not UTF-8 text"))?)
        }
        (None, None) => return Ok(None),
    };
    match Credential::parse(text.trim()) {
        Ok(credential) => Ok(Some(credential)),
        Err(fault) => Err(format!("{source}: {}", fault.text)),
    }
}

/// The option that holds the token, for messages: [`read`] accepts only one of the two.
pub(super) fn option_in_use() -> &'static str {
    match std::env::var_os(VARIABLE).is_some_and(|text| !text.is_empty()) {
        true => VARIABLE,
        false => "the file of --token-file",
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    // Allocated at full size, because growing would leave copies of the token in memory.
    let mut bytes = Zeroizing::new(vec![0; FILE_BYTES_MAX + 1]);
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..]).map_err(|error| error.to_string())? {
            0 => break,
            read => length += read,
        }
    }
    if length > FILE_BYTES_MAX {
        return Err(format!("it is longer than {FILE_BYTES_MAX} bytes; it must contain one token"));
    }
    match std::str::from_utf8(&bytes[..length]) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err("it is not UTF-8 text; it must contain one token".to_owned()),
    }
}

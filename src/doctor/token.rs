//! The token to be tried: from a file or the environment, never an argument.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use crate::protocol::credential::Credential;

/// The environment variable that may hold it.
pub const VARIABLE: &str = "BUDDYLINE_DOCTOR_TOKEN";

const FLAG: &str = "--token-file";
/// Far more than a token has; what is longer is another file.
const FILE_BYTES_MAX: usize = 16 << 10;

/// Reads it, where one is set: the token alone, or `Basic` and an Application Password, as clients
/// hand it over (`PROTOCOL.md` 3).
///
/// # Errors
///
/// A sentence that names the place and what is wrong, without the token.
pub fn read(file: Option<&Path>) -> Result<Option<Credential>, String> {
    let variable = std::env::var_os(VARIABLE).filter(|text| !text.is_empty());
    let (place, text) = match (file, variable) {
        (Some(_), Some(_)) => {
            return Err(format!("{FLAG} and {VARIABLE} are both set; expected is one of them"));
        }
        (Some(path), None) => {
            let place = format!("{FLAG} {}", path.display());
            let text = read_file(path).map_err(|why| format!("{place}: {why}"))?;
            (place, text)
        }
        (None, Some(text)) => {
            let text = text.into_string().map(Zeroizing::new);
            (VARIABLE.to_owned(), text.map_err(|_| format!("{VARIABLE}: it is no text"))?)
        }
        (None, None) => return Ok(None),
    };
    match Credential::parse(text.trim()) {
        Ok(credential) => Ok(Some(credential)),
        Err(fault) => Err(format!("{place}: {}", fault.text)),
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let mut file = File::open(path).map_err(|fault| fault.to_string())?;
    // As large as it can get, so that growing leaves no copy behind.
    let mut bytes = Zeroizing::new(vec![0; FILE_BYTES_MAX + 1]);
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..]).map_err(|fault| fault.to_string())? {
            0 => break,
            read => length += read,
        }
    }
    if length > FILE_BYTES_MAX {
        return Err(format!("it is longer than {FILE_BYTES_MAX} bytes; expected is one token"));
    }
    match std::str::from_utf8(&bytes[..length]) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err("it is no text; expected is one token".to_owned()),
    }
}

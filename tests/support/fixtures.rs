//! Exchanges recorded from a live BuddyBoss site, as files in `tests/fixtures`.
//!
//! Hosts, tokens and long texts in them are placeholders; the rest is as recorded.

use std::fs;
use std::path::{Path, PathBuf};

use buddyline::upstream::buddyboss::Reply;
use serde_json::Value;

/// A recorded request and its response.
pub struct Fixture {
    /// The file's name without `.json`.
    pub name: String,
    /// The request's method.
    pub method: String,
    /// The request's path and query.
    pub path: String,
    /// The request's body: a JSON value, or a string when it was not JSON.
    pub sent: Value,
    /// The response's status.
    pub status: u16,
    /// The response's headers, without those about its framing.
    pub headers: Vec<(String, String)>,
    /// The response's body as it was on the wire, except for white space.
    pub body: Vec<u8>,
}

impl Fixture {
    /// The recorded response as the [`Reply`] that the parsers take.
    pub fn reply(&self) -> Reply {
        Reply {
            status: self.status,
            content_type: self.header("content-type"),
            retry_after: self.header("retry-after"),
            date: self.header("date"),
            age: self.header("age"),
            location: self.header("location"),
            body: Some(self.body.clone()),
            ..Reply::default()
        }
        .read_through()
    }

    /// A header of the response.
    pub fn header(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    }
}

/// The folder with the recordings.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The folder from which they were copied; not every checkout has it next to it.
pub fn origin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/buddyboss/fixtures")
}

/// The names of all recordings, sorted.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder())
        .expect("tests/fixtures can be listed")
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Some(name.strip_suffix(".json")?.to_owned())
        })
        .collect();
    names.sort();
    names
}

/// A recording by its name.
pub fn load(name: &str) -> Fixture {
    let path = folder().join(format!("{name}.json"));
    let text = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let json: Value = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
    let (request, response) = (&json["request"], &json["response"]);
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let framing = ["transfer-encoding", "content-length", "connection"];
    let headers = response["headers"].as_object().expect("headers are an object");
    Fixture {
        name: name.to_owned(),
        method: text(&request["method"]),
        path: text(&request["path"]),
        sent: request["body"].clone(),
        status: response["status"].as_u64().expect("a status") as u16,
        headers: headers
            .iter()
            .filter(|(name, _)| !framing.contains(&&*name.to_ascii_lowercase()))
            .map(|(name, value)| (name.clone(), text(value)))
            .collect(),
        body: match &response["body"] {
            Value::Null => Vec::new(),
            Value::String(text) => text.clone().into_bytes(),
            value => value.to_string().into_bytes(),
        },
    }
}

//! What comes out of an examination.

use serde::Serialize;

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// The server works, and less well than it could.
    Warning,
    /// The server cannot do its work.
    Failed,
    /// Not looked at; what was seen says why.
    Skipped,
}

impl Status {
    /// The word of a line, and of the JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Failed => "failed",
            Status::Skipped => "skipped",
        }
    }
}

/// One thing that was examined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about; it stays the same from one version to the next.
    pub name: &'static str,
    /// How it stands.
    pub status: Status,
    /// What was seen. Never a secret.
    pub seen: String,
    /// What to do about it, for warnings and failures.
    pub remedy: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(name: &'static str, seen: impl Into<String>) -> Finding {
        Finding { name, status: Status::Ok, seen: seen.into(), remedy: None }
    }

    /// It works, but.
    pub fn warning(
        name: &'static str,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { name, status: Status::Warning, seen: seen.into(), remedy: Some(remedy.into()) }
    }

    /// It does not work.
    pub fn failed(
        name: &'static str,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { name, status: Status::Failed, seen: seen.into(), remedy: Some(remedy.into()) }
    }

    /// It was not looked at.
    pub fn skipped(name: &'static str, why: impl Into<String>) -> Finding {
        Finding { name, status: Status::Skipped, seen: why.into(), remedy: None }
    }
}

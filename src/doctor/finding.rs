//! The findings of an examination: status, observation and remedy.

use serde::Serialize;

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No problem.
    Ok,
    /// The server works, but less well than it could.
    Warning,
    /// The server cannot do its work.
    Failed,
    /// Not checked; `seen` says why.
    Skipped,
}

impl Status {
    /// The status as it is written in the text and JSON reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Failed => "failed",
            Status::Skipped => "skipped",
        }
    }
}

/// The result of one check, for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check; it is stable across versions.
    pub name: &'static str,
    /// The result.
    pub status: Status,
    /// The observation. It never contains a secret.
    pub seen: String,
    /// How to fix it, for warnings and failures.
    pub remedy: Option<String>,
}

impl Finding {
    /// Creates a finding without a problem.
    pub fn ok(name: &'static str, seen: impl Into<String>) -> Finding {
        Finding { name, status: Status::Ok, seen: seen.into(), remedy: None }
    }

    /// Creates a warning with its remedy.
    pub fn warning(
        name: &'static str,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { name, status: Status::Warning, seen: seen.into(), remedy: Some(remedy.into()) }
    }

    /// Creates a failure with its remedy.
    pub fn failed(
        name: &'static str,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { name, status: Status::Failed, seen: seen.into(), remedy: Some(remedy.into()) }
    }

    /// Creates a finding for a check that was skipped for this reason.
    pub fn skipped(name: &'static str, reason: impl Into<String>) -> Finding {
        Finding { name, status: Status::Skipped, seen: reason.into(), remedy: None }
    }
}

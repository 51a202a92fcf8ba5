//! The settings of calls.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::limits::{UNLIMITED, parse_limit};
use super::parse_duration;

/// What a call that comes to someone in a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhenBusy {
    /// It rings: call waiting is the app's choice.
    Ring,
    /// It is answered "busy" at once.
    Refuse,
}

/// How calls go.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Calls")]
pub struct CallOptions {
    /// How long a call rings before it ends with "no_answer", 1s to 10m.
    #[arg(long, env = "BUDDYLINE_RING_LASTS", value_name = "TIME", default_value = "45s",
          value_parser = |s: &str| parse_duration(s, "1s", "10m"))]
    pub ring_lasts: Duration,

    /// How long an answered call waits for a device that has lost its connection, 0s to 10m; the
    /// sound and the picture go on meanwhile, since they do not pass here.
    #[arg(long, env = "BUDDYLINE_CALL_GRACE", value_name = "TIME", default_value = "30s",
          value_parser = |s: &str| parse_duration(s, "0s", "10m"))]
    pub call_grace: Duration,

    /// What a call does that comes to someone in a call: ring there as well, or refuse.
    #[arg(long, env = "BUDDYLINE_WHEN_BUSY", value_name = "WHAT", default_value = "ring")]
    pub when_busy: WhenBusy,

    /// Calls at the same time, 1 to 1000000; one more is answered "too_many_calls". 0: no limit.
    #[arg(long, env = "BUDDYLINE_MAX_CALLS", value_name = "N", default_value = "10000",
          value_parser = |s: &str| parse_limit(s, 1, 1_000_000))]
    pub max_calls: usize,

    /// Calls that one user may begin in a minute, 1 to 10000; one more is answered
    /// "too_many_calls". 0: no limit.
    #[arg(long, env = "BUDDYLINE_MAX_CALL_ATTEMPTS", value_name = "N", default_value = "30",
          value_parser = |s: &str| parse_limit(s, 1, 10_000))]
    pub max_call_attempts: usize,
}

impl CallOptions {
    /// These, or without limits where `--no-limits` says so.
    pub(super) fn effective(&self, no_limits: bool) -> CallOptions {
        if !no_limits {
            return self.clone();
        }
        CallOptions { max_calls: UNLIMITED, max_call_attempts: UNLIMITED, ..self.clone() }
    }
}

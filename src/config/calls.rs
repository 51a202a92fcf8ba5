//! The settings of calls: ring time, grace time, busy users and limits.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::limits::{UNLIMITED, parse_limit};
use super::parse_duration;

/// The reaction to a call for a user who is in another call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhenBusy {
    /// The new call rings as well, and the app decides (call waiting).
    Ring,
    /// The new call ends at once with the reason "busy".
    Refuse,
}

/// The settings of calls.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Calls")]
pub struct CallOptions {
    /// How long a call rings, 1s to 10m. Then it ends with the reason "no_answer".
    #[arg(long, env = "BUDDYLINE_RING_LASTS", value_name = "TIME", default_value = "45s",
          value_parser = |s: &str| parse_duration(s, "1s", "10m"))]
    pub ring_lasts: Duration,

    /// How long an answered call waits for a device that has lost its connection, 0s to 10m. Then
    /// it ends with the reason "disconnected". Audio and video go from device to device and are not
    /// interrupted meanwhile.
    #[arg(long, env = "BUDDYLINE_CALL_GRACE", value_name = "TIME", default_value = "30s",
          value_parser = |s: &str| parse_duration(s, "0s", "10m"))]
    pub call_grace: Duration,

    /// The reaction to a call for a user who is in another call.
    #[arg(long, env = "BUDDYLINE_WHEN_BUSY", value_name = "WHAT", default_value = "ring")]
    pub when_busy: WhenBusy,

    /// Maximum number of calls that ring or are answered at the same time, 1 to 1000000. Beyond it,
    /// the caller gets the error "too_many_calls". 0: no limit.
    #[arg(long, env = "BUDDYLINE_MAX_CALLS", value_name = "N", default_value = "10000",
          value_parser = |s: &str| parse_limit(s, 1, 1_000_000))]
    pub max_calls: usize,

    /// Maximum number of calls that one user may start per minute, 1 to 10000. Beyond it, the
    /// caller gets the error "too_many_calls". 0: no limit.
    #[arg(long, env = "BUDDYLINE_MAX_CALL_ATTEMPTS", value_name = "N", default_value = "30",
          value_parser = |s: &str| parse_limit(s, 1, 10_000))]
    pub max_call_attempts: usize,
}

impl CallOptions {
    /// Returns these settings, without their limits if `no_limits` is set.
    pub(super) fn effective(&self, no_limits: bool) -> CallOptions {
        if !no_limits {
            return self.clone();
        }
        CallOptions { max_calls: UNLIMITED, max_call_attempts: UNLIMITED, ..self.clone() }
    }
}

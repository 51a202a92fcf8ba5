//! The settings that limit what clients may take: each has a default, a range, and 0 for "none".
//!
//! A limit that is off is a number that nothing reaches, so that nobody has to ask whether it is.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;

/// A time that never comes: a hundred years. Deadlines that far away can still be added up.
pub const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A number that nothing reaches.
pub const UNLIMITED: usize = usize::MAX;

/// All limits. [`UNLIMITED`] where one is off, [`NEVER`] where a time is.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Open connections, 1 to 1000000; one more is refused with 503. 0: as many as the system has
    /// descriptors for.
    #[arg(long, env = "BUDDYLINE_MAX_CONNECTIONS", value_name = "N", default_value = "16000",
          value_parser = |s: &str| parse_limit(s, 1, 1_000_000))]
    pub max_connections: usize,

    /// Open connections from one address, 1 to 1000000; one more is refused with 429. An IPv6
    /// network of 64 bits is one address; this machine and trusted proxies have no limit.
    #[arg(long, env = "BUDDYLINE_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N",
          default_value = "1000", value_parser = |s: &str| parse_limit(s, 1, 1_000_000))]
    pub max_connections_per_address: usize,

    /// Bytes of a request's head, 1024 to 65536; a larger one is refused with 431.
    #[arg(long, env = "BUDDYLINE_MAX_HEAD_BYTES", value_name = "BYTES", default_value = "8192",
          value_parser = |s: &str| parse_limit(s, 1024, 65_536))]
    pub max_head_bytes: usize,

    /// How long a client may take for its request, 100ms to 1m; then it is refused with 408.
    #[arg(long, env = "BUDDYLINE_HANDSHAKE_LASTS", value_name = "TIME", default_value = "5s",
          value_parser = |s: &str| parse_time_limit(s, "100ms", "1m"))]
    pub handshake_lasts: Duration,

    /// Bytes of one message from a client, whole or in fragments, 1024 to 16777216; a larger one
    /// closes with 1009.
    #[arg(long, env = "BUDDYLINE_MAX_FRAME_BYTES", value_name = "BYTES", default_value = "262144",
          value_parser = |s: &str| parse_limit(s, 1024, 16_777_216))]
    pub max_frame_bytes: usize,

    /// Frames a second from one client in the long run, pings included, 1 to 100000; more are
    /// answered "rate_limited", and a second's worth more closes with 1008.
    #[arg(long, env = "BUDDYLINE_MAX_FRAMES_PER_SECOND", value_name = "N", default_value = "50",
          value_parser = |s: &str| parse_limit(s, 1, 100_000))]
    pub max_frames_per_second: usize,

    /// Frames that a client may send at once after a quiet time, 1 to 1000000: an app that starts
    /// joins all its threads.
    #[arg(long, env = "BUDDYLINE_MAX_FRAMES_BURST", value_name = "N", default_value = "1200",
          value_parser = |s: &str| parse_limit(s, 1, 1_000_000))]
    pub max_frames_burst: usize,

    /// How long a client may be silent before it is asked for a sign of life with a ping, 1s to
    /// 10m; after two pings without an answer it is gone.
    #[arg(long, env = "BUDDYLINE_PING_EVERY", value_name = "TIME", default_value = "25s",
          value_parser = |s: &str| parse_time_limit(s, "1s", "10m"))]
    pub ping_every: Duration,

    /// How long a connection may stay without having proven who it is, 1s to 10m.
    #[arg(long, env = "BUDDYLINE_ANONYMOUS_LASTS", value_name = "TIME", default_value = "30s",
          value_parser = |s: &str| parse_time_limit(s, "1s", "10m"))]
    pub anonymous_lasts: Duration,

    /// Bytes that may wait for one client before it misses what can be missed, who comes and goes
    /// and who types, 4096 to 1073741824. No more than the next limit.
    #[arg(long, env = "BUDDYLINE_SOFT_OUTBOX_BYTES", value_name = "BYTES", default_value = "262144",
          value_parser = |s: &str| parse_limit(s, 4096, 1_073_741_824))]
    pub soft_outbox_bytes: usize,

    /// Bytes that may wait for one client to read, 65536 to 1073741824; more closes with 1013.
    #[arg(long, env = "BUDDYLINE_MAX_OUTBOX_BYTES", value_name = "BYTES", default_value = "4194304",
          value_parser = |s: &str| parse_limit(s, 65_536, 1_073_741_824))]
    pub max_outbox_bytes: usize,

    /// Bytes that are held for all clients that are slow, to read or to finish what they say,
    /// 1048576 to 1099511627776; what many wait for counts once. Beyond it those with the most are
    /// closed with 1013.
    #[arg(long, env = "BUDDYLINE_MAX_BUFFER_BYTES", value_name = "BYTES", default_value = "268435456",
          value_parser = |s: &str| parse_limit(s, 1 << 20, 1 << 40))]
    pub max_buffer_bytes: usize,

    /// Threads that one connection may join, 1 to 100000.
    #[arg(long, env = "BUDDYLINE_MAX_JOINS", value_name = "N", default_value = "1000",
          value_parser = |s: &str| parse_limit(s, 1, 100_000))]
    pub max_joins: usize,

    /// Threads that are heard on the whole server, 1 to 10000000; one more is answered "overloaded".
    #[arg(long, env = "BUDDYLINE_MAX_THREADS", value_name = "N", default_value = "200000",
          value_parser = |s: &str| parse_limit(s, 1, 10_000_000))]
    pub max_threads: usize,

    /// Messages on their way to the site, 1 to 1000000; one more is answered "overloaded".
    #[arg(long, env = "BUDDYLINE_MAX_SENDING", value_name = "N", default_value = "10000",
          value_parser = |s: &str| parse_limit(s, 1, 1_000_000))]
    pub max_sending: usize,

    /// Messages of one connection on their way to the site, 1 to 10000.
    #[arg(long, env = "BUDDYLINE_MAX_SENDING_PER_CONNECTION", value_name = "N", default_value = "64",
          value_parser = |s: &str| parse_limit(s, 1, 10_000))]
    pub max_sending_per_connection: usize,

    /// Bytes of the messages on their way to the site, 65536 to 1073741824.
    #[arg(long, env = "BUDDYLINE_MAX_SENDING_BYTES", value_name = "BYTES", default_value = "67108864",
          value_parser = |s: &str| parse_limit(s, 65_536, 1_073_741_824))]
    pub max_sending_bytes: usize,

    /// How long a message may wait for its turn in its thread, 100ms to 10m; then it is answered
    /// "not_stored" and never posted.
    #[arg(long, env = "BUDDYLINE_MESSAGE_TURN_LASTS", value_name = "TIME", default_value = "40s",
          value_parser = |s: &str| parse_time_limit(s, "100ms", "10m"))]
    pub message_turn_lasts: Duration,

    /// Switches all of these limits off, as 0 does with each: for measurements only.
    #[arg(long, env = "BUDDYLINE_NO_LIMITS", value_parser = FalseyValueParser::new())]
    pub no_limits: bool,
}

impl Limits {
    /// These, or none at all where `--no-limits` says so.
    pub(super) fn effective(&self) -> Limits {
        if !self.no_limits {
            return self.clone();
        }
        Limits {
            max_connections: UNLIMITED,
            max_connections_per_address: UNLIMITED,
            max_head_bytes: UNLIMITED,
            handshake_lasts: NEVER,
            max_frame_bytes: UNLIMITED,
            max_frames_per_second: UNLIMITED,
            max_frames_burst: UNLIMITED,
            ping_every: NEVER,
            anonymous_lasts: NEVER,
            soft_outbox_bytes: UNLIMITED,
            max_outbox_bytes: UNLIMITED,
            max_buffer_bytes: UNLIMITED,
            max_joins: UNLIMITED,
            max_threads: UNLIMITED,
            max_sending: UNLIMITED,
            max_sending_per_connection: UNLIMITED,
            max_sending_bytes: UNLIMITED,
            message_turn_lasts: NEVER,
            no_limits: true,
        }
    }
}

/// A limit from `min` to `max`, or 0 for none.
pub(super) fn parse_limit(text: &str, min: u64, max: u64) -> Result<usize, String> {
    let value = u64::from_str(text).ok();
    match value.and_then(|value| usize::try_from(value).ok().map(|small| (value, small))) {
        Some((0, _)) => Ok(UNLIMITED),
        Some((value, small)) if (min..=max).contains(&value) => Ok(small),
        _ => Err(format!("expected a whole number from {min} to {max}, or 0 for no limit")),
    }
}

/// A time from `min` to `max`, or 0 for none.
fn parse_time_limit(text: &str, min: &str, max: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Ok(NEVER),
        _ => super::parse_duration(text, min, max)
            .map_err(|fault| format!("{fault}, or 0 for no limit")),
    }
}

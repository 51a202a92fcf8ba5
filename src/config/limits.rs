//! The limits on clients and on the resources of the server; 0 switches a limit off.
//!
//! A limit that is off is represented by a value that is never reached, so that the code that
//! applies it needs no special case.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;

/// The value of a time limit that is off: a hundred years, which can be added to an `Instant`
/// without overflow.
pub(crate) const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The value of a limit that is off.
pub(crate) const UNLIMITED: usize = usize::MAX;

/// The largest request head while its limit is off: a head is parsed anew with each read, so it
/// needs some bound.
const HEAD_BYTES_BOUND: usize = 1 << 20;
/// The most header lines while their limit is off; their table is allocated before the lines are
/// parsed.
const HEADER_LINES_BOUND: usize = 10_000;

/// The largest request head that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes, up to the empty line.
    pub bytes: usize,
    /// Header lines.
    pub lines: usize,
}

/// The defaults of the settings.
impl Default for HeadLimits {
    fn default() -> HeadLimits {
        HeadLimits { bytes: 16_384, lines: 100 }
    }
}

/// All limits. [`UNLIMITED`] or, for times, [`NEVER`] if a limit is off.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Maximum number of open connections, 1 to 1000000. Beyond it, new connections are refused
    /// with 503. 0: as many as the limit of open files allows.
    #[arg(long, env = "BUDDYLINE_MAX_CONNECTIONS", value_name = "N", default_value = "16000",
          value_parser = |s: &str| parse_limit(s, 1, 1_000_000))]
    pub max_connections: usize,

    /// Maximum number of open connections from one address, 1 to 1000000. Beyond it, new
    /// connections from it are refused with 429. An IPv6 /64 network counts as one address;
    /// loopback addresses and trusted proxies are not limited. 0: no limit.
    #[arg(long, env = "BUDDYLINE_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N",
          default_value = "1000", value_parser = |s: &str| parse_limit(s, 1, 1_000_000))]
    pub max_connections_per_address: usize,

    /// Maximum size of an HTTP request head in bytes, 1024 to 65536; it includes the cookies of the
    /// site. A larger one is refused with 431. 0: 1048576.
    #[arg(long, env = "BUDDYLINE_MAX_HEAD_BYTES", value_name = "BYTES", default_value = "16384",
          value_parser = |s: &str| parse_limit(s, 1024, 65_536))]
    pub max_head_bytes: usize,

    /// Maximum number of header lines of an HTTP request, 10 to 1000. With more, the request is
    /// refused with 431. 0: 10000.
    #[arg(long, env = "BUDDYLINE_MAX_HEADER_LINES", value_name = "N", default_value = "100",
          value_parser = |s: &str| parse_limit(s, 10, 1000))]
    pub max_header_lines: usize,

    /// Maximum time from connecting to the end of the request head, 100ms to 1m. Then the
    /// connection is refused with 408. 0: no limit.
    #[arg(long, env = "BUDDYLINE_HANDSHAKE_LASTS", value_name = "TIME", default_value = "5s",
          value_parser = |s: &str| parse_time_limit(s, "100ms", "1m"))]
    pub handshake_lasts: Duration,

    /// Maximum size of one WebSocket message from a client in bytes, all fragments together, 1024
    /// to 16777216. A larger one closes the connection with 1009. 0: no limit.
    #[arg(long, env = "BUDDYLINE_MAX_FRAME_BYTES", value_name = "BYTES", default_value = "262144",
          value_parser = |s: &str| parse_limit(s, 1024, 16_777_216))]
    pub max_frame_bytes: usize,

    /// Sustained number of frames per second from one client, pings and fragments included, 1 to
    /// 100000. Frames beyond it and --max-frames-burst are refused with the error "rate_limited";
    /// after one more second's worth of refused frames, the connection is closed with 1008. 0: no
    /// limit.
    #[arg(long, env = "BUDDYLINE_MAX_FRAMES_PER_SECOND", value_name = "N", default_value = "50",
          value_parser = |s: &str| parse_limit(s, 1, 100_000))]
    pub max_frames_per_second: usize,

    /// Number of frames that a client may send at once after a pause, 1 to 1000000: an app that
    /// starts joins all its threads. Beyond it, --max-frames-per-second applies. 0: no limit.
    #[arg(long, env = "BUDDYLINE_MAX_FRAMES_BURST", value_name = "N", default_value = "1200",
          value_parser = |s: &str| parse_limit(s, 1, 1_000_000))]
    pub max_frames_burst: usize,

    /// How long a client may be silent before the server sends a ping, 1s to 10m. After two pings
    /// without any answer, the connection is closed with 1001. 0: no pings.
    #[arg(long, env = "BUDDYLINE_PING_EVERY", value_name = "TIME", default_value = "25s",
          value_parser = |s: &str| parse_time_limit(s, "1s", "10m"))]
    pub ping_every: Duration,

    /// How long a connection may stay anonymous, that is without a user, 1s to 10m. Then it is
    /// closed with 1008. 0: no limit.
    #[arg(long, env = "BUDDYLINE_ANONYMOUS_LASTS", value_name = "TIME", default_value = "30s",
          value_parser = |s: &str| parse_time_limit(s, "1s", "10m"))]
    pub anonymous_lasts: Duration,

    /// Unsent bytes for one client from which presence and typing frames for it are dropped, 4096
    /// to 1073741824. A value above --max-outbox-bytes counts as that one. 0: nothing is dropped.
    #[arg(long, env = "BUDDYLINE_SOFT_OUTBOX_BYTES", value_name = "BYTES", default_value = "262144",
          value_parser = |s: &str| parse_limit(s, 4096, 1_073_741_824))]
    pub soft_outbox_bytes: usize,

    /// Maximum number of unsent bytes for one client, 65536 to 1073741824. Beyond it, the
    /// connection is closed with 1013 as a slow reader. 0: no limit.
    #[arg(long, env = "BUDDYLINE_MAX_OUTBOX_BYTES", value_name = "BYTES", default_value = "4194304",
          value_parser = |s: &str| parse_limit(s, 65_536, 1_073_741_824))]
    pub max_outbox_bytes: usize,

    /// Maximum number of bytes buffered for all clients together, unsent frames and incomplete
    /// messages, 1048576 to 1099511627776. A frame that several clients wait for counts once.
    /// Beyond it, the connections with the most buffered bytes are closed with 1013. 0: no limit.
    #[arg(long, env = "BUDDYLINE_MAX_BUFFER_BYTES", value_name = "BYTES", default_value = "268435456",
          value_parser = |s: &str| parse_limit(s, 1 << 20, 1 << 40))]
    pub max_buffer_bytes: usize,

    /// Maximum number of threads that one connection may join, 1 to 100000. Beyond it, the client
    /// gets the error "too_many_threads". 0: no limit.
    #[arg(long, env = "BUDDYLINE_MAX_JOINS", value_name = "N", default_value = "1000",
          value_parser = |s: &str| parse_limit(s, 1, 100_000))]
    pub max_joins: usize,

    /// Maximum number of threads with at least one subscriber on the whole server, 1 to 10000000.
    /// Beyond it, the client gets the error "overloaded". 0: no limit.
    #[arg(long, env = "BUDDYLINE_MAX_THREADS", value_name = "N", default_value = "200000",
          value_parser = |s: &str| parse_limit(s, 1, 10_000_000))]
    pub max_threads: usize,

    /// Maximum number of messages in flight to the site, 1 to 1000000. Beyond it, the client gets
    /// the error "overloaded". 0: no limit.
    #[arg(long, env = "BUDDYLINE_MAX_SENDING", value_name = "N", default_value = "10000",
          value_parser = |s: &str| parse_limit(s, 1, 1_000_000))]
    pub max_sending: usize,

    /// Maximum number of messages of one connection in flight to the site, 1 to 10000. Beyond it,
    /// the client gets the error "overloaded". 0: no limit.
    #[arg(long, env = "BUDDYLINE_MAX_SENDING_PER_CONNECTION", value_name = "N", default_value = "64",
          value_parser = |s: &str| parse_limit(s, 1, 10_000))]
    pub max_sending_per_connection: usize,

    /// Maximum number of bytes of text of all messages in flight to the site, 65536 to 1073741824.
    /// Beyond it, the client gets the error "overloaded". 0: no limit.
    #[arg(long, env = "BUDDYLINE_MAX_SENDING_BYTES", value_name = "BYTES", default_value = "67108864",
          value_parser = |s: &str| parse_limit(s, 65_536, 1_073_741_824))]
    pub max_sending_bytes: usize,

    /// How long a message may wait for the earlier messages of its thread, 100ms to 10m. Then the
    /// client gets the error "not_stored", and the message is not posted. 0: no limit.
    #[arg(long, env = "BUDDYLINE_MESSAGE_TURN_LASTS", value_name = "TIME", default_value = "40s",
          value_parser = |s: &str| parse_time_limit(s, "100ms", "10m"))]
    pub message_turn_lasts: Duration,

    /// Switch off all limits on clients and calls, as 0 does for each. For measurements only.
    #[arg(long, env = "BUDDYLINE_NO_LIMITS", value_parser = FalseyValueParser::new())]
    pub no_limits: bool,
}

impl Limits {
    /// Returns these limits, or all switched off if `no_limits` is set.
    pub(super) fn effective(&self) -> Limits {
        if !self.no_limits {
            return self.clone();
        }
        Limits {
            max_connections: UNLIMITED,
            max_connections_per_address: UNLIMITED,
            max_head_bytes: UNLIMITED,
            max_header_lines: UNLIMITED,
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

impl Limits {
    /// Returns the limits of a request head, which are finite even if both are off.
    pub fn head_limits(&self) -> HeadLimits {
        HeadLimits {
            bytes: self.max_head_bytes.min(HEAD_BYTES_BOUND),
            lines: self.max_header_lines.min(HEADER_LINES_BOUND),
        }
    }
}

/// Parses a limit from `min` to `max`, or 0 for no limit.
pub(super) fn parse_limit(text: &str, min: u64, max: u64) -> Result<usize, String> {
    let value = u64::from_str(text).ok();
    match value.and_then(|value| usize::try_from(value).ok().map(|small| (value, small))) {
        Some((0, _)) => Ok(UNLIMITED),
        Some((value, small)) if (min..=max).contains(&value) => Ok(small),
        _ => Err(format!("expected a whole number from {min} to {max}, or 0 for no limit")),
    }
}

/// Parses a time limit from `min` to `max`, or 0 for no limit.
fn parse_time_limit(text: &str, min: &str, max: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Ok(NEVER),
        _ => super::parse_duration(text, min, max)
            .map_err(|fault| format!("{fault}, or 0 for no limit")),
    }
}

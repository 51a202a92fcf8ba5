//! The report of a load test, as a text table or as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use serde::Serialize;

use super::latency::Summary;

/// Number of occurrences of each reason or code.
pub(super) type Counts = BTreeMap<String, u64>;

/// Counts an occurrence of a reason or code.
pub(super) trait Count {
    fn count(&mut self, reason: String);
}

/// Maximum number of different reasons; further ones are counted as "other".
const REASONS_MAX: usize = 64;

impl Count for Counts {
    fn count(&mut self, reason: String) {
        let reason = match self.len() >= REASONS_MAX && !self.contains_key(&reason) {
            true => "other".to_owned(),
            false => reason.chars().take(80).filter(|c| !c.is_control()).collect(),
        };
        *self.entry(reason).or_default() += 1;
    }
}

/// The result of a load test.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Connections requested with `--connections`.
    pub connections: u64,
    /// Connections that joined their thread.
    pub joined: u64,
    /// Connections that failed to join, by reason.
    pub refused: Counts,
    /// Time from connecting to the response that opens the WebSocket.
    pub handshake: Summary,
    /// Time from connecting to `thread_joined`.
    pub arrival: Summary,
    /// Frames sent.
    pub sent: u64,
    /// Frames that no connection could send, because all were closed or their output was full.
    pub not_sent: u64,
    /// Delay between the planned and the actual send time, caused by this tool.
    pub lag: Summary,
    /// Expected deliveries: one per frame and subscriber of its thread, including the sender.
    pub expected: u64,
    /// Deliveries received.
    pub delivered: u64,
    /// Expected deliveries that did not arrive.
    pub missing: u64,
    /// Time from sending a frame to receiving it.
    pub latency: Summary,
    /// Presence frames received.
    pub presence: u64,
    /// `error` frames by their code.
    pub errors: Counts,
    /// Connections that the server closed, by close code.
    pub closed: Counts,
    /// Resource usage of the server process, with `--pid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Usage>,
}

/// Resource usage of the server process.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Resident memory before the first connection, in KiB.
    pub kib_before: u64,
    /// Resident memory after all had joined, in KiB.
    pub kib_joined: u64,
    /// Resident memory after the last delivery, in KiB.
    pub kib_after: u64,
    /// CPU usage in percent of one core, while frames were sent and delivered.
    pub processor_percent: f64,
}

impl Report {
    /// Whether all connections joined and stayed open, and all frames were sent and delivered.
    pub fn is_good(&self) -> bool {
        let all_joined = self.joined == self.connections && self.closed.is_empty();
        all_joined && self.sent > 0 && self.missing + self.not_sent == 0 && self.errors.is_empty()
    }

    /// Returns advice for the problems in this report, one sentence for each.
    pub fn advice(&self) -> Vec<&'static str> {
        let reasons =
            [&self.refused, &self.errors, &self.closed].into_iter().flat_map(Counts::keys);
        let known =
            reasons.filter_map(|reason| ADVICE.iter().find(|(known, _)| reason.contains(known)));
        let mut advice: Vec<&str> = known.map(|(_, advice)| *advice).collect();
        if self.lag.p99_ms > 10.0 {
            advice.push(
                "This tool sent late (lag) for lack of CPU time: latencies include its own delays.",
            );
        }
        if self.missing > 0 && self.errors.is_empty() && self.closed.is_empty() {
            advice.push(
                "Deliveries are missing: the server drops typing frames for slow readers \
                 (--soft-outbox-bytes). Typing frames are matched by their order, so latencies \
                 after a gap are too long.",
            );
        }
        advice.dedup();
        advice
    }
}

/// Advice by a part of the reason: what it means, and which setting of the server causes it.
const ADVICE: [(&str, &str); 11] = [
    ("HTTP 503", "HTTP 503: the server is full (--max-connections) or stopping."),
    (
        "HTTP 429",
        "HTTP 429: too many connections from one address (--max-connections-per-address).",
    ),
    ("HTTP 431", "HTTP 431: the token makes the request head too large (--max-head-bytes)."),
    ("HTTP 4", "The server refused the request: check that --url is a buddyline server."),
    ("refused", "Connection refused: no server listens at --url."),
    ("no answer", "No answer: the server may be out of open files (--nofile, ulimit -n)."),
    (
        "rate_limited",
        "rate_limited: a connection sends too many frames (--max-frames-per-second): use a lower \
         --rate, or more --connections.",
    ),
    ("overloaded", "overloaded: a limit of the server is reached (--max-threads, --max-sending)."),
    ("token_", "The server has verified trust: provide tokens with --token-file."),
    (
        "1008",
        "Close 1008: too many frames (--max-frames-per-second), or not authenticated in time.",
    ),
    ("1013", "Close 1013: a connection read too slowly (--max-outbox-bytes)."),
];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = String::new();
        let mut row = |name: &str, value: u64| {
            let _ = writeln!(counts, "{name:<28}{value:>12}");
        };
        row("connections", self.connections);
        row("joined", self.joined);
        row("frames sent", self.sent);
        if self.not_sent > 0 {
            row("frames not sent", self.not_sent);
        }
        row("deliveries expected", self.expected);
        row("deliveries", self.delivered);
        row("missing", self.missing);
        row("presence frames", self.presence);
        for (kind, counts) in
            [("refused", &self.refused), ("error", &self.errors), ("closed", &self.closed)]
        {
            for (reason, count) in counts {
                row(&format!("{kind}: {reason}"), *count);
            }
        }
        if let Some(server) = &self.server {
            row("server KiB at start", server.kib_before);
            row("server KiB, all joined", server.kib_joined);
            row("server KiB at end", server.kib_after);
            let percent = server.processor_percent;
            let _ = writeln!(counts, "{:<28}{percent:>12.1}", "server % of a core");
        }
        f.write_str(&counts)?;
        let heads = ["ms", "p50", "p99", "p99.9", "max"];
        writeln!(
            f,
            "\n{:<12}{:>10}{:>10}{:>10}{:>10}",
            heads[0], heads[1], heads[2], heads[3], heads[4]
        )?;
        for (name, times) in [
            ("handshake", &self.handshake),
            ("joined", &self.arrival),
            ("lag", &self.lag),
            ("delivery", &self.latency),
        ] {
            let Summary { p50_ms, p99_ms, p999_ms, max_ms, .. } = times;
            writeln!(f, "{name:<12}{p50_ms:>10.3}{p99_ms:>10.3}{p999_ms:>10.3}{max_ms:>10.3}")?;
        }
        for line in self.advice() {
            writeln!(f, "\n{line}")?;
        }
        Ok(())
    }
}

//! What came of it, as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use serde::Serialize;

use super::histogram::Summary;

/// How often each of a few words came.
pub type Counts = BTreeMap<String, u64>;

/// Counts a word.
pub(super) trait Count {
    fn count(&mut self, word: String);
}

/// Words of a server that says something new each time are not kept for ever.
const WORDS_MAX: usize = 64;

impl Count for Counts {
    fn count(&mut self, word: String) {
        let word = match self.len() >= WORDS_MAX && !self.contains_key(&word) {
            true => "other".to_owned(),
            false => word.chars().take(80).filter(|c| !c.is_control()).collect(),
        };
        *self.entry(word).or_default() += 1;
    }
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Connections asked for.
    pub connections: u64,
    /// Connections that came into their thread.
    pub joined: u64,
    /// Why the others did not.
    pub refused: Counts,
    /// From the first packet to the answer that opens the WebSocket.
    pub handshake: Summary,
    /// From the first packet to the thread.
    pub arrival: Summary,
    /// Frames sent.
    pub sent: u64,
    /// Frames for which no connection was left, or none that the server read from.
    pub not_sent: u64,
    /// How late they were sent, for which this tool is to blame.
    pub lag: Summary,
    /// Deliveries: for each frame one to each who heard its thread then, its sender included.
    pub expected: u64,
    /// Those that came.
    pub delivered: u64,
    /// Those that did not.
    pub missing: u64,
    /// From sending to hearing.
    pub latency: Summary,
    /// News of who comes and goes.
    pub presence: u64,
    /// The `error` frames by their code.
    pub errors: Counts,
    /// Connections that the server ended, by close code.
    pub closed: Counts,
    /// What the server's process used, with `--pid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Usage>,
}

/// What a process used.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Resident memory before the first connection, in KiB.
    pub kib_before: u64,
    /// When all had joined.
    pub kib_joined: u64,
    /// After the last delivery.
    pub kib_after: u64,
    /// Of one core, while frames were sent and delivered.
    pub processor_percent: f64,
}

impl Report {
    /// Whether everyone came in and stayed, and everything was sent and delivered.
    pub fn is_good(&self) -> bool {
        let all_in = self.joined == self.connections && self.closed.is_empty();
        all_in && self.sent > 0 && self.missing + self.not_sent == 0 && self.errors.is_empty()
    }

    /// What to do about what went wrong, a sentence each.
    pub fn advice(&self) -> Vec<&'static str> {
        let words = [&self.refused, &self.errors, &self.closed].into_iter().flat_map(Counts::keys);
        let known = words.filter_map(|word| ADVICE.iter().find(|(known, _)| word.contains(known)));
        let mut advice: Vec<&str> = known.map(|(_, advice)| *advice).collect();
        if self.lag.p99_ms > 10.0 {
            advice.push(
                "This tool sent late (lag): it had too little of the processor, and latencies are \
                 not the server's alone.",
            );
        }
        if self.missing > 0 && self.errors.is_empty() && self.closed.is_empty() {
            advice.push(
                "Deliveries are missing: who reads slowly misses who types (--soft-outbox-bytes). \
                 Typing is told apart by its order, so latencies after a gap are too long.",
            );
        }
        advice.dedup();
        advice
    }
}

/// What stops a load, and which setting of the server it is.
const ADVICE: [(&str, &str); 11] = [
    ("HTTP 503", "HTTP 503: the server is full (--max-connections), or about to stop."),
    ("HTTP 429", "HTTP 429: one address may have so many (--max-connections-per-address)."),
    ("HTTP 431", "HTTP 431: the token is too long for a head (--max-head-bytes)."),
    ("HTTP 4", "The server refused the request: is it the address of a buddyline server?"),
    ("refused", "Connection refused: no server listens there."),
    ("no answer", "No answer: the server may be out of open files (--nofile, ulimit -n)."),
    (
        "rate_limited",
        "rate_limited: a connection sends too often (--max-frames-per-second); take a \
                      lower --rate, or more --connections.",
    ),
    (
        "overloaded",
        "overloaded: the server holds as much as it may (--max-threads, --max-sending).",
    ),
    ("token_", "The server verifies who connects: give tokens with --token-file."),
    ("1008", "Close 1008: too many frames (--max-frames-per-second), or nothing proved who it is."),
    ("1013", "Close 1013: a connection was read too slowly (--max-outbox-bytes)."),
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
        row("who comes and goes", self.presence);
        for (kind, words) in
            [("refused", &self.refused), ("error", &self.errors), ("closed", &self.closed)]
        {
            for (word, count) in words {
                row(&format!("{kind}: {word}"), *count);
            }
        }
        if let Some(server) = &self.server {
            row("server KiB at first", server.kib_before);
            row("server KiB, all joined", server.kib_joined);
            row("server KiB at the end", server.kib_after);
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

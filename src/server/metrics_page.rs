//! The page of numbers: each family with its help, its type and its unit, in one place.
//!
//! Nothing of what clients say stands on it: all labels and their values are words of ours.

use super::Server;
use super::connections::stats::ConnectionStats;
use crate::config::tls::TlsIdentity;
use crate::http::handshake::Readiness;
use crate::hub::interface::Now;
use crate::metrics::page::Kind::{Counter, Gauge};
use crate::metrics::page::{Page, Seconds, Unit};
use crate::metrics::{HitCounter, LOG_LINES_LOST};
use crate::process;
use crate::upstream::breaker::Breaker;
use crate::upstream::stats::{PoolStatus, UpstreamStats};

impl Server {
    /// The whole page.
    pub(super) fn metrics_page(&self, now: Now) -> String {
        let mut page = Page::default();
        self.write_process(&mut page, now);
        self.write_connections(&mut page);
        self.write_frames(&mut page);
        self.write_calls(&mut page);
        self.write_output(&mut page);
        self.write_ticks(&mut page);
        self.write_upstream(&mut page);
        page.into_text()
    }

    fn write_process(&self, page: &mut Page, now: Now) {
        page.family(Gauge, "buddyline_build_info", "Always 1; the version is its label.")
            .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        let help = "When the server was started, in seconds since 1970.";
        page.metric(Gauge, "process_start_time_seconds", help, self.stats.started_unix_s);
        // Where there is no /proc, the families stand without samples.
        let mut family = page.family(
            Gauge,
            "process_resident_memory_bytes",
            "Memory that the process really uses.",
        );
        let own = std::process::id();
        if let Ok(kib) = process::resident_kib(own) {
            family.sample(&[], kib * 1024);
        }
        let mut family = page.family(
            Counter,
            "process_cpu_seconds_total",
            "Processor time of all threads; a loop that is never idle takes one second a second.",
        );
        if let Ok(time) = process::cpu_time(own) {
            family.sample(&[], Seconds(time.as_micros() as u64));
        }
        let help =
            "Lines of the log that nobody has read: their reader was too slow, or the disk full.";
        page.metric(Counter, "buddyline_log_lines_lost_total", help, LOG_LINES_LOST.count());
        let validity = self.identity.as_ref().and_then(TlsIdentity::validity);
        let help =
            "When the certificate of this server ends, in seconds since 1970; 0 without TLS.";
        let until_s = validity.map_or(0, |validity| validity.until_s);
        page.metric(Gauge, "buddyline_tls_certificate_not_after_seconds", help, until_s);
        let ready = self.readiness(now.instant) == Readiness::Ready;
        page.metric(Gauge, "buddyline_ready", "1 if GET /readyz says 200.", u8::from(ready));
    }

    fn write_connections(&self, page: &mut Page) {
        let ConnectionStats { handshakes, open, closing, .. } = self.connections.stats();
        let counts = self.counts();
        page.family(Gauge, "buddyline_connections", "Connections of clients, by their states.")
            .samples("state", [("handshake", handshakes), ("open", open), ("closing", closing)]);
        let help = "Connections that there is room for.";
        page.metric(Gauge, "buddyline_connections_limit", help, self.admission.limit());
        let totals = self.hub.counts();
        let help = "Users who are online, those in their grace time among them.";
        page.metric(Gauge, "buddyline_users_online", help, totals.users);
        let help = "Threads that somebody hears or types in.";
        page.metric(Gauge, "buddyline_threads", help, totals.threads);
        let help = "Connections of clients that were accepted.";
        page.metric(Counter, "buddyline_connections_accepted_total", help, counts.accepted);
        page.family(
            Counter,
            "buddyline_connections_refused_total",
            "Connections that were refused: there are too many, or too many from their address, or \
             they come from a web page that may not connect, their request does not come in time, \
             or TLS was not agreed on or was broken off for a fault.",
        )
        .samples(
            "cause",
            [
                ("full", counts.refused - counts.refused_address),
                ("address", counts.refused_address),
                ("page", counts.refused_pages),
                ("late", counts.late),
                ("tls", counts.tls_faults),
            ],
        );
        let help = "Accepts that failed, as they do without descriptors.";
        page.metric(Counter, "buddyline_accept_errors_total", help, counts.accept_errors);
        page.family(
            Counter,
            "buddyline_connections_ended_total",
            "Connections that were closed because they did not read, sent too much, or gave no \
             sign of life.",
        )
        .samples(
            "cause",
            [("too_slow", counts.overflowed), ("flood", counts.floods), ("silent", counts.silent)],
        );
    }

    fn write_frames(&self, page: &mut Page) {
        let (stats, hub_stats, counts) = (&self.stats, self.hub.stats(), self.counts());
        let help = "Bytes that were read from clients.";
        page.metric(Counter, "buddyline_received_bytes_total", help, stats.received_bytes);
        let help = "Bytes to clients that the kernel has taken.";
        page.metric(Counter, "buddyline_sent_bytes_total", help, self.connections.sent_bytes);
        let others = [
            ("unreadable", hub_stats.unreadable),
            ("binary", hub_stats.binary),
            ("control", stats.control),
            ("refused", counts.rate_limited),
        ];
        page.family(
            Counter,
            "buddyline_frames_received_total",
            "Frames of clients by type: the protocol's; unreadable has no type that there is, \
             control is pings and pongs, refused came too fast.",
        )
        .samples("type", hub_stats.frames_by_type().chain(others));
        page.family(
            Counter,
            "buddyline_frames_sent_total",
            "Frames put into outboxes by type, one for each receiver. A gathered one is several \
             who come and go, in one piece.",
        )
        .samples("type", stats.sent_by_kind());
        page.family(
            Counter,
            "buddyline_frames_dropped_total",
            "Frames that did not reach a receiver: missed by one who reads slowly, waiting for one \
             who was closed as too slow, or for one who had gone.",
        )
        .samples(
            "cause",
            [
                ("missed", counts.missed),
                ("too_slow", self.connections.dropped),
                ("gone", counts.stale),
            ],
        );
        let help = "Receivers of each frame that is for several.";
        let all = [(None, stats.fan_outs.buckets())];
        page.histograms("buddyline_fan_out_receivers", help, Unit::Raw, all);
        let mut family = page.family(
            Counter,
            "buddyline_errors_total",
            "Errors told to clients, by their code.",
        );
        for (code, count) in self.hub.errors() {
            // The word is the one that clients get.
            let word = serde_json::to_string(&code).unwrap_or_default();
            family.sample(&[("code", word.trim_matches('"'))], count);
        }
    }

    fn write_calls(&self, page: &mut Page) {
        let [ringing, answered] = self.hub.counts().calls.map(|count| count as u64);
        page.family(Gauge, "buddyline_calls", "Calls, by their states.")
            .samples("state", [("ringing", ringing), ("answered", answered)]);
        let help = "Calls that have ended, by the reason that their devices were told.";
        page.family(Counter, "buddyline_calls_ended_total", help)
            .samples("reason", self.hub.calls_ended());
        let help = "People who were called and had no connection.";
        page.metric(
            Counter,
            "buddyline_calls_offline_callees_total",
            help,
            self.stats.offline_callees,
        );
    }

    fn write_output(&self, page: &mut Page) {
        let ConnectionStats { waiting, waiting_bytes, .. } = self.connections.stats();
        let help = "Bytes that wait for a connection; each is looked at once a second.";
        let all = [(None, self.stats.outboxes.buckets())];
        page.histograms("buddyline_outbox_depth_bytes", help, Unit::Raw, all);
        let help = "Connections for which something waits now.";
        page.metric(Gauge, "buddyline_outboxes_waiting", help, waiting);
        let help = "Bytes that wait now, a shared frame for each that it is for.";
        page.metric(Gauge, "buddyline_outboxes_waiting_bytes", help, waiting_bytes);
        let (held, limit) = self.connections.held_bytes();
        let help = "Memory held for clients that are slow, shared frames once.";
        page.metric(Gauge, "buddyline_held_bytes", help, held);
        let help = "The same beyond which those with the most are closed.";
        page.metric(Gauge, "buddyline_held_limit_bytes", help, limit);
    }

    fn write_ticks(&self, page: &mut Page) {
        let help = "How long turns of the loop take, without their sleep.";
        let all = [(None, self.stats.ticks.buckets())];
        page.histograms("buddyline_tick_duration_seconds", help, Unit::Micros, all);
        let help = "Turns of the loop that took longer than 50 ms.";
        page.metric(Counter, "buddyline_slow_ticks_total", help, self.slow_ticks.count);
        let [held, checks, unproven] = self.hub.backlog();
        let PoolStatus { messages, checks: asked, .. } =
            self.upstream.stats().map_or(IDLE, |(_, l)| l);
        page.family(
            Gauge,
            "buddyline_queue_length",
            "What waits: messages on their way to the site and those of them without a worker; \
             questions about people and threads, and those without a worker; frames that wait for \
             an answer to one, connections that wait for their proof, and connections that wait \
             for their turn to hear what is for many.",
        )
        .samples(
            "queue",
            [
                ("messages", self.hub.counts().deliveries),
                ("upstream_messages", messages),
                ("checks", checks),
                ("upstream_checks", asked),
                ("held_frames", held),
                ("unproven", unproven),
                ("rounds", self.connections.fanout_len()),
            ]
            .map(|(queue, length)| (queue, length as u64)),
        );
        let mut family = page.family(
            Counter,
            "buddyline_cache_requests_total",
            "What a credential proves and who takes part in a thread: known (hit), or to be asked \
             of the site first (miss).",
        );
        for (cache, HitCounter { hits, misses }) in
            [("proofs", self.hub.proof_hits()), ("lists", self.hub.stats().list_hits)]
        {
            family.sample(&[("cache", cache), ("result", "hit")], hits);
            family.sample(&[("cache", cache), ("result", "miss")], misses);
        }
    }

    fn write_upstream(&self, page: &mut Page) {
        // Of the stand-in nothing is counted.
        let none = UpstreamStats::default();
        let (stats, load) = self.upstream.stats().unwrap_or((&none, IDLE));
        let mut family = page.family(
            Counter,
            "buddyline_upstream_answers_total",
            "What came of the questions to the site, by what was asked. Overloaded were not asked, \
             nor were those that found it unavailable while the breaker was not closed.",
        );
        for (kind, outcome, count) in stats.outcomes() {
            family.sample(&[("kind", kind), ("outcome", outcome)], count);
        }
        page.histograms(
            "buddyline_upstream_duration_seconds",
            "How long the site takes, from a worker's beginning to the end.",
            Unit::Micros,
            stats.latencies().map(|(kind, buckets)| (Some(("kind", kind)), buckets)),
        );
        let help = "How long questions to the site wait for a worker.";
        let all = [(None, stats.queue_waits())];
        page.histograms("buddyline_upstream_wait_seconds", help, Unit::Micros, all);
        let help = "Workers with something to do.";
        page.metric(Gauge, "buddyline_upstream_workers_busy", help, load.busy);
        let mut family = page.family(
            Gauge,
            "buddyline_breaker_state",
            "1 for the state that the circuit breaker is in. The site is asked while it is closed.",
        );
        for (n, state) in Breaker::STATES.into_iter().enumerate() {
            family.sample(&[("state", state)], u8::from(n == load.breaker));
        }
        let help = "How often the circuit breaker has opened.";
        page.metric(Counter, "buddyline_breaker_opened_total", help, stats.opened);
        let [good, refused] = stats.tokens();
        let help = "Tokens that were checked with the JWT secret, without the site.";
        page.family(Counter, "buddyline_tokens_verified_total", help)
            .samples("result", [("good", good), ("refused", refused)]);
    }
}

/// Nothing to do, and a site that is asked.
const IDLE: PoolStatus = PoolStatus { messages: 0, checks: 0, busy: 0, breaker: 0 };

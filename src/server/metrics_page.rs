//! The metrics page: name, type, unit and help text of each metric family.
//!
//! It contains no client input: all labels and their values are defined by the server.

use super::Server;
use super::connections::ConnectionStats;
use crate::config::tls::TlsIdentity;
use crate::http::handshake::Readiness;
use crate::hub::interface::Now;
use crate::metrics::page::Kind::{Counter, Gauge};
use crate::metrics::page::{Page, Seconds, Unit};
use crate::metrics::{HitCounter, LOG_LINES_LOST};
use crate::process;
use crate::upstream::breaker::Breaker;
use crate::upstream::plugin::PluginRoute;
use crate::upstream::stats::{PoolStatus, UpstreamStats};

impl Server {
    /// Returns the page as Prometheus text.
    pub(super) fn metrics_page(&self, now: Now) -> String {
        let mut page = Page::default();
        self.write_process(&mut page, now);
        self.write_connections(&mut page);
        self.write_frames(&mut page);
        self.write_calls(&mut page);
        self.write_output(&mut page);
        self.write_ticks(&mut page);
        self.write_upstream(&mut page);
        self.write_site_requests(&mut page);
        page.into_text()
    }

    fn write_process(&self, page: &mut Page, now: Now) {
        page.family(Gauge, "buddyline_build_info", "Always 1; the label is the version.")
            .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        let help = "Start time of the server, in seconds since 1970.";
        page.metric(Gauge, "process_start_time_seconds", help, self.stats.started_unix_s);
        // Without /proc, the families have no samples.
        let mut family =
            page.family(Gauge, "process_resident_memory_bytes", "Resident memory of the process.");
        let own = std::process::id();
        if let Ok(kib) = process::resident_kib(own) {
            family.sample(&[], kib * 1024);
        }
        let mut family = page.family(
            Counter,
            "process_cpu_seconds_total",
            "Processor time of all threads; an event loop that is never idle uses 1 s per second.",
        );
        if let Ok(time) = process::cpu_time(own) {
            family.sample(&[], Seconds(time.as_micros() as u64));
        }
        let help = "Log lines dropped because the log's reader was too slow or the disk was full.";
        page.metric(Counter, "buddyline_log_lines_lost_total", help, LOG_LINES_LOST.count());
        let validity = self.identity.as_ref().and_then(TlsIdentity::validity);
        let help = "Expiry of the server's TLS certificate, in seconds since 1970; 0 without TLS.";
        let until_s = validity.map_or(0, |validity| validity.until_s);
        page.metric(Gauge, "buddyline_tls_certificate_not_after_seconds", help, until_s);
        let ready = self.readiness(now.instant) == Readiness::Ready;
        page.metric(
            Gauge,
            "buddyline_ready",
            "1 if GET /readyz returns 200, else 0.",
            u8::from(ready),
        );
    }

    fn write_connections(&self, page: &mut Page) {
        let ConnectionStats { handshakes, open, closing, .. } = self.connections.stats();
        let counts = self.counts();
        page.family(Gauge, "buddyline_connections", "Client connections by state.")
            .samples("state", [("handshake", handshakes), ("open", open), ("closing", closing)]);
        let help = "Maximum of client connections, by the settings and the available descriptors.";
        page.metric(Gauge, "buddyline_connections_limit", help, self.admission.limit());
        let totals = self.hub.counts();
        let help = "Users who are online, including those in the presence grace time.";
        page.metric(Gauge, "buddyline_users_online", help, totals.users);
        let help = "Threads with subscribers or typing users.";
        page.metric(Gauge, "buddyline_threads", help, totals.threads);
        let help = "Client connections accepted.";
        page.metric(Counter, "buddyline_connections_accepted_total", help, counts.accepted);
        page.family(
            Counter,
            "buddyline_connections_refused_total",
            "Connections refused: at the limit of all connections (full) or of one address \
             (address), for a web page whose origin is not allowed (page), without the PROXY \
             protocol header of a trusted proxy (proxy), for a request that did not arrive in time \
             (late), or for a TLS error (tls).",
        )
        .samples(
            "cause",
            [
                ("full", counts.refused - counts.refused_address),
                ("address", counts.refused_address),
                ("page", counts.refused_pages),
                ("proxy", counts.bad_proxy_headers),
                ("late", counts.late),
                ("tls", counts.tls_faults),
            ],
        );
        let help = "Failed accept calls, for example for lack of descriptors.";
        page.metric(Counter, "buddyline_accept_errors_total", help, counts.accept_errors);
        page.family(
            Counter,
            "buddyline_connections_ended_total",
            "Connections closed because the client read too slowly (too_slow), exceeded the rate \
             limit (flood), or answered no ping (silent).",
        )
        .samples(
            "cause",
            [("too_slow", counts.overflowed), ("flood", counts.floods), ("silent", counts.silent)],
        );
    }

    fn write_frames(&self, page: &mut Page) {
        let (stats, hub_stats, counts) = (&self.stats, self.hub.stats(), self.counts());
        let help = "Bytes read from clients.";
        page.metric(Counter, "buddyline_received_bytes_total", help, stats.received_bytes);
        let help = "Bytes to clients handed to the kernel.";
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
            "Frames received from clients by type. unreadable: no known type; control: pings and \
             pongs; refused: over the rate limit.",
        )
        .samples("type", hub_stats.frames_by_type().chain(others));
        page.family(
            Counter,
            "buddyline_frames_sent_total",
            "Frames put into outboxes by type, counted for each receiver. gathered: several \
             presence frames in one batch.",
        )
        .samples("type", stats.sent_by_kind());
        page.family(
            Counter,
            "buddyline_frames_dropped_total",
            "Frames that a receiver did not get: droppable ones not queued for a slow reader \
             (missed), unsent ones of a connection closed as too slow (too_slow), or ones for a \
             connection that had closed (gone).",
        )
        .samples(
            "cause",
            [
                ("missed", counts.missed),
                ("too_slow", self.connections.dropped),
                ("gone", counts.stale),
            ],
        );
        let help = "Receivers of each frame that has more than one.";
        let all = [(None, stats.fan_outs.buckets())];
        page.histograms("buddyline_fan_out_receivers", help, Unit::Raw, all);
        let mut family = page.family(
            Counter,
            "buddyline_errors_total",
            "Error frames sent to clients, by code.",
        );
        for (code, count) in self.hub.errors() {
            // The label is the code that clients receive.
            let label = serde_json::to_string(&code).unwrap_or_default();
            family.sample(&[("code", label.trim_matches('"'))], count);
        }
    }

    fn write_calls(&self, page: &mut Page) {
        let [ringing, answered] = self.hub.counts().calls.map(|count| count as u64);
        page.family(Gauge, "buddyline_calls", "Calls by state.")
            .samples("state", [("ringing", ringing), ("answered", answered)]);
        let help = "Ended calls, by the reason sent to their devices.";
        page.family(Counter, "buddyline_calls_ended_total", help)
            .samples("reason", self.hub.calls_ended());
        let help = "Calls to users without a connection, counted for each callee.";
        page.metric(
            Counter,
            "buddyline_calls_offline_callees_total",
            help,
            self.stats.offline_callees,
        );
    }

    fn write_output(&self, page: &mut Page) {
        let ConnectionStats { waiting, waiting_bytes, .. } = self.connections.stats();
        let help = "Outbox size of connections; each is sampled once a second.";
        let all = [(None, self.stats.outboxes.buckets())];
        page.histograms("buddyline_outbox_depth_bytes", help, Unit::Raw, all);
        let help = "Connections with a nonempty outbox.";
        page.metric(Gauge, "buddyline_outboxes_waiting", help, waiting);
        let help = "Bytes in all outboxes; a shared frame counts for each receiver.";
        page.metric(Gauge, "buddyline_outboxes_waiting_bytes", help, waiting_bytes);
        let (held, limit) = self.connections.held_bytes();
        let help = "Memory held for slow clients; a shared frame counts once.";
        page.metric(Gauge, "buddyline_held_bytes", help, held);
        let help =
            "Limit of buddyline_held_bytes; above it, connections that hold the most are closed.";
        page.metric(Gauge, "buddyline_held_limit_bytes", help, limit);
    }

    fn write_ticks(&self, page: &mut Page) {
        let help = "Duration of the event loop's ticks, without the time spent polling.";
        let all = [(None, self.stats.ticks.buckets())];
        page.histograms("buddyline_tick_duration_seconds", help, Unit::Micros, all);
        let help = "Ticks of the event loop that took longer than 50 ms.";
        page.metric(Counter, "buddyline_slow_ticks_total", help, self.slow_ticks.count);
        let [held, checks, unproven] = self.hub.backlog();
        let PoolStatus { messages, checks: upstream_checks, .. } =
            self.upstream.stats().map_or(IDLE, |(_, l)| l);
        page.family(
            Gauge,
            "buddyline_queue_length",
            "Queue lengths. messages: in flight to the site; upstream_messages: of these, waiting \
             for a worker; checks: queries of tokens and participants; upstream_checks: of these, \
             waiting for a worker; held_frames: frames that wait for a query; unproven: \
             connections that wait for their token's check; rounds: connections in the fan-out \
             queue.",
        )
        .samples(
            "queue",
            [
                ("messages", self.hub.counts().deliveries),
                ("upstream_messages", messages),
                ("checks", checks),
                ("upstream_checks", upstream_checks),
                ("held_frames", held),
                ("unproven", unproven),
                ("rounds", self.connections.fanout_len()),
            ]
            .map(|(queue, length)| (queue, length as u64)),
        );
        let mut family = page.family(
            Counter,
            "buddyline_cache_requests_total",
            "Lookups of a credential's user (proofs) and of a thread's participants (lists): \
             cached (hit), or queried from the site (miss).",
        );
        for (cache, HitCounter { hits, misses }) in
            [("proofs", self.hub.proof_hits()), ("lists", self.hub.stats().list_hits)]
        {
            family.sample(&[("cache", cache), ("result", "hit")], hits);
            family.sample(&[("cache", cache), ("result", "miss")], misses);
        }
    }

    fn write_site_requests(&self, page: &mut Page) {
        let stats = &self.site_requests.stats;
        page.family(
            Counter,
            "buddyline_site_events_total",
            "Events of the site's plugin by type. test: of the doctor; ignored: of unknown types, \
             or malformed.",
        )
        .samples("type", stats.events_by_type());
        page.family(
            Counter,
            "buddyline_site_requests_refused_total",
            "Requests to /site/events that were refused: the time of the signature is too far from \
             this machine's (clock), the signature is not valid (signature), the id was accepted \
             before (replay), another form (format), too large (size), too many in a second \
             (rate), the server stops (draining), too many bodies at the same time (busy), the \
             body came too slowly (late), or the connection ended before it (truncated).",
        )
        .samples("cause", stats.refusals());
        let counts = self.upstream.plugin_counts().unwrap_or_default();
        let mut family = page.family(
            Counter,
            "buddyline_plugin_requests_total",
            "Requests to the site's plugin by kind: answered (ok), or not (failed).",
        );
        for (n, (_, kind)) in PluginRoute::NAMED.iter().enumerate() {
            family.sample(&[("kind", kind), ("outcome", "ok")], counts.answered[n]);
            family.sample(&[("kind", kind), ("outcome", "failed")], counts.failed[n]);
        }
        let help = "Calls, and users' last activity, that were not sent to the site's plugin: too \
                    many or too old, or the request failed.";
        let [calls, activity] = counts.dropped;
        page.family(Counter, "buddyline_plugin_dropped_total", help)
            .samples("kind", [("calls", calls), ("activity", activity)]);
        let help = "1 if the site's plugin has answered with the shared secret, else 0.";
        page.metric(Gauge, "buddyline_plugin_found", help, u8::from(counts.found));
    }

    fn write_upstream(&self, page: &mut Page) {
        // The embedded stand-in has no stats.
        let none = UpstreamStats::default();
        let (stats, load) = self.upstream.stats().unwrap_or((&none, IDLE));
        let mut family = page.family(
            Counter,
            "buddyline_upstream_answers_total",
            "Requests to the site by kind and outcome. overloaded requests were not sent, nor were \
             unavailable ones while the circuit breaker was not closed.",
        );
        for (kind, outcome, count) in stats.outcomes() {
            family.sample(&[("kind", kind), ("outcome", outcome)], count);
        }
        page.histograms(
            "buddyline_upstream_duration_seconds",
            "Duration of requests to the site, from their start in a worker to the end.",
            Unit::Micros,
            stats.latencies().map(|(kind, buckets)| (Some(("kind", kind)), buckets)),
        );
        let help = "Time that requests to the site wait for a worker.";
        let all = [(None, stats.queue_waits())];
        page.histograms("buddyline_upstream_wait_seconds", help, Unit::Micros, all);
        let help = "Upstream workers that are busy.";
        page.metric(Gauge, "buddyline_upstream_workers_busy", help, load.busy);
        let mut family = page.family(
            Gauge,
            "buddyline_breaker_state",
            "1 for the current state of the circuit breaker. Requests are sent while it is closed.",
        );
        for (n, state) in Breaker::STATES.into_iter().enumerate() {
            family.sample(&[("state", state)], u8::from(n == load.breaker));
        }
        let help = "Number of times that the circuit breaker has opened.";
        page.metric(Counter, "buddyline_breaker_opened_total", help, stats.opened);
        let [good, refused] = stats.tokens();
        let help = "Tokens and tickets that were verified without a request to the site.";
        page.family(Counter, "buddyline_tokens_verified_total", help)
            .samples("result", [("good", good), ("refused", refused)]);
    }
}

/// The status of an idle pool with a closed circuit breaker.
const IDLE: PoolStatus = PoolStatus { messages: 0, checks: 0, busy: 0, breaker: 0 };

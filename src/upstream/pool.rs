//! The worker pool: executes requests to the site on a few threads, with bounded queues.
//!
//! The loop's side is [`Pool`]; the other side is a few threads that only do blocking requests
//! (`pool/worker.rs`). They share two channels and a waker, and nothing else.
//!
//! **Bounds.** No message is accepted while `queue + workers` are outstanding, that is, accepted
//! without a collected answer; checks have a bound of their own (`pool/queue.rs`). Queued requests
//! stay on the loop's side: a task is dispatched only while fewer than `workers` tasks are with the
//! workers or await collection. So a capacity of `workers` is enough for both channels, no send on
//! them blocks, and a loop that does not collect answers gets `Overloaded`.
//!
//! **A failing site.** The [`breaker`](super::breaker) decides whether requests go to the site.
//! While it is not closed, new requests fail at once; when it opens, queued requests fail as well.
//! None of them was sent. Requests that can be answered without the site still are.

mod outage;
pub(crate) mod plugin_client;
mod queue;
mod warnings;
pub(crate) mod worker;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::SiteSettings;
use super::breaker::{Breaker, Transition};
use super::buddyboss::{Reply, precheck};
use super::health::Health;
use super::jwt::ticket::TicketVerifier;
use super::jwt::{Refusal, Verifier};
use super::plugin::{self, CallNotice, PluginFault, PluginRoute};
use super::site::{Outcome, ProbeOutcome, ProbePlan, Site, Unanswered};
use super::stats::{OutcomeKind, PoolStatus, UpstreamStats};
use super::url_style::UrlStyle;
use super::usability::{Evidence, Usability};
use crate::config::site_password::SitePassword;
use crate::config::site_trust::SiteTrust;
use crate::hub::interface::{Answer, Ask, Failure, Now, Proven, RequestId, TokenFault};
use crate::protocol::credential::{Credential, Scheme};
use crate::protocol::signature::SiteKeys;
use plugin_client::{PluginClient, PluginCounts};
use queue::Queue;
use warnings::Warnings;
use worker::{AskKind, Completion, Task};

/// The server stays ready for this long after the site's last success.
const READY_GRACE: Duration = Duration::from_secs(5);

/// The shortest time between two probes for the URL style.
const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// The loop's side of the pool. Dropping it ends the workers without waiting for them; requests in
/// flight fail at once.
pub struct Pool {
    /// The client of the next task, and its settings, without the verifier.
    site: Arc<Site>,
    settings: SiteSettings,
    /// `None` once the pool is being dropped.
    tasks: Option<Sender<(Arc<Site>, Task)>>,
    completions: Receiver<Completion>,
    verifier: Option<Verifier>,
    tickets: Option<TicketVerifier>,
    /// Requests to the site's plugin; `None` without a secret.
    plugin: Option<PluginClient>,
    queue: Queue,
    breaker: Breaker,
    /// Answers that needed no worker, in order. They do not wake the loop: it is awake when it
    /// submits, and checks `has_answer` before it sleeps. Bounded by what the loop submits between
    /// two collections, and by the queue when the breaker opens.
    ready: VecDeque<(RequestId, Answer)>,
    /// The URL style of the next request: `RestRoute`, which works on every site, until a probe
    /// finds a better one.
    url_style: UrlStyle,
    /// The URL style under which a probe last found the API.
    found_style: Option<UrlStyle>,
    /// The style that the next probe tries first.
    probe_first: UrlStyle,
    /// Whether the URL style must be probed again.
    probe_wanted: bool,
    probed_at: Option<Instant>,
    /// When a reply last caused a recheck of the URL style.
    rechecked_at: Option<Instant>,
    usability: Usability,
    /// Whether the site was unusable when that was last looked at.
    was_unusable: bool,
    /// The last unusable reply, for the log.
    unusable_detail: Option<String>,
    /// The credential of a member whom the site has accepted last, for probes while the site may be
    /// unusable.
    accepted: Option<Credential>,
    warnings: Warnings,
    stats: UpstreamStats,
    /// The time of the site's last success.
    last_success: Option<Instant>,
    /// The loop's current time, as of its last call.
    now: Instant,
}

impl Pool {
    /// Starts the workers and a first probe of the site. Fails if a thread cannot be started.
    pub fn start(
        settings: &SiteSettings,
        waker: Arc<mio::Waker>,
        now: Instant,
    ) -> io::Result<Pool> {
        let workers = settings.workers.max(1);
        let (tasks, task_receiver) = bounded(workers);
        let (completion_sender, completions) = bounded(workers);
        for n in 0..workers {
            let (tasks, completions) = (task_receiver.clone(), completion_sender.clone());
            let waker = waker.clone();
            let run = |site: &Arc<Site>, task: &Task| worker::run(site, task);
            let work = move || worker::run_worker(&tasks, &completions, &waker, run);
            thread::Builder::new().name(format!("upstream-{n}")).spawn(work)?;
        }
        let mut pool = Pool {
            site: Arc::new(Site::new(settings)),
            settings: SiteSettings {
                verifier: None,
                tickets: None,
                site_keys: None,
                ..settings.clone()
            },
            tasks: Some(tasks),
            completions,
            verifier: settings.verifier.clone(),
            tickets: settings.tickets.clone(),
            plugin: settings.site_keys.clone().map(|keys| PluginClient::new(keys, now)),
            queue: Queue::new(workers, settings.queue.max(1)),
            breaker: Breaker::default(),
            ready: VecDeque::new(),
            url_style: UrlStyle::RestRoute,
            found_style: None,
            probe_first: UrlStyle::Pretty,
            probe_wanted: true,
            probed_at: None,
            rechecked_at: None,
            usability: Usability::default(),
            was_unusable: false,
            unusable_detail: None,
            accepted: None,
            warnings: Warnings::new(settings.url.clone()),
            stats: UpstreamStats::default(),
            last_success: None,
            now,
        };
        pool.probe_if_due();
        // If this probe fails, the first request may start the next one at once.
        pool.probed_at = None;
        Ok(pool)
    }

    /// Accepts a request. Never blocks: if the queue is full, the answer `Overloaded` is ready at
    /// once, and while the breaker is not closed, `SiteUnavailable`.
    pub fn submit(&mut self, request: RequestId, ask: Ask, now: Now) {
        self.now = now.instant;
        let log_request = ask.log_request(request);
        let kind = AskKind::from_ask(&ask);
        let failure = match self.answer_locally(&ask, now) {
            Some(answer) => return self.ready.push_back((request, answer)),
            None if !self.breaker.is_closed() => {
                self.stats.record_rejected(kind, OutcomeKind::Unavailable);
                self.unavailable()
            }
            None if self.queue.push(request, ask) => {
                self.stats.record_queued(request, kind, self.now);
                self.probe_if_due();
                return self.dispatch();
            }
            None => {
                let full = "the queue of requests is full (--upstream-queue)";
                self.warnings.warn_for(log_request, full, self.now);
                self.stats.record_rejected(kind, OutcomeKind::Overloaded);
                Failure::Overloaded
            }
        };
        self.ready.push_back((request, Answer::Failed(failure)));
    }

    /// Records the time and starts a probe of a failing site if one is due. Never blocks.
    pub fn advance(&mut self, now: Instant) {
        self.now = now;
        self.warnings.log_recovery(now);
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.next_deadline()) {
            self.probe_if_due();
        }
        self.note_usability();
    }

    /// The time at which [`Pool::advance`] must be called even if no event arrives before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let usability = self.usability.deadline(self.now).filter(|_| self.breaker.is_closed());
        let plugin = self.plugin.as_ref().filter(|_| self.has_room_for_plugin());
        let plugin = plugin.and_then(PluginClient::deadline);
        let deadlines = [self.breaker.deadline(), self.warnings.deadline(), usability, plugin];
        deadlines.into_iter().flatten().min()
    }

    /// Whether the site answers everyone with something that no member can use.
    pub fn is_unusable(&self, now: Instant) -> bool {
        self.usability.is_unusable(now)
    }

    /// Whether requests go to the site.
    pub fn is_available(&self) -> bool {
        self.breaker.is_closed()
    }

    /// Takes the next answer, in no particular order. Never blocks. A worker that has become free
    /// gets its next task.
    pub fn next_answer(&mut self) -> Option<(RequestId, Answer)> {
        // The workers' completions come first: they are few, and a flood of local answers must not
        // delay the one that shows that the site has recovered.
        while let Ok(completion) = self.completions.try_recv() {
            let answer = match completion {
                Completion::ProbeOutcome(outcome) => {
                    self.queue.finish(None);
                    self.stats.record_probe(&outcome, self.now);
                    self.record_health(outcome.health);
                    self.warnings.warn_noise(outcome.noise.as_deref(), self.now);
                    self.apply_probe(&outcome);
                    None
                }
                Completion::PluginReplied { route, result } => {
                    self.queue.finish(None);
                    self.record_plugin(route, &result);
                    None
                }
                Completion::AskOutcome {
                    request,
                    log_request,
                    kind,
                    url_style,
                    outcome,
                    accepted,
                } => {
                    self.queue.finish(Some(kind));
                    self.accepted = accepted.or(self.accepted.take());
                    self.stats.record_answer(request, &outcome.answer, self.now);
                    self.record_health(outcome.health);
                    self.warnings.warn_noise(outcome.noise.as_deref(), self.now);
                    self.record_outcome(kind, log_request, url_style, &outcome);
                    Some((request, outcome.answer))
                }
            };
            self.dispatch();
            if answer.is_some() {
                return answer;
            }
        }
        self.ready.pop_front()
    }

    /// Whether [`Pool::next_answer`] has work.
    pub fn has_answer(&self) -> bool {
        !self.ready.is_empty() || !self.completions.is_empty()
    }

    /// The number of accepted requests whose answers were not collected yet.
    pub fn outstanding(&self) -> usize {
        self.queue.outstanding() + self.ready.len()
    }

    /// Verifies tokens with `verifier` from now on; with `None`, the site is asked.
    pub fn set_verifier(&mut self, verifier: Option<Verifier>) {
        self.verifier = verifier;
    }

    /// Verifies tickets and signs requests to the plugin with these from now on; with `None`,
    /// tickets are refused, and no requests are sent.
    pub fn set_plugin(&mut self, tickets: Option<TicketVerifier>, keys: Option<SiteKeys>) {
        self.tickets = tickets;
        match (&mut self.plugin, keys) {
            (Some(plugin), Some(keys)) => plugin.set_keys(keys, self.now),
            (plugin, keys) => *plugin = keys.map(|keys| PluginClient::new(keys, self.now)),
        }
    }

    /// Queues a call for the site's plugin.
    pub fn notify_call(&mut self, notice: CallNotice) {
        if let Some(plugin) = &mut self.plugin {
            plugin.push_call(notice, self.now);
        }
    }

    /// Notes for the site's plugin that users are active.
    pub fn note_active(&mut self, users: &[u64], now: Now) {
        if let Some(plugin) = &mut self.plugin {
            plugin.push_active(users, now.unix_s);
        }
    }

    /// Sends the next request to the site's plugin, if one is due.
    pub fn advance_plugin(&mut self, now: Now) {
        self.now = now.instant;
        if !self.has_room_for_plugin() {
            return;
        }
        let (Some(plugin), Some(tasks)) = (&mut self.plugin, &self.tasks) else { return };
        if let Some(request) = plugin.next_request(now) {
            self.queue.start_plugin();
            let task = Task::Plugin { request, url_style: self.url_style };
            let task = (self.site.clone(), task);
            tasks.try_send(task).expect("the task channel has room for a free worker");
        }
    }

    /// Counts of requests to the site's plugin; `None` without a secret.
    pub fn plugin_counts(&self) -> Option<PluginCounts> {
        self.plugin.as_ref().map(PluginClient::counts)
    }

    /// Whether a request to the plugin may go: requests reach the site, and no other waits.
    fn has_room_for_plugin(&self) -> bool {
        self.breaker.is_closed() && self.queue.has_room_for_plugin()
    }

    fn record_plugin(&mut self, route: PluginRoute, result: &Result<Reply, Unanswered>) {
        let Some(plugin) = &mut self.plugin else { return };
        let outcome = match result {
            Ok(reply) if route == PluginRoute::Status => {
                plugin::parse_reply(reply, plugin.sent_s()).map(Some)
            }
            Ok(reply) => {
                plugin::parse_reply::<serde::de::IgnoredAny>(reply, plugin.sent_s()).map(|_| None)
            }
            Err(Unanswered { reason, was_sent }) => {
                let detail = format!("no reply: {reason}");
                Err(PluginFault::Other { detail, may_repeat: !was_sent })
            }
        };
        plugin.record(route, outcome, self.now);
    }

    /// Trusts these authorities from now on. Requests in flight keep their client until they end.
    pub fn set_trust(&mut self, trust: SiteTrust) {
        if self.settings.trust != trust {
            self.settings.trust = trust;
            self.site = Arc::new(Site::new(&self.settings));
        }
    }

    /// Sends this login and password to the site's web server from now on.
    pub fn set_password(&mut self, password: Option<SitePassword>) {
        if self.settings.password != password {
            self.settings.password = password;
            self.site = Arc::new(Site::new(&self.settings));
        }
    }

    /// Verifies tokens locally; `None` if the site is asked.
    pub fn verifier(&self) -> Option<&Verifier> {
        self.verifier.as_ref()
    }

    /// The URL style of the next request.
    pub fn url_style(&self) -> UrlStyle {
        self.url_style
    }

    /// Whether the site succeeded within the last five seconds.
    pub fn has_recent_success(&self, now: Instant) -> bool {
        self.last_success.is_some_and(|at| now.saturating_duration_since(at) < READY_GRACE)
    }

    /// The counters.
    pub fn stats(&self) -> &UpstreamStats {
        &self.stats
    }

    /// The current load.
    pub fn status(&self) -> PoolStatus {
        let [messages, checks, busy] = self.queue.lengths();
        PoolStatus { messages, checks, busy, breaker: self.breaker.state() }
    }

    fn record_health(&mut self, health: Health) {
        if health == Health::Alive {
            self.last_success = Some(self.now);
        }
    }

    /// Answers a request that need not go to the site: an invalid one, or a token check if a key of
    /// the site is known.
    fn answer_locally(&mut self, ask: &Ask, now: Now) -> Option<Answer> {
        if let Some(failure) = precheck(ask) {
            return Some(Answer::Failed(failure));
        }
        if let Some(ticket) = ask.credential().filter(|credential| credential.is_ticket()) {
            return Some(self.answer_ticket(ask, ticket.secret(), now));
        }
        let (Ask::Prove(credential), Some(verifier)) = (ask, &self.verifier) else { return None };
        if credential.scheme() != Scheme::Bearer {
            return None;
        }
        let result = verifier.verify(credential.secret(), now.unix_s);
        // The site has signed the token, and only the site can say whose it is.
        let is_for_the_site = matches!(result, Err(Refusal::NoUser));
        self.stats.record_verification(result.is_ok() || is_for_the_site);
        if let Err(refusal) = &result {
            let level = match refusal.may_be_a_wrong_setting() {
                true => log::Level::Warn,
                false => log::Level::Info,
            };
            if let Some(line) = verifier.explain(refusal) {
                self.warnings.log_once(level, None, line, self.now);
            }
        }
        match result {
            // A token without an end is like an Application Password: the site is asked now, and
            // again as long as it is in use.
            Ok(Proven { expires_s: None, .. }) | Err(Refusal::NoUser) => None,
            Ok(proven) => Some(Answer::Verified(proven)),
            Err(refusal) => Some(Answer::Failed(refusal.failure())),
        }
    }

    /// Answers a request that comes with a ticket. A ticket never goes to the site, which does not
    /// know it as a token, and which has signed it a few minutes ago.
    fn answer_ticket(&mut self, ask: &Ask, ticket: &str, now: Now) -> Answer {
        match ask {
            Ask::Prove(_) | Ask::Recheck(_) => {}
            Ask::Post(_) | Ask::Participants { .. } | Ask::Lookup(_) => {
                return Answer::Failed(Failure::TicketOnly);
            }
            // As while the site is down: the hub knows the blocks from the ticket.
            Ask::CallPermission { .. } => {
                return Answer::Failed(Failure::SiteUnavailable { retry_after_s: None });
            }
        }
        let Some(verifier) = &self.tickets else {
            let line = "a client sends a ticket of the site's plugin: set --site-secret-file, \
                        without which the server cannot verify it";
            self.warnings.log_once(log::Level::Warn, None, line.to_owned(), self.now);
            return Answer::Failed(Failure::TokenInvalid(TokenFault::Algorithm));
        };
        let result = verifier.verify(ticket, now.unix_s);
        self.stats.record_verification(result.is_ok());
        match result {
            Ok(ticket) => Answer::Ticket(ticket),
            Err(refusal) => {
                if let Some(line) = verifier.explain(&refusal) {
                    self.warnings.log_once(log::Level::Warn, None, line, self.now);
                }
                Answer::Failed(refusal.failure())
            }
        }
    }

    fn unavailable(&self) -> Failure {
        Failure::SiteUnavailable { retry_after_s: self.breaker.retry_after_s(self.now) }
    }

    /// Hands queued tasks to free workers.
    fn dispatch(&mut self) {
        let Some(tasks) = &self.tasks else { return };
        while let Some(task) = self.queue.next(self.url_style) {
            self.stats.record_dispatch(&task, self.now);
            // The queue hands out at most one task per worker, and the channel has room for as
            // many. The workers' end of the channel outlives this one.
            let task = (self.site.clone(), task);
            tasks.try_send(task).expect("the task channel has room for a free worker");
        }
    }

    /// Starts a probe if one is due: for the breaker, while the site may be unusable, or for the
    /// URL style at most once a minute.
    fn probe_if_due(&mut self) {
        let interval_over =
            self.probed_at.is_none_or(|at| self.elapsed_since(at) >= PROBE_INTERVAL);
        let suspects = self.breaker.is_closed() && self.usability.take_due_probe(self.now);
        let wanted = (self.probe_wanted && interval_over) || suspects;
        if self.breaker.try_start_probe(wanted, self.now) {
            self.probe_wanted = false;
            self.probed_at = Some(self.now);
            self.queue.push_probe(ProbePlan {
                first: self.probe_first,
                member: self.accepted.clone().filter(|_| suspects),
                messages: self.usability.suspects_messages(),
            });
            self.dispatch();
        }
    }

    /// Logs once that the site has become unusable.
    fn note_usability(&mut self) {
        let is_unusable = self.usability.is_unusable(self.now);
        if is_unusable && !self.was_unusable {
            let detail = self.unusable_detail.as_deref().unwrap_or("it gives no usable reply");
            self.warnings.warn_unusable(detail, self.now);
        }
        self.was_unusable = is_unusable;
    }

    fn elapsed_since(&self, at: Instant) -> Duration {
        self.now.saturating_duration_since(at)
    }

    fn apply_probe(&mut self, outcome: &ProbeOutcome) {
        let (evidence, is_certain) = (outcome.evidence(), outcome.is_certain());
        self.usability.record_probe(evidence, outcome.kind, is_certain, self.now);
        let problem = match &outcome.found {
            Ok(url_style) => {
                self.url_style = *url_style;
                self.found_style = Some(*url_style);
                if self.usability.is_unsuspected() {
                    self.warnings.record_success(self.now);
                }
                self.warnings.log_url_style(*url_style);
                None
            }
            Err(finding) => {
                self.probe_wanted = true;
                // Neither style works: a site that had one keeps it.
                self.probe_first = self.found_style.unwrap_or(self.probe_first);
                let problem = Warnings::describe_probe(finding, outcome.detail.as_deref());
                self.unusable_detail = Some(problem.clone());
                Some(problem)
            }
        };
        let was_closed = self.breaker.is_closed();
        let change = self.breaker.record_probe(outcome.health, self.now);
        match (change, problem) {
            (Some(Transition::Opened { pause }), problem) => {
                let problem = problem.as_deref().unwrap_or("a probe failed");
                self.warnings.warn_opened(outcome.health, problem, pause, self.now);
                self.fail_queued();
            }
            (Some(Transition::Reopened { pause }), Some(problem)) => {
                let pause_s = pause.as_secs();
                log::debug!("the site still fails, next probe in {pause_s} s: {problem}");
            }
            (Some(Transition::Closed), problem) => {
                self.warnings.record_success(self.now);
                problem.inspect(|problem| self.warnings.warn(problem, self.now));
            }
            (_, Some(problem)) if was_closed => self.warnings.warn(&problem, self.now),
            _ => {}
        }
    }

    /// Updates breaker, warnings and URL style from the outcome of a request.
    fn record_outcome(
        &mut self,
        kind: AskKind,
        request: RequestId,
        url_style: UrlStyle,
        outcome: &Outcome,
    ) {
        self.warnings.track_token(&outcome.answer, self.now);
        let evidence = match outcome.evidence {
            // Without the route that checks tokens, BuddyBoss is not there at all.
            Evidence::MessagesMissing if kind == AskKind::Token => Evidence::Unusable,
            evidence => evidence,
        };
        if matches!(evidence, Evidence::Unusable | Evidence::MessagesMissing) {
            self.unusable_detail.clone_from(&outcome.log_detail);
        }
        self.usability.record_reply(evidence, kind != AskKind::Token, self.now);
        let was_closed = self.breaker.is_closed();
        match self.breaker.record(outcome.health, self.now) {
            Some(Transition::Opened { pause }) => {
                let problem = outcome.log_detail.as_deref().unwrap_or("no reply");
                self.warnings.warn_opened(outcome.health, problem, pause, self.now);
                self.fail_queued();
            }
            Some(Transition::Closed) => {
                self.warnings.record_success(self.now);
                self.warnings.warn_outcome(kind, request, outcome, self.now);
            }
            _ if was_closed => self.warnings.warn_outcome(kind, request, outcome, self.now),
            _ => self.warnings.debug_outcome(kind, request, outcome, self.now),
        }
        if outcome.suspect_url && url_style == self.url_style {
            self.recheck_url_style(kind);
        }
        self.probe_if_due();
    }

    /// Fails all queued requests; none of them was sent.
    fn fail_queued(&mut self) {
        let answer = Answer::Failed(self.unavailable());
        let failed = self.queue.fail_queued();
        failed.iter().for_each(|request| self.stats.record_cancelled(*request));
        self.stats.opened += 1;
        self.ready.extend(failed.into_iter().map(|request| (request, answer.clone())));
    }

    /// Probes the other URL style after a reply that suggests that the current one is wrong. The
    /// site's permalinks may have changed, or something in front of it refused this one request, so
    /// the other style is used only if a probe finds the API there. At most once a minute, or a
    /// broken site would be asked twice for everything.
    fn recheck_url_style(&mut self, kind: AskKind) {
        if self.rechecked_at.is_none_or(|at| self.elapsed_since(at) >= PROBE_INTERVAL) {
            let line =
                format!("the URL style of the REST API may be wrong ({kind}); probing again");
            self.warnings.warn(&line, self.now);
            self.rechecked_at = Some(self.now);
            self.probe_first = self.url_style.other();
            self.probe_wanted = true;
            self.probed_at = None;
            self.probe_if_due();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Idle workers end with the channel, busy ones after their request, which fails at once. A
        // worker that is connecting ends at its timeout; the drop does not wait for it.
        self.tasks = None;
        self.site.shut_down();
    }
}

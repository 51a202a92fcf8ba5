//! The worker pool: asks out, answers back, both bounded.
//!
//! The loop's side is [`Pool`]; the other side is a few threads that do nothing but blocking calls
//! (`pool/worker.rs`). Between them are two channels and a waker, and nothing else is shared.
//!
//! **Bounds.** No message is taken while `queue + workers` are outstanding: accepted, and their
//! answers not collected; checks have a bound of their own (`pool/queue.rs`). What waits stays on
//! the loop's side: a job is handed out only while fewer than `workers` are with the workers or
//! await collection. So both channels have room for as many as there are workers, nobody ever waits
//! at them, and a loop that does not collect gets `Overloaded`.
//!
//! **A failing site.** The [`breaker`](super::breaker) says whether the site is asked at all. While
//! it is not, what is submitted is answered at once, and so is what waited when it opened: none of
//! that was sent. What the loop can answer without the site goes on.

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
use super::buddyboss::precheck;
use super::health::Health;
use super::jwt::Verifier;
use super::site::{Outcome, ProbeOutcome, Site};
use super::stats::{OutcomeKind, PoolStatus, UpstreamStats};
use super::url_style::UrlStyle;
use crate::hub::interface::{Answer, Ask, Failure, Now, RequestId};
use crate::protocol::credential::Scheme;
use queue::Queue;
use warnings::Warnings;
use worker::{AskKind, Completion, Task};

/// A site that has worked within this time may work again in a moment.
const READY_GRACE: Duration = Duration::from_secs(5);

/// A probe for the form of address is not repeated sooner than this.
const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// The loop's side of the pool. Dropping it ends the workers: calls under way fail at once, and
/// none is waited for.
pub struct Pool {
    site: Site,
    /// `None` once the pool is being dropped.
    tasks: Option<Sender<Task>>,
    done: Receiver<Completion>,
    verifier: Option<Verifier>,
    queue: Queue,
    breaker: Breaker,
    /// Answers that needed no worker, the next one first. They ring no bell: whoever submits is
    /// awake, and asks `has_answer` before it sleeps. As many as the loop submits between two
    /// collections, and as many as wait when the breaker opens.
    ready: VecDeque<(RequestId, Answer)>,
    /// What the next ask is sent to. `RestRoute`, which works everywhere, until a probe says
    /// better.
    url_style: UrlStyle,
    /// The form that the next probe tries first.
    probe_first: UrlStyle,
    /// Whether the form is to be found out again.
    probe_wanted: bool,
    probed_at: Option<Instant>,
    /// When an answer last made us doubt the form.
    rechecked_at: Option<Instant>,
    warnings: Warnings,
    stats: UpstreamStats,
    /// When the site last worked.
    last_success: Option<Instant>,
    /// When the loop last said what time it is.
    now: Instant,
}

impl Pool {
    /// Starts the workers, and a first probe of the site. Fails when a thread cannot be made.
    pub fn start(
        settings: &SiteSettings,
        waker: Arc<mio::Waker>,
        now: Instant,
    ) -> io::Result<Pool> {
        let workers = settings.workers.max(1);
        let (tasks, todo) = bounded(workers);
        let (answers, done) = bounded(workers);
        let site = Site::new(settings);
        for n in 0..workers {
            let (site, todo) = (site.clone(), todo.clone());
            let (answers, waker) = (answers.clone(), waker.clone());
            let work = move || {
                worker::run_worker(&todo, &answers, &waker, |task| worker::run(&site, task))
            };
            thread::Builder::new().name(format!("upstream-{n}")).spawn(work)?;
        }
        let mut pool = Pool {
            site,
            tasks: Some(tasks),
            done,
            verifier: settings.verifier.clone(),
            queue: Queue::new(workers, settings.queue.max(1)),
            breaker: Breaker::default(),
            ready: VecDeque::new(),
            url_style: UrlStyle::RestRoute,
            probe_first: UrlStyle::Pretty,
            probe_wanted: true,
            probed_at: None,
            rechecked_at: None,
            warnings: Warnings::new(settings.url.clone()),
            stats: UpstreamStats::default(),
            last_success: None,
            now,
        };
        pool.probe_if_due();
        // If it fails, the first ask may cause the next.
        pool.probed_at = None;
        Ok(pool)
    }

    /// Takes an ask. Never blocks; where there is no room, the answer `Overloaded` is ready at
    /// once, and `SiteUnavailable` while the site is not asked.
    pub fn submit(&mut self, request: RequestId, ask: Ask, now: Now) {
        self.now = now.instant;
        let log_request = ask.log_request(request);
        let what = AskKind::from_ask(&ask);
        let failure = match self.answer_locally(&ask, now) {
            Some(answer) => return self.ready.push_back((request, answer)),
            None if !self.breaker.is_closed() => {
                self.stats.record_rejected(what, OutcomeKind::Unavailable);
                self.unavailable()
            }
            None if self.queue.push(request, ask) => {
                self.stats.record_queued(request, what, self.now);
                self.probe_if_due();
                return self.dispatch();
            }
            None => {
                let full = "the queue of requests is full (--upstream-queue)";
                self.warnings.warn_for(log_request, full, self.now);
                self.stats.record_rejected(what, OutcomeKind::Overloaded);
                Failure::Overloaded
            }
        };
        self.ready.push_back((request, Answer::Failed(failure)));
    }

    /// Notes what time it is, and probes a failing site where it is time to. Never blocks.
    pub fn advance(&mut self, now: Instant) {
        self.now = now;
        if self.breaker.deadline().is_some_and(|deadline| deadline <= now) {
            self.probe_if_due();
        }
    }

    /// When [`Pool::advance`] has something to do, though nothing happens until then.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.breaker.deadline()
    }

    /// Whether the site is asked at all.
    pub fn is_available(&self) -> bool {
        self.breaker.is_closed()
    }

    /// The next answer that has come back, in no particular order. Never blocks. A worker that has
    /// become free gets its next job.
    pub fn next_answer(&mut self) -> Option<(RequestId, Answer)> {
        // What workers have done comes first: it is little, and a flood of answers that need no
        // worker must not hide the one that says that the site is back.
        while let Ok(done) = self.done.try_recv() {
            let answered = match done {
                Completion::ProbeOutcome(probed) => {
                    self.queue.finish(None);
                    self.stats.record_probe(&probed, self.now);
                    self.record_health(probed.health);
                    self.apply_probe(&probed);
                    None
                }
                Completion::AskOutcome { request, log_request, what, url_style, outcome } => {
                    self.queue.finish(Some(what));
                    self.stats.record_answer(request, &outcome.answer, self.now);
                    self.record_health(outcome.health);
                    self.record_outcome(what, log_request, url_style, &outcome);
                    Some((request, outcome.answer))
                }
            };
            self.dispatch();
            if answered.is_some() {
                return answered;
            }
        }
        self.ready.pop_front()
    }

    /// Whether [`Pool::next_answer`] has something to do.
    pub fn has_answer(&self) -> bool {
        !self.ready.is_empty() || !self.done.is_empty()
    }

    /// How many asks were accepted whose answers have not been collected.
    pub fn outstanding(&self) -> usize {
        self.queue.outstanding() + self.ready.len()
    }

    /// Checks tokens with this from now on.
    pub fn set_verifier(&mut self, verifier: Option<Verifier>) {
        self.verifier = verifier;
    }

    /// Whether it has the site's JWT secret.
    pub fn has_verifier(&self) -> bool {
        self.verifier.is_some()
    }

    /// The form of address that the next ask is sent to.
    pub fn url_style(&self) -> UrlStyle {
        self.url_style
    }

    /// Whether the site has worked within the last seconds.
    pub fn has_recent_success(&self, now: Instant) -> bool {
        self.last_success.is_some_and(|then| now.saturating_duration_since(then) < READY_GRACE)
    }

    /// What has been counted.
    pub fn stats(&self) -> &UpstreamStats {
        &self.stats
    }

    /// How much is to do.
    pub fn status(&self) -> PoolStatus {
        let [messages, checks, busy] = self.queue.lengths();
        PoolStatus { messages, checks, busy, breaker: self.breaker.state() }
    }

    fn record_health(&mut self, health: Health) {
        if health == Health::Alive {
            self.last_success = Some(self.now);
        }
    }

    /// What the site would not hear about, and what need not be asked.
    fn answer_locally(&mut self, ask: &Ask, now: Now) -> Option<Answer> {
        if let Some(failure) = precheck(ask) {
            return Some(Answer::Failed(failure));
        }
        match (ask, &self.verifier) {
            (Ask::Prove(credential), Some(verifier)) if credential.scheme() == Scheme::Bearer => {
                let result = verifier.verify(credential.secret(), now.unix_s);
                self.stats.record_verification(result.is_ok());
                if result == Err(Failure::TokenRefused) {
                    if let Some(log_detail) = verifier.log_detail(credential.secret()) {
                        self.warnings.log_once(log::Level::Warn, None, log_detail, self.now);
                    }
                }
                Some(result.map_or_else(Answer::Failed, Answer::Proven))
            }
            _ => None,
        }
    }

    fn unavailable(&self) -> Failure {
        Failure::SiteUnavailable { retry_after_s: self.breaker.retry_after_s(self.now) }
    }

    /// Gives free workers what waits.
    fn dispatch(&mut self) {
        let Some(tasks) = &self.tasks else { return };
        while let Some(task) = self.queue.next(self.url_style) {
            self.stats.record_dispatch(&task, self.now);
            // The queue counts whom it has given work, and the channel has room for all of them;
            // a worker ends only after this end of the channel.
            tasks.try_send(task).expect("a free worker takes a job");
        }
    }

    /// A probe goes out: one that the breaker needs, or one for the form of address, which is
    /// looked for once a minute.
    fn probe_if_due(&mut self) {
        let rested = self.probed_at.is_none_or(|then| self.elapsed_since(then) >= PROBE_INTERVAL);
        if self.breaker.try_start_probe(self.probe_wanted && rested, self.now) {
            self.probe_wanted = false;
            self.probed_at = Some(self.now);
            self.queue.push_probe(self.probe_first);
            self.dispatch();
        }
    }

    fn elapsed_since(&self, then: Instant) -> Duration {
        self.now.saturating_duration_since(then)
    }

    fn apply_probe(&mut self, probed: &ProbeOutcome) {
        let why = match &probed.found {
            Ok(url_style) => {
                self.url_style = *url_style;
                self.warnings.log_url_style(*url_style);
                None
            }
            Err(finding) => {
                self.probe_wanted = true;
                Some(Warnings::describe_probe(finding))
            }
        };
        let was_closed = self.breaker.is_closed();
        let change = self.breaker.record_probe(probed.health, self.now);
        match (change, why) {
            (Some(Transition::Opened { pause }), why) => {
                let why = why.as_deref().unwrap_or("a probe fails");
                self.warnings.warn_opened(probed.health, why, pause, self.now);
                self.fail_queued();
            }
            (Some(Transition::Reopened { pause }), Some(why)) => {
                log::debug!("the site still fails, asking again in {} s: {why}", pause.as_secs());
            }
            (Some(Transition::Closed), why) => {
                self.warnings.log_recovery(self.now);
                why.inspect(|why| self.warnings.warn(why, self.now));
            }
            (_, Some(why)) if was_closed => self.warnings.warn(&why, self.now),
            _ => {}
        }
    }

    /// What an answer says about the site.
    fn record_outcome(
        &mut self,
        what: AskKind,
        request: RequestId,
        url_style: UrlStyle,
        outcome: &Outcome,
    ) {
        self.warnings.track_token(&outcome.answer, self.now);
        let was_closed = self.breaker.is_closed();
        match self.breaker.record(outcome.health, self.now) {
            Some(Transition::Opened { pause }) => {
                let why = outcome.log_detail.as_deref().unwrap_or("no answer");
                self.warnings.warn_opened(outcome.health, why, pause, self.now);
                self.fail_queued();
            }
            Some(Transition::Closed) => {
                self.warnings.log_recovery(self.now);
                self.warnings.warn_outcome(what, request, outcome, self.now);
            }
            _ if was_closed => self.warnings.warn_outcome(what, request, outcome, self.now),
            _ => self.warnings.debug_outcome(what, request, outcome),
        }
        if outcome.suspect_url && url_style == self.url_style {
            self.recheck_url_style(what);
        }
    }

    /// Answers all that waits: it was never sent.
    fn fail_queued(&mut self) {
        let answer = Answer::Failed(self.unavailable());
        let failed = self.queue.fail_queued();
        failed.iter().for_each(|request| self.stats.record_cancelled(*request));
        self.stats.opened += 1;
        self.ready.extend(failed.into_iter().map(|request| (request, answer.clone())));
    }

    /// An ask was answered as if its address were the wrong one. Perhaps the site's permalinks have
    /// changed, perhaps something in front of it refused this one request: the other form is used
    /// only if a probe finds the API there. Once a minute at most, or a broken site would be asked
    /// twice for everything.
    fn recheck_url_style(&mut self, what: AskKind) {
        if self.rechecked_at.is_none_or(|then| self.elapsed_since(then) >= PROBE_INTERVAL) {
            let line = format!("{what} was answered as if its address were wrong; probing again");
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
        // Idle workers end with the channel, busy ones after their call, which fails at once. One
        // that is connecting ends when its timeout does; nobody waits for it.
        self.tasks = None;
        self.site.shut_down();
    }
}

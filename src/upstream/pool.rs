//! The worker pool: asks out, answers back, both bounded.
//!
//! The loop's side is [`Pool`]; the other side is a few threads that do nothing but blocking calls
//! (`pool/work.rs`). Between them are two channels and a waker, and nothing else is shared.
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
mod remarks;
mod work;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::SiteSettings;
use super::address::Form;
use super::breaker::{Breaker, Change};
use super::buddyboss::refusal;
use super::jwt::Verifier;
use super::site::{Outcome, Probed, Site};
use crate::hub::interface::{Answer, Ask, Failure, Now, RequestId};
use crate::protocol::credential::Scheme;
use queue::Queue;
use remarks::Remarks;
use work::{Done, Job, What};

/// A probe for the form of address is not repeated sooner than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// The loop's side of the pool. Dropping it ends the workers: calls under way fail at once, and
/// none is waited for.
pub struct Pool {
    site: Site,
    /// `None` once the pool is being dropped.
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    verifier: Option<Verifier>,
    queue: Queue,
    breaker: Breaker,
    /// Answers that needed no worker, the next one first. They ring no bell: whoever submits is
    /// awake, and asks `has_answer` before it sleeps. As many as the loop submits between two
    /// collections, and as many as wait when the breaker opens.
    ready: VecDeque<(RequestId, Answer)>,
    /// What the next ask is sent to. `RestRoute`, which works everywhere, until a probe says
    /// better.
    form: Form,
    /// The form that the next probe tries first.
    probe_first: Form,
    /// Whether the form is to be found out again.
    probe_wanted: bool,
    probed_at: Option<Instant>,
    /// When an answer last made us doubt the form.
    doubted_at: Option<Instant>,
    remarks: Remarks,
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
        let (jobs, todo) = bounded(workers);
        let (answers, done) = bounded(workers);
        let site = Site::new(settings);
        for n in 0..workers {
            let (site, todo) = (site.clone(), todo.clone());
            let (answers, waker) = (answers.clone(), waker.clone());
            let work = move || work::work(&todo, &answers, &waker, |job| work::run(&site, job));
            thread::Builder::new().name(format!("upstream-{n}")).spawn(work)?;
        }
        let mut pool = Pool {
            site,
            jobs: Some(jobs),
            done,
            verifier: settings.verifier.clone(),
            queue: Queue::new(workers, settings.queue.max(1)),
            breaker: Breaker::default(),
            ready: VecDeque::new(),
            form: Form::RestRoute,
            probe_first: Form::Pretty,
            probe_wanted: true,
            probed_at: None,
            doubted_at: None,
            remarks: Remarks::new(settings.url.clone()),
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
        let failure = match self.without_the_site(&ask, now) {
            Some(answer) => return self.ready.push_back((request, answer)),
            None if !self.breaker.is_closed() => self.unavailable(),
            None if self.queue.push(request, ask) => {
                self.probe_if_due();
                return self.hand_out();
            }
            None => {
                self.remarks.warn("the queue of requests is full (--upstream-queue)", self.now);
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
                Done::Probed(probed) => {
                    self.queue.finished(None);
                    self.probed(&probed);
                    None
                }
                Done::Asked { request, what, form, outcome } => {
                    self.queue.finished(Some(what));
                    self.note(what, form, &outcome);
                    Some((request, outcome.answer))
                }
            };
            self.hand_out();
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
        self.queue.taken() + self.ready.len()
    }

    /// Checks tokens with this from now on.
    pub fn set_verifier(&mut self, verifier: Option<Verifier>) {
        self.verifier = verifier;
    }

    /// Whether it has the site's JWT secret.
    pub fn checks_signatures(&self) -> bool {
        self.verifier.is_some()
    }

    /// The form of address that the next ask is sent to.
    pub fn form(&self) -> Form {
        self.form
    }

    /// What the site would not hear about, and what need not be asked.
    fn without_the_site(&mut self, ask: &Ask, now: Now) -> Option<Answer> {
        if let Some(failure) = refusal(ask) {
            return Some(Answer::Failed(failure));
        }
        match (ask, &self.verifier) {
            (Ask::Prove(credential), Some(verifier)) if credential.scheme() == Scheme::Bearer => {
                let result = verifier.verify(credential.secret(), now.unix_s);
                if result == Err(Failure::TokenRefused) {
                    if let Some(remark) = verifier.remark(credential.secret()) {
                        self.remarks.say(log::Level::Warn, remark, self.now);
                    }
                }
                Some(result.map_or_else(Answer::Failed, Answer::Proven))
            }
            _ => None,
        }
    }

    fn unavailable(&self) -> Failure {
        Failure::SiteUnavailable { retry_after_s: self.breaker.wait_s(self.now) }
    }

    /// Gives free workers what waits.
    fn hand_out(&mut self) {
        let Some(jobs) = &self.jobs else { return };
        while let Some(job) = self.queue.next(self.form) {
            // The queue counts whom it has given work, and the channel has room for all of them;
            // a worker ends only after this end of the channel.
            jobs.try_send(job).expect("a free worker takes a job");
        }
    }

    /// A probe goes out: one that the breaker needs, or one for the form of address, which is
    /// looked for once a minute.
    fn probe_if_due(&mut self) {
        let rested = self.probed_at.is_none_or(|then| self.since(then) >= PATIENCE);
        if self.breaker.take_probe(self.probe_wanted && rested, self.now) {
            self.probe_wanted = false;
            self.probed_at = Some(self.now);
            self.queue.push_probe(self.probe_first);
            self.hand_out();
        }
    }

    fn since(&self, then: Instant) -> Duration {
        self.now.saturating_duration_since(then)
    }

    fn probed(&mut self, probed: &Probed) {
        let why = match &probed.found {
            Ok(form) => {
                self.form = *form;
                self.remarks.found(*form);
                None
            }
            Err(finding) => {
                self.probe_wanted = true;
                Some(Remarks::found_instead(finding))
            }
        };
        let was_closed = self.breaker.is_closed();
        let change = self.breaker.probed(probed.sign, self.now);
        match (change, why) {
            (Some(Change::Opened { pause }), why) => {
                let why = why.as_deref().unwrap_or("a probe fails");
                self.remarks.opened(probed.sign, why, pause, self.now);
                self.give_up();
            }
            (Some(Change::Reopened { pause }), Some(why)) => {
                log::debug!("the site still fails, asking again in {} s: {why}", pause.as_secs());
            }
            (Some(Change::Closed), why) => {
                self.remarks.answers_again(self.now);
                why.inspect(|why| self.remarks.warn(why, self.now));
            }
            (_, Some(why)) if was_closed => self.remarks.warn(&why, self.now),
            _ => {}
        }
    }

    /// What an answer says about the site.
    fn note(&mut self, what: What, form: Form, outcome: &Outcome) {
        self.remarks.token(&outcome.answer, self.now);
        let was_closed = self.breaker.is_closed();
        match self.breaker.heard(outcome.sign, self.now) {
            Some(Change::Opened { pause }) => {
                let why = outcome.remark.as_deref().unwrap_or("no answer");
                self.remarks.opened(outcome.sign, why, pause, self.now);
                self.give_up();
            }
            Some(Change::Closed) => {
                self.remarks.answers_again(self.now);
                self.remarks.answered(what, outcome, self.now);
            }
            _ if was_closed => self.remarks.answered(what, outcome, self.now),
            _ => self.remarks.answered_late(what, outcome),
        }
        if outcome.doubtful && form == self.form {
            self.doubt(what);
        }
    }

    /// Answers all that waits: it was never sent.
    fn give_up(&mut self) {
        let answer = Answer::Failed(self.unavailable());
        let given_up = self.queue.give_up();
        self.ready.extend(given_up.into_iter().map(|request| (request, answer.clone())));
    }

    /// An ask was answered as if its address were the wrong one. Perhaps the site's permalinks have
    /// changed, perhaps something in front of it refused this one request: the other form is used
    /// only if a probe finds the API there. Once a minute at most, or a broken site would be asked
    /// twice for everything.
    fn doubt(&mut self, what: What) {
        if self.doubted_at.is_none_or(|then| self.since(then) >= PATIENCE) {
            let line = format!("{what} was answered as if its address were wrong; probing again");
            self.remarks.warn(&line, self.now);
            self.doubted_at = Some(self.now);
            self.probe_first = self.form.other();
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
        self.jobs = None;
        self.site.shut_down();
    }
}

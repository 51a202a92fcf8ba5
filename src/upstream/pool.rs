//! The worker pool: asks out, answers back, both bounded.
//!
//! The loop's side is [`Pool`]; the other side is a few threads that do nothing but blocking calls.
//! Between them are two channels and a waker, and nothing else is shared.
//!
//! **Bounds.** No message is taken while `queue + workers` are outstanding: accepted, and their
//! answers not collected. The channels have room for all of these and one probe. So what is taken
//! always finds a place, whether or not a worker has come for the one before; a worker never waits
//! for the loop; and a loop that does not collect gets `Overloaded`.
//!
//! Checks, of people and of threads, have a channel of their own, with room for as many as there
//! are workers, and come first: a full queue of messages must not look like a site that does not
//! answer. Messages have their share because the hub asks for no more checks at a time than half
//! the workers can do.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::SiteSettings;
use super::address::Form;
use super::buddyboss::{Finding, refusal};
use super::jwt::Verifier;
use super::site::{Outcome, Site};
use crate::config::site_url::SiteUrl;
use crate::hub::interface::{Answer, Ask, Failure, Now, RequestId};
use crate::protocol::credential::Scheme;

/// A probe is not repeated sooner than this, nor the same warning.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many different warnings are remembered.
const WARNINGS_MAX: usize = 16;

/// So many refused tokens before any was accepted are no accident.
const REFUSED_FROM_THE_START: u32 = 3;

/// What a worker is to do.
enum Job {
    Ask {
        request: RequestId,
        ask: Ask,
        form: Form,
    },
    /// Find the form of address, and try this one first.
    Probe(Form),
}

/// What an ask was about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Message,
    Token,
    List,
    Look,
}

/// How many are taken, and how many may be.
struct Room {
    taken: usize,
    max: usize,
}

/// What a worker has done.
enum Done {
    Asked { request: RequestId, what: What, form: Form, outcome: Outcome },
    Probed(Result<Form, Finding>),
}

/// The loop's side of the pool. Dropping it ends the workers: calls under way fail at once, and
/// none is waited for.
pub struct Pool {
    url: SiteUrl,
    site: Site,
    /// Messages and probes; `None` once the pool is being dropped.
    jobs: Option<Sender<Job>>,
    /// Checks, likewise.
    checks: Option<Sender<Job>>,
    done: Receiver<Done>,
    verifier: Option<Verifier>,
    /// Answers that needed no worker, the next one first. They ring no bell: whoever submits is
    /// awake, and asks `has_answer` before it sleeps.
    ready: VecDeque<(RequestId, Answer)>,
    /// Messages that were accepted and whose answers have not been collected; `ready` not counted.
    messages: Room,
    /// The same of checks.
    lookups: Room,
    /// What the next ask is sent to. `RestRoute`, which works everywhere, until a probe says
    /// better.
    form: Form,
    /// The form that the next probe tries first.
    probe_first: Form,
    probing: bool,
    probe_wanted: bool,
    probed_at: Option<Instant>,
    /// When an answer last made us doubt the form.
    doubted_at: Option<Instant>,
    /// Since when the site has been in trouble, if it is.
    failing: Option<Instant>,
    /// Tokens that the site has refused, while it has accepted none.
    refused: Option<u32>,
    /// When the loop last said what time it is.
    now: Option<Instant>,
    /// What was warned of within the last minute, and when; the oldest first.
    warned: VecDeque<(String, Instant)>,
}

impl Pool {
    /// Starts the workers, and a first probe of the site. Fails when a thread cannot be made.
    pub fn start(settings: &SiteSettings, waker: Arc<mio::Waker>) -> io::Result<Pool> {
        let workers = settings.workers.max(1);
        let queue = settings.queue.max(1);
        let messages_max = workers + queue;
        let (jobs, todo) = bounded(messages_max + 1);
        let (checks, to_check) = bounded(workers);
        let (answers, done) = bounded(messages_max + workers + 1);
        let site = Site::new(settings);
        for n in 0..workers {
            let (site, todo) = (site.clone(), [to_check.clone(), todo.clone()]);
            let (answers, waker) = (answers.clone(), waker.clone());
            let work = move || work(&todo, &answers, &waker, |job| run(&site, job));
            thread::Builder::new().name(format!("upstream-{n}")).spawn(work)?;
        }
        let mut pool = Pool {
            url: settings.url.clone(),
            site,
            jobs: Some(jobs),
            checks: Some(checks),
            done,
            verifier: settings.verifier.clone(),
            ready: VecDeque::new(),
            messages: Room { taken: 0, max: messages_max },
            lookups: Room { taken: 0, max: workers },
            form: Form::RestRoute,
            probe_first: Form::Pretty,
            probing: false,
            probe_wanted: true,
            probed_at: None,
            doubted_at: None,
            failing: None,
            refused: Some(0),
            now: None,
            warned: VecDeque::new(),
        };
        pool.probe_if_wanted();
        Ok(pool)
    }

    /// Takes an ask. Never blocks; where there is no room, the answer `Overloaded` is ready at
    /// once.
    pub fn submit(&mut self, request: RequestId, ask: Ask, now: Now) {
        self.now = Some(now.instant);
        // Not more of these than the loop submits between two collections.
        if let Some(answer) = self.without_the_site(&ask, now) {
            return self.ready.push_back((request, answer));
        }
        let what = What::of(&ask);
        let room = self.room(what);
        let has_room = room.taken < room.max;
        if !has_room || !self.send(Job::Ask { request, ask, form: self.form }) {
            self.warn(format!("{}: the queue of requests is full (--upstream-queue)", self.url));
            return self.ready.push_back((request, Answer::Failed(Failure::Overloaded)));
        }
        self.room(what).taken += 1;
        self.probe_if_wanted();
    }

    /// The next answer that has come back, in no particular order. Never blocks.
    pub fn next_answer(&mut self) -> Option<(RequestId, Answer)> {
        if let Some(ready) = self.ready.pop_front() {
            return Some(ready);
        }
        loop {
            match self.done.try_recv().ok()? {
                Done::Probed(result) => self.probed(result),
                Done::Asked { request, what, form, outcome } => {
                    self.room(what).taken -= 1;
                    self.note(what, form, &outcome);
                    return Some((request, outcome.answer));
                }
            }
        }
    }

    /// Whether [`Pool::next_answer`] has something to do.
    pub fn has_answer(&self) -> bool {
        !self.ready.is_empty() || !self.done.is_empty()
    }

    /// How many asks were accepted whose answers have not been collected.
    pub fn outstanding(&self) -> usize {
        self.messages.taken + self.lookups.taken + self.ready.len()
    }

    fn room(&mut self, what: What) -> &mut Room {
        match what {
            What::Message | What::Look => &mut self.messages,
            What::Token | What::List => &mut self.lookups,
        }
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
                        self.warn(remark);
                    }
                }
                Some(result.map_or_else(Answer::Failed, Answer::Proven))
            }
            _ => None,
        }
    }

    /// False if the job finds no place, or the pool is being dropped.
    fn send(&self, job: Job) -> bool {
        let is_check = match &job {
            // The fate of a message is no check: it goes the messages' way.
            Job::Ask { ask, .. } => matches!(What::of(ask), What::Token | What::List),
            Job::Probe(_) => false,
        };
        let jobs = if is_check { &self.checks } else { &self.jobs };
        jobs.as_ref().is_some_and(|jobs| jobs.try_send(job).is_ok())
    }

    /// One probe at a time, and one a minute; with a full queue it waits for a later occasion.
    fn probe_if_wanted(&mut self) {
        let due = match (self.probed_at, self.now) {
            (Some(then), Some(now)) => now.saturating_duration_since(then) >= PATIENCE,
            _ => true,
        };
        if self.probe_wanted && !self.probing && due && self.send(Job::Probe(self.probe_first)) {
            self.probing = true;
            self.probe_wanted = false;
            self.probed_at = self.now;
        }
    }

    fn probed(&mut self, result: Result<Form, Finding>) {
        self.probing = false;
        let url = self.url.clone();
        let why = match result {
            Ok(form) => {
                self.form = form;
                let way = match form {
                    Form::Pretty => "/wp-json/",
                    Form::RestRoute => "/?rest_route=/",
                };
                log::info!("{url}: the BuddyBoss REST API answers at {way}");
                return;
            }
            Err(Finding::Redirect(to)) => format!(
                "it redirects to {to}; set the address of the site to the one it redirects to"
            ),
            Err(Finding::NoRoute) => {
                "WordPress answers, but the BuddyBoss REST API is not there".to_owned()
            }
            Err(Finding::Other(status)) => {
                format!("it answers with status {status} and no REST API")
            }
            Err(Finding::Unreachable(why)) => format!("it is not reached: {why}"),
            Err(Finding::Api) => "the probe failed".to_owned(),
        };
        self.probe_wanted = true;
        self.warn(format!("{url}: {why}"));
    }

    /// What an operator should know of an answer.
    fn note(&mut self, what: What, form: Form, outcome: &Outcome) {
        if outcome.doubtful && form == self.form {
            self.doubt(what);
        }
        self.note_refusal(&outcome.answer);
        if outcome.answer.is_the_sites() {
            if let (Some(since), Some(now)) = (self.failing.take(), self.now) {
                let lasted = now.saturating_duration_since(since).as_secs();
                log::info!("{}: it answers again, after {lasted} s", self.url);
            }
        }
        let (Answer::Failed(failure), Some(remark)) = (&outcome.answer, &outcome.remark) else {
            return;
        };
        let line = format!("{}: {what} has no good answer: {remark}", self.url);
        match failure {
            Failure::Unknown
            | Failure::Unusable
            | Failure::SiteUnavailable { .. }
            | Failure::SiteBusy { .. }
            | Failure::SiteMisconfigured => {
                self.failing = self.failing.or(self.now);
                self.warn(line);
            }
            Failure::ThreadTooLarge | Failure::NotStored => self.warn(line),
            // The member's affair, not the operator's.
            _ => log::debug!("{line}"),
        }
    }

    /// A site that accepts no token at all is perhaps not shown any.
    fn note_refusal(&mut self, answer: &Answer) {
        match answer {
            Answer::Failed(Failure::TokenRefused) => {
                let Some(refused) = &mut self.refused else { return };
                *refused = refused.saturating_add(1);
                if *refused >= REFUSED_FROM_THE_START {
                    self.warn(format!(
                        "{}: it has accepted no token so far: does its web server pass the header \
                         Authorization on to WordPress, and is --token-header what it expects?",
                        self.url
                    ));
                }
            }
            Answer::Failed(_) => {}
            _ => self.refused = None,
        }
    }

    /// An ask was answered as if its address were the wrong one. Perhaps the site's permalinks have
    /// changed, perhaps something in front of it refused this one request: the other form is used
    /// only if a probe finds the API there. Once a minute at most, or a broken site would be asked
    /// twice for everything.
    fn doubt(&mut self, what: What) {
        let recently = match (self.doubted_at, self.now) {
            (Some(then), Some(now)) => now.saturating_duration_since(then) < PATIENCE,
            _ => false,
        };
        if !recently {
            let url = &self.url;
            log::warn!("{url}: {what} was answered as if its address were wrong; probing again");
            self.doubted_at = self.now;
            self.probe_first = self.form.other();
            self.probe_wanted = true;
            self.probed_at = None;
            self.probe_if_wanted();
        }
    }

    /// Says the same at most once a minute: a site that is down fails every ask.
    fn warn(&mut self, line: String) {
        let Some(now) = self.now else {
            // Before the first ask there is nothing that could fail, only the first probe.
            return log::warn!("{line}");
        };
        self.warned.retain(|(_, then)| now.saturating_duration_since(*then) < PATIENCE);
        if self.warned.iter().any(|(said, _)| *said == line) {
            return log::debug!("{line}");
        }
        log::warn!("{line}");
        if self.warned.len() >= WARNINGS_MAX {
            self.warned.pop_front();
        }
        self.warned.push_back((line, now));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Idle workers end with the channel, busy ones after their call, which fails at once. One
        // that is connecting ends when its timeout does; nobody waits for it.
        (self.jobs, self.checks) = (None, None);
        self.site.shut_down();
    }
}

fn run(site: &Site, job: &Job) -> Done {
    match job {
        Job::Ask { request, ask, form } => {
            let (request, form) = (*request, *form);
            Done::Asked { request, what: What::of(ask), form, outcome: site.put(ask, form) }
        }
        Job::Probe(first) => Done::Probed(site.probe(*first)),
    }
}

/// What a worker does all its life. Each job gets exactly one answer, even if it panics.
fn work(
    [checks, others]: &[Receiver<Job>; 2],
    answers: &Sender<Done>,
    waker: &mio::Waker,
    run: impl Fn(&Job) -> Done,
) {
    let next = || match checks.try_recv() {
        Ok(job) => Ok(job),
        Err(_) => select! { recv(checks) -> job => job, recv(others) -> job => job },
    };
    while let Ok(job) = next() {
        // Nothing that `run` leaves half done is looked at again.
        let done = catch_unwind(AssertUnwindSafe(|| run(&job))).unwrap_or_else(|_| broken(&job));
        // First the answer, then the bell: the other way round the loop could look too early.
        if answers.send(done).is_err() {
            return;
        }
        let _ = waker.wake();
    }
}

/// The answer to a job that panicked. How far a post came is not known; a question changes nothing.
fn broken(job: &Job) -> Done {
    const WHY: &str = "the worker failed";
    match job {
        Job::Ask { request, ask, form } => {
            let failure = match ask {
                Ask::Post(_) => Failure::Unknown,
                _ => Failure::SiteUnavailable { retry_after_s: None },
            };
            let outcome = Outcome::failed(failure, Some(WHY));
            Done::Asked { request: *request, what: What::of(ask), form: *form, outcome }
        }
        Job::Probe(_) => Done::Probed(Err(Finding::Unreachable(WHY))),
    }
}

impl What {
    fn of(ask: &Ask) -> What {
        match ask {
            Ask::Post(_) => What::Message,
            Ask::Prove(_) => What::Token,
            Ask::List { .. } => What::List,
            Ask::Look(_) => What::Look,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            What::Message => "a message",
            What::Token => "the check of a token",
            What::List => "the list of a thread's participants",
            What::Look => "the look-up of a message",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::interface::{Post, Target};

    fn ask() -> Ask {
        let target = Target::Thread(1);
        Ask::Post(Post { credential: None, target, text: "x".into(), claimed: None })
    }

    #[test]
    fn a_job_that_panics_is_answered_as_unknown_and_its_worker_goes_on() {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let (jobs, todo) = bounded(4);
        let (answers, done) = bounded(4);
        for n in 1..=2 {
            let job = Job::Ask { request: RequestId(n), ask: ask(), form: Form::RestRoute };
            jobs.send(job).ok().unwrap();
        }
        jobs.send(Job::Probe(Form::Pretty)).ok().unwrap();
        drop(jobs);
        // `resume_unwind` is a panic without its noise.
        let (_checks, to_check) = bounded(1);
        work(&[to_check, todo], &answers, &waker, |_| {
            std::panic::resume_unwind(Box::new("on purpose"))
        });
        drop(answers);
        let requests: Vec<_> = done
            .iter()
            .map(|done| match done {
                Done::Asked { request, outcome, .. } => {
                    assert_eq!(outcome.answer, Answer::Failed(Failure::Unknown));
                    request.0
                }
                Done::Probed(result) => {
                    assert!(matches!(result, Err(Finding::Unreachable(_))));
                    0
                }
            })
            .collect();
        assert_eq!(requests, [1, 2, 0]);
    }
}

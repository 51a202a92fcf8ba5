//! A `send_message` from acceptance to its one outcome.
//!
//! Messages into one thread go to the site one at a time, in the order in which they came: the
//! site's answer does not say which message is whose (CONTRACT 3.3). New threads are made one at a
//! time on the whole server, or two of them may get the same id (CONTRACT 5). So a message waits
//! in a lane, and each lane has one message with the site. It stands while the fate of that one is
//! not known; whoever waits too long in it is sent away.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::deadlines::{DeadlineKey, Deadlines};
use super::interface::{Ask, Bounds, ConnId, Look, Now, Post, RequestId, Target};
use super::repeats::Name;
use crate::protocol::client::ReplyTo;
use crate::protocol::credential::Credential;
use crate::protocol::{ClientError, ErrorCode, Id};

/// Messages that must not overtake each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Into this thread.
    Thread(u64),
    /// Into new ones.
    NewThreads,
}

/// Who waits in a lane behind the one that is with the site.
#[derive(Debug, Default)]
struct Line {
    jobs: VecDeque<Job>,
    /// When the first of them has waited long enough.
    first_ends: Option<DeadlineKey>,
}

/// A message on its way.
#[derive(Debug)]
pub struct Job {
    /// The connection that sent it.
    pub origin: ConnId,
    /// Where its outcome goes: there, or to its user's next one.
    pub conn: ConnId,
    /// What its outcome refers to.
    pub reply: ReplyTo,
    /// As the sender wrote it.
    pub recipient: Option<Id>,
    /// Who the connection said it is.
    pub claimed: Option<Id>,
    /// Where it goes.
    pub target: Target,
    /// The text, exactly as written.
    pub text: Arc<str>,
    /// For the site alone.
    pub credential: Option<Credential>,
    /// When the site was asked to store it; before that, when it came.
    pub asked: Asked,
    /// The same in seconds since 1970.
    pub asked_s: u64,
    /// What its sender called it.
    pub name: Option<Name>,
}

impl Job {
    /// The lane that it is in.
    pub fn lane(&self) -> Lane {
        match self.target {
            Target::Thread(thread) => Lane::Thread(thread),
            Target::NewThread { .. } => Lane::NewThreads,
        }
    }

    fn ask(&self) -> Box<Ask> {
        Box::new(Ask::Post(Post {
            credential: self.credential.clone(),
            target: self.target,
            text: Arc::clone(&self.text),
            claimed: self.claimed.clone(),
        }))
    }

    /// The question whether it is stored; without a credential nobody can ask.
    pub fn look(&self) -> Option<Box<Ask>> {
        Some(Box::new(Ask::Look(Look {
            credential: self.credential.clone()?,
            target: self.target,
            text: Arc::clone(&self.text),
            sender: self.claimed.clone(),
            posted: self.asked.at,
            post: self.asked.after,
        })))
    }
}

/// What is said of a message that has waited too long behind others.
pub fn turn_is_over(lasts: Duration) -> ClientError {
    ClientError::new(
        ErrorCode::NotStored,
        format!(
            "The message was not stored: it has waited {} for its turn behind earlier ones. \
             Send it again in a moment.",
            humantime::format_duration(lasts)
        ),
    )
}

/// What is said of a message that was never sent because the server stops.
pub fn stopping() -> ClientError {
    ClientError::new(
        ErrorCode::NotStored,
        "The message was not stored: the server is stopping. Send it again in a moment.",
    )
}

/// What to ask the site now, and under which name.
pub type Question = (RequestId, Box<Ask>);

/// All messages on their way.
#[derive(Debug, Default)]
pub struct Delivery {
    /// Who waits behind the one in flight; a lane stands here exactly while it has one in flight.
    lanes: HashMap<Lane, Line>,
    /// When the first of each line has waited long enough.
    turns: Deadlines<Lane>,
    /// How long one may wait.
    turn_lasts: Option<Duration>,
    /// With the site, or with their fate not known.
    in_flight: HashMap<RequestId, Job>,
    /// How many of each connection are on their way, whether or not it is still there.
    per_conn: HashMap<ConnId, usize>,
    /// Answered, and the sender has not been told yet.
    answered: usize,
    total: usize,
    bytes: usize,
}

/// When a question was put, or an answer taken: by the clock, and among all questions.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// By the clock.
    pub at: Instant,
    /// After this question, or it is this one.
    pub after: RequestId,
}

/// Names for questions, in the order in which they are put.
#[derive(Debug, Default)]
pub struct Requests(u64);

impl Requests {
    /// A new one.
    pub fn name(&mut self) -> RequestId {
        self.0 += 1;
        RequestId(self.0)
    }

    /// The last one.
    pub fn last(&self) -> RequestId {
        RequestId(self.0)
    }
}

impl Delivery {
    /// No messages; each may wait this long for its turn.
    pub fn new(turn_lasts: Option<Duration>) -> Delivery {
        Delivery { turn_lasts, ..Delivery::default() }
    }

    /// Takes a message on. `Ok(Some(…))` is the question to ask now; with `Ok(None)` it waits.
    ///
    /// # Errors
    ///
    /// The job back, if too many are on their way.
    pub fn accept(
        &mut self,
        job: Job,
        bounds: &Bounds,
        requests: &mut Requests,
    ) -> Result<Option<Question>, Box<Job>> {
        let total_full = self.total >= bounds.total || self.bytes + job.text.len() > bounds.bytes;
        let of_conn = self.per_conn.get(&job.origin).copied().unwrap_or_default();
        if total_full || of_conn >= bounds.per_connection {
            return Err(Box::new(job));
        }
        self.per_conn.insert(job.origin, of_conn + 1);
        self.total += 1;
        self.bytes += job.text.len();
        let lane = job.lane();
        if let Some(line) = self.lanes.get_mut(&lane) {
            line.jobs.push_back(job);
            if line.jobs.len() == 1 {
                self.time_the_first(lane);
            }
            return Ok(None);
        }
        self.lanes.insert(lane, Line::default());
        Ok(Some(self.send(job, requests.name())))
    }

    /// The one that is with the site under this name.
    pub fn job(&self, request: RequestId) -> Option<&Job> {
        self.in_flight.get(&request)
    }

    /// Takes the one whose fate is decided; `None` if there is no such request. It counts until it
    /// is [settled](Delivery::settle), and its lane stands until [`Delivery::next`].
    pub fn finish(&mut self, request: RequestId) -> Option<Job> {
        let job = self.in_flight.remove(&request)?;
        self.answered += 1;
        Some(job)
    }

    /// What to ask next in a lane whose message is finished.
    pub fn next(&mut self, lane: Lane, requests: &mut Requests, now: Now) -> Option<Question> {
        let Some(mut job) = self.pop(lane) else {
            self.lanes.remove(&lane);
            return None;
        };
        (job.asked.at, job.asked_s) = (now.instant, now.unix_s);
        Some(self.send(job, requests.name()))
    }

    /// When the next has waited too long.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.turns.next()
    }

    /// Takes one that has waited too long, with how long that is. It counts until it is settled.
    pub fn give_up(&mut self, now: Instant) -> Option<(Job, Duration)> {
        let lasts = self.turn_lasts?;
        let lane = self.turns.pop_due(now)?;
        self.lanes.get_mut(&lane)?.first_ends = None;
        let job = self.pop(lane)?;
        self.answered += 1;
        Some((job, lasts))
    }

    fn pop(&mut self, lane: Lane) -> Option<Job> {
        let line = self.lanes.get_mut(&lane)?;
        let job = line.jobs.pop_front()?;
        if let Some(ends) = line.first_ends.take() {
            self.turns.cancel(ends);
        }
        self.time_the_first(lane);
        Some(job)
    }

    fn time_the_first(&mut self, lane: Lane) {
        let Some((line, lasts)) = self.lanes.get_mut(&lane).zip(self.turn_lasts) else { return };
        let first = line.jobs.front();
        line.first_ends = first.map(|job| self.turns.set(job.asked.at + lasts, lane));
    }

    /// Strikes off the one whose sender has been told.
    pub fn settle(&mut self, job: &Job) {
        self.answered -= 1;
        self.strike(job);
    }

    /// Gives up on everything, and says how it ended for each: first for those that were never
    /// sent, then for those in flight.
    pub fn abandon(&mut self) -> Vec<(Job, ClientError)> {
        let never_sent = stopping();
        let sent = ClientError::new(
            ErrorCode::UnknownOutcome,
            "The server stopped before the site answered: the message may or may not be stored. \
             Look into the thread before you send it again.",
        );
        let mut in_flight: Vec<_> = self.in_flight.drain().collect();
        // A map's order differs from run to run.
        in_flight.sort_by_key(|(request, _)| *request);
        let mut ended = Vec::new();
        for (_, job) in &in_flight {
            let waiting = self.lanes.remove(&job.lane()).into_iter().flat_map(|line| line.jobs);
            ended.extend(waiting.map(|job| (job, never_sent.clone())));
        }
        ended.extend(in_flight.into_iter().map(|(_, job)| (job, sent.clone())));
        self.turns = Deadlines::default();
        for (job, _) in &ended {
            self.strike(job);
        }
        ended
    }

    /// Whether messages of this connection are on their way.
    pub fn has(&self, conn: ConnId) -> bool {
        self.per_conn.contains_key(&conn)
    }

    /// How many are on their way.
    pub fn count(&self) -> usize {
        self.total
    }

    fn send(&mut self, mut job: Job, request: RequestId) -> Question {
        job.asked.after = request;
        let ask = job.ask();
        self.in_flight.insert(request, job);
        (request, ask)
    }

    fn strike(&mut self, job: &Job) {
        self.total -= 1;
        self.bytes -= job.text.len();
        if let Some(count) = self.per_conn.get_mut(&job.origin) {
            *count -= 1;
            if *count == 0 {
                self.per_conn.remove(&job.origin);
            }
        }
    }

    /// Asserts that each request has one owner and each lane one request.
    pub fn check_invariants(&self) {
        assert_eq!(self.lanes.len(), self.in_flight.len());
        for job in self.in_flight.values() {
            assert!(self.lanes.contains_key(&job.lane()));
        }
        let lines = || self.lanes.values();
        let waiting: usize = lines().map(|line| line.jobs.len()).sum();
        assert_eq!(self.total, waiting + self.in_flight.len() + self.answered);
        assert_eq!(self.total, self.per_conn.values().sum::<usize>());
        assert!(self.per_conn.values().all(|count| *count > 0));
        let timed = lines().filter(|line| line.first_ends.is_some()).count();
        let waited_in = lines().filter(|line| !line.jobs.is_empty()).count();
        assert_eq!(timed, if self.turn_lasts.is_some() { waited_in } else { 0 });
        assert_eq!(timed, self.turns.count());
        let jobs = lines().flat_map(|line| &line.jobs).chain(self.in_flight.values());
        let bytes = jobs.map(|job| job.text.len()).sum::<usize>();
        assert!(self.bytes == bytes || (self.answered > 0 && self.bytes > bytes));
    }
}

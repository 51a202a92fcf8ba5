//! A `send_message` from acceptance to its one outcome.
//!
//! Messages into one thread go to the site one at a time, in the order in which they came: the
//! site's answer does not say which message is whose (CONTRACT 3.3). New threads are made one at a
//! time on the whole server, or two of them may get the same id (CONTRACT 5). So a message waits
//! in a lane, and each lane has one request in flight.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::interface::{Ask, Bounds, ConnId, Post, RequestId, Target};
use crate::protocol::client::ReplyTo;
use crate::protocol::credential::Credential;
use crate::protocol::{ClientError, ErrorCode, Id};

/// Messages that must not overtake each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    Thread(u64),
    NewThreads,
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
}

impl Job {
    fn lane(&self) -> Lane {
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
    lanes: HashMap<Lane, VecDeque<Job>>,
    in_flight: HashMap<RequestId, Job>,
    /// How many of each slot's connection are on their way.
    per_slot: Vec<(u32, usize)>,
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
        let of_conn = self.count_of(job.conn);
        if total_full || *of_conn >= bounds.per_connection {
            return Err(Box::new(job));
        }
        *of_conn += 1;
        self.total += 1;
        self.bytes += job.text.len();
        if let Some(waiting) = self.lanes.get_mut(&job.lane()) {
            waiting.push_back(job);
            return Ok(None);
        }
        self.lanes.insert(job.lane(), VecDeque::new());
        Ok(Some(self.send(job, requests.name())))
    }

    /// Takes the one that was answered, and says what to ask next in its lane. `None` if there is
    /// no such request. It counts until it is [settled](Delivery::settle).
    pub fn finish(
        &mut self,
        request: RequestId,
        requests: &mut Requests,
        now: Instant,
    ) -> Option<(Job, Option<Question>)> {
        let job = self.in_flight.remove(&request)?;
        self.answered += 1;
        let lane = job.lane();
        let next = self.lanes.get_mut(&lane).and_then(VecDeque::pop_front);
        if next.is_none() {
            self.lanes.remove(&lane);
        }
        let next = next.map(|mut job| {
            job.asked.at = now;
            self.send(job, requests.name())
        });
        Some((job, next))
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
            let waiting = self.lanes.remove(&job.lane()).into_iter().flatten();
            ended.extend(waiting.map(|job| (job, never_sent.clone())));
        }
        ended.extend(in_flight.into_iter().map(|(_, job)| (job, sent.clone())));
        for (job, _) in &ended {
            self.strike(job);
        }
        ended
    }

    /// Whether messages of this connection are on their way.
    pub fn has(&self, conn: ConnId) -> bool {
        let own = self.per_slot.get(conn.slot as usize);
        own.is_some_and(|(serial, count)| *serial == conn.serial && *count > 0)
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

    fn count_of(&mut self, conn: ConnId) -> &mut usize {
        let slot = conn.slot as usize;
        if self.per_slot.len() <= slot {
            self.per_slot.resize(slot + 1, (0, 0));
        }
        let (serial, count) = &mut self.per_slot[slot];
        if *serial != conn.serial {
            (*serial, *count) = (conn.serial, 0);
        }
        count
    }

    fn strike(&mut self, job: &Job) {
        self.total -= 1;
        self.bytes -= job.text.len();
        // A later connection in the same slot has a count of its own.
        let (serial, count) = &mut self.per_slot[job.origin.slot as usize];
        if *serial == job.origin.serial {
            *count -= 1;
        }
    }

    /// Asserts that each request has one owner and each lane one request.
    pub fn check_invariants(&self) {
        assert_eq!(self.lanes.len(), self.in_flight.len());
        for job in self.in_flight.values() {
            assert!(self.lanes.contains_key(&job.lane()));
        }
        let waiting: usize = self.lanes.values().map(VecDeque::len).sum();
        assert_eq!(self.total, waiting + self.in_flight.len() + self.answered);
        let jobs = self.lanes.values().flatten().chain(self.in_flight.values());
        let bytes = jobs.map(|job| job.text.len()).sum::<usize>();
        assert!(self.bytes == bytes || (self.answered > 0 && self.bytes > bytes));
    }
}

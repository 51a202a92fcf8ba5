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
use super::dedup::DedupKey;
use super::interface::{Ask, ConnId, DeliveryLimits, Lookup, Now, Post, RequestId, Target};
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
struct LaneQueue {
    messages: VecDeque<PendingMessage>,
    /// When the first of them has waited long enough.
    head_deadline: Option<DeadlineKey>,
}

/// A message on its way.
#[derive(Debug)]
pub struct PendingMessage {
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
    pub posted_at: RequestTime,
    /// The same in seconds since 1970.
    pub posted_unix_s: u64,
    /// What its sender called it.
    pub dedup_key: Option<DedupKey>,
}

impl PendingMessage {
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
    pub fn lookup_request(&self) -> Option<Box<Ask>> {
        Some(Box::new(Ask::Lookup(Lookup {
            credential: self.credential.clone()?,
            target: self.target,
            text: Arc::clone(&self.text),
            sender: self.claimed.clone(),
            posted: self.posted_at.at,
            post: self.posted_at.request_id,
        })))
    }
}

/// What is said of a message that has waited too long behind others.
pub fn waited_too_long(max_wait: Duration) -> ClientError {
    ClientError::new(
        ErrorCode::NotStored,
        format!(
            "The message was not stored: it has waited {} for its turn behind earlier ones. \
             Send it again in a moment.",
            humantime::format_duration(max_wait)
        ),
    )
}

/// What is said of a message that was never sent because the server stops.
pub fn server_stopping() -> ClientError {
    ClientError::new(
        ErrorCode::NotStored,
        "The message was not stored: the server is stopping. Send it again in a moment.",
    )
}

/// What to ask the site now, and under which name.
pub type PostRequest = (RequestId, Box<Ask>);

/// All messages on their way.
#[derive(Debug, Default)]
pub struct Delivery {
    /// Who waits behind the one in flight; a lane stands here exactly while it has one in flight.
    lanes: HashMap<Lane, LaneQueue>,
    /// When the first of each line has waited long enough.
    wait_deadlines: Deadlines<Lane>,
    /// How long one may wait.
    max_wait: Option<Duration>,
    /// With the site, or with their fate not known.
    in_flight: HashMap<RequestId, PendingMessage>,
    /// How many of each connection are on their way, whether or not it is still there.
    per_conn: HashMap<ConnId, usize>,
    /// Answered, and the sender has not been told yet.
    unsettled: usize,
    total: usize,
    bytes: usize,
}

/// When a question was put, or an answer taken: by the clock, and among all questions.
#[derive(Clone, Copy, Debug)]
pub struct RequestTime {
    /// By the clock.
    pub at: Instant,
    /// After this question, or it is this one.
    pub request_id: RequestId,
}

/// Names for questions, in the order in which they are put.
#[derive(Debug, Default)]
pub struct RequestIds(u64);

impl RequestIds {
    /// A new one.
    pub fn allocate(&mut self) -> RequestId {
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
    pub fn new(max_wait: Option<Duration>) -> Delivery {
        Delivery { max_wait, ..Delivery::default() }
    }

    /// Takes a message on. `Ok(Some(…))` is the question to ask now; with `Ok(None)` it waits.
    ///
    /// # Errors
    ///
    /// The job back, if too many are on their way.
    pub fn accept(
        &mut self,
        pending: PendingMessage,
        limits: &DeliveryLimits,
        request_ids: &mut RequestIds,
    ) -> Result<Option<PostRequest>, Box<PendingMessage>> {
        let total_full =
            self.total >= limits.total || self.bytes + pending.text.len() > limits.bytes;
        let of_conn = self.per_conn.get(&pending.origin).copied().unwrap_or_default();
        if total_full || of_conn >= limits.per_connection {
            return Err(Box::new(pending));
        }
        self.per_conn.insert(pending.origin, of_conn + 1);
        self.total += 1;
        self.bytes += pending.text.len();
        let lane = pending.lane();
        if let Some(queue) = self.lanes.get_mut(&lane) {
            queue.messages.push_back(pending);
            if queue.messages.len() == 1 {
                self.arm_head_deadline(lane);
            }
            return Ok(None);
        }
        self.lanes.insert(lane, LaneQueue::default());
        Ok(Some(self.send(pending, request_ids.allocate())))
    }

    /// The one that is with the site under this name.
    pub fn get(&self, request: RequestId) -> Option<&PendingMessage> {
        self.in_flight.get(&request)
    }

    /// Takes the one whose fate is decided; `None` if there is no such request. It counts until it
    /// is [settled](Delivery::settle), and its lane stands until [`Delivery::next`].
    pub fn finish(&mut self, request: RequestId) -> Option<PendingMessage> {
        let pending = self.in_flight.remove(&request)?;
        self.unsettled += 1;
        Some(pending)
    }

    /// What to ask next in a lane whose message is finished.
    pub fn next(
        &mut self,
        lane: Lane,
        request_ids: &mut RequestIds,
        now: Now,
    ) -> Option<PostRequest> {
        let Some(mut pending) = self.pop(lane) else {
            self.lanes.remove(&lane);
            return None;
        };
        (pending.posted_at.at, pending.posted_unix_s) = (now.instant, now.unix_s);
        Some(self.send(pending, request_ids.allocate()))
    }

    /// When the next has waited too long.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.wait_deadlines.next()
    }

    /// Takes one that has waited too long, with how long that is. It counts until it is settled.
    pub fn expire_waiting(&mut self, now: Instant) -> Option<(PendingMessage, Duration)> {
        let max_wait = self.max_wait?;
        let lane = self.wait_deadlines.pop_due(now)?;
        self.lanes.get_mut(&lane)?.head_deadline = None;
        let pending = self.pop(lane)?;
        self.unsettled += 1;
        Some((pending, max_wait))
    }

    fn pop(&mut self, lane: Lane) -> Option<PendingMessage> {
        let queue = self.lanes.get_mut(&lane)?;
        let pending = queue.messages.pop_front()?;
        if let Some(ends) = queue.head_deadline.take() {
            self.wait_deadlines.cancel(ends);
        }
        self.arm_head_deadline(lane);
        Some(pending)
    }

    fn arm_head_deadline(&mut self, lane: Lane) {
        let Some((queue, max_wait)) = self.lanes.get_mut(&lane).zip(self.max_wait) else { return };
        let first = queue.messages.front();
        queue.head_deadline =
            first.map(|pending| self.wait_deadlines.set(pending.posted_at.at + max_wait, lane));
    }

    /// Strikes off the one whose sender has been told.
    pub fn settle(&mut self, pending: &PendingMessage) {
        self.unsettled -= 1;
        self.uncount(pending);
    }

    /// Gives up on everything, and says how it ended for each: first for those that were never
    /// sent, then for those in flight.
    pub fn abandon(&mut self) -> Vec<(PendingMessage, ClientError)> {
        let never_sent = server_stopping();
        let sent = ClientError::new(
            ErrorCode::UnknownOutcome,
            "The server stopped before the site answered: the message may or may not be stored. \
             Look into the thread before you send it again.",
        );
        let mut in_flight: Vec<_> = self.in_flight.drain().collect();
        // A map's order differs from run to run.
        in_flight.sort_by_key(|(request, _)| *request);
        let mut ended = Vec::new();
        for (_, pending) in &in_flight {
            let waiting =
                self.lanes.remove(&pending.lane()).into_iter().flat_map(|queue| queue.messages);
            ended.extend(waiting.map(|pending| (pending, never_sent.clone())));
        }
        ended.extend(in_flight.into_iter().map(|(_, pending)| (pending, sent.clone())));
        self.wait_deadlines = Deadlines::default();
        for (pending, _) in &ended {
            self.uncount(pending);
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

    fn send(&mut self, mut pending: PendingMessage, request: RequestId) -> PostRequest {
        pending.posted_at.request_id = request;
        let ask = pending.ask();
        self.in_flight.insert(request, pending);
        (request, ask)
    }

    fn uncount(&mut self, pending: &PendingMessage) {
        self.total -= 1;
        self.bytes -= pending.text.len();
        if let Some(count) = self.per_conn.get_mut(&pending.origin) {
            *count -= 1;
            if *count == 0 {
                self.per_conn.remove(&pending.origin);
            }
        }
    }

    /// Asserts that each request has one owner and each lane one request.
    pub fn check_invariants(&self) {
        assert_eq!(self.lanes.len(), self.in_flight.len());
        for pending in self.in_flight.values() {
            assert!(self.lanes.contains_key(&pending.lane()));
        }
        let queues = || self.lanes.values();
        let waiting: usize = queues().map(|queue| queue.messages.len()).sum();
        assert_eq!(self.total, waiting + self.in_flight.len() + self.unsettled);
        assert_eq!(self.total, self.per_conn.values().sum::<usize>());
        assert!(self.per_conn.values().all(|count| *count > 0));
        let timed = queues().filter(|queue| queue.head_deadline.is_some()).count();
        let occupied = queues().filter(|queue| !queue.messages.is_empty()).count();
        assert_eq!(timed, if self.max_wait.is_some() { occupied } else { 0 });
        assert_eq!(timed, self.wait_deadlines.count());
        let messages = queues().flat_map(|queue| &queue.messages).chain(self.in_flight.values());
        let bytes = messages.map(|pending| pending.text.len()).sum::<usize>();
        assert!(self.bytes == bytes || (self.unsettled > 0 && self.bytes > bytes));
    }
}

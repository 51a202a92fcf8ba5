//! Delivery of `send_message` to the site: one lane per thread, from acceptance to the outcome.
//!
//! Messages into one thread go to the site one at a time, in the order in which they arrived: the
//! site's answer does not say which message is whose (CONTRACT 3.3). New threads are created one at
//! a time on the whole server, or two of them may get the same id (CONTRACT 5). So messages queue
//! in lanes, and each lane has one message in flight. The lane stays blocked while the outcome of
//! that message is unknown; a message that waits too long in it is answered with an error.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dedup::DedupKey;
use crate::hub::capacity::SmallList;
use crate::hub::deadlines::{DeadlineKey, Deadlines};
use crate::hub::interface::{Ask, ConnId, DeliveryLimits, Lookup, Now, Post, RequestId, Target};
use crate::protocol::client::ReplyTo;
use crate::protocol::credential::Credential;
use crate::protocol::site_event::SiteMessage;
use crate::protocol::{ClientError, ErrorCode, Id, IdKey};

/// Messages in one lane must not overtake each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Messages into this thread.
    Thread(u64),
    /// Messages into new threads.
    NewThreads,
}

/// Messages that wait in a lane behind the one in flight.
#[derive(Debug, Default)]
struct LaneQueue {
    messages: VecDeque<PendingMessage>,
    /// When the first of them times out.
    head_deadline: Option<DeadlineKey>,
}

/// A message that is waiting or in flight.
#[derive(Debug)]
pub(crate) struct PendingMessage {
    /// The connection that sent it.
    pub origin: ConnId,
    /// The connection that gets the outcome: the origin, or its user's next one.
    pub conn: ConnId,
    /// The frame that the outcome refers to.
    pub reply: ReplyTo,
    /// The recipient as the sender wrote it.
    pub recipient: Option<Id>,
    /// The user that the connection claims or is proven to be.
    pub claimed: Option<Id>,
    /// Where the message goes.
    pub target: Target,
    /// The text, exactly as written.
    pub text: Arc<str>,
    /// The sender's credential, which only the site may see.
    pub credential: Option<Credential>,
    /// When the message was sent to the site; until then, when it arrived.
    pub posted_at: RequestTime,
    /// The same in seconds since 1970.
    pub posted_unix_s: u64,
    /// The sender and `clientId`, if there is one.
    pub dedup_key: Option<DedupKey>,
}

impl PendingMessage {
    /// Returns the lane of the message.
    pub(crate) fn lane(&self) -> Lane {
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

    /// Returns the lookup of the message in its thread; `None` without a credential to ask with.
    pub(crate) fn lookup_request(&self) -> Option<Box<Ask>> {
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

/// Returns the error for a message that waited too long in its lane.
pub(crate) fn waited_too_long(max_wait: Duration) -> ClientError {
    ClientError::new(
        ErrorCode::NotStored,
        format!(
            "The message was not stored: it has waited {} behind earlier messages. \
             Send it again in a moment.",
            humantime::format_duration(max_wait)
        ),
    )
}

/// Returns the error for a message that was never sent to the site because the server stops.
pub(crate) fn server_stopping() -> ClientError {
    ClientError::new(
        ErrorCode::NotStored,
        "The message was not stored: the server is stopping. Send it again in a moment.",
    )
}

/// A request to send to the site, with its id.
pub(crate) type PostRequest = (RequestId, Box<Ask>);

/// All messages that are waiting or in flight.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    /// Waiting messages. A lane has an entry exactly while it has a message in flight.
    lanes: HashMap<Lane, LaneQueue>,
    /// When the first message of each lane times out.
    wait_deadlines: Deadlines<Lane>,
    /// How long a message may wait; `None` means without a limit.
    max_wait: Option<Duration>,
    /// Messages that the site is storing or whose outcome is unknown.
    in_flight: HashMap<RequestId, PendingMessage>,
    /// Messages per connection, including connections that have closed.
    per_conn: HashMap<ConnId, usize>,
    /// Messages whose outcome is decided, but has not been sent to the client.
    unsettled: usize,
    total: usize,
    bytes: usize,
}

/// When a request was sent or an answer arrived: in time, and in the sequence of all requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestTime {
    /// The time.
    pub at: Instant,
    /// This request, or the latest one before that time.
    pub request_id: RequestId,
}

/// Generates request ids in the order in which requests are sent.
#[derive(Debug, Default)]
pub(crate) struct RequestIds(u64);

impl RequestIds {
    /// Returns a new id.
    pub(crate) fn allocate(&mut self) -> RequestId {
        self.0 += 1;
        RequestId(self.0)
    }

    /// Returns the latest id.
    pub(crate) fn last(&self) -> RequestId {
        RequestId(self.0)
    }
}

impl Delivery {
    /// Creates an empty table; each message may wait this long.
    pub(crate) fn new(max_wait: Option<Duration>) -> Delivery {
        Delivery { max_wait, ..Delivery::default() }
    }

    /// Accepts a message. `Ok(Some(…))` is the request to send now; with `Ok(None)` it waits.
    ///
    /// # Errors
    ///
    /// Returns the message if a limit on pending messages is reached.
    pub(crate) fn accept(
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

    /// Returns the message that is in flight under this request id.
    pub(crate) fn get(&self, request: RequestId) -> Option<&PendingMessage> {
        self.in_flight.get(&request)
    }

    /// The posts in flight whose message this may be: of the same sender, or of a sender who is not
    /// known yet, to the same thread or person.
    pub(crate) fn posts_that_may_be(&self, message: &SiteMessage) -> SmallList<RequestId> {
        let may_be = |pending: &PendingMessage| {
            let is_sender = pending
                .claimed
                .as_ref()
                .is_none_or(|claimed| claimed.key == IdKey::Number(message.sender));
            let is_target = match pending.target {
                Target::Thread(thread) => thread == message.thread,
                Target::NewThread { recipient } => *message.recipients == [recipient],
            };
            is_sender && is_target
        };
        let posts = self.in_flight.iter().filter(|(_, pending)| may_be(pending));
        let mut posts: SmallList<RequestId> = posts.map(|(post, _)| *post).collect();
        // The order of a hash map differs between runs.
        posts.sort_unstable();
        posts
    }

    /// Takes a message whose outcome is decided; `None` if there is no such request. The message
    /// counts until [`Delivery::settle`], and its lane stays blocked until [`Delivery::next`].
    pub(crate) fn finish(&mut self, request: RequestId) -> Option<PendingMessage> {
        let pending = self.in_flight.remove(&request)?;
        self.unsettled += 1;
        Some(pending)
    }

    /// Returns the next request of a lane whose message is finished, or unblocks the lane.
    pub(crate) fn next(
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

    /// Returns when the next waiting message times out.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.wait_deadlines.next()
    }

    /// Takes a message that has waited too long, with the time limit. It counts until
    /// [`Delivery::settle`].
    pub(crate) fn expire_waiting(&mut self, now: Instant) -> Option<(PendingMessage, Duration)> {
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

    /// Stops counting a message whose sender has got the outcome.
    pub(crate) fn settle(&mut self, pending: &PendingMessage) {
        self.unsettled -= 1;
        self.uncount(pending);
    }

    /// Gives up all messages and returns the error of each: first those that were never sent, then
    /// those in flight.
    pub(crate) fn abandon(&mut self) -> Vec<(PendingMessage, ClientError)> {
        let never_sent = server_stopping();
        let sent = ClientError::new(
            ErrorCode::UnknownOutcome,
            "The server stopped before the site answered: the message may or may not be stored. \
             Check the thread before you send it again.",
        );
        let mut in_flight: Vec<_> = self.in_flight.drain().collect();
        // The order of a hash map differs between runs.
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

    /// Whether messages of this connection are waiting or in flight.
    pub(crate) fn has(&self, conn: ConnId) -> bool {
        self.per_conn.contains_key(&conn)
    }

    /// Returns how many messages are waiting, in flight or not settled.
    pub(crate) fn count(&self) -> usize {
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

    /// Asserts that each request has one owner, and that each lane has one request.
    pub(crate) fn check_invariants(&self) {
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

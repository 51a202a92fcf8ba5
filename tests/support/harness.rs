//! A hub with a clock that the test moves, and all effects that the hub has produced.

#![allow(dead_code)]

#[path = "frames.rs"]
pub mod frames;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use buddyline::config::{PresenceScope, Trust};
use buddyline::hub::Hub;
use buddyline::hub::interface::Settings;
use buddyline::hub::interface::{
    Answer, Ask, CallEvent, CallSettings, ConnId, DeliveryLimits, Effect, Failure, HeldFrameLimits,
    Input, Lookup, LookupResult, Now, Post, Proven, RequestId, Stored, StoredMessage,
};
use buddyline::protocol::Id;
use buddyline::protocol::credential::Credential;
use buddyline::protocol::ice::IceServers;
use buddyline::protocol::status::CallStatusReply;
use frames::frames;
use serde_json::Value;

/// Settings with limits that are small enough to reach in a test.
pub fn settings() -> Settings {
    Settings {
        trust: Trust::Open,
        presence: PresenceScope::All,
        read_receipts: false,
        user_recheck_every: Some(Duration::from_secs(600)),
        user_proof_lasts: Some(Duration::from_secs(300)),
        membership_lasts: Duration::from_secs(60),
        anonymous_lasts: Duration::from_secs(30),
        site_queries: 2,
        held_frames: HeldFrameLimits {
            total: 100,
            bytes: 10_000,
            per_connection: 8,
            bytes_per_connection: 2_000,
        },
        ice: IceServers::default(),
        message_turn_lasts: Some(Duration::from_secs(40)),
        typing_lasts: Duration::from_secs(3),
        presence_grace: Duration::from_secs(5),
        joins_per_connection: 4,
        threads: 100,
        calls: CallSettings::default(),
        deliveries: DeliveryLimits { total: 6, per_connection: 4, bytes: 10_000 },
    }
}

/// The same, with verified trust.
pub fn verified() -> Settings {
    Settings { trust: Trust::Verified, ..settings() }
}

/// A hub under test, with the effects not yet checked.
pub struct HubHarness {
    pub hub: Hub,
    pub now: Now,
    serial: u32,
    frames_sent: VecDeque<(ConnId, Value)>,
    site_requests: VecDeque<(RequestId, Ask)>,
    closed: Vec<(ConnId, u16)>,
    /// The wake-ups of users who were called without an open connection.
    pub woken: Vec<CallEvent>,
    /// The calls that users have missed.
    pub missed: Vec<CallEvent>,
    /// The users that the site was told to be active, each time.
    pub active: Vec<Vec<u64>>,
    /// The replies to call status requests, by connection.
    pub call_status_replies: Vec<(ConnId, CallStatusReply)>,
    /// Whether the site lets every participant write, without a request in `next_ask`.
    pub lets_everyone_call: bool,
    next_message: u64,
}

impl Default for HubHarness {
    fn default() -> Self {
        HubHarness::new(settings())
    }
}

impl HubHarness {
    pub fn new(settings: Settings) -> HubHarness {
        let now = Now { instant: Instant::now(), unix_s: 1_800_000_000 };
        let hub = Hub::new(settings);
        let (frames_sent, site_requests, closed, woken, call_status_replies) = Default::default();
        HubHarness {
            hub,
            now,
            serial: 0,
            frames_sent,
            site_requests,
            closed,
            woken,
            missed: Vec::new(),
            active: Vec::new(),
            call_status_replies,
            lets_everyone_call: true,
            next_message: 1,
        }
    }

    /// Opens a connection in this slot.
    pub fn open(&mut self, slot: u32) -> ConnId {
        self.serial += 1;
        let conn = ConnId { slot, serial: self.serial };
        self.handle(Input::Opened { conn, credential: None });
        conn
    }

    /// Opens a connection whose handshake carries this token.
    pub fn open_with(&mut self, slot: u32, token: &str) -> ConnId {
        self.serial += 1;
        let conn = ConnId { slot, serial: self.serial };
        let credential = Some(Credential::parse(token));
        self.handle(Input::Opened { conn, credential });
        conn
    }

    /// Opens a connection, authenticates it as this user, and discards the frames sent.
    pub fn open_proven(&mut self, slot: u32, user: u64) -> ConnId {
        let conn = self.open_with(slot, &format!("token-of-{user}"));
        if let Some(request) = self.try_next_proof() {
            self.prove(request, user, None);
        }
        self.frames_sent.clear();
        conn
    }

    /// Opens an authenticated connection that joins a thread with these participants.
    pub fn open_member(&mut self, slot: u32, user: u64, thread: u64, list: &[u64]) -> ConnId {
        let conn = self.open_proven(slot, user);
        self.send(conn, &format!(r#"{{"type":"join_thread","threadId":{thread}}}"#));
        if let Some((request, _)) = self.try_next_list() {
            self.list(request, list);
        }
        self.frames_sent.clear();
        conn
    }

    /// Opens a connection that sends `user_connected`, and discards the frames sent.
    pub fn open_as(&mut self, slot: u32, user: &str) -> ConnId {
        let conn = self.open(slot);
        self.send(conn, &format!(r#"{{"type":"user_connected","userId":{user}}}"#));
        self.frames_sent.clear();
        conn
    }

    /// Opens a connection that sends `user_connected` and joins a thread.
    pub fn open_in(&mut self, slot: u32, user: &str, thread: &str) -> ConnId {
        let conn = self.open_as(slot, user);
        self.send(conn, &format!(r#"{{"type":"join_thread","threadId":{thread}}}"#));
        self.frames_sent.clear();
        conn
    }

    /// Requests the status of a call by HTTP, on a connection in this slot.
    pub fn request_call_status(&mut self, slot: u32, token: Option<&str>, call: &str) -> ConnId {
        self.serial += 1;
        let conn = ConnId { slot, serial: self.serial };
        let (credential, call) = (token.map(Credential::parse), Id::string(call));
        self.handle(Input::CallStatusRequest { conn, credential, call });
        conn
    }

    pub fn close(&mut self, conn: ConnId) {
        self.handle(Input::Closed { conn });
    }

    pub fn send(&mut self, conn: ConnId, text: &str) {
        self.handle(Input::Frame { conn, text });
    }

    pub fn handle(&mut self, input: Input<'_>) {
        self.hub.handle(input, self.now);
        self.take_effects();
    }

    /// Advances the clock in one step and runs all deadlines that are due.
    pub fn advance(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.unix_s += time.as_secs();
        while self.hub.advance(self.now) {
            self.take_effects();
        }
        let next = self.hub.next_deadline();
        assert!(next.is_none_or(|next| next > self.now.instant), "a deadline in the past is left");
    }

    pub fn take_effects(&mut self) {
        while let Some(effect) = self.hub.next_effect() {
            match effect {
                Effect::Send { to, frame, .. } => {
                    self.frames_sent.extend(jsons(&frame).map(|json| (to, json)));
                }
                Effect::FanOut { to, frame, .. } => {
                    for to in self.hub.receivers(to) {
                        self.frames_sent.extend(jsons(&frame).map(|json| (*to, json)));
                    }
                }
                Effect::Ask { request, ask } => match *ask {
                    Ask::CallPermission { .. } if self.lets_everyone_call => {
                        let answer = Answer::CallPermission(true);
                        self.hub.handle(Input::Answered { request, answer }, self.now);
                    }
                    ask => self.site_requests.push_back((request, ask)),
                },
                Effect::Wake(event) => self.woken.push(*event),
                Effect::Missed(event) => self.missed.push(*event),
                Effect::Active(users) => self.active.push(users.into_vec()),
                Effect::SendCallStatus { conn, reply } => {
                    self.call_status_replies.push((conn, *reply));
                }
                // The server does the same: it reports the closed connection to the hub at once.
                Effect::Close { conn, code, .. } => {
                    if !self.closed.contains(&(conn, code)) {
                        self.closed.push((conn, code));
                        self.hub.handle(Input::Closed { conn }, self.now);
                    }
                }
            }
        }
        self.hub.check_invariants();
    }

    /// Asserts that exactly these frames were sent since the last check, in this order.
    #[track_caller]
    pub fn assert_received(&mut self, expected: &[(ConnId, &str)]) {
        let received: Vec<_> = self.frames_sent.drain(..).collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(conn, text)| (*conn, serde_json::from_str::<Value>(text).expect("test JSON")))
            .collect();
        let show = |frames: &[(ConnId, Value)]| -> String {
            frames.iter().map(|(conn, frame)| format!("{}: {frame}\n", conn.slot)).collect()
        };
        assert_eq!(show(&received), show(&expected));
        assert_eq!(received, expected);
    }

    /// Asserts that nothing was sent since the last check.
    #[track_caller]
    pub fn assert_nothing_received(&mut self) {
        self.assert_received(&[]);
    }

    /// Asserts that only an error with this code was sent since the last check, to `conn`.
    #[track_caller]
    pub fn assert_error(&mut self, conn: ConnId, code: &str) -> Value {
        assert_eq!(self.frames_sent.len(), 1, "{:?}", self.frames_sent);
        let (to, frame) = self.frames_sent.pop_front().expect("one frame");
        assert_eq!((to, frame["type"].as_str()), (conn, Some("error")), "{frame}");
        assert_eq!(frame["code"], code, "{frame}");
        assert!(frame["message"].as_str().is_some_and(|text| text.ends_with('.')), "{frame}");
        frame
    }

    /// Removes and returns the frames sent since the last check.
    pub fn received(&mut self) -> Vec<(ConnId, Value)> {
        self.frames_sent.drain(..).collect()
    }

    /// The oldest request to the site, which must be a post.
    #[track_caller]
    pub fn next_post(&mut self) -> (RequestId, Post) {
        match self.next_ask() {
            (request, Ask::Post(post)) => (request, post),
            other => panic!("{other:?}"),
        }
    }

    /// The oldest request to the site, of any kind.
    #[track_caller]
    pub fn next_ask(&mut self) -> (RequestId, Ask) {
        self.site_requests.pop_front().expect("a request to the site")
    }

    /// The oldest request to the site, if it is an authentication.
    pub fn try_next_proof(&mut self) -> Option<RequestId> {
        match self.site_requests.front()? {
            (request, Ask::Prove(_) | Ask::Recheck(_)) => {
                let request = *request;
                self.site_requests.pop_front();
                Some(request)
            }
            _ => None,
        }
    }

    /// The oldest request to the site, which must be an authentication, with its credential.
    #[track_caller]
    pub fn next_proof(&mut self) -> (RequestId, Credential) {
        match self.next_ask() {
            (request, Ask::Prove(credential) | Ask::Recheck(credential)) => (request, credential),
            other => panic!("{other:?}"),
        }
    }

    /// The oldest request to the site, if it is for a participant list; with the thread.
    pub fn try_next_list(&mut self) -> Option<(RequestId, u64)> {
        match self.site_requests.front()? {
            (request, Ask::Participants { thread, .. }) => {
                let found = (*request, *thread);
                self.site_requests.pop_front();
                Some(found)
            }
            _ => None,
        }
    }

    /// The oldest request to the site, which must be for a participant list; with the thread and
    /// the secret of its credential.
    #[track_caller]
    pub fn next_list(&mut self) -> (RequestId, u64, String) {
        match self.next_ask() {
            (request, Ask::Participants { thread, credential }) => {
                (request, thread, credential.secret().to_owned())
            }
            other => panic!("{other:?}"),
        }
    }

    /// The oldest request to the site, which must be a message lookup.
    #[track_caller]
    pub fn next_lookup(&mut self) -> (RequestId, Lookup) {
        match self.next_ask() {
            (request, Ask::Lookup(lookup)) => (request, lookup),
            other => panic!("{other:?}"),
        }
    }

    /// Answers a lookup: the thread has the message, as this one.
    pub fn found(&mut self, request: RequestId, thread: u64, sender: u64, message: u64) {
        self.answer(request, matching(stored(thread, sender, message, None)));
    }

    /// Answers a lookup: the thread does not have the message.
    pub fn not_found(&mut self, request: RequestId) {
        self.answer(request, Answer::LookupResult(LookupResult::Absent));
    }

    /// Answers an authentication: the credential belongs to this user.
    pub fn prove(&mut self, request: RequestId, user: u64, expires_s: Option<u64>) {
        self.answer(request, Answer::Proven(Proven { user, expires_s }));
    }

    /// Answers a list request with these participants.
    pub fn list(&mut self, request: RequestId, users: &[u64]) {
        self.answer(request, Answer::Participants(users.into()));
    }

    /// Removes and returns the connections closed since the last check, with their codes.
    pub fn closed(&mut self) -> Vec<(ConnId, u16)> {
        std::mem::take(&mut self.closed)
    }

    /// The number of requests to the site that the test has not taken yet.
    pub fn pending_asks(&self) -> usize {
        self.site_requests.len()
    }

    pub fn answer(&mut self, request: RequestId, answer: Answer) {
        self.handle(Input::Answered { request, answer });
    }

    /// Answers a post: the site has stored the message in this thread, from this user.
    pub fn store(&mut self, request: RequestId, thread: u64, sender: u64) {
        self.store_with_participants(request, thread, sender, None);
    }

    /// The same, with the thread's participants in the site's reply.
    pub fn store_with_participants(
        &mut self,
        request: RequestId,
        thread: u64,
        sender: u64,
        participants: Option<&[u64]>,
    ) {
        let id = self.next_message;
        self.next_message += 1;
        self.answer(request, Answer::Stored(stored(thread, sender, id, participants)));
    }

    pub fn fail(&mut self, request: RequestId, failure: Failure) {
        self.answer(request, Answer::Failed(failure));
    }
}

/// The site's reply about a stored message.
pub fn stored(thread: u64, sender: u64, id: u64, participants: Option<&[u64]>) -> Stored {
    let sent_at = "2027-01-15T08:00:00Z".to_owned();
    Stored {
        thread,
        sender: Id::number(sender),
        message: Some(StoredMessage { id, sent_at, html: "<p>html</p>".to_owned() }),
        participants: participants.map(Into::into),
        expires_s: None,
    }
}

/// The JSON of exactly one text frame as a server sends it, unmasked.
pub fn json(frame: &[u8]) -> Value {
    let mut all = jsons(frame);
    let one = all.next().expect("a frame");
    assert_eq!(all.next(), None, "more than one frame");
    one
}

/// The JSON of each frame in these bytes.
fn jsons(bytes: &[u8]) -> impl Iterator<Item = Value> {
    let json = |(_, text)| serde_json::from_str(text).expect("a frame is JSON");
    frames(bytes).into_iter().map(json)
}

/// The answer to a lookup: this is the sender's newest message, and it has the same text.
pub fn matching(stored: Stored) -> Answer {
    let newest = stored.message.as_ref().expect("a match has its message").id;
    Answer::LookupResult(LookupResult::Match { stored, newest })
}

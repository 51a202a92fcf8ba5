//! Liveness: every client frame gets one outcome, whatever clients do and whatever the site answers,
//! in whichever order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use buddyline::hub::interface::{
    Answer, Ask, ConnId, DeliveryLimits, Failure, HeldFrameLimits, LookupResult, Proven, RequestId,
    Settings, Target,
};
use buddyline::protocol::Id;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::harness;
use crate::support::harness::{HubHarness, verified};

const SLOTS: u32 = 4;
const USERS: u64 = 4;
const THREADS: u64 = 3;
/// How long an undelivered outcome is kept for its user, less the time that a proof takes.
const UNDELIVERED_KEPT: Duration = Duration::from_secs(500);

fn small() -> Settings {
    Settings {
        membership_lasts: Duration::from_secs(20),
        message_turn_lasts: Some(Duration::from_secs(20)),
        joins_per_connection: 2,
        held_frames: HeldFrameLimits {
            total: 4,
            bytes: 3_000,
            per_connection: 3,
            bytes_per_connection: 1_000,
        },
        deliveries: DeliveryLimits { total: 5, per_connection: 3, bytes: 1_000 },
        ..verified()
    }
}

/// How long dedup remembers a `clientId`, less a margin for everything else.
const DEDUP_KEPT: Duration = Duration::from_secs(300);

/// A token: its user, and whether the site accepts it.
#[derive(Clone, Copy, Debug)]
struct Token {
    user: u64,
    good: bool,
}

impl Token {
    fn text(self) -> String {
        format!("{}-{}", if self.good { "good" } else { "bad" }, self.user)
    }

    fn of(secret: &str) -> Token {
        let (kind, user) = secret.split_once('-').unwrap();
        Token { user: user.parse().unwrap(), good: kind == "good" }
    }
}

#[derive(Clone, Copy, Debug)]
enum ClientFrame {
    Join(u64),
    Leave(u64),
    Typing(u64),
    Offer(u64, u64),
    Online(Option<u64>),
    Send(Option<u64>, Option<Token>),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Open(u32, Option<Token>),
    Close(u32),
    Identify(u32, u64, Option<Token>),
    Send(u32, ClientFrame),
    /// Sends one of the latest messages again, with the same clientId.
    Resend(u32, usize),
    /// The site answers one of its queries, or fails it.
    Answer(usize, Option<Failure>),
    Pass(u64),
}

fn token() -> impl Strategy<Value = Token> {
    (1..=USERS, prop::bool::weighted(0.85)).prop_map(|(user, good)| Token { user, good })
}

fn client_frame() -> impl Strategy<Value = ClientFrame> {
    let thread = 1..=THREADS;
    prop_oneof![
        3 => thread.clone().prop_map(ClientFrame::Join),
        1 => thread.clone().prop_map(ClientFrame::Leave),
        2 => thread.clone().prop_map(ClientFrame::Typing),
        2 => (thread.clone(), 1..=USERS).prop_map(|(thread, user)| ClientFrame::Offer(thread, user)),
        1 => prop::option::of(thread.clone()).prop_map(ClientFrame::Online),
        6 => (prop::option::weighted(0.8, thread), prop::option::of(token()))
            .prop_map(|(thread, token)| ClientFrame::Send(thread, token)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let failure = prop_oneof![
        4 => Just(Failure::SiteUnavailable { retry_after_s: None }),
        3 => Just(Failure::Unknown),
        3 => Just(Failure::Unusable),
        1 => Just(Failure::TokenExpired),
        1 => Just(Failure::TokenRefused),
    ];
    prop_oneof![
        4 => (0..SLOTS, prop::option::weighted(0.6, token())).prop_map(|(s, t)| Step::Open(s, t)),
        2 => (0..SLOTS).prop_map(Step::Close),
        2 => (0..SLOTS, 1..=USERS, prop::option::weighted(0.8, token()))
            .prop_map(|(slot, user, token)| {
                // Most tokens are the user's own.
                let token = token.map(|token| Token { user: user.max(token.user), ..token });
                Step::Identify(slot, user, token)
            }),
        14 => (0..SLOTS, client_frame()).prop_map(|(slot, client_frame)| Step::Send(slot, client_frame)),
        4 => (0..SLOTS, 0..4usize).prop_map(|(slot, n)| Step::Resend(slot, n)),
        8 => (0..8usize, prop::option::weighted(0.3, failure)).prop_map(|(n, f)| Step::Answer(n, f)),
        2 => (0..25u64).prop_map(Step::Pass),
    ]
}

/// A frame that must have one outcome for each time that it was sent.
struct SentFrame {
    /// The connections that have sent it.
    conns: Vec<ConnId>,
    /// For a message: its text frame, and when it was first sent.
    message: Option<(String, Instant)>,
    is_offer: bool,
    outcomes: Vec<(ConnId, Value)>,
}

/// A message that the site has stored or will store.
#[derive(Clone, Debug)]
struct StoredMessage {
    id: u64,
    at: Instant,
    thread: u64,
    user: u64,
    text: String,
}

#[derive(Default)]
struct ConnHistory {
    /// The users of the tokens that it has sent.
    users: BTreeSet<u64>,
    /// Whether the hub has identified it: frames of an anonymous connection are dropped with it.
    is_identified: bool,
    closed: Option<Instant>,
    /// The newest connection's serial when it closed.
    newest_at_close: u32,
}

struct World {
    harness: HubHarness,
    open: BTreeMap<u32, ConnId>,
    histories: BTreeMap<ConnId, ConnHistory>,
    sent: HashMap<String, SentFrame>,
    queries: Vec<(RequestId, Ask)>,
    /// The messages posted to the site.
    posted: BTreeSet<String>,
    /// Connections that have received `call_ended`.
    calls_ended: BTreeSet<ConnId>,
    /// Messages that the site has stored.
    stored: Vec<StoredMessage>,
    /// Messages that the site will store after its post has failed.
    late: Vec<StoredMessage>,
    /// The clientIds of messages in the order in which they were first sent.
    messages: Vec<String>,
}

impl World {
    fn new() -> World {
        let harness = HubHarness::new(small());
        let (open, histories, sent, queries, posted) = Default::default();
        let (calls_ended, stored, late, messages) = Default::default();
        World {
            harness,
            open,
            histories,
            sent,
            queries,
            posted,
            calls_ended,
            stored,
            late,
            messages,
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Open(slot, token) => {
                if !self.open.contains_key(&slot) {
                    let conn = match token {
                        Some(token) => self.harness.open_with(slot, &token.text()),
                        None => self.harness.open(slot),
                    };
                    let history = ConnHistory {
                        users: token.map(|t| t.user).into_iter().collect(),
                        ..ConnHistory::default()
                    };
                    self.open.insert(slot, conn);
                    self.histories.insert(conn, history);
                }
            }
            Step::Close(slot) => {
                if let Some(conn) = self.open.get(&slot) {
                    let conn = *conn;
                    self.harness.close(conn);
                    self.record_close(conn);
                }
            }
            Step::Identify(slot, user, token) => {
                if let Some(conn) = self.open.get(&slot).copied() {
                    let mut frame = json!({"type": "user_connected", "userId": user});
                    self.add_token(conn, &mut frame, token);
                    self.harness.send(conn, &frame.to_string());
                }
            }
            Step::Send(slot, client_frame) => {
                if let Some(conn) = self.open.get(&slot).copied() {
                    self.send(conn, client_frame);
                }
            }
            Step::Resend(slot, n) => {
                if let Some(conn) = self.open.get(&slot).copied() {
                    self.resend(conn, n);
                }
            }
            Step::Answer(n, failure) => {
                if !self.queries.is_empty() {
                    let (request, ask) = self.queries.remove(n % self.queries.len());
                    let answer = match (&ask, failure) {
                        (Ask::Post(_), Some(failure)) => self.fail_ask(&ask, n, failure),
                        // Only a post can have an unknown outcome.
                        (_, Some(Failure::Unknown | Failure::Unusable)) => {
                            Answer::Failed(Failure::SiteUnavailable { retry_after_s: None })
                        }
                        (_, Some(failure)) => Answer::Failed(failure),
                        (_, None) => self.site(&ask, n),
                    };
                    self.harness.answer(request, answer);
                }
            }
            Step::Pass(seconds) => {
                self.harness.advance(Duration::from_secs(seconds));
                let now = self.harness.now.instant;
                let (due, later) = self.late.drain(..).partition(|kept| kept.at <= now);
                self.late = later;
                for kept in due {
                    self.store(kept);
                }
            }
        }
        self.record_effects();
    }

    fn add_token(&mut self, conn: ConnId, frame: &mut Value, token: Option<Token>) {
        if let Some(token) = token {
            frame["token"] = json!(token.text());
            self.histories.get_mut(&conn).unwrap().users.insert(token.user);
        }
    }

    fn send(&mut self, conn: ConnId, client_frame: ClientFrame) {
        let id = format!("f{}", self.sent.len());
        let mut frame = match client_frame {
            ClientFrame::Join(thread) => json!({"type": "join_thread", "threadId": thread}),
            ClientFrame::Leave(thread) => json!({"type": "leave_thread", "threadId": thread}),
            ClientFrame::Typing(thread) => json!({"type": "typing", "threadId": thread}),
            ClientFrame::Offer(thread, user) => {
                json!({"type": "offer", "threadId": thread, "recipientId": user, "offer": id})
            }
            ClientFrame::Online(thread) => json!({"type": "online_users", "threadId": thread}),
            ClientFrame::Send(thread, token) => {
                let mut frame = json!({"type": "send_message", "recipientId": 4, "message": id});
                if let Some(thread) = thread {
                    frame["threadId"] = json!(thread);
                }
                self.add_token(conn, &mut frame, token);
                frame
            }
        };
        frame["clientId"] = json!(id);
        let text = frame.to_string();
        let is_send = matches!(client_frame, ClientFrame::Send(..));
        let is_offer = matches!(client_frame, ClientFrame::Offer(..));
        let message = is_send.then(|| (text.clone(), self.harness.now.instant));
        if is_send {
            self.messages.push(id.clone());
        }
        self.sent
            .insert(id, SentFrame { conns: vec![conn], message, is_offer, outcomes: Vec::new() });
        self.harness.send(conn, &text);
    }

    /// Sends the same message again as the same user, perhaps on another connection.
    fn resend(&mut self, conn: ConnId, n: usize) {
        let Some(id) = self.messages.iter().rev().nth(n) else { return };
        let sent = self.sent.get_mut(id).unwrap();
        let (text, first) = sent.message.clone().unwrap();
        let user = |conn: &ConnId| match &Vec::from_iter(&self.histories[conn].users)[..] {
            [user] => Some(**user),
            _ => None,
        };
        let users: BTreeSet<_> = sent.conns.iter().chain([&conn]).map(user).collect();
        let same = users.len() == 1 && !users.contains(&None);
        if same && self.harness.now.instant - first < DEDUP_KEPT {
            sent.conns.push(conn);
            self.harness.send(conn, &text);
        }
    }

    fn store(&mut self, mut kept: StoredMessage) {
        kept.id = self.stored.len() as u64 + 1;
        let before = self.stored.iter().find(|other| other.text == kept.text);
        assert!(before.is_none(), "stored twice: {kept:?} after {before:?}");
        self.stored.push(kept);
    }

    /// Fails a post: with an uncertain failure the message is stored now, later or never.
    fn fail_ask(&mut self, ask: &Ask, n: usize, failure: Failure) -> Answer {
        let late = match (failure, n % 3) {
            (Failure::Unknown, 0) => Some(Duration::from_secs(n as u64 * 2)),
            (Failure::Unknown | Failure::Unusable, 1) => None,
            _ => return Answer::Failed(failure),
        };
        let before = self.stored.len();
        self.site(ask, n);
        if let (Some(late), Some(mut kept)) = (late, self.stored.drain(before..).next()) {
            kept.at += late;
            self.late.push(kept);
        }
        Answer::Failed(failure)
    }

    /// A working site's answer: each user is in every thread but the one with their own number.
    fn site(&mut self, ask: &Ask, n: usize) -> Answer {
        let participants =
            |thread: u64| (1..=USERS).filter(|user| *user != thread).collect::<Box<[u64]>>();
        match ask {
            Ask::CallPermission { .. } => Answer::CallPermission(n % 3 != 0),
            Ask::Prove(credential) | Ask::Recheck(credential) => {
                match Token::of(credential.secret()) {
                    Token { user, good: true } => Answer::Proven(Proven { user, expires_s: None }),
                    _ => Answer::Failed(Failure::TokenRefused),
                }
            }
            Ask::Participants { thread, credential } => match Token::of(credential.secret()) {
                Token { good: false, .. } => Answer::Failed(Failure::TokenRefused),
                Token { user, .. } if user == *thread => Answer::Failed(Failure::NotParticipant),
                _ => Answer::Participants(participants(*thread)),
            },
            Ask::Lookup(lookup) => {
                let Token { user, good } = Token::of(lookup.credential.secret());
                if !good {
                    return Answer::Failed(Failure::TokenRefused);
                }
                if lookup.sender.as_ref().and_then(Id::site_number) != Some(user) {
                    return Answer::Failed(Failure::SiteUnavailable { retry_after_s: None });
                }
                let thread = thread_of(lookup.target, user);
                let newest = self.stored.iter().rfind(|k| k.thread == thread && k.user == user);
                let since = lookup.posted - Duration::from_secs(2);
                Answer::LookupResult(match newest.filter(|kept| kept.at >= since) {
                    None => LookupResult::Absent,
                    Some(kept) if *kept.text == *lookup.text => {
                        let participants = (n % 2 == 0).then(|| participants(thread));
                        let participants = participants.as_deref();
                        let stored = harness::stored(thread, user, kept.id, participants);
                        LookupResult::Match { stored, newest: kept.id }
                    }
                    Some(kept) => LookupResult::Mismatch {
                        thread,
                        sender: Id::number(user),
                        message: kept.id,
                    },
                })
            }
            Ask::Post(post) => {
                let Some(credential) = &post.credential else {
                    return Answer::Failed(Failure::TokenMissing);
                };
                let Token { user, good } = Token::of(credential.secret());
                let thread = thread_of(post.target, user);
                if !good {
                    return Answer::Failed(Failure::TokenRefused);
                }
                if user == thread {
                    return Answer::Failed(Failure::NotParticipant);
                }
                let (text, at) = (post.text.to_string(), self.harness.now.instant);
                self.store(StoredMessage { id: 0, at, thread, user, text });
                let participants = (n % 2 == 0).then(|| participants(thread));
                let id = self.stored.len() as u64;
                Answer::Stored(harness::stored(thread, user, id, participants.as_deref()))
            }
        }
    }

    fn record_close(&mut self, conn: ConnId) {
        self.open.remove(&conn.slot);
        let last = self.histories.keys().map(|conn| conn.serial).max().unwrap_or(0);
        let history = self.histories.get_mut(&conn).unwrap();
        (history.closed, history.newest_at_close) = (Some(self.harness.now.instant), last);
    }

    /// Records the effects of a step.
    fn record_effects(&mut self) {
        for (conn, _) in self.harness.closed() {
            self.record_close(conn);
        }
        while self.harness.pending_asks() > 0 {
            let (request, ask) = self.harness.next_ask();
            if let Ask::Post(post) = &ask {
                self.posted.insert(post.text.to_string());
            }
            self.queries.push((request, ask));
        }
        for (to, frame) in self.harness.received() {
            if frame["type"] == "user_connected" {
                self.histories.get_mut(&to).unwrap().is_identified = true;
            }
            if frame["type"] == "call_ended" {
                self.calls_ended.insert(to);
            }
            // A delivered offer has no other outcome.
            let arrived = frame["type"] == "offer";
            let id = if arrived { &frame["offer"] } else { &frame["clientId"] };
            if let Some(sent) = id.as_str().and_then(|id| self.sent.get_mut(id)) {
                let again = arrived && sent.outcomes.iter().any(|(_, f)| f["type"] == "offer");
                if frame["type"] == "message" {
                    let text = frame["message"].as_str().unwrap();
                    let stored =
                        self.stored.iter().any(|k| k.text == text && frame["messageId"] == k.id);
                    assert!(stored, "the site has not stored this: {frame}");
                }
                if !again {
                    sent.outcomes.push((to, frame));
                }
            }
        }
    }

    /// The site answers every query without failures until nothing is pending.
    fn settle(&mut self) {
        for round in 0..40 {
            while !self.queries.is_empty() {
                self.run(Step::Answer(round % 2, None));
            }
            self.run(Step::Pass(2));
        }
        while !self.queries.is_empty() {
            self.run(Step::Answer(0, None));
        }
    }

    /// Whether the user of this closed connection has a later one that must have got its outcomes.
    fn has_later_connection(&self, conn: ConnId) -> bool {
        let history = &self.histories[&conn];
        let one_user = history.is_identified && history.users.len() == 1;
        let Some(closed) = history.closed.filter(|_| one_user) else {
            return false;
        };
        let in_time = self.harness.now.instant - closed < UNDELIVERED_KEPT;
        self.open.values().any(|other| {
            in_time
                && other.serial > history.newest_at_close
                && self.histories[other].users == history.users
        })
    }

    fn check(&self) {
        for (id, sent) in &self.sent {
            let SentFrame { conns, message, outcomes, .. } = sent;
            assert!(outcomes.len() <= conns.len(), "{id}, sent on {conns:?}, has {outcomes:?}");
            for conn in conns.iter().filter(|conn| self.histories[conn].closed.is_none()) {
                let times = conns.iter().filter(|other| *other == conn).count();
                let received = outcomes.iter().filter(|(to, _)| to == conn).count();
                // A delivered offer is received by the callee.
                let is_delivered_offer = outcomes.iter().any(|(_, f)| f["type"] == "offer");
                // An offer that answers a caller who has lost the connection is kept for them. If
                // they do not come back, the end of the call is all that its sender gets.
                let has_call_ended = sent.is_offer && self.calls_ended.contains(conn);
                let is_answered = is_delivered_offer || has_call_ended;
                let received = if is_answered { times } else { received };
                assert!(
                    received >= times,
                    "{id}, sent {times} times on {conn:?}, has {outcomes:?}"
                );
            }
            let posted = message.is_some() && self.posted.contains(id);
            if posted && conns.iter().any(|conn| self.has_later_connection(*conn)) {
                assert!(!outcomes.is_empty(), "{id} has no outcome");
            }
            for (to, frame) in outcomes.iter().filter(|(_, frame)| frame["type"] != "offer") {
                let users = |conn| &self.histories[conn].users;
                let same = conns
                    .iter()
                    .any(|from| to == from || users(to).intersection(users(from)).count() > 0);
                assert!(same, "{id}, sent on {conns:?}, was received by {to:?}: {frame}");
            }
            let certain = |f: &Value| f["type"] == "error" && f["code"] != "unknown_outcome";
            let all = outcomes.len() == conns.len() && outcomes.iter().all(|(_, f)| certain(f));
            if message.is_some() && all {
                let stored = self.stored.iter().chain(&self.late).any(|kept| kept.text == *id);
                assert!(!stored, "{id} is stored, but its outcomes are {outcomes:?}");
            }
        }
        assert_eq!(
            self.harness.hub.backlog(),
            [0; 3],
            "held frames, queries, connections awaiting a proof"
        );
        let counts = self.harness.hub.counts();
        assert_eq!(counts.deliveries, 0);
        assert_eq!(counts.connections, self.open.len());
    }
}

/// The thread that a message of this user is stored in.
fn thread_of(target: Target, user: u64) -> u64 {
    match target {
        Target::Thread(thread) => thread,
        Target::NewThread { .. } => user % THREADS + 1,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_gets_one_outcome_and_nothing_stays_pending(
        steps in vec(step(), 1..80)
    ) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
        }
        world.settle();
        world.check();
    }
}

//! Nothing that a client says is lost, doubled or left waiting, whatever it does and whatever the
//! site answers, and in which order.
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
/// How long outcomes wait for their user to come back, less the time that a proof takes.
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

/// How long a message may be sent again, less the time that all the rest takes.
const REPEATS_LAST: Duration = Duration::from_secs(300);

/// Whose token it is, and whether the site knows it.
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
    Be(u32, u64, Option<Token>),
    Say(u32, ClientFrame),
    /// Says one of the latest messages again, under the same name.
    Again(u32, usize),
    /// The site answers one of its questions: well, or with a failure.
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
                // Mostly it is theirs.
                let token = token.map(|token| Token { user: user.max(token.user), ..token });
                Step::Be(slot, user, token)
            }),
        14 => (0..SLOTS, client_frame()).prop_map(|(slot, client_frame)| Step::Say(slot, client_frame)),
        4 => (0..SLOTS, 0..4usize).prop_map(|(slot, n)| Step::Again(slot, n)),
        8 => (0..8usize, prop::option::weighted(0.3, failure)).prop_map(|(n, f)| Step::Answer(n, f)),
        2 => (0..25u64).prop_map(Step::Pass),
    ]
}

/// A frame that must have one outcome, as often as it was said.
struct SentFrame {
    /// The connections that have said it.
    conns: Vec<ConnId>,
    /// A message, as it was said, and when first.
    message: Option<(String, Instant)>,
    outcomes: Vec<(ConnId, Value)>,
}

/// A message that the site has, or will have.
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
    /// Whose tokens it has brought.
    users: BTreeSet<u64>,
    closed: Option<Instant>,
    /// The last connection that there was when it closed.
    last: u32,
}

struct World {
    harness: HubHarness,
    here: BTreeMap<u32, ConnId>,
    histories: BTreeMap<ConnId, ConnHistory>,
    said: HashMap<String, SentFrame>,
    asked: Vec<(RequestId, Ask)>,
    /// The messages that came to the site.
    posted: BTreeSet<String>,
    /// What the site has stored, and will store although nobody hears of it.
    kept: Vec<StoredMessage>,
    late: Vec<StoredMessage>,
    /// The names of messages in the order in which they were first said.
    messages: Vec<String>,
}

impl World {
    fn new() -> World {
        let harness = HubHarness::new(small());
        let (here, histories, said, asked, posted) = Default::default();
        let (kept, late, messages) = Default::default();
        World { harness, here, histories, said, asked, posted, kept, late, messages }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Open(slot, token) => {
                if !self.here.contains_key(&slot) {
                    let conn = match token {
                        Some(token) => self.harness.open_with(slot, &token.text()),
                        None => self.harness.open(slot),
                    };
                    let life = ConnHistory {
                        users: token.map(|t| t.user).into_iter().collect(),
                        ..ConnHistory::default()
                    };
                    self.here.insert(slot, conn);
                    self.histories.insert(conn, life);
                }
            }
            Step::Close(slot) => {
                if let Some(conn) = self.here.get(&slot) {
                    let conn = *conn;
                    self.harness.close(conn);
                    self.gone(conn);
                }
            }
            Step::Be(slot, user, token) => {
                if let Some(conn) = self.here.get(&slot).copied() {
                    let mut frame = json!({"type": "user_connected", "userId": user});
                    self.bring(conn, &mut frame, token);
                    self.harness.send(conn, &frame.to_string());
                }
            }
            Step::Say(slot, client_frame) => {
                if let Some(conn) = self.here.get(&slot).copied() {
                    self.send(conn, client_frame);
                }
            }
            Step::Again(slot, n) => {
                if let Some(conn) = self.here.get(&slot).copied() {
                    self.resend(conn, n);
                }
            }
            Step::Answer(n, failure) => {
                if !self.asked.is_empty() {
                    let (request, ask) = self.asked.remove(n % self.asked.len());
                    let answer = match (&ask, failure) {
                        (Ask::Post(_), Some(failure)) => self.fail_ask(&ask, n, failure),
                        // Only a post leaves anyone in doubt.
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
                    self.keep(kept);
                }
            }
        }
        self.look();
    }

    fn bring(&mut self, conn: ConnId, frame: &mut Value, token: Option<Token>) {
        if let Some(token) = token {
            frame["token"] = json!(token.text());
            self.histories.get_mut(&conn).unwrap().users.insert(token.user);
        }
    }

    fn send(&mut self, conn: ConnId, client_frame: ClientFrame) {
        let id = format!("f{}", self.said.len());
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
                self.bring(conn, &mut frame, token);
                frame
            }
        };
        frame["clientId"] = json!(id);
        let text = frame.to_string();
        let is_send = matches!(client_frame, ClientFrame::Send(..));
        let message = is_send.then(|| (text.clone(), self.harness.now.instant));
        if is_send {
            self.messages.push(id.clone());
        }
        self.said.insert(id, SentFrame { conns: vec![conn], message, outcomes: Vec::new() });
        self.harness.send(conn, &text);
    }

    /// The same user says the same, perhaps on another connection.
    fn resend(&mut self, conn: ConnId, n: usize) {
        let Some(id) = self.messages.iter().rev().nth(n) else { return };
        let said = self.said.get_mut(id).unwrap();
        let (text, first) = said.message.clone().unwrap();
        let user = |conn: &ConnId| match &Vec::from_iter(&self.histories[conn].users)[..] {
            [user] => Some(**user),
            _ => None,
        };
        let users: BTreeSet<_> = said.conns.iter().chain([&conn]).map(user).collect();
        let same = users.len() == 1 && !users.contains(&None);
        if same && self.harness.now.instant - first < REPEATS_LAST {
            said.conns.push(conn);
            self.harness.send(conn, &text);
        }
    }

    fn keep(&mut self, mut kept: StoredMessage) {
        kept.id = self.kept.len() as u64 + 1;
        let before = self.kept.iter().find(|other| other.text == kept.text);
        assert!(before.is_none(), "stored twice: {kept:?} after {before:?}");
        self.kept.push(kept);
    }

    /// What a post leads to at a site that fails: in doubt it is stored, or not, or later.
    fn fail_ask(&mut self, ask: &Ask, n: usize, failure: Failure) -> Answer {
        let late = match (failure, n % 3) {
            (Failure::Unknown, 0) => Some(Duration::from_secs(n as u64 * 2)),
            (Failure::Unknown | Failure::Unusable, 1) => None,
            _ => return Answer::Failed(failure),
        };
        let before = self.kept.len();
        self.site(ask, n);
        if let (Some(late), Some(mut kept)) = (late, self.kept.drain(before..).next()) {
            kept.at += late;
            self.late.push(kept);
        }
        Answer::Failed(failure)
    }

    /// What a site in order says: everyone is in every thread but the one of their own number.
    fn site(&mut self, ask: &Ask, n: usize) -> Answer {
        let people =
            |thread: u64| (1..=USERS).filter(|user| *user != thread).collect::<Box<[u64]>>();
        match ask {
            Ask::Prove(credential) => match Token::of(credential.secret()) {
                Token { user, good: true } => Answer::Proven(Proven { user, expires_s: None }),
                _ => Answer::Failed(Failure::TokenRefused),
            },
            Ask::Participants { thread, credential } => match Token::of(credential.secret()) {
                Token { good: false, .. } => Answer::Failed(Failure::TokenRefused),
                Token { user, .. } if user == *thread => Answer::Failed(Failure::NotParticipant),
                _ => Answer::Participants(people(*thread)),
            },
            Ask::Lookup(look) => {
                let Token { user, good } = Token::of(look.credential.secret());
                if !good {
                    return Answer::Failed(Failure::TokenRefused);
                }
                if look.sender.as_ref().and_then(Id::site_number) != Some(user) {
                    return Answer::Failed(Failure::SiteUnavailable { retry_after_s: None });
                }
                let thread = thread_of(look.target, user);
                let newest = self.kept.iter().rfind(|k| k.thread == thread && k.user == user);
                let since = look.posted - Duration::from_secs(2);
                Answer::LookupResult(match newest.filter(|kept| kept.at >= since) {
                    None => LookupResult::Absent,
                    Some(kept) if *kept.text == *look.text => {
                        let people = (n % 2 == 0).then(|| people(thread));
                        LookupResult::Match(harness::stored(
                            thread,
                            user,
                            kept.id,
                            people.as_deref(),
                        ))
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
                self.keep(StoredMessage { id: 0, at, thread, user, text });
                let people = (n % 2 == 0).then(|| people(thread));
                let id = self.kept.len() as u64;
                Answer::Stored(harness::stored(thread, user, id, people.as_deref()))
            }
        }
    }

    fn gone(&mut self, conn: ConnId) {
        self.here.remove(&conn.slot);
        let last = self.histories.keys().map(|conn| conn.serial).max().unwrap_or(0);
        let life = self.histories.get_mut(&conn).unwrap();
        (life.closed, life.last) = (Some(self.harness.now.instant), last);
    }

    /// Takes down what came of a step.
    fn look(&mut self) {
        for (conn, _) in self.harness.closed() {
            self.gone(conn);
        }
        while self.harness.pending_asks() > 0 {
            let (request, ask) = self.harness.next_ask();
            if let Ask::Post(post) = &ask {
                self.posted.insert(post.text.to_string());
            }
            self.asked.push((request, ask));
        }
        for (to, frame) in self.harness.received() {
            // An offer that arrives has no other outcome.
            let arrived = frame["type"] == "offer";
            let id = if arrived { &frame["offer"] } else { &frame["clientId"] };
            if let Some(said) = id.as_str().and_then(|id| self.said.get_mut(id)) {
                let again = arrived && said.outcomes.iter().any(|(_, f)| f["type"] == "offer");
                if frame["type"] == "message" {
                    let text = frame["message"].as_str().unwrap();
                    let stored =
                        self.kept.iter().any(|k| k.text == text && frame["messageId"] == k.id);
                    assert!(stored, "nothing like this is stored: {frame}");
                }
                if !again {
                    said.outcomes.push((to, frame));
                }
            }
        }
    }

    /// The site answers everything, and well, until all is quiet.
    fn settle(&mut self) {
        for round in 0..40 {
            while !self.asked.is_empty() {
                self.take(Step::Answer(round % 2, None));
            }
            self.take(Step::Pass(2));
        }
        while !self.asked.is_empty() {
            self.take(Step::Answer(0, None));
        }
    }

    /// Whether an outcome of this connection's must have found its user's later one.
    fn has_later_connection(&self, conn: ConnId) -> bool {
        let life = &self.histories[&conn];
        let Some(closed) = life.closed.filter(|_| life.users.len() == 1) else { return false };
        let in_time = self.harness.now.instant - closed < UNDELIVERED_KEPT;
        self.here.values().any(|other| {
            in_time && other.serial > life.last && self.histories[other].users == life.users
        })
    }

    fn check(&self) {
        for (id, said) in &self.said {
            let SentFrame { conns, message, outcomes } = said;
            assert!(outcomes.len() <= conns.len(), "{id}, said {conns:?}, has {outcomes:?}");
            for conn in conns.iter().filter(|conn| self.histories[conn].closed.is_none()) {
                let said = conns.iter().filter(|other| *other == conn).count();
                let told = outcomes.iter().filter(|(to, _)| to == conn).count();
                // The other party hears an offer.
                let told =
                    if outcomes.iter().any(|(_, f)| f["type"] == "offer") { said } else { told };
                assert!(told >= said, "{id}, said {said} times on {conn:?}, has {outcomes:?}");
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
                assert!(same, "{id} of {conns:?} was heard by {to:?}: {frame}");
            }
            let certain = |f: &Value| f["type"] == "error" && f["code"] != "unknown_outcome";
            let all = outcomes.len() == conns.len() && outcomes.iter().all(|(_, f)| certain(f));
            if message.is_some() && all {
                let stored = self.kept.iter().chain(&self.late).any(|kept| kept.text == *id);
                assert!(!stored, "{id} is stored, and is told as {outcomes:?}");
            }
        }
        assert_eq!(self.harness.hub.backlog(), [0; 3], "frames, checks, pending connections");
        let counts = self.harness.hub.counts();
        assert_eq!(counts.deliveries, 0);
        assert_eq!(counts.connections, self.here.len());
    }
}

/// The thread into which a message of this user goes.
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
            world.take(step);
        }
        world.settle();
        world.check();
    }
}

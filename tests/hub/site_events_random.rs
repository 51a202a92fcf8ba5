//! Random histories of a site and its events, against a shadow model: each connection hears each
//! message at most once, subscribers hear all, and nobody hears what the site does not show them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use buddyline::hub::interface::{Answer, Ask, ConnId, Failure, Input, RequestId};
use buddyline::protocol::site_event::SiteEvent;
use serde_json::{Value, json};

use crate::support::harness::{HubHarness, stored, verified};

const USERS: u64 = 5;
const THREADS: u64 = 3;
const STEPS: usize = 300;

/// A small generator with a seed (SplitMix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

struct Message {
    thread: u64,
    sender: u64,
    recipients: Vec<u64>,
    hidden_from: Vec<u64>,
}

struct Client {
    user: u64,
    /// The threads that it has joined, by the frames that it has received.
    joined: BTreeSet<u64>,
    has_inbox: bool,
    heard: BTreeSet<u64>,
}

struct World {
    rng: Rng,
    harness: HubHarness,
    participants: BTreeMap<u64, BTreeSet<u64>>,
    blocks: BTreeSet<(u64, u64)>,
    /// The blocks that the hub was told of, in both directions.
    reported_blocks: BTreeSet<(u64, u64)>,
    /// The threads and the users whose removal was the last that the hub heard of them.
    reported_removals: BTreeSet<(u64, u64)>,
    messages: BTreeMap<u64, Message>,
    events: VecDeque<Value>,
    asks: Vec<(RequestId, Ask)>,
    clients: BTreeMap<ConnId, Client>,
    /// Messages that others than their author have heard.
    told: BTreeSet<u64>,
    /// The connections when a message was heard first, with the threads that they had joined.
    subscribed_at: BTreeMap<u64, Vec<(ConnId, BTreeSet<u64>)>>,
    deliveries: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let mut settings = verified();
        settings.user_proof_lasts = None;
        let participants = (1..=THREADS).map(|thread| (thread, (1..=USERS).collect())).collect();
        World {
            rng: Rng(seed),
            harness: HubHarness::new(settings),
            participants,
            blocks: BTreeSet::new(),
            reported_blocks: BTreeSet::new(),
            reported_removals: BTreeSet::new(),
            messages: BTreeMap::new(),
            events: VecDeque::new(),
            asks: Vec::new(),
            clients: BTreeMap::new(),
            told: BTreeSet::new(),
            subscribed_at: BTreeMap::new(),
            deliveries: 0,
        }
    }

    /// Stores a message as the site does, and queues its event.
    fn store(&mut self, thread: u64, sender: u64) -> u64 {
        let id = 100 + self.messages.len() as u64;
        let recipients: Vec<u64> =
            self.participants[&thread].iter().copied().filter(|user| *user != sender).collect();
        let blocks = |user: &&u64| {
            self.blocks.contains(&(**user, sender)) || self.blocks.contains(&(sender, **user))
        };
        let hidden_from: Vec<u64> = recipients.iter().filter(blocks).copied().collect();
        self.queue(json!({
            "type": "message", "threadId": thread, "messageId": id, "senderId": sender,
            "recipients": recipients, "hiddenFrom": hidden_from, "text": "x",
            "sentAt": "2026-12-01T10:00:00Z",
        }));
        self.messages.insert(id, Message { thread, sender, recipients, hidden_from });
        id
    }

    /// Queues an event: rarely twice, or before the one that happened before it.
    fn queue(&mut self, event: Value) {
        if self.rng.chance(10) && !self.events.is_empty() {
            let last = self.events.len() - 1;
            self.events.insert(last, event.clone());
        } else {
            self.events.push_back(event.clone());
        }
        if self.rng.chance(10) {
            self.events.push_back(event);
        }
    }

    fn step(&mut self) {
        let thread = 1 + self.rng.below(THREADS);
        let user = 1 + self.rng.below(USERS);
        let conns: Vec<ConnId> = self.clients.keys().copied().collect();
        let conn = (!conns.is_empty()).then(|| conns[self.rng.below(conns.len() as u64) as usize]);
        match self.rng.below(12) {
            0 if self.clients.len() < 8 => self.connect(user),
            1 | 2 => {
                if let Some(conn) = conn {
                    self.send(conn, json!({"type": "join_thread", "threadId": thread}));
                }
            }
            3 => {
                if let Some(conn) = conn {
                    self.send(conn, json!({"type": "join_inbox"}));
                }
            }
            4 => {
                let leaving = self.participants[&thread].contains(&user);
                let people = self.participants.get_mut(&thread).unwrap();
                if leaving && people.len() > 2 {
                    people.remove(&user);
                    self.queue(json!({
                        "type": "participants", "threadId": thread, "removed": [user],
                    }));
                } else if !leaving {
                    people.insert(user);
                    self.queue(json!({
                        "type": "participants", "threadId": thread, "added": [user],
                    }));
                }
            }
            5 if self.rng.chance(30) => {
                let other = 1 + self.rng.below(USERS);
                if other != user && self.blocks.insert((user, other)) {
                    self.queue(json!({"type": "block", "userId": user, "blockedId": other}));
                }
            }
            6 => {
                if self.participants[&thread].contains(&user) {
                    self.store(thread, user);
                }
            }
            7 => {
                if let Some(conn) = conn {
                    let frame = json!({
                        "type": "send_message", "threadId": thread, "message": "x",
                        "clientId": format!("c{}", self.rng.next()),
                    });
                    self.send(conn, frame);
                }
            }
            8 => {
                if let Some(conn) = conn.filter(|_| self.rng.chance(20)) {
                    self.harness.close(conn);
                    self.clients.remove(&conn);
                }
            }
            9 => {
                let s = self.rng.below(70);
                self.harness.advance(Duration::from_secs(s));
            }
            _ => self.deliver_event(),
        }
        self.collect();
        while self.rng.chance(60) && self.answer_one() {}
    }

    fn connect(&mut self, user: u64) {
        let used: BTreeSet<u32> = self.clients.keys().map(|conn| conn.slot).collect();
        let slot = (0..).find(|slot| !used.contains(slot)).unwrap();
        let conn = self.harness.open_with(slot, &format!("token-of-{user}"));
        let client =
            Client { user, joined: BTreeSet::new(), has_inbox: false, heard: BTreeSet::new() };
        self.clients.insert(conn, client);
    }

    fn send(&mut self, conn: ConnId, frame: Value) {
        self.harness.send(conn, &frame.to_string());
    }

    fn deliver_event(&mut self) {
        if let Some(event) = self.events.pop_front() {
            self.report(&event);
        }
    }

    /// Reports an event to the hub, and notes what it must respect from now on.
    fn report(&mut self, event: &Value) {
        let parsed = SiteEvent::parse(&event.to_string()).expect("a valid event");
        match &parsed {
            SiteEvent::Block { user, blocked } => {
                self.reported_blocks.extend([(*user, *blocked), (*blocked, *user)]);
            }
            SiteEvent::Participants { thread, added, removed } => {
                self.reported_removals.retain(|(t, user)| t != thread || !added.contains(user));
                self.reported_removals.extend(removed.iter().map(|user| (*thread, *user)));
            }
            SiteEvent::Message(message) => {
                // It lists participants, unless they were removed a short while ago.
                self.reported_removals.retain(|(thread, user)| {
                    *thread != message.thread || !message.recipients.contains(user)
                });
            }
            _ => {}
        }
        self.harness.handle(Input::SiteEvents(vec![parsed]));
    }

    /// Answers one request as the site would at this time.
    fn answer_one(&mut self) -> bool {
        while self.harness.pending_asks() > 0 {
            let ask = self.harness.next_ask();
            self.asks.push(ask);
        }
        if self.asks.is_empty() {
            return false;
        }
        let at = self.rng.below(self.asks.len() as u64) as usize;
        let (request, ask) = self.asks.remove(at);
        let user = |secret: &str| secret.trim_start_matches("token-of-").parse::<u64>().unwrap();
        match ask {
            Ask::Prove(credential) | Ask::Recheck(credential) => {
                self.harness.prove(request, user(credential.secret()), None);
            }
            Ask::Participants { thread, credential } => {
                let people = &self.participants[&thread];
                match people.contains(&user(credential.secret())) {
                    true => {
                        let people: Vec<u64> = people.iter().copied().collect();
                        self.reported_removals
                            .retain(|(t, user)| *t != thread || !people.contains(user));
                        self.harness.list(request, &people);
                    }
                    false => self.harness.fail(request, Failure::NotParticipant),
                }
            }
            Ask::Post(post) => {
                let sender = user(post.credential.as_ref().unwrap().secret());
                let buddyline::hub::interface::Target::Thread(thread) = post.target else {
                    panic!("all posts are to threads")
                };
                if self.participants[&thread].contains(&sender) && !self.rng.chance(10) {
                    let id = self.store(thread, sender);
                    // The event may overtake the answer.
                    if self.rng.chance(50) {
                        let event = self.events.back().cloned().expect("an event is queued");
                        self.report(&event);
                        self.collect();
                    }
                    let people: Vec<u64> = self.participants[&thread].iter().copied().collect();
                    let list = self.rng.chance(50).then_some(&people[..]);
                    if list.is_some() {
                        self.reported_removals
                            .retain(|(t, user)| *t != thread || !people.contains(user));
                    }
                    self.harness.answer(request, Answer::Stored(stored(thread, sender, id, list)));
                } else {
                    self.harness.fail(request, Failure::CannotWrite);
                }
            }
            other => panic!("{other:?}"),
        }
        self.collect();
        true
    }

    /// Checks what the connections have received.
    fn collect(&mut self) {
        let received = self.harness.received();
        let mut heard_now: BTreeMap<u64, BTreeSet<ConnId>> = BTreeMap::new();
        let subscribed: Vec<(ConnId, BTreeSet<u64>)> =
            self.clients.iter().map(|(conn, c)| (*conn, c.joined.clone())).collect();
        for (conn, frame) in received {
            let Some(client) = self.clients.get_mut(&conn) else { continue };
            let thread = frame["threadId"].as_u64();
            match frame["type"].as_str().unwrap() {
                "thread_joined" => {
                    client.joined.insert(thread.unwrap());
                }
                "thread_left" => {
                    client.joined.remove(&thread.unwrap());
                }
                "inbox_joined" => client.has_inbox = true,
                "message" => {
                    let id = frame["messageId"].as_u64().unwrap();
                    let message = &self.messages[&id];
                    assert!(client.heard.insert(id), "{conn:?} hears {id} twice: {frame}");
                    // The answer to a post does not say from whom the site hides the message: the
                    // blocks that were reported do.
                    let pair = (client.user, message.sender);
                    // Nor does it say who has been removed since the list was made.
                    let by_answer = frame["html"] == "<p>html</p>";
                    let may_hear = match by_answer {
                        true => {
                            let removed = (message.thread, client.user);
                            client.user == message.sender
                                || (!self.reported_blocks.contains(&pair)
                                    && !self.reported_removals.contains(&removed))
                        }
                        false => {
                            !message.hidden_from.contains(&client.user)
                                && (client.user == message.sender
                                    || message.recipients.contains(&client.user))
                        }
                    };
                    assert!(may_hear, "{conn:?} of {} hears {frame}", client.user);
                    let by_inbox = frame["inbox"] == true;
                    assert!(client.has_inbox || !by_inbox);
                    assert_eq!(thread, Some(message.thread));
                    heard_now.entry(id).or_default().insert(conn);
                    self.deliveries += 1;
                }
                _ => {}
            }
        }
        for id in heard_now.keys().copied() {
            let first =
                || subscribed.iter().map(|(conn, joined)| (*conn, joined.clone())).collect();
            self.subscribed_at.entry(id).or_insert_with(first);
        }
        // All who had joined when the first one heard a message hear it with the first of them that
        // is not its author, if they still have joined.
        for (id, conns) in heard_now {
            let message = &self.messages[&id];
            let is_author = |conn: &ConnId| self.clients[conn].user == message.sender;
            if conns.iter().all(is_author) || !self.told.insert(id) {
                continue;
            }
            for (conn, joined) in &self.subscribed_at[&id] {
                let Some(client) = self.clients.get(conn) else { continue };
                let stays =
                    joined.contains(&message.thread) && client.joined.contains(&message.thread);
                // A block that was made since hides it as well.
                let pair = (client.user, message.sender);
                let blocked =
                    self.blocks.contains(&pair) || self.blocks.contains(&(pair.1, pair.0));
                let may = !blocked
                    && !message.hidden_from.contains(&client.user)
                    && (client.user == message.sender || message.recipients.contains(&client.user));
                assert!(!stays || !may || client.heard.contains(&id), "{conn:?} misses {id}");
            }
        }
    }
}

#[test]
fn random_histories_are_heard_once_and_only_by_participants() {
    let mut deliveries = 0;
    for seed in 0..256 {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        // In the end everything is answered and reported.
        while world.answer_one() {}
        while !world.events.is_empty() {
            world.deliver_event();
            world.collect();
            while world.answer_one() {}
        }
        deliveries += world.deliveries;
    }
    assert!(deliveries > 20_000, "{deliveries}");
}

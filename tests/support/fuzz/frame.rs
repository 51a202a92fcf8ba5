//! Fuzz target: feeds client frames to the frame parser and to a hub.
//!
//! A case is a list of lines. Each is an event of one of three connections, `a`, `b` and `c`, of the
//! site, or of the clock. The first letter selects the event:
//!
//! * `a`, `b`, `c`: this connection sends the rest of the line as a text frame; it is opened first
//!   if necessary;
//! * `A`, `B`, `C`: this connection closes if it is open; else it opens, with the rest as its token;
//! * `+`: this many seconds pass;
//! * `!`: the site answers the oldest request: `!f` and a number with a failure, any other letter
//!   with a success made of the numbers that follow, separated by commas;
//! * any other letter: the line is only parsed as a frame.

#[path = "../frames.rs"]
mod frames;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use buddyline::config::{PresenceScope, Trust};
use buddyline::hub::Hub;
use buddyline::hub::interface::{
    Answer, Ask, CallSettings, ConnId, DeliveryLimits, Effect, Failure, HeldFrameLimits, Input,
    LookupResult, Now, Proven, RequestId, Settings, Stored, StoredMessage, Target,
};
use buddyline::protocol::call::RelayedFrame;
use buddyline::protocol::client::parse;
use buddyline::protocol::credential::Credential;
use buddyline::protocol::ice::{IceServers, TurnServers};
use buddyline::protocol::{Id, IdKey, SITE_ID_MAX};
use frames::frames;
use serde_json::value::RawValue;

/// The number of lines of a case that are used.
const LINES_MAX: usize = 64;

/// More frames than one event can cause for three connections, including all held frames.
const FRAMES_PER_EVENT_MAX: usize = 2_000;

/// Frame types that the server relays from one client to another with the client's own fields.
const RELAYED_TYPES: [&str; 9] = [
    "call_initiated",
    "offer",
    "answer",
    "ice-candidate",
    "call_ringing",
    "call_rejected",
    "call_cancelled",
    "call_hangup",
    "call_busy",
];

/// Checks that nothing panics, that the hub's invariants hold after each event, that each frame is
/// complete, is JSON and follows `PROTOCOL.md` 2.2, that relayed frames have no token, and that the
/// hub is empty at the end.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for line in text.split('\n').take(LINES_MAX) {
        read(line.strip_prefix(['a', 'b', 'c']).unwrap_or(line));
    }
    for (trust, presence) in [
        (Trust::Open, PresenceScope::All),
        (Trust::Verified, PresenceScope::All),
        (Trust::Verified, PresenceScope::Threads),
    ] {
        let mut fuzz_run = FuzzRun::new(Settings { trust, presence, ..settings() });
        for line in text.split('\n').take(LINES_MAX) {
            fuzz_run.apply_line(line);
        }
        fuzz_run.end();
    }
}

/// Parses a text as a frame, as a relayed frame, and as a token.
fn read(text: &str) {
    let (_, frame) = parse(text);
    if let Err(fault) = &frame {
        assert!(!fault.text.is_empty() && fault.text.len() < 600, "{}", fault.text);
    }
    if let Ok(passed_on) = RelayedFrame::read(text, &IdKey::Number(2)) {
        let passed_on = passed_on.with_ids(Some(&Id::number(5)), Some(&Id::number(2)));
        let fields = object(&passed_on);
        assert!(!fields.contains_key("token") && !fields.contains_key("clientId"));
        if frame.is_ok() {
            assert_eq!(object(text)["type"].get(), fields["type"].get());
        }
    }
    for credential in [Some(Credential::parse(text)), Credential::from_authorization(text)] {
        match credential {
            Some(Ok(credential)) => {
                let secret = credential.secret();
                assert!(!secret.is_empty() && secret.bytes().all(|b| b.is_ascii_graphic()));
                assert!(!format!("{credential:?}").contains(secret) || secret.len() < 12);
            }
            Some(Err(fault)) => assert!(fault.text.len() < 200, "{}", fault.text),
            None => {}
        }
    }
}

fn settings() -> Settings {
    let turn = TurnServers::new(vec!["turn:a".into()], b"a secret of the tests", 60);
    Settings {
        trust: Trust::Open,
        presence: PresenceScope::All,
        read_receipts: true,
        user_recheck_every: Some(Duration::from_secs(60)),
        user_proof_lasts: Some(Duration::from_secs(1)),
        membership_lasts: Duration::from_secs(60),
        anonymous_lasts: Duration::from_secs(30),
        site_queries: 2,
        typing_lasts: Duration::from_secs(3),
        presence_grace: Duration::from_secs(5),
        joins_per_connection: 3,
        threads: 4,
        message_turn_lasts: Some(Duration::from_secs(40)),
        calls: CallSettings::default(),
        deliveries: DeliveryLimits { total: 6, per_connection: 4, bytes: 2_000 },
        held_frames: HeldFrameLimits {
            total: 12,
            bytes: 3_000,
            per_connection: 6,
            bytes_per_connection: 1_000,
        },
        ice: IceServers { stun_urls: vec!["stun:a".into()], turn: Some(turn) },
    }
}

/// The fields of a text, which must be a JSON object. Not a `Value`, which cannot represent the
/// number 1e999 or half of a surrogate pair, and one client may send those to another.
fn object(text: &str) -> BTreeMap<String, &RawValue> {
    serde_json::from_str(text).unwrap_or_else(|fault| panic!("{fault} in {text}"))
}

struct FuzzRun {
    hub: Hub,
    now: Now,
    conns: [Option<ConnId>; 3],
    serial: u32,
    pending: VecDeque<(RequestId, Ask)>,
    messages: u64,
}

impl FuzzRun {
    fn new(settings: Settings) -> FuzzRun {
        let now = Now { instant: Instant::now(), unix_s: 1_795_345_238 };
        let (conns, pending) = Default::default();
        FuzzRun { hub: Hub::new(settings), now, conns, serial: 0, pending, messages: 0 }
    }

    fn apply_line(&mut self, line: &str) {
        let mut rest = line.chars();
        let Some(first) = rest.next() else { return };
        let rest = rest.as_str();
        match first {
            'a'..='c' => {
                let conn = self.conns[first as usize - 'a' as usize];
                let conn = conn.unwrap_or_else(|| self.connect(first as usize - 'a' as usize, ""));
                // The hub may have closed it at once, for instance after an invalid token.
                if self.conns.contains(&Some(conn)) {
                    self.handle(Input::Frame { conn, text: rest });
                }
            }
            'A'..='C' => match self.conns[first as usize - 'A' as usize].take() {
                Some(conn) => self.handle(Input::Closed { conn }),
                None => {
                    self.connect(first as usize - 'A' as usize, rest);
                }
            },
            '+' => self.advance(rest.parse().unwrap_or(1).min(100_000)),
            '!' => self.answer(rest),
            _ => {}
        }
    }

    fn connect(&mut self, slot: usize, token: &str) -> ConnId {
        self.serial += 1;
        let conn = ConnId { slot: slot as u32, serial: self.serial };
        self.conns[slot] = Some(conn);
        let credential = (!token.is_empty()).then(|| Credential::parse(token));
        self.handle(Input::Opened { conn, credential });
        conn
    }

    fn advance(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.now.unix_s += seconds;
        let mut due = 0;
        while self.hub.advance(self.now) {
            self.drain();
            due += 1;
            assert!(due < FRAMES_PER_EVENT_MAX, "the hub always has a deadline that is due");
        }
    }

    fn answer(&mut self, how: &str) {
        let Some((request, ask)) = self.pending.pop_front() else { return };
        let mut letters = how.chars();
        let failed = letters.next().is_none_or(|letter| letter == 'f');
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let numbers: Vec<u64> = letters.as_str().split(',').filter_map(number).collect();
        let answer = if failed {
            failure(numbers.first().copied().unwrap_or_default())
        } else {
            self.success(&ask, &numbers)
        };
        self.handle(Input::Answered { request, answer });
    }

    /// A successful answer as the parser of site replies produces it: ids are within their limits,
    /// lists are sorted.
    fn success(&mut self, ask: &Ask, numbers: &[u64]) -> Answer {
        let id = |n: Option<&u64>| n.copied().unwrap_or(2).clamp(1, SITE_ID_MAX);
        let sorted = |numbers: &[u64]| -> Box<[u64]> {
            let mut people: Vec<u64> = numbers.iter().map(|n| id(Some(n))).collect();
            people.sort_unstable();
            people.dedup();
            people.into()
        };
        match ask {
            Ask::CallPermission { .. } => Answer::CallPermission(numbers.len() != 1),
            Ask::Prove(_) if numbers.len() == 3 => {
                Answer::Verified(Proven { user: id(numbers.first()), expires_s: None })
            }
            Ask::Prove(_) | Ask::Recheck(_) => {
                let expires_s = numbers.get(1).map(|n| (*n).min(SITE_ID_MAX));
                Answer::Proven(Proven { user: id(numbers.first()), expires_s })
            }
            Ask::Participants { .. } => Answer::Participants(sorted(numbers)),
            Ask::Lookup(lookup) => match numbers {
                [] => Answer::LookupResult(LookupResult::Absent),
                [other] => Answer::LookupResult(LookupResult::Mismatch {
                    thread: id(Some(other)),
                    sender: Id::number(7),
                    message: id(Some(other)),
                }),
                [sender, message, ..] => {
                    let thread = match lookup.target {
                        Target::Thread(thread) => thread,
                        Target::NewThread { .. } => id(Some(message)),
                    };
                    let message = StoredMessage {
                        id: id(Some(message)),
                        sent_at: "2026-11-22T11:00:38Z".to_owned(),
                        html: "<p>html</p>".to_owned(),
                    };
                    let stored = Stored {
                        thread,
                        sender: Id::number(id(Some(sender))),
                        message: Some(message),
                        participants: (numbers.len() > 2).then(|| sorted(numbers)),
                        expires_s: None,
                    };
                    let newest = id(numbers.last());
                    Answer::LookupResult(LookupResult::Match { stored, newest })
                }
            },
            Ask::Post(post) => {
                let thread = match post.target {
                    Target::Thread(thread) => thread,
                    Target::NewThread { .. } => id(numbers.get(1)),
                };
                self.messages += 1;
                let message = StoredMessage {
                    id: self.messages,
                    sent_at: "2026-11-22T11:00:38Z".to_owned(),
                    html: "<p>html</p>".to_owned(),
                };
                let sender = Id::number(id(numbers.first()));
                Answer::Stored(Stored {
                    thread,
                    sender,
                    message: numbers.first().map(|_| message),
                    participants: (numbers.len() > 2).then(|| sorted(numbers)),
                    expires_s: None,
                })
            }
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.hub.handle(input, self.now);
        self.drain();
    }

    fn drain(&mut self) {
        let mut frames = 0;
        while let Some(effect) = self.hub.next_effect() {
            match effect {
                Effect::Send { frame, .. } => {
                    frames += check(&frame);
                }
                Effect::FanOut { to, frame, .. } => {
                    frames += check(&frame) * self.hub.receivers(to).len();
                }
                Effect::Ask { request, ask } => self.pending.push_back((request, *ask)),
                Effect::Active(_) => {}
                Effect::Wake(_) | Effect::Missed(_) | Effect::SendCallStatus { .. } => {}
                // The server does the same: it reports the closed connection to the hub at once.
                Effect::Close { conn, .. } => {
                    if let Some(open) = self.conns.iter_mut().find(|open| **open == Some(conn)) {
                        *open = None;
                        self.hub.handle(Input::Closed { conn }, self.now);
                    }
                }
            }
        }
        assert!(frames <= FRAMES_PER_EVENT_MAX, "{frames} frames for one event");
        self.hub.check_invariants();
    }

    /// Closes all connections, answers all requests with failures and lets time pass.
    fn end(&mut self) {
        for letter in ['A', 'B', 'C'] {
            if self.conns[letter as usize - 'A' as usize].is_some() {
                self.apply_line(&letter.to_string());
            }
        }
        let mut answers = 0;
        // The hub looks up a message with an unknown outcome three times.
        for _ in 0..4 {
            while !self.pending.is_empty() {
                self.answer("f0");
                answers += 1;
                assert!(answers < FRAMES_PER_EVENT_MAX, "each failed request causes another");
            }
            self.advance(20);
        }
        self.advance(100_000);
        let counts = self.hub.counts();
        assert_eq!((counts.connections, counts.threads, counts.deliveries), (0, 0, 0));
        assert_eq!(
            self.hub.backlog(),
            [0; 3],
            "held frames, requests to the site, authentications"
        );
        assert_eq!(self.hub.next_deadline(), None, "no deadline is left");
    }
}

fn failure(which: u64) -> Answer {
    let all = [
        Failure::Unknown,
        Failure::Unusable,
        Failure::TokenMissing,
        Failure::TicketOnly,
        Failure::TokenRefused,
        Failure::TokenExpired,
        Failure::Suspended,
        Failure::NotParticipant,
        Failure::ThreadTooLarge,
        Failure::CannotWrite,
        Failure::RefusedBySite,
        Failure::TooLarge,
        Failure::SiteBusy { retry_after_s: Some(1) },
        Failure::SiteUnavailable { retry_after_s: Some(3600) },
        Failure::SiteMisconfigured,
        Failure::Overloaded,
        Failure::NotStored,
    ];
    Answer::Failed(all[(which % all.len() as u64) as usize])
}

/// Checks frames as a server sends them: final unmasked text frames, each an object with a known
/// type. Returns the number of frames.
fn check(bytes: &[u8]) -> usize {
    let frames = frames(bytes);
    frames.iter().for_each(|(_, text)| check_text(text));
    frames.len()
}

fn check_text(text: &str) {
    let fields = object(text);
    let kind: &str = serde_json::from_str(fields["type"].get()).expect("a type");
    if RELAYED_TYPES.contains(&kind) {
        assert!(!fields.contains_key("token") && !fields.contains_key("clientId"), "{text}");
        return;
    }
    let known = [
        "user_connected",
        "user_disconnected",
        "thread_joined",
        "thread_left",
        "message",
        "typing",
        "online_users",
        "pong",
        "ice_servers",
        "error",
        "call_ended",
        "call_resumed",
        "call_joined",
        "call_left",
        "inbox_joined",
        "inbox_left",
        "inbox",
        "thread_read",
        "content_deleted",
    ];
    assert!(known.contains(&kind), "{text}");
    // Only field names, the type and the reason are the server's own; values may hold any text.
    let reason = fields.get("reason").map(|reason| reason.get());
    let words = || fields.keys().map(String::as_str).chain([kind]).chain(reason);
    if !matches!(kind, "message" | "error") {
        assert!(!words().any(|word| word.contains("message")), "{text}");
    }
    if kind != "typing" {
        assert!(!words().any(|word| word.contains("typing")), "{text}");
    }
}

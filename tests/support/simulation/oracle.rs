//! Who should have heard what: everything that is said to anyone is held against what is true.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use buddyline::hub::interface::ConnId;
use serde_json::Value;

use crate::harness::json;
use crate::outcomes::Outcomes;
use crate::site::{SECRET, Site, short};

/// The longest time for which the process stands still.
pub const SUSPENDED_MAX: Duration = Duration::from_secs(20);

/// A connection as it must look by what it has been told.
#[derive(Default)]
pub struct ConnState {
    pub user: Option<u64>,
    /// How often it has become somebody.
    pub users: usize,
    pub identified: Option<Instant>,
    pub closed: Option<Instant>,
    /// The newest connection when it closed.
    pub closed_before: u32,
    pub tokens: BTreeSet<String>,
    pub joined: BTreeSet<u64>,
    /// The messages that it has been shown.
    got: BTreeSet<String>,
    /// The same, as a hearer.
    heard: BTreeSet<String>,
    /// The last message of each thread.
    last: BTreeMap<u64, u64>,
}

/// What is to be right once everything that follows from an input is done.
struct PendingFanout {
    text: String,
    thread: u64,
    subscribers: Vec<ConnId>,
}

pub struct Oracle {
    verified: bool,
    presence_off: bool,
    /// How old what the server knows of a thread may be.
    list_age_max: Duration,
    pub conns: BTreeMap<ConnId, ConnState>,
    pub outcomes: Outcomes,
    /// In which round each message was shown first.
    shown: BTreeMap<String, u64>,
    round: u64,
    pending_fanouts: Vec<PendingFanout>,
    arrived: BTreeSet<u64>,
    closed_in_round: bool,
    /// The server tells each message's end to its author alone.
    pub stops: bool,
    /// Messages shown to others than their authors.
    pub deliveries_to_others: usize,
}

impl Oracle {
    pub fn new(verified: bool, presence_off: bool, list_age_max: Duration) -> Oracle {
        Oracle {
            verified,
            presence_off,
            list_age_max,
            conns: BTreeMap::new(),
            outcomes: Outcomes::default(),
            shown: BTreeMap::new(),
            round: 0,
            pending_fanouts: Vec::new(),
            arrived: BTreeSet::new(),
            closed_in_round: false,
            stops: false,
            deliveries_to_others: 0,
        }
    }

    // ---- what comes in

    pub fn opened(&mut self, conn: ConnId, token: Option<&str>) {
        let tokens = token.map(str::to_owned).into_iter().collect();
        self.conns.insert(conn, ConnState { tokens, ..ConnState::default() });
    }

    pub fn closed(&mut self, conn: ConnId, now: Instant) {
        let newest = self.conns.keys().map(|conn| conn.serial).max().unwrap_or(0);
        let seen = self.conns.get_mut(&conn).expect("it was opened");
        (seen.closed, seen.closed_before) = (Some(now), newest);
        seen.joined.clear();
        self.closed_in_round = true;
    }

    pub fn said(&mut self, conn: ConnId, text: &str) {
        let Ok(frame) = serde_json::from_str::<Value>(text) else { return };
        let seen = self.conns.get_mut(&conn).expect("who is open speaks");
        seen.tokens.extend(frame["token"].as_str().map(str::to_owned));
        self.outcomes.said(conn, seen.user, &frame);
    }

    /// Everyone is gone, and nobody waits for anything any more.
    pub fn forget_server(&mut self, now: Instant) {
        let open: Vec<ConnId> = self.open().map(|(conn, _)| *conn).collect();
        open.into_iter().for_each(|conn| self.closed(conn, now));
        self.outcomes.forget_server();
        self.conns.clear();
        self.shown.clear();
        self.stops = false;
    }

    pub fn open(&self) -> impl Iterator<Item = (&ConnId, &ConnState)> {
        self.conns.iter().filter(|(_, seen)| seen.closed.is_none())
    }

    /// Whether a frame has been heard, and only from this user.
    pub fn is_sent_only_by(&self, frame: &Value, user: u64) -> bool {
        frame["clientId"].as_str().is_some_and(|name| self.outcomes.is_sent_only_by(name, user))
    }

    pub fn is_online(&self, user: u64) -> bool {
        self.open().any(|(_, seen)| seen.user == Some(user))
    }

    // ---- what goes out

    /// The hub says this to a connection.
    pub fn on_frame(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        hint: bool,
        site: &Site,
        now: Instant,
    ) -> String {
        let frame = json(bytes);
        let kind = frame["type"].as_str().expect("a frame has a type").to_owned();
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains(SECRET), "a token is told: {text}");
        check_reserved_words(&kind, &text, &frame);
        let seen = self.conns.get_mut(&conn).expect("it was opened");
        let user = number(&frame["userId"]);
        match &*kind {
            "user_connected" if !hint => {
                let user = user.expect("a user has a number");
                let proves = |token: &String| site.proven.contains(&(token.clone(), user));
                let proven = !self.verified || seen.tokens.iter().any(proves);
                assert!(proven, "{conn:?} is nobody's, and becomes {user}");
                if seen.user != Some(user) {
                    seen.users += 1;
                    (seen.user, seen.identified) = (Some(user), Some(now));
                }
            }
            "user_connected" => self.arrived.extend(user),
            "user_disconnected" => {
                let user = user.expect("a user has a number");
                assert!(!self.is_online(user), "{user} is there");
            }
            _ => {}
        }
        self.check_hint(conn, &frame, hint);
        let own = self.outcomes.on_frame(conn, self.conns[&conn].user, &frame, &self.conns, site);
        let seen = self.conns.get_mut(&conn).expect("it was opened");
        if seen.closed.is_some() {
            // It was closed before this left.
            return format!("{} does not hear {}", conn.serial, shown(&kind, &frame));
        }
        let thread = number(&frame["threadId"]);
        match (&*kind, thread) {
            ("thread_joined", Some(thread)) => {
                seen.joined.insert(thread);
            }
            ("thread_left", Some(thread)) => {
                seen.joined.remove(&thread);
            }
            ("message", Some(thread)) => self.message(conn, thread, &frame, site),
            ("online_users", thread) => self.check_online(thread, &frame),
            ("ice_servers", _) => {
                let name = frame["iceServers"][0]["username"].as_str().expect("a credential");
                let whose = name.split_once(':').and_then(|(_, whose)| whose.parse().ok());
                assert!(whose.is_some() && whose == seen.user, "another user's: {frame}");
            }
            _ => {}
        }
        if self.verified {
            self.check_participation(conn, &kind, &frame, own, site, now);
        }
        format!("{} hears {}", conn.serial, shown(&kind, &frame))
    }

    fn check_hint(&self, conn: ConnId, frame: &Value, hint: bool) {
        let own = self.conns[&conn].user;
        let droppable = match frame["type"].as_str().unwrap_or_default() {
            "user_disconnected" => true,
            "user_connected" => number(&frame["userId"]) != own,
            "typing" => frame["typing"] == true && (own.is_some() && hint),
            _ => false,
        };
        let others_typing = frame["type"] == "typing"
            && frame["typing"] == true
            && number(&frame["userId"]).is_some_and(|user| own.is_some_and(|own| own != user));
        let must_be = others_typing || (droppable && frame["type"] != "typing");
        assert!(hint || !must_be, "is not dropped for who is slow: {frame}");
        let never = [
            "message",
            "error",
            "thread_joined",
            "thread_left",
            "online_users",
            "pong",
            "ice_servers",
        ];
        assert!(!hint || !never.contains(&frame["type"].as_str().unwrap_or_default()), "{frame}");
        assert!(!hint || frame["typing"] != false, "that someone has stopped is dropped: {frame}");
    }

    /// A message is what the site has stored, in its order, once, and everyone's.
    fn message(&mut self, conn: ConnId, thread: u64, frame: &Value, site: &Site) {
        let text = frame["message"].as_str().expect("a message has a text");
        let told = *site.told.get(text).unwrap_or_else(|| panic!("not stored: {frame}"));
        let sender = number(&frame["senderId"]).expect("a sender");
        assert_eq!((thread, sender), (told.thread, told.sender), "not so stored: {frame}");
        let kept = site.store.iter().find(|kept| kept.text == text).expect("it is stored");
        assert_eq!((kept.thread, kept.sender), (thread, sender), "stored elsewhere: {frame}");
        if let Some(id) = frame["messageId"].as_u64() {
            assert_eq!(id, kept.id, "another message's number: {frame}");
        }
        let send = self.outcomes.send(text).expect("somebody said it");
        let named = frame["clientId"].is_string();
        // Said again, it may have been stored for another connection.
        let again = send.name.as_ref().is_some_and(|name| self.outcomes.is_resent(name));
        let is_owed = send.name.is_some() && send.conn == conn && !again;
        assert!(named || !is_owed, "without its name: {frame}");
        let author = self.conns.get(&send.conn);
        let author_gone = author.is_none_or(|seen| seen.closed.is_some());
        // It may have been said before it was known by whom.
        let by = send.user.or(author.and_then(|seen| seen.user));
        let seen = self.conns.get_mut(&conn).expect("it was opened");
        let heir = author_gone && by.is_some() && seen.user == by;
        let inherited = send.conn != conn && (named || heir);
        let again = named && self.outcomes.is_repeat(frame);
        seen.got.insert(text.to_owned());
        if !named {
            // Who has heard it may come to be its author's heir.
            let twice = !seen.heard.insert(text.to_owned());
            assert!(!twice || (heir && send.conn != conn), "shown twice: {frame}");
            self.deliveries_to_others += usize::from(send.conn != conn);
        }
        if inherited || again {
            return;
        }
        if !send.to_new {
            let last = seen.last.insert(thread, kept.id).unwrap_or(0);
            assert!(last < kept.id, "{} comes after {last} of its thread: {frame}", kept.id);
        }
        match self.shown.get(text) {
            Some(round) => assert_eq!(*round, self.round, "shown to some earlier: {frame}"),
            None => {
                self.shown.insert(text.to_owned(), self.round);
                let hears = |(_, seen): &(&ConnId, &ConnState)| seen.joined.contains(&thread);
                let subscribers = self.open().filter(hears).map(|(conn, _)| *conn).collect();
                self.pending_fanouts.push(PendingFanout {
                    text: text.to_owned(),
                    thread,
                    subscribers,
                });
            }
        }
    }

    fn check_online(&self, thread: Option<u64>, frame: &Value) {
        let told: Vec<u64> =
            frame["userIds"].as_array().expect("a list").iter().filter_map(number).collect();
        let all: BTreeSet<u64> = told.iter().copied().collect();
        assert_eq!(told.len(), all.len(), "somebody twice: {frame}");
        if let (Some(thread), false, false) = (thread, self.closed_in_round, self.presence_off) {
            let here = self.open().filter(|(_, seen)| seen.joined.contains(&thread));
            let here: BTreeSet<u64> = here.filter_map(|(_, seen)| seen.user).collect();
            assert_eq!(all, here, "who hears thread {thread}: {frame}");
        }
    }

    /// In verified trust nobody hears of a thread in which they take no part, and who is nobody
    /// hears of nothing.
    fn check_participation(
        &self,
        conn: ConnId,
        kind: &str,
        frame: &Value,
        own: bool,
        site: &Site,
        now: Instant,
    ) {
        let user = self.conns[&conn].user;
        if user.is_none() {
            assert!(matches!(kind, "error" | "pong"), "{conn:?} is nobody, and hears {frame}");
        }
        // That one's own part is over is told to who is out.
        let of_a_thread = !matches!(kind, "error" | "thread_left" | "call_ended");
        if let (Some(thread), Some(user), true, false) =
            (number(&frame["threadId"]), user, of_a_thread, own && kind == "message")
        {
            // That someone has stopped is told when the process wakes up, if it stood still.
            let late = if frame["typing"] == false { SUSPENDED_MAX } else { Duration::ZERO };
            let since = now.checked_sub(self.list_age_max + late).unwrap_or(now);
            let takes_part = site.took_part(thread, user, since);
            assert!(takes_part, "{user} takes no part in {thread}, and hears {frame}");
        }
    }

    /// All that follows from an input has been said.
    pub fn end_round(&mut self, site: &Site, now: Instant) {
        for PendingFanout { text, thread, subscribers } in std::mem::take(&mut self.pending_fanouts)
        {
            if self.stops || (self.verified && site.may_lack_list(thread, now)) {
                continue;
            }
            for conn in subscribers {
                let seen = &self.conns[&conn];
                let lost = seen.closed.is_none() && !seen.got.contains(&text);
                assert!(!lost, "{} hears thread {thread}, but not {}", conn.serial, short(&text));
            }
        }
        for user in std::mem::take(&mut self.arrived) {
            let was_here = |seen: &ConnState| {
                seen.user == Some(user) && seen.closed.is_none_or(|closed| closed == now)
            };
            assert!(self.conns.values().any(was_here), "{user} has come, and is not there");
        }
        self.round += 1;
        self.closed_in_round = false;
    }
}

/// PROTOCOL 2.2: the sample clients look for letters.
fn check_reserved_words(kind: &str, text: &str, frame: &Value) {
    let names = frame["replyTo"].as_str().unwrap_or_default();
    let letters = |word: &str| text.contains(word);
    assert!(matches!(kind, "message" | "error") || !letters("message"), "letters: {text}");
    assert!(
        kind == "typing" || names == "typing" || kind == "error" || !letters("typing"),
        "{text}"
    );
}

/// An id's number, in whichever form it is written.
pub fn number(id: &Value) -> Option<u64> {
    id.as_u64().or_else(|| id.as_str()?.parse().ok())
}

fn shown(kind: &str, frame: &Value) -> String {
    let mut shown = kind.to_owned();
    for field in ["code", "threadId", "userId", "typing", "clientId", "replyTo"] {
        if !frame[field].is_null() {
            shown += &format!(" {field}={}", frame[field]);
        }
    }
    if kind == "message" {
        shown += &format!(" {}", short(frame["message"].as_str().unwrap_or_default()));
    }
    shown
}

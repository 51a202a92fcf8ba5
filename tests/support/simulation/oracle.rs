//! The oracle of the simulation: compares every frame that the hub sends with what the connection
//! should receive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use buddyline::hub::interface::ConnId;
use serde_json::Value;

use crate::harness::json;
use crate::outcomes::Outcomes;
use crate::site::{SECRET, Site, short};

/// The longest time for which the process is suspended.
pub const SUSPENDED_MAX: Duration = Duration::from_secs(20);

/// The state of a connection, derived from the frames that it has received.
#[derive(Default)]
pub struct ConnState {
    pub user: Option<u64>,
    /// How often it was identified as another user.
    pub users: usize,
    pub identified: Option<Instant>,
    pub closed: Option<Instant>,
    /// The newest connection's serial when it closed.
    pub newest_at_close: u32,
    pub tokens: BTreeSet<String>,
    pub joined: BTreeSet<u64>,
    /// The texts of all messages that it has received.
    received: BTreeSet<String>,
    /// The texts of the messages that it has received without a clientId, as a subscriber.
    received_as_subscriber: BTreeSet<String>,
    /// The id of the last message of each thread.
    last_message: BTreeMap<u64, u64>,
}

/// A message that these connections must have received once the effects of an input are done.
struct PendingFanout {
    text: String,
    thread: u64,
    subscribers: Vec<ConnId>,
}

pub struct Oracle {
    verified: bool,
    presence_off: bool,
    /// How old a list may be that the server uses.
    list_age_max: Duration,
    pub conns: BTreeMap<ConnId, ConnState>,
    pub outcomes: Outcomes,
    /// The round in which each message was first sent to a client, by text.
    first_round: BTreeMap<String, u64>,
    round: u64,
    pending_fanouts: Vec<PendingFanout>,
    announced: BTreeSet<u64>,
    closed_in_round: bool,
    /// Whether the server is stopping: it then sends outcomes to the authors alone.
    pub is_stopping: bool,
    /// Messages sent to connections other than their author's.
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
            first_round: BTreeMap::new(),
            round: 0,
            pending_fanouts: Vec::new(),
            announced: BTreeSet::new(),
            closed_in_round: false,
            is_stopping: false,
            deliveries_to_others: 0,
        }
    }

    // ---- input of the hub

    pub fn record_open(&mut self, conn: ConnId, token: Option<&str>) {
        let tokens = token.map(str::to_owned).into_iter().collect();
        self.conns.insert(conn, ConnState { tokens, ..ConnState::default() });
    }

    pub fn record_close(&mut self, conn: ConnId, now: Instant) {
        let newest = self.conns.keys().map(|conn| conn.serial).max().unwrap_or(0);
        let state = self.conns.get_mut(&conn).expect("it was opened");
        (state.closed, state.newest_at_close) = (Some(now), newest);
        state.joined.clear();
        self.closed_in_round = true;
    }

    pub fn record_sent(&mut self, conn: ConnId, text: &str) {
        let Ok(frame) = serde_json::from_str::<Value>(text) else { return };
        let state = self.conns.get_mut(&conn).expect("an open connection sends");
        state.tokens.extend(frame["token"].as_str().map(str::to_owned));
        self.outcomes.record_sent(conn, state.user, &frame);
    }

    /// Forgets a stopped server: all connections are closed, and no outcome is pending.
    pub fn forget_server(&mut self, now: Instant) {
        let open: Vec<ConnId> = self.open().map(|(conn, _)| *conn).collect();
        open.into_iter().for_each(|conn| self.record_close(conn, now));
        self.outcomes.forget_server();
        self.conns.clear();
        self.first_round.clear();
        self.is_stopping = false;
    }

    pub fn open(&self) -> impl Iterator<Item = (&ConnId, &ConnState)> {
        self.conns.iter().filter(|(_, state)| state.closed.is_none())
    }

    /// Whether this frame was sent, and only by this user.
    pub fn is_sent_only_by(&self, frame: &Value, user: u64) -> bool {
        frame["clientId"].as_str().is_some_and(|id| self.outcomes.is_sent_only_by(id, user))
    }

    pub fn is_online(&self, user: u64) -> bool {
        self.open().any(|(_, state)| state.user == Some(user))
    }

    // ---- output of the hub

    /// Checks a frame that the hub sends to a connection. Returns a line for the trace.
    pub fn on_frame(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        droppable: bool,
        site: &Site,
        now: Instant,
    ) -> String {
        let frame = json(bytes);
        let kind = frame["type"].as_str().expect("a frame has a type").to_owned();
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains(SECRET), "a token in {text}");
        check_reserved_words(&kind, &text, &frame);
        let state = self.conns.get_mut(&conn).expect("it was opened");
        let user = number(&frame["userId"]);
        match &*kind {
            "user_connected" if !droppable => {
                let user = user.expect("a user has a number");
                let proves = |token: &String| site.proven.contains(&(token.clone(), user));
                let proven = !self.verified || state.tokens.iter().any(proves);
                assert!(proven, "{conn:?} has no proof, and becomes user {user}");
                if state.user != Some(user) {
                    state.users += 1;
                    (state.user, state.identified) = (Some(user), Some(now));
                }
            }
            "user_connected" => self.announced.extend(user),
            "user_disconnected" => {
                let user = user.expect("a user has a number");
                assert!(!self.is_online(user), "user {user} is online");
            }
            _ => {}
        }
        self.check_droppable(conn, &frame, droppable);
        let own = self.outcomes.on_frame(conn, self.conns[&conn].user, &frame, &self.conns, site);
        let state = self.conns.get_mut(&conn).expect("it was opened");
        if state.closed.is_some() {
            // The connection was closed before this frame was written.
            return format!("{} is closed and misses {}", conn.serial, summary(&kind, &frame));
        }
        let thread = number(&frame["threadId"]);
        match (&*kind, thread) {
            ("thread_joined", Some(thread)) => {
                state.joined.insert(thread);
            }
            ("thread_left", Some(thread)) => {
                state.joined.remove(&thread);
            }
            ("message", Some(thread)) => self.check_message(conn, thread, &frame, site),
            ("online_users", thread) => self.check_online(thread, &frame),
            ("ice_servers", _) => {
                let username = frame["iceServers"][0]["username"].as_str().expect("a credential");
                let user = username.split_once(':').and_then(|(_, user)| user.parse().ok());
                assert!(user.is_some() && user == state.user, "another user's: {frame}");
            }
            _ => {}
        }
        if self.verified {
            self.check_participation(conn, &kind, &frame, own, site, now);
        }
        format!("{} receives {}", conn.serial, summary(&kind, &frame))
    }

    /// Checks that exactly the frames that a slow reader may miss are droppable.
    fn check_droppable(&self, conn: ConnId, frame: &Value, droppable: bool) {
        let own = self.conns[&conn].user;
        let may_be = match frame["type"].as_str().unwrap_or_default() {
            "user_disconnected" => true,
            "user_connected" => number(&frame["userId"]) != own,
            "typing" => frame["typing"] == true && (own.is_some() && droppable),
            _ => false,
        };
        let others_typing = frame["type"] == "typing"
            && frame["typing"] == true
            && number(&frame["userId"]).is_some_and(|user| own.is_some_and(|own| own != user));
        let must_be = others_typing || (may_be && frame["type"] != "typing");
        assert!(droppable || !must_be, "not droppable for slow readers: {frame}");
        let never = [
            "message",
            "error",
            "thread_joined",
            "thread_left",
            "online_users",
            "pong",
            "ice_servers",
        ];
        assert!(
            !droppable || !never.contains(&frame["type"].as_str().unwrap_or_default()),
            "{frame}"
        );
        assert!(!droppable || frame["typing"] != false, "the end of typing is droppable: {frame}");
    }

    /// Checks a message: stored by the site like this, in the order of its thread, received once, and
    /// by all subscribers in the same round.
    fn check_message(&mut self, conn: ConnId, thread: u64, frame: &Value, site: &Site) {
        let text = frame["message"].as_str().expect("a message has a text");
        let reported = *site.reported.get(text).unwrap_or_else(|| panic!("not stored: {frame}"));
        let sender = number(&frame["senderId"]).expect("a sender");
        assert_eq!(
            (thread, sender),
            (reported.thread, reported.sender),
            "not reported so: {frame}"
        );
        let stored = site.store.iter().find(|stored| stored.text == text).expect("it is stored");
        assert_eq!((stored.thread, stored.sender), (thread, sender), "stored elsewhere: {frame}");
        if let Some(id) = frame["messageId"].as_u64() {
            assert_eq!(id, stored.id, "another message's id: {frame}");
        }
        let sent = self.outcomes.message(text).expect("a client sent it");
        let has_client_id = frame["clientId"].is_string();
        // A resent message may have been stored for another connection.
        let is_resent = sent.client_id.as_ref().is_some_and(|id| self.outcomes.is_resent(id));
        let needs_client_id = sent.client_id.is_some() && sent.conn == conn && !is_resent;
        assert!(has_client_id || !needs_client_id, "without its clientId: {frame}");
        let author = self.conns.get(&sent.conn);
        let is_author_closed = author.is_none_or(|state| state.closed.is_some());
        // It may have been sent before its connection was identified.
        let author_user = sent.user.or(author.and_then(|state| state.user));
        let state = self.conns.get_mut(&conn).expect("it was opened");
        let is_same_user = is_author_closed && author_user.is_some() && state.user == author_user;
        let is_later_outcome = sent.conn != conn && (has_client_id || is_same_user);
        let is_repeat = has_client_id && self.outcomes.is_repeat(frame);
        state.received.insert(text.to_owned());
        if !has_client_id {
            // A subscriber may receive it again, as the outcome of its user's closed connection.
            let twice = !state.received_as_subscriber.insert(text.to_owned());
            let is_outcome = is_same_user && sent.conn != conn;
            assert!(!twice || is_outcome, "sent twice: {frame}");
            self.deliveries_to_others += usize::from(sent.conn != conn);
        }
        if is_later_outcome || is_repeat {
            return;
        }
        if !sent.to_new_thread {
            let last = state.last_message.insert(thread, stored.id).unwrap_or(0);
            assert!(last < stored.id, "{} after {last} of the same thread: {frame}", stored.id);
        }
        match self.first_round.get(text) {
            Some(round) => {
                assert_eq!(*round, self.round, "sent to some in an earlier round: {frame}")
            }
            None => {
                self.first_round.insert(text.to_owned(), self.round);
                let has_joined =
                    |(_, state): &(&ConnId, &ConnState)| state.joined.contains(&thread);
                let subscribers = self.open().filter(has_joined).map(|(conn, _)| *conn).collect();
                self.pending_fanouts.push(PendingFanout {
                    text: text.to_owned(),
                    thread,
                    subscribers,
                });
            }
        }
    }

    fn check_online(&self, thread: Option<u64>, frame: &Value) {
        let ids: Vec<u64> =
            frame["userIds"].as_array().expect("a list").iter().filter_map(number).collect();
        let all: BTreeSet<u64> = ids.iter().copied().collect();
        assert_eq!(ids.len(), all.len(), "a user twice: {frame}");
        if let (Some(thread), false, false) = (thread, self.closed_in_round, self.presence_off) {
            let joined = self.open().filter(|(_, state)| state.joined.contains(&thread));
            let expected: BTreeSet<u64> = joined.filter_map(|(_, state)| state.user).collect();
            assert_eq!(all, expected, "online users of thread {thread}: {frame}");
        }
    }

    /// Checks verified trust: users receive frames of their own threads only, and anonymous connections
    /// receive nothing but errors and pongs.
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
            assert!(
                matches!(kind, "error" | "pong"),
                "{conn:?} is anonymous, and receives {frame}"
            );
        }
        // A removed user is told of the removal and of the end of calls.
        let of_a_thread = !matches!(kind, "error" | "thread_left" | "call_ended");
        if let (Some(thread), Some(user), true, false) =
            (number(&frame["threadId"]), user, of_a_thread, own && kind == "message")
        {
            // After a suspension the end of typing is sent late.
            let late = if frame["typing"] == false { SUSPENDED_MAX } else { Duration::ZERO };
            let since = now.checked_sub(self.list_age_max + late).unwrap_or(now);
            let takes_part = site.took_part(thread, user, since);
            assert!(takes_part, "user {user} is not in thread {thread}, and receives {frame}");
        }
    }

    /// Checks what must hold once all effects of an input are carried out.
    pub fn end_round(&mut self, site: &Site, now: Instant) {
        for PendingFanout { text, thread, subscribers } in std::mem::take(&mut self.pending_fanouts)
        {
            if self.is_stopping || (self.verified && site.may_lack_list(thread, now)) {
                continue;
            }
            for conn in subscribers {
                let state = &self.conns[&conn];
                let misses = state.closed.is_none() && !state.received.contains(&text);
                let text = short(&text);
                assert!(!misses, "{} in thread {thread} misses {text}", conn.serial);
            }
        }
        for user in std::mem::take(&mut self.announced) {
            let was_online = |state: &ConnState| {
                state.user == Some(user) && state.closed.is_none_or(|closed| closed == now)
            };
            assert!(
                self.conns.values().any(was_online),
                "user {user} was announced, and is not online"
            );
        }
        self.round += 1;
        self.closed_in_round = false;
    }
}

/// PROTOCOL 2.2: the sample clients search the text of a frame for these words.
fn check_reserved_words(kind: &str, text: &str, frame: &Value) {
    let reply_to = frame["replyTo"].as_str().unwrap_or_default();
    let contains = |word: &str| text.contains(word);
    assert!(matches!(kind, "message" | "error") || !contains("message"), "{text}");
    assert!(
        kind == "typing" || reply_to == "typing" || kind == "error" || !contains("typing"),
        "{text}"
    );
}

/// The number of an id, which may be a JSON number or string.
pub fn number(id: &Value) -> Option<u64> {
    id.as_u64().or_else(|| id.as_str()?.parse().ok())
}

/// A frame for the trace.
fn summary(kind: &str, frame: &Value) -> String {
    let mut summary = kind.to_owned();
    for field in ["code", "threadId", "userId", "typing", "clientId", "replyTo"] {
        if !frame[field].is_null() {
            summary += &format!(" {field}={}", frame[field]);
        }
    }
    if kind == "message" {
        summary += &format!(" {}", short(frame["message"].as_str().unwrap_or_default()));
    }
    summary
}

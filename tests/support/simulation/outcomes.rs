//! The frames that clients have sent, and their outcomes: each frame with a clientId has one outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use buddyline::hub::interface::{ConnId, Target};
use serde_json::Value;

use crate::oracle::ConnState;
use crate::site::{Site, short};

/// How long after a connection's end its user's next connection certainly gets the outcomes.
const UNDELIVERED_KEPT: Duration = Duration::from_secs(400);

/// A message that a client has sent.
#[derive(Clone)]
pub struct SentMessage {
    pub conn: ConnId,
    pub user: Option<u64>,
    pub client_id: Option<String>,
    pub to_new_thread: bool,
    /// Its position among all messages of the run.
    order: usize,
}

/// The frames with one clientId.
struct SentFrame {
    kind: String,
    text: Option<String>,
    /// The connections that sent it, with the user of each at that time.
    senders: Vec<(ConnId, Option<u64>)>,
    outcomes: Vec<(ConnId, Value)>,
}

#[derive(Default)]
pub struct Outcomes {
    by_client_id: BTreeMap<String, SentFrame>,
    /// Messages by text.
    messages: BTreeMap<String, SentMessage>,
    /// For messages without a clientId: how many each connection has sent, and how many outcomes it
    /// has received.
    without_client_id: BTreeMap<ConnId, (usize, usize)>,
    /// The order of the last message posted for each connection and target.
    last_posted: BTreeMap<(ConnId, Target), usize>,
    /// Messages reported to their sender as not stored.
    reported_not_stored: BTreeSet<String>,
    /// How many outcomes there were of each frame type or error code.
    pub counts: BTreeMap<String, usize>,
}

impl Outcomes {
    /// Records a frame that a client has sent.
    pub fn record_sent(&mut self, conn: ConnId, user: Option<u64>, frame: &Value) {
        let Some(kind) = frame["type"].as_str() else { return };
        let client_id = frame["clientId"].as_str().map(str::to_owned);
        let is_send = kind == "send_message";
        let text = frame["message"].as_str().filter(|_| is_send).map(str::to_owned);
        match &client_id {
            Some(client_id) => {
                let (kind, text) = (kind.to_owned(), text.clone());
                let new = SentFrame { kind, text, senders: Vec::new(), outcomes: Vec::new() };
                let sent = self.by_client_id.entry(client_id.clone()).or_insert(new);
                sent.senders.push((conn, user));
            }
            None if is_send => self.without_client_id.entry(conn).or_default().0 += 1,
            None => {}
        }
        if let Some(text) = text {
            let to_new_thread = frame["threadId"].is_null();
            let order = self.messages.len();
            let message = SentMessage { conn, user, client_id, to_new_thread, order };
            self.messages.entry(text).or_insert(message);
        }
    }

    /// The message with this text.
    pub fn message(&self, text: &str) -> Option<SentMessage> {
        self.messages.get(text).cloned()
    }

    /// Records a post, and asserts that each connection's messages to one target are posted in order.
    pub fn record_post(&mut self, text: &str, target: Target) {
        let message = &self.messages[text];
        if message.client_id.as_ref().is_some_and(|id| self.is_resent(id)) {
            return;
        }
        let (lane, order) = ((message.conn, target), message.order);
        let before = self.last_posted.insert(lane, order);
        assert!(before.is_none_or(|before| before < order), "posted too late: {}", short(text));
    }

    /// Whether a frame with this clientId was sent more than once.
    pub fn is_resent(&self, client_id: &str) -> bool {
        self.by_client_id.get(client_id).is_some_and(|sent| sent.senders.len() > 1)
    }

    /// Whether a frame with this clientId was sent, and only by this user.
    pub fn is_sent_only_by(&self, client_id: &str, user: u64) -> bool {
        let sent = self.by_client_id.get(client_id);
        sent.is_some_and(|sent| sent.senders.iter().all(|(_, sender)| *sender == Some(user)))
    }

    /// Records a frame that a connection receives. Returns whether it is the outcome of one of its
    /// user's own frames.
    pub fn on_frame(
        &mut self,
        conn: ConnId,
        user: Option<u64>,
        frame: &Value,
        conns: &BTreeMap<ConnId, ConnState>,
        site: &Site,
    ) -> bool {
        let is_error = frame["type"] == "error";
        if let Some(client_id) = frame["clientId"].as_str() {
            let Some(sent) = self.by_client_id.get_mut(client_id) else {
                panic!("{conn:?} receives {client_id}, which no client has sent: {frame}");
            };
            let own = sent.senders.iter().any(|(sender, sender_user)| {
                // The frame may have been sent before its connection was identified.
                let later_user = conns[sender].user;
                *sender == conn
                    || (sender_user.is_some() && *sender_user == user)
                    || (later_user.is_some() && later_user == user)
            });
            assert!(own, "{conn:?} receives {client_id}, which is another user's: {frame}");
            // A claim without a proof is answered at once, and again when it is proven.
            let is_claim = sent.kind == "user_connected";
            sent.outcomes.retain(|(_, other)| !is_claim || other["code"] != "token_required");
            let kind = |frame: &Value| (frame["type"].to_string(), frame["code"].to_string());
            for (_, other) in &sent.outcomes {
                // A message that was certainly not stored may be sent again.
                let fails =
                    |frame: &Value| frame["type"] == "error" && frame["code"] != "unknown_outcome";
                let is_retry = sent.senders.len() > 1 && (fails(other) || fails(frame));
                let same = kind(other) == kind(frame);
                assert!(same || is_retry, "two outcomes of {client_id}: {other} and {frame}");
            }
            sent.outcomes.push((conn, frame.clone()));
            let (times, outcomes) = (sent.senders.len(), sent.outcomes.len());
            assert!(
                outcomes <= times,
                "{client_id} was sent {times} times, and has {outcomes} outcomes: {frame}"
            );
            self.count(frame);
            if let (true, Some(text)) = (is_error, self.by_client_id[client_id].text.clone()) {
                // A message that was sent twice may be stored, and refused the second time.
                if frame["code"] != "unknown_outcome" && times == 1 {
                    let stored = site.store.iter().any(|kept| kept.text == text);
                    assert!(!stored, "the message is stored: {frame}");
                    self.reported_not_stored.insert(text);
                }
            }
            return true;
        }
        let own = match frame["type"].as_str() {
            Some("error") if frame["replyTo"] == "send_message" => true,
            Some("message") => {
                let message = frame["message"].as_str().and_then(|text| self.messages.get(text));
                message.is_some_and(|message| {
                    // It may have been sent before its connection was identified.
                    let later_user = conns.get(&message.conn).and_then(|state| state.user);
                    let author = message.user.or(later_user);
                    let same = message.conn == conn || (user.is_some() && author == user);
                    message.client_id.is_none() && same
                })
            }
            _ => false,
        };
        let counts = is_error
            || self
                .messages
                .get(frame["message"].as_str().unwrap_or_default())
                .is_some_and(|message| message.conn == conn && message.client_id.is_none());
        if own && counts {
            self.without_client_id.entry(conn).or_default().1 += 1;
            self.count(frame);
        }
        own
    }

    fn count(&mut self, frame: &Value) {
        let code = frame["code"].as_str().or(frame["type"].as_str()).unwrap_or_default();
        *self.counts.entry(code.to_owned()).or_default() += 1;
    }

    /// Whether this outcome was sent before.
    pub fn is_repeat(&self, frame: &Value) -> bool {
        let client_id = frame["clientId"].as_str().unwrap_or_default();
        self.by_client_id.get(client_id).is_some_and(|sent| sent.outcomes.len() > 1)
    }

    pub fn forget_server(&mut self) {
        // A message that was sent again may be stored after all.
        let by_client_id = std::mem::take(&mut self.by_client_id);
        for sent in by_client_id.into_values().filter(|sent| sent.senders.len() > 1) {
            sent.text.map(|text| self.reported_not_stored.remove(&text));
        }
        self.without_client_id.clear();
    }

    /// Checks that each message that this connection has sent has its outcome.
    pub fn check_outcomes_sent(&self, conn: ConnId) -> Result<(), String> {
        for (client_id, sent) in &self.by_client_id {
            let times = sent.senders.iter().filter(|(sender, _)| *sender == conn).count();
            let outcomes = sent.outcomes.iter().filter(|(to, _)| *to == conn).count();
            if sent.text.is_some() && times > outcomes {
                return Err(format!("{client_id} of {} has no outcome", conn.serial));
            }
        }
        Ok(())
    }

    /// Checks a run in which nothing is pending: each frame sent on an open connection has its outcome,
    /// and each posted message's outcome has reached its author if they have a later connection.
    pub fn check(&self, conns: &BTreeMap<ConnId, ConnState>, site: &Site) {
        for (client_id, sent) in &self.by_client_id {
            for (conn, _) in &sent.senders {
                let times = sent.senders.iter().filter(|(sender, _)| sender == conn).count();
                let outcomes = sent.outcomes.iter().filter(|(to, _)| to == conn).count();
                let is_call =
                    ["call_initiated", "offer", "answer", "ice-candidate"].contains(&&*sent.kind);
                let must = conns[conn].closed.is_none() && !is_call;
                assert!(!must || outcomes >= times, "{client_id} ({}) has no outcome", sent.kind);
                let posted = sent.text.as_ref().is_some_and(|text| site.posted.contains(text));
                // A frame sent before its connection was identified has no later connection to go to.
                let identified = sent.senders.len() == 1 && sent.senders[0].1.is_some();
                let must = identified && posted && has_later_connection(*conn, conns);
                assert!(!must || !sent.outcomes.is_empty(), "{client_id} has no outcome");
            }
        }
        for (conn, (sent, outcomes)) in &self.without_client_id {
            let state = &conns[conn];
            // Such a connection may also have received outcomes of its user's closed connections.
            let has_earlier = conns.iter().any(|(other, other_state)| {
                other != conn && other_state.closed.is_some() && other_state.user == state.user
            });
            if state.closed.is_none() && state.users <= 1 && !has_earlier {
                assert_eq!(sent, outcomes, "outcomes without a clientId on {}", conn.serial);
            }
        }
        for text in &self.reported_not_stored {
            let client_id = self.messages[text].client_id.as_ref();
            if client_id.is_some_and(|client_id| self.is_resent(client_id)) {
                continue;
            }
            let stored = site.store.iter().any(|kept| kept.text == *text);
            assert!(!stored, "{text} is stored, but was reported as not stored");
        }
    }
}

/// Whether the user of this closed connection has a later one that must have got its outcomes.
fn has_later_connection(conn: ConnId, conns: &BTreeMap<ConnId, ConnState>) -> bool {
    let earlier = &conns[&conn];
    let Some(closed) = earlier.closed.filter(|_| earlier.users == 1) else { return false };
    conns.iter().any(|(other, later)| {
        let after = other.serial > earlier.newest_at_close && later.closed.is_none();
        let same = later.users == 1 && later.user == earlier.user;
        after && same && later.identified.is_some_and(|at| at - closed < UNDELIVERED_KEPT)
    })
}

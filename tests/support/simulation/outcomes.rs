//! What has been said, and what came of it: everything that has a name has one outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use buddyline::hub::interface::{ConnId, Target};
use serde_json::Value;

use crate::oracle::ConnState;
use crate::site::{Site, short};

/// How long after its connection's end an outcome surely finds its user's next one.
const UNDELIVERED_KEPT: Duration = Duration::from_secs(400);

/// A message that somebody said.
#[derive(Clone)]
pub struct SentMessage {
    pub conn: ConnId,
    pub user: Option<u64>,
    /// Its `clientId`.
    pub name: Option<String>,
    pub to_new: bool,
    /// When it was said, among all.
    turn: usize,
}

/// Frames of one name.
struct SentFrame {
    kind: String,
    text: Option<String>,
    /// By whom.
    by: Vec<(ConnId, Option<u64>)>,
    outcomes: Vec<(ConnId, Value)>,
}

#[derive(Default)]
pub struct Outcomes {
    named: BTreeMap<String, SentFrame>,
    sends: BTreeMap<String, SentMessage>,
    /// How many messages without a name a connection has said, and how many outcomes it has heard.
    unnamed: BTreeMap<ConnId, (usize, usize)>,
    /// The last message that each connection has had posted, by where it goes.
    posted: BTreeMap<(ConnId, Target), usize>,
    /// Messages of which it was said that they are not stored.
    reported_not_stored: BTreeSet<String>,
    /// Outcomes by their kind or code.
    pub counts: BTreeMap<String, usize>,
}

impl Outcomes {
    pub fn said(&mut self, conn: ConnId, user: Option<u64>, frame: &Value) {
        let Some(kind) = frame["type"].as_str() else { return };
        let name = frame["clientId"].as_str().map(str::to_owned);
        let is_send = kind == "send_message";
        let text = frame["message"].as_str().filter(|_| is_send).map(str::to_owned);
        match &name {
            Some(name) => {
                let (kind, text) = (kind.to_owned(), text.clone());
                let new = SentFrame { kind, text, by: Vec::new(), outcomes: Vec::new() };
                self.named.entry(name.clone()).or_insert(new).by.push((conn, user));
            }
            None if is_send => self.unnamed.entry(conn).or_default().0 += 1,
            None => {}
        }
        if let Some(text) = text {
            let to_new = frame["threadId"].is_null();
            let turn = self.sends.len();
            self.sends.entry(text).or_insert(SentMessage { conn, user, name, to_new, turn });
        }
    }

    pub fn send(&self, text: &str) -> Option<SentMessage> {
        self.sends.get(text).cloned()
    }

    /// The site is asked to store a message: in the order in which its connection has said them.
    pub fn posted(&mut self, text: &str, target: Target) {
        let send = &self.sends[text];
        let again = send.name.as_ref().is_some_and(|name| self.is_resent(name));
        if again {
            return;
        }
        let (lane, turn) = ((send.conn, target), send.turn);
        let before = self.posted.insert(lane, turn);
        assert!(before.is_none_or(|before| before < turn), "posted too late: {}", short(text));
    }

    /// Whether this was said more than once.
    pub fn is_resent(&self, name: &str) -> bool {
        self.named.get(name).is_some_and(|said| said.by.len() > 1)
    }

    /// Whether this was said, and only by this user.
    pub fn is_sent_only_by(&self, name: &str, user: u64) -> bool {
        self.named.get(name).is_some_and(|said| said.by.iter().all(|(_, by)| *by == Some(user)))
    }

    /// Takes down what a connection hears. Returns whether it is the outcome of its own words.
    pub fn on_frame(
        &mut self,
        conn: ConnId,
        user: Option<u64>,
        frame: &Value,
        conns: &BTreeMap<ConnId, ConnState>,
        site: &Site,
    ) -> bool {
        let is_error = frame["type"] == "error";
        if let Some(name) = frame["clientId"].as_str() {
            let Some(said) = self.named.get_mut(name) else {
                panic!("{conn:?} hears of {name}, which nobody has said: {frame}");
            };
            let own = said.by.iter().any(|(by, _)| *by == conn)
                || said.by.iter().any(|(_, by)| by.is_some() && *by == user)
                // Said before it was known whose the connection is.
                || said.by.iter().any(|(by, _)| conns[by].user.is_some() && conns[by].user == user);
            assert!(own, "{conn:?} hears of {name}, which is another's: {frame}");
            // A claim without a proof is answered at once, and again when it is proven.
            let waits = said.kind == "user_connected";
            said.outcomes.retain(|(_, other)| !waits || other["code"] != "token_required");
            let word = |frame: &Value| (frame["type"].to_string(), frame["code"].to_string());
            for (_, other) in &said.outcomes {
                // What was certainly not stored may be tried again.
                let fails =
                    |frame: &Value| frame["type"] == "error" && frame["code"] != "unknown_outcome";
                let tried_again = said.by.len() > 1 && (fails(other) || fails(frame));
                let same = word(other) == word(frame);
                assert!(same || tried_again, "two outcomes of {name}: {other} and {frame}");
            }
            said.outcomes.push((conn, frame.clone()));
            let (said, heard) = (said.by.len(), said.outcomes.len());
            assert!(
                heard <= said,
                "{name} was said {said} times, and has {heard} outcomes: {frame}"
            );
            self.count(frame);
            if let (true, Some(text)) = (is_error, self.named[name].text.clone()) {
                // One that was said twice may be stored, and refused the second time.
                if frame["code"] != "unknown_outcome" && said == 1 {
                    let stored = site.store.iter().any(|kept| kept.text == text);
                    assert!(!stored, "it is stored: {frame}");
                    self.reported_not_stored.insert(text);
                }
            }
            return true;
        }
        let own = match frame["type"].as_str() {
            Some("error") if frame["replyTo"] == "send_message" => true,
            Some("message") => {
                let send = frame["message"].as_str().and_then(|text| self.sends.get(text));
                send.is_some_and(|send| {
                    // It may have been said before it was known by whom.
                    let by = send.user.or(conns.get(&send.conn).and_then(|seen| seen.user));
                    let same = send.conn == conn || (user.is_some() && by == user);
                    send.name.is_none() && same
                })
            }
            _ => false,
        };
        let counts = is_error
            || self
                .sends
                .get(frame["message"].as_str().unwrap_or_default())
                .is_some_and(|send| send.conn == conn && send.name.is_none());
        if own && counts {
            self.unnamed.entry(conn).or_default().1 += 1;
            self.count(frame);
        }
        own
    }

    fn count(&mut self, frame: &Value) {
        let word = frame["code"].as_str().or(frame["type"].as_str()).unwrap_or_default();
        *self.counts.entry(word.to_owned()).or_default() += 1;
    }

    /// Whether an outcome has been told before.
    pub fn is_repeat(&self, frame: &Value) -> bool {
        let name = frame["clientId"].as_str().unwrap_or_default();
        self.named.get(name).is_some_and(|said| said.outcomes.len() > 1)
    }

    pub fn forget_server(&mut self) {
        // What was tried again may be stored for all that.
        let named = std::mem::take(&mut self.named);
        for said in named.into_values().filter(|said| said.by.len() > 1) {
            said.text.map(|text| self.reported_not_stored.remove(&text));
        }
        self.unnamed.clear();
    }

    /// Whether each message that this connection has said has its outcome.
    pub fn check_outcomes_sent(&self, conn: ConnId) -> Result<(), String> {
        for (name, said) in &self.named {
            let times = said.by.iter().filter(|(by, _)| *by == conn).count();
            let heard = said.outcomes.iter().filter(|(to, _)| *to == conn).count();
            if said.text.is_some() && times > heard {
                return Err(format!("{name} of {} has no outcome", conn.serial));
            }
        }
        Ok(())
    }

    /// All is quiet: everything that was said on a connection that is open has its outcome, and
    /// that of a message has found its author, if they are there.
    pub fn check(&self, conns: &BTreeMap<ConnId, ConnState>, site: &Site) {
        for (name, said) in &self.named {
            for (conn, _) in &said.by {
                let times = said.by.iter().filter(|(by, _)| by == conn).count();
                let heard = said.outcomes.iter().filter(|(to, _)| to == conn).count();
                let is_call =
                    ["call_initiated", "offer", "answer", "ice-candidate"].contains(&&*said.kind);
                let must = conns[conn].closed.is_none() && !is_call;
                assert!(!must || heard >= times, "{name} ({}) has no outcome", said.kind);
                let posted = said.text.as_ref().is_some_and(|text| site.posted.contains(text));
                // What was said before it was known by whom has no heirs.
                let known = said.by.len() == 1 && said.by[0].1.is_some();
                let first = known && posted && has_later_connection(*conn, conns);
                assert!(!first || !said.outcomes.is_empty(), "nobody has heard of {name}");
            }
        }
        for (conn, (said, heard)) in &self.unnamed {
            let seen = &conns[conn];
            let inherits = conns.iter().any(|(other, seen_other)| {
                other != conn && seen_other.closed.is_some() && seen_other.user == seen.user
            });
            if seen.closed.is_none() && seen.users <= 1 && !inherits {
                assert_eq!(said, heard, "outcomes without a name on {}", conn.serial);
            }
        }
        for text in &self.reported_not_stored {
            let again = self.sends[text].name.as_ref().and_then(|name| self.named.get(name));
            if again.is_some_and(|said| said.by.len() > 1) {
                continue;
            }
            let stored = site.store.iter().any(|kept| kept.text == *text);
            assert!(!stored, "of {text} it was said that it is not stored");
        }
    }
}

/// Whether an outcome of this connection's must have found its user's later one.
fn has_later_connection(conn: ConnId, conns: &BTreeMap<ConnId, ConnState>) -> bool {
    let gone = &conns[&conn];
    let Some(closed) = gone.closed.filter(|_| gone.users == 1) else { return false };
    conns.iter().any(|(other, seen)| {
        let after = other.serial > gone.closed_before && seen.closed.is_none();
        let same = seen.users == 1 && seen.user == gone.user;
        after && same && seen.identified.is_some_and(|at| at - closed < UNDELIVERED_KEPT)
    })
}

//! The pool's side of the plugin: what waits to be sent to it, and what is known of it.
//!
//! One request is in flight at a time, and only while neither messages nor checks wait. Its outcome
//! says nothing about the health of the site.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::hub::interface::Now;
use crate::protocol::signature::{Purpose, SiteKeys, WINDOW_S};
use crate::upstream::plugin::{
    CallNotice, PluginFault, PluginRequest, PluginRoute, PluginStatus, ahead, describe_fault,
    new_id,
};

/// How often the plugin is asked for its status: while it is not found, and once it is.
const MISSING_EVERY: Duration = Duration::from_secs(60);
const FOUND_EVERY: Duration = Duration::from_secs(600);
/// Calls that wait; beyond it, the oldest is dropped. One request takes all.
const CALLS_MAX: usize = 100;
/// A call that has waited longer is not worth a notification that it rings.
const CALL_LASTS: Duration = Duration::from_secs(60);
/// Users whose activity waits; beyond it, further ones are dropped. Users in one request.
const ACTIVE_MAX: usize = 20_000;
const ACTIVE_PER_REQUEST: usize = 500;
/// How often a user's activity is sent.
const ACTIVE_EVERY: Duration = Duration::from_secs(60);
/// The pause after a failed request.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// A difference of clocks that is worth a warning.
const CLOCK_WARNING_S: u64 = 60;

/// The requests that wait, and the plugin's state.
pub(super) struct PluginClient {
    keys: SiteKeys,
    calls: VecDeque<(Instant, CallNotice)>,
    /// When each user was active, in seconds since 1970.
    active: HashMap<u64, u64>,
    /// The calls of the request in flight, for a repeat.
    sent_calls: Vec<(Instant, CallNotice)>,
    in_flight: bool,
    status_due: Instant,
    activity_due: Instant,
    paused_until: Option<Instant>,
    /// When the request in flight was signed.
    sent_s: u64,
    known: Known,
    counts: PluginCounts,
}

/// The state of the plugin, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// It has not been asked.
    Nothing,
    Found {
        version: String,
        features: Vec<String>,
        /// Whether its clock differs.
        is_clock_wrong: bool,
    },
    Fault(String),
}

/// Counts for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PluginCounts {
    /// Requests that the plugin has answered, in the order of [`PluginRoute::NAMED`].
    pub answered: [u64; 3],
    /// Requests that failed, in the same order.
    pub failed: [u64; 3],
    /// Calls and users' activity that were dropped.
    pub dropped: [u64; 2],
    /// Whether the plugin is there.
    pub found: bool,
}

impl PluginClient {
    pub(super) fn new(keys: SiteKeys, now: Instant) -> PluginClient {
        PluginClient {
            keys,
            calls: VecDeque::new(),
            active: HashMap::new(),
            sent_calls: Vec::new(),
            in_flight: false,
            status_due: now,
            activity_due: now + ACTIVE_EVERY,
            paused_until: None,
            sent_s: 0,
            known: Known::Nothing,
            counts: PluginCounts::default(),
        }
    }

    /// Signs with these keys from now on, and asks for the status again.
    pub(super) fn set_keys(&mut self, keys: SiteKeys, now: Instant) {
        self.keys = keys;
        self.status_due = now;
        self.paused_until = None;
    }

    pub(super) fn counts(&self) -> PluginCounts {
        PluginCounts { found: matches!(self.known, Known::Found { .. }), ..self.counts }
    }

    /// Queues a call; drops the oldest if there are too many.
    pub(super) fn push_call(&mut self, notice: CallNotice, now: Instant) {
        if self.calls.len() >= CALLS_MAX {
            self.calls.pop_front();
            self.counts.dropped[0] += 1;
        }
        self.calls.push_back((now, notice));
    }

    /// Notes that users are active.
    pub(super) fn push_active(&mut self, users: &[u64], now_s: u64) {
        for user in users {
            if self.active.len() < ACTIVE_MAX || self.active.contains_key(user) {
                self.active.insert(*user, now_s);
            } else {
                self.counts.dropped[1] += 1;
            }
        }
    }

    /// When there may be a request to send; `None` while one is in flight.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.in_flight {
            return None;
        }
        let calls = self.calls.front().filter(|_| self.may("calls")).map(|(at, _)| *at);
        let active = (!self.active.is_empty() && self.may("activity")).then_some(self.activity_due);
        let due = [Some(self.status_due), calls, active].into_iter().flatten().min()?;
        Some(due.max(self.paused_until.unwrap_or(due)))
    }

    /// Takes the next request to send, if one is due. Its outcome must be recorded.
    pub(super) fn next_request(&mut self, now: Now) -> Option<PluginRequest> {
        self.drop_old_calls(now.instant);
        if self.deadline()? > now.instant {
            return None;
        }
        let (route, mut body) = if self.status_due <= now.instant {
            (PluginRoute::Status, json!({}))
        } else if !self.calls.is_empty() && self.may("calls") {
            self.sent_calls = self.calls.drain(..).collect();
            let events: Vec<Value> =
                self.sent_calls.iter().map(|(_, notice)| notice.to_json()).collect();
            (PluginRoute::Calls, json!({"events": events}))
        } else {
            (PluginRoute::Activity, json!({"users": self.take_active(now.instant)}))
        };
        body["id"] = Value::String(new_id()?);
        let body = body.to_string();
        self.in_flight = true;
        self.sent_s = now.unix_s;
        let signature = self.keys.sign(Purpose::Requests, body.as_bytes(), now.unix_s);
        Some(PluginRequest { route, body, signature })
    }

    /// The time at which the request in flight was signed.
    pub(super) fn sent_s(&self) -> u64 {
        self.sent_s
    }

    /// Records the outcome of the request in flight.
    pub(super) fn record(
        &mut self,
        route: PluginRoute,
        outcome: Result<Option<PluginStatus>, PluginFault>,
        now: Instant,
    ) {
        self.in_flight = false;
        let sent_calls = std::mem::take(&mut self.sent_calls);
        let index = PluginRoute::NAMED.iter().position(|(named, _)| *named == route);
        if let Some(index) = index {
            let counts =
                if outcome.is_ok() { &mut self.counts.answered } else { &mut self.counts.failed };
            counts[index] += 1;
        }
        self.paused_until = outcome.is_err().then_some(now + RETRY_AFTER);
        match outcome {
            Ok(Some(status)) => {
                self.status_due = now + FOUND_EVERY;
                self.note_found(status);
            }
            Ok(None) => {}
            Err(fault) => {
                let may_repeat = matches!(fault, PluginFault::Other { may_repeat: true, .. });
                match may_repeat {
                    true => {
                        sent_calls.into_iter().rev().for_each(|call| self.calls.push_front(call))
                    }
                    false => self.counts.dropped[0] += sent_calls.len() as u64,
                }
                if route == PluginRoute::Status {
                    self.status_due = now + MISSING_EVERY;
                    self.note_fault(&fault);
                } else if !may_repeat {
                    // The plugin may be gone, or have another secret.
                    self.status_due = now + RETRY_AFTER;
                }
            }
        }
    }

    /// Whether the plugin can do something. Until it was asked, that is not known, and waits.
    fn may(&self, feature: &str) -> bool {
        match &self.known {
            Known::Found { features, .. } => features.iter().any(|name| name == feature),
            Known::Nothing | Known::Fault(_) => false,
        }
    }

    fn drop_old_calls(&mut self, now: Instant) {
        let is_old =
            |(at, _): &mut (Instant, CallNotice)| now.saturating_duration_since(*at) >= CALL_LASTS;
        while self.calls.front_mut().is_some_and(is_old) {
            self.calls.pop_front();
            self.counts.dropped[0] += 1;
        }
    }

    /// Takes the users of one request. The rest follows at once.
    fn take_active(&mut self, now: Instant) -> Vec<Value> {
        let mut users: Vec<(u64, u64)> =
            self.active.iter().map(|(user, at)| (*user, *at)).collect();
        users.sort_unstable();
        users.truncate(ACTIVE_PER_REQUEST);
        for (user, _) in &users {
            self.active.remove(user);
        }
        if self.active.is_empty() {
            self.activity_due = now + ACTIVE_EVERY;
        }
        users.iter().map(|(user, at)| json!({"userId": user, "at": at})).collect()
    }

    fn note_found(&mut self, status: PluginStatus) {
        let PluginStatus { version, features, time, .. } = status;
        let ahead_s = ahead(time, self.sent_s);
        let is_clock_wrong = ahead_s.unsigned_abs() > CLOCK_WARNING_S;
        let known = Known::Found { version, features, is_clock_wrong };
        if self.known == known {
            return;
        }
        if let Known::Found { version, features, .. } = &known {
            let features: Vec<String> = features.iter().map(|name| printable(name)).collect();
            log::info!("the site's plugin {} answers: {}", printable(version), features.join(", "));
        }
        if is_clock_wrong {
            log::warn!(
                "the clock of the site is {ahead_s} s ahead of this machine's: beyond {WINDOW_S} s \
                 either way, each side refuses the other's requests; set both clocks (NTP)"
            );
        }
        self.known = known;
    }

    fn note_fault(&mut self, fault: &PluginFault) {
        let line = describe_fault(fault);
        let known = Known::Fault(line.clone());
        if self.known != known {
            log::warn!("requests to the site's plugin fail: {line}");
            self.known = known;
        }
    }
}

/// A word of the plugin for a log line.
fn printable(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
    text.chars().filter(|c| is_plain(*c)).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(now: Instant) -> PluginClient {
        PluginClient::new(SiteKeys::new([&[b'k'; 64][..]]), now)
    }

    fn status(features: &[&str]) -> PluginStatus {
        PluginStatus {
            version: "0.1.0".to_owned(),
            features: features.iter().map(|name| (*name).to_owned()).collect(),
            time: 1_000,
            server: crate::upstream::plugin::ServerStatus::default(),
        }
    }

    fn call(n: u64) -> CallNotice {
        let call = format!("call-{n}");
        let (caller, called, at_s) = (1, 2, 1_000);
        CallNotice { missed: false, call, thread: Some(4), caller, called, at_s, group: false }
    }

    /// A client that has found the plugin.
    fn found(start: Instant) -> PluginClient {
        let mut client = client(start);
        let now = Now { instant: start, unix_s: 1_000 };
        assert_eq!(client.next_request(now).unwrap().route, PluginRoute::Status);
        assert!(client.next_request(now).is_none(), "one request at a time");
        client.record(PluginRoute::Status, Ok(Some(status(&["calls", "activity"]))), start);
        client
    }

    fn take(client: &mut PluginClient, at: Instant) -> Option<(PluginRoute, Value)> {
        let request = client.next_request(Now { instant: at, unix_s: 1_000 })?;
        let keys = SiteKeys::new([&[b'k'; 64][..]]);
        let body = request.body.as_bytes();
        keys.verify(Purpose::Requests, &request.signature, body, 1_000).unwrap();
        Some((request.route, serde_json::from_str(&request.body).unwrap()))
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn status_is_asked_each_minute_until_found_and_then_every_ten() {
        let start = Instant::now();
        let mut client = client(start);
        for n in 0..3 {
            let at = start + n * MISSING_EVERY;
            assert_eq!(take(&mut client, at).unwrap().0, PluginRoute::Status);
            client.record(PluginRoute::Status, Err(PluginFault::Missing), at);
            assert!(!client.counts().found);
            assert!(take(&mut client, at + MISSING_EVERY - SECOND).is_none());
        }
        let at = start + 3 * MISSING_EVERY;
        take(&mut client, at).unwrap();
        client.record(PluginRoute::Status, Ok(Some(status(&[]))), at);
        assert!(client.counts().found && client.counts().failed == [3, 0, 0]);
        assert!(take(&mut client, at + FOUND_EVERY - SECOND).is_none());
        assert_eq!(take(&mut client, at + FOUND_EVERY).unwrap().0, PluginRoute::Status);
    }

    #[test]
    fn calls_wait_for_the_plugin_and_go_in_one_request() {
        let start = Instant::now();
        let mut client = client(start);
        take(&mut client, start).unwrap();
        client.push_call(call(1), start);
        client.push_call(call(2), start);
        assert_eq!(client.deadline(), None, "nothing is sent before the plugin was found");
        client.record(PluginRoute::Status, Ok(Some(status(&["calls"]))), start);
        let (route, body) = take(&mut client, start).unwrap();
        assert_eq!(route, PluginRoute::Calls);
        let expected = json!({
            "type": "offline", "callId": "call-1", "threadId": 4, "callerId": 1, "calledId": 2,
            "at": 1_000, "group": false,
        });
        assert_eq!(body["events"][0], expected);
        assert_eq!(body["events"].as_array().unwrap().len(), 2);
        assert_eq!(body["id"].as_str().unwrap().len(), 32);
        client.record(PluginRoute::Calls, Ok(None), start);
        assert!(take(&mut client, start + SECOND).is_none());
        assert_eq!(client.counts().dropped, [0, 0]);
    }

    #[test]
    fn calls_are_bounded_in_number_and_age() {
        let start = Instant::now();
        let mut client = found(start);
        for n in 0..=CALLS_MAX as u64 {
            client.push_call(call(n), start);
        }
        assert_eq!(client.counts().dropped, [1, 0]);
        let (_, body) = take(&mut client, start).unwrap();
        assert_eq!(body["events"][0]["callId"], "call-1", "the oldest was dropped");
        let busy = PluginFault::Other { detail: "status 503".to_owned(), may_repeat: true };
        client.record(PluginRoute::Calls, Err(busy), start);
        assert!(take(&mut client, start + RETRY_AFTER - SECOND).is_none(), "after a pause");
        let (_, again) = take(&mut client, start + RETRY_AFTER).unwrap();
        assert_eq!((&again["events"], again["id"] != body["id"]), (&body["events"], true));
        let lost = PluginFault::Other { detail: "no reply".to_owned(), may_repeat: false };
        client.record(PluginRoute::Calls, Err(lost), start);
        assert_eq!(client.counts().dropped, [101, 0], "a lost request is not repeated");
        let later = start + RETRY_AFTER;
        assert_eq!(take(&mut client, later).unwrap().0, PluginRoute::Status, "is it still there?");
        client.record(PluginRoute::Status, Ok(Some(status(&["calls"]))), later);
        client.push_call(call(7), later);
        assert!(take(&mut client, later + CALL_LASTS).is_none());
        assert_eq!(client.counts().dropped, [102, 0]);
    }

    #[test]
    fn activity_is_sent_once_a_minute_in_parts_of_five_hundred() {
        let start = Instant::now();
        let mut client = found(start);
        let users: Vec<u64> = (1..=700).collect();
        client.push_active(&users, 990);
        client.push_active(&[1], 995);
        assert!(take(&mut client, start + ACTIVE_EVERY - SECOND).is_none());
        let due = start + ACTIVE_EVERY;
        let (route, body) = take(&mut client, due).unwrap();
        assert_eq!(route, PluginRoute::Activity);
        assert_eq!(body["users"][0], json!({"userId": 1, "at": 995}));
        assert_eq!(body["users"].as_array().unwrap().len(), 500);
        client.record(PluginRoute::Activity, Ok(None), due);
        let (_, body) = take(&mut client, due).unwrap();
        assert_eq!(body["users"].as_array().unwrap().len(), 200);
        client.record(PluginRoute::Activity, Ok(None), due);
        client.push_active(&[1], 1_000);
        assert!(take(&mut client, due + ACTIVE_EVERY - SECOND).is_none());
        let many: Vec<u64> = (1..=ACTIVE_MAX as u64 + 5).collect();
        client.push_active(&many, 1_000);
        assert_eq!(client.counts().dropped, [0, 5]);
    }

    #[test]
    fn plugin_without_a_feature_gets_no_such_request() {
        let start = Instant::now();
        let mut client = client(start);
        take(&mut client, start).unwrap();
        client.record(PluginRoute::Status, Ok(Some(status(&["events"]))), start);
        client.push_call(call(1), start);
        client.push_active(&[1], 1_000);
        assert!(take(&mut client, start + 2 * ACTIVE_EVERY).is_none());
    }
}

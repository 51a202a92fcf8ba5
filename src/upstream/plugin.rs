//! Signed requests of the server to the site's plugin, and the plugin's replies.

use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use serde_json::{Value, json};

use super::buddyboss::{Reply, Request};
use super::url_style::UrlStyle;
use crate::protocol::signature::WINDOW_S;

/// A route of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PluginRoute {
    /// Its version and what it can do.
    Status,
    /// Calls that nobody could take.
    Calls,
    /// When members were last active.
    Activity,
    /// Makes it send a test event.
    TestEvent,
}

impl PluginRoute {
    /// The routes that the pool uses, with their labels in the metrics.
    pub(crate) const NAMED: [(PluginRoute, &'static str); 3] = [
        (PluginRoute::Status, "status"),
        (PluginRoute::Calls, "calls"),
        (PluginRoute::Activity, "activity"),
    ];

    /// The path and query of its route.
    pub(crate) fn path(self, url_style: UrlStyle) -> String {
        let name = match self {
            PluginRoute::Status => "status",
            PluginRoute::Calls => "calls",
            PluginRoute::Activity => "activity",
            PluginRoute::TestEvent => "test-event",
        };
        format!("{}buddyline/v1/{name}", url_style.prefix())
    }
}

/// A request to the plugin, signed at the time of its dispatch.
#[derive(Clone, Debug)]
pub(crate) struct PluginRequest {
    /// The route.
    pub route: PluginRoute,
    /// The JSON.
    pub body: String,
    /// The value of the header with the signature.
    pub signature: String,
}

impl PluginRequest {
    pub(super) fn into_request(self, url_style: UrlStyle) -> Request<'static> {
        Request {
            method: "POST",
            path: self.route.path(url_style).into(),
            token: None,
            body: Some(self.body),
            signature: Some(self.signature),
        }
    }
}

/// A call that nobody could take, or that its callee has missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallNotice {
    /// Whether the callee has missed it; otherwise it rings, and the callee is offline.
    pub missed: bool,
    /// The `callId`.
    pub call: String,
    /// The thread of the call, by the site's number.
    pub thread: Option<u64>,
    /// The user who calls.
    pub caller: u64,
    /// The user who is called.
    pub called: u64,
    /// When, in seconds since 1970.
    pub at_s: u64,
    /// Whether it is a group call.
    pub group: bool,
}

impl CallNotice {
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "type": if self.missed { "missed" } else { "offline" },
            "callId": self.call,
            "threadId": self.thread,
            "callerId": self.caller,
            "calledId": self.called,
            "at": self.at_s,
            "group": self.group,
        })
    }
}

/// The plugin, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PluginStatus {
    /// Its version.
    pub version: String,
    /// The things that it can do.
    #[serde(default)]
    pub features: Vec<String>,
    /// Its clock, in seconds since 1970.
    #[serde(default)]
    pub time: u64,
    /// Where it sends events, and how that went.
    #[serde(default)]
    pub server: ServerStatus,
}

/// The plugin's view of this server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerStatus {
    /// The address to which it sends events.
    pub url: String,
    /// The last failure, if events do not arrive.
    pub last_error: Option<String>,
    /// Events that it could not send.
    pub missed: u64,
}

/// The result of asking the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginFault {
    /// There is no such route: the plugin is not active, or older than the route.
    Missing,
    /// It refuses the signature: another secret, or clocks that differ.
    Unauthorized {
        /// How far the site's clock is ahead of this machine's, from the reply's `Date`.
        ahead_s: Option<i64>,
    },
    /// Another reply, described for the log.
    Other {
        /// The description.
        detail: String,
        /// Whether the plugin certainly did nothing, and may do it later.
        may_repeat: bool,
    },
}

/// Judges a reply; `sent_s` is the time at which the request was signed.
///
/// # Errors
///
/// Why it is not the plugin's answer.
pub(crate) fn parse_reply<'a, T: Deserialize<'a>>(
    reply: &'a Reply,
    sent_s: u64,
) -> Result<T, PluginFault> {
    if let Some(value) = reply.json().filter(|_| reply.status == 200) {
        return Ok(value);
    }
    if reply.is_no_route() {
        return Err(PluginFault::Missing);
    }
    if reply.status == 401 {
        let date = super::probe_client::server_clock_s(reply);
        return Err(PluginFault::Unauthorized { ahead_s: date.map(|date| ahead(date, sent_s)) });
    }
    let may_repeat = matches!(reply.status, 429 | 503);
    Err(PluginFault::Other { detail: reply.describe(), may_repeat })
}

/// A random id of a request; `None` if the system has no random numbers.
pub(crate) fn new_id() -> Option<String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Says what a fault means and what to do.
pub(crate) fn describe_fault(fault: &PluginFault) -> String {
    match fault {
        PluginFault::Missing => {
            "the site has no such route: install and activate the plugin buddyline, or update it"
                .to_owned()
        }
        PluginFault::Unauthorized { ahead_s: Some(ahead_s) }
            if ahead_s.unsigned_abs() > WINDOW_S =>
        {
            format!(
                "the plugin refuses the signature, because the clock of the site is {ahead_s} s \
                 ahead of this machine's: set both clocks (NTP)"
            )
        }
        PluginFault::Unauthorized { .. } => "the plugin refuses the signature: the first line of \
                                             --site-secret-file is not its secret, or something in \
                                             front of the site removes the header \
                                             Buddyline-Signature"
            .to_owned(),
        PluginFault::Other { detail, .. } => detail.clone(),
    }
}

/// How many seconds one time is ahead of another.
pub(crate) fn ahead(one_s: u64, other_s: u64) -> i64 {
    let seconds = |s: u64| i64::try_from(s).unwrap_or(i64::MAX);
    seconds(one_s).saturating_sub(seconds(other_s))
}

/// The reply to a test event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TestReply {
    /// Whether the plugin has sent it and got 200.
    pub sent: bool,
    /// The failure.
    pub error: String,
    /// The status that it got, or 0.
    pub status: u16,
    /// How long it took.
    pub ms: u64,
}

//! Judges the public address: whether clients can open a WebSocket through the proxy.

use super::{ReachabilityNames, judge_reachability, milliseconds};
use crate::doctor::finding::Finding;
use crate::doctor::observations::{AppOrigin, PublicObservation, Upgrade};

const NAME: &str = "public WebSocket";
const ORIGIN_NAME: &str = "public origin";
const NAMES: ReachabilityNames = ReachabilityNames {
    resolves: "public name",
    connects: "public connection",
    tls: "public TLS",
    option: "--public-url",
    scheme: ["ws://", "wss://"],
};

const UPGRADE_DROPPED: &str = "The proxy drops the upgrade. In its location for this path, nginx \
                         needs: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
                         proxy_set_header Connection \"upgrade\";";

/// Begins buddyline's own refusal of an origin.
const ORIGIN_REFUSED: &str = "Pages of this origin may not connect";

/// Judges the public address; `None` means that none was given.
pub fn judge(observation: Option<&PublicObservation>) -> Vec<Finding> {
    let Some(observation) = observation else {
        let reason = "set --public-url to check that a WebSocket opens through the proxy";
        return vec![Finding::skipped(NAME, reason)];
    };
    let (mut findings, _) = judge_reachability(&observation.reachability, &NAMES);
    findings.push(match &observation.upgrade {
        None => Finding::skipped(NAME, super::unreached(&observation.reachability)),
        Some(upgrade) => judge_upgrade(upgrade),
    });
    findings.extend(observation.app_origin.as_ref().map(judge_app_origin));
    findings
}

/// Judges whether an app connects whose library sends an origin made of the address.
fn judge_app_origin(seen: &AppOrigin) -> Finding {
    let origin = &seen.origin;
    match &seen.upgrade {
        Upgrade::Opened { good: true, .. } => {
            Finding::ok(ORIGIN_NAME, format!("apps that send {origin} connect (React Native)"))
        }
        Upgrade::Answered { body, .. } if body.contains(ORIGIN_REFUSED) => Finding::failed(
            ORIGIN_NAME,
            format!(
                "buddyline refuses the origin {origin}, which React Native makes of the address: \
                 the proxy does not pass on the Host of the client"
            ),
            format!(
                "Pass it on. nginx: proxy_set_header Host $http_host; Apache: ProxyPreserveHost \
                 On. Or name the proxy in --trusted-proxy and let it send X-Forwarded-Host, which \
                 Apache does by itself. Or set --allowed-origin {origin}."
            ),
        ),
        other => Finding::warning(
            ORIGIN_NAME,
            format!(
                "with the header Origin: {origin}, which React Native sends, the WebSocket does \
                 not open: {}",
                match other {
                    Upgrade::Answered { status, .. } => format!("status {status}"),
                    Upgrade::NoReply(reason) => reason.clone(),
                    Upgrade::Opened { .. } => "the reply is wrong".to_owned(),
                }
            ),
            "The proxy, or a firewall in front of it, treats requests with an Origin differently. \
             Let them pass to buddyline, which checks the origin itself.",
        ),
    }
}

fn judge_upgrade(upgrade: &Upgrade) -> Finding {
    match upgrade {
        Upgrade::Opened { good: true, pong: Some(latency) } => {
            let latency = milliseconds(*latency);
            Finding::ok(NAME, format!("it opens, and a ping is answered in {latency}"))
        }
        Upgrade::Opened { good: true, pong: None } => Finding::warning(
            NAME,
            "it opens, but a ping is not answered: this may be another server",
            "Check that the proxy forwards this path to buddyline (proxy_pass). If it does, the \
             proxy delays frames: disable its buffering for this path.",
        ),
        Upgrade::Opened { good: false, .. } => Finding::failed(
            NAME,
            "the reply is 101 with a wrong Sec-WebSocket-Accept or Upgrade",
            "A proxy or cache answers in place of buddyline. Check where the proxy forwards this \
             path to, and that no cache stores the reply.",
        ),
        Upgrade::Answered { status, location, body } => {
            judge_reply(*status, location.as_deref(), body)
        }
        Upgrade::NoReply(reason) => Finding::failed(
            NAME,
            format!("no reply: {reason}"),
            "Read the proxy's error log, and check that buddyline is running.",
        ),
    }
}

/// Judges a reply that is not an upgrade. The texts that are searched in bodies are buddyline's
/// own, from the module `http`.
fn judge_reply(status: u16, location: Option<&str>, body: &str) -> Finding {
    let failed = |problem: &str, remedy: &str| {
        Finding::failed(NAME, format!("status {status}: {problem}"), remedy)
    };
    let says = |text: &str| body.contains(text);
    if says("Connection: Upgrade is missing") {
        return failed(
            "buddyline answers, but Connection: Upgrade does not reach it",
            "Add to nginx's location: proxy_set_header Connection \"upgrade\";",
        );
    }
    if says("opens with GET over HTTP/1.1") {
        return failed(
            "buddyline answers, but the proxy speaks HTTP/1.0 to it",
            "Add to nginx's location: proxy_http_version 1.1;",
        );
    }
    if says("Sec-WebSocket-Key is missing") || status == 426 {
        let remedy = "Configure the proxy to forward the headers that begin with Sec-WebSocket-.";
        return failed("the Sec-WebSocket headers do not reach buddyline", remedy);
    }
    // Without the header Upgrade, buddyline takes the request for that of a page.
    if says("There is nothing at this path") || says("buddyline speaks WebSocket here") {
        return failed(
            "buddyline answers, but the header Upgrade does not reach it",
            UPGRADE_DROPPED,
        );
    }
    if says(ORIGIN_REFUSED) {
        let remedy = "Remove the header Origin from the proxy's configuration.";
        return failed("the proxy adds an Origin that is not allowed", remedy);
    }
    if says("server is restarting") || says("Too many connections") {
        let remedy = "Try again in a moment; --max-connections limits the connections.";
        return Finding::warning(
            NAME,
            format!("status {status}: the server is full or restarting"),
            remedy,
        );
    }
    match status {
        200..=299 => failed(
            "a page, not a WebSocket: the upgrade is dropped, or the path is another program's",
            UPGRADE_DROPPED,
        ),
        300..=399 => failed(
            &format!("it redirects to {}", location.unwrap_or("an unknown address")),
            "Apps do not follow redirects: set the address that it redirects to in the apps, for \
             example wss:// instead of ws://.",
        ),
        400 => failed(
            "the proxy, or the server it forwards this path to, refuses the upgrade",
            UPGRADE_DROPPED,
        ),
        401 | 403 => failed(
            "the proxy, or a firewall in front of it, refuses the request",
            "Allow this path without a password: buddyline authenticates users itself.",
        ),
        404 => failed(
            "nothing is at this path: the path is wrong, or the upgrade is dropped",
            "Check that it is the path of nginx's location for buddyline, and that the location \
             forwards Upgrade and Connection (proxy_set_header) with proxy_http_version 1.1.",
        ),
        502..=504 => failed(
            "the proxy does not reach buddyline",
            "Check that it is running, and that proxy_pass has the address that it listens on.",
        ),
        _ => failed("the reply is not a WebSocket upgrade", UPGRADE_DROPPED),
    }
}

//! The way of the clients: through the proxy to the server.

use super::{ReachabilityNames, judge_reachability, milliseconds};
use crate::doctor::finding::Finding;
use crate::doctor::observations::{PublicObservation, Upgrade};

const NAME: &str = "public WebSocket";
const NAMES: ReachabilityNames =
    ReachabilityNames { resolves: "public name", connects: "public connection", tls: "public TLS" };

const UPGRADE_DROPPED: &str = "The proxy drops the upgrade. In its location for this path, nginx needs: \
                         proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
                         proxy_set_header Connection \"upgrade\";";

/// Judges it; `None` where no address was given.
pub fn judge(seen: Option<&PublicObservation>) -> Vec<Finding> {
    let Some(seen) = seen else {
        let why = "give --public-url to see whether a WebSocket opens through the proxy";
        return vec![Finding::skipped(NAME, why)];
    };
    let (mut findings, _) = judge_reachability(&seen.reachability, &NAMES, ["ws://", "wss://"]);
    findings.push(match &seen.upgrade {
        None => Finding::skipped(NAME, "there is no way to it, or no time was left"),
        Some(upgrade) => judge_upgrade(upgrade),
    });
    findings
}

fn judge_upgrade(upgrade: &Upgrade) -> Finding {
    match upgrade {
        Upgrade::Opened { good: true, pong: Some(took) } => {
            let took = milliseconds(*took);
            Finding::ok(NAME, format!("it opens, and a ping is answered in {took}"))
        }
        Upgrade::Opened { good: true, pong: None } => Finding::warning(
            NAME,
            "it opens, and a ping is not answered: is that buddyline?",
            "Look where the proxy passes this path on to (proxy_pass). If it is buddyline, the \
             proxy holds frames back: switch its buffering off for this path.",
        ),
        Upgrade::Opened { good: false, .. } => Finding::failed(
            NAME,
            "it is answered with 101 and a wrong Sec-WebSocket-Accept or Upgrade",
            "Something on the way answers by itself. Look where the proxy passes this path on to, \
             and that no cache keeps the answer.",
        ),
        Upgrade::Answered { status, location, body } => {
            judge_reply(*status, location.as_deref(), body)
        }
        Upgrade::NoReply(why) => Finding::failed(
            NAME,
            format!("no answer: {why}"),
            "Look into the proxy's error log, and whether buddyline is running.",
        ),
    }
}

/// What it means that a WebSocket was asked for and something else came. The words in bodies are
/// those of the module `http`.
fn judge_reply(status: u16, location: Option<&str>, body: &str) -> Finding {
    let failed = |seen: &str, remedy: &str| {
        Finding::failed(NAME, format!("status {status}: {seen}"), remedy)
    };
    let says = |words: &str| body.contains(words);
    if says("Connection: Upgrade is missing") {
        return failed(
            "buddyline is there, and Connection: Upgrade does not reach it",
            "Add to nginx's location: proxy_set_header Connection \"upgrade\";",
        );
    }
    if says("opens with GET over HTTP/1.1") {
        return failed(
            "buddyline is there, and the proxy speaks HTTP/1.0 to it",
            "Add to nginx's location: proxy_http_version 1.1;",
        );
    }
    if says("Sec-WebSocket-Key is missing") || status == 426 {
        let remedy = "Let the proxy pass on the headers that begin with Sec-WebSocket-.";
        return failed("the handshake's own headers do not reach buddyline", remedy);
    }
    // It saw no header Upgrade, so it took it for a request for a page.
    if says("There is nothing at this path") || says("buddyline speaks WebSocket here") {
        return failed(
            "buddyline is there, and the header Upgrade does not reach it",
            UPGRADE_DROPPED,
        );
    }
    if says("Pages of this origin may not connect") {
        let remedy = "Let the proxy set no header Origin.";
        return failed("the proxy adds an Origin that may not connect", remedy);
    }
    if says("server is restarting") || says("Too many connections") {
        let remedy = "Look again in a moment; --max-connections says how many may be there.";
        return Finding::warning(NAME, format!("status {status}: the server is full"), remedy);
    }
    match status {
        200..=299 => failed(
            "a page, and no WebSocket: the upgrade is dropped, or the path is another program's",
            UPGRADE_DROPPED,
        ),
        300..=399 => failed(
            &format!("it redirects to {}", location.unwrap_or("nowhere")),
            "Apps do not follow redirects: give them the address where it ends, wss:// instead of \
             ws:// if that is the difference.",
        ),
        400 => failed("the proxy, or what it passes this path on to, refuses it", UPGRADE_DROPPED),
        401 | 403 => failed(
            "the proxy, or a firewall in front of it, refuses it",
            "Let this path through without a password; who someone is is buddyline's to find out.",
        ),
        404 => failed(
            "nobody answers for this path: it is another one, or the upgrade is dropped",
            "Is it the path of nginx's location for buddyline? If so, see there that Upgrade and \
             Connection are passed on (proxy_set_header), over proxy_http_version 1.1.",
        ),
        502..=504 => failed(
            "the proxy does not reach buddyline",
            "Is it running, and does proxy_pass name the address that it listens on?",
        ),
        _ => failed("that is no WebSocket", UPGRADE_DROPPED),
    }
}

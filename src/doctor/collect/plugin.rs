//! Collects the observations of the site's plugin: asks it, and lets it send a test event.

use super::{TimeBudget, now_s};
use crate::config::Config;
use crate::doctor::health::HealthTarget;
use crate::doctor::observations::PluginObservation;
use crate::protocol::signature::{Purpose, SiteKeys};
use crate::upstream::plugin::{PluginRequest, PluginRoute, new_id, parse_reply};
use crate::upstream::probe_client::ProbeClient;
use crate::upstream::url_style::UrlStyle;

/// Asks the plugin for its status and for a test event, and the running server whether that has
/// arrived. On the site, only the plugin's own state changes.
pub(super) fn collect(
    config: &Config,
    keys: &SiteKeys,
    client: &ProbeClient,
    url_style: UrlStyle,
    time: TimeBudget,
) -> PluginObservation {
    let mut observation = PluginObservation::default();
    let ask = |route: PluginRoute, more: &str| {
        let (timeout, id, sent_s) = (time.for_request()?, new_id()?, now_s());
        let body = format!("{{\"id\":\"{id}\"{more}}}");
        let signature = keys.sign(Purpose::Requests, body.as_bytes(), sent_s);
        let request = PluginRequest { route, body, signature };
        Some((client.ask_plugin(request, url_style, timeout), sent_s))
    };
    if let Some((reply, sent_s)) = ask(PluginRoute::Status, "") {
        observation.sent_s = sent_s;
        observation.status = Some(reply.map(|reply| parse_reply(&reply, sent_s)));
    }
    let Some(Ok(Ok(_))) = observation.status else { return observation };
    let Some(token) = new_id() else { return observation };
    let more = format!(",\"token\":\"{token}\"");
    if let Some((reply, sent_s)) = ask(PluginRoute::TestEvent, &more) {
        observation.test = Some(reply.map(|reply| parse_reply(&reply, sent_s)));
    }
    let path = format!("/site/events/test/{token}");
    let target = HealthTarget::for_site(config, &path);
    observation.arrival = time.remaining().map(|timeout| {
        let (status, _) = target?.ask(timeout)?;
        match status {
            200 => Ok(true),
            404 => Ok(false),
            status => Err(format!("it answers with status {status}")),
        }
    });
    observation
}

//! Judges the site's plugin: whether it is there, agrees about the secret, and sends events.

use crate::doctor::finding::Finding;
use crate::doctor::observations::PluginObservation;
use crate::upstream::plugin::{PluginFault, PluginStatus, ahead, describe_fault};

const PLUGIN: &str = "plugin";
const SECRET: &str = "plugin secret";
const CLOCK: &str = "plugin clock";
const EVENTS: &str = "plugin events";

/// The difference of clocks beyond which each side refuses the other's requests, and a part of it
/// that is worth a warning.
const CLOCK_FAILS_S: u64 = 300;
const CLOCK_WARNS_S: u64 = 60;

const INSTALL: &str = "Install the plugin buddyline on the site and activate it, or update it.";

/// Judges the plugin; `None` for no site secret.
pub fn judge(observation: Option<&PluginObservation>) -> Vec<Finding> {
    let Some(observation) = observation else { return Vec::new() };
    let skip = |names: &[&'static str], why: &str| {
        names.iter().map(|name| Finding::skipped(name, why)).collect::<Vec<_>>()
    };
    let fault = match &observation.status {
        None => return skip(&[PLUGIN, SECRET, CLOCK, EVENTS], "the plugin was not asked"),
        Some(Err(reason)) => {
            let failed = Finding::failed(PLUGIN, format!("no reply: {reason}"), BLOCKED);
            return with(failed, skip(&[SECRET, CLOCK, EVENTS], "the plugin has not replied"));
        }
        Some(Ok(Ok(status))) => return judge_found(observation, status),
        Some(Ok(Err(fault))) => fault,
    };
    match fault {
        PluginFault::Missing => {
            let failed = Finding::failed(PLUGIN, "not found: the site has no such route", INSTALL);
            with(failed, skip(&[SECRET, CLOCK, EVENTS], "the plugin is not there"))
        }
        PluginFault::Unauthorized { ahead_s } => {
            let is_clock = ahead_s.is_some_and(|s| s.unsigned_abs() > CLOCK_FAILS_S);
            let mut findings = vec![Finding::ok(PLUGIN, "it is there")];
            if is_clock {
                findings.extend(skip(&[SECRET], "the clocks differ"));
                findings.push(judge_clock(ahead_s.unwrap_or_default()));
            } else {
                findings.push(Finding::failed(SECRET, describe_fault(fault), SAME_SECRET));
                findings.extend(skip(&[CLOCK], "the plugin refuses the signature"));
            }
            findings.extend(skip(&[EVENTS], "the plugin refuses the signature"));
            findings
        }
        PluginFault::Other { detail, .. } => {
            let failed = Finding::failed(PLUGIN, format!("it replies with {detail}"), BLOCKED);
            with(failed, skip(&[SECRET, CLOCK, EVENTS], "no usable reply of the plugin"))
        }
    }
}

const BLOCKED: &str = "Let the firewall, CDN or security plugin in front of the site pass POST \
                       requests of this machine to /wp-json/buddyline/v1/.";
const SAME_SECRET: &str = "Copy the secret from the plugin's settings into --site-secret-file, as \
                           the first line, and reload the server.";

fn with(first: Finding, rest: Vec<Finding>) -> Vec<Finding> {
    let mut findings = vec![first];
    findings.extend(rest);
    findings
}

fn judge_found(observation: &PluginObservation, status: &PluginStatus) -> Vec<Finding> {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || ".-_+".contains(*c);
    let plain = |text: &String| text.chars().filter(is_plain).take(40).collect::<String>();
    let features: Vec<String> = status.features.iter().take(16).map(plain).collect();
    vec![
        Finding::ok(PLUGIN, format!("version {}: {}", plain(&status.version), features.join(", "))),
        Finding::ok(SECRET, "the plugin accepts the server's signature"),
        judge_clock(ahead(status.time, observation.sent_s)),
        judge_events(observation),
    ]
}

fn judge_clock(ahead_s: i64) -> Finding {
    const REMEDY: &str = "Synchronise both clocks (NTP).";
    let seen = format!("the site's clock is {ahead_s} s ahead of this machine's");
    match ahead_s.unsigned_abs() {
        s if s > CLOCK_FAILS_S => Finding::failed(
            CLOCK,
            format!("{seen}: each side refuses the other's requests"),
            REMEDY,
        ),
        s if s > CLOCK_WARNS_S => Finding::warning(CLOCK, seen, REMEDY),
        _ => Finding::ok(CLOCK, format!("within {CLOCK_WARNS_S} s of this machine's")),
    }
}

fn judge_events(observation: &PluginObservation) -> Finding {
    let test = match &observation.test {
        None => return Finding::skipped(EVENTS, "no time was left"),
        Some(Err(reason)) => {
            let seen = format!("the plugin was asked for a test event: no reply: {reason}");
            return Finding::failed(EVENTS, seen, BLOCKED);
        }
        Some(Ok(Err(fault))) => {
            let fault = describe_fault(fault);
            return Finding::failed(
                EVENTS,
                format!("the plugin sends no test event: {fault}"),
                INSTALL,
            );
        }
        Some(Ok(Ok(test))) => test,
    };
    let clean: String = test.error.chars().filter(|c| !c.is_control()).take(200).collect();
    match (test.sent, &observation.arrival) {
        (true, Some(Ok(true))) => {
            Finding::ok(EVENTS, format!("a test event arrived at this server after {} ms", test.ms))
        }
        (true, Some(Ok(false))) => Finding::failed(
            EVENTS,
            "the plugin has sent a test event, and another server has taken it",
            "Enter the address of this server in the plugin's settings.",
        ),
        (true, Some(Err(reason))) => Finding::warning(
            EVENTS,
            format!(
                "a server has taken the plugin's test event, and whether it is this one is not \
                 known: {reason}"
            ),
            "Start the server with the same settings as the doctor.",
        ),
        (true, None) => Finding::skipped(EVENTS, "no time was left"),
        (false, Some(Err(reason))) => Finding::failed(
            EVENTS,
            format!("the plugin cannot send events ({clean}); this server: {reason}"),
            "Start the server, and run the doctor again.",
        ),
        (false, _) => Finding::failed(
            EVENTS,
            format!("the plugin cannot send events: {clean}"),
            "Run the connection test on the plugin's settings page: it names the cause.",
        ),
    }
}

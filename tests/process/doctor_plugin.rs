//! The doctor's lines about the site's plugin, with a site that plays the plugin.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::files::SecretFile;
use crate::support::plugin::{SECRET, now_s, send};
use crate::support::server::{Server, binary};
use crate::support::site::{Fault, Site};
use crate::support::site_model::http_date;

/// How the plugin behaves.
#[derive(Clone, Copy)]
struct Plugin {
    /// The status of replies to signed requests.
    status: u16,
    /// How far its clock is ahead, in seconds.
    ahead_s: u64,
    /// The server to which it sends the test event.
    server: Option<SocketAddr>,
    /// Its answer about the test event.
    error: Option<&'static str>,
}

const GOOD: Plugin = Plugin { status: 200, ahead_s: 0, server: None, error: None };

/// Makes the site answer as this plugin.
fn install(site: &Site, plugin: Plugin) {
    site.fail_when(move |_, request| {
        let (_, route) = request.path.split_once("/buddyline/v1/")?;
        let sent: Value = serde_json::from_slice(&request.body).unwrap();
        let time = now_s() + plugin.ahead_s;
        let body = match (plugin.status, route, plugin.error) {
            (401, ..) => json!({"code": "buddyline_unauthorized", "data": {"status": 401}}),
            (_, "status", _) => {
                json!({"version": "0.1.0", "features": ["events", "calls"], "time": time})
            }
            (_, _, Some(error)) => json!({"sent": false, "error": error, "status": 0}),
            _ => {
                if let Some(server) = plugin.server {
                    send(server, &[json!({"type": "test", "token": sent["token"]})]);
                }
                json!({"sent": true, "status": 200, "ms": 12})
            }
        };
        let date = http_date(SystemTime::now() + Duration::from_secs(plugin.ahead_s));
        let headers = [("Content-Type", "application/json"), ("Date", &date)];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let body = body.to_string().into_bytes();
        Some(Fault::Answer { status: plugin.status, headers: headers.into(), body })
    });
}

/// The lines about the plugin: names, status, and text with the remedy.
fn examine(site: &Site, listen: &str) -> Vec<(String, String, String)> {
    let secret = SecretFile::with(&[SECRET]);
    let url = site.url();
    let mut command = binary();
    command.args(["doctor", "--json", "--buddyboss-url", &url, "--listen", listen]);
    let output = command.args(["--site-secret-file", secret.path()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains(SECRET), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let findings = report["findings"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    findings
        .map(|finding| {
            let seen = format!("{} {}", text(&finding["seen"]), text(&finding["remedy"]));
            (text(&finding["name"]), text(&finding["status"]), seen)
        })
        .filter(|(name, ..)| name.starts_with("plugin"))
        .collect()
}

#[track_caller]
fn expect(findings: &[(String, String, String)], name: &str, status: &str, part: &str) {
    let found = findings.iter().find(|finding| finding.0 == name);
    let (_, found, seen) = found.unwrap_or_else(|| panic!("no {name}: {findings:?}"));
    assert!(found == status && seen.contains(part), "{name}: {found}, {seen}");
}

#[test]
fn plugin_that_sends_events_to_this_server_passes() {
    let (site, secret) = (Site::start(), SecretFile::with(&[SECRET]));
    let server =
        Server::start(&["--buddyboss-url", &site.url(), "--site-secret-file", secret.path()]);
    let address = server.address();
    install(&site, Plugin { server: Some(address), ..GOOD });
    let findings = examine(&site, &address.to_string());
    assert_eq!(findings.len(), 4);
    expect(&findings, "plugin", "ok", "version 0.1.0: events, calls");
    expect(&findings, "plugin secret", "ok", "accepts");
    expect(&findings, "plugin clock", "ok", "within 60 s");
    expect(&findings, "plugin events", "ok", "arrived at this server after 12 ms");
    // The same through a listener of its own.
    let mut command = binary();
    let url = site.url();
    command.args(["--buddyboss-url", &url, "--site-secret-file", secret.path()]);
    command.args(["--listen", "127.0.0.1:0", "--site-listen", "127.0.0.1:0"]);
    let server = Server::launch(command, 1);
    let log = server.log();
    let own = log.iter().find_map(|line| line.split_once("events of the site on http://"));
    let own = own.unwrap().1.strip_suffix("/site/events").unwrap();
    install(&site, Plugin { server: Some(own.parse().unwrap()), ..GOOD });
    let mut command = binary();
    command.args(["doctor", "--buddyboss-url", &url, "--site-secret-file", secret.path()]);
    let output = command.args(["--site-listen", own, "--listen", "127.0.0.1:0"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("ok       plugin events: a test event arrived at this server"), "{text}");
}

#[test]
fn events_that_do_not_arrive_are_told_apart() {
    let (site, secret) = (Site::start(), SecretFile::with(&[SECRET]));
    let server =
        Server::start(&["--buddyboss-url", &site.url(), "--site-secret-file", secret.path()]);
    let address = server.address().to_string();
    install(&site, GOOD);
    expect(&examine(&site, &address), "plugin events", "failed", "another server has taken it");
    install(&site, Plugin { error: Some("Connection refused"), ..GOOD });
    expect(&examine(&site, &address), "plugin events", "failed", "send events: Connection refused");
    drop(server);
    install(&site, GOOD);
    expect(&examine(&site, &address), "plugin events", "warning", "Start the server");
    install(&site, Plugin { error: Some("Connection refused"), ..GOOD });
    expect(&examine(&site, &address), "plugin events", "failed", "Start the server");
}

#[test]
fn missing_plugin_wrong_secret_and_wrong_clock_are_named() {
    let site = Site::start();
    let unused = "127.0.0.1:9";
    let findings = examine(&site, unused);
    expect(&findings, "plugin", "failed", "Install the plugin");
    for name in ["plugin secret", "plugin clock", "plugin events"] {
        expect(&findings, name, "skipped", "not there");
    }
    install(&site, Plugin { status: 401, ..GOOD });
    let findings = examine(&site, unused);
    expect(&findings, "plugin", "ok", "there");
    expect(&findings, "plugin secret", "failed", "Copy the secret");
    install(&site, Plugin { status: 401, ahead_s: 3_600, ..GOOD });
    let findings = examine(&site, unused);
    expect(&findings, "plugin secret", "skipped", "clocks differ");
    expect(&findings, "plugin clock", "failed", "s ahead of this machine's");
    install(&site, Plugin { ahead_s: 120, ..GOOD });
    expect(&examine(&site, unused), "plugin clock", "warning", "NTP");
    install(&site, Plugin { status: 503, ..GOOD });
    expect(&examine(&site, unused), "plugin", "failed", "status 503");
    let site = Site::start();
    let output = binary().args(["doctor", "--buddyboss-url", &site.url()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("plugin events"), "without a secret there are no such lines: {text}");
}

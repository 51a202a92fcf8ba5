//! `buddyline bench` against real servers: totals, limits, and faults of the server.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::proxy::{FaultyProxy, ProxyFault};
use crate::support::scrape::{self, scrape};
use crate::support::server::{Server, binary, wait_until};

fn bench(url: &str, arguments: &[&str]) -> std::process::Child {
    let mut command = binary();
    command.args(["bench", "--json", "--url", url]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn url(server: &Server) -> String {
    format!("ws://{}", server.address())
}

fn result(child: std::process::Child) -> (Option<i32>, Value, String) {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let report = serde_json::from_slice(&stdout).unwrap_or_default();
    (status.code(), report, String::from_utf8(stderr).unwrap())
}

#[test]
fn hundred_connections_receive_all_and_totals_match() {
    let server = Server::start(&[]);
    let pid = server.id().to_string();
    for kind in ["typing", "message"] {
        let arguments = ["--kind", kind, "--rate", "200", "--pace", "even", "--seconds", "1"];
        let child = bench(&url(&server), &[&arguments[..], &["--pid", &pid]].concat());
        let (code, report, stderr) = result(child);
        assert_eq!(code, Some(0), "{kind}: {report} {stderr}");
        let sent = report["sent"].as_u64().unwrap();
        assert!((199..=201).contains(&sent), "{kind}: {report}");
        assert_eq!(report["joined"], 100);
        assert_eq!(report["expected"], sent * 10, "each frame goes to a thread of ten: {report}");
        assert_eq!(report["delivered"], report["expected"]);
        assert_eq!(report["latency"]["count"], report["delivered"]);
        assert_eq!(report["handshake"]["count"], 100);
        let latency = |part: &str| report["latency"][part].as_f64().unwrap();
        assert!(latency("p50_ms") > 0.0 && latency("p50_ms") <= latency("max_ms"), "{report}");
        assert!(report["server"]["kibJoined"].as_u64().unwrap() > 1_000, "{report}");
    }
}

#[test]
fn remote_server_is_not_loaded_without_consent() {
    let (code, _, stderr) = result(bench("ws://192.0.2.1:8080", &[]));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("192.0.2.1") && stderr.contains("--allow-remote"), "{stderr}");
    let (code, _, stderr) = result(bench("ws://127.0.0.1:1", &["--rate=100000", "--seconds=300"]));
    assert_eq!(code, Some(2), "too many frames to keep in memory");
    assert!(stderr.contains("--rate"), "{stderr}");
}

#[test]
fn killed_server_ends_the_run_and_is_reported() {
    let server = scrape::start(&[]);
    let begun = Instant::now();
    let child = bench(&url(&server), &["--seconds", "60"]);
    wait_until(Duration::from_secs(10), "all hundred are online", || {
        scrape(&server).of("buddyline_users_online") == 100.0
    });
    server.signal("KILL");
    let (code, report, stderr) = result(child);
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(code, Some(1), "{report} {stderr}");
    let closed = report["closed"].as_object().unwrap().values();
    assert_eq!(closed.map(|count| count.as_u64().unwrap()).sum::<u64>(), 100, "{report}");
}

#[test]
fn server_that_only_pings_is_abandoned() {
    let unused = "127.0.0.1:1".parse().unwrap();
    let proxy = FaultyProxy::start(unused, ProxyFault::Pings);
    let begun = Instant::now();
    let url = format!("ws://{}", proxy.address());
    let (code, report, stderr) = result(bench(&url, &["--connections", "3", "--seconds", "1"]));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!((code, &report["joined"]), (Some(1), &0.into()), "{report} {stderr}");
    assert!(report["refused"].to_string().contains("pings without end"), "{report}");
}

#[test]
fn server_limit_is_reported_with_its_setting() {
    let server = Server::start(&["--max-connections", "50"]);
    let output = binary().args(["bench", "--seconds", "1", "--url", &url(&server)]).output();
    let Output { status, stdout, .. } = output.unwrap();
    let table = String::from_utf8(stdout).unwrap();
    assert_eq!(status.code(), Some(1), "{table}");
    assert!(table.contains("refused: HTTP 503") && table.contains("--max-connections"), "{table}");

    let server = Server::start(&["--max-frames-per-second", "1", "--max-frames-burst", "4"]);
    let arguments = ["--connections", "2", "--rate", "20", "--seconds", "1"];
    let (code, report, stderr) = result(bench(&url(&server), &arguments));
    assert_eq!(code, Some(1), "{report} {stderr}");
    assert!(report["errors"]["rate_limited"].as_u64().unwrap() > 0, "{report}");
    assert!(report["missing"].as_u64().unwrap() > 0, "{report}");
}

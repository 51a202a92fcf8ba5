//! STUN and TURN servers for calls: which connections get the list, and its contents.

use std::fs;
use std::process::Output;
use std::time::Duration;

use buddyline::hub::interface::Settings;
use buddyline::protocol::ice::{IceServers, TurnServers};
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::files::SecretFile;
use crate::support::harness::{HubHarness, settings, verified};
use crate::support::server::{Server, binary};
use crate::support::site::Site;

const REQUEST: &str = r#"{"type":"ice_servers","clientId":"i-1"}"#;
const SECRET: &str = "a secret of the tests, which is long";

/// One STUN server, and one TURN server whose credentials are valid for a minute.
fn with_servers(settings: Settings) -> Settings {
    let turn = TurnServers::new(vec!["turn:b".into()], SECRET.as_bytes(), 60);
    let ice = IceServers { stun_urls: vec!["stun:a".into()], turn: Some(turn) };
    Settings { ice, ..settings }
}

/// Checks a list of one STUN and one TURN server, and returns the TURN username.
#[track_caller]
fn turn_username(frame: &Value) -> &str {
    let [stun, turn] = &frame["iceServers"].as_array().unwrap()[..] else { panic!("{frame}") };
    assert_eq!(*stun, json!({ "urls": ["stun:a"] }));
    assert_eq!(turn["urls"], json!(["turn:b"]));
    // Base64 of 20 bytes.
    assert_eq!(turn["credential"].as_str().map(str::len), Some(28), "{frame}");
    assert_eq!(turn.as_object().unwrap().len(), 3, "only fields that browsers know");
    turn["username"].as_str().unwrap()
}

#[test]
fn ice_request_gets_its_own_credential_privately() {
    let mut harness = HubHarness::new(with_servers(settings()));
    let seven = harness.open_as(0, "7");
    let same = harness.open_as(1, "\"7\"");
    let alice = harness.open_as(2, "\"alice\"");
    harness.send(seven, REQUEST);
    let received = harness.received();
    assert_eq!(received.len(), 1, "{received:?}");
    let (to, frame) = &received[0];
    assert_eq!((*to, &frame["type"]), (seven, &json!("ice_servers")));
    assert_eq!((&frame["clientId"], &frame["ttl"]), (&json!("i-1"), &json!(60)));
    assert_eq!(turn_username(frame), format!("{}:7", harness.now.unix_s + 60));
    let first = frame["iceServers"].clone();
    harness.send(same, r#"{"type":"ice_servers"}"#);
    let (to, frame) = harness.received().remove(0);
    assert_eq!((to, &frame["iceServers"]), (same, &first), "the same user in the same second");
    assert!(frame.get("clientId").is_none());
    harness.send(alice, REQUEST);
    let frame = harness.received().remove(0).1;
    assert_eq!(turn_username(&frame), format!("{}:alice", harness.now.unix_s + 60));
    harness.advance(Duration::from_secs(5));
    harness.send(seven, REQUEST);
    let frame = harness.received().remove(0).1;
    assert_eq!(
        turn_username(&frame),
        format!("{}:7", harness.now.unix_s + 60),
        "the expiry moves with the time"
    );
}

#[test]
fn ice_list_is_empty_without_servers() {
    let mut harness = HubHarness::default();
    let seven = harness.open_as(0, "7");
    harness.send(seven, REQUEST);
    harness
        .assert_received(&[(seven, r#"{"type":"ice_servers","iceServers":[],"clientId":"i-1"}"#)]);
}

#[test]
fn anonymous_connection_gets_no_ice_servers() {
    let mut harness = HubHarness::new(with_servers(settings()));
    let stranger = harness.open(0);
    harness.send(stranger, REQUEST);
    let frame = harness.assert_error(stranger, "not_identified");
    assert_eq!((&frame["replyTo"], &frame["clientId"]), (&json!("ice_servers"), &json!("i-1")));
}

#[test]
fn verified_server_issues_turn_credential_to_proven_user() {
    let mut harness = HubHarness::new(with_servers(verified()));
    let stranger = harness.open(0);
    harness.send(stranger, REQUEST);
    harness.assert_error(stranger, "token_required");
    // A claim does not prove the user.
    harness.send(stranger, r#"{"type":"user_connected","userId":7}"#);
    harness.assert_error(stranger, "token_required");
    harness.send(stranger, REQUEST);
    harness.assert_error(stranger, "token_required");

    let conn = harness.open_with(1, "token");
    let (request, _) = harness.next_proof();
    harness.send(conn, REQUEST);
    harness.assert_nothing_received();
    let expires_s = harness.now.unix_s + 10;
    harness.prove(request, 7, Some(expires_s));
    let received = harness.received();
    let [(_, arrival), (to, frame)] = &received[..] else { panic!("{received:?}") };
    assert_eq!((&arrival["type"], *to), (&json!("user_connected"), conn));
    assert_eq!(turn_username(frame), format!("{}:7", harness.now.unix_s + 60));

    harness.advance(Duration::from_secs(10));
    harness.assert_error(conn, "token_expired");
    harness.send(conn, REQUEST);
    harness.assert_error(conn, "token_expired");
}

#[test]
fn refused_token_gets_no_turn_credential() {
    use buddyline::hub::interface::{Answer, Failure};
    let mut harness = HubHarness::new(with_servers(verified()));
    let conn = harness.open_with(0, "token");
    let (request, _) = harness.next_proof();
    harness.send(conn, REQUEST);
    harness.answer(request, Answer::Failed(Failure::TokenRefused));
    let received = harness.received();
    let codes: Vec<_> = received.iter().map(|(_, frame)| frame["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["token_refused", "token_required"]);
}

#[test]
fn changed_ice_settings_apply_to_the_next_answer() {
    let mut harness = HubHarness::new(settings());
    let seven = harness.open_as(0, "7");
    harness.hub.set_settings(with_servers(settings()));
    harness.send(seven, REQUEST);
    turn_username(&harness.received()[0].1);
}

fn request_ice_servers(client: &mut Client) -> Value {
    client.send(&json!({ "type": "ice_servers" }));
    client.expect(|frame| frame["type"] == "ice_servers")
}

#[test]
fn reload_replaces_ice_servers_and_ignores_bad_ones() {
    let secret = SecretFile::with(&[SECRET]);
    let path = std::env::temp_dir().join(format!("buddyline-ice-{}", std::process::id()));
    let site = Site::start();
    let write = |servers: &str| {
        let known = format!("BUDDYLINE_BUDDYBOSS_URL={}\n", site.url());
        let file = format!("BUDDYLINE_TURN_SECRET_FILE={}\n", secret.path());
        fs::write(&path, known + &file + servers).unwrap();
    };
    write("BUDDYLINE_STUN_URL=stun:a\nBUDDYLINE_TURN_URL=turn:b\nBUDDYLINE_TURN_TTL=60s\n");
    let mut command = binary();
    command.args(["--listen", "127.0.0.1:0", "--log-level", "debug"]);
    command.args(["--env-file", path.to_str().unwrap()]);
    let server = Server::launch(command, 1);
    let wait_for_line = |text: &'static str| {
        server.wait_for_log(|lines| lines.iter().any(|line| line.contains(text)));
    };
    let mut seven = Client::proven(server.address(), 7, "user-7");
    let before = request_ice_servers(&mut seven);
    assert!(turn_username(&before).ends_with(":7") && before["ttl"] == 60, "{before}");

    write("BUDDYLINE_STUN_URL=stun:a\nBUDDYLINE_TURN_URL=turn://b\n");
    server.signal("HUP");
    wait_for_line("refused and the old ones kept");
    assert_eq!(request_ice_servers(&mut seven)["ttl"], 60);

    fs::write(secret.path(), "another secret, which is long enough\n").unwrap();
    write("BUDDYLINE_TURN_URL=turn:c?transport=tcp,turn:d\n");
    server.signal("HUP");
    wait_for_line("settings reloaded");
    let after = request_ice_servers(&mut seven);
    assert_eq!(after["iceServers"][0]["urls"], json!(["turn:c?transport=tcp", "turn:d"]));
    assert_eq!(after["ttl"], 86_400);
    for frame in [&before, &after] {
        let servers = frame["iceServers"].as_array().unwrap();
        let password = servers.last().unwrap()["credential"].as_str().unwrap();
        let is_logged = server.log().iter().any(|line| line.contains(password));
        assert!(!is_logged, "a password is in the log");
    }
    assert!(!server.log().iter().any(|line| line.contains("secret, which")));
    fs::remove_file(path).unwrap();
}

#[test]
fn turn_secret_is_read_from_systemd_credential() {
    let folder = std::env::temp_dir().join(format!("buddyline-ice-keys-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("turn-secret"), SECRET).unwrap();
    // The systemd unit sets a blank credential if the operator has none.
    fs::write(folder.join("jwt-secret"), "\n").unwrap();
    let start = |arguments: &[&str]| {
        let mut command = binary();
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        command.env("CREDENTIALS_DIRECTORY", &folder);
        Server::launch(command, 1)
    };
    let server = start(&["--trust", "open", "--turn-url", "turn:b"]);
    let frame = request_ice_servers(&mut Client::as_user(server.address(), 7));
    assert_eq!(frame["iceServers"][0]["urls"], json!(["turn:b"]));
    fs::write(folder.join("turn-secret"), "\n").unwrap();
    let server = start(&[]);
    let frame = request_ice_servers(&mut Client::as_user(server.address(), 7));
    assert_eq!(frame["iceServers"], json!([]));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn open_trust_with_turn_logs_a_warning() {
    let secret = SecretFile::with(&[SECRET]);
    let turn = ["--turn-url", "turn:b", "--turn-secret-file", secret.path()];
    let server = Server::start(&[&turn[..], &["--trust", "open"]].concat());
    let warned = |lines: &[String]| {
        lines.iter().any(|line| line.contains("WARN") && line.contains("TURN server"))
    };
    server.wait_for_log(|lines| warned(lines));
    let mut seven = Client::as_user(server.address(), 7);
    let frame = request_ice_servers(&mut seven);
    assert!(frame["iceServers"][0]["username"].as_str().unwrap().ends_with(":7"), "{frame}");

    // Without an explicit `--trust open` the server does not start.
    let output = binary().args(["--listen", "127.0.0.1:0"]).args(turn).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--trust open to allow that"), "{stderr}");
}

#[test]
fn check_config_reports_ice_servers_without_the_secret() {
    let secret = SecretFile::with(&["s3cret"]);
    let check = |arguments: &[&str]| {
        let mut command = binary();
        command.args(["check-config", "--listen", "127.0.0.1:0", "--turn-secret-file"]);
        command.args([secret.path(), "--buddyboss-url", "https://community.example"]);
        let Output { status, stdout, stderr } = command.args(arguments).output().unwrap();
        let text = String::from_utf8([stdout, stderr].concat()).unwrap();
        assert!(!text.contains("s3cret"), "{text}");
        (status.code().unwrap(), text)
    };
    let (code, text) = check(&["--stun-url", "stun:a", "--turn-url", "turn:b"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("ok       STUN and TURN: stun:a, turn:b; credentials for 1day"),
        "{text}"
    );
    assert!(text.contains("warning  TURN secret file: ") && text.contains("6 bytes"), "{text}");
    let (code, text) = check(&["--turn-url", "turn:alice:s3cret@b"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("--turn-url") && text.contains("turn:HOST"), "{text}");
    assert_eq!(check(&[]).0, 2, "a secret without a TURN server");
}

#[test]
fn ice_requests_are_rate_limited() {
    let server = Server::start(&["--max-frames-burst", "3", "--max-frames-per-second", "1"]);
    let mut seven = Client::as_user(server.address(), 7);
    for _ in 0..3 {
        seven.send(&json!({ "type": "ice_servers" }));
    }
    assert_eq!(seven.expect_error("rate_limited")["replyTo"], "ice_servers");
}

//! The server under systemd: notifications (sd_notify), socket activation, and reload of the
//! settings (SIGHUP).

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::support::client::Client;
use crate::support::files::SecretFile;
use crate::support::jwt;
use crate::support::server::{Server, binary, wait_until};
use crate::support::site::Site;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// The service manager's end of the notification socket.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(name: &str) -> Manager {
        let name = format!("buddyline-notify-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        Manager { socket, path }
    }

    /// Starts a server that notifies this manager, with this watchdog interval.
    fn start(&self, watchdog: Duration, arguments: &[&str]) -> Server {
        let mut command = binary();
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        command.env("NOTIFY_SOCKET", &self.path);
        command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        Server::launch(command, 1)
    }

    /// The assignments received within this time, such as `READY=1`.
    fn take_messages(&self, within: Duration) -> Vec<String> {
        let until = Instant::now() + within;
        let mut messages = Vec::new();
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.socket.set_read_timeout(Some(left.max(MS))).unwrap();
            let mut bytes = [0; 4096];
            let Ok(count) = self.socket.recv(&mut bytes) else { break };
            let text = std::str::from_utf8(&bytes[..count]).unwrap();
            messages.extend(text.lines().map(str::to_owned));
        }
        messages
    }

    /// Waits for an assignment with this prefix, and returns all until then.
    fn wait_for(&self, prefix: &str) -> Vec<String> {
        let until = Instant::now() + 10 * S;
        let mut messages = Vec::new();
        while !messages.iter().any(|message: &String| message.starts_with(prefix)) {
            assert!(Instant::now() < until, "no {prefix}: {messages:?}");
            messages.extend(self.take_messages(50 * MS));
        }
        messages
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

// ---- sd_notify

#[test]
fn systemd_is_notified_of_ready_status_and_stopping() {
    let manager = Manager::new("states");
    let mut server = manager.start(10 * S, &[]);
    let received = manager.wait_for("STATUS=");
    assert_eq!(received[0], "READY=1");
    assert!(received.contains(&"STATUS=0 connections, 0 threads".to_owned()), "{received:?}");
    let _seven = Client::in_thread(server.address(), 7, 41);
    manager.wait_for("STATUS=1 connections, 1 threads");
    server.signal("TERM");
    let received = manager.wait_for("STOPPING=1");
    let received = [received, manager.take_messages(300 * MS)].concat();
    assert!(
        received.iter().any(|message| message == "EXTEND_TIMEOUT_USEC=15000000"),
        "{received:?}"
    );
    server.exit(5 * S);
}

#[test]
fn long_drain_extends_the_stop_timeout_repeatedly() {
    let manager = Manager::new("drain");
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    let url = site.url();
    let arguments = ["--buddyboss-url", &url, "--trust", "open", "--drain-timeout", "6s"];
    let mut server = manager.start(10 * S, &arguments);
    let mut seven = Client::in_thread(server.address(), 7, 41);
    site.set_latency(5 * S);
    seven.send(&json!({
        "type": "send_message", "threadId": 41, "message": "x", "senderId": 7,
        "token": "user-7", "clientId": "a",
    }));
    seven.drain();
    server.signal("TERM");
    let received = manager.take_messages(5 * S);
    let extensions =
        received.iter().filter(|message| message.starts_with("EXTEND_TIMEOUT_USEC=")).count();
    assert!((2..=4).contains(&extensions), "{received:?}");
    assert!(
        received.iter().any(|message| message.starts_with("STATUS=draining, ")),
        "{received:?}"
    );
    server.exit(10 * S);
}

#[test]
fn watchdog_is_notified_only_by_the_event_loop() {
    let manager = Manager::new("watchdog");
    let server = manager.start(2 * S, &[]);
    manager.wait_for("READY=1");
    let watchdog_pings =
        |messages: &[String]| messages.iter().filter(|message| *message == "WATCHDOG=1").count();
    let received = manager.take_messages(2 * S);
    assert!((3..=5).contains(&watchdog_pings(&received)), "four in two seconds: {received:?}");
    server.signal("STOP");
    manager.take_messages(100 * MS);
    let received = manager.take_messages(S);
    assert_eq!(watchdog_pings(&received), 0, "{received:?}");
    server.signal("CONT");
    manager.wait_for("WATCHDOG=1");
}

#[test]
fn unread_notify_socket_does_not_block_the_server() {
    let manager = Manager::new("unread");
    // Some hundred datagrams that are not read: more than the socket holds.
    let server = manager.start(40 * MS, &[]);
    thread::sleep(2 * S);
    let mut seven = Client::in_thread(server.address(), 7, 41);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    let begun = Instant::now();
    seven.send(&json!({ "type": "typing", "threadId": 41, "userId": 7, "typing": true }));
    eight.expect(|frame| frame["type"] == "typing");
    assert!(begun.elapsed() < 4 * S, "{:?}", begun.elapsed());
}

#[test]
fn ready_is_resent_when_the_notify_socket_was_full() {
    let manager = Manager::new("full");
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"X=1", &manager.path).is_ok() {}
    let server = manager.start(10 * S, &[]);
    Client::in_thread(server.address(), 7, 41);
    let received = manager.wait_for("READY=1");
    assert!(
        received.iter().filter(|message| *message == "X=1").count() > 5,
        "it was full: {received:?}"
    );
    // Once delivered, it is not sent again.
    assert!(!manager.take_messages(S / 2).iter().any(|message| message == "READY=1"));
}

#[test]
fn tiny_watchdog_interval_does_not_busy_the_loop() {
    let manager = Manager::new("hasty");
    let server = manager.start(Duration::from_micros(1), &[]);
    manager.wait_for("WATCHDOG=1");
    let watchdog_pings =
        manager.take_messages(S).iter().filter(|message| *message == "WATCHDOG=1").count();
    assert!((10..=1_100).contains(&watchdog_pings), "{watchdog_pings}");
    Client::in_thread(server.address(), 7, 41);
}

#[test]
fn server_runs_without_a_notify_socket() {
    let mut command = binary();
    command.args(["--listen", "127.0.0.1:0"]).env("NOTIFY_SOCKET", "/nowhere/at all");
    let server = Server::launch(command, 1);
    assert!(server.log().iter().any(|line| line.contains("service manager")));
    Client::in_thread(server.address(), 7, 41);
}

// ---- socket activation

/// Starts a server with this socket, passed as systemd does: as descriptor 3.
fn start_on(socket: &TcpListener, arguments: &[&str]) -> Server {
    let mut command = Command::new("sh");
    command.arg("-c").arg("exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"");
    command.arg("sh").arg(env!("CARGO_BIN_EXE_buddyline")).args(arguments);
    command.stdin(Stdio::null());
    let socket = socket.try_clone().unwrap();
    Server::launch_with(command, 1, Stdio::from(std::os::fd::OwnedFd::from(socket)))
}

#[test]
fn connection_during_restart_is_served_by_the_next_server() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut first = start_on(&socket, &["--listen", "127.0.0.1:1"]);
    assert_eq!(first.addresses(), [address], "--listen is ignored");
    let _seven = Client::in_thread(address, 7, 41);
    first.signal("TERM");
    first.wait_for_log(|lines| lines.iter().any(|line| line.contains("draining")));
    // The draining server neither accepts nor refuses it.
    let waiting = thread::spawn(move || Client::in_thread(address, 8, 41));
    thread::sleep(200 * MS);
    assert_eq!(first.exit(5 * S).code(), Some(0));
    assert!(!waiting.is_finished());
    let _second = start_on(&socket, &[]);
    waiting.join().unwrap();
}

#[test]
fn passed_descriptor_that_is_not_a_listener_is_refused() {
    let mut command = Command::new("sh");
    command.arg("-c").arg("exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"");
    command.arg("sh").arg(env!("CARGO_BIN_EXE_buddyline")).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!output.stderr.is_empty());
}

// ---- reload of the settings

fn wait_for_log_line(server: &Server, words: &str) {
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains(words)));
}

/// Opens a WebSocket as a web page of this origin; returns the status of the response.
fn status_for_origin(server: &Server, origin: &str) -> String {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Origin: {origin}\r\n\r\n"
    );
    let mut socket = TcpStream::connect(server.address()).unwrap();
    std::io::Write::write_all(&mut socket, request.as_bytes()).unwrap();
    let mut status = [0; 12];
    std::io::Read::read_exact(&mut socket, &mut status).unwrap();
    String::from_utf8_lossy(&status[9..]).into_owned()
}

/// Repeats the request until it has this status: the previous connection may still count.
fn wait_for_status(server: &Server, origin: &str, expected: &str) {
    wait_until(5 * S, expected, || status_for_origin(server, origin) == expected);
    // Time for the server to notice the disconnect.
    thread::sleep(50 * MS);
}

#[test]
fn reload_changes_level_origins_and_limits_live() {
    let file = SecretFile::with(&["BUDDYLINE_ALLOWED_ORIGIN=https://old.example"]);
    let manager = Manager::new("reload");
    let server = manager.start(10 * S, &["--env-file", file.path()]);
    manager.wait_for("READY=1");
    let mut seven = Client::in_thread(server.address(), 7, 41);
    let mut eight = Client::in_thread(server.address(), 8, 41);
    assert_eq!(status_for_origin(&server, "https://old.example"), "101");
    assert_eq!(status_for_origin(&server, "https://new.example"), "403");
    fs::write(
        file.path(),
        "BUDDYLINE_ALLOWED_ORIGIN=https://new.example\nBUDDYLINE_LOG_LEVEL=debug\n\
         BUDDYLINE_MAX_CONNECTIONS=3\nBUDDYLINE_MAX_FRAME_BYTES=1024\nBUDDYLINE_LISTEN=127.0.0.1:1\n",
    )
    .unwrap();
    server.signal("HUP");
    let received = manager.wait_for("READY=1");
    let reloading = received.iter().position(|message| message == "RELOADING=1").unwrap();
    assert!(received[reloading + 1].starts_with("MONOTONIC_USEC="), "{received:?}");
    // --listen is set on the command line, which takes precedence, so it has not changed.
    assert!(!server.log().iter().any(|line| line.contains("--listen has changed")));
    assert_eq!(status_for_origin(&server, "https://new.example"), "101");
    wait_for_status(&server, "https://old.example", "403");
    wait_for_log_line(&server, "DEBUG");
    wait_for_status(&server, "https://new.example", "101");
    let _third = Client::as_user(server.address(), 9);
    assert_eq!(
        status_for_origin(&server, "https://new.example"),
        "503",
        "the new limit on connections"
    );
    seven.send(&json!({ "type": "typing", "threadId": 41, "userId": 7, "typing": true }));
    eight.expect(|frame| frame["type"] == "typing");
    seven.send(&json!({ "type": "typing", "threadId": 41, "x": "y".repeat(2_000) }));
    assert_eq!(seven.close_code(), Some(1009), "the new limit on the size of a frame");
}

#[test]
fn reload_with_bad_settings_keeps_the_old_ones() {
    let file = SecretFile::with(&["BUDDYLINE_ALLOWED_ORIGIN=https://old.example"]);
    let server = Server::start(&["--env-file", file.path()]);
    for (text, why) in [
        ("BUDDYLINE_ALLOWED_ORIGIN=https://new.example\nBUDDYLINE_MAX_JOINS=many", "--max-joins"),
        ("BUDDYLINE_ALLOWED_ORIGIN=https://new.example\nBUDDYLINE_TRUST=verified", "--trust"),
        (
            "BUDDYLINE_ALLOWED_ORIGIN=https://new.example\nBUDDYLINE_MAX_JOIN=5",
            "BUDDYLINE_MAX_JOIN ",
        ),
        ("BUDDYLINE_ALLOWED_ORIGIN=https://new.example\nwhat?", "line 2"),
    ] {
        fs::write(file.path(), text).unwrap();
        server.signal("HUP");
        server.wait_for_log(|lines| {
            lines.iter().any(|line| line.contains("ERROR") && line.contains(why))
        });
        assert_eq!(status_for_origin(&server, "https://old.example"), "101");
        assert_eq!(status_for_origin(&server, "https://new.example"), "403");
    }
    fs::remove_file(file.path()).unwrap();
    server.signal("HUP");
    wait_for_log_line(&server, "cannot be read");
    assert_eq!(status_for_origin(&server, "https://old.example"), "101");
}

#[test]
fn non_regular_settings_file_is_refused_without_blocking() {
    let file = SecretFile::with(&["BUDDYLINE_LOG_LEVEL=info"]);
    let pipe = Pipe::new();
    let server = Server::start(&["--env-file", file.path()]);
    let mut seven = Client::in_thread(server.address(), 7, 41);
    for (text, why) in [
        (format!("BUDDYLINE_JWT_SECRET_FILE={}", pipe.0), "--jwt-secret-file"),
        (format!("BUDDYLINE_TLS_CERT={0}\nBUDDYLINE_TLS_KEY={0}", pipe.0), "--tls-cert"),
        ("BUDDYLINE_JWT_SECRET_FILE=/dev/zero".to_owned(), "/dev/zero"),
    ] {
        fs::write(file.path(), text).unwrap();
        server.signal("HUP");
        let names_file = |line: &String| line.contains("not a regular file") && line.contains(why);
        server.wait_for_log(|lines| lines.iter().any(names_file));
        seven.drain();
    }
    for name in [&*pipe.0, "/dev/zero", "/"] {
        let mut command = binary();
        let mut child = command
            .args(["check-config", "--env-file", name])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ends = (0..500).any(|_| {
            thread::sleep(10 * MS);
            child.try_wait().unwrap().is_some()
        });
        if !ends {
            child.kill().unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), Some(2), "{name}");
    }
}

/// A named pipe without a writer; removed when dropped.
struct Pipe(String);

impl Pipe {
    fn new() -> Pipe {
        let name = format!("buddyline-pipe-{}", std::process::id());
        let path = std::env::temp_dir().join(name).to_str().unwrap().to_owned();
        assert!(Command::new("mkfifo").args(["-m", "600", &path]).status().unwrap().success());
        Pipe(path)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn reload_names_settings_that_need_a_restart() {
    let file = SecretFile::with(&["BUDDYLINE_UPSTREAM_WORKERS=2"]);
    let server = Server::start(&["--env-file", file.path()]);
    fs::write(file.path(), "BUDDYLINE_UPSTREAM_WORKERS=3\nBUDDYLINE_LOG_LEVEL=debug").unwrap();
    server.signal("HUP");
    wait_for_log_line(&server, "--upstream-workers has changed: it takes effect at the next start");
    wait_for_log_line(&server, "settings reloaded");
}

#[test]
fn changed_site_and_address_need_a_restart() {
    let secret = SecretFile::with(&["a secret of the tests, which is long enough"]);
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    site.set_jwt_secret("a secret of the tests, which is long enough");
    let url = site.url();
    let lines =
        format!("BUDDYLINE_JWT_SECRET_FILE={}\nBUDDYLINE_LISTEN=127.0.0.1:0", secret.path());
    let file = SecretFile::with(&[&lines, &format!("BUDDYLINE_BUDDYBOSS_URL={url}")]);
    let mut command = binary();
    command.args(["--env-file", file.path()]);
    let server = Server::launch(command, 1);
    wait_for_log_line(&server, "REST API answers");
    // A host that does not exist: a reload does not resolve it.
    let other = lines.replace("127.0.0.1:0", "nobody.invalid:80");
    let other = format!("{other}\nBUDDYLINE_BUDDYBOSS_URL=https://other.example\n");
    fs::write(file.path(), &other).unwrap();
    server.signal("HUP");
    wait_for_log_line(&server, "--listen has changed: it takes effect at the next start");
    wait_for_log_line(&server, "--buddyboss-url has changed: it takes effect at the next start");
    wait_for_log_line(&server, "settings reloaded");
    Client::proven(server.address(), 7, &site.jwt(7, 600 * S));
    // A start reports it.
    let output = binary().args(["check-config", "--env-file", file.path()]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--listen nobody.invalid:80"), "{stderr}");
}

#[test]
fn settings_file_beats_environment_and_flag_beats_both() {
    let file = SecretFile::with(&[
        "BUDDYLINE_LOG_LEVEL=debug",
        "BUDDYLINE_NO_LIMITS=off",
        "BUDDYLINE_MAX_JOINS='7'",
        "BUDDYLINE_LISTEN=",
    ]);
    let check = |arguments: &[&str], file: Option<&str>| {
        let mut command = binary();
        command.arg("check-config").args(arguments).env("BUDDYLINE_MAX_JOINS", "none");
        file.map(|file| command.env("BUDDYLINE_ENV_FILE", file));
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(check(&[], Some(file.path())), (0, String::new()));
    assert_eq!(check(&["--env-file", file.path()], None).0, 0);
    assert_eq!(check(&[], None).0, 2, "without a file the environment is read");
    let bad = SecretFile::with(&["BUDDYLINE_MAX_JOINS=many"]);
    let (code, stderr) = check(&[], Some(bad.path()));
    assert!(code == 2 && stderr.contains("--max-joins") && stderr.contains(bad.path()), "{stderr}");
    assert_eq!(check(&["--max-joins=5"], Some(bad.path())).0, 0, "a flag takes precedence");
    assert_eq!(check(&["--max-joins", "5"], Some(bad.path())).0, 0, "a flag takes precedence");
    let (code, stderr) = check(&[], Some("/nowhere/at all"));
    assert!(code == 2 && stderr.contains("/nowhere/at all"), "{stderr}");
    assert_eq!(check(&[], Some("-/nowhere/at all")).0, 0);
}

#[test]
fn reload_applies_new_jwt_secret_and_ignores_a_bad_one() {
    let (old, new) =
        ("the old secret, which is long enough", "the new secret, which is no shorter");
    let file = SecretFile::with(&[old]);
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    site.set_jwt_secret(old);
    let url = site.url();
    let args = ["--buddyboss-url", &url, "--jwt-secret-file", file.path()];
    // Otherwise typing asks the site, which no longer accepts the old token.
    let server = Server::start(&[&args[..], &["--user-proof-lasts", "0s"]].concat());
    wait_for_log_line(&server, "REST API answers");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let token = |secret: &str, user| jwt::token(secret, &url, user, now, |_, _| ());
    let mut seven = Client::proven(server.address(), 7, &token(old, 7));
    seven.join(41);
    fs::write(file.path(), "one\ntwo\nthree").unwrap();
    server.signal("HUP");
    wait_for_log_line(&server, "the new settings are refused and the old ones kept");
    Client::proven(server.address(), 8, &token(old, 8));
    fs::write(file.path(), new).unwrap();
    site.set_jwt_secret(new);
    server.signal("HUP");
    wait_for_log_line(&server, "settings reloaded");
    let mut eight = Client::proven(server.address(), 8, &token(new, 8));
    eight.join(41);
    // A token that is not in the cache of proven tokens.
    let other = jwt::token(old, &url, 8, now - 1, |_, _| ());
    let path = format!("/?token={other}");
    Client::at(server.address(), &path, &[]).expect_error("token_refused");
    // A connection that is authenticated already stays so.
    seven.send(&json!({ "type": "typing", "threadId": 41, "typing": true }));
    eight.expect(|frame| frame["type"] == "typing");
    assert!(!server.log().iter().any(|line| line.contains("secret, which")));
}

//! Faults of the log output: a stalled reader, a closed pipe, a full disk. Clients must not notice.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::Client;
use crate::support::server::binary;

const S: Duration = Duration::from_secs(1);
/// Far above the delivery time on a busy machine, far below a wait for the log's reader.
const SOON: Duration = Duration::from_millis(500);

/// A server whose standard error the test controls; killed when dropped.
struct ServerWithStderr {
    child: Child,
    address: SocketAddr,
}

impl ServerWithStderr {
    /// Starts a server at log level `debug`, and waits until it accepts connections.
    fn start(stderr: Stdio) -> ServerWithStderr {
        ServerWithStderr::launch(binary(), stderr)
    }

    fn launch(mut command: Command, stderr: Stdio) -> ServerWithStderr {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        command.args(["--log-level", "debug", "--listen", &address.to_string()]);
        command.args(["--max-frames-per-second", "0"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().unwrap();
        let until = Instant::now() + 10 * S;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "the server does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        ServerWithStderr { child, address }
    }

    /// Sends this many messages from one user to another; each must arrive within [`SOON`]. Each
    /// message causes some log lines.
    fn assert_serves(&self, messages: usize) {
        let mut one = Client::in_thread(self.address, 7, 41);
        let mut other = Client::in_thread(self.address, 8, 41);
        let mut slowest = Duration::ZERO;
        for n in 0..messages {
            let begun = Instant::now();
            one.send(&json!({"type": "send_message", "threadId": 41, "message": n.to_string()}));
            other.expect(|frame| frame["message"] == *n.to_string());
            slowest = slowest.max(begun.elapsed());
        }
        assert!(slowest < SOON, "{slowest:?}");
    }

    /// Stops the server with SIGTERM; it must exit within four seconds, with code 0.
    fn assert_clean_exit(&mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(0));
                return;
            }
            assert!(begun.elapsed() < 4 * S, "one second to flush, and one to close connections");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for ServerWithStderr {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The log lines up to the one with the listening address.
fn first_lines(log: &mut BufReader<ChildStderr>) -> Vec<String> {
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &String| line.contains("listening on")) {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "the log has ended: {lines:?}");
        lines.push(line);
    }
    lines
}

#[test]
fn stderr_closed_at_start_is_harmless() {
    let mut command = Command::new("sh");
    command.arg("-c").arg("exec \"$0\" \"$@\" 2>&-").arg(env!("CARGO_BIN_EXE_buddyline"));
    let mut server = ServerWithStderr::launch(command, Stdio::null());
    server.assert_serves(300);
    server.assert_clean_exit();
}

#[test]
fn log_reader_going_away_is_harmless() {
    let mut server = ServerWithStderr::start(Stdio::piped());
    let mut log = BufReader::new(server.child.stderr.take().unwrap());
    first_lines(&mut log);
    drop(log);
    server.assert_serves(300);
    server.assert_clean_exit();
}

#[test]
fn full_disk_under_the_log_is_harmless() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut server = ServerWithStderr::start(full.into());
    server.assert_serves(300);
    server.assert_clean_exit();
}

#[test]
fn stalled_log_reader_costs_only_log_lines() {
    let mut server = ServerWithStderr::start(Stdio::piped());
    let mut log = BufReader::new(server.child.stderr.take().unwrap());
    first_lines(&mut log);
    // Many more lines than the pipe and the channel hold.
    server.assert_serves(8_000);
    server.assert_serves(10);

    // The reader continues: it gets the kept lines, the number of lost ones, and the new ones.
    let (found, counts) = std::sync::mpsc::channel();
    let reader = thread::spawn(move || {
        let mut line = String::new();
        while log.read_line(&mut line).unwrap() > 0 {
            if let Some((before, _)) = line.split_once(" log lines were lost") {
                let count = before.rsplit(' ').next().unwrap_or_default();
                let _ = found.send(count.to_owned());
            }
            line.clear();
        }
    });
    let until = Instant::now() + 10 * S;
    let lost_lines = loop {
        assert!(Instant::now() < until, "no line with the number of lost lines");
        server.assert_serves(1);
        if let Ok(lost_lines) = counts.recv_timeout(Duration::from_millis(50)) {
            break lost_lines;
        }
    };
    assert!(lost_lines.parse::<usize>().unwrap() > 1_000, "{lost_lines}");
    server.assert_clean_exit();
    reader.join().unwrap();
}

#[test]
fn stop_does_not_wait_for_a_stalled_log_reader() {
    let mut server = ServerWithStderr::start(Stdio::piped());
    let log = BufReader::new(server.child.stderr.take().unwrap());
    server.assert_serves(6_000);
    server.assert_clean_exit();
    drop(log);
}

#[test]
fn last_log_lines_are_flushed_before_exit() {
    let mut server = ServerWithStderr::start(Stdio::piped());
    let mut log = BufReader::new(server.child.stderr.take().unwrap());
    let first = first_lines(&mut log);
    assert!(
        first.iter().all(|line| !line.contains('\x1b')),
        "no colours without a terminal: {first:?}"
    );
    server.assert_serves(50);
    let reader = thread::spawn(move || {
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
        rest
    });
    server.assert_clean_exit();
    let rest = reader.join().unwrap();
    assert!(rest.lines().last().unwrap().contains("stopped: "), "{rest}");
    assert!(!rest.contains("lost"));
}

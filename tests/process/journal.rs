//! The log where it goes wrong: nobody reads it, nobody is there, nothing can be written. Members
//! feel nothing of it.

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
/// Far above what a busy machine does, far below what a wait for a reader would be.
const SOON: Duration = Duration::from_millis(500);

/// A server whose standard error is the test's affair; killed when dropped.
struct ServerWithStderr {
    child: Child,
    address: SocketAddr,
}

impl ServerWithStderr {
    /// Starts a server that logs a lot, and waits until it is there.
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
            assert!(Instant::now() < until, "it does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        ServerWithStderr { child, address }
    }

    /// Two people in a thread write so many messages, and each is heard soon. Each causes some
    /// lines of log.
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

    /// Ends it with a signal: soon, and well.
    fn assert_clean_exit(&mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(0));
                return;
            }
            assert!(begun.elapsed() < 4 * S, "a second to flush, and one to say goodbye");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for ServerWithStderr {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a log up to the one about where it listens.
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

    // It reads again: what was kept, how much was lost, and what comes now.
    let (found, wait) = std::sync::mpsc::channel();
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
    let lost = loop {
        assert!(Instant::now() < until, "nobody says what was lost");
        server.assert_serves(1);
        if let Ok(lost) = wait.recv_timeout(Duration::from_millis(50)) {
            break lost;
        }
    };
    assert!(lost.parse::<usize>().unwrap() > 1_000, "{lost}");
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
        "colours are for terminals: {first:?}"
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

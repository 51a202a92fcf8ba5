//! Runs the built binary on a free port and collects its output; the process is killed when dropped.

#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than a start or a stop should take.
const LONG: Duration = Duration::from_secs(10);

/// How often the state of a process is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A server in a process of its own.
pub struct Server {
    child: Child,
    log: Arc<Log>,
    addresses: Vec<SocketAddr>,
}

/// The output of a process on both standard streams.
#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Default)]
struct Lines {
    all: Vec<String>,
    /// The number of streams that have ended.
    ended: usize,
}

/// Standard output and standard error.
const STREAMS: usize = 2;

/// The server's command, without arguments and without variables that it reads.
pub fn binary() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_buddyline")))
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_ascii_uppercase();
        let begins = ["BUDDYLINE_", "SSL_CERT_"].iter().any(|begin| upper.starts_with(begin));
        if begins || upper.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command
}

impl Server {
    /// Starts a server on a free port of 127.0.0.1 with additional arguments.
    pub fn start(arguments: &[&str]) -> Server {
        let mut command = binary();
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        Server::launch(command, 1)
    }

    /// Starts a server on a free port with this limit of file descriptors.
    pub fn start_with_descriptors(count: u32, arguments: &[&str]) -> Server {
        let mut command = clean(Command::new("sh"));
        command.arg("-c").arg(format!("ulimit -n {count}; exec \"$0\" \"$@\""));
        command.arg(env!("CARGO_BIN_EXE_buddyline"));
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        Server::launch(command, 1)
    }

    /// Sets the limit of file descriptors of the running process.
    pub fn limit_descriptors(&self, count: u64) {
        let pid = self.child.id().try_into().unwrap();
        rlimit::prlimit(pid, rlimit::Resource::NOFILE, Some((count, count)), None).unwrap();
    }

    /// Starts a command and waits until it has logged this many listeners.
    pub fn launch(command: Command, listeners: usize) -> Server {
        Server::launch_with(command, listeners, Stdio::null())
    }

    /// The same, with this standard input.
    pub fn launch_with(mut command: Command, listeners: usize, stdin: Stdio) -> Server {
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Log::default());
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (out, err) = (log.clone(), log.clone());
        thread::spawn(move || out.follow(BufReader::new(stdout)));
        thread::spawn(move || err.follow(BufReader::new(stderr)));
        let mut server = Server { child, log, addresses: Vec::new() };
        server.wait_for_log(|lines| addresses(lines).len() >= listeners);
        server.addresses = addresses(&server.log());
        server
    }

    /// The address of the first listener.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The addresses of all listeners.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The lines written so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().all.clone()
    }

    /// The whole output; waits until the process has closed both streams.
    pub fn final_output(&self) -> String {
        let lines = self.log.lines.lock().unwrap();
        let writes = |lines: &mut Lines| lines.ended < STREAMS;
        let (lines, waited) = self.log.more.wait_timeout_while(lines, LONG, writes).unwrap();
        assert!(!waited.timed_out(), "the process is still writing");
        lines.all.join("\n")
    }

    /// Waits until the log satisfies `wanted`.
    pub fn wait_for_log(&self, wanted: impl Fn(&[String]) -> bool) {
        let until = Instant::now() + LONG;
        let mut lines = self.log.lines.lock().unwrap();
        while !wanted(&lines.all) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.ended == STREAMS {
                // Dropping the server in the panic prints the log, which takes the lock.
                drop(lines);
                panic!("the expected log lines did not appear");
            }
            lines = self.log.more.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let sent = Command::new("kill").args([format!("-{name}"), id]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until the process ends by itself.
    pub fn exit(&mut self, within: Duration) -> ExitStatus {
        let until = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "still running after {within:?}: {:#?}", self.log());
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Processor time used so far, in clock ticks of 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        ticks(Path::new(&format!("/proc/{}", self.id())))
    }

    /// Processor time used so far by all threads, and by the first one, which runs the event loop.
    pub fn cpu_time(&self) -> (Duration, Duration) {
        let mut all = Duration::ZERO;
        let mut of_loop = Duration::ZERO;
        for task in fs::read_dir(format!("/proc/{}/task", self.id())).unwrap() {
            let task = task.unwrap();
            // As in `stat`, but in nanoseconds; not every kernel has this file.
            let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let nanos = stat.split(' ').next().and_then(|text| text.parse().ok());
            let time = match nanos {
                Some(nanos) => Duration::from_nanos(nanos),
                None => Duration::from_millis(10 * ticks(&task.path())),
            };
            all += time;
            if task.file_name() == *self.id().to_string() {
                of_loop = time;
            }
        }
        (all, of_loop)
    }

    /// Processor time of the event loop's thread, and the time for which it was ready to run but had
    /// no processor; zero where the kernel does not say.
    pub fn loop_schedule(&self) -> (Duration, Duration) {
        let stat = fs::read_to_string(format!("/proc/{}/schedstat", self.id())).unwrap_or_default();
        let mut nanos = stat.split(' ').map(|text| Duration::from_nanos(text.parse().unwrap_or(0)));
        (nanos.next().unwrap_or_default(), nanos.next().unwrap_or_default())
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The number of open file descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap().count()
    }

    /// Sends bytes on a new connection and returns the response, until the end of the stream.
    pub fn ask(&self, bytes: &[u8]) -> String {
        ask(self.address(), bytes)
    }
}

/// Polls until `holds` is true; panics with `what` after `within`.
pub fn wait_until(within: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + within;
    while !holds() {
        assert!(Instant::now() < until, "not within {within:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Processor time in user and system mode, in clock ticks, of the process or thread with this
/// folder in `/proc`.
fn ticks(folder: &Path) -> u64 {
    let stat = fs::read_to_string(folder.join("stat")).unwrap();
    // The name in parentheses may contain spaces and parentheses.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
}

/// Sends bytes on a new connection and reads the response until the end of the stream.
pub fn ask(address: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

/// Reads a response up to the end of the stream, or of the head of a 101.
pub fn read_response(socket: &mut impl Read) -> String {
    let mut response = Vec::new();
    let mut byte = [0];
    while socket.read(&mut byte).unwrap() == 1 {
        response.push(byte[0]);
        if response.starts_with(b"HTTP/1.1 101") && response.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    String::from_utf8(response).unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the server's log: {:#?}", self.log());
        }
    }
}

impl Log {
    fn follow(&self, from: impl BufRead) {
        // Lines that are not UTF-8 are kept as well.
        for line in from.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            self.lines.lock().unwrap().all.push(line);
            self.more.notify_all();
        }
        self.lines.lock().unwrap().ended += 1;
        self.more.notify_all();
    }
}

fn addresses(lines: &[String]) -> Vec<SocketAddr> {
    let found = lines.iter().filter_map(|line| line.split_once("listening on ws"));
    let found = found.filter_map(|(_, rest)| rest.trim_start_matches('s').strip_prefix("://"));
    // In JSON logs a quote follows the address.
    let found = found.filter_map(|rest| rest.split('"').next());
    found.filter_map(|address| address.trim().parse().ok()).collect()
}

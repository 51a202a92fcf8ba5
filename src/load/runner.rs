//! The event loop of the load test: connects the clients, sends frames at the rate, and waits for
//! the deliveries.

mod receive;

use std::collections::{HashMap, VecDeque};
use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use zeroize::Zeroizing;

use super::client::{Client, MARK, State, write_frame};
use super::latency::Latencies;
use super::report::{Count, Report, Usage};
use super::{Kind, Options, Pace, ServerUrl};
use crate::process;

const NANOS_PER_SEC: u64 = 1_000_000_000;
/// Maximum number of clients that are connecting or joining at one time.
const JOINING_MAX: usize = 128;
/// Maximum time for one client to join its thread, and for all clients together.
const JOIN_TIMEOUT: u64 = 10 * NANOS_PER_SEC;
const ALL_JOINED_TIMEOUT: u64 = 120 * NANOS_PER_SEC;
/// Number of failures in a row after which no more connections are tried.
const FAILURES_MAX: u32 = 16;
/// Sending begins when no frame has arrived for this long, so that the presence frames of joining
/// are over; and the maximum time to wait for that.
const QUIET_FOR: u64 = NANOS_PER_SEC / 4;
const QUIET_TIMEOUT: u64 = 5 * NANOS_PER_SEC;
/// After the last frame was sent: the maximum time without a delivery, and the maximum time in all.
const IDLE_TIMEOUT: u64 = 2 * NANOS_PER_SEC;
const DELIVERY_TIMEOUT: u64 = 10 * NANOS_PER_SEC;
/// Maximum number of counters, one per pair of sender and subscriber: 64 MiB.
const COUNTERS_MAX: usize = 16 << 20;
/// Maximum number of connections from one source address, which has some 28,000 ports.
const CONNECTIONS_PER_SOURCE: usize = 20_000;
/// Maximum number of unsent bytes of one client; beyond it, the client sends no new frames.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// The `Sec-WebSocket-Key` of all clients. It is no secret; it only verifies the answer.
const KEY: &str = "YnVkZHlsaW5lIGJlbmNoIQ==";

pub(super) struct Runner<'a> {
    options: &'a Options,
    target: ServerUrl,
    tokens: Vec<Zeroizing<String>>,
    poll: Poll,
    start: Instant,
    clients: Vec<Client>,
    users: HashMap<u64, u32>,
    /// Clients with data left unread after the maximum number of reads.
    pending_reads: Vec<u32>,
    /// Clients that are connecting or joining, oldest first.
    joining: VecDeque<u32>,
    failures_in_a_row: u32,
    /// Current number of subscribers of each thread.
    subscribers: Vec<u32>,
    /// Number of senders in each thread.
    senders: usize,
    /// The send times of each client.
    sent_at: Vec<Vec<u64>>,
    /// Typing frames received, for each subscriber and sender.
    typing_counts: Vec<u32>,
    last_received: u64,
    last_delivery: u64,
    next_sender: usize,
    random: u64,
    closing: bool,
    handshakes: Latencies,
    joins: Latencies,
    latencies: Latencies,
    lags: Latencies,
    report: Report,
    progress_at: Option<u64>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(
        options: &'a Options,
        target: ServerUrl,
        tokens: Vec<Zeroizing<String>>,
    ) -> io::Result<Runner<'a>> {
        let (all, size) = (options.connections as usize, options.thread_size as usize);
        let senders = size.min(all).min((COUNTERS_MAX / all).max(1));
        let counters = if options.kind == Kind::Typing { all * senders } else { 0 };
        Ok(Runner {
            options,
            target,
            tokens,
            poll: Poll::new()?,
            start: Instant::now(),
            clients: Vec::with_capacity(all),
            users: HashMap::new(),
            pending_reads: Vec::new(),
            joining: VecDeque::new(),
            failures_in_a_row: 0,
            subscribers: vec![0; all.div_ceil(size)],
            senders,
            sent_at: vec![Vec::new(); all],
            typing_counts: vec![0; counters],
            last_received: 0,
            last_delivery: 0,
            next_sender: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            closing: false,
            handshakes: Latencies::default(),
            joins: Latencies::default(),
            latencies: Latencies::default(),
            lags: Latencies::default(),
            report: Report::default(),
            progress_at: io::stderr().is_terminal().then_some(0),
        })
    }

    pub(super) fn run(mut self) -> io::Result<Report> {
        let mut events = Events::with_capacity(1024);
        let mut scratch = vec![0; 64 * 1024];
        let before = self.resident();
        self.connect_all(&mut events, &mut scratch)?;
        let from = self.now();
        while self.now() < (self.last_received + QUIET_FOR).max(from).min(from + QUIET_TIMEOUT) {
            self.poll_once(&mut events, &mut scratch, QUIET_FOR)?;
        }
        let (used, joined) = (self.cpu_seconds(), self.resident());
        let started = self.now();
        self.send(started, &mut events, &mut scratch)?;
        let from = self.now();
        self.last_delivery = from;
        while self.report.delivered < self.report.expected && self.has_subscribers() {
            let now = self.now();
            if now > (self.last_delivery + IDLE_TIMEOUT).min(from + DELIVERY_TIMEOUT) {
                break;
            }
            self.poll_once(&mut events, &mut scratch, NANOS_PER_SEC / 10)?;
        }
        let measured = self.now() - started;
        self.report.server = used.zip(self.cpu_seconds()).map(|(cpu_before, cpu_after)| Usage {
            kib_before: before.unwrap_or_default(),
            kib_joined: joined.unwrap_or_default(),
            kib_after: self.resident().unwrap_or_default(),
            processor_percent: (cpu_after - cpu_before) * 100.0
                / (measured as f64 / NANOS_PER_SEC as f64),
        });
        self.close_all(&mut events, &mut scratch)?;
        if self.progress_at.is_some() {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
        self.report.connections = self.options.connections.into();
        self.report.missing = self.report.expected.saturating_sub(self.report.delivered);
        self.report.handshake = self.handshakes.summary();
        self.report.arrival = self.joins.summary();
        self.report.latency = self.latencies.summary();
        self.report.lag = self.lags.summary();
        Ok(self.report)
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn resident(&self) -> Option<u64> {
        process::resident_kib(self.options.pid?).ok()
    }

    fn cpu_seconds(&self) -> Option<f64> {
        Some(process::cpu_time(self.options.pid?).ok()?.as_secs_f64())
    }

    fn has_subscribers(&self) -> bool {
        self.subscribers.iter().any(|count| *count > 0)
    }

    /// Connects all clients, at most [`JOINING_MAX`] at a time.
    fn connect_all(&mut self, events: &mut Events, scratch: &mut [u8]) -> io::Result<()> {
        loop {
            let now = self.now();
            let given_up = self.failures_in_a_row >= FAILURES_MAX;
            while let Some(&first) = self.joining.front() {
                let client = &self.clients[first as usize];
                let is_late = now > client.started + JOIN_TIMEOUT;
                if !matches!(client.state, State::Closed | State::Joined) {
                    if !is_late {
                        break;
                    }
                    self.fail(first as usize, "no answer within 10 s".to_owned());
                }
                self.joining.pop_front();
            }
            self.joining.retain(|index| {
                !matches!(self.clients[*index as usize].state, State::Closed | State::Joined)
            });
            let more = self.clients.len() < self.options.connections as usize
                && !given_up
                && now < ALL_JOINED_TIMEOUT;
            if !more && (self.joining.is_empty() || given_up) {
                return Ok(());
            }
            if more && self.joining.len() < JOINING_MAX {
                self.connect();
                if self.joining.len() < JOINING_MAX && self.joining.len() % 8 != 0 {
                    continue;
                }
            }
            let room = more && self.joining.len() < JOINING_MAX;
            self.poll_once(events, scratch, if room { 0 } else { NANOS_PER_SEC / 10 })?;
        }
    }

    fn connect(&mut self) {
        let index = self.clients.len();
        let mut client = Client {
            socket: None,
            state: State::Connecting,
            started: self.now(),
            user: None,
            input: Vec::new(),
            output: Vec::new(),
        };
        let registry = self.poll.registry();
        let opened = open_socket(self.target.address, index).and_then(|mut socket| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            registry.register(&mut socket, Token(index), interest)?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => {
                client.socket = Some(socket);
                self.clients.push(client);
                self.joining.push_back(index as u32);
            }
            Err(fault) => {
                self.clients.push(client);
                self.fail(index, fault.to_string());
            }
        }
    }

    /// Counts a client that failed to connect or to join.
    fn fail(&mut self, index: usize, why: String) {
        self.clients[index].state = State::Closed;
        self.clients[index].socket = None;
        self.failures_in_a_row += 1;
        self.report.refused.count(why);
    }

    /// Counts a connection that the server has closed.
    fn close(&mut self, index: usize, why: String) {
        match self.clients[index].state {
            State::Closed => return,
            State::Joined => {
                self.subscribers[index / self.options.thread_size as usize] -= 1;
                if !self.closing {
                    self.report.closed.count(why);
                }
            }
            _ => return self.fail(index, why),
        }
        self.clients[index].state = State::Closed;
        self.clients[index].socket = None;
    }

    /// Sends frames at the rate, and receives meanwhile.
    fn send(&mut self, started: u64, events: &mut Events, scratch: &mut [u8]) -> io::Result<()> {
        let end = started + u64::from(self.options.seconds) * NANOS_PER_SEC;
        let mean = NANOS_PER_SEC as f64 / f64::from(self.options.rate);
        let mut due = started as f64;
        while self.has_subscribers() {
            let now = self.now();
            let mut burst = 0;
            while due <= now.min(end) as f64 && burst < 256 {
                let planned = due as u64;
                due += match self.options.pace {
                    Pace::Even => mean,
                    Pace::Random => mean * -self.random_fraction().ln(),
                };
                self.send_one(planned);
                burst += 1;
            }
            if due > end as f64 && now >= end {
                break;
            }
            let wait = (due.min(end as f64) as u64).saturating_sub(self.now());
            self.poll_once(events, scratch, wait)?;
        }
        Ok(())
    }

    /// Sends one frame from the next client that can send.
    fn send_one(&mut self, planned: u64) {
        let size = self.options.thread_size as usize;
        let threads = self.subscribers.len();
        for _ in 0..threads * self.senders {
            // The first client of each thread, then the second of each, and so on.
            let next = self.next_sender;
            self.next_sender = (next + 1) % (threads * self.senders);
            let (thread, slot) = (next % threads, next / threads);
            let index = thread * size + slot;
            let ready = |p: &Client| p.state == State::Joined && p.output.len() < OUTPUT_BYTES_MAX;
            if !self.clients.get(index).is_some_and(ready) {
                continue;
            }
            let id = self.options.first_thread + thread as u64;
            let now = self.now();
            let text = match self.options.kind {
                Kind::Typing => format!(r#"{{"type":"typing","threadId":{id}}}"#),
                Kind::Message => {
                    format!(r#"{{"type":"send_message","threadId":{id},"message":"{MARK}{now}"}}"#)
                }
            };
            self.lags.record(now.saturating_sub(planned));
            if self.options.kind == Kind::Typing {
                self.sent_at[index].push(now);
            }
            self.report.sent += 1;
            self.report.expected += u64::from(self.subscribers[thread]);
            self.queue_frame(index, OpCode::Data(Data::Text), text.as_bytes());
            return self.flush(index);
        }
        self.report.not_sent += 1;
    }

    fn random_fraction(&mut self) -> f64 {
        self.next_random();
        ((self.random >> 11) as f64 + 1.0) / (1u64 << 53) as f64
    }

    /// Marsaglia's xorshift generator, sufficient for intervals and masks.
    fn next_random(&mut self) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
    }

    fn queue_frame(&mut self, index: usize, opcode: OpCode, payload: &[u8]) {
        self.next_random();
        let mask = (self.random as u32).to_be_bytes();
        write_frame(&mut self.clients[index].output, opcode, payload, mask);
    }

    fn close_all(&mut self, events: &mut Events, scratch: &mut [u8]) -> io::Result<()> {
        self.closing = true;
        let until = self.now() + 2 * NANOS_PER_SEC;
        for index in 0..self.clients.len() {
            if self.clients[index].state == State::Joined {
                self.queue_frame(index, OpCode::Control(Control::Close), &1000u16.to_be_bytes());
                self.flush(index);
            }
        }
        while self.has_subscribers() && self.now() < until {
            self.poll_once(events, scratch, NANOS_PER_SEC / 10)?;
        }
        Ok(())
    }

    /// Waits for events for at most `wait` nanoseconds, and processes them.
    fn poll_once(&mut self, events: &mut Events, scratch: &mut [u8], wait: u64) -> io::Result<()> {
        let pending_reads = std::mem::take(&mut self.pending_reads);
        let wait = if pending_reads.is_empty() { wait.min(NANOS_PER_SEC / 10) } else { 0 };
        match self.poll.poll(events, Some(Duration::from_nanos(wait))) {
            Err(fault) if fault.kind() != io::ErrorKind::Interrupted => return Err(fault),
            _ => {}
        }
        for event in events.iter() {
            let index = event.token().0;
            if self.clients[index].state == State::Connecting {
                self.start_handshake(index);
            }
            self.flush(index);
            self.read_from(index, scratch);
        }
        for index in pending_reads {
            self.read_from(index as usize, scratch);
        }
        self.show_progress();
        Ok(())
    }

    fn show_progress(&mut self) {
        let now = self.now();
        if self.progress_at.is_some_and(|progress_at| now >= progress_at + NANOS_PER_SEC) {
            self.progress_at = Some(now);
            let (report, joined) = (&self.report, self.subscribers.iter().sum::<u32>());
            let line = format!(
                "\r{} s: {joined} connections, {} sent, {} of {} delivered\x1b[K",
                now / NANOS_PER_SEC,
                report.sent,
                report.delivered,
                report.expected
            );
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }

    fn start_handshake(&mut self, index: usize) {
        let Some(socket) = &self.clients[index].socket else { return };
        match socket.take_error().and_then(|fault| fault.map_or(Ok(()), Err)) {
            Ok(()) if socket.peer_addr().is_err() => return,
            Ok(()) => {}
            Err(fault) => return self.fail(index, fault.to_string()),
        }
        let ServerUrl { host, path, .. } = &self.target;
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
        );
        if let Some(token) = self.tokens.get(index) {
            request.extend(["Authorization: ", token.as_str(), "\r\n"]);
        }
        request.push_str("\r\n");
        self.clients[index].output = request.into_bytes();
        self.clients[index].state = State::Handshake;
    }
}

/// Opens a socket and begins to connect. One source address has too few ports for all connections;
/// on Linux, further addresses of 127.0.0.0/8 are used.
fn open_socket(to: SocketAddr, index: usize) -> io::Result<mio::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    let source = (index / CONNECTIONS_PER_SOURCE) as u8;
    if source > 0 && to.is_ipv4() && to.ip().is_loopback() && cfg!(target_os = "linux") {
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, source, 1));
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&to.into()) {
        Err(fault)
            if fault.kind() != io::ErrorKind::WouldBlock
                && fault.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
        {
            Err(fault)
        }
        _ => Ok(mio::net::TcpStream::from_std(socket.into())),
    }
}

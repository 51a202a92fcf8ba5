//! The loop that connects, sends and counts.

mod hear;

use std::collections::{HashMap, VecDeque};
use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use zeroize::Zeroizing;

use super::histogram::Histogram;
use super::peer::{MARK, Peer, State, put_frame};
use super::report::{Count, Report, Usage};
use super::{Kind, Options, Pace, Target};
use crate::process;

const S: u64 = 1_000_000_000;
/// Clients that are on their way in at one time.
const ARRIVING_MAX: usize = 128;
/// How long one may take to be in its thread, and all together.
const ARRIVAL_LASTS: u64 = 10 * S;
const ARRIVALS_LAST: u64 = 120 * S;
/// After so many failures in a row no more is tried.
const FAILURES_MAX: u32 = 16;
/// So long without any frame, news of who has come are over; and how long that is waited for.
const QUIET: u64 = S / 4;
const QUIET_LASTS: u64 = 5 * S;
/// After the last frame: how long nothing may come, and how long is waited at the most.
const LATE: u64 = 2 * S;
const LATE_LASTS: u64 = 10 * S;
/// What is counted for each sender at each hearer: 64 MiB.
const COUNTERS_MAX: usize = 16 << 20;
/// Connections from one address of this machine, of some 28,000 ports.
const PER_SOURCE: usize = 20_000;
/// What one client may leave unread; then it sends no more until it has gone out.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// The key needs not be a secret here; the answer to it is checked.
const KEY: &str = "YnVkZHlsaW5lIGJlbmNoIQ==";

pub(super) struct Drive<'a> {
    options: &'a Options,
    target: Target,
    tokens: Vec<Zeroizing<String>>,
    poll: Poll,
    start: Instant,
    peers: Vec<Peer>,
    users: HashMap<u64, u32>,
    /// Who may have said more than was read in one go.
    again: Vec<u32>,
    /// Who is on the way in, in the order of setting out.
    arriving: VecDeque<u32>,
    failures_in_a_row: u32,
    /// Hearers in each thread, now.
    hearers: Vec<u32>,
    /// Senders in each thread.
    senders: usize,
    /// When each sender sent, and of each of them how many a hearer has heard.
    sent_at: Vec<Vec<u64>>,
    heard: Vec<u32>,
    last_heard: u64,
    last_delivery: u64,
    next_sender: usize,
    random: u64,
    ending: bool,
    handshakes: Histogram,
    arrivals: Histogram,
    latencies: Histogram,
    lags: Histogram,
    report: Report,
    shown: Option<u64>,
}

impl<'a> Drive<'a> {
    pub(super) fn new(
        options: &'a Options,
        target: Target,
        tokens: Vec<Zeroizing<String>>,
    ) -> io::Result<Drive<'a>> {
        let (all, size) = (options.connections as usize, options.thread_size as usize);
        let senders = size.min(all).min((COUNTERS_MAX / all).max(1));
        let counters = if options.kind == Kind::Typing { all * senders } else { 0 };
        Ok(Drive {
            options,
            target,
            tokens,
            poll: Poll::new()?,
            start: Instant::now(),
            peers: Vec::with_capacity(all),
            users: HashMap::new(),
            again: Vec::new(),
            arriving: VecDeque::new(),
            failures_in_a_row: 0,
            hearers: vec![0; all.div_ceil(size)],
            senders,
            sent_at: vec![Vec::new(); all],
            heard: vec![0; counters],
            last_heard: 0,
            last_delivery: 0,
            next_sender: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            ending: false,
            handshakes: Histogram::default(),
            arrivals: Histogram::default(),
            latencies: Histogram::default(),
            lags: Histogram::default(),
            report: Report::default(),
            shown: io::stderr().is_terminal().then_some(0),
        })
    }

    pub(super) fn run(mut self) -> io::Result<Report> {
        let mut events = Events::with_capacity(1024);
        let mut scratch = vec![0; 64 * 1024];
        let before = self.resident();
        self.arrive(&mut events, &mut scratch)?;
        let from = self.now();
        while self.now() < (self.last_heard + QUIET).max(from).min(from + QUIET_LASTS) {
            self.turn(&mut events, &mut scratch, QUIET)?;
        }
        let (used, joined) = (self.processor(), self.resident());
        let begun = self.now();
        self.send(begun, &mut events, &mut scratch)?;
        let from = self.now();
        self.last_delivery = from;
        while self.report.delivered < self.report.expected && self.is_anyone_there() {
            let now = self.now();
            if now > (self.last_delivery + LATE).min(from + LATE_LASTS) {
                break;
            }
            self.turn(&mut events, &mut scratch, S / 10)?;
        }
        let measured = self.now() - begun;
        self.report.server = used.zip(self.processor()).map(|(before_it, after)| Usage {
            kib_before: before.unwrap_or_default(),
            kib_joined: joined.unwrap_or_default(),
            kib_after: self.resident().unwrap_or_default(),
            processor_percent: (after - before_it) * 100.0 / (measured as f64 / S as f64),
        });
        self.goodbye(&mut events, &mut scratch)?;
        if self.shown.is_some() {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
        self.report.connections = self.options.connections.into();
        self.report.missing = self.report.expected.saturating_sub(self.report.delivered);
        self.report.handshake = self.handshakes.summary();
        self.report.arrival = self.arrivals.summary();
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

    fn processor(&self) -> Option<f64> {
        Some(process::processor_time(self.options.pid?).ok()?.as_secs_f64())
    }

    fn is_anyone_there(&self) -> bool {
        self.hearers.iter().any(|count| *count > 0)
    }

    /// Lets everyone come in, a few at a time.
    fn arrive(&mut self, events: &mut Events, scratch: &mut [u8]) -> io::Result<()> {
        loop {
            let now = self.now();
            let given_up = self.failures_in_a_row >= FAILURES_MAX;
            while let Some(&first) = self.arriving.front() {
                let peer = &self.peers[first as usize];
                let is_late = now > peer.begun + ARRIVAL_LASTS;
                if !matches!(peer.state, State::Closed | State::Joined) {
                    if !is_late {
                        break;
                    }
                    self.fail(first as usize, "no answer within 10 s".to_owned());
                }
                self.arriving.pop_front();
            }
            self.arriving.retain(|index| {
                !matches!(self.peers[*index as usize].state, State::Closed | State::Joined)
            });
            let more = self.peers.len() < self.options.connections as usize
                && !given_up
                && now < ARRIVALS_LAST;
            if !more && (self.arriving.is_empty() || given_up) {
                return Ok(());
            }
            if more && self.arriving.len() < ARRIVING_MAX {
                self.connect();
                if self.arriving.len() < ARRIVING_MAX && self.arriving.len() % 8 != 0 {
                    continue;
                }
            }
            let room = more && self.arriving.len() < ARRIVING_MAX;
            self.turn(events, scratch, if room { 0 } else { S / 10 })?;
        }
    }

    fn connect(&mut self) {
        let index = self.peers.len();
        let mut peer = Peer {
            socket: None,
            state: State::Connecting,
            begun: self.now(),
            user: None,
            input: Vec::new(),
            output: Vec::new(),
        };
        let registry = self.poll.registry();
        let opened = open(self.target.address, index).and_then(|mut socket| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            registry.register(&mut socket, Token(index), interest)?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => {
                peer.socket = Some(socket);
                self.peers.push(peer);
                self.arriving.push_back(index as u32);
            }
            Err(fault) => {
                self.peers.push(peer);
                self.fail(index, fault.to_string());
            }
        }
    }

    /// One does not come in.
    fn fail(&mut self, index: usize, why: String) {
        self.peers[index].state = State::Closed;
        self.peers[index].socket = None;
        self.failures_in_a_row += 1;
        self.report.refused.count(why);
    }

    /// One has gone.
    fn gone(&mut self, index: usize, why: String) {
        match self.peers[index].state {
            State::Closed => return,
            State::Joined => {
                self.hearers[index / self.options.thread_size as usize] -= 1;
                if !self.ending {
                    self.report.closed.count(why);
                }
            }
            _ => return self.fail(index, why),
        }
        self.peers[index].state = State::Closed;
        self.peers[index].socket = None;
    }

    /// Sends at the rate, and hears meanwhile.
    fn send(&mut self, begun: u64, events: &mut Events, scratch: &mut [u8]) -> io::Result<()> {
        let end = begun + u64::from(self.options.seconds) * S;
        let mean = S as f64 / f64::from(self.options.rate);
        let mut due = begun as f64;
        while self.is_anyone_there() {
            let now = self.now();
            let mut burst = 0;
            while due <= now.min(end) as f64 && burst < 256 {
                let planned = due as u64;
                due += match self.options.pace {
                    Pace::Even => mean,
                    Pace::Random => mean * -self.fraction().ln(),
                };
                self.send_one(planned);
                burst += 1;
            }
            if due > end as f64 && now >= end {
                break;
            }
            let wait = (due.min(end as f64) as u64).saturating_sub(self.now());
            self.turn(events, scratch, wait)?;
        }
        Ok(())
    }

    /// One frame of the next sender that can.
    fn send_one(&mut self, planned: u64) {
        let size = self.options.thread_size as usize;
        let threads = self.hearers.len();
        for _ in 0..threads * self.senders {
            // First one of each thread, then the second of each.
            let turn = self.next_sender;
            self.next_sender = (turn + 1) % (threads * self.senders);
            let (thread, slot) = (turn % threads, turn / threads);
            let index = thread * size + slot;
            let ready = |p: &Peer| p.state == State::Joined && p.output.len() < OUTPUT_BYTES_MAX;
            if !self.peers.get(index).is_some_and(ready) {
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
            self.lags.add(now.saturating_sub(planned));
            if self.options.kind == Kind::Typing {
                self.sent_at[index].push(now);
            }
            self.report.sent += 1;
            self.report.expected += u64::from(self.hearers[thread]);
            self.say(index, OpCode::Data(Data::Text), text.as_bytes());
            return self.flush(index);
        }
        self.report.not_sent += 1;
    }

    fn fraction(&mut self) -> f64 {
        self.draw();
        ((self.random >> 11) as f64 + 1.0) / (1u64 << 53) as f64
    }

    /// Marsaglia's xorshift: enough for the distances of frames and for masks.
    fn draw(&mut self) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
    }

    fn say(&mut self, index: usize, opcode: OpCode, payload: &[u8]) {
        self.draw();
        let mask = (self.random as u32).to_be_bytes();
        put_frame(&mut self.peers[index].output, opcode, payload, mask);
    }

    fn goodbye(&mut self, events: &mut Events, scratch: &mut [u8]) -> io::Result<()> {
        self.ending = true;
        let until = self.now() + 2 * S;
        for index in 0..self.peers.len() {
            if self.peers[index].state == State::Joined {
                self.say(index, OpCode::Control(Control::Close), &1000u16.to_be_bytes());
                self.flush(index);
            }
        }
        while self.is_anyone_there() && self.now() < until {
            self.turn(events, scratch, S / 10)?;
        }
        Ok(())
    }

    /// Waits so many nanoseconds at the most, and takes in what has come.
    fn turn(&mut self, events: &mut Events, scratch: &mut [u8], wait: u64) -> io::Result<()> {
        let again = std::mem::take(&mut self.again);
        let wait = if again.is_empty() { wait.min(S / 10) } else { 0 };
        match self.poll.poll(events, Some(Duration::from_nanos(wait))) {
            Err(fault) if fault.kind() != io::ErrorKind::Interrupted => return Err(fault),
            _ => {}
        }
        for event in events.iter() {
            let index = event.token().0;
            if self.peers[index].state == State::Connecting {
                self.connected(index);
            }
            self.flush(index);
            self.take_in(index, scratch);
        }
        for index in again {
            self.take_in(index as usize, scratch);
        }
        self.progress();
        Ok(())
    }

    fn progress(&mut self) {
        let now = self.now();
        if self.shown.is_some_and(|shown| now >= shown + S) {
            self.shown = Some(now);
            let (report, joined) = (&self.report, self.hearers.iter().sum::<u32>());
            let line = format!(
                "\r{} s: {joined} connections, {} sent, {} of {} delivered\x1b[K",
                now / S,
                report.sent,
                report.delivered,
                report.expected
            );
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }

    fn connected(&mut self, index: usize) {
        let Some(socket) = &self.peers[index].socket else { return };
        match socket.take_error().and_then(|fault| fault.map_or(Ok(()), Err)) {
            Ok(()) if socket.peer_addr().is_err() => return,
            Ok(()) => {}
            Err(fault) => return self.fail(index, fault.to_string()),
        }
        let Target { host, path, .. } = &self.target;
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
        );
        if let Some(token) = self.tokens.get(index) {
            request.extend(["Authorization: ", token.as_str(), "\r\n"]);
        }
        request.push_str("\r\n");
        self.peers[index].output = request.into_bytes();
        self.peers[index].state = State::Handshake;
    }
}

/// A socket on its way. One address of this machine has too few ports for all: on Linux, the others
/// of 127.0.0.0/8 lend theirs.
fn open(to: SocketAddr, index: usize) -> io::Result<mio::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    let source = (index / PER_SOURCE) as u8;
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

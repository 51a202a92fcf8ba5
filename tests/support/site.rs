//! A BuddyBoss site for tests: HTTP/1.1 over a loopback socket, on threads of its own.
//!
//! ```ignore
//! let site = Site::start();             // nobody there yet; `user-7` is member 7's token
//! site.add_thread(41, &[7, 8]);
//! site.fail_next(Fault::CloseAfterStoring);
//! // … something posts with the token `user-7` to `site.url()` …
//! assert_eq!(site.stored(41), [(7, "hello".to_owned())]);
//! assert_eq!(site.posts().len(), 1);
//! ```
//!
//! It does what the contract says a site does: two forms of address, tokens, threads and their
//! participants, the ten newest messages in each answer. All of it ends with the value.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::fixtures::Fixture;

/// How often a waiting thread looks whether the site has ended.
const SLICE: Duration = Duration::from_millis(10);
/// No request, hang or delay lasts longer than this.
const LONGEST: Duration = Duration::from_secs(60);

/// What goes wrong with one request. Nothing is stored unless it says so.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request is read; no answer ever comes.
    Hang,
    /// The message is stored; no answer ever comes.
    HangAfterStoring,
    /// The connection closes without an answer.
    Close,
    /// The message is stored, and the connection closes without an answer.
    CloseAfterStoring,
    /// The message is stored; the answer stops in the middle (fewer bytes than its length says).
    Truncated,
    /// The message is stored; the answer's last chunk never comes.
    TruncatedChunks,
    /// The message is stored, and the answer has this many bytes of white space in its JSON.
    Padded(usize),
    /// The message is stored, and the answer is compressed to become this many bytes longer.
    GzipBomb(usize),
    /// The message is stored, and its whole answer comes compressed.
    Gzip,
    /// Status 200 and an HTML page.
    Html,
    /// The message is stored; status 200, JSON type, and HTML before the JSON.
    HtmlBeforeJson,
    /// Bytes that are not HTTP.
    Garbage,
    /// All is well, but the connection closes after the answer without having said so.
    CloseAfterAnswer,
    /// All is well, after this long.
    Delay(Duration),
    /// This answer, whatever was asked.
    Answer {
        /// Its status.
        status: u16,
        /// Its headers, without length.
        headers: Vec<(String, String)>,
        /// Its body.
        body: Vec<u8>,
    },
}

impl Fault {
    /// A status with some headers and an HTML body, as web servers and firewalls answer.
    pub fn status(status: u16, headers: &[(&str, &str)]) -> Fault {
        let mut headers: Vec<_> =
            headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        headers.push(("Content-Type".into(), "text/html".into()));
        Fault::Answer { status, headers, body: b"<html>no</html>".to_vec() }
    }

    /// The recorded answer.
    pub fn replay(fixture: &Fixture) -> Fault {
        let (headers, body) = (fixture.headers.clone(), fixture.body.clone());
        Fault::Answer { status: fixture.status, headers, body }
    }

    /// Whether the site has the message although its sender cannot know.
    pub fn stores(&self) -> bool {
        !matches!(
            self,
            Fault::Hang | Fault::Close | Fault::Html | Fault::Garbage | Fault::Answer { .. }
        )
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which connection it came on, counted from 1.
    pub connection: usize,
    /// `GET`, `POST` …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The headers as they were sent.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| &**value)
    }

    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

type Rule = Box<dyn FnMut(usize, &Request) -> Option<Fault> + Send>;

#[derive(Default)]
struct Thread {
    participants: Vec<u64>,
    messages: Vec<(u64, u64, String, SystemTime)>,
}

#[derive(Default)]
struct State {
    members: BTreeMap<String, u64>,
    suspended: Vec<u64>,
    threads: BTreeMap<u64, Thread>,
    last_message: u64,
    requests: Vec<Request>,
    posts: usize,
    latency: Duration,
    faults: VecDeque<Fault>,
    rule: Option<Rule>,
    everything: Option<Fault>,
    plain_permalinks: bool,
}

struct Shared {
    state: Mutex<State>,
    stopping: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that failed while it held the lock has said so already.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Sleeps; `false` when the site ends meanwhile.
    fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time.min(LONGEST);
        while !self.stopping.load(Ordering::Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(SLICE));
        }
        false
    }
}

/// The site. Ends when dropped.
pub struct Site {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Site {
    /// A site that works. A token that ends in `-` and digits is that member's; others are
    /// unknown unless added, and the token `expired` is one that has expired.
    pub fn start() -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
        let address = listener.local_addr().expect("a bound socket has an address");
        listener.set_nonblocking(true).expect("a socket can be made not to block");
        let shared = Arc::new(Shared { state: Mutex::default(), stopping: AtomicBool::new(false) });
        let acceptor = thread::spawn({
            let shared = shared.clone();
            move || accept(&listener, &shared)
        });
        Site { address, shared, acceptor: Some(acceptor) }
    }

    /// A site that answers everything with one recorded answer.
    pub fn replaying(fixture: &Fixture) -> Site {
        let site = Site::start();
        site.always(Fault::replay(fixture));
        site
    }

    /// The address of a site that is not there: connections are refused.
    pub fn refusing() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
        format!("http://{}", listener.local_addr().expect("a bound socket has an address"))
    }

    /// Where it is: `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a token stand for a member.
    pub fn add_member(&self, token: &str, id: u64) {
        self.shared.lock().members.insert(token.to_owned(), id);
    }

    /// Suspends a member.
    pub fn suspend(&self, id: u64) {
        self.shared.lock().suspended.push(id);
    }

    /// Makes a thread with these participants.
    pub fn add_thread(&self, id: u64, participants: &[u64]) {
        let thread = Thread { participants: participants.to_vec(), messages: Vec::new() };
        self.shared.lock().threads.insert(id, thread);
    }

    /// From now on everything takes this long, at least.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.lock().latency = latency;
    }

    /// From now on addresses under `/wp-json/` do what they do on a site with plain permalinks.
    pub fn set_plain_permalinks(&self, plain: bool) {
        self.shared.lock().plain_permalinks = plain;
    }

    /// The next POST that has no fault yet has this one. Each call is for one POST.
    pub fn fail_next(&self, fault: Fault) {
        self.shared.lock().faults.push_back(fault);
    }

    /// Asks `rule` about each request that `fail_next` did not claim. It is given the number of
    /// this POST, from 1 (0 for other requests), and the request.
    pub fn fail_when(&self, rule: impl FnMut(usize, &Request) -> Option<Fault> + Send + 'static) {
        self.shared.lock().rule = Some(Box::new(rule));
    }

    /// Everything that nothing else claims, also what is no POST, goes wrong in this way.
    pub fn always(&self, fault: Fault) {
        self.shared.lock().everything = Some(fault);
    }

    /// All requests so far, in the order in which they were read.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// The POSTs among them.
    pub fn posts(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|r| r.method == "POST").collect()
    }

    /// What a thread holds, oldest first: sender and text.
    pub fn stored(&self, thread: u64) -> Vec<(u64, String)> {
        let state = self.shared.lock();
        let thread = state.threads.get(&thread);
        thread.map_or(Vec::new(), |t| t.messages.iter().map(|m| (m.1, m.2.clone())).collect())
    }

    /// The threads' ids and participants.
    pub fn threads(&self) -> Vec<(u64, Vec<u64>)> {
        let state = self.shared.lock();
        state.threads.iter().map(|(id, t)| (*id, t.participants.clone())).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    while !shared.stopping.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((socket, _)) => {
                let shared = shared.clone();
                let number = connections.len() + 1;
                connections.push(thread::spawn(move || {
                    // An error is the client's going away, which is its right.
                    let _ = converse(&socket, number, &shared);
                    let _ = socket.shutdown(Shutdown::Both);
                }));
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    for connection in connections {
        let _ = connection.join();
    }
}

fn converse(socket: &TcpStream, number: usize, shared: &Shared) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(SLICE))?;
    socket.set_write_timeout(Some(Duration::from_secs(5)))?;
    while let Some(request) = read_request(socket, number, shared)? {
        let (fault, latency) = note(&request, shared);
        if !shared.sleep(latency) || !react(socket, &request, fault, shared)? {
            break;
        }
    }
    Ok(())
}

/// Reads one request; `None` when the client or the site has ended.
fn read_request(
    mut socket: &TcpStream,
    number: usize,
    shared: &Shared,
) -> io::Result<Option<Request>> {
    let until = Instant::now() + LONGEST;
    let mut bytes = Vec::new();
    let mut piece = [0; 16 << 10];
    let mut head_end = None;
    loop {
        if head_end.is_none() {
            head_end = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
        }
        if let Some(end) = head_end {
            let mut request = parse_head(&bytes[..end], number);
            let length = request.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
            if bytes.len() >= end + length {
                request.body = bytes[end..end + length].to_vec();
                return Ok(Some(request));
            }
        }
        match socket.read(&mut piece) {
            Ok(0) => return Ok(None),
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if shared.stopping.load(Ordering::Relaxed) || Instant::now() > until {
                    return Ok(None);
                }
            }
            Err(e) => return Err(e),
        }
    }
}

fn parse_head(head: &[u8], connection: usize) -> Request {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let method = first.next().unwrap_or_default();
    let path = first.next().unwrap_or_default();
    Request { connection, method, path, headers, body: Vec::new() }
}

/// Writes a request down and decides what goes wrong with it.
fn note(request: &Request, shared: &Shared) -> (Option<Fault>, Duration) {
    let mut state = shared.lock();
    state.requests.push(request.clone());
    let mut fault = None;
    let mut number = 0;
    if request.method == "POST" {
        state.posts += 1;
        number = state.posts;
        fault = state.faults.pop_front();
    }
    if fault.is_none() {
        // Taken out for the call, for it may not borrow what it is part of.
        if let Some(mut rule) = state.rule.take() {
            fault = rule(number, request);
            state.rule = Some(rule);
        }
    }
    (fault.or_else(|| state.everything.clone()), state.latency)
}

/// Answers, or does not. `false` when the connection is to be closed.
fn react(
    mut socket: &TcpStream,
    request: &Request,
    fault: Option<Fault>,
    shared: &Shared,
) -> io::Result<bool> {
    if let Some(Fault::Delay(time)) = &fault {
        if !shared.sleep(*time) {
            return Ok(false);
        }
    }
    let good = match &fault {
        Some(fault) if !fault.stores() => Response::default(),
        _ => shared.lock().answer(request),
    };
    let json = |body: Vec<u8>| Response { body, ..good.clone() };
    let response = match fault {
        None | Some(Fault::Delay(_)) => good,
        Some(Fault::Hang | Fault::HangAfterStoring) => {
            shared.sleep(LONGEST);
            return Ok(false);
        }
        Some(Fault::Close | Fault::CloseAfterStoring) => return Ok(false),
        Some(Fault::Garbage) => {
            socket.write_all(b"\x16\x03\x01 what is this \xff\r\n\r\n")?;
            return Ok(false);
        }
        Some(Fault::Truncated) => {
            let bytes = good.bytes();
            socket.write_all(&bytes[..bytes.len() - good.body.len() / 2])?;
            return Ok(false);
        }
        Some(Fault::TruncatedChunks) => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                        Transfer-Encoding: chunked\r\n\r\n";
            write!(socket, "{head}{:x}\r\n", good.body.len())?;
            socket.write_all(&good.body)?;
            socket.write_all(b"\r\n")?;
            return Ok(false);
        }
        Some(Fault::CloseAfterAnswer) => {
            socket.write_all(&good.bytes())?;
            return Ok(false);
        }
        Some(Fault::Padded(length)) => {
            let mut body = vec![b' '; length];
            body.extend_from_slice(&good.body);
            json(body)
        }
        Some(Fault::Gzip) => json(gzip_stored(&good.body)).with("Content-Encoding", "gzip"),
        Some(Fault::GzipBomb(length)) => json(gzip_bomb(length)).with("Content-Encoding", "gzip"),
        Some(Fault::Html) => Response::html(200),
        Some(Fault::HtmlBeforeJson) => {
            let mut body = b"\n<br />\n<b>Warning</b>: Undefined variable<br />\n".to_vec();
            body.extend_from_slice(&good.body);
            json(body)
        }
        Some(Fault::Answer { status, headers, body }) => Response { status, headers, body },
    };
    socket.write_all(&response.bytes())?;
    Ok(true)
}

#[derive(Clone, Default)]
struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Response {
    fn json(status: u16, body: &Value) -> Response {
        let kind = "application/json; charset=UTF-8";
        Response { status, headers: Vec::new(), body: body.to_string().into_bytes() }
            .with("Content-Type", kind)
    }

    fn fault(status: u16, code: &str, message: &str) -> Response {
        let body = json!({"code": code, "message": message, "data": {"status": status}});
        Response::json(status, &body)
    }

    fn html(status: u16) -> Response {
        let body = b"<!DOCTYPE html><html><body>A page.</body></html>".to_vec();
        Response { status, headers: Vec::new(), body }.with("Content-Type", "text/html")
    }

    fn with(mut self, name: &str, value: &str) -> Response {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", self.body.len());
        [head.as_bytes(), &self.body].concat()
    }
}

impl State {
    /// What a site in good order answers.
    fn answer(&mut self, request: &Request) -> Response {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let route = match path.strip_prefix("/wp-json") {
            Some(_) if self.plain_permalinks && request.method == "POST" => {
                return Response::html(200);
            }
            Some(_) if self.plain_permalinks => {
                return Response::html(301).with("Location", &format!("{path}/"));
            }
            Some(route) => route,
            None => match query.strip_prefix("rest_route=") {
                Some(route) => route.split('&').next().unwrap_or_default(),
                None => return Response::html(200),
            },
        };
        let no_route = || Response::fault(404, "rest_no_route", "No route was found.");
        let Some(route) = route.strip_prefix("/buddyboss/v1/") else { return no_route() };
        let caller = match self.caller(request) {
            Ok(caller) => caller,
            Err(response) => return response,
        };
        let thread = route.strip_prefix("messages/").and_then(|id| id.parse::<u64>().ok());
        match (&*request.method, route, thread, caller) {
            ("GET", "members/me", _, None) => {
                Response::fault(401, "rest_not_logged_in", "You are not currently logged in.")
            }
            ("GET", "members/me", _, Some(id)) => Response::json(200, &json!({ "id": id })),
            ("POST", "messages", _, None) | ("GET", _, Some(_), None) => {
                let sorry = "Sorry, you need to be logged in to create a message.";
                Response::fault(401, "bp_rest_authorization_required", sorry)
            }
            ("POST", "messages", _, Some(id)) => self.post(id, request),
            ("GET", _, Some(thread), Some(id)) => match self.threads.get(&thread) {
                Some(t) if t.participants.contains(&id) => self.thread(thread, id),
                _ => not_allowed(),
            },
            _ => no_route(),
        }
    }

    /// Who a request's token says it is: `None` without a token.
    fn caller(&self, request: &Request) -> Result<Option<u64>, Response> {
        let Some(token) = request.header("authorization").and_then(|v| v.strip_prefix("Bearer "))
        else {
            return Ok(None);
        };
        let bad = |why: &str| Err(Response::fault(403, "jwt_auth_invalid_token", why));
        if token == "expired" {
            return bad("Expired token");
        }
        let digits = || token.rsplit_once('-')?.1.parse().ok();
        match self.members.get(token).copied().or_else(digits) {
            Some(id) if self.suspended.contains(&id) => {
                let login = "/wp-login.php?action=bp-suspended&reauth=1";
                Err(Response::html(302).with("Location", login))
            }
            Some(id) => Ok(Some(id)),
            None => bad("Signature verification failed"),
        }
    }

    fn post(&mut self, caller: u64, request: &Request) -> Response {
        let body = match request.header("content-type") {
            Some("application/json") => request.json(),
            _ => Value::Null,
        };
        let text = body["message"].as_str().unwrap_or_default();
        let recipients: Vec<u64> = body["recipients"]
            .as_array()
            .map(|ids| ids.iter().filter_map(Value::as_u64).collect())
            .unwrap_or_default();
        let id = match body["id"].as_u64().filter(|id| *id > 0) {
            None if recipients.is_empty() => {
                return Response::fault(
                    400,
                    "bp_rest_empty_recipients",
                    "Please, enter recipients",
                );
            }
            _ if text.is_empty() => {
                return Response::fault(
                    400,
                    "bp_rest_messages_empty_message",
                    "Sorry, no message.",
                );
            }
            Some(id) => match self.threads.get(&id) {
                Some(thread) if thread.participants.contains(&caller) => id,
                _ => return not_allowed(),
            },
            None => {
                let mut people: Vec<u64> = recipients;
                people.push(caller);
                people.sort_unstable();
                people.dedup();
                if people.len() < 2 {
                    let sorry = "There was a problem sending your message.";
                    return Response::fault(500, "bp_rest_messages_create_failed", sorry);
                }
                self.thread_of(people)
            }
        };
        self.last_message += 1;
        let message = (self.last_message, caller, text.to_owned(), SystemTime::now());
        self.threads.entry(id).or_default().messages.push(message);
        self.thread(id, caller)
    }

    /// The thread of exactly these people, who are sorted.
    fn thread_of(&mut self, people: Vec<u64>) -> u64 {
        let same = |t: &Thread| {
            let mut theirs = t.participants.clone();
            theirs.sort_unstable();
            theirs == people
        };
        if let Some((id, _)) = self.threads.iter().find(|(_, t)| same(t)) {
            return *id;
        }
        let id = self.threads.last_key_value().map_or(0, |(id, _)| *id) + 1;
        self.threads.insert(id, Thread { participants: people, messages: Vec::new() });
        id
    }

    /// A thread as the site shows it.
    fn thread(&self, id: u64, caller: u64) -> Response {
        let thread = &self.threads[&id];
        let shown = &thread.messages[thread.messages.len().saturating_sub(10)..];
        let messages: Vec<Value> = shown
            .iter()
            .map(|(message, sender, text, at)| {
                let raw = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                let at = humantime::format_rfc3339_seconds(*at).to_string();
                json!({
                    "id": message,
                    "thread_id": id,
                    "sender_id": sender,
                    "subject": {"raw": "No Subject", "rendered": "No Subject"},
                    "message": {"rendered": format!("<p>{raw}</p>\n"), "raw": raw},
                    "date_sent": at.trim_end_matches('Z'),
                    "display_date": "Just now",
                    "sender_data": {"sender_name": format!("Member {sender}")},
                    "is_starred": false,
                })
            })
            .collect();
        // At most twenty, and an object by the member's id (CONTRACT 1.8 and 3.3).
        let recipients: serde_json::Map<String, Value> = thread
            .participants
            .iter()
            .rev()
            .take(20)
            .map(|p| (p.to_string(), json!({"id": p + 100, "user_id": p, "thread_id": id})))
            .collect();
        let last = thread.messages.last();
        Response::json(
            200,
            &json!({
                "id": id,
                "message_id": last.map_or(0, |m| m.0),
                "last_sender_id": last.map_or(0, |m| m.1),
                "current_user": caller,
                "can_send_message": true,
                "recipients_count": thread.participants.len(),
                "recipients": recipients,
                "messages_count": thread.messages.len(),
                "messages": messages,
            }),
        )
    }
}

fn not_allowed() -> Response {
    let sorry = "Sorry, you are not allowed to perform this action.";
    Response::fault(403, "bp_rest_authorization_required", sorry)
}

/// A gzip file of uncompressed blocks.
fn gzip_stored(bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = bytes.chunks(65_535).peekable();
    while let Some(block) = blocks.next() {
        file.push(u8::from(blocks.peek().is_none()));
        let length = block.len() as u16;
        file.extend_from_slice(&length.to_le_bytes());
        file.extend_from_slice(&(!length).to_le_bytes());
        file.extend_from_slice(block);
    }
    let crc = bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1))
        })
    });
    file.extend_from_slice(&(!crc).to_le_bytes());
    file.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    file
}

/// A gzip file without an end that becomes `length` spaces: one, and then "258 times the last one
/// again" in 13 bits each (RFC 1951 3.2.6).
fn gzip_bomb(length: usize) -> Vec<u8> {
    let mut bits = vec![1, 1, 0, /* a space: */ 0, 1, 0, 1, 0, 0, 0, 0];
    for _ in 0..length / 258 {
        bits.extend_from_slice(&[1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]);
    }
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    file.extend(bits.chunks(8).map(|c| c.iter().rev().fold(0_u8, |byte, bit| byte << 1 | bit)));
    file
}

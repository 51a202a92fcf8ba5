//! A fake BuddyBoss site: HTTP/1.1 over a loopback socket, on threads of its own.
//!
//! ```ignore
//! let site = Site::start();             // without threads; `user-7` is member 7's token
//! site.add_thread(41, &[7, 8]);
//! site.fail_next(Fault::CloseAfterStoring);
//! // … code that posts with the token `user-7` to `site.url()` …
//! assert_eq!(site.stored(41), [(7, "hello".to_owned())]);
//! assert_eq!(site.posts().len(), 1);
//! ```
//!
//! It behaves as CONTRACT says: two URL styles, tokens, threads and their participants, the ten
//! newest messages in each response. The site stops when it is dropped.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use super::fixtures::Fixture;
use super::site_model::{Response, SiteModel, Thread};
use super::{gzip, jwt};

pub use super::site_model::Request;

/// How often a waiting thread checks whether the site is stopping.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The maximum duration of a request, hang or delay.
const TIME_MAX: Duration = Duration::from_secs(60);

/// How the site fails for one request. Nothing is stored unless the fault says so.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request is read and never answered.
    Hang,
    /// The message is stored, and the request is never answered.
    HangAfterStoring,
    /// The message is stored; status 500 with an HTML page, as after a fatal error in a plugin.
    FatalAfterStoring,
    /// Status 504; the message is stored this long afterwards.
    StoredLate(Duration),
    /// The connection closes without a response.
    Close,
    /// The message is stored, and the connection closes without a response.
    CloseAfterStoring,
    /// The message is stored; the response ends early (fewer bytes than its `Content-Length`).
    Truncated,
    /// The message is stored; the last chunk of the response is missing.
    TruncatedChunks,
    /// The message is stored; the response's JSON has this many bytes of white space in front.
    Padded(usize),
    /// The message is stored; the response is gzip that expands to this many bytes.
    GzipBomb(usize),
    /// The message is stored; the complete response is compressed with gzip.
    Gzip,
    /// Status 200 with an HTML page.
    Html,
    /// The message is stored; status 200, JSON content type, and HTML before the JSON.
    HtmlBeforeJson,
    /// The request is processed; status 200, this content type, and this text before and after the
    /// JSON, as from PHP that has printed something before WordPress sent its headers.
    Wrapped(&'static str, &'static str, &'static str),
    /// Bytes that are not HTTP.
    Garbage,
    /// A normal response, but the connection closes after it without `Connection: close`.
    CloseAfterAnswer,
    /// A normal response after this delay.
    Delay(Duration),
    /// This response to any request.
    Answer {
        /// The status.
        status: u16,
        /// The headers, without `Content-Length`.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
    },
}

impl Fault {
    /// A status with headers and an HTML body, as web servers and firewalls respond.
    pub fn status(status: u16, headers: &[(&str, &str)]) -> Fault {
        let mut headers: Vec<_> =
            headers.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        headers.push(("Content-Type".into(), "text/html".into()));
        Fault::Answer { status, headers, body: b"<html>no</html>".to_vec() }
    }

    /// A recorded response.
    pub fn replay(fixture: &Fixture) -> Fault {
        let (headers, body) = (fixture.headers.clone(), fixture.body.clone());
        Fault::Answer { status: fixture.status, headers, body }
    }

    /// Whether the site processes the request, and so stores its message, despite the fault.
    pub fn stores(&self) -> bool {
        !matches!(
            self,
            Fault::Hang
                | Fault::Close
                | Fault::Html
                | Fault::Garbage
                | Fault::StoredLate(_)
                | Fault::Answer { .. }
        )
    }
}

type Rule = Box<dyn FnMut(usize, &Request) -> Option<Fault> + Send>;

#[derive(Default)]
struct State {
    site_model: SiteModel,
    requests: Vec<Request>,
    posts: usize,
    latency: Duration,
    faults: VecDeque<Fault>,
    rule: Option<Rule>,
    default_fault: Option<Fault>,
}

struct Shared {
    state: Mutex<State>,
    stopping: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means that a test has already failed.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Sleeps; `false` if the site stops meanwhile.
    fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time.min(TIME_MAX);
        while !self.stopping.load(Ordering::Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(POLL_INTERVAL));
        }
        false
    }
}

/// A running site; stops when dropped.
pub struct Site {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Site {
    /// Starts a working site. A token that ends in `-` and digits belongs to the member with that
    /// number; `expired` is an expired token; other tokens are unknown unless added.
    pub fn start() -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
        let address = listener.local_addr().expect("a bound socket has an address");
        listener.set_nonblocking(true).expect("a socket can be made not to block");
        let shared = Arc::new(Shared { state: Mutex::default(), stopping: AtomicBool::new(false) });
        shared.lock().site_model.members.issuer = format!("http://{address}");
        let acceptor = thread::spawn({
            let shared = shared.clone();
            move || accept(&listener, &shared)
        });
        Site { address, shared, acceptor: Some(acceptor) }
    }

    /// Starts a site that responds to everything with one recorded response.
    pub fn replaying(fixture: &Fixture) -> Site {
        let site = Site::start();
        site.always(Fault::replay(fixture));
        site
    }

    /// The URL of a closed port: connections are refused.
    pub fn refusing() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
        format!("http://{}", listener.local_addr().expect("a bound socket has an address"))
    }

    /// The site's URL: `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a token of a member, or an Application Password written as `Basic …` with padded
    /// base64.
    pub fn add_member(&self, token: &str, id: u64) {
        self.shared.lock().site_model.members.tokens.insert(token.to_owned(), id);
    }

    /// Lets the web server refuse requests without this `Authorization`.
    pub fn set_web_password(&self, value: &'static str) {
        self.shared.lock().site_model.members.web_password = Some(value.to_owned());
        self.fail_when(move |_, request| {
            let is_right = request.header("authorization") == Some(value);
            (!is_right)
                .then(|| Fault::status(401, &[("WWW-Authenticate", "Basic realm=\"staging\"")]))
        });
    }

    /// Suspends a member.
    pub fn suspend(&self, id: u64) {
        self.shared.lock().site_model.members.suspended.insert(id);
    }

    /// Deletes a member: their tokens are refused, and their rows in threads stay.
    pub fn delete_member(&self, id: u64) {
        self.shared.lock().site_model.members.deleted.insert(id);
    }

    /// Lets a member read threads that they are not in.
    pub fn add_moderator(&self, id: u64) {
        self.shared.lock().site_model.members.moderators.insert(id);
    }

    /// From now on, tokens are expected in this header, without `Bearer`.
    pub fn set_token_header(&self, name: &str) {
        self.shared.lock().site_model.members.token_header = Some(name.to_owned());
    }

    /// From now on, tokens of three segments are verified with this secret, as the JWT plugin does.
    pub fn set_jwt_secret(&self, secret: &str) {
        self.shared.lock().site_model.members.jwt_secret = Some(secret.to_owned());
    }

    /// A member's token with this lifetime, as the JWT plugin makes it. Requires
    /// [`Site::set_jwt_secret`].
    pub fn jwt(&self, id: u64, lasts: Duration) -> String {
        let secret = self.shared.lock().site_model.members.jwt_secret.clone().expect("a secret");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        jwt::token(&secret, &self.url(), id, now.as_secs(), |_, claims| {
            claims["exp"] = (now + lasts).as_secs().into();
        })
    }

    /// Adds a thread with these participants.
    pub fn add_thread(&self, id: u64, participants: &[u64]) {
        let thread = Thread { participants: participants.to_vec(), messages: Vec::new() };
        self.shared.lock().site_model.threads.insert(id, thread);
    }

    /// Replaces a thread's participants; the oldest row comes first.
    pub fn set_participants(&self, thread: u64, participants: &[u64]) {
        let mut state = self.shared.lock();
        let thread = state.site_model.threads.get_mut(&thread).expect("a thread");
        thread.participants = participants.to_vec();
    }

    /// Removes a participant from a thread.
    pub fn remove_participant(&self, thread: u64, id: u64) {
        let mut state = self.shared.lock();
        let thread = state.site_model.threads.get_mut(&thread).expect("a thread");
        thread.participants.retain(|other| *other != id);
    }

    /// Deletes a thread with its messages. `add_thread` may use its number again, as sites do.
    pub fn delete_thread(&self, thread: u64) {
        self.shared.lock().site_model.threads.remove(&thread);
    }

    /// From now on, every response takes at least this long.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.lock().latency = latency;
    }

    /// From now on, URLs under `/wp-json/` behave as on a site with plain permalinks.
    pub fn set_plain_permalinks(&self, plain: bool) {
        self.shared.lock().site_model.plain_permalinks = plain;
    }

    /// Disables the Messages component.
    pub fn disable_messages(&self) {
        self.shared.lock().site_model.messages_disabled = true;
    }

    /// Queues a fault for one POST: each POST takes the oldest queued fault.
    pub fn fail_next(&self, fault: Fault) {
        self.shared.lock().faults.push_back(fault);
    }

    /// Calls `rule` for each request without a queued fault. It gets the number of the POST, from 1
    /// (0 for other requests), and the request.
    pub fn fail_when(&self, rule: impl FnMut(usize, &Request) -> Option<Fault> + Send + 'static) {
        self.shared.lock().rule = Some(Box::new(rule));
    }

    /// Uses this fault for every request, also other than POST, that has no other fault.
    pub fn always(&self, fault: Fault) {
        self.shared.lock().default_fault = Some(fault);
    }

    /// All requests so far, in the order in which the site read them.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// The POSTs among them.
    pub fn posts(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|r| r.method == "POST").collect()
    }

    /// Waits until the site has read this many POSTs.
    pub fn await_posts(&self, count: usize) {
        let until = Instant::now() + TIME_MAX;
        while self.posts().len() < count {
            assert!(Instant::now() < until, "{} of {count} posts", self.posts().len());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The authentication requests so far; probes, which have no credential, are not among them.
    pub fn proof_requests(&self) -> Vec<Request> {
        let mut requests = self.requests();
        let state = self.shared.lock();
        requests.retain(|r| {
            let me = r.method == "GET" && r.path.contains("/members/me");
            me && state.site_model.members.credential(r).is_some()
        });
        requests
    }

    /// The message lookups so far.
    pub fn lookup_requests(&self) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(is_lookup);
        requests
    }

    /// The requests for participant lists so far, one for each page.
    pub fn list_requests(&self) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|r| r.method == "GET" && r.path.contains("/messages/") && !is_lookup(r));
        requests.retain(|r| !r.path.contains("can_send_message"));
        requests
    }

    /// The messages stored in a thread, oldest first: sender and text.
    pub fn stored(&self, thread: u64) -> Vec<(u64, String)> {
        let state = self.shared.lock();
        let thread = state.site_model.threads.get(&thread);
        thread.map_or(Vec::new(), |t| t.messages.iter().map(|m| (m.1, m.2.clone())).collect())
    }

    /// The threads' ids and participants.
    pub fn threads(&self) -> Vec<(u64, Vec<u64>)> {
        let state = self.shared.lock();
        state.site_model.threads.iter().map(|(id, t)| (*id, t.participants.clone())).collect()
    }
}

fn is_lookup(request: &Request) -> bool {
    let thread =
        request.path.contains("recipients_page=1") && request.argument("_fields").is_none();
    request.method == "GET" && (thread || request.path.contains("/search-thread"))
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
                    // Errors mean that the client has closed; tests do that on purpose.
                    let _ = serve_connection(&socket, number, &shared);
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

fn serve_connection(socket: &TcpStream, number: usize, shared: &Shared) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(POLL_INTERVAL))?;
    socket.set_write_timeout(Some(Duration::from_secs(5)))?;
    while let Some(request) = read_request(socket, number, shared)? {
        let (fault, latency) = record_request(&request, shared);
        if !shared.sleep(latency) || !respond(socket, &request, fault, shared)? {
            break;
        }
    }
    Ok(())
}

/// Reads one request; `None` if the client has closed or the site stops.
fn read_request(
    mut socket: &TcpStream,
    number: usize,
    shared: &Shared,
) -> io::Result<Option<Request>> {
    let until = Instant::now() + TIME_MAX;
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

/// Records a request. Returns its fault and the latency.
fn record_request(request: &Request, shared: &Shared) -> (Option<Fault>, Duration) {
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
        // Taken out for the call, because the rule is a part of the borrowed state.
        if let Some(mut rule) = state.rule.take() {
            fault = rule(number, request);
            state.rule = Some(rule);
        }
    }
    (fault.or_else(|| state.default_fault.clone()), state.latency)
}

/// Responds, or fails as the fault says. `false` if the connection must be closed.
fn respond(
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
        _ => shared.lock().site_model.answer(request),
    };
    let json = |body: Vec<u8>| Response { body, ..good.clone() };
    let response = match fault {
        None | Some(Fault::Delay(_)) => good,
        Some(Fault::Hang | Fault::HangAfterStoring) => {
            shared.sleep(TIME_MAX);
            return Ok(false);
        }
        Some(Fault::Close | Fault::CloseAfterStoring) => return Ok(false),
        Some(Fault::FatalAfterStoring) => Response::html(500),
        Some(Fault::StoredLate(after)) => {
            socket.write_all(&Response::html(504).bytes())?;
            if shared.sleep(after) {
                shared.lock().site_model.answer(request);
            }
            return Ok(false);
        }
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
        Some(Fault::Gzip) => json(gzip::stored(&good.body)).with("Content-Encoding", "gzip"),
        Some(Fault::GzipBomb(length)) => json(gzip::bomb(length)).with("Content-Encoding", "gzip"),
        Some(Fault::Html) => Response::html(200),
        Some(Fault::HtmlBeforeJson) => {
            let mut body = b"\n<br />\n<b>Warning</b>: Undefined variable<br />\n".to_vec();
            body.extend_from_slice(&good.body);
            json(body)
        }
        Some(Fault::Wrapped(kind, before, after)) => {
            let body = [before.as_bytes(), &good.body, after.as_bytes()].concat();
            Response { status: 200, headers: Vec::new(), body }.with("Content-Type", kind)
        }
        Some(Fault::Answer { status, headers, body }) => Response { status, headers, body },
    };
    socket.write_all(&response.bytes())?;
    Ok(true)
}

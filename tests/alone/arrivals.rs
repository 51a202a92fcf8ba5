//! Thousands of clients connect at once: counts the requests to the site, and measures the
//! processor time of authentication.
//!
//! A debug build uses fewer clients. For the figures:
//!
//! ```text
//! cargo test --release --test alone -- --nocapture arrivals
//! ```
//!
//! Everything runs with `--presence off`: announcing five thousand users to five thousand
//! connections takes 25 million frames, which would measure the broadcast and not the
//! authentication.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::one_at_a_time;
use crate::support::bytes;
use crate::support::files::SecretFile;
use crate::support::server::Server;
use crate::support::site::Site;

/// Number of users that connect.
const USERS: u64 = if cfg!(debug_assertions) { 1_000 } else { 5_000 };
/// Users in each thread.
const THREAD_SIZE: u64 = 10;
/// Connections of one user.
const DEVICES: u64 = 1_000;

/// Descriptors that the test needs besides its connections.
const DESCRIPTORS_BESIDES: u64 = 200;
/// Threads of the test that open connections.
const OPENERS: usize = 4;
/// A deadline far above the expected time of any step.
const LONG: Duration = Duration::from_secs(60);

const SECRET: &str = "a secret of the tests, long enough for all";

/// Raises the limit of open files; returns the number of connections that fit, at most `wanted`.
fn raise_descriptor_limit(wanted: u64) -> u64 {
    let got = rlimit::increase_nofile_limit(wanted + DESCRIPTORS_BESIDES).unwrap();
    let room = wanted.min(got.saturating_sub(DESCRIPTORS_BESIDES)) / THREAD_SIZE * THREAD_SIZE;
    if room < wanted {
        println!("{room} connections instead of {wanted}: the system allows {got} open files");
    }
    assert!(room > 0, "no room for connections: {got} open files");
    room
}

/// A user who will connect.
struct User {
    id: u64,
    thread: u64,
    token: Option<String>,
}

/// Users 1 to `count`, [`THREAD_SIZE`] to a thread.
fn users(count: u64, token: impl Fn(u64) -> Option<String>) -> Vec<User> {
    let user = |id| User { id, thread: thread_of(id), token: token(id) };
    (1..=count).map(user).collect()
}

fn thread_of(user: u64) -> u64 {
    (user - 1) / THREAD_SIZE + 1
}

/// A site with these users and their threads.
fn site_of(count: u64) -> Site {
    let site = Site::start();
    for thread in 1..=thread_of(count) {
        let first = (thread - 1) * THREAD_SIZE + 1;
        site.add_thread(thread, &(first..first + THREAD_SIZE).collect::<Vec<_>>());
    }
    site
}

/// Starts a server in front of this site, and waits for the answer to its first probe.
fn start_server(site: &Site, more: &[&str]) -> Server {
    let url = site.url();
    let arguments = ["--buddyboss-url", &url, "--presence", "off", "--upstream-workers", "8"];
    let server = Server::start(&[&arguments, more].concat());
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("REST API answers")));
    server
}

/// A connection, read through a small buffer.
struct Open(BufReader<TcpStream>);

impl Open {
    /// Connects and sends the WebSocket handshake, without waiting for the response.
    fn connect(address: SocketAddr) -> Open {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket.write_all(&bytes::request()).unwrap();
        Open(BufReader::with_capacity(512, socket))
    }

    /// Waits for the 101 response, authenticates, and joins the thread.
    fn join(&mut self, user: &User) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        let mut hello = json!({"type": "user_connected", "userId": user.id});
        if let Some(token) = &user.token {
            hello["token"] = json!(token);
        }
        let join = json!({"type": "join_thread", "threadId": user.thread});
        let both = [hello, join].map(|frame| bytes::text(&frame.to_string())).concat();
        self.0.get_mut().write_all(&both).unwrap();
    }

    /// Reads the next frame, which must be a text.
    fn next(&mut self) -> Value {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        assert_eq!((head[0], head[1] & 0x80), (bytes::TEXT, 0));
        let length = match head[1] {
            126 => {
                let mut long = [0; 2];
                self.0.read_exact(&mut long).unwrap();
                u16::from_be_bytes(long).into()
            }
            short => usize::from(short),
        };
        let mut text = vec![0; length];
        self.0.read_exact(&mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Expects the replies to `user_connected` and `join_thread`, and no other frame before them.
    fn expect_joined(&mut self, user: &User) {
        assert_eq!(self.next(), json!({"type": "user_connected", "userId": user.id}));
        assert_eq!(self.next(), json!({"type": "thread_joined", "threadId": user.thread}));
    }
}

/// Connects all users and waits until each has joined. The connections stay open.
fn connect_all(address: SocketAddr, users: &[User]) -> Vec<Open> {
    let connect_some = |some: &[User]| -> Vec<Open> {
        let mut open: Vec<Open> = some.iter().map(|_| Open::connect(address)).collect();
        open.iter_mut().zip(some).for_each(|(open, user)| open.join(user));
        open.iter_mut().zip(some).for_each(|(open, user)| open.expect_joined(user));
        open
    };
    thread::scope(|scope| {
        let parts = users.chunks(users.len().div_ceil(OPENERS));
        let parts: Vec<_> = parts.map(|some| scope.spawn(move || connect_some(some))).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    })
}

/// Processor time of the server for each connection, in microseconds.
struct Cost {
    total_us: f64,
    loop_us: f64,
}

/// Connects all users, and returns the cost.
fn measure(what: &str, server: &Server, users: &[User]) -> Cost {
    let (all, of_loop) = server.cpu_time();
    let started = Instant::now();
    let open = connect_all(server.address(), users);
    let elapsed = started.elapsed();
    let (all_after, of_loop_after) = server.cpu_time();
    let each = |time: Duration| time.as_secs_f64() * 1e6 / open.len() as f64;
    let cost = Cost { total_us: each(all_after - all), loop_us: each(of_loop_after - of_loop) };
    println!(
        "{what}: {} connections in {:.2} s, {:.1} µs of processor time each, {:.1} µs of them in \
         the loop",
        open.len(),
        elapsed.as_secs_f64(),
        cost.total_us,
        cost.loop_us
    );
    cost
}

/// Number of probes: requests about neither a token nor a thread.
fn probes(site: &Site) -> usize {
    site.requests().len() - site.proof_requests().len() - site.list_requests().len()
}

#[test]
fn each_token_and_thread_is_queried_at_most_once() {
    let _alone = one_at_a_time();
    let count = raise_descriptor_limit(USERS);

    let site = site_of(count);
    let open = {
        let server = start_server(&site, &["--trust", "open"]);
        measure("open trust", &server, &users(count, |_| None))
    };
    assert_eq!((site.proof_requests().len(), site.list_requests().len()), (0, 0));

    let site = site_of(count);
    let by_site = {
        let server = start_server(&site, &[]);
        let tokens = users(count, |user| Some(format!("token-{user}")));
        measure("verified, by the site", &server, &tokens)
    };
    let threads = thread_of(count);
    assert_eq!(
        (site.proof_requests().len() as u64, site.list_requests().len() as u64),
        (count, threads)
    );
    assert!((1..=2).contains(&probes(&site)), "{} probes", probes(&site));

    let site = site_of(count);
    site.set_jwt_secret(SECRET);
    let file = SecretFile::with(&[SECRET]);
    let by_signature = {
        let server = start_server(&site, &["--jwt-secret-file", file.path()]);
        let tokens = users(count, |user| Some(site.jwt(user, 60 * LONG)));
        measure("verified, by signature", &server, &tokens)
    };
    assert_eq!(
        (site.proof_requests().len() as u64, site.list_requests().len() as u64),
        (0, threads)
    );
    assert!((1..=2).contains(&probes(&site)), "{} probes", probes(&site));

    for (what, cost) in [("by the site", &by_site), ("by signature", &by_signature)] {
        println!(
            "verified {what} costs {:.1} µs a connection more than open, {:.1} µs of them in the \
             loop",
            cost.total_us - open.total_us,
            cost.loop_us - open.loop_us
        );
    }
}

#[test]
fn shared_token_on_many_connections_is_queried_once() {
    let _alone = one_at_a_time();
    let count = raise_descriptor_limit(DEVICES);
    let site = site_of(THREAD_SIZE);
    let server = start_server(&site, &[]);
    // The site answers only after all connections are open.
    site.set_latency(Duration::from_millis(500));
    let devices: Vec<User> =
        (0..count).map(|_| User { id: 7, thread: 1, token: Some("token-7".to_owned()) }).collect();
    let open = connect_all(server.address(), &devices);
    assert_eq!(open.len() as u64, count);
    assert_eq!((site.proof_requests().len(), site.list_requests().len()), (1, 1));
    assert!((1..=2).contains(&probes(&site)), "{} probes", probes(&site));
}

//! Thousands who arrive at once: how often the site is asked, and what a proof costs the server.
//!
//! A debug build lets fewer come. For the figures:
//!
//! ```text
//! cargo test --release --test alone -- --nocapture arrivals
//! ```
//!
//! Everything runs with `--presence off`: five thousand arrivals told to five thousand connections
//! are 25 million frames, which would measure the broadcast and not the proof.

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

/// How many arrive.
const USERS: u64 = if cfg!(debug_assertions) { 1_000 } else { 5_000 };
/// How many of them share a thread.
const THREAD_SIZE: u64 = 10;
/// Connections of one member's devices.
const DEVICES: u64 = 1_000;

/// What the test needs besides its connections.
const DESCRIPTORS_BESIDES: u64 = 200;
/// Threads of the test that open connections.
const OPENERS: usize = 4;
/// Far longer than any of it should take.
const LONG: Duration = Duration::from_secs(60);

const SECRET: &str = "a secret of the tests, long enough for all";

/// So many, or as many as the system lets us open.
fn raise_descriptor_limit(wanted: u64) -> u64 {
    let got = rlimit::increase_nofile_limit(wanted + DESCRIPTORS_BESIDES).unwrap();
    let room = wanted.min(got.saturating_sub(DESCRIPTORS_BESIDES)) / THREAD_SIZE * THREAD_SIZE;
    if room < wanted {
        println!("{room} arrive instead of {wanted}: the system allows {got} open files");
    }
    assert!(room > 0, "no room for anybody: {got} open files");
    room
}

/// Someone who is about to arrive.
struct User {
    user: u64,
    thread: u64,
    token: Option<String>,
}

/// People 1 to `count`, ten to a thread.
fn people(count: u64, token: impl Fn(u64) -> Option<String>) -> Vec<User> {
    let person = |user| User { user, thread: thread_of(user), token: token(user) };
    (1..=count).map(person).collect()
}

fn thread_of(user: u64) -> u64 {
    (user - 1) / THREAD_SIZE + 1
}

/// A site where they are members.
fn site_of(count: u64) -> Site {
    let site = Site::start();
    for thread in 1..=thread_of(count) {
        let first = (thread - 1) * THREAD_SIZE + 1;
        site.add_thread(thread, &(first..first + THREAD_SIZE).collect::<Vec<_>>());
    }
    site
}

/// A server at a site, which has answered its probe.
fn at(site: &Site, more: &[&str]) -> Server {
    let url = site.url();
    let arguments = ["--buddyboss-url", &url, "--presence", "off", "--upstream-workers", "8"];
    let server = Server::start(&[&arguments, more].concat());
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("REST API answers")));
    server
}

/// A connection, read through a small buffer.
struct Open(BufReader<TcpStream>);

impl Open {
    /// Connects and asks for a WebSocket; the answer is not waited for.
    fn connect(address: SocketAddr) -> Open {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket.write_all(&bytes::request()).unwrap();
        Open(BufReader::with_capacity(512, socket))
    }

    /// Waits for the answer, says who this is, and joins.
    fn join(&mut self, person: &User) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        let mut hello = json!({"type": "user_connected", "userId": person.user});
        if let Some(token) = &person.token {
            hello["token"] = json!(token);
        }
        let join = json!({"type": "join_thread", "threadId": person.thread});
        let both = [hello, join].map(|frame| bytes::text(&frame.to_string())).concat();
        self.0.get_mut().write_all(&both).unwrap();
    }

    /// The next frame, which is a text.
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

    /// Sees that this and nothing else is told to who has come in.
    fn expect_joined(&mut self, person: &User) {
        assert_eq!(self.next(), json!({"type": "user_connected", "userId": person.user}));
        assert_eq!(self.next(), json!({"type": "thread_joined", "threadId": person.thread}));
    }
}

/// Lets all of them arrive, and waits until each has been told so. Their connections stay open.
fn arrive(address: SocketAddr, people: &[User]) -> Vec<Open> {
    let arrive_some = |some: &[User]| -> Vec<Open> {
        let mut open: Vec<Open> = some.iter().map(|_| Open::connect(address)).collect();
        open.iter_mut().zip(some).for_each(|(open, person)| open.join(person));
        open.iter_mut().zip(some).for_each(|(open, person)| open.expect_joined(person));
        open
    };
    thread::scope(|scope| {
        let parts = people.chunks(people.len().div_ceil(OPENERS));
        let parts: Vec<_> = parts.map(|some| scope.spawn(move || arrive_some(some))).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    })
}

/// What a storm has cost the server, for each connection.
struct Cost {
    total_us: f64,
    loop_us: f64,
}

/// Lets them arrive, and tells what it has cost.
fn measure(what: &str, server: &Server, people: &[User]) -> Cost {
    let (all, of_loop) = server.cpu_time();
    let begun = Instant::now();
    let open = arrive(server.address(), people);
    let lasted = begun.elapsed();
    let (all_after, of_loop_after) = server.cpu_time();
    let each = |time: Duration| time.as_secs_f64() * 1e6 / open.len() as f64;
    let cost = Cost { total_us: each(all_after - all), loop_us: each(of_loop_after - of_loop) };
    println!(
        "{what}: {} connections in {:.2} s, {:.1} µs of processor time each, {:.1} µs of them in \
         the loop",
        open.len(),
        lasted.as_secs_f64(),
        cost.total_us,
        cost.loop_us
    );
    cost
}

/// Requests that are neither about a token nor about a thread: probes, which carry no token.
fn probes(site: &Site) -> usize {
    site.requests().len() - site.proof_requests().len() - site.list_requests().len()
}

#[test]
fn each_token_and_thread_is_queried_at_most_once() {
    let _alone = one_at_a_time();
    let count = raise_descriptor_limit(USERS);

    let site = site_of(count);
    let open = {
        let server = at(&site, &["--trust", "open"]);
        measure("open trust", &server, &people(count, |_| None))
    };
    assert_eq!((site.proof_requests().len(), site.list_requests().len()), (0, 0));

    let site = site_of(count);
    let asked = {
        let server = at(&site, &[]);
        let tokens = people(count, |user| Some(format!("token-{user}")));
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
    let signed = {
        let server = at(&site, &["--jwt-secret-file", file.path()]);
        let tokens = people(count, |user| Some(site.jwt(user, 60 * LONG)));
        measure("verified, by signature", &server, &tokens)
    };
    assert_eq!(
        (site.proof_requests().len() as u64, site.list_requests().len() as u64),
        (0, threads)
    );
    assert!((1..=2).contains(&probes(&site)), "{} probes", probes(&site));

    for (what, cost) in [("by the site", &asked), ("by signature", &signed)] {
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
    let server = at(&site, &[]);
    // The answer is late, so that all of them are there before it.
    site.set_latency(Duration::from_millis(500));
    let devices: Vec<User> = (0..count)
        .map(|_| User { user: 7, thread: 1, token: Some("token-7".to_owned()) })
        .collect();
    let open = arrive(server.address(), &devices);
    assert_eq!(open.len() as u64, count);
    assert_eq!((site.proof_requests().len(), site.list_requests().len()), (1, 1));
    assert!((1..=2).contains(&probes(&site)), "{} probes", probes(&site));
}

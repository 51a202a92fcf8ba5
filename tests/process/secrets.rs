//! A day with everything logged: no token, no password and no key of the site gets out.
//!
//! Every byte that the server writes to its log, and every byte that any client gets, is searched
//! for every secret in every form. [`scanner`] is the search; that it can fail is tested first.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::client::{Client, LONG};
use crate::support::files::SecretFile;
use crate::support::jwt;
use crate::support::recorder::RecordingProxy;
use crate::support::scanner::SecretScanner;
use crate::support::server::{Server, ask};
use crate::support::site::{Fault, Site};

/// The site's, and one that is no more.
const KEYS: [&str; 2] =
    ["k3y of the site: 8f#Lq^2vWz!pR7 and more", "0ld key of the site: 5Tn&yB*e1XsU and more"];
/// Stands in every address with a query.
const MARK: &str = "qu3ry-m4rk";

// ---- the search can fail

#[test]
fn scanner_finds_each_form_of_a_secret_and_nothing_else() {
    let mut scanner = SecretScanner::default();
    let token = opaque("planted", 7);
    let signed = jwt::token(KEYS[0], "http://127.0.0.1", 7, 1_700_000_000, |_, _| ());
    scanner.add(&token);
    scanner.add(&signed);
    scanner.add(KEYS[0]);
    scanner.add_password("anna", "abcd EFGH 1234 ijkl MNOP 6789");
    let signature = signed.rsplit_once('.').unwrap().1;
    for planted in [
        &*token,
        &token[..16],
        &token[token.len() - 16..],
        &token.to_uppercase(),
        &format!("GET /?token={signed} HTTP/1.1"),
        &signature[..16],
        &signature[signature.len() - 16..],
        KEYS[0],
        "k3y%20of%20the%20site%3A",
        "abcd EFGH 1234 ijkl",
        "abcd+EFGH+1234+i",
        "abcdEFGH1234ijklMNOP6789",
        &STANDARD.encode("anna:abcd EFGH 1234 ijkl MNOP 6789"),
        &URL_SAFE_NO_PAD.encode("anna:abcd EFGH 1234 ijkl MNOP 6789"),
    ] {
        let bytes = [b"\x81\x7e\xff\x00 before ", planted.as_bytes(), b" after"].concat();
        assert!(scanner.find(&bytes).is_some(), "{planted}");
    }
    for harmless in ["", "anna", &token[..15], "connection 7: open from 127.0.0.1"] {
        assert_eq!(scanner.find(harmless.as_bytes()), None);
    }
}

#[test]
fn scanner_covers_both_output_streams_and_all_replies() {
    let mut scanner = SecretScanner::default();
    let [out, err, body] = ["out", "err", "body"].map(|name| opaque(name, 7));
    for (secret, place) in [(&out, "&1"), (&err, "&2")] {
        let mut scanner = SecretScanner::default();
        scanner.add(secret);
        let mut shell = Command::new("sh");
        let send =
            format!("echo 'listening on ws://127.0.0.1:9' >&2; echo 'x {secret} y' >{place}");
        shell.args(["-c", &send]);
        let process = Server::launch(shell, 1);
        assert!(scanner.find(process.final_output().as_bytes()).is_some(), "{place}");
    }
    // The site stands in for a server that tells what it was told.
    scanner.add(&body);
    let site = Site::start();
    let answer = format!("<html>{body}</html>").into_bytes();
    site.always(Fault::Answer { status: 404, headers: Vec::new(), body: answer });
    let recorder =
        RecordingProxy::before(site.url().strip_prefix("http://").unwrap().parse().unwrap());
    let mut socket = std::net::TcpStream::connect(recorder.address()).unwrap();
    std::io::Write::write_all(&mut socket, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    std::io::Read::read_exact(&mut socket, &mut [0; 60]).unwrap();
    drop((socket, site));
    let heard = recorder.all();
    assert_eq!(heard.len(), 1);
    assert!(scanner.find(&heard[0]).is_some());
}

// ---- the day

/// A token without any meaning: 43 letters that look like chance, and a member's number.
fn opaque(name: &str, user: u64) -> String {
    format!("{}-{user}", jwt::encoded(&jwt::signature("seed", name)))
}

/// How the site is set up, and the server with it.
#[derive(Clone, Copy, PartialEq)]
enum Setup {
    /// The site is asked about each token.
    Asked,
    /// The server has the site's secret.
    Signed,
    /// Tokens go bare into a header of the app's.
    AppHeader,
}

/// What a member has.
#[derive(Clone)]
enum TestCredential {
    Token(String),
    /// Base64 of login and password.
    Password(String),
}

/// Every way to hand something over before a message is sent.
const WAYS: [&str; 6] = ["query", "encoded query", "header", "subprotocol", "frame", "both"];

impl TestCredential {
    /// As it stands in a frame.
    fn in_frame(&self) -> String {
        match self {
            TestCredential::Token(token) => token.clone(),
            TestCredential::Password(pair) => format!("Basic {pair}"),
        }
    }

    /// What the site gets in a header.
    fn at_the_site(&self) -> &str {
        match self {
            TestCredential::Token(token) => token,
            TestCredential::Password(pair) => pair,
        }
    }

    /// Opens a connection that hands it over.
    fn open(&self, address: SocketAddr, way: &str, user: u64) -> Client {
        let in_frame = self.in_frame();
        let encoded = in_frame.replace('%', "%25").replace(' ', "%20").replace('.', "%2e");
        let (bearer, listed) = match self {
            TestCredential::Token(token) => (format!("Bearer {token}"), token.clone()),
            TestCredential::Password(pair) => {
                let bytes = STANDARD_NO_PAD.decode(pair.trim_end_matches('=')).unwrap();
                (in_frame.clone(), format!("basic.{}", URL_SAFE_NO_PAD.encode(bytes)))
            }
        };
        let path = |token: &str| format!("/live/{MARK}?room={MARK}&token={token}&last={MARK}");
        let tells = |client: &mut Client| {
            client.send(&json!({"type": "user_connected", "userId": user, "token": in_frame}));
        };
        let mut list = [("Sec-WebSocket-Protocol", "buddyline")];
        let listed = format!("buddyline, {listed}");
        match way {
            "query" => Client::at(address, &path(&in_frame.replace(' ', "+")), &[]),
            "encoded query" => Client::at(address, &path(&encoded), &[]),
            "header" => Client::at(address, "/", &[("Authorization", &bearer)]),
            "subprotocol" => {
                list[0].1 = &listed;
                Client::at(address, "/", &list)
            }
            "frame" => {
                let mut client = Client::connect(address);
                tells(&mut client);
                client
            }
            "both" => {
                let mut client = Client::at(address, &path(&encoded), &list);
                tells(&mut client);
                client
            }
            other => panic!("{other} is no way"),
        }
    }
}

/// A site, a server that logs everything, and what both must keep to themselves.
struct LeakScenario {
    setup: Setup,
    site: Site,
    server: Server,
    recorder: RecordingProxy,
    scanner: SecretScanner,
    /// What the site answers to whom: part of a request's path, a credential, a fault.
    faults: Faults,
    /// What the site must have been told.
    used: Vec<String>,
    _file: SecretFile,
}

type Faults = Arc<Mutex<Vec<(&'static str, String, Fault)>>>;

/// Members 1 to 18 take part in thread 41, and in each of the others that go wrong.
const ALL_USERS: std::ops::RangeInclusive<u64> = 1..=18;

impl LeakScenario {
    fn begin(setup: Setup) -> LeakScenario {
        let site = Site::start();
        let everyone: Vec<u64> = ALL_USERS.collect();
        for thread in 41..=60 {
            site.add_thread(thread, &everyone);
        }
        site.set_jwt_secret(KEYS[0]);
        let faults = Faults::default();
        site.fail_when({
            let faults = Arc::clone(&faults);
            move |_, request| {
                let carries = |secret: &str| request.headers.iter().any(|h| h.1.ends_with(secret));
                let faults = faults.lock().unwrap();
                let mut of_this = faults
                    .iter()
                    .filter(|(what, secret, _)| request.path.contains(what) && carries(secret));
                of_this.next().map(|(_, _, fault)| fault.clone())
            }
        });
        let mut scanner = SecretScanner::default();
        KEYS.iter().for_each(|key| scanner.add(key));
        let file = SecretFile::with(&KEYS);
        let url = site.url();
        let mut arguments = vec!["--buddyboss-url", &*url, "--log-level", "debug"];
        arguments.extend(["--upstream-timeout", "2s", "--membership-lasts", "10s"]);
        match setup {
            Setup::Asked => {}
            Setup::Signed => arguments.extend(["--jwt-secret-file", file.path()]),
            Setup::AppHeader => {
                arguments.extend(["--token-header", "accessToken"]);
                site.set_token_header("accessToken");
            }
        }
        let server = Server::start(&arguments);
        server.wait_for_log(|lines| lines.iter().any(|line| line.contains("REST API answers")));
        let recorder = RecordingProxy::before(server.address());
        LeakScenario {
            setup,
            site,
            server,
            recorder,
            scanner,
            faults,
            used: Vec::new(),
            _file: file,
        }
    }

    /// A token of the JWT plugin's.
    fn jwt(&mut self, user: u64, lasts: Duration) -> TestCredential {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let token = jwt::token(KEYS[0], &self.site.url(), user, now.as_secs(), |_, claims| {
            claims["exp"] = json!((now + lasts).as_secs());
            // No two are alike.
            claims["jti"] = json!(self.scanner.count());
        });
        self.scanner.add(&token);
        TestCredential::Token(token)
    }

    /// A token that only the site understands.
    fn opaque(&mut self, name: &str, user: u64) -> TestCredential {
        let token = opaque(name, user);
        self.scanner.add(&token);
        TestCredential::Token(token)
    }

    /// An Application Password, which the site knows as this member's.
    fn password(&mut self, name: &str, user: u64) -> TestCredential {
        let login = format!("member{user}");
        let letters = opaque(name, user).replace(['-', '_'], "x");
        let groups: Vec<&str> = (0..6).map(|n| &letters[4 * n..4 * n + 4]).collect();
        let password = groups.join(" ");
        self.scanner.add_password(&login, &password);
        let pair = STANDARD.encode(format!("{login}:{password}"));
        self.site.add_member(&format!("Basic {pair}"), user);
        TestCredential::Password(pair)
    }

    /// A token that proves its user in this setup.
    fn good(&mut self, name: &str, user: u64) -> TestCredential {
        match self.setup {
            Setup::Signed => self.jwt(user, 60 * LONG),
            _ => self.opaque(name, user),
        }
    }

    fn address(&self) -> SocketAddr {
        self.recorder.address()
    }

    /// From now on the site answers so, where this credential is in the request.
    fn fail_requests(&self, path: &'static str, held: &TestCredential, fault: Fault) {
        let secret = held.at_the_site().to_owned();
        self.faults.lock().unwrap().push((path, secret, fault));
    }

    // ---- what people do

    /// Eighteen people, each with something else and in another way, who say all there is to say.
    fn exchange_messages(&mut self) {
        let mut crowd = Vec::new();
        for user in ALL_USERS {
            let way = WAYS[user as usize % WAYS.len()];
            let held = match user as usize / WAYS.len() {
                0 => self.jwt(user, 60 * LONG),
                1 => self.good("crowd", user),
                _ => self.password("crowd", user),
            };
            let mut client = held.open(self.address(), way, user);
            client.expect(|frame| frame["type"] == "user_connected" && frame["userId"] == user);
            client.join(41);
            self.used.push(held.at_the_site().to_owned());
            crowd.push((user, held, client));
        }
        let count = crowd.len() as u64;
        for (user, held, client) in &mut crowd {
            let next = *user % count + 1;
            let token = held.in_frame();
            for frame in frames_of_user(*user, next, &token) {
                client.send_text(&frame);
            }
            client.try_send(Message::binary(token.into_bytes())).unwrap();
            client.send(&json!({"type": "ping", "clientId": "all said"}));
            client.find(|frame| frame["clientId"] == "all said");
            // Its own message has its outcome, at whatever time.
            let own = format!("by {user}");
            client.find(|frame| frame["clientId"] == own.as_str());
        }
        for (user, held, mut client) in crowd {
            // A phone that changes networks, in another way than before.
            client.drain();
            drop(client);
            let mut again = held.open(self.address(), WAYS[(user as usize + 1) % 6], user);
            again.expect(|frame| frame["type"] == "user_connected" && frame["userId"] == user);
            again.send(&json!({"type": "user_connected", "userId": user.to_string()}));
            again.join(41);
            again.leave();
        }
    }

    /// A client that knows nothing but `send_message`.
    fn send_from_legacy_client(&mut self) {
        for held in [self.good("old client", 7), self.password("old client", 8)] {
            let mut client = Client::connect(self.address());
            client.send(&json!({
                "type": "send_message", "recipientId": "8", "message": "hello", "threadId": "41",
                "token": held.in_frame(),
            }));
            client.expect_type("message");
            self.used.push(held.at_the_site().to_owned());
        }
    }

    /// What is no good, in every way.
    fn try_as_outsiders(&mut self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let url = self.site.url();
        let mut bad = Vec::new();
        for (n, way) in WAYS.iter().enumerate() {
            let user = 30 + n as u64;
            let forged = jwt::token("guessed", &url, user, now, |_, _| ());
            let foreign = jwt::token(KEYS[0], "https://other.example", user, now, |_, _| ());
            let unsigned = jwt::token(KEYS[0], &url, user, now, |h, _| h["alg"] = json!("none"));
            let unknown = opaque("unknown", user).replace('-', "_");
            for token in [forged, foreign, unsigned, unknown] {
                self.scanner.add(&token);
                bad.push((TestCredential::Token(token), *way, user));
            }
            let pair = STANDARD.encode(format!("member{user}:{}", opaque("wrong", user)));
            self.scanner.add(&pair);
            bad.push((TestCredential::Password(pair), *way, user));
            bad.push((self.jwt(user, Duration::ZERO), *way, user));
            // Another's name under one's own token.
            let own = self.good("liar", user);
            let mut liar = own.open(self.address(), "frame", 7);
            liar.expect_error("identity_mismatch");
        }
        for (held, way, user) in bad {
            let mut client = held.open(self.address(), way, user);
            let fault = client.expect_type("error");
            let code = fault["code"].as_str().unwrap();
            assert!(["token_refused", "token_expired"].contains(&code), "{way}: {fault}");
            client.send(&json!({
                "type": "send_message", "threadId": 41, "message": "hi", "token": held.in_frame(),
            }));
            client.expect_type("error");
        }
        for user in [70, 71] {
            let held = self.good("gone", user);
            if user == 70 {
                self.site.delete_member(user)
            } else {
                self.site.suspend(user)
            }
            let mut client = held.open(self.address(), "query", user);
            // With the site's secret, the first question about a thread tells.
            client.send(&json!({"type": "join_thread", "threadId": 41}));
            let codes = ["token_refused", "suspended", "token_required"];
            let code = client.expect_type("error")["code"].clone();
            assert!(codes.contains(&code.as_str().unwrap()), "{code}");
        }
    }

    /// Requests that open no WebSocket, each with secrets in all places.
    fn send_bad_requests(&mut self) {
        let TestCredential::Token(token) = self.good("http", 7) else { unreachable!() };
        let TestCredential::Password(pair) = self.password("http", 7) else { unreachable!() };
        let auth = format!("Authorization: Basic {pair}\r\nCookie: c={token}\r\n");
        let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let evil = "Origin: https://evil.example\r\n";
        let long = format!("X-Long: {}\r\n", token.repeat(300));
        let query = format!("?room={MARK}&token={token}");
        for (line, more, status) in [
            (format!("GET /{query} HTTP/1.1"), format!("{upgrade}{evil}"), "403"),
            (format!("GET /{query} HTTP/1.1"), format!("{upgrade}{evil}{evil}"), "403"),
            (format!("GET /healthz{query} HTTP/1.1"), String::new(), "200"),
            (format!("GET /{query} HTTP/1.1"), String::new(), "404"),
            (format!("GET /{token}{query} HTTP/1.1"), String::new(), "404"),
            (format!("POST /{query} HTTP/1.1"), String::new(), "400"),
            (format!("GET /{query} HTTP/1.1"), long, "431"),
            (format!("GET /{query} HTTP/1.0"), upgrade.to_owned(), "400"),
            (format!("GET /{query} HTTP/1.1"), upgrade.replace("13", "12"), "426"),
            (format!("{token} {pair}"), format!("{token}\r\n"), "400"),
            (format!("GET /{query}"), String::new(), "400"),
        ] {
            let request = format!("{line}\r\nHost: community.example\r\n{auth}{more}\r\n");
            let answer = ask(self.address(), request.as_bytes());
            assert_eq!(answer.get(9..12), Some(status), "{line}: {answer}");
        }
    }

    /// A site that breaks, and repeats what it was told while it does.
    fn break_the_site(&mut self) {
        for (n, path) in ["/members/me", "/messages/", "/messages"].into_iter().enumerate() {
            // With the site's secret nobody is asked who somebody is.
            let proofs = path == "/members/me";
            let mut clients = Vec::new();
            for kind in 0..9 {
                let user = 1 + kind % 18;
                let name = format!("broken {n} {kind}");
                let held = match (proofs && self.setup == Setup::Signed) || kind % 2 == 1 {
                    true => self.password(&name, user),
                    false => self.good(&name, user),
                };
                self.fail_requests(path, &held, leaky_fault(kind, held.at_the_site()));
                self.used.push(held.at_the_site().to_owned());
                let thread = 42 + kind + 9 * u64::from(n == 1);
                let mut client = held.open(self.address(), "frame", user);
                let frame = match path {
                    "/members/me" => None,
                    "/messages/" => Some(json!({"type": "join_thread", "threadId": thread})),
                    _ => Some(json!({
                        "type": "send_message", "threadId": thread, "message": "hello",
                        "token": held.in_frame(),
                    })),
                };
                if let Some(frame) = frame {
                    client.send(&frame);
                }
                clients.push(client);
            }
            // Whether half an answer was a stored message takes 15 s to find out.
            let is_outcome = |frame: &Value| frame["type"] == "error" || frame["type"] == "message";
            for mut client in clients {
                client.expect_within(3 * LONG, is_outcome);
            }
        }
    }

    /// A token that ends while its connection is open, and its successor.
    fn expire_a_token(&mut self) {
        let short = self.jwt(7, Duration::from_secs(3));
        let mut client = short.open(self.address(), "header", 7);
        client.join(41);
        client.expect_error("token_expired");
        client.send(&json!({"type": "user_connected", "userId": 7, "token": short.in_frame()}));
        client.expect_error("token_expired");
        let fresh = self.jwt(7, 60 * LONG);
        client.send(&json!({"type": "user_connected", "userId": 7, "token": fresh.in_frame()}));
        client.expect(|frame| frame["type"] == "user_connected" && frame["userId"] == 7);
        client.send(&json!({"type": "send_message", "threadId": 41, "message": "hello"}));
        client.expect_type("message");
        self.used.push(fresh.at_the_site().to_owned());
    }

    /// The end, while messages, proofs and lists are on their way.
    fn stop(mut self) {
        let helds = [self.good("last", 7), self.password("last", 8), self.good("late", 9)];
        let [seven, eight, late] = &helds;
        let mut one = seven.open(self.address(), "query", 7);
        one.expect(|frame| frame["type"] == "user_connected" && frame["userId"] == 7);
        self.site.set_latency(Duration::from_millis(500));
        one.send(&json!({
            "type": "send_message", "threadId": 41, "message": "last words",
            "token": seven.in_frame(), "clientId": "last",
        }));
        one.send(&json!({"type": "join_thread", "threadId": 60}));
        let mut others =
            [eight.open(self.address(), "header", 8), late.open(self.address(), "query", 9)];
        for client in others.iter_mut().chain([&mut one]) {
            client.drain();
        }
        self.server.signal("TERM");
        one.expect(|frame| frame["clientId"] == "last");
        for client in others.iter_mut().chain([&mut one]) {
            assert_eq!(client.close_code(), Some(1012));
        }
        drop((one, others));
        assert!(self.server.exit(LONG).success());
        self.used.extend(helds.iter().take(2).map(|held| held.at_the_site().to_owned()));
        self.assert_no_leaks();
    }

    fn assert_no_leaks(self) {
        let log = self.server.final_output();
        let lines = log.lines().count();
        let debug = log.lines().filter(|line| line.contains("DEBUG")).count();
        assert!(debug > 200 && debug < lines, "{debug} lines of {lines}: all is logged");
        assert!(log.contains("WARN") && log.contains("evil.example"), "and warned of");
        if let Some(found) = self.scanner.find(log.as_bytes()) {
            panic!("logged: {found}");
        }
        for word in [MARK, "?room", "token=", "last words"] {
            assert!(!log.contains(word), "{word} is logged");
        }
        let heard = self.recorder.all();
        let bytes: usize = heard.iter().map(Vec::len).sum();
        assert!(heard.len() > 100 && bytes > 100_000, "{} connections, {bytes} bytes", heard.len());
        for bytes in &heard {
            if let Some(found) = self.scanner.find(bytes) {
                panic!("told to a client: {found}");
            }
        }
        // They were there: the site got them.
        let requests = self.site.requests();
        for secret in &self.used {
            let got = requests.iter().any(|r| r.headers.iter().any(|(_, v)| v.ends_with(secret)));
            assert!(got, "never used: {secret}");
        }
        println!("{} forms in {lines} lines and {bytes} bytes", self.scanner.count());
    }
}

/// Everything that one can say, with one's token wherever a careless client could put it.
fn frames_of_user(user: u64, next: u64, token: &str) -> Vec<String> {
    let call = |kind: &str, payload: &str| {
        json!({
            "type": kind, payload: {"sdp": "v=0"}, "senderId": user, "recipientId": next,
            "threadId": 41, "token": token, "clientId": "mine",
        })
    };
    let broken_off = format!(" {token}\r\n");
    let frames = [
        json!({"type": "user_connected", "userId": user, "token": token, "clientId": "hello"}),
        json!({"type": "join_thread", "threadId": 41, "token": token}),
        json!({"type": "typing", "threadId": 41, "token": token}),
        json!({"type": "typing", "threadId": 41, "typing": token}),
        json!({
            "type": "send_message", "threadId": 41, "message": format!("I am {user}"),
            "token": token, "clientId": format!("by {user}"),
        }),
        json!({"type": "send_message", "threadId": 41, "token": token}),
        json!({"type": "send_message", "threadId": 41, "message": "x", "token": {"is": token}}),
        json!({"type": "send_message", "threadId": 41, "message": "x", "token": [token, " "]}),
        json!({"type": "send_message", "recipientId": next, "message": "x", "token": broken_off}),
        json!({"type": "send_message", "threadId": 41, "message": [token]}),
        json!({"type": "send_message", "message": "x", "recipientId": user, "token": token}),
        json!({"type": "typing", "threadId": 4_100, "token": token}),
        json!({"type": "online_users", "token": token}),
        json!({"type": "online_users", "threadId": {"token": token}}),
        json!({"type": "leave_thread", "threadId": 42, "token": token}),
        json!({"type": "user_connected", "userId": [token]}),
        json!({"type": "user_connected", "userId": next, "token": token}),
        json!({"type": ["user_connected"], "token": token}),
        json!([{"type": "ping", "token": token}]),
        call("call_initiated", "more"),
        call("offer", "offer"),
        call("answer", "answer"),
        call("ice-candidate", "candidate"),
        json!({"type": "offer", "offer": [token], "recipientId": next, "threadId": 41}),
    ];
    let mut texts: Vec<String> = frames.iter().map(Value::to_string).collect();
    let token = serde_json::to_string(token).unwrap();
    // Frames that no library writes.
    texts.extend([
        format!("{{\"type\":\"ping\",\"token\":{token},\"token\":{token}}}"),
        format!("{{\"type\":\"send_message\",\"token\":{token}"),
        format!("{{\"type\":\"send_message\",{token}:}}"),
        format!("{{{token}:{token}}}"),
        token.clone(),
        token.trim_matches('"').to_owned(),
        format!(
            "{{\"type\":\"offer\",\"offer\":\"v=0\",\"recipientId\":{next},\"threadId\":41,\
             \"tok\\u0065n\":{token},\"client\\u0049d\":\"x\"}}"
        ),
    ]);
    texts
}

/// An answer that is none, with the request's secret wherever there is room for it.
fn leaky_fault(kind: u64, secret: &str) -> Fault {
    let to = |place: String| Fault::status(302, &[("Location", &place)]);
    let answer = |status: u16, kind: &str, body: String| Fault::Answer {
        status,
        headers: vec![
            ("Content-Type".to_owned(), kind.to_owned()),
            ("X-Echo".to_owned(), secret.to_owned()),
            ("Retry-After".to_owned(), secret.to_owned()),
        ],
        body: body.into_bytes(),
    };
    let json = |status: u16, body: Value| answer(status, "application/json", body.to_string());
    match kind {
        0 => to(format!("https://login.example/{secret}?token={secret}")),
        1 => to(format!("/wp-login.php?action=bp-suspended&token={secret}")),
        2 => answer(200, "text/html", format!("<html>{secret}</html>")),
        3 => Fault::Truncated,
        4 => json(500, json!({"code": secret, "message": secret, "data": {"status": secret}})),
        5 => json(403, json!({"code": format!("jwt_auth_{secret}"), "message": secret})),
        6 => json(200, json!({"id": secret, "recipients": {secret: secret}, "messages": [secret]})),
        7 => answer(200, "application/json", format!("{{\"id\":{secret}")),
        _ => answer(500, "text/html", secret.to_owned()),
    }
}

fn run_scenario(setup: Setup) {
    let mut scenario = LeakScenario::begin(setup);
    scenario.exchange_messages();
    scenario.send_from_legacy_client();
    scenario.try_as_outsiders();
    scenario.send_bad_requests();
    scenario.break_the_site();
    scenario.expire_a_token();
    scenario.stop();
}

#[test]
fn no_leaks_when_the_site_verifies_tokens() {
    run_scenario(Setup::Asked);
}

#[test]
fn no_leaks_when_the_server_has_the_jwt_secret() {
    run_scenario(Setup::Signed);
}

#[test]
fn no_leaks_with_a_custom_token_header() {
    run_scenario(Setup::AppHeader);
}

//! Secrets do not leak: no token, password or key of the site appears in the log or in a reply.
//!
//! A scenario with debug logging uses many credentials. Every byte of the log, and every byte that
//! a client receives, is searched for every secret in every encoding. The first tests check that
//! the search ([`SecretScanner`]) finds planted secrets.

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

/// The JWT secret of the site, and its predecessor.
const KEYS: [&str; 2] =
    ["k3y of the site: 8f#Lq^2vWz!pR7 and more", "0ld key of the site: 5Tn&yB*e1XsU and more"];
/// A mark in every URL with a query.
const MARK: &str = "qu3ry-m4rk";

// ---- the scanner

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
    // The site plays a server that echoes a secret to a client.
    scanner.add(&body);
    let site = Site::start();
    let answer = format!("<html>{body}</html>").into_bytes();
    site.always(Fault::Answer { status: 404, headers: Vec::new(), body: answer });
    let recorder =
        RecordingProxy::before(site.url().strip_prefix("http://").unwrap().parse().unwrap());
    let mut socket = std::net::TcpStream::connect(recorder.address()).unwrap();
    std::io::Write::write_all(&mut socket, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    std::io::Read::read_exact(&mut socket, &mut [0; 60]).unwrap();
    drop((socket, site));
    let received = recorder.all();
    assert_eq!(received.len(), 1);
    assert!(scanner.find(&received[0]).is_some());
}

// ---- the scenario

/// An opaque token: 43 pseudo-random letters, and the number of a member.
fn opaque(name: &str, user: u64) -> String {
    format!("{}-{user}", jwt::encoded(&jwt::signature("seed", name)))
}

/// How the server verifies tokens.
#[derive(Clone, Copy, PartialEq)]
enum Setup {
    /// The server asks the site about each token.
    Asked,
    /// The server has the JWT secret of the site.
    Signed,
    /// Tokens go to the site without `Bearer`, in a custom header.
    AppHeader,
}

/// A credential of a member.
#[derive(Clone)]
enum TestCredential {
    Token(String),
    /// Base64 of login and password.
    Password(String),
}

/// The ways to present a credential to the server.
const WAYS: [&str; 6] = ["query", "encoded query", "header", "subprotocol", "frame", "both"];

impl TestCredential {
    /// The form in the `token` field of a frame.
    fn in_frame(&self) -> String {
        match self {
            TestCredential::Token(token) => token.clone(),
            TestCredential::Password(pair) => format!("Basic {pair}"),
        }
    }

    /// The form in the header of a request to the site.
    fn in_site_header(&self) -> &str {
        match self {
            TestCredential::Token(token) => token,
            TestCredential::Password(pair) => pair,
        }
    }

    /// Opens a connection that presents it this way.
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
        let identify = |client: &mut Client| {
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
                identify(&mut client);
                client
            }
            "both" => {
                let mut client = Client::at(address, &path(&encoded), &list);
                identify(&mut client);
                client
            }
            other => panic!("{other} is no way"),
        }
    }
}

/// A site, a server with debug logging, and the secrets that neither may leak.
struct LeakScenario {
    setup: Setup,
    site: Site,
    server: Server,
    recorder: RecordingProxy,
    scanner: SecretScanner,
    /// Faults of the site: part of a request's path, a credential, and the fault for both.
    faults: Faults,
    /// Credentials that the site must have received.
    used: Vec<String>,
    _file: SecretFile,
}

type Faults = Arc<Mutex<Vec<(&'static str, String, Fault)>>>;

/// Members 1 to 18 are participants of thread 41 and of the threads for the faults.
const ALL_USERS: std::ops::RangeInclusive<u64> = 1..=18;

impl LeakScenario {
    fn start(setup: Setup) -> LeakScenario {
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

    /// A signed token as the JWT plugin issues it.
    fn jwt(&mut self, user: u64, lasts: Duration) -> TestCredential {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let token = jwt::token(KEYS[0], &self.site.url(), user, now.as_secs(), |_, claims| {
            claims["exp"] = json!((now + lasts).as_secs());
            // Makes each token unique.
            claims["jti"] = json!(self.scanner.count());
        });
        self.scanner.add(&token);
        TestCredential::Token(token)
    }

    /// A token that only the site can verify.
    fn opaque(&mut self, name: &str, user: u64) -> TestCredential {
        let token = opaque(name, user);
        self.scanner.add(&token);
        TestCredential::Token(token)
    }

    /// An Application Password of this member.
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

    /// Lets the site answer requests with this path and credential with a fault.
    fn fail_requests(&self, path: &'static str, credential: &TestCredential, fault: Fault) {
        let secret = credential.in_site_header().to_owned();
        self.faults.lock().unwrap().push((path, secret, fault));
    }

    // ---- steps

    /// Eighteen members with different credentials, presented in different ways, send all frame
    /// types.
    fn exchange_messages(&mut self) {
        let mut clients = Vec::new();
        for user in ALL_USERS {
            let way = WAYS[user as usize % WAYS.len()];
            let credential = match user as usize / WAYS.len() {
                0 => self.jwt(user, 60 * LONG),
                1 => self.good("crowd", user),
                _ => self.password("crowd", user),
            };
            let mut client = credential.open(self.address(), way, user);
            client.expect(|frame| frame["type"] == "user_connected" && frame["userId"] == user);
            client.join(41);
            self.used.push(credential.in_site_header().to_owned());
            clients.push((user, credential, client));
        }
        let count = clients.len() as u64;
        for (user, credential, client) in &mut clients {
            let next = *user % count + 1;
            let token = credential.in_frame();
            for frame in frames_of_user(*user, next, &token) {
                client.send_text(&frame);
            }
            client.try_send(Message::binary(token.into_bytes())).unwrap();
            client.send(&json!({"type": "ping", "clientId": "all sent"}));
            client.find(|frame| frame["clientId"] == "all sent");
            // Waits for the outcome of its message.
            let own = format!("by {user}");
            client.find(|frame| frame["clientId"] == own.as_str());
        }
        for (user, credential, mut client) in clients {
            // Reconnects, and presents the credential in another way.
            client.drain();
            drop(client);
            let mut again = credential.open(self.address(), WAYS[(user as usize + 1) % 6], user);
            again.expect(|frame| frame["type"] == "user_connected" && frame["userId"] == user);
            again.send(&json!({"type": "user_connected", "userId": user.to_string()}));
            again.join(41);
            again.leave();
        }
    }

    /// A legacy client that only sends `send_message`.
    fn send_from_legacy_client(&mut self) {
        for credential in [self.good("legacy client", 7), self.password("legacy client", 8)] {
            let mut client = Client::connect(self.address());
            client.send(&json!({
                "type": "send_message", "recipientId": "8", "message": "hello", "threadId": "41",
                "token": credential.in_frame(),
            }));
            client.expect_type("message");
            self.used.push(credential.in_site_header().to_owned());
        }
    }

    /// Presents invalid credentials in every way.
    fn try_bad_credentials(&mut self) {
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
            // A valid token with the user id of another member.
            let own = self.good("liar", user);
            let mut liar = own.open(self.address(), "frame", 7);
            liar.expect_error("identity_mismatch");
        }
        for (credential, way, user) in bad {
            let mut client = credential.open(self.address(), way, user);
            let fault = client.expect_type("error");
            let code = fault["code"].as_str().unwrap();
            assert!(["token_refused", "token_expired"].contains(&code), "{way}: {fault}");
            client.send(&json!({
                "type": "send_message", "threadId": 41, "message": "hi", "token": credential.in_frame(),
            }));
            client.expect_type("error");
        }
        for user in [70, 71] {
            let credential = self.good("gone", user);
            if user == 70 {
                self.site.delete_member(user)
            } else {
                self.site.suspend(user)
            }
            let mut client = credential.open(self.address(), "query", user);
            // With local verification, only the first participant query shows that the member is
            // gone.
            client.send(&json!({"type": "join_thread", "threadId": 41}));
            let codes = ["token_refused", "suspended", "token_required"];
            let code = client.expect_type("error")["code"].clone();
            assert!(codes.contains(&code.as_str().unwrap()), "{code}");
        }
    }

    /// Sends HTTP requests that open no WebSocket, with secrets in all places.
    fn send_bad_requests(&mut self) {
        let TestCredential::Token(token) = self.good("http", 7) else { unreachable!() };
        let TestCredential::Password(pair) = self.password("http", 7) else { unreachable!() };
        let auth = format!("Authorization: Basic {pair}\r\nCookie: c={token}\r\n");
        let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let evil = "Origin: https://evil.example\r\n";
        let long = format!("X-Long: {}\r\n", token.repeat(400));
        let query = format!("?room={MARK}&token={token}");
        for (line, more, status) in [
            (format!("GET /{query} HTTP/1.1"), format!("{upgrade}{evil}"), "403"),
            (format!("GET /{query} HTTP/1.1"), format!("{upgrade}{evil}{evil}"), "403"),
            (format!("GET /healthz{query} HTTP/1.1"), String::new(), "200"),
            (format!("GET /{query} HTTP/1.1"), String::new(), "404"),
            (format!("GET /{token}{query} HTTP/1.1"), String::new(), "404"),
            (format!("POST /{query} HTTP/1.1"), String::new(), "405"),
            (format!("OPTIONS /{query} HTTP/1.1"), String::new(), "200"),
            (format!("BREW /{query} HTTP/1.1"), String::new(), "501"),
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

    /// Lets the site fail, with answers that echo the credential.
    fn break_the_site(&mut self) {
        for (n, path) in ["/members/me", "/messages/", "/messages"].into_iter().enumerate() {
            // With local verification the site is not asked about tokens, only about passwords.
            let proofs = path == "/members/me";
            let mut clients = Vec::new();
            for kind in 0..9 {
                let user = 1 + kind % 18;
                let name = format!("broken {n} {kind}");
                let credential = match (proofs && self.setup == Setup::Signed) || kind % 2 == 1 {
                    true => self.password(&name, user),
                    false => self.good(&name, user),
                };
                self.fail_requests(
                    path,
                    &credential,
                    leaky_fault(kind, credential.in_site_header()),
                );
                self.used.push(credential.in_site_header().to_owned());
                let thread = 42 + kind + 9 * u64::from(n == 1);
                let mut client = credential.open(self.address(), "frame", user);
                let frame = match path {
                    "/members/me" => None,
                    "/messages/" => Some(json!({"type": "join_thread", "threadId": thread})),
                    _ => Some(json!({
                        "type": "send_message", "threadId": thread, "message": "hello",
                        "token": credential.in_frame(),
                    })),
                };
                if let Some(frame) = frame {
                    client.send(&frame);
                }
                clients.push(client);
            }
            // The lookup of a message with a truncated answer takes up to 15 s.
            let is_outcome = |frame: &Value| frame["type"] == "error" || frame["type"] == "message";
            for mut client in clients {
                client.expect_within(3 * LONG, is_outcome);
            }
        }
    }

    /// Lets a token expire on an open connection, and renews it.
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
        self.used.push(fresh.in_site_header().to_owned());
    }

    /// Stops the server while messages, token checks and participant queries are in flight.
    fn stop(mut self) {
        let credentials = [self.good("last", 7), self.password("last", 8), self.good("late", 9)];
        let [seven, eight, late] = &credentials;
        let mut one = seven.open(self.address(), "query", 7);
        one.expect(|frame| frame["type"] == "user_connected" && frame["userId"] == 7);
        self.site.set_latency(Duration::from_millis(500));
        one.send(&json!({
            "type": "send_message", "threadId": 41, "message": "last words",
            "token": seven.in_frame(), "clientId": "last",
        }));
        one.send(&json!({"type": "join_thread", "threadId": 60}));
        let mut others =
            [eight.open(self.address(), "frame", 8), late.open(self.address(), "query", 9)];
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
        self.used.extend(
            credentials.iter().take(2).map(|credential| credential.in_site_header().to_owned()),
        );
        self.assert_no_leaks();
    }

    fn assert_no_leaks(self) {
        let log = self.server.final_output();
        let lines = log.lines().count();
        let debug = log.lines().filter(|line| line.contains("DEBUG")).count();
        assert!(debug > 200 && debug < lines, "{debug} debug lines of {lines}");
        assert!(
            log.contains("WARN") && log.contains("evil.example"),
            "the refused origin is in a warning"
        );
        if let Some(found) = self.scanner.find(log.as_bytes()) {
            panic!("logged: {found}");
        }
        for word in [MARK, "?room", "token=", "last words"] {
            assert!(!log.contains(word), "{word} is logged");
        }
        let received = self.recorder.all();
        let bytes: usize = received.iter().map(Vec::len).sum();
        assert!(
            received.len() > 100 && bytes > 100_000,
            "{} connections, {bytes} bytes",
            received.len()
        );
        for bytes in &received {
            if let Some(found) = self.scanner.find(bytes) {
                panic!("sent to a client: {found}");
            }
        }
        // The secrets were in use: the site received them.
        let requests = self.site.requests();
        for secret in &self.used {
            let got = requests.iter().any(|r| r.headers.iter().any(|(_, v)| v.ends_with(secret)));
            assert!(got, "never used: {secret}");
        }
        println!(
            "{} forms of secrets, none in {lines} lines and {bytes} bytes",
            self.scanner.count()
        );
    }
}

/// Frames of all types, valid and invalid, with the token wherever a careless client could put it.
fn frames_of_user(user: u64, next: u64, token: &str) -> Vec<String> {
    let call = |kind: &str, payload: &str| {
        json!({
            "type": kind, payload: {"sdp": "v=0"}, "senderId": user, "recipientId": next,
            "threadId": 41, "token": token, "clientId": "mine",
        })
    };
    let token_with_newline = format!(" {token}\r\n");
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
        json!({"type": "send_message", "recipientId": next, "message": "x", "token": token_with_newline}),
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
    // Frames that no JSON library writes.
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

/// A faulty answer of the site, with the secret of the request wherever it fits.
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
    let mut scenario = LeakScenario::start(setup);
    scenario.exchange_messages();
    scenario.send_from_legacy_client();
    scenario.try_bad_credentials();
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

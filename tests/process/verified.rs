//! Verified trust, end to end: clients, attackers, the real binary, and a test site.
//!
//! Unless a test says otherwise, a token that ends in `-` and digits belongs to the member with
//! that number.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::support::client::{Client, LONG, of_type};
use crate::support::files::SecretFile;
use crate::support::jwt;
use crate::support::server::Server;
use crate::support::site::{Fault, Site};

const SECRET: &str = "a secret of the tests, long enough for all";
const OLD_SECRET: &str = "the secret before it, which is no shorter!";

/// `anna:open sesame` in base64.
const PAIR: &str = "YW5uYTpvcGVuIHNlc2FtZQ==";

/// Starts a server in front of this site, and waits for the answer to its first probe. With a site,
/// trust is verified by default.
fn start_server(site: &Site, more: &[&str]) -> Server {
    let url = site.url();
    let server = Server::start(&[&["--buddyboss-url", &url], more].concat());
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("REST API answers")));
    server
}

/// A site with members 7 and 8 in thread 41.
fn two_member_site() -> Site {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    site
}

/// An authenticated connection of a member.
fn member(server: &Server, user: u64) -> Client {
    Client::proven(server.address(), user, &format!("token-{user}"))
}

/// An authenticated connection of a member that has joined a thread.
fn member_in(server: &Server, user: u64, thread: u64) -> Client {
    let mut client = member(server, user);
    client.join(thread);
    client
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn typing(thread: u64) -> Value {
    json!({"type": "typing", "threadId": thread})
}

fn join(thread: u64) -> Value {
    json!({"type": "join_thread", "threadId": thread})
}

fn post(thread: u64, text: &str, token: &str) -> Value {
    json!({
        "type": "send_message", "threadId": thread, "recipientId": "", "message": text,
        "token": token,
    })
}

fn call(sender: u64, recipient: u64, thread: u64) -> Value {
    json!({
        "type": "call_initiated", "senderId": sender, "recipientId": recipient, "threadId": thread,
    })
}

/// Checks that a connection has received nothing but presence frames.
fn assert_only_presence(client: &mut Client) {
    for frame in client.drain() {
        let kind = frame["type"].as_str().unwrap();
        assert!(["user_connected", "user_disconnected"].contains(&kind), "{frame}");
    }
}

/// Checks that a connection is anonymous.
fn assert_anonymous(client: &mut Client) {
    client.send(&json!({"type": "typing", "threadId": 41, "clientId": "check"}));
    assert_eq!(client.expect_error("token_required")["clientId"], "check");
}

// ---- ways to present a token

/// Presents the token in each way on a connection of its own, the last one in a `user_connected`
/// frame with this user id.
fn open_each_way(address: SocketAddr, token: &str, user: u64) -> Vec<(&'static str, Client)> {
    let list = format!("buddyline, {token}");
    let bearer = format!("Bearer {token}");
    let mut by_frame = Client::connect(address);
    by_frame.send(&json!({"type": "user_connected", "userId": user, "token": token}));
    vec![
        ("query", Client::at(address, &format!("/?x=1&token={token}"), &[])),
        ("header", Client::at(address, "/", &[("Authorization", &bearer)])),
        ("subprotocol", Client::at(address, "/", &[("Sec-WebSocket-Protocol", &list)])),
        ("user_connected", by_frame),
    ]
}

#[test]
fn token_in_any_form_reaches_the_site_in_authorization() {
    let site = two_member_site();
    let server = start_server(&site, &[]);
    for (method, mut client) in open_each_way(server.address(), "s.e~c/r+et=-7", 7) {
        assert_eq!(client.expect_type("user_connected")["userId"], 7, "{method}");
        client.join(41);
    }
    let percent = "/chat?token=s.e~c%2Fr%2Bet%3D-7";
    let mut encoded = Client::at(server.address(), percent, &[]);
    assert_eq!(encoded.expect_type("user_connected")["userId"], 7);
    // One query about the token, and one about the thread.
    let (proofs, lists) = (site.proof_requests(), site.list_requests());
    assert_eq!((proofs.len(), lists.len()), (1, 1));
    for request in proofs.iter().chain(&lists) {
        assert_eq!(request.header("authorization"), Some("Bearer s.e~c/r+et=-7"));
        assert!(!request.path.contains("s.e"), "{}", request.path);
    }
    // An unknown token is refused, in whichever way it is presented.
    for (method, mut client) in open_each_way(server.address(), "unknown", 7) {
        client.expect_error("token_refused");
        assert_eq!(client.drain(), [] as [Value; 0], "{method}");
        assert_anonymous(&mut client);
    }
    assert_eq!(site.proof_requests().len(), 2, "refusals are cached, too");
}

#[test]
fn app_password_in_any_form_becomes_basic_auth() {
    let site = two_member_site();
    let basic = format!("Basic {PAIR}");
    site.add_member(&basic, 7);
    let server = start_server(&site, &[]);
    let address = server.address();
    let bare = PAIR.trim_end_matches('=');
    let (query, form) = (format!("/?token=Basic%20{PAIR}"), format!("/?token=Basic+{PAIR}"));
    let list = format!("buddyline, basic.{bare}");
    let mut by_frame = Client::connect(address);
    by_frame.send(&json!({"type": "user_connected", "userId": 7, "token": basic}));
    for mut client in [
        Client::at(address, &query, &[]),
        Client::at(address, &form, &[]),
        Client::at(address, "/", &[("Authorization", &basic)]),
        Client::at(address, "/", &[("Sec-WebSocket-Protocol", &list)]),
        by_frame,
    ] {
        assert_eq!(client.expect_type("user_connected")["userId"], 7);
        client.join(41);
        client.send(&json!({"type": "send_message", "threadId": 41, "message": "hi"}));
        assert_eq!(client.expect_type("message")["senderId"], 7);
    }
    assert_eq!(site.proof_requests().len(), 1);
    let requests = [site.proof_requests(), site.list_requests(), site.posts()].concat();
    assert_eq!(requests.len(), 1 + 1 + 5);
    for request in requests {
        assert_eq!(request.header("authorization"), Some(&*basic));
    }
    // A wrong password.
    let wrong = ("Authorization", "Basic bWFsOmd1ZXNz");
    let mut guesser = Client::at(address, "/", &[wrong]);
    guesser.expect_error("token_refused");
    assert_anonymous(&mut guesser);
}

#[test]
fn basic_header_of_a_proxy_hides_no_token() {
    let site = two_member_site();
    let server = start_server(&site, &[]);
    let basic = ("Authorization", "Basic c3RhZ2luZzpwdw==");
    let list = ("Sec-WebSocket-Protocol", "buddyline, token-7");
    for (path, lines) in [("/", &[basic, list][..]), ("/?token=token-7", &[basic])] {
        let mut client = Client::at(server.address(), path, lines);
        assert_eq!(client.expect_type("user_connected")["userId"], 7);
    }
    // With a token in a frame only, nothing asks about the header meanwhile.
    let mut client = Client::at(server.address(), "/", &[basic]);
    client.send(&json!({"type": "user_connected", "userId": 7, "token": "token-7"}));
    assert_eq!(client.next()["type"], "user_connected");
    assert_eq!(site.proof_requests().len(), 1, "one token, and never the password");
    // Without a token, the header is refused like any other credential.
    Client::at(server.address(), "/", &[basic]).expect_error("token_refused");
}

#[test]
fn site_password_is_sent_to_the_site_and_proves_no_member() {
    let site = two_member_site();
    site.set_token_header("accessToken");
    site.set_web_password("Basic c3RhZ2luZzpwdw==");
    let file = SecretFile::with(&["staging:pw"]);
    let arguments = ["--site-basic-auth-file", file.path(), "--token-header", "accessToken"];
    let server = start_server(&site, &arguments);
    let mut client =
        Client::at(server.address(), "/", &[("Authorization", "Basic c3RhZ2luZzpwdw==")]);
    client.send(&json!({"type": "user_connected", "userId": 7, "token": "token-7"}));
    // Not an error first: the header is known to be none of a member.
    assert_eq!(client.next()["type"], "user_connected");
    client.join(41);
    let requests = site.requests();
    assert!(requests.len() >= 3);
    for request in requests {
        assert_eq!(request.header("authorization"), Some("Basic c3RhZ2luZzpwdw=="));
    }
    let proofs = site.proof_requests();
    assert_eq!((proofs.len(), proofs[0].header("accesstoken")), (1, Some("token-7")));
    // A reload takes a new password.
    site.set_web_password("Basic c3RhZ2luZzpuZXc=");
    std::fs::write(file.path(), "staging:new\n").unwrap();
    server.signal("HUP");
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("settings reloaded")));
    member(&server, 8).join(41);
}

#[test]
fn site_password_that_cannot_go_with_tokens_is_warned_of_at_the_start() {
    let site = two_member_site();
    let file = SecretFile::with(&["staging:pw"]);
    let server = start_server(&site, &["--site-basic-auth-file", file.path()]);
    let is_warning = |line: &String| line.contains("WARN") && line.contains("--token-header");
    server.wait_for_log(|lines| lines.iter().any(is_warning));
    member(&server, 7);
    let authorizations: Vec<_> = site
        .requests()
        .iter()
        .map(|request| request.header("authorization").unwrap().to_owned())
        .collect();
    assert!(authorizations.contains(&"Basic c3RhZ2luZzpwdw==".to_owned()), "the probe");
    assert!(authorizations.contains(&"Bearer token-7".to_owned()));
}

#[test]
fn custom_header_receives_bare_tokens() {
    let site = two_member_site();
    site.set_token_header("accessToken");
    let basic = format!("Basic {PAIR}");
    site.add_member(&basic, 8);
    let server = start_server(&site, &["--token-header", "accessToken"]);
    let mut seven = member_in(&server, 7, 41);
    let mut eight = Client::at(server.address(), "/", &[("Authorization", &basic)]);
    eight.expect_type("user_connected");
    eight.join(41);
    seven.send(&post(41, "hello", "token-7"));
    assert_eq!(eight.expect_type("message")["senderId"], 7);
    for request in [site.proof_requests(), site.list_requests(), site.posts()].concat() {
        // An Application Password goes into `Authorization`, whatever the setting for tokens.
        let headers = (request.header("accesstoken"), request.header("authorization"));
        let right = [(Some("token-7"), None), (None, Some(&*basic))];
        assert!(right.contains(&headers), "{headers:?}");
    }
    let mut liar = Client::proven(server.address(), 9, "token-9");
    liar.send(&join(41));
    liar.expect_error("not_participant");
}

// ---- authorization

#[test]
fn participants_receive_each_other_and_outsiders_nothing() {
    let site = two_member_site();
    let server = start_server(&site, &[]);
    let mut anonymous = Client::connect(server.address());
    let mut nine = member(&server, 9);
    let mut seven = member_in(&server, 7, 41);
    let mut eight = member_in(&server, 8, 41);
    seven.send(&typing(41));
    let received = eight.expect_type("typing");
    assert_eq!((&received["userId"], &received["typing"]), (&json!(7), &json!(true)));
    seven.send(&json!({"type": "send_message", "threadId": 41, "message": "with my own token"}));
    assert_eq!(eight.expect_type("message")["senderId"], 7);
    eight.send(&post(41, "with another one", "phone-8"));
    let received = seven.expect(|frame| frame["message"] == "with another one");
    assert_eq!(received["senderId"], 8);
    seven.send(&call(7, 8, 41));
    assert_eq!(eight.expect_type("call_initiated")["senderId"], 7);
    eight.send(&json!({
        "type": "answer", "answer": {"sdp": "v=0"}, "senderId": 8, "recipientId": 7, "threadId": 41
    }));
    assert_eq!(seven.expect_type("answer")["answer"]["sdp"], "v=0");
    assert_only_presence(&mut nine);
    assert_eq!(anonymous.drain(), [] as [Value; 0], "an anonymous connection receives nothing");
    assert_eq!(site.list_requests().len(), 1, "one participant list for both");
}

#[test]
fn false_claim_gets_an_error_and_is_not_announced() {
    let site = two_member_site();
    let server = start_server(&site, &[]);
    let mut eight = member_in(&server, 8, 41);
    let claim = json!({"type": "user_connected", "userId": 7, "token": "t-9", "clientId": "c"});
    let mut liar = Client::connect(server.address());
    liar.send(&claim);
    assert_eq!(liar.expect_error("identity_mismatch")["clientId"], "c");
    assert_anonymous(&mut liar);
    // An authenticated connection cannot claim another user either.
    let mut nine = member(&server, 9);
    nine.send(&claim);
    nine.expect_error("identity_mismatch");
    nine.send(&json!({"type": "user_connected", "userId": "7"}));
    nine.expect_error("identity_mismatch");
    for (sender, recipient) in [(7, 8), (8, 7)] {
        nine.send(&call(sender, recipient, 41));
        nine.expect_error("not_your_call");
    }
    nine.send(&json!({"type": "user_connected", "userId": 9}));
    assert_eq!(nine.expect_type("user_connected")["userId"], 9, "it remains user 9");
    // A claim without a token is refused.
    let mut shy = Client::connect(server.address());
    shy.send(&json!({"type": "user_connected", "userId": 7}));
    shy.expect_error("token_required");
    assert_anonymous(&mut shy);
    let received = eight.drain();
    assert!(received.iter().all(|frame| frame["userId"] != 7), "{received:?}");
    assert_eq!(of_type(&received, "user_connected").len(), received.len(), "{received:?}");
}

#[test]
fn non_participant_cannot_join_type_call_or_write() {
    let site = two_member_site();
    site.add_thread(42, &[9, 10]);
    let server = start_server(&site, &[]);
    let mut seven = member_in(&server, 7, 41);
    let mut eight = member_in(&server, 8, 41);
    let mut nine = member_in(&server, 9, 42);
    for frame in [
        join(41),
        typing(41),
        json!({"type": "typing", "threadId": "41", "typing": false}),
        json!({"type": "leave_thread", "threadId": 41}),
        json!({"type": "online_users", "threadId": 41}),
        call(9, 7, 41),
        // A thread of their own does not let them call non-participants.
        call(9, 7, 42),
        post(41, "let me in", "token-9"),
        json!({"type": "send_message", "threadId": 41, "message": "let me in"}),
        // A thread that does not exist gets the same error.
        join(4_100),
        join(0),
        json!({"type": "join_thread", "threadId": "41 "}),
    ] {
        nine.send(&frame);
        let fault = nine.expect_error("not_participant");
        assert_eq!(fault["replyTo"], frame["type"], "{frame}");
    }
    // Without a thread the server cannot check participants.
    nine.send(&json!({"type": "call_initiated", "senderId": 9, "recipientId": 7}));
    nine.expect_error("missing_field");
    seven.send(&typing(41));
    eight.expect_type("typing");
    assert_only_presence(&mut nine);
    for client in [&mut seven, &mut eight] {
        let received = client.drain();
        assert!(received.iter().all(|frame| frame["userId"] != 9 || frame["type"] != "typing"));
        for kind in ["message", "call_initiated", "thread_left"] {
            assert!(of_type(&received, kind).is_empty(), "{received:?}");
        }
    }
    assert_eq!(site.stored(41), []);
    // A made-up token does not pass as a participant's.
    nine.send(&post(41, "let me in", "made-up"));
    nine.expect_error("token_refused");
    assert_eq!(site.stored(41), []);
}

#[test]
fn moderator_outside_a_thread_receives_nothing() {
    let site = two_member_site();
    site.add_moderator(1);
    let server = start_server(&site, &[]);
    let mut moderator = member(&server, 1);
    for frame in [join(41), typing(41), call(1, 7, 41)] {
        moderator.send(&frame);
        moderator.expect_error("not_participant");
    }
    assert!(
        !site.list_requests().is_empty(),
        "the site was asked, and shows the thread to moderators"
    );
    let mut seven = member_in(&server, 7, 41);
    seven.send(&post(41, "among ourselves", "token-7"));
    seven.expect_type("message");
    assert_only_presence(&mut moderator);
    // As a participant of a thread, a moderator is a member like others.
    site.add_thread(43, &[1, 7]);
    moderator.join(43);
}

#[test]
fn legacy_client_that_only_sends_messages_is_served() {
    let site = two_member_site();
    let server = start_server(&site, &[]);
    let sample = |thread: &str, token: &str, recipient: &str| {
        json!({
            "type": "send_message", "recipientId": recipient, "message": "hello",
            "threadId": thread, "token": token,
        })
    };
    let mut anna = Client::connect(server.address());
    let mut ben = Client::connect(server.address());
    let mut mallory = Client::connect(server.address());
    // The sample sends `typing` before any message.
    anna.send(&typing(41));
    anna.expect_error("token_required");
    anna.send(&sample("41", "token-7", "8"));
    let own = anna.expect_type("message");
    assert_eq!((&own["senderId"], &own["threadId"]), (&json!(7), &json!("41")));
    ben.send(&sample("41", "token-8", "7"));
    for client in [&mut anna, &mut ben] {
        let received = client.expect_type("message");
        assert_eq!((&received["senderId"], &received["message"]), (&json!(8), &json!("hello")));
    }
    anna.send(&typing(41));
    assert_eq!(ben.expect_type("typing")["userId"], 7);
    mallory.send(&sample("41", "token-9", "8"));
    mallory.expect_error("not_participant");
    mallory.send(&sample("41", "stolen", "8"));
    mallory.expect_error("token_refused");
    ben.send(&sample("41", "token-8", "7"));
    anna.expect_type("message");
    assert_eq!(mallory.drain(), [] as [Value; 0]);
    // One query for each token, and none about participants: the answers to the posts prove them.
    assert_eq!((site.proof_requests().len(), site.list_requests().len()), (3, 0));
    let senders: Vec<u64> = site.stored(41).iter().map(|(sender, _)| *sender).collect();
    assert_eq!(senders, [7, 8, 8]);
}

// ---- invalid tokens

#[test]
fn jwt_secret_verifies_tokens_without_the_site() {
    let site = two_member_site();
    site.set_jwt_secret(SECRET);
    let file = SecretFile::with(&[SECRET]);
    let server = start_server(&site, &["--jwt-secret-file", file.path()]);
    let (now, url) = (now_s(), site.url());
    for (method, mut client) in open_each_way(server.address(), &site.jwt(7, LONG * 60), 7) {
        assert_eq!(client.expect_type("user_connected")["userId"], 7, "{method}");
    }
    let good = |change: &dyn Fn(&mut Value, &mut Value)| {
        jwt::token(SECRET, &url, 7, now, |header, claims| change(header, claims))
    };
    let signature_of = |token: &str| token.rsplit_once('.').unwrap().1.to_owned();
    let (mine, yours) = (good(&|_, _| ()), jwt::token(SECRET, &url, 8, now, |_, _| ()));
    let none = good(&|header, _| header["alg"] = json!("none"));
    for (token, code) in [
        (good(&|_, claims| claims["exp"] = json!(now - 1)), "token_expired"),
        (jwt::token("guessed", &url, 7, now, |_, _| ()), "token_refused"),
        (none.clone(), "token_refused"),
        (none.replace(&signature_of(&none), ""), "token_refused"),
        (good(&|header, _| header["alg"] = json!("HS512")), "token_refused"),
        (jwt::token(SECRET, "https://other.example", 7, now, |_, _| ()), "token_refused"),
        (good(&|_, claims| claims["nbf"] = json!(now + 600)), "token_refused"),
        (good(&|_, claims| claims["exp"] = json!((now + 600).to_string())), "token_refused"),
        (good(&|_, claims| claims["iss"] = Value::Null), "token_refused"),
        // A signature from another token.
        (mine.replace(&signature_of(&mine), &signature_of(&yours)), "token_refused"),
        // A token that is not signed cannot be verified locally.
        ("token-7".to_owned(), "token_refused"),
    ] {
        for (method, mut client) in open_each_way(server.address(), &token, 7) {
            client.expect_error(code);
            assert_eq!(client.drain(), [] as [Value; 0], "{method}: {token}");
            client.send(&join(41));
            client.expect_error("token_required");
        }
    }
    assert_eq!(site.proof_requests().len(), 0);
    assert_eq!(site.list_requests().len(), 0);
    // An Application Password has no signature, so the site is asked.
    site.add_member(&format!("Basic {PAIR}"), 8);
    Client::proven(server.address(), 8, &format!("Basic {PAIR}"));
    assert_eq!(site.proof_requests().len(), 1);
}

#[test]
fn error_text_names_the_true_reason_of_a_refusal() {
    let site = two_member_site();
    site.set_jwt_secret(SECRET);
    let file = SecretFile::with(&[SECRET]);
    let arguments = ["--jwt-secret-file", file.path(), "--jwt-without-exp", "refuse"];
    let server = start_server(&site, &arguments);
    let (now, url) = (now_s(), site.url());
    let good = |change: &dyn Fn(&mut Value, &mut Value)| {
        jwt::token(SECRET, &url, 7, now, |header, claims| change(header, claims))
    };
    let line = "a token with a valid signature";
    for (token, told, logged) in [
        (
            jwt::token("guessed", &url, 7, now, |_, _| ()),
            "its signature is not the site's",
            "wrong signature",
        ),
        (good(&|_, claims| claims["iss"] = json!("my-app")), "its issuer (iss)", "my-app"),
        (good(&|_, claims| claims["iss"] = Value::Null), "its issuer (iss)", "names no issuer"),
        (
            good(&|_, claims| claims["nbf"] = json!(now + 999)),
            "not valid yet (nbf)",
            "nbf is more than",
        ),
        (
            good(&|_, claims| claims["exp"] = json!("1")),
            "its claims (iss, exp, nbf)",
            "exp is not a number",
        ),
        (good(&|_, claims| claims["exp"] = Value::Null), "no expiry (exp)", "--jwt-without-exp"),
        (good(&|header, _| header["alg"] = json!("RS256")), "its algorithm", "--jwt-key-file"),
        ("opaque".to_owned(), "not a signed JWT", "not a signed JWT"),
    ] {
        let mut client = Client::connect(server.address());
        client.send(&json!({"type": "user_connected", "userId": 7, "token": token}));
        let error = client.expect_error("token_refused");
        let text = error["message"].as_str().unwrap();
        assert!(text.contains(told), "{text}");
        server.wait_for_log(|lines| lines.iter().any(|line| line.contains(logged)));
    }
    server.wait_for_log(|lines| lines.iter().filter(|one| one.contains(line)).count() >= 5);
    assert_eq!(site.proof_requests().len(), 0);
}

#[test]
fn token_without_exp_is_accepted_if_the_site_accepts_it() {
    let site = two_member_site();
    let file = SecretFile::with(&[SECRET]);
    let server = start_server(&site, &["--jwt-secret-file", file.path()]);
    let no_exp = |_: &mut Value, claims: &mut Value| claims["exp"] = Value::Null;
    let token = jwt::token(SECRET, &site.url(), 7, now_s(), no_exp);
    site.add_member(&token, 7);
    for (method, mut client) in open_each_way(server.address(), &token, 7) {
        assert_eq!(client.expect_type("user_connected")["userId"], 7, "{method}");
    }
    assert_eq!(site.proof_requests().len(), 1, "once in ten minutes");
    // A forged one is refused without a request.
    let forged = jwt::token("guessed", &site.url(), 8, now_s(), no_exp);
    for (_, mut client) in open_each_way(server.address(), &forged, 8) {
        client.expect_error("token_refused");
    }
    assert_eq!(site.proof_requests().len(), 1);
}

#[test]
fn public_key_file_is_read_again_at_a_reload() {
    let site = two_member_site();
    let (old, new) = (jwt::Signer::rs256(), jwt::Signer::es256());
    let claims = json!({
        "iss": site.url(), "exp": now_s() + 600, "data": {"user": {"id": 7}},
    });
    let token = |signer: &jwt::Signer| signer.sign(&json!({"alg": signer.algorithm()}), &claims);
    let file = SecretFile::with(&[&old.pem()]);
    let server = start_server(&site, &["--jwt-key-file", file.path()]);
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("site's public key")));
    Client::proven(server.address(), 7, &token(&old));
    let mut client = Client::connect(server.address());
    client.send(&json!({"type": "user_connected", "userId": 7, "token": token(&new)}));
    client.expect_error("token_refused");
    let set = json!({"keys": [new.jwk(Some("new"))]}).to_string();
    std::fs::write(file.path(), set).unwrap();
    server.signal("HUP");
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("settings reloaded")));
    let header = json!({"alg": "ES256", "kid": "new"});
    Client::proven(server.address(), 7, &new.sign(&header, &claims));
    assert_eq!(site.proof_requests().len(), 0);
    // A file that cannot be used changes nothing.
    std::fs::write(file.path(), "{}").unwrap();
    server.signal("HUP");
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("not a JSON Web Key Set")));
    let claims = json!({"iss": site.url(), "exp": now_s() + 601, "data": {"user": {"id": 7}}});
    Client::proven(server.address(), 7, &new.sign(&header, &claims));
}

#[test]
fn secret_rotation_accepts_both_secrets_and_no_third() {
    let site = two_member_site();
    site.set_jwt_secret(SECRET);
    let file = SecretFile::with(&[SECRET, OLD_SECRET]);
    let server = start_server(&site, &["--jwt-secret-file", file.path()]);
    for (secret, user) in [(SECRET, 7), (OLD_SECRET, 8)] {
        let token = jwt::token(secret, &site.url(), user, now_s(), |_, _| ());
        Client::proven(server.address(), user, &token);
    }
    let secrets = [&format!("{SECRET}\n{OLD_SECRET}"), "a third secret, unknown to the server"];
    for secret in secrets {
        let token = jwt::token(secret, &site.url(), 7, now_s(), |_, _| ());
        for (method, mut client) in open_each_way(server.address(), &token, 7) {
            client.expect_error("token_refused");
            assert_eq!(client.drain(), [] as [Value; 0], "{method}");
        }
    }
    assert_eq!(site.proof_requests().len(), 0);
}

#[test]
fn deleted_and_suspended_members_are_not_authenticated() {
    let site = two_member_site();
    site.delete_member(7);
    site.suspend(8);
    let server = start_server(&site, &[]);
    for (user, code) in [(7, "token_refused"), (8, "suspended")] {
        for (method, mut client) in open_each_way(server.address(), &format!("token-{user}"), user)
        {
            client.expect_error(code);
            assert_eq!(client.drain(), [] as [Value; 0], "{method}");
            assert_anonymous(&mut client);
        }
    }
    assert_eq!((site.proof_requests().len(), site.list_requests().len()), (2, 0));
}

#[test]
fn deleted_or_suspended_user_with_valid_jwt_is_closed() {
    let site = Site::start();
    site.add_thread(41, &[7, 8, 9]);
    site.set_jwt_secret(SECRET);
    let file = SecretFile::with(&[SECRET]);
    let server = start_server(&site, &["--jwt-secret-file", file.path()]);
    for (user, code) in [(7, "token_refused"), (8, "suspended")] {
        let token = site.jwt(user, LONG * 60);
        let [mut one, mut other] = [0, 1].map(|_| Client::proven(server.address(), user, &token));
        if user == 7 {
            site.delete_member(7)
        } else {
            site.suspend(8)
        }
        one.send(&join(41));
        for client in [&mut one, &mut other] {
            let fault = client.expect(|frame| frame["type"] == "error");
            assert_eq!(fault["code"], code, "{fault}");
            assert_eq!(client.close_code(), Some(4401));
        }
        // A new connection is refused as well: the refusal of the site overrides the signature.
        let mut again = Client::connect(server.address());
        again.send(&json!({"type": "user_connected", "userId": user, "token": token}));
        again.expect_error(code);
    }
    let mut nine = Client::proven(server.address(), 9, &site.jwt(9, LONG * 60));
    nine.join(41);
}

// ---- changes of membership

#[test]
fn removed_participant_misses_the_next_message() {
    let site = two_member_site();
    let server = start_server(&site, &[]);
    let mut seven = member_in(&server, 7, 41);
    let mut eight = member_in(&server, 8, 41);
    eight.send(&typing(41));
    seven.expect_type("typing");
    site.remove_participant(41, 8);
    seven.send(&post(41, "now that we are alone", "token-7"));
    let stopped = seven.expect(|frame| frame["type"] == "typing");
    assert_eq!(
        (&stopped["userId"], &stopped["typing"]),
        (&json!(8), &json!(false)),
        "removal ends their typing"
    );
    seven.expect_type("message");
    let received = eight.drain();
    let left = json!({"type": "thread_left", "threadId": 41, "reason": "not_participant"});
    assert_eq!(of_type(&received, "thread_left"), [&left]);
    assert!(of_type(&received, "message").is_empty(), "{received:?}");
    for frame in [join(41), typing(41), call(8, 7, 41)] {
        eight.send(&frame);
        eight.expect_error("not_participant");
    }
    seven.send(&typing(41));
    seven.expect_type("typing");
    assert_only_presence(&mut eight);
    // After they are added again, they can join.
    site.set_participants(41, &[7, 8]);
    seven.send(&post(41, "welcome back", "token-7"));
    seven.expect_type("message");
    eight.join(41);
}

#[test]
fn removed_participant_is_unsubscribed_before_list_expires() {
    const LASTS: Duration = Duration::from_secs(10);
    let site = two_member_site();
    let server = start_server(&site, &["--membership-lasts", "10s"]);
    let mut seven = member_in(&server, 7, 41);
    let started = Instant::now();
    let mut eight = member_in(&server, 8, 41);
    site.remove_participant(41, 8);
    // No message is posted, only typing: the server notices the removal when it refreshes the
    // cached list.
    let left = loop {
        assert!(started.elapsed() < LASTS + Duration::from_secs(5), "still in the thread");
        seven.send(&typing(41));
        seven.expect_type("typing");
        let received = eight.drain();
        if let Some(left) = of_type(&received, "thread_left").first() {
            break (*left).clone();
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!((&left["threadId"], &left["reason"]), (&json!(41), &json!("not_participant")));
    assert_eq!(site.list_requests().len(), 2, "the list is refreshed once, before it expires");
    seven.send(&typing(41));
    seven.expect_type("typing");
    assert_eq!(eight.drain(), [] as [Value; 0]);
    eight.send(&join(41));
    eight.expect_error("not_participant");
}

#[test]
fn reused_thread_id_keeps_no_subscribers() {
    let site = two_member_site();
    let server = start_server(&site, &[]);
    let mut seven = member_in(&server, 7, 41);
    let mut eight = member_in(&server, 8, 41);
    site.delete_thread(41);
    site.add_thread(41, &[8, 9]);
    let mut nine = member(&server, 9);
    nine.send(&post(41, "a new thread", "token-9"));
    nine.expect_type("message");
    assert_eq!(
        eight.expect_type("message")["message"],
        "a new thread",
        "a participant of both threads stays"
    );
    let received = seven.drain();
    assert_eq!(of_type(&received, "thread_left")[0]["reason"], "not_participant");
    assert!(of_type(&received, "message").is_empty(), "{received:?}");
    seven.send(&post(41, "a word to the old one", "token-7"));
    seven.expect_error("not_participant");
    seven.send(&call(7, 8, 41));
    seven.expect_error("not_participant");
    assert_only_presence(&mut seven);
    assert_eq!(site.stored(41), [(9, "a new thread".to_owned())]);
}

// ---- outage of the site

#[test]
fn outage_keeps_proven_users_and_defers_others() {
    let site = two_member_site();
    let server = start_server(&site, &[]);
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    site.fail_when(move |_, _| is_down.load(Ordering::Relaxed).then_some(Fault::Close));
    let mut seven = member_in(&server, 7, 41);
    let mut eight = member_in(&server, 8, 41);
    down.store(true, Ordering::Relaxed);
    seven.send(&typing(41));
    eight.expect_type("typing");
    eight.send(&call(8, 7, 41));
    seven.expect_type("call_initiated");
    // A second device with the same, cached token.
    let mut phone = member_in(&server, 7, 41);
    seven.send(&post(41, "anybody there?", "token-7"));
    // The lookups in the thread fail as well, the last one after 15 s.
    let fault = seven.expect_within(3 * LONG, |frame| frame["type"] == "error");
    assert!(["not_stored", "unknown_outcome"].contains(&fault["code"].as_str().unwrap()));
    // Unknown tokens get an error and stay anonymous: an outage does not disable authentication.
    for (method, mut client) in open_each_way(server.address(), "other-8", 8) {
        client.expect_error("site_unavailable");
        assert_eq!(client.drain(), [] as [Value; 0], "{method}");
        client.send(&typing(41));
        let code = client.expect_type("error")["code"].clone();
        assert!(["token_required", "site_unavailable"].contains(&code.as_str().unwrap()), "{code}");
    }
    let mut nine = Client::connect(server.address());
    nine.send(&json!({"type": "user_connected", "userId": 9, "token": "t-9"}));
    nine.expect_error("site_unavailable");
    down.store(false, Ordering::Relaxed);
    // The breaker is open by now; a probe detects the recovery.
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("it answers again")));
    let mut ten = member(&server, 10);
    ten.send(&join(41));
    ten.expect_error("not_participant");
    seven.send(&post(41, "it is back", "token-7"));
    for client in [&mut eight, &mut phone] {
        assert_eq!(client.expect_type("message")["message"], "it is back");
    }
}

// ---- presence

#[test]
fn thread_presence_is_limited_to_shared_threads() {
    let site = two_member_site();
    site.add_thread(42, &[9, 10]);
    let server = start_server(&site, &["--presence", "threads", "--presence-grace", "0s"]);
    let mut seven = member_in(&server, 7, 41);
    let mut nine = member_in(&server, 9, 42);
    let eight = member_in(&server, 8, 41);
    assert_eq!(seven.expect_type("user_connected")["userId"], 8);
    seven.send(&json!({"type": "online_users"}));
    let mut online = seven.expect_type("online_users")["userIds"].as_array().unwrap().clone();
    online.sort_by_key(Value::as_u64);
    assert_eq!(online, [7, 8]);
    eight.leave();
    assert_eq!(seven.expect_type("user_disconnected")["userId"], 8);
    nine.send(&json!({"type": "online_users"}));
    assert_eq!(nine.expect_type("online_users")["userIds"], json!([9]));
    assert_eq!(nine.drain(), [] as [Value; 0]);
    nine.send(&json!({"type": "online_users", "threadId": 41}));
    nine.expect_error("not_participant");
}

#[test]
fn presence_off_hides_who_is_online() {
    let site = two_member_site();
    let server = start_server(&site, &["--presence", "off", "--presence-grace", "0s"]);
    let mut seven = member_in(&server, 7, 41);
    let mut eight = member_in(&server, 8, 41);
    for frame in [json!({"type": "online_users"}), json!({"type": "online_users", "threadId": 41})]
    {
        eight.send(&frame);
        assert_eq!(eight.expect_type("online_users")["userIds"], json!([]));
    }
    // Frames of a thread are not presence, so they are still sent.
    eight.send(&typing(41));
    assert_eq!(seven.next()["type"], "typing");
    eight.leave();
    assert_eq!(seven.next()["typing"], false);
    assert_eq!(seven.drain(), [] as [Value; 0]);
}

// ---- timeouts

#[test]
fn anonymous_closes_with_1008_and_refused_with_4401() {
    let site = two_member_site();
    let server = start_server(&site, &["--anonymous-lasts", "1s"]);
    let started = Instant::now();
    let mut silent = Client::connect(server.address());
    let mut refused = Client::at(server.address(), "/?token=unknown", &[]);
    let mut claiming = Client::connect(server.address());
    claiming.send(&json!({"type": "user_connected", "userId": 7}));
    let mut seven = member_in(&server, 7, 41);
    seven.send(&typing(41));
    claiming.expect_error("token_required");
    refused.expect_error("token_refused");
    for (client, code) in [(&mut silent, 1008), (&mut refused, 4401), (&mut claiming, 1008)] {
        client.expect_error("token_required");
        assert_eq!(client.close_code(), Some(code));
    }
    assert!(started.elapsed() >= Duration::from_secs(1));
    seven.send(&typing(41));
    seven.expect_type("typing");
}

#[test]
fn third_refused_token_closes_the_connection() {
    let site = two_member_site();
    let server = start_server(&site, &[]);
    let mut guesser = Client::connect(server.address());
    for guess in ["made-up", "invented", "imagined"] {
        guesser.send(&json!({"type": "user_connected", "userId": 7, "token": guess}));
        guesser.expect_error("token_refused");
    }
    assert_eq!(guesser.close_code(), Some(4401));
}

/// Lets a token expire on an open connection, and renews it.
fn check_expiry_and_renewal(site: &Site, server: &Server) {
    let address = server.address();
    let mut eight = Client::proven(address, 8, &site.jwt(8, LONG * 60));
    eight.join(41);
    // `exp` has full seconds, so the token lasts two to three seconds.
    let short = site.jwt(7, Duration::from_secs(3));
    let mut seven = Client::proven(address, 7, &short);
    seven.join(41);
    let mut other = Client::proven(address, 7, &short);
    for client in [&mut seven, &mut other] {
        let error = client.expect_error("token_expired");
        assert_eq!(error.get("replyTo"), None, "it answers no frame");
    }
    // It still receives, but may not send.
    eight.send(&typing(41));
    seven.expect_type("typing");
    for frame in [
        typing(41),
        json!({"type": "send_message", "threadId": 41, "message": "still me"}),
        json!({"type": "user_connected", "userId": 7}),
        json!({"type": "user_connected", "userId": 7, "token": short}),
    ] {
        seven.send(&frame);
        assert_eq!(seven.expect_error("token_expired")["replyTo"], frame["type"]);
    }
    // A token of another user does not renew it.
    let others = site.jwt(9, LONG * 60);
    seven.send(&json!({"type": "user_connected", "userId": 7, "token": others}));
    seven.expect_error("identity_mismatch");
    seven.send(&typing(41));
    seven.expect_error("token_expired");
    let fresh = site.jwt(7, LONG * 60);
    seven.send(&json!({
        "type": "user_connected", "userId": 7, "token": fresh, "clientId": "again"
    }));
    assert_eq!(seven.expect_type("user_connected")["clientId"], "again");
    eight.drain();
    seven.send(&typing(41));
    assert_eq!(eight.expect_type("typing")["userId"], 7, "it is still in the thread");
    // The other connection is not renewed.
    other.send(&typing(41));
    other.expect_error("token_expired");
    // An expired token does not authenticate a new connection either.
    let mut late = Client::at(address, &format!("/?token={short}"), &[]);
    late.expect_error("token_expired");
    assert_anonymous(&mut late);
}

#[test]
fn expired_token_is_reported_and_can_be_renewed() {
    let site = two_member_site();
    site.set_jwt_secret(SECRET);
    let file = SecretFile::with(&[SECRET]);
    // Otherwise typing asks the site about the user.
    let args = ["--jwt-secret-file", file.path(), "--user-proof-lasts", "0s"];
    let server = start_server(&site, &args);
    check_expiry_and_renewal(&site, &server);
    assert_eq!(site.proof_requests().len(), 0);
}

#[test]
fn expiry_is_read_from_the_token_itself() {
    let site = two_member_site();
    site.set_jwt_secret(SECRET);
    let server = start_server(&site, &[]);
    check_expiry_and_renewal(&site, &server);
}

//! Verified trust, the whole way: clients and their attackers, the real binary, and a site.
//!
//! Unless a test says otherwise, a token that ends in `-` and digits is that member's.

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

/// A server at this site, which has answered its probe. Verified trust is what a site brings along.
fn at(site: &Site, more: &[&str]) -> Server {
    let url = site.url();
    let server = Server::start(&[&["--buddyboss-url", &url], more].concat());
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("REST API answers")));
    server
}

/// A site with thread 41 of the members 7 and 8.
fn two_member_site() -> Site {
    let site = Site::start();
    site.add_thread(41, &[7, 8]);
    site
}

/// The connection of a member who has proven who they are.
fn member(server: &Server, user: u64) -> Client {
    Client::proven(server.address(), user, &format!("token-{user}"))
}

/// The same, in a thread.
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

/// Sees that a connection got nothing but news of who comes and goes.
fn assert_only_presence(client: &mut Client) {
    for frame in client.drain() {
        let kind = frame["type"].as_str().unwrap();
        assert!(["user_connected", "user_disconnected"].contains(&kind), "{frame}");
    }
}

/// Sees that a connection is nobody's.
fn assert_anonymous(client: &mut Client) {
    client.send(&json!({"type": "typing", "threadId": 41, "clientId": "who"}));
    assert_eq!(client.expect_error("token_required")["clientId"], "who");
}

// ---- how a token arrives

/// Opens a connection that hands over this token in each way that there is, the last one in a
/// frame that says it is this user.
fn open_each_way(address: SocketAddr, token: &str, user: u64) -> Vec<(&'static str, Client)> {
    let list = format!("buddyline, {token}");
    let bearer = format!("Bearer {token}");
    let mut telling = Client::connect(address);
    telling.send(&json!({"type": "user_connected", "userId": user, "token": token}));
    vec![
        ("query", Client::at(address, &format!("/?x=1&token={token}"), &[])),
        ("header", Client::at(address, "/", &[("Authorization", &bearer)])),
        ("subprotocol", Client::at(address, "/", &[("Sec-WebSocket-Protocol", &list)])),
        ("user_connected", telling),
    ]
}

#[test]
fn token_in_any_form_reaches_the_site_in_authorization() {
    let site = two_member_site();
    let server = at(&site, &[]);
    for (way, mut client) in open_each_way(server.address(), "s.e~c/r+et=-7", 7) {
        assert_eq!(client.expect_type("user_connected")["userId"], 7, "{way}");
        client.join(41);
    }
    let percent = "/chat?token=s.e~c%2Fr%2Bet%3D-7";
    let mut encoded = Client::at(server.address(), percent, &[]);
    assert_eq!(encoded.expect_type("user_connected")["userId"], 7);
    // One token, one question, and one about the thread.
    let (proofs, lists) = (site.proof_requests(), site.list_requests());
    assert_eq!((proofs.len(), lists.len()), (1, 1));
    for request in proofs.iter().chain(&lists) {
        assert_eq!(request.header("authorization"), Some("Bearer s.e~c/r+et=-7"));
        assert!(!request.path.contains("s.e"), "{}", request.path);
    }
    // What the site does not know proves nobody, whichever way it comes.
    for (way, mut client) in open_each_way(server.address(), "unknown", 7) {
        client.expect_error("token_refused");
        assert_eq!(client.drain(), [] as [Value; 0], "{way}");
        assert_anonymous(&mut client);
    }
    assert_eq!(site.proof_requests().len(), 2, "a refusal is remembered, too");
}

#[test]
fn app_password_in_any_form_becomes_basic_auth() {
    let site = two_member_site();
    let basic = format!("Basic {PAIR}");
    site.add_member(&basic, 7);
    let server = at(&site, &[]);
    let address = server.address();
    let bare = PAIR.trim_end_matches('=');
    let (query, form) = (format!("/?token=Basic%20{PAIR}"), format!("/?token=Basic+{PAIR}"));
    let list = format!("buddyline, basic.{bare}");
    let mut telling = Client::connect(address);
    telling.send(&json!({"type": "user_connected", "userId": 7, "token": basic}));
    for mut client in [
        Client::at(address, &query, &[]),
        Client::at(address, &form, &[]),
        Client::at(address, "/", &[("Authorization", &basic)]),
        Client::at(address, "/", &[("Sec-WebSocket-Protocol", &list)]),
        telling,
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
    // The password of nobody.
    let wrong = ("Authorization", "Basic bWFsOmd1ZXNz");
    let mut guesser = Client::at(address, "/", &[wrong]);
    guesser.expect_error("token_refused");
    assert_anonymous(&mut guesser);
}

#[test]
fn custom_header_receives_bare_tokens() {
    let site = two_member_site();
    site.set_token_header("accessToken");
    let basic = format!("Basic {PAIR}");
    site.add_member(&basic, 8);
    let server = at(&site, &["--token-header", "accessToken"]);
    let mut seven = member_in(&server, 7, 41);
    let mut eight = Client::at(server.address(), "/", &[("Authorization", &basic)]);
    eight.expect_type("user_connected");
    eight.join(41);
    seven.send(&post(41, "hello", "token-7"));
    assert_eq!(eight.expect_type("message")["senderId"], 7);
    for request in [site.proof_requests(), site.list_requests(), site.posts()].concat() {
        // An Application Password is the web server's, whatever the app has.
        let headers = (request.header("accesstoken"), request.header("authorization"));
        let right = [(Some("token-7"), None), (None, Some(&*basic))];
        assert!(right.contains(&headers), "{headers:?}");
    }
    let mut liar = Client::proven(server.address(), 9, "token-9");
    liar.send(&join(41));
    liar.expect_error("not_participant");
}

// ---- who may do what

#[test]
fn participants_receive_each_other_and_outsiders_nothing() {
    let site = two_member_site();
    let server = at(&site, &[]);
    let mut nobody = Client::connect(server.address());
    let mut nine = member(&server, 9);
    let mut seven = member_in(&server, 7, 41);
    let mut eight = member_in(&server, 8, 41);
    seven.send(&typing(41));
    let heard = eight.expect_type("typing");
    assert_eq!((&heard["userId"], &heard["typing"]), (&json!(7), &json!(true)));
    seven.send(&json!({"type": "send_message", "threadId": 41, "message": "with my own token"}));
    assert_eq!(eight.expect_type("message")["senderId"], 7);
    eight.send(&post(41, "with another one", "phone-8"));
    let heard = seven.expect(|frame| frame["message"] == "with another one");
    assert_eq!(heard["senderId"], 8);
    seven.send(&call(7, 8, 41));
    assert_eq!(eight.expect_type("call_initiated")["senderId"], 7);
    eight.send(&json!({
        "type": "answer", "answer": {"sdp": "v=0"}, "senderId": 8, "recipientId": 7, "threadId": 41
    }));
    assert_eq!(seven.expect_type("answer")["answer"]["sdp"], "v=0");
    assert_only_presence(&mut nine);
    assert_eq!(nobody.drain(), [] as [Value; 0], "who is nobody hears nothing at all");
    assert_eq!(site.list_requests().len(), 1, "one list for both");
}

#[test]
fn false_claim_gets_an_error_and_is_not_announced() {
    let site = two_member_site();
    let server = at(&site, &[]);
    let mut eight = member_in(&server, 8, 41);
    let claim = json!({"type": "user_connected", "userId": 7, "token": "t-9", "clientId": "c"});
    let mut liar = Client::connect(server.address());
    liar.send(&claim);
    assert_eq!(liar.expect_error("identity_mismatch")["clientId"], "c");
    assert_anonymous(&mut liar);
    // Who is proven is no better.
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
    assert_eq!(nine.expect_type("user_connected")["userId"], 9, "still the same");
    // Nor is who brings no token at all, or none that they could have.
    let mut shy = Client::connect(server.address());
    shy.send(&json!({"type": "user_connected", "userId": 7}));
    shy.expect_error("token_required");
    assert_anonymous(&mut shy);
    let heard = eight.drain();
    assert!(heard.iter().all(|frame| frame["userId"] != 7), "{heard:?}");
    assert_eq!(of_type(&heard, "user_connected").len(), heard.len(), "{heard:?}");
}

#[test]
fn non_participant_cannot_join_type_call_or_write() {
    let site = two_member_site();
    site.add_thread(42, &[9, 10]);
    let server = at(&site, &[]);
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
        // A thread of one's own does not open the way to everyone.
        call(9, 7, 42),
        post(41, "let me in", "token-9"),
        json!({"type": "send_message", "threadId": 41, "message": "let me in"}),
        // A thread that is not there is no other than one of others.
        join(4_100),
        join(0),
        json!({"type": "join_thread", "threadId": "41 "}),
    ] {
        nine.send(&frame);
        let fault = nine.expect_error("not_participant");
        assert_eq!(fault["replyTo"], frame["type"], "{frame}");
    }
    // Without a thread there is nothing that could be looked up.
    nine.send(&json!({"type": "call_initiated", "senderId": 9, "recipientId": 7}));
    nine.expect_error("missing_field");
    seven.send(&typing(41));
    eight.expect_type("typing");
    assert_only_presence(&mut nine);
    for client in [&mut seven, &mut eight] {
        let heard = client.drain();
        assert!(heard.iter().all(|frame| frame["userId"] != 9 || frame["type"] != "typing"));
        for kind in ["message", "call_initiated", "thread_left"] {
            assert!(of_type(&heard, kind).is_empty(), "{heard:?}");
        }
    }
    assert_eq!(site.stored(41), []);
    // A claimed token of a participant is not one that the site knows.
    nine.send(&post(41, "let me in", "made-up"));
    nine.expect_error("token_refused");
    assert_eq!(site.stored(41), []);
}

#[test]
fn moderator_outside_a_thread_receives_nothing() {
    let site = two_member_site();
    site.add_moderator(1);
    let server = at(&site, &[]);
    let mut moderator = member(&server, 1);
    for frame in [join(41), typing(41), call(1, 7, 41)] {
        moderator.send(&frame);
        moderator.expect_error("not_participant");
    }
    assert!(!site.list_requests().is_empty(), "the site was asked, and showed the thread");
    let mut seven = member_in(&server, 7, 41);
    seven.send(&post(41, "among ourselves", "token-7"));
    seven.expect_type("message");
    assert_only_presence(&mut moderator);
    // In a thread of their own they are a member like others.
    site.add_thread(43, &[1, 7]);
    moderator.join(43);
}

#[test]
fn legacy_client_that_only_sends_messages_is_served() {
    let site = two_member_site();
    let server = at(&site, &[]);
    let sample = |thread: &str, token: &str, recipient: &str| {
        json!({
            "type": "send_message", "recipientId": recipient, "message": "hello",
            "threadId": thread, "token": token,
        })
    };
    let mut anna = Client::connect(server.address());
    let mut ben = Client::connect(server.address());
    let mut mallory = Client::connect(server.address());
    // It types before it has written anything, and shows what has a type it knows.
    anna.send(&typing(41));
    anna.expect_error("token_required");
    anna.send(&sample("41", "token-7", "8"));
    let own = anna.expect_type("message");
    assert_eq!((&own["senderId"], &own["threadId"]), (&json!(7), &json!("41")));
    ben.send(&sample("41", "token-8", "7"));
    for client in [&mut anna, &mut ben] {
        let heard = client.expect_type("message");
        assert_eq!((&heard["senderId"], &heard["message"]), (&json!(8), &json!("hello")));
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
    // One question for each token, and none who takes part: the answers to the messages say that.
    assert_eq!((site.proof_requests().len(), site.list_requests().len()), (3, 0));
    let senders: Vec<u64> = site.stored(41).iter().map(|(sender, _)| *sender).collect();
    assert_eq!(senders, [7, 8, 8]);
}

// ---- tokens that prove nobody

#[test]
fn jwt_secret_verifies_tokens_without_the_site() {
    let site = two_member_site();
    site.set_jwt_secret(SECRET);
    let file = SecretFile::with(&[SECRET]);
    let server = at(&site, &["--jwt-secret-file", file.path()]);
    let (now, url) = (now_s(), site.url());
    for (way, mut client) in open_each_way(server.address(), &site.jwt(7, LONG * 60), 7) {
        assert_eq!(client.expect_type("user_connected")["userId"], 7, "{way}");
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
        (good(&|_, claims| claims["data"]["user"]["id"] = json!("7 ")), "token_refused"),
        (good(&|_, claims| claims["exp"] = Value::Null), "token_refused"),
        // Somebody else's signature under one's own words.
        (mine.replace(&signature_of(&mine), &signature_of(&yours)), "token_refused"),
        // Without a signature that we can check there is no proof.
        ("token-7".to_owned(), "token_refused"),
    ] {
        for (way, mut client) in open_each_way(server.address(), &token, 7) {
            client.expect_error(code);
            assert_eq!(client.drain(), [] as [Value; 0], "{way}: {token}");
            client.send(&join(41));
            client.expect_error("token_required");
        }
    }
    assert_eq!(site.proof_requests().len(), 0);
    assert_eq!(site.list_requests().len(), 0);
    // An Application Password has no signature: about that the site is asked.
    site.add_member(&format!("Basic {PAIR}"), 8);
    Client::proven(server.address(), 8, &format!("Basic {PAIR}"));
    assert_eq!(site.proof_requests().len(), 1);
}

#[test]
fn secret_rotation_accepts_both_secrets_and_no_third() {
    let site = two_member_site();
    site.set_jwt_secret(SECRET);
    let file = SecretFile::with(&[SECRET, OLD_SECRET]);
    let server = at(&site, &["--jwt-secret-file", file.path()]);
    for (secret, user) in [(SECRET, 7), (OLD_SECRET, 8)] {
        let token = jwt::token(secret, &site.url(), user, now_s(), |_, _| ());
        Client::proven(server.address(), user, &token);
    }
    let secrets = [&format!("{SECRET}\n{OLD_SECRET}"), "a third one, which nobody has told us"];
    for secret in secrets {
        let token = jwt::token(secret, &site.url(), 7, now_s(), |_, _| ());
        for (way, mut client) in open_each_way(server.address(), &token, 7) {
            client.expect_error("token_refused");
            assert_eq!(client.drain(), [] as [Value; 0], "{way}");
        }
    }
    assert_eq!(site.proof_requests().len(), 0);
}

#[test]
fn deleted_and_suspended_members_are_not_authenticated() {
    let site = two_member_site();
    site.delete_member(7);
    site.suspend(8);
    let server = at(&site, &[]);
    for (user, code) in [(7, "token_refused"), (8, "suspended")] {
        for (way, mut client) in open_each_way(server.address(), &format!("token-{user}"), user) {
            client.expect_error(code);
            assert_eq!(client.drain(), [] as [Value; 0], "{way}");
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
    let server = at(&site, &["--jwt-secret-file", file.path()]);
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
        // And stays out: what the site has said counts more than the signature.
        let mut again = Client::connect(server.address());
        again.send(&json!({"type": "user_connected", "userId": user, "token": token}));
        again.expect_error(code);
    }
    let mut nine = Client::proven(server.address(), 9, &site.jwt(9, LONG * 60));
    nine.join(41);
}

// ---- who takes part changes

#[test]
fn removed_participant_misses_the_next_message() {
    let site = two_member_site();
    let server = at(&site, &[]);
    let mut seven = member_in(&server, 7, 41);
    let mut eight = member_in(&server, 8, 41);
    eight.send(&typing(41));
    seven.expect_type("typing");
    site.remove_participant(41, 8);
    seven.send(&post(41, "now that we are alone", "token-7"));
    let over = seven.expect(|frame| frame["type"] == "typing");
    assert_eq!((&over["userId"], &over["typing"]), (&json!(8), &json!(false)), "with them it ends");
    seven.expect_type("message");
    let heard = eight.drain();
    let left = json!({"type": "thread_left", "threadId": 41, "reason": "not_participant"});
    assert_eq!(of_type(&heard, "thread_left"), [&left]);
    assert!(of_type(&heard, "message").is_empty(), "{heard:?}");
    for frame in [join(41), typing(41), call(8, 7, 41)] {
        eight.send(&frame);
        eight.expect_error("not_participant");
    }
    seven.send(&typing(41));
    seven.expect_type("typing");
    assert_only_presence(&mut eight);
    // Who comes back is heard and hears.
    site.set_participants(41, &[7, 8]);
    seven.send(&post(41, "welcome back", "token-7"));
    seven.expect_type("message");
    eight.join(41);
}

#[test]
fn removed_participant_is_unsubscribed_before_list_expires() {
    const LASTS: Duration = Duration::from_secs(10);
    let site = two_member_site();
    let server = at(&site, &["--membership-lasts", "10s"]);
    let mut seven = member_in(&server, 7, 41);
    let begun = Instant::now();
    let mut eight = member_in(&server, 8, 41);
    site.remove_participant(41, 8);
    // Nobody posts: only the list's age tells. Somebody types now and then.
    let left = loop {
        assert!(begun.elapsed() < LASTS + Duration::from_secs(5), "still in the thread");
        seven.send(&typing(41));
        seven.expect_type("typing");
        let heard = eight.drain();
        if let Some(left) = of_type(&heard, "thread_left").first() {
            break (*left).clone();
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!((&left["threadId"], &left["reason"]), (&json!(41), &json!("not_participant")));
    assert_eq!(site.list_requests().len(), 2, "asked once more, before it was too late");
    seven.send(&typing(41));
    seven.expect_type("typing");
    assert_eq!(eight.drain(), [] as [Value; 0]);
    eight.send(&join(41));
    eight.expect_error("not_participant");
}

#[test]
fn reused_thread_id_keeps_no_subscribers() {
    let site = two_member_site();
    let server = at(&site, &[]);
    let mut seven = member_in(&server, 7, 41);
    let mut eight = member_in(&server, 8, 41);
    site.delete_thread(41);
    site.add_thread(41, &[8, 9]);
    let mut nine = member(&server, 9);
    nine.send(&post(41, "a new thread", "token-9"));
    nine.expect_type("message");
    assert_eq!(eight.expect_type("message")["message"], "a new thread", "who is in both stays");
    let heard = seven.drain();
    assert_eq!(of_type(&heard, "thread_left")[0]["reason"], "not_participant");
    assert!(of_type(&heard, "message").is_empty(), "{heard:?}");
    seven.send(&post(41, "a word to the old one", "token-7"));
    seven.expect_error("not_participant");
    seven.send(&call(7, 8, 41));
    seven.expect_error("not_participant");
    assert_only_presence(&mut seven);
    assert_eq!(site.stored(41), [(9, "a new thread".to_owned())]);
}

// ---- a site that is down

#[test]
fn outage_keeps_proven_users_and_defers_others() {
    let site = two_member_site();
    let server = at(&site, &[]);
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
    // A second device with a token that has been proven.
    let mut phone = member_in(&server, 7, 41);
    seven.send(&post(41, "anybody there?", "token-7"));
    // The looks into the thread fail as well, the last after 15 s.
    let fault = seven.expect_within(3 * LONG, |frame| frame["type"] == "error");
    assert!(["not_stored", "unknown_outcome"].contains(&fault["code"].as_str().unwrap()));
    // Who is new is told, and is nobody; no door stands open because nobody watches it.
    for (way, mut client) in open_each_way(server.address(), "other-8", 8) {
        client.expect_error("site_unavailable");
        assert_eq!(client.drain(), [] as [Value; 0], "{way}");
        client.send(&typing(41));
        let code = client.expect_type("error")["code"].clone();
        assert!(["token_required", "site_unavailable"].contains(&code.as_str().unwrap()), "{code}");
    }
    let mut nine = Client::connect(server.address());
    nine.send(&json!({"type": "user_connected", "userId": 9, "token": "t-9"}));
    nine.expect_error("site_unavailable");
    down.store(false, Ordering::Relaxed);
    // By now it is left alone, and a probe finds it back.
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
    let server = at(&site, &["--presence", "threads", "--presence-grace", "0s"]);
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
    let server = at(&site, &["--presence", "off", "--presence-grace", "0s"]);
    let mut seven = member_in(&server, 7, 41);
    let mut eight = member_in(&server, 8, 41);
    for frame in [json!({"type": "online_users"}), json!({"type": "online_users", "threadId": 41})]
    {
        eight.send(&frame);
        assert_eq!(eight.expect_type("online_users")["userIds"], json!([]));
    }
    // What people say to each other is not about who is there.
    eight.send(&typing(41));
    assert_eq!(seven.next()["type"], "typing");
    eight.leave();
    assert_eq!(seven.next()["typing"], false);
    assert_eq!(seven.drain(), [] as [Value; 0]);
}

// ---- time

#[test]
fn anonymous_closes_with_1008_and_refused_with_4401() {
    let site = two_member_site();
    let server = at(&site, &["--anonymous-lasts", "1s"]);
    let begun = Instant::now();
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
    assert!(begun.elapsed() >= Duration::from_secs(1));
    seven.send(&typing(41));
    seven.expect_type("typing");
}

#[test]
fn third_refused_token_closes_the_connection() {
    let site = two_member_site();
    let server = at(&site, &[]);
    let mut guesser = Client::connect(server.address());
    for guess in ["made-up", "invented", "imagined"] {
        guesser.send(&json!({"type": "user_connected", "userId": 7, "token": guess}));
        guesser.expect_error("token_refused");
    }
    assert_eq!(guesser.close_code(), Some(4401));
}

/// What becomes of a token that expires while its connection is open.
fn check_expiry_and_renewal(site: &Site, server: &Server) {
    let address = server.address();
    let mut eight = Client::proven(address, 8, &site.jwt(8, LONG * 60));
    eight.join(41);
    // In full seconds: it lasts for two to three of them.
    let short = site.jwt(7, Duration::from_secs(3));
    let mut seven = Client::proven(address, 7, &short);
    seven.join(41);
    let mut other = Client::proven(address, 7, &short);
    for client in [&mut seven, &mut other] {
        let told = client.expect_error("token_expired");
        assert_eq!(told.get("replyTo"), None, "nothing was asked");
    }
    // It hears, and says nothing.
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
    // A token of somebody else renews nothing.
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
    assert_eq!(eight.expect_type("typing")["userId"], 7, "it is in the thread as before");
    // The other connection is not renewed by that.
    other.send(&typing(41));
    other.expect_error("token_expired");
    // Nor does an expired token open anything.
    let mut late = Client::at(address, &format!("/?token={short}"), &[]);
    late.expect_error("token_expired");
    assert_anonymous(&mut late);
}

#[test]
fn expired_token_is_reported_and_can_be_renewed() {
    let site = two_member_site();
    site.set_jwt_secret(SECRET);
    let file = SecretFile::with(&[SECRET]);
    let server = at(&site, &["--jwt-secret-file", file.path()]);
    check_expiry_and_renewal(&site, &server);
    assert_eq!(site.proof_requests().len(), 0);
}

#[test]
fn expiry_is_read_from_the_token_itself() {
    let site = two_member_site();
    site.set_jwt_secret(SECRET);
    let server = at(&site, &[]);
    check_expiry_and_renewal(&site, &server);
}

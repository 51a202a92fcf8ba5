//! Tickets of the site's plugin: verified without the site, and never sent to it.

use std::time::Duration;

use buddyline::config::jwt_issuer::Issuer;
use buddyline::hub::interface::{
    Answer, Ask, Failure, Lookup, Now, Post, RequestId, Target, Ticket, TokenFault,
};
use buddyline::protocol::credential::Credential;
use buddyline::protocol::signature::SiteKeys;
use buddyline::upstream::SiteSettings;
use buddyline::upstream::jwt::Refusal;
use buddyline::upstream::jwt::ticket::TicketVerifier;
use serde_json::{Value, json};

use crate::support::driver::PoolDriver;
use crate::support::plugin::{SECRET, ticket, ticket_claims};
use crate::support::site::Site;

const SITE: &str = "https://community.example";
const NOW: u64 = 1_795_345_238;

fn verifier() -> TicketVerifier {
    TicketVerifier::new(SiteKeys::new([SECRET.as_bytes()]), vec![Issuer::new(SITE)])
}

/// Verifies a ticket whose claims were changed.
fn verify(change: impl FnOnce(&mut Value)) -> Result<Ticket, Refusal> {
    let mut claims = ticket_claims(SITE, 7, NOW, &[4, 2]);
    change(&mut claims);
    verifier().verify(&ticket(SECRET, "tickets", &claims), NOW)
}

fn with_tickets(site: &Site) -> impl FnOnce(&mut SiteSettings) + use<> {
    let issuer = Issuer::new(&site.url());
    let keys = SiteKeys::new([SECRET.as_bytes()]);
    move |settings| settings.tickets = Some(TicketVerifier::new(keys, vec![issuer]))
}

#[test]
fn ticket_names_its_user_threads_blocks_and_session() {
    let ticket = verify(|_| ()).unwrap();
    assert_eq!((ticket.user, ticket.issued_s, ticket.expires_s), (7, NOW, NOW + 300));
    assert_eq!((&*ticket.threads, &*ticket.blocked), (&[4, 2][..], &[99][..]));
    assert_eq!(ticket.session.as_deref(), Some("a-session"));
}

#[test]
fn foreign_altered_and_expired_tickets_are_refused_with_their_reason() {
    let claims = ticket_claims(SITE, 7, NOW, &[]);
    let verifier = verifier();
    let wrong = Err(Refusal::Signature { names_issuer: true });
    for (secret, purpose) in [("0".repeat(64).as_str(), "tickets"), (SECRET, "events")] {
        assert_eq!(verifier.verify(&ticket(secret, purpose, &claims), NOW), wrong);
    }
    let good = ticket(SECRET, "tickets", &claims);
    let other = ticket(SECRET, "tickets", &ticket_claims(SITE, 8, NOW, &[]));
    let (head, signature) = good.rsplit_once('.').unwrap();
    let altered = format!("{}.{signature}", other.rsplit_once('.').unwrap().0);
    assert_eq!(verifier.verify(&altered, NOW), wrong, "another user");
    assert!(verifier.verify(head, NOW).is_err(), "two parts");
    assert_eq!(verifier.verify(&good, NOW + 300), Err(Refusal::Expired));
    assert!(verifier.verify(&good, NOW + 299).is_ok());
    let foreign = verify(|claims| claims["iss"] = json!("https://other.example"));
    assert_eq!(foreign, Err(Refusal::Issuer(Some("https://other.example".to_owned()))));
    // Two spellings of one address are equal.
    assert!(verify(|claims| claims["iss"] = json!("https://Community.example:443/")).is_ok());
    assert!(matches!(verify(|claims| claims["aud"] = json!("x")), Err(Refusal::Claims(_))));
    assert_eq!(verify(|claims| claims["iat"] = json!(NOW + 31)), Err(Refusal::NotYetValid(31)));
    assert!(verify(|claims| claims["iat"] = json!(NOW + 30)).is_ok());
}

#[test]
fn ticket_lasts_no_longer_than_its_revocation_is_remembered() {
    let lasting = |seconds: u64| verify(|claims| claims["exp"] = json!(NOW + seconds));
    assert!(lasting(600).is_ok());
    assert!(matches!(lasting(601), Err(Refusal::Claims(why)) if why.contains("ten minutes")));
    assert!(matches!(lasting(u64::MAX - NOW), Err(Refusal::Claims(_))));
}

#[test]
fn malformed_claims_of_a_ticket_are_refused() {
    let many = |count: u64| json!((1..=count).collect::<Vec<_>>());
    assert_eq!(verify(|claims| claims["threads"] = many(500)).unwrap().threads.len(), 500);
    assert_eq!(verify(|claims| claims["blocked"] = many(1_000)).unwrap().blocked.len(), 1_000);
    for (name, value) in [
        ("threads", many(501)),
        ("blocked", many(1_001)),
        ("threads", json!([0])),
        ("blocked", json!([9_007_199_254_740_992_u64])),
        ("threads", json!(["4"])),
        ("sub", json!(7)),
        ("sub", json!("07")),
        ("sub", json!("0")),
        ("sub", json!("")),
        ("iat", json!("1795345238")),
        ("exp", json!(null)),
        ("aud", json!(["buddyline"])),
    ] {
        let verdict = verify(|claims| claims[name] = value.clone());
        assert!(matches!(verdict, Err(Refusal::Claims(_))), "{name} {value}: {verdict:?}");
    }
    let long = verify(|claims| claims["sid"] = json!("x".repeat(129))).unwrap();
    assert_eq!(long.session, None, "no event can name such a session");
}

#[test]
fn old_secret_verifies_while_it_is_rolled() {
    let (new, old) = ("n".repeat(64), "o".repeat(64));
    let keys = SiteKeys::new([new.as_bytes(), old.as_bytes()]);
    let verifier = TicketVerifier::new(keys, vec![Issuer::new(SITE)]);
    for secret in [&new, &old] {
        let ticket = ticket(secret, "tickets", &ticket_claims(SITE, 7, NOW, &[]));
        assert!(verifier.verify(&ticket, NOW).is_ok());
    }
}

#[test]
fn ticket_is_verified_at_once_and_never_sent_to_the_site() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, with_tickets(&site));
    let now = driver.now();
    let token = ticket(SECRET, "tickets", &ticket_claims(&site.url(), 7, now.unix_s, &[1]));
    let credential = || Credential::parse(&token).unwrap();
    let before = site.requests().len();
    let mut ask = |ask: Ask, now: Now| {
        let request = driver.submit_at(ask, now);
        let (answered, answer) = driver.pool.next_answer().expect("an answer at once");
        assert_eq!(answered, request);
        answer
    };
    for proof in [Ask::Prove(credential()), Ask::Recheck(credential())] {
        let Answer::Ticket(ticket) = ask(proof, now) else { panic!("not a ticket") };
        assert_eq!((ticket.user, &*ticket.threads), (7, &[1][..]));
    }
    let later = Now { unix_s: now.unix_s + 300, ..now };
    assert_eq!(ask(Ask::Recheck(credential()), later), Answer::Failed(Failure::TokenExpired));
    let thread = 1;
    let post = Post {
        credential: Some(credential()),
        target: Target::Thread(thread),
        text: "x".into(),
        claimed: None,
    };
    let lookup = Lookup {
        credential: credential(),
        target: Target::Thread(thread),
        text: "x".into(),
        sender: None,
        posted: now.instant,
        post: RequestId(1),
    };
    for refused in [
        Ask::Post(post),
        Ask::Participants { thread, credential: credential() },
        Ask::Lookup(lookup),
    ] {
        assert_eq!(ask(refused, now), Answer::Failed(Failure::TicketOnly));
    }
    let call = ask(Ask::CallPermission { thread, credential: credential() }, now);
    assert_eq!(call, Answer::Failed(Failure::SiteUnavailable { retry_after_s: None }));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(site.requests().len(), before, "a request was sent to the site");
}

#[test]
fn ticket_without_a_secret_of_the_plugin_is_refused_and_not_sent() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    let now = driver.now();
    let token = ticket(SECRET, "tickets", &ticket_claims(&site.url(), 7, now.unix_s, &[1]));
    let before = site.requests().len();
    driver.submit_at(Ask::Prove(Credential::parse(&token).unwrap()), now);
    let (_, answer) = driver.pool.next_answer().expect("an answer at once");
    assert_eq!(answer, Answer::Failed(Failure::TokenInvalid(TokenFault::Algorithm)));
    assert_eq!(site.requests().len(), before);
}

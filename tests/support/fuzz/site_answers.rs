//! Fuzz target: parses any reply of the site, and any token.
//!
//! A case is a list of lines. For a reply: the status, `Content-Type`, `Retry-After`, `Date`,
//! `Location`, and then the body, or several bodies separated by the byte 0x1e for the pages of a
//! list. A status that ends in `-` means that there is no body. For a token: `token`, its header and
//! its claims; the token is checked with a valid signature, with a forged one, and header and claims
//! are checked as tokens themselves.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use buddyline::config::jwt_issuer::Issuer;
use buddyline::config::secrets::JwtKeys;
use buddyline::hub::interface::{
    Answer, Failure, Lookup, LookupResult, Post, Proven, RequestId, Stored, Target,
};
use buddyline::protocol::Id;
use buddyline::protocol::SITE_ID_MAX;
use buddyline::protocol::credential::Credential;
use buddyline::upstream::buddyboss::{self, ProbeFinding, RETRY_AFTER_MAX_S, Reply};
use buddyline::upstream::checks::{
    PAGES_MAX, PageProgress, ParticipantPages, list_request, parse_prove_reply,
};
use buddyline::upstream::jwt::{self, Verifier};
use buddyline::upstream::message_lookup::parse_lookup_reply;
use buddyline::upstream::normalize::normalize_text;
use buddyline::upstream::url_style::UrlStyle;
use ring::hmac;

const SECRET: &[u8] = b"put your unique phrase here, all of it";
const SITE: &str = "https://community.example";

/// The thread and the text of the request that is answered.
const THREAD: u64 = 1;
const TEXT: &str = "hi alice";

/// The texts that the log line of a reply may have after its status, if not an error code.
const LOG_DETAILS: [&str; 4] =
    ["JSON of an unexpected shape", "JSON cut off", "JSON too long or malformed", "not JSON"];

/// Checks that nothing panics, that ids are at most [`SITE_ID_MAX`], that times cannot overflow when
/// added to, that lists are sorted, and that no part of a body is logged.
pub fn run(data: &[u8]) {
    let mut lines = data.splitn(6, |byte| *byte == b'\n');
    let mut line = || lines.next().map(String::from_utf8_lossy);
    let first = line().unwrap_or_default();
    if first == "token" {
        let (header, claims) = (line().unwrap_or_default(), line().unwrap_or_default());
        return token(&header, &claims);
    }
    let [content_type, retry_after, date, location] =
        [(); 4].map(|()| line().filter(|line| !line.is_empty()).map(Cow::into_owned));
    let body = lines.next().unwrap_or_default();
    let no_body = first.ends_with('-');
    let status = first.trim_end_matches('-').parse().unwrap_or(200);
    let reply = |body: &[u8]| {
        Reply {
            status,
            content_type: content_type.clone(),
            retry_after: retry_after.clone(),
            date: date.clone(),
            location: location.clone(),
            body: (!no_body).then(|| body.to_vec()),
            truncated: no_body && body.is_empty(),
            ..Reply::default()
        }
        .read_through()
    };
    one_answer(&reply(body));
    pages(body.split(|byte| *byte == 0x1e).map(reply).collect());

    let text = String::from_utf8_lossy(body);
    assert!(normalize_text(&text).len() <= text.len(), "normalized text is not longer");
}

fn one_answer(reply: &Reply) {
    if let Some(seconds) = reply.retry_after_s() {
        assert!((1..=RETRY_AFTER_MAX_S).contains(&seconds));
    }
    let credential = Credential::parse("user-7").expect("a token");
    for target in [Target::Thread(THREAD), Target::NewThread { recipient: 2 }] {
        let token = Some(credential.clone());
        let post = Post { credential: token, target, text: TEXT.into(), claimed: None };
        let answer = buddyboss::parse_post_reply(&post, reply);
        check(&answer);
        match &answer {
            Answer::Stored(stored) if target == Target::Thread(THREAD) => {
                assert_eq!(stored.thread, THREAD, "only the requested thread");
            }
            Answer::Stored(_) | Answer::Failed(_) => {}
            answer => panic!("{answer:?} for a post"),
        }
        lookup(target, &credential, reply);
    }
    let answer = parse_prove_reply(&credential, reply);
    assert!(matches!(answer, Answer::Proven(_) | Answer::Failed(_)), "{answer:?}");
    // A GET changes nothing on the site, so its outcome is never unknown.
    assert_ne!(answer, Answer::Failed(Failure::Unknown));
    check(&answer);
    check_log(reply);
    if let Some(noise) = reply.noise() {
        let harmless = noise.chars().all(|c| c == '…' || matches!(c, ' '..='~'));
        assert!(harmless && noise.len() < 500, "{noise:?}");
    }
}

/// Parses the same reply as the result of looking up a message.
fn lookup(target: Target, credential: &Credential, reply: &Reply) {
    let lookup = Lookup {
        credential: credential.clone(),
        target,
        text: TEXT.into(),
        sender: Some(Id::number(7)),
        posted: Instant::now(),
        post: RequestId(1),
    };
    for after in [0, 30, u64::MAX / 4] {
        let answer = parse_lookup_reply(&lookup, reply, Duration::from_secs(after));
        check(&answer);
        match &answer {
            Answer::LookupResult(LookupResult::Match { stored, .. }) => {
                assert!(target != Target::Thread(THREAD) || stored.thread == THREAD);
                assert_eq!(
                    stored.sender.site_number(),
                    Some(7),
                    "only a message of the sender matches"
                );
                assert!(stored.message.is_some(), "a match has its message");
            }
            Answer::LookupResult(_) | Answer::Failed(_) => {}
            answer => panic!("{answer:?} for a lookup"),
        }
    }
}

/// Checks the log text and the probe finding of a reply.
fn check_log(reply: &Reply) {
    let detail = reply.log_detail();
    let rest = detail.strip_prefix(&format!("status {}, ", reply.status)).expect("the status");
    match rest.strip_prefix("code ") {
        Some(code) => {
            let harmless = |b: u8| b.is_ascii_lowercase() || matches!(b, b'_' | b'-');
            assert!(code.len() <= 64 && code.bytes().all(harmless), "{detail}");
        }
        None => assert!(LOG_DETAILS.contains(&rest), "{detail}"),
    }
    match buddyboss::classify_probe_reply(reply) {
        ProbeFinding::Redirect(place) => {
            assert!(place.len() <= 220 && place.bytes().all(|b| b.is_ascii_graphic()), "{place:?}");
            assert!(!place.contains(['?', '#']), "a query may contain a secret: {place}");
            assert!(!place.contains('@'), "user information may contain a secret: {place}");
        }
        ProbeFinding::Unreachable(_) => panic!("a site that has replied is reachable"),
        ProbeFinding::NoMessages => panic!("the reply to one request cannot show it"),
        ProbeFinding::Api | ProbeFinding::NoRoute | ProbeFinding::Other(_) => {}
    }
}

fn check(answer: &Answer) {
    match answer {
        Answer::Stored(stored) => check_stored(stored),
        Answer::Ticket(_) => panic!("the site's replies are no tickets"),
        Answer::CallPermission(_) => {}
        Answer::Proven(Proven { user, expires_s })
        | Answer::Verified(Proven { user, expires_s }) => {
            assert!(is_id(*user) && expires_s.is_none_or(|at| at <= SITE_ID_MAX));
        }
        Answer::Participants(people) => check_people(people),
        Answer::LookupResult(LookupResult::Match { stored, .. }) => check_stored(stored),
        Answer::LookupResult(LookupResult::Mismatch { thread, message, .. }) => {
            assert!(is_id(*thread) && is_id(*message));
        }
        Answer::LookupResult(LookupResult::Absent) => {}
        Answer::Failed(
            Failure::SiteBusy { retry_after_s: Some(seconds) }
            | Failure::SiteUnavailable { retry_after_s: Some(seconds) },
        ) => assert!((1..=RETRY_AFTER_MAX_S).contains(seconds)),
        Answer::Failed(_) => {}
    }
}

fn check_stored(stored: &Stored) {
    assert!(is_id(stored.thread) && stored.sender.site_number().is_some());
    assert!(stored.expires_s.is_none_or(|at| at <= SITE_ID_MAX));
    if let Some(people) = &stored.participants {
        check_people(people);
        let sender = stored.sender.site_number().expect("a number");
        assert!(people.contains(&sender), "the sender of a message is a participant");
    }
    if let Some(message) = &stored.message {
        assert!(is_id(message.id));
        let date = message.sent_at.as_bytes();
        let form = b"0000-00-00T00:00:00Z";
        let fits =
            |(b, form): (&u8, &u8)| if *form == b'0' { b.is_ascii_digit() } else { b == form };
        assert!(date.len() == form.len() && date.iter().zip(form).all(fits), "{date:?}");
    }
}

fn check_people(people: &[u64]) {
    assert!(people.iter().all(|user| is_id(*user)));
    assert!(people.windows(2).all(|two| two[0] < two[1]), "sorted and without duplicates");
}

fn is_id(number: u64) -> bool {
    (1..=SITE_ID_MAX).contains(&number)
}

/// Reads a thread's participants page by page; the last reply is repeated as often as needed.
fn pages(replies: Vec<Reply>) {
    let credential = Credential::parse("user-7").expect("a token");
    let mut pages = ParticipantPages::new(THREAD);
    let last = replies.len() - 1;
    for page in 1..=PAGES_MAX + 1 {
        for style in [UrlStyle::Pretty, UrlStyle::RestRoute] {
            let request = list_request(THREAD, pages.page(), &credential, style);
            assert!(request.path.bytes().all(|b| b.is_ascii_graphic()), "{}", request.path);
        }
        let reply = &replies[last.min(page as usize - 1)];
        match pages.add_page(reply) {
            PageProgress::More => assert_eq!(pages.page(), page + 1),
            PageProgress::Done(answer, _) => {
                assert!(
                    matches!(answer, Answer::Participants(_) | Answer::Failed(_)),
                    "{answer:?}"
                );
                assert_ne!(answer, Answer::Failed(Failure::Unknown));
                return check(&answer);
            }
        }
    }
    panic!("no end after {PAGES_MAX} pages");
}

fn token(header: &str, claims: &str) {
    let keys = JwtKeys::parse(SECRET).expect("a secret");
    let verifier = Verifier::new(&keys, vec![Issuer::new(SITE)]);
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let proof = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    let good = format!("{signed}.{proof}");
    let forged = format!("{signed}.{}", URL_SAFE_NO_PAD.encode([7; 32]));
    assert!(verifier.verify(&forged, 0).is_err(), "a forged token was accepted");

    for token in [&*good, &*forged, header, claims] {
        for now in [0, 1_795_345_238, SITE_ID_MAX, u64::MAX] {
            match verifier.verify(token, now) {
                Ok(Proven { user, expires_s }) => {
                    assert!(is_id(user));
                    assert!(expires_s.is_none_or(|exp| now < exp && exp <= SITE_ID_MAX));
                }
                Err(refusal) => {
                    assert!(refusal.failure().is_credential_rejection());
                    assert!(!refusal.is_signed() || token == good);
                    if let Some(detail) = verifier.explain(&refusal) {
                        let printable = detail.chars().all(|c| !c.is_control());
                        assert!(printable && !detail.contains(&proof), "{detail}");
                    }
                }
            }
        }
        if let Ok(credential) = Credential::parse(token) {
            assert!(jwt::expiry(&credential).is_none_or(|at| at <= SITE_ID_MAX));
        }
    }
}

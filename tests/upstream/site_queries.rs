//! Authentication and participant requests of the pool, over real sockets.

use std::time::{Duration, Instant};

use buddyline::config::jwt_issuer::Issuer;
use buddyline::config::secrets::JwtKeys;
use buddyline::config::token_header::TokenHeader;
use buddyline::hub::interface::{Answer, Ask, Failure, Now, Proven, TokenFault};
use buddyline::protocol::credential::Credential;
use buddyline::upstream::SiteSettings;
use buddyline::upstream::jwt::Verifier;
use buddyline::upstream::url_style::UrlStyle;

use crate::support::driver::{
    PoolDriver, UNAVAILABLE, failed, list, listed, post_as, prove, proven, stored,
};
use crate::support::fixtures::load;
use crate::support::jwt;
use crate::support::site::{Fault, Request, Site};

/// `alice:open sesame`
const PASSWORD: &str = "Basic YWxpY2U6b3BlbiBzZXNhbWU=";
const SECRET: &str = "put your unique phrase here; #[it] has spaces";

/// Makes authentication and participant requests fail; probes and posts still succeed.
fn fail(site: &Site, rule: impl Fn(&Request) -> Option<Fault> + Send + 'static) {
    site.fail_when(move |_, r| {
        let is_query = r.path.contains("/messages/") || r.header("authorization").is_some();
        (is_query && r.method == "GET").then(|| rule(r))?
    });
}

// ---------------------------------------------------------------- authentication

#[test]
fn site_resolves_a_credential_to_its_user() {
    let site = Site::start();
    site.add_member(PASSWORD, 12);
    site.suspend(66);
    site.delete_member(67);
    let mut driver = PoolDriver::ready(&site, |_| ());
    assert_eq!(proven(driver.ask(prove("user-7"))), Proven { user: 7, expires_s: None });
    assert_eq!(proven(driver.ask(prove(PASSWORD))), Proven { user: 12, expires_s: None });
    for (token, failure) in [
        ("nobody", Failure::TokenRefused),
        ("expired", Failure::TokenExpired),
        ("user-66", Failure::Suspended),
        ("user-67", Failure::TokenRefused),
        ("Basic Ym9iOndyb25n", Failure::TokenRefused),
    ] {
        assert_eq!(failed(driver.ask(prove(token))), failure, "{token}");
    }
    let proofs = site.proof_requests();
    assert_eq!(proofs.len(), 7, "one request for each credential");
    assert_eq!(proofs[0].method, "GET");
    assert_eq!(proofs[0].path, "/wp-json/buddyboss/v1/members/me?_fields=id");
    assert_eq!(proofs[0].header("authorization"), Some("Bearer user-7"));
    assert_eq!(proofs[0].header("accept"), Some("application/json"));
    assert_eq!(proofs[0].header("cookie"), None);
    assert_eq!(proofs[1].header("authorization"), Some(PASSWORD));
}

#[test]
fn custom_token_header_is_used() {
    let site = Site::start();
    site.set_token_header("accessToken");
    site.add_member(PASSWORD, 12);
    let mut driver = PoolDriver::ready(&site, |s| {
        s.token_header = TokenHeader::parse("accessToken").unwrap();
    });
    assert_eq!(proven(driver.ask(prove("user-7"))).user, 7);
    assert_eq!(proven(driver.ask(prove(PASSWORD))).user, 12);
    assert_eq!(listed(driver.ask(list(1, "user-7"))), [7, 8]);
    assert_eq!(stored(driver.ask(crate::support::driver::post(1, "x"))).thread, 1);
    for request in site.requests().iter().skip(1) {
        let basic = request.header("authorization") == Some(PASSWORD);
        let token = request.header("accesstoken") == Some("user-7");
        assert!(basic != token, "{:?}", request.headers);
        assert!(basic || request.header("authorization").is_none(), "{:?}", request.headers);
    }
}

#[test]
fn failed_check_is_never_unknown_and_sent_once() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| s.request_timeout = Duration::from_millis(300));
    let faults = [
        Fault::Hang,
        Fault::Close,
        Fault::Truncated,
        Fault::TruncatedChunks,
        Fault::Garbage,
        Fault::Padded(4 << 20),
        Fault::GzipBomb(64 << 20),
        Fault::status(403, &[]),
        Fault::status(401, &[]),
        Fault::status(500, &[]),
        Fault::status(502, &[]),
        Fault::status(504, &[]),
    ];
    for fault in faults {
        let name = format!("{fault:.40?}");
        fail(&site, move |_| Some(fault.clone()));
        let before = site.requests().len();
        assert_eq!(failed(driver.ask(prove("user-7"))), UNAVAILABLE, "{name}");
        assert_eq!(failed(driver.ask(list(1, "user-7"))), UNAVAILABLE, "{name}");
        // A page may be followed by probes, whether the site still serves members and under which
        // URL style.
        let more = site.requests().split_off(before);
        let lists = more.iter().filter(|request| request.path.contains("recipients_page"));
        assert_eq!((lists.count(), more.len() <= 8), (1, true), "{name}");
        // A success, because failures in a row would open the breaker.
        fail(&site, |_| None);
        assert_eq!(proven(driver.ask(prove("user-7"))).user, 7);
    }
    fail(&site, |_| Some(Fault::status(429, &[("Retry-After", "17")])));
    let busy = Failure::SiteBusy { retry_after_s: Some(17) };
    assert_eq!(failed(driver.ask(prove("user-7"))), busy);
    let mut driver = PoolDriver::ready(&site, |_| ());
    fail(&site, |_| Some(Fault::replay(&load("fail-maintenance"))));
    let closed = Failure::SiteUnavailable { retry_after_s: Some(600) };
    assert_eq!(failed(driver.ask(prove("user-7"))), closed);
    let mut driver = PoolDriver::ready(&site, |_| ());
    fail(&site, |_| Some(Fault::Gzip));
    assert_eq!(proven(driver.ask(prove("user-7"))).user, 7);
    let mut nowhere = PoolDriver::at(&Site::refusing());
    assert_eq!(failed(nowhere.ask(prove("user-7"))), UNAVAILABLE);
    assert_eq!(failed(nowhere.ask(list(1, "user-7"))), UNAVAILABLE);
}

#[test]
fn token_is_not_sent_to_a_redirect_target() {
    let (site, elsewhere) = (Site::start(), Site::start());
    let mut driver = PoolDriver::ready(&site, |_| ());
    for status in [301, 302, 303, 307, 308] {
        let to = format!("{}/wp-json/buddyboss/v1/members/me", elsewhere.url());
        fail(&site, move |_| Some(Fault::status(status, &[("Location", &to)])));
        assert_eq!(failed(driver.ask(prove("user-7"))), Failure::SiteMisconfigured, "{status}");
    }
    assert_eq!(elsewhere.requests().len(), 0);
}

// ---------------------------------------------------------------- participants

#[test]
fn site_lists_the_participants() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.add_moderator(1);
    site.set_participants(2, &[12, 3, 7]);
    assert_eq!(listed(driver.ask(list(2, "user-7"))), [3, 7, 12]);
    assert_eq!(
        listed(driver.ask(list(2, "user-1"))),
        [3, 7, 12],
        "a moderator sees the list without being in it"
    );
    for (thread, token, failure) in [
        (2, "user-8", Failure::NotParticipant),
        (404, "user-7", Failure::NotParticipant),
        (0, "user-7", Failure::NotParticipant),
        (2, "nobody", Failure::TokenRefused),
        (2, "Basic Ym9iOndyb25n", Failure::TokenRefused),
        (2, "expired", Failure::TokenExpired),
    ] {
        assert_eq!(failed(driver.ask(list(thread, token))), failure, "{token} in {thread}");
    }
    site.remove_participant(2, 3);
    assert_eq!(listed(driver.ask(list(2, "user-7"))), [7, 12]);
    site.delete_member(12);
    assert_eq!(listed(driver.ask(list(2, "user-7"))), [7]);
    assert_eq!(failed(driver.ask(list(2, "user-12"))), Failure::TokenRefused);
    site.delete_thread(2);
    assert_eq!(failed(driver.ask(list(2, "user-7"))), Failure::NotParticipant);
    site.add_thread(2, &[8, 9]);
    assert_eq!(listed(driver.ask(list(2, "user-8"))), [8, 9]);
    assert!(
        site.list_requests().iter().all(|r| !r.path.contains("/messages/0")),
        "thread 0 is never requested"
    );
}

#[test]
fn large_thread_is_read_page_by_page_as_needed() {
    for style in [UrlStyle::Pretty, UrlStyle::RestRoute] {
        let site = Site::start();
        site.set_plain_permalinks(style == UrlStyle::RestRoute);
        let mut driver = PoolDriver::at(&site.url());
        driver.await_requests(&site, if style == UrlStyle::Pretty { 1 } else { 2 });
        assert_eq!(driver.pool.url_style(), style);
        for count in [1_u64, 20, 21, 40, 151, 1_000] {
            let people: Vec<u64> = (1..=count).collect();
            site.add_thread(1, &people);
            let before = site.list_requests().len();
            assert_eq!(listed(driver.ask(list(1, "user-1"))), people);
            let pages: Vec<_> = site.list_requests()[before..]
                .iter()
                .map(|r| r.argument("recipients_page").unwrap().parse::<u64>().unwrap())
                .collect();
            assert_eq!(pages, (1..=count.div_ceil(20)).collect::<Vec<_>>(), "{count} people");
        }
        let before = site.list_requests().len();
        site.add_thread(1, &(1..=1_001).collect::<Vec<_>>());
        assert_eq!(failed(driver.ask(list(1, "user-1"))), Failure::ThreadTooLarge);
        assert_eq!(site.list_requests().len(), before + 1, "the first page is enough");
    }
}

#[test]
fn list_with_shifting_rows_fails() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    let people: Vec<u64> = (1..=50).collect();
    let (fewer, more): (Vec<u64>, Vec<u64>) = ((1..=49).collect(), (1..=51).collect());
    for other in [fewer, more] {
        site.set_participants(1, &people);
        // The pages after the first one are of a thread that has changed in between.
        site.fail_when(move |_, r| {
            let page: usize = r.argument("recipients_page")?.parse().ok()?;
            let rows: Vec<u64> =
                other.iter().rev().skip((page - 1) * 20).take(20).copied().collect();
            let rows = rows.iter().map(|id| (id.to_string(), serde_json::json!({"user_id": id})));
            let body = serde_json::json!({
                "id": 1, "recipients": serde_json::Value::Object(rows.collect()),
                "recipients_count": other.len(), "recipients_total_pages": 3,
            });
            let kind = ("Content-Type".to_owned(), "application/json".to_owned());
            (page > 1).then(|| Fault::Answer {
                status: 200,
                headers: vec![kind],
                body: body.to_string().into_bytes(),
            })
        });
        assert_eq!(failed(driver.ask(list(1, "user-1"))), UNAVAILABLE);
    }
    site.fail_when(|_, _| None);
    assert_eq!(listed(driver.ask(list(1, "user-1"))), people);
}

#[test]
fn failed_page_fails_the_whole_list() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.set_participants(1, &(1..=50).collect::<Vec<_>>());
    for (fault, failure) in [
        (Fault::status(502, &[]), UNAVAILABLE),
        (Fault::Close, UNAVAILABLE),
        (Fault::replay(&load("thread-get-non-participant")), Failure::NotParticipant),
        (Fault::replay(&load("thread-get-expired-token")), Failure::TokenExpired),
        (Fault::replay(&load("me-suspended")), Failure::Suspended),
    ] {
        let before = site.list_requests().len();
        fail(&site, move |r| (r.argument("recipients_page") == Some("2")).then(|| fault.clone()));
        assert_eq!(failed(driver.ask(list(1, "user-1"))), failure);
        assert_eq!(site.list_requests().len(), before + 2, "no page after the one that failed");
    }
}

#[test]
fn list_timeout_covers_all_pages() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| s.request_timeout = Duration::from_millis(600));
    site.set_participants(1, &(1..=1_000).collect::<Vec<_>>());
    fail(&site, |_| Some(Fault::Delay(Duration::from_millis(150))));
    let begun = Instant::now();
    assert_eq!(failed(driver.ask(list(1, "user-1"))), UNAVAILABLE);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(2), "{took:?}");
    let pages = site.list_requests().len();
    assert!((2..=5).contains(&pages), "{pages} pages");
}

#[test]
fn post_reply_includes_participants_when_they_fit() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    let people = |driver: &mut PoolDriver| {
        stored(driver.ask(crate::support::driver::post(1, "x"))).participants
    };
    assert_eq!(people(&mut driver).as_deref(), Some(&[7, 8][..]));
    site.set_participants(1, &(1..=20).rev().collect::<Vec<_>>());
    assert_eq!(people(&mut driver).map(|p| p.len()), Some(20));
    site.delete_member(3);
    assert_eq!(people(&mut driver).map(|p| (p.len(), p.contains(&3))), Some((19, false)));
    site.set_participants(1, &(1..=21).collect::<Vec<_>>());
    assert_eq!(people(&mut driver), None);
}

// ---------------------------------------------------------------- with the site's secret

fn verifying(site: &Site) -> impl FnOnce(&mut SiteSettings) + use<> {
    let issuers = vec![Issuer::new(&site.url())];
    let keys = JwtKeys::parse(SECRET.as_bytes()).unwrap();
    move |settings| settings.verifier = Some(Verifier::new(&keys, issuers))
}

#[test]
fn jwt_secret_makes_proof_requests_unnecessary() {
    let site = Site::start();
    site.add_member(PASSWORD, 12);
    let mut driver = PoolDriver::ready(&site, verifying(&site));
    let before = site.requests().len();
    let now = driver.now();
    let at_once = |driver: &mut PoolDriver, token: &str, now: Now| {
        let request = driver.submit_at(prove(token), now);
        assert!(driver.pool.has_answer(), "the event loop would sleep with an answer waiting");
        assert_eq!(driver.pool.outstanding(), 1);
        let (answered, answer) = driver.pool.next_answer().unwrap();
        assert_eq!(answered, request);
        assert_eq!(driver.pool.outstanding(), 0);
        answer
    };
    let good = jwt::token(SECRET, &site.url(), 7, now.unix_s, |_, _| ());
    let expires_s = Some(now.unix_s + jwt::WEEK_S);
    assert_eq!(at_once(&mut driver, &good, now), Answer::Verified(Proven { user: 7, expires_s }));
    let later = Now { unix_s: now.unix_s + jwt::WEEK_S, ..now };
    assert_eq!(failed(at_once(&mut driver, &good, later)), Failure::TokenExpired);
    let forged = jwt::token("guess", &site.url(), 7, now.unix_s, |_, _| ());
    for (token, fault) in [
        (&*forged, TokenFault::Signature),
        ("user-7", TokenFault::Layout),
        ("opaque", TokenFault::Layout),
    ] {
        assert_eq!(failed(at_once(&mut driver, token, now)), Failure::TokenInvalid(fault));
    }
    assert_eq!(site.requests().len(), before, "a request was sent to the site");
    let mut events = mio::Events::with_capacity(4);
    driver.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
    events.clear();
    assert_eq!(proven(at_once(&mut driver, &good, now)).user, 7);
    driver.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
    assert!(events.is_empty(), "the waker was used for an answer that is available at once");
    // Only the site can check Application Passwords and list participants.
    assert_eq!(proven(driver.ask(prove(PASSWORD))).user, 12);
    assert_eq!(listed(driver.ask(list(1, "user-7"))), [7, 8]);
    assert_eq!((site.proof_requests().len(), site.list_requests().len()), (1, 1));
}

#[test]
fn site_and_local_verification_agree() {
    let site = Site::start();
    site.set_jwt_secret(SECRET);
    let mut remote = PoolDriver::ready(&site, |_| ());
    let mut local = PoolDriver::ready(&site, verifying(&site));
    let unix_s = std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let now = Now { instant: Instant::now(), unix_s };
    let other = Site::start();
    for (token, expected) in [
        (site.jwt(7, Duration::from_secs(600)), Ok(7)),
        (site.jwt(7, Duration::ZERO), Err(Failure::TokenExpired)),
        (jwt::token("guess", &site.url(), 7, unix_s, |_, _| ()), Err(Failure::TokenRefused)),
        (jwt::token(SECRET, &other.url(), 7, unix_s, |_, _| ()), Err(Failure::TokenRefused)),
        (jwt::token(SECRET, &site.url(), 7, unix_s + 999, |_, _| ()), Err(Failure::TokenRefused)),
    ] {
        for driver in [&mut remote, &mut local] {
            let request = driver.submit_at(prove(&token), now);
            let (answered, answer) = driver.next();
            assert_eq!(answered, request);
            let got = match answer {
                Answer::Proven(Proven { user, expires_s })
                | Answer::Verified(Proven { user, expires_s }) => {
                    assert!(expires_s.is_some_and(|s| s.abs_diff(unix_s + 600) < 9));
                    Ok(user)
                }
                // The site does not tell its reasons apart.
                Answer::Failed(Failure::TokenInvalid(_)) => Err(Failure::TokenRefused),
                Answer::Failed(failure) => Err(failure),
                other => panic!("{other:?}"),
            };
            assert_eq!(got, expected);
        }
    }
    // A valid token of a deleted user: only the site can refuse it.
    let token = site.jwt(9, Duration::from_secs(600));
    site.delete_member(9);
    assert_eq!(failed(remote.ask(prove(&token))), Failure::TokenRefused);
    let request = local.submit_at(prove(&token), now);
    assert_eq!((request, 9), {
        let (answered, answer) = local.next();
        (answered, proven(answer).user)
    });
}

#[test]
fn site_is_asked_about_signed_tokens_without_end_or_user() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, verifying(&site));
    let now = driver.now();
    let without = |claim: &'static str| {
        jwt::token(SECRET, &site.url(), 7, now.unix_s, move |_, claims| {
            claims.as_object_mut().unwrap().remove(claim);
        })
    };
    let expires_s = now.unix_s + jwt::WEEK_S;
    for (token, expires_s) in [(without("exp"), None), (without("data"), Some(expires_s))] {
        assert!(matches!(driver.ask(prove(&token)), Answer::Failed(_)), "the site decides");
        site.add_member(&token, 7);
        let Answer::Proven(proven) = driver.ask(prove(&token)) else { panic!() };
        assert_eq!(proven, Proven { user: 7, expires_s });
        // It is asked again each time: the answer is not kept here.
        driver.ask(prove(&token));
    }
    assert_eq!(site.proof_requests().len(), 6);
    // Forged ones are refused without a request.
    let forged = without("exp").replace('.', ".x");
    assert!(matches!(driver.ask(prove(&forged)), Answer::Failed(Failure::TokenInvalid(_))));
    assert_eq!(site.proof_requests().len(), 6);
}

// ---------------------------------------------------------------- the URL style

#[test]
fn query_with_wrong_url_style_finds_the_right_one() {
    for ask in [|| prove("user-7"), || list(1, "user-7")] as [fn() -> Ask; 2] {
        let site = Site::start();
        let mut driver = PoolDriver::ready(&site, |_| ());
        site.set_plain_permalinks(true);
        assert_eq!(failed(driver.ask(ask())), Failure::SiteMisconfigured);
        driver.await_url_style(UrlStyle::RestRoute);
        assert!(!matches!(driver.ask(ask()), Answer::Failed(_)));

        let site = Site::start();
        let mut driver = PoolDriver::ready(&site, |_| ());
        site.fail_when(|_, r| {
            let pretty = r.path.starts_with("/wp-json") && r.header("authorization").is_some();
            pretty.then_some(Fault::Html)
        });
        assert_eq!(failed(driver.ask(ask())), UNAVAILABLE);
        driver.await_url_style(UrlStyle::RestRoute);
        assert!(!matches!(driver.ask(ask()), Answer::Failed(_)));
    }
}

#[test]
fn bad_tokens_do_not_trigger_a_probe() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |_| ());
    site.suspend(66);
    let before = site.requests().len();
    for token in ["nobody", "expired", "user-66", "Basic Ym9iOndyb25n"] {
        driver.ask(prove(token));
        driver.ask(list(1, token));
        driver.ask(post_as(token, buddyline::hub::interface::Target::Thread(1), "x"));
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(driver.pool.next_answer(), None);
    assert_eq!(site.requests().len(), before + 12, "a probe was sent");
}

#[test]
fn checks_bypass_queued_messages_up_to_worker_count() {
    let site = Site::start();
    let mut driver = PoolDriver::ready(&site, |s| (s.workers, s.queue) = (1, 4));
    site.set_latency(Duration::from_millis(100));
    let message = |n: i32| crate::support::driver::post(1, &n.to_string());
    let first: Vec<_> = (0..4).map(|n| driver.submit(message(n))).collect();
    let credential = Credential::parse("user-7").unwrap();
    let check = driver.submit(Ask::Prove(credential.clone()));
    driver.submit(Ask::Prove(credential));
    assert_eq!(failed(driver.pool.next_answer().unwrap().1), Failure::Overloaded);
    let order: Vec<_> = (0..5).map(|_| driver.next().0).collect();
    // The worker may have taken one message before the check was submitted.
    assert!(order[..2].contains(&check), "{check:?} in {order:?}");
    assert_eq!(order.iter().filter(|request| first.contains(request)).count(), 4);
}

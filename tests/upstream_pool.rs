//! The pool's manners: nothing sent twice, one answer each, bounds, and the probe.

// A broken helper is a broken test.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use buddyline::hub::interface::{Answer, Failure, Now, RequestId};
use buddyline::protocol::Id;
use buddyline::upstream::Upstream;
use buddyline::upstream::url_style::UrlStyle;
use support::desk::{Desk, LONG, UNAVAILABLE, failed, post, prove, stored};
use support::site::{Fault, Request, Site};

// ---------------------------------------------------------------- connections

#[test]
fn a_connection_is_used_again() {
    let site = Site::start();
    let mut desk = Desk::ready(&site, |s| s.workers = 1);
    for _ in 0..5 {
        stored(desk.ask(post(1, "x")));
    }
    let connections: BTreeSet<_> = site.requests().iter().map(|r| r.connection).collect();
    assert_eq!(connections.len(), 1);
}

#[test]
fn an_idle_connection_that_the_site_closed_costs_nothing() {
    let site = Site::start();
    let mut desk = Desk::ready(&site, |s| s.workers = 1);
    for n in 1..=5 {
        site.fail_next(Fault::CloseAfterAnswer);
        stored(desk.ask(post(1, "x")));
        assert_eq!(site.posts().len(), n);
        // Time for the end of the connection to arrive.
        std::thread::sleep(Duration::from_millis(30));
    }
}

#[test]
fn a_used_connection_that_dies_with_the_request_on_it_sends_it_once() {
    let site = Site::start();
    let mut desk = Desk::ready(&site, |s| s.workers = 1);
    stored(desk.ask(post(1, "first")));
    site.fail_next(Fault::Close);
    assert_eq!(failed(desk.ask(post(1, "second"))), Failure::Unknown);
    stored(desk.ask(post(1, "third")));
    let posts = site.posts();
    assert_eq!(posts[0].connection, posts[1].connection, "not a used connection");
    let texts: Vec<_> = posts.iter().map(|p| p.json()["message"].clone()).collect();
    assert_eq!(texts, ["first", "second", "third"]);
}

#[test]
fn a_connection_closed_at_the_very_moment_of_use_sends_a_request_at_most_once() {
    let site = Site::start();
    let mut desk = Desk::ready(&site, |s| s.workers = 1);
    // The site closes right after each answer, and the next request races against that.
    site.fail_when(|_, r| (r.method == "POST").then_some(Fault::CloseAfterAnswer));
    let mut good = BTreeSet::new();
    for n in 0..200 {
        let text = format!("{n:03}");
        match desk.ask(post(1, &text)) {
            Answer::Stored(_) => assert!(good.insert(text)),
            Answer::Failed(Failure::Unknown | UNAVAILABLE) => {}
            other => panic!("{other:?}"),
        }
        if !desk.pool.is_available() {
            // Five lost races in a row: the site is asked no more.
            break;
        }
    }
    let texts: Vec<String> = site.stored(1).into_iter().map(|(_, text)| text).collect();
    let distinct: BTreeSet<String> = texts.iter().cloned().collect();
    assert_eq!(texts.len(), distinct.len(), "a message was stored twice");
    assert!(good.is_subset(&distinct));
}

// ---------------------------------------------------------------- bounds

#[test]
fn a_full_queue_fails_at_once_and_the_rest_is_answered() {
    let site = Site::start();
    let mut desk = Desk::ready(&site, |s| (s.workers, s.queue) = (1, 2));
    site.set_latency(Duration::from_millis(300));
    let first = desk.submit(post(1, "1"));
    std::thread::sleep(Duration::from_millis(100));
    let others: Vec<_> = (2..=6).map(|n| desk.submit(post(1, &n.to_string()))).collect();
    assert_eq!(desk.pool.outstanding(), 6);
    let overloaded: Vec<_> = std::iter::from_fn(|| desk.pool.next_answer()).collect();
    let full = Answer::Failed(Failure::Overloaded);
    assert_eq!(overloaded, [2, 3, 4].map(|n| (others[n], full.clone())));
    for request in [first, others[0], others[1]] {
        let (answered, answer) = desk.next();
        assert_eq!(answered, request);
        stored(answer);
    }
    assert_eq!(desk.pool.outstanding(), 0);
    assert_eq!(site.posts().len(), 3);
}

#[test]
fn a_loop_that_does_not_collect_is_refused_and_blocks_no_worker() {
    let site = Site::start();
    let mut desk = Desk::ready(&site, |s| (s.workers, s.queue) = (2, 4));
    for n in 1..=6 {
        desk.submit(post(1, &n.to_string()));
    }
    let begun = Instant::now();
    while site.posts().len() < 2 {
        assert!(begun.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(2));
    }
    // The workers are done, and nobody has come for their answers.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(site.posts().len(), 2, "what is handed out is counted");
    for _ in 0..20 {
        desk.submit(post(1, "too many"));
    }
    assert_eq!(desk.pool.outstanding(), 26);
    let mut seen = BTreeMap::new();
    while desk.pool.outstanding() > 0 {
        let (request, answer) = desk.next();
        assert_eq!(seen.insert(request, answer), None, "two answers");
    }
    assert_eq!(seen.len() as u64, desk.last);
    assert_eq!(seen.values().filter(|a| matches!(a, Answer::Stored(_))).count(), 6);
    stored(desk.ask(post(1, "and it goes on")));
}

/// A small generator, so that a failing run can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn random_fault(dice: &mut Dice) -> Option<Fault> {
    Some(match dice.roll(12) {
        0 => Fault::Close,
        1 => Fault::CloseAfterStoring,
        2 => Fault::Truncated,
        3 => Fault::Html,
        4 => Fault::Garbage,
        5 => Fault::CloseAfterAnswer,
        6 => Fault::status(429, &[]),
        7 => Fault::status(502, &[]),
        8 => Fault::HtmlBeforeJson,
        _ => return None,
    })
}

#[test]
fn every_question_gets_exactly_one_answer_whatever_the_site_does() {
    let mut left_alone = 0;
    for seed in 1..=6_u64 {
        let site = Site::start();
        let mut desk = Desk::ready(&site, |s| (s.workers, s.queue) = (4, 8));
        let mut theirs = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut asked_with_token = 0;
        site.fail_when(move |_, request| {
            std::thread::sleep(Duration::from_millis(theirs.roll(4)));
            request.header("authorization")?;
            asked_with_token += 1;
            // Bad at times, and down at times.
            let down = asked_with_token % 30 < 8;
            if down { Some(Fault::status(502, &[])) } else { random_fault(&mut theirs) }
        });
        let mut ours = Dice(seed);
        let mut asked: BTreeMap<RequestId, (u64, String)> = BTreeMap::new();
        let mut answers: BTreeMap<RequestId, Answer> = BTreeMap::new();
        let mut checks = 0;
        for n in 0..100 {
            // Time flies, so that the site is left alone and asked again several times.
            let now = Now { instant: desk.started + Duration::from_millis(n * 200), unix_s: 0 };
            desk.pool.advance(now.instant);
            left_alone += u32::from(!desk.pool.is_available());
            let (thread, text) = (1 + ours.roll(3), format!("{seed}-{n}"));
            let request = desk.submit_at(post(thread, &text), now);
            asked.insert(request, (thread, text));
            if ours.roll(4) == 0 {
                desk.submit_at(prove("user-7"), now);
                checks += 1;
            }
            for _ in 0..ours.roll(4) {
                if let Some((request, answer)) = desk.pool.next_answer() {
                    assert_eq!(answers.insert(request, answer), None, "seed {seed}: two answers");
                }
            }
            std::thread::sleep(Duration::from_millis(ours.roll(3)));
        }
        while answers.len() < asked.len() + checks {
            let (request, answer) = desk.next();
            assert_eq!(answers.insert(request, answer), None, "seed {seed}: two answers");
        }
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(desk.pool.next_answer(), None, "seed {seed}");
        assert_eq!(desk.pool.outstanding(), 0, "seed {seed}");
        let kept: Vec<_> =
            (1..=3).flat_map(|t| site.stored(t).into_iter().map(move |m| (t, m.1))).collect();
        for (request, question) in &asked {
            let times = kept.iter().filter(|m| *m == question).count();
            match &answers[request] {
                Answer::Stored(_) => assert_eq!(times, 1, "seed {seed}: {question:?}"),
                Answer::Failed(Failure::Unknown | Failure::Unusable) => {
                    assert!(times <= 1, "seed {seed}")
                }
                Answer::Failed(_) => assert_eq!(times, 0, "seed {seed}: {question:?}"),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!((1..600).contains(&left_alone), "{left_alone}");
}

#[test]
fn dropping_the_pool_waits_for_nobody() {
    let site = Site::start();
    let mut desk = Desk::ready(&site, |s| s.request_timeout = LONG);
    for _ in 0..4 {
        site.fail_next(Fault::Hang);
        desk.submit(post(1, "x"));
    }
    std::thread::sleep(Duration::from_millis(100));
    let (begun, bell) = (Instant::now(), desk.bell);
    drop(desk.pool);
    assert!(begun.elapsed() < Duration::from_millis(200));
    // The workers end too, long before their calls would have.
    while bell.upgrade().is_some() {
        assert!(begun.elapsed() < Duration::from_secs(2), "a worker goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(site.posts().len(), 2, "the waiting asks were sent after the end");
}

// ---------------------------------------------------------------- the probe

#[test]
fn a_site_with_pretty_addresses_is_recognised() {
    let site = Site::start();
    let desk = Desk::ready(&site, |_| ());
    let requests = site.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].path, "/wp-json/buddyboss/v1/members/me?_fields=id");
    assert_eq!(requests[0].header("authorization"), None);
    drop(desk);
}

#[test]
fn a_site_with_plain_permalinks_is_asked_in_the_form_that_works() {
    let site = Site::start();
    site.set_plain_permalinks(true);
    site.add_thread(1, &[7, 8]);
    let mut desk = Desk::at(&site.url());
    desk.settle(&site, 2);
    assert_eq!(desk.pool.url_style(), UrlStyle::RestRoute);
    stored(desk.ask(post(1, "x")));
    let paths: Vec<_> = site.requests().into_iter().map(|r| r.path).collect();
    assert_eq!(
        paths,
        [
            "/wp-json/buddyboss/v1/members/me?_fields=id",
            "/?rest_route=/buddyboss/v1/members/me&_fields=id",
            "/?rest_route=/buddyboss/v1/messages",
        ]
    );
}

#[test]
fn before_the_probe_has_answered_the_form_that_works_everywhere_is_used() {
    let site = Site::start();
    site.add_thread(1, &[7, 8]);
    site.fail_when(|_, r| (r.method == "GET").then_some(Fault::Delay(Duration::from_millis(300))));
    let mut desk = Desk::at(&site.url());
    stored(desk.ask(post(1, "x")));
    assert_eq!(site.posts()[0].path, "/?rest_route=/buddyboss/v1/messages");
    desk.await_url_style(UrlStyle::Pretty);
    stored(desk.ask(post(1, "x")));
    assert_eq!(site.posts()[1].path, "/wp-json/buddyboss/v1/messages");
}

#[test]
fn a_probe_that_failed_is_repeated_with_a_later_question_once_a_minute() {
    let site = Site::start();
    site.add_thread(1, &[7, 8]);
    let broken = |r: &Request| (r.method == "GET").then(|| Fault::status(502, &[]));
    site.fail_when(move |_, r| broken(r));
    let mut desk = Desk::at(&site.url());
    desk.settle(&site, 1);
    let at = |desk: &Desk, s| Now { instant: desk.started + Duration::from_secs(s), unix_s: 0 };
    let gets = |desk: &mut Desk, s| {
        desk.submit_at(post(1, "x"), at(desk, s));
        stored(desk.next().1);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(desk.pool.next_answer(), None);
        site.requests().iter().filter(|r| r.method == "GET").count()
    };
    // Where the site fails under one form of address, the other is not tried.
    assert_eq!(gets(&mut desk, 1), 2);
    assert_eq!(gets(&mut desk, 30), 2);
    assert_eq!(gets(&mut desk, 62), 3);
    site.fail_when(|_, _| None);
    assert_eq!(gets(&mut desk, 100), 3);
    assert_eq!(gets(&mut desk, 123), 4);
    assert_eq!(desk.pool.url_style(), UrlStyle::Pretty);
    assert_eq!(gets(&mut desk, 999), 4);
}

#[test]
fn a_site_that_goes_over_to_plain_permalinks_costs_one_message_its_certainty() {
    let site = Site::start();
    let mut desk = Desk::ready(&site, |_| ());
    site.set_plain_permalinks(true);
    assert_eq!(failed(desk.ask(post(1, "lost"))), Failure::Unusable);
    desk.await_url_style(UrlStyle::RestRoute);
    for _ in 0..3 {
        stored(desk.ask(post(1, "x")));
    }
}

#[test]
fn a_post_that_meets_html_under_pretty_addresses_is_not_sent_there_again() {
    let site = Site::start();
    let mut desk = Desk::ready(&site, |_| ());
    site.fail_when(|_, r| {
        (r.method == "POST" && r.path.starts_with("/wp-json")).then_some(Fault::Html)
    });
    assert_eq!(failed(desk.ask(post(1, "lost"))), Failure::Unusable);
    // A probe would find pretty addresses in order again: the other form is tried first.
    desk.await_url_style(UrlStyle::RestRoute);
    for s in [1, 70, 140] {
        let now = Now { instant: desk.started + Duration::from_secs(s), unix_s: 0 };
        desk.submit_at(post(1, "x"), now);
        stored(desk.next().1);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(desk.pool.next_answer(), None);
    }
    assert_eq!(desk.pool.url_style(), UrlStyle::RestRoute);
}

#[test]
fn one_odd_answer_does_not_drive_messages_to_an_address_that_is_closed() {
    let site = Site::start();
    let mut desk = Desk::ready(&site, |_| ());
    // As a firewall in front of a site may do: it closes one address, and errs once at the other.
    site.fail_when(|_, r| r.path.contains("rest_route").then(|| Fault::status(403, &[])));
    site.fail_next(Fault::status(302, &[("Location", "https://community.example/")]));
    let before = site.requests().len();
    assert_eq!(failed(desk.ask(post(1, "odd"))), Failure::SiteMisconfigured);
    desk.settle(&site, before + 3);
    let asked: Vec<_> = site.requests()[before + 1..].iter().map(|r| r.path.clone()).collect();
    assert!(asked[0].contains("rest_route") && asked[1].contains("wp-json"), "{asked:?}");
    assert_eq!(desk.pool.url_style(), UrlStyle::Pretty);
    stored(desk.ask(post(1, "x")));
}

// ---------------------------------------------------------------- the stand-in

#[test]
fn the_stand_in_answers_through_the_same_door() {
    let mut upstream = Upstream::embedded();
    assert!(!upstream.has_answer());
    let now = Now { instant: Instant::now(), unix_s: 1_795_345_238 };
    for n in 1..=2 {
        upstream.submit(RequestId(n), post(5, "x"), now);
    }
    assert!(upstream.has_answer());
    assert_eq!(upstream.outstanding(), 2);
    for n in 1..=2 {
        let (request, answer) = upstream.next_answer().unwrap();
        assert_eq!(request, RequestId(n));
        assert_eq!(stored(answer).sender, Id::number(7));
    }
    assert_eq!(upstream.next_answer(), None);
}

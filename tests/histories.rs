//! Histories in which something once went wrong: with frames that wait, late answers, outages, and
//! users who come, go and change. The comment before each says what went wrong.
#![allow(clippy::unwrap_used)]

#[path = "support/town.rs"]
mod town;

use std::time::{Duration, Instant};

use buddyline::config::Trust;
use buddyline::hub::interface::{
    Answer, Ask, ConnId, DeliveryLimits, Failure, HeldFrameLimits, Settings,
};
use town::{Town, settings, verified};

const S: Duration = Duration::from_secs(1);

/// As `server/setup.rs` makes them of the default settings.
fn real() -> Settings {
    Settings {
        trust: Trust::Verified,
        site_queries: 4,
        joins_per_connection: 1000,
        deliveries: DeliveryLimits { total: 10_000, per_connection: 64, bytes: 64 << 20 },
        held_frames: HeldFrameLimits {
            total: 50_000,
            bytes: 64 << 20,
            per_connection: 1064,
            bytes_per_connection: 512 << 10,
        },
        ..settings()
    }
}

fn join(thread: u64) -> String {
    format!(r#"{{"type":"join_thread","threadId":{thread}}}"#)
}

fn typing(thread: u64) -> String {
    format!(r#"{{"type":"typing","threadId":{thread}}}"#)
}

fn send(thread: u64, id: &str) -> String {
    format!(r#"{{"type":"send_message","threadId":{thread},"message":"x","clientId":"{id}"}}"#)
}

fn of<'a>(
    heard: &'a [(ConnId, serde_json::Value)],
    conn: ConnId,
    kind: &str,
) -> Vec<&'a serde_json::Value> {
    heard.iter().filter(|(to, f)| *to == conn && f["type"] == kind).map(|(_, f)| f).collect()
}

// An answer that is older than COMPANY_LASTS when it comes asks again, for ever.
#[test]
fn a_call_to_a_stranger_has_an_outcome_when_the_list_takes_eleven_seconds() {
    let mut town = Town::new(verified());
    let alice = town.open_member(0, 2, 1, &[2, 3]);
    town.pass(11 * S);
    town.say(alice, r#"{"type":"call_initiated","recipientId":9,"threadId":1,"clientId":"c"}"#);
    has_an_outcome_though_each_list_takes_eleven_seconds(&mut town);
}

// The same for joins when a list is older than it lasts when it comes (--membership-lasts 10s is
// allowed beside --upstream-timeout 30s; the defaults allow 60s beside 5m).
#[test]
fn a_join_has_an_outcome_when_the_list_comes_older_than_it_lasts() {
    let lasts = 10 * S;
    let mut town = Town::new(Settings { membership_lasts: lasts, ..verified() });
    let alice = town.open_proven(0, 2);
    town.say(alice, &join(1));
    has_an_outcome_though_each_list_takes_eleven_seconds(&mut town);
}

#[track_caller]
fn has_an_outcome_though_each_list_takes_eleven_seconds(town: &mut Town) {
    for round in 0..100 {
        while let Some(proof) = town.try_proof() {
            town.prove(proof, 2, None);
        }
        let Some((request, _)) = town.try_list() else {
            assert_eq!(town.heard().len(), 1, "outcome after {round} questions");
            return;
        };
        town.pass(11 * S);
        town.list(request, &[2, 3]);
    }
    panic!("100 questions for one frame, and no outcome: {:?}", town.heard());
}

// Messages that flow and questions that overlap them: each answer is intersected with the one
// before and keeps its age, so whoever came lately never gets in, and after 60 s nobody hears.
#[test]
fn who_came_lately_gets_into_a_busy_thread() {
    let mut town = Town::new(verified());
    let alice = town.open_member(0, 2, 1, &[2, 3]);
    let bob = town.open_member(1, 3, 1, &[2, 3]);
    let carol = town.open_proven(2, 4);
    // A message is always on its way.
    town.say(alice, &send(1, "first"));
    town.say(alice, &send(1, "next"));
    let (mut post, _) = town.asked();
    // Carol has just been taken into the thread on the site, and joins.
    town.say(carol, &join(1));
    let (mut list, _) = town.try_list().unwrap();
    let mut before = true;
    let mut bobs = 0;
    let mut lists = 1;
    for round in 0..120 {
        town.pass(S);
        // The site answers: all three are in the thread, but for the one that saw it before.
        let users: &[u64] = if before { &[2, 3] } else { &[2, 3, 4] };
        before = false;
        town.store_among(post, 1, 2, Some(users));
        town.say(alice, &send(1, &format!("m{round}")));
        let mut posts = Vec::new();
        while town.questions() > 0 {
            match town.asked_anything() {
                (request, Ask::Post(_)) => posts.push(request),
                (_, other) => panic!("{other:?}"),
            }
        }
        post = posts.pop().expect("a message is always on its way");
        town.pass(S / 2);
        town.list(list, &[2, 3, 4]);
        let heard = town.heard();
        bobs += of(&heard, bob, "message").len();
        if !of(&heard, carol, "thread_joined").is_empty() {
            println!("joined after {round} rounds");
            return;
        }
        list = match town.try_list() {
            Some((request, _)) => request,
            None => panic!("carol has no outcome and nobody asks: {heard:?}"),
        };
        lists += 1;
    }
    panic!(
        "120 messages, {lists} lists: carol is not in, and bob has heard {bobs} of the messages"
    );
}

// One user's failing question is the thread's outage.
#[test]
fn a_strangers_failing_question_says_nothing_of_the_thread() {
    let mut town = Town::new(verified());
    let alice = town.open_proven(0, 2);
    let mallory = town.open_proven(1, 7);
    town.say(mallory, &join(1));
    // To this member the site answers 403 with a word of some plugin (checks.rs: `unavailable`).
    let (request, _) = town.try_list().unwrap();
    town.fail(request, Failure::SiteUnavailable { retry_after_s: None });
    town.heard();
    town.say(alice, &join(1));
    let heard = town.heard();
    assert!(heard.is_empty() && town.questions() == 1, "alice: {heard:?}");
}

#[test]
fn a_removed_member_cannot_keep_a_list_alive_for_ten_minutes_by_their_own_failures() {
    let mut town = Town::new(verified());
    let alice = town.open_member(0, 2, 1, &[2, 7]);
    let mallory = town.open_member(1, 7, 1, &[2, 7]);
    // Now the site takes Mallory (7) out. It answers everyone but her within a moment.
    let mut last = None;
    let start = town.now.instant;
    for _ in 0..700 {
        town.pass(S);
        // Mallory first, each second: only what is not decided asks.
        town.say(mallory, &typing(1));
        if let Some((request, _)) = town.try_list() {
            town.fail(request, Failure::SiteUnavailable { retry_after_s: None });
        }
        town.heard();
        town.say(alice, &typing(1));
        let heard = town.heard();
        if !of(&heard, mallory, "typing").is_empty() {
            last = Some(town.now.instant - start);
        }
        if let Some((request, _)) = town.try_list() {
            town.list(request, &[2]);
        }
        town.heard();
    }
    assert!(last.unwrap() <= 61 * S, "mallory hears alice type {last:?} after the list");
}

// A user who changes their name keeps the former one's inheritance.
#[test]
fn an_heir_that_becomes_another_user_inherits_no_more() {
    let mut town = Town::new(verified());
    let first = town.open_member(0, 2, 1, &[2, 3]);
    town.say(first, &send(1, "secret"));
    let (post, _) = town.asked();
    town.close(first);
    let second = town.open_proven(1, 2);
    // Someone else signs in on the second one.
    town.say(second, r#"{"type":"user_connected","userId":9,"token":"token-of-9"}"#);
    let (proof, _) = town.asked_proof();
    town.prove(proof, 9, None);
    town.heard();
    town.store_among(post, 1, 2, Some(&[2, 3]));
    let heard = town.heard();
    assert!(of(&heard, second, "message").is_empty(), "user 9 hears {heard:?}");
}

#[test]
fn an_outcome_survives_an_heir_that_became_another_user_and_went() {
    let mut town = Town::new(verified());
    let first = town.open_member(0, 2, 1, &[2, 3]);
    town.say(first, &send(1, "m"));
    let (post, _) = town.asked();
    town.close(first);
    let second = town.open_proven(1, 2);
    town.say(second, r#"{"type":"user_connected","userId":9,"token":"token-of-9"}"#);
    let (proof, _) = town.asked_proof();
    town.prove(proof, 9, None);
    town.close(second);
    let third = town.open_proven(2, 2);
    town.heard();
    town.store_among(post, 1, 2, Some(&[2, 3]));
    let heard = town.heard();
    assert_eq!(of(&heard, third, "message").len(), 1, "no outcome: {heard:?}");
}

// stop() and a condemned asker forget the heir.
#[test]
fn stop_tells_the_heir() {
    let mut town = Town::new(verified());
    let first = town.open_member(0, 2, 1, &[2, 3]);
    town.say(first, &send(1, "m"));
    town.asked();
    town.close(first);
    let second = town.open_proven(1, 2);
    town.heard();
    town.hub.stop();
    town.take_effects();
    let heard = town.heard();
    assert_eq!(of(&heard, second, "error").len(), 1, "no outcome: {heard:?}");
}

#[test]
fn stop_tells_the_heir_of_a_held_message() {
    let mut town = Town::new(verified());
    let first = town.open_proven(0, 2);
    town.say(first, &send(1, "m"));
    let (post, _) = town.asked();
    town.store_among(post, 1, 2, None);
    town.try_list().unwrap();
    town.close(first);
    let second = town.open_proven(1, 2);
    town.heard();
    town.hub.stop();
    town.take_effects();
    let heard = town.heard();
    assert_eq!(of(&heard, second, "message").len(), 1, "no outcome: {heard:?}");
}

#[test]
fn a_condemned_question_tells_the_heir() {
    let mut town = Town::new(verified());
    let first = town.open_proven(0, 2);
    town.say(first, &send(1, "m"));
    let (post, _) = town.asked();
    town.store_among(post, 1, 2, None);
    let (list, _) = town.try_list().unwrap();
    town.close(first);
    // The same member with another token.
    let second = town.open_with(1, "fresh-token-of-2");
    let (proof, _) = town.asked_proof();
    town.prove(proof, 2, None);
    town.heard();
    town.fail(list, Failure::TokenExpired);
    let heard = town.heard();
    assert_eq!(of(&heard, second, "message").len(), 1, "no outcome: {heard:?}");
}

// Others' lost outcomes are pushed out by who comes and goes.
#[test]
fn who_comes_and_goes_does_not_push_out_others_outcomes() {
    let mut town = Town::new(verified());
    let alice = town.open_member(0, 2, 1, &[2, 3]);
    town.say(alice, &send(1, "m"));
    let (post, _) = town.asked();
    town.close(alice);
    // One message of Mallory's is held: the list of a large thread is being read.
    let mallory = town.open_proven(1, 7);
    town.say(mallory, &send(5, "x"));
    let (own, _) = town.asked();
    town.store_among(own, 5, 7, None);
    town.try_list().unwrap();
    for _ in 0..4200 {
        let conn = town.open_proven(2, 7);
        town.close(conn);
    }
    town.store_among(post, 1, 2, Some(&[2, 3]));
    town.heard();
    let alice = town.open_with(0, "token-of-2");
    let heard = town.heard();
    assert_eq!(of(&heard, alice, "message").len(), 1, "no outcome: {heard:?}");
}

// Stored messages that wait for a list are bounded by nothing.
#[test]
fn stored_messages_that_wait_are_bounded() {
    let mut town = Town::new(verified());
    let mallory = town.open_proven(0, 7);
    let text = "x".repeat(4000);
    for n in 0..1000 {
        town.say(
            mallory,
            &format!(
                r#"{{"type":"send_message","threadId":5,"message":"{text}","clientId":"{n}"}}"#
            ),
        );
        while town.questions() > 0 {
            if let (request, Ask::Post(_)) = town.asked_anything() {
                town.store_among(request, 5, 7, None);
            }
        }
    }
    let heard = town.heard();
    let told = of(&heard, mallory, "error").len() + of(&heard, mallory, "message").len();
    assert!(told > 0, "1000 stored messages (4 MB; bounds: 6 and 10 kB) wait, none has an outcome");
}

// Questions outlive the connections that asked: one account fills the whole line.
#[test]
fn one_account_that_has_gone_keeps_nobody_waiting() {
    let mut town = Town::new(real());
    let mut thread = 1000;
    for _ in 0..47 {
        let mallory = town.open_proven(0, 7);
        for _ in 0..1064 {
            town.hub.handle(
                buddyline::hub::interface::Input::Frame { conn: mallory, text: &join(thread) },
                town.now,
            );
            thread += 1;
        }
        town.take_effects();
        town.close(mallory);
    }
    town.heard();
    let alice = town.open_proven(1, 2);
    town.say(alice, &join(1));
    let heard = town.heard();
    let mut asked = 0;
    while let Some((request, thread)) = town.try_list() {
        asked += 1;
        if thread == 1 {
            break;
        }
        town.hub.handle(
            buddyline::hub::interface::Input::Answered {
                request,
                answer: Answer::Failed(Failure::NotParticipant),
            },
            town.now,
        );
        while let Some(effect) = town.hub.next_effect() {
            if let buddyline::hub::interface::Effect::Ask { request, ask } = effect {
                if let Ask::Participants { thread, .. } = *ask {
                    if thread == 1 {
                        panic!("alice waits behind {asked} questions of who has gone: {heard:?}");
                    }
                    town.hub.handle(
                        buddyline::hub::interface::Input::Answered {
                            request,
                            answer: Answer::Failed(Failure::NotParticipant),
                        },
                        town.now,
                    );
                    asked += 1;
                }
            }
        }
    }
    assert!(heard.is_empty() && asked < 100, "{asked} questions of who has gone: {heard:?}");
}

#[test]
fn one_account_does_not_use_up_the_room_of_all() {
    let mut town = Town::new(verified());
    for n in 0..13 {
        let mallory = town.open_proven(0, 7);
        for m in 0..8 {
            town.say(mallory, &join(1000 + n * 8 + m));
        }
        town.close(mallory);
    }
    town.heard();
    // Her questions are out; she has gone.
    let alice = town.open_with(1, "token-of-2");
    while let Some((request, ask)) = (town.questions() > 0).then(|| town.asked_anything()) {
        if let Ask::Prove(_) = ask {
            town.prove(request, 2, None);
        }
    }
    town.heard();
    town.say(alice, &join(1));
    let heard = town.heard();
    assert!(of(&heard, alice, "error").is_empty(), "alice: {heard:?}");
}

// A token that has expired proves for ever, while others are offered that the site does not
// judge (a firewall's page, a 404, a time-out).
#[test]
fn an_expired_token_does_not_stay_proven() {
    let mut town = Town::new(Settings { site_queries: 8, ..verified() });
    let mallory = town.open_with(0, "token-of-7");
    let (proof, _) = town.asked_proof();
    town.prove(proof, 7, Some(town.now.unix_s + 100));
    town.say(mallory, &join(1));
    let (list, _) = town.try_list().unwrap();
    town.list(list, &[2, 7]);
    let alice = town.open_member(1, 2, 1, &[2, 7]);
    town.pass(90 * S);
    town.heard();
    let mut n = 0;
    let mut more = |town: &mut Town| {
        n += 1;
        town.say(
            mallory,
            &format!(r#"{{"type":"user_connected","userId":7,"token":"waf-bait-{n}"}}"#),
        );
    };
    more(&mut town);
    more(&mut town);
    for minute in 0..60 {
        for _ in 0..3 {
            town.pass(20 * S);
            if town.closed().iter().any(|(conn, _)| *conn == mallory) {
                assert!(minute <= 3, "{minute}");
                return;
            }
            more(&mut town);
            while town.questions() > 0 {
                match town.asked_anything() {
                    (request, Ask::Prove(credential)) if credential.secret() == "token-of-2" => {
                        town.prove(request, 2, None);
                    }
                    (request, Ask::Prove(_)) => {
                        town.fail(request, Failure::SiteUnavailable { retry_after_s: None });
                        break;
                    }
                    (request, Ask::Participants { .. }) => town.list(request, &[2, 7]),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    // It has expired an hour ago. What may it do?
    town.heard();
    town.say(alice, &typing(1));
    while town.questions() > 0 {
        match town.asked_anything() {
            (request, Ask::Participants { .. }) => town.list(request, &[2, 7]),
            (request, Ask::Prove(credential)) if credential.secret() == "token-of-2" => {
                town.prove(request, 2, None);
            }
            _ => {}
        }
    }
    let hears = of(&town.heard(), mallory, "typing").len();
    town.say(mallory, &typing(1));
    let speaks = of(&town.heard(), alice, "typing").len();
    panic!("an hour after its end: hears {hears}, speaks {speaks}, open");
}

#[test]
fn an_anonymous_connection_ends_though_the_site_judges_none_of_its_tokens() {
    let mut town = Town::new(verified());
    let mallory = town.open(0);
    for n in 0..60 {
        town.say(
            mallory,
            &format!(r#"{{"type":"user_connected","userId":7,"token":"waf-bait-{n}"}}"#),
        );
        town.pass(20 * S);
        if !town.closed().is_empty() {
            return;
        }
        let (request, _) = town.asked_proof();
        town.fail(request, Failure::SiteUnavailable { retry_after_s: None });
        town.pass(20 * S);
        if !town.closed().is_empty() {
            return;
        }
    }
    panic!("40 minutes without a proof, 60 tokens, open");
}

// "Nobody new comes in" while the site is down, and one credential means two things at once.
#[test]
fn one_old_proof_means_the_same_to_two_connections() {
    let mut town = Town::new(verified());
    let _first = town.open_with(0, "Basic YWxpY2U6b3BlbiBzZXNhbWU=");
    let (proof, _) = town.asked_proof();
    town.prove(proof, 2, None);
    town.pass(700 * S);
    while town.questions() > 0 {
        let (request, _) = town.asked_anything();
        town.fail(request, Failure::SiteUnavailable { retry_after_s: None });
    }
    town.pass(6 * S);
    town.heard();
    let second = town.open_with(1, "Basic YWxpY2U6b3BlbiBzZXNhbWU=");
    let (request, _) = town.asked_proof();
    town.fail(request, Failure::SiteUnavailable { retry_after_s: None });
    let heard = town.heard();
    let second_in = !of(&heard, second, "user_connected").is_empty();
    town.say(second, &join(1));
    let told: Vec<_> = town.heard().iter().map(|(_, f)| f["code"].clone()).collect();
    let third = town.open_with(2, "Basic YWxpY2U6b3BlbiBzZXNhbWU=");
    let third_in = !of(&town.heard(), third, "user_connected").is_empty();
    assert_eq!(second_in, third_in, "second {second_in} (then told {told:?}), third {third_in}");
}

// Depth.
#[test]
fn many_held_claims_do_not_go_deep() {
    // `thread` stack of 8 MiB, as the main thread has.
    let n: usize = std::env::var("CLAIMS").ok().and_then(|n| n.parse().ok()).unwrap_or(1064);
    let run = move || {
        let mut settings = real();
        settings.held_frames.per_connection = n;
        settings.held_frames.bytes_per_connection = 1 << 30;
        let mut town = Town::new(settings);
        let alice = town.open_with(0, "t");
        for _ in 0..n {
            town.hub.handle(
                buddyline::hub::interface::Input::Frame {
                    conn: alice,
                    text: r#"{"type":"user_connected","userId":2,"token":"t"}"#,
                },
                town.now,
            );
        }
        town.take_effects();
        let (proof, _) = town.asked_proof();
        town.prove(proof, 2, None);
        assert_eq!(of(&town.heard(), alice, "user_connected").len(), n + 1);
    };
    std::thread::Builder::new().stack_size(8 << 20).spawn(run).unwrap().join().unwrap();
}

// What shedding costs when the oldest are busy.
#[test]
fn shedding_is_cheap_when_the_oldest_are_busy() {
    use buddyline::hub::delivery::RequestTime;
    use buddyline::hub::interface::RequestId;
    use buddyline::hub::membership::Membership;
    use buddyline::protocol::credential::Credential;
    let now = Instant::now();
    let credential = Credential::parse("t").unwrap();
    let mut costs = Vec::new();
    for busy in [1000_u64, 2000, 4000, 8000] {
        let mut membership = Membership::new(60 * S, false);
        for thread in 1..=50_000 {
            let asked = RequestTime { at: now, request_id: RequestId(thread) };
            membership.set_list(thread, Box::new([7]), asked);
        }
        for thread in 1..=busy {
            membership.request_list(thread, 7, &credential);
        }
        let begun = Instant::now();
        for n in 1..busy {
            membership.request_list(100_000 + n, 7, &credential);
        }
        let all = begun.elapsed();
        let begun = Instant::now();
        membership.request_list(200_000, 7, &credential);
        costs.push((busy, begun.elapsed(), all, membership.count()));
    }
    // It was forty milliseconds.
    assert!(costs.iter().all(|(_, one, ..)| *one < Duration::from_millis(5)), "{costs:?}");
}

// The question is counted as asked before there is room for the message, and is never put.
#[test]
fn a_message_that_finds_no_room_leaves_its_token_usable() {
    let held_frames = HeldFrameLimits { total: 1, ..settings().held_frames };
    let mut town = Town::new(Settings { held_frames, ..verified() });
    let mallory = town.open_with(0, "garbage");
    town.say(mallory, &join(1));
    let alice = town.open(1);
    let message =
        r#"{"type":"send_message","threadId":1,"message":"x","token":"alices","clientId":"a"}"#;
    town.say(alice, message);
    town.hears_error(alice, "overloaded");
    let (request, _) = town.asked_proof();
    town.fail(request, Failure::TokenRefused);
    town.heard();
    town.pass(60 * S);
    // On a new connection, an hour later, with a server that has nothing to do.
    let again = town.open(2);
    town.say(again, message);
    let (_, credential) = town.asked_proof();
    assert_eq!(credential.secret(), "alices");
}

// A question that its connection took back leaves its place in the line. When the thread is asked
// about again, the second place dates anew what is with the site already.
#[test]
fn an_old_list_does_not_undo_a_newer_one() {
    let mut town = Town::new(verified());
    let alice = town.open_proven(0, 3);
    let mallory = town.open_proven(1, 4);
    // The line stands: both questions are with the site.
    town.say(alice, &join(7));
    town.say(alice, &join(8));
    let (seven, _) = town.try_list().unwrap();
    let (eight, _) = town.try_list().unwrap();
    // Two places in the line for thread 1.
    town.say(mallory, &join(1));
    town.close(mallory);
    let mallory = town.open_proven(1, 4);
    town.say(mallory, &join(1));
    town.list(seven, &[3]);
    let (old, 1) = town.try_list().unwrap() else { panic!("not asked") };
    town.pass(S);
    // Now Mallory is removed. Alice writes, and the site's answer has the new list.
    town.say(alice, r#"{"type":"send_message","threadId":1,"message":"x"}"#);
    let (post, _) = town.asked();
    town.store_among(post, 1, 3, Some(&[2, 3]));
    // The second place in the line comes up, and only then the answer that is older than the post.
    town.list(eight, &[3]);
    town.list(old, &[2, 3, 4]);
    town.heard();
    town.say(mallory, &join(1));
    let (own, ..) = town.asked_list();
    town.fail(own, Failure::NotParticipant);
    town.say(alice, r#"{"type":"send_message","threadId":1,"message":"secret"}"#);
    let (post, _) = town.asked();
    town.store_among(post, 1, 3, None);
    let leaked = town.heard();
    assert!(!leaked.iter().any(|(to, f)| *to == mallory && f["type"] == "message"), "{leaked:?}");
}

// The same makes a list younger than it is.
#[test]
fn a_list_is_as_old_as_its_question() {
    let mut town = Town::new(verified());
    let alice = town.open_proven(0, 3);
    let mallory = town.open_proven(1, 4);
    town.say(alice, &join(7));
    town.say(alice, &join(8));
    let (seven, _) = town.try_list().unwrap();
    let (eight, _) = town.try_list().unwrap();
    town.say(mallory, &join(1));
    town.close(mallory);
    let mallory = town.open_proven(1, 4);
    town.say(mallory, &join(1));
    town.list(seven, &[3]);
    let (old, 1) = town.try_list().unwrap() else { panic!("not asked") };
    town.pass(30 * S);
    town.list(eight, &[3]);
    town.list(old, &[3, 4]);
    town.pass(40 * S);
    town.heard();
    // 70 s after the site was asked, and lists hold for 60.
    town.say(mallory, &join(1));
    assert!(town.try_list().is_some(), "the site is asked again: {:?}", town.heard());
}

// A message that waits for its token's proof has no outcome when the server stops.
#[test]
fn stop_tells_who_waits_for_a_proof() {
    let mut town = Town::new(verified());
    let alice = town.open_with(0, "alices");
    town.say(alice, r#"{"type":"send_message","threadId":1,"message":"x","clientId":"a"}"#);
    town.hub.stop();
    town.take_effects();
    assert_eq!(town.heard().len(), 1);
}

// Each message that was said while the site was asked counts as a token without a verdict.
#[test]
fn one_unanswered_question_closes_no_connection() {
    let held_frames = HeldFrameLimits { per_connection: 1064, ..settings().held_frames };
    let mut town = Town::new(Settings { held_frames, ..verified() });
    let alice = town.open_with(0, "alices");
    for n in 0..12 {
        let text =
            format!(r#"{{"type":"send_message","threadId":1,"message":"x","clientId":"{n}"}}"#);
        town.say(alice, &text);
    }
    let (request, _) = town.asked_proof();
    town.fail(request, Failure::SiteUnavailable { retry_after_s: None });
    assert_eq!(town.closed(), []);
}

// What waits is asked about with the next user's credential, in the name of the one before.
#[test]
fn a_question_is_asked_by_the_one_in_whose_name_it_is() {
    let mut town = Town::new(verified());
    let carol = town.open_member(0, 5, 1, &[2, 3, 5]);
    town.pass(61 * S);
    let shared = town.open_proven(1, 2);
    let phone = town.open_member(2, 2, 9, &[2]);
    // Carol's question is with the site when user 2 asks on a shared machine, and 6 takes over.
    town.say(carol, &join(1));
    let (question, _) = town.try_list().unwrap();
    town.say(shared, &join(1));
    town.say(shared, r#"{"type":"user_connected","userId":6,"token":"token-of-6"}"#);
    let (proof, _) = town.asked_proof();
    town.prove(proof, 6, None);
    town.fail(question, Failure::SiteUnavailable { retry_after_s: None });
    // It is 6's question now, and says nothing of 2.
    let (request, _, secret) = town.asked_list();
    assert_eq!(secret, "token-of-6");
    town.fail(request, Failure::NotParticipant);
    town.heard();
    town.say(phone, &join(1));
    assert_eq!(town.asked_list().2, "token-of-2");
}

// Places in the line stay when their connection goes, and nothing bounds them while the site hangs.
#[test]
fn coming_and_going_does_not_lengthen_the_line_of_threads() {
    let mut town = Town::new(verified());
    let alice = town.open_proven(0, 3);
    town.say(alice, &join(7));
    town.say(alice, &join(8));
    while town.try_list().is_some() {}
    town.open_proven(2, 4);
    for _ in 0..1000 {
        let mallory = town.open_with(1, "token-of-3");
        (1..=8).for_each(|thread| town.say(mallory, &join(100 + thread)));
        town.close(mallory);
    }
    let [frames, checks, _] = town.hub.backlog();
    assert_eq!(frames, 2);
    assert!(checks < 100, "{checks} in line");
}

// The same for tokens, with their secrets.
#[test]
fn coming_and_going_does_not_lengthen_the_line_of_proofs() {
    let mut town = Town::new(verified());
    let _standing = [town.open_with(0, "one"), town.open_with(1, "two")];
    for n in 0..1000 {
        let mallory = town.open_with(2, &format!("garbage-{n}"));
        town.close(mallory);
    }
    let [_, checks, _] = town.hub.backlog();
    assert!(checks < 100, "{checks} in line");
}

// Whoever sent it, the outcome is kept for the user that the connection had in the end.
#[test]
fn an_outcome_of_a_user_who_was_relieved_is_kept_for_them() {
    let mut town = Town::new(verified());
    let shared = town.open_proven(0, 2);
    town.say(shared, r#"{"type":"send_message","threadId":1,"message":"x","clientId":"a"}"#);
    let (post, _) = town.asked();
    town.say(shared, r#"{"type":"user_connected","userId":6,"token":"token-of-6"}"#);
    let (proof, _) = town.asked_proof();
    town.prove(proof, 6, None);
    town.close(shared);
    town.heard();
    let phone = town.open_proven(1, 2);
    town.heard();
    town.store_among(post, 1, 2, Some(&[2, 3]));
    let heard = town.heard();
    assert!(heard.iter().any(|(to, f)| *to == phone && f["clientId"] == "a"), "{heard:?}");
}

// For each frame that waits the whole line of its thread is made anew.
#[test]
fn a_connection_goes_quickly_though_many_wait_in_its_thread() {
    let held_frames = HeldFrameLimits {
        total: 50_000,
        bytes: 64 << 20,
        per_connection: 1064,
        bytes_per_connection: 512 << 10,
    };
    let mut town = Town::new(Settings { held_frames, ..verified() });
    let conns: Vec<_> = (0..10).map(|n| town.open_proven(n, 10 + u64::from(n))).collect();
    for conn in &conns {
        for _ in 0..1000 {
            town.hub.handle(
                buddyline::hub::interface::Input::Frame { conn: *conn, text: &join(1) },
                town.now,
            );
        }
    }
    let before = std::time::Instant::now();
    town.close(conns[0]);
    let took = before.elapsed();
    assert!(took < Duration::from_millis(100), "{took:?}");
}

// The heir goes, and the user's other connection, which came later as well, is passed over.
#[test]
fn an_heir_that_goes_leaves_it_to_the_users_other_later_connection() {
    let mut town = Town::new(verified());
    let lost = town.open_proven(0, 4);
    town.say(lost, r#"{"type":"send_message","threadId":1,"message":"x","clientId":"a"}"#);
    let (post, _) = town.asked();
    town.close(lost);
    let heir = town.open_proven(1, 4);
    let other = town.open_proven(2, 4);
    town.close(heir);
    town.heard();
    town.store_among(post, 1, 4, Some(&[2, 4]));
    let heard = town.heard();
    assert!(heard.iter().any(|(to, f)| *to == other && f["clientId"] == "a"), "{heard:?}");
}

//! Drives the upstream pool as the event loop does: submits requests, waits for the waker and
//! collects answers.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use buddyline::config::site_url::SiteUrl;
use buddyline::hub::interface::{
    Answer, Ask, Failure, Lookup, LookupResult, Now, Post, Proven, RequestId, Stored, Target,
};
use buddyline::protocol::Id;
use buddyline::protocol::credential::Credential;
use buddyline::upstream::SiteSettings;
use buddyline::upstream::pool::Pool;
use buddyline::upstream::url_style::UrlStyle;

use super::site::Site;

/// The deadline of every wait: longer than any step should take.
pub const LONG: Duration = Duration::from_secs(10);

/// A pool with a waker and a clock, in place of the event loop.
pub struct PoolDriver {
    /// The pool under test.
    pub pool: Pool,
    /// The poll that the pool's waker wakes.
    pub poll: mio::Poll,
    /// Upgrades only while the pool or one of its workers is alive.
    pub weak_waker: Weak<mio::Waker>,
    /// The id of the last request.
    pub last: u64,
    /// When the driver was created; tests count times for `submit_at` from here.
    pub started: Instant,
}

impl PoolDriver {
    /// Starts a pool for the site at `url`, with two workers and short timeouts.
    pub fn at(url: &str) -> PoolDriver {
        PoolDriver::with(url, |_| ())
    }

    /// The same, with settings changed by `change`.
    pub fn with(url: &str, change: impl FnOnce(&mut SiteSettings)) -> PoolDriver {
        let mut settings = SiteSettings::new(SiteUrl::parse(url).unwrap());
        settings.workers = 2;
        settings.connect_timeout = Duration::from_millis(300);
        settings.request_timeout = Duration::from_secs(5);
        change(&mut settings);
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let weak_waker = Arc::downgrade(&waker);
        let pool = Pool::start(&settings, waker, Instant::now()).unwrap();
        PoolDriver { pool, poll, weak_waker, last: 0, started: Instant::now() }
    }

    /// Starts a pool for a working site, adds threads 1 to 3 with members 7 and 8 to it, and waits
    /// for the first probe to succeed.
    pub fn ready(site: &Site, change: impl FnOnce(&mut SiteSettings)) -> PoolDriver {
        for thread in 1..=3 {
            site.add_thread(thread, &[7, 8]);
        }
        let mut driver = PoolDriver::with(&site.url(), change);
        driver.await_url_style(UrlStyle::Pretty);
        driver
    }

    /// The time that the event loop would pass: the real instant, and a fixed Unix time.
    pub fn now(&self) -> Now {
        Now { instant: Instant::now(), unix_s: 1_795_345_238 }
    }

    /// Submits a request.
    pub fn submit(&mut self, ask: Ask) -> RequestId {
        self.submit_at(ask, self.now())
    }

    /// Submits a request at another time.
    pub fn submit_at(&mut self, ask: Ask, now: Now) -> RequestId {
        self.last += 1;
        let before = Instant::now();
        self.pool.submit(RequestId(self.last), ask, now);
        assert!(before.elapsed() < Duration::from_secs(1), "submit blocked");
        RequestId(self.last)
    }

    /// The next answer. Waits for the waker only, so a pool that does not wake fails the test.
    pub fn next(&mut self) -> (RequestId, Answer) {
        let until = Instant::now() + LONG;
        let mut events = mio::Events::with_capacity(4);
        loop {
            if let Some(answer) = self.pool.next_answer() {
                return answer;
            }
            let left = until
                .checked_duration_since(Instant::now())
                .expect("an answer before the deadline");
            self.poll.poll(&mut events, Some(left)).unwrap();
            assert!(!events.is_empty(), "the waker did not wake the poll");
        }
    }

    /// Submits a request and waits for its answer.
    pub fn ask(&mut self, ask: Ask) -> Answer {
        let request = self.submit(ask);
        let (answered, answer) = self.next();
        assert_eq!(answered, request);
        answer
    }

    /// Waits until the pool has an answer, and leaves it there.
    pub fn await_answer(&self) {
        let until = Instant::now() + LONG;
        while !self.pool.has_answer() {
            assert!(Instant::now() < until, "no answer before the deadline");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the probe has found this URL style. No other answer may arrive before.
    pub fn await_url_style(&mut self, style: UrlStyle) {
        let until = Instant::now() + LONG;
        while self.pool.url_style() != style {
            assert_eq!(self.pool.next_answer(), None);
            assert!(Instant::now() < until, "the probe has not found {style:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the site has received this many requests, and 50 ms more, so that the pool can
    /// process their replies. No answer may arrive.
    pub fn await_requests(&mut self, site: &Site, requests: usize) {
        let until = Instant::now() + LONG;
        while site.requests().len() < requests {
            assert!(Instant::now() < until, "{} requests", site.requests().len());
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(self.pool.next_answer(), None);
    }
}

/// A request to store a message, with this token.
pub fn post_as(token: &str, target: Target, text: &str) -> Ask {
    Ask::Post(Post {
        credential: Credential::parse(token).ok(),
        target,
        text: text.into(),
        claimed: None,
    })
}

/// A request to store a message of member 7.
pub fn post(thread: u64, text: &str) -> Ask {
    post_as("user-7", Target::Thread(thread), text)
}

/// A request to authenticate this token.
pub fn prove(token: &str) -> Ask {
    Ask::Prove(Credential::parse(token).unwrap())
}

/// A request for the participants of a thread.
pub fn list(thread: u64, token: &str) -> Ask {
    Ask::Participants { thread, credential: Credential::parse(token).unwrap() }
}

/// The successful answer to [`prove`]; panics on any other.
pub fn proven(answer: Answer) -> Proven {
    match answer {
        Answer::Proven(proven) | Answer::Verified(proven) => proven,
        other => panic!("{other:?}"),
    }
}

/// The successful answer to [`list`]; panics on any other.
pub fn listed(answer: Answer) -> Vec<u64> {
    match answer {
        Answer::Participants(people) => people.into_vec(),
        other => panic!("{other:?}"),
    }
}

/// The successful answer to [`post`]; panics on any other.
pub fn stored(answer: Answer) -> Stored {
    match answer {
        Answer::Stored(stored) => stored,
        other => panic!("{other:?}"),
    }
}

/// The failure in an answer; panics on any other answer.
pub fn failed(answer: Answer) -> Failure {
    match answer {
        Answer::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// The failure of a request that was certainly not sent to the site.
pub const UNAVAILABLE: Failure = Failure::SiteUnavailable { retry_after_s: None };

/// A request to lookup up a message that member 7 posted this long ago.
pub fn lookup(target: Target, text: &str, ago: Duration) -> Ask {
    Ask::Lookup(Lookup {
        credential: Credential::parse("user-7").unwrap(),
        target,
        text: text.into(),
        sender: Some(Id::number(7)),
        posted: Instant::now() - ago,
        post: RequestId(1),
    })
}

/// The successful answer to [`lookup`]; panics on any other.
pub fn lookup_result(answer: Answer) -> LookupResult {
    match answer {
        Answer::LookupResult(lookup_result) => lookup_result,
        other => panic!("{other:?}"),
    }
}

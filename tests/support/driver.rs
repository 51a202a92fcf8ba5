//! The loop's place in front of the pool: puts questions, sleeps on the waker, collects.

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

/// Longer than anything here should take.
pub const LONG: Duration = Duration::from_secs(10);

/// The loop's place in these tests.
pub struct PoolDriver {
    /// What is tested.
    pub pool: Pool,
    /// What its waker rings.
    pub poll: mio::Poll,
    /// Dead when the pool and all its workers have ended.
    pub weak_waker: Weak<mio::Waker>,
    /// The number of the last question.
    pub last: u64,
    /// When this began; `submit_at` counts from here.
    pub started: Instant,
}

impl PoolDriver {
    /// At this address, with two workers and short timeouts.
    pub fn at(url: &str) -> PoolDriver {
        PoolDriver::with(url, |_| ())
    }

    /// The same, with other settings.
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

    /// At a site that works, with threads 1 to 3 for members 7 and 8, after a good first probe.
    pub fn ready(site: &Site, change: impl FnOnce(&mut SiteSettings)) -> PoolDriver {
        for thread in 1..=3 {
            site.add_thread(thread, &[7, 8]);
        }
        let mut driver = PoolDriver::with(&site.url(), change);
        driver.await_url_style(UrlStyle::Pretty);
        driver
    }

    /// What the loop would say.
    pub fn now(&self) -> Now {
        Now { instant: Instant::now(), unix_s: 1_795_345_238 }
    }

    /// Puts a question.
    pub fn submit(&mut self, ask: Ask) -> RequestId {
        self.submit_at(ask, self.now())
    }

    /// Puts a question at some other time.
    pub fn submit_at(&mut self, ask: Ask, now: Now) -> RequestId {
        self.last += 1;
        let before = Instant::now();
        self.pool.submit(RequestId(self.last), ask, now);
        assert!(before.elapsed() < Duration::from_secs(1), "submit has blocked");
        RequestId(self.last)
    }

    /// The next answer, waiting for the waker and for nothing else.
    pub fn next(&mut self) -> (RequestId, Answer) {
        let until = Instant::now() + LONG;
        let mut events = mio::Events::with_capacity(4);
        loop {
            if let Some(answer) = self.pool.next_answer() {
                return answer;
            }
            let left = until.checked_duration_since(Instant::now()).expect("an answer in time");
            self.poll.poll(&mut events, Some(left)).unwrap();
            assert!(!events.is_empty(), "nothing has rung");
        }
    }

    /// Puts one question and waits for its answer.
    pub fn ask(&mut self, ask: Ask) -> Answer {
        let request = self.submit(ask);
        let (answered, answer) = self.next();
        assert_eq!(answered, request);
        answer
    }

    /// Waits until the pool has something to collect, and collects nothing.
    pub fn await_answer(&self) {
        let until = Instant::now() + LONG;
        while !self.pool.has_answer() {
            assert!(Instant::now() < until, "there is no answer");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the probe has said this, collecting nothing but the probe.
    pub fn await_url_style(&mut self, form: UrlStyle) {
        let until = Instant::now() + LONG;
        while self.pool.url_style() != form {
            assert_eq!(self.pool.next_answer(), None);
            assert!(Instant::now() < until, "the probe has not found {form:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the site has been asked this often, and what came of it was collected.
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

/// A post with this token.
pub fn post_as(token: &str, target: Target, text: &str) -> Ask {
    Ask::Post(Post {
        credential: Credential::parse(token).ok(),
        target,
        text: text.into(),
        claimed: None,
    })
}

/// A post by member 7.
pub fn post(thread: u64, text: &str) -> Ask {
    post_as("user-7", Target::Thread(thread), text)
}

/// The question whose this is.
pub fn prove(token: &str) -> Ask {
    Ask::Prove(Credential::parse(token).unwrap())
}

/// The question who takes part in a thread.
pub fn list(thread: u64, token: &str) -> Ask {
    Ask::Participants { thread, credential: Credential::parse(token).unwrap() }
}

/// The good answer to [`prove`].
pub fn proven(answer: Answer) -> Proven {
    match answer {
        Answer::Proven(proven) => proven,
        other => panic!("{other:?}"),
    }
}

/// The good answer to [`list`].
pub fn listed(answer: Answer) -> Vec<u64> {
    match answer {
        Answer::Participants(people) => people.into_vec(),
        other => panic!("{other:?}"),
    }
}

/// The good answer to a post.
pub fn stored(answer: Answer) -> Stored {
    match answer {
        Answer::Stored(stored) => stored,
        other => panic!("{other:?}"),
    }
}

/// The bad answer.
pub fn failed(answer: Answer) -> Failure {
    match answer {
        Answer::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// The failure of what was certainly never sent.
pub const UNAVAILABLE: Failure = Failure::SiteUnavailable { retry_after_s: None };

/// The question whether a post by member 7, put this long ago, is stored.
pub fn look(target: Target, text: &str, ago: Duration) -> Ask {
    Ask::Lookup(Lookup {
        credential: Credential::parse("user-7").unwrap(),
        target,
        text: text.into(),
        sender: Some(Id::number(7)),
        posted: Instant::now() - ago,
        post: RequestId(1),
    })
}

/// The good answer to [`look`].
pub fn looked(answer: Answer) -> LookupResult {
    match answer {
        Answer::LookupResult(looked) => looked,
        other => panic!("{other:?}"),
    }
}

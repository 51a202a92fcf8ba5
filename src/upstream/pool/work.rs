//! What a worker does all its life: takes a job, makes its blocking calls, and rings.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Receiver, Sender};

use crate::hub::interface::{Ask, Failure, RequestId};
use crate::upstream::address::Form;
use crate::upstream::buddyboss::Finding;
use crate::upstream::health::Sign;
use crate::upstream::site::{Outcome, Probed, Site};

/// What a worker is to do.
pub(crate) enum Job {
    Ask {
        request: RequestId,
        ask: Ask,
        form: Form,
    },
    /// Find the form of address, and try this one first.
    Probe(Form),
}

/// What a worker has done.
pub(super) enum Done {
    Asked {
        request: RequestId,
        /// Under which request the log tells of it.
        told_under: RequestId,
        what: What,
        form: Form,
        outcome: Outcome,
    },
    Probed(Probed),
}

/// What an ask was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Message,
    Token,
    List,
    Look,
}

impl What {
    pub fn of(ask: &Ask) -> What {
        match ask {
            Ask::Post(_) => What::Message,
            Ask::Prove(_) => What::Token,
            Ask::List { .. } => What::List,
            Ask::Look(_) => What::Look,
        }
    }

    /// Whether it is about people; the fate of a message goes the messages' way.
    pub fn is_check(self) -> bool {
        matches!(self, What::Token | What::List)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            What::Message => "a message",
            What::Token => "the check of a token",
            What::List => "the list of a thread's participants",
            What::Look => "the look-up of a message",
        })
    }
}

/// Does one job at the site.
pub(super) fn run(site: &Site, job: &Job) -> Done {
    match job {
        Job::Ask { request, ask, form } => {
            let (request, told_under, form) = (*request, ask.told_under(*request), *form);
            let outcome = site.put(ask, form);
            Done::Asked { request, told_under, what: What::of(ask), form, outcome }
        }
        Job::Probe(first) => Done::Probed(site.probe(*first)),
    }
}

/// Does job after job, until the pool is gone. Each gets exactly one answer, even if it panics.
pub(super) fn work(
    jobs: &Receiver<Job>,
    answers: &Sender<Done>,
    waker: &mio::Waker,
    run: impl Fn(&Job) -> Done,
) {
    for job in jobs {
        // Nothing that `run` leaves half done is looked at again.
        let done = catch_unwind(AssertUnwindSafe(|| run(&job))).unwrap_or_else(|_| broken(&job));
        // First the answer, then the bell: the other way round the loop could look too early.
        if answers.send(done).is_err() {
            return;
        }
        let _ = waker.wake();
    }
}

/// The answer to a job that panicked, which is not the site's fault. How far a post came is not
/// known; a question changes nothing.
fn broken(job: &Job) -> Done {
    const WHY: &str = "the worker failed";
    match job {
        Job::Ask { request, ask, form } => {
            let what = What::of(ask);
            let failure = match what {
                What::Message => Failure::Unknown,
                _ => Failure::SiteUnavailable { retry_after_s: None },
            };
            let outcome = Outcome { sign: Sign::Nothing, ..Outcome::failed(failure, Some(WHY)) };
            let (request, told_under) = (*request, ask.told_under(*request));
            Done::Asked { request, told_under, what, form: *form, outcome }
        }
        Job::Probe(_) => {
            Done::Probed(Probed { found: Err(Finding::Unreachable(WHY)), sign: Sign::SILENCE })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::interface::{Answer, Post, Target};
    use crossbeam_channel::bounded;

    fn ask() -> Ask {
        let target = Target::Thread(1);
        Ask::Post(Post { credential: None, target, text: "x".into(), claimed: None })
    }

    #[test]
    fn a_job_that_panics_is_answered_as_unknown_and_its_worker_goes_on() {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let (jobs, todo) = bounded(4);
        let (answers, done) = bounded(4);
        for n in 1..=2 {
            let job = Job::Ask { request: RequestId(n), ask: ask(), form: Form::RestRoute };
            jobs.send(job).ok().unwrap();
        }
        jobs.send(Job::Probe(Form::Pretty)).ok().unwrap();
        drop(jobs);
        // `resume_unwind` is a panic without its noise.
        work(&todo, &answers, &waker, |_| std::panic::resume_unwind(Box::new("on purpose")));
        drop(answers);
        let requests: Vec<_> = done
            .iter()
            .map(|done| match done {
                Done::Asked { request, outcome, .. } => {
                    assert_eq!(outcome.answer, Answer::Failed(Failure::Unknown));
                    assert_eq!(outcome.sign, Sign::Nothing, "it is not the site's fault");
                    request.0
                }
                Done::Probed(probed) => {
                    assert!(matches!(probed.found, Err(Finding::Unreachable(_))));
                    0
                }
            })
            .collect();
        assert_eq!(requests, [1, 2, 0]);
    }
}

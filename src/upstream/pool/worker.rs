//! What a worker does all its life: takes a job, makes its blocking calls, and rings.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Receiver, Sender};

use crate::hub::interface::{Ask, Failure, RequestId};
use crate::upstream::buddyboss::ProbeFinding;
use crate::upstream::health::Health;
use crate::upstream::site::{Outcome, ProbeOutcome, Site};
use crate::upstream::url_style::UrlStyle;

/// What a worker is to do.
pub(crate) enum Task {
    Ask {
        request: RequestId,
        ask: Ask,
        url_style: UrlStyle,
    },
    /// Find the form of address, and try this one first.
    Probe(UrlStyle),
}

/// What a worker has done.
pub(super) enum Completion {
    AskOutcome {
        request: RequestId,
        /// Under which request the log tells of it.
        log_request: RequestId,
        what: AskKind,
        url_style: UrlStyle,
        outcome: Outcome,
    },
    ProbeOutcome(ProbeOutcome),
}

/// What an ask was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskKind {
    Message,
    Token,
    List,
    Look,
}

impl AskKind {
    pub fn from_ask(ask: &Ask) -> AskKind {
        match ask {
            Ask::Post(_) => AskKind::Message,
            Ask::Prove(_) => AskKind::Token,
            Ask::Participants { .. } => AskKind::List,
            Ask::Lookup(_) => AskKind::Look,
        }
    }

    /// Whether it is about people; the fate of a message goes the messages' way.
    pub fn is_check(self) -> bool {
        matches!(self, AskKind::Token | AskKind::List)
    }
}

impl fmt::Display for AskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AskKind::Message => "a message",
            AskKind::Token => "the check of a token",
            AskKind::List => "the list of a thread's participants",
            AskKind::Look => "the look-up of a message",
        })
    }
}

/// Does one job at the site.
pub(super) fn run(site: &Site, task: &Task) -> Completion {
    match task {
        Task::Ask { request, ask, url_style } => {
            let (request, log_request, url_style) =
                (*request, ask.log_request(*request), *url_style);
            let outcome = site.execute(ask, url_style);
            Completion::AskOutcome {
                request,
                log_request,
                what: AskKind::from_ask(ask),
                url_style,
                outcome,
            }
        }
        Task::Probe(first) => Completion::ProbeOutcome(site.probe(*first)),
    }
}

/// Does job after job, until the pool is gone. Each gets exactly one answer, even if it panics.
pub(super) fn run_worker(
    tasks: &Receiver<Task>,
    answers: &Sender<Completion>,
    waker: &mio::Waker,
    run: impl Fn(&Task) -> Completion,
) {
    for task in tasks {
        // Nothing that `run` leaves half done is looked at again.
        let done = catch_unwind(AssertUnwindSafe(|| run(&task)))
            .unwrap_or_else(|_| panic_completion(&task));
        // First the answer, then the bell: the other way round the loop could look too early.
        if answers.send(done).is_err() {
            return;
        }
        let _ = waker.wake();
    }
}

/// The answer to a job that panicked, which is not the site's fault. How far a post came is not
/// known; a question changes nothing.
fn panic_completion(task: &Task) -> Completion {
    const WHY: &str = "the worker failed";
    match task {
        Task::Ask { request, ask, url_style } => {
            let what = AskKind::from_ask(ask);
            let failure = match what {
                AskKind::Message => Failure::Unknown,
                _ => Failure::SiteUnavailable { retry_after_s: None },
            };
            let outcome =
                Outcome { health: Health::Neutral, ..Outcome::failed(failure, Some(WHY)) };
            let (request, log_request) = (*request, ask.log_request(*request));
            Completion::AskOutcome { request, log_request, what, url_style: *url_style, outcome }
        }
        Task::Probe(_) => Completion::ProbeOutcome(ProbeOutcome {
            found: Err(ProbeFinding::Unreachable(WHY)),
            health: Health::NO_REPLY,
        }),
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
    fn panicking_request_is_unknown_and_the_worker_survives() {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let (tasks, todo) = bounded(4);
        let (answers, done) = bounded(4);
        for n in 1..=2 {
            let task =
                Task::Ask { request: RequestId(n), ask: ask(), url_style: UrlStyle::RestRoute };
            tasks.send(task).ok().unwrap();
        }
        tasks.send(Task::Probe(UrlStyle::Pretty)).ok().unwrap();
        drop(tasks);
        // `resume_unwind` is a panic without its noise.
        run_worker(&todo, &answers, &waker, |_| std::panic::resume_unwind(Box::new("on purpose")));
        drop(answers);
        let requests: Vec<_> = done
            .iter()
            .map(|done| match done {
                Completion::AskOutcome { request, outcome, .. } => {
                    assert_eq!(outcome.answer, Answer::Failed(Failure::Unknown));
                    assert_eq!(outcome.health, Health::Neutral, "it is not the site's fault");
                    request.0
                }
                Completion::ProbeOutcome(probed) => {
                    assert!(matches!(probed.found, Err(ProbeFinding::Unreachable(_))));
                    0
                }
            })
            .collect();
        assert_eq!(requests, [1, 2, 0]);
    }
}

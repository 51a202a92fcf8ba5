//! The worker threads: take a task, do its blocking requests, return the outcome, wake the loop.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Receiver, Sender};

use crate::hub::interface::{Answer, Ask, Failure, RequestId};
use crate::protocol::credential::Credential;
use crate::upstream::buddyboss::Reply;
use crate::upstream::health::Health;
use crate::upstream::plugin::{PluginRequest, PluginRoute};
use crate::upstream::site::{Outcome, ProbeOutcome, ProbePlan, Site, Unanswered};
use crate::upstream::url_style::UrlStyle;
use crate::upstream::usability::ProbeKind;

/// A task for a worker.
pub(crate) enum Task {
    Ask {
        request: RequestId,
        ask: Ask,
        url_style: UrlStyle,
    },
    /// Find the URL style of the REST API.
    Probe(ProbePlan),
    /// Send a request to the site's plugin.
    Plugin {
        request: PluginRequest,
        url_style: UrlStyle,
    },
}

/// The outcome of a task.
pub(super) enum Completion {
    AskOutcome {
        request: RequestId,
        /// The request id for log lines.
        log_request: RequestId,
        kind: AskKind,
        url_style: UrlStyle,
        outcome: Outcome,
        /// The member's credential, if the site has just accepted it.
        accepted: Option<Credential>,
    },
    ProbeOutcome(ProbeOutcome),
    PluginReplied {
        route: PluginRoute,
        result: Result<Reply, Unanswered>,
    },
}

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskKind {
    Message,
    Token,
    List,
    Look,
    Call,
}

impl AskKind {
    pub(crate) fn from_ask(ask: &Ask) -> AskKind {
        match ask {
            Ask::Post(_) => AskKind::Message,
            Ask::Prove(_) | Ask::Recheck(_) => AskKind::Token,
            Ask::CallPermission { .. } => AskKind::Call,
            Ask::Participants { .. } => AskKind::List,
            Ask::Lookup(_) => AskKind::Look,
        }
    }

    /// Whether it goes to the queue for checks; posts and lookups of messages share the other one.
    pub(crate) fn is_check(self) -> bool {
        matches!(self, AskKind::Token | AskKind::List | AskKind::Call)
    }
}

impl fmt::Display for AskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AskKind::Message => "message",
            AskKind::Token => "token check",
            AskKind::List => "participant list",
            AskKind::Look => "message lookup",
            AskKind::Call => "permission to call",
        })
    }
}

/// Executes one task.
pub(super) fn run(site: &Site, task: &Task) -> Completion {
    match task {
        Task::Ask { request, ask, url_style } => {
            let (request, log_request, url_style) =
                (*request, ask.log_request(*request), *url_style);
            let outcome = site.execute(ask, url_style);
            Completion::AskOutcome {
                request,
                log_request,
                kind: AskKind::from_ask(ask),
                url_style,
                accepted: accepted_credential(ask, &outcome.answer).cloned(),
                outcome,
            }
        }
        Task::Probe(plan) => Completion::ProbeOutcome(site.probe(plan)),
        Task::Plugin { request, url_style } => Completion::PluginReplied {
            route: request.route,
            result: site.ask_plugin(request, *url_style),
        },
    }
}

/// The credential of a request that the site has answered for its user.
fn accepted_credential<'a>(ask: &'a Ask, answer: &Answer) -> Option<&'a Credential> {
    match (ask, answer) {
        (Ask::Prove(credential) | Ask::Recheck(credential), Answer::Proven(_)) => Some(credential),
        (Ask::Participants { credential, .. }, Answer::Participants(_)) => Some(credential),
        _ => None,
    }
}

/// Executes tasks, each with its client, until the pool is dropped. Each gets exactly one
/// completion, even if it panics.
pub(super) fn run_worker<S>(
    tasks: &Receiver<(S, Task)>,
    completions: &Sender<Completion>,
    waker: &mio::Waker,
    run: impl Fn(&S, &Task) -> Completion,
) {
    for (site, task) in tasks {
        // Unwind safe: no state that `run` may leave half changed is used afterwards.
        let completion = catch_unwind(AssertUnwindSafe(|| run(&site, &task)))
            .unwrap_or_else(|_| panic_completion(&task));
        // The completion must be sent before the loop wakes, or the loop could miss it.
        if completions.send(completion).is_err() {
            return;
        }
        let _ = waker.wake();
    }
}

/// The completion of a task that panicked, which says nothing about the site's health. The outcome
/// of a post is unknown; other requests change nothing on the site.
fn panic_completion(task: &Task) -> Completion {
    const REASON: &str = "the worker failed";
    match task {
        Task::Ask { request, ask, url_style } => {
            let kind = AskKind::from_ask(ask);
            let failure = match kind {
                AskKind::Message => Failure::Unknown,
                _ => Failure::SiteUnavailable { retry_after_s: None },
            };
            let outcome =
                Outcome { health: Health::Neutral, ..Outcome::failed(failure, Some(REASON)) };
            let (request, log_request) = (*request, ask.log_request(*request));
            let url_style = *url_style;
            Completion::AskOutcome {
                request,
                log_request,
                kind,
                url_style,
                outcome,
                accepted: None,
            }
        }
        Task::Probe(_) => {
            let outcome = ProbeOutcome::unreachable(REASON, ProbeKind::Anonymous);
            Completion::ProbeOutcome(outcome)
        }
        Task::Plugin { request, .. } => Completion::PluginReplied {
            route: request.route,
            result: Err(Unanswered { reason: REASON, was_sent: true }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::interface::{Post, Target};
    use crate::upstream::buddyboss::ProbeFinding;
    use crossbeam_channel::bounded;

    fn ask() -> Ask {
        let target = Target::Thread(1);
        Ask::Post(Post { credential: None, target, text: "x".into(), claimed: None })
    }

    #[test]
    fn panicking_request_is_unknown_and_the_worker_survives() {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let (tasks, task_receiver) = bounded(4);
        let (completion_sender, completions) = bounded(4);
        for n in 1..=2 {
            let task =
                Task::Ask { request: RequestId(n), ask: ask(), url_style: UrlStyle::RestRoute };
            tasks.send(((), task)).ok().unwrap();
        }
        tasks
            .send((
                (),
                Task::Probe(ProbePlan { first: UrlStyle::Pretty, member: None, messages: false }),
            ))
            .ok()
            .unwrap();
        drop(tasks);
        // `resume_unwind` panics without calling the panic hook.
        let panics = |(): &(), _: &Task| std::panic::resume_unwind(Box::new("on purpose"));
        run_worker(&task_receiver, &completion_sender, &waker, panics);
        drop(completion_sender);
        let requests: Vec<_> = completions
            .iter()
            .map(|completion| match completion {
                Completion::AskOutcome { request, outcome, .. } => {
                    assert_eq!(outcome.answer, Answer::Failed(Failure::Unknown));
                    assert_eq!(
                        outcome.health,
                        Health::Neutral,
                        "a panic does not count against the site"
                    );
                    request.0
                }
                Completion::ProbeOutcome(probed) => {
                    assert!(matches!(probed.found, Err(ProbeFinding::Unreachable(_))));
                    0
                }
                Completion::PluginReplied { .. } => panic!("no such task"),
            })
            .collect();
        assert_eq!(requests, [1, 2, 0]);
    }
}

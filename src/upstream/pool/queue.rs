//! The bounded queues of requests that wait for a worker, and the count of busy workers.
//!
//! Messages and checks (token checks and participant lists) have a queue each, with a bound each.
//! Checks go first: a full message queue must not make the site look dead to new clients. But while
//! messages wait, checks occupy at most half of the workers, and always may occupy one.

use std::collections::VecDeque;

use super::worker::{AskKind, Task};
use crate::hub::interface::{Ask, RequestId};
use crate::upstream::site::ProbePlan;
use crate::upstream::url_style::UrlStyle;

/// Both queues, the waiting probe, and how many workers are busy.
pub(super) struct Queue {
    workers: usize,
    /// Tasks that were dispatched and whose answers were not collected yet.
    busy: usize,
    /// The checks among them.
    busy_checks: usize,
    /// The probe that waits, if one does.
    probe: Option<ProbePlan>,
    messages: Fifo,
    checks: Fifo,
}

struct Fifo {
    waiting: VecDeque<(RequestId, Ask)>,
    /// Waiting requests, and dispatched ones whose answers were not collected yet.
    outstanding: usize,
    /// The bound of `outstanding`.
    max: usize,
}

impl Fifo {
    fn new(max: usize) -> Fifo {
        Fifo { waiting: VecDeque::new(), outstanding: 0, max }
    }
}

impl Queue {
    /// Creates empty queues: for `workers + queue` messages and for `workers` checks, each
    /// including those that are with the workers.
    pub(super) fn new(workers: usize, queue: usize) -> Queue {
        let (messages, checks) = (Fifo::new(workers + queue), Fifo::new(workers));
        Queue { workers, busy: 0, busy_checks: 0, probe: None, messages, checks }
    }

    /// Queues a request; false if its queue is full.
    pub(super) fn push(&mut self, request: RequestId, ask: Ask) -> bool {
        let fifo = self.fifo(AskKind::from_ask(&ask));
        if fifo.outstanding >= fifo.max {
            return false;
        }
        fifo.outstanding += 1;
        fifo.waiting.push_back((request, ask));
        true
    }

    /// Queues a probe before everything else. There is at most one.
    pub(super) fn push_probe(&mut self, plan: ProbePlan) {
        self.probe = Some(plan);
    }

    /// Takes the next task for a free worker, which then counts as busy until [`Queue::finish`].
    pub(super) fn next(&mut self, url_style: UrlStyle) -> Option<Task> {
        if self.busy >= self.workers {
            return None;
        }
        let task = match self.probe.take() {
            Some(plan) => Task::Probe(plan),
            None => {
                let share = (self.workers / 2).max(1);
                let checks_first = self.busy_checks < share || self.messages.waiting.is_empty();
                let check = if checks_first { self.checks.waiting.pop_front() } else { None };
                self.busy_checks += usize::from(check.is_some());
                let (request, ask) = check.or_else(|| self.messages.waiting.pop_front())?;
                Task::Ask { request, ask, url_style }
            }
        };
        self.busy += 1;
        Some(task)
    }

    /// Whether a worker is free that no other request waits for.
    pub(super) fn has_room_for_plugin(&self) -> bool {
        let others = self.messages.waiting.len() + self.checks.waiting.len();
        self.busy < self.workers && others == 0 && self.probe.is_none()
    }

    /// Records that a request to the plugin goes to a worker, until [`Queue::finish`].
    pub(super) fn start_plugin(&mut self) {
        self.busy += 1;
    }

    /// Records that the answer to a task was collected; `None` is the probe, or the plugin's.
    pub(super) fn finish(&mut self, kind: Option<AskKind>) {
        self.busy -= 1;
        if let Some(kind) = kind {
            self.fifo(kind).outstanding -= 1;
            self.busy_checks -= usize::from(kind.is_check());
        }
    }

    /// Empties both queues and returns their requests, the oldest of each first.
    pub(super) fn fail_queued(&mut self) -> Vec<RequestId> {
        let mut failed = Vec::new();
        for fifo in [&mut self.checks, &mut self.messages] {
            fifo.outstanding -= fifo.waiting.len();
            failed.extend(fifo.waiting.drain(..).map(|(request, _)| request));
        }
        failed
    }

    /// The number of accepted requests whose answers were not collected yet.
    pub(super) fn outstanding(&self) -> usize {
        self.messages.outstanding + self.checks.outstanding
    }

    /// The numbers of waiting messages, waiting checks, and tasks with the workers.
    pub(super) fn lengths(&self) -> [usize; 3] {
        [self.messages.waiting.len(), self.checks.waiting.len(), self.busy]
    }

    fn fifo(&mut self, kind: AskKind) -> &mut Fifo {
        if kind.is_check() { &mut self.checks } else { &mut self.messages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::interface::{Post, Target};
    use crate::protocol::credential::Credential;

    /// Queues a message for each `m` and a check for each `c`; returns which were accepted.
    fn push(queue: &mut Queue, kinds: &str) -> Vec<bool> {
        let push = |(n, kind): (usize, char)| {
            let post = Post {
                credential: None,
                target: Target::Thread(1),
                text: "x".into(),
                claimed: None,
            };
            let check = Ask::Prove(Credential::parse("user-7").unwrap());
            let ask = if kind == 'm' { Ask::Post(post) } else { check };
            queue.push(RequestId(n as u64), ask)
        };
        kinds.chars().enumerate().map(push).collect()
    }

    /// Dispatches to all free workers; returns the tasks in the same letters, with `p` for a probe.
    fn dispatch(queue: &mut Queue) -> String {
        std::iter::from_fn(|| queue.next(UrlStyle::Pretty))
            .map(|task| match task {
                Task::Ask { ask: Ask::Post(_), .. } => 'm',
                Task::Ask { .. } => 'c',
                Task::Probe(_) => 'p',
                Task::Plugin { .. } => panic!("the queue holds none"),
            })
            .collect()
    }

    #[test]
    fn checks_go_first_and_messages_keep_half_the_workers() {
        let mut queue = Queue::new(4, 8);
        push(&mut queue, "mmmmmmcccc");
        assert_eq!(dispatch(&mut queue), "ccmm");
        queue.finish(Some(AskKind::Message));
        assert_eq!(dispatch(&mut queue), "m", "checks occupy their half already");
        queue.finish(Some(AskKind::Token));
        assert_eq!(dispatch(&mut queue), "c");
        queue.push_probe(ProbePlan { first: UrlStyle::Pretty, member: None, messages: false });
        for _ in 0..2 {
            queue.finish(Some(AskKind::Message));
        }
        assert_eq!(dispatch(&mut queue), "pm", "the probe goes first, then the messages");
        queue.finish(None);
        assert_eq!(dispatch(&mut queue), "m");

        // Checks may occupy all workers while no messages wait.
        let mut queue = Queue::new(4, 8);
        push(&mut queue, "cccc");
        assert_eq!(dispatch(&mut queue), "cccc");
        // With one worker, checks and messages alternate: the next check is accepted only after the
        // previous one was collected, and by then the worker has a message.
        let mut queue = Queue::new(1, 8);
        push(&mut queue, "mmc");
        assert_eq!(dispatch(&mut queue), "c");
        assert_eq!(push(&mut queue, "c"), [false]);
        queue.finish(Some(AskKind::Token));
        assert_eq!(dispatch(&mut queue), "m");
        assert_eq!(push(&mut queue, "c"), [true]);
        queue.finish(Some(AskKind::Message));
        assert_eq!(dispatch(&mut queue), "c");
    }

    #[test]
    fn plugin_gets_only_a_worker_that_nobody_waits_for() {
        let mut queue = Queue::new(2, 8);
        assert!(queue.has_room_for_plugin());
        push(&mut queue, "m");
        assert!(!queue.has_room_for_plugin(), "a message waits");
        assert_eq!(dispatch(&mut queue), "m");
        assert!(queue.has_room_for_plugin());
        queue.start_plugin();
        assert!(!queue.has_room_for_plugin(), "no worker is free");
        push(&mut queue, "c");
        assert_eq!(dispatch(&mut queue), "");
        queue.finish(None);
        assert!(!queue.has_room_for_plugin(), "a check waits");
        assert_eq!(dispatch(&mut queue), "c");
    }

    #[test]
    fn each_queue_is_bounded_and_cancelling_frees_room() {
        let mut queue = Queue::new(2, 3);
        assert_eq!(push(&mut queue, "mmmmmmm"), [true, true, true, true, true, false, false]);
        assert_eq!(
            push(&mut queue, "ccc"),
            [true, true, false],
            "checks are accepted beside a full message queue"
        );
        assert_eq!(dispatch(&mut queue), "cm");
        assert_eq!(push(&mut queue, "mc"), [false, false], "dispatched requests still count");
        assert_eq!(queue.outstanding(), 7);
        assert_eq!(queue.fail_queued().len(), 5);
        assert_eq!(queue.outstanding(), 2);
        queue.finish(Some(AskKind::Message));
        queue.finish(Some(AskKind::Token));
        assert_eq!((queue.outstanding(), dispatch(&mut queue)), (0, String::new()));
        assert_eq!(push(&mut queue, "mmmmmm"), [true, true, true, true, true, false]);
    }
}

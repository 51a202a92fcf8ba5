//! What waits for a worker, and what is with one.
//!
//! Messages and checks stand in a line each, and each line has its bound. Checks, of people and of
//! threads, come first: a full line of messages must not look like a site that does not answer. But
//! while messages wait, checks hold no more than half of the workers; one they may always hold.

use std::collections::VecDeque;

use super::worker::{AskKind, Task};
use crate::hub::interface::{Ask, RequestId};
use crate::upstream::url_style::UrlStyle;

/// Both lines, the probe, and how many workers are free.
pub(super) struct Queue {
    workers: usize,
    /// Jobs that were handed out and whose answers have not been collected.
    busy: usize,
    /// The checks among them.
    busy_checks: usize,
    /// The form of address that a waiting probe is to try first.
    probe: Option<UrlStyle>,
    messages: Fifo,
    checks: Fifo,
}

struct Fifo {
    waiting: VecDeque<(RequestId, Ask)>,
    /// Those that wait, and those whose answers have not been collected.
    outstanding: usize,
    /// How many may be taken.
    max: usize,
}

impl Fifo {
    fn new(max: usize) -> Fifo {
        Fifo { waiting: VecDeque::new(), outstanding: 0, max }
    }
}

impl Queue {
    /// Empty, with room for the work of the workers and `queue` messages more, and for as many
    /// checks as there are workers.
    pub fn new(workers: usize, queue: usize) -> Queue {
        let (messages, checks) = (Fifo::new(workers + queue), Fifo::new(workers));
        Queue { workers, busy: 0, busy_checks: 0, probe: None, messages, checks }
    }

    /// Takes an ask into its line; false if there is no room.
    pub fn push(&mut self, request: RequestId, ask: Ask) -> bool {
        let fifo = self.fifo(AskKind::from_ask(&ask));
        if fifo.outstanding >= fifo.max {
            return false;
        }
        fifo.outstanding += 1;
        fifo.waiting.push_back((request, ask));
        true
    }

    /// Puts the probe before everything else. There is one at most.
    pub fn push_probe(&mut self, first: UrlStyle) {
        self.probe = Some(first);
    }

    /// The next job for a free worker, who then counts as busy until the job is
    /// [`Queue::finish`].
    pub fn next(&mut self, url_style: UrlStyle) -> Option<Task> {
        if self.busy >= self.workers {
            return None;
        }
        let task = match self.probe.take() {
            Some(first) => Task::Probe(first),
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

    /// Notes that the answer to a job has been collected; `None` is the probe.
    pub fn finish(&mut self, what: Option<AskKind>) {
        self.busy -= 1;
        if let Some(what) = what {
            self.fifo(what).outstanding -= 1;
            self.busy_checks -= usize::from(what.is_check());
        }
    }

    /// Takes everything out of both lines, the oldest of each first.
    pub fn fail_queued(&mut self) -> Vec<RequestId> {
        let mut failed = Vec::new();
        for fifo in [&mut self.checks, &mut self.messages] {
            fifo.outstanding -= fifo.waiting.len();
            failed.extend(fifo.waiting.drain(..).map(|(request, _)| request));
        }
        failed
    }

    /// How many asks were taken whose answers have not been collected.
    pub fn outstanding(&self) -> usize {
        self.messages.outstanding + self.checks.outstanding
    }

    /// Messages that wait, checks that wait, and jobs with the workers.
    pub fn lengths(&self) -> [usize; 3] {
        [self.messages.waiting.len(), self.checks.waiting.len(), self.busy]
    }

    fn fifo(&mut self, what: AskKind) -> &mut Fifo {
        if what.is_check() { &mut self.checks } else { &mut self.messages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::interface::{Post, Target};
    use crate::protocol::credential::Credential;

    /// Puts a message for each `m` and a check for each `c`; says which found room.
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

    /// What free workers get, likewise, a probe being `p`.
    fn dispatch(queue: &mut Queue) -> String {
        std::iter::from_fn(|| queue.next(UrlStyle::Pretty))
            .map(|task| match task {
                Task::Ask { ask: Ask::Post(_), .. } => 'm',
                Task::Ask { .. } => 'c',
                Task::Probe(_) => 'p',
            })
            .collect()
    }

    #[test]
    fn checks_go_first_and_messages_keep_half_the_workers() {
        let mut queue = Queue::new(4, 8);
        push(&mut queue, "mmmmmmcccc");
        assert_eq!(dispatch(&mut queue), "ccmm");
        queue.finish(Some(AskKind::Message));
        assert_eq!(dispatch(&mut queue), "m", "the checks have their half");
        queue.finish(Some(AskKind::Token));
        assert_eq!(dispatch(&mut queue), "c");
        queue.push_probe(UrlStyle::Pretty);
        for _ in 0..2 {
            queue.finish(Some(AskKind::Message));
        }
        assert_eq!(dispatch(&mut queue), "pm", "nobody's message waits long for the probe");
        queue.finish(None);
        assert_eq!(dispatch(&mut queue), "m");

        // Whoever is alone has all workers.
        let mut queue = Queue::new(4, 8);
        push(&mut queue, "cccc");
        assert_eq!(dispatch(&mut queue), "cccc");
        // And of one worker both have their turns: a check finds room when the one before it has
        // been collected, and by then the worker has a message.
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
    fn each_queue_is_bounded_and_cancelling_frees_room() {
        let mut queue = Queue::new(2, 3);
        assert_eq!(push(&mut queue, "mmmmmmm"), [true, true, true, true, true, false, false]);
        assert_eq!(push(&mut queue, "ccc"), [true, true, false], "beside a full line of messages");
        assert_eq!(dispatch(&mut queue), "cm");
        assert_eq!(push(&mut queue, "mc"), [false, false], "with a worker is not gone");
        assert_eq!(queue.outstanding(), 7);
        assert_eq!(queue.fail_queued().len(), 5);
        assert_eq!(queue.outstanding(), 2);
        queue.finish(Some(AskKind::Message));
        queue.finish(Some(AskKind::Token));
        assert_eq!((queue.outstanding(), dispatch(&mut queue)), (0, String::new()));
        assert_eq!(push(&mut queue, "mmmmmm"), [true, true, true, true, true, false]);
    }
}

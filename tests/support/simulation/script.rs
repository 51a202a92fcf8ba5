//! What happens in a run: drawn from its seed, step by step.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bytes;
use crate::link::Reading;
use crate::oracle::SUSPENDED_MAX;
use crate::plan::{draw_config, draw_site_behavior};
use crate::rng::Rng;
use crate::site::{Site, USERS};
use crate::trace::Trace;
use crate::world::World;

/// Steps of a run.
const STEPS: usize = 400;
/// Connections at a time.
const LINKS_MAX: usize = 9;

/// What a run has seen.
#[derive(Debug, Default)]
pub struct RunStats {
    pub deliveries_to_others: usize,
    pub missed: usize,
    pub restarts: usize,
    pub outcomes: std::collections::BTreeMap<String, usize>,
}

#[derive(Clone, Copy)]
enum Step {
    Connect,
    Say,
    Invalid,
    Deliver,
    Read,
    Leave,
    Change,
    Revoke,
    Pass,
    Suspend,
    SetClock,
    Drain,
    Stop,
    Kill,
}

/// Runs what this seed says. Panics when something is not right.
pub fn run(seed: u64, trace: &mut Trace) -> RunStats {
    let mut rng = Rng::new(seed);
    let begun = Instant::now();
    let plan = draw_config(&mut rng);
    let mood = draw_site_behavior(&mut rng);
    trace.note(format!("{plan:?} {mood:?}"));
    let site = Site::new(mood, begun, &mut rng);
    let (ends, long_pauses) = (rng.chance(30), rng.chance(30));
    let world = World::new(plan, site, rng, begun, trace);
    let mut script = Script { world, said: 0, ends, long_pauses, sent: Vec::new() };
    for step in 0..STEPS {
        script.world.trace.steps = step;
        script.step();
        script.world.transfer();
    }
    script.settle();
    let oracle = &script.world.oracle;
    RunStats {
        deliveries_to_others: oracle.deliveries_to_others,
        missed: script.world.missed,
        restarts: script.world.restarts,
        outcomes: oracle.outcomes.counts.clone(),
    }
}

pub struct Script<'a> {
    pub world: World<'a>,
    /// Counts what has been said.
    pub said: u64,
    /// The server ends now and then.
    ends: bool,
    /// Minutes go by in which little is said.
    long_pauses: bool,
    /// Messages that may be sent again: by whom, when, to which server, and the frame.
    pub sent: Vec<(u64, Instant, usize, Value)>,
}

impl Script<'_> {
    fn step(&mut self) {
        let end = u64::from(self.ends && self.world.rng.chance(40));
        let few = self.world.links.iter().flatten().count() < 4;
        let step = self.world.rng.pick_weighted(&[
            (if few { 60 } else { 12 }, Step::Connect),
            (70, Step::Say),
            (6, Step::Invalid),
            (14, Step::Deliver),
            (12, Step::Read),
            (6, Step::Leave),
            (6, Step::Change),
            (1, Step::Revoke),
            (40, Step::Pass),
            (2, Step::Suspend),
            (1, Step::SetClock),
            (2 * end, Step::Drain),
            (end, Step::Stop),
            (end, Step::Kill),
        ]);
        match step {
            Step::Connect => self.connect(),
            Step::Say => self.send(),
            Step::Invalid => self.send_invalid(),
            Step::Deliver => {
                if let Some(slot) = self.pick_connection() {
                    let bytes = self.world.rng.range(1, 200) as usize;
                    self.world.note(&format!("{bytes} bytes of {slot} arrive"));
                    self.world.deliver_to_server(slot, bytes);
                }
            }
            Step::Read => self.read(),
            Step::Leave => self.leave(),
            Step::Change => self.change(),
            Step::Revoke => {
                let token =
                    self.pick_connection().and_then(|slot| self.world.link(slot)?.token.clone());
                if let Some(token) = token {
                    self.world.note(&format!("the site revokes {token}"));
                    self.world.site.revoke(&token);
                }
            }
            Step::Pass => {
                let rng = &mut self.world.rng;
                let long = if self.long_pauses { 40 } else { 6 };
                let ms = rng.pick_weighted(&[(60, 300), (30, 4_000), (long, 40_000), (1, 400_000)]);
                let ms = rng.below(ms);
                self.world.note(&format!("{ms} ms pass"));
                self.world.advance(Duration::from_millis(ms));
            }
            Step::Suspend => {
                let s = self.world.rng.range(1, SUSPENDED_MAX.as_secs());
                self.world.note(&format!("the process stands still for {s} s"));
                self.world.suspend(Duration::from_secs(s));
            }
            Step::SetClock => {
                let by = self.world.rng.pick(&[-100_000_i64, -3_600, -60, 1, 60, 3_600, 100_000]);
                self.world.note(&format!("the clock jumps by {by} s"));
                let unix_s = self.world.unix_s().saturating_add_signed(by);
                self.world.set_clock(unix_s);
            }
            Step::Drain if self.world.draining.is_none() => {
                self.world.note("the server drains");
                self.world.begin_drain();
            }
            Step::Drain => {}
            Step::Stop => {
                self.world.hub.begin_drain();
                self.world.stop();
            }
            Step::Kill => self.world.kill_and_restart(),
        }
    }

    /// The slot of some connection.
    pub fn pick_connection(&mut self) -> Option<usize> {
        let links = self.world.links.iter().enumerate();
        let slots: Vec<usize> =
            links.filter(|(_, link)| link.is_some()).map(|(slot, _)| slot).collect();
        (!slots.is_empty()).then(|| self.world.rng.pick(&slots))
    }

    // ---- coming and going

    fn connect(&mut self) {
        if self.world.links.iter().flatten().count() >= LINKS_MAX {
            return;
        }
        let (now, world) = (self.world.instant(), &mut self.world);
        let user = world.rng.range(1, USERS);
        let token = world.site.issue(user, now, &mut world.rng);
        let how = world.rng.below(6);
        let head = match how {
            0 => bytes::request_with(&format!("Authorization: Bearer {token}\r\n")),
            1 => bytes::request_with(&format!("Sec-WebSocket-Protocol: buddyline, {token}\r\n")),
            2 | 3 => {
                let plain = String::from_utf8(bytes::request()).expect("a head is text");
                plain.replacen("x=1", &format!("token={token}"), 1).into_bytes()
            }
            _ => bytes::request(),
        };
        let length = head.len();
        world.note(&format!("user {user} connects, token {token}, {how}"));
        world.connect(user, Some(token), head);
        let slot = world.links.iter().flatten().map(|link| link.id).max_by_key(|id| id.serial);
        let slot = slot.expect("somebody has come").slot as usize;
        let first = if world.rng.chance(85) { length } else { world.rng.below(100) as usize };
        world.deliver_to_server(slot, first);
        if world.rng.chance(60) {
            let join = self.join(slot);
            let claim = self.claim(slot);
            self.send_text(slot, &claim);
            self.send_text(slot, &join);
        }
    }

    fn leave(&mut self) {
        let Some(slot) = self.pick_connection() else { return };
        if self.world.rng.chance(50) {
            self.world.note(&format!("{slot} is cut off"));
            return self.world.cut(slot);
        }
        self.world.note(&format!("{slot} says goodbye"));
        self.put(slot, bytes::close(1000));
        self.world.deliver_to_server(slot, usize::MAX);
    }

    fn read(&mut self) {
        let Some(slot) = self.pick_connection() else { return };
        let bytes = self.world.rng.range(1, 300) as usize;
        let reading = self.world.rng.pick(&[
            Reading::All,
            Reading::Some(bytes),
            Reading::Nothing,
            Reading::Nothing,
        ]);
        self.world.note(&format!("{slot} reads {reading:?}"));
        self.world.link(slot).expect("it is there").reading = reading;
    }

    fn change(&mut self) {
        let now = self.world.instant();
        let threads = self.world.site.threads();
        let world = &mut self.world;
        let (thread, user) = (world.rng.pick(&threads), world.rng.range(1, USERS));
        let mut people = world.site.people(thread);
        if world.rng.chance(10) {
            // The number comes to mean another thread.
            people = (1..=USERS).filter(|_| world.rng.chance(40)).collect::<BTreeSet<u64>>();
        } else if !people.remove(&user) {
            people.insert(user);
        }
        world.note(&format!("thread {thread} is of {people:?}"));
        world.site.change(thread, people, now);
    }

    // ---- the end

    /// The site answers, everybody reads, and time passes: then nothing is pending.
    fn settle(&mut self) {
        let world = &mut self.world;
        world.note("all is well from now on");
        let mood = &mut world.site.mood;
        (
            mood.post_failures_percent,
            mood.query_failures_percent,
            mood.false_answers_percent,
            mood.latency_max_ms,
        ) = (0, 0, 0, 100);
        for slot in 0..world.links.len() {
            let Some(link) = world.link(slot) else { continue };
            link.reading = Reading::All;
            world.deliver_to_server(slot, usize::MAX);
        }
        for _ in 0..20 {
            world.advance(Duration::from_secs(10));
            for slot in 0..world.links.len() {
                world.deliver_to_server(slot, usize::MAX);
            }
        }
        if world.draining.is_some() {
            panic!("a drain has no end");
        }
        assert_eq!(world.hub.backlog(), [0; 3], "frames, questions, pending connections");
        assert_eq!(world.hub.counts().deliveries, 0, "messages on their way");
        assert_eq!(world.site.waiting(), 0, "questions without an answer");
        let open = world.links.iter().flatten().filter(|link| link.opened).count();
        assert_eq!(world.hub.counts().connections, open);
        for link in world.links.iter().flatten().filter(|link| link.opened) {
            assert!(link.expected.is_empty(), "{:?} has not heard all", link.id);
            assert!(link.is_silent() && !link.is_unanswered());
        }
        world.oracle.outcomes.check(&world.oracle.conns, &world.site);
        for slot in 0..world.links.len() {
            if world.links[slot].is_some() {
                world.cut(slot);
            }
        }
        world.advance(Duration::from_secs(20));
        let counts = world.hub.counts();
        assert_eq!((counts.connections, counts.threads, counts.deliveries), (0, 0, 0));
    }
}

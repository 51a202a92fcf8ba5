//! The script of a run: random steps drawn from its seed.

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
/// The maximum number of connections at a time.
const LINKS_MAX: usize = 9;

/// Statistics of a run, to see that it tests something.
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
    Send,
    Invalid,
    Deliver,
    Read,
    Leave,
    Change,
    Revoke,
    Advance,
    Suspend,
    SetClock,
    Breaker,
    Drain,
    Stop,
    Kill,
}

/// Runs the script of this seed. Panics when a check fails.
pub fn run(seed: u64, trace: &mut Trace) -> RunStats {
    let mut rng = Rng::new(seed);
    let start = Instant::now();
    let plan = draw_config(&mut rng);
    let behavior = draw_site_behavior(&mut rng);
    trace.note(format!("{plan:?} {behavior:?}"));
    let site = Site::new(behavior, start, &mut rng);
    let (restarts, long_pauses) = (rng.chance(30), rng.chance(30));
    let world = World::new(plan, site, rng, start, trace);
    let mut script = Script { world, sent_count: 0, restarts, long_pauses, resendable: Vec::new() };
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
    /// How many frames and pings clients have sent, for unique clientIds and payloads.
    pub sent_count: u64,
    /// Whether the server is stopped now and then.
    restarts: bool,
    /// Whether long pauses are frequent.
    long_pauses: bool,
    /// Messages that may be sent again: the user, the time, the number of restarts before it, and the
    /// frame.
    pub resendable: Vec<(u64, Instant, usize, Value)>,
}

impl Script<'_> {
    fn step(&mut self) {
        let stop = u64::from(self.restarts && self.world.rng.chance(40));
        let has_few = self.world.links.iter().flatten().count() < 4;
        let step = self.world.rng.pick_weighted(&[
            (if has_few { 60 } else { 12 }, Step::Connect),
            (70, Step::Send),
            (6, Step::Invalid),
            (14, Step::Deliver),
            (12, Step::Read),
            (6, Step::Leave),
            (6, Step::Change),
            (1, Step::Revoke),
            (40, Step::Advance),
            (2, Step::Suspend),
            (1, Step::SetClock),
            (2, Step::Breaker),
            (2 * stop, Step::Drain),
            (stop, Step::Stop),
            (stop, Step::Kill),
        ]);
        match step {
            Step::Connect => self.connect(),
            Step::Send => self.send(),
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
            Step::Advance => {
                let rng = &mut self.world.rng;
                let long = if self.long_pauses { 40 } else { 6 };
                let ms = rng.pick_weighted(&[(60, 300), (30, 4_000), (long, 40_000), (1, 400_000)]);
                let ms = rng.below(ms);
                self.world.note(&format!("{ms} ms pass"));
                self.world.advance(Duration::from_millis(ms));
            }
            Step::Suspend => {
                let s = self.world.rng.range(1, SUSPENDED_MAX.as_secs());
                self.world.note(&format!("the process is suspended for {s} s"));
                self.world.suspend(Duration::from_secs(s));
            }
            Step::SetClock => {
                let by = self.world.rng.pick(&[-100_000_i64, -3_600, -60, 1, 60, 3_600, 100_000]);
                self.world.note(&format!("the clock jumps by {by} s"));
                let unix_s = self.world.unix_s().saturating_add_signed(by);
                self.world.set_clock(unix_s);
            }
            Step::Breaker => {
                let available = !self.world.site_available;
                self.world.set_site_available(available);
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

    /// The slot of a random connection.
    pub fn pick_connection(&mut self) -> Option<usize> {
        let links = self.world.links.iter().enumerate();
        let slots: Vec<usize> =
            links.filter(|(_, link)| link.is_some()).map(|(slot, _)| slot).collect();
        (!slots.is_empty()).then(|| self.world.rng.pick(&slots))
    }

    // ---- connecting and disconnecting

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
        let slot = slot.expect("a client has connected").slot as usize;
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
        self.world.note(&format!("{slot} sends a close frame"));
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
        self.world.link(slot).expect("the slot is in use").reading = reading;
    }

    fn change(&mut self) {
        let now = self.world.instant();
        let threads = self.world.site.threads();
        let world = &mut self.world;
        let (thread, user) = (world.rng.pick(&threads), world.rng.range(1, USERS));
        let mut participants = world.site.participants(thread);
        if world.rng.chance(10) {
            // The site gives the number to another thread.
            participants = (1..=USERS).filter(|_| world.rng.chance(40)).collect::<BTreeSet<u64>>();
        } else if !participants.remove(&user) {
            participants.insert(user);
        }
        world.note(&format!("thread {thread} has the participants {participants:?}"));
        world.site.change(thread, participants, now);
    }

    // ---- the end of the run

    /// Lets the site answer, all clients read and time pass; then checks that nothing is pending.
    fn settle(&mut self) {
        let world = &mut self.world;
        world.note("no failures from now on");
        let behavior = &mut world.site.behavior;
        (
            behavior.post_failures_percent,
            behavior.query_failures_percent,
            behavior.false_answers_percent,
            behavior.latency_max_ms,
        ) = (0, 0, 0, 100);
        world.set_site_available(true);
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
        // A recheck of a user may be in flight at any time, but not at all times.
        for _ in 0..40 {
            if world.hub.backlog() == [0; 3] {
                break;
            }
            world.advance(Duration::from_millis(50));
        }
        if world.draining.is_some() {
            panic!("the drain does not end");
        }
        assert_eq!(
            world.hub.backlog(),
            [0; 3],
            "held frames, queries, connections awaiting a proof"
        );
        assert_eq!(world.hub.counts().deliveries, 0, "messages in flight");
        assert_eq!(world.site.waiting(), 0, "unanswered queries");
        let open = world.links.iter().flatten().filter(|link| link.opened).count();
        assert_eq!(world.hub.counts().connections, open);
        for link in world.links.iter().flatten().filter(|link| link.opened) {
            assert!(link.expected.is_empty(), "{:?} has not received all its frames", link.id);
            assert!(link.is_drained() && !link.is_unanswered());
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

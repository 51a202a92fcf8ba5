//! The end of the server: what is on its way finishes, and who is connected is sent away little by
//! little, so that ten thousand clients do not come back in one second.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::budget::TimeBudget;
use super::{Server, clock};
use crate::http::handshake::Readiness;
use crate::hub::interface::{ConnId, Now};

/// The longest sleep of a server that is about to end: how finely it spreads the ends.
pub(super) const DRAIN_POLL: Duration = Duration::from_millis(20);
/// How long the last bytes may take to be read.
const LINGER: Duration = Duration::from_secs(1);

/// Connections sent away in a second, at least: ten people do not wait for half a minute.
const PER_SECOND: f64 = 200.0;
/// What a late tick may make up for at once; the rest is spread anew.
const BURST: Duration = Duration::from_millis(100);

/// Service restart (the IANA registry of close codes), and words for developers.
const CLOSE_CODE: u16 = 1012;
const CLOSE_REASON: &str = "the server is restarting";

/// A server that is about to end.
pub(super) struct Drain {
    pace: DrainPace,
    /// Who is still to be sent away, in the order of their slots; who waits for an outcome stands
    /// back.
    to_close: VecDeque<ConnId>,
    /// Nobody is left to wait for, or the time is over.
    done: bool,
    /// It was asked again.
    forced: bool,
}

impl Server {
    /// Ticks until a signal comes, then lets what is on its way finish, and says goodbye.
    ///
    /// # Errors
    ///
    /// Polling itself fails; no connection's error gets here.
    pub fn run(&mut self) -> io::Result<()> {
        let now = clock();
        self.warn_of_certificate(now);
        self.service_manager.ready(now.instant);
        while !self.draining.as_ref().is_some_and(|drain| drain.done) {
            self.tick()?;
        }
        self.shut_down()
    }

    /// What `GET /readyz` says, and whether WebSockets are opened.
    pub(super) fn readiness(&self, now: Instant) -> Readiness {
        match self.draining {
            Some(_) => Readiness::Draining,
            None if !self.upstream.is_ready(now) => Readiness::SiteUnavailable,
            None => Readiness::Ready,
        }
    }

    /// Begins to drain; a second time, ends at once.
    pub(super) fn begin_drain(&mut self, signal: &str, now: Now) {
        if let Some(drain) = &mut self.draining {
            log::info!("{signal} again: ending at once");
            (drain.done, drain.forced) = (true, true);
            return;
        }
        let lasts = self.config.drain_timeout;
        let mut to_close = VecDeque::new();
        for slot in self.connections.slots() {
            // Who has not asked for anything yet may be a balancer: its request is answered.
            let registered = self.connections.get(slot).filter(|connection| connection.registered);
            to_close.extend(registered.map(|connection| connection.id));
        }
        log::info!(
            "{signal}: draining for at most {}; {} connections, {} messages on their way",
            humantime::format_duration(lasts),
            to_close.len(),
            self.hub.counts().deliveries,
        );
        self.hub.begin_drain();
        let pace = DrainPace::new(now.instant, lasts);
        self.draining = Some(Drain { pace, to_close, done: false, forced: false });
        self.codec.set_readiness(Readiness::Draining);
        self.service_manager.stopping(now.instant);
        if self.listeners.are_inherited() {
            // Who comes now waits for the next server, instead of being sent away by this one.
            self.listeners.close(self.poll.registry());
        }
    }

    /// Sends away whose turn it is.
    pub(super) fn drain_some(&mut self, now: Now) {
        let Some(mut drain) = self.draining.take_if(|drain| !drain.done) else {
            return;
        };
        let mut granted = drain.pace.grant(drain.to_close.len(), now.instant);
        for _ in 0..drain.to_close.len() {
            if granted == 0 {
                break;
            }
            let Some(conn) = drain.to_close.pop_front() else {
                break;
            };
            let connection = self.connections.get(conn.slot);
            if !connection.is_some_and(|connection| connection.id == conn && connection.registered)
            {
                // Gone by itself.
            } else if self.hub.is_awaiting_outcome(conn) {
                drain.to_close.push_back(conn);
            } else {
                granted -= 1;
                self.close(conn, CLOSE_CODE, CLOSE_REASON, now);
                self.apply_effects(now);
            }
        }
        // A message whose sender has left is on its way all the same.
        let done = drain.to_close.is_empty() && self.hub.counts().deliveries == 0;
        drain.done = done || drain.pace.is_over(now.instant);
        self.draining = Some(drain);
    }

    /// Gives every message that is left its outcome, closes every connection that is left, and
    /// waits a little for the last bytes to be read.
    fn shut_down(&mut self) -> io::Result<()> {
        let now = clock();
        self.listeners.close(self.poll.registry());
        let messages = self.hub.counts().deliveries;
        self.hub.stop();
        self.apply_effects(now);
        let mut left = 0;
        for slot in self.connections.slots() {
            left += usize::from(
                self.connections.get(slot).is_some_and(|connection| connection.registered),
            );
            self.connections.close(slot, CLOSE_CODE, CLOSE_REASON, self.active_now);
        }
        if left + messages > 0 {
            log::info!("closing {left} connections at once, {messages} messages without an answer");
        }
        // Only then, so that nobody's end is told to those who are to go next.
        for slot in self.connections.slots() {
            self.notify_closed(slot, now);
            self.apply_effects(now);
        }
        self.connections.flush(&mut TimeBudget::new(LINGER, 0));
        let until = now.instant + LINGER;
        while self.connections.len() > 0
            && Instant::now() < until
            && !self.draining.as_ref().is_some_and(|drain| drain.forced)
        {
            self.tick()?;
        }
        log::info!("stopped: {:?}", self.counts());
        Ok(())
    }
}

/// How many may be sent away, as time goes by: as many in each second, until the time is over.
struct DrainPace {
    deadline: Instant,
    last_grant: Instant,
    /// Granted by the clock, and a fraction that is not a whole connection yet.
    credit: f64,
}

impl DrainPace {
    fn new(now: Instant, lasts: Duration) -> DrainPace {
        DrainPace { deadline: now + lasts, last_grant: now, credit: 0.0 }
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.deadline
    }

    /// How many of those who are left may go now. What is not used is not saved.
    fn grant(&mut self, left: usize, now: Instant) -> usize {
        let remains = self.deadline.saturating_duration_since(self.last_grant).as_secs_f64();
        let passed = now.saturating_duration_since(self.last_grant).min(BURST).as_secs_f64();
        self.last_grant = now;
        // At the end the quotient grows large, and `min` keeps it to what there is.
        let per_second = (left as f64 / remains.max(0.001)).max(PER_SECOND);
        self.credit = (self.credit + passed * per_second).min(left as f64);
        // Not negative, and not more than `left`.
        let granted = self.credit as usize;
        self.credit -= granted as f64;
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(20);

    /// How many go in each second, if all may go.
    fn seconds(connections: usize, lasts: Duration, tick: Duration) -> Vec<usize> {
        let begun = Instant::now();
        let mut pace = DrainPace::new(begun, lasts);
        let (mut left, mut now, mut seconds) = (connections, begun, Vec::new());
        while left > 0 && !pace.is_over(now) {
            now += tick;
            let granted = pace.grant(left, now);
            let second = (now - begun - tick).as_secs() as usize;
            seconds.resize(second + 1, 0);
            seconds[second] += granted;
            left -= granted;
        }
        assert_eq!(left, 0, "all are gone when the time is over: {seconds:?}");
        seconds
    }

    #[test]
    fn few_connections_close_at_once() {
        let begun = Instant::now();
        let mut pace = DrainPace::new(begun, Duration::from_secs(25));
        let granted: usize = (1..=3).map(|tick| pace.grant(10, begun + tick * TICK)).sum();
        assert!(granted >= 10, "{granted}");
        assert_eq!(seconds(200, Duration::from_secs(25), TICK).len(), 1);
    }

    #[test]
    fn many_closes_are_spread_evenly_over_the_drain() {
        for (connections, each) in [(10_000, 400), (100_000, 4_000), (5_000, 200)] {
            let seconds = seconds(connections, Duration::from_secs(25), TICK);
            assert!(seconds.len() >= 24, "{seconds:?}");
            let fair = each * 95 / 100..=each * 105 / 100;
            assert!(seconds[..24].iter().all(|second| fair.contains(second)), "{seconds:?}");
        }
    }

    #[test]
    fn closes_missed_while_suspended_are_spread_over_the_rest() {
        let begun = Instant::now();
        let mut pace = DrainPace::new(begun, Duration::from_secs(20));
        let mut left = 10_000;
        let after_the_stop = pace.grant(left, begun + Duration::from_secs(10));
        assert!(after_the_stop <= 100, "{after_the_stop}");
        left -= after_the_stop;
        let next = pace.grant(left, begun + Duration::from_secs(10) + TICK);
        assert!((15..=25).contains(&next), "a thousand a second: {next}");
    }

    #[test]
    fn unused_close_budget_is_not_accumulated() {
        let begun = Instant::now();
        let mut pace = DrainPace::new(begun, Duration::from_secs(25));
        for tick in 1..=1_000 {
            // Everybody waits for an outcome: nobody goes.
            pace.grant(1_000, begun + tick * TICK);
        }
        let granted = pace.grant(1_000, begun + 1_001 * TICK);
        assert!(granted <= 10, "{granted}");
    }

    #[test]
    fn zero_time_and_zero_connections_are_handled() {
        let now = Instant::now();
        let mut pace = DrainPace::new(now, Duration::ZERO);
        assert!(pace.is_over(now));
        assert_eq!(pace.grant(0, now), 0);
        assert!(pace.grant(7, now + TICK) <= 7);
    }
}

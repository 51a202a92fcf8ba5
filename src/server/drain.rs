//! Drain and shutdown: in-flight messages finish, and connections are closed gradually, so that ten
//! thousand clients do not reconnect in the same second.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::budget::TimeBudget;
use super::{Server, clock};
use crate::http::handshake::Readiness;
use crate::hub::interface::{ConnId, Now};

/// Poll timeout of a draining server, which is how finely it spreads the closes.
pub(super) const DRAIN_POLL: Duration = Duration::from_millis(20);
/// How long clients may take to read the last bytes.
const LINGER: Duration = Duration::from_secs(1);

/// Minimum of connections closed per second: a few clients need not wait for the whole drain.
const PER_SECOND: f64 = 200.0;
/// Time for which a late tick may catch up at once; the rest is spread over the remaining time.
const BURST: Duration = Duration::from_millis(100);

/// "Service Restart" in the IANA registry of close codes, with a reason for developers.
const CLOSE_CODE: u16 = 1012;
const CLOSE_REASON: &str = "the server is restarting";

/// State of a draining server.
pub(super) struct Drain {
    pace: DrainPace,
    /// Connections still to be closed, in the order of their slots; those that await an outcome
    /// move to the back.
    to_close: VecDeque<ConnId>,
    /// Nothing is left to wait for, or the time is over.
    done: bool,
    /// A second signal has asked to stop at once.
    forced: bool,
}

impl Server {
    /// Runs the loop until a signal arrives, then drains and closes all connections.
    ///
    /// # Errors
    ///
    /// Polling itself fails. An error of a connection only ends that connection.
    pub fn run(&mut self) -> io::Result<()> {
        let now = clock();
        self.warn_of_certificate(now);
        self.service_manager.ready(now.instant);
        while !self.draining.as_ref().is_some_and(|drain| drain.done) {
            self.tick()?;
        }
        self.shut_down()
    }

    /// The state that `GET /readyz` reports and that decides whether WebSockets are opened.
    pub(super) fn readiness(&self, now: Instant) -> Readiness {
        match self.draining {
            Some(_) => Readiness::Draining,
            None if !self.upstream.is_ready(now) => Readiness::SiteUnavailable,
            None => Readiness::Ready,
        }
    }

    /// Begins to drain. Called a second time, stops at once.
    pub(super) fn begin_drain(&mut self, signal: &str, now: Now) {
        if let Some(drain) = &mut self.draining {
            log::info!("{signal} again: stopping at once");
            (drain.done, drain.forced) = (true, true);
            return;
        }
        let timeout = self.config.drain_timeout;
        let mut to_close = VecDeque::new();
        for slot in self.connections.slots() {
            // A connection without a request may be a load balancer's probe: it is still answered.
            let registered = self.connections.get(slot).filter(|connection| connection.registered);
            to_close.extend(registered.map(|connection| connection.id));
        }
        log::info!(
            "{signal}: draining for at most {}; {} connections, {} messages in flight",
            humantime::format_duration(timeout),
            to_close.len(),
            self.hub.counts().deliveries,
        );
        self.hub.begin_drain();
        let pace = DrainPace::new(now.instant, timeout);
        self.draining = Some(Drain { pace, to_close, done: false, forced: false });
        self.codec.set_readiness(Readiness::Draining);
        self.service_manager.stopping(now.instant);
        if self.listeners.are_inherited() {
            // New clients wait in the queue of the inherited socket for the next server.
            self.listeners.close(self.poll.registry());
        }
    }

    /// Closes as many connections as the pace of the drain grants to this tick.
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
                // It has closed by itself.
            } else if self.hub.is_awaiting_outcome(conn) {
                drain.to_close.push_back(conn);
            } else {
                granted -= 1;
                self.close(conn, CLOSE_CODE, CLOSE_REASON, now);
                self.apply_effects(now);
            }
        }
        // A message may be in flight although its sender has left.
        let done = drain.to_close.is_empty() && self.hub.counts().deliveries == 0;
        drain.done = done || drain.pace.is_over(now.instant);
        self.draining = Some(drain);
    }

    /// Gives each remaining message its outcome, closes each remaining connection, and waits for up
    /// to a second until clients have read the last bytes.
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
            log::info!("closing {left} remaining connections; {messages} messages have no answer");
        }
        // After all are closing, so that none is notified of another's departure.
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

/// Spreads the closes of a drain evenly over its time.
struct DrainPace {
    deadline: Instant,
    last_grant: Instant,
    /// Closes granted and not used, a fraction of a connection included.
    credit: f64,
}

impl DrainPace {
    fn new(now: Instant, timeout: Duration) -> DrainPace {
        DrainPace { deadline: now + timeout, last_grant: now, credit: 0.0 }
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.deadline
    }

    /// Returns how many of the `left` connections may be closed now. Unused grants expire.
    fn grant(&mut self, left: usize, now: Instant) -> usize {
        let remaining = self.deadline.saturating_duration_since(self.last_grant).as_secs_f64();
        let elapsed = now.saturating_duration_since(self.last_grant).min(BURST).as_secs_f64();
        self.last_grant = now;
        // Near the deadline the quotient grows large; `min` limits it to the connections left.
        let per_second = (left as f64 / remaining.max(0.001)).max(PER_SECOND);
        self.credit = (self.credit + elapsed * per_second).min(left as f64);
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

    /// Closes per second, if no connection awaits an outcome.
    fn seconds(connections: usize, timeout: Duration, tick: Duration) -> Vec<usize> {
        let begun = Instant::now();
        let mut pace = DrainPace::new(begun, timeout);
        let (mut left, mut now, mut seconds) = (connections, begun, Vec::new());
        while left > 0 && !pace.is_over(now) {
            now += tick;
            let granted = pace.grant(left, now);
            let second = (now - begun - tick).as_secs() as usize;
            seconds.resize(second + 1, 0);
            seconds[second] += granted;
            left -= granted;
        }
        assert_eq!(left, 0, "all are closed at the deadline: {seconds:?}");
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
        let after_suspension = pace.grant(left, begun + Duration::from_secs(10));
        assert!(after_suspension <= 100, "{after_suspension}");
        left -= after_suspension;
        let next = pace.grant(left, begun + Duration::from_secs(10) + TICK);
        assert!((15..=25).contains(&next), "1,000 per second: {next}");
    }

    #[test]
    fn unused_close_budget_is_not_accumulated() {
        let begun = Instant::now();
        let mut pace = DrainPace::new(begun, Duration::from_secs(25));
        for tick in 1..=1_000 {
            // All connections await an outcome: none is closed.
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

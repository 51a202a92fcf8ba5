//! The circuit breaker: whether the site is asked at all.
//!
//! A pure state machine; the pool tells it what it hears and what time it is.
//!
//! ```text
//!           5 failures in a row, or a wait that the site asks for
//!   closed ─────────────────────────────────────────────────────▶ open
//!     ▲  ▲         a late answer shows that the site is alive     │ ▲
//!     │  └────────────────────────────────────────────────────────┤ │ the probe fails:
//!     │                                         its time is over  │ │ twice the pause
//!     │               the probe is answered                       ▼ │
//!     └──────────────────────────────────────────────────────── half-open
//! ```
//!
//! While it is not closed no ask goes out, and one probe, which is nobody's message, finds out
//! whether the site is back. Answers to asks that went out before are still listened to: a good one
//! is as good a proof as the probe's, and closes it, unless the site has asked for a wait that is
//! not over.
//!
//! A site may turn guests away and serve its members: a plugin that says "coming soon" answers them
//! 503. There the probe, which has no token, proves nothing. So one that fails while it is closed
//! does not count, and if members are served all the same, no probe decides: when its time is over
//! it closes, and the next failure opens it again for twice as long.

use std::time::{Duration, Instant};

use super::health::Health;

/// So many failures in a row open it.
pub const FAILURES_MAX: u32 = 5;
/// How long it stays open the first time.
pub const PAUSE_MIN: Duration = Duration::from_secs(1);
/// How long at most, after probes that failed.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The longest wait that the site may ask for. WordPress in maintenance says 600 s whatever it
/// does, and an update takes seconds: to believe it would make ten minutes of each.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// The state machine.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// Whether a probe is out, for whatever reason: never two.
    probing: bool,
    /// The last probe has failed while it was closed.
    last_probe_failed: bool,
    /// And members were served after that: the probe proves nothing.
    probe_unreliable: bool,
}

#[derive(Debug)]
enum State {
    Closed {
        /// In a row.
        failures: u32,
        /// How long it opens next.
        pause: Duration,
    },
    Open {
        until: Instant,
        /// How long it is open without a wish of the site.
        pause: Duration,
        /// Whether the site has asked for this wait.
        by_site: bool,
    },
    /// The probe that decides is out.
    HalfOpen {
        /// As before.
        pause: Duration,
    },
}

impl State {
    const CLOSED: State = State::Closed { failures: 0, pause: PAUSE_MIN };
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// No ask is to go out from now on. What waits is to be answered.
    Opened {
        /// Until the probe.
        pause: Duration,
    },
    /// The probe has failed: open again.
    Reopened {
        /// Until the next one.
        pause: Duration,
    },
    /// Asks may go out again.
    Closed,
}

impl Default for Breaker {
    /// Closed.
    fn default() -> Breaker {
        Breaker {
            state: State::CLOSED,
            probing: false,
            last_probe_failed: false,
            probe_unreliable: false,
        }
    }
}

impl Breaker {
    /// Whether asks may go out.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// The state, as a number in [`Breaker::STATES`].
    pub fn state(&self) -> usize {
        match self.state {
            State::Closed { .. } => 0,
            State::Open { .. } => 1,
            State::HalfOpen { .. } => 2,
        }
    }

    /// The words for its states.
    pub const STATES: [&'static str; 3] = ["closed", "open", "half_open"];

    /// How long nothing is asked, in whole seconds and at least 1; `None` when it is closed.
    pub fn retry_after_s(&self, now: Instant) -> Option<u32> {
        let left = match self.state {
            State::Closed { .. } => return None,
            State::Open { until, .. } => until.saturating_duration_since(now),
            State::HalfOpen { .. } => Duration::ZERO,
        };
        Some((left.as_millis().div_ceil(1000) as u32).max(1))
    }

    /// When it wants a probe to go out; `None` while it is closed or a probe is out.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Open { until, .. } if !self.probing => Some(until),
            _ => None,
        }
    }

    /// Whether a probe is to go out now, which then counts as being out until
    /// [`Breaker::record_probe`]. While it is closed, one goes out if it is `wanted` for other reasons.
    pub fn try_start_probe(&mut self, wanted: bool, now: Instant) -> bool {
        if self.probing {
            return false;
        }
        match self.state {
            State::Closed { .. } => self.probing = wanted,
            State::Open { until, pause, .. } if until <= now && self.probe_unreliable => {
                let pause = (pause * 2).min(PAUSE_MAX);
                self.state = State::Closed { failures: FAILURES_MAX - 1, pause };
                self.probing = wanted;
            }
            State::Open { until, pause, .. } if until <= now => {
                self.state = State::HalfOpen { pause };
                self.probing = true;
            }
            State::Open { .. } | State::HalfOpen { .. } => {}
        }
        self.probing
    }

    /// Takes the sign in the answer to an ask.
    pub fn record(&mut self, health: Health, now: Instant) -> Option<Transition> {
        match (&mut self.state, health) {
            (_, Health::Neutral) => None,
            (State::Closed { .. }, Health::Alive) => {
                self.probe_unreliable |= self.last_probe_failed;
                self.state = State::CLOSED;
                None
            }
            (State::Closed { failures, pause }, Health::Failing { retry_after }) => {
                *failures += 1;
                let (opens, pause) = (retry_after.is_some() || *failures >= FAILURES_MAX, *pause);
                opens.then(|| Transition::Opened { pause: self.open(pause, retry_after, now) })
            }
            (State::Open { until, by_site: true, .. }, Health::Alive) if now < *until => None,
            (State::Open { .. } | State::HalfOpen { .. }, Health::Alive) => Some(self.close()),
            (
                State::Open { until, by_site, .. },
                Health::Failing { retry_after: Some(retry_after) },
            ) => {
                *until = (*until).max(now + retry_after.min(WAIT_MAX));
                *by_site = true;
                None
            }
            // The probe that is out, or the next one, decides.
            (State::Open { .. } | State::HalfOpen { .. }, Health::Failing { .. }) => None,
        }
    }

    /// Takes the sign in the answer to the probe. Any answer but a failure closes: a probe may meet
    /// what members' requests do not, as a firewall that wants a token.
    pub fn record_probe(&mut self, health: Health, now: Instant) -> Option<Transition> {
        self.probing = false;
        match (&self.state, health) {
            (State::HalfOpen { pause }, Health::Failing { retry_after }) => {
                let pause = self.open((*pause * 2).min(PAUSE_MAX), retry_after, now);
                Some(Transition::Reopened { pause })
            }
            (State::HalfOpen { .. }, _) => Some(self.close()),
            (State::Closed { .. }, Health::Failing { .. }) => {
                self.last_probe_failed = true;
                None
            }
            _ => {
                (self.last_probe_failed, self.probe_unreliable) = (false, false);
                self.record(health, now)
            }
        }
    }

    /// Opens for this long, or longer where the site asks for it; returns how long.
    fn open(&mut self, pause: Duration, retry_after: Option<Duration>, now: Instant) -> Duration {
        let lasts = retry_after.map_or(pause, |retry_after| retry_after.min(WAIT_MAX).max(pause));
        let by_site = retry_after.is_some();
        self.state = State::Open { until: now + lasts, pause, by_site };
        lasts
    }

    fn close(&mut self) -> Transition {
        self.state = State::CLOSED;
        Transition::Closed
    }
}

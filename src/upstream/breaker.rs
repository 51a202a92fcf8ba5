//! The circuit breaker: stops requests to a failing site and probes until it recovers.
//!
//! A pure state machine; the pool passes it the [`Health`] of each reply and the time.
//!
//! ```text
//!           5 failures in a row, or a pause that the site asks for
//!   closed ─────────────────────────────────────────────────────▶ open
//!     ▲  ▲         a late reply shows that the site is alive      │ ▲
//!     │  └────────────────────────────────────────────────────────┤ │ the probe fails:
//!     │                                        the pause is over  │ │ twice the pause
//!     │               the probe is answered                       ▼ │
//!     └──────────────────────────────────────────────────────── half-open
//! ```
//!
//! While the breaker is not closed, no request goes out; a single probe, which carries no member's
//! message, finds out whether the site is back. Replies to requests sent earlier still count: a
//! good one proves as much as the probe's and closes the breaker, unless the site asked for a pause
//! that is not over.
//!
//! A site may refuse anonymous requests and serve its members: a "coming soon" plugin answers
//! guests with 503. There the probe, which has no token, proves nothing. So a probe that fails
//! while the breaker is closed does not count, and if members are served all the same, probes no
//! longer decide: the breaker closes when its pause is over, and the next failure opens it for
//! twice as long.
//!
//! No library is used: this breaker decides from probes, `Retry-After` and a time that the caller
//! passes in, which crates that wrap calls do not cover.

use std::time::{Duration, Instant};

use super::health::Health;

/// The number of consecutive failures that opens the breaker.
pub const FAILURES_MAX: u32 = 5;
/// The first pause: how long the breaker stays open before a probe.
pub const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause; each failed probe doubles it.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The longest pause that the site may ask for. WordPress in maintenance always says 600 s, while
/// an update takes seconds: honouring that would turn each update into a ten-minute outage.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// The circuit breaker's state machine.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// Whether a probe is in flight; there is at most one.
    probing: bool,
    /// Whether the last probe failed while the breaker was closed.
    last_probe_failed: bool,
    /// Whether members were served after such a probe, so that probes prove nothing.
    probe_unreliable: bool,
}

#[derive(Debug)]
enum State {
    Closed {
        /// Consecutive failures.
        failures: u32,
        /// How long the breaker opens the next time.
        pause: Duration,
    },
    Open {
        until: Instant,
        /// The pause without a `Retry-After`.
        pause: Duration,
        /// Whether the site asked for this pause.
        by_site: bool,
    },
    /// The probe that decides is in flight.
    HalfOpen {
        /// The pause before this probe.
        pause: Duration,
    },
}

impl State {
    const CLOSED: State = State::Closed { failures: 0, pause: PAUSE_MIN };
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Requests must not go out any more; queued ones must be failed.
    Opened {
        /// Time until the probe.
        pause: Duration,
    },
    /// The probe failed: open again.
    Reopened {
        /// Time until the next probe.
        pause: Duration,
    },
    /// Requests may go out again.
    Closed,
}

impl Default for Breaker {
    /// A closed breaker.
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
    /// Whether requests may go out.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// The state, as an index into [`Breaker::STATES`].
    pub fn state(&self) -> usize {
        match self.state {
            State::Closed { .. } => 0,
            State::Open { .. } => 1,
            State::HalfOpen { .. } => 2,
        }
    }

    /// The metric labels of the states.
    pub const STATES: [&'static str; 3] = ["closed", "open", "half_open"];

    /// The rest of the pause, in whole seconds and at least 1; `None` while closed.
    pub fn retry_after_s(&self, now: Instant) -> Option<u32> {
        let left = match self.state {
            State::Closed { .. } => return None,
            State::Open { until, .. } => until.saturating_duration_since(now),
            State::HalfOpen { .. } => Duration::ZERO,
        };
        Some((left.as_millis().div_ceil(1000) as u32).max(1))
    }

    /// When the next probe is due; `None` while closed or while a probe is in flight.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Open { until, .. } if !self.probing => Some(until),
            _ => None,
        }
    }

    /// Whether to send a probe now, which is then in flight until [`Breaker::record_probe`]. While
    /// the breaker is closed, a probe is sent only if it is `wanted` for other reasons.
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

    /// Records the health shown by the reply to a request.
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
            // The probe that is in flight, or the next one, decides.
            (State::Open { .. } | State::HalfOpen { .. }, Health::Failing { .. }) => None,
        }
    }

    /// Records the health shown by the reply to a probe. Any reply but a failure closes the
    /// breaker: a probe may meet obstacles that members' requests do not, such as a firewall that
    /// requires a token.
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

    /// Opens the breaker for `pause`, or longer if the site asks for it; returns the time.
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

//! Logs problems of the site, rate-limited and without secrets.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::outage::Outages;
use super::worker::AskKind;
use crate::config::site_url::SiteUrl;
use crate::hub::interface::{Answer, Failure, RequestId};
use crate::upstream::breaker::FAILURES_MAX;
use crate::upstream::buddyboss::ProbeFinding;
use crate::upstream::health::Health;
use crate::upstream::site::Outcome;
use crate::upstream::url_style::UrlStyle;

/// The same line is logged at most once in this time: a site that is down fails every request.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// The most recent lines that are remembered for the rate limit.
const LINES_MAX: usize = 16;

/// If so many tokens were refused and none accepted, the token header may not reach WordPress.
const REFUSALS_BEFORE_WARNING: u32 = 3;

/// The recent log lines, and the parts of the site's state that decide about log lines.
pub(super) struct Warnings {
    url: SiteUrl,
    /// The lines of the last minute and their times, the oldest first.
    recent: VecDeque<(String, Instant)>,
    outages: Outages,
    /// The number of refused tokens; `None` once the site has accepted one.
    refused: Option<u32>,
    /// The URL style that was last logged as working.
    url_style: Option<UrlStyle>,
    /// When other output around the site's JSON was last logged as a warning.
    noise_at: Option<Instant>,
}

impl Warnings {
    pub(super) fn new(url: SiteUrl) -> Warnings {
        Warnings {
            url,
            recent: VecDeque::new(),
            outages: Outages::default(),
            refused: Some(0),
            url_style: None,
            noise_at: None,
        }
    }

    /// Logs a warning, prefixed with the site's URL.
    pub(super) fn warn(&mut self, problem: &str, now: Instant) {
        self.log_once(log::Level::Warn, None, format!("{}: {problem}", self.url), now);
    }

    /// Logs a warning with the request that caused it.
    pub(super) fn warn_for(&mut self, request: RequestId, problem: &str, now: Instant) {
        self.log_once(log::Level::Warn, Some(request), format!("{}: {problem}", self.url), now);
    }

    /// Logs a failed request while the breaker is closed: as a warning if the operator can act on
    /// it.
    pub(super) fn warn_outcome(
        &mut self,
        kind: AskKind,
        request: RequestId,
        outcome: &Outcome,
        now: Instant,
    ) {
        if outcome.answer.is_from_site() {
            self.outages.record_success(now);
        }
        let Answer::Failed(failure) = &outcome.answer else { return };
        let Some(line) = Warnings::describe(kind, outcome) else { return };
        if !outcome.answer.is_from_site() {
            self.begin_outage(now);
            self.warn_for(request, &line, now);
        } else if matches!(failure, Failure::ThreadTooLarge | Failure::NotStored) {
            self.warn_for(request, &line, now);
        } else {
            // A fault of the member's request, not of the site.
            log::debug!(request = request.0; "{}: {line}", self.url);
        }
    }

    /// Logs a failed request while the breaker is not closed: the outage was logged when it began.
    pub(super) fn debug_outcome(
        &mut self,
        kind: AskKind,
        request: RequestId,
        outcome: &Outcome,
        now: Instant,
    ) {
        if outcome.log_detail.is_some() && !outcome.answer.is_from_site() {
            self.outages.record_failure(now);
        }
        if let Some(line) = Warnings::describe(kind, outcome) {
            log::debug!(request = request.0; "{}: {line}", self.url);
        }
    }

    fn describe(kind: AskKind, outcome: &Outcome) -> Option<String> {
        let detail = outcome.log_detail.as_deref()?;
        Some(format!("request failed ({kind}): {detail}"))
    }

    /// Logs that the breaker opened because of `health`, with the last problem.
    pub(super) fn warn_opened(
        &mut self,
        health: Health,
        problem: &str,
        pause: Duration,
        now: Instant,
    ) {
        self.begin_outage(now);
        let pause = pause.as_secs();
        let line = match health {
            Health::Failing { retry_after: Some(_) } => format!("it asks for a pause ({problem})"),
            _ => format!("{FAILURES_MAX} failures in a row, the last: {problem}"),
        };
        self.warn(&format!("{line}; next probe in {pause} s"), now);
    }

    /// Logs that the site answers everyone with something that no member can use.
    pub(super) fn warn_unusable(&mut self, detail: &str, now: Instant) {
        self.begin_outage(now);
        let line = format!(
            "nobody can authenticate or send: {detail}. GET /readyz says so until that changes"
        );
        self.warn(&line, now);
    }

    /// Records that the site has answered well. That ends an outage after a while.
    pub(super) fn record_success(&mut self, now: Instant) {
        self.outages.record_success(now);
    }

    /// Records a failure. The first of an outage is logged, even if an earlier outage had the same.
    fn begin_outage(&mut self, now: Instant) {
        if self.outages.record_failure(now) {
            self.recent.clear();
        }
    }

    /// When [`Warnings::log_recovery`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.outages.deadline()
    }

    /// Logs that an outage is over, if it is.
    pub(super) fn log_recovery(&mut self, now: Instant) {
        if let Some(lasted) = self.outages.take_end(now) {
            log::info!("{}: it answers again, after {} s", self.url, lasted.as_secs());
        }
    }

    /// Logs the URL style that a probe found, if it changed.
    pub(super) fn log_url_style(&mut self, url_style: UrlStyle) {
        if self.url_style.replace(url_style) != Some(url_style) {
            let prefix = url_style.prefix();
            log::info!("{}: the BuddyBoss REST API answers at {prefix}", self.url);
        }
    }

    /// Warns of other output around the site's JSON, which was read through. At most once a minute,
    /// whatever the output is, because it may differ with each reply.
    pub(super) fn warn_noise(&mut self, noise: Option<&str>, now: Instant) {
        let Some(noise) = noise else { return };
        let is_due = |at| now.saturating_duration_since(at) >= WARN_INTERVAL;
        if self.noise_at.is_none_or(is_due) {
            self.noise_at = Some(now);
            log::warn!("{}: {noise}", self.url);
        } else {
            log::debug!("{}: {noise}", self.url);
        }
    }

    /// Describes what a probe found instead of the API; `detail` describes the reply.
    pub(super) fn describe_probe(finding: &ProbeFinding, detail: Option<&str>) -> String {
        match finding {
            ProbeFinding::Redirect(to) => {
                format!("it redirects to {to}; set --buddyboss-url to the address it redirects to")
            }
            ProbeFinding::NoRoute => {
                "WordPress answers, but the BuddyBoss REST API is not there".to_owned()
            }
            ProbeFinding::NoMessages => {
                "BuddyBoss' messages are not there: activate the component Private Messaging"
                    .to_owned()
            }
            ProbeFinding::Other(status) => match detail {
                Some(detail) => format!("it answers not as a REST API: {detail}"),
                None => format!("it answers with status {status} and not as a REST API"),
            },
            ProbeFinding::Unreachable(reason) => format!("it cannot be reached: {reason}"),
            ProbeFinding::Api => "the probe failed".to_owned(),
        }
    }

    /// Warns if the site has refused all tokens so far: the header may not reach WordPress.
    pub(super) fn track_token(&mut self, answer: &Answer, now: Instant) {
        match answer {
            Answer::Failed(Failure::TokenRefused) => {
                let Some(refused) = &mut self.refused else { return };
                *refused = refused.saturating_add(1);
                if *refused >= REFUSALS_BEFORE_WARNING {
                    self.warn(
                        "it has accepted no token so far: check that its web server passes the \
                         header Authorization on to WordPress, and that --token-header is right",
                        now,
                    );
                }
            }
            Answer::Failed(_) => {}
            _ => self.refused = None,
        }
    }

    /// Logs a line at most once a minute, whatever its request; repetitions go to `debug`.
    pub(super) fn log_once(
        &mut self,
        level: log::Level,
        request: Option<RequestId>,
        line: String,
        now: Instant,
    ) {
        let request = request.map(|request| request.0);
        self.recent.retain(|(_, at)| now.saturating_duration_since(*at) < WARN_INTERVAL);
        if self.recent.iter().any(|(recent, _)| *recent == line) {
            return log::debug!(request; "{line}");
        }
        log::log!(level, request; "{line}");
        if self.recent.len() >= LINES_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((line, now));
    }
}

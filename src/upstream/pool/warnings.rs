//! What the operator is told about the site: each thing once, and no secret.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::worker::AskKind;
use crate::config::site_url::SiteUrl;
use crate::hub::interface::{Answer, Failure, RequestId};
use crate::upstream::breaker::FAILURES_MAX;
use crate::upstream::buddyboss::ProbeFinding;
use crate::upstream::health::Health;
use crate::upstream::site::Outcome;
use crate::upstream::url_style::UrlStyle;

/// The same is said once in this time: a site that is down fails every ask.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// So many different lines are remembered.
const LINES_MAX: usize = 16;

/// So many refused tokens before any was accepted are no accident.
const REFUSALS_BEFORE_WARNING: u32 = 3;

/// What was said, and what is known of the site's state.
pub(super) struct Warnings {
    url: SiteUrl,
    /// What was said within the last minute, and when; the oldest first.
    recent: VecDeque<(String, Instant)>,
    /// Since when the site has been in trouble, if it is.
    failing_since: Option<Instant>,
    /// Tokens that the site has refused, while it has accepted none.
    refused: Option<u32>,
    /// The form of address that was last said to work.
    url_style: Option<UrlStyle>,
}

impl Warnings {
    pub fn new(url: SiteUrl) -> Warnings {
        Warnings {
            url,
            recent: VecDeque::new(),
            failing_since: None,
            refused: Some(0),
            url_style: None,
        }
    }

    /// Warns, with the site's address.
    pub fn warn(&mut self, what: &str, now: Instant) {
        self.log_once(log::Level::Warn, None, format!("{}: {what}", self.url), now);
    }

    /// The same, because of a request.
    pub fn warn_for(&mut self, request: RequestId, what: &str, now: Instant) {
        self.log_once(log::Level::Warn, Some(request), format!("{}: {what}", self.url), now);
    }

    /// What an operator should know of an answer, while the site is asked.
    pub fn warn_outcome(
        &mut self,
        what: AskKind,
        request: RequestId,
        outcome: &Outcome,
        now: Instant,
    ) {
        if outcome.answer.is_from_site() {
            self.log_recovery(now);
        }
        let Answer::Failed(failure) = &outcome.answer else { return };
        let Some(line) = Warnings::describe(what, outcome) else { return };
        if !outcome.answer.is_from_site() {
            self.failing_since = self.failing_since.or(Some(now));
            self.warn_for(request, &line, now);
        } else if matches!(failure, Failure::ThreadTooLarge | Failure::NotStored) {
            self.warn_for(request, &line, now);
        } else {
            // The member's affair, not the operator's.
            log::debug!(request = request.0; "{}: {line}", self.url);
        }
    }

    /// The same, while it is not asked any more: that was said when it began.
    pub fn debug_outcome(&mut self, what: AskKind, request: RequestId, outcome: &Outcome) {
        if let Some(line) = Warnings::describe(what, outcome) {
            log::debug!(request = request.0; "{}: {line}", self.url);
        }
    }

    fn describe(what: AskKind, outcome: &Outcome) -> Option<String> {
        let remark = outcome.log_detail.as_deref()?;
        Some(format!("{what} has no good answer: {remark}"))
    }

    /// The site is not asked for a while, because of this sign, of which `why` says more.
    pub fn warn_opened(&mut self, health: Health, why: &str, pause: Duration, now: Instant) {
        self.failing_since = self.failing_since.or(Some(now));
        let pause = pause.as_secs();
        let line = match health {
            Health::Failing { retry_after: Some(_) } => format!("it asks for a pause ({why})"),
            _ => format!("{FAILURES_MAX} failures in a row, the last: {why}"),
        };
        self.warn(&format!("{line}; it is asked again in {pause} s"), now);
    }

    /// The site is in order; said if it was not.
    pub fn log_recovery(&mut self, now: Instant) {
        if let Some(since) = self.failing_since.take() {
            let lasted = now.saturating_duration_since(since).as_secs();
            let line = format!("{}: it answers again, after {lasted} s", self.url);
            self.log_once(log::Level::Info, None, line, now);
        }
    }

    /// What a probe has found.
    pub fn log_url_style(&mut self, url_style: UrlStyle) {
        if self.url_style.replace(url_style) != Some(url_style) {
            let way = match url_style {
                UrlStyle::Pretty => "/wp-json/",
                UrlStyle::RestRoute => "/?rest_route=/",
            };
            log::info!("{}: the BuddyBoss REST API answers at {way}", self.url);
        }
    }

    /// What a probe has found instead, in words.
    pub fn describe_probe(finding: &ProbeFinding) -> String {
        match finding {
            ProbeFinding::Redirect(to) => format!(
                "it redirects to {to}; set the address of the site to the one it redirects to"
            ),
            ProbeFinding::NoRoute => {
                "WordPress answers, but the BuddyBoss REST API is not there".to_owned()
            }
            ProbeFinding::Other(status) => {
                format!("it answers with status {status} and no REST API")
            }
            ProbeFinding::Unreachable(why) => format!("it is not reached: {why}"),
            ProbeFinding::Api => "the probe failed".to_owned(),
        }
    }

    /// A site that accepts no token at all is perhaps not shown any.
    pub fn track_token(&mut self, answer: &Answer, now: Instant) {
        match answer {
            Answer::Failed(Failure::TokenRefused) => {
                let Some(refused) = &mut self.refused else { return };
                *refused = refused.saturating_add(1);
                if *refused >= REFUSALS_BEFORE_WARNING {
                    self.warn(
                        "it has accepted no token so far: does its web server pass the header \
                         Authorization on to WordPress, and is --token-header what it expects?",
                        now,
                    );
                }
            }
            Answer::Failed(_) => {}
            _ => self.refused = None,
        }
    }

    /// Says the same at most once a minute, of whichever request.
    pub fn log_once(
        &mut self,
        level: log::Level,
        request: Option<RequestId>,
        line: String,
        now: Instant,
    ) {
        let request = request.map(|request| request.0);
        self.recent.retain(|(_, then)| now.saturating_duration_since(*then) < WARN_INTERVAL);
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

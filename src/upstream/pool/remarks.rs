//! What the operator is told about the site: each thing once, and no secret.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::work::What;
use crate::config::site_url::SiteUrl;
use crate::hub::interface::{Answer, Failure, RequestId};
use crate::upstream::address::Form;
use crate::upstream::breaker::FAILURES_MAX;
use crate::upstream::buddyboss::Finding;
use crate::upstream::health::Sign;
use crate::upstream::site::Outcome;

/// The same is said once in this time: a site that is down fails every ask.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many different lines are remembered.
const LINES_MAX: usize = 16;

/// So many refused tokens before any was accepted are no accident.
const REFUSED_FROM_THE_START: u32 = 3;

/// What was said, and what is known of the site's state.
pub(super) struct Remarks {
    url: SiteUrl,
    /// What was said within the last minute, and when; the oldest first.
    said: VecDeque<(String, Instant)>,
    /// Since when the site has been in trouble, if it is.
    failing: Option<Instant>,
    /// Tokens that the site has refused, while it has accepted none.
    refused: Option<u32>,
    /// The form of address that was last said to work.
    form: Option<Form>,
}

impl Remarks {
    pub fn new(url: SiteUrl) -> Remarks {
        Remarks { url, said: VecDeque::new(), failing: None, refused: Some(0), form: None }
    }

    /// Warns, with the site's address.
    pub fn warn(&mut self, what: &str, now: Instant) {
        self.say(log::Level::Warn, None, format!("{}: {what}", self.url), now);
    }

    /// The same, because of a request.
    pub fn warn_of(&mut self, request: RequestId, what: &str, now: Instant) {
        self.say(log::Level::Warn, Some(request), format!("{}: {what}", self.url), now);
    }

    /// What an operator should know of an answer, while the site is asked.
    pub fn answered(&mut self, what: What, request: RequestId, outcome: &Outcome, now: Instant) {
        if outcome.answer.is_the_sites() {
            self.answers_again(now);
        }
        let Answer::Failed(failure) = &outcome.answer else { return };
        let Some(line) = Remarks::line(what, outcome) else { return };
        if !outcome.answer.is_the_sites() {
            self.failing = self.failing.or(Some(now));
            self.warn_of(request, &line, now);
        } else if matches!(failure, Failure::ThreadTooLarge | Failure::NotStored) {
            self.warn_of(request, &line, now);
        } else {
            // The member's affair, not the operator's.
            log::debug!(request = request.0; "{}: {line}", self.url);
        }
    }

    /// The same, while it is not asked any more: that was said when it began.
    pub fn answered_late(&mut self, what: What, request: RequestId, outcome: &Outcome) {
        if let Some(line) = Remarks::line(what, outcome) {
            log::debug!(request = request.0; "{}: {line}", self.url);
        }
    }

    fn line(what: What, outcome: &Outcome) -> Option<String> {
        let remark = outcome.remark.as_deref()?;
        Some(format!("{what} has no good answer: {remark}"))
    }

    /// The site is not asked for a while, because of this sign, of which `why` says more.
    pub fn opened(&mut self, sign: Sign, why: &str, pause: Duration, now: Instant) {
        self.failing = self.failing.or(Some(now));
        let pause = pause.as_secs();
        let line = match sign {
            Sign::Failing { wait: Some(_) } => format!("it asks for a pause ({why})"),
            _ => format!("{FAILURES_MAX} failures in a row, the last: {why}"),
        };
        self.warn(&format!("{line}; it is asked again in {pause} s"), now);
    }

    /// The site is in order; said if it was not.
    pub fn answers_again(&mut self, now: Instant) {
        if let Some(since) = self.failing.take() {
            let lasted = now.saturating_duration_since(since).as_secs();
            let line = format!("{}: it answers again, after {lasted} s", self.url);
            self.say(log::Level::Info, None, line, now);
        }
    }

    /// What a probe has found.
    pub fn found(&mut self, form: Form) {
        if self.form.replace(form) != Some(form) {
            let way = match form {
                Form::Pretty => "/wp-json/",
                Form::RestRoute => "/?rest_route=/",
            };
            log::info!("{}: the BuddyBoss REST API answers at {way}", self.url);
        }
    }

    /// What a probe has found instead, in words.
    pub fn found_instead(finding: &Finding) -> String {
        match finding {
            Finding::Redirect(to) => format!(
                "it redirects to {to}; set the address of the site to the one it redirects to"
            ),
            Finding::NoRoute => {
                "WordPress answers, but the BuddyBoss REST API is not there".to_owned()
            }
            Finding::Other(status) => {
                format!("it answers with status {status} and no REST API")
            }
            Finding::Unreachable(why) => format!("it is not reached: {why}"),
            Finding::Api => "the probe failed".to_owned(),
        }
    }

    /// A site that accepts no token at all is perhaps not shown any.
    pub fn token(&mut self, answer: &Answer, now: Instant) {
        match answer {
            Answer::Failed(Failure::TokenRefused) => {
                let Some(refused) = &mut self.refused else { return };
                *refused = refused.saturating_add(1);
                if *refused >= REFUSED_FROM_THE_START {
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
    pub fn say(
        &mut self,
        level: log::Level,
        request: Option<RequestId>,
        line: String,
        now: Instant,
    ) {
        let request = request.map(|request| request.0);
        self.said.retain(|(_, then)| now.saturating_duration_since(*then) < PATIENCE);
        if self.said.iter().any(|(said, _)| *said == line) {
            return log::debug!(request; "{line}");
        }
        log::log!(level, request; "{line}");
        if self.said.len() >= LINES_MAX {
            self.said.pop_front();
        }
        self.said.push_back((line, now));
    }
}

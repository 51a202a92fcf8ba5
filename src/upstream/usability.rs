//! Decides whether the site is usable: whether it answers members with BuddyBoss' JSON.
//!
//! The circuit breaker counts failures that no single member can cause. A page where JSON should be
//! (a firewall, a parked domain, a login redirect, an unknown route) is no such failure: one member
//! may have provoked it. If it meets everyone, nobody gets in, and the server must not call itself
//! ready. So an unusable reply starts probes, and the site counts as unusable once it was so for
//! [`UNUSABLE_AFTER`] and nothing usable has arrived since.
//!
//! Requests still go to the site while it is unusable: the first usable reply ends that.

use std::time::{Duration, Instant};

/// The site counts as unusable if all replies were unusable for this long.
pub const UNUSABLE_AFTER: Duration = Duration::from_secs(3);
/// The first pause between probes of a site that may be unusable; each probe doubles it.
const PROBE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause between such probes: an unusable site is noticed to be usable within it.
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(10);
/// Unusable replies to members that count even if an anonymous probe is usable, as long as the site
/// has accepted no member yet: some firewalls refuse only requests with a token.
const REPLIES_MIN: u32 = 5;
/// Such replies stop counting if none has come for this long.
const REPLIES_LAST: Duration = Duration::from_secs(30);

/// The conclusion that a reply allows about the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It is BuddyBoss' own: a result, or a refusal of this request.
    Usable,
    /// BuddyBoss' route for messages is missing: the component is switched off.
    MessagesMissing,
    /// It is something else, such as a page.
    Unusable,
    /// It shows neither: the request itself may have caused it, or the site fails, which is for the
    /// circuit breaker to judge.
    Nothing,
}

/// The kind of probe that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// With the credential of a member whom the site has accepted before.
    Member,
    /// Without a credential.
    Anonymous,
}

/// The replies since the last usable one.
#[derive(Debug)]
struct Suspicion {
    since: Instant,
    /// Whether only the routes for messages are missing.
    only_messages: bool,
    /// Whether a probe has confirmed it.
    confirmed: bool,
    /// Unusable replies to members, and the time of the last.
    replies: (u32, Instant),
    next_probe: Instant,
    probe_pause: Duration,
}

/// The state machine.
#[derive(Debug, Default)]
pub struct Usability {
    suspicion: Option<Suspicion>,
    /// Whether the site has accepted a member since the start.
    has_accepted: bool,
}

impl Usability {
    /// Records what the reply to a member's request shows. `is_message` tells whether the request
    /// used a route for messages, and not only the one that checks a token.
    pub fn record_reply(&mut self, evidence: Evidence, is_message: bool, now: Instant) {
        match evidence {
            Evidence::Nothing => {}
            Evidence::Usable => {
                self.has_accepted = true;
                let stays = |suspicion: &Suspicion| suspicion.only_messages && !is_message;
                self.suspicion = self.suspicion.take().filter(stays);
            }
            Evidence::Unusable | Evidence::MessagesMissing => {
                let only_messages = evidence == Evidence::MessagesMissing;
                let suspicion = self.suspect(only_messages, now);
                suspicion.only_messages &= only_messages;
                suspicion.replies = (suspicion.replies.0.saturating_add(1), now);
            }
        }
    }

    /// Records what a probe shows. `is_certain` is false if the reply may be due to the missing
    /// credential: then it counts only together with a member's reply.
    pub fn record_probe(
        &mut self,
        evidence: Evidence,
        kind: ProbeKind,
        is_certain: bool,
        now: Instant,
    ) {
        match (evidence, &mut self.suspicion) {
            (Evidence::Nothing, _) | (Evidence::Usable, None) => {}
            (Evidence::Usable, Some(suspicion)) => {
                let is_contradicted = kind == ProbeKind::Anonymous
                    && !self.has_accepted
                    && suspicion.replies.0 > 0
                    && now.saturating_duration_since(suspicion.replies.1) < REPLIES_LAST;
                suspicion.confirmed = false;
                if !is_contradicted {
                    self.suspicion = None;
                }
            }
            (_, Some(suspicion)) => {
                suspicion.only_messages &= evidence == Evidence::MessagesMissing;
                suspicion.confirmed = true;
            }
            (_, None) if is_certain => {
                self.suspect(evidence == Evidence::MessagesMissing, now).confirmed = true;
            }
            (_, None) => {}
        }
    }

    /// Whether the site answers everyone with something unusable.
    pub fn is_unusable(&self, now: Instant) -> bool {
        self.suspicion.as_ref().is_some_and(|suspicion| {
            let is_shown_by_members = !self.has_accepted && suspicion.replies.0 >= REPLIES_MIN;
            now.saturating_duration_since(suspicion.since) >= UNUSABLE_AFTER
                && (suspicion.confirmed || is_shown_by_members)
        })
    }

    /// Whether nothing speaks against the site.
    pub fn is_unsuspected(&self) -> bool {
        self.suspicion.is_none()
    }

    /// Whether the site's routes for messages are suspected to be missing, so that a probe must ask
    /// for them.
    pub fn suspects_messages(&self) -> bool {
        self.suspicion.as_ref().is_some_and(|suspicion| suspicion.only_messages)
    }

    /// When the next probe is due, or the site counts as unusable; `None` if it is usable.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let suspicion = self.suspicion.as_ref()?;
        let declared = Some(suspicion.since + UNUSABLE_AFTER).filter(|at| *at > now);
        declared.into_iter().chain([suspicion.next_probe]).min()
    }

    /// Whether to probe the site now; the next probe is then due after a longer pause.
    pub fn take_due_probe(&mut self, now: Instant) -> bool {
        let Some(suspicion) = self.suspicion.as_mut().filter(|it| it.next_probe <= now) else {
            return false;
        };
        suspicion.next_probe = now + suspicion.probe_pause;
        suspicion.probe_pause = (suspicion.probe_pause * 2).min(PROBE_PAUSE_MAX);
        true
    }

    fn suspect(&mut self, only_messages: bool, now: Instant) -> &mut Suspicion {
        self.suspicion.get_or_insert(Suspicion {
            since: now,
            only_messages,
            confirmed: false,
            replies: (0, now),
            next_probe: now,
            probe_pause: PROBE_PAUSE_MIN,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Evidence::{MessagesMissing, Nothing, Unusable, Usable};
    use ProbeKind::{Anonymous, Member};

    const S: Duration = Duration::from_secs(1);

    /// A site that has accepted a member, at second 0.
    fn accepted() -> (Usability, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let mut usability = Usability::default();
        usability.record_reply(Usable, false, start);
        (usability, move |s| start + s as u32 * S)
    }

    #[test]
    fn site_that_answers_everyone_with_a_page_is_unusable() {
        let (mut usability, at) = accepted();
        usability.record_reply(Unusable, false, at(10));
        assert!(usability.take_due_probe(at(10)), "the first probe is due at once");
        assert!(!usability.take_due_probe(at(10)));
        assert_eq!(usability.deadline(at(10)), Some(at(11)));
        usability.record_probe(Unusable, Member, true, at(11));
        assert!(!usability.is_unusable(at(12)));
        assert!(usability.is_unusable(at(13)));
        // It recovers by a probe, and by a member.
        usability.record_probe(Usable, Member, true, at(14));
        assert!(!usability.is_unusable(at(14)));
        assert_eq!(usability.deadline(at(14)), None);
        usability.record_reply(Unusable, false, at(20));
        usability.record_probe(Unusable, Member, true, at(21));
        assert!(usability.is_unusable(at(23)));
        usability.record_reply(Usable, false, at(24));
        assert!(!usability.is_unusable(at(24)));
    }

    #[test]
    fn one_member_cannot_make_the_site_unusable() {
        let (mut usability, at) = accepted();
        for s in 0..100 {
            // A firewall refuses this member's text, or a request shows nothing.
            usability.record_reply(Unusable, true, at(s));
            usability.record_reply(Nothing, true, at(s));
            if usability.take_due_probe(at(s)) {
                usability.record_probe(Usable, Member, true, at(s));
            }
            assert!(!usability.is_unusable(at(s)));
        }
    }

    #[test]
    fn probe_alone_counts_only_if_a_token_would_not_help() {
        let start = Instant::now();
        for is_certain in [true, false] {
            let mut usability = Usability::default();
            usability.record_probe(Unusable, Anonymous, is_certain, start);
            assert_eq!(usability.is_unusable(start + 3 * S), is_certain);
        }
    }

    #[test]
    fn firewall_that_refuses_only_tokens_is_noticed_at_the_start() {
        let start = Instant::now();
        let mut usability = Usability::default();
        for s in 0..5 {
            assert!(!usability.is_unusable(start + s * S));
            usability.record_reply(Unusable, false, start + s * S);
            usability.record_probe(Usable, Anonymous, true, start + s * S);
        }
        assert!(usability.is_unusable(start + 4 * S));
        // Without a further attempt the probe is believed, or a load balancer would send nobody.
        usability.record_probe(Usable, Anonymous, true, start + 33 * S);
        assert!(usability.is_unusable(start + 33 * S));
        usability.record_probe(Usable, Anonymous, true, start + 34 * S);
        assert!(!usability.is_unusable(start + 34 * S));
    }

    #[test]
    fn missing_messages_are_not_hidden_by_good_tokens() {
        let (mut usability, at) = accepted();
        usability.record_reply(MessagesMissing, true, at(10));
        assert!(usability.suspects_messages());
        usability.record_reply(Usable, false, at(11));
        usability.record_probe(MessagesMissing, Member, true, at(12));
        assert!(usability.is_unusable(at(13)));
        usability.record_reply(Usable, true, at(14));
        assert!(!usability.is_unusable(at(14)) && !usability.suspects_messages());
    }

    #[test]
    fn probes_become_rare_but_stay_within_ten_seconds() {
        let (mut usability, at) = accepted();
        usability.record_reply(Unusable, false, at(0));
        let probes: Vec<u64> = (0..60).filter(|s| usability.take_due_probe(at(*s))).collect();
        assert_eq!(probes, [0, 1, 3, 7, 15, 25, 35, 45, 55]);
        for s in 0..60 {
            let deadline = usability.deadline(at(s)).unwrap();
            assert!(deadline > at(s) || deadline == at(65), "no deadline in the past");
        }
    }
}

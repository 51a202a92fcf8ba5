//! The threads that the plugin's tickets list for their users, unless a later event says otherwise.
//!
//! A ticket is signed by the site and a few minutes old at most. Removals and sign-outs that arrive
//! as events after it was issued count more; they are remembered for longer than a ticket lasts.

use std::collections::{HashMap, VecDeque};

/// Threads in all tickets; beyond it, the ticket that was stored first is forgotten, and the site
/// is asked instead.
const THREADS_MAX: usize = 2_000_000;
/// Removals, and users with a revocation, that are remembered. If one must be forgotten, all
/// tickets issued before it count for nothing.
const EVENTS_MAX: usize = 20_000;
/// How long a removal or revocation is remembered, in seconds: twice as long as a ticket lasts.
const EVENT_TTL_S: u64 = 600;

#[derive(Debug)]
struct TicketThreads {
    threads: Box<[u64]>,
    issued_s: u64,
}

/// A revocation of a user's tickets.
#[derive(Debug)]
struct Revoked {
    user: u64,
    at_s: u64,
    /// The session that was revoked; `None` for all.
    session: Option<String>,
}

/// The threads that tickets list, and the events that count more.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    by_user: HashMap<u64, TicketThreads>,
    order: VecDeque<u64>,
    threads: usize,
    /// Removals of a user from a thread, with their time.
    removed: VecDeque<(u64, u64, u64)>,
    revoked: VecDeque<Revoked>,
    /// Tickets issued until then list no thread.
    unlisted_until_s: u64,
    /// Tickets issued until then are refused.
    refused_until_s: u64,
}

impl Tickets {
    /// Whether a ticket is refused, because an event that is newer revokes it.
    pub(crate) fn is_revoked(&self, user: u64, issued_s: u64, session: Option<&str>) -> bool {
        issued_s <= self.refused_until_s
            || self.revoked.iter().any(|revoked| {
                let concerns = revoked.session.as_deref().is_none_or(|it| Some(it) == session);
                revoked.user == user && issued_s <= revoked.at_s && concerns
            })
    }

    /// Whether the whole account was revoked within the last minutes: a token whose signature is
    /// good may no longer be.
    pub(crate) fn was_revoked(&self, user: u64, now_s: u64) -> bool {
        self.revoked.iter().any(|revoked| {
            revoked.user == user && revoked.session.is_none() && now_s < revoked.at_s + EVENT_TTL_S
        })
    }

    /// Stores the threads of a ticket, in place of those of the user's last one.
    pub(crate) fn store(&mut self, user: u64, issued_s: u64, threads: &[u64]) {
        self.remove(user);
        if issued_s <= self.unlisted_until_s {
            return;
        }
        let later = self.removed.iter().filter(|(_, u, at_s)| *u == user && issued_s <= *at_s);
        let removed: Vec<u64> = later.map(|(thread, ..)| *thread).collect();
        let mut threads: Vec<u64> =
            threads.iter().copied().filter(|thread| !removed.contains(thread)).collect();
        threads.sort_unstable();
        threads.dedup();
        self.threads += threads.len();
        self.by_user.insert(user, TicketThreads { threads: threads.into(), issued_s });
        self.order.push_back(user);
        while self.threads > THREADS_MAX {
            let Some(oldest) = self.order.front().copied() else { return };
            self.remove(oldest);
        }
    }

    /// Whether a user has a ticket that is recent enough.
    pub(crate) fn is_recent(&self, user: u64, now_s: u64) -> bool {
        self.by_user.get(&user).is_some_and(|ticket| now_s < ticket.issued_s + EVENT_TTL_S)
    }

    /// Whether a ticket that is recent enough lists a thread of this user.
    pub(crate) fn lists(&self, user: u64, thread: u64, now_s: u64) -> bool {
        self.by_user.get(&user).is_some_and(|ticket| {
            now_s < ticket.issued_s + EVENT_TTL_S && ticket.threads.binary_search(&thread).is_ok()
        })
    }

    /// Records that a user was removed from a thread.
    pub(crate) fn remove_thread(&mut self, user: u64, thread: u64, now_s: u64) {
        if let Some(ticket) = self.by_user.get_mut(&user) {
            let before = ticket.threads.len();
            ticket.threads = ticket.threads.iter().copied().filter(|it| *it != thread).collect();
            self.threads -= before - ticket.threads.len();
        }
        self.removed.retain(|(.., at_s)| now_s < *at_s + EVENT_TTL_S);
        self.removed.push_back((thread, user, now_s));
        if self.removed.len() > EVENTS_MAX {
            if let Some((.., at_s)) = self.removed.pop_front() {
                self.unlisted_until_s = self.unlisted_until_s.max(at_s);
                self.forget_threads();
            }
        }
    }

    /// Records that tickets of a user are no longer valid: of one session, or all.
    pub(crate) fn revoke(&mut self, user: u64, session: Option<String>, now_s: u64) {
        self.remove(user);
        self.revoked.retain(|revoked| now_s < revoked.at_s + EVENT_TTL_S);
        self.revoked.push_back(Revoked { user, at_s: now_s, session });
        if self.revoked.len() > EVENTS_MAX {
            if let Some(oldest) = self.revoked.pop_front() {
                self.refused_until_s = self.refused_until_s.max(oldest.at_s);
            }
        }
    }

    /// Records that an account may be used again.
    pub(crate) fn unrevoke(&mut self, user: u64) {
        self.revoked.retain(|revoked| revoked.user != user);
    }

    /// Forgets the threads of all tickets.
    pub(crate) fn forget_threads(&mut self) {
        self.by_user.clear();
        self.order.clear();
        self.threads = 0;
    }

    fn remove(&mut self, user: u64) {
        if let Some(ticket) = self.by_user.remove(&user) {
            self.threads -= ticket.threads.len();
            self.order.retain(|other| *other != user);
        }
    }

    /// Asserts that the tables agree with each other.
    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.by_user.len(), self.order.len());
        assert_eq!(self.threads, self.by_user.values().map(|t| t.threads.len()).sum::<usize>());
        assert!(self.removed.len() <= EVENTS_MAX && self.revoked.len() <= EVENTS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_removal_counts_more_than_the_ticket() {
        let mut tickets = Tickets::default();
        tickets.store(7, 100, &[42, 41, 41]);
        assert!(
            tickets.lists(7, 41, 101) && tickets.lists(7, 42, 101) && !tickets.lists(8, 41, 101)
        );
        tickets.remove_thread(7, 41, 110);
        assert!(!tickets.lists(7, 41, 111) && tickets.lists(7, 42, 111));
        // A ticket from before the removal that arrives later.
        tickets.store(7, 110, &[41, 42]);
        assert!(!tickets.lists(7, 41, 112) && tickets.lists(7, 42, 112));
        tickets.store(7, 111, &[41]);
        assert!(tickets.lists(7, 41, 113) && !tickets.lists(7, 42, 113));
        assert!(!tickets.lists(7, 41, 711), "no ticket lasts that long");
        tickets.check_invariants();
    }

    #[test]
    fn revocation_is_of_a_session_or_of_all() {
        let mut tickets = Tickets::default();
        tickets.revoke(7, Some("one".into()), 100);
        assert!(tickets.is_revoked(7, 100, Some("one")));
        assert!(
            !tickets.is_revoked(7, 100, Some("two")) && !tickets.is_revoked(7, 101, Some("one"))
        );
        assert!(!tickets.was_revoked(7, 100));
        tickets.revoke(7, None, 200);
        assert!(tickets.is_revoked(7, 200, Some("two")) && tickets.was_revoked(7, 799));
        assert!(!tickets.was_revoked(7, 800) && !tickets.is_revoked(8, 1, None));
        tickets.unrevoke(7);
        assert!(!tickets.is_revoked(7, 100, Some("one")));
    }

    #[test]
    fn forgotten_events_make_older_tickets_worthless() {
        let mut tickets = Tickets::default();
        for n in 1..=EVENTS_MAX as u64 + 1 {
            tickets.revoke(n, None, 100);
            tickets.remove_thread(n, 41, 100);
        }
        assert!(tickets.is_revoked(1, 100, None) && tickets.is_revoked(999_999, 100, None));
        assert!(!tickets.is_revoked(999_999, 101, None));
        tickets.store(999_999, 100, &[41]);
        assert!(!tickets.lists(999_999, 41, 101));
        tickets.store(999_999, 101, &[41]);
        assert!(tickets.lists(999_999, 41, 101));
        tickets.check_invariants();
    }
}

//! Table of credentials and the user that each one proves, according to the site.
//!
//! The site is asked once about each credential, however many connections present it. The
//! credential is then recognized by its fingerprint. The secret itself is kept only while a
//! connection uses it, because each query for participants needs it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::hub::deadlines::{DeadlineKey, Deadlines};
use crate::hub::failure::Failure;
use crate::hub::interface::{ConnId, Now, Proven};
use crate::metrics::HitCounter;
use crate::protocol::credential::{Credential, Fingerprint};

/// Index of a credential in the table.
pub(crate) type ProofIx = u32;

/// Maximum validity of a proof, whatever the token says (`PROTOCOL.md` 4).
pub(crate) const PROOF_TTL: Duration = Duration::from_secs(600);
/// How long a refused credential is not verified again.
const REFUSAL_TTL: Duration = Duration::from_secs(60);
/// How long to wait before repeating a query that the site did not answer.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Credentials that no connection uses and whose outcome is remembered; beyond it, the one that
/// expires first is dropped.
const IDLE_MAX: usize = 20_000;

/// The site's answer about a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProofOutcome {
    Known {
        proven: Proven,
        since: Instant,
        /// When the site itself named the user last; if it never has, when the proof began.
        site_since: Instant,
        /// Whether the site itself has named the user, and not only the token's signature.
        confirmed: bool,
    },
    Refused {
        failure: Failure,
        until: Instant,
    },
    /// The site has not decided.
    Unanswered {
        failure: Failure,
        until: Instant,
    },
}

#[derive(Debug)]
struct Proof {
    fingerprint: Fingerprint,
    /// Kept while a connection uses it or a query is pending.
    credential: Option<Credential>,
    outcome: Option<ProofOutcome>,
    /// Why a known proof could not be renewed, and when the site may be asked again.
    backoff: Option<(Failure, Instant)>,
    query_pending: bool,
    /// Whether the pending query has been sent, so that it is no longer queued.
    query_sent: bool,
    /// Whether the site itself must answer the pending query.
    query_site: bool,
    /// The session that a ticket names.
    session: Option<Box<str>>,
    conns: Vec<ConnId>,
    /// When the entry is dropped, while no connection uses it.
    forget: Option<DeadlineKey>,
}

/// Result of checking a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CredentialStatus {
    /// It belongs to this user.
    Valid(Proven),
    /// It is refused, or the site has not decided.
    Failed(Failure),
    /// The site has to be asked: the caller queues the query.
    Ask(ProofIx),
    /// A query is pending already.
    Wait(ProofIx),
}

/// Whether the site is to be asked again about a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// The proof is recent enough, or the site has not answered a moment ago.
    NotDue,
    /// The caller queues the query.
    Ask(ProofIx),
    /// A query is pending already.
    Wait(ProofIx),
}

/// All credentials, with the connections that use each.
#[derive(Debug, Default)]
pub(crate) struct Proofs {
    index: HashMap<Fingerprint, ProofIx>,
    proofs: Slab<Proof>,
    expiries: Deadlines<ProofIx>,
    /// Queued credentials for which no connection waits any more.
    cancelled: Vec<ProofIx>,
    /// How often the outcome of a presented credential was known.
    hits: HitCounter,
}

impl Proofs {
    /// Returns the index of a credential, and adds it if it is new.
    pub(crate) fn intern(&mut self, credential: Credential) -> ProofIx {
        let fingerprint = credential.fingerprint();
        if let Some(ix) = self.index.get(&fingerprint) {
            self.proofs[*ix as usize].credential.get_or_insert(credential);
            return *ix;
        }
        let proof = Proof {
            fingerprint,
            credential: Some(credential),
            outcome: None,
            backoff: None,
            query_pending: false,
            query_sent: false,
            query_site: false,
            session: None,
            conns: Vec::new(),
            forget: None,
        };
        let ix = self.proofs.insert(proof) as ProofIx;
        self.index.insert(fingerprint, ix);
        ix
    }

    /// Finds a credential.
    pub(crate) fn find(&self, credential: &Credential) -> Option<ProofIx> {
        self.index.get(&credential.fingerprint()).copied()
    }

    /// Whether the site has named the user of a credential.
    pub(crate) fn is_known(&self, credential: &Credential) -> bool {
        let proof = self.find(credential).and_then(|ix| self.proofs.get(ix as usize));
        proof.is_some_and(|proof| matches!(proof.outcome, Some(ProofOutcome::Known { .. })))
    }

    /// Adds a connection to those that use a credential.
    pub(crate) fn attach(&mut self, conn: ConnId, ix: ProofIx) {
        let proof = &mut self.proofs[ix as usize];
        if !proof.conns.contains(&conn) {
            proof.conns.push(conn);
        }
        if let Some(forget) = proof.forget.take() {
            self.expiries.cancel(forget);
        }
    }

    /// Removes a connection from those that use a credential.
    pub(crate) fn detach(&mut self, conn: ConnId, ix: ProofIx, now: Instant) {
        if let Some(proof) = self.proofs.get_mut(ix as usize) {
            proof.conns.retain(|other| *other != conn);
            if proof.conns.is_empty() && proof.query_pending && !proof.query_sent {
                (proof.query_pending, proof.query_site) = (false, false);
                self.cancelled.push(ix);
            }
            self.forget_if_idle(ix, now);
        }
    }

    /// Checks a credential that a connection presents, and counts whether the outcome was known.
    pub(crate) fn check(&mut self, ix: ProofIx, now: Now) -> CredentialStatus {
        let status = self.evaluate(ix, now);
        self.hits.record(!matches!(status, CredentialStatus::Ask(_) | CredentialStatus::Wait(_)));
        status
    }

    fn evaluate(&mut self, ix: ProofIx, now: Now) -> CredentialStatus {
        let proof = &mut self.proofs[ix as usize];
        match proof.outcome {
            Some(ProofOutcome::Known { proven, since, .. }) => {
                if proven.expires_s.is_some_and(|at| at <= now.unix_s) {
                    return CredentialStatus::Failed(Failure::TokenExpired);
                }
                if now.instant.saturating_duration_since(since) < PROOF_TTL {
                    return CredentialStatus::Valid(proven);
                }
                if let Some((failure, _)) = proof.backoff.filter(|(_, until)| *until > now.instant)
                {
                    return CredentialStatus::Failed(failure);
                }
            }
            Some(
                ProofOutcome::Refused { failure, until }
                | ProofOutcome::Unanswered { failure, until },
            ) if until > now.instant => {
                return CredentialStatus::Failed(failure);
            }
            _ => {}
        }
        match std::mem::replace(&mut proof.query_pending, true) {
            false => CredentialStatus::Ask(ix),
            true => CredentialStatus::Wait(ix),
        }
    }

    /// Returns why the site has not decided on a credential.
    pub(crate) fn last_failure(&self, ix: ProofIx) -> Option<Failure> {
        match self.proofs[ix as usize].outcome {
            Some(ProofOutcome::Unanswered { failure, .. }) => Some(failure),
            _ => None,
        }
    }

    /// Whether the site has not decided on a credential, and may be asked again.
    pub(crate) fn can_retry(&self, ix: ProofIx, now: Instant) -> bool {
        match self.proofs[ix as usize].outcome {
            Some(ProofOutcome::Unanswered { until, .. }) => until <= now,
            _ => false,
        }
    }

    /// Whether the site itself must be asked again about a proof, because it named the user longer
    /// than `max_age` ago or, if `unconfirmed` counts, never. If so, marks the query as pending.
    pub(crate) fn renew(
        &mut self,
        ix: ProofIx,
        max_age: Duration,
        unconfirmed: bool,
        now: Instant,
    ) -> Renewal {
        let proof = &mut self.proofs[ix as usize];
        let Some(ProofOutcome::Known { site_since, confirmed, .. }) = proof.outcome else {
            return Renewal::NotDue;
        };
        let is_old = now.saturating_duration_since(site_since) >= max_age;
        let is_due = is_old || (unconfirmed && !confirmed);
        if !is_due || proof.backoff.is_some_and(|(_, until)| until > now) {
            return Renewal::NotDue;
        }
        match std::mem::replace(&mut proof.query_pending, true) {
            true => Renewal::Wait(ix),
            false => {
                proof.query_site = true;
                Renewal::Ask(ix)
            }
        }
    }

    /// Whether the last attempt to renew a proof got no answer.
    pub(crate) fn has_failed_renewal(&self, ix: ProofIx) -> bool {
        self.proofs.get(ix as usize).is_some_and(|proof| proof.backoff.is_some())
    }

    /// When the site named the user of a proof last.
    pub(crate) fn site_since(&self, ix: ProofIx) -> Option<Instant> {
        match self.proofs.get(ix as usize)?.outcome {
            Some(ProofOutcome::Known { site_since, .. }) => Some(site_since),
            _ => None,
        }
    }

    /// Marks a query as sent and returns its credential, and whether the site itself must answer;
    /// `None` if no connection waits for it any more.
    pub(crate) fn begin_query(&mut self, ix: ProofIx) -> Option<(Credential, bool)> {
        let proof = self.proofs.get_mut(ix as usize)?;
        if !proof.query_pending || std::mem::replace(&mut proof.query_sent, true) {
            return None;
        }
        Some((proof.credential.clone()?, proof.query_site))
    }

    /// Takes the queued credentials for which no connection waits any more.
    pub(crate) fn take_cancelled(&mut self) -> Vec<ProofIx> {
        std::mem::take(&mut self.cancelled)
    }

    /// Records the answer to a query; `by_site` is false if only the token's signature was checked.
    pub(crate) fn record_answer(
        &mut self,
        ix: ProofIx,
        result: Result<Proven, Failure>,
        by_site: bool,
        now: Instant,
    ) {
        let Some(proof) = self.proofs.get_mut(ix as usize) else {
            debug_assert!(false, "a credential stays in the table while its query is pending");
            return;
        };
        (proof.query_pending, proof.query_sent, proof.query_site) = (false, false, false);
        proof.backoff = None;
        proof.outcome = Some(match (result, proof.outcome) {
            (Ok(proven), Some(ProofOutcome::Known { site_since, confirmed, .. })) if !by_site => {
                ProofOutcome::Known { proven, since: now, site_since, confirmed }
            }
            (Ok(proven), _) => {
                ProofOutcome::Known { proven, since: now, site_since: now, confirmed: by_site }
            }
            (Err(failure), _) if failure.is_credential_rejection() => {
                ProofOutcome::Refused { failure, until: now + REFUSAL_TTL }
            }
            // An outage of the site does not invalidate a proof. It is renewed a little later.
            (Err(failure), Some(known @ ProofOutcome::Known { .. })) => {
                proof.backoff = Some((failure, now + RETRY_AFTER));
                known
            }
            (Err(failure), _) => ProofOutcome::Unanswered { failure, until: now + RETRY_AFTER },
        });
        self.forget_if_idle(ix, now);
    }

    /// Records what the site has said about a credential without a query.
    pub(crate) fn record(&mut self, ix: ProofIx, result: Result<Proven, Failure>, now: Instant) {
        self.proofs[ix as usize].outcome = Some(match result {
            Ok(proven) => {
                ProofOutcome::Known { proven, since: now, site_since: now, confirmed: true }
            }
            Err(failure) => ProofOutcome::Refused { failure, until: now + REFUSAL_TTL },
        });
        self.forget_if_idle(ix, now);
    }

    /// Keeps a query pending that the site itself must answer.
    pub(crate) fn require_site(&mut self, ix: ProofIx) {
        if let Some(proof) = self.proofs.get_mut(ix as usize) {
            (proof.query_pending, proof.query_sent, proof.query_site) = (true, false, true);
        }
    }

    /// Records the session that a ticket names.
    pub(crate) fn set_session(&mut self, ix: ProofIx, session: Option<&str>) {
        if let Some(proof) = self.proofs.get_mut(ix as usize) {
            proof.session = session.map(Box::from);
        }
    }

    /// The session that a ticket names.
    pub(crate) fn session(&self, ix: ProofIx) -> Option<&str> {
        self.proofs.get(ix as usize)?.session.as_deref()
    }

    /// Refuses all credentials of a user that are known, or those of one session.
    pub(crate) fn revoke_user(
        &mut self,
        user: u64,
        session: Option<&str>,
        failure: Failure,
        now: Instant,
    ) {
        for (_, proof) in &mut self.proofs {
            let is_theirs = matches!(
                proof.outcome,
                Some(ProofOutcome::Known { proven, .. }) if proven.user == user
            );
            if is_theirs && session.is_none_or(|it| proof.session.as_deref() == Some(it)) {
                // Idle entries keep the time at which they are forgotten.
                proof.outcome = Some(ProofOutcome::Refused { failure, until: now + REFUSAL_TTL });
            }
        }
    }

    /// Returns the secret, while a connection uses it.
    pub(crate) fn credential(&self, ix: ProofIx) -> Option<&Credential> {
        self.proofs.get(ix as usize)?.credential.as_ref()
    }

    /// Returns the connections that use a credential.
    pub(crate) fn conns(&self, ix: ProofIx) -> &[ConnId] {
        self.proofs.get(ix as usize).map_or(&[], |proof| &proof.conns)
    }

    /// Returns when the next entry expires.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.expiries.next()
    }

    /// Drops expired entries, and the earliest to expire while there are too many.
    pub(crate) fn forget(&mut self, now: Instant) {
        loop {
            let too_many = self.expiries.count() > IDLE_MAX;
            let until = if too_many { self.expiries.next().unwrap_or(now) } else { now };
            let Some(ix) = self.expiries.pop_due(until) else { return };
            let proof = self.proofs.remove(ix as usize);
            self.index.remove(&proof.fingerprint);
        }
    }

    /// Drops the secret of a credential that no connection uses, and schedules the entry to be
    /// dropped when the outcome expires.
    fn forget_if_idle(&mut self, ix: ProofIx, now: Instant) {
        let proof = &mut self.proofs[ix as usize];
        if !proof.conns.is_empty() || proof.query_pending {
            return;
        }
        proof.credential = None;
        if let Some(before) = proof.forget.take() {
            self.expiries.cancel(before);
        }
        let at = match proof.outcome {
            Some(ProofOutcome::Known { since, .. }) => since + PROOF_TTL,
            Some(ProofOutcome::Refused { until, .. }) => until,
            Some(ProofOutcome::Unanswered { .. }) | None => now,
        };
        proof.forget = Some(self.expiries.set(at, ix));
        if self.expiries.count() > IDLE_MAX {
            self.forget(now);
        }
    }

    /// Returns how often the outcome of a presented credential was known.
    pub(crate) fn hits(&self) -> HitCounter {
        self.hits
    }

    /// Asserts that the tables agree with each other and with `is_used`.
    pub(crate) fn check_invariants(&self, is_used: impl Fn(ConnId, ProofIx) -> bool) {
        assert_eq!(self.index.len(), self.proofs.len());
        let mut idle = 0;
        for (ix, proof) in &self.proofs {
            assert_eq!(self.index.get(&proof.fingerprint), Some(&(ix as ProofIx)));
            assert!(proof.conns.iter().all(|conn| is_used(*conn, ix as ProofIx)));
            let is_idle = proof.conns.is_empty() && !proof.query_pending;
            assert_eq!(is_idle, proof.forget.is_some());
            assert_eq!(is_idle, proof.credential.is_none());
            idle += usize::from(is_idle);
        }
        assert_eq!(idle, self.expiries.count());
        assert!(idle <= IDLE_MAX);
    }
}

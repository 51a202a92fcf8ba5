//! Credentials and what they have proven.
//!
//! Each is asked about once, however many connections bring it, and known by its fingerprint from
//! then on. The secret itself stays only while a connection stands on it, since the site wants it
//! again for each list of participants.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::hub::deadlines::{DeadlineKey, Deadlines};
use crate::hub::failure::Failure;
use crate::hub::interface::{ConnId, Now, Proven};
use crate::metrics::HitCounter;
use crate::protocol::credential::{Credential, Fingerprint};

/// A credential's place in the table.
pub type ProofIx = u32;

/// How long a proof holds at most, whatever the token says (`PROTOCOL.md` 4).
pub const PROOF_TTL: Duration = Duration::from_secs(600);
/// How long a refused credential is not asked about again.
const REFUSAL_TTL: Duration = Duration::from_secs(60);
/// How long the site is left alone with a question that it did not answer.
pub const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Credentials that no connection stands on and whose proof or refusal is remembered. Beyond it,
/// the one that would be forgotten first goes.
const IDLE_MAX: usize = 20_000;

/// What is known of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProofOutcome {
    Known {
        proven: Proven,
        since: Instant,
    },
    Refused {
        failure: Failure,
        until: Instant,
    },
    /// The site did not say.
    Unanswered {
        failure: Failure,
        until: Instant,
    },
}

#[derive(Debug)]
struct Proof {
    fingerprint: Fingerprint,
    /// While a connection stands on it, or it is being asked about.
    credential: Option<Credential>,
    outcome: Option<ProofOutcome>,
    /// Why the site has not renewed its verdict, and how long it is left alone.
    backoff: Option<(Failure, Instant)>,
    query_pending: bool,
    /// It is with the site, and no more in line.
    query_sent: bool,
    conns: Vec<ConnId>,
    /// When it is forgotten, while no connection stands on it.
    forget: Option<DeadlineKey>,
}

/// What is known of an offered credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialStatus {
    /// It is this user's.
    Valid(Proven),
    /// It proves nothing, or the site does not say.
    Failed(Failure),
    /// The site has to be asked; it is this credential's first question.
    Ask(ProofIx),
    /// The site is being asked.
    Wait,
}

/// All credentials, and which connections stand on them.
#[derive(Debug, Default)]
pub struct Proofs {
    index: HashMap<Fingerprint, ProofIx>,
    proofs: Slab<Proof>,
    expiries: Deadlines<ProofIx>,
    /// Those in line for which nobody waits any more.
    cancelled: Vec<ProofIx>,
    /// How often it was known what a credential proves.
    hits: HitCounter,
}

impl Proofs {
    /// The place of a credential, which is new or not.
    pub fn intern(&mut self, credential: Credential) -> ProofIx {
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
            conns: Vec::new(),
            forget: None,
        };
        let ix = self.proofs.insert(proof) as ProofIx;
        self.index.insert(fingerprint, ix);
        ix
    }

    /// The place of a credential that is known.
    pub fn find(&self, credential: &Credential) -> Option<ProofIx> {
        self.index.get(&credential.fingerprint()).copied()
    }

    /// Lets a connection stand on a credential.
    pub fn join(&mut self, conn: ConnId, ix: ProofIx) {
        let proof = &mut self.proofs[ix as usize];
        if !proof.conns.contains(&conn) {
            proof.conns.push(conn);
        }
        if let Some(forget) = proof.forget.take() {
            self.expiries.cancel(forget);
        }
    }

    /// Ends that.
    pub fn leave(&mut self, conn: ConnId, ix: ProofIx, now: Instant) {
        if let Some(proof) = self.proofs.get_mut(ix as usize) {
            proof.conns.retain(|other| *other != conn);
            if proof.conns.is_empty() && proof.query_pending && !proof.query_sent {
                proof.query_pending = false;
                self.cancelled.push(ix);
            }
            self.forget_if_idle(ix, now);
        }
    }

    /// What is known of a credential that a connection brings.
    pub fn check(&mut self, ix: ProofIx, now: Now) -> CredentialStatus {
        let status = self.evaluate(ix, now);
        self.hits.record(!matches!(status, CredentialStatus::Ask(_) | CredentialStatus::Wait));
        status
    }

    fn evaluate(&mut self, ix: ProofIx, now: Now) -> CredentialStatus {
        let proof = &mut self.proofs[ix as usize];
        match proof.outcome {
            Some(ProofOutcome::Known { proven, since }) => {
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
            true => CredentialStatus::Wait,
        }
    }

    /// Why the site has not said anything of a credential.
    pub fn last_failure(&self, ix: ProofIx) -> Option<Failure> {
        match self.proofs[ix as usize].outcome {
            Some(ProofOutcome::Unanswered { failure, .. }) => Some(failure),
            _ => None,
        }
    }

    /// Whether the site has not said anything of a credential, and may be asked again.
    pub fn can_retry(&self, ix: ProofIx, now: Instant) -> bool {
        match self.proofs[ix as usize].outcome {
            Some(ProofOutcome::Unanswered { until, .. }) => until <= now,
            _ => false,
        }
    }

    /// Whether a proof is so old that the site should be asked again, which is noted as done.
    pub fn begin_renewal(&mut self, ix: ProofIx, now: Instant) -> bool {
        let proof = &mut self.proofs[ix as usize];
        let Some(ProofOutcome::Known { since, .. }) = proof.outcome else {
            return false;
        };
        let old = now.saturating_duration_since(since) >= PROOF_TTL;
        let backoff = proof.backoff.is_some_and(|(_, until)| until > now);
        old && !backoff && !std::mem::replace(&mut proof.query_pending, true)
    }

    /// The credential to put to the site; `None` if nobody waits for it any more.
    pub fn begin_query(&mut self, ix: ProofIx) -> Option<Credential> {
        let proof = self.proofs.get_mut(ix as usize)?;
        if !proof.query_pending || std::mem::replace(&mut proof.query_sent, true) {
            return None;
        }
        proof.credential.clone()
    }

    /// Takes those in line for which nobody waits any more.
    pub fn take_cancelled(&mut self) -> Vec<ProofIx> {
        std::mem::take(&mut self.cancelled)
    }

    /// Takes the site's word on a credential.
    pub fn record_answer(&mut self, ix: ProofIx, result: Result<Proven, Failure>, now: Instant) {
        let Some(proof) = self.proofs.get_mut(ix as usize) else {
            debug_assert!(false, "what is asked about stays in the table");
            return;
        };
        (proof.query_pending, proof.query_sent) = (false, false);
        proof.outcome = Some(match (result, proof.outcome) {
            (Ok(proven), _) => ProofOutcome::Known { proven, since: now },
            (Err(failure), _) if failure.is_credential_rejection() => {
                ProofOutcome::Refused { failure, until: now + REFUSAL_TTL }
            }
            // A site that is down makes nobody anonymous; it is asked again a little later.
            (Err(failure), Some(known @ ProofOutcome::Known { .. })) => {
                proof.backoff = Some((failure, now + RETRY_AFTER));
                known
            }
            (Err(failure), _) => ProofOutcome::Unanswered { failure, until: now + RETRY_AFTER },
        });
        self.forget_if_idle(ix, now);
    }

    /// Notes what the site has said of a credential without having been asked for it.
    pub fn record(&mut self, ix: ProofIx, result: Result<Proven, Failure>, now: Instant) {
        self.proofs[ix as usize].outcome = Some(match result {
            Ok(proven) => ProofOutcome::Known { proven, since: now },
            Err(failure) => ProofOutcome::Refused { failure, until: now + REFUSAL_TTL },
        });
        self.forget_if_idle(ix, now);
    }

    /// The secret, while a connection stands on it.
    pub fn credential(&self, ix: ProofIx) -> Option<&Credential> {
        self.proofs.get(ix as usize)?.credential.as_ref()
    }

    /// The connections that stand on a credential.
    pub fn conns(&self, ix: ProofIx) -> &[ConnId] {
        self.proofs.get(ix as usize).map_or(&[], |proof| &proof.conns)
    }

    /// When the next is forgotten.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.expiries.next()
    }

    /// Forgets what is due.
    pub fn forget(&mut self, now: Instant) {
        loop {
            let too_many = self.expiries.count() > IDLE_MAX;
            let until = if too_many { self.expiries.next().unwrap_or(now) } else { now };
            let Some(ix) = self.expiries.pop_due(until) else { return };
            let proof = self.proofs.remove(ix as usize);
            self.index.remove(&proof.fingerprint);
        }
    }

    /// Drops the secret of a credential that no connection stands on, and sees to it that the rest
    /// is forgotten when its verdict ends.
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

    /// Asserts that the tables agree with each other, and that `is_used` says the same.
    pub fn check_invariants(&self, is_used: impl Fn(ConnId, ProofIx) -> bool) {
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

impl super::Authentication {
    /// How often it was known what a credential proves.
    pub fn proof_hits(&self) -> HitCounter {
        self.proofs.hits
    }
}

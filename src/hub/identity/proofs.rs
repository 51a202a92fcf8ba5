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
pub const PROOF_LASTS: Duration = Duration::from_secs(600);
/// How long a refused credential is not asked about again.
const REFUSAL_LASTS: Duration = Duration::from_secs(60);
/// How long the site is left alone with a question that it did not answer.
pub const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Credentials that no connection stands on and whose proof or refusal is remembered. Beyond it,
/// the one that would be forgotten first goes.
const REMEMBERED_MAX: usize = 20_000;

/// What is known of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
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
    print: Fingerprint,
    /// While a connection stands on it, or it is being asked about.
    credential: Option<Credential>,
    verdict: Option<Verdict>,
    /// Why the site has not renewed its verdict, and how long it is left alone.
    quiet: Option<(Failure, Instant)>,
    asking: bool,
    /// It is with the site, and no more in line.
    asked: bool,
    conns: Vec<ConnId>,
    /// When it is forgotten, while no connection stands on it.
    forget: Option<DeadlineKey>,
}

/// What is known of an offered credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is this user's.
    Known(Proven),
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
    forgets: Deadlines<ProofIx>,
    /// Those in line for which nobody waits any more.
    unwanted: Vec<ProofIx>,
    /// How often it was known what a credential proves.
    hits: HitCounter,
}

impl Proofs {
    /// The place of a credential, which is new or not.
    pub fn place(&mut self, credential: Credential) -> ProofIx {
        let print = credential.fingerprint();
        if let Some(ix) = self.index.get(&print) {
            self.proofs[*ix as usize].credential.get_or_insert(credential);
            return *ix;
        }
        let proof = Proof {
            print,
            credential: Some(credential),
            verdict: None,
            quiet: None,
            asking: false,
            asked: false,
            conns: Vec::new(),
            forget: None,
        };
        let ix = self.proofs.insert(proof) as ProofIx;
        self.index.insert(print, ix);
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
            self.forgets.cancel(forget);
        }
    }

    /// Ends that.
    pub fn leave(&mut self, conn: ConnId, ix: ProofIx, now: Instant) {
        if let Some(proof) = self.proofs.get_mut(ix as usize) {
            proof.conns.retain(|other| *other != conn);
            if proof.conns.is_empty() && proof.asking && !proof.asked {
                proof.asking = false;
                self.unwanted.push(ix);
            }
            self.forget_if_idle(ix, now);
        }
    }

    /// What is known of a credential that a connection brings.
    pub fn judge(&mut self, ix: ProofIx, now: Now) -> Offer {
        let offer = self.word(ix, now);
        self.hits.record(!matches!(offer, Offer::Ask(_) | Offer::Wait));
        offer
    }

    fn word(&mut self, ix: ProofIx, now: Now) -> Offer {
        let proof = &mut self.proofs[ix as usize];
        match proof.verdict {
            Some(Verdict::Known { proven, since }) => {
                if proven.expires_s.is_some_and(|at| at <= now.unix_s) {
                    return Offer::Failed(Failure::TokenExpired);
                }
                if now.instant.saturating_duration_since(since) < PROOF_LASTS {
                    return Offer::Known(proven);
                }
                if let Some((failure, _)) = proof.quiet.filter(|(_, until)| *until > now.instant) {
                    return Offer::Failed(failure);
                }
            }
            Some(Verdict::Refused { failure, until } | Verdict::Unanswered { failure, until })
                if until > now.instant =>
            {
                return Offer::Failed(failure);
            }
            _ => {}
        }
        match std::mem::replace(&mut proof.asking, true) {
            false => Offer::Ask(ix),
            true => Offer::Wait,
        }
    }

    /// Why the site has not said anything of a credential.
    pub fn unanswered(&self, ix: ProofIx) -> Option<Failure> {
        match self.proofs[ix as usize].verdict {
            Some(Verdict::Unanswered { failure, .. }) => Some(failure),
            _ => None,
        }
    }

    /// Whether the site has not said anything of a credential, and may be asked again.
    pub fn may_ask_again(&self, ix: ProofIx, now: Instant) -> bool {
        match self.proofs[ix as usize].verdict {
            Some(Verdict::Unanswered { until, .. }) => until <= now,
            _ => false,
        }
    }

    /// Whether a proof is so old that the site should be asked again, which is noted as done.
    pub fn renews(&mut self, ix: ProofIx, now: Instant) -> bool {
        let proof = &mut self.proofs[ix as usize];
        let Some(Verdict::Known { since, .. }) = proof.verdict else {
            return false;
        };
        let old = now.saturating_duration_since(since) >= PROOF_LASTS;
        let quiet = proof.quiet.is_some_and(|(_, until)| until > now);
        old && !quiet && !std::mem::replace(&mut proof.asking, true)
    }

    /// The credential to put to the site; `None` if nobody waits for it any more.
    pub fn to_ask(&mut self, ix: ProofIx) -> Option<Credential> {
        let proof = self.proofs.get_mut(ix as usize)?;
        if !proof.asking || std::mem::replace(&mut proof.asked, true) {
            return None;
        }
        proof.credential.clone()
    }

    /// Takes those in line for which nobody waits any more.
    pub fn take_unwanted(&mut self) -> Vec<ProofIx> {
        std::mem::take(&mut self.unwanted)
    }

    /// Takes the site's word on a credential.
    pub fn answered(&mut self, ix: ProofIx, result: Result<Proven, Failure>, now: Instant) {
        let Some(proof) = self.proofs.get_mut(ix as usize) else {
            debug_assert!(false, "what is asked about stays in the table");
            return;
        };
        (proof.asking, proof.asked) = (false, false);
        proof.verdict = Some(match (result, proof.verdict) {
            (Ok(proven), _) => Verdict::Known { proven, since: now },
            (Err(failure), _) if failure.condemns() => {
                Verdict::Refused { failure, until: now + REFUSAL_LASTS }
            }
            // A site that is down makes nobody anonymous; it is asked again a little later.
            (Err(failure), Some(known @ Verdict::Known { .. })) => {
                proof.quiet = Some((failure, now + RETRY_AFTER));
                known
            }
            (Err(failure), _) => Verdict::Unanswered { failure, until: now + RETRY_AFTER },
        });
        self.forget_if_idle(ix, now);
    }

    /// Notes what the site has said of a credential without having been asked for it.
    pub fn learn(&mut self, ix: ProofIx, result: Result<Proven, Failure>, now: Instant) {
        self.proofs[ix as usize].verdict = Some(match result {
            Ok(proven) => Verdict::Known { proven, since: now },
            Err(failure) => Verdict::Refused { failure, until: now + REFUSAL_LASTS },
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
        self.forgets.next()
    }

    /// Forgets what is due.
    pub fn forget(&mut self, now: Instant) {
        loop {
            let too_many = self.forgets.count() > REMEMBERED_MAX;
            let until = if too_many { self.forgets.next().unwrap_or(now) } else { now };
            let Some(ix) = self.forgets.pop_due(until) else { return };
            let proof = self.proofs.remove(ix as usize);
            self.index.remove(&proof.print);
        }
    }

    /// Drops the secret of a credential that no connection stands on, and sees to it that the rest
    /// is forgotten when its verdict ends.
    fn forget_if_idle(&mut self, ix: ProofIx, now: Instant) {
        let proof = &mut self.proofs[ix as usize];
        if !proof.conns.is_empty() || proof.asking {
            return;
        }
        proof.credential = None;
        if let Some(before) = proof.forget.take() {
            self.forgets.cancel(before);
        }
        let at = match proof.verdict {
            Some(Verdict::Known { since, .. }) => since + PROOF_LASTS,
            Some(Verdict::Refused { until, .. }) => until,
            Some(Verdict::Unanswered { .. }) | None => now,
        };
        proof.forget = Some(self.forgets.set(at, ix));
        if self.forgets.count() > REMEMBERED_MAX {
            self.forget(now);
        }
    }

    /// Asserts that the tables agree with each other, and that `stands` says the same.
    pub fn check_invariants(&self, stands: impl Fn(ConnId, ProofIx) -> bool) {
        assert_eq!(self.index.len(), self.proofs.len());
        let mut idle = 0;
        for (ix, proof) in &self.proofs {
            assert_eq!(self.index.get(&proof.print), Some(&(ix as ProofIx)));
            assert!(proof.conns.iter().all(|conn| stands(*conn, ix as ProofIx)));
            let is_idle = proof.conns.is_empty() && !proof.asking;
            assert_eq!(is_idle, proof.forget.is_some());
            assert_eq!(is_idle, proof.credential.is_none());
            idle += usize::from(is_idle);
        }
        assert_eq!(idle, self.forgets.count());
        assert!(idle <= REMEMBERED_MAX);
    }
}

impl super::Identity {
    /// How often it was known what a credential proves.
    pub fn proof_hits(&self) -> HitCounter {
        self.proofs.hits
    }
}

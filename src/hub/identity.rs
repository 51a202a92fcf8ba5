//! Whose connection this is: credentials, what they have proven, and what waits for a proof.
//!
//! A credential is asked about once, however many connections bring it, and known by its
//! fingerprint from then on; the secret itself stays only while a connection stands on it, since
//! the site wants it again for each list of participants.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use slab::Slab;

use super::deadlines::{DeadlineKey, Deadlines};
use super::failure::Failure;
use super::interface::{ConnId, Now, Proven};
use crate::protocol::Id;
use crate::protocol::client::ReplyTo;
use crate::protocol::credential::{Credential, Fingerprint};

/// A credential's place in the table.
pub type ProofIx = u32;

/// How long a proof holds at most, whatever the token says (`PROTOCOL.md` 4).
pub const PROOF_LASTS: Duration = Duration::from_secs(600);
/// How long a refused credential is not asked about again.
const REFUSAL_LASTS: Duration = Duration::from_secs(60);
/// How long the site is left alone with a question that it did not answer.
pub const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long a connection with an expired token may take to bring a fresh one (`PROTOCOL.md` 4).
pub const EXPIRED_LASTS: Duration = Duration::from_secs(60);
/// Credentials that no connection stands on and whose proof or refusal is remembered. Beyond it,
/// the one that would be forgotten first goes.
const REMEMBERED_MAX: usize = 20_000;
/// Credentials of one connection that may be refused.
pub const REFUSALS_MAX: u8 = 3;
/// A timer is never set further ahead: the wall clock may be set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

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
    asking: bool,
    conns: Vec<ConnId>,
    /// When it is forgotten, while no connection stands on it.
    forget: Option<DeadlineKey>,
}

/// A `user_connected` whose user is not proven.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who it says it is.
    pub user: Id,
    /// What the outcome refers to.
    pub reply: ReplyTo,
}

/// What one connection has to do with proofs.
#[derive(Debug, Default)]
struct Side {
    /// The credential that it brought last.
    offered: Option<ProofIx>,
    /// The credential that proves its user.
    proven: Option<ProofIx>,
    /// It waits for the word on what it has offered.
    pending: bool,
    claim: Option<Claim>,
    /// What it said meanwhile.
    held: VecDeque<Box<str>>,
    refusals: u8,
    expires_s: Option<u64>,
    /// Until when a fresh token may come, once this one has expired.
    grace: Option<Instant>,
    deadline: Option<DeadlineKey>,
}

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing but prove who it is.
    Anonymous,
    /// What its user may.
    Proven,
    /// Hear, and bring a fresh token.
    Expired,
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

/// Why a connection's time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It has not proven who it is.
    Anonymous {
        /// It has tried.
        refused: bool,
    },
    /// Its token expires now.
    Expired,
    /// Its token expired, and no fresh one came.
    NotRenewed,
}

/// All credentials, and who stands on them.
#[derive(Debug, Default)]
pub struct Identity {
    index: HashMap<Fingerprint, ProofIx>,
    proofs: Slab<Proof>,
    forgets: Deadlines<ProofIx>,
    sides: Vec<Option<Box<Side>>>,
    ends: Deadlines<ConnId>,
}

impl Identity {
    /// Makes room for a connection.
    pub fn open(&mut self, conn: ConnId) {
        let slot = conn.slot as usize;
        if self.sides.len() <= slot {
            self.sides.resize_with(slot + 1, || None);
        }
        debug_assert!(self.sides[slot].is_none(), "a slot is given on empty");
    }

    /// Forgets a connection, and returns what it had said and nobody has heard.
    pub fn close(&mut self, conn: ConnId, now: Instant) -> VecDeque<Box<str>> {
        self.end_at(conn, None);
        let Some(side) = self.sides[conn.slot as usize].take() else {
            return VecDeque::new();
        };
        for ix in [side.offered, side.proven].into_iter().flatten() {
            self.leave(conn, ix, now);
        }
        side.held
    }

    // ---- credentials

    /// Keeps a connection's credential without asking about it, for what it will send.
    pub fn keep(&mut self, conn: ConnId, credential: Credential, now: Instant) {
        let ix = self.entry(credential);
        self.stand_on(conn, ix, now);
    }

    /// Takes a credential that a connection brings, perhaps with a claim that it is to prove.
    pub fn offer(
        &mut self,
        conn: ConnId,
        credential: Credential,
        claim: Option<Claim>,
        now: Now,
    ) -> Offer {
        let ix = self.entry(credential);
        self.stand_on(conn, ix, now.instant);
        self.side(conn).claim = claim;
        self.judge(conn, ix, now)
    }

    /// The same for the credential that it has brought before; `None` if there is none.
    pub fn offer_again(&mut self, conn: ConnId, claim: Option<Claim>, now: Now) -> Option<Offer> {
        let ix = self.offered(conn)?;
        if claim.is_some() {
            self.side(conn).claim = claim;
        }
        Some(self.judge(conn, ix, now))
    }

    /// Whether a connection has brought a credential of which the site has not said anything, and
    /// may be asked again.
    pub fn may_ask_again(&self, conn: ConnId, now: Now) -> bool {
        let proof = self.offered(conn).map(|ix| &self.proofs[ix as usize]);
        proof.is_some_and(|proof| match proof.verdict {
            Some(Verdict::Unanswered { until, .. }) => until <= now.instant,
            _ => false,
        })
    }

    fn judge(&mut self, conn: ConnId, ix: ProofIx, now: Now) -> Offer {
        let proof = &mut self.proofs[ix as usize];
        match proof.verdict {
            Some(Verdict::Known { proven, since }) => {
                if proven.expires_s.is_some_and(|at| at <= now.unix_s) {
                    return Offer::Failed(Failure::TokenExpired);
                }
                if now.instant.saturating_duration_since(since) < PROOF_LASTS {
                    return Offer::Known(proven);
                }
            }
            Some(Verdict::Refused { failure, until } | Verdict::Unanswered { failure, until })
                if until > now.instant =>
            {
                return Offer::Failed(failure);
            }
            _ => {}
        }
        let first = !std::mem::replace(&mut proof.asking, true);
        self.side(conn).pending = true;
        self.end_at(conn, None);
        if first { Offer::Ask(ix) } else { Offer::Wait }
    }

    /// The credential to put to the site; `None` if nobody waits for it any more.
    pub fn to_ask(&mut self, ix: ProofIx, now: Instant) -> Option<Credential> {
        let proof = self.proofs.get_mut(ix as usize)?;
        if proof.conns.is_empty() {
            proof.asking = false;
            self.forget_if_idle(ix, now);
            return None;
        }
        proof.credential.clone()
    }

    /// Takes the site's word on a credential. Returns the connections that wait for it.
    pub fn answered(
        &mut self,
        ix: ProofIx,
        result: Result<Proven, Failure>,
        now: Now,
    ) -> Vec<ConnId> {
        let Some(proof) = self.proofs.get_mut(ix as usize) else {
            debug_assert!(false, "what is asked about stays in the table");
            return Vec::new();
        };
        proof.asking = false;
        let known = match proof.verdict {
            Some(Verdict::Known { proven, .. }) => Some(proven),
            _ => None,
        };
        proof.verdict = Some(match (result, known) {
            (Ok(proven), _) => Verdict::Known { proven, since: now.instant },
            (Err(failure), _) if failure.condemns() => {
                Verdict::Refused { failure, until: now.instant + REFUSAL_LASTS }
            }
            // A site that is down makes nobody anonymous; it is asked again a little later.
            (Err(_), Some(proven)) if proof.conns.iter().any(|c| stands(&self.sides, *c, ix)) => {
                let then = now.instant.checked_sub(PROOF_LASTS - RETRY_AFTER);
                Verdict::Known { proven, since: then.unwrap_or(now.instant) }
            }
            (Err(failure), _) => Verdict::Unanswered { failure, until: now.instant + RETRY_AFTER },
        });
        let mut waiting = proof.conns.clone();
        waiting.retain(|conn| {
            let side = self.sides[conn.slot as usize].as_mut();
            side.is_some_and(|side| side.pending && side.offered == Some(ix))
        });
        self.forget_if_idle(ix, now.instant);
        waiting
    }

    /// Whether a proof is so old that the site should be asked again, which is noted as done.
    pub fn renews(&mut self, conn: ConnId, now: Now) -> Option<ProofIx> {
        let ix = self.get(conn)?.proven?;
        let proof = &mut self.proofs[ix as usize];
        let Some(Verdict::Known { since, .. }) = proof.verdict else {
            return None;
        };
        let old = now.instant.saturating_duration_since(since) >= PROOF_LASTS;
        (old && !std::mem::replace(&mut proof.asking, true)).then_some(ix)
    }

    /// Notes what the site has said of a credential without having been asked for it.
    pub fn learn(&mut self, credential: &Credential, proven: Proven, now: Instant) {
        let ix = self.entry(credential.clone());
        self.proofs[ix as usize].verdict = Some(Verdict::Known { proven, since: now });
        self.forget_if_idle(ix, now);
    }

    /// Notes that the site refuses a credential. Returns the connections that stand on it.
    pub fn condemn(
        &mut self,
        credential: &Credential,
        failure: Failure,
        now: Instant,
    ) -> Vec<ConnId> {
        let Some(ix) = self.index.get(&credential.fingerprint()).copied() else {
            return Vec::new();
        };
        let until = now + REFUSAL_LASTS;
        self.proofs[ix as usize].verdict = Some(Verdict::Refused { failure, until });
        self.standing_on(ix)
    }

    /// The connections whose user a credential proves.
    pub fn standing_on(&self, ix: ProofIx) -> Vec<ConnId> {
        let Some(proof) = self.proofs.get(ix as usize) else {
            return Vec::new();
        };
        let conns = proof.conns.iter().copied();
        conns.filter(|conn| stands(&self.sides, *conn, ix)).collect()
    }

    /// The credential that proves a connection's user.
    pub fn proof_of(&self, conn: ConnId) -> Option<&Credential> {
        self.proofs[self.get(conn)?.proven? as usize].credential.as_ref()
    }

    /// What a connection would send a message with: the credential that it brought last.
    pub fn credential_of(&self, conn: ConnId) -> Option<&Credential> {
        self.proofs[self.offered(conn)? as usize].credential.as_ref()
    }

    // ---- connections

    /// Notes that what a connection has offered proves its user, and until when.
    pub fn stand(&mut self, conn: ConnId, proven: Proven, now: Now) -> Option<Claim> {
        let side = self.side(conn);
        let before = std::mem::replace(&mut side.proven, side.offered);
        side.pending = false;
        side.grace = None;
        side.expires_s = proven.expires_s;
        let (claim, now_on) = (side.claim.take(), side.proven);
        if let Some(ix) = before.filter(|ix| Some(*ix) != now_on) {
            self.leave(conn, ix, now.instant);
        }
        self.end_at(conn, proven.expires_s.map(|at| until(at, now)));
        claim
    }

    /// Notes that what a connection has offered proves nothing new. Unless it `may_try_again` with
    /// the same, that is dropped.
    pub fn fall_back(&mut self, conn: ConnId, may_try_again: bool, now: Now) -> Option<Claim> {
        let side = self.side(conn);
        side.pending = false;
        let claim = side.claim.take();
        if side.proven.is_some() || !may_try_again {
            let dropped = std::mem::replace(&mut side.offered, side.proven);
            let (offered, expires_s) = (side.offered, side.expires_s);
            let (grace, proven) = (side.grace, side.proven.is_some());
            if let Some(ix) = dropped.filter(|ix| Some(*ix) != offered) {
                self.leave(conn, ix, now.instant);
            }
            if proven {
                self.end_at(conn, grace.or(expires_s.map(|at| until(at, now))));
            }
        }
        claim
    }

    /// The claim that waits for a proof.
    pub fn claim_of(&self, conn: ConnId) -> Option<&Claim> {
        self.get(conn)?.claim.as_ref()
    }

    /// Notes that the token on which a connection stands has expired; false if that is known.
    pub fn expire(&mut self, conn: ConnId, now: Now) -> bool {
        let side = self.side(conn);
        if side.proven.is_none() || side.grace.is_some() {
            return false;
        }
        side.grace = Some(now.instant + EXPIRED_LASTS);
        if !side.pending {
            self.end_at(conn, Some(now.instant + EXPIRED_LASTS));
        }
        true
    }

    /// Keeps a claim that nothing proves yet.
    pub fn claim(&mut self, conn: ConnId, claim: Claim) {
        self.side(conn).claim = Some(claim);
    }

    /// Counts a refusal, and says how many there were.
    pub fn refuse(&mut self, conn: ConnId) -> u8 {
        let side = self.side(conn);
        side.refusals = side.refusals.saturating_add(1);
        side.refusals
    }

    /// Gives an anonymous connection time to prove who it is, unless its time runs already.
    pub fn await_proof(&mut self, conn: ConnId, until: Instant) {
        if self.side(conn).deadline.is_none() {
            self.end_at(conn, Some(until));
        }
    }

    /// What a connection may do.
    pub fn standing(&self, conn: ConnId) -> Standing {
        match self.get(conn) {
            Some(side) if side.grace.is_some() => Standing::Expired,
            Some(side) if side.proven.is_some() => Standing::Proven,
            _ => Standing::Anonymous,
        }
    }

    /// Whether a connection waits for a proof, and of whom: what it says meanwhile has to wait.
    pub fn pending(&self, conn: ConnId) -> Option<Option<&Claim>> {
        let side = self.get(conn).filter(|side| side.pending)?;
        Some(side.claim.as_ref())
    }

    /// Lets a frame wait for the proof, before or after those that wait already.
    pub fn hold(&mut self, conn: ConnId, text: &str, first: bool) {
        let held = &mut self.side(conn).held;
        match first {
            true => held.push_front(text.into()),
            false => held.push_back(text.into()),
        }
    }

    /// The next frame that may go on.
    pub fn next_held(&mut self, conn: ConnId) -> Option<Box<str>> {
        let side = self.sides[conn.slot as usize].as_mut()?;
        if side.pending { None } else { side.held.pop_front() }
    }

    // ---- time

    /// When the next credential is forgotten, or the next connection's time is up.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.forgets.next(), self.ends.next()].into_iter().flatten().min()
    }

    /// Takes one connection whose time is up, until there are no more.
    pub fn due(&mut self, now: Now) -> Option<(ConnId, Due)> {
        while let Some(ix) = self.next_to_forget(now.instant) {
            let proof = self.proofs.remove(ix as usize);
            self.index.remove(&proof.print);
        }
        while let Some(conn) = self.ends.pop_due(now.instant) {
            let Some(side) = self.sides[conn.slot as usize].as_mut() else {
                debug_assert!(false, "a deadline ends with its connection");
                continue;
            };
            side.deadline = None;
            if side.proven.is_none() {
                return Some((conn, Due::Anonymous { refused: side.refusals > 0 }));
            }
            if side.grace.is_some() {
                return Some((conn, Due::NotRenewed));
            }
            match side.expires_s {
                Some(at) if at <= now.unix_s => {
                    self.expire(conn, now);
                    return Some((conn, Due::Expired));
                }
                // The wall clock went otherwise than the timer.
                Some(at) => self.end_at(conn, Some(until(at, now))),
                None => {}
            }
        }
        None
    }

    fn next_to_forget(&mut self, now: Instant) -> Option<ProofIx> {
        let too_many = self.forgets.count() > REMEMBERED_MAX;
        let until = if too_many { self.forgets.next()? } else { now };
        self.forgets.pop_due(until)
    }

    fn end_at(&mut self, conn: ConnId, at: Option<Instant>) {
        let Some(side) = self.sides[conn.slot as usize].as_mut() else {
            return;
        };
        if let Some(before) = side.deadline.take() {
            self.ends.cancel(before);
        }
        side.deadline = at.map(|at| self.ends.set(at, conn));
    }

    // ---- the tables

    fn get(&self, conn: ConnId) -> Option<&Side> {
        self.sides[conn.slot as usize].as_deref()
    }

    fn side(&mut self, conn: ConnId) -> &mut Side {
        self.sides[conn.slot as usize].get_or_insert_default()
    }

    fn offered(&self, conn: ConnId) -> Option<ProofIx> {
        self.get(conn)?.offered
    }

    fn entry(&mut self, credential: Credential) -> ProofIx {
        let print = credential.fingerprint();
        if let Some(ix) = self.index.get(&print) {
            self.proofs[*ix as usize].credential.get_or_insert(credential);
            return *ix;
        }
        let proof = Proof {
            print,
            credential: Some(credential),
            verdict: None,
            asking: false,
            conns: Vec::new(),
            forget: None,
        };
        let ix = self.proofs.insert(proof) as ProofIx;
        self.index.insert(print, ix);
        ix
    }

    /// Makes a credential the one that a connection brought last.
    fn stand_on(&mut self, conn: ConnId, ix: ProofIx, now: Instant) {
        let proof = &mut self.proofs[ix as usize];
        if !proof.conns.contains(&conn) {
            proof.conns.push(conn);
        }
        if let Some(forget) = proof.forget.take() {
            self.forgets.cancel(forget);
        }
        let before = self.side(conn).offered.replace(ix);
        if let Some(before) = before.filter(|before| *before != ix) {
            if self.get(conn).is_some_and(|side| side.proven != Some(before)) {
                self.leave(conn, before, now);
            }
        }
    }

    fn leave(&mut self, conn: ConnId, ix: ProofIx, now: Instant) {
        if let Some(proof) = self.proofs.get_mut(ix as usize) {
            proof.conns.retain(|other| *other != conn);
            self.forget_if_idle(ix, now);
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
    }

    /// How many credentials are known.
    pub fn count(&self) -> usize {
        self.proofs.len()
    }

    /// Asserts that the tables agree with each other.
    pub fn check_invariants(&self) {
        assert_eq!(self.index.len(), self.proofs.len());
        let mut idle = 0;
        for (ix, proof) in &self.proofs {
            let ix = ix as ProofIx;
            assert_eq!(self.index.get(&proof.print), Some(&ix));
            for conn in &proof.conns {
                let side = self.get(*conn).expect("who stands on a credential is there");
                assert!(side.offered == Some(ix) || side.proven == Some(ix));
            }
            let is_idle = proof.conns.is_empty() && !proof.asking;
            assert_eq!(is_idle, proof.forget.is_some());
            assert_eq!(is_idle, proof.credential.is_none());
            idle += usize::from(is_idle);
        }
        assert_eq!(idle, self.forgets.count());
        let sides = self.sides.iter().flatten();
        assert_eq!(sides.clone().filter(|s| s.deadline.is_some()).count(), self.ends.count());
        for side in sides {
            assert!(side.held.is_empty() || side.pending);
            assert!(side.pending || side.proven.is_none() || side.proven == side.offered);
        }
    }
}

fn stands(sides: &[Option<Box<Side>>], conn: ConnId, ix: ProofIx) -> bool {
    sides[conn.slot as usize].as_ref().is_some_and(|side| side.proven == Some(ix))
}

/// When a time of the wall clock comes, or when to look again.
fn until(unix_s: u64, now: Now) -> Instant {
    now.instant + Duration::from_secs(unix_s.saturating_sub(now.unix_s)).min(LOOK_AGAIN)
}

//! Whose connection this is: what each has brought and claimed, and what it says meanwhile.

pub mod proofs;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::deadlines::{DeadlineKey, Deadlines};
use super::failure::Failure;
use super::interface::{ConnId, Now, Proven};
use super::waiting::HeldText;
use crate::protocol::client::ReplyTo;
use crate::protocol::credential::Credential;
use crate::protocol::{Id, IdKey};
use proofs::{Offer, PROOF_LASTS, ProofIx, Proofs, RETRY_AFTER};

/// How long a connection with an expired token may take to bring a fresh one (`PROTOCOL.md` 4).
const EXPIRED_LASTS: Duration = Duration::from_secs(60);
/// Credentials of one connection that may be refused.
pub const REFUSALS_MAX: u8 = 3;
/// Credentials of one connection that the site may leave without a verdict, one after the other.
pub const UNANSWERED_MAX: u8 = 10;
/// A timer is never set further ahead: the wall clock may be set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// A `user_connected` whose user is not proven.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who it says it is.
    pub user: Id,
    /// What the outcome refers to.
    pub reply: ReplyTo,
}

impl Claim {
    /// Whether this is whom it claims to be.
    pub fn is_of(&self, proven: Proven) -> bool {
        self.user.key == IdKey::Number(proven.user)
    }
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
    /// What it has offered came with a message.
    with_message: bool,
    /// What it said meanwhile.
    held: VecDeque<HeldText>,
    refusals: u8,
    unanswered: u8,
    expires_s: Option<u64>,
    /// Until when a fresh token may come, once this one has expired.
    grace: Option<Instant>,
    deadline: Option<DeadlineKey>,
    /// It is being closed.
    over: bool,
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

/// Why a connection's time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It has not proven who it is.
    Anonymous {
        /// It has tried.
        refused: bool,
        /// The site has not said anything of its credential.
        unanswered: bool,
    },
    /// Nothing says when its credential ends, so the site has to be asked again.
    Unsure,
    /// Its token expires now.
    Expired,
    /// Its token expired, and no fresh one came.
    NotRenewed,
}

/// All credentials, and who stands on them.
#[derive(Debug, Default)]
pub struct Identity {
    proofs: Proofs,
    /// As long as the last slot whose connection has brought something.
    sides: Vec<Option<Box<Side>>>,
    ends: Deadlines<ConnId>,
}

impl Identity {
    /// Takes a connection in; it has no room here until it brings something.
    pub fn open(&mut self, conn: ConnId) {
        debug_assert!(self.get(conn).is_none(), "a slot is given on empty");
    }

    /// Forgets a connection, and returns what it had said and nobody has heard.
    pub fn close(&mut self, conn: ConnId, now: Instant) -> VecDeque<HeldText> {
        self.end_at(conn, None);
        let Some(side) = self.sides.get_mut(conn.slot as usize).and_then(Option::take) else {
            return VecDeque::new();
        };
        for ix in [side.offered, side.proven].into_iter().flatten() {
            self.proofs.leave(conn, ix, now);
        }
        side.held
    }

    // ---- credentials

    /// Keeps a connection's credential without asking about it, for what it will send.
    pub fn keep(&mut self, conn: ConnId, credential: Credential, now: Instant) {
        let ix = self.proofs.place(credential);
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
        let ix = self.proofs.place(credential);
        self.stand_on(conn, ix, now.instant);
        self.side(conn).claim = claim;
        self.judge(conn, ix, now)
    }

    /// The same for the token of a message. What was claimed before waits on.
    pub fn offer_with_message(&mut self, conn: ConnId, credential: Credential, now: Now) -> Offer {
        let claim = self.side(conn).claim.take();
        self.side(conn).with_message = true;
        self.offer(conn, credential, claim, now)
    }

    /// Whether what a connection waited for was the token of a message, which is asked about anew
    /// when the message is.
    pub fn takes_message_back(&mut self, conn: ConnId, now: Now) -> bool {
        let side = self.side(conn);
        if !std::mem::take(&mut side.with_message) {
            return false;
        }
        side.pending = false;
        if let Some(ix) = side.offered.take() {
            self.proofs.leave(conn, ix, now.instant);
        }
        true
    }

    /// The same for the credential that it has brought before; `None` if there is none.
    pub fn offer_again(&mut self, conn: ConnId, claim: Option<Claim>, now: Now) -> Option<Offer> {
        let ix = self.offered(conn)?;
        if claim.is_some() {
            self.side(conn).claim = claim;
        }
        Some(self.judge(conn, ix, now))
    }

    /// Why the site has not said anything of what a connection has brought.
    pub fn unanswered(&self, conn: ConnId) -> Option<Failure> {
        self.proofs.unanswered(self.offered(conn)?)
    }

    /// Whether a connection has brought a credential of which the site has not said anything, and
    /// may be asked again.
    pub fn may_ask_again(&self, conn: ConnId, now: Now) -> bool {
        self.offered(conn).is_some_and(|ix| self.proofs.may_ask_again(ix, now.instant))
    }

    fn judge(&mut self, conn: ConnId, ix: ProofIx, now: Now) -> Offer {
        let offer = self.proofs.judge(ix, now);
        if matches!(offer, Offer::Ask(_) | Offer::Wait) {
            let side = self.side(conn);
            side.pending = true;
            // It is the site's time, and not theirs. What has been proven ends all the same.
            if side.proven.is_none() {
                self.end_at(conn, None);
            }
        }
        offer
    }

    /// The credential to put to the site; `None` if nobody waits for it any more.
    pub fn to_ask(&mut self, ix: ProofIx) -> Option<Credential> {
        self.proofs.to_ask(ix)
    }

    /// Takes the credentials in line for which nobody waits any more.
    pub fn take_unwanted(&mut self) -> Vec<ProofIx> {
        self.proofs.take_unwanted()
    }

    /// Takes the site's word on a credential. Returns the connections that wait for it.
    pub fn answered(
        &mut self,
        ix: ProofIx,
        result: Result<Proven, Failure>,
        now: Now,
    ) -> Vec<ConnId> {
        self.proofs.answered(ix, result, now.instant);
        let waits = |conn: &ConnId| {
            self.get(*conn).is_some_and(|side| side.pending && side.offered == Some(ix))
        };
        self.proofs.conns(ix).iter().copied().filter(waits).collect()
    }

    /// The proof of a connection's user, if it is so old that the site should be asked again.
    pub fn renews(&mut self, conn: ConnId, now: Now) -> Option<ProofIx> {
        let ix = self.get(conn)?.proven?;
        self.proofs.renews(ix, now.instant).then_some(ix)
    }

    /// Notes what the site has said of a credential without having been asked for it.
    pub fn learn(&mut self, credential: &Credential, proven: Proven, now: Instant) {
        let ix = self.proofs.place(credential.clone());
        self.proofs.learn(ix, Ok(proven), now);
    }

    /// Notes that the site refuses a credential. Returns the connections that stand on it.
    pub fn condemn(
        &mut self,
        credential: &Credential,
        failure: Failure,
        now: Instant,
    ) -> Vec<ConnId> {
        let Some(ix) = self.proofs.find(credential) else {
            return Vec::new();
        };
        let conns = self.proven_by(ix);
        self.proofs.learn(ix, Err(failure), now);
        conns
    }

    /// The connections whose user a credential proves.
    pub fn proven_by(&self, ix: ProofIx) -> Vec<ConnId> {
        let stands = |conn: &ConnId| self.get(*conn).is_some_and(|side| side.proven == Some(ix));
        self.proofs.conns(ix).iter().copied().filter(stands).collect()
    }

    /// The credential that proves a connection's user.
    pub fn proof_of(&self, conn: ConnId) -> Option<&Credential> {
        self.proofs.credential(self.get(conn)?.proven?)
    }

    /// What a connection would send a message with: the credential that it brought last.
    pub fn credential_of(&self, conn: ConnId) -> Option<&Credential> {
        self.proofs.credential(self.offered(conn)?)
    }

    // ---- connections

    /// Notes that what a connection has offered proves its user, and until when.
    pub fn stand(&mut self, conn: ConnId, proven: Proven, now: Now) -> Option<Claim> {
        let side = self.side(conn);
        let before = std::mem::replace(&mut side.proven, side.offered);
        side.pending = false;
        side.with_message = false;
        side.unanswered = 0;
        side.grace = None;
        side.expires_s = proven.expires_s;
        let (claim, now_on) = (side.claim.take(), side.proven);
        if let Some(ix) = before.filter(|ix| Some(*ix) != now_on) {
            self.proofs.leave(conn, ix, now.instant);
        }
        self.end_at(conn, Some(next_look(proven.expires_s, now)));
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
            let offered = side.offered;
            if let Some(ix) = dropped.filter(|ix| Some(*ix) != offered) {
                self.proofs.leave(conn, ix, now.instant);
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
        self.end_at(conn, Some(now.instant + EXPIRED_LASTS));
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

    /// Counts a credential without a verdict, and says how many there were since the last good one.
    pub fn leave_unanswered(&mut self, conn: ConnId) -> u8 {
        let side = self.side(conn);
        side.unanswered = side.unanswered.saturating_add(1);
        side.unanswered
    }

    /// Gives an anonymous connection time to prove who it is, unless its time runs already.
    pub fn await_proof(&mut self, conn: ConnId, until: Instant) {
        if self.side(conn).deadline.is_none() {
            self.end_at(conn, Some(until));
        }
    }

    /// Notes that a connection is being closed.
    pub fn end(&mut self, conn: ConnId) {
        self.side(conn).over = true;
        self.end_at(conn, None);
    }

    /// Whether a connection is being closed.
    pub fn is_over(&self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|side| side.over)
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
    pub fn hold(&mut self, conn: ConnId, text: HeldText, first: bool) {
        let held = &mut self.side(conn).held;
        if first { held.push_front(text) } else { held.push_back(text) }
    }

    /// Whether frames wait.
    pub fn holds(&self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|side| !side.held.is_empty())
    }

    /// The next frame that waits, whether it may go on or not.
    pub fn take_held(&mut self, conn: ConnId) -> Option<HeldText> {
        self.get_mut(conn)?.held.pop_front()
    }

    /// The next frame that may go on.
    pub fn next_held(&mut self, conn: ConnId) -> Option<HeldText> {
        self.get_mut(conn).filter(|side| !side.pending)?.held.pop_front()
    }

    // ---- time

    /// When the next credential is forgotten, or the next connection's time is up.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.proofs.next_deadline(), self.ends.next()].into_iter().flatten().min()
    }

    /// Takes one connection whose time is up, until there are no more.
    pub fn due(&mut self, now: Now) -> Option<(ConnId, Due)> {
        self.proofs.forget(now.instant);
        while let Some(conn) = self.ends.pop_due(now.instant) {
            let Some(side) = self.get_mut(conn) else {
                debug_assert!(false, "a deadline ends with its connection");
                continue;
            };
            side.deadline = None;
            if side.proven.is_none() {
                let refused = side.refusals > 0;
                return Some((
                    conn,
                    Due::Anonymous { refused, unanswered: side.offered.is_some() },
                ));
            }
            if side.grace.is_some() {
                if !side.pending {
                    return Some((conn, Due::NotRenewed));
                }
                // A fresh one has come in time, and the site is being asked.
                self.end_at(conn, Some(now.instant + RETRY_AFTER));
                continue;
            }
            match side.expires_s {
                Some(at) if at <= now.unix_s => {
                    self.expire(conn, now);
                    return Some((conn, Due::Expired));
                }
                // The wall clock went otherwise than the timer.
                expires_s @ Some(_) => self.end_at(conn, Some(next_look(expires_s, now))),
                None => {
                    self.end_at(conn, Some(next_look(None, now)));
                    return Some((conn, Due::Unsure));
                }
            }
        }
        None
    }

    fn end_at(&mut self, conn: ConnId, at: Option<Instant>) {
        let Some(side) = self.sides.get_mut(conn.slot as usize).and_then(Option::as_mut) else {
            return;
        };
        if let Some(before) = side.deadline.take() {
            self.ends.cancel(before);
        }
        side.deadline = at.map(|at| self.ends.set(at, conn));
    }

    // ---- the tables

    fn get(&self, conn: ConnId) -> Option<&Side> {
        self.sides.get(conn.slot as usize)?.as_deref()
    }

    fn get_mut(&mut self, conn: ConnId) -> Option<&mut Side> {
        self.sides.get_mut(conn.slot as usize)?.as_deref_mut()
    }

    fn side(&mut self, conn: ConnId) -> &mut Side {
        super::capacity::reach(&mut self.sides, conn.slot);
        self.sides[conn.slot as usize].get_or_insert_default()
    }

    fn offered(&self, conn: ConnId) -> Option<ProofIx> {
        self.get(conn)?.offered
    }

    /// Makes a credential the one that a connection brought last.
    fn stand_on(&mut self, conn: ConnId, ix: ProofIx, now: Instant) {
        self.proofs.join(conn, ix);
        let before = self.side(conn).offered.replace(ix);
        if let Some(before) = before.filter(|before| *before != ix) {
            if self.get(conn).is_some_and(|side| side.proven != Some(before)) {
                self.proofs.leave(conn, before, now);
            }
        }
    }

    /// How many connections wait for a proof.
    pub fn pending_count(&self) -> usize {
        self.sides.iter().flatten().filter(|side| side.pending).count()
    }

    /// Asserts that the tables agree with each other.
    pub fn check_invariants(&self) {
        self.proofs.check_invariants(|conn, ix| {
            let side = self.get(conn);
            side.is_some_and(|side| side.offered == Some(ix) || side.proven == Some(ix))
        });
        let sides = self.sides.iter().flatten();
        assert_eq!(sides.clone().filter(|s| s.deadline.is_some()).count(), self.ends.count());
        for side in sides {
            assert!(side.held.is_empty() || side.pending);
            assert!(side.pending || side.proven.is_none() || side.proven == side.offered);
        }
    }
}

/// When to look whether a credential still holds.
fn next_look(expires_s: Option<u64>, now: Now) -> Instant {
    let left = |at: u64| Duration::from_secs(at.saturating_sub(now.unix_s)).min(LOOK_AGAIN);
    now.instant + expires_s.map_or(PROOF_LASTS, left)
}

//! Whose connection this is: what each has brought and claimed, and what it says meanwhile.

pub mod proofs;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::deadlines::{DeadlineKey, Deadlines};
use super::failure::Failure;
use super::held_frames::HeldText;
use super::interface::{ConnId, Now, Proven};
use crate::protocol::client::ReplyTo;
use crate::protocol::credential::Credential;
use crate::protocol::{Id, IdKey};
use proofs::{CredentialStatus, PROOF_TTL, ProofIx, Proofs, RETRY_AFTER};

/// How long a connection with an expired token may take to bring a fresh one (`PROTOCOL.md` 4).
const RENEWAL_GRACE: Duration = Duration::from_secs(60);
/// Credentials of one connection that may be refused.
pub const REFUSALS_MAX: u8 = 3;
/// Credentials of one connection that the site may leave without a verdict, one after the other.
pub const UNANSWERED_MAX: u8 = 10;
/// A timer is never set further ahead: the wall clock may be set meanwhile.
const TIMER_MAX: Duration = Duration::from_secs(3600);

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
struct ConnState {
    /// The credential that it brought last.
    presented: Option<ProofIx>,
    /// The credential that proves its user.
    proven: Option<ProofIx>,
    /// It waits for the word on what it has offered.
    pending: bool,
    claim: Option<Claim>,
    /// What it has offered came with a message.
    from_message: bool,
    /// What it said meanwhile.
    held: VecDeque<HeldText>,
    refusals: u8,
    unanswered: u8,
    expires_s: Option<u64>,
    /// Until when a fresh token may come, once this one has expired.
    grace: Option<Instant>,
    deadline: Option<DeadlineKey>,
    /// It is being closed.
    closing: bool,
}

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthState {
    /// Nothing but prove who it is.
    Anonymous,
    /// What its user may.
    Proven,
    /// Hear, and bring a fresh token.
    Expired,
}

/// Why a connection's time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthTimeout {
    /// It has not proven who it is.
    Anonymous {
        /// It has tried.
        refused: bool,
        /// The site has not said anything of its credential.
        unanswered: bool,
    },
    /// Nothing says when its credential ends, so the site has to be asked again.
    Recheck,
    /// Its token expires now.
    Expired,
    /// Its token expired, and no fresh one came.
    NotRenewed,
}

/// All credentials, and who stands on them.
#[derive(Debug, Default)]
pub struct Authentication {
    proofs: Proofs,
    /// As long as the last slot whose connection has brought something.
    states: Vec<Option<Box<ConnState>>>,
    timeouts: Deadlines<ConnId>,
}

impl Authentication {
    /// Takes a connection in; it has no room here until it brings something.
    pub fn open(&mut self, conn: ConnId) {
        debug_assert!(self.get(conn).is_none(), "a slot is given on empty");
    }

    /// Forgets a connection, and returns what it had said and nobody has heard.
    pub fn close(&mut self, conn: ConnId, now: Instant) -> VecDeque<HeldText> {
        self.set_timeout(conn, None);
        let Some(state) = self.states.get_mut(conn.slot as usize).and_then(Option::take) else {
            return VecDeque::new();
        };
        for ix in [state.presented, state.proven].into_iter().flatten() {
            self.proofs.leave(conn, ix, now);
        }
        state.held
    }

    // ---- credentials

    /// Keeps a connection's credential without asking about it, for what it will send.
    pub fn store_credential(&mut self, conn: ConnId, credential: Credential, now: Instant) {
        let ix = self.proofs.intern(credential);
        self.set_presented(conn, ix, now);
    }

    /// Takes a credential that a connection brings, perhaps with a claim that it is to prove.
    pub fn authenticate(
        &mut self,
        conn: ConnId,
        credential: Credential,
        claim: Option<Claim>,
        now: Now,
    ) -> CredentialStatus {
        let ix = self.proofs.intern(credential);
        self.set_presented(conn, ix, now.instant);
        self.state(conn).claim = claim;
        self.check(conn, ix, now)
    }

    /// The same for the token of a message. What was claimed before waits on.
    pub fn authenticate_with_message(
        &mut self,
        conn: ConnId,
        credential: Credential,
        now: Now,
    ) -> CredentialStatus {
        let claim = self.state(conn).claim.take();
        self.state(conn).from_message = true;
        self.authenticate(conn, credential, claim, now)
    }

    /// Whether what a connection waited for was the token of a message, which is asked about anew
    /// when the message is.
    pub fn take_message_credential(&mut self, conn: ConnId, now: Now) -> bool {
        let state = self.state(conn);
        if !std::mem::take(&mut state.from_message) {
            return false;
        }
        state.pending = false;
        if let Some(ix) = state.presented.take() {
            self.proofs.leave(conn, ix, now.instant);
        }
        true
    }

    /// The same for the credential that it has brought before; `None` if there is none.
    pub fn reauthenticate(
        &mut self,
        conn: ConnId,
        claim: Option<Claim>,
        now: Now,
    ) -> Option<CredentialStatus> {
        let ix = self.presented(conn)?;
        if claim.is_some() {
            self.state(conn).claim = claim;
        }
        Some(self.check(conn, ix, now))
    }

    /// Why the site has not said anything of what a connection has brought.
    pub fn last_failure(&self, conn: ConnId) -> Option<Failure> {
        self.proofs.last_failure(self.presented(conn)?)
    }

    /// Whether a connection has brought a credential of which the site has not said anything, and
    /// may be asked again.
    pub fn can_retry(&self, conn: ConnId, now: Now) -> bool {
        self.presented(conn).is_some_and(|ix| self.proofs.can_retry(ix, now.instant))
    }

    fn check(&mut self, conn: ConnId, ix: ProofIx, now: Now) -> CredentialStatus {
        let status = self.proofs.check(ix, now);
        if matches!(status, CredentialStatus::Ask(_) | CredentialStatus::Wait) {
            let state = self.state(conn);
            state.pending = true;
            // It is the site's time, and not theirs. What has been proven ends all the same.
            if state.proven.is_none() {
                self.set_timeout(conn, None);
            }
        }
        status
    }

    /// The credential to put to the site; `None` if nobody waits for it any more.
    pub fn begin_query(&mut self, ix: ProofIx) -> Option<Credential> {
        self.proofs.begin_query(ix)
    }

    /// Takes the credentials in line for which nobody waits any more.
    pub fn take_cancelled(&mut self) -> Vec<ProofIx> {
        self.proofs.take_cancelled()
    }

    /// Takes the site's word on a credential. Returns the connections that wait for it.
    pub fn record_answer(
        &mut self,
        ix: ProofIx,
        result: Result<Proven, Failure>,
        now: Now,
    ) -> Vec<ConnId> {
        self.proofs.record_answer(ix, result, now.instant);
        let waits = |conn: &ConnId| {
            self.get(*conn).is_some_and(|state| state.pending && state.presented == Some(ix))
        };
        self.proofs.conns(ix).iter().copied().filter(waits).collect()
    }

    /// The proof of a connection's user, if it is so old that the site should be asked again.
    pub fn begin_renewal(&mut self, conn: ConnId, now: Now) -> Option<ProofIx> {
        let ix = self.get(conn)?.proven?;
        self.proofs.begin_renewal(ix, now.instant).then_some(ix)
    }

    /// Notes what the site has said of a credential without having been asked for it.
    pub fn record(&mut self, credential: &Credential, proven: Proven, now: Instant) {
        let ix = self.proofs.intern(credential.clone());
        self.proofs.record(ix, Ok(proven), now);
    }

    /// Notes that the site refuses a credential. Returns the connections that stand on it.
    pub fn revoke(
        &mut self,
        credential: &Credential,
        failure: Failure,
        now: Instant,
    ) -> Vec<ConnId> {
        let Some(ix) = self.proofs.find(credential) else {
            return Vec::new();
        };
        let conns = self.connections_proven_by(ix);
        self.proofs.record(ix, Err(failure), now);
        conns
    }

    /// The connections whose user a credential proves.
    pub fn connections_proven_by(&self, ix: ProofIx) -> Vec<ConnId> {
        let is_used = |conn: &ConnId| self.get(*conn).is_some_and(|state| state.proven == Some(ix));
        self.proofs.conns(ix).iter().copied().filter(is_used).collect()
    }

    /// The credential that proves a connection's user.
    pub fn proven_credential(&self, conn: ConnId) -> Option<&Credential> {
        self.proofs.credential(self.get(conn)?.proven?)
    }

    /// What a connection would send a message with: the credential that it brought last.
    pub fn latest_credential(&self, conn: ConnId) -> Option<&Credential> {
        self.proofs.credential(self.presented(conn)?)
    }

    // ---- connections

    /// Notes that what a connection has offered proves its user, and until when.
    pub fn set_proven(&mut self, conn: ConnId, proven: Proven, now: Now) -> Option<Claim> {
        let state = self.state(conn);
        let previous = std::mem::replace(&mut state.proven, state.presented);
        state.pending = false;
        state.from_message = false;
        state.unanswered = 0;
        state.grace = None;
        state.expires_s = proven.expires_s;
        let (claim, current) = (state.claim.take(), state.proven);
        if let Some(ix) = previous.filter(|ix| Some(*ix) != current) {
            self.proofs.leave(conn, ix, now.instant);
        }
        self.set_timeout(conn, Some(next_check(proven.expires_s, now)));
        claim
    }

    /// Notes that what a connection has offered proves nothing new. Unless it `may_try_again` with
    /// the same, that is dropped.
    pub fn fall_back(&mut self, conn: ConnId, may_try_again: bool, now: Now) -> Option<Claim> {
        let state = self.state(conn);
        state.pending = false;
        let claim = state.claim.take();
        if state.proven.is_some() || !may_try_again {
            let dropped = std::mem::replace(&mut state.presented, state.proven);
            let presented = state.presented;
            if let Some(ix) = dropped.filter(|ix| Some(*ix) != presented) {
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
        let state = self.state(conn);
        if state.proven.is_none() || state.grace.is_some() {
            return false;
        }
        state.grace = Some(now.instant + RENEWAL_GRACE);
        self.set_timeout(conn, Some(now.instant + RENEWAL_GRACE));
        true
    }

    /// Keeps a claim that nothing proves yet.
    pub fn store_claim(&mut self, conn: ConnId, claim: Claim) {
        self.state(conn).claim = Some(claim);
    }

    /// Counts a refusal, and says how many there were.
    pub fn count_refusal(&mut self, conn: ConnId) -> u8 {
        let state = self.state(conn);
        state.refusals = state.refusals.saturating_add(1);
        state.refusals
    }

    /// Counts a credential without a verdict, and says how many there were since the last good one.
    pub fn count_unanswered(&mut self, conn: ConnId) -> u8 {
        let state = self.state(conn);
        state.unanswered = state.unanswered.saturating_add(1);
        state.unanswered
    }

    /// Gives an anonymous connection time to prove who it is, unless its time runs already.
    pub fn start_auth_timeout(&mut self, conn: ConnId, until: Instant) {
        if self.state(conn).deadline.is_none() {
            self.set_timeout(conn, Some(until));
        }
    }

    /// Notes that a connection is being closed.
    pub fn mark_closing(&mut self, conn: ConnId) {
        self.state(conn).closing = true;
        self.set_timeout(conn, None);
    }

    /// Whether a connection is being closed.
    pub fn is_closing(&self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|state| state.closing)
    }

    /// What a connection may do.
    pub fn auth_state(&self, conn: ConnId) -> AuthState {
        match self.get(conn) {
            Some(state) if state.grace.is_some() => AuthState::Expired,
            Some(state) if state.proven.is_some() => AuthState::Proven,
            _ => AuthState::Anonymous,
        }
    }

    /// Whether a connection waits for a proof, and of whom: what it says meanwhile has to wait.
    pub fn pending(&self, conn: ConnId) -> Option<Option<&Claim>> {
        let state = self.get(conn).filter(|state| state.pending)?;
        Some(state.claim.as_ref())
    }

    /// Lets a frame wait for the proof, before or after those that wait already.
    pub fn hold(&mut self, conn: ConnId, text: HeldText, first: bool) {
        let held = &mut self.state(conn).held;
        if first { held.push_front(text) } else { held.push_back(text) }
    }

    /// Whether frames wait.
    pub fn has_held_frames(&self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|state| !state.held.is_empty())
    }

    /// The next frame that waits, whether it may go on or not.
    pub fn take_held(&mut self, conn: ConnId) -> Option<HeldText> {
        self.get_mut(conn)?.held.pop_front()
    }

    /// The next frame that may go on.
    pub fn next_held(&mut self, conn: ConnId) -> Option<HeldText> {
        self.get_mut(conn).filter(|state| !state.pending)?.held.pop_front()
    }

    // ---- time

    /// When the next credential is forgotten, or the next connection's time is up.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.proofs.next_deadline(), self.timeouts.next()].into_iter().flatten().min()
    }

    /// Takes one connection whose time is up, until there are no more.
    pub fn pop_timeout(&mut self, now: Now) -> Option<(ConnId, AuthTimeout)> {
        self.proofs.forget(now.instant);
        while let Some(conn) = self.timeouts.pop_due(now.instant) {
            let Some(state) = self.get_mut(conn) else {
                debug_assert!(false, "a deadline ends with its connection");
                continue;
            };
            state.deadline = None;
            if state.proven.is_none() {
                let refused = state.refusals > 0;
                return Some((
                    conn,
                    AuthTimeout::Anonymous { refused, unanswered: state.presented.is_some() },
                ));
            }
            if state.grace.is_some() {
                if !state.pending {
                    return Some((conn, AuthTimeout::NotRenewed));
                }
                // A fresh one has come in time, and the site is being asked.
                self.set_timeout(conn, Some(now.instant + RETRY_AFTER));
                continue;
            }
            match state.expires_s {
                Some(at) if at <= now.unix_s => {
                    self.expire(conn, now);
                    return Some((conn, AuthTimeout::Expired));
                }
                // The wall clock went otherwise than the timer.
                expires_s @ Some(_) => self.set_timeout(conn, Some(next_check(expires_s, now))),
                None => {
                    self.set_timeout(conn, Some(next_check(None, now)));
                    return Some((conn, AuthTimeout::Recheck));
                }
            }
        }
        None
    }

    fn set_timeout(&mut self, conn: ConnId, at: Option<Instant>) {
        let Some(state) = self.states.get_mut(conn.slot as usize).and_then(Option::as_mut) else {
            return;
        };
        if let Some(previous) = state.deadline.take() {
            self.timeouts.cancel(previous);
        }
        state.deadline = at.map(|at| self.timeouts.set(at, conn));
    }

    // ---- the tables

    fn get(&self, conn: ConnId) -> Option<&ConnState> {
        self.states.get(conn.slot as usize)?.as_deref()
    }

    fn get_mut(&mut self, conn: ConnId) -> Option<&mut ConnState> {
        self.states.get_mut(conn.slot as usize)?.as_deref_mut()
    }

    fn state(&mut self, conn: ConnId) -> &mut ConnState {
        super::capacity::ensure_slot(&mut self.states, conn.slot);
        self.states[conn.slot as usize].get_or_insert_default()
    }

    fn presented(&self, conn: ConnId) -> Option<ProofIx> {
        self.get(conn)?.presented
    }

    /// Makes a credential the one that a connection brought last.
    fn set_presented(&mut self, conn: ConnId, ix: ProofIx, now: Instant) {
        self.proofs.join(conn, ix);
        let previous = self.state(conn).presented.replace(ix);
        if let Some(previous) = previous.filter(|previous| *previous != ix) {
            if self.get(conn).is_some_and(|state| state.proven != Some(previous)) {
                self.proofs.leave(conn, previous, now);
            }
        }
    }

    /// How many connections wait for a proof.
    pub fn pending_count(&self) -> usize {
        self.states.iter().flatten().filter(|state| state.pending).count()
    }

    /// Asserts that the tables agree with each other.
    pub fn check_invariants(&self) {
        self.proofs.check_invariants(|conn, ix| {
            let state = self.get(conn);
            state.is_some_and(|state| state.presented == Some(ix) || state.proven == Some(ix))
        });
        let states = self.states.iter().flatten();
        assert_eq!(states.clone().filter(|s| s.deadline.is_some()).count(), self.timeouts.count());
        for state in states {
            assert!(state.held.is_empty() || state.pending);
            assert!(state.pending || state.proven.is_none() || state.proven == state.presented);
        }
    }
}

/// When to look whether a credential still holds.
fn next_check(expires_s: Option<u64>, now: Now) -> Instant {
    let left = |at: u64| Duration::from_secs(at.saturating_sub(now.unix_s)).min(TIMER_MAX);
    now.instant + expires_s.map_or(PROOF_TTL, left)
}

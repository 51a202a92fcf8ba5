//! Identity of each connection: its credential, claimed user, timeouts and held frames.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::held_frames::HeldText;
use super::proofs::{CredentialStatus, PROOF_TTL, ProofIx, Proofs, RETRY_AFTER, Renewal};
use crate::hub::deadlines::{DeadlineKey, Deadlines};
use crate::hub::failure::Failure;
use crate::hub::interface::{ConnId, Now, Proven};
use crate::metrics::HitCounter;
use crate::protocol::client::ReplyTo;
use crate::protocol::credential::Credential;
use crate::protocol::{Id, IdKey};

/// How long a connection with an expired token may take to renew it (`PROTOCOL.md` 4).
const RENEWAL_GRACE: Duration = Duration::from_secs(60);
/// Refused credentials after which a connection is closed.
pub(crate) const REFUSALS_MAX: u8 = 3;
/// Consecutive unanswered credentials after which a connection is closed.
pub(crate) const UNANSWERED_MAX: u8 = 10;
/// Maximum delay of a timer. When it fires, the wall clock is read again, since it may have been
/// set.
const TIMER_MAX: Duration = Duration::from_secs(3600);

/// How long to wait before a recheck that the site did not answer is due again.
const RECHECK_RETRY: Duration = Duration::from_secs(60);

/// A `user_connected` frame whose user has not been proven.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    /// The user that the client claims to be.
    pub user: Id,
    /// The frame that the reply refers to.
    pub reply: ReplyTo,
}

impl Claim {
    /// Whether the proven user is the claimed one.
    pub(crate) fn is_of(&self, proven: Proven) -> bool {
        self.user.key == IdKey::Number(proven.user)
    }
}

/// Authentication state of one connection.
#[derive(Debug, Default)]
struct ConnState {
    /// The credential that the client sent last.
    presented: Option<ProofIx>,
    /// The credential that proves the connection's user.
    proven: Option<ProofIx>,
    /// Whether the presented credential waits for the site's answer.
    pending: bool,
    claim: Option<Claim>,
    /// Whether the presented credential came with a message.
    from_message: bool,
    /// Whether a frame of the proven user waits for the site: whether it is still welcome, or may
    /// call.
    waiting: bool,
    /// Frames held until the site has answered.
    held: VecDeque<HeldText>,
    refusals: u8,
    unanswered: u8,
    expires_s: Option<u64>,
    /// The deadline for renewing a token that has expired.
    grace: Option<Instant>,
    deadline: Option<DeadlineKey>,
    /// Whether the presented credential is checked when a frame needs it, or at the deadline.
    deferred: bool,
    /// Whether the connection is being closed.
    closing: bool,
}

/// The rights of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthState {
    /// It may only authenticate.
    Anonymous,
    /// It may do everything that its user may.
    Proven,
    /// Its token has expired: it may receive frames and renew the token.
    Expired,
}

/// Reason for an authentication timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthTimeout {
    /// The presented credential was deferred, and must be checked now.
    Deferred,
    /// The connection has not proven a user in time.
    Anonymous {
        /// Whether a credential was refused.
        refused: bool,
        /// Whether it has sent a credential that the site has not decided on.
        unanswered: bool,
    },
    /// The credential has no known expiry, so the site has to be asked again.
    Recheck,
    /// The token expires now.
    Expired,
    /// The token has expired and was not renewed in time.
    NotRenewed,
}

/// All credentials, and the authentication state of each connection.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    proofs: Proofs,
    /// By slot; a connection has an entry once it has sent a credential or a claim.
    states: Vec<Option<Box<ConnState>>>,
    timeouts: Deadlines<ConnId>,
    /// How often the site is asked again about each user; `None` for never.
    recheck_every: Option<Duration>,
}

impl Identities {
    /// Changes how often the site is asked again about each user.
    pub(crate) fn set_recheck_every(&mut self, recheck_every: Option<Duration>) {
        self.recheck_every = recheck_every;
    }

    /// Adds a connection, which takes no memory until it authenticates.
    pub(crate) fn open(&mut self, conn: ConnId) {
        debug_assert!(self.get(conn).is_none(), "a new slot is empty");
    }

    /// Removes a connection and returns its held frames.
    pub(crate) fn close(&mut self, conn: ConnId, now: Instant) -> VecDeque<HeldText> {
        self.set_timeout(conn, None);
        let Some(state) = self.states.get_mut(conn.slot as usize).and_then(Option::take) else {
            return VecDeque::new();
        };
        for ix in [state.presented, state.proven].into_iter().flatten() {
            self.proofs.detach(conn, ix, now);
        }
        state.held
    }

    // ---- credentials

    /// Stores a connection's credential for its messages, without verifying it.
    pub(crate) fn store_credential(&mut self, conn: ConnId, credential: Credential, now: Instant) {
        let ix = self.proofs.intern(credential);
        self.set_presented(conn, ix, now);
    }

    /// Whether the site has named the user of a credential.
    pub(crate) fn has_proof_of(&self, credential: &Credential) -> bool {
        self.proofs.is_known(credential)
    }

    /// Whether the check of a connection's credential is deferred.
    pub(crate) fn is_deferred(&self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|state| state.deferred)
    }

    /// Stores a connection's credential, which is checked when a frame needs it, or at this time if
    /// no other one replaces it.
    pub(crate) fn defer_credential(
        &mut self,
        conn: ConnId,
        credential: Credential,
        until: Instant,
        now: Instant,
    ) {
        self.store_credential(conn, credential, now);
        self.state(conn).deferred = true;
        self.set_timeout(conn, Some(until));
    }

    /// Checks a credential that a client sends, with the claim that it is to prove.
    pub(crate) fn authenticate(
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

    /// Checks the token of a message. An earlier claim stays pending.
    pub(crate) fn authenticate_with_message(
        &mut self,
        conn: ConnId,
        credential: Credential,
        now: Now,
    ) -> CredentialStatus {
        let claim = self.state(conn).claim.take();
        self.state(conn).from_message = true;
        self.authenticate(conn, credential, claim, now)
    }

    /// Drops the credential that a connection waits for if it came with a message, and returns
    /// whether it did. The message presents it again when it is processed.
    pub(crate) fn take_message_credential(&mut self, conn: ConnId, now: Now) -> bool {
        let state = self.state(conn);
        if !std::mem::take(&mut state.from_message) {
            return false;
        }
        state.pending = false;
        if let Some(ix) = state.presented.take() {
            self.proofs.detach(conn, ix, now.instant);
        }
        true
    }

    /// Checks the credential that the client sent last; `None` if there is none.
    pub(crate) fn reauthenticate(
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

    /// Returns why the site has not decided on the connection's last credential.
    pub(crate) fn last_failure(&self, conn: ConnId) -> Option<Failure> {
        self.proofs.last_failure(self.presented(conn)?)
    }

    /// Whether the site has not decided on the connection's last credential, and may be asked
    /// again.
    pub(crate) fn can_retry(&self, conn: ConnId, now: Now) -> bool {
        self.presented(conn).is_some_and(|ix| self.proofs.can_retry(ix, now.instant))
    }

    fn check(&mut self, conn: ConnId, ix: ProofIx, now: Now) -> CredentialStatus {
        if std::mem::take(&mut self.state(conn).deferred) {
            self.set_timeout(conn, None);
        }
        let status = self.proofs.check(ix, now);
        if matches!(status, CredentialStatus::Ask(_) | CredentialStatus::Wait(_)) {
            let state = self.state(conn);
            state.pending = true;
            // Waiting for the site does not count against the client. A proven user's timeout
            // stays.
            if state.proven.is_none() {
                self.set_timeout(conn, None);
            }
        }
        status
    }

    /// Returns the credential for a query, and whether the site itself must answer; `None` if no
    /// connection waits for it any more.
    pub(crate) fn begin_query(&mut self, ix: ProofIx) -> Option<(Credential, bool)> {
        self.proofs.begin_query(ix)
    }

    /// Takes the queued credentials for which no connection waits any more.
    pub(crate) fn take_cancelled(&mut self) -> Vec<ProofIx> {
        self.proofs.take_cancelled()
    }

    /// Records the answer for a credential and returns the connections that wait for it. `by_site`
    /// is false if the token's signature alone was checked.
    pub(crate) fn record_answer(
        &mut self,
        ix: ProofIx,
        result: Result<Proven, Failure>,
        by_site: bool,
        now: Now,
    ) -> Vec<ConnId> {
        self.proofs.record_answer(ix, result, by_site, now.instant);
        let waits = |conn: &ConnId| {
            self.get(*conn).is_some_and(|state| {
                (state.pending && state.presented == Some(ix))
                    || (state.waiting && state.proven == Some(ix))
            })
        };
        self.proofs.conns(ix).iter().copied().filter(waits).collect()
    }

    /// Checks whether the site is to be asked again about the connection's user, as
    /// [`Proofs::renew`] does.
    pub(crate) fn renew(
        &mut self,
        conn: ConnId,
        max_age: Duration,
        unconfirmed: bool,
        now: Now,
    ) -> Renewal {
        match self.get(conn).and_then(|state| state.proven) {
            Some(ix) => self.proofs.renew(ix, max_age, unconfirmed, now.instant),
            None => Renewal::NotDue,
        }
    }

    /// Whether the last attempt to ask the site again about the connection's user got no answer.
    pub(crate) fn has_failed_renewal(&self, conn: ConnId) -> bool {
        let proven = self.get(conn).and_then(|state| state.proven);
        proven.is_some_and(|ix| self.proofs.has_failed_renewal(ix))
    }

    /// Marks that a frame of the connection's user waits for the site: its further frames are held
    /// behind it until [`Identities::end_wait`].
    pub(crate) fn begin_wait(&mut self, conn: ConnId) {
        self.state(conn).waiting = true;
    }

    /// Whether a frame of the connection's user waits for the site.
    pub(crate) fn is_waiting(&self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|state| state.waiting)
    }

    /// Whether the connection has presented this credential and waits for the answer about it.
    pub(crate) fn is_pending_on(&self, conn: ConnId, ix: ProofIx) -> bool {
        self.get(conn).is_some_and(|state| state.pending && state.presented == Some(ix))
    }

    /// Ends the wait; false if the connection does not wait.
    pub(crate) fn end_wait(&mut self, conn: ConnId) -> bool {
        self.get_mut(conn).is_some_and(|state| std::mem::take(&mut state.waiting))
    }

    /// Records a user whom the site has named for a credential without a query.
    pub(crate) fn record(&mut self, credential: &Credential, proven: Proven, now: Instant) {
        let ix = self.proofs.intern(credential.clone());
        self.proofs.record(ix, Ok(proven), now);
    }

    /// Records that the site refuses a credential, and returns the connections whose user it
    /// proved.
    pub(crate) fn revoke(
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

    /// Records the session that a ticket names.
    pub(crate) fn set_session(&mut self, ix: ProofIx, session: Option<&str>) {
        self.proofs.set_session(ix, session);
    }

    /// The session of a connection's ticket.
    pub(crate) fn session_of(&self, conn: ConnId) -> Option<&str> {
        self.proofs.session(self.get(conn)?.proven?)
    }

    /// Refuses all credentials of a user that are known, or those of one session.
    pub(crate) fn revoke_user(
        &mut self,
        user: u64,
        session: Option<&str>,
        failure: Failure,
        now: Instant,
    ) {
        self.proofs.revoke_user(user, session, failure, now);
    }

    /// Asks the site itself about a credential whose signature alone is not enough.
    pub(crate) fn require_site(&mut self, ix: ProofIx) {
        self.proofs.require_site(ix);
    }

    /// Lists the connections whose user a credential proves.
    pub(crate) fn connections_proven_by(&self, ix: ProofIx) -> Vec<ConnId> {
        let is_used = |conn: &ConnId| self.get(*conn).is_some_and(|state| state.proven == Some(ix));
        self.proofs.conns(ix).iter().copied().filter(is_used).collect()
    }

    /// Returns the credential that proves a connection's user.
    pub(crate) fn proven_credential(&self, conn: ConnId) -> Option<&Credential> {
        self.proofs.credential(self.get(conn)?.proven?)
    }

    /// Returns the credential for a connection's messages: the one that the client sent last.
    pub(crate) fn latest_credential(&self, conn: ConnId) -> Option<&Credential> {
        self.proofs.credential(self.presented(conn)?)
    }

    // ---- connections

    /// Records that the presented credential proves the connection's user, and sets the expiry.
    /// Returns the pending claim.
    pub(crate) fn set_proven(&mut self, conn: ConnId, proven: Proven, now: Now) -> Option<Claim> {
        let state = self.state(conn);
        let previous = std::mem::replace(&mut state.proven, state.presented);
        state.pending = false;
        // A recheck of the former credential no longer concerns this connection.
        state.waiting = false;
        state.from_message = false;
        state.unanswered = 0;
        state.grace = None;
        state.expires_s = proven.expires_s;
        let (claim, current) = (state.claim.take(), state.proven);
        if let Some(ix) = previous.filter(|ix| Some(*ix) != current) {
            self.proofs.detach(conn, ix, now.instant);
        }
        let next = self.next_check(conn, self.recheck_at(conn), now);
        self.set_timeout(conn, Some(next));
        claim
    }

    /// Records that the presented credential proves no new user. It is dropped, unless the
    /// connection is anonymous and `may_try_again` with it. Returns the pending claim.
    pub(crate) fn fall_back(
        &mut self,
        conn: ConnId,
        may_try_again: bool,
        now: Now,
    ) -> Option<Claim> {
        let state = self.state(conn);
        state.pending = false;
        let claim = state.claim.take();
        if state.proven.is_some() || !may_try_again {
            let dropped = std::mem::replace(&mut state.presented, state.proven);
            let presented = state.presented;
            if let Some(ix) = dropped.filter(|ix| Some(*ix) != presented) {
                self.proofs.detach(conn, ix, now.instant);
            }
        }
        claim
    }

    /// Returns the claim that waits for a proof.
    pub(crate) fn claim_of(&self, conn: ConnId) -> Option<&Claim> {
        self.get(conn)?.claim.as_ref()
    }

    /// Starts the renewal period of an expired token; false if it has started already.
    pub(crate) fn expire(&mut self, conn: ConnId, now: Now) -> bool {
        let state = self.state(conn);
        if state.proven.is_none() || state.grace.is_some() {
            return false;
        }
        state.grace = Some(now.instant + RENEWAL_GRACE);
        self.set_timeout(conn, Some(now.instant + RENEWAL_GRACE));
        true
    }

    /// Stores a claim that no credential proves yet.
    pub(crate) fn store_claim(&mut self, conn: ConnId, claim: Claim) {
        self.state(conn).claim = Some(claim);
    }

    /// Counts a refused credential and returns the number so far.
    pub(crate) fn count_refusal(&mut self, conn: ConnId) -> u8 {
        let state = self.state(conn);
        state.refusals = state.refusals.saturating_add(1);
        state.refusals
    }

    /// Counts an unanswered credential and returns how many there were since the last proof.
    pub(crate) fn count_unanswered(&mut self, conn: ConnId) -> u8 {
        let state = self.state(conn);
        state.unanswered = state.unanswered.saturating_add(1);
        state.unanswered
    }

    /// Starts the timeout of an anonymous connection, unless it is running already.
    pub(crate) fn start_auth_timeout(&mut self, conn: ConnId, until: Instant) {
        if self.state(conn).deadline.is_none() {
            self.set_timeout(conn, Some(until));
        }
    }

    /// Marks a connection as being closed and stops its timeouts.
    pub(crate) fn mark_closing(&mut self, conn: ConnId) {
        self.state(conn).closing = true;
        self.set_timeout(conn, None);
    }

    /// Whether a connection is being closed.
    pub(crate) fn is_closing(&self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|state| state.closing)
    }

    /// Returns what a connection may do.
    pub(crate) fn auth_state(&self, conn: ConnId) -> AuthState {
        match self.get(conn) {
            Some(state) if state.grace.is_some() => AuthState::Expired,
            Some(state) if state.proven.is_some() => AuthState::Proven,
            _ => AuthState::Anonymous,
        }
    }

    /// Returns the pending claim, if any, of a connection that waits for the site's answer. The
    /// frames of such a connection have to be held.
    pub(crate) fn pending(&self, conn: ConnId) -> Option<Option<&Claim>> {
        let state = self.get(conn).filter(|state| state.pending)?;
        Some(state.claim.as_ref())
    }

    /// Holds a frame until the site has answered, in front of the other held frames or behind them.
    pub(crate) fn hold(&mut self, conn: ConnId, text: HeldText, first: bool) {
        let held = &mut self.state(conn).held;
        if first { held.push_front(text) } else { held.push_back(text) }
    }

    /// Whether frames of this connection are held.
    pub(crate) fn has_held_frames(&self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|state| !state.held.is_empty())
    }

    /// Takes the next held frame, even if the connection still waits.
    pub(crate) fn take_held(&mut self, conn: ConnId) -> Option<HeldText> {
        self.get_mut(conn)?.held.pop_front()
    }

    /// Takes the next held frame, unless the connection still waits.
    pub(crate) fn next_held(&mut self, conn: ConnId) -> Option<HeldText> {
        self.get_mut(conn).filter(|state| !state.pending && !state.waiting)?.held.pop_front()
    }

    // ---- timeouts

    /// Returns when the next credential expires or the next connection times out.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        [self.proofs.next_deadline(), self.timeouts.next()].into_iter().flatten().min()
    }

    /// Takes one connection that times out at `now`; `None` when there are no more.
    pub(crate) fn pop_timeout(&mut self, now: Now) -> Option<(ConnId, AuthTimeout)> {
        self.proofs.forget(now.instant);
        while let Some(conn) = self.timeouts.pop_due(now.instant) {
            let Some(state) = self.get_mut(conn) else {
                debug_assert!(false, "a timeout is cancelled when its connection closes");
                continue;
            };
            state.deadline = None;
            if std::mem::take(&mut state.deferred) {
                return Some((conn, AuthTimeout::Deferred));
            }
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
                // A new token came in time, and the site has not answered yet.
                self.set_timeout(conn, Some(now.instant + RETRY_AFTER));
                continue;
            }
            if state.expires_s.is_some_and(|at| at <= now.unix_s) {
                self.expire(conn, now);
                return Some((conn, AuthTimeout::Expired));
            }
            let recheck_at = self.recheck_at(conn);
            if recheck_at.is_some_and(|at| at <= now.instant) {
                // If the site does not answer, the recheck is due again.
                let retry_at = now.instant + RECHECK_RETRY;
                let next = self.next_check(conn, Some(retry_at), now);
                self.set_timeout(conn, Some(next));
                return Some((conn, AuthTimeout::Recheck));
            }
            // The wall clock and the timer disagree, or the user was confirmed meanwhile.
            let next = self.next_check(conn, recheck_at, now);
            self.set_timeout(conn, Some(next));
        }
        None
    }

    /// When the site is to be asked again about the connection's user; `None` for never.
    fn recheck_at(&self, conn: ConnId) -> Option<Instant> {
        let state = self.get(conn)?;
        let every = match state.expires_s {
            Some(_) => self.recheck_every?,
            // A proof without an end must not last for ever.
            None => self.recheck_every.map_or(PROOF_TTL, |every| every.min(PROOF_TTL)),
        };
        Some(self.proofs.site_since(state.proven?)? + every)
    }

    /// When the proof of the connection's user expires or is to be checked again.
    fn next_check(&self, conn: ConnId, recheck_at: Option<Instant>, now: Now) -> Instant {
        let expires_s = self.get(conn).and_then(|state| state.expires_s);
        let left = |at: u64| Duration::from_secs(at.saturating_sub(now.unix_s)).min(TIMER_MAX);
        let expires = expires_s.map(|at| now.instant + left(at));
        let next = expires.into_iter().chain(recheck_at).min();
        next.unwrap_or(now.instant + PROOF_TTL)
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
        crate::hub::capacity::ensure_slot(&mut self.states, conn.slot);
        self.states[conn.slot as usize].get_or_insert_default()
    }

    fn presented(&self, conn: ConnId) -> Option<ProofIx> {
        self.get(conn)?.presented
    }

    /// Makes a credential the one that the client sent last.
    fn set_presented(&mut self, conn: ConnId, ix: ProofIx, now: Instant) {
        self.proofs.attach(conn, ix);
        let previous = self.state(conn).presented.replace(ix);
        if let Some(previous) = previous.filter(|previous| *previous != ix) {
            if self.get(conn).is_some_and(|state| state.proven != Some(previous)) {
                self.proofs.detach(conn, previous, now);
            }
        }
    }

    /// Returns hits and misses of the table of proofs.
    pub(crate) fn proof_hits(&self) -> HitCounter {
        self.proofs.hits()
    }

    /// Returns how many connections wait for the site's answer.
    pub(crate) fn pending_count(&self) -> usize {
        self.states.iter().flatten().filter(|state| state.pending).count()
    }

    /// Asserts that the tables agree with each other.
    pub(crate) fn check_invariants(&self) {
        self.proofs.check_invariants(|conn, ix| {
            let state = self.get(conn);
            state.is_some_and(|state| state.presented == Some(ix) || state.proven == Some(ix))
        });
        let states = self.states.iter().flatten();
        assert_eq!(states.clone().filter(|s| s.deadline.is_some()).count(), self.timeouts.count());
        for state in states {
            assert!(state.held.is_empty() || state.pending || state.waiting);
            assert!(state.pending || state.proven.is_none() || state.proven == state.presented);
        }
    }
}

//! Who asks by HTTP how a call is: an app that a push has woken, and that has no WebSocket yet.
//!
//! What it has brought is proven like a WebSocket's credential, by the same table and in the same
//! line. But whoever asks is not there: nobody hears of them, no call rings on that connection, and
//! no table of users and devices has it.

use std::collections::HashMap;

use super::Hub;
use super::calls::CallIx;
use super::identity::proofs::{Offer, RETRY_AFTER};
use super::interface::{About, ConnId, Effect, Failure, Now, Proven};
use crate::config::Trust;
use crate::protocol::credential::Credential;
use crate::protocol::server::CallState;
use crate::protocol::status::{CallStatus, CallTold};
use crate::protocol::{ClientError, Id, IdKey};

/// How many may wait for the site's word on their tokens. The line is shared with WebSockets: those
/// beyond would not be answered in time, and would hold up the others.
pub const ASKERS_MAX: usize = 256;

/// Who waits for the site's word, and which call each has asked for.
#[derive(Debug, Default)]
pub struct Asking {
    calls: HashMap<ConnId, Id>,
}

impl Asking {
    /// Whether this connection waits.
    pub fn has(&self, conn: ConnId) -> bool {
        self.calls.contains_key(&conn)
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.calls.len()
    }
}

impl Hub {
    /// Someone asks how a call is.
    pub(super) fn call_asked(
        &mut self,
        conn: ConnId,
        credential: Option<Result<Credential, ClientError>>,
        call: Id,
        now: Now,
    ) {
        debug_assert!(!self.is_open(conn) && !self.asking.has(conn), "a connection asks once");
        // Everyone is believed, and may say so or not.
        if self.settings.trust == Trust::Open {
            let told = self.look_at_call(None, &call, now);
            return self.tell_call(conn, told);
        }
        let credential = match credential {
            None => return self.tell_call(conn, CallTold::TokenMissing),
            Some(Err(fault)) => return self.tell_call(conn, CallTold::NotProven(fault)),
            Some(Ok(credential)) => credential,
        };
        match self.identity.offer(conn, credential, None, now) {
            Offer::Known(proven) => self.answer_asker(conn, &call, Ok(proven), now),
            Offer::Failed(failure) => self.answer_asker(conn, &call, Err(failure), now),
            Offer::Ask(_) | Offer::Wait if self.asking.count() >= ASKERS_MAX => {
                self.answer_asker(conn, &call, Err(Failure::Overloaded), now);
            }
            Offer::Ask(proof) => {
                self.asking.calls.insert(conn, call);
                self.checks.push_proof(proof);
                self.ask_checks(now);
            }
            Offer::Wait => {
                self.asking.calls.insert(conn, call);
            }
        }
    }

    /// The site has said whose the token is that someone has asked with, or will not say.
    pub(super) fn asker_is_judged(
        &mut self,
        conn: ConnId,
        result: Result<Proven, Failure>,
        now: Now,
    ) {
        if let Some(call) = self.asking.calls.remove(&conn) {
            self.answer_asker(conn, &call, result, now);
        }
    }

    /// Who has asked is gone, or has waited for long enough.
    pub(super) fn stops_asking(&mut self, conn: ConnId, now: Now) {
        self.asking.calls.remove(&conn);
        self.forget_asker(conn, now);
    }

    fn answer_asker(&mut self, conn: ConnId, call: &Id, result: Result<Proven, Failure>, now: Now) {
        self.forget_asker(conn, now);
        let told = match result {
            // As a message's would be, a token that has expired meanwhile.
            Ok(proven) if proven.expires_s.is_some_and(|at| at <= now.unix_s) => {
                CallTold::NotProven(Failure::TokenExpired.client_error(About::Token))
            }
            Ok(proven) => self.look_at_call(Some(proven.user), call, now),
            Err(failure) => {
                let fault = failure.client_error(About::Token);
                match failure {
                    _ if failure.condemns() => CallTold::NotProven(fault),
                    Failure::SiteBusy { retry_after_s }
                    | Failure::SiteUnavailable { retry_after_s } => {
                        CallTold::NotKnown { fault, retry_after_s: seconds(retry_after_s) }
                    }
                    _ => CallTold::NotKnown { fault, retry_after_s: seconds(None) },
                }
            }
        };
        self.tell_call(conn, told);
    }

    /// Lets go of the credential, whose proof is remembered for the WebSocket that comes next.
    fn forget_asker(&mut self, conn: ConnId, now: Now) {
        let held = self.identity.close(conn, now.instant);
        debug_assert!(held.is_empty(), "who asks says nothing else");
        for proof in self.identity.take_unwanted() {
            self.checks.drop_proof(proof);
        }
    }

    /// How a call of this user is, or in open trust of anyone.
    fn look_at_call(&mut self, user: Option<u64>, call: &Id, now: Now) -> CallTold {
        let me = user.map(IdKey::Number);
        let found = match &me {
            None => self.calls.find_any(&call.key),
            Some(me) => self.calls.find(me, None, Some(&call.key)),
        };
        if let Some(ix) = found {
            return self.call_is(ix);
        }
        let over = match &me {
            None => self.calls.ended_of_any(&call.key, now.instant),
            Some(me) => self.calls.ended(me, &call.key, now.instant),
        };
        if let Some(over) = over {
            return CallTold::Status(CallStatus {
                call_id: over.told.id.clone(),
                state: CallState::Ended,
                reason: Some(over.told.reason),
                continues_as: over.told.continues_as.clone(),
                thread_id: over.told.thread.clone(),
                caller_id: over.caller.clone(),
            });
        }
        // Who was called to a group and was not there is no party of it, but may join.
        let woken = me.and_then(|me| self.calls.find_woken(&me, &call.key));
        let thread = woken.and_then(|ix| self.calls.get(ix).thread.as_ref()?.site_number());
        match (woken, thread, user) {
            (Some(ix), Some(thread), Some(user)) if self.membership.lists(thread, user) => {
                self.call_is(ix)
            }
            _ => CallTold::NoSuchCall,
        }
    }

    fn call_is(&self, ix: CallIx) -> CallTold {
        let call = self.calls.get(ix);
        let Some(caller) = call.parties.first() else {
            debug_assert!(false, "a call has parties");
            return CallTold::NoSuchCall;
        };
        CallTold::Status(CallStatus {
            call_id: call.id.clone(),
            state: call.shown_state(),
            reason: None,
            continues_as: None,
            thread_id: call.thread.clone(),
            caller_id: caller.user.clone(),
        })
    }

    fn tell_call(&mut self, conn: ConnId, told: CallTold) {
        self.effects.push_back(Effect::TellCall { conn, told: Box::new(told) });
    }

    /// How many wait to hear how a call is.
    pub fn askers(&self) -> usize {
        self.asking.count()
    }
}

/// When the site may be asked again: when it says so, or when the hub would.
fn seconds(said: Option<u32>) -> u32 {
    said.unwrap_or(RETRY_AFTER.as_secs() as u32).max(1)
}

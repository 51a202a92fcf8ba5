//! Who asks by HTTP how a call is: an app that a push has woken, and that has no WebSocket yet.
//!
//! What it has brought is proven like a WebSocket's credential, by the same table and in the same
//! line. But whoever asks is not there: nobody hears of them, no call rings on that connection, and
//! no table of users and devices has it.

use std::collections::HashMap;

use super::Hub;
use super::authentication::proofs::{CredentialStatus, RETRY_AFTER};
use super::calls::CallIx;
use super::interface::{ConnId, Effect, Failure, FailureContext, Now, Proven};
use crate::config::Trust;
use crate::protocol::credential::Credential;
use crate::protocol::server::CallState;
use crate::protocol::status::{CallStatus, CallStatusReply};
use crate::protocol::{ClientError, Id, IdKey};

/// How many may wait for the site's word on their tokens. The line is shared with WebSockets: those
/// beyond would not be answered in time, and would hold up the others.
pub const STATUS_REQUESTS_MAX: usize = 256;

/// Who waits for the site's word, and which call each has asked for.
#[derive(Debug, Default)]
pub struct StatusRequests {
    calls: HashMap<ConnId, Id>,
}

impl StatusRequests {
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
    pub(super) fn handle_call_status(
        &mut self,
        conn: ConnId,
        credential: Option<Result<Credential, ClientError>>,
        call: Id,
        now: Now,
    ) {
        debug_assert!(
            !self.is_open(conn) && !self.status_requests.has(conn),
            "a connection asks once"
        );
        // Everyone is believed, and may say so or not.
        if self.settings.trust == Trust::Open {
            let reply = self.find_call_status(None, &call, now);
            return self.send_call_status(conn, reply);
        }
        let credential = match credential {
            None => return self.send_call_status(conn, CallStatusReply::TokenMissing),
            Some(Err(fault)) => {
                return self.send_call_status(conn, CallStatusReply::CredentialRejected(fault));
            }
            Some(Ok(credential)) => credential,
        };
        match self.authentication.authenticate(conn, credential, None, now) {
            CredentialStatus::Valid(proven) => {
                self.answer_status_request(conn, &call, Ok(proven), now)
            }
            CredentialStatus::Failed(failure) => {
                self.answer_status_request(conn, &call, Err(failure), now)
            }
            CredentialStatus::Ask(_) | CredentialStatus::Wait
                if self.status_requests.count() >= STATUS_REQUESTS_MAX =>
            {
                self.answer_status_request(conn, &call, Err(Failure::Overloaded), now);
            }
            CredentialStatus::Ask(proof) => {
                self.status_requests.calls.insert(conn, call);
                self.site_queries.push_proof(proof);
                self.send_site_queries(now);
            }
            CredentialStatus::Wait => {
                self.status_requests.calls.insert(conn, call);
            }
        }
    }

    /// The site has said whose the token is that someone has asked with, or will not say.
    pub(super) fn finish_status_request(
        &mut self,
        conn: ConnId,
        result: Result<Proven, Failure>,
        now: Now,
    ) {
        if let Some(call) = self.status_requests.calls.remove(&conn) {
            self.answer_status_request(conn, &call, result, now);
        }
    }

    /// Who has asked is gone, or has waited for long enough.
    pub(super) fn cancel_status_request(&mut self, conn: ConnId, now: Now) {
        self.status_requests.calls.remove(&conn);
        self.release_credential(conn, now);
    }

    fn answer_status_request(
        &mut self,
        conn: ConnId,
        call: &Id,
        result: Result<Proven, Failure>,
        now: Now,
    ) {
        self.release_credential(conn, now);
        let reply = match result {
            // As a message's would be, a token that has expired meanwhile.
            Ok(proven) if proven.expires_s.is_some_and(|at| at <= now.unix_s) => {
                CallStatusReply::CredentialRejected(
                    Failure::TokenExpired.client_error(FailureContext::Token),
                )
            }
            Ok(proven) => self.find_call_status(Some(proven.user), call, now),
            Err(failure) => {
                let fault = failure.client_error(FailureContext::Token);
                match failure {
                    _ if failure.is_credential_rejection() => {
                        CallStatusReply::CredentialRejected(fault)
                    }
                    Failure::SiteBusy { retry_after_s }
                    | Failure::SiteUnavailable { retry_after_s } => CallStatusReply::Unavailable {
                        fault,
                        retry_after_s: retry_after_or_default(retry_after_s),
                    },
                    _ => CallStatusReply::Unavailable {
                        fault,
                        retry_after_s: retry_after_or_default(None),
                    },
                }
            }
        };
        self.send_call_status(conn, reply);
    }

    /// Lets go of the credential, whose proof is remembered for the WebSocket that comes next.
    fn release_credential(&mut self, conn: ConnId, now: Now) {
        let held = self.authentication.close(conn, now.instant);
        debug_assert!(held.is_empty(), "who asks says nothing else");
        for proof in self.authentication.take_cancelled() {
            self.site_queries.remove_proof(proof);
        }
    }

    /// How a call of this user is, or in open trust of anyone.
    fn find_call_status(&mut self, user: Option<u64>, call: &Id, now: Now) -> CallStatusReply {
        let me = user.map(IdKey::Number);
        let found = match &me {
            None => self.calls.find_by_id(&call.key),
            Some(me) => self.calls.find(me, None, Some(&call.key)),
        };
        if let Some(ix) = found {
            return self.live_call_status(ix);
        }
        let ended = match &me {
            None => self.calls.find_ended_by_id(&call.key, now.instant),
            Some(me) => self.calls.find_ended(me, &call.key, now.instant),
        };
        if let Some(ended) = ended {
            return CallStatusReply::Status(CallStatus {
                call_id: ended.end.id.clone(),
                state: CallState::Ended,
                reason: Some(ended.end.reason),
                continues_as: ended.end.continues_as.clone(),
                thread_id: ended.end.thread.clone(),
                caller_id: ended.caller.clone(),
            });
        }
        // Who was called to a group and was not there is no party of it, but may join.
        let invited_offline = me.and_then(|me| self.calls.find_invited_offline(&me, &call.key));
        let thread =
            invited_offline.and_then(|ix| self.calls.get(ix).thread.as_ref()?.site_number());
        match (invited_offline, thread, user) {
            (Some(ix), Some(thread), Some(user)) if self.membership.is_member(thread, user) => {
                self.live_call_status(ix)
            }
            _ => CallStatusReply::NoSuchCall,
        }
    }

    fn live_call_status(&self, ix: CallIx) -> CallStatusReply {
        let call = self.calls.get(ix);
        let Some(caller) = call.parties.first() else {
            debug_assert!(false, "a call has parties");
            return CallStatusReply::NoSuchCall;
        };
        CallStatusReply::Status(CallStatus {
            call_id: call.id.clone(),
            state: call.reported_state(),
            reason: None,
            continues_as: None,
            thread_id: call.thread.clone(),
            caller_id: caller.user.clone(),
        })
    }

    fn send_call_status(&mut self, conn: ConnId, reply: CallStatusReply) {
        self.effects.push_back(Effect::SendCallStatus { conn, reply: Box::new(reply) });
    }

    /// How many wait to hear how a call is.
    pub fn status_requests(&self) -> usize {
        self.status_requests.count()
    }
}

/// When the site may be asked again: when it says so, or when the hub would.
fn retry_after_or_default(retry_after: Option<u32>) -> u32 {
    retry_after.unwrap_or(RETRY_AFTER.as_secs() as u32).max(1)
}

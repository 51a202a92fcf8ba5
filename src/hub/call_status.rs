//! Call status: `GET /calls/{callId}` from an app that a push has woken, before it has a WebSocket.
//!
//! The request's credential is checked by the same tables and queue as a WebSocket's. The
//! requesting connection is not in the tables of users and devices: it is not online, and no call
//! rings on it.

use std::collections::HashMap;

use super::Hub;
use super::auth::proofs::{CredentialStatus, RETRY_AFTER};
use super::calls::CallIx;
use super::interface::{ConnId, Effect, Failure, FailureContext, Now, Proven};
use crate::protocol::credential::Credential;
use crate::protocol::server::CallState;
use crate::protocol::status::{CallStatus, CallStatusReply};
use crate::protocol::{ClientError, Id, IdKey};

/// Requests that may wait for the site to check their token. They share the queue with WebSockets:
/// more would not be answered in time and would delay the others.
pub(super) const STATUS_REQUESTS_MAX: usize = 256;

/// Requests that wait for the site, and the call that each asks for.
#[derive(Debug, Default)]
pub(super) struct StatusRequests {
    calls: HashMap<ConnId, Id>,
}

impl StatusRequests {
    /// Whether a connection has a request that waits.
    pub(super) fn has(&self, conn: ConnId) -> bool {
        self.calls.contains_key(&conn)
    }

    /// Requests that wait.
    pub(super) fn count(&self) -> usize {
        self.calls.len()
    }
}

impl Hub {
    /// Handles a request for the status of a call.
    pub(super) fn handle_call_status(
        &mut self,
        conn: ConnId,
        credential: Option<Result<Credential, ClientError>>,
        call: Id,
        now: Now,
    ) {
        debug_assert!(
            !self.output.is_open(conn) && !self.status_requests.has(conn),
            "a connection makes one request"
        );
        // In open trust everyone may ask, with a credential or without.
        if !self.requires_proof() {
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
        match self.auth.identity.authenticate(conn, credential, None, now) {
            CredentialStatus::Valid(proven) => {
                self.answer_status_request(conn, &call, Ok(proven), now)
            }
            CredentialStatus::Failed(failure) => {
                self.answer_status_request(conn, &call, Err(failure), now)
            }
            CredentialStatus::Ask(_) | CredentialStatus::Wait(_)
                if self.status_requests.count() >= STATUS_REQUESTS_MAX =>
            {
                self.answer_status_request(conn, &call, Err(Failure::Overloaded), now);
            }
            CredentialStatus::Ask(proof) => {
                self.status_requests.calls.insert(conn, call);
                self.query_proof(proof, now);
            }
            CredentialStatus::Wait(proof) => {
                self.auth.queries.promote(proof);
                self.status_requests.calls.insert(conn, call);
                self.send_site_queries(now);
            }
        }
    }

    /// Answers a request once its credential is verified or has failed.
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

    /// Drops a request whose connection has closed or has waited too long.
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
            // The token has expired while the request waited.
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

    /// Releases the credential. Its proof is remembered for the WebSocket that follows.
    fn release_credential(&mut self, conn: ConnId, now: Now) {
        self.auth.close(conn, now);
    }

    /// The status of a call of this user, or in open trust of any user.
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
        // A user who was invited to a group call while offline is no party of it, but may join.
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
        self.output.push(Effect::SendCallStatus { conn, reply: Box::new(reply) });
    }

    /// Call status requests that wait for the site.
    pub fn status_requests(&self) -> usize {
        self.status_requests.count()
    }
}

/// `Retry-After` in seconds: the site's own, or the hub's retry interval.
fn retry_after_or_default(retry_after: Option<u32>) -> u32 {
    retry_after.unwrap_or(RETRY_AFTER.as_secs() as u32).max(1)
}

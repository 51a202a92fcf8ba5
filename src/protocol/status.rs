//! The status of a call as `GET /calls/{callId}` reports it to an app that was woken by a push
//! notification and has no WebSocket yet (`PROTOCOL.md`, "HTTP on the same port").

use serde::Serialize;

use super::server::{CallState, EndReason};
use super::{ClientError, Id};

/// The status of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallStatus {
    /// The id of the call.
    pub call_id: Id,
    /// Its state.
    pub state: CallState,
    /// Why it ended, if it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<EndReason>,
    /// The call that replaces it, after glare.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continues_as: Option<Id>,
    /// Its thread, if its first frame named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<Id>,
    /// The user who started it.
    pub caller_id: Id,
}

/// The reply to a request for the status of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallStatusReply {
    /// The user is in the call, or is being called.
    Status(CallStatus),
    /// The call does not exist, or does not involve this user; the reply does not say which.
    NoSuchCall,
    /// The request has no token.
    TokenMissing,
    /// The credential of the request is not valid.
    CredentialRejected(ClientError),
    /// The token cannot be verified now.
    Unavailable {
        /// The reason.
        fault: ClientError,
        /// After how many seconds to try again.
        retry_after_s: u32,
    },
}

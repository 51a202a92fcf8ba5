//! What an app is told that asks by HTTP how a call is: one that a push has woken, and that has no
//! WebSocket yet (`PROTOCOL.md`, "HTTP on the same port").

use serde::Serialize;

use super::server::{CallState, EndReason};
use super::{ClientError, Id};

/// How a call is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallStatus {
    /// What it is called.
    pub call_id: Id,
    /// How far it is.
    pub state: CallState,
    /// Why it is over, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<EndReason>,
    /// The call that stands instead, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continues_as: Option<Id>,
    /// Where it is, where its first frame said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<Id>,
    /// Who began it.
    pub caller_id: Id,
}

/// The answer to who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallStatusReply {
    /// It is theirs, or they are called.
    Status(CallStatus),
    /// There is no such call, or it is none of theirs: which of these is not told.
    NoSuchCall,
    /// They have brought no token.
    TokenMissing,
    /// What they have brought proves nothing.
    CredentialRejected(ClientError),
    /// Whose token it is cannot be found out now.
    Unavailable {
        /// Why not.
        fault: ClientError,
        /// When to ask again, in seconds from now.
        retry_after_s: u32,
    },
}

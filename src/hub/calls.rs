//! Which connections a call frame goes to.

use crate::protocol::client::Call;
use crate::protocol::{ClientError, ErrorCode, Id, IdKey};

/// The other party: whichever of `senderId` and `recipientId` is not this user. Clients disagree
/// on whether an answer's sender is the caller or the answerer (`PROTOCOL.md` 2.6).
///
/// # Errors
///
/// Neither is this user, or both are.
pub fn other_party<'a>(me: &IdKey, call: &'a Call) -> Result<&'a Id, ClientError> {
    let sender = call.sender.as_ref().filter(|sender| sender.key != *me);
    let recipient = Some(&call.recipient).filter(|recipient| recipient.key != *me);
    match (sender, recipient) {
        (Some(other), None) | (None, Some(other)) => Ok(other),
        (Some(_), Some(_)) => Err(ClientError::new(
            ErrorCode::NotYourCall,
            "Neither senderId nor recipientId is the user of this connection.",
        )),
        (None, None) => Err(ClientError::new(
            ErrorCode::NotYourCall,
            "recipientId is yourself: a call needs another user.",
        )),
    }
}

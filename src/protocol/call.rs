//! Call frames: their kinds, their addresses, and how they are relayed to other clients.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::client::{missing_field, optional_id};
use super::{ClientError, ErrorCode, Id, IdKey};

/// The kind of a call frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// Starts a call: rings the callee, or all participants of the thread.
    Initiated,
    /// A WebRTC offer; starts a call if there is none between the two users.
    Offer,
    /// A WebRTC answer; the first one from the callee accepts the call.
    Answer,
    /// An ICE candidate.
    Candidate,
    /// A device of the callee rings.
    Ringing,
    /// The callee declines the call.
    Rejected,
    /// The caller cancels the call.
    Cancelled,
    /// Either party ends the call.
    Hangup {
        /// Whether it ends because no media connection was established.
        failed: bool,
    },
    /// The callee is in another call.
    Busy,
    /// This device replaces the user's device in the call, after a reconnect.
    Resume,
    /// Joins a group call.
    Joined,
    /// Leaves a group call.
    Left,
}

impl CallKind {
    /// Whether the frame ends the call, or the sender's participation in it.
    pub fn is_end(self) -> bool {
        matches!(
            self,
            CallKind::Rejected
                | CallKind::Cancelled
                | CallKind::Hangup { .. }
                | CallKind::Busy
                | CallKind::Left
        )
    }

    /// Whether it is one of the four kinds that every app sends (`PROTOCOL.md` 1).
    pub fn is_baseline(self) -> bool {
        matches!(
            self,
            CallKind::Initiated | CallKind::Offer | CallKind::Answer | CallKind::Candidate
        )
    }
}

/// The addresses of a call frame. [`RelayedFrame`] relays the JSON object itself.
#[derive(Debug)]
pub struct CallFrame {
    /// The kind.
    pub kind: CallKind,
    /// `callId`, if present.
    pub call: Option<Id>,
    /// `senderId`, if present; not verified.
    pub sender: Option<Id>,
    /// `recipientId`, if present.
    pub recipient: Option<Id>,
}

impl CallFrame {
    /// Checks that the frame has enough addresses to find its call, or to start one.
    ///
    /// # Errors
    ///
    /// A required address is missing.
    pub(super) fn validate(&self, names_thread: bool) -> Result<(), ClientError> {
        match self.kind {
            CallKind::Initiated if self.recipient.is_some() || names_thread => Ok(()),
            CallKind::Resume | CallKind::Joined | CallKind::Left if self.call.is_none() => {
                Err(missing_field("callId"))
            }
            _ if self.call.is_some() || self.recipient.is_some() => Ok(()),
            CallKind::Initiated | CallKind::Offer | CallKind::Answer | CallKind::Candidate => {
                Err(missing_field("recipientId"))
            }
            _ => Err(ClientError::new(
                ErrorCode::MissingField,
                "callId or recipientId is missing: name the call, or the other party.",
            )),
        }
    }

    /// The other party, if the frame names one: `senderId` or `recipientId`, whichever is not this
    /// user. Clients disagree on whether the sender of an answer is the caller or the callee
    /// (`PROTOCOL.md` 2.6).
    ///
    /// # Errors
    ///
    /// Neither of the two is this user, or both are.
    pub fn other_party(&self, me: &IdKey) -> Result<Option<&Id>, ClientError> {
        let sender = self.sender.as_ref().filter(|sender| sender.key != *me);
        let recipient = self.recipient.as_ref().filter(|recipient| recipient.key != *me);
        match (sender, recipient) {
            (Some(_), Some(_)) => Err(ClientError::new(
                ErrorCode::NotYourCall,
                "Neither senderId nor recipientId is the user of this connection.",
            )),
            (None, None) if self.recipient.is_some() => Err(ClientError::new(
                ErrorCode::NotYourCall,
                "recipientId is your own user: a call needs another user.",
            )),
            // The frame names another sender and no recipient.
            (Some(_), None) if self.recipient.is_none() => Err(ClientError::new(
                ErrorCode::NotYourCall,
                "senderId is not the user of this connection.",
            )),
            (one, other) => Ok(one.or(other)),
        }
    }
}

/// The JSON object of a call frame as other clients receive it: each field as its author wrote it,
/// except for ids written as doubles, which become integers. It has no `token` and `clientId`,
/// which concern only the author and the server, and no `userId` of another user, which would
/// impersonate that user.
#[derive(Debug)]
pub struct RelayedFrame {
    /// The object without its closing brace.
    text: String,
    has_call_id: bool,
    has_user_id: bool,
}

impl RelayedFrame {
    /// Parses the object that the user `me` has sent.
    ///
    /// # Errors
    ///
    /// A duplicate field, which two parsers could interpret differently; or more than 64 fields.
    pub fn read(text: &str, me: &IdKey) -> Result<RelayedFrame, ClientError> {
        let relayed = serde_json::Deserializer::from_str(text).deserialize_map(RelayVisitor { me });
        relayed.map_err(|fault| ClientError::new(ErrorCode::InvalidFrame, format!("{fault}.")))
    }

    /// The whole object. Adds `callId` and `userId` where they are given and the object lacks them.
    pub fn with_ids(&self, call: Option<&Id>, author: Option<&Id>) -> String {
        let mut text = self.text.clone();
        for (field, id, named) in
            [("callId", call, self.has_call_id), ("userId", author, self.has_user_id)]
        {
            if let Some(id) = id.filter(|_| !named) {
                append_field(&mut text, field, &id.to_json());
            }
        }
        text.push('}');
        text
    }
}

fn append_field(object: &mut String, field: &str, json: &str) {
    if object.len() > 1 {
        object.push(',');
    }
    object.push('"');
    object.push_str(field);
    object.push_str("\":");
    object.push_str(json);
}

struct RelayVisitor<'a> {
    me: &'a IdKey,
}

impl<'de> Visitor<'de> for RelayVisitor<'_> {
    type Value = RelayedFrame;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RelayedFrame, A::Error> {
        let mut seen: Vec<FieldName<'de>> = Vec::new();
        let mut out =
            RelayedFrame { text: String::from("{"), has_call_id: false, has_user_id: false };
        while let Some((key, value)) = map.next_entry::<FieldName<'de>, &'de RawValue>()? {
            if seen.contains(&key) {
                return Err(serde::de::Error::custom("Each field may occur only once"));
            }
            if seen.len() == FIELDS_MAX {
                return Err(serde::de::Error::custom("Too many fields in a call frame"));
            }
            let relayed = match key.0.as_ref() {
                "token" | "clientId" => false,
                "callId" => {
                    out.has_call_id = value.get() != "null";
                    out.has_call_id
                }
                "userId" => {
                    let id = optional_id(Some(value.into()), "userId");
                    out.has_user_id = matches!(id, Ok(Some(id)) if id.key == *self.me);
                    out.has_user_id
                }
                _ => true,
            };
            if relayed {
                if out.text.len() > 1 {
                    out.text.push(',');
                }
                let name = serde_json::to_string(&key.0).map_err(serde::de::Error::custom)?;
                out.text.push_str(&name);
                out.text.push(':');
                match integer_of_id(&key.0, value) {
                    Some(integer) => out.text.push_str(&integer),
                    None => out.text.push_str(value.get()),
                }
            }
            seen.push(key);
        }
        Ok(out)
    }
}

/// The integer that a client has written as a double (`7.0`) in a field with an id: a receiver that
/// keeps ids as integers could not read it. `None` for all other values.
fn integer_of_id(field: &str, value: &RawValue) -> Option<String> {
    let is_id = matches!(field, "userId" | "threadId" | "senderId" | "recipientId" | "callId");
    if !is_id || value.get().starts_with('"') || !value.get().contains(['.', 'e', 'E']) {
        return None;
    }
    let id = optional_id(Some(value.into()), "id").ok()??;
    Some(id.to_json())
}

/// Most fields of a relayed frame. The protocol defines at most eight; apps may add their own.
const FIELDS_MAX: usize = 64;

#[derive(Deserialize, PartialEq, Eq)]
struct FieldName<'a>(#[serde(borrow)] Cow<'a, str>);

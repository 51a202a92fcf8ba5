//! A frame of a call: what it does, what it names, and how it is passed on.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::client::{missing_field, optional_id};
use super::{ClientError, ErrorCode, Id, IdKey};

/// What a call frame does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// Begins a call: rings the other party, or everyone in the thread.
    Initiated,
    /// A WebRTC offer; without a call between the two it begins one.
    Offer,
    /// A WebRTC answer; the first of the called user accepts the call.
    Answer,
    /// An ICE candidate.
    Candidate,
    /// A device of the called user rings.
    Ringing,
    /// The called user does not take the call.
    Rejected,
    /// The caller gives up.
    Cancelled,
    /// The end, from either side.
    Hangup {
        /// Because no media came through.
        failed: bool,
    },
    /// The called user is in another call.
    Busy,
    /// Takes the place of the user's device in the call.
    Resume,
    /// Joins a group call.
    Joined,
    /// Leaves a group call.
    Left,
}

impl CallKind {
    /// Whether it ends the call, or the user's part in it.
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

    /// Whether it is one of the four that apps have always sent (`PROTOCOL.md` 1).
    pub fn is_baseline(self) -> bool {
        matches!(
            self,
            CallKind::Initiated | CallKind::Offer | CallKind::Answer | CallKind::Candidate
        )
    }
}

/// A call frame's addresses; the object itself travels as [`RelayedFrame`] makes it.
#[derive(Debug)]
pub struct CallFrame {
    /// What it does.
    pub kind: CallKind,
    /// The call that it names.
    pub call: Option<Id>,
    /// Who the frame says sends it, where it says so.
    pub sender: Option<Id>,
    /// Who the frame says receives it.
    pub recipient: Option<Id>,
}

impl CallFrame {
    /// Whether it names enough to find its call, or to begin one.
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

    /// The other party, where the frame names one: whichever of `senderId` and `recipientId` is not
    /// this user. Clients disagree on whether an answer's sender is the caller or the answerer
    /// (`PROTOCOL.md` 2.6).
    ///
    /// # Errors
    ///
    /// Neither is this user, or both are.
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
                "recipientId is yourself: a call needs another user.",
            )),
            // Whoever sends it wrote another sender, and nobody whom it is for.
            (Some(_), None) if self.recipient.is_none() => Err(ClientError::new(
                ErrorCode::NotYourCall,
                "senderId is not the user of this connection.",
            )),
            (one, other) => Ok(one.or(other)),
        }
    }
}

/// The object of a call frame as others get it: each field as its author wrote it, but without
/// `token` and `clientId`, which are between the author and the server, and without a `userId` that
/// is not theirs: nobody is made to seem to speak who does not.
#[derive(Debug)]
pub struct RelayedFrame {
    /// The object without its last brace.
    text: String,
    has_call_id: bool,
    has_user_id: bool,
}

impl RelayedFrame {
    /// Reads the object that this user has sent.
    ///
    /// # Errors
    ///
    /// A field that stands twice, since two readers could take it for two different frames; or more
    /// than 64 fields.
    pub fn read(text: &str, me: &IdKey) -> Result<RelayedFrame, ClientError> {
        let relayed = serde_json::Deserializer::from_str(text).deserialize_map(RelayVisitor { me });
        relayed.map_err(|fault| ClientError::new(ErrorCode::InvalidFrame, format!("{fault}.")))
    }

    /// The object, with the call and its author where these are given and it does not name them.
    pub fn with_ids(&self, call: Option<&Id>, author: Option<&Id>) -> String {
        let mut text = self.text.clone();
        for (field, id, named) in
            [("callId", call, self.has_call_id), ("userId", author, self.has_user_id)]
        {
            if let Some(id) = id.filter(|_| !named) {
                put(&mut text, field, &id.to_json());
            }
        }
        text.push('}');
        text
    }
}

fn put(object: &mut String, field: &str, json: &str) {
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
                return Err(serde::de::Error::custom("Each field may stand once"));
            }
            if seen.len() == FIELDS_MAX {
                return Err(serde::de::Error::custom("Too many fields in a call frame"));
            }
            let passes = match key.0.as_ref() {
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
            if passes {
                if out.text.len() > 1 {
                    out.text.push(',');
                }
                let key = serde_json::to_string(&key.0).map_err(serde::de::Error::custom)?;
                out.text.push_str(&key);
                out.text.push(':');
                out.text.push_str(value.get());
            }
            seen.push(key);
        }
        Ok(out)
    }
}

/// A call frame has eight fields at most; the rest is an app's own.
const FIELDS_MAX: usize = 64;

#[derive(Deserialize, PartialEq, Eq)]
struct FieldName<'a>(#[serde(borrow)] Cow<'a, str>);

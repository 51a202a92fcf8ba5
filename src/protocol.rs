//! The JSON protocol between clients and server: ids, error codes and frames (`docs/PROTOCOL.md`).
//!
//! [`client`] parses the frames of clients, [`server`] encodes the frames of the server, and
//! [`call`] relays call frames between clients. The site's plugin speaks [`site_event`], with a
//! [`signature`]. Nothing here has state.

pub mod call;
pub mod client;
pub mod credential;
mod fields;
pub(crate) mod frame_kind;
pub mod ice;
pub mod server;
pub mod signature;
pub mod site_event;
pub mod status;
pub(crate) mod whole_number;

use std::borrow::Cow;
use std::hash::{Hash, Hasher};

use serde::{Serialize, Serializer};

/// The longest id a client may send, in bytes of its text (`PROTOCOL.md` 2.1).
pub const ID_BYTES_MAX: usize = 64;

/// The largest id that BuddyBoss and a JavaScript client can both hold exactly, 2^53 - 1.
pub const SITE_ID_MAX: u64 = 9_007_199_254_740_991;

/// The value of an id, independent of its JSON form: `7` and `"7"` are the same key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdKey {
    /// A whole number, or a string with a whole number in canonical decimal.
    Number(u64),
    /// Any other string, and negative integers.
    Text(Box<str>),
}

/// An id with the JSON form in which its author wrote it, a string or a number; frames echo that
/// form, but a number always as an integer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    /// The value of the id; compare ids by this.
    pub key: IdKey,
    /// Whether the id was written as a JSON string and not as a JSON number.
    pub quoted: bool,
}

impl Id {
    /// An id written as a JSON integer, as BuddyBoss assigns them.
    pub fn number(value: u64) -> Id {
        Id { key: IdKey::Number(value), quoted: false }
    }

    /// An id that a client wrote as a JSON string.
    pub fn string(text: &str) -> Id {
        Id { key: IdKey::from_text(text), quoted: true }
    }

    /// The id as JSON, in the form in which its author wrote it.
    pub fn to_json(&self) -> String {
        // An id is a number or a string: serializing it cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The id as a BuddyBoss number, if it is a whole number from 1 to [`SITE_ID_MAX`].
    pub fn site_number(&self) -> Option<u64> {
        match self.key {
            IdKey::Number(n) if (1..=SITE_ID_MAX).contains(&n) => Some(n),
            _ => None,
        }
    }

    /// Says why the id is no BuddyBoss number; only for ids without [`Id::site_number`].
    pub fn why_no_site_number(&self) -> &'static str {
        match &self.key {
            IdKey::Number(0) => "0",
            IdKey::Number(_) => "a larger one",
            IdKey::Text(_) if !self.quoted => "a negative one",
            IdKey::Text(text) if text.trim().parse::<f64>().is_ok_and(f64::is_finite) => {
                "a string with more than its digits"
            }
            IdKey::Text(_) => "a text",
        }
    }
}

impl IdKey {
    fn from_text(text: &str) -> IdKey {
        IdKey::parse_canonical(text).map_or_else(|| IdKey::Text(text.into()), IdKey::Number)
    }

    /// Parses a number in canonical decimal: no sign, no leading zeros.
    fn parse_canonical(text: &str) -> Option<u64> {
        match text.as_bytes() {
            // The leading digit excludes a sign; `parse` rejects all other characters.
            b"0" | [b'1'..=b'9', ..] => text.parse().ok(),
            _ => None,
        }
    }
}

/// Omits the variant, which would be half of the hashed bytes of a number. A number and a text may
/// therefore share a hash, but no more than these two: an attacker who chooses ids gains nothing.
impl Hash for IdKey {
    fn hash<H: Hasher>(&self, to: &mut H) {
        match self {
            IdKey::Number(n) => to.write_u64(*n),
            IdKey::Text(text) => text.hash(to),
        }
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match (&self.key, self.quoted) {
            (IdKey::Number(n), false) => to.serialize_u64(*n),
            (IdKey::Number(n), true) => to.serialize_str(itoa::Buffer::new().format(*n)),
            (IdKey::Text(text), true) => to.serialize_str(text),
            (IdKey::Text(text), false) => match text.parse::<i64>() {
                Ok(n) => to.serialize_i64(n),
                Err(_) => to.serialize_str(text),
            },
        }
    }
}

/// The stable word in the `code` field of an `error` frame.
///
/// The list for app developers, with causes and remedies, is in `docs/PROTOCOL.md`; a test compares
/// the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The frame is not JSON.
    InvalidJson,
    /// The frame is JSON, but not an object with a `type`.
    InvalidFrame,
    /// The server does not know this `type`.
    UnknownType,
    /// A field that this type needs is absent.
    MissingField,
    /// A field has the wrong type, or a value that is not allowed.
    InvalidField,
    /// The frame is binary; the protocol uses text frames only.
    TextOnly,
    /// The connection is anonymous.
    NotIdentified,
    /// Neither the sender nor the recipient of a call frame is the user.
    NotYourCall,
    /// The other party of a call has no connection.
    RecipientOffline,
    /// The user is not in a call with this `callId`.
    NoSuchCall,
    /// The group call has as many participants as the server allows.
    CallFull,
    /// The user or the server has too many calls, or the user made too many attempts.
    TooManyCalls,
    /// The connection has joined as many threads as the server allows.
    TooManyThreads,
    /// The connection sends more frames than the server allows.
    RateLimited,
    /// A queue to the site is full, or a memory limit of the server is reached.
    Overloaded,
    /// The site requires a token, and the client sent none.
    TokenRequired,
    /// The site did not accept the token.
    TokenRefused,
    /// The token belongs to another user than the one in the frame.
    IdentityMismatch,
    /// The token was valid and has expired.
    TokenExpired,
    /// The site has suspended this user.
    Suspended,
    /// The user is not a participant of the thread, or the thread does not exist.
    NotParticipant,
    /// The thread has more participants than the server loads.
    ThreadTooLarge,
    /// The site does not let these users write to each other; permanent.
    CannotWrite,
    /// The site understood the request but does not accept a value in it.
    RefusedBySite,
    /// The text is larger than the site accepts.
    TooLarge,
    /// The site limits the request rate.
    SiteBusy,
    /// The site cannot be reached, or is closed for maintenance.
    SiteUnavailable,
    /// The site answers, but not like a BuddyBoss site at this address.
    SiteMisconfigured,
    /// The message was certainly not stored, for a reason without a code of its own.
    NotStored,
    /// It is not known whether the message was stored.
    UnknownOutcome,
}

impl ErrorCode {
    /// Every code, in the order of their discriminants.
    pub const ALL: [ErrorCode; 30] = [
        ErrorCode::InvalidJson,
        ErrorCode::InvalidFrame,
        ErrorCode::UnknownType,
        ErrorCode::MissingField,
        ErrorCode::InvalidField,
        ErrorCode::TextOnly,
        ErrorCode::NotIdentified,
        ErrorCode::NotYourCall,
        ErrorCode::RecipientOffline,
        ErrorCode::NoSuchCall,
        ErrorCode::CallFull,
        ErrorCode::TooManyCalls,
        ErrorCode::TooManyThreads,
        ErrorCode::RateLimited,
        ErrorCode::Overloaded,
        ErrorCode::TokenRequired,
        ErrorCode::TokenRefused,
        ErrorCode::IdentityMismatch,
        ErrorCode::TokenExpired,
        ErrorCode::Suspended,
        ErrorCode::NotParticipant,
        ErrorCode::ThreadTooLarge,
        ErrorCode::CannotWrite,
        ErrorCode::RefusedBySite,
        ErrorCode::TooLarge,
        ErrorCode::SiteBusy,
        ErrorCode::SiteUnavailable,
        ErrorCode::SiteMisconfigured,
        ErrorCode::NotStored,
        ErrorCode::UnknownOutcome,
    ];
}

/// An error for a client: its code, and a text for the app developer or the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientError {
    /// The stable error code.
    pub code: ErrorCode,
    /// One or two sentences: what happened and what to do. Never contains text from the site.
    pub text: Cow<'static, str>,
}

impl ClientError {
    /// Creates an error from its code and its text.
    pub fn new(code: ErrorCode, text: impl Into<Cow<'static, str>>) -> ClientError {
        ClientError { code, text: text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_and_integer_ids_share_one_key() {
        assert_eq!(Id::number(7).key, Id::string("7").key);
        assert_ne!(Id::number(7), Id::string("7"));
        assert_eq!(serde_json::to_string(&Id::number(7)).unwrap(), "7");
        assert_eq!(serde_json::to_string(&Id::string("7")).unwrap(), "\"7\"");
    }

    #[test]
    fn only_canonical_decimals_are_numbers() {
        for text in ["07", "+7", "-7", "7.0", "1e3", " 7", "٧", "18446744073709551616", "x"] {
            assert_eq!(Id::string(text).key, IdKey::Text(text.into()), "{text}");
        }
        assert_eq!(Id::string("0").key, IdKey::Number(0));
        assert_eq!(Id::string("18446744073709551615").key, IdKey::Number(u64::MAX));
    }

    #[test]
    fn site_ids_range_from_one_to_two_to_the_53() {
        assert_eq!(Id::number(0).site_number(), None);
        assert_eq!(Id::string("1").site_number(), Some(1));
        assert_eq!(Id::number(SITE_ID_MAX).site_number(), Some(SITE_ID_MAX));
        assert_eq!(Id::number(SITE_ID_MAX + 1).site_number(), None);
        assert_eq!(Id::string("alice").site_number(), None);
    }

    #[test]
    fn reason_for_no_site_number_depends_on_the_id() {
        let negative = Id { key: IdKey::Text("-7".into()), quoted: false };
        for (id, reason) in [
            (Id::number(0), "0"),
            (Id::string("0"), "0"),
            (Id::number(SITE_ID_MAX + 1), "a larger one"),
            (negative, "a negative one"),
            (Id::string("7.0"), "a string with more than its digits"),
            (Id::string(" 7"), "a string with more than its digits"),
            (Id::string("07"), "a string with more than its digits"),
            (Id::string("alice"), "a text"),
            (Id::string("inf"), "a text"),
        ] {
            assert_eq!((id.site_number(), id.why_no_site_number()), (None, reason), "{id:?}");
        }
    }
}

//! The words of the wire contract: ids, error codes, and what frames are made of.
//!
//! [`client`] turns a text into a frame a client may send, [`server`] turns what the server says
//! into bytes, once; [`call`] passes on what callers write to each other. Nothing here knows a
//! connection or a thread.

pub mod call;
pub mod client;
pub mod credential;
mod fields;
pub mod frame_kind;
pub mod ice;
pub mod server;
pub mod status;

use std::borrow::Cow;
use std::hash::{Hash, Hasher};

use serde::{Serialize, Serializer};

/// The longest id a client may send, in bytes of its text (`PROTOCOL.md` 2.1).
pub const ID_BYTES_MAX: usize = 64;

/// The largest id that BuddyBoss and a JavaScript client can both hold exactly, 2^53 - 1.
pub const SITE_ID_MAX: u64 = 9_007_199_254_740_991;

/// What an id means, however it was written: `7` and `"7"` are the same key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdKey {
    /// A whole number, or a string that is one in canonical decimal.
    Number(u64),
    /// Any other string, and negative integers.
    Text(Box<str>),
}

/// An id in the form in which its author wrote it; a frame echoes that form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    /// What the id means; compare this.
    pub key: IdKey,
    /// Written as a JSON string rather than as a JSON integer.
    pub quoted: bool,
}

impl Id {
    /// The id of something that BuddyBoss numbered, written as an integer.
    pub fn number(value: u64) -> Id {
        Id { key: IdKey::Number(value), quoted: false }
    }

    /// An id that a client wrote as a JSON string.
    pub fn string(text: &str) -> Id {
        Id { key: IdKey::from_text(text), quoted: true }
    }

    /// The id as JSON, in the form in which its author wrote it.
    pub fn to_json(&self) -> String {
        // An id is a number or a string: no error can come of it.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The id as BuddyBoss numbers things: a whole number from 1 to [`SITE_ID_MAX`].
    pub fn site_number(&self) -> Option<u64> {
        match self.key {
            IdKey::Number(n) if (1..=SITE_ID_MAX).contains(&n) => Some(n),
            _ => None,
        }
    }
}

impl IdKey {
    fn from_text(text: &str) -> IdKey {
        IdKey::parse_canonical(text).map_or_else(|| IdKey::Text(text.into()), IdKey::Number)
    }

    /// The number that a text is in canonical decimal.
    fn parse_canonical(text: &str) -> Option<u64> {
        match text.as_bytes() {
            // A digit in front, so that no sign is; the parser sees to the others.
            b"0" | [b'1'..=b'9', ..] => text.parse().ok(),
            _ => None,
        }
    }
}

/// Without the variant, which would be half of what is hashed for a number. So a number and a text
/// may share a hash, but never more than these two: who chooses ids gains nothing by it.
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

/// Why a client hears an `error`: the stable word in its `code` field.
///
/// The list for app developers, with cause and remedy, is `docs/PROTOCOL.md`; a test holds the two
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The frame is not JSON.
    InvalidJson,
    /// The frame is JSON, but not an object with a `type`.
    InvalidFrame,
    /// The `type` is none that the server knows.
    UnknownType,
    /// A field that this type needs is absent.
    MissingField,
    /// A field has the wrong type, or a value that is not allowed.
    InvalidField,
    /// Binary frames carry nothing in this protocol.
    TextOnly,
    /// The connection has not said who it is.
    NotIdentified,
    /// A call frame whose sender and recipient are both someone else.
    NotYourCall,
    /// The other party of a call has no connection.
    RecipientOffline,
    /// The user is in no call of this `callId`.
    NoSuchCall,
    /// As many people are in a group call as may be.
    CallFull,
    /// More calls than the server allows, of one user or of all, or too many attempts.
    TooManyCalls,
    /// More threads joined on one connection than the server allows.
    TooManyThreads,
    /// More frames than the server allows one connection.
    RateLimited,
    /// A queue on the way to the site is full, or the server holds as much as it may.
    Overloaded,
    /// The site needs a token and there was none.
    TokenRequired,
    /// The site did not accept the token.
    TokenRefused,
    /// The token is another user's than the frame says.
    IdentityMismatch,
    /// The token was good once and has expired.
    TokenExpired,
    /// The site has suspended this member.
    Suspended,
    /// The user is not in the thread, or there is no such thread.
    NotParticipant,
    /// More people are in the thread than the server looks up.
    ThreadTooLarge,
    /// The site does not let these people write to each other; permanent.
    CannotWrite,
    /// The site understood the request and found a value it does not accept.
    RefusedBySite,
    /// The text is larger than the site accepts.
    TooLarge,
    /// The site asks for fewer requests.
    SiteBusy,
    /// The site cannot be reached, or is closed for maintenance.
    SiteUnavailable,
    /// The site answers, but not as a BuddyBoss site at this address would.
    SiteMisconfigured,
    /// It is certain that the message was not stored, for a reason without a code of its own.
    NotStored,
    /// It is not known whether the message was stored.
    UnknownOutcome,
}

impl ErrorCode {
    /// Every code, for the documents and the tests.
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

/// What a client did wrong, or what became of its request, in words for its developer or member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientError {
    /// The stable word.
    pub code: ErrorCode,
    /// One or two plain sentences: what happened and what to do. Never anything the site wrote.
    pub text: Cow<'static, str>,
}

impl ClientError {
    /// An error from its code and its sentence.
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
}

//! How a message can fail, and what its sender is told.

use crate::protocol::{ClientError, ErrorCode};

/// Why a message has no place in its thread, as far as its sender needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The site needs a token and the frame had none.
    TokenMissing,
    /// The site knows no user for this token: forged, another site's, revoked, or user deleted.
    TokenRefused,
    /// The token has expired.
    TokenExpired,
    /// The member is suspended.
    Suspended,
    /// Not in this thread, or there is no such thread; the site does not tell which.
    NotParticipant,
    /// More people are in the thread than are read from the site.
    ThreadTooLarge,
    /// Not connected, blocked, suspended or unknown recipient: permanent, and the site does not
    /// tell which.
    CannotWrite,
    /// The site refuses a value of the request.
    RefusedBySite,
    /// The text is larger than the site's web server accepts.
    TooLarge,
    /// Too many requests.
    SiteBusy {
        /// How long the site asks to wait, in seconds, where it says so.
        retry_after_s: Option<u32>,
    },
    /// Not reached at all, or closed for maintenance: certainly not stored.
    SiteUnavailable {
        /// How long the site asks to wait, in seconds, where it says so.
        retry_after_s: Option<u32>,
    },
    /// It answered as no BuddyBoss site would: redirect, no such route. Certainly not stored.
    SiteMisconfigured,
    /// A queue on the way is full: never sent.
    Overloaded,
    /// Certainly not stored, for another reason.
    NotStored,
    /// Sent, and no usable answer came: perhaps stored.
    Unknown,
}

impl Failure {
    /// What the sender is told: what happened and what to do.
    pub fn client_error(&self) -> ClientError {
        use ErrorCode as Code;
        let (code, text) = match self {
            Failure::TokenMissing => (
                Code::TokenRequired,
                "The message was not stored: the frame has no token. Send it again with your token.",
            ),
            Failure::TokenRefused => (
                Code::TokenRefused,
                "The message was not stored: the site did not accept the token; sign in again.",
            ),
            Failure::TokenExpired => (
                Code::TokenExpired,
                "The message was not stored: the token has expired; sign in again.",
            ),
            Failure::Suspended => (
                Code::Suspended,
                "The message was not stored: the site has suspended this account.",
            ),
            Failure::NotParticipant => (
                Code::NotParticipant,
                "The message was not stored: you are not in this thread, or it no longer exists.",
            ),
            Failure::ThreadTooLarge => (
                Code::ThreadTooLarge,
                "This thread has too many participants to be followed live; \
                 it can be read through the site.",
            ),
            Failure::CannotWrite => (
                Code::CannotWrite,
                "The message was not stored: the site does not let you write to this person. \
                 Sending it again will not help.",
            ),
            Failure::RefusedBySite => (
                Code::RefusedBySite,
                "The message was not stored: the site refused a value of the request. \
                 Check recipientId, threadId and the text.",
            ),
            Failure::TooLarge => (
                Code::TooLarge,
                "The message was not stored: it is larger than the site accepts. Shorten it.",
            ),
            Failure::SiteBusy { retry_after_s } => {
                return Self::with_wait(
                    Code::SiteBusy,
                    "The message was not stored: the site asks for fewer requests.",
                    *retry_after_s,
                );
            }
            Failure::SiteUnavailable { retry_after_s } => {
                return Self::with_wait(
                    Code::SiteUnavailable,
                    "The message was not stored: the site cannot be reached.",
                    *retry_after_s,
                );
            }
            Failure::SiteMisconfigured => (
                Code::SiteMisconfigured,
                "The message was not stored: the site does not offer its messages at the address \
                 that this server is set to. Tell its operator.",
            ),
            Failure::Overloaded => (
                Code::Overloaded,
                "The message was not stored: too many are waiting already. Try again in a moment.",
            ),
            Failure::NotStored => (
                Code::NotStored,
                "The message was not stored: the site refused it without a reason. Try again later.",
            ),
            Failure::Unknown => (
                Code::UnknownOutcome,
                "The site gave no usable answer: the message may or may not be stored. \
                 Look into the thread before you send it again.",
            ),
        };
        ClientError::new(code, text)
    }

    fn with_wait(code: ErrorCode, what: &str, retry_after_s: Option<u32>) -> ClientError {
        match retry_after_s {
            Some(s) => ClientError::new(code, format!("{what} Try again in {s} seconds.")),
            None => ClientError::new(code, format!("{what} Try again later.")),
        }
    }
}

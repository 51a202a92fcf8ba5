//! How a question to the site can fail, and what the client is told.

use crate::protocol::{ClientError, ErrorCode};

/// Why a question came to nothing, as far as the one who caused it needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The site needs a token and there was none.
    TokenMissing,
    /// The site knows no user for this token: forged, another site's, revoked, or user deleted.
    TokenRefused,
    /// The token has expired.
    TokenExpired,
    /// The member is suspended.
    Suspended,
    /// Not in this thread, or there is no such thread; the site does not tell which.
    NotParticipant,
    /// More people are in the thread than are looked up.
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
    /// Sent, and no answer came, or half of one: perhaps stored, and perhaps only later.
    Unknown,
    /// Sent, and a whole answer came that is of no use: the site's work is over, and the message is
    /// perhaps stored.
    Unusable,
}

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureContext {
    /// To store a message.
    Message,
    /// Whose a token is.
    Token,
    /// Who takes part in a thread.
    Thread,
}

/// What is known of a site that has given no usable answer to a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteState {
    /// Its work is over: the message is stored by now, or never will be.
    Finished,
    /// It may still be at work.
    MayBeRunning,
}

/// What is said of a message that the thread does not have, after the site has failed.
pub fn not_in_thread() -> ClientError {
    ClientError::new(
        ErrorCode::NotStored,
        "The message was not stored: the site has failed, and the thread does not have it. \
         Send it again.",
    )
}

/// What is said of one repeat too many: nothing about the message itself, which may be stored.
pub fn too_many_repeats() -> ClientError {
    ClientError::new(
        ErrorCode::Overloaded,
        "This message is on its way already, and too many repeats wait for its outcome. \
         Wait for it.",
    )
}

impl Failure {
    /// Whether a message may be stored for all that, and what is known of the site.
    pub fn site_state(&self) -> Option<SiteState> {
        match self {
            Failure::Unknown => Some(SiteState::MayBeRunning),
            Failure::Unusable => Some(SiteState::Finished),
            _ => None,
        }
    }

    /// Whether it is the site's last word on a credential, rather than a question that failed.
    pub fn is_credential_rejection(&self) -> bool {
        matches!(self, Failure::TokenRefused | Failure::TokenExpired | Failure::Suspended)
    }

    /// What the client is told: what happened and what to do.
    pub fn client_error(&self, about: FailureContext) -> ClientError {
        if let (Failure::Unknown | Failure::Unusable, FailureContext::Message) = (self, about) {
            return ClientError::new(
                ErrorCode::UnknownOutcome,
                "The site gave no usable answer: the message may or may not be stored. \
                 Look into the thread before you send it again.",
            );
        }
        if let (Failure::NotParticipant, FailureContext::Thread) = (self, about) {
            return ClientError::new(
                ErrorCode::NotParticipant,
                "You are not in this thread, or it no longer exists.",
            );
        }
        let (code, why) = self.reason();
        let what = match about {
            FailureContext::Message => "The message was not stored",
            FailureContext::Token if self.is_credential_rejection() => "The token proves nothing",
            FailureContext::Token => "The token could not be checked",
            FailureContext::Thread => "Your part in the thread could not be checked",
        };
        let wait = match self {
            Failure::SiteBusy { retry_after_s: Some(s) }
            | Failure::SiteUnavailable { retry_after_s: Some(s) } => {
                format!(" Try again in {s} second{}.", if *s == 1 { "" } else { "s" })
            }
            Failure::SiteBusy { .. } | Failure::SiteUnavailable { .. } => {
                " Try again later.".to_owned()
            }
            _ => String::new(),
        };
        ClientError::new(code, format!("{what}: {why}{wait}"))
    }

    fn reason(&self) -> (ErrorCode, &'static str) {
        use ErrorCode as Code;
        match self {
            Failure::TokenMissing => {
                (Code::TokenRequired, "the frame has no token. Send it again with your token.")
            }
            Failure::TokenRefused => {
                (Code::TokenRefused, "the token is not accepted; sign in again.")
            }
            Failure::TokenExpired => (Code::TokenExpired, "the token has expired; sign in again."),
            Failure::Suspended => (Code::Suspended, "the site has suspended this account."),
            Failure::NotParticipant => {
                (Code::NotParticipant, "you are not in this thread, or it no longer exists.")
            }
            Failure::ThreadTooLarge => {
                (Code::ThreadTooLarge, "too many people are in it for this server to look them up.")
            }
            Failure::CannotWrite => (
                Code::CannotWrite,
                "the site does not let you write to this person. Sending it again will not help.",
            ),
            Failure::RefusedBySite => (
                Code::RefusedBySite,
                "the site refused a value of the request. \
                 Check recipientId, threadId and the text.",
            ),
            Failure::TooLarge => {
                (Code::TooLarge, "it is larger than the site accepts. Shorten it.")
            }
            Failure::SiteBusy { .. } => (Code::SiteBusy, "the site asks for fewer requests."),
            Failure::SiteUnavailable { .. } => {
                (Code::SiteUnavailable, "the site is not available.")
            }
            Failure::SiteMisconfigured => (
                Code::SiteMisconfigured,
                "the site does not offer its messages at the address that this server is set to. \
                 Tell its operator.",
            ),
            Failure::Overloaded => {
                (Code::Overloaded, "too many are waiting already. Try again in a moment.")
            }
            Failure::NotStored => {
                (Code::NotStored, "the site refused it without a reason. Try again later.")
            }
            Failure::Unknown | Failure::Unusable => {
                (Code::SiteUnavailable, "the site gave no usable answer.")
            }
        }
    }
}

/// What is said to who sends more frames than they may.
pub fn rate_limited() -> ClientError {
    ClientError::new(
        ErrorCode::RateLimited,
        "You send too many frames: this one was not heard. Send fewer, and this one again in a \
         moment; who goes on like this is disconnected.",
    )
}

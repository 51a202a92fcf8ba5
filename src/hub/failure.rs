//! Failures of requests to the site, and the errors that clients get for them.

use crate::protocol::{ClientError, ErrorCode};

/// Why a request to the site failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The request needs a token and has none.
    TokenMissing,
    /// The request has a ticket of the site's plugin instead of a token, and the site takes no
    /// tickets.
    TicketOnly,
    /// The site knows no user for this token: it is forged, revoked, of another site, or its user
    /// was deleted.
    TokenRefused,
    /// The token has a fault that this server found itself.
    TokenInvalid(TokenFault),
    /// The token has expired.
    TokenExpired,
    /// The user is suspended.
    Suspended,
    /// The user is not in this thread, or it does not exist; the site does not tell which.
    NotParticipant,
    /// The thread has more participants than the server looks up.
    ThreadTooLarge,
    /// The recipient is not connected, blocked, suspended or unknown. Permanent; the site does not
    /// tell which.
    CannotWrite,
    /// The site refuses a value in the request.
    RefusedBySite,
    /// The text exceeds the limit of the site's web server.
    TooLarge,
    /// The site asks for fewer requests.
    SiteBusy {
        /// How many seconds the site asks to wait (`Retry-After`), if it says so.
        retry_after_s: Option<u32>,
    },
    /// The site was not reached, or is closed for maintenance. Certainly not stored.
    SiteUnavailable {
        /// How many seconds the site asks to wait (`Retry-After`), if it says so.
        retry_after_s: Option<u32>,
    },
    /// The answer is not one of BuddyBoss, such as a redirect or an unknown route. Certainly not
    /// stored.
    SiteMisconfigured,
    /// A queue is full, so the request was never sent.
    Overloaded,
    /// Certainly not stored, for another reason.
    NotStored,
    /// Sent, but no complete answer arrived. The message may be stored now or later.
    Unknown,
    /// Sent, and a complete but unusable answer arrived. The site has finished, and the message may
    /// be stored.
    Unusable,
}

/// The fault of a token that is verified without the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenFault {
    /// It is no JWT.
    Layout,
    /// It is signed by the site, and one of its claims has not the expected type.
    Claims,
    /// It is signed with an algorithm or a key that the server does not have.
    Algorithm,
    /// The signature is not the site's.
    Signature,
    /// It names another issuer, or none.
    Issuer,
    /// It is not valid yet.
    NotYetValid,
    /// It never expires, and the server accepts no such tokens.
    NoExpiry,
}

/// The purpose of a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureContext {
    /// Storing a message.
    Message,
    /// Verifying a token.
    Token,
    /// Checking membership in a thread.
    Thread,
}

/// Whether the site may still be processing a post that had no usable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteState {
    /// It has finished: the message is stored by now, or never will be.
    Finished,
    /// It may still be processing the request.
    MayBeRunning,
}

/// Returns the error for a message that is not in its thread after the site failed.
pub(super) fn not_in_thread() -> ClientError {
    ClientError::new(
        ErrorCode::NotStored,
        "The message was not stored: the site failed, and the message is not in the thread. \
         Send it again.",
    )
}

/// Returns the error for a duplicate when too many wait already. It says nothing about the outcome
/// of the message, which may be stored.
pub(super) fn too_many_repeats() -> ClientError {
    ClientError::new(
        ErrorCode::Overloaded,
        "This message is already being sent, and too many duplicates wait for its outcome. \
         Wait for the outcome instead of sending it again.",
    )
}

impl Failure {
    /// Returns whether the site may still be processing the request, if a message may have been
    /// stored despite this failure.
    pub fn site_state(&self) -> Option<SiteState> {
        match self {
            Failure::Unknown => Some(SiteState::MayBeRunning),
            Failure::Unusable => Some(SiteState::Finished),
            _ => None,
        }
    }

    /// Whether the site has rejected the credential, as opposed to not having decided.
    pub fn is_credential_rejection(&self) -> bool {
        matches!(
            self,
            Failure::TokenRefused
                | Failure::TokenInvalid(_)
                | Failure::TokenExpired
                | Failure::Suspended
        )
    }

    /// Returns the error for the client: what happened and what to do.
    pub fn client_error(&self, about: FailureContext) -> ClientError {
        if let (Failure::Unknown | Failure::Unusable, FailureContext::Message) = (self, about) {
            return ClientError::new(
                ErrorCode::UnknownOutcome,
                "The site gave no usable answer: the message may or may not be stored. \
                 Check the thread before you send it again.",
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
            FailureContext::Token if self.is_credential_rejection() => "Authentication failed",
            FailureContext::Token => "The token could not be checked",
            FailureContext::Thread => "Your membership in the thread could not be checked",
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
            Failure::TicketOnly => (
                Code::TokenRequired,
                "only the site can do this, and a ticket is not sent there. Send it again with \
                 your token of the site.",
            ),
            Failure::TokenRefused => {
                (Code::TokenRefused, "the token is not accepted; sign in again.")
            }
            Failure::TokenInvalid(fault) => (Code::TokenRefused, fault.reason()),
            Failure::TokenExpired => (Code::TokenExpired, "the token has expired; sign in again."),
            Failure::Suspended => (Code::Suspended, "the site has suspended this account."),
            Failure::NotParticipant => {
                (Code::NotParticipant, "you are not in this thread, or it no longer exists.")
            }
            Failure::ThreadTooLarge => (
                Code::ThreadTooLarge,
                "the thread has more participants than this server looks up.",
            ),
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
                "the site does not offer its messages API at the address that this server uses. \
                 Tell the server's operator.",
            ),
            Failure::Overloaded => {
                (Code::Overloaded, "too many requests are waiting. Try again in a moment.")
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

impl TokenFault {
    fn reason(self) -> &'static str {
        match self {
            TokenFault::Layout => {
                "the token is not accepted: it is not a signed JWT. Sign in again."
            }
            TokenFault::Claims => {
                "the token is not accepted: one of its claims (iss, exp, nbf) is not as RFC 7519 \
                 wants it. Tell the server's operator."
            }
            TokenFault::Algorithm => {
                "the token is not accepted: this server has no key for its algorithm (alg, kid). \
                 Sign in again, or tell the server's operator."
            }
            TokenFault::Signature => {
                "the token is not accepted: its signature is not the site's. Sign in again."
            }
            TokenFault::Issuer => {
                "the token is not accepted: this server does not expect its issuer (iss). Tell the \
                 server's operator."
            }
            TokenFault::NotYetValid => {
                "the token is not accepted: it is not valid yet (nbf). Tell the server's operator."
            }
            TokenFault::NoExpiry => {
                "the token is not accepted: it has no expiry (exp). Sign in again, or tell the \
                 server's operator."
            }
        }
    }
}

/// Returns the error for a client that exceeds its limit of frames.
pub(super) fn rate_limited() -> ClientError {
    ClientError::new(
        ErrorCode::RateLimited,
        "You send too many frames: this one was ignored. Slow down and send it again in a \
         moment; a connection that keeps exceeding the limit is closed.",
    )
}

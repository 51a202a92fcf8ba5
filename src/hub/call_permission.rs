//! Decides whether a call may ring, by the site's word on whether the caller may write.

use super::Hub;
use super::auth::call_permissions::{CallPair, CallPermission};
use super::interface::{ConnId, Failure, FailureContext, Now};
use crate::protocol::{ClientError, ErrorCode, Id};

impl Hub {
    /// Whether a call may ring: in a thread of two the site must let the caller write to the other
    /// participant. If it has to be asked, the frame is held and this is false.
    ///
    /// # Errors
    ///
    /// The site does not let the caller write, or the question about it failed.
    pub(super) fn check_call_permission(
        &mut self,
        conn: ConnId,
        thread: Option<&Id>,
        other: Option<&Id>,
        text: &str,
        now: Now,
    ) -> Result<bool, ClientError> {
        let thread = thread.and_then(Id::site_number);
        let user = self.presence.number_of(conn);
        let other = other.and_then(Id::site_number);
        if user.zip(other).is_some_and(|(user, other)| self.auth.blocks.is_between(user, other)) {
            return Err(may_not_call());
        }
        let Some((thread, user)) = thread.zip(user) else { return Ok(true) };
        // The site checks blocks and connections only there (CONTRACT 3.1).
        if !self.enforces_membership() || self.membership.participants(thread).len() != 2 {
            return Ok(true);
        }
        // The user's ticket has named the blocks, and it cannot be shown to the site.
        if self.auth.tickets.is_recent(user, now.unix_s) {
            return Ok(true);
        }
        let pair = CallPair { thread, user };
        match self.auth.calls.get(pair, now.instant) {
            CallPermission::Allowed => return Ok(true),
            CallPermission::Refused => return Err(may_not_call()),
            CallPermission::Unknown => {}
        }
        match self.auth.unanswered_call.filter(|(asked, _)| *asked == pair) {
            Some(_) if self.auth.calls.is_refused_in_outage(pair, now.instant) => {
                Err(may_not_call())
            }
            // Calls go on while the site is down.
            Some((_, Failure::SiteUnavailable { .. })) => Ok(true),
            Some((_, failure)) => Err(failure.client_error(FailureContext::Thread)),
            None => {
                self.hold_behind_query(conn, text)?;
                if self.auth.calls.wait(pair, conn) {
                    self.auth.queries.push_call(pair);
                    self.send_site_queries(now);
                }
                Ok(false)
            }
        }
    }
}

fn may_not_call() -> ClientError {
    ClientError::new(
        ErrorCode::CannotWrite,
        "The site does not let you write to this person, so you cannot call them. \
         Calling again will not help.",
    )
}

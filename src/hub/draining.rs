//! Draining before the server stops: messages in flight finish, new messages are refused.

use super::Hub;
use super::interface::{ConnId, Now};
use super::messages::delivery::server_stopping;
use crate::protocol::ClientError;
use crate::protocol::client::ReplyTo;

impl Hub {
    /// Starts the drain: new messages are refused, and users that go offline are not announced,
    /// since they are sent away and come back. Messages in flight, typing and calls go on.
    pub fn begin_drain(&mut self) {
        self.draining = true;
    }

    /// Answers a message that is sent during the drain. A repeat gets the outcome of the first: a
    /// client that was told `not_stored` would send it to the next server as well.
    ///
    /// # Errors
    ///
    /// The message has not been sent before.
    pub(super) fn answer_while_draining(
        &mut self,
        conn: ConnId,
        reply: &ReplyTo,
        now: Now,
    ) -> Result<(), ClientError> {
        if let Some(client_id) = &reply.client_id {
            if self.check_repeat(conn, &client_id.key, now)?.is_none() {
                return Ok(());
            }
        }
        Err(server_stopping())
    }

    /// Whether a connection waits for an outcome: of its own message, of one that its user sent on
    /// an earlier connection, or of a call status request.
    pub fn is_awaiting_outcome(&self, conn: ConnId) -> bool {
        if self.status_requests.has(conn) {
            return true;
        }
        if !self.output.is_open(conn) {
            return false;
        }
        let user = self.presence.user_of(conn);
        self.messages.has_pending_outcome(conn)
            || self.auth.held.has(conn)
            || user.is_some_and(|user| self.messages.has_predecessor_outcome(conn, &user.key))
    }

    /// Gives every message its outcome before the server stops.
    pub fn stop(&mut self) {
        for (pending, fault) in self.messages.abandon() {
            self.send_failure(&pending, &fault);
        }
        self.flush_held_messages();
        self.reject_held_messages();
    }
}

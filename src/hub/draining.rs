//! The community before its server ends: what is on its way finishes, and nothing new begins.

use super::Hub;
use super::delivery::server_stopping;
use super::interface::{ConnId, Now};
use crate::protocol::ClientError;
use crate::protocol::client::ReplyTo;

impl Hub {
    /// From now on a new message is refused, and nobody's end is told: they are sent away, and will
    /// be back. What is on its way goes on, and so do typing and calls.
    pub fn begin_drain(&mut self) {
        self.draining = true;
    }

    /// Answers a message that is sent while the server stops: what has been sent before has its
    /// outcome, for whoever hears that it was not stored sends it to the next server as well.
    ///
    /// # Errors
    ///
    /// It has not been sent before.
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

    /// Whether a connection is still to get an outcome: of what it has said itself, or of a message
    /// that its user sent on a connection that has gone. Who asks how a call is gets an answer.
    pub fn is_awaiting_outcome(&self, conn: ConnId) -> bool {
        if self.status_requests.has(conn) {
            return true;
        }
        if !self.is_open(conn) {
            return false;
        }
        self.has_pending_outcome(conn)
            || self.held_frames.has(conn)
            || self.presence.user_of(conn).is_some_and(|user| {
                self.undelivered
                    .predecessors(conn, &user.key)
                    .any(|gone| self.has_pending_outcome(gone))
            })
    }

    /// Gives every message on its way its outcome, before the server stops.
    pub fn stop(&mut self) {
        self.reconciler.clear();
        for (pending, fault) in self.delivery.abandon() {
            self.send_failure(&pending, &fault);
        }
        self.flush_held_messages();
        self.reject_held_frames();
    }
}

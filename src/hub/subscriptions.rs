//! Thread subscriptions: `join_thread`, `leave_thread`, and joins that the server makes itself.

use super::Hub;
use super::interface::ConnId;
use super::threads::JoinResult;
use crate::protocol::server::ServerFrame;
use crate::protocol::{ClientError, ErrorCode, Id};

impl Hub {
    /// Subscribes a connection to a thread that its user may read.
    ///
    /// # Errors
    ///
    /// The connection or the server has reached its limit of threads.
    pub(super) fn join_thread(
        &mut self,
        conn: ConnId,
        thread: &Id,
        client_id: Option<&Id>,
    ) -> Result<(), ClientError> {
        let (max, in_all) = (self.settings.joins_per_connection, self.settings.threads);
        match self.threads.join(conn, &thread.key, max, in_all) {
            JoinResult::New | JoinResult::Already => {}
            JoinResult::TooMany => {
                let text = format!("A connection may join {max} threads; leave one first.");
                return Err(ClientError::new(ErrorCode::TooManyThreads, text));
            }
            JoinResult::ServerFull => {
                let text =
                    "This server has reached its limit of joined threads. Try again in a moment.";
                return Err(ClientError::new(ErrorCode::Overloaded, text));
            }
        }
        self.output.reply(conn, &ServerFrame::ThreadJoined { thread_id: thread, client_id });
        Ok(())
    }

    /// Ends a subscription. Leaving a thread that was not joined is a no-op with the same answer.
    pub(super) fn leave_thread(&mut self, conn: ConnId, thread: &Id, client_id: Option<&Id>) {
        if let Some(typist) = self.threads.stop_typing_here(conn, &thread.key) {
            self.announce_typing_stop(&typist);
        }
        self.threads.leave(conn, &thread.key);
        let frame = ServerFrame::ThreadLeft { thread_id: thread, reason: None, client_id };
        self.output.reply(conn, &frame);
    }

    /// Subscribes a connection without a request of the client, if its user may read the thread,
    /// and sends `thread_joined` if that is new. False if a limit is reached.
    pub(super) fn join_silently(&mut self, conn: ConnId, thread: &Id) -> bool {
        if !self.is_known_participant(conn, thread) {
            return true;
        }
        let max = self.settings.joins_per_connection;
        let joined = self.threads.join(conn, &thread.key, max, self.settings.threads);
        if joined == JoinResult::New {
            let frame = ServerFrame::ThreadJoined { thread_id: thread, client_id: None };
            self.output.reply(conn, &frame);
        }
        matches!(joined, JoinResult::New | JoinResult::Already)
    }
}

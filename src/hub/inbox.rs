//! `join_inbox`: a connection receives everything that concerns its user, without joining threads.

use super::Hub;
use super::interface::ConnId;
use crate::protocol::client::InboxContent;
use crate::protocol::server::{EncodedFrame, InboxFrame, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id, IdKey};

impl Hub {
    /// Subscribes a connection to the inbox of its user.
    ///
    /// # Errors
    ///
    /// The connection is anonymous, or its user is not one of the site.
    pub(super) fn join_inbox(
        &mut self,
        conn: ConnId,
        content: InboxContent,
        client_id: Option<&Id>,
    ) -> Result<(), ClientError> {
        let user = self.require_user(conn)?;
        let Some(number) = user.site_number() else {
            let text = "An inbox belongs to a user of the site: your userId is not its number.";
            return Err(ClientError::new(ErrorCode::InvalidField, text));
        };
        self.inboxes.join(number, conn, content);
        self.output.reply(conn, &ServerFrame::InboxJoined { content, client_id });
        Ok(())
    }

    /// Ends that subscription. Leaving an inbox that was not joined is a no-op, with the same
    /// answer.
    pub(super) fn leave_inbox(&mut self, conn: ConnId, client_id: Option<&Id>) {
        if let Some(user) = self.presence.number_of(conn) {
            self.inboxes.leave(user, conn);
        }
        self.output.reply(conn, &ServerFrame::InboxLeft { client_id });
    }

    /// Sends an event to the inboxes of these users, each given once.
    pub(super) fn send_to_inboxes(&mut self, users: &[u64], frame: &InboxFrame<'_>) {
        if self.inboxes.count() == 0 {
            return;
        }
        let inboxes = users.iter().flat_map(|user| self.inboxes.of(*user));
        let conns: Vec<ConnId> = inboxes.map(|inbox| inbox.conn).collect();
        if !conns.is_empty() {
            let frame = self.output.encode(&ServerFrame::Inbox(*frame));
            self.output.fan_out(conns, &frame, false);
        }
    }

    /// Sends a message to the inboxes of these users: `full`, or `ids`. A connection that has
    /// joined the thread, and those in `except`, have it already.
    pub(super) fn send_message_to_inboxes(
        &mut self,
        users: &[u64],
        full: &EncodedFrame,
        ids: &InboxFrame<'_>,
        except: &[ConnId],
    ) {
        let key = ids.thread_id.map(IdKey::Number);
        let (mut for_full, mut for_ids) = (Vec::new(), Vec::new());
        for inbox in users.iter().flat_map(|user| self.inboxes.of(*user)) {
            let has_joined =
                key.as_ref().is_some_and(|key| self.threads.is_subscribed(inbox.conn, key));
            if has_joined || except.contains(&inbox.conn) {
                continue;
            }
            match inbox.content {
                InboxContent::Full => for_full.push(inbox.conn),
                InboxContent::Ids => for_ids.push(inbox.conn),
            }
        }
        self.output.fan_out(for_full, full, false);
        if !for_ids.is_empty() {
            let frame = self.output.encode(&ServerFrame::Inbox(*ids));
            self.output.fan_out(for_ids, &frame, false);
        }
    }
}

//! `join_inbox`: a connection receives everything that concerns its user, without joining threads.

use super::Hub;
use super::interface::ConnId;
use crate::protocol::client::InboxContent;
use crate::protocol::server::{EncodedFrame, InboxFrame, ServerFrame};
use crate::protocol::site_event::SiteMessage;
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

    /// Sends a message to the inboxes of these users: `full`, or its ids. A connection that has
    /// joined the thread, and `author`, have it already.
    pub(super) fn send_message_to_inboxes(
        &mut self,
        users: &[u64],
        message: &SiteMessage,
        full: &EncodedFrame,
        author: Option<ConnId>,
    ) {
        let key = IdKey::Number(message.thread);
        let (mut by_content, mut ids) = (Vec::new(), Vec::new());
        for inbox in users.iter().flat_map(|user| self.inboxes.of(*user)) {
            if Some(inbox.conn) == author || self.threads.is_subscribed(inbox.conn, &key) {
                continue;
            }
            match inbox.content {
                InboxContent::Full => by_content.push(inbox.conn),
                InboxContent::Ids => ids.push(inbox.conn),
            }
        }
        self.output.fan_out(by_content, full, false);
        if !ids.is_empty() {
            let frame = self.output.encode(&ServerFrame::Inbox(InboxFrame {
                event: "message",
                thread_id: Some(message.thread),
                message_id: Some(message.message),
                sender_id: Some(message.sender),
                sent_at: Some(&message.sent_at),
                notice: message.notice,
                silent: message.silent.then_some(true),
                ..InboxFrame::default()
            }));
            self.output.fan_out(ids, &frame, false);
        }
    }
}

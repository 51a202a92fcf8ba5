//! Accepts messages: `send_message` becomes a post to the site, once for each `clientId`.

use std::sync::Arc;

use super::Hub;
use super::auth::identity::AuthState;
use super::interface::{ConnId, Failure, FailureContext, Now, Target};
use super::messages::Repeat;
use super::messages::dedup::DedupKey;
use super::messages::delivery::{PendingMessage, server_stopping};
use crate::protocol::client::{ClientFrame, ReplyTo, SendMessage, parse};
use crate::protocol::credential::Credential;
use crate::protocol::{ClientError, ErrorCode, Id, IdKey, SITE_ID_MAX};

impl Hub {
    /// Accepts a `send_message` frame. The post goes to the site now, or waits in its lane.
    ///
    /// # Errors
    ///
    /// A field has no number of the site, the token has expired, or too much is in flight.
    pub(super) fn send_message(
        &mut self,
        conn: ConnId,
        message: SendMessage<'_>,
        reply: &ReplyTo,
        now: Now,
    ) -> Result<(), ClientError> {
        let target = match (&message.thread, &message.recipient) {
            (Some(thread), _) => Target::Thread(site_number(thread, "threadId")?),
            (None, Some(recipient)) => {
                Target::NewThread { recipient: site_number(recipient, "recipientId")? }
            }
            // The parser has refused a frame with neither.
            (None, None) => return Ok(()),
        };
        let dedup_key = match &reply.client_id {
            Some(client_id) => match self.check_repeat(conn, &client_id.key, now)? {
                Some(key) => Some(key),
                None => return Ok(()),
            },
            None => None,
        };
        let credential = match message.token.as_deref() {
            Some(text) => Some(Credential::parse(text)?),
            None if self.auth.identity.auth_state(conn) == AuthState::Expired => {
                return Err(Failure::TokenExpired.client_error(FailureContext::Message));
            }
            None => self.auth.identity.latest_credential(conn).cloned(),
        };
        let pending = PendingMessage {
            origin: conn,
            conn,
            reply: reply.clone(),
            recipient: message.recipient,
            claimed: self.presence.user_of(conn),
            target,
            text: Arc::from(message.text.as_ref()),
            credential,
            posted_at: self.messages.request_time(now),
            posted_unix_s: now.unix_s,
            dedup_key,
        };
        let question = self.messages.accept(pending, &self.settings.deliveries, now);
        let question = question.map_err(|failure| failure.client_error(FailureContext::Message))?;
        if let Some((request, ask)) = question {
            self.output.ask(request, ask);
        }
        Ok(())
    }

    /// The dedup key of a message that is sent for the first time. A repeat gets the outcome of the
    /// first, now or together with it, and has no key.
    ///
    /// # Errors
    ///
    /// Too many repeats of it wait already.
    pub(super) fn check_repeat(
        &mut self,
        conn: ConnId,
        client_id: &IdKey,
        now: Now,
    ) -> Result<Option<DedupKey>, ClientError> {
        let user = self.presence.user_of(conn).map(|user| user.key);
        match self.messages.check_repeat(conn, user, client_id, now)? {
            Repeat::First(key) => Ok(Some(key)),
            Repeat::Settled(frame) => {
                self.output.send(conn, frame);
                Ok(None)
            }
            Repeat::InFlight => Ok(None),
        }
    }

    /// Rejects the messages among the held frames when the server stops.
    pub(super) fn reject_held_messages(&mut self) {
        let conns: Vec<ConnId> = self.output.connections().collect();
        for conn in conns {
            while let Some(text) = self.auth.take_held(conn) {
                let (reply, frame) = parse(text.as_str());
                if let Ok(ClientFrame::SendMessage(_)) = frame {
                    self.output.send_error(conn, &reply, &server_stopping());
                }
            }
        }
    }
}

fn site_number(id: &Id, field: &'static str) -> Result<u64, ClientError> {
    id.site_number().ok_or_else(|| {
        let got = id.why_no_site_number();
        let what = format!(
            "{field} must be a whole number from 1 to {SITE_ID_MAX} to send to, not {got}."
        );
        ClientError::new(ErrorCode::InvalidField, what)
    })
}

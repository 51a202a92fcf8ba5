//! Who asks by HTTP how a call is, from the request to the answer.

use std::net::IpAddr;

use super::Server;
use crate::http::call_status::CallStatusRequest;
use crate::http::response;
use crate::hub::interface::{ConnId, Input, Now};
use crate::protocol::status::CallStatusReply;

impl Server {
    /// A request has come that only the hub can answer, perhaps not at once.
    pub(super) fn handle_call_status(&mut self, slot: u32, asked: CallStatusRequest, now: Now) {
        let CallStatusRequest { client, credential, call } = asked;
        if let Some(conn) = self.admit(slot, client) {
            log::debug!(connection = conn.serial; "how a call is, for {client}");
            self.hub.handle(Input::CallStatusRequest { conn, credential, call }, now);
        }
    }

    /// The hub knows the answer, and nothing of the connection from then on.
    pub(super) fn send_call_status(&mut self, conn: ConnId, reply: &CallStatusReply) {
        let connection = self.connections.get(conn.slot).filter(|connection| connection.id == conn);
        let Some(connection) = connection else { return };
        connection.registered = false;
        connection.wire.send_call_status(reply, &mut connection.outbox);
        connection.since = self.active_now;
        self.connections.note_output(conn.slot);
    }

    /// Whose connection this is counts from now on, and the hub is to know it; `None` if too many
    /// come from there, which it is told instead.
    pub(super) fn admit(&mut self, slot: u32, client: IpAddr) -> Option<ConnId> {
        let connection = self.connections.get(slot)?;
        // Its socket's peer may be a proxy, and is not counted then.
        let counts = !connection.counts_for_address && self.admission.is_counted(client);
        connection.client = client;
        connection.counts_for_address |= counts;
        if counts && !self.admission.admit(client) {
            connection.counts_for_address = false;
            self.counts.refused += 1;
            self.counts.refused_address += 1;
            self.connections.refuse(slot, response::too_many_from_address(), self.active_now);
            return None;
        }
        connection.registered = true;
        Some(connection.id)
    }
}

//! Who asks by HTTP how a call is, from the request to the answer.

use std::net::IpAddr;

use super::Server;
use crate::hub::interface::{ConnId, Input, Now};
use crate::protocol::status::CallTold;
use crate::wire::calls::CallAsked;
use crate::wire::handshake;

impl Server {
    /// A request has come that only the hub can answer, perhaps not at once.
    pub(super) fn call_asked(&mut self, slot: u32, asked: CallAsked, now: Now) {
        let CallAsked { client, credential, call } = asked;
        if let Some(conn) = self.enter(slot, client) {
            log::debug!(connection = conn.serial; "how a call is, for {client}");
            self.hub.handle(Input::CallAsked { conn, credential, call }, now);
        }
    }

    /// The hub knows the answer, and nothing of the connection from then on.
    pub(super) fn tell_call(&mut self, conn: ConnId, told: &CallTold) {
        let connection = self.crowd.get(conn.slot).filter(|connection| connection.id == conn);
        let Some(connection) = connection else { return };
        connection.opened = false;
        connection.wire.tell_call(told, &mut connection.outbox);
        connection.since = self.moment;
        self.crowd.note_output(conn.slot);
    }

    /// Whose connection this is counts from now on, and the hub is to know it; `None` if too many
    /// come from there, which it is told instead.
    pub(super) fn enter(&mut self, slot: u32, client: IpAddr) -> Option<ConnId> {
        let connection = self.crowd.get(slot)?;
        // Its socket's peer may be a proxy, and is not counted then.
        let counts = !connection.counted && self.admission.counts(client);
        connection.client = client;
        connection.counted |= counts;
        if counts && !self.admission.enter(client) {
            connection.counted = false;
            self.counts.refused += 1;
            self.counts.refused_address += 1;
            self.crowd.refuse(slot, handshake::too_many_from_there(), self.moment);
            return None;
        }
        connection.opened = true;
        Some(connection.id)
    }
}

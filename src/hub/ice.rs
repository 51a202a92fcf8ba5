//! STUN and TURN servers for calls: answers `ice_servers` with a credential for the user.

use super::Hub;
use super::interface::{ConnId, Now};
use crate::protocol::server::ServerFrame;
use crate::protocol::{ClientError, Id};

impl Hub {
    /// Sends the list of STUN and TURN servers, with a credential for the connection's user.
    ///
    /// # Errors
    ///
    /// The connection is anonymous.
    pub(super) fn send_ice_servers(
        &mut self,
        conn: ConnId,
        client_id: Option<&Id>,
        now: Now,
    ) -> Result<(), ClientError> {
        let user = self.require_user(conn)?;
        let list = self.settings.ice.list(&user.key, now.unix_s);
        let ttl = self.settings.ice.ttl_s();
        let frame = ServerFrame::IceServers { ice_servers: &list, ttl, client_id };
        self.output.reply(conn, &frame);
        Ok(())
    }
}

//! Who is told how to find the way to another browser: `ice_servers`.

use super::Hub;
use super::interface::{ConnId, Now};
use crate::protocol::server::ServerFrame;
use crate::protocol::{ClientError, Id};

impl Hub {
    /// Tells a connection the STUN and TURN servers, with a credential for its user.
    ///
    /// # Errors
    ///
    /// It is not known whose connection this is.
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
        let frame = self.encoder.encode(&frame);
        self.effects.push_back(super::Effect::Send { to: conn, frame });
        Ok(())
    }
}

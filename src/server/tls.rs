//! TLS of the server: certificate reload and expiry warning, handshake budget, TLS errors.

use super::Server;
use crate::config::Config;
use crate::config::tls::TlsIdentity;
use crate::hub::interface::Now;

impl Server {
    /// Whether the server uses TLS, which then applies to all its addresses.
    pub fn has_tls(&self) -> bool {
        self.identity.is_some()
    }

    /// Reloads the certificate and its key. New connections use them; open connections are not
    /// affected. Does nothing if TLS is off before and after.
    ///
    /// # Errors
    ///
    /// A sentence that names what is wrong, or that TLS cannot be turned on or off while the server
    /// runs. The old certificate is kept.
    pub fn reload_tls(&mut self, config: &Config) -> Result<(), String> {
        self.identity = self.next_identity(config.tls()?)?;
        Ok(())
    }

    /// Checks the certificate of a reload: TLS cannot be turned on or off.
    pub(super) fn next_identity(
        &self,
        next: Option<TlsIdentity>,
    ) -> Result<Option<TlsIdentity>, String> {
        match (&self.identity, next) {
            (None, None) => Ok(None),
            (Some(_), Some(identity)) => Ok(Some(identity)),
            (None, Some(_)) => Err("--tls-cert is set and was not when the server started: \
                                    restart the server to turn TLS on"
                .to_owned()),
            (Some(_), None) => Err("--tls-cert is not set and was when the server started: \
                                    restart the server to turn TLS off"
                .to_owned()),
        }
    }

    /// Warns of a certificate that is not valid or expires soon. The server starts all the same: a
    /// proxy may not verify it.
    pub(super) fn warn_of_certificate(&self, now: Now) {
        let validity = self.identity.as_ref().and_then(TlsIdentity::validity);
        if let Some(warning) = validity.and_then(|validity| validity.warning(now.unix_s)) {
            log::warn!("{warning}");
        }
    }

    /// Whether a connection's TLS handshake must wait for the next tick, because this tick's budget
    /// for handshakes is exhausted. Established connections are not delayed by it.
    pub(super) fn is_handshake_deferred(&mut self, slot: u32) -> bool {
        if self.identity.is_none() {
            return false;
        }
        let in_handshake =
            self.connections.get(slot).is_some_and(|connection| connection.in_tls_handshake());
        in_handshake && self.tls_budget.is_exhausted_now()
    }

    /// Counts and logs the TLS error that ended a connection, if there was one.
    pub(super) fn note_tls_fault(&mut self, slot: u32) {
        let Some(connection) = self.connections.get(slot) else { return };
        if let Some(fault) = connection.tls_fault() {
            self.counts.tls_faults += 1;
            // At debug level only: any scanner can cause such errors.
            log::debug!("connection {}: TLS: {fault}", connection.id.serial);
        }
    }
}

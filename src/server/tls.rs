//! The server's certificate, and who is being agreed with on TLS.

use super::Server;
use crate::config::Config;
use crate::config::tls::TlsIdentity;
use crate::hub::interface::Now;

impl Server {
    /// Whether TLS is spoken on all addresses, and nothing else.
    pub fn has_tls(&self) -> bool {
        self.identity.is_some()
    }

    /// Reads the certificate and its key anew. Whoever connects from now on sees them; connections
    /// that are open go on. Without TLS on both sides there is nothing to do.
    ///
    /// # Errors
    ///
    /// A sentence that names what is wrong, or that TLS cannot begin or end while the server runs:
    /// the certificate stays as it was.
    pub fn reload_tls(&mut self, config: &Config) -> Result<(), String> {
        self.identity = self.next_identity(config.tls()?)?;
        Ok(())
    }

    /// What the server is to prove itself with after a reload.
    pub(super) fn next_identity(
        &self,
        next: Option<TlsIdentity>,
    ) -> Result<Option<TlsIdentity>, String> {
        match (&self.identity, next) {
            (None, None) => Ok(None),
            (Some(_), Some(identity)) => Ok(Some(identity)),
            (None, Some(_)) => Err("--tls-cert is set, and was not when the server started: it \
                                    begins to speak TLS only with a restart"
                .to_owned()),
            (Some(_), None) => Err("--tls-cert is not set any more, and was when the server \
                                    started: it ceases to speak TLS only with a restart"
                .to_owned()),
        }
    }

    /// Warns of a certificate that does not hold, or ends soon. It is no reason not to start: a
    /// proxy may not look at it.
    pub(super) fn warn_of_certificate(&self, now: Now) {
        let validity = self.identity.as_ref().and_then(TlsIdentity::validity);
        if let Some(warning) = validity.and_then(|validity| validity.warning(now.unix_s)) {
            log::warn!("{warning}");
        }
    }

    /// Whether a connection has to wait with its handshake: so much of a tick is for those, and
    /// whoever is through with it does not wait for them.
    pub(super) fn is_handshake_deferred(&mut self, slot: u32) -> bool {
        if self.identity.is_none() {
            return false;
        }
        let agrees =
            self.connections.get(slot).is_some_and(|connection| connection.in_tls_handshake());
        agrees && self.tls_budget.is_exhausted_now()
    }

    /// Notes why a connection is not listened to any more, if it is TLS that says so.
    pub(super) fn note_tls_fault(&mut self, slot: u32) {
        let Some(connection) = self.connections.get(slot) else { return };
        if let Some(fault) = connection.tls_fault() {
            self.counts.tls_faults += 1;
            // One line for each whom a scanner sends would be for the scanner to choose.
            log::debug!("connection {}: TLS: {fault}", connection.id.serial);
        }
    }
}

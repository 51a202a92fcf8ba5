//! PROXY protocol headers of trusted proxies (`--proxy-protocol on`).

use std::time::Duration;

use super::Server;
use crate::config::proxies::Peer;
use crate::connection::proxy_header::ProxyHeader;
use crate::http::response;
use crate::hub::interface::Now;

/// Log a warning of a bad header at most this often: a proxy without the option causes one for each
/// connection.
const WARN_EVERY: Duration = Duration::from_secs(60);

impl Server {
    /// Whether connections of this peer must begin with a header.
    pub(super) fn expects_proxy_header(&self, peer: Peer) -> bool {
        self.config.is_proxy_protocol_on() && self.admission.is_proxy(peer)
    }

    /// Reads the header of a connection. Returns whether there may be more to read: the request
    /// after the header, or input that is ignored because the connection is closing.
    pub(super) fn read_proxy_header(&mut self, slot: u32, now: Now) -> bool {
        let Some(connection) = self.connections.get(slot) else { return false };
        match connection.receive_proxy_header() {
            Some(ProxyHeader::Incomplete) => false,
            Some(ProxyHeader::Complete { client, .. }) => {
                // The request has its whole time.
                connection.since = self.active_now;
                client.is_none_or(|client| self.set_reported_client(slot, client.into()))
            }
            Some(ProxyHeader::Missing) => self.refuse_proxy_header(slot, "it has none", now),
            Some(ProxyHeader::Invalid(why)) => self.refuse_proxy_header(slot, why, now),
            None => {
                self.connections.mark_doomed(slot);
                false
            }
        }
    }

    /// Makes the client in a header the peer of the connection, and counts it against the limit of
    /// its address, before the TLS handshake.
    fn set_reported_client(&mut self, slot: u32, client: Peer) -> bool {
        let Some(connection) = self.connections.get(slot) else { return false };
        connection.client = client;
        if !self.admission.is_counted(client) {
            return true;
        }
        let admitted = self.admission.admit(client);
        connection.counts_for_address = admitted;
        if !admitted {
            self.counts.refused += 1;
            self.counts.refused_address += 1;
            return self.end_before_request(slot, response::too_many_from_address);
        }
        true
    }

    fn refuse_proxy_header(&mut self, slot: u32, why: &str, now: Now) -> bool {
        self.counts.bad_proxy_headers += 1;
        if let Some(connection) = self.connections.get(slot) {
            let peer = connection.client;
            let is_due = self
                .proxy_header_warned
                .is_none_or(|warned| now.instant.duration_since(warned) >= WARN_EVERY);
            let level = if is_due { log::Level::Warn } else { log::Level::Debug };
            if is_due {
                self.proxy_header_warned = Some(now.instant);
            }
            log::log!(
                level,
                "refused a connection of the trusted proxy {peer}: expected a PROXY protocol \
                 header, but {why}. Let the proxy send one (send-proxy in HAProxy, proxy_protocol \
                 in nginx), or set --proxy-protocol off (logged once a minute)"
            );
        }
        self.end_before_request(slot, response::proxy_header_expected)
    }

    /// Closes a connection before its request: with a response, unless TLS is to come first.
    /// Returns whether its input is still to be read, since closing a socket with unread input may
    /// destroy the response.
    fn end_before_request(&mut self, slot: u32, response: fn() -> String) -> bool {
        match self.has_tls() {
            true => self.connections.mark_doomed(slot),
            false => self.connections.refuse(slot, response(), self.active_now),
        }
        !self.has_tls()
    }
}

//! The address to listen on: a host name or an IP address, and a port.

use std::net::{SocketAddr, ToSocketAddrs};

const EXPECTED: &str =
    "expected HOST:PORT, for example 127.0.0.1:8080, [::]:8080 or localhost:8080";

/// An address to listen on, as written and as socket addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The text as the operator wrote it.
    pub name: String,
    /// The socket addresses; empty if the name has to be resolved first.
    pub addresses: Vec<SocketAddr>,
}

impl Listen {
    /// Parses `HOST:PORT` without a DNS lookup, which could block: a running server parses its
    /// settings again at a reload, and does not need the addresses then.
    ///
    /// # Errors
    ///
    /// The text is neither an IP address nor a name, followed by a port.
    pub fn parse(text: &str) -> Result<Listen, String> {
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let port: u16 = port.parse().map_err(|fault| format!("{EXPECTED} (port: {fault})"))?;
        let addresses: Vec<SocketAddr> = match host {
            // Always the loopback addresses (RFC 6761 section 6.3), even without an entry in
            // /etc/hosts.
            "localhost" => vec![([127, 0, 0, 1], port).into(), (LOOPBACK_V6, port).into()],
            "" => return Err(EXPECTED.to_owned()),
            _ => text.parse().into_iter().collect(),
        };
        if addresses.is_empty() && host.contains([':', '[', ']', '/', ' ']) {
            return Err(EXPECTED.to_owned());
        }
        Ok(Listen { name: text.to_owned(), addresses })
    }

    /// Returns the host without the port, as the operator wrote it.
    pub fn host(&self) -> &str {
        self.name.rsplit_once(':').map_or(&self.name, |(host, _)| host)
    }

    /// Returns the socket addresses to listen on. Blocks while it looks up a host name.
    ///
    /// # Errors
    ///
    /// The lookup fails, or the name has no address.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        let name = &self.name;
        let mut addresses = self.addresses.clone();
        if addresses.is_empty() {
            let found = name.to_socket_addrs().map_err(|fault| format!("{name}: {fault}"))?;
            addresses.extend(found);
        }
        if addresses.is_empty() {
            return Err(format!("{name}: the name has no address"));
        }
        // A resolver may return an address twice.
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }
}

const LOOPBACK_V6: [u16; 8] = [0, 0, 0, 0, 0, 0, 0, 1];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_resolve_without_lookup() {
        for (text, addresses) in [
            ("127.0.0.1:80", &["127.0.0.1:80"][..]),
            ("[::]:80", &["[::]:80"]),
            ("localhost:0", &["127.0.0.1:0", "[::1]:0"]),
            // Reserved: never resolves (RFC 6761 section 6.4).
            ("nobody.invalid:80", &[]),
        ] {
            let listen = Listen::parse(text).unwrap();
            let expected: Vec<SocketAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            assert_eq!((&listen.addresses, &*listen.name), (&expected, text));
            if !expected.is_empty() {
                assert_eq!(listen.resolve().unwrap(), expected);
            }
        }
        let fault = Listen::parse("nobody.invalid:80").unwrap().resolve().unwrap_err();
        assert!(fault.contains("nobody.invalid"), "{fault}");
    }

    #[test]
    fn invalid_listen_address_is_refused_with_expected_form() {
        for text in [
            "",
            "8080",
            ":8080",
            "a:",
            "a:x",
            "a:65536",
            "::1:80",
            "[::1:80",
            "a b:80",
            "http://a:80",
        ] {
            assert!(Listen::parse(text).unwrap_err().contains("HOST:PORT"), "{text}");
        }
    }
}

//! Where to listen: a name or an address, and a port.

use std::net::{SocketAddr, ToSocketAddrs};

const EXPECTED: &str =
    "expected HOST:PORT, for example 127.0.0.1:8080, [::]:8080 or localhost:8080";

/// Where to listen: what was written, and the addresses that it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// As written.
    pub name: String,
    /// One or more; none where the name is still to be looked up.
    pub addresses: Vec<SocketAddr>,
}

impl Listen {
    /// Reads what can be read without looking anything up, which could take long: settings are read
    /// by a server that runs as well, which has no use for another address.
    ///
    /// # Errors
    ///
    /// It is neither an address with a port nor a name with one.
    pub fn parse(text: &str) -> Result<Listen, String> {
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let port: u16 = port.parse().map_err(|fault| format!("{EXPECTED} (port: {fault})"))?;
        let addresses: Vec<SocketAddr> = match host {
            // The one name that means the same everywhere (RFC 6761 section 6.3), with or without
            // an entry in /etc/hosts.
            "localhost" => vec![([127, 0, 0, 1], port).into(), (LOOPBACK_V6, port).into()],
            "" => return Err(EXPECTED.to_owned()),
            _ => text.parse().into_iter().collect(),
        };
        if addresses.is_empty() && host.contains([':', '[', ']', '/', ' ']) {
            return Err(EXPECTED.to_owned());
        }
        Ok(Listen { name: text.to_owned(), addresses })
    }

    /// The name or address without the port, as it was written.
    pub fn host(&self) -> &str {
        self.name.rsplit_once(':').map_or(&self.name, |(host, _)| host)
    }

    /// The addresses to listen on. A name is looked up, for as long as that takes.
    ///
    /// # Errors
    ///
    /// The name has none.
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
        // A resolver may name an address twice.
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
            // Reserved: nobody has it (RFC 6761 section 6.4).
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

//! The addresses to listen on: a host name or an IP address with a port, or a Unix socket.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

const EXPECTED: &str = "expected HOST:PORT, for example 127.0.0.1:8080, [::]:8080 or \
                        localhost:8080, or a Unix socket such as unix:/run/buddyline/live.sock";

/// Longest path of a Unix socket. The kernel allows 107 bytes (unix(7)), and the socket is created
/// under a longer name first.
const UNIX_PATH_BYTES_MAX: usize = 90;

/// An address to listen on, as written and as socket addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The text as the operator wrote it.
    pub name: String,
    /// The socket addresses; empty for a Unix socket, or if the name has to be resolved first.
    pub addresses: Vec<SocketAddr>,
    /// The path of a Unix socket.
    unix_path: Option<PathBuf>,
}

impl Listen {
    /// Parses `HOST:PORT` or `unix:PATH` without a DNS lookup, which could block: a running server
    /// parses its settings again at a reload, and does not need the addresses then.
    ///
    /// # Errors
    ///
    /// The text is neither an IP address nor a name, followed by a port, nor a path.
    pub fn parse(text: &str) -> Result<Listen, String> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(EXPECTED.to_owned()),
                _ if path.starts_with('@') => Err("expected a path: an abstract Unix socket has \
                                                   no mode that says who may connect"
                    .to_owned()),
                _ if path.len() > UNIX_PATH_BYTES_MAX => {
                    Err(format!("expected a path of at most {UNIX_PATH_BYTES_MAX} bytes"))
                }
                _ => Ok(Listen {
                    name: text.to_owned(),
                    addresses: Vec::new(),
                    unix_path: Some(path.into()),
                }),
            };
        }
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
        Ok(Listen { name: text.to_owned(), addresses, unix_path: None })
    }

    /// Returns the host without the port, as the operator wrote it.
    pub fn host(&self) -> &str {
        self.name.rsplit_once(':').map_or(&self.name, |(host, _)| host)
    }

    /// Returns the path, if this is a Unix socket.
    pub fn unix_path(&self) -> Option<&Path> {
        self.unix_path.as_deref()
    }

    /// Returns the socket addresses to listen on; none for a Unix socket. Blocks while it looks up
    /// a host name.
    ///
    /// # Errors
    ///
    /// The lookup fails, or the name has no address.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        if self.unix_path.is_some() {
            return Ok(Vec::new());
        }
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
            "unix:",
            "unix",
        ] {
            assert!(Listen::parse(text).unwrap_err().contains("HOST:PORT"), "{text}");
        }
    }

    #[test]
    fn unix_socket_has_a_path_and_no_address() {
        for path in ["/run/buddyline/live.sock", "live.sock", "./a b:80"] {
            let listen = Listen::parse(&format!("unix:{path}")).unwrap();
            assert_eq!(listen.unix_path(), Some(Path::new(path)));
            assert_eq!(listen.resolve(), Ok(Vec::new()));
        }
        assert!(Listen::parse("unix:@buddyline").unwrap_err().contains("abstract"));
        let long = format!("unix:/{}", "x".repeat(90));
        assert!(Listen::parse(&long).unwrap_err().contains("90 bytes"));
    }
}

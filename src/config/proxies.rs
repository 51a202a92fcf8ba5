//! Trusted proxies: finds the client's address in `X-Forwarded-For`, and how many proxies wrote it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A host with this address.
    Address(IpAddr),
    /// A process of this machine, which may be any user's: it has opened a Unix socket.
    Unix,
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Peer {
        Peer::Address(address)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Address(address) => address.fmt(f),
            Peer::Unix => f.write_str("a Unix socket"),
        }
    }
}

/// The proxies in front of the server whose `X-Forwarded-For` and `X-Forwarded-Host` are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Trusts the proxies in these networks.
    pub fn new(networks: &[IpNet]) -> TrustedProxies {
        TrustedProxies(networks.to_vec())
    }

    /// Whether this is a trusted proxy. A peer on a Unix socket is one: it has no address, and the
    /// mode of the socket decides who may connect.
    pub fn is_trusted(&self, peer: impl Into<Peer>) -> bool {
        match peer.into() {
            Peer::Address(address) => self.0.iter().any(|network| network.contains(&address)),
            Peer::Unix => true,
        }
    }

    /// Returns the client: the peer of the socket or, if that is a trusted proxy,
    /// the address found in the entries of `X-Forwarded-For`, given from right to left.
    ///
    /// Each proxy appends the address of its peer at the right; everything left of it came from
    /// that peer and may be forged by a client. So the search goes from right to left, and ends at
    /// the first address that is not a trusted proxy, or before the first entry that is not an
    /// address.
    ///
    /// Also returns how many trusted proxies the request has passed: 0 if the peer is none.
    pub fn client_and_hops<'a>(
        &self,
        peer: impl Into<Peer>,
        from_right: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Peer, usize) {
        let mut client = peer.into();
        let mut hops = 0;
        let mut from_right = from_right.into_iter();
        while self.is_trusted(client) {
            hops += 1;
            match from_right.next().and_then(address) {
                Some(address) => client = Peer::Address(address),
                None => break,
            }
        }
        (client, hops)
    }
}

/// Parses the setting: an IP address, or a network such as `10.0.0.0/8`.
///
/// # Errors
///
/// A message that says what is expected.
pub fn parse(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    match network {
        // Peers with an IPv4-mapped address are compared by their IPv4 address, so this would never
        // match.
        Ok(IpNet::V6(net)) if net.addr().to_ipv4_mapped().is_some() => {
            Err("expected an IPv4 address as 10.0.0.0/8, not as ::ffff:10.0.0.0/104".to_owned())
        }
        Ok(network) => Ok(network.trunc()),
        Err(_) => Err("expected an IP address or a network, such as 127.0.0.1, 10.0.0.0/8 or \
                       2001:db8::/32"
            .to_owned()),
    }
}

/// Parses an entry of `X-Forwarded-For`: an IP address, with or without a port.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = match bare.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => text.parse::<SocketAddr>().ok()?.ip(),
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(networks: &[&str]) -> TrustedProxies {
        let networks: Vec<IpNet> = networks.iter().map(|text| parse(text).unwrap()).collect();
        TrustedProxies::new(&networks)
    }

    fn client(trusted: &TrustedProxies, peer: &str, header: &[u8]) -> String {
        let peer: IpAddr = peer.parse().unwrap();
        trusted.client_and_hops(peer.to_canonical(), header.rsplit(|b| *b == b',')).0.to_string()
    }

    #[test]
    fn client_is_the_last_untrusted_address_in_forwarded_for() {
        let trusted = proxies(&["127.0.0.1", "10.0.0.0/8", "2001:db8:1::/48", "::1"]);
        for (peer, header, expected) in [
            // The peer is not a trusted proxy: the header is ignored.
            ("203.0.113.9", "", "203.0.113.9"),
            ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
            ("203.0.113.9", "198.51.100.1, 10.0.0.1", "203.0.113.9"),
            ("2001:db8:2::1", "198.51.100.1", "2001:db8:2::1"),
            // One proxy, two, and a chain of them.
            ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
            ("127.0.0.1", "203.0.113.9, 10.1.2.3", "203.0.113.9"),
            ("::1", "203.0.113.9,10.1.2.3 ,\t2001:db8:1::7", "203.0.113.9"),
            ("::ffff:127.0.0.1", "203.0.113.9", "203.0.113.9"),
            ("127.0.0.1", "2001:db8::9", "2001:db8::9"),
            ("127.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
            // Entries that a client has put in front are ignored.
            ("127.0.0.1", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
            ("127.0.0.1", "10.0.0.1, 203.0.113.9", "203.0.113.9"),
            ("127.0.0.1", "127.0.0.1, 203.0.113.9, 10.0.0.1", "203.0.113.9"),
            ("127.0.0.1", "unknown, \"; DROP, 203.0.113.9", "203.0.113.9"),
            // All addresses are trusted proxies: the leftmost counts.
            ("127.0.0.1", "10.0.0.1, 10.0.0.2", "10.0.0.1"),
            ("127.0.0.1", "", "127.0.0.1"),
            // Ports and brackets.
            ("127.0.0.1", "203.0.113.9:567", "203.0.113.9"),
            ("127.0.0.1", "[2001:db8::9]:80", "2001:db8::9"),
            ("127.0.0.1", "[2001:db8::9]", "2001:db8::9"),
            ("127.0.0.1", "203.0.113.9, 10.0.0.1:4711", "203.0.113.9"),
            // An entry that is not an address ends the search.
            ("127.0.0.1", "unknown", "127.0.0.1"),
            ("127.0.0.1", "203.0.113.9, unknown", "127.0.0.1"),
            ("127.0.0.1", "203.0.113.9, , 10.0.0.1", "10.0.0.1"),
            ("127.0.0.1", "203.0.113.9, _hidden, 10.0.0.2, 10.0.0.1", "10.0.0.2"),
            ("127.0.0.1", "203.0.113.9:", "127.0.0.1"),
            ("127.0.0.1", "203.0.113.9:99999", "127.0.0.1"),
            ("127.0.0.1", "203.0.113.009", "127.0.0.1"),
            ("127.0.0.1", "2001:db8::9:80:x", "127.0.0.1"),
            ("127.0.0.1", "fe80::1%eth0", "127.0.0.1"),
        ] {
            let found = client(&trusted, peer, header.as_bytes());
            assert_eq!(found, expected, "{peer}: {header}");
        }
        // Bytes that are not UTF-8 end the search as well.
        assert_eq!(client(&trusted, "127.0.0.1", b"\xff\xfe, 203.0.113.9"), "203.0.113.9");
        assert_eq!(client(&trusted, "127.0.0.1", b"203.0.113.9, \xff"), "127.0.0.1");
    }

    #[test]
    fn hops_are_the_trusted_proxies_up_to_the_client() {
        let trusted = proxies(&["127.0.0.1", "10.0.0.0/8"]);
        for (peer, header, expected) in [
            ("203.0.113.9", "10.0.0.1", 0),
            ("127.0.0.1", "", 1),
            ("127.0.0.1", "203.0.113.9", 1),
            ("127.0.0.1", "10.0.0.2, 203.0.113.9", 1),
            ("127.0.0.1", "203.0.113.9, 10.0.0.1", 2),
            ("127.0.0.1", "203.0.113.9, 10.0.0.2, 10.0.0.1", 3),
            ("127.0.0.1", "unknown, 10.0.0.1", 2),
            ("127.0.0.1", "10.0.0.1, unknown", 1),
        ] {
            let entries = header.as_bytes().rsplit(|b| *b == b',');
            let (_, hops) = trusted.client_and_hops(peer.parse::<IpAddr>().unwrap(), entries);
            assert_eq!(hops, expected, "{peer}: {header}");
        }
    }

    #[test]
    fn unix_peer_is_trusted_without_a_setting() {
        let none = TrustedProxies::default();
        let client =
            |header: &[u8]| none.client_and_hops(Peer::Unix, header.rsplit(|b| *b == b',')).0;
        assert_eq!(client(b"198.51.100.1, 203.0.113.9").to_string(), "203.0.113.9");
        assert_eq!(client(b"203.0.113.9, unknown"), Peer::Unix);
        assert_eq!(client(b""), Peer::Unix);
        // Another proxy in front of it is trusted only by the setting.
        let trusted = proxies(&["10.0.0.0/8"]);
        let entries = [&b"10.0.0.1"[..], b"203.0.113.9"];
        let (client, hops) = trusted.client_and_hops(Peer::Unix, entries);
        assert_eq!((&*client.to_string(), hops), ("203.0.113.9", 2));
    }

    #[test]
    fn forwarded_headers_are_ignored_without_trusted_proxies() {
        let none = TrustedProxies::default();
        assert_eq!(client(&none, "127.0.0.1", b"203.0.113.9"), "127.0.0.1");
        assert_eq!(client(&none, "::ffff:192.0.2.1", b"203.0.113.9"), "192.0.2.1");
    }

    #[test]
    fn a_proxy_is_an_address_or_a_network() {
        for (text, network) in [
            ("127.0.0.1", "127.0.0.1/32"),
            (" ::1 ", "::1/128"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            assert_eq!(parse(text).map(|net| net.to_string()), Ok(network.to_owned()), "{text}");
        }
        let mapped = ["::ffff:10.0.0.0/104", "::ffff:127.0.0.1"];
        let others = ["", "localhost", "10.0.0.0/33", "10.0.0/8", "10.0.0.1:80", "[::1]", "::/129"];
        for text in mapped.iter().chain(&others) {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

//! The header of the PROXY protocol, with which a proxy that passes on TCP tells the address of its
//! client (version 1, a line of text, and version 2, binary: sections 2.1 and 2.2 of HAProxy's
//! specification).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest line of version 1, with its end (section 2.1).
const LINE_BYTES_MAX: usize = 107;
/// Longest header of version 2. Its addresses take at most 232 bytes; the rest is additional data,
/// such as the name of a certificate.
pub(super) const HEADER_BYTES_MAX: usize = 4_096;

const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, and length.
const FIXED_BYTES: usize = 16;

/// The result of parsing the first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The header is not complete.
    Incomplete,
    /// The header is complete.
    Complete {
        /// Its length; what follows is TLS or HTTP.
        bytes: usize,
        /// The client's address. `None` if the proxy itself is the client, as in a health check, or
        /// if the client has no IP address.
        client: Option<IpAddr>,
    },
    /// There is no header: the bytes begin with something else.
    Missing,
    /// The header is not valid; the reason.
    Invalid(&'static str),
}

impl ProxyHeader {
    /// Parses the first bytes of a connection.
    pub fn parse(bytes: &[u8]) -> ProxyHeader {
        let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, expected)| byte == expected);
        if begins(LINE_START) {
            parse_line(bytes)
        } else if begins(SIGNATURE) {
            parse_binary(bytes)
        } else {
            ProxyHeader::Missing
        }
    }
}

fn parse_line(bytes: &[u8]) -> ProxyHeader {
    let start = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = start.windows(2).position(|two| two == b"\r\n") else {
        return match bytes.len() < LINE_BYTES_MAX {
            true => ProxyHeader::Incomplete,
            false => ProxyHeader::Invalid("its line is longer than 107 bytes"),
        };
    };
    let words = bytes.get(LINE_START.len()..end).and_then(|line| std::str::from_utf8(line).ok());
    let Some(words) = words else { return ProxyHeader::Invalid("its line is not text") };
    let words: Vec<&str> = words.split(' ').collect();
    let client = match words[..] {
        // The addresses, if any, are to be ignored.
        ["UNKNOWN", ..] => None,
        ["TCP4", from, to, from_port, to_port] => {
            match (from.parse::<Ipv4Addr>(), to.parse::<Ipv4Addr>()) {
                (Ok(from), Ok(_)) if is_port(from_port) && is_port(to_port) => Some(from.into()),
                _ => return ProxyHeader::Invalid("its IPv4 addresses or ports are not valid"),
            }
        }
        ["TCP6", from, to, from_port, to_port] => {
            match (from.parse::<Ipv6Addr>(), to.parse::<Ipv6Addr>()) {
                (Ok(from), Ok(_)) if is_port(from_port) && is_port(to_port) => {
                    Some(IpAddr::V6(from).to_canonical())
                }
                _ => return ProxyHeader::Invalid("its IPv6 addresses or ports are not valid"),
            }
        }
        _ => return ProxyHeader::Invalid("expected TCP4, TCP6 or UNKNOWN, and single spaces"),
    };
    ProxyHeader::Complete { bytes: end + 2, client }
}

/// Whether this is a port in decimal, without a sign or leading zeros.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'))
        && text.parse::<u16>().is_ok()
}

fn parse_binary(bytes: &[u8]) -> ProxyHeader {
    let [version, family, high, low] = match bytes.get(SIGNATURE.len()..FIXED_BYTES) {
        Some(&[version, family, high, low]) => [version, family, high, low],
        _ => return ProxyHeader::Incomplete,
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if version >> 4 != 2 {
        return ProxyHeader::Invalid("its version is neither 1 nor 2");
    }
    if FIXED_BYTES + length > HEADER_BYTES_MAX {
        return ProxyHeader::Invalid("it is longer than 4096 bytes");
    }
    // A stream of each family, and the length of its addresses.
    let addresses = match family {
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => return ProxyHeader::Invalid("its protocol is not TCP, nor a Unix stream"),
    };
    let is_local = match version & 0xf {
        0 => true,
        1 => false,
        _ => return ProxyHeader::Invalid("its command is neither LOCAL nor PROXY"),
    };
    if !is_local && length < addresses {
        return ProxyHeader::Invalid("it is too short for its addresses");
    }
    let Some(rest) = bytes.get(FIXED_BYTES..FIXED_BYTES + length) else {
        return ProxyHeader::Incomplete;
    };
    let client = match (is_local, family) {
        (false, 0x11) => rest.first_chunk().map(|ip: &[u8; 4]| Ipv4Addr::from(*ip).into()),
        (false, 0x21) => {
            let ip: Option<&[u8; 16]> = rest.first_chunk();
            ip.map(|ip| IpAddr::V6(Ipv6Addr::from(*ip)).to_canonical())
        }
        _ => None,
    };
    ProxyHeader::Complete { bytes: FIXED_BYTES + length, client }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2.
    fn binary(version: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[version, family], &length, rest].concat()
    }

    /// Parses these bytes, and each shorter part of them, which must be incomplete.
    fn parse(header: &[u8]) -> ProxyHeader {
        for end in 0..header.len() {
            assert_eq!(ProxyHeader::parse(&header[..end]), ProxyHeader::Incomplete, "{end}");
        }
        let result = ProxyHeader::parse(header);
        // Further bytes do not matter.
        assert_eq!(ProxyHeader::parse(&[header, b"GET / HTTP/1.1\r\n\r\n"].concat()), result);
        result
    }

    /// The client in a valid header, as text.
    fn client(header: &[u8]) -> String {
        match parse(header) {
            ProxyHeader::Complete { bytes, client } => {
                assert_eq!(bytes, header.len());
                client.map_or("none".to_owned(), |client| client.to_string())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn client_is_read_from_a_line() {
        let longest = "PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"
            .replace("ffff:f...f:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        let unknown = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        assert_eq!(unknown.len(), LINE_BYTES_MAX);
        for (line, expected) in [
            ("PROXY TCP4 203.0.113.7 127.0.0.1 1234 80\r\n", "203.0.113.7"),
            ("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", "0.0.0.0"),
            ("PROXY TCP6 2001:db8::7 ::1 1234 80\r\n", "2001:db8::7"),
            ("PROXY TCP6 ::ffff:203.0.113.7 ::1 1234 80\r\n", "203.0.113.7"),
            (&longest, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("PROXY UNKNOWN\r\n", "none"),
            ("PROXY UNKNOWN 203.0.113.7 127.0.0.1 1234 80\r\n", "none"),
            (&unknown, "none"),
        ] {
            assert_eq!(client(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn invalid_line_is_refused_with_a_reason() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 203.0.113.7 127.0.0.1 1234\r\n",
            "PROXY TCP4 203.0.113.7 127.0.0.1 1234 80 \r\n",
            "PROXY TCP4  203.0.113.7 127.0.0.1 1234 80\r\n",
            "PROXY TCP4 203.0.113.007 127.0.0.1 1234 80\r\n",
            "PROXY TCP4 2001:db8::7 ::1 1234 80\r\n",
            "PROXY TCP6 203.0.113.7 127.0.0.1 1234 80\r\n",
            "PROXY TCP4 203.0.113.7 127.0.0.1 65536 80\r\n",
            "PROXY TCP4 203.0.113.7 127.0.0.1 01 80\r\n",
            "PROXY TCP4 203.0.113.7 127.0.0.1 +1 80\r\n",
            "PROXY TCP4 203.0.113.7 127.0.0.1  80\r\n",
            "PROXY tcp4 203.0.113.7 127.0.0.1 1234 80\r\n",
            "PROXY UDP4 203.0.113.7 127.0.0.1 1234 80\r\n",
            "PROXY TCP4 203.0.113.7 127.0.0.1 1234 80\n\r\n",
        ] {
            assert!(matches!(parse(line.as_bytes()), ProxyHeader::Invalid(_)), "{line}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        let ProxyHeader::Invalid(why) = ProxyHeader::parse(long.as_bytes()) else { panic!() };
        assert!(why.contains("107"));
        let bytes = ProxyHeader::parse(b"PROXY TCP4 \xff\r\n");
        assert!(matches!(bytes, ProxyHeader::Invalid(_)));
    }

    #[test]
    fn client_is_read_from_a_binary_header() {
        let ports = [0x04, 0xd2, 0, 80];
        let v4 = [&[203, 0, 113, 7, 127, 0, 0, 1][..], &ports].concat();
        let ip: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let v6 = [&ip.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &ports].concat();
        let mapped: Ipv6Addr = "::ffff:203.0.113.7".parse().unwrap();
        let mapped = [&mapped.octets()[..], &[0; 16], &ports].concat();
        // PP2_TYPE_AUTHORITY with a name, and PP2_TYPE_NOOP.
        let tlvs = [&[2, 0, 9][..], b"a.example", &[4, 0, 1, 0]].concat();
        for (header, expected) in [
            (binary(0x21, 0x11, &v4), "203.0.113.7"),
            (binary(0x21, 0x11, &[&v4[..], &tlvs].concat()), "203.0.113.7"),
            (binary(0x21, 0x11, &[&v4[..], &[0; 4_068]].concat()), "203.0.113.7"),
            (binary(0x21, 0x21, &v6), "2001:db8::7"),
            (binary(0x21, 0x21, &[&v6[..], &tlvs].concat()), "2001:db8::7"),
            (binary(0x21, 0x21, &mapped), "203.0.113.7"),
            (binary(0x21, 0x31, &[b'/'; 216]), "none"),
            (binary(0x21, 0x00, b""), "none"),
            (binary(0x21, 0x00, &tlvs), "none"),
            // LOCAL: what follows is skipped, whatever it is.
            (binary(0x20, 0x00, b""), "none"),
            (binary(0x20, 0x11, &v4), "none"),
            (binary(0x20, 0x11, b"x"), "none"),
        ] {
            assert_eq!(client(&header), expected, "{header:?}");
        }
    }

    #[test]
    fn invalid_binary_header_is_refused_with_a_reason() {
        for (version, family, length, word) in [
            (0x11, 0x11, 12, "version"),
            (0x31, 0x11, 12, "version"),
            (0x22, 0x11, 12, "command"),
            (0x21, 0x12, 12, "TCP"),
            (0x21, 0x22, 36, "TCP"),
            (0x21, 0x41, 36, "TCP"),
            (0x21, 0x11, 11, "short"),
            (0x21, 0x21, 35, "short"),
            (0x21, 0x31, 215, "short"),
            (0x21, 0x11, 4_081, "4096"),
            (0x20, 0x00, 65_535, "4096"),
        ] {
            let header = binary(version, family, &vec![0; length]);
            let ProxyHeader::Invalid(why) = ProxyHeader::parse(&header) else { panic!("{word}") };
            assert!(why.contains(word), "{why}");
            // Found out without waiting for the rest.
            assert_eq!(ProxyHeader::parse(&header[..FIXED_BYTES]), ProxyHeader::Invalid(why));
        }
    }

    #[test]
    fn other_first_bytes_are_no_header() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\x16\x03\x01\x02\x00",
            b"PRI * HTTP/2.0\r\n",
            b"PROXY\tTCP4",
            b"proxy TCP4",
            b"\r\nPROXY",
            b"\r\n\r\n\0\r\nQUIT ",
        ] {
            assert_eq!(ProxyHeader::parse(bytes), ProxyHeader::Missing, "{bytes:?}");
        }
    }
}

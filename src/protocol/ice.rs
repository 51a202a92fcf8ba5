//! STUN and TURN servers for WebRTC, with a temporary TURN credential for each user.
//!
//! The credential follows the "TURN REST API" convention (draft-uberti-behave-turn-rest-00): the
//! name is the expiry time in seconds since 1970 and the user; the password is the HMAC-SHA1 of the
//! name under a secret shared with the TURN servers. So no request is needed and nothing is stored.

use std::fmt::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde::Serialize;

use super::IdKey;

/// The STUN and TURN servers that clients are told; none by default.
#[derive(Clone, Debug, Default)]
pub struct IceServers {
    /// URLs of STUN servers, such as `stun:turn.example.org:3478` (RFC 7064).
    pub stun_urls: Vec<Box<str>>,
    /// TURN servers, if any are configured.
    pub turn: Option<TurnServers>,
}

/// TURN servers that share a secret with this server.
#[derive(Clone, Debug)]
pub struct TurnServers {
    urls: Vec<Box<str>>,
    /// Its debug output is only the name of the algorithm.
    key: hmac::Key,
    ttl_s: u64,
}

/// One entry of `iceServers` (W3C WebRTC, `RTCIceServer`).
#[derive(Serialize)]
pub struct IceServer<'a> {
    /// URLs of one server, or of several that accept the same credential.
    pub urls: &'a [Box<str>],
    /// The name of the credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl fmt::Debug for IceServer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IceServer({:?}, {:?}, …)", self.urls, self.username)
    }
}

impl TurnServers {
    /// TURN servers at these URLs (RFC 7065) with their shared secret. Each credential is valid for
    /// `ttl_s` seconds.
    pub fn new(urls: Vec<Box<str>>, secret: &[u8], ttl_s: u64) -> TurnServers {
        // The convention has no other algorithm; SHA-1 is not broken as a MAC (RFC 6194).
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
        TurnServers { urls, key, ttl_s }
    }

    fn server(&self, user: &IdKey, now_unix_s: u64) -> IceServer<'_> {
        let username = username(now_unix_s.saturating_add(self.ttl_s), user);
        let credential = STANDARD.encode(hmac::sign(&self.key, username.as_bytes()));
        IceServer { urls: &self.urls, username: Some(username), credential: Some(credential) }
    }
}

impl IceServers {
    /// The list for a user, with a credential issued now.
    pub fn list(&self, user: &IdKey, now_unix_s: u64) -> Vec<IceServer<'_>> {
        let stun = (!self.stun_urls.is_empty()).then_some(IceServer {
            urls: &self.stun_urls,
            username: None,
            credential: None,
        });
        let turn = self.turn.as_ref().map(|turn| turn.server(user, now_unix_s));
        stun.into_iter().chain(turn).collect()
    }

    /// For how many seconds the credential in a list is valid; `None` without TURN servers.
    pub fn ttl_s(&self) -> Option<u64> {
        self.turn.as_ref().map(|turn| turn.ttl_s)
    }
}

/// The name of a credential. Some TURN software compares it byte by byte, some normalizes it first
/// (RFC 8489 section 14.3), so characters that normalization could change are percent-encoded. Even
/// the longest name is far below the 508 bytes that are allowed.
fn username(ends_unix_s: u64, user: &IdKey) -> String {
    let mut name = format!("{ends_unix_s}:");
    match user {
        IdKey::Number(number) => name.push_str(itoa::Buffer::new().format(*number)),
        IdKey::Text(text) => {
            for byte in text.bytes() {
                match byte {
                    b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' => {
                        name.push(char::from(byte));
                    }
                    // Writing to a String cannot fail.
                    _ => drop(write!(name, "%{byte:02X}")),
                }
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::super::{ID_BYTES_MAX, Id};
    use super::*;

    fn turn(secret: &str, ttl_s: u64) -> IceServers {
        let urls = vec!["turn:a".into(), "turn:a?transport=tcp".into()];
        IceServers {
            stun_urls: Vec::new(),
            turn: Some(TurnServers::new(urls, secret.as_bytes(), ttl_s)),
        }
    }

    fn name_and_password(servers: &IceServers, user: &IdKey, now: u64) -> (String, String) {
        let [server] = &servers.list(user, now)[..] else { panic!("one server") };
        (server.username.clone().unwrap(), server.credential.clone().unwrap())
    }

    #[test]
    fn turn_credential_matches_openssl() {
        // printf '1800086400:7' | openssl dgst -sha1 -hmac 'a secret of the tests' -binary | base64
        let servers = turn("a secret of the tests", 86_400);
        let (name, password) = name_and_password(&servers, &IdKey::Number(7), 1_800_000_000);
        assert_eq!(name, "1800086400:7");
        assert_eq!(password, "3M54Kp90auImAkIUm1m5HiXCxhY=");
    }

    #[test]
    fn password_depends_on_user_time_and_secret() {
        let servers = turn("one", 60);
        let of = |servers, user, now| name_and_password(servers, &IdKey::Number(user), now).1;
        let first = of(&servers, 7, 1_000);
        assert_eq!(first, of(&servers, 7, 1_000));
        for other in
            [of(&servers, 8, 1_000), of(&servers, 7, 1_001), of(&turn("two", 60), 7, 1_000)]
        {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn turn_username_has_no_ambiguous_characters() {
        let name = |text| username(1, &Id::string(text).key);
        assert_eq!(name("7"), "1:7");
        assert_eq!(name("alice.b-c_D"), "1:alice.b-c_D");
        assert_eq!(name("a:b%41 ü\u{0}"), "1:a%3Ab%2541%20%C3%BC%00");
        assert_eq!(username(1, &IdKey::Text("-7".into())), "1:-7");
        assert_eq!(username(u64::MAX, &IdKey::Number(u64::MAX)).len(), 41);
        // RFC 8489 section 14.3.
        assert!(name(&"\u{1}".repeat(ID_BYTES_MAX)).len() < 508);
    }

    #[test]
    fn unset_servers_are_omitted() {
        let user = IdKey::Number(7);
        let json = |servers: &IceServers| serde_json::to_value(servers.list(&user, 0)).unwrap();
        assert_eq!(json(&IceServers::default()), serde_json::json!([]));
        let stun = IceServers { stun_urls: vec!["stun:a".into()], turn: None };
        assert_eq!(json(&stun), serde_json::json!([{ "urls": ["stun:a"] }]));
        assert_eq!((stun.ttl_s(), turn("s", 60).ttl_s()), (None, Some(60)));
        let both = IceServers { turn: turn("s", 60).turn, ..stun };
        assert_eq!(json(&both).as_array().unwrap().len(), 2);
        assert_eq!(json(&both)[1]["urls"], serde_json::json!(["turn:a", "turn:a?transport=tcp"]));
    }

    #[test]
    fn debug_output_omits_secret_and_password() {
        let servers = turn("s3cret", 60);
        let (_, password) = name_and_password(&servers, &IdKey::Number(7), 0);
        let printed = format!("{servers:?} {:?}", servers.list(&IdKey::Number(7), 0));
        assert!(!printed.contains("s3cret") && !printed.contains(&password), "{printed}");
    }
}

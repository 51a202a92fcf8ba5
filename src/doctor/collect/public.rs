//! The clients' way: asks for a WebSocket as an app does, and sends one ping.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use tungstenite::Message;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocket};

use super::TimeBudget;
use super::net::{self, Stream};
use crate::config::public_url::PublicUrl;
use crate::doctor::observations::{PublicObservation, Upgrade};
use crate::upstream::buddyboss::redact_location;

/// The largest head, and the largest beginning of a body, that is read.
const HEAD_BYTES_MAX: usize = 16 << 10;
const BODY_BYTES_MAX: usize = 2 << 10;
/// For the answer to a ping.
const PONG_TIMEOUT: Duration = Duration::from_secs(3);

/// Goes the way of an app that is no web page: without an origin, and without a token.
pub fn collect(url: &PublicUrl, time: TimeBudget) -> PublicObservation {
    let (reachability, stream) = net::open_stream(&url.host, url.port, url.secure, time);
    let upgrade = stream.and_then(|stream| Some(ask(url, stream, time.remaining()?)));
    PublicObservation { reachability, upgrade }
}

fn ask(url: &PublicUrl, mut stream: Stream, within: Duration) -> Upgrade {
    let until = Instant::now() + within;
    let key = generate_key();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: buddyline-doctor/{}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n",
        url.path,
        url.authority,
        env!("CARGO_PKG_VERSION"),
    );
    stream.set_deadline(until);
    let sent = stream.write_all(request.as_bytes());
    if let Err(fault) = sent.and_then(|()| stream.flush()) {
        return Upgrade::NoReply(net::describe_error(&fault));
    }
    let mut bytes = Vec::new();
    let head = match read_head(&mut stream, &mut bytes) {
        Ok(head) => head,
        Err(why) => return Upgrade::NoReply(why),
    };
    if head.status != 101 {
        // What has come of it; its end may be long in coming.
        read_some(&mut stream, &mut bytes, head.length, until);
        let body = bytes.get(head.length..).unwrap_or_default();
        let body = &body[..body.len().min(BODY_BYTES_MAX)];
        return Upgrade::Answered {
            status: head.status,
            location: head.location.as_deref().map(redact_location),
            body: String::from_utf8_lossy(body).into_owned(),
        };
    }
    let good = head.upgrades && head.accept == Some(derive_accept_key(key.as_bytes()));
    let rest = bytes.split_off(head.length);
    let pong = good.then(|| ping(stream, rest, until)).flatten();
    Upgrade::Opened { good, pong }
}

/// What is read of a head.
struct Head {
    status: u16,
    length: usize,
    location: Option<String>,
    accept: Option<String>,
    /// Whether it says what it is an upgrade to.
    upgrades: bool,
}

fn read_head(stream: &mut Stream, bytes: &mut Vec<u8>) -> Result<Head, String> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => {
                let value = |name: &str| {
                    let mut all = response.headers.iter();
                    let line = all.find(|line| line.name.eq_ignore_ascii_case(name))?;
                    Some(std::str::from_utf8(line.value).ok()?.trim().to_owned())
                };
                let upgrades =
                    value("upgrade").is_some_and(|v| v.eq_ignore_ascii_case("websocket"));
                return Ok(Head {
                    status: response.code.unwrap_or_default(),
                    length,
                    location: value("location"),
                    accept: value("sec-websocket-accept"),
                    upgrades,
                });
            }
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => {}
            Ok(_) | Err(_) => return Err("the answer is not HTTP, or too long".to_owned()),
        }
        let mut piece = [0; 4 << 10];
        match stream.read(&mut piece) {
            Ok(0) => return Err("the connection is closed without an answer".to_owned()),
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
            Err(fault) => return Err(net::describe_error(&fault)),
        }
    }
}

/// Reads on until enough of the body is there, or nothing more comes.
fn read_some(stream: &mut Stream, bytes: &mut Vec<u8>, head: usize, until: Instant) {
    stream.set_deadline(until.min(Instant::now() + Duration::from_secs(1)));
    let mut piece = [0; 1 << 10];
    while bytes.len() < head + BODY_BYTES_MAX {
        match stream.read(&mut piece) {
            Ok(read) if read > 0 => bytes.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
}

/// How long it takes until a ping of the protocol is answered. It is a frame of text, so that it
/// passes all that messages pass.
fn ping(mut stream: Stream, rest: Vec<u8>, until: Instant) -> Option<Duration> {
    stream.set_deadline(until.min(Instant::now() + PONG_TIMEOUT));
    let mut socket = WebSocket::from_partially_read(stream, rest, Role::Client, None);
    let begun = Instant::now();
    socket.send(Message::text(r#"{"type":"ping","clientId":"doctor"}"#)).ok()?;
    let took = loop {
        match socket.read().ok()? {
            Message::Text(text) if text.contains("\"pong\"") => break begun.elapsed(),
            _ => {}
        }
    };
    // It is a courtesy: the connection ends in any case.
    let _ = socket.close(None);
    let _ = socket.flush();
    Some(took)
}

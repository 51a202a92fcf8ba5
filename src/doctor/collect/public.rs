//! Collects the observations of the public address: opens a WebSocket as an app does and pings, and
//! opens another one as React Native does.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use tungstenite::Message;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocket};

use super::TimeBudget;
use super::net::{self, Route, Stream};
use crate::config::Config;
use crate::config::public_url::PublicUrl;
use crate::doctor::observations::{AppOrigin, PublicObservation, Upgrade};
use crate::upstream::buddyboss::redact_location;

/// The largest reply header that is accepted.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How much of a body is read.
const BODY_BYTES_MAX: usize = 2 << 10;
/// The time limit of the answer to a ping.
const PONG_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects as an app that is not a web page, without a token: first without an origin, then with
/// the one that React Native makes of the address.
pub(super) fn collect(url: &PublicUrl, time: TimeBudget) -> PublicObservation {
    // Apps know neither the authorities nor the proxy that are set for the site.
    let trust = Config::system_trust();
    let route = Route { trust: &trust, proxy: None };
    let (reachability, stream) = net::open_stream(&url.host, url.port, url.secure, &route, time);
    let upgrade =
        stream.and_then(|stream| Some(request_upgrade(url, None, stream, time.remaining()?)));
    let is_buddyline = matches!(upgrade, Some(Upgrade::Opened { good: true, pong: Some(_) }));
    let app_origin = is_buddyline.then(|| try_app_origin(url, &route, time)).flatten();
    PublicObservation { reachability, upgrade, app_origin }
}

/// Opens a WebSocket with the `Origin` that React Native sends. `None` if no time is left.
fn try_app_origin(url: &PublicUrl, route: &Route<'_>, time: TimeBudget) -> Option<AppOrigin> {
    let scheme = if url.secure { "https" } else { "http" };
    let origin = format!("{scheme}://{}", url.authority);
    let (_, stream) = net::open_stream(&url.host, url.port, url.secure, route, time);
    let upgrade = request_upgrade(url, Some(&origin), stream?, time.remaining()?);
    Some(AppOrigin { origin, upgrade })
}

/// Requests a WebSocket, and pings if it opens and there is no origin.
fn request_upgrade(
    url: &PublicUrl,
    origin: Option<&str>,
    mut stream: Stream,
    timeout: Duration,
) -> Upgrade {
    let deadline = Instant::now() + timeout;
    let origin_line = origin.map(|origin| format!("Origin: {origin}\r\n")).unwrap_or_default();
    let key = generate_key();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: buddyline-doctor/{}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
         {origin_line}\r\n",
        url.path,
        url.authority,
        env!("CARGO_PKG_VERSION"),
    );
    stream.set_deadline(deadline);
    let sent = stream.write_all(request.as_bytes());
    if let Err(error) = sent.and_then(|()| stream.flush()) {
        return Upgrade::NoReply(net::describe_error(&error));
    }
    let mut bytes = Vec::new();
    let head = match read_head(&mut stream, &mut bytes) {
        Ok(head) => head,
        Err(reason) => return Upgrade::NoReply(reason),
    };
    if head.status != 101 {
        // Only the beginning of the body is needed; its end may take long.
        read_body_start(&mut stream, &mut bytes, head.length, deadline);
        let body = bytes.get(head.length..).unwrap_or_default();
        let body = &body[..body.len().min(BODY_BYTES_MAX)];
        return Upgrade::Answered {
            status: head.status,
            location: head.location.as_deref().map(redact_location),
            body: String::from_utf8_lossy(body).into_owned(),
        };
    }
    let good = head.upgrade_is_websocket && head.accept == Some(derive_accept_key(key.as_bytes()));
    let rest = bytes.split_off(head.length);
    let pong = (good && origin.is_none()).then(|| ping(stream, rest, deadline)).flatten();
    Upgrade::Opened { good, pong }
}

/// The parts of a reply's header that are used.
struct Head {
    status: u16,
    length: usize,
    location: Option<String>,
    accept: Option<String>,
    /// Whether the header `Upgrade` is `websocket`.
    upgrade_is_websocket: bool,
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
                let upgrade_is_websocket =
                    value("upgrade").is_some_and(|v| v.eq_ignore_ascii_case("websocket"));
                return Ok(Head {
                    status: response.code.unwrap_or_default(),
                    length,
                    location: value("location"),
                    accept: value("sec-websocket-accept"),
                    upgrade_is_websocket,
                });
            }
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => {}
            Ok(_) | Err(_) => {
                return Err("the reply is not HTTP, or its header is too long".to_owned());
            }
        }
        let mut chunk = [0; 4 << 10];
        match stream.read(&mut chunk) {
            Ok(0) => return Err("the connection is closed without an answer".to_owned()),
            Ok(length) => bytes.extend_from_slice(&chunk[..length]),
            Err(error) => return Err(net::describe_error(&error)),
        }
    }
}

/// Reads until [`BODY_BYTES_MAX`] of the body have arrived, it ends, or one second is over.
fn read_body_start(stream: &mut Stream, bytes: &mut Vec<u8>, head: usize, deadline: Instant) {
    stream.set_deadline(deadline.min(Instant::now() + Duration::from_secs(1)));
    let mut chunk = [0; 1 << 10];
    while bytes.len() < head + BODY_BYTES_MAX {
        match stream.read(&mut chunk) {
            Ok(length) if length > 0 => bytes.extend_from_slice(&chunk[..length]),
            _ => return,
        }
    }
}

/// Measures how long the answer to a `ping` frame takes. It is a text frame, so that the proxy
/// treats it like a message.
fn ping(mut stream: Stream, rest: Vec<u8>, deadline: Instant) -> Option<Duration> {
    stream.set_deadline(deadline.min(Instant::now() + PONG_TIMEOUT));
    let mut socket = WebSocket::from_partially_read(stream, rest, Role::Client, None);
    let started = Instant::now();
    socket.send(Message::text(r#"{"type":"ping","clientId":"doctor"}"#)).ok()?;
    let took = loop {
        match socket.read().ok()? {
            Message::Text(text) if text.contains("\"pong\"") => break started.elapsed(),
            _ => {}
        }
    };
    // Best effort: the connection is dropped in any case.
    let _ = socket.close(None);
    let _ = socket.flush();
    Some(took)
}

//! A blocking WebSocket client for tests: sends JSON and waits for frames with a deadline.

#![allow(dead_code, clippy::unwrap_used)]

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tungstenite::client::{ClientRequestBuilder, IntoClientRequest};
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::{Error, Message, WebSocket};

/// The deadline of every wait: longer than any step should take.
pub const LONG: Duration = Duration::from_secs(10);

/// The outcome of waiting for a frame.
#[derive(Debug, PartialEq)]
pub enum Received {
    /// A text frame.
    Text(String),
    /// The connection ended, with the code of the server's close frame; `None` without one.
    Closed(Option<u16>),
    /// No frame arrived before the deadline.
    Silence,
}

/// One WebSocket connection.
pub struct Client {
    socket: WebSocket<TcpStream>,
    /// Set once the connection has ended: the close code, or `None` without a close frame.
    ended: Option<Option<u16>>,
    drains: u64,
    /// Frames that [`Client::find`] has skipped and kept.
    skipped: Vec<Value>,
}

impl Client {
    /// Opens a WebSocket at `/`.
    pub fn connect(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect(address).unwrap())
    }

    /// Opens a WebSocket over a socket that the test has connected.
    pub fn over(socket: TcpStream) -> Client {
        Client::try_over(socket).unwrap()
    }

    /// Opens a WebSocket with a receive buffer of 4 KiB in the kernel.
    pub fn with_small_receive_buffer(address: SocketAddr) -> Client {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        socket.connect(&address.into()).unwrap();
        Client::over(socket.into())
    }

    /// The TCP socket, for sending bytes that a WebSocket library would not send.
    pub fn into_socket(self) -> TcpStream {
        self.socket.get_ref().try_clone().unwrap()
    }

    /// Opens a WebSocket; an error if the server refuses it.
    pub fn try_over(socket: TcpStream) -> Result<Client, String> {
        let url = format!("ws://{}/", socket.peer_addr().map_err(|fault| fault.to_string())?);
        Client::handshake(url, socket)
    }

    /// Opens a WebSocket at this path and query, with additional headers.
    pub fn at(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Client {
        let url = format!("ws://{address}{path}").parse().unwrap();
        let request = headers.iter().fold(ClientRequestBuilder::new(url), |all, (name, value)| {
            all.with_header(*name, *value)
        });
        Client::handshake(request, TcpStream::connect(address).unwrap()).unwrap()
    }

    fn handshake(request: impl IntoClientRequest, socket: TcpStream) -> Result<Client, String> {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket.set_write_timeout(Some(LONG)).unwrap();
        match tungstenite::client(request, socket) {
            Ok((socket, _)) => Ok(Client { socket, ended: None, drains: 0, skipped: Vec::new() }),
            Err(fault) => Err(fault.to_string()),
        }
    }

    /// Opens a WebSocket and sends `user_connected`, without a token.
    pub fn as_user(address: SocketAddr, user: u64) -> Client {
        let mut client = Client::connect(address);
        client.send(&json!({"type": "user_connected", "userId": user}));
        client.expect(|frame| frame["type"] == "user_connected" && frame["userId"] == user);
        client
    }

    /// The same, and joins a thread.
    pub fn in_thread(address: SocketAddr, user: u64, thread: u64) -> Client {
        let mut client = Client::as_user(address, user);
        client.join(thread);
        client
    }

    /// Opens a WebSocket and authenticates it with a token.
    pub fn proven(address: SocketAddr, user: u64, token: &str) -> Client {
        let mut client = Client::connect(address);
        client.send(&json!({"type": "user_connected", "userId": user, "token": token}));
        client.expect(|frame| frame["type"] == "user_connected" && frame["userId"] == user);
        client
    }

    /// Joins a thread.
    pub fn join(&mut self, thread: u64) {
        self.send(&json!({"type": "join_thread", "threadId": thread}));
        self.expect(|frame| frame["type"] == "thread_joined" && frame["threadId"] == thread);
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string());
    }

    /// Sends a text as it is.
    pub fn send_text(&mut self, text: &str) {
        self.try_send(Message::text(text)).unwrap();
    }

    /// Sends any message; an error if the server has closed the connection.
    pub fn try_send(&mut self, message: Message) -> Result<(), Error> {
        self.socket.send(message)
    }

    /// Waits for the next text frame or the end of the connection, until `until`.
    pub fn next_until(&mut self, until: Instant) -> Received {
        loop {
            if let Some(code) = self.ended {
                return Received::Closed(code);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Received::Silence;
            }
            self.socket.get_ref().set_read_timeout(Some(left)).unwrap();
            match self.socket.read() {
                Ok(Message::Text(text)) => return Received::Text(text.to_string()),
                Ok(Message::Close(frame)) => {
                    self.ended = Some(frame.map(|CloseFrame { code, .. }| code.into()));
                    // Sends the reply to the close frame.
                    let _ = self.socket.flush();
                }
                Ok(_) => {}
                Err(Error::Io(fault)) if is_timeout(&fault) => {}
                Err(_) => self.ended = Some(None),
            }
        }
    }

    /// The next frame, as unparsed text.
    pub fn next_text(&mut self) -> String {
        match self.next_until(Instant::now() + LONG) {
            Received::Text(text) => text,
            other => panic!("expected a frame, not {other:?}"),
        }
    }

    /// The next frame.
    pub fn next(&mut self) -> Value {
        let text = self.next_text();
        serde_json::from_str(&text).unwrap_or_else(|fault| panic!("{fault}: {text}"))
    }

    /// The next frame that satisfies `wanted`; earlier frames are dropped.
    pub fn expect(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.expect_within(LONG, wanted)
    }

    /// The same, within this time.
    pub fn expect_within(&mut self, time: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + time;
        let mut dropped = Vec::new();
        loop {
            let frame: Value = match self.next_until(until) {
                Received::Text(text) => serde_json::from_str(&text).unwrap(),
                other => panic!("expected frame is missing: {other:?} after {dropped:?}"),
            };
            if wanted(&frame) {
                return frame;
            }
            dropped.push(frame);
        }
    }

    /// The next frame that satisfies `wanted`; earlier frames are kept for the next search.
    pub fn find(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.skipped.iter().position(&wanted) {
            return self.skipped.remove(at);
        }
        loop {
            let frame = self.next();
            if wanted(&frame) {
                return frame;
            }
            self.skipped.push(frame);
        }
    }

    /// The next frame of this type.
    pub fn expect_type(&mut self, kind: &str) -> Value {
        self.expect(|frame| frame["type"] == kind)
    }

    /// The next `error`, which must have this code.
    pub fn expect_error(&mut self, code: &str) -> Value {
        let frame = self.expect_type("error");
        assert_eq!(frame["code"], code, "{frame}");
        assert!(frame["message"].as_str().is_some_and(|text| text.len() > 5), "{frame}");
        frame
    }

    /// Asserts that no frame arrives within this time.
    pub fn expect_nothing_for(&mut self, time: Duration) {
        let received = self.next_until(Instant::now() + time);
        assert_eq!(received, Received::Silence);
    }

    /// All frames that the server has queued for this connection so far: sends a `ping` and
    /// collects the frames before its `pong`, so that no sleep is needed.
    pub fn drain(&mut self) -> Vec<Value> {
        let texts = self.drain_texts();
        texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    /// The same, as unparsed text.
    pub fn drain_texts(&mut self) -> Vec<String> {
        self.drains += 1;
        let name = format!("drain-{}", self.drains);
        self.send(&json!({"type": "ping", "clientId": name}));
        let pong = json!({"type": "pong", "clientId": name}).to_string();
        let mut texts = Vec::new();
        loop {
            let text = self.next_text();
            let is_pong = text.len() == pong.len() && text.contains(&name);
            if is_pong {
                return texts;
            }
            texts.push(text);
        }
    }

    /// Waits until the connection ends and returns the close code; earlier frames are dropped.
    pub fn close_code(&mut self) -> Option<u16> {
        let until = Instant::now() + LONG;
        loop {
            match self.next_until(until) {
                Received::Closed(code) => return code,
                Received::Text(_) => {}
                Received::Silence => panic!("the connection is still open"),
            }
        }
    }

    /// Sends a close frame as a browser does, and waits for the server's.
    pub fn leave(mut self) {
        let _ = self.socket.close(None);
        self.close_code();
    }

    /// The TCP socket.
    pub fn socket(&mut self) -> &mut TcpStream {
        self.socket.get_mut()
    }
}

fn is_timeout(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The frames of one type among these.
pub fn of_type<'a>(frames: &'a [Value], kind: &str) -> Vec<&'a Value> {
    frames.iter().filter(|frame| frame["type"] == kind).collect()
}

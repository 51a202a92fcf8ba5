//! A blocking WebSocket client for tests: says JSON, waits for frames with a deadline.

#![allow(dead_code, clippy::unwrap_used)]

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tungstenite::client::{ClientRequestBuilder, IntoClientRequest};
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::{Error, Message, WebSocket};

/// Longer than anything here should take.
pub const LONG: Duration = Duration::from_secs(10);

/// What a client gets next.
#[derive(Debug, PartialEq)]
pub enum Received {
    /// A text frame.
    Text(String),
    /// The end, with the code of the server's close frame; none after a reset.
    Closed(Option<u16>),
    /// Nothing, for as long as was waited.
    Silence,
}

/// One connection.
pub struct Client {
    socket: WebSocket<TcpStream>,
    /// Why the connection ended, once it has.
    ended: Option<Option<u16>>,
    drains: u64,
    /// What [`Client::find`] has passed by.
    skipped: Vec<Value>,
}

impl Client {
    /// Opens a WebSocket at `/`.
    pub fn connect(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect(address).unwrap())
    }

    /// Opens a WebSocket over a socket of one's own making.
    pub fn over(socket: TcpStream) -> Client {
        Client::try_over(socket).unwrap()
    }

    /// One whose kernel keeps little for it.
    pub fn with_small_receive_buffer(address: SocketAddr) -> Client {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        socket.connect(&address.into()).unwrap();
        Client::over(socket.into())
    }

    /// The bare socket, for what no WebSocket library says.
    pub fn into_socket(self) -> TcpStream {
        self.socket.get_ref().try_clone().unwrap()
    }

    /// Opens a WebSocket, which the server may refuse.
    pub fn try_over(socket: TcpStream) -> Result<Client, String> {
        let url = format!("ws://{}/", socket.peer_addr().map_err(|fault| fault.to_string())?);
        Client::ask(url, socket)
    }

    /// Opens a WebSocket at this path and query, with further header lines.
    pub fn at(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Client {
        let url = format!("ws://{address}{path}").parse().unwrap();
        let request = headers.iter().fold(ClientRequestBuilder::new(url), |all, (name, value)| {
            all.with_header(*name, *value)
        });
        Client::ask(request, TcpStream::connect(address).unwrap()).unwrap()
    }

    fn ask(request: impl IntoClientRequest, socket: TcpStream) -> Result<Client, String> {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket.set_write_timeout(Some(LONG)).unwrap();
        match tungstenite::client(request, socket) {
            Ok((socket, _)) => Ok(Client { socket, ended: None, drains: 0, skipped: Vec::new() }),
            Err(fault) => Err(fault.to_string()),
        }
    }

    /// Opens a WebSocket and says whose it is.
    pub fn as_user(address: SocketAddr, user: u64) -> Client {
        let mut client = Client::connect(address);
        client.send(&json!({"type": "user_connected", "userId": user}));
        client.expect(|frame| frame["type"] == "user_connected" && frame["userId"] == user);
        client
    }

    /// The same, and hears a thread.
    pub fn in_thread(address: SocketAddr, user: u64, thread: u64) -> Client {
        let mut client = Client::as_user(address, user);
        client.join(thread);
        client
    }

    /// Opens a WebSocket and proves whose it is.
    pub fn proven(address: SocketAddr, user: u64, token: &str) -> Client {
        let mut client = Client::connect(address);
        client.send(&json!({"type": "user_connected", "userId": user, "token": token}));
        client.expect(|frame| frame["type"] == "user_connected" && frame["userId"] == user);
        client
    }

    /// Starts to hear a thread.
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

    /// Sends anything; fails when the server no longer listens.
    pub fn try_send(&mut self, message: Message) -> Result<(), Error> {
        self.socket.send(message)
    }

    /// What comes next, waiting until `until`.
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
                    // Lets the answer to the close leave.
                    let _ = self.socket.flush();
                }
                Ok(_) => {}
                Err(Error::Io(fault)) if is_timeout(&fault) => {}
                Err(_) => self.ended = Some(None),
            }
        }
    }

    /// The next frame as it is on the wire.
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

    /// The next frame that is wanted; those before it are dropped.
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

    /// The wanted frame, whatever comes before it: that is kept for the next search.
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

    /// Sees that nothing comes.
    pub fn expect_nothing_for(&mut self, time: Duration) {
        let heard = self.next_until(Instant::now() + time);
        assert_eq!(heard, Received::Silence);
    }

    /// All frames that the server has put out for this connection so far: asks for a `pong` and
    /// collects what comes before it. No time is waited for luck.
    pub fn drain(&mut self) -> Vec<Value> {
        let texts = self.drain_texts();
        texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    /// The same, as the frames are on the wire.
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

    /// Waits for the end; frames before it are dropped.
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

    /// Says goodbye as a browser does, and waits for the answer.
    pub fn leave(mut self) {
        let _ = self.socket.close(None);
        self.close_code();
    }

    /// The socket beneath.
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

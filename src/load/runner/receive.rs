//! The receiving side of the load test: reads and counts what the server sends.

use std::io::{self, Read, Write};

use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::super::Kind;
use super::super::client::{ServerFrame, State, parse_frame};
use super::super::report::Count;
use super::{KEY, OUTPUT_BYTES_MAX, Runner};

/// Maximum number of reads from one client before the others are served.
const READS_MAX: usize = 16;

impl Runner<'_> {
    pub(super) fn flush(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some(socket) = &mut client.socket else { return };
        if client.state == State::Connecting {
            return;
        }
        let mut sent = 0;
        while sent < client.output.len() {
            match socket.write(&client.output[sent..]) {
                Ok(bytes) => sent += bytes,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                // Reading from the socket will return the error as well.
                Err(_) => break,
            }
        }
        client.output.drain(..sent);
    }

    pub(super) fn read_from(&mut self, index: usize, scratch: &mut [u8]) {
        for _ in 0..READS_MAX {
            let client = &mut self.clients[index];
            let Some(socket) = &mut client.socket else { return };
            let read = match socket.read(scratch) {
                Ok(0) => return self.close(index, "no close frame".to_owned()),
                Ok(read) => read,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return,
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
                Err(fault) => return self.close(index, fault.to_string()),
            };
            self.last_received = self.start.elapsed().as_nanos() as u64;
            if client.input.is_empty() {
                let used = self.parse_input(index, &scratch[..read]);
                self.clients[index].input.extend_from_slice(&scratch[used..read]);
            } else {
                let mut input = std::mem::take(&mut client.input);
                input.extend_from_slice(&scratch[..read]);
                let used = self.parse_input(index, &input);
                input.drain(..used);
                // Usually no bytes are left: free the buffer.
                self.clients[index].input = if input.is_empty() { Vec::new() } else { input };
            }
        }
        // More may be unread: continue after the other clients.
        self.pending_reads.push(index as u32);
    }

    /// Processes complete frames, and returns how many bytes were consumed.
    fn parse_input(&mut self, index: usize, bytes: &[u8]) -> usize {
        let mut used = 0;
        if self.clients[index].state == State::Handshake {
            match self.parse_handshake(index, bytes) {
                Some(head) => used = head,
                None => return 0,
            }
        }
        while self.clients[index].state != State::Closed {
            match parse_frame(&bytes[used..]) {
                Ok(Some((opcode, payload, length))) => {
                    used += length;
                    self.handle_frame(index, opcode, payload);
                }
                Ok(None) => return used,
                Err(()) => self.close(index, "invalid frame".to_owned()),
            }
        }
        bytes.len()
    }

    /// Parses the answer to the upgrade request, and joins the thread. Returns the length of the
    /// head; `None` if it is incomplete or refuses the request.
    fn parse_handshake(&mut self, index: usize, bytes: &[u8]) -> Option<usize> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let head = match response.parse(bytes) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) if bytes.len() < 16 * 1024 => return None,
            _ => {
                self.fail(index, "not an HTTP response".to_owned());
                return None;
            }
        };
        let accept = response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case("sec-websocket-accept"));
        let status = response.code.unwrap_or_default();
        let is_expected = |value: &[u8]| value == derive_accept_key(KEY.as_bytes()).as_bytes();
        if status != 101 || !accept.is_some_and(|header| is_expected(header.value)) {
            self.fail(index, format!("HTTP {status}"));
            return None;
        }
        self.handshakes.record(self.last_received - self.clients[index].started);
        self.clients[index].state = State::Joining;
        let thread = self.options.first_thread + (index / self.options.thread_size as usize) as u64;
        if self.tokens.is_empty() {
            let user = self.options.first_user + index as u64;
            self.set_user(index, user);
            let text = format!(r#"{{"type":"user_connected","userId":{user}}}"#);
            self.queue_frame(index, OpCode::Data(Data::Text), text.as_bytes());
        }
        let text = format!(r#"{{"type":"join_thread","threadId":{thread}}}"#);
        self.queue_frame(index, OpCode::Data(Data::Text), text.as_bytes());
        self.flush(index);
        Some(head)
    }

    fn set_user(&mut self, index: usize, user: u64) {
        self.clients[index].user = Some(user);
        if self.users.insert(user, index as u32).is_some() {
            self.fail(index, "second token of the same user".to_owned());
        }
    }

    fn handle_frame(&mut self, index: usize, opcode: OpCode, payload: &[u8]) {
        match opcode {
            OpCode::Data(Data::Text) => {}
            OpCode::Control(Control::Ping) => {
                if self.clients[index].output.len() > OUTPUT_BYTES_MAX {
                    return self.close(index, "pings without end, and does not read".to_owned());
                }
                self.queue_frame(index, OpCode::Control(Control::Pong), payload);
                return self.flush(index);
            }
            OpCode::Control(Control::Close) => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                return self.close(index, code.map_or("no code".to_owned(), |c| c.to_string()));
            }
            _ => return,
        }
        let Ok(frame) = serde_json::from_slice::<ServerFrame>(payload) else {
            return self.report.errors.count("unexpected JSON".to_owned());
        };
        match frame.kind {
            // `false` comes from the server's timeout, not from a frame that was sent.
            "typing" if frame.typing == Some(true) => self.count_typing(index, frame.user()),
            "message" => {
                if let Some(sent) = frame.sent_at().filter(|_| self.options.kind == Kind::Message) {
                    self.record_delivery(sent);
                }
            }
            "thread_joined" if self.clients[index].state == State::Joining => {
                self.clients[index].state = State::Joined;
                self.subscribers[index / self.options.thread_size as usize] += 1;
                self.failures_in_a_row = 0;
                self.report.joined += 1;
                self.joins.record(self.last_received - self.clients[index].started);
            }
            "user_connected" => {
                self.report.presence += 1;
                // Clients receive no presence before they are authenticated: the first user is
                // their own.
                if let (None, Some(user)) = (self.clients[index].user, frame.user()) {
                    self.set_user(index, user);
                }
            }
            "user_disconnected" => self.report.presence += 1,
            "error" => {
                let code = frame.code.unwrap_or("no code").to_owned();
                self.report.errors.count(code);
            }
            _ => {}
        }
    }

    /// Counts a typing frame. Typing frames carry no time, so the n-th one received from a sender
    /// is matched with the n-th one it sent.
    fn count_typing(&mut self, index: usize, user: Option<u64>) {
        let size = self.options.thread_size as usize;
        let sender = user.and_then(|user| self.users.get(&user)).map(|sender| *sender as usize);
        let Some(sender) = sender.filter(|s| s / size == index / size && s % size < self.senders)
        else {
            return;
        };
        if self.options.kind != Kind::Typing {
            return;
        }
        let count = &mut self.typing_counts[index * self.senders + sender % size];
        // All clients have joined before the first frame is sent, so the counts start together.
        if let Some(sent) = self.sent_at[sender].get(*count as usize).copied() {
            *count += 1;
            self.record_delivery(sent);
        }
    }

    fn record_delivery(&mut self, sent: u64) {
        self.report.delivered += 1;
        self.last_delivery = self.last_received;
        self.latencies.record(self.last_received.saturating_sub(sent));
    }
}

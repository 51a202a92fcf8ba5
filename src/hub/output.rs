//! Output of the hub: encodes frames and queues effects for one connection, a thread or everyone.
//!
//! A struct of its own, so that emitting borrows nothing else of the hub. A frame is encoded once;
//! its receivers are appended to one list that all queued effects share.

use std::collections::VecDeque;

use super::capacity;
use super::interface::{Ask, ConnId, Effect, Receivers, RequestId};
use super::threads::Subscriber;
use crate::protocol::client::ReplyTo;
use crate::protocol::server::{EncodedFrame, Encoder, ErrorFrame, ServerFrame};
use crate::protocol::{ClientError, ErrorCode};

/// Capacity of the receiver list that is kept for the next effects, in connections.
const RECEIVERS_KEPT: usize = 4_096;

/// The effects that the shell has not taken yet, and the connections that frames can be sent to.
#[derive(Debug, Default)]
pub(crate) struct Output {
    encoder: Encoder,
    effects: VecDeque<Effect>,
    /// Receivers of the queued [`Effect::FanOut`]s; cleared when all effects are taken.
    receivers: Vec<ConnId>,
    /// The open connection in each slot.
    open: Vec<Option<ConnId>>,
}

impl Output {
    // ---- open connections

    /// Opens a connection: frames can be sent to it.
    pub(super) fn open(&mut self, conn: ConnId) {
        capacity::ensure_slot(&mut self.open, conn.slot);
        let before = self.open[conn.slot as usize].replace(conn);
        debug_assert!(before.is_none(), "the shell reuses a slot only after it has closed it");
    }

    /// Closes a connection: nothing more is sent to it.
    pub(super) fn close(&mut self, conn: ConnId) {
        debug_assert!(self.is_open(conn), "the shell closes an open connection once");
        self.open[conn.slot as usize] = None;
    }

    /// Whether a connection is open.
    pub(super) fn is_open(&self, conn: ConnId) -> bool {
        self.open.get(conn.slot as usize).is_some_and(|open| *open == Some(conn))
    }

    /// The open connections, by slot.
    pub(super) fn connections(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.open.iter().flatten().copied()
    }

    // ---- encoding

    /// Encodes a frame once; the bytes are shared by all its receivers.
    pub(super) fn encode(&mut self, frame: &ServerFrame<'_>) -> EncodedFrame {
        self.encoder.encode(frame)
    }

    /// Encodes a text that is JSON already, such as a relayed call frame.
    pub(super) fn encode_text(&mut self, text: &str) -> EncodedFrame {
        self.encoder.encode_text(text)
    }

    /// `error` frames sent so far, by code.
    pub(super) fn errors(&self) -> impl Iterator<Item = (ErrorCode, u64)> {
        self.encoder.errors()
    }

    // ---- to one connection

    /// Sends an encoded frame to a connection.
    pub(super) fn send(&mut self, to: ConnId, frame: EncodedFrame) {
        self.effects.push_back(Effect::Send { to, frame, droppable: false });
    }

    /// Encodes a frame and sends it to a connection.
    pub(super) fn reply(&mut self, to: ConnId, frame: &ServerFrame<'_>) {
        let frame = self.encoder.encode(frame);
        self.send(to, frame);
    }

    /// Sends an `error` frame, if the connection is still open.
    pub(super) fn send_error(&mut self, to: ConnId, reply: &ReplyTo, fault: &ClientError) {
        if self.is_open(to) {
            self.reply(to, &ServerFrame::Error(ErrorFrame::new(fault, reply)));
        }
    }

    /// Closes a connection with a close code (RFC 6455 section 7.4).
    pub(super) fn close_connection(&mut self, conn: ConnId, code: u16, reason: &'static str) {
        self.effects.push_back(Effect::Close { conn, code, reason });
    }

    // ---- to several connections

    /// Sends a frame to several connections. Slow readers miss it if it is `droppable`.
    pub(super) fn fan_out(
        &mut self,
        to: impl IntoIterator<Item = ConnId>,
        frame: &EncodedFrame,
        droppable: bool,
    ) {
        let start = self.receivers.len();
        self.receivers.extend(to);
        self.push_fan_out(start, frame, droppable);
    }

    /// Sends a frame to the subscribers of a thread and, subscribed or not, to its author. The
    /// author gets `own` instead where that differs: only it carries the author's `clientId`.
    pub(super) fn send_to_thread(
        &mut self,
        subscribers: &[Subscriber],
        author: ConnId,
        own: Option<EncodedFrame>,
        frame: EncodedFrame,
        droppable: bool,
    ) {
        let start = self.receivers.len();
        if self.is_open(author) {
            match own {
                None => self.receivers.push(author),
                Some(own) => {
                    self.effects.push_back(Effect::Send { to: author, frame: own, droppable });
                }
            }
        }
        // Two slices without a test per element: this is the hot path of large threads.
        let at = subscribers.iter().position(|subscriber| subscriber.conn == author);
        let (before, after) = subscribers.split_at(at.unwrap_or(subscribers.len()));
        let after = after.get(1..).unwrap_or_default();
        debug_assert!(after.iter().all(|s| s.conn != author), "a connection subscribes once");
        self.receivers.extend(before.iter().map(|subscriber| subscriber.conn));
        self.receivers.extend(after.iter().map(|subscriber| subscriber.conn));
        self.push_fan_out(start, &frame, droppable);
    }

    /// Sends a droppable frame to the open connections that `is_receiver` selects.
    pub(super) fn broadcast(
        &mut self,
        frame: &EncodedFrame,
        mut is_receiver: impl FnMut(ConnId) -> bool,
    ) {
        let start = self.receivers.len();
        let conns = self.open.iter().flatten().copied();
        self.receivers.extend(conns.filter(|conn| is_receiver(*conn)));
        self.push_fan_out(start, frame, true);
    }

    /// Queues a frame for the receivers from `start` to the end of the list.
    fn push_fan_out(&mut self, start: usize, frame: &EncodedFrame, droppable: bool) {
        let frame = EncodedFrame::clone(frame);
        let effect = match self.receivers.len() - start {
            0 => return,
            1 => self.receivers.pop().map(|to| Effect::Send { to, frame, droppable }),
            count => Some(Effect::FanOut { to: Receivers { start, count }, frame, droppable }),
        };
        if let Some(effect) = effect {
            self.effects.push_back(effect);
        }
    }

    // ---- to the site and the shell

    /// Asks the site.
    pub(super) fn ask(&mut self, request: RequestId, ask: Box<Ask>) {
        self.effects.push_back(Effect::Ask { request, ask });
    }

    /// Queues any other effect.
    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    /// Takes the next effect, in order.
    pub(super) fn next_effect(&mut self) -> Option<Effect> {
        let effect = self.effects.pop_front();
        if effect.is_none() {
            self.receivers.clear();
            self.receivers.shrink_to(RECEIVERS_KEPT);
        }
        effect
    }

    /// The receivers of an [`Effect::FanOut`] that was just taken.
    pub(super) fn receivers(&self, to: Receivers) -> &[ConnId] {
        &self.receivers[to.start..][..to.count]
    }
}

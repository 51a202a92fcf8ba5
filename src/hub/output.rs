//! Who is told: one, the hearers of a thread, or everyone.

use super::Hub;
use super::interface::{ConnId, Effect, Now, Receivers};
use super::presence_batch::Dispatch;
use super::threads::ThreadIx;
use crate::config::{PresenceScope, Trust};
use crate::protocol::client::ReplyTo;
use crate::protocol::server::{EncodedFrame, ErrorFrame, ServerFrame};
use crate::protocol::{ClientError, Id, IdKey};

impl Hub {
    /// Tells who is to know that a user has come or gone.
    pub(super) fn announce_presence(
        &mut self,
        user: &Id,
        frame: &EncodedFrame,
        newcomer: Option<ConnId>,
        now: Now,
    ) {
        match self.settings.presence {
            PresenceScope::Off => {}
            PresenceScope::All => {
                let subscribers = self.presence.count();
                match self.presence_batch.push(frame, subscribers, now.instant) {
                    Dispatch::Immediate => self.broadcast(frame, newcomer),
                    Dispatch::Flush(frames) => self.broadcast_batch(&frames),
                    Dispatch::Deferred => {}
                }
            }
            PresenceScope::Threads => {
                let threads = user.site_number().map_or(&[][..], |n| self.membership.threads_of(n));
                let keys = threads.iter().map(|thread| IdKey::Number(*thread));
                let subscribers = keys.flat_map(|key| self.threads.subscribers(&key));
                let mut conns: Vec<ConnId> =
                    subscribers.map(|subscriber| subscriber.conn).collect();
                conns.sort_unstable();
                conns.dedup();
                conns.retain(|conn| Some(*conn) != newcomer);
                self.fan_out(conns, frame, true);
            }
        }
    }

    /// Sends what `author` caused to everyone who hears the thread and, joined or not, to the
    /// author, whose own copy may be another one: it alone carries their `clientId`.
    pub(super) fn send_to_thread(
        &mut self,
        thread: Option<ThreadIx>,
        author: ConnId,
        own: Option<EncodedFrame>,
        frame: EncodedFrame,
        droppable: bool,
    ) {
        let start = self.receivers.len();
        if self.is_open(author) {
            match own {
                None => self.receivers.push(author),
                Some(own) => self.effects.push_back(single_effect(author, own, droppable)),
            }
        }
        let subscribers =
            thread.map_or(&[][..], |thread_ix| self.threads.subscribers_at(thread_ix));
        let conns = subscribers.iter().map(|subscriber| subscriber.conn);
        self.receivers.extend(conns.filter(|conn| *conn != author));
        self.fan_out_from(start, &frame, droppable);
    }

    /// Tells what has been gathered. Those who have come hear of themselves once more: so there is
    /// one piece for all.
    pub(super) fn broadcast_batch(&mut self, frames: &EncodedFrame) {
        self.broadcast(frames, None);
    }

    /// Tells everyone, or everyone but one.
    fn broadcast(&mut self, frame: &EncodedFrame, except: Option<ConnId>) {
        // Who is nobody yet hears of nobody.
        let hears = |conn: &ConnId| {
            self.settings.trust == Trust::Open || self.presence.is_identified(*conn)
        };
        let start = self.receivers.len();
        let conns = self.open.iter().flatten().copied().filter(hears);
        self.receivers.extend(conns.filter(|conn| Some(*conn) != except));
        self.fan_out_from(start, frame, true);
    }

    /// Sends a frame to several.
    pub(super) fn fan_out(
        &mut self,
        to: impl IntoIterator<Item = ConnId>,
        frame: &EncodedFrame,
        droppable: bool,
    ) {
        let start = self.receivers.len();
        self.receivers.extend(to);
        self.fan_out_from(start, frame, droppable);
    }

    /// Sends a frame to those who stand at the end of the list of receivers.
    pub(super) fn fan_out_from(&mut self, start: usize, frame: &EncodedFrame, droppable: bool) {
        let frame = EncodedFrame::clone(frame);
        let effect = match self.receivers.len() - start {
            0 => return,
            1 => self.receivers.pop().map(|to| single_effect(to, frame, droppable)),
            count => Some(Effect::Spread { to: Receivers { start, count }, frame, droppable }),
        };
        if let Some(effect) = effect {
            self.effects.push_back(effect);
        }
    }

    pub(super) fn reply(&mut self, to: ConnId, frame: &ServerFrame<'_>) {
        let frame = self.encoder.encode(frame);
        self.effects.push_back(Effect::Send { to, frame });
    }

    pub(super) fn send_error(&mut self, to: ConnId, reply: &ReplyTo, fault: &ClientError) {
        if self.is_open(to) {
            self.reply(to, &ServerFrame::Error(ErrorFrame::new(fault, reply)));
        }
    }
}

fn single_effect(to: ConnId, frame: EncodedFrame, droppable: bool) -> Effect {
    if droppable { Effect::Hint { to, frame } } else { Effect::Send { to, frame } }
}

//! Who is told: one, the hearers of a thread, or everyone.

use super::Hub;
use super::announcements::Tell;
use super::interface::{ConnId, Effect, Now, Receivers};
use super::threads::ThreadIx;
use crate::config::{PresenceScope, Trust};
use crate::protocol::client::ReplyTo;
use crate::protocol::server::{EncodedFrame, ErrorFrame, ServerFrame};
use crate::protocol::{ClientError, Id, IdKey};

impl Hub {
    /// Tells who is to know that a user has come or gone.
    pub(super) fn announce(
        &mut self,
        user: &Id,
        frame: &EncodedFrame,
        newcomer: Option<ConnId>,
        now: Now,
    ) {
        match self.settings.presence {
            PresenceScope::Off => {}
            PresenceScope::All => {
                let hearers = self.presence.count();
                match self.announcements.take_in(frame, hearers, now.instant) {
                    Tell::AtOnce => self.broadcast(frame, newcomer),
                    Tell::Gathered(frames) => self.tell_gathered(&frames),
                    Tell::Later => {}
                }
            }
            PresenceScope::Threads => {
                let threads = user.site_number().map_or(&[][..], |n| self.membership.threads_of(n));
                let keys = threads.iter().map(|thread| IdKey::Number(*thread));
                let hearers = keys.flat_map(|key| self.threads.hearers(&key));
                let mut conns: Vec<ConnId> = hearers.map(|hearer| hearer.conn).collect();
                conns.sort_unstable();
                conns.dedup();
                conns.retain(|conn| Some(*conn) != newcomer);
                self.spread(conns, frame, true);
            }
        }
    }

    /// Sends what `author` caused to everyone who hears the thread and, joined or not, to the
    /// author, whose own copy may be another one: it alone carries their `clientId`.
    pub(super) fn show(
        &mut self,
        thread: Option<ThreadIx>,
        author: ConnId,
        own: Option<EncodedFrame>,
        frame: EncodedFrame,
        can_be_missed: bool,
    ) {
        let start = self.receivers.len();
        if self.is_open(author) {
            match own {
                None => self.receivers.push(author),
                Some(own) => self.effects.push_back(one(author, own, can_be_missed)),
            }
        }
        let hearers = thread.map_or(&[][..], |place| self.threads.hearers_at(place));
        let conns = hearers.iter().map(|hearer| hearer.conn);
        self.receivers.extend(conns.filter(|conn| *conn != author));
        self.spread_from(start, &frame, can_be_missed);
    }

    /// Tells what has been gathered. Those who have come hear of themselves once more: so there is
    /// one piece for all.
    pub(super) fn tell_gathered(&mut self, frames: &EncodedFrame) {
        self.broadcast(frames, None);
    }

    /// Tells everyone, or everyone but one.
    fn broadcast(&mut self, frame: &EncodedFrame, except: Option<ConnId>) {
        // Who is nobody yet hears of nobody.
        let hears =
            |conn: &ConnId| self.settings.trust == Trust::Open || self.presence.is_known(*conn);
        let start = self.receivers.len();
        let conns = self.open.iter().flatten().copied().filter(hears);
        self.receivers.extend(conns.filter(|conn| Some(*conn) != except));
        self.spread_from(start, frame, true);
    }

    /// Sends a frame to several.
    pub(super) fn spread(
        &mut self,
        to: impl IntoIterator<Item = ConnId>,
        frame: &EncodedFrame,
        can_be_missed: bool,
    ) {
        let start = self.receivers.len();
        self.receivers.extend(to);
        self.spread_from(start, frame, can_be_missed);
    }

    /// Sends a frame to those who stand at the end of the list of receivers.
    pub(super) fn spread_from(&mut self, start: usize, frame: &EncodedFrame, can_be_missed: bool) {
        let frame = EncodedFrame::clone(frame);
        let effect = match self.receivers.len() - start {
            0 => return,
            1 => self.receivers.pop().map(|to| one(to, frame, can_be_missed)),
            count => Some(Effect::Spread { to: Receivers { start, count }, frame, can_be_missed }),
        };
        if let Some(effect) = effect {
            self.effects.push_back(effect);
        }
    }

    pub(super) fn reply(&mut self, to: ConnId, frame: &ServerFrame<'_>) {
        let frame = self.encoder.encode(frame);
        self.effects.push_back(Effect::Send { to, frame });
    }

    pub(super) fn error(&mut self, to: ConnId, reply: &ReplyTo, fault: &ClientError) {
        if self.is_open(to) {
            self.reply(to, &ServerFrame::Error(ErrorFrame::new(fault, reply)));
        }
    }
}

fn one(to: ConnId, frame: EncodedFrame, can_be_missed: bool) -> Effect {
    if can_be_missed { Effect::Hint { to, frame } } else { Effect::Send { to, frame } }
}

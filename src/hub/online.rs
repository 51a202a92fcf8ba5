//! Online users: announces arrivals and departures, and answers `online_users`.
//!
//! The table of users and devices is in [`super::presence`]; announcements to everyone are batched
//! in [`super::presence_batch`].

use std::collections::BTreeSet;

use super::Hub;
use super::interface::{ConnId, Now};
use super::presence_batch::Dispatch;
use crate::config::PresenceScope;
use crate::protocol::server::{EncodedFrame, ServerFrame};
use crate::protocol::{Id, IdKey};

/// Participants that are looked through for a user's contacts. A user with more contacts gets those
/// of the first threads, and can ask by thread.
const CONTACTS_MAX: usize = 20_000;

impl Hub {
    /// Announces that a user came online, on their first connection `newcomer`.
    pub(super) fn announce_online(&mut self, user: &Id, newcomer: ConnId, now: Now) {
        let frame = ServerFrame::UserConnected { user_id: user, client_id: None };
        let frame = self.output.encode(&frame);
        self.announce_presence(user, &frame, Some(newcomer), now);
    }

    /// Announces that a user went offline.
    pub(super) fn announce_offline(&mut self, user: &Id, now: Now) {
        let frame = self.output.encode(&ServerFrame::UserDisconnected { user_id: user });
        self.announce_presence(user, &frame, None, now);
    }

    /// Sends a presence frame to everyone in its scope except `newcomer`.
    fn announce_presence(
        &mut self,
        user: &Id,
        frame: &EncodedFrame,
        newcomer: Option<ConnId>,
        now: Now,
    ) {
        let number = user.site_number().filter(|user| self.auth.blocks.involves(*user));
        match self.settings.presence {
            PresenceScope::Off => {}
            // The batch is for everyone.
            PresenceScope::All if number.is_some() => {
                let (to_all, presence, blocks) =
                    (!self.requires_proof(), &self.presence, &self.auth.blocks);
                self.output.broadcast(frame, |conn| {
                    let other = presence.number_of(conn);
                    let is_blocked =
                        number.zip(other).is_some_and(|(one, other)| blocks.is_between(one, other));
                    (to_all || presence.is_identified(conn))
                        && Some(conn) != newcomer
                        && !is_blocked
                });
            }
            PresenceScope::All => {
                let receivers = self.presence.count();
                match self.presence_batch.push(frame, receivers, now.instant) {
                    Dispatch::Immediate => self.broadcast_presence(frame, newcomer),
                    Dispatch::Flush(frames) => self.broadcast_presence(&frames, None),
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
                if let Some(number) = number {
                    let is_blocked = |other| self.auth.blocks.is_between(number, other);
                    conns.retain(|conn| !self.presence.number_of(*conn).is_some_and(is_blocked));
                }
                self.output.fan_out(conns, frame, true);
            }
        }
    }

    /// Sends the batch of presence frames that is due; false if there is none. Newcomers get their
    /// own frame once more, so that one buffer serves everyone.
    pub(super) fn flush_presence_batch(&mut self, now: Now) -> bool {
        let batch = self.presence_batch.take_due(now.instant);
        if let Some(frames) = &batch {
            self.broadcast_presence(frames, None);
        }
        batch.is_some()
    }

    fn broadcast_presence(&mut self, frames: &EncodedFrame, except: Option<ConnId>) {
        let (to_all, presence) = (!self.requires_proof(), &self.presence);
        self.output.broadcast(frames, |conn| {
            (to_all || presence.is_identified(conn)) && Some(conn) != except
        });
    }

    /// Answers `online_users`, for a thread or for the whole scope of presence.
    pub(super) fn send_online_users(
        &mut self,
        conn: ConnId,
        thread: Option<&Id>,
        client_id: Option<&Id>,
    ) {
        let contacts;
        let user_ids: Vec<&Id> = match (thread, self.settings.presence) {
            (_, PresenceScope::Off) => Vec::new(),
            (None, PresenceScope::All) => self.presence.online().collect(),
            (None, PresenceScope::Threads) => {
                contacts = self.contacts(conn);
                contacts.iter().filter_map(|user| self.presence.find(user)).collect()
            }
            (Some(thread), _) => {
                let subscribers = self.threads.subscribers(&thread.key);
                self.presence.users_among(subscribers.iter().map(|subscriber| subscriber.conn))
            }
        };
        let mut user_ids = user_ids;
        if let Some(me) = self.presence.number_of(conn).filter(|me| self.auth.blocks.involves(*me))
        {
            let is_blocked = |other| self.auth.blocks.is_between(me, other);
            user_ids.retain(|user| !user.site_number().is_some_and(is_blocked));
        }
        let frame = ServerFrame::OnlineUsers { thread_id: thread, user_ids: &user_ids, client_id };
        self.output.reply(conn, &frame);
    }

    /// The users that share a thread with a connection's user.
    fn contacts(&self, conn: ConnId) -> BTreeSet<IdKey> {
        let threads = self.presence.number_of(conn).map(|user| self.membership.threads_of(user));
        let threads = threads.unwrap_or_default().iter();
        let people = threads.flat_map(|thread| self.membership.participants(*thread));
        people.take(CONTACTS_MAX).map(|user| IdKey::Number(*user)).collect()
    }
}

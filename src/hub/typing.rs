//! Typing indicators: `typing` frames, their timeout, and who is sent what.
//!
//! The tables of typists and subscribers are in [`super::threads`].

use super::Hub;
use super::interface::{ConnId, Now};
use super::threads::{TypingStart, Typist};
use crate::protocol::Id;
use crate::protocol::server::{EncodedFrame, ServerFrame};

impl Hub {
    /// Handles a `typing` frame of a connection that may type in this thread.
    pub(super) fn handle_typing(
        &mut self,
        conn: ConnId,
        thread: &Id,
        typing: bool,
        client_id: Option<&Id>,
        now: Now,
    ) {
        let until = now.instant + self.settings.typing_lasts;
        let cached = if typing { self.threads.renew_typing(conn, thread, until) } else { None };
        let cached = match (cached, client_id) {
            // The hot path, a repeat: the cached frame goes to the subscribers.
            (Some((thread_ix, frame)), None) if self.auth.blocks.is_empty() => {
                let subscribers = self.threads.subscribers_at(thread_ix);
                return self.output.send_to_thread(subscribers, conn, None, frame, true);
            }
            (cached, _) => cached,
        };
        // Sample clients type before they identify themselves (`PROTOCOL.md` 2.3).
        let user = self.presence.user_of(conn);
        let user = user.as_ref();
        if !typing {
            self.threads.stop_typing(conn, user, &thread.key);
            return self.send_typing_stop(conn, user, thread, client_id);
        }
        let (thread_ix, frame) = cached.unwrap_or_else(|| {
            let TypingStart { thread_ix, evicted } =
                self.threads.start_typing(conn, user, thread, until);
            if let Some(typist) = evicted {
                self.announce_typing_stop(&typist);
            }
            let frame = self.encode_typing(thread, user, true, None);
            self.threads.cache_typing_frame(conn, user, thread, &frame);
            (thread_ix, frame)
        });
        let own = client_id.map(|id| self.encode_typing(thread, user, true, Some(id)));
        // The typist's entry keeps the thread in the table, so `thread_ix` is still valid.
        let subscribers = self.threads.subscribers_at(thread_ix);
        let number = user.and_then(Id::site_number).filter(|user| self.auth.blocks.involves(*user));
        let Some(number) = number else {
            return self.output.send_to_thread(subscribers, conn, own, frame, true);
        };
        let is_blocked = |other| self.auth.blocks.is_between(number, other);
        let mut open = subscribers.to_vec();
        open.retain(|to| !self.presence.number_of(to.conn).is_some_and(is_blocked));
        self.output.send_to_thread(&open, conn, own, frame, true);
    }

    fn send_typing_stop(
        &mut self,
        conn: ConnId,
        user: Option<&Id>,
        thread: &Id,
        client_id: Option<&Id>,
    ) {
        let frame = self.encode_typing(thread, user, false, None);
        let own = client_id.map(|id| self.encode_typing(thread, user, false, Some(id)));
        let subscribers = self.threads.subscribers(&thread.key);
        // Not droppable: a slow reader that misses it shows the typist as typing for ever.
        self.output.send_to_thread(subscribers, conn, own, frame, false);
    }

    /// Sends to the thread and to the typist that the typist has stopped.
    pub(super) fn announce_typing_stop(&mut self, typist: &Typist) {
        self.send_typing_stop(typist.conn, typist.user.as_ref(), &typist.thread(), None);
    }

    /// Sends to the subscribers alone that the typist has stopped.
    pub(super) fn announce_typing_stop_to_subscribers(&mut self, typist: &Typist) {
        let thread = typist.thread();
        let frame = self.encode_typing(&thread, typist.user.as_ref(), false, None);
        let subscribers = self.threads.subscribers(&thread.key).iter();
        self.output.fan_out(subscribers.map(|subscriber| subscriber.conn), &frame, false);
    }

    /// Ends all typing of a connection.
    pub(super) fn stop_typing_on(&mut self, conn: ConnId) {
        while let Some(typist) = self.threads.stop_one_typing(conn) {
            self.announce_typing_stop(&typist);
        }
    }

    fn encode_typing(
        &mut self,
        thread_id: &Id,
        user_id: Option<&Id>,
        typing: bool,
        client_id: Option<&Id>,
    ) -> EncodedFrame {
        self.output.encode(&ServerFrame::Typing { thread_id, user_id, typing, client_id })
    }
}

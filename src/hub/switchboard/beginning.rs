//! How calls begin: with one other or with a group, beside another call, or not at all.

use super::{Said, ended};
use crate::config::Trust;
use crate::hub::Hub;
use crate::hub::calls::{Beginning, CallIx, Full, GROUP_MAX, Told};
use crate::hub::interface::{CallEvent, Effect};
use crate::protocol::call::CallKind;
use crate::protocol::client::missing;
use crate::protocol::server::EndReason;
use crate::protocol::{ClientError, ErrorCode, Id, IdKey};

impl Hub {
    pub(super) fn outside(&mut self, said: Said<'_>) -> Result<(), ClientError> {
        match (said.call.kind, &said.other, &said.call.call) {
            // On its way when the call ended: it does not begin it anew.
            (CallKind::Offer, _, Some(id))
                if self.calls.ended(&said.me.key, &id.key, said.now.instant).is_some() =>
            {
                self.over_already(said)
            }
            (CallKind::Initiated, None, _) => self.begin_group(said),
            (CallKind::Initiated | CallKind::Offer, Some(other), _) => {
                self.check_name(&said, [&said.me.key, &other.key])?;
                match self.calls.between(&said.me.key, &other.key) {
                    Some(ix) => self.begin_beside(ix, said),
                    None => self.begin(said),
                }
            }
            // An app that knows of no calls, and a call that the server does not know.
            (CallKind::Answer | CallKind::Candidate, Some(other), None) => {
                let conns = self.presence.conns_of(&other.key).to_vec();
                if conns.is_empty() {
                    return Err(offline());
                }
                let frame = self.encoder.encode_text(&said.relayed.naming(None, None));
                self.spread(conns, &frame, false);
                Ok(())
            }
            (CallKind::Joined, _, Some(id)) => {
                let thread = said.reply.thread.as_ref();
                let found = thread.and_then(|thread| self.calls.group_in(&thread.key));
                match found.filter(|ix| self.calls.get(*ix).id.key == id.key) {
                    Some(ix) => self.join(ix, said),
                    None => self.over_already(said),
                }
            }
            _ => self.over_already(said),
        }
    }

    /// The call that a frame names is over, or there was none.
    fn over_already(&mut self, said: Said<'_>) -> Result<(), ClientError> {
        let over = said
            .call
            .call
            .as_ref()
            .and_then(|id| self.calls.ended(&said.me.key, &id.key, said.now.instant));
        match over {
            // Its device knows, and is busy with the one that stands.
            Some(over)
                if over.told.reason == EndReason::Glare && said.call.kind != CallKind::Resume =>
            {
                Ok(())
            }
            Some(over) if matches!(said.call.kind, CallKind::Resume | CallKind::Offer) => {
                let frame = self.encoder.encode(&ended(&over.told));
                self.effects.push_back(Effect::Send { to: said.conn, frame });
                Ok(())
            }
            _ => Err(ClientError::new(
                ErrorCode::NoSuchCall,
                "You are in no such call; it may be over.",
            )),
        }
    }

    /// Both call each other, or one calls who is in a call with them already.
    fn begin_beside(&mut self, ix: CallIx, said: Said<'_>) -> Result<(), ClientError> {
        let call = self.calls.get(ix);
        if !call.rings() || self.calls.is_caller(ix, &said.me.key) {
            return self.begin_instead(ix, said);
        }
        let mine = said.call.call.as_ref();
        if mine.is_none_or(|mine| text_of(mine) > text_of(&call.id)) {
            let mine = mine.cloned();
            return self.lose_to(ix, mine, &said);
        }
        self.check_room(&said)?;
        let stands = mine.cloned();
        self.calls.end(ix, EndReason::Glare, stands, said.now.instant);
        self.tell_of_calls();
        // Who has called is not too busy to be called back.
        self.ring_now(said)
    }

    /// This one ends before it has begun: the other's call stands. It is an attempt like others.
    pub(super) fn lose_to(
        &mut self,
        ix: CallIx,
        mine: Option<Id>,
        said: &Said<'_>,
    ) -> Result<(), ClientError> {
        let bounds = &self.settings.calls;
        let counted = self.calls.attempt(&said.me.key, bounds, said.now.instant);
        counted.map_err(|full| too_many(full, bounds.attempts))?;
        let id = mine.unwrap_or_else(|| self.calls.make_id(said.now.unix_s));
        let stands = Some(self.calls.get(ix).id.clone());
        let thread = said.reply.thread.clone();
        self.turn_down(said, Told { id, thread, reason: EndReason::Glare, continues_as: stands });
        Ok(())
    }

    /// A call ends before it has begun.
    fn turn_down(&mut self, said: &Said<'_>, told: Told) {
        self.reply(said.conn, &ended(&told));
        self.calls.note_end(&said.me, told, said.now.instant);
    }

    /// A call takes the place of one that its caller has left behind.
    pub(super) fn begin_instead(&mut self, ix: CallIx, said: Said<'_>) -> Result<(), ClientError> {
        self.check_room(&said)?;
        let rings = self.calls.get(ix).rings();
        let reason = if rings { EndReason::Cancelled } else { EndReason::Hangup };
        self.calls.end(ix, reason, None, said.now.instant);
        self.tell_of_calls();
        self.begin_now(said)
    }

    fn begin(&mut self, said: Said<'_>) -> Result<(), ClientError> {
        self.check_room(&said)?;
        self.begin_now(said)
    }

    /// Whether there is room for a call of two; an attempt is counted.
    fn check_room(&mut self, said: &Said<'_>) -> Result<(), ClientError> {
        let others = said.other.iter().map(|other| &other.key);
        let bounds = &self.settings.calls;
        let room = self.calls.room(&said.me.key, others, bounds, said.now.instant);
        room.map_err(|full| too_many(full, bounds.attempts))
    }

    fn begin_now(&mut self, said: Said<'_>) -> Result<(), ClientError> {
        let refuses = self.settings.calls.refuses_when_busy;
        if refuses && said.other.as_ref().is_some_and(|other| self.calls.is_busy(&other.key)) {
            let (id, thread) = (self.name_call(&said), said.reply.thread.clone());
            self.turn_down(&said, Told { id, thread, reason: EndReason::Busy, continues_as: None });
            return Ok(());
        }
        self.ring_now(said)
    }

    fn ring_now(&mut self, said: Said<'_>) -> Result<(), ClientError> {
        let Some(other) = said.other.clone() else {
            debug_assert!(false, "a call of two has two");
            return Ok(());
        };
        let id = self.name_call(&said);
        said.reply.call = Some(id.clone());
        let devices = self.presence.conns_of(&other.key).to_vec();
        let is_offline = devices.is_empty();
        if is_offline {
            self.wake(&said, &id, &other);
            // Its app would not know how to take back a call that goes on.
            if !said.names_call() {
                return Err(offline());
            }
        }
        let frame = self.encoder.encode_text(&said.relayed.naming(Some(&id), None));
        let new = Beginning {
            id,
            thread: said.reply.thread.clone(),
            caller: said.me.clone(),
            device: said.conn,
            knows_calls: said.names_call(),
            called: vec![(other, &devices[..])],
            is_group: false,
            frame: &frame,
            is_offer: said.call.kind == CallKind::Offer,
        };
        self.calls.begin(new, &self.settings.calls, said.now.instant);
        if is_offline { Err(offline()) } else { Ok(()) }
    }

    /// Says that someone is called who is not there.
    fn wake(&mut self, said: &Said<'_>, call: &Id, called: &Id) {
        let event = CallEvent {
            call: call.clone(),
            thread: said.reply.thread.clone(),
            caller: said.me.clone(),
            called: called.clone(),
        };
        self.effects.push_back(Effect::Wake(Box::new(event)));
    }

    /// Whether a new call may be called as its frame says.
    fn check_name<'a>(
        &self,
        said: &Said<'_>,
        users: impl IntoIterator<Item = &'a IdKey>,
    ) -> Result<(), ClientError> {
        match &said.call.call {
            Some(id) if self.calls.is_taken(&id.key, users) => Err(ClientError::new(
                ErrorCode::InvalidField,
                "callId is the name of another call; choose one that is new, such as a UUID.",
            )),
            _ => Ok(()),
        }
    }

    fn name_call(&mut self, said: &Said<'_>) -> Id {
        let own = said.call.call.clone();
        own.unwrap_or_else(|| self.calls.make_id(said.now.unix_s))
    }

    // ---- groups

    fn begin_group(&mut self, said: Said<'_>) -> Result<(), ClientError> {
        let Some(thread) = said.reply.thread.clone() else {
            return Err(missing("recipientId"));
        };
        self.check_name(&said, [&said.me.key])?;
        // There is one in a thread: who comes second is to join it.
        if let Some(ix) = self.calls.group_in(&thread.key) {
            let mine = said.call.call.clone();
            return self.lose_to(ix, mine, &said);
        }
        let mut users = self.participants(&thread);
        users.retain(|user| user.key != said.me.key);
        if users.len() >= GROUP_MAX {
            let text = format!("A group call is for a thread of up to {GROUP_MAX}.");
            return Err(ClientError::new(ErrorCode::ThreadTooLarge, text));
        }
        let (users, offline): (Vec<Id>, Vec<Id>) =
            users.into_iter().partition(|user| !self.presence.conns_of(&user.key).is_empty());
        let bounds = &self.settings.calls;
        let called = users.iter().map(|user| &user.key);
        let room = self.calls.room(&said.me.key, called.clone(), bounds, said.now.instant);
        room.map_err(|full| too_many(full, bounds.attempts))?;
        self.check_name(&said, called)?;
        let id = self.name_call(&said);
        said.reply.call = Some(id.clone());
        offline.iter().for_each(|user| self.wake(&said, &id, user));
        if users.is_empty() {
            return Err(ClientError::new(
                ErrorCode::RecipientOffline,
                "Nobody else of this thread is online.",
            ));
        }
        let frame = self.encoder.encode_text(&said.relayed.naming(Some(&id), Some(&said.me)));
        let presence = &self.presence;
        let called = users.into_iter().map(|user| {
            let devices = presence.conns_of(&user.key);
            (user, devices)
        });
        let new = Beginning {
            id,
            thread: Some(thread),
            caller: said.me.clone(),
            device: said.conn,
            knows_calls: said.names_call(),
            called: called.collect(),
            is_group: true,
            frame: &frame,
            is_offer: false,
        };
        let ix = self.calls.begin(new, &self.settings.calls, said.now.instant);
        self.calls.note_woken(ix, &offline);
        Ok(())
    }

    /// Who takes part in a thread, or, in open trust, who hears it.
    fn participants(&self, thread: &Id) -> Vec<Id> {
        if self.settings.trust == Trust::Open {
            let hearers = self.threads.hearers(&thread.key).iter();
            let users = self.presence.users_among(hearers.map(|hearer| hearer.conn));
            return users.into_iter().cloned().collect();
        }
        let people = thread.site_number().into_iter().flat_map(|n| self.membership.people(n));
        people.map(|user| Id::number(*user)).collect()
    }
}

/// The letters of an id: what the lesser of two is told by.
fn text_of(id: &Id) -> String {
    match &id.key {
        IdKey::Number(number) => number.to_string(),
        IdKey::Text(text) => text.to_string(),
    }
}

fn offline() -> ClientError {
    let text = "The other party of this call is not online.";
    ClientError::new(ErrorCode::RecipientOffline, text)
}

fn too_many(full: Full, attempts: usize) -> ClientError {
    let text = match full {
        Full::Attempts => {
            format!("You may begin {attempts} calls a minute. Try again in a moment.")
        }
        Full::Caller => "Too many calls of yours ring already. End one first.".to_owned(),
        Full::Called => "Too many calls ring the other party already. Try again later.".to_owned(),
        Full::Server => "There are too many calls on this server. Try again later.".to_owned(),
    };
    ClientError::new(ErrorCode::TooManyCalls, text)
}

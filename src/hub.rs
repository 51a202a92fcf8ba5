//! The community as a state machine: [`Input`] in, [`Effect`] out, one deadline.
//!
//! No socket, no clock, no thread. The shell calls [`Hub::handle`] and then takes the effects with
//! [`Hub::next_effect`] until there are none: one mutation, then drain.
//!
//! What the hub decides is in this file and in nine more: [`entrance`] (who a connection is),
//! [`gate`] (who may do what in a thread), [`posting`] (what becomes of a message), [`outcomes`]
//! (who is told of it), [`signalling`] (who calls whom), [`call_status`] (who asks how a call is),
//! [`ice`] (who is told of TURN servers), [`telling`] (who is told anything) and [`draining`] (what
//! begins no more).
//! The other rooms keep tables and answer questions; they do not call each other.

pub mod announcements;
pub mod call_status;
pub mod calls;
pub mod capacity;
pub mod checks;
pub mod deadlines;
pub mod delivery;
pub mod draining;
pub mod entrance;
pub mod failure;
pub mod gate;
pub mod heirs;
pub mod ice;
pub mod identity;
pub mod index;
pub mod interface;
pub mod lookups;
pub mod membership;
pub mod outcomes;
pub mod posting;
pub mod presence;
pub mod repeats;
pub mod signalling;
pub mod stats;
pub mod telling;
pub mod threads;
pub mod told;
pub mod waiting;

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::config::{PresenceScope, Trust};
use crate::protocol::client::{ClientFrame, ReplyTo, parse};
use crate::protocol::server::{EncodedFrame, Encoder, ServerFrame};
use crate::protocol::{ClientError, ErrorCode, Id, IdKey};
use announcements::Announcements;
use call_status::StatusRequests;
use calls::Calls;
use checks::Checks;
use delivery::{Delivery, Requests};
use heirs::Heirs;
use identity::Identity;
use interface::{Census, ConnId, Effect, Input, Now, Receivers, RequestId, Settings};
use lookups::Lookups;
use membership::Membership;
use presence::Presence;
use repeats::Repeats;
use stats::Tally;
use threads::{Joined, Threads, Types, Typist};
use told::Told;
use waiting::Waiting;

/// Room for receivers that is kept for the next effects.
const RECEIVERS_KEPT: usize = 4_096;

/// Places on lists that are looked through for companions: who is in more has to ask by thread.
const COMPANIONS_MAX: usize = 20_000;

/// The community.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    /// The connection in each slot.
    open: Vec<Option<ConnId>>,
    presence: Presence,
    announcements: Announcements,
    threads: Threads,
    delivery: Delivery,
    lookups: Lookups,
    told: Told,
    repeats: Repeats,
    heirs: Heirs,
    calls: Calls,
    status_requests: StatusRequests,
    identity: Identity,
    membership: Membership,
    checks: Checks,
    waiting: Waiting,
    requests: Requests,
    stats: Tally,
    /// Frames that had to wait for a proof are being heard.
    goes_on: bool,
    /// The server is about to end.
    drains: bool,
    /// The thread and the user of which the site has just been asked: what they have said is
    /// decided now, and not asked about again.
    decided: Option<(u64, u64)>,
    encoder: Encoder,
    effects: VecDeque<Effect>,
    /// Of the effects that are for several; empty as soon as all effects are taken.
    receivers: Vec<ConnId>,
}

impl Hub {
    /// An empty community.
    pub fn new(settings: Settings) -> Hub {
        let index_users = settings.presence == PresenceScope::Threads;
        let membership = Membership::new(settings.membership_lasts, index_users);
        let turn_lasts = settings.message_turn_lasts;
        Hub {
            settings,
            open: Vec::new(),
            presence: Presence::default(),
            announcements: Announcements::default(),
            threads: Threads::default(),
            delivery: Delivery::new(turn_lasts),
            lookups: Lookups::default(),
            told: Told::default(),
            repeats: Repeats::default(),
            heirs: Heirs::default(),
            calls: Calls::default(),
            status_requests: StatusRequests::default(),
            identity: Identity::default(),
            membership,
            checks: Checks::default(),
            waiting: Waiting::default(),
            requests: Requests::default(),
            stats: Tally::default(),
            goes_on: false,
            drains: false,
            decided: None,
            encoder: Encoder::default(),
            effects: VecDeque::new(),
            receivers: Vec::new(),
        }
    }

    /// Other bounds and times from now on. What the tables go by stays what it is: trust, the scope
    /// of presence, and how long a message waits for its turn.
    pub fn set_settings(&mut self, settings: Settings) {
        let Settings { trust, presence, message_turn_lasts, .. } = self.settings;
        self.membership.set_lasts(settings.membership_lasts);
        self.settings = Settings { trust, presence, message_turn_lasts, ..settings };
    }

    /// Takes one input in. What follows from it waits in [`Hub::next_effect`].
    pub fn handle(&mut self, input: Input<'_>, now: Now) {
        match input {
            Input::Opened { conn, credential } => self.opened(conn, credential, now),
            Input::Frame { conn, text } => self.frame(conn, text, true, now),
            Input::Binary { conn } => {
                self.stats.binary += 1;
                let fault = "Send text frames: binary frames carry nothing in this protocol.";
                let fault = ClientError::new(ErrorCode::TextOnly, fault);
                self.error(conn, &ReplyTo::default(), &fault);
            }
            Input::Refused { conn, text } => {
                let reply = text.map(|text| parse(text).0).unwrap_or_default();
                self.error(conn, &reply, &failure::too_fast());
            }
            Input::CallStatusRequest { conn, credential, call } => {
                self.handle_call_status(conn, credential, call, now);
            }
            Input::Closed { conn } if self.status_requests.has(conn) => {
                self.cancel_status_request(conn, now)
            }
            Input::Closed { conn } => self.closed(conn, now),
            Input::Answered { request, answer } => self.answered(request, answer, now),
        }
    }

    /// The next thing to do, in order; `None` when all is done.
    pub fn next_effect(&mut self) -> Option<Effect> {
        let effect = self.effects.pop_front();
        if effect.is_none() {
            self.receivers.clear();
            self.receivers.shrink_to(RECEIVERS_KEPT);
        }
        effect
    }

    /// Whom an [`Effect::Spread`] is for, which has just been taken.
    pub fn receivers(&self, to: Receivers) -> &[ConnId] {
        &self.receivers[to.start..][..to.count]
    }

    /// When [`Hub::advance`] is to be called, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.threads.next_deadline(),
            self.presence.next_deadline(),
            self.announcements.next_deadline(),
            self.identity.next_deadline(),
            self.heirs.next_deadline(),
            self.calls.next_deadline(),
            self.delivery.next_deadline(),
            self.lookups.next_deadline(),
            self.repeats.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Does one thing that is due at `now`; false if there was none. The caller takes the effects
    /// before the next: many things may be due at once, and each may be for everyone.
    pub fn advance(&mut self, now: Now) -> bool {
        self.heirs.forget(now.instant);
        // First, since what comes next may add to it.
        if let Some(gathered) = self.announcements.take_due(now.instant) {
            self.tell_gathered(&gathered);
        } else if let Some(typist) = self.threads.typing_times_out(now.instant) {
            self.typing_over(&typist);
        } else if let Some(user) = self.presence.depart(now.instant) {
            if !self.drains {
                let frame = self.encoder.encode(&ServerFrame::UserDisconnected { user_id: &user });
                self.announce(&user, &frame, None, now);
            }
        } else if let Some((conn, due)) = self.identity.due(now) {
            self.time_is_up(conn, due, now);
        } else if self.calls.advance(now.instant) {
            self.send_call_notifications();
        } else if !self.turn_is_over(now) && !self.look_up_message(now) {
            return self.repeats.forget(now.instant);
        }
        true
    }

    // ---- presence

    fn is_open(&self, conn: ConnId) -> bool {
        self.open.get(conn.slot as usize).is_some_and(|open| *open == Some(conn))
    }

    fn online_users(&mut self, conn: ConnId, thread: Option<&Id>, client_id: Option<&Id>) {
        let companions;
        let user_ids: Vec<&Id> = match (thread, self.settings.presence) {
            (_, PresenceScope::Off) => Vec::new(),
            (None, PresenceScope::All) => self.presence.online().collect(),
            (None, PresenceScope::Threads) => {
                companions = self.companions(conn);
                companions.iter().filter_map(|user| self.presence.find(user)).collect()
            }
            (Some(thread), _) => {
                let hearers = self.threads.hearers(&thread.key);
                self.presence.users_among(hearers.iter().map(|hearer| hearer.conn))
            }
        };
        let frame = ServerFrame::OnlineUsers { thread_id: thread, user_ids: &user_ids, client_id };
        let frame = self.encoder.encode(&frame);
        self.effects.push_back(Effect::Send { to: conn, frame });
    }

    /// Those with whom a connection's user shares a thread.
    fn companions(&self, conn: ConnId) -> BTreeSet<IdKey> {
        let threads = self.presence.number_of(conn).map(|user| self.membership.threads_of(user));
        let people = threads.unwrap_or_default().iter().flat_map(|t| self.membership.people(*t));
        people.take(COMPANIONS_MAX).map(|user| IdKey::Number(*user)).collect()
    }

    // ---- frames

    /// Takes in a frame, or once more one that had to wait.
    fn frame(&mut self, conn: ConnId, text: &str, is_new: bool, now: Now) {
        debug_assert!(self.is_open(conn), "only who is open speaks");
        if self.identity.is_over(conn) {
            return;
        }
        let (mut reply, frame) = parse(text);
        if is_new {
            self.stats.heard(reply.kind);
        }
        if let Err(fault) =
            frame.and_then(|frame| self.client_frame(conn, frame, text, &mut reply, now))
        {
            self.error(conn, &reply, &fault);
        }
    }

    fn client_frame(
        &mut self,
        conn: ConnId,
        frame: ClientFrame<'_>,
        text: &str,
        reply: &mut ReplyTo,
        now: Now,
    ) -> Result<(), ClientError> {
        // What had to wait for a proof was said before the end began.
        if self.drains && !self.goes_on && matches!(frame, ClientFrame::SendMessage(_)) {
            return self.repeat_before_the_end(conn, reply, now);
        }
        if self.settings.trust == Trust::Verified
            && self.waits_for_proof(conn, &frame, text, now)?
        {
            return Ok(());
        }
        let client_id = reply.client_id.as_ref();
        let no_time = Duration::ZERO;
        match frame {
            ClientFrame::UserConnected { user, token } => {
                self.user_connected(conn, user, token.as_deref(), reply, now)?;
            }
            ClientFrame::JoinThread { thread } => {
                if self.admits(conn, &thread, text, no_time, now)? {
                    self.join_thread(conn, &thread, client_id)?;
                }
            }
            ClientFrame::LeaveThread { thread } => {
                if self.lets_go(conn, &thread, text, now)? {
                    self.leave_thread(conn, &thread, client_id);
                }
            }
            ClientFrame::SendMessage(message) => self.send_message(conn, message, reply, now)?,
            ClientFrame::Typing { thread, typing } => {
                // It is to be right until the thread has heard that it is over.
                let lasts = self.settings.typing_lasts;
                if self.admits(conn, &thread, text, lasts, now)? {
                    self.typing(conn, &thread, typing, client_id, now);
                }
            }
            ClientFrame::Call(call) => self.handle_call(conn, call, reply, text, now)?,
            ClientFrame::OnlineUsers { thread } => {
                let admitted = match &thread {
                    Some(thread) => self.admits(conn, thread, text, no_time, now)?,
                    None => true,
                };
                if admitted {
                    self.online_users(conn, thread.as_ref(), client_id);
                }
            }
            ClientFrame::Ping => self.reply(conn, &ServerFrame::Pong { client_id }),
            ClientFrame::IceServers => self.ice_servers(conn, client_id, now)?,
        }
        Ok(())
    }

    fn join_thread(
        &mut self,
        conn: ConnId,
        thread: &Id,
        client_id: Option<&Id>,
    ) -> Result<(), ClientError> {
        let (max, in_all) = (self.settings.joins_per_connection, self.settings.threads);
        match self.threads.join(conn, &thread.key, max, in_all) {
            Joined::New | Joined::Already => {}
            Joined::TooMany => {
                let text = format!("A connection may join {max} threads; leave one first.");
                return Err(ClientError::new(ErrorCode::TooManyThreads, text));
            }
            Joined::TooManyInAll => {
                let text = "Too many threads are heard on this server. Try again in a moment.";
                return Err(ClientError::new(ErrorCode::Overloaded, text));
            }
        }
        self.reply(conn, &ServerFrame::ThreadJoined { thread_id: thread, client_id });
        Ok(())
    }

    fn leave_thread(&mut self, conn: ConnId, thread: &Id, client_id: Option<&Id>) {
        if let Some(typist) = self.threads.typing_stops_here(conn, &thread.key) {
            self.typing_over(&typist);
        }
        // Who did not hear it is where they wanted to be.
        self.threads.leave(conn, &thread.key);
        self.reply(conn, &ServerFrame::ThreadLeft { thread_id: thread, reason: None, client_id });
    }

    fn typing(
        &mut self,
        conn: ConnId,
        thread: &Id,
        typing: bool,
        client_id: Option<&Id>,
        now: Now,
    ) {
        let until = now.instant + self.settings.typing_lasts;
        let told = if typing { self.threads.goes_on(conn, thread, until) } else { None };
        let told = match (told, client_id) {
            // Again and again: this needs to know nothing else.
            (Some((place, frame)), None) => return self.show(Some(place), conn, None, frame, true),
            (told, _) => told,
        };
        // A sample client types before the server can know who it is (`PROTOCOL.md` 2.3).
        let user = self.presence.user_of(conn);
        let user = user.as_ref();
        if !typing {
            self.threads.typing_stops(conn, user, &thread.key);
            return self.typing_stopped(conn, user, thread, client_id);
        }
        let (place, frame) = told.unwrap_or_else(|| {
            let Types { place, elsewhere } = self.threads.typing_starts(conn, user, thread, until);
            if let Some(typist) = elsewhere {
                self.typing_over(&typist);
            }
            let frame = self.encode_typing(thread, user, true, None);
            self.threads.keep_frame(conn, user, thread, &frame);
            (place, frame)
        });
        let own = client_id.map(|id| self.encode_typing(thread, user, true, Some(id)));
        // Whoever types keeps the thread where it is.
        self.show(Some(place), conn, own, frame, true);
    }

    fn identified(&self, conn: ConnId) -> Result<Id, ClientError> {
        self.presence.user_of(conn).ok_or_else(|| {
            ClientError::new(
                ErrorCode::NotIdentified,
                "The server does not know who you are: send user_connected with your userId first.",
            )
        })
    }

    // ---- typing

    fn typing_stopped(
        &mut self,
        conn: ConnId,
        user: Option<&Id>,
        thread: &Id,
        client_id: Option<&Id>,
    ) {
        let place = self.threads.find(&thread.key);
        let frame = self.encode_typing(thread, user, false, None);
        let own = client_id.map(|id| self.encode_typing(thread, user, false, Some(id)));
        // That is no news to be missed: it would look as if they went on.
        self.show(place, conn, own, frame, false);
    }

    fn typing_over(&mut self, typist: &Typist) {
        self.typing_stopped(typist.conn, typist.user.as_ref(), &typist.thread(), None);
    }

    /// The same, without its typist.
    fn typing_over_for_hearers(&mut self, typist: &Typist) {
        let thread = typist.thread();
        let frame = self.encode_typing(&thread, typist.user.as_ref(), false, None);
        let start = self.receivers.len();
        let hearers = self.threads.hearers(&thread.key).iter();
        self.receivers.extend(hearers.map(|hearer| hearer.conn));
        self.spread_from(start, &frame, false);
    }

    fn encode_typing(
        &mut self,
        thread_id: &Id,
        user_id: Option<&Id>,
        typing: bool,
        client_id: Option<&Id>,
    ) -> EncodedFrame {
        self.encoder.encode(&ServerFrame::Typing { thread_id, user_id, typing, client_id })
    }

    fn stop_typing_on(&mut self, conn: ConnId) {
        while let Some(typist) = self.threads.typing_stops_on(conn) {
            self.typing_over(&typist);
        }
    }

    // ---- for the shell and the tests

    /// How many WebSockets are open, users online, threads heard, and messages on their way.
    pub fn census(&self) -> Census {
        Census {
            connections: self.open.iter().flatten().count(),
            users: self.presence.count(),
            threads: self.threads.count(),
            deliveries: self.delivery.count(),
            calls: self.calls.ringing_and_answered(),
        }
    }

    /// The connection that sent the message which this question is to store, while its fate is not
    /// decided.
    pub fn sender_of(&self, post: RequestId) -> Option<ConnId> {
        self.delivery.job(post).map(|job| job.origin)
    }

    /// Under which request the log tells of this one: a look belongs to its message's.
    pub fn log_request(&self, request: RequestId) -> RequestId {
        self.lookups.post_of(request).unwrap_or(request)
    }

    /// What waits for the site: frames, questions, and connections for their proof.
    pub fn unsettled(&self) -> [usize; 3] {
        [self.waiting.frames(), self.checks.count(), self.identity.pending_count()]
    }

    /// Asserts that the tables of each room agree with each other.
    pub fn check_invariants(&self) {
        self.presence.check_invariants();
        self.threads.check_invariants();
        self.delivery.check_invariants();
        self.lookups.check_invariants();
        self.told.check_invariants();
        self.repeats.check_invariants();
        self.heirs.check_invariants();
        self.calls.check_invariants();
        self.identity.check_invariants();
        self.membership.check_invariants();
    }
}

//! Inputs, effects and settings of the hub: the interface between its state machine and the shell.
//!
//! The core defines these types and the shell uses them. Nothing here knows of HTTP or sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use super::auth::held_frames::HeldFrameLimits;
pub use super::calls::CallSettings;
pub use super::failure::{Failure, FailureContext, TokenFault};
use crate::config::{PresenceScope, Trust};
use crate::protocol::credential::Credential;
use crate::protocol::ice::IceServers;
use crate::protocol::server::EncodedFrame;
use crate::protocol::site_event::SiteEvent;
use crate::protocol::status::CallStatusReply;
use crate::protocol::{ClientError, Id};

/// Identifies one connection for its lifetime: a slot, which is reused, and a serial, which is not.
///
/// An answer from the site arrives seconds later; by then the slot may belong to another
/// connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    /// The slot in the shell's slab.
    pub slot: u32,
    /// Number of the connection since the start; wraps after 2³² connections.
    pub serial: u32,
}

/// Identifies one request to the site; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// The time, which the shell reads once per tick.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic time, for deadlines.
    pub instant: Instant,
    /// Wall clock: seconds since 1970 in UTC, for dates.
    pub unix_s: u64,
}

/// An event for the hub.
#[derive(Debug)]
pub enum Input<'a> {
    /// A WebSocket has been opened.
    Opened {
        /// The new connection.
        conn: ConnId,
        /// The credential that the handshake brought, or what is wrong with it.
        credential: Option<Result<Credential, ClientError>>,
    },
    /// A connection sent a text frame.
    Frame {
        /// The connection.
        conn: ConnId,
        /// The text, borrowed from the read buffer.
        text: &'a str,
    },
    /// A connection sent a binary frame, which this protocol does not use.
    Binary {
        /// The connection.
        conn: ConnId,
    },
    /// A connection exceeded its limit of frames: this frame is ignored.
    RateLimited {
        /// The connection.
        conn: ConnId,
        /// The frame's text, if it was a text frame.
        text: Option<&'a str>,
    },
    /// An HTTP connection, not a WebSocket, asks for the status of a call. It gets exactly one
    /// [`Effect::SendCallStatus`], unless it closes first.
    CallStatusRequest {
        /// The connection, which the hub forgets with the answer.
        conn: ConnId,
        /// The credential that the request brought, or what is wrong with it.
        credential: Option<Result<Credential, ClientError>>,
        /// The `callId`.
        call: Id,
    },
    /// A connection has closed; the hub sends it nothing more.
    Closed {
        /// The connection.
        conn: ConnId,
    },
    /// The answer to an [`Effect::Ask`].
    Answered {
        /// The request that was answered.
        request: RequestId,
        /// The answer.
        answer: Answer,
    },
    /// Whether requests reach the site has changed; at first they do.
    SiteAvailable(bool),
    /// Events of the site, as its plugin reports them, in order.
    SiteEvents(Vec<SiteEvent>),
}

/// A list of connections that get the same frame: a range in the hub's own list, which
/// [`super::Hub::receivers`] returns until the next effect is taken.
#[derive(Clone, Copy, Debug)]
pub struct Receivers {
    pub(super) start: usize,
    pub(super) count: usize,
}

/// An action that the shell performs for the hub. Receivers of a frame share its bytes.
#[derive(Debug)]
pub enum Effect {
    /// Put a frame into a connection's outbox.
    Send {
        /// The receiver; may be closed by now.
        to: ConnId,
        /// The encoded frame.
        frame: EncodedFrame,
        /// Whether a slow reader misses it: presence, and that someone types.
        droppable: bool,
    },
    /// Put a frame into the outboxes of several connections.
    FanOut {
        /// The receivers, each once; some may be closed by now.
        to: Receivers,
        /// The encoded frame.
        frame: EncodedFrame,
        /// As for [`Effect::Send`].
        droppable: bool,
    },
    /// Send a request to the site. It gets exactly one [`Input::Answered`].
    Ask {
        /// Identifies the request in its answer.
        request: RequestId,
        /// The request.
        ask: Box<Ask>,
    },
    /// Close a connection. An [`Input::Closed`] follows.
    Close {
        /// The connection; may be gone by now.
        conn: ConnId,
        /// The close code (RFC 6455 section 7.4, `PROTOCOL.md` 3).
        code: u16,
        /// A short reason for the client's developer.
        reason: &'static str,
    },
    /// Answer a status request. The connection is finished with that.
    SendCallStatus {
        /// The connection that sent the request.
        conn: ConnId,
        /// The answer.
        reply: Box<CallStatusReply>,
    },
    /// A user without a connection is called: the site or a push service may wake the user's phone.
    Wake(Box<CallEvent>),
    /// A user has missed a call: the site may leave a notification.
    Missed(Box<CallEvent>),
    /// These users, by the site's numbers, were active in the last minute.
    Active(Box<[u64]>),
}

/// A call for a user who is offline, or who has missed it.
#[derive(Debug)]
pub struct CallEvent {
    /// The `callId`.
    pub call: Id,
    /// The thread of the call.
    pub thread: Option<Id>,
    /// The user who calls.
    pub caller: Id,
    /// The user who is called.
    pub called: Id,
    /// Whether it is a group call.
    pub group: bool,
}

/// Settings of the hub, which `config` reads.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether a `userId` is believed or has to be proven.
    pub trust: Trust,
    /// Which users receive presence events of which others.
    pub presence: PresenceScope,
    /// How long the participant list of a thread is valid.
    pub membership_lasts: Duration,
    /// How often the site is asked again about each user; `None` for never.
    pub user_recheck_every: Option<Duration>,
    /// How old the site's word about a user may be when others see a frame of that user; `None` for
    /// any age.
    pub user_proof_lasts: Option<Duration>,
    /// How long a connection may stay anonymous.
    pub anonymous_lasts: Duration,
    /// Queries about credentials and participants in flight at the same time, at least 1.
    pub site_queries: usize,
    /// How long a message may wait in its lane; `None` means without a limit.
    pub message_turn_lasts: Option<Duration>,
    /// Whether participants hear how far others have read.
    pub read_receipts: bool,
    /// How long `typing` lasts unless it is repeated.
    pub typing_lasts: Duration,
    /// How long a user stays online without a connection.
    pub presence_grace: Duration,
    /// Threads that one connection may join.
    pub joins_per_connection: usize,
    /// Threads with a subscriber or a typist on the whole server.
    pub threads: usize,
    /// Limits of messages that are waiting or in flight.
    pub deliveries: DeliveryLimits,
    /// Limits of frames held until the site has answered a query.
    pub held_frames: HeldFrameLimits,
    /// Limits and timeouts of calls.
    pub calls: CallSettings,
    /// STUN and TURN servers for clients that are about to call.
    pub ice: IceServers,
}

/// Limits of messages that are waiting or in flight.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryLimits {
    /// Messages on the whole server.
    pub total: usize,
    /// Messages of one connection.
    pub per_connection: usize,
    /// Bytes of all their texts.
    pub bytes: usize,
}

/// Current sizes of the hub's tables, for metrics and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubCounts {
    /// Open WebSockets.
    pub connections: usize,
    /// Users who are online, including those in their grace period.
    pub users: usize,
    /// Threads with a subscriber or a typist.
    pub threads: usize,
    /// Messages that are waiting or in flight.
    pub deliveries: usize,
    /// Calls that ring, and calls that are answered.
    pub calls: [usize; 2],
}

/// A request to the site, which is answered with an [`Answer`].
#[derive(Debug)]
pub enum Ask {
    /// Store a message (CONTRACT 3.1). Answers: `Stored`, `Failed`.
    Post(Post),
    /// Verify a credential and return its user (CONTRACT 2). Answers: `Proven`, `Failed`.
    Prove(Credential),
    /// Ask the site for the user of a credential, whatever its signature says: the user may be
    /// suspended by now. Answers: `Proven`, `Failed`.
    Recheck(Credential),
    /// Ask whether a user may write to the other participant of a thread (`can_send_message`,
    /// CONTRACT 3.3). Answers: `CallPermission`, `Failed`.
    CallPermission {
        /// The thread, by the site's number.
        thread: u64,
        /// The user's credential.
        credential: Credential,
    },
    /// List the participants of a thread (CONTRACT 3.2). Answers: `Participants`, `Failed`.
    Participants {
        /// The thread, by the site's number.
        thread: u64,
        /// The credential of a user who claims to be a participant.
        credential: Credential,
    },
    /// Look up whether a message was stored whose post had no usable answer (CONTRACT 3.2 and 3.5).
    /// Answers: `LookupResult`, `Failed`.
    Lookup(Lookup),
}

impl Ask {
    /// The credential with which the site is asked.
    pub fn credential(&self) -> Option<&Credential> {
        match self {
            Ask::Post(post) => post.credential.as_ref(),
            Ask::Prove(credential) | Ask::Recheck(credential) => Some(credential),
            Ask::CallPermission { credential, .. } | Ask::Participants { credential, .. } => {
                Some(credential)
            }
            Ask::Lookup(lookup) => Some(&lookup.credential),
        }
    }

    /// Returns the request id for log lines: a lookup is logged under the post that it is about.
    pub fn log_request(&self, request: RequestId) -> RequestId {
        match self {
            Ask::Lookup(look) => look.post,
            _ => request,
        }
    }
}

/// A message with an unknown outcome, to look up in its thread.
#[derive(Debug)]
pub struct Lookup {
    /// The sender's credential; only with it the site shows which messages are the sender's.
    pub credential: Credential,
    /// Where the message was sent.
    pub target: Target,
    /// The text exactly as its sender wrote it.
    pub text: Arc<str>,
    /// The sender, if known. If the credential belongs to another user, the lookup proves nothing.
    pub sender: Option<Id>,
    /// When the post was sent to the site.
    pub posted: Instant,
    /// The request that posted it.
    pub post: RequestId,
}

/// A message to be stored, built from validated parts only (CONTRACT 4).
#[derive(Debug)]
pub struct Post {
    /// The sender's credential, by which the site determines the sender.
    pub credential: Option<Credential>,
    /// Where the message goes.
    pub target: Target,
    /// The text exactly as its sender wrote it; not empty. Shared with the hub, which delivers it.
    pub text: Arc<str>,
    /// The user that the connection claims to be. The site never gets this; the built-in stand-in,
    /// which has no tokens, believes it.
    pub claimed: Option<Id>,
}

/// The destination of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// An existing thread, by the site's number, 1 to [`crate::protocol::SITE_ID_MAX`].
    Thread(u64),
    /// This user, in a new thread or in one that the site finds (CONTRACT 3.1).
    NewThread {
        /// The recipient by the site's number, 1 to [`crate::protocol::SITE_ID_MAX`].
        recipient: u64,
    },
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The message is stored.
    Stored(Stored),
    /// The credential belongs to this user.
    Proven(Proven),
    /// The credential's signature is good, and it names this user. The site was not asked.
    Verified(Proven),
    /// The credential is a ticket of the site's plugin.
    Ticket(Ticket),
    /// Whether the user may write to the other participant of the thread.
    CallPermission(bool),
    /// All participants of the thread by the site's numbers, ascending, without deleted accounts.
    /// The user who asked may be missing (CONTRACT 3.2).
    Participants(Box<[u64]>),
    /// The result of looking up a message in its thread.
    LookupResult(LookupResult),
    /// The request failed, or its outcome is unknown.
    Failed(Failure),
}

impl Answer {
    /// Whether the answer shows that the site itself works: it has answered, positively or
    /// negatively.
    pub fn is_from_site(&self) -> bool {
        !matches!(
            self,
            Answer::Failed(
                Failure::SiteBusy { .. }
                    | Failure::SiteUnavailable { .. }
                    | Failure::SiteMisconfigured
                    | Failure::Overloaded
                    | Failure::TokenMissing
                    | Failure::TicketOnly
                    | Failure::Unknown
                    | Failure::Unusable
            )
        )
    }
}

/// The result of looking up a message in its thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupResult {
    /// A message of the sender has the same text and is not older than the post. It may belong to
    /// another post, which the hub decides.
    Match {
        /// The newest such message. [`Stored::message`] is set.
        stored: Stored,
        /// The site's number for the sender's newest message in the thread, of any text.
        newest: u64,
    },
    /// No message of the sender since the post has the same text: the newest one has another, or a
    /// message matches except for its time.
    Mismatch {
        /// The thread of that message.
        thread: u64,
        /// The sender.
        sender: Id,
        /// The site's number for it.
        message: u64,
    },
    /// The sender has no message in the thread since the post.
    Absent,
}

/// A stored message, as the site reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The thread, by the site's number. For a new thread this is the only source of the number.
    pub thread: u64,
    /// The sender according to the site (`current_user`, CONTRACT 3.3).
    pub sender: Id,
    /// The message; `None` if the site's answer no longer contained it.
    pub message: Option<StoredMessage>,
    /// The participants as in [`Answer::Participants`]; `None` if the answer did not contain all of
    /// them (CONTRACT 3.3).
    pub participants: Option<Box<[u64]>>,
    /// When the sender's token expires, in seconds since 1970, if it says so.
    pub expires_s: Option<u64>,
}

/// A ticket of the site's plugin, whose signature is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The user, by the site's number.
    pub user: u64,
    /// When it was issued, in seconds since 1970.
    pub issued_s: u64,
    /// When it expires, in seconds since 1970.
    pub expires_s: u64,
    /// The session in which it was issued.
    pub session: Option<String>,
    /// Threads in which the user takes part.
    pub threads: Box<[u64]>,
    /// Users whom the user blocks, or who block the user.
    pub blocked: Box<[u64]>,
}

/// The user of a credential, according to the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The user, by the site's number.
    pub user: u64,
    /// When the credential expires, in seconds since 1970, if it says so.
    pub expires_s: Option<u64>,
}

/// The content of a stored message, as the site returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// The site's number for it.
    pub id: u64,
    /// The time, as RFC 3339 in UTC: `2026-11-22T11:00:38Z`.
    pub sent_at: String,
    /// The sanitised HTML that the site shows.
    pub html: String,
}

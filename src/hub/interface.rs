//! What the hub is told and what it wants done: the vocabulary between the logic and the shell.
//!
//! The core owns these words and the shell speaks them. Nothing here has heard of HTTP or sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use super::calls::CallSettings;
pub use super::failure::{Failure, FailureContext};
pub use super::held_frames::HeldFrameLimits;
use crate::config::{PresenceScope, Trust};
use crate::protocol::credential::Credential;
use crate::protocol::ice::IceServers;
use crate::protocol::server::EncodedFrame;
use crate::protocol::status::CallStatusReply;
use crate::protocol::{ClientError, Id};

/// One socket from accept to burial: a slot that is used again, and a serial that never is.
///
/// An answer from the site returns seconds later; by then the slot may belong to someone else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    /// The place in the shell's slab.
    pub slot: u32,
    /// Counts connections since the start; wraps after four thousand million.
    pub serial: u32,
}

/// One question to the site; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What time it is, read once a tick by the shell.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For deadlines.
    pub instant: Instant,
    /// Seconds since 1970 in UTC, for dates.
    pub unix_s: u64,
}

/// What the hub is told.
#[derive(Debug)]
pub enum Input<'a> {
    /// A WebSocket has been opened.
    Opened {
        /// The new connection.
        conn: ConnId,
        /// What its handshake brought along to prove who it is, or what is wrong with that.
        credential: Option<Result<Credential, ClientError>>,
    },
    /// A connection sent a text frame.
    Frame {
        /// Who sent it.
        conn: ConnId,
        /// The text, borrowed from the read buffer.
        text: &'a str,
    },
    /// A connection sent a binary frame, which has no meaning in this protocol.
    Binary {
        /// Who sent it.
        conn: ConnId,
    },
    /// A connection says more than it may: this is not heard.
    RateLimited {
        /// Who said it.
        conn: ConnId,
        /// What, if it was a text frame.
        text: Option<&'a str>,
    },
    /// A connection that is no WebSocket asks how a call is. It gets exactly one
    /// [`Effect::SendCallStatus`], unless it is closed before.
    CallStatusRequest {
        /// Who asks; the hub forgets it with the answer.
        conn: ConnId,
        /// What its request brought along to prove whose it is, or what is wrong with that.
        credential: Option<Result<Credential, ClientError>>,
        /// The call.
        call: Id,
    },
    /// A connection is gone; nothing sent to it would arrive.
    Closed {
        /// Which.
        conn: ConnId,
    },
    /// What came of an [`Effect::Ask`].
    Answered {
        /// The question it answers.
        request: RequestId,
        /// What came of it.
        answer: Answer,
    },
}

/// Several connections to which the same is sent: a place in the hub's own list of them, which
/// [`super::Hub::receivers`] shows until the next effect is taken.
#[derive(Clone, Copy, Debug)]
pub struct Receivers {
    pub(super) start: usize,
    pub(super) count: usize,
}

/// What the hub wants done. The bytes of a frame are shared by all its receivers.
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
    /// Put a question to the site. It gets exactly one [`Input::Answered`].
    Ask {
        /// Names the question in its answer.
        request: RequestId,
        /// The question.
        ask: Box<Ask>,
    },
    /// Say goodbye to a connection. An [`Input::Closed`] follows.
    Close {
        /// Which; may be gone by now.
        conn: ConnId,
        /// The close code (RFC 6455 section 7.4, `PROTOCOL.md` 3).
        code: u16,
        /// A few words for its developer.
        reason: &'static str,
    },
    /// Answer who has asked how a call is. Nothing more comes of that connection.
    SendCallStatus {
        /// Who has asked.
        conn: ConnId,
        /// What they are told.
        reply: Box<CallStatusReply>,
    },
    /// Someone is called who has no connection: whoever can wake their phone may do so.
    Wake(Box<CallEvent>),
}

/// A call for someone who is not there.
#[derive(Debug)]
pub struct CallEvent {
    /// What it is called.
    pub call: Id,
    /// Where it is.
    pub thread: Option<Id>,
    /// Who calls.
    pub caller: Id,
    /// Who is called.
    pub called: Id,
}

/// What the hub needs to know; `config` reads it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether a `userId` is believed or proven.
    pub trust: Trust,
    /// Who hears who comes and goes.
    pub presence: PresenceScope,
    /// How long the list of a thread's participants holds.
    pub membership_lasts: Duration,
    /// How long a connection may stay without having proven who it is.
    pub anonymous_lasts: Duration,
    /// Questions about people and threads that are with the site at the same time, at least 1.
    pub site_queries: usize,
    /// How long a message may wait for its turn; `None` is without a limit.
    pub message_turn_lasts: Option<Duration>,
    /// How long `typing` lasts without a repeat.
    pub typing_lasts: Duration,
    /// How long a user stays online without a connection.
    pub presence_grace: Duration,
    /// Threads that one connection may hear.
    pub joins_per_connection: usize,
    /// Threads that somebody hears.
    pub threads: usize,
    /// Messages on their way to the site.
    pub deliveries: DeliveryLimits,
    /// Frames that wait for the site's word on people and threads.
    pub held_frames: HeldFrameLimits,
    /// Calls.
    pub calls: CallSettings,
    /// What is told to those who are about to call.
    pub ice: IceServers,
}

/// How many messages may be on their way.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryLimits {
    /// On the whole server.
    pub total: usize,
    /// Of one connection.
    pub per_connection: usize,
    /// Their texts, in bytes.
    pub bytes: usize,
}

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubCounts {
    /// Open WebSockets.
    pub connections: usize,
    /// Users who are online, those in their grace time among them.
    pub users: usize,
    /// Threads that somebody hears or types in.
    pub threads: usize,
    /// Messages on their way to the site.
    pub deliveries: usize,
    /// Calls that ring, and calls that are answered.
    pub calls: [usize; 2],
}

/// A question to the site. It answers with an [`Answer`].
#[derive(Debug)]
pub enum Ask {
    /// Store a message (CONTRACT 3.1). Answers: stored, failed.
    Post(Post),
    /// Whose credential this is (CONTRACT 2). Answers: proven, failed.
    Prove(Credential),
    /// Who takes part in a thread (CONTRACT 3.2). Answers: listed, failed.
    Participants {
        /// The thread, by the site's number.
        thread: u64,
        /// Of someone who says they take part.
        credential: Credential,
    },
    /// Whether a message is stored whose post had no usable answer (CONTRACT 3.2 and 3.5). Answers:
    /// looked, failed.
    Lookup(Lookup),
}

impl Ask {
    /// Under which request the log tells of this one: a look belongs to its message's.
    pub fn log_request(&self, request: RequestId) -> RequestId {
        match self {
            Ask::Lookup(look) => look.post,
            _ => request,
        }
    }
}

/// A message whose fate is not known.
#[derive(Debug)]
pub struct Lookup {
    /// Its sender's; nobody else's shows which messages are theirs.
    pub credential: Credential,
    /// Where it should have gone.
    pub target: Target,
    /// The text exactly as its sender wrote it.
    pub text: Arc<str>,
    /// Who its sender is, where the server knows: another user's look proves nothing.
    pub sender: Option<Id>,
    /// When the site was asked to store it.
    pub posted: Instant,
    /// The question that asked it to.
    pub post: RequestId,
}

/// A message to be stored, made of checked parts only (CONTRACT 4).
#[derive(Debug)]
pub struct Post {
    /// The sender's; the site decides by it who the sender is.
    pub credential: Option<Credential>,
    /// Where the message goes.
    pub target: Target,
    /// The text exactly as its sender wrote it; not empty. Shared with the hub, which shows it.
    pub text: Arc<str>,
    /// Who the connection says it is. The site never sees this; the embedded stand-in, which has
    /// no tokens, believes it.
    pub claimed: Option<Id>,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// Into a thread that exists, by the site's number, 1 to [`crate::protocol::SITE_ID_MAX`].
    Thread(u64),
    /// To this user, in a new thread or the one that the site finds (CONTRACT 3.1).
    NewThread {
        /// The recipient by the site's number, 1 to [`crate::protocol::SITE_ID_MAX`].
        recipient: u64,
    },
}

/// What came of an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The message is stored.
    Stored(Stored),
    /// The credential is this user's.
    Proven(Proven),
    /// The thread's participants by the site's numbers, ascending, all of them; those whose
    /// accounts are deleted are not among them. Who asked need not be either (CONTRACT 3.2).
    Participants(Box<[u64]>),
    /// What the thread of a message shows of it.
    LookupResult(LookupResult),
    /// It came to nothing, or nobody knows.
    Failed(Failure),
}

impl Answer {
    /// Whether the site itself has answered, good or bad, as a site does that is in order.
    pub fn is_from_site(&self) -> bool {
        !matches!(
            self,
            Answer::Failed(
                Failure::SiteBusy { .. }
                    | Failure::SiteUnavailable { .. }
                    | Failure::SiteMisconfigured
                    | Failure::Overloaded
                    | Failure::TokenMissing
                    | Failure::Unknown
                    | Failure::Unusable
            )
        )
    }
}

/// What the thread into which a message should have gone shows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupResult {
    /// The sender's newest message says the same and is not older than the post. Whether it is
    /// another post's is for the one who knows these to say. It has a [`Stored::message`].
    Match(Stored),
    /// The sender's newest message may be newer than the post and says something else, or is as
    /// good as the post's but for its time.
    Mismatch {
        /// The thread it is in.
        thread: u64,
        /// Who wrote it.
        sender: Id,
        /// The site's number for it.
        message: u64,
    },
    /// There is no message of the sender's since the post.
    Absent,
}

/// A stored message, as the site tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The thread it is in, by the site's number: for a new thread the only place to learn it.
    pub thread: u64,
    /// Who the site says the sender is (`current_user`, CONTRACT 3.3).
    pub sender: Id,
    /// Which message of the thread it is; `None` when the site's answer no longer held it.
    pub message: Option<StoredMessage>,
    /// The thread's participants as in [`Answer::Participants`]; `None` when the answer did not hold
    /// all of them (CONTRACT 3.3).
    pub participants: Option<Box<[u64]>>,
    /// When the sender's token expires, in seconds since 1970, where it says so.
    pub expires_s: Option<u64>,
}

/// Whose a credential is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The user, by the site's number.
    pub user: u64,
    /// When it expires, in seconds since 1970, where it says so.
    pub expires_s: Option<u64>,
}

/// What the site made of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// The site's number for it.
    pub id: u64,
    /// When, as RFC 3339 in UTC: `2026-11-22T11:00:38Z`.
    pub sent_at: String,
    /// The sanitised HTML that the web page shows.
    pub html: String,
}

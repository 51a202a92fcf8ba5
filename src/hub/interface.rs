//! What the hub is told and what it wants done: the vocabulary between the logic and the shell.
//!
//! The core owns these words and the shell speaks them. Nothing here has heard of HTTP or sockets.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use super::failure::Failure;
use crate::protocol::Id;
use crate::protocol::server::EncodedFrame;

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

/// What the hub wants done. One `Send` per receiver; the bytes are shared.
#[derive(Debug)]
pub enum Effect {
    /// Put a frame into a connection's outbox.
    Send {
        /// The receiver; may be gone by now.
        to: ConnId,
        /// What it gets.
        frame: EncodedFrame,
    },
    /// Put a question to the site. It gets exactly one [`Input::Answered`].
    Ask {
        /// Names the question in its answer.
        request: RequestId,
        /// The question.
        ask: Box<Ask>,
    },
}

/// What the hub needs to know; `config` reads it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long `typing` lasts without a repeat.
    pub typing_lasts: Duration,
    /// How long a user stays online without a connection.
    pub presence_grace: Duration,
    /// Threads that one connection may hear.
    pub joins_per_connection: usize,
    /// Messages on their way to the site.
    pub deliveries: Bounds,
}

/// How many messages may be on their way.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// On the whole server.
    pub total: usize,
    /// Of one connection.
    pub per_connection: usize,
    /// Their texts, in bytes.
    pub bytes: usize,
}

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Open WebSockets.
    pub connections: usize,
    /// Threads that somebody hears or types in.
    pub threads: usize,
    /// Messages on their way to the site.
    pub deliveries: usize,
}

/// A question to the site. It answers with an [`Answer`].
#[derive(Debug)]
pub enum Ask {
    /// Store a message (CONTRACT 3.1).
    Post(Post),
}

/// A message to be stored, made of checked parts only (CONTRACT 4).
#[derive(Debug)]
pub struct Post {
    /// The sender's credential; the site decides by it who the sender is.
    pub token: Option<Token>,
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

/// A credential on its way to the site. It prints as `Token(…)`, whatever it holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

impl Token {
    /// The longest token, in bytes; web servers refuse longer header lines anyway.
    pub const BYTES_MAX: usize = 4096;

    /// A token that can stand in a header line: printable ASCII without spaces, not empty.
    pub fn new(text: &str) -> Option<Token> {
        let printable = text.bytes().all(|b| b.is_ascii_graphic());
        (printable && !text.is_empty() && text.len() <= Self::BYTES_MAX).then(|| Token(text.into()))
    }

    /// The secret itself, for the one header line that needs it.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What came of an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The message is stored.
    Stored(Stored),
    /// It is not, or nobody knows.
    Failed(Failure),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_prints() {
        let token = Token::new("secret-secret").unwrap();
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn a_token_fits_into_a_header_line() {
        assert!(Token::new("eyJ0.eyJp.c2ln").is_some());
        for bad in ["", "two words", "line\r\nX-Evil: 1", "naïve", "\u{0}"] {
            assert!(Token::new(bad).is_none(), "{bad:?}");
        }
        assert!(Token::new(&"x".repeat(Token::BYTES_MAX)).is_some());
        assert!(Token::new(&"x".repeat(Token::BYTES_MAX + 1)).is_none());
    }
}

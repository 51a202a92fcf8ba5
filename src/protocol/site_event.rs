//! Parses what the site's plugin reports: the body of `POST /site/events` becomes [`SiteEvent`]s.
//!
//! Unknown types and fields are ignored, so that an older server understands a newer plugin. An
//! event that lacks what its type needs is ignored as well, and counted.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ID_BYTES_MAX, Id, SITE_ID_MAX};

/// The most events in one body.
pub const EVENTS_MAX: usize = 1_000;
/// The most users in one list of an event; an event with more is ignored.
pub const USERS_MAX: usize = 20_000;
/// The longest `id` of a body, in bytes.
const BODY_ID_MAX: usize = 64;
/// The shortest `id` of a body, in bytes.
const BODY_ID_MIN: usize = 16;

/// The body of a request of the plugin.
#[derive(Debug)]
pub struct SiteEvents {
    /// Its unique id; a body with the same id is a replay.
    pub id: String,
    /// The version of the plugin.
    pub plugin: Option<String>,
    /// The events, in order.
    pub events: Vec<SiteEvent>,
    /// Events of unknown types, and malformed ones.
    pub ignored: usize,
}

/// Something that has happened on the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteEvent {
    /// A message was stored, wherever it was written.
    Message(Box<SiteMessage>),
    /// A thread no longer exists. Its number may be used again.
    ThreadDeleted {
        /// The thread.
        thread: u64,
        /// Its last participants.
        recipients: Box<[u64]>,
    },
    /// Users have been added to a thread or removed from it.
    Participants {
        /// The thread.
        thread: u64,
        /// The users who are participants from now on.
        added: Box<[u64]>,
        /// The users who no longer are.
        removed: Box<[u64]>,
    },
    /// A user has blanked messages of their own.
    Blanked {
        /// The thread.
        thread: u64,
        /// The user.
        user: u64,
        /// The messages.
        messages: Box<[u64]>,
    },
    /// A user has changed the state of a thread for themselves.
    Thread {
        /// The change.
        change: ThreadChange,
        /// The thread.
        thread: u64,
        /// The user.
        user: u64,
        /// How many threads or messages the user has not read, as the site counts.
        unread_total: Option<u64>,
        /// The newest message that was read, if known.
        up_to: Option<u64>,
    },
    /// A user has blocked another.
    Block {
        /// The user who blocks.
        user: u64,
        /// The user who is blocked.
        blocked: u64,
    },
    /// A user has unblocked another.
    Unblock {
        /// The user who blocked.
        user: u64,
        /// The user who was blocked.
        blocked: u64,
    },
    /// A user may no longer use the site, or has signed out.
    Revoked {
        /// The user.
        user: u64,
        /// Why.
        reason: Revocation,
    },
    /// A user may use the site again.
    Unsuspended {
        /// The user.
        user: u64,
    },
    /// A user has a notification.
    Notification {
        /// The user.
        user: u64,
        /// The component of BuddyBoss, such as `friends`.
        component: String,
        /// Its action, such as `friendship_request`.
        action: String,
        /// How many notifications the user has not read.
        unread_total: Option<u64>,
    },
    /// The plugin may have missed events: nothing that was learned before is certain.
    Resync,
    /// The plugin tests the connection.
    Test {
        /// The token of the test.
        token: String,
    },
}

/// A stored message, as the plugin reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteMessage {
    /// The thread.
    pub thread: u64,
    /// The site's number for the message.
    pub message: u64,
    /// The user who wrote it.
    pub sender: u64,
    /// All other participants.
    pub recipients: Box<[u64]>,
    /// The time, as RFC 3339 in UTC.
    pub sent_at: String,
    /// The stored text.
    pub text: String,
    /// The HTML that the site shows.
    pub html: String,
    /// The attached files.
    pub attachments: Option<Attachments>,
    /// Recipients who must not see it: a block stands between them and the sender.
    pub hidden_from: Box<[u64]>,
    /// Set for a notice that a user has joined or left a group.
    pub notice: Option<Notice>,
    /// Whether it counts as read for everyone.
    pub silent: bool,
    /// The `clientId` under which an app sent it.
    pub client_id: Option<Id>,
}

/// The numbers of files attached to a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Attachments {
    /// Photos.
    pub photos: u32,
    /// Videos.
    pub videos: u32,
    /// Documents.
    pub documents: u32,
    /// Whether there is a GIF.
    pub gif: bool,
}

/// The kind of a group's notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Notice {
    /// A user has joined the group.
    Join,
    /// A user has left the group.
    Left,
}

/// A change of a thread that concerns one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadChange {
    /// The user has read it.
    Read,
    /// The user has marked it as unread.
    Unread,
    /// The user has archived it.
    Archived,
    /// The user has restored it from the archive.
    Unarchived,
}

/// Why a user's proofs are revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// The account is suspended.
    Suspended,
    /// The account is deleted.
    Deleted,
    /// The user has signed out: of the session with this `sid`, or of all.
    SignedOut {
        /// The session, as tickets name it.
        session: Option<String>,
    },
}

#[derive(Deserialize)]
struct Body<'a> {
    id: String,
    #[serde(default)]
    plugin: Option<String>,
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(rename = "type")]
    #[serde(borrow)]
    kind: Cow<'a, str>,
    thread_id: Option<u64>,
    message_id: Option<u64>,
    sender_id: Option<u64>,
    user_id: Option<u64>,
    blocked_id: Option<u64>,
    #[serde(default)]
    recipients: Vec<u64>,
    #[serde(default)]
    added: Vec<u64>,
    #[serde(default)]
    removed: Vec<u64>,
    #[serde(default)]
    message_ids: Vec<u64>,
    #[serde(default)]
    hidden_from: Vec<u64>,
    sent_at: Option<String>,
    text: Option<String>,
    html: Option<String>,
    attachments: Option<Attachments>,
    notice: Option<Notice>,
    #[serde(default)]
    silent: bool,
    client_id: Option<serde_json::Value>,
    unread_total: Option<u64>,
    up_to: Option<u64>,
    component: Option<String>,
    action: Option<String>,
    sid: Option<String>,
    token: Option<String>,
}

impl SiteEvents {
    /// Parses a body whose signature has been verified.
    ///
    /// # Errors
    ///
    /// A sentence for the plugin's log: the body is not of this shape.
    pub fn parse(body: &[u8]) -> Result<SiteEvents, &'static str> {
        let body: Body<'_> = serde_json::from_slice(body)
            .map_err(|_| "the body is not a JSON object with id and events")?;
        let is_id_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if !(BODY_ID_MIN..=BODY_ID_MAX).contains(&body.id.len()) || !body.id.bytes().all(is_id_byte)
        {
            return Err("id must be 16 to 64 letters, digits, - or _");
        }
        if body.events.len() > EVENTS_MAX {
            return Err("more than 1000 events in one body");
        }
        let all = body.events.len();
        let events: Vec<SiteEvent> =
            body.events.into_iter().filter_map(|raw| SiteEvent::parse(raw.get())).collect();
        let ignored = all - events.len();
        Ok(SiteEvents { id: body.id, plugin: body.plugin, events, ignored })
    }
}

impl SiteEvent {
    /// The names of all types, in the order of [`SiteEvent::type_index`].
    pub const TYPES: [&'static str; 16] = [
        "message",
        "thread_deleted",
        "participants",
        "blanked",
        "read",
        "unread",
        "archived",
        "unarchived",
        "block",
        "unblock",
        "suspended",
        "deleted",
        "signed_out",
        "unsuspended",
        "notification",
        "resync",
    ];

    /// The index of this event's type in [`SiteEvent::TYPES`]; `None` for a test.
    pub fn type_index(&self) -> Option<usize> {
        Some(match self {
            SiteEvent::Message(_) => 0,
            SiteEvent::ThreadDeleted { .. } => 1,
            SiteEvent::Participants { .. } => 2,
            SiteEvent::Blanked { .. } => 3,
            SiteEvent::Thread { change, .. } => 4 + *change as usize,
            SiteEvent::Block { .. } => 8,
            SiteEvent::Unblock { .. } => 9,
            SiteEvent::Revoked { reason, .. } => match reason {
                Revocation::Suspended => 10,
                Revocation::Deleted => 11,
                Revocation::SignedOut { .. } => 12,
            },
            SiteEvent::Unsuspended { .. } => 13,
            SiteEvent::Notification { .. } => 14,
            SiteEvent::Resync => 15,
            SiteEvent::Test { .. } => return None,
        })
    }

    /// Parses one event; `None` if its type is unknown or something is missing.
    pub fn parse(text: &str) -> Option<SiteEvent> {
        let fields: Fields<'_> = serde_json::from_str(text).ok()?;
        let id = |number: Option<u64>| number.filter(|n| (1..=SITE_ID_MAX).contains(n));
        let thread = || id(fields.thread_id);
        let user = || id(fields.user_id);
        let lists = [&fields.recipients, &fields.added, &fields.removed, &fields.hidden_from];
        if lists
            .iter()
            .any(|list| list.len() > USERS_MAX || list.iter().any(|n| id(Some(*n)).is_none()))
        {
            return None;
        }
        let change = |change| {
            Some(SiteEvent::Thread {
                change,
                thread: thread()?,
                user: user()?,
                unread_total: fields.unread_total,
                up_to: id(fields.up_to),
            })
        };
        let revoked = |reason| Some(SiteEvent::Revoked { user: user()?, reason });
        match &*fields.kind {
            "message" => {
                let client_id = match &fields.client_id {
                    Some(serde_json::Value::Number(number)) => number.as_u64().map(Id::number),
                    Some(serde_json::Value::String(text)) => {
                        (text.len() <= ID_BYTES_MAX).then(|| Id::string(text))
                    }
                    _ => None,
                };
                Some(SiteEvent::Message(Box::new(SiteMessage {
                    thread: thread()?,
                    message: id(fields.message_id)?,
                    sender: id(fields.sender_id)?,
                    recipients: sorted(fields.recipients),
                    sent_at: fields.sent_at?,
                    text: fields.text?,
                    html: fields.html.unwrap_or_default(),
                    attachments: fields.attachments,
                    hidden_from: sorted(fields.hidden_from),
                    notice: fields.notice,
                    silent: fields.silent,
                    client_id,
                })))
            }
            "thread_deleted" => Some(SiteEvent::ThreadDeleted {
                thread: thread()?,
                recipients: sorted(fields.recipients),
            }),
            "participants" => Some(SiteEvent::Participants {
                thread: thread()?,
                added: sorted(fields.added),
                removed: sorted(fields.removed),
            }),
            "blanked" => Some(SiteEvent::Blanked {
                thread: thread()?,
                user: user()?,
                messages: sorted(fields.message_ids),
            }),
            "read" => change(ThreadChange::Read),
            "unread" => change(ThreadChange::Unread),
            "archived" => change(ThreadChange::Archived),
            "unarchived" => change(ThreadChange::Unarchived),
            "block" => Some(SiteEvent::Block { user: user()?, blocked: id(fields.blocked_id)? }),
            "unblock" => {
                Some(SiteEvent::Unblock { user: user()?, blocked: id(fields.blocked_id)? })
            }
            "suspended" => revoked(Revocation::Suspended),
            "deleted" => revoked(Revocation::Deleted),
            "signed_out" => revoked(Revocation::SignedOut { session: fields.sid }),
            "unsuspended" => Some(SiteEvent::Unsuspended { user: user()? }),
            "notification" => Some(SiteEvent::Notification {
                user: user()?,
                component: fields.component?,
                action: fields.action?,
                unread_total: fields.unread_total,
            }),
            "resync" => Some(SiteEvent::Resync),
            "test" => Some(SiteEvent::Test { token: fields.token? }),
            _ => None,
        }
    }
}

/// The numbers in ascending order, each once.
fn sorted(mut numbers: Vec<u64>) -> Box<[u64]> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(events: &str) -> Vec<u8> {
        format!(r#"{{"id":"0123456789abcdef","sentAt":1,"events":[{events}]}}"#).into_bytes()
    }

    #[test]
    fn each_type_is_read_and_has_its_name() {
        let ids = r#""threadId":4,"userId":2,"messageId":28,"senderId":2,"blockedId":3"#;
        let rest = r#""recipients":[4,3,3],"sentAt":"2026-11-22T11:00:44Z","text":"csv",
            "component":"friends","action":"request","added":[5],"removed":[6],"messageIds":[7]"#;
        for (index, kind) in SiteEvent::TYPES.iter().enumerate() {
            let text = format!(r#"{{"type":"{kind}",{ids},{rest},"new":[{{}}]}}"#);
            let event = SiteEvent::parse(&text).unwrap_or_else(|| panic!("{kind}"));
            assert_eq!(event.type_index(), Some(index), "{kind}");
            if let SiteEvent::Message(message) = event {
                assert_eq!((message.thread, message.message, message.sender), (4, 28, 2));
                assert_eq!(&*message.recipients, [3, 4]);
            }
        }
        let test = SiteEvent::parse(r#"{"type":"test","token":"x"}"#).unwrap();
        assert_eq!((test.type_index(), test), (None, SiteEvent::Test { token: "x".into() }));
    }

    #[test]
    fn unknown_and_malformed_events_are_ignored_and_counted() {
        let events = r#"{"type":"resync"},{"type":"new"},{"type":"block","userId":2},
            {"type":"block","userId":2,"blockedId":0},{"type":"read","threadId":"4","userId":2},7"#;
        let parsed = SiteEvents::parse(&body(events)).unwrap();
        assert_eq!((parsed.events, parsed.ignored), (vec![SiteEvent::Resync], 5));
    }

    #[test]
    fn body_is_bounded_and_needs_an_id() {
        let many = vec![r#"{"type":"resync"}"#; EVENTS_MAX + 1].join(",");
        assert!(SiteEvents::parse(&body(&many)).is_err());
        let users = (1..=USERS_MAX as u64 + 1).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let large = format!(r#"{{"type":"participants","threadId":1,"added":[{users}]}}"#);
        assert_eq!(SiteEvents::parse(&body(&large)).unwrap().ignored, 1);
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"id":"short","events":[]}"#,
            r#"{"id":"0123456789abcde/","events":[]}"#,
        ] {
            assert!(SiteEvents::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}

//! Classifies the server's encoded frames by type, for the metrics.
//!
//! The kind is read from the encoded bytes, once for all receivers of a frame, so it need not be
//! passed along from the encoder to the socket.

/// The kind of a sent frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerFrameKind {
    /// A user has come online.
    UserConnected,
    /// A user has gone offline.
    UserDisconnected,
    /// The connection is subscribed to a thread.
    ThreadJoined,
    /// The connection is no longer subscribed to a thread.
    ThreadLeft,
    /// A stored message.
    Message,
    /// A user types, or has stopped typing.
    Typing,
    /// The list of online users.
    OnlineUsers,
    /// The reply to a ping frame.
    Pong,
    /// An error.
    Error,
    /// A relayed call frame.
    Call,
    /// A batch of presence frames in one buffer.
    Batch,
    /// STUN and TURN servers.
    IceServers,
    /// Something for the inbox of a user, or its begin or end.
    Inbox,
    /// A participant has read a thread.
    ThreadRead,
    /// Messages were blanked.
    ContentDeleted,
}

/// The first bytes of each frame that the server makes itself.
const FRAME_PREFIX: &[u8] = br#"{"type":""#;

impl ServerFrameKind {
    /// Every kind with its name in metrics, in the order of their discriminants.
    pub(crate) const ALL: [(ServerFrameKind, &'static str); 15] = [
        (ServerFrameKind::UserConnected, "user_connected"),
        (ServerFrameKind::UserDisconnected, "user_disconnected"),
        (ServerFrameKind::ThreadJoined, "thread_joined"),
        (ServerFrameKind::ThreadLeft, "thread_left"),
        (ServerFrameKind::Message, "message"),
        (ServerFrameKind::Typing, "typing"),
        (ServerFrameKind::OnlineUsers, "online_users"),
        (ServerFrameKind::Pong, "pong"),
        (ServerFrameKind::Error, "error"),
        (ServerFrameKind::Call, "call"),
        (ServerFrameKind::Batch, "gathered"),
        (ServerFrameKind::IceServers, "ice_servers"),
        (ServerFrameKind::Inbox, "inbox"),
        (ServerFrameKind::ThreadRead, "thread_read"),
        (ServerFrameKind::ContentDeleted, "content_deleted"),
    ];

    /// The kind of an encoded text frame, header included, by a few characters of its `type`. Any
    /// frame that the server did not make itself is a call frame.
    pub(crate) fn classify(frame: &[u8]) -> ServerFrameKind {
        let (head, payload) = match frame {
            [_, 127, a, b, c, d, e, f, g, h, ..] => {
                (10, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]))
            }
            [_, 126, a, b, ..] => (4, u64::from(u16::from_be_bytes([*a, *b]))),
            [_, length, ..] => (2, u64::from(*length)),
            _ => return ServerFrameKind::Call,
        };
        let Some(text) = frame.get(head..) else { return ServerFrameKind::Call };
        if text.len() as u64 != payload {
            return ServerFrameKind::Batch;
        }
        match text.strip_prefix(FRAME_PREFIX) {
            Some([b'u', _, _, _, _, b'c', ..]) => ServerFrameKind::UserConnected,
            Some([b'u', _, _, _, _, b'd', ..]) => ServerFrameKind::UserDisconnected,
            Some([b't', b'h', _, _, _, _, _, b'j', ..]) => ServerFrameKind::ThreadJoined,
            Some([b't', b'h', _, _, _, _, _, b'l', ..]) => ServerFrameKind::ThreadLeft,
            Some([b'm', ..]) => ServerFrameKind::Message,
            Some([b't', b'y', ..]) => ServerFrameKind::Typing,
            Some([b'o', b'n', ..]) => ServerFrameKind::OnlineUsers,
            Some([b'p', ..]) => ServerFrameKind::Pong,
            Some([b'i', b'c', b'e', b'_', ..]) => ServerFrameKind::IceServers,
            Some([b'i', b'n', b'b', ..]) => ServerFrameKind::Inbox,
            Some([b't', b'h', _, _, _, _, _, b'r', ..]) => ServerFrameKind::ThreadRead,
            Some([b'c', b'o', ..]) => ServerFrameKind::ContentDeleted,
            Some([b'e', ..]) => ServerFrameKind::Error,
            _ => ServerFrameKind::Call,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::RelayedFrame;
    use super::super::client::{FrameType, ReplyTo};
    use super::super::server::{Encoder, ErrorFrame, InboxFrame, MessageFrame, ServerFrame};
    use super::super::{ClientError, ErrorCode, Id, IdKey};
    use super::*;

    #[test]
    fn frame_type_is_detected_at_any_frame_length() {
        let mut encoder = Encoder::default();
        let fault = ClientError::new(ErrorCode::TextOnly, "x");
        let reply = ReplyTo::default();
        let id = Id::number(7);
        let long = "x".repeat(70_000);
        for text in ["x", &long[..300], &long] {
            let message = MessageFrame {
                thread_id: &id,
                sender_id: &id,
                recipient_id: None,
                message: text,
                message_id: None,
                sent_at: None,
                html: None,
                attachments: None,
                notice: None,
                inbox: false,
                client_id: None,
            };
            let error = ErrorFrame::new(&fault, &reply);
            for frame in [
                ServerFrame::UserConnected { user_id: &id, client_id: None },
                ServerFrame::UserDisconnected { user_id: &id },
                ServerFrame::ThreadJoined { thread_id: &id, client_id: None },
                ServerFrame::ThreadLeft { thread_id: &id, reason: None, client_id: None },
                ServerFrame::Message(message),
                ServerFrame::Typing {
                    thread_id: &id,
                    user_id: None,
                    typing: true,
                    client_id: None,
                },
                ServerFrame::OnlineUsers { thread_id: None, user_ids: &[], client_id: None },
                ServerFrame::Pong { client_id: None },
                ServerFrame::IceServers { ice_servers: &[], ttl: None, client_id: None },
                ServerFrame::Inbox(InboxFrame { event: "read", ..InboxFrame::default() }),
                ServerFrame::ThreadRead { thread_id: &id, user_id: &id, up_to: 1 },
                ServerFrame::ContentDeleted { thread_id: &id, ids: &[1] },
                ServerFrame::Error(error),
            ] {
                let json = serde_json::to_value(&frame).unwrap();
                let encoded = encoder.encode(&frame);
                let kind = ServerFrameKind::classify(&encoded);
                assert_eq!(
                    ServerFrameKind::ALL[kind as usize],
                    (kind, json["type"].as_str().unwrap())
                );
                let two = [&encoded[..], &encoded[..]].concat();
                assert_eq!(ServerFrameKind::classify(&two), ServerFrameKind::Batch);
            }
        }
    }

    #[test]
    fn call_type_is_detected_at_any_field_position() {
        let mut encoder = Encoder::default();
        for (_, word) in &FrameType::ALL[5..17] {
            for text in [
                format!(r#"{{"type":"{word}","recipientId":8}}"#),
                format!(r#"{{"recipientId":8,"type":"{word}"}}"#),
                r#"{"x":"{\"type\":\"message\"}"}"#.to_owned(),
            ] {
                let text =
                    RelayedFrame::read(&text, &IdKey::Number(7)).unwrap().with_ids(None, None);
                assert_eq!(
                    ServerFrameKind::classify(&encoder.encode_text(&text)),
                    ServerFrameKind::Call,
                    "{text}"
                );
            }
        }
        for bytes in [&[][..], &[0x81], &[0x81, 127, 0], &[0x81, 0]] {
            ServerFrameKind::classify(bytes);
        }
    }

    #[test]
    fn frame_types_are_ordered_by_discriminant() {
        assert!(ServerFrameKind::ALL.iter().enumerate().all(|(n, (kind, _))| *kind as usize == n));
    }
}

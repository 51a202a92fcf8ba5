//! Feeds whole frames to a tungstenite context: control frames, binary messages and fragments.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

use super::Event;
use super::outbox::Outbox;

/// Read buffer of a context, in bytes. Most frames fit, and it is zeroed before each read.
const READ_BUFFER_BYTES: usize = 1024;

/// Limit of a context's write buffer, in bytes. Never reached: the outbox takes every write.
const WRITE_BUFFER_BYTES_MAX: usize = 64 * 1024;

pub(super) fn context(frame_bytes_max: usize) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(frame_bytes_max))
        .max_frame_size(Some(frame_bytes_max))
        .accept_unmasked_frames(false);
    WebSocketContext::new(Role::Server, Some(config))
}

pub(super) enum Received {
    Message(Event<'static>),
    Control,
    Nothing,
    Closed,
}

/// Feeds one whole frame, and reads until the context has no more results.
pub(super) fn read_frame(
    context: &mut WebSocketContext,
    frame: &[u8],
    outbox: &mut Outbox,
) -> Result<Received, Error> {
    let mut stream = FrameStream { input: frame, outbox };
    let mut control = false;
    loop {
        match context.read(&mut stream) {
            Ok(Message::Text(text)) => {
                let text = Cow::Owned(text.as_str().to_owned());
                return Ok(Received::Message(Event::Text(text)));
            }
            Ok(Message::Binary(bytes)) => return Ok(Received::Message(Event::Binary(bytes))),
            // The next read writes the pong or the close reply.
            Ok(_) => control = true,
            Err(Error::Io(fault)) if fault.kind() == io::ErrorKind::WouldBlock => {
                return Ok(if control { Received::Control } else { Received::Nothing });
            }
            Err(Error::ConnectionClosed) => return Ok(Received::Closed),
            Err(fault) => return Err(fault),
        }
    }
}

/// The stream that a context sees: it reads the given frame and writes into the outbox. With a
/// write buffer of 0 bytes each pong or close is written as one whole frame.
struct FrameStream<'a> {
    input: &'a [u8],
    outbox: &'a mut Outbox,
}

impl Read for FrameStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buffer)
    }
}

impl Write for FrameStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outbox.push(bytes.into());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! Where a frame ends, and the text of one that is a whole message by itself.

use std::borrow::Cow;
use std::io::Cursor;

use tungstenite::Error;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::{Codec, Event};

/// Takes so many bytes off the front.
pub(super) fn take<'a>(input: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let (taken, rest) = std::mem::take(input).split_at_mut(bytes);
    *input = rest;
    taken
}

pub(super) enum NextFrame {
    Incomplete,
    /// At the start of the input.
    InInput(FrameSize),
    /// All that is in `partial`.
    InPartial(FrameSize),
}

/// What a frame's first bytes tell.
pub(super) struct FrameSize {
    pub(super) header: FrameHeader,
    /// Where the payload begins. A length may be written in more bytes than it needs, so that this
    /// does not follow from the header.
    pub(super) payload_at: usize,
    /// Of the whole frame.
    pub(super) bytes: usize,
}

/// The size of the frame that starts here, once its header is complete.
pub(super) fn frame_size(codec: &Codec, bytes: &[u8]) -> Result<Option<FrameSize>, Error> {
    let mut cursor = Cursor::new(bytes);
    let Some((header, payload)) = FrameHeader::parse(&mut cursor)? else {
        return Ok(None);
    };
    let max = codec.frame_bytes_max;
    // A header may claim any length, and without a limit any is let in: the sum must not overflow.
    let payload = usize::try_from(payload).ok().filter(|payload| *payload <= max);
    let payload_at = cursor.position() as usize;
    match payload.and_then(|payload| payload.checked_add(payload_at)) {
        Some(bytes) => Ok(Some(FrameSize { header, payload_at, bytes })),
        None => Err(Error::Capacity(tungstenite::error::CapacityError::MessageTooLong {
            size: usize::MAX,
            max_size: max,
        })),
    }
}

/// The mask of a frame that is a whole text by itself, as nearly all are: read here, it does not go
/// through the buffers of a context. `None` where there is anything else to it.
pub(super) fn plain_text_mask(header: &FrameHeader) -> Option<[u8; 4]> {
    let extended = header.rsv1 || header.rsv2 || header.rsv3;
    let text = header.is_final && matches!(header.opcode, OpCode::Data(Data::Text));
    header.mask.filter(|_| text && !extended)
}

/// Of a masked frame of less than 126 bytes.
pub(super) const SHORT_HEADER_BYTES: usize = 6;

/// The size and the mask of a text that is whole, short and not in fragments: what nearly all
/// clients say (RFC 6455 section 5.2).
pub(super) fn short_text(codec: &Codec, input: &[u8]) -> Option<(usize, [u8; 4])> {
    let [0x81, length @ 0x80..0xfe, a, b, c, d, payload @ ..] = input else { return None };
    let length = usize::from(length & 0x7f);
    let whole = length <= payload.len() && length <= codec.frame_bytes_max;
    whole.then_some((SHORT_HEADER_BYTES + length, [*a, *b, *c, *d]))
}

/// Unmasks a whole text.
pub(super) fn text(payload: &mut [u8], mask: [u8; 4]) -> Result<Event<'_>, Error> {
    let mut words = payload.chunks_exact_mut(mask.len());
    for word in &mut words {
        word.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
    words.into_remainder().iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    match std::str::from_utf8(payload) {
        Ok(text) => Ok(Event::Text(Cow::Borrowed(text))),
        Err(fault) => Err(Error::Utf8(fault.to_string())),
    }
}

//! Finds frame boundaries, and decodes unfragmented text frames without a context.

use std::borrow::Cow;
use std::io::Cursor;

use tungstenite::Error;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::{Codec, Event};

/// Removes `bytes` bytes from the front of the input and returns them.
pub(super) fn take<'a>(input: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let (taken, rest) = std::mem::take(input).split_at_mut(bytes);
    *input = rest;
    taken
}

pub(super) enum NextFrame {
    Incomplete,
    /// At the start of the input.
    InInput(FrameSize),
    /// `partial` holds exactly this frame.
    InPartial(FrameSize),
}

/// A frame's header and sizes.
pub(super) struct FrameSize {
    pub(super) header: FrameHeader,
    /// Offset of the payload. It does not follow from the header: a length may be encoded in more
    /// bytes than it needs.
    pub(super) payload_at: usize,
    /// Length of the whole frame.
    pub(super) bytes: usize,
}

/// Parses the header of the frame at the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
///
/// The header is invalid, or the payload exceeds the limit.
pub(super) fn frame_size(codec: &Codec, bytes: &[u8]) -> Result<Option<FrameSize>, Error> {
    let mut cursor = Cursor::new(bytes);
    let Some((header, payload)) = FrameHeader::parse(&mut cursor)? else {
        return Ok(None);
    };
    let max = codec.frame_bytes_max;
    // A header may claim any length, and the limit may be disabled: the sum must not overflow.
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

/// The mask of an unfragmented text frame, as nearly all are; `None` for any other frame. Decoding
/// it here avoids the copy through the buffers of a context.
pub(super) fn plain_text_mask(header: &FrameHeader) -> Option<[u8; 4]> {
    let extended = header.rsv1 || header.rsv2 || header.rsv3;
    let text = header.is_final && matches!(header.opcode, OpCode::Data(Data::Text));
    header.mask.filter(|_| text && !extended)
}

/// Header length of a masked frame with less than 126 bytes of payload.
pub(super) const SHORT_HEADER_BYTES: usize = 6;

/// The length and mask of a complete, unfragmented text frame with less than 126 bytes of payload
/// (RFC 6455 section 5.2), the most frequent one; `None` for anything else.
pub(super) fn short_text(codec: &Codec, input: &[u8]) -> Option<(usize, [u8; 4])> {
    let [0x81, length @ 0x80..0xfe, a, b, c, d, payload @ ..] = input else { return None };
    let length = usize::from(length & 0x7f);
    let whole = length <= payload.len() && length <= codec.frame_bytes_max;
    whole.then_some((SHORT_HEADER_BYTES + length, [*a, *b, *c, *d]))
}

/// Unmasks a text payload in place.
///
/// # Errors
///
/// The text is not valid UTF-8.
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

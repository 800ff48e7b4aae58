//! The envelope: length-prefixed, checksummed frames, and batches of messages in one frame.
//!
//! ```text
//! u32 length (of what follows) · u32 crc32 (of what follows it) ·
//! u8 version · u8 kind · u16 flags · u64 request id · body
//! ```
//!
//! A batch is a frame of kind [`KIND_BATCH`] whose body is a row of items, each treated exactly as if
//! it had come in a frame of its own: `u8 kind · u16 flags · u64 request id · u32 length · body`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader};
use crate::limits::{BATCH_BYTES_SOFT_MAX, BATCH_ITEMS_MAX};

/// The protocol version of this crate, in every frame after the handshake.
pub const PROTOCOL_VERSION: u8 = 1;

/// The oldest version it still speaks.
pub const PROTOCOL_VERSION_MIN: u8 = 1;

/// The kind of a frame that carries many messages.
pub const KIND_BATCH: u8 = 0x04;

/// Flag: another node has already forwarded this request; it may not be forwarded again.
pub const FLAG_FORWARDED: u16 = 1;

/// Length and checksum: what stands before the counted and checked part.
const PREFIX_BYTES: usize = 8;

/// Version, kind, flags and request id.
const HEADER_BYTES: usize = 12;

/// The smallest value of the length field: checksum and header without a body.
pub const LENGTH_MIN: usize = 4 + HEADER_BYTES;

/// Bytes that a frame needs beside its body.
pub const FRAME_HEADER_BYTES: usize = PREFIX_BYTES + HEADER_BYTES;

/// What addresses a message: its kind, its flags, and the id that its answer will carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which message the body holds.
    pub kind: u8,
    /// Bits such as [`FLAG_FORWARDED`]; unknown ones are ignored.
    pub flags: u16,
    /// Chosen by the sender of a request; its answer repeats it.
    pub request_id: u64,
}

impl Header {
    /// A header without flags.
    pub fn new(kind: u8, request_id: u64) -> Self {
        let flags = 0;
        Self {
            kind,
            flags,
            request_id,
        }
    }

    /// Whether another node forwarded the request.
    pub fn is_forwarded(&self) -> bool {
        self.flags & FLAG_FORWARDED != 0
    }
}

/// One message as it came: its header and its undecoded body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What addresses it.
    pub header: Header,
    /// The encoded message; it shares the read buffer.
    pub body: Bytes,
}

/// Why the bytes of a connection are no frames. The connection cannot go on after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length field is below the size of a header.
    #[error("frame length {length} is below the minimum of {LENGTH_MIN}")]
    TooShort {
        /// What it says.
        length: u32,
    },
    /// The length field is beyond what this connection accepts.
    #[error("frame length {length} is over the limit of {max} bytes")]
    TooLong {
        /// What it says.
        length: u32,
        /// What is accepted.
        max: usize,
    },
    /// The checksum does not fit the bytes.
    #[error("frame checksum mismatch: sent {sent:08x}, computed {computed:08x}")]
    Checksum {
        /// In the frame.
        sent: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// A protocol version that was not agreed on.
    #[error("frame of protocol version {version}, {PROTOCOL_VERSION} was agreed on")]
    Version {
        /// In the frame.
        version: u8,
    },
    /// The body of a batch is no row of items.
    #[error("malformed batch: {0}")]
    Batch(#[from] DecodeError),
}

/// Cuts frames off the front of a read buffer.
#[derive(Debug, Clone)]
pub struct FrameDecoder {
    length_max: usize,
}

impl FrameDecoder {
    /// A decoder that accepts length fields up to `length_max` bytes.
    pub fn new(length_max: usize) -> Self {
        Self { length_max }
    }

    /// The next whole frame, or `None` until more bytes have come. A batch comes as one frame; see
    /// [`split_batch`].
    ///
    /// It never reserves memory on the word of the length field.
    ///
    /// # Errors
    /// [`FrameError`], after which the stream has no known frame boundary any more.
    pub fn next(&self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(prefix) = buffer.first_chunk::<PREFIX_BYTES>() else {
            // Even the length alone can be refused.
            if let Some(prefix) = buffer.first_chunk::<4>() {
                self.check_length(u32::from_be_bytes(*prefix))?;
            }
            return Ok(None);
        };
        let [l0, l1, l2, l3, c0, c1, c2, c3] = *prefix;
        let length = self.check_length(u32::from_be_bytes([l0, l1, l2, l3]))?;
        if buffer.len() < 4 + length {
            return Ok(None);
        }
        let sent = u32::from_be_bytes([c0, c1, c2, c3]);
        let frame = buffer.split_to(4 + length).freeze();
        Self::open(frame, sent).map(Some)
    }

    /// How many bytes whole frames take at the front of the buffer, whatever is wrong with them.
    pub fn whole_bytes(&self, buffer: &[u8]) -> usize {
        let mut whole = 0;
        while let Some(prefix) = buffer[whole..].first_chunk::<4>() {
            let length = u32::from_be_bytes(*prefix);
            let Ok(length) = self.check_length(length) else {
                break;
            };
            if buffer.len() - whole < 4 + length {
                break;
            }
            whole += 4 + length;
        }
        whole
    }

    /// The next frame of [whole ones](Self::whole_bytes), or `None` at their end. Like [`next`](Self::next),
    /// for bytes that are shared.
    ///
    /// # Errors
    /// [`FrameError`], after which nothing more may be taken of them.
    pub fn next_whole(&self, whole: &mut Bytes) -> Result<Option<Frame>, FrameError> {
        let Some(prefix) = whole.first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, c0, c1, c2, c3] = *prefix;
        let length = self.check_length(u32::from_be_bytes([l0, l1, l2, l3]))?;
        if whole.len() < 4 + length {
            return Ok(None);
        }
        let frame = whole.split_to(4 + length);
        Self::open(frame, u32::from_be_bytes([c0, c1, c2, c3])).map(Some)
    }

    /// Takes a whole frame apart whose checksum should be this one.
    fn open(mut frame: Bytes, sent: u32) -> Result<Frame, FrameError> {
        frame.advance(PREFIX_BYTES);
        let computed = crc32fast::hash(&frame);
        if sent != computed {
            return Err(FrameError::Checksum { sent, computed });
        }
        // The length was checked to hold a header, so none of these reads runs out.
        let version = frame.get_u8();
        if version != PROTOCOL_VERSION {
            return Err(FrameError::Version { version });
        }
        let header = Header {
            kind: frame.get_u8(),
            flags: frame.get_u16(),
            request_id: frame.get_u64(),
        };
        let body = frame;
        Ok(Frame { header, body })
    }

    /// How many bytes the frame at the front of the buffer still lacks (at least 1 while no frame
    /// is whole): a hint for how much to read.
    pub fn lacking(&self, buffer: &BytesMut) -> usize {
        match buffer.first_chunk::<4>() {
            Some(prefix) => {
                let length = u32::from_be_bytes(*prefix) as usize;
                (4 + length).saturating_sub(buffer.len()).max(1)
            }
            None => FRAME_HEADER_BYTES - buffer.len().min(FRAME_HEADER_BYTES - 1),
        }
    }

    fn check_length(&self, length: u32) -> Result<usize, FrameError> {
        if (length as usize) < LENGTH_MIN {
            return Err(FrameError::TooShort { length });
        }
        if length as usize > self.length_max {
            let max = self.length_max;
            return Err(FrameError::TooLong { length, max });
        }
        Ok(length as usize)
    }
}

/// Hands every message of a frame to `take`: the frame itself, or each item of a batch.
///
/// # Errors
/// [`FrameError::Batch`] when a batch's body is no row of items, holds another batch, or more than
/// [`BATCH_ITEMS_MAX`] items. Items before the damage have been handed on.
pub fn split_batch(frame: Frame, take: impl FnMut(Frame)) -> Result<(), FrameError> {
    split_batch_refusing(frame, take, |_, error| Err(error.into()))
}

/// How many items beyond [`BATCH_ITEMS_MAX`] are refused one by one: as many again, lest the refusals become many
/// times what was sent.
const EXCESS_ITEMS_MAX: usize = BATCH_ITEMS_MAX;

/// The same, where an item that cannot be taken is handed to `refuse`: another batch, or one beyond the limit of
/// items. The others are taken.
///
/// # Errors
/// [`FrameError::Batch`] when the body is no row of items, or one of more than twice [`BATCH_ITEMS_MAX`], and what
/// `refuse` returns.
pub fn split_batch_refusing(
    frame: Frame,
    mut take: impl FnMut(Frame),
    mut refuse: impl FnMut(Header, DecodeError) -> Result<(), FrameError>,
) -> Result<(), FrameError> {
    if frame.header.kind != KIND_BATCH {
        take(frame);
        return Ok(());
    }
    let mut reader = Reader::new(&frame.body);
    for number in 0..BATCH_ITEMS_MAX + EXCESS_ITEMS_MAX {
        if reader.left() == 0 {
            return Ok(());
        }
        let kind = reader.u8()?;
        let flags = reader.u16()?;
        let request_id = reader.u64()?;
        let length = reader.u32()? as usize;
        let body = reader.shared(length)?;
        let header = Header {
            kind,
            flags,
            request_id,
        };
        if number >= BATCH_ITEMS_MAX {
            refuse(header, too_many_items())?;
        } else if kind == KIND_BATCH {
            let what = "batch within a batch";
            refuse(header, DecodeError::Invalid { what })?;
        } else {
            take(Frame { header, body });
        }
    }
    reader
        .finish()
        .map_err(|_| FrameError::Batch(too_many_items()))
}

/// What the length field of a frame takes, in bytes, and does not count.
const LENGTH_BYTES: usize = 4;

/// Appends one frame; `body` writes the message.
///
/// The caller keeps messages under 4 GiB (the settings' limits are far below).
pub fn put_frame(out: &mut BytesMut, header: Header, body: impl FnOnce(&mut BytesMut)) {
    let start = open_frame(out, header);
    body(out);
    close_frame(out, start);
}

/// Appends one frame, unless it would be longer than so many bytes (the length field's value): then nothing is
/// appended, and the answer is false.
#[must_use]
pub fn try_put_frame(
    out: &mut BytesMut,
    header: Header,
    frame_bytes_max: usize,
    body: impl FnOnce(&mut BytesMut),
) -> bool {
    let start = open_frame(out, header);
    body(out);
    if out.len() - start - LENGTH_BYTES > frame_bytes_max {
        out.truncate(start);
        return false;
    }
    close_frame(out, start);
    true
}

fn open_frame(out: &mut BytesMut, header: Header) -> usize {
    let start = out.len();
    out.put_u64(0);
    out.put_u8(PROTOCOL_VERSION);
    out.put_u8(header.kind);
    out.put_u16(header.flags);
    out.put_u64(header.request_id);
    start
}

fn close_frame(out: &mut BytesMut, start: usize) {
    let length = (out.len() - start - 4) as u32;
    let checksum = crc32fast::hash(&out[start + PREFIX_BYTES..]);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    out[start + 4..start + PREFIX_BYTES].copy_from_slice(&checksum.to_be_bytes());
}

/// Gathers messages for one connection into batch frames.
///
/// Call [`push`](Self::push) for each message and [`finish`](Self::finish) before the buffer is
/// written. A batch closes itself when it is full by count or by bytes.
#[derive(Debug, Default)]
pub struct BatchWriter {
    open_at: Option<usize>,
    items: usize,
}

impl BatchWriter {
    /// Appends one message; `body` writes it.
    pub fn push(&mut self, out: &mut BytesMut, header: Header, body: impl FnOnce(&mut BytesMut)) {
        let _ = self.try_push(out, header, usize::MAX, body);
    }

    /// Appends one message, unless its frame would be longer than so many bytes (the length field's value):
    /// then nothing is appended, and the answer is false.
    #[must_use]
    pub fn try_push(
        &mut self,
        out: &mut BytesMut,
        header: Header,
        frame_bytes_max: usize,
        body: impl FnOnce(&mut BytesMut),
    ) -> bool {
        let start = match self.open_at {
            Some(start) => start,
            None => {
                let start = open_frame(out, Header::new(KIND_BATCH, 0));
                self.open_at = Some(start);
                start
            }
        };
        let item_at = out.len();
        out.put_u8(header.kind);
        out.put_u16(header.flags);
        out.put_u64(header.request_id);
        let length_at = out.len();
        out.put_u32(0);
        body(out);
        if out.len() - start - LENGTH_BYTES > frame_bytes_max {
            out.truncate(item_at);
            if self.items == 0 {
                out.truncate(start);
                self.open_at = None;
            }
            return false;
        }
        let length = (out.len() - length_at - 4) as u32;
        out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
        self.items += 1;
        if self.items == BATCH_ITEMS_MAX || out.len() - start >= BATCH_BYTES_SOFT_MAX {
            self.finish(out);
        }
        true
    }

    /// Closes the open batch, if there is one. The buffer then holds whole frames only.
    pub fn finish(&mut self, out: &mut BytesMut) {
        if let Some(start) = self.open_at.take() {
            close_frame(out, start);
        }
        self.items = 0;
    }
}

/// What is said of a batch with more items than one may have.
pub(crate) fn too_many_items() -> DecodeError {
    DecodeError::TooLong {
        what: "batch",
        length: BATCH_ITEMS_MAX as u64 + 1,
        max: BATCH_ITEMS_MAX,
    }
}

#[cfg(test)]
mod tests;

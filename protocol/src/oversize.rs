//! Frames that are longer than their receiver takes: passed over, so that their sender hears of it by its request's
//! id and the connection lives.
//!
//! Nothing of such a frame is kept. Its checksum is computed on the way, because only then its length and its ids
//! can be believed: a length field that was damaged would otherwise swallow what follows.

use bytes::{Buf, BytesMut};
use crc32fast::Hasher;

use crate::codec::DecodeError;
use crate::error::{ErrorCode, ErrorReply};
use crate::frame::{
    FRAME_HEADER_BYTES, FrameError, Header, KIND_BATCH, LENGTH_MIN, PROTOCOL_VERSION,
    too_many_items,
};
use crate::limits::BATCH_ITEMS_MAX;

/// What an item of a batch has before its body: kind, flags, request id, length.
const ITEM_HEADER_BYTES: usize = 15;

/// What the length field counts beside the body.
const COUNTED_BYTES: usize = LENGTH_MIN;

/// A request that was refused before it was looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Of the request.
    pub header: Header,
    /// What its sender is told.
    pub error: ErrorReply,
}

/// A frame on its way past its receiver.
#[derive(Debug)]
pub struct Oversize {
    header: Header,
    /// The value of its length field.
    length: usize,
    length_max: usize,
    sent_checksum: u32,
    checksum: Hasher,
    /// How many bytes of it are still to come.
    left: usize,
    items: Items,
}

/// The row of items in a batch.
#[derive(Debug, Default)]
struct Items {
    header: [u8; ITEM_HEADER_BYTES],
    filled: usize,
    body_left: usize,
    refused: Vec<Refused>,
}

/// Whether the frame at the front of a buffer is to be passed over.
#[derive(Debug)]
pub enum Begun {
    /// It is not, or nothing can be said yet of its length.
    No,
    /// It is, and its header has not come yet.
    NotYet,
    /// It is; its header was taken off the buffer.
    Yes(Box<Oversize>),
}

impl Oversize {
    /// Looks at the front of a buffer: a length field above `length_max` and not above `passed_max` makes a frame
    /// that is passed over.
    ///
    /// # Errors
    /// [`FrameError::Version`], after which there is no known boundary.
    pub fn begin(
        buffer: &mut BytesMut,
        length_max: usize,
        passed_max: usize,
    ) -> Result<Begun, FrameError> {
        let Some(prefix) = buffer.first_chunk::<4>() else {
            return Ok(Begun::No);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length <= length_max || length > passed_max || length < LENGTH_MIN {
            return Ok(Begun::No);
        }
        if buffer.len() < FRAME_HEADER_BYTES {
            return Ok(Begun::NotYet);
        }
        buffer.advance(4);
        let sent_checksum = buffer.get_u32();
        let mut checksum = Hasher::new();
        checksum.update(&buffer[..FRAME_HEADER_BYTES - 8]);
        let version = buffer.get_u8();
        if version != PROTOCOL_VERSION {
            return Err(FrameError::Version { version });
        }
        let header = Header {
            kind: buffer.get_u8(),
            flags: buffer.get_u16(),
            request_id: buffer.get_u64(),
        };
        Ok(Begun::Yes(Box::new(Self {
            header,
            length,
            length_max,
            sent_checksum,
            checksum,
            left: length - COUNTED_BYTES,
            items: Items::default(),
        })))
    }

    /// How many bytes of it are still to come.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The value of its length field, in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Takes what has come of it off the buffer. Gives, at its end, what it asked for and how that is refused: the
    /// frame itself, or each item of a batch.
    ///
    /// # Errors
    /// [`FrameError::Checksum`], and [`FrameError::Batch`] for a batch that is no row of items or has too many.
    pub fn pass(&mut self, buffer: &mut BytesMut) -> Result<Option<Vec<Refused>>, FrameError> {
        let part = buffer.split_to(buffer.len().min(self.left));
        self.checksum.update(&part);
        self.left -= part.len();
        if self.header.kind == KIND_BATCH {
            self.items.pass(&part, self.length_max)?;
        }
        if self.left > 0 {
            return Ok(None);
        }
        let computed = std::mem::take(&mut self.checksum).finalize();
        if computed != self.sent_checksum {
            let sent = self.sent_checksum;
            return Err(FrameError::Checksum { sent, computed });
        }
        if self.header.kind != KIND_BATCH {
            let error = too_large(self.length, self.length_max);
            let header = self.header;
            return Ok(Some(vec![Refused { header, error }]));
        }
        self.items.finish().map(Some)
    }
}

impl Items {
    fn pass(&mut self, mut part: &[u8], length_max: usize) -> Result<(), FrameError> {
        while !part.is_empty() {
            if self.body_left > 0 {
                let taken = part.len().min(self.body_left);
                self.body_left -= taken;
                part = &part[taken..];
                continue;
            }
            let taken = part.len().min(ITEM_HEADER_BYTES - self.filled);
            self.header[self.filled..self.filled + taken].copy_from_slice(&part[..taken]);
            self.filled += taken;
            part = &part[taken..];
            if self.filled == ITEM_HEADER_BYTES {
                self.filled = 0;
                self.refuse(length_max)?;
            }
        }
        Ok(())
    }

    fn refuse(&mut self, length_max: usize) -> Result<(), FrameError> {
        if self.refused.len() == BATCH_ITEMS_MAX {
            return Err(too_many_items().into());
        }
        let mut item = &self.header[..];
        let header = Header {
            kind: item.get_u8(),
            flags: item.get_u16(),
            request_id: item.get_u64(),
        };
        self.body_left = item.get_u32() as usize;
        let length = self.body_left + COUNTED_BYTES;
        let error = if length > length_max {
            too_large(length, length_max)
        } else {
            // It has done nothing wrong: in a frame of its own it is taken.
            let message = "it came in a batch that as a whole is over the limit: send it again, in a smaller one";
            ErrorReply::new(ErrorCode::Overloaded, message).retryable()
        };
        self.refused.push(Refused { header, error });
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Refused>, FrameError> {
        if self.filled > 0 || self.body_left > 0 {
            let what = "batch";
            return Err(DecodeError::Invalid { what }.into());
        }
        Ok(std::mem::take(&mut self.refused))
    }
}

fn too_large(length: usize, length_max: usize) -> ErrorReply {
    let message = format!(
        "the request has a frame of {length} bytes, this node takes {length_max}: send less, or raise \
         value_bytes_max of the nodes"
    );
    ErrorReply::new(ErrorCode::TooLarge, message)
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;
    use crate::frame::{BatchWriter, FrameDecoder, put_frame};

    const MAX: usize = 1000;
    const PASSED_MAX: usize = 100_000;

    /// Passes a frame over, given in pieces; what follows it is left in the buffer.
    fn passed(bytes: &[u8], piece: usize) -> Result<Vec<Refused>, FrameError> {
        let mut buffer = BytesMut::new();
        let mut oversize = None;
        for part in bytes.chunks(piece) {
            buffer.put_slice(part);
            if oversize.is_none() {
                match Oversize::begin(&mut buffer, MAX, PASSED_MAX)? {
                    Begun::Yes(begun) => oversize = Some(begun),
                    Begun::NotYet | Begun::No => continue,
                }
            }
            if let Some(refused) = oversize.as_mut().unwrap().pass(&mut buffer)? {
                return Ok(refused);
            }
        }
        panic!("the frame has no end");
    }

    fn codes(refused: &[Refused]) -> Vec<(u64, ErrorCode)> {
        let codes = refused
            .iter()
            .map(|it| (it.header.request_id, it.error.code));
        codes.collect()
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_by_its_id_and_the_next_one_is_read() {
        let mut bytes = BytesMut::new();
        put_frame(&mut bytes, Header::new(0x11, 7), |out| {
            out.put_bytes(1, 5000)
        });
        for piece in [1, 3, 19, 20, 21, 4096, 6000] {
            let refused = passed(&bytes, piece).unwrap();
            assert_eq!(codes(&refused), [(7, ErrorCode::TooLarge)]);
        }
        // What follows is left.
        put_frame(&mut bytes, Header::new(0x05, 8), |_| {});
        let Begun::Yes(mut oversize) = Oversize::begin(&mut bytes, MAX, PASSED_MAX).unwrap() else {
            panic!("it is over the limit");
        };
        assert!(oversize.pass(&mut bytes).unwrap().is_some());
        let next = FrameDecoder::new(MAX).next(&mut bytes).unwrap().unwrap();
        assert_eq!(next.header.request_id, 8);
    }

    #[test]
    fn of_a_batch_over_the_limit_each_item_is_answered() {
        let mut bytes = BytesMut::new();
        let mut batch = BatchWriter::default();
        for (id, size) in [(1, 10), (2, 0), (3, 5000), (4, 10)] {
            batch.push(&mut bytes, Header::new(0x11, id), |out| {
                out.put_bytes(9, size)
            });
        }
        batch.finish(&mut bytes);
        let expected = [
            (1, ErrorCode::Overloaded),
            (2, ErrorCode::Overloaded),
            (3, ErrorCode::TooLarge),
            (4, ErrorCode::Overloaded),
        ];
        for piece in [1, 7, 15, 16, 10_000] {
            let refused = passed(&bytes, piece).unwrap();
            assert_eq!(codes(&refused), expected);
            assert!(
                refused
                    .iter()
                    .all(|it| it.error.retryable == (it.error.code == ErrorCode::Overloaded))
            );
        }
        let cut = bytes.len() - 1;
        let mut truncated = BytesMut::new();
        put_frame(&mut truncated, Header::new(KIND_BATCH, 0), |out| {
            out.put_slice(&bytes[20..cut])
        });
        assert!(matches!(passed(&truncated, 64), Err(FrameError::Batch(_))));
    }

    #[test]
    fn damage_ends_the_connection() {
        let mut bytes = BytesMut::new();
        put_frame(&mut bytes, Header::new(0x11, 7), |out| {
            out.put_bytes(1, 5000)
        });
        for at in [9, 15, 100, 5019] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert!(
                matches!(passed(&damaged, 64), Err(FrameError::Checksum { .. })),
                "{at}"
            );
        }
        bytes[8] = 9;
        assert_eq!(passed(&bytes, 64), Err(FrameError::Version { version: 9 }));
    }

    #[test]
    fn other_frames_are_none_of_its_business() {
        for length in [0_u32, 15, 16, 1000, 100_001, u32::MAX] {
            let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
            let begun = Oversize::begin(&mut buffer, MAX, PASSED_MAX).unwrap();
            assert!(matches!(begun, Begun::No), "{length}");
            assert_eq!(buffer.len(), 4);
        }
        assert!(matches!(
            Oversize::begin(&mut BytesMut::new(), MAX, PASSED_MAX),
            Ok(Begun::No)
        ));
    }

    #[test]
    fn tiny_items_without_end_are_too_many() {
        let mut bytes = BytesMut::new();
        put_frame(&mut bytes, Header::new(KIND_BATCH, 0), |out| {
            for id in 0..=BATCH_ITEMS_MAX as u64 {
                out.put_u8(5);
                out.put_u16(0);
                out.put_u64(id);
                out.put_u32(0);
            }
        });
        assert!(bytes.len() < PASSED_MAX);
        assert!(matches!(passed(&bytes, 4096), Err(FrameError::Batch(_))));
    }
}

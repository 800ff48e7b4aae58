//! The bytes of a hint log.
//!
//! ```text
//! file header   "dynkhint" (8 bytes)  format (u32, 1)  crc32 (u32)  damaged (u64)  crc32 (u32)
//! record        magic (u32)  crc32 (u32)  position (u64)  durable (u64)  kind (u8)  length of the key (u32)
//!               length of the document (u32)  key  document
//! ```
//! Integers are big-endian. The first crc32 (IEEE) of the header covers what is before it, in every format
//! to come, the second one the rest. That of a record covers all behind it. *position* is where the record
//! begins in its file, so that bytes inside a document hardly pass for a record when one is searched for
//! behind damage; *durable* is how far the file was known to be durable when the record was made.

use bytes::{Buf, BufMut, Bytes};
use dynakv_protocol::limits::FRAME_BYTES_MAX;

use crate::error::Damage;

const FILE_MAGIC: &[u8; 8] = b"dynkhint";
/// The format that this version writes, and the only one that it reads.
pub(super) const FORMAT: u32 = 1;

/// The size of the file's header, and so the position of the first record.
pub(super) const FILE_HEADER_BYTES: usize = 28;
/// How much of it has the same meaning in every format.
const PREAMBLE_BYTES: usize = 16;

/// What a record of format 1 begins with: an odd byte, then "hl" and the format.
pub(super) const MAGIC: [u8; 4] = [0xd7, b'h', b'l', 1];
/// The size of a record without key and document.
pub(super) const RECORD_HEADER_BYTES: usize = 33;
/// Where what the checksum covers begins.
const COVERED_AT: usize = 8;

/// The longest key, in bytes.
pub const HINT_KEY_BYTES_MAX: usize = 64 * 1024;
/// The largest document, in bytes: as much as any frame between nodes can carry. Bounds what is read at
/// once where a length is damaged.
pub const HINT_BYTES_MAX: usize = FRAME_BYTES_MAX;

/// What the header of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileHeader {
    /// How many damaged places there were when the file was written anew.
    Known { damaged: u64 },
    /// The file is of a format that this version does not know.
    OtherFormat(u32),
    /// It is damaged.
    Damaged,
}

impl FileHeader {
    pub(super) fn encode(damaged: u64) -> [u8; FILE_HEADER_BYTES] {
        let mut header = [0; FILE_HEADER_BYTES];
        let (mut preamble, mut rest) = header.split_at_mut(PREAMBLE_BYTES);
        preamble.put_slice(FILE_MAGIC);
        preamble.put_u32(FORMAT);
        rest.put_u64(damaged);
        let sums = [
            crc32fast::hash(&header[..12]),
            crc32fast::hash(&header[16..24]),
        ];
        header[12..16].copy_from_slice(&sums[0].to_be_bytes());
        header[24..].copy_from_slice(&sums[1].to_be_bytes());
        header
    }

    pub(super) fn decode(file: &[u8]) -> Self {
        let Some((preamble, mut rest)) = file.split_at_checked(PREAMBLE_BYTES) else {
            return Self::Damaged;
        };
        let (covered, mut sum) = preamble.split_at(12);
        if sum.get_u32() != crc32fast::hash(covered) || !covered.starts_with(FILE_MAGIC) {
            return Self::Damaged;
        }
        let format = (&covered[8..]).get_u32();
        if format != FORMAT {
            return Self::OtherFormat(format);
        }
        if rest.len() < FILE_HEADER_BYTES - PREAMBLE_BYTES {
            return Self::Damaged;
        }
        let computed = crc32fast::hash(&rest[..8]);
        let damaged = rest.get_u64();
        match rest.get_u32() == computed {
            true => Self::Known { damaged },
            false => Self::Damaged,
        }
    }
}

/// What a record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The key has this document from now on.
    Put = 1,
    /// The key has none.
    Remove = 2,
    /// The key had a document, which was found damaged when the file was written anew.
    Lost = 3,
    /// Nothing. Written behind what is durable, to say so: at the end of a new file, and when there is
    /// nothing else to write.
    Mark = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Put, Self::Remove, Self::Lost, Self::Mark]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The size of a record.
pub(super) fn record_bytes(key_bytes: usize, document_bytes: usize) -> u64 {
    (RECORD_HEADER_BYTES + key_bytes + document_bytes) as u64
}

/// Adds a record. The lengths were checked by the caller.
pub(super) fn put_record(
    out: &mut Vec<u8>,
    kind: Kind,
    position: u64,
    durable: u64,
    key: &[u8],
    document: &[u8],
) {
    let begin = out.len();
    out.reserve(RECORD_HEADER_BYTES + key.len() + document.len());
    out.put_slice(&MAGIC);
    out.put_u32(0);
    out.put_u64(position);
    out.put_u64(durable);
    out.put_u8(kind as u8);
    out.put_u32(key.len() as u32);
    out.put_u32(document.len() as u32);
    out.put_slice(key);
    out.put_slice(document);
    let sum = crc32fast::hash(&out[begin + COVERED_AT..]);
    out[begin + 4..begin + COVERED_AT].copy_from_slice(&sum.to_be_bytes());
}

/// The header of a record, nothing of it verified but its place and that its lengths are permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    sum: u32,
    kind: Kind,
    durable: u64,
    key_bytes: usize,
    document_bytes: usize,
}

impl RecordHeader {
    /// Reads the header that lies at this position of the file: `None` when no record begins there.
    pub(super) fn decode(bytes: &[u8], position: u64) -> Option<Self> {
        let mut header = bytes.get(..RECORD_HEADER_BYTES)?;
        if !header.starts_with(&MAGIC) {
            return None;
        }
        header.advance(MAGIC.len());
        let sum = header.get_u32();
        if header.get_u64() != position {
            return None;
        }
        let durable = header.get_u64();
        let kind = Kind::from_byte(header.get_u8())?;
        let key_bytes = header.get_u32() as usize;
        let document_bytes = header.get_u32() as usize;
        let fits = key_bytes <= HINT_KEY_BYTES_MAX && document_bytes <= HINT_BYTES_MAX;
        fits.then_some(Self {
            sum,
            kind,
            durable,
            key_bytes,
            document_bytes,
        })
    }

    /// The size of the record, in bytes.
    pub(super) fn record_bytes(&self) -> u64 {
        record_bytes(self.key_bytes, self.document_bytes)
    }
}

/// A record whose checksum is right.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) kind: Kind,
    /// How far the file was known to be durable.
    pub(super) durable: u64,
    /// The key, a part of the bytes that were decoded.
    pub(super) key: Bytes,
    /// The document, likewise.
    pub(super) document: Bytes,
}

/// Verifies the record that lies at this position and is `bytes`, from end to end.
pub(super) fn decode(bytes: &Bytes, position: u64) -> Result<Record, Damage> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return Err(Damage::TooShort {
            length: bytes.len(),
        });
    }
    let Some(header) = RecordHeader::decode(bytes, position) else {
        return Err(Damage::Misplaced);
    };
    let (stated, found) = (header.record_bytes(), bytes.len() as u64);
    if stated != found {
        return Err(Damage::Length { stated, found });
    }
    let computed = crc32fast::hash(&bytes[COVERED_AT..]);
    if computed != header.sum {
        let stored = header.sum;
        return Err(Damage::Checksum { stored, computed });
    }
    let document_at = RECORD_HEADER_BYTES + header.key_bytes;
    Ok(Record {
        kind: header.kind,
        durable: header.durable,
        key: bytes.slice(RECORD_HEADER_BYTES..document_at),
        document: bytes.slice(document_at..),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_or_not_at_all() {
        let mut good = Vec::new();
        put_record(&mut good, Kind::Put, 77, 28, b"key", b"document");
        let read = decode(&Bytes::from(good.clone()), 77).unwrap();
        assert_eq!((read.kind, read.durable), (Kind::Put, 28));
        assert_eq!(
            (&read.key[..], &read.document[..]),
            (&b"key"[..], &b"document"[..])
        );
        assert!(decode(&Bytes::from(good.clone()), 78).is_err());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&Bytes::from(bad), 77).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(decode(&Bytes::copy_from_slice(&good[..length]), 77).is_err());
        }
    }

    #[test]
    fn a_file_header_is_read_as_it_was_written_or_not_at_all() {
        let good = FileHeader::encode(5);
        assert_eq!(FileHeader::decode(&good), FileHeader::Known { damaged: 5 });
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FileHeader::decode(&bad), FileHeader::Damaged, "bit {bit}");
        }
        for length in 0..good.len() {
            assert_eq!(FileHeader::decode(&good[..length]), FileHeader::Damaged);
        }
    }
}

//! How keys and values lie in sled.
//!
//! ```text
//! record key       position (u64)  key
//! inline value     1 (u8)  crc32 (u32)  versions
//! chunked value    2 (u8)  crc32 (u32)  set (u64)  length (u32)  content crc32 (u32)
//! ```
//! Integers are big-endian, so that the order of the tree is the order of the ring. The crc32 (IEEE)
//! covers the record key, the format byte and all that follows the checksum: a value that ends up under
//! another key is as damaged as one with a flipped bit.

use bytes::{Buf, Bytes};
use dynakv_protocol::hash::Position;

use crate::error::Damage;

/// Values up to this size lie in the record itself, in bytes; larger ones are cut into chunks of it.
pub(crate) const INLINE_BYTES_MAX: usize = 4096;

const INLINE: u8 = 1;
const CHUNKED: u8 = 2;

/// The format byte and the checksum.
const HEADER_BYTES: usize = 5;
const POSITION_BYTES: usize = 8;
const CHUNKED_BYTES: usize = HEADER_BYTES + 8 + 4 + 4;

/// A stored value, its checksum verified.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// The encoded versions themselves.
    Inline(&'a [u8]),
    /// Where to find them.
    Chunked(ChunkedValue),
}

/// A value that lies in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkedValue {
    /// The number under which its chunks lie.
    pub(crate) set: u64,
    /// How many bytes they have together.
    pub(crate) length: u32,
    /// The checksum of these bytes.
    pub(crate) checksum: u32,
}

/// The key of a record: its place on the ring, then the key.
pub(crate) fn record_key(position: Position, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(POSITION_BYTES + key.len());
    put_record_key(position, key, &mut bytes);
    bytes
}

/// Puts the key of a record into `out`, in place of what was there.
pub(crate) fn put_record_key(position: Position, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&position.0.to_be_bytes());
    out.extend_from_slice(key);
}

/// The position within a record key, 0 if damage cut it short.
pub(crate) fn position_of_record(record_key: &[u8]) -> Position {
    Position(
        record_key
            .first_chunk()
            .map_or(0, |&bytes| u64::from_be_bytes(bytes)),
    )
}

/// The key within a record key. Empty if damage cut it short: no key of a client is.
pub(crate) fn key_of_record(record_key: &[u8]) -> &[u8] {
    record_key.get(POSITION_BYTES..).unwrap_or_default()
}

/// Puts a value that lies in its record into `out`, in place of what was there.
pub(crate) fn encode_inline(record_key: &[u8], versions: &[u8], out: &mut Vec<u8>) {
    begin(INLINE, out);
    out.extend_from_slice(versions);
    finish(record_key, out);
}

/// Puts the record of a value that lies in chunks into `out`, in place of what was there.
pub(crate) fn encode_chunked(record_key: &[u8], value: &ChunkedValue, out: &mut Vec<u8>) {
    begin(CHUNKED, out);
    out.extend_from_slice(&value.set.to_be_bytes());
    out.extend_from_slice(&value.length.to_be_bytes());
    out.extend_from_slice(&value.checksum.to_be_bytes());
    finish(record_key, out);
}

fn begin(format: u8, out: &mut Vec<u8>) {
    out.clear();
    out.push(format);
    out.extend_from_slice(&[0; HEADER_BYTES - 1]);
}

fn finish(record_key: &[u8], out: &mut [u8]) {
    let sum = checksum(record_key, out[0], &out[HEADER_BYTES..]);
    out[1..HEADER_BYTES].copy_from_slice(&sum.to_be_bytes());
}

fn checksum(record_key: &[u8], format: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(record_key);
    hasher.update(&[format]);
    hasher.update(body);
    hasher.finalize()
}

/// Whether a stored value may lie in chunks: spares the checksum of most others.
pub(crate) fn may_be_chunked(stored: &[u8]) -> bool {
    stored.first() == Some(&CHUNKED)
}

/// Checks a stored value against its checksum and takes it apart.
pub(crate) fn decode<'a>(record_key: &[u8], stored: &'a [u8]) -> Result<Record<'a>, Damage> {
    let Some((mut header, body)) = stored.split_at_checked(HEADER_BYTES) else {
        return Err(Damage::TooShort {
            length: stored.len(),
        });
    };
    let format = header.get_u8();
    let stored_sum = header.get_u32();
    if !matches!(format, INLINE | CHUNKED) {
        return Err(Damage::UnknownFormat { format });
    }
    let computed = checksum(record_key, format, body);
    if stored_sum != computed {
        return Err(Damage::Checksum {
            stored: stored_sum,
            computed,
        });
    }
    if format == INLINE {
        return Ok(Record::Inline(body));
    }
    if stored.len() != CHUNKED_BYTES {
        return Err(Damage::Length {
            stated: CHUNKED_BYTES as u64,
            found: stored.len() as u64,
        });
    }
    let mut body = body;
    Ok(Record::Chunked(ChunkedValue {
        set: body.get_u64(),
        length: body.get_u32(),
        checksum: body.get_u32(),
    }))
}

/// Checks the joined chunks of a value.
pub(crate) fn check_content(value: &ChunkedValue, content: Vec<u8>) -> Result<Bytes, Damage> {
    if content.len() != value.length as usize {
        return Err(Damage::Length {
            stated: u64::from(value.length),
            found: content.len() as u64,
        });
    }
    let computed = crc32fast::hash(&content);
    if computed != value.checksum {
        return Err(Damage::Checksum {
            stored: value.checksum,
            computed,
        });
    }
    Ok(Bytes::from(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record_key(key: &[u8]) -> Vec<u8> {
        super::record_key(Position::of_key(key), key)
    }

    #[test]
    fn the_bytes_on_disk_never_change() {
        let key = record_key(b"user:123");
        assert_eq!(key[..8], 0xe7fe_84ba_d891_3b52_u64.to_be_bytes());
        assert_eq!(key_of_record(&key), b"user:123");
        let mut stored = Vec::new();
        encode_inline(&key, b"versions", &mut stored);
        assert_eq!(stored[0], 1);
        assert_eq!(stored[5..], *b"versions");
        // zlib's crc32 of position ‖ key ‖ 0x01 ‖ "versions".
        assert_eq!(stored[1..5], 0x853e_815f_u32.to_be_bytes());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_detected() {
        let key = record_key(b"k");
        let value = ChunkedValue {
            set: 7,
            length: 9000,
            checksum: 1,
        };
        let mut inline = Vec::new();
        encode_inline(&key, b"some versions", &mut inline);
        let mut chunked = Vec::new();
        encode_chunked(&key, &value, &mut chunked);
        assert_eq!(decode(&key, &inline), Ok(Record::Inline(b"some versions")));
        assert_eq!(decode(&key, &chunked), Ok(Record::Chunked(value)));
        for good in [inline, chunked] {
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&key, &bad).is_err(), "bit {bit}");
            }
            for length in 0..good.len() {
                assert!(decode(&key, &good[..length]).is_err(), "cut to {length}");
            }
            assert!(decode(&record_key(b"l"), &good).is_err(), "another key");
        }
    }
}

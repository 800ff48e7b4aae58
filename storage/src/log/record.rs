//! The bytes of the log.
//!
//! ```text
//! file header   "dynaklog" (8 bytes)  format (u32, 1)  crc32 (u32)  file (u64)  end of the file before (u64)
//! record        crc32 (u32)  length of the changes (u32)  file (u64)  position (u64)  durable (u64)  changes
//! change        length of the key (varint)  length of the versions (varint)  before: versions (varint),
//!               value bytes (varint)  after: the same  change of the hash (u128)  key  versions
//! correction    a change without a key, of the hash of a segment and of the totals; in place of versions:
//!               segment (u16)  keys (u64)  versions (u64)  conflict keys (u64)  bytes of values (u64)
//! ```
//! Integers are big-endian, varints LEB128. A crc32 (IEEE) covers all else of its header or record.
//! *position* is where the record begins in its file, *durable* how far the file was known to be durable
//! when the record was made. *change of the hash* is the XOR of the key's hash before and after: from it
//! and the tallies a replay brings hashes and totals forward without reading what was there before.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dynakv_protocol::DecodeError;
use dynakv_protocol::codec::{Reader, put_varint};
use dynakv_protocol::hash::Segment;

use crate::error::Damage;
use crate::footprint::{Sums, Tally};
use crate::items::Mutation;
use crate::recount::Correction;

const MAGIC: &[u8; 8] = b"dynaklog";
const FORMAT: u32 = 1;

/// What stands in place of the versions in a correction.
const CORRECTION_BYTES: usize = 2 + 4 * 8;

/// The size of a file's header, and so the position of its first record.
pub(super) const FILE_HEADER_BYTES: usize = 32;
/// The size of a record without its changes.
pub(super) const RECORD_HEADER_BYTES: usize = 32;
/// Where the checksum of a file header lies.
const FILE_SUM_AT: usize = 12;

/// What a file says of itself and of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileHeader {
    /// The number of the file.
    pub(super) id: u64,
    /// How long the file before this one is, all of it durable; 0 for none.
    pub(super) previous_end: u64,
}

impl FileHeader {
    pub(super) fn encode(self) -> [u8; FILE_HEADER_BYTES] {
        let mut header = [0; FILE_HEADER_BYTES];
        let mut out = &mut header[..];
        out.put_slice(MAGIC);
        out.put_u32(FORMAT);
        out.put_u32(0);
        out.put_u64(self.id);
        out.put_u64(self.previous_end);
        let sum = file_checksum(&header);
        header[FILE_SUM_AT..FILE_SUM_AT + 4].copy_from_slice(&sum.to_be_bytes());
        header
    }

    pub(super) fn decode(file: &[u8]) -> Result<Self, Damage> {
        let Some(header) = file.first_chunk::<FILE_HEADER_BYTES>() else {
            return Err(Damage::TooShort { length: file.len() });
        };
        let (magic, mut rest) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(Damage::NotOurs);
        }
        let format = rest.get_u32();
        let stored = rest.get_u32();
        let computed = file_checksum(header);
        if stored != computed {
            return Err(Damage::Checksum { stored, computed });
        }
        if format != FORMAT {
            // The whole store has a format number, too; so this is no file of a later version.
            let format = u8::try_from(format).unwrap_or(u8::MAX);
            return Err(Damage::UnknownFormat { format });
        }
        Ok(Self {
            id: rest.get_u64(),
            previous_end: rest.get_u64(),
        })
    }
}

fn file_checksum(header: &[u8; FILE_HEADER_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..FILE_SUM_AT]);
    hasher.update(&header[FILE_SUM_AT + 4..]);
    hasher.finalize()
}

/// Begins a record in an empty buffer; [`finish`] fills its header in.
pub(super) fn begin(out: &mut BytesMut) {
    out.put_bytes(0, RECORD_HEADER_BYTES);
}

/// Adds a change to the record that was begun, and gives the key and, behind it, the versions as they
/// lie there.
pub(super) fn put_change<'a>(out: &'a mut BytesMut, mutation: &Mutation) -> &'a [u8] {
    out.reserve(mutation.key.len() + mutation.versions.len() + 80);
    put_varint(out, mutation.key.len() as u64);
    put_varint(out, mutation.versions.len() as u64);
    let (before, after) = (mutation.before, mutation.after);
    for tally in [before.tally, after.tally] {
        put_varint(out, tally.versions);
        put_varint(out, tally.value_bytes);
    }
    out.put_u128(before.hash ^ after.hash);
    let pair_at = out.len();
    out.put_slice(&mutation.key);
    out.put_slice(&mutation.versions);
    &out[pair_at..]
}

/// Adds a correction: what the totals and a segment's hash lack, wrapping.
pub(super) fn put_correction(out: &mut BytesMut, correction: &Correction) {
    put_varint(out, 0);
    put_varint(out, CORRECTION_BYTES as u64);
    // The tallies of no key.
    out.put_bytes(0, 4);
    out.put_u128(correction.hash);
    out.put_u16(correction.segment.0);
    let sums = correction.sums;
    for sum in [
        sums.keys,
        sums.versions,
        sums.conflict_keys,
        sums.live_bytes,
    ] {
        out.put_u64(sum);
    }
}

/// Completes the record that was begun, for this place.
pub(super) fn finish(record: &mut [u8], id: u64, position: u64, durable: u64) {
    let (header, changes) = record.split_at_mut(RECORD_HEADER_BYTES);
    let mut out = &mut header[4..];
    // Checked by the writer, which completes a record long before it is that large.
    out.put_u32(changes.len() as u32);
    out.put_u64(id);
    out.put_u64(position);
    out.put_u64(durable);
    let sum = checksum(record);
    record[..4].copy_from_slice(&sum.to_be_bytes());
}

fn checksum(record: &[u8]) -> u32 {
    crc32fast::hash(&record[4..])
}

/// A record that was read, its checksum verified.
#[derive(Debug)]
pub(super) struct Record {
    /// How far the file was known to be durable.
    pub(super) durable: u64,
    /// Where the next record begins.
    pub(super) end: usize,
    /// The changes, still encoded.
    pub(super) changes: Bytes,
}

/// Whether a record of this place may begin here: cheap, for a search behind damage.
pub(super) fn may_begin(file: &[u8], at: usize, id: u64) -> bool {
    let Some(header) = file[at..].first_chunk::<RECORD_HEADER_BYTES>() else {
        return false;
    };
    header[8..16] == id.to_be_bytes() && header[16..24] == (at as u64).to_be_bytes()
}

/// Reads the record at this place of a file.
pub(super) fn decode(file: &Bytes, at: usize, id: u64) -> Result<Record, Damage> {
    let found = file.len() - at;
    let Some(mut header) = file[at..].get(..RECORD_HEADER_BYTES) else {
        return Err(Damage::TooShort { length: found });
    };
    let stored = header.get_u32();
    let length = header.get_u32() as usize;
    let stated = RECORD_HEADER_BYTES + length;
    if stated > found {
        return Err(Damage::Length {
            stated: stated as u64,
            found: found as u64,
        });
    }
    let end = at + stated;
    let computed = checksum(&file[at..end]);
    if stored != computed {
        return Err(Damage::Checksum { stored, computed });
    }
    if !may_begin(file, at, id) {
        return Err(Damage::Misplaced);
    }
    Ok(Record {
        durable: {
            header.advance(16);
            header.get_u64()
        },
        end,
        changes: file.slice(at + RECORD_HEADER_BYTES..end),
    })
}

/// One change in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    /// The key and, behind it, the encoded versions.
    pub(crate) pair: &'a [u8],
    /// How much of it is the key.
    pub(crate) key_length: usize,
    /// What the key added to the totals before.
    pub(crate) before: Tally,
    /// What it added from then on.
    pub(crate) after: Tally,
    /// By what its hash changed.
    pub(crate) hash_change: u128,
}

impl Change<'_> {
    /// The key.
    pub(crate) fn key(&self) -> &[u8] {
        &self.pair[..self.key_length]
    }

    /// What is corrected, if it is a correction and no change of a key.
    pub(crate) fn correction(&self) -> Option<Correction> {
        if self.key_length > 0 {
            return None;
        }
        let bytes: &[u8; CORRECTION_BYTES] = self.pair.try_into().ok()?;
        let mut bytes = &bytes[..];
        Some(Correction {
            hash: self.hash_change,
            segment: Segment(bytes.get_u16()),
            sums: Sums {
                keys: bytes.get_u64(),
                versions: bytes.get_u64(),
                conflict_keys: bytes.get_u64(),
                live_bytes: bytes.get_u64(),
            },
        })
    }
}

/// Hands the changes of a record on, one after the other; returns how many.
pub(super) fn each_change(
    changes: &Bytes,
    mut f: impl FnMut(Change<'_>),
) -> Result<u64, DecodeError> {
    let mut reader = Reader::new(changes);
    let mut count = 0;
    while reader.left() > 0 {
        let key_length = length(reader.varint()?);
        let versions_length = length(reader.varint()?);
        let mut tally = || -> Result<Tally, DecodeError> {
            Ok(Tally {
                versions: reader.varint()?,
                value_bytes: reader.varint()?,
            })
        };
        let (before, after) = (tally()?, tally()?);
        let hash_change = reader.u128()?;
        f(Change {
            pair: reader.slice(key_length.saturating_add(versions_length))?,
            key_length,
            before,
            after,
            hash_change,
        });
        count += 1;
    }
    Ok(count)
}

/// A length too large for this machine is too large for the record, and found to be so.
fn length(stated: u64) -> usize {
    usize::try_from(stated).unwrap_or(usize::MAX)
}

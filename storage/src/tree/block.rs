//! The bytes of a block: the small records of an arc of the ring, in one item of sled.
//!
//! ```text
//! key of a block   segment (u16)  depth (u8)  index (u32)
//! block            3 (u8)  flags (u8)  count (u16)  crc32 (u32)  loss (u32, if it has one)  directory  keys  bodies
//! directory        for each record: position (u64)  key length (u16)  body length (u16)  kind (u8)  crc32 (u32)
//! body             versions, or of a large value: set (u64)  length (u32)  content crc32 (u32)
//! ```
//! Integers are big-endian. A segment is cut into 2^depth arcs of equal length, and the block of one that has no
//! records is not there. The crc32 of a block covers its key and all of it up to the bodies, so that who is in it is
//! known for sure; that of a record its position, kind, key and body. A flipped bit in a body costs one record, any
//! other one the block.
//!
//! The *loss* of a block says that something which was in it is lost, nobody knows what. It is the crc32 of the bytes
//! that could not be read, so that another loss is told from it.

use bytes::{Buf, BufMut};
use dynakv_protocol::hash::{Position, Segment};

use crate::error::Damage;
use crate::format::{self, ChunkedValue, Record, key_of_record, position_of_record};
use crate::items::PositionRange;

/// The deepest cut of a segment: sixteen million blocks.
pub(super) const DEPTH_MAX: u8 = 24;

const FORMAT: u8 = 3;

/// Something that it held is lost: a key that is not in it may have been.
const LOST: u8 = 1;
/// Its records are items of their own.
const SPILLED: u8 = 2;

const INLINE: u8 = 0;
const CHUNKED: u8 = 1;

const SEGMENT_BITS: u32 = 16;
const HEADER_BYTES: usize = 8;
const ENTRY_BYTES: usize = 17;
const CHUNKED_BYTES: usize = 16;

/// Which block: an arc of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockKey {
    pub(super) segment: Segment,
    pub(super) depth: u8,
    pub(super) index: u32,
}

impl BlockKey {
    /// The one that a position lies in, of a segment that is cut so deep.
    pub(super) fn of(position: Position, depth: u8) -> Self {
        let within = (position.0 << SEGMENT_BITS).checked_shr(u64::BITS - u32::from(depth));
        Self {
            segment: position.segment(),
            depth,
            index: within.unwrap_or(0) as u32,
        }
    }

    /// The positions in it.
    pub(super) fn arc(self) -> PositionRange {
        let length_bits = u64::BITS - SEGMENT_BITS - u32::from(self.depth);
        let start = self.segment.start().0 | u64::from(self.index) << length_bits;
        PositionRange {
            start: Position(start),
            end: start.checked_add(1 << length_bits).map(Position),
        }
    }

    /// Whether a position lies in it.
    pub(super) fn contains(self, position: Position) -> bool {
        self.arc().contains(position)
    }

    /// Its key in sled. The order is that of the ring within one depth of a segment.
    pub(super) fn to_bytes(self) -> [u8; 7] {
        let mut bytes = [0; 7];
        bytes[..2].copy_from_slice(&self.segment.0.to_be_bytes());
        bytes[2] = self.depth;
        bytes[3..].copy_from_slice(&self.index.to_be_bytes());
        bytes
    }

    /// What such a key says; `None` where it is no key of a block.
    pub(super) fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() != 7 {
            return None;
        }
        let key = Self {
            segment: Segment(bytes.get_u16()),
            depth: bytes.get_u8(),
            index: bytes.get_u32(),
        };
        let is_sound = key.depth <= DEPTH_MAX && u64::from(key.index) < 1 << key.depth;
        is_sound.then_some(key)
    }
}

/// One record as it lies in a block, not held against its checksum yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Raw<'a> {
    pub(super) position: Position,
    pub(super) key: &'a [u8],
    kind: u8,
    body: &'a [u8],
    checksum: u32,
}

impl<'a> Raw<'a> {
    /// Versions that lie in the block themselves.
    pub(super) fn inline(position: Position, key: &'a [u8], versions: &'a [u8]) -> Self {
        Self::new(position, key, INLINE, versions)
    }

    /// Large versions; `body` is what [`chunked_body`] made of them.
    pub(super) fn chunked(
        position: Position,
        key: &'a [u8],
        body: &'a [u8; CHUNKED_BYTES],
    ) -> Self {
        Self::new(position, key, CHUNKED, body)
    }

    /// What an item of its own holds of a record.
    pub(super) fn of_item(record_key: &'a [u8], stored: &'a [u8]) -> Self {
        let (position, key) = (position_of_record(record_key), key_of_record(record_key));
        match format::decode(record_key, stored) {
            Ok(Record::Inline(versions)) => Self::inline(position, key, versions),
            // Its parts are in the same order there.
            Ok(Record::Chunked(_)) => {
                let body = &stored[stored.len() - CHUNKED_BYTES..];
                Self::new(position, key, CHUNKED, body)
            }
            Err(_) => Self::damaged(position, key),
        }
    }

    /// One whose versions are lost: it is as damaged here as it was before.
    pub(super) fn damaged(position: Position, key: &'a [u8]) -> Self {
        let mut raw = Self::new(position, key, INLINE, &[]);
        raw.checksum = !raw.checksum;
        raw
    }

    fn new(position: Position, key: &'a [u8], kind: u8, body: &'a [u8]) -> Self {
        let mut raw = Self {
            position,
            key,
            kind,
            body,
            checksum: 0,
        };
        raw.checksum = raw.computed();
        raw
    }

    fn computed(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.position.0.to_be_bytes());
        hasher.update(&[self.kind]);
        hasher.update(self.key);
        hasher.update(self.body);
        hasher.finalize()
    }

    /// Its versions, or where they are.
    pub(super) fn check(&self) -> Result<Record<'a>, Damage> {
        let (stored, computed) = (self.checksum, self.computed());
        if stored != computed {
            return Err(Damage::Checksum { stored, computed });
        }
        match (self.kind, self.body.len()) {
            (INLINE, _) => Ok(Record::Inline(self.body)),
            (CHUNKED, CHUNKED_BYTES) => {
                let mut body = self.body;
                Ok(Record::Chunked(ChunkedValue {
                    set: body.get_u64(),
                    length: body.get_u32(),
                    checksum: body.get_u32(),
                }))
            }
            (CHUNKED, found) => Err(Damage::Length {
                stated: CHUNKED_BYTES as u64,
                found: found as u64,
            }),
            (format, _) => Err(Damage::UnknownFormat { format }),
        }
    }

    /// Whether it says that its key is removed: nothing is encoded as nothing.
    pub(super) fn is_removal(&self) -> bool {
        self.kind == INLINE && self.body.is_empty()
    }

    /// The set of chunks that it names, if it is sound and does.
    pub(super) fn chunk_set(&self) -> Option<u64> {
        match (self.kind == CHUNKED).then(|| self.check()) {
            Some(Ok(Record::Chunked(value))) => Some(value.set),
            _ => None,
        }
    }

    /// In the order of records.
    pub(super) fn place(&self) -> (Position, &'a [u8]) {
        (self.position, self.key)
    }

    /// How many bytes its key and its body have.
    pub(super) fn lengths(&self) -> (usize, usize) {
        (self.key.len(), self.body.len())
    }

    /// How much it adds to a block, in bytes.
    pub(super) fn bytes(&self) -> usize {
        ENTRY_BYTES + self.key.len() + self.body.len()
    }
}

/// What a block has of a large value.
pub(super) fn chunked_body(value: &ChunkedValue) -> [u8; CHUNKED_BYTES] {
    let mut body = [0; CHUNKED_BYTES];
    body[..8].copy_from_slice(&value.set.to_be_bytes());
    body[8..12].copy_from_slice(&value.length.to_be_bytes());
    body[12..].copy_from_slice(&value.checksum.to_be_bytes());
    body
}

/// A block of which all but the bodies is sound.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Block<'a> {
    flags: u8,
    loss: Option<u32>,
    directory: &'a [u8],
    keys: &'a [u8],
    bodies: &'a [u8],
}

impl<'a> Block<'a> {
    /// Holds a block against its checksum and its place, and takes it apart.
    pub(super) fn decode(key: BlockKey, stored: &'a [u8]) -> Result<Self, Damage> {
        let Some(block) = Self::split(stored) else {
            return Err(Damage::TooShort {
                length: stored.len(),
            });
        };
        if stored[0] != FORMAT {
            return Err(Damage::UnknownFormat { format: stored[0] });
        }
        let stored_sum = (&stored[4..]).get_u32();
        let covered = &stored[HEADER_BYTES..stored.len() - block.bodies.len()];
        let computed = checksum(key, &stored[..4], covered);
        if stored_sum != computed {
            return Err(Damage::Checksum {
                stored: stored_sum,
                computed,
            });
        }
        block.check_places(key)?;
        Ok(block)
    }

    /// The same of one that was decoded before.
    pub(super) fn trusted(stored: &'a [u8]) -> Self {
        Self::split(stored).unwrap_or_default()
    }

    /// Takes a block apart; nothing where it is shorter than it says.
    fn split(stored: &'a [u8]) -> Option<Self> {
        let (mut header, mut rest) = stored.split_at_checked(HEADER_BYTES)?;
        let (_, flags, count) = (header.get_u8(), header.get_u8(), header.get_u16());
        let loss = match flags & LOST {
            0 => None,
            _ => Some(rest.try_get_u32().ok()?),
        };
        let (directory, rest) = rest.split_at_checked(usize::from(count) * ENTRY_BYTES)?;
        let entries = directory.chunks_exact(ENTRY_BYTES);
        let key_bytes = entries.map(|entry| lengths(entry).0).sum();
        let (keys, bodies) = rest.split_at_checked(key_bytes)?;
        Some(Self {
            flags,
            loss,
            directory,
            keys,
            bodies,
        })
    }

    /// Its records lie in its arc, in order, and are as long together as it says.
    fn check_places(&self, key: BlockKey) -> Result<(), Damage> {
        let arc = key.arc();
        let (mut bytes, mut before) = (0, arc.start);
        for mut entry in self.directory.chunks_exact(ENTRY_BYTES) {
            bytes += lengths(entry).1;
            let position = Position(entry.get_u64());
            if position < before || !arc.contains(position) {
                return Err(Damage::Misplaced);
            }
            before = position;
        }
        match bytes == self.bodies.len() {
            true => Ok(()),
            false => Err(Damage::Length {
                stated: bytes as u64,
                found: self.bodies.len() as u64,
            }),
        }
    }

    /// Which loss it has, if any: a key that is not in it may be lost.
    pub(super) fn loss(&self) -> Option<u32> {
        self.loss
    }

    /// Whether its records are items of their own.
    pub(super) fn is_spilled(&self) -> bool {
        self.flags & SPILLED != 0
    }

    /// The record of a key, damaged or not.
    pub(super) fn find(&self, position: Position, key: &[u8]) -> Option<Raw<'a>> {
        let wanted = position.0.to_be_bytes();
        let mut place = RecordPlace::default();
        for entry in self.directory.chunks_exact(ENTRY_BYTES) {
            let (key_bytes, body_bytes) = lengths(entry);
            if entry[..8] == wanted && &self.keys[place.key_at..][..key_bytes] == key {
                return self.record_at(place);
            }
            place.number += 1;
            place.key_at += key_bytes;
            place.body_at += body_bytes;
        }
        None
    }

    /// The record at a place; `None` behind the last.
    pub(super) fn record_at(&self, place: RecordPlace) -> Option<Raw<'a>> {
        let entries = self.directory.get(place.number * ENTRY_BYTES..)?;
        let (mut entry, _) = entries.split_at_checked(ENTRY_BYTES)?;
        let position = Position(entry.get_u64());
        let (key_bytes, body_bytes) = (entry.get_u16().into(), entry.get_u16().into());
        Some(Raw {
            position,
            key: &self.keys[place.key_at..][..key_bytes],
            kind: entry.get_u8(),
            body: &self.bodies[place.body_at..][..body_bytes],
            checksum: entry.get_u32(),
        })
    }

    /// All records, in order.
    pub(super) fn records(&self) -> Records<'a> {
        Records {
            block: *self,
            place: RecordPlace::default(),
        }
    }
}

/// Where a record lies in its block. The first one by default.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RecordPlace {
    number: usize,
    key_at: usize,
    body_at: usize,
}

impl RecordPlace {
    /// The place behind the record that lies here, whose key and body have so many bytes.
    pub(super) fn behind(self, (key_bytes, body_bytes): (usize, usize)) -> Self {
        Self {
            number: self.number + 1,
            key_at: self.key_at + key_bytes,
            body_at: self.body_at + body_bytes,
        }
    }
}

/// The records of a block, in order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Records<'a> {
    block: Block<'a>,
    place: RecordPlace,
}

impl<'a> Iterator for Records<'a> {
    type Item = Raw<'a>;

    fn next(&mut self) -> Option<Raw<'a>> {
        let raw = self.block.record_at(self.place)?;
        self.place = self.place.behind(raw.lengths());
        Some(raw)
    }
}

/// The lengths of the key and of the body of an entry of the directory.
fn lengths(entry: &[u8]) -> (usize, usize) {
    let mut lengths = &entry[8..12];
    (lengths.get_u16().into(), lengths.get_u16().into())
}

fn checksum(key: BlockKey, beginning: &[u8], covered: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&key.to_bytes());
    hasher.update(beginning);
    hasher.update(covered);
    hasher.finalize()
}

/// Puts records together to a block. Used again and again.
#[derive(Debug, Default)]
pub(super) struct Builder {
    directory: Vec<u8>,
    keys: Vec<u8>,
    bodies: Vec<u8>,
}

impl Builder {
    /// Takes all records out.
    pub(super) fn clear(&mut self) {
        self.directory.clear();
        self.keys.clear();
        self.bodies.clear();
    }

    /// Adds the next record, in order.
    pub(super) fn push(&mut self, raw: &Raw<'_>) {
        self.directory.put_u64(raw.position.0);
        // `check_lengths` has refused longer keys, and a body is as long as a value that is cut at most.
        self.directory.put_u16(raw.key.len() as u16);
        self.directory.put_u16(raw.body.len() as u16);
        self.directory.put_u8(raw.kind);
        self.directory.put_u32(raw.checksum);
        self.keys.extend_from_slice(raw.key);
        self.bodies.extend_from_slice(raw.body);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.directory.is_empty()
    }

    /// How many bytes the block has with what is in it now.
    pub(super) fn bytes(&self) -> usize {
        HEADER_BYTES + self.directory.len() + self.keys.len() + self.bodies.len()
    }

    /// What is in it.
    pub(super) fn records(&self) -> Records<'_> {
        Records {
            block: Block {
                flags: 0,
                loss: None,
                directory: &self.directory,
                keys: &self.keys,
                bodies: &self.bodies,
            },
            place: RecordPlace::default(),
        }
    }

    /// Puts the block into `out`, in place of what was there. It has less than 64 KiB.
    pub(super) fn finish(&self, key: BlockKey, loss: Option<u32>, out: &mut Vec<u8>) {
        out.clear();
        let flags = if loss.is_some() { LOST } else { 0 };
        out.extend_from_slice(&[FORMAT, flags]);
        out.put_u16((self.directory.len() / ENTRY_BYTES) as u16);
        out.put_u32(0);
        if let Some(loss) = loss {
            out.put_u32(loss);
        }
        out.extend_from_slice(&self.directory);
        out.extend_from_slice(&self.keys);
        put_checksum(key, out);
        out.extend_from_slice(&self.bodies);
    }
}

/// A block whose records are items of their own.
pub(super) fn spilled(key: BlockKey, loss: Option<u32>) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + 4);
    Builder::default().finish(key, loss, &mut out);
    out[1] |= SPILLED;
    put_checksum(key, &mut out);
    out
}

/// Fills the checksum of a block in that is there up to its bodies.
fn put_checksum(key: BlockKey, block: &mut [u8]) {
    let (header, covered) = block.split_at_mut(HEADER_BYTES);
    let sum = checksum(key, &header[..4], covered);
    header[4..].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> BlockKey {
        BlockKey::of(Position(0x1234_5678_9abc_def0), 3)
    }

    fn records() -> Vec<(Position, Vec<u8>, Vec<u8>)> {
        let start = key().arc().start.0;
        let record = |at: u64, key: &str, versions: &[u8]| {
            let position = Position(start + at);
            (position, key.as_bytes().to_vec(), versions.to_vec())
        };
        vec![
            record(0, "first", b"versions"),
            record(7, "second", b""),
            record(7, "third", b"more versions"),
        ]
    }

    fn block() -> Vec<u8> {
        let mut builder = Builder::default();
        for (position, key, versions) in &records() {
            builder.push(&Raw::inline(*position, key, versions));
        }
        let mut out = Vec::new();
        builder.finish(key(), None, &mut out);
        assert_eq!(out.len(), builder.bytes());
        out
    }

    #[test]
    fn arcs_are_those_of_the_ring() {
        for depth in [0, 1, 3, DEPTH_MAX] {
            for position in [0, 1, 0x1234_5678_9abc_def0, u64::MAX] {
                let key = BlockKey::of(Position(position), depth);
                assert!(key.contains(Position(position)));
                assert_eq!(BlockKey::from_bytes(&key.to_bytes()), Some(key));
                assert_eq!(BlockKey::of(key.arc().start, depth), key);
                match key.arc().end {
                    Some(end) => {
                        assert!(!key.contains(end) && BlockKey::of(end, depth) > key);
                        assert!(key.contains(Position(end.0 - 1)));
                    }
                    None => assert!(position == u64::MAX),
                }
            }
        }
        assert_eq!(BlockKey::from_bytes(&[0, 1, 0, 0, 0, 0, 1]), None);
        assert_eq!(BlockKey::from_bytes(&[0, 1, 25, 0, 0, 0, 1]), None);
        assert_eq!(BlockKey::from_bytes(&[0; 6]), None);
    }

    #[test]
    fn the_bytes_on_disk_never_change() {
        assert_eq!(key().to_bytes(), [0x12, 0x34, 3, 0, 0, 0, 2]);
        let start = key().arc().start.0.to_be_bytes();
        let stored = block();
        assert_eq!(stored[..4], [3, 0, 0, 3]);
        assert_eq!(stored[8..16], start);
        assert_eq!(stored[16..21], [0, 5, 0, 8, 0]);
        assert_eq!(stored[8 + 3 * 17..][..16], *b"firstsecondthird");
        assert_eq!(stored[8 + 3 * 17 + 16..], *b"versionsmore versions");
        let mut lost = Vec::new();
        Builder::default().finish(key(), Some(0x0102_0304), &mut lost);
        assert_eq!(lost[..4], [3, 1, 0, 0]);
        assert_eq!(lost[8..], [1, 2, 3, 4]);
    }

    #[test]
    fn what_was_put_in_is_found() {
        let stored = block();
        let block = Block::decode(key(), &stored).unwrap();
        assert!(block.loss().is_none() && !block.is_spilled());
        for (position, key, versions) in &records() {
            let found = block.find(*position, key).unwrap();
            assert_eq!(found.check(), Ok(Record::Inline(versions)));
        }
        assert_eq!(block.find(records()[1].0, b"fourth"), None);
        assert_eq!(
            block.find(Position(key().arc().start.0 + 1), b"first"),
            None
        );
        let all: Vec<_> = block.records().map(|raw| raw.key).collect();
        assert_eq!(all, [&b"first"[..], b"second", b"third"]);
        let value = ChunkedValue {
            set: 7,
            length: 9000,
            checksum: 1,
        };
        let body = chunked_body(&value);
        let raw = Raw::chunked(key().arc().start, b"k", &body);
        assert_eq!(raw.check(), Ok(Record::Chunked(value)));
        assert_eq!(raw.chunk_set(), Some(7));
        assert!(Raw::damaged(key().arc().start, b"k").check().is_err());
        let spilled = spilled(key(), Some(7));
        let block = Block::decode(key(), &spilled).unwrap();
        assert!(block.is_spilled() && block.loss() == Some(7));
        assert_eq!(block.records().count(), 0);
    }

    /// Whatever byte is wrong: each key is found as it was written, or damage is told of it, or of the block.
    #[test]
    fn a_flipped_bit_and_a_cut_make_nothing_wrong_and_nothing_absent() {
        let good = block();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let Ok(block) = Block::decode(key(), &bad) else {
                continue;
            };
            assert!(bit / 8 >= HEADER_BYTES + 3 * ENTRY_BYTES + 16, "bit {bit}");
            let mut damaged = 0;
            for (position, key, versions) in &records() {
                let found = block.find(*position, key);
                let found = found.unwrap_or_else(|| panic!("bit {bit}: {key:?} is absent"));
                match found.check() {
                    Ok(record) => assert_eq!(record, Record::Inline(versions)),
                    Err(_) => damaged += 1,
                }
            }
            assert_eq!(damaged, 1, "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(Block::decode(key(), &good[..length]).is_err(), "{length}");
        }
        let other = BlockKey { index: 3, ..key() };
        assert!(Block::decode(other, &good).is_err(), "another block");
    }
}

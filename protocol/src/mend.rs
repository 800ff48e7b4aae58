//! What nodes ask of each other to find out where their copies differ.
//!
//! A tree of three levels: 256 pages of 256 segments each. Two nodes compare the pages, then the
//! segments of those that differ, then the keys of the segments that differ (Merkle, 1987; DeCandia et
//! al., 2007, § 4.7). What differs is then read and merged as in any other repair.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::skip_tags;
use crate::codec::{DecodeError, Reader, Wire, put_bool, put_bytes, put_tag_bytes, put_varint};
use crate::export::key_of_tag;
use crate::hash::Segment;
use crate::ids::{NodeId, RingVersion};
use crate::limits::KEY_BYTES_MAX;

/// How many pages there are, and how many segments in each.
pub const PAGE_SEGMENTS: usize = 256;

/// The most keys in a [`Listed`] answer.
pub const LISTED_KEYS_MAX: usize = 4096;

const TAG_AFTER: u8 = 1;
/// Of [`Compared`].
const TAG_NOT_SHARED: u8 = 1;

/// Give the hashes of the segments that we both own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The ring the sender follows. The receiver must follow the same one.
    pub ring_version: RingVersion,
    /// Who asks: only what both own is compared.
    pub node_id: NodeId,
    /// The page whose segments are wanted; `None` for one hash of each page.
    pub page: Option<u8>,
}

/// The hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// 256 of them: of the pages, or of a page's segments; 0 for what is not owned by both. The hash of
    /// a page is the XOR of its segments'.
    pub hashes: Vec<u128>,
    /// One bit for each, the lowest of the first byte for the first: the sender has lost versions there
    /// and is no source.
    pub rebuilding: [u8; PAGE_SEGMENTS / 8],
    /// One bit for each, likewise: they do not both own it, and its hash says nothing of what the sender has. Older
    /// versions of dynakv do not say so.
    pub not_shared: [u8; PAGE_SEGMENTS / 8],
}

/// Give the keys of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The ring the sender follows.
    pub ring_version: RingVersion,
    /// The segment.
    pub segment: Segment,
    /// About how many bytes of keys and versions are wanted; capped by the node.
    pub bytes_max: u32,
    /// Whether the versions are wanted with the keys.
    pub with_versions: bool,
    /// Go on behind this key: [`Listed::next`] of the answer before. `None` begins.
    pub after_key: Option<Bytes>,
}

/// A part of a segment's keys, in ring order: by position, then by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The replica has lost versions of this segment: this is not all that it ever had.
    pub rebuilding: bool,
    /// The keys.
    pub keys: Vec<ListedKey>,
    /// Where to go on; `None` when this was the last part.
    pub next: Option<Bytes>,
}

/// One key of a [`Listed`] answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedKey {
    /// The key.
    pub key: Bytes,
    /// xxh3-64 (seed 0) of the encoded versions.
    pub hash: u64,
    /// Encoded [`Versions`](crate::causal::Versions), where they were asked for; else empty.
    pub versions: Bytes,
}

impl Compared {
    /// Whether the sender is rebuilding the segment with this number in its page.
    pub fn is_rebuilding(&self, number: usize) -> bool {
        is_set(&self.rebuilding, number)
    }

    /// Whether both own the segment with this number in its page, as far as the sender says. If not, a hash of 0 is no
    /// word of an owner that has nothing.
    pub fn is_shared(&self, number: usize) -> bool {
        !is_set(&self.not_shared, number)
    }
}

fn is_set(bits: &[u8; PAGE_SEGMENTS / 8], number: usize) -> bool {
    let byte = bits.get(number / 8);
    byte.is_some_and(|byte| byte & 1 << (number % 8) != 0)
}

fn bits_of(reader: &mut Reader<'_>) -> Result<[u8; PAGE_SEGMENTS / 8], DecodeError> {
    let mut bits = [0; PAGE_SEGMENTS / 8];
    for byte in &mut bits {
        *byte = reader.u8()?;
    }
    Ok(bits)
}

impl Wire for Compare {
    fn encode(&self, out: &mut BytesMut) {
        self.ring_version.encode(out);
        self.node_id.encode(out);
        put_bool(out, self.page.is_some());
        out.put_u8(self.page.unwrap_or_default());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (ring_version, node_id) = (RingVersion::decode(reader)?, NodeId::decode(reader)?);
        let (of_segments, page) = (reader.bool("of segments")?, reader.u8()?);
        skip_tags(reader)?;
        Ok(Self {
            ring_version,
            node_id,
            page: of_segments.then_some(page),
        })
    }
}

impl Wire for Compared {
    fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.hashes.len() as u64);
        for &hash in &self.hashes {
            out.put_u128(hash);
        }
        out.put_slice(&self.rebuilding);
        if self.not_shared.iter().any(|&byte| byte != 0) {
            put_tag_bytes(out, TAG_NOT_SHARED, &self.not_shared);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.count("hashes", PAGE_SEGMENTS)?;
        if count != PAGE_SEGMENTS {
            return Err(DecodeError::Invalid {
                what: "number of hashes",
            });
        }
        let mut hashes = Vec::with_capacity(count);
        for _ in 0..count {
            hashes.push(u128::from(reader.u64()?) << 64 | u128::from(reader.u64()?));
        }
        let mut compared = Self {
            hashes,
            rebuilding: bits_of(reader)?,
            not_shared: [0; PAGE_SEGMENTS / 8],
        };
        while let Some((tag, mut field)) = reader.tag()? {
            if tag == TAG_NOT_SHARED {
                compared.not_shared = bits_of(&mut field)?;
            }
        }
        Ok(compared)
    }
}

impl Wire for List {
    fn encode(&self, out: &mut BytesMut) {
        self.ring_version.encode(out);
        out.put_u16(self.segment.0);
        out.put_u32(self.bytes_max);
        put_bool(out, self.with_versions);
        if let Some(key) = &self.after_key {
            put_tag_bytes(out, TAG_AFTER, key);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = Self {
            ring_version: RingVersion::decode(reader)?,
            segment: Segment(reader.u16()?),
            bytes_max: reader.u32()?,
            with_versions: reader.bool("with versions")?,
            after_key: None,
        };
        while let Some((tag, mut field)) = reader.tag()? {
            if tag == TAG_AFTER {
                list.after_key = Some(key_of_tag(&mut field)?);
            }
        }
        Ok(list)
    }
}

impl Wire for Listed {
    fn encode(&self, out: &mut BytesMut) {
        put_bool(out, self.rebuilding);
        put_varint(out, self.keys.len() as u64);
        for listed in &self.keys {
            put_bytes(out, &listed.key);
            out.put_u64(listed.hash);
            put_bytes(out, &listed.versions);
        }
        if let Some(next) = &self.next {
            put_tag_bytes(out, TAG_AFTER, next);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut listed = Self {
            rebuilding: reader.bool("rebuilding")?,
            keys: Vec::new(),
            next: None,
        };
        for _ in 0..reader.count("keys", LISTED_KEYS_MAX)? {
            listed.keys.push(ListedKey {
                key: reader.bytes("key", KEY_BYTES_MAX)?,
                hash: reader.u64()?,
                versions: reader.bytes("versions", usize::MAX)?,
            });
        }
        while let Some((tag, mut field)) = reader.tag()? {
            if tag == TAG_AFTER {
                listed.next = Some(key_of_tag(&mut field)?);
            }
        }
        Ok(listed)
    }
}
